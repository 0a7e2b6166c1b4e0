"""Training the bundled network: stochastic gradient descent in NumPy.

    python -m refquant.digits.training [--epochs N] [--seed N] [--out FILE]

retrains it, prints its accuracy beside that of the committed weights, and writes its weights to FILE
if one is named, and otherwise nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from refquant.convolution.geometry import pad
from refquant.digits.architecture import architecture, parameters, with_parameters
from refquant.digits.data import load_images
from refquant.digits.gradients import backward_batch, check_labels, cross_entropy, forward_batch
from refquant.digits.weights import load_weights, save_weights
from refquant.integers.checks import integer
from refquant.network.float_forward import check_images, run_float
from refquant.network.graph import BatchNorm, Conv, Linear, Network

EPOCHS = 20
BATCH = 64
RATE = 0.05  # of learning: at first, then along half a cosine to 0
MOMENTUM = 0.9
DECAY = 5e-4  # pulls weights, not biases, gamma and beta, to 0
STATISTICS_MOMENTUM = 0.9  # of the running mean and variance


def he_initialize(network: Network, rng: np.random.Generator) -> Network:
    """The network with normal weights of variance 2/fan-in (He et al., 2015, Eq. 10) and biases unchanged.

    fan-in: how many products one output is the sum of. Weights are drawn in the order of the nodes.
    """
    nodes = []
    for node in network.nodes:
        if isinstance(node, (Conv, Linear)):
            fan_in = math.prod(node.weight.shape[1:])
            weight = rng.standard_normal(node.weight.shape) * math.sqrt(2 / fan_in)
            node = replace(node, weight=weight.astype(node.weight.dtype))
        nodes.append(node)
    return network.replace_nodes(nodes)


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image (N, C, H, W) moved by -1, 0 or 1 pixels down and across at random, zeros moving in.

    >>> dot = np.zeros((1, 1, 3, 3))
    >>> dot[0, 0, 1, 1] = 1
    >>> float(shifted(dot, np.random.default_rng(0)).sum())  # it moved, or did not, but is still there
    1.0
    """
    height, width = images.shape[2:]
    padded = pad(images, (1, 1, 1, 1))
    offsets = rng.integers(0, 3, size=(len(images), 2))
    return np.stack([image[:, down:down + height, across:across + width]
                     for image, (down, across) in zip(padded, offsets)])


def check_training(network: Network, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels; ValueError unless they fit the network, which must turn (C, H, W) into (K,)."""
    if len(network.input_shape) != 3 or len(network.shapes[network.output]) != 1:
        raise ValueError(f"the network must turn (C, H, W) into (K,), got {network.input_shape} into "
                         f"{network.shapes[network.output]}")
    images = check_images(images, network.input_shape)
    return images, check_labels(labels, len(images), network.shapes[network.output][0])


def train(network: Network, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator, *,
          epochs: int = EPOCHS, on_step: Callable[[float], None] | None = None) -> Network:
    """The network after ``epochs`` passes over the images, ``shifted``, in random order, in batches of 64.

    Each step moves every trained parameter θ, with the rate η falling along half a cosine:

        v ← 0.9·v + ∂L/∂θ + 5e-4·θ (weights only)        θ ← θ - η·v        η = 0.05·(1 + cos(π·t/T))/2

    at step t of T. What is left over after whole batches is not used in that epoch. BatchNorm's running
    mean and variance are exponential averages of the batches'.

    images: (N, C, H, W) floats, in whose dtype everything is computed. labels: (N,) integers.
    on_step: called with the loss of each batch, before the step. One generator state gives one
    network within a process; other machines differ, as float BLAS does. ValueError for arrays that do
    not fit the network.
    """
    images, labels = check_training(network, images, labels)
    epochs = integer(epochs, "epochs", 1)
    state = {name: array.astype(images.dtype) for name, array in parameters(network).items()}
    velocity: dict[str, np.ndarray] = {}
    size = min(BATCH, len(images))
    batches = len(images) // size
    for step in range(epochs * batches):
        if step % batches == 0:
            order = rng.permutation(len(images))
        batch = order[step % batches * size:][:size]
        batch_network, tensors = forward_batch(with_parameters(network, state), shifted(images[batch], rng))
        loss, d_logits = cross_entropy(tensors[network.output], labels[batch])
        if on_step:
            on_step(loss)
        rate = RATE * (1 + math.cos(math.pi * step / (epochs * batches))) / 2
        for name, gradient in backward_batch(batch_network, tensors, d_logits).items():
            decay = DECAY if name.endswith(".weight") else 0.0
            velocity[name] = MOMENTUM * velocity.get(name, 0.0) + gradient + decay * state[name]
            state[name] = state[name] - rate * velocity[name]
        for node in batch_network.nodes:
            if isinstance(node, BatchNorm):
                for field in ("mean", "variance"):
                    running = state[f"{node.name}.{field}"]
                    state[f"{node.name}.{field}"] = (
                        STATISTICS_MOMENTUM * running + (1 - STATISTICS_MOMENTUM) * getattr(node, field))
    return with_parameters(network, state)


def count_correct(network: Network, images: np.ndarray, labels: np.ndarray) -> int:
    """How many images have their largest logit at their label.

    >>> images, labels = np.zeros((3, 1, 16, 16), np.float32), np.array([0, 7, 0])
    >>> count_correct(architecture(), images, labels)  # all logits are 0, of which argmax takes the first
    2
    """
    return int(np.count_nonzero(run_float(network, images).argmax(axis=1) == labels))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _integer_from(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be an integer >= {least}, got {text!r}")
        return value
    return parse


def _new_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"must be a file in a writable directory, got {text!r}")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _Parser(prog="python -m refquant.digits.training", allow_abbrev=False,
                     description="Train the digits network and compare it with the committed weights.")
    parser.add_argument("--epochs", type=_integer_from(1), default=EPOCHS, metavar="N",
                        help="passes over the training images (default %(default)s)")
    parser.add_argument("--seed", type=_integer_from(0), default=0, metavar="N",
                        help="of the initial weights and the order of the images (default %(default)s)")
    parser.add_argument("--out", type=_new_file, metavar="FILE", help="where to save the weights (.npz)")
    options = parser.parse_args(arguments)
    try:
        from tqdm import tqdm
    except ImportError:
        parser.error("training shows its progress with tqdm, which is missing: python -m pip install tqdm")

    (images, labels), test = load_images()
    rng = np.random.default_rng(options.seed)
    steps = options.epochs * (len(images) // BATCH)
    # disable=None: no bar where standard error is not a terminal.
    with tqdm(total=steps, unit="step", disable=None) as bar:
        def show(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
        network = train(he_initialize(architecture(), rng), images, labels, rng, epochs=options.epochs,
                        on_step=show)
    if options.out:
        try:
            save_weights(options.out, network)
        except OSError as error:
            parser.error(f"--out could not be written: {error}")
    for name, trained in (("this training", network), ("committed weights", load_weights())):
        right = count_correct(trained, *test)
        print(f"{name}: {100 * right / len(test.labels):.1f} % of the held-out digits "
              f"({right} of {len(test.labels)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
