"""The threshold with the least Kullback-Leibler divergence, as TensorRT, ncnn and EasyQuant's code search it.

KL(P||Q) = Σ P·log(P/Q), P the histogram clipped at a threshold, Q the same after merging its bins into
the levels of the integer format (Migacz, "8-bit inference with TensorRT", 2017). Every search reads the
counts of |x| over equal bins. A plain function gives the divergence of one threshold; TensorRT's and ncnn's
are also evaluated for all thresholds together, from prefix sums.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import xlogy

from refquant.integers.checks import integer

NCNN_EPSILON = DEMO_EPSILON = 1e-4
# NVIDIA's toolkit starts at 128 kept bins, whatever the number of levels.
NVIDIA_START = 128
# Divergences as near as this are equal.
TOLERANCE = 1e-12


def check_counts(counts: np.ndarray, levels: int) -> None:
    """ValueError unless ``counts`` is a histogram that is not empty, with more than ``levels`` bins."""
    levels = integer(levels, "levels", 1)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or len(counts) <= levels:
        raise ValueError(f"counts must be one row of more than {levels} integers, got shape {counts.shape} of "
                         f"{counts.dtype}")
    if counts.min() < 0 or not counts.any():
        raise ValueError(f"counts must be >= 0 and not all zero, got {counts.min()}..{counts.max()}")


def best_bin(divergences: np.ndarray, start: int, last: bool = False) -> int:
    """How many bins the first threshold within 1e-12 of the least divergence keeps; with ``last`` the last one.

    divergences: of start, start + 1, ... kept bins.
    """
    best = np.flatnonzero(divergences <= divergences.min() + TOLERANCE)
    return int(start) + int(best[-1 if last else 0])


def tensorrt_divergence(counts: np.ndarray, kept: int, levels: int = 128) -> float:
    """KL(P||Q) when the first ``kept`` bins are kept: TensorRT's steps, one after another.

    P: the kept bins, everything beyond added to the last of them. Q: the kept bins *without* that tail;
    bin k goes to level k·levels // kept, and a level's mass is spread evenly over its bins that are not
    empty. Both are normalised. Infinite where P > 0 and Q = 0: an empty last bin that gets a tail.

    >>> tensorrt_divergence(np.array([4, 2, 0, 2]), 4, 2)  # Q is 3, 3, 0, 2
    0.0424...
    """
    p = counts[:kept].astype(np.float64)
    p[-1] += counts[kept:].sum()
    q = np.zeros(kept)
    level = np.arange(kept) * levels // kept
    for index in range(levels):
        members = (level == index) & (counts[:kept] > 0)
        if members.any():
            q[members] = counts[:kept][members].sum() / members.sum()
    if not q.any():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    seen = p > 0
    if (q[seen] == 0).any():
        return float("inf")
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen])))


def tensorrt_divergences(counts: np.ndarray, levels: int = 128, start: int | None = None) -> np.ndarray:
    """``tensorrt_divergence`` for every threshold, kept = start .. len(counts).

    counts: (B,) integers. start: the first number of kept bins, by default ``levels``. Returns (B - start + 1,).
    With N values in all, n of them in the kept bins, S_l the count and C_l the number of non-empty bins of level
    l, the levels' bins being consecutive, and the last kept bin in level m:
    KL = 1/N·[Σ p·log p - Σ_l (S_l + tail if l = m)·log(S_l/C_l)] - log N + log n.
    """
    check_counts(counts, levels)
    start = int(levels if start is None else start)
    counts, levels = counts.astype(np.float64), int(levels)
    total = float(counts.sum())
    mass = _prefix(counts)
    filled = _prefix(counts > 0)
    entropy = _prefix(xlogy(counts, counts))
    kept = np.arange(start, len(counts) + 1)
    last = counts[kept - 1]
    inside = mass[kept]
    tail = total - inside
    p_log_p = entropy[kept] - xlogy(last, last) + xlogy(last + tail, last + tail)
    edges = _level_edges(len(counts), levels, start)
    level_mass = np.diff(mass[edges], axis=1)
    height = level_mass / np.maximum(np.diff(filled[edges], axis=1), 1)
    level_mass[np.arange(len(kept)), (kept - 1) * levels // kept] += tail
    with np.errstate(divide="ignore", invalid="ignore"):
        p_log_q = xlogy(level_mass, height).sum(axis=1)
        divergence = (p_log_p - p_log_q) / total - np.log(total) + np.log(inside)
    divergence[(last == 0) & (tail > 0)] = np.inf
    return divergence


def _prefix(values: np.ndarray) -> np.ndarray:
    """(B + 1,) sums of the first 0, 1, ... B values."""
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


@lru_cache(maxsize=8)
def _level_edges(bins: int, levels: int, start: int) -> np.ndarray:
    """(B - start + 1, levels + 1): level l of the first k bins is bins ceil(l·k/levels) up to the next edge."""
    kept = np.arange(start, bins + 1)[:, None]
    edges = -(-kept * np.arange(levels + 1) // levels)
    edges.flags.writeable = False
    return edges


def ncnn_divergence(counts: np.ndarray, kept: int, levels: int = 128) -> float:
    """KL(P||Q) when the first ``kept`` bins are kept: ncnn's steps, one after another.

    counts: without exact zeros, which ncnn does not count; normalised once, over all bins. Each level is
    kept/levels bins wide, fractions of bins included; its mean is spread over *all* its bins; 1e-4 is
    added to every bin of P and Q, and neither is normalised again. Differs from ncnn: float64, not float32.
    """
    frequency = counts / counts.sum()
    p = frequency[:kept] + NCNN_EPSILON
    p[-1] += frequency[kept:].sum()
    q = np.full(kept, NCNN_EPSILON)
    for index in range(levels):
        # Of bin k, level ``index`` covers as much as [index, index + 1]·kept/levels overlaps [k, k + 1].
        first, end = index * kept // levels, -(-(index + 1) * kept // levels)
        cover = {k: (min((k + 1) * levels, (index + 1) * kept) - max(k * levels, index * kept)) / levels
                 for k in range(first, end)}
        mean = sum(share * frequency[k] for k, share in cover.items()) / (kept / levels)
        for k, share in cover.items():
            q[k] += share * mean
    return float(np.sum(p * np.log(p / q)))


def ncnn_divergences(counts: np.ndarray, levels: int = 128) -> np.ndarray:
    """``ncnn_divergence`` for every threshold that ncnn tries, kept = levels .. len(counts) - 1.

    counts: (B,) integers. Returns (B - levels,). Every bin lies within one level or is shared by two.
    """
    check_counts(counts, levels)
    total, levels = float(counts.sum()), int(levels)
    frequency = counts / total
    p = frequency + NCNN_EPSILON
    mass = _prefix(counts) / total
    # Every empty bin adds the same constant. It is left out of the running sums: its rounding errors would add up.
    below, empty = np.arange(len(counts) + 1), NCNN_EPSILON * np.log(NCNN_EPSILON)
    p_sum = mass + NCNN_EPSILON * below
    p_log_p = _prefix(p * np.log(p) - empty) + empty * below
    kept = np.arange(levels, len(counts))
    tail = (total - _prefix(counts)[kept]) / total
    last = p[kept - 1]
    entropy = p_log_p[kept - 1] + (last + tail) * np.log(last + tail)
    # The levels' edges as bin and fraction of it; the mass below an edge by interpolation.
    whole, share = _fractional_edges(len(counts), levels)
    bin_mass = np.append(frequency, 0.0)[whole]
    mean = np.diff(mass[whole] + share * bin_mass, axis=1) / (kept[:, None] / levels)
    log_q = np.log(mean + NCNN_EPSILON)
    # Bins that lie whole within a level: from the first edge rounded up to the second rounded down.
    inner = p_sum[whole[:, 1:]] - p_sum[whole[:, :-1] + (share[:, :-1] > 0)]
    cross = np.einsum("kl,kl->k", inner, log_q) + tail * log_q[:, -1]
    # A bin that an inner edge cuts gets a share of the level on either side.
    cut = share[:, 1:-1]
    mixed = np.log(mean[:, 1:] + cut * (mean[:, :-1] - mean[:, 1:]) + NCNN_EPSILON)
    return entropy - cross - np.einsum("kl,kl,kl->k", bin_mass[:, 1:-1] + NCNN_EPSILON, mixed, cut > 0)


@lru_cache(maxsize=8)
def _fractional_edges(bins: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Both (B - levels, levels + 1): edge l of the first k bins lies at l·k/levels, as bin and fraction.

    Of 5 bins in 2 levels, the middle edge lies at 2.5: bin 2 and half of it.
    """
    whole, rest = np.divmod(np.arange(levels, bins)[:, None] * np.arange(levels + 1), levels)
    share = rest / levels
    whole.flags.writeable = share.flags.writeable = False
    return whole, share


