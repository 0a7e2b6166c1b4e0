"""Figures of page winograd: integer Winograd's ranges, and what a larger tile saves and costs."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from refquant import load_digits, quantize_network
from refquant.commands.kernel_check import run_winograd
from refquant.digits.weights import calibration_images
from refquant.integers.formats import IntFormat, smallest_format
from refquant.winograd.bounds import winograd_bounds
from refquant.winograd.transforms import cook_toom

LAYER, BITS, CHANNELS, IMAGES = "res_a", 7, 32, 100


def draw_winograd_ranges() -> Figure:
    """One real layer through F(2,3) and F(4,3): each stage as seen, proven for its weights, and for any weights."""
    network, images, _ = load_digits()
    quantized = quantize_network(network, calibration_images(), "channelwise-int8", weight_bits=BITS,
                                 activation_bits=BITS, activations="signed")
    codes = IntFormat(BITS, narrow=True)
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    for axes, tile in zip(figure.subplots(1, 2, sharex=True, sharey=True), ((2, 3), (4, 3))):
        reports = run_winograd(quantized, images[:IMAGES], tile)
        stages = [report.stage for report in reports if report.layer == LAYER]
        worst = {bound.stage: bound for bound in winograd_bounds(tile, codes, codes, CHANNELS)}
        places = np.arange(len(stages))
        axes.barh(places, [worst[r.proven.stage].bits for r in stages], color="0.85",
                  label=f"proven, any {codes} weights")
        axes.barh(places, [r.proven.bits for r in stages], height=0.6, color="0.6", label="proven, these weights")
        seen = [smallest_format(r.observed.min, r.observed.max).bits for r in stages]
        axes.barh(places, seen, height=0.3, color="C0", label=f"seen on {IMAGES} images")
        for limit in (16, 32):
            axes.axvline(limit, color="C3", linestyle="--", linewidth=1)
            axes.text(limit, 1.01, f"int{limit}", color="C3", ha="center", fontsize="small",
                      transform=axes.get_xaxis_transform())
        axes.set_yticks(places, [r.proven.stage for r in stages])
        axes.set_title(f"{LAYER}, {CHANNELS} channels, by F({tile[0]},{tile[1]})", pad=16)
        axes.set_xlabel("bits needed")
    figure.axes[0].invert_yaxis()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def draw_winograd_tiles() -> Figure:
    """Multiplications per output and the bits of five stages, F(2,3) to F(6,3), rows of G scaled least."""
    sizes = np.arange(2, 7)
    codes = IntFormat(BITS, narrow=True)
    products = (sizes + 2) ** 2 / sizes**2
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(sizes, products, "o-", color="C0", label="F(m, 3)")
    left.axhline(9, color="0.4", linestyle="--", linewidth=1)
    left.text(sizes[-1], 9, "direct: 9", color="0.4", ha="right", va="bottom")
    left.set(xlabel="outputs m of F(m, 3), in each direction", xticks=sizes, ylim=(0, 10),
             ylabel="multiplications per output and channel", title="what a larger tile saves")
    for stage, style in (("V", "^:"), ("U", "v:"), ("product", "x--"), ("sum", "s-"), ("output_scaled", "D-")):
        bits = [next(b.bits for b in winograd_bounds(cook_toom(int(m), 3), codes, codes, CHANNELS)
                     if b.stage == stage) for m in sizes]
        right.plot(sizes, bits, style, label=stage)
    right.axhline(32, color="C3", linestyle="--", linewidth=1)
    right.text(sizes[0], 32, "int32", color="C3", va="bottom")
    right.set(xlabel="outputs m of F(m, 3), in each direction", xticks=sizes, ylabel="bits needed",
              title=f"what it costs: {codes}, {CHANNELS} channels")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), title="bits of", loc="outside right center")
    return figure
