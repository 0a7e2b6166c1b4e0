"""Statistics of activations that merge exactly: extremes, and counts over equal bins.

They take two passes over the calibration images: extremes first, then counts over equal bins of [0, max|x|]. Those
of two halves give those of the whole, so that the passes can be split over batches and workers in any way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, float32_or_float64, integer
from refquant.integers.formats import frozen_copy

BINS = 2048
TOP_K = 10


def _values(x: Any) -> np.ndarray:
    return float32_or_float64(x, "calibration values").astype(np.float64).ravel()


@dataclass(frozen=True, eq=False)
class Extremes:
    """The first pass: the ten smallest and the ten largest values seen, both rising (fewer if there are fewer)."""

    smallest: np.ndarray
    largest: np.ndarray

    def __post_init__(self) -> None:
        for name in ("smallest", "largest"):
            object.__setattr__(self, name, frozen_copy(getattr(self, name), np.float64))

    @classmethod
    def of(cls, x: Any) -> Extremes:
        """Of one array of floats, any shape, finite, not empty."""
        x = _values(x)
        if x.size > TOP_K:
            parted = np.partition(x, (TOP_K - 1, x.size - TOP_K))
            return cls(np.sort(parted[:TOP_K]), np.sort(parted[-TOP_K:]))
        x = np.sort(x)
        return cls(x[:TOP_K], x[-TOP_K:])

    def merge(self, other: Extremes) -> Extremes:
        """Of both arrays together."""
        return Extremes(np.sort(np.concatenate([self.smallest, other.smallest]))[:TOP_K],
                        np.sort(np.concatenate([self.largest, other.largest]))[-TOP_K:])

    @property
    def low(self) -> float:
        """The smallest value."""
        return float(self.smallest[0])

    @property
    def high(self) -> float:
        """The largest value."""
        return float(self.largest[-1])

    @property
    def magnitude(self) -> float:
        """max|x|."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, eq=False)
class Histogram:
    """The second pass: how many |x| fall into each of equal bins over [0, limit].

    counts: (B,) int64; bin k holds floor(|x|/limit·B) = k, the last one |x| = limit too. zeros: how many
    of bin 0 are exactly 0. limit: max|x| over all of the calibration data; 0 where all of it is zero.
    """

    counts: np.ndarray
    zeros: int
    limit: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", frozen_copy(as_integers(self.counts, "counts"), np.int64))

    @classmethod
    def of(cls, x: Any, limit: float, bins: int = BINS) -> Histogram:
        """Of one array of floats within [-limit, limit]; limit: finite; bins: 1..2^20. ValueError for others."""
        magnitude, bins = np.abs(_values(x)), integer(bins, "bins", 1, 2**20)
        if not (np.isfinite(limit) and limit >= magnitude.max()):
            raise ValueError(f"limit must be finite and at least max|x| = {magnitude.max()}, got {limit}")
        index = np.minimum((magnitude / (limit or 1.0) * bins).astype(np.int64), bins - 1)
        return cls(np.bincount(index, minlength=bins), int(np.count_nonzero(magnitude == 0)), float(limit))

    def merge(self, other: Histogram) -> Histogram:
        """Of both arrays together; ValueError where the bins differ."""
        if (len(self.counts), self.limit) != (len(other.counts), other.limit):
            raise ValueError(f"histograms must have the same bins to merge, got {len(self.counts)} up to "
                             f"{self.limit} and {len(other.counts)} up to {other.limit}")
        return Histogram(self.counts + other.counts, self.zeros + other.zeros, self.limit)

    @property
    def nonzero_counts(self) -> np.ndarray:
        """The counts without exact zeros."""
        counts = self.counts.copy()
        counts[0] -= self.zeros
        return counts

    @property
    def centers(self) -> np.ndarray:
        """The middle of each bin, in units of the limit."""
        return (np.arange(len(self.counts)) + 0.5) / len(self.counts)
