"""Breakpoints: published errors, minima found by others, and the certified optimum against exhaustive search."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from refquant.pwlq import METHODS, VARIANTS, breakpoint, limits_of, optimal, optimal_breakpoint, round_trip
from refquant.pwlq.quantizer import grid_of
from refquant.pwlq.theory import error_of_mass, expected_error

AUTHORS = "non_overlapping_authors"


def measured(w, p, bits, variant):
    return float(((round_trip(w, grid_of(p, np.abs(w).max(), bits, variant)) - w) ** 2).mean())


@pytest.fixture(scope="module")
def tensor():
    """The tensor on which the authors' code was run."""
    return np.random.default_rng(0).standard_normal((512, 512, 3, 3)).astype(np.float32)


@pytest.mark.parametrize("method, variant, distribution, quoted", [
    ("one_shot", "non_overlapping", "gaussian", 4.0369e-3), ("one_shot", "non_overlapping", "laplacian", 4.1797e-3),
    ("coarse_to_fine", AUTHORS, "gaussian", 3.9872e-3), ("exact", "non_overlapping", "gaussian", 4.0408e-3),
    ("exact", "overlapping", "gaussian", 5.8906e-3)])
def test_errors_that_the_authors_code_gives(tensor, method, variant, distribution, quoted):
    """Quoted to four or five digits. Its numeric minimum ends at a slope of 1e-3, its grids at sums of 0.001."""
    p = breakpoint(tensor, 4, method, variant, distribution, axis=0)
    grid = grid_of(p, limits_of(tensor, axis=0), 4, "overlapping" if variant == "overlapping" else AUTHORS)
    error = float(np.square(round_trip(tensor, grid, axis=0) - tensor).mean())
    assert error == pytest.approx(quoted, abs=0.6e-7 if method != "exact" else 2e-7)


magnitudes = st.lists(st.integers(0, 40).map(lambda k: k / 8), min_size=2, max_size=7)


def exhaustive(values: list[float], bits: int, variant: str) -> Fraction:
    """The infimum of the measured error over all p, in rationals: where a value changes its level, (0, m) is cut.

    Within a piece each value keeps its level, and the error is a parabola; at a cut both sides are tried.
    """
    r = [abs(Fraction(v)) for v in values]
    m, K = max(r), 2 ** (bits - 1) - 1
    half = Fraction(2**bits - 1, 2)
    centre = [(Fraction(0), Fraction(k) / (K if variant == "non_overlapping" else half)) for k in range(K + 1)]
    tail = [(m * Fraction(k) / half, Fraction(0)) if variant == "overlapping" else
            (m * Fraction(k, K), 1 - Fraction(k, K)) for k in range(K + 1)]
    cuts = {Fraction(0), m, *(v for v in r if 0 < v < m)}
    for levels in (centre, tail):
        for (a, b), (c, d) in pairwise(levels):
            if b + d:
                cuts |= {cut for v in r if 0 < (cut := (2 * v - a - c) / (b + d)) < m}
    best, cuts = None, sorted(cuts)
    for low, high in pairwise(cuts):
        middle = (low + high) / 2
        chosen = [min((abs(v - a - b * middle), a, b) for a, b in (centre if v < middle else tail))[1:] for v in r]
        beta = sum(b * (v - a) for v, (a, b) in zip(r, chosen))
        gamma = sum(b * b for _, b in chosen)
        p = min(max(beta / gamma, low), high) if gamma else low
        error = sum((v - a - b * p) ** 2 for v, (a, b) in zip(r, chosen)) / len(r)
        best = error if best is None else min(best, error)
    return best


@given(magnitudes, st.integers(2, 4), st.sampled_from(VARIANTS))
@example([1.0, 0.5, 3.0], 2, AUTHORS)
def test_the_optimum_is_that_of_exhaustive_search(values, bits, variant):
    assume(max(values) > min(values))
    p, error, bound = optimal_breakpoint(np.array(values), bits, variant)
    least = float(exhaustive(values, bits, variant))
    tiny = 1e-15 * max(values) ** 2  # an error of 0 is met to float64's rounding
    assert bound - tiny <= least <= error + tiny
    assert error - bound <= 1e-9 * error + tiny
    assert measured(np.array(values), p, bits, variant) == pytest.approx(error, rel=1e-12, abs=tiny)


@given(st.integers(0, 2**32), st.integers(2, 300), st.integers(2, 8), st.sampled_from(VARIANTS),
       st.sampled_from(("normal", "laplace", "uniform", "few")))
def test_no_method_and_no_grid_is_below_the_optimum(seed, size, bits, variant, kind):
    rng = np.random.default_rng(seed)
    w = {"normal": rng.standard_normal(size), "laplace": rng.laplace(size=size), "uniform": rng.uniform(-1, 1, size),
         "few": rng.integers(-9, 10, size) / 4}[kind].astype(np.float32).astype(float)
    assume(len(np.unique(np.abs(w))) > 1)
    m = float(np.abs(w).max())
    p, error, bound = optimal_breakpoint(w, bits, variant)
    assert 0 < p < m and error - bound <= 1e-9 * error + 1e-15 * m * m
    others = [breakpoint(w, bits, method, variant) for method in METHODS
              if (method, variant) != ("one_shot", "overlapping")]
    p = np.concatenate([others, m * rng.uniform(0, 1, 200), m * np.arange(1, 200) / 200])
    found = round_trip(np.tile(w, (len(p), 1)), grid_of(p, np.full(len(p), m), bits, variant), axis=0)
    assert bound <= np.square(found - w).mean(axis=1).min() * (1 + 1e-12) + 1e-15 * m * m


