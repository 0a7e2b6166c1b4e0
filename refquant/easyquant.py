"""EasyQuant: search the scales of one layer so that its quantized output points where the float one does.

EasyQuant (Wu et al. 2020, arXiv 2006.16669) maximises cos(O, Ô), Ô = conv(Q(A, S_a), Q(W, S_w)) / (S_a·S_w),
by turns over the weights' scale and the activations'. Three different algorithms carry the name: the paper's
text, its authors' Python code, and the port in ncnn; each is a mode here.

The cosine does not see a gain: cos(O, 2·O) = 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from refquant.formats import frozen_copy
from refquant.geometry import Geometry
from refquant.output_likeness import QuantizedLayer, Table, cosines, direct_table, weight_table
from refquant.search_start import check_grid, check_layer, initial_pairs

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
                 keep_activation: bool = False, direct: bool = False, stride: Any = 1, padding: Any = 0,
                 dilation: Any = 1, groups: int = 1) -> ScaleSearch:
    """Search the weight and activation scales of one convolution.

    ``paper``: n candidates spread over [α, β] times the initial scale, the current one listed first, weights
    then activations, until a round gains less than ``tolerance``, at most ``rounds`` times. It moves only for a
    gain above 1e-12, so the cosine, of all outputs of all images without bias, never falls. Per channel, one
    channel after another is moved, still for the layer's cosine.
    ``demo``: weights per channel, all swept together for their own channel's cosine: S0, then the 98 inner points
    of linspace(1, S0, 100); activations S0, then those of linspace(0.8·S0, S0, 200). Mean of the images' cosines.
    ``ncnn``: weights per channel, one after another; 100 candidates over [0.5, 2)·S0, those of the activations
    likewise; the sum of the images' cosines of the whole output decides.
    Both take one round, compare after bias and ReLU, and let the first maximum win. Differs from their code:
    float64, not float32, and cosines within 1e-12 are equal.

    inputs: floats (N, C, H, W), or a list or other iterable of such batches, which is walked through several times;
    in place of a batch may stand a tuple of inputs and the float outputs (N, O, P, Q) to resemble, without bias.
    weights: floats (O, C/groups, R, S). bits: 2..16, or a pair for weights and activations; codes are signed
    narrow, or with ``unsigned`` those of the activations 0..2^b-1. granularity: ``layer`` or ``channel``; by
    default the mode's.
    initial: ``max``; ``kl``, as the modes' sources start (activations by TensorRT's KL, demo with 2001 bins, ncnn
    with its own variant; weights by max); or pairs (S_w, S_a), the best of which starts. bias: (O,); it and
    ``relu`` matter to demo and ncnn alone; rounds, tolerance and direct to paper.
    keep_activation: search the weights alone. direct: evaluate weight candidates by convolving; slow, the judge.
    The scale of an all-zero operand starts at 1 and ends at the first candidate: 1, or 0.5 in mode ncnn.
    ValueError for inputs that are empty, not finite or do not fit, and options that no mode knows.

    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=(4, 3, 3, 3))
    >>> found = search_layer(x, w, bits=4)
    >>> bool(found.history[0].cosines[0] < found.cosine < 1)
    True
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
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
        return _paper(layer, *start, np.linspace(alpha, beta, n), rounds, tolerance, keep_activation, direct, history)
    return (_demo if mode == "demo" else _ncnn)(layer, *start, keep_activation, history)


def _paper(layer: QuantizedLayer, weight_scale: np.ndarray, activation_scale: float, grid: np.ndarray, rounds: int,
           tolerance: float, keep_activation: bool, direct: bool, history: list[HalfStep]) -> ScaleSearch:
    weight_start, activation_start = weight_scale, activation_scale
    for _ in range(rounds):
        begin = len(history)
        candidates = np.concatenate([weight_scale[None], np.multiply.outer(grid, weight_start)])
        table = (direct_table(layer, candidates, [activation_scale], pooled=True) if direct
                 else weight_table(layer, candidates, activation_scale))
        if weight_scale.ndim:
            weight_scale = _channel_by_channel(table, candidates, history, first=0)
        else:
            likeness = table.over_channels().cosines()[:, 0, 0]
            weight_scale = candidates[_record(history, "weight", None, candidates, likeness)]
        candidates = np.concatenate([[activation_scale], grid[:0 if keep_activation else None] * activation_start])
        likeness = direct_table(layer, [weight_scale], candidates, pooled=True).over_channels().cosines()[:, 0, 0]
        chosen = _record(history, "activation", None, candidates, likeness)
        activation_scale, cosine = float(candidates[chosen]), float(likeness[chosen])
        if cosine - history[begin].cosines[0] < tolerance:
            break
    return ScaleSearch(np.asarray(weight_scale), activation_scale, cosine, tuple(history))


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
    weight_scale = _channel_by_channel(direct_table(layer, candidates, [activation_scale]), candidates, history,
                                       first=1)
    points = np.array([1.0]) if keep_activation else grid
    return _activations_once(layer, weight_scale, points * activation_scale, history)


def _activations_once(layer: QuantizedLayer, weight_scale: np.ndarray, candidates: np.ndarray,
                      history: list[HalfStep]) -> ScaleSearch:
    likeness = direct_table(layer, [weight_scale], candidates).over_channels().cosines()[:, 0].mean(axis=1)
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
    likeness = np.array([table.over_channels().cosines().mean() for table in tables])
    return pairs[_record(history, "start", None, np.arange(len(pairs)), likeness)]
