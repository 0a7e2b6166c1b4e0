"""What quantization did to a network: accuracy, similarity, code equality and the sums it saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.bounds import headroom_bits
from refquant.convolution import convolve_int16
from refquant.formats import IntFormat
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.layers import QuantizedConv
from refquant.network.quantized import QuantizedNetwork
from refquant.network.simulated_forward import run_simulated_tensors
from refquant.similarity import cosine, sqnr_db

BATCH = 50


@dataclass(frozen=True)
class StageReport:
    """One stage's sums: smallest and largest value seen and proven, and the spare bits of the proof."""

    layer: str
    stage: str
    format: IntFormat
    min: int
    max: int
    proven_min: int
    proven_max: int

    @property
    def headroom_bits(self) -> float:
        """How often the proven range could double within the format."""
        return headroom_bits(self.proven_min, self.proven_max, self.format)


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent (None without labels); cosine and SQNR of the logits against float's.

    codes_equal: integer and simulated inference gave the same code everywhere, in every tensor of
    every image.
    """

    integer_top1: float | None
    simulated_top1: float | None
    codes_equal: bool
    cosine: float
    sqnr_db: float
    weight_bytes: int
    stages: tuple[StageReport, ...]


def top1(logits: np.ndarray, labels: Any) -> float:
    """Percent of images whose largest logit, the first among equals, is their label's."""
    return 100.0 * float(np.mean(logits.argmax(axis=1) == np.asarray(labels)))


def evaluate(quantized: QuantizedNetwork, images: Any, labels: Any, float_logits: np.ndarray) -> Evaluation:
    """Run every image by both roads and compare.

    images: floats (N, *input_shape). labels: N integers or None. float_logits: (N, classes).
    """
    images = np.asarray(images)
    seen: dict[tuple[str, str], tuple[int, int]] = {}

    def observe(layer: str, stage: str, values: np.ndarray) -> None:
        low, high = int(values.min()), int(values.max())
        before = seen.get((layer, stage), (low, high))
        seen[layer, stage] = min(low, before[0]), max(high, before[1])

    integer, simulated, codes_equal = [], [], True
    for start in range(0, len(images), BATCH):
        x_q = quantized.quantize_images(images[start:start + BATCH])
        codes = run_integer_tensors(quantized, x_q, observe)
        twins = run_simulated_tensors(quantized, x_q)
        codes_equal = codes_equal and all(np.array_equal(codes[name], twins[name]) for name in codes)
        integer.append(codes[quantized.output])
        simulated.append(twins[quantized.output])
    decode = quantized.encodings[quantized.output].dequantize
    logits = decode(np.concatenate(integer))
    twin_logits = decode(np.concatenate(simulated).astype(np.int64))
    return Evaluation(
        integer_top1=None if labels is None else top1(logits, labels),
        simulated_top1=None if labels is None else top1(twin_logits, labels),
        codes_equal=codes_equal,
        cosine=cosine(float_logits, logits),
        sqnr_db=sqnr_db(float_logits, logits),
        weight_bytes=quantized.weight_bytes,
        stages=tuple(StageReport(s.layer, s.stage, s.format, *seen[s.layer, s.stage], s.min, s.max)
                     for s in quantized.stages))


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


def evaluate_lanes(quantized: QuantizedNetwork, images: Any, kernel: tuple[int, int] = (3, 3)) -> list[LaneReport]:
    """Run every convolution of one kernel size through int16 lanes, under the safe schedule.

    Its sums must equal the integer interpreter's, so that the codes do too. images: floats
    (N, *input_shape). Layers with zero points or several terms are left out.
    """
    sums: dict[str, np.ndarray] = {}

    def observe(layer: str, stage: str, values: np.ndarray) -> None:
        sums[layer] = values

    codes = run_integer_tensors(quantized, quantized.quantize_images(images), observe)
    reports = []
    for layer in quantized.layers:
        encoding = quantized.encodings[layer.inputs[0]]
        if not isinstance(layer, QuantizedConv) or len(layer.terms) > 1 or encoding.zero_point:
            continue
        term = layer.terms[0]
        if term.weight_q.shape[2:] != kernel or term.plane is not None:
            continue
        x_format, w_format = encoding.format, term.weight_format
        acc, seen = convolve_int16(codes[layer.inputs[0]], term.weight_q, x_format, w_format, record=True,
                                   **layer.geometry._asdict())
        if term.bias_q is not None:
            acc = acc + term.bias_q[:, None, None]
        reports.append(LaneReport(layer.name, x_format, w_format, seen.schedule, seen.int16_min, seen.int16_max,
                                  np.array_equal(acc, sums[layer.name])))
    return reports
