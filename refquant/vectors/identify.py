"""Which description fits a device: from a table of what it answered, or by asking it.

A description is refuted by one row. One that is left after few rows is not yet confirmed: devices outside the
grammar are refuted by many rows near ties, and only those. So this says "fits", never "is".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from refquant.integers.checks import as_integers
from refquant.integers.dialects import INT32, Dialect, legal_shifts
from refquant.integers.formats import IntFormat, wrap
from refquant.integers.rounding import shift_right
from refquant.vectors.descriptions import NO_ANSWER, Rows, answers, classes, end_of, members, values
from refquant.vectors.probes import answers_of_classes, best_probe, near_a_tie, near_ties, pool

# So many rows near ties confirm a description.
CHECKS = 500
# The least and the greatest value of a column; None: of a code.
LIMITS = {"x": (-(2**31), 2**31 - 1), "m": (2**30, 2**31 - 1), "shift": (-31, 30), "zero_point": None, "codes": None}
# Rows looked at first, then next, ...: most descriptions are refuted by few.
_CHUNKS = (64, 1024, 1 << 14)


class Nearest(NamedTuple):
    """A description that was refuted: in how many rows it differs, and in the first of them what it gives."""

    dialect: Dialect
    different: int
    row: int
    expected: int
    got: int


@dataclass(frozen=True, eq=False)
class Identification:
    """What is known of a device.

    fits: the descriptions that agree with every row. left: their classes, as places in ``classes(fmt, derived)``.
    near_ties: how many rows are near a tie. first_rows: the least number of first rows that no description fits; 0
    where one fits. nearest: at most three refuted descriptions, and suggestions: usual faults that would explain all
    rows; both where none fits. rows, codes: all that was compared.
    """

    fits: list[Dialect]
    left: list[int]
    near_ties: int
    first_rows: int
    nearest: list[Nearest]
    suggestions: list[str]
    rows: Rows = field(repr=False)
    codes: np.ndarray = field(repr=False)

    @property
    def classes(self) -> int:
        """How many classes are left."""
        return len(self.left)

    @property
    def confirmed(self) -> bool:
        """Whether one class is left, and agrees with enough rows near ties."""
        return self.classes == 1 and self.near_ties >= CHECKS


def identify(function: Callable[..., Any], fmt: IntFormat | None = None) -> Identification:
    """Ask a device, adaptively, until one class of descriptions is left; then CHECKS times near ties.

    function: called with x, m, shift, zero_point, int64 arrays of one length, for round(x·m·2^(shift-31)) +
    zero_point; returns codes of fmt (int8 if left out). Shifts are among those that every description left takes.
    ValueError where the device returns something else.

    >>> device = lambda x, m, shift, zero_point: np.clip(((x * m) >> (31 - shift)) + zero_point, -128, 127)
    >>> found = identify(device)
    >>> found.confirmed, found.fits[0].words, len(found.rows.x) - CHECKS
    (True, 'real,merged,none,floor,after,saturate', 8)
    """
    fmt = fmt or IntFormat(8)
    known, table = classes(fmt), answers_of_classes(fmt)
    left, asked, codes = np.arange(len(known)), [], []
    while len(left) > 1:
        column = best_probe(table[left])
        if column is None:
            break
        asked.append(column)
        codes.append(_asked(function, pool(fmt).at(np.array([column])), fmt))
        left = left[table[left, column] == codes[-1]]
    rows = pool(fmt).at(np.array(asked, np.int64))
    checks = near_ties(fmt, CHECKS, (legal_shifts(known[left[0]]) if len(left) else None) or (-31, 0))
    rows = rows.beside(checks)
    return identify_rows(rows, np.concatenate([*codes, _asked(function, checks, fmt)]), fmt)


def _asked(function: Callable[..., Any], rows: Rows, fmt: IntFormat) -> np.ndarray:
    codes = as_integers(function(*(column.copy() for column in rows[:4])), "the device's answers").astype(np.int64)
    if codes.shape != rows.x.shape:
        raise ValueError(f"the device must answer with one code a row, {rows.x.shape}, got shape {codes.shape}")
    if codes.min() < fmt.min or codes.max() > fmt.max:
        raise ValueError(f"the device's answers must be codes of {fmt}, got {codes.min()}..{codes.max()}")
    return codes


def identify_rows(rows: Rows, codes: np.ndarray, fmt: IntFormat, derived: bool = True) -> Identification:
    """Which descriptions fit what a device answered.

    rows: of at least one row; x: int32, m: 2^30 to 2^31 - 1, shift: -31 to 30, zero_point: codes of fmt. codes: one
    of fmt for each row. derived: every M is m·2^(shift-31). ValueError for anything else, and where the first rows
    and the rest fit different descriptions: they are of several devices.
    """
    rows, codes = _checked(rows, codes, fmt)
    known = classes(fmt, derived)
    first = _first_mismatches(known, rows, codes, fmt)
    left = np.flatnonzero(first == len(codes)).tolist()
    if left:
        near = int(np.count_nonzero(near_a_tie(rows, fmt)))
        return Identification(members([known[k] for k in left], fmt, derived), left, near, 0, [], [], rows, codes)
    last = int(first.max())
    _refuse_several_devices(known, rows, codes, fmt, first)
    some = slice(0, 1 << 14)
    different = np.array([np.count_nonzero(answers(dialect, rows.at(some), fmt) != codes[some]) for dialect in known])
    best = np.argsort(different, kind="stable")[:3].tolist()
    nearest = [Nearest(known[k], int(np.count_nonzero(answers(known[k], rows, fmt) != codes)), int(first[k]),
                       int(answers(known[k], rows.at(slice(first[k], first[k] + 1)), fmt)[0]), int(codes[first[k]]))
               for k in best]
    return Identification([], [], 0, last + 1, nearest, list(dict.fromkeys(_suggestions(known, rows, codes, fmt))),
                          rows, codes)


def _checked(rows: Rows, codes: np.ndarray, fmt: IntFormat) -> tuple[Rows, np.ndarray]:
    """Rows and codes, int64, within the limits that ``identify_rows`` names."""
    columns = {**rows._asdict(), "codes": codes}
    shapes = {name: np.shape(column) for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or len(shapes["x"]) != 1 or shapes["x"] == (0,):
        raise ValueError("rows and codes must be columns of one length, at least 1, got shapes "
                         f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())}")
    for name, limits in LIMITS.items():
        column = columns[name] = as_integers(columns[name], name)
        low, high = limits or (fmt.min, fmt.max)
        if column.min() < low or column.max() > high:
            raise ValueError(f"{name} must be from {low} to {high}, got {column.min()}..{column.max()}")
        columns[name] = column.astype(np.int64)
    return Rows(*(columns[name] for name in Rows._fields)), columns["codes"]


def _first_mismatches(known: tuple[Dialect, ...], rows: Rows, codes: np.ndarray, fmt: IntFormat) -> np.ndarray:
    """The first row in which each description differs; the number of rows where it never does."""
    first = np.full(len(known), len(codes))
    left, start = list(range(len(known))), 0
    for stop in (*_CHUNKS, len(codes)):
        some = slice(start, min(stop, len(codes)))
        for k in left:
            wrong = np.flatnonzero(answers(known[k], rows.at(some), fmt) != codes[some])
            if len(wrong):
                first[k] = start + wrong[0]
        left, start = [k for k in left if first[k] == len(codes)], some.stop
        if start == len(codes):
            break
    return first


def _refuse_several_devices(known: tuple[Dialect, ...], rows: Rows, codes: np.ndarray, fmt: IntFormat,
                            first: np.ndarray) -> None:
    """Where the first rows determine one description, and the rest another, they are not of one device."""
    cut = int(first.max())
    rest = slice(cut, len(codes))
    if min(cut, len(codes) - cut) < 20:
        return
    before = np.flatnonzero(first == cut)
    after = np.flatnonzero(_first_mismatches(known, rows.at(rest), codes[rest], fmt) == len(codes) - cut)
    if 0 < len(after) <= len(known) // 10 and len(before) <= len(known) // 10:
        raise ValueError(f"no description fits rows 1..{cut + 1}; these do not go together: {known[before[0]].words} "
                         f"fits rows 1..{cut}, and {known[after[0]].words} rows {cut + 1}..{len(codes)}")


def _suggestions(known: tuple[Dialect, ...], rows: Rows, codes: np.ndarray, fmt: IntFormat) -> Iterator[str]:
    """Which usual faults would explain all rows."""
    few = slice(0, 256)
    for dialect in known:
        for fault, give in _faults(dialect, fmt):
            if np.array_equal(give(rows.at(few)), codes[few]) and np.array_equal(give(rows), codes):
                yield f"{fault}, else {dialect.words}"


def _faults(dialect: Dialect, fmt: IntFormat) -> Iterator[tuple[str, Callable[[Rows], np.ndarray]]]:
    def end(found: np.ndarray) -> np.ndarray:
        return end_of(dialect, found, fmt)

    yield "the zero point is subtracted", lambda rows: end(
        values(dialect, rows._replace(zero_point=-rows.zero_point)))
    yield "the zero point is added after the code is clamped", lambda rows: wrap(
        end(values(dialect, rows._replace(zero_point=0 * rows.x))) + rows.zero_point, fmt).astype(np.int64)
    yield "neighbouring lanes are swapped", lambda rows: swapped(answers(dialect, rows, fmt), 2)
    yield "four lanes are in reverse order", lambda rows: swapped(answers(dialect, rows, fmt), 4)
    if not dialect.shifts or dialect.zero == "before":
        return
    width = dialect.width
    if width < 31:
        yield f"m is truncated, not rounded, to {width} bits", lambda rows: end(
            values(dialect, rows._replace(m=np.where(rows.m > 0, rows.m >> (31 - width) << (31 - width), rows.m))))
    if dialect.left == "merged" and dialect.first == "none":
        def wrapped(rows: Rows) -> np.ndarray:
            product = wrap(rows.x * dialect.rounded(rows.m), INT32).astype(np.int64)
            places = np.clip(width - rows.shift, 0, 62)
            return end(np.where(rows.shift < width, shift_right(product, places, dialect.last) + rows.zero_point,
                                NO_ANSWER))
        yield "products wrap in 32 bits", wrapped


def swapped(codes: np.ndarray, lanes: int) -> np.ndarray:
    """Each group of lanes in reverse, along the last axis; what is left at the end stays."""
    whole = codes.shape[-1] // lanes * lanes
    head = codes[..., :whole].reshape(*codes.shape[:-1], -1, lanes)[..., ::-1].reshape(*codes.shape[:-1], whole)
    return np.concatenate([head, codes[..., whole:]], axis=-1)
