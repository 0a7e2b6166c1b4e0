"""Activation statistics and range estimators against sorted lists, exact rationals, plain loops and tables."""
from __future__ import annotations

import math
import statistics
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kl_oracle import demo_loop, first_minimum, ncnn_loop, tensorrt_loop

from refquant.integers.formats import IntFormat
from refquant.scales.statistics import BINS, Extremes, Histogram
from refquant.scales.thresholds import (
    ESTIMATORS,
    aciq,
    aciq_ratio,
    in_float32,
    kl,
    least_squares,
    percentile,
    threshold,
    threshold_scale,
    topk_median,
)

NARROW, BYTE = IntFormat(8, narrow=True), IntFormat(8, signed=False)
LARGEST, SMALLEST = 1.7976931348623157e308, 5e-324
SMALLEST_NORMAL, SMALLEST_SINGLE = 2.0**-1022, 2.0**-149

estimators = pytest.mark.parametrize("estimator", ESTIMATORS)


def statistics_of(x: Any, limit: float | None = None, bins: int = BINS) -> tuple[Extremes, Histogram]:
    extremes = Extremes.of(x)
    return extremes, Histogram.of(x, extremes.magnitude if limit is None else limit, bins)


def counted(counts: list[int], limit: float = 1.0, zeros: int = 0) -> Histogram:
    return Histogram(np.array(counts), zeros, limit)


# --- statistics ---------------------------------------------------------------------------------------

def own_counts(x: list[float], limit: float, bins: int) -> list[int]:
    counts = [0] * bins
    for value in x:
        counts[min(int(abs(value) / limit * bins), bins - 1) if limit else 0] += 1
    return counts


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    """Up to 60 floats of either width: denormals, the largest, both zeros, many repeated, one sign or two."""
    width = draw(st.sampled_from((32, 64)))
    repeated = st.sampled_from((0.0, -0.0, 1.0, -1.0, 0.5, SMALLEST_SINGLE, -SMALLEST_SINGLE, 2.0**-126, 2.0**127))
    elements = draw(st.sampled_from((
        repeated, st.floats(allow_nan=False, allow_infinity=False, width=width), st.floats(-2, 2, width=width),
        st.integers(-9, 9).map(lambda v: v / 8), st.floats(0, 1, width=width), st.floats(-4, -1, width=width))))
    size = draw(st.integers(1, 12) | st.integers(1, 60))
    return draw(arrays(np.dtype(f"f{width // 8}"), size, elements=elements, fill=st.nothing()))


@given(tensors(), st.sampled_from((1, 2, 7, 100, BINS)))
@example(np.zeros(3, np.float32), BINS)
@example(np.array([-0.0]), 1)
@example(np.full(30, SMALLEST), BINS)
@example(np.array([LARGEST, -LARGEST, 0.0]), BINS)
@example(np.array([LARGEST, -LARGEST, SMALLEST]), 7)
@example(-np.arange(1.0, 26.0), 7)
@example(np.arange(5.0), BINS)
@example(np.arange(11.0), BINS)
@example(np.arange(20.0), BINS)
@example(np.arange(21.0), BINS)
def test_statistics_are_those_of_sorted_lists_and_counted_bins(x, bins):
    extremes, histogram = statistics_of(x, bins=bins)
    smallest, largest = sorted(x.tolist())[:10], sorted(x.tolist())[-10:]
    assert (extremes.smallest.tolist(), extremes.largest.tolist()) == (smallest, largest)
    assert extremes.smallest.dtype == extremes.largest.dtype == np.float64
    limit = max(abs(v) for v in x.tolist())
    if limit < LARGEST / 2:  # the mean of the two middle ones stays finite
        assert topk_median(extremes) == (statistics.median(smallest), statistics.median(largest))
    assert (extremes.low, extremes.high, extremes.magnitude) == (min(x.tolist()), max(x.tolist()), limit)
    assert [type(v) for v in (extremes.low, extremes.high, extremes.magnitude, histogram.limit)] == [float] * 4
    expected = own_counts(x.tolist(), limit, bins)
    assert histogram.counts.dtype == np.int64 and histogram.counts.tolist() == expected
    assert (histogram.zeros, histogram.limit) == (x.tolist().count(0.0), limit) and type(histogram.zeros) is int
    expected[0] -= histogram.zeros
    assert histogram.nonzero_counts.tolist() == expected
    assert not any(a.flags.writeable for a in (histogram.counts, extremes.smallest, extremes.largest))


