"""README's first code, where a reader may first try it."""

import os
import subprocess
import sys
from pathlib import Path

import tutorial_runner

ROOT = Path(__file__).resolve().parents[2]


def test_readmes_first_code_runs_in_the_parent_folder_of_a_clone(tmp_path):
    """There a folder called refquant lies in the way, which is not the package."""
    page = tutorial_runner.parse((ROOT / "README.md").read_text(encoding="utf-8"), "README.md", readme=True)
    first = next(fence for fence in page.fences if fence.language == "python")
    (tmp_path / "refquant").mkdir()
    for name in ("refquant", "README.md", "setup.cfg"):
        (tmp_path / "refquant" / name).symlink_to(ROOT / name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", first.text], cwd=tmp_path, env=environment, capture_output=True,
                          text=True)
    assert (done.returncode, done.stderr) == (0, "") and first.shown is not None
    assert done.stdout == first.shown.text
