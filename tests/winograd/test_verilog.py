"""Winograd F(2,3) as a synthesizable Verilog unit, simulated by Icarus Verilog, against the reference."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from consumers.c.binary_files import build
from convolution_oracle import loop
from recording import winograd_with_stages
from tools import require_tool

from refquant.convolution.geometry import Geometry
from refquant.integers.formats import IntFormat
from refquant.winograd.bounds import winograd_bounds

SOURCES = Path(__file__).parents[1] / "consumers" / "verilog"
BENCH = "winograd_f23_tb"
SEVEN, FULL_SEVEN = IntFormat(7, narrow=True), IntFormat(7)
CHANNELS = 3
WORDS = {"d": 8, "g": 8, "v": 16, "u": 16, "sum": 32, "y": 32}


@pytest.fixture(scope="module")
def simulators():
    return [require_tool(program, "apt-get install iverilog") for program in ("iverilog", "vvp")]


# --- what the unit is given, and what it must answer ---------------------------------------------------------

def witness_groups(fmt: IntFormat) -> list[tuple[np.ndarray, np.ndarray]]:
    """Operands (C, 4, 4), (C, 3, 3) at both ends of each Winograd stage; zeros where a stage does not look."""
    groups = []
    for bound in winograd_bounds((2, 3), fmt, fmt, CHANNELS):
        if bound.stage not in ("direct", "lane"):
            for x, w in ((bound.x_min, bound.w_min), (bound.x_max, bound.w_max)):
                groups.append((np.zeros((CHANNELS, 4, 4), int) if x is None else x,
                               np.zeros((CHANNELS, 3, 3), int) if w is None else w))
    return groups


def random_groups(fmt: IntFormat, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(7)
    x, w = (rng.integers(fmt.min, fmt.max, (count, CHANNELS, size, size), endpoint=True) for size in (4, 3))
    return list(zip(x, w))


def vectors(groups: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The words of each file: stages from winograd_convolve, outputs from the plain loop, which must agree."""
    words: dict[str, list] = {name: [] for name in WORDS}
    for x, w in groups:
        y, trace = winograd_with_stages(x[None], w[None], (2, 3))
        wanted = loop(x[None], w[None], Geometry())[0][0]
        assert y[0, 0].tolist() == wanted
        for name, values in (("d", x), ("g", w), ("v", trace["V"].values), ("u", trace["U"].values),
                             ("sum", trace["sum"].values), ("y", np.array(wanted))):
            words[name].append(values.ravel())
    return {name: np.concatenate(values) for name, values in words.items()}


def hexadecimal(values: np.ndarray, bits: int) -> str:
    return "".join(f"{int(value) % 2**bits:0{bits // 4}x}\n" for value in values)


def simulate(simulators, folder: Path, groups, *defines: str, spoil=None, **parameters: int) -> str:
    """What the bench prints; AssertionError with its last words where it does not end in PASS and the right count."""
    iverilog, vvp = simulators
    parameters = {"GROUPS": len(groups), "CHANNELS": CHANNELS, **parameters}
    command = [iverilog, "-g2012", "-Wall", *defines, *(f"-P{BENCH}.{k}={v}" for k, v in parameters.items()),
               SOURCES / f"{BENCH}.v"]
    program = build(folder, "tb.vvp", command, SOURCES / "winograd_f23.v")
    words = vectors(groups)
    for name, values in words.items():
        (folder / f"{name}.hex").write_bytes(hexadecimal(values, WORDS[name]).encode())
    if spoil is not None:
        spoil(folder)
    done = subprocess.run([vvp, "-n", program], cwd=folder, capture_output=True, text=True, timeout=120)
    expected = sum(len(words[name]) for name in ("v", "u", "sum", "y"))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"PASS {expected}\n", ""), done.stdout + done.stderr
    return done.stdout


# --- the unit is right ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("fmt", [SEVEN, FULL_SEVEN], ids=str)
def test_every_stage_of_f23_in_verilog_equals_the_reference(simulators, tmp_path, fmt):
    groups = [*witness_groups(fmt), *random_groups(fmt, 300)]
    assert simulate(simulators, tmp_path, groups) == f"PASS {len(groups) * (2 * 16 * CHANNELS + 16 + 4)}\n"


def proven_widths(fmt: IntFormat) -> dict[str, int]:
    bits = {bound.stage: bound.bits for bound in winograd_bounds((2, 3), fmt, fmt, CHANNELS)}
    assert bits["output_scaled"] <= bits["sum"]
    return {"V_BITS": bits["V"], "U_BITS": bits["U"], "SUM_BITS": bits["sum"]}


@pytest.mark.parametrize("fmt", [SEVEN, FULL_SEVEN], ids=str)
def test_registers_of_the_proven_widths_are_wide_enough(simulators, tmp_path, fmt):
    simulate(simulators, tmp_path, [*witness_groups(fmt), *random_groups(fmt, 300)], **proven_widths(fmt))


def test_the_proven_widths_by_hand():
    # ±252; ±567; three channels of ±142 884.
    assert proven_widths(SEVEN) == {"V_BITS": 9, "U_BITS": 11, "SUM_BITS": 20}


# --- the comparison can fail ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("register", "stage", "by_chance"), [
    ("V_BITS", "V", True),  # four codes at their ends are soon met
    ("U_BITS", "U", False),
    ("SUM_BITS", "sum", False),
])
def test_a_register_of_one_bit_less_is_caught_by_the_witnesses_and_not_by_300_random_groups(
        simulators, tmp_path, register, stage, by_chance):
    narrower = {register: proven_widths(SEVEN)[register] - 1}
    with pytest.raises(AssertionError, match=rf"FATAL: .* {stage}\[\d+\]\[\d+\] is "):
        simulate(simulators, tmp_path, witness_groups(SEVEN), **narrower)
    if not by_chance:
        simulate(simulators, tmp_path, random_groups(SEVEN, 300), **narrower)


@pytest.mark.parametrize(("define", "stage"), [("-DPLANT_SIGN", "V"), ("-DPLANT_SHIFT", "y")])
def test_a_planted_mistake_is_caught(simulators, tmp_path, define, stage):
    with pytest.raises(AssertionError, match=rf"FATAL: .* {stage}\[\d+\]\[\d+\] is "):
        simulate(simulators, tmp_path, random_groups(SEVEN, 3), define)


def drop_last_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda folder: (folder / "sum.hex").unlink(), "sum.hex has 0 words instead of 48"),
    (lambda folder: drop_last_line(folder / "y.hex"), "y.hex has 11 words instead of 12"),
    (lambda folder: (folder / "d.hex").write_text("00\n" * 145, newline="\n"), "d.hex has 145 words instead of 144"),
    (lambda folder: (folder / "u.hex").write_text("none\n" * 144, newline="\n"), "u.hex has 0 words instead of 144"),
], ids=["missing", "short", "long", "no numbers"])
def test_a_file_with_another_number_of_words_is_caught(simulators, tmp_path, spoil, words):
    with pytest.raises(AssertionError, match=re.escape(words)):
        simulate(simulators, tmp_path, random_groups(SEVEN, 3), spoil=spoil)


def test_unknown_bits_are_caught_where_an_ordinary_comparison_would_let_them_pass(simulators, tmp_path):
    with pytest.raises(AssertionError, match=r"FATAL: .* U\[0\]\[0\] is -?\d+ instead of x"):
        simulate(simulators, tmp_path, random_groups(SEVEN, 3),
                 spoil=lambda folder: (folder / "u.hex").write_text("xxxx\n" * 144, newline="\n"))
