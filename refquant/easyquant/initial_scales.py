"""What a search of one layer's scales starts from: its operands, checked, and initial pairs of scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.easyquant.candidate_cosines import QuantizedLayer
from refquant.integers.checks import finite, integer, is_integer, positive
from refquant.integers.formats import IntFormat
from refquant.scales.linear import max_scale
from refquant.scales.statistics import Extremes, Histogram
from refquant.scales.thresholds import kl, threshold_scale

# How each mode's source calibrates activations before it searches: a variant of KL, and its bins.
KL = {"paper": ("tensorrt", 2048), "demo": ("demo", 2001), "ncnn": ("ncnn", 2048)}
# ncnn's Winograd kernels take 6-bit weights, so that layers which may use them start there.
NCNN_WINOGRAD_CODE = 31

Pairs = list[tuple[np.ndarray, float]]


def check_layer(inputs: Any, weights: Any, bits: Any, unsigned: bool, bias: Any, relu: bool, geometry: Geometry
                ) -> QuantizedLayer:
    """The layer to be searched (see ``easyquant.search_layer`` for the arguments); ``inputs`` are looked at later."""
    w_format, x_format = _formats(bits, unsigned)
    batches = [inputs] if isinstance(inputs, (np.ndarray, tuple)) else inputs
    if not isinstance(batches, Iterable) or isinstance(batches, Iterator):
        raise ValueError(f"inputs must be an array or batches that can be walked through again, got {type(inputs)}")
    weight = _reals(weights, "weights", 4)
    if bias is not None:
        bias = _reals(bias, "bias", 1)
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias must have shape {weight.shape[:1]}, got {bias.shape}")
        _check_peak("bias must be moderate: its largest magnitude", float(np.abs(bias).max()))
    return QuantizedLayer(batches, weight, geometry, x_format, w_format, bias, bool(relu))


def initial_pairs(initial: Any, layer: QuantizedLayer, axis: int | None, mode: str) -> Pairs:
    """Pairs (S_w, S_a) to start from. Walks through the batches and refuses what does not fit the layer.

    initial: ``max``, ``kl`` or pairs. axis: 0 for one weight scale per output channel, None for one.
    """
    weight_scale = max_scale(layer.weight, layer.w_format, axis)
    named = isinstance(initial, str) and initial in ("max", "kl")
    pairs = [] if named else _given_pairs(initial, weight_scale.shape)
    extremes = _check_batches(layer)
    if not named:
        return pairs
    limit = extremes.magnitude if layer.x_format.signed else max(extremes.high, 0.0)
    if initial == "kl":
        limit = _kl_threshold(layer, extremes.magnitude, mode)
        winograd = layer.weight.shape[2:] == (3, 3) and layer.geometry._replace(padding=(0,) * 4) == Geometry()
        if mode == "ncnn" and winograd:
            weight_scale = weight_scale * (min(NCNN_WINOGRAD_CODE, layer.w_format.max) / layer.w_format.max)
    return [(weight_scale, threshold_scale(limit, layer.x_format))]


def _kl_threshold(layer: QuantizedLayer, limit: float, mode: str) -> float:
    """The inputs' threshold by the KL of the mode's source."""
    variant, bins = KL[mode]
    inputs = (batch[0] if isinstance(batch, tuple) else batch for batch in layer.batches)
    counted = (np.maximum(x, 0) if variant == "demo" else x for x in inputs)
    counts = reduce(Histogram.merge, (Histogram.of(x, limit, bins) for x in counted))
    return kl(counts, min(layer.x_format.max + 1, bins // 2), variant)


def check_grid(mode: str, alpha: Any, beta: Any, n: Any, rounds: Any, tolerance: Any) -> None:
    """ValueError for options that no search can follow."""
    if mode != "paper" and (alpha, beta, n) != (0.5, 2.0, 100):
        raise ValueError(f"alpha, beta and n must be left alone in mode {mode}, whose candidates are fixed, got "
                         f"{alpha}, {beta} and {n}")
    numbers = all(isinstance(value, (int, float, np.number)) for value in (alpha, beta))
    if not numbers or not 0 < alpha < beta < 1e6:
        raise ValueError(f"alpha and beta must be numbers with 0 < alpha < beta < 1e6, got {alpha!r} and {beta!r}")
    integer(n, "n", 2)
    integer(rounds, "rounds", 1)
    if not isinstance(tolerance, (int, float, np.number)) or not tolerance >= 0:
        raise ValueError(f"tolerance must be a number >= 0, got {tolerance!r}")


def _given_pairs(initial: Any, shape: tuple[int, ...]) -> Pairs:
    given = list(initial) if isinstance(initial, (list, tuple)) else []
    if not given or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in given):
        raise ValueError(f"initial must be max, kl, or pairs of a weight and an activation scale, got {initial!r}")
    pairs = []
    for pair in given:
        s_w, s_a = (positive(scale, "an initial scale").astype(np.float64) for scale in pair)
        if s_w.shape not in ((), shape) or s_a.shape != ():
            raise ValueError(f"initial scales must have shapes {shape} and (), got {s_w.shape} and {s_a.shape}")
        pairs.append((np.broadcast_to(s_w, shape).copy(), float(s_a)))
    return pairs


def _formats(bits: Any, unsigned: bool) -> tuple[IntFormat, IntFormat]:
    pair = bits if isinstance(bits, (tuple, list)) else (bits, bits)
    if len(pair) != 2 or not all(is_integer(b) and 2 <= b <= 16 for b in pair):
        raise ValueError(f"bits must be an integer from 2 to 16, or two for weights and activations, got {bits!r}")
    return IntFormat(pair[0], narrow=True), IntFormat(pair[1], signed=not unsigned, narrow=not unsigned)


def _reals(x: Any, name: str, dimensions: int) -> np.ndarray:
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64) or x.ndim != dimensions or not x.size:
        got = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise ValueError(f"{name} must hold float32 or float64 in {dimensions} dimensions and not be empty, "
                         f"got {got}")
    return finite(x, name).astype(np.float64)


def _check_peak(what: str, peak: float) -> None:
    """Refuse magnitudes whose squares, or sums of squares, float64 may not hold."""
    if not (peak == 0 or 1e-140 < peak < 1e140):
        raise ValueError(f"{what} must be 0 or from 1e-140 to 1e140, got {peak:.3g}")


def _check_batches(layer: QuantizedLayer) -> Extremes:
    """Refuse what does not fit the layer; returns the inputs' extremes."""
    extremes = None
    for batch in layer.batches:
        x, *outputs = batch if isinstance(batch, tuple) and len(batch) == 2 else (batch,)
        x = _reals(x, "inputs", 4)
        layer.geometry.check_shapes(x.shape, layer.weight.shape)
        plane = layer.geometry.output_size(x.shape[2], x.shape[3], layer.weight.shape[2:])
        wanted = (len(x), len(layer.weight), *plane)
        for o in outputs:
            if _reals(o, "outputs", 4).shape != wanted:
                raise ValueError(f"outputs must have shape {wanted}, got {o.shape}")
            _check_peak("outputs must be moderate: their largest magnitude", float(np.abs(o).max()))
        seen = Extremes.of(x)
        extremes = seen if extremes is None else extremes.merge(seen)
    if extremes is None:
        raise ValueError("inputs must hold at least one batch, got none")
    _check_peak("inputs must be moderate: their largest magnitude times the weights'",
                extremes.magnitude * float(np.abs(layer.weight).max()))
    return extremes
