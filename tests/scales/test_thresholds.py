"""Activation statistics and range estimators against sorted lists, exact rationals, plain loops and tables."""
from __future__ import annotations

import math
import statistics
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import entropy
from test_kl import first_minimum, ncnn_loop, tensorrt_loop

from refquant.integers.formats import IntFormat
from refquant.scales.kl import demo_divergences, tensorrt_divergences
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


# --- statistics: own versions on Python floats --------------------------------------------------------

def own_extremes(x: list[float]) -> tuple[list[float], list[float]]:
    return sorted(x)[:10], sorted(x)[-10:]


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


def same(a: tuple[Extremes, Histogram], b: tuple[Extremes, Histogram]) -> None:
    for one, other in zip((a[0].smallest, a[0].largest, a[1].counts), (b[0].smallest, b[0].largest, b[1].counts)):
        assert one.dtype == other.dtype and one.tolist() == other.tolist()
    assert (a[1].zeros, a[1].limit) == (b[1].zeros, b[1].limit)


@given(tensors(), st.sampled_from((1, 2, 7, 100, BINS)))
@example(np.zeros(3, np.float32), BINS)
@example(np.array([-0.0]), 1)
@example(np.full(30, SMALLEST), BINS)
@example(np.array([LARGEST, -LARGEST, 0.0]), BINS)
@example(np.array([LARGEST, -LARGEST, SMALLEST]), 7)
@example(-np.arange(1.0, 26.0), 7)
@example(np.arange(20.0), BINS)
@example(np.arange(21.0), BINS)
def test_statistics_are_those_of_sorted_lists_and_counted_bins(x, bins):
    extremes, histogram = statistics_of(x, bins=bins)
    smallest, largest = own_extremes(x.tolist())
    assert (extremes.smallest.tolist(), extremes.largest.tolist()) == (smallest, largest)
    assert extremes.smallest.dtype == extremes.largest.dtype == np.float64
    limit = max(abs(v) for v in x.tolist())
    assert (extremes.low, extremes.high, extremes.magnitude) == (min(x.tolist()), max(x.tolist()), limit)
    assert [type(v) for v in (extremes.low, extremes.high, extremes.magnitude, histogram.limit)] == [float] * 4
    expected = own_counts(x.tolist(), limit, bins)
    assert histogram.counts.dtype == np.int64 and histogram.counts.tolist() == expected
    assert (histogram.zeros, histogram.limit) == (x.tolist().count(0.0), limit) and type(histogram.zeros) is int
    expected[0] -= histogram.zeros
    assert histogram.nonzero_counts.tolist() == expected
    assert sum(histogram.counts) == x.size


@given(tensors(), st.data())
@example(np.zeros(1), None)
@example(np.full(60, -0.1, np.float32), None)
@example(np.arange(60.0), None)
@example(np.full(12, SMALLEST), None)
def test_statistics_of_any_split_in_any_order_merge_to_those_of_the_whole(x, data):
    whole = statistics_of(x)
    if data is None:
        cuts, order, grouping = [x.size // 3] if x.size > 2 else [], None, 0
    else:
        cuts = sorted(data.draw(st.sets(st.integers(1, x.size - 1), max_size=4))) if x.size > 1 else []
        order = data.draw(st.permutations(range(x.size)))
        grouping = data.draw(st.integers(0, len(cuts)))
    parts = [statistics_of(part, whole[0].magnitude) for part in np.split(x if order is None else x[order], cuts)]

    def merge(a, b):
        return a[0].merge(b[0]), a[1].merge(b[1])

    same(reduce(merge, parts), whole)
    same(reduce(merge, parts[::-1]), whole)
    # Not only one after another: first some, then the rest, then both.
    if 0 < grouping:
        same(merge(reduce(merge, parts[grouping:]), reduce(merge, parts[:grouping])), whole)


def test_a_merge_leaves_its_parts_as_they_were():
    a, b = statistics_of(np.array([1.0, 2.0]), 9.0), statistics_of(np.array([-3.0, 9.0, 0.0]), 9.0)
    a[0].merge(b[0]), a[1].merge(b[1])
    same(a, statistics_of(np.array([1.0, 2.0]), 9.0))
    same(b, statistics_of(np.array([-3.0, 9.0, 0.0]), 9.0))


@pytest.mark.parametrize("limit", [2048.0, 1.0, 2.0**-1000, 2.0**900])
def test_a_value_on_an_edge_belongs_to_the_bin_above_and_the_largest_to_the_last(limit):
    edges = np.arange(2049) * (limit / 2048)
    assert Histogram.of(edges, limit).counts.tolist() == [1] * 2047 + [2]
    below = np.nextafter(edges[1:], 0)
    assert Histogram.of(-below, limit).counts.tolist() == [1] * 2048


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(1e-3, 1e3), st.sampled_from((3, 10, 2048)))
def test_bins_are_those_of_exact_arithmetic_but_for_values_that_round_to_an_edge(fractions, limit, bins):
    for value in (fraction * limit for fraction in fractions):
        if value > limit:
            continue
        exact = Fraction(value) / Fraction(limit) * bins
        found = int(np.flatnonzero(Histogram.of(np.array([value]), limit, bins).counts)[0])
        on_edge = abs(exact - round(exact)) <= Fraction(bins, 2**51)
        assert found == min(int(exact), bins - 1) or (on_edge and abs(found - exact) < 1 + 1e-9)


