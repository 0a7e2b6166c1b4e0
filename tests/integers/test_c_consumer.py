"""int16 accumulation and requantization written again in plain C11, under the undefined behaviour sanitizer."""
from __future__ import annotations

import itertools
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from consumers.c.binary_files import build, call, rounding_cases, rows
from tools import require_tool

from refquant.convolution.int16 import dot_lanes
from refquant.integers.accumulation import dot_int16, overflow_witness, safe_products_per_lane
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize

SOURCES = Path(__file__).parents[1] / "consumers" / "c"
FLAGS = ("-std=c11 -O1 -Wall -Wextra -Wconversion -Werror "
         "-fsanitize=undefined,signed-integer-overflow,float-cast-overflow -fno-sanitize-recover=all").split()

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


def compare_requantization(program, dialect: str) -> None:
    """Fails unless C and the reference agree on random, usual, extreme and tie sums at every legal shift."""
    acc, m, shift = rounding_cases(np.random.default_rng(1), GREATEST_SHIFT[dialect], 65536)
    assert {*range(-31, GREATEST_SHIFT[dialect] + 1)} == set(shift.tolist())
    # These dialects read m and shift alone.
    expected = requantize(acc, Multiplier(np.ones(m.shape), m, shift), IntFormat(32), dialect)
    np.testing.assert_array_equal(program(dialect, [acc, m, shift], "<i4"), expected)


@pytest.mark.parametrize("dialect", GREATEST_SHIFT)
def test_requantization_equals_plain_c_without_undefined_behaviour(compiled, dialect):
    compare_requantization(compiled("requantize"), dialect)


# --- the dot product through int16 lanes --------------------------------------------------------------------

SEVEN = IntFormat(7, narrow=True)
PAIRS = list(itertools.product(
    (SEVEN, IntFormat(7), IntFormat(7, signed=False), IntFormat(8, narrow=True), IntFormat(8)), repeat=2))


def outcome(function, *arguments) -> list[int] | str:
    """The sums, or the line that names the first overflow."""
    try:
        return np.atleast_1d(function(*arguments)).tolist()
    except OverflowError as overflow:
        return str(overflow)


def c_outcome(program, x: np.ndarray, w: np.ndarray, products_per_lane: int) -> list[int] | str:
    operands = [x.astype(np.int8), w.astype(np.int8)]
    return outcome(program, "dot_int16", operands, "<i4", x.shape[-1], products_per_lane)


@pytest.mark.parametrize("x_format, w_format", PAIRS, ids=str)
@pytest.mark.parametrize("length", [1, 8, 9, 1000])
def test_the_safe_schedule_of_any_formats_gives_the_exact_sum(compiled, x_format, w_format, length):
    safe = safe_products_per_lane(x_format, w_format)
    x, w = rows(np.random.default_rng(length), x_format, w_format, length)
    sums = dot_int16(x, w, x_format, w_format).tolist()
    assert sums == (x.astype(np.int64) * w).sum(axis=-1).tolist() == c_outcome(compiled("dot_int16"), x, w, safe)


def compare_witness(program, x_format: IntFormat, w_format: IntFormat) -> None:
    """Fails unless one product more than is safe overflows in C as in the reference, in each of the lanes."""
    safe = safe_products_per_lane(x_format, w_format)
    a, b = overflow_witness(x_format, w_format)
    for lane in range(8):
        x, w = np.zeros((2, 8 * (safe + 1)), np.int64)
        x[lane::8], w[lane::8] = a, b
        named = outcome(dot_int16, x, w, x_format, w_format, safe + 1)
        assert named == (f"SMLAL at step {safe}, lane[{lane}] is {(safe + 1) * a * b}, "
                         "outside int16 (-32768..32767)")
        assert c_outcome(program, x, w, safe + 1) == named


@pytest.mark.parametrize("x_format, w_format", PAIRS, ids=str)
def test_one_product_more_overflows_at_the_step_and_lane_the_reference_names(compiled, x_format, w_format):
    compare_witness(compiled("dot_int16"), x_format, w_format)


@pytest.mark.parametrize("steps, used, line", [
    (16384, range(8), "ADDV is 2147483648, outside int32 (-2147483648..2147483647)"),
    (65536, (4, 5), "SADALP at step 65535, lane[2] is 2147483648, outside int32 (-2147483648..2147483647)"),
], ids=["ADDV", "SADALP"])
def test_an_int32_lane_overflows_at_the_step_the_reference_names(compiled, steps, used, line):
    # -128 · -128 = 2^14 in each lane used: a step adds 2^15 to the int32 lane of two, 2^17 to the sum of all eight.
    x = np.zeros((steps, 8), np.int64)
    x[:, list(used)] = -128
    x = x.ravel()
    assert outcome(dot_lanes, x, x, 1, "trap") == line  # the faster equal of dot_int16
    assert c_outcome(compiled("dot_int16"), x, x, 1) == line


# --- the comparisons can fail ---------------------------------------------------------------------------------

@pytest.mark.parametrize("dialect", GREATEST_SHIFT)
def test_truncation_planted_in_the_requantization_is_caught(compiled, dialect):
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        compare_requantization(compiled("requantize", "-DPLANT_FAULT"), dialect)


def test_a_signed_left_shift_planted_in_the_requantization_is_caught_by_the_sanitizer(compiled):
    with pytest.raises(AssertionError, match=r"exit code 1: .*runtime error: left shift"):
        compare_requantization(compiled("requantize", "-DPLANT_UNDEFINED"), "gemmlowp_double")


def test_an_int32_lane_planted_in_the_dot_product_is_caught(compiled):
    with pytest.raises(AssertionError, match="SMLAL at step"):
        compare_witness(compiled("dot_int16", "-DPLANT_FAULT"), SEVEN, SEVEN)
