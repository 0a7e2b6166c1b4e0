"""The proven worst cases of the Winograd stages against all operands of small cases, all corners, and the stages."""
from __future__ import annotations

import itertools
import operator
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from recording import convolve_with_lanes, winograd_with_stages
from tools import require_module

from refquant.convolution.bounds import StageBound
from refquant.convolution.direct import convolve_exact
from refquant.integers.formats import IntFormat
from refquant.integers.simd import INT32
from refquant.integers.stages import headroom_bits
from refquant.strategies import codes, int_formats
from refquant.winograd.bounds import largest_channels, winograd_bounds, winograd_bounds_of_weights
from refquant.winograd.convolution import STAGES
from refquant.winograd.transforms import PRESETS, Transforms, transforms_for

SEVEN, FULL_SEVEN, UNSIGNED_SEVEN = IntFormat(7, narrow=True), IntFormat(7), IntFormat(7, signed=False)
tiles = st.sampled_from(((1, 1), (1, 2), (2, 2), (2, 3), (4, 3), "F(4,3) ncnn", (3, 2), (6, 3)))


def by_name(bounds: tuple[StageBound, ...]) -> dict[str, StageBound]:
    assert [b.stage for b in bounds] == [*STAGES, "direct", *(["lane"] * (bounds[-1].stage == "lane"))]
    return {b.stage: b for b in bounds}


def range_of(bound: StageBound) -> tuple[int, int]:
    return bound.min, bound.max


def witnesses(bound: StageBound):
    """(the function that finds the end, its value, input, kernel), for both ends."""
    return (min, bound.min, bound.x_min, bound.w_min), (max, bound.max, bound.x_max, bound.w_max)


def traced(t, x, w) -> dict[str, tuple[int, int]]:
    """The extremes that winograd_convolve saw in its stages for one tile and one kernel."""
    channels = len(w if x is None else x)
    x = np.zeros((channels, t.n, t.n), int) if x is None else x
    w = np.zeros((channels, t.r, t.r), int) if w is None else w
    _, trace = winograd_with_stages(x[None], w[None], t)
    return {stage: (seen.min, seen.max) for stage, seen in trace.items()}


# --- known values ---------------------------------------------------------------------------------------------

def test_f23_at_7_bits_by_hand():
    bounds = by_name(winograd_bounds((2, 3), SEVEN, SEVEN, 1))
    assert {stage: bound.max for stage, bound in bounds.items()} == {
        "input": 63, "V": 252, "U": 567, "product": 142884, "sum": 142884, "output_scaled": 142884,
        "output": 35721, "direct": 35721, "lane": 2 * 3969}
    assert all(bound.min == -bound.max for bound in bounds.values())
    assert {stage: str(bound.format) for stage, bound in bounds.items()} == {
        "input": "int8", "V": "int16", "U": "int16", "product": "int32", "sum": "int32", "output_scaled": "int32",
        "output": "int32", "direct": "int32", "lane": "int16"}


@pytest.mark.parametrize(("tile", "channels"), [
    ("F(2,3)", {"sum": 15029, "output_scaled": 15029, "output": 60118}),
    ("F(4,3)", {"sum": 9, "output_scaled": 104, "output": 60118}),
    ("F(4,3) ncnn", {"sum": 37, "output_scaled": 104, "output": 60118}),
    ("F(6,3)", {"sum": 0, "output_scaled": 0, "output": 60118}),
])
def test_so_many_channels_are_proven_in_int32_at_7_bits(tile, channels):
    assert largest_channels(tile, SEVEN, SEVEN) == channels
    for stage, count in channels.items():
        for more in (0, 1):
            bound = by_name(winograd_bounds(tile, SEVEN, SEVEN, max(count + more, 1)))[stage]
            assert (headroom_bits(bound.min, bound.max, INT32) >= 0) == (0 < count + more <= count)


# --- all operands ---------------------------------------------------------------------------------------------

