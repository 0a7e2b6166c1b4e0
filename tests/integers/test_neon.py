"""refquant.integers.simd and `neon_double` against the instructions of Arm's Advanced SIMD, as QEMU executes them."""
from __future__ import annotations

import itertools
import re
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from consumers.c.binary_files import build, call, corners, lanes, rounding_cases, rows
from tools import require_tool

import refquant.integers.simd as isa
from refquant.integers.accumulation import dot_int16, safe_products_per_lane
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize

SOURCE = Path(__file__).parents[1] / "consumers" / "neon" / "neon.c"
INSTALL = "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"
FLAGS = "-std=c11 -O1 -static -march=armv8.2-a+dotprod -Wall -Wextra -Wconversion -Werror".split()
LANES = 65536
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

# instruction: the reference, its operands (type, elements per lane), the type of its result
INSTRUCTIONS = {
    "smlal": (isa.smlal, [("i2", 1), ("i1", 1), ("i1", 1)], "i2"),
    "smull": (isa.smull, [("i1", 1), ("i1", 1)], "i2"),
    "sadalp": (isa.sadalp, [("i4", 1), ("i2", 2)], "i4"),
    "sqrdmulh": (isa.sqrdmulh, [("i4", 1), ("i4", 1)], "i4"),
    # The instruction takes its shift from the low byte of a 32-bit lane, which the reference is given.
    "srshl": (lambda x, shift: isa.srshl(x, shift.astype("i1")), [("i4", 1), ("i4", 1)], "i4"),
    "sqxtn": (isa.sqxtn, [("i2", 1)], "i1"),
    "sdot": (isa.sdot, [("i4", 1), ("i1", 4), ("i1", 4)], "i4"),
}


@pytest.fixture(scope="module")
def compiler():
    return require_tool("aarch64-linux-gnu-gcc", INSTALL)


def machine(folder: Path, compiler: str, *defines: str):
    """The function that runs an operation of the compiled neon.c."""
    qemu = require_tool("qemu-aarch64-static", INSTALL)
    program = build(folder, "neon", [compiler, *FLAGS, *defines], SOURCE)
    return partial(call, [qemu, "-cpu", "max", program])


@pytest.fixture(scope="module")
def neon(compiler, tmp_path_factory):
    return machine(tmp_path_factory.mktemp("neon"), compiler)


@pytest.fixture(scope="module")
def faulty(compiler, tmp_path_factory):
    """neon.c where SADALP forgets the last pair, and the right shift truncates instead of rounding."""
    return machine(tmp_path_factory.mktemp("faulty"), compiler, "-DPLANT_FAULT")


def hard_operands(name: str) -> list[np.ndarray]:
    rng = np.random.default_rng(list(INSTRUCTIONS).index(name))
    return [lanes(rng, dtype, LANES * per_lane) for dtype, per_lane in INSTRUCTIONS[name][1]]


def compare(program, name: str, operands: list[np.ndarray]) -> None:
    """Fails unless the instruction and the reference leave the same bits in every lane."""
    compute, _, dtype = INSTRUCTIONS[name]
    expected = compute(*operands)
    assert expected.dtype == dtype
    np.testing.assert_array_equal(program(name, operands, f"<{dtype}"), expected)


# --- one instruction at a time --------------------------------------------------------------------------

@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_the_reference_equals_the_instruction_on_random_and_extreme_lanes(neon, name):
    operands = hard_operands(name)
    assert operands[0].size == 2 * LANES
    compare(neon, name, operands)