def test_single_and_double_precision_of_the_same_values_give_the_same_statistics():
    x = np.random.default_rng(3).standard_normal((4, 5, 6, 7)).astype(np.float32)
    same(statistics_of(x), statistics_of(x.astype(np.float64)))
    same(statistics_of(x), statistics_of(np.asfortranarray(x)[:, ::-1]))


def test_statistics_are_read_only():
    extremes, histogram = statistics_of(np.arange(-30.0, 30.0))
    merged = extremes.merge(extremes)
    for array in (histogram.counts, extremes.smallest, extremes.largest, merged.smallest, merged.largest):
        assert not array.flags.writeable


def test_centers_are_the_middles_of_the_bins():
    assert counted([1, 0, 0, 0], 2.0).centers.tolist() == [0.125, 0.375, 0.625, 0.875]  # of the limit


# --- percentile ---------------------------------------------------------------------------------------

def own_percentile(counts: list[int], gamma: Fraction) -> int:
    """How many bins it takes to hold gamma percent, counted one bin after another."""
    seen = 0
    for kept, count in enumerate(counts, 1):
        seen += count
        if 100 * seen >= gamma * sum(counts):
            return kept
    raise AssertionError


counts_of_few_bins = st.lists(st.sampled_from((0, 0, 1)) | st.integers(0, 10**6), min_size=2, max_size=40).filter(any)


@given(counts_of_few_bins, st.sampled_from((50.0, 25.0, 12.5, 100.0, 1e-9)) | st.floats(1e-6, 100),
       st.floats(0.01, 100))
@example([1, 1], 50.0, 1.0)  # just half
@example([1, 1], math.nextafter(50.0, 100), 1.0)  # a hair more than half takes both
@example([0, 0, 1, 0], 100.0, 1.0)
@example([10**6, 0, 0, 1], 99.9999, 1.0)
def test_percentile_is_the_upper_edge_of_the_first_bin_that_completes_it(counts, gamma, limit):
    kept = own_percentile(counts, Fraction(gamma))
    got = percentile(counted(counts, limit), gamma)
    assert type(got) is float and got == pytest.approx(kept * limit / len(counts), rel=1e-15)


@pytest.mark.parametrize("counts, gamma, kept", [
    ([90, 8, 1, 1], 98, 2), ([90, 8, 1, 1], 90, 1), ([90, 8, 1, 1], 90.5, 2), ([90, 8, 1, 1], 100, 4),
    ([9999, 0, 0, 1], 99.99, 1), ([9998, 0, 1, 1], 99.99, 3), ([100, 0, 0, 0], 100, 1), ([0, 0, 0, 1], 0.1, 4)])
def test_percentiles_by_hand(counts, gamma, kept):
    assert percentile(counted(counts, 4.0), gamma) == kept


@pytest.mark.parametrize("gamma, counts", [(99.9, [999, 1]), (99.99, [9999, 1]), (99.7, [997, 3]), (0.1, [1, 999]),
                                           (99.999, [99999, 1])])
def test_a_decimal_gamma_means_that_decimal(gamma, counts):
    # 999 of 1000 values are 99.9 percent, though the float 99.9 lies above 99.9.
    assert percentile(counted(counts, 2.0), gamma) == 1.0


def test_percentile_is_99_99_unless_asked_otherwise():
    histogram = counted([9999, 0, 0, 1])
    assert percentile(histogram) == percentile(histogram, 99.99) == 0.25


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


