"""Proven worst cases of every stage of integer Winograd convolution, with operands that attain them.

V = Bᵀ·d·B and U = G·g·Gᵀ are linear in the tile and in the kernel, which are independent of each other and from
channel to channel. So V, U, their product at one position and its sum over channels are at an extreme where every
code that matters is the least or the greatest. The scaled output is divisor² times the direct convolution, and so
are its extremes. Padding changes nothing: 0 is a code of every format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refquant.convolution.blas import exact_dtype
from refquant.convolution.bounds import StageBound, direct_bounds, dot_product_range, largest_count, stage_bound
from refquant.integers.accumulation import product_corners, safe_products_per_lane
from refquant.integers.checks import as_integers, integer
from refquant.integers.formats import IntFormat
from refquant.integers.simd import INT32
from refquant.winograd.transforms import transforms_for


class _Transformed:
    """The n² entries of M·a·Mᵀ as linear forms of a, codes of ``fmt``: the rows of kron(M, M)."""

    def __init__(self, matrix: np.ndarray, fmt: IntFormat) -> None:
        self.rows, self.side, self.fmt = np.kron(matrix, matrix), matrix.shape[1], fmt
        self.least, self.greatest = (ends.tolist() for ends in dot_product_range(self.rows, fmt.min, fmt.max))

    def ends(self, row: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(1, the greatest value of an entry) and (-1, the least)."""
        return (1, self.greatest[row]), (-1, self.least[row])

    def corner(self, row: int, sign: Any) -> np.ndarray:
        """The a that makes an entry greatest (sign 1) or least (-1): by the signs of its row; sign: (...)."""
        signs = np.sign(self.rows[row]).reshape(self.side, self.side)
        return _codes(np.multiply.outer(sign, signs), self.fmt)


def _codes(signs: np.ndarray, fmt: IntFormat) -> np.ndarray:
    return np.where(signs > 0, fmt.max, np.where(signs < 0, fmt.min, 0))


def _bound(stage: str, cases: list[tuple[Any, ...]], operands: Callable[..., tuple[Any, Any]]) -> StageBound:
    """The first of the least and of the greatest cases (value, *how), with their operands(*how)."""
    low, high = (find(cases, key=lambda case: case[0]) for find in (min, max))
    return stage_bound(stage, low[0], high[0], *operands(*low[1:]), *operands(*high[1:]))


def winograd_bounds(tile: Any, x_format: IntFormat, w_format: IntFormat, channels: int) -> tuple[StageBound, ...]:
    """The exact range of each stage over all inputs and kernels of these formats, and of direct convolution.

    In this order: ``input``, ``V``, ``U``, ``product`` (U·V at one position, one channel), ``sum`` (of these over
    channels), ``output_scaled`` (Aᵀ·sum·A), ``output`` (that by divisor²), ``direct`` and, where int16 lanes can be
    used, ``lane`` (both from ``bounds.direct_bounds``).

    tile: (m, r), a preset's name, or Transforms. channels: input channels. Witnesses: a tile (C, n, n) and a
    kernel (C, r, r), the same in every channel; for direct and lane the input is (C, r, r). OverflowError where
    int64 does not hold a stage.

    >>> seven = IntFormat(7, narrow=True)
    >>> for bound in winograd_bounds((2, 3), seven, seven, 64)[1:5]:
    ...     print(bound.stage, bound.max, bound.format, bound.witness)
    V 252 int16 x +0-0/0000/-0+0/0000
    U 567 int16 w +++/+++/+++
    product 142884 int32 x 0000/0++0/0++0/0000, w +++/+++/+++
    sum 9144576 int32 x 0000/0++0/0++0/0000, w +++/+++/+++
    """
    t, channels = transforms_for(tile), integer(channels, "channels", 1)
    v, u = _Transformed(t.bt, x_format), _Transformed(t.g, w_format)
    entries = range(t.n**2)
    products = [(a * b, k, x_sign, w_sign) for k in entries for x_sign, a in v.ends(k) for w_sign, b in u.ends(k)]
    corners = product_corners(x_format, w_format)[::-1]  # of equal extremes the greatest codes witness
    taps = channels * t.r**2

    def in_every_channel(plane: Any) -> np.ndarray:
        return np.broadcast_to(plane, (channels, *np.shape(plane)))

    def transformed(k: int, x_sign: int, w_sign: int) -> tuple[Any, Any]:
        return (in_every_channel(v.corner(k, x_sign)) if x_sign else None,
                in_every_channel(u.corner(k, w_sign)) if w_sign else None)

    def constant(x: int, w: int) -> tuple[np.ndarray, np.ndarray]:
        return in_every_channel(np.full((t.n, t.n), x)), in_every_channel(np.full((t.r, t.r), w))

    return (
        _bound("input", [(code, code) for code in (x_format.min, x_format.max)], lambda x: (constant(x, 0)[0], None)),
        _bound("V", [(value, k, sign, 0) for k in entries for sign, value in v.ends(k)], transformed),
        _bound("U", [(value, k, 0, sign) for k in entries for sign, value in u.ends(k)], transformed),
        _bound("product", products, transformed),
        _bound("sum", [(channels * value, *how) for value, *how in products], transformed),
        _bound("output_scaled", [(t.divisor**2 * taps * value, *how) for value, *how in corners], constant),
        _bound("output", [(taps * value, *how) for value, *how in corners], constant),
        *direct_bounds(x_format, w_format, channels, (t.r, t.r)))


