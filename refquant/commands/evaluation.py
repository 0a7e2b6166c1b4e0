"""The evaluation of a quantized network: accuracy, similarity, code equality, and the ranges of its sums."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from refquant.integers.checks import integer
from refquant.integers.stages import StageRange
from refquant.network.float_forward import check_images, float64_tensors
from refquant.network.graph import Conv, Linear, Network
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.program import Layer, QuantizedConv
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import QuantParams
from refquant.network.simulated_forward import simulated_tensors
from refquant.scales.linear import DEAD_CHANNEL, channel_reach
from refquant.scales.metrics import Likeness, cosine, sqnr_db
from refquant.workers import Progress, in_order


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
    saturated_fraction: of the output codes, those at an end of the format that does not stand for real zero.
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


class OutputReport(NamedTuple):
    """How far one of the network's outputs is from the float network's. shape: without the batch."""

    name: str
    shape: tuple[int, ...]
    cosine: float
    sqnr_db: float


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent (None without labels); cosine and SQNR of the first output against float's.

    agreement: percent of images with the float network's argmax; None unless that output is one row of logits.
    codes_equal: integer and simulated
    inference gave the same code everywhere, in every tensor of the first ``codes_equal_images`` images.
    simulated_top1: None also where some images were not simulated.
    """

    float_top1: float | None
    integer_top1: float | None
    simulated_top1: float | None
    agreement: float | None
    codes_equal: bool
    codes_equal_images: int
    cosine: float
    sqnr_db: float
    weight_bytes: int
    stages: tuple[StageReport, ...]
    layers: tuple[LayerReport, ...]
    outputs: tuple[OutputReport, ...]


