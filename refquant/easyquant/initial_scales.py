"""What a search of one layer's scales starts from: pairs of scales by max, by the source's KL, or given."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.easyquant.candidate_cosines import direct_table
from refquant.easyquant.layer import HalfStep, QuantizedLayer, check_batches, choose
from refquant.integers.checks import positive
from refquant.scales.linear import max_scale
from refquant.scales.statistics import Histogram
from refquant.scales.thresholds import kl, threshold_scale

# How each search's source calibrates activations: a variant of KL, and its bins.
KL = {"paper": ("tensorrt", 2048), "demo": ("demo", 2001), "ncnn": ("ncnn", 2048)}
# ncnn's Winograd kernels take 6-bit weights, so that layers which may use them start there.
NCNN_WINOGRAD_CODE = 31

Pairs = list[tuple[np.ndarray, float]]


def initial_pairs(initial: Any, layer: QuantizedLayer, axis: int | None, mode: str) -> Pairs:
    """Pairs (S_w, S_a) to start from. Walks through the batches and refuses what does not fit the layer.

    initial: ``max``, ``kl`` or pairs. axis: 0 for one weight scale per output channel, None for one.
    """
    weight_scale = max_scale(layer.weight, layer.w_format, axis)
    named = isinstance(initial, str) and initial in ("max", "kl")
    pairs = [] if named else _given_pairs(initial, weight_scale.shape, len(layer.weight))
    extremes = check_batches(layer)
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
    """The inputs' threshold by the KL of the search's source."""
    variant, bins = KL[mode]
    inputs = (batch[0] if isinstance(batch, tuple) else batch for batch in layer.batches)
    counted = (np.maximum(x, 0) if variant == "demo" else x for x in inputs)
    counts = reduce(Histogram.merge, (Histogram.of(x, limit, bins) for x in counted))
    return kl(counts, min(layer.x_format.max + 1, bins // 2), variant)


def _given_pairs(initial: Any, shape: tuple[int, ...], channels: int) -> Pairs:
    given = list(initial) if isinstance(initial, (list, tuple)) else []
    if not given or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in given):
        raise ValueError(f"initial must be max, kl, or pairs of a weight and an activation scale, got {initial!r}")
    pairs = []
    for pair in given:
        s_w, s_a = (positive(scale, "an initial scale").astype(np.float64) for scale in pair)
        if s_w.shape not in ((), (channels,)) or s_a.shape != ():
            raise ValueError(f"initial scales must have shapes ({channels},) and (), got {s_w.shape} and {s_a.shape}")
        pairs.append((np.broadcast_to(s_w, np.broadcast_shapes(s_w.shape, shape)).copy(), float(s_a)))
    return pairs


def best_pair(layer: QuantizedLayer, pairs: list[tuple[np.ndarray, float]], mode: str, history: list[HalfStep]
               ) -> tuple[np.ndarray, float]:
    if len(pairs) == 1:
        return pairs[0]
    tables = [direct_table(layer, [weight_scale], [activation_scale], pooled=mode == "paper")
              for weight_scale, activation_scale in pairs]
    seen = np.asarray(tables[0].target.any(axis=0) | (mode != "ncnn"))
    likeness = np.array([table.of_images(seen).over_channels().cosines().mean() if seen.any() else 1.0
                         for table in tables])
    return pairs[choose(history, "start", None, np.arange(len(pairs)), likeness)]
