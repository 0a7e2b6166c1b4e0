"""Cosine similarity and SQNR against exact rationals and cases worked by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from refquant.integers.formats import IntFormat
from refquant.scales.linear import dequantize, quantize
from refquant.scales.metrics import cosine, sqnr_db

LARGEST, SMALLEST = 1.7976931348623157e308, 5e-324

moderate = st.floats(-1e6, 1e6).map(lambda v: 0.0 if abs(v) < 1e-6 else v)
pairs = st.integers(1, 10).flatmap(lambda n: st.tuples(*[st.lists(moderate, min_size=n, max_size=n)] * 2))


def rational_cosine(a: Any, b: Any) -> float:
    """The cosine from its exact square: one rounding to float and one square root."""
    a, b = [Fraction(float(v)) for v in a], [Fraction(float(v)) for v in b]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    square = dot * dot / (sum(x * x for x in a) * sum(y * y for y in b))
    return math.copysign(math.sqrt(square), dot)


def rational_sqnr(reference: Any, other: Any) -> float:
    """10·log10 of an exact ratio; the logarithm of a Python integer knows no overflow."""
    a, b = [Fraction(float(v)) for v in reference], [Fraction(float(v)) for v in other]
    ratio = sum(x * x for x in a) / sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return 10 * (math.log10(ratio.numerator) - math.log10(ratio.denominator))


# --- cosine -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("a, b, expected", [
    ([3, 4], [4, 3], 24 / 25),
    ([3, 4], [-3, -4], -1.0),
    ([1, 0], [0, 1], 0.0),
    ([1, 0], [1, 1], math.sqrt(1 / 2)),
    ([1, 2, 2], [2, 1, -2], 0.0),
    ([1, 2, 2], [2, 3, 6], 20 / 21),
    ([[2, 3], [6, 0]], [[1, 2], [2, 0]], 20 / 21),
    (5, 7, 1.0),
])
def test_cosines_by_hand(a, b, expected):
    got = cosine(a, b)
    assert type(got) is float and got == pytest.approx(expected, abs=1e-15)
    assert cosine(b, a) == got


@given(pairs)
@example(([1.0, 1e-6], [1e-6, 1.0]))    # nearly orthogonal
@example(([1.0, 1e-6], [1.0, -1e-6]))   # nearly parallel
@example(([2.5, 2.0], [7.0, 5.6]))      # parallel: the quotient comes out at 1 + 2^-52 without a clip
@example(([2.5, 2.0], [-7.0, -5.6]))
@example(([0.5, 2.5, 1.4], [1.8, 9.0, 5.04]))
def test_the_cosine_is_that_of_exact_arithmetic_and_within_one(pair):
    a, b = pair
    assume(any(a) and any(b))
    got = cosine(a, b)
    assert got == pytest.approx(rational_cosine(a, b), abs=1e-14) and -1 <= got <= 1


@given(pairs, st.floats(1e-6, 1e6), st.integers(-900, 900))
def test_the_cosine_sees_no_gain(pair, gain, exponent):
    a, b = np.array(pair[0]), np.array(pair[1])
    before = cosine(a, b)
    assert cosine(a * gain, b) == pytest.approx(before, abs=1e-14)
    assert cosine(a, -gain * b) == pytest.approx(-before if a.any() and b.any() else before, abs=1e-14)
    # A power of two changes no mantissa, and so no bit of the result.
    assert cosine(np.ldexp(a, exponent), b) == before == cosine(a, np.ldexp(b, exponent))


@given(st.lists(moderate, min_size=1, max_size=10))
def test_a_tensor_is_exactly_like_itself_and_exactly_unlike_its_negative(a):
    assert cosine(a, a) == 1.0
    if any(a):
        assert cosine(a, [-v for v in a]) == -1.0


def test_zero_tensors_are_alike_and_like_nothing_else():
    zero, other = np.zeros((2, 2)), np.array([[0.0, SMALLEST], [0.0, 0.0]])
    assert cosine(zero, zero) == cosine(zero, -zero) == 1.0
    assert cosine(zero, other) == cosine(other, zero) == 0.0
    assert cosine(zero, np.ones((2, 2))) == 0.0


@pytest.mark.parametrize("p", [SMALLEST, 2.0**-1060, 2.0**-1022, 1e-200, 1.0, 1e200, LARGEST / 4])
@pytest.mark.parametrize("q", [SMALLEST, 1e-320, 1e-160, 1.0, 1e160, LARGEST / 4])
def test_the_cosine_neither_overflows_nor_vanishes(p, q):
    assert cosine([3 * p, 4 * p], [4 * q, 3 * q]) == pytest.approx(24 / 25, abs=1e-15)
    assert cosine([p, -p], [q, -q]) == 1.0
    assert cosine([LARGEST, -LARGEST], [q, q]) == 0.0


def test_the_cosine_is_accumulated_in_float64():
    # In float32 the 2^24 + 1 in each sum of squares is lost, and int8 squares wrap.
    big, ones = np.float32(4096), np.ones(64, np.float32)
    a, b = np.concatenate([[big], ones]).astype(np.float32), np.concatenate([[big], -ones]).astype(np.float32)
    assert cosine(a, b) == pytest.approx((2**24 - 64) / (2**24 + 64), rel=1e-15, abs=0)
    codes = np.array([-128, 127, 100], np.int8)
    assert cosine(codes, codes[::-1]) == pytest.approx(rational_cosine(codes, codes[::-1]), abs=1e-15)


# --- SQNR ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("reference, other, expected", [
    ([10], [9], 20.0),                         # 100 / 1
    ([1.0, 0.0], [0.0, 0.0], 0.0),             # all of the signal is lost
    ([1.0], [-1.0], -6.020599913279624),       # 1 / 4
    ([3.0, 4.0], [3.0, 4.5], 20.0),            # 25 / 0.25
    ([1.0, 1.0], [2.0, 1.0], 3.010299956639812),  # 2 / 1
    ([[1.0], [0.0]], [[11.0], [0.0]], -20.0),  # 1 / 100
    ([100, 0, 0], [100, 1, 0], 40.0),
])
def test_sqnr_by_hand(reference, other, expected):
    got = sqnr_db(reference, other)
    assert type(got) is float and got == pytest.approx(expected, abs=1e-12)


@given(pairs)
@example(([1.0, 0.0], [1.0, 1e-6]))
def test_sqnr_is_that_of_exact_arithmetic(pair):
    reference, other = pair
    assume(any(reference) and reference != other)
    assert sqnr_db(reference, other) == pytest.approx(rational_sqnr(reference, other), abs=1e-9)


@given(pairs, st.floats(1e-6, 1e6), st.integers(-400, 400))
def test_a_gain_on_both_sides_does_not_change_sqnr(pair, gain, exponent):
    a, b = np.array(pair[0]), np.array(pair[1])
    assume(a.any() and np.abs(a - b).max() > 1e-6)
    before = sqnr_db(a, b)
    assert sqnr_db(gain * a, gain * b) == pytest.approx(before, abs=1e-6)
    assert sqnr_db(-a, -b) == before
    assert sqnr_db(np.ldexp(a, exponent), np.ldexp(b, exponent)) == pytest.approx(before, abs=1e-9)


def test_equal_tensors_have_no_noise_and_a_zero_reference_no_signal():
    x = np.array([1.0, -2.0])
    assert sqnr_db(x, x) == math.inf
    assert sqnr_db(np.zeros(2), np.zeros(2)) == math.inf
    assert sqnr_db(np.zeros(2), x) == -math.inf


@pytest.mark.parametrize("reference, other", [
    ([1e-200], [2e-200]),              # the squares underflow: no noise
    ([3e-170, 4e-170], [3e-170, 4.5e-170]),
    ([SMALLEST], [2 * SMALLEST]),
    ([1e200], [2e200]),                # the squares overflow
    ([1e160, 1.0], [1e160, 2.0]),      # a huge signal beside ordinary noise
    ([1e-200], [1.0]),                 # a tiny signal under ordinary noise
    ([1.0], [1e200]),
    ([LARGEST], [-LARGEST]),           # the difference itself overflows
    ([LARGEST, 1.0], [-LARGEST, 0.5]),  # one of the differences
    ([LARGEST, LARGEST], [0.0, LARGEST]),
], ids=repr)
def test_sqnr_neither_overflows_nor_vanishes(reference, other):
    assert sqnr_db(reference, other) == pytest.approx(rational_sqnr(reference, other), abs=1e-9)


def test_sqnr_is_accumulated_in_float64():
    codes, others = np.array([250, 3, 200], np.uint8), np.array([251, 255, 0], np.uint8)  # 3 - 255 wraps in uint8
    assert sqnr_db(codes, others) == pytest.approx(rational_sqnr(codes, others), abs=1e-12)
    x = np.array([4096, *[1] * 64], np.float32)
    assert sqnr_db(x, x + np.float32(1)) == pytest.approx(10 * math.log10((2**24 + 64) / 65), abs=1e-12)


@pytest.mark.parametrize("bits", range(2, 13))
def test_sqnr_of_a_full_range_even_signal_follows_from_its_step(bits):
    """Even values over ±2^(b-1) in steps of 1/8 around integer codes: signal (n²-1)/12·h², noise (8²-1)/12·h²."""
    fmt = IntFormat(bits)
    n, h = 8 * 2**bits, Fraction(1, 8)
    x = np.arange(8 * fmt.min - 4, 8 * fmt.max + 4) / 8 + 1 / 16
    assert x.size == n
    signal = (n * n - 1) * h * h / 12 + Fraction(float(x.mean())) ** 2
    noise = (8 * 8 - 1) * h * h / 12
    got = sqnr_db(x, dequantize(quantize(x, 1.0, fmt), 1.0))
    assert got == pytest.approx(10 * math.log10(signal / noise), abs=1e-9)


# --- refusals -----------------------------------------------------------------------------------------
