"""The integer interpreter: codes in, integer sums, requantize, codes out. No float enters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce, singledispatch
from typing import Any

import numpy as np

from refquant.convolution.direct import exact_sums
from refquant.convolution.geometry import pad, taps
from refquant.integers.checks import as_integers
from refquant.integers.devices import dialect_of
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.integers.rounding import shift_right
from refquant.integers.several_sums import requantize_sums, total
from refquant.network.forward import forward
from refquant.network.pointwise_layers import QuantizedLargest, QuantizedMove, QuantizedMul, QuantizedTable
from refquant.network.program import (
    ADD_FORMAT,
    GUARD_BITS,
    ClippedLayer,
    IntegerProgram,
    Layer,
    QuantizedAdd,
    QuantizedAveragePool,
    QuantizedClip,
    QuantizedConcat,
    QuantizedConv,
    QuantizedFlatten,
    QuantizedMaxPool,
)
from refquant.network.qparams import PiecewiseParams, TensorParams

# trace(layer name, stage, values): sees every integer sum before it is requantized.
LayerTrace = Callable[[str, str, np.ndarray], None]


class Context:
    """The qparams of a layer's inputs and output, the dialect, and the trace."""

    def __init__(self, program: IntegerProgram, layer: Layer, trace: LayerTrace | None) -> None:
        self.inputs = [program.qparams[name] for name in layer.inputs]
        self.output: TensorParams = program.qparams[layer.output]
        self.dialect = program.dialect
        self._layer, self._trace = layer.name, trace

    def seen(self, stage: str, values: np.ndarray) -> np.ndarray:
        """Show ``values`` to the trace and pass them on."""
        if self._trace is not None:
            self._trace(self._layer, stage, values)
        return values

    def to_output(self, acc: np.ndarray, multiplier: Multiplier) -> np.ndarray:
        """Sums to the output's register."""
        return requantize(acc, multiplier, self.output.register, self.dialect, self.output.zero_point)

    def of_several(self, sums: list[np.ndarray], multipliers: list[Multiplier]) -> np.ndarray:
        """Several sums, each with its multiplier, to the output's register."""
        if self._trace is not None and dialect_of(self.dialect).shifts:
            self.seen("sum", total(sums, multipliers))
        return requantize_sums(sums, multipliers, self.output.register, self.dialect, self.output.zero_point)

    def clipped(self, wide: np.ndarray, layer: ClippedLayer) -> np.ndarray:
        """Clamp register values to the layer's limits and encode them."""
        return self.output.encode(np.clip(wide, layer.low, layer.high))

    def to_guarded(self, acc: np.ndarray, multiplier: Multiplier) -> np.ndarray:
        """Sums to the output's scale with GUARD_BITS fractional bits, int64 values within int32."""
        return requantize(acc, multiplier, ADD_FORMAT, self.dialect).astype(np.int64)

    def from_guarded(self, total: np.ndarray) -> np.ndarray:
        """A guarded sum to the output's register: shifted right with ties up, zero point added."""
        fmt = self.output.register
        whole = shift_right(self.seen("sum", total), GUARD_BITS, "half_up") + self.output.zero_point
        return np.clip(whole, fmt.min, fmt.max).astype(fmt.dtype)


def run_integer_tensors(program: IntegerProgram, x_q: Any, trace: LayerTrace | None = None
                        ) -> dict[str, np.ndarray]:
    """Every tensor's codes, by name, for a batch of input codes; arguments and errors as for ``integer_tensors``."""
    return dict(integer_tensors(program, x_q, trace))


def integer_tensors(program: IntegerProgram, x_q: Any, trace: LayerTrace | None = None
                    ) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor's codes with its name, for a batch of input codes.

    x_q: integers (N, *input_shape) within the input's format. trace: called with every stage's
    sums. ValueError for other shapes, floats, and codes outside the format.
    """
    x_q, fmt = as_integers(x_q, "input codes"), program.qparams[program.input].format
    if x_q.shape[1:] != program.input_shape or x_q.size == 0:
        raise ValueError(f"input codes must be a non-empty (N, {', '.join(map(str, program.input_shape))}), "
                         f"got shape {x_q.shape}")
    if x_q.min() < fmt.min or x_q.max() > fmt.max:
        raise ValueError(f"input codes must be within {fmt} ({fmt.min}..{fmt.max}), got "
                         f"{x_q.min()}..{x_q.max()}")
    return forward(program.input, x_q.astype(fmt.dtype), program.layers,
                   lambda layer, *codes: compute(layer, Context(program, layer, trace), *codes))


@singledispatch
def compute(layer: Layer, context: Context, *codes: np.ndarray) -> np.ndarray:
    """One layer's output codes."""
    raise TypeError(f"no integer evaluation for {type(layer).__name__}")


