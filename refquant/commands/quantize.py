"""A network and data of the reader's own: quantized by one or more recipes, evaluated, and written down."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Executor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from refquant import __version__
from refquant.commands import report
from refquant.commands.evaluation import Evaluation, evaluate, is_row
from refquant.commands.layers import described, json_text, without_infinities
from refquant.commands.page import html_report
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import check_images
from refquant.network.graph import Conv, Linear, Network
from refquant.network.proof import QuantizedNetwork
from refquant.network.storage import array_names, quantized_to_bytes, read_arrays
from refquant.recipes.calibration import observe, observe_extremes
from refquant.recipes.corrections import cross_layer_equalize, layer_pairs
from refquant.recipes.quantize import quantize_network
from refquant.recipes.settings import Settings, settings
from refquant.scales.linear import channel_reach
from refquant.scales.statistics import Histogram
from refquant.workers import Progress
from refquant.writers.onnx_qdq import to_qdq

CALIBRATION = 50
SIMULATED = 100
ARRAYS = ("inputs", "labels", "calibration_inputs")
FIGURE_BINS = 80


class Data(NamedTuple):
    """Calibration images, evaluation images, and the labels of the latter or None.

    source: where the calibration images are from. ignored: arrays of the file that nobody needs. first: the
    place of the first evaluation image among the file's inputs. simulated: how many evaluation images, from the
    first on, are also simulated; None for all.
    """

    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None
    source: str = "given"
    ignored: tuple[str, ...] = ()
    first: int = 0
    simulated: int | None = None


class Built(NamedTuple):
    """A quantized network, how it was asked for, and the seconds that its scales took."""

    settings: Settings
    quantized: QuantizedNetwork
    seconds: float


def load_data(path: Path, input_shape: tuple[int, ...], calibration_images: int | None = None,
              images: int | None = None, simulated: int | Literal["all"] | None = None) -> Data:
    """Read ``inputs``, and if they are there ``labels`` and ``calibration_inputs``, from an .npz file.

    calibration_images: how many calibrate; by default all of ``calibration_inputs``, or without those the
    first 50 inputs. In the latter case only the inputs after them are evaluated. images: how many are
    evaluated at most. simulated: how many of these are also simulated, or "all"; by default the first
    100. Other arrays are not opened. ValueError for a file that is not such.
    """
    for name, number in (("calibration images", calibration_images), ("images", images)):
        if number is not None and number < 1:
            raise ValueError(f"the number of {name} must be >= 1, got {number}")
    arrays = read_arrays(path, ARRAYS)
    held = array_names(path)
    if "inputs" not in arrays:
        raise ValueError(f"{path} must hold 'inputs', and may hold 'labels' and 'calibration_inputs', got "
                         f"{', '.join(sorted(held)) or 'nothing'}")
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
    evaluated = stop - start
    simulated = min(SIMULATED, evaluated) if simulated is None else evaluated if simulated == "all" else simulated
    if not 1 <= simulated <= evaluated:
        raise ValueError(f"the number of images to check must be from 1 to the {evaluated} that are evaluated, "
                         f"got {simulated}")
    return Data(check_images(arrays[source][:count], input_shape, f"{path}: {source}"),
                check_images(inputs[start:stop], input_shape, f"{path}: inputs"),
                None if labels is None else labels[start:stop], source if start == 0 else f"the first {start} inputs",
                tuple(sorted(set(held) - set(ARRAYS))), start, simulated)


def build_own(network: Network, data: Data, recipes: list[str], options: dict[str, Any],
              executor: Executor | None = None, progress: Progress | None = None, onnx: bool = False
              ) -> tuple[Network, dict[str, Built]]:
    """The folded float network, which ends before its softmax and may be equalized, and a quantized one per recipe.

    options: keyword arguments of ``quantize_network``. onnx: the results are to be exported. ValueError for all that
    is bad about data and options, before anything is computed.
    """
    network = fold_batchnorm(network.without_softmax())
    shape = network.shapes[network.output]
    if data.labels is not None:
        if not is_row(shape):
            raise ValueError(f"with labels the network's first output must be one row of logits per image, got shape "
                             f"(N, {', '.join(map(str, shape))})")
        count = math.prod(shape)
        if not (0 <= data.labels.min() and data.labels.max() < count):
            raise ValueError(f"labels must be from 0 to {count - 1}, got {data.labels.min()}..{data.labels.max()}")
    chosen = {recipe: settings(recipe, **options) for recipe in recipes}
    labels = [one.label for one in chosen.values()]
    if len({*labels}) < len(labels):
        raise ValueError(f"recipes must differ under the options given, got {', '.join(labels)}")
    for one in chosen.values() if onnx else ():
        if one.breakpoints != "none" or one.match_moments or max(one.weight_bits, one.activation_bits) > 8:
            raise ValueError("a network in QDQ form must have uniform codes of at most 8 bits and one sum per layer, "
                             f"got recipe {one.label}")
    if options.get("cross_layer_equalization"):  # here, because its tensors are compared with this network's
        network, options = cross_layer_equalize(network), {**options, "cross_layer_equalization": False}
    built = {}
    for recipe in recipes:
        start = time.perf_counter()
        quantized = quantize_network(network, data.calibration, recipe, **options, executor=executor,
                                     progress=_of_recipe(recipe, recipes, progress))
        built[recipe] = Built(chosen[recipe], quantized, time.perf_counter() - start)
    return network, built


def _of_recipe(recipe: str, recipes: Collection[str], progress: Progress | None) -> Progress | None:
    """Progress whose steps begin with the recipe's name, where there are several."""
    if progress is None or len(recipes) == 1:
        return progress
    return lambda step, what, fraction: progress(f"{recipe}: {step}", what, fraction)


