"""Range estimators and EasyQuant at 8 to 4 bits: README's table.

``python tests/benchmarks/compare_scales.py [NETWORK ...]``
Networks: digits; resnet8 and dscnn from the folder that REFQUANT_MODELS names. All three: weights per output channel,
signed narrow codes of as many bits for weights and activations, 50 calibration images, integer inference.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from networks import Case, load

from refquant.commands.evaluation import top1
from refquant.commands.report import table
from refquant.network.float_forward import run_float
from refquant.recipes.quantize import quantize_network

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "max": ("channelwise-int8", {}), "percentile": ("channelwise-int8", {"estimator": "percentile"}),
    "MSE": ("channelwise-int8", {"estimator": "mse"}), "KL": ("tensorrt-int8", {}),
    "EasyQuant": ("easyquant-int8", {}), "EasyQuant, widened": ("easyquant-int8", {"widen": True})}
BITS = (8, 7, 6, 5, 4)
NETWORKS = ("digits", "resnet8", "dscnn")
BATCH = 50


def accuracy(case: Case, method: str | None, bits: int = 0) -> float:
    """Top-1 in percent: of the float network without a method."""
    network, calibration, images, labels = case
    if method is None:
        logits = [run_float(network, images[i:i + BATCH]) for i in range(0, len(images), BATCH)]
    else:
        recipe, options = METHODS[method]
        quantized = quantize_network(network, calibration, recipe, weight_bits=bits, activation_bits=bits,
                                     activations="signed", **options)
        logits = [quantized.run(images[i:i + BATCH]) for i in range(0, len(images), BATCH)]
    return top1(np.concatenate(logits), labels)


def main(names: list[str]) -> None:
    """Print one table for all networks."""
    rows = []
    for name in names:
        case = load(name)
        exact = f"{accuracy(case, None):.2f}"
        for method in METHODS:
            rows.append((name, method, exact, *(f"{accuracy(case, method, bits):.2f}" for bits in BITS)))
            print(*rows[-1], file=sys.stderr)
    print(table(("network", "scales", "float", *(f"{bits} bits" for bits in BITS)), rows))


if __name__ == "__main__":
    main(sys.argv[1:] or list(NETWORKS))
