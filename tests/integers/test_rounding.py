"""Every rounding rule against exact rationals: floats, integer quotients, exact products of floats."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.integers.rounding import (
    RULES,
    round_fraction,
    round_product,
    round_values,
    shift_right,
    shifted_product,
)

HALF = Fraction(1, 2)

any_rule = pytest.mark.parametrize("rule", RULES)
any_float = st.floats(allow_nan=False, allow_infinity=False)
any_float32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
any_int64 = st.integers(-(2**63), 2**63 - 1)


def rational_round(value: Fraction, rule: str) -> int:
    """The rules as sentences about an exact rational (Python's own round() is half-even)."""
    if rule == "floor":
        return math.floor(value)
    if rule == "ceil":
        return math.ceil(value)
    if rule == "toward_zero":
        return math.trunc(value)
    if rule == "away_from_zero":
        return math.ceil(value) if value > 0 else math.floor(value)
    if rule == "to_odd":
        return value.numerator if value.denominator == 1 else 2 * math.floor(value / 2) + 1
    if rule == "half_even":
        return round(value)
    if rule == "half_up":
        return math.floor(value + HALF)
    if rule == "half_down":
        return math.ceil(value - HALF)
    up, down = math.floor(value + HALF), math.ceil(value - HALF)
    return {"half_away": (down, up), "half_toward_zero": (up, down)}[rule][value > 0]


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

# Floats where the obvious floor(x + 0.5) goes wrong, and the ends of what a float holds.
HARD = [0.49999999999999994, 0.5000000000000001, 1.4999999999999998, 2.5000000000000004,
        2.0**51 - 0.5, 2.0**51 + 0.5, 2.0**51 + 1.5, 2.0**52 - 1.5, 2.0**52 - 0.5, 2.0**52, 2.0**52 + 1,
        2.0**52 + 3, 2.0**53 - 1, 2.0**53, 2.0**53 + 2, 2.0**62, 2.0**63, 1e300, 1.7976931348623157e308,
        5e-324, 2.2250738585072014e-308, 1e-17]
HARD32 = [0.49999997, 0.50000006, 1.4999999, 2.5000002, 2.0**22 - 0.5, 2.0**22 + 0.5, 2.0**22 + 1.5, 2.0**23 - 1.5,
          2.0**23 - 0.5, 2.0**23, 2.0**23 + 1, 2.0**23 + 3, 2.0**24, 2.0**24 + 2, 3.4028235e38, 1e-45, 1.1754944e-38]


def assert_rounds(x: np.ndarray, rule: str) -> None:
    got = round_values(x, rule)
    assert got.dtype == x.dtype and got.shape == x.shape
    assert [int(v) for v in got.ravel()] == [rational_round(Fraction(float(v)), rule) for v in x.ravel()]
    assert all(float(v).is_integer() for v in got.ravel())


def test_every_rule_is_in_the_table():
    assert sorted(RULES) == sorted(TABLE)


@any_rule
def test_every_function_agrees_with_the_table_by_hand(rule):
    assert [rational_round(Fraction(x), rule) for x in TABLE_X] == TABLE[rule]
    assert round_values(np.array(TABLE_X), rule).tolist() == TABLE[rule]
    assert round_product(np.array(TABLE_X), 1.0, rule, 100.0).tolist() == TABLE[rule]
    quarters = [(i, int(4 * x)) for i, x in enumerate(TABLE_X) if (4 * x).is_integer()]
    assert shift_right(np.array([q for _, q in quarters]), 2, rule).tolist() == [TABLE[rule][i] for i, _ in quarters]


# --- floats -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("bits", range(2, 17))
@any_rule
def test_every_integer_and_tie_of_a_width_rounds_as_its_rational(bits, rule):
    # x = k/2 over a little more than the codes of `bits` bits; the expected value in integers only.
    k = np.arange(-(2**bits) - 3, 2**bits + 4)
    below = [n // 2 for n in k.tolist()]  # floor
    expected = {
        "floor": below,
        "ceil": [(n + 1) // 2 for n in k.tolist()],
        "toward_zero": [int(n / 2) for n in k.tolist()],
        "half_toward_zero": [int(n / 2) for n in k.tolist()],
        "away_from_zero": [n // 2 if n < 0 else (n + 1) // 2 for n in k.tolist()],
        "to_odd": [n // 2 | n % 2 for n in k.tolist()],
        "half_up": [(n + 1) // 2 for n in k.tolist()],
        "half_down": below,
        "half_even": [round(Fraction(n, 2)) for n in k.tolist()],
        "half_away": [(n + 1) // 2 if n > 0 else -((1 - n) // 2) for n in k.tolist()],
    }[rule]
    for dtype in (np.float32, np.float64):
        got = round_values((k / 2).astype(dtype), rule)
        assert got.dtype == dtype and got.tolist() == expected


@any_rule
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_float_neighbours_of_a_tie_round_to_their_own_side(rule, dtype):
    halves = np.arange(-130, 131).astype(dtype) / dtype(2)
    assert_rounds(np.nextafter(halves, dtype(np.inf)), rule)
    assert_rounds(np.nextafter(halves, dtype(-np.inf)), rule)


@any_rule
@pytest.mark.parametrize("values, dtype", [pytest.param(HARD, np.float64, id="float64"),
                                           pytest.param(HARD32, np.float32, id="float32")])
def test_hard_floats_round_exactly(rule, values, dtype):
    x = np.array(values, dtype)
    assert_rounds(x, rule)
    assert_rounds(-x, rule)


@any_rule
@given(st.lists(any_float, min_size=1, max_size=10))
def test_any_float64_rounds_as_its_rational(rule, values):
    assert_rounds(np.array(values), rule)


@any_rule
@given(st.lists(any_float32, min_size=1, max_size=10))
def test_any_float32_rounds_as_its_rational(rule, values):
    assert_rounds(np.array(values, np.float32), rule)


def test_the_default_is_half_away_as_in_easyquant():
    assert round_values(np.array([-2.5, -0.5, 0.5, 2.5])).tolist() == [-3, -1, 1, 3]


@any_rule
def test_rounding_keeps_the_shape_and_never_writes_to_its_input(rule):
    for shape in [(), (0,), (2, 0), (2, 3)]:
        x = np.full(shape, -1.5)
        x.flags.writeable = False
        assert round_values(x, rule).shape == shape
    x = np.array([[1.0, -2.5], [0.5, 7.0]])
    x.flags.writeable = False
    assert not np.shares_memory(round_values(x, rule), x)


# --- integer quotients ------------------------------------------------------------------------------

def hard_numerators(shift: int) -> list[int]:
    """Ties and integers of x / 2^shift with their neighbours, near zero and at both ends of int64."""
    half = 2**shift // 2 if shift else 1
    near_zero = [sign * (odd * half) + d for odd in range(6) for sign in (-1, 1) for d in (-1, 0, 1)]
    ends = [end - sign * (odd * half) + d for end, sign in ((2**63 - 1, 1), (-(2**63), -1)) for odd in range(3)
            for d in (-1, 0, 1)]
    return sorted({v for v in near_zero + ends if -(2**63) <= v < 2**63})


@any_rule
@pytest.mark.parametrize("shift", range(63))
def test_a_shift_rounds_as_the_rational_quotient(rule, shift):
    x = hard_numerators(shift)
    assert {-(2**63), 2**63 - 1} <= set(x)
    got = shift_right(np.array(x), shift, rule)
    assert got.dtype == np.int64
    assert got.tolist() == [rational_round(Fraction(v, 2**shift), rule) for v in x]


@any_rule
@given(st.lists(any_int64, min_size=1, max_size=10), st.integers(0, 62))
def test_any_int64_shifts_as_the_rational_quotient(rule, values, shift):
    got = shift_right(np.array(values), shift, rule)
    assert got.tolist() == [rational_round(Fraction(v, 2**shift), rule) for v in values]


@any_rule
def test_shifts_broadcast_against_the_values(rule):
    x = np.array([[-7], [-6], [-1], [0], [1], [6], [7], [2**63 - 1], [-(2**63)]])
    shift = np.array([0, 1, 2, 3, 31, 32, 61, 62])
    got = shift_right(x, shift, rule)
    assert got.shape == (9, 8) and got.dtype == np.int64
    for i, j in itertools.product(range(9), range(8)):
        assert int(got[i, j]) == rational_round(Fraction(int(x[i, 0]), 2 ** int(shift[j])), rule)
    assert np.array_equal(shift_right(5, shift, rule), [rational_round(Fraction(5, 2**int(s)), rule) for s in shift])


@any_rule
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_narrow_integers_shift_in_int64(rule, dtype):
    # In the dtype itself, 2·remainder or 1 << shift would wrap.
    values = [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max), 96]
    for shift in (1, 7, 31, 62):
        for shift_dtype in (np.int8, np.uint8, np.int64, np.uint64):
            got = shift_right(np.array(values, dtype), np.array(shift, shift_dtype), rule)
            assert got.dtype == np.int64
            assert got.tolist() == [rational_round(Fraction(v, 2**shift), rule) for v in values]


def test_a_product_that_int64_does_not_hold_is_shifted_and_moved():
    x, m = np.array([2**40, -2**40 - 1]), np.array(2**30)
    assert shifted_product(x, m, 39, "half_up", 5).tolist() == [2**31 + 5, -2**31 + 5]


def test_the_default_shift_is_half_up_as_hardware_does_it():
    x = hard_numerators(5)
    assert shift_right(np.array(x), 5).tolist() == [(v + 16) >> 5 for v in x]


@any_rule
def test_a_shift_by_zero_changes_nothing(rule):
    x = np.array([-(2**63), -1, 0, 1, 2**63 - 1])
    assert np.array_equal(shift_right(x, 0, rule), x)
    assert shift_right(np.zeros((0, 3), np.int64), 4, rule).shape == (0, 3)


# --- rationals ----------------------------------------------------------------------------------------

@any_rule
@given(st.fractions())
@example(Fraction(-5, 2))
@example(Fraction(3, 2))
@example(Fraction(2**200 + 1, 2**199))   # no float holds it
def test_any_rational_rounds_by_the_rules_as_sentences(rule, value):
    got = round_fraction(value, rule)
    assert type(got) is int and got == rational_round(value, rule)


@any_rule
def test_rationals_around_every_tie_round_to_their_own_side(rule):
    for twice, part in itertools.product(range(-9, 10), (-1, 0, 1)):
        value = Fraction(twice, 2) + Fraction(part, 3**50)
        assert round_fraction(value, rule) == rational_round(value, rule)
    assert round_fraction(Fraction(-1, 2)) == -1, "half away is the default here too"


# --- exact products ---------------------------------------------------------------------------------

LIMIT = 2.0**33


def assert_product_rounds(x: np.ndarray, scale: np.ndarray, rule: str, limit: float = LIMIT) -> None:
    got = round_product(x, scale, rule, limit)
    x, scale = np.broadcast_arrays(x, scale)
    assert got.dtype == np.float64 and got.shape == x.shape
    for a, b, code in zip(x.ravel(), scale.ravel(), np.asarray(got).ravel().tolist(), strict=True):
        exact = rational_round(Fraction(float(a)) * Fraction(float(b)), rule)
        assert code == min(max(exact, -int(limit)), int(limit)), (float(a), float(b))


def near_products(seed: int, x_dtype: type, scale_dtype: type, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors whose exact product lies on, just below or just above a half or an integer up to `reach`."""
    rng = np.random.default_rng(seed)
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


def side(a: float, b: float) -> str | None:
    """Where the exact product lies beside the half or integer that the float64 product equals, if it does."""
    product = Fraction(a * b)
    if (2 * product).denominator != 1:
        return None
    error = Fraction(a) * Fraction(b) - product
    return "on" if error == 0 else "above" if error > 0 else "below"


@any_rule
@pytest.mark.parametrize("reach", [4, 2**7, 2**15, 2**31])
def test_products_that_round_onto_a_tie_or_an_integer_are_seen_as_exact(rule, reach):
    x, scale = near_products(reach, np.float64, np.float64, reach)
    sides = [side(float(a), float(b)) for a, b in zip(x, scale, strict=True)]
    assert min(sides.count("on"), sides.count("above"), sides.count("below")) >= 20, "the cases miss their target"
    assert_product_rounds(x, scale, rule)


@any_rule
@pytest.mark.parametrize("x_dtype, scale_dtype", [(np.float32, np.float32), (np.float32, np.float64),
                                                  (np.float64, np.float32), (np.float16, np.float64),
                                                  (np.float16, np.float32)])
def test_products_of_mixed_float_types_are_exact(rule, x_dtype, scale_dtype):
    x, scale = near_products(7, x_dtype, scale_dtype, 2**7)
    assert_product_rounds(x, scale, rule)


@any_rule
def test_products_of_float32_that_float32_would_round_onto_a_tie_are_exact(rule):
    x, scale = near_products(11, np.float32, np.float32, 2**7)
    in_float32, exact = (x * scale).tolist(), (x.astype(np.float64) * scale.astype(np.float64)).tolist()
    misled = [a for a, b in zip(in_float32, exact, strict=True) if (2 * a).is_integer() and a != b]
    assert len(misled) >= 20, "the cases miss their target"
    assert_product_rounds(x, scale, rule)


def test_a_tenth_times_five_is_above_a_half_and_three_tenths_below():
    # float64(0.1) is above 1/10 and float64(0.3) below 3/10, yet 0.1·5 == 0.5 and 0.3·5 == 1.5 in float64.
    assert 0.1 * 5 == 0.5 and 0.3 * 5 == 1.5
    assert [float(round_product(0.1, 5.0, rule, 9.0)) for rule in RULES] == [
        0 if rule in ("toward_zero", "floor") else 1 for rule in RULES]
    assert [float(round_product(0.3, 5.0, rule, 9.0)) for rule in RULES] == [
        2 if rule in ("ceil", "away_from_zero") else 1 for rule in RULES]


@any_rule
def test_subnormal_factors_round_as_their_exact_product(rule):
    tiny = np.array([5e-324, 1e-323, 2.0**-1050, 2.2250738585072009e-308, 2.0**-1022, 2.0**-600, 1e-200, 1.0])
    tiny = np.concatenate([tiny, -tiny, [0.0, -0.0]])
    scales = np.array([5e-324, 2.0**-1022, 1e-200, 2.0**-475, 2.0**-474, 1.0, 2.0**1000, 1.7976931348623157e308])
    assert_product_rounds(tiny[:, None], scales, rule)


@any_rule
def test_a_subnormal_can_land_on_a_tie(rule):
    # 2^-1024 · 2^1023 = 1/2 exactly; one subnormal spacing away, and one mantissa bit of the scale, it is not.
    x = np.array([2.0**-1024 - 5e-324, 2.0**-1024, 2.0**-1024 + 5e-324, 3 * 2.0**-1024, 5 * 2.0**-1024])
    scales = np.array([np.nextafter(2.0**1023, 0), 2.0**1023, np.nextafter(2.0**1023, np.inf)])
    assert_product_rounds(np.concatenate([x, -x])[:, None], scales, rule)


@any_rule
def test_a_product_too_small_for_a_float_still_has_its_sign(rule):
    # 2^-1200 underflows to 0, and the rules that look at more than the nearest integer tell both apart from 0.
    got = round_product(np.array([-(2.0**-600), 2.0**-600]), 2.0**-600, rule, LIMIT)
    assert got.tolist() == [-1 if rule in ("floor", "away_from_zero", "to_odd") else 0,
                            1 if rule in ("ceil", "away_from_zero", "to_odd") else 0]


@any_rule
@pytest.mark.parametrize("limit", [1.0, 127.0, 2.0**15, 2.0**33])
def test_products_beyond_the_limit_are_clipped_to_it(rule, limit):
    huge = np.array([1e300, 1.7976931348623157e308, 2.0**60, 2.0**34])
    assert round_product(huge, 1e300, rule, limit).tolist() == [limit] * 4  # the first two overflow float64
    assert round_product(-huge, 1e300, rule, limit).tolist() == [-limit] * 4
    steps = limit + np.arange(-6, 7) / 4
    near = np.concatenate([steps, np.nextafter(steps, np.inf), np.nextafter(steps, 0)])
    near = np.concatenate([near, -near])
    assert_product_rounds(near, np.array(1.0), rule, limit)
    assert_product_rounds(near / 3, np.array(3.0), rule, limit)


@pytest.mark.parametrize("exponent", range(32, 52))
def test_products_up_to_the_widest_limit_are_exact(exponent):
    # The higher the product, the nearer its float neighbours come to the halves; from 2^51 on they are halves.
    rng = np.random.default_rng(exponent)
    x = 1 + rng.random(200)
    x[::2] *= -1
    scale = np.ldexp(1 + rng.random(200), exponent) / np.abs(x) / 2
    for rule in RULES:
        assert_product_rounds(x, scale, rule, 2.0**50)


@pytest.mark.parametrize("limit", [3.0, 2.0**33, 2.0**50], ids=["3", "2^33", "2^50"])
def test_a_product_beyond_the_limit_is_clipped_to_exactly_that_limit_whatever_its_own_rounding_error(limit):
    for x, rule in itertools.product((0.1, 0.3, 0.7, 1 / 3, 5 / 7), RULES):
        assert float(round_product(x, 1e40, rule, limit)) == limit
        assert float(round_product(-x, 1e40, rule, limit)) == -limit


@any_rule
@given(any_float, any_float)
@example(0.1, 5.0)                        # rounds down onto a half
@example(0.3, 5.0)                        # rounds up onto a half
@example(5e-324, 5e-324)                  # vanishes
@example(1.7976931348623157e308, 2.0)     # overflows
@example(-5e-324, 1.7976931348623157e308)  # a subnormal times the largest float
def test_any_product_rounds_as_its_rational(rule, x, scale):
    assert_product_rounds(np.array([x]), np.array([scale]), rule)


@any_rule
@given(any_float32, any_float32)
def test_any_float32_product_rounds_as_its_rational(rule, x, scale):
    assert_product_rounds(np.array([x], np.float32), np.array([scale], np.float32), rule)


@any_rule
@given(st.integers(-(2**32), 2**32), st.floats(1.0, 2.0), st.integers(-30, 30))
@example(1, 1.1, 0)  # fl(0.5 / 1.1) · 1.1 lies beside the tie 0.5
def test_any_quotient_of_a_half_returns_to_its_side_of_the_half(rule, twice, factor, exponent):
    x = math.ldexp(factor, exponent)
    scale = twice / 2 / x
    for s in (scale, math.nextafter(scale, math.inf), math.nextafter(scale, -math.inf)):
        assert_product_rounds(np.array([x]), np.array([s]), rule)


def test_factors_broadcast_and_are_never_written_to():
    x, scale = np.array([[0.1], [-0.3], [2.0]]), np.array([5.0, 15.0, 0.25, 1e-3])
    x.flags.writeable = scale.flags.writeable = False
    for rule in RULES:
        assert_product_rounds(x, scale, rule)
    assert round_product(np.zeros((0, 3)), 2.0, "half_even", LIMIT).shape == (0, 3)
    assert np.shape(round_product(0.1, 5.0, "half_even", LIMIT)) == ()
