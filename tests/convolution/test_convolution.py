"""Convolution against plain Python loops, onnxruntime, and the bounds its proofs rest on."""

import re
from fractions import Fraction

import numpy as np
import pytest
from convolution_oracle import convolved, loop
from hypothesis import example, given
from hypothesis import strategies as st
from tools import require_module

from refquant.convolution import direct as convolution
from refquant.convolution.direct import convolve, convolve_direct, convolve_exact
from refquant.convolution.geometry import Geometry, pad, taps
from refquant.integers.formats import IntFormat
from refquant.strategies import ConvolutionCase, codes, convolution_cases, int_formats, reals


def keywords(geometry: Geometry) -> dict:
    return geometry._asdict()


def case(x, w, geometry=None, zero_point=0, fmt=None) -> ConvolutionCase:
    fmt = fmt or IntFormat(8)
    return ConvolutionCase(np.array(x), np.array(w), geometry or Geometry(), fmt, fmt, zero_point)


CORNER = np.full((1, 2, 3, 3), -128)


# --- exact convolution equals the definition -----------------------------------------------------------------

@given(convolution_cases(), st.data())
@example(case(CORNER, np.full((1, 2, 3, 3), -128)), None)  # every product is the largest that int8 has, +2^14
@example(case(CORNER, np.full((2, 1, 3, 3), 127), Geometry(groups=2), 127), None)  # depthwise, x - zero_point = -255
@example(case([[[[5]]]], [[[[3, -4]]]], Geometry(padding=(2, 1, 0, 0))), None)  # padding larger than the input
@example(case(CORNER, np.ones((1, 2, 1, 1), int), Geometry((3, 3))), None)  # a stride that leaves one pixel
def test_exact_convolution_equals_the_defining_sum(given_case, data):
    bias = None if data is None else data.draw(st.none() | codes(IntFormat(32), given_case.w_q.shape[:1]))
    y = convolve_exact(given_case.x_q, given_case.w_q, bias, **keywords(given_case.geometry),
                       zero_point=given_case.zero_point)
    assert y.dtype == np.int64
    assert y.tolist() == loop(given_case.x_q, given_case.w_q, given_case.geometry, given_case.zero_point,
                              None if bias is None else bias.tolist())


@given(convolution_cases(int_formats(2, 24), int_formats(2, 31)))
def test_all_roads_give_the_same_sums_where_their_bounds_allow_them(given_case):
    x, w = given_case.x_q.astype(np.int64) - given_case.zero_point, given_case.w_q.astype(np.int64)
    reference = convolve_direct(x, w, given_case.geometry)
    assert reference.dtype == np.int64
    assert reference.tolist() == loop(x, w, given_case.geometry)
    exact = convolve_exact(given_case.x_q, given_case.w_q, **keywords(given_case.geometry),
                           zero_point=given_case.zero_point)
    assert np.array_equal(exact, reference)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_every_integer_dtype_is_taken_and_gives_int64(dtype):
    y = convolve_exact(np.full((1, 1, 1, 2), 100, dtype), np.full((1, 1, 1, 2), 100, dtype))
    assert y.dtype == np.int64
    assert y.tolist() == [[[[20000]]]]


def test_every_integer_dtype_takes_every_zero_point():
    for dtype in (np.int8, np.uint8, np.int64, np.uint64):
        for zero_point in (-3, 3):
            y = convolve_exact(np.zeros((1, 1, 1, 1), dtype), np.ones((1, 1, 1, 1), dtype), zero_point=zero_point)
            assert y.tolist() == [[[[-zero_point]]]], (dtype, zero_point)


@pytest.mark.parametrize("zero_point", [np.int8(-128), np.uint8(128), np.int64(-128)])
def test_a_numpy_zero_point_counts_as_its_integer(zero_point):
    y = convolve_exact(np.array([[[[127, 0, -128]]]], np.int8), np.full((1, 1, 1, 1), 2**20), zero_point=zero_point)
    assert y.tolist() == [[[[(code - int(zero_point)) * 2**20 for code in (127, 0, -128)]]]]


def test_padding_stands_for_real_zero():
    """x is all zero points: every sum is 0, at the border too."""
    x = np.full((1, 2, 3, 3), 37)
    y = convolve_exact(x, np.full((3, 2, 3, 3), -5), padding=(1, 2, 3, 4), zero_point=37)
    assert not y.any()


# --- which path is taken, and that its bound is the right one -------------------------------------------------

