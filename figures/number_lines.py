"""Figures of chapters 1 to 6: an idea on a number line, and the array of multiply-accumulate units."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from refquant import load_digits, requantize
from refquant.digits.weights import calibration_images
from refquant.integers.formats import IntFormat, saturate, wrap
from refquant.integers.multiplier import Multiplier
from refquant.integers.rounding import round_values
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float_tensors
from refquant.scales.linear import dequantize, max_scale, quantize


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "-", bend: float = 0.0,
          color: str = "C3") -> None:
    """From one point to the other, curved by ``bend``."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": color, "linestyle": style,
                                              "linewidth": 1.4, "connectionstyle": f"arc3,rad={bend}"})


def line(axes: Axes, height: float, levels: np.ndarray, text: str, low: float, high: float) -> None:
    """A number line with a tick for each level, and its name on the left."""
    axes.plot([low, high], [height, height], color="0.6", linewidth=0.8)
    axes.plot(levels, np.full(len(levels), height), "|", color="k", markersize=13, markeredgewidth=1.6)
    axes.text(low - 0.02 * (high - low), height, text, ha="right", va="center", fontsize=9)


def bare(axes: Axes) -> None:
    """Without frame and ticks of y."""
    axes.set_yticks([])
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)


def draw_formats() -> Figure:
    """Chapter 1: 5 + 6 in four bits, wrapped and saturated."""
    fmt, total = IntFormat(4), 11
    figure = Figure(figsize=(7.6, 2.3), layout="constrained")
    axes = figure.subplots()
    codes = np.arange(fmt.min, fmt.max + 1)
    axes.plot([-8.5, 12.5], [0, 0], color="0.6", linewidth=0.8)
    axes.plot(codes, np.zeros(16), "o", color="C0", label="codes of int4")
    axes.plot(np.arange(8, 13), np.zeros(5), "o", color="C0", fillstyle="none", label="no codes")
    for code in range(-8, 13):
        axes.text(code, -0.28, str(code), ha="center", va="center", fontsize=8)
    wrapped, saturated = (int(np.asarray(rule(total, fmt))) for rule in (wrap, saturate))
    arrow(axes, (total, 0.12), (wrapped, 0.12), bend=0.22)
    arrow(axes, (total, 0.12), (saturated, 0.12), "--", 0.4, "k")
    axes.text(2.4, 1.55, f"wrap: 5 + 6 = {total} becomes {wrapped}", color="C3", ha="center")
    axes.text(9.2, 0.95, f"saturate: {saturated}", ha="center")
    axes.set(xlim=(-9, 13), ylim=(-0.6, 1.9))
    axes.axis("off")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def draw_rounding() -> Figure:
    """Chapter 2: where three rules send ties."""
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    axes = figure.subplots()
    ties = np.arange(-2.5, 3.0)
    for height, rule in ((2, "half_up"), (1, "half_away"), (0, "half_even")):
        line(axes, height, np.arange(-3, 4), rule, -3.2, 3.2)
        ends = round_values(ties, rule)
        axes.plot(ties, np.full(len(ties), height), "o", color="C3", markersize=5)
        for tie, end in zip(ties, ends):
            arrow(axes, (tie, height + 0.07), (end, height + 0.13), bend=-0.5 if end > tie else 0.5)
    axes.set(xlim=(-4.4, 3.3), ylim=(-0.3, 2.6), xticks=range(-3, 4), xlabel="value (dots: ties)")
    bare(axes)
    return figure


def draw_codes() -> Figure:
    """Chapter 3: reals to 3-bit codes under S = 2."""
    fmt, scale = IntFormat(3, narrow=True), 2.0
    codes = np.arange(fmt.min, fmt.max + 1)
    reals = np.array([-1.9, -0.9, -0.2, 0.35, 0.75, 1.2, 2.1])
    figure = Figure(figsize=(7.6, 2.4), layout="constrained")
    axes = figure.subplots()
    line(axes, 0, codes / scale, "levels q/S", -2.3, 2.3)
    line(axes, 1, np.array([]), "reals x", -2.3, 2.3)
    found = quantize(reals, scale, fmt)
    axes.plot(reals, np.ones(len(reals)), "o", color="C0")
    for real, code in zip(reals, found):
        clipped = abs(real) > (abs(int(code)) + 0.5) / scale
        arrow(axes, (real, 0.92), (code / scale, 0.13), "--" if clipped else "-", color="C3" if clipped else "k")
    for code in codes:
        axes.text(code / scale, -0.32, f"q = {code}", ha="center", va="center", fontsize=9)
    axes.text(0.75, 1.2, "0.75·2 = 1.5, a tie", ha="center", fontsize=8, color="0.3")
    axes.text(-2.3, 0.5, "clipped", color="C3", fontsize=8)
    axes.set(xlim=(-3.1, 2.4), ylim=(-0.6, 1.45), xticks=np.arange(-2, 2.5, 0.5), xlabel="real (S = 2)")
    bare(axes)
    return figure


