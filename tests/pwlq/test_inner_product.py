"""Three sums and nine, in rationals; the errata; several sums to one code; moments."""

from __future__ import annotations

import itertools
import operator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from refquant.integers import DIALECTS, IntFormat, Multiplier
from refquant.integers.several_sums import aligned, requantize_sums, takes_several_sums, total
from refquant.pwlq import VARIANTS, PiecewiseCodes, dequantize, inner_product, match_weight_moments, quantize
from refquant.pwlq.inner_product import component_values, sums
from refquant.pwlq.quantizer import grid_of

SEVERAL = [name for name in DIALECTS if takes_several_sums(name)]
EIGHT = IntFormat(8)


# --- several sums to one code ------------------------------------------------------------------------------------


sums_of_two = st.tuples(*[st.integers(-2**31, 2**31) | st.integers(-300, 300)] * 2)
reals = st.floats(2.0**-20, 2.0**10) | st.floats(2.0**-4, 0.5)


@given(st.lists(st.tuples(sums_of_two, reals), min_size=1, max_size=9), st.sampled_from(SEVERAL),
       st.integers(-128, 127))
@example([((1, 1), 0.5), ((4, 3), 0.25)], "exact_half_even", 0)  # exact ties
@example([((-1, 1), 0.5), ((0, 0), 0.25)], "exact_half_even", 1)
@example([((1, 1), 0.5), ((4, 0), 0.25)], "zero_point_first", 1)
@example([((3, 40), 0.3)], "zero_point_first", 5)
@example([((1, -1), 0.1), ((1, -1), 0.2), ((1, -1), 0.2)], "exact_half_even", 0)  # just above one in rationals
# In float64 the sum is below 1/2, by more than its last place: large products cancel.
@example([((1731270114, 0), 0.1), ((-577090038, 0), 0.3), ((1, 0), 0.49999999179451654)], "exact_half_even", 0)
def test_the_code_is_the_sum_of_products_rounded_once(pairs, dialect, zero_point):
    """In Python's integers and rationals; products that could leave int64 are refused."""
    multipliers = aligned([real for _, real in pairs])
    shift = int(multipliers[0].shift)
    largest = max(real for _, real in pairs)
    assert [int(M.shift) for M in multipliers] == [int(Multiplier.from_real(largest).shift)] * len(pairs)
    for (_, real), M in zip(pairs, multipliers):
        exact = Fraction(real) * Fraction(2) ** (31 - shift)
        assert abs(int(M.m) - exact) <= Fraction(1, 2)
    in_integers = dialect in ("single_round", "shift_floor")
    assume(not in_integers or sum(max(map(abs, two)) * int(M.m) for (two, _), M in zip(pairs, multipliers)) < 2**63)
    found = requantize_sums([np.array(two) for two, _ in pairs], multipliers, EIGHT, dialect, zero_point)
    for place in (0, 1):
        if in_integers:
            exact = sum(two[place] * int(M.m) for (two, _), M in zip(pairs, multipliers))
            half = 2 ** (30 - shift) if dialect == "single_round" else 0
            code = (exact + half) // 2 ** (31 - shift) + zero_point
        else:
            exact = sum(two[place] * Fraction(real) for two, real in pairs)
            code = round(exact + zero_point) if dialect == "zero_point_first" else round(exact) + zero_point
        assert found[place] == min(max(code, -128), 127)


