"""Convolution (cross-correlation, as CNNs mean it) of floats, and of integers exactly.

    y[n, o, p, q] = bias[o] + Σ_{c, r, s} w[o, c, r, s] · x[n, c', p·stride + r·dilation, q·stride + s·dilation]

with x padded and c' running through the input channels of o's group. Shape letters are those of
``refquant``'s docstring.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.blas import correlate
from refquant.convolution.geometry import Geometry, taps
from refquant.integers.checks import fitting_int64, integer
from refquant.integers.formats import IntFormat, check_codes
from refquant.integers.simd import LaneStep, check_schedule, run_lanes


def convolve(x: Any, w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
             groups: int = 1) -> np.ndarray:
    """Convolution of floats, padded with zeros.

    x: (N, C, H, W), w: (O, C/groups, R, S), bias: (O,) or None; float32 or float64, finite or not.
    stride, dilation: a number or a pair. padding: a number, (vertical, horizontal) or (top, left,
    bottom, right). Returns (N, O, P, Q) in the operands' common dtype. ValueError for shapes that do
    not fit and for integers, which belong to ``convolve_exact``.

    >>> convolve(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))[0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    x, w = np.asarray(x), np.asarray(w)
    for name, array in (("input", x), ("weight", w)):
        if array.dtype not in (np.float32, np.float64):
            raise ValueError(f"{name} must hold float32 or float64 (convolve_exact takes integers), got dtype "
                             f"{array.dtype}")
    geometry = Geometry.of(stride, padding, dilation, groups)
    geometry.check_shapes(x.shape, w.shape)
    dtype = np.result_type(x, w).type
    y = correlate(x, w, geometry, dtype)
    return y if bias is None else y + _bias(bias, "f", w.shape[0]).astype(dtype)[:, None, None]


def _largest_weight_sum(w_q: np.ndarray) -> int:
    """max over outputs of Σ|w_q|, in Python integers where int64 might not hold it."""
    rows = w_q.reshape(len(w_q), -1)
    if max(-int(rows.min()), int(rows.max())) * rows.shape[1] < 2**63:
        return int(np.abs(rows.astype(np.int64)).sum(axis=1).max())
    return max(sum(abs(v) for v in row) for row in rows.tolist())


def _bias(bias: Any, kinds: str, outputs: int) -> np.ndarray:
    bias = np.asarray(bias)
    if bias.shape != (outputs,) or bias.dtype.kind not in kinds:
        raise ValueError(f"bias must hold {outputs} {'floats' if kinds == 'f' else 'integers'}, "
                         f"got shape {bias.shape} of {bias.dtype}")
    return bias


def convolve_exact(x_q: Any, w_q: Any, bias_q: Any = None, *, stride: Any = 1, padding: Any = 0,
                   dilation: Any = 1, groups: int = 1, zero_point: int = 0) -> np.ndarray:
    """Convolution of integers, exact: Σ w_q·(x_q - zero_point) + bias_q.

    The input is padded with ``zero_point``, so that padding stands for real 0. Shapes and geometry
    as for ``convolve``; any integer dtype. Returns int64 (N, O, P, Q).

    Float BLAS adds integer-valued floats exactly, in any order, while no sum can reach 2^24
    (float32) or 2^53 (float64). That is proved from the operands at hand: no partial sum exceeds
    max_o Σ|w_q|·max|x_q - zero_point|. Above 2^53 the plain int64 loop runs; where not even int64 is
    proven to hold the sums, OverflowError.

    >>> convolve_exact(np.array([[[[3, -128]]]]), np.array([[[[2, 127]]]]))
    array([[[[-16250]]]])
    """
    x_q, w_q = fitting_int64(x_q, "input"), fitting_int64(w_q, "weight")
    geometry = Geometry.of(stride, padding, dilation, groups)
    geometry.check_shapes(x_q.shape, w_q.shape)
    geometry.output_size(x_q.shape[2], x_q.shape[3], w_q.shape[2:])
    if bias_q is not None:
        bias_q = _bias(bias_q, "iu", w_q.shape[0])
    zero_point = integer(zero_point, "zero_point")
    reach = max(abs(int(x_q.min()) - zero_point), abs(int(x_q.max()) - zero_point))
    bound = reach * _largest_weight_sum(w_q)
    largest = max(reach, bound + (0 if bias_q is None else max(-int(bias_q.min()), int(bias_q.max()))))
    if largest >= 2**63:
        raise OverflowError(f"the convolution's sums can reach {largest}, which int64 does not hold")
    x = x_q.astype(np.int64) - zero_point if zero_point else x_q
    if bound < 2**53:
        y = correlate(x, w_q, geometry, np.float32 if bound < 2**24 else np.float64, np.int64)
    else:
        y = convolve_int64(x, w_q, geometry)
    return y if bias_q is None else y + bias_q.astype(np.int64)[:, None, None]


def convolve_int64(x: np.ndarray, w: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The plain int64 loop over kernel positions and channels: slow, and the judge of the fast road."""
    outputs, width = w.shape[:2]
    per_group = outputs // geometry.groups
    rows, columns = geometry.output_size(x.shape[2], x.shape[3], w.shape[2:])
    y = np.zeros((len(x), outputs, rows, columns), np.int64)
    for (r, s), seen in taps(x.astype(np.int64), w.shape[2:], geometry):
        for o in range(outputs):
            for c in range(width):
                y[:, o] += int(w[o, c, r, s]) * seen[:, o // per_group * width + c]
    return y


class LaneRange(NamedTuple):
    """The products per int16 lane, and the extremes (0 among them) of the lanes, before the policy is applied."""

    schedule: int
    int16_min: int
    int16_max: int
    int32_min: int
    int32_max: int


def convolve_int16(x_q: Any, w_q: Any, x_format: IntFormat, w_format: IntFormat, *, schedule: int | str = "safe",
                   policy: str = "trap", stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
                   record: bool = False) -> Any:
    """Convolution of codes of at most 8 bits through int16 lanes (``lanes.dot_int16``), padded with 0.

    Each output is one dot product over channel, row, column, in this order. Under the "safe" schedule it
    equals ``convolve_exact``; under a longer one lanes can overflow, and ``policy`` says what happens.
    x_q, w_q, geometry: as for ``convolve_exact``; x_format, w_format, schedule, policy: as for
    ``dot_int16``. Returns int64 (N, O, P, Q); with ``record`` the pair (sums, LaneRange).

    >>> seven = IntFormat(7, narrow=True)
    >>> convolve_int16(np.full((1, 1, 3, 3), 63), np.full((1, 1, 3, 3), 63), seven, seven)
    array([[[[35721]]]])
    """
    x_q, w_q = check_codes(x_q, x_format, "input"), check_codes(w_q, w_format, "weight")
    every = check_schedule(schedule, x_format, w_format)
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
    extremes = {"SMLAL": (0, 0), "SADALP": (0, 0)}

    def see(step: LaneStep) -> None:
        low, high = extremes[step.instruction]
        extremes[step.instruction] = min(low, int(step.lanes.min())), max(high, int(step.lanes.max()))

    for image in range(n):  # one at a time, so that the lanes stay small
        y[image] = run_lanes(seen[image], weight, every, policy, see if record else None, f"image {image}: ")
    y = y.reshape(n, outputs, rows, columns)
    return (y, LaneRange(every, *extremes["SMLAL"], *extremes["SADALP"])) if record else y
