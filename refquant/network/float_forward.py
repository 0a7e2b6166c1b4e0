"""The float interpreter: one short function per operation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import Any

import numpy as np
from scipy.special import expit

from refquant.convolution.direct import convolve
from refquant.convolution.geometry import pad, taps
from refquant.integers.checks import float32_or_float64, native
from refquant.network.batchnorm import gain_and_shift
from refquant.network.forward import forward, slices
from refquant.network.graph import (
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    Final,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
)
from refquant.network.moves import Move
from refquant.network.pointwise import Largest, Mul, Pointwise, evaluate_expression


def check_images(images: Any, input_shape: tuple[int, ...], name: str = "images") -> np.ndarray:
    """The images as a float array; ValueError with ``name`` unless (N, *input_shape), floats, finite, not empty."""
    images = native(images)
    wanted = f"(N, {', '.join(map(str, input_shape))})"
    if images.ndim != len(input_shape) + 1 or images.shape[1:] != input_shape or len(images) == 0:
        raise ValueError(f"{name} must be a non-empty {wanted}, got shape {images.shape}")
    return float32_or_float64(images, name)


def run_float(network: Network, images: Any) -> np.ndarray:
    """The network's float output for a batch of images.

    images: (N, *network.input_shape), float32 or float64, finite. Returns (N, ...) floats.
    """
    images = check_images(images, network.input_shape)
    return np.concatenate([_output(network, forward(network.input, images[some], network.nodes, evaluate))
                           for some in slices(len(images), network.shapes, network.nodes)])


def run_float_tensors(network: Network, images: Any) -> dict[str, np.ndarray]:
    """Every tensor of the network, by name, for a batch of images (shapes as for ``run_float``)."""
    images = check_images(images, network.input_shape)
    return dict(forward(network.input, images, network.nodes, evaluate))


def _output(network: Network, tensors: Iterator[tuple[str, np.ndarray]]) -> np.ndarray:
    return next(x for name, x in tensors if name == network.output)


def float64_tensors(network: Network, images: Any, first: int = 0, kind: str = "image"
                    ) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor in float64, so that what follows from it differs between machines in its last bits only.

    images: as for ``run_float``. first: the number of the first of them, kind: what they are, for the message.
    ValueError, naming tensor and image, where a value leaves the range of the images' own dtype: there the
    network itself would give infinity.
    """
    images = check_images(images, network.input_shape)
    limit = float(np.finfo(images.dtype).max)

    def finite(node: Node, *inputs: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            x = evaluate(node, *inputs)
        if not np.abs(x).max() <= limit:
            bad = next(k for k, image in enumerate(x) if not np.abs(image).max() <= limit)
            raise ValueError(f"tensor {node.name!r} must stay finite in {images.dtype}, got "
                             f"{np.abs(x[bad]).max():.3g} in {kind} {first + bad}")
        return x

    return forward(network.input, images.astype(np.float64), network.nodes, finite)


@singledispatch
def evaluate(node: Node, *inputs: np.ndarray) -> np.ndarray:
    """One node's output. Parameters are used in the input's dtype."""
    raise TypeError(f"no float evaluation for {type(node).__name__}")


def _bias(bias: np.ndarray | None, dtype: np.dtype) -> np.ndarray | None:
    return None if bias is None else bias.astype(dtype)


@evaluate.register
def _(node: Conv, x: np.ndarray) -> np.ndarray:
    planes = x.reshape(*x.shape, 1, 1) if x.ndim == 2 else x
    y = convolve(planes, node.weight.astype(x.dtype), _bias(node.bias, x.dtype), **node.geometry._asdict())
    return y.reshape(y.shape[:x.ndim])


@evaluate.register
def _(node: Linear, x: np.ndarray) -> np.ndarray:
    y = x @ node.weight.astype(x.dtype).T
    return y if node.bias is None else y + node.bias.astype(x.dtype)


@evaluate.register
def _(node: BatchNorm, x: np.ndarray) -> np.ndarray:
    shape = (-1,) + (1,) * (x.ndim - 2)
    gain, shift = gain_and_shift(node)
    return x * gain.astype(x.dtype).reshape(shape) + shift.astype(x.dtype).reshape(shape)


@evaluate.register
def _(node: Clip, x: np.ndarray) -> np.ndarray:
    low, high = (None if limit is None else x.dtype.type(limit) for limit in (node.low, node.high))
    return x if low is high is None else np.clip(x, low, high)


@evaluate.register
def _(node: MaxPool, x: np.ndarray) -> np.ndarray:
    x = pad(x, node.geometry.padding, -np.inf)
    seen = taps(x, node.kernel, node.geometry._replace(padding=(0, 0, 0, 0)))
    return np.maximum.reduce([view for _, view in seen])


@evaluate.register
def _(node: AveragePool, x: np.ndarray) -> np.ndarray:
    total = np.sum([view for _, view in taps(x, node.kernel, node.geometry)], axis=0)
    return total / node.counts(x.shape[2:]).astype(x.dtype)


@evaluate.register
def _(node: GlobalAveragePool, x: np.ndarray) -> np.ndarray:
    return x.mean(axis=(2, 3), keepdims=True)


@evaluate.register
def _(node: Add, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a + b


@evaluate.register
def _(node: Concat, *inputs: np.ndarray) -> np.ndarray:
    return np.concatenate(inputs, axis=node.axis + 1)


@evaluate.register
def _(node: Mul, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a * b


@evaluate.register
def _(node: Largest, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.minimum(a, b) if node.least else np.maximum(a, b)


@evaluate.register
def _(node: Pointwise, x: np.ndarray) -> np.ndarray:
    return evaluate_expression(node.expression, x)


@evaluate.register
def _(node: Move, x: np.ndarray) -> np.ndarray:
    return node.move(x, 0)


@evaluate.register
def _(node: Flatten, x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


@evaluate.register
def _(node: Final, x: np.ndarray) -> np.ndarray:
    axis = node.axis + 1
    if node.kind == "sigmoid":
        return expit(x)
    if node.kind == "argmax":
        return x.argmax(axis=axis, keepdims=True).astype(x.dtype)
    y = x - x.max(axis=axis, keepdims=True)
    total = np.exp(y).sum(axis=axis, keepdims=True)
    return y - np.log(total) if node.kind == "log_softmax" else np.exp(y) / total
