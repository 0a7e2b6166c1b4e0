"""Every description that identification knows: which of them cannot differ, and what they answer.

A description is a ``Dialect``. The grammar holds those whose words devices are known to use, in all combinations.
Some cannot differ on any input: ``canonical`` says which, law by law, and so counts classes. That descriptions of
different classes do differ is shown by probes (``probes``).
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from refquant.integers.dialects import Dialect, evaluate, legal_shifts
from refquant.integers.formats import IntFormat
from refquant.integers.rounding import round_product, round_product_sum

MULTIPLIERS = ("real", "float32", "m31", "m15", "m8", "m1")
LEFT = ("merged", "wrap", "saturate")
FIRST = ("none", "floor", "half_up", "half_even", "to_odd")
LAST = ("floor", "toward_zero", "half_up", "half_down", "half_away", "half_even", "to_odd")
# In place of a code, where a description does not take the shift.
NO_ANSWER = -(2**62)


class Rows(NamedTuple):
    """What a device is given, row by row: int64 arrays of one length; M = real, or m·2^(shift-31)."""

    x: np.ndarray
    m: np.ndarray
    shift: np.ndarray
    zero_point: np.ndarray
    real: np.ndarray

    def at(self, index: np.ndarray | slice) -> Rows:
        """Some of the rows."""
        return Rows(*(column[index] for column in self))

    def beside(self, others: Rows) -> Rows:
        """These, then others."""
        return Rows(*(np.concatenate(pair) for pair in zip(self, others)))


def rows_of(x: np.ndarray, m: np.ndarray, shift: np.ndarray, zero_point: np.ndarray) -> Rows:
    """Rows whose M is m·2^(shift-31)."""
    x, m, shift, zero_point = (np.asarray(v, np.int64) for v in (x, m, shift, zero_point))
    return Rows(x, m, shift, zero_point, np.ldexp(m.astype(float), shift - 31))


@lru_cache
def descriptions() -> tuple[Dialect, ...]:
    """The grammar: first other than none for m31 alone, left other than merged for multipliers mW alone.

    >>> len(descriptions())
    728
    """
    return tuple(Dialect(multiplier, left, first, last, zero, end)
                 for multiplier in MULTIPLIERS
                 for left in (LEFT if multiplier[0] == "m" else LEFT[:1])
                 for first in (FIRST if multiplier == "m31" else FIRST[:1])
                 for last, zero, end in itertools.product(LAST, ("after", "before"), ("saturate", "wrap")))


def canonical(dialect: Dialect, fmt: IntFormat, derived: bool = True) -> Dialect:
    """The description that stands for all of its class: for codes of fmt, they answer alike to any x, m and shift.

    derived: M is m·2^(shift-31); otherwise it may be any real, and m its rounding. The laws, each for all int32 sums,
    2^30 <= m < 2^31, and shifts that the description takes:

    1. If M is derived, ``real`` is m31, merged, none: the same product.
    2. One bit of m takes no left shift, so that the word left says nothing.
    3. A sum that saturates at a left shift gives a value of at least 2^30 - 1 in size, and so the outermost code.
    4. With a multiplier of W bits, wrapping before it changes the value by k·m·2^(32-W), which codes of up to 32 - W
       bits that wrap do not show, if the rule rounds v + 2n to round(v) + 2n.
    5. Of codes without sign that saturate, those below 0 are 0: a zero point added first leaves no sign to ask for.
    6. Rounding down, up or down at ties commutes with adding an integer, unless float32 rounds that sum.
    7. Rounding down twice is rounding down once; the same of to_odd.
    """
    if dialect.multiplier == "real" and derived:
        dialect = replace(dialect, multiplier="m31")
    if dialect.multiplier == "m1":
        dialect = replace(dialect, left="merged")
    if dialect.left == "saturate" and dialect.end == "saturate" and fmt.bits <= 30:
        dialect = replace(dialect, left="merged")
    if (dialect.left == "wrap" and dialect.end == "wrap" and fmt.bits <= 32 - dialect.width
            and dialect.last in ("floor", "half_up", "half_down", "half_even", "to_odd")):
        dialect = replace(dialect, left="merged")
    if not fmt.signed and dialect.end == "saturate" and dialect.zero == "before":
        plainer = {"toward_zero": "floor", "half_away": "half_up"}
        dialect = replace(dialect, last=plainer.get(dialect.last, dialect.last))
    if dialect.last in ("floor", "half_up", "half_down") and dialect.multiplier != "float32":
        dialect = replace(dialect, zero="after")
    if dialect.first == dialect.last and dialect.last in ("floor", "to_odd"):
        dialect = replace(dialect, first="none")
    return dialect


@lru_cache
def classes(fmt: IntFormat, derived: bool = True) -> tuple[Dialect, ...]:
    """One description of each class."""
    return tuple(dict.fromkeys(canonical(dialect, fmt, derived) for dialect in descriptions()))


def members(representatives: list[Dialect], fmt: IntFormat, derived: bool = True) -> list[Dialect]:
    """Every description of some classes."""
    wanted = set(representatives)
    return [dialect for dialect in descriptions() if canonical(dialect, fmt, derived) in wanted]


def answers(dialect: Dialect, rows: Rows, fmt: IntFormat) -> np.ndarray:
    """The code of every row, int64; NO_ANSWER where the description does not take the shift.

    >>> rows = rows_of(np.array([1, -3]), np.array([2**30, 2**30]), np.array([-1, -1]), np.array([0, 0]))
    >>> answers(Dialect("m31", "wrap", "half_up", "half_away"), rows, IntFormat(8))
    array([ 1, -1])
    """
    return end_of(dialect, values(dialect, rows), fmt)


def values(dialect: Dialect, rows: Rows) -> np.ndarray:
    """What ``answers`` are before the word ``end``."""
    if dialect.multiplier == "real" and dialect.end == "saturate":
        x = rows.x.astype(float)
        if dialect.zero == "before":
            return round_product_sum(x, rows.real, rows.zero_point, dialect.last, 2.0**40)
        return round_product(x, rows.real, dialect.last, 2.0**40).astype(np.int64) + rows.zero_point
    shift = np.clip(rows.shift, *(legal_shifts(dialect) or (-(2**31), 2**31)))
    found = evaluate(dialect, rows.x, rows.real, rows.m, shift, rows.zero_point)
    return np.where(shift == rows.shift, found, NO_ANSWER)


def end_of(dialect: Dialect, found: np.ndarray, fmt: IntFormat) -> np.ndarray:
    """Values as codes, as the word ``end`` says."""
    return np.where(found == NO_ANSWER, NO_ANSWER, dialect.ended(found, fmt).astype(np.int64))
