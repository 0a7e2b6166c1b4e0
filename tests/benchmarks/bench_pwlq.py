"""PWLQ: breakpoints on the tensor of the authors' figures, the one-shot fits anew, and networks at 4 bits.

``python tests/benchmarks/bench_pwlq.py [breakpoints] [fits] [NETWORK ...]``; all without arguments.
breakpoints: seconds per method in units of ``np.sort(abs(W), axis=1)`` in float64 of the same run, the least of five
runs of each, one thread, beside the mean squared error of both non-overlapping variants; b = 4, per channel.
fits: the coefficients of the one-shot formulas on m in [3, 10], beside the authors'.
Networks: vww96, dscnn, resnet8, as in ``bench_wes``; integers, weights per channel.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from bench_wes import NETWORKS, load, measured
from one_thread import restart_on_one_thread
from scipy.optimize import curve_fit

from refquant.commands.report import table
from refquant.pwlq import METHODS, PiecewiseGrid, breakpoint, limits_of, round_trip
from refquant.pwlq.breakpoints import exact_ratio
from refquant.recipes.quantize import quantize_network

AUTHORS = "non_overlapping_authors"
AUTHORS_FITS = {"gaussian": (0.86143114, 0.607901097), "laplacian": (0.80304483, -0.316678551)}
FORMS: dict[str, Callable[..., Any]] = {"gaussian": lambda m, a, b: np.log(a * m + b),
                                        "laplacian": lambda m, a, b: a * np.sqrt(m) + b}
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("uniform w4a8", {"recipe": "channelwise-int8", "weight_bits": 4, "activation_bits": 8}),
    ("uniform w4a8, moments", {"recipe": "channelwise-int8", "weight_bits": 4, "activation_bits": 8,
                               "match_moments": True}),
    ("uniform w5a8", {"recipe": "channelwise-int8", "weight_bits": 5, "activation_bits": 8}),
    ("uniform w5a8, moments", {"recipe": "channelwise-int8", "weight_bits": 5, "activation_bits": 8,
                               "match_moments": True}),
    ("PWLQ w4a8", {"recipe": "pwlq-w4a8", "match_moments": False}),
    ("PWLQ w4a8, optimal, moments", {"recipe": "pwlq-w4a8", "breakpoints": "optimal"}),
    ("PWLQ w4a8, moments", {"recipe": "pwlq-w4a8"}),
    ("PWLQ w4a8, moments, mean", {"recipe": "pwlq-w4a8", "correct_output_mean": True}),
    ("uniform w4a4", {"recipe": "channelwise-int8", "weight_bits": 4, "activation_bits": 4}),
    ("uniform w5a5", {"recipe": "channelwise-int8", "weight_bits": 5, "activation_bits": 5}),
    ("PWLQ w4a4, moments", {"recipe": "pwlq-w4a4"}))


def breakpoints() -> str:
    """Seconds and errors of every method."""
    W = np.random.default_rng(0).standard_normal((512, 512, 3, 3)).astype(np.float32)
    rows, m = W.reshape(512, -1).astype(np.float64), limits_of(W, axis=0)
    calls: dict[str, Callable[[], Any]] = {"sort": lambda: np.sort(np.abs(rows), axis=1)}
    calls |= {method: lambda method=method: breakpoint(W, 4, method, AUTHORS, axis=0) for method in METHODS}
    seconds = dict.fromkeys(calls, np.inf)
    for _ in range(5):  # one after another, so that a slow moment of the machine meets all
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name] = min(seconds[name], time.perf_counter() - start)

    def error(method: str, variant: str) -> str:
        p = breakpoint(W, 4, method, variant, axis=0)
        return f"{float(np.square(round_trip(W, PiecewiseGrid(p, m, 4, variant), axis=0) - W).mean()):.4e}"

    return table(("method", "seconds", "sorts", "MSE, authors' variant", "MSE, paper's"),
                 [("sort", f"{seconds['sort']:.3f}", "1.00", "", ""),
                  *((method, f"{seconds[method]:.3f}", f"{seconds[method] / seconds['sort']:.2f}",
                     error(method, AUTHORS), error(method, "non_overlapping")) for method in METHODS)])


def fits() -> str:
    """Both formulas fitted anew to the root of Eq. 6, on 701 m in [3, 10]."""
    m, lines = np.linspace(3, 10, 701), []
    for name, form in FORMS.items():
        exact = np.array([exact_ratio(one, 4, distribution=name) for one in m])
        found, _ = curve_fit(form, m, exact, p0=AUTHORS_FITS[name])
        lines += [(name, who, *(f"{v:.4f}" for v in parts), f"{np.abs(form(m, *parts) - exact).max():.4f}")
                  for who, parts in (("authors", AUTHORS_FITS[name]), ("refitted", found))]
    return table(("density", "fit", "factor", "offset", "largest error of p*"), lines)


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
    wanted = sys.argv[1:] or ["breakpoints", "fits", *NETWORKS]
    for name, show in (("breakpoints", breakpoints), ("fits", fits)):
        if name in wanted:
            print(f"{show()}\n")
    if chosen := [name for name in NETWORKS if name in wanted]:
        print(networks(chosen))
