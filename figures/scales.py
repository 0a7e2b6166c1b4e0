"""Figures of chapters 4 and 6: ranges of activations, and EasyQuant's search."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from matplotlib.figure import Figure

from refquant import load_digits
from refquant.calibration import calibrate
from refquant.digits.weights import calibration_images
from refquant.easyquant import ScaleSearch, search_layer
from refquant.formats import IntFormat
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float_tensors
from refquant.network.graph import Conv
from refquant.ranges import ESTIMATORS, threshold

LAYER, TENSOR, BITS = "res_a", "pw3_relu", 4


def draw_thresholds() -> Figure:
    """Chapter 4: one activation tensor's histogram and every estimator's threshold."""
    network, _, _ = load_digits()
    extremes, histogram = calibrate(fold_batchnorm(network), calibration_images())[TENSOR]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    bars = histogram.nonzero_counts.reshape(-1, 16).sum(axis=1)
    axes.bar(np.arange(len(bars)) * histogram.limit / len(bars), bars, histogram.limit / len(bars), align="edge",
             color="0.8", label="values above 0")
    for index, estimator in enumerate(ESTIMATORS):
        limit = threshold(extremes, histogram, estimator, IntFormat(BITS, narrow=True))
        axes.axvline(limit, color=f"C{index}", linestyle=("-", "--", ":")[index % 3],
                     label=f"{estimator}: {limit:.2f}")
    axes.set_yscale("log")
    axes.set(xlabel="activation", ylabel="count",
             title=f"{TENSOR} of the digits CNN, {BITS} bits: where to clip")
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


@lru_cache
def _search() -> ScaleSearch:
    """One layer of the digits CNN at few bits, from max."""
    network, _, _ = load_digits()
    folded = fold_batchnorm(network)
    inputs = run_float_tensors(folded, calibration_images())[TENSOR]
    node = next(node for node in folded.nodes if node.name == LAYER)
    assert isinstance(node, Conv)
    return search_layer(inputs, node.weight, bits=BITS, **node.geometry._asdict())


def draw_candidates() -> Figure:
    """Chapter 6: the cosine of every candidate scale in the first round."""
    found = _search()
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    for axes, step in zip(figure.subplots(1, 2, sharey=True), found.history[:2]):
        order = np.argsort(step.candidates)
        ratio = step.candidates / step.candidates[0]
        axes.plot(ratio[order], step.cosines[order], ".-", markersize=3)
        axes.plot(1, step.cosines[0], "s", color="C1", label="initial: max")
        axes.plot(ratio[step.chosen], step.cosines[step.chosen], "o", color="C3", label="chosen")
        axes.set(xlabel="scale / initial scale", title=f"{step.operand} scale")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_ylabel(f"cosine of the output, {BITS} bits")
    return figure


def draw_half_steps() -> Figure:
    """Chapter 6: the cosine after every half-step."""
    found = _search()
    cosines = [found.history[0].cosines[0], *(step.cosines[step.chosen] for step in found.history)]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(cosines)), cosines, "o-")
    labels = ["max", *(("S_w" if step.operand == "weight" else "S_a") for step in found.history)]
    axes.set_xticks(range(len(cosines)), labels)
    axes.set(xlabel="half-step", ylabel="cosine of the output",
             title=f"{LAYER} of the digits CNN, {BITS} bits: never falls")
    axes.grid(alpha=0.3)
    return figure
