"""Every rounding rule against exact rationals: floats, integer quotients, exact products of floats."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from rounding_oracle import rational_round

from refquant.integers.rounding import (
    RULES,
    round_fraction,
    round_product,
    round_values,
    shift_right,
    shifted_product,
)

any_rule = pytest.mark.parametrize("rule", RULES)
any_float = st.floats(allow_nan=False, allow_infinity=False)
any_int64 = st.integers(-(2**63), 2**63 - 1)


# round(x) by hand, as a textbook prints it. 1.2 and 1.75 stand for "below and above the half".
TABLE_X = [-2.5, -1.75, -1.5, -1.2, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.2, 1.5, 1.75, 2.5]
TABLE = {
    "half_away":   [-3, -2, -2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 2, 2, 3],
    "half_even":   [-2, -2, -2, -1, -1, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2],
    "half_up":     [-2, -2, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3],
    "half_down":   [-3, -2, -2, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 2, 2],
    "half_toward_zero": [-2, -2, -1, -1, -1, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2],
    "toward_zero": [-2, -1, -1, -1, -1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2],
    "away_from_zero": [-3, -2, -2, -2, -1, -1, -1, 0, 1, 1, 1, 2, 2, 2, 3],
    "floor":       [-3, -2, -2, -2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 1, 2],
    "ceil":        [-2, -1, -1, -1, -1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3],
    "to_odd":      [-3, -1, -1, -1, -1, -1, -1, 0, 1, 1, 1, 1, 1, 1, 3],
}

def assert_rounds(x: np.ndarray, rule: str) -> None:
    got = round_values(x, rule)
    assert got.dtype == x.dtype and got.shape == x.shape
    assert [Fraction(float(v)) for v in got.ravel()] == [rational_round(Fraction(float(v)), rule) for v in x.ravel()]


@any_rule
def test_every_function_agrees_with_the_table_by_hand(rule):
    assert [rational_round(Fraction(x), rule) for x in TABLE_X] == TABLE[rule]
    assert round_values(np.array(TABLE_X), rule).tolist() == TABLE[rule]
    assert round_product(np.array(TABLE_X), 1.0, rule, 100.0).tolist() == TABLE[rule]
    quarters = [(i, int(4 * x)) for i, x in enumerate(TABLE_X) if (4 * x).is_integer()]
    assert shift_right(np.array([q for _, q in quarters]), 2, rule).tolist() == [TABLE[rule][i] for i, _ in quarters]


def test_ties_go_away_from_zero_by_default_as_in_easyquant_but_up_in_shifts_as_in_hardware():
    assert round_values(np.array(TABLE_X)).tolist() == TABLE["half_away"]
    assert round_fraction(Fraction(-1, 2)) == -1
    assert shift_right(np.arange(-40, 40), 3).tolist() == [(v + 4) >> 3 for v in range(-40, 40)]


# --- floats -----------------------------------------------------------------------------------------

@any_rule
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ties_their_neighbours_and_the_largest_and_least_floats_round_exactly(rule, dtype):
    info = np.finfo(dtype)
    ones = 2.0**info.nmant  # from here on every float is an integer
    large = [ones / 2 - 0.5, ones / 2 + 0.5, ones / 2 + 1.5, ones - 1.5, ones - 0.5, ones, ones + 1, ones + 3]
    ties = np.concatenate([np.arange(-130, 131) / 2, large, np.negative(large)]).astype(dtype)
    ends = np.array([info.max, info.min, info.tiny, -info.tiny, info.smallest_subnormal], dtype)
    for x in (ties, np.nextafter(ties, dtype(np.inf)), np.nextafter(ties, dtype(-np.inf)), ends):
        assert_rounds(x, rule)


@any_rule
@given(st.lists(any_float, min_size=1, max_size=10))
def test_any_float64_rounds_as_its_rational(rule, values):
    assert_rounds(np.array(values), rule)


# --- integer quotients ------------------------------------------------------------------------------

def hard_numerators(shift: int) -> list[int]:
    """Ties and integers of x / 2^shift with their neighbours, near zero and at both ends of int64."""
    half = 2**shift // 2 if shift else 1
    near_zero = [sign * (odd * half) + d for odd in range(6) for sign in (-1, 1) for d in (-1, 0, 1)]
    ends = [end - sign * (odd * half) + d for end, sign in ((2**63 - 1, 1), (-(2**63), -1)) for odd in range(3)
            for d in (-1, 0, 1)]
    return sorted({v for v in near_zero + ends if -(2**63) <= v < 2**63})


@any_rule
def test_ties_and_their_neighbours_round_as_the_rational_quotient_at_every_shift(rule):
    for shift in range(63):
        x = hard_numerators(shift)
        got = shift_right(np.array(x), shift, rule)
        assert got.dtype == np.int64
        assert got.tolist() == [rational_round(Fraction(v, 2**shift), rule) for v in x], shift


@any_rule
@given(st.lists(any_int64, min_size=1, max_size=10), st.integers(0, 62))
def test_any_int64_shifts_as_the_rational_quotient(rule, values, shift):
    got = shift_right(np.array(values), shift, rule)
    assert got.tolist() == [rational_round(Fraction(v, 2**shift), rule) for v in values]


@any_rule
def test_shifts_broadcast_against_the_values_and_offsets_count_before_rounding(rule):
    x, shift = [-7, -6, -1, 0, 1, 6, 7, 2**62, -(2**62)], np.array([0, 1, 2, 3, 31, 32, 61, 62], np.uint64)
    for offset, some in itertools.product((0, 1, -2), (shift, shift[2:])):  # half up of 2 or more has a faster way
        expected = [[rational_round(Fraction(v, 2**s) + offset, rule) for s in some.tolist()] for v in x]
        assert shift_right(np.array(x)[:, None], some, rule, offset).tolist() == expected
    assert shift_right(np.zeros((0, 3), np.int64), 4, rule).shape == (0, 3)


@any_rule
@given(any_int64, st.integers(0, 2**31 - 1), st.integers(0, 62), st.integers(-9, 9))
@example(2**40, 2**30, 39, 5)  # 2^70 leaves int64
@example(-(2**40) - 1, 2**30, 39, 5)
@example(2**33, 2**30, 0, 0)  # 2^63 just leaves it
@example(-(2**33), 2**30, 0, 0)
def test_any_product_shifts_as_the_rational_quotient(rule, x, m, shift, offset):
    expected = rational_round(Fraction(x * m, 2**shift) + offset, rule)
    assume(abs(x * m) >= 2**63 or abs(expected) < 2**63)  # else the offset alone leaves int64
    found = shifted_product(np.array([x]), np.array(m), shift, rule, offset)
    assert found.tolist() == shifted_product(np.array([x], object), np.array(m), shift, rule, offset).tolist()
    assert found.tolist() == [expected]


# --- rationals ----------------------------------------------------------------------------------------

@any_rule
@given(st.fractions())
@example(Fraction(-5, 2))
@example(Fraction(3, 2))
@example(Fraction(2**200 + 1, 2**199))  # no float holds it
@example(Fraction(-1, 2) + Fraction(1, 3**50))
@example(Fraction(7, 2) - Fraction(1, 3**50))
def test_any_rational_rounds_by_the_rules_as_sentences(rule, value):
    got = round_fraction(value, rule)
    assert type(got) is int and got == rational_round(value, rule)


# --- exact products ---------------------------------------------------------------------------------

LIMIT = 2.0**33


def assert_product_rounds(x: np.ndarray, scale: np.ndarray, rule: str, limit: float = LIMIT) -> None:
    got = round_product(x, scale, rule, limit)
    x, scale = np.broadcast_arrays(x, scale)
    assert got.dtype == np.float64 and got.shape == x.shape
    for a, b, code in zip(x.ravel(), scale.ravel(), np.asarray(got).ravel().tolist(), strict=True):
        exact = rational_round(Fraction(float(a)) * Fraction(float(b)), rule)
        assert code == min(max(exact, -int(limit)), int(limit)), (float(a), float(b))


def near_products(x_dtype: type, scale_dtype: type, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors whose exact product lies on, just below or just above a half or an integer up to `reach`."""
    rng = np.random.default_rng(reach)
    target = rng.integers(-2 * reach, 2 * reach, 120) / 2.0
    target[:8] = [0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.5, -2.5]
    x = ((1 + rng.random(120)) * 2.0 ** rng.integers(-12, 13, 120)).astype(x_dtype)
    scale = np.abs(target / x).astype(scale_dtype)
    scale[scale == 0] = 1
    x = np.copysign(x, target).astype(x_dtype)
    ladder = [scale, np.nextafter(scale, scale_dtype(np.inf)), np.nextafter(scale, scale_dtype(0))]
    # Exact hits too: a short factor times a short one.
    short = x_dtype(rng.integers(1, 2**10, 120) * np.sign(target + 0.25)), scale_dtype(rng.integers(1, 99, 120) / 2)
    return np.concatenate([x, x, x, short[0]]), np.concatenate([*ladder, short[1]])


