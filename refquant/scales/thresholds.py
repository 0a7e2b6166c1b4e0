"""Range estimators: from an activation's statistics to a threshold T.

The scale is then S = fmt.max / T, and |x| > T clips. The statistics are those of ``statistics``: extremes and a
histogram of |x|.
"""

from __future__ import annotations

from fractions import Fraction
from numbers import Real

import numpy as np
from scipy.optimize import brentq
from scipy.special import lambertw
from scipy.stats import norm

from refquant.integers.checks import integer, one_of
from refquant.integers.formats import IntFormat
from refquant.scales.kl import (
    NVIDIA_START,
    best_bin,
    check_counts,
    demo_divergences,
    ncnn_divergences,
    tensorrt_divergences,
)
from refquant.scales.linear import max_scale
from refquant.scales.statistics import Extremes, Histogram


def percentile(histogram: Histogram, gamma: float = 99.99) -> float:
    """T: the upper edge of the first bin up to which at least γ percent of all values lie.

    >>> percentile(Histogram(np.array([90, 8, 1, 1]), 0, 4.0), 98)
    2.0
    """
    if not isinstance(gamma, (Real, np.number)) or not 0 < gamma <= 100:
        raise ValueError(f"gamma must be above 0 and at most 100 percent, got {gamma!r}")
    total = int(histogram.counts.sum())
    wanted = -(-Fraction(str(gamma)) * total // 100)  # the decimal that was written, not the float beside it
    kept = int(np.searchsorted(np.cumsum(histogram.counts), int(wanted))) + 1
    return kept / len(histogram.counts) * histogram.limit


def least_squares(histogram: Histogram, levels: int, candidates: int = 128) -> float:
    """T = argmin Σ count·(c - Q(c)/S)² over T = limit·j/candidates, j = 1 .. candidates (the MSE estimator).

    c: the bins' centers, exact zeros left out. levels: the format's largest code, S = levels/T. Of errors
    that are equal to twelve digits the widest T wins, which clips least.
    """
    thresholds = np.arange(1, integer(candidates, "candidates", 1, 2**16) + 1) / candidates  # in units of the limit
    center = histogram.centers
    step = thresholds[:, None] / integer(levels, "levels", 1, 2**32)
    restored = np.minimum(np.floor(center / step + 0.5), levels) * step
    error = (restored - center) ** 2 @ histogram.nonzero_counts
    return float(thresholds[np.flatnonzero(error <= error.min() * (1 + 1e-12))[-1]]) * histogram.limit


def topk_median(extremes: Extremes) -> tuple[float, float]:
    """(r_l, r_u): the medians of the k = 10 smallest and of the k largest values (PWLQ's activation range)."""
    return float(np.median(extremes.smallest)), float(np.median(extremes.largest))


def aciq_ratio(bits: int, distribution: str = "laplace") -> float:
    """The clipping threshold in units of β or σ that minimises ACIQ's expected squared error (Banner et al. 2018).

    Laplace, α in units of β: 2e^(-α) + α²/(3·4^b) is least where α·e^α = 3·4^b. Gauss, in units of σ:
    2∫_α^∞ (x - α)²φ(x)dx + α²/(3·4^b) is least where α = 6·4^b·(φ(α) - α·(1 - Φ(α))).
    bits: 1..16, of a signed format; after ReLU one more.

    >>> round(aciq_ratio(4), 2), round(aciq_ratio(4, "gauss"), 2)
    (5.03, 2.56)
    """
    power = 4.0 ** integer(bits, "bits", 1, 17)
    if distribution == "laplace":
        return float(lambertw(3 * power).real)
    if distribution == "gauss":
        return float(brentq(lambda a: a - 6 * power * (norm.pdf(a) - a * norm.sf(a)), 0.0, 10.0, xtol=1e-14))
    raise ValueError(f"distribution must be laplace or gauss, got {distribution!r}")


def aciq(histogram: Histogram, bits: int, distribution: str = "laplace", after_relu: bool = False) -> float:
    """T = ratio·β with β = E|x|, or ratio·σ with σ² = E[x²], but at most max|x|.

    The density is taken to be symmetric about 0. after_relu: only its positive half was seen; β and σ are
    then those of the values that are not zero, and the ratio is that of one more bit, since none is spent
    on the sign. Moments are those of the bins' centers.
    """
    ratio = aciq_ratio(integer(bits, "bits", 1, 16) + after_relu, distribution)
    counts = histogram.nonzero_counts
    total = counts.sum() if after_relu else histogram.counts.sum()
    if not counts.any():
        return 0.0
    power = 1 if distribution == "laplace" else 2
    moment = float(histogram.centers ** power @ counts / total)
    return min(ratio * moment ** (1 / power), 1.0) * histogram.limit


def kl(histogram: Histogram, levels: int = 128, variant: str = "tensorrt") -> float:
    """The threshold of the number i of kept bins with the least KL(P||Q) (see ``refquant.scales.kl``).

    variant
        ``tensorrt``: i = levels .. B, the first of equal minima, T = (i + 1/2)·limit/B, or limit where i = B.
        ``nvidia``: as NVIDIA's pytorch-quantization searches (``_compute_amax_entropy``): the first bin's count
        is replaced by the second's, i = 128 .. B at every number of levels, the last of equal minima,
        T = i·limit/B. Otherwise the many exact zeros after a ReLU lead to a far too low threshold.
        Differs from that toolkit: divergences within 1e-12 are equal.
        ``ncnn``: exact zeros left out, i = levels .. B-1, the first of equals, T = (i + 1/2)·limit/B. So it clips
        even a constant.
        ``demo``: EasyQuant's authors' code, for histograms of max(x, 0) over 2001 bins up to max|x|: the first bin
        is left out, i = levels .. B-2 of the others, T = (i + 1/2)·limit/B, or limit where no Q is left to compare.
    levels: 128 for 8 bits, 2^(b-1) for b bits; 2^b for unsigned codes.
    """
    if variant not in ("tensorrt", "nvidia", "ncnn", "demo"):
        raise ValueError(f"variant must be tensorrt, nvidia, ncnn or demo, got {variant!r}")
    check_counts(histogram.counts, levels)
    if variant == "nvidia":
        check_counts(histogram.counts, NVIDIA_START - 1)
    if histogram.limit == 0:
        return 0.0
    bins = len(histogram.counts)
    if variant == "nvidia":
        counts = histogram.counts.copy()
        counts[0] = counts[1]
        kept = best_bin(tensorrt_divergences(counts, levels, NVIDIA_START), NVIDIA_START, last=True)
        return kept / bins * histogram.limit
    if variant == "demo":
        positive = histogram.counts[1:]
        divergences = demo_divergences(positive, levels) if positive.any() else np.array([np.inf])
        kept = best_bin(divergences, levels) if np.isfinite(divergences).any() else bins
    elif variant == "ncnn":
        kept = best_bin(ncnn_divergences(histogram.nonzero_counts, levels), levels)
    else:
        kept = best_bin(tensorrt_divergences(histogram.counts, levels), levels)
    return histogram.limit if kept == bins else (kept + 0.5) / bins * histogram.limit


ESTIMATORS = ("max", "percentile", "mse", "topk_median", "aciq_laplace", "aciq_gauss", "kl_tensorrt", "kl_nvidia",
              "kl_ncnn")


def threshold(extremes: Extremes, histogram: Histogram, estimator: str, fmt: IntFormat) -> float:
    """The threshold of one of ESTIMATORS for codes of ``fmt``; 0 where all values are zero.

    An unsigned format is taken to follow a ReLU: one bit more for ACIQ, twice the levels for KL (at most half
    the bins). Values count by their magnitude, whatever the format.

    extremes, histogram: of one tensor (``scales.statistics``). fmt: with positive codes; for ACIQ at most 16 bits.
    ValueError for other words and formats, and for KL where the histogram has too few bins: ``kl_nvidia`` needs 129.
    """
    if not isinstance(fmt, IntFormat) or fmt.max < 1:
        raise ValueError(f"fmt must be an IntFormat with positive codes, got {fmt}")
    one_of(estimator, ESTIMATORS, "estimator")
    if estimator == "max":
        return extremes.magnitude
    if estimator == "percentile":
        return percentile(histogram)
    if estimator == "mse":
        return least_squares(histogram, fmt.max)
    if estimator == "topk_median":
        return max(map(abs, topk_median(extremes)))
    if estimator in ("aciq_laplace", "aciq_gauss"):
        return aciq(histogram, fmt.bits, estimator.removeprefix("aciq_"), after_relu=not fmt.signed)
    return kl(histogram, min(fmt.max + 1, len(histogram.counts) // 2), estimator.removeprefix("kl_"))


def threshold_scale(limit: float, fmt: IntFormat) -> float:
    """S = fmt.max / float32(T); 1 for the threshold 0 of a tensor that is all zero. limit: T, finite, >= 0."""
    if not 0 <= limit < np.inf:
        raise ValueError(f"limit must be finite and >= 0, got {limit}")
    return float(max_scale(np.array([in_float32(limit)]), fmt))


def in_float32(limit: float) -> float:
    """A threshold rounded to float32, as it is before a scale is made from it.

    Statistics in float64 differ between machines in their last bits, because sums are added up in another order.
    Rounded, the thresholds agree, and so do the scales. Beyond float32's normal range it stays as it is.
    """
    with np.errstate(over="ignore"):
        rounded = float(np.float32(limit))
    return rounded if np.isfinite(rounded) and abs(rounded) >= np.finfo(np.float32).tiny else float(limit)
