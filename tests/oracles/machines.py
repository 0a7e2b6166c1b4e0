"""Other machines on this one: BLAS kernels, threads and vector units that are switched off."""
from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

# NumPy named its vector units differently before 2.4.
NEW_NAMES = tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4)
WITHOUT_AVX512 = "X86_V4 AVX512_ICL AVX512_SPR" if NEW_NAMES else "AVX512F AVX512CD AVX512_SKX"
WITHOUT_AVX2 = f"X86_V3 {WITHOUT_AVX512}" if NEW_NAMES else f"AVX2 FMA3 {WITHOUT_AVX512}"
MACHINES = {
    "as it is": {},
    "an old one": {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1",
                   "NPY_DISABLE_CPU_FEATURES": WITHOUT_AVX2},
    "a middling one": {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2",
                       "NPY_DISABLE_CPU_FEATURES": WITHOUT_AVX512},
}

on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the stand-ins are x86 machines")


def printed(script: str, *arguments: object, machines: tuple[str, ...] = tuple(MACHINES)) -> list[list[str]]:
    """The lines that a Python script prints on each machine."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "NPY_DISABLE"))}
    # A unit that the CPU lacks anyway only draws a warning when it is disabled.
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]

    def run(machine: str) -> list[str]:
        env = {**clean, **MACHINES[machine]}
        return subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()

    with ThreadPoolExecutor() as pool:
        return list(pool.map(run, machines))
