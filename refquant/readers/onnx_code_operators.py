"""Translation of ONNX's operators on codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.readers.onnx_code_moves import FLOATS, MOVES, broadcast, in_floats, move
from refquant.readers.onnx_codes import Codes, Coding, Shape
from refquant.readers.onnx_fusions import QuantizedNode
from refquant.readers.onnx_layers import geometry_of, overhang_of
from refquant.readers.onnx_translation import Operator, axis_behind_batch


def _written(graph: Codes, op: Operator, step: str, zero: str) -> tuple[np.dtype, Coding]:
    """dtype and coding of what an operator writes: the zero point says the dtype, uint8 without."""
    dtype = graph.value(zero, "zero point").dtype if zero else np.dtype(np.uint8)
    if dtype not in (np.int8, np.uint8):
        raise ValueError(f"it must write int8 or uint8, got {dtype}")
    return dtype, graph.coding(step, zero, dtype)


def _as_planes(op: Operator, shape: Shape) -> tuple[int, int, int]:
    """Channels, rows and columns; one axis becomes a plane of one row."""
    if len(shape) == 3:
        op.with_two_axes()
    if len(shape) not in (3, 4):
        raise ValueError(f"its input must be (N, C, H, W) or (N, C, L), got {shape}")
    return shape[1], 1 if len(shape) == 3 else shape[2], shape[-1]


def _weights(graph: Codes, name: str, step: str, zero: str, outputs_axis: int) -> tuple[np.ndarray, Coding]:
    """Constant weights with outputs in front, and their coding; without a step, step 1."""
    values = graph.value(name, "weights")
    if values.dtype not in (np.int8, np.uint8) or values.ndim < 2:
        raise ValueError(f"its weights must be int8 or uint8 of two axes or more, got {values.dtype} {values.shape}")
    values = np.ascontiguousarray(np.moveaxis(values, outputs_axis, 0))
    if step:
        return values, graph.coding(step, zero, values.dtype, len(values))
    z = graph.value(zero, "zero point").ravel() if zero else np.zeros(1, values.dtype)
    if z.dtype != values.dtype or len(z) not in (1, len(values)):
        raise ValueError(f"its zero point must be one {values.dtype}, got {len(z)} of {z.dtype}")
    return values, Coding(np.ones(len(z), np.float32), z.astype(np.int64))


def _bias(graph: Codes, name: str, outputs: int, inputs: list[int]) -> None:
    if name:
        values = graph.value(name, "bias")
        if values.dtype != np.int32 or values.size != outputs:
            raise ValueError(f"its bias must be {outputs} of int32, got {values.dtype} {values.shape}")
        inputs.append(graph.constant(name, values.reshape(-1), Coding()))


def _conv(graph: Codes, kind: str, op: Operator) -> None:
    if kind == "QLinearConv":
        x, xs, xz, w, ws, wz, ys, yz, bias = op.inputs[:9]
    else:
        (x, w, xz, wz), xs, ws, ys, yz, bias = op.inputs[:4], "", "", "", "", ""
    values, coding = _weights(graph, w, ws, wz, 0)
    read = _read_layer(graph, x, xs, xz)
    shape = graph.shape(x)
    channels, rows, columns = _as_planes(op, shape)
    kernel = (1, values.shape[2]) if values.ndim == 3 else values.shape[2:4]
    if values.ndim != len(shape) or op.window("kernel_shape", kernel) != kernel:
        raise ValueError(f"its weights must be (O, C/groups, ...) of the input's axes and kernel_shape theirs, got "
                         f"{values.shape}")
    geometry = geometry_of(op, (rows, columns), kernel)
    geometry = Geometry.of(geometry.stride, geometry.padding, geometry.dilation, op.take("group", int, 1))
    geometry.check_shapes((1, channels, rows, columns), (*values.shape[:2], *kernel))
    size = geometry.output_size(rows, columns, kernel)
    inputs = [read, graph.constant(w, values, coding)]
    _bias(graph, bias, len(values), inputs)
    out = (1, len(values), *(size[1:] if len(shape) == 3 else size))
    dtype, end = (np.dtype(np.int32), Coding()) if not ys else _written(graph, op, ys, yz)
    graph.finish(kind, op, inputs, out, dtype, end, Geometry=geometry)


def _float_conv(graph: Codes, kind: str, op: Operator) -> None:
    """Conv of planes that the runtime leaves in floats."""
    x, w, bias = op.inputs[:3]
    values, shape = graph.value(w, "weights"), graph.shape(x)
    read = graph.read(x)
    if graph.dtype_of(x) != np.float32 or values.dtype != np.float32 or values.ndim != 4 or len(shape) != 4:
        raise ValueError(f"in floats it must read planes and weights (O, C, R, S), got {shape} and {values.shape}")
    kernel = (values.shape[2], values.shape[3])
    if op.window("kernel_shape", kernel) != kernel:
        raise ValueError(f"attribute kernel_shape must be the weight's {kernel}")
    geometry = geometry_of(op, (shape[2], shape[3]), kernel)._replace(groups=op.take("group", int, 1))
    if geometry.groups < 1:
        raise ValueError(f"group must be 1 or more, got {geometry.groups}")
    geometry.check_shapes(shape, values.shape)
    inputs = [read, graph.constant(w, values, Coding())]
    if bias:
        held = graph.value(bias, "bias")
        if held.dtype != np.float32 or held.shape != (len(values),):
            raise ValueError(f"its bias must be {len(values)} of float32, got {held.dtype} {held.shape}")
        inputs.append(graph.constant(bias, held, Coding()))
    size = geometry.output_size(shape[2], shape[3], kernel)
    graph.finish(kind, op, inputs, (1, len(values), *size), np.float32, Coding(), Geometry=geometry)


def _read_layer(graph: Codes, x: str, xs: str, xz: str) -> int:
    """The input of a layer; an Integer operator says its zero point alone."""
    if xs:
        return graph.read(x, xs, xz)
    index = graph.read(x)
    held, dtype = graph.coding_of(x), graph.dtype_of(x)
    z = graph.value(xz, "zero point").ravel() if xz else np.zeros(1, dtype)
    if dtype not in (np.int8, np.uint8) or z.dtype != dtype or len(z) != 1:
        raise ValueError(f"it must read int8 or uint8 with one zero point, got {dtype} and {len(z)} of {z.dtype}")
    if held.zero.size and held.zero[0] != int(z[0]):
        raise ValueError(f"it must read {x!r} with its zero point {held.zero[0]}, got {z[0]}")
    if not held.zero.size:
        held.step, held.zero = np.ones(1, np.float32), z.astype(np.int64)
    return index


def _matrix(graph: Codes, kind: str, op: Operator) -> None:
    """QGemm, QLinearMatMul, MatMulInteger and MatMulIntegerToFloat with constant weights behind."""
    bias = ys = yz = xs = ws = ""
    alpha = 1.0
    outputs_axis = 1
    if kind == "QGemm":
        x, xs, xz, w, ws, wz, bias, ys, yz = op.inputs[:9]
        alpha, outputs_axis = op.take("alpha", float, 1.0), 1 - op.flag("transB")
        if op.flag("transA"):
            raise ValueError("transA must be 0, got 1")
        op.take("beta", float, 1.0)
    elif kind == "QLinearMatMul":
        x, xs, xz, w, ws, wz, ys, yz = op.inputs[:8]
    elif kind == "MatMulInteger":
        x, w, xz, wz = op.inputs[:4]
    else:
        x, w, xs, ws, xz, wz, bias = op.inputs[:7]
        if bias:
            raise ValueError("its bias of floats is not supported")
    values, coding = _weights(graph, w, ws, wz, outputs_axis)
    read, shape = _read_layer(graph, x, xs, xz), graph.shape(x)
    if values.ndim != 2 or len(shape) < 2 or shape[-1] != values.shape[1] or (kind == "QGemm" and len(shape) != 2):
        raise ValueError(f"its operands must be rows of {values.shape[1]} and a matrix, got {shape} and weights for "
                         f"{values.shape}")
    inputs = [read, graph.constant(w, values, coding)]
    _bias(graph, bias, len(values), inputs)
    dtype, end = (np.dtype(np.int32 if kind == "MatMulInteger" else np.float32), Coding()) if (
        not ys) else _written(graph, op, ys, yz)
    graph.finish(kind, op, inputs, (*shape[:-1], len(values)), dtype, end, Alpha=alpha)


def _quantize(graph: Codes, kind: str, op: Operator) -> None:
    x, step, zero = op.inputs[:3]
    _no_axis(op)
    if kind == "QuantizeLinear":
        if graph.dtype_of(x) != np.float32 or x in graph.constants:
            raise ValueError(f"it must quantize computed float32, got {graph.dtype_of(x)}")
        dtype, end = _written(graph, op, step, zero)
        graph.finish(kind, op, [graph.read(x)], graph.shape(x), dtype, end)
    else:
        graph.finish(kind, op, [graph.read(x, step, zero)], graph.shape(x), np.float32, Coding())


def _no_axis(op: Operator) -> None:
    """Attributes that do not matter with one scale."""
    op.take("axis", int, 1)
    if op.take("block_size", int, 0) or op.take("output_dtype", int, 0) not in (0, 2, 3):
        raise ValueError("blocks and other types than int8 and uint8 are not supported")
    op.take("saturate", int, 1)
    op.take("precision", int, 0)


def _two(graph: Codes, kind: str, op: Operator) -> None:
    a, sa, za, b, sb, zb, ys, yz = op.inputs[:8]
    inputs = [graph.read(a, sa, za, constant=True), graph.read(b, sb, zb, constant=True)]
    dtype, end = _written(graph, op, ys, yz)
    graph.finish(kind, op, inputs, broadcast(graph, op, a, b, dtype), dtype, end)


def _concat(graph: Codes, kind: str, op: Operator) -> None:
    given = [name for name in op.inputs if name]
    if kind == "Concat":
        names, inputs = given, [graph.read(name, constant=True) for name in given]
        dtype, end = graph.dtype_of(names[0]), Coding()
        if dtype.kind != "f":
            raise ValueError("codes are joined by QLinearConcat")
    else:
        names = [*op.inputs[2::3]]
        names = names[:names.index("")]
        if not names or any(op.inputs[2 + 3 * len(names):]):
            raise ValueError(f"it must join tensors, each with a scale and a zero point, got {len(names)}")
        dtype, end = _written(graph, op, *op.inputs[:2])
        inputs = [graph.read(*op.inputs[2 + 3 * k:5 + 3 * k], constant=True) for k in range(len(names))]
    shapes = [graph.shape(name) for name in names]
    axis = 1 + axis_behind_batch(op.take("axis", int, 0), len(shapes[0]))
    rest = {(len(s), s[:axis], s[axis + 1:]) for s in shapes}
    if len(rest) != 1 or any(graph.dtype_of(name) != dtype for name in names) or all(
            name in graph.constants for name in names):
        raise ValueError(f"it must join tensors of one dtype behind the batch, got shapes {shapes[:4]}")
    shape = (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1:])
    graph.finish(kind, op, inputs, shape, dtype, end, Axis=axis)


def _unary(graph: Codes, kind: str, op: Operator) -> None:
    x, xs, xz, ys, yz = op.inputs[:5]
    inputs, shape = [graph.read(x, xs, xz)], graph.shape(x)
    dtype, end = _written(graph, op, ys, yz)
    if graph.dtype_of(x) != dtype:
        raise ValueError(f"it must read and write one dtype, got {graph.dtype_of(x)} and {dtype}")
    options: dict[str, Any] = {}
    if kind == "QLinearLeakyRelu":
        options["Alpha"] = op.take("alpha", float, 0.01)
    elif kind == "QLinearSoftmax":
        version = op.take("opset", int, graph.version)
        axis = 1 + axis_behind_batch(op.take("axis", int, -1 if version >= 13 else 1), len(shape))
        options.update(Axis=axis, OneAxis=version >= 13)
    elif kind != "QLinearSigmoid":
        if op.flag("channels_last"):
            raise ValueError("channels_last must be 0, got 1")
        options, shape = _pooled(kind, op, shape)
    graph.finish(kind, op, inputs, shape, dtype, end, **options)


def _pooled(kind: str, op: Operator, shape: Shape) -> tuple[dict[str, Any], Shape]:
    if kind == "QLinearGlobalAveragePool":
        if len(shape) < 3:
            raise ValueError(f"its input must be (N, C, H, W), got {shape}")
        return {}, (*shape[:2], *[1] * (len(shape) - 2))
    channels, rows, columns = _as_planes(op, shape)
    kernel = op.window("kernel_shape", (0, 0))
    geometry = geometry_of(op, (rows, columns), (kernel[0], kernel[1]))
    if op.flag("ceil_mode"):
        if overhang_of((rows, columns), (kernel[0], kernel[1]), geometry) != (0, 0):
            raise ValueError("ceil_mode is not supported where windows reach beyond the padding")
    if min(kernel) < 1 or any(p >= k for p, k in zip(geometry.padding, (*kernel, *kernel))):
        raise ValueError(f"its pads must be smaller than its kernel {kernel}, got {geometry.padding}")
    size = geometry.output_size(rows, columns, (kernel[0], kernel[1]))
    return ({"Geometry": geometry, "Kernel": (kernel[0], kernel[1]), "CountPadding": op.flag("count_include_pad")},
            (1, channels, *(size[1:] if len(shape) == 3 else size)))


def _max_pool(graph: Codes, kind: str, op: Operator) -> None:
    x = op.inputs[0]
    read = graph.read(x)
    op.flag("storage_order")
    options, shape = _pooled(kind, op, graph.shape(x))
    graph.finish(kind, op, [read], shape, graph.dtype_of(x), graph.coding_of(x), **options)


_MICROSOFT = ("MatMulIntegerToFloat", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
              "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax")
# How many inputs each must have.
_INPUTS = {"QLinearConv": 8, "ConvInteger": 2, "QGemm": 6, "QLinearMatMul": 8, "MatMulInteger": 2,
           "MatMulIntegerToFloat": 4, "QuantizeLinear": 2, "DequantizeLinear": 2, "QLinearAdd": 7, "QLinearMul": 7,
           "QLinearConcat": 5, "QLinearAveragePool": 4, "QLinearGlobalAveragePool": 5, "QLinearLeakyRelu": 4,
           "QLinearSigmoid": 4, "QLinearSoftmax": 4, "Conv": 2}
_TAKEN: dict[str, Callable[[Codes, str, Operator], None]] = {
    **{kind: _conv for kind in ("QLinearConv", "ConvInteger")},
    **{kind: _matrix for kind in ("QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat")},
    **{kind: _quantize for kind in ("QuantizeLinear", "DequantizeLinear")},
    **{kind: _two for kind in ("QLinearAdd", "QLinearMul")},
    **{kind: _concat for kind in ("QLinearConcat", "Concat")},
    **{kind: _unary for kind in ("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu",
                                 "QLinearSigmoid", "QLinearSoftmax")},
    "Conv": _float_conv,
    "MaxPool": _max_pool,
    **{kind: in_floats for kind in FLOATS if kind != "Concat"},
    **{kind: move for kind in MOVES},
}


def take(graph: Codes, node: QuantizedNode) -> None:
    """Add one node to the model. ValueError for an unsupported operator."""
    kind = node.kind.removeprefix("com.microsoft.")
    if node.kind in ("Gemm", "MatMul", "AveragePool", "GlobalAveragePool", "Softmax", "Sigmoid"):
        raise ValueError("the runtime computes it in floats, whose sums have an order of their own; it is not "
                         "supported")
    if kind not in _TAKEN or (node.kind != kind) != (kind in _MICROSOFT):
        raise ValueError(f"the operator is not supported, only {', '.join(sorted(_TAKEN))}")
    least = 1 if kind in MOVES or kind in FLOATS or kind == "MaxPool" else _INPUTS[kind]
    if len(node.inputs) < least or not all(node.inputs[:1]):
        raise ValueError(f"it must have {least} inputs, got {len(node.inputs)}")
    op = Operator(kind, node.outputs, node.inputs + ("",) * 12, node.attributes)
    _TAKEN[kind](graph, kind, op)
    op.refuse_rest()
