"""LiteRT's operators value by value, means and moves, one at a time, in all three kernel sets."""
from __future__ import annotations

import numpy as np
import pytest
from test_one_operator import LEFT, RIGHT, check, of_dtype
from tflite_models import Spec

DTYPES = ("int8", "uint8")
SCALES = [(0.05, 3, 0.04, -5), (0.1, -20, 0.01, 0), (0.02, 0, 0.3, 7), (0.3, -128, 0.1, -128)]
EVERY = np.arange(-128, 128).reshape(1, 1, 1, 256)
PLANES = np.random.default_rng(0).integers(-128, 128, (1, 3, 4, 5))


def zero(code, dtype):
    return code + 128 * (dtype == "uint8")


def integers(values):
    values = np.array(values, np.int32)
    return Spec(values.shape, "int32", [], 0, values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("a, b, y", [((0.05, 3), (0.07, -5), (0.1, 0)), ((0.5, 0), (0.01, 12), (0.5, -128)),
                                     ((1.3, -7), (0.9, 0), (0.2, 4)), ((0.7, 1), (0.9, 2), (0.01, 3))])
def test_mul_of_all_pairs_of_codes(tmp_path, a, b, y, dtype):
    tensors = [Spec((1, 256, 256, 1), dtype, step, zero(code, dtype)) for step, code in (a, b, y)]
    check(tmp_path, "MUL", tensors, ("MulOptions", {"FusedActivationFunction": 0}),
          [of_dtype(LEFT, dtype), of_dtype(RIGHT, dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["RELU", "RELU6", "HARD_SWISH", "QUANTIZE", "LEAKY_RELU", "LOGISTIC", "TANH"])
@pytest.mark.parametrize("s_x, z_x, s_y, z_y", SCALES)
def test_functions_of_every_code(tmp_path, kind, s_x, z_x, s_y, z_y, dtype):
    fixed = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}  # as LiteRT asks for
    s_y, z_y = fixed.get(kind, (s_y, z_y))
    options = ("LeakyReluOptions", {"Alpha": 0.13}) if kind == "LEAKY_RELU" else None
    check(tmp_path, kind, [Spec(EVERY.shape, dtype, s_x, zero(z_x, dtype)), Spec(EVERY.shape, dtype, s_y,
                                                                                 zero(z_y, dtype))],
          options, [of_dtype(EVERY, dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("channels", [5, 16, 37])
def test_means_over_planes_on_one_thread(tmp_path, channels, keep, dtype):
    x = np.random.default_rng(channels).integers(-128, 128, (1, 7, 6, channels))
    for s_x, z_x, s_y, z_y in SCALES:
        tensors = [Spec(x.shape, dtype, s_x, zero(z_x, dtype)), integers([1, 2]),
                   Spec((1, 1, 1, channels) if keep else (1, channels), dtype, s_y, zero(z_y, dtype))]
        check(tmp_path, "MEAN", tensors, ("ReducerOptions", {"KeepDims": keep}), [of_dtype(x, dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_moves(tmp_path, dtype):
    x, like = of_dtype(PLANES, dtype), {"dtype": dtype, "step": 0.1, "zero": zero(3, dtype)}
    check(tmp_path, "PAD", [Spec(x.shape, **like), integers([[0, 0], [1, 2], [0, 1], [0, 0]]),
                            Spec((1, 6, 5, 5), **like)], ("PadOptions", {}), [x])
    check(tmp_path, "TRANSPOSE", [Spec(x.shape, **like), integers([0, 3, 1, 2]), Spec((1, 5, 3, 4), **like)],
          ("TransposeOptions", {}), [x])
    check(tmp_path, "CONCATENATION", [Spec(x.shape, **like), Spec(x.shape, **like), Spec((1, 3, 4, 10), **like)],
          ("ConcatenationOptions", {"Axis": 3, "FusedActivationFunction": 0}), [x, x[:, ::-1].copy()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (2, 3), (9, 4)])
@pytest.mark.parametrize("corners, half", [(False, False), (True, False), (False, True)])
def test_nearest_neighbours(tmp_path, size, corners, half, dtype):
    x = of_dtype(PLANES, dtype)
    ends = [Spec(shape, dtype, 0.1, zero(3, dtype)) for shape in (x.shape, (1, *size, 5))]
    check(tmp_path, "RESIZE_NEAREST_NEIGHBOR", [ends[0], integers(size), ends[1]], (
        "ResizeNearestNeighborOptions", {"AlignCorners": corners, "HalfPixelCenters": half}), [x])
