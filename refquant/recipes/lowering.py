"""From a float network, tensor qparams and weight codes to a quantized network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refquant.integers.formats import IntFormat, frozen_copy
from refquant.integers.multiplier import Multiplier
from refquant.integers.rounding import round_product
from refquant.integers.several_sums import aligned
from refquant.network.graph import (
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    Final,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
)
from refquant.network.moves import Move
from refquant.network.pointwise import Largest, Mul, Pointwise
from refquant.network.pointwise_layers import QuantizedLargest, QuantizedMove, QuantizedMul, QuantizedTable, table_of
from refquant.network.program import (
    GUARD_BITS,
    Layer,
    QuantizedAdd,
    QuantizedAveragePool,
    QuantizedClip,
    QuantizedConcat,
    QuantizedConv,
    QuantizedFlatten,
    QuantizedMaxPool,
    Term,
)
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import PiecewiseParams, TensorParams
from refquant.pwlq.inner_product import component_values, components
from refquant.pwlq.quantizer import PiecewiseCodes, PiecewiseGrid
from refquant.scales.linear import quantize
from refquant.shift_equalizer import limit_shifts


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """Weight codes of one layer: codes = Q(W, scale), scale a number or one per output channel.

    rescaled_channels: output channels whose scale was lowered for their bias (see ``weights.limit_scales``).
    shifts: (O,) of ``shift_bits`` bits each, where scale = S·2^k of the layer's one S; None without shifts.
    moments: gain and offset of each channel (``pwlq.match_weight_moments``), or None.
    """

    codes: np.ndarray
    scale: np.ndarray
    format: IntFormat
    rescaled_channels: tuple[int, ...] = ()
    shifts: np.ndarray | None = None
    shift_bits: int = 0
    moments: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", frozen_copy(self.codes))
        object.__setattr__(self, "scale", frozen_copy(self.scale, np.float64))
        if self.shifts is not None:
            object.__setattr__(self, "shifts", frozen_copy(self.shifts, np.int64))


@dataclass(frozen=True, eq=False)
class PiecewiseWeight:
    """Piecewise codes of one layer (``pwlq``), their grid per channel; the rest as in ``QuantizedWeight``."""

    codes: PiecewiseCodes
    grid: PiecewiseGrid
    rescaled_channels: tuple[int, ...] = ()
    moments: tuple[np.ndarray, np.ndarray] | None = None


AnyWeight = QuantizedWeight | PiecewiseWeight


def carries_codes(node: Node) -> bool:
    """Whether a node's output codes are its input's, moved or clamped."""
    return isinstance(node, (MaxPool, Flatten, Clip, Move)) and not isinstance(node, AveragePool)


def qparam_sources(network: Network) -> dict[str, str]:
    """For every tensor of the integer network, the tensor whose qparams it has: itself, or what it carries on.

    MaxPool, Flatten, Clip and moves carry codes on; but a Clip that alone reads a computed tensor is fused into the
    node before it, whose own tensor does not appear then.
    """
    sources = {network.input: network.input}
    for node in network.nodes:
        carries = carries_codes(node)
        if carries and node.inputs[0] in sources:
            sources[node.name] = sources[node.inputs[0]]
        elif carries or not isinstance(network.only_reader(node.name), Clip):
            sources[node.name] = node.name
    return sources


def check_integer_forms(network: Network) -> None:
    """ValueError for a node that no integer layer stands for."""
    known = (Add, AveragePool, Clip, Concat, Conv, Flatten, GlobalAveragePool, Largest, Linear, MaxPool, Move, Mul,
             Pointwise)
    for node in network.nodes:
        if not isinstance(node, known):
            hint = ("; fold_batchnorm removes it" if isinstance(node, BatchNorm) else
                    "; Network.without_softmax leaves it out" if isinstance(node, Final) else "")
            raise ValueError(f"node {node.name!r}: {type(node).__name__} has no integer form{hint}")


def assemble(network: Network, qparams: Mapping[str, TensorParams], weights: Mapping[str, AnyWeight],
             accumulator: IntFormat = IntFormat(32), dialect: str = "single_round") -> QuantizedNetwork:
    """Put the parts together.

    network: without BatchNorm nodes (``fold_batchnorm``).
    qparams: one per tensor; tensors that only carry their input's codes on (after MaxPool, Flatten, Clip) take the
        input's, and a Clip that alone reads a computed tensor is fused into the node before it.
    weights: one per Conv and Linear.
    accumulator: the format that holds the sums of convolutions, linear layers and average pools.
    dialect: as ``integers.dialect_of`` takes it.

    Multipliers are M = S_y / (S_x·S_w) in float64; bias codes round(b·S_x·S_w), half away from zero. Piecewise codes
    and matched moments make a layer of several terms; the bias is added in the first.
    Raises ValueError where a sum is not proven to fit (see ``QuantizedNetwork``).
    """
    check_integer_forms(network)
    sources = qparam_sources(network)
    known = {tensor: qparams[source] for tensor, source in sources.items()}
    layers: list[Layer] = []
    for node in network.nodes:
        if sources.get(node.name, node.name) != node.name:
            layers.append(_carry(node, known[node.name]))
        elif not isinstance(node, Clip):
            clip = None if node.name in sources else network.only_reader(node.name)
            assert clip is None or isinstance(clip, Clip)
            output = clip.name if clip else node.name
            layers.append(_compute(node, output, _code_limits(clip, known[output]), known, network, weights,
                                   accumulator, dialect))
    return QuantizedNetwork(network.input, network.output, network.input_shape, tuple(layers), known, dialect,
                            network.others)


def _code_limits(clip: Clip | None, qparam: TensorParams) -> tuple[int, int]:
    """The least and greatest value that a clip leaves in the register."""
    fmt = qparam.register
    low, high = (None, None) if clip is None else (clip.low, clip.high)
    wide = [None if end is None else int(quantize(np.float64(end), qparam.scale, fmt, zero_point=qparam.zero_point))
            for end in (low, high)]
    return fmt.min if wide[0] is None else wide[0], fmt.max if wide[1] is None else wide[1]


def _carry(node: Node, qparam: TensorParams) -> Layer:
    names = (node.name, node.inputs, node.name)
    if isinstance(node, MaxPool):
        return QuantizedMaxPool(*names, node.kernel, node.geometry)
    if isinstance(node, Clip):
        low, high = qparam.encode(np.array(_code_limits(node, qparam))).tolist()
        return QuantizedClip(*names, low, high)
    if isinstance(node, Move):
        return QuantizedMove(*names, node)
    return QuantizedFlatten(*names)


def _compute(node: Node, output: str, limits: tuple[int, int], known: Mapping[str, TensorParams],
             network: Network, weights: Mapping[str, AnyWeight], accumulator: IntFormat, dialect: str) -> Layer:
    common: dict[str, Any] = {"name": node.name, "inputs": node.inputs, "output": output,
                              "low": limits[0], "high": limits[1]}
    s_y = known[output].scale
    ratios = [s_y / known[name].scale for name in node.inputs]
    if isinstance(node, (Conv, Linear)):
        geometry = node.geometry if isinstance(node, Conv) else Conv.geometry
        weight, read = weights[node.name], known[node.inputs[0]]
        s_x = read.scale
        if isinstance(weight, PiecewiseWeight) or weight.moments is not None or isinstance(read, PiecewiseParams):
            return QuantizedConv(**common, terms=_several_terms(node, weight, read, s_y, accumulator),
                                 geometry=geometry, accumulator=accumulator,
                                 rescaled_channels=weight.rescaled_channels,
                                 code_bits=weight.grid.bits + 1 if isinstance(weight, PiecewiseWeight) else 0)
        if weight.shifts is not None:
            weight = _within_legal_shifts(node, weight, s_y / s_x, dialect)
        term = _term(node, weight, s_x, s_y, accumulator)
        shifts = () if weight.shifts is None else tuple(weight.shifts.tolist())
        return QuantizedConv(**common, terms=(term,), geometry=geometry, accumulator=accumulator,
                             rescaled_channels=weight.rescaled_channels, channel_shifts=shifts,
                             shift_bits=weight.shift_bits)
    if isinstance(node, Add):
        return QuantizedAdd(**common, multipliers=tuple(Multiplier.from_real(r * 2**GUARD_BITS) for r in ratios))
    if isinstance(node, Concat):
        return QuantizedConcat(**common, multipliers=tuple(map(Multiplier.from_real, ratios)), axis=node.axis)
    if isinstance(node, Largest):
        return QuantizedLargest(**common, multipliers=tuple(map(Multiplier.from_real, ratios)), least=node.least)
    if isinstance(node, Mul):
        return QuantizedMul(**common, multiplier=Multiplier.from_real(
            s_y / (known[node.inputs[0]].scale * known[node.inputs[1]].scale)))
    if isinstance(node, Pointwise):
        written = known[output]
        try:
            table = table_of(node.expression, known[node.inputs[0]], written)
        except ValueError as error:
            raise ValueError(f"layer {node.name!r}: {error}") from None
        low, high = written.encode(np.array(limits)).tolist()  # a Clip behind it
        return QuantizedTable(node.name, node.inputs, output, np.clip(table, low, high))
    if isinstance(node, GlobalAveragePool):
        plane = network.shapes[node.inputs[0]][1:]
        node = AveragePool(node.name, node.inputs, kernel=(plane[0], plane[1]))
    if isinstance(node, AveragePool):
        counts = node.counts(network.shapes[node.inputs[0]][1:])
        return QuantizedAveragePool(**common, kernel=node.kernel, geometry=node.geometry,
                                    multiplier=Multiplier.from_real(s_y / (known[node.inputs[0]].scale * counts)),
                                    accumulator=accumulator)
    raise AssertionError(f"{type(node).__name__} passed check_integer_forms")


def _layer_multiplier(weight: QuantizedWeight, ratio: float) -> Multiplier:
    """The layer's one multiplier M = S_y / (S_x·S_w); ratio: S_y / S_x."""
    assert weight.shifts is not None
    return Multiplier.from_real(ratio / np.ldexp(weight.scale, -weight.shifts)[0])


