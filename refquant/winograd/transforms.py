"""Winograd's small convolutions F(m, r) from chosen points, in exact rationals, then in integers.

F(m, r) computes m outputs of a correlation with r taps from n = m + r - 1 inputs by n products:

    divisor · y = A^T [(G g) ∘ (B^T d)],   y_i = Σ_k d_{i+k} g_k        (Winograd 1980; Lavin & Gray 2015, Eq. 2)

It is Toom and Cook's polynomial product transposed: two polynomials of m and r coefficients are evaluated
at n points, multiplied there, and their product is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, integer, is_integer
from refquant.integers.formats import frozen_copy

MAX_OUTPUTS, MAX_TAPS = 8, 7

# Small numerators and denominators keep the matrices small; then the largest tile has 13 finite points.
POINTS = tuple(Fraction(p) for p in "0 1 -1 2 -2 1/2 -1/2 3 -3 1/3 -1/3 3/2 -3/2".split())


@dataclass(frozen=True, eq=False)
class Transforms:
    """Integer matrices of F(m, r): A^T[(G g) ∘ (B^T d)] = divisor · (correlation of d with g).

    In two dimensions A^T[(G g G^T) ∘ (B^T d B)]A = divisor² · (correlation). m: outputs, r: taps, of one
    dimension; n = m + r - 1: the tile. bt: B^T (n, n), g: G (n, r), at: A^T (m, n), int64; divisor: >= 1.

    A set is proved when it is built: both sides are linear in d and in g, so it is enough that they agree on
    every pair of unit inputs. ValueError names the first pair on which they do not.

    >>> Transforms(1, 1, [[2]], [[1]], [[3]], 5)
    Traceback (most recent call last):
    ...
    ValueError: F(1, 1) must give [5] for unit inputs d_0 and g_0, got [6]
    """

    m: int
    r: int
    bt: np.ndarray
    g: np.ndarray
    at: np.ndarray
    divisor: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "m", integer(self.m, "m", 1, MAX_OUTPUTS))
        object.__setattr__(self, "r", integer(self.r, "r", 1, MAX_TAPS))
        shapes = {"bt": (self.n, self.n), "g": (self.n, self.r), "at": (self.m, self.n)}
        for name, shape in shapes.items():
            matrix = as_integers(getattr(self, name), name)
            if matrix.shape != shape or matrix.dtype != np.int64:
                raise ValueError(f"{name} must be {shape} of int64 for F({self.m}, {self.r}), "
                                 f"got {matrix.shape} of {matrix.dtype}")
            object.__setattr__(self, name, frozen_copy(matrix))
        object.__setattr__(self, "divisor", integer(self.divisor, "divisor", 1))
        self._prove()

    @property
    def n(self) -> int:
        """The tile: inputs, and products."""
        return self.m + self.r - 1

    def _prove(self) -> None:
        bt, g, at = (matrix.astype(object) for matrix in (self.bt, self.g, self.at))  # Python's integers
        for i in range(self.n):
            for j in range(self.r):
                got = (at @ (g[:, j] * bt[:, i])).tolist()
                wanted = [self.divisor if i == k + j else 0 for k in range(self.m)]
                if got != wanted:
                    raise ValueError(f"F({self.m}, {self.r}) must give {wanted} for unit inputs d_{i} and g_{j}, "
                                     f"got {got}")


def cook_toom(m: int, r: int, points: Sequence[Any] | None = None,
              scaling: str | Sequence[int] = "rows") -> Transforms:
    """F(m, r) from n - 1 finite points and the point at infinity, which gives the last product.

    For the point p/q, and L the others: a column p^i·q^(m-1-i) of A^T; a row of B^T, the coefficients of
    M = Π_L (q_l·x - p_l); a row of G, p^k·q^(r-1-k) / (q·Π_L (p·q_l - q·p_l)) (Lagrange's formula, made
    homogeneous). So A^T and B^T are integers from the start, without a common factor in any row of B^T. Signs,
    as Lavin and Gray print them: the rows of 0 and of infinity are positive in G, and begin so in B^T.

    The products are then scaled until G is made of integers too: row j of G by a factor f_j, column j of A^T by
    divisor / f_j, where divisor is the least common multiple of all f_j. Large factors widen U and the products,
    small ones ask for more multiplications in the output transform.

    m: 1..8 outputs. r: 1..7 taps. points: distinct integers or Fractions; by default the first n - 1 of 0, 1,
    -1, 2, -2, 1/2, -1/2, 3, -3, 1/3, -1/3, 3/2, -3/2. scaling: "rows", each row of G by the least factor that
    makes it integers; "matrix", all rows by the least one that does so for all; or n factors >= 1. ValueError
    for repeated points, factors that leave fractions, entries beyond int64.

    >>> cook_toom(2, 3, scaling="matrix").g.tolist()
    [[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]
    """
    m, r = integer(m, "m", 1, MAX_OUTPUTS), integer(r, "r", 1, MAX_TAPS)
    finite = _points(points, m + r - 2)
    bt, g, columns = [], [], []
    for j, (p, q) in enumerate(finite):
        others = finite[:j] + finite[j + 1:]
        weight = q * math.prod(p * below - q * above for above, below in others)
        sign = -1 if p == 0 and weight < 0 else 1
        bt.append([sign * c for c in _polynomial(others)] + [0])
        g.append([Fraction(p**k * q**(r - 1 - k), sign * weight) for k in range(r)])
        columns.append([p**i * q**(m - 1 - i) for i in range(m)])
    last = _polynomial(finite)
    sign = 1 if next(c for c in last if c) > 0 else -1
    bt.append([sign * c for c in last])
    g.append([Fraction(0)] * (r - 1) + [Fraction(1, math.prod(q for _, q in finite))])
    columns.append([0] * (m - 1) + [sign])

    factors = _factors(scaling, g)
    divisor = math.lcm(*factors)
    g_q = [[int(f * v) for v in row] for f, row in zip(factors, g)]
    at = [[columns[j][i] * (divisor // f) for j, f in enumerate(factors)] for i in range(m)]
    largest = max(abs(v) for matrix in (bt, g_q, at) for row in matrix for v in row)
    if largest >= 2**63:
        raise ValueError(f"F({m}, {r}) must have entries that int64 holds, got {largest}")
    return Transforms(m, r, np.array(bt), np.array(g_q), np.array(at), divisor)


def _points(points: Any, count: int) -> list[tuple[int, int]]:
    """(numerator, denominator) of each finite point."""
    if points is None:
        points = POINTS[:count]
    if np.ndim(points) != 1 or not all(
            is_integer(p) or isinstance(p, Fraction) for p in points):
        raise ValueError(f"points must be integers or Fractions, got {points!r}")
    pairs = [(int(p.numerator), int(p.denominator)) for p in points]
    if len(pairs) != count or len(set(pairs)) != count:
        raise ValueError(f"points must be {count} distinct ones beside infinity, got "
                         f"{', '.join(str(p) for p in points) or 'none'}")
    return pairs


def _polynomial(roots: Sequence[tuple[int, int]]) -> list[int]:
    """The coefficients of Π (q·x - p), constant first."""
    coefficients = [1]
    for p, q in roots:
        coefficients = [q * above - p * here for above, here in zip([0, *coefficients], [*coefficients, 0])]
    return coefficients


def _factors(scaling: str | Sequence[int], g: list[list[Fraction]]) -> list[int]:
    """What each row of G is multiplied by."""
    least = [math.lcm(*(v.denominator for v in row)) for row in g]
    if isinstance(scaling, str):
        if scaling not in ("rows", "matrix"):
            raise ValueError(f"scaling must be 'rows', 'matrix' or {len(g)} factors, got {scaling!r}")
        return least if scaling == "rows" else [math.lcm(*least)] * len(g)
    factors = np.asarray(scaling)
    if factors.shape != (len(g),) or factors.dtype.kind not in "iu" or (factors < 1).any():
        raise ValueError(f"scaling must be {len(g)} integers >= 1, got {scaling!r}")
    for j, (factor, unit, row) in enumerate(zip(factors.tolist(), least, g)):
        if factor % unit:
            raise ValueError(f"scaling must make row {j} of G, {', '.join(map(str, row))}, integers, got {factor}")
    return [int(f) for f in factors]


# The published sets, literally. F(2,3), F(4,3): Lavin & Gray 2015, their G times 2 and times 24.
PRESETS = {
    "F(2,3)": Transforms(
        2, 3,
        bt=np.array([[1, 0, -1, 0],
                     [0, 1, 1, 0],
                     [0, -1, 1, 0],
                     [0, 1, 0, -1]]),
        g=np.array([[2, 0, 0],
                    [1, 1, 1],
                    [1, -1, 1],
                    [0, 0, 2]]),
        at=np.array([[1, 1, 1, 0],
                     [0, 1, -1, -1]]),
        divisor=2),
    "F(4,3)": Transforms(
        4, 3,
        bt=np.array([[4, 0, -5, 0, 1, 0],
                     [0, -4, -4, 1, 1, 0],
                     [0, 4, -4, -1, 1, 0],
                     [0, -2, -1, 2, 1, 0],
                     [0, 2, -1, -2, 1, 0],
                     [0, 4, 0, -5, 0, 1]]),
        g=np.array([[6, 0, 0],
                    [-4, -4, -4],
                    [-4, 4, -4],
                    [1, 2, 4],
                    [1, -2, 4],
                    [0, 0, 24]]),
        at=np.array([[1, 1, 1, 1, 1, 0],
                     [0, 1, -1, 2, -2, 0],
                     [0, 1, 1, 4, 4, 0],
                     [0, 1, -1, 8, -8, 1]]),
        divisor=24),
    # ncnn's later kernels: a quarter of the last row of G, made up for in A^T.
    "F(4,3) ncnn": Transforms(
        4, 3,
        bt=np.array([[4, 0, -5, 0, 1, 0],
                     [0, -4, -4, 1, 1, 0],
                     [0, 4, -4, -1, 1, 0],
                     [0, -2, -1, 2, 1, 0],
                     [0, 2, -1, -2, 1, 0],
                     [0, 4, 0, -5, 0, 1]]),
        g=np.array([[6, 0, 0],
                    [-4, -4, -4],
                    [-4, 4, -4],
                    [1, 2, 4],
                    [1, -2, 4],
                    [0, 0, 6]]),
        at=np.array([[1, 1, 1, 1, 1, 0],
                     [0, 1, -1, 2, -2, 0],
                     [0, 1, 1, 4, 4, 0],
                     [0, 1, -1, 8, -8, 4]]),
        divisor=24),
    # NNPACK and ncnn publish B^T/4, with its 6th and 7th rows doubled, and the last row and the last column of A^T
    # negated.
    "F(6,3)": Transforms(
        6, 3,
        bt=np.array([[4, 0, -21, 0, 21, 0, -4, 0],
                     [0, 4, 4, -17, -17, 4, 4, 0],
                     [0, -4, 4, 17, -17, -4, 4, 0],
                     [0, 2, 1, -10, -5, 8, 4, 0],
                     [0, -2, 1, 10, -5, -8, 4, 0],
                     [0, 4, 8, -5, -10, 1, 2, 0],
                     [0, -4, 8, 5, -10, -1, 2, 0],
                     [0, 4, 0, -21, 0, 21, 0, -4]]),
        g=np.array([[90, 0, 0],
                    [-20, -20, -20],
                    [-20, 20, -20],
                    [1, 2, 4],
                    [1, -2, 4],
                    [4, 2, 1],
                    [4, -2, 1],
                    [0, 0, 90]]),
        at=np.array([[1, 1, 1, 1, 1, 32, 32, 0],
                     [0, 1, -1, 2, -2, 16, -16, 0],
                     [0, 1, 1, 4, 4, 8, 8, 0],
                     [0, 1, -1, 8, -8, 4, -4, 0],
                     [0, 1, 1, 16, 16, 2, 2, 0],
                     [0, 1, -1, 32, -32, 1, -1, -1]]),
        divisor=360),
}


def transforms_for(tile: Any) -> Transforms:
    """The set meant by ``tile``: a Transforms itself, a preset's name, or (m, r).

    (m, r) is the preset "F(m,r)" where there is one, otherwise ``cook_toom(m, r)``. ValueError for anything else.

    >>> transforms_for((4, 3)) is transforms_for("F(4,3)")
    True
    """
    if isinstance(tile, Transforms):
        return tile
    if isinstance(tile, str) and tile in PRESETS:
        return PRESETS[tile]
    if isinstance(tile, str) or not isinstance(tile, Sequence) or len(tile) != 2:
        raise ValueError(f"tile must be (m, r), Transforms or one of {', '.join(PRESETS)}, got {tile!r}")
    m, r = integer(tile[0], "tile's m", 1, MAX_OUTPUTS), integer(tile[1], "tile's r", 1, MAX_TAPS)
    return PRESETS.get(f"F({m},{r})") or cook_toom(m, r)
