"""Recipes: a float network and a few calibration images become a quantized network."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from refquant.bounds import dot_product_range
from refquant.calibration import calibrate, observe_extremes
from refquant.formats import IntFormat
from refquant.layer_search import PREFIXES, LayerBatches, search_node
from refquant.linear import affine_parameters, max_scale, quantize
from refquant.network.assembly import QuantizedWeight, assemble, check_integer_forms, encoding_sources
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import check_images
from refquant.network.graph import Conv, Linear, Network
from refquant.network.layers import Encoding
from refquant.network.quantized import QuantizedNetwork
from refquant.ranges import ESTIMATORS, in_float32, threshold, threshold_scale
from refquant.requantization import SEMANTICS
from refquant.rounding import round_fraction


class Recipe(NamedTuple):
    """A recipe's defaults, and where it comes from."""

    granularity: str
    bits: int
    activations: str
    estimator: str  # of the activations' ranges, one of ranges.ESTIMATORS
    searched: bool  # whether EasyQuant goes on from there
    source: str


_TENSORRT = "activations by KL as NVIDIA's toolkit searches it (Migacz 2017), weights by max per output channel"
_EASYQUANT = "EasyQuant's search of both scales from max, weights per output channel (arXiv 2006.16669)"
RECIPES = {
    "max-int8": Recipe("layer", 8, "unsigned", "max", False,
                       "max-scaling, one weight scale per layer (EasyQuant Eq. 1)"),
    "channelwise-int8": Recipe("channel", 8, "unsigned", "max", False,
                               "max-scaling, one weight scale per output channel"),
    "tensorrt-int8": Recipe("channel", 8, "signed", "kl_nvidia", False, _TENSORRT),
    "tensorrt-int7": Recipe("channel", 7, "signed", "kl_nvidia", False, f"{_TENSORRT}, 7 bits"),
    "easyquant-int8": Recipe("channel", 8, "signed", "max", True, _EASYQUANT),
    "easyquant-int7": Recipe("channel", 7, "signed", "max", True, f"{_EASYQUANT}, 7 bits"),
}
GRANULARITIES = ("layer", "channel")
ACTIVATIONS = ("unsigned", "signed", "affine")


def quantize_network(network: Network, images: Any, recipe: str = "max-int8", *,
                     weight_bits: int | None = None, activation_bits: int | None = None,
                     granularity: str | None = None, activations: str | None = None, estimator: str | None = None,
                     widen: bool = False, prefix: str = "quantized", accumulator_bits: int = 32,
                     semantics: str = "single_round") -> QuantizedNetwork:
    """Quantize a float network after training.

    ``max-int8`` and ``channelwise-int8``: every scale is q_max / max|x|, over the weights of a layer
    or of each output channel, and over each activation tensor on the calibration images.
    ``tensorrt-int8``, ``-int7``: the same per channel, but activations are clipped at the threshold of least KL
    divergence (``ranges.kl``, variant ``nvidia``). The network's output keeps max-scaling.
    ``easyquant-int8``, ``-int7``: from max-scaling, EasyQuant's search improves the scales of each layer's weights
    and input, layer by layer. A tensor that several layers read gets its scale from the first
    convolution or linear layer, whatever else reads it; tensors that none of these reads keep max-scaling.

    network: may hold BatchNorm nodes. images: calibration images, floats (N, *input_shape).
    weight_bits, activation_bits: 2..16. granularity: of the weights, ``layer`` or ``channel``.
    activations: ``unsigned`` (0..2^b-1 where calibration saw nothing negative, as after ReLU; otherwise
    signed narrow), ``signed`` (always signed narrow, as EasyQuant's), ``affine`` (signed with an integer
    zero point, as TFLite's; not with KL or EasyQuant). estimator: of the activations' ranges, one of
    ``ranges.ESTIMATORS``. All five are the recipe's by default. widen: EasyQuant's ranges, as
    ``easyquant.search_layer`` says. prefix: whether EasyQuant sees a layer's inputs through the layers already
    ``quantized`` or from the ``float`` network.
    accumulator_bits: 16, 24 or 32.
    Raises ValueError for other values, bad images, and accumulators that are proven too narrow.

    >>> import refquant
    >>> network, images, labels = refquant.load_digits()
    >>> quantized = refquant.quantize_network(network, images[:50], recipe="max-int8")
    >>> bool((quantized.run(images).argmax(axis=1) == labels).mean() > 0.98)
    True
    """
    default, weight_bits, activation_bits, granularity, activations, estimator = _checked(
        recipe, weight_bits, activation_bits, granularity, activations, estimator, widen, prefix, accumulator_bits,
        semantics)
    folded = fold_batchnorm(network)
    check_integer_forms(folded)
    images = check_images(images, folded.input_shape)
    accumulator, axis = IntFormat(accumulator_bits), 0 if granularity == "channel" else None
    sources = encoding_sources(folded)
    encodings = _encodings(folded, images, estimator, activation_bits, activations)
    weights: dict[str, QuantizedWeight] = {}
    settled: set[str] = set()
    for node in folded.nodes:
        if isinstance(node, (Conv, Linear)):
            scale = max_scale(node.weight, IntFormat(weight_bits, narrow=True), axis)
            source = sources[node.inputs[0]]
            if default.searched:
                found = search_node(LayerBatches(folded, node, images, encodings, weights, prefix), weight_bits,
                                    granularity, scale, encodings[source].scale, source in settled, widen)
                scale, settled = found.weight_scale, settled | {source}
                encodings[source] = replace(encodings[source], scale=found.activation_scale)
            weights[node.name] = quantize_weight(node, scale, weight_bits, encodings[source], accumulator)
    return assemble(folded, encodings, weights, accumulator, semantics)


