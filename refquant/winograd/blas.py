"""Winograd convolution by matrix products of floats, where no stage can overflow or round.

``convolution`` says what is computed; here U is computed once for many inputs, and the transforms of all tiles are
one product each, with kron(B^T, B^T) and kron(A^T, A^T). ``tests/benchmarks/bench_winograd.py`` compares the times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refquant.convolution.blas import exact_dtype, largest_weight_sum
from refquant.convolution.work_arrays import work_array
from refquant.integers.checks import fitting_int64
from refquant.integers.formats import frozen_copy
from refquant.winograd.transforms import Transforms, transforms_for

# Elements of a work array: a few of them fit the cache together.
BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class TransformedKernel:
    """A kernel w_q (O, C, r, r) with its U, for many inputs: what ``transform_kernel`` returns.

    u: U as (n·n, O, C) int64. reach: for each stage but ``input`` and ``U`` the largest magnitude it can have
    for inputs of magnitude 1, by the absolute row sums of the transforms and U itself; ``terms`` is that of any
    partial sum inside the output transform.
    """

    w_q: np.ndarray
    transforms: Transforms
    u: np.ndarray = field(init=False)
    reach: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        t = self.transforms
        w = fitting_int64(self.w_q, "weight").astype(np.int64)
        if w.ndim != 4 or w.shape[2:] != (t.r, t.r) or w.size == 0:
            raise ValueError(f"weight must be a non-empty (O, C, {t.r}, {t.r}) for F({t.m}, {t.r}), "
                             f"got shape {w.shape}")
        b, g, a = (np.abs(matrix.astype(object)) for matrix in (t.bt, t.g, t.at))
        b, g = b.sum(axis=1), g.sum(axis=1)
        largest = max(-int(w.min()), int(w.max()))
        exact_dtype(largest * max(g)**2, "U")
        exact_dtype(largest * w.shape[1] * max((a @ (b * g)).tolist())**2, "output_scaled")
        u = np.ascontiguousarray((t.g @ w @ t.g.T).transpose(2, 3, 0, 1)).reshape(t.n**2, *w.shape[:2])
        v = np.outer(b, b).astype(np.int64).reshape(-1, 1)
        sums = v * np.abs(u).sum(axis=2)  # (n·n, O)
        direct = largest_weight_sum(w)
        object.__setattr__(self, "w_q", frozen_copy(w))
        object.__setattr__(self, "u", frozen_copy(u))
        object.__setattr__(self, "reach", {
            "V": int(v.max()), "product": int((v * np.abs(u).max(axis=2)).max()), "sum": int(sums.max()),
            "terms": int((np.kron(np.abs(t.at), np.abs(t.at)) @ sums).max()),
            "output_scaled": t.divisor**2 * direct, "output": direct})


def transform_kernel(w_q: Any, tile: Any = (2, 3)) -> TransformedKernel:
    """U = G g G^T once, for many calls of ``winograd_convolve``, which takes it in the place of ``w_q``.

    w_q: integers (O, C, r, r). tile: as for ``winograd_convolve``. ValueError for a kernel that is not of the
    tile's r, OverflowError where int64 is not proven to hold every stage, even for inputs of magnitude 1.

    >>> int(transform_kernel(np.full((1, 1, 3, 3), 63), (2, 3)).u.max())
    567
    """
    return TransformedKernel(w_q, transforms_for(tile))


def convolve_in_floats(x: np.ndarray, kernel: TransformedKernel, padding: tuple[int, int, int, int],
                       size: tuple[int, int], bounds: dict[str, int]) -> np.ndarray:
    """``convolution.convolve_in_stages`` where ``bounds``, each stage's largest magnitude, are below 2^53.

    With the n·n positions of a tile along the rows, B^T d B is kron(B^T, B^T) times a matrix with one column per
    channel and tile. Some rows of tiles are done at a time, or some images.
    """
    t, (outputs, channels) = kernel.transforms, kernel.w_q.shape[:2]
    kinds = {stage: exact_dtype(bounds[stage]) for stage in ("V", "sum", "terms")}
    to_v: np.ndarray = np.kron(t.bt, t.bt).astype(kinds["V"])
    u: np.ndarray = kernel.u.astype(kinds["sum"])
    to_y: np.ndarray = np.kron(t.at, t.at).astype(kinds["terms"])

    rows, columns = -(-size[0] // t.m), -(-size[1] // t.m)
    in_row = t.n**2 * max(outputs, channels) * columns
    bands = -(-rows // max(1, BLOCK // in_row))
    band = -(-rows // bands)
    images = min(len(x), max(1, BLOCK // (in_row * rows)))
    padded = work_array("padded", (channels, images, rows * t.m + t.r - 1, columns * t.m + t.r - 1), kinds["V"])
    padded.fill(0)
    top, left, _, _ = padding
    inside = padded[:, :, top:top + x.shape[2], left:left + x.shape[3]]
    y: np.ndarray = np.empty((len(x), outputs, rows, t.m, columns, t.m), np.int64)
    for start in range(0, len(x), images):
        count = min(images, len(x) - start)
        inside[:, :count] = x[start:start + count].transpose(1, 0, 2, 3)
        for first in range(0, rows, band):
            part = min(band, rows - first)
            tiles = count * part * columns
            d = work_array("d", (t.n, t.n, channels, count, part, columns), kinds["V"])
            for i in range(t.n):
                for j in range(t.n):
                    shifted = padded[:, :count, first * t.m + i:, j:]
                    d[i, j] = shifted[:, :, :part * t.m:t.m, :columns * t.m:t.m]
            v = work_array("v", (t.n**2, channels * tiles), kinds["V"])
            np.matmul(to_v, d.reshape(t.n**2, -1), out=v)
            sums = work_array("sums", (t.n**2, outputs, tiles), kinds["sum"])
            np.matmul(u, _cast("v", v, kinds["sum"]).reshape(t.n**2, channels, tiles), out=sums)
            scaled = work_array("scaled", (t.m**2, outputs * tiles), kinds["terms"])
            np.matmul(to_y, _cast("sums", sums, kinds["terms"]).reshape(t.n**2, -1), out=scaled)
            scaled /= float(t.divisor**2)  # exact: the quotient is an integer that the dtype holds
            done = scaled.reshape(t.m, t.m, outputs, count, part, columns)
            y[start:start + count, :, first:first + part] = done.transpose(3, 2, 4, 0, 5, 1)
    y = y.reshape(len(x), outputs, rows * t.m, columns * t.m)
    return np.ascontiguousarray(y[:, :, :size[0], :size[1]])


def _cast(name: str, values: np.ndarray, kind: type) -> np.ndarray:
    if values.dtype == kind:
        return values
    cast = work_array(name, values.shape, kind)
    cast[...] = values
    return cast
