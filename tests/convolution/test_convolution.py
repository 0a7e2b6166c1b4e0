"""Convolution against plain Python loops, onnxruntime, and the bounds its proofs rest on."""

import re
from fractions import Fraction

import numpy as np
import pytest
from convolution_oracle import convolved, loop
from hypothesis import example, given
from hypothesis import strategies as st
from qlinearconv_oracle import run_convolution

from refquant.convolution.blas import exact_dtype
from refquant.convolution.direct import convolve, convolve_direct, convolve_exact
from refquant.convolution.geometry import Geometry, pad
from refquant.integers.formats import IntFormat
from refquant.strategies import ConvolutionCase, codes, convolution_cases, int_formats, reals


def keywords(geometry: Geometry) -> dict:
    return geometry._asdict()


def case(x, w, geometry=None, zero_point=0, fmt=None) -> ConvolutionCase:
    fmt = fmt or IntFormat(8)
    return ConvolutionCase(np.array(x), np.array(w), geometry or Geometry(), fmt, fmt, zero_point)


CORNER = np.full((1, 2, 3, 3), -128)
RAMP = np.arange(420).reshape(1, 2, 3, 70) % 251 - 128  # wide enough for several runs of a depthwise layer


# --- exact convolution ----------------------------------------------------------------------------------------

@given(convolution_cases() | convolution_cases(int_formats(2, 24), int_formats(2, 31)), st.data())
@example(case(CORNER, np.full((1, 2, 3, 3), -128)), None)  # every product is the largest that int8 has, +2^14
@example(case(CORNER, np.full((2, 1, 3, 3), 127), Geometry(groups=2), 127), None)  # depthwise, x - zero_point = -255
@example(case([[[[5]]]], [[[[3, -4]]]], Geometry(padding=(2, 1, 0, 0))), None)  # padding larger than the input
@example(case(CORNER, np.ones((1, 2, 1, 1), int), Geometry((3, 3))), None)  # a stride that leaves one pixel
@example(case(RAMP, RAMP[0, :, None, :, :3], Geometry(padding=(1, 1, 1, 1), groups=2)), None)
def test_exact_convolution_equals_the_defining_sum_and_so_does_every_other(given_case, data):
    x_q, w_q, geometry, zero_point = *given_case[:3], given_case.zero_point
    bias = None if data is None else data.draw(st.none() | codes(IntFormat(32), w_q.shape[:1]))
    y = convolve_exact(x_q, w_q, bias, **keywords(geometry), zero_point=zero_point)
    assert y.dtype == np.int64
    assert y.tolist() == loop(x_q, w_q, geometry, zero_point, None if bias is None else bias.tolist())
    x, w = x_q.astype(np.int64) - zero_point, w_q.astype(np.int64)
    sums = loop(x, w, geometry)
    plain = convolve_direct(x, w, geometry)
    assert plain.dtype == np.int64 and plain.tolist() == convolved(x, w, geometry).tolist() == sums


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_every_integer_dtype_and_zero_point_is_taken_and_gives_int64(dtype):
    x, w = np.full((1, 1, 1, 2), 100, dtype), np.full((1, 1, 1, 2), 100, dtype)
    for zero_point in (0, -3, 3, np.int8(-128), np.uint8(128), np.int64(-128)):
        y = convolve_exact(x, w, zero_point=zero_point)
        assert y.dtype == np.int64 and y.item() == 2 * (100 - int(zero_point)) * 100


def test_padding_stands_for_real_zero():
    """x is all zero points: every sum is 0, at the border too."""
    x = np.full((1, 2, 3, 3), 37)
    y = convolve_exact(x, np.full((3, 2, 3, 3), -5), padding=(1, 2, 3, 4), zero_point=37)
    assert not y.any()


# reach · weights is the bound; the weights are split in two, so that the bound is a sum and is attained.
@pytest.mark.parametrize(("reach", "weights", "dtype"), [
    (4097, 4095, np.float32),  # 2^24 - 1
    (4096, 4096, np.float64),  # 2^24
    (673, 24929, np.float64),  # 2^24 + 1, which float32 turns into 2^24
    (20394401, 441650591, np.float64),  # 2^53 - 1
    (2**26, 2**27, np.int64),  # 2^53
    (28059810762433, 321, np.int64),  # 2^53 + 1, which float64 turns into 2^53
    (649657, 14197294936951, np.int64),  # 2^63 - 1, all that int64 holds
])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_at_the_bound_of_each_dtype_are_exact(reach, weights, dtype, sign):
    assert exact_dtype(reach * weights) is dtype
    half = weights // 2
    y = convolve_exact(np.full((1, 1, 1, 2), sign * reach), np.array([[[[half, weights - half]]]]))
    assert y.tolist() == [[[[sign * reach * weights]]]]