@given(tensors(), st.randoms(use_true_random=False), st.integers(1, 5))
@example(np.zeros(1), Random(0), 1)
@example(np.full(60, -0.1, np.float32), Random(0), 3)
@example(np.arange(60.0), Random(0), 3)
@example(np.full(12, SMALLEST), Random(0), 3)
def test_statistics_of_any_parts_in_any_order_merge_to_those_of_the_whole(x, random, count):
    whole = statistics_of(x)
    order = random.sample(range(x.size), x.size)
    parts = [statistics_of(x[order[i::count]], whole[0].magnitude) for i in range(min(count, x.size))]
    while len(parts) > 1:
        a, b = (parts.pop(random.randrange(len(parts))) for _ in range(2))
        parts.append((a[0].merge(b[0]), a[1].merge(b[1])))
    for name in ("smallest", "largest"):
        assert getattr(parts[0][0], name).tolist() == getattr(whole[0], name).tolist()
    assert parts[0][1].counts.tolist() == whole[1].counts.tolist()
    assert (parts[0][1].zeros, parts[0][1].limit) == (whole[1].zeros, whole[1].limit)


@pytest.mark.parametrize("limit", [2048.0, 1.0, 2.0**-1000, 2.0**900])
def test_a_value_on_an_edge_belongs_to_the_bin_above_and_the_largest_to_the_last(limit):
    edges = np.arange(2049) * (limit / 2048)
    assert Histogram.of(edges, limit).counts.tolist() == [1] * 2047 + [2]
    below = np.nextafter(edges[1:], 0)
    assert Histogram.of(-below, limit).counts.tolist() == [1] * 2048


# --- percentile ---------------------------------------------------------------------------------------

counts_of_few_bins = st.lists(st.sampled_from((0, 0, 1)) | st.integers(0, 10**6), min_size=2, max_size=40).filter(any)


@given(counts_of_few_bins, st.sampled_from((50.0, 25.0, 12.5, 100.0, 1e-9)) | st.floats(1e-6, 100),
       st.floats(0.01, 100))
@example([1, 1], 50.0, 1.0)  # just half
@example([1, 1], math.nextafter(50.0, 100), 1.0)  # a hair more than half takes both
@example([0, 0, 1, 0], 100.0, 1.0)
@example([10**6, 0, 0, 1], 99.9999, 1.0)
def test_percentile_is_the_upper_edge_of_the_first_bin_that_completes_it(counts, gamma, limit):
    kept = next(kept for kept in range(1, len(counts) + 1)
                if 100 * sum(counts[:kept]) >= Fraction(gamma) * sum(counts))
    got = percentile(counted(counts, limit), gamma)
    assert type(got) is float and got == pytest.approx(kept * limit / len(counts), rel=1e-15)


@pytest.mark.parametrize("counts, gamma, kept", [
    ([90, 8, 1, 1], 98, 2), ([90, 8, 1, 1], 90, 1), ([90, 8, 1, 1], 90.5, 2), ([90, 8, 1, 1], 100, 4),
    ([9998, 0, 1, 1], 99.99, 3), ([0, 0, 0, 1], 0.1, 4),
    # 999 of 1000 values are 99.9 percent, though the float 99.9 lies above 99.9.
    ([999, 0, 0, 1], 99.9, 1), ([9999, 0, 0, 1], 99.99, 1), ([997, 3, 0, 0], 99.7, 1), ([1, 0, 0, 999], 0.1, 1),
    ([1, 1, 0, 0], np.float32(50), 1), ([1, 1, 0, 0], np.int8(50), 1), ([1, 1, 0, 0], Fraction(50), 1)])
def test_percentiles_by_hand(counts, gamma, kept):
    assert percentile(counted(counts, 4.0), gamma) == kept


@pytest.mark.parametrize("bins, limit", [(3, 0.40363861228031894), (100, 0.659903118473408)])
def test_a_threshold_of_all_bins_is_the_limit_to_the_last_bit(bins, limit):
    last = counted([0] * (bins - 1) + [1], limit)
    assert percentile(last) == kl(last, 2) == limit


