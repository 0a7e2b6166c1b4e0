"""Draw every figure of README.md and tutorial.md: ``python figures/make_figures.py [NAME ...]``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from refquant import load_digits, max_scale, quantize
from refquant.demo import run_demo
from refquant.formats import IntFormat
from refquant.linear import dequantize
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.graph import Conv
from refquant.report import draw_accuracy, draw_headroom, png, write_atomically

HERE = Path(__file__).parent


def draw_formats() -> Figure:
    """Chapter 1: the codes of a 4-bit register on a circle."""
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    fmt = IntFormat(4)
    for bits in range(16):
        code = bits if bits <= fmt.max else bits - 16
        angle = np.pi / 2 - 2 * np.pi * bits / 16
        x, y = np.cos(angle), np.sin(angle)
        axes.plot(x, y, "o", color="C0" if code >= 0 else "C3")
        axes.text(1.15 * x, 1.15 * y, str(code), ha="center", va="center")
        axes.text(0.8 * x, 0.8 * y, f"{bits:04b}", ha="center", va="center", fontsize=7, color="0.4")
    axes.text(0, 0, "adding 1 is one step\nclockwise:\n7 + 1 = -8", ha="center", va="center")
    axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", title="int4: sixteen codes, two's complement")
    axes.axis("off")
    return figure


def draw_error() -> Figure:
    """Chapter 3: the staircase Q(x, S)/S and its sawtooth error, with clipping at both ends."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    fmt, scale = IntFormat(3, narrow=True), 2.0
    x = np.linspace(-2.2, 2.2, 2201)
    restored = dequantize(quantize(x, scale, fmt), scale)
    top.plot(x, x, color="0.7", label="x")
    top.plot(x, restored, label="Q(x, S) / S")
    top.set(title=f"{fmt}, S = {scale:g}", ylabel="value")
    top.legend()
    bottom.plot(x, restored - x, color="C3")
    for sign in (-1, 1):
        bottom.axhline(sign / (2 * scale), color="0.4", linestyle="--", linewidth=1)
    bottom.set(xlabel="x", ylabel="error")
    bottom.text(0, 0.3, "±1/(2S)", ha="center", color="0.3")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    return figure


def draw_channels() -> Figure:
    """Chapter 5: weight ranges per output channel, and how many bits of the layer's grid each one uses."""
    network, _, _ = load_digits()
    conv = next(node for node in fold_batchnorm(network).nodes if isinstance(node, Conv) and node.geometry.groups > 1)
    reach = np.abs(conv.weight.reshape(len(conv.weight), -1)).max(axis=1)
    order = np.argsort(-reach, kind="stable")
    int8 = IntFormat(8, narrow=True)
    codes = np.abs(quantize(conv.weight, max_scale(conv.weight, int8), int8))
    largest = codes.reshape(len(codes), -1).max(axis=1)
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(reach))
    axes.bar(places, largest[order], color="C0", label="one scale for the layer")
    axes.axhline(127, color="C3", linestyle="--", label="a scale of its own: every channel reaches 127")
    axes.set(xlabel="output channel, sorted", ylabel="largest |weight code| at 8 bits",
             title=f"{conv.name}: depthwise weights after folding batch norm")
    axes.legend(loc="center right")
    return figure


def _demo_figures() -> dict[str, Figure]:
    result = run_demo(everything=True)
    return {"accuracy": draw_accuracy(result), "headroom": draw_headroom(result)}


FIGURES: dict[str, Callable[[], Figure]] = {
    "formats": draw_formats, "quantization_error": draw_error, "channels": draw_channels}
DEMO_FIGURES = ("accuracy", "headroom")


def main(names: list[str]) -> None:
    """Draw the named figures, or all of them."""
    unknown = sorted(set(names) - set(FIGURES) - set(DEMO_FIGURES))
    if unknown:
        sys.exit(f"figures are {', '.join([*FIGURES, *DEMO_FIGURES])}, got {', '.join(unknown)}")
    wanted = set(names or [*FIGURES, *DEMO_FIGURES])
    drawn = {name: draw() for name, draw in FIGURES.items() if name in wanted}
    if wanted & set(DEMO_FIGURES):
        drawn |= {name: figure for name, figure in _demo_figures().items() if name in wanted}
    for name, figure in drawn.items():
        write_atomically(HERE / f"{name}.png", png(figure))
        print(f"figures/{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
