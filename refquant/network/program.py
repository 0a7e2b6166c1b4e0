"""The frozen layers of an integer network: codes, multipliers and formats, no real weights.

Each layer reads code tensors and writes one; how a tensor's codes stand for reals is the tensor's
``QuantParams``. Nothing here computes: ``integer_forward`` and ``simulated_forward`` do, each its own way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.integers.checks import as_integers, fitting_int64, integer, positive
from refquant.integers.devices import name_of
from refquant.integers.formats import IntFormat, check_codes, check_zero_point, frozen_copy
from refquant.integers.multiplier import Multiplier
from refquant.scales.linear import dequantize, quantize

# Operands of an Add keep this many fractional bits until the sum is rounded.
GUARD_BITS = 8
ADD_FORMAT = _INT32 = IntFormat(32)


@dataclass(frozen=True)
class QuantParams:
    """What a tensor's codes mean: real = (code - zero_point) / scale, code within ``format``."""

    scale: float
    format: IntFormat
    zero_point: int = 0

    def __post_init__(self) -> None:
        positive(self.scale, "scale")
        object.__setattr__(self, "zero_point", check_zero_point(self.zero_point, self.format))

    @property
    def register(self) -> IntFormat:
        """The format into which sums are requantized."""
        return self.format

    def encode(self, wide: np.ndarray) -> np.ndarray:
        """Codes of what a register holds: the same."""
        return wide

    def integers(self, x_q: np.ndarray) -> np.ndarray:
        """What codes stand for, in units of 1/scale: int64."""
        return x_q.astype(np.int64) - self.zero_point

    def quantize(self, x: Any) -> np.ndarray:
        """Reals to codes, ties away from zero."""
        return quantize(x, self.scale, self.format, zero_point=self.zero_point)

    def dequantize(self, x_q: Any) -> np.ndarray:
        """Codes to reals, float64."""
        return dequantize(x_q, self.scale, zero_point=self.zero_point)


