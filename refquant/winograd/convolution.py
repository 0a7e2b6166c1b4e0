"""Integer Winograd convolution, stage by stage, each stage in a declared format.

    y = (A^T [Σ_c (G g_c G^T) ∘ (B^T d_c B)] A) / divisor²          (Lavin & Gray 2015, Eq. 8, in integers)

for every tile d of n x n inputs, which gives m x m outputs. The stages, in order, with their arrays:

    input          d, the tiles                            (N, C, tile rows, tile columns, n, n)
    V              B^T d B                                 (N, C, tile rows, tile columns, n, n)
    U              G g G^T                                 (O, C, n, n)
    product        U[o, c] ∘ V[c], one channel at a time   (N, O, tile rows, tile columns, n, n)
    sum            their sum, channel after channel        (N, O, tile rows, tile columns, n, n)
    output_scaled  A^T sum A = divisor² · y                (N, O, tile rows, tile columns, m, m)
    output         floor(output_scaled / divisor²)         (N, O, P, Q)

A stage is computed from the one before it exactly, then brought into its format by the policy. Tiles that
reach beyond the padded input see zeros there; outputs beyond P x Q are computed and dropped.

**Wrapping.** Sums, differences and products keep congruence, divisions do not. So ``output_scaled`` is right
modulo 2^w, w the bits of the narrowest stage that overflows. If that is ``output_scaled`` itself (and
divisor² <= 2^w), the output is right *exactly* where divisor²·y fits its format; if an earlier stage is
narrower, the output can be wrong even there. Saturation keeps no congruence, and nothing like this holds. The
quotient is exact wherever nothing overflowed; elsewhere it is rounded down, as an arithmetic shift does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.geometry import Geometry, pad
from refquant.convolution.work_arrays import work_array
from refquant.integers.checks import fitting_int64
from refquant.integers.formats import IntFormat, apply_policy, check_codes, frozen_copy, smallest_format
from refquant.winograd.transforms import Transforms, transforms_for

STAGES = ("input", "V", "U", "product", "sum", "output_scaled", "output")

# Elements of a work array of the float road: a few of them fit the cache together.
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
        for stage, bound in (("U", largest * max(g)**2),
                             ("output_scaled", largest * w.shape[1] * max((a @ (b * g)).tolist())**2)):
            if bound >= 2**63:
                raise OverflowError(f"{stage} can reach {bound}, which int64 does not hold")
        u = np.ascontiguousarray((t.g @ w @ t.g.T).transpose(2, 3, 0, 1)).reshape(t.n**2, *w.shape[:2])
        v = np.outer(b, b).astype(np.int64).reshape(-1, 1)
        sums = v * np.abs(u).sum(axis=2)  # (n·n, O)
        direct = int(np.abs(w).sum(axis=(1, 2, 3)).max())
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


class Stage(NamedTuple):
    """One stage of a recorded run.

    min, max: the extremes before the policy; of ``sum``, over the partial sums after every channel. values: what
    the format held after it, int64; None for ``product``, whose C arrays are not kept.
    """

    format: IntFormat
    min: int
    max: int
    values: np.ndarray | None


def winograd_convolve(x_q: Any, w_q: Any, tile: Any = (2, 3), padding: Any = 0, policy: str = "trap",
                      formats: Mapping[str, IntFormat] | None = None, record: bool = False) -> Any:
    """Convolution of integers by Winograd's F(m x m, r x r), stride 1, equal to the direct one bit for bit
    while nothing overflows.

    x_q: integers (N, C, H, W). w_q: integers (O, C, r, r), or a TransformedKernel, which brings its tile along
    (``tile`` is then not read). tile: (m, r), a Transforms, or a preset's name (``cook_toom.transforms_for``).
    padding: a number, (vertical, horizontal) or (top, left, bottom, right), of zeros.

    formats: the IntFormat of each stage named in it (see the module's docstring for the stages and for what
    wrapping keeps). Stages that are missing get the smallest signed format that is proven to hold them, from the
    extremes of the input, the absolute row sums of the transforms, and U. policy: what happens to a value
    outside its format: wrap, saturate, or trap (OverflowError naming stage, index, value, range; an input
    outside its format is a ValueError). Under saturate, the order of the sum is that of the channels.

    Returns int64 (N, O, P, Q), with ``record`` the pair (sums, {stage: Stage}). OverflowError where int64 is not
    proven to hold every stage.

    >>> x, w = np.full((1, 1, 4, 4), 63), np.full((1, 1, 3, 3), 24)
    >>> winograd_convolve(x, w).tolist()
    [[[[13608, 13608], [13608, 13608]]]]
    >>> winograd_convolve(x, w, policy="wrap", formats={"output_scaled": IntFormat(16)})[0, 0, 0].tolist()
    [-2776, -2776]
    """
    declared = _check_formats({} if formats is None else formats, policy)
    kernel = w_q if isinstance(w_q, TransformedKernel) else transform_kernel(w_q, tile)
    x = fitting_int64(x_q, "input")
    geometry = Geometry.of(1, padding)
    geometry.check_shapes(x.shape, kernel.w_q.shape)
    size = geometry.output_size(x.shape[2], x.shape[3], kernel.w_q.shape[2:])
    seen = int(x.min()), int(x.max())
    if "input" in declared:
        x = (check_codes(x, declared["input"], "input") if policy == "trap" else
             apply_policy(x, declared["input"], policy).astype(np.int64))
    low, high = int(x.min()), int(x.max())
    bounds = {stage: max(-low, high) * reach for stage, reach in kernel.reach.items()}
    for stage, bound in bounds.items():
        if bound >= 2**63:
            raise OverflowError(f"{stage} can reach {bound}, which int64 does not hold")
    ranges = {stage: (-bound, bound) for stage, bound in bounds.items()}
    ranges |= {"input": (low, high), "U": (int(kernel.u.min()), int(kernel.u.max()))}
    # At least one bit for the sign, so that every default is signed.
    chosen = {stage: declared.get(stage) or smallest_format(min(ranges[stage][0], -1), ranges[stage][1])
              for stage in STAGES}
    proven = all(chosen[stage].min <= ranges[stage][0] and ranges[stage][1] <= chosen[stage].max for stage in STAGES)
    if proven and not record and max(bounds.values()) < 2**53:
        return _in_floats(x, kernel, geometry.padding, size, bounds)
    y, trace = _in_stages(x, kernel, geometry.padding, size, chosen, policy)
    trace["input"] = trace["input"]._replace(min=seen[0], max=seen[1])
    return (y, trace) if record else y


def _check_formats(formats: Mapping[str, IntFormat], policy: str) -> dict[str, IntFormat]:
    apply_policy(0, IntFormat(1), policy)
    if not isinstance(formats, Mapping):
        raise ValueError(f"formats must map stages to IntFormats, got {formats!r}")
    for stage, fmt in formats.items():
        if stage not in STAGES:
            raise ValueError(f"formats must name stages ({', '.join(STAGES)}), got {stage!r}")
        if not isinstance(fmt, IntFormat) or not (fmt.signed or (stage == "input" and fmt.bits < 64)):
            kind = "an IntFormat of at most 63 bits if unsigned" if stage == "input" else "a signed IntFormat"
            raise ValueError(f"the format of {stage} must be {kind}, got {fmt}")
        apply_policy(0, fmt, policy)  # refuses what cannot wrap
    return dict(formats)


def _tile_counts(t: Transforms, size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // t.m), -(-size[1] // t.m)


def _in_stages(x: np.ndarray, kernel: TransformedKernel, padding: tuple[int, int, int, int], size: tuple[int, int],
               formats: dict[str, IntFormat], policy: str) -> tuple[np.ndarray, dict[str, Stage]]:
    """The plain int64 road, and the judge of the float one.

    Signed formats let no magnitude grow under any policy, so what int64 holds without overflow it holds with it.
    """
    t = kernel.transforms
    trace: dict[str, Stage] = {}

    def settle(stage: str, values: np.ndarray, place: str = "") -> np.ndarray:
        extremes = int(values.min()), int(values.max())
        if stage in trace:
            extremes = min(extremes[0], trace[stage].min), max(extremes[1], trace[stage].max)
        kept = apply_policy(values, formats[stage], policy, place + stage).astype(np.int64)
        trace[stage] = Stage(formats[stage], *extremes, None if stage == "product" else kept)
        return kept

    rows, columns = _tile_counts(t, size)
    top, left, _, _ = padding
    height, width = rows * t.m + t.r - 1, columns * t.m + t.r - 1
    padded = pad(x.astype(np.int64), (top, left, height - top - x.shape[2], width - left - x.shape[3]))
    tiles = np.lib.stride_tricks.sliding_window_view(padded, (t.n, t.n), (2, 3))[:, :, ::t.m, ::t.m]
    v = settle("V", t.bt @ settle("input", tiles) @ t.bt.T)
    u = settle("U", kernel.u.reshape(t.n, t.n, *kernel.w_q.shape[:2]).transpose(2, 3, 0, 1))
    total: Any = 0
    for c in range(x.shape[1]):
        product = settle("product", u[:, c, None, None] * v[:, None, c], f"channel {c}: ")
        total = settle("sum", total + product, f"channel {c}: ")
    scaled = settle("output_scaled", t.at @ total @ t.at.T)
    y = (scaled // t.divisor**2).swapaxes(3, 4).reshape(len(x), len(u), rows * t.m, columns * t.m)
    return settle("output", y[:, :, :size[0], :size[1]]), trace


def _in_floats(x: np.ndarray, kernel: TransformedKernel, padding: tuple[int, int, int, int], size: tuple[int, int],
               bounds: dict[str, int]) -> np.ndarray:
    """The same sums by matrix products of floats, where ``bounds`` prove that nothing overflows or rounds.

    With the n·n positions of a tile along the rows, B^T d B is kron(B^T, B^T) times a matrix with one column per
    channel and tile. Some rows of tiles are done at a time, or some images.
    """
    t, (outputs, channels) = kernel.transforms, kernel.w_q.shape[:2]
    kinds = {stage: np.float32 if bounds[stage] < 2**24 else np.float64 for stage in ("V", "sum", "terms")}
    to_v = np.kron(t.bt, t.bt).astype(kinds["V"])
    u = kernel.u.astype(kinds["sum"])
    to_y = np.kron(t.at, t.at).astype(kinds["terms"])

    rows, columns = _tile_counts(t, size)
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