# --- mse ----------------------------------------------------------------------------------------------

def own_squared_error(counts: list[int], zeros: int, step: Fraction, levels: int) -> Fraction:
    """Of the bins' centers on [0, 1], exactly; ties are rounded up, which leaves the same error as down."""
    total = Fraction(0)
    for k, count in enumerate(counts):
        center = Fraction(2 * k + 1, 2 * len(counts))
        code = min(math.floor(center / step + Fraction(1, 2)), levels)
        total += (count - (zeros if k == 0 else 0)) * (code * step - center) ** 2
    return total


@given(st.lists(st.sampled_from((0, 0, 1)) | st.integers(0, 1000), min_size=2, max_size=16).filter(any),
       st.integers(1, 20) | st.sampled_from((63, 127, 255)), st.integers(1, 16), st.booleans(),
       st.sampled_from((1.0, 0.75, 2.0**-130, 2.0**130)))
@example([0, 0, 0, 1], 127, 16, False, 1.0)
@example([5, 0, 0, 0], 1, 16, True, 1.0)  # nothing but zeros: every candidate is perfect, the widest wins
@example([1, 1], 1, 2, False, 1.0)
def test_mse_threshold_has_the_least_exact_error_of_equals_the_widest(counts, levels, candidates, zeros, limit):
    hidden = counts[0] if zeros else 0
    errors = {j: own_squared_error(counts, hidden, Fraction(j, candidates * levels), levels)
              for j in range(1, candidates + 1)}
    least = min(errors.values())
    got = least_squares(counted(counts, limit, hidden), levels, candidates)
    chosen = round(got / limit * candidates)
    assert type(got) is float and got == limit * (chosen / candidates)
    # Double precision cannot tell a perfect candidate from one off by 1e-16 of the range.
    noise = Fraction(sum(counts), 10**30)
    assert errors[chosen] <= least * (1 + Fraction(1, 10**9)) + noise
    near = [j for j, error in errors.items() if error <= least * (1 + Fraction(1, 10**9)) + noise]
    if all(errors[j] <= least * (1 + Fraction(1, 10**14)) for j in near):
        assert chosen == max(near)


@pytest.mark.parametrize("fmt", [IntFormat(4, narrow=True), IntFormat(4, signed=False), IntFormat(6, signed=False)],
                         ids=str)
@pytest.mark.parametrize("estimator", ["mse", "aciq_laplace", "aciq_gauss"])
def test_a_threshold_leaves_nearly_the_least_error_of_a_grid(estimator, fmt):
    rng = np.random.default_rng(9)
    x = (rng.normal if estimator == "aciq_gauss" else rng.laplace)(size=200000)
    x = x if fmt.signed else np.maximum(x, 0)
    extremes, histogram = statistics_of(x)

    def error(limit: float) -> float:
        scale = fmt.max / limit
        return float(np.mean((np.clip(np.rint(x * scale), fmt.min, fmt.max) / scale - x) ** 2))

    least = min(error(limit) for limit in np.arange(0.05, 1, 0.01) * histogram.limit)
    assert error(threshold(extremes, histogram, estimator, fmt)) <= 1.05 * least


# --- top-k median -------------------------------------------------------------------------------------

def test_topk_median_by_hand():
    # The ten smallest are -5, 0 .. 8 and the ten largest 11 .. 19, 100: medians 3.5 and 15.5.
    assert topk_median(Extremes.of(np.array([100.0, -5.0, *range(20)]))) == (3.5, 15.5)


# --- ACIQ ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bits", range(1, 18))
def test_the_printed_error_has_its_minimum_at_aciq_ratio(bits):
    """Half its derivative in α is negative just below and positive just above."""
    def laplace(a: float) -> float:
        return a / (3 * 4**bits) - math.exp(-a)

    def gauss(a: float) -> float:
        density, beyond = math.exp(-a * a / 2) / math.sqrt(2 * math.pi), math.erfc(a / math.sqrt(2)) / 2
        return a / (3 * 4**bits) - 2 * (density - a * beyond)

    for slope, distribution, near in ((laplace, "laplace", 1e-13), (gauss, "gauss", 1e-9)):
        ratio = aciq_ratio(bits, distribution)
        assert type(ratio) is float and slope(ratio * (1 - near)) < 0 < slope(ratio * (1 + near))


