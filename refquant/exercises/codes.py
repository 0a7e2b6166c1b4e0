"""Exercises 00 to 09: the whole in one layer, formats, rounding, Q(X, S)."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refquant.convolution.direct import convolve_exact
from refquant.exercises.judging import Exercise, Property, equals, near
from refquant.integers.formats import IntFormat, wrap
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.integers.rounding import round_fraction
from refquant.scales.linear import quantize
from refquant.strategies import codes, reals

_POWERS = st.integers(-3, 6).map(lambda k: 2.0**k)
_BITS = st.integers(2, 16)


@st.composite
def _layers(draw: st.DrawFn) -> tuple[Any, ...]:
    channels, outputs, size = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(3, 4))
    x, w = draw(reals((1, channels, size, size), np.float64)), draw(reals((outputs, channels, 3, 3), np.float64))
    return x, w, draw(_POWERS), draw(_POWERS), draw(_POWERS)


@st.composite
def _tied_layers(draw: st.DrawFn) -> tuple[Any, ...]:
    """Codes that are the values themselves, and M = 1/2: every odd sum is a tie."""
    x, w = draw(codes(IntFormat(4), (1, 1, 3, 4))), draw(codes(IntFormat(3), (1, 1, 3, 3)))
    return x.astype(np.float64), w.astype(np.float64), 1.0, 1.0, 0.5


def _layer(x: np.ndarray, w: np.ndarray, S_x: float, S_w: float, S_y: float) -> np.ndarray:
    eight = IntFormat(8, narrow=True)
    acc = convolve_exact(quantize(x, S_x, eight), quantize(w, S_w, eight))
    return requantize(acc, Multiplier.from_real(S_y / (S_x * S_w)), eight, "real,merged,none,half_up")


def _half_even(x: int, shift: int) -> int:
    return round_fraction(Fraction(x, 2**shift), "half_even")


def _ties(x: int, shift: int) -> str:
    exact = Fraction(x, 2**shift)
    return f"{x} / 2^{shift} is {float(exact)}" + (": a tie goes to even" if exact.denominator == 2 else "")


def _witness(solution: Any, one: str, other: str) -> str | None:
    found = solution(one, other)
    if not (isinstance(found, (int, float)) and math.isfinite(found)):
        return f"your function gave {found!r} for ({one!r}, {other!r}), where a finite number is asked for"
    a, b = (round_fraction(Fraction(found), rule) for rule in (one, other))
    return None if a != b else f"your function gave {found} for ({one!r}, {other!r}): both rules round it to {a}"


def _wrapped(x: int, bits: int) -> int:
    return int(wrap(np.int64(x), IntFormat(bits)))


def _quantized(x: float, S: float, bits: int) -> int:
    most = 2 ** (bits - 1) - 1
    return min(max(round_fraction(Fraction(x) * Fraction(S), "half_away"), -most), most)


def _rises(solution: Any, x: float, y: float, S: float, bits: int) -> str | None:
    low, high = sorted((x, y))
    a, b = solution(low, S, bits), solution(high, S, bits)
    return None if a <= b else (
        f"your function gave {a} for {low} and {b} for {high} (S = {S}, {bits} bits): it must rise")


def _odd(solution: Any, x: float, S: float, bits: int) -> str | None:
    a, b = solution(x, S, bits), solution(-x, S, bits)
    return None if a == -b else (
        f"your function gave {a} for {x} and {b} for {-x} (S = {S}, {bits} bits): it must be odd")


_X = st.integers(-2000, 2000).map(lambda n: n / 16)
_INTEGERS = st.integers(-1000, 1000)
# Where widths change: ±2^k and their neighbours.
_POWERS_OF_TWO = st.tuples(st.integers(0, 9), st.sampled_from((-1, 1)), st.integers(-1, 1)).map(
    lambda a: a[1] * 2 ** a[0] + a[2])
_ENDS = st.tuples(*[_POWERS_OF_TWO | _INTEGERS] * 2).map(sorted).map(tuple)
_RULES = ("half_away", "half_even", "half_up", "half_down", "toward_zero", "floor")

EXERCISES = (
    Exercise("00", "layer", (
        Property("every code is right", _layers(), equals(
            _layer, "codes half away from zero, integer sums, one product with M, ties up, clipped to ±127")),
        Property("ties of acc·M go up", _tied_layers(), equals(
            _layer, "M is 1/2 here: half of an odd sum is a tie, and goes up")),)),
    Exercise("01", "wrap", (
        Property("numbers that fit stay", st.tuples(st.integers(-8, 7), st.integers(4, 16)), equals(_wrapped)),
        Property("the register keeps the lowest bits", st.tuples(_INTEGERS, st.integers(1, 12)), equals(
            _wrapped, lambda x, bits: f"{x} modulo {2**bits}, from {-(2 ** (bits - 1))} to {2 ** (bits - 1) - 1}")),
    )),
    Exercise("02", "saturate", (
        Property("both ends hold", st.tuples(_INTEGERS, st.integers(1, 12)), equals(
            lambda x, bits: min(max(x, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1),
            lambda x, bits: f"{bits} bits hold {-(2 ** (bits - 1))} to {2 ** (bits - 1) - 1}")),)),
    Exercise("03", "smallest_bits", (
        Property("the fewest bits that hold both ends", _ENDS, equals(
            lambda low, high: next(b for b in range(1, 64) if -(2 ** (b - 1)) <= low and high <= 2 ** (b - 1) - 1),
            "two's complement of b bits holds -2^(b-1) to 2^(b-1) - 1")),)),
    Exercise("04", "shift_half_even", (
        Property("no tie: to the nearest", st.tuples(_INTEGERS, st.integers(1, 8)).filter(
            lambda a: a[0] % 2 ** a[1] != 2 ** (a[1] - 1)), equals(_half_even, _ties)),
        Property("ties go to even", st.tuples(_INTEGERS, st.integers(1, 8)).map(
            lambda a: ((a[0] << a[1]) + (1 << (a[1] - 1)), a[1])), equals(_half_even, _ties)),
        Property("a shift by 0 changes nothing", st.tuples(_INTEGERS, st.just(0)), equals(_half_even)),
        Property("integers beyond a float's 53 bits too", st.tuples(
            _INTEGERS.map(lambda n: n + 2**60), st.integers(1, 4)), equals(_half_even, _ties)),
    )),
    Exercise("05", "witness", (
        Property("the two rules differ on it", st.tuples(st.sampled_from(_RULES), st.sampled_from(_RULES)).filter(
            lambda a: a[0] != a[1]), _witness),)),
    Exercise("06", "quantize", (
        Property("codes half away from zero", st.tuples(_X, _POWERS, _BITS).filter(
            lambda a: abs(a[0] * a[1]) <= 2 ** (a[2] - 1) - 1), equals(
            _quantized, lambda x, S, bits: f"x·S is {x * S}")),
        Property("both ends are clipped, symmetrically", st.tuples(_X, _POWERS, _BITS), equals(
            _quantized, lambda x, S, bits: f"codes end at ±{2 ** (bits - 1) - 1}")),
        Property("it rises", st.tuples(_X, _X, _POWERS, _BITS), _rises),
        Property("it is odd", st.tuples(_X, _POWERS, _BITS), _odd),
    )),
    Exercise("07", "error_bound", (
        Property("half a step", st.tuples(st.integers(1, 400).map(lambda n: n / 8)), near(
            lambda S: 0.5 / S, "within the range rounding moves x·S by at most 1/2, and x by that over S")),)),
    Exercise("08", "max_scale", (
        Property("the largest value gets the largest code", st.tuples(
            st.lists(_X, min_size=1, max_size=6).filter(lambda x: any(x)).map(np.array), _BITS), near(
            lambda x, bits: (2 ** (bits - 1) - 1) / np.abs(x).max(), "(2^(b-1) - 1) / max|x|")),
        Property("zeros get the scale 1", st.tuples(st.integers(1, 4).map(np.zeros), _BITS), near(
            lambda x, bits: 1.0, "any scale is right for zeros, but not infinity")),
    )),
    Exercise("09", "dequantize", (
        Property("a code minus its zero point, over S", st.tuples(
            st.integers(-128, 127), st.integers(1, 400).map(lambda n: n / 8), st.integers(-128, 127)), near(
            lambda q, S, zero_point: (q - zero_point) / S)),
        Property("the zero point is real 0", st.tuples(st.integers(-128, 127), _POWERS).map(
            lambda a: (a[0], a[1], a[0])), near(lambda q, S, zero_point: 0.0)),
    )),
)
