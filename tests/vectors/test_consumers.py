"""Golden suites read by devices that others made, or written from the formulas alone, with faults planted in each.

Verilog under Icarus reads the .hex files, C under the undefined behaviour sanitizer the headers, NEON under QEMU and
onnxruntime the arrays. ``check`` must pass each, and find and name the fault planted in it.
"""
from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from consumers.c.binary_files import build, call
from golden import judged, written
from qlinearconv_oracle import Layer, qlinearconv
from tools import require_tool

from refquant.convolution.geometry import Geometry
from refquant.vectors.check import SuiteResult, check_answers, text
from refquant.vectors.reading import Read, read_suite

CONSUMERS = Path(__file__).parents[1] / "consumers"
VERILOG = CONSUMERS / "verilog"
C_FLAGS = ("-std=c11 -O1 -Wall -Wextra -Wconversion -Werror -Wno-unused-const-variable -fsanitize=undefined,"
           "signed-integer-overflow,float-cast-overflow -fno-sanitize-recover=all").split()
NEON_FLAGS = "-std=c11 -O1 -static -march=armv8.2-a+dotprod -Wall -Wextra -Wconversion -Werror".split()
NEON = "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"


def diagnoses(found: SuiteResult) -> set[str | None]:
    return {one.diagnosis for one in found.cases if one.mismatches}


# --- Verilog -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def simulators():
    return [require_tool(program, "apt-get install iverilog") for program in ("iverilog", "vvp")]