class Paths:
    """Wraps the two paths and remembers which dtype ran."""

    def __init__(self, monkeypatch):
        self.taken = []
        for name in ("correlate", "convolve_direct"):
            monkeypatch.setattr(convolution, name, self._spy(getattr(convolution, name)))

    def _spy(self, path):
        def run(x, w, geometry, dtype=np.int64, *result):
            self.taken.append(np.dtype(dtype).name)
            return path(x, w, geometry, *([] if dtype is np.int64 else [dtype, *result]))
        return run


# reach · weights is the bound; the weights are split in two, so that the bound is a sum and is attained.
@pytest.mark.parametrize(("reach", "weights", "path"), [
    (4097, 4095, "float32"),  # 2^24 - 1
    (4096, 4096, "float64"),  # 2^24
    (673, 24929, "float64"),  # 2^24 + 1, which float32 turns into 2^24
    (20394401, 441650591, "float64"),  # 2^53 - 1
    (2**26, 2**27, "int64"),  # 2^53
    (28059810762433, 321, "int64"),  # 2^53 + 1, which float64 turns into 2^53
    (649657, 14197294936951, "int64"),  # 2^63 - 1, all that int64 holds
])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_narrowest_road_proven_exact_is_taken_and_attains_its_bound(monkeypatch, reach, weights, path, sign):
    paths = Paths(monkeypatch)
    half = weights // 2
    y = convolve_exact(np.full((1, 1, 1, 2), sign * reach), np.array([[[[half, weights - half]]]]))
    assert y.tolist() == [[[[sign * reach * weights]]]]
    assert paths.taken == [path]


def test_the_bound_of_the_road_is_the_largest_over_output_channels_not_the_sum(monkeypatch):
    paths = Paths(monkeypatch)
    convolve_exact(np.full((1, 1, 1, 1), 4097), np.full((8, 1, 1, 1), 4095))
    assert paths.taken == ["float32"]


def test_the_zero_point_enters_the_bound(monkeypatch):
    paths = Paths(monkeypatch)
    y = convolve_exact(np.full((1, 1, 1, 1), -2**23), np.array([[[[1]]]]), zero_point=2**23 + 1)
    assert y.tolist() == [[[[-2**24 - 1]]]]
    assert paths.taken == ["float64"]


def test_the_bias_is_added_in_int64_whatever_the_road(monkeypatch):
    paths = Paths(monkeypatch)
    y = convolve_exact(np.array([[[[1]]]]), np.array([[[[1]]]]), np.array([2**53]))
    assert y.tolist() == [[[[2**53 + 1]]]]
    assert paths.taken == ["float32"]


def test_sums_that_int64_is_not_proven_to_hold_are_refused():
    for x, w in ((2**31, 2**32), (-2**63, 1), (1, -2**63), (2**62, 2)):
        with pytest.raises(OverflowError, match=r"sums can reach 9223372036854775808, which int64 does not hold"):
            convolve_exact(np.array([[[[x]]]]), np.array([[[[w]]]]))


def test_the_refusal_names_a_bound_that_includes_the_bias():
    with pytest.raises(OverflowError, match="sums can reach 9223372036854775808"):
        convolve_exact(np.array([[[[1]]]]), np.array([[[[1]]]]), np.array([2**63 - 1]))


def test_a_refusal_is_about_the_bound_not_about_the_sums_seen():
    """Here the sum is 0, but a partial sum is not."""
    with pytest.raises(OverflowError, match="which int64 does not hold"):
        convolve_exact(np.full((1, 1, 1, 2), 2**31), np.array([[[[2**31, -2**31]]]]))


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
    onnx = require_module("onnx", "pip install onnx")
    runtime = require_module("onnxruntime", "pip install onnxruntime")
    geometry = given_case.geometry
    x, w = data.draw(reals(given_case.x_q.shape)), data.draw(reals(given_case.w_q.shape))
    bias = data.draw(reals(w.shape[:1]))
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=geometry.padding, strides=geometry.stride,
                            dilations=geometry.dilation, group=geometry.groups)
    graph = helper.make_graph([node], "conv", [helper.make_tensor_value_info(name, kind, array.shape) for name, array
                                               in (("x", x), ("w", w), ("b", bias))],
                              [helper.make_tensor_value_info("y", kind, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x, "w": w, "b": bias})[0]
    y = convolve(x, w, bias, **keywords(geometry))
    assert y.shape == expected.shape
    # Sums of at most 27 products of values below 5: float32 order of addition moves them by less than this.
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)


