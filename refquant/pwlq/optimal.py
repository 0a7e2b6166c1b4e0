"""The breakpoint of least measured error, with a proof that no other is better.

The measured error E(p) = Σ (pw(w) - w)²/n has hundreds of local minima: it is made of parabolas, one for each way in
which the weights fall to the levels, and jumps may lie between them where p meets a weight. Its levels and the
places between them are linear in p. So for all p of an interval:

- weights that stay with their level give an exact parabola, from three prefix sums of the sorted magnitudes;
- weights that change from one level to the next are near the place between both, half a step from either; those that
  change their region count as 0.

Both together are a lower bound. Intervals whose bound is above the least error found so far are dropped, the others
split, until few weights change within one. Then the places where they change cut it into pieces, and each piece's
parabola has its minimum in closed form.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from refquant.pwlq.quantizer import grid_of

# Intervals to begin with, into how many one is split, and how many weights may change in what is left at the end.
_START, _SPLIT, _CHANGES = 32, 8, 200
# Rows of more elements are summed in long doubles, where the machine has them, so that rounding hides less.
_LONG = 1 << 16


class Cells(NamedTuple):
    """The levels a_j + b_j·p of magnitudes, lowest first, and the places between them, c_j + d_j·p.

    region: of each place, -1 between levels of the centre, 1 of the tails, 0 between the two regions (the paper's
    share the level p, so that they have no such place). overlapping: |r| = p is in the centre, tails begin at p.
    """

    level: np.ndarray  # (J, 2): a, b
    place: np.ndarray  # (J-1, 2): c, d
    region: np.ndarray
    overlapping: bool


def cells_of(bits: int, variant: str, m: float, signed: bool = True) -> Cells:
    """The cells of a grid with limit m, for any breakpoint.

    >>> cells_of(3, "non_overlapping", 4.0).level.round(2).tolist()[:5]
    [[0.0, 0.0], [0.0, 0.33], [0.0, 0.67], [0.0, 1.0], [1.33, 0.67]]
    """
    unit = _unit_cells(bits, variant, signed)
    return unit._replace(level=unit.level * [m, 1.0], place=unit.place * [m, 1.0])


@lru_cache
def _unit_cells(bits: int, variant: str, signed: bool) -> Cells:
    """``cells_of`` limit 1."""
    largest = grid_of(0.5, 1.0, bits, variant, signed).largest
    half_range = (2.0**bits - 1) / (2 if signed else 1)
    k = np.arange(largest + 1.0)
    centre = np.stack([0 * k, k / (largest if variant == "non_overlapping" else half_range)], axis=1)
    tail = (np.stack([k / half_range, 0 * k], axis=1) if variant == "overlapping" else
            np.stack([k / largest, 1 - k / largest], axis=1))
    between = [(part[1:] + part[:-1]) / 2 for part in (centre, tail)]
    if variant == "non_overlapping":
        return Cells(np.concatenate([centre, tail[1:]]), np.concatenate(between),
                     np.zeros(2 * largest, np.int64), False)
    return Cells(np.concatenate([centre, tail]), np.concatenate([between[0], [[0.0, 1.0]], between[1]]),
                 np.repeat([-1, 0, 1], [largest, 1, largest]), variant == "overlapping")


class Row:
    """The sorted magnitudes of one channel, with prefix sums of 1, r and r²."""

    def __init__(self, magnitudes: np.ndarray, cells: Cells) -> None:
        self.r, self.cells = np.asarray(magnitudes, np.float64), cells
        self.prefix = _prefix_sums(self.r)
        # Σ (r - a - b·p)² = α - 2β·p + γ·p², and this makes α, β, γ of the cells' Σ 1, Σ r, Σ r².
        (a, b), one, none = cells.level.T, np.ones(len(cells.level)), np.zeros(len(cells.level))
        self.to_parabola = np.stack([a * a, -2 * a, one, -a * b, b, none, b * b, none, none]).reshape(3, 3, -1)
        self.to_parabola = self.to_parabola.transpose(2, 1, 0).reshape(-1, 3)
        # At the place between two levels half a step lies to either; while p goes from low to high, the place moves.
        # This makes of 1, low and high what is left of the half step, and how far a place stays within its region.
        (step_a, step_b), (c, d), region = (cells.level[1:] - cells.level[:-1]).T, cells.place.T, cells.region
        self.to_room = np.stack([step_a, np.maximum(step_b, 0) + 2 * d, np.minimum(step_b, 0) - 2 * d]) / 2
        one = np.ones(len(c))
        self.to_margin = np.select([region < 0, region > 0], [np.stack([-c, one, -d]), np.stack([c, d, -one])],
                                   [[-1.0], [0.0], [0.0]])
        # A prefix sum is off by at most so many roundings of the whole. The levels rise from 0 to m, so that together
        # the cells' Σ r count m times, twice; and an interval's two ends may be off to different sides.
        (_, s1, s2), additions = self.prefix[-1].astype(float), min(len(self.r), 1024 + len(self.r) / 1024)
        rounding = additions * float(np.finfo(self.prefix.dtype).eps) + 16 * float(np.finfo(float).eps)
        self.slack = 4 * rounding * float(s2 + 2 * self.r[-1] * s1)

    def places(self, p: np.ndarray) -> np.ndarray:
        """Where the magnitudes change their level, (..., J-1), rising; tails begin at p."""
        places = self.cells.place[:, 0] + self.cells.place[:, 1] * p[..., None]
        if self.cells.overlapping:
            np.maximum(places, p[..., None], out=places, where=self.cells.region > 0)
        return places

    def below(self, p: np.ndarray) -> np.ndarray:
        """Σ 1, Σ r and Σ r² of the magnitudes below each place, from 0 to all of them; (..., J+1, 3)."""
        places = self.places(p)
        if self.cells.overlapping:
            places[places == p[..., None]] = np.nextafter(places, np.inf)[places == p[..., None]]
        counts = np.empty((*p.shape, len(self.cells.level) + 1), np.int64)
        counts[..., 0], counts[..., -1] = 0, len(self.r)
        counts[..., 1:-1] = self.r.searchsorted(places)
        return self.prefix[counts]

    def parabolas(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """α, β, γ of Σ (r - level)² = α - 2β·p + γ·p² over magnitudes from start to end of each level; (..., 3)."""
        return (end - start).reshape(*start.shape[:-2], -1).astype(np.float64, copy=False) @ self.to_parabola

    def errors(self, p: np.ndarray, below: np.ndarray) -> np.ndarray:
        """n·E(p) for each of p, from prefix sums."""
        return _at(self.parabolas(below[..., :-1, :], below[..., 1:, :]), p)

    def bounds(self, p: np.ndarray, below: np.ndarray) -> np.ndarray:
        """A lower bound of n·E for each interval; p: its ends, (P, 2), below: (P, 2, J+1, 3)."""
        first, last = below[:, 0], below[:, 1]
        start, end = last[:, :-1], first[:, 1:]
        value = _least(self.parabolas(np.where(start[..., :1] > end[..., :1], end, start), end), *p.T)[1]
        ends = np.stack([np.ones(len(p)), *p.T], axis=1)
        room = np.maximum(ends @ self.to_room, 0.0)
        if self.cells.region.any():  # a magnitude that changes its region may come near to any level of the other
            room[ends @ self.to_margin < 0] = 0.0
        changing = (last[:, 1:-1, 0] - first[:, 1:-1, 0]).astype(np.float64, copy=False)
        return value + np.einsum("pj,pj,pj->p", changing, room, room)

    def pieces(self, p: np.ndarray, below: np.ndarray) -> np.ndarray:
        """The intervals, cut at every p at which a magnitude changes its level; (pieces, 2)."""
        counts = below[:, :, 1:-1, 0].astype(np.int64)
        first, size = counts[:, 0], (counts[:, 1] - counts[:, 0]).ravel()
        where = np.repeat(np.arange(size.size), size)
        r = self.r[np.arange(len(where)) - np.repeat(np.cumsum(size) - size, size) + np.repeat(first.ravel(), size)]
        interval, place = np.divmod(where, first.shape[1])
        c, d = self.cells.place[place].T
        cuts = np.divide(r - c, d, out=r.copy(), where=d > 0)
        if self.cells.overlapping:  # where p and not the place of a tail was met
            cuts, interval = np.concatenate([cuts, r]), np.concatenate([interval, interval])
        inside = (p[interval, 0] < cuts) & (cuts < p[interval, 1])
        ends = np.concatenate([p.ravel(), cuts[inside]])
        interval = np.concatenate([np.repeat(np.arange(len(p)), 2), interval[inside]])
        order = np.lexsort((ends, interval))
        ends, interval = ends[order], interval[order]
        return np.stack([ends[:-1], ends[1:]], axis=1)[(ends[:-1] < ends[1:]) & (interval[:-1] == interval[1:])]


class Optimum(NamedTuple):
    """p, its measured error, and a number that no breakpoint's error is below."""

    breakpoint: float
    error: float
    lower_bound: float


