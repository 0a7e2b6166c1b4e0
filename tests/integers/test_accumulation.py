"""`dot_int16` and its safe products per lane against plain Python integers, by the docstrings."""
from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lanes_oracle import POLICIES, Overflow, operands, plain_dot
from recording import dot_with_steps

from refquant.convolution.int16 import dot_lanes
from refquant.integers import accumulation, simd
from refquant.integers.accumulation import dot_int16, overflow_witness, product_range, safe_products_per_lane
from refquant.integers.formats import IntFormat
from refquant.strategies import codes

SEVEN, FULL_SEVEN = IntFormat(7, narrow=True), IntFormat(7)
EIGHT, BYTE = IntFormat(8), IntFormat(8, signed=False)
INT16 = (-(2**15), 2**15 - 1)


# --- how many products fit --------------------------------------------------------------------------------------

ALL_FORMATS = [IntFormat(bits, signed, narrow) for bits in range(1, 9)
               for signed, narrow in ((True, False), (True, True), (False, False)) if bits > 1 or not narrow]
ALL_PAIRS = list(itertools.product(ALL_FORMATS, repeat=2))


def test_the_safe_schedule_is_the_longest_chain_that_fits_and_the_witness_leaves_int16_after_one_product_more():
    for x_format, w_format in ALL_PAIRS:
        products = np.multiply.outer(*(np.arange(fmt.min, fmt.max + 1) for fmt in (x_format, w_format)))
        low, high = int(products.min()), int(products.max())
        assert product_range(x_format, w_format) == (low, high)
        if high > INT16[1]:
            assert x_format == w_format == BYTE
            continue
        # Adding one product after the other, as the lanes do, until the least or greatest sum leaves int16.
        safe = least = greatest = 0
        while INT16[0] <= least + low and greatest + high <= INT16[1]:
            least, greatest, safe = least + low, greatest + high, safe + 1
        got = safe_products_per_lane(x_format, w_format)
        assert (got, type(got)) == (safe, int), (x_format, w_format)
        x, w = overflow_witness(x_format, w_format)
        assert x_format.min <= x <= x_format.max and w_format.min <= w <= w_format.max
        assert INT16[0] <= safe * x * w <= INT16[1], (x_format, w_format)
        assert not INT16[0] <= (safe + 1) * x * w <= INT16[1], (x_format, w_format)


def test_minus_64_in_both_operands_costs_one_product():
    pairs = (SEVEN, SEVEN), (FULL_SEVEN, SEVEN), (SEVEN, FULL_SEVEN), (FULL_SEVEN, FULL_SEVEN)
    assert [safe_products_per_lane(*pair) for pair in pairs] == [8, 8, 8, 7]
    assert overflow_witness(FULL_SEVEN, FULL_SEVEN) == (-64, -64)


# --- the dot product, from its docstring ------------------------------------------------------------------------

policies = pytest.mark.parametrize("policy", POLICIES)


def outcome(function, *arguments, wide: str = "int32 (-2147483648..2147483647)"):
    """The result, or the sentence in which `dot_int16` names the first overflow."""
    try:
        return function(*arguments)
    except Overflow as overflow:
        instruction, step, lane, value = overflow.args
        fmt = "int16 (-32768..32767)" if instruction == "SMLAL" else wide
        where = "" if instruction == "ADDV" else f" at step {step}, lane[{lane}]"
        return f"{instruction}{where} is {value}, outside {fmt}"
    except OverflowError as overflow:
        return str(overflow)


def constant(length: int, a: int, b: int, x_format: IntFormat, w_format: IntFormat):
    return np.full(length, a, x_format.dtype), np.full(length, b, w_format.dtype), x_format, w_format


def compare_with_the_loop(case, products_per_lane, policy: str, wide_bits: int = 32) -> None:
    x, w, x_format, w_format = case
    wide = f"{IntFormat(wide_bits)} ({-2 ** (wide_bits - 1)}..{2 ** (wide_bits - 1) - 1})"
    expected = outcome(plain_dot, x.tolist(), w.tolist(), products_per_lane, policy, wide_bits, wide=wide)
    got = outcome(dot_with_steps, x, w, x_format, w_format, products_per_lane, policy)
    if isinstance(expected, str):
        assert got == expected
        return
    total, steps = got
    assert (total.dtype, total.shape, int(total)) == (np.int32, (), expected[0])
    assert [(step.instruction, step.step, step.lanes.tolist()) for step in steps] == expected[1]
    assert np.array_equal(total, dot_int16(x, w, x_format, w_format, products_per_lane, policy))


@policies
@given(case=operands(), products_per_lane=st.integers(1, 20) | st.just(10**9))
@example(case=constant(72, 63, 63, SEVEN, SEVEN), products_per_lane=8)  # nine full steps, the most that fits
@example(case=constant(72, 63, 63, SEVEN, SEVEN), products_per_lane=9)  # 35 721: the last step overflows
@example(case=constant(72, -63, 63, SEVEN, SEVEN), products_per_lane=9)
@example(case=constant(64, -64, -64, FULL_SEVEN, FULL_SEVEN), products_per_lane=8)  # 32 768: one too many
@example(case=constant(64, -64, 63, FULL_SEVEN, FULL_SEVEN), products_per_lane=8)  # but not with these codes
@example(case=constant(65, -128, -128, EIGHT, EIGHT), products_per_lane=2)  # and a step of a single element
@example(case=constant(32, -128, -128, EIGHT, EIGHT), products_per_lane=4)  # 4·16 384 wraps to 0
@example(case=constant(1, 255, 255, BYTE, BYTE), products_per_lane=1)  # one product that no int16 holds
@example(case=constant(7, 1, 1, SEVEN, SEVEN), products_per_lane=8)  # one lane stays empty
@example(case=constant(8, 1, 1, SEVEN, SEVEN), products_per_lane=1)
@example(case=constant(9, 1, 1, SEVEN, SEVEN), products_per_lane=1)
def test_dot_product_equals_the_plain_loop_trace_and_first_overflow_included(policy, case, products_per_lane):
    compare_with_the_loop(case, products_per_lane, policy)


