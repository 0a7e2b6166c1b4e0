"""The convolutions of a quantized network once more, through int16 lanes and through integer Winograd.

Both kernels must give the integer interpreter's sums, so that the codes do not change either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.direct import convolve_int16
from refquant.integers.formats import IntFormat
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.program import Encoding, QuantizedConv, Term
from refquant.network.proof import QuantizedNetwork
from refquant.winograd.bounds import winograd_bounds_of_weights
from refquant.winograd.convolution import Stage, winograd_convolve


@dataclass(frozen=True)
class LaneReport:
    """One layer through int16 lanes: products per lane, the lanes' extremes, and whether all sums agree."""

    layer: str
    x_format: IntFormat
    w_format: IntFormat
    schedule: int
    int16_min: int
    int16_max: int
    sums_equal: bool


@dataclass(frozen=True)
class WinogradReport:
    """One stage of one layer through Winograd: its extremes, seen and proven for these weights and any input.

    headroom_bits: the spare bits of the proof in the smallest register that holds it. sums_equal: of the layer.
    """

    layer: str
    stage: str
    format: IntFormat
    min: int
    max: int
    proven_min: int
    proven_max: int
    headroom_bits: float
    sums_equal: bool


class _Convolution(NamedTuple):
    layer: QuantizedConv
    term: Term
    encoding: Encoding
    codes: np.ndarray
    sums: np.ndarray  # without bias


def _convolutions(quantized: QuantizedNetwork, images: Any, kernel: tuple[int, int]) -> Iterator[_Convolution]:
    """The convolutions of one kernel size with one term and no zero point: their input's codes, and their sums."""
    sums: dict[str, np.ndarray] = {}

    def observe(layer: str, stage: str, values: np.ndarray) -> None:
        sums[layer] = values

    codes = run_integer_tensors(quantized, quantized.quantize_images(images), observe)
    for layer in quantized.layers:
        encoding = quantized.encodings[layer.inputs[0]]
        if not isinstance(layer, QuantizedConv) or len(layer.terms) > 1 or encoding.zero_point:
            continue
        term = layer.terms[0]
        if term.weight_q.shape[2:] == kernel and term.plane is None:
            bias = 0 if term.bias_q is None else term.bias_q[:, None, None]
            yield _Convolution(layer, term, encoding, codes[layer.inputs[0]], sums[layer.name] - bias)


def run_lanes(quantized: QuantizedNetwork, images: Any, kernel: tuple[int, int] = (3, 3)) -> list[LaneReport]:
    """Run every convolution of one kernel size through int16 lanes, under the safe schedule.

    images: floats (N, *input_shape). Layers with zero points or several terms are left out.
    """
    reports = []
    for layer, term, encoding, codes, sums in _convolutions(quantized, images, kernel):
        x_format, w_format = encoding.format, term.weight_format
        acc, seen = convolve_int16(codes, term.weight_q, x_format, w_format, record=True, **layer.geometry._asdict())
        reports.append(LaneReport(layer.name, x_format, w_format, seen.schedule, seen.int16_min, seen.int16_max,
                                  np.array_equal(acc, sums)))
    return reports


def run_winograd(quantized: QuantizedNetwork, images: Any, tile: tuple[int, int] = (2, 3)) -> list[WinogradReport]:
    """Run every dense stride-1 convolution of the tile's kernel size through Winograd, every stage recorded.

    images: floats (N, *input_shape). Layers with zero points, several terms, groups or dilation are left out.
    """
    reports = []
    for layer, term, encoding, codes, sums in _convolutions(quantized, images, (tile[1], tile[1])):
        geometry = layer.geometry
        if geometry != geometry._replace(stride=(1, 1), dilation=(1, 1), groups=1):
            continue
        acc, trace = winograd_convolve(codes, term.weight_q, tile, geometry.padding, record=True)
        equal = np.array_equal(acc, sums)
        for bound in winograd_bounds_of_weights(tile, encoding.format, term.weight_q):
            if bound.stage in trace:
                stage: Stage = trace[bound.stage]
                reports.append(WinogradReport(layer.name, bound.stage, bound.format, stage.min, stage.max, bound.min,
                                              bound.max, bound.headroom_bits(), equal))
    return reports
