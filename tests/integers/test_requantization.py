"""Multipliers against exact rationals; whole arrays of sums against the definition of a dialect."""

from __future__ import annotations

import math

import dialects_oracle as oracle
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.integers import fast_requantization
from refquant.integers.devices import dialect_of
from refquant.integers.dialects import DIALECTS, Dialect, evaluate
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize

# --- multipliers ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("real, m, s", [
    (0.25, 2**30, -1),
    (0.1, 1717986918, -3),                       # 0.8·2^31 = 1717986918.4
    (float(np.float32(0.7)), 1503238528, 0),
    (1 - 2.0**-31, 2**31 - 1, 0),                # the largest m
    (1 - 2.0**-32, 2**30, 1),                    # 2^31 - 1/2: a tie, away from zero, and rolls over
    (1 - 2.0**-32 - 2.0**-53, 2**31 - 1, 0),     # just below that tie
    ((2**30 + 0.5) / 2**31, 2**30 + 1, 0),       # a tie at an even m: half even would keep 2^30
    (2.0**-32, 2**30, -31),                      # the smallest that is kept
    ((1 - 2.0**-33) * 2.0**-32, 2**30, -31),     # below 2^-32, but rolls over onto it
    ((1 - 2.0**-31) * 2.0**-32, 0, 0),           # vanishes
    (2.0**30, 2**30, 31),                        # representable, though no sum may use it
    (1.7976931348623157e308, 2**30, 1025),
])
def test_fixed_point_forms_by_hand(real, m, s):
    made = Multiplier.from_real(real)
    assert (int(made.m), int(made.shift), float(made.real)) == (m, s, real)
    assert oracle.fixed_point(real) == (m, s)


positive_reals = (st.floats(2.0**-32, 2.0**31) | st.floats(5e-324, 1.7976931348623157e308)
                  | st.builds(math.ldexp, st.floats(0.5, 1.0), st.integers(-40, 40))
                  | st.builds(lambda m, part, e: math.ldexp(m + part, e - 31), st.integers(2**30, 2**31 - 1),
                              st.sampled_from([0.25, 0.5, 0.75]), st.integers(-34, 34)))


@given(st.lists(positive_reals, min_size=1, max_size=8))
@example([0.1, 1 - 2.0**-33, 2.0**-40, 3.7, 2.0**-32, 1e-300, 5e-324])
def test_any_multipliers_are_the_31_bit_neighbours_of_their_reals(values):
    made = Multiplier.from_real(values)
    assert made.m.dtype == made.shift.dtype == np.int64 and made.real.dtype == np.float64
    assert made.real.tolist() == values
    assert list(zip(made.m.tolist(), made.shift.tolist())) == [oracle.fixed_point(value) for value in values]


@pytest.mark.parametrize("real", [2, np.uint64(2), np.float16(2), np.float32(0.1), np.array(2.0)])
def test_a_number_of_any_real_dtype_keeps_its_own_value(real):
    made = Multiplier.from_real(real)
    assert float(made.real) == float(real) and made.real.dtype == np.float64
    assert (int(made.m), int(made.shift)) == oracle.fixed_point(float(real))


def test_a_multiplier_is_a_read_only_copy():
    source = np.array([0.5, 0.25])
    made = Multiplier.from_real(source)
    source[:] = 1
    assert made.real.tolist() == [0.5, 0.25] and source.flags.writeable
    assert not any(array.flags.writeable for array in (made.real, made.m, made.shift))


@pytest.mark.parametrize("axis, ndim, shape", [(0, 1, (3,)), (1, 2, (1, 3)), (-1, 3, (1, 1, 3)), (-3, 3, (3, 1, 1))])
def test_along_shapes_the_same_multipliers_for_one_axis(axis, ndim, shape):
    made = Multiplier.from_real([0.1, 0.2, 0.3])
    shaped = made.along(axis, ndim)
    for name in ("real", "m", "shift"):
        after = getattr(shaped, name)
        assert after.shape == shape and after.ravel().tolist() == getattr(made, name).tolist()
    assert Multiplier.from_real(0.1).along(axis, ndim).m.shape == ()


# --- whole arrays ---------------------------------------------------------------------------------------

def test_products_that_float32_does_not_hold_saturate():
    for x, code in ((2**62, 127), (-2**62, -128), (0, 0)):
        assert requantize(x, Multiplier.from_real(2.0**94), IntFormat(8), "exact_half_even") == code


def test_single_round_is_the_default():
    sums = np.array([-5, -3, -1, 1, 3, 5])
    assert requantize(sums, Multiplier.from_real(0.5), IntFormat(8)).tolist() == [-2, -1, 0, 1, 2, 3]


@pytest.mark.parametrize("dialect", [*DIALECTS, "m31,merged,half_even,half_down,after,saturate",
                                     "m7,saturate,half_up,half_toward_zero,before,saturate"])
@pytest.mark.parametrize("fmt, zero_point", [(IntFormat(8), -128), (IntFormat(4, False), 3), (IntFormat(16), 7)])
def test_floats_decide_what_the_definition_decides(dialect, fmt, zero_point, monkeypatch):
    monkeypatch.setattr(fast_requantization, "_BLOCK", 1 << 13)  # several blocks of a row, and of many rows
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
