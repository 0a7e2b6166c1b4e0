"""The convolutions of a quantized network once more, through int16 lanes and through integer Winograd.

Both kernels must give the integer interpreter's sums, so that the codes do not change either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refquant.commands.evaluation import StageReport
from refquant.convolution.int16 import convolve_int16
from refquant.integers.accumulation import safe_products_per_lane
from refquant.integers.formats import IntFormat
from refquant.integers.stages import Recorder, StageRange
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.program import QuantizedConv, Term
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import QuantParams
from refquant.winograd.bounds import winograd_bounds_of_weights
from refquant.winograd.convolution import winograd_convolve


@dataclass(frozen=True)
class LaneReport:
    """One layer through int16 lanes: products per lane, the lanes' range, and whether all sums agree."""

    layer: str
    x_format: IntFormat
    w_format: IntFormat
    products_per_lane: int
    lanes: StageRange
    sums_equal: bool

    def entry(self) -> dict[str, Any]:
        """In plain types, as reports hold it."""
        return {"layer": self.layer, "x_format": str(self.x_format), "w_format": str(self.w_format),
                "products_per_lane": self.products_per_lane, "int16_min": self.lanes.min, "int16_max": self.lanes.max,
                "sums_equal": self.sums_equal}


@dataclass(frozen=True)
class WinogradReport:
    """One stage of one layer through Winograd: observed, and proven for these weights and any input.

    sums_equal: of the layer.
    """

    layer: str
    stage: StageReport
    sums_equal: bool

    def entry(self) -> dict[str, Any]:
        """In plain types, as reports hold it."""
        return {**self.stage.entry(), "layer": self.layer, "sums_equal": self.sums_equal}


class _Convolution(NamedTuple):
    layer: QuantizedConv
    term: Term
    qparam: QuantParams
    codes: np.ndarray
    sums: np.ndarray  # without bias


def _convolutions(quantized: QuantizedNetwork, images: Any, kernel: tuple[int, int]) -> Iterator[_Convolution]:
    """The convolutions of one kernel size with one term and no zero point: their input's codes, and their sums."""
    sums: dict[str, np.ndarray] = {}

    def trace(layer: str, stage: str, values: np.ndarray) -> None:
        sums[layer] = values

    codes = run_integer_tensors(quantized, quantized.quantize_images(images), trace)
    for layer in quantized.layers:
        qparam = quantized.qparams[layer.inputs[0]]
        if not isinstance(layer, QuantizedConv) or len(layer.terms) > 1 or not isinstance(qparam, QuantParams) or (
                qparam.zero_point):
            continue
        term = layer.terms[0]
        if term.weight_q.shape[2:] == kernel and term.lookup_table is None:
            bias = 0 if term.bias_q is None else term.bias_q[:, None, None]
            yield _Convolution(layer, term, qparam, codes[layer.inputs[0]], sums[layer.name] - bias)


def run_lanes(quantized: QuantizedNetwork, images: Any, kernel: tuple[int, int] = (3, 3)) -> list[LaneReport]:
    """Run every convolution of one kernel size through int16 lanes, under the safe schedule.

    images: floats (N, *input_shape). Layers with zero points or several terms are left out.
    """
    reports = []
    for layer, term, qparam, codes, sums in _convolutions(quantized, images, kernel):
        x_format, w_format = qparam.format, term.weight_format
        seen = Recorder()
        acc = convolve_int16(codes, term.weight_q, x_format, w_format, trace=seen, **layer.geometry._asdict())
        reports.append(LaneReport(layer.name, x_format, w_format, safe_products_per_lane(x_format, w_format),
                                  seen.ranges["SMLAL"], np.array_equal(acc, sums)))
    return reports


def run_winograd(quantized: QuantizedNetwork, images: Any, tile: tuple[int, int] = (2, 3)) -> list[WinogradReport]:
    """Run every dense stride-1 convolution of the tile's kernel size through Winograd, every stage observed.

    images: floats (N, *input_shape). Layers with zero points, several terms, groups or dilation are left out.
    """
    reports = []
    for layer, term, qparam, codes, sums in _convolutions(quantized, images, (tile[1], tile[1])):
        geometry = layer.geometry
        if geometry != geometry._replace(stride=(1, 1), dilation=(1, 1), groups=1):
            continue
        seen = Recorder()
        acc = winograd_convolve(codes, term.weight_q, tile, geometry.padding, trace=seen)
        equal = np.array_equal(acc, sums)
        reports += [WinogradReport(layer.name, StageReport(seen.ranges[bound.stage], bound), equal)
                    for bound in winograd_bounds_of_weights(tile, qparam.format, term.weight_q)
                    if bound.stage in seen.ranges]
    return reports