def optimum_of(magnitudes: np.ndarray, m: float, bits: int, variant: str, signed: bool = True) -> Optimum:
    """The breakpoint of least measured error over 0 < p < m; magnitudes: sorted, float64, the last one m."""
    row = Row(magnitudes, cells_of(bits, variant, m, signed))
    best, points = np.inf, np.linspace(0.0, m, _START + 1)[None]
    points[0, 0], points[0, -1] = m * 2.0**-40, np.nextafter(m, 0)
    below = row.below(points)
    while True:
        best = min(best, row.errors(points, below).min())
        p = np.stack([points[:, :-1], points[:, 1:]], axis=-1).reshape(-1, 2)
        below = np.stack([below[:, :-1], below[:, 1:]], axis=2).reshape(len(p), 2, -1, 3)
        kept = row.bounds(p, below) - row.slack <= best
        p, below = p[kept], below[kept]
        # Where rounding hides which interval is better, more of them would not help: 2 changes in each are few.
        if (below[:, 1, :, 0] - below[:, 0, :, 0]).sum() <= max(_CHANGES, 2 * len(p)):
            break
        between = p[:, :1] + (p[:, 1:] - p[:, :1]) * (np.arange(1, _SPLIT) / _SPLIT)
        points = np.concatenate([p[:, :1], between, p[:, 1:]], axis=1)
        below = np.concatenate([below[:, :1], row.below(between), below[:, 1:]], axis=1)
    pieces = row.pieces(p, below)
    middle = pieces.mean(axis=1)
    below = row.below(middle)
    value = _least(row.parabolas(below[:, :-1], below[:, 1:]), *pieces.T)[1]
    # The prefix sums are too coarse to choose among the last few pieces: each is summed anew, element by element.
    near = np.flatnonzero(value - row.slack <= value.min() + row.slack)
    anew = [_summed(row, middle[k], below[k, :, 0], pieces[k]) for k in near]
    least, p, middle = min(zip(*zip(*anew), middle[near]))
    others = (np.delete(value, near).min(initial=np.inf) - row.slack) / len(row.r)
    error = measured(row.r, p, m, bits, variant, signed)
    for step in 2.0 ** np.arange(12):  # a minimum at a jump is met from within its piece alone
        if error <= least * (1 + 5e-10):
            break
        nudged = p + np.sign(middle - p) * step * np.spacing(p)
        error, p = min((error, p), (measured(row.r, nudged, m, bits, variant, signed), nudged))
    # Each of these sums rounds some thousand times less than 1e-12 of itself.
    return Optimum(float(p), error, float(min(error, least * (1 - 1e-12), others)))