def test_zero_point_and_bias_enter_the_bound():
    one = np.ones((1, 1, 1, 1), int)
    assert convolve_exact(-2**23 * one, one, zero_point=2**23 + 1).item() == -2**24 - 1
    assert convolve_exact(one, one, np.array([2**53])).item() == 2**53 + 1


@pytest.mark.parametrize(("x", "w", "bias"), [
    ([2**31], [2**32], 0), ([-2**63], [1], 0), ([1], [-2**63], 0), ([2**62], [2], 0), ([1], [1], 2**63 - 1),
    ([2**31, 2**31], [2**31, -2**31], 0)])  # the sum is 0, but a partial sum is not
def test_sums_that_int64_is_not_proven_to_hold_are_refused(x, w, bias):
    x, w = np.array([[[x]]]), np.array([[[w]], [[np.zeros_like(w)]]])
    with pytest.raises(OverflowError, match=f"^the convolution's sums can reach {2**63}, which int64 does not hold$"):
        convolve_exact(x, w, np.array([bias, 0]))


# --- floats ---------------------------------------------------------------------------------------------------

@given(convolution_cases(), st.sampled_from((np.float32, np.float64)), st.data())
def test_float_convolution_of_sixteenths_equals_the_exact_sum(given_case, dtype, data):
    """Every product and sum of small multiples of 1/16 is a float, so order and precision cannot matter."""
    x, w = ((a.astype(np.int64) % 64 - 32) / 16 for a in (given_case.x_q, given_case.w_q))
    bias = data.draw(st.none() | codes(IntFormat(8), w.shape[:1]).map(lambda b: b / 16))
    y = convolve(x.astype(dtype), w.astype(dtype), None if bias is None else bias.astype(dtype),
                 **keywords(given_case.geometry))
    assert y.dtype == dtype
    exact = loop(np.vectorize(Fraction, otypes=[object])(x), np.vectorize(Fraction, otypes=[object])(w),
                 given_case.geometry, bias=None if bias is None else [Fraction(b) for b in bias.tolist()])
    assert y.tolist() == exact


@given(convolution_cases(), st.data())
def test_float_convolution_agrees_with_onnxruntime(given_case, data):
    geometry = given_case.geometry
    x, w = data.draw(reals(given_case.x_q.shape)), data.draw(reals(given_case.w_q.shape))
    bias = data.draw(reals(w.shape[:1]))
    expected = run_convolution("Conv", x, geometry, {"w": w, "b": bias})
    y = convolve(x, w, bias, **keywords(geometry))
    assert y.shape == expected.shape
    # Sums of at most 27 products of values below 5: float32 order of addition moves them by less than this.
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)


def test_nan_and_infinity_reach_the_outputs_that_see_them_and_no_others():
    x = np.array([[[[0, 0, 0, np.nan]]]])
    assert np.isnan(convolve(x, np.ones((1, 1, 1, 2)))).tolist() == [[[[False, False, True]]]]
    x = np.array([[[[1.0, np.inf]]]], np.float32)
    assert convolve(x, np.full((1, 1, 1, 1), -2.0, np.float32)).tolist() == [[[[-2.0, -np.inf]]]]


def test_mixed_precision_gives_the_common_dtype():
    x, w = np.ones((1, 1, 1, 1), np.float32), np.full((1, 1, 1, 1), 1 + 2.0**-40)
    y = convolve(x, w, np.array([1.0], np.float32))
    assert y.dtype == np.float64
    assert y.item() == 2 + 2.0**-40
    assert convolve(x, x, np.array([2.0**-40])).dtype == np.float32


# --- geometry -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("arguments", "geometry"), [
    ({}, ((1, 1), (0, 0, 0, 0), (1, 1), 1)),
    ({"stride": 2, "padding": 1, "dilation": 3, "groups": 4}, ((2, 2), (1, 1, 1, 1), (3, 3), 4)),
    ({"stride": (2, 3), "padding": (1, 2), "dilation": [4, 5]}, ((2, 3), (1, 2, 1, 2), (4, 5), 1)),
    ({"padding": np.array([1, 2, 3, 4], np.uint8), "stride": np.int8(2)}, ((2, 2), (1, 2, 3, 4), (1, 1), 1)),
])
def test_numbers_pairs_and_fours_are_read_as_onnx_orders_them(arguments, geometry):
    found = Geometry.of(**arguments)
    assert found == geometry
    assert all(type(v) is int for part in (*found[:3], [found.groups]) for v in part)


