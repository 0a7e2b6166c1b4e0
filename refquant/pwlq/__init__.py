"""PWLQ (ECCV 2020, arXiv 2002.00104): piecewise linear codes, where to break, and products of them in integers.

Read in this order: ``quantizer`` (Eq. 3: a code is region, sign, magnitude), ``theory`` (Eq. 4 and 6, the lemmas),
``breakpoints`` (where to break, by every method), ``optimal`` (the least measured error, proven), ``inner_product``
(three sums, or nine), ``moments`` (the paper's bias correction).
"""

from refquant.pwlq.breakpoints import METHODS, breakpoint, limits_of, multiple_breakpoints, optimal_breakpoint
from refquant.pwlq.inner_product import inner_product
from refquant.pwlq.moments import match_weight_moments
from refquant.pwlq.quantizer import VARIANTS, PiecewiseCodes, PiecewiseGrid, dequantize, quantize, round_trip

__all__ = ["METHODS", "VARIANTS", "PiecewiseCodes", "PiecewiseGrid", "breakpoint", "dequantize",
           "inner_product", "limits_of", "match_weight_moments", "multiple_breakpoints", "optimal_breakpoint",
           "quantize", "round_trip"]
