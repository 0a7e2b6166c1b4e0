"""Inner products of piecewise linear codes in integers: three sums, or nine where both operands are piecewise.

A weight is ŵ = step1·u + step2·v + offset·t in three integers: u = sign·magnitude in R1, v = sign·magnitude in R2,
t = sign in R2, each 0 in the other region. So with x ≈ x_q/S_x (Eq. 11-13)

    Σ ŵ·x ≈ P1·step1/S_x + P2·step2/S_x + P3·offset/S_x,    P1 = Σ u·x_q,  P2 = Σ v·x_q,  P3 = Σ t·x_q.

The multiplier array sees b-bit operands alone; R2's products go to an accumulator of their own, and a third one
adds up ±x_q. Errata: the paper prints P3 as Σ x_q over R2, without sign(w), though ŵ = sign(w)·(step2·v + p). For
piecewise weights and activations its supplement counts six accumulators; but which weights meet an activation of R2
is known at run time alone, so that all 3·3 = 9 sums are needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, positive
from refquant.integers.formats import IntFormat
from refquant.integers.several_sums import aligned, requantize_sums
from refquant.pwlq.quantizer import PiecewiseCodes, PiecewiseGrid


def components(codes: PiecewiseCodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u, v, t of codes, int64.

    >>> codes = PiecewiseCodes(np.array([0, 1]), np.array([1, -1]), np.array([3, 2]))
    >>> [part.tolist() for part in components(codes)]
    [[3, 0], [0, -2], [0, -1]]
    """
    region, sign, magnitude = (as_integers(part, name).astype(np.int64) for part, name in zip(codes, codes._fields))
    return sign * magnitude * (1 - region), sign * magnitude * region, sign * region


def component_values(grid: PiecewiseGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What one of u, v and t is worth: step1, step2, offset."""
    return (*grid.steps, grid.offset)


def sums(x: Any, w: PiecewiseCodes) -> list[int]:
    """P1, P2, P3 of integers x (n,); of ``PiecewiseCodes`` x nine sums, those with u of x first, then v, then t.

    w: codes (n,). In Python's integers, as a register of any width would hold them. ValueError for other shapes.

    >>> w = PiecewiseCodes(np.array([0, 1, 1]), np.array([1, -1, 1]), np.array([3, 2, 0]))
    >>> sums(np.array([10, 20, 30]), w)
    [30, -40, 10]
    """
    operands = components(x) if isinstance(x, PiecewiseCodes) else (as_integers(x, "x"),)
    shapes = {part.shape for part in (*operands, *w)}
    if len(shapes) > 1 or operands[0].ndim != 1:
        raise ValueError(f"x and w must be (n,), got shapes {operands[0].shape} and {w.magnitude.shape}")
    return [sum(a * b for a, b in zip(xs.tolist(), ws.tolist())) for xs in operands for ws in components(w)]


def inner_product(x: Any, w: PiecewiseCodes, w_grid: PiecewiseGrid, x_scale: Any, y_scale: float, fmt: IntFormat,
                  dialect: str = "single_round", zero_point: int = 0) -> int:
    """The output code round(Σ P_i·M_i) + zero_point of one inner product, rounded once.

    x: integers (n,), the codes less their zero point, with x_scale = S_x; or ``PiecewiseCodes``, with their grid for
    x_scale. w, w_grid: codes (n,), of one channel. y_scale: S_y. fmt, dialect, zero_point: of the output, as for
    ``several_sums.requantize_sums``. ValueError for anything else.

    >>> from refquant.pwlq.quantizer import grid_of, quantize
    >>> grid = grid_of(1.0, 4.0, 3)
    >>> inner_product(np.array([100, 50]), quantize(np.array([1 / 3, -2.0]), grid), grid, 100.0, 10.0, IntFormat(8))
    -7
    """
    if isinstance(x, PiecewiseCodes) != isinstance(x_scale, PiecewiseGrid):
        raise ValueError("x_scale must be a PiecewiseGrid for PiecewiseCodes x, and a number for integers, got "
                         f"{x_scale!r}")
    values = (component_values(x_scale) if isinstance(x_scale, PiecewiseGrid)
              else (1 / positive(x_scale, "x_scale").astype(np.float64),))
    pairs = [(total, y_scale * float(xv) * float(wv)) for total, (xv, wv) in
             zip(sums(x, w), ((xv, wv) for xv in values for wv in component_values(w_grid))) if wv and xv]
    accumulated, reals = zip(*pairs)
    return int(requantize_sums([np.int64(total) for total in accumulated], aligned(reals), fmt, dialect, zero_point))