def side(a: np.floating, b: np.floating) -> str | None:
    """Where the exact product lies beside the half or integer that the float product equals, if it does."""
    product = Fraction(float(a * b))
    if (2 * product).denominator != 1:
        return None
    error = Fraction(float(a)) * Fraction(float(b)) - product
    return "on" if error == 0 else "above" if error > 0 else "below"


@any_rule
@pytest.mark.parametrize("x_dtype, scale_dtype, reach", [
    *((np.float64, np.float64, reach) for reach in (4, 2**7, 2**15, 2**31)), (np.float32, np.float32, 2**7),
    (np.float32, np.float64, 2**7), (np.float16, np.float32, 2**7)])
def test_products_that_round_onto_a_tie_or_an_integer_are_seen_as_exact(rule, x_dtype, scale_dtype, reach):
    x, scale = near_products(x_dtype, scale_dtype, reach)
    sides = [side(a, b) for a, b in zip(x, scale, strict=True)]
    assert min(sides.count("on"), sides.count("above"), sides.count("below")) >= 20, "the cases miss their target"
    assert_product_rounds(x, scale, rule)


TINY = np.array([5e-324, 1e-323, 2.0**-1050, 2.2250738585072009e-308, 2.0**-1022, 2.0**-600, 1e-200, 1.0, 0.0])
# 2^-1024 · 2^1023 = 1/2 exactly; one subnormal spacing away, and one mantissa bit of the scale, it is not.
HALVES = np.array([2.0**-1024 - 5e-324, 2.0**-1024, 2.0**-1024 + 5e-324, 3 * 2.0**-1024, 5 * 2.0**-1024])