def is_row(shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape is one row of numbers, whatever axes of one element stand around it."""
    return sum(size > 1 for size in shape) <= 1


def top1(logits: np.ndarray, labels: Any) -> float:
    """Percent of images whose largest logit, the first among equals, is their label's."""
    return 100.0 * float(np.mean(logits.reshape(len(logits), -1).argmax(axis=1) == np.asarray(labels)))


class _LayerSums(Likeness):
    """A layer's similarity, and how many of its output codes are at an end of their format."""

    def __init__(self) -> None:
        super().__init__()
        self.saturated = self.size = 0

    def add_codes(self, reference: np.ndarray, codes: np.ndarray, qparam: QuantParams) -> None:
        """Take one batch of a tensor."""
        self.add(reference, qparam.dequantize(codes))
        fmt = qparam.format
        # An end that stands for real zero may hold zeros, as after ReLU, which were not clamped.
        at_end = ((codes == fmt.min) | (codes == fmt.max)) & (codes != qparam.zero_point)
        self.saturated, self.size = self.saturated + int(at_end.sum()), self.size + codes.size

    def merge(self, other: Likeness) -> None:
        """Add the batches of another one."""
        super().merge(other)
        assert isinstance(other, _LayerSums)
        self.saturated, self.size = self.saturated + other.saturated, self.size + other.size


class _Seen(NamedTuple):
    """The results of one slice of the images: codes, each stage's least and greatest sum, each layer's similarity.

    simulated: the output's codes by simulation, and whether all codes were equal; None without simulation.
    """

    codes: np.ndarray
    simulated: tuple[np.ndarray, bool] | None
    stages: dict[tuple[str, str], tuple[int, int]]
    layers: dict[str, _LayerSums]


def evaluate(quantized: QuantizedNetwork, images: Any, labels: Any, network: Network, *,
             simulated_images: int | None = None, first: int = 0, executor: Executor | None = None,
             progress: Progress | None = None) -> Evaluation:
    """``evaluate_together`` of one quantized network."""
    return evaluate_together([quantized], images, labels, network, simulated_images=simulated_images, first=first,
                             executor=executor, progress=progress)[0]


def evaluate_together(quantized: Sequence[QuantizedNetwork], images: Any, labels: Any, network: Network, *,
                      simulated_images: int | None = None, first: int = 0, executor: Executor | None = None,
                      progress: Progress | None = None) -> list[Evaluation]:
    """Run images in floats, and through each quantized network in integers and in simulation, and compare.

    quantized: at least one, all from ``network``: it runs once for all of them.
    images: floats (N, *input_shape). labels: N integers or None. network: the float network, folded.
    simulated_images: how many, from the first on, are simulated, 1 to N; by default all. first: the number of the
    first image, for messages. executor: where slices of the images are run; the result is the same. progress: called
    after each slice. ValueError for other values, and for a float tensor that leaves its range.
    """
    images = check_images(images, network.input_shape)
    if labels is not None and np.shape(labels) != (len(images),):
        raise ValueError(f"labels must be one per image, got {np.shape(labels)} for {len(images)} images")
    simulated = integer(len(images) if simulated_images is None else simulated_images, "simulated images", 1,
                        len(images))
    slices = quantized[0].slices
    parts = [*slices(simulated), *(slice(simulated + some.start, simulated + some.stop)
                                   for some in slices(len(images) - simulated))]
    tasks = ((f"evaluation images {first + some.start}..{first + some.stop - 1}",
              (images[some], first + some.start, some.stop <= simulated)) for some in parts)
    found = [_Sums(program) for program in quantized]
    float_logits: list[np.ndarray] = []
    for some, (logits, seen) in zip(parts, in_order(_run_slice, (quantized, network), tasks, executor)):
        float_logits.append(logits)
        for sums, one in zip(found, seen):
            sums.add(one)
        if progress and some.stop <= simulated:
            progress("inference and simulation", f"{some.stop} images", some.stop / simulated)
        elif progress:
            progress("inference", f"{some.stop} images", (some.stop - simulated) / (len(images) - simulated))
    return [sums.evaluation(np.concatenate(float_logits), labels, network, simulated) for sums in found]


class _Sums:
    """The results of all slices of the images for one quantized network."""

    def __init__(self, quantized: QuantizedNetwork) -> None:
        self.quantized = quantized
        self.proven = {(bound.layer, bound.stage): bound for bound in quantized.stages}
        self.observed: dict[tuple[str, str], StageRange] = {}
        self.layers = {layer.output: _LayerSums() for layer in quantized.layers}
        self.codes: list[np.ndarray] = []
        self.simulated: list[tuple[np.ndarray, bool]] = []

    def add(self, seen: _Seen) -> None:
        for place, (low, high) in seen.stages.items():
            start = self.observed.get(place, replace(self.proven[place], min=low, max=high))
            self.observed[place] = start.merge(low, high)
        for name, sums in seen.layers.items():
            self.layers[name].merge(sums)
        self.codes.append(seen.codes)
        if seen.simulated:
            self.simulated.append(seen.simulated)

    def evaluation(self, float_logits: np.ndarray, labels: Any, network: Network, simulated: int) -> Evaluation:
        decode = self.quantized.qparams[self.quantized.output].dequantize
        logits = decode(np.concatenate(self.codes))
        accuracy = partial(top1, labels=labels)
        stages = tuple(StageReport(self.observed[place], bound) for place, bound in self.proven.items())
        return Evaluation(
            float_top1=None if labels is None else accuracy(float_logits),
            integer_top1=None if labels is None else accuracy(logits),
            simulated_top1=None if labels is None or simulated < len(logits) else
            accuracy(decode(np.concatenate([codes for codes, _ in self.simulated]).astype(np.int64))),
            agreement=top1(logits, float_logits.reshape(len(logits), -1).argmax(axis=1)) if is_row(
                logits.shape[1:]) else None,
            codes_equal=all(equal for _, equal in self.simulated),
            codes_equal_images=simulated,
            cosine=cosine(float_logits, logits),
            sqnr_db=sqnr_db(float_logits, logits),
            weight_bytes=self.quantized.weight_bytes,
            stages=stages,
            layers=tuple(_layer_report(layer, network, self.layers[layer.output], stages)
                         for layer in self.quantized.layers),
            outputs=tuple(OutputReport(name, self.quantized.shapes[name], self.layers[name].cosine,
                                       self.layers[name].sqnr_db)
                          for name in self.quantized.outputs if name in self.layers))


def _run_slice(shared: tuple[Sequence[QuantizedNetwork], Network], task: tuple[np.ndarray, int, bool]
               ) -> tuple[np.ndarray, list[_Seen]]:
    (programs, network), (images, start, simulate) = shared, task
    codes, seen = zip(*(_run_integers(program, images, simulate) for program in programs))
    for name, x in float64_tensors(network, images, start, "evaluation image"):
        for program, tensors, one in zip(programs, codes, seen):
            if name in one.layers:
                one.layers[name].add_codes(x, tensors[name], program.qparams[name])
        if name == network.output:
            logits = x
    return logits, list(seen)


def _run_integers(program: QuantizedNetwork, images: np.ndarray, simulate: bool
                  ) -> tuple[dict[str, np.ndarray], _Seen]:
    """Every tensor's codes, and what is kept of them; the layers' similarity is still to come."""
    stages: dict[tuple[str, str], tuple[int, int]] = {}

    def trace(layer: str, stage: str, values: np.ndarray) -> None:
        stages[layer, stage] = int(values.min()), int(values.max())

    x_q = program.quantize_images(images)
    codes, equal, twin = run_integer_tensors(program, x_q, trace), True, None
    for name, simulated in simulated_tensors(program, x_q) if simulate else ():
        equal = equal and np.array_equal(codes[name], simulated)
        if name == program.output:
            twin = simulated
    return codes, _Seen(codes[program.output], None if twin is None else (twin, equal), stages,
                        {layer.output: _LayerSums() for layer in program.layers})


def _layer_report(layer: Layer, network: Network, sums: _LayerSums, stages: tuple[StageReport, ...]) -> LayerReport:
    disparity = dead = rescaled_channels = None
    node = next(node for node in network.nodes if node.name == layer.name)
    if isinstance(node, (Conv, Linear)) and isinstance(layer, QuantizedConv):
        ranges = channel_reach(node.weight.astype(np.float64))
        live = ranges[ranges >= max(DEAD_CHANNEL * ranges.max(), np.finfo(float).tiny)]
        disparity = float(live.max() / live.min()) if live.size else None
        dead, rescaled_channels = len(ranges) - len(live), len(layer.rescaled_channels)
    headroom = [stage.proven.headroom_bits for stage in stages if stage.proven.layer == layer.name]
    return LayerReport(layer.name, type(node).__name__, sums.cosine, sums.sqnr_db, disparity, dead, rescaled_channels,
                       sums.saturated / sums.size, min(headroom, default=None))
