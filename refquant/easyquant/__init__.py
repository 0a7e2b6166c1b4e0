"""EasyQuant: both scales of one layer, searched for the cosine of its output with the float output.

Three algorithms carry the name; each reads like its algorithm box: ``paper`` (the alternating search), ``demo`` (its
authors' code), ``ncnn`` (the port). They share ``layer`` (operands, checks, results), ``initial_scales`` (where a
search starts) and ``candidate_cosines`` (the cosines of many candidates); ``gram`` makes the paper's weights fast.
"""

from refquant.easyquant.demo import search_demo
from refquant.easyquant.layer import HalfStep, ScaleSearch
from refquant.easyquant.ncnn import search_ncnn
from refquant.easyquant.paper import search_paper

__all__ = [
    "HalfStep",
    "ScaleSearch",
    "search_demo",
    "search_ncnn",
    "search_paper",
]
