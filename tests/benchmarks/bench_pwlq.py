"""PWLQ: breakpoints on the tensor of the authors' figures, and networks at 4 bits: README's table.

``python tests/benchmarks/bench_pwlq.py [breakpoints] [NETWORK ...]``; all without arguments.
breakpoints: seconds per method in units of ``np.sort(abs(W), axis=1)`` in float64 of the same run, the least of five
runs of each, one thread, beside the mean squared error of both non-overlapping variants; b = 4, per channel.
Networks: vww96, dscnn, resnet8, as in ``bench_wes``; integers, weights per channel.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from bench_wes import NETWORKS, measured
from networks import load
from one_thread import best_seconds, restart_on_one_thread

from refquant.commands.report import table
from refquant.pwlq import METHODS, PiecewiseGrid, breakpoint, limits_of, round_trip
from refquant.recipes.quantize import quantize_network

AUTHORS = "non_overlapping_authors"


def uniform(weight_bits: int, activation_bits: int, **more: Any) -> dict[str, Any]:
    """Options of ``quantize_network``."""
    return {"recipe": "channelwise-int8", "weight_bits": weight_bits, "activation_bits": activation_bits, **more}


WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("uniform w4a8", uniform(4, 8)), ("uniform w4a8, moments", uniform(4, 8, match_moments=True)),
    ("uniform w5a8", uniform(5, 8)), ("uniform w5a8, moments", uniform(5, 8, match_moments=True)),
    ("PWLQ w4a8", {"recipe": "pwlq-w4a8", "match_moments": False}),
    ("PWLQ w4a8, optimal, moments", {"recipe": "pwlq-w4a8", "breakpoints": "optimal"}),
    ("PWLQ w4a8, moments", {"recipe": "pwlq-w4a8"}),
    ("PWLQ w4a8, moments, mean", {"recipe": "pwlq-w4a8", "correct_output_mean": True}),
    ("uniform w4a4", uniform(4, 4)), ("uniform w5a5", uniform(5, 5)), ("PWLQ w4a4, moments", {"recipe": "pwlq-w4a4"}))


def breakpoints() -> str:
    """Seconds and errors of every method."""
    W = np.random.default_rng(0).standard_normal((512, 512, 3, 3)).astype(np.float32)
    rows, m = W.reshape(512, -1).astype(np.float64), limits_of(W, axis=0)
    sort, *seconds = best_seconds([lambda: np.sort(np.abs(rows), axis=1), *(
        lambda method=method: breakpoint(W, 4, method, AUTHORS, axis=0) for method in METHODS)])

    def error(method: str, variant: str) -> str:
        p = breakpoint(W, 4, method, variant, axis=0)
        return f"{float(np.square(round_trip(W, PiecewiseGrid(p, m, 4, variant), axis=0) - W).mean()):.4e}"

    return table(("method", "seconds", "sorts", "MSE, authors' variant", "MSE, paper's"),
                 [("sort", f"{sort:.3f}", "1.00", "", ""),
                  *((method, f"{took:.3f}", f"{took / sort:.2f}", error(method, AUTHORS),
                     error(method, "non_overlapping")) for method, took in zip(METHODS, seconds))])


def networks(names: list[str]) -> str:
    """``right``, ``cosine`` on held-out images, bytes of weights."""
    lines = []
    for name in names:
        case = load(name)
        for way, options in WAYS:
            quantized = quantize_network(case.network, case.calibration, **options)
            right, likeness, _ = measured(case, quantized)
            lines.append((name, way, right, likeness, str(quantized.weight_bytes)))
            print(*lines[-1], sep="  ", file=sys.stderr)
    return table(("network", "weights and activations", "right", "cosine", "weight bytes"), lines)


if __name__ == "__main__":
    restart_on_one_thread()
    wanted = sys.argv[1:] or ["breakpoints", *NETWORKS]
    if "breakpoints" in wanted:
        print(f"{breakpoints()}\n")
    if chosen := [name for name in NETWORKS if name in wanted]:
        print(networks(chosen))