@pytest.mark.parametrize("levels", [7, 127, 255])
def test_mse_threshold_of_2048_bins_equals_the_double_loop(levels):
    x = np.random.default_rng(5).laplace(size=20000)
    _, histogram = statistics_of(x)
    limit, counts = histogram.limit, histogram.nonzero_counts.tolist()
    errors = []
    for j in range(1, 129):
        step = limit * j / 128 / levels
        terms = []
        for k, count in enumerate(counts):
            if count:
                center = (k + 0.5) * limit / 2048
                terms.append(count * (min(math.floor(center / step + 0.5), levels) * step - center) ** 2)
        errors.append(math.fsum(terms))
    best = 1 + errors.index(min(errors))
    assert 1 < best < 128
    assert least_squares(histogram, levels) == limit * (best / 128)


@pytest.mark.parametrize("fmt", [NARROW, IntFormat(4, narrow=True), BYTE, IntFormat(4, signed=False)], ids=str)
def test_mse_threshold_leaves_nearly_the_least_error_of_the_values_themselves(fmt):
    x = np.random.default_rng(6).laplace(size=40000).astype(np.float32).astype(np.float64)
    x = x if fmt.signed else np.maximum(x, 0)
    extremes, histogram = statistics_of(x)
    candidates = extremes.magnitude * np.arange(1, 129) / 128
    errors = [measured_error(x, t, fmt) for t in candidates]
    assert measured_error(x, least_squares(histogram, fmt.max), fmt) <= 1.002 * min(errors)


def measured_error(x: np.ndarray, limit: float, fmt: IntFormat) -> float:
    scale = fmt.max / limit
    return float(np.mean((np.clip(np.rint(x * scale), fmt.min, fmt.max) / scale - x) ** 2))


# --- top-k median -------------------------------------------------------------------------------------

@given(tensors())
@example(np.arange(5.0))
@example(np.arange(11.0))
@example(np.array([-3.0]))
def test_topk_median_is_the_median_of_the_sorted_ends(x):
    x = x / 2  # the mean of the two middle ones stays finite
    smallest, largest = own_extremes(x.tolist())
    assert topk_median(Extremes.of(x)) == (statistics.median(smallest), statistics.median(largest))


def test_topk_median_by_hand():
    # The ten smallest are -5, 0 .. 8 and the ten largest 11 .. 19, 100: medians 3.5 and 15.5.
    assert topk_median(Extremes.of(np.array([100.0, -5.0, *range(20)]))) == (3.5, 15.5)
    assert topk_median(Extremes.of(np.array([1.0, 2.0, 4.0]))) == (2.0, 2.0)


# --- ACIQ ---------------------------------------------------------------------------------------------

def density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def beyond(a: float) -> float:
    return math.erfc(a / math.sqrt(2)) / 2


def laplace_error(a: float, bits: int) -> float:
    """Banner et al.'s MSE in units of β²."""
    return 2 * math.exp(-a) + a * a / (3 * 4**bits)


def gauss_error(a: float, bits: int) -> float:
    """2∫_a^∞ (x - a)²φ(x)dx + a²/(3·4^b), the integral in closed form."""
    return 2 * ((1 + a * a) * beyond(a) - a * density(a)) + a * a / (3 * 4**bits)


@pytest.mark.parametrize("a", [0.3, 1.0, 2.5, 4.0])
def test_the_closed_forms_of_the_clipping_errors_are_their_integrals(a):
    clipped = 2 * quad(lambda x: (x - a) ** 2 * density(x), a, 12, epsabs=1e-14)[0]
    assert gauss_error(a, 40) == pytest.approx(clipped, abs=1e-13)
    clipped = 2 * quad(lambda x: (x - a) ** 2 * math.exp(-x) / 2, a, 60, epsabs=1e-14)[0]
    assert laplace_error(a, 40) == pytest.approx(clipped, abs=1e-13)


@pytest.mark.parametrize("distribution, error", [("laplace", laplace_error), ("gauss", gauss_error)])
@pytest.mark.parametrize("bits", range(1, 13))
def test_aciq_ratio_minimises_the_printed_error(distribution, error, bits):
    found = minimize_scalar(error, bounds=(0.01, 20), args=(bits,), method="bounded", options={"xatol": 1e-12}).x
    assert aciq_ratio(bits, distribution) == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("bits", range(1, 18))
