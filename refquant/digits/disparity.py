"""The bundled network with channels whose weights are up to 2^14 times the others': constructed, and said to be so.

Trained MobileNets hold channels that a ReLU always silences, with weights far larger than all others; a layer-wise
scale then has no codes left for the channels that matter. The bundled network has none, so they are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.graph import Conv, Linear, Network

# Layers that get one more output channel, and how many times the layer's largest weight its weights are. What reads
# it gets one more input: a depthwise layer an output of its own, any other an ordinary column.
FACTORS: Mapping[str, float] = {"conv1": 2.0**14, "dw2": 2.0**12, "pw2": 2.0**13, "dw3": 2.0**14, "res_a": 2.0**12,
                                "pw4": 2.0**14}
_COLUMNS = {"dw2": "conv1", "pw2": "dw2", "dw3": "pw2", "pw3": "dw3", "res_b": "res_a", "logits": "pw4"}


def with_disparity(network: Network, seed: int = 0) -> Network:
    """The digits network, folded, with one silent channel more in six layers.

    The new weights are negative, and the new bias too: from inputs that are never negative, as the images are and
    what a ReLU lets through, the ReLU behind makes 0, always. The function and all other activations stay the same.

    >>> from refquant.digits.weights import load_weights
    >>> [node.weight.shape[0] for node in with_disparity(load_weights()).nodes if isinstance(node, Conv)][:3]
    [17, 17, 33]
    """
    rng, folded = np.random.default_rng(seed), fold_batchnorm(network)
    return folded.replace_nodes(_widened(node, rng) if isinstance(node, (Conv, Linear)) else node
                                for node in folded.nodes)


def _widened(node: Conv | Linear, rng: np.random.Generator) -> Conv | Linear:
    weight, bias, geometry = node.weight, node.bias, node.geometry if isinstance(node, Conv) else Geometry()
    assert bias is not None
    largest = np.abs(weight).max()
    if node.name in _COLUMNS and geometry.groups == 1:
        column = rng.uniform(-largest, largest, (len(weight), 1, *weight.shape[2:])).astype(weight.dtype)
        weight = np.concatenate([weight, column], axis=1)
    if node.name in FACTORS:
        reach = FACTORS[node.name] * largest
        row = -reach * rng.uniform(0.5, 1, (1, *weight.shape[1:])).astype(weight.dtype)
        weight, bias = np.concatenate([weight, row]), np.append(bias, -reach).astype(bias.dtype)
        geometry = geometry._replace(groups=len(weight)) if geometry.groups > 1 else geometry
    changed = replace(node, weight=weight, bias=bias)
    return replace(changed, geometry=geometry) if isinstance(changed, Conv) else changed
