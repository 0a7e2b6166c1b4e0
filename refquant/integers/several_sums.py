"""One output code from several sums, each with a multiplier of its own, rounded once.

    y = end(round(Σ P_i·M_i) + zero_point),    in integers round(Σ P_i·m_i / 2^(31-s))

The multipliers are aligned when they are made: all share s, that of the largest M_i, so that the products can be
added before the one shift. m_i = round(M_i·2^(31-s)), half away from zero; of a smaller M_i it is below 2^30.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.integers.checks import fitting_int64, positive
from refquant.integers.devices import dialect_of
from refquant.integers.dialects import DIALECTS, Dialect, in_int64, legal_shifts
from refquant.integers.formats import IntFormat, check_format, check_zero_point
from refquant.integers.multiplier import Multiplier
from refquant.integers.rounding import round_fraction, round_values, shift_right


def takes_several_sums(dialect: str) -> bool:
    """Whether a dialect can round Σ P_i·M_i once: m of 31 bits and one shift, or the exact M.

    >>> [name for name in DIALECTS if takes_several_sums(name)]
    ['single_round', 'shift_floor', 'exact_half_even', 'zero_point_first']
    """
    words = dialect_of(dialect)
    return ((words.multiplier, words.last) == ("real", "half_even")
            or (words.multiplier, words.left, words.first) == ("m31", "merged", "none"))


def aligned(reals: Sequence[Any]) -> tuple[Multiplier, ...]:
    """Multipliers with one shift, that of the largest; each of ``reals`` > 0, all () or (O,), aligned per channel.

    ValueError without any, and for what is not a finite number above 0.

    >>> [(int(M.m), int(M.shift)) for M in aligned([0.75, 0.001])]
    [(1610612736, 0), (2147484, 0)]
    """
    values = [positive(real, "a multiplier").astype(np.float64) for real in reals]
    if not values:
        raise ValueError("several sums must have a multiplier each, got none")
    shift = Multiplier.from_real(np.max(values, axis=0)).shift
    places = (31 - shift).astype(np.int32)
    fixed = [round_values(np.ldexp(value, places), "half_away").astype(np.int64) for value in values]
    return tuple(Multiplier(value, m, shift) for value, m in zip(values, fixed))


def requantize_sums(sums: Sequence[Any], multipliers: Sequence[Multiplier], fmt: IntFormat,
                    dialect: str = "single_round", zero_point: int = 0) -> np.ndarray:
    """Output codes of Σ P_i·M_i, as the module says.

    sums: P_i, integers that broadcast against each other. multipliers: ``aligned``, broadcasting against them.
    dialect: one that ``takes_several_sums``; for ``exact_half_even`` and ``zero_point_first`` the M_i themselves
    count. fmt: at most 33 bits. Returns ``fmt.dtype``. ValueError for other dialects and formats, for numbers of
    multipliers or shifts that differ, shifts beyond 30, and products that could leave int64.

    >>> M = aligned([0.5, 0.25])
    >>> requantize_sums([np.array([3, -3]), np.array([1, 1])], M, IntFormat(8))
    array([ 2, -1], dtype=int8)
    """
    words = dialect_of(dialect)
    if not takes_several_sums(dialect):
        known = ", ".join(filter(takes_several_sums, DIALECTS))
        raise ValueError(f"a dialect for several sums must be one of {known}, got {dialect!r}")
    if len(sums) != len(multipliers) or not len(sums):
        raise ValueError(f"each sum must have a multiplier, got {len(sums)} sums and {len(multipliers)} multipliers")
    if check_format(fmt).bits > 33:
        raise ValueError(f"requantization takes formats of at most 33 bits, got {fmt}")
    shift, most = multipliers[0].shift, legal_shifts(words)
    if most and shift.max(initial=0) > most[1]:
        raise ValueError(f"{dialect} takes shifts up to {most[1]}, got {shift.max()}")
    zero_point = check_zero_point(zero_point, fmt)
    sums = [fitting_int64(one, "a sum").astype(np.int64, copy=False) for one in sums]
    early, late = (zero_point, 0) if words.zero == "before" else (0, zero_point)
    if words.multiplier == "real":
        value = _rounded_exactly(sums, [M.real for M in multipliers], early, words) + late
    else:
        value = shift_right(total(sums, multipliers), 31 - shift, words.last, early) + late
    return words.ended(value, fmt)


def total(sums: Sequence[np.ndarray], multipliers: Sequence[Multiplier]) -> np.ndarray:
    """Σ P_i·m_i in int64; ValueError where it could leave it, or where the shifts differ."""
    if any(not np.array_equal(M.shift, multipliers[0].shift) for M in multipliers):
        raise ValueError("multipliers of several sums must share their shift (see aligned), got others")
    reach = sum(max(int(one.max(initial=0)), -int(one.min(initial=0))) * int(M.m.max())
                for one, M in zip(sums, multipliers))
    if reach >= 2**63:
        raise ValueError(f"products of several sums must stay below 2^63 together, got up to {reach}")
    found = sums[0] * multipliers[0].m
    for one, M in zip(sums[1:], multipliers[1:]):
        found = found + one * M.m
    return np.asarray(found)


def _rounded_exactly(sums: Sequence[np.ndarray], reals: Sequence[np.ndarray], early: int, dialect: Dialect
                     ) -> np.ndarray:
    """round(Σ P_i·M_i + early) of the exact sum: in float64 where no tie is near, else in rationals."""
    with np.errstate(over="ignore"):
        parts = np.broadcast_arrays(*(np.clip(one.astype(np.float64) * real, -(2.0**1000), 2.0**1000)
                                      for one, real in zip(sums, reals)))
    value = np.sum(parts, axis=0)
    whole = np.rint(value)
    # A value so large that its error in float64 reaches 1/2 also counts as near a tie.
    error = np.sum(np.abs(parts), axis=0) * len(parts) * 2.0**-51 + np.spacing(np.abs(value))
    doubtful = np.abs(np.abs(value - whole) - 0.5) <= error
    codes = np.array(np.clip(whole, -(2.0**62), 2.0**62), np.int64)
    codes += early
    n, operands = len(sums), [np.broadcast_to(v, value.shape)[doubtful].tolist() for v in (*sums, *reals)]
    exact = [sum((Fraction(a) * Fraction(b) for a, b in zip(values[:n], values[n:])), Fraction(early))
             for values in zip(*operands)]
    codes[doubtful] = in_int64(np.array([round_fraction(one, dialect.last) for one in exact], object), dialect)
    return codes