def _within_legal_shifts(node: Conv | Linear, weight: QuantizedWeight, ratio: float, dialect: str) -> QuantizedWeight:
    """The weight with shifts lowered, and codes made anew, where the dialect would not take s - k."""
    assert weight.shifts is not None
    shifts = limit_shifts(weight.shifts, _layer_multiplier(weight, ratio), dialect)
    lowered = np.flatnonzero(shifts != weight.shifts).tolist()
    if not lowered:
        return weight
    scale = np.ldexp(weight.scale, shifts - weight.shifts)
    return replace(weight, codes=quantize(node.weight, scale, weight.format, axis=0), scale=scale, shifts=shifts,
                   rescaled_channels=tuple(sorted({*weight.rescaled_channels, *lowered})))


def _several_terms(node: Conv | Linear, weight: AnyWeight, read: TensorParams, s_y: float, accumulator: IntFormat
                   ) -> tuple[Term, ...]:
    """A term for each component of the weights with each of the inputs, rounded together."""
    shape = node.weight.shape if isinstance(node, Conv) else (*node.weight.shape, 1, 1)
    channels, two = len(node.weight), IntFormat(2, narrow=True)
    if isinstance(weight, PiecewiseWeight):
        fmt = IntFormat(weight.grid.bits, narrow=True)
        parts = list(zip(components(weight.codes), (fmt, fmt, two), component_values(weight.grid)))
    else:
        parts = [(weight.codes, weight.format, 1 / weight.scale)]
    if weight.moments is not None:
        gain, offset = weight.moments
        ones = np.broadcast_to(np.sign(offset).reshape(-1, *[1] * (len(shape) - 1)), shape).astype(np.int64)
        # Where nothing is to be added, the multiplier can be any.
        parts = [(codes, fmt, gain * value) for codes, fmt, value in parts]
        parts.append((ones, two, np.where(offset == 0, parts[0][2], np.abs(offset))))
    tables: list[tuple[np.ndarray | None, float]] = [(None, 1 / read.scale)]
    if isinstance(read, PiecewiseParams):
        steps = (read.centre_step, read.tail_step, read.largest * read.centre_step)
        tables = [(table, step / read.scale) for table, step in zip(read.components(), steps)]
    pairs = [(part, table) for table in tables for part in parts]
    multipliers = aligned([np.broadcast_to(s_y * value * unit, channels) for (*_, value), (_, unit) in pairs])
    bias_q = _bias_codes(node, 1 / (np.broadcast_to(parts[0][2], channels) * tables[0][1]), accumulator)
    return tuple(Term(codes.reshape(shape), fmt, multiplier, None if k else bias_q, table)
                 for k, (((codes, fmt, _), (table, _)), multiplier) in enumerate(zip(pairs, multipliers)))


