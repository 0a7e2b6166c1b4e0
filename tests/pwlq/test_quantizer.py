"""PWLQ's codes: by hand, in rationals, and packed to bits."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.pwlq import VARIANTS, PiecewiseCodes, PiecewiseGrid, dequantize, quantize, round_trip
from refquant.pwlq.quantizer import as_signed, from_signed, grid_of, pack, round_trip_of_pieces, unpack


@st.composite
def grids(draw: st.DrawFn) -> PiecewiseGrid:
    """Limits and breakpoints are multiples of 1/64, so that a rational oracle can tell every tie."""
    m = draw(st.integers(2, 512))
    return grid_of(draw(st.integers(1, m - 1)) / 64, m / 64, draw(st.integers(2, 6)), draw(st.sampled_from(VARIANTS)),
                   draw(st.booleans()))


def levels_in_rationals(grid: PiecewiseGrid) -> tuple[list[Fraction], list[Fraction]]:
    """The reals of all magnitudes in the centre and in the tails, written down from the three definitions."""
    p, m, b = Fraction(float(grid.breakpoint)), Fraction(float(grid.limit)), grid.bits
    count = 2 ** (b - 1) if grid.signed else 2**b
    signed_step = Fraction(2, 2**b - 1) if grid.signed else Fraction(1, 2**b - 1)
    centre = p / (count - 1) if grid.variant == "non_overlapping" else p * signed_step
    if grid.variant == "overlapping":
        return [k * centre for k in range(count)], [k * m * signed_step for k in range(count)]
    return [k * centre for k in range(count)], [p + k * (m - p) / (count - 1) for k in range(count)]


@given(grids(), st.lists(st.integers(-600, 600), min_size=1, max_size=20))
def test_codes_are_the_nearest_level_of_their_region(grid, values):
    """And the breakpoint itself is in the centre; in the authors' code, whose centre ends half a step below, not."""
    p = Fraction(float(grid.breakpoint))
    values += [int(64 * p), int(-64 * p)]
    codes = quantize(np.array(values) / 64, grid)
    levels = levels_in_rationals(grid)
    for value, real, region, sign, magnitude in zip(values, dequantize(codes, grid), *(c.tolist() for c in codes)):
        r = abs(Fraction(value, 64)) if grid.signed else max(Fraction(value, 64), Fraction(0))
        distances = [abs(r - level) for level in levels[region]]
        assert region == (r >= p if grid.variant == "non_overlapping_authors" else r > p)
        assert distances[magnitude] <= min(distances) + Fraction(1, 2**40)  # at a tie float64 takes either
        assert sign == (-1 if value < 0 and grid.signed and (region or magnitude) else 1)
        assert real == pytest.approx(float(sign * levels[region][magnitude]), rel=1e-14, abs=1e-300)


def test_ties_go_away_from_zero():
    grid = grid_of(1.0, 4.0, 3)  # levels 0, 1/3, 2/3, 1 and 1, 2, 3, 4
    assert round_trip(np.array([1.5, -1.5, 3.5, -3.5]), grid).tolist() == [2, -2, 4, -4]
    assert round_trip_of_pieces(np.array([1.5, -1.5, 3.5, -3.5]), [1.0], 4.0, 3).tolist() == [2, -2, 4, -4]


@given(grids(), st.data())
def test_packed_codes_come_back(grid, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    values = data.draw(st.lists(st.integers(-600, 600), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    codes = quantize(np.array(values).reshape(shape) / 64, grid)
    packed = pack(codes, grid)
    assert packed.dtype == np.uint8 and len(packed) == -(-len(values) * (grid.bits + 1) // 8)
    for before, after in zip(codes, unpack(packed, shape, grid)):
        assert before.dtype == after.dtype and np.array_equal(before, after)


def test_packed_bits_are_region_sign_magnitude():
    grid = grid_of(1.0, 4.0, 3)
    codes = PiecewiseCodes(np.array([1, 0], np.int8), np.array([-1, 1], np.int8), np.array([2, 3], np.int32))
    assert np.unpackbits(pack(codes, grid)).tolist() == [1, 1, 1, 0, 0, 0, 1, 1]


@given(grids())
def test_signed_integers_rise_with_their_reals_and_come_back(grid):
    most = 2 * grid.largest + 1
    values = np.arange(-most if grid.signed else 0, most + 1)
    values = values[values != 0] if grid.signed else values
    codes = from_signed(values, grid)
    assert np.array_equal(as_signed(codes, grid), values)
    reals = dequantize(codes, grid)
    if grid.variant != "overlapping":  # whose tails have levels within the centre, which no real is given
        assert (np.diff(reals) >= -1e-12).all()


def test_channels_have_grids_of_their_own():
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    grid = grid_of([0.5, 1.0, 0.25], [3.0, 4.0, 2.0], 4)
    each = [round_trip(x[c], grid_of(float(grid.breakpoint[c]), float(grid.limit[c]), 4)) for c in range(3)]
    assert np.array_equal(round_trip(x, grid, axis=0), each)
    assert np.array_equal(round_trip(x.transpose(1, 0, 2), grid, axis=-2).transpose(1, 0, 2), each)


def test_two_and_three_breakpoints_by_hand():
    x = np.array([0.24, 0.3, -0.9, 1.6, 2.0, -3.1, 5.0])
    assert round_trip_of_pieces(x, [0.5, 1.0, 2.0], 4.0, 2).tolist() == [0.0, 0.5, -1.0, 2.0, 2.0, -4.0, 4.0]
    one = round_trip_of_pieces(x, [1.0], 4.0, 3)
    assert np.array_equal(one, round_trip(x, grid_of(1.0, 4.0, 3)))
