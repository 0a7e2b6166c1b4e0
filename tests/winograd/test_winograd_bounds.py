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
from refquant.winograd.transforms import PRESETS, transforms_for

SEVEN, FULL_SEVEN, UNSIGNED_SEVEN = IntFormat(7, narrow=True), IntFormat(7), IntFormat(7, signed=False)
tiles = st.sampled_from(((1, 1), (1, 2), (2, 2), (2, 3), (4, 3), "F(4,3) ncnn", (3, 2), (6, 3)))


def by_name(bounds: tuple[StageBound, ...]) -> dict[str, StageBound]:
    assert [b.stage for b in bounds] == [*STAGES, "direct", *(["lane"] * (bounds[-1].stage == "lane"))]
    return {b.stage: b for b in bounds}


def range_of(bound: StageBound) -> tuple[int, int]:
    return bound.min, bound.max


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


@pytest.mark.parametrize(("tile", "gain_of_v", "gain_of_u", "bits_of_sum"), [
    ("F(2,3)", 4, 9, 25), ("F(4,3)", 100, 576, 35), ("F(4,3) ncnn", 100, 144, 33), ("F(6,3)", 2500, 8100, 44)])
def test_gains_of_the_published_transforms_and_sums_of_64_channels(tile, gain_of_v, gain_of_u, bits_of_sum):
    bounds = by_name(winograd_bounds(tile, SEVEN, SEVEN, 64))
    assert range_of(bounds["V"]) == (-63 * gain_of_v, 63 * gain_of_v)
    assert range_of(bounds["U"]) == (-63 * gain_of_u, 63 * gain_of_u)
    assert (bounds["sum"].max, bounds["sum"].bits) == (64 * gain_of_v * gain_of_u * 63**2, bits_of_sum)


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


# --- all operands of small cases ------------------------------------------------------------------------------

def every_code(fmt: IntFormat, size: int) -> np.ndarray:
    """All size x size planes of codes, one per row."""
    return np.array(list(itertools.product(range(fmt.min, fmt.max + 1), repeat=size**2)))


def every_corner(fmt: IntFormat, size: int) -> np.ndarray:
    return np.array(list(itertools.product((fmt.min, fmt.max), repeat=size**2)))