def test_nan_reaches_the_outputs_that_see_it_and_no_others():
    x = np.zeros((1, 1, 1, 4))
    x[0, 0, 0, 3] = np.nan
    assert np.isnan(convolve(x, np.ones((1, 1, 1, 2)))).tolist() == [[[[False, False, True]]]]


def test_infinity_reaches_the_outputs_that_see_it():
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
    ({"padding": (1, 2, 3, 4)}, ((1, 1), (1, 2, 3, 4), (1, 1), 1)),
    ({"padding": np.array([1, 2, 3, 4], np.uint8), "stride": np.int8(2)}, ((2, 2), (1, 2, 3, 4), (1, 1), 1)),
])
def test_numbers_pairs_and_fours_are_read_as_onnx_orders_them(arguments, geometry):
    found = Geometry.of(**arguments)
    assert found == geometry
    assert all(type(v) is int for part in found[:3] for v in part)
    assert type(found.groups) is int


@pytest.mark.parametrize(("size", "kernel", "geometry", "expected"), [
    ((5, 7), (3, 3), Geometry(), (3, 5)),
    ((5, 7), (3, 3), Geometry((2, 2)), (2, 3)),
    ((5, 7), (3, 3), Geometry((2, 2), (1, 1, 1, 1)), (3, 4)),
    ((6, 7), (3, 3), Geometry((2, 2), (0, 0, 1, 1)), (3, 3)),  # bottom and right only: TensorFlow's SAME
    ((5, 7), (3, 2), Geometry(dilation=(2, 6)), (1, 1)),  # extents 5 and 7: an exact fit
    ((5, 7), (1, 1), Geometry((5, 7)), (1, 1)),
    ((1, 1), (3, 3), Geometry(padding=(2, 0, 0, 2)), (1, 1)),
])
def test_output_sizes_by_hand(size, kernel, geometry, expected):
    assert geometry.output_size(*size, kernel) == expected


def test_taps_show_every_kernel_position_its_view():
    x = np.arange(6).reshape(1, 1, 2, 3)
    seen = {position: view[0, 0].tolist() for position, view in taps(x, (2, 2), Geometry(padding=(0, 1, 0, 0)))}
    assert seen == {(0, 0): [[0, 0, 1]], (0, 1): [[0, 1, 2]], (1, 0): [[0, 3, 4]], (1, 1): [[3, 4, 5]]}


def test_pad_puts_the_value_top_left_bottom_right():
    assert pad(np.full((1, 1, 1, 1), 7), (1, 0, 2, 3), 9).tolist() == [[[
        [9, 9, 9, 9], [7, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]]]]


# --- refusals -------------------------------------------------------------------------------------------------

X, W = (1, 4, 5, 5), (2, 4, 3, 3)
_DIVIDE = "groups must divide the channels, got groups {} for 4 input and 3 output channels"
BAD_CALLS = [
    (X[1:], W, {}, "input must be a non-empty (N, C, H, W), got shape (4, 5, 5)"),
    ((0, 4, 5, 5), W, {}, "input must be a non-empty (N, C, H, W), got shape (0, 4, 5, 5)"),
    ((1, 4, 5, 0), W, {}, "input must be a non-empty (N, C, H, W), got shape (1, 4, 5, 0)"),
    (X, W[1:], {}, "weight must be a non-empty (O, C/groups, R, S), got shape (4, 3, 3)"),
    (X, (0, 4, 3, 3), {}, "weight must be a non-empty (O, C/groups, R, S), got shape (0, 4, 3, 3)"),
    (X, (2, 4, 0, 3), {}, "weight must be a non-empty (O, C/groups, R, S), got shape (2, 4, 0, 3)"),
    (X, (2, 3, 3, 3), {}, "weight must be (O, 4, R, S) for 4 input channels in 1 groups, got shape (2, 3, 3, 3)"),
    (X, W, {"groups": 2}, "weight must be (O, 2, R, S) for 4 input channels in 2 groups, got shape (2, 4, 3, 3)"),
    (X, (3, 2, 3, 3), {"groups": 2}, _DIVIDE.format(2)),
    (X, (3, 2, 3, 3), {"groups": 3}, _DIVIDE.format(3)),
    (X, (2, 4, 6, 3), {}, "the kernel must fit the padded input, got extent 6 over 5"),
    (X, (2, 4, 3, 3), {"dilation": (1, 3)}, "the kernel must fit the padded input, got extent 7 over 5"),
    (X, (2, 4, 8, 1), {"padding": (1, 0)}, "the kernel must fit the padded input, got extent 8 over 7"),
    (X, W, {"stride": 0}, "stride must be >= 1, got 0"),
    (X, W, {"stride": (1, 0)}, "stride must be >= 1, got (1, 0)"),
    (X, W, {"dilation": 0}, "dilation must be >= 1, got 0"),
    (X, W, {"groups": 0}, "groups must be >= 1, got 0"),
    (X, W, {"padding": -1}, "padding must be >= 0, got -1"),
    (X, W, {"padding": (0, 0, -1, 0)}, "padding must be >= 0, got (0, 0, -1, 0)"),
    (X, W, {"padding": (0, 0, 0)}, "padding must be an integer or 2 or 4 of them, got (0, 0, 0)"),
    (X, W, {"stride": (1, 1, 1, 1)}, "stride must be an integer or 2 of them, got (1, 1, 1, 1)"),
    (X, W, {"stride": 1.0}, "stride must be an integer or 2 of them, got 1.0"),
    (X, W, {"groups": None}, "groups must be an integer, got None"),
    (X, W, {"groups": True}, "groups must be an integer, got True"),
    (X, W, {"dilation": [[1, 1]]}, "dilation must be an integer or 2 of them, got [[1, 1]]"),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "arguments", "message"), BAD_CALLS)
