"""EasyQuant as its paper states it: weight and activation scale by turns, for the cosine of the layer's output.

EasyQuant (Wu et al. 2020, arXiv 2006.16669) maximises cos(O, Ô), Ô = conv(Q(A, S_a), Q(W, S_w)) / (S_a·S_w). Its
authors' Python code (``demo``) and the port in ncnn (``ncnn``) are other algorithms.

The cosine does not see a gain: cos(O, 2·O) = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.easyquant.candidate_cosines import direct_table, move_channels
from refquant.easyquant.initial_scales import best_pair, initial_pairs
from refquant.easyquant.layer import HalfStep, ScaleSearch, check_layer, choose
from refquant.easyquant.remembered import RememberedTables
from refquant.integers.checks import integer, one_of


def search_paper(inputs: Any, weights: Any, *, bits: Any, granularity: str = "layer", initial: Any = "max",
                 unsigned: bool = False, alpha: float = 0.5, beta: float = 2.0, n: int = 100, rounds: int = 10,
                 tolerance: float = 1e-6, widen: bool = False, keep_activation: bool = False, direct: bool = False,
                 executor: Executor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
                 groups: int = 1) -> ScaleSearch:
    """Search both scales of one convolution: the paper's alternating optimization (section 3, Eq. 4 to 6).

    n candidates are spread over [α, β] times the initial scale, the current one listed first; weights are searched,
    then activations, until a round gains less than ``tolerance``, at most ``rounds`` times. It moves only for a
    gain above 1e-12, so the cosine, of all outputs of all images without bias, never falls. Per channel, one
    channel after another is moved, still for the layer's cosine.

    inputs: floats (N, C, H, W), or a list or other iterable of such batches, which is walked through several times;
        a batch may also be a tuple (inputs, float outputs (N, O, P, Q) without bias): the search then compares with
        these outputs.
    weights: floats (O, C/groups, R, S).
    bits: 2..16, or a pair for weights and activations. Codes are signed narrow.
    granularity: ``layer``, one weight scale; or ``channel``, one per output channel.
    initial: ``max``; ``kl``, activations by TensorRT's KL; or pairs (S_w, S_a), the best of which starts. With
        granularity ``layer`` an S_w of shape (O,) keeps its ratios: one factor moves them all.
    unsigned: activations are codes 0..2^b-1.
    keep_activation: search the weights alone.
    alpha, beta, n, rounds, tolerance: of the search above.
    widen: ours, not the paper's: while the best candidate is at an end of [α, β], among the outermost n/20, the
        range is doubled or halved there by n more.
    direct: convolve for every candidate of every round: slower than Gram matrices and remembered sums (``gram``,
        ``remembered``).
    executor: where candidates are evaluated; the scales are the same.
    stride, padding, dilation, groups: of the convolution.
    The scale of an all-zero operand starts at 1 and stays there. ValueError for inputs that are empty, not finite or
    do not fit.

    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=(4, 3, 3, 3))
    >>> found = search_paper(x, w, bits=4)
    >>> bool(found.history[0].cosines[0] < found.cosine < 1)
    True
    """
    one_of(granularity, ("layer", "channel"), "granularity")
    _check_grid(alpha, beta, n, rounds, tolerance)
    layer = check_layer(inputs, weights, bits, unsigned, None, False, Geometry.of(stride, padding, dilation, groups))
    layer = replace(layer, executor=executor)
    pairs = initial_pairs(initial, layer, 0 if granularity == "channel" else None, "paper")
    history: list[HalfStep] = []
    remembered = RememberedTables(layer)
    weight_scale, activation_scale = weight_start, activation_start = best_pair(layer, pairs, "paper", history)

    def search_weights(grid: np.ndarray) -> np.ndarray:
        candidates = np.concatenate([weight_scale[None], np.multiply.outer(grid, weight_start)])
        table = (direct_table(layer, candidates, [activation_scale], pooled=True) if direct
                 else remembered.of_weights(candidates, activation_scale))
        if granularity == "channel":
            return move_channels(table, candidates, history, first=0)
        likeness = table.over_channels().cosines()[:, 0, 0]
        return np.asarray(candidates[choose(history, "weight", None, candidates, likeness)])

    def search_activation(grid: np.ndarray) -> np.ndarray:
        candidates = np.concatenate([[activation_scale], grid[:0 if keep_activation else None] * activation_start])
        table = (direct_table(layer, [weight_scale], candidates, pooled=True) if direct
                 else remembered.of_activations(weight_scale, candidates))
        likeness = table.over_channels().cosines()[:, 0, 0]
        return np.asarray(candidates[choose(history, "activation", None, candidates, likeness)])

    grid = w_grid = a_grid = np.linspace(alpha, beta, n)
    for _ in range(rounds):
        begin = len(history)
        weight_scale, w_grid = _widened(search_weights, weight_start, w_grid, len(grid), widen, history)
        found, a_grid = _widened(search_activation, np.asarray(activation_start), a_grid, len(grid),
                                 widen and not keep_activation, history)
        activation_scale, cosine = float(found), float(history[-1].cosines[history[-1].chosen])
        if cosine - history[begin].cosines[0] < tolerance:
            break
    return ScaleSearch(np.asarray(weight_scale), activation_scale, cosine, tuple(history))


def _check_grid(alpha: Any, beta: Any, n: Any, rounds: Any, tolerance: Any) -> None:
    numbers = all(isinstance(value, (int, float, np.number)) for value in (alpha, beta))
    if not numbers or not 0 < alpha < beta < 1e6:
        raise ValueError(f"alpha and beta must be numbers with 0 < alpha < beta < 1e6, got {alpha!r} and {beta!r}")
    integer(n, "n", 2)
    integer(rounds, "rounds", 1)
    if not isinstance(tolerance, (int, float, np.number)) or not tolerance >= 0:
        raise ValueError(f"tolerance must be a number >= 0, got {tolerance!r}")


def _widened(search: Callable[[np.ndarray], np.ndarray], start: np.ndarray, grid: np.ndarray, n: int, widen: bool,
             history: list[HalfStep]) -> tuple[np.ndarray, np.ndarray]:
    """What ``search`` finds, and its grid: with ``widen`` one at whose ends no scale is the best.

    The outermost n/20 candidates are an end. There a factor of 2 is added, at most 8 times at each end. Only the
    last search stays in the history.
    """
    begin, margin = len(history), max(1, n // 20)
    least, most = grid[0] / 2**8, grid[-1] * 2**8
    while True:
        found = search(grid)
        if not widen:
            return found, grid
        below, above = (found <= grid[margin - 1] * start).any(), (found >= grid[-margin] * start).any()
        wider = grid
        if below and grid[0] > least:
            wider = np.concatenate([np.linspace(grid[0] / 2, grid[0], n, endpoint=False), wider])
        if above and grid[-1] < most:
            wider = np.concatenate([wider, np.linspace(2 * grid[-1], grid[-1], n, endpoint=False)[::-1]])
        if len(wider) == len(grid):
            return found, grid
        grid = wider
        del history[begin:]
