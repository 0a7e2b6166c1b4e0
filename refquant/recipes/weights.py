"""Weight codes of one layer: its scales by max or by shifts, limited to what its bias allows."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from refquant.convolution.bounds import dot_product_range
from refquant.integers.formats import IntFormat
from refquant.integers.rounding import round_fraction
from refquant.network.graph import Conv, Linear
from refquant.network.qparams import PiecewiseParams, QuantParams, TensorParams
from refquant.pwlq.breakpoints import breakpoint, limits_of
from refquant.pwlq.moments import match_weight_moments
from refquant.pwlq.quantizer import PiecewiseGrid, dequantize
from refquant.pwlq.quantizer import quantize as quantize_piecewise
from refquant.recipes.lowering import PiecewiseWeight, QuantizedWeight
from refquant.recipes.settings import Settings
from refquant.scales import linear
from refquant.scales.linear import max_scale, quantize
from refquant.shift_equalizer import SHIFT_RULES, equalizing_shifts, least_squares_scale, search_shifts

# Of piecewise weights in networks: its centre has finer steps than the paper's, at the same cost.
VARIANT = "non_overlapping_authors"


def initial_scale(node: Conv | Linear, chosen: Settings, inputs: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
    """A layer's weight scale, () or (O,), and its shifts (O,) or None.

    With granularity ``shift`` the scale is S·2^k, S and k by the coupling. inputs: for ``search_cosine``, pairs of
    what the layer reads and what it should give.
    """
    fmt = IntFormat(chosen.weight_bits, narrow=True)
    if chosen.granularity != "shift":
        return max_scale(node.weight, fmt, 0 if chosen.granularity == "channel" else None), None
    scale, shifts = float(max_scale(node.weight, fmt)), np.zeros(len(node.weight), np.int64)
    if not node.weight.any():
        pass
    elif chosen.coupling in SHIFT_RULES:
        shifts = equalizing_shifts(node.weight, chosen.shift_bits, chosen.coupling)
    elif chosen.coupling == "floor_mse":
        shifts = equalizing_shifts(node.weight, chosen.shift_bits)
        scale = least_squares_scale(node.weight, shifts, fmt.bits)
    else:
        geometry = node.geometry if isinstance(node, Conv) else Conv.geometry
        objective, seen = chosen.coupling.removeprefix("search_"), (x for x, _ in inputs or ())
        shifts, scale = search_shifts(node.weight, fmt.bits, chosen.shift_bits, objective, seen, **geometry._asdict())
    shifts = np.minimum(shifts, max(1023 - int(np.frexp(scale)[1]), 0))  # while float64 holds S·2^k
    return np.ldexp(scale, shifts), shifts


def quantize_weight(node: Conv | Linear, scale: np.ndarray, shifts: np.ndarray | None, chosen: Settings,
                    qparam: QuantParams) -> QuantizedWeight:
    """Weight codes at a scale, signed narrow; the scale is first limited to what the bias allows.

    scale: () or (O,); a layer's one scale becomes the least of its channels' limits. With shifts, scale is S·2^k:
    S is limited so, and then a channel's k. qparam: the input's.
    """
    fmt, accumulator = IntFormat(chosen.weight_bits, narrow=True), IntFormat(chosen.accumulator_bits)
    if shifts is not None:
        scale, shifts, rescaled_channels = limit_shifts_to_bias(node, scale, shifts, fmt, qparam, accumulator)
    else:
        scale, rescaled_channels = limit_scales(node, scale, fmt, qparam, accumulator)
    axis = 0 if scale.ndim else None
    codes = quantize(node.weight, scale, fmt, axis=axis)
    moments = None
    if chosen.match_moments:
        moments = match_weight_moments(node.weight, linear.dequantize(codes, scale, axis=axis))
    return QuantizedWeight(codes, scale, fmt, rescaled_channels, shifts,
                           0 if shifts is None else chosen.shift_bits, moments)


def quantize_weight_piecewise(node: Conv | Linear, chosen: Settings, qparam: TensorParams) -> PiecewiseWeight:
    """Piecewise codes of a layer, at the breakpoints of ``chosen``, in the variant of the authors' code.

    Where the bias code would not fit the accumulator, a channel's breakpoint and limit are doubled until it does.
    """
    channels = len(node.weight)
    axis = 0 if chosen.granularity == "channel" else None
    if node.weight.any():
        m = limits_of(node.weight, axis)
        p = breakpoint(node.weight, chosen.weight_bits, chosen.breakpoints, VARIANT, axis=axis)
    else:
        p, m = 0.5, 1.0
    p, m = (np.broadcast_to(np.asarray(v, np.float64), channels).copy() for v in (p, m))
    rescaled: list[int] = []
    if node.bias is not None:
        unit = qparam.scale / (qparam.centre_step if isinstance(qparam, PiecewiseParams) else 1)
        room = IntFormat(chosen.accumulator_bits).max / 4
        while True:
            steps = PiecewiseGrid(p, m, chosen.weight_bits, VARIANT).steps[0]
            beyond = np.abs(node.bias.astype(np.float64)) * unit / steps > room
            if not beyond.any():
                break
            p, m = np.where(beyond, 2 * p, p), np.where(beyond, 2 * m, m)
            rescaled.extend(np.flatnonzero(beyond).tolist())
    grid = PiecewiseGrid(p, m, chosen.weight_bits, VARIANT)
    codes = quantize_piecewise(node.weight, grid, axis=0)
    moments = match_weight_moments(node.weight, dequantize(codes, grid, axis=0)) if chosen.match_moments else None
    return PiecewiseWeight(codes, grid, tuple(sorted(set(rescaled))), moments)


def limit_scales(node: Conv | Linear, scale: np.ndarray, fmt: IntFormat, qparam: QuantParams, accumulator: IntFormat
                 ) -> tuple[np.ndarray, tuple[int, ...]]:
    """Scales lowered where only the bias code keeps a sum from fitting the accumulator.

    The bias code is round(b·S_x·S_w): a channel of tiny weights has a large S_w, and then a huge bias
    code. Such a channel gets the largest scale whose proven sum fits; a channel whose products alone do
    not fit is left as it is, to be refused. Returns the scales and the channels that had to be limited.
    """
    if node.bias is None:
        return scale, ()
    scales = np.broadcast_to(scale, node.bias.shape)
    limits = scales.copy()
    for channel in _near_the_limit(node, scales, fmt, qparam, accumulator):
        sums_fit = SumsFit(node, channel, fmt, qparam, accumulator)
        if sums_fit(scales[channel]) or not sums_fit(scales[channel], with_bias=False):
            continue
        # Codes and bias grow with the scale, so that bisection ends at the largest one that fits.
        fits, breaks = 0.0, float(scales[channel])
        while np.nextafter(fits, breaks) < breaks:
            middle = fits + (breaks - fits) / 2
            if sums_fit(middle):
                fits = middle
            else:
                breaks = middle
        limits[channel] = fits
    rescaled_channels = tuple(int(c) for c in np.flatnonzero(limits != scales))
    return (limits if scale.ndim else np.asarray(limits.min())), rescaled_channels


def limit_shifts_to_bias(node: Conv | Linear, scale: np.ndarray, shifts: np.ndarray, fmt: IntFormat,
                         qparam: QuantParams, accumulator: IntFormat
                         ) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """The layer's scale limited as by ``limit_scales``, then each channel's shift to the largest that fits."""
    layer_scale, rescaled_channels = limit_scales(node, np.ldexp(scale, -shifts)[0], fmt, qparam, accumulator)
    limited = shifts.copy()
    if node.bias is not None:
        for channel in _near_the_limit(node, np.ldexp(layer_scale, shifts), fmt, qparam, accumulator):
            sums_fit = SumsFit(node, channel, fmt, qparam, accumulator)
            while limited[channel] and not sums_fit(float(np.ldexp(layer_scale, limited[channel]))):
                limited[channel] -= 1
    lowered = np.flatnonzero(limited != shifts).tolist()
    return np.ldexp(layer_scale, limited), limited, tuple(sorted({*rescaled_channels, *lowered}))


def _near_the_limit(node: Conv | Linear, scales: np.ndarray, fmt: IntFormat, qparam: QuantParams,
                    accumulator: IntFormat) -> list[int]:
    """In float64: almost no channel comes near the accumulator's limits."""
    assert node.bias is not None
    largest = max(qparam.format.max - qparam.zero_point, qparam.zero_point - qparam.format.min)
    reach = largest * fmt.max * node.weight[0].size + np.abs(node.bias.astype(np.float64)) * qparam.scale * scales
    return np.flatnonzero(reach >= accumulator.max - 1).tolist()


class SumsFit:
    """Whether one output channel's sums are proven to fit the accumulator under a weight scale."""

    def __init__(self, node: Conv | Linear, channel: int, fmt: IntFormat, qparam: QuantParams, accumulator: IntFormat
                 ) -> None:
        assert node.bias is not None
        self.weight, self.bias = node.weight[channel], Fraction(float(node.bias[channel]))
        self.fmt, self.s_x, self.accumulator = fmt, qparam.scale, accumulator
        self.limits = min(qparam.format.min - qparam.zero_point, 0), max(qparam.format.max - qparam.zero_point, 0)

    def __call__(self, scale: float, with_bias: bool = True) -> bool:
        codes = quantize(self.weight, scale, self.fmt)
        least, greatest = (int(v[0]) for v in dot_product_range(codes.reshape(1, -1), *self.limits))
        code = round_fraction(self.bias * Fraction(self.s_x * scale)) if with_bias else 0
        return self.accumulator.min <= least + min(code, 0) and greatest + max(code, 0) <= self.accumulator.max
