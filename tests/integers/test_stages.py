"""Ranges of stages, and how far they are from their formats' limits."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.integers.formats import IntFormat
from refquant.integers.stages import Recorder, StageRange, headroom_bits
from refquant.strategies import int_formats


@pytest.mark.parametrize(("low", "high", "fmt", "bits"), [
    (0, 127, IntFormat(8), 0.0),
    (-128, 0, IntFormat(8), 0.0),
    (-64, 0, IntFormat(8), 1.0),
    (-1, 1, IntFormat(8), math.log2(127)),  # the positive side is the tighter
    (5, 5, IntFormat(8), math.log2(127 / 5)),
    (-300, -300, IntFormat(8), math.log2(128 / 300)),
    (0, 254, IntFormat(8), -1.0),
    (0, 0, IntFormat(8), math.inf),
    (-1, 0, IntFormat(8, signed=False), -math.inf),
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


@pytest.mark.parametrize(("low", "high", "bits"), [(0, 2**63, 64), (-2**63 - 1, 0, 64), (0, 2**55, 56)])
def test_headroom_is_negative_one_beyond_a_wide_format(low, high, bits):
    """2^63 / (2^63 - 1) rounds to 1 in float64, whose logarithm is 0: fits."""
    assert headroom_bits(low, high, IntFormat(bits)) < 0


def test_a_recorder_keeps_ranges_of_exact_values_and_the_last_values_kept():
    seen, fmt = Recorder(), IntFormat(8)
    seen("sum", fmt, np.array([300, 7]), np.array([127, 7]))
    seen("sum", fmt, np.array([-5]), np.array([-5]))
    seen("none", fmt, np.zeros((0, 8), int), np.zeros((0, 8), int))
    assert seen.ranges == {"sum": StageRange("sum", fmt, -5, 300)} and seen.values["sum"].tolist() == [-5]
    assert not seen.ranges["sum"].fits and seen.ranges["sum"].headroom_bits < 0
    assert StageRange("sum", fmt, -128, 127).fits and not StageRange("sum", fmt, -129, 0).fits
    assert StageRange("sum", fmt, 1, 2, "conv").merge(0, 1) == StageRange("sum", fmt, 0, 2, "conv")
