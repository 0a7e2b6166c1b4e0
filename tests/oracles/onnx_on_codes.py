"""ONNX models of one operator on codes."""

from __future__ import annotations

import numpy as np
from onnx_models import TensorProto, helper, numpy_helper

OF = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8, np.float32: TensorProto.FLOAT}


def code(value, dtype):
    """int8 codes, or the same 128 higher as uint8."""
    return (np.asarray(value) + 128 * (dtype is np.uint8)).astype(dtype)


def one(kind, inputs, x_dtype, shape, attributes=None, domain="com.microsoft", **constants):
    """A model of one node; inputs: names, those among ``constants`` are initializers, "x" is read."""
    node = helper.make_node(kind, inputs, ["y"], domain=domain, name="n", **(attributes or {}))
    graph = helper.make_graph([node], "one", [helper.make_tensor_value_info("x", OF[x_dtype], ("N", *shape))],
                              [helper.make_empty_tensor_value_info("y")],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid(
        "com.microsoft", 1)], ir_version=8)


def scalars(dtype, **values):
    """Steps as float32, zero points (whose names begin with z) as codes."""
    return {name: code(value, dtype) if name[0] == "z" else np.float32(value) for name, value in values.items()}


def quantized_floats(rng, shape, weight, attributes):
    """A convolution that is left in floats, its codes beside it, and images."""
    made = one("Conv", ["x", "w", "b"], np.float32, shape, attributes, "",
               w=rng.normal(size=weight).astype(np.float32), b=rng.normal(size=weight[0]).astype(np.float32))
    made.graph.node.extend([helper.make_node("QuantizeLinear", ["y", "s", "z"], ["q"])])
    made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in (
        ("s", np.float32(0.1)), ("z", np.uint8(128))))
    made.graph.output.extend([helper.make_empty_tensor_value_info("q")])
    return made, rng.normal(size=(6, *shape)).astype(np.float32)
