"""Every figure draws the numbers that are committed in figures/numbers.json, and each is shown on some page.

``python -m figures`` renews pictures and numbers. The two of the demo are compared in tests/commands/test_demo.py.
"""
from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "figures"))

import make_figures  # noqa: E402
import numbers_drawn  # noqa: E402


@pytest.mark.parametrize("name", make_figures.FIGURES)
def test_a_figure_draws_the_committed_numbers(name):
    assert numbers_drawn.differences(name, numbers_drawn.numbers_of(make_figures.FIGURES[name]())) == []


def test_every_figure_has_numbers_and_is_shown_on_a_page():
    names = {*make_figures.FIGURES, *make_figures.DEMO_FIGURES}
    pages = [ROOT / "README.md", ROOT / "tutorial.md",
             *(path for path in (ROOT / "tutorial").glob("*.md") if path.name != "equations.md")]
    shown = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert {name for name in names if f"figures/{name}.png)" in shown} == names
    drawn = {path.stem for path in (ROOT / "figures").glob("*.png")}
    # Of real networks: written by `refquant quantize` and by tests/benchmarks/compare_onnxruntime.py.
    assert drawn == names | {"resnet8_sqnr", "kernel_sets"}
    assert all(numbers_drawn.differences(name, []) for name in names), "every figure has numbers"