def demo_divergence(counts: np.ndarray, kept: int, levels: int = 128) -> float:
    """KL(P||Q) when the first ``kept`` bins are kept: the steps of the code that EasyQuant's authors published.

    counts: of the positive values, without the first bin. P: the kept bins, everything beyond added to the last.
    Q: the kept bins *without* that tail; each level is kept // levels bins wide and the last one takes the
    remainder. A level's mass is spread over its bins where P is not empty; the very last bin gets none of it.
    In both, empty bins are raised to 1e-4 counts, which the others give up in equal parts, and both are
    normalised. Infinite where Q is empty, where that code stops. Differs from it: float64, not float32.
    """
    p = counts[:kept].astype(np.float64)
    p[-1] += counts[kept:].sum()
    level = np.minimum(np.arange(kept) // (kept // levels), levels - 1)
    mass = np.bincount(level, counts[:kept], levels)
    spread = p > 0
    spread[-1] = False
    filled = np.bincount(level, spread, levels)
    q = np.where(spread, (mass / np.maximum(filled, 1))[level], 0.0)
    if not q.any():
        return float("inf")
    p, q = _smoothed(p), _smoothed(q)
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p * np.log(p / q)))


def _smoothed(p: np.ndarray) -> np.ndarray:
    empty = p == 0
    return np.where(empty, DEMO_EPSILON, p - DEMO_EPSILON * empty.sum() / (~empty).sum())


def demo_divergences(counts: np.ndarray, levels: int = 128) -> np.ndarray:
    """``demo_divergence`` for every threshold that the code tries, kept = levels .. len(counts) - 1."""
    check_counts(counts, levels)
    return np.array([demo_divergence(counts, kept, int(levels)) for kept in range(int(levels), len(counts))])
