"""Cosine similarity and SQNR against exact rationals and cases worked by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from refquant.scales.metrics import cosine, sqnr_db

LARGEST, SMALLEST = 1.7976931348623157e308, 5e-324

moderate = st.floats(-1e6, 1e6).map(lambda v: 0.0 if abs(v) < 1e-6 else v)
pairs = st.integers(1, 10).flatmap(lambda n: st.tuples(*[st.lists(moderate, min_size=n, max_size=n)] * 2))


def rational_cosine(a: Any, b: Any) -> float:
    """The cosine from its exact square: one rounding to float and one square root."""
    a, b = [Fraction(float(v)) for v in a], [Fraction(float(v)) for v in b]
    if not any(a) or not any(b):
        return float(any(a) == any(b))
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    square = dot * dot / (sum(x * x for x in a) * sum(y * y for y in b))
    return math.copysign(math.sqrt(square), dot)


def rational_sqnr(reference: Any, other: Any) -> float:
    """10·log10 of an exact ratio; the logarithm of a Python integer knows no overflow."""
    a, b = [Fraction(float(v)) for v in reference], [Fraction(float(v)) for v in other]
    ratio = sum(x * x for x in a) / sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return 10 * (math.log10(ratio.numerator) - math.log10(ratio.denominator))


@pytest.mark.parametrize("a, b, expected", [
    ([3, 4], [4, 3], 24 / 25),
    ([1, 2, 2], [2, 1, -2], 0.0),
    ([[2, 3], [6, 0]], [[1, 2], [2, 0]], 20 / 21),
    (5, -7, -1.0),
])
def test_cosines_by_hand(a, b, expected):
    assert cosine(a, b) == pytest.approx(expected, abs=1e-15)


@given(pairs, st.integers(-900, 900))
@example(([1.0, 1e-6], [1e-6, 1.0]), 0)    # nearly orthogonal
@example(([1.0, 1e-6], [1.0, -1e-6]), 0)   # nearly parallel
@example(([2.5, 2.0], [7.0, 5.6]), 0)      # parallel: the quotient comes out at 1 + 2^-52 without a clip
@example(([2.5, 2.0], [-7.0, -5.6]), 0)
@example(([0.5, 2.5, 1.4], [1.8, 9.0, 5.04]), 0)
@example(([0.0, 0.0], [0.0, 0.0]), 0)      # zeros are alike
@example(([0.0, 0.0], [0.0, SMALLEST]), 0)  # and like nothing else
def test_the_cosine_is_that_of_exact_arithmetic_within_one_at_any_power_of_two(pair, exponent):
    a, b = pair
    got = cosine(a, b)
    assert type(got) is float and got == pytest.approx(rational_cosine(a, b), abs=1e-14) and -1 <= got <= 1
    assert got == cosine(b, a) == cosine(np.ldexp(a, exponent), b) == cosine(a, np.ldexp(b, exponent))
    assert cosine(a, a) == 1.0 and cosine(a, [-v for v in a]) == (-1.0 if any(a) else 1.0)


@pytest.mark.parametrize("p", [SMALLEST, 2.0**-1060, 2.0**-1022, 1e-200, 1.0, 1e200, LARGEST / 4])
def test_the_cosine_neither_overflows_nor_vanishes(p):
    for q in (SMALLEST, 1e-320, 1e-160, 1.0, 1e160, LARGEST / 4):
        assert cosine([3 * p, 4 * p], [4 * q, 3 * q]) == pytest.approx(24 / 25, abs=1e-15)
        assert cosine([p, -p], [q, -q]) == 1.0
        assert cosine([LARGEST, -LARGEST], [q, q]) == 0.0


@pytest.mark.parametrize("reference, other, expected", [
    ([10], [9], 20.0),                         # 100 / 1
    ([1.0], [-1.0], -6.020599913279624),       # 1 / 4
    ([[1.0], [0.0]], [[11.0], [0.0]], -20.0),  # 1 / 100
    ([1.0, -2.0], [1.0, -2.0], math.inf),      # no noise
    ([0.0, 0.0], [0.0, 0.0], math.inf),
    ([0.0, 0.0], [1.0, -2.0], -math.inf),      # no signal
])
def test_sqnr_by_hand(reference, other, expected):
    got = sqnr_db(reference, other)
    assert type(got) is float and got == pytest.approx(expected, abs=1e-12)


@given(pairs)
@example(([1.0, 0.0], [1.0, 1e-6]))
@example(([1e-200], [2e-200]))              # the squares underflow: no noise
@example(([3e-170, 4e-170], [3e-170, 4.5e-170]))
@example(([SMALLEST], [2 * SMALLEST]))
@example(([1e200], [2e200]))                # the squares overflow
@example(([1e160, 1.0], [1e160, 2.0]))      # a huge signal beside ordinary noise
@example(([1e-200], [1.0]))                 # a tiny signal under ordinary noise
@example(([1.0], [1e200]))
@example(([LARGEST], [-LARGEST]))           # the difference itself overflows
@example(([LARGEST, 1.0], [-LARGEST, 0.5]))  # one of the differences
@example(([LARGEST, LARGEST], [0.0, LARGEST]))
def test_sqnr_is_that_of_exact_arithmetic(pair):
    reference, other = pair
    assume(any(reference) and reference != other)
    assert sqnr_db(reference, other) == pytest.approx(rational_sqnr(reference, other), abs=1e-9)


@pytest.mark.parametrize("x, y", [
    (np.array([4096, *[1] * 64], np.float32), np.array([4096, *[-1] * 64], np.float32)),  # 2^24 + 1 of squares
    (np.array([250, 3, 200], np.uint8), np.array([251, 255, 0], np.uint8)),  # 3 - 255 and the squares wrap
    (np.array([-128, 127, 100], np.int8), np.array([100, 127, -128], np.int8))], ids=["float32", "uint8", "int8"])
def test_both_are_accumulated_in_float64(x, y):
    assert cosine(x, y) == pytest.approx(rational_cosine(x, y), rel=1e-15, abs=0)
    assert sqnr_db(x, y) == pytest.approx(rational_sqnr(x, y), abs=1e-12)
