"""EasyQuant over a network: one layer after another, each behind the layers that are quantized already."""

from __future__ import annotations

import numpy as np

from refquant.easyquant.paper import search_paper
from refquant.integers.formats import IntFormat
from refquant.network.graph import Conv, Linear, Network
from refquant.network.program import QuantParams
from refquant.recipes.lowering import QuantizedWeight
from refquant.recipes.settings import Settings
from refquant.recipes.walk import Walk, visiting_order
from refquant.recipes.weights import quantize_weight
from refquant.scales.linear import max_scale


def search_network(network: Network, images: np.ndarray, qparams: dict[str, QuantParams], chosen: Settings
                   ) -> tuple[dict[str, QuantParams], dict[str, QuantizedWeight]]:
    """``easyquant.search_paper`` for every Conv and Linear, from the scales in ``qparams`` and weights' max-scaling.

    The first layer that reads a tensor searches its scale; the others keep it, and search their weights alone.
    """
    walk, weights = Walk(network, images, qparams, chosen.layer_inputs), {}
    fmt, accumulator = IntFormat(chosen.weight_bits, narrow=True), IntFormat(chosen.accumulator_bits)
    for group in visiting_order(network):
        node = group[0]
        if isinstance(node, (Conv, Linear)):
            source = walk.sources[node.inputs[0]]
            qparam = walk.qparams[source]
            start = max_scale(node.weight, fmt, 0 if chosen.granularity == "channel" else None)
            found = search_paper(
                walk.layer(node), node.weight if isinstance(node, Conv) else node.weight[:, :, None, None],
                bits=(fmt.bits, qparam.format.bits), unsigned=not qparam.format.signed, widen=chosen.widen,
                granularity=chosen.granularity, initial=[(start, qparam.scale)],
                keep_activation=source in walk.settled,
                **(node.geometry if isinstance(node, Conv) else Conv.geometry)._asdict())
            walk.settle(source, found.activation_scale)
            weights[node.name] = quantize_weight(node, found.weight_scale, fmt.bits, walk.qparams[source],
                                                 accumulator)
        walk.visit(group, weights)
    return walk.qparams, weights
