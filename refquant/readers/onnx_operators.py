"""The ONNX operators that can be read, one short function each: from a node of a file to graph nodes.

Only the meaning of operators is here; ``onnx_file`` reads the files. An attribute that a function did not ask for is
refused, so that nothing is silently left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.network.graph import (
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Shape,
    Softmax,
)
from refquant.readers.onnx_translation import MAX_PADDING, Operator, Translation

# --- layers with weights ------------------------------------------------------------------------------------------

def _conv(op: Operator, graph: Translation) -> None:
    source, around = graph.padded.get(op.inputs[0]) or (graph.tensor(op.inputs[0]), (0, 0, 0, 0))
    weight = graph.floats(op.inputs[1])
    bias = graph.floats(op.inputs[2]) if op.has_input(2) else None
    if weight.ndim != 4:
        raise ValueError(f"weight must be (O, C/groups, R, S), as only 2-D convolution is supported, "
                         f"got shape {weight.shape}")
    kernel = weight.shape[2:]
    said = op.window("kernel_shape", kernel)
    if said != kernel:
        raise ValueError(f"attribute kernel_shape must be the weight's {kernel}, got {said}")
    height, width = graph.plane(source)
    geometry = _geometry(op, (height + around[0] + around[2], width + around[1] + around[3]), kernel)
    padding = tuple(a + b for a, b in zip(around, geometry.padding))
    geometry = Geometry.of(geometry.stride, padding, geometry.dilation, op.take("group", int, 1))
    graph.add(Conv(op.name, (source,), weight, bias, geometry))


def _gemm(op: Operator, graph: Translation) -> None:
    if op.flag("transA"):
        raise ValueError("transA 1 is not supported, only 0")
    weight = graph.floats(op.inputs[1])
    if weight.ndim != 2:
        raise ValueError(f"weight must be a matrix, got shape {weight.shape}")
    weight = _times(op.take("alpha", float, 1.0), weight if op.flag("transB") else weight.T)
    beta, bias = op.take("beta", float, 1.0), None
    if op.has_input(2):
        bias = _times(beta, _one_per_channel(graph.floats(op.inputs[2]), (len(weight),)))
    graph.add(Linear(op.name, (graph.tensor(op.inputs[0]),), weight, bias))


def _times(factor: float, x: np.ndarray) -> np.ndarray:
    return x if factor == 1 else (factor * x.astype(np.float64)).astype(x.dtype)


def _matmul(op: Operator, graph: Translation) -> None:
    weight = graph.floats(op.inputs[1])
    if weight.ndim != 2:
        raise ValueError(f"the second factor must be a matrix, got shape {weight.shape}")
    graph.add(Linear(op.name, (graph.tensor(op.inputs[0]),), weight.T))


def _one_per_channel(x: np.ndarray, shape: Shape) -> np.ndarray:
    """(O,) numbers from an array that broadcasts to one image of (O, P, Q) or (O,) and differs along O alone."""
    wanted = (1, shape[0], *(1,) * (len(shape) - 1))
    try:
        return np.broadcast_to(x, wanted).reshape(-1)
    except ValueError:
        raise ValueError(f"a constant addend must broadcast to {wanted}, got shape {x.shape}") from None


def _batchnorm(op: Operator, graph: Translation) -> None:
    if op.flag("training_mode") or not op.flag("spatial", 1):
        raise ValueError("only inference per channel is supported: training_mode 0, spatial 1")
    op.take("momentum", float, 0.9)  # matters in training alone
    gamma, beta, mean, variance = map(graph.floats, op.inputs[1:])
    graph.add(BatchNorm(op.name, (graph.tensor(op.inputs[0]),), gamma, beta, mean, variance,
                        op.take("epsilon", float, 1e-5)))


# --- windows ------------------------------------------------------------------------------------------------------

def _geometry(op: Operator, plane: tuple[int, int], kernel: tuple[int, int]) -> Geometry:
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


def _pool(op: Operator, graph: Translation) -> None:
    source = graph.tensor(op.inputs[0])
    plane = graph.plane(source)
    rows, columns = op.window("kernel_shape", (0, 0))
    geometry = _geometry(op, plane, (rows, columns))
    overhang = _overhang(plane, (rows, columns), geometry) if op.flag("ceil_mode") else (0, 0)
    top, left, bottom, right = geometry.padding
    geometry = geometry._replace(padding=(top, left, bottom + overhang[0], right + overhang[1]))
    if op.kind == "AveragePool":
        graph.add(AveragePool(op.name, (source,), (rows, columns), geometry, op.flag("count_include_pad"), overhang))
    else:
        op.flag("storage_order")  # of the indices, which nobody can ask for
        graph.add(MaxPool(op.name, (source,), (rows, columns), geometry))


def _overhang(plane: tuple[int, int], kernel: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    """The rows and columns that the last window needs beyond the padding where the output's size is rounded up."""
    beyond = []
    for axis in (0, 1):
        before, after, step = geometry.padding[axis], geometry.padding[axis + 2], geometry.stride[axis]
        slack = plane[axis] + before + after - (kernel[axis] - 1) * geometry.dilation[axis] - 1
        last = -(-slack // step)  # this window begins at last·step, which must lie before the end of the input
        last -= last * step >= plane[axis] + before
        beyond.append(max(0, last * step - slack) if last >= 0 else 0)
    return beyond[0], beyond[1]


def _pad(op: Operator, graph: Translation) -> None:
    source, mode = graph.tensor(op.inputs[0]), op.take("mode", bytes, b"constant")
    value = graph.number(op.inputs[2]) if op.has_input(2) else op.take("value", float, 0.0)
    if mode != b"constant" or value != 0:
        raise ValueError(f"only padding with the constant 0 is supported, got mode {mode!r} with {value:g}")
    rank = len(graph.shapes[source]) + 1
    axes = graph.integers(op.inputs[3]) if op.has_input(3) else tuple(range(rank))
    pads = graph.integers(op.inputs[1]) if op.has_input(1) else op.integers("pads", ())
    axes = tuple(axis + rank if axis < 0 else axis for axis in axes)
    if rank != 4 or len(pads) != 2 * len(axes) or len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2, 3}:
        raise ValueError(f"pads must be two integers for each of the axes of (N, C, H, W) planes, got {len(pads)} "
                         f"for axes {axes[:8]} of {rank}")
    begins, ends = (dict(zip(axes, half)) for half in (pads[:len(axes)], pads[len(axes):]))
    batch_and_channels = [around.get(axis, 0) for around in (begins, ends) for axis in (0, 1)]
    padding = tuple(around.get(axis, 0) for around in (begins, ends) for axis in (2, 3))
    if any(batch_and_channels) or not all(0 <= p <= MAX_PADDING for p in padding):
        raise ValueError(f"only H and W can be padded, by 0 to {MAX_PADDING}, got {pads}")
    graph.padded[op.name] = source, (padding[0], padding[1], padding[2], padding[3])


