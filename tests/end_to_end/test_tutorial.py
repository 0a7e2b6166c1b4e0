"""The pages run: every Python fence of tutorial.md, tutorial/*.md and README.md prints what the page shows below it.

After a deliberate change, `pytest tests/end_to_end/test_tutorial.py --rewrite-tutorial` writes the new outputs into
the tutorial's pages; read the difference before you commit it.
"""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from tutorial_runner import Page, check_images, parse, rewritten, run

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL, README = ROOT / "tutorial.md", ROOT / "README.md"
PAGES = {str(path.relative_to(ROOT)): path for path in (TUTORIAL, *sorted((ROOT / "tutorial").glob("*.md")))}


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """An empty working directory, and figures that open no window."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        yield
    plt.close("all")


def page_of(name: str) -> Page:
    return parse(PAGES[name].read_text(encoding="utf-8"), name)


@pytest.mark.parametrize(("name", "title"), [(name, title) for name in PAGES for title in page_of(name).chapters])
def test_chapter_prints_what_it_shows(name, title, request):
    page = page_of(name)
    if request.config.getoption("--rewrite-tutorial"):
        text = rewritten(page, run(page, title, check=False))
        PAGES[name].write_text(text, encoding="utf-8", newline="\n")
    else:
        run(page, title)


def test_the_core_is_short_and_names_every_page():
    core = TUTORIAL.read_text(encoding="utf-8")
    assert core.count("\n") < 900
    assert all(f"]({name})" in core for name in PAGES if name != "tutorial.md")


def test_links_within_the_repository_lead_somewhere():
    others = (README, ROOT / "exercises" / "README.md", ROOT / "tests" / "consumers" / "README.md")
    for path in (*PAGES.values(), *others):
        for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_readme_prints_what_it_shows_and_its_first_code_does_so_in_the_parent_folder_of_a_clone(tmp_path):
    """There a folder called refquant lies in the way, which is not the package."""
    page = parse(README.read_text(encoding="utf-8"), README.name, readme=True)
    (first, _), *_ = run(page)
    (tmp_path / "refquant").mkdir()
    for name in ("refquant", "README.md", "setup.cfg"):
        (tmp_path / "refquant" / name).symlink_to(ROOT / name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", first.text], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", first.shown.text)


def test_images_are_there_and_described():
    for name, path in PAGES.items():
        check_images(page_of(name), path.parent)
    check_images(parse(README.read_text(encoding="utf-8"), README.name, readme=True), ROOT)
