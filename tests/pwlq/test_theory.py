"""Eq. 4 and 6, the lemmas and the errata, against integrals, differences and samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.optimize import minimize_scalar

from refquant.pwlq import breakpoint, round_trip
from refquant.pwlq.breakpoints import exact_ratio, multiple_breakpoints
from refquant.pwlq.quantizer import VARIANTS, grid_of, round_trip_of_pieces
from refquant.pwlq.theory import (
    Distribution,
    error_curvature,
    error_slope,
    expected_error,
    expected_error_of_pieces,
    lemma2_bound,
    uniform_constant,
)

SCIPY = {"gaussian": stats.norm(), "laplacian": stats.laplace(scale=math.sqrt(0.5))}
NAMES = st.sampled_from(tuple(SCIPY))


def integrated_error(p, m, bits, name):
    """Step²/12 of every region, weighted by scipy's density: the paper's derivation before Eq. 4, without F."""
    pdf, step = SCIPY[name].pdf, 1 / (2 ** (bits - 1) - 1)
    inside, outside = integrate.quad(pdf, -p, p)[0], 2 * integrate.quad(pdf, p, np.inf)[0]
    return ((p * step) ** 2 * inside + ((m - p) * step) ** 2 * outside) / 12


@given(NAMES, st.floats(1, 10), st.floats(0.05, 0.95), st.integers(2, 8))
def test_eq_4_is_the_integral_of_both_steps(name, m, ratio, bits):
    assert expected_error(ratio * m, m, bits, name) == pytest.approx(integrated_error(ratio * m, m, bits, name))
    C, F = uniform_constant(bits - 1), SCIPY[name].cdf(ratio * m)
    p = ratio * m
    assert expected_error(p, m, bits, name) == pytest.approx(C * ((m - p) ** 2 + m * (2 * p - m) * (2 * F - 1)))


@given(NAMES, st.floats(1, 10), st.floats(0.05, 0.95), st.sampled_from(VARIANTS), st.booleans())
def test_eq_6_and_lemma_1(name, m, ratio, variant, truncated):
    """Both derivatives as printed, and as difference quotients; up to m/2 the second is above 0."""
    p, h, known = ratio * m, 1e-5, SCIPY[name]
    below, above = (float(expected_error(q, m, 4, name, variant, truncated)) for q in (p - h, p + h))
    slope = error_slope(p, m, 4, name, variant, truncated)
    assert slope == pytest.approx((above - below) / (2 * h), rel=1e-4, abs=1e-9)
    if variant == "non_overlapping":
        below, above = (float(error_slope(q, m, 4, name, truncated=truncated)) for q in (p - h, p + h))
        curvature = float(error_curvature(p, m, 4, name, truncated))
        assert curvature == pytest.approx((above - below) / (2 * h), rel=1e-4, abs=1e-8)
        assert ratio > 0.5 or curvature > 0
        if not truncated:
            printed = 2 * uniform_constant(3) * (p - 2 * m + 2 * m * known.cdf(p) + m * (2 * p - m) * known.pdf(p))
            assert slope == pytest.approx(printed, abs=1e-12)


@given(NAMES, st.floats(2.5, 10), st.integers(2, 8))
def test_lemma_2(name, m, bits):
    """The least error of a falling density is below 9/16 of uniform's at 2 bits, towards 1/4 with more."""
    best = expected_error(exact_ratio(m, bits, distribution=name), m, bits, name)
    uniform = uniform_constant(bits) * (2 * m) ** 2
    assert best < lemma2_bound(bits) * uniform
    assert 0.25 < lemma2_bound(bits) <= 9 / 16


@pytest.mark.parametrize("name", SCIPY)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("ratio", [0.2, 0.6])
def test_measured_error_is_eq_4_within_sampling_error(name, variant, ratio):
    """2^18 samples of the truncated density at 8 bits; four standard errors, and 1 % for steps of finite size."""
    m, bits, n = 4.0, 8, 2**18
    low, high = SCIPY[name].cdf(-m), SCIPY[name].cdf(m)
    w = SCIPY[name].ppf(np.random.default_rng(5).uniform(low, high, n))
    squares = (round_trip(w, grid_of(ratio * m, m, bits, variant)) - w) ** 2
    expected = expected_error(ratio * m, m, bits, name, variant, truncated=True)
    assert abs(squares.mean() - expected) < 4 * squares.std() / math.sqrt(n) + 0.01 * expected


def test_a_density_of_ones_own():
    """The triangle on [-1, 1]: F(p) = 1/2 + p - p²/2."""
    triangle = Distribution(lambda r: np.maximum(1 - np.abs(r), 0), lambda r: np.where(np.abs(r) < 1, -np.sign(r), 0),
                            lambda r: 0.5 + np.sign(r) * np.where(np.abs(r) < 1, np.abs(r) - np.square(r) / 2, 0.5))
    inside = 2 * 0.3 - 0.3**2
    assert expected_error(0.3, 1.0, 4, triangle) == pytest.approx((0.09 * inside + 0.49 * (1 - inside)) / 12 / 49)


# --- errata: each fails with the printed formula ---------------------------------------------------------------


@pytest.mark.parametrize("name, formula", [("gaussian", lambda m: math.log(0.86143114 * m + 0.607901097)),
                                           ("laplacian", lambda m: 0.80304483 * math.sqrt(m) - 0.316678551)])
def test_erratum_the_one_shot_formulas_give_p_and_not_its_part_of_m(name, formula):
    """"p*/m =" is printed; only p* in standard deviations is near the minimum, which scipy finds here."""
    for m in np.linspace(3, 10, 4):
        best = minimize_scalar(integrated_error, args=(m, 4, name), bounds=(1e-6, m / 2), method="bounded").x
        assert formula(m) == pytest.approx(best, rel=0.03)
        assert abs(formula(m) * m - best) > best


def test_erratum_the_supplements_sum_over_pieces_counts_half():
    """Eq. 1-2 there sum (p_(l+1) - p_l)²·[F(p_(l+1)) - F(p_l)] over r > 0: half of Eq. 4 at one breakpoint."""
    p, m, F = 1.2, 4.0, stats.norm.cdf
    printed = uniform_constant(3) * (p**2 * (F(p) - F(0)) + (m - p) ** 2 * (1 - F(p)))
    assert expected_error_of_pieces([p], m, 4) == pytest.approx(expected_error(p, m, 4)) == pytest.approx(2 * printed)
    w = stats.norm.ppf(np.random.default_rng(6).uniform(F(-m), F(m), 2**18))
    measured = float(((round_trip_of_pieces(w, [p], m, 8) - w) ** 2).mean())
    assert measured * uniform_constant(3) / uniform_constant(7) == pytest.approx(2 * printed, rel=0.02)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_more_breakpoints_are_a_stationary_point_below_fewer(count):
    w = np.random.default_rng(7).standard_normal(4000)
    m, spread = np.abs(w).max() / w.std(ddof=1), w.std(ddof=1)
    found = multiple_breakpoints(w, 4, count) / spread
    least = expected_error_of_pieces(found, m, 4)
    for k in range(count):
        for step in (-0.01, 0.01):
            assert expected_error_of_pieces(found + step * (np.arange(count) == k), m, 4) > least
    if count == 1:
        assert found[0] == pytest.approx(breakpoint(w, 4, "exact") / spread, abs=1e-6)
    else:
        assert least < 0.6 * expected_error_of_pieces(multiple_breakpoints(w, 4, count - 1) / spread, m, 4)
