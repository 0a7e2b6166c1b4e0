"""Running a quantized model as a kernel set computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from refquant.runtimes.kernels import rule_of
from refquant.runtimes.model import Operation, QuantizedModel, Tensor


def run_model(model: QuantizedModel, inputs: Any, kernel_set: str = "litert-ref") -> dict[int, np.ndarray]:
    """The codes of every computed tensor, by its index in the file; inputs too.

    inputs: integers (N, ...) of the model's input, which has one image in the file, in its layout and dtype.
    kernel_set: one of ``kernels.KERNEL_SETS``. ValueError for other shapes and dtypes.
    """
    return dict(tensors_of(model, inputs, kernel_set))


def held(x: np.ndarray) -> np.ndarray:
    """What rules are given: codes as int64, floats as they are."""
    return x if x.dtype.kind == "f" else x.astype(np.int64, copy=False)


def repeated(tensor: Tensor, count: int, rank: int) -> np.ndarray:
    """A constant's codes with ``rank`` axes, once for each input."""
    assert tensor.values is not None
    values = tensor.values.astype(np.int64).reshape((1,) * (rank - tensor.values.ndim) + tensor.shape)
    return np.broadcast_to(values, (count, *values.shape[1:]))


def operands(model: QuantizedModel, operation: Operation, known: Mapping[int, np.ndarray], count: int
             ) -> list[np.ndarray]:
    """What a rule is given: the computed tensors it reads and, where operands may be constants, these too."""
    rank = len(model.tensors[operation.outputs[0]].shape)
    described = [model.tensors[index] for index in operation.inputs if index >= 0]
    constant = operation.kind in ("ADD", "MUL", "CONCATENATION")  # whose operands may be
    return [held(known[t.index]) if t.index in known else repeated(t, count, rank) for t in described
            if t.index in known or constant]


def tensors_of(model: QuantizedModel, inputs: Any, kernel_set: str = "litert-ref"
               ) -> Iterator[tuple[int, np.ndarray]]:
    """Each tensor with its index, in the order in which they are computed; arguments as for ``run_model``."""
    if len(model.inputs) != 1:
        raise ValueError(f"the model must have one input, got {len(model.inputs)}")
    entry, inputs = model.tensors[model.inputs[0]], np.asarray(inputs)
    x_q = inputs
    if inputs.dtype != entry.dtype or x_q.shape[1:] != entry.shape[1:] or x_q.size == 0:
        raise ValueError(f"inputs must be {entry.dtype} (N, {', '.join(map(str, entry.shape[1:]))}), as the model "
                         f"reads them, got {inputs.dtype} {inputs.shape}")
    rules = [rule_of(kernel_set, operation.kind, str(model.tensors[operation.inputs[0]].dtype))
             for operation in model.operations]
    known = {entry.index: held(x_q)}
    yield entry.index, np.asarray(inputs)
    for operation, rule in zip(model.operations, rules):
        described = [model.tensors[index] for index in operation.inputs if index >= 0]
        written = model.tensors[operation.outputs[0]]
        codes = operands(model, operation, known, len(x_q))
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # as runtimes do
                y = rule(operation, described, written, codes)
        except (ValueError, IndexError, ZeroDivisionError, AssertionError, OverflowError) as error:
            said = str(error) or type(error).__name__
            raise ValueError(f"operator {operation.kind} of tensor {written.name!r} does not fit what it reads: "
                             f"{' '.join(said.split())}") from None
        if y.shape[1:] != written.shape[1:]:
            raise ValueError(f"tensor {written.name!r} must have the shape that {operation.kind} gives, "
                             f"(N, {', '.join(map(str, y.shape[1:]))}), got {written.shape}")
        known[written.index] = held(y)
        yield written.index, y.astype(written.dtype)
