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
_START, _SPLIT, _CHANGES = 32, 4, 150
# Rows of more elements are summed in long doubles, where the machine has them, so that rounding hides less.
_LONG = 1 << 16
# So many elements are searched together: a short row alone would spend its time in calls.
_TOGETHER = 1 << 17


class Cells(NamedTuple):
    """The levels a·m + b·p of magnitudes, lowest first, and the places between them, c·m + d·p.

    region: of each place, -1 between levels of the centre, 1 of the tails, 0 between the two regions (the paper's
    share the level p, so that they have no such place). overlapping: |r| = p is in the centre, tails begin at p.
    """

    level: np.ndarray  # (J, 2): a, b
    place: np.ndarray  # (J-1, 2): c, d
    region: np.ndarray
    overlapping: bool


@lru_cache
def cells_of(bits: int, variant: str, signed: bool = True) -> Cells:
    """The cells of a grid, for any limit and breakpoint.

    >>> cells_of(3, "non_overlapping").level.round(2).tolist()[:5]
    [[0.0, 0.0], [0.0, 0.33], [0.0, 0.67], [0.0, 1.0], [0.33, 0.67]]
    """
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


class Rows:
    """The sorted magnitudes of some channels of one length, with prefix sums of r and r².

    Below, p holds breakpoints and owner the channel of each, rising. Counts are positions among the prefix sums of
    all channels, so that a difference of two of one channel is a number of magnitudes.
    """

    def __init__(self, magnitudes: np.ndarray, cells: Cells) -> None:
        self.r, self.cells = np.asarray(magnitudes, np.float64), cells
        self.m, (self.channels, self.size) = self.r[:, -1], self.r.shape
        prefix = _prefix_sums(self.r)
        self.prefix = prefix.reshape(-1, 2)
        # At the place between two levels half a step lies to either; while p goes from low to high, the place moves.
        # This makes of m, low and high what is left of the half step, and how far a place stays within its region.
        (step_a, step_b), (c, d), region = (cells.level[1:] - cells.level[:-1]).T, cells.place.T, cells.region
        self.to_room = np.stack([step_a, np.maximum(step_b, 0) + 2 * d, np.minimum(step_b, 0) - 2 * d]) / 2
        one = np.ones(len(c))
        self.to_margin = np.select([region < 0, region > 0], [np.stack([-c, one, -d]), np.stack([c, d, -one])],
                                   [[-1.0], [0.0], [0.0]])
        # A prefix sum is off by at most so many roundings of the whole. The levels rise from 0 to m, so that together
        # the cells' Σ r count m times, twice; and an interval's two ends may be off to different sides.
        s1, s2 = prefix[:, -1].T.astype(float)
        additions = min(self.size, 1024 + self.size / 1024)
        rounding = additions * float(np.finfo(prefix.dtype).eps) + 16 * float(np.finfo(float).eps)
        self.slack = 4 * rounding * (s2 + 2 * self.m * s1)

    def counts(self, p: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """How many magnitudes are below each place, from 0 to all of them; p (P, K), counts (P, K, J+1)."""
        c, d = self.cells.place.T
        places = c * self.m[owner, None, None] + d * p[..., None]
        if self.cells.overlapping:  # |r| = p is below the tails
            np.maximum(places, p[..., None], out=places, where=self.cells.region > 0)
            places[places == p[..., None]] = np.nextafter(places, np.inf)[places == p[..., None]]
        counts = np.empty((*p.shape, len(self.cells.level) + 1), np.int64)
        counts[..., 0], counts[..., -1] = 0, self.size
        ends = np.searchsorted(owner, np.arange(self.channels + 1))
        for r, start, end in zip(self.r, ends, ends[1:]):
            counts[start:end, :, 1:-1] = r.searchsorted(places[start:end])
        return counts + owner[:, None, None] * (self.size + 1)

    def parabolas(self, owner: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """α, β, γ of Σ (r - level)² = α - 2β·p + γ·p² over magnitudes from start to end of each level.

        owner shaped (P, ...) and start, end (P, ..., J) give three arrays in one, (3, P, ...).
        """
        (a, b), m = self.cells.level.T, self.m[owner]
        number = (end - start).astype(np.float64) @ np.stack([a * a, a * b, b * b], axis=1)
        sums = (self.prefix.take(end, axis=0) - self.prefix.take(start, axis=0)).astype(np.float64, copy=False)
        r1 = sums[..., 0] @ np.stack([a, b], axis=1)
        return np.stack([sums[..., 1].sum(axis=-1) + m * (m * number[..., 0] - 2 * r1[..., 0]),
                         r1[..., 1] - m * number[..., 1], number[..., 2]])

    def errors(self, p: np.ndarray, owner: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """n·E(p) for each of p (P, K)."""
        return _at(self.parabolas(np.broadcast_to(owner[:, None], p.shape), counts[..., :-1], counts[..., 1:]), p)

    def bounds(self, p: np.ndarray, owner: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """A lower bound of n·E for each interval; p: its ends, (P, 2), counts: (P, 2, J+1)."""
        first, last = counts[:, 0], counts[:, 1]
        start, end = last[:, :-1], first[:, 1:]
        value = _least(self.parabolas(owner, np.minimum(start, end), end), *p.T)[1]
        ends = np.stack([self.m[owner], *p.T], axis=1)
        room = np.maximum(ends @ self.to_room, 0.0)
        if self.cells.region.any():  # a magnitude that changes its region may come near to any level of the other
            room[ends @ self.to_margin < 0] = 0.0
        changing = (last[:, 1:-1] - first[:, 1:-1]).astype(np.float64)
        return value + np.einsum("pj,pj,pj->p", changing, room, room)

    def pieces(self, p: np.ndarray, owner: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The intervals, cut at every p at which a magnitude changes its level: (pieces, 2), and owners."""
        counts = counts[:, :, 1:-1] - owner[:, None, None]
        first, size = counts[:, 0], (counts[:, 1] - counts[:, 0]).ravel()
        where = np.repeat(np.arange(size.size), size)
        r = self.r.ravel()[np.arange(len(where)) - np.repeat(np.cumsum(size) - size, size)
                           + np.repeat(first.ravel(), size)]
        interval, place = np.divmod(where, first.shape[1])
        c, d = self.cells.place[place].T
        cuts = np.divide(r - c * self.m[owner[interval]], d, out=r.copy(), where=d > 0)
        if self.cells.overlapping:  # where p and not the place of a tail was met
            cuts, interval = np.concatenate([cuts, r]), np.concatenate([interval, interval])
        inside = (p[interval, 0] < cuts) & (cuts < p[interval, 1])
        ends = np.concatenate([p.ravel(), cuts[inside]])
        interval = np.concatenate([np.repeat(np.arange(len(p)), 2), interval[inside]])
        order = np.lexsort((ends, interval))
        ends, interval = ends[order], interval[order]
        kept = (ends[:-1] < ends[1:]) & (interval[:-1] == interval[1:])
        return np.stack([ends[:-1], ends[1:]], axis=1)[kept], owner[interval[:-1][kept]]


class Optimum(NamedTuple):
    """p, its measured error, and a number that no breakpoint's error is below."""

    breakpoint: float
    error: float
    lower_bound: float


def channels_together(size: int, bits: int) -> int:
    """How many rows of ``size`` magnitudes are searched at once, so that they, and their levels, stay in cache."""
    return max(1, _TOGETHER // max(size, _START << bits))


def optima_of(magnitudes: np.ndarray, bits: int, variant: str, signed: bool = True) -> list[Optimum]:
    """The breakpoint of least measured error over 0 < p < m, of each row; magnitudes: (C, n), float64, rising to m.

    >>> optima_of(np.array([[0.1, 0.2, 0.3, 1.7, 2.9, 3.0]]), 3, "non_overlapping")[0].breakpoint
    0.95
    """
    together = channels_together(magnitudes.shape[1], bits)
    return [optimum for start in range(0, len(magnitudes), together)
            for optimum in _optima(magnitudes[start:start + together], bits, variant, signed)]


def _optima(magnitudes: np.ndarray, bits: int, variant: str, signed: bool) -> list[Optimum]:
    rows = Rows(magnitudes, cells_of(bits, variant, signed))
    m, owner = rows.m[:, None], np.arange(rows.channels)
    points = np.concatenate([m * 2.0**-40, m * (np.arange(1, _START) / _START), np.nextafter(m, 0)], axis=1)
    counts, best, found = rows.counts(points, owner), np.full(rows.channels, np.inf), []
    while True:
        np.minimum.at(best, owner, rows.errors(points, owner, counts).min(axis=1))
        p = np.stack([points[:, :-1], points[:, 1:]], axis=-1).reshape(-1, 2)
        owner = np.repeat(owner, points.shape[1] - 1)
        counts = np.stack([counts[:, :-1], counts[:, 1:]], axis=2).reshape(len(p), 2, -1)
        kept = rows.bounds(p, owner, counts) - rows.slack[owner] <= best[owner]
        p, owner, counts = p[kept], owner[kept], counts[kept]
        # Where rounding hides which interval is better, splitting further does not help; 2 changes each are few.
        changes = np.bincount(owner, (counts[:, 1] - counts[:, 0]).sum(axis=1), rows.channels)
        ready = (changes <= np.maximum(_CHANGES, 2 * np.bincount(owner, minlength=rows.channels)))[owner]
        found.append((p[ready], owner[ready], counts[ready]))
        if ready.all():
            break
        p, owner, counts = p[~ready], owner[~ready], counts[~ready]
        between = p[:, :1] + (p[:, 1:] - p[:, :1]) * (np.arange(1, _SPLIT) / _SPLIT)
        points = np.concatenate([p[:, :1], between, p[:, 1:]], axis=1)
        counts = np.concatenate([counts[:, :1], rows.counts(between, owner), counts[:, 1:]], axis=1)
    p, owner, counts = (np.concatenate(parts) for parts in zip(*found))
    order = np.argsort(owner, kind="stable")
    pieces, owner = rows.pieces(p[order], owner[order], counts[order])
    middle = pieces.mean(axis=1)
    counts = rows.counts(middle[:, None], owner)[:, 0]
    value = _least(rows.parabolas(owner, counts[:, :-1], counts[:, 1:]), *pieces.T)[1]
    ends = np.searchsorted(owner, np.arange(rows.channels + 1))
    return [_last(rows, channel, pieces[part], middle[part], counts[part], value[part], bits, variant, signed)
            for channel, part in enumerate(map(slice, ends, ends[1:]))]


def _last(rows: Rows, channel: int, pieces: np.ndarray, middle: np.ndarray, counts: np.ndarray, value: np.ndarray,
          bits: int, variant: str, signed: bool) -> Optimum:
    """The best of the pieces of one channel, whose least values are known but for rounding."""
    r, m, slack = rows.r[channel], float(rows.m[channel]), rows.slack[channel]
    # The prefix sums are too coarse to choose among the last few pieces: each is summed anew, element by element.
    near = np.flatnonzero(value - slack <= value.min() + slack)
    anew = [_summed(r, rows.cells.level, middle[k], counts[k], pieces[k]) for k in near]
    least, p, centre = min(zip(*zip(*anew), middle[near]))
    others = (np.delete(value, near).min(initial=np.inf) - slack) / len(r)
    error = measured(r, p, m, bits, variant, signed)
    for step in 2.0 ** np.arange(12):  # a minimum at a jump is met from within its piece alone
        if error <= least * (1 + 5e-10):
            break
        nudged = p + np.sign(centre - p) * step * np.spacing(p)
        error, p = min((error, p), (measured(r, nudged, m, bits, variant, signed), nudged))
    # Each of these sums rounds some thousand times less than 1e-12 of itself.
    return Optimum(float(p), error, float(min(error, least * (1 - 1e-12), others)))


def measured(magnitudes: np.ndarray, p: float, m: float, bits: int, variant: str, signed: bool = True) -> float:
    """Σ (pw(r) - r)²/n of sorted magnitudes, element by element."""
    grid = grid_of(p, m, bits, variant, signed)
    tails = magnitudes.searchsorted(p, "left" if variant == "non_overlapping_authors" else "right")
    total = 0.0
    for r, offset, step in zip((magnitudes[:tails], magnitudes[tails:]), (0.0, grid.offset), grid.steps):
        from_offset = r - offset
        levels = np.floor(from_offset / step + 0.5)  # at a tie either level is as far
        total += float(np.square(from_offset - step * np.minimum(levels, grid.largest)).sum())
    return total / len(magnitudes)


def _summed(r: np.ndarray, levels: np.ndarray, middle: float, counts: np.ndarray,
            ends: np.ndarray) -> tuple[float, float]:
    """The least error of one piece and where it is, from every element's error at the middle."""
    sizes, m = np.diff(counts), r[-1]
    error = r - np.repeat(levels[:, 0] * m + levels[:, 1] * middle, sizes)
    speed = np.repeat(levels[:, 1], sizes)
    at, value = _least(np.array([error @ error, speed @ error, speed @ speed]), *(ends - middle))
    return float(value) / len(r), middle + float(at)


def _at(parabola: np.ndarray, p: np.ndarray) -> np.ndarray:
    alpha, beta, gamma = parabola
    return alpha + p * (gamma * p - 2 * beta)


def _least(parabola: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where α - 2β·p + γ·p² is least within [low, high], and its value there."""
    _, beta, gamma = parabola
    p = np.minimum(np.maximum(np.divide(beta, gamma, out=np.array(low), where=gamma > 0), low), high)
    return p, _at(parabola, p)


def _prefix_sums(r: np.ndarray) -> np.ndarray:
    """Σ r, Σ r² of the first 0, 1, 2, ... of each row, (C, n+1, 2); in blocks, so that few roundings add up."""
    (channels, size), kind = r.shape, np.clongdouble if r.shape[1] > _LONG else np.complex128
    blocks = np.zeros((channels, -(-size // 1024), 1024), kind)
    pairs = blocks.reshape(channels, -1)[:, :size]
    pairs.real, pairs.imag = r, r * r  # complex numbers, so that both sums are made in one go
    np.cumsum(blocks, axis=2, out=blocks)
    blocks[:, 1:] += np.cumsum(blocks[:, :-1, -1], axis=1)[..., None]
    sums = np.zeros((channels, size + 1), kind)
    sums[:, 1:] = pairs
    return sums.view(pairs.real.dtype).reshape(channels, size + 1, 2)
