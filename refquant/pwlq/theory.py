"""PWLQ's theory: the expected error of a breakpoint, its two derivatives, and what Lemmas 1 and 2 say of them.

A step s costs s²/12 where the density is nearly flat within a step. With C(b) = 1/(12·(2^b - 1)²), F the cumulative
distribution of weights, symmetric about 0, and all mass within [-m, m] (Eq. 4):

    E(p) = C(b-1)·[(m - p)² + m·(2p - m)·(2F(p) - 1)],        E_uni = C(b)·(2m)².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

from refquant.integers.checks import integer, one_of
from refquant.pwlq.quantizer import VARIANTS

Function = Callable[[Any], Any]


class Distribution(NamedTuple):
    """pdf, its derivative for r > 0, and cdf, of a density that is symmetric about 0."""

    pdf: Function
    slope: Function
    cdf: Function


_ROOT2 = math.sqrt(2.0)
GAUSSIAN = Distribution(lambda r: np.exp(-np.square(r) / 2) / math.sqrt(2 * math.pi),
                        lambda r: -r * np.exp(-np.square(r) / 2) / math.sqrt(2 * math.pi), ndtr)
LAPLACIAN = Distribution(lambda r: np.exp(-_ROOT2 * np.abs(r)) / _ROOT2, lambda r: -np.exp(-_ROOT2 * np.abs(r)),
                         lambda r: np.where(np.asarray(r) < 0, 0.5 * np.exp(-_ROOT2 * np.abs(r)),
                                            1 - 0.5 * np.exp(-_ROOT2 * np.abs(r))))
DISTRIBUTIONS = {"gaussian": GAUSSIAN, "laplacian": LAPLACIAN}


def distribution_of(distribution: Any, m: float | None = None) -> Distribution:
    """One of DISTRIBUTIONS by name, with variance 1, or a ``Distribution`` of your own.

    m: truncated to [-m, m], the density divided by F(m) - F(-m); None for the whole line. The paper and its authors'
    code do not truncate: Eq. 4 then takes what lies beyond m for a part of the tails. ValueError for a density that
    is not symmetric, as far as a hundred places show.
    """
    if not isinstance(distribution, Distribution):
        one_of(distribution, DISTRIBUTIONS, "distribution")
        distribution = DISTRIBUTIONS[distribution]
    places = np.geomspace(1e-3, 30.0, 100)
    left, right, cdf = distribution.pdf(-places), distribution.pdf(places), distribution.cdf(places)
    if not (np.allclose(left, right, 1e-9, 1e-300) and np.allclose(distribution.cdf(-places) + cdf, 1.0, 0, 1e-9)):
        raise ValueError("distribution must be symmetric about 0, got one whose pdf or cdf is not")
    if m is None:
        return distribution
    pdf, slope, whole = distribution.pdf, distribution.slope, 2 * float(distribution.cdf(m)) - 1
    return Distribution(lambda r: pdf(r) / whole, lambda r: slope(r) / whole,
                        lambda r: 0.5 + (distribution.cdf(r) - 0.5) / whole)


def uniform_constant(bits: int) -> float:
    """C(b) = 1/(12·(2^b - 1)²): the error of b bits on a range of length 1.

    >>> round(1 / uniform_constant(2))
    108
    """
    return 1 / (12 * (2.0**bits - 1) ** 2)


def constants(bits: int, variant: str) -> tuple[float, float]:
    """(c1, c2): the factor of p² in the centre, and of the squared range of the tails, m - p or m."""
    one_of(variant, VARIANTS, "variant")
    pieces, whole = uniform_constant(integer(bits, "bits", 2, 16) - 1), 4 * uniform_constant(bits)
    return (pieces if variant == "non_overlapping" else whole), (whole if variant == "overlapping" else pieces)


def expected_error(p: Any, m: Any, bits: int, distribution: Any = "gaussian", variant: str = "non_overlapping",
                   truncated: bool = False) -> np.ndarray:
    """E(p) of Eq. 4, as c1·p²·G + c2·(m - p)²·(1 - G) with G = 2F(p) - 1; of the overlapping tails m² for (m - p)².

    p, m: floats, 0 <= p <= m, in standard deviations of a named distribution. bits: b, 2..16. truncated: to [-m, m].
    ValueError for anything else.

    >>> round(float(expected_error(1.0, 4.0, 4)), 5)
    0.00602
    """
    known = distribution_of(distribution, m if truncated else None)
    if not np.all((0 <= np.asarray(p)) & (np.asarray(p) <= m)):
        raise ValueError(f"p must be from 0 to m, got {p} and {m}")
    return error_of_mass(p, m, 2 * known.cdf(p) - 1, bits, variant)


def error_of_mass(p: Any, m: Any, inside: Any, bits: int, variant: str = "non_overlapping") -> np.ndarray:
    """Eq. 4 with ``inside``, the part of the tensor that lies in the centre, in place of 2F(p) - 1."""
    centre, tail = constants(bits, variant)
    reach = m if variant == "overlapping" else m - p
    return centre * np.square(p) * inside + tail * np.square(reach) * (1 - inside)


def error_slope(p: Any, m: Any, bits: int, distribution: Any = "gaussian", variant: str = "non_overlapping",
                truncated: bool = False) -> np.ndarray:
    """dE/dp; for ``non_overlapping`` Eq. 6: 2C(b-1)·[p - 2m + 2m·F(p) + m·(2p - m)·f(p)]."""
    return slope_of(distribution_of(distribution, m if truncated else None), p, m, bits, variant)


def slope_of(known: Distribution, p: Any, m: Any, bits: int, variant: str) -> np.ndarray:
    """``error_slope`` of a distribution that is checked already."""
    centre, tail = constants(bits, variant)
    inside, f = 2 * known.cdf(p) - 1, known.pdf(p)
    if variant == "overlapping":
        return 2 * centre * p * inside + 2 * f * (centre * p**2 - tail * m**2)
    return 2 * centre * p * inside - 2 * tail * (m - p) * (1 - inside) + 2 * f * (centre * p**2 - tail * (m - p) ** 2)


def error_curvature(p: Any, m: Any, bits: int, distribution: Any = "gaussian", truncated: bool = False) -> np.ndarray:
    """d²E/dp² = 2C(b-1)·[1 + 4m·f(p) + m·(2p - m)·f'(p)] of ``non_overlapping`` (Eq. 6).

    Lemma 1: it is above 0 for 0 < p < m/2 if f falls there, for then 2p - m and f'(p) are both below 0. So E is
    convex there, and has one minimum.
    """
    known = distribution_of(distribution, m if truncated else None)
    return 2 * constants(bits, "non_overlapping")[0] * (1 + 4 * m * known.pdf(p) + m * (2 * p - m) * known.slope(p))


def lemma2_bound(bits: int) -> float:
    """C(b-1) / (16·C(b)): E(p*)/E_uni is below it (Lemma 2), since p = m/2 gives just that for any density.

    >>> [round(lemma2_bound(b), 4) for b in (2, 4, 8)]
    [0.5625, 0.287, 0.252]
    """
    return uniform_constant(integer(bits, "bits", 2, 16) - 1) / (16 * uniform_constant(bits))


def expected_error_of_pieces(breakpoints: Any, m: float, bits: int, distribution: Any = "gaussian",
                             truncated: bool = False) -> float:
    """C(b-1)·Σ (p_(l+1) - p_l)²·2·[F(p_(l+1)) - F(p_l)], from p_0 = 0 to m, the last piece with all that is beyond.

    The supplement's Eq. 2 counts r > 0 alone, and so is half of this; for one breakpoint this is Eq. 4.
    """
    known = distribution_of(distribution, m if truncated else None)
    ends = np.array([0.0, *np.ravel(breakpoints), m])
    cdf = np.append(known.cdf(ends[:-1]), 1.0)
    return float(constants(bits, "non_overlapping")[0] * np.sum(np.square(np.diff(ends)) * 2 * np.diff(cdf)))
