"""KL divergence of every threshold against plain loops over exact integers, and histograms worked by hand.

The loops follow PAPERS' description of TensorRT and the published steps of ncnn2table, bin by bin on Python
lists; a ratio of integers is rounded once, where its logarithm is taken.
"""
from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import entropy

from refquant.scales.kl import (
    best_bin,
    demo_divergence,
    demo_divergences,
    ncnn_divergence,
    ncnn_divergences,
    tensorrt_divergence,
    tensorrt_divergences,
)

INFINITY = float("inf")
EPSILON = 1e-4


# --- plain loops --------------------------------------------------------------------------------------

def tensorrt_loop(counts: list[int], kept: int, levels: int) -> float:
    """One threshold. Bin k belongs to level k·levels // kept; only the last bin of P gets the tail."""
    total, inside = sum(counts), sum(counts[:kept])
    p = counts[:kept]
    p[-1] += total - inside
    mass, filled = [0] * levels, [0] * levels
    for k in range(kept):
        mass[k * levels // kept] += counts[k]
        filled[k * levels // kept] += counts[k] > 0
    terms = []
    for k in range(kept):
        if p[k] > 0:
            if counts[k] == 0:  # spread over bins that are not empty, so Q = 0 here
                return INFINITY
            level = k * levels // kept
            # P/Q = (p/total) / (mass/filled/inside): spreading a level keeps its mass, so Q sums to ``inside``.
            terms.append(p[k] / total * math.log(p[k] * filled[level] * inside / (mass[level] * total)))
    return math.fsum(terms)


def ncnn_loop(counts: list[int], kept: int, levels: int) -> float:
    """One threshold. Edges and shares are in units of 1/levels of a bin: exact until a share is used."""
    total = sum(counts)
    frequency = [count / total for count in counts]
    p = [f + EPSILON for f in frequency[:kept]]
    p[-1] += sum(counts[kept:]) / total
    q = [EPSILON] * kept
    for level in range(levels):
        start, end = level * kept, (level + 1) * kept
        left_upper, right_lower = -(-start // levels), end // levels
        left, right = (left_upper * levels - start) / levels, (end - right_lower * levels) / levels
        mean = math.fsum(frequency[left_upper:right_lower])
        if left:
            mean += left * frequency[left_upper - 1]
        if right:
            mean += right * frequency[right_lower]
        mean /= right_lower - left_upper + left + right
        if left:
            q[left_upper - 1] += left * mean
        if right:
            q[right_lower] += right * mean
        for k in range(left_upper, right_lower):
            q[k] += mean
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q))


LOOPS = {tensorrt_divergences: (tensorrt_loop, tensorrt_divergence, 1),
         ncnn_divergences: (ncnn_loop, ncnn_divergence, 0)}
variants = pytest.mark.parametrize("divergences", LOOPS, ids=["tensorrt", "ncnn"])


def every_threshold(divergences, counts: list[int], levels: int) -> list[float]:
    loop, _, last = LOOPS[divergences]
    return [loop(counts, kept, levels) for kept in range(levels, len(counts) + last)]


def first_minimum(values: list[float], levels: int) -> int:
    return levels + next(i for i, value in enumerate(values) if value <= min(values) + 1e-12)


def assert_equal_to(expected: list[float], got: np.ndarray, levels: int) -> None:
    assert got.dtype == np.float64 and got.shape == (len(expected),)
    assert [i for i, v in enumerate(got.tolist()) if math.isinf(v)] == [i for i, v in enumerate(expected)
                                                                        if math.isinf(v)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    assert best_bin(got, levels) == first_minimum(expected, levels)


# --- histograms ---------------------------------------------------------------------------------------

def shaped(shape: str, bins: int) -> np.ndarray:
    """Counts of |x| over equal bins of [0, max|x|], or of the shape's own making."""
    rng = np.random.default_rng(7)
    one = np.zeros(bins, np.int64)
    if shape == "laplace":
        x = rng.laplace(size=200000)
    elif shape == "gauss":
        x = rng.standard_normal(200000)
    elif shape == "after relu":  # a huge first bin
        x = np.maximum(rng.standard_normal(200000) - 1, 0)
    elif shape == "outlier":  # thousands of empty bins between the body and one value
        x = np.append(rng.standard_normal(5000), 200.0)
    elif shape == "sparse":
        return np.where(rng.random(bins) < 0.05, rng.integers(1, 1000, bins), one)
    elif shape == "random":
        return rng.integers(0, 1000, bins)
    elif shape == "uniform":
        return one + 13
    else:
        one[{"constant": bins - 1, "one count": bins // 3, "first bin": 0}[shape]] = 1
        return one * (1 if shape == "one count" else 999)
    return np.histogram(np.abs(x), bins, (0, np.abs(x).max()))[0]


SHAPES = ("laplace", "gauss", "after relu", "outlier", "sparse", "random", "uniform", "constant", "one count",
          "first bin")


@st.composite
def histograms(draw: st.DrawFn) -> tuple[list[int], int]:
    """Few bins, many of them empty, counts of one or of billions; levels from 1 up."""
    levels = draw(st.integers(1, 16))
    bins = draw(st.integers(levels + 1, 64))
    count = st.sampled_from((0, 0, 0, 1, 1, 2)) | st.integers(0, 100) | st.integers(0, 2**40)
    counts = draw(st.lists(count, min_size=bins, max_size=bins).filter(any))
    return counts, levels


@variants
@pytest.mark.parametrize("shape", SHAPES)
def test_every_threshold_equals_the_plain_loop(divergences, shape):
    counts = shaped(shape, 640)
    assert_equal_to(every_threshold(divergences, counts.tolist(), 128), divergences(counts), 128)


@variants
@pytest.mark.parametrize("shape", ["laplace", "after relu", "sparse"])
def test_every_threshold_of_2048_bins_equals_the_plain_loop(divergences, shape):
    counts = shaped(shape, 2048)
    got = divergences(counts)
    assert got.shape == ((1921,) if divergences is tensorrt_divergences else (1920,))
    assert_equal_to(every_threshold(divergences, counts.tolist(), 128), got, 128)


@variants
@given(histograms())
@example(([0, 0, 0, 1], 2))  # one value, in the last bin: every cut leaves nothing to normalise
@example(([1, 0, 0, 0], 2))  # one value, in the first: the last bin is empty, and so is the tail
@example(([0, 1, 0, 0, 5], 4))  # an empty last bin gets the tail
@example(([0, 0, 3, 0, 5], 1))  # one level
@example(([1, 2], 1))
@example(([2**40, 0, 1, 1, 0, 2**40, 1], 3))  # single counts beside 2^40
@example(([1] * 17, 16))  # each level one bin, then one level of two
@example(([1] * 7 + [10**9] * 6, 5))  # edges that divide nothing
def test_every_threshold_of_few_bins_equals_the_plain_loop_and_so_does_the_module_s_own(divergences, case):
    counts, levels = case
    expected = every_threshold(divergences, counts, levels)
    assert_equal_to(expected, divergences(np.array(counts), levels), levels)
    plain = LOOPS[divergences][1]
    one_by_one = [plain(np.array(counts), kept, levels) for kept in range(levels, levels + len(expected))]
    assert all(type(value) is float for value in one_by_one)
    assert_equal_to(expected, np.array(one_by_one), levels)


@variants
def test_the_module_s_plain_function_agrees_where_128_levels_share_bins(divergences):
    counts = shaped("outlier", 2048)
    loop, plain, last = LOOPS[divergences]
    for kept in (128, 129, 191, 192, 255, 256, 257, 1000, 1920, 2046, 2047, 2047 + last):
        assert plain(counts, kept) == pytest.approx(loop(counts.tolist(), kept, 128), rel=0, abs=1e-12)


# --- by hand ------------------------------------------------------------------------------------------

def log(x: float) -> float:
    return math.log(x)


def test_tensorrt_divergences_by_hand():
    # Keeping 2: P = 4, 2+2 of 8; Q = 4, 2 of 6: 1/2·log(3/4) + 1/2·log(3/2).
    # Keeping 3: the tail falls on an empty bin. All 4: P = 4, 2, 0, 2 and Q = 3, 3, 0, 2 of 8.
    np.testing.assert_allclose(tensorrt_divergences(np.array([4, 2, 0, 2]), 2),
                               [log(9 / 8) / 2, INFINITY, log(4 / 3) / 2 + log(2 / 3) / 4], rtol=0, atol=1e-15)


def test_tensorrt_puts_bin_k_into_level_k_levels_over_kept():
    # Levels are 0 0 1 of three bins and 0 0 0 1 1 of five; equal groups with the rest in the last level would
    # give 0 1 1 and 0 0 1 1 1. Keeping 2: P = 1, 7 of 8, Q = 1, 3 of 4. Keeping 3: P = 1, 3, 4 of 8,
    # Q = 2, 2, 2 of 6. Keeping 4: infinite. All: P = 1, 3, 2, 0, 2 and Q = 2, 2, 2, 0, 2 of 8.
    expected = [log(1 / 2) / 8 + 7 * log(7 / 6) / 8,
                log(3 / 8) / 8 + 3 * log(9 / 8) / 8 + log(3 / 2) / 2,
                INFINITY,
                log(1 / 2) / 8 + 3 * log(3 / 2) / 8]
    got = tensorrt_divergences(np.array([1, 3, 2, 0, 2]), 2)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-15)
    assert best_bin(got, 2) == 2


def test_tensorrt_merges_the_kept_bins_without_the_tail():
    # Keeping 2 of 2, 2, 4 in one level: P = 2, 6 of 8, but Q = 2, 2 of 4. With the tail in Q the divergence
    # of P from an even spread would be the same; the second histogram tells: P = 1, 1, 6 of 8, levels 0 0 1,
    # Q = 1, 1, 2 of 4 and not 1, 1, 6 of 8, whose divergence is 0.
    np.testing.assert_allclose(tensorrt_divergences(np.array([2, 2, 4]), 1)[1],
                               log(1 / 2) / 4 + 3 * log(3 / 2) / 4, rtol=0, atol=1e-15)
    np.testing.assert_allclose(tensorrt_divergences(np.array([1, 1, 2, 4]), 2)[1],
                               2 * log(1 / 2) / 8 + 6 * log(6 / 4) / 8, rtol=0, atol=1e-15)


def test_ncnn_divergences_by_hand():
    # Frequencies 1/8, 1/4, 1/8, 1/2 in two levels, e in every bin. Keeping 2: a level is one bin.
    # Keeping 3: a level is 1 1/2 bins, mean (1/8 + 1/2·1/4) / (3/2) = 1/6; the middle bin gets half of each.
    e = 1e-4
    expected = [(7 / 8 + e) * log((7 / 8 + e) / (1 / 4 + e)),
                (1 / 8 + e) * log((1 / 8 + e) / (1 / 6 + e)) + (1 / 4 + e) * log((1 / 4 + e) / (1 / 6 + e))
                + (5 / 8 + e) * log((5 / 8 + e) / (1 / 6 + e))]
    np.testing.assert_allclose(ncnn_divergences(np.array([2, 4, 2, 8]), 2), expected, rtol=0, atol=1e-15)


def test_ncnn_spreads_over_empty_bins_too_and_never_normalises_again():
    # Frequencies 3/4, 0, 1/4, 0. One level of two bins has mean 3/8; of three bins, 1/3.
    e = 1e-4
    expected = [(1 + e) * log((1 + e) / (3 / 4 + e)),
                (3 / 4 + e) * log((3 / 4 + e) / (3 / 8 + e)) + (1 / 4 + e) * log((1 / 4 + e) / (3 / 8 + e)),
                (3 / 4 + e) * log((3 / 4 + e) / (1 / 3 + e)) + e * log(e / (1 / 3 + e))
                + (1 / 4 + e) * log((1 / 4 + e) / (1 / 3 + e))]
    np.testing.assert_allclose(ncnn_divergences(np.array([3, 0, 1, 0]), 1), expected, rtol=0, atol=1e-15)


# --- what divergences are -----------------------------------------------------------------------------

@given(histograms())
def test_tensorrt_divergences_are_not_negative_and_keeping_all_is_finite(case):
    got = tensorrt_divergences(np.array(case[0]), case[1])
    assert got.min() >= -1e-12 and math.isfinite(got[-1])


@given(histograms(), st.integers(2, 1000))
def test_divergences_see_frequencies_not_counts(case, factor):
    counts, levels = np.array(case[0]), case[1]
    for divergences in LOOPS:
        np.testing.assert_allclose(divergences(counts * factor, levels), divergences(counts, levels), rtol=0,
                                   atol=1e-12)


def test_an_even_histogram_is_merged_without_loss_and_a_constant_is_not_clipped():
    got = tensorrt_divergences(shaped("uniform", 2048))
    assert abs(got[-1]) <= 1e-12 and best_bin(got, 128) == 2048
    got = tensorrt_divergences(shaped("constant", 2048))
    assert np.isinf(got[:-1]).all() and abs(got[-1]) <= 1e-12 and best_bin(got, 128) == 2048


def test_ncnn_diverges_equally_wherever_it_clips_a_constant_and_keeps_the_first():
    # P is 1 + e in its last bin and e elsewhere, Q is e everywhere: (1 + e)·log((1 + e)/e) at every threshold.
    got = ncnn_divergences(shaped("constant", 2048))
    np.testing.assert_allclose(got, (1 + EPSILON) * log((1 + EPSILON) / EPSILON), rtol=0, atol=1e-12)
    assert best_bin(got, 128) == 128


@pytest.mark.parametrize("values, kept", [
    ([3.0, 1.0, 2.0], 6), ([1.0, 1.0, 1.0], 5), ([INFINITY, 2.0, 2.0], 6), ([2.0, 1.0 + 5e-13, 1.0], 6),
    ([2.0, 1.0 + 2e-12, 1.0], 7), ([0.0, -1e-16, 0.0], 5), ([INFINITY, INFINITY, 7.0], 7)])
def test_the_first_within_1e_12_of_the_least_is_best(values, kept):
    best = best_bin(np.array(values), 5)
    assert type(best) is int and best == kept


@variants
def test_a_second_call_gives_the_same_bits_whatever_came_between(divergences):
    counts = shaped("laplace", 300)
    first = divergences(counts).tobytes()
    divergences(counts, 64)
    divergences(counts[:200])
    assert divergences(counts).tobytes() == first


# --- refusals -----------------------------------------------------------------------------------------

@variants
@pytest.mark.parametrize("levels", [np.int8(16), np.uint8(16), np.int64(16)])
def test_numpy_levels_count_as_their_integer(divergences, levels):
    counts = shaped("random", 300)  # neither 300 nor 300·16 fits a byte
    assert divergences(counts, levels).tolist() == divergences(counts, 16).tolist()


# --- speed --------------------------------------------------------------------------------------------

@variants
def test_all_thresholds_of_2048_bins_take_less_than_15_ms(divergences):
    # The thread's own time: what other processes take of the machine is not counted. Alone it is 2 to 3 ms.
    counts = shaped("laplace", 2048)
    best = INFINITY
    for _ in range(10):
        start = time.thread_time()
        divergences(counts)
        best = min(best, time.thread_time() - start)
    assert best < 0.015


# --- the authors' code of EasyQuant -------------------------------------------------------------------

def demo_loop(counts: list[int], kept: int, levels: int) -> float:
    """One threshold, bin by bin; counts without the first bin."""
    p = [float(count) for count in counts[:kept]]
    p[-1] += sum(counts[kept:])
    q, width = [0.0] * kept, kept // levels
    for level in range(levels):
        members = list(range(level * width, kept if level == levels - 1 else (level + 1) * width))
        takers = [k for k in members if p[k] > 0 and k < kept - 1]
        for k in takers:
            q[k] = sum(counts[m] for m in members) / len(takers)
    if not any(q):
        return INFINITY

    def smooth(values: list[float]) -> list[float]:
        empty = values.count(0)
        share = 1e-4 * empty / (kept - empty)
        return [1e-4 if v == 0 else v - share for v in values]

    return float(entropy(smooth(p), smooth(q)))


@given(st.lists(st.integers(0, 2) | st.integers(0, 1000), min_size=9, max_size=60), st.integers(1, 8))
@example([0] * 30 + [5], 4)  # all of it in the last bin: no Q
@example([3] * 30, 4)
def test_demos_divergences_are_those_of_its_steps(counts, levels):
    counts[-1] += 1
    expected = [demo_loop(counts, kept, levels) for kept in range(levels, len(counts))]
    got = demo_divergences(np.array(counts), levels)
    assert got.shape == (len(expected),)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_demos_divergence_by_hand():
    # Four of six bins kept, two levels of two. P = 4, 2, 0, 2 + 1 + 1; Q = 3, 3, 2, 0 would spread the last level's
    # 0 + 2 over its bins but the last one; that one is empty in P too: Q = 3, 3, 0, 0.
    p, q = np.array([4, 2, 0, 4.0]), np.array([3, 3, 0, 0.0])
    p, q = np.where(p == 0, 1e-4, p - 1e-4 / 3), np.where(q == 0, 1e-4, q - 1e-4)
    p, q = p / p.sum(), q / q.sum()
    expected = sum(a * math.log(a / b) for a, b in zip(p, q))
    assert demo_divergence(np.array([4, 2, 0, 2, 1, 1]), 4, 2) == pytest.approx(expected, rel=1e-12)