def evaluate_own(network: Network, built: dict[str, Built], data: Data, executor: Executor | None = None,
                 progress: Progress | None = None) -> dict[str, Any]:
    """The content of ``report.json`` for the networks of ``build_own``; ``origin`` adds the model file."""
    made = {"refquant": __version__, "calibration": {"source": data.source, "images": len(data.calibration)}}
    entries = []
    for recipe in built:
        start = time.perf_counter()
        result = evaluate(built[recipe].quantized, data.images, data.labels, network, simulated_images=data.simulated,
                          first=data.first, executor=executor, progress=_of_recipe(recipe, built, progress))
        entries.append(_entry(built[recipe], len(data.images), result, time.perf_counter() - start, network))
    return {**made, **entries[0]} if len(entries) == 1 else {**made, "recipes": entries}


def origin(model: Path) -> dict[str, Any]:
    """For ``report.json``: the model file by its name and its sha256."""
    return {"model": {"file": model.name, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()}}


def _entry(built: Built, images: int, result: Evaluation, seconds: float, network: Network) -> dict[str, Any]:
    parts = asdict(result)
    layers, parts["outputs"] = parts.pop("layers"), [one._asdict() for one in result.outputs]
    parts["stages"] = [stage.entry() for stage in result.stages]
    parts["cross_layer_equalization"] = None
    if built.settings.cross_layer_equalization:
        pairs, left = layer_pairs(network)
        parts["cross_layer_equalization"] = {"pairs": len(pairs), "left": left}
    return without_infinities({
        **built.settings._asdict(), "label": built.settings.label, "images": images, **parts,
        "seconds": {"search": built.seconds, "evaluation": seconds},
        "layers": [{**layer, **_parts(built.quantized, layer["name"], result)} for layer in layers]})


def _parts(quantized: QuantizedNetwork, name: str, result: Evaluation) -> dict[str, Any]:
    """A layer's description, and its sums' observed and proven ranges: [least, greatest], None without sums."""
    layer = next(layer for layer in quantized.layers if layer.name == name)
    stages = [stage for stage in result.stages if stage.proven.layer == name]
    ends = {which: [min(one.min for one in ranges), max(one.max for one in ranges)] if ranges else None
            for which, ranges in (("seen", [stage.observed for stage in stages]),
                                  ("proven", [stage.proven for stage in stages]))}
    return {**described(quantized, layer), **ends}


def data_files(result: dict[str, Any], built: dict[str, Built], onnx: bool = False) -> dict[str, bytes]:
    """``report.json``, and per recipe ``network.npz``, in a folder each if several: the files' content by path.

    onnx: also ``network.onnx``, in QDQ form.
    """
    makers = {"npz": quantized_to_bytes, **({"onnx": to_qdq} if onnx else {})}
    files = {f"{_folder(result, entry)}network.{kind}": make(built[entry["recipe"]].quantized)
             for entry in result.get("recipes", [result]) for kind, make in makers.items()}
    return {"report.json": json_text(result), **files}


def figure_files(result: dict[str, Any], built: dict[str, Built], network: Network, data: Data,
                 executor: Executor | None = None, progress: Progress | None = None) -> Iterator[tuple[str, bytes]]:
    """Every plot's path and content, one after another; drawn once where recipes share it."""
    weights = {node.name: channel_reach(node.weight) for node in network.nodes if isinstance(node, (Conv, Linear))}
    weights_figure = report.png(report.draw_weight_ranges(weights)) if weights else None
    histograms = _histograms(network, data.calibration, executor, progress)
    drawn: dict[str, bytes] = {}
    all_ends = {}
    for entry in result.get("recipes", [result]):
        qparams = built[entry["recipe"]].quantized.qparams
        all_ends[entry["label"]] = {
            name: tuple(qparam.dequantize([qparam.format.min, qparam.format.max]).tolist())
            for name, qparam in qparams.items() if name in histograms}
    yield "report.html", html_report(result, weights, histograms, all_ends).encode()
    for entry in result.get("recipes", [result]):
        ends = all_ends[entry["label"]]
        folder = _folder(result, entry)
        yield f"{folder}sqnr.png", report.png(report.draw_layer_sqnr(entry))
        if weights_figure:
            yield f"{folder}weights.png", weights_figure
        if str(ends) not in drawn:
            drawn[str(ends)] = report.png(report.draw_activations({name: (*histograms[name], ends[name])
                                                                   for name in ends}))
        yield f"{folder}activations.png", drawn[str(ends)]
        if entry["stages"]:
            yield f"{folder}headroom.png", report.png(report.draw_headroom({**entry, "stages_of": entry["label"]}))


def _histograms(network: Network, images: np.ndarray, executor: Executor | None, progress: Progress | None
                ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of every tensor: counts, and the edges of their bins."""
    extremes = observe_extremes(network, images, executor, progress)
    limits = {name: (seen.low, seen.high) for name, seen in extremes.items()}
    counts = observe(partial(_above_the_least, limits), network, images, executor, progress, "figures")
    return {name: (counts[name].counts, np.linspace(low, high if low < high else low + (abs(low) or 1.0),
                                                    FIGURE_BINS + 1))
            for name, (low, high) in limits.items()}


def _above_the_least(limits: dict[str, tuple[float, float]], x: np.ndarray, name: str) -> Histogram:
    low, high = limits[name]
    return Histogram.of(x - low, high - low, FIGURE_BINS)


def _folder(result: dict[str, Any], entry: dict[str, Any]) -> str:
    return f"{entry['label']}/" if "recipes" in result else ""
