"""PWLQ (ECCV 2020, arXiv 2002.00104): piecewise linear codes, where to break, and products of them in integers.

Read in this order: ``quantizer`` (Eq. 3: a code is region, sign, magnitude), ``theory`` (Eq. 4 and 6, the lemmas),
``breakpoints`` (where to break, by every method), ``optimal`` (the least measured error, proven).
"""

from refquant.pwlq.breakpoints import METHODS, breakpoint, limits_of, multiple_breakpoints, optimal_breakpoint
from refquant.pwlq.quantizer import VARIANTS, PiecewiseCodes, PiecewiseGrid, dequantize, quantize, round_trip

__all__ = ["METHODS", "VARIANTS", "PiecewiseCodes", "PiecewiseGrid", "breakpoint", "dequantize", "limits_of",
           "multiple_breakpoints", "optimal_breakpoint", "quantize", "round_trip"]
