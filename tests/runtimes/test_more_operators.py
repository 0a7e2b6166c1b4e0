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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", [
    [(1, 3, 4, 37), ()], [(1, 3, 4, 37), (1,)], [(1, 3, 4, 37), (37,)], [(1, 3, 4, 37), (1, 3, 4, 1)],
    [(1, 3, 4, 37), (1, 3, 1, 37)], [(1, 3, 4, 37), (1, 1, 4, 1)], [(1, 3, 4, 37), (1, 1, 4, 37)],
    [(1, 3, 4, 37), (1, 3, 1, 1)], [(1, 3, 1, 37), (1, 1, 4, 37)], [(1, 3, 1, 37), (1, 1, 4, 1)]])
@pytest.mark.parametrize("kind", ["ADD", "MUL"])
def test_operands_that_broadcast(tmp_path, kind, shapes, dtype):
    """Those of fewer axes are constants; both orders."""
    rng = np.random.default_rng(3)
    options = ("AddOptions" if kind == "ADD" else "MulOptions", {"FusedActivationFunction": 0})
    for steps in (((0.05, 3), (0.07, -5), (0.1, 0)), ((0.9, 3), (0.0123, -9), (0.0531, 4)),
                  ((0.7, 1), (0.9, 2), (0.01, 3))):
        for order in (slice(None), slice(None, None, -1)):
            read, inputs = [], []
            for shape, (step, code) in zip(shapes[order], steps):
                codes = of_dtype(rng.integers(-128, 128, shape), dtype)
                constant = codes if len(shape) < 4 else None
                read.append(Spec(shape, dtype, step, zero(code, dtype), constant))
                inputs += [codes] if constant is None else []
            whole = Spec((1, 3, 4, 37), dtype, steps[2][0], zero(steps[2][1], dtype))
            check(tmp_path, kind, [*read, whole], options, inputs)


def test_uint8_tensors_of_several_scales_are_joined(tmp_path):
    x = np.arange(256).reshape(1, 1, 1, 256).astype(np.uint8)
    for steps, zeros in (((0.05, 0.07, 0.06), (3, 100, 128)), ((0.3, 0.011, 0.1), (0, 255, 7))):
        tensors = [Spec((1, 1, 1, 256 * (1 + (k == 2))), "uint8", s, z) for k, (s, z) in enumerate(zip(steps, zeros))]
        check(tmp_path, "CONCATENATION", tensors, ("ConcatenationOptions", {"Axis": 3, "FusedActivationFunction": 0}),
              [x, x[..., ::-1].copy()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step, code", [(0.1, 3), (1 / 3, -128), (1e-30, 0), (3e37, 5), (0.5, 127)])
def test_from_and_to_floats(tmp_path, step, code, dtype):
    """251 codes and 1207 reals: blocks of 8 and a tail; ties, what lies beside them, NaN and infinity."""
    ties = np.clip((np.arange(-300, 300) + 0.5) * np.float64(np.float32(step)), -3e38, 3e38)
    x = np.concatenate([ties, np.nextafter(ties, 0), [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, 3e38]])
    real, codes = x.astype(np.float32)[None], of_dtype(np.arange(-128, 123), dtype)[None]
    check(tmp_path, "QUANTIZE", [Spec(real.shape, "float32", []), Spec(real.shape, dtype, step, zero(code, dtype))],
          None, [real])
    check(tmp_path, "DEQUANTIZE", [Spec(codes.shape, dtype, step, zero(code, dtype)),
                                   Spec(codes.shape, "float32", [])], None, [codes])
