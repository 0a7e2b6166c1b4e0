"""From sums to codes, as LiteRT's kernels do it; the caller adds the zero point and clamps.

Each function takes integer sums and a real multiplier M, or one along the last axis, and gives integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.integers.formats import IntFormat, wrap
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize

INT32 = IntFormat(32)
FLOAT = np.float32


def wrap32(x: Any) -> np.ndarray:
    """What an int32 register holds."""
    x = np.asarray(x, np.int64)
    fits = x.size == 0 or (x.min() >= INT32.min and x.max() <= INT32.max)
    return x if fits else wrap(x, INT32).astype(np.int64)


def double_rounded(acc: np.ndarray, M: Any) -> np.ndarray:
    """A: gemmlowp's rounding doubling high multiply, then a rounding shift, ties away."""
    return _in_dialect(acc, M, "gemmlowp_double")


def neon(acc: np.ndarray, M: Any) -> np.ndarray:
    """B: the same with NEON's rounding shift, ties up."""
    return _in_dialect(acc, M, "neon_double")


def single_rounded(acc: np.ndarray, M: Any) -> np.ndarray:
    """C: one rounding in 64 bits, ties up."""
    return _in_dialect(acc, M, "single_round")


def _in_dialect(acc: np.ndarray, M: Any, dialect: str) -> np.ndarray:
    multiplier = Multiplier.from_real(np.asarray(M, np.float64))
    if np.ndim(M):
        multiplier = multiplier.along(acc.ndim - 1, acc.ndim)
    return requantize(acc, multiplier, INT32, dialect).astype(np.int64)


def float_half_even(acc: np.ndarray, M: Any) -> np.ndarray:
    """X: XNNPACK's: the sum as float32 times float32(M), rounded to even."""
    y = np.rint(acc.astype(FLOAT) * np.asarray(M, FLOAT)).astype(np.float64)
    return np.clip(y, -(2.0**31), 2.0**31).astype(np.int64)


def double_half_away(acc: np.ndarray, M: Any) -> np.ndarray:
    """F: in double, half away from zero."""
    y = acc * np.asarray(M, np.float64)
    return np.trunc(y + np.copysign(0.5, y)).astype(np.int64)


def rdbpot(x: np.ndarray, exponent: Any) -> np.ndarray:
    """x / 2^exponent, half away from zero (gemmlowp's RoundingDivideByPOT)."""
    x, exponent = np.asarray(x, np.int64), np.asarray(exponent)
    half = (1 << exponent) >> 1
    return np.where(x < 0, -((-x + half) >> exponent), (x + half) >> exponent)


def srdhm(a: Any, b: Any) -> np.ndarray:
    """round(a·b / 2^31), ties up, saturated at 2^31 - 1 (gemmlowp's SaturatingRoundingDoublingHighMul)."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    nudge = np.where(product >= 0, 2**30, 1 - 2**30)
    # C divides toward zero.
    total = product + nudge
    return np.minimum(np.where(total < 0, -(-total >> 31), total >> 31), 2**31 - 1)


def split(M: float) -> tuple[int, int]:
    """(m, s) with M ≈ m·2^(s - 31)."""
    multiplier = Multiplier.from_real(float(M))
    return int(multiplier.m), int(multiplier.shift)


def fma(a: Any, b: Any, c: Any) -> np.ndarray:
    """a·b + c of float32 rounded once to float32, as a fused multiply-add has it (IEEE 754).

    The product is exact in double. Rounding the sum to double and then to float32 would go wrong where the first
    rounding ends halfway between two float32: there one more bit of the sum, its error, decides.
    """
    p, c = np.broadcast_arrays(np.asarray(a, np.float64) * np.asarray(b, np.float64), np.asarray(c, np.float64))
    s = np.asarray(p + c)
    halfway = ((s.view(np.int64) & (2**29 - 1)) == 2**28) | (np.abs(s) < 2.0**-120)
    if halfway.any():
        back = s - p
        error = (p - (s - back)) + (c - back)
        beside = np.nextafter(s, np.where(error > 0, np.inf, -np.inf))
        s = np.where(halfway & (error != 0), beside, s)
    return s.astype(FLOAT)


def away(x: Any) -> np.ndarray:
    """The nearest whole number of float32 or float64, as a float, ties away from zero."""
    x = np.asarray(x)
    whole = np.trunc(x)
    return np.asarray(whole + np.where(np.abs(x - whole) >= 0.5, np.copysign(1, x), 0))


def half_away(x: Any) -> np.ndarray:
    """The same as an integer."""
    return away(x).astype(np.int64)


def as_int32(x: np.ndarray) -> np.ndarray:
    """Whole numbers in floats as x86 makes int32 of them: what it cannot hold, and NaN, becomes the lowest."""
    fits = np.abs(x) < 2.0**31
    return np.where(fits, np.where(fits, x, 0), -(2.0**31)).astype(np.int64)
