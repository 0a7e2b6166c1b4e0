"""Every rounding rule by name, on floats, on integer quotients and on exact products.

Fast code that rounds by other means says why its results are equal. A rule only matters where a value is not an
integer; the rules differ as this table of ``round(x)`` shows:

    x                 -2.5   -1.5   -0.5    0.5    1.5    2.5    1.2   -1.2
    half_away           -3     -2     -1      1      2      3      1     -1
    half_even           -2     -2      0      0      2      2      1     -1
    half_up             -2     -1      0      1      2      3      1     -1
    half_down           -3     -2     -1      0      1      2      1     -1
    half_toward_zero    -2     -1      0      0      1      2      1     -1
    toward_zero         -2     -1      0      0      1      2      1     -1
    away_from_zero      -3     -2     -1      1      2      3      2     -2
    floor               -3     -2     -1      0      1      2      1     -2
    ceil                -2     -1      0      1      2      3      2     -1
    to_odd              -3     -1     -1      1      1      3      1     -1

``to_odd`` takes the odd one of the two neighbours (RISC-V's ``rod``): the last bit then records that
something was dropped, so that a second rounding is not misled.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, one_of

RULES = ("half_away", "half_even", "half_up", "half_down", "half_toward_zero", "toward_zero", "away_from_zero",
         "floor", "ceil", "to_odd")


def round_values(x: Any, rule: str = "half_away") -> np.ndarray:
    """Round floats to integer-valued floats of the same dtype, exactly as ``rule`` says.

    ``floor(x + 0.5)`` is not used: the sum rounds, and turns 0.49999999999999994 into 1.
    ``x - trunc(x)`` is exact, so ties are seen exactly. x: finite floats, any shape.

    >>> round_values(np.array([-2.5, 0.5, 0.49999999999999994]), "half_away")
    array([-3.,  1.,  0.])
    """
    one_of(rule, RULES, "rounding")
    x = np.asarray(x)
    if x.dtype.kind != "f":
        raise ValueError(f"x must hold floats, got dtype {x.dtype}")
    if rule == "floor":
        return np.floor(x)
    if rule == "ceil":
        return np.ceil(x)
    if rule == "half_even":
        return np.rint(x)
    whole = np.trunc(x)
    part = x - whole
    if rule == "toward_zero":
        return whole
    if rule in ("away_from_zero", "to_odd"):
        return whole + np.sign(part) * (1 if rule == "away_from_zero" else np.fmod(whole, 2) == 0)
    up = part > 0.5 if rule in ("half_down", "half_toward_zero") else part >= 0.5
    down = part < -0.5 if rule in ("half_up", "half_toward_zero") else part <= -0.5
    return whole + up - down


def _adjust(quotient: Any, remainder: Any, divisor: Any, rule: str) -> Any:
    """Turn floor division (0 <= remainder < divisor) into ``rule``; also works on object arrays."""
    twice, inexact = 2 * remainder, remainder != 0
    if rule == "floor":
        return quotient
    if rule == "ceil":
        return quotient + inexact
    if rule == "toward_zero":
        return quotient + ((quotient < 0) & inexact)
    if rule == "away_from_zero":
        return quotient + ((quotient >= 0) & inexact)
    if rule == "to_odd":
        return quotient + ((quotient % 2 == 0) & inexact)
    if rule == "half_up":
        return quotient + (twice >= divisor)
    if rule == "half_down":
        return quotient + (twice > divisor)
    # On a tie the two neighbours are quotient and quotient + 1.
    upper_wins = {"half_away": quotient >= 0, "half_toward_zero": quotient < 0, "half_even": quotient % 2 == 1}[rule]
    return quotient + ((twice > divisor) | ((twice == divisor) & upper_wins))


def shift_right(x: Any, shift: Any, rule: str = "half_up", offset: Any = 0) -> np.ndarray:
    """``x / 2^shift + offset`` rounded by ``rule``, in int64, without a wider intermediate.

    x: integers, any shape. shift: integers 0..62 that broadcast against x. Nothing is added before
    the shift, so no x overflows, int64's extremes included. offset: integers; it matters beyond its own value
    where a rule asks for the parity or the sign of the result.

    >>> shift_right(np.array([-5, -3, 1, 3]), 1, "half_even")
    array([-2, -2,  0,  2])
    """
    one_of(rule, RULES, "rounding")
    x, shift = as_integers(x, "x"), as_integers(shift, "shift")
    if x.dtype == np.uint64:
        raise ValueError("x must fit int64, got dtype uint64")
    if shift.size and not (0 <= shift.min() and shift.max() <= 62):
        raise ValueError(f"shift must be from 0 to 62, got {shift.min()}..{shift.max()}")
    shift = shift.astype(np.int64)
    if rule == "half_up" and shift.size and shift.min() >= 2:
        # The same in three passes: floor(x/2^n + 1/2) = floor((floor(x/2^(n-1)) + 1) / 2).
        half_up = ((x >> (shift - 1)) + 1) >> 1
        return half_up + offset if np.any(offset) else half_up
    quotient = x >> shift
    if np.any(offset):
        quotient = quotient + offset
    divisor = np.left_shift(np.int64(1), shift)
    return _adjust(quotient, x & (divisor - 1), divisor, rule)


def shifted_product(x: np.ndarray, m: np.ndarray, shift: Any, rule: str, offset: Any = 0) -> np.ndarray:
    """``x·m / 2^shift + offset`` rounded by ``rule``: ``shift_right`` of a product that int64 may not hold.

    x, m: int64, broadcasting; m >= 0. x may hold Python's integers too. Where 63 bits do not hold a product, the
    result holds Python's integers.

    >>> shifted_product(np.array([5]), np.array(2**30), 31, "half_up")
    array([3])
    >>> shifted_product(np.array([2**40]), np.array(2**30), 1, "half_up")
    array([590295810358705651712], dtype=object)
    """
    largest = max(-int(x.min(initial=0)), int(x.max(initial=0))) * int(m.max(initial=0))
    if x.dtype != object and largest < 2**63:
        return shift_right(x * m, shift, rule, offset)
    divisor = 2 ** np.asarray(shift).astype(object)
    product = x.astype(object) * m.astype(object)
    quotient = product // divisor
    return np.asarray(_adjust(quotient + offset, product - quotient * divisor, divisor, rule))


def round_fraction(x: Fraction, rule: str = "half_away") -> int:
    """Round a rational exactly.

    >>> round_fraction(Fraction(-5, 2), "half_up")
    -2
    """
    one_of(rule, RULES, "rounding")
    quotient, remainder = divmod(x.numerator, x.denominator)
    return int(_adjust(quotient, remainder, x.denominator, rule))


def round_product(x: Any, scale: Any, rule: str, limit: float) -> np.ndarray:
    """``round(x·scale)`` of the *exact* real product of two floats, clipped to ±limit <= 2^50, in float64.

    >>> float(0.1 * 5), float(round_product(0.1, 5.0, "half_down", 9))  # 0.1 is above 1/10
    (0.5, 1.0)
    """
    one_of(rule, RULES, "rounding")
    product = _same_side_product(x, scale, limit)
    return np.clip(round_values(product, rule), -limit, limit)


def round_product_sum(x: Any, scale: Any, offset: Any, rule: str, limit: float) -> np.ndarray:
    """``round(x·scale + offset)`` of the *exact* real sum, in int64; the product is clipped to ±(limit + 1).

    offset: integers below 2^33 in magnitude. It differs from ``round_product`` plus the offset where a rule asks
    for the parity or the sign of the result.

    >>> int(round_product_sum(0.5, 1.0, 1, "half_even", 9)), int(round_product(0.5, 1.0, "half_even", 9)) + 1
    (2, 1)
    """
    one_of(rule, RULES, "rounding")
    product = _same_side_product(x, scale, limit)
    below = np.floor(product)
    # What lies above the floor, in quarters: nothing, less than a half, a half, more than a half.
    part = (product > below).astype(np.int64) + (product >= below + 0.5) + (product > below + 0.5)
    return np.asarray(_adjust(below.astype(np.int64) + np.asarray(offset, np.int64), part, 4, rule))


def _same_side_product(x: Any, scale: Any, limit: float) -> np.ndarray:
    """A float64 on the same side of every integer and half as the exact x·scale, within ±(limit + 1).

    float64 multiplication rounds monotonically, and every point where a rule changes its mind (an
    integer or a half) is itself a float64; so the rounded product can mislead a rule only when it
    *equals* such a point while the exact product lies beside it. There the sign of the product's
    own rounding error, found exactly by Dekker's splitting, decides.
    """
    if not 0 < limit <= 2.0**50:
        raise ValueError(f"limit must be above 0 and at most 2^50, got {limit}")
    exact = all(np.asarray(v).dtype == np.float32 for v in (x, scale))  # 24 + 24 bits fit in 53
    x, scale = np.asarray(x, np.float64), np.asarray(scale, np.float64)
    with np.errstate(over="ignore", under="ignore"):
        product = np.clip(x * scale, -limit - 1, limit + 1)
    if not exact:
        at_edge = (2 * product == np.rint(2 * product)) & (x != 0)
        if at_edge.any():
            error = _product_error_sign(np.broadcast_to(x, product.shape)[at_edge],
                                        np.broadcast_to(scale, product.shape)[at_edge])
            nudged = np.array(product, copy=True)
            edge = product[at_edge]
            nudged[at_edge] = np.where(error == 0, edge, np.nextafter(edge, np.copysign(np.inf, error)))
            product = nudged
    return np.asarray(product)


def _product_error_sign(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sign of the exact a·b - float64(a·b): Dekker's product on the mantissas."""
    def split(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        big = v * 134217729.0  # 2^27 + 1
        high = big - (big - v)
        return high, v - high

    a, exponent_a = np.frexp(a)
    b, exponent_b = np.frexp(b)
    product = a * b
    (a_high, a_low), (b_high, b_low) = split(a), split(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    # A product as small as this can only have been rounded to the integer 0: all of the exact one is error.
    vanished = exponent_a + exponent_b < -1020
    return np.where(vanished, product, error)
