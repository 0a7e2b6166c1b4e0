"""Linear quantization against exact rationals: codes, reals, scales, zero points, PWLQ Eq. 1 and 2."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from test_rounding import RULES, rational_round
from tools import require_module

from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.scales.linear import (
    DEAD_CHANNEL,
    affine_parameters,
    dequantize,
    expected_squared_error,
    max_scale,
    quantize,
)

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
few_reals = st.lists(reals, min_size=1, max_size=12)


def rational_code(x: Any, scale: Any, fmt: IntFormat, rule: str = "half_away", zero_point: int = 0) -> int:
    """Q(x, S) of one number, in exact rationals."""
    code = rational_round(Fraction(float(x)) * Fraction(float(scale)), rule) + zero_point
    return sorted((fmt.min, code, fmt.max))[1]


def assert_codes(x: Any, scale: Any, fmt: IntFormat, rule: str = "half_away", zero_point: int = 0) -> None:
    got = quantize(x, scale, fmt, rule, zero_point=zero_point)
    assert got.dtype == fmt.dtype and got.shape == np.shape(x)
    assert got.tolist() == [rational_code(v, scale, fmt, rule, zero_point) for v in x]


# --- quantize: which code -----------------------------------------------------------------------------

@every_width
@any_rule
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tie_and_both_its_float_neighbours_get_their_code(bits, rule, shape):
    """All code boundaries of every width, at a scale that makes each boundary k + 1/2 a float."""
    fmt = IntFormat(bits, *SHAPES[shape])
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
            assert np.array_equal(got.astype(np.int64), np.minimum(np.maximum(whole, fmt.min), fmt.max))


@every_format
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.1, 3.0, 127 / 0.7, 1 / 3, 1e-30, 1e30], ids=repr)
def test_every_boundary_of_an_arbitrary_scale_is_decided_by_the_exact_product(fmt, dtype, scale):
    rng = np.random.default_rng(fmt.bits)
    k = np.unique(np.concatenate([np.arange(fmt.min - 2, fmt.min + 3), np.arange(-3, 3),
                                  np.arange(fmt.max - 2, fmt.max + 2), rng.integers(fmt.min, fmt.max, 12)]))
    boundary = ((k + 0.5) / scale).astype(dtype)
    x = np.concatenate([boundary, np.nextafter(boundary, dtype(np.inf)), np.nextafter(boundary, dtype(-np.inf))])
    assert_codes(x, scale, fmt)
    assert_codes(x, np.float32(scale), fmt, "half_even")


@any_rule
@given(few_reals, scales, st.sampled_from(AT_MOST_32))
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


@pytest.mark.parametrize("zero_point", [3, np.int8(3), np.uint8(3), np.uint64(3), np.array(3), np.array(3, "uint64")])
def test_a_zero_point_of_any_integer_dtype_means_the_same(zero_point):
    x = np.array([-200.0, -3.5, 0.0, 0.5, 123.6, 124.5, 1e300])
    got = quantize(x, 1.0, IntFormat(8), zero_point=zero_point)
    assert got.dtype == np.int8 and got.tolist() == [-128, -1, 3, 4, 127, 127, 127]
    assert dequantize(got, 2.0, zero_point=zero_point).tolist() == [-65.5, -2.0, 0.0, 0.5, 62.0, 62.0, 62.0]


@pytest.mark.parametrize("fmt", AT_MOST_32, ids=str)
def test_huge_reals_saturate_and_tiny_ones_vanish_at_every_width(fmt):
    x = np.array([LARGEST, 1e300, 2.0**40, 2.0**33, 2.0**32, SMALLEST, 1e-300])
    for scale in (1.0, LARGEST, 1e-300, SMALLEST):
        assert_codes(x, scale, fmt)
        assert_codes(-x, scale, fmt, "half_even")
        assert_codes(x, scale, fmt, zero_point=fmt.max)
        assert_codes(-x, scale, fmt, zero_point=fmt.min)


def test_codes_by_hand():
    x = np.array([0.5, -0.24, 9.0, -9.0, 0.25, -0.25, 0.35])
    assert quantize(x, 10.0, IntFormat(7, narrow=True)).tolist() == [5, -2, 63, -63, 3, -3, 3]  # fl(.35) < 7/20
    assert quantize(x, 10.0, IntFormat(7)).tolist() == [5, -2, 63, -64, 3, -3, 3]
    assert quantize(x, 10.0, IntFormat(3, signed=False)).tolist() == [5, 0, 7, 0, 3, 0, 3]
    assert quantize(x, 10.0, IntFormat(8), "half_even").tolist() == [5, -2, 90, -90, 2, -2, 3]
    assert quantize(0.5, 3, IntFormat(8)) == 2 and quantize([[1.0]], 2, IntFormat(8)).shape == (1, 1)


# --- quantize: order, symmetry, error -----------------------------------------------------------------

@any_rule
@given(few_reals, scales, st.sampled_from(AT_MOST_32))
def test_quantization_is_monotone(rule, x, scale, fmt):
    codes = quantize(np.sort(np.array(x)), scale, fmt, rule)
    assert all(a <= b for a, b in itertools.pairwise(codes.tolist()))


@given(few_reals, scales, st.sampled_from(["half_away", "half_even", "toward_zero"]), st.sampled_from([*WIDTHS, 32]))
@example([0.5, 1.5, 2.5], 1.0, "half_away", 8)  # ties: half_up and half_down are not odd here
def test_narrow_quantization_is_odd_for_rules_that_treat_both_signs_alike(x, scale, rule, bits):
    fmt = IntFormat(bits, narrow=True)
    codes = quantize(np.array(x), scale, fmt, rule).astype(np.int64)
    mirrored = quantize(-np.array(x), scale, fmt, rule).astype(np.int64)
    assert np.array_equal(codes, -mirrored)


@given(few_reals, scales, st.sampled_from(["half_away", "half_even", "half_up", "half_down"]),
       st.sampled_from(AT_MOST_32), st.integers(-(2**31), 2**31))
def test_an_unclipped_real_comes_back_within_half_a_step(x, scale, rule, fmt, zero_point):
    zero_point = sorted((fmt.min, zero_point, fmt.max))[1]
    codes = quantize(np.array(x), scale, fmt, rule, zero_point=zero_point)
    for value, code in zip(x, codes.tolist(), strict=True):
        exact_scale = Fraction(scale)
        if fmt.min <= Fraction(value) * exact_scale + zero_point <= fmt.max:
            assert abs((code - zero_point) / exact_scale - Fraction(value)) <= 1 / (2 * exact_scale)


@every_format
@pytest.mark.parametrize("scale", [1.0, 0.1, 127 / 0.7, 1e-30])
def test_every_code_survives_the_way_to_reals_and_back(fmt, scale):
    codes = np.arange(fmt.min, fmt.max + 1).astype(fmt.dtype)
    for zero_point in (0, fmt.min, fmt.max):
        back = quantize(dequantize(codes, scale, zero_point=zero_point), scale, fmt, zero_point=zero_point)
        assert back.dtype == codes.dtype and np.array_equal(back, codes)


# --- dequantize ---------------------------------------------------------------------------------------

@given(st.lists(st.integers(-(2**31), 2**32 - 1), min_size=1, max_size=12), scales, st.integers(-(2**31), 2**32 - 1))
def test_dequantize_is_the_float_nearest_to_the_exact_quotient(codes, scale, zero_point):
    got = dequantize(np.array(codes), scale, zero_point=zero_point)
    assert got.dtype == np.float64
    assert got.tolist() == [float((code - zero_point) / Fraction(scale)) for code in codes]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_a_zero_point_is_subtracted_without_wrapping_in_any_dtype(dtype):
    top = int(min(np.iinfo(dtype).max, 2**32 - 1))
    for zero_point in (5, top, np.array(top, dtype), -128):
        got = dequantize(np.array([0, 3, top], dtype), 2.0, zero_point=zero_point)
        assert got.tolist() == [(code - int(zero_point)) / 2 for code in (0, 3, top)]


@pytest.mark.parametrize("code, zero_point", [(-(2**63), 1), (2**63 - 1, -1), (-(2**62), 2**62 + 1)])
def test_a_difference_beyond_int64_is_not_wrapped(code, zero_point):
    got = float(dequantize(np.array([code]), 1.0, zero_point=zero_point)[0])
    assert got == pytest.approx(float(code - zero_point), rel=1e-15, abs=0)


# --- per channel --------------------------------------------------------------------------------------

@any_rule
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_each_channel_uses_its_own_scale_and_zero_point_along_any_axis(rule, axis):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    channels = x.shape[axis]
    scale, zero_point = rng.uniform(5, 90, channels), rng.integers(-20, 20, channels)
    fmt = IntFormat(7)
    got = quantize(x, scale, fmt, rule, zero_point=zero_point, axis=axis)
    back = dequantize(got, scale, zero_point=zero_point, axis=axis)
    assert got.dtype == np.int8 and got.shape == back.shape == x.shape
    for index in np.ndindex(x.shape):
        c = index[axis]
        code = rational_code(x[index], scale[c], fmt, rule, int(zero_point[c]))
        assert got[index] == code
        assert back[index] == float((code - int(zero_point[c])) / Fraction(scale[c]))


def test_a_scalar_goes_with_per_channel_parameters_of_the_other_kind():
    x = np.array([[1.0, -1.0], [1.0, -1.0]])
    fmt = IntFormat(8)
    assert quantize(x, [2.0, 3.0], fmt, zero_point=1, axis=0).tolist() == [[3, -1], [4, -2]]
    assert quantize(x, 2.0, fmt, zero_point=[1, -1], axis=1).tolist() == [[3, -3], [3, -3]]
    assert quantize(x, 2.0, fmt, axis=0).tolist() == [[2, -2], [2, -2]]
    assert dequantize([[3, -1], [4, -2]], [2.0, 3.0], zero_point=1, axis=0).tolist() == [[1.0, -1.0], [1.0, -1.0]]


# --- what quantize and dequantize refuse --------------------------------------------------------------

X = np.array([[0.5, 1.0, 2.0], [0.0, -1.0, 3.0]])


@pytest.mark.parametrize("parameter", ["scale", "zero_point"])
def test_per_channel_parameters_of_a_wrong_shape_are_refused(parameter):
    def call(value: Any, axis: int | None) -> list[Any]:
        arguments = {"scale": 1.0, "zero_point": 0, parameter: value}
        scale, zero_point = arguments["scale"], arguments["zero_point"]
        return [lambda: quantize(X, scale, IntFormat(8), zero_point=zero_point, axis=axis),
                lambda: dequantize(X.astype(np.int8), scale, zero_point=zero_point, axis=axis)]

    for value, axis, message in [
            ([1, 2], None, rf"^{parameter} must be a scalar when axis is None, got shape \(2,\)$"),
            ([1], None, rf"^{parameter} must be a scalar when axis is None, got shape \(1,\)$"),
            ([1, 2], 1, rf"^{parameter} must be a scalar or have shape \(3,\), one per channel, got \(2,\)$"),
            ([1, 2, 3], -2, rf"^{parameter} must be a scalar or have shape \(2,\), one per channel, got \(3,\)$"),
            ([1], 0, rf"^{parameter} must be a scalar or have shape \(2,\), one per channel, got \(1,\)$"),
            ([[1], [2]], 0, rf"^{parameter} must be a scalar or have shape \(2,\), one per channel, got \(2, 1\)$")]:
        for attempt in call(value, axis):
            with pytest.raises(ValueError, match=message):
                attempt()


# --- max_scale ----------------------------------------------------------------------------------------

@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.sampled_from(AT_MOST_32))
@example([1 / 3], IntFormat(8))          # fmt.max / x is inexact
@example([-0.7, 0.1], IntFormat(8))      # the negative end decides
@example([-0.7, 0.1], IntFormat(8, signed=False))  # it does not
@example([0.1, 0.3, -0.7], IntFormat(32))
def test_the_max_scale_brings_the_largest_magnitude_onto_the_last_code_and_clips_nothing(values, fmt):
    relevant = [abs(v) if fmt.signed else max(v, 0.0) for v in values]
    assume(max(relevant) > 1e-290)
    scale = max_scale(np.array(values), fmt)
    assert scale.dtype == np.float64 and scale.shape == ()
    assert float(scale) == float(Fraction(fmt.max) / Fraction(max(relevant)))
    rounded = [rational_round(Fraction(v) * Fraction(float(scale)), "half_away") for v in relevant]
    assert max(rounded) == fmt.max


@every_format
def test_each_channel_gets_the_scale_of_its_own_largest_magnitude(fmt):
    rng = np.random.default_rng(fmt.bits)
    x = rng.normal(size=(3, 4, 5)) * 10.0 ** rng.integers(-2, 3, (3, 4, 5))
    for axis in (0, 1, 2, -1, -2, -3):
        got = max_scale(x, fmt, axis)
        assert got.shape == (x.shape[axis],) and got.dtype == np.float64
        for channel, scale in enumerate(got.tolist()):
            values = [abs(v) if fmt.signed else v for v in x.take(channel, axis).ravel().tolist()]
            assert scale == float(Fraction(fmt.max) / Fraction(max(values)))


@given(st.permutations(range(5)), st.integers(0, 1), st.sampled_from(AT_MOST_32))
def test_scales_permute_with_their_channels(order, axis, fmt):
    # One channel ordinary, one large, one zero, one dead, one just alive.
    x = np.array([[0.3, -0.7], [-9.0, 2.0], [0.0, 0.0], [2.0**-23, -(2.0**-22)], [9 * 2.0**-24, 0.0]])
    x = x if axis == 0 else x.T
    scales_before = max_scale(x, fmt, axis)
    assert np.array_equal(max_scale(x.take(order, axis), fmt, axis), scales_before[list(order)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("peak", [1.0, 3.7, 1e-30, 1e30])
def test_a_channel_below_2_to_the_minus_24_of_the_layer_is_dead_and_gets_the_layers_scale(dtype, peak):
    peak = dtype(peak)
    threshold = dtype(float(peak) * 2.0**-24)
    fmt = IntFormat(8)
    alive, dead = threshold, np.nextafter(threshold, dtype(0))
    x = np.array([[peak, 0], [alive, -alive], [dead, -dead], [0, 0]], dtype)
    layer, kept, lost, zero = max_scale(x, fmt, axis=0).tolist()
    assert layer == float(127 / Fraction(float(peak))) and kept == float(127 / Fraction(float(alive)))
    assert lost == zero == layer
    assert not quantize(x[2:], [lost, zero], fmt, axis=0).any()
    assert Fraction(DEAD_CHANNEL) == Fraction(1, 2**24)


@pytest.mark.parametrize("bits", range(2, 24))
def test_the_codes_of_a_dead_channel_are_zero_up_to_23_bits(bits):
    x = np.array([[1.0], [np.nextafter(2.0**-24, 0)], [-np.nextafter(2.0**-24, 0)]])
    for shape in SHAPES.values():
        fmt = IntFormat(bits, *shape)
        assert not quantize(x[1:], max_scale(x, fmt, axis=0)[1:], fmt, axis=0).any()


@pytest.mark.parametrize("fmt", AT_MOST_32, ids=str)
def test_a_tensor_without_anything_to_scale_gets_scale_1(fmt):
    for x in (np.zeros(4), np.zeros((2, 2), np.float32), -np.zeros(1)):
        assert float(max_scale(x, fmt)) == 1.0
    assert max_scale(np.zeros((3, 2)), fmt, axis=0).tolist() == [1.0] * 3
    if not fmt.signed:
        assert float(max_scale(np.array([-1.0, -5.0]), fmt)) == 1.0


@pytest.mark.parametrize("fmt", AT_MOST_32, ids=str)
@pytest.mark.parametrize("peak", [SMALLEST, 1e-320, 2.0**-1060, 2.2250738585072014e-308, 1e-300, 1.0, 1e300, LARGEST])
def test_the_scale_of_the_tiniest_and_hugest_tensors_is_finite_and_positive(fmt, peak):
    x = np.array([[peak, 0.0], [peak, peak]])
    for scale in (max_scale(x, fmt), *max_scale(x, fmt, axis=0), *max_scale(x, fmt, axis=1)):
        assert 0 < scale < math.inf
        assert float(scale) == float(min(Fraction(LARGEST), Fraction(fmt.max) / Fraction(peak)))
        assert quantize(x, float(scale), fmt).max() <= fmt.max


@pytest.mark.parametrize("peak", [SMALLEST, 1e-320, 2.0**-1051, 2.0**-1049])
def test_a_zero_channel_gets_the_layers_scale_even_beside_subnormals(peak):
    layer, zero = max_scale(np.array([[peak], [0.0]]), IntFormat(8), axis=0).tolist()
    assert zero == layer


# --- affine parameters (PWLQ Eq. 1 with an integer zero point) ---------------------------------------

ends = st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-9)


@pytest.mark.parametrize("low, high, fmt, scale, zero_point", [
    (0.0, 255.0, IntFormat(8, signed=False), 1.0, 0),
    (-128.0, 127.0, IntFormat(8), 1.0, 0),
    (-1.0, 1.0, IntFormat(8, narrow=True), 127.0, 0),
    (-1.0, 3.0, IntFormat(8, signed=False), 63.75, 64),   # 63.75 codes below zero, rounded
    (0.0, 1.0, IntFormat(8), 255.0, -128),
    (-1.0, 0.0, IntFormat(8), 255.0, 127),
    (-0.5, 1.0, IntFormat(2, signed=False), 2.0, 1),
    (2.0, 5.0, IntFormat(4, signed=False), 3.0, 0),       # widened to [0, 5]
    (-5.0, -2.0, IntFormat(4, signed=False), 3.0, 15),    # widened to [-5, 0]
    (0.0, 0.0, IntFormat(8), 1.0, 0),
])
def test_affine_parameters_by_hand(low, high, fmt, scale, zero_point):
    got = affine_parameters(low, high, fmt)
    assert got == (scale, zero_point) and [type(v) for v in got] == [float, int]


@given(ends, ends, st.sampled_from(AT_MOST_32))
@example(0.0, 1.0, IntFormat(8))       # nothing negative: the zero point is the first code
@example(-1.0, 0.0, IntFormat(8))      # nothing positive: it is the last
@example(3.0, 7.0, IntFormat(8))       # zero lies outside and is brought in
def test_real_zero_is_exactly_a_code(a, b, fmt):
    low, high = min(a, b), max(a, b)
    scale, zero_point = affine_parameters(low, high, fmt)
    assert 0 < scale < math.inf and fmt.min <= zero_point <= fmt.max
    assert int(quantize(0.0, scale, fmt, zero_point=zero_point)) == zero_point
    assert float(dequantize(zero_point, scale, zero_point=zero_point)) == 0.0
    if low >= 0 and high > 0:
        assert zero_point == fmt.min
    if high <= 0 and low < 0:
        assert zero_point == fmt.max


@given(ends, ends, st.sampled_from(AT_MOST_32))
@example(-1.0, 3.0, IntFormat(8, signed=False))  # the zero point is rounded, so both ends miss by a quarter code
@example(-1.0, 1.0, IntFormat(2, signed=False))  # by half a code
def test_the_ends_of_the_range_land_on_the_ends_of_the_codes_within_one(a, b, fmt):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    assume(low < high)
    scale, zero_point = affine_parameters(min(a, b), max(a, b), fmt)
    for end, last in ((low, fmt.min), (high, fmt.max)):
        place = Fraction(end) * Fraction(scale) + zero_point
        assert abs(place - last) <= Fraction(1, 2) + Fraction(1, 2**18)
        assert abs(int(quantize(end, scale, fmt, zero_point=zero_point)) - last) <= 1


@given(ends, ends, st.sampled_from(FORMATS))
def test_every_real_of_the_range_comes_back_within_half_a_step(a, b, fmt):
    """Clipping at the end that the rounded zero point pushes out costs no more than rounding does."""
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    assume(low < high)
    scale, zero_point = affine_parameters(low, high, fmt)
    x = np.clip(np.linspace(low, high, 41), low, high)
    codes = quantize(x, scale, fmt, zero_point=zero_point).tolist()
    half_step = (Fraction(1, 2) + Fraction(1, 2**18)) / Fraction(scale)
    for value, code in zip(x.tolist(), codes, strict=True):
        assert abs((code - zero_point) / Fraction(scale) - Fraction(value)) <= half_step


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.bits <= 8], ids=str)
@pytest.mark.parametrize("low, high", [(-1.0, 3.0), (0.0, 6.0), (-2.5, 0.0), (-0.013, 0.9), (1.0, 2.0)])
def test_the_range_uses_every_code_but_perhaps_one(fmt, low, high):
    scale, zero_point = affine_parameters(low, high, fmt)
    x = np.linspace(min(low, 0.0), max(high, 0.0), 40 * 2**fmt.bits)
    used = set(quantize(x, scale, fmt, zero_point=zero_point).tolist())
    assert len(used) >= fmt.max - fmt.min and zero_point in used


@given(ends, ends, st.sampled_from(AT_MOST_32))
def test_a_range_beside_zero_is_widened_to_it(a, b, fmt):
    low, high = sorted((abs(a), abs(b)))
    assert affine_parameters(low, high, fmt) == affine_parameters(0.0, high, fmt)
    assert affine_parameters(-high, -low, fmt) == affine_parameters(-high, 0.0, fmt)


@pytest.mark.parametrize("low, high, fmt", [
    (-11.3, 56.5, IntFormat(8)),                 # -low·S lies just below 42.5 and float64 rounds it onto that tie
    (-17.2, 23.6, IntFormat(8, signed=False)),   # just below 107.5
    (-0.4, 3.6, IntFormat(32)),
    (-1.89, 3.25, IntFormat(16, signed=False)),
    (-0.87, 2.61, IntFormat(4, narrow=True)),
    (-1.0, 3.0, IntFormat(8, signed=False)),     # nowhere near a tie
    (-13.25, 13.25, IntFormat(8, signed=False)),  # a tie of the rational S, and not of the float one
    (-3.375, 16.875, IntFormat(8)),
    (-25.375, 25.375, IntFormat(32)),
])
def test_the_zero_point_is_the_exact_rounding_of_its_equation(low, high, fmt):
    """zero_point = round(fmt.min - low·S), half away, of the S that is returned."""
    scale, zero_point = affine_parameters(low, high, fmt)
    assert zero_point == rational_round(fmt.min - Fraction(low) * Fraction(scale), "half_away")


@given(ends, ends, st.sampled_from(AT_MOST_32))
def test_the_affine_scale_is_the_float_nearest_to_codes_per_range(a, b, fmt):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    assume(low < high)
    scale, zero_point = affine_parameters(low, high, fmt)
    assert scale == float(Fraction(fmt.max - fmt.min) / (Fraction(high) - Fraction(low)))
    exact = rational_round(fmt.min - Fraction(low) * Fraction(scale), "half_away")
    assert zero_point == sorted((fmt.min, exact, fmt.max))[1]


@pytest.mark.parametrize("low, high", [(-1e308, 1e308), (-LARGEST, LARGEST), (0.0, SMALLEST), (-SMALLEST, 0.0),
                                       (0.0, 1e-310), (-1e-310, 1e-312), (0.0, 2.2250738585072014e-308)])
def test_a_range_at_the_ends_of_float64_still_gets_a_usable_scale(low, high):
    """high - low may overflow, and (fmt.max - fmt.min) / (high - low) too; max_scale takes the largest float."""
    fmt = IntFormat(8)
    scale, zero_point = affine_parameters(low, high, fmt)
    assert 0 < scale < math.inf
    assert int(quantize(0.0, scale, fmt, zero_point=zero_point)) == zero_point
    codes = quantize(np.array([low, high]), scale, fmt, zero_point=zero_point).tolist()
    assert fmt.min <= codes[0] <= zero_point <= codes[1] <= fmt.max


# --- PWLQ Eq. 2, and the errata of Eq. 1 --------------------------------------------------------------

@pytest.mark.parametrize("bits", range(2, 13))
@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.0, 6.0), (0.0, 0.3), (-1.0, 0.0)])
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


@pytest.mark.parametrize("bits", range(2, 13))
def test_eq_2_holds_for_signed_codes_with_zero_point_zero(bits):
    fmt = IntFormat(bits)
    # An even grid of eighths of a step, 4 to each half cell and none on a boundary, so that all of it is exact.
    x = np.arange(8 * fmt.min, 8 * fmt.max) / 8 + 1 / 16
    scale, zero_point = affine_parameters(float(fmt.min), float(fmt.max), fmt)
    assert (scale, zero_point) == (1.0, 0)
    errors = [Fraction(float(e)) for e in dequantize(quantize(x, 1.0, fmt), 1.0) - x]
    measured = sum(e * e for e in errors) / len(errors)
    assert measured == Fraction(1, 12) * (1 - Fraction(1, 64))
    assert expected_squared_error(fmt.min, fmt.max, bits) == pytest.approx(1 / 12, rel=1e-15, abs=0)


@pytest.mark.parametrize("bits, inverse_c", [(1, 12), (2, 108), (3, 588), (4, 2700), (8, 780300)])
def test_eq_2_by_hand(bits, inverse_c):
    assert expected_squared_error(0.0, 1.0, bits) == pytest.approx(1 / inverse_c, rel=1e-15, abs=0)
    assert expected_squared_error(-1.0, 2.0, bits) == pytest.approx(9 / inverse_c, rel=1e-15, abs=0)
    assert expected_squared_error(5.0, 5.0, bits) == 0.0


def test_the_clamp_printed_with_pwlq_eq_1_collapses_everything_to_the_lower_end():
    r_l, r_u = -1.0, 3.0
    r = np.linspace(-2, 4, 61)
    printed = np.minimum(np.maximum(r, r_u), r_l)
    corrected = np.minimum(np.maximum(r, r_l), r_u)
    assert set(printed.tolist()) == {r_l}
    assert np.array_equal(corrected[10:51], r[10:51]) and corrected.min() == r_l and corrected.max() == r_u
    # The codes saturate as the corrected clamp does.
    fmt = IntFormat(8, signed=False)
    scale, zero_point = affine_parameters(r_l, r_u, fmt)
    codes = quantize(r, scale, fmt, zero_point=zero_point)
    assert np.array_equal(codes, quantize(corrected, scale, fmt, zero_point=zero_point))
    collapsed = quantize(printed, scale, fmt, zero_point=zero_point)
    assert len(set(codes.tolist())) == 41 and set(collapsed.tolist()) == {0}


@every_width
@pytest.mark.parametrize("delta", [0.5, 1.0, 6.0, 1000.0])
def test_the_step_printed_with_pwlq_eq_1_is_the_scale_and_not_the_step(bits, delta):
    """r̂ = s·r_q + z reaches from r_l to r_u with s = Δ/(2^b-1), and not with the printed s = N·Δ^-1."""
    levels = 2**bits - 1
    delta = Fraction(delta)
    r_l = -delta / 4
    r_q = range(levels + 1)

    def worst_error(step: Fraction) -> Fraction:
        """The largest |r̂ - r| of Eq. 1 on a grid of [r_l, r_u]."""
        grid = [r_l + delta * k / 40 for k in range(41)]
        codes = [sorted((r_q[0], round((r - r_l) / step), r_q[-1]))[1] for r in grid]
        return max(abs(step * q + r_l - r) for q, r in zip(codes, grid, strict=True))

    corrected, printed = delta / levels, levels / delta
    assert worst_error(corrected) <= corrected / 2
    assert worst_error(printed) > corrected / 2
    # What is printed is the inverse, and so the scale of this package; as a step it is right only where Δ = 2^b - 1.
    fmt = IntFormat(bits, signed=False)
    assert affine_parameters(0.0, float(delta), fmt)[0] == float(printed) == float(1 / corrected)
    assert affine_parameters(0.0, float(levels), fmt)[0] == 1.0
    # Eq. 2's own C(b)·Δ² is s²/12 for the corrected s alone.
    eq_2 = expected_squared_error(0.0, float(delta), bits)
    assert eq_2 == pytest.approx(float(corrected**2 / 12), rel=1e-15, abs=0)
    assert eq_2 != pytest.approx(float(printed**2 / 12), rel=1e-3, abs=0)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.uint64])
def test_eq_2_takes_numpy_numbers_by_value(kind):
    for bits in (1, 7, 8, 9, 16, 32):
        expected = float(Fraction(36, 12 * (2**bits - 1) ** 2))
        got = expected_squared_error(np.float32(0), np.float32(6), kind(bits))
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


def test_a_zero_point_before_rounding_is_the_dialect_of_onnxs_reference():
    acc = np.arange(-2000, 2001)
    for real in (0.25, 0.1, 0.5, 1 / 3):
        for zero_point in (-3, 0, 1, 6):
            theirs = requantize(acc, Multiplier.from_real(real), IntFormat(8), "zero_point_first",
                                zero_point=zero_point)
            ours = quantize(acc.astype(np.float64), real, IntFormat(8), "half_even", zero_point=zero_point,
                            zero="before")
            assert np.array_equal(ours, theirs)


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