def winograd_bounds_of_weights(tile: Any, x_format: IntFormat, w_q: Any) -> tuple[StageBound, ...]:
    """The exact range of each stage, ``input`` to ``direct``, over all inputs of ``x_format``, with these weights.

    For ``direct`` that is the most over outputs of Σ|w_q|·|x|max, for ``sum`` the most over outputs and positions
    of Σ_c |U|·|V|max (each end by itself where the format is not symmetric). No weights reach further than
    ``winograd_bounds`` of their format.

    tile: as for ``winograd_bounds``. w_q: integers (O, C, r, r). Witnesses: a tile (C, n, n), for direct
    (C, r, r), and the kernel (C, r, r) of an output. ValueError for another shape of weights, OverflowError where
    int64 does not hold a stage.

    >>> w_q = np.zeros((8, 64, 3, 3), int)
    >>> w_q[5, 2] = 1
    >>> for bound in winograd_bounds_of_weights((2, 3), IntFormat(7, narrow=True), w_q)[2:5]:
    ...     print(bound.stage, bound.min, bound.max)
    U 0 9
    product -2268 2268
    sum -2268 2268
    """
    t, w_q = transforms_for(tile), as_integers(w_q, "weight")
    if w_q.ndim != 4 or w_q.shape[2:] != (t.r, t.r) or w_q.size == 0:
        raise ValueError(f"weight must be a non-empty (O, C, {t.r}, {t.r}) for F({t.m}, {t.r}), "
                         f"got shape {w_q.shape}")
    gain = max(sum(abs(c) for c in row) for row in t.g.tolist()) ** 2
    exact_dtype(gain * w_q.shape[1] * max(abs(int(w_q.min())), abs(int(w_q.max()))), "the sum of |U|")
    w_q = w_q.astype(np.int64)
    v = _Transformed(t.bt, x_format)
    u = np.einsum("kl,ocl->koc", np.kron(t.g, t.g), w_q.reshape(*w_q.shape[:2], -1))
    entries = range(t.n**2)
    kernels, products, sums = [], [], []
    for k in entries:
        for where in (int(u[k].argmin()), int(u[k].argmax())):
            value, output = int(u[k].flat[where]), where // u.shape[2]
            kernels.append((value, output))
            products += [(value * end, k, sign, output) for sign, end in v.ends(k)]
        for sign, ends in zip((-1, 1), dot_product_range(u[k], v.least[k], v.greatest[k])):
            sums += [(value, k, sign, output) for output, value in enumerate(ends.tolist())]
    direct = dot_product_range(w_q, x_format.min, x_format.max)
    outputs = [(value, sign, output) for sign, ends in zip((-1, 1), direct)
               for output, value in enumerate(ends.tolist())]

    def alike(k: int, sign: int, output: int | None) -> tuple[Any, Any]:
        x = np.broadcast_to(v.corner(k, sign), (w_q.shape[1], t.n, t.n))
        return x, None if output is None else w_q[output]

    def by_channel(k: int, sign: int, output: int) -> tuple[Any, Any]:
        return v.corner(k, sign * np.sign(u[k, output])), w_q[output]

    def window(sign: int, output: int) -> tuple[Any, Any]:
        return _codes(sign * np.sign(w_q[output]), x_format), w_q[output]

    def first_window(sign: int, output: int) -> tuple[Any, Any]:
        x, w = window(sign, output)
        return np.pad(x, ((0, 0), (0, t.m - 1), (0, t.m - 1))), w

    return (
        _bound("input", [(code, code) for code in (x_format.min, x_format.max)],
               lambda x: (np.broadcast_to(x, (w_q.shape[1], t.n, t.n)), None)),
        _bound("V", [(value, k, sign, None) for k in entries for sign, value in v.ends(k)], alike),
        _bound("U", kernels, lambda output: (None, w_q[output])),
        _bound("product", products, alike),
        _bound("sum", sums, by_channel),
        _bound("output_scaled", [(t.divisor**2 * value, *how) for value, *how in outputs], first_window),
        _bound("output", outputs, first_window),
        _bound("direct", outputs, window))


