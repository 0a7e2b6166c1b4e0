"""EasyQuant: both scales of one layer, searched for the cosine of its output with the float output.

Read in this order: ``search`` (the alternating search, as in the paper, in its authors' code, and in ncnn),
``initial_scales`` (where a search starts), ``candidate_cosines`` (the cosines of many candidates at once).
"""

from refquant.easyquant.search import MODES, HalfStep, ScaleSearch, search_layer

__all__ = [
    "MODES",
    "HalfStep",
    "ScaleSearch",
    "search_layer",
]