def test_aciq_ratios_are_within_0_011_of_the_published_tables():
    for bits, published in zip((2, 3, 4), (2.83, 3.90, 5.03)):
        assert abs(aciq_ratio(bits) - published) <= 0.011
    for bits, published in zip(range(1, 9), (1.24, 1.71, 2.15, 2.56, 2.94, 3.29, 3.62, 3.92)):
        assert abs(aciq_ratio(bits, "gauss") - published) <= 0.011


@given(counts_of_few_bins, st.integers(1, 16), st.sampled_from(("laplace", "gauss")), st.booleans(), st.booleans(),
       st.sampled_from((1.0, 3.0, 2.0**-140, 1e30)))
@example([0, 0, 0, 1], 8, "laplace", False, False, 1.0)  # max|x| is less than the ratio allows
def test_aciq_is_its_ratio_times_the_moment_of_the_centers(counts, bits, distribution, after_relu, zeros, limit):
    hidden = counts[0] if zeros else 0
    got = aciq(counted(counts, limit, hidden), bits, distribution, after_relu)
    seen = [counts[0] - hidden, *counts[1:]]
    if not any(seen):
        assert got == 0
        return
    power = {"laplace": 1, "gauss": 2}[distribution]
    moment = sum(count * Fraction(2 * k + 1, 2 * len(counts)) ** power for k, count in enumerate(seen))
    moment /= sum(seen) if after_relu else sum(counts)
    spread = float(moment) ** (1 / power)
    assert got == pytest.approx(limit * min(aciq_ratio(bits + after_relu, distribution) * spread, 1), rel=1e-12)
    assert type(got) is float and got <= limit


# --- KL -----------------------------------------------------------------------------------------------

def own_kl(counts: list[int], zeros: int, levels: int, variant: str) -> Fraction:
    """The threshold in units of the limit."""
    bins = len(counts)
    if variant == "nvidia":  # at least 128 bins at any number of levels; the last of equal minima; the edge itself
        values = [tensorrt_loop([counts[1], *counts[1:]], kept, levels) for kept in range(128, bins + 1)]
        return Fraction(bins - first_minimum(values[::-1], 0), bins)
    if variant == "demo":  # the first bin left out
        values = [demo_loop(counts[1:], kept, levels) if any(counts[1:]) else math.inf
                  for kept in range(levels, bins - 1)]
        kept = bins if min(values) == math.inf else first_minimum(values, levels)
    elif variant == "ncnn":  # exact zeros left out
        kept = first_minimum([ncnn_loop([counts[0] - zeros, *counts[1:]], kept, levels)
                              for kept in range(levels, bins)], levels)
    else:
        kept = first_minimum([tensorrt_loop(counts, kept, levels) for kept in range(levels, bins + 1)], levels)
    return Fraction(1) if kept == bins else (kept + Fraction(1, 2)) / bins


@pytest.mark.parametrize("variant", ["tensorrt", "ncnn", "demo"])
@given(st.lists(st.integers(0, 3) | st.integers(0, 1000), min_size=10, max_size=24).filter(any),
       st.integers(1, 8), st.integers(0, 1000))
@example([0, 1, 0, 0, 1, 0, 0, 0, 0, 0], 2, 0)
@example([0] * 9 + [1], 2, 0)  # a constant: TensorRT keeps all, ncnn the first threshold, and there is no Q for demo
@example([9] + [0] * 9, 2, 0)  # all of it in the bin that demo leaves out
@example([93, 1, 7, 0, 6, 6, 9, 0, 7, 0], 2, 90)  # exact zeros count for TensorRT alone
def test_kl_threshold_is_half_a_bin_beyond_the_first_least_divergence(variant, counts, levels, zeros):
    zeros = min(zeros, counts[0]) if any(counts[1:]) else 0
    got = kl(counted(counts, 3.0, zeros), levels, variant)
    assert type(got) is float and got == pytest.approx(float(3 * own_kl(counts, zeros, levels, variant)), rel=1e-15)


