"""What an ONNX file's operators are translated with: one operator's attributes, and the graph so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refquant.network.graph import Network, Node, Shape

# A file of a few bytes can declare anything; beyond these it is taken for broken.
MAX_ELEMENTS = 2**26  # of one image's tensor
MAX_PARAMETERS = 2**28  # numbers in all weights together
MAX_PADDING = 2**16  # and stride, dilation, kernel

Padding = tuple[int, int, int, int]  # top, left, bottom, right


class Operator:
    """One node of a file. name: of its output tensor; inputs: "" for one left out; attributes: Python values."""

    def __init__(self, kind: str, name: str, inputs: tuple[str, ...], attributes: Mapping[str, Any]) -> None:
        self.kind, self.name, self.inputs, self._attributes = kind, name, inputs, dict(attributes)

    def has_input(self, index: int) -> bool:
        """Whether an optional input is there."""
        return len(self.inputs) > index and self.inputs[index] != ""

    def take(self, attribute: str, kind: type, default: Any) -> Any:
        """An attribute's value; ValueError unless it is a ``kind``. What nobody takes is refused at the end."""
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

    def refuse_rest(self) -> None:
        """ValueError if attributes are left that nobody took."""
        for attribute in self._attributes:
            raise ValueError(f"attribute {attribute} is not supported")


class Translation:
    """The graph so far, and what the tensor names of the file stand for.

    constants: by name, functions that read an initializer. readers: how many nodes read each tensor of
    the file, its output counted as one more.
    """

    def __init__(self, source: str, shape: Shape, constants: dict[str, Callable[[], np.ndarray]],
                 readers: Mapping[str, int]) -> None:
        self.input, self.input_shape = source, shape
        self.nodes: dict[str, Node] = {}
        self.shapes = {source: shape}
        self.constants, self.readers = constants, readers
        self.same: dict[str, str] = {}  # what Identity and Dropout make: another name for a tensor
        self.padded: dict[str, tuple[str, Padding]] = {}  # what Pad makes: a tensor and what goes around it
        self._parameters = 0

    def network(self, output: str) -> Network:
        """The finished network."""
        return Network(self.input_shape, tuple(self.nodes.values()), self.tensor(output), self.input)

    def add(self, node: Node) -> None:
        """Put a node behind those before it; ValueError if it does not fit or is too large."""
        if node.name in self.shapes:
            raise ValueError(f"tensor names must differ, got {node.name!r} twice")
        shape = node.output_shape(*(self.shapes[name] for name in node.inputs))
        if math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"a tensor may have at most {MAX_ELEMENTS} elements, got shape {shape}")
        self._parameters += sum(value.size for value in vars(node).values() if isinstance(value, np.ndarray))
        if self._parameters > MAX_PARAMETERS:
            raise ValueError(f"a network may have at most {MAX_PARAMETERS} parameters, got more")
        self.nodes[node.name], self.shapes[node.name] = node, shape

    def tensor(self, name: str) -> str:
        """The graph's name of the file's computed tensor ``name``."""
        if name in self.constants:
            raise ValueError(f"{name!r} must be computed from the network's input, got a constant")
        name = self.same.get(name, name)
        if name in self.padded:
            raise ValueError(f"{name!r} is the output of a Pad, which only a Conv may read")
        if name not in self.shapes:
            raise ValueError(f"it must read computed tensors, got {name!r}")
        return name

    def plane(self, name: str) -> tuple[int, int]:
        """Height and width of a tensor of planes."""
        shape = self.shapes[name]
        if len(shape) != 3:
            raise ValueError(f"input must be (N, C, H, W) planes, got (N, {shape[0]})")
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
