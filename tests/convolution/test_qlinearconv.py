"""The float32_half_even dialect against onnxruntime's QLinearConv.

M = float32(float32(x_scale·w_scale) / y_scale); the sums are ``convolve_exact``'s.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qlinearconv_oracle import Layer, qlinearconv

from refquant.convolution.direct import convolve_exact
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.strategies import codes, geometries

F32 = np.float32
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
# Some CPUs add pairs of unsigned times signed products in saturating 16 bits: 2·255·63 fits, 2·255·127 does not.
FORMATS = {"int8": (IntFormat(8), IntFormat(8)), "uint8": (IntFormat(8, signed=False), IntFormat(7, narrow=True))}

every_type = pytest.mark.parametrize("activations", FORMATS)
every_scaling = pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])


def multiplier(layer: Layer) -> Multiplier:
    """As float32 arithmetic gives it, product first."""
    assert layer.x_scale.dtype == layer.w_scale.dtype == layer.y_scale.dtype == F32
    real = (layer.x_scale * layer.w_scale) / layer.y_scale
    assert real.dtype == F32
    return Multiplier.from_real(real).along(1, 4)


def sums(layer: Layer) -> np.ndarray:
    return convolve_exact(layer.x_q, layer.w_q, layer.bias_q, **layer.geometry._asdict(), zero_point=layer.x_zero)


def by_refquant(layer: Layer, dialect: str = "float32_half_even") -> np.ndarray:
    fmt = IntFormat(8, signed=layer.x_q.dtype == np.int8)
    return requantize(sums(layer), multiplier(layer), fmt, dialect, layer.y_zero)


def assert_equal_codes(layer: Layer) -> np.ndarray:
    expected, found = qlinearconv(layer), by_refquant(layer)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    return found


# --- random layers --------------------------------------------------------------------------------------------

positive = st.floats(2.0**-12, 4.0, width=32).map(F32)


@st.composite
def layers(draw: st.DrawFn, activations: str, per_channel: bool) -> Layer:
    """Strides, uneven padding, dilation, groups, depthwise; scales that fill the output's codes."""
    x_format, w_format = FORMATS[activations]
    groups = draw(st.integers(1, 4))
    inputs, outputs = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 5), (8, 4)]))
    kernel, plane = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(2))
    plane = plane[0] + draw(st.integers(0, 6)), plane[1] + draw(st.integers(0, 6))
    geometry = draw(geometries(plane, kernel, groups))
    w_q = draw(codes(w_format, (groups * outputs, inputs, *kernel)))
    x_scale = draw(positive)
    w_scale = np.array([draw(positive) for _ in w_q], F32) if per_channel else np.array(draw(positive))
    # The standard deviation of a sum, roughly, becomes a tenth of the output's codes to ten times them.
    spread = 74.0 * np.sqrt(np.mean(w_q.astype(float) ** 2) * w_q[0].size) + 1
    y_scale = F32(x_scale * np.median(w_scale) * spread / 128 * 10.0 ** draw(st.floats(-1, 1)))
    bias = draw(st.none() | codes(IntFormat(draw(st.sampled_from((8, 16, 30)))), (len(w_q),)))
    zero = st.integers(x_format.min, x_format.max)
    return Layer(draw(codes(x_format, (draw(st.integers(1, 2)), groups * inputs, *plane))), np.array(x_scale),
                 draw(zero), w_q, w_scale, np.array(y_scale), draw(zero),
                 None if bias is None else bias.astype(np.int32), geometry)


@every_scaling
@every_type
def test_random_layers_equal_onnxruntime(activations, per_channel):
    @given(layers(activations, per_channel))
    def compare(layer):
        assert_equal_codes(layer)
    compare()


# --- sums that tie --------------------------------------------------------------------------------------------

