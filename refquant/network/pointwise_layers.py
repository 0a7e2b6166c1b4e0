"""Integer layers that move codes, look them up, or combine two tensors place by place."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from refquant.integers.checks import fitting_int64
from refquant.integers.formats import frozen_copy
from refquant.integers.multiplier import Multiplier
from refquant.integers.rounding import round_fraction
from refquant.network.moves import Move, as_move
from refquant.network.pointwise import NEAR_TIE, channels_of, evaluate_expression, exact_value
from refquant.network.program import ClippedLayer, Layer
from refquant.network.qparams import TensorParams

MAX_TABLE_BITS = 12


@dataclass(frozen=True, eq=False)
class QuantizedMove(Layer):
    """Codes at other places, and real zeros; the output has its input's qparams. move: in floats, of ``moves``."""

    move: Move
    carries = True

    def __post_init__(self) -> None:
        as_move(self.move)


@dataclass(frozen=True, eq=False)
class QuantizedTable(Layer):
    """Each code looked up. table: codes (K,), one for each code of the input's format, lowest first; or (C, K)."""

    table: np.ndarray

    def __post_init__(self) -> None:
        table = fitting_int64(self.table, "table")
        if table.ndim not in (1, 2) or table.size == 0:
            raise ValueError(f"layer {self.name!r}: table must be codes (K,) or (C, K), got shape {table.shape}")
        object.__setattr__(self, "table", frozen_copy(table, np.int64))


@dataclass(frozen=True, eq=False)
class QuantizedMul(ClippedLayer):
    """(a - z_a)·(b - z_b) times M = S_y/(S_a·S_b), rounded once."""

    multiplier: Multiplier


@dataclass(frozen=True, eq=False)
class QuantizedLargest(ClippedLayer):
    """Each operand requantized to the output's scale; then the larger of the two, or the smaller with ``least``."""

    multipliers: tuple[Multiplier, ...]
    least: bool = False


def table_of(expression: object, read: TensorParams, written: TensorParams) -> np.ndarray:
    """The output code of every input code, lowest first: round(S_y·f(x)) + z, half away from zero, clipped.

    Values within 1e-9 of a tie are computed again in decimals. Where f is not defined, as √ of negative codes that a
    clip before it keeps away, the entry is real 0. (K,), or (C, K) where the expression has numbers per channel.
    ValueError for formats of more than 12 bits.
    """
    fmt, register = read.format, written.register
    if fmt.bits > MAX_TABLE_BITS:
        raise ValueError(f"a function of codes needs a table of at most {MAX_TABLE_BITS} bits, got {fmt}")
    integers = read.integers(np.arange(fmt.min, fmt.max + 1))
    channels = max(1, channels_of(expression))
    x = np.broadcast_to(integers / read.scale, (channels, len(integers)))
    with np.errstate(all="ignore"):
        y = evaluate_expression(expression, x.copy(), channel_axis=0) * written.scale
    beyond = 2.0**13  # any zero point
    y = np.clip(np.where(np.isnan(y), 0.0, y), 2.0 * register.min - beyond, 2.0 * register.max + beyond)
    whole = np.copysign(np.floor(np.abs(y) + 0.5), y).astype(np.int64)
    near = np.abs(np.abs(y) % 1 - 0.5) <= NEAR_TIE * np.maximum(1, np.abs(y))
    for channel, place in np.argwhere(near):
        exact = exact_value(expression, Fraction(int(integers[place])) / Fraction(read.scale), channel)
        whole[channel, place] = round_fraction(exact * Fraction(written.scale), "half_away")
    codes = written.encode(np.clip(whole + written.zero_point, register.min, register.max)).astype(np.int64)
    return codes if channels_of(expression) else codes[0]
