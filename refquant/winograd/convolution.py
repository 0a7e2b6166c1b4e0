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
from typing import Any

import numpy as np

from refquant.convolution.blas import exact_dtype
from refquant.convolution.geometry import Geometry, pad
from refquant.integers.checks import fitting_int64, one_of
from refquant.integers.formats import POLICIES, IntFormat, apply_policy, check_codes, smallest_format
from refquant.integers.stages import Trace
from refquant.winograd.blas import TransformedKernel, convolve_in_floats, transform_kernel
from refquant.winograd.transforms import Transforms

STAGES = ("input", "V", "U", "product", "sum", "output_scaled", "output")


def convolve_in_stages(x: np.ndarray, w: np.ndarray, t: Transforms, padding: tuple[int, int, int, int],
                       size: tuple[int, int], formats: Mapping[str, IntFormat], policy: str,
                       trace: Trace | None = None) -> np.ndarray:
    """The definition: the table above, stage by stage.

    x: int64 (N, C, H, W). w: int64 (O, C, r, r). size: (P, Q). formats: of every stage; signed formats let no
    magnitude grow under any policy, so int64 holds every stage if it does without overflow.
    """
    def settle(stage: str, exact: np.ndarray, place: str = "") -> np.ndarray:
        kept = apply_policy(exact, formats[stage], policy, place + stage).astype(np.int64)
        if trace is not None:
            trace(stage, formats[stage], exact, kept)
        return kept

    rows, columns = -(-size[0] // t.m), -(-size[1] // t.m)
    top, left, _, _ = padding
    height, width = rows * t.m + t.r - 1, columns * t.m + t.r - 1
    padded = pad(x, (top, left, height - top - x.shape[2], width - left - x.shape[3]))
    tiles = np.lib.stride_tricks.sliding_window_view(padded, (t.n, t.n), (2, 3))[:, :, ::t.m, ::t.m]
    v = settle("V", t.bt @ settle("input", tiles) @ t.bt.T)
    u = settle("U", t.g @ w @ t.g.T)
    total = np.zeros((), np.int64)
    for c in range(x.shape[1]):
        product = settle("product", u[:, c, None, None] * v[:, None, c], f"channel {c}: ")
        total = settle("sum", total + product, f"channel {c}: ")
    scaled = settle("output_scaled", t.at @ total @ t.at.T)
    y = (scaled // t.divisor**2).swapaxes(3, 4).reshape(len(x), len(u), rows * t.m, columns * t.m)
    return settle("output", y[:, :, :size[0], :size[1]])


def winograd_convolve(x_q: Any, w_q: Any, tile: Any = (2, 3), padding: Any = 0, policy: str = "trap",
                      formats: Mapping[str, IntFormat] | None = None, trace: Trace | None = None) -> np.ndarray:
    """Convolution of integers by Winograd's F(m x m, r x r), stride 1, equal to the direct one bit for bit
    while nothing overflows.

    x_q: integers (N, C, H, W).
    w_q: integers (O, C, r, r), or a TransformedKernel, whose tile is then taken in place of ``tile``.
    tile: (m, r), a Transforms, or a preset's name (``transforms.PRESETS``).
    padding: a number, (vertical, horizontal) or (top, left, bottom, right), of zeros.
    policy: for a value outside its format: wrap, saturate, or trap (OverflowError naming stage, index, value, range;
        an input outside its format is a ValueError). Under saturate, channels are added in ascending order.
    formats: the IntFormat of each stage named in it. The other stages get the smallest signed format that is proven
        to hold them, from the extremes of the input, the absolute row sums of the transforms, and U.
    trace: is shown every stage (``integers.stages.Trace``); ``product`` and ``sum`` once for every channel.
    Returns int64 (N, O, P, Q). OverflowError where int64 is not proven to hold every stage.

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
    codes = x
    if "input" in declared:
        codes = (check_codes(x, declared["input"], "input") if policy == "trap" else
                 apply_policy(x, declared["input"], policy))
    low, high = int(codes.min()), int(codes.max())
    bounds = {stage: max(-low, high) * reach for stage, reach in kernel.reach.items()}
    for stage, bound in bounds.items():
        exact_dtype(bound, stage)
    ranges = {stage: (-bound, bound) for stage, bound in bounds.items()}
    ranges |= {"input": (low, high), "U": (int(kernel.u.min()), int(kernel.u.max()))}
    # At least one bit for the sign, so that every default is signed.
    chosen = {stage: declared.get(stage) or smallest_format(min(ranges[stage][0], -1), ranges[stage][1])
              for stage in STAGES}
    proven = all(chosen[stage].min <= ranges[stage][0] and ranges[stage][1] <= chosen[stage].max for stage in STAGES)
    if proven and trace is None and max(bounds.values()) < 2**53:
        return convolve_in_floats(codes, kernel, geometry.padding, size, bounds)
    return convolve_in_stages(x.astype(np.int64), kernel.w_q, kernel.transforms, geometry.padding, size, chosen,
                              policy, trace)


def _check_formats(formats: Mapping[str, IntFormat], policy: str) -> dict[str, IntFormat]:
    one_of(policy, POLICIES, "policy")
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
