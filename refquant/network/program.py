"""The frozen layers of an integer network: codes, multipliers and formats, no real weights.

Each layer reads code tensors and writes one; how a tensor's codes stand for reals is the tensor's
``QuantParams``. Nothing here computes: ``integer_forward`` and ``simulated_forward`` do, each its own way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.integers.checks import as_integers, fitting_int64, integer
from refquant.integers.devices import name_of
from refquant.integers.formats import IntFormat, check_codes, frozen_copy
from refquant.integers.multiplier import Multiplier
from refquant.network.qparams import TensorParams

# Operands of an Add keep this many fractional bits until the sum is rounded.
GUARD_BITS = 8
ADD_FORMAT = _INT32 = IntFormat(32)


@dataclass(frozen=True, eq=False)
class Layer:
    """name: for reports. inputs: the tensors read. output: the tensor written."""

    name: str
    inputs: tuple[str, ...]
    output: str
    carries: ClassVar[bool] = False  # whether the output's codes are the input's, at the input's qparams


@dataclass(frozen=True, eq=False)
class Term:
    """One convolution within a layer: sums Σ w_q·table[x_q] + bias_q, then times ``multiplier``.

    weight_q: (O, C/groups, R, S) codes of ``weight_format``.
    multiplier: scalar or one per output channel; those of several terms are ``aligned``.
    bias_q: (O,) integers or None.
    lookup_table: None for what codes stand for (``integers``); or one int32 per code of the input's format, lowest
        code first, with 0 for the zero point: one component of piecewise codes.
    """

    weight_q: np.ndarray
    weight_format: IntFormat
    multiplier: Multiplier
    bias_q: np.ndarray | None = None
    lookup_table: np.ndarray | None = None

    def __post_init__(self) -> None:
        weight_q = as_integers(self.weight_q, "weight_q")
        fmt = self.weight_format
        if weight_q.ndim != 4 or weight_q.size == 0:
            raise ValueError(f"weight_q must be a non-empty (O, C/groups, R, S), got shape {weight_q.shape}")
        weight_q = check_codes(weight_q, fmt, "weight_q")
        if self.multiplier.real.shape not in ((), weight_q.shape[:1]):
            raise ValueError(f"multiplier must be a scalar or have shape {weight_q.shape[:1]}, got "
                             f"{self.multiplier.real.shape}")
        object.__setattr__(self, "weight_q", frozen_copy(weight_q, fmt.dtype))
        for name in ("bias_q", "lookup_table"):
            if getattr(self, name) is not None:
                value = fitting_int64(getattr(self, name), name)
                if value.ndim != 1 or value.size == 0:
                    raise ValueError(f"{name} must be one row of integers, got shape {value.shape}")
                if name == "lookup_table" and (value.min() < _INT32.min or value.max() > _INT32.max):
                    raise ValueError(f"{name} must fit int32, got {value.min()}..{value.max()}")
                object.__setattr__(self, name, frozen_copy(value.astype(np.int64)))
        if self.bias_q is not None and self.bias_q.shape != weight_q.shape[:1]:
            raise ValueError(f"bias_q must have shape {weight_q.shape[:1]}, got {self.bias_q.shape}")


@dataclass(frozen=True, eq=False)
class ClippedLayer(Layer):
    """A layer that requantizes, then clamps its codes to low..high: where a fused ReLU lives."""

    low: int
    high: int

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            integer(getattr(self, name), f"layer {self.name!r}: {name}")


def _check_accumulator(layer: QuantizedConv | QuantizedAveragePool) -> None:
    if not layer.accumulator.signed:
        raise ValueError(f"layer {layer.name!r}: the accumulator must be signed, got {layer.accumulator}")


@dataclass(frozen=True, eq=False)
class QuantizedConv(ClippedLayer):
    """Convolution, or a linear layer as a 1x1 convolution of 1x1 planes.

    One term: its sums are requantized to the output's codes. Several, for piecewise codes and matched moments: the
    terms' products are added and rounded once (``several_sums``).
    accumulator: the signed format that must hold every sum.
    rescaled_channels: output channels whose scale had to be lowered until their bias code fitted, for reports.
    channel_shifts: where the layer has one multiplier m·2^(s-31) and its channels the shifts s - k_c, all k_c; ()
        elsewhere. shift_bits: bits in which each k_c is stored.
    code_bits: of one stored weight, from which all terms' weights follow; 0 where it is the first term's format.
    """

    terms: tuple[Term, ...]
    geometry: Geometry = Geometry()
    accumulator: IntFormat = IntFormat(32)
    rescaled_channels: tuple[int, ...] = ()
    channel_shifts: tuple[int, ...] = ()
    shift_bits: int = 0
    code_bits: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "terms", tuple(self.terms))
        if not self.terms:
            raise ValueError(f"layer {self.name!r} must have at least one term, got none")
        if len({term.weight_q.shape for term in self.terms}) > 1:
            raise ValueError(f"layer {self.name!r}: terms must have weights of one shape, got "
                             f"{sorted({term.weight_q.shape for term in self.terms})}")
        integer(self.code_bits, f"layer {self.name!r}: code_bits", 0, 17)
        _check_accumulator(self)
        if self.channel_shifts:
            self._check_shifts()

    def _check_shifts(self) -> None:
        shifts = as_integers(self.channel_shifts, f"layer {self.name!r}: channel_shifts")
        most = 2 ** integer(self.shift_bits, f"layer {self.name!r}: shift_bits", 0, 5) - 1
        if shifts.min() < 0 or shifts.max() > most:
            raise ValueError(f"layer {self.name!r}: channel_shifts must be from 0 to {most}, got "
                             f"{shifts.min()}..{shifts.max()}")
        wanted = f"layer {self.name!r}: with channel_shifts all channels must have one m and one shift + k"
        for term in self.terms:
            m, shift = term.multiplier.m, term.multiplier.shift
            if shift.shape != shifts.shape:
                raise ValueError(f"{wanted}, got {shift.size} channels for {shifts.size} shifts")
            if len({*m.tolist()}) > 1 or len({*(shift + shifts).tolist()}) > 1:
                raise ValueError(f"{wanted}, got {m.tolist()} and {(shift + shifts).tolist()}")

    @property
    def weight_bits(self) -> int:
        """Bits of weight storage, with the channels' shifts, biases not counted."""
        first = self.terms[0]
        shifts = len(self.channel_shifts) * self.shift_bits
        return first.weight_q.size * (self.code_bits or first.weight_format.bits) + shifts


