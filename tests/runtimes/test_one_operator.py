"""LiteRT's layers of few and many channels, and its scalings; test_random_operators.py has every operator."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tflite_models import Spec, one_operator, run_litert

from refquant.readers.tflite_file import load_tflite
from refquant.runtimes import arithmetic, fast, run_model
from refquant.runtimes.kernels import LITERT_SETS
from refquant.runtimes.model import Tensor

LEFT, RIGHT = (v.reshape(1, 256, 256, 1) for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


def of_dtype(values, dtype):
    """int8 codes, or the same 128 higher as uint8."""
    return (np.asarray(values) + 128 * (dtype == "uint8")).astype(dtype)


@given(st.integers(1, 40), st.data())
def test_the_fast_scalings_are_the_plain_ones(channels, data):
    ends = st.sampled_from((-(2**31), 2**31 - 1, 0, -1, 1)) | st.integers(-(2**31), 2**31 - 1)
    sums = np.array(data.draw(st.lists(ends, min_size=channels, max_size=channels))) >> data.draw(st.integers(0, 24))
    acc = np.stack([sums, sums + 1, -sums - 1]).clip(-(2**31), 2**31 - 1)
    exponents = data.draw(st.lists(st.integers(-28, 2), min_size=channels, max_size=channels))
    kinds = st.sampled_from((0.5, 0.75, 0.6, 1 - 2**-31))
    fractions = data.draw(st.lists(kinds, min_size=channels, max_size=channels))
    M = np.ldexp(fractions, exponents)
    for plain, quick in ((arithmetic.double_rounded, fast.double_rounded), (arithmetic.neon, fast.neon)):
        try:
            wanted = plain(acc, M)
        except ValueError:  # a shift left that no register holds
            continue
        assert np.array_equal(quick(acc, M), wanted)
        assert np.array_equal(quick(acc, float(M[0])), plain(acc, float(M[0])))


def described(step, zero):
    return Tensor(0, "", (1, 256, 256, 1), np.dtype(np.int8), np.array([step], np.float32), np.array([zero]))


def layer(rng, kind, dtype, channels, outputs, activation, per_channel):
    """A random layer with weights, as (tensors, options, inputs); sums of a size that codes show."""
    w_dtype, x_zero, w_zero = dtype, of_dtype(7, dtype), of_dtype(0, dtype) if dtype == "int8" else 131
    x_shape = (2, channels) if kind == "FULLY_CONNECTED" else (1, 5, 6, channels)
    w_shape = {"FULLY_CONNECTED": (outputs, channels), "CONV_2D": (outputs, 3, 2, channels),
               "DEPTHWISE_CONV_2D": (1, 3, 2, outputs)}[kind]
    weights = of_dtype(rng.integers(-127, 128, w_shape), w_dtype)
    axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
    steps = rng.uniform(0.001, 0.02, outputs if per_channel else 1).astype(np.float32)
    bias = rng.integers(-2000, 2000, outputs).astype(np.int32)
    y_shape = (2, outputs) if kind == "FULLY_CONNECTED" else (1, 3, 3, outputs)
    tensors = [Spec(x_shape, dtype, 0.013, x_zero), Spec(w_shape, w_dtype, steps, w_zero, weights, axis),
               Spec((outputs,), "int32", 0.013 * steps, 0, bias), Spec(y_shape, dtype, 0.9, of_dtype(-3, dtype))]
    window = {"Padding": 0, "StrideW": 2, "StrideH": 2, "DilationWFactor": 1, "DilationHFactor": 1,
              "FusedActivationFunction": ACTIVATIONS[activation]}
    options = {"FULLY_CONNECTED": ("FullyConnectedOptions", {"FusedActivationFunction": ACTIVATIONS[activation]}),
               "CONV_2D": ("Conv2DOptions", window),
               "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", {**window, "DepthMultiplier": outputs // channels})}
    return tensors, options[kind], [of_dtype(rng.integers(-128, 128, x_shape), dtype)]


@pytest.mark.parametrize("kind", ["FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("dtype, per_channel", [("int8", True), ("int8", False), ("uint8", False)])
def test_layers_with_weights(tmp_path, kind, dtype, per_channel):
    rng = np.random.default_rng(3)
    for outputs in (3, 8, 21):
        channels = outputs if kind == "DEPTHWISE_CONV_2D" else 9
        tensors, options, (x,) = layer(rng, kind, dtype, channels, outputs, "RELU6", per_channel)
        data = one_operator(kind, tensors, options)
        (tmp_path / "m.tflite").write_bytes(data)
        model = load_tflite(tmp_path / "m.tflite")
        for kernel_set in LITERT_SETS:
            theirs = run_litert(data, {model.inputs[0]: x}, model.outputs, kernel_set)
            assert np.array_equal(run_model(model, x, kernel_set)[model.outputs[0]], theirs[model.outputs[0]])
