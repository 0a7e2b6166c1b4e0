"""How alike a convolution's float and quantized outputs are, for many candidate scales at once.

O = conv(A, W) in floats, Ô = conv(Q(A, S_a), Q(W, S_w)) in integers. A candidate's cosine follows from two
numbers per output channel, <O, Ô> and |Ô|², which add up over images. They are found in two ways:

direct: convolve the codes, for every candidate.
Gram: with the rows of A_q being what each output sees of the input's codes, Ô = A_q·w_q, so that
    <O, Ô> = P·w_q and |Ô|² = w_qᵀ·G·w_q with P = A_qᵀ·O and G = A_qᵀ·A_q.
    No weight candidate needs a convolution then, and G is exact in integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.blas import correlate
from refquant.convolution.geometry import Geometry, taps
from refquant.integers.formats import IntFormat
from refquant.scales.linear import quantize

# Elements of the largest array that is made at a time: 2 MiB of float32.
BLOCK = 1 << 19
# Terms of a sum may be so many times larger than what it is divided by: then it is right to about 1e-13.
WORST_CONDITION = 2.0**11


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One layer to be quantized: calibration batches, weights, geometry and the codes' formats.

    batches: may be walked through any number of times; arrays (N, C, H, W), or pairs of one and the float
    outputs (N, O, P, Q) it is to resemble, without bias; otherwise those are convolved here, in float64.
    weight: (O, C/groups, R, S), float64. bias, relu: what follows before outputs are compared.
    """

    batches: Iterable[Any]
    weight: np.ndarray
    geometry: Geometry
    x_format: IntFormat
    w_format: IntFormat
    bias: np.ndarray | None = None
    relu: bool = False

    def slices(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A few images at a time: inputs, and float outputs in float64."""
        for batch in self.batches:
            x, outputs = batch if isinstance(batch, tuple) else (batch, None)
            rows, columns = self.geometry.output_size(x.shape[2], x.shape[3], self.weight.shape[2:])
            count = max(1, BLOCK // max(x[0].size, len(self.weight) * rows * columns))
            for start in range(0, len(x), count):
                some = x[start:start + count]
                yield some, (correlate(some, self.weight, self.geometry, np.float64) if outputs is None
                             else outputs[start:start + count].astype(np.float64))

    def finish(self, outputs: np.ndarray, unit: np.ndarray | float = 1.0) -> np.ndarray:
        """Bias and ReLU, in place; ``unit``: what one unit of the outputs stands for, a number or (O,)."""
        if self.bias is not None:
            outputs += (self.bias / unit)[:, None, None]
        return np.maximum(outputs, 0, out=outputs) if self.relu else outputs


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
        return cosines(self.dot, self.norm, self.target)


def cosines(dot: np.ndarray, norm: np.ndarray, target: np.ndarray) -> np.ndarray:
    """dot / sqrt(norm·target); 1 where both are zero, 0 where one is, as ``similarity.cosine``."""
    lengths = np.sqrt(norm) * np.sqrt(target)
    cosine = np.divide(dot, lengths, out=np.zeros(np.broadcast_shapes(dot.shape, lengths.shape)), where=lengths > 0)
    return np.where((norm == 0) & (target == 0), 1.0, np.clip(cosine, -1.0, 1.0))


def weight_codes(layer: QuantizedLayer, scale: Any) -> np.ndarray:
    """Q(W, S_w); scale () or (O,)."""
    scale = np.asarray(scale, np.float64)
    return quantize(layer.weight, scale, layer.w_format, axis=0 if scale.ndim else None)


def codes_as_floats(x: np.ndarray, scale: float, fmt: IntFormat) -> np.ndarray:
    """``quantize(x, scale, fmt)`` of at most 24 bits as float32, and faster: in float32 unless a tie is near.

    Rounding x, the scale and their product moves a product by less than 2^-22 of itself. Where a tie is
    nearer than that at the largest code, ``quantize`` decides; beyond the largest code all clip alike.
    """
    largest = float(np.abs(x).max())
    if not (fmt.bits <= 16 and largest < 1e30 and 1e-30 < scale < 1e30 and largest * float(scale) < 1e30):
        return quantize(x, scale, fmt).astype(np.float32)
    product = x.astype(np.float32) * np.float32(scale)
    codes = np.rint(product)
    np.subtract(product, codes, out=product)
    near = np.flatnonzero(np.abs(product, out=product).ravel() > 0.5 - (fmt.max + 1) * 2.0**-22)
    np.clip(codes, fmt.min, fmt.max, out=codes)
    if near.size:
        codes.flat[near] = quantize(x.flat[near], scale, fmt)
    return codes


def direct_table(layer: QuantizedLayer, weight_scales: Sequence[Any] | np.ndarray,
                 activation_scales: Sequence[float] | np.ndarray, pooled: bool = False) -> Table:
    """The table of candidate pairs (S_w, S_a), by convolving; one of both may be a single entry for all.

    weight_scales: each () or (O,). pooled: all images as one, which takes no more memory for more images.
    """
    count = max(len(weight_scales), len(activation_scales))
    weights = [weight_codes(layer, scale) for scale in weight_scales]
    reach = max(-layer.x_format.min, layer.x_format.max)
    largest = max(int(np.abs(w.reshape(len(w), -1).astype(np.int64)).sum(axis=1).max()) for w in weights) * reach
    # Sums below 2^24 are exact in float32; codes of at most 16 bits stay below 2^53 for any K < 2^23.
    exact = np.float32 if largest < 2**24 else np.float64
    if len(weights) == 1:
        weights, weight_scales = weights * count, [weight_scales[0]] * count
    # What one unit of Ô stands for, by candidate and channel.
    units = 1 / (np.stack([np.broadcast_to(scale, len(layer.weight)) for scale in weight_scales]).astype(np.float64)
                 * np.reshape(activation_scales, (-1, 1)))
    parts: list[Table] = []
    for x, outputs in layer.slices():
        layer.finish(outputs)
        dot, norm = np.empty((2, count, len(layer.weight), len(x)))
        for k in range(count):
            if k == 0 or len(activation_scales) > 1:
                x_q = codes_as_floats(x, activation_scales[k], layer.x_format)
            y = layer.finish(correlate(x_q, weights[k], layer.geometry, exact, np.float64), units[k])
            dot[k] = np.einsum("nopq,nopq->on", outputs, y)
            norm[k] = np.einsum("nopq,nopq->on", y, y)
        part = Table(dot * units[:, :, None], norm * units[:, :, None] ** 2,
                     np.einsum("nopq,nopq->on", outputs, outputs))
        part = part.over_images() if pooled else part
        parts = [Table(*(a + b for a, b in zip(parts[0], part)))] if pooled and parts else [*parts, part]
    return Table(*(np.concatenate(columns, axis=-1) for columns in zip(*parts)))


class Gram(NamedTuple):
    """G: (groups, K, K) exact integers. P: (groups, K, O/groups). target: |O|² by channel, (O,). K = C/groups·R·S."""

    G: np.ndarray
    P: np.ndarray
    target: np.ndarray


def gram(layer: QuantizedLayer, activation_scale: float) -> Gram | None:
    """G = A_qᵀ·A_q and P = A_qᵀ·O over all batches; None where float64 is not proven to hold G exactly."""
    groups, outputs = layer.geometry.groups, len(layer.weight)
    terms = int(np.prod(layer.weight.shape[1:]))
    reach = max(-layer.x_format.min, layer.x_format.max)
    step = (2**24 - 1) // reach**2  # the sum of so many products is exact in float32
    exact, step = (np.float32, min(step, 1024)) if step >= 64 else (np.float64, 1024)
    G = np.zeros((groups, terms, terms))
    P = np.zeros((groups, terms, outputs // groups))
    target = np.zeros(outputs)
    positions = 0
    for x, o in layer.slices():
        count = max(1, 4 * BLOCK // (groups * terms * o[0, 0].size))
        for some, wanted in ((x[i:i + count], o[i:i + count]) for i in range(0, len(x), count)):
            x_q = codes_as_floats(some, activation_scale, layer.x_format)
            views = np.stack([view for _, view in taps(x_q, layer.weight.shape[2:], layer.geometry)])
            # From (R·S, N, C, P, Q) to what each output sees, K over channel, row, column.
            seen = views.transpose(2, 0, 1, 3, 4).reshape(groups, terms, -1).astype(exact, copy=False)
            wanted = wanted.transpose(1, 0, 2, 3).reshape(groups, outputs // groups, -1)
            target += np.einsum("gom,gom->go", wanted, wanted).ravel()
            positions += seen.shape[2]
            if positions * reach**2 >= 2**53:
                return None
            for start in range(0, seen.shape[2], step):
                part = seen[:, :, start:start + step]
                G += part @ part.swapaxes(1, 2)
                P += part.astype(np.float64) @ wanted[:, :, start:start + step].swapaxes(1, 2)
    return Gram(G, P, target)


def weight_table(layer: QuantizedLayer, weight_scales: np.ndarray, activation_scale: float) -> Table:
    """The table of many weight scales under one activation scale, all images as one.

    weight_scales: (candidates,) or (candidates, O). From Gram matrices where their integers are proven to
    stay exact, |u| < 2^53 for u = G·w_q and |w_qᵀ·u| < 2^63, and where the terms of P·w_q, each of which carries
    its own rounding, are not far larger than |O|·|Ô|; directly otherwise.
    """
    sums = gram(layer, activation_scale)
    if sums is None:
        return direct_table(layer, weight_scales, [activation_scale], pooled=True)
    groups, terms = sums.G.shape[:2]
    outputs = len(layer.weight)
    dot, norm = np.empty((2, len(weight_scales), outputs))
    largest = float(np.abs(sums.G).max())
    lengths = np.sqrt(np.diagonal(sums.G, axis1=1, axis2=2))  # of the columns of A_q
    for k, scale in enumerate(weight_scales):
        w_q = weight_codes(layer, scale).reshape(groups, outputs // groups, terms)
        wide = w_q.astype(np.int64)
        reach = int(np.abs(wide).sum(axis=2).max())
        w = wide.astype(np.float64)
        if largest * reach >= 2**53 or largest * reach**2 >= 2**63:
            return direct_table(layer, weight_scales, [activation_scale], pooled=True)
        u = (w @ sums.G).astype(np.int64)
        unit = 1 / (scale * activation_scale)
        dot[k] = np.einsum("gok,gko->go", w, sums.P).ravel() * unit
        norm[k] = np.einsum("gok,gok->go", wide, u).ravel() * unit**2
        # |P_k| <= |column k of A_q|·|O|: how large the terms can be.
        reached = np.einsum("gok,gk->go", np.abs(w), lengths).ravel() * unit @ np.sqrt(sums.target)
        if reached > WORST_CONDITION * np.sqrt(norm[k].sum()) * np.sqrt(sums.target.sum()):
            return direct_table(layer, weight_scales, [activation_scale], pooled=True)
    return Table(dot[..., None], norm[..., None], sums.target[:, None])
