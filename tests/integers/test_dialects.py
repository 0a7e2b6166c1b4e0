"""The nine requantization dialects, integer and simulated, against an oracle of integers and exact rationals."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import dialects_oracle as oracle
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from refquant import quantize_network
from refquant.convolution.geometry import Geometry
from refquant.integers.devices import dialect_of
from refquant.integers.dialects import DIALECTS
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.network import graph
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.program import QuantizedAdd, QuantizedConv, Term
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import QuantParams
from refquant.network.simulated_forward import run_simulated_tensors
from refquant.network.simulated_scaling import scale_by
from refquant.network.storage import load_quantized, quantized_to_bytes
from refquant.recipes.settings import ACTIVATIONS, GRANULARITIES
from refquant.strategies import images, networks

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT8, UINT8, INT4_NARROW = IntFormat(8), IntFormat(8, signed=False), IntFormat(4, narrow=True)
INT16, INT32 = IntFormat(16), IntFormat(32)
FORMATS = (INT8, UINT8, INT4_NARROW, INT16, INT32)

all_nine = pytest.mark.parametrize("name", oracle.NAMES)
all_that_shift = pytest.mark.parametrize("name", oracle.GREATEST_SHIFT)
all_that_read_reals = pytest.mark.parametrize("name", [n for n in oracle.NAMES if n not in oracle.GREATEST_SHIFT])


def by_hand(m: int, s: int) -> Multiplier:
    """The multiplier (m, s), its real value m·2^(s-31)."""
    return Multiplier(math.ldexp(m, s - 31), m, s)


def wholes(name: str, sums: list[int], multiplier: Multiplier, zero_point: int = 0) -> list[int]:
    """The oracle's values before the zero point, for one multiplier."""
    real, m, s = multiplier.real.item(), int(multiplier.m), int(multiplier.shift)
    return [oracle.whole(name, x, real, m, s, zero_point) for x in sums]


def codes(values: list[int], fmt: IntFormat, zero_point: int = 0) -> list[int]:
    return [oracle.clamp(value + zero_point, fmt.min, fmt.max) for value in values]


def simulated(name: str, sums: list[int] | np.ndarray, multiplier: Multiplier, zero_point: int = 0) -> np.ndarray:
    """What ``scale_by`` gives, clipped to int32: beyond it every code saturates."""
    found = scale_by(np.array(sums, np.float64), multiplier, name, zero_point)
    assert found.dtype == np.float64
    clipped = np.clip(found, INT32_MIN, INT32_MAX)
    assert np.array_equal(clipped, np.rint(clipped))
    return clipped.astype(np.int64)


def compare(name: str, sums: list[int], multiplier: Multiplier, formats: tuple[IntFormat, ...] = FORMATS,
            zero_points: tuple[int, ...] = (0, 1)) -> None:
    """Integer and simulated path against the oracle, at every format and zero point."""
    acc = np.array(sums, np.int32)
    for zero_point in zero_points:
        expected = wholes(name, sums, multiplier, zero_point)
        case = name, multiplier.real.item(), zero_point
        assert simulated(name, sums, multiplier, zero_point).tolist() == codes(expected, INT32), case
        for fmt in formats:
            if fmt.min <= zero_point <= fmt.max:
                got = requantize(acc, multiplier, fmt, name, zero_point)
                assert got.dtype == fmt.dtype
                assert got.tolist() == codes(expected, fmt, zero_point), (case, fmt)


# --- the table by hand ----------------------------------------------------------------------------------------

F32 = np.float32
# number: (x, M, zero point, (m, s), the nine codes in the order of the columns A to I, zero point included)
ROWS = {
    1: (1, 1 / 4, 0, (2**30, -1), (1, 1, 0, 0, 0, 0, 0, 0, 0)),
    2: (-2, 1 / 4, 1, (2**30, -1), (0, 1, 1, 1, 0, 1, 0, 1, 0)),
    3: (-3, 1 / 4, 0, (2**30, -1), (-1, 0, -1, -1, -1, -1, -1, -1, -1)),
    4: (5, 1 / 2, 1, (2**30, 0), (4, 4, 4, 3, 4, 4, 3, 3, 4)),
    5: (25, float(F32(0.1)), 0, (1717986944, -3), (3, 3, 3, 2, 3, 2, 2, 3, 3)),
    6: (-5, float(F32(0.7)), 0, (1503238528, 0), (-3, -3, -3, -4, -4, -4, -4, -3, -3)),
    7: (1, 1 / 2, 0, (2**30, 0), (1, 1, 1, 0, 1, 1, 0, 0, 0)),
}
CORNERS = {
    # -1/2: double rounding reaches -2^30 exactly, and then ties away from zero.
    "least sum, least multiplier": (INT32_MIN, 2.0**-32, 0, (2**30, -31), (-1, 0, 0, 0, -1, 0, -1, 0, 0)),
    "float32 loses the low bit": (2**24 + 1, 1.0, 0, (2**30, 1), tuple(2**24 + (n not in "DE") for n in "ABCDEFGHI")),
    "16-bit multipliers saturate": (100000, 1 - 2.0**-31, 0, (2**31 - 1, 0), (100000,) * 5 + (99997, 99999)
                                    + (100000,) * 2),
    # 2^30·2^2 leaves int32 before it is multiplied; the true product, 2^31, saturates.
    "the left shift wraps": (2**30, 2.0, 0, (2**30, 2), (0, 0) + (INT32_MAX,) * 7),
}
CASES = {**{f"row {n}": row for n, row in ROWS.items()}, **CORNERS}
COLUMNS = ("x", "real", "zero_point", "fixed", "row")
all_cases = pytest.mark.parametrize(COLUMNS, CASES.values(), ids=CASES)


