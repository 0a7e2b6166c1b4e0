"""The proven worst cases against every operand of small cases, against the convolutions, and exact logarithms."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from recording import convolve_with_lanes

from refquant.convolution.bounds import (
    direct_bounds,
    dot_product_range,
    l1_budget,
    largest_count,
    stage_bound,
    widest_operand,
)
from refquant.convolution.direct import convolve_exact
from refquant.integers.accumulation import product_range, safe_products_per_lane
from refquant.integers.formats import IntFormat
from refquant.integers.stages import headroom_bits
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


def test_unsigned_64_bit_weights_are_weights_too_and_a_bound_beyond_int64_is_refused_not_wrapped():
    """2^62·4 is 2^64, which int64 arithmetic turns into 0."""
    with pytest.raises(OverflowError, match=r"^sums can reach 18446744073709551616, which int64 does not hold$"):
        dot_product_range(np.array([[2**62]]), -4, 4)
    least, greatest = dot_product_range(np.array([[2, 3]], np.uint64), -4, 4)
    assert (least.tolist(), greatest.tolist()) == ([-20], [20])


@pytest.mark.parametrize(("low", "high", "bits", "register"), [
    (-63, 63, 7, IntFormat(8)),
    (0, 127, 7, IntFormat(8, signed=False)),  # a code of uint7: nothing is negative, so no bit for a sign
    (0, 255, 8, IntFormat(8, signed=False)),
    (-1, 127, 8, IntFormat(8)),
    (-1, 128, 9, IntFormat(16)),
    (-2**31, 2**31 - 1, 32, IntFormat(32)),
    (-2**31 - 1, 0, 33, IntFormat(64)),
])
def test_a_stage_tells_the_bits_it_needs_and_the_register_they_go_into(low, high, bits, register):
    stage = stage_bound("sum", low, high)
    assert (stage.bits, stage.format) == (bits, register)
    assert stage.headroom_bits == headroom_bits(low, high, register) >= 0
    assert stage.fits and not replace(stage, format=IntFormat(4)).fits


def test_a_lane_is_int16_however_little_it_holds():
    lane = stage_bound("lane", -3, 4)
    assert (lane.bits, lane.format) == (4, IntFormat(16))


@pytest.mark.parametrize(("low", "high"), [(0, 2**63), (-2**63 - 1, 0)])
def test_a_stage_beyond_int64_is_refused_not_wrapped(low, high):
    with pytest.raises(OverflowError, match=rf"^stage sum can reach {low}\.\.{high}, which int64 does not hold$"):
        stage_bound("sum", low, high)


# --- direct convolution and int16 lanes -----------------------------------------------------------------------

TINY = [IntFormat(1), IntFormat(1, signed=False), IntFormat(2), IntFormat(2, narrow=True), IntFormat(2, signed=False)]


@pytest.mark.parametrize("x_format", TINY, ids=str)
@pytest.mark.parametrize("w_format", TINY, ids=str)
def test_direct_is_the_least_and_greatest_sum_of_all_operands_there_are(x_format, w_format):
    sums = [sum(a * b for a, b in zip(x, w))
            for x in itertools.product(range(x_format.min, x_format.max + 1), repeat=3)
            for w in itertools.product(range(w_format.min, w_format.max + 1), repeat=3)]
    bound = direct_bounds(x_format, w_format, 3, (1, 1))[0]
    assert (bound.stage, bound.min, bound.max) == ("direct", min(sums), max(sums))


@given(int_formats(1, 8), int_formats(1, 8), st.integers(1, 40), st.sampled_from(((1, 1), (3, 3), (2, 3))))
@example(IntFormat(7, narrow=True), IntFormat(7, narrow=True), 64, (3, 3))
@example(IntFormat(7), IntFormat(7), 64, (3, 3))
@example(IntFormat(7, signed=False), IntFormat(7, narrow=True), 1, (3, 3))  # nine products: two in the first lane
@example(IntFormat(8, signed=False), IntFormat(8, signed=False), 1, (1, 1))  # one product is too many for a lane
def test_the_witnesses_of_direct_convolution_attain_its_bounds(x_format, w_format, channels, kernel):
    direct, *lanes = direct_bounds(x_format, w_format, channels, kernel)
    assert bool(lanes) == (abs(max(product_range(x_format, w_format), key=abs)) <= 2**15 - 1)
    for value, x, w in ((direct.min, direct.x_min, direct.w_min), (direct.max, direct.x_max, direct.w_max)):
        assert x.shape == w.shape == (channels, *kernel) and not x.flags.writeable
        assert convolve_exact(x[None], w[None]).tolist() == [[[[value]]]]
    for lane in lanes:
        low, high = (convolve_with_lanes(x[None], w[None], x_format, w_format)[1]
                     for x, w in ((lane.x_min, lane.w_min), (lane.x_max, lane.w_max)))
        assert (low.int16_min, high.int16_max) == (lane.min, lane.max)


def test_int16_lanes_by_hand():
    def lane(fmt, channels, w_format=None):
        bounds = direct_bounds(fmt, w_format or fmt, channels, (3, 3))
        return [(b.min, b.max) for b in bounds if b.stage == "lane"]

    assert lane(IntFormat(7), 64) == [(7 * -64 * 63, 7 * 64 * 64)]
    assert lane(IntFormat(7, narrow=True), 1) == [(-2 * 3969, 2 * 3969)]  # ceil(9 / 8) products, fewer than are safe
    assert lane(IntFormat(9), 64, IntFormat(2)) == []  # SMLAL multiplies bytes


def test_a_million_channels_cost_no_memory():
    bound = direct_bounds(IntFormat(7), IntFormat(7), 10**9, (3, 3))[0]
    assert bound.max == 9 * 10**9 * 4096 and bound.x_max.shape == (10**9, 3, 3)


# --- what fits an accumulator ---------------------------------------------------------------------------------

@given(st.integers(-2**20, 0), st.integers(0, 2**20), int_formats(8, 48), st.none() | int_formats(1, 12))
@example(-4096, 4032, IntFormat(16), None)
@example(-4032, 4096, IntFormat(16), None)  # 8·4096 misses int16 by one
def test_so_many_values_and_a_bias_always_add_up_within_the_accumulator_and_one_more_may_not(low, high, fmt, bias):
    assume(low < high)
    least, most = (min(bias.min, 0), bias.max) if bias else (0, 0)
    if least < fmt.min or fmt.max < most:  # not even the bias fits
        assert largest_count(low, high, fmt, bias) == 0
        return
    count = largest_count(low, high, fmt, bias)
    assert fmt.min <= count * low + least and count * high + most <= fmt.max
    assert (count + 1) * low + least < fmt.min or fmt.max < (count + 1) * high + most


@given(int_formats(1, 8), int_formats(1, 7))
def test_the_safe_schedule_is_the_largest_count_of_products_in_int16(x_format, w_format):
    most = largest_count(*product_range(x_format, w_format), IntFormat(16))
    assert safe_products_per_lane(x_format, w_format) == most


@pytest.mark.parametrize("x_format", TINY, ids=str)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_weights_within_the_l1_budget_never_overflow_and_one_unit_more_can(x_format, bits):
    accumulator = IntFormat(bits)
    budget = l1_budget(x_format, accumulator)
    overflowing = set()
    for w in itertools.product(range(-9, 10), repeat=2):
        norm = sum(abs(v) for v in w)
        if norm <= budget + 1:
            sums = [sum(a * b for a, b in zip(x, w))
                    for x in itertools.product(range(x_format.min, x_format.max + 1), repeat=2)]
            if not (accumulator.min <= min(sums) and max(sums) <= accumulator.max):
                overflowing.add(norm)
    assert overflowing == {budget + 1}


@given(st.integers(1, 16), st.booleans(), st.integers(2, 40))
def test_the_l1_budget_is_never_below_the_papers(bits, signed, p):
    """A2Q takes 2^(N - signed) for max|x|: exact for signed codes, one too large for unsigned ones."""
    papers = (2**(p - 1) - 1) // 2**(bits - signed)
    budget = l1_budget(IntFormat(bits, signed), IntFormat(p))
    assert budget == papers if signed else budget >= papers


@given(st.integers(1, 10**6), int_formats(1, 16), int_formats(24, 48), st.booleans(), st.booleans())
def test_the_widest_operand_fits_and_one_bit_more_does_not(products, other, accumulator, signed, narrow):
    try:
        widest = widest_operand(products, other, accumulator, signed=signed, narrow=narrow)
    except ValueError as error:
        fmt = IntFormat(1 + (signed and narrow), signed, signed and narrow)
        assert str(error).startswith(f"{products} products of {other} and {fmt} must fit {accumulator}, got ")
        low, high = product_range(fmt, other)
        assert products * low < accumulator.min or accumulator.max < products * high
        return
    assert (widest.signed, widest.narrow) == (signed, signed and narrow)
    low, high = product_range(widest, other)
    assert accumulator.min <= products * low and products * high <= accumulator.max
    low, high = product_range(IntFormat(widest.bits + 1, widest.signed, widest.narrow), other)
    assert products * low < accumulator.min or accumulator.max < products * high