def simulate(simulators, program: Path, case: Read, out: Path, *options: str) -> None:
    """Run a compiled bench on a case; it writes its answers as .hex."""
    (out / case.id).mkdir(parents=True, exist_ok=True)
    done = subprocess.run([simulators[1], "-n", program, f"+case={case.folder}", f"+out={out / case.id}", *options],
                          capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("DONE"), done.stdout + done.stderr


def compiled(simulators, folder: Path, bench: str, device: str, *options: str) -> Path:
    command = [simulators[0], "-g2012", "-Wall", *options, VERILOG / f"{bench}.v"]
    return build(folder, f"{bench}{'-'.join(options).replace('/', '')}.vvp", command, VERILOG / f"{device}.v")


def requantized_in_verilog(simulators, folder: Path, *defines: str) -> SuiteResult:
    suite, out = written("requantize", folder), folder / "device"
    program = compiled(simulators, folder, "requantizer_tb", "requantizer", *defines)
    for case in read_suite(suite)[1]:
        simulate(simulators, program, case, out, f"+rows={case.json['tensors']['x']['shape'][0]}")
    return check_answers(suite, out)


def test_a_requantizer_in_verilog_passes(simulators, tmp_path):
    assert requantized_in_verilog(simulators, tmp_path).result == "pass"


@pytest.mark.parametrize(("define", "diagnosis"), [
    ("-DPLANT_FLOOR", "dialect shift_floor"), ("-DPLANT_ZERO", "zero point added after clamping")])
def test_a_fault_in_the_verilog_requantizer_is_named(simulators, tmp_path, define, diagnosis):
    found = requantized_in_verilog(simulators, tmp_path, define)
    assert found.result == "mismatch" and diagnoses(found) == {diagnosis}


def test_readme_shows_what_a_check_says_of_this_fault(simulators, tmp_path):
    suite = written("requantize", tmp_path)
    subprocess.run([VERILOG / "run.sh", suite, tmp_path / "answers", "-DPLANT_ZERO"], check=True, timeout=120)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"```text\n{text(check_answers(suite, tmp_path / 'answers'))}\n```" in readme


def added_in_verilog(simulators, folder: Path, *defines: str) -> SuiteResult:
    suite, out = written("dot-sequential", folder, small=False), folder / "device"
    programs = {}
    for case in read_suite(suite)[1]:
        p = case.json["parameters"]
        options = (f"-Pmac_tb.BITS={p['acc_format']['bits']}", f"-Pmac_tb.SATURATE={int(p['policy'] == 'saturate')}")
        if options not in programs:
            programs[options] = compiled(simulators, folder, "mac_tb", "mac", *options, *defines)
        rows, length = case.json["tensors"]["x"]["shape"]
        words = [f"+{p['order']}"] + ["+flags"] * (p["policy"] == "trap")
        simulate(simulators, programs[options], case, out, f"+rows={rows}", f"+length={length}", *words)
    return check_answers(suite, out)


def test_a_mac_in_verilog_passes_with_every_partial_sum(simulators, tmp_path):
    found = added_in_verilog(simulators, tmp_path)
    assert found.result == "pass" and len(found.cases) > 15


def test_a_mac_that_saturates_one_bit_early_is_named(simulators, tmp_path):
    found = added_in_verilog(simulators, tmp_path, "-DPLANT_NARROW")
    wrong = [one for one in found.cases if one.mismatches]
    assert wrong and all(one.id.split("-")[-1] != "wrap" for one in wrong)  # which never looks at the overflow
    assert any(one.first_stage == "expected_sums" for one in wrong)


@pytest.mark.parametrize("module", ["mac", "requantizer"])
def test_the_verilog_devices_are_free_of_lint(module):
    verilator = require_tool("verilator", "apt-get install verilator")
    done = subprocess.run([verilator, "--lint-only", "-Wall", VERILOG / f"{module}.v"], capture_output=True,
                          text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# --- C, from the headers -----------------------------------------------------------------------------------------

def computed_in_c(name: str, folder: Path, *defines: str) -> SuiteResult:
    gcc, suite, out = require_tool("gcc", "apt-get install gcc libc6-dev"), written(name, folder), folder / "device"
    for case in read_suite(suite)[1]:
        (out / case.id).mkdir(parents=True)
        program = build(folder, f"{case.id}.exe", [gcc, *C_FLAGS, *defines, "-include", case.folder / "case.h"],
                        CONSUMERS / "c" / "device.c")
        subprocess.run([program, out / case.id / "expected.hex"], check=True, timeout=60)
    return check_answers(suite, out)


@pytest.mark.parametrize("name", ["conv-direct", "conv-depthwise", "requantize", "shift-scaler", "pwlq-dot",
                                  "pool-add-concat"])
def test_a_device_in_c_passes_without_undefined_behaviour(name, tmp_path):
    found = computed_in_c(name, tmp_path)
    assert found.result == "pass" and found.cases


@pytest.mark.parametrize(("name", "define", "diagnosis"), [
    ("conv-direct", "-DPLANT_PADDING", "pads with 0 instead of the zero point"),
    ("shift-scaler", "-DPLANT_SHIFT", "shift off by one to the left")])
def test_a_fault_in_the_c_device_is_named(name, define, diagnosis, tmp_path):
    found = computed_in_c(name, tmp_path, define)
    assert found.result == "mismatch" and all(diagnosis in (one or "") for one in diagnoses(found))


# --- NEON --------------------------------------------------------------------------------------------------------

def neon(folder: Path, *defines: str):
    compiler, qemu = require_tool("aarch64-linux-gnu-gcc", NEON), require_tool("qemu-aarch64-static", NEON)
    program = build(folder, "neon", [compiler, *NEON_FLAGS, *defines], CONSUMERS / "neon" / "neon.c")
    return lambda *arguments: call([qemu, "-cpu", "max", program], *arguments)


def dot_in_neon(folder: Path, *defines: str) -> SuiteResult:
    run = neon(folder, *defines)

    def device(case: Read) -> np.ndarray | None:
        t, p = case.inputs, case.json["parameters"]
        if p["policy"] != "wrap" or not p["x_format"]["signed"]:  # what SMLAL does, and the bytes that it takes
            return None
        return run("dot_int16", [t["x"].astype("i1"), t["w"].astype("i1")], "<i4", t["x"].shape[1],
                   p["products_per_lane"])

    return judged(written("dot-int16", folder, small=False), folder / "device", device)


def test_smlal_and_sadalp_in_qemu_give_the_suite_and_what_they_cannot_run_is_listed(tmp_path):
    found = dot_in_neon(tmp_path)
    assert found.result == "incomplete" and len(found.cases) > 25
    assert all("uint8" in id or id.endswith(("saturate", "trap")) for id in found.missing)


def test_a_fault_in_sadalp_is_caught(tmp_path):
    assert dot_in_neon(tmp_path, "-DPLANT_FAULT").result == "mismatch"


def requantized_in_neon(folder: Path, *defines: str) -> SuiteResult:
    run = neon(folder, *defines)

    def device(case: Read) -> np.ndarray:
        t, count = case.inputs, len(case.inputs["x"])
        padded = [np.pad(t[name], (0, -count % 4)).astype(kind) for name, kind in (("x", "i4"), ("m", "i4"),
                                                                                   ("shift", "i1"))]
        wide = run("neon_double", padded, "<i4")[:count].astype(np.int64)
        fmt = case.tensor("expected").format
        return np.clip(wide + t["zero_point"], fmt.min, fmt.max)

    return judged(written("requantize", folder, "neon_double"), folder / "device", device)


def test_sqrdmulh_and_srshl_in_qemu_pass_the_suite_of_dialect_b(tmp_path):
    assert requantized_in_neon(tmp_path).result == "pass"


def test_a_right_shift_that_truncates_is_named(tmp_path):
    found = requantized_in_neon(tmp_path, "-DPLANT_FAULT")
    assert found.result == "mismatch" and diagnoses(found) == {"never rounds"}


# --- onnxruntime ------------------------------------------------------------------------------------------------

def conv_in_onnxruntime(folder: Path, transpose: bool = False) -> SuiteResult:
    """Of the cases in int8; others depend on the CPU, or end at a narrow range."""
    def device(case: Read) -> np.ndarray | None:
        t, p = case.inputs, case.json["parameters"]
        if any(p[name] != {"bits": 8, "signed": True, "narrow": False} for name in ("x_format", "y_format")):
            return None
        M = np.ldexp(t["m"].astype(np.float64), t["shift"] - 31).astype(np.float32)
        x = t["x"] if t["x"].ndim == 4 else t["x"][:, :, None, None]
        one, w = np.array(1, np.float32), t["w"].swapaxes(2, 3) if transpose else t["w"]
        y = qlinearconv(Layer(x.astype(np.int8), one, p["x_zero_point"], w.astype(np.int8), M, one, p["y_zero_point"],
                              t["bias"].astype(np.int32) if "bias" in t else None,
                              Geometry.of(p["stride"], p["padding"], p["dilation"], p["groups"])))
        return y if y.size == case.tensor("expected").values.size else None

    return judged(written("conv-direct", folder, "float32_half_even", small=False), folder / "device", device)


def test_onnxruntime_passes_the_suite_of_dialect_d(tmp_path):
    found = conv_in_onnxruntime(tmp_path)
    assert found.result == "incomplete" and len(found.cases) >= 11
    assert set(found.missing) == {"tall", "large-stride", "relu6", "narrow-output"}


def test_a_transposed_kernel_given_to_onnxruntime_is_named(tmp_path):
    found = conv_in_onnxruntime(tmp_path, transpose=True)
    assert diagnoses(found) == {"kernel transposed"}