@all_cases
def test_the_oracle_gives_the_published_codes(x, real, zero_point, fixed, row):
    """The oracle is a reference, so it is itself checked by hand-worked values."""
    assert oracle.fixed_point(real) == fixed
    assert tuple(oracle.clamp(oracle.whole(name, x, real, *fixed, zero_point) + zero_point, INT32_MIN, INT32_MAX)
                 for name in oracle.NAMES) == row


@all_cases
def test_requantization_gives_the_published_codes(x, real, zero_point, fixed, row):
    made = Multiplier.from_real(real)
    assert (int(made.m), int(made.shift)) == fixed
    got = [requantize(np.array([x]), made, INT32, name, zero_point) for name in oracle.NAMES]
    assert all(code.dtype == np.int32 for code in got)
    assert tuple(code.item() for code in got) == row


@all_cases
def test_simulated_rounding_gives_the_published_codes(x, real, zero_point, fixed, row):
    made = Multiplier.from_real(real)
    got = [simulated(name, [x], made, zero_point).item() + zero_point for name in oracle.NAMES]
    assert tuple(oracle.clamp(code, INT32_MIN, INT32_MAX) for code in got) == row


@pytest.mark.parametrize(COLUMNS, list(CASES.values())[:-1], ids=list(CASES)[:-1])  # the last wraps: refused
@all_nine
def test_a_network_of_one_weight_gives_the_published_codes_both_ways(name, x, real, zero_point, fixed, row):
    network = network_of_one_weight(name, x, real, zero_point)
    for run in (run_integer_tensors, run_simulated_tensors):
        assert run(network, np.full((1, 1, 1, 1), x))["y"].item() == row[oracle.NAMES.index(name)]


def network_of_one_weight(name: str, x: int, real: float, zero_point: int) -> QuantizedNetwork:
    """y = 1·x, the input no wider than x needs."""
    bits = (x if x >= 0 else ~x).bit_length() + 1
    weight = Term(np.ones((1, 1, 1, 1), int), INT8, Multiplier.from_real(real))
    layer = QuantizedConv("y", ("x",), "y", INT32.min, INT32.max, (weight,))
    qparams = {"x": QuantParams(1.0, IntFormat(bits)), "y": QuantParams(1.0, INT32, zero_point)}
    return QuantizedNetwork("x", "y", (1, 1, 1), (layer,), qparams, name)


@pytest.mark.parametrize("name", ["gemmlowp_double", "neon_double"])
def test_a_network_whose_sums_would_wrap_when_shifted_left_is_refused(name):
    message = f"^layer 'y': {name} shifts a sum left to .* which does not fit int32$"
    for x, real in ((2**30 - 1, 2.0), (2**30, 1.0), (-(2**30) - 1, 1.0), (127, 2.0**24)):
        with pytest.raises(ValueError, match=message):
            network_of_one_weight(name, x, real, 0)
    for x, real, code in ((2**30 - 1, 1.0, 2**30 - 1), (-(2**30), 1.0, -(2**30)), (127, 2.0**23, 127 * 2**23)):
        network = network_of_one_weight(name, x, real, 0)
        for run in (run_integer_tensors, run_simulated_tensors):
            assert run(network, np.full((1, 1, 1, 1), x))["y"].item() == code


def test_rows_1_2_6_and_7_alone_tell_all_nine_apart():
    columns = {name: tuple(requantize([x], Multiplier.from_real(real), INT8, name, zero_point).item()
                           for x, real, zero_point, *_ in (ROWS[n] for n in (1, 2, 6, 7)))
               for name in DIALECTS}
    assert len(columns) == 9
    for one, other in itertools.combinations(columns, 2):
        assert columns[one] != columns[other], (one, other)


@pytest.mark.parametrize("left_out", [1, 2, 6, 7])
def test_none_of_these_four_rows_can_be_left_out(left_out):
    kept = [ROWS[n][4] for n in (1, 2, 6, 7) if n != left_out]
    assert len(set(zip(*kept))) < 9


def test_the_nine_are_those_of_the_table_in_its_order():
    assert DIALECTS == oracle.NAMES


def test_one_in_seven_random_sums_tells_double_from_single_rounding_at_small_right_shifts():
    rng = np.random.default_rng(1)
    acc, m, s = rng.integers(-(2**20), 2**20, 50000), rng.integers(2**30, 2**31, 50000), rng.integers(-3, 0, 50000)
    many = Multiplier(np.ldexp(m.astype(float), s - 31), m, s)
    twice, once = (requantize(acc, many, INT32, name) for name in ("gemmlowp_double", "single_round"))
    assert 0.140 < np.mean(twice != once) < 0.150