@policies
@given(case=operands(), products_per_lane=st.integers(1, 3))
@example(case=constant(40, 127, 127, EIGHT, EIGHT), products_per_lane=1)  # the third SADALP leaves 17 bits
@example(case=constant(16, -127, 127, EIGHT, EIGHT), products_per_lane=1)  # no lane does, their sum does
@example(case=constant(16, -128, -128, EIGHT, EIGHT), products_per_lane=1)  # 2·2·2^14 = 65 536: misses by one
def test_the_second_stage_wraps_saturates_and_traps_like_the_loop(policy, case, products_per_lane):
    # 2^15 products of bytes do not fill an int32 lane: accumulators of 17 bits overflow within a few.
    with mock.patch.object(simd, "INT32", IntFormat(17)), mock.patch.object(accumulation, "INT32", IntFormat(17)):
        compare_with_the_loop(case, products_per_lane, policy, wide_bits=17)


@pytest.mark.parametrize("used, steps, line", [
    (8, 8225, "ADDV is -2147712000, outside int32 (-2147483648..2147483647)"),
    (2, 32897, "SADALP at step 32896, lane[0] is -2147516160, outside int32 (-2147483648..2147483647)")])
def test_as_many_bytes_as_fill_an_int32_lane_or_the_sum_of_four_are_named(used, steps, line):
    x = np.zeros((steps, 8), int)
    x[:, :used] = 255
    assert outcome(dot_int16, x.ravel(), np.full(8 * steps, -128), BYTE, EIGHT) == line


@policies
@given(case=operands(), products_per_lane=st.integers(1, 12))
def test_the_fast_lanes_are_the_instructions(policy, case, products_per_lane):
    x, w, x_format, w_format = case
    plain, fast = [], []
    options = products_per_lane, policy
    expected = outcome(dot_int16, x, w, x_format, w_format, *options, lambda *step: plain.append(step))
    found = outcome(dot_lanes, x.astype(int), w.astype(int), *options, lambda *step: fast.append(step))
    if isinstance(expected, str):
        assert found == expected
        return
    assert int(found) == int(expected) and len(plain) == len(fast)
    for one, other in zip(plain, fast):
        assert one[:2] == other[:2] and np.array_equal(one[2], other[2]) and np.array_equal(one[3], other[3])


# --- batches ----------------------------------------------------------------------------------------------------

@policies
@given(data=st.data(), products_per_lane=st.integers(1, 12), length=st.integers(1, 100))
def test_batches_broadcast_and_every_row_is_its_own_dot_product(policy, data, products_per_lane, length):
    shapes = st.sampled_from([((3,), ()), ((), (2,)), ((2, 3), (3,)), ((2, 1), (3,)), ((2, 1, 3), (1, 2, 1)),
                              ((0,), ()), ((1,), (4,))])
    x_shape, w_shape = data.draw(shapes)
    x = data.draw(codes(FULL_SEVEN, (*x_shape, length)))
    w = data.draw(codes(EIGHT, (*w_shape, length)))
    shape = np.broadcast_shapes(x_shape, w_shape)
    wide_x, wide_w = np.broadcast_to(x, (*shape, length)), np.broadcast_to(w, (*shape, length))
    rows = {index: (wide_x[index].tolist(), wide_w[index].tolist()) for index in np.ndindex(shape)}
    firsts = []
    if policy == "trap":
        for index, row in rows.items():
            try:
                plain_dot(*row, products_per_lane, policy)
            except Overflow as overflow:
                instruction, step, lane, value = overflow.args
                firsts.append((step, instruction != "SMLAL", (*index, lane), value))
    got = outcome(dot_with_steps, x, w, FULL_SEVEN, EIGHT, products_per_lane, policy)
    if firsts:
        # All rows execute an instruction together; within it the first lane in C order is named.
        step, _, place, value = min(firsts)
        assert got == (f"SMLAL at step {step}, lane[{', '.join(map(str, place))}] is {value}, "
                       "outside int16 (-32768..32767)")
        return
    sums, steps = got
    assert (sums.dtype, sums.shape) == (np.int32, shape)
    for index, row in rows.items():
        total, trace = plain_dot(*row, products_per_lane, policy)
        assert int(sums[index]) == total
        assert [(s.instruction, s.step, s.lanes[index].tolist()) for s in steps] == trace


def test_a_numpy_schedule_counts_as_its_integer():
    # Counting in the schedule's own int8 would overflow at step 127.
    assert int(dot_int16([1] * 3000, [1] * 3000, SEVEN, SEVEN, np.int8(8))) == 3000