def largest_channels(tile: Any, x_format: IntFormat, w_format: IntFormat, accumulator: IntFormat = INT32,
                     bias: IntFormat | None = None) -> dict[str, int]:
    """How many input channels each stage that adds over channels is proven for, in ``accumulator``.

    The least of them decides: where it is ``sum``, Winograd needs more room than its result does. The terms and
    partial sums inside Aᵀ·sum·A are no stages. Taken one by one, columns first, they can reach further than the
    sum (8 times an entry of it, in F(4,3)): if none of them may leave int32, F(4,3) at 7 bits is proven for 6
    channels, in the later scaling for 13. Where they wrap it does no harm: the scaled output fits.
    bias: of a code that is added to the output, after the division.

    >>> seven = IntFormat(7, narrow=True)
    >>> largest_channels("F(4,3)", seven, seven)
    {'sum': 9, 'output_scaled': 104, 'output': 60118}
    >>> largest_channels("F(4,3) ncnn", seven, seven)["sum"]
    37
    >>> largest_channels("F(4,3)", seven, seven, IntFormat(48))["sum"]
    615610
    """
    bounds = {bound.stage: bound for bound in winograd_bounds(tile, x_format, w_format, 1)}
    return {stage: largest_count(bounds[stage].min, bounds[stage].max, accumulator,
                                 bias if stage == "output" else None)
            for stage in ("sum", "output_scaled", "output")}


ADDED_UP = ("sum", "output_scaled", "output", "direct")  # the stages that an accumulator must hold


def describe_bounds(tile: Any, x_format: IntFormat, w_format: IntFormat, channels: int, *,
                    kernel: tuple[int, int] = (3, 3), accumulator: IntFormat = INT32, bias: IntFormat | None = None
                    ) -> dict[str, Any]:
    """Every stage's range and how many channels fit, in plain types, as ``refquant bounds --json`` prints them.

    tile: of Winograd, or None for direct convolution by a ``kernel`` (R, S) alone. accumulator: what the stages in
    ADDED_UP must fit. bias: a code of this format is added to ``output`` and ``direct``. Of the witnesses, which
    repeat in every channel, one channel is given; x, w and bias.
    """
    if tile is None:
        bounds: tuple[StageBound, ...] = direct_bounds(x_format, w_format, channels, kernel)
        one, = direct_bounds(x_format, w_format, 1, kernel)[:1]
        about: dict[str, Any] = {"tile": None, "divisor": 1, "kernel": list(kernel)}
        most = {"direct": largest_count(one.min, one.max, accumulator, bias)}
    else:
        t = transforms_for(tile)
        bounds = winograd_bounds(t, x_format, w_format, channels)
        about = {"tile": tile if isinstance(tile, str) else f"F({t.m},{t.r})", "divisor": t.divisor**2,
                 "kernel": [t.r, t.r]}
        most = largest_channels(t, x_format, w_format, accumulator, bias)
    lanes = any(bound.stage == "lane" for bound in bounds)
    return {**about, "x_format": str(x_format), "w_format": str(w_format), "channels": channels,
            "accumulator": str(accumulator), "bias": str(bias) if bias else None,
            "products_per_lane": safe_products_per_lane(x_format, w_format) if lanes else None,
            "stages": [_describe(bound, accumulator, bias) for bound in bounds], "largest_channels": most}


def _describe(bound: StageBound, accumulator: IntFormat, bias: IntFormat | None) -> dict[str, Any]:
    def plane(codes: np.ndarray | None) -> list[list[int]] | None:
        return None if codes is None else codes[0].tolist()

    low, high, witness, witness_min, biases = bound.min, bound.max, bound.witness, bound.witness_min, {}
    if bias and bound.stage in ("output", "direct"):
        low, high = low + bias.min, high + bias.max
        witness, witness_min = f"{witness}, bias +", f"{witness_min}, bias -"
        biases = {"bias_min": bias.min, "bias_max": bias.max}
    whole_range = stage_bound(bound.stage, low, high)
    fits = accumulator.min <= low and high <= accumulator.max if bound.stage in ADDED_UP else None
    return {"stage": bound.stage, "min": low, "max": high, "bits": whole_range.bits,
            "format": str(whole_range.format), "headroom_bits": whole_range.headroom_bits, "fits_accumulator": fits,
            "witness": witness, "witness_min": witness_min, "x_min": plane(bound.x_min), "w_min": plane(bound.w_min),
            "x_max": plane(bound.x_max), "w_max": plane(bound.w_max), **biases}
