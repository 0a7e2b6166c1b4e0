"""int16 accumulation and requantization written again in plain C11, under the undefined behaviour sanitizer."""
from __future__ import annotations

import itertools
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from consumers.c.binary_files import build, call, lanes, rounding_cases, rows
from tools import require_tool

from refquant.integers.accumulation import dot_int16, overflow_witness, safe_products_per_lane
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize

SOURCES = Path(__file__).parents[1] / "consumers" / "c"
FLAGS = ("-std=c11 -O1 -Wall -Wextra -Wconversion -Werror "
         "-fsanitize=undefined,signed-integer-overflow,float-cast-overflow -fno-sanitize-recover=all").split()
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="MinGW's gcc has no undefined behaviour sanitizer")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """compiled(name, *defines): the function that runs an operation of name.c; each is compiled once."""
    gcc = require_tool("gcc", "apt-get install gcc libc6-dev")

    @cache
    def program(name, *defines):
        folder = tmp_path_factory.mktemp(name)
        return partial(call, [build(folder, name, [gcc, *FLAGS, *defines], SOURCES / f"{name}.c")])

    return program


# --- requantization ---------------------------------------------------------------------------------------

GREATEST_SHIFT = {"gemmlowp_double": 30, "single_round": 30, "multiplier16": 14}


def reference(dialect: str, acc: np.ndarray, m: np.ndarray, shift: np.ndarray) -> np.ndarray:
    # These dialects read m and shift alone.
    return requantize(acc, Multiplier(np.ones(m.shape), m, shift), IntFormat(32), dialect)


def compare_requantization(program, dialect: str) -> None:
    """Fails unless C and the reference agree on random, usual, extreme and tie sums at every legal shift."""
    cases = rounding_cases(np.random.default_rng(1), GREATEST_SHIFT[dialect], 65536)
    assert {*range(-31, GREATEST_SHIFT[dialect] + 1)} == set(cases[2].tolist())
    expected = reference(dialect, *cases)
    assert expected.dtype == np.int32
    np.testing.assert_array_equal(program(dialect, list(cases), "<i4"), expected)


@pytest.mark.parametrize("dialect", GREATEST_SHIFT)
def test_requantization_equals_plain_c_without_undefined_behaviour(compiled, dialect):
    compare_requantization(compiled("requantize"), dialect)


@pytest.mark.parametrize("dialect", GREATEST_SHIFT)
def test_one_multiplier_for_all_sums_equals_plain_c_at_every_shift(compiled, dialect):
    acc, m = lanes(np.random.default_rng(5), "i4", 256), np.int32(1518500250)
    shifts = np.arange(-31, GREATEST_SHIFT[dialect] + 1, dtype="i1")
    operands = [np.tile(acc, shifts.size), np.full(acc.size * shifts.size, m), np.repeat(shifts, acc.size)]
    expected = np.concatenate([reference(dialect, acc, m, shift) for shift in shifts])
    np.testing.assert_array_equal(compiled("requantize")(dialect, operands, "<i4"), expected)


def test_the_cases_tell_the_three_dialects_apart():
    cases = rounding_cases(np.random.default_rng(1), 14, 65536)
    for one, other in itertools.combinations(GREATEST_SHIFT, 2):
        assert (reference(one, *cases) != reference(other, *cases)).mean() > 0.05, (one, other)


@pytest.mark.parametrize("dialect, values", [
    ("gemmlowp_double", [1, -1, -1, 3, 3, -3, 1, -1, 100000]),
    ("single_round", [0, 0, -1, 3, 3, -3, 1, 0, 100000]),
    ("multiplier16", [0, 0, -1, 3, 2, -4, 1, 0, 99997]),
])
def test_plain_c_gives_the_published_columns_of_the_dialect(compiled, dialect, values):
    # The cases that tell nine requantization dialects apart, before the zero point, and two corners.
    x, m, shift = np.array([
        (1, 2**30, -1), (-2, 2**30, -1), (-3, 2**30, -1), (5, 2**30, 0), (25, 1717986944, -3), (-5, 1503238528, 0),
        (1, 2**30, 0), (INT32_MIN, 2**30, -31), (100000, INT32_MAX, 0)]).T
    got = compiled("requantize")(dialect, [x.astype("i4"), m.astype("i4"), shift.astype("i1")], "<i4")
    assert got.tolist() == values


# --- the dot product through int16 lanes --------------------------------------------------------------------

SEVEN = IntFormat(7, narrow=True)
# The formats of x and w, and how many of their products always fit int16.
FORMATS = [
    (SEVEN, SEVEN, 8),
    (IntFormat(7), IntFormat(7), 7),
    (IntFormat(7), SEVEN, 8),
    (SEVEN, IntFormat(6, narrow=True), 16),
    (IntFormat(7, signed=False), SEVEN, 4),
    (IntFormat(8, narrow=True), IntFormat(8, narrow=True), 2),
    (IntFormat(8, narrow=True), IntFormat(8), 2),
    (IntFormat(8), IntFormat(8), 1),
]


def outcome(function, *arguments) -> list[int] | str:
    """The sums, or the line that names the first overflow."""
    try:
        return np.atleast_1d(function(*arguments)).tolist()
    except OverflowError as overflow:
        return str(overflow)


