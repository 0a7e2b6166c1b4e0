"""Figures of page pwlq: PWLQ's levels, its error against the breakpoint, and where the best breakpoint lies."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from refquant import IntFormat
from refquant.pwlq import PiecewiseGrid, breakpoint, optimal_breakpoint, round_trip
from refquant.pwlq.breakpoints import exact_ratio
from refquant.scales import quantize


def draw_levels() -> Figure:
    """The levels of uniform and of piecewise linear codes of 4 bits, over the weights they stand for."""
    w = np.random.default_rng(0).standard_normal(4608)
    m, p = float(np.abs(w).max()), breakpoint(w, 4, "optimal")
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.hist(w, 80, color="0.75")
    for axes in (top, bottom):
        axes.axvspan(-p, p, color="C0", alpha=0.12)
    top.text(0, top.get_ylim()[1] * 0.05, "R1", ha="center")
    top.text((m + p) / 2, top.get_ylim()[1] * 0.05, "R2", ha="center")
    top.set(ylabel="weights", title=f"4608 normal weights, m = {m:.2f}, p = {p:.2f}")
    grid = PiecewiseGrid(np.asarray(p), np.asarray(m), 4)
    for height, name, levels in ((1, "piecewise, 4 bits and a region", round_trip(np.linspace(-m, m, 9999), grid)),
                                 (2, "uniform, 5 bits", np.arange(-15, 16) * m / 15),
                                 (3, "uniform, 4 bits", np.arange(-7, 8) * m / 7)):
        levels = np.unique(levels.round(12))
        bottom.plot(levels, np.full(len(levels), height), "|", markersize=12)
        error = np.mean((np.abs(w[:, None] - levels).min(axis=1)) ** 2)
        bottom.text(m * 1.08, height, f"{name}: error {error:.4f}", va="center", fontsize=8)
    bottom.set(yticks=[], xlabel="weight", ylim=(0.3, 3.7), xlim=(-m * 1.05, m * 2.6))
    return figure


def draw_error() -> Figure:
    """Measured squared error against p/m at 4, 6 and 8 bits, with the one-shot and the optimal breakpoint."""
    w = np.random.default_rng(0).standard_normal(4608)
    m, ratios = float(np.abs(w).max()), np.linspace(0.05, 0.95, 361)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for color, bits in enumerate((4, 6, 8)):
        def error(p: float, bits: int = bits) -> float:
            grid = PiecewiseGrid(np.asarray(p), np.asarray(m), bits)
            return float(((round_trip(w, grid) - w) ** 2).mean())

        axes.plot(ratios, [error(ratio * m) for ratio in ratios], f"C{color}", label=f"{bits} bits")
        axes.axhline(uniform_error(w, (2 ** (bits - 1) - 1) / m), color=f"C{color}", linestyle=":", linewidth=1)
        one_shot, (best, least, _) = breakpoint(w, bits), optimal_breakpoint(w, bits)
        axes.plot(one_shot / m, error(one_shot), f"C{color}s", markersize=6)
        axes.plot(best / m, least, f"C{color}*", markersize=11)
    axes.plot([], [], "ks", label="one-shot")
    axes.plot([], [], "k*", label="optimal")
    axes.plot([], [], "k:", label="uniform codes of as many bits")
    axes.set_yscale("log")
    axes.set(xlabel="breakpoint p / m", ylabel="mean squared error", title="4608 normal weights")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def uniform_error(w: np.ndarray, scale: float) -> float:
    """The mean squared error of symmetric uniform codes with this scale."""
    codes = quantize(w, scale, IntFormat(16))
    return float(((codes / scale - w) ** 2).mean())


def draw_breakpoints() -> Figure:
    """Where Eq. 6 is 0, as a part of m, with the one-shot formulas."""
    m = np.linspace(2, 12, 201)
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for color, name, formula in (("C0", "gaussian", np.log(0.86143114 * m + 0.607901097)),
                                 ("C1", "laplacian", 0.80304483 * np.sqrt(m) - 0.316678551)):
        axes.plot(m, [exact_ratio(one, 4, distribution=name) / one for one in m], color, label=f"{name}, exact")
        axes.plot(m, formula / m, f"{color}--", label=f"{name}, one-shot")
    axes.axvspan(3, 10, color="0.9", zorder=0)
    axes.text(6.5, 0.12, "fitted here", ha="center")
    axes.set(xlabel="m = max|w| in standard deviations", ylabel="best breakpoint p* / m", ylim=(0.1, 0.55))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
