"""Convolution through int16 lanes: ``accumulation.dot_int16`` for every output at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry, taps
from refquant.integers.accumulation import LANES, check_products_per_lane
from refquant.integers.checks import one_of
from refquant.integers.formats import POLICIES, IntFormat, apply_policy, check_codes
from refquant.integers.simd import INT16, INT32
from refquant.integers.stages import Trace


def convolve_int16(x_q: Any, w_q: Any, x_format: IntFormat, w_format: IntFormat, *,
                   products_per_lane: int | str = "safe", policy: str = "trap", stride: Any = 1, padding: Any = 0,
                   dilation: Any = 1, groups: int = 1, trace: Trace | None = None) -> np.ndarray:
    """Convolution of codes of at most 8 bits through int16 lanes (``accumulation.dot_int16``), padded with 0.

    Each output is one dot product over channel, row, column, in this order. Under the "safe" schedule no
    int16 lane overflows, and the result equals ``convolve_exact`` while int32 holds the sums. ``policy`` says what
    happens where a lane or a sum overflows: under trap an OverflowError.

    x_q, w_q, stride, padding, dilation, groups: as for ``convolve_exact``.
    x_format, w_format, products_per_lane, policy: as for ``dot_int16``.
    trace: is shown the lanes of every step of every image, as SMLAL, SADALP and ADDV.
    Returns int64 (N, O, P, Q).

    >>> seven = IntFormat(7, narrow=True)
    >>> convolve_int16(np.full((1, 1, 3, 3), 63), np.full((1, 1, 3, 3), 63), seven, seven)
    array([[[[35721]]]])
    """
    x_q, w_q = check_codes(x_q, x_format, "input"), check_codes(w_q, w_format, "weight")
    per_lane = check_products_per_lane(products_per_lane, x_format, w_format)
    one_of(policy, POLICIES, "policy")
    geometry = Geometry.of(stride, padding, dilation, groups)
    geometry.check_shapes(x_q.shape, w_q.shape)
    groups = geometry.groups
    n, outputs, per_group = len(x_q), len(w_q), len(w_q) // groups
    rows, columns = geometry.output_size(x_q.shape[2], x_q.shape[3], w_q.shape[2:])
    # (N, groups, 1, P·Q, K) and (groups, O/groups, 1, K), K running over channel, row, column.
    seen = np.stack([view for _, view in taps(x_q, w_q.shape[2:], geometry)], axis=2)
    seen = seen.reshape(n, groups, -1, rows * columns).swapaxes(2, 3)[:, :, None]
    weight = w_q.reshape(groups, per_group, 1, -1)
    y = np.empty((n, groups, per_group, rows * columns), np.int64)
    for image in range(n):  # one at a time, so that the lanes stay small
        y[image] = dot_lanes(seen[image], weight, per_lane, policy, trace, f"image {image}: ")
    return y.reshape(n, outputs, rows, columns)


def dot_lanes(x_q: np.ndarray, w_q: np.ndarray, per_lane: int, policy: str, trace: Trace | None = None,
              place: str = "") -> np.ndarray:
    """``dot_int16`` of checked int64 operands, without the instructions' own checks.

    per_lane: products per lane. place: begins each error's text.
    """
    def settle(stage: str, exact: np.ndarray, fmt: IntFormat, where: str) -> np.ndarray:
        kept = apply_policy(exact, fmt, policy, place + where)
        if trace is not None:
            trace(stage, fmt, exact, kept)
        return kept.astype(np.int64)

    count = -(-x_q.shape[-1] // LANES)
    x_q, w_q = (_in_steps(operand, count) for operand in (x_q, w_q))
    wide: Any = 0
    narrow: Any = 0
    for step in range(count):
        narrow = settle("SMLAL", narrow + x_q[..., step, :] * w_q[..., step, :], INT16, f"SMLAL at step {step}, lane")
        if (step + 1) % per_lane == 0 or step + 1 == count:
            exact = wide + narrow[..., 0::2] + narrow[..., 1::2]
            wide = settle("SADALP", exact, INT32, f"SADALP at step {step}, lane")
            narrow = 0
    return settle("ADDV", wide.sum(axis=-1), INT32, "ADDV")


def _in_steps(operand: np.ndarray, count: int) -> np.ndarray:
    """(..., K) as (..., count, 8), the last step filled up with zeros."""
    missing = count * LANES - operand.shape[-1]
    operand = np.pad(operand, [(0, 0)] * (operand.ndim - 1) + [(0, missing)])
    return operand.reshape(*operand.shape[:-1], count, LANES)
