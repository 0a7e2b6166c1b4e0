"""Models of one ONNX operator on codes, and what random ones (test_random_operators.py) rarely meet."""
from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from onnx_models import onnx, run_onnxruntime
from onnx_on_codes import one, quantized_floats, scalars

from refquant.readers.onnx_quantized import load_quantized_onnx
from refquant.runtimes import run_model
from refquant.runtimes.arithmetic import fma
from refquant.runtimes.kernels import onnxruntime_here


def check(tmp_path, made, x):
    """Our answers are onnxruntime's, image by image, as on this machine's CPU."""
    theirs = run_onnxruntime(made, x)[0]
    onnx.save(made, tmp_path / "m.onnx")
    read = load_quantized_onnx(tmp_path / "m.onnx")
    ours = run_model(read, x, onnxruntime_here())[read.outputs[0]]
    assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("shape, weight, attributes", [
    ((8, 6, 6), (8, 1, 3, 3), {"group": 8, "pads": [1, 1, 1, 1]}), ((5, 6, 6), (1, 5, 3, 3), {}),
    ((7, 6, 6), (1, 7, 1, 1), {}), ((8, 6, 6), (8, 4, 3, 3), {"group": 2, "strides": [2, 1]}),
    ((16, 16, 16), (12, 16, 3, 3), {"pads": [1, 1, 1, 1]}), ((64, 8, 8), (32, 64, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((300, 3, 3), (40, 300, 1, 1), {}), ((20, 2, 2), (64, 20, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 6, 6), (4, 1, 3, 6), {})])
def test_convolutions_that_are_left_in_floats(tmp_path, shape, weight, attributes):
    """On one thread, bit for bit: sums of one block and of several."""
    check(tmp_path, *quantized_floats(np.random.default_rng(0), shape, weight, attributes))


@pytest.mark.parametrize("shape, weight", [((300, 2, 2), (2, 300, 2, 2)), ((9, 3, 3), (1, 9, 1, 1))])
def test_convolutions_of_long_sums_and_of_one_channel(tmp_path, shape, weight):
    """Pairs saturate where both codes are large."""
    rng = np.random.default_rng(0)
    w = rng.integers(-128, 128, weight).astype(np.int8)
    held = scalars(np.uint8, sx=0.013, zx=9, sy=0.02 * 1.2 * np.sqrt(w[0].size), zy=-4, sw=0.02)
    made = one("QLinearConv", ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"], np.uint8, shape, {}, "", w=w,
               zw=np.int8(0), **held)
    check(tmp_path, made, rng.integers(0, 256, (8, *shape)).astype(np.uint8))


@pytest.mark.parametrize("a, b, c", [
    (1 + 2**-23, 1 + 2**-23, -(1 + 2**-22)), (3.0, 2**-24, 1.0), (1.0, 2**-24, 1.0), (1 + 2**-23, 2**-24, 1.0),
    (1 - 2**-24, 2**-24, 1.0), (-(1 - 2**-24), 2**-24, 1.0), (1 + 2**-23, 2**-24, 1 + 2**-23), (7.0, 0.1, -0.7),
    (2**-70, 2**-70, 2**-140), (2**-75 * 1.5, 2**-75, 0.0), (2**-75 * 1.5, 2**-74, 2**-149)])
def test_a_fused_multiply_add_is_rounded_once(a, b, c):
    """Against fractions, at ties, beside them, and among subnormal numbers."""
    a, b, c = (np.float32(v) for v in (a, b, c))
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    got = float(fma(a, b, c))
    near = [float(np.nextafter(np.float32(got), np.float32(end))) for end in (-np.inf, np.inf)]
    distance = [abs(Fraction(v) - exact) for v in (got, *near)]
    assert distance[0] == min(distance)
    if distance.count(min(distance)) > 1:  # a tie: the even one
        assert np.float32(got).view(np.int32) % 2 == 0
