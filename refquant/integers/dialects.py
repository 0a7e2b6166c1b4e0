"""How a device turns a sum into a code: its dialect, said in six words, and one function that follows them.

    word        values                        what it says
    multiplier  real, float32, mW             M itself; M in float32; or m rounded to W bits, ties up
    left        merged, wrap, saturate        a left shift is part of the right one; or x·2^L in int32 comes first
    first       none or a rounding rule       the high half of x·m is rounded by itself (doubling high multiply)
    last        a rounding rule               what is dropped at the end
    zero        after, before                 the zero point is added after, or before, the last rounding
    end         saturate, wrap                the code is clamped to its format, or wraps

Nine dialects have names; one function computes all of them. ``devices`` names more.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from refquant.integers.checks import one_of
from refquant.integers.formats import IntFormat, saturate, wrap
from refquant.integers.rounding import RULES, round_fraction, round_values, shift_right, shifted_product

INT32 = IntFormat(32)


@dataclass(frozen=True)
class Dialect:
    """Six words that say how a device requantizes; the module's docstring explains them.

    multiplier: "real", "float32", or "m1" to "m31". left other than "merged", and first other than "none", need
    a multiplier of the kind "mW". ValueError for other words.

    >>> Dialect("m31", "wrap", "half_up", "half_away") == GEMMLOWP_DOUBLE
    True
    """

    multiplier: str
    left: str = "merged"
    first: str = "none"
    last: str = "half_up"
    zero: str = "after"
    end: str = "saturate"

    def __post_init__(self) -> None:
        one_of(self.multiplier, ("real", "float32", *(f"m{bits}" for bits in range(1, 32))), "multiplier")
        one_of(self.left, ("merged", "wrap", "saturate"), "left")
        one_of(self.first, ("none", *RULES), "first")
        one_of(self.last, RULES, "last")
        one_of(self.zero, ("after", "before"), "zero")
        one_of(self.end, ("saturate", "wrap"), "end")
        if not self.shifts and (self.left, self.first) != ("merged", "none"):
            raise ValueError(f"left and first must be merged and none with multiplier {self.multiplier}, got "
                             f"{self.left} and {self.first}")

    @property
    def shifts(self) -> bool:
        """Whether the sum is multiplied by m and shifted, not multiplied by a real."""
        return self.multiplier not in ("real", "float32")

    @property
    def width(self) -> int:
        """W of a multiplier mW."""
        return int(self.multiplier[1:])

    def rounded(self, m: np.ndarray) -> np.ndarray:
        """m of 31 bits as W bits, ties up."""
        return m if self.width == 31 else np.minimum(shift_right(m, 31 - self.width, "half_up"), 2**self.width - 1)

    def ended(self, value: np.ndarray, fmt: IntFormat) -> np.ndarray:
        """Codes of ``fmt``: the word ``end`` applied to integers."""
        return (saturate if self.end == "saturate" else wrap)(value, fmt)

    @property
    def words(self) -> str:
        """All six, as in "m31,wrap,half_up,half_away,after,saturate"."""
        return ",".join((self.multiplier, self.left, self.first, self.last, self.zero, self.end))


GEMMLOWP_DOUBLE = Dialect("m31", "wrap", "half_up", "half_away")
NEON_DOUBLE = Dialect("m31", "wrap", "half_up", "half_up")
SINGLE_ROUND = Dialect("m31", "merged", "none", "half_up")
FLOAT32_HALF_EVEN = Dialect("float32", last="half_even")
FLOAT32_HALF_AWAY = Dialect("float32", last="half_away")
MULTIPLIER16 = Dialect("m15", "merged", "none", "half_up")
SHIFT_FLOOR = Dialect("m31", "merged", "none", "floor")
EXACT_HALF_EVEN = Dialect("real", last="half_even")
ZERO_POINT_FIRST = Dialect("real", last="half_even", zero="before")

NAMED = {
    "gemmlowp_double": GEMMLOWP_DOUBLE,
    "neon_double": NEON_DOUBLE,
    "single_round": SINGLE_ROUND,
    "float32_half_even": FLOAT32_HALF_EVEN,
    "float32_half_away": FLOAT32_HALF_AWAY,
    "multiplier16": MULTIPLIER16,
    "shift_floor": SHIFT_FLOOR,
    "exact_half_even": EXACT_HALF_EVEN,
    "zero_point_first": ZERO_POINT_FIRST,
}
DIALECTS = tuple(NAMED)

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


def evaluate(dialect: Dialect, x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray,
             zero_point: int | np.ndarray = 0) -> np.ndarray:
    """round(x·M) + zero_point as the words of ``dialect`` say, before the word ``end``.

    x: int64; where left is not "merged", within int32. real, m, shift: of a ``Multiplier``, broadcasting against x,
    with a legal shift (``legal_shifts``). zero_point: one, or int64 of x's shape. Returns int64: what it does not
    hold is clipped to ±2^62 where codes saturate, and taken modulo 2^63 where they wrap. For ``real`` it works in
    rationals, one element at a time; ``requantize`` has a faster way for those.

    >>> x, real, m, shift = np.array([5, -5]), np.float64(0.5), np.int64(2**30), np.int64(0)
    >>> evaluate(SINGLE_ROUND, x, real, m, shift), evaluate(EXACT_HALF_EVEN, x, real, m, shift)
    (array([ 3, -2]), array([ 2, -2]))
    """
    early, late = (zero_point, 0) if dialect.zero == "before" else (0, zero_point)
    if dialect.multiplier == "real":
        triples = zip(*(v.ravel().tolist() for v in np.broadcast_arrays(x, real, early)))
        rounded = [round_fraction(Fraction(a) * Fraction(b) + z, dialect.last) for a, b, z in triples]
        return in_int64(np.array(rounded, object).reshape(np.broadcast_shapes(x.shape, real.shape)), dialect) + late
    if dialect.multiplier == "float32":
        with np.errstate(over="ignore"):
            product = x.astype(np.float32) * real.astype(np.float32)
            product = product + np.asarray(early, np.float32) if np.any(early) else product
        # Beyond 2^62 codes of at most 33 bits saturate; or they wrap to 0, as float32 has 24 bits.
        return round_values(np.clip(product, -(2.0**62), 2.0**62), dialect.last).astype(np.int64) + late
    width, m = dialect.width, dialect.rounded(m)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    if dialect.left != "merged" and left.max(initial=0) > 0:
        x = (wrap if dialect.left == "wrap" else saturate)(x << left, INT32).astype(np.int64)
    if dialect.left != "merged":
        left = np.zeros_like(left)
    if dialect.first == "none":
        return in_int64(shifted_product(x, m, width - left + right, dialect.last, early), dialect) + late
    high = shifted_product(x, m, width - left, dialect.first)
    return in_int64(shifted_product(high, np.int64(1), right, dialect.last, early), dialect) + late


def in_int64(value: np.ndarray, dialect: Dialect) -> np.ndarray:
    """Integers of any size as int64 that give the same codes; ``evaluate`` says how."""
    if value.dtype == object:
        value = np.clip(value, -(2**62), 2**62) if dialect.end == "saturate" else (value + 2**62) % 2**63 - 2**62
    return value.astype(np.int64)


def legal_shifts(dialect: Dialect) -> tuple[int, int] | None:
    """The least and greatest shift that the dialect takes; None where it reads M itself, and takes any."""
    return (-31, dialect.width - 1) if dialect.shifts else None
