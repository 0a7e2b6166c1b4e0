"""One convolution by onnxruntime: of floats, or of codes by its QLinearConv."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from tools import require_module

from refquant.convolution.geometry import Geometry


class Layer(NamedTuple):
    """x_q: (N, C, H, W); w_q: int8 (O, C/groups, R, S); bias_q: int32 (O,) or None.

    Scales are float32, that of w_q of shape () or (O,); zero points codes of the type of x_q, which is the output's.
    """

    x_q: np.ndarray
    x_scale: np.ndarray
    x_zero: int
    w_q: np.ndarray
    w_scale: np.ndarray
    y_scale: np.ndarray
    y_zero: int
    bias_q: np.ndarray | None = None
    geometry: Geometry = Geometry()


def qlinearconv(layer: Layer) -> np.ndarray:
    """The output codes."""
    dtype = layer.x_q.dtype
    return run_convolution("QLinearConv", layer.x_q, layer.geometry, {
        "x_scale": layer.x_scale, "x_zero": np.array(layer.x_zero, dtype), "w": layer.w_q, "w_scale": layer.w_scale,
        "w_zero": np.zeros(layer.w_scale.shape, np.int8), "y_scale": layer.y_scale,
        "y_zero": np.array(layer.y_zero, dtype), "bias": layer.bias_q})


def run_convolution(operator: str, x: np.ndarray, geometry: Geometry, constants: dict[str, Any]) -> np.ndarray:
    """What a model of one ``operator`` makes of x; constants: its other inputs in their order."""
    onnx = require_module("onnx", "pip install onnx")
    runtime = require_module("onnxruntime", "pip install onnxruntime")
    from onnx_models import chain  # needs onnx too

    attributes = {"pads": geometry.padding, "strides": geometry.stride, "dilations": geometry.dilation,
                  "group": geometry.groups}
    model = chain((operator, constants, attributes), shape=x.shape, opset=17,
                  kind=onnx.helper.np_dtype_to_tensor_dtype(x.dtype))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]
