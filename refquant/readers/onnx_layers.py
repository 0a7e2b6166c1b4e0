"""ONNX's layers with weights, and its windows: Conv, ConvTranspose, Gemm, MatMul, BatchNormalization, pools."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.network.graph import AveragePool, BatchNorm, Conv, GlobalAveragePool, Linear, MaxPool, Node, Shape
from refquant.network.moves import Slice, Spread
from refquant.readers.onnx_translation import Operator, Padding, Translation, axis_behind_batch

# --- layers with weights ------------------------------------------------------------------------------------------

def conv(op: Operator, graph: Translation) -> None:
    """Conv of one or two axes, with the Pad before it."""
    name, source, around, weight = _planes_and_weight(op, graph)
    bias = graph.floats(op.inputs[2]) if op.has_input(2) else None
    kernel = weight.shape[2:]
    said = op.window("kernel_shape", kernel)
    if said != kernel:
        raise ValueError(f"attribute kernel_shape must be the weight's {kernel}, got {said}")
    height, width = graph.plane(source)
    geometry = geometry_of(op, (height + around[0] + around[2], width + around[1] + around[3]), kernel)
    padding = tuple(a + b for a, b in zip(around, geometry.padding))
    geometry = Geometry.of(geometry.stride, padding, geometry.dilation, op.take("group", int, 1))
    graph.add(Conv(name, (source,), weight, bias, geometry))
    _back_to_one_axis(op, graph, name)


def _planes_and_weight(op: Operator, graph: Translation) -> tuple[str, str, Padding, np.ndarray]:
    """The name for the layer, what it reads and what goes around that, and its weight; one axis as one row."""
    weight, padded = graph.floats(op.inputs[1]), graph.padded.get(op.inputs[0])
    if weight.ndim not in (3, 4):
        raise ValueError(f"weight must be (O, C/groups, R, S) or (O, C/groups, S), as only 1-D and 2-D convolution "
                         f"is supported, got shape {weight.shape}")
    if weight.ndim == 4:
        return op.name, *(padded or (graph.tensor(op.inputs[0]), (0, 0, 0, 0))), weight
    return f"{op.name}:row", _as_row(op, graph), (0, 0, 0, 0), weight[:, :, None]


def _as_row(op: Operator, graph: Translation) -> str:
    """(C, L) as planes of one row."""
    source = graph.tensor(op.inputs[0])
    shape = graph.shapes[source]
    if len(shape) != 2:
        raise ValueError(f"input must be (N, C, L), got (N, {', '.join(map(str, shape))})")
    op.with_two_axes()
    return graph.reshape(f"{op.name}:in", source, (shape[0], 1, shape[1]))


def _back_to_one_axis(op: Operator, graph: Translation, name: str) -> None:
    if name != op.name:
        channels, _, length = graph.shapes[name]
        graph.reshape(op.name, name, (channels, length))


def conv_transpose(op: Operator, graph: Translation) -> None:
    """Zeros between the inputs, then a convolution with the kernel turned round."""
    name, source, around, weight = _planes_and_weight(op, graph)
    if any(around):
        source = graph.tensor(op.inputs[0])
    kernel, groups = weight.shape[2:], op.take("group", int, 1)
    if op.window("kernel_shape", kernel) != kernel or op.take("auto_pad", bytes, b"NOTSET") != b"NOTSET":
        raise ValueError("attribute kernel_shape must be the weight's, and auto_pad NOTSET")
    stride, dilation = op.window("strides", (1, 1)), op.window("dilations", (1, 1))
    pads, more = op.window("pads", (0, 0, 0, 0)), op.window("output_padding", (0, 0))
    if groups < 1 or len(weight) % groups or min(stride + dilation) < 1:
        raise ValueError(f"group must divide the {len(weight)} input channels, and strides and dilations be 1 or "
                         f"more, got {groups}, {stride} and {dilation}")
    # (C, O/groups, R, S) to (O, C/groups, R, S), turned by 180 degrees.
    weight = weight.reshape(groups, len(weight) // groups, *weight.shape[1:]).swapaxes(1, 2)
    weight = weight.reshape(-1, *weight.shape[2:])[:, :, ::-1, ::-1]
    reach = [(k - 1) * d for k, d in zip(kernel, dilation)]
    padding = [reach[0] - pads[0], reach[1] - pads[1], reach[0] - pads[2] + more[0], reach[1] - pads[3] + more[1]]
    spread = graph.add(Spread(f"{name}:spread", (source,), (1, *stride)))
    crop = [max(0, -p) for p in padding]
    if any(crop):
        _, height, width = graph.shapes[spread]
        spread = graph.add(Slice(f"{name}:cut", (spread,), (0, crop[0], crop[1]), (
            graph.shapes[spread][0], height - crop[2], width - crop[3]), (1, 1, 1)))
    inside = [max(0, p) for p in padding]
    bias = graph.floats(op.inputs[2]) if op.has_input(2) else None
    graph.add(Conv(name, (spread,), np.ascontiguousarray(weight), bias,
                   Geometry.of((1, 1), tuple(inside), dilation, groups)))
    _back_to_one_axis(op, graph, name)


def gemm(op: Operator, graph: Translation) -> None:
    """Gemm with constant weights."""
    if op.flag("transA"):
        raise ValueError("transA 1 is not supported, only 0")
    weight = graph.floats(op.inputs[1])
    if weight.ndim != 2:
        raise ValueError(f"weight must be a matrix, got shape {weight.shape}")
    weight = _times(op.take("alpha", float, 1.0), weight if op.flag("transB") else weight.T)
    beta, bias = op.take("beta", float, 1.0), None
    if op.has_input(2):
        bias = _times(beta, one_per_channel(graph.floats(op.inputs[2]), (len(weight),)))
    graph.add(Linear(op.name, (graph.tensor(op.inputs[0]),), weight, bias))


def _times(factor: float, x: np.ndarray) -> np.ndarray:
    return x if factor == 1 else (factor * x.astype(np.float64)).astype(x.dtype)


def matmul(op: Operator, graph: Translation) -> None:
    """MatMul with a constant matrix behind it."""
    weight = graph.floats(op.inputs[1])
    if weight.ndim != 2:
        raise ValueError(f"the second factor must be a matrix, got shape {weight.shape}")
    source = graph.tensor(op.inputs[0])
    shape = graph.shapes[source]
    if len(shape) == 1:
        graph.add(Linear(op.name, (source,), weight.T))
        return
    # Along the last axis: a 1x1 convolution, for which that axis comes first.
    rank, rest = len(shape), math.prod(shape[:-1])
    first = graph.transpose(f"{op.name}:first", source, (rank - 1, *range(rank - 1)))
    planes = graph.reshape(f"{op.name}:planes", first, (shape[-1], rest, 1))
    graph.add(Conv(f"{op.name}:conv", (planes,), np.ascontiguousarray(weight.T)[:, :, None, None]))
    wide = graph.reshape(f"{op.name}:wide", f"{op.name}:conv", (weight.shape[1], *shape[:-1]))
    graph.transpose(op.name, wide, (*range(1, rank), 0))


def one_per_channel(x: np.ndarray, shape: Shape) -> np.ndarray:
    """(O,) numbers from an array that broadcasts to one image of (O, P, Q) or (O,) and differs along O alone."""
    wanted = (1, shape[0], *(1,) * (len(shape) - 1))
    try:
        return np.broadcast_to(x, wanted).reshape(-1)
    except ValueError:
        raise ValueError(f"a constant addend must broadcast to {wanted}, got shape {x.shape}") from None


def batchnorm(op: Operator, graph: Translation) -> None:
    """BatchNormalization as inference has it."""
    if op.flag("training_mode") or not op.flag("spatial", 1):
        raise ValueError("only inference per channel is supported: training_mode 0, spatial 1")
    op.take("momentum", float, 0.9)  # matters in training alone
    gamma, beta, mean, variance = map(graph.floats, op.inputs[1:])
    source, epsilon = graph.tensor(op.inputs[0]), op.take("epsilon", float, 1e-5)
    as_planes(graph, op.name, source, lambda name, x: BatchNorm(name, (x,), gamma, beta, mean, variance, epsilon))


def as_planes(graph: Translation, name: str, source: str, make: Callable[[str, str], Node]) -> None:
    """A node that works on planes or flat tensors, with the axes of others joined around it."""
    shape = graph.shapes[source]
    if len(shape) in (1, 3):
        graph.add(make(name, source))
        return
    planes = graph.reshape(f"{name}:planes", source, (shape[0], math.prod(shape[1:]), 1))
    graph.add(make(f"{name}:of planes", planes))
    graph.reshape(name, f"{name}:of planes", shape)


# --- windows ------------------------------------------------------------------------------------------------------

def geometry_of(op: Operator, plane: tuple[int, int], kernel: tuple[int, int]) -> Geometry:
    """Strides, dilations, pads and auto_pad of a window."""
    stride, dilation = op.window("strides", (1, 1)), op.window("dilations", (1, 1))
    geometry = Geometry.of(stride, op.window("pads", (0, 0, 0, 0)), dilation)
    auto = op.take("auto_pad", bytes, b"NOTSET")
    if auto not in (b"NOTSET", b"VALID", b"SAME_UPPER", b"SAME_LOWER"):
        raise ValueError(f"attribute auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto!r}")
    if auto != b"NOTSET" and any(geometry.padding):
        raise ValueError(f"auto_pad {auto.decode()} and pads {geometry.padding} contradict each other")
    if auto in (b"NOTSET", b"VALID"):
        return geometry
    if geometry.dilation != (1, 1):
        raise ValueError("auto_pad SAME with dilations is not supported, as runtimes disagree about it")
    # As many windows as strides begin within the input; an odd row or column goes to the end with SAME_UPPER.
    totals = [(-(-size // step) - 1) * step + k - size for size, step, k in zip(plane, stride, kernel)]
    if min(totals) <= -3:
        raise ValueError(f"auto_pad {auto.decode()} must come to a total padding of -2 or more, as onnxruntime pads "
                         f"negatively below, got {min(totals)} for kernel {kernel}, strides {stride}, input {plane}")
    missing = [max(0, total) for total in totals]  # one or two left out are the last ones: nothing is padded
    less, more = [m // 2 for m in missing], [m - m // 2 for m in missing]
    before, after = (less, more) if auto == b"SAME_UPPER" else (more, less)
    return geometry._replace(padding=(before[0], before[1], after[0], after[1]))


def pool(op: Operator, graph: Translation) -> None:
    """MaxPool and AveragePool of one or two axes."""
    source, name = graph.tensor(op.inputs[0]), op.name
    if len(graph.shapes[source]) == 2:
        source, name = _as_row(op, graph), f"{op.name}:row"
    plane = graph.plane(source)
    rows, columns = op.window("kernel_shape", (0, 0))
    geometry = geometry_of(op, plane, (rows, columns))
    overhang = overhang_of(plane, (rows, columns), geometry) if op.flag("ceil_mode") else (0, 0)
    top, left, bottom, right = geometry.padding
    geometry = geometry._replace(padding=(top, left, bottom + overhang[0], right + overhang[1]))
    if op.kind == "AveragePool":
        graph.add(AveragePool(name, (source,), (rows, columns), geometry, op.flag("count_include_pad"), overhang))
    else:
        op.flag("storage_order")  # of the indices, which nobody can ask for
        graph.add(MaxPool(name, (source,), (rows, columns), geometry))
    _back_to_one_axis(op, graph, name)


def global_pool(op: Operator, graph: Translation) -> None:
    """GlobalAveragePool and GlobalMaxPool, over all axes behind the channels."""
    source = graph.tensor(op.inputs[0])
    shape = graph.shapes[source]
    if len(shape) < 2:
        raise ValueError(f"input must be (N, C, H, W) planes, got (N, {shape[0]})")
    planes = source if len(shape) == 3 else graph.reshape(
        f"{op.name}:planes", source, (shape[0], math.prod(shape[1:]), 1))
    name = op.name if len(shape) == 3 else f"{op.name}:of planes"
    graph.add(GlobalAveragePool(name, (planes,)) if op.kind == "GlobalAveragePool" else
              MaxPool(name, (planes,), graph.plane(planes)))
    if name != op.name:
        graph.reshape(op.name, name, (shape[0], *[1] * (len(shape) - 1)))


def reduce_mean(op: Operator, graph: Translation) -> None:
    """ReduceMean and ReduceSum over any axes but the batch."""
    source = graph.tensor(op.inputs[0])
    shape = graph.shapes[source]
    axes = graph.integers(op.inputs[1]) if op.has_input(1) else op.integers("axes", ())
    keep = op.flag("keepdims", 1)
    if not axes and op.flag("noop_with_empty_axes"):
        graph.same[op.name] = source
        return
    op.flag("noop_with_empty_axes")
    if not axes:
        raise ValueError("the mean must be over axes behind the batch, got all axes")
    gone = tuple(sorted({axis_behind_batch(axis, len(shape) + 1, "axes") for axis in axes}))
    left = [axis for axis in range(len(shape)) if axis not in gone]
    whole = tuple(1 if axis in gone else size for axis, size in enumerate(shape))
    wanted = whole if keep else tuple(shape[axis] for axis in left) or (1,)
    name = op.name if gone == (1, 2) and len(shape) == 3 and keep and op.kind == "ReduceMean" else f"{op.name}:mean"
    planes = source
    if gone != (1, 2) or len(shape) != 3:
        first = graph.transpose(f"{op.name}:order", source, (*left, *gone))
        planes = graph.reshape(f"{op.name}:planes", first, (
            math.prod(shape[axis] for axis in left), math.prod(shape[axis] for axis in gone), 1))
    count = math.prod(graph.shapes[planes][1:])
    mean = graph.add(GlobalAveragePool(name, (planes,)))
    if op.kind == "ReduceSum":
        channels = graph.shapes[mean][0]
        gain, zero = np.full(channels, count, np.float32), np.zeros(channels, np.float32)
        mean = graph.add(BatchNorm(f"{op.name}:sum", (mean,), gain, zero, zero, np.ones_like(zero), 0.0))
    if mean != op.name:
        graph.reshape(op.name, mean, wanted)


def overhang_of(plane: tuple[int, int], kernel: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    """The rows and columns that the last window needs beyond the padding where the output's size is rounded up."""
    beyond = []
    for axis in (0, 1):
        before, after, step = geometry.padding[axis], geometry.padding[axis + 2], geometry.stride[axis]
        slack = plane[axis] + before + after - (kernel[axis] - 1) * geometry.dilation[axis] - 1
        last = -(-slack // step)  # this window begins at last·step, which must lie before the end of the input
        last -= last * step >= plane[axis] + before
        beyond.append(max(0, last * step - slack) if last >= 0 else 0)
    return beyond[0], beyond[1]
