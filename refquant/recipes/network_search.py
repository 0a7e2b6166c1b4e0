"""EasyQuant over a network: one layer after another, each behind the layers that are quantized already."""

from __future__ import annotations

import math
from concurrent.futures import Executor

import numpy as np

from refquant.easyquant.paper import search_paper
from refquant.network.graph import Conv, Linear, Network, Node
from refquant.network.qparams import QuantParams
from refquant.recipes.lowering import QuantizedWeight
from refquant.recipes.settings import RECIPES, Settings
from refquant.recipes.walk import Walk, visiting_order
from refquant.recipes.weights import initial_scale, quantize_weight
from refquant.workers import Progress

# Cost of rounding one input or comparing one output, in multiplications of a matrix product.
PER_ELEMENT = 100


def search_network(network: Network, images: np.ndarray, qparams: dict[str, QuantParams], chosen: Settings,
                   executor: Executor | None = None, progress: Progress | None = None
                   ) -> tuple[dict[str, QuantParams], dict[str, QuantizedWeight]]:
    """``easyquant.search_paper`` for every Conv and Linear, from the scales in ``qparams`` and ``initial_scale``'s.

    Coupling ``search_cosine`` without EasyQuant takes the same walk, and finds shifts and weight scales alone.

    The first layer that reads a tensor searches its scale; the others keep it, and search their weights alone.
    """
    walk, weights = Walk(network, images, qparams, chosen.layer_inputs), {}
    order = visiting_order(network)
    costs, done = [_cost(network, group[0], len(images)) for group in order], 0.0
    for group, cost in zip(order, costs):
        node = group[0]
        if progress:
            progress("search", node.name, done / (sum(costs) or 1.0))  # 0 without any weights
        done += cost
        if isinstance(node, (Conv, Linear)):
            source = walk.sources[node.inputs[0]]
            qparam = walk.qparams[source]
            scale, shifts = initial_scale(node, chosen, walk.layer(node))
            activation_scale = qparam.scale
            if RECIPES[chosen.recipe].searched:
                found = search_paper(
                    walk.layer(node), node.weight if isinstance(node, Conv) else node.weight[:, :, None, None],
                    bits=(chosen.weight_bits, qparam.format.bits), unsigned=not qparam.format.signed,
                    widen=chosen.widen, granularity="channel" if chosen.granularity == "channel" else "layer",
                    initial=[(scale, activation_scale)], keep_activation=source in walk.settled, executor=executor,
                    **(node.geometry if isinstance(node, Conv) else Conv.geometry)._asdict())
                scale, activation_scale = found.weight_scale, found.activation_scale
            walk.settle(source, activation_scale)
            weights[node.name] = quantize_weight(node, scale, shifts, chosen, walk.qparams[source])
        walk.visit(group, weights)
    return walk.qparams, weights


def _cost(network: Network, node: Node, images: int) -> float:
    """About how long a node's search takes: multiplications of its convolution, and of its Gram matrix."""
    if not isinstance(node, (Conv, Linear)):
        return 0.0
    terms = node.weight[0].size
    inputs, outputs = (math.prod(network.shapes[name]) for name in (*node.inputs, node.name))
    return images * (outputs * terms + PER_ELEMENT * (inputs + outputs)) + len(node.weight) * float(terms)**2