@given(st.integers(-(2**70), 2**70), st.integers(-180, 60))
@example(2**24 - 1, -150)  # subnormal: half of the last place
@example(3, -150)
@example(1, -150)  # ties to 0
@example(2**25 + 1, 0)  # below a tie
@example(2**24 + 1, 0)  # a tie, to the even significand
@example(2**24 + 3, 0)
def test_the_oracles_float32_is_ieees(integer, exponent):
    exact = Fraction(integer) * oracle.power(exponent)
    as_double = integer / 1 if abs(integer) < 2**53 else None
    assume(as_double is not None and abs(exact) < 2**127)
    assert oracle.float32(exact) == Fraction(float(F32(math.ldexp(as_double, exponent))))


# --- every shift, every kind of sum ---------------------------------------------------------------------------

# Both ends, a power of two, ones that a 16-bit multiplier rounds down, at the tie, and saturates.
MANTISSAS = (2**30, 2**30 + 1, 3 * 2**29, 1717986944, 0x5A5A7FFF, 0x5A5A8000, 0x7FFE7FFF, 0x7FFE8000, 0x7FFEFFFF,
             0x7FFF0000, 0x7FFF7FFF, 0x7FFF8000, 2**31 - 1)


@cache
def hard_sums(m: int, s: int) -> tuple[int, ...]:
    """The ends of int32, numbers near zero and near what float32 holds, sums whose product ties or nearly does."""
    sums = {INT32_MIN, INT32_MIN + 1, INT32_MAX, INT32_MAX - 1, 0, 1, -1, 2, -2}
    sums |= {sign * (2**k + d) for k in (24, 25, 30) for sign in (-1, 1) for d in (-1, 1, 3)}
    for n in (-129, -3, -2, -1, 0, 1, 2, 126, 1000):
        near = (2 * n + 1) * 2 ** (30 - s) // m  # (n + 1/2)·2^(31-s) / m
        sums |= {near - 1, near, near + 1}
    rng = np.random.default_rng(m % 9973 + 100 + s)
    sums |= set(rng.integers(INT32_MIN, INT32_MAX, 3, endpoint=True).tolist())
    sums |= set(rng.integers(-(2**16), 2**16, 3).tolist())
    return tuple(sorted(x for x in sums if INT32_MIN <= x <= INT32_MAX))


@all_nine
def test_every_legal_shift_equals_the_oracle(name):
    for s in range(-31, oracle.GREATEST_SHIFT.get(name, 30) + 1):
        for index, m in enumerate(MANTISSAS):
            # One narrow format a time, and int32, where the low bits of large products show.
            formats = (FORMATS[(index + s) % 4], INT32)
            compare(name, list(hard_sums(m, s)), by_hand(m, s), formats, ((index + s) % 2,))


@all_that_shift
def test_fixed_point_dialects_read_m_and_shift_and_not_the_real_value(name):
    misleading = Multiplier(1000.0, 3 * 2**29, -2)
    compare(name, list(hard_sums(3 * 2**29, -2)), misleading)
    sums = np.array([-100, 100])
    assert requantize(sums, misleading, INT16, name).tolist() == wholes(name, [-100, 100], by_hand(3 * 2**29, -2))


@all_that_read_reals
def test_the_others_read_the_real_value_and_not_m_and_shift(name):
    misleading = Multiplier(0.1875, 2**31 - 1, 20)
    sums = list(hard_sums(3 * 2**29, -2))
    compare(name, sums, misleading)
    assert requantize(sums, misleading, INT32, name).tolist() == wholes(name, sums, Multiplier.from_real(0.1875))


@all_nine
@pytest.mark.parametrize("s", range(-30, 1, 3))
def test_ties_of_either_sign_and_parity_equal_the_oracle(name, s):
    """x = (2n + 1)·2^-s times M = 2^(s-1) is exactly n + 1/2."""
    sums = [(2 * n + 1) * 2**-s for n in (*range(-6, 6), 126, 127, -128, -129, 2**20, -(2**20))]
    sums = [x for x in sums if INT32_MIN <= x <= INT32_MAX]
    assert {2**-s, -(2**-s)} <= set(sums)
    compare(name, sums, by_hand(2**30, s), zero_points=(0, 1, -1, 2, -8, 7, 255, -128, 4660, 4661))


def tie_breaks(name: str, zero_point: int = 0) -> list[int]:
    """The codes without zero point of -5/2, -3/2, -1/2, 1/2, 3/2, 5/2."""
    found = requantize([-5, -3, -1, 1, 3, 5], Multiplier.from_real(0.5), INT8, name, zero_point)
    return (found.astype(int) - zero_point).tolist()


