"""Simulated inference: the same dialects a second time, in float64 alone.

Tools without integer kernels run quantized networks as floats; this is such a simulation, written so
that every operation is exact in float64. It shares the recorded multipliers with the integer
interpreter but none of its arithmetic: no ``requantization``, no ``shift_right``. Where both give the
same codes everywhere, ``codes_equal`` holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce, singledispatch

import numpy as np

from refquant.convolution.direct import convolve
from refquant.convolution.geometry import pad, taps
from refquant.integers.devices import dialect_of
from refquant.integers.multiplier import Multiplier
from refquant.network.forward import forward
from refquant.network.pointwise_layers import QuantizedLargest, QuantizedMove, QuantizedMul, QuantizedTable
from refquant.network.program import (
    GUARD_BITS,
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
from refquant.network.simulated_scaling import scale_by, scale_several


class Context:
    """The qparams around a layer and the program's dialect."""

    def __init__(self, program: IntegerProgram, layer: Layer) -> None:
        self.inputs = [program.qparams[name] for name in layer.inputs]
        self.output: TensorParams = program.qparams[layer.output]
        self.dialect = program.dialect
        self._wraps = dialect_of(self.dialect).end == "wrap"

    def to_output(self, acc: np.ndarray, multiplier: Multiplier) -> np.ndarray:
        """Sums at the output's scale, rounded, zero point not yet added."""
        return self._held(scale_by(acc, multiplier, self.dialect, self.output.zero_point))

    def of_several(self, sums: list[np.ndarray], multipliers: list[Multiplier]) -> np.ndarray:
        """Several sums, each with its multiplier, at the output's scale, rounded once."""
        return self._held(scale_several(sums, multipliers, self.dialect, self.output.zero_point))

    def _held(self, whole: np.ndarray) -> np.ndarray:
        """Where the dialect wraps, what a register of the output holds of whole + zero point, less the zero point."""
        if not self._wraps:
            return whole
        fmt, zero_point = self.output.register, self.output.zero_point
        low = -(2.0 ** (fmt.bits - 1)) if fmt.signed else 0.0
        return (whole + zero_point - low) % 2.0**fmt.bits + low - zero_point

    def to_guarded(self, acc: np.ndarray, multiplier: Multiplier) -> np.ndarray:
        """Sums at the output's scale with GUARD_BITS fractional bits."""
        return scale_by(acc, multiplier, self.dialect)

    def shifted(self, total: np.ndarray) -> np.ndarray:
        """A guarded sum to whole codes, ties up."""
        return np.floor(total / 2.0**GUARD_BITS + 0.5)

    def finish(self, whole: np.ndarray, low: int, high: int) -> np.ndarray:
        """Zero point added, then clamped; then to the nearest level of piecewise codes."""
        y = np.clip(whole + self.output.zero_point, low, high)
        return nearest_code(y, self.output) if isinstance(self.output, PiecewiseParams) else y


def nearest_code(y: np.ndarray, qparam: PiecewiseParams) -> np.ndarray:
    """Piecewise codes of integer-valued float64: the level below each magnitude, or the next from half-way on."""
    levels = values_of(np.arange(qparam.largest * 2 + 2.0), qparam)  # of the codes from 0 up; the breakpoint twice
    inner, outer = levels[:qparam.largest + 1], levels[qparam.largest + 1:]
    size = np.abs(y) if qparam.signed else np.maximum(y, 0.0)
    code = np.where(size <= inner[-1], np.searchsorted((inner[1:] + inner[:-1]) / 2, size, side="right"),
                    len(inner) + np.searchsorted((outer[1:] + outer[:-1]) / 2, size, side="right"))
    return np.where(y < 0, -code, code).astype(np.float64)


def values_of(codes: np.ndarray, qparam: TensorParams) -> np.ndarray:
    """What codes stand for in units of 1/scale, as float64."""
    if not isinstance(qparam, PiecewiseParams):
        return codes - qparam.zero_point
    size, end = np.abs(codes), qparam.largest * qparam.centre_step
    real = np.where(size > qparam.largest, end + qparam.tail_step * (size - qparam.largest - 1),
                    qparam.centre_step * size)
    return np.copysign(real, codes)


