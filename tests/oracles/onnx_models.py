"""ONNX models for tests: built by hand, or drawn at random; and what onnxruntime computes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tools import require_module

onnx = require_module("onnx", "pip install 'refquant[oracles]'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402  -- after the skip


def tensor(name: str, values: Any, dtype: Any = np.float32) -> Any:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def model(nodes: Sequence[Any], initializers: Sequence[Any] = (), shape: Sequence[Any] = ("N", 2, 6, 6),
          opset: int = 13, kind: int = TensorProto.FLOAT, output: str = "y") -> Any:
    """A model that reads ``x`` of ``shape`` and computes ``output``."""
    graph = helper.make_graph(
        list(nodes), "test", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(output, kind, None)], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def chain(*steps: tuple[str, dict[str, Any], dict[str, Any]], **keywords: Any) -> Any:
    """A model of operators one after another: (operator, other inputs by name, attributes) each.

    Their outputs are t0, t1, ... and y; an input whose value is None is left out.
    """
    nodes, initializers, source = [], [], "x"
    for index, (operator, inputs, attributes) in enumerate(steps):
        names = [source]
        for name, value in inputs.items():
            names.append("" if value is None else f"{name}{index}")
            if value is not None:
                initializers.append(tensor(names[-1], value, np.asarray(value).dtype))
        source = "y" if index == len(steps) - 1 else f"t{index}"
        nodes.append(helper.make_node(operator, names, [source], **attributes))
    return model(nodes, initializers, **keywords)


@st.composite
def models(draw: st.DrawFn, max_nodes: int = 8) -> Any:
    """Random networks over the operators that most files hold, with branches; input of at most (4, 8, 8)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    side = st.integers(3, 8)
    shapes = {"x": draw(st.tuples(st.integers(1, 4), side, side) | st.tuples(st.integers(1, 9)))}
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(values: Any, dtype: Any = np.float32) -> str:
        constants.append(tensor(f"w{len(constants)}", values, dtype))
        return str(constants[-1].name)

    def weights(*shape: int) -> str:
        """About as large as keeps tensors at a magnitude of 1."""
        return constant(rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:]))))

    def add(operator: str, *inputs: str, **attributes: Any) -> str:
        """A node; returns its output's name. ONNX's own inference tells the shape."""
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        value = helper.make_tensor_value_info
        computed = [value(other, TensorProto.FLOAT, (1, *shape)) for other, shape in shapes.items()]
        graph = helper.make_graph([nodes[-1]], "one", computed, [value(name, TensorProto.FLOAT, None)], constants)
        alone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(alone, strict_mode=True, data_prop=True)
        shapes[name] = tuple(d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim[1:])
        return name

    def window(plane: Sequence[int], kernel: Sequence[int]) -> dict[str, Any]:
        form = draw(st.sampled_from(("pads", "dilations", "VALID", "SAME_UPPER", "SAME_LOWER")))
        strides = [draw(st.integers(1, 3)) for _ in kernel]
        if form == "pads":
            return {"strides": strides, "pads": [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]}
        if form == "dilations":
            return {"strides": strides, form: [1 + (2 * (k - 1) < size) for k, size in zip(kernel, plane)]}
        return {"strides": np.minimum(strides, kernel).tolist(), "auto_pad": form}

    def conv(source: str) -> str:
        channels, *plane = shapes[source]
        groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
        outputs = groups * draw(st.integers(1, max(1, 4 // groups)))
        kernel = [draw(st.integers(1, min(3, size))) for size in plane]
        if draw(st.booleans()):
            source = add("Pad", source, constant([0, 0, draw(st.integers(0, 2)), 1] * 2, np.int64))
        bias = [weights(outputs)] if draw(st.booleans()) else []
        found = add("Conv", source, weights(outputs, channels // groups, *kernel), *bias, group=groups,
                    **window(plane, kernel))
        return add("Add", weights(1, outputs, 1, 1), found) if draw(st.booleans()) else found

    def pool(source: str) -> str:
        kernel = [draw(st.integers(1, min(3, size))) for size in shapes[source][1:]]
        more = draw(st.sampled_from(({}, {"count_include_pad": 0}, {"count_include_pad": 1})))
        return add("AveragePool" if more else "MaxPool", source, kernel_shape=kernel, **more,
                   **window(shapes[source][1:], kernel))

    def linear(source: str) -> str:
        (features,), outputs = shapes[source], draw(st.integers(1, 4))
        if draw(st.booleans()):
            return add("Add", add("MatMul", source, weights(features, outputs)), weights(outputs))
        return add("Gemm", source, weights(outputs, features), weights(1, outputs), transB=1, alpha=0.5, beta=2.0)

    def norm(source: str) -> str:
        channels = shapes[source][0]
        return add("BatchNormalization", source, *(constant(v) for v in rng.uniform(0.25, 2, (4, channels))))

    def join(source: str) -> str:
        """Of this tensor and another of its shape, or of its planes."""
        operator = draw(st.sampled_from(("Add", "Mul", "Concat")))
        start = int(operator == "Concat")
        other = draw(st.sampled_from([name for name in shapes if shapes[name][start:] == shapes[source][start:]
                                      and len(shapes[name]) == len(shapes[source])]))
        return add(operator, source, other, **({"axis": 1} if start else {}))

    def clip(source: str) -> str:
        limits = draw(st.sampled_from(((0.0, 6.0), (-1.0, 1.0), (None, 0.5), (0.25, None))))
        return add("Clip", source, *("" if limit is None else constant(limit) for limit in limits))

    everywhere = [norm, join, clip, lambda source: add("Relu", source),
                  lambda source: add("Reshape", source, constant([0, -1], np.int64))]
    last = "x"
    for _ in range(draw(st.integers(1, max_nodes))):
        source = draw(st.sampled_from(list(shapes)[::-1]))
        planes = [conv, conv, pool, lambda source: add("GlobalAveragePool", source)]
        last = draw(st.sampled_from([*(planes if len(shapes[source]) == 3 else [linear]), *everywhere]))(source)
    if nodes[-1].op_type == "Reshape" and len(nodes) == 1:
        last = add("Relu", last)  # a network without any computation is refused
    return model(nodes, constants, (draw(st.sampled_from(("N", 1))), *shapes["x"]), 22, output=last)


@st.composite
def pools(draw: st.DrawFn) -> Any:
    """One pool, with what only single pools try: every window sees the input, whatever ceil_mode adds."""
    plane = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kernel = [draw(st.integers(1, 5)) for _ in plane]
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    for axis, (size, k) in enumerate(zip(plane, kernel)):
        if size + pads[axis] + pads[axis + 2] < k:
            pads[axis] = pads[axis + 2] = k - 1
    more = draw(st.sampled_from(({}, {"count_include_pad": 0}, {"count_include_pad": 1})))
    made = helper.make_node(
        "AveragePool" if more else draw(st.sampled_from(("MaxPool", "AveragePool"))), ["x"], ["y"],
        kernel_shape=kernel, pads=pads, ceil_mode=draw(st.integers(0, 1)),
        strides=[draw(st.integers(1, 4)) for _ in plane], **more)
    return model([made], shape=("N", 2, *plane), opset=draw(st.sampled_from((10, 11, 18, 19, 22))))


def session_of(made: Any, level: str = "ORT_DISABLE_ALL", merged: Path | None = None) -> Any:
    """onnxruntime's session of a model or a file, on one thread; ``merged``: where it writes what it makes of it."""
    runtime = require_module("onnxruntime", "pip install 'refquant[oracles]'")
    options = runtime.SessionOptions()
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if merged is not None:
        options.optimized_model_filepath = str(merged)
    source = str(made) if isinstance(made, Path) else made.SerializeToString()
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_onnxruntime(made: Any, images: np.ndarray, names: Sequence[str] | None = None,
                    level: str = "ORT_DISABLE_ALL") -> list[np.ndarray]:
    """What onnxruntime computes, one image at a time: the model's outputs, or those of ``names``."""
    session = session_of(made, level)
    entry = session.get_inputs()[0].name
    return [np.concatenate(parts) for parts in zip(*(session.run(names, {entry: image[None]}) for image in images))]
