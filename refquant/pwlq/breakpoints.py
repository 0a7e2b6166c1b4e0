"""Where to break: at the least Eq. 4 for an assumed density, at its least for the tensor's own, or as measured.

``exact``: the root of Eq. 6, found by bracketing. ``gradient_descent``: the same minimum, by at most 20000 steps of
descent along Eq. 6, too few where m is above about 60 standard deviations.
``one_shot``: fits of that minimum, with m in standard deviations of the weights, m = max|w|/σ:

    Gaussian   p*/σ = ln(0.86143114·m + 0.607901097)        Laplacian   p*/σ = 0.80304483·sqrt(m) - 0.316678551

Erratum: the paper and its supplement print these with p*/m on the left. The authors' code, and Eq. 4, give p*/σ.
``empirical``: the least Eq. 4 where 2F(p) - 1 is the part of the tensor with |w| <= p. ``coarse_to_fine``: the least
measured error on three grids of p/m (Algorithm 1). ``optimal``: the least measured error of all, with a proof.
"""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize

from refquant.integers.checks import finite, integer, moderate, one_of
from refquant.pwlq.optimal import Optimum, Rows, cells_of, channels_together, measured, optima_of
from refquant.pwlq.quantizer import VARIANTS
from refquant.pwlq.theory import (
    DISTRIBUTIONS,
    constants,
    distribution_of,
    error_curvature,
    error_of_mass,
    expected_error_of_pieces,
    slope_of,
)
from refquant.scales.linear import DEAD_CHANNEL

METHODS = ("exact", "one_shot", "gradient_descent", "coarse_to_fine", "empirical", "optimal")


def breakpoint(w: Any, bits: int, method: str = "one_shot", variant: str = "non_overlapping",
               distribution: str = "gaussian", axis: int | None = None) -> Any:
    """The breakpoint p, 0 < p < m = max|w|, in the units of w; see the module for what each method minimizes.

    w: floats, any shape, the largest magnitude from 1e-140 to 1e140. bits: b, 2..16; ``exact``, ``one_shot``,
    ``gradient_descent`` and ``empirical`` depend on it for ``non_overlapping_authors`` only.
    method: one of METHODS. variant: one of ``quantizer.VARIANTS``; ``one_shot`` is fitted to ``non_overlapping``, and
    taken for ``non_overlapping_authors`` too. distribution: gaussian or laplacian, with the tensor's standard
    deviation, for the first three methods. axis: None for one p, or 0 for one per channel.
    Returns a float, or float64 (O,). m/2 where all w are equal, for the last three methods where all |w| are; a dead
    channel gets half of the tensor's max|w|. ValueError for what is empty, all zero, NaN or infinite, and for other
    words.

    >>> w = np.random.default_rng(0).standard_normal(10000)
    >>> [round(breakpoint(w, 4, method), 2) for method in ("exact", "one_shot", "empirical", "optimal")]
    [1.37, 1.38, 1.34, 1.26]
    """
    rows, m = _rows(w, axis)
    bits = integer(bits, "bits", 2, 16)
    one_of(method, METHODS, "method")
    one_of(variant, VARIANTS, "variant")
    one_of(distribution, DISTRIBUTIONS, "distribution")
    if method == "one_shot" and variant == "overlapping":
        raise ValueError("method one_shot must have a variant that does not overlap, got 'overlapping'")
    p = m / 2
    if method in ("exact", "one_shot", "gradient_descent"):
        spread, reach = _deviation(rows), _reach(rows)
        usable = (reach == m) & (spread > 1e-9 * m)
        p[usable] = spread[usable] * _of_density(method, m[usable] / spread[usable], bits, variant, distribution)
    else:
        of_rows = {"empirical": _empirical, "coarse_to_fine": _coarse_to_fine, "optimal": _optimal}[method]
        together = channels_together(rows.shape[1], bits)
        for start in range(0, len(rows), together):
            r = np.sort(np.abs(rows[start:start + together]), axis=1).astype(np.float64, copy=False)
            usable = np.flatnonzero((r[:, -1] == m[start:start + together]) & (r[:, 0] < r[:, -1]))
            if len(usable):
                p[start + usable] = of_rows(r if len(usable) == len(r) else r[usable], bits, variant)
    return float(p[0]) if axis is None else p


