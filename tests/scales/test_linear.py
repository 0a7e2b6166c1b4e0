"""Linear quantization against exact rationals: codes, reals, scales, zero points, PWLQ Eq. 1 and 2."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rounding_oracle import rational_round
from tools import require_module

from refquant.integers.formats import IntFormat
from refquant.integers.rounding import RULES
from refquant.scales.linear import affine_parameters, dequantize, expected_squared_error, max_scale, quantize

WIDTHS = range(2, 17)
SHAPES = {"full": (True, False), "narrow": (True, True), "unsigned": (False, False)}
FORMATS = [IntFormat(bits, *shape) for bits in WIDTHS for shape in SHAPES.values()]
AT_MOST_32 = [IntFormat(bits, *shape) for bits in (*WIDTHS, 17, 23, 24, 25, 31, 32) for shape in SHAPES.values()]
LARGEST, SMALLEST = 1.7976931348623157e308, 5e-324

any_rule = pytest.mark.parametrize("rule", RULES)
every_width = pytest.mark.parametrize("bits", WIDTHS)
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=str)
reals = st.floats(-1e6, 1e6)
scales = st.floats(1e-6, 1e6)


def clipped(code: int, fmt: IntFormat) -> int:
    return sorted((fmt.min, code, fmt.max))[1]


def rational_code(x: Any, scale: Any, fmt: IntFormat, rule: str = "half_away", zero_point: int = 0) -> int:
    """Q(x, S) of one number, in exact rationals."""
    return clipped(rational_round(Fraction(float(x)) * Fraction(float(scale)), rule) + zero_point, fmt)


def assert_codes(x: Any, scale: Any, fmt: IntFormat, rule: str = "half_away", zero_point: int = 0) -> None:
    got = quantize(x, scale, fmt, rule, zero_point=zero_point)
    assert got.dtype == fmt.dtype and got.shape == np.shape(x)
    assert got.tolist() == [rational_code(v, scale, fmt, rule, zero_point) for v in x]


# --- quantize -----------------------------------------------------------------------------------------

@every_width
@any_rule
def test_every_tie_and_both_its_float_neighbours_get_their_code(bits, rule):
    """All code boundaries of every width, at a scale that makes each boundary k + 1/2 a float."""
    for shape in SHAPES.values():
        fmt = IntFormat(bits, *shape)
        k = np.arange(fmt.min - 3, fmt.max + 3)
        positive, even = k >= 0, k % 2 == 0
        on_tie = {"half_up": k + 1, "half_down": k, "half_even": k + ~even, "half_away": k + positive,
                  "half_toward_zero": k + ~positive, "floor": k, "ceil": k + 1, "toward_zero": k + ~positive,
                  "away_from_zero": k + positive, "to_odd": k + even}[rule]
        below, above = (k, k + 1) if rule.startswith("half") else (on_tie, on_tie)
        for dtype in (np.float32, np.float64):
            tie = ((k + 0.5) / 8).astype(dtype)
            assert np.array_equal(tie.astype(np.float64) * 16, 2 * k + 1), "the ties must be exact"
            just_below, just_above = np.nextafter(tie, dtype(-np.inf)), np.nextafter(tie, dtype(np.inf))
            for x, whole in ((tie, on_tie), (just_below, below), (just_above, above)):
                got = quantize(x, 8.0, fmt, rule)
                assert got.dtype == fmt.dtype
                assert np.array_equal(got.astype(np.int64), np.clip(whole, fmt.min, fmt.max))


@every_format
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_boundary_of_an_arbitrary_scale_is_decided_by_the_exact_product(fmt, dtype):
    rng = np.random.default_rng(fmt.bits)
    k = np.unique(np.concatenate([np.arange(fmt.min - 2, fmt.min + 3), np.arange(-3, 3),
                                  np.arange(fmt.max - 2, fmt.max + 2), rng.integers(fmt.min, fmt.max, 12)]))
    for scale in (0.1, 127 / 0.7, 1 / 3, 1e-30, 1e30):
        boundary = ((k + 0.5) / scale).astype(dtype)
        x = np.concatenate([boundary, np.nextafter(boundary, dtype(np.inf)), np.nextafter(boundary, dtype(-np.inf))])
        assert_codes(x, scale, fmt)
        assert_codes(x, np.float32(scale), fmt, "half_even")


@any_rule
@given(st.lists(reals, min_size=1, max_size=12), scales, st.sampled_from(AT_MOST_32))
@example([0.1], 5.0, IntFormat(8))                # 0.1·5 == 0.5 in float64, yet the exact product is above 1/2
@example([0.3], 5.0, IntFormat(8))                # 0.3·5 == 1.5 in float64, yet the exact product is below 3/2
@example([0.49999999999999994], 1.0, IntFormat(8))  # floor(x + 0.5) makes it 1
@example([-1e6, 1e6], 1e6, IntFormat(32))         # clips on both sides
def test_any_real_at_any_scale_gets_the_code_of_the_exact_rational(rule, x, scale, fmt):
    assert_codes(np.array(x), scale, fmt, rule)
    assert_codes(np.array(x, np.float32), scale, fmt, rule)
    assert_codes(np.array(x, np.float32), np.float32(scale), fmt, rule)


@every_width
@any_rule
def test_a_zero_point_is_added_after_rounding_and_before_clipping(bits, rule):
    for shape in SHAPES.values():
        fmt = IntFormat(bits, *shape)
        x = np.concatenate([np.arange(-9, 10) / 2, [fmt.max / 2, -fmt.max / 2, fmt.max - 0.5, 1e9, -1e9]])
        for zero_point in {fmt.min, 0, fmt.max // 2, fmt.max}:
            assert_codes(x, 1.0, fmt, rule, zero_point)


@pytest.mark.parametrize("fmt", AT_MOST_32, ids=str)
def test_huge_reals_saturate_and_tiny_ones_vanish_at_every_width(fmt):
    x = np.array([LARGEST, 1e300, 2.0**40, 2.0**33, 2.0**32, SMALLEST, 1e-300])
    for scale in (1.0, LARGEST, 1e-300, SMALLEST):
        assert_codes(x, scale, fmt)
        assert_codes(-x, scale, fmt, "half_even")
        assert_codes(x, scale, fmt, zero_point=fmt.max)
        assert_codes(-x, scale, fmt, zero_point=fmt.min)


# --- dequantize ---------------------------------------------------------------------------------------

@given(st.lists(st.integers(-(2**31), 2**32 - 1), min_size=1, max_size=12), scales, st.integers(-(2**31), 2**32 - 1))
def test_dequantize_is_the_float_nearest_to_the_exact_quotient(codes, scale, zero_point):
    got = dequantize(np.array(codes), scale, zero_point=zero_point)
    assert got.dtype == np.float64
    assert got.tolist() == [float((code - zero_point) / Fraction(scale)) for code in codes]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_a_zero_point_is_subtracted_without_wrapping_in_any_dtype(dtype):
    limits = np.iinfo(dtype)
    codes = np.array([limits.min, 0, 3, limits.max], dtype)
    for zero_point in (5, np.array(3, dtype), np.array(limits.max, dtype), -128):
        got = dequantize(codes, 2.0, zero_point=zero_point)
        exact = [(code - int(zero_point)) / 2 for code in codes.tolist()]
        assert got.tolist() == pytest.approx(exact, rel=1e-15, abs=0)
    assert quantize(np.array([0.5, -0.5]), 1.0, IntFormat(8), zero_point=np.array(3, dtype)).tolist() == [4, 2]


# --- per channel --------------------------------------------------------------------------------------

@any_rule
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_each_channel_uses_its_own_scale_and_zero_point_along_any_axis(rule, axis):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    channels, fmt = x.shape[axis], IntFormat(7)
    scales, zero_points = rng.uniform(5, 90, channels), rng.integers(-20, 20, channels)
    for scale, zero_point in ((scales, zero_points), (scales, 3), (7, zero_points), (7, 3)):
        got = quantize(x, scale, fmt, rule, zero_point=zero_point, axis=axis)
        back = dequantize(got, scale, zero_point=zero_point, axis=axis)
        assert got.dtype == np.int8 and got.shape == back.shape == x.shape
        scale, zero_point = np.broadcast_to(scale, channels), np.broadcast_to(zero_point, channels).tolist()
        for index in np.ndindex(x.shape):
            c = index[axis]
            assert got[index] == rational_code(x[index], scale[c], fmt, rule, zero_point[c])
            assert back[index] == float((int(got[index]) - zero_point[c]) / Fraction(scale[c]))


# --- max_scale ----------------------------------------------------------------------------------------

def exact_scale(reach: float, fmt: IntFormat) -> float:
    return float(min(Fraction(fmt.max) / Fraction(reach), Fraction(LARGEST))) if reach else 1.0


@st.composite
def rows_of_channels(draw: st.DrawFn) -> np.ndarray:
    """(O, 2) of either float width: zeros, peaks from the smallest to the largest, and values about 2^-24 of them."""
    dtype, peaks = draw(st.sampled_from((
        (np.float64, (SMALLEST, 1e-320, 2.0**-1051, 2.0**-1049, 2.0**-1022, 1e-300, 1.0, 3.7, LARGEST)),
        (np.float32, (2.0**-149, 1e-30, 1.0, 3.7, 1e30)))))
    peak = dtype(draw(st.sampled_from(peaks)))
    limit = dtype(peak * 2.0**-24)
    values = st.sampled_from((0, peak, -peak, peak / 3, limit, -limit, np.nextafter(limit, dtype(0)), limit * 8))
    values |= st.floats(-9, 9)
    return np.array(draw(st.lists(st.tuples(values, values), min_size=1, max_size=4)), dtype)


@given(rows_of_channels(), st.sampled_from(AT_MOST_32))
@example(np.array([[1 / 3]]), IntFormat(8))  # fmt.max / x is inexact
@example(np.array([[-0.7, 0.1]]), IntFormat(8))  # the negative end decides
@example(np.array([[-0.7, 0.1]]), IntFormat(8, signed=False))  # it does not
@example(np.array([[-1.0, -5.0]]), IntFormat(8, signed=False))  # nothing to scale
@example(np.array([[1.0], [2.0**-24], [np.nextafter(2.0**-24, 0)], [0.0]]), IntFormat(8))  # alive, dead and zero
@example(np.array([[2.0**-1051], [0.0]]), IntFormat(8))  # beside subnormals, 2^-24 of which is 0
def test_the_max_scale_is_the_last_code_over_the_largest_magnitude_and_a_dead_channel_gets_the_layers(x, fmt):
    """Dead: zero, or below 2^-24 of the layer."""
    magnitude = np.abs(x.astype(float)) if fmt.signed else np.maximum(x, 0).astype(float)
    layer = magnitude.max()
    scale = max_scale(x, fmt)
    assert scale.dtype == np.float64 and scale.shape == () and float(scale) == exact_scale(layer, fmt)
    expected = [exact_scale(layer if r == 0 or r < layer * 2.0**-24 else r, fmt) for r in magnitude.max(axis=1)]
    for axis, moved in ((0, x), (-2, x), (1, x.T), (-1, x.T), (1, x[None]), (-1, x.T[None])):
        got = max_scale(moved, fmt, axis)
        assert got.dtype == np.float64 and got.tolist() == expected


# --- affine parameters (PWLQ Eq. 1 with an integer zero point) ---------------------------------------

ends = st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-9)


@given(ends, ends, st.sampled_from(AT_MOST_32))
@example(0.0, 0.0, IntFormat(8))
@example(0.0, 1.0, IntFormat(8))  # nothing negative: the zero point is the first code
@example(-1.0, 0.0, IntFormat(8))  # nothing positive: it is the last
@example(3.0, 7.0, IntFormat(8))  # zero lies outside and is brought in
@example(-5.0, -2.0, IntFormat(4, signed=False))
@example(-1.0, 3.0, IntFormat(8, signed=False))  # 63.75 codes below zero, rounded: both ends miss by a quarter code
@example(-1.0, 1.0, IntFormat(2, signed=False))  # by half a code
@example(-11.3, 56.5, IntFormat(8))  # -low·S lies just below 42.5 and float64 rounds it onto that tie
@example(-17.2, 23.6, IntFormat(8, signed=False))  # just below 107.5
@example(-0.4, 3.6, IntFormat(32))
@example(-1.89, 3.25, IntFormat(16, signed=False))
@example(-0.87, 2.61, IntFormat(4, narrow=True))
@example(-13.25, 13.25, IntFormat(8, signed=False))  # a tie of the rational S, and not of the float one
@example(-3.375, 16.875, IntFormat(8))
@example(-25.375, 25.375, IntFormat(32))
@example(-1e308, 1e308, IntFormat(8))  # high - low overflows
@example(-LARGEST, LARGEST, IntFormat(8))
@example(0.0, SMALLEST, IntFormat(8))  # the quotient overflows
@example(-SMALLEST, 0.0, IntFormat(8))
@example(-1e-310, 1e-312, IntFormat(8))
def test_affine_parameters_are_those_of_the_exact_equations_and_bring_reals_back_within_half_a_step(a, b, fmt):
    """S = codes/range and zero_point = round(fmt.min - low·S), half away, of the S that is returned."""
    found = affine_parameters(min(a, b), max(a, b), fmt)
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    if low == high:
        assert found == (1.0, 0)
        return
    scale, zero_point = found
    exact = Fraction(fmt.max - fmt.min) / (Fraction(high) - Fraction(low))
    assert type(scale) is float and scale == float(min(exact, Fraction(LARGEST)))
    assert type(zero_point) is int
    assert zero_point == clipped(rational_round(fmt.min - Fraction(low) * Fraction(scale), "half_away"), fmt)
    part = np.arange(41) / 40
    x = low * (1 - part) + high * part
    codes = quantize(x, scale, fmt, zero_point=zero_point).tolist()
    assert int(quantize(0.0, scale, fmt, zero_point=zero_point)) == zero_point
    assert float(dequantize(zero_point, scale, zero_point=zero_point)) == 0.0
    if scale < LARGEST:
        half_step = (Fraction(1, 2) + Fraction(1, 2**18)) / Fraction(scale)
        for value, code in zip(x.tolist(), codes, strict=True):
            assert abs((code - zero_point) / Fraction(scale) - Fraction(value)) <= half_step


# --- PWLQ Eq. 2 ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("bits", range(2, 13))
@pytest.mark.parametrize("low, high", [(0.0, 0.3), (0.0, 6.0), (-1.0, 0.0)])
def test_the_measured_error_of_an_even_grid_is_eq_2(bits, low, high):
    """The mean of (x̂ - x)² over a dense even grid is Δ² / (12·(2^b - 1)²)."""
    fmt = IntFormat(bits, signed=False)
    scale, zero_point = affine_parameters(low, high, fmt)
    # The midpoints of K equal parts of each half cell: their mean square is s²/12·(1 - 1/(4K²)) exactly.
    K, cells = 8, 2**bits - 1
    n = 2 * K * cells
    x = low + (high - low) * (2 * np.arange(n) + 1) / (2 * n)
    back = dequantize(quantize(x, scale, fmt, zero_point=zero_point), scale, zero_point=zero_point)
    measured = math.fsum(((back - x) ** 2).tolist()) / n
    assert expected_squared_error(low, high, bits) == pytest.approx(measured / (1 - 1 / (4 * K * K)), rel=1e-9, abs=0)


@pytest.mark.parametrize("kind", [int, np.int8, np.uint8, np.int64, np.uint64])
def test_eq_2_takes_numpy_numbers_by_value(kind):
    for low, high in ((0, 6), (-1, 2), (5, 5)):
        for bits in (1, 7, 8, 9, 16, 32):
            expected = float(Fraction((high - low) ** 2, 12 * (2**bits - 1) ** 2))
            got = expected_squared_error(np.float32(low), np.float32(high), kind(bits))
            assert isinstance(got, float) and got == pytest.approx(expected, rel=1e-15, abs=0), bits


# --- as other tools quantize --------------------------------------------------------------------------

TIE_CODES = np.arange(-300, 301) + 0.5


def near_ties(step: np.float32) -> np.ndarray:
    """float32 values at and around every boundary between codes, and random ones."""
    tie = (TIE_CODES * np.float64(step)).astype(np.float32)
    around = [tie, np.nextafter(tie, np.float32(np.inf)), np.nextafter(tie, np.float32(-np.inf))]
    return np.concatenate([*around, np.random.default_rng(3).normal(0, 60 * step, 500).astype(np.float32)])


@pytest.mark.parametrize("name, zero_point", [("INT8", -128), ("INT8", 0), ("INT8", 7), ("UINT8", 0), ("UINT8", 131),
                                              ("INT16", -3), ("UINT16", 999)])
def test_dividing_in_float32_is_onnxruntimes_quantize_linear(name, zero_point):
    ort = require_module("onnxruntime", "pip install 'refquant[oracles]'")
    onnx = require_module("onnx", "pip install 'refquant[oracles]'")
    helper, kind = onnx.helper, getattr(onnx.TensorProto, name)
    fmt = IntFormat(int(name.lstrip("UINT")), signed=not name.startswith("U"))
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["y"])], "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None]),
         helper.make_tensor_value_info("step", onnx.TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("y", kind, [None])], [helper.make_tensor("zero", kind, [], [zero_point])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    differs_from_exact = 0
    for step in np.random.default_rng(zero_point + 500).uniform(1e-3, 0.3, 20).astype(np.float32):
        x = near_ties(step)
        theirs = session.run(None, {"x": x, "step": np.array(step)})[0]
        scale = 1 / np.float64(step)
        ours = quantize(x, scale, fmt, "half_even", zero_point=zero_point, arithmetic="float32_divide")
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
        differs_from_exact += np.count_nonzero(quantize(x, scale, fmt, "half_even", zero_point=zero_point) != theirs)
    assert differs_from_exact > 100, "the cases must tell float32 from exact arithmetic"


@any_rule
@pytest.mark.parametrize("zero_point", [-4, -1, 0, 1, 2, 5])
def test_a_zero_point_before_rounding_is_part_of_the_exact_sum(rule, zero_point):
    fmt, scale = IntFormat(4), 0.1
    x = np.concatenate([np.arange(-30, 31) * 5.0, [0.1, -0.1, 5e-324, -5e-324, 1e300, -1e300]])
    x = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf)])
    x = x[np.isfinite(x)]
    expected = [min(max(rational_round(Fraction(float(v)) * Fraction(scale) + zero_point, rule), -8), 7) for v in x]
    assert quantize(x, scale, fmt, rule, zero_point=zero_point, zero="before").tolist() == expected


def test_torchs_way_by_hand():
    # In float32: 100 + 0.49999997 is 100.5, a tie, and goes to the even 100; 101 + 0.49999997 goes to 102.
    x = np.array([0.49999997, -0.49999997, 0.5, 1.5], np.float32)
    for zero_point, expected in ((100, [100, 100, 100, 102]), (101, [102, 100, 102, 102])):
        got = quantize(x, 1.0, IntFormat(8), "half_even", zero_point=zero_point, arithmetic="float32_multiply",
                       zero="before")
        assert got.tolist() == expected
    # 5 in steps of float32(0.2): float32(1/0.2) is 5, the quotient in float32 too; the exact product is below 12.5.
    step = np.float32(0.2)
    for arithmetic, code in (("exact", 12), ("float32_divide", 13), ("float32_multiply", 13)):
        assert quantize(np.float32(2.5), 1 / np.float64(step), IntFormat(8), arithmetic=arithmetic) == code


def test_products_far_beyond_the_zero_point_and_beyond_float32_are_codes_like_others():
    x = [-100.0, -100.5, 300.0]
    assert quantize(x, 1.0, IntFormat(8), "half_even", zero_point=100, zero="before").tolist() == [0, 0, 127]
    assert quantize(x, 1.0, IntFormat(16), "half_even", zero_point=-7, zero="before").tolist() == [-107, -108, 293]
    assert quantize([1e25, -1e25, 0.0], 1e25, IntFormat(8)).tolist() == [127, -128, 0]  # 1e50 is infinite in float32
