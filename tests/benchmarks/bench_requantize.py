"""Seconds to requantize 10^7 int32 sums in each dialect, one thread; the target is below 1 s each.

``python tests/benchmarks/bench_requantize.py``; exits with 1 where an integer dialect misses it.
"""

import sys

import numpy as np
from one_thread import best_seconds, print_machine, restart_on_one_thread

from refquant.integers.dialects import DIALECTS
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize

SUMS = 10**7
TARGET = 1.0


def main() -> int:
    """Print the table; 1 if a target is missed."""
    print_machine()
    acc = np.random.default_rng(0).integers(-2**31, 2**31, (10, 100, SUMS // 1000)).astype(np.int32)
    one = Multiplier.from_real(0.0123)
    many = Multiplier.from_real(np.linspace(1e-4, 1e-2, 100)).along(1, 3)
    print(f"{'dialect':20}{'one multiplier':>16}{'per channel':>16}")
    missed = False
    for name in DIALECTS:
        seconds = best_seconds([lambda n=name, m=m: requantize(acc, m, IntFormat(8), n) for m in (one, many)], 2)
        missed |= max(seconds) >= TARGET
        print(f"{name:20}{seconds[0]:14.3f} s{seconds[1]:14.3f} s")
    return int(missed)


if __name__ == "__main__":
    restart_on_one_thread()
    sys.exit(main())