def run_simulated_tensors(program: IntegerProgram, x_q: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor's codes as float64, by name, for a batch of input codes."""
    return dict(simulated_tensors(program, x_q))


def simulated_tensors(program: IntegerProgram, x_q: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor's codes as float64, with its name, for a batch of input codes."""
    return forward(program.input, np.asarray(x_q).astype(np.float64), program.layers,
                   lambda layer, *codes: simulate(layer, Context(program, layer), *codes))


@singledispatch
def simulate(layer: Layer, context: Context, *codes: np.ndarray) -> np.ndarray:
    """One layer's output codes, as float64."""
    raise TypeError(f"no simulation for {type(layer).__name__}")


@simulate.register
def _(layer: QuantizedConv, context: Context, x_q: np.ndarray) -> np.ndarray:
    qparam = context.inputs[0]
    planes = x_q if x_q.ndim == 4 else x_q[:, :, None, None]
    sums = []
    for term in layer.terms:
        values = values_of(planes, qparam)
        if term.lookup_table is not None:
            codes = np.arange(qparam.format.min, qparam.format.max + 1)
            values = term.lookup_table.astype(np.float64)[np.searchsorted(codes, planes)]
        # Sums are proven to fit the accumulator, at most 32 bits, so float64 adds them exactly.
        acc = convolve(values, term.weight_q.astype(np.float64), **layer.geometry._asdict())
        if term.bias_q is not None:
            acc = acc + term.bias_q.astype(np.float64)[:, None, None]
        sums.append(acc)
    multipliers = [term.multiplier.along(1, 4) for term in layer.terms]
    whole = context.to_output(sums[0], multipliers[0]) if len(sums) == 1 else context.of_several(sums, multipliers)
    return context.finish(whole.reshape(whole.shape[:x_q.ndim]), layer.low, layer.high)


@simulate.register
def _(layer: QuantizedAdd, context: Context, *codes: np.ndarray) -> np.ndarray:
    parts = [context.to_guarded(values_of(x_q, qparam), multiplier)
             for x_q, qparam, multiplier in zip(codes, context.inputs, layer.multipliers)]
    return context.finish(context.shifted(reduce(np.add, parts)), layer.low, layer.high)


@simulate.register
def _(layer: QuantizedConcat, context: Context, *codes: np.ndarray) -> np.ndarray:
    parts = [context.to_output(values_of(x_q, qparam), multiplier)
             for x_q, qparam, multiplier in zip(codes, context.inputs, layer.multipliers)]
    return context.finish(np.concatenate(parts, axis=layer.axis + 1), layer.low, layer.high)


@simulate.register
def _(layer: QuantizedLargest, context: Context, *codes: np.ndarray) -> np.ndarray:
    a, b = (context.to_output(values_of(x_q, qparam), multiplier)
            for x_q, qparam, multiplier in zip(codes, context.inputs, layer.multipliers))
    return context.finish(np.where((a < b) == layer.least, a, b), layer.low, layer.high)


@simulate.register
def _(layer: QuantizedMul, context: Context, *codes: np.ndarray) -> np.ndarray:
    a, b = (values_of(x_q, qparam) for x_q, qparam in zip(codes, context.inputs))
    return context.finish(context.to_output(a * b, layer.multiplier), layer.low, layer.high)


@simulate.register
def _(layer: QuantizedTable, context: Context, x_q: np.ndarray) -> np.ndarray:
    fmt = context.inputs[0].format
    known = np.arange(fmt.min, fmt.max + 1, dtype=np.float64)
    if layer.table.ndim == 1:
        return np.interp(x_q, known, layer.table)
    return np.stack([np.interp(x_q[:, c], known, row) for c, row in enumerate(layer.table)], axis=1)


@simulate.register
def _(layer: QuantizedMove, context: Context, x_q: np.ndarray) -> np.ndarray:
    return layer.move.move(x_q, context.inputs[0].zero_point)


@simulate.register
def _(layer: QuantizedAveragePool, context: Context, x_q: np.ndarray) -> np.ndarray:
    ones = np.ones((x_q.shape[1], 1, *layer.kernel))
    geometry = layer.geometry._replace(groups=x_q.shape[1])
    acc = convolve(values_of(x_q, context.inputs[0]), ones, **geometry._asdict())
    return context.finish(context.to_output(acc, layer.multiplier), layer.low, layer.high)


@simulate.register
def _(layer: QuantizedMaxPool, context: Context, x_q: np.ndarray) -> np.ndarray:
    padded = pad(x_q, layer.geometry.padding, -np.inf)
    unpadded = layer.geometry._replace(padding=(0, 0, 0, 0))
    return np.maximum.reduce([view for _, view in taps(padded, layer.kernel, unpadded)])


@simulate.register
def _(layer: QuantizedClip, context: Context, x_q: np.ndarray) -> np.ndarray:
    return np.clip(x_q, layer.low, layer.high)


@simulate.register
def _(layer: QuantizedFlatten, context: Context, x_q: np.ndarray) -> np.ndarray:
    return x_q.reshape(len(x_q), -1)