@given(st.integers(0, 2**32), st.integers(2, 300), st.integers(2, 6), st.sampled_from(VARIANTS))
@example(8, 150, 8, "non_overlapping")
@example(8, 150, 8, AUTHORS)
@example(8, 150, 8, "overlapping")
def test_the_optimum_is_that_of_all_pieces_of_all_intervals(seed, size, bits, variant):
    """Without dropping an interval or splitting one: every place where a weight changes its level is a cut."""
    w = np.random.default_rng(seed).standard_normal(size)
    found = optimal_breakpoint(w, bits, variant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimal.Rows, "bounds", lambda rows, p, owner, counts: np.full(len(p), -np.inf))
        patch.setattr(optimal, "_CHANGES", 10**9)
        assert found.error == pytest.approx(optimal_breakpoint(w, bits, variant).error, rel=2e-9)


def test_long_rows_give_the_same_optimum(monkeypatch):
    """Sums in long doubles, or where there are none in float64 again, are for speed alone."""
    w = np.random.default_rng(9).standard_normal(3000)
    short = optimal_breakpoint(w, 4)
    monkeypatch.setattr(optimal, "_LONG", 100)
    assert optimal_breakpoint(w, 4) == pytest.approx(short, rel=1e-9)


@given(st.integers(0, 2**32), st.integers(1, 2100))
def test_prefix_sums_are_within_their_rounding(seed, size):
    """The last one, in rationals; so that the slack of the proof holds."""
    r = np.sort(np.abs(np.random.default_rng(seed).standard_normal(size)))
    rows = optimal.Rows(np.stack([r, r]), optimal.cells_of(4, "non_overlapping"))
    exact = [sum(Fraction(v) ** k for v in r.tolist()) for k in (1, 2)]
    for found, true in zip(rows.prefix[-1].tolist(), exact):
        assert abs(Fraction(found) - true) <= true * Fraction(2 * min(size, 1024 + size // 1024) + 2, 2**53)
    assert float(exact[1]) * 1e-16 < rows.slack[1] < float(exact[1] + 2 * Fraction(r[-1]) * exact[0]) * 1e-11


@given(st.integers(0, 2**32), st.integers(2, 60), st.sampled_from(VARIANTS), st.booleans())
def test_empirical_is_the_least_eq_4_of_the_tensors_own_distribution(seed, size, variant, clustered):
    rng = np.random.default_rng(seed)
    w = np.append(rng.uniform(0.6, 1, size), 0.1) if clustered else rng.standard_normal(size)
    r, m = np.sort(np.abs(w)), float(np.abs(w).max())

    p = breakpoint(w, 4, "empirical", variant)
    grid = np.concatenate([[p], np.linspace(0, m, 4002)[1:-1], r[:-1], np.nextafter(r, 0)])
    errors = error_of_mass(grid, m, np.searchsorted(r, grid, side="right") / len(r), 4, variant)
    assert errors[0] <= errors.min() * (1 + 1e-12)


@given(st.floats(1.6, 12), st.sampled_from(("gaussian", "laplacian")), st.sampled_from(VARIANTS))
def test_exact_and_gradient_descent_are_the_least_of_eq_4(m, distribution, variant):
    rest = np.sqrt((999 - 2 * m * m) / 998)  # so that the standard deviation is 1
    w = np.array([m, -m, *np.resize([rest, -rest], 998)])
    highest = m / 2 if variant == "non_overlapping" else m
    best = minimize_scalar(lambda p: float(expected_error(p, m, 4, distribution, variant)), bounds=(1e-9, highest),
                           method="bounded", options={"xatol": 1e-9})
    for method in ("exact", "gradient_descent"):
        p = breakpoint(w, 4, method, variant, distribution)
        found = float(expected_error(p, m, 4, distribution, variant))
        assert found <= best.fun * (1 + 1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("w", [[3.0], [2.0, -2.0, 2.0]])
def test_where_all_breakpoints_are_equal_the_optimum_is_in_the_middle(w, variant):
    p, error, bound = optimal_breakpoint(np.array(w), 4, variant)
    assert p == abs(w[0]) / 2 and error == bound == pytest.approx(measured(np.array(w), 0.3, 4, variant), abs=1e-15)


@pytest.mark.parametrize("method", METHODS)
def test_neutral_results(method):
    """One value of |w| tells nothing: p = m/2; a dead channel has the whole tensor's limit."""
    assert [breakpoint(w, 4, method) for w in (np.array([3.0]), np.full(5, -2.0))] == [1.5, 1.0]
    w = np.stack([np.random.default_rng(0).standard_normal(40), np.zeros(40), np.full(40, 1e-30)])
    p, m = breakpoint(w, 4, method, axis=0), limits_of(w, axis=0)
    assert m.tolist() == [np.abs(w).max()] * 3 and (p[1:] == m[0] / 2).all() and 0 < p[0] < m[0]


@given(st.integers(0, 2**32), st.sampled_from(METHODS), st.integers(-400, 400))
def test_a_tensor_scaled_by_a_power_of_two_has_a_scaled_breakpoint(seed, method, exponent):
    w = np.random.default_rng(seed).standard_normal(50)
    p = breakpoint(w, 4, method)
    assert breakpoint(np.ldexp(w, exponent), 4, method) == pytest.approx(np.ldexp(p, exponent), rel=1e-6)