# --- everything else ----------------------------------------------------------------------------------------------

def _relu(op: Operator, graph: Translation) -> None:
    graph.add(Clip(op.name, (graph.tensor(op.inputs[0]),)))


def _clip(op: Operator, graph: Translation) -> None:
    low, high = (graph.number(op.inputs[index]) if op.has_input(index) else op.take(attribute, float, default)
                 for index, attribute, default in ((1, "min", -math.inf), (2, "max", math.inf)))
    # Old operator sets write the largest float32 for "no limit".
    largest = float(np.finfo(np.float32).max)
    graph.add(Clip(op.name, (graph.tensor(op.inputs[0]),), None if low <= -largest else low,
                   None if high >= largest else high))


def _global_average_pool(op: Operator, graph: Translation) -> None:
    graph.add(GlobalAveragePool(op.name, (graph.tensor(op.inputs[0]),)))


def _reduce_mean(op: Operator, graph: Translation) -> None:
    source = graph.tensor(op.inputs[0])
    graph.plane(source)
    axes = graph.integers(op.inputs[1]) if op.has_input(1) else op.integers("axes", ())
    op.flag("noop_with_empty_axes")
    if sorted(axis + 4 if axis < 0 else axis for axis in axes) != [2, 3]:
        raise ValueError(f"only the mean over H and W is supported, got axes {axes[:8]}")
    if op.flag("keepdims", 1):
        graph.add(GlobalAveragePool(op.name, (source,)))
    else:
        mean = f"{op.name}:planes"  # two of the graph's nodes
        graph.add(GlobalAveragePool(mean, (source,)))
        graph.add(Flatten(op.name, (mean,)))


def _add(op: Operator, graph: Translation) -> None:
    constants = [name for name in op.inputs if name in graph.constants]
    if not constants:
        graph.add(Add(op.name, tuple(map(graph.tensor, op.inputs))))
        return
    other = op.inputs[op.inputs[0] == constants[0]]
    layer = graph.nodes.get(other)
    if not isinstance(layer, (Conv, Linear)) or graph.readers[other] != 1:
        raise ValueError(f"the constant {constants[0]!r} can only be added to the output of a Conv, Gemm or MatMul "
                         f"that nothing else reads")
    addend = _one_per_channel(graph.floats(constants[0]), graph.shapes[other])
    bias = addend if layer.bias is None else layer.bias + addend
    del graph.nodes[other], graph.shapes[other]
    graph.add(replace(layer, name=op.name, bias=bias.astype(layer.weight.dtype)))


