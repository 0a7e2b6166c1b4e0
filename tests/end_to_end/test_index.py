"""Every row of the index of equations points at a function, a test, a figure and a page that exist."""
from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "tutorial" / "equations.md"
EQUATIONS, TABLES = INDEX.read_text(encoding="utf-8").split("The papers' tables,")
ROWS = re.findall(r"^\| (.+?) \| `([\w.]+)` \| `([\w./]+)::(\w+)` \| (?:-|\[(\w+)\]\(\.\./figures/\5\.png\)) "
                  r"\| \[([a-z0-9-]+)\]\(([\w./-]+)\) \|$", EQUATIONS, re.MULTILINE)


def test_the_index_has_a_row_for_each_line_of_its_table():
    assert len(ROWS) == EQUATIONS.count("\n| ") - 1 >= 50  # the head is a line too


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_points_at_a_function_a_test_a_figure_and_a_page(row):
    _, function, path, test, figure, chapter, page = row
    module, name = function.rsplit(".", 1)
    assert getattr(import_module(module), name).__doc__
    assert f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf-8")
    text = (INDEX.parent / page).read_text(encoding="utf-8")
    assert re.search(rf"^## {chapter} ", text, re.MULTILINE) if chapter.isdigit() else page == f"{chapter}.md"
    pages = [ROOT / "README.md", ROOT / "tutorial.md", *INDEX.parent.glob("*.md")]
    shown = "".join(other.read_text(encoding="utf-8") for other in pages if other != INDEX)
    assert not figure or f"figures/{figure}.png)" in shown


def test_every_table_of_the_papers_has_its_script_and_its_place_in_readme():
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \| ([\w ]+ table) \|$", TABLES, re.MULTILINE)
    assert len(rows) == TABLES.count("\n| ") - 1 >= 5
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for _, script, marker in rows:
        assert f"<!-- {marker}" in readme and script in readme
