"""A device driven by Hypothesis: find an input on which it is wrong, shrink it, and keep it as a golden case.

    python tests/consumers/find_overflow.py DEVICE OUT

DEVICE is called as ``DEVICE CASE OUT``, as c/int16_dot.c is. OUT/found gets the suite of one case, to run again.
"""
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, find, settings
from hypothesis import strategies as st

from refquant.integers import IntFormat
from refquant.integers.dialects import SINGLE_ROUND
from refquant.vectors.build import suite_files, write_suite
from refquant.vectors.cases import Case, described
from refquant.vectors.check import check_answers
from refquant.vectors.suites import make

SEVEN, INT32 = IntFormat(7, narrow=True), IntFormat(32)
PARAMETERS = {"x_format": described(SEVEN), "w_format": described(SEVEN), "acc_format": described(INT32),
              "policy": "wrap", "order": "ascending", "y_format": described(INT32)}
# Runs of equal products: (how often, two codes). An overflow is simplest at the ends, so that codes shrink to those.
CODES = st.sampled_from((SEVEN.max, SEVEN.min)) | st.integers(SEVEN.min, SEVEN.max)
RUNS = st.lists(st.tuples(st.integers(1, 20), CODES, CODES), min_size=1, max_size=4)


def golden(runs: list[tuple[int, int, int]], why: str) -> Case:
    """The case of one row of products."""
    x, w = (np.repeat(row, [count for count, _, _ in runs])[None] for row in zip(*(codes for _, *codes in runs)))
    return make("dot", "dot_sequential", PARAMETERS, {"x": (x, SEVEN), "w": (w, SEVEN)}, why, "random",
                stages={"expected_sums": INT32}, layouts={"x": "NK", "w": "NK", "expected_sums": "NK"})


def write(case: Case, folder: Path) -> Path:
    write_suite(suite_files("found", "Found by Hypothesis.", SINGLE_ROUND, [case], {}), folder / "found")
    return folder / "found"


def wrong(device: str, runs: list[tuple[int, int, int]]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        suite, answers = write(golden(runs, "Drawn."), Path(folder)), Path(folder) / "device"
        (answers / "dot").mkdir(parents=True)
        subprocess.run([device, suite / "dot", answers / "dot"], check=True)
        return check_answers(suite, answers).result != "pass"


if __name__ == "__main__":
    PROFILE = settings(max_examples=2000, derandomize=True, database=None, deadline=None,
                       suppress_health_check=list(HealthCheck))
    runs = find(RUNS, lambda runs: wrong(sys.argv[1], runs), settings=PROFILE)
    total = " + ".join(f"{count}·({a}·{b})" for count, a, b in runs)
    write(golden(runs, f"{total} = {sum(n * a * b for n, a, b in runs)} does not fit int16."), Path(sys.argv[2]))
    print(f"{sum(count for count, _, _ in runs)} products remain: {total}")
