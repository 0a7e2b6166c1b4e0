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
from lanes_oracle import INSTRUCTIONS
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

NAMES = ("smlal", "smull", "sadalp", "sqrdmulh", "srshl", "sqxtn", "sdot")


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
    rng = np.random.default_rng(NAMES.index(name))
    return [lanes(rng, dtype, LANES * size) for dtype, size in INSTRUCTIONS[name][1].values()]


def pairs(*values) -> list[np.ndarray]:
    """Every combination of the operands' values, as int32, in whole vectors."""
    combinations = np.array(list(itertools.product(*values)), "i4")
    return list(combinations[:len(combinations) // 16 * 16].T)


def compare(program, name: str, operands: list[np.ndarray]) -> None:
    """Fails unless the instruction and the reference leave the same bits in every lane."""
    _, kinds, dtype = INSTRUCTIONS[name]
    narrowed = [operand.astype(kind) for operand, (kind, _) in zip(operands, kinds.values())]
    expected = getattr(isa, name)(*narrowed)
    # SRSHL takes its shift from the low byte of a 32-bit lane.
    given = [operand.astype("i4") for operand in operands] if name == "srshl" else narrowed
    np.testing.assert_array_equal(program(name, given, f"<{dtype}"), expected)


# --- one instruction at a time --------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_the_reference_equals_the_instruction_on_random_and_extreme_lanes(neon, name):
    compare(neon, name, hard_operands(name))


@pytest.mark.parametrize("name, operands", [
    ("smull", pairs(range(-128, 128), range(-128, 128))),
    ("smlal", [lanes(np.random.default_rng(7), "i2", 2**15), *pairs(range(-128, 128), range(-128, 128))]),
    ("sqxtn", pairs(range(-(2**15), 2**15))),
    ("sqrdmulh", pairs(corners("i4"), corners("i4"))),
    ("srshl", pairs(corners("i4"), range(-128, 128))),
    # Whatever stands above the low byte of a shift is ignored.
    ("srshl", pairs(corners("i4"), range(0x5A00, 0x5B00)))])
def test_the_reference_equals_the_instruction_on_every_combination(neon, name, operands):
    compare(neon, name, operands)


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


def compare_dot(program, fmt: IntFormat, length: int, per_lane: int, policy: str) -> tuple[np.ndarray, np.ndarray]:
    """Fails unless the program's rows equal the reference's; returns the sums and their exact values."""
    x, w = rows(np.random.default_rng(length), fmt, fmt, length)
    sums = dot_int16(x, w, fmt, fmt, per_lane, policy)
    np.testing.assert_array_equal(program("dot_int16", [x, w], "<i4", length, per_lane), sums)
    return sums, (x.astype(np.int64) * w).sum(axis=-1)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 64, 65, 73, 1000])
def test_the_safe_chain_of_eight_smlal_and_one_sadalp_gives_the_exact_sum(neon, length):
    assert safe_products_per_lane(SEVEN, SEVEN) == 8
    sums, exact = compare_dot(neon, SEVEN, length, 8, "trap")
    np.testing.assert_array_equal(sums, exact)


@pytest.mark.parametrize("fmt, per_lane", [(SEVEN, 9), (SEVEN, 10**6), (EIGHT, 2), (EIGHT, 9)], ids=str)
@pytest.mark.parametrize("length", [72, 1000])
def test_a_chain_that_is_too_long_gives_the_same_wrong_sum(neon, fmt, per_lane, length):
    sums, exact = compare_dot(neon, fmt, length, per_lane, "wrap")
    assert (sums != exact).any()


# --- requantization as TFLite does it on NEON ---------------------------------------------------------------

def compare_requantization(program) -> None:
    acc, m, shift = rounding_cases(np.random.default_rng(9), 30, LANES)
    # neon_double reads m and shift alone.
    expected = requantize(acc, Multiplier(np.ones(m.shape), m, shift), IntFormat(32), "neon_double")
    np.testing.assert_array_equal(program("neon_double", [acc, m, shift], "<i4"), expected)


def test_neon_double_equals_sqrdmulh_then_srshl_on_random_and_tie_sums(neon):
    compare_requantization(neon)


# --- the comparisons can fail ---------------------------------------------------------------------------------

@pytest.mark.parametrize("comparison", [
    lambda program: compare(program, "sadalp", hard_operands("sadalp")),
    lambda program: compare(program, "srshl", hard_operands("srshl")),
    lambda program: compare_dot(program, SEVEN, 576, 8, "trap"),
    compare_requantization], ids=["sadalp", "srshl", "dot_int16", "neon_double"])
def test_a_fault_planted_in_sadalp_and_srshl_is_caught(faulty, comparison):
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        comparison(faulty)
