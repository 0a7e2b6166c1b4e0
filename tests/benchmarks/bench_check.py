"""Seconds to check ten million answers in hex, and milliseconds for all KL thresholds of 2048 bins together.

``python tests/benchmarks/bench_check.py``; exits with 1 where a limit, 5 s or 15 ms, is exceeded.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from one_thread import best_seconds, print_machine, restart_on_one_thread

from refquant.integers import IntFormat
from refquant.integers.dialects import SINGLE_ROUND
from refquant.scales.kl import ncnn_divergences, tensorrt_divergences
from refquant.vectors.build import suite_files, write_suite
from refquant.vectors.cases import Case, Tensor, hex_bytes
from refquant.vectors.check import check_answers

ANSWERS = 10**7


def seconds_to_check() -> float:
    """A suite of one case, whose answers are right."""
    y = (np.arange(ANSWERS) * 2654435761 >> 7).astype(np.int8)
    case = Case("large", "clip", {"low": -128, "high": 127}, {
        "x": Tensor(y[:1000], IntFormat(8), "input", "N"), "expected": Tensor(y, IntFormat(8), "expected", "N")},
        "Many.")
    with tempfile.TemporaryDirectory() as name:
        suite, device = Path(name, "suite"), Path(name, "device")
        write_suite(suite_files("by-hand", "Many.", SINGLE_ROUND, [case], {}), suite)
        (device / "large").mkdir(parents=True)
        (device / "large" / "expected.hex").write_bytes(hex_bytes(case.tensors["expected"]))
        start = time.perf_counter()
        assert check_answers(suite, device).result == "pass"
        return time.perf_counter() - start


def main() -> int:
    """Print the table; 1 if a limit is exceeded."""
    print_machine()
    seconds = seconds_to_check()
    print(f"{ANSWERS} answers are checked in {seconds:.2f} s")
    counts = np.histogram(np.random.default_rng(0).laplace(size=10**6), 2048, (0, 12))[0]
    searches = tensorrt_divergences, ncnn_divergences
    kl = best_seconds([lambda search=search: search(counts) for search in searches], 10)
    for search, each in zip(searches, kl):
        print(f"{search.__name__:22}{1000 * each:7.2f} ms")
    return int(seconds >= 5 or max(kl) >= 0.015)


if __name__ == "__main__":
    restart_on_one_thread()
    sys.exit(main())