def extremes(t: Transforms, x_format: IntFormat, kernels: np.ndarray) -> dict[str, tuple[int, int]]:
    """Each stage's ends over all tiles and the kernels (K, C, r, r): it is linear in the tile, so each entry has its
    ends at corners of its own. No theorem about convolution is used.
    """
    def ends(forms: np.ndarray, axes: tuple[int, ...]) -> tuple[int, int]:
        positive, negative = np.maximum(forms, 0).sum(axis=axes), np.minimum(forms, 0).sum(axis=axes)
        return (int((positive * x_format.min + negative * x_format.max).min()),
                int((positive * x_format.max + negative * x_format.min).max()))

    v, u = np.einsum("ia,jb->ijab", t.bt, t.bt), t.g @ kernels @ t.g.T
    products = np.einsum("kcij,ijab->kijcab", u, v)
    scaled = np.einsum("pi,kijcab,qj->kpqcab", t.at, products, t.at, optimize=True)
    plane, tile = (-2, -1), (-3, -2, -1)
    return {"input": (x_format.min, x_format.max), "V": ends(v, plane), "U": (u.min(), u.max()),
            "product": ends(products, plane), "sum": ends(products, tile), "output_scaled": ends(scaled, tile),
            "output": ends(scaled // t.divisor**2, tile), "direct": ends(scaled // t.divisor**2, tile)}


ONE, TWO, NARROW_TWO, UNSIGNED_TWO = IntFormat(1), IntFormat(2), IntFormat(2, narrow=True), IntFormat(2, signed=False)


@pytest.mark.parametrize(("x_format", "w_format"), [
    (SEVEN, SEVEN), (FULL_SEVEN, FULL_SEVEN), (UNSIGNED_SEVEN, SEVEN), (UNSIGNED_SEVEN, FULL_SEVEN), (ONE, TWO),
    (IntFormat(8, signed=False), IntFormat(8)), (NARROW_TWO, ONE), (IntFormat(1, signed=False), UNSIGNED_TWO)])
@pytest.mark.parametrize("tile", [*PRESETS, (1, 1), (1, 2), (2, 2), (3, 1), (3, 2)], ids=str)
def test_bounds_are_the_best_tile_for_each_corner_of_the_kernel_in_every_channel(tile, x_format, w_format):
    """A bilinear form is at its extremes at corners of both boxes."""
    t = transforms_for(tile)
    corners = np.array(list(itertools.product((w_format.min, w_format.max), repeat=t.r**2))).reshape(-1, 1, t.r, t.r)
    found = extremes(t, x_format, corners)
    for stage, bound in by_name(winograd_bounds(tile, x_format, w_format, 5)).items():
        if stage != "lane":
            channels = 5 if stage in ("sum", "output_scaled", "output", "direct") else 1
            assert range_of(bound) == (channels * found[stage][0], channels * found[stage][1]), stage


@given(tiles, int_formats(1, 8), int_formats(1, 8), st.integers(1, 3), st.data())
@example((2, 2), UNSIGNED_SEVEN, IntFormat(8), 1, np.array([[[[-128, 127], [0, 1]]]]))
@example((1, 2), SEVEN, IntFormat(8), 2, np.zeros((2, 2, 2, 2), np.int8))
@example((1, 2), UNSIGNED_SEVEN, IntFormat(8, signed=False), 2, np.full((1, 2, 2, 2), 255, np.uint8))
def test_bounds_from_weights_are_those_of_the_best_tile_for_each_kernel(tile, x_format, w_format, channels, data):
    t = transforms_for(tile)
    w_q = data if isinstance(data, np.ndarray) else data.draw(codes(w_format, (2, channels, t.r, t.r)))
    bounds = by_name(winograd_bounds_of_weights(tile, x_format, w_q))
    found = extremes(t, x_format, w_q.astype(int))
    assert {stage: range_of(bound) for stage, bound in bounds.items()} == found
    for stage, bound in bounds.items():
        for end, value, x, w in witnesses(bound):
            assert w is None or (any((w == kernel).all() for kernel in w_q) and not w.flags.writeable)
            assert x is None or (x_format.min <= x.min() and x.max() <= x_format.max and not x.flags.writeable)
            if stage == "direct":
                assert convolve_exact(x[None], w[None]).tolist() == [[[[value]]]]
            else:
                assert end(traced(t, x, w)[stage]) == value


def test_z3_finds_no_codes_that_take_v_or_u_of_f23_beyond_their_bounds():
    z3 = require_module("z3", "pip install z3-solver")
    t, bounds = PRESETS["F(2,3)"], by_name(winograd_bounds((2, 3), FULL_SEVEN, UNSIGNED_SEVEN, 1))

    def some_entry(matrix, fmt, compare, limit):
        """Whether some entry of matrix·codes·matrixᵀ can compare so with the limit."""
        size = matrix.shape[1]
        plane = z3.IntVector("a", size**2)
        entries = [z3.Sum([int(c) * code for c, code in zip(np.outer(row, column).flat, plane)])
                   for row in matrix for column in matrix]
        solver = z3.Solver()
        solver.add([z3.And(fmt.min <= code, code <= fmt.max) for code in plane])
        solver.add(z3.Or([compare(entry, limit) for entry in entries]))
        return solver.check()

    for matrix, fmt, bound in ((t.bt, FULL_SEVEN, bounds["V"]), (t.g, UNSIGNED_SEVEN, bounds["U"])):
        assert some_entry(matrix, fmt, operator.lt, bound.min) == z3.unsat
        assert some_entry(matrix, fmt, operator.gt, bound.max) == z3.unsat
        assert some_entry(matrix, fmt, operator.le, bound.min) == z3.sat
        assert some_entry(matrix, fmt, operator.ge, bound.max) == z3.sat


# --- witnesses ------------------------------------------------------------------------------------------------

@given(tiles, int_formats(1, 8), int_formats(1, 8), st.integers(1, 3))
@example("F(2,3)", FULL_SEVEN, FULL_SEVEN, 2)  # the least V is not minus the greatest
@example("F(4,3)", SEVEN, SEVEN, 64)  # its sums need 35 bits
@example("F(4,3)", UNSIGNED_SEVEN, SEVEN, 2)
@example("F(6,3)", IntFormat(8, signed=False), IntFormat(8), 1)
def test_witnesses_are_codes_that_attain_the_bounds_exactly(tile, x_format, w_format, channels):
    """And a witness, taken for the weights at hand, has the bounds of its format."""
    t = transforms_for(tile)
    for name, bound in by_name(winograd_bounds(tile, x_format, w_format, channels)).items():
        for end, value, x, w in witnesses(bound):
            for operand, fmt, size in ((x, x_format, t.r if name in ("direct", "lane") else t.n), (w, w_format, t.r)):
                if operand is not None:
                    assert operand.shape == (channels, size, size) and not operand.flags.writeable
                    assert fmt.min <= operand.min() <= operand.max() <= fmt.max
            if name in STAGES:
                assert (x is None, w is None) == (name == "U", name in ("input", "V"))
                assert end(traced(t, x, w)[name]) == value
            elif name == "direct":
                assert convolve_exact(x[None], w[None]).tolist() == [[[[value]]]]
            else:
                seen = convolve_with_lanes(x[None], w[None], x_format, w_format)[1]
                assert end(seen.int16_min, seen.int16_max) == value
            if name != "lane" and w is not None:
                assert end(range_of(by_name(winograd_bounds_of_weights(tile, x_format, w[None]))[name])) == value


@given(tiles, int_formats(1, 8), int_formats(1, 8), st.integers(0, 2), st.data())
def test_no_operands_and_no_padding_take_a_stage_beyond_its_bounds(tile, x_format, w_format, padding, data):
    r = transforms_for(tile).r
    x, w = data.draw(codes(x_format, (1, 2, 5, 7))), data.draw(codes(w_format, (2, 2, r, r)))
    bounds = by_name(winograd_bounds(tile, x_format, w_format, 2))
    _, trace = winograd_with_stages(x, w, tile, padding)
    for stage, seen in trace.items():
        assert bounds[stage].min <= seen.min <= seen.max <= bounds[stage].max


# --- what is refused ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("call, message", [
    *[(lambda shape=shape: winograd_bounds_of_weights((2, 3), SEVEN, np.ones(shape, int)),
       f"weight must be a non-empty (O, C, 3, 3) for F(2, 3), got shape {shape}")
      for shape in ((1, 3, 3), (1, 1, 3, 2), (1, 1, 2, 3), (0, 1, 3, 3), (1, 0, 3, 3))],
    (lambda: winograd_bounds_of_weights((2, 3), SEVEN, np.ones((1, 1, 3, 3))),
     "weight must hold integers of at most 64 bits, got dtype float64"),
    *[(lambda weight=weight: winograd_bounds_of_weights((2, 3), SEVEN, np.full((1, 2, 3, 3), weight)),
       f"the sum of |U| can reach {9 * 2 * abs(weight)}, which int64 does not hold") for weight in (2**62, -2**63)],
    (lambda: winograd_bounds((4, 3), IntFormat(32, narrow=True), IntFormat(32, narrow=True), 1),
     f"stage product can reach -{57_600 * (2**31 - 1)**2}..{57_600 * (2**31 - 1)**2}, which int64 does not hold"),
    (lambda: winograd_bounds((2, 3), SEVEN, SEVEN, 10**14),
     "stage sum can reach -14288400000000000000..14288400000000000000, which int64 does not hold"),
    (lambda: winograd_bounds((2, 3), SEVEN, SEVEN, 0), "channels must be an integer >= 1, got 0"),
])
def test_bad_input_is_refused_with_a_sentence(call, message):
    with pytest.raises((ValueError, OverflowError), match=f"^{re.escape(message)}$"):
        call()
