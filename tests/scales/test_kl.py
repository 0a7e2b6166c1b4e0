"""KL divergence of every threshold against plain loops over exact integers, and histograms worked by hand."""
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kl_oracle import EPSILON, INFINITY, demo_loop, first_minimum, ncnn_loop, tensorrt_loop

from refquant.scales.kl import (
    best_bin,
    demo_divergence,
    demo_divergences,
    ncnn_divergence,
    ncnn_divergences,
    tensorrt_divergence,
    tensorrt_divergences,
)

# The loop, the module's own function of one threshold and of all, and whether keeping every bin is one of them.
VARIANTS = {"tensorrt": (tensorrt_loop, tensorrt_divergence, tensorrt_divergences, 1),
            "ncnn": (ncnn_loop, ncnn_divergence, ncnn_divergences, 0),
            "demo": (demo_loop, demo_divergence, demo_divergences, 0)}
variants = pytest.mark.parametrize("variant", VARIANTS)


def assert_equal_to(expected: list[float], got: np.ndarray, levels: int) -> None:
    assert got.dtype == np.float64 and got.shape == (len(expected),)
    assert np.isinf(got).tolist() == [math.isinf(v) for v in expected]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    assert best_bin(got, levels) == first_minimum(expected, levels)


# --- every threshold ----------------------------------------------------------------------------------

def shaped(shape: str, bins: int) -> np.ndarray:
    """Counts of |x| over equal bins of [0, max|x|], or of the shape's own making."""
    rng = np.random.default_rng(7)
    if shape == "after relu":  # a huge first bin
        x = np.maximum(rng.standard_normal(200000) - 1, 0)
    elif shape == "outlier":  # thousands of empty bins between the body and one value
        x = np.append(rng.standard_normal(5000), 200.0)
    elif shape == "sparse":
        return np.where(rng.random(bins) < 0.05, rng.integers(1, 1000, bins), 0)
    else:
        return {"uniform": np.full(bins, 13), "constant": 999 * (np.arange(bins) == bins - 1)}[shape]
    return np.histogram(np.abs(x), bins, (0, np.abs(x).max()))[0]


@variants
@pytest.mark.parametrize("shape", ["after relu", "outlier", "sparse", "uniform", "constant"])
def test_every_threshold_equals_the_plain_loop(variant, shape):
    loop, _, divergences, last = VARIANTS[variant]
    counts = shaped(shape, 300)
    assert_equal_to([loop(counts.tolist(), kept, 128) for kept in range(128, 300 + last)], divergences(counts), 128)


@variants
def test_thresholds_of_2048_bins_equal_the_plain_loop(variant):
    loop, plain, divergences, last = VARIANTS[variant]
    counts = shaped("outlier", 2048)
    found = divergences(counts)
    for kept in (128, 129, 191, 192, 255, 256, 257, 1000, 1920, 2046, 2047, 2047 + last):
        expected = pytest.approx(loop(counts.tolist(), kept, 128), rel=0, abs=1e-12)
        assert plain(counts, kept) == expected and found[kept - 128] == expected


@st.composite
def histograms(draw: st.DrawFn) -> tuple[list[int], int]:
    """Few bins, many of them empty, counts of one or of billions; levels from 1 up."""
    levels = draw(st.integers(1, 16))
    bins = draw(st.integers(levels + 1, 64))
    count = st.sampled_from((0, 0, 0, 1, 1, 2)) | st.integers(0, 100) | st.integers(0, 2**40)
    counts = draw(st.lists(count, min_size=bins, max_size=bins).filter(any))
    return counts, levels


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
def test_every_threshold_of_few_bins_equals_the_plain_loop_and_so_does_the_module_s_own(variant, case):
    counts, levels = case
    loop, plain, divergences, last = VARIANTS[variant]
    kept = range(levels, len(counts) + last)
    expected = [loop(counts, bins, levels) for bins in kept]
    assert_equal_to(expected, divergences(np.array(counts), levels), levels)
    one_by_one = [plain(np.array(counts), bins, levels) for bins in kept]
    assert all(type(value) is float for value in one_by_one)
    assert_equal_to(expected, np.array(one_by_one), levels)


