"""The trained network, as it is committed.

``weights.npz`` is the result of ``python -m refquant.digits.training`` with seed 0, and the reference:
float training differs between machines in the last bits and then in more, so that retraining gives
another network of about the same accuracy. The file holds plain arrays named as in
``architecture.parameters``; nothing here reads or writes pickles.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from refquant.digits.architecture import architecture, parameters, with_parameters
from refquant.digits.data import load_images
from refquant.integers.checks import integer
from refquant.network.graph import Network

WEIGHTS_FILE = Path(__file__).with_name("weights.npz")


def load_digits() -> tuple[Network, np.ndarray, np.ndarray]:
    """The trained network, the 450 images that training never saw, and their labels.

    The network is float32 and still has its BatchNorm nodes. images: (450, 1, 16, 16) float32 in
    [0, 1]; labels: (450,) int64. Images and labels are new arrays at each call. Calibrate on
    ``calibration_images``, not on these.

    >>> network, images, labels = load_digits()
    >>> network.input_shape, images.shape, labels[:5]
    ((1, 16, 16), (450, 1, 16, 16), array([6, 6, 6, 2, 5]))
    """
    _, test = load_images()
    return load_weights(), test.images, test.labels


def calibration_images(n: int = 50) -> np.ndarray:
    """The first ``n`` training images, (n, 1, 16, 16) float32; ValueError unless 1 <= n <= 1347.

    >>> calibration_images().shape
    (50, 1, 16, 16)
    """
    train, _ = load_images()
    return train.images[:integer(n, "n", 1, len(train.images))]


def load_weights(path: str | os.PathLike[str] = WEIGHTS_FILE) -> Network:
    """The digits network with the parameters that ``save_weights`` wrote.

    FileNotFoundError without the file; ValueError for one that is damaged or not of this network.
    """
    try:
        # Opened here, because np.load leaves a damaged archive open.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError:  # a missing or unreadable file says so itself
        raise
    except Exception as error:  # a damaged one fails in as many ways as zip, zlib and npy have
        raise ValueError(f"{path} must be an .npz file of plain arrays, got: {error}") from None
    network = architecture()
    lacking = sorted(set(parameters(network)) - set(arrays))
    if lacking:
        raise ValueError(f"{path} must hold every parameter of the digits network, got no {lacking[0]}")
    try:
        return with_parameters(network, arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def save_weights(path: str | os.PathLike[str], network: Network) -> None:
    """Write the network's parameters to ``path``, completely or not at all."""
    path = Path(path)
    arrays: dict[str, Any] = parameters(network)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "xb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
