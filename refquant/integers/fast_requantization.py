"""``requantize`` on large arrays: blocks that stay in the cache, and floats wherever they are certain.

Far from every tie float32 gives the code, nearer to one float64, and at ties ``dialects.evaluate``. 10^7 sums take
less than a second in each of the nine dialects (``tests/benchmarks/bench_requantize.py``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refquant.integers.dialects import Dialect, evaluate
from refquant.integers.far_from_ties import NEAREST, round_far_from_ties
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.rounding import round_product, round_product_sum

# Elements in a block: its temporaries stay in the cache.
_BLOCK = 1 << 17


def requantize_in_blocks(acc: np.ndarray, multiplier: Multiplier, fmt: IntFormat, dialect: Dialect, zero_point: int
                         ) -> np.ndarray:
    """The codes of ``requantize``, bit for bit; its arguments are checked already."""
    real, m, shift = (p.ravel() for p in (multiplier.real, multiplier.m, multiplier.shift))
    shape = np.broadcast_shapes(acc.shape, multiplier.shift.shape)
    # Rows along which the multiplier does not change.
    padded = (1,) * (len(shape) - multiplier.shift.ndim) + multiplier.shift.shape
    steady = max((axis + 1 for axis, size in enumerate(padded) if size != 1), default=0)
    rows, width = math.prod(shape[:steady]), math.prod(shape[steady:])
    x = np.broadcast_to(acc, shape).reshape(rows, width)
    channel = np.broadcast_to(np.arange(shift.size).reshape(padded[:steady]), shape[:steady]).reshape(rows, 1)
    codes = np.empty((rows, width), fmt.dtype)

    def decide(where: Any, of: np.ndarray) -> None:
        value = _evaluate(dialect, x[where].astype(np.int64), real[of], m[of], shift[of], zero_point)
        codes[where] = dialect.ended(value, fmt)

    tall, wide = max(1, _BLOCK // max(width, 1)), _BLOCK
    blocks = [np.s_[top:top + tall, left:left + wide] for top in range(0, rows, tall)
              for left in range(0, width, wide)]
    factors, slack = _factors(dialect, real, m, shift, fmt)
    if factors is None:
        for block in blocks:
            decide(block, channel[block[0]])
        return codes.reshape(shape)
    rounded_twice = slack.any()
    single, limits = factors.astype(np.float32)[channel], (fmt.min - zero_point, fmt.max - zero_point)
    unsure = []
    for block in blocks:
        product = x[block].astype(np.float32)
        product *= single[block[0]]
        whole, near = round_far_from_ties(product, *limits, slack[channel[block[0]]] if rounded_twice else 0.0)
        if zero_point:
            whole += zero_point
        codes[block] = whole
        if near.size:
            row, column = np.divmod(near, whole.shape[1])
            unsure.append((row + block[0].start, column + block[1].start))
    if unsure:
        row, column = (np.concatenate(places) for places in zip(*unsure))
        some = channel[row, 0]
        whole, near = round_far_from_ties(x[row, column] * factors[some], *limits, slack[some])
        codes[row, column] = whole + zero_point
        if near.size:
            decide((row[near], column[near]), some[near])
    return codes.reshape(shape)


def _factors(dialect: Dialect, real: np.ndarray, m: np.ndarray, shift: np.ndarray, fmt: IntFormat
             ) -> tuple[np.ndarray | None, np.ndarray]:
    """M in float64 where ``round_far_from_ties`` serves, else None; and how far a first rounding moves a value."""
    places = np.clip(shift, -2000, 2000).astype(np.int32)  # NumPy 1.26 on Windows takes no int64
    slack = np.zeros(shift.shape) if dialect.first == "none" else np.where(shift < 0, np.ldexp(0.5, places), 0)
    if (fmt.bits > 16 or dialect.end != "saturate" or dialect.multiplier == "float32"
            or not {dialect.last, dialect.first} <= {*NEAREST, "none"} or real.max(initial=0) > 2.0**60
            or (dialect.left != "merged" and shift.max(initial=0) > 0)):
        return None, slack
    return (real if dialect.multiplier == "real" else np.ldexp(dialect.rounded(m), places - dialect.width)), slack


def _evaluate(dialect: Dialect, x: np.ndarray, real: np.ndarray, m: np.ndarray, shift: np.ndarray, zero_point: int
              ) -> np.ndarray:
    """``evaluate``; for clamped codes of multiplier ``real`` on whole arrays, while float64 holds the sums."""
    if (dialect.multiplier != "real" or dialect.end != "saturate"
            or x.min(initial=0) < -(2**53) or x.max(initial=0) > 2**53):
        return evaluate(dialect, x, real, m, shift, zero_point)
    if dialect.zero == "before" and zero_point:
        return round_product_sum(x.astype(np.float64), real, zero_point, dialect.last, limit=2.0**33)
    return round_product(x.astype(np.float64), real, dialect.last, limit=2.0**33).astype(np.int64) + zero_point
