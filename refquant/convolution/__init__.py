"""Exact sums of convolutions, and what they can reach.

Read in this order: ``geometry`` (stride, padding, dilation, groups), ``direct`` (convolution in floats, in integers,
and in int16 lanes), ``bounds`` (worst cases, with operands that attain them). ``blas`` and ``work_arrays`` make it
fast.
"""

from refquant.convolution.bounds import (
    StageBound,
    direct_bounds,
    dot_product_range,
    headroom_bits,
    l1_budget,
    largest_count,
    widest_operand,
)
from refquant.convolution.direct import convolve, convolve_exact, convolve_int16
from refquant.convolution.geometry import Geometry

__all__ = [
    "Geometry",
    "StageBound",
    "convolve",
    "convolve_exact",
    "convolve_int16",
    "direct_bounds",
    "dot_product_range",
    "headroom_bits",
    "l1_budget",
    "largest_count",
    "widest_operand",
]
