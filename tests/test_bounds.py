"""The proven worst cases against every corner of small cases, and against exact logarithms."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.bounds import dot_product_range, headroom_bits
from refquant.formats import IntFormat
from refquant.strategies import codes, int_formats


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    shape = (draw(st.integers(1, 3)), *draw(st.sampled_from(((1,), (4,), (2, 3), (1, 2, 2), (2, 1, 3)))))
    return draw(codes(draw(int_formats(1, 16)), shape))


limits = st.tuples(st.integers(-300, 0), st.integers(0, 300))


def corner_sums(row: list[int], low: int, high: int) -> list[int]:
    """The sums of all 2^n inputs that are ``low`` or ``high`` everywhere: a linear form has its extremes there."""
    return [sum(w * x for w, x in zip(row, corner)) for corner in itertools.product((low, high), repeat=len(row))]


@given(weights(), limits)
@example(np.array([[-128, -128]], np.int8), (-128, 127))  # the largest product is of the two lowest codes
@example(np.array([[0, 0], [3, -3]]), (0, 255))  # a dead channel beside a live one
@example(np.array([[5, -7]]), (0, 0))
def test_range_is_the_least_and_greatest_sum_over_all_corners(w_q, limits):
    least, greatest = dot_product_range(w_q, *limits)
    sums = [corner_sums(row, *limits) for row in w_q.reshape(len(w_q), -1).tolist()]
    assert least.dtype == greatest.dtype == np.int64
    assert least.tolist() == [min(row) for row in sums]
    assert greatest.tolist() == [max(row) for row in sums]


@given(weights(), limits, st.data())
def test_every_partial_sum_of_every_input_in_any_order_stays_within_the_range(w_q, limits, data):
    least, greatest = dot_product_range(w_q, *limits)
    for o, row in enumerate(w_q.reshape(len(w_q), -1).tolist()):
        x = data.draw(st.lists(st.integers(*limits), min_size=len(row), max_size=len(row)))
        order = data.draw(st.permutations(range(len(row))))
        for total in itertools.accumulate((row[i] * x[i] for i in order), initial=0):
            assert least[o] <= total <= greatest[o]


def test_a_bound_beyond_int64_is_refused_not_wrapped():
    """2^62·4 is 2^64, which int64 arithmetic turns into 0."""
    with pytest.raises((OverflowError, ValueError), match="int64"):
        dot_product_range(np.array([[2**62]]), -4, 4)


def test_unsigned_64_bit_weights_are_weights_too():
    least, greatest = dot_product_range(np.array([[2, 3]], np.uint64), -4, 4)
    assert (least.tolist(), greatest.tolist()) == ([-20], [20])


def test_lists_of_weights_are_taken():
    least, greatest = dot_product_range([[1, -2], [3, 4]], -1, 2)
    assert (least.tolist(), greatest.tolist()) == ([-5, -7], [4, 14])


@pytest.mark.parametrize(("low", "high"), [(1, 2), (-2, -1), (3, -3)])
def test_a_range_without_zero_is_refused(low, high):
    with pytest.raises(ValueError, match=rf"^the range must contain 0, got {low}\.\.{high}$"):
        dot_product_range(np.ones((1, 1), int), low, high)


def test_float_weights_are_refused():
    with pytest.raises(ValueError, match="weight must hold integers of at most 64 bits, got dtype float64"):
        dot_product_range(np.ones((1, 1)), -1, 1)


# --- headroom -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("low", "high", "fmt", "bits"), [
    (0, 127, IntFormat(8), 0.0),
    (-128, 0, IntFormat(8), 0.0),
    (-127, 127, IntFormat(8, narrow=True), 0.0),
    (-64, 0, IntFormat(8), 1.0),
    (-64, 127, IntFormat(8), 0.0),
    (-1, 1, IntFormat(8), math.log2(127)),  # the positive side is the tighter
    (-2**30, 1, IntFormat(32), 1.0),
    (0, 51, IntFormat(8, signed=False), math.log2(5)),
    (0, 254, IntFormat(8), -1.0),
    (-512, 3, IntFormat(8), -2.0),
    (0, 0, IntFormat(8), math.inf),
    (-1, 0, IntFormat(8, signed=False), -math.inf),
    (-1, 7, IntFormat(8, signed=False), -math.inf),
    (0, 1, IntFormat(1), -math.inf),  # int1 is -1..0
])
def test_headroom_by_hand(low, high, fmt, bits):
    assert headroom_bits(low, high, fmt) == bits


@given(st.integers(-2**40, 0), st.integers(0, 2**40), int_formats(1, 48))
@example(-2**31, 2**31 - 1, IntFormat(32))  # an exact fit
@example(-2**31, 2**31, IntFormat(32))  # one too far
def test_headroom_tells_whether_a_range_fits_and_how_often_it_doubles(low, high, fmt):
    bits = headroom_bits(low, high, fmt)
    fits = fmt.min <= low and high <= fmt.max
    assert (bits >= 0) == fits
    if math.isfinite(bits):
        # Stretched by 2^bits the range is as large as it may be: a little less fits, a little more does not.
        for stretch, expected in ((bits - 1e-9, True), (bits + 1e-9, False)):
            factor = Fraction(2**stretch)
            assert (fmt.min <= low * factor and high * factor <= fmt.max) == expected


@pytest.mark.parametrize("value", [5, -5, 127, -128])
def test_headroom_of_a_single_value_is_not_that_of_an_empty_range(value):
    limit = 127 if value > 0 else -128
    assert headroom_bits(value, value, IntFormat(8)) == math.log2(limit / value)


def test_a_single_value_that_does_not_fit_has_negative_headroom():
    assert headroom_bits(-300, -300, IntFormat(8)) < 0
    assert headroom_bits(300, 300, IntFormat(8)) < 0


@pytest.mark.parametrize(("low", "high", "bits"), [(0, 2**63, 64), (-2**63 - 1, 0, 64), (0, 2**55, 56)])
def test_headroom_is_negative_one_beyond_a_wide_format(low, high, bits):
    """2^63 / (2^63 - 1) rounds to 1 in float64, whose logarithm is 0: fits."""
    assert headroom_bits(low, high, IntFormat(bits)) < 0