def _checked(recipe: str, weight_bits: int | None, activation_bits: int | None, granularity: str | None,
             activations: str | None, estimator: str | None, widen: bool, prefix: str, accumulator_bits: int,
             semantics: str) -> tuple[Recipe, int, int, str, str, str]:
    """The recipe, and its defaults where nothing else is asked for; ValueError for what is not to be had."""
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    default = RECIPES[recipe]
    granularity = default.granularity if granularity is None else granularity
    activations = default.activations if activations is None else activations
    estimator = default.estimator if estimator is None else estimator
    weight_bits = default.bits if weight_bits is None else weight_bits
    activation_bits = default.bits if activation_bits is None else activation_bits
    for name, value, choices in (("granularity", granularity, GRANULARITIES),
                                 ("activations", activations, ACTIVATIONS), ("estimator", estimator, ESTIMATORS),
                                 ("prefix", prefix, PREFIXES),
                                 ("accumulator_bits", accumulator_bits, (16, 24, 32)),
                                 ("semantics", semantics, tuple(SEMANTICS)),
                                 ("weight_bits", weight_bits, range(2, 17)),
                                 ("activation_bits", activation_bits, range(2, 17))):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if value not in choices or not (whole or isinstance(value, str)):
            wanted = (f"from {choices[0]} to {choices[-1]}" if isinstance(choices, range)
                      else f"one of {', '.join(map(str, choices))}")
            raise ValueError(f"{name} must be {wanted}, got {value!r}")
    if activations == "affine" and (default.searched or estimator != "max"):
        raise ValueError(f"activations must be unsigned or signed with recipe {recipe} and estimator {estimator}, "
                         f"got 'affine'")
    if widen and not default.searched:
        raise ValueError(f"widen must be False with recipe {recipe}, which searches nothing, got {widen!r}")
    return default, weight_bits, activation_bits, granularity, activations, estimator


def _encodings(network: Network, images: np.ndarray, estimator: str, bits: int, activations: str
               ) -> dict[str, Encoding]:
    """Every tensor's encoding by max-scaling, or at the estimator's threshold except for the network's output."""
    if estimator == "max":
        return {name: activation_encoding(seen.low, seen.high, bits, activations)
                for name, seen in observe_extremes(network, images).items()}
    output = encoding_sources(network)[network.output]
    encodings = {}
    for name, (extremes, histogram) in calibrate(network, images).items():
        encodings[name] = activation_encoding(extremes.low, extremes.high, bits, activations)
        if name != output:
            limit = threshold(extremes, histogram, estimator, encodings[name].format)
            encodings[name] = replace(encodings[name], scale=threshold_scale(limit, encodings[name].format))
    return encodings


def activation_encoding(low: float, high: float, bits: int, activations: str) -> Encoding:
    """The encoding of a tensor whose calibration values span [low, high] (see ``quantize_network``)."""
    low, high = in_float32(low), in_float32(high)
    if activations == "affine":
        scale, zero_point = affine_parameters(low, high, IntFormat(bits))
        return Encoding(scale, IntFormat(bits), zero_point)
    unsigned = activations == "unsigned" and low >= 0
    fmt = IntFormat(bits, signed=not unsigned, narrow=not unsigned)
    return Encoding(float(max_scale(np.array([low, high]), fmt)), fmt)


def quantize_weight(node: Conv | Linear, scale: np.ndarray, bits: int, encoding: Encoding, accumulator: IntFormat
                    ) -> QuantizedWeight:
    """Weight codes at a scale, signed narrow; the scale is first limited to what the bias allows.

    scale: () or (O,); a layer's one scale becomes the least of its channels' limits. encoding: the input's.
    """
    fmt = IntFormat(bits, narrow=True)
    scale, limited = limit_scales(node, scale, fmt, encoding, accumulator)
    return QuantizedWeight(quantize(node.weight, scale, fmt, axis=0 if scale.ndim else None), scale, fmt, limited)


def limit_scales(node: Conv | Linear, scale: np.ndarray, fmt: IntFormat, encoding: Encoding, accumulator: IntFormat
                 ) -> tuple[np.ndarray, tuple[int, ...]]:
    """Scales lowered where only the bias code keeps a sum from fitting the accumulator.

    The bias code is round(b·S_x·S_w): a channel of tiny weights has a large S_w, and then a huge bias
    code. Such a channel gets the largest scale whose proven sum fits; a channel whose products alone do
    not fit is left as it is, to be refused. Returns the scales and the channels that had to be limited.
    """
    if node.bias is None:
        return scale, ()
    bias = node.bias.astype(np.float64)
    low, high = min(encoding.format.min - encoding.zero_point, 0), max(encoding.format.max - encoding.zero_point, 0)

    def sums_fit(channel: int, s_w: float, with_bias: bool) -> bool:
        codes = quantize(node.weight[channel], s_w, fmt)
        least, greatest = (int(v[0]) for v in dot_product_range(codes.reshape(1, -1), low, high))
        code = round_fraction(Fraction(bias[channel]) * Fraction(encoding.scale * s_w)) if with_bias else 0
        return accumulator.min <= least + min(code, 0) and greatest + max(code, 0) <= accumulator.max

    scales = np.broadcast_to(scale, bias.shape)
    limits = scales.copy()
    # In float64 first: almost no channel comes near the accumulator's limits.
    reach = max(-low, high) * fmt.max * node.weight[0].size + np.abs(bias) * encoding.scale * scales
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
    limited = tuple(int(c) for c in np.flatnonzero(limits != scales))
    return (limits if scale.ndim else np.asarray(limits.min())), limited
