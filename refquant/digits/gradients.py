"""Back-propagation by hand: one short function per operation, as in ``float_forward``.

A node computes y from x; the loss L is a number computed from y. With dy for ∂L/∂y, each function
below returns ∂L/∂x for every input and ∂L/∂θ for every parameter, in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry, pad, taps
from refquant.network.float_forward import check_images, evaluate
from refquant.network.graph import (
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
)

# ∂L/∂x of each input in order, and ∂L/∂θ by the node's field name.
Gradients = tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]


def forward_batch(network: Network, images: Any) -> tuple[Network, dict[str, np.ndarray]]:
    """A forward pass in training mode: BatchNorm uses the mean and variance of the batch.

    Returns the network with the statistics of this batch in its BatchNorm nodes (their gamma and beta
    unchanged), and every tensor by name. images: (N, *network.input_shape) floats.
    """
    tensors = {network.input: check_images(images, network.input_shape)}
    nodes = []
    for node in network.nodes:
        inputs = [tensors[name] for name in node.inputs]
        if isinstance(node, BatchNorm):
            node = with_batch_statistics(node, inputs[0])
        tensors[node.name] = evaluate(node, *inputs)
        nodes.append(node)
    return network.replace_nodes(nodes), tensors


def with_batch_statistics(node: BatchNorm, x: np.ndarray) -> BatchNorm:
    """The node with the per-channel mean and (biased) variance of x: (N, C, H, W) or (N, C)."""
    axes = _all_but_channels(x)
    return replace(node, mean=x.mean(axis=axes), variance=x.var(axis=axes))


def backward_batch(network: Network, tensors: dict[str, np.ndarray], d_output: np.ndarray,
                   outputs: Mapping[str, np.ndarray] | None = None, passes: Mapping[str, np.ndarray] | None = None
                   ) -> dict[str, np.ndarray]:
    """∂L/∂θ of every trained parameter, named ``<node>.<field>``.

    network, tensors: what ``forward_batch`` returned. d_output: ∂L/∂(network output). outputs, passes: where the next
    node reads something else than a node's output, that output and where its gradient passes (``qat``). A parameter
    that the network's output does not depend on is left out.

    >>> network = Network((2,), (Linear("logits", ("input",), np.array([[1.0, 2.0], [0.0, 1.0]])),))
    >>> network, tensors = forward_batch(network, np.array([[3.0, 4.0]]))
    >>> backward_batch(network, tensors, np.array([[1.0, 0.0]]))
    {'logits.weight': array([[3., 4.],
           [0., 0.]])}
    """
    d_tensors = {network.output: d_output}
    d_parameters: dict[str, np.ndarray] = {}
    for node in reversed(network.nodes):
        if node.name not in d_tensors:
            continue
        inputs = [tensors[name] for name in node.inputs]
        dy = d_tensors.pop(node.name)
        if passes and node.name in passes:
            dy = dy * passes[node.name]
        d_inputs, d_fields = backward(node, dy, (outputs or tensors)[node.name], *inputs)
        for name, gradient in zip(node.inputs, d_inputs):
            # A tensor read twice gets the sum. Not +=: Add hands one array to both of its inputs.
            d_tensors[name] = d_tensors[name] + gradient if name in d_tensors else gradient
        d_parameters.update({f"{node.name}.{field}": gradient for field, gradient in d_fields.items()})
    return d_parameters


def check_labels(labels: Any, images: int, classes: int) -> np.ndarray:
    """The labels as an array; ValueError unless one integer from 0 to classes - 1 for each image."""
    labels = np.asarray(labels)
    if labels.shape != (images,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must hold {images} integers, got {labels.dtype} of shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    return labels


def cross_entropy(logits: np.ndarray, labels: Any) -> tuple[float, np.ndarray]:
    """Softmax cross-entropy, averaged over the images, and its gradient.

        L = 1/N · Σ_n (log Σ_k exp z[n, k] - z[n, label])        ∂L/∂z = (softmax(z) - onehot(label)) / N

    logits: (N, K) floats. labels: (N,) integers, 0..K-1. Returns L and ∂L/∂z in the logits' dtype.

    >>> loss, gradient = cross_entropy(np.zeros((1, 4)), [1])
    >>> bool(loss == np.log(4)), gradient
    (True, array([[ 0.25, -0.75,  0.25,  0.25]]))
    """
    if logits.ndim != 2 or logits.size == 0:
        raise ValueError(f"logits must be a non-empty (N, K), got shape {logits.shape}")
    labels = check_labels(labels, *logits.shape)
    rows = np.arange(len(logits))
    shifted = logits - logits.max(axis=1, keepdims=True)  # so that exp cannot overflow
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(total[:, 0]) - shifted[rows, labels]))
    gradient = np.exp(shifted) / total
    gradient[rows, labels] -= 1
    return loss, gradient / logits.dtype.type(len(logits))


@singledispatch
def backward(node: Node, dy: np.ndarray, y: np.ndarray, *inputs: np.ndarray) -> Gradients:
    """∂L/∂x of each input, and {field: ∂L/∂θ}, from dy = ∂L/∂y, y and the inputs.

    >>> y = x = np.array([[-1.0, 2.0]])
    >>> backward(Clip("relu", ("input",)), np.array([[10.0, 20.0]]), y, x)
    ((array([[ 0., 20.]]),), {})
    """
    raise TypeError(f"no gradient for {type(node).__name__}")


def _by_group(x: np.ndarray, groups: int) -> np.ndarray:
    """(N, C, P, Q) as one matrix per group: (groups, C/groups, N·P·Q)."""
    return x.transpose(1, 0, 2, 3).reshape(groups, x.shape[1] // groups, -1)


@backward.register
def _(node: Conv, dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> Gradients:
    """At each kernel position y += w·seen, a matrix product, so dw = dy·seenᵀ and d_seen += wᵀ·dy."""
    geometry, (outputs, width, *_), kernel = node.geometry, node.weight.shape, node.weight.shape[2:]
    groups, channels = geometry.groups, x.shape[1]
    w = node.weight.astype(x.dtype).reshape(groups, outputs // groups, width, *kernel)
    padded, inner = pad(x, geometry.padding), geometry._replace(padding=(0, 0, 0, 0))
    # Channels first in memory, as the forward pass lays tensors out.
    d_padded = np.zeros((channels, len(x), *padded.shape[2:]), x.dtype).transpose(1, 0, 2, 3)
    dw = np.zeros_like(w)
    dy_matrix, depthwise = _by_group(dy, groups), width == outputs // groups == 1
    # Without padding the taps are views, so that d_padded is added to in place.
    for ((r, s), seen), (_, d_seen) in zip(taps(padded, kernel, inner), taps(d_padded, kernel, inner)):
        seen_matrix, w_transposed = _by_group(seen, groups), w[..., r, s].transpose(0, 2, 1)
        if depthwise:  # a matrix product per plane would only cost time
            dw[..., r, s] = np.einsum("gom,gcm->goc", dy_matrix, seen_matrix)
            d_matrix = w_transposed * dy_matrix
        else:
            dw[..., r, s] = dy_matrix @ seen_matrix.transpose(0, 2, 1)
            d_matrix = w_transposed @ dy_matrix
        d_seen += d_matrix.reshape(channels, len(x), *dy.shape[2:]).transpose(1, 0, 2, 3)
    gradients = {"weight": dw.reshape(node.weight.shape)}
    if node.bias is not None:
        gradients["bias"] = dy.sum(axis=(0, 2, 3))
    return (_without_padding(d_padded, geometry),), gradients


def _without_padding(padded: np.ndarray, geometry: Geometry) -> np.ndarray:
    top, left, bottom, right = geometry.padding
    return padded[:, :, top:padded.shape[2] - bottom, left:padded.shape[3] - right]


@backward.register
def _(node: Linear, dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> Gradients:
    gradients = {"weight": dy.T @ x}
    if node.bias is not None:
        gradients["bias"] = dy.sum(axis=0)
    return (dy @ node.weight.astype(x.dtype),), gradients


def _all_but_channels(x: np.ndarray) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


@backward.register
def _(node: BatchNorm, dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> Gradients:
    """Training mode: the node's mean and variance are those of x itself (``with_batch_statistics``).

    With x̂ = (x - mean)/σ, σ = √(variance + epsilon), and means over all but the channels:

        dx = gamma/σ · (dy - mean(dy) - x̂·mean(dy·x̂))        d_gamma = Σ dy·x̂        d_beta = Σ dy
    """
    axes, shape = _all_but_channels(x), (-1,) + (1,) * (x.ndim - 2)
    inverse_sigma = 1 / np.sqrt(node.variance.astype(np.float64) + node.epsilon)
    normal = (x - node.mean.astype(x.dtype).reshape(shape)) * inverse_sigma.astype(x.dtype).reshape(shape)
    d_gamma, d_beta = (dy * normal).sum(axis=axes), dy.sum(axis=axes)
    gain = (node.gamma * inverse_sigma).astype(x.dtype).reshape(shape)
    count = x.dtype.type(x.size // x.shape[1])
    dx = gain * (dy - (d_beta / count).reshape(shape) - normal * (d_gamma / count).reshape(shape))
    return (dx,), {"gamma": d_gamma, "beta": d_beta}


@backward.register
def _(node: Clip, dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> Gradients:
    """dy where x passes unchanged; 0 at the kinks, as is usual for ReLU at 0."""
    above = True if node.low is None else x > node.low
    below = True if node.high is None else x < node.high
    return (dy * (above & below),), {}


@backward.register
def _(node: MaxPool, dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> Gradients:
    """dy goes to the window's largest element, to the first in row order among equals."""
    padded, inner = pad(x, node.geometry.padding, -np.inf), node.geometry._replace(padding=(0, 0, 0, 0))
    d_padded = np.zeros_like(padded)
    waiting = np.ones_like(dy, dtype=bool)
    for (_, seen), (_, d_seen) in zip(taps(padded, node.kernel, inner), taps(d_padded, node.kernel, inner)):
        wins = waiting & (seen == y)
        d_seen += dy * wins
        waiting &= ~wins
    return (_without_padding(d_padded, node.geometry),), {}


