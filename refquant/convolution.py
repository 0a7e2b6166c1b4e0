"""Convolution (cross-correlation, as CNNs mean it) of floats, and of integers exactly.

    y[n, o, p, q] = bias[o] + Σ_{c, r, s} w[o, c, r, s] · x[n, c', p·stride + r·dilation, q·stride + s·dilation]

with x padded and c' running through the input channels of o's group. Shape letters are those of
``refquant``'s docstring.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refquant.formats import IntFormat, as_integers
from refquant.lanes import check_codes, check_schedule, dot_int16


class Geometry(NamedTuple):
    """How a kernel moves over its input.

    stride, dilation: (vertical, horizontal). padding: (top, left, bottom, right), ONNX's order.
    groups: input and output channels are split into that many independent convolutions.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1) -> Geometry:
        """From a number for both directions, or a pair, or for padding also four; checked."""
        stride = _integers(stride, "stride", (2,), 1)
        dilation = _integers(dilation, "dilation", (2,), 1)
        padding = _integers(padding, "padding", (2, 4), 0)
        return cls((stride[0], stride[1]), (padding * 2)[:4], (dilation[0], dilation[1]),
                   _integers(groups, "groups", (1,), 1)[0])

    def output_size(self, height: int, width: int, kernel: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output; ValueError where the kernel does not fit the padded input."""
        sizes = []
        for size, before, after, k, step, spread in zip(
                (height, width), self.padding[:2], self.padding[2:], kernel, self.stride, self.dilation):
            padded, extent = size + before + after, (k - 1) * spread + 1
            if extent > padded:
                raise ValueError(f"the kernel must fit the padded input, got extent {extent} over {padded}")
            sizes.append((padded - extent) // step + 1)
        return sizes[0], sizes[1]

    def check_shapes(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
        """ValueError unless a weight of ``w_shape`` can be moved over an input of ``x_shape``."""
        if len(x_shape) != 4 or 0 in x_shape:
            raise ValueError(f"input must be a non-empty (N, C, H, W), got shape {x_shape}")
        if len(w_shape) != 4 or 0 in w_shape:
            raise ValueError(f"weight must be a non-empty (O, C/groups, R, S), got shape {w_shape}")
        channels, outputs = x_shape[1], w_shape[0]
        if channels % self.groups or outputs % self.groups:
            raise ValueError(f"groups must divide the channels, got groups {self.groups} for {channels} "
                             f"input and {outputs} output channels")
        if w_shape[1] * self.groups != channels:
            raise ValueError(f"weight must be (O, {channels // self.groups}, R, S) for {channels} input "
                             f"channels in {self.groups} groups, got shape {w_shape}")


def _integers(value: Any, name: str, lengths: tuple[int, ...], least: int) -> tuple[int, ...]:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim > 1 or (array.ndim == 1 and len(array) not in lengths):
        wanted = " or ".join(str(n) for n in lengths if n > 1)
        raise ValueError(f"{name} must be an integer{f' or {wanted} of them' if wanted else ''}, got {value!r}")
    if (array < least).any():
        raise ValueError(f"{name} must be >= {least}, got {value!r}")
    return tuple(int(v) for v in (array if array.ndim else np.repeat(array, lengths[0])))


def pad(x: np.ndarray, padding: tuple[int, int, int, int], value: Any = 0) -> np.ndarray:
    """(N, C, H, W) with (top, left, bottom, right) rows and columns of ``value`` around it."""
    if not any(padding):
        return x
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def taps(x: np.ndarray, kernel: tuple[int, int], geometry: Geometry) -> Any:
    """For each kernel position: ((r, s), the view of padded x it sees, shaped (N, C, P, Q))."""
    rows, columns = geometry.output_size(x.shape[2], x.shape[3], kernel)
    (down, across), (spread_r, spread_s) = geometry.stride, geometry.dilation
    padded = pad(x, geometry.padding)
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            yield (r, s), padded[:, :, r * spread_r:r * spread_r + (rows - 1) * down + 1:down,
                                 s * spread_s:s * spread_s + (columns - 1) * across + 1:across]


def _sum_taps(x: np.ndarray, w: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The convolution as one matrix product per kernel position, in the operands' own dtype."""
    groups = geometry.groups
    n, outputs = x.shape[0], w.shape[0]
    rows, columns = geometry.output_size(x.shape[2], x.shape[3], w.shape[2:])
    # Channels first, so that each group of each tap is a (C/groups, N·P·Q) matrix.
    x = np.ascontiguousarray(x.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)
    w = w.reshape(groups, outputs // groups, *w.shape[1:])
    depthwise = w.shape[2] == 1
    total = np.zeros((groups, outputs // groups, n * rows * columns), x.dtype)
    for (r, s), seen in taps(x, w.shape[3:], geometry):
        matrix = seen.transpose(1, 0, 2, 3).reshape(groups, -1, n * rows * columns)
        # One input channel per group needs no matrix product: weight times plane.
        total += w[:, :, :, r, s] * matrix if depthwise else np.matmul(w[:, :, :, r, s], matrix)
    return total.reshape(outputs, n, rows, columns).transpose(1, 0, 2, 3)


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
        if array.dtype.kind != "f":
            raise ValueError(f"{name} must hold floats (convolve_exact takes integers), got dtype {array.dtype}")
    geometry = Geometry.of(stride, padding, dilation, groups)
    geometry.check_shapes(x.shape, w.shape)
    dtype = np.result_type(x, w)
    y = _sum_taps(x.astype(dtype, copy=False), w.astype(dtype, copy=False), geometry)
    return y if bias is None else y + _bias(bias, "f", w.shape[0]).astype(dtype)[:, None, None]


def _as_int64(x: Any, name: str) -> np.ndarray:
    x = as_integers(x, name)
    if x.dtype == np.uint64 and x.size and x.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit int64, got {x.max()}")
    return x.astype(np.int64)


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
    x_q, w_q = _as_int64(x_q, "input"), _as_int64(w_q, "weight")
    geometry = Geometry.of(stride, padding, dilation, groups)
    geometry.check_shapes(x_q.shape, w_q.shape)
    geometry.output_size(x_q.shape[2], x_q.shape[3], w_q.shape[2:])
    if bias_q is not None:
        bias_q = _bias(bias_q, "iu", w_q.shape[0])
    if isinstance(zero_point, bool) or not isinstance(zero_point, (int, np.integer)):
        raise ValueError(f"zero_point must be an integer, got {zero_point!r}")
    zero_point = int(zero_point)
    # Python integers: the bounds themselves must not overflow.
    reach = max(abs(int(x_q.min()) - zero_point), abs(int(x_q.max()) - zero_point))
    bound = reach * max(sum(abs(v) for v in row) for row in w_q.reshape(len(w_q), -1).tolist())
    largest = max(reach, bound + (0 if bias_q is None else max(abs(int(v)) for v in bias_q)))
    if largest >= 2**63:
        raise OverflowError(f"the convolution's sums can reach {largest}, which int64 does not hold")
    if bound < 2**53:
        dtype = np.float32 if bound < 2**24 else np.float64
        y = _sum_taps((x_q - zero_point).astype(dtype), w_q.astype(dtype), geometry).astype(np.int64)
    else:
        y = convolve_int64(x_q - zero_point, w_q, geometry)
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
    """The products per int16 lane, and the least and greatest value an int16 and an int32 lane held."""

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
    n, outputs, per_group = len(x_q), len(w_q), len(w_q) // groups
    rows, columns = geometry.output_size(x_q.shape[2], x_q.shape[3], w_q.shape[2:])
    # (N, groups, 1, P·Q, K) and (groups, O/groups, 1, K), K running over channel, row, column.
    seen = np.stack([view for _, view in taps(x_q, w_q.shape[2:], geometry)], axis=2)
    seen = seen.reshape(n, groups, -1, rows * columns).swapaxes(2, 3)[:, :, None]
    weight = w_q.reshape(groups, per_group, 1, -1)
    y = np.empty((n, groups, per_group, rows * columns), np.int64)
    extremes = {"SMLAL": (0, 0), "SADALP": (0, 0)}
    for image in range(n):  # one at a time, so that the lanes stay small
        if not record:
            y[image] = dot_int16(seen[image], weight, x_format, w_format, every, policy)
            continue
        y[image], steps = dot_int16(seen[image], weight, x_format, w_format, every, policy, trace=True)
        for step in steps:
            low, high = extremes[step.instruction]
            extremes[step.instruction] = min(low, int(step.lanes.min())), max(high, int(step.lanes.max()))
    y = y.reshape(n, outputs, rows, columns)
    return (y, LaneRange(every, *extremes["SMLAL"], *extremes["SADALP"])) if record else y
