"""Figure of page dialects: how many classes of descriptions random sums leave, and how many the probes."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from refquant import IntFormat
from refquant.integers import Multiplier
from refquant.integers.devices import dialect_of
from refquant.vectors import classes, identify
from refquant.vectors.descriptions import answers, rows_of

DEVICES = ("gemmlowp_double", "single_round", "float32_half_even")


def remaining(name: str, count: int = 20000) -> tuple[np.ndarray, np.ndarray]:
    """Classes left after 1, 2, ... random sums under one multiplier; and after each of the probes."""
    fmt, random = IntFormat(8), np.random.default_rng(0)
    M = Multiplier.from_real(0.0007)
    sums = random.normal(0, 60000, count).astype(np.int64)  # codes of all sizes, some beyond int8
    one = rows_of(sums, np.full(count, M.m), np.full(count, M.shift), np.zeros(count, np.int64))
    device = dialect_of(name)
    asked = identify(lambda *row: answers(device, rows_of(*row), fmt), fmt).rows
    left = []
    for rows in (one, asked.at(slice(0, len(asked.x) - 500))):
        wrong = np.stack([answers(known, rows, fmt) != answers(device, rows, fmt) for known in classes(fmt)])
        left.append((~np.logical_or.accumulate(wrong, axis=1)).sum(axis=0))
    return left[0], left[1]


def draw_identification() -> Figure:
    """Both, on logarithmic axes, for three devices."""
    figure = Figure(figsize=(6.8, 4.0), layout="constrained")
    axes = figure.subplots()
    for color, name in zip(("C0", "C1", "C2"), DEVICES):
        random, probes = remaining(name)
        axes.plot(np.arange(1, len(random) + 1), random, color=color, label=f"{name}, random sums")
        axes.plot(np.arange(1, len(probes) + 1), probes, "o--", color=color, markersize=4, label=f"{name}, probes")
    axes.set(xscale="log", yscale="log", xlabel="rows asked", ylabel="classes left",
             title=f"{len(classes(IntFormat(8)))} classes of int8 codes; random sums under M = 0.0007")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


if __name__ == "__main__":
    for device_name in DEVICES:
        left, by_probes = remaining(device_name)
        print(f"{device_name}: {left[199]} classes after 200 random sums, {left[-1]} after {len(left)}; "
              f"{by_probes[-1]} after {len(by_probes)} probes")