def _bias_codes(node: Conv | Linear, scale: np.ndarray, accumulator: IntFormat) -> np.ndarray | None:
    """round(b·scale), half away from zero; ValueError where a register does not hold it."""
    if node.bias is None:
        return None
    fmt = IntFormat(max(32, min(accumulator.bits, 50)))  # what float64 rounds exactly, and int32 at least
    real = round_product(node.bias.astype(np.float64), scale, "half_away", limit=2.0**50)
    beyond = (real < fmt.min) | (real > fmt.max)
    if beyond.any():
        worst = int(np.where(beyond, np.abs(real), 0).argmax())
        code = node.bias[worst] * np.broadcast_to(scale, node.bias.shape)[worst]
        raise ValueError(f"layer {node.name!r}: the bias code of channel {worst} is {code:.4g}, which does not "
                         f"fit {fmt}")
    return real.astype(np.int64)


def _term(node: Conv | Linear, weight: QuantizedWeight, s_x: float, s_y: float, accumulator: IntFormat) -> Term:
    scale = s_x * weight.scale
    bias_q = _bias_codes(node, scale, accumulator)
    codes = weight.codes.reshape(node.weight.shape if isinstance(node, Conv) else (*node.weight.shape, 1, 1))
    multiplier = (Multiplier.from_real(s_y / scale) if weight.shifts is None else
                  _layer_multiplier(weight, s_y / s_x).shifted_right(weight.shifts))
    return Term(codes, weight.format, multiplier, bias_q)