@pytest.mark.parametrize("zero_point", [0, 1, -1, 2, -128, 127])
def test_where_ties_go_in_each_dialect(zero_point):
    up, away, even = [-2, -1, 0, 1, 2, 3], [-3, -2, -1, 1, 2, 3], [-2, -2, 0, 0, 2, 2]
    odd = [-3, -1, -1, 1, 1, 3]
    expected = {"gemmlowp_double": up, "neon_double": up, "single_round": up, "float32_half_even": even,
                "float32_half_away": away, "multiplier16": up, "shift_floor": [-3, -2, -1, 0, 1, 2],
                "exact_half_even": even, "zero_point_first": odd if zero_point % 2 else even}
    assert expected.keys() == set(DIALECTS)
    for name, ties in expected.items():
        assert tie_breaks(name, zero_point) == [oracle.clamp(t + zero_point, -128, 127) - zero_point for t in ties]


def test_ties_in_the_second_of_two_roundings():
    """Sums ±2, ±6, ±10 at M = 1/4: SRDHM gives ±1, ±3, ±5 exactly, and halving that ties."""
    sums, quarter = [-10, -6, -2, 2, 6, 10], Multiplier.from_real(0.25)
    assert requantize(sums, quarter, INT8, "gemmlowp_double").tolist() == [-3, -2, -1, 1, 2, 3]
    assert requantize(sums, quarter, INT8, "neon_double").tolist() == [-2, -1, 0, 1, 2, 3]


# Reals whose product with x is a tie but for the last bits of float64, or of float32: x·M, rounded, is a tie.
@cache
def near_ties(significand_bits: int) -> tuple[tuple[int, float], ...]:
    rng = np.random.default_rng(significand_bits)
    found = []
    for x in (*rng.integers(3, 2**20, 60).tolist(), 3, 5, 7, 2**24 - 1, 2**24 + 1, INT32_MAX, INT32_MIN):
        for n in (0, 1, 2, -1, -2, -3, 126, 127, 1001):
            real = abs(Fraction(2 * n + 1, 2 * x))
            unit = oracle.power(math.frexp(real)[1] - significand_bits)
            nearest = round(real / unit)
            found += [(x * sign, float(k * unit)) for k in (nearest - 1, nearest, nearest + 1) for sign in (-1, 1)]
    return tuple((x, real) for x, real in found if INT32_MIN <= x <= INT32_MAX)


@all_nine
@pytest.mark.parametrize("bits", [53, 24])
def test_products_a_last_place_beside_a_tie_equal_the_oracle(name, bits):
    cases = near_ties(bits)
    dtype = np.float64 if bits == 53 else np.float32
    hidden = sum(2 * Fraction(x) * Fraction(real) % 2 != 1 and float(dtype(x) * dtype(real)) % 1 == 0.5
                 for x, real in cases)
    assert hidden > 500, "products that only seem to tie, once rounded"
    acc, many = np.array([x for x, _ in cases]), Multiplier.from_real([real for _, real in cases])
    for zero_point in (0, 1):
        expected = [oracle.whole(name, x, real, *oracle.fixed_point(real), zero_point) for x, real in cases]
        assert simulated(name, acc, many, zero_point).tolist() == codes(expected, INT32)
        got = requantize(acc, many, INT32, name, zero_point)
        assert got.dtype == np.int32 and got.tolist() == codes(expected, INT32, zero_point)


sums_anywhere = st.integers(INT32_MIN, INT32_MAX) | st.integers(-(2**12), 2**12) | st.sampled_from(
    [INT32_MIN, INT32_MAX, 2**24 + 1, -(2**24) - 1])


@all_nine
@given(data=st.data())
def test_any_sums_at_any_real_multiplier_equal_the_oracle(name, data):
    top = 2.0 ** oracle.GREATEST_SHIFT.get(name, 60) * 0.9999
    made = Multiplier.from_real(data.draw(st.floats(5e-324, top) | st.floats(2.0**-20, 2.0)))
    sums = data.draw(st.lists(sums_anywhere, min_size=1, max_size=8))
    fmt = data.draw(st.sampled_from(FORMATS))
    zero_point = data.draw(st.integers(fmt.min, fmt.max))
    compare(name, sums, made, (fmt,), (zero_point,))


@all_nine
@given(data=st.data())
def test_any_sums_at_any_fixed_point_multiplier_equal_the_oracle(name, data):
    m = data.draw(st.integers(2**30, 2**31 - 1) | st.sampled_from(MANTISSAS))
    s = data.draw(st.integers(-31, oracle.GREATEST_SHIFT.get(name, 30)))
    sums = data.draw(st.lists(sums_anywhere, min_size=1, max_size=8))
    fmt = data.draw(st.sampled_from(FORMATS))
    compare(name, sums, by_hand(m, s), (fmt,), (data.draw(st.integers(fmt.min, fmt.max)),))


@all_nine
def test_a_multiplier_below_every_shift_gives_the_zero_point(name):
    for real in (2.0**-33, 2.0**-60, 2.0**-149, 2.0**-160, 5e-324):
        compare(name, [INT32_MIN, -1, 0, 1, INT32_MAX], Multiplier.from_real(real))
        got = requantize([-(2**30), 0, 2**30], Multiplier.from_real(real), INT8, name, 5)
        # A negative product however small has floor -1, but a multiplier that vanished is exactly 0.
        assert got.tolist() == [5, 5, 5]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@all_nine
