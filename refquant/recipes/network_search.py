"""EasyQuant over a network: one layer after another, from the first to the last."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from refquant.easyquant.layer import ScaleSearch
from refquant.easyquant.paper import search_paper
from refquant.network.float_forward import evaluate
from refquant.network.graph import Conv, Linear, Network, Node
from refquant.network.program import QuantParams
from refquant.recipes.calibration import BATCH
from refquant.recipes.lowering import QuantizedWeight, qparam_sources

# A search walks through its batches some seven times. Small ones are kept, 64 MiB at most; others computed anew.
KEPT_ELEMENTS = 1 << 23
LAYER_INPUTS = ("quantized", "float")


@dataclass(frozen=True, eq=False)
class LayerBatches:
    """What one layer reads and should give, batch by batch, computed anew at every walk.

    Pairs of inputs (N, C, H, W) and the float network's outputs (N, O, P, Q) without bias. prefix
    ``quantized``: the inputs come through the layers before, whose weights and tensors are rounded to their
    codes and back, in float64; only the input itself, whose scale is searched, is not. ``float``: the float
    network's.
    """

    network: Network
    node: Conv | Linear
    images: np.ndarray
    qparams: Mapping[str, QuantParams]
    weights: Mapping[str, QuantizedWeight]
    layer_inputs: str

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        sources = qparam_sources(self.network)
        read = self.node.inputs[0]
        # Whatever has the searched tensor's qparams, such as what is pooled from it, stays real.
        sources = {name: source for name, source in sources.items() if source != sources[read]}
        for start in range(0, len(self.images), BATCH):
            # In float64: in float32 a requantization tie would fall by chance, and near ties between candidates too.
            real = {self.network.input: self.images[start:start + BATCH].astype(np.float64)}
            rounded = dict(real)
            for node in self.network.nodes:
                if node is self.node:
                    break
                real[node.name] = evaluate(node, *(real[name] for name in node.inputs))
                if self.layer_inputs == "quantized":
                    inputs = (self._round(rounded[name], sources.get(name)) for name in node.inputs)
                    rounded[node.name] = evaluate(self._round_weight(node), *inputs)
            outputs = evaluate(replace(self.node, bias=None), real[read])
            yield as_planes((rounded if self.layer_inputs == "quantized" else real)[read]), as_planes(outputs)

    def _round(self, x: np.ndarray, source: str | None) -> np.ndarray:
        if source is None:
            return x
        qparam = self.qparams[source]
        return qparam.dequantize(qparam.quantize(x))

    def _round_weight(self, node: Node) -> Node:
        if not isinstance(node, (Conv, Linear)) or node.name not in self.weights:
            return node
        weight = self.weights[node.name]
        scale = weight.scale.reshape(-1, *[1] * (weight.codes.ndim - 1)) if weight.scale.ndim else weight.scale
        return replace(node, weight=weight.codes / scale)


def as_planes(x: np.ndarray) -> np.ndarray:
    """(N, F) as F planes of one element; (N, C, H, W) as it is."""
    return x.reshape(*x.shape, 1, 1) if x.ndim == 2 else x


def search_node(batches: LayerBatches, weight_bits: int, granularity: str, weight_scale: np.ndarray,
                activation_scale: float, keep_activation: bool, widen: bool = False) -> ScaleSearch:
    """``easyquant.search_paper`` on what one node of the network reads, from these two scales.

    keep_activation: where a node before has already settled the input's scale.
    """
    node, shapes = batches.node, batches.network.shapes
    elements = len(batches.images) * sum(math.prod(shapes[name]) for name in (node.inputs[0], node.name))
    walked = list(batches) if elements <= KEPT_ELEMENTS else batches
    fmt = batches.qparams[qparam_sources(batches.network)[node.inputs[0]]].format
    geometry = node.geometry if isinstance(node, Conv) else Conv.geometry
    weight = node.weight if isinstance(node, Conv) else node.weight[:, :, None, None]
    return search_paper(walked, weight, bits=(weight_bits, fmt.bits), granularity=granularity,
                        unsigned=not fmt.signed, initial=[(weight_scale, activation_scale)],
                        widen=widen, keep_activation=keep_activation, **geometry._asdict())
