"""Random TFLite layers with weights, and every pair of codes."""

from __future__ import annotations

import numpy as np
from tflite_models import Spec

from refquant.runtimes.model import Tensor

LEFT, RIGHT = (v.reshape(1, 256, 256, 1) for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


def of_dtype(values, dtype):
    """int8 codes, or the same 128 higher as uint8."""
    return (np.asarray(values) + 128 * (dtype == "uint8")).astype(dtype)


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
