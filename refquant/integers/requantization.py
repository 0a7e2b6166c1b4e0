"""Requantization: an integer accumulator times a real multiplier, computed in integers.

The scale of a layer's sums is S_x·S_w, that of its output codes S_y; between them lies the real
M = S_y / (S_x·S_w). Hardware multiplies by m·2^(shift-31), m a 31-bit integer, and rounds: once or
twice, by this or that rule. How a device does it is its dialect; nine have names here. FORMULAS gives each
one's value before zero point and clamping, and who computes so; ``refquant dialects`` prints the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, one_of, positive
from refquant.integers.formats import IntFormat, check_zero_point, frozen_copy, wrap
from refquant.integers.rounding import round_product, round_values, shift_right

NOTATION = """\
x: the integer sum. M: the real multiplier, M = m·2^(shift-31), 2^30 <= m < 2^31. z: the zero point.
L = max(shift, 0), R = max(-shift, 0), t = 31 - shift. >> is floor. wrap32: two's complement of 32 bits.
SRDHM(a, b) = (a·b + 2^30) >> 31: rounding doubling high multiply, ties up.
RDBPOT(x, e) = x / 2^e: rounding divide by a power of two, ties away from zero.
m16 = (m + 2^15) >> 16, but 0x7FFF for m >= 0x7FFF0000."""

# name: (the value before zero point and clamping, who computes so)
FORMULAS = {
    "gemmlowp_double": ("RDBPOT(SRDHM(wrap32(x·2^L), m), R)", "gemmlowp, TFLite's reference kernels, CMSIS-NN"),
    "neon_double": ("(SRDHM(wrap32(x·2^L), m) + 2^(R-1)) >> R", "TFLite's kernels on NEON (SQRDMULH, SRSHL)"),
    "single_round": ("(x·m + 2^(t-1)) >> t", "TFLite with single rounding, ruy, TOSA; the default here"),
    "float32_half_even": ("rint(float32(x)·float32(M)), ties to even", "ONNX Runtime, XNNPACK in float32"),
    "float32_half_away": ("round(float32(x)·float32(M)), ties away", "ncnn, which clamps to ±127"),
    "multiplier16": ("(x·m16 + 2^(14-shift)) >> (15-shift)", "CMSIS-NN and TFLite for int64 sums"),
    "shift_floor": ("(x·m) >> t", "the cheapest hardware"),
    "exact_half_even": ("x·M, exact, ties to even", "nobody: what the others approximate"),
    "zero_point_first": ("rint(x·M + z) - z, exact", "ONNX's Python reference of QLinearConv"),
}
DIALECTS = tuple(FORMULAS)

_INT32 = IntFormat(32)
# Elements in a block: its temporaries stay in the cache.
_BLOCK = 1 << 15


@dataclass(frozen=True, eq=False)
class Multiplier:
    """A real multiplier M with its fixed-point form: M ≈ m·2^(shift-31), 2^30 <= m < 2^31.

    (f, shift) = frexp(M); m = round_half_away(f·2^31); m = 2^31 becomes 2^30 with shift + 1; below
    2^-32 m = shift = 0. A positive shift is a left shift, as in TFLite.

    real: float64, exact, > 0. m, shift: int64. All of one shape: () or one multiplier per channel.
    ValueError for anything else.
    """

    real: np.ndarray
    m: np.ndarray
    shift: np.ndarray

    def __post_init__(self) -> None:
        real = positive(self.real, "a multiplier").astype(np.float64)
        m, shift = as_integers(self.m, "m"), as_integers(self.shift, "shift")
        if not real.shape == m.shape == shift.shape:
            raise ValueError(f"real, m and shift must have one shape, got {real.shape}, {m.shape}, {shift.shape}")
        if not ((m == 0) | ((2**30 <= m) & (m < 2**31))).all():
            raise ValueError(f"m must be 0 or from 2^30 to 2^31 - 1, got {m.min()}..{m.max()}")
        for name, value in (("real", real), ("m", m.astype(np.int64)), ("shift", shift.astype(np.int64))):
            object.__setattr__(self, name, frozen_copy(value))

    @classmethod
    def from_real(cls, real: Any) -> Multiplier:
        """The multiplier nearest to ``real``: a number, or an array with one per channel.

        ValueError unless every element is finite and above zero.

        >>> M = Multiplier.from_real(0.25)
        >>> int(M.m), int(M.shift)
        (1073741824, -1)
        """
        real = positive(real, "a multiplier").astype(np.float64)
        fraction, shift = np.frexp(real)
        m = round_values(fraction * 2.0**31, "half_away").astype(np.int64)
        shift = np.where(m == 2**31, shift + 1, shift).astype(np.int64)
        m = np.where(m == 2**31, 2**30, m)
        vanishes = shift < -31
        return cls(real, np.where(vanishes, 0, m), np.where(vanishes, 0, shift))

    def along(self, axis: int, ndim: int) -> Multiplier:
        """The same multipliers shaped to broadcast along ``axis`` of an ``ndim``-dimensional array."""
        if self.real.ndim == 0:
            return self
        if not -ndim <= axis < ndim:
            raise ValueError(f"axis must be within {ndim} axes, got {axis}")
        shape = [1] * ndim
        shape[axis] = -1
        return Multiplier(self.real.reshape(shape), self.m.reshape(shape), self.shift.reshape(shape))


# One function per dialect: (x, real, m, shift, zero_point) to the value before the zero point is
# added. x: int64 within int32; the parameters broadcast against it. int64 holds every x·m < 2^62.

def _srdhm(x: np.ndarray, m: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """SRDHM(wrap32(x·2^L), m). m is never INT32_MIN, so that SRDHM's saturating case cannot arise."""
    shifted = wrap(x << np.maximum(shift, 0), _INT32).astype(np.int64) if shift.max() > 0 else x
    return shift_right(shifted * m, 31, "half_up")