def draw_ranges() -> Figure:
    """Chapter 4: two grids over a few values; and clipping and rounding error of a real tensor against T."""
    figure = Figure(figsize=(7.6, 5.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(2, 3))
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.65, 0.7, 0.8, 0.95, 1.05, 1.15, 1.2, 1.25, 2.2])
    for height, limit, text in ((1, 2.2, "T = 2.2"), (0, 1.8, "T = 1.8")):
        levels = np.arange(4) * limit / 3
        line(top, height, levels, text, 0.0, 2.3)
        top.plot(values, np.full(len(values), height + 0.22), "v", color="C0", markersize=5)
        nearest = levels[np.abs(values[:, None] - levels).argmin(axis=1)]
        error = np.square(nearest - values)
        clipped = values > limit
        top.text(2.35, height, f"rounding {error[~clipped].sum():.2f}\nclipping {error[clipped].sum():.2f}",
                 va="center", fontsize=8)
    arrow(top, (2.17, 0.2), (1.84, 0.2), "--")
    top.set(xlim=(-0.4, 2.8), ylim=(-0.4, 1.6), xticks=[0, 0.5, 1, 1.5, 2],
            xlabel="15 values and the levels 0 to 3 of a 3-bit code; squared errors")
    bare(top)
    network, _, _ = load_digits()
    x = run_float_tensors(fold_batchnorm(network), calibration_images())["pw3_relu"].ravel().astype(float)
    fmt = IntFormat(4, narrow=True)
    limits = np.linspace(1.0, float(x.max()), 60)
    errors = np.array([_errors(x, limit, fmt) for limit in limits])
    for column, style, label in ((0, "--", "clipping"), (1, ":", "rounding")):
        bottom.plot(limits, errors[:, column], style, label=label)
    bottom.plot(limits, errors.sum(axis=1), color="k", label="both")
    least = errors.sum(axis=1).argmin()
    bottom.plot(limits[least], errors[least].sum(), "o", color="C3", label=f"least: T = {limits[least]:.1f}")
    bottom.set(xlabel="threshold T", ylabel="squared error, summed", title="pw3_relu of the digits CNN, 4 bits",
               yscale="log", ylim=(10, None))
    bottom.grid(alpha=0.3)
    bottom.legend(fontsize="small", ncols=2)
    return figure


def _errors(x: np.ndarray, limit: float, fmt: IntFormat) -> tuple[float, float]:
    """Squared error of clipped values and of the others."""
    scale = fmt.max / limit
    error = np.square(dequantize(quantize(x, scale, fmt), scale) - x)
    return float(error[x > limit].sum()), float(error[x <= limit].sum())


def draw_channels() -> Figure:
    """Chapter 5: levels of 3-bit codes for a large and a small channel, and for a one-sided range."""
    fmt = IntFormat(3, narrow=True)
    large, small = np.array([-0.9, -0.4, 0.5, 0.8]), np.array([-0.11, -0.05, 0.06, 0.1])
    codes = np.arange(fmt.min, fmt.max + 1)
    layer, own = (max_scale(part, fmt) for part in (large, small))
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for height, levels, weights, text in (
            (4, codes / layer, large, "large channel"),
            (3, codes / layer, small, "small channel,\nthe layer's scale"),
            (2, codes / own, small, "small channel,\nits own scale"),
            (1, codes / 3, None, "range -0.4..1, no zero point:\n2 of 7 codes unused"),
            (0, (np.arange(8) - 2) / 5, None, "the same, z = 2:\n8 codes")):
        line(axes, height, levels, text, -1.05, 1.05)
        if weights is not None:
            axes.plot(weights, np.full(len(weights), height + 0.27), "v", color="C0", markersize=5)
        else:
            axes.plot([-0.4, 1.0], [height + 0.27] * 2, color="C0", linewidth=3)
    axes.set(xlim=(-2.0, 1.1), ylim=(-0.4, 4.6), xticks=[-1, -0.5, 0, 0.5, 1],
             xlabel="real (ticks: what 3-bit codes stand for; marks: weights; bars: activations)")
    bare(axes)
    return figure


