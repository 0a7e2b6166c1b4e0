"""Every requantization dialect a second time, in float64, for simulated inference.

Nothing here calls ``requantization`` or ``rounding``; only the recorded multipliers and the words are shared. Every
step is exact in float64: an integer of at most 53 bits, or one divided by a power of two; where that cannot be had,
a ``Fraction``. All rules are made of floor(v), ceil(v) = -floor(-v), and the two nearest integers
floor(v + 1/2) and -floor(-v + 1/2), which differ at a tie alone.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np

from refquant.integers.devices import dialect_of
from refquant.integers.dialects import Dialect
from refquant.integers.multiplier import Multiplier


def scale_by(acc: np.ndarray, multiplier: Multiplier, dialect: str | Dialect, zero_point: int = 0) -> np.ndarray:
    """acc·M rounded as ``dialect`` says, before the zero point is added, as integer-valued float64.

    acc: integer-valued float64 within ±2^53; multiplier broadcasts against it. ValueError for an unknown dialect.
    """
    words = dialect_of(dialect)
    early = zero_point if words.zero == "before" else 0
    if words.multiplier == "real":
        return _exact([acc], [multiplier.real], words, early)
    if words.multiplier == "float32":
        # Two 24-bit factors: float64 holds their product, so that only the cast to float32 rounds.
        factors = acc.astype(np.float32).astype(np.float64), multiplier.real.astype(np.float32).astype(np.float64)
        value = np.clip(factors[0] * factors[1], -(2.0**66), 2.0**66).astype(np.float32)
        if early:  # the sum is rounded to float32 too, and then holds the zero point
            value = (value.astype(np.float64) + early).astype(np.float32)
        value = value.astype(np.float64)
        # Beyond 2^33 only the sign matters, or, where codes wrap, the last 33 bits.
        value = np.fmod(value, 2.0**41) if words.end == "wrap" else np.clip(value, -(2.0**33), 2.0**33)
        return _rounded(lambda sign, half: np.floor(sign * value + half), words.last, 0) - early
    shift = multiplier.shift.astype(np.float64)
    if np.abs(acc).max(initial=0) > 2.0**36 or (words.end == "wrap" and shift.max(initial=-99) > 0):
        return _in_rationals(acc, multiplier, words, early)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    width = float(words.multiplier[1:])
    m = multiplier.m.astype(np.float64)
    if width < 31:
        m = np.minimum(np.floor(m / 2.0 ** (31 - width) + 0.5), 2.0**width - 1)
    if words.left != "merged":
        shifted = acc * _two_to(left)
        acc = _wrap32(shifted) if words.left == "wrap" else np.clip(shifted, -(2.0**31), 2.0**31 - 1)
        left = np.zeros_like(left)
    t = width - left + (right if words.first == "none" else 0.0)

    def product(sign: int, half: float) -> np.ndarray:
        return _floor_of_products([sign * acc], [m], t, half)

    if words.first == "none":
        return _rounded(product, words.last, early)
    high = _rounded(product, words.first, 0) / _two_to(right)
    return _rounded(lambda sign, half: np.floor(sign * high + half), words.last, early)


def scale_several(sums: list[np.ndarray], multipliers: list[Multiplier], dialect: str | Dialect, zero_point: int = 0
                  ) -> np.ndarray:
    """Σ sums_i·M_i rounded once, as ``dialect`` says, before the zero point is added, as integer-valued float64."""
    words = dialect_of(dialect)
    early = zero_point if words.zero == "before" else 0
    if words.multiplier == "real":
        return _exact(sums, [M.real for M in multipliers], words, early)
    if (words.multiplier, words.left, words.first) != ("m31", "merged", "none"):
        raise ValueError(f"simulated inference does not add several sums in the dialect {dialect!r}")
    shift, ms = multipliers[0].shift.astype(np.float64), [M.m.astype(np.float64) for M in multipliers]
    return _rounded(lambda sign, half: _floor_of_products([sign * one for one in sums], ms, 31 - shift, half),
                    words.last, early)


def _rounded(floor_of: Callable[[int, float], np.ndarray], rule: str, early: int) -> np.ndarray:
    """v rounded by ``rule`` from floor_of(sign, half) = floor(sign·v + half); early: added to v where a rule asks for
    the sign or the parity."""
    if rule == "floor":
        return floor_of(1, 0.0)
    if rule == "half_up":
        return floor_of(1, 0.5)
    if rule == "half_down":
        return -floor_of(-1, 0.5)
    if rule == "ceil":
        return -floor_of(-1, 0.0)
    if rule in ("toward_zero", "away_from_zero", "to_odd"):
        below, above = floor_of(1, 0.0), -floor_of(-1, 0.0)
        takes_below = ((below + early) % 2 == 1 if rule == "to_odd" else
                       (below + early >= 0) == (rule == "toward_zero"))
        return np.where(takes_below, below, above)
    up, down = floor_of(1, 0.5), -floor_of(-1, 0.5)
    takes_up = {"half_even": (up + early) % 2 == 0, "half_away": up + early > 0,
                "half_toward_zero": up + early <= 0}[rule]
    return np.where(takes_up, up, down)


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


def _rounded_fraction(value: Fraction, rule: str, early: int) -> int:
    def floor_of(sign: int, half: float) -> np.ndarray:
        return np.asarray(floor(sign * value + Fraction(half)), object)

    return int(_rounded(floor_of, rule, early))


def _far(code: int, words: Dialect) -> float:
    """A code of any size as float64: its sign where codes saturate, its last 41 bits where they wrap."""
    return float((code + 2**40) % 2**41 - 2**40 if words.end == "wrap" else min(max(code, -(2**40)), 2**40))


def _in_rationals(acc: np.ndarray, multiplier: Multiplier, words: Dialect, early: int) -> np.ndarray:
    """Dialects of m and shift for sums whose products float64 does not hold, one by one; far codes as they wrap."""
    width = int(words.multiplier[1:])

    def one(x: float, m: int, shift: int) -> float:
        whole, left, right = int(x), max(shift, 0), max(-shift, 0)
        m = min(floor(Fraction(m, 2 ** (31 - width)) + Fraction(1, 2)), 2**width - 1) if width < 31 else m
        if words.left != "merged":
            whole = whole << left
            whole = (whole + 2**31) % 2**32 - 2**31 if words.left == "wrap" else min(max(whole, -(2**31)), 2**31 - 1)
            left = 0
        if words.first == "none":
            code = _rounded_fraction(Fraction(whole * m, 2 ** (width - left + right)), words.last, early)
        else:
            high = _rounded_fraction(Fraction(whole * m, 2 ** (width - left)), words.first, 0)
            code = _rounded_fraction(Fraction(high, 2**right), words.last, early)
        return _far(code, words)

    parts = np.broadcast_arrays(acc, multiplier.m, multiplier.shift)
    values = [one(*v) for v in zip(*(part.ravel().tolist() for part in parts))]
    return np.array(values, np.float64).reshape(parts[0].shape)


def _two_to(exponent: np.ndarray | np.float64) -> np.ndarray:
    """2^exponent of whole floats, exact by definition (exp2 only by good practice)."""
    return np.ldexp(1.0, np.asarray(exponent).astype(np.int64))


def _wrap32(x: np.ndarray) -> np.ndarray:
    """x modulo 2^32, from -2^31 up."""
    return x - 2.0**32 * np.floor((x + 2.0**31) / 2.0**32)


def _exact(sums: list[np.ndarray], reals: list[np.ndarray], words: Dialect, early: int) -> np.ndarray:
    """round(Σ acc·real + early) - early of the exact sum."""
    with np.errstate(over="ignore"):
        products = [np.clip(acc * real, -(2.0**1000), 2.0**1000) for acc, real in zip(sums, reals)]
    # float64 rounds each product and addition by at most 2^-53 of itself; only that near to an integer or a tie can
    # it mislead. Beyond 2^33 only the sign matters, or, where codes wrap, all bits.
    slack = sum((np.abs(product) for product in products), np.float64(0)) * len(products) * 2.0**-52
    value: Any = sum(products, np.float64(0))
    far = np.abs(value) > 2.0**33
    value = np.clip(value, -(2.0**33), 2.0**33)
    found = np.array(_rounded(lambda sign, half: np.floor(sign * value + half), words.last, early))
    edges = np.abs(2 * value - np.rint(2 * value)) / 2
    if words.last.startswith("half"):
        edges = np.where(np.rint(2 * value) % 2 == 1, edges, 1.0)
    doubtful = (edges <= slack) & ~far | (far & (words.end == "wrap"))
    if doubtful.any():
        accs, factors = ([np.broadcast_to(v, value.shape)[doubtful].tolist() for v in values]
                         for values in (sums, reals))
        exact = (sum((Fraction(a) * Fraction(b) for a, b in zip(acc, real)), Fraction(0)) for acc, real in
                 zip(zip(*accs), zip(*factors)))
        found[doubtful] = [_far(_rounded_fraction(total, words.last, early), words) for total in exact]
    return found
