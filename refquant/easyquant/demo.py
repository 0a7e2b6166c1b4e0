"""EasyQuant as its authors' published Python code computes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.easyquant.candidate_cosines import direct_table, search_activations_once
from refquant.easyquant.initial_scales import best_pair, initial_pairs
from refquant.easyquant.layer import HalfStep, ScaleSearch, check_layer, choose


def search_demo(inputs: Any, weights: Any, *, bits: Any, initial: Any = "max", bias: Any = None, relu: bool = False,
                unsigned: bool = False, keep_activation: bool = False, stride: Any = 1, padding: Any = 0,
                dilation: Any = 1, groups: int = 1) -> ScaleSearch:
    """Search one convolution's weight scales, per channel, then its activation scale, once each.

    Weights: S0, then the 98 inner points of linspace(1, S0, 100), all channels together, each for its own channel's
    cosine. Activations: S0, then the 198 inner points of linspace(0.8·S0, S0, 200), for the whole output's. Both
    compare after bias and ReLU, by the mean of the images' cosines, and the first maximum wins.
    Differs from their code: float64, not float32, and cosines within 1e-12 are equal.

    inputs: floats (N, C, H, W), or a list or other iterable of such batches, which is walked through several times;
        a batch may also be a tuple (inputs, float outputs (N, O, P, Q) without bias): the search then compares with
        these outputs.
    weights: floats (O, C/groups, R, S).
    bits: 2..16, or a pair for weights and activations. Codes are signed narrow.
    initial: ``max``; ``kl``, activations by the authors' own KL; or pairs (S_w, S_a), the best of which starts.
    bias, relu: (O,) and whether a ReLU follows.
    unsigned: activations are codes 0..2^b-1.
    keep_activation: search the weights alone.
    stride, padding, dilation, groups: of the convolution.
    The scale of an all-zero operand stays 1. ValueError for inputs that are empty, not finite or do not fit.

    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=(4, 3, 3, 3))
    >>> search_demo(x, w, bits=4).weight_scale.shape
    (4,)
    """
    layer = check_layer(inputs, weights, bits, unsigned, bias, relu, Geometry.of(stride, padding, dilation, groups))
    history: list[HalfStep] = []
    weight_scale, activation_scale = best_pair(layer, initial_pairs(initial, layer, 0, "demo"), "demo", history)
    candidates = np.concatenate([weight_scale[None], np.linspace(1, weight_scale, 100)[1:-1]])
    likeness = direct_table(layer, candidates, [activation_scale]).cosines().mean(axis=2)
    chosen = [choose(history, "weight", channel, candidates[:, channel], likeness[:, channel])
              for channel in range(len(weight_scale))]
    weight_scale = candidates[chosen, np.arange(len(chosen))]
    points = np.append(activation_scale, np.linspace(0.8 * activation_scale, activation_scale, 200)[1:-1])
    return search_activations_once(layer, weight_scale, points[:1 if keep_activation else None], history)
