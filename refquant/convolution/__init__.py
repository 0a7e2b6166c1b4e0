"""Exact convolution of integers, and proven bounds of its sums.

Read in this order: ``geometry`` (stride, padding, dilation, groups), ``direct`` (convolution of floats and of
integers, its definition first), ``int16`` (through int16 lanes), ``bounds`` (worst cases, with operands that attain
them). ``blas`` and ``work_arrays`` make it fast.
"""

from refquant.convolution.bounds import (
    StageBound,
    direct_bounds,
    dot_product_range,
    l1_budget,
    largest_count,
    widest_operand,
)
from refquant.convolution.direct import convolve, convolve_direct, convolve_exact
from refquant.convolution.geometry import Geometry
from refquant.convolution.int16 import convolve_int16

__all__ = [
    "Geometry",
    "StageBound",
    "convolve",
    "convolve_direct",
    "convolve_exact",
    "convolve_int16",
    "direct_bounds",
    "dot_product_range",
    "l1_budget",
    "largest_count",
    "widest_operand",
]
