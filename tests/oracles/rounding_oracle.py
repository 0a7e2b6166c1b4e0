"""The rounding rules as sentences about exact rationals."""

from __future__ import annotations

import math
from fractions import Fraction

HALF = Fraction(1, 2)


def rational_round(value: Fraction, rule: str) -> int:
    """The rules as sentences about an exact rational (Python's own round() is half-even)."""
    if rule == "floor":
        return math.floor(value)
    if rule == "ceil":
        return math.ceil(value)
    if rule == "toward_zero":
        return math.trunc(value)
    if rule == "away_from_zero":
        return math.ceil(value) if value > 0 else math.floor(value)
    if rule == "to_odd":
        return value.numerator if value.denominator == 1 else 2 * math.floor(value / 2) + 1
    if rule == "half_even":
        return round(value)
    if rule == "half_up":
        return math.floor(value + HALF)
    if rule == "half_down":
        return math.ceil(value - HALF)
    up, down = math.floor(value + HALF), math.ceil(value - HALF)
    return {"half_away": (down, up), "half_toward_zero": (up, down)}[rule][value > 0]
