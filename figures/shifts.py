"""Figures of page shift-scaler: what shifts do to a layer's channels, and how many bits of shift a network needs."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from refquant import cosine, load_digits, quantize_network, run_float
from refquant.digits.disparity import with_disparity
from refquant.digits.weights import calibration_images
from refquant.shift_equalizer import equalizing_shifts


def draw_shift_ranges() -> Figure:
    """Every channel's largest weight in one layer, before and after its shift."""
    network, _, _ = load_digits()
    node = next(node for node in with_disparity(network).nodes if node.name == "dw3")
    reach = np.abs(node.weight.reshape(len(node.weight), -1)).max(axis=1)
    shifts = equalizing_shifts(node.weight)
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(reach))
    axes.plot(places, reach, "o", color="C3", label="max |w|")
    axes.plot(places, np.ldexp(reach, shifts), "o", color="C0", label="max |w| · 2^k, k <= 15")
    axes.axhline(reach.max(), color="0.4", linestyle="--", label="the layer's range")
    axes.axhline(reach.max() / 2, color="0.4", linestyle=":", label="half of it")
    axes.set_yscale("log")
    axes.set(xlabel="output channel (the last one is constructed)", ylabel="largest weight",
             title=f"digits-disparity, {node.name}: shifts from {shifts.min()} to {shifts.max()}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def draw_shift_bits() -> Figure:
    """Accuracy and cosine of digits-disparity against the bits of each channel's shift."""
    network, images, labels = load_digits()
    network = with_disparity(network)
    exact, bits = run_float(network, images), range(6)
    found = [quantize_network(network, calibration_images(), granularity="shift", shift_bits=b).run(images)
             for b in bits]
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(bits, [100 * (logits.argmax(axis=1) == labels).mean() for logits in found], "o-")
    left.axhline(100 * (exact.argmax(axis=1) == labels).mean(), color="0.4", linestyle="--", label="float")
    left.set(xlabel="bits of each shift", ylabel="top-1, integers (%)", ylim=(0, 105))
    left.legend(loc="lower right")
    right.plot(bits, [cosine(exact, logits) for logits in found], "o-")
    right.set(xlabel="bits of each shift", ylabel="cosine of the logits with float's", ylim=(-0.1, 1.05))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle("digits-disparity, W8A8, shifts by floor")
    return figure
