"""One layer to be searched, checked, and what a search of it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.blas import correlate
from refquant.convolution.geometry import Geometry
from refquant.integers.checks import finite, is_integer, moderate, native
from refquant.integers.formats import IntFormat, frozen_copy
from refquant.scales.statistics import Extremes

# Elements of the largest array that is made at a time: 2 MiB of float32.
BLOCK = 1 << 19
# Cosines as near as this are equal, and the first of them wins: noise must not choose.
EQUAL = 1e-12


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One layer to be quantized: calibration batches, weights, geometry and the codes' formats.

    batches: may be walked through any number of times; arrays (N, C, H, W), or pairs of one and the float
    outputs (N, O, P, Q) it is to resemble, without bias; otherwise those are convolved here, in float64.
    weight: (O, C/groups, R, S), float64. bias, relu: what follows before outputs are compared. executor: where
    candidates are evaluated.
    """

    batches: Iterable[Any]
    weight: np.ndarray
    geometry: Geometry
    x_format: IntFormat
    w_format: IntFormat
    bias: np.ndarray | None = None
    relu: bool = False
    executor: Executor | None = None

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


class HalfStep(NamedTuple):
    """One operand's search: every candidate scale, its cosine, and which was chosen.

    operand: ``weight``, ``activation``, or ``start`` for the choice among initial pairs, whose candidates
    are their numbers. channel: the output channel searched, or None where the scale is the layer's. An activation
    scale that is kept has one candidate. Both arrays are read-only.
    """

    operand: str
    channel: int | None
    candidates: np.ndarray
    cosines: np.ndarray
    chosen: int


class ScaleSearch(NamedTuple):
    """weight_scale: float64, () or (O,).

    cosine: what the two scales reach: of all outputs as one (``paper``), or the mean of the images' (the others); 1.0
    where every float output is zero.
    """

    weight_scale: np.ndarray
    activation_scale: float
    cosine: float
    history: tuple[HalfStep, ...]


def choose(history: list[HalfStep], operand: str, channel: int | None, candidates: np.ndarray,
            likeness: np.ndarray) -> int:
    """Choose the first candidate within 1e-12 of the best, and write it down."""
    chosen = int(np.argmax(likeness >= likeness.max() - EQUAL))
    history.append(HalfStep(operand, channel, frozen_copy(candidates), frozen_copy(likeness), chosen))
    return chosen


def check_layer(inputs: Any, weights: Any, bits: Any, unsigned: bool, bias: Any, relu: bool, geometry: Geometry
                ) -> QuantizedLayer:
    """The layer to be searched (see ``paper.search_paper`` for the arguments); ``inputs`` are checked later."""
    w_format, x_format = _formats(bits, unsigned)
    batches = [inputs] if isinstance(inputs, (np.ndarray, tuple)) else inputs
    if not isinstance(batches, Iterable) or isinstance(batches, Iterator):
        raise ValueError(f"inputs must be an array or batches that can be walked through again, got {type(inputs)}")
    weight = _reals(weights, "weights", 4)
    if bias is not None:
        bias = _reals(bias, "bias", 1)
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias must have shape {weight.shape[:1]}, got {bias.shape}")
        moderate(float(np.abs(bias).max()), "bias must be moderate: its largest magnitude")
    return QuantizedLayer(batches, weight, geometry, x_format, w_format, bias, bool(relu))


def _formats(bits: Any, unsigned: bool) -> tuple[IntFormat, IntFormat]:
    pair = bits if isinstance(bits, (tuple, list)) else (bits, bits)
    if len(pair) != 2 or not all(is_integer(b) and 2 <= b <= 16 for b in pair):
        raise ValueError(f"bits must be an integer from 2 to 16, or two for weights and activations, got {bits!r}")
    return IntFormat(pair[0], narrow=True), IntFormat(pair[1], signed=not unsigned, narrow=not unsigned)


def _reals(x: Any, name: str, dimensions: int) -> np.ndarray:
    x = native(x) if isinstance(x, np.ndarray) else x
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64) or x.ndim != dimensions or not x.size:
        got = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise ValueError(f"{name} must hold float32 or float64 in {dimensions} dimensions and not be empty, "
                         f"got {got}")
    return finite(x, name).astype(np.float64)


def check_batches(layer: QuantizedLayer) -> Extremes:
    """Refuse what does not fit the layer; returns the inputs' extremes."""
    extremes = None
    for batch in layer.batches:
        x, *outputs = batch if isinstance(batch, tuple) and len(batch) == 2 else (batch,)
        x = _reals(x, "inputs", 4)
        layer.geometry.check_shapes(x.shape, layer.weight.shape)
        plane = layer.geometry.output_size(x.shape[2], x.shape[3], layer.weight.shape[2:])
        wanted = (len(x), len(layer.weight), *plane)
        for o in outputs:
            if _reals(o, "outputs", 4).shape != wanted:
                raise ValueError(f"outputs must have shape {wanted}, got {o.shape}")
            moderate(float(np.abs(o).max()), "outputs must be moderate: their largest magnitude")
        seen = Extremes.of(x)
        extremes = seen if extremes is None else extremes.merge(seen)
    if extremes is None:
        raise ValueError("inputs must hold at least one batch, got none")
    moderate(extremes.magnitude * float(np.abs(layer.weight).max()),
             "inputs must be moderate: their largest magnitude times the weights'")
    return extremes
