"""Folding batch normalization into the convolution or linear layer before it, or the linear layer after it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.network.graph import BatchNorm, Conv, Linear, Network, Node


def fold_batchnorm(network: Network) -> Network:
    """The same function without BatchNorm nodes.

    With g = gamma / sqrt(variance + epsilon) and s = beta - g·mean, computed in float64:
    into a Conv or Linear before it that nothing else reads, W'_o = g_o·W_o, b'_o = g_o·b_o + s_o, one after another
    of a chain; of flat features, into a Linear that alone reads it, W'_of = W_of·g_f, b'_o = b_o + Σ_f W_of·s_f.
    Any other BatchNorm becomes a 1x1 depthwise convolution, on flat features too: one gain and one shift each.
    A folded pair keeps the layer's name. ValueError for tensors that are neither planes nor flat, and for a gain that
    leaves the weights' dtype.
    """
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    postponed: dict[str, BatchNorm] = {}  # to the Linear that alone reads them
    for original in network.nodes:
        node = replace(original, inputs=tuple(renamed.get(name, name) for name in original.inputs))
        if isinstance(node, Linear) and node.inputs[0] in postponed:
            node = _fold_into_reader(node, postponed[node.inputs[0]])
        if not isinstance(node, BatchNorm):
            nodes.append(node)
            continue
        source = node.inputs[0]
        before = next((n for n in nodes if n.name == source), None)
        # ``network`` is the original graph, in which what is folded still has its own name.
        owned = network.only_reader(original.inputs[0]) is not None
        if owned and isinstance(before, (Conv, Linear)):
            nodes[nodes.index(before)] = _fold(before, node)
            renamed[node.name] = source
        elif len(network.shapes[node.name]) == 1 and isinstance(network.only_reader(node.name), Linear):
            postponed[node.name] = node
        else:
            if len(network.shapes[node.name]) not in (1, 3):
                raise ValueError(f"node {node.name!r}: its input must be planes or flat to be folded, got shape "
                                 f"{network.shapes[node.name]}")
            with np.errstate(over="ignore"):
                gain, shift = (a.astype(node.gamma.dtype) for a in gain_and_shift(node))
            _check_finite(node, node, gain, shift, gain)
            nodes.append(Conv(node.name, node.inputs, gain.reshape(-1, 1, 1, 1), shift, Geometry(groups=len(gain))))
    return network.replace_nodes(nodes, *(renamed.get(name, name) for name in network.outputs))


def gain_and_shift(norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """g and beta - g·mean, in float64: y = g·x + shift."""
    gain = norm.gamma.astype(np.float64) / np.sqrt(norm.variance.astype(np.float64) + norm.epsilon)
    return gain, norm.beta - gain * norm.mean


def _fold(layer: Conv | Linear, norm: BatchNorm) -> Node:
    gain, shift = gain_and_shift(norm)
    dtype = layer.weight.dtype
    with np.errstate(over="ignore", invalid="ignore"):
        weight = (layer.weight * gain.reshape(-1, *(1,) * (layer.weight.ndim - 1))).astype(dtype)
        bias = (shift if layer.bias is None else gain * layer.bias + shift).astype(dtype)
    _check_finite(norm, layer, weight, bias, gain)
    return replace(layer, weight=weight, bias=bias)


def _fold_into_reader(layer: Linear, norm: BatchNorm) -> Linear:
    gain, shift = gain_and_shift(norm)
    weight, bias = np.empty_like(layer.weight), np.empty(len(layer.weight), layer.weight.dtype)
    # Row by row: in float64 a copy of all weights would be twice or four times the layer.
    with np.errstate(over="ignore", invalid="ignore"):
        for o, row in enumerate(layer.weight):
            weight[o] = row * gain
            bias[o] = (row * shift).sum() + (0.0 if layer.bias is None else layer.bias[o])
    _check_finite(norm, layer, weight, bias, gain)
    return replace(layer, inputs=norm.inputs, weight=weight, bias=bias)


def _check_finite(norm: BatchNorm, layer: Node, weight: np.ndarray, bias: np.ndarray, gain: np.ndarray
                  ) -> None:
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError(f"node {norm.name!r}: folded into {layer.name!r} its gain must stay within {weight.dtype}, "
                         f"got a largest gain of {np.abs(gain).max():.3g}")
