"""ONNX's operators that work value by value, and what may stand at a network's end.

A function of one tensor is one expression (``network.pointwise``): x·sigmoid(x) in two nodes becomes SiLU, and a
number that multiplies or is added joins the function before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from refquant.network.graph import Add, BatchNorm, Clip, Conv, Final, Linear, Softmax
from refquant.network.pointwise import Expression, Largest, Mul, Pointwise, X, compose
from refquant.readers.onnx_layers import as_planes, one_per_channel
from refquant.readers.onnx_translation import Operator, Translation, axis_behind_batch

_LARGEST = float(np.finfo(np.float32).max)
_MAX_OPERATIONS = 64  # of one node: each join can double an expression, n joins make 2^n
_HALF_ERF = ("affine", 0.5, 0.5, ("erf", ("affine", math.sqrt(0.5), 0.0, X)))
_CUBIC = ("affine", 2 * math.sqrt(2 / math.pi), 0.0, ("add", X, (
    "affine", 0.044715, 0.0, ("mul", X, ("mul", X, X)))))  # twice the argument of tanh: (1 + tanh a)/2 = sigmoid 2a


# The expression of each operator of one tensor; attributes are taken from the operator.
FUNCTIONS: dict[str, Callable[[Operator], Expression]] = {
    "Abs": lambda op: ("abs", X),
    "Elu": lambda op: ("elu", op.take("alpha", float, 1.0), X),
    "Erf": lambda op: ("erf", X),
    "Exp": lambda op: ("exp", X),
    "Gelu": lambda op: ("mul", X, ("sigmoid", _CUBIC) if op.take("approximate", bytes, b"none") == b"tanh"
                        else _HALF_ERF),
    "HardSigmoid": lambda op: ("clip", 0.0, 1.0, ("affine", op.take("alpha", float, 0.2), op.take("beta", float, 0.5),
                                                  X)),
    "HardSwish": lambda op: ("mul", X, ("clip", 0.0, 1.0, ("affine", 1 / 6, 0.5, X))),
    "LeakyRelu": lambda op: ("leaky", op.take("alpha", float, 0.01), X),
    "Mish": lambda op: ("mul", X, ("tanh", ("softplus", X))),
    "Neg": lambda op: ("affine", -1.0, 0.0, X),
    "Sigmoid": lambda op: ("sigmoid", X),
    "Softplus": lambda op: ("softplus", X),
    "Sqrt": lambda op: ("sqrt", X),
    "Tanh": lambda op: ("tanh", X),
}


def function(op: Operator, graph: Translation) -> None:
    """An operator of FUNCTIONS; Sigmoid at the network's end stays in floats."""
    if op.kind == "Sigmoid" and op.name in graph.outputs and graph.readers[op.name] == 1:
        graph.add(Final(op.name, (graph.tensor(op.inputs[0]),), "sigmoid"))
    else:
        _apply(FUNCTIONS[op.kind](op), op.name, graph.tensor(op.inputs[0]), graph)


def _apply(expression: Expression, name: str, source: str, graph: Translation) -> None:
    """A function of a tensor, joined with the function or number before it where nothing else reads that."""
    before = graph.nodes.get(source)
    inner: Expression = X
    if isinstance(before, Pointwise) and graph.alone(source):
        inner = before.expression
    elif source in graph.scalars and graph.alone(source):
        inner = ("affine", *graph.scalars[source], X)
    joined = compose(expression, inner)
    if before is not None and inner != X and _operations(joined) <= _MAX_OPERATIONS:
        expression, source = joined, before.inputs[0]
    graph.add(Pointwise(name, (source,), expression))


def _operations(expression: Expression) -> int:
    """How many operations a walk through the expression meets: a shared part counts each time."""
    if not isinstance(expression, tuple) or not isinstance(expression[0], str):
        return 0
    return 1 + sum(map(_operations, expression[1:]))


def prelu(op: Operator, graph: Translation) -> None:
    """PRelu with one slope, or one per channel."""
    source = graph.tensor(op.inputs[0])
    shape, slope = graph.shapes[source], graph.floats(op.inputs[1])
    if slope.size == 1:
        return _apply(("leaky", slope.item(), X), op.name, source, graph)
    if slope.ndim == 1 and len(shape) > 1:  # as some exporters write it: along the channels
        slope = slope.reshape(-1, *[1] * (len(shape) - 1))
    return _apply(("leaky", tuple(one_per_channel(slope, shape).tolist()), X), op.name, source, graph)


def relu(op: Operator, graph: Translation) -> None:
    """Relu."""
    graph.add(Clip(op.name, (graph.tensor(op.inputs[0]),)))