@any_rule
@pytest.mark.parametrize("x, scales", [
    (TINY, [5e-324, 2.0**-1022, 1e-200, 2.0**-600, 2.0**-475, 2.0**-474, 1.0, 2.0**1000, 1.7976931348623157e308]),
    (HALVES, [np.nextafter(2.0**1023, 0), 2.0**1023, np.nextafter(2.0**1023, np.inf)])], ids=["tiny", "halves"])
def test_subnormal_factors_round_as_their_exact_product(rule, x, scales):
    assert_product_rounds(np.concatenate([x, -x])[:, None], np.array(scales), rule)


@any_rule
@pytest.mark.parametrize("limit", [1.0, 127.0, 2.0**33, 2.0**50])
def test_products_are_exact_up_to_the_limit_and_clipped_beyond_it(rule, limit):
    steps = limit + np.arange(-6, 7) / 4
    near = np.concatenate([steps, np.nextafter(steps, np.inf), np.nextafter(steps, 0), [1e40, 1.7e308]])
    near = np.concatenate([near, -near])
    assert_product_rounds(near, np.array(1.0), rule, limit)
    assert_product_rounds(near / 3, np.array(3.0), rule, limit)  # 1.7e308 overflows


@pytest.mark.parametrize("exponent", [32, 40, 47, 48, 49, 50, 51])
def test_products_up_to_the_widest_limit_are_exact(exponent):
    # The higher the product, the nearer its float neighbours come to the halves; from 2^51 on they are halves.
    rng = np.random.default_rng(exponent)
    x = rng.choice([-1, 1], 200) * (1 + rng.random(200))
    scale = np.ldexp(1 + rng.random(200), exponent) / np.abs(x) / 2
    for rule in RULES:
        assert_product_rounds(x, scale, rule, 2.0**50)


@any_rule
@given(any_float, any_float)
@example(0.1, 5.0)                         # rounds down onto a half
@example(0.3, 5.0)                         # rounds up onto a half
@example(1.1, 0.5 / 1.1)                   # lies beside the tie 0.5
@example(5e-324, 5e-324)                   # vanishes
@example(1.7976931348623157e308, 2.0)      # overflows
@example(-5e-324, 1.7976931348623157e308)  # a subnormal times the largest float
def test_any_product_rounds_as_its_rational(rule, x, scale):
    assert_product_rounds(np.array(x), np.array(scale), rule)
