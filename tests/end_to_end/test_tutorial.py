"""The pages run: every Python fence of tutorial.md and README.md prints what the page shows below it.

After a deliberate change, `pytest tests/end_to_end/test_tutorial.py --rewrite-tutorial` writes the new outputs into
tutorial.md; read the difference before you commit it.
"""
from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import tutorial_runner
from tutorial_runner import Fence, Page

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "tutorial.md"
README = ROOT / "README.md"


def load(path: Path, readme: bool = False) -> Page:
    if not path.is_file():
        pytest.fail(f"{path.name} is missing: it belongs at the top of the project", pytrace=False)
    try:
        return tutorial_runner.parse(path.read_text(encoding="utf-8"), path.name, readme)
    except ValueError as error:
        report = str(error)
    pytest.fail(report, pytrace=False)


def run(page: Page, chapter: str | None = None, reference: bool = True) -> list[tuple[Fence, str]]:
    """Run the page; on failure show the traceback a reader would see, from the page's own line on."""
    try:
        return tutorial_runner.run(page, chapter, reference)
    except Exception as error:
        frame = error.__traceback__
        while frame is not None and frame.tb_frame.f_code.co_filename != page.name:
            frame = frame.tb_next
        report = "".join(traceback.format_exception(type(error), error, frame))
    pytest.fail(report, pytrace=False)


def chapter_titles(path: Path) -> list[str]:
    """The chapters to collect; of a page that is missing or malformed one item, which fails and says why."""
    try:
        return tutorial_runner.parse(path.read_text(encoding="utf-8"), path.name).chapters or ["no chapter"]
    except (FileNotFoundError, ValueError):
        return ["page not readable"]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory and figures that open no window."""
    import matplotlib.pyplot as plt

    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        yield
    plt.close("all")


def test_tutorial_fences_and_images_are_well_formed():
    page = load(TUTORIAL)
    assert page.chapters, "tutorial.md has no chapter: a chapter begins with '## '"
    tutorial_runner.check_images(page, TUTORIAL.parent)


@pytest.mark.parametrize("title", chapter_titles(TUTORIAL))
@pytest.mark.usefixtures("desk")
def test_chapter_prints_what_it_shows(title: str, request: pytest.FixtureRequest):
    page = load(TUTORIAL)
    if request.config.getoption("--rewrite-tutorial"):
        text = tutorial_runner.rewritten(page, run(page, title, reference=False))
        TUTORIAL.write_text(text, encoding="utf-8", newline="\n")
    else:
        run(page, title)


@pytest.mark.usefixtures("desk")
def test_readme_python_blocks_run():
    page = load(README, readme=True)
    tutorial_runner.check_images(page, README.parent)
    outputs = run(page)
    assert outputs, "README.md shows no Python code"
