"""Benchmarks run on one thread and on the BLAS kernels the machine would choose by itself."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import numpy as np


def restart_on_one_thread() -> None:
    """Start the script again with OPENBLAS_* as a benchmark needs it, if it is not so already."""
    wanted = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    wanted |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)


def print_machine() -> None:
    """NumPy's version and the BLAS it found."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    print(f"NumPy {np.__version__}, {blas['name']} {blas.get('openblas configuration', blas['version'])}, one thread")


def best_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of several runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