@dataclass(frozen=True)
class PiecewiseParams:
    """What a tensor's piecewise linear codes mean (``pwlq``): real = integer(code) / scale.

    A code is sign·(region·(K + 1) + magnitude), with K = 2^(b-1) - 1, or 2^b - 1 without sign. It stands for
    sign·centre_step·magnitude in region 0 and sign·(K·centre_step + tail_step·magnitude) in region 1: both steps are
    integers, and the breakpoint is a level of both regions. Sums are requantized to int16, and then encoded: to
    region 0 up to the breakpoint, to the nearest magnitude, ties up.

    scale: of the integers. bits: b. signed: whether codes have a sign. centre_step, tail_step: 1 or more.
    """

    scale: float
    bits: int
    signed: bool
    centre_step: int
    tail_step: int

    def __post_init__(self) -> None:
        positive(self.scale, "scale")
        integer(self.bits, "bits", 2, 14)
        most = self.register.max // self.largest
        for name in ("centre_step", "tail_step"):
            integer(getattr(self, name), name, 1, most)
        if self.largest * (self.centre_step + self.tail_step) > self.register.max:
            raise ValueError(f"levels must fit {self.register}, got up to "
                             f"{self.largest * (self.centre_step + self.tail_step)}")

    @property
    def zero_point(self) -> int:
        """0: its code is real 0."""
        return 0

    @property
    def register(self) -> IntFormat:
        """The format into which sums are requantized before they are encoded."""
        return IntFormat(16)

    @property
    def largest(self) -> int:
        """K, the largest magnitude of either region."""
        return int(2 ** (self.bits - self.signed) - 1)

    @property
    def format(self) -> IntFormat:
        """Of the codes: b + 1 bits."""
        return IntFormat(self.bits + 1, signed=self.signed, narrow=self.signed)

    def encode(self, wide: Any) -> np.ndarray:
        """Codes of integers that a register holds."""
        wide = np.asarray(wide).astype(np.int64)
        size, end = np.abs(wide) if self.signed else np.maximum(wide, 0), self.largest * self.centre_step
        centre = (2 * size + self.centre_step) // (2 * self.centre_step)
        tail = np.minimum((2 * (size - end) + self.tail_step) // (2 * self.tail_step), self.largest)
        code = np.where(size <= end, centre, self.largest + 1 + tail)
        return np.where(wide < 0, -code, code).astype(self.format.dtype)

    def components(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For every code, lowest first: its signed magnitude in region 0, that in region 1, its sign in region 1."""
        code = np.arange(self.format.min, self.format.max + 1)
        sign, in_tail = np.sign(code), np.abs(code) > self.largest
        return code * ~in_tail, sign * (np.abs(code) - self.largest - 1) * in_tail, sign * in_tail

    def integers(self, x_q: np.ndarray) -> np.ndarray:
        """What codes stand for, in units of 1/scale: int64."""
        centre, tail, sign = self.components()
        levels = self.centre_step * centre + self.tail_step * tail + self.largest * self.centre_step * sign
        return levels[np.asarray(x_q).astype(np.int64) - self.format.min]

    def quantize(self, x: Any) -> np.ndarray:
        """Reals to codes: to the register's integers, ties away from zero, then encoded."""
        return self.encode(quantize(x, self.scale, self.register))

    def dequantize(self, x_q: Any) -> np.ndarray:
        """Codes to reals, float64."""
        return self.integers(as_integers(x_q, "x_q")) / self.scale


TensorParams = QuantParams | PiecewiseParams


@dataclass(frozen=True, eq=False)
class Layer:
    """name: for reports. inputs: the tensors read. output: the tensor written."""

    name: str
    inputs: tuple[str, ...]
    output: str


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
    """Each operand times its multiplier S_y·2^8/S_operand to int32, summed, shifted right by 8, ties up."""

    multipliers: tuple[Multiplier, ...]


@dataclass(frozen=True, eq=False)
class QuantizedConcat(ClippedLayer):
    """Each operand requantized to the output's scale, one after another along the channels."""

    multipliers: tuple[Multiplier, ...]


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
    """Maximum of codes; the qparams is the input's."""

    kernel: tuple[int, int]
    geometry: Geometry = Geometry()


@dataclass(frozen=True, eq=False)
class QuantizedClip(ClippedLayer):
    """Codes clamped to low..high; the qparams is the input's."""


@dataclass(frozen=True, eq=False)
class QuantizedFlatten(Layer):
    """(N, C, H, W) codes to (N, C·H·W)."""


@dataclass(frozen=True, eq=False)
class IntegerProgram:
    """Integer layers in order, and the qparams of every tensor they read and write.

    input_shape: without the batch axis. dialect: how every requantization rounds, as
    ``integers.dialect_of`` takes it; kept as one of the nine names, or as words.
    """

    input: str
    output: str
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    qparams: dict[str, TensorParams] = field(repr=False)
    dialect: str = "single_round"

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
        if not written.issuperset((self.output,)) or self.input not in self.qparams:
            raise ValueError(f"input and output must be known tensors, got {self.input!r} and {self.output!r}")

    def _check_parts(self, layer: Layer) -> None:
        if isinstance(layer, (QuantizedAdd, QuantizedConcat)) and len(layer.multipliers) != len(layer.inputs):
            raise ValueError(f"layer {layer.name!r} must have one multiplier per input, got {len(layer.multipliers)} "
                             f"for {len(layer.inputs)}")
        carries = isinstance(layer, (QuantizedMaxPool, QuantizedClip, QuantizedFlatten))
        if carries and self.qparams[layer.inputs[0]] != self.qparams[layer.output]:
            raise ValueError(f"layer {layer.name!r} must keep its input's qparams, got "
                             f"{self.qparams[layer.inputs[0]]} and {self.qparams[layer.output]}")
