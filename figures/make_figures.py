"""Draw every figure of README.md and tutorial.md: ``python -m figures [NAME ...]``.

Beside the pictures, ``numbers.json`` keeps what they draw; the tests compute it again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import data_way
import identification
import kills
import number_lines
import numbers_drawn
import numpy as np
import pwlq
import scales
import shifts
import winograd
from matplotlib.figure import Figure

from refquant import load_digits, max_scale, quantize, quantize_network, requantize
from refquant.commands.demo import run_demo
from refquant.commands.report import draw_accuracy, draw_headroom, png, write_atomically
from refquant.convolution.geometry import taps
from refquant.digits.weights import calibration_images
from refquant.integers.accumulation import dot_int16, product_range, safe_products_per_lane
from refquant.integers.dialects import DIALECTS
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.rounding import RULES, round_values
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.graph import Conv
from refquant.network.integer_forward import run_integer_tensors
from refquant.scales.linear import dequantize

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
    axes.text(0, 0, "adding 1 is one step\nclockwise", ha="center", va="center")
    # The step that wraps, outside the circle, from 7 to -8.
    start, end = ((1.42 * np.sin(2 * np.pi * k / 16), 1.42 * np.cos(2 * np.pi * k / 16)) for k in (7, 8))
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "C3", "linewidth": 2,
                                                    "connectionstyle": "arc3,rad=-0.2"})
    axes.text(0.35, -1.62, "7 + 1 = -8", ha="center", va="center", color="C3")
    axes.set(xlim=(-1.35, 1.35), ylim=(-1.75, 1.3), aspect="equal", title="int4: sixteen codes, two's complement")
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
    for limit in (fmt.min / scale, fmt.max / scale):
        top.axvline(limit, color="C3", linestyle="--", linewidth=1)
    top.text(fmt.max / scale, -2.0, "clips beyond\n±q_max/S", ha="center", color="C3",
             bbox={"facecolor": "white", "edgecolor": "none"})
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    return figure


def draw_channels() -> Figure:
    """Chapter 5: the largest code of each channel, under the layer's scale and under its own.

    The layer is dw2 of the digits network with row c times 2^-(c mod 8). With 2^(c mod 8) times the columns that read
    it, the network would compute the same.
    """
    network, _, _ = load_digits()
    dw2 = next(node for node in fold_batchnorm(network).nodes if isinstance(node, Conv) and node.name == "dw2")
    weight = np.ldexp(dw2.weight, -(np.arange(len(dw2.weight)) % 8).reshape(-1, 1, 1, 1))
    int8, reach = IntFormat(8, narrow=True), np.abs(weight).max(axis=(1, 2, 3))
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for offset, axis, color, label in ((-0.2, None, "C0", "one scale for the layer"),
                                       (0.2, 0, "C1", "a scale for each channel")):
        largest = np.abs(quantize(weight, max_scale(weight, int8, axis), int8, axis=axis)).max(axis=(1, 2, 3))
        axes.bar(np.arange(len(reach)) + offset, largest[np.argsort(-reach)], 0.4, color=color, label=label)
    axes.set_yscale("log", base=2)
    axes.set_yticks([1, 2, 4, 8, 16, 32, 64, 127], ["1", "2", "4", "8", "16", "32", "64", "127"])
    axes.set(xlabel="output channel, from the largest weights to the smallest",
             ylabel="largest |weight code| at 8 bits",
             title=f"dw2, rescaled: the largest channel {reach.max() / reach.min():.0f} times the smallest")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def draw_lanes() -> Figure:
    """Page int7-lanes: what an int16 lane holds after 1 to 9 products, at worst and in a real layer."""
    figure = Figure(figsize=(7.6, 5.4), layout="constrained")
    axes = figure.subplots()
    products = np.arange(1, 10)
    for fmt, color in ((IntFormat(7, narrow=True), "C0"), (IntFormat(7), "C1")):
        low, high = product_range(fmt, fmt)
        label = f"worst case, {fmt.min}..{fmt.max}: {safe_products_per_lane(fmt, fmt)} products fit"
        axes.plot(products, products * high, "o-", color=color, label=label)
        axes.plot(products, products * low, "o-", color=color)
    low, high = _observed_lanes(len(products))
    axes.fill_between(products, low, high, color="0.8", label="seen in layer res_a of the digits CNN")
    for limit in (32767, -32768):
        axes.axhline(limit, color="C3", linestyle="--")
        axes.text(1, limit, f"int16: {limit}", color="C3", va="bottom" if limit > 0 else "top")
    axes.set(xlabel="products added in one int16 lane (SMLAL)", ylabel="partial sum", xticks=products)
    inset = axes.inset_axes((0.62, 0.575, 0.36, 0.17))
    inset.axhline(32767, color="C3", linestyle="--")
    inset.plot(8, 8 * 64 * 64, "o", color="C1")
    inset.text(8.08, 32768, "8 · (-64) · (-64) = 32768", fontsize="small", va="center")
    inset.text(8.9, 32766.9, "misses by one", fontsize="small", va="top", ha="right", color="C3")
    inset.set(xlim=(7.9, 9.0), ylim=(32766, 32769), xticks=[8])
    inset.set_yticks([32766, 32767, 32768], ["32766", "32767", "32768"])
    inset.tick_params(labelsize="x-small")
    figure.legend(loc="outside lower center", fontsize="small", ncols=2)
    return figure


def _observed_lanes(count: int) -> tuple[list[int], list[int]]:
    """Extremes of the lanes after each of ``count`` products, over the layer's first nine steps."""
    network, images, _ = load_digits()
    quantized = quantize_network(network, calibration_images(), "channelwise-int8", weight_bits=7,
                                 activation_bits=7, activations="signed")
    layer = next(layer for layer in quantized.layers if layer.name == "res_a")
    codes = run_integer_tensors(quantized, quantized.quantize_images(images[:20]))[layer.inputs[0]]
    term, fmt = layer.terms[0], IntFormat(7, narrow=True)
    seen = np.stack([view for _, view in taps(codes, (3, 3), layer.geometry)], axis=2)
    rows = seen.reshape(len(codes), -1, seen.shape[3] * seen.shape[4]).swapaxes(1, 2).reshape(-1, 1, 288)
    weight = term.weight_q.reshape(32, 288)
    lanes: list[np.ndarray] = []
    dot_int16(rows[:, :, :8 * count], weight[:, :8 * count], fmt, fmt, count, "wrap",
              trace=lambda stage, fmt, exact, kept: lanes.extend([exact] if stage == "SMLAL" else []))
    return [int(x.min()) for x in lanes], [int(x.max()) for x in lanes]


