"""Hardware cost of a quantized network, counted per layer (PWLQ, supplement, section 3)."""

from __future__ import annotations

import math
from typing import NamedTuple

from refquant.network.program import QuantizedConv
from refquant.network.proof import QuantizedNetwork


class LayerCosts(NamedTuple):
    """Counts for one image.

    products: of two magnitudes. A piecewise code is in one region, so that a pair costs one product, whichever
    accumulator gets it. accumulators: for each output; some only add up ±x_q or ±w_q. rescales: multiplications by
    m_i. weight_bits: of storage, of which region_bits say which region a weight is in.
    """

    layer: str
    products: int
    accumulators: int
    rescales: int
    weight_bits: int
    region_bits: int


def layer_costs(network: QuantizedNetwork) -> list[LayerCosts]:
    """The counts of each convolution and linear layer; an image's, with every position of padding counted.

    >>> from refquant import calibration_images, load_digits, quantize_network
    >>> quantized = quantize_network(load_digits()[0], calibration_images()[:5], "pwlq-w4a8")
    >>> costs = layer_costs(quantized)[0]
    >>> costs.layer, costs.products, costs.accumulators, costs.weight_bits, costs.region_bits
    ('conv1', 36864, 4, 720, 144)
    """
    result = []
    for layer in network.layers:
        if not isinstance(layer, QuantizedConv):
            continue
        weight = layer.terms[0].weight_q
        outputs = math.prod(network.shapes[layer.output])
        regions = weight.size if layer.code_bits else 0
        result.append(LayerCosts(layer.name, outputs * weight[0].size, len(layer.terms),
                                 outputs * len(layer.terms), layer.weight_bits, regions))
    return result