@pytest.mark.parametrize("name", ["smull", "smlal"])
def test_the_reference_equals_the_instruction_on_every_pair_of_bytes(neon, name):
    a, b = (pairs.ravel().astype("i1") for pairs in np.mgrid[-128:128, -128:128])
    acc = [lanes(np.random.default_rng(7), "i2", a.size // 2)] if name == "smlal" else []
    compare(neon, name, [*acc, a, b])


def test_sqxtn_equals_the_instruction_on_every_int16(neon):
    compare(neon, "sqxtn", [np.arange(-(2**15), 2**15).astype("i2")])


def test_srshl_equals_the_instruction_for_every_shift_byte_and_every_corner(neon):
    x, shift = np.array(list(itertools.product(corners("i4"), range(-128, 128)))).T.astype("i4")
    compare(neon, "srshl", [x, shift])
    # Whatever stands above the low byte is ignored.
    above = np.random.default_rng(8).integers(-(2**23), 2**23, x.size, "i4") << 8
    compare(neon, "srshl", [x, above | (shift & 0xFF)])


def test_sqrdmulh_equals_the_instruction_on_every_pair_of_corners(neon):
    a, b = np.array(list(itertools.product(corners("i4"), repeat=2))).T.astype("i4")
    whole = a.size // 4 * 4
    compare(neon, "sqrdmulh", [a[:whole], b[:whole]])


def test_the_extreme_lanes_reach_what_is_hard_about_each_instruction():
    def wide(name):
        return [operand.astype(np.int64) for operand in hard_operands(name)]

    acc, a, b = wide("smlal")
    assert (acc + a * b > 2**15 - 1).any() and (acc + a * b < -(2**15)).any()
    a, b = wide("smull")
    assert ((a == -128) & (b == -128)).any()
    acc, x = wide("sadalp")
    total = acc + x[0::2] + x[1::2]
    assert (total > INT32_MAX).any() and (total < INT32_MIN).any()
    a, b = wide("sqrdmulh")
    tie = a * b % 2**31 == 2**30
    assert ((a == INT32_MIN) & (b == INT32_MIN)).any() and (tie & (a * b > 0)).any() and (tie & (a * b < 0)).any()
    x, shift = hard_operands("srshl")
    shift = shift.astype("i1")
    tie = (-31 <= shift) & (shift < 0) & (x % 2.0 ** -shift.astype(float) == 2.0 ** (-shift.astype(float) - 1))
    assert (tie & (x > 0)).any() and (tie & (x < 0)).any() and (shift > 31).any() and (shift < -32).any()
    acc, a, b = wide("sdot")
    total = acc + (a * b).reshape(-1, 4).sum(axis=1)
    assert (total > INT32_MAX).any() and (total < INT32_MIN).any()


def test_the_program_consists_of_the_instructions_it_is_named_after(compiler):
    # The compiler may replace an intrinsic by others that compute the same; then nothing above was shown.
    listing = subprocess.run([compiler, *FLAGS, "-S", "-o", "-", SOURCE], capture_output=True, text=True, check=True,
                             timeout=120).stdout
    for instruction, shapes in (("smlal", "8h 8b 8b"), ("smull", "8h 8b 8b"), ("sadalp", "4s 8h"),
                                ("sqrdmulh", "4s 4s 4s"), ("srshl", "4s 4s 4s"), ("sqxtn", "8b 8h"),
                                ("sdot", "4s 16b 16b")):
        registers = ", ".join(rf"v\d+\.{shape}" for shape in shapes.split())
        assert re.search(rf"\t{instruction}\t{registers}\n", listing), instruction


# --- chains: the dot product of a 7-bit convolution ---------------------------------------------------------

SEVEN, EIGHT = IntFormat(7, narrow=True), IntFormat(8)
LENGTHS = [1, 7, 8, 9, 63, 64, 65, 71, 72, 73, 576, 1000]


def compare_dot(program, fmt: IntFormat, length: int, products_per_lane: int | str, policy: str
                ) -> tuple[np.ndarray, ...]:
    """Fails unless the program's rows equal the reference's; returns the sums and their exact values."""
    x, w = rows(np.random.default_rng(length), fmt, fmt, length)
    per_lane = safe_products_per_lane(fmt, fmt) if products_per_lane == "safe" else products_per_lane
    sums = dot_int16(x, w, fmt, fmt, products_per_lane, policy)
    assert sums.dtype == np.int32
    np.testing.assert_array_equal(program("dot_int16", [x, w], "<i4", length, per_lane), sums)
    return sums, (x.astype(np.int64) * w).sum(axis=-1)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_safe_chain_of_eight_smlal_and_one_sadalp_gives_the_exact_sum(neon, length):
    assert safe_products_per_lane(SEVEN, SEVEN) == 8
    sums, exact = compare_dot(neon, SEVEN, length, "safe", "trap")
    np.testing.assert_array_equal(sums, exact)


@pytest.mark.parametrize("fmt, products_per_lane", [(SEVEN, 9), (SEVEN, 10**6), (EIGHT, 2), (EIGHT, 9)], ids=str)
@pytest.mark.parametrize("length", [72, 73, 576, 1000])
def test_a_chain_that_is_too_long_gives_the_same_wrong_sum(neon, fmt, products_per_lane, length):
    sums, exact = compare_dot(neon, fmt, length, products_per_lane, "wrap")
    assert (sums != exact).any()


# --- requantization as TFLite does it on NEON ---------------------------------------------------------------

def reference(acc: np.ndarray, m: np.ndarray, shift: np.ndarray) -> np.ndarray:
    # neon_double reads m and shift alone.
    return requantize(acc, Multiplier(np.ones(m.shape), m, shift), IntFormat(32), "neon_double")


def compare_requantization(program, *cases: np.ndarray) -> None:
    """Fails unless the program and the reference agree on cases (acc, m, shift)."""
    expected = reference(*cases)
    assert expected.dtype == np.int32
    np.testing.assert_array_equal(program("neon_double", list(cases), "<i4"), expected)


def test_neon_double_equals_sqrdmulh_then_srshl_on_random_and_tie_sums(neon):
    compare_requantization(neon, *rounding_cases(np.random.default_rng(9), 30, LANES))


def test_one_multiplier_for_all_sums_equals_the_instructions_at_every_shift(neon):
    acc, m, shifts = lanes(np.random.default_rng(10), "i4", 256), np.int32(1518500250), np.arange(-31, 31, dtype="i1")
    operands = [np.tile(acc, shifts.size), np.full(acc.size * shifts.size, m), np.repeat(shifts, acc.size)]
    expected = np.concatenate([reference(acc, m, shift) for shift in shifts])
    np.testing.assert_array_equal(neon("neon_double", operands, "<i4"), expected)


def test_the_instructions_give_the_published_column_of_neon_double(neon):
    # x, m, shift, value before the zero point: the cases that tell nine requantization dialects apart.
    x, m, shift, values = np.array([
        (1, 2**30, -1, 1), (-2, 2**30, -1, 0), (-3, 2**30, -1, 0), (5, 2**30, 0, 3),
        (25, 1717986944, -3, 3), (-5, 1503238528, 0, -3), (1, 2**30, 0, 1), (0, 0, 0, 0)]).T
    got = neon("neon_double", [x.astype("i4"), m.astype("i4"), shift.astype("i1")], "<i4")
    assert got.tolist() == values.tolist()


# --- the comparisons can fail ---------------------------------------------------------------------------------

@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_a_fault_planted_in_sadalp_and_srshl_is_caught_there_and_only_there(faulty, name):
    if name in ("sadalp", "srshl"):
        with pytest.raises(AssertionError, match="Arrays are not equal"):
            compare(faulty, name, hard_operands(name))
    else:
        compare(faulty, name, hard_operands(name))


def test_a_fault_planted_in_sadalp_is_caught_by_the_dot_product(faulty):
    for products_per_lane, policy in (("safe", "trap"), (9, "wrap")):
        with pytest.raises(AssertionError, match="Arrays are not equal"):
            compare_dot(faulty, SEVEN, 576, products_per_lane, policy)


def test_a_fault_planted_in_srshl_is_caught_by_the_requantization(faulty):
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        compare_requantization(faulty, *rounding_cases(np.random.default_rng(9), 30, LANES))


def test_an_operand_that_is_cut_short_is_refused_not_compared(neon):
    a = np.zeros(16, "i1")
    with pytest.raises(AssertionError, match=r"exit code 2: .*another number of elements"):
        neon("smull", [a, a[:8]], "<i2")
    with pytest.raises(AssertionError, match=r"exit code 2: .*does not fill whole vectors"):
        neon("smull", [a[:9], a[:9]], "<i2")
