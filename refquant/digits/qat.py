"""Quantization-aware training: the network is fine-tuned with its codes in the forward pass, by hand.

A quantizer is a staircase: its derivative is 0 almost everywhere, and training would stand still. The
straight-through estimator (Bengio et al. 2013) passes the gradient through as if the staircase were the identity,
within the range; what was clipped gets none:

    forward    x̂ = (round(x·S) clipped to the format) / S
    backward   ∂L/∂x = ∂L/∂x̂ where x·S is in the format, else 0

``python -m refquant.commands.qat`` prints it beside post-training quantization.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from refquant.digits.architecture import parameters, with_parameters
from refquant.digits.gradients import backward_batch, cross_entropy
from refquant.digits.training import BATCH, MOMENTUM, check_training, shifted
from refquant.integers.checks import integer
from refquant.integers.formats import IntFormat
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import evaluate
from refquant.network.graph import Conv, Linear, Network
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import QuantParams
from refquant.recipes.quantize import quantize_network
from refquant.scales.linear import dequantize, max_scale, quantize

EPOCHS, RATE = 12, 0.005


class Staircase(NamedTuple):
    """A quantized tensor, and where the straight-through gradient passes."""

    values: np.ndarray
    passes: np.ndarray


def straight_through(x: np.ndarray, scale: Any, fmt: IntFormat, zero_point: int = 0, axis: int | None = None
                     ) -> Staircase:
    """x̂ of x, and True where the unrounded code x·S + zero_point lies within the format.

    x: floats. scale: S, one or per channel along ``axis``. fmt, zero_point: of the codes.

    >>> values, passes = straight_through(np.array([0.26, 3.0]), 2.0, IntFormat(3, narrow=True))
    >>> values.tolist(), passes.tolist()
    ([0.5, 1.5], [True, False])
    """
    codes = quantize(x, scale, fmt, zero_point=zero_point, axis=axis)
    values = dequantize(codes, scale, zero_point=zero_point, axis=axis)
    low, high = (dequantize(np.full(x.shape, end), scale, zero_point=zero_point, axis=axis)
                 for end in (fmt.min, fmt.max))
    return Staircase(values.astype(x.dtype), (low <= x) & (x <= high))


def forward_quantized(network: Network, images: np.ndarray, qparams: dict[str, Any], weight_bits: int
                      ) -> tuple[Network, dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A forward pass through the quantizers: of every weight per output channel, of every tensor in ``qparams``.

    Returns the network with quantized weights; every tensor as the next node reads it; every node's output before it
    was quantized; and by tensor where the gradient passes. The network's output stays float.
    """
    fmt, nodes = IntFormat(weight_bits, narrow=True), []
    tensors: dict[str, np.ndarray] = {}
    outputs: dict[str, np.ndarray] = {}
    passes: dict[str, np.ndarray] = {}

    def settle(name: str, y: np.ndarray) -> None:
        outputs[name] = tensors[name] = y
        params = qparams.get(name)
        if isinstance(params, QuantParams) and name != network.output:
            tensors[name], passes[name] = straight_through(y, params.scale, params.format, params.zero_point)

    settle(network.input, images)
    for node in network.nodes:
        if isinstance(node, (Conv, Linear)):
            node = replace(node, weight=straight_through(node.weight, max_scale(node.weight, fmt, axis=0), fmt,
                                                         axis=0).values)
        nodes.append(node)
        settle(node.name, evaluate(node, *(tensors[name] for name in node.inputs)))
    return network.replace_nodes(nodes), tensors, outputs, passes


def fine_tune(network: Network, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator, *, weight_bits: int,
              activation_bits: int, epochs: int = EPOCHS, on_step: Callable[[float], None] | None = None) -> Network:
    """The network, BatchNorm folded, after ``epochs`` passes of stochastic gradient descent through its quantizers.

    The ranges of the activations are found anew before each epoch, on the first 50 images, as the recipe
    ``channelwise-int8`` does; so ``quantize_network`` with that recipe gives the integers that were trained. Steps
    are those of ``training.train``, without decay, from the rate 0.005.

    network: trained. images, labels: as for ``training.train``. weight_bits, activation_bits: 2..16. on_step: called
    with each batch's loss.
    """
    network, epochs = fold_batchnorm(network), integer(epochs, "epochs", 1)
    images, labels = check_training(network, images, labels)
    state = {name: array.astype(images.dtype) for name, array in parameters(network).items()}
    velocity: dict[str, np.ndarray] = {}
    size = min(BATCH, len(images))
    batches = len(images) // size
    for step in range(epochs * batches):
        if step % batches == 0:
            order = rng.permutation(len(images))
            qparams = in_integers(with_parameters(network, state), images[:50], weight_bits, activation_bits).qparams
        batch = order[step % batches * size:][:size]
        quantized, tensors, outputs, passes = forward_quantized(
            with_parameters(network, state), shifted(images[batch], rng), qparams, weight_bits)
        loss, d_logits = cross_entropy(tensors[network.output], labels[batch])
        if on_step:
            on_step(loss)
        rate = RATE * (1 + math.cos(math.pi * step / (epochs * batches))) / 2
        for name, gradient in backward_batch(quantized, tensors, d_logits, outputs, passes).items():
            velocity[name] = MOMENTUM * velocity.get(name, 0.0) + gradient
            state[name] = state[name] - rate * velocity[name]
    return with_parameters(network, state)


def in_integers(network: Network, images: np.ndarray, weight_bits: int, activation_bits: int) -> QuantizedNetwork:
    """The integer network of a fine-tuned one: the recipe ``channelwise-int8`` with these widths."""
    return quantize_network(network, images, "channelwise-int8", weight_bits=weight_bits,
                            activation_bits=activation_bits)
