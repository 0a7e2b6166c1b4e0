"""How a kernel moves over its input: stride, padding, dilation, groups; and what each tap sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Geometry(NamedTuple):
    """How a kernel moves over its input.

    stride, dilation: (vertical, horizontal). padding: (top, left, bottom, right), ONNX's order.
    groups: input and output channels are split into that many independent convolutions.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1) -> Geometry:
        """From a number for both directions, or a pair, or for padding also four; checked."""
        stride = _integers(stride, "stride", (2,), 1)
        dilation = _integers(dilation, "dilation", (2,), 1)
        padding = _integers(padding, "padding", (2, 4), 0)
        return cls((stride[0], stride[1]), (padding * 2)[:4], (dilation[0], dilation[1]),
                   _integers(groups, "groups", (1,), 1)[0])

    def output_size(self, height: int, width: int, kernel: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output; ValueError where the kernel does not fit the padded input."""
        sizes = []
        for size, before, after, k, step, spread in zip(
                (height, width), self.padding[:2], self.padding[2:], kernel, self.stride, self.dilation):
            padded, extent = size + before + after, (k - 1) * spread + 1
            if extent > padded:
                raise ValueError(f"the kernel must fit the padded input, got extent {extent} over {padded}")
            sizes.append((padded - extent) // step + 1)
        return sizes[0], sizes[1]

    def check_shapes(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
        """ValueError unless a weight of ``w_shape`` can be moved over an input of ``x_shape``."""
        if len(x_shape) != 4 or 0 in x_shape:
            raise ValueError(f"input must be a non-empty (N, C, H, W), got shape {x_shape}")
        if len(w_shape) != 4 or 0 in w_shape:
            raise ValueError(f"weight must be a non-empty (O, C/groups, R, S), got shape {w_shape}")
        channels, outputs = x_shape[1], w_shape[0]
        if channels % self.groups or outputs % self.groups:
            raise ValueError(f"groups must divide the channels, got groups {self.groups} for {channels} "
                             f"input and {outputs} output channels")
        if w_shape[1] * self.groups != channels:
            raise ValueError(f"weight must be (O, {channels // self.groups}, R, S) for {channels} input "
                             f"channels in {self.groups} groups, got shape {w_shape}")


def _integers(value: Any, name: str, lengths: tuple[int, ...], least: int) -> tuple[int, ...]:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim > 1 or (array.ndim == 1 and len(array) not in lengths):
        wanted = " or ".join(str(n) for n in lengths if n > 1)
        raise ValueError(f"{name} must be an integer{f' or {wanted} of them' if wanted else ''}, got {value!r}")
    if (array < least).any():
        raise ValueError(f"{name} must be >= {least}, got {value!r}")
    return tuple(int(v) for v in (array if array.ndim else np.repeat(array, lengths[0])))


def pad(x: np.ndarray, padding: tuple[int, int, int, int], value: Any = 0) -> np.ndarray:
    """(N, C, H, W) with (top, left, bottom, right) rows and columns of ``value`` around it."""
    if not any(padding):
        return x
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def taps(x: np.ndarray, kernel: tuple[int, int], geometry: Geometry) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """For each kernel position: ((r, s), the view of padded x it sees, shaped (N, C, P, Q))."""
    rows, columns = geometry.output_size(x.shape[2], x.shape[3], kernel)
    (down, across), (spread_r, spread_s) = geometry.stride, geometry.dilation
    padded = pad(x, geometry.padding)
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            yield (r, s), padded[:, :, r * spread_r:r * spread_r + (rows - 1) * down + 1:down,
                                 s * spread_s:s * spread_s + (columns - 1) * across + 1:across]
