"""Requantization: integer sums to output codes, on whole arrays, in any dialect.

``dialects.evaluate`` says what is computed; ``fast_requantization`` computes the same in blocks. Here the arguments
are checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, fitting_int64
from refquant.integers.devices import dialect_of
from refquant.integers.dialects import INT32, Dialect, legal_shifts
from refquant.integers.fast_requantization import requantize_in_blocks
from refquant.integers.formats import IntFormat, check_format, check_zero_point
from refquant.integers.multiplier import Multiplier


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
    if check_format(fmt).bits > 33:  # one more than a sum has: a proof can then see a code that does not fit int32
        raise ValueError(f"requantization takes formats of at most 33 bits, got {fmt}")
    zero_point = check_zero_point(zero_point, fmt)
    try:
        np.broadcast_shapes(acc.shape, shift.shape)
    except ValueError:
        raise ValueError(f"the multiplier must broadcast against acc, got shapes {shift.shape} and {acc.shape}"
                         ) from None
    return requantize_in_blocks(acc, multiplier, fmt, words, zero_point)
