"""EasyQuant: search the scales of one layer so that its quantized output points where the float one does.

EasyQuant (Wu et al. 2020, arXiv 2006.16669) maximises cos(O, Ô), Ô = conv(Q(A, S_a), Q(W, S_w)) / (S_a·S_w),
by turns over the weights' scale and the activations'. Three different algorithms carry the name: the paper's
text, its authors' Python code, and the port in ncnn; each is a mode here.

The cosine does not see a gain: cos(O, 2·O) = 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from refquant.formats import IntFormat, frozen_copy
from refquant.geometry import Geometry
from refquant.linear import check_scale, max_scale
from refquant.output_likeness import QuantizedLayer, Table, cosines, direct_table, weight_table
from refquant.ranges import Extremes, Histogram, threshold, threshold_scale

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
    initial: ``max``, ``kl`` (activations by TensorRT's KL, weights by max), or pairs (S_w, S_a), the best of
    which starts. bias: (O,); it and ``relu`` matter to demo and ncnn alone, rounds, tolerance and direct to paper.
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
    _check_grid(mode, alpha, beta, n, rounds, tolerance)
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
    geometry = Geometry.of(stride, padding, dilation, groups)
    layer = QuantizedLayer(batches, weight, geometry, x_format, w_format,
                           *((None, False) if mode == "paper" else (bias, bool(relu))))
    weight_scale = max_scale(weight, w_format, 0 if granularity == "channel" else None)
    pairs = [] if initial in ("max", "kl") else _given_pairs(initial, weight_scale.shape)
    extremes = _check_batches(layer)
    pairs = pairs or [(weight_scale, _initial_activation(initial, layer, extremes))]
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
        dot[channel], norm[channel], scale[channel] = table.dot[row, channel], table.norm[row, channel], \
            candidates[row, channel]
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


def _initial_activation(initial: str, layer: QuantizedLayer, extremes: Extremes) -> float:
    limit = extremes.magnitude if layer.x_format.signed else max(extremes.high, 0.0)
    if initial == "kl":
        inputs = (batch[0] if isinstance(batch, tuple) else batch for batch in layer.batches)
        counts = reduce(Histogram.merge, (Histogram.of(x, extremes.magnitude) for x in inputs))
        limit = threshold(extremes, counts, "kl_tensorrt", layer.x_format)
    return threshold_scale(limit, layer.x_format)


def _given_pairs(initial: Any, shape: tuple[int, ...]) -> list[tuple[np.ndarray, float]]:
    given = list(initial) if isinstance(initial, (list, tuple)) else []
    if not given or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in given):
        raise ValueError(f"initial must be max, kl, or pairs of a weight and an activation scale, got {initial!r}")
    pairs = []
    for pair in given:
        s_w, s_a = (check_scale(scale, "an initial scale").astype(np.float64) for scale in pair)
        if s_w.shape not in ((), shape) or s_a.shape != ():
            raise ValueError(f"initial scales must have shapes {shape} and (), got {s_w.shape} and {s_a.shape}")
        pairs.append((np.broadcast_to(s_w, shape).copy(), float(s_a)))
    return pairs


def _formats(bits: Any, unsigned: bool) -> tuple[IntFormat, IntFormat]:
    pair = bits if isinstance(bits, (tuple, list)) else (bits, bits)
    whole = all(isinstance(b, (int, np.integer)) and not isinstance(b, bool) for b in pair)
    if len(pair) != 2 or not whole or not all(2 <= b <= 16 for b in pair):
        raise ValueError(f"bits must be an integer from 2 to 16, or two for weights and activations, got {bits!r}")
    return IntFormat(pair[0], narrow=True), IntFormat(pair[1], signed=not unsigned, narrow=not unsigned)


def _check_grid(mode: str, alpha: float, beta: float, n: int, rounds: int, tolerance: float) -> None:
    if mode != "paper" and (alpha, beta, n) != (0.5, 2.0, 100):
        raise ValueError(f"alpha, beta and n must be left alone in mode {mode}, whose candidates are fixed, got "
                         f"{alpha}, {beta} and {n}")
    if not 0 < alpha < beta < np.inf:
        raise ValueError(f"alpha and beta must be finite with 0 < alpha < beta, got {alpha} and {beta}")
    for name, value, least in (("n", n, 2), ("rounds", rounds, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be >= 0, got {tolerance}")


def _reals(x: Any, name: str, dimensions: int) -> np.ndarray:
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64) or x.ndim != dimensions or not x.size:
        got = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise ValueError(f"{name} must hold float32 or float64 in {dimensions} dimensions and not be empty, "
                         f"got {got}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return x.astype(np.float64)


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
