"""The promise of EasyQuant's INT7 inference, tried in dot products and in whole convolutions:

7-bit operands never leave INT16 under the safe schedule; k + 1 products can, and the witness shows it;
-64 in both operands costs one product.
"""
from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from recording import LaneRange, convolve_with_lanes, dot_with_steps
from test_accumulation import POLICIES, Overflow, plain_dot

from refquant.convolution.direct import convolve_exact
from refquant.convolution.geometry import Geometry
from refquant.convolution.int16 import convolve_int16
from refquant.integers.accumulation import dot_int16, overflow_witness, safe_products_per_lane
from refquant.integers.formats import IntFormat
from refquant.strategies import ConvolutionCase, codes, convolution_cases, geometries, int_formats

SEVEN, FULL_SEVEN = IntFormat(7, narrow=True), IntFormat(7)
EIGHT, NARROW_EIGHT, BYTE = IntFormat(8), IntFormat(8, narrow=True), IntFormat(8, signed=False)
INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1


@st.composite
def hard_codes(draw: st.DrawFn, fmt: IntFormat, shape: tuple[int, ...]) -> np.ndarray:
    """Any codes; or one end of the format everywhere, but for a few of any codes."""
    array = draw(codes(fmt, shape))
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        array[rng.random(shape) >= draw(st.sampled_from([0, 0.03]))] = draw(st.sampled_from([fmt.min, fmt.max]))
    return array


def formats_up_to(bits: int) -> st.SearchStrategy[tuple[IntFormat, IntFormat]]:
    """Pairs of formats that have a safe schedule, the 7-bit ones often."""
    usual = st.sampled_from([SEVEN, FULL_SEVEN, IntFormat(7, signed=False)])
    one = usual | int_formats(2, bits)
    return st.tuples(one, one).filter(lambda pair: pair != (BYTE, BYTE))


@st.composite
def dot_operands(draw: st.DrawFn, bits: int = 7):
    """(x, w, x_format, w_format): up to 40 steps in any of a batch of rows."""
    x_format, w_format = draw(formats_up_to(bits))
    x_batch, w_batch = draw(st.sampled_from([((), ()), ((3,), ()), ((2, 1), (3,)), ((1, 2, 2), (2, 1))]))
    length = draw(st.integers(1, 320))
    return (draw(hard_codes(x_format, (*x_batch, length))), draw(hard_codes(w_format, (*w_batch, length))),
            x_format, w_format)