def draw_requantize() -> Figure:
    """Chapter 6: sums under M = 1/4, rounded once and twice."""
    acc = np.arange(-8, 9)
    quarter, fmt = Multiplier.from_real(0.25), IntFormat(8)
    figure = Figure(figsize=(7.6, 3.2), layout="constrained")
    axes = figure.subplots()
    once, twice = (requantize(acc, quarter, fmt, name) for name in ("single_round", "gemmlowp_double"))
    for height, name, codes in ((1, "rounded once\n(single_round)", once),
                                (0, "rounded twice\n(gemmlowp_double)", twice)):
        line(axes, height, 4 * np.arange(-2, 3), name, -8.4, 8.4)
        for place, code, other in zip(acc, codes, twice if height else once):
            differs = code != other
            axes.plot(place, height, "o", color="C3" if differs else "C0", markersize=5)
            if place != 4 * code:
                arrow(axes, (place, height + 0.06), (4 * int(code), height + 0.14),
                      bend=-0.4 if 4 * code > place else 0.4, color="C3" if differs else "0.3")
    for code in range(-2, 3):
        axes.text(4 * code, -0.3, f"code {code}", ha="center", va="center", fontsize=9)
    axes.set(xlim=(-12.2, 8.6), ylim=(-0.5, 1.6), xticks=acc[::2], xlabel="sum (M = 1/4; red: the two differ)")
    bare(axes)
    return figure


def draw_mac_array() -> Figure:
    """Chapter 6: weights stay in an array of multiply-accumulate units, codes pass, sums are requantized."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    rows, columns = 3, 4
    for row in range(rows):
        axes.text(-0.9, rows - row - 0.5, f"x_q[{row}]\nint8", ha="center", va="center", fontsize=9)
        for column in range(columns):  # codes pass on from unit to unit
            arrow(axes, (column - (0.5 if column == 0 else 0.11), rows - row - 0.5), (column + 0.1, rows - row - 0.5),
                  color="k")
        for column in range(columns):
            axes.add_patch(Rectangle((column + 0.08, rows - row - 0.92), 0.84, 0.84, facecolor="0.93", edgecolor="k"))
            axes.text(column + 0.5, rows - row - 0.5, f"× w_q[{row},{column}]\n+", ha="center", va="center",
                      fontsize=8)
    for column in range(columns):
        for row in range(rows):
            end = rows - row - 1.12 - 0.12 * (row == rows - 1)
            arrow(axes, (column + 0.5, rows - row - 0.9), (column + 0.5, end), color="C0")
        axes.add_patch(Rectangle((column + 0.08, -0.75), 0.84, 0.45, facecolor="0.75", edgecolor="k"))
        axes.text(column + 0.5, -0.525, f"·M[{column}], + z", ha="center", va="center", fontsize=9)
        arrow(axes, (column + 0.5, -0.75), (column + 0.5, -1.1), color="k")
        axes.text(column + 0.5, -1.25, f"y_q[{column}]", ha="center", va="center", fontsize=9)
    axes.text(columns + 0.15, -0.12, "sums: int32", color="C0", va="center", fontsize=9)
    axes.text(columns + 0.15, -0.525, "requantize:\nround, saturate", va="center", fontsize=9)
    axes.text(columns + 0.15, -1.25, "int8", va="center", fontsize=9)
    axes.set(xlim=(-1.3, columns + 1.6), ylim=(-1.45, rows + 0.1), aspect="equal")
    axes.axis("off")
    return figure


FIGURES = {"line_formats": draw_formats, "line_rounding": draw_rounding, "line_codes": draw_codes,
           "line_ranges": draw_ranges, "line_channels": draw_channels, "mac_array": draw_mac_array,
           "line_requantize": draw_requantize}