def test_aciq_ratio_solves_its_equation_to_the_last_digits(bits):
    a, power = aciq_ratio(bits), 4**bits
    assert type(a) is float and a * math.exp(a) == pytest.approx(3 * power, rel=1e-13)
    # The derivative of the error, halved: negative just below the minimum, positive just above.
    a = aciq_ratio(bits, "gauss")
    below, above = (x / (3 * power) - 2 * (density(x) - x * beyond(x)) for x in (a * (1 - 1e-9), a * (1 + 1e-9)))
    assert type(a) is float and below < 0 < above


def test_aciq_ratios_are_within_0_011_of_the_published_tables():
    for bits, published in zip((2, 3, 4), (2.83, 3.90, 5.03)):
        assert abs(aciq_ratio(bits) - published) <= 0.011
    for bits, published in zip(range(1, 9), (1.24, 1.71, 2.15, 2.56, 2.94, 3.29, 3.62, 3.92)):
        assert abs(aciq_ratio(bits, "gauss") - published) <= 0.011


@given(counts_of_few_bins, st.integers(1, 16), st.sampled_from(("laplace", "gauss")), st.booleans(), st.booleans(),
       st.sampled_from((1.0, 3.0, 2.0**-140, 1e30)))
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


def test_aciq_by_hand():
    # Centers 1/8, 3/8, 5/8, 7/8: E|c| = (6·1/8 + 2·3/8)/8 = 3/16 and E c² = (6·1/64 + 2·9/64)/8 = 3/64.
    histogram = counted([6, 2, 0, 0])
    assert aciq(histogram, 2) == pytest.approx(2.83 * 3 / 16, abs=0.003)
    assert aciq(histogram, 2, "gauss") == pytest.approx(1.71 * math.sqrt(3 / 64), abs=0.003)
    # Four zeros of bin 0 count for the signed moment as 0: (2·1/8 + 2·3/8)/8 = 1/8; after ReLU they are not
    # counted: 1/4, with the ratio of 3 bits.
    histogram = counted([6, 2, 0, 0], zeros=4)
    assert aciq(histogram, 2) == pytest.approx(2.83 / 8, abs=0.002)
    assert aciq(histogram, 2, after_relu=True) == pytest.approx(3.90 / 4, abs=0.003)
    assert aciq(counted([0, 0, 0, 1]), 8) == 1.0  # max|x| is less than the ratio allows


@pytest.mark.parametrize("distribution", ["laplace", "gauss"])
@pytest.mark.parametrize("bits", [4, 8])
def test_aciq_threshold_leaves_nearly_the_least_error_of_a_grid_on_its_own_density(distribution, bits):
    rng = np.random.default_rng(8)
    x = (rng.laplace if distribution == "laplace" else rng.normal)(size=200000)
    _, histogram = statistics_of(x)

    def error(limit: float) -> float:
        """Of ACIQ's own quantizer: 2^bits cells over [-limit, limit], each value to the middle of its cell."""
        width = 2 * limit / 2**bits
        cell = np.clip(np.floor((x + limit) / width), 0, 2**bits - 1)
        return float(np.mean(((cell + 0.5) * width - limit - x) ** 2))

    grid = [error(limit) for limit in np.arange(0.5, 1, 0.02) * histogram.limit] + [
        error(limit) for limit in np.arange(0.1, 0.5, 0.01) * histogram.limit]
    assert error(aciq(histogram, bits, distribution)) <= 1.03 * min(grid)


@pytest.mark.parametrize("distribution", ["laplace", "gauss"])
def test_aciq_threshold_after_relu_leaves_nearly_the_least_error_of_a_grid(distribution):
    rng = np.random.default_rng(9)
    x = np.maximum((rng.laplace if distribution == "laplace" else rng.normal)(size=200000), 0)
    extremes, histogram = statistics_of(x)
    # At 8 bits what clips of the Laplacian is a handful of values: too few to be its density.
    for fmt in (IntFormat(4, signed=False), IntFormat(6, signed=False)):
        grid = [measured_error(x, limit, fmt) for limit in np.arange(0.05, 1, 0.01) * histogram.limit]
        chosen = threshold(extremes, histogram, f"aciq_{distribution}", fmt)
        assert measured_error(x, chosen, fmt) <= 1.05 * min(grid)


# --- KL -----------------------------------------------------------------------------------------------

