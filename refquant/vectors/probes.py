"""Probes: inputs on which descriptions differ, those that split what remains best, and checks near ties.

The numbers come from NumPy's ``RandomState``, whose streams do not change.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from refquant.integers.checks import is_integer
from refquant.integers.dialects import Dialect, legal_shifts
from refquant.integers.formats import IntFormat
from refquant.vectors.descriptions import NO_ANSWER, Rows, answers, classes, rows_of

_POOL = 6000


def near_ties(fmt: IntFormat, count: int, shifts: tuple[int, int] = (-31, 30), seed: int = 1) -> Rows:
    """``count`` rows near ties and integers (``near_a_tie``), over all codes of fmt and at both ends.

    In a third m is 2^30 or 3·2^29, so that exact ties occur. shifts: of those, -22 to 8 are taken.

    >>> near_ties(IntFormat(8), 3).x
    array([  -69,   448, -6656])
    """
    random = np.random.RandomState(seed)
    low, high = max(shifts[0], -22), min(shifts[1], 8)
    size = 4 * count + 64
    shift = np.where(random.rand(size) < 0.33, np.clip(random.randint(-5, 4, size), low, high),
                     random.randint(low, high + 1, size))
    m = np.where(random.rand(size) < 0.33, np.where(random.rand(size) < 0.5, 2**30, 3 * 2**29),
                 random.randint(2**30, 2**31, size))
    m = np.where(random.rand(size) < 0.05, 2**31 - 1, m)
    kind = random.rand(size)
    # Twice the code: anywhere, or at an end. Or twice the value, near 0.
    halves = random.randint(2 * fmt.min, 2 * fmt.max + 1, size)
    ends = random.choice([2 * fmt.min, 2 * fmt.max], size) + random.randint(-4, 5, size)
    halves = np.where(kind < 0.5, ends, halves)
    zero_point = np.where(random.rand(size) < 0.3, random.choice([0, 1], size),
                          random.randint(fmt.min, fmt.max + 1, size))
    zero_point = np.where(kind < 0.4, np.clip(random.randint(-3, 4, size), fmt.min, fmt.max), zero_point)
    value = np.where(kind < 0.4, random.randint(-40, 41, size) / 2, halves / 2 - zero_point)
    x = np.rint(np.ldexp(value / m, 31 - shift)) + random.randint(-1, 2, size)
    rows = rows_of(np.clip(x, -(2.0**31), 2.0**31 - 1).astype(np.int64), m, shift, zero_point)
    kept = np.flatnonzero(near_a_tie(rows, fmt))[:count]
    assert len(kept) == count, "more than a quarter of the rows are near a tie"
    return rows.at(kept)


def near_a_tie(rows: Rows, fmt: IntFormat) -> np.ndarray:
    """Which rows are as near to a tie or an integer as M allows, or within 2^-6, and not far beyond the codes."""
    double = 2 * rows.x * rows.real
    near = np.abs(double - np.rint(double)) <= np.maximum(1.01 * rows.real, 2.0**-6)
    code = double / 2 + rows.zero_point
    return near & (code >= fmt.min - 2) & (code <= fmt.max + 2)


@lru_cache
def pool(fmt: IntFormat, derived: bool = True) -> Rows:
    """Rows among which every two classes differ somewhere: near ties; small sums; sums of all sizes.

    Not derived: M is off from m·2^(shift-31) by up to half a unit of m in half of the rows.
    """
    random = np.random.RandomState(2)
    small, count = near_ties(fmt, 2 * _POOL // 3, seed=3), _POOL // 3
    shift, m = random.randint(-24, 13, count), random.randint(2**30, 2**31, count)
    m = np.where(random.rand(count) < 0.4, 2**30, m)
    size = 2.0 ** (31 * random.rand(count))
    x = np.where(random.rand(count) < 0.3, random.randint(-20, 21, count),
                 np.clip(np.rint(size * random.choice([-1, 1], count)), -(2.0**31), 2.0**31 - 1)).astype(np.int64)
    zero_point = np.clip(random.choice([0, 0, 1, -3, 2], count), fmt.min, fmt.max)
    rows = small.beside(rows_of(x, m, shift, zero_point))
    if derived:
        return rows
    off = np.where(random.rand(len(rows.x)) < 0.5, random.randint(-3, 4, len(rows.x)) / 8, 0.0)
    return rows._replace(real=np.ldexp(rows.m + np.where(rows.m == 2**30, np.abs(off), off), rows.shift - 31))


@lru_cache
def answers_of_classes(fmt: IntFormat, derived: bool = True) -> np.ndarray:
    """The answer of each class to each row of the pool, (classes, rows)."""
    return np.stack([answers(dialect, pool(fmt, derived), fmt) for dialect in classes(fmt, derived)])


def best_probe(table: np.ndarray) -> int | None:
    """The column that leaves the fewest rows on average, for answers (classes left, probes); None if none splits.

    Only columns that every row answers.
    """
    usable = np.flatnonzero((table != NO_ANSWER).all(axis=0) & (table != table[:1]).any(axis=0))
    if not len(usable):
        return None
    ordered = np.sort(table[:, usable], axis=0)
    # The sum of squared group sizes: a class is left with so many others, once for each of them.
    starts = np.concatenate([np.ones((1, len(usable)), bool), ordered[1:] != ordered[:-1]])
    column, place = np.nonzero(starts.T)
    length = np.diff(np.append(place + column * len(table), starts.size))
    squares = np.bincount(column, length.astype(float) ** 2)
    return int(usable[np.argmin(squares)])


def next_probes(left: list[int], count: int, fmt: IntFormat, derived: bool = True) -> Rows:
    """At most ``count`` rows that, asked at once, split the classes left best; checks near ties after those.

    left: places in ``classes(fmt, derived)``, at least one. ValueError for others.
    """
    number = len(classes(fmt, derived))
    if not left or not all(is_integer(k) and 0 <= k < number for k in left):
        raise ValueError(f"left must hold places of classes, from 0 to {number - 1}, got {left}")
    table = answers_of_classes(fmt, derived)[left]
    groups, chosen = np.zeros(len(left), np.int64), list[int]()
    while len(chosen) < count and len(np.unique(groups)) < len(left):
        tagged = np.where(table == NO_ANSWER, NO_ANSWER, (table - fmt.min) * len(left) + groups[:, None])
        tagged[:, (table == NO_ANSWER).any(axis=0)] = NO_ANSWER
        column = best_probe(tagged)
        if column is None or column in chosen:
            break
        chosen.append(column)
        groups = np.unique(tagged[:, column], return_inverse=True)[1].reshape(-1)
    takes = [legal_shifts(classes(fmt, derived)[k]) or (-31, 30) for k in left]
    shifts = max(low for low, _ in takes), min(high for _, high in takes)
    return pool(fmt, derived).at(np.array(chosen, np.int64)).beside(near_ties(fmt, count - len(chosen), shifts))


def smallest_difference(one: Dialect, other: Dialect, fmt: IntFormat) -> tuple[Rows, int, int] | None:
    """The row of least |x| on which two descriptions differ; and both codes.

    Among rows of one |x|: x > 0 first, then the least |zero point|, m and |shift|, then shift > 0.

    Sought among |x| <= 64 and powers of two and their neighbours, some m, zero points 0, 1 and 2, and all shifts
    that both take; None where none is found.
    """
    powers = 2 ** np.arange(7, 31)
    sizes = np.concatenate([np.arange(65), powers - 1, powers, powers + 1, [2**31 - 1]])
    x = np.concatenate([sizes, -sizes[1:], [-(2**31)]])
    takes = [legal_shifts(dialect) or (-31, 30) for dialect in (one, other)]
    shifts = np.arange(max(low for low, _ in takes), min(high for _, high in takes) + 1)
    ms = [2**30, 3 * 2**29, 5 * 2**28, 2**30 + 1, 1717986944, 1503238528, 2**31 - 1]
    grid = np.meshgrid(x, ms, shifts, [z for z in (0, 1, 2) if fmt.min <= z <= fmt.max], indexing="ij")
    rows = rows_of(*(axis.ravel() for axis in grid))
    codes = [answers(dialect, rows, fmt) for dialect in (one, other)]
    differ = np.flatnonzero(codes[0] != codes[1])
    if not len(differ):
        return None
    some = rows.at(differ)
    order = np.lexsort((-some.shift, np.abs(some.shift), some.m, np.abs(some.zero_point), -some.x, np.abs(some.x)))
    first = differ[order[0]]
    return rows.at(slice(first, first + 1)), int(codes[0][first]), int(codes[1][first])
