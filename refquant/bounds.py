"""Proven worst cases of integer sums, from the weights at hand."""

from __future__ import annotations

import math
import sys

import numpy as np

from refquant.formats import IntFormat, as_integers


def dot_product_range(w_q: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Per output channel, the least and greatest Σ w_q·x over all x with low <= x_i <= high.

    Every product is at its extreme where x is ``low`` or ``high`` by the sign of its weight, so both
    values are attained. low <= 0 <= high: then they also bound every partial sum, in any order.

    w_q: integers (O, ...). Returns two int64 arrays (O,). ValueError where 0 is not in the range,
    OverflowError where int64 does not hold the sums.

    >>> dot_product_range(np.array([[3, -2]]), -63, 63)
    (array([-315]), array([315]))
    """
    if not low <= 0 <= high:
        raise ValueError(f"the range must contain 0, got {low}..{high}")
    w_q = as_integers(w_q, "weight").reshape(len(w_q), -1)
    # Python integers: the check itself must not overflow.
    largest = max(sum(abs(v) for v in row) for row in w_q.tolist()) * max(-low, high, 1)
    if largest >= 2**63:
        raise OverflowError(f"sums can reach {largest}, which int64 does not hold")
    w_q = w_q.astype(np.int64)
    positive, negative = np.maximum(w_q, 0).sum(axis=1), np.minimum(w_q, 0).sum(axis=1)
    return positive * low + negative * high, positive * high + negative * low


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
