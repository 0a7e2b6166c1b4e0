"""The pages run: every Python fence of tutorial.md and README.md prints what the page shows below it.

After a deliberate change, `pytest tests/end_to_end/test_tutorial.py --rewrite-tutorial` writes the new outputs into
tutorial.md; read the difference before you commit it.
"""
from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
from tutorial_runner import check_images, parse, rewritten, run

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL, README = ROOT / "tutorial.md", ROOT / "README.md"


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """An empty working directory, and figures that open no window."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        yield
    plt.close("all")


@pytest.mark.parametrize("title", parse(TUTORIAL.read_text(encoding="utf-8")).chapters)
def test_chapter_prints_what_it_shows(title, request):
    page = parse(TUTORIAL.read_text(encoding="utf-8"))
    if request.config.getoption("--rewrite-tutorial"):
        text = rewritten(page, run(page, title, check=False))
        TUTORIAL.write_text(text, encoding="utf-8", newline="\n")
    else:
        run(page, title)


def test_readme_prints_what_it_shows():
    assert run(parse(README.read_text(encoding="utf-8"), README.name, readme=True))


def test_images_are_there_and_described():
    check_images(parse(TUTORIAL.read_text(encoding="utf-8")), ROOT)
    check_images(parse(README.read_text(encoding="utf-8"), README.name, readme=True), ROOT)
