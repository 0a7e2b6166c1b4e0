"""How alike a convolution's float and quantized outputs are, for many candidate scales at once.

O = conv(A, W) in floats, Ô = conv(Q(A, S_a), Q(W, S_w)) in integers. A candidate's cosine follows from two numbers
per output channel, <O, Ô> and |Ô|², which add up over images. Here the codes are convolved for every candidate;
``gram`` computes the same numbers for weight candidates without convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.blas import correlate, exact_dtype, largest_weight_sum
from refquant.easyquant.layer import HalfStep, QuantizedLayer, ScaleSearch, choose
from refquant.scales.float32_codes import can_round_in_float32, round_in_float32
from refquant.scales.linear import quantize
from refquant.scales.metrics import cosine_of_sums
from refquant.workers import in_order

# Candidates that a worker evaluates together.
CANDIDATES = 25


class Table(NamedTuple):
    """<O, Ô> and |Ô|² by candidate, output channel and image; ``target`` is |O|² by channel and image.

    From Gram matrices all images together: the last axis has one entry.
    """

    dot: np.ndarray
    norm: np.ndarray
    target: np.ndarray

    def over_images(self) -> Table:
        """All images as one."""
        return Table(*(part.sum(axis=-1, keepdims=True) for part in self))

    def over_channels(self) -> Table:
        """All channels as one."""
        return Table(self.dot.sum(axis=1, keepdims=True), self.norm.sum(axis=1, keepdims=True),
                     self.target.sum(axis=0, keepdims=True))

    def of_images(self, images: np.ndarray) -> Table:
        """Some of the images."""
        return Table(self.dot[..., images], self.norm[..., images], self.target[..., images])

    def cosines(self) -> np.ndarray:
        """cos(O, Ô): by candidate, channel and image."""
        return cosine_of_sums(self.dot, self.norm, self.target)


def weight_codes(layer: QuantizedLayer, scale: Any) -> np.ndarray:
    """Q(W, S_w); scale () or (O,)."""
    scale = np.asarray(scale, np.float64)
    return quantize(layer.weight, scale, layer.w_format, axis=0 if scale.ndim else None)


class ActivationCodes:
    """Q(A, S_a) of some inputs in float32, scale after scale; they are finite: ``check_batches`` has seen them."""

    def __init__(self, layer: QuantizedLayer, x: np.ndarray) -> None:
        self.fmt, self.x, self.largest = layer.x_format, x, float(np.abs(x).max())
        self.single = x.astype(np.float32) if self.largest < 1e30 else x

    def at(self, scale: float) -> np.ndarray:
        """The codes at one scale."""
        fmt, factor = self.fmt, np.asarray(scale, np.float64)
        if can_round_in_float32(self.largest, factor, fmt):
            return round_in_float32(self.x, factor, fmt.min, fmt.max, self.single)
        return quantize(self.x, factor, fmt).astype(np.float32)


def direct_table(layer: QuantizedLayer, weight_scales: Sequence[Any] | np.ndarray,
                 activation_scales: Sequence[float] | np.ndarray, pooled: bool = False) -> Table:
    """The table of candidate pairs (S_w, S_a), by convolving; one of both may be a single entry for all.

    weight_scales: each () or (O,). pooled: all images as one, which takes no more memory for more images.
    """
    count = max(len(weight_scales), len(activation_scales))
    weights = [weight_codes(layer, scale) for scale in weight_scales]
    reach = max(-layer.x_format.min, layer.x_format.max)
    exact = exact_dtype(max(map(largest_weight_sum, weights)) * reach)  # never int64: codes have at most 16 bits
    if len(weights) == 1:
        weights, weight_scales = weights * count, [weight_scales[0]] * count
    # What one unit of Ô stands for, by candidate and channel.
    units = 1 / (np.stack([np.broadcast_to(scale, len(layer.weight)) for scale in weight_scales]).astype(np.float64)
                 * np.reshape(activation_scales, (-1, 1)))
    shared = (replace(layer, batches=(), executor=None), weights, activation_scales, units, exact, pooled)
    executor = layer.executor if count > 1 else None
    step = CANDIDATES if executor else count  # a small layer is one slice: workers share its candidates
    chunks = [range(start, min(start + step, count)) for start in range(0, count, step)]
    results = in_order(_sums_of_slice, shared, _tasks(layer, chunks), executor)
    parts: list[Table] = []
    for sums in zip(*[results] * len(chunks)):  # all chunks of one slice
        dots, norms, targets = zip(*sums)
        part = Table(np.concatenate(dots), np.concatenate(norms), targets[0])
        parts = [Table(*(a + b for a, b in zip(parts[0], part)))] if pooled and parts else [*parts, part]
    return Table(*(np.concatenate(columns, axis=-1) for columns in zip(*parts)))


def _tasks(layer: QuantizedLayer, chunks: Sequence[range]) -> Iterator[tuple[str, Any]]:
    start = 0
    for x, outputs in layer.slices():
        layer.finish(outputs)
        for chunk in chunks:
            yield f"calibration images {start}..{start + len(x) - 1} of a layer", (x, outputs, chunk)
        start += len(x)
        del x, outputs  # before the next ones are made


def _sums_of_slice(shared: tuple[Any, ...], task: tuple[np.ndarray, np.ndarray, range]) -> Table:
    layer, weights, activation_scales, units, exact, pooled = shared
    x, outputs, candidates = task
    codes, units = ActivationCodes(layer, x), units[candidates.start:candidates.stop]
    dot, norm = np.empty((2, len(candidates), len(layer.weight), len(x)))
    for row, k in enumerate(candidates):
        if row == 0 or len(activation_scales) > 1:
            x_q = codes.at(activation_scales[k if len(activation_scales) > 1 else 0])
        y = layer.finish(correlate(x_q, weights[k], layer.geometry, exact, np.float64), units[row])
        dot[row] = np.einsum("nopq,nopq->on", outputs, y)
        norm[row] = np.einsum("nopq,nopq->on", y, y)
    table = Table(dot * units[:, :, None], norm * units[:, :, None] ** 2,
                  np.einsum("nopq,nopq->on", outputs, outputs))
    return table.over_images() if pooled else table


def move_channels(table: Table, candidates: np.ndarray, history: list[HalfStep], first: int) -> np.ndarray:
    """Move one channel after another for the whole layer's cosine, earlier ones already moved.

    Row 0 of the table is where every channel starts; rows from ``first`` on are candidates. A channel's
    candidates change its own output only, so one table serves the whole scan.
    """
    dot, norm, target = table.dot[0].copy(), table.norm[0].copy(), table.target.sum(axis=0)
    scale = candidates[0].copy()
    for channel in range(len(scale)):
        # The other channels are added anew: subtracting this one from a total would cancel where it is loud.
        dots, norms = (np.delete(now, channel, axis=0).sum(axis=0) + every[first:, channel]
                       for now, every in ((dot, table.dot), (norm, table.norm)))
        likeness = cosine_of_sums(dots, norms, target).mean(axis=1)
        row = first + choose(history, "weight", channel, candidates[first:, channel], likeness)
        for now, every in ((dot, table.dot), (norm, table.norm), (scale, candidates)):
            now[channel] = every[row, channel]
    return scale


def search_activations_once(layer: QuantizedLayer, weight_scale: np.ndarray, candidates: np.ndarray,
                      history: list[HalfStep], images: np.ndarray | None = None) -> ScaleSearch:
    table = direct_table(layer, [weight_scale], candidates).over_channels()
    likeness = (table if images is None else table.of_images(images)).cosines()[:, 0].mean(axis=1)
    chosen = choose(history, "activation", None, candidates, likeness)
    return ScaleSearch(weight_scale, float(candidates[chosen]), float(likeness[chosen]), tuple(history))
