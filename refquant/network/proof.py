"""A quantized network: an integer program whose every sum is proven to fit before it may run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from refquant.convolution.bounds import dot_product_range
from refquant.integers.devices import dialect_of
from refquant.integers.dialects import legal_shifts
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.integers.stages import StageRange
from refquant.network.float_forward import check_images
from refquant.network.forward import slices
from refquant.network.integer_forward import Context, LayerTrace, compute, integer_tensors
from refquant.network.pointwise_layers import QuantizedLargest, QuantizedMove, QuantizedMul, QuantizedTable
from refquant.network.program import (
    ADD_FORMAT,
    ClippedLayer,
    IntegerProgram,
    Layer,
    QuantizedAdd,
    QuantizedAveragePool,
    QuantizedClip,
    QuantizedConcat,
    QuantizedConv,
    Term,
)
from refquant.network.simulated_forward import simulated_tensors


@dataclass(frozen=True, eq=False)
class QuantizedNetwork(IntegerProgram):
    """A network in integers only: float images are quantized where they enter, output codes dequantized.

    Building it proves, from the weights at hand, that no accumulator can leave its format, partial
    sums included; otherwise ValueError names the layer, the bound and the format.
    ``stages`` lists the proven ranges.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        stages, shapes = _prove(self)
        object.__setattr__(self, "stages", tuple(stages))
        object.__setattr__(self, "shapes", shapes)

    stages: tuple[StageRange, ...] = field(init=False)
    shapes: dict[str, tuple[int, ...]] = field(init=False)  # by tensor name, without the batch axis

    def quantize_images(self, images: Any) -> np.ndarray:
        """Float images (N, *input_shape) to input codes."""
        return self.qparams[self.input].quantize(check_images(images, self.input_shape))

    def run(self, images: Any, trace: LayerTrace | None = None) -> np.ndarray:
        """Integer-only inference. images: floats (N, *input_shape). Returns float64 outputs."""
        images = check_images(images, self.input_shape)
        return np.concatenate([self._decode(integer_tensors(self, self.quantize_images(images[some]), trace))
                               for some in self.slices(len(images))])

    def simulate(self, images: Any) -> np.ndarray:
        """The same outputs by the independent implementation, a simulation in float64."""
        images = check_images(images, self.input_shape)
        return np.concatenate([self._decode(simulated_tensors(self, self.quantize_images(images[some])))
                               for some in self.slices(len(images))])

    def _decode(self, tensors: Iterator[tuple[str, np.ndarray]]) -> np.ndarray:
        codes = next(x_q for name, x_q in tensors if name == self.output)
        return self.qparams[self.output].dequantize(codes.astype(np.int64))

    def slices(self, count: int) -> list[slice]:
        """Which of ``count`` images go through the network together (``forward.slices``)."""
        return slices(count, self.shapes, self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights and channel shifts, per layer rounded up. Biases not counted."""
        return sum(-(-layer.weight_bits // 8) for layer in self.layers if isinstance(layer, QuantizedConv))


def _prove(network: IntegerProgram) -> tuple[list[StageRange], dict[str, tuple[int, ...]]]:
    """Follow the range of codes from tensor to tensor; check every sum's range against its format.

    Returns the proven stages, and every tensor's shape.
    """
    entry = network.qparams[network.input]
    codes = {network.input: (entry.format.min, entry.format.max)}
    # One image of real zeros runs too, so that an error of shape names its layer.
    trial = {network.input: np.full((1, *network.input_shape), entry.zero_point, entry.format.dtype)}
    stages: list[StageRange] = []
    for layer in network.layers:
        context = Context(network, layer, None)
        # Ranges of code - zero_point, widened to 0, which padding brings in.
        ranges = [(min(int(low), 0), max(int(high), 0)) for low, high in
                  (e.integers(np.array(codes[name])) for name, e in zip(layer.inputs, context.inputs))]
        try:
            stages.extend(_layer_stages(layer, context, ranges, codes))
            codes[layer.output] = _output_codes(layer, context, codes)
            trial[layer.output] = compute(layer, context, *(trial[name] for name in layer.inputs))
        except (ValueError, OverflowError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from None
    return stages, {name: codes.shape[1:] for name, codes in trial.items()}


def _stage(layer: Layer, stage: str, fmt: IntFormat, low: int, high: int) -> StageRange:
    if max(-low, high) > 2**53:
        raise ValueError(f"the {stage} is proven to lie within {low}..{high}, beyond the 2^53 that simulation holds")
    if low < fmt.min or high > fmt.max:
        raise ValueError(f"the {stage} is proven to lie within {low}..{high}, which does not fit {fmt}")
    return StageRange(stage, fmt, low, high, layer.name)


def _output_codes(layer: Layer, context: Context, codes: dict[str, tuple[int, int]]) -> tuple[int, int]:
    if isinstance(layer, QuantizedTable):
        return _table_codes(layer, context)
    if isinstance(layer, QuantizedMove):  # zeros may come in
        zero, (low, high) = context.output.zero_point, codes[layer.inputs[0]]
        return min(low, zero), max(high, zero)
    if not isinstance(layer, ClippedLayer):
        return codes[layer.inputs[0]]
    of_codes = isinstance(layer, QuantizedClip)
    fmt = context.output.format if of_codes else context.output.register
    if not fmt.min <= layer.low <= layer.high <= fmt.max:
        raise ValueError(f"its clamp must lie within {fmt} ({fmt.min}..{fmt.max}), got {layer.low}..{layer.high}")
    ends = np.array([layer.low, layer.high])
    low, high = (ends if of_codes else context.output.encode(ends)).tolist()
    return low, high


def _table_codes(layer: QuantizedTable, context: Context) -> tuple[int, int]:
    """Its least and greatest code; ValueError where it does not suit its formats."""
    read, written = context.inputs[0].format, context.output.format
    low, high = int(layer.table.min()), int(layer.table.max())
    if layer.table.shape[-1] != read.max - read.min + 1:
        raise ValueError(f"its table must have one entry per code of {read}, got {layer.table.shape[-1]}")
    if not written.min <= low <= high <= written.max:
        raise ValueError(f"its table must hold codes of {written} ({written.min}..{written.max}), got {low}..{high}")
    return low, high


def _layer_stages(layer: Layer, context: Context, ranges: list[tuple[int, int]], codes: dict[str, tuple[int, int]]
                  ) -> list[StageRange]:
    if isinstance(layer, QuantizedConv):
        several = len(layer.terms) > 1
        stages, ends = [], []
        for index, term in enumerate(layer.terms):
            least, greatest = _sum_range(term, ranges[0], context, codes[layer.inputs[0]])
            stages.append(_stage(layer, f"accumulator {index}" if several else "accumulator", layer.accumulator,
                                 int(least.min()), int(greatest.max())))
            if not several:
                _check_legal(context, least, greatest, term.multiplier)
            ends.append((least, greatest))
        return stages + (_sum_of_products(layer, context, ends) if several else [])
    if isinstance(layer, QuantizedAdd):
        totals = []
        for (low, high), multiplier in zip(ranges, layer.multipliers):
            _check_legal(context, low, high, multiplier)
            totals.append(_guarded_range(context, np.asarray(low), np.asarray(high), multiplier))
        return [_total(layer, totals)]
    if isinstance(layer, QuantizedMul):
        corners = [a * b for a in ranges[0] for b in ranges[1]]
        stage = _stage(layer, "product", ADD_FORMAT, min(corners), max(corners))
        _check_legal(context, min(corners), max(corners), layer.multiplier)
        return [stage]
    if isinstance(layer, (QuantizedConcat, QuantizedLargest)):
        for (low, high), multiplier in zip(ranges, layer.multipliers):
            _check_legal(context, low, high, multiplier)
    if isinstance(layer, QuantizedAveragePool):
        count = int(np.prod(layer.kernel))
        low, high = ranges[0][0] * count, ranges[0][1] * count
        stage = _stage(layer, "accumulator", layer.accumulator, low, high)
        _check_legal(context, low, high, layer.multiplier)
        return [stage]
    return []


def _check_legal(context: Context, low: Any, high: Any, multiplier: Multiplier) -> None:
    """Refuse unknown shifts, sums that would wrap when shifted left, and multipliers that vanish."""
    context.to_output(np.zeros(multiplier.m.shape, np.int64), multiplier)
    reach = np.maximum(np.abs(low), np.abs(high)) * multiplier.real
    if dialect_of(context.dialect).shifts and ((multiplier.m == 0) & (reach >= 0.5)).any():
        raise ValueError(f"a multiplier must be at least 2^-32 where its sum can reach half a code, got "
                         f"{np.min(multiplier.real):.3g}")
    if dialect_of(context.dialect).left != "merged":
        factor = np.ldexp(1.0, np.maximum(multiplier.shift, 0))
        least, greatest = float(np.min(low * factor)), float(np.max(high * factor))
        if least < -(2.0**31) or greatest >= 2.0**31:
            raise ValueError(f"{context.dialect} shifts a sum left to {least:.3g}..{greatest:.3g}, "
                             f"which does not fit int32")


def _sum_range(term: Term, limits: tuple[int, int], context: Context, codes: tuple[int, int]
               ) -> tuple[np.ndarray, np.ndarray]:
    """Per output channel, the range of every partial sum, whether the bias is added first or last.

    limits: of what the input's codes stand for, with 0 among them. codes: of the input.
    """
    low, high = limits
    if term.lookup_table is not None:
        qparam = context.inputs[0]
        if len(term.lookup_table) != qparam.format.max - qparam.format.min + 1:
            raise ValueError(f"a lookup table must have one entry per code of {qparam.format}, "
                             f"got {len(term.lookup_table)}")
        if term.lookup_table[qparam.zero_point - qparam.format.min] != 0:
            raise ValueError("a lookup table must map the zero point to 0, as padding needs")
        first, last = min(codes[0], qparam.zero_point), max(codes[1], qparam.zero_point)
        seen = term.lookup_table[first - qparam.format.min:last - qparam.format.min + 1]
        low, high = int(seen.min()), int(seen.max())
    least, greatest = dot_product_range(term.weight_q, low, high)
    if term.bias_q is None:
        return least, greatest
    return least + np.minimum(term.bias_q, 0), greatest + np.maximum(term.bias_q, 0)


def _sum_of_products(layer: QuantizedConv, context: Context, ends: list[tuple[np.ndarray, np.ndarray]]
                     ) -> list[StageRange]:
    """The range of Σ P_i·m_i, in Python's integers, with room for what rounding adds; none for the exact M_i."""
    multipliers = [term.multiplier for term in layer.terms]
    context.of_several([np.zeros(M.m.shape, np.int64) for M in multipliers], multipliers)  # dialect and shifts
    if not dialect_of(context.dialect).shifts:
        return []
    legal = legal_shifts(dialect_of(context.dialect))
    shift = multipliers[0].shift
    assert legal is not None
    if shift.min() < legal[0] or shift.max() > legal[1]:
        raise ValueError(f"{context.dialect} takes shifts from {legal[0]} to {legal[1]}, got {shift.min()}.."
                         f"{shift.max()}")
    spread = [np.broadcast_to(M.m, low.shape).astype(object) for M, (low, _) in zip(multipliers, ends)]
    low, high = (np.sum([end[side].astype(object) * m for end, m in zip(ends, spread)], axis=0) for side in (0, 1))
    stage = StageRange("sum", IntFormat(64), int(low.min()), int(high.max()), layer.name)
    if max(-stage.min, stage.max) + 2 ** int(30 - shift.min()) >= 2**63:
        raise ValueError(f"the sum of products is proven to lie within {stage.min}..{stage.max}, which with what "
                         f"rounding adds does not fit {stage.format}")
    return [stage]


def _guarded_range(context: Context, low: np.ndarray, high: np.ndarray, multiplier: Multiplier) -> tuple[int, int]:
    """The range of operands at the output's scale with guard bits; rounding is monotone in the sum."""
    saturating = replace(dialect_of(context.dialect), end="saturate")  # so that what does not fit shows
    ends = []
    for bound, pick in ((low, np.min), (high, np.max)):
        code = int(pick(requantize(bound, multiplier, IntFormat(ADD_FORMAT.bits + 1), saturating)))
        if not ADD_FORMAT.min <= code <= ADD_FORMAT.max:
            raise ValueError(f"an operand of the sum can reach {pick(bound * multiplier.real):.4g}, "
                             f"which does not fit {ADD_FORMAT}")
        ends.append(code)
    return ends[0], ends[1]


def _total(layer: Layer, ranges: list[tuple[int, int]]) -> StageRange:
    return _stage(layer, "sum", ADD_FORMAT, sum(r[0] for r in ranges), sum(r[1] for r in ranges))