def test_products_of_several_sums_reach_up_to_2_63_on_both_sides_and_per_channel():
    halves = aligned([[0.5, 0.25], [0.5, 0.5]])  # the shift is each channel's own
    assert [M.shift.tolist() for M in halves] == [[0, 0]] * 2 and halves[0].m.tolist() == [2**30, 2**29]
    assert [M.shift.tolist() for M in aligned([[0.5, 8.0]])] == [[0, 4]]
    for most in (2**33 - 1, 1 - 2**33):
        assert total([np.array([most // 2, 1]), np.array([most - most // 2, 1])], halves).tolist() == [
            most * 2**30, 2**30 + 2**29]
        assert total([np.int64(most), np.int64(0)], halves).tolist() == [most * 2**30, most * 2**29]
        with pytest.raises(ValueError, match=r"stay below 2\^63 together, got up to 9223372036854775808$"):
            total([np.int64(most), np.int64(most // abs(most))], halves)


def test_the_shift_is_that_of_the_largest_multiplier_however_small():
    for reals in ([1.3 * 2.0**-30, 2.0**-33], [2.0**-20, 2.0**-40]):
        for M, real in zip(aligned(reals), reals):
            assert int(M.shift) == int(Multiplier.from_real(reals[0]).shift)
            assert int(M.m) == round(Fraction(real) * Fraction(2) ** (31 - int(M.shift)))
    assert requantize_sums([np.array([100, -100], np.int8), np.array([1, 1], np.int8)], aligned([0.5, 0.25]),
                           EIGHT).tolist() == [50, -50]


def test_the_code_of_several_sums_wraps_where_the_dialect_says_so():
    assert requantize_sums([np.int64(300)], aligned([0.5]), EIGHT, "m31,merged,none,half_up,after,wrap", 1) == -105
    assert requantize_sums([np.int64(300)], aligned([0.5]), EIGHT) == 127
    assert requantize_sums([np.int64(3)], aligned([2.0**29]), IntFormat(33)) == 3 * 2**29  # the widest, at shift 30
    wraps = "real,merged,none,half_even,after,wrap"
    for far in (2**41 + 4, 2**52 + 1, 2**62 + 3, -2**62 - 3):  # beyond float64 and int64 too
        for real in (0.5, 1.0, 1024.0):
            code = (round(far * Fraction(real) + 7) + 1 + 128) % 256 - 128
            assert requantize_sums([np.int64(far), np.int64(14)], aligned([real, 0.5]), EIGHT, wraps, 1) == code


def test_far_sums_saturate_on_their_side_cancel_and_none_give_none():
    for a, b, real, code in ((2**62, 1, 1e300, 127), (-2**62, 1, 1e300, -128), (2**62, -2**62, 1e300, 5),
                             (2**62, 1 - 2**62, 1e300, 127), (2**62, 1 - 2**62, 1.5, 7), (2**62, 2**61, 1.5, 127)):
        found = requantize_sums([np.int64(a), np.int64(b)], aligned([real, real]), EIGHT, "exact_half_even", 5)
        assert found == code and found.dtype == np.int8
    for dialect in SEVERAL:
        assert requantize_sums([np.zeros((0, 2), int)] * 2, aligned([0.5, 0.25]), EIGHT, dialect).shape == (0, 2)
        assert requantize_sums([np.int64(0)], aligned([0.5]), EIGHT, dialect) == 0


def test_the_zero_point_is_added_before_the_rounding_where_the_dialect_says_so():
    for zero, code in (("after", 1), ("before", 2)):  # 0.5 and 1.5 to even
        assert requantize_sums([np.int64(1)], aligned([0.5]), EIGHT, f"m31,merged,none,half_even,{zero}", 1) == code


# --- inner products ----------------------------------------------------------------------------------------------


@st.composite
def operands(draw: st.DrawFn):
    n = draw(st.integers(1, 8))
    values = arrays_of(draw, n)
    m = draw(st.integers(2, 64))
    grid = grid_of(draw(st.integers(1, m - 1)) / 16, m / 16, draw(st.integers(2, 5)), draw(st.sampled_from(VARIANTS)))
    return quantize(values, grid), grid


def arrays_of(draw: st.DrawFn, n: int) -> np.ndarray:
    return np.array(draw(st.lists(st.integers(-70, 70), min_size=n, max_size=n))) / 16


@given(operands(), st.data())
def test_three_and_nine_sums_give_the_product_of_the_decoded_operands(operand, data):
    codes, grid = operand
    n = len(codes.sign)
    x_q = np.array(data.draw(st.lists(st.integers(-127, 127), min_size=n, max_size=n)))
    other_grid = grid_of(0.75, 3.0, 4, data.draw(st.sampled_from(VARIANTS)), data.draw(st.booleans()))
    other = quantize(arrays_of(data.draw, n), other_grid)
    for x, x_scale, values, reals in (
            (x_q, 8.0, (0.125,), x_q * 0.125),
            (other, other_grid, component_values(other_grid), dequantize(other, other_grid))):
        exact = float(reals @ dequantize(codes, grid))
        worth = [float(xv) * float(wv) for xv, wv in itertools.product(values, component_values(grid))]
        assert sum(map(operator.mul, sums(x, codes), worth)) == pytest.approx(exact, rel=1e-9, abs=1e-9)
        for dialect in SEVERAL:
            code = inner_product(x, codes, grid, x_scale, 3.7, IntFormat(16), dialect)
            assert (-1 if dialect == "shift_floor" else -0.5) - 1e-4 <= code - exact * 3.7 <= 0.5 + 1e-4


def test_erratum_the_third_sum_has_the_weights_signs():
    """Printed: P3 = Σ x_q over R2. With a negative weight in R2 that misses by twice the breakpoint times x."""
    grid = grid_of(1.0, 4.0, 3)
    w = quantize(np.array([-2.0, 3.0]), grid)
    x_q = np.array([10, 4])
    p1, p2, p3 = sums(x_q, w)
    step1, step2, offset = component_values(grid)
    true = float(x_q @ dequantize(w, grid))
    assert p1 * step1 + p2 * step2 + p3 * offset == true == -8.0
    printed = int(x_q[w.region == 1].sum())
    assert p1 * step1 + p2 * step2 + printed * offset == true + 2 * 10 * 1.0


def test_erratum_six_accumulators_do_not_do():
    """Two activations whose products and Σ±x_q, six sums, are all 0, with different inner products.

    One is the magnitude 0 of R1, the other the magnitude 0 of R2, which is p: only Σ±w_q and Σ±1 over the
    activation's region tell, and that region is known at run time alone.
    """
    grid = grid_of(1.0, 4.0, 3)
    w = quantize(np.array([3.0]), grid)
    none, one = (PiecewiseCodes(np.array([region]), np.array([1]), np.array([0])) for region in (0, 1))
    six = [[sums(x, w)[k] for k in (0, 1, 3, 4, 2, 5)] for x in (none, one)]
    assert six == [[0] * 6] * 2
    assert sums(none, w) == [0] * 9 and sums(one, w) == [0] * 7 + [2, 1]
    assert (dequantize(none, grid) @ dequantize(w, grid), dequantize(one, grid) @ dequantize(w, grid)) == (0.0, 3.0)


# --- moments -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(2, 50), st.integers(2, 5))
def test_matched_weights_have_the_mean_and_deviation_of_the_originals(seed, size, bits):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((3, size)) * [[1.0], [0.01], [5.0]] + [[0.0], [0.02], [1.0]]
    m = np.abs(w).max(axis=1)
    grid = grid_of(m / 2, m, bits)
    found = dequantize(quantize(w, grid, axis=0), grid, axis=0)
    gain, offset = match_weight_moments(w, found)
    matched = gain[:, None] * found + offset[:, None]
    assert matched.mean(axis=1) == pytest.approx(w.mean(axis=1), abs=1e-12)
    spread = found.std(axis=1) > 1e-9
    assert matched.std(axis=1)[spread] == pytest.approx(w.std(axis=1)[spread], rel=1e-9)
    assert (gain[~spread] == 1).all()


def test_constant_and_zero_channels_keep_their_gain():
    gain, offset = match_weight_moments(np.array([[2.0, 2.0], [0.0, 0.0], [1.0, 3.0]]),
                                        np.array([[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]))
    assert gain.tolist() == [1.0, 1.0, 1.0] and offset.tolist() == [1.0, 0.0, 0.0]
