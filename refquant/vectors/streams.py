"""Seeded random integers that are the same for ever: SplitMix64, since NumPy may change its own streams."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from refquant.integers.formats import IntFormat

_GOLDEN, _MIX = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Stream:
    """The words of SplitMix64 (Steele, Lea & Flood 2014): word i is a mixture of seed + i·γ, modulo 2^64.

    name: a text, whose SHA-256 begins with the seed; or the seed itself, 0..2^64 - 1.

    >>> [int(word) for word in Stream(1234567).words(2)]
    [6457827717110365317, 3203168211198807973]
    >>> Stream("an example").integers(-128, 127, (3,))
    array([ 38,  70, -48])
    """

    def __init__(self, name: str | int) -> None:
        self._seed = (int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") if isinstance(name, str)
                      else name)
        self._drawn = 0

    def words(self, count: int) -> np.ndarray:
        """The next ``count`` words, uint64."""
        with np.errstate(over="ignore"):
            place = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64)
            z = np.uint64(self._seed) + place * np.uint64(_GOLDEN)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX[0])
            z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX[1])
        self._drawn += count
        return z ^ (z >> np.uint64(31))

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        """int64 from low to high, both included: low + word mod (high - low + 1). high - low < 2^48."""
        spread = self.words(math.prod(shape)) % np.uint64(high - low + 1)
        return low + spread.astype(np.int64).reshape(shape)

    def codes(self, fmt: IntFormat, shape: tuple[int, ...]) -> np.ndarray:
        """Codes of fmt, int64."""
        return self.integers(fmt.min, fmt.max, shape)
