"""One convolution layer by onnxruntime's QLinearConv."""
from __future__ import annotations

from typing import NamedTuple

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
    """The output codes by onnxruntime, from a model of this one node."""
    onnx = require_module("onnx", "pip install onnx")
    runtime = require_module("onnxruntime", "pip install onnxruntime")
    dtype = layer.x_q.dtype
    constants = {"x_scale": layer.x_scale, "x_zero": np.array(layer.x_zero, dtype), "w": layer.w_q,
                 "w_scale": layer.w_scale, "w_zero": np.zeros(layer.w_scale.shape, np.int8),
                 "y_scale": layer.y_scale, "y_zero": np.array(layer.y_zero, dtype)}
    if layer.bias_q is not None:
        constants["bias"] = layer.bias_q
    geometry, kind = layer.geometry, onnx.helper.np_dtype_to_tensor_dtype(dtype)
    node = onnx.helper.make_node("QLinearConv", ["x", *constants], ["y"], pads=geometry.padding,
                                 strides=geometry.stride, dilations=geometry.dilation, group=geometry.groups)
    graph = onnx.helper.make_graph(
        [node], "qlinearconv", [onnx.helper.make_tensor_value_info("x", kind, layer.x_q.shape)],
        [onnx.helper.make_tensor_value_info("y", kind, [None] * 4)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": layer.x_q})[0]
