"""How average pools of codes round, by name: from a window's sum of codes, its count of cells and the zero point.

Input and output have one step and zero point here; then no multiplier is needed, and rules differ in their rounding
alone, and in whether the zero point is subtracted first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

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

    total: sums of raw codes, integers (N,); count: how many cells each has; zero_point: of input and output.

    >>> average_pool_rules(np.array([2, 6, -6]), 4, 0, np.array([1, 2, -2]))
    ['TFLite and CMSIS-NN']
    """
    total, codes = np.asarray(total, np.int64), np.asarray(codes, np.int64)
    return [name for name, rule in RULES.items() if np.array_equal(rule(total, count, zero_point), codes)]
