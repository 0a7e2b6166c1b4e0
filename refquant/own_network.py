"""A network and data of the reader's own: quantized by one or more recipes, evaluated, and written down."""

from __future__ import annotations

import json
import math
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refquant import report
from refquant.evaluation import Evaluation, channel_ranges, evaluate, top1
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import check_images, run_float, run_float_tensors
from refquant.network.graph import Conv, Linear, Network
from refquant.network.quantized import QuantizedNetwork
from refquant.network.storage import quantized_to_bytes
from refquant.recipes import quantize_network

BATCH = 50
Progress = Callable[[list[str]], Iterable[str]]


class Data(NamedTuple):
    """Calibration images, evaluation images, and the labels of the latter or None."""

    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None


def load_data(path: Path, input_shape: tuple[int, ...], calibration_images: int = 50, images: int | None = None
              ) -> Data:
    """Read ``inputs``, and if they are there ``labels`` and ``calibration_inputs``, from an .npz file.

    Without ``calibration_inputs`` the first inputs calibrate and the rest are evaluated. calibration_images:
    how many calibrate; images: how many are evaluated at most. ValueError for a file that is not such.
    """
    for name, number in (("calibration images", calibration_images), ("images", 1 if images is None else images)):
        if number < 1:
            raise ValueError(f"the number of {name} must be >= 1, got {number}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise ValueError(f"{path} must be a readable .npz file, got: {error.strerror or 'other content'}") from None
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
        raise ValueError(f"{path} must be an .npz file of plain arrays, got other content") from None
    if "inputs" not in arrays:
        raise ValueError(f"{path} must hold an array 'inputs', got {', '.join(sorted(arrays)) or 'none'}")
    inputs, labels = arrays["inputs"], arrays.get("labels")
    wanted = f"(N, {', '.join(map(str, input_shape))})"
    for name in ("inputs", "calibration_inputs"):
        if name in arrays and (arrays[name].dtype != np.float32 or arrays[name].shape[1:] != input_shape):
            raise ValueError(f"{name} must be float32 {wanted}, as the network reads them, got "
                             f"{arrays[name].dtype} {arrays[name].shape}")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != inputs.shape[:1]):
        raise ValueError(f"labels must hold {len(inputs)} integers, got {labels.dtype} {labels.shape}")
    calibration, start = arrays.get("calibration_inputs", inputs), 0
    if "calibration_inputs" not in arrays:
        start = calibration_images
        if len(inputs) <= start:
            raise ValueError(f"inputs must hold more than the {start} images that calibrate, got {len(inputs)}")
    if len(calibration) < calibration_images:
        raise ValueError(f"calibration_inputs must hold {calibration_images} images, got {len(calibration)}")
    stop = len(inputs) if images is None else start + images
    if stop > len(inputs):
        raise ValueError(f"inputs must hold {images} images to evaluate, got {len(inputs) - start}")
    chosen = Data(check_images(calibration[:calibration_images], input_shape),
                  check_images(inputs[start:stop], input_shape), None if labels is None else labels[start:stop])
    return chosen


def quantize_own(network: Network, data: Data, recipes: list[str], options: dict[str, Any], progress: Progress = list
                 ) -> tuple[dict[str, Any], dict[str, QuantizedNetwork]]:
    """Quantize by each recipe and evaluate. Returns what ``report.json`` holds, and the networks by recipe.

    options: keyword arguments of ``quantize_network``. A final Softmax stays with the caller: everything
    here speaks of the logits before it.
    """
    network = fold_batchnorm(network.without_softmax())
    if len(network.shapes[network.output]) != 1:
        raise ValueError(f"the network's output must be one row of logits per image, got shape "
                         f"(N, {', '.join(map(str, network.shapes[network.output]))})")
    logits = np.concatenate([run_float(network, data.images[start:start + BATCH])
                             for start in range(0, len(data.images), BATCH)])
    float_top1 = None if data.labels is None else top1(logits, data.labels)
    # All recipes are built before any is evaluated: a bad option is told at once.
    quantized, entries = {}, []
    for recipe in recipes:
        quantized[recipe] = quantize_network(network, data.calibration, recipe, **options)
    for recipe in progress(recipes):
        start_time = time.perf_counter()
        result = evaluate(quantized[recipe], data.images, data.labels, logits, network)
        entries.append(_entry(recipe, float_top1, len(data.images), result, time.perf_counter() - start_time))
    return (entries[0] if len(entries) == 1 else {"recipes": entries}), quantized


def _entry(recipe: str, float_top1: float | None, images: int, result: Evaluation, seconds: float) -> dict[str, Any]:
    parts = asdict(result)
    stages, layers = parts.pop("stages"), parts.pop("layers")
    for stage, source in zip(stages, result.stages):
        stage |= {"format": str(source.format), "headroom_bits": source.headroom_bits}
    return _finite({"recipe": recipe, "images": images, "float_top1": float_top1, **parts,
                    "codes_equal_images": images, "seconds": seconds, "layers": layers, "stages": stages})


def _finite(value: Any) -> Any:
    """JSON has no infinity: an infinite SQNR (no error at all) becomes null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_own(result: dict[str, Any], networks: dict[str, QuantizedNetwork], network: Network, data: Data,
              directory: Path) -> list[Path]:
    """Write ``report.json``, and per recipe ``network.npz`` and the plots (in a folder each if several)."""
    network = fold_batchnorm(network.without_softmax())
    weights = {node.name: channel_ranges(node.weight) for node in network.nodes if isinstance(node, (Conv, Linear))}
    tensors = run_float_tensors(network, data.calibration)
    written = []
    for entry in result.get("recipes", [result]):
        quantized = networks[entry["recipe"]]
        target = report.prepare_directory(directory / entry["recipe"] if "recipes" in result else directory)
        thresholds = {name: (tensors[name], encoding.dequantize([encoding.format.min, encoding.format.max]))
                      for name, encoding in quantized.encodings.items() if name in tensors}
        files = {"network.npz": quantized_to_bytes(quantized),
                 "sqnr.png": report.png(report.draw_layer_sqnr(entry)),
                 "weights.png": report.png(report.draw_weight_ranges(weights)),
                 "activations.png": report.png(report.draw_activations(thresholds)),
                 "headroom.png": report.png(report.draw_headroom({**entry, "stages_of": entry["recipe"]}))}
        for name, content in files.items():
            report.write_atomically(target / name, content)
        written += [target / name for name in files]
    report.write_atomically(directory / "report.json", (json.dumps(result, indent=1) + "\n").encode())
    return [directory / "report.json", *written]
