"""ONNX operators that move codes, and float operators that round once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refquant.readers.onnx_codes import Codes, Coding, Shape
from refquant.readers.onnx_translation import Operator, axis_behind_batch

MOVES = ("Flatten", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
FLOATS = ("Add", "Clip", "Concat", "LeakyRelu", "Mul", "Relu", "Sub")


def broadcast(graph: Codes, op: Operator, a: str, b: str, dtype: np.dtype) -> Shape:
    """The shape of two operands of one dtype together."""
    if graph.dtype_of(a) != dtype or graph.dtype_of(b) != dtype:
        raise ValueError(f"its operands must be {dtype}, got {graph.dtype_of(a)} and {graph.dtype_of(b)}")
    if a in graph.constants and b in graph.constants:
        raise ValueError("one of its operands must be computed")
    shape = np.broadcast_shapes(graph.shape(a), graph.shape(b))
    whole = [graph.shape(name) for name in (a, b) if name not in graph.constants]
    if shape[0] != 1 or any(len(one) != len(shape) for one in whole):
        raise ValueError(f"its operands must broadcast behind the batch, got {graph.shape(a)} and {graph.shape(b)}")
    return shape


def in_floats(graph: Codes, kind: str, op: Operator) -> None:
    """What is rounded once: Add, Sub, Mul, Relu, Clip, LeakyRelu."""
    a, b = op.inputs[:2]
    if graph.dtype_of(a) != np.float32:
        raise ValueError(f"it must read float32, got {graph.dtype_of(a)}")
    options: dict[str, Any] = {}
    two = kind in ("Add", "Sub", "Mul")
    inputs, shape = [graph.read(a, constant=two)], graph.shape(a)
    if two:
        inputs.append(graph.read(b, constant=True))
        shape = broadcast(graph, op, a, b, np.dtype(np.float32))
    elif kind == "LeakyRelu":
        options["Alpha"] = op.take("alpha", float, 0.01)
    else:
        low, high = op.take("min", float, -np.inf), op.take("max", float, np.inf)
        limits = [graph.value(name, "limit").item() if name else held for name, held in zip(op.inputs[1:3],
                                                                                         (low, high))]
        options = {"Low": np.float32(limits[0]), "High": np.float32(limits[1])} if kind == "Clip" else {
            "Low": np.float32(0)}
    graph.finish(kind, op, inputs, shape, np.float32, Coding(), **options)


def _integers(graph: Codes, op: Operator, place: int, attribute: str) -> list[int] | None:
    """A list of integers from an input or an attribute."""
    if op.has_input(place):
        values = graph.value(op.inputs[place], attribute)
        if values.dtype not in (np.int64, np.int32) or values.ndim > 1:
            raise ValueError(f"its {attribute} must be integers, got {values.dtype}")
        return [int(value) for value in values.ravel()]
    found = op.integers(attribute, ())
    return list(found) if found else None


def move(graph: Codes, kind: str, op: Operator) -> None:
    """Add an operator that moves values without changing them."""
    x = op.inputs[0]
    read, old, options = graph.read(x), graph.shape(x), {}
    if kind == "Transpose":
        axes = _integers(graph, op, 1, "perm") or list(range(len(old)))[::-1]
        if sorted(axes) != list(range(len(old))) or axes[0] != 0:
            raise ValueError(f"its axes must leave the batch in front, got {axes[:8]}")
        options, shape = {"Axes": axes}, tuple(old[axis] for axis in axes)
    elif kind == "Slice":
        options, shape = _slice(graph, op, old)
    elif kind == "Pad":
        options, shape = _pad(graph, op, x, old)
    else:
        shape = _reshaped(graph, kind, op, old)
        if shape[0] != 1 or math.prod(shape) != math.prod(old):
            raise ValueError(f"it must leave the batch in front and keep {math.prod(old)} elements, got {shape}")
    graph.finish(kind, op, [read], shape, graph.dtype_of(x), graph.coding_of(x), **options)


def _reshaped(graph: Codes, kind: str, op: Operator, old: Shape) -> Shape:
    if kind == "Identity":
        return old
    if kind == "Flatten":
        axis = op.take("axis", int, 1)
        if not -len(old) <= axis <= len(old):
            raise ValueError(f"axis must be from {-len(old)} to {len(old)}, got {axis}")
        axis = axis + len(old) if axis < 0 else axis
        return math.prod(old[:axis]), math.prod(old[axis:])
    if kind == "Reshape":
        wanted = _integers(graph, op, 1, "shape") or []
        if not op.flag("allowzero"):
            wanted = [old[k] if size == 0 and k < len(old) else size for k, size in enumerate(wanted)]
        if -1 in wanted:
            rest = math.prod(size for size in wanted if size != -1)
            wanted[wanted.index(-1)] = math.prod(old) // max(1, rest)
        return tuple(wanted) if wanted and min(wanted) > 0 else (0,)
    axes = _integers(graph, op, 1, "axes")
    if kind == "Squeeze":
        gone = [k for k, size in enumerate(old) if size == 1 and k] if axes is None else [
            1 + axis_behind_batch(axis, len(old), "axes") for axis in axes]
        if any(old[k] != 1 for k in gone):
            raise ValueError(f"it must take away axes of one element behind the batch, got {gone} of {old}")
        return tuple(size for k, size in enumerate(old) if k not in gone)
    places = {1 + axis_behind_batch(axis, len(old) + len(axes or []), "axes") for axis in axes or []}
    sizes = iter(old)
    return tuple(1 if k in places else next(sizes) for k in range(len(old) + len(places)))


def _slice(graph: Codes, op: Operator, old: Shape) -> tuple[dict[str, Any], Shape]:
    starts, ends = (_integers(graph, op, place, what) or [] for place, what in ((1, "starts"), (2, "ends")))
    axes = _integers(graph, op, 3, "axes") or list(range(len(starts)))
    steps = _integers(graph, op, 4, "steps") or [1] * len(starts)
    slices = [slice(None)] * len(old)
    if not len(starts) == len(ends) == len(axes) == len(steps) or any(
            not -len(old) <= axis < len(old) for axis in axes) or min(steps, default=1) < 1:
        raise ValueError("its starts, ends, axes and steps must be as many, the steps positive")
    for start, end, axis, step in zip(starts, ends, axes, steps):
        slices[axis] = slice(start, end, step)
    shape = tuple(len(range(*part.indices(size))) for part, size in zip(slices, old))
    if shape[0] != 1:
        raise ValueError("it must keep the batch")
    return {"Slices": (slice(None), *slices[1:])}, shape


def _pad(graph: Codes, op: Operator, x: str, old: Shape) -> tuple[dict[str, Any], Shape]:
    if op.take("mode", bytes, b"constant") != b"constant" or op.has_input(3):
        raise ValueError("it must pad with a constant, on every axis")
    pads = _integers(graph, op, 1, "pads") or []
    if len(pads) != 2 * len(old) or min(pads) < 0 or max(pads) > 2**16 or pads[0] or pads[len(old)]:
        raise ValueError(f"its pads must be two for each axis, from 0 to 65536, none for the batch, got {pads[:12]}")
    value = graph.value(op.inputs[2], "value").item() if op.has_input(2) else op.take("value", float, 0.0)
    around = list(zip(pads[:len(old)], pads[len(old):]))
    return {"Around": around, "Value": value}, tuple(size + a + b for size, (a, b) in zip(old, around))
