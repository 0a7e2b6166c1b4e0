"""The float engine under convolution: few large matrix products, and little copying.

Three ways by the kind of layer. Whether floats may stand for integers here is the caller's proof.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from refquant.convolution.geometry import Geometry
from refquant.convolution.work_arrays import work_array

# Elements of the buffer of shifted rows: 4 MiB of float32.
BLOCK = 1 << 20
# A depthwise layer: outputs in a run, and elements of the runs' inputs at a time, 4 MiB of float32.
COLUMNS, BANDS = 32, 1 << 20


def largest_weight_sum(w_q: np.ndarray) -> int:
    """max over outputs of Σ|w_q|, exactly; w_q: integers (O, ...). Times the largest |x| it bounds every sum.

    >>> largest_weight_sum(np.array([[3, -2], [1, 1]]))
    5
    """
    rows = w_q.reshape(len(w_q), -1)
    if max(-int(rows.min()), int(rows.max())) * rows.shape[1] < 2**63:
        return int(np.abs(rows.astype(np.int64)).sum(axis=1).max())
    return max(sum(abs(v) for v in row) for row in rows.tolist())


def exact_dtype(largest: int, what: str = "sums") -> type:
    """The type in which sums of integers are exact, in any order, while none exceeds ``largest``.

    float32 below 2^24 and float64 below 2^53, which have fast matrix products; else int64. OverflowError, naming
    ``what``, where int64 does not hold them.

    >>> exact_dtype(2**24 - 1), exact_dtype(2**24)
    (<class 'numpy.float32'>, <class 'numpy.float64'>)
    """
    if largest >= 2**63:
        raise OverflowError(f"{what} can reach {largest}, which int64 does not hold")
    return np.float32 if largest < 2**24 else np.float64 if largest < 2**53 else np.int64


def correlate(x: np.ndarray, w: np.ndarray, geometry: Geometry, dtype: type,
              result: type | None = None) -> np.ndarray:
    """Σ w·x in floats of ``dtype``, padded with zeros, given as ``result`` (by default dtype too).

    x: (N, C, H, W), w: (O, C/groups, R, S), any real dtype. Returns (N, O, P, Q).
    """
    rows, columns = geometry.output_size(x.shape[2], x.shape[3], w.shape[2:])
    y: np.ndarray = np.empty((len(x), len(w), rows, columns), result or dtype)
    if w.shape[1] == 1:
        _depthwise(x, w.astype(dtype), geometry, y)
    elif w.shape[2:] == (1, 1) and geometry == Geometry():
        matrix: np.ndarray = w[:, :, 0, 0].astype(dtype)
        for image, out in zip(x, y):
            out[...] = (matrix @ image.reshape(len(image), -1).astype(dtype, copy=False)).reshape(out.shape)
    else:
        _by_rows(x, w, geometry, dtype, y)
    return y


def _depthwise(x: np.ndarray, w: np.ndarray, geometry: Geometry, y: np.ndarray) -> None:
    """One input channel per group: each channel's kernel as a banded matrix, and one product; writes ``y``.

    Of a product w·x there would be one row. But a run of COLUMNS outputs is the R rows of input that it sees, end to
    end, times a Toeplitz matrix, which holds kernel row r in the band that begins r rows down. All runs of a
    plane, and of several images, see the same matrix; a few channels at a time stay in the cache.

    Its zeros meet values that the definition never reads, so that infinities spread along a run.
    """
    channels, (kernel_rows, kernel_columns) = x.shape[1], w.shape[2:]
    (down, across), (spread_r, spread_s) = geometry.stride, geometry.dilation
    w = w.reshape(channels, -1, kernel_rows, kernel_columns)  # (C, O/C, R, S)
    y = y.reshape(len(y), channels, w.shape[1], *y.shape[2:])
    rows, columns = y.shape[3:]
    runs = -(-columns // COLUMNS)
    run = -(-columns // runs)
    seen = (run - 1) * across + (kernel_columns - 1) * spread_s + 1
    band = np.zeros((channels, kernel_rows, seen, w.shape[1], run), w.dtype)
    output = np.arange(run)
    for s in range(kernel_columns):
        band[:, :, output * across + s * spread_s, :, output] = w[:, :, :, s].transpose(0, 2, 1)
    band = band.reshape(channels, kernel_rows * seen, -1)
    top, left, bottom, right = geometry.padding
    # The last run may end beyond the plane.
    missing = (runs - 1) * run * across + seen - (x.shape[3] + left + right)
    padding = (top, left, bottom, right + max(0, missing))
    size = rows * runs * band.shape[1]
    images = max(1, min(len(x), BANDS // size))
    step = max(1, BANDS // (images * size))
    for first in range(0, len(x), images):
        for channel in range(0, channels, step):
            padded = _padded(x[first:first + images, channel:channel + step], padding, w.dtype.type)
            some, count = padded.shape[:2]
            views = sliding_window_view(padded, ((kernel_rows - 1) * spread_r + 1, seen), (2, 3))
            views = views[:, :, ::down, ::run * across, ::spread_r][:, :, :, :runs]
            inputs = work_array("inputs", views.shape, w.dtype.type)
            inputs[...] = views
            total = work_array("total", (some, count * rows * runs, band.shape[2]), w.dtype.type)
            np.matmul(inputs.reshape(some, -1, band.shape[1]), band[channel:channel + step], out=total)
            done = total.reshape(some, count, rows, runs, -1, run).transpose(1, 0, 4, 2, 3, 5)
            y[first:first + images, channel:channel + step] = done.reshape(*done.shape[:4], -1)[..., :columns]


def _by_rows(x: np.ndarray, w: np.ndarray, geometry: Geometry, dtype: type, y: np.ndarray) -> None:
    """One matrix product per kernel row, without copying the input R times; writes ``y``.

    Only the S horizontal shifts are copied, into rows of Q elements. Kernel row r then reads the same plane from
    row r on: one flat view, so that one product runs over all output rows. (At the seams between images it computes
    a few rows that nobody reads.) With a vertical stride a, the input's rows are first split into a phases; dilation
    moves r to r·dilation.

    Large planes are done in bands of rows, small ones several images at a time.
    """
    n, channels = x.shape[:2]
    groups, (kernel_rows, kernel_columns) = geometry.groups, w.shape[2:]
    rows, columns = y.shape[2:]
    down, spread = geometry.stride[0], geometry.dilation[0]
    offsets = [divmod(r * spread, down) for r in range(kernel_rows)]  # (rows further on, phase)
    extra = offsets[-1][0]
    # (R, groups, O/groups, S·C/groups): each kernel row's weights in the order of the shifted rows.
    weight = w.reshape(groups, -1, *w.shape[1:]).transpose(3, 0, 1, 4, 2)
    weight = np.ascontiguousarray(weight, dtype).reshape(kernel_rows, groups, len(w) // groups, -1)

    row_size = kernel_columns * channels * columns
    band = min(rows, max(8, BLOCK // row_size - extra))
    images = max(1, BLOCK // (row_size * (rows + extra))) if band == rows else 1
    for start in range(0, n, images):
        padded = _padded(x[start:start + images], geometry.padding, dtype)
        count = padded.shape[1]
        for top in range(0, rows, band):
            height = min(band, rows - top) + extra
            shifts = {phase: _shifted(padded[:, :, top * down + phase::down][:, :, :height], height, kernel_columns,
                                      columns, geometry, dtype, phase)
                      for phase in {phase for _, phase in offsets}}
            length = (count * height - extra) * columns
            total = work_array("total", (groups, len(w) // groups, count * height * columns), dtype)
            part = work_array("part", (groups, len(w) // groups, length), dtype)
            for r, (offset, phase) in enumerate(offsets):
                seen = shifts[phase][..., offset * columns:offset * columns + length]
                np.matmul(weight[r], seen, out=part if r else total[..., :length])
                if r:
                    total[..., :length] += part
            done = total.reshape(len(w), count, height, columns)[:, :, :height - extra]
            y[start:start + images, :, top:top + height - extra] = done.transpose(1, 0, 2, 3)


def _padded(x: np.ndarray, padding: tuple[int, int, int, int], dtype: type) -> np.ndarray:
    """(N, C, H, W) as (C, N, ...) in ``dtype`` with its padding."""
    top, left, bottom, right = padding
    n, channels, height, width = x.shape
    padded = work_array("padded", (channels, n, height + top + bottom, width + left + right), dtype)
    padded.fill(0)
    padded[:, :, top:top + height, left:left + width] = x.transpose(1, 0, 2, 3)
    return padded


def _shifted(plane: np.ndarray, height: int, kernel_columns: int, columns: int, geometry: Geometry,
             dtype: type, phase: int) -> np.ndarray:
    """The S horizontal shifts of (C, N, height, width): (groups, S·C/groups, N·height·Q), missing rows 0."""
    channels, count, present, _ = plane.shape
    across, spread = geometry.stride[1], geometry.dilation[1]
    groups = geometry.groups
    shape = (groups, kernel_columns, channels // groups, count, height, columns)
    shifted = work_array(f"shifted {phase}", shape, dtype)
    shifted[..., present:, :] = 0
    for s in range(kernel_columns):
        view = plane[..., s * spread:s * spread + (columns - 1) * across + 1:across]
        shifted[:, s, :, :, :present] = view.reshape(groups, -1, *view.shape[1:])
    return shifted.reshape(groups, -1, count * height * columns)
