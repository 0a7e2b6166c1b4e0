"""The numbers that a figure draws, for the test that computes them again: ``figures/numbers.json`` holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

FILE = Path(__file__).parent / "numbers.json"
POINTS = 16  # of each line


def numbers_of(figure: Figure) -> list[dict[str, Any]]:
    """One entry for each axes: its title, lines, bars, images and labels."""
    return [_axes(axes) for axes in [*figure.axes, *(child for axes in figure.axes for child in axes.child_axes)]]


def _axes(axes: Axes) -> dict[str, Any]:
    lines = [{"label": str(line.get_label()), "points": len(line.get_xdata()), "x": _some(line.get_xdata()),
              "y": _some(line.get_ydata())} for line in axes.get_lines() if len(line.get_xdata())]
    bars = [_rounded([p.get_x(), p.get_y(), p.get_width(), p.get_height()]) for p in axes.patches
            if isinstance(p, Rectangle)]
    dots = [_some(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)]
    images = [[*_some(image.get_array()), float(np.sum(image.get_array()))] for image in axes.get_images()]
    found = {"title": axes.get_title(), "lines": lines, "bars": bars[:: len(bars) // (4 * POINTS) + 1], "dots": dots,
             "images": images, "texts": [text.get_text() for text in axes.texts][:: len(axes.texts) // 64 + 1]}
    return {name: value for name, value in found.items() if value}


def _some(values: Any) -> list[float]:
    """At most ``POINTS`` of them, evenly apart, with both ends."""
    values = np.asarray(values, float).ravel()
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS)).round().astype(int))
    return _rounded(values[places])


def _rounded(values: Any) -> list[float]:
    """To eight significant digits: JSON stays readable."""
    return [float(f"{value:.8g}") for value in np.asarray(values, float)]


def differences(name: str, drawn: list[dict[str, Any]]) -> list[str]:
    """Where one figure's numbers are not the committed ones within 1e-4, as float tensors differ between machines."""
    found: list[str] = []
    _compare(json.loads(FILE.read_text(encoding="utf-8")).get(name), drawn, name, found)
    return found


def _compare(wanted: Any, got: Any, place: str, found: list[str]) -> None:
    if isinstance(wanted, dict) and isinstance(got, dict) and wanted.keys() == got.keys():
        for key in wanted:
            _compare(wanted[key], got[key], f"{place}.{key}", found)
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for index, (one, other) in enumerate(zip(wanted, got)):
            _compare(one, other, f"{place}[{index}]", found)
    elif isinstance(wanted, float) and isinstance(got, float):
        if not np.isclose(wanted, got, rtol=1e-4, atol=1e-6, equal_nan=True):
            found.append(f"{place}: committed {wanted}, got {got}")
    elif wanted != got:
        found.append(f"{place}: committed {wanted!r}, got {got!r}"[:300])


def keep(drawn: dict[str, list[dict[str, Any]]]) -> None:
    """Write the numbers of these figures, and leave those of the others."""
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    text = json.dumps(dict(sorted({**kept, **drawn}.items())), ensure_ascii=False, separators=(",", ":"))
    FILE.write_text(text.replace('},{"title"', '},\n{"title"').replace(',"lines"', ',\n"lines"')
                    .replace('},{"label"', '},\n {"label"').replace(']}],', ']}],\n').replace('],"', '],\n"') + "\n",
                    encoding="utf-8")