def enumerated(t, x: np.ndarray, w: np.ndarray) -> dict[str, tuple[int, int]]:
    """The extremes of each stage over every pair of the tiles x (., n·n) and the kernels w (., r·r)."""
    v, u = x @ np.kron(t.bt, t.bt).T, w @ np.kron(t.g, t.g).T
    to_y = np.kron(t.at, t.at)
    seen: dict[str, list[np.ndarray]] = {stage: [] for stage in STAGES}
    for row in u:
        product = row * v
        scaled = product @ to_y.T
        for stage, values in (("input", x), ("V", v), ("U", row), ("product", product), ("output_scaled", scaled),
                              ("output", scaled // t.divisor**2)):
            seen[stage] += [values.min(), values.max()]
    seen["sum"] = seen["product"]  # one channel
    return {stage: (int(min(ends)), int(max(ends))) for stage, ends in seen.items()}


ONE, TWO, NARROW_TWO, UNSIGNED_TWO = IntFormat(1), IntFormat(2), IntFormat(2, narrow=True), IntFormat(2, signed=False)


@pytest.mark.parametrize(("tile", "x_format", "w_format"), [
    ((1, 2), TWO, TWO), ((1, 2), UNSIGNED_TWO, NARROW_TWO), ((1, 2), IntFormat(3), UNSIGNED_TWO),
    ((2, 1), IntFormat(3), IntFormat(3)), ((2, 1), UNSIGNED_TWO, IntFormat(3, narrow=True)),
    ((2, 2), NARROW_TWO, NARROW_TWO), ((2, 2), ONE, TWO), ((2, 2), IntFormat(1, signed=False), UNSIGNED_TWO),
    ((1, 3), NARROW_TWO, ONE), ((3, 1), ONE, IntFormat(3)),
], ids=str)
def test_bounds_are_the_extremes_over_all_operands_there_are(tile, x_format, w_format):
    t = transforms_for(tile)
    found = enumerated(t, every_code(x_format, t.n), every_code(w_format, t.r))
    bounds = by_name(winograd_bounds(t, x_format, w_format, 1))
    assert found == {stage: range_of(bounds[stage]) for stage in STAGES}
    assert range_of(bounds["direct"]) == range_of(bounds["output"])


formats = pytest.mark.parametrize(("x_format", "w_format"), [
    (SEVEN, SEVEN), (FULL_SEVEN, FULL_SEVEN), (UNSIGNED_SEVEN, SEVEN), (UNSIGNED_SEVEN, FULL_SEVEN),
    (IntFormat(8, signed=False), IntFormat(8)), (SEVEN, IntFormat(6, narrow=True))], ids=str)


def best_tile(forms: np.ndarray, fmt: IntFormat) -> tuple[int, int]:
    """The extremes over all tiles of linear forms (..., n, n) of the tile: each at its own best corner."""
    positive, negative = np.maximum(forms, 0).sum(axis=(-2, -1)), np.minimum(forms, 0).sum(axis=(-2, -1))
    return (int((positive * fmt.min + negative * fmt.max).min()),
            int((positive * fmt.max + negative * fmt.min).max()))


@formats
@pytest.mark.parametrize("tile", PRESETS)
def test_bounds_of_the_presets_are_the_best_tile_for_each_of_the_512_kernel_corners(tile, x_format, w_format):
    """A bilinear form is at its extremes at corners of both boxes: no theorem about convolution is used."""
    t, kernels = PRESETS[tile], every_corner(w_format, 3).reshape(-1, 3, 3)
    u, v = t.g @ kernels @ t.g.T, np.einsum("ia,jb->ijab", t.bt, t.bt)
    bounds = by_name(winograd_bounds(t, x_format, w_format, 5))
    assert best_tile(v, x_format) == range_of(bounds["V"])
    assert (u.min(), u.max()) == range_of(bounds["U"])
    low, high = best_tile(np.einsum("kij,ijab->kijab", u, v), x_format)
    assert (low, high) == range_of(bounds["product"])
    assert (5 * low, 5 * high) == range_of(bounds["sum"])
    scaled = [best_tile(np.tensordot(u, np.einsum("i,j,ijab->ijab", row, column, v), 2), x_format)
              for row in t.at for column in t.at]
    assert set(scaled) == {scaled[0]}  # no output is better off than another
    assert (5 * scaled[0][0], 5 * scaled[0][1]) == range_of(bounds["output_scaled"])
    assert [end // t.divisor**2 for end in range_of(bounds["output_scaled"])] == [*range_of(bounds["output"])]


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


# --- from the weights at hand ---------------------------------------------------------------------------------

@st.composite
def small_weights(draw: st.DrawFn):
    """(tile, weights (O, C, r, r)) of few enough inputs to try every corner."""
    tile, channels = draw(st.sampled_from((((1, 2), 1), ((1, 2), 2), ((2, 2), 1), ((1, 3), 1), ((2, 1), 2))))
    r = transforms_for(tile).r
    return tile, draw(codes(draw(int_formats(1, 8)), (draw(st.integers(1, 3)), channels, r, r)))


@given(small_weights(), int_formats(1, 8))
@example(((2, 2), np.array([[[[-128, 127], [0, 1]]]])), IntFormat(8, signed=False))
@example(((1, 2), np.zeros((2, 2, 2, 2), np.int8)), SEVEN)
@example(((1, 2), np.full((1, 2, 2, 2), 255, np.uint8)), UNSIGNED_SEVEN)
def test_bounds_from_weights_are_the_extremes_over_all_corner_tiles(case, x_format):
    """With the weights given, every stage is linear in the input."""
    (tile, w_q), t = case, transforms_for(case[0])
    channels = w_q.shape[1]
    x = np.array(list(itertools.product((x_format.min, x_format.max), repeat=channels * t.n**2)))
    x = x.reshape(-1, 1, channels, t.n, t.n)
    v, u = t.bt @ x @ t.bt.T, t.g @ w_q.astype(int) @ t.g.T
    total = (u * v).sum(axis=2)
    scaled = t.at @ total @ t.at.T
    found = {"input": x, "V": v, "U": u, "product": u * v, "sum": total, "output_scaled": scaled,
             "output": scaled // t.divisor**2, "direct": scaled // t.divisor**2}
    bounds = by_name(winograd_bounds_of_weights(tile, x_format, w_q))
    assert {stage: range_of(bound) for stage, bound in bounds.items()} == {
        stage: (int(values.min()), int(values.max())) for stage, values in found.items()}


@given(tiles, int_formats(1, 8), int_formats(1, 8), st.integers(1, 3), st.data())
def test_witnesses_from_weights_attain_their_bounds(tile, x_format, w_format, channels, data):
    t = transforms_for(tile)
    w_q = data.draw(codes(w_format, (2, channels, t.r, t.r)))
    for stage, bound in by_name(winograd_bounds_of_weights(tile, x_format, w_q)).items():
        for end, value, x, w in witnesses(bound):
            assert w is None or (any((w == kernel).all() for kernel in w_q) and not w.flags.writeable)
            assert x is None or (x_format.min <= x.min() and x.max() <= x_format.max and not x.flags.writeable)
            if stage == "direct":
                assert convolve_exact(x[None], w[None]).tolist() == [[[[value]]]]
            else:
                assert end(traced(t, x, w)[stage]) == value


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