def c_outcome(program, x: np.ndarray, w: np.ndarray, products_per_lane: int) -> list[int] | str:
    operands = [x.astype(np.int8), w.astype(np.int8)]
    return outcome(program, "dot_int16", operands, "<i4", x.shape[-1], products_per_lane)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 64, 65, *np.random.default_rng(2).integers(10, 1500, 14).tolist()])
def test_eight_products_of_63_never_leave_an_int16_lane(compiled, length):
    x, w = rows(np.random.default_rng(length), SEVEN, SEVEN, length)
    sums = dot_int16(x, w, SEVEN, SEVEN, "safe", "trap")
    assert sums.dtype == np.int32 and sums.tolist() == (x.astype(np.int64) * w).sum(axis=-1).tolist()
    assert c_outcome(compiled("dot_int16"), x, w, 8) == sums.tolist()


@pytest.mark.parametrize("x_format, w_format, safe", FORMATS, ids=str)
def test_the_safe_schedule_of_any_formats_never_overflows(compiled, x_format, w_format, safe):
    assert safe_products_per_lane(x_format, w_format) == safe
    x, w = rows(np.random.default_rng(3), x_format, w_format, 300)
    assert c_outcome(compiled("dot_int16"), x, w, safe) == dot_int16(x, w, x_format, w_format).tolist()


def compare_witness(program, x_format: IntFormat, w_format: IntFormat, safe: int) -> None:
    """Fails unless one product more than is safe overflows in C as in the reference, in each of the lanes."""
    a, b = overflow_witness(x_format, w_format)
    for lane in range(8):
        x, w = np.zeros((2, 8 * (safe + 1)), np.int64)
        x[lane::8], w[lane::8] = a, b
        named = outcome(dot_int16, x, w, x_format, w_format, safe + 1)
        assert named == (f"SMLAL at step {safe}, lane[{lane}] is {(safe + 1) * a * b}, "
                         "outside int16 (-32768..32767)")
        assert c_outcome(program, x, w, safe + 1) == named


@pytest.mark.parametrize("x_format, w_format, safe", FORMATS, ids=str)
def test_one_product_more_overflows_at_the_step_and_lane_the_reference_names(compiled, x_format, w_format, safe):
    compare_witness(compiled("dot_int16"), x_format, w_format, safe)


def test_random_rows_overflow_first_at_the_same_step_and_lane_or_not_at_all(compiled):
    rng = np.random.default_rng(4)
    outcomes = []
    for trial in range(150):
        length, products_per_lane = int(rng.integers(1, 700)), int(rng.integers(9, 60))
        x, w = rng.choice([-63, 63], (2, length)) if trial % 2 else rng.integers(-63, 64, (2, length))
        outcomes.append(outcome(dot_int16, x, w, SEVEN, SEVEN, products_per_lane))
        assert c_outcome(compiled("dot_int16"), x, w, products_per_lane) == outcomes[-1]
    places = [line.split(" is ")[0] for line in outcomes if isinstance(line, str)]
    assert len(set(places)) > 20 and len(outcomes) - len(places) > 20


@pytest.mark.parametrize("steps, used, line", [
    (16384, range(8), "ADDV is 2147483648, outside int32 (-2147483648..2147483647)"),
    (65536, (4, 5), "SADALP at step 65535, lane[2] is 2147483648, outside int32 (-2147483648..2147483647)"),
], ids=["ADDV", "SADALP"])
def test_an_int32_lane_overflows_at_the_step_the_reference_names(compiled, steps, used, line):
    # -128 · -128 = 2^14 in each lane used: a step adds 2^15 to the int32 lane of two, 2^17 to the sum of all eight.
    eight, x = IntFormat(8), np.zeros((steps, 8), np.int64)
    x[:, list(used)] = -128
    x = x.ravel()
    assert outcome(dot_int16, x, x, eight, eight) == line
    assert c_outcome(compiled("dot_int16"), x, x, 1) == line


# --- the comparisons can fail ---------------------------------------------------------------------------------

@pytest.mark.parametrize("dialect", GREATEST_SHIFT)
def test_truncation_planted_in_the_requantization_is_caught(compiled, dialect):
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        compare_requantization(compiled("requantize", "-DPLANT_FAULT"), dialect)


def test_a_signed_left_shift_planted_in_the_requantization_is_caught_by_the_sanitizer(compiled):
    with pytest.raises(AssertionError, match=r"exit code 1: .*runtime error: left shift"):
        compare_requantization(compiled("requantize", "-DPLANT_UNDEFINED"), "gemmlowp_double")


@pytest.mark.parametrize("x_format, w_format, safe", FORMATS, ids=str)
def test_an_int32_lane_planted_in_the_dot_product_is_caught(compiled, x_format, w_format, safe):
    with pytest.raises(AssertionError, match="SMLAL at step"):
        compare_witness(compiled("dot_int16", "-DPLANT_FAULT"), x_format, w_format, safe)


def test_a_multiplier_or_shift_outside_its_range_is_refused_not_computed(compiled):
    x = np.array([1], "i4")
    for dialect, m, shift in (("gemmlowp_double", 2**30, 31), ("single_round", 2**30, -32),
                                ("multiplier16", 2**30, 15), ("single_round", 2**30 - 1, 0),
                                ("single_round", -(2**30), 0)):
        with pytest.raises(AssertionError, match=r"exit code 2: .*outside its range"):
            compiled("requantize")(dialect, [x, np.array([m], "i4"), np.array([shift], "i1")], "<i4")