@backward.register
def _(node: AveragePool, dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> Gradients:
    d_padded = np.zeros_like(pad(x, node.geometry.padding))
    share = dy / node.counts(x.shape[2:]).astype(x.dtype)
    for _, d_seen in taps(d_padded, node.kernel, node.geometry._replace(padding=(0, 0, 0, 0))):
        d_seen += share
    return (_without_padding(d_padded, node.geometry),), {}


@backward.register
def _(node: GlobalAveragePool, dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> Gradients:
    return (np.broadcast_to(dy / x.dtype.type(x.shape[2] * x.shape[3]), x.shape),), {}


@backward.register
def _(node: Add, dy: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> Gradients:
    return (_sum_to(dy, a.shape), _sum_to(dy, b.shape)), {}


def _sum_to(dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Σ dy over the axes along which an operand of ``shape`` was repeated."""
    axes = tuple(axis for axis, size in enumerate(shape) if size != dy.shape[axis])
    return dy.sum(axis=axes, keepdims=True) if axes else dy


@backward.register
def _(node: Concat, dy: np.ndarray, y: np.ndarray, *inputs: np.ndarray) -> Gradients:
    axis = node.axis + 1
    ends = np.cumsum([x.shape[axis] for x in inputs])
    return tuple(np.split(dy, ends[:-1], axis)), {}


@backward.register
def _(node: Flatten, dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> Gradients:
    return (dy.reshape(x.shape),), {}