@dataclass(frozen=True, eq=False)
class QuantizedAdd(ClippedLayer):
    """Each operand times its multiplier S_y·2^8/S_operand to int32, summed, shifted right by 8.

    The last shift rounds ties up and saturates in every dialect.
    """

    multipliers: tuple[Multiplier, ...]


@dataclass(frozen=True, eq=False)
class QuantizedConcat(ClippedLayer):
    """Each operand requantized to the output's scale, one after another along ``axis``, 0 being the channels."""

    multipliers: tuple[Multiplier, ...]
    axis: int = 0


@dataclass(frozen=True, eq=False)
class QuantizedAveragePool(ClippedLayer):
    """Window sums times S_y/(S_x·count); multiplier: (P, Q), as the count differs at the borders."""

    kernel: tuple[int, int]
    multiplier: Multiplier
    geometry: Geometry = Geometry()
    accumulator: IntFormat = IntFormat(32)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_accumulator(self)


@dataclass(frozen=True, eq=False)
class QuantizedMaxPool(Layer):
    """Maximum of codes; the output has its input's qparams."""

    kernel: tuple[int, int]
    geometry: Geometry = Geometry()
    carries = True


@dataclass(frozen=True, eq=False)
class QuantizedClip(ClippedLayer):
    """Codes clamped to low..high; the output has its input's qparams."""

    carries = True


@dataclass(frozen=True, eq=False)
class QuantizedFlatten(Layer):
    """(N, C, H, W) codes to (N, C·H·W)."""

    carries = True


@dataclass(frozen=True, eq=False)
class IntegerProgram:
    """Integer layers in order, and the qparams of every tensor they read and write.

    input_shape: without the batch axis. others: results beside ``output``. dialect: how every requantization rounds,
    as ``integers.dialect_of`` takes it; kept as one of the nine names, or as words.
    """

    input: str
    output: str
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    qparams: dict[str, TensorParams] = field(repr=False)
    dialect: str = "single_round"
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dialect", name_of(self.dialect))
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "qparams", dict(self.qparams))
        written = {self.input}
        for layer in self.layers:
            unknown = [name for name in (*layer.inputs, layer.output) if name not in self.qparams]
            if unknown:
                raise ValueError(f"layer {layer.name!r} must have qparams for its tensors, got none for {unknown}")
            if not layer.inputs or not written.issuperset(layer.inputs):
                raise ValueError(f"layer {layer.name!r} must read tensors computed before it, got {layer.inputs}")
            if layer.output in written:
                raise ValueError(f"layer {layer.name!r} must write a new tensor, got {layer.output!r} again")
            self._check_parts(layer)
            written.add(layer.output)
        if not written.issuperset(self.outputs) or self.input not in self.qparams:
            raise ValueError(f"input and output must be known tensors, got {self.input!r} and "
                             f"{', '.join(map(repr, self.outputs))}")

    @property
    def outputs(self) -> tuple[str, ...]:
        """All results, the first one first."""
        return (self.output, *self.others)

    def _check_parts(self, layer: Layer) -> None:
        multipliers = getattr(layer, "multipliers", layer.inputs)
        if len(multipliers) != len(layer.inputs):
            raise ValueError(f"layer {layer.name!r} must have one multiplier per input, got {len(multipliers)} "
                             f"for {len(layer.inputs)}")
        if layer.carries and self.qparams[layer.inputs[0]] != self.qparams[layer.output]:
            raise ValueError(f"layer {layer.name!r} must keep its input's qparams, got "
                             f"{self.qparams[layer.inputs[0]]} and {self.qparams[layer.output]}")