@given(st.lists(st.integers(0, 3) | st.integers(0, 1000), min_size=9, max_size=24).filter(any), st.integers(1, 8))
@example([1, 0, 0, 1], 2)
@example([0, 0, 0, 1], 2)
def test_kl_threshold_is_half_a_bin_beyond_the_first_least_divergence(counts, levels):
    bins = len(counts)
    values = [tensorrt_loop(counts, kept, levels) for kept in range(levels, bins + 1)]
    kept = first_minimum(values, levels)
    got = kl(counted(counts, 3.0), levels)
    assert type(got) is float
    assert got == (3.0 if kept == bins else pytest.approx((2 * kept + 1) * 3 / (2 * bins), rel=1e-15))
    kept = first_minimum([ncnn_loop(counts, kept, levels) for kept in range(levels, bins)], levels)
    got = kl(counted(counts, 3.0), levels, "ncnn")
    assert got == pytest.approx((2 * kept + 1) * 3 / (2 * bins), rel=1e-15)


def test_exact_zeros_count_for_tensorrt_not_for_ncnn():
    counts = [3, 1, 7, 0, 6, 6, 9, 0, 7]
    zeros = [93, *counts[1:]]
    with_zeros = counted(zeros, 9.0, zeros=90)
    kept = [first_minimum([tensorrt_loop(c, kept, 2) for kept in range(2, 10)], 2) for c in (counts, zeros)]
    assert kept == [9, 7]
    assert [kl(counted(counts, 9.0), 2), kl(with_zeros, 2)] == [9.0, 7.5]
    kept = [first_minimum([ncnn_loop(c, kept, 2) for kept in range(2, 9)], 2) for c in (counts, zeros)]
    assert kept == [8, 3]
    assert kl(with_zeros, 2, "ncnn") == kl(counted(counts, 9.0), 2, "ncnn") == 8.5


def nvidia_threshold(counts: list[int], levels: int, limit: float) -> float:
    """NVIDIA's search in words: at least 128 bins are kept, at any number of levels; the last least entropy wins."""
    density = np.array(counts, float)
    density[0] = density[1]
    found = []
    for kept in range(128, len(density) + 1):
        level = np.arange(kept) * levels // kept
        merged = np.zeros(kept)
        for members in (np.flatnonzero((level == which) & (density[:kept] > 0)) for which in range(levels)):
            if len(members):
                merged[members] = density[members].mean()
        reference = density[:kept].copy()
        reference[-1] += density[kept:].sum()
        found.append(entropy(reference, merged) if merged.any() else math.inf)
    last = max(i for i, value in enumerate(found) if value <= min(found) + 1e-12)
    return (128 + last) * limit / len(density)


@given(st.lists(st.integers(0, 3) | st.integers(0, 1000), min_size=129, max_size=160),
       st.sampled_from([1, 2, 7, 8, 64, 127, 128]))
def test_nvidia_starts_at_128_bins_and_takes_the_last_of_equal_minima(counts, levels):
    counts[-1] += 1  # where max|x| falls
    expected = nvidia_threshold(counts, levels, 3.0)
    assert kl(counted(counts, 3.0), levels, "nvidia") == pytest.approx(expected, rel=1e-15)


def test_nvidia_keeps_at_least_128_bins_even_of_unsigned_codes_with_more_levels():
    # 256 levels: below that, each kept bin is a level of its own.
    counts = [100] * 140 + [0] * 159 + [1]
    assert nvidia_threshold(counts, 256, 300.0) == kl(counted(counts, 300.0), 256, "nvidia")
    assert kl(counted(counts, 300.0), 256, "nvidia") == 300.0  # nothing clipped, where levels hold one bin and more
    # At 4 bits the start decides: of 256 grey levels in 2048 bins, a search from 8 bins on would keep 9.
    _, histogram = statistics_of(np.repeat(np.arange(256.0), 30))
    below = tensorrt_divergences(np.append(histogram.counts[1], histogram.counts[1:]), 8)
    assert below[:120].min() < below[120:-1].min() and kl(histogram, 8, "nvidia") >= 128 / 2048 * histogram.limit


def test_nvidia_takes_the_last_of_equals_and_the_edge_itself():
    # All in the first 128 bins: every threshold from there on clips nothing, and two levels merge alike.
    counts = [8] * 256
    assert kl(counted(counts, 2.0), 128, "nvidia") == 2.0
    assert kl(counted(counts, 2.0), 128, "tensorrt") == 2.0


