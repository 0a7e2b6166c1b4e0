"""``arithmetic.double_rounded`` and ``arithmetic.neon`` in fewer passes, equal bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.integers.multiplier import Multiplier
from refquant.runtimes import arithmetic

_BLOCK = 1 << 15  # rows of sums at a time stay in the cache


def double_rounded(acc: np.ndarray, M: Any) -> np.ndarray:
    """A: ``arithmetic.double_rounded``."""
    return _twice(acc, M, arithmetic.double_rounded, away=True)


def neon(acc: np.ndarray, M: Any) -> np.ndarray:
    """B: ``arithmetic.neon``."""
    return _twice(acc, M, arithmetic.neon, away=False)


def _twice(acc: np.ndarray, M: Any, plain: Any, away: bool) -> np.ndarray:
    """(acc·m + 2^30) >> 31, then a rounding shift by -s; sums that would shift left are left to ``plain``."""
    multiplier = Multiplier.from_real(np.asarray(M, np.float64))
    m, right = np.atleast_1d(multiplier.m).astype(np.int64), -np.atleast_1d(multiplier.shift).astype(np.int64)
    if not acc.size:
        return acc
    if right.min() < 0 or right.max() > 30:
        return np.asarray(plain(acc, M))
    half = (np.int64(1) << right) >> 1
    rows = acc.reshape(-1, acc.shape[-1])
    y = np.empty(rows.shape, np.int64)
    step = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        part = y[start:start + step]
        np.multiply(rows[start:start + step], m, out=part)
        part += 1 << 30
        part >>= 31
        if away:  # a negative tie goes down: one less before the floor, where anything is dropped
            part -= (part < 0) & (right > 0)
        part += half
        part >>= right
    return y.reshape(acc.shape)
