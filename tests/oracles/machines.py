"""Other machines on this one: BLAS kernels, threads and vector units that are switched off."""
from __future__ import annotations

import platform

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
