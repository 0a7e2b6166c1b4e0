"""The worked example of tests/consumers: Hypothesis finds a device's overflow, shrinks it and keeps it."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from consumers.c.binary_files import build
from tools import require_tool

from refquant.vectors.check import check_answers

CONSUMERS = Path(__file__).parents[1] / "consumers"
EXAMPLE = CONSUMERS / "find_overflow.py"


def test_an_int16_register_is_found_out_with_at_most_nine_products_and_kept_as_a_golden_case(tmp_path):
    gcc = require_tool("gcc", "apt-get install gcc libc6-dev")
    device = build(tmp_path, "int16_dot", [gcc, "-std=c11", "-O1", "-Wall", "-Wextra"],
                   CONSUMERS / "c" / "int16_dot.c")
    done = subprocess.run([sys.executable, EXAMPLE, device, tmp_path], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    # Eight products of 7-bit codes always fit int16: 8·63·63 = 31752.
    assert done.stdout.startswith("9 products remain: 9·(63·63)")
    case = json.loads((tmp_path / "found" / "dot" / "case.json").read_bytes())
    assert case["why"] == "9·(63·63) = 35721 does not fit int16."
    assert check_answers(tmp_path / "found", tmp_path / "found").result == "pass"
    (tmp_path / "device" / "dot").mkdir(parents=True)
    subprocess.run([device, tmp_path / "found" / "dot", tmp_path / "device" / "dot"], check=True, timeout=60)
    found = check_answers(tmp_path / "found", tmp_path / "device")
    assert found.result == "mismatch" and (found.cases[0].expected, found.cases[0].got) == (35721, 35721 - 2**16)
