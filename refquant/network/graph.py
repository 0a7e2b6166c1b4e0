"""A float CNN as a graph of named tensors.

A node computes one tensor, named after the node, from tensors computed before it. Every tensor has a batch axis N in
front, which shapes here leave out: (C, H, W), or (F,) after Flatten. More nodes are in ``moves`` and ``pointwise``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import ClassVar

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.integers.checks import finite, is_integer, one_of
from refquant.integers.formats import frozen_copy

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: ``name`` is also its output tensor's, ``inputs`` are the tensors it reads."""

    name: str
    inputs: tuple[str, ...]
    arity: ClassVar[int | None] = 1  # how many inputs; None for one or more

    def __post_init__(self) -> None:
        if isinstance(self.inputs, str):
            object.__setattr__(self, "inputs", (self.inputs,))
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if str(parameter.type).startswith("np.ndarray") and value is not None:
                object.__setattr__(self, parameter.name, frozen_copy(finite(value, parameter.name)))
            if parameter.type == "tuple[int, ...]" and not (isinstance(value, tuple) and all(map(is_integer, value))):
                raise ValueError(f"{parameter.name} must be a tuple of integers, got {value!r}")
        self.check()

    def check(self) -> None:
        """ValueError unless the parameters fit each other."""

    @property
    def output(self) -> str:
        """The tensor that it computes."""
        return self.name

    def output_shape(self, *shapes: Shape) -> Shape:
        """The output's shape from the inputs'; ValueError where they do not fit."""
        return shapes[0]


def _expect_planes(shape: Shape) -> None:
    if len(shape) != 3:
        raise ValueError(f"input must be (C, H, W) planes, got shape {shape}")


@dataclass(frozen=True, eq=False)
class Conv(Node):
    """Convolution; a 1x1 kernel also reads flat tensors (F,). weight: (O, C/groups, R, S); bias: (O,) or None."""

    weight: np.ndarray
    bias: np.ndarray | None = None
    geometry: Geometry = Geometry()

    def check(self) -> None:
        if self.weight.ndim != 4 or self.weight.size == 0:
            raise ValueError(f"weight must be a non-empty (O, C/groups, R, S), got shape {self.weight.shape}")
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(f"bias must have shape {self.weight.shape[:1]}, got {self.bias.shape}")
        Geometry.of(*self.geometry)  # refuses what no kernel can do

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) == 1 and self.weight.shape[2:] == (1, 1):
            planes = self.output_shape((*shapes[0], 1, 1))
            if planes[1:] != (1, 1):
                raise ValueError(f"of a flat tensor the output must be flat too, got planes {planes[1:]}")
            return planes[:1]
        _expect_planes(shapes[0])
        self.geometry.check_shapes((1, *shapes[0]), self.weight.shape)
        return (len(self.weight), *self.geometry.output_size(shapes[0][1], shapes[0][2], self.weight.shape[2:]))


@dataclass(frozen=True, eq=False)
class Linear(Node):
    """Fully connected layer y = x·Wᵀ + bias. weight: (O, F); bias: (O,) or None."""

    weight: np.ndarray
    bias: np.ndarray | None = None

    def check(self) -> None:
        if self.weight.ndim != 2 or self.weight.size == 0:
            raise ValueError(f"weight must be a non-empty (O, F), got shape {self.weight.shape}")
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(f"bias must have shape {self.weight.shape[:1]}, got {self.bias.shape}")

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes[0] != self.weight.shape[1:]:
            raise ValueError(f"input must have shape {self.weight.shape[1:]}, got {shapes[0]}")
        return self.weight.shape[:1]


@dataclass(frozen=True, eq=False)
class BatchNorm(Node):
    """y = gamma·(x - mean)/sqrt(variance + epsilon) + beta, per channel. All arrays: (C,)."""

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float = 1e-5

    def check(self) -> None:
        shapes = {a.shape for a in (self.gamma, self.beta, self.mean, self.variance)}
        if len(shapes) != 1 or self.gamma.ndim != 1:
            raise ValueError(f"gamma, beta, mean and variance must share one shape (C,), got {sorted(shapes)}")
        if not (self.variance >= 0).all() or not (self.variance + self.epsilon > 0).all():
            raise ValueError(f"variance must be >= 0 and variance + epsilon > 0, got a smallest variance of "
                             f"{self.variance.min()} with epsilon {self.epsilon}")

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes[0][:1] != self.gamma.shape:
            raise ValueError(f"input must have {len(self.gamma)} channels, got shape {shapes[0]}")
        return shapes[0]


