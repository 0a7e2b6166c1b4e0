"""A float network and its quantized counterpart, carried forward together once, so that no layer starts anew.

A tensor's scale is settled by the search of the first Conv or Linear that reads it, or reads what MaxPool, Flatten or
Clip make of it; a tensor that none reads is settled from the start. ``visiting_order`` lets a tensor meet its
convolutions before an Add, a Concat or an average pool reads it: these see codes at settled scales alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from refquant.network.float_forward import evaluate
from refquant.network.forward import slices
from refquant.network.graph import Conv, Linear, Network, Node
from refquant.network.qparams import QuantParams
from refquant.recipes.lowering import QuantizedWeight, carries_codes, qparam_sources

LAYER_INPUTS = ("quantized", "float")


def visiting_order(network: Network) -> list[list[Node]]:
    """Every node once, in groups: a node, then the Clip, MaxPool, Flatten and Move nodes that can run right after it.

    Convolutions and linear layers come as soon as their input is there, other nodes when none of those is left; each
    kind in the network's order. A convolution reads one tensor, so that nothing it waits for can wait for it.
    """
    known, waiting = {network.input}, list(network.nodes)
    groups: list[list[Node]] = [[]]

    def rank(node: Node) -> int:
        if carries_codes(node):
            return 0
        return 1 if isinstance(node, (Conv, Linear)) else 2

    while waiting:
        node = min((node for node in waiting if known.issuperset(node.inputs)), key=rank)
        if rank(node) and groups[-1]:
            groups.append([])
        groups[-1].append(node)
        known.add(node.name)
        waiting.remove(node)
    return groups


class Walk:
    """The float and quantized tensors that unvisited nodes still read, one slice of images at a time.

    Of every tensor two things: the float network's, in float64, and the quantized network's: codes once the scale is
    settled, float64 until then. (In float32 a requantization tie would fall by chance, and half of a Concat's codes
    can lie on ties.) Both are dropped after their last reader.

    network: folded. images: floats (N, *input_shape). qparams: of every tensor, to begin with. layer_inputs: whether
    a layer's inputs come through the ``quantized`` layers before it, or are the ``float`` network's.
    """

    def __init__(self, network: Network, images: np.ndarray, qparams: Mapping[str, QuantParams],
                 layer_inputs: str = "quantized") -> None:
        self.network, self.qparams, self.layer_inputs = network, dict(qparams), layer_inputs
        self.sources = qparam_sources(network)
        self.settled = set(self.sources.values()) - {
            self.sources[node.inputs[0]] for node in network.nodes if isinstance(node, (Conv, Linear))}
        self._waiting = list(network.nodes)
        inputs = [images[some] for some in slices(len(images), network.shapes, network.nodes)]
        self._real = [{network.input: x} for x in inputs]
        self._quantized = [{network.input: self._settle(network.input, x)} for x in inputs]

    def layer(self, node: Conv | Linear) -> LayerSlices:
        """The inputs of one layer, and the outputs that it should give."""
        return LayerSlices(self, node)

    def pairs(self, node: Conv | Linear) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each slice: the layer's input, and the float network's output without bias."""
        name, unbiased = node.inputs[0], replace(node, bias=None)
        images = len(self._real[0][name])
        shapes = {tensor: (images, *self.network.shapes[tensor]) for tensor in (name, node.name)}
        for some in slices(len(self._real), shapes, [node]):  # of a small layer several slices together
            x = read = np.concatenate([real[name] for real in self._real[some]]).astype(np.float64, copy=False)
            if self.layer_inputs == "quantized":
                read = self._values(name, np.concatenate([quantized[name] for quantized in self._quantized[some]]))
            yield read, evaluate(unbiased, x)

    def carried(self) -> Iterator[tuple[str, np.ndarray]]:
        """The quantized network's tensors that are still to be read, slice by slice."""
        return ((name, x) for quantized in self._quantized for name, x in quantized.items())

    def settle(self, source: str, scale: float) -> None:
        """Fix the scale of a tensor and of all tensors that carry its codes."""
        self.qparams[source] = replace(self.qparams[source], scale=scale)
        self.settled.add(source)
        for quantized in self._quantized:
            quantized.update({name: self._settle(name, x) for name, x in quantized.items()})

    def visit(self, group: Sequence[Node], weights: Mapping[str, QuantizedWeight]) -> None:
        """Compute a group of ``visiting_order``. weights: of the layers that are quantized."""
        steps = []
        for node in group:
            self._waiting.remove(node)
            steps.append((node, _rounded(node, weights), {name for node in self._waiting for name in node.inputs}))
        for real, quantized in zip(self._real, self._quantized):
            for node, rounded, unread in steps:
                inputs = (real[name].astype(np.float64, copy=False) for name in node.inputs)
                real[node.name] = evaluate(node, *inputs)
                if self.layer_inputs == "quantized":
                    inputs = (self._values(name, quantized[name]) for name in node.inputs)
                    quantized[node.name] = self._settle(node.name, evaluate(rounded, *inputs))
                for tensors in (real, quantized):
                    for name in set(tensors) - unread:
                        del tensors[name]

    def _settle(self, name: str, x: np.ndarray) -> np.ndarray:
        """Codes, if they are not yet and the tensor's scale is settled."""
        source = self.sources.get(name)
        return self.qparams[source].quantize(x) if x.dtype.kind == "f" and source in self.settled else x

    def _values(self, name: str, x: np.ndarray) -> np.ndarray:
        """float64 of codes or of floats."""
        return (x.astype(np.float64, copy=False) if x.dtype.kind == "f"
                else self.qparams[self.sources[name]].dequantize(x))


class LayerSlices:
    """``Walk.pairs`` of one layer, any number of times; flat tensors as planes of one element."""

    def __init__(self, walk: Walk, node: Conv | Linear) -> None:
        self.walk, self.node = walk, node

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((as_planes(x), as_planes(outputs)) for x, outputs in self.walk.pairs(self.node))


def as_planes(x: np.ndarray) -> np.ndarray:
    """(N, F) as F planes of one element; (N, C, H, W) as it is."""
    return x.reshape(*x.shape, 1, 1) if x.ndim == 2 else x


def _rounded(node: Node, weights: Mapping[str, QuantizedWeight]) -> Node:
    if not isinstance(node, (Conv, Linear)) or node.name not in weights:
        return node
    weight = weights[node.name]
    scale = weight.scale.reshape(-1, *[1] * (weight.codes.ndim - 1)) if weight.scale.ndim else weight.scale
    return replace(node, weight=weight.codes / scale)