def test_kl_of_a_constant_keeps_all_in_tensorrt_and_the_first_threshold_in_ncnn():
    _, histogram = statistics_of(np.full(100, -3.0, np.float32))
    assert kl(histogram) == kl(histogram, variant="nvidia") == 3.0
    assert kl(histogram, variant="ncnn") == 128.5 * 3 / 2048


def test_demos_kl_looks_at_the_positive_values_without_the_first_bin():
    rng = np.random.default_rng(7)
    x = np.maximum(rng.standard_t(3, size=20000), 0)
    limit = float(np.abs(x).max())
    positive = [int(v) for v in Histogram.of(x, limit, 2001).counts[1:]]
    values = demo_divergences(np.array(positive))
    kept = 128 + int(np.argmin(values))
    got = kl(Histogram.of(x, limit, 2001), 128, "demo")
    assert got == pytest.approx((2 * kept + 1) * limit / 4002, rel=1e-15)
    # Zeros and small values in the first bin change nothing.
    more = np.concatenate([x, np.zeros(5000), np.full(3000, limit / 2001 / 3)])
    assert kl(Histogram.of(more, limit, 2001), 128, "demo") == got
    # A constant, and a tensor without positive values: nothing to compare, nothing clipped.
    assert kl(counted([0] * 2000 + [9], 3.0), 128, "demo") == kl(counted([9] + [0] * 2000, 3.0), 128, "demo") == 3.0


# --- by name -----------------------------------------------------------------------------------------

def direct(extremes: Extremes, histogram: Histogram, estimator: str, fmt: IntFormat) -> float:
    one_more = 0 if fmt.signed else 1  # no bit is spent on the sign
    return {
        "max": lambda: max(abs(extremes.low), abs(extremes.high)),
        "percentile": lambda: percentile(histogram, 99.99),
        "mse": lambda: least_squares(histogram, fmt.max, 128),
        "topk_median": lambda: max(abs(r) for r in topk_median(extremes)),
        "aciq_laplace": lambda: aciq(histogram, fmt.bits, "laplace", not fmt.signed),
        "aciq_gauss": lambda: aciq(histogram, fmt.bits, "gauss", not fmt.signed),
        "kl_tensorrt": lambda: kl(histogram, 2 ** (fmt.bits - 1 + one_more), "tensorrt"),
        "kl_nvidia": lambda: kl(histogram, 2 ** (fmt.bits - 1 + one_more), "nvidia"),
        "kl_ncnn": lambda: kl(histogram, 2 ** (fmt.bits - 1 + one_more), "ncnn"),
    }[estimator]()


FORMATS = [IntFormat(b, narrow=True) for b in (2, 4, 7, 8)] + [IntFormat(b, signed=False) for b in (1, 4, 7, 8)] + [
    IntFormat(8), IntFormat(10, signed=False)]


@estimators
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_threshold_by_name_is_the_direct_call_and_its_scale_the_largest_code_over_it(estimator, fmt):
    x = np.random.default_rng(10).laplace(size=3000)
    extremes, histogram = statistics_of(x if fmt.signed else np.maximum(x, 0))
    got = threshold(extremes, histogram, estimator, fmt)
    assert type(got) is float and got == direct(extremes, histogram, estimator, fmt)
    assert 0 < got <= extremes.magnitude
    scale = threshold_scale(got, fmt)
    assert type(scale) is float and scale == fmt.max / float(np.float32(got))


