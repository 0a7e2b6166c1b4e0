"""The dialects of RISC-V V against its instructions, in all four rounding modes, as QEMU executes them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from consumers.c.binary_files import build, call, rounding_cases
from tools import require_tool

from refquant.integers import Dialect, IntFormat, Multiplier, requantize
from refquant.integers.devices import dialect_of

SOURCE = Path(__file__).parents[1] / "consumers" / "rvv" / "rvv.c"
INSTALL = "apt-get install gcc-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-user-static"
FLAGS = "-std=c11 -O1 -static -march=rv64gcv -Wall -Wextra -Werror".split()
MODES = {"rnu": "half_up", "rne": "half_even", "rdn": "floor", "rod": "to_odd"}


@pytest.fixture(scope="module")
def rvv(tmp_path_factory):
    compiler, qemu = (require_tool(tool, INSTALL) for tool in ("riscv64-linux-gnu-gcc", "qemu-riscv64-static"))
    program = build(tmp_path_factory.mktemp("rvv"), "rvv", [compiler, *FLAGS], SOURCE)
    return partial(call, [qemu, "-cpu", "rv64,v=true,vlen=128,vext_spec=v1.0", program])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["doubling", "wide"])
def test_the_words_of_each_rounding_mode_are_what_the_instructions_do(rvv, way, mode):
    acc, m, shift = rounding_cases(np.random.default_rng(4), 30, 16384)
    whole = len(acc) // 4 * 4
    acc, m, shift = (v[:whole].astype("i4") for v in (acc, m, shift))
    words = dialect_of(f"rvv_{mode}") if way == "doubling" else Dialect("m31", last=MODES[mode])
    assert words.last == MODES[mode]
    expected = requantize(acc, Multiplier(np.ones(whole), m, shift), IntFormat(32), words)
    found = rvv(way, [acc, m, shift], "<i4", 1 + list(MODES).index(mode))
    np.testing.assert_array_equal(found, expected)
