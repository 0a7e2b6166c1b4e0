"""The evaluation of a quantized network: accuracy, similarity, code equality, and the ranges of its sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refquant.integers.stages import StageRange
from refquant.network.float_forward import float64_tensors
from refquant.network.graph import Conv, Linear, Network
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.program import Layer, QuantizedConv, QuantParams
from refquant.network.proof import QuantizedNetwork
from refquant.network.simulated_forward import simulated_tensors
from refquant.scales.linear import DEAD_CHANNEL
from refquant.scales.metrics import Likeness, cosine, sqnr_db


class StageReport(NamedTuple):
    """The range of one stage's sums, observed and proven, in one format."""

    observed: StageRange
    proven: StageRange

    def entry(self) -> dict[str, Any]:
        """In plain types, as reports hold it."""
        proven = self.proven
        return {"layer": proven.layer, "stage": proven.stage, "format": str(proven.format), "min": self.observed.min,
                "max": self.observed.max, "proven_min": proven.min, "proven_max": proven.max,
                "headroom_bits": proven.headroom_bits}


@dataclass(frozen=True)
class LayerReport:
    """How far one layer's output is from the float network's, and what its weights are like.

    weight_range_disparity: largest over smallest max|w| among the channels that are not dead.
    saturated_fraction: of the output codes, those at an end of the format that is not real zero.
    headroom_bits: the least of its stages'; None, as the weight fields, where there is nothing to tell.
    """

    name: str
    op: str
    cosine: float
    sqnr_db: float
    weight_range_disparity: float | None
    dead_channels: int | None
    rescaled_channels: int | None
    saturated_fraction: float
    headroom_bits: float | None


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent (None without labels); cosine and SQNR of the logits against float's.

    agreement: percent of images with the float network's argmax. codes_equal: integer and simulated
    inference gave the same code everywhere, in every tensor of every image.
    """

    integer_top1: float | None
    simulated_top1: float | None
    agreement: float
    codes_equal: bool
    cosine: float
    sqnr_db: float
    weight_bytes: int
    stages: tuple[StageReport, ...]
    layers: tuple[LayerReport, ...]


def top1(logits: np.ndarray, labels: Any) -> float:
    """Percent of images whose largest logit, the first among equals, is their label's."""
    return 100.0 * float(np.mean(logits.argmax(axis=1) == np.asarray(labels)))


class _LayerSums(Likeness):
    """A layer's likeness, and how many of its output codes are at an end of their format."""

    def __init__(self) -> None:
        super().__init__()
        self.saturated = self.size = 0

    def add_codes(self, reference: np.ndarray, codes: np.ndarray, qparam: QuantParams) -> None:
        """Take one batch of a tensor."""
        self.add(reference, qparam.dequantize(codes))
        fmt = qparam.format
        # Where the lowest code is real zero, it is ReLU that put values there.
        at_end = (codes == fmt.max) | ((codes == fmt.min) & (qparam.zero_point != fmt.min))
        self.saturated, self.size = self.saturated + int(at_end.sum()), self.size + codes.size


def evaluate(quantized: QuantizedNetwork, images: Any, labels: Any, float_logits: np.ndarray,
             network: Network | None = None) -> Evaluation:
    """Run every image in integers and in simulation, and compare.

    images: floats (N, *input_shape). labels: N integers or None. float_logits: (N, classes).
    network: the float network, folded, for a report on every layer; without it ``layers`` is empty.
    """
    images = np.asarray(images)
    if len(float_logits) != len(images) or (labels is not None and np.shape(labels) != (len(images),)):
        raise ValueError(f"float_logits and labels must be one per image, got {len(float_logits)} and "
                         f"{'no' if labels is None else np.shape(labels)} for {len(images)} images")
    proven = {(bound.layer, bound.stage): bound for bound in quantized.stages}
    seen: dict[tuple[str, str], StageRange] = {}

    def trace(layer: str, stage: str, values: np.ndarray) -> None:
        low, high = int(values.min()), int(values.max())
        before = seen.get((layer, stage), StageRange(stage, proven[layer, stage].format, low, high, layer))
        seen[layer, stage] = before.merge(low, high)

    integer, simulated, codes_equal = [], [], True
    likeness = {layer.output: _LayerSums() for layer in quantized.layers}
    for some in quantized.slices(len(images)):
        x_q = quantized.quantize_images(images[some])
        codes = run_integer_tensors(quantized, x_q, trace)
        for name, twin in simulated_tensors(quantized, x_q):
            codes_equal = codes_equal and np.array_equal(codes[name], twin)
            if name == quantized.output:
                simulated.append(twin)
        integer.append(codes[quantized.output])
        if network is not None:
            for name, x in float64_tensors(network, images[some], some.start):
                if name in likeness:
                    likeness[name].add_codes(x, codes[name], quantized.qparams[name])
    decode = quantized.qparams[quantized.output].dequantize
    logits = decode(np.concatenate(integer))
    twin_logits = decode(np.concatenate(simulated).astype(np.int64))
    stages = tuple(StageReport(seen[place], bound) for place, bound in proven.items())
    return Evaluation(
        integer_top1=None if labels is None else top1(logits, labels),
        simulated_top1=None if labels is None else top1(twin_logits, labels),
        agreement=top1(logits, float_logits.argmax(axis=1)),
        codes_equal=codes_equal,
        cosine=cosine(float_logits, logits),
        sqnr_db=sqnr_db(float_logits, logits),
        weight_bytes=quantized.weight_bytes,
        stages=stages,
        layers=() if network is None else tuple(
            _layer_report(layer, network, likeness[layer.output], stages) for layer in quantized.layers))


def channel_ranges(weight: np.ndarray) -> np.ndarray:
    """max|w| of each output channel."""
    return np.abs(weight.reshape(len(weight), -1)).max(axis=1)


def _layer_report(layer: Layer, network: Network, sums: _LayerSums, stages: tuple[StageReport, ...]) -> LayerReport:
    disparity = dead = rescaled_channels = None
    node = next(node for node in network.nodes if node.name == layer.name)
    if isinstance(node, (Conv, Linear)) and isinstance(layer, QuantizedConv):
        ranges = channel_ranges(node.weight.astype(np.float64))
        live = ranges[ranges >= max(DEAD_CHANNEL * ranges.max(), np.finfo(float).tiny)]
        disparity = float(live.max() / live.min()) if live.size else None
        dead, rescaled_channels = len(ranges) - len(live), len(layer.rescaled_channels)
    headroom = [stage.proven.headroom_bits for stage in stages if stage.proven.layer == layer.name]
    return LayerReport(layer.name, type(node).__name__, sums.cosine, sums.sqnr_db, disparity, dead, rescaled_channels,
                       sums.saturated / sums.size, min(headroom, default=None))
