"""What an ONNX file's operators are translated with: one operator's attributes, and the graph so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refquant.network.graph import Final, Flatten, Network, Node, Shape
from refquant.network.moves import Pad, Reshape, Transpose
from refquant.network.storage import MAX_ELEMENTS

# A file of a few bytes can declare anything; beyond these it is taken for broken.
MAX_PARAMETERS = 2**28  # numbers in all weights together
MAX_PADDING = 2**16  # and stride, dilation, kernel, repetition

Padding = tuple[int, int, int, int]  # top, left, bottom, right


class Operator:
    """One node of a file. inputs: "" for one left out; attributes: Python values. name: of its first output."""

    def __init__(self, kind: str, outputs: tuple[str, ...], inputs: tuple[str, ...], attributes: Mapping[str, Any]
                 ) -> None:
        self.kind, self.outputs, self.inputs, self._attributes = kind, outputs, inputs, dict(attributes)
        self.name = outputs[0]

    def has_input(self, index: int) -> bool:
        """Whether an optional input is there."""
        return len(self.inputs) > index and self.inputs[index] != ""

    def take(self, attribute: str, kind: type, default: Any) -> Any:
        """An attribute's value; ValueError unless it is a ``kind``.

        ``refuse_rest`` refuses attributes that no function took.
        """
        if attribute not in self._attributes:
            return default
        value = self._attributes.pop(attribute)
        if not isinstance(value, kind):
            raise ValueError(f"attribute {attribute} must be of type {kind.__name__}, got {type(value).__name__}")
        return value

    def flag(self, attribute: str, default: int = 0) -> bool:
        """An attribute that is 0 or 1."""
        value = self.take(attribute, int, default)
        if value not in (0, 1):
            raise ValueError(f"attribute {attribute} must be 0 or 1, got {value}")
        return bool(value)

    def integers(self, attribute: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        values = tuple(self.take(attribute, list, list(default)))
        if not all(isinstance(value, int) for value in values):
            raise ValueError(f"attribute {attribute} must be a list of integers, got {values[:8]}")
        return values

    def window(self, attribute: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """As many integers as ``default`` has, of a size that windows can have."""
        values = self.integers(attribute, default)
        if len(values) != len(default) or max(map(abs, values)) > MAX_PADDING:
            raise ValueError(f"attribute {attribute} must be {len(default)} integers up to {MAX_PADDING}, as only "
                             f"2-D windows are supported, got {values[:8]}")
        return values

    def with_two_axes(self) -> None:
        """Windows along one axis become windows of a plane of one row."""
        for attribute, spread in (("kernel_shape", lambda k: [1, *k]), ("strides", lambda s: [1, *s]),
                                  ("dilations", lambda d: [1, *d]), ("pads", lambda p: [0, p[0], 0, p[1]]),
                                  ("output_padding", lambda o: [0, *o])):
            value = self._attributes.get(attribute)
            if isinstance(value, list) and len(value) == 1 + (attribute == "pads"):
                self._attributes[attribute] = spread(value)

    def refuse_rest(self) -> None:
        """ValueError if attributes are left that no function took."""
        for attribute in self._attributes:
            raise ValueError(f"attribute {attribute} is not supported")


def axis_behind_batch(axis: int, rank: int, what: str = "axis") -> int:
    """The axis of a tensor of ``rank`` axes, where 0 is the first one behind the batch."""
    if not -rank <= axis < rank or axis % rank == 0:
        raise ValueError(f"{what} must be one of 1 to {rank - 1}, behind the batch, got {axis}")
    return axis % rank - 1


class Translation:
    """The graph so far, and what the tensor names of the file stand for.

    constants: by name, functions that read an initializer or compute it. readers: how many nodes read each tensor of
    the file, an output counted as one more. batch: the first axis's size where the file fixes it, else 1. version: of
    the operator set. outputs: the tensors that are wanted.
    """

    def __init__(self, source: str, shape: Shape, constants: dict[str, Callable[[], np.ndarray]],
                 readers: Mapping[str, int], batch: int, version: int, outputs: tuple[str, ...]) -> None:
        self.input, self.input_shape = source, shape
        self.batch, self.version, self.outputs = batch, version, outputs
        self.nodes: dict[str, Node] = {}
        self.shapes = {source: shape}
        self.constants, self.readers = constants, readers
        self.same: dict[str, str] = {}  # what Identity and Dropout make: another name for a tensor
        self.padded: dict[str, tuple[str, Padding]] = {}  # what Pad makes: a tensor and what goes around it
        self.scalars: dict[str, tuple[float, float]] = {}  # tensors that are a·x + b of their node's input
        self._parameters = 0

    def network(self) -> Network:
        """The finished network: what its outputs need."""
        outputs = [self.tensor(name) for name in self.outputs]
        needed = set(outputs)
        for node in reversed(self.nodes.values()):
            if node.name in needed:
                needed.update(node.inputs)
        nodes: list[Node] = [node for node in self.nodes.values() if node.name in needed]
        if all(isinstance(node, Final) for node in nodes):  # the input is the output, or its softmax
            same = Reshape(f"{self.input}:same", (self.input,), self.input_shape)
            nodes = [same, *(replace(node, inputs=(same.name,)) for node in nodes)]
            outputs = [same.name if name == self.input else name for name in outputs]
        output, *others = dict.fromkeys(outputs)
        return Network(self.input_shape, tuple(nodes), output, self.input, tuple(others))

    def add(self, node: Node) -> str:
        """Put a node behind those before it; ValueError if it does not fit or is too large. Returns its name."""
        if node.name in self.shapes:
            raise ValueError(f"tensor names must differ, got {node.name!r} twice")
        shape = node.output_shape(*(self.shapes[name] for name in node.inputs))
        if math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"a tensor may have at most {MAX_ELEMENTS} elements, got shape {shape}")
        self._parameters += sum(value.size for value in vars(node).values() if isinstance(value, np.ndarray))
        if self._parameters > MAX_PARAMETERS:
            raise ValueError(f"a network may have at most {MAX_PARAMETERS} parameters, got more")
        self.nodes[node.name], self.shapes[node.name] = node, shape
        return node.name

    def tensor(self, name: str) -> str:
        """The graph's name of the file's computed tensor ``name``."""
        if name in self.constants:
            raise ValueError(f"{name!r} must be computed from the network's input, got a constant")
        name = self.same.get(name, name)
        if name in self.padded:  # read by something else than a Conv
            source, (top, left, bottom, right) = self.padded.pop(name)
            self.add(Pad(name, (source,), (0, top, left), (0, bottom, right)))
        if name not in self.shapes:
            raise ValueError(f"it must read computed tensors, got {name!r}")
        return name

    def alone(self, name: str) -> bool:
        """Whether one node reads the tensor, and it is no output."""
        return self.readers[name] <= 1 and name not in self.outputs

    def reshape(self, name: str, source: str, shape: Shape) -> str:
        """The tensor under another shape; itself where it has it."""
        if self.shapes[source] == shape:
            self.same[name] = source
            return source
        final = self.nodes.get(source)
        if isinstance(final, Final) and [d for d in shape if d > 1] == [d for d in self.shapes[source] if d > 1]:
            # Axes of one element come and go before the softmax, which stays last.
            many = [k for k, size in enumerate(shape) if size > 1]
            before = sum(size > 1 for size in self.shapes[source][:final.axis])
            axis = many[before] if self.shapes[source][final.axis] > 1 else 0
            if final.kind != "argmax" and (axis in many or not many):
                early = self.reshape(f"{name}:early", final.inputs[0], shape)
                return self.add(replace(final, name=name, inputs=(early,), axis=axis))
        if len(shape) == 1:
            return self.add(Flatten(name, (source,)))
        return self.add(Reshape(name, (source,), shape))

    def transpose(self, name: str, source: str, axes: tuple[int, ...]) -> str:
        """The tensor with its axes in another order; two such orders become one."""
        before = self.nodes.get(source)
        if isinstance(before, Transpose):
            source, axes = before.inputs[0], tuple(before.axes[axis] for axis in axes)
        if axes == tuple(range(len(axes))):
            self.same[name] = source
            return source
        return self.add(Transpose(name, (source,), axes))

    def plane(self, name: str) -> tuple[int, int]:
        """Height and width of a tensor of planes."""
        shape = self.shapes[name]
        if len(shape) != 3:
            raise ValueError(f"input must be (N, C, H, W) planes, got (N, {', '.join(map(str, shape))})")
        return shape[1], shape[2]

    def constant(self, name: str) -> np.ndarray:
        """The values of the file's constant ``name``."""
        if name not in self.constants:
            raise ValueError(f"{name!r} must be a constant, got a computed tensor")
        return self.constants[name]()

    def floats(self, name: str) -> np.ndarray:
        """A constant of floats; float16 becomes float32, which holds it."""
        values = self.constant(name)
        if values.dtype.kind != "f":
            raise ValueError(f"{name!r} must hold floats, got {values.dtype}")
        return values.astype(np.float32) if values.dtype == np.float16 else values

    def integers(self, name: str) -> tuple[int, ...]:
        """A constant list of up to eight integers: shapes, axes, pads."""
        values = self.constant(name)
        if values.dtype.kind != "i" or values.ndim != 1 or values.size > 8:
            raise ValueError(f"{name!r} must be up to 8 integers, got {values.dtype} of shape {values.shape}")
        return tuple(values.tolist())

    def number(self, name: str) -> float:
        """A constant that is one float."""
        values = self.floats(name)
        if values.size != 1:
            raise ValueError(f"{name!r} must be one number, got shape {values.shape}")
        return values.item()

    def flag(self, name: str) -> bool:
        """A constant that is one boolean."""
        values = self.constant(name)
        if values.dtype != bool or values.size != 1:
            raise ValueError(f"{name!r} must be one boolean, got shape {values.shape} of {values.dtype}")
        return values.item()
