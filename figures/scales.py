"""Figures of chapter 4 and page easyquant: ranges of activations, and EasyQuant's search."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from matplotlib.figure import Figure

from refquant import load_digits
from refquant.digits.weights import calibration_images
from refquant.easyquant import ScaleSearch, search_paper
from refquant.integers.formats import IntFormat
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float_tensors
from refquant.network.graph import Conv
from refquant.recipes.calibration import calibrate
from refquant.scales.kl import NVIDIA_START, best_bin, tensorrt_divergences
from refquant.scales.thresholds import ESTIMATORS, threshold

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


def draw_kl_constants() -> Figure:
    """Chapter 4: a tensor with a few frequent constants, and why KL clips it so much at 8 bits."""
    network, _, _ = load_digits()
    extremes, histogram = calibrate(fold_batchnorm(network), calibration_images())["dw2_relu"]
    bins = len(histogram.counts)
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(np.arange(1, bins), histogram.counts[1:], color="0.6", linewidth=0.8)
    int8 = IntFormat(8, narrow=True)
    for index, estimator in enumerate(("kl_nvidia", "percentile", "mse")):
        kept = threshold(extremes, histogram, estimator, int8) / histogram.limit
        left.axvline(kept * bins, color=f"C{index}", linestyle=("-", "--", ":")[index],
                     label=f"{estimator} keeps {100 * kept:.0f} %")
    left.set_yscale("log")
    left.set(xlabel="bin of |x|", ylabel="count", title="dw2_relu of the digits CNN, 8 bits")
    left.legend(loc="upper right", fontsize="small")
    counts = np.append(histogram.counts[1], histogram.counts[1:])
    for bits, color in ((8, "C0"), (7, "C4")):
        divergences = tensorrt_divergences(counts, 2 ** (bits - 1), NVIDIA_START)
        least = best_bin(divergences, NVIDIA_START, last=True)
        right.plot(np.arange(NVIDIA_START, bins + 1), divergences, color=color, linewidth=0.8)
        right.plot(least, divergences[least - NVIDIA_START], "o", color=color,
                   label=f"{bits} bits: least at {least} kept bins")
    right.set_yscale("log")
    right.set(xlabel="kept bins", ylabel="KL(P || Q)", title="divergence of every threshold (NVIDIA's search)")
    right.legend(loc="upper right", fontsize="small")
    return figure


@lru_cache
def _search() -> ScaleSearch:
    """One layer of the digits CNN at few bits, from max."""
    network, _, _ = load_digits()
    folded = fold_batchnorm(network)
    inputs = run_float_tensors(folded, calibration_images())[TENSOR]
    node = next(node for node in folded.nodes if node.name == LAYER)
    assert isinstance(node, Conv)
    return search_paper(inputs, node.weight, bits=BITS, **node.geometry._asdict())


def draw_candidates() -> Figure:
    """Page easyquant: the cosine of every candidate scale in the first round."""
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
    """Page easyquant: the cosine after every half-step."""
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
