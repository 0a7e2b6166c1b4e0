"""Integer registers: the codes they hold, and the arithmetic done in them.

Read in this order: ``formats`` (which codes a register holds; wrap, saturate, trap), ``rounding`` (ten rules by
name), ``multiplier`` (a real number as m·2^(shift-31)), ``dialects`` (how a device rounds a product, in six words),
``requantization`` (the same on whole arrays), ``stages`` (a stage's range; traces), ``simd`` (NEON's instructions as
functions), ``accumulation`` (the int16 dot product made of them, and one that adds in a single register).
``checks`` holds the checks of arguments.
"""

from refquant.integers.accumulation import dot_int16, dot_sequential, overflow_witness, safe_products_per_lane
from refquant.integers.dialects import DIALECTS, Dialect
from refquant.integers.formats import IntFormat, apply_policy, saturate, smallest_format, trap, wrap
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.integers.rounding import RULES, round_fraction, round_values, shift_right
from refquant.integers.stages import Recorder, StageRange, headroom_bits

__all__ = [
    "DIALECTS",
    "RULES",
    "Dialect",
    "IntFormat",
    "Multiplier",
    "Recorder",
    "StageRange",
    "apply_policy",
    "dot_int16",
    "dot_sequential",
    "headroom_bits",
    "overflow_witness",
    "requantize",
    "round_fraction",
    "round_values",
    "safe_products_per_lane",
    "saturate",
    "shift_right",
    "smallest_format",
    "trap",
    "wrap",
]