@dataclass(frozen=True, eq=False)
class Clip(Node):
    """y = min(max(x, low), high), None for no limit. ReLU: low 0, high None; ReLU6: low 0, high 6."""

    low: float | None = 0.0
    high: float | None = None

    def check(self) -> None:
        limits = [limit for limit in (self.low, self.high) if limit is not None]
        if not np.isfinite(limits).all() or limits != sorted(limits):
            raise ValueError(f"clip needs finite low <= high, got {self.low} and {self.high}")


@dataclass(frozen=True, eq=False)
class MaxPool(Node):
    """Maximum over windows; padding never wins."""

    kernel: tuple[int, int]
    geometry: Geometry = Geometry()

    def check(self) -> None:
        kernel = np.asarray(self.kernel)
        if kernel.shape != (2,) or kernel.dtype.kind not in "iu" or kernel.min() < 1:
            raise ValueError(f"kernel must be two integers >= 1, got {self.kernel!r}")
        Geometry.of(*self.geometry)
        if self.geometry.groups != 1:
            raise ValueError(f"pooling has no groups, got {self.geometry.groups}")

    def output_shape(self, *shapes: Shape) -> Shape:
        _expect_planes(shapes[0])
        rows, columns = self._seen(shapes[0][1:])
        if not (rows.all() and columns.all()):
            raise ValueError(f"every window must see the input, got padding {self.geometry.padding} "
                             f"for kernel {self.kernel}")
        return (shapes[0][0], len(rows), len(columns))

    def _seen(self, plane: Shape, around: tuple[int, int, int, int] = (0, 0, 0, 0)) -> tuple[np.ndarray, np.ndarray]:
        """How many rows and how many columns of an (H, W) plane with ``around`` it each window sees: (P,), (Q,)."""
        seen = []
        for axis, windows in enumerate(self.geometry.output_size(plane[0], plane[1], self.kernel)):
            start = np.arange(windows) * self.geometry.stride[axis] - self.geometry.padding[axis]
            # start + r·dilation < end for ceil((end - start)/dilation) values of r, cut to 0..kernel.
            first, last = (np.clip(-((start - end) // self.geometry.dilation[axis]), 0, self.kernel[axis])
                           for end in (-around[axis], plane[axis] + around[axis + 2]))
            seen.append(last - first)
        return seen[0], seen[1]


@dataclass(frozen=True, eq=False)
class AveragePool(MaxPool):
    """Mean over windows; ``count_include_pad`` says whether padding counts as zeros or not at all.

    overhang: how many of the bottom rows and right columns of the padding never count, because they are
    there only to round the output's size up, as ONNX's ceil_mode does.
    """

    count_include_pad: bool = False
    overhang: tuple[int, int] = (0, 0)

    def check(self) -> None:
        super().check()
        overhang, after = np.asarray(self.overhang), np.asarray(self.geometry.padding[2:])
        if overhang.shape != (2,) or overhang.dtype.kind not in "iu" or ((overhang < 0) | (overhang > after)).any():
            raise ValueError(f"overhang must be two integers within the bottom and right padding "
                             f"{self.geometry.padding[2:]}, got {self.overhang!r}")

    def counts(self, plane: Shape) -> np.ndarray:
        """The divisor of each mean: (P, Q) integers."""
        if not self.count_include_pad:
            return np.outer(*self._seen(plane))
        top, left, bottom, right = self.geometry.padding
        return np.outer(*self._seen(plane, (top, left, bottom - self.overhang[0], right - self.overhang[1])))


@dataclass(frozen=True, eq=False)
class GlobalAveragePool(Node):
    """Mean over H and W: (C, H, W) to (C, 1, 1)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        _expect_planes(shapes[0])
        return (shapes[0][0], 1, 1)


@dataclass(frozen=True, eq=False)
class Add(Node):
    """Sum of two tensors; axes of size 1 broadcast."""

    arity = 2

    def output_shape(self, *shapes: Shape) -> Shape:
        return broadcast_shape(*shapes)


def broadcast_shape(*shapes: Shape) -> Shape:
    """The common shape of tensors with as many axes; axes of size 1 broadcast."""
    if len({len(shape) for shape in shapes}) != 1 or any(len({*sizes} - {1}) > 1 for sizes in zip(*shapes)):
        raise ValueError(f"shapes must broadcast (equal sizes, or 1, on each axis), got "
                         f"{' and '.join(map(str, shapes))}")
    return tuple(map(max, zip(*shapes)))


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """Tensors one after another along ``axis``, 0 being the channels."""

    arity = None
    axis: int = 0

    def output_shape(self, *shapes: Shape) -> Shape:
        axis = self.axis
        if not 0 <= axis < len(shapes[0]) or len({(*shape[:axis], None, *shape[axis + 1:]) for shape in shapes}) != 1:
            raise ValueError(f"concat takes tensors that differ only in {'channels' if axis == 0 else f'axis {axis}'}"
                             f", got {', '.join(map(str, shapes))}")
        return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1:])


@dataclass(frozen=True, eq=False)
class Flatten(Node):
    """(C, H, W) to (C·H·W,)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return (int(np.prod(shapes[0])),)


@dataclass(frozen=True, eq=False)
class Final(Node):
    """A function that only a network's end may have, and that stays in floats.

    kind: ``softmax``, y = exp(x) / Σ exp(x) along ``axis``; ``log_softmax``; ``sigmoid``; or ``argmax``, the place of
    the largest value along ``axis``, which then has one element.
    """

    kind: str = "softmax"
    axis: int = 0

    def check(self) -> None:
        one_of(self.kind, ("softmax", "log_softmax", "sigmoid", "argmax"), "kind")

    def output_shape(self, *shapes: Shape) -> Shape:
        if not 0 <= self.axis < len(shapes[0]):
            raise ValueError(f"axis must be one of shape {shapes[0]}, got {self.axis}")
        one = (1,) if self.kind == "argmax" else shapes[0][self.axis:self.axis + 1]
        return (*shapes[0][:self.axis], *one, *shapes[0][self.axis + 1:])


class Softmax(Final):
    """Softmax along ``axis``."""


@dataclass(frozen=True, eq=False)
class Network:
    """A float CNN: nodes in an order in which every tensor is computed before it is read.

    input_shape: (C, H, W), (F,) or any other. output: the tensor that is the result, by default the last node's.
    others: further results. Raises ValueError, naming the node, for a tensor used before it is computed, a name
    used twice, shapes that do not fit, and a Softmax that is not an output.
    """

    input_shape: Shape
    nodes: tuple[Node, ...]
    output: str = ""
    input: str = "input"
    others: tuple[str, ...] = ()
    shapes: dict[str, Shape] = field(init=False)  # by tensor name

    def __post_init__(self) -> None:
        shape = np.asarray(self.input_shape)
        if shape.ndim != 1 or not 1 <= shape.size <= 7 or shape.dtype.kind not in "iu" or shape.min() < 1:
            raise ValueError(f"input_shape must be (C, H, W) or (F,), or up to 7 integers, got {self.input_shape}")
        object.__setattr__(self, "input_shape", tuple(int(v) for v in shape))
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not self.nodes:
            raise ValueError("a network must have at least one node, got none")
        object.__setattr__(self, "output", self.output or self.nodes[-1].name)
        object.__setattr__(self, "shapes", self._infer_shapes())
        if unknown := [name for name in self.outputs if name not in self.shapes]:
            raise ValueError(f"output must be a tensor of the network, got {unknown[0]!r}")
        for node in self.nodes:
            if isinstance(node, Final) and (node.name not in self.outputs or self._readers(node.name)):
                raise ValueError(f"node {node.name!r}: a {type(node).__name__} must be the network's output and read "
                                 f"by no node")

    @property
    def outputs(self) -> tuple[str, ...]:
        """All results, the first one first."""
        return (self.output, *self.others)

    def _infer_shapes(self) -> dict[str, Shape]:
        known = {self.input: self.input_shape}
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"tensor names must differ, got {node.name!r} twice")
            if len(node.inputs) != node.arity if node.arity else not node.inputs:
                wanted = {1: "one tensor", 2: "two tensors", None: "one or more tensors"}[node.arity]
                raise ValueError(f"node {node.name!r}: {type(node).__name__} reads {wanted}, got {node.inputs}")
            if any(name not in known for name in node.inputs):
                raise ValueError(f"node {node.name!r} must read tensors computed before it, got {node.inputs}")
            try:
                known[node.name] = node.output_shape(*(known[name] for name in node.inputs))
            except ValueError as error:
                raise ValueError(f"node {node.name!r}: {error}") from None
        return known

    def only_reader(self, tensor: str) -> Node | None:
        """The node that reads ``tensor``, if there is just one and the tensor is not the output."""
        readers = self._readers(tensor)
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def _readers(self, tensor: str) -> list[Node]:
        return [node for node in self.nodes if tensor in node.inputs]

    def without_softmax(self) -> Network:
        """The network that ends at its Softmax's input, as integer networks do; ValueError if no node is left."""
        finals = {node.name: node.inputs[0] for node in self.nodes if isinstance(node, Final)}
        nodes = [node for node in self.nodes if node.name not in finals]
        if not nodes:
            raise ValueError(f"a network must have a node before its Softmax, got only {list(finals)}")
        return self.replace_nodes(nodes, *dict.fromkeys(finals.get(name, name) for name in self.outputs))

    def replace_nodes(self, nodes: Iterable[Node], *outputs: str) -> Network:
        """The same input with other nodes. outputs: by default those of this one."""
        output, *others = outputs or self.outputs
        return Network(self.input_shape, tuple(nodes), output, self.input, tuple(others))
