"""From a float network, tensor qparams and weight codes to a quantized network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refquant.integers.formats import IntFormat, frozen_copy
from refquant.integers.multiplier import Multiplier
from refquant.integers.rounding import round_product
from refquant.network.graph import (
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
    Softmax,
)
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
    QuantParams,
    Term,
)
from refquant.network.proof import QuantizedNetwork
from refquant.scales.linear import quantize
from refquant.shift_equalizer import limit_shifts


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """Weight codes of one layer: codes = Q(W, scale), scale a number or one per output channel.

    rescaled_channels: output channels whose scale was lowered for their bias (see ``weights.limit_scales``).
    shifts: (O,) of ``shift_bits`` bits each, where scale = S·2^k of the layer's one S; None without shifts.
    """

    codes: np.ndarray
    scale: np.ndarray
    format: IntFormat
    rescaled_channels: tuple[int, ...] = ()
    shifts: np.ndarray | None = None
    shift_bits: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", frozen_copy(self.codes))
        object.__setattr__(self, "scale", frozen_copy(self.scale, np.float64))
        if self.shifts is not None:
            object.__setattr__(self, "shifts", frozen_copy(self.shifts, np.int64))


def qparam_sources(network: Network) -> dict[str, str]:
    """For every tensor of the integer network, the tensor whose qparams it has: itself, or what it carries on.

    MaxPool, Flatten and Clip carry codes on; but a Clip that alone reads a computed tensor is fused into the
    node before it, whose own tensor does not appear then.
    """
    sources = {network.input: network.input}
    for node in network.nodes:
        carries = isinstance(node, (MaxPool, Flatten, Clip)) and not isinstance(node, AveragePool)
        if carries and node.inputs[0] in sources:
            sources[node.name] = sources[node.inputs[0]]
        elif carries or not isinstance(network.only_reader(node.name), Clip):
            sources[node.name] = node.name
    return sources


def check_integer_forms(network: Network) -> None:
    """ValueError for a node that no integer layer stands for."""
    known = (Add, AveragePool, Clip, Concat, Conv, Flatten, GlobalAveragePool, Linear, MaxPool)
    hints: dict[type, str] = {BatchNorm: "; fold_batchnorm removes it",
                              Softmax: "; Network.without_softmax leaves it out"}
    for node in network.nodes:
        if not isinstance(node, known):
            raise ValueError(f"node {node.name!r}: {type(node).__name__} has no integer form"
                             f"{hints.get(type(node), '')}")


def assemble(network: Network, qparams: Mapping[str, QuantParams], weights: Mapping[str, QuantizedWeight],
             accumulator: IntFormat = IntFormat(32), dialect: str = "single_round") -> QuantizedNetwork:
    """Put the parts together.

    network: without BatchNorm nodes (``fold_batchnorm``).
    qparams: one per tensor; tensors that only carry their input's codes on (after MaxPool, Flatten, Clip) take the
        input's, and a Clip that alone reads a computed tensor is fused into the node before it.
    weights: one per Conv and Linear.
    accumulator: the format that holds the sums of convolutions, linear layers and average pools.
    dialect: one of ``integers.DIALECTS``.

    Multipliers are M = S_y / (S_x·S_w) in float64; bias codes round(b·S_x·S_w), half away from zero.
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
    return QuantizedNetwork(network.input, network.output, network.input_shape, tuple(layers), known, dialect)


def _code_limits(clip: Clip | None, qparam: QuantParams) -> tuple[int, int]:
    """The least and greatest code that a clip lets through, within the format."""
    fmt = qparam.format
    low, high = (None, None) if clip is None else (clip.low, clip.high)
    return (fmt.min if low is None else int(qparam.quantize(np.float64(low))),
            fmt.max if high is None else int(qparam.quantize(np.float64(high))))


def _carry(node: Node, qparam: QuantParams) -> Layer:
    names = (node.name, node.inputs, node.name)
    if isinstance(node, MaxPool):
        return QuantizedMaxPool(*names, node.kernel, node.geometry)
    if isinstance(node, Clip):
        return QuantizedClip(*names, *_code_limits(node, qparam))
    return QuantizedFlatten(*names)


def _compute(node: Node, output: str, limits: tuple[int, int], known: Mapping[str, QuantParams],
             network: Network, weights: Mapping[str, QuantizedWeight], accumulator: IntFormat, dialect: str) -> Layer:
    common: dict[str, Any] = {"name": node.name, "inputs": node.inputs, "output": output,
                              "low": limits[0], "high": limits[1]}
    s_y = known[output].scale
    ratios = [s_y / known[name].scale for name in node.inputs]
    if isinstance(node, (Conv, Linear)):
        geometry = node.geometry if isinstance(node, Conv) else Conv.geometry
        weight, s_x = weights[node.name], known[node.inputs[0]].scale
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
        return QuantizedConcat(**common, multipliers=tuple(Multiplier.from_real(r) for r in ratios))
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


def _term(node: Conv | Linear, weight: QuantizedWeight, s_x: float, s_y: float, accumulator: IntFormat) -> Term:
    scale = s_x * weight.scale
    bias_q = None
    if node.bias is not None:
        fmt = IntFormat(max(32, min(accumulator.bits, 50)))  # what float64 rounds exactly, and int32 at least
        real = round_product(node.bias.astype(np.float64), scale, "half_away", limit=2.0**50)
        beyond = (real < fmt.min) | (real > fmt.max)
        if beyond.any():
            worst = int(np.where(beyond, np.abs(real), 0).argmax())
            code = node.bias[worst] * np.broadcast_to(scale, node.bias.shape)[worst]
            raise ValueError(f"layer {node.name!r}: the bias code of channel {worst} is {code:.4g}, which does not "
                             f"fit {fmt}")
        bias_q = real.astype(np.int64)
    codes = weight.codes.reshape(node.weight.shape if isinstance(node, Conv) else (*node.weight.shape, 1, 1))
    multiplier = (Multiplier.from_real(s_y / scale) if weight.shifts is None else
                  _layer_multiplier(weight, s_y / s_x).shifted_right(weight.shifts))
    return Term(codes, weight.format, multiplier, bias_q)
