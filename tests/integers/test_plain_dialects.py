"""The six words against rational arithmetic, written from their meanings; the nine against the table's formulas."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction

import dialects_oracle as oracle
import numpy as np
import pytest
from hypothesis import assume, given
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


def by_meaning(dialect: Dialect, x: int, real: float, m: int, s: int, z: int) -> int:
    """One sum, in Python integers and rationals."""
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
def cases(draw: st.DrawFn) -> tuple[Dialect, int, Multiplier, int]:
    """A dialect, a sum, a multiplier with a legal shift, a zero point."""
    dialect = draw(st.sampled_from(DESCRIPTIONS))
    x = draw(st.integers(-2**31, 2**31 - 1) | st.integers(-300, 300))
    return dialect, x, draw(multipliers(dialect)), draw(st.integers(-128, 127))


@given(cases())
def test_any_description_is_what_its_words_mean(case):
    dialect, x, multiplier, z = case
    expected = by_meaning(dialect, x, float(multiplier.real), int(multiplier.m), int(multiplier.shift), z)
    found = int(evaluate(dialect, np.array([x]), multiplier.real, multiplier.m, multiplier.shift, z)[0])
    # Codes have at most 33 bits; what lies beyond may be any number beyond.
    assert oracle.clamp(found, -2**32, 2**32 - 1) == oracle.clamp(expected, -2**32, 2**32 - 1)
    assert int(requantize(x, multiplier, IntFormat(8), dialect, z)) == oracle.clamp(expected, -128, 127)


@given(cases(), st.sampled_from(["saturate", "wrap"]))
def test_simulation_does_what_the_words_mean(case, end):
    dialect, x, multiplier, z = case
    dialect = dataclasses.replace(dialect, end=end)
    expected = by_meaning(dialect, x, float(multiplier.real), int(multiplier.m), int(multiplier.shift), z)
    assume(end == "saturate" or dialect.multiplier != "float32" or abs(expected) < 2**32)

    def ended(value: int) -> int:
        return oracle.clamp(value, -128, 127) if end == "saturate" else (value + 128) % 256 - 128

    found = int(scale_by(np.array([float(x)]), multiplier, dialect, z)[0]) + z
    assert ended(found) == ended(expected) == int(requantize(x, multiplier, IntFormat(8), dialect.words, z))


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
    none = evaluate(EXACT_HALF_EVEN, np.array([], int), M.real, M.m, M.shift)
    assert none.dtype == np.int64 and none.size == 0