@compute.register
def _(layer: QuantizedConv, context: Context, x_q: np.ndarray) -> np.ndarray:
    flat = x_q.ndim == 2
    qparam = context.inputs[0]
    planes = x_q[:, :, None, None] if flat else x_q
    several = len(layer.terms) > 1
    dtype = np.promote_types(layer.accumulator.dtype, np.int32)  # proven to hold them
    sums, multipliers = [], [term.multiplier.along(1, 4) for term in layer.terms]
    for index, term in enumerate(layer.terms):
        values, zero_point = planes, qparam.zero_point
        if term.lookup_table is not None:
            values, zero_point = term.lookup_table[planes.astype(np.int64) - qparam.format.min], 0
        elif isinstance(qparam, PiecewiseParams):
            values = qparam.integers(planes)
        acc = exact_sums(values, term.weight_q, term.bias_q, layer.geometry, zero_point, dtype)
        sums.append(context.seen(f"accumulator {index}" if several else "accumulator", acc))
    y = context.of_several(sums, multipliers) if several else context.to_output(sums[0], multipliers[0])
    return context.clipped(y.reshape(y.shape[:2]) if flat else y, layer)


@compute.register
def _(layer: QuantizedAdd, context: Context, *codes: np.ndarray) -> np.ndarray:
    parts = [context.to_guarded(qparam.integers(x_q), multiplier)
             for x_q, qparam, multiplier in zip(codes, context.inputs, layer.multipliers)]
    return context.clipped(context.from_guarded(reduce(np.add, parts)), layer)


@compute.register
def _(layer: QuantizedConcat, context: Context, *codes: np.ndarray) -> np.ndarray:
    parts = [context.to_output(qparam.integers(x_q), multiplier)
             for x_q, qparam, multiplier in zip(codes, context.inputs, layer.multipliers)]
    return context.clipped(np.concatenate(parts, axis=layer.axis + 1), layer)


@compute.register
def _(layer: QuantizedLargest, context: Context, *codes: np.ndarray) -> np.ndarray:
    parts = [context.to_output(qparam.integers(x_q), multiplier)
             for x_q, qparam, multiplier in zip(codes, context.inputs, layer.multipliers)]
    return context.clipped(reduce(np.minimum if layer.least else np.maximum, parts), layer)


@compute.register
def _(layer: QuantizedMul, context: Context, *codes: np.ndarray) -> np.ndarray:
    a, b = (qparam.integers(x_q) for x_q, qparam in zip(codes, context.inputs))
    return context.clipped(context.to_output(context.seen("product", a * b), layer.multiplier), layer)


@compute.register
def _(layer: QuantizedTable, context: Context, x_q: np.ndarray) -> np.ndarray:
    place = x_q.astype(np.int64) - context.inputs[0].format.min
    if layer.table.ndim == 1:
        y = layer.table[place]
    else:
        y = layer.table[np.arange(x_q.shape[1]).reshape(-1, *[1] * (x_q.ndim - 2)), place]
    return y.astype(context.output.format.dtype)


@compute.register
def _(layer: QuantizedMove, context: Context, x_q: np.ndarray) -> np.ndarray:
    return layer.move.move(x_q, context.inputs[0].zero_point)


@compute.register
def _(layer: QuantizedAveragePool, context: Context, x_q: np.ndarray) -> np.ndarray:
    values = context.inputs[0].integers(x_q)
    acc = np.sum([view for _, view in taps(values, layer.kernel, layer.geometry)], axis=0)
    return context.clipped(context.to_output(context.seen("accumulator", acc), layer.multiplier), layer)


@compute.register
def _(layer: QuantizedMaxPool, context: Context, x_q: np.ndarray) -> np.ndarray:
    padded = pad(x_q, layer.geometry.padding, context.inputs[0].format.min)
    unpadded = layer.geometry._replace(padding=(0, 0, 0, 0))
    return np.maximum.reduce([view for _, view in taps(padded, layer.kernel, unpadded)])


@compute.register
def _(layer: QuantizedClip, context: Context, x_q: np.ndarray) -> np.ndarray:
    return np.clip(x_q, layer.low, layer.high)


@compute.register
def _(layer: QuantizedFlatten, context: Context, x_q: np.ndarray) -> np.ndarray:
    return x_q.reshape(len(x_q), -1)
