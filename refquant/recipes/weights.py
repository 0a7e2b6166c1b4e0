"""Weight codes of one layer, at a scale that its bias allows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from refquant.convolution.bounds import dot_product_range
from refquant.integers.formats import IntFormat
from refquant.integers.rounding import round_fraction
from refquant.network.graph import Conv, Linear
from refquant.network.program import QuantParams
from refquant.recipes.lowering import QuantizedWeight
from refquant.scales.linear import quantize


def quantize_weight(node: Conv | Linear, scale: np.ndarray, bits: int, qparam: QuantParams, accumulator: IntFormat
                    ) -> QuantizedWeight:
    """Weight codes at a scale, signed narrow; the scale is first limited to what the bias allows.

    scale: () or (O,); a layer's one scale becomes the least of its channels' limits. qparam: the input's.
    """
    fmt = IntFormat(bits, narrow=True)
    scale, rescaled_channels = limit_scales(node, scale, fmt, qparam, accumulator)
    codes = quantize(node.weight, scale, fmt, axis=0 if scale.ndim else None)
    return QuantizedWeight(codes, scale, fmt, rescaled_channels)


def limit_scales(node: Conv | Linear, scale: np.ndarray, fmt: IntFormat, qparam: QuantParams, accumulator: IntFormat
                 ) -> tuple[np.ndarray, tuple[int, ...]]:
    """Scales lowered where only the bias code keeps a sum from fitting the accumulator.

    The bias code is round(b·S_x·S_w): a channel of tiny weights has a large S_w, and then a huge bias
    code. Such a channel gets the largest scale whose proven sum fits; a channel whose products alone do
    not fit is left as it is, to be refused. Returns the scales and the channels that had to be limited.
    """
    if node.bias is None:
        return scale, ()
    bias = node.bias.astype(np.float64)
    low, high = min(qparam.format.min - qparam.zero_point, 0), max(qparam.format.max - qparam.zero_point, 0)

    def sums_fit(channel: int, s_w: float, with_bias: bool) -> bool:
        codes = quantize(node.weight[channel], s_w, fmt)
        least, greatest = (int(v[0]) for v in dot_product_range(codes.reshape(1, -1), low, high))
        code = round_fraction(Fraction(bias[channel]) * Fraction(qparam.scale * s_w)) if with_bias else 0
        return accumulator.min <= least + min(code, 0) and greatest + max(code, 0) <= accumulator.max

    scales = np.broadcast_to(scale, bias.shape)
    limits = scales.copy()
    # In float64 first: almost no channel comes near the accumulator's limits.
    reach = max(-low, high) * fmt.max * node.weight[0].size + np.abs(bias) * qparam.scale * scales
    for channel in np.flatnonzero(reach >= accumulator.max - 1).tolist():
        if sums_fit(channel, scales[channel], True) or not sums_fit(channel, scales[channel], False):
            continue
        # Codes and bias grow with the scale, so that bisection ends at the largest one that fits.
        fits, breaks = 0.0, float(scales[channel])
        while np.nextafter(fits, breaks) < breaks:
            middle = fits + (breaks - fits) / 2
            if sums_fit(channel, middle, True):
                fits = middle
            else:
                breaks = middle
        limits[channel] = fits
    rescaled_channels = tuple(int(c) for c in np.flatnonzero(limits != scales))
    return (limits if scale.ndim else np.asarray(limits.min())), rescaled_channels
