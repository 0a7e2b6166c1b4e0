"""The six words against rational arithmetic, written from their meanings; the nine against the table's formulas."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction

import dialects_oracle as oracle
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.integers.dialects import DIALECTS, EXACT_HALF_EVEN, NAMED, Dialect, evaluate
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.integers.rounding import RULES, round_fraction
from refquant.network.simulated_scaling import scale_by
from refquant.strategies import multipliers

FIRST = ("none", "floor", "half_up", "half_even", "to_odd")
DESCRIPTIONS = [
    *(Dialect("m31", left, first, last, zero) for left, first, last, zero in itertools.product(
        ("merged", "wrap", "saturate"), FIRST, RULES, ("after", "before"))),
    *(Dialect(f"m{bits}", left, "none", last, "after") for bits, left, last in itertools.product(
        (1, 2, 8, 15, 30), ("merged", "wrap"), RULES)),
    *(Dialect(kind, last=last, zero=zero) for kind, last, zero in itertools.product(
        ("real", "float32"), RULES, ("after", "before")))]


def by_meaning(dialect: Dialect, x: int, multiplier: Multiplier, z: int) -> int:
    """One sum, in Python integers and rationals."""
    real, m, s = float(multiplier.real), int(multiplier.m), int(multiplier.shift)
    early, late = (z, 0) if dialect.zero == "before" else (0, z)
    if dialect.multiplier == "real":
        return round_fraction(x * Fraction(real) + early, dialect.last) + late
    if dialect.multiplier == "float32":
        product = oracle.float32(oracle.float32(x) * oracle.float32(Fraction(real)))
        product = oracle.float32(product + early) if early else product
        return round_fraction(product, dialect.last) + late
    width = int(dialect.multiplier[1:])
    m = min(round_fraction(Fraction(m, 2 ** (31 - width)), "half_up"), 2**width - 1)
    shifted = x * 2 ** max(s, 0)
    if dialect.left == "wrap":
        shifted = oracle.wrap32(shifted)
    elif dialect.left == "saturate":
        shifted = oracle.clamp(shifted, -2**31, 2**31 - 1)
    value = Fraction(shifted * m, 2**width)
    if dialect.first != "none":
        value = Fraction(round_fraction(value, dialect.first))
    return round_fraction(value / 2 ** max(-s, 0) + early, dialect.last) + late


@st.composite
def cases(draw: st.DrawFn, bits: int) -> tuple[Dialect, int, Multiplier, int]:
    """A dialect, a sum of so many bits, of 32 where it is shifted left, a multiplier it takes, a zero point."""
    dialect = draw(st.sampled_from(DESCRIPTIONS))
    bits = bits if dialect.left == "merged" else 32
    x = draw(st.integers(-2**(bits - 1), 2**(bits - 1) - 1) | st.integers(-300, 300))
    return dialect, x, draw(multipliers(dialect)), draw(st.integers(-128, 127))


def ended(value: int, end: str, bits: int) -> int:
    low, size = -2**(bits - 1), 2**bits
    return oracle.clamp(value, low, low + size - 1) if end == "saturate" else (value - low) % size + low


def far(words: str, x: int, m: int, shift: int, z: int = 0) -> tuple[Dialect, int, Multiplier, int]:
    return Dialect(*words.split(",")), x, Multiplier(np.ldexp(float(m), shift - 31), np.int64(m), np.int64(shift)), z


@given(cases(64), st.sampled_from(["saturate", "wrap"]), st.sampled_from([8, 16, 32, 33]))
# Far beyond every code the last bits count where codes wrap, and the value between two roundings always.
@example(far("real,merged,none,half_even", 2**62 + 5, 2**30, 3, 1), "wrap", 8)
@example(far("real,merged,none,half_even,before", -2**62 - 5, 2**30, 3, 1), "wrap", 8)
@example(far("real,merged,none,half_even", 2**62 + 5, 2**30, 2, 1), "wrap", 8)
@example(far("float32,merged,none,half_even", 2**34 + 2**12, 2**30, 1), "wrap", 33)
@example(far("m31,merged,none,half_up", 2**62 + 1, 2**31 - 1, 30), "wrap", 8)
@example(far("m31,merged,none,half_up", 2**33, 2**30, 30), "wrap", 33)
@example(far("real,merged,none,half_even", 2**50 + 1, 2**30, 3), "wrap", 8)
@example(far("m31,saturate,none,half_up", 2**30, 2**30, 2), "saturate", 33)
@example(far("float32,merged,none,half_away,before", 2**24 - 1, 2**30, 0, 1), "saturate", 32)  # and the sum
@example(far("m31,merged,half_up,half_away", 2**63 - 1, 2**31 - 1, -31), "saturate", 33)
@example(far("m31,merged,half_up,half_away", -2**63, 2**31 - 1, -31), "saturate", 33)
def test_any_description_is_what_its_words_mean(case, end, bits):
    dialect, x, multiplier, z = case
    dialect = dataclasses.replace(dialect, end=end)
    code = ended(by_meaning(dialect, x, multiplier, z), end, bits)
    assert int(requantize(x, multiplier, IntFormat(bits), dialect, z)) == code
    found = int(evaluate(dialect, np.array([x]), multiplier.real, multiplier.m, multiplier.shift, z)[0])
    assert ended(found, end, bits) == code


@given(cases(50), st.sampled_from(["saturate", "wrap"]), st.sampled_from([8, 32]))
@example(far("float32,merged,none,half_even", 2**34 + 2**12, 2**30, 1), "wrap", 32)
@example(far("float32,merged,none,half_even,before", -2**34 - 2**12, 2**30, 1, -3), "wrap", 32)
def test_simulation_does_what_the_words_mean(case, end, bits):
    dialect, x, multiplier, z = case
    dialect = dataclasses.replace(dialect, end=end)
    code = ended(by_meaning(dialect, x, multiplier, z), end, bits)
    assert ended(int(scale_by(np.array([float(x)]), multiplier, dialect, z)[0]) + z, end, bits) == code


@pytest.mark.parametrize("name", DIALECTS)
def test_the_nine_are_their_formulas(name):
    rng = np.random.default_rng(3)
    for real in (0.25, 1 / 3, 0.0007, 0.75):
        multiplier = Multiplier.from_real(real)
        x = np.concatenate([np.arange(-300, 300), rng.integers(-2**31, 2**31, 200)])
        for z in (0, 1, -2):
            found = evaluate(NAMED[name], x, multiplier.real, multiplier.m, multiplier.shift, z)
            fixed = int(multiplier.m), int(multiplier.shift)
            assert found.tolist() == [oracle.whole(name, int(v), real, *fixed, z) + z for v in x]


@pytest.mark.parametrize("last", RULES)
@pytest.mark.parametrize("zero", ["after", "before"])
def test_rationals_on_whole_arrays_equal_the_plain_ones(last, zero):
    dialect = Dialect("real", last=last, zero=zero)
    x = np.concatenate([np.arange(-200, 200), [-2**31, 2**31 - 1]])
    for real, z in itertools.product((0.5, 0.1, 1.5, 2.0**-33), (0, 1, -6)):
        multiplier = Multiplier.from_real(real)
        plain = evaluate(dialect, x, multiplier.real, multiplier.m, multiplier.shift, z)
        assert requantize(x, multiplier, IntFormat(33), dialect, z).tolist() == plain.tolist()


def test_far_rationals_are_clipped_and_no_sums_give_no_integers():
    M = Multiplier.from_real(2.0**20)
    for x, clipped in ((-2**62, -2**62), (2**62, 2**62), (2**50, 2**62)):
        for z in (-128, 127):
            assert evaluate(EXACT_HALF_EVEN, np.array([x]), M.real, M.m, M.shift, z).tolist() == [clipped + z]
    M = Multiplier.from_real([2.5, 0.5])  # 2.5·2^62 is an integer of uint64
    assert evaluate(EXACT_HALF_EVEN, np.array([2**62]), M.real, M.m, M.shift).tolist() == [2**62, 2**61]
    for dialect in NAMED.values():
        none = evaluate(dialect, np.array([], int), M.real[:1], M.m[:1], M.shift[:1])
        assert none.dtype == np.int64 and none.size == 0
