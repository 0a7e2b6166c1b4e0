"""The value range of one stage of an integer computation, and traces that record it.

Functions that compute in stages take ``trace``, a function that is shown each of them, in order, as
``trace(stage, fmt, exact, kept)``: the stage's name, the format of its register, the exact values, and what the
register kept of them under the policy. What a function returns does not depend on its trace.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from refquant.integers.formats import IntFormat

Trace = Callable[[str, IntFormat, np.ndarray, np.ndarray], None]


def headroom_bits(low: int, high: int, fmt: IntFormat) -> float:
    """How many times the range [low, high] can double before it leaves ``fmt``.

    min(log2(fmt.max / high), log2(fmt.min / low)) over the sides that are not zero: 0 or more where
    the range fits, below 0 where it does not, infinite for the range [0, 0].

    >>> headroom_bits(-31752, 31752, IntFormat(16)) > 0 > headroom_bits(-40000, 0, IntFormat(16))
    True
    """
    sides = [(fmt.max, high)] * (high > 0) + [(fmt.min, low)] * (low < 0)
    if any(limit == 0 for limit, _ in sides):
        return -math.inf
    bits = min((math.log2(limit / value) for limit, value in sides), default=math.inf)
    # The quotient of large integers can round to 1; then the comparison of integers decides.
    return bits if fmt.min <= low and high <= fmt.max else min(bits, -sys.float_info.min)


@dataclass(frozen=True)
class StageRange:
    """The least and greatest value of a stage, observed or proven, and the format that is to hold them.

    stage: its name. layer: in a network, the layer's name.

    >>> StageRange("lane", IntFormat(16), -31752, 31752).fits
    True
    """

    stage: str
    format: IntFormat
    min: int
    max: int
    layer: str = ""

    @property
    def fits(self) -> bool:
        """Whether the format holds the range."""
        return self.format.min <= self.min and self.max <= self.format.max

    @property
    def headroom_bits(self) -> float:
        """How often the range can double within the format (``headroom_bits``)."""
        return headroom_bits(self.min, self.max, self.format)

    def merge(self, low: int, high: int) -> StageRange:
        """The range widened to low..high."""
        return StageRange(self.stage, self.format, min(self.min, low), max(self.max, high), self.layer)


class Recorder:
    """A trace that keeps, by stage, the range of the exact values and the last values that the register kept.

    >>> from refquant.integers.accumulation import dot_int16
    >>> seven, seen = IntFormat(7, narrow=True), Recorder()
    >>> int(dot_int16([63] * 16, [63] * 16, seven, seven, trace=seen)), seen.ranges["SMLAL"].max
    (63504, 7938)
    """

    def __init__(self) -> None:
        self.ranges: dict[str, StageRange] = {}
        self.values: dict[str, np.ndarray] = {}

    def __call__(self, stage: str, fmt: IntFormat, exact: np.ndarray, kept: np.ndarray) -> None:
        if not exact.size:
            return
        low, high = int(exact.min()), int(exact.max())
        before = self.ranges.get(stage, StageRange(stage, fmt, low, high))
        self.ranges[stage], self.values[stage] = before.merge(low, high), kept
