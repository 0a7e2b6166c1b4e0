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
from golden import judged, written, wrong
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


def assert_passes_or_is_named(found: SuiteResult, diagnosis: str | None) -> None:
    """With a diagnosis, which every case that differs gets; without one, every case passes."""
    assert found.result == ("pass" if diagnosis is None else "mismatch") and found.cases
    assert {one.diagnosis for one in wrong(found)} == ({diagnosis} if diagnosis else set())


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


@pytest.mark.parametrize(("defines", "diagnosis"), [([], None), (["-DPLANT_FLOOR"], "dialect shift_floor")])
def test_a_requantizer_in_verilog_passes_and_a_fault_in_it_is_named(simulators, tmp_path, defines, diagnosis):
    suite, out = written("requantize", tmp_path), tmp_path / "device"
    program = compiled(simulators, tmp_path, "requantizer_tb", "requantizer", *defines)
    for case in read_suite(suite)[1]:
        simulate(simulators, program, case, out, f"+rows={case.json['tensors']['x']['shape'][0]}")
    assert_passes_or_is_named(check_answers(suite, out), diagnosis)


def test_readme_shows_what_a_check_says_of_a_zero_point_added_after_clamping(simulators, tmp_path):
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


def test_a_mac_in_verilog_passes_and_one_that_saturates_a_bit_early_is_caught(simulators, tmp_path):
    found = added_in_verilog(simulators, tmp_path)
    assert found.result == "pass" and len(found.cases) > 15
    early = wrong(added_in_verilog(simulators, tmp_path, "-DPLANT_NARROW"))
    assert early and all(one.id.split("-")[-1] != "wrap" for one in early)  # which never looks at the overflow
    assert any(one.first_stage == "expected_sums" for one in early)


@pytest.mark.parametrize("module", ["mac", "requantizer"])
def test_the_verilog_devices_are_free_of_lint(module):
    verilator = require_tool("verilator", "apt-get install verilator")
    done = subprocess.run([verilator, "--lint-only", "-Wall", VERILOG / f"{module}.v"], capture_output=True,
                          text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# --- C, from the headers -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "defines", "diagnosis"), [
    *((name, [], None) for name in ("conv-direct", "conv-depthwise", "requantize", "shift-scaler", "pwlq-dot",
                                    "pool-add-concat")),
    ("conv-direct", ["-DPLANT_PADDING"], "pads with 0 instead of the zero point"),
    ("shift-scaler", ["-DPLANT_SHIFT"], "shift off by one to the left")])
def test_a_device_in_c_passes_without_undefined_behaviour_and_a_fault_is_named(name, defines, diagnosis, tmp_path):
    gcc = require_tool("gcc", "apt-get install gcc libc6-dev")
    suite, out = written(name, tmp_path), tmp_path / "device"
    for case in read_suite(suite)[1]:
        (out / case.id).mkdir(parents=True)
        program = build(tmp_path, f"{case.id}.exe", [gcc, *C_FLAGS, *defines, "-include", case.folder / "case.h"],
                        CONSUMERS / "c" / "device.c")
        subprocess.run([program, out / case.id / "expected.hex"], check=True, timeout=60)
    assert_passes_or_is_named(check_answers(suite, out), diagnosis)


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


def test_smlal_and_sadalp_in_qemu_give_the_suite_and_a_fault_in_sadalp_is_caught(tmp_path):
    found = dot_in_neon(tmp_path)
    assert found.result == "incomplete" and len(found.cases) > 25
    assert all("uint8" in id or id.endswith(("saturate", "trap")) for id in found.missing)
    assert dot_in_neon(tmp_path, "-DPLANT_FAULT").result == "mismatch"


@pytest.mark.parametrize(("defines", "diagnosis"), [([], None), (["-DPLANT_FAULT"], "never rounds")])
def test_sqrdmulh_and_srshl_in_qemu_pass_and_a_right_shift_that_truncates_is_named(tmp_path, defines, diagnosis):
    run = neon(tmp_path, *defines)

    def device(case: Read) -> np.ndarray:
        t, count = case.inputs, len(case.inputs["x"])
        padded = [np.pad(t[name], (0, -count % 4)).astype(kind) for name, kind in (("x", "i4"), ("m", "i4"),
                                                                                   ("shift", "i1"))]
        wide = run("neon_double", padded, "<i4")[:count].astype(np.int64)
        fmt = case.tensor("expected").format
        return np.clip(wide + t["zero_point"], fmt.min, fmt.max)

    suite = written("requantize", tmp_path, "neon_double")
    assert_passes_or_is_named(judged(suite, tmp_path / "device", device), diagnosis)


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


def test_onnxruntime_passes_the_suite_of_dialect_d_and_a_transposed_kernel_given_to_it_is_named(tmp_path):
    found = conv_in_onnxruntime(tmp_path)
    assert found.result == "incomplete" and len(found.cases) >= 11
    assert set(found.missing) == {"tall", "large-stride", "relu6", "narrow-output"}
    transposed = wrong(conv_in_onnxruntime(tmp_path, transpose=True))
    assert {one.diagnosis for one in transposed} == {"kernel transposed"}
