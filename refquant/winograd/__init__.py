"""Integer Winograd convolution F(m, r), stage by stage.

Read in this order: ``transforms`` (the three matrices from their points, proved when built), ``convolution`` (every
stage in a declared format, the definition first), ``bounds`` (what each stage can reach). ``blas`` makes it fast.
"""

from refquant.winograd.blas import transform_kernel
from refquant.winograd.bounds import describe_bounds, largest_channels, winograd_bounds, winograd_bounds_of_weights
from refquant.winograd.convolution import STAGES, winograd_convolve
from refquant.winograd.transforms import PRESETS, Transforms, cook_toom

__all__ = [
    "PRESETS",
    "STAGES",
    "Transforms",
    "cook_toom",
    "describe_bounds",
    "largest_channels",
    "transform_kernel",
    "winograd_bounds",
    "winograd_bounds_of_weights",
    "winograd_convolve",
]
