"""Folding batch normalization into the convolution or linear layer before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refquant.geometry import Geometry
from refquant.network.graph import BatchNorm, Conv, Linear, Network, Node


def fold_batchnorm(network: Network) -> Network:
    """The same function without BatchNorm nodes.

    With g = gamma / sqrt(variance + epsilon), computed in float64:
    W'_o = g_o·W_o,  b'_o = g_o·(b_o - mean_o) + beta_o.
    A BatchNorm whose input is not a Conv or Linear of its own becomes a 1x1 depthwise convolution
    (on flat tensors, a diagonal Linear). A folded pair keeps the convolution's name.
    """
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for node in network.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if not isinstance(node, BatchNorm):
            nodes.append(node)
            continue
        source = node.inputs[0]
        before = next((n for n in nodes if n.name == source), None)
        # ``only_reader`` speaks of the original graph, in which the source has its own name.
        owned = source not in renamed.values() and network.only_reader(source) is not None
        if owned and isinstance(before, (Conv, Linear)):
            nodes[nodes.index(before)] = _fold(before, node)
            renamed[node.name] = source
        else:
            nodes.append(_as_layer(node, network.shapes[node.name]))
    return network.replace_nodes(nodes, renamed.get(network.output, network.output))


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
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError(f"node {norm.name!r}: folded into {layer.name!r} its gain must stay within {dtype}, "
                         f"got a largest gain of {np.abs(gain).max():.3g}")
    return replace(layer, weight=weight, bias=bias)


def _as_layer(norm: BatchNorm, shape: tuple[int, ...]) -> Node:
    gain, shift = (a.astype(norm.gamma.dtype) for a in gain_and_shift(norm))
    if len(shape) == 1:
        return Linear(norm.name, norm.inputs, np.diag(gain), shift)
    return Conv(norm.name, norm.inputs, gain.reshape(-1, 1, 1, 1), shift, Geometry(groups=len(gain)))
