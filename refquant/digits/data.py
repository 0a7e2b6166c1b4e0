"""The bundled images: real handwritten digits, 16x16, in a training and a held-out part.

``ATTRIBUTION.md`` says where they come from.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

DIGITS_FILE = Path(__file__).with_name("digits.npz")
HELD_OUT = 450


class LabelledImages(NamedTuple):
    """images: (N, 1, 16, 16) float32 in [0, 1], ink is bright. labels: (N,) int64, 0..9."""

    images: np.ndarray
    labels: np.ndarray


def enlarge(images: np.ndarray) -> np.ndarray:
    """The images at twice the height and width, by bilinear interpolation.

    Pixel centres lie at half-integers, so every new pixel sits a quarter pixel from an old one:

        y[2i] = 3/4·x[i] + 1/4·x[i-1]        y[2i+1] = 3/4·x[i] + 1/4·x[i+1]

    along rows and then columns, with the edge pixel repeated outside. On multiples of 1/16 in [0, 1]
    this is exact in float32: the results are multiples of 1/256.

    images: (..., H, W) floats. Returns (..., 2H, 2W) in the same dtype. ValueError for anything else.

    >>> enlarge(np.array([[0.0, 4.0, 8.0]]))[0]
    array([0., 1., 3., 5., 7., 8.])
    """
    images = np.asarray(images)
    if images.dtype.kind != "f" or images.ndim < 2 or images.size == 0:
        raise ValueError(f"images must be non-empty floats (..., H, W), got {images.dtype} of shape "
                         f"{images.shape}")
    return _double(_double(images).swapaxes(-1, -2)).swapaxes(-1, -2)


def _double(x: np.ndarray) -> np.ndarray:
    """Twice as many columns."""
    before = np.concatenate([x[..., :1], x[..., :-1]], axis=-1)
    after = np.concatenate([x[..., 1:], x[..., -1:]], axis=-1)
    pairs = np.stack([x * 0.75 + before * 0.25, x * 0.75 + after * 0.25], axis=-1)
    return pairs.reshape(*x.shape[:-1], -1)


def load_images() -> tuple[LabelledImages, LabelledImages]:
    """The training images and the held-out ones, with their labels.

    1 347 and 450 of the 1 797 digits, split by a random permutation that is stored in the file, so
    that the parts are the same under every NumPy. Arrays are new at each call: write to them freely.

    >>> (images, labels), (test_images, test_labels) = load_images()
    >>> images.shape, images.dtype, test_images.shape, labels[:5]
    ((1347, 1, 16, 16), dtype('float32'), (450, 1, 16, 16), array([6, 0, 0, 3, 0]))
    """
    with np.load(DIGITS_FILE, allow_pickle=False) as file:
        images, labels, order = file["images"], file["labels"], file["order"]
    images = np.ascontiguousarray(enlarge(images[:, None].astype(np.float32) / 16))
    labels = labels.astype(np.int64)
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    return LabelledImages(images[train], labels[train]), LabelledImages(images[test], labels[test])