def optimal_breakpoint(w: Any, bits: int, variant: str = "non_overlapping") -> Optimum:
    """(p, error, lower_bound): the least measured error Σ (pw(w) - w)²/n over 0 < p < m = max|w|, with its proof.

    No breakpoint's error is below lower_bound, and error - lower_bound <= 1e-9·error. Where |w| has one value alone,
    p = m/2. Arguments and errors as for ``breakpoint`` of one tensor.

    >>> p, error, lower_bound = optimal_breakpoint(np.array([0.1, -0.3, 0.2, 1.7, 2.9, -3.0]), 3)
    >>> round(p, 4), round(error, 5), error - lower_bound <= 1e-9 * error
    (0.95, 0.00639, True)
    """
    (row,), _ = _rows(w, None)
    one_of(variant, VARIANTS, "variant")
    bits, r = integer(bits, "bits", 2, 16), np.sort(np.abs(row)).astype(np.float64)
    m = float(r[-1])
    if r[0] == m:  # all at the outermost level of the tails, whatever p is
        error = measured(r, m / 2, m, bits, variant)
        return Optimum(m / 2, error, error)
    return optima_of(r[None], bits, variant)[0]


def limits_of(w: Any, axis: int | None = None) -> Any:
    """m = max|w| of a tensor, or of each channel along axis 0; the tensor's for a channel below 2^-24 of that."""
    m = _rows(w, axis)[1]
    return float(m[0]) if axis is None else m


def multiple_breakpoints(w: Any, bits: int, count: int, distribution: str = "gaussian") -> np.ndarray:
    """One to three breakpoints of least expected error (supplement, Eq. 1-2), by ``scipy.optimize`` from five starts.

    w: as for ``breakpoint``. bits: b, 2..16. count: 1..3. distribution: gaussian or laplacian, with the tensor's
    deviation. Returns float64 (count,), rising. ValueError as for ``breakpoint``.

    >>> w = np.random.default_rng(0).standard_normal(10000)
    >>> multiple_breakpoints(w, 4, 2).round(2).tolist()
    [0.81, 1.84]
    """
    rows, m = _rows(w, None)
    bits, count, spread = integer(bits, "bits", 2, 16), integer(count, "count", 1, 3), _deviation(rows)[0]
    one_of(distribution, DISTRIBUTIONS, "distribution")
    if spread <= 1e-9 * m[0]:
        return m[0] * np.arange(1, count + 1) / (count + 1)
    limit = float(m[0] / spread)

    def ends(free: np.ndarray) -> np.ndarray:  # widths as a softmax, so that every start stays in order
        widths = np.exp(np.append(free, 0.0) - max(0.0, free.max()))
        return limit * np.cumsum(widths / widths.sum())[:-1]

    def loss(free: np.ndarray) -> float:
        return expected_error_of_pieces(ends(free), limit, bits, distribution) / limit**2 * 1e4

    starts = [np.linspace(low, 0, count) - tilt for low in (0.0, -1.0) for tilt in (0.0, 1.0)]
    starts.append(np.full(count, -2.0))
    found = [minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000})
             for start in starts]
    return float(spread) * ends(min(found, key=lambda result: result.fun).x)


