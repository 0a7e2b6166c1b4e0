"""Recipes: a float network and a few calibration images become a quantized network."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.convolution.bounds import dot_product_range
from refquant.integers.formats import IntFormat
from refquant.integers.rounding import round_fraction
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import check_images
from refquant.network.graph import Conv, Linear, Network
from refquant.network.program import QuantParams
from refquant.network.proof import QuantizedNetwork
from refquant.recipes.calibration import calibrate, observe_extremes
from refquant.recipes.lowering import QuantizedWeight, assemble, check_integer_forms, qparam_sources
from refquant.recipes.network_search import LayerBatches, search_node
from refquant.recipes.settings import RECIPES, settings
from refquant.scales.linear import affine_parameters, max_scale, quantize
from refquant.scales.thresholds import in_float32, threshold, threshold_scale


def quantize_network(network: Network, images: Any, recipe: str = "max-int8", *,
                     weight_bits: int | None = None, activation_bits: int | None = None,
                     granularity: str | None = None, activations: str | None = None, estimator: str | None = None,
                     widen: bool = False, layer_inputs: str = "quantized", accumulator_bits: int = 32,
                     dialect: str = "single_round") -> QuantizedNetwork:
    """Quantize a float network after training.

    ``max-int8`` and ``channelwise-int8``: every scale is q_max / max|x|, over the weights of a layer
    or of each output channel, and over each activation tensor on the calibration images.
    ``tensorrt-int8``, ``-int7``: the same per channel, but activations are clipped at the threshold of least KL
    divergence (``scales.kl``, variant ``nvidia``). The network's output keeps max-scaling.
    ``easyquant-int8``, ``-int7``: from max-scaling, EasyQuant's search improves the scales of each layer's weights
    and input, layer by layer. A tensor that several layers read gets its scale from the first convolution or
    linear layer among them. A tensor that none of these reads keeps max-scaling.

    network: may hold BatchNorm nodes.
    images: calibration images, floats (N, *input_shape).
    weight_bits, activation_bits: 2..16. These and the next three are the recipe's by default.
    granularity: of the weights' scales, ``layer`` or ``channel``.
    activations: ``unsigned`` (0..2^b-1 where calibration saw nothing negative, as after ReLU; otherwise signed
        narrow), ``signed`` (always signed narrow, as EasyQuant's), ``affine`` (signed with an integer zero point,
        as TFLite's; not with KL or EasyQuant).
    estimator: of the activations' ranges, one of ``scales.ESTIMATORS``.
    widen: EasyQuant's ranges, as ``easyquant.search_paper`` says.
    layer_inputs: EasyQuant sees the inputs of a layer as the layers already ``quantized`` give them, or as the
        ``float`` network does.
    accumulator_bits: 16, 24, 32, 48 or 64.
    dialect: how sums are requantized, one of ``integers.DIALECTS``.
    ValueError for other values, bad images, and accumulators that are proven too narrow.

    >>> import refquant
    >>> network, images, labels = refquant.load_digits()
    >>> quantized = refquant.quantize_network(network, refquant.calibration_images(), recipe="max-int8")
    >>> bool((quantized.run(images).argmax(axis=1) == labels).mean() > 0.98)
    True
    """
    chosen = settings(recipe, weight_bits=weight_bits, activation_bits=activation_bits, granularity=granularity,
                      activations=activations, estimator=estimator, widen=widen, layer_inputs=layer_inputs,
                      accumulator_bits=accumulator_bits, dialect=dialect)
    folded = fold_batchnorm(network)
    check_integer_forms(folded)
    images = check_images(images, folded.input_shape)
    accumulator, axis = IntFormat(chosen.accumulator_bits), 0 if chosen.granularity == "channel" else None
    sources = qparam_sources(folded)
    qparams = _max_qparams(folded, images, chosen.estimator, chosen.activation_bits, chosen.activations)
    weights: dict[str, QuantizedWeight] = {}
    settled: set[str] = set()
    for node in folded.nodes:
        if isinstance(node, (Conv, Linear)):
            scale = max_scale(node.weight, IntFormat(chosen.weight_bits, narrow=True), axis)
            source = sources[node.inputs[0]]
            if RECIPES[recipe].searched:
                batches = LayerBatches(folded, node, images, qparams, weights, chosen.layer_inputs)
                found = search_node(batches, chosen.weight_bits, chosen.granularity, scale, qparams[source].scale,
                                    source in settled, chosen.widen)
                scale, settled = found.weight_scale, settled | {source}
                qparams[source] = replace(qparams[source], scale=found.activation_scale)
            weights[node.name] = quantize_weight(node, scale, chosen.weight_bits, qparams[source], accumulator)
    return assemble(folded, qparams, weights, accumulator, chosen.dialect)


def _max_qparams(network: Network, images: np.ndarray, estimator: str, bits: int, activations: str
               ) -> dict[str, QuantParams]:
    """Every tensor's qparams by max-scaling, or at the estimator's threshold except for the network's output."""
    if estimator == "max":
        return {name: activation_qparam(seen.low, seen.high, bits, activations)
                for name, seen in observe_extremes(network, images).items()}
    output = qparam_sources(network)[network.output]
    qparams = {}
    for name, (extremes, histogram) in calibrate(network, images).items():
        qparams[name] = activation_qparam(extremes.low, extremes.high, bits, activations)
        if name != output:
            limit = threshold(extremes, histogram, estimator, qparams[name].format)
            qparams[name] = replace(qparams[name], scale=threshold_scale(limit, qparams[name].format))
    return qparams


def activation_qparam(low: float, high: float, bits: int, activations: str) -> QuantParams:
    """The qparams of a tensor whose calibration values span [low, high] (see ``quantize_network``)."""
    low, high = in_float32(low), in_float32(high)
    if activations == "affine":
        scale, zero_point = affine_parameters(low, high, IntFormat(bits))
        return QuantParams(scale, IntFormat(bits), zero_point)
    unsigned = activations == "unsigned" and low >= 0
    fmt = IntFormat(bits, signed=not unsigned, narrow=not unsigned)
    return QuantParams(float(max_scale(np.array([low, high]), fmt)), fmt)


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
