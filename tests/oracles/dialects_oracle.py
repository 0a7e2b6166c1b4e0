"""The nine requantization dialects in Python integers and exact rationals, written from their definitions.

For comparison with ``requantization.py`` and ``network/simulated_scaling.py``, of which it uses nothing. Integers
are unbounded, ``>>`` is floor, the real multiplier is a ``Fraction``, and float32 is rounded by hand.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
HALF = Fraction(1, 2)


@cache
def power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


@cache
def fixed_point(real: Fraction | float) -> tuple[int, int]:
    """(m, s) of M > 0: (f, s) = frexp(M), m = round(f·2^31) half away, 2^31 rolls over; (0, 0) where s < -31."""
    f = Fraction(real)
    s = floor_log2(f) + 1
    m = math.floor(f * power(31 - s) + HALF)
    if m == 2**31:
        m, s = 2**30, s + 1
    return (m, s) if s >= -31 else (0, 0)


def floor_log2(value: Fraction) -> int:
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if power(exponent) <= value else exponent - 1


@cache
def float32(value: Fraction | int) -> Fraction:
    """The nearest number with a 24-bit significand that is a multiple of 2^-149, ties to the even significand.

    No infinity: what float32 cannot reach stays large, and every code saturates all the same.
    """
    value = Fraction(value)
    if value == 0:
        return value
    unit = power(max(floor_log2(abs(value)) - 23, -149))
    return half_even(value / unit) * unit


def half_even(value: Fraction) -> int:
    low, rest = divmod(value.numerator, value.denominator)
    return low + (2 * rest > value.denominator or (2 * rest == value.denominator and low % 2 == 1))


def half_away(value: Fraction) -> int:
    nearest = (2 * abs(value.numerator) + value.denominator) // (2 * value.denominator)
    return nearest if value >= 0 else -nearest


def wrap32(x: int) -> int:
    return (x + 2**31) % 2**32 - 2**31


def srdhm(a: int, b: int) -> int:
    """Saturating rounding doubling high multiply, ties toward +infinity."""
    return INT32_MAX if a == b == INT32_MIN else (a * b + 2**30) >> 31


def rdbpot(x: int, e: int) -> int:
    """Rounding divide by a power of two, ties away from zero."""
    if e == 0:
        return x
    sign = 1 if x >= 0 else -1
    return sign * ((abs(x) + 2 ** (e - 1)) >> e)


def gemmlowp_double(x: int, M: Fraction, m: int, s: int, zero_point: int) -> int:
    return rdbpot(srdhm(wrap32(x * 2 ** max(s, 0)), m), max(-s, 0))


def neon_double(x: int, M: Fraction, m: int, s: int, zero_point: int) -> int:
    v, right = srdhm(wrap32(x * 2 ** max(s, 0)), m), max(-s, 0)
    return (v + 2 ** (right - 1)) >> right if right > 0 else v


def single_round(x: int, M: Fraction, m: int, s: int, zero_point: int) -> int:
    t = 31 - s
    return (x * m + 2 ** (t - 1)) >> t


def float32_half_even(x: int, M: Fraction, m: int, s: int, zero_point: int) -> int:
    return half_even(float32(float32(x) * float32(M)))


def float32_half_away(x: int, M: Fraction, m: int, s: int, zero_point: int) -> int:
    return half_away(float32(float32(x) * float32(M)))


def multiplier16(x: int, M: Fraction, m: int, s: int, zero_point: int) -> int:
    m16 = (m + 2**15) >> 16 if m < 0x7FFF0000 else 0x7FFF
    return (x * m16 + 2 ** (14 - s)) >> (15 - s)


def shift_floor(x: int, M: Fraction, m: int, s: int, zero_point: int) -> int:
    return (x * m) >> (31 - s)


def exact_half_even(x: int, M: Fraction, m: int, s: int, zero_point: int) -> int:
    return half_even(x * M)


def zero_point_first(x: int, M: Fraction, m: int, s: int, zero_point: int) -> int:
    return half_even(x * M + zero_point) - zero_point


# In the order of the table's columns, A to I.
ALL = (gemmlowp_double, neon_double, single_round, float32_half_even, float32_half_away, multiplier16, shift_floor,
       exact_half_even, zero_point_first)
NAMES = tuple(function.__name__ for function in ALL)
BY_NAME = dict(zip(NAMES, ALL))
# The greatest legal shift; the least is -31. The dialects that read M itself take any.
GREATEST_SHIFT = {"gemmlowp_double": 30, "neon_double": 30, "single_round": 30, "multiplier16": 14, "shift_floor": 30}


def whole(name: str, x: int, real: float, m: int, s: int, zero_point: int = 0) -> int:
    """x·M rounded as ``name`` says, before the zero point is added. real is M, exactly as the float says."""
    return BY_NAME[name](x, Fraction(real), m, s, zero_point)


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
