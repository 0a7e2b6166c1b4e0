"""Recipes: a float network and a few calibration images become a quantized network."""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.formats import IntFormat
from refquant.linear import affine_parameters, max_scale, quantize
from refquant.network.assembly import QuantizedWeight, assemble
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float_tensors
from refquant.network.graph import Conv, Linear, Network
from refquant.network.layers import Encoding
from refquant.network.quantized import QuantizedNetwork

# recipe: (default granularity, default bits)
RECIPES = {"max-int8": ("layer", 8), "channelwise-int8": ("channel", 8)}
GRANULARITIES = ("layer", "channel")
ACTIVATIONS = ("unsigned", "signed", "affine")


def quantize_network(network: Network, images: Any, recipe: str = "max-int8", *,
                     weight_bits: int | None = None, activation_bits: int | None = None,
                     granularity: str | None = None, activations: str = "unsigned",
                     accumulator_bits: int = 32, semantics: str = "single_round") -> QuantizedNetwork:
    """Quantize a float network after training.

    ``max-int8`` and ``channelwise-int8``: every scale is q_max / max|x|, over the weights of a layer
    or of each output channel, and over each activation tensor on the calibration images.

    network: may hold BatchNorm nodes. images: calibration images, floats (N, *input_shape).
    weight_bits, activation_bits: 2..16, by default the recipe's. granularity: of the weights, ``layer``
    or ``channel``. activations: ``unsigned`` (0..2^b-1 where calibration saw nothing negative, as after
    ReLU; otherwise signed narrow), ``signed`` (always signed narrow, as EasyQuant's), ``affine``
    (signed with an integer zero point, as TFLite's). accumulator_bits: 16, 24 or 32.
    Raises ValueError for other values, bad images, and accumulators that are proven too narrow.

    >>> import refquant
    >>> network, images, labels = refquant.load_digits()
    >>> quantized = refquant.quantize_network(network, images[:50], recipe="max-int8")
    >>> bool((quantized.run(images).argmax(axis=1) == labels).mean() > 0.98)
    True
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    default_granularity, default_bits = RECIPES[recipe]
    granularity = default_granularity if granularity is None else granularity
    weight_bits = default_bits if weight_bits is None else weight_bits
    activation_bits = default_bits if activation_bits is None else activation_bits
    for name, value, choices in (("granularity", granularity, GRANULARITIES),
                                 ("activations", activations, ACTIVATIONS),
                                 ("accumulator_bits", accumulator_bits, (16, 24, 32)),
                                 ("weight_bits", weight_bits, range(2, 17)),
                                 ("activation_bits", activation_bits, range(2, 17))):
        if value not in choices:
            wanted = (f"from {choices[0]} to {choices[-1]}" if isinstance(choices, range)
                      else f"one of {', '.join(map(str, choices))}")
            raise ValueError(f"{name} must be {wanted}, got {value!r}")

    folded = fold_batchnorm(network)
    encodings = {name: activation_encoding(*extremes, activation_bits, activations)
                 for name, extremes in observe_extremes(folded, images).items()}
    axis = 0 if granularity == "channel" else None
    weights = {node.name: quantize_weight(node.weight, weight_bits, axis)
               for node in folded.nodes if isinstance(node, (Conv, Linear))}
    return assemble(folded, encodings, weights, IntFormat(accumulator_bits), semantics)


def observe_extremes(network: Network, images: Any) -> dict[str, tuple[float, float]]:
    """The smallest and largest value of every tensor over the calibration images."""
    return {name: (float(x.min()), float(x.max())) for name, x in run_float_tensors(network, images).items()}


def activation_encoding(low: float, high: float, bits: int, activations: str) -> Encoding:
    """The encoding of a tensor whose calibration values span [low, high] (see ``quantize_network``)."""
    if activations == "affine":
        scale, zero_point = affine_parameters(low, high, IntFormat(bits))
        return Encoding(scale, IntFormat(bits), zero_point)
    unsigned = activations == "unsigned" and low >= 0
    fmt = IntFormat(bits, signed=not unsigned, narrow=not unsigned)
    return Encoding(float(max_scale(np.array([low, high]), fmt)), fmt)


def quantize_weight(weight: np.ndarray, bits: int, axis: int | None) -> QuantizedWeight:
    """Weight codes by max-scaling, signed narrow; axis 0 for one scale per output channel."""
    fmt = IntFormat(bits, narrow=True)
    scale = max_scale(weight, fmt, axis)
    return QuantizedWeight(quantize(weight, scale, fmt, axis=axis), scale, fmt)
