"""Requantization: integer sums to output codes, on whole arrays, in any dialect.

``dialects.evaluate`` says what is computed; here arguments are checked, and large arrays are worked on in blocks
that stay in the cache.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, fitting_int64
from refquant.integers.devices import dialect_of
from refquant.integers.dialects import INT32, Dialect, evaluate, legal_shifts
from refquant.integers.far_from_ties import NEAREST, round_far_from_ties
from refquant.integers.formats import IntFormat, check_zero_point, wrap
from refquant.integers.multiplier import Multiplier
from refquant.integers.rounding import round_product, round_product_sum

# Elements in a block: its temporaries stay in the cache.
_BLOCK = 1 << 17


def requantize(acc: Any, multiplier: Multiplier, fmt: IntFormat, dialect: str | Dialect = "single_round",
               zero_point: int = 0) -> np.ndarray:
    """Output codes end(round(acc·M) + zero_point), as the words of ``dialect`` say (``dialects.evaluate``).

    acc: integers, any shape; within int32 where the dialect's left shift is not merged.
    multiplier: broadcasts against acc.
    fmt: of the codes; at most 33 bits.
    dialect: a name, the words in one text, or a ``Dialect`` (``devices.dialect_of``).
    zero_point: a code of fmt.
    Returns ``fmt.dtype``. ValueError for floats, sums beyond int32, shapes that do not broadcast, unknown
    dialects, and shifts that the dialect does not take (-31..30, or up to W - 1 for a multiplier of W bits).

    >>> requantize(np.array([1, -2, 5]), Multiplier.from_real(0.5), IntFormat(8))
    array([ 1, -1,  3], dtype=int8)
    >>> requantize(np.array([1, -2, 5]), Multiplier.from_real(0.5), IntFormat(8), "exact_half_even")
    array([ 0, -1,  2], dtype=int8)
    """
    words, name = dialect_of(dialect), dialect if isinstance(dialect, str) else "this dialect"
    if not isinstance(multiplier, Multiplier):
        raise ValueError(f"multiplier must be a Multiplier (see Multiplier.from_real), got {multiplier!r}")
    legal = legal_shifts(words)
    if words.left == "merged":
        acc = fitting_int64(acc, "acc")
    else:
        acc = as_integers(acc, "acc")
        if acc.size and not (INT32.min <= acc.min() and acc.max() <= INT32.max):
            raise ValueError(f"acc must fit int32 where {name} shifts it left, got values from {acc.min()} to "
                             f"{acc.max()}")
        acc = acc.astype(np.int32)
    shift = multiplier.shift
    if legal and shift.size and not (legal[0] <= shift.min() and shift.max() <= legal[1]):
        raise ValueError(f"{name} takes shifts from {legal[0]} to {legal[1]}, got {shift.min()}..{shift.max()}")
    if words.multiplier == "float32" and multiplier.real.max(initial=0) > np.finfo(np.float32).max:
        raise ValueError(f"{name} takes multipliers that float32 holds, got {multiplier.real.max()}")
    if not isinstance(fmt, IntFormat):
        raise ValueError(f"fmt must be an IntFormat, as in IntFormat(8), got {fmt!r}")
    if fmt.bits > 33:  # one more than a sum has: a proof can then see a code that does not fit int32
        raise ValueError(f"requantization takes formats of at most 33 bits, got {fmt}")
    zero_point = check_zero_point(zero_point, fmt)
    try:
        shape = np.broadcast_shapes(acc.shape, shift.shape)
    except ValueError:
        raise ValueError(f"the multiplier must broadcast against acc, got shapes {shift.shape} and {acc.shape}"
                         ) from None
    # Rows along which the multiplier does not change, worked on in blocks that stay in the cache.
    padded = (1,) * (len(shape) - shift.ndim) + shift.shape
    steady = max((axis + 1 for axis, size in enumerate(padded) if size != 1), default=0)
    rows, width = math.prod(shape[:steady]), math.prod(shape[steady:])
    x = np.broadcast_to(acc, shape).reshape(rows, width)

    channel = np.broadcast_to(np.arange(shift.size).reshape(padded[:steady]), shape[:steady]).reshape(rows, 1)
    parameters = [p.ravel() for p in (multiplier.real, multiplier.m, shift)]
    of_block = _exact if words.multiplier == "real" and words.end == "saturate" else evaluate
    codes = np.empty((rows, width), fmt.dtype)

    def decide(where: Any, channels: np.ndarray) -> None:
        real, m, s = (p[channels] for p in parameters)
        value = of_block(words, x[where].astype(np.int64), real, m, s, zero_point)
        codes[where] = np.clip(value, fmt.min, fmt.max) if words.end == "saturate" else wrap(value, fmt)

    tall, wide = max(1, _BLOCK // max(width, 1)), _BLOCK
    blocks = [np.s_[top:top + tall, left:left + wide] for top in range(0, rows, tall)
              for left in range(0, width, wide)]
    factors, slack = _factors(words, parameters[0], parameters[1], parameters[2], fmt)
    if factors is None:
        for block in blocks:
            decide(block, channel[block[0]])
        return codes.reshape(shape)
    rounded_twice = slack.any()
    # Far from ties float32 decides, nearer float64, and at ties the definition.
    single, limits = factors.astype(np.float32)[channel], (fmt.min - zero_point, fmt.max - zero_point)
    unsure = []
    for block in blocks:
        product = x[block].astype(np.float32)
        product *= single[block[0]]
        whole, near = round_far_from_ties(product, *limits, slack[channel[block[0]]] if rounded_twice else 0.0)
        if zero_point:
            whole += zero_point
        codes[block] = whole
        if near.size:
            row, column = np.divmod(near, whole.shape[1])
            unsure.append((row + block[0].start, column + block[1].start))
    if unsure:
        row, column = (np.concatenate(places) for places in zip(*unsure))
        some = channel[row, 0]
        whole, near = round_far_from_ties(x[row, column] * factors[some], *limits, slack[some])
        codes[row, column] = whole + zero_point
        if near.size:
            decide((row[near], column[near]), some[near])
    return codes.reshape(shape)


def _factors(dialect: Dialect, real: np.ndarray, m: np.ndarray, shift: np.ndarray, fmt: IntFormat
             ) -> tuple[np.ndarray | None, np.ndarray]:
    """M in float64 where ``round_far_from_ties`` serves, else None; and how far a first rounding moves a value."""
    slack = np.zeros(shift.shape) if dialect.first == "none" else np.where(shift < 0, np.ldexp(0.5, shift), 0)
    if (fmt.bits > 16 or dialect.end != "saturate" or dialect.multiplier == "float32"
            or not {dialect.last, dialect.first} <= {*NEAREST, "none"} or real.max(initial=0) > 2.0**60
            or (dialect.left != "merged" and shift.max(initial=0) > 0)):
        return None, slack
    return (real if dialect.multiplier == "real" else np.ldexp(dialect.rounded(m), shift - dialect.width)), slack


def _exact(dialect: Dialect, x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero_point: int
           ) -> np.ndarray:
    """``evaluate`` for multiplier ``real``, on whole arrays, while float64 holds the sums."""
    if x.min(initial=0) < -(2**53) or x.max(initial=0) > 2**53:
        return evaluate(dialect, x, real, m, shift, zero_point)
    if dialect.zero == "before" and zero_point:
        return round_product_sum(x.astype(np.float64), real, zero_point, dialect.last, limit=2.0**33)
    return round_product(x.astype(np.float64), real, dialect.last, limit=2.0**33).astype(np.int64) + zero_point
