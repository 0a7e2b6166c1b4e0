"""Apply each of the sixty bugs to a copy of refquant and run the tests that should notice.

``python tests/mutation/run.py [WORD ...]``: all, or those whose name or module contains a word. Prints a line each;
exits with 1 if one survives. Takes some 10 minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]


def killed(module: str, text: str, bug: str, tests: str) -> bool:
    """Whether the tests fail with the bug; ValueError unless the text stands once in the module."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("refquant", "tests", "setup.cfg"):
            source = ROOT / name
            shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy)
        path = copy / "refquant" / f"{module}.py"
        code = path.read_text(encoding="utf-8")
        if code.count(text) != 1:
            raise ValueError(f"{module} must hold {text!r} once, got {code.count(text)} times")
        path.write_text(code.replace(text, bug), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests.split()]
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise ValueError(f"the tests of {module} must run, got {done.stdout[-500:]}")
        return done.returncode == 1


def main(words: list[str]) -> int:
    """Print what happens to each; 1 if one survives."""
    survivors = 0
    for name, module, text, bug, tests in MUTANTS:
        if words and not any(word in name or word in module for word in words):
            continue
        start = time.perf_counter()
        dead = killed(module, text, bug, tests)
        survivors += not dead
        seconds = time.perf_counter() - start
        print(f"{'killed' if dead else 'SURVIVED':9}{seconds:6.1f} s  {module}: {name}", flush=True)
    print(f"{survivors} survived")
    return survivors > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
