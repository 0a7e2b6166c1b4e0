"""A quantized network as an ONNX file in QDQ form, as runtimes read it.

Each tensor is quantized and dequantized (QuantizeLinear, DequantizeLinear) around float operators; weights are int8
with a step per channel, biases int32. A runtime computes these in floats, or fuses them into kernels of its own. Its
codes are those of dialect ``float32_half_even`` but for values that float32 puts on the other side of a tie, and for
Add and average pools, whose rule is another one here.
"""

from __future__ import annotations

from functools import singledispatchmethod
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.integers.formats import IntFormat, check_codes
from refquant.network.graph import AveragePool
from refquant.network.moves import Pad, Repeat, Reshape, Slice, Spread, Transpose
from refquant.network.pointwise_layers import QuantizedLargest, QuantizedMove, QuantizedMul, QuantizedTable
from refquant.network.program import (
    ClippedLayer,
    Layer,
    QuantizedAdd,
    QuantizedAveragePool,
    QuantizedClip,
    QuantizedConcat,
    QuantizedConv,
    QuantizedFlatten,
    QuantizedMaxPool,
)
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import QuantParams

OPSET = 13


def to_qdq(network: QuantizedNetwork) -> bytes:
    """The ONNX file's bytes. Its input is float (N, ...), its outputs are the dequantized outputs, by their names.

    ValueError for what ONNX cannot hold: formats of more than 8 bits, piecewise codes, layers of several sums, biases
    beyond int32, tables per channel, and average pools that are dilated or count by another rule than ONNX's two.
    ModuleNotFoundError without the onnx package.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ModuleNotFoundError("writing ONNX files needs the onnx package: pip install 'refquant[onnx]'",
                                  name="onnx") from None
    return _Writer(network, onnx).model().SerializeToString()


class _Writer:
    """The file under construction. Every tensor of the network has a float of its name: its dequantized codes."""

    def __init__(self, network: QuantizedNetwork, onnx: Any) -> None:
        self.network, self.onnx = network, onnx
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        for name, params in network.qparams.items():
            if not isinstance(params, QuantParams) or params.format.bits > 8:
                raise ValueError(f"an ONNX file in QDQ form holds uniform codes of at most 8 bits, got "
                                 f"{params.format} for tensor {name!r}")

    def model(self) -> Any:
        helper, float32 = self.onnx.helper, self.onnx.TensorProto.FLOAT
        entry = f"{self.network.input}:real"
        self.quantized(entry, self.network.input)
        for layer in self.network.layers:
            self.write(layer)
        ends = [(entry, [("N", *self.network.input_shape)]), *((name, [("N", *self.network.shapes[name])])
                                                               for name in self.network.outputs)]
        values = [helper.make_tensor_value_info(name, float32, *shape) for name, shape in ends]
        graph = helper.make_graph(self.nodes, "refquant", values[:1], values[1:], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8,
                                  producer_name="refquant")
        self.onnx.checker.check_model(model)
        return model

    # --- parts ----------------------------------------------------------------------------------------------------

    def constant(self, name: str, values: Any, dtype: Any) -> str:
        """An initializer."""
        self.initializers.append(self.onnx.numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node of one output, which it is named after."""
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def steps(self, tensor: str) -> tuple[str, str]:
        """The step and the zero point of a tensor, as constants."""
        params = self.network.qparams[tensor]
        names = f"{tensor}:step", f"{tensor}:zero_point"
        if not any(one.name == names[0] for one in self.initializers):
            self.constant(names[0], 1 / params.scale, np.float32)
            self.constant(names[1], params.zero_point, np.uint8 if not params.format.signed else np.int8)
        return names

    def quantized(self, real: str, tensor: str) -> None:
        """From reals to the tensor's codes, and what these stand for."""
        params = self.network.qparams[tensor]
        fmt, whole = params.format, (-128, 127) if params.format.signed else (0, 255)
        if (fmt.min, fmt.max) != whole:
            real = self.clipped(real, fmt.min, fmt.max, tensor, "format")
        self.node("QuantizeLinear", [real, *self.steps(tensor)], f"{tensor}:codes")
        self.node("DequantizeLinear", [f"{tensor}:codes", *self.steps(tensor)], tensor)

    def clipped(self, real: str, low: int, high: int, tensor: str, why: str) -> str:
        """Reals between what two codes of a tensor stand for."""
        params = self.network.qparams[tensor]
        name = f"{tensor}:{why}"
        ends = [self.constant(f"{name} {end}", (code - params.zero_point) / params.scale, np.float32)
                for end, code in (("low", low), ("high", high))]
        return self.node("Clip", [real, *ends], name)

    def finish(self, layer: Layer, real: str) -> None:
        """What a layer computed, clamped and quantized."""
        fmt = self.network.qparams[layer.output].format
        if isinstance(layer, ClippedLayer) and (layer.low, layer.high) != (fmt.min, fmt.max):
            real = self.clipped(real, layer.low, layer.high, layer.output, "clip")
        self.quantized(real, layer.output)

    # --- layers ---------------------------------------------------------------------------------------------------

    @singledispatchmethod
    def write(self, layer: Layer) -> None:
        """One layer's nodes."""
        raise ValueError(f"layer {layer.name!r}: {type(layer).__name__} has no QDQ form")

    @write.register
    def _(self, layer: QuantizedConv) -> None:
        if len(layer.terms) != 1 or layer.terms[0].lookup_table is not None:
            raise ValueError(f"layer {layer.name!r}: a layer of several sums has no QDQ form")
        (term,), tensor = layer.terms, layer.inputs[0]
        if term.weight_format.bits > 8:
            raise ValueError(f"layer {layer.name!r}: an ONNX file in QDQ form holds weights of at most 8 bits, got "
                             f"{term.weight_format}")
        s_x, s_y = (self.network.qparams[name].scale for name in (tensor, layer.output))
        step = np.broadcast_to(term.multiplier.real * s_x / s_y, len(term.weight_q)).astype(np.float32)
        flat, name = len(self.network.shapes[tensor]) == 1, layer.name
        product = flat and layer.geometry == Geometry()
        weight = term.weight_q.reshape(len(step), -1) if product else term.weight_q
        inputs = [tensor, self.node("DequantizeLinear", [
            self.constant(f"{name}:w_q", weight, np.int8), self.constant(f"{name}:w_step", step, np.float32),
            self.constant(f"{name}:w_zero", np.zeros(len(step)), np.int8)], f"{name}:w", axis=0)]
        if term.bias_q is not None:
            bias_q = check_codes(term.bias_q, IntFormat(32), f"layer {name!r}: bias_q")
            inputs.append(self.node("DequantizeLinear", [
                self.constant(f"{name}:b_q", bias_q, np.int32),
                self.constant(f"{name}:b_step", step * np.float32(1 / s_x), np.float32),
                self.constant(f"{name}:b_zero", np.zeros(len(step)), np.int32)], f"{name}:b", axis=0))
        if product:
            real = self.node("Gemm", inputs, f"{name}:real", transB=1)
        else:
            if flat:  # features as planes of one element, and back
                planes = self.constant(f"{name}:planes_places", (0, -1, 1, 1), np.int64)
                inputs[0] = self.node("Reshape", [tensor, planes], f"{name}:planes")
            real = self.node("Conv", inputs, f"{name}:real", **_window(layer.geometry), group=layer.geometry.groups)
            real = self.node("Flatten", [real], f"{name}:flat") if flat else real
        self.finish(layer, real)

    @write.register
    def _(self, layer: QuantizedAdd) -> None:
        self.finish(layer, self.node("Add" if len(layer.inputs) == 2 else "Sum", list(layer.inputs),
                                     f"{layer.name}:real"))

    @write.register
    def _(self, layer: QuantizedMul) -> None:
        self.finish(layer, self.node("Mul", list(layer.inputs), f"{layer.name}:real"))

    @write.register
    def _(self, layer: QuantizedLargest) -> None:
        self.finish(layer, self.node("Min" if layer.least else "Max", list(layer.inputs), f"{layer.name}:real"))

    @write.register
    def _(self, layer: QuantizedConcat) -> None:
        self.finish(layer, self.node("Concat", list(layer.inputs), f"{layer.name}:real", axis=layer.axis + 1))

    @write.register
    def _(self, layer: QuantizedAveragePool) -> None:
        if layer.geometry.dilation != (1, 1):
            raise ValueError(f"layer {layer.name!r}: a dilated average pool has no QDQ form")
        s_x, s_y = (self.network.qparams[name].scale for name in (layer.inputs[0], layer.output))
        counts = np.rint(s_y / (s_x * layer.multiplier.real))
        plane = self.network.shapes[layer.inputs[0]][1:]
        rules = [rule for rule in (True, False) if (counts == AveragePool(
            layer.name, layer.inputs, layer.kernel, layer.geometry, rule).counts(plane)).all()]
        if not rules:
            raise ValueError(f"layer {layer.name!r}: an average pool that counts some of its padding has no QDQ form")
        self.finish(layer, self.node("AveragePool", list(layer.inputs), f"{layer.name}:real",
                                     **_window(layer.geometry, dilations=False), kernel_shape=list(layer.kernel),
                                     count_include_pad=int(rules[0])))

    @write.register
    def _(self, layer: QuantizedMaxPool) -> None:
        self.finish(layer, self.node("MaxPool", list(layer.inputs), f"{layer.name}:real", **_window(layer.geometry),
                                     kernel_shape=list(layer.kernel)))

    @write.register
    def _(self, layer: QuantizedClip) -> None:
        self.finish(layer, layer.inputs[0])

    @write.register
    def _(self, layer: QuantizedFlatten) -> None:
        self.finish(layer, self.node("Flatten", list(layer.inputs), f"{layer.name}:real"))

    @write.register
    def _(self, layer: QuantizedTable) -> None:
        """Each code's place in a table of reals."""
        name, read = layer.name, self.network.qparams[layer.inputs[0]].format
        if layer.table.ndim != 1:
            raise ValueError(f"layer {name!r}: a table for each channel has no QDQ form")
        place = self.node("Cast", [f"{layer.inputs[0]}:codes"], f"{name}:wide", to=self.onnx.TensorProto.INT64)
        place = self.node("Sub", [place, self.constant(f"{name}:least", read.min, np.int64)], f"{name}:place")
        reals = self.network.qparams[layer.output].dequantize(layer.table)
        self.finish(layer, self.node("Gather", [self.constant(f"{name}:table", reals, np.float32), place],
                                     f"{name}:real"))

    @write.register
    def _(self, layer: QuantizedMove) -> None:
        name, source, move = layer.name, layer.inputs[0], layer.move
        size = self.network.shapes[source]

        def integers(part: str, values: Any) -> str:
            return self.constant(f"{name}:{part}_places", list(values), np.int64)

        real = f"{name}:real"
        if isinstance(move, Reshape):
            self.node("Reshape", [source, integers("shape", (0, *move.shape))], real)
        elif isinstance(move, Transpose):
            self.node("Transpose", [source], real, perm=[0, *(axis + 1 for axis in move.axes)])
        elif isinstance(move, Slice):
            stops = [stop if stop >= 0 else -2**31 for stop in move.stops]
            self.node("Slice", [source, integers("starts", move.starts), integers("stops", stops), integers(
                "axes", range(1, len(size) + 1)), integers("steps", move.steps)], real)
        elif isinstance(move, Pad):
            self.node("Pad", [source, integers("pads", (0, *move.before, 0, *move.after))], real)
        elif isinstance(move, Repeat):
            scales = self.constant(f"{name}:scales", [1, *move.factors], np.float32)
            self.node("Resize", [source, "", scales], real, mode="nearest", nearest_mode="floor",
                      coordinate_transformation_mode="asymmetric")
        elif isinstance(move, Spread):  # each value in a row of its own with zeros behind it, then the last ones cut
            wide = [1 if k % 2 else s for k, s in enumerate(np.repeat(size, 2))]
            after = [f - 1 if k % 2 else 0 for k, f in enumerate(np.repeat(move.factors, 2))]
            parts = self.node("Reshape", [source, integers("wide", (0, *wide))], f"{name}:parts")
            padded = self.node("Pad", [parts, integers("pads", (0, *[0] * len(wide), 0, *after))], f"{name}:padded")
            joined = self.node("Reshape", [padded, integers("joined", (0, *(
                s * f for s, f in zip(size, move.factors))))], f"{name}:joined")
            self.node("Slice", [joined, integers("starts", [0] * len(size)), integers(
                "stops", self.network.shapes[layer.output]), integers("axes", range(1, len(size) + 1))], real)
        self.finish(layer, real)


def _window(geometry: Any, dilations: bool = True) -> dict[str, Any]:
    """The attributes of a window."""
    said: dict[str, Any] = {"strides": list(geometry.stride), "pads": list(geometry.padding)}
    return {**said, "dilations": list(geometry.dilation)} if dilations else said
