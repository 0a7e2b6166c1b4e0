"""From an ONNX file's nodes on codes to a ``QuantizedModel``: shapes, steps and zero points of every tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refquant.network.storage import MAX_ELEMENTS
from refquant.readers.onnx_translation import Operator
from refquant.runtimes.model import Operation, QuantizedModel, Tensor

Shape = tuple[int, ...]
_DTYPES = {1: np.float32, 2: np.uint8, 3: np.int8}


@dataclass
class Coding:
    """The step and zero point of a tensor, which those that it is moved to share; empty until somebody says them."""

    step: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    zero: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


class Codes:
    """The model under construction. shapes: of each computed tensor, with a batch of 1."""

    def __init__(self, constants: Mapping[str, np.ndarray], version: int) -> None:
        self.constants, self.version = constants, version
        self.shapes: dict[str, Shape] = {}
        self._dtypes: dict[str, np.dtype] = {}
        self._codings: dict[str, Coding] = {}
        self._indexes: dict[str, int] = {}
        self._held: list[Callable[[], Tensor]] = []
        self._operations: list[Operation] = []

    def model(self, entry: str, outputs: Sequence[str]) -> QuantizedModel:
        """The finished model. ValueError unless its outputs are computed."""
        lost = [name for name in outputs if name not in self.shapes]
        if lost:
            raise ValueError(f"the output {lost[0]!r} must be a tensor that the runtime computes; its optimizations "
                             f"leave it out")
        return QuantizedModel(tuple(make() for make in self._held), tuple(self._operations),
                              (self._indexes[entry],), tuple(self._indexes[name] for name in outputs))

    def enter(self, entry: Any) -> None:
        """The model's input."""
        held = entry.type.tensor_type
        if held.elem_type not in _DTYPES:
            raise ValueError(f"input {entry.name!r} must hold float32, int8 or uint8, got ONNX element type "
                             f"{held.elem_type}")
        dims = [d.dim_value if d.HasField("dim_value") else 0 for d in held.shape.dim[:9]]
        if not 2 <= len(dims) <= 6 or min(dims[1:]) < 1 or dims[0] > 1:
            raise ValueError(f"input {entry.name!r} must have one image or an open batch in front and one to five "
                             f"fixed axes behind it, got {dims}")
        self._add(entry.name, (1, *dims[1:]), np.dtype(_DTYPES[held.elem_type]), Coding())

    # --- tensors --------------------------------------------------------------------------------------------------

    def _add(self, name: str, shape: Shape, dtype: Any, coding: Coding) -> int:
        if len(shape) > 6 or min(shape, default=1) < 1 or math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"tensor {name!r} must have at most 6 axes and 1 to {MAX_ELEMENTS} elements, got "
                             f"{shape}")
        index = len(self._held)
        self._indexes[name], self.shapes[name], self._codings[name] = index, shape, coding
        self._dtypes[name] = np.dtype(dtype)
        self._held.append(lambda: Tensor(index, name, shape, np.dtype(dtype), coding.step, coding.zero))
        return index

    def constant(self, name: str, values: np.ndarray, coding: Coding, axis: int = 0) -> int:
        """A constant, as one operation reads it."""
        index = len(self._held)
        self._held.append(lambda: Tensor(index, name, values.shape, values.dtype, coding.step, coding.zero, axis,
                                         values))
        return index

    def value(self, name: str, what: str) -> np.ndarray:
        """A constant's. ValueError for what is computed."""
        if name not in self.constants:
            raise ValueError(f"its {what} must be constant, got {name!r}")
        return self.constants[name]

    def coding(self, step: str, zero: str, dtype: Any, outputs: int = 1) -> Coding:
        """From the names of a step and of a zero point, "" for 0; ValueError unless they suit codes of ``dtype``."""
        s = self.value(step, "scale").ravel()
        z = self.value(zero, "zero point").ravel() if zero else np.zeros(1, dtype)
        if s.dtype != np.float32 or len(s) not in (1, outputs) or not (np.isfinite(s).all() and (s > 0).all()):
            each = f", or one for each of {outputs} outputs" if outputs > 1 else ""
            raise ValueError(f"its scale {step!r} must be one positive float32{each}, got {s[:4].tolist()}")
        if z.dtype != dtype or len(z) not in (1, outputs):
            raise ValueError(f"its zero point {zero!r} must be one {np.dtype(dtype)}, got {len(z)} of {z.dtype}")
        return Coding(s, np.broadcast_to(z.astype(np.int64), s.shape) if len(z) == 1 else z.astype(np.int64))

    def read(self, name: str, step: str = "", zero: str = "", *, constant: bool = False) -> int:
        """A computed tensor read with this step and zero point; with ``constant`` also a constant."""
        if name in self.constants and not constant:
            raise ValueError(f"it must read a computed tensor, got the constant {name!r}")
        if name in self.constants:
            values = self.constants[name]
            coding = self.coding(step, zero, values.dtype) if step else Coding()
            return self.constant(name, values, coding)
        self._check_known(name)
        if step:
            said, held = self.coding(step, zero, self._dtypes[name]), self._codings[name]
            if self._dtypes[name].kind == "f":
                raise ValueError(f"it must read codes, got floats in {name!r}")
            if not held.step.size:
                held.step, held.zero = said.step, said.zero
            if held.step[0] != said.step[0] or held.zero[0] != said.zero[0]:
                raise ValueError(f"it must read {name!r} with the scale and zero point with which it was written, "
                                 f"{held.step[0]} and {held.zero[0]}, got {said.step[0]} and {said.zero[0]}")
        return self._indexes[name]

    def _check_known(self, name: str) -> None:
        if name not in self.shapes and name not in self.constants:
            raise ValueError(f"it must read tensors that the runtime computes, got {name!r}")

    def shape(self, name: str) -> Shape:
        """With a batch of 1; of a constant as it stands."""
        self._check_known(name)
        return self.constants[name].shape if name in self.constants else self.shapes[name]

    # --- nodes ----------------------------------------------------------------------------------------------------

    def finish(self, kind: str, op: Operator, inputs: Sequence[int], shape: Shape, dtype: Any, coding: Coding,
               **options: Any) -> None:
        """The operation and the tensor that it writes."""
        written = self._add(op.outputs[0], shape, dtype, coding)
        self._operations.append(Operation(kind, tuple(inputs), (written,), options))

    def dtype_of(self, name: str) -> np.dtype:
        """Of a computed tensor or a constant."""
        self._check_known(name)
        return self.constants[name].dtype if name in self.constants else self._dtypes[name]

    def coding_of(self, name: str) -> Coding:
        """The step and zero point that a moved tensor shares."""
        if name not in self._codings:
            raise ValueError(f"it must read a computed tensor, got {name!r}")
        return self._codings[name]