@every_scaling
@every_type
def test_ties_equal_onnxruntime_and_single_rounding_differs_at_those_above_even_codes_alone(activations, per_channel):
    """The comparison can fail: where n is even, ties up give n + 1 and ties to even n."""
    # Scales are powers of two: M = 1/16, or 1/8 to 1/32 by channel, so that many a product is n + 1/2.
    fmt, rng = FORMATS[activations][0], np.random.default_rng(3)
    w_scale = (2.0 ** rng.integers(-5, -2, 8) if per_channel else np.array(2.0**-4)).astype(F32)
    x_q = rng.integers(fmt.min, fmt.max, (1, 3, 24, 24), endpoint=True).astype(fmt.dtype)
    eighth = np.array(2.0**-3, F32)
    layer = Layer(x_q, eighth, fmt.min + 120, rng.integers(-7, 8, (8, 3, 3, 3)).astype(np.int8), w_scale, eighth,
                  fmt.min + 131)
    expected = assert_equal_codes(layer).astype(int)
    product = sums(layer) * multiplier(layer).real  # exact: sums below 2^53 times powers of two
    below = np.floor(product).astype(int)
    tie = (product - below == 0.5) & (below + layer.y_zero >= fmt.min) & (below + 1 + layer.y_zero <= fmt.max)
    above_even = tie & (below % 2 == 0)
    assert above_even.sum() > 50 and (tie & ~above_even).sum() > 50
    assert np.array_equal(by_refquant(layer, "single_round") - expected, above_even)


# --- any sum, any multiplier: the bias is the sum -------------------------------------------------------------

def sums_layer(acc: np.ndarray, w_scale: np.ndarray, y_zero: int, activations: str = "int8",
               x_scale: float = 1.0, y_scale: float = 1.0) -> Layer:
    """A 1x1 layer whose every input is the zero point, so that output channel o requantizes acc[o] alone."""
    dtype = FORMATS[activations][0].dtype
    rng = np.random.default_rng(1)
    return Layer(np.full((1, 2, 1, 1), 3, dtype), np.array(x_scale, F32), 3,
                 rng.integers(-63, 64, (len(acc), 2, 1, 1)).astype(np.int8), np.asarray(w_scale, F32),
                 np.array(y_scale, F32), y_zero, acc.astype(np.int32))


@pytest.mark.parametrize("y_zero", [0, 1, 100])
@every_type
def test_any_int32_sum_at_any_multiplier_equals_onnxruntime(activations, y_zero):
    """All magnitudes up to the ends of int32, most products within the codes of 8 bits."""
    rng = np.random.default_rng(5)
    acc = np.floor(rng.choice([-1, 1], 4000) * 2.0 ** rng.uniform(0, 31, 4000)).astype(np.int64)
    corners = [0, 1, -1, INT32_MIN, INT32_MIN + 1, INT32_MAX, INT32_MAX - 1, 2**24 + 1, -(2**24) - 1]
    acc = np.concatenate([acc, corners])
    scale = (rng.uniform(0, 140, len(acc)) / np.maximum(np.abs(acc), 1)).astype(F32)
    layer = sums_layer(acc, np.maximum(scale, F32(2.0**-40)), y_zero, activations)
    assert np.array_equal(sums(layer).ravel(), acc)
    y_q = assert_equal_codes(layer)
    assert len(np.unique(y_q)) > 100


# -5 times float32(0.7) is -3.4999999404, in float32 -3.5: to even that is -4, and the exact product gives -3.
# 2^24 + 1 becomes 2^24, a tie at M = 2^-25; the exact product lies above it.
@pytest.mark.parametrize(("acc", "scale", "codes", "exact"), [
    ([-5, 5, -15, 3], 0.7, [-4, 4, -10, 2], [-3, 3, -10, 2]),
    ([2**24 + 1, -(2**24) - 1, 2**24 + 3, 3 * 2**24 + 1], 2.0**-25, [0, 0, 1, 2], [1, -1, 1, 2])])
def test_what_only_float32_takes_for_ties_equals_onnxruntime(acc, scale, codes, exact):
    layer = sums_layer(np.array(acc), np.float32(scale), 0)
    assert assert_equal_codes(layer).ravel().tolist() == codes
    assert by_refquant(layer, "exact_half_even").ravel().tolist() == exact


def test_the_multiplier_is_rounded_to_float32_after_the_product_and_after_the_quotient():
    """Products within a last place of a tie, where M rounded only once, or quotient first, gives other codes."""
    rng = np.random.default_rng(2)
    acc = rng.integers(1, 2**20, 4000)
    x_scale, y_scale = rng.uniform(0.01, 0.1, 2).astype(F32)
    w_scale = ((rng.integers(0, 120, acc.size) + 0.5) / acc * y_scale / x_scale).astype(F32)
    expected = assert_equal_codes(sums_layer(acc, w_scale, 0, "int8", x_scale, y_scale)).ravel()
    for real in ((x_scale.astype(float) * w_scale / y_scale).astype(F32), (x_scale / y_scale) * w_scale):
        assert real.dtype == F32
        assert (np.rint(acc.astype(F32) * real) != expected).sum() > 100