@pytest.mark.parametrize("bins", [BINS, 128, 100])
def test_kl_uses_at_most_half_as_many_levels_as_there_are_bins(bins):
    extremes, histogram = statistics_of(np.random.default_rng(11).laplace(size=3000), bins=bins)
    for variant in ("tensorrt", "nvidia", "ncnn") if bins >= 128 else ("tensorrt", "ncnn"):
        assert threshold(extremes, histogram, f"kl_{variant}", IntFormat(16)) == kl(histogram, bins // 2, variant)


@estimators
@pytest.mark.parametrize("fmt", [NARROW, IntFormat(7, narrow=True), BYTE, IntFormat(4, signed=False)], ids=str)
@pytest.mark.parametrize("x", [np.zeros((2, 3, 4, 4), np.float32), -np.zeros(1), np.zeros(100)])
def test_a_tensor_of_zeros_has_threshold_0_and_scale_1(estimator, fmt, x):
    got = threshold(*statistics_of(x), estimator, fmt)
    assert type(got) is float and got == 0 and threshold_scale(got, fmt) == 1.0


@estimators
@given(x=tensors().filter(lambda x: 1e-30 < float(np.abs(x).max()) < 1e100))
def test_thresholds_are_within_zero_and_the_largest_magnitude(estimator, x):
    extremes, histogram = statistics_of(x, bins=512)
    for fmt in (NARROW, BYTE):
        assert 0 <= threshold(extremes, histogram, estimator, fmt) <= extremes.magnitude


@pytest.mark.parametrize("bins, limit", [(3, 0.40363861228031894), (100, 0.659903118473408)])
def test_a_threshold_of_all_bins_is_the_limit_to_the_last_bit(bins, limit):
    last = counted([0] * (bins - 1) + [1], limit)
    assert percentile(last) == limit
    assert kl(last, 2) == limit


@estimators
@pytest.mark.parametrize("x", [[SMALLEST] * 20, [SMALLEST_NORMAL, 0.0, 3 * SMALLEST], [LARGEST] * 5,
                               [-LARGEST, 1e300, 1.0, 0.0], [2.0**-149] * 3, [2.0**127, -1.0, 1.0]])
def test_the_smallest_and_largest_floats_have_thresholds_within_their_range(estimator, x):
    extremes, histogram = statistics_of(np.array(x))
    for fmt in (NARROW, BYTE):
        got = threshold(extremes, histogram, estimator, fmt)
        assert 0 <= got <= extremes.magnitude
        assert 0 < threshold_scale(got, fmt) <= LARGEST


@estimators
@pytest.mark.parametrize("exponent", [-900, -120, 120, 900])
def test_a_power_of_two_times_the_tensor_gives_as_much_of_the_threshold(estimator, exponent):
    x = np.random.default_rng(12).laplace(size=2000)
    for fmt in (NARROW, BYTE):
        before = threshold(*statistics_of(x), estimator, fmt)
        assert threshold(*statistics_of(np.ldexp(x, exponent)), estimator, fmt) == math.ldexp(before, exponent)


@estimators
def test_the_sign_of_a_tensor_does_not_matter_and_only_the_extremes_know_it(estimator):
    x = np.random.default_rng(13).exponential(size=2000)
    assert threshold(*statistics_of(x), estimator, NARROW) == threshold(*statistics_of(-x), estimator, NARROW)


# --- refusals -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("gamma", [np.float32(50), np.float64(50), np.int8(50), Fraction(50)])
def test_any_kind_of_number_is_a_gamma(gamma):
    assert percentile(counted([1, 1]), gamma) == 0.5


@pytest.mark.parametrize("variant", ["tensorrt", "nvidia", "ncnn"])
def test_kl_of_a_single_bin_is_refused(variant):
    with pytest.raises(ValueError, match=r"^counts must be one row of more than 1 integers, got shape \(1,\) of "):
        kl(counted([1]), 1, variant)


def test_nvidias_search_needs_the_128_bins_that_it_starts_with():
    with pytest.raises(ValueError, match=r"^counts must be one row of more than 127 integers, got shape \(127,\)"):
        kl(counted([1] * 127), 8, "nvidia")
    assert kl(counted([1] * 128), 8, "nvidia") == 1.0


@estimators
def test_a_format_without_positive_codes_is_refused_or_has_a_finite_threshold(estimator):
    try:
        got = threshold(*statistics_of(np.array([1.0, -0.5])), estimator, IntFormat(1))
    except ValueError as error:
        assert "int1" in str(error)
    else:
        assert 0 <= got <= 1


def test_the_scale_of_a_tiny_threshold_is_the_largest_float_not_infinity():
    assert threshold_scale(SMALLEST, NARROW) == LARGEST


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_thresholds_that_differ_in_their_last_bits_give_one_scale(limit):
    for other in (limit, limit * (1 - 2.0**-40), limit * (1 + 2.0**-40)):
        assert in_float32(other) == limit and in_float32(-other) == -limit
        assert threshold_scale(other, NARROW) == 127 / limit


@pytest.mark.parametrize("limit", [1e300, 4e38, 1e-39, 5e-324])
def test_a_threshold_that_float32_does_not_hold_stays_as_it_is(limit):
    assert in_float32(limit) == limit and in_float32(-limit) == -limit and in_float32(0.0) == 0
