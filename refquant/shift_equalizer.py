"""Weight equalizing shift scaler (WES, arXiv 2008.05767): one weight scale per layer, a small shift per channel.

A layer-wise scale serves the channel of the largest weights; a channel 1000 times smaller is left with no codes at
all. So each channel's weights are first shifted left by k_c bits, and its sums shifted right again. The second shift
costs nothing: the layer's fixed-point multiplier m·2^(s-31) already ends in a shift, which becomes s - k_c.

    W'_c = 2^k_c·W_c,   w_q = Q(W', S_w),   y_q = requantize(Σ w_q·x_q + b_q, m, s - k_c),   M = S_y / (S_x·S_w)

Only the abstract of the paper was available. It says that 4-bit binary shifts equalize the channels'
weight ranges and that their inverse is fused into the layer's scale. The rules here are a reconstruction. The natural
one is ``floor``: of all shifts that keep a channel within the layer's range it is the largest, so nothing clips, and
every channel that may be shifted far enough fills more than half of the range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry, taps
from refquant.integers.checks import as_integers, fitting_int64, float32_or_float64, integer, moderate, one_of
from refquant.integers.devices import dialect_of
from refquant.integers.dialects import Dialect, legal_shifts
from refquant.integers.formats import IntFormat, check_format, check_zero_point
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.integers.rounding import shift_right
from refquant.scales.linear import DEAD_CHANNEL, channel_reach, max_scale, quantize

SHIFT_RULES = ("floor", "nearest", "ceil")
OBJECTIVES = ("weight", "cosine")
# Where hardware can undo the shift; ``undo_shifts`` explains them.
WAYS = ("fused", "multiplier_per_channel", "second_shift", "shift_first")
MOST_SHIFT_BITS = 5
# Layer scales that ``search_shifts`` tries in each octave.
_PER_OCTAVE = 16
# Weights at a time: their temporaries stay in the cache.
_CACHED = 1 << 15


def equalizing_shifts(w: Any, shift_bits: int = 4, rule: str = "floor") -> np.ndarray:
    """The shift k_c of each output channel, with r_c = max|W_c| and r = max r_c; a reconstruction, see the module.

    ``floor``: the largest k with r_c·2^k <= r. ``nearest``: the k for which r_c·2^k is nearest to r on a log scale.
    ``ceil``: the least k with r_c·2^k >= r. All compared exactly, and within 0..2^shift_bits - 1.

    w: floats (O, C/groups, R, S) or (O, F). shift_bits: 0..5. Returns (O,) int64, at most 24. A channel with
    r_c < 2^-24·r is dead and gets 0. ValueError for other shapes, NaN, infinity, and weights that are all zero.

    >>> equalizing_shifts(np.array([[4.0, -1.0], [0.5, 0.3], [0.0, 0.0], [0.49, 0.1]]))
    array([0, 3, 0, 3])
    """
    one_of(rule, SHIFT_RULES, "rule")
    largest_shift = _largest_shift(shift_bits)
    reach = channel_reach(_checked(w))
    (fraction, exponent), (whole, most) = np.frexp(reach), np.frexp(reach.max())
    # r/r_c = (rest/fraction)·2^shifts, with 1 <= rest/fraction < 2.
    shifts = most.astype(np.int64) - exponent - (fraction > whole)
    rest = np.where(fraction > whole, 2 * whole, whole)
    if rule == "ceil":
        shifts += rest > fraction
    elif rule == "nearest":  # up where rest/fraction > sqrt(2), in whole numbers
        numbers = zip(*(np.ldexp(part, 54).astype(np.int64).tolist() for part in (rest, fraction)))
        shifts += np.array([a**2 > 2 * b**2 for a, b in numbers])
    return np.where(alive(reach), np.clip(shifts, 0, largest_shift), 0)


def search_shifts(w: Any, bits: int = 8, shift_bits: int = 4, objective: str = "weight", inputs: Any = None, *,
                  stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
                  ) -> tuple[np.ndarray, float]:
    """Shifts and layer scale chosen together; ours, not the paper's.

    Of 33 layer scales S, from half to twice q_max/max|w|, and all shifts, the search takes those of the least
    Σ_c min_k loss_c(S·2^k). ``weight``: loss_c = |Ŵ_c - W_c|²/|W_c|², with Ŵ_c = Q(W_c, S·2^k)/(S·2^k).
    ``cosine``: loss_c = 1 - cos(y_c, ŷ_c), y_c and ŷ_c being the channel's outputs with W_c and with Ŵ_c. Losses as
    near as 1e-12 are equal; then the largest S, and the smallest shift, are taken.

    w: floats (O, C/groups, R, S) or (O, F). bits: 2..16, signed narrow. shift_bits: 0..5. inputs: for ``cosine``,
    floats (N, C, H, W) or (N, F), or a list of such batches. stride, padding, dilation, groups: of the convolution.
    Returns (O,) int64 and S; dead channels have shift 0. ValueError for what ``equalizing_shifts`` refuses, and for
    inputs that do not fit, or of which a batch's largest magnitude is neither 0 nor from 1e-140 to 1e140.

    >>> shifts, scale = search_shifts(np.array([[4.0, -1.0], [0.5, 0.3], [0.49, 0.1]]))
    >>> shifts.tolist(), round(scale, 2)
    ([0, 3, 3], 31.75)
    """
    one_of(objective, OBJECTIVES, "objective")
    fmt, largest_shift = IntFormat(integer(bits, "bits", 2, 16), narrow=True), _largest_shift(shift_bits)
    w, exponent = _normalized(_checked(w))
    reach = channel_reach(w)
    loss = (_weight_loss if objective == "weight" else
            _cosine_loss(_gram(inputs, w, Geometry.of(stride, padding, dilation, groups)), w))
    live = np.flatnonzero(alive(reach))
    start, grid = float(max_scale(w, fmt)), np.arange(-_PER_OCTAVE, _PER_OCTAVE + 1)
    # S·2^k for all S and k: a row per sixteenth of an octave, of all channels.
    steps = np.arange(grid[0], grid[-1] + _PER_OCTAVE * largest_shift + 1)
    losses = np.stack([loss(w, start * 2.0 ** (step / _PER_OCTAVE), fmt)[live] for step in steps])
    by_shift = np.stack([losses[_PER_OCTAVE * k:][:len(grid)] for k in range(largest_shift + 1)])
    totals = by_shift.min(axis=0).sum(axis=1)
    best = len(grid) - 1 - int(_first_least(totals[::-1, None])[0])
    shifts = np.zeros(len(w), np.int64)
    shifts[live] = _first_least(by_shift[:, best])
    return shifts, _scale_of(start * 2.0 ** (grid[best] / _PER_OCTAVE), exponent)


def least_squares_scale(w: Any, shifts: Any, bits: int = 8) -> float:
    """S for given shifts: of 33 scales, from half to twice q_max/max|w|, that of the least Σ(Q(W', S)/S - W')².

    w, bits: as for ``search_shifts``. shifts: (O,), 0..24. Errors that are equal to twelve digits give the
    largest S. ValueError for anything else.
    """
    fmt, shifts = IntFormat(integer(bits, "bits", 2, 16), narrow=True), _checked_shifts(shifts)
    w, exponent = _normalized(_checked(w))
    if shifts.shape != (len(w),):
        raise ValueError(f"shifts must have shape ({len(w)},), got {shifts.shape}")
    equalized = np.ldexp(w, shifts.astype(np.int32).reshape(-1, *[1] * (w.ndim - 1)))
    scales = float(max_scale(w, fmt)) * 2.0 ** (np.arange(_PER_OCTAVE, -_PER_OCTAVE - 1, -1) / _PER_OCTAVE)
    errors = np.array([((_restored(equalized, scale, fmt) - equalized) ** 2).sum() for scale in scales])
    return _scale_of(scales[np.argmax(errors <= errors.min() * (1 + 1e-12))], exponent)


def undo_shifts(acc: Any, multiplier: Multiplier, shifts: Any, fmt: IntFormat,
                dialect: str | Dialect = "single_round", way: str = "fused", zero_point: int = 0) -> np.ndarray:
    """Output codes of sums that are 2^k_c too large, in four ways that hardware could take.

    ``fused``: one multiplication by m, k more places to the right: requantize(acc, m, s - k).
    ``multiplier_per_channel``: m and shift made anew from the exact M·2^-k. Equal to ``fused`` wherever the dialect
    takes the shift s - k, as frexp(M·2^-k) has the same fraction; ``fused`` refuses others. ``second_shift``:
    requantized by (m, s) to int32, not to the output's format, then shifted right by k and rounded by the dialect's
    last word. ``shift_first``: acc >> k, floored, then (m, s).

    acc: integers, any shape; the layer's sums with their bias codes. multiplier: of the layer. shifts: 0..24,
    broadcasting against acc. fmt, dialect, zero_point: as for ``requantize``, which refuses what does not fit.

    >>> M = Multiplier.from_real(0.75)
    >>> [int(undo_shifts(5, M, 2, IntFormat(8), way=way)) for way in WAYS]
    [1, 1, 1, 1]
    >>> [int(undo_shifts(2, M, 2, IntFormat(8), way=way)) for way in WAYS]
    [0, 0, 1, 0]
    """
    one_of(way, WAYS, "way")
    shifts, words = _checked_shifts(shifts), dialect_of(dialect)
    if not isinstance(multiplier, Multiplier):
        raise ValueError(f"multiplier must be a Multiplier, got {multiplier!r}")
    zero_point = check_zero_point(zero_point, check_format(fmt))
    if way == "fused":
        return requantize(acc, multiplier.shifted_right(shifts), fmt, dialect, zero_point)
    if way == "multiplier_per_channel":
        real = np.ldexp(multiplier.real, -shifts.astype(np.int32))
        return requantize(acc, Multiplier.from_real(real), fmt, dialect, zero_point)
    if way == "shift_first":
        return requantize(np.right_shift(fitting_int64(acc, "acc"), shifts), multiplier, fmt, dialect, zero_point)
    if fmt.bits > 32:
        raise ValueError(f"the way second_shift takes formats of at most 32 bits, got {fmt}")
    codes = requantize(acc, multiplier, IntFormat(32), dialect).astype(np.int64)
    early, late = (zero_point, 0) if words.zero == "before" else (0, zero_point)
    return words.ended(shift_right(codes, shifts, words.last, early) + late, fmt)


def limit_shifts(shifts: Any, multiplier: Multiplier, dialect: str | Dialect = "single_round", strict: bool = False
                 ) -> np.ndarray:
    """Shifts lowered to the largest k for which the dialect takes the shift s - k.

    shifts: (O,). multiplier: one, of the layer. strict: ValueError where one would be lowered.

    >>> limit_shifts([3, 9], Multiplier.from_real(2.0**-26))
    array([3, 6])
    """
    shifts, legal = _checked_shifts(shifts), legal_shifts(dialect_of(dialect))
    if not isinstance(multiplier, Multiplier) or multiplier.shift.ndim or shifts.ndim != 1:
        raise ValueError(f"shifts must be (O,) and multiplier one Multiplier, got {shifts.shape} and {multiplier!r}")
    if legal is None:
        return shifts
    most = int(multiplier.shift) - legal[0]
    if strict and (shifts > most).any():
        channel = int(np.argmax(shifts > most))
        raise ValueError(f"the shift s - k of channel {channel} must be at least {legal[0]}, got "
                         f"{int(multiplier.shift)} - {shifts[channel]}")
    return np.minimum(shifts, max(most, 0))


def alive(reach: np.ndarray) -> np.ndarray:
    """Which channels are not dead, by their max|w|."""
    return (reach > 0) & (reach >= DEAD_CHANNEL * reach.max())


def _checked(w: Any) -> np.ndarray:
    w = float32_or_float64(w, "w")
    if w.ndim not in (2, 4):
        raise ValueError(f"w must be (O, C/groups, R, S) or (O, F), got shape {w.shape}")
    if not w.any():
        raise ValueError("w must hold a weight that is not zero, got zeros alone")
    return w


def _largest_shift(shift_bits: Any) -> int:
    """2^shift_bits - 1, at most 24: a channel that needs a larger shift is dead."""
    return min(2 ** integer(shift_bits, "shift_bits", 0, MOST_SHIFT_BITS) - 1, 24)


def _checked_shifts(shifts: Any) -> np.ndarray:
    shifts = as_integers(shifts, "shifts").astype(np.int64)
    if shifts.size and not (0 <= shifts.min() and shifts.max() <= 24):
        raise ValueError(f"shifts must be from 0 to 24, got {shifts.min()}..{shifts.max()}")
    return shifts


def _first_least(losses: np.ndarray) -> np.ndarray:
    """Of each column, the first row within 1e-12 of the least."""
    return np.argmax(losses <= losses.min(axis=0) + 1e-12, axis=0)


def _normalized(w: np.ndarray) -> tuple[np.ndarray, int]:
    """w·2^-e in float64, with 1/2 <= max|w|·2^-e < 1, and e: squares neither vanish nor overflow."""
    exponent = int(np.frexp(np.abs(w).max())[1])
    return np.ldexp(w.astype(np.float64), -exponent), exponent


def _scale_of(normalized: float, exponent: int) -> float:
    """The scale of w from that of w·2^-exponent."""
    with np.errstate(over="ignore"):
        return float(np.minimum(np.ldexp(normalized, -exponent), np.finfo(np.float64).max))


def _restored(w: np.ndarray, scale: float, fmt: IntFormat) -> np.ndarray:
    return quantize(w, scale, fmt) / scale


def _weight_loss(w: np.ndarray, scale: float, fmt: IntFormat) -> np.ndarray:
    """|Ŵ_c - W_c|²/|W_c|² of each channel."""
    losses = []
    for some in np.array_split(w.reshape(len(w), -1), min(len(w), -(-w.size // _CACHED))):
        error, power = _restored(some, scale, fmt) - some, np.einsum("ok,ok->o", some, some)
        losses.append(np.einsum("ok,ok->o", error, error) / np.where(power > 0, power, 1.0))
    return np.concatenate(losses)


def _gram(inputs: Any, w: np.ndarray, geometry: Geometry) -> np.ndarray:
    """G = AᵀA of each group, (groups, K, K); the rows of A are what each output sees of the inputs."""
    if inputs is None:
        raise ValueError("the objective cosine needs inputs, got none")
    if not isinstance(inputs, Iterable):
        raise ValueError(f"inputs must be an array or a list of batches, got {inputs!r}")
    kernel, G = w.reshape(*w.shape, *[1] * (4 - w.ndim)), np.zeros(0)
    for batch in [inputs] if isinstance(inputs, np.ndarray) else inputs:
        x = float32_or_float64(batch, "inputs").astype(np.float64)
        x = x.reshape(*x.shape, *[1] * (4 - x.ndim))
        geometry.check_shapes(x.shape, kernel.shape)
        moderate(float(np.abs(x).max()), "inputs must be moderate: the largest magnitude of a batch")
        for image in x:  # one at a time: A is R·S times as large
            views = np.stack([view[0] for _, view in taps(image[None], kernel.shape[2:], geometry)])
            seen = views.swapaxes(0, 1).reshape(geometry.groups, kernel[0].size, -1)
            G = G + seen @ seen.swapaxes(1, 2) if G.size else seen @ seen.swapaxes(1, 2)
    if not G.size:
        raise ValueError("inputs must hold at least one batch, got none")
    return G


def _cosine_loss(G: np.ndarray, weight: np.ndarray) -> Callable[[np.ndarray, float, IntFormat], np.ndarray]:
    """1 - cos(y_c, ŷ_c) of each channel, as y_c·ŷ_c = W_c·G·Ŵ_c; 0 for outputs that are all zero."""
    def rows(w: np.ndarray) -> np.ndarray:
        return w.reshape(len(G), -1, G.shape[1])

    seen = rows(weight) @ G
    target = np.einsum("gok,gok->go", seen, rows(weight)).ravel()

    def loss(w: np.ndarray, scale: float, fmt: IntFormat) -> np.ndarray:
        found = rows(_restored(w, scale, fmt))
        dot, norm = (np.einsum("gok,gok->go", a, found).ravel() for a in (seen, found @ G))
        with np.errstate(divide="ignore", invalid="ignore"):
            likeness = dot / np.sqrt(target * norm)
        return np.where(target > 0, 1 - np.where(norm > 0, likeness, 0.0), 0.0)

    return loss
