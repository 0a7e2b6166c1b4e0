"""The promise of EasyQuant's INT7 inference, tried in dot products and in whole convolutions.

7-bit operands never leave INT16 under the safe schedule. ``test_int16_proof`` and ``test_c_consumer`` show that
k + 1 products can.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from lanes_oracle import POLICIES, Overflow, hard_codes, operands, plain_dot
from recording import convolve_with_lanes, dot_with_steps

from refquant.convolution.direct import convolve_exact
from refquant.convolution.geometry import Geometry
from refquant.integers.accumulation import safe_products_per_lane
from refquant.integers.formats import IntFormat
from refquant.strategies import ConvolutionCase, convolution_cases, geometries, int_formats

SEVEN, FULL_SEVEN = IntFormat(7, narrow=True), IntFormat(7)
EIGHT, NARROW_EIGHT, BYTE = IntFormat(8), IntFormat(8, narrow=True), IntFormat(8, signed=False)
INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1


def formats_up_to(bits: int) -> st.SearchStrategy[tuple[IntFormat, IntFormat]]:
    """Pairs of formats that have a safe schedule, the 7-bit ones often."""
    usual = st.sampled_from([SEVEN, FULL_SEVEN, IntFormat(7, signed=False)])
    one = usual | int_formats(2, bits)
    return st.tuples(one, one).filter(lambda pair: pair != (BYTE, BYTE))


@st.composite
def deep_convolutions(draw: st.DrawFn) -> ConvolutionCase:
    """Convolutions of up to 30 steps: many channels, or few and a large kernel, in up to 6 groups."""
    x_format, w_format = draw(formats_up_to(8))
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


def with_lanes(case: ConvolutionCase, **keywords):
    return convolve_with_lanes(case.x_q, case.w_q, case.x_format, case.w_format, **case.geometry._asdict(),
                               **keywords)


# --- 7-bit operands never leave INT16 under the safe schedule ---------------------------------------------------

@given(operands(formats_up_to(7), 320))
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


schedules = st.just("safe") | st.integers(1, 40)


@given(deep_convolutions() | convolution_cases(), schedules, st.sampled_from(POLICIES))
@example(same_everywhere(63, 63, (1, 64, 3, 3), (2, 64, 3, 3)), "safe", "trap")  # 72 full steps, 31 752 in every lane
@example(same_everywhere(-63, 63, (1, 6, 9, 8), (6, 1, 9, 8), Geometry(groups=6)), 8, "wrap")  # depthwise
@example(same_everywhere(-64, -64, (1, 64, 3, 3), (1, 64, 3, 3), fmt=FULL_SEVEN), "safe", "saturate")
@example(same_everywhere(63, 63, (1, 8, 2, 2), (1, 8, 3, 3), Geometry((1, 1), (1, 1, 1, 1))), "safe", "trap")
@example(same_everywhere(-128, -128, (1, 3, 2, 2), (1, 3, 2, 2), fmt=EIGHT), "safe", "trap")  # one product per lane
@example(ConvolutionCase(np.full((1, 3, 2, 2), 255), np.full((1, 3, 2, 2), -128), Geometry(), BYTE, EIGHT, 0), "safe",
         "trap")
def test_no_convolution_of_bytes_leaves_int16_under_the_safe_schedule_or_a_shorter_one(case, schedule, policy):
    assume((case.x_format, case.w_format) != (BYTE, BYTE))
    safe = safe_products_per_lane(case.x_format, case.w_format)
    schedule = schedule if schedule == "safe" else min(schedule, safe)
    y, reached = with_lanes(case, products_per_lane=schedule, policy=policy)
    assert reached.products_per_lane == (safe if schedule == "safe" else schedule)
    assert INT16_MIN <= reached.int16_min <= 0 <= reached.int16_max <= INT16_MAX
    expected = convolve_exact(case.x_q, case.w_q, **case.geometry._asdict())
    assert y.dtype == np.int64 and np.array_equal(y, expected)


# --- what a convolution through lanes does, output by output ----------------------------------------------------

def windows(case: ConvolutionCase) -> Iterator[tuple[tuple[int, ...], list[int], list[int]]]:
    """(image, output, row, column), and the codes and weights it adds up over channel, row, column."""
    (down, across), (top, left, bottom, right), (spread_r, spread_s), groups = case.geometry
    outputs, channels, kernel_r, kernel_s = case.w_q.shape
    padded = np.pad(case.x_q, ((0, 0), (0, 0), (top, bottom), (left, right)))
    n, _, height, width = padded.shape
    for image, o in np.ndindex(n, outputs):
        planes = padded[image, o * groups // outputs * channels:][:channels]
        for p, i in enumerate(range(0, height - (kernel_r - 1) * spread_r, down)):
            for q, j in enumerate(range(0, width - (kernel_s - 1) * spread_s, across)):
                seen = planes[:, i:i + kernel_r * spread_r:spread_r, j:j + kernel_s * spread_s:spread_s]
                yield (image, o, p, q), seen.ravel().tolist(), case.w_q[o].ravel().tolist()


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
    for (image, o, p, q), x, w in windows(case):
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
        message = rf"^image \d+: SMLAL at step {step}, lane\[(\d+, )*{lane}\] is {value}, "
        with pytest.raises(OverflowError, match=message):
            with_lanes(case, products_per_lane=products_per_lane)
        return
    y, reached = with_lanes(case, products_per_lane=products_per_lane, policy=policy)
    assert {index: int(y[index]) for index in np.ndindex(y.shape)} == sums
    ends = [end(held[name]) for name in ("SMLAL", "SADALP") for end in (min, max)]
    assert reached == (products_per_lane, *ends)
