"""How alike two tensors are: cosine similarity and signal-to-quantization-noise ratio.

Both follow from four sums over the elements, <A, B>, |A|², |B|² and |A - B|²; ``Likeness`` adds them up over batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.integers.checks import finite


def _pair(reference: Any, other: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(reference), np.asarray(other)
    if a.shape != b.shape:
        raise ValueError(f"both tensors must have one shape, got {a.shape} and {b.shape}")
    if a.size == 0:
        raise ValueError(f"the tensors must not be empty, got shape {a.shape}")
    a, b = (finite(array, "the tensors", "fiu").astype(np.float64).ravel() for array in (a, b))
    return a, b


def cosine_of_sums(dot: Any, a_squared: Any, b_squared: Any) -> np.ndarray:
    """<A, B> / (|A|·|B|) from the sums; 1 where both tensors are zero, 0 where one is. Arrays broadcast."""
    dot, a_squared, b_squared = (np.asarray(v, np.float64) for v in (dot, a_squared, b_squared))
    # |A|·|B| by mantissas, whose product neither overflows nor vanishes, and is exact for A = B.
    (a, a_power), (b, b_power) = np.frexp(a_squared), np.frexp(b_squared)
    power = a_power + b_power
    lengths = np.ldexp(np.sqrt(np.ldexp(a * b, power % 2)), power // 2)
    ratio = np.divide(dot, lengths, out=np.zeros(np.broadcast_shapes(dot.shape, lengths.shape)), where=lengths > 0)
    return np.where((a_squared == 0) & (b_squared == 0), 1.0, np.clip(ratio, -1.0, 1.0))


def sqnr_of_sums(signal: float, noise: float) -> float:
    """10·log10(signal / noise): infinite without noise, -infinite without signal."""
    if not noise:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if signal else float("-inf")


class Likeness:
    """The four sums of a tensor and its approximation, in float64, over any number of batches.

    Their squares must stay within float64: magnitudes that are 0 or from 1e-140 to 1e140.

    >>> sums = Likeness()
    >>> sums.add(np.array([1.0, 2.0]), np.array([1.0, 1.9]))
    >>> round(sums.cosine, 4), round(sums.sqnr_db, 2)
    (0.9998, 26.99)
    """

    def __init__(self) -> None:
        self.dot = self.signal = self.other = self.noise = 0.0

    def add(self, reference: np.ndarray, approximation: np.ndarray) -> None:
        """One batch: two arrays of one shape."""
        x, y = reference.astype(np.float64).ravel(), approximation.astype(np.float64).ravel()
        self.dot += float(x @ y)
        self.signal += float(x @ x)
        self.other += float(y @ y)
        self.noise += float((x - y) @ (x - y))

    def merge(self, other: Likeness) -> None:
        """The batches that another one has seen."""
        self.dot += other.dot
        self.signal += other.signal
        self.other += other.other
        self.noise += other.noise

    @property
    def cosine(self) -> float:
        """cos(A, B)."""
        return float(cosine_of_sums(self.dot, self.signal, self.other))

    @property
    def sqnr_db(self) -> float:
        """In decibels."""
        return sqnr_of_sums(self.signal, self.noise)


def cosine(a: Any, b: Any) -> float:
    """cos(A, B) = <A, B> / (|A|·|B|), accumulated in float64: what EasyQuant maximises.

    a, b: one shape, not empty, finite. Two zero tensors are alike (1.0); a zero one and another are
    not (0.0). The cosine does not see a gain: cos(X, 2X) = 1.

    >>> round(cosine([1.0, 0.0], [1.0, 1.0]), 4)
    0.7071
    """
    x, y = _pair(a, b)
    # Dividing by the largest magnitude keeps the squares of tiny and huge tensors in range.
    peak_x, peak_y = np.abs(x).max(), np.abs(y).max()
    if peak_x == 0 or peak_y == 0:
        return 1.0 if peak_x == peak_y else 0.0
    x, y = x / peak_x, y / peak_y
    return float(cosine_of_sums(x @ y, x @ x, y @ y))


def sqnr_db(reference: Any, approximation: Any) -> float:
    """10·log10(Σ reference² / Σ (reference - approximation)²), in decibels.

    Both: one shape, not empty, finite. Infinite when they are equal; -infinite when only the
    reference is zero.

    >>> round(sqnr_db([1.0, 2.0], [1.0, 1.9]), 2)
    26.99
    """
    x, y = _pair(reference, approximation)
    with np.errstate(over="ignore"):
        noise = x - y
    halved = not np.isfinite(noise).all()
    if halved:
        noise = x / 2 - y / 2
    if not noise.any():
        return float("inf")
    if not x.any():
        return float("-inf")
    return 20 * (_log10_norm(x) - _log10_norm(noise) - halved * float(np.log10(2)))


def _log10_norm(x: np.ndarray) -> float:
    """log10 |x|; the largest magnitude is taken out, so that no square overflows or vanishes."""
    peak = np.abs(x).max()
    return float(np.log10(peak) + np.log10(np.sum((x / peak) ** 2)) / 2)
