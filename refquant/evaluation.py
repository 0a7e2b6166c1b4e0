"""What quantization did to a network: accuracy, similarity, code equality and the sums it saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.bounds import headroom_bits
from refquant.formats import IntFormat
from refquant.network.integer_forward import run_integer_tensors
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