@given(st.lists(st.integers(0, 3) | st.integers(0, 1000), min_size=129, max_size=136).filter(any),
       st.sampled_from([1, 2, 7, 8, 64, 127, 128]))
@example([8] * 140, 2)  # every threshold clips nothing of note and merges alike: the last one
@example([0] * 127 + [5], 127)
@example([100] * 140 + [0] * 159 + [1], 256)  # 256 levels of unsigned codes: fewer kept bins are a level each
def test_nvidia_starts_at_128_bins_and_takes_the_last_of_equal_minima(counts, levels):
    counts[-1] += 1  # where max|x| falls
    got = kl(counted(counts, 3.0), levels, "nvidia")
    assert got == pytest.approx(float(3 * own_kl(counts, 0, levels, "nvidia")), rel=1e-15)


# --- by name -----------------------------------------------------------------------------------------

def direct(extremes: Extremes, histogram: Histogram, estimator: str, fmt: IntFormat) -> float:
    levels = min(2 ** (fmt.bits - fmt.signed), len(histogram.counts) // 2)  # no bit is spent on a sign
    return {
        "max": lambda: max(abs(extremes.low), abs(extremes.high)),
        "percentile": lambda: percentile(histogram, 99.99),
        "mse": lambda: least_squares(histogram, fmt.max, 128),
        "topk_median": lambda: max(abs(r) for r in topk_median(extremes)),
        "aciq_laplace": lambda: aciq(histogram, fmt.bits, "laplace", not fmt.signed),
        "aciq_gauss": lambda: aciq(histogram, fmt.bits, "gauss", not fmt.signed),
        "kl_tensorrt": lambda: kl(histogram, levels, "tensorrt"),
        "kl_nvidia": lambda: kl(histogram, levels, "nvidia"),
        "kl_ncnn": lambda: kl(histogram, levels, "ncnn"),
    }[estimator]()


FORMATS = [IntFormat(b, narrow=True) for b in (2, 4, 7, 8)] + [IntFormat(b, signed=False) for b in (1, 4, 7, 8)] + [
    IntFormat(8), IntFormat(16)]


@estimators
@pytest.mark.parametrize("bins", [BINS, 129])
def test_threshold_by_name_is_the_direct_call_and_its_scale_the_largest_code_over_it(estimator, bins):
    x = np.random.default_rng(10).laplace(size=3000)
    for fmt in FORMATS:
        extremes, histogram = statistics_of(x if fmt.signed else np.maximum(x, 0), bins=bins)
        got = threshold(extremes, histogram, estimator, fmt)
        assert type(got) is float and got == direct(extremes, histogram, estimator, fmt)
        assert 0 < got <= extremes.magnitude
        scale = threshold_scale(got, fmt)
        assert type(scale) is float and scale == fmt.max / float(np.float32(got))


@estimators
@pytest.mark.parametrize("x", [[0.0, 0.0], [-0.0], [SMALLEST], [SMALLEST_NORMAL, 0.0, 3 * SMALLEST], [LARGEST] * 5,
                               [-LARGEST, 1e300, 1.0, 0.0], [2.0**-149] * 3, [2.0**127, -1.0, 1.0]])
def test_thresholds_of_zeros_and_of_the_smallest_and_largest_floats_are_within_their_range(estimator, x):
    extremes, histogram = statistics_of(np.array(x))
    for fmt in (NARROW, BYTE):
        got = threshold(extremes, histogram, estimator, fmt)
        assert type(got) is float and 0 <= got <= extremes.magnitude
        scale = threshold_scale(got, fmt)
        assert 0 < scale <= LARGEST and (scale == 1.0 or any(x))


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_thresholds_that_differ_in_their_last_bits_give_one_scale(limit):
    for other in (limit, limit * (1 - 2.0**-40), limit * (1 + 2.0**-40)):
        assert in_float32(other) == limit and in_float32(-other) == -limit
        assert threshold_scale(other, NARROW) == 127 / limit


@pytest.mark.parametrize("limit", [1e300, 4e38, 1e-39, 5e-324])
def test_a_threshold_that_float32_does_not_hold_stays_as_it_is(limit):
    assert in_float32(limit) == limit and in_float32(-limit) == -limit and in_float32(0.0) == 0