def measured(magnitudes: np.ndarray, p: float, m: float, bits: int, variant: str, signed: bool = True) -> float:
    """Σ (pw(r) - r)²/n of magnitudes, element by element."""
    grid = grid_of(p, m, bits, variant, signed)
    (centre, tail), r = (float(step) for step in grid.steps), magnitudes
    in_tail = r >= p if variant == "non_overlapping_authors" else r > p
    offset, step = np.where(in_tail, float(grid.offset), 0.0), np.where(in_tail, tail, centre)
    error = r - offset
    error -= step * np.minimum(np.floor(error / step + 0.5), grid.largest)  # at a tie either level is as far
    return float(np.mean(error * error))


def _summed(row: Row, middle: float, counts: np.ndarray, ends: np.ndarray) -> tuple[float, float]:
    """The least error of one piece and where it is, from every element's error at the middle."""
    sizes = np.diff(counts).astype(np.int64)
    level, speed = (np.repeat(v, sizes) for v in
                    (row.cells.level[:, 0] + row.cells.level[:, 1] * middle, row.cells.level[:, 1]))
    error = row.r - level
    at, value = _least(np.array([error @ error, speed @ error, speed @ speed]), *(ends - middle))
    return float(value) / len(row.r), middle + float(at)


def _at(parabola: np.ndarray, p: np.ndarray) -> np.ndarray:
    return parabola[..., 0] + p * (parabola[..., 2] * p - 2 * parabola[..., 1])


def _least(parabola: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where α - 2β·p + γ·p² is least within [low, high], and its value there."""
    beta, gamma = parabola[..., 1], parabola[..., 2]
    p = np.minimum(np.maximum(np.divide(beta, gamma, out=np.array(low), where=gamma > 0), low), high)
    return p, _at(parabola, p)


def _prefix_sums(r: np.ndarray) -> np.ndarray:
    """Σ 1, Σ r, Σ r² of the first 0, 1, 2, ... of r, (n+1, 3); in blocks, so that few roundings add up."""
    kind = np.longdouble if len(r) > _LONG else np.float64
    padded = np.zeros((2, -(-len(r) // 1024), 1024), kind)
    powers = padded.reshape(2, -1)[:, :len(r)]
    powers[0] = r
    np.multiply(r, r, out=powers[1])
    np.cumsum(padded, axis=2, out=padded)
    padded[:, 1:] += np.cumsum(padded[:, :-1, -1], axis=1)[..., None]
    sums = np.zeros((len(r) + 1, 3), kind)
    sums[:, 0] = np.arange(len(r) + 1)
    sums[1:, 1:] = powers.T
    return sums