def _rows(w: Any, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A row per channel, and its m."""
    w = finite(w, "w")
    if axis is not None:
        integer(axis, "axis", 0, 0)
    if w.size == 0 or (axis == 0 and w.ndim == 0):
        raise ValueError(f"w must not be empty, got shape {w.shape}")
    rows = w.reshape(len(w) if axis == 0 else 1, -1)
    reach = _reach(rows)
    whole = reach.max()
    if not whole:
        raise ValueError("w must hold a weight that is not zero, got zeros alone")
    moderate(float(whole), "w must be moderate: its largest magnitude")
    return rows, np.where(reach < DEAD_CHANNEL * whole, whole, reach)


def _reach(rows: np.ndarray) -> np.ndarray:
    return np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.float64)


def _deviation(rows: np.ndarray) -> np.ndarray:
    """The standard deviation of each row, about its mean, with n - 1 as the authors' code; 0 for one element."""
    if rows.shape[1] == 1:
        return np.zeros(len(rows))
    total = np.empty(len(rows))
    for k, row in enumerate(rows):  # one after another: a row stays in the cache
        centred = row.astype(np.float64)
        centred -= centred.mean()
        total[k] = centred @ centred
    return np.sqrt(total / (rows.shape[1] - 1))


def _of_density(method: str, m: np.ndarray, bits: int, variant: str, distribution: str) -> np.ndarray:
    """p*/σ for m = max|w|/σ."""
    if method == "one_shot":
        return np.log(0.86143114 * m + 0.607901097) if distribution == "gaussian" else (
            0.80304483 * np.sqrt(m) - 0.316678551)
    if method == "exact":
        return np.array([exact_ratio(one, bits, variant, distribution) for one in m])
    known = distribution_of(distribution)
    # No slope of Eq. 6 is steeper than this, so that no step goes too far; in units of 2C(b-1).
    unit = error_curvature(0.0, 0.0, bits, distribution)
    top = 1 + 4 * m * float(known.pdf(0.0)) + m * m * np.abs(known.slope(np.linspace(0, 3, 301))).max()
    p, highest = m / 2, m / 2 if variant == "non_overlapping" else m
    for _ in range(20000):
        step = slope_of(known, p, m, bits, variant) / unit / top
        before, p = p, np.clip(p - step, 1e-9 * m, highest)
        if np.abs(p - before).max(initial=0) <= 1e-12:
            break
    return p


def exact_ratio(m: float, bits: int, variant: str = "non_overlapping", distribution: str = "gaussian") -> float:
    """p*/σ where dE/dp = 0, for m = max|w|/σ; m/2 where the paper's E still falls there (Eq. 5 looks no further)."""
    slope = partial(slope_of, distribution_of(distribution), m=m, bits=bits, variant=variant)
    highest = m / 2 if variant == "non_overlapping" else m
    if slope(highest) <= 0:
        return float(highest) if variant == "non_overlapping" else float(m / 2)
    return float(brentq(slope, 1e-9 * m, highest, xtol=1e-12 * m))


def _empirical(r: np.ndarray, bits: int, variant: str) -> np.ndarray:
    """The least Eq. 4 with G = part of the magnitudes r <= p, exactly, from few candidates; r: sorted rows.

    Between two magnitudes E is a parabola in p. Its vertex falls as G rises, so it lies inside one interval only. E
    falls before this interval and rises after it. A magnitude that joins the centre lowers E below ``even``,
    where both regions have steps of one length, and raises it above.
    """
    (_, n), m, owner = r.shape, r[:, -1:], np.arange(len(r))
    centre, tail = constants(bits, variant)
    overlapping = variant == "overlapping"  # whose tails' error does not depend on p
    even = m if overlapping else m * (sqrt(tail) / (sqrt(centre) + sqrt(tail)))
    outside = tail * np.arange(n - 1, 0, -1.0) * (not overlapping)
    vertex = m * (outside / (centre * np.arange(1, n) + outside))  # where 1, 2, ... are in the centre
    k = 1 + (vertex < r[:, 1:]).argmax(axis=1)
    met = np.maximum(r[owner, k - 1], vertex[owner, k - 1])
    below = np.array([row.searchsorted(p, side="right") for row, p in zip(r, even[:, 0])])
    best, least = m[:, 0] / 2, np.full(len(r), np.inf)

    def take(p: np.ndarray, mass: np.ndarray, among: Any = True) -> None:
        errors = error_of_mass(p, m, mass / n, bits, variant)
        errors[~(among & (p > 0) & (p < m))] = np.inf
        at = errors.argmin(axis=1)
        better = errors[owner, at] < least
        best[better], least[better] = p[owner, at][better], errors[owner, at][better]

    take(met[:, None], k[:, None])
    for start, stop in ((k, below), (below, k)):
        columns = np.arange(start.min(), max(start.min(), stop.max()))
        among = (start[:, None] <= columns) & (columns < stop[:, None])
        if among.any():  # after the vertex, magnitudes below ``even``; or before it, just below magnitudes above
            p = r[:, columns[0]:columns[-1] + 1]
            if start is k:
                take(p, columns + 1, among)
            else:
                take(np.nextafter(p, 0.0), columns, among)
    return best


def _optimal(r: np.ndarray, bits: int, variant: str) -> np.ndarray:
    return np.array([found.breakpoint for found in optima_of(r, bits, variant)])


def _coarse_to_fine(r: np.ndarray, bits: int, variant: str) -> np.ndarray:
    """Algorithm 1: p/m on 0.1..0.9, then around the best so far in steps of 0.01, then of 0.001; r: sorted rows."""
    rows, owner, every = Rows(r, cells_of(bits, variant)), np.arange(len(r)), np.arange(-10, 11)
    ratios: np.ndarray = np.tile(np.arange(1, 10) / 10, (len(r), 1))
    best, least = np.full(len(r), 0.5), np.full(len(r), np.inf)
    for step in (0.01, 0.001, 0.0):
        inside = (0 < ratios) & (ratios < 1)
        p = rows.m[:, None] * np.where(inside, ratios, 0.5)
        errors = np.where(inside, rows.errors(p, owner, rows.counts(p, owner)), np.inf)
        at = errors.argmin(axis=1)
        better = errors[owner, at] < least
        best[better], least[better] = ratios[owner, at][better], errors[owner, at][better]
        ratios = best[:, None] + step * every
    return rows.m * best
