"""The nine requantization dialects a second time, in float64, for simulated inference.

Nothing here calls ``requantization`` or ``rounding``; only the recorded multipliers are shared. Every step is
exact in float64: an integer of at most 53 bits, or one divided by a power of two, or, where that
cannot be had (the two exact dialects near a tie), a ``Fraction``.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from refquant.integers.multiplier import Multiplier


def scale_by(acc: np.ndarray, multiplier: Multiplier, dialect: str, zero_point: int = 0) -> np.ndarray:
    """acc·M rounded as ``dialect`` says, before the zero point is added, as integer-valued float64.

    acc: integer-valued float64 within ±2^53; multiplier broadcasts against it. ValueError for an unknown dialect.
    """
    m, shift = multiplier.m.astype(np.float64), multiplier.shift.astype(np.float64)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    if dialect in ("single_round", "shift_floor", "multiplier16") and np.abs(acc).max(initial=0) > 2.0**36:
        return _in_rationals(acc, multiplier, dialect)
    if dialect == "single_round":
        return _floor_of_products([acc], [m], 31 - shift, 0.5)
    if dialect == "shift_floor":
        return _floor_of_products([acc], [m], 31 - shift, 0.0)
    if dialect in ("gemmlowp_double", "neon_double"):
        high = _floor_of_products([_wrap32(acc * _two_to(left))], [m], np.float64(31), 0.5)
        return _half_away(high / _two_to(right)) if dialect == "gemmlowp_double" else np.floor(
            high / _two_to(right) + 0.5)
    if dialect == "multiplier16":
        m16 = np.minimum(np.floor(m / 65536 + 0.5), 32767)
        return np.floor(acc * m16 / _two_to(15 - shift) + 0.5)
    if dialect in ("float32_half_even", "float32_half_away"):
        # Two 24-bit factors: float64 holds their product, so that only the cast to float32 rounds.
        factors = acc.astype(np.float32).astype(np.float64), multiplier.real.astype(np.float32).astype(np.float64)
        product = np.clip(factors[0] * factors[1], -(2.0**33), 2.0**33).astype(np.float32).astype(np.float64)
        return np.rint(product) if dialect == "float32_half_even" else _half_away(product)
    if dialect == "exact_half_even":
        return _exact([acc], [multiplier.real], 0)
    if dialect == "zero_point_first":
        return _exact([acc], [multiplier.real], zero_point)
    raise ValueError(f"simulated inference does not know the dialect {dialect!r}")


def scale_several(sums: list[np.ndarray], multipliers: list[Multiplier], dialect: str, zero_point: int = 0
                  ) -> np.ndarray:
    """Σ sums_i·M_i rounded once, as ``dialect`` says, before the zero point is added, as integer-valued float64."""
    if dialect in ("single_round", "shift_floor"):
        shift = multipliers[0].shift.astype(np.float64)
        return _floor_of_products(sums, [M.m.astype(np.float64) for M in multipliers], 31 - shift,
                                  0.5 if dialect == "single_round" else 0.0)
    if dialect in ("exact_half_even", "zero_point_first"):
        return _exact(sums, [M.real for M in multipliers], zero_point if dialect == "zero_point_first" else 0)
    raise ValueError(f"simulated inference does not add several sums in the dialect {dialect!r}")


def _floor_of_products(sums: list[np.ndarray], ms: list[np.ndarray], t: np.ndarray | np.float64, half: float
                       ) -> np.ndarray:
    """floor(Σ acc·m / 2^t + half) for |acc| <= 2^36, 0 <= m < 2^31, 1 <= t <= 62, and |Σ acc·m| < 2^67.

    acc·m can need 67 bits, so m is cut into 16-bit halves: Σ acc·m = high·2^16 + low, 0 <= low < 2^16, both
    exact. For t > 16, low is a mere fraction beside the integers under the floor, and drops out.
    """
    highs = [np.floor(m / 65536) for m in ms]
    product_low: np.ndarray = sum((acc * (m - high * 65536) for acc, m, high in zip(sums, ms, highs)), np.float64(0))
    carry = np.floor(product_low / 65536)
    high: np.ndarray = sum((acc * high for acc, high in zip(sums, highs)), carry)
    low = product_low - carry * 65536
    few, many = np.minimum(t, 16), np.maximum(t, 17) - 16
    coarse = np.floor((high + half * _two_to(many)) / _two_to(many))
    if np.all(t > 16):
        return coarse
    # A t of 16 or less shifts high to the left; where that exceeds 2^53 the codes saturate anyway.
    fine = high * _two_to(16 - few) + np.floor(low / _two_to(few) + half)
    return np.where(t > 16, coarse, fine)


def _in_rationals(acc: np.ndarray, multiplier: Multiplier, dialect: str) -> np.ndarray:
    """The three dialects of one shift for sums whose products float64 does not hold, one by one."""
    def one(x: float, m: int, shift: int) -> float:
        if dialect == "multiplier16":
            return float((2 * int(x) * min((m + 2**15) >> 16, 32767) // 2 ** (15 - shift) + 1) // 2)
        scaled = Fraction(int(x) * m, 2 ** (31 - shift))
        return float((scaled if dialect == "shift_floor" else scaled + Fraction(1, 2)) // 1)

    parts = np.broadcast_arrays(acc, multiplier.m, multiplier.shift)
    values = [one(*v) for v in zip(*(part.ravel().tolist() for part in parts))]
    return np.array(values, np.float64).reshape(parts[0].shape)


def _two_to(exponent: np.ndarray | np.float64) -> np.ndarray:
    """2^exponent of whole floats, exact by definition (exp2 only by good practice)."""
    return np.ldexp(1.0, np.asarray(exponent).astype(np.int64))


def _wrap32(x: np.ndarray) -> np.ndarray:
    """x modulo 2^32, from -2^31 up."""
    return x - 2.0**32 * np.floor((x + 2.0**31) / 2.0**32)


def _half_away(x: np.ndarray) -> np.ndarray:
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


def _exact(sums: list[np.ndarray], reals: list[np.ndarray], zero_point: int) -> np.ndarray:
    """round_half_even(Σ acc·real + zero_point) - zero_point of the exact sum."""
    with np.errstate(over="ignore"):
        products = [np.clip(acc * real, -(2.0**1000), 2.0**1000) for acc, real in zip(sums, reals)]
    # float64 rounds each product and addition by at most 2^-53 of itself; only that near to a tie can it mislead.
    slack = sum((np.abs(product) for product in products), np.float64(0)) * len(products) * 2.0**-52
    value = np.clip(sum(products, np.float64(0)), -(2.0**33), 2.0**33)  # beyond that only the sign matters
    nearest = np.array(np.rint(value))
    doubtful = np.abs(np.abs(value - nearest) - 0.5) <= slack
    if doubtful.any():
        accs, factors = ([np.broadcast_to(v, value.shape)[doubtful].tolist() for v in values]
                         for values in (sums, reals))
        exact = (sum(Fraction(a) * Fraction(b) for a, b in zip(acc, real)) for acc, real in
                 zip(zip(*accs), zip(*factors)))
        nearest[doubtful] = [float(max(min(round(total + zero_point) - zero_point, 2**33), -(2**33)))
                             for total in exact]
    return nearest