def clip(op: Operator, graph: Translation) -> None:
    """Clip with constant limits."""
    low, high = (graph.number(op.inputs[index]) if op.has_input(index) else op.take(attribute, float, default)
                 for index, attribute, default in ((1, "min", -math.inf), (2, "max", math.inf)))
    # Old operator sets write the largest float32 for "no limit".
    graph.add(Clip(op.name, (graph.tensor(op.inputs[0]),), None if low <= -_LARGEST else low,
                   None if high >= _LARGEST else high))


def extreme(op: Operator, graph: Translation) -> None:
    """Max and Min of tensors and numbers."""
    least = op.kind == "Min"
    numbers = [graph.number(name) for name in op.inputs if name in graph.constants]
    tensors = [graph.tensor(name) for name in op.inputs if name not in graph.constants]
    for index, other in enumerate(tensors[1:]):
        name = op.name if index == len(tensors) - 2 and not numbers else f"{op.name}:{index}"
        tensors[0] = graph.add(Largest(name, (tensors[0], other), least))
    if numbers:
        limit = min(numbers) if least else max(numbers)
        graph.add(Clip(op.name, (tensors[0],), None if least else limit, limit if least else None))
    elif len(tensors) == 1:
        graph.same[op.name] = tensors[0]


def power(op: Operator, graph: Translation) -> None:
    """Pow with the exponents 1/2, 1, 2 and 3."""
    exponent = graph.number(op.inputs[1])
    known: dict[float, Expression] = {0.5: ("sqrt", X), 1.0: X, 2.0: ("mul", X, X), 3.0: ("mul", X, ("mul", X, X))}
    if exponent not in known:
        raise ValueError(f"the exponent must be 0.5, 1, 2 or 3, got {exponent:g}")
    _apply(known[exponent], op.name, graph.tensor(op.inputs[0]), graph)


# --- arithmetic ---------------------------------------------------------------------------------------------------

def arithmetic(op: Operator, graph: Translation) -> None:
    """Add, Sub, Mul and Div of two tensors, or of a tensor and constants; Sum of several tensors."""
    constants = [name for name in op.inputs if name in graph.constants]
    if not constants:
        return _of_tensors(op, [graph.tensor(name) for name in op.inputs], graph)
    if len(op.inputs) != 2 or len(constants) == 2:
        raise ValueError("only one of two operands may be constant")
    first = op.inputs[0] in graph.constants
    source, values = graph.tensor(op.inputs[first]), graph.floats(constants[0])
    if op.kind in ("Add", "Sum") and _into_bias(op, op.inputs[first], constants[0], values, graph):
        return None
    if op.kind == "Div" and first:
        raise ValueError("a constant divided by a tensor is not supported")
    if op.kind == "Div" and not values.all():
        raise ValueError(f"{constants[0]!r} must not be 0 where it divides")
    gain = (values if op.kind == "Mul" else 1 / values.astype(np.float64) if op.kind == "Div" else
            np.full_like(values, -1 if op.kind == "Sub" and first else 1))
    shift = (np.zeros_like(values) if op.kind in ("Mul", "Div") else
             -values if op.kind == "Sub" and not first else values)
    return _affine(op.name, source, gain.astype(np.float64), shift.astype(np.float64), graph)


def _into_bias(op: Operator, name: str, constant: str, addend: np.ndarray, graph: Translation) -> bool:
    """Whether a constant addend went into the bias of the layer before, which nothing else reads."""
    layer = graph.nodes.get(name)
    if not isinstance(layer, (Conv, Linear)) or not graph.alone(name) or name in graph.same:
        return False
    try:
        addend = one_per_channel(addend, graph.shapes[name])
    except ValueError:
        return False
    bias = addend if layer.bias is None else layer.bias + addend
    del graph.nodes[name], graph.shapes[name]
    graph.add(replace(layer, name=op.name, bias=bias.astype(layer.weight.dtype)))
    return True


def _affine(name: str, source: str, gain: np.ndarray, shift: np.ndarray, graph: Translation) -> None:
    """gain·x + shift, for constants that broadcast to x."""
    shape = graph.shapes[source]
    try:
        np.broadcast_to(gain, (1, *shape))
    except ValueError:
        raise ValueError(f"a constant must broadcast to (1, {', '.join(map(str, shape))}), got shape {gain.shape}"
                         ) from None
    one = (1,) * (len(shape) + 1 - gain.ndim)
    gain, shift = (values.reshape(one + values.shape)[0] for values in (gain, shift))
    before = graph.nodes.get(source)
    if gain.size == 1:
        a, b = gain.item(), shift.item()
        if (isinstance(before, Pointwise) and graph.alone(source)) or len(shape) not in (1, 3):
            return _apply(("affine", a, b, X), name, source, graph)
        graph.scalars[name] = a, b
    along = [axis for axis, size in enumerate(gain.shape) if size > 1]
    if len(along) > 1:  # each value has a number of its own
        flat = graph.reshape(f"{name}:flat", source, (math.prod(shape),))
        gain, shift = (np.broadcast_to(values, shape).ravel() for values in (gain, shift))
        _norm(f"{name}:norm", flat, gain, shift, graph)
        graph.reshape(name, f"{name}:norm", shape)
        return None
    axis = along[0] if along else 0
    gain, shift = (np.broadcast_to(values.ravel(), shape[axis]) for values in (gain, shift))
    if axis == 0:
        return _norm(name, source, gain, shift, graph)
    order = (axis, *(k for k in range(len(shape)) if k != axis))
    first = graph.transpose(f"{name}:first", source, order)
    _norm(f"{name}:norm", first, gain, shift, graph)
    graph.transpose(name, graph.same.get(f"{name}:norm", f"{name}:norm"), tuple(int(k) for k in np.argsort(order)))
    return None


