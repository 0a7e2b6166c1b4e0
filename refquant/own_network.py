"""A network and data of the reader's own: quantized by one or more recipes, evaluated, and written down."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refquant import report
from refquant.evaluation import Evaluation, channel_ranges, evaluate, top1
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import check_images, run_float64_tensors, run_float_tensors
from refquant.network.graph import Conv, Linear, Network
from refquant.network.quantized import QuantizedNetwork
from refquant.network.storage import quantized_to_bytes, read_arrays
from refquant.recipes import quantize_network

BATCH = 50
CALIBRATION = 50
Progress = Callable[[list[str]], Iterable[str]]


class Data(NamedTuple):
    """Calibration images, evaluation images, and the labels of the latter or None."""

    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None


def load_data(path: Path, input_shape: tuple[int, ...], calibration_images: int | None = None,
              images: int | None = None) -> Data:
    """Read ``inputs``, and if they are there ``labels`` and ``calibration_inputs``, from an .npz file.

    calibration_images: how many calibrate; by default all of ``calibration_inputs``, or without those the
    first 50 inputs. In the latter case only the inputs after them are evaluated. images: how many are
    evaluated at most. ValueError for a file that is not such.
    """
    for name, number in (("calibration images", calibration_images), ("images", images)):
        if number is not None and number < 1:
            raise ValueError(f"the number of {name} must be >= 1, got {number}")
    arrays = read_arrays(path)
    unknown = sorted(set(arrays) - {"inputs", "labels", "calibration_inputs"})
    if "inputs" not in arrays or unknown:
        raise ValueError(f"{path} must hold 'inputs', and may hold 'labels' and 'calibration_inputs', got "
                         f"{', '.join(sorted(arrays)) or 'nothing'}")
    inputs, labels = arrays["inputs"], arrays.get("labels")
    wanted = f"(N, {', '.join(map(str, input_shape))})"
    for name in ("inputs", "calibration_inputs"):
        if name in arrays and (arrays[name].dtype != np.float32 or arrays[name].shape[1:] != input_shape):
            raise ValueError(f"{name} must be float32 {wanted}, as the network reads them, got "
                             f"{arrays[name].dtype} {arrays[name].shape}")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != inputs.shape[:1]):
        raise ValueError(f"labels must hold {len(inputs)} integers, got {labels.dtype} {labels.shape}")
    if "calibration_inputs" in arrays:
        source, start = "calibration_inputs", 0
        count = len(arrays[source]) if calibration_images is None else calibration_images
    else:
        source, start = "inputs", CALIBRATION if calibration_images is None else calibration_images
        count = start
        if len(inputs) <= start:
            raise ValueError(f"inputs must hold more than the {start} images that calibrate, got {len(inputs)}")
    if len(arrays[source]) < count:
        raise ValueError(f"{source} must hold {count} images, got {len(arrays[source])}")
    stop = len(inputs) if images is None else start + images
    if stop > len(inputs):
        raise ValueError(f"inputs must hold {images} images to evaluate, got {len(inputs) - start}")
    return Data(check_images(arrays[source][:count], input_shape), check_images(inputs[start:stop], input_shape),
                None if labels is None else labels[start:stop])


def build_own(network: Network, data: Data, recipes: list[str], options: dict[str, Any], progress: Progress = list
              ) -> tuple[Network, dict[str, QuantizedNetwork]]:
    """The folded float network, which ends at the logits, and one quantized network per recipe.

    options: keyword arguments of ``quantize_network``. Everything bad about data and options is told here.
    """
    network = fold_batchnorm(network.without_softmax())
    shape = network.shapes[network.output]
    if len(shape) != 1:
        raise ValueError(f"the network's output must be one row of logits per image, got shape "
                         f"(N, {', '.join(map(str, shape))})")
    if data.labels is not None and not (0 <= data.labels.min() and data.labels.max() < shape[0]):
        raise ValueError(f"labels must be from 0 to {shape[0] - 1}, got {data.labels.min()}..{data.labels.max()}")
    return network, {recipe: quantize_network(network, data.calibration, recipe, **options)
                     for recipe in progress(recipes)}


def evaluate_own(network: Network, networks: dict[str, QuantizedNetwork], data: Data, progress: Progress = list
                 ) -> dict[str, Any]:
    """What ``report.json`` holds, for what ``build_own`` returned."""
    logits = np.concatenate([run_float64_tensors(network, data.images[start:start + BATCH], start)[network.output]
                             for start in range(0, len(data.images), BATCH)])
    float_top1 = None if data.labels is None else top1(logits, data.labels)
    entries = []
    for recipe in progress(list(networks)):
        start_time = time.perf_counter()
        result = evaluate(networks[recipe], data.images, data.labels, logits, network)
        entries.append(_entry(recipe, float_top1, len(data.images), result, time.perf_counter() - start_time))
    return entries[0] if len(entries) == 1 else {"recipes": entries}


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


def render_own(result: dict[str, Any], networks: dict[str, QuantizedNetwork], network: Network, data: Data
               ) -> dict[str, bytes]:
    """Every file's content by its path: per recipe ``network.npz`` and plots, in a folder each if several."""
    weights = {node.name: channel_ranges(node.weight) for node in network.nodes if isinstance(node, (Conv, Linear))}
    tensors = run_float_tensors(network, data.calibration)
    files: dict[str, bytes] = {}
    for entry in result.get("recipes", [result]):
        quantized = networks[entry["recipe"]]
        thresholds = {name: (tensors[name], encoding.dequantize([encoding.format.min, encoding.format.max]))
                      for name, encoding in quantized.encodings.items() if name in tensors}
        folder = f"{entry['recipe']}/" if "recipes" in result else ""
        files |= {f"{folder}network.npz": quantized_to_bytes(quantized),
                  f"{folder}sqnr.png": report.png(report.draw_layer_sqnr(entry)),
                  f"{folder}weights.png": report.png(report.draw_weight_ranges(weights)),
                  f"{folder}activations.png": report.png(report.draw_activations(thresholds)),
                  f"{folder}headroom.png": report.png(report.draw_headroom({**entry, "stages_of": entry["recipe"]}))}
    return {**files, "report.json": (json.dumps(result, indent=1) + "\n").encode()}
