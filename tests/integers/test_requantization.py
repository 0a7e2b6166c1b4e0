"""Multipliers and single-round requantization against exact rationals and Python's integers."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.integers import requantization
from refquant.integers.devices import dialect_of
from refquant.integers.dialects import DIALECTS, Dialect, evaluate
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT32 = IntFormat(32)

int32 = st.integers(INT32_MIN, INT32_MAX)
mantissas = st.one_of(st.integers(2**30, 2**31 - 1), st.sampled_from([2**30, 2**30 + 1, 2**31 - 1]))
legal_shifts = st.integers(-31, 30)


def fixed_point(real: float) -> tuple[int, int]:
    """(m, s) of M from its definition: 2^(s-1) <= M < 2^s, m = M·2^(31-s) to the nearest, halves up."""
    exact = Fraction(real)
    s = exact.numerator.bit_length() - exact.denominator.bit_length()
    while not Fraction(2) ** (s - 1) <= exact < Fraction(2) ** s:
        s += 1 if exact >= Fraction(2) ** s else -1
    m = math.floor(exact * Fraction(2) ** (31 - s) + Fraction(1, 2))
    if m == 2**31:
        m, s = 2**30, s + 1
    return (0, 0) if s < -31 else (m, s)


def multiplier(m: int, s: int) -> Multiplier:
    """The multiplier whose real value is m·2^(s-31) exactly."""
    made = Multiplier.from_real(math.ldexp(m, s - 31))
    assert (int(made.m), int(made.shift)) == (m, s)
    return made


# --- Multiplier ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("real, m, s", [
    (1.0, 2**30, 1),
    (0.5, 2**30, 0),
    (0.25, 2**30, -1),
    (0.75, 3 * 2**29, 0),
    (0.1, 1717986918, -3),                       # 0.8·2^31 = 1717986918.4
    (float(np.float32(0.1)), 1717986944, -3),
    (float(np.float32(0.7)), 1503238528, 0),
    (1 - 2.0**-31, 2**31 - 1, 0),                # the largest m
    (1 - 2.0**-32, 2**30, 1),                    # 2^31 - 1/2: a tie, away from zero, and rolls over
    (1 - 2.0**-33, 2**30, 1),                    # 2^31 - 1/4
    (1 - 2.0**-32 - 2.0**-53, 2**31 - 1, 0),     # just below that tie
    ((2**30 + 0.5) / 2**31, 2**30 + 1, 0),       # a tie at an even m: half even would keep 2^30
    ((2**30 + 1.5) / 2**31, 2**30 + 2, 0),
    (2.0**-31, 2**30, -30),
    (2.0**-32, 2**30, -31),                      # the smallest that is kept
    ((1 - 2.0**-33) * 2.0**-32, 2**30, -31),     # below 2^-32, but rolls over onto it
    ((1 - 2.0**-31) * 2.0**-32, 0, 0),           # vanishes
    (2.0**-33, 0, 0),
    (5e-324, 0, 0),
    (2.0**29, 2**30, 30),                        # the largest legal shift
    (2.0**30, 2**30, 31),                        # representable, though no sum may use it
    (1.7976931348623157e308, 2**30, 1025),
])
def test_fixed_point_forms_by_hand(real, m, s):
    made = Multiplier.from_real(real)
    assert (int(made.m), int(made.shift), float(made.real)) == (m, s, real)
    assert fixed_point(real) == (m, s)


@given(st.one_of(st.floats(2.0**-32, 2.0**31), st.floats(5e-324, 1.7976931348623157e308),
                 st.builds(math.ldexp, st.floats(0.5, 1.0), st.integers(-40, 40)),
                 st.builds(lambda m, part, e: math.ldexp(m + part, e - 31), mantissas,
                           st.sampled_from([0.25, 0.5, 0.75]), st.integers(-34, 34))))
@example(1 - 2.0**-33)  # m rounds to 2^31
@example(2.0**-32)      # the last that does not vanish
def test_a_multiplier_is_its_31_bit_neighbour(real):
    made = Multiplier.from_real(real)
    assert made.m.dtype == made.shift.dtype == np.int64 and made.real.dtype == np.float64
    assert made.m.shape == made.shift.shape == made.real.shape == ()
    m, s, exact = int(made.m), int(made.shift), Fraction(real)
    assert Fraction(float(made.real)) == exact
    if m == 0:
        assert s == 0 and exact < Fraction(1, 2**32)
    else:
        assert 2**30 <= m < 2**31 and s >= -31
        assert abs(m * Fraction(2) ** (s - 31) - exact) <= Fraction(2) ** (s - 32)
    assert (m, s) == fixed_point(real)


def test_an_array_of_multipliers_is_its_elements():
    reals = [0.1, 1 - 2.0**-33, 2.0**-40, 3.7, 2.0**-32, 1e-300, 0.5]
    made = Multiplier.from_real(reals)
    assert made.real.shape == made.m.shape == made.shift.shape == (7,)
    assert made.real.tolist() == reals and made.m.dtype == made.shift.dtype == np.int64
    assert list(zip(made.m.tolist(), made.shift.tolist(), strict=True)) == [fixed_point(real) for real in reals]


@pytest.mark.parametrize("real", [2, np.int8(2), np.uint64(2), np.float32(2), np.float16(2), 2.0, np.array(2.0)])
def test_a_number_of_any_real_dtype_makes_the_same_multiplier(real):
    made = Multiplier.from_real(real)
    assert (float(made.real), int(made.m), int(made.shift)) == (2.0, 2**30, 2)
    assert made.real.dtype == np.float64


def test_a_float32_multiplier_keeps_its_own_value():
    made = Multiplier.from_real(np.array([0.1, 0.7], np.float32))
    assert made.real.tolist() == [0.10000000149011612, 0.699999988079071]
    assert made.m.tolist() == [1717986944, 1503238528] and made.shift.tolist() == [-3, 0]


def test_a_multiplier_is_a_read_only_copy():
    source = np.array([0.5, 0.25])
    made = Multiplier.from_real(source)
    source[:] = 1
    assert made.real.tolist() == [0.5, 0.25] and source.flags.writeable
    for array in (made.real, made.m, made.shift):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'm'"):
        made.m = source


@pytest.mark.parametrize("axis, ndim, shape", [(0, 1, (3,)), (0, 2, (3, 1)), (1, 2, (1, 3)), (-1, 3, (1, 1, 3)),
                                               (1, 4, (1, 3, 1, 1))])
def test_along_shapes_the_same_multipliers_for_one_axis(axis, ndim, shape):
    made = Multiplier.from_real([0.1, 0.2, 0.3])
    shaped = made.along(axis, ndim)
    for name in ("real", "m", "shift"):
        before, after = getattr(made, name), getattr(shaped, name)
        assert after.shape == shape and after.dtype == before.dtype and after.ravel().tolist() == before.tolist()
    scalar = Multiplier.from_real(0.1).along(axis, ndim)
    assert scalar.m.shape == () and int(scalar.m) == 1717986918


@pytest.mark.parametrize("real, m, shift, names", [
    (0.5, 2**40, 0, "m must"),            # acc·m would leave int64
    (0.5, 2**31, 0, "m must"),
    (0.5, -(2**30), 0, "m must"),
    (0.5, 2.0**30 + 0.5, 0, "m must"),    # truncated silently
    (0.5, 2**30, 0.5, "shift must"),
    ([0.5, 0.5], [2**30] * 3, [0, 0], "shape"),
    (0.5, [2**30], [0], "shape"),
    ([0.5] * 3, [2**30, 5, 2**31], [0] * 3, r"^m must be from 0 to 2\^31 - 1, got 5\.\.2147483648$"),
    (-0.5, 2**30, 0, "> 0"),
    (np.nan, 2**30, 0, "finite"),
])
def test_a_multiplier_built_from_parts_that_are_none_is_refused(real, m, shift, names):
    with pytest.raises(ValueError, match=names):
        Multiplier(real, m, shift)


# --- single rounding ----------------------------------------------------------------------------------

@given(int32, st.floats(2.0**-32, 2.0**29))
def test_the_result_is_within_half_a_code_of_the_real_product_but_for_the_error_of_m(x, real):
    exact = Fraction(x) * Fraction(real)
    got = int(requantize(x, Multiplier.from_real(real), INT32))
    if abs(exact) < 2**31 - 2:
        assert abs(got - exact) <= Fraction(1, 2) + abs(exact) / 2**31
    else:
        assert abs(got) >= 2**31 - 4 and (got > 0) == (exact > 0)


def test_single_round_is_known_and_the_default():
    assert "single_round" in DIALECTS
    x = np.array([-5, -3, -1, 1, 3, 5])
    assert requantize(x, Multiplier.from_real(0.5), IntFormat(8)).tolist() == [-2, -1, 0, 1, 2, 3]


@pytest.mark.parametrize("dialect", ["single_round", "shift_floor", "exact_half_even", "zero_point_first"])
def test_a_33_bit_code_tells_what_int32_does_not_hold(dialect):
    got = requantize([2**30, -2**30, -2**30 - 1], Multiplier.from_real(2.0), IntFormat(33), dialect)
    assert got.dtype == np.int64 and got.tolist() == [2**31, -2**31, -2**31 - 2]


@pytest.mark.parametrize("dialect", [*DIALECTS, "m31,merged,half_even,half_down,after,saturate",
                                     "m7,saturate,half_up,half_toward_zero,before,saturate"])
@pytest.mark.parametrize("fmt, zero_point", [(IntFormat(8), -128), (IntFormat(4, False), 3), (IntFormat(16), 7)])
def test_floats_decide_what_the_definition_decides(dialect, fmt, zero_point, monkeypatch):
    monkeypatch.setattr(requantization, "_BLOCK", 1 << 13)  # several blocks of a row, and of many rows
    words = Dialect(*dialect.split(",")) if "," in dialect else dialect_of(dialect)
    rng = np.random.default_rng(0)
    # Multipliers at which many products lie at ties and next to them, one large enough for codes at both ends.
    M = Multiplier.from_real(np.array([2.0**-9, 3 * 2.0**-7, 2.0**-4 * (1 + 2.0**-24), 0.49999, 1 / 3, 2.0**-31]))
    acc = np.concatenate([rng.integers(-2000, 2000, (6, 20000)), rng.integers(-2**31, 2**31, (6, 2000))], axis=1)
    got = requantize(acc, M.along(0, 2), fmt, words, zero_point)
    np.testing.assert_array_equal(requantize(acc.T, M.along(1, 2), fmt, words, zero_point).T, got)
    parts = (part[:, None] for part in (M.real, M.m, M.shift))
    if words.multiplier == "real":
        acc, got = acc[:, :500], got[:, :500]  # the definition takes one at a time
    np.testing.assert_array_equal(got, np.clip(evaluate(words, acc, *parts, zero_point), fmt.min, fmt.max))