def test_shapes_and_geometries_that_do_not_fit_are_refused_in_one_sentence(x_shape, w_shape, arguments, message):
    for function, dtype in ((convolve, np.float32), (convolve_exact, np.int8)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            function(np.ones(x_shape, dtype), np.ones(w_shape, dtype), **arguments)


@pytest.mark.parametrize(("function", "x_dtype", "w_dtype", "message"), [
    (convolve, np.int8, np.float32,
     "input must hold float32 or float64 (convolve_exact takes integers), got dtype int8"),
    (convolve, np.float32, np.int64,
     "weight must hold float32 or float64 (convolve_exact takes integers), got dtype int64"),
    (convolve, bool, np.float32,
     "input must hold float32 or float64 (convolve_exact takes integers), got dtype bool"),
    (convolve, "c8", np.float32,
     "input must hold float32 or float64 (convolve_exact takes integers), got dtype complex64"),
    (convolve_exact, np.float32, np.int8, "input must hold integers of at most 64 bits, got dtype float32"),
    (convolve_exact, np.int8, np.float64, "weight must hold integers of at most 64 bits, got dtype float64"),
    (convolve_exact, bool, np.int8, "input must hold integers of at most 64 bits, got dtype bool"),
    (convolve_exact, object, np.int8, "input must hold integers of at most 64 bits, got dtype object"),
])
def test_floats_and_integers_do_not_mix(function, x_dtype, w_dtype, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        function(np.ones(X).astype(x_dtype), np.ones(W).astype(w_dtype))


@pytest.mark.parametrize(("bias", "message"), [
    (np.ones(3), "bias must hold 2 floats, got shape (3,) of float64"),
    (np.ones((2, 1)), "bias must hold 2 floats, got shape (2, 1) of float64"),
    (np.ones(2, int), "bias must hold 2 floats, got shape (2,) of int64"),
    (1.0, "bias must hold 2 floats, got shape () of float64"),
])
def test_a_float_bias_of_the_wrong_kind_is_refused(bias, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convolve(np.ones(X), np.ones(W), bias)


@pytest.mark.parametrize(("bias", "message"), [
    (np.ones(3, np.int32), "bias must hold 2 integers, got shape (3,) of int32"),
    (np.ones(2), "bias must hold 2 integers, got shape (2,) of float64"),
])
def test_an_integer_bias_of_the_wrong_kind_is_refused(bias, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convolve_exact(np.ones(X, int), np.ones(W, int), bias)


def test_a_zero_point_that_is_not_an_integer_is_refused():
    with pytest.raises(ValueError, match=r"zero_point must be an integer, got 0\.5"):
        convolve_exact(np.ones(X, int), np.ones(W, int), zero_point=0.5)


@given(convolution_cases())
def test_the_oracle_by_windows_is_the_oracle_by_products(given_case):
    x, w = given_case.x_q.astype(np.int64), given_case.w_q.astype(np.int64)
    assert convolved(x, w, given_case.geometry).tolist() == loop(x, w, given_case.geometry)
