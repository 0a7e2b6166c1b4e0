"""EasyQuant as ncnn's quantization tool computes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.easyquant.candidate_cosines import direct_table, move_channels, search_activations_once
from refquant.easyquant.initial_scales import best_pair, initial_pairs
from refquant.easyquant.layer import HalfStep, ScaleSearch, check_layer


def search_ncnn(inputs: Any, weights: Any, *, bits: Any, initial: Any = "max", bias: Any = None, relu: bool = False,
                unsigned: bool = False, keep_activation: bool = False, stride: Any = 1, padding: Any = 0,
                dilation: Any = 1, groups: int = 1) -> ScaleSearch:
    """Search one convolution's weight scales, channel after channel, then its activation scale, once each.

    100 candidates over [0.5, 2)·S0, of the weights and of the activations. The sum of the images' cosines of the
    whole output, after bias and ReLU, decides, and the first maximum wins. An image whose float output is all zero
    is left out; in ncnn itself its cosine is 0/0, so that no candidate wins and every scale stays.
    Differs from ncnn: float64, not float32, and cosines within 1e-12 are equal.

    inputs: floats (N, C, H, W), or a list or other iterable of such batches, which is walked through several times;
        a batch may also be a tuple (inputs, float outputs (N, O, P, Q) without bias): the search then compares with
        these outputs.
    weights: floats (O, C/groups, R, S).
    bits: 2..16, or a pair for weights and activations. Codes are signed narrow.
    initial: ``max``; ``kl``, as ncnn starts: activations by its KL, weights by max, or at 31/max|w| where the layer
        is a dense 3x3 convolution of stride and dilation 1; or pairs (S_w, S_a), the best of which starts.
    bias, relu: (O,) and whether a ReLU follows.
    unsigned: activations are codes 0..2^b-1.
    keep_activation: search the weights alone.
    stride, padding, dilation, groups: of the convolution.
    The scale of an all-zero operand starts at 1, and ends at 0.5, the first candidate, where a bias keeps the float
    output from being zero. ValueError for inputs that are empty, not finite or do not fit.

    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=(4, 3, 3, 3))
    >>> search_ncnn(x, w, bits=4).weight_scale.shape
    (4,)
    """
    layer = check_layer(inputs, weights, bits, unsigned, bias, relu, Geometry.of(stride, padding, dilation, groups))
    history: list[HalfStep] = []
    weight_scale, activation_scale = best_pair(layer, initial_pairs(initial, layer, 0, "ncnn"), "ncnn", history)
    grid = np.linspace(0.5, 2.0, 100, endpoint=False)
    # The current scales first: row 0 is where channels stand that were not yet moved.
    candidates = np.concatenate([weight_scale[None], np.multiply.outer(grid, weight_scale)])
    table = direct_table(layer, candidates, [activation_scale])
    seen = np.asarray(table.target.any(axis=0))  # the images whose float output is not all zero
    if not seen.any():
        return ScaleSearch(weight_scale, activation_scale, 1.0, tuple(history))
    weight_scale = move_channels(table.of_images(seen), candidates, history, first=1)
    points = np.array([1.0]) if keep_activation else grid
    return search_activations_once(layer, weight_scale, points * activation_scale, history, seen)
