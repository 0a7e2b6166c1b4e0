"""Simulated inference: the same dialects a second time, in float64 alone.

Tools without integer kernels run quantized networks as floats; this is such a simulation, written so
that every operation is exact in float64. It shares the recorded multipliers with the integer
interpreter but none of its arithmetic: no ``requantization``, no ``shift_right``. Where both give the
same codes everywhere, ``codes_equal`` holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

import numpy as np

from refquant.convolution.direct import convolve
from refquant.convolution.geometry import pad, taps
from refquant.integers.multiplier import Multiplier
from refquant.network.forward import forward
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
    QuantParams,
)
from refquant.network.simulated_scaling import scale_by


class Context:
    """The qparams around a layer and the program's dialect."""

    def __init__(self, program: IntegerProgram, layer: Layer) -> None:
        self.inputs = [program.qparams[name] for name in layer.inputs]
        self.output: QuantParams = program.qparams[layer.output]
        self.dialect = program.dialect

    def to_output(self, acc: np.ndarray, multiplier: Multiplier) -> np.ndarray:
        """Sums at the output's scale, rounded, zero point not yet added."""
        return scale_by(acc, multiplier, self.dialect, self.output.zero_point)

    def to_guarded(self, acc: np.ndarray, multiplier: Multiplier) -> np.ndarray:
        """Sums at the output's scale with GUARD_BITS fractional bits."""
        return scale_by(acc, multiplier, self.dialect)

    def shifted(self, total: np.ndarray) -> np.ndarray:
        """A guarded sum to whole codes, ties up."""
        return np.floor(total / 2.0**GUARD_BITS + 0.5)

    def finish(self, whole: np.ndarray, low: int, high: int) -> np.ndarray:
        """Zero point added, then clamped."""
        return np.clip(whole + self.output.zero_point, low, high)


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
    results = []
    for term in layer.terms:
        values = planes - qparam.zero_point
        if term.lookup_table is not None:
            codes = np.arange(qparam.format.min, qparam.format.max + 1)
            values = term.lookup_table.astype(np.float64)[np.searchsorted(codes, planes)]
        # Sums are proven to fit the accumulator, at most 32 bits, so float64 adds them exactly.
        acc = convolve(values, term.weight_q.astype(np.float64), **layer.geometry._asdict())
        if term.bias_q is not None:
            acc = acc + term.bias_q.astype(np.float64)[:, None, None]
        scale = context.to_guarded if len(layer.terms) > 1 else context.to_output
        results.append(scale(acc, term.multiplier.along(1, 4)))
    total = results[0] if len(results) == 1 else context.shifted(np.sum(results, axis=0))
    return context.finish(total.reshape(total.shape[:x_q.ndim]), layer.low, layer.high)


@simulate.register
def _(layer: QuantizedAdd, context: Context, *codes: np.ndarray) -> np.ndarray:
    parts = [context.to_guarded(x_q - qparam.zero_point, multiplier)
             for x_q, qparam, multiplier in zip(codes, context.inputs, layer.multipliers)]
    return context.finish(context.shifted(np.sum(parts, axis=0)), layer.low, layer.high)


@simulate.register
def _(layer: QuantizedConcat, context: Context, *codes: np.ndarray) -> np.ndarray:
    parts = [context.to_output(x_q - qparam.zero_point, multiplier)
             for x_q, qparam, multiplier in zip(codes, context.inputs, layer.multipliers)]
    return context.finish(np.concatenate(parts, axis=1), layer.low, layer.high)


@simulate.register
def _(layer: QuantizedAveragePool, context: Context, x_q: np.ndarray) -> np.ndarray:
    ones = np.ones((x_q.shape[1], 1, *layer.kernel))
    geometry = layer.geometry._replace(groups=x_q.shape[1])
    acc = convolve(x_q - context.inputs[0].zero_point, ones, **geometry._asdict())
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