@st.composite
def deep_convolutions(draw: st.DrawFn, bits: int = 7) -> ConvolutionCase:
    """Convolutions of up to 30 steps: many channels, or few and a large kernel, in up to 6 groups."""
    x_format, w_format = draw(formats_up_to(bits))
    kernel = draw(st.sampled_from([(1, 1), (1, 1), (3, 3), (3, 3), (1, 7), (5, 3), (9, 8)]))
    groups = draw(st.sampled_from([1, 1, 2, 3, 6]))
    per_group = draw(st.just(1) | st.integers(1, 240 // (kernel[0] * kernel[1] * groups) + 1))
    outputs = draw(st.integers(1, 2))
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return ConvolutionCase(draw(hard_codes(x_format, (draw(st.integers(1, 2)), groups * per_group, height, width))),
                           draw(hard_codes(w_format, (groups * outputs, per_group, *kernel))),
                           draw(geometries((height, width), kernel, groups)), x_format, w_format, 0)


def same_everywhere(x: int, w: int, x_shape, w_shape, geometry=None, fmt: IntFormat = SEVEN) -> ConvolutionCase:
    return ConvolutionCase(np.full(x_shape, x), np.full(w_shape, w), geometry or Geometry(), fmt, fmt, 0)


def exact(case: ConvolutionCase) -> np.ndarray:
    return convolve_exact(case.x_q, case.w_q, **case.geometry._asdict())


def through_lanes(case: ConvolutionCase, **keywords):
    return convolve_int16(case.x_q, case.w_q, case.x_format, case.w_format, **case.geometry._asdict(), **keywords)


def with_lanes(case: ConvolutionCase, **keywords):
    return convolve_with_lanes(case.x_q, case.w_q, case.x_format, case.w_format, **case.geometry._asdict(),
                               **keywords)


# --- 7-bit operands never leave INT16 under the safe schedule ---------------------------------------------------

@given(dot_operands())
@example((np.full(1000, 63), np.full(1000, 63), SEVEN, SEVEN))  # 31 752 in every lane, again and again
@example((np.full(1000, -64), np.full(1000, -64), FULL_SEVEN, FULL_SEVEN))  # 28 672; one more misses by one
@example((np.full(64, -64), np.full(64, 63), FULL_SEVEN, SEVEN))  # -32 256
@example((np.full(64, 127), np.full(64, 127), IntFormat(7, signed=False), IntFormat(7, signed=False)))
def test_7_bit_operands_never_leave_int16_under_the_safe_schedule(case):
    x, w, x_format, w_format = case
    sums, steps = dot_with_steps(x, w, x_format, w_format, "safe", "trap")
    for step in steps:
        if step.instruction == "SMLAL":
            assert INT16_MIN <= step.lanes.min() and step.lanes.max() <= INT16_MAX
    # Python's own integers never overflow.
    expected = (x.astype(object) * w.astype(object)).sum(axis=-1)
    assert sums.dtype == np.int32 and np.array_equal(sums, expected)


@given(deep_convolutions())
@example(same_everywhere(63, 63, (1, 64, 3, 3), (2, 64, 3, 3)))  # 72 full steps
@example(same_everywhere(-63, 63, (1, 6, 9, 8), (6, 1, 9, 8), Geometry(groups=6)))  # depthwise, 9 full steps
@example(same_everywhere(-64, -64, (1, 64, 3, 3), (1, 64, 3, 3), fmt=FULL_SEVEN))
@example(same_everywhere(63, 63, (1, 8, 2, 2), (1, 8, 3, 3), Geometry((1, 1), (1, 1, 1, 1))))  # zeros around
def test_7_bit_operands_never_leave_int16_under_the_safe_schedule_in_a_whole_convolution(case):
    y, reached = with_lanes(case)
    assert reached.products_per_lane == safe_products_per_lane(case.x_format, case.w_format)
    assert INT16_MIN <= reached.int16_min <= 0 <= reached.int16_max <= INT16_MAX
    assert y.dtype == np.int64 and np.array_equal(y, exact(case))


def test_the_lanes_really_come_close_to_the_ends_of_int16():
    full = same_everywhere(63, 63, (1, 64, 3, 3), (1, 64, 3, 3))
    assert with_lanes(full)[1] == LaneRange(8, 0, 31752, 0, 9 * 2 * 31752)
    mixed = full._replace(x_q=-full.x_q)
    assert with_lanes(mixed)[1] == LaneRange(8, -31752, 0, -9 * 2 * 31752, 0)
    mixed = same_everywhere(-64, -64, (1, 64, 3, 3), (1, 64, 3, 3), fmt=FULL_SEVEN)
    assert with_lanes(mixed)[1] == LaneRange(7, 0, 28672, 0, 2 * 72 * 4096)


def test_a_layer_of_64_channels_at_the_extremes_is_exact_through_the_lanes():
    rng = np.random.default_rng(0)
    x, w = rng.choice([-63, 63], (2, 64, 9, 9)), rng.choice([-63, 63], (16, 64, 3, 3))
    w[0], w[1] = np.where(x[0, :, :3, :3] > 0, 63, -63), np.where(x[1, :, 6:, 6:] > 0, -63, 63)  # the worst windows
    y, reached = convolve_with_lanes(x, w, SEVEN, SEVEN, padding=1)
    assert np.array_equal(y, convolve_exact(x, w, padding=1))
    assert (y.max(), y.min()) == (576 * 3969, -576 * 3969)
    assert reached[1:3] == (-31752, 31752)


# --- the safe schedule changes nothing, for any codes of at most 8 bits -----------------------------------------

@given(deep_convolutions(bits=8))
@example(same_everywhere(-128, -128, (1, 3, 2, 2), (1, 3, 2, 2), fmt=EIGHT))  # one product per lane
@example(ConvolutionCase(np.full((1, 3, 2, 2), 255), np.full((1, 3, 2, 2), -128), Geometry(), BYTE, EIGHT, 0))
@example(same_everywhere(1, 1, (1, 1, 2, 2), (1, 1, 2, 2), fmt=IntFormat(2)))
def test_convolution_through_safe_lanes_equals_the_exact_one_deep(case):
    for policy in POLICIES:
        y = through_lanes(case, policy=policy)
        assert y.dtype == np.int64 and np.array_equal(y, exact(case))


@given(convolution_cases())
def test_convolution_through_safe_lanes_equals_the_exact_one_in_every_geometry(case):
    assume((case.x_format, case.w_format) != (BYTE, BYTE))
    y = through_lanes(case)
    assert y.dtype == np.int64 and np.array_equal(y, exact(case))


@given(deep_convolutions(bits=8), st.data())
def test_any_shorter_schedule_is_as_exact(case, data):
    safe = safe_products_per_lane(case.x_format, case.w_format)
    products_per_lane = data.draw(st.integers(1, min(safe, 40)))
    y, reached = with_lanes(case, products_per_lane=products_per_lane)
    assert reached.products_per_lane == products_per_lane and np.array_equal(y, exact(case))


# --- k + 1 can, and the witness shows it ------------------------------------------------------------------------

# All pairs of 2 to 8 bits, but those of a few tiny codes whose chains are thousands of products long.
FORMATS = [IntFormat(bits, signed, narrow) for bits in range(2, 9)
           for signed, narrow in ((True, False), (True, True), (False, False))]
PAIRS = [pair for pair in itertools.product(FORMATS, repeat=2)
         if pair != (BYTE, BYTE) and safe_products_per_lane(*pair) < 300]
NAMED = [(SEVEN, SEVEN), (FULL_SEVEN, FULL_SEVEN), (FULL_SEVEN, SEVEN), (NARROW_EIGHT, NARROW_EIGHT), (EIGHT, EIGHT),
         (SEVEN, IntFormat(6, narrow=True)), (IntFormat(7, signed=False), SEVEN), (BYTE, NARROW_EIGHT), (BYTE, EIGHT),
         (IntFormat(4, signed=False), IntFormat(5))]


def repeated(x: int, w: int, times: int, lane: int) -> tuple[np.ndarray, np.ndarray]:
    """Two vectors with the product x·w, so many times, in one of the eight lanes and zeros in the others."""
    x_q, w_q = np.zeros((2, times, 8), int)
    x_q[:, lane], w_q[:, lane] = x, w
    return x_q.ravel(), w_q.ravel()


def test_k_plus_1_can_and_the_witness_shows_it():
    assert len(PAIRS) > 300
    for number, (x_format, w_format) in enumerate(PAIRS):
        safe, lane = safe_products_per_lane(x_format, w_format), number % 8
        x, w = overflow_witness(x_format, w_format)
        total = (safe + 1) * x * w
        vectors = repeated(x, w, safe + 1, lane)
        assert int(dot_int16(*vectors, x_format, w_format, "safe")) == total
        message = f"SMLAL at step {safe}, lane[{lane}] is {total}, outside int16 (-32768..32767)"
        with pytest.raises(OverflowError, match=f"^{re.escape(message)}$"):
            dot_int16(*vectors, x_format, w_format, safe + 1)
        # Once less, and the longer schedule does no harm.
        assert int(dot_int16(*repeated(x, w, safe, lane), x_format, w_format, safe + 1)) == safe * x * w
        assert int(dot_int16(*vectors, x_format, w_format, safe + 1, "wrap")) == total - np.sign(total) * 2**16
        assert int(dot_int16(*vectors, x_format, w_format, safe + 1, "saturate")) == (
            INT16_MAX if total > 0 else INT16_MIN)


def test_32768_products_of_1_are_one_too_many_for_the_smallest_codes():
    tiny = IntFormat(2, narrow=True)
    ones = np.ones(8 * 32768, int)
    assert safe_products_per_lane(tiny, tiny) == 32767
    assert int(dot_int16(ones, ones, tiny, tiny)) == 8 * 32768
    with pytest.raises(OverflowError, match=r"^SMLAL at step 32767, lane\[0\] is 32768, outside int16 "):
        dot_int16(ones, ones, tiny, tiny, 32768)


def witness_convolution(x_format: IntFormat, w_format: IntFormat, shape: str, lane: int) -> ConvolutionCase:
    """k + 1 products of the witness in one lane of the sums of the second output alone."""
    steps = safe_products_per_lane(x_format, w_format) + 1
    a, b = overflow_witness(x_format, w_format)
    w_q = repeated(a, b, steps, lane)[1]
    if shape == "depthwise":  # channel 1 of 3, under a kernel of one row per step
        x_shape, kernel, geometry = (2, 3, steps, 8), (3, 1, steps, 8), Geometry(groups=3)
    elif shape == "pointwise":
        x_shape, kernel, geometry = (2, 8 * steps, 1, 1), (3, 8 * steps, 1, 1), Geometry()
    else:  # 2 x 2 kernels, spread: each step covers two channels
        x_shape, kernel = (2, 2 * steps, 2, 4), (3, 2 * steps, 2, 2)
        geometry = Geometry((1, 1), (1, 0, 0, 0), (2, 3))
    weights = np.zeros(kernel, int)
    weights[1] = w_q.reshape(kernel[1:])
    return ConvolutionCase(np.full(x_shape, a), weights, geometry, x_format, w_format, 0)


@pytest.mark.parametrize("shape", ["pointwise", "spread", "depthwise"])
@pytest.mark.parametrize("x_format, w_format", NAMED, ids=str)
def test_k_plus_1_can_and_the_witness_shows_it_in_a_whole_convolution(x_format, w_format, shape):
    safe = safe_products_per_lane(x_format, w_format)
    a, b = overflow_witness(x_format, w_format)
    total = (safe + 1) * a * b
    # Under a row of padding, the lanes of the spread kernel's upper row see zeros.
    lane = 6 if shape == "spread" else 5
    case = witness_convolution(x_format, w_format, shape, lane)
    assert np.array_equal(through_lanes(case), exact(case))
    assert exact(case)[:, 1].tolist() == [[[total]]] * 2 and not exact(case)[:, [0, 2]].any()
    message = rf"image 0: SMLAL at step {safe}, lane\[(\d+, )*{lane}\] is {total}, outside int16 \(-32768\.\.32767\)"
    with pytest.raises(OverflowError, match=f"^{message}$"):
        through_lanes(case, products_per_lane=safe + 1)
    for policy, left in (("wrap", total - np.sign(total) * 2**16),
                         ("saturate", INT16_MAX if total > 0 else INT16_MIN)):
        y = through_lanes(case, products_per_lane=safe + 1, policy=policy)
        assert y.dtype == np.int64 and y[:, 1].tolist() == [[[left]]] * 2 != exact(case)[:, 1].tolist()
        assert not y[:, [0, 2]].any()


def test_trap_names_the_first_of_several_overflows():
    """All overflow: output 0 in its tenth step, output 1 in its ninth, by a smaller value and in two lanes."""
    w = np.zeros((2, 12, 8), int)
    w[0, 1:], w[1, 0], w[1, 1:, 3:5] = 63, 2, 63
    w[1, :9, 4], w[1, :9, 3] = 59, 58
    message = rf"^image \d+: SMLAL at step 8, lane\[(\d+, )*3\] is {9 * 63 * 58}, outside int16 "
    with pytest.raises(OverflowError, match=message):
        convolve_int16(np.full((1, 96, 2, 2), 63), w.reshape(2, 96, 1, 1), SEVEN, SEVEN, products_per_lane=12)


# --- -64 in both operands costs one product ---------------------------------------------------------------------

def test_minus_64_in_both_operands_costs_one_product():
    assert [safe_products_per_lane(*pair) for pair in ((SEVEN, SEVEN), (FULL_SEVEN, SEVEN), (SEVEN, FULL_SEVEN))] == [
        8, 8, 8]
    assert safe_products_per_lane(FULL_SEVEN, FULL_SEVEN) == 7
    assert overflow_witness(FULL_SEVEN, FULL_SEVEN) == (-64, -64)
    full = np.full(64, -64)
    with pytest.raises(OverflowError, match=r"^SMLAL at step 7, lane\[0\] is 32768, outside int16 "):
        dot_int16(full, full, FULL_SEVEN, FULL_SEVEN, 8)
    for other in (-63, 63):
        assert int(dot_int16(full, np.full(64, other), FULL_SEVEN, FULL_SEVEN, 8)) == 64 * -64 * other
        assert int(dot_int16(np.full(64, other), full, SEVEN, FULL_SEVEN)) == 64 * -64 * other


@given(st.integers(1, 320).flatmap(lambda k: st.tuples(hard_codes(FULL_SEVEN, (k,)), hard_codes(SEVEN, (2, k)))))
@example((np.full(1000, -64), np.full((1, 1000), -63)))  # 32 256
@example((np.full(1000, -64), np.full((1, 1000), 63)))
def test_minus_64_in_one_operand_costs_nothing(case):
    x, w = case
    expected = (x.astype(object) * w.astype(object)).sum(axis=-1)
    assert np.array_equal(dot_int16(x, w, FULL_SEVEN, SEVEN, products_per_lane=8), expected)
    assert np.array_equal(dot_int16(w, x, SEVEN, FULL_SEVEN, products_per_lane=8), expected)


@given(st.integers(1, 5), st.integers(0, 7), st.integers(0, 2**32 - 1), st.sampled_from([0, 0.01, 0.05, 0.2]))
@example(1, 0, 0, 0)  # every lane overflows
@example(2, 7, 0, 0)  # the last round is too short to
def test_of_8_products_of_any_7_bit_codes_only_eight_of_minus_64_twice_leave_int16(rounds, missing, seed, other):
    rng = np.random.default_rng(seed)
    length = 64 * rounds - 8 * missing
    x, w = np.full((2, length), -64)
    x[rng.random(length) < other] = rng.integers(-64, 64)
    w[rng.random(length) < other] = -63
    eight = [all(x[i] == w[i] == -64 for i in range(first, first + 64, 8))
             for start in range(0, length - 63, 64) for first in range(start, start + 8)]
    if any(eight):
        where, lane = divmod(eight.index(True), 8)
        message = rf"^SMLAL at step {8 * where + 7}, lane\[{lane}\] is 32768, outside int16 "
        with pytest.raises(OverflowError, match=message):
            dot_int16(x, w, FULL_SEVEN, FULL_SEVEN, 8)
    else:
        assert int(dot_int16(x, w, FULL_SEVEN, FULL_SEVEN, 8)) == (x * w).sum()


# --- what a convolution through lanes does, output by output ----------------------------------------------------

def windows(case: ConvolutionCase) -> dict[tuple[int, ...], tuple[list[int], list[int]]]:
    """(image, output, row, column): the codes and weights it adds up, over channel, row, column; zeros outside."""
    (down, across), (top, left, bottom, right), (spread_r, spread_s), groups = case.geometry
    n, _, height, width = case.x_q.shape
    outputs, channels, kernel_r, kernel_s = case.w_q.shape
    rows = range(-top, height + bottom - (kernel_r - 1) * spread_r, down)
    columns = range(-left, width + right - (kernel_s - 1) * spread_s, across)
    found = {}
    for image, o, (p, row), (q, column) in itertools.product(range(n), range(outputs), enumerate(rows),
                                                             enumerate(columns)):
        x, w = [], []
        for c, r, s in np.ndindex(channels, kernel_r, kernel_s):
            i, j = row + r * spread_r, column + s * spread_s
            plane = o * groups // outputs * channels + c
            x.append(int(case.x_q[image, plane, i, j]) if 0 <= i < height and 0 <= j < width else 0)
            w.append(int(case.w_q[o, c, r, s]))
        found[image, o, p, q] = x, w
    return found


BYTES = st.sampled_from([EIGHT, BYTE, NARROW_EIGHT, SEVEN])


@pytest.mark.parametrize("policy", POLICIES)
@given(case=convolution_cases(BYTES, BYTES), products_per_lane=st.integers(1, 4))
@example(case=same_everywhere(-128, -128, (1, 2, 3, 3), (2, 2, 3, 3), fmt=EIGHT), products_per_lane=2)  # 32 768
@example(case=same_everywhere(-128, 127, (1, 2, 3, 3), (2, 2, 3, 3), fmt=EIGHT), products_per_lane=3)
@example(case=same_everywhere(127, 127, (2, 2, 4, 4), (2, 1, 3, 3), Geometry((2, 1), (1, 0, 2, 1), (1, 1), 2), EIGHT),
         products_per_lane=2)  # depthwise, and more of the input's border than of its middle
def test_sums_recorded_extremes_and_the_first_overflow_equal_the_plain_loop(policy, case, products_per_lane):
    sums, overflows = {}, []
    held: dict[str, list[int]] = {"SMLAL": [0], "SADALP": [0]}  # lanes start from zero
    for (image, o, p, q), (x, w) in windows(case).items():
        try:
            sums[image, o, p, q], trace = plain_dot(x, w, products_per_lane, policy)
        except Overflow as overflow:
            instruction, step, lane, value = overflow.args
            assert instruction == "SMLAL"  # so few products do not fill an int32 lane
            overflows.append(((image, step, o, p, q, lane), value))
            continue
        for instruction, _, lanes in trace:
            held[instruction] += lanes
    if overflows:
        # One image after the other; all outputs of an image execute an instruction together.
        (_, step, *_, lane), value = min(overflows)
        for record in (False, True):
            message = rf"^image \d+: SMLAL at step {step}, lane\[(\d+, )*{lane}\] is {value}, "
            with pytest.raises(OverflowError, match=message):
                (with_lanes if record else through_lanes)(case, products_per_lane=products_per_lane)
        return
    y, reached = with_lanes(case, products_per_lane=products_per_lane, policy=policy)
    assert isinstance(reached, LaneRange) and y.dtype == np.int64
    assert {index: int(y[index]) for index in np.ndindex(y.shape)} == sums
    ends = [end(held[name]) for name in ("SMLAL", "SADALP") for end in (min, max)]
    assert reached == (products_per_lane, *ends)
    assert np.array_equal(through_lanes(case, products_per_lane=products_per_lane, policy=policy), y)


def test_recorded_extremes_by_hand():
    w = np.zeros((2, 18), int)
    w[0, [0, 8, 16, 17]] = 1, 10, 100, -1  # in lane 0 8, 80, 800; -8 in lane 1 of the last step
    w[1, [2, 10]] = -3  # twice -24 in lane 2
    x, w = np.full((1, 18, 1, 1), 8), w.reshape(2, 18, 1, 1)
    y, reached = convolve_with_lanes(x, w, SEVEN, EIGHT, products_per_lane=2)
    assert y.tolist() == [[[[880]], [[-48]]]]
    assert reached == LaneRange(products_per_lane=2, int16_min=-48, int16_max=800, int32_min=-48, int32_max=880)
    assert convolve_with_lanes(x, w, SEVEN, EIGHT, products_per_lane=1)[1] == LaneRange(1, -24, 800, -48, 880)


def test_images_are_convolved_one_by_one_and_recorded_together():
    x = np.zeros((3, 8, 1, 1), int)
    x[0, 0], x[1, 1], x[2, 2] = 5, -7, 6
    y, reached = convolve_with_lanes(x, np.ones((1, 8, 1, 1), int), SEVEN, SEVEN)
    assert y.ravel().tolist() == [5, -7, 6]
    assert reached == (8, -7, 6, -7, 6)


# --- operands ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("groups", [2, np.int8(2), np.array(2), (2,)], ids=repr)
def test_groups_are_read_as_convolve_exact_reads_them(groups):
    x, w = np.arange(1, 5).reshape(1, 4, 1, 1), np.arange(1, 5).reshape(2, 2, 1, 1)
    assert convolve_exact(x, w, groups=groups).ravel().tolist() == [5, 25]
    assert convolve_int16(x, w, SEVEN, SEVEN, groups=groups).ravel().tolist() == [5, 25]


X, W = np.ones((1, 4, 5, 5), int), np.ones((2, 4, 3, 3), int)
BAD_CALLS = [
    (64 * X, W, {}, "input must hold codes of int7 narrow (-63..63), got 64..64"),
    (X, -64 * W, {}, "weight must hold codes of int7 narrow (-63..63), got -64..-64"),
    (X.astype(float), W, {}, "input must hold integers of at most 64 bits, got dtype float64"),
    (X, W > 0, {}, "weight must hold integers of at most 64 bits, got dtype bool"),
    (X, W, {"x_format": IntFormat(9)}, "x_format must have at most 8 bits, got int9"),
    (X, W, {"w_format": IntFormat(16)}, "w_format must have at most 8 bits, got int16"),
    (X, W, {"x_format": BYTE, "w_format": BYTE}, "one product of uint8 and uint8 must fit int16, got 0..65025"),
    (X, W, {"products_per_lane": 0}, "products_per_lane must be 'safe' or an integer >= 1, got 0"),
    (X, W, {"products_per_lane": 8.0}, "products_per_lane must be 'safe' or an integer >= 1, got 8.0"),
    (X, W, {"products_per_lane": "fast"}, "products_per_lane must be 'safe' or an integer >= 1, got 'fast'"),
    (X, W, {"products_per_lane": True}, "products_per_lane must be 'safe' or an integer >= 1, got True"),
    (X, W, {"policy": "clip"}, "policy must be one of wrap, saturate, trap, got 'clip'"),
    (X, W, {"policy": "clip"}, "policy must be one of wrap, saturate, trap, got 'clip'"),
    (X[0], W, {}, "input must be a non-empty (N, C, H, W), got shape (4, 5, 5)"),
    (X[:0], W, {}, "input must be a non-empty (N, C, H, W), got shape (0, 4, 5, 5)"),
    (X, W[0], {}, "weight must be a non-empty (O, C/groups, R, S), got shape (4, 3, 3)"),
    (X, W[:, :0], {}, "weight must be a non-empty (O, C/groups, R, S), got shape (2, 0, 3, 3)"),
    (X, W[:, :3], {}, "weight must be (O, 4, R, S) for 4 input channels in 1 groups, got shape (2, 3, 3, 3)"),
    (X, W, {"groups": 2}, "weight must be (O, 2, R, S) for 4 input channels in 2 groups, got shape (2, 4, 3, 3)"),
    (X, W[:, :2], {"groups": 3}, "groups must divide the channels, got groups 3 for 4 input and 2 output channels"),
    (X, W, {"groups": 0}, "groups must be >= 1, got 0"),
    (X, W, {"groups": 1.0}, "groups must be an integer, got 1.0"),
    (X, W, {"stride": 0}, "stride must be >= 1, got 0"),
    (X, W, {"padding": -1}, "padding must be >= 0, got -1"),
    (X, W, {"dilation": 3}, "the kernel must fit the padded input, got extent 7 over 5"),
]


@pytest.mark.parametrize("x, w, arguments, message", BAD_CALLS, ids=[call[-1] for call in BAD_CALLS])
def test_what_does_not_fit_is_refused_in_one_sentence(x, w, arguments, message):
    arguments = {"x_format": SEVEN, "w_format": SEVEN, **arguments}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convolve_int16(x, w, **arguments)