def test_the_zero_point_is_added_before_clamping(name, fmt):
    made = by_hand(3 * 2**29, -1)
    sums = [INT32_MIN, -70000, -300, -8, -4, -3, -1, 0, 1, 2, 3, 4, 8, 300, 70000, INT32_MAX]
    zero_points = {fmt.min, fmt.min + 1, -1, 0, 1, 2, fmt.max - 1, fmt.max}
    compare(name, sums, made, (fmt,), tuple(z for z in sorted(zero_points) if fmt.min <= z <= fmt.max))


@pytest.mark.parametrize("kind", [int, np.int8, np.uint8, np.int16, np.int64, np.uint64])
@all_nine
def test_zero_points_of_any_integer_type_count_the_same(name, kind):
    sums, made = [INT32_MIN, -5, -3, 0, 1, 3, 5, INT32_MAX], Multiplier.from_real(0.5)
    got = requantize(sums, made, UINT8, name, kind(101))
    assert got.dtype == np.uint8 and got.tolist() == codes(wholes(name, sums, made, 101), UINT8, 101)


# --- products beyond what the machine's floats hold -----------------------------------------------------------

@pytest.mark.parametrize("name", ["float32_half_even", "float32_half_away"])
@pytest.mark.parametrize("path", ["integer", "simulated"])
def test_products_beyond_float32_saturate_without_a_warning(name, path):
    huge = Multiplier.from_real(float(np.finfo(F32).max))
    sums = [INT32_MIN, -2, -1, 0, 1, 2, INT32_MAX]
    expected = [INT32_MIN] * 3 + [0] + [INT32_MAX] * 3
    got = requantize(sums, huge, INT32, name) if path == "integer" else simulated(name, sums, huge)
    assert got.tolist() == expected


@pytest.mark.parametrize("name", ["exact_half_even", "zero_point_first"])
@pytest.mark.parametrize("path", ["integer", "simulated"])
def test_products_beyond_float64_saturate_without_a_warning(name, path):
    huge = Multiplier.from_real(1.7e308)
    sums = [INT32_MIN, -2, -1, 0, 1, 2, INT32_MAX]
    expected = [INT32_MIN] * 3 + [0] + [INT32_MAX] * 3
    for zero_point in (0, 1):
        got = (requantize(sums, huge, INT32, name) if path == "integer"
               else simulated(name, sums, huge, zero_point))
        assert got.tolist() == expected


# --- shapes, layouts and blocks -------------------------------------------------------------------------------

# A block of the work holds 2^15 elements.
BLOCK = 2**15
CHANNEL_REALS = (0.0031, 2.0**-7, 0.00477, 1.5 * 2.0**-9, 0.0102)
POOL = (INT32_MIN, -40000, -30001, -192, -64, -63, -1, 0, 1, 64, 192, 300, 320, 4095, 29999, 2**24 + 1, INT32_MAX)


@cache
def pool_codes(name: str, zero_point: int) -> np.ndarray:
    """The oracle's int8 codes of every sum of POOL, per channel of CHANNEL_REALS."""
    return np.array([codes(wholes(name, list(POOL), Multiplier.from_real(real), zero_point), INT8, zero_point)
                     for real in CHANNEL_REALS], np.int8)