def _norm(name: str, source: str, gain: np.ndarray, shift: np.ndarray, graph: Translation) -> None:
    """One gain and one shift for each place of axis 0: a batch normalization, which is folded like others."""
    zero = np.zeros(len(gain), np.float32)
    as_planes(graph, name, source, lambda name, x: BatchNorm(
        name, (x,), gain.astype(np.float32), shift.astype(np.float32), zero, zero + 1, 0.0))


def _of_tensors(op: Operator, tensors: list[str], graph: Translation) -> None:
    if op.kind == "Div":
        raise ValueError("a tensor divided by a tensor is not supported")
    if op.kind == "Sub":
        _apply(("affine", -1.0, 0.0, X), f"{op.name}:minus", tensors[1], graph)
        tensors[1] = f"{op.name}:minus"
    if len(tensors) == 1:
        graph.same[op.name] = tensors[0]
        return
    for index, other in enumerate(tensors[1:]):
        name = op.name if index == len(tensors) - 2 else f"{op.name}:{index}"
        tensors[0] = _pair(name, "mul" if op.kind == "Mul" else "add", tensors[0], other, graph)


def _pair(name: str, kind: str, a: str, b: str, graph: Translation) -> str:
    """A product or a sum; one function where both are functions of one tensor."""
    for left, base in _functions(a, graph):
        for right, other in _functions(b, graph):
            joined = (kind, X, X) if a == b else (kind, left, right)
            if (base == other and (left, right) != (X, X) and _operations(joined) <= _MAX_OPERATIONS) or a == b:
                return graph.add(Pointwise(name, (a if a == b else base,), joined))
    return graph.add(Mul(name, (a, b)) if kind == "mul" else Add(name, (a, b)))


def _functions(name: str, graph: Translation) -> list[tuple[Expression, str]]:
    """The tensor as a function of itself, and of what stands before it."""
    found: list[tuple[Expression, str]] = [(X, name)]
    while len(found) < 16:
        node: Any = graph.nodes.get(found[-1][1])
        if isinstance(node, Pointwise):
            step = node.expression
        elif node is not None and node.name in graph.scalars:
            step = ("affine", *graph.scalars[node.name], X)
        elif isinstance(node, Clip):
            step = ("clip", -_LARGEST if node.low is None else node.low,
                    _LARGEST if node.high is None else node.high, X)
        else:
            break
        joined = compose(found[-1][0], step)
        if _operations(joined) > _MAX_OPERATIONS:
            break
        found.append((joined, node.inputs[0]))
    return found


# --- the end of a network -----------------------------------------------------------------------------------------

def final(op: Operator, graph: Translation) -> None:
    """Softmax, LogSoftmax and ArgMax, at the network's end and in floats.

    An ArgMax keeps its axis. keepdims 0 is taken for flat tensors alone, whose one axis nothing can replace.
    """
    source = graph.tensor(op.inputs[0])
    shape = graph.shapes[source]
    rank = len(shape) + 1
    old = graph.version < 13 and op.kind != "ArgMax"
    axis = op.take("axis", int, 0 if op.kind == "ArgMax" else 1 if old else -1)
    axis = axis_behind_batch(axis, rank)
    if old and math.prod(shape[axis:]) != shape[axis]:
        raise ValueError(f"before operator set 13 it joins all axes from {axis + 1} on, which must have one element "
                         f"each but the first, got {shape}")
    if op.kind == "ArgMax" and op.flag("select_last_index"):
        raise ValueError("select_last_index must be 0, got 1")
    if op.kind == "ArgMax" and not op.flag("keepdims", 1) and len(shape) > 1:
        raise ValueError(f"keepdims must be 1 for an image of several axes, got 0 for {shape}")
    kind = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "ArgMax": "argmax"}[op.kind]
    graph.add(Softmax(op.name, (source,), "softmax", axis) if op.kind == "Softmax" else
              Final(op.name, (source,), kind, axis))
