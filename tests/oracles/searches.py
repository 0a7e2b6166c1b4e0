"""The three searches behind one call, for tests of what they share."""

from __future__ import annotations

from typing import Any

from refquant.easyquant import ScaleSearch, search_demo, search_ncnn, search_paper

SEARCHES = {"paper": search_paper, "demo": search_demo, "ncnn": search_ncnn}
FOREIGN = {"paper": ("bias", "relu"), "demo": ("granularity",), "ncnn": ("granularity",)}


def search_layer(inputs: Any, weights: Any, mode: str = "paper", **options: Any) -> ScaleSearch:
    """The search of one mode, without the options that the others have."""
    taken = {name: value for name, value in options.items() if name not in FOREIGN[mode]}
    return SEARCHES[mode](inputs, weights, **taken)