def test_pad_puts_the_value_top_left_bottom_right():
    assert pad(np.full((1, 1, 1, 1), 7), (1, 0, 2, 3), 9).tolist() == [[[
        [9, 9, 9, 9], [7, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]]]]


# --- refusals -------------------------------------------------------------------------------------------------

X, W = (1, 4, 5, 5), (2, 4, 3, 3)
_DIVIDE = "groups must divide the channels, got groups {} for 4 input and 3 output channels"


@pytest.mark.parametrize(("x_shape", "w_shape", "arguments", "message"), [
    (X[1:], W, {}, "input must be a non-empty (N, C, H, W), got shape (4, 5, 5)"),
    ((1, 4, 5, 0), W, {}, "input must be a non-empty (N, C, H, W), got shape (1, 4, 5, 0)"),
    (X, W[1:], {}, "weight must be a non-empty (O, C/groups, R, S), got shape (4, 3, 3)"),
    (X, (2, 4, 0, 3), {}, "weight must be a non-empty (O, C/groups, R, S), got shape (2, 4, 0, 3)"),
    (X, W, {"groups": 2}, "weight must be (O, 2, R, S) for 4 input channels in 2 groups, got shape (2, 4, 3, 3)"),
    (X, (3, 2, 3, 3), {"groups": 2}, _DIVIDE.format(2)),
    (X, (3, 2, 3, 3), {"groups": 3}, _DIVIDE.format(3)),
    (X, (2, 4, 6, 3), {}, "the kernel must fit the padded input, got extent 6 over 5"),
    (X, (2, 4, 3, 3), {"dilation": (1, 3)}, "the kernel must fit the padded input, got extent 7 over 5"),
    (X, (2, 4, 8, 1), {"padding": (1, 0)}, "the kernel must fit the padded input, got extent 8 over 7"),
    (X, W, {"stride": (1, 0)}, "stride must be >= 1, got (1, 0)"),
    (X, W, {"dilation": 0}, "dilation must be >= 1, got 0"),
    (X, W, {"groups": 0}, "groups must be >= 1, got 0"),
    (X, W, {"padding": (0, 0, -1, 0)}, "padding must be >= 0, got (0, 0, -1, 0)"),
    (X, W, {"padding": (0, 0, 0)}, "padding must be an integer or 2 or 4 of them, got (0, 0, 0)"),
    (X, W, {"stride": (1, 1, 1, 1)}, "stride must be an integer or 2 of them, got (1, 1, 1, 1)"),
    (X, W, {"stride": 1.0}, "stride must be an integer or 2 of them, got 1.0"),
    (X, W, {"groups": True}, "groups must be an integer, got True"),
    (X, W, {"dilation": [[1, 1]]}, "dilation must be an integer or 2 of them, got [[1, 1]]"),
])
def test_shapes_and_geometries_that_do_not_fit_are_refused_in_one_sentence(x_shape, w_shape, arguments, message):
    for function, dtype in ((convolve, np.float32), (convolve_exact, np.int8)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            function(np.ones(x_shape, dtype), np.ones(w_shape, dtype), **arguments)


FLOATS = "must hold float32 or float64 (convolve_exact takes integers), got dtype"
INTEGERS = "must hold integers of at most 64 bits, got dtype"


@pytest.mark.parametrize(("function", "x_dtype", "w_dtype", "bias", "message"), [
    (convolve, np.int8, float, None, f"input {FLOATS} int8"),
    (convolve, float, np.int64, None, f"weight {FLOATS} int64"),
    (convolve, "c8", float, None, f"input {FLOATS} complex64"),
    (convolve_exact, np.float32, np.int8, None, f"input {INTEGERS} float32"),
    (convolve_exact, np.int8, float, None, f"weight {INTEGERS} float64"),
    (convolve_exact, bool, np.int8, None, f"input {INTEGERS} bool"),
    (convolve, float, float, np.ones(3), "bias must hold 2 floats, got shape (3,) of float64"),
    (convolve, float, float, np.ones(2, int), "bias must hold 2 floats, got shape (2,) of int64"),
    (convolve, float, float, 1.0, "bias must hold 2 floats, got shape () of float64"),
    (convolve_exact, int, int, np.ones(3, int), "bias must hold 2 integers, got shape (3,) of int64"),
    (convolve_exact, int, int, np.ones(2), "bias must hold 2 integers, got shape (2,) of float64"),
])
def test_floats_and_integers_do_not_mix_and_the_bias_is_one_per_output(function, x_dtype, w_dtype, bias, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        function(np.ones(X).astype(x_dtype), np.ones(W).astype(w_dtype), bias)
