"""How average pools of codes round, by name: from a window's sum of codes, its count of cells and the zero point.

Input and output have one step and zero point here; then no multiplier is needed, and rules differ in their rounding
alone, and in whether the zero point is subtracted first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refquant.integers.checks import fitting_int64, integer

Rule = Callable[[np.ndarray, Any, int], np.ndarray]


def raw_half_away(total: np.ndarray, count: Any, zero_point: int = 0) -> np.ndarray:
    """The sum of raw codes divided, ties away from 0 (not from the zero point): TFLite and CMSIS-NN."""
    total = np.asarray(total)
    return np.where(total < 0, -((-total + count // 2) // count), (total + count // 2) // count)


def raw_half_even(total: np.ndarray, count: Any, zero_point: int = 0) -> np.ndarray:
    """The sum of raw codes divided, ties to even: oneDNN."""
    low, rest = np.divmod(np.asarray(total), count)
    return low + ((2 * rest > count) | ((2 * rest == count) & (low % 2 == 1)))


def raw_floor(total: np.ndarray, count: Any, zero_point: int = 0) -> np.ndarray:
    """The sum of raw codes divided, rounded down: ai8x."""
    return np.asarray(total) // count


def centred_half_up(total: np.ndarray, count: Any, zero_point: int = 0) -> np.ndarray:
    """The zero point subtracted from every code, ties up, and added again: TOSA, and refquant's own in C."""
    centred = np.asarray(total) - count * zero_point
    return (2 * centred + count) // (2 * count) + zero_point


RULES: dict[str, Rule] = {
    "TFLite and CMSIS-NN": raw_half_away, "oneDNN": raw_half_even, "ai8x": raw_floor, "TOSA": centred_half_up}


def average_pool_rules(total: Any, count: Any, zero_point: int, codes: Any) -> list[str]:
    """The names of the rules that give ``codes``: which average pool a device has.

    total: sums of raw codes, integers that int32 holds, not empty. count: how many cells each sum has, one integer
    or one per sum. zero_point: of input and output, from -2^15 to 2^16 - 1. codes: what the device answered,
    integers of total's shape. ValueError for other arguments.

    >>> average_pool_rules(np.array([2, 6, -6]), 4, 0, np.array([1, 2, -2]))
    ['TFLite and CMSIS-NN']
    """
    total, count, codes = (fitting_int64(x, name).astype(np.int64) for x, name in (
        (total, "total"), (count, "count"), (codes, "codes")))
    if total.size == 0:
        raise ValueError(f"total must not be empty, got shape {total.shape}")
    if codes.shape != total.shape:
        raise ValueError(f"codes must have the shape of total, {total.shape}, got {codes.shape}")
    if count.shape not in ((), total.shape):
        raise ValueError(f"count must be one integer or have the shape of total, {total.shape}, got {count.shape}")
    for x, name, least in ((total, "total", -(2**31)), (count, "count", 1)):
        for end in (x.min(), x.max()):
            integer(end, name, least, 2**31 - 1)
    zero_point = integer(zero_point, "zero_point", -(2**15), 2**16 - 1)
    return [name for name, rule in RULES.items() if np.array_equal(rule(total, count, zero_point), codes)]
