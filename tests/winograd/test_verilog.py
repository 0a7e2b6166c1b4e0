"""Winograd F(2,3) as a synthesizable Verilog unit, simulated by Icarus Verilog, against the reference."""
from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from consumers.c.binary_files import build
from tools import require_tool
from winograd_groups import expected_stages, random_groups, witness_groups

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


def hexadecimal(values: np.ndarray, bits: int) -> str:
    return "".join(f"{int(value) % 2**bits:0{bits // 4}x}\n" for value in values)


def simulate(simulators, folder: Path, groups, *defines: str, spoil=None, **parameters: int) -> None:
    """AssertionError with the last words of a bench that does not end in PASS and the right count."""
    iverilog, vvp = simulators
    parameters = {"GROUPS": len(groups[0]), "CHANNELS": CHANNELS, **parameters}
    command = [iverilog, "-g2012", "-Wall", *defines, *(f"-P{BENCH}.{k}={v}" for k, v in parameters.items()),
               SOURCES / f"{BENCH}.v"]
    program = build(folder, "tb.vvp", command, SOURCES / "winograd_f23.v")
    stages = expected_stages((2, 3), *groups)
    for (name, bits), values in zip(WORDS.items(), (*groups, *stages.values())):
        (folder / f"{name}.hex").write_bytes(hexadecimal(values.ravel(), bits).encode())
    if spoil is not None:
        spoil(folder)
    done = subprocess.run([vvp, "-n", program], cwd=folder, capture_output=True, text=True, timeout=120)
    expected = sum(map(len, stages.values()))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"PASS {expected}\n", ""), done.stdout + done.stderr


def witnesses(fmt: IntFormat) -> tuple[np.ndarray, ...]:
    return witness_groups((2, 3), fmt, fmt, CHANNELS)


def drawn(fmt: IntFormat, count: int) -> tuple[np.ndarray, ...]:
    return random_groups((2, 3), fmt, fmt, CHANNELS, count)


def proven_widths(fmt: IntFormat) -> dict[str, int]:
    bits = {bound.stage: bound.bits for bound in winograd_bounds((2, 3), fmt, fmt, CHANNELS)}
    return {"V_BITS": bits["V"], "U_BITS": bits["U"], "SUM_BITS": bits["sum"]}


# --- the unit is right ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("fmt", [SEVEN, FULL_SEVEN], ids=str)
@pytest.mark.parametrize("proven", [False, True], ids=["default widths", "proven widths"])
def test_every_stage_of_f23_in_verilog_equals_the_reference(simulators, tmp_path, fmt, proven):
    groups = [np.concatenate(parts) for parts in zip(witnesses(fmt), drawn(fmt, 100))]
    simulate(simulators, tmp_path, groups, **(proven_widths(fmt) if proven else {}))


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
        simulate(simulators, tmp_path, witnesses(SEVEN), **narrower)
    if not by_chance:
        simulate(simulators, tmp_path, drawn(SEVEN, 300), **narrower)


@pytest.mark.parametrize(("define", "stage"), [("-DPLANT_SIGN", "V"), ("-DPLANT_SHIFT", "y")])
def test_a_planted_mistake_is_caught(simulators, tmp_path, define, stage):
    with pytest.raises(AssertionError, match=rf"FATAL: .* {stage}\[\d+\]\[\d+\] is "):
        simulate(simulators, tmp_path, drawn(SEVEN, 3), define)


@pytest.mark.parametrize(("name", "words", "message"), [
    ("y", "00000000\n" * 11, "y.hex has 11 words instead of 12"),
    ("u", "xxxx\n" * 144, r"U[0][0] is \S+ instead of x"),  # an ordinary comparison would let it pass
], ids=["short", "unknown bits"])
def test_a_spoiled_file_is_caught(simulators, tmp_path, name, words, message):
    with pytest.raises(AssertionError, match=message.replace("[", r"\[")):
        simulate(simulators, tmp_path, drawn(SEVEN, 3),
                 spoil=lambda folder: (folder / f"{name}.hex").write_text(words, newline="\n"))