def _gemmlowp_double(x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero: int) -> np.ndarray:
    return shift_right(_srdhm(x, m, shift), np.maximum(-shift, 0), "half_away")


def _neon_double(x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero: int) -> np.ndarray:
    return shift_right(_srdhm(x, m, shift), np.maximum(-shift, 0), "half_up")


def _single_round(x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero: int) -> np.ndarray:
    return shift_right(x * m, 31 - shift, "half_up")


def _shift_floor(x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero: int) -> np.ndarray:
    return shift_right(x * m, 31 - shift, "floor")


def _multiplier16(x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero: int) -> np.ndarray:
    m16 = np.minimum(shift_right(m, 16, "half_up"), 0x7FFF)
    return shift_right(x * m16, 15 - shift, "half_up")


def _float32(x: np.ndarray, real: np.ndarray, rule: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        product = x.astype(np.float32) * real.astype(np.float32)
    # Codes have at most 32 bits: beyond 2^33 only the sign still matters.
    return round_values(np.clip(product, -(2.0**33), 2.0**33), rule).astype(np.int64)


def _float32_half_even(x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero: int) -> np.ndarray:
    return _float32(x, real, "half_even")


def _float32_half_away(x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero: int) -> np.ndarray:
    return _float32(x, real, "half_away")


def _exact(x: np.ndarray, real: np.ndarray, rule: str) -> np.ndarray:
    return round_product(x.astype(np.float64), real, rule, limit=2.0**33).astype(np.int64)


def _exact_half_even(x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero: int) -> np.ndarray:
    return _exact(x, real, "half_even")


def _zero_point_first(x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero: int) -> np.ndarray:
    # An even zero point leaves the parity of ties alone; an odd one turns ties to even into ties to
    # odd. The two nearest-integer rules below differ at ties only, by one, so one of them is odd.
    if zero % 2 == 0:
        return _exact(x, real, "half_even")
    up, down = _exact(x, real, "half_up"), _exact(x, real, "half_down")
    return np.where(up % 2 == 1, up, down)


_Rule = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
# name: (the function, the legal shifts; None where the shift is not used)
_RULES: dict[str, tuple[_Rule, tuple[int, int] | None]] = {
    "gemmlowp_double": (_gemmlowp_double, (-31, 30)),
    "neon_double": (_neon_double, (-31, 30)),
    "single_round": (_single_round, (-31, 30)),
    "float32_half_even": (_float32_half_even, None),
    "float32_half_away": (_float32_half_away, None),
    "multiplier16": (_multiplier16, (-31, 14)),
    "shift_floor": (_shift_floor, (-31, 30)),
    "exact_half_even": (_exact_half_even, None),
    "zero_point_first": (_zero_point_first, None),
}
# These shift the sum left before they multiply it, in 32 bits, where it can wrap.
SHIFT_LEFT_FIRST = ("gemmlowp_double", "neon_double")


def requantize(acc: Any, multiplier: Multiplier, fmt: IntFormat, dialect: str = "single_round",
               zero_point: int = 0) -> np.ndarray:
    """Output codes clip(round(acc·M) + zero_point, fmt.min, fmt.max), rounded as ``dialect`` says.

    acc: integers within int32, any shape. multiplier: broadcasts against acc. fmt: at most 33 bits.
    dialect: one of DIALECTS. zero_point: a code of fmt, added
    after rounding (but see ``zero_point_first``). Returns ``fmt.dtype``.

    ValueError for floats, sums beyond int32, shapes that do not fit, unknown dialects, and, in the
    dialects that shift, shifts outside -31..30 (-31..14 for ``multiplier16``).

    >>> requantize(np.array([1, -2, 5]), Multiplier.from_real(0.5), IntFormat(8))
    array([ 1, -1,  3], dtype=int8)
    >>> requantize(np.array([1, -2, 5]), Multiplier.from_real(0.5), IntFormat(8), "exact_half_even")
    array([ 0, -1,  2], dtype=int8)
    """
    one_of(dialect, DIALECTS, "dialect")
    if not isinstance(multiplier, Multiplier):
        raise ValueError(f"multiplier must be a Multiplier (see Multiplier.from_real), got {multiplier!r}")
    rule, legal = _RULES[dialect]
    acc = as_integers(acc, "acc")
    if acc.size and not (_INT32.min <= acc.min() and acc.max() <= _INT32.max):
        raise ValueError(f"acc must fit int32, got values from {acc.min()} to {acc.max()}")
    shift = multiplier.shift
    if legal and shift.size and not (legal[0] <= shift.min() and shift.max() <= legal[1]):
        raise ValueError(f"{dialect} takes shifts from {legal[0]} to {legal[1]}, got {shift.min()}..{shift.max()}")
    if dialect.startswith("float32") and multiplier.real.max(initial=0) > np.finfo(np.float32).max:
        raise ValueError(f"{dialect} takes multipliers that float32 holds, got {multiplier.real.max()}")
    if not isinstance(fmt, IntFormat):
        raise ValueError(f"fmt must be an IntFormat, as in IntFormat(8), got {fmt!r}")
    if fmt.bits > 33:  # one more than a sum has: a proof can then see a code that does not fit int32
        raise ValueError(f"requantization takes formats of at most 33 bits, got {fmt}")
    zero_point = check_zero_point(zero_point, fmt)
    try:
        shape = np.broadcast_shapes(acc.shape, shift.shape)
    except ValueError:
        raise ValueError(f"the multiplier must broadcast against acc, got shapes {shift.shape} and {acc.shape}"
                         ) from None
    # Rows along which the multiplier does not change, worked on in blocks that stay in the cache.
    padded = (1,) * (len(shape) - shift.ndim) + shift.shape
    steady = max((axis + 1 for axis, size in enumerate(padded) if size != 1), default=0)
    rows, width = math.prod(shape[:steady]), math.prod(shape[steady:])
    x = np.broadcast_to(acc, shape).reshape(rows, width)
    parameters = [np.broadcast_to(p.reshape(padded[:steady]), shape[:steady]).reshape(rows, 1)
                  for p in (multiplier.real, multiplier.m, shift)]
    codes = np.empty((rows, width), fmt.dtype)
    tall, wide = max(1, _BLOCK // max(width, 1)), _BLOCK
    for top in range(0, rows, tall):
        real, m, s = (p[top:top + tall] for p in parameters)
        for left in range(0, width, wide):
            block = np.s_[top:top + tall, left:left + wide]
            whole = rule(x[block].astype(np.int64), real, m, s, zero_point) + zero_point
            codes[block] = np.clip(whole, fmt.min, fmt.max)
    return codes.reshape(shape)
