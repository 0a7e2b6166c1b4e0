"""Weight equalizing shifts beside layer-wise and channel-wise scales and cross-layer equalization: README's table.

``python tests/benchmarks/bench_wes.py [NETWORK ...]``
Networks: vww96, dscnn, resnet8, from the folder that REFQUANT_MODELS names; integers, W8A8. Each row twice: as it is,
and with output-mean correction. ``right``: top-1 in percent; of vww96, which has no labels, agreement with float.
``cosine``: of the logits with float's, on held-out images; ``calibration``: the same on the calibration images, by
which the coupling of ``wes-int8`` was chosen.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from networks import Case, load

from refquant.commands.evaluation import top1
from refquant.commands.report import table
from refquant.network.float_forward import run_float
from refquant.network.graph import Conv, Linear, Network
from refquant.network.proof import QuantizedNetwork
from refquant.recipes.corrections import correct_output_mean, cross_layer_equalize
from refquant.recipes.quantize import quantize_network
from refquant.recipes.settings import COUPLINGS
from refquant.scales.linear import channel_reach
from refquant.scales.metrics import cosine
from refquant.shift_equalizer import alive

WEIGHTS: dict[str, dict[str, Any]] = {
    "layer": {}, "layer, CLE": {"cross_layer_equalization": True}, "channel": {"granularity": "channel"},
    **{f"WES {coupling}": {"granularity": "shift", "coupling": coupling} for coupling in COUPLINGS},
    "WES floor, EasyQuant": {"recipe": "easyquant-int8", "granularity": "shift", "activations": "unsigned"}}
NETWORKS = ("vww96", "dscnn", "resnet8")


def row(case: Case, options: dict[str, Any]) -> list[str]:
    """What one way to quantize the weights gives, without and with output-mean correction."""
    options = {"recipe": "max-int8", **options}
    network = cross_layer_equalize(case.network) if options.pop("cross_layer_equalization", False) else case.network
    plain = quantize_network(network, case.calibration, **options)
    return [text for quantized in (plain, correct_output_mean(plain, network, case.calibration))
            for text in measured(case, quantized)]


def measured(case: Case, quantized: QuantizedNetwork) -> list[str]:
    """``right``, ``cosine`` and ``calibration``."""
    exact, logits = run_float(case.network, case.images), quantized.run(case.images)
    labels = exact.argmax(axis=1) if case.labels is None else case.labels
    return [f"{top1(logits, labels):.2f}", f"{cosine(exact, logits):.5f}",
            f"{cosine(run_float(case.network, case.calibration), quantized.run(case.calibration)):.5f}"]


def disparity(network: Network) -> str:
    """The largest weight range of a live channel over the smallest, of the layers: the greatest and the median."""
    found = []
    for node in network.nodes:
        if isinstance(node, (Conv, Linear)):
            ranges = channel_reach(node.weight.astype(np.float64))
            live = ranges[alive(ranges)]
            found.append(live.max() / live.min())
    return f"largest channel over smallest: {max(found):.3g} in one layer, {np.median(found):.3g} in the median layer"


def main(names: list[str]) -> None:
    """Print each network's disparity, and one table."""
    rows, lines = [], []
    for name in names:
        case = load(name)
        lines.append(f"{name}: {disparity(case.network)}")
        if case.labels is not None:
            lines[-1] += f"; float {top1(run_float(case.network, case.images), case.labels):.2f}"
        for weights, options in WEIGHTS.items():
            rows.append((name, weights, *row(case, options)))
            print(*rows[-1], file=sys.stderr)
    print("\n".join(lines), table(("network", "weights", *("right", "cosine", "calibration"),
                                   *("corrected", "cosine", "calibration")), rows), sep="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(NETWORKS))