def draw_dialects() -> Figure:
    """Chapter 6: the nine dialects over accumulators around the ties of M = 1/4, zero point 1."""
    acc = np.arange(-7, 8)
    multiplier, fmt = Multiplier.from_real(0.25), IntFormat(8)
    codes = np.array([requantize(acc, multiplier, fmt, name, zero_point=1) - 1 for name in DIALECTS])
    exact = acc / 4
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    axes = figure.subplots()
    # Down or up from the exact value: blue or red; exact values stay grey.
    axes.imshow(np.sign(codes - exact), cmap="coolwarm", vmin=-3, vmax=3, aspect="auto")
    for (row, column), code in np.ndenumerate(codes):
        axes.text(column, row, str(code), ha="center", va="center",
                  weight="bold" if exact[column] % 1 == 0.5 else "normal")
    axes.set_yticks(range(len(DIALECTS)), DIALECTS)
    axes.set_xticks(range(len(acc)), [f"{v:g}" for v in exact])
    for column in np.flatnonzero(exact % 1 == 0.5):
        axes.get_xticklabels()[column].set_weight("bold")
    axes.set(xlabel="exact value acc / 4 (ties bold)", title="Nine dialects: rounded up (red) or down (blue)")
    return figure


def draw_rounding() -> Figure:
    """Chapter 2: every rule as a staircase, ties marked."""
    figure = Figure(figsize=(10.0, 4.6), layout="constrained")
    x = np.linspace(-2.6, 2.6, 2601)
    ties = np.arange(-2.5, 3.0)
    for axes, rule in zip(figure.subplots(2, 5, sharex=True, sharey=True).flat, RULES):
        axes.plot(x, x, color="0.8")
        axes.plot(x, round_values(x, rule), color="C0", linewidth=1)
        axes.plot(ties, round_values(ties, rule), "o", color="C3", markersize=4)
        axes.set(title=rule)
        axes.grid(alpha=0.3)
    figure.supxlabel("x (dots: ties)")
    figure.supylabel("rounded")
    return figure


def _demo_figures() -> dict[str, Figure]:
    result = run_demo(everything=True)
    return {"accuracy": draw_accuracy(result), "headroom": draw_headroom(result)}


FIGURES: dict[str, Callable[[], Figure]] = {
    "formats": draw_formats, "rounding": draw_rounding, "dialects": draw_dialects, "lanes": draw_lanes,
    "data_way": data_way.draw_data_way, **number_lines.FIGURES,
    "identification": identification.draw_identification,
    "kills": kills.draw_kills,
    "quantization_error": draw_error, "channels": draw_channels, "thresholds": scales.draw_thresholds,
    "kl_constants": scales.draw_kl_constants,
    "easyquant_candidates": scales.draw_candidates, "easyquant_half_steps": scales.draw_half_steps,
    "shift_ranges": shifts.draw_shift_ranges, "shift_bits": shifts.draw_shift_bits,
    "pwlq_levels": pwlq.draw_levels, "pwlq_error": pwlq.draw_error, "pwlq_breakpoints": pwlq.draw_breakpoints,
    "winograd_ranges": winograd.draw_winograd_ranges, "winograd_tiles": winograd.draw_winograd_tiles}
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
    numbers_drawn.keep({name: numbers_drawn.numbers_of(figure) for name, figure in drawn.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
