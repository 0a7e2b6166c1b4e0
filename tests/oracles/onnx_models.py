"""ONNX models for tests: built by hand, or drawn at random over every operator that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tools import require_module

onnx = require_module("onnx", "pip install 'refquant[oracles]'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402  -- after the skip

OPSETS = (7, 10, 11, 13, 18, 22)


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


class _Builder:
    """A model under construction: what is computed, and the shape of each tensor without its batch."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.opset = draw, draw(st.sampled_from(OPSETS))
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.batch = draw(st.sampled_from(("N", 1)))
        side = st.integers(3, 8)
        shape = draw(st.tuples(st.integers(1, 4), side, side) | st.tuples(st.integers(1, 9)))
        self.shapes: dict[str, tuple[int, ...]] = {"x": shape}
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.constants: list[Any] = []  # the same and what Constant and Identity nodes make
        self.taken: set[str] = set()  # tensors that only one node may read
        self.written = 0

    def readable(self) -> list[str]:
        """Latest first: towards them Hypothesis shrinks."""
        return [name for name in list(self.shapes)[::-1] if name not in self.taken]

    def fresh(self) -> str:
        self.written += 1
        return f"t{self.written}"

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """An initializer, or a Constant, or either through Identity."""
        name = self.fresh()
        self.constants.append(tensor(name, values, dtype))
        if self.draw(st.booleans()):
            self.initializers.append(self.constants[-1])
        else:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor("", values, dtype)))
        if self.draw(st.integers(0, 7)) < 7:
            return name
        again = self.fresh()
        self.constants.append(tensor(again, values, dtype))
        self.nodes.append(helper.make_node("Identity", [name], [again]))
        return again

    def weights(self, *shape: int) -> str:
        """About as large as keeps tensors at a magnitude of 1."""
        return self.constant(self.rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:]))))

    def add(self, operator: str, inputs: Sequence[str], more: Sequence[str] = (), **attributes: Any) -> str:
        """A node of this operator; returns its output's name. ONNX's own inference tells the shape."""
        name = self.fresh()
        self.nodes.append(helper.make_node(operator, list(inputs), [name, *more], **attributes))
        value = helper.make_tensor_value_info
        computed = [value(other, TensorProto.FLOAT, (1, *shape)) for other, shape in self.shapes.items()]
        graph = helper.make_graph([self.nodes[-1]], "one", computed, [value(name, TensorProto.FLOAT, None)],
                                  self.constants)
        alone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(alone, strict_mode=True, data_prop=True)
        self.shapes[name] = tuple(d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim[1:])
        assert all(self.shapes[name]), (operator, attributes, self.shapes[name])
        return name

    def finish(self, output: str) -> Any:
        return model(self.nodes, self.initializers, (self.batch, *self.shapes["x"]), self.opset, output=output)

    # --- one method per group of operators ------------------------------------------------------------------------

    def conv(self, source: str) -> str:
        draw, (channels, height, width) = self.draw, self.shapes[source]
        if draw(st.booleans()):
            source = self.pad(source)
            self.taken.add(source)
        groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
        outputs = groups * draw(st.integers(1, max(1, 4 // groups)))
        kernel = draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width)))
        attributes = self.window((height, width), kernel, draw(st.booleans()))
        inputs = [source, self.weights(outputs, channels // groups, *kernel)]
        if draw(st.booleans()):
            inputs.append(self.weights(outputs))
        if groups > 1 or draw(st.booleans()):
            attributes["group"] = groups
        if draw(st.booleans()):
            attributes["kernel_shape"] = kernel
        return self.addend(self.add("Conv", inputs, **attributes))

    def window(self, plane: Sequence[int], kernel: Sequence[int], dilated: bool) -> dict[str, Any]:
        """strides, pads or auto_pad, and dilations where they fit without any padding."""
        draw = self.draw
        attributes: dict[str, Any] = {"strides": [draw(st.integers(1, 3)), draw(st.integers(1, 3))]}
        if dilated:
            attributes["dilations"] = [2 if 2 * (k - 1) < size else 1 for k, size in zip(kernel, plane)]
        auto = draw(st.sampled_from((None, "NOTSET", "VALID", *(() if dilated else ("SAME_UPPER", "SAME_LOWER")))))
        if auto:
            attributes["auto_pad"] = auto
        if auto in (None, "NOTSET") and not dilated:
            attributes["pads"] = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
        return attributes

    def pad(self, source: str) -> str:
        pads = [0, 0, self.draw(st.integers(0, 2)), self.draw(st.integers(0, 2))] * 2
        pads[6] = self.draw(st.integers(0, 2))
        if self.opset < 11:
            return self.add("Pad", [source], mode="constant", pads=pads, value=0.0)
        inputs = [source, self.constant(pads, np.int64)]
        if self.opset >= 18 and self.draw(st.booleans()):
            inputs = [source, self.constant([pads[2], pads[3], pads[6], pads[7]], np.int64), "",
                      self.constant([2, -1], np.int64)]
        elif self.draw(st.booleans()):
            inputs.append(self.constant(0.0))
        return self.add("Pad", inputs)

    def addend(self, source: str) -> str:
        """Sometimes a constant behind a layer."""
        if self.draw(st.integers(0, 2)):
            return source
        outputs, *plane = self.shapes[source]
        self.taken.add(source)
        inputs = [source, self.weights(*self.draw(st.sampled_from(
            ((1, outputs, *(1 for _ in plane)), (outputs, *(1 for _ in plane)), ()))))]
        return self.add("Add", inputs[::self.draw(st.sampled_from((1, -1)))])

    def pool(self, source: str) -> str:
        draw, operator = self.draw, self.draw(st.sampled_from(("MaxPool", "AveragePool")))
        plane = self.shapes[source][1:]
        kernel = [draw(st.integers(1, min(3, size))) for size in plane]
        dilated = self.opset >= (10 if operator == "MaxPool" else 19) and draw(st.booleans())
        attributes = self.window(plane, kernel, dilated)
        if str(attributes.get("auto_pad")).startswith("SAME"):  # onnxruntime cannot do without some padding
            attributes["strides"] = [min(k, step) for k, step in zip(kernel, attributes["strides"])]
        # Where rounding up would start a window behind the input, onnxruntime leaves it out, but counts it when it
        # plans its buffers; and SAME leaves nothing to round up. Single pools try the former, hand-made ones both.
        pads, dilations = attributes.get("pads", [0] * 4), attributes.get("dilations", [1, 1])
        inside = True
        for axis, step in enumerate(attributes["strides"]):
            end = plane[axis] + pads[axis]
            slack = end + pads[axis + 2] - (kernel[axis] - 1) * dilations[axis] - 1
            inside = inside and -(-slack // step) * step < end
        if self.opset >= 10 and inside and not str(attributes.get("auto_pad")).startswith("SAME"):
            attributes["ceil_mode"] = draw(st.integers(0, 1))
        if operator == "AveragePool":
            attributes["count_include_pad"] = draw(st.integers(0, 1))
        return self.add(operator, [source], kernel_shape=kernel, **attributes)

    def mean(self, source: str) -> str:
        if self.draw(st.booleans()):
            return self.add("GlobalAveragePool", [source])
        axes, keepdims = self.draw(st.sampled_from(([2, 3], [-1, -2]))), self.draw(st.integers(0, 1))
        if self.opset < 18:
            axes = axes if self.opset >= 11 else [2, 3]
            return self.add("ReduceMean", [source], axes=axes, keepdims=keepdims)
        return self.add("ReduceMean", [source, self.constant(axes, np.int64)], keepdims=keepdims)

    def linear(self, source: str) -> str:
        draw, (features,), outputs = self.draw, self.shapes[source], self.draw(st.integers(1, 4))
        if draw(st.booleans()):
            return self.addend(self.add("MatMul", [source, self.weights(features, outputs)]))
        transposed = draw(st.integers(0, 1))
        inputs = [source, self.weights(*((outputs, features) if transposed else (features, outputs)))]
        if self.opset < 11 or draw(st.booleans()):
            inputs.append(self.weights(*draw(st.sampled_from(((outputs,), (1, outputs), (1,), ())))))
        attributes = draw(st.sampled_from(({}, {"alpha": 0.5, "beta": 2.0})))
        return self.addend(self.add("Gemm", inputs, transB=transposed, **attributes))

    def clip(self, source: str) -> str:
        low, high = self.draw(st.sampled_from(((0.0, 6.0), (-1.0, 1.0), (None, 0.5), (0.25, None), (None, None))))
        if self.opset < 11:
            limits = {"min": low, "max": high}
            return self.add("Clip", [source], **{name: limit for name, limit in limits.items() if limit is not None})
        return self.add("Clip", [source, *("" if limit is None else self.constant(limit) for limit in (low, high))])

    def norm(self, source: str) -> str:
        channels = self.shapes[source][0]
        values = self.rng.normal(size=(3, channels))
        inputs = [self.constant(v) for v in values] + [self.constant(self.rng.uniform(0.25, 2, channels))]
        return self.add("BatchNormalization", [source, *inputs], epsilon=self.draw(st.sampled_from((1e-5, 1e-3))))

    def join(self, source: str) -> str:
        shape = self.shapes[source]
        operator = self.draw(st.sampled_from(("Add", "Concat")))
        fitting = [name for name in self.readable()
                   if self.shapes[name] == shape or (operator == "Concat" and self.shapes[name][1:] == shape[1:])]
        inputs = [source, self.draw(st.sampled_from(fitting))]
        if operator == "Add":
            return self.add("Add", inputs)
        axes = (1, -len(shape)) if self.opset >= 11 else (1,)
        return self.add("Concat", inputs, axis=self.draw(st.sampled_from(axes)))

    def same(self, source: str) -> str:
        if self.draw(st.booleans()):
            return self.add("Identity", [source])
        mask = [self.fresh()] if self.draw(st.booleans()) else []
        return self.add("Dropout", [source], mask)

    def flat(self, source: str) -> str:
        features = int(np.prod(self.shapes[source]))
        targets = ((1, -1), (0, -1), (1, features), (-1, features), (0, features))
        target = self.draw(st.none() | st.sampled_from(targets))
        if target is None:
            return self.add("Flatten", [source], **self.draw(st.sampled_from(({}, {"axis": 1}))))
        return self.add("Reshape", [source, self.constant(target, np.int64)])


@st.composite
def models(draw: st.DrawFn, max_nodes: int = 8) -> Any:
    """Random models over every supported operator, with branches; input of at most (4, 8, 8), opsets 7 to 22.

    Run them one image at a time: a Reshape may fix the batch at 1.
    """
    builder = _Builder(draw)
    everywhere = [_Builder.clip, _Builder.norm, _Builder.join, _Builder.same, _Builder.flat,
                  lambda b, source: b.add("Relu", [source])]
    for _ in range(draw(st.integers(1, max_nodes))):
        source = draw(st.sampled_from(builder.readable()))
        planes = len(builder.shapes[source]) == 3
        last = draw(st.sampled_from([*([_Builder.conv, _Builder.conv, _Builder.pool, _Builder.mean] if planes else
                                       [_Builder.linear]), *everywhere]))(builder, source)
    if {node.op_type for node in builder.nodes} <= {"Identity", "Dropout", "Constant"}:
        last = builder.add("Relu", [last])  # a network without any computation is refused
    if len(builder.shapes[last]) == 1 and draw(st.booleans()):
        last = builder.add("Softmax", [last], **draw(st.sampled_from(({}, {"axis": 1}))))
    return builder.finish(last)


def input_shape(loaded: Any) -> tuple[int, ...]:
    """The shape of one image."""
    return tuple(d.dim_value for d in loaded.graph.input[0].type.tensor_type.shape.dim[1:])


def run_onnxruntime(loaded: Any, images: np.ndarray) -> np.ndarray:
    """What onnxruntime computes, unoptimized, one image at a time."""
    runtime = require_module("onnxruntime", "pip install 'refquant[oracles]'")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = runtime.InferenceSession(loaded.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: image[None]})[0] for image in images])
