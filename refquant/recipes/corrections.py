"""Two corrections of DFQ (Nagel et al. 2019, arXiv 1906.04721): one before a network is quantized, one after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.bounds import dot_product_range
from refquant.integers.formats import IntFormat
from refquant.network.float_forward import check_images
from refquant.network.graph import Clip, Conv, Flatten, GlobalAveragePool, Linear, MaxPool, Network, Node
from refquant.network.integer_forward import Context, compute
from refquant.network.program import QuantizedConv, Term
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import TensorParams
from refquant.recipes.calibration import observe
from refquant.scales.linear import channel_reach
from refquant.shift_equalizer import alive
from refquant.workers import Progress

# The factors of a sweep are this near to 1 when cross-layer equalization ends; else after so many sweeps.
CONVERGED, SWEEPS = 1e-3, 100


class LayerPairs(NamedTuple):
    """pairs: names of two layers each, which can share their ranges.

    left: how many have no partner, by the node that prevents it.
    """

    pairs: tuple[tuple[str, str], ...]
    left: dict[str, int]


def layer_pairs(network: Network) -> LayerPairs:
    """The pairs that cross-layer equalization works on.

    A pair: a Conv or Linear and the only reader of its output, also behind ReLU, pooling and Flatten, which carry a
    factor per channel on. ReLU6 and other clips, Add, Concat, and several readers leave a layer without a partner.
    """
    pairs, left = [], Counter[str]()
    for node in network.nodes:
        if isinstance(node, (Conv, Linear)):
            reader, obstacle = _partner(network, node)
            if reader is not None:
                pairs.append((node.name, reader.name))
            elif obstacle:
                left[obstacle] += 1
    return LayerPairs(tuple(pairs), dict(left))


def cross_layer_equalize(network: Network) -> Network:
    """Scale the channels between two layers so that both layers' weights use their range (DFQ, section 4.1).

    With r1_i = max|W1| of output channel i and r2_i = max|W2| of input channel i, s_i = sqrt(r1_i·r2_i)/r2_i: row i
    of W1 and b1_i are divided by s_i, column i of W2 multiplied. s_i = 1 where r1_i or r2_i is dead: 0, or below
    2^-24 of its layer. Pairs are visited in order, again and again, until no factor is further than 0.1 % from 1,
    or 100 times.

    network: without BatchNorm nodes. The result computes the same function, up to the rounding of its floats; layers
    outside ``layer_pairs`` stay as they are. Biases grow as their rows do.

    >>> first, second = np.array([[[[8.0]]], [[[0.5]]]]), np.array([[[[1.0]], [[1.0]]]])
    >>> net = Network((1, 4, 4), [Conv("a", "input", first), Clip("relu", "a"), Conv("b", "relu", second)])
    >>> np.ravel(cross_layer_equalize(net).nodes[0].weight).round(3).tolist(), layer_pairs(net).pairs
    ([2.828, 0.707], (('a', 'b'),))
    """
    nodes = {node.name: node for node in network.nodes if isinstance(node, (Conv, Linear))}
    weights = {name: node.weight.astype(np.float64) for name, node in nodes.items()}
    pairs = layer_pairs(network).pairs
    factors = {first: np.ones(len(weights[first])) for first, _ in pairs}
    live = {first: np.logical_and(*map(alive, _reach(nodes[first], nodes[second], weights)))
            for first, second in pairs}
    for _ in range(SWEEPS):
        furthest = 0.0
        for first, second in pairs:
            rows, columns = _reach(nodes[first], nodes[second], weights)
            s = np.sqrt(np.divide(rows, columns, out=np.ones(len(rows)), where=live[first]))
            weights[first] /= _along_rows(s, weights[first])
            weights[second] *= _along_columns(s, weights[second], nodes[second])
            factors[first] *= s
            furthest = max(furthest, float(np.abs(s - 1).max()))
        if furthest <= CONVERGED:
            break
    return network.replace_nodes(_rescaled(node, weights, factors) for node in network.nodes)


def _partner(network: Network, node: Node) -> tuple[Conv | Linear | None, str]:
    """The layer that alone reads what ``node`` computes, or None and what stands in between."""
    tensor = node.name
    while tensor != network.output:
        reader = network.only_reader(tensor)
        if isinstance(reader, (Conv, Linear)):
            return reader, ""
        if reader is None:
            return None, "several readers"
        if isinstance(reader, Clip) and (reader.low, reader.high) != (0, None):
            return None, f"clip to {reader.low}..{reader.high}"
        if not isinstance(reader, (Clip, MaxPool, GlobalAveragePool, Flatten)):
            return None, type(reader).__name__
        tensor = reader.name
    return None, ""


def _grouped(w: np.ndarray, node: Node) -> np.ndarray:
    """w as (groups, O/groups, C/groups, R·S)."""
    groups = node.geometry.groups if isinstance(node, Conv) else 1
    return w.reshape(groups, len(w) // groups, w.shape[1], -1)


def _reach(first: Node, second: Node, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """max|w| of each channel between two layers: in the first's rows, and in the second's columns.

    A channel that is flattened on the way has several columns, one for each place of its plane.
    """
    rows = channel_reach(weights[first.name])
    columns = np.abs(_grouped(weights[second.name], second)).max(axis=(1, 3))
    return rows, columns.reshape(len(rows), -1).max(axis=1)


def _along_rows(s: np.ndarray, w: np.ndarray) -> np.ndarray:
    return s.reshape(-1, *[1] * (w.ndim - 1))


def _along_columns(s: np.ndarray, w: np.ndarray, node: Node) -> np.ndarray:
    grouped = _grouped(w, node)
    features = np.repeat(s, grouped.shape[0] * grouped.shape[2] // len(s)).reshape(grouped.shape[0], 1, -1, 1)
    return np.broadcast_to(features, grouped.shape).reshape(w.shape)


def _rescaled(node: Node, weights: Mapping[str, np.ndarray], factors: Mapping[str, np.ndarray]) -> Node:
    if not isinstance(node, (Conv, Linear)):
        return node
    bias = node.bias
    if bias is not None and node.name in factors:
        bias = (bias / factors[node.name]).astype(bias.dtype)
    return replace(node, weight=weights[node.name].astype(node.weight.dtype), bias=bias)


class _ChannelSum:
    """Σ over images and positions, by channel."""

    def __init__(self, total: np.ndarray, count: int) -> None:
        self.total, self.count = total, count

    def merge(self, other: _ChannelSum) -> _ChannelSum:
        return _ChannelSum(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> np.ndarray:
        return self.total / self.count


def _channel_sum(x: np.ndarray, name: str = "") -> _ChannelSum:
    by_channel = x.reshape(*x.shape[:2], -1)
    return _ChannelSum(by_channel.sum(axis=(0, 2), dtype=np.float64), by_channel.shape[0] * by_channel.shape[2])


def correct_output_mean(quantized: QuantizedNetwork, network: Network, images: Any, executor: Executor | None = None,
                        progress: Progress | None = None) -> QuantizedNetwork:
    """Biases without the mean error of each output channel: b'_c = b_c - E[Ŷ_c - Y_c] (DFQ's empirical correction).

    Ŷ are a layer's integer sums as reals, behind the layers that are corrected already, so images go through the
    quantized network once, as it will run; Y are the float network's. Both means are of all images and positions,
    before a ReLU. A bias code does not leave what is proven to fit the accumulator.

    network: what ``quantized`` was made from, folded. images: calibration images, floats (N, *input_shape). executor:
    where the float network is run. progress: called for each layer.
    """
    images = check_images(images, network.input_shape)
    means = observe(_channel_sum, network, images, executor, progress, "output means")
    tensors = {quantized.input: [quantized.quantize_images(images[some]) for some in quantized.slices(len(images))]}
    layers = []
    for done, layer in enumerate(quantized.layers):
        if progress:
            progress("output-mean correction", layer.name, done / len(quantized.layers))
        inputs = list(zip(*(tensors[name] for name in layer.inputs)))
        if isinstance(layer, QuantizedConv):
            layer = _corrected(layer, quantized, inputs, means[layer.name].mean)
        tensors[layer.output] = [compute(layer, Context(quantized, layer, None), *codes) for codes in inputs]
        layers.append(layer)
        unread = {name for later in quantized.layers[done + 1:] for name in later.inputs}
        for name in set(tensors) - unread:
            del tensors[name]
    return replace(quantized, layers=tuple(layers))


def _corrected(layer: QuantizedConv, quantized: QuantizedNetwork, inputs: list[tuple[np.ndarray, ...]],
               wanted: np.ndarray) -> QuantizedConv:
    """The layer whose sums on these inputs have the mean ``wanted``, in reals; its first term's bias is changed."""
    means: dict[str, _ChannelSum] = {}

    def keep(_: str, stage: str, acc: np.ndarray) -> None:
        if stage.startswith("accumulator"):
            seen = _channel_sum(acc)
            means[stage] = means[stage].merge(seen) if stage in means else seen

    for codes in inputs:
        compute(layer, Context(quantized, layer, keep), *codes)
    term = layer.terms[0]
    # One of the output is S_y/M of a sum.
    found = sum(seen.mean * (one.multiplier.real / term.multiplier.real)
                for one, seen in zip(layer.terms, means.values()))
    unit = quantized.qparams[layer.output].scale / term.multiplier.real
    bias_q = np.zeros(len(wanted), np.int64) if term.bias_q is None else term.bias_q
    change = np.clip(np.rint(wanted * unit - found), -(2.0**53), 2.0**53).astype(np.int64)
    least, most = _bias_limits(term, quantized.qparams[layer.inputs[0]], layer.accumulator)
    bias_q = np.clip(bias_q + change, np.minimum(least, bias_q), np.maximum(most, bias_q))
    return replace(layer, terms=(replace(term, bias_q=bias_q), *layer.terms[1:]))


def _bias_limits(term: Term, qparam: TensorParams, accumulator: IntFormat) -> tuple[np.ndarray, np.ndarray]:
    """Bias codes with which every sum is proven to fit, for any codes of the input's format; 0 always among them."""
    ends = qparam.integers(np.array([qparam.format.min, qparam.format.max]))
    ends = ends if term.lookup_table is None else term.lookup_table
    least, greatest = dot_product_range(term.weight_q, min(int(ends.min()), 0), max(int(ends.max()), 0))
    return np.minimum(accumulator.min - least, 0), np.maximum(accumulator.max - greatest, 0)