def _concat(op: Operator, graph: Translation) -> None:
    inputs = tuple(map(graph.tensor, op.inputs))
    _expect_axis_1(op, graph, inputs[0], None)
    graph.add(Concat(op.name, inputs))


def _expect_axis_1(op: Operator, graph: Translation, source: str, default: int | None) -> None:
    axis, rank = op.take("axis", int, default), len(graph.shapes[source]) + 1
    if axis not in (1, 1 - rank):
        raise ValueError(f"axis must be 1, got {axis} for a tensor of {rank} axes")


def _flatten(op: Operator, graph: Translation) -> None:
    source = graph.tensor(op.inputs[0])
    _expect_axis_1(op, graph, source, 1)
    graph.add(Flatten(op.name, (source,)))


def _reshape(op: Operator, graph: Translation) -> None:
    source, target = graph.tensor(op.inputs[0]), graph.integers(op.inputs[1])
    features = math.prod(graph.shapes[source])
    batches = (-1, 1) if op.flag("allowzero") else (-1, 0, 1)
    if len(target) != 2 or target[0] not in batches or target[1] not in (-1, features) or target == (-1, -1):
        raise ValueError(f"only a reshape to (N, {features}) is supported, got {target[:8]}")
    graph.add(Flatten(op.name, (source,)))


def _softmax(op: Operator, graph: Translation) -> None:
    source = graph.tensor(op.inputs[0])
    _expect_axis_1(op, graph, source, 1)  # on flat tensors the default of old and new operator sets
    graph.add(Softmax(op.name, (source,)))


def _identity(op: Operator, graph: Translation) -> None:
    source = op.inputs[0]
    if op.kind == "Dropout":
        op.take("ratio", float, 0.5)
        op.take("seed", int, 0)
        if op.has_input(2) and graph.flag(op.inputs[2]):
            raise ValueError("only inference is supported: training_mode false")
    if source in graph.constants:
        graph.constants[op.name] = graph.constants[source]
    else:
        graph.same[op.name] = graph.tensor(source)


def _constant(op: Operator, graph: Translation) -> None:
    value = op.take("value", partial, None)  # a tensor, read when it is needed
    for attribute, kind, dtype in (("value_float", float, np.float32), ("value_floats", list, np.float32),
                                   ("value_int", int, np.int64), ("value_ints", list, np.int64)):
        plain = op.take(attribute, kind, None)
        if plain is not None:
            value = partial(np.array, plain, dtype)
    op.refuse_rest()
    if value is None:
        raise ValueError("it must have a value, got none")
    graph.constants[op.name] = value


# operator: (its function, fewest inputs, most inputs)
OPERATORS: dict[str, tuple[Callable[[Operator, Translation], None], int, int]] = {
    "Add": (_add, 2, 2),
    "AveragePool": (_pool, 1, 1),
    "BatchNormalization": (_batchnorm, 5, 5),
    "Clip": (_clip, 1, 3),
    "Concat": (_concat, 1, 2**16),
    "Constant": (_constant, 0, 0),
    "Conv": (_conv, 2, 3),
    "Dropout": (_identity, 1, 3),
    "Flatten": (_flatten, 1, 1),
    "Gemm": (_gemm, 2, 3),
    "GlobalAveragePool": (_global_average_pool, 1, 1),
    "Identity": (_identity, 1, 1),
    "MatMul": (_matmul, 2, 2),
    "MaxPool": (_pool, 1, 1),
    "Pad": (_pad, 1, 4),
    "ReduceMean": (_reduce_mean, 1, 2),
    "Relu": (_relu, 1, 1),
    "Reshape": (_reshape, 2, 2),
    "Softmax": (_softmax, 1, 1),
}


def translate(operator: Operator, graph: Translation) -> None:
    """Add what ``operator`` means to the graph; ValueError if it is not supported."""
    if operator.kind not in OPERATORS:
        raise ValueError(f"operator {operator.kind} is not supported, only {', '.join(OPERATORS)}")
    function, least, most = OPERATORS[operator.kind]
    if not least <= len(operator.inputs) <= most or "" in operator.inputs[:least]:
        raise ValueError(f"it must have {least if least == most else f'{least} to {most}'} inputs, "
                         f"got {len([name for name in operator.inputs if name])}")
    function(operator, graph)
    operator.refuse_rest()