def random_sums(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(which of POOL, those sums): any block that is displaced or left out shows."""
    picks = np.random.default_rng(math.prod(shape)).integers(0, len(POOL), shape)
    return picks, np.array(POOL, np.int32)[picks]


def channelwise(shape: tuple[int, ...], axis: int | None) -> tuple[Multiplier, np.ndarray]:
    """A multiplier for sums of ``shape``, and for every element the index of its channel's real."""
    if axis is None:
        return Multiplier.from_real(CHANNEL_REALS[0]), np.zeros(shape, int)
    channels = np.arange(shape[axis]) % len(CHANNEL_REALS)
    spread = [1] * len(shape)
    spread[axis] = -1
    made = Multiplier.from_real(np.array(CHANNEL_REALS)[channels]).along(axis, len(shape))
    return made, np.broadcast_to(channels.reshape(spread), shape)


SHAPES = [((BLOCK - 1,), None), ((BLOCK,), None), ((BLOCK + 1,), None), ((2 * BLOCK + 3,), None),
          ((2, BLOCK - 1), 0), ((2, BLOCK), 0), ((3, BLOCK + 1), 0), ((3, BLOCK // 2), 0), ((5, BLOCK // 2 + 1), 0),
          ((4, BLOCK // 3), 0), ((1, 5, 90, 91), 1), ((2, 3, 60, 101), 1), ((BLOCK + 1, 1), 0), ((BLOCK - 1, 2), 1),
          ((40, 3, 300), 2), ((3, 1, BLOCK + 7), 1)]


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@all_nine
def test_arrays_around_the_size_of_a_block_are_the_same_as_element_by_element(name, shape, axis):
    picks, acc = random_sums(shape)
    made, channels = channelwise(shape, axis)
    got = requantize(acc, made, INT8, name, -3)
    assert got.dtype == np.int8 and got.shape == shape
    assert np.array_equal(got, pool_codes(name, -3)[channels, picks])
    assert np.array_equal(simulated(name, acc, made, -3), expected_wholes(name, -3)[channels, picks])


@cache
def expected_wholes(name: str, zero_point: int) -> np.ndarray:
    return np.array([codes(wholes(name, list(POOL), Multiplier.from_real(real), zero_point), INT32)
                     for real in CHANNEL_REALS])


@pytest.mark.parametrize(("shape", "axis"), [((7,), 0), ((7,), -1), *(((4, 5), a) for a in range(2)),
                                             *(((3, 4, 5), a) for a in range(3)),
                                             *(((2, 3, 4, 5), a) for a in (0, 1, 2, 3, -1, -3))])
@all_nine
def test_each_channel_uses_its_own_multiplier_along_any_axis(name, shape, axis):
    picks, acc = random_sums(shape)
    made, channels = channelwise(shape, axis)
    for zero_point in (0, -3):
        got = requantize(acc, made, INT8, name, zero_point)
        assert got.dtype == np.int8 and np.array_equal(got, pool_codes(name, zero_point)[channels, picks])
        assert np.array_equal(simulated(name, acc, made, zero_point),
                              expected_wholes(name, zero_point)[channels, picks])


@all_nine
def test_one_multiplier_for_each_element_and_multipliers_along_two_axes(name):
    picks, acc = random_sums((6, 4, 5))
    for spread in ((6, 4, 5), (6, 1, 5), (1, 4, 5), (6, 4, 1), (5,), (1, 1), (1, 1, 1, 1)):
        channels = np.random.default_rng(5).integers(0, len(CHANNEL_REALS), spread)
        got = requantize(acc, Multiplier.from_real(np.array(CHANNEL_REALS)[channels]), INT8, name, 1)
        expected = pool_codes(name, 1)[np.broadcast_arrays(channels, picks)[0], picks]
        assert got.dtype == np.int8 and np.array_equal(got, expected)


@all_nine
def test_multipliers_with_more_axes_than_the_sums_spread_them(name):
    picks, acc = random_sums((9,))
    got = requantize(acc, Multiplier.from_real(np.array(CHANNEL_REALS)[:, None]), INT8, name, -3)
    assert np.array_equal(got, pool_codes(name, -3)[:, picks])


@all_nine
def test_a_single_sum_and_no_sums_keep_their_shape(name):
    made = Multiplier.from_real(CHANNEL_REALS[0])
    for x, code in zip(POOL, pool_codes(name, -3)[0].tolist()):
        for single in (x, np.int32(x), np.array(x)):
            got = requantize(single, made, INT8, name, -3)
            assert got.shape == () and got.dtype == np.int8 and got.item() == code
        assert requantize([[[x]]], made, INT8, name, -3).tolist() == [[[code]]]
    for shape in ((0,), (3, 0), (0, 3), (2, 0, 4, 5), (2, 5, 0, 4), (0, 5, 3, 3)):
        got = requantize(np.zeros(shape, np.int32), made, INT8, name, -3)
        assert got.shape == shape and got.dtype == np.int8
        if len(shape) > 2 and shape[1]:
            got = requantize(np.zeros(shape, np.int32), channelwise(shape, 1)[0], INT8, name, -3)
            assert got.shape == shape and got.dtype == np.int8


@all_nine
def test_no_channels_at_all_give_no_codes(name):
    nothing = Multiplier.from_real(np.zeros(0)).along(1, 3)
    got = requantize(np.zeros((2, 0, 4), np.int32), nothing, INT8, name)
    assert got.shape == (2, 0, 4) and got.dtype == np.int8


# --- refusals -------------------------------------------------------------------------------------------------

@all_that_shift
def test_shifts_outside_the_dialects_range_are_refused(name):
    top = oracle.GREATEST_SHIFT[name]
    for s in (top + 1, top + 2, 40, 200):
        message = rf"^{name} takes shifts from -31 to {top}, got {s}\.\.{s}$"
        with pytest.raises(ValueError, match=message):
            requantize([0], Multiplier.from_real(2.0 ** (s - 1)), INT8, name)
        with pytest.raises(ValueError, match=message):
            requantize([0], by_hand(2**30, s), INT8, name)
    for s in (-32, -33, -100):  # only by hand: from_real makes such multipliers 0
        with pytest.raises(ValueError, match=rf"^{name} takes shifts from -31 to {top}, got {s}\.\.{s}$"):
            requantize([0], by_hand(2**30, s), INT8, name)
    with pytest.raises(ValueError, match=rf"^{name} takes shifts from -31 to {top}, got -32\.\.{top + 1}$"):
        requantize([0, 0, 0], Multiplier(np.ones(3), [2**30] * 3, [-32, 0, top + 1]), INT8, name)
    for s in (-31, top):
        assert requantize([0], by_hand(2**30, s), INT8, name).tolist() == [0]


@all_that_read_reals
def test_dialects_without_shifts_take_any(name):
    for real, code in ((2.0**40, 127), (2.0**100, 127), (2.0**-40, 0)):
        assert requantize([1], Multiplier.from_real(real), INT8, name).tolist() == [code]
    assert requantize([8], Multiplier(0.5, 2**30, -32), INT8, name).tolist() == [4]


@pytest.mark.parametrize("name", ["exact_half_even", "zero_point_first"])
@pytest.mark.parametrize("x", [2**53 + 2**21 + 1, -(2**53) - 2**21 - 1, 2**53 + 2**22 + 2**21 - 1, 2**53 - 2**21])
def test_sums_that_float64_rounds_onto_a_tie_are_seen_as_exact(name, x):
    multiplier, fmt = Multiplier.from_real(2.0**-22), IntFormat(33)  # the tie is at an odd multiple of 2^21
    for sums in ([x], [0, x], [x, -1]):
        expected = [oracle.whole(name, v, 2.0**-22, 2**30, -21) for v in sums]
        assert requantize(sums, multiplier, fmt, name).tolist() == expected


@all_nine
@given(data=st.data())
def test_sums_of_up_to_64_bits_equal_the_oracle(name, data):
    """In integers; and in simulation, which holds 2^53."""
    if name in ("gemmlowp_double", "neon_double"):
        return
    x = data.draw(st.one_of(st.integers(-2**63, 2**63 - 1), st.integers(-2**36 - 3, 2**36 + 3),
                            st.sampled_from([-2**63, 2**63 - 1, 2**36, 2**36 + 1, 2**53, -2**53, 3 * 2**40])))
    m = data.draw(st.one_of(st.integers(2**30, 2**31 - 1), st.sampled_from([2**30, 3 * 2**29])))
    s = data.draw(st.integers(-31, oracle.GREATEST_SHIFT.get(name, 30)))
    multiplier, z = by_hand(m, s), data.draw(st.integers(-128, 127))
    expected = oracle.whole(name, x, float(multiplier.real), m, s, z)
    fmt = IntFormat(33)
    code = oracle.clamp(expected + z, fmt.min, fmt.max)
    assert int(requantize(x, multiplier, fmt, name, z)) == code
    if abs(x) <= 2**53:
        found = scale_by(np.array([float(x)]), multiplier, name, z)
        assert oracle.clamp(int(found[0]) + z, fmt.min, fmt.max) == code


# --- whole networks -------------------------------------------------------------------------------------------

def both_ways(network: QuantizedNetwork, x_q: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of the integer run, after checking that the simulated run gives the same codes."""
    seen = {}
    tensors = run_integer_tensors(network, x_q, lambda layer, stage, values: seen.update({(layer, stage): values}))
    twins = run_simulated_tensors(network, x_q)
    assert tensors.keys() == twins.keys() == network.qparams.keys()
    for name, y_q in tensors.items():
        assert y_q.dtype == network.qparams[name].format.dtype
        assert twins[name].dtype == np.float64
        assert np.array_equal(y_q, twins[name]), (network.dialect, name)
    for stage in network.stages:
        values = seen[stage.layer, stage.stage]
        assert stage.min <= values.min() and values.max() <= stage.max, (network.dialect, stage)
    return tensors


# Three dialects cannot multiply by everything that a network of tiny activations asks for.
REFUSALS = {"multiplier16": "takes shifts from -31 to 14, got ", "gemmlowp_double": "shifts a sum left to ",
            "neon_double": "shifts a sum left to "}


@all_nine
def test_random_networks_give_the_same_codes_by_integers_and_by_simulation(name):
    # A quarter of the profile's examples for each of the nine.
    @settings(max_examples=max(1, settings().max_examples // 4))
    @given(data=st.data())
    def compare_roads(data):
        network = data.draw(networks())
        batch = data.draw(images(network))
        options = {"weight_bits": data.draw(st.integers(2, 8)), "activation_bits": data.draw(st.integers(2, 8)),
                   "granularity": data.draw(st.sampled_from(GRANULARITIES)),
                   "activations": data.draw(st.sampled_from(ACTIVATIONS))}
        try:
            quantized = quantize_network(network, batch, dialect=name, **options)
        except ValueError as error:
            assert name in REFUSALS
            assert re.search(rf"^layer '\w+': {name} {REFUSALS[name]}", str(error))
            assume(False)
        both_ways(quantized, quantized.quantize_images(batch))
    compare_roads()


def every_kind_of_layer() -> tuple[graph.Network, np.ndarray]:
    rng = np.random.default_rng(11)

    def real(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(F32)

    nodes = (
        graph.Conv("conv", "input", real(6, 2, 3, 3), real(6), Geometry(padding=(1, 1, 1, 1))),
        graph.Clip("relu", "conv", 0.0, None),
        graph.Conv("depthwise", "relu", real(6, 1, 3, 3), None, Geometry(padding=(1, 1, 1, 1), groups=6)),
        graph.Add("add", ("depthwise", "relu")),
        graph.Concat("concat", ("add", "relu")),
        graph.AveragePool("average", "concat", (3, 3), Geometry((2, 2), (1, 1, 1, 1))),
        graph.MaxPool("max", "average", (2, 2), Geometry((2, 2))),
        graph.Flatten("flat", "max"),
        graph.Linear("linear", "flat", real(5, 12 * 4), real(5)))
    return graph.Network((2, 8, 8), nodes, "linear"), real(40, 2, 8, 8)


@cache
def tensors_of_every_kind(name: str, granularity: str, activations: str) -> dict[str, np.ndarray]:
    network, batch = every_kind_of_layer()
    quantized = quantize_network(network, batch, dialect=name, granularity=granularity, activations=activations)
    assert quantized.dialect == name
    return both_ways(quantized, quantized.quantize_images(batch))


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("activations", ACTIVATIONS)
@all_nine
def test_a_network_of_every_kind_of_layer_gives_the_same_codes_both_ways(name, granularity, activations):
    assert tensors_of_every_kind(name, granularity, activations)["linear"].shape == (40, 5)


def test_every_layer_that_rounds_uses_the_dialect_asked_for():
    """Rounding down makes every layer's codes smaller on average than rounding to nearest, from the first on."""
    for layer in ("relu", "concat", "average"):
        nearest, floor = (tensors_of_every_kind(name, "layer", "affine")[layer].astype(int)
                          for name in ("exact_half_even", "shift_floor"))
        assert 0.2 < np.mean(nearest - floor) < 3, layer


class Operand(NamedTuple):
    """One side of an addition: its least and greatest code, and what it is multiplied by."""

    low: int
    high: int
    real: float


def addition(name: str, operands: tuple[Operand, Operand]) -> QuantizedNetwork:
    """y = a + b, each a copy of one channel of the input, clamped to its operand's codes."""
    wide = QuantParams(1.0, IntFormat(26))
    layers: list[QuantizedConv | QuantizedAdd] = []
    for tensor, weight, operand in zip("ab", np.eye(2, dtype=int).reshape(2, 1, 2, 1, 1), operands):
        copy = Term(weight, INT8, Multiplier.from_real(1.0))
        layers.append(QuantizedConv(tensor, ("x",), tensor, operand.low, operand.high, (copy,)))
    layers.append(QuantizedAdd("y", ("a", "b"), "y", INT32.min, INT32.max,
                               tuple(Multiplier.from_real(operand.real) for operand in operands)))
    qparams = {"x": wide, "a": wide, "b": wide, "y": QuantParams(1.0, INT32)}
    return QuantizedNetwork("x", "y", (2, 1, 1), tuple(layers), qparams, name)


TO_THE_LEAST = Operand(-(2**24 - 1), 0, 128 - 2.0**-17)  # down to 2^8 above -2^31, in float32 too
STEEP = math.ldexp(0x6FFF9000, 7 - 31)  # 16 bits round it up
ADDITIONS = {
    "small operands": (Operand(-1000, 1000, 256.0), Operand(-1000, 1000, 0.3 * 256)),
    "large operands that no shift wraps": (Operand(0, 2**22, 129.0), Operand(-(2**22), 0, 129.0)),
    "2^31 - 2, which float32 rounds to 2^31": (Operand(0, 2**15 - 1, 65538.0), TO_THE_LEAST),
    "2^31 - 2, which 16 bits round up": (Operand(0, math.floor((2**31 - 2) / STEEP), STEEP), TO_THE_LEAST),
    "2^31 - 128, where the shift to the left wraps": (Operand(0, 2**24 - 1, 128.0), TO_THE_LEAST),
}


@pytest.mark.parametrize("operands", ADDITIONS.values(), ids=ADDITIONS)
@all_nine
def test_an_addition_is_the_same_both_ways_and_within_its_proven_range_or_refused(name, operands):
    """Where one operand leaves int32, the other brings the sum back into it, so that what was clipped shows."""
    try:
        network = addition(name, operands)
    except ValueError as error:
        assert operands not in list(ADDITIONS.values())[:1]
        assert str(error).startswith("layer 'y': ")
        return
    samples = [sorted({low, low + 1, low // 2 - 1, low // 2, 0, high // 2, high // 2 + 1, high - 1, high})
               for low, high, _ in operands]
    both_ways(network, np.array(list(itertools.product(*samples))).reshape(-1, 2, 1, 1))


@pytest.mark.parametrize("words", ["m31,merged,half_up,half_away", "m15,wrap,none,floor", "rvv_rod", "nvdla_sdp",
                                   "real,merged,none,half_down,before", "float32,merged,none,to_odd,before",
                                   "m31,saturate,none,toward_zero,before,wrap"])
def test_a_network_runs_in_any_words(words, tmp_path):
    network, batch = every_kind_of_layer()
    quantized = quantize_network(network, batch, dialect=words, activations="affine")
    assert dialect_of(quantized.dialect) == dialect_of(words)
    both_ways(quantized, quantized.quantize_images(batch))
    (tmp_path / "network.npz").write_bytes(quantized_to_bytes(quantized))
    assert load_quantized(tmp_path / "network.npz").dialect == quantized.dialect


def test_the_dialect_of_a_network_is_a_name_or_words():
    network, batch = every_kind_of_layer()
    message = ("dialect must be a name, such as single_round, or 4 to 6 words, such as m31,wrap,half_up,half_away "
               "(see refquant dialects), got 'double_round'")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        quantize_network(network, batch, dialect="double_round")
    quantized = quantize_network(network, batch)
    assert quantized.dialect == "single_round"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dataclasses.replace(quantized, dialect="double_round")
