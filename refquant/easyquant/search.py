"""EasyQuant: search the scales of one layer so that its quantized output points where the float one does.

EasyQuant (Wu et al. 2020, arXiv 2006.16669) maximises cos(O, Ô), Ô = conv(Q(A, S_a), Q(W, S_w)) / (S_a·S_w),
by turns over the weights' scale and the activations'. Three different algorithms carry the name: the paper's
text, its authors' Python code, and the port in ncnn; each is a mode here.

The cosine does not see a gain: cos(O, 2·O) = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.easyquant.candidate_cosines import QuantizedLayer, Table, cosines, direct_table, weight_table
from refquant.easyquant.initial_scales import check_grid, check_layer, initial_pairs
from refquant.integers.checks import one_of
from refquant.integers.formats import frozen_copy

MODES = ("paper", "demo", "ncnn")
# Cosines as near as this are equal, and the first of them wins: noise must not choose.
EQUAL = 1e-12


class HalfStep(NamedTuple):
    """One operand's search: every candidate scale, its cosine, and which was chosen.

    operand: ``weight``, ``activation``, or ``start`` for the choice among initial pairs, whose candidates
    are their numbers. channel: the output channel searched, or None where the scale is the layer's. An activation
    scale that is kept has one candidate. Both arrays are read-only.
    """

    operand: str
    channel: int | None
    candidates: np.ndarray
    cosines: np.ndarray
    chosen: int


class ScaleSearch(NamedTuple):
    """weight_scale: float64, () or (O,).

    cosine: what the two scales reach: of all outputs as one (``paper``), or the mean of the images' (the others).
    """

    weight_scale: np.ndarray
    activation_scale: float
    cosine: float
    history: tuple[HalfStep, ...]


def search_layer(inputs: Any, weights: Any, *, bits: Any, mode: str = "paper", granularity: str | None = None,
                 initial: Any = "max", bias: Any = None, relu: bool = False, unsigned: bool = False,
                 alpha: float = 0.5, beta: float = 2.0, n: int = 100, rounds: int = 10, tolerance: float = 1e-6,
                 widen: bool = False, keep_activation: bool = False, direct: bool = False, stride: Any = 1,
                 padding: Any = 0, dilation: Any = 1, groups: int = 1) -> ScaleSearch:
    """Search the weight and activation scales of one convolution.

    ``paper``: n candidates spread over [α, β] times the initial scale, the current one listed first, weights
    then activations, until a round gains less than ``tolerance``, at most ``rounds`` times. It moves only for a
    gain above 1e-12, so the cosine, of all outputs of all images without bias, never falls. Per channel, one
    channel after another is moved, still for the layer's cosine. ``widen``, ours, not the paper's: while the best
    candidate is at an end of [α, β], among the outermost n/20, the range is doubled or halved there by n more.
    ``demo``: weights per channel, all swept together for their own channel's cosine: S0, then the 98 inner points
    of linspace(1, S0, 100); activations S0, then those of linspace(0.8·S0, S0, 200). Mean of the images' cosines.
    ``ncnn``: weights per channel, one after another; 100 candidates over [0.5, 2)·S0, those of the activations
    likewise; the sum of the images' cosines of the whole output decides. An image whose float output is all zero
    is left out; in ncnn itself its cosine is 0/0, so that no candidate wins and every scale stays.
    Both take one round, compare after bias and ReLU, and let the first maximum win. Differs from their code:
    float64, not float32, and cosines within 1e-12 are equal.

    inputs: floats (N, C, H, W), or a list or other iterable of such batches, which is walked through several times;
    in place of a batch may stand a tuple of inputs and the float outputs (N, O, P, Q) to resemble, without bias.
    weights: floats (O, C/groups, R, S). bits: 2..16, or a pair for weights and activations; codes are signed
    narrow, or with ``unsigned`` those of the activations 0..2^b-1. granularity: ``layer`` or ``channel``; by
    default the mode's.
    initial: ``max``; ``kl``, as the modes' sources start: activations by TensorRT's KL, by the KL of the authors'
    code, or by ncnn's (``ranges.kl``); weights by max, in ncnn at 31/max|w| where the layer is a dense 3x3
    convolution of stride and dilation 1; or pairs (S_w, S_a), the best of which starts. bias: (O,); it and
    ``relu`` matter to demo and ncnn alone; rounds, tolerance, widen and direct to paper.
    keep_activation: search the weights alone. direct: evaluate weight candidates by convolving; slow, the judge.
    The scale of an all-zero operand starts at 1 and stays there, but ends at 0.5, ncnn's first candidate, where a
    bias keeps the float output from being zero.
    ValueError for inputs that are empty, not finite or do not fit, and options that no mode knows.

    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=(4, 3, 3, 3))
    >>> found = search_layer(x, w, bits=4)
    >>> bool(found.history[0].cosines[0] < found.cosine < 1)
    True
    """
    one_of(mode, MODES, "mode")
    if granularity is None:
        granularity = "layer" if mode == "paper" else "channel"
    if granularity not in ("layer", "channel") or (mode != "paper" and granularity == "layer"):
        wanted = "layer or channel" if mode == "paper" else "channel"
        raise ValueError(f"granularity must be {wanted} in mode {mode}, got {granularity!r}")
    check_grid(mode, alpha, beta, n, rounds, tolerance)
    layer = check_layer(inputs, weights, bits, unsigned, bias, relu, Geometry.of(stride, padding, dilation, groups))
    if mode == "paper":
        layer = replace(layer, bias=None, relu=False)  # the paper compares outputs of the convolution itself
    pairs = initial_pairs(initial, layer, 0 if granularity == "channel" else None, mode)
    history: list[HalfStep] = []
    start = _best_pair(layer, pairs, mode, history)
    if mode == "paper":
        return _paper(layer, *start, np.linspace(alpha, beta, n), rounds, tolerance, widen, keep_activation, direct,
                      history)
    return (_demo if mode == "demo" else _ncnn)(layer, *start, keep_activation, history)


def _paper(layer: QuantizedLayer, weight_scale: np.ndarray, activation_scale: float, grid: np.ndarray, rounds: int,
           tolerance: float, widen: bool, keep_activation: bool, direct: bool, history: list[HalfStep]
           ) -> ScaleSearch:
    weight_start, activation_start = weight_scale, activation_scale

    def search_weights(grid: np.ndarray) -> np.ndarray:
        candidates = np.concatenate([weight_scale[None], np.multiply.outer(grid, weight_start)])
        table = (direct_table(layer, candidates, [activation_scale], pooled=True) if direct
                 else weight_table(layer, candidates, activation_scale))
        if weight_scale.ndim:
            return _channel_by_channel(table, candidates, history, first=0)
        likeness = table.over_channels().cosines()[:, 0, 0]
        return np.asarray(candidates[_record(history, "weight", None, candidates, likeness)])

    def search_activation(grid: np.ndarray) -> np.ndarray:
        candidates = np.concatenate([[activation_scale], grid[:0 if keep_activation else None] * activation_start])
        likeness = direct_table(layer, [weight_scale], candidates, pooled=True).over_channels().cosines()[:, 0, 0]
        return np.asarray(candidates[_record(history, "activation", None, candidates, likeness)])

    w_grid = a_grid = grid
    for _ in range(rounds):
        begin = len(history)
        weight_scale, w_grid = _widened(search_weights, weight_start, w_grid, len(grid), widen, history)
        found, a_grid = _widened(search_activation, np.asarray(activation_start), a_grid, len(grid),
                                 widen and not keep_activation, history)
        activation_scale, cosine = float(found), float(history[-1].cosines[history[-1].chosen])
        if cosine - history[begin].cosines[0] < tolerance:
            break
    return ScaleSearch(np.asarray(weight_scale), activation_scale, cosine, tuple(history))


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


def _demo(layer: QuantizedLayer, weight_scale: np.ndarray, activation_scale: float, keep_activation: bool,
          history: list[HalfStep]) -> ScaleSearch:
    candidates = np.concatenate([weight_scale[None], np.linspace(1, weight_scale, 100)[1:-1]])
    likeness = direct_table(layer, candidates, [activation_scale]).cosines().mean(axis=2)
    chosen = [_record(history, "weight", channel, candidates[:, channel], likeness[:, channel])
              for channel in range(len(weight_scale))]
    weight_scale = candidates[chosen, np.arange(len(chosen))]
    points = np.append(activation_scale, np.linspace(0.8 * activation_scale, activation_scale, 200)[1:-1])
    return _activations_once(layer, weight_scale, points[:1 if keep_activation else None], history)


def _ncnn(layer: QuantizedLayer, weight_scale: np.ndarray, activation_scale: float, keep_activation: bool,
          history: list[HalfStep]) -> ScaleSearch:
    grid = np.linspace(0.5, 2.0, 100, endpoint=False)
    # The current scales first: row 0 is where channels stand that were not yet moved.
    candidates = np.concatenate([weight_scale[None], np.multiply.outer(grid, weight_scale)])
    table = direct_table(layer, candidates, [activation_scale])
    seen = np.asarray(table.target.any(axis=0))  # the images whose float output is not all zero
    if not seen.any():
        return ScaleSearch(weight_scale, activation_scale, 1.0, tuple(history))
    weight_scale = _channel_by_channel(table.of_images(seen), candidates, history, first=1)
    points = np.array([1.0]) if keep_activation else grid
    return _activations_once(layer, weight_scale, points * activation_scale, history, seen)


def _activations_once(layer: QuantizedLayer, weight_scale: np.ndarray, candidates: np.ndarray,
                      history: list[HalfStep], images: np.ndarray | None = None) -> ScaleSearch:
    table = direct_table(layer, [weight_scale], candidates).over_channels()
    likeness = (table if images is None else table.of_images(images)).cosines()[:, 0].mean(axis=1)
    chosen = _record(history, "activation", None, candidates, likeness)
    return ScaleSearch(weight_scale, float(candidates[chosen]), float(likeness[chosen]), tuple(history))


def _channel_by_channel(table: Table, candidates: np.ndarray, history: list[HalfStep], first: int) -> np.ndarray:
    """Move one channel after another for the whole layer's cosine, earlier ones already moved.

    Row 0 of the table is where every channel starts; rows from ``first`` on are candidates. A channel's
    candidates change its own output only, so one table serves the whole scan.
    """
    dot, norm, target = table.dot[0].copy(), table.norm[0].copy(), table.target.sum(axis=0)
    scale = candidates[0].copy()
    for channel in range(len(scale)):
        # The other channels are added anew: subtracting this one from a total would cancel where it is loud.
        dots, norms = (np.delete(now, channel, axis=0).sum(axis=0) + every[first:, channel]
                       for now, every in ((dot, table.dot), (norm, table.norm)))
        likeness = cosines(dots, norms, target).mean(axis=1)
        row = first + _record(history, "weight", channel, candidates[first:, channel], likeness)
        for now, every in ((dot, table.dot), (norm, table.norm), (scale, candidates)):
            now[channel] = every[row, channel]
    return scale


def _record(history: list[HalfStep], operand: str, channel: int | None, candidates: np.ndarray,
            likeness: np.ndarray) -> int:
    """Choose the first candidate within 1e-12 of the best, and write it down."""
    chosen = int(np.argmax(likeness >= likeness.max() - EQUAL))
    history.append(HalfStep(operand, channel, frozen_copy(candidates), frozen_copy(likeness), chosen))
    return chosen


def _best_pair(layer: QuantizedLayer, pairs: list[tuple[np.ndarray, float]], mode: str, history: list[HalfStep]
               ) -> tuple[np.ndarray, float]:
    if len(pairs) == 1:
        return pairs[0]
    tables = [direct_table(layer, [weight_scale], [activation_scale], pooled=mode == "paper")
              for weight_scale, activation_scale in pairs]
    seen = np.asarray(tables[0].target.any(axis=0) | (mode != "ncnn"))
    likeness = np.array([table.of_images(seen).over_channels().cosines().mean() if seen.any() else 1.0
                         for table in tables])
    return pairs[_record(history, "start", None, np.arange(len(pairs)), likeness)]
