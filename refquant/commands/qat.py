"""Post-training quantization beside quantization-aware training on the bundled digits, all in integers.

    python -m refquant.commands.qat        prints the table of README and tutorial
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from refquant.commands.report import table
from refquant.digits.architecture import parameters
from refquant.digits.data import load_images
from refquant.digits.qat import fine_tune, in_integers
from refquant.digits.training import count_correct
from refquant.digits.weights import calibration_images, load_weights
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.graph import Network
from refquant.network.proof import QuantizedNetwork
from refquant.recipes.quantize import quantize_network

# Method, and its recipe.
PTQ = (("max", "channelwise-int8"), ("KL", "tensorrt-int8"), ("EasyQuant", "easyquant-int8"), ("WES", "wes-int8"),
       ("PWLQ", "pwlq-w4a8"))


class Row(NamedTuple):
    """One method: top-1 in percent at each width, images and labels that it saw, seconds of all; bytes at each width.

    weight_bytes: without biases. activation_bytes: the most that one layer reads and writes for one image.
    """

    method: str
    top1: list[float]
    images: int
    labels: int
    seconds: float
    weight_bytes: list[int]
    activation_bytes: list[int]
    codes_equal: bool


def activation_bytes(network: QuantizedNetwork | Network, bits: int | None = None) -> int:
    """The most bytes that a step's inputs and output take for one image; float32 where ``bits`` is None."""
    steps = network.layers if isinstance(network, QuantizedNetwork) else network.nodes
    elements = max(sum(math.prod(network.shapes[name]) for name in {*step.inputs, step.output}) for step in steps)
    return 4 * elements if bits is None else -(-elements * bits // 8)


def compare(widths: Sequence[int] = (8, 4, 3), progress: Callable[[str], None] | None = None) -> list[Row]:
    """Post-training methods beside fine-tuning, on the held-out digits, all in integers; weights and activations of
    each width, of PWLQ's weights two codes of b bits. The network's input and output are quantized at its border."""
    train, test = load_images()
    network = load_weights()
    rows = []
    for method, recipe in (*PTQ, ("QAT", "")):
        top1, weights, activations, equal, start = [], [], [], True, time.perf_counter()
        for bits in widths:
            if progress:
                progress(f"{method} {bits}")
            if recipe:
                quantized = quantize_network(network, calibration_images(), recipe, weight_bits=bits,
                                             activation_bits=bits)
            else:
                tuned = fine_tune(network, train.images, train.labels, np.random.default_rng(0), weight_bits=bits,
                                  activation_bits=bits)
                quantized = in_integers(tuned, calibration_images(), bits, bits)
            logits = quantized.run(test.images)
            equal &= np.array_equal(logits[:100], quantized.simulate(test.images[:100]))
            top1.append(100 * float(np.mean(logits.argmax(axis=1) == test.labels)))
            weights.append(quantized.weight_bytes)
            activations.append(activation_bytes(quantized, bits))
        seen = len(calibration_images()) if recipe else len(train.images)
        rows.append(Row(method, top1, seen, 0 if recipe else seen, time.perf_counter() - start, weights, activations,
                        equal))
    return rows


def main() -> int:
    """Print the table; returns the exit code."""
    widths = (8, 4, 3)
    rows = compare(widths)
    test = load_images()[1]
    network = load_weights()
    floats = 100 * count_correct(network, *test) / len(test.labels)
    size = sum(array.size for array in parameters(fold_batchnorm(network)).values())
    header = ("method", *(f"top-1 % at {bits}" for bits in widths), "images", "labels", "seconds", "weight bytes",
              "activation bytes", "codes equal")
    lines: list[tuple[str, ...]] = [("float", f"{floats:.1f}", "", "", "", "", "", str(4 * size),
                                     str(activation_bytes(network)), "")]
    for row in rows:
        lines.append((row.method, *(f"{value:.1f}" for value in row.top1), str(row.images), str(row.labels),
                      f"{row.seconds:.0f}", "/".join(map(str, row.weight_bytes)),
                      "/".join(map(str, row.activation_bytes)), "yes" if row.codes_equal else "NO"))
    print(table(header, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