@variants
@pytest.mark.parametrize("levels", [np.int8(16), np.uint8(16), np.int64(16)])
def test_numpy_levels_count_as_their_integer(variant, levels):
    counts, divergences = shaped("after relu", 300), VARIANTS[variant][2]  # neither 300 nor 300·16 fits a byte
    assert divergences(counts, levels).tolist() == divergences(counts, 16).tolist()


@pytest.mark.parametrize("values, kept", [
    ([3.0, 1.0, 2.0], 6), ([1.0, 1.0, 1.0], 5), ([INFINITY, 2.0, 2.0], 6), ([2.0, 1.0 + 5e-13, 1.0], 6),
    ([2.0, 1.0 + 2e-12, 1.0], 7), ([0.0, -1e-16, 0.0], 5), ([INFINITY, INFINITY, 7.0], 7)])
def test_the_first_within_1e_12_of_the_least_is_best(values, kept):
    best = best_bin(np.array(values), 5)
    assert type(best) is int and best == kept


# --- by hand ------------------------------------------------------------------------------------------

def test_tensorrt_divergences_by_hand():
    # Levels are 0 0 1 of three bins and 0 0 0 1 1 of five; equal groups with the rest in the last level would
    # give 0 1 1 and 0 0 1 1 1. Keeping 2: P = 1, 7 of 8, Q = 1, 3 of 4. Keeping 3: P = 1, 3, 4 of 8,
    # Q = 2, 2, 2 of 6. Keeping 4: infinite. All: P = 1, 3, 2, 0, 2 and Q = 2, 2, 2, 0, 2 of 8.
    log = math.log
    expected = [log(1 / 2) / 8 + 7 * log(7 / 6) / 8,
                log(3 / 8) / 8 + 3 * log(9 / 8) / 8 + log(3 / 2) / 2,
                INFINITY,
                log(1 / 2) / 8 + 3 * log(3 / 2) / 8]
    np.testing.assert_allclose(tensorrt_divergences(np.array([1, 3, 2, 0, 2]), 2), expected, rtol=0, atol=1e-15)


def test_ncnn_divergences_by_hand():
    # Frequencies 1/8, 1/4, 1/8, 1/2 in two levels, e in every bin. Keeping 2: a level is one bin.
    # Keeping 3: a level is 1 1/2 bins, mean (1/8 + 1/2·1/4) / (3/2) = 1/6; the middle bin gets half of each.
    e, log = EPSILON, math.log
    expected = [(7 / 8 + e) * log((7 / 8 + e) / (1 / 4 + e)),
                (1 / 8 + e) * log((1 / 8 + e) / (1 / 6 + e)) + (1 / 4 + e) * log((1 / 4 + e) / (1 / 6 + e))
                + (5 / 8 + e) * log((5 / 8 + e) / (1 / 6 + e))]
    np.testing.assert_allclose(ncnn_divergences(np.array([2, 4, 2, 8]), 2), expected, rtol=0, atol=1e-15)
    # Empty bins get their share too: frequencies 3/4, 0, 1/4, 0 in one level; its mean of three bins is 1/3.
    expected = ((3 / 4 + e) * log((3 / 4 + e) / (1 / 3 + e)) + e * log(e / (1 / 3 + e))
                + (1 / 4 + e) * log((1 / 4 + e) / (1 / 3 + e)))
    assert ncnn_divergences(np.array([3, 0, 1, 0]), 1)[2] == pytest.approx(expected, rel=0, abs=1e-15)


def test_demos_divergence_by_hand():
    # Four of six bins kept, two levels of two. P = 4, 2, 0, 2 + 1 + 1; Q = 3, 3, 2, 0 would spread the last level's
    # 0 + 2 over its bins but the last one; that one is empty in P too: Q = 3, 3, 0, 0.
    p, q = np.array([4, 2, 0, 4.0]), np.array([3, 3, 0, 0.0])
    p, q = np.where(p == 0, 1e-4, p - 1e-4 / 3), np.where(q == 0, 1e-4, q - 1e-4)
    p, q = p / p.sum(), q / q.sum()
    expected = sum(a * math.log(a / b) for a, b in zip(p, q))
    assert demo_divergence(np.array([4, 2, 0, 2, 1, 1]), 4, 2) == pytest.approx(expected, rel=1e-12)
