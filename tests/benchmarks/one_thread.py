"""Benchmarks run on one thread and on the BLAS kernels the machine would choose by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

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


def best_seconds(calls: Sequence[Callable[[], object]], repeats: int = 5) -> list[float]:
    """The shortest of several runs of each, after one to warm up; in turns, so that slow moments meet all."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, seconds in zip(calls, times):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return [min(seconds[1:]) for seconds in times]


def in_a_process(*arguments: object) -> list[str]:
    """The words that the running script prints when it is started with these arguments."""
    return subprocess.run([sys.executable, sys.argv[0], *map(str, arguments)], check=True, capture_output=True,
                          text=True).stdout.split()
