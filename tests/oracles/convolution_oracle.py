"""Convolution from its defining sum: one product at a time in Python's numbers, and window by window in NumPy."""

from __future__ import annotations

import numpy as np

from refquant.convolution.geometry import Geometry


def loop(x: np.ndarray, w: np.ndarray, geometry: Geometry, zero_point=0, bias=None) -> list:
    """The defining sum, one product at a time, in whatever numbers the arrays hold as Python objects."""
    x, w = x.tolist(), w.tolist()
    top, left, bottom, right = geometry.padding
    result = []
    for image in x:
        height, width = len(image[0]), len(image[0][0])
        padded = [[[plane[i][j] - zero_point if 0 <= i < height and 0 <= j < width else 0
                    for j in range(-left, width + right)] for i in range(-top, height + bottom)] for plane in image]
        channels = []
        for o, filters in enumerate(w):
            group = o * geometry.groups // len(w)
            reach_r = (len(filters[0]) - 1) * geometry.dilation[0]
            reach_s = (len(filters[0][0]) - 1) * geometry.dilation[1]
            plane = []
            for p in range(0, len(padded[0]) - reach_r, geometry.stride[0]):
                line = []
                for q in range(0, len(padded[0][0]) - reach_s, geometry.stride[1]):
                    total = 0 if bias is None else bias[o]
                    for c, kernel in enumerate(filters):
                        seen = padded[group * len(filters) + c]
                        for r, row in enumerate(kernel):
                            for s, weight in enumerate(row):
                                total += weight * seen[p + r * geometry.dilation[0]][q + s * geometry.dilation[1]]
                    line.append(total)
                plane.append(line)
            channels.append(plane)
        result.append(channels)
    return result


def convolved(x: np.ndarray, w: np.ndarray, geometry: Geometry) -> np.ndarray:
    """(N, O, P, Q) as one sum over every window, in x's dtype (NumPy multiplies int64 exactly)."""
    top, left, bottom, right = geometry.padding
    (down, across), (spread_r, spread_s) = geometry.stride, geometry.dilation
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = (w.shape[2] - 1) * spread_r + 1, (w.shape[3] - 1) * spread_s + 1
    seen = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    seen = seen[:, :, ::down, ::across, ::spread_r, ::spread_s]
    ins, outs = np.split(seen, geometry.groups, axis=1), np.split(w, geometry.groups)
    return np.concatenate([np.einsum("ncpqrs,ocrs->nopq", i, o) for i, o in zip(ins, outs, strict=True)], axis=1)
