"""Every row of the tutorial's index of equations points at a function, a test and a chapter that exist."""
from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "tutorial.md").read_text(encoding="utf-8")
INDEX = PAGE.split("## Index of equations")[1]
ROWS = re.findall(r"^\| (.+?) \| `([\w.]+)` \| `([\w./]+)::(\w+)` \| ([a-z0-9-]+) \|$", INDEX, re.MULTILINE)


def test_the_index_has_a_row_for_each_line_of_its_table():
    lines = INDEX.count("\n| ")
    assert len(ROWS) == lines - 1 >= 28  # the head is a line too


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_points_at_a_function_a_test_and_a_chapter_or_page(row):
    _, function, path, test, chapter = row
    module, name = function.rsplit(".", 1)
    assert getattr(import_module(module), name).__doc__
    assert f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf-8")
    assert re.search(rf"^## {chapter} ", PAGE, re.MULTILINE) or (ROOT / "tutorial" / f"{chapter}.md").exists()
