"""EasyQuant's search of whole networks on one thread: seconds and memory.

``python tests/benchmarks/bench_easyquant.py [NETWORK IMAGES]``. Targets: within 2x of what the candidates'
convolutions alone take, in the same run; less than 1.5 GiB with 50 images at 224x224.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import networks
import numpy as np
from one_thread import in_a_process, print_machine, restart_on_one_thread

from refquant.convolution.blas import correlate
from refquant.easyquant import candidate_cosines, gram, remembered
from refquant.easyquant.layer import QuantizedLayer
from refquant.recipes import quantize_network

ROWS = (("resnet20", 8), ("resnet20", 50), ("squeezenet", 8), ("squeezenet", 50))


def search(name: str, images: int) -> None:
    """The recipe easyquant-int8; prints CPU seconds, peak MiB, and what candidates' convolutions alone take.

    The last is for activation candidates, which are convolved here, and for weight candidates, which Gram matrices
    stand for: one of them is convolved, while the recipe's clock stands still, and counts for all.
    """
    network = getattr(networks, name)()
    x = np.random.default_rng(1).standard_normal((images, *network.input_shape)).astype(np.float32)
    convolutions, weight_convolutions, paused = 0.0, 0.0, 0.0

    def timed(*arguments: Any) -> np.ndarray:
        nonlocal convolutions
        start = time.process_time()
        y = correlate(*arguments)
        convolutions += time.process_time() - start
        return y

    def counted(layer: QuantizedLayer, scales: np.ndarray, activation_scale: float) -> candidate_cosines.Table:
        nonlocal convolutions, weight_convolutions, paused
        start, before = time.process_time(), convolutions
        candidate_cosines.direct_table(layer, scales[:1], [activation_scale], pooled=True)
        weight_convolutions += len(scales) * (convolutions - before)
        convolutions = before
        paused += time.process_time() - start
        return gram.weight_table(layer, scales, activation_scale)

    candidate_cosines.correlate, remembered.weight_table = timed, counted
    start = time.process_time()
    quantize_network(network, x, "easyquant-int8")
    seconds = time.process_time() - start - paused
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, convolutions, weight_convolutions)


def main() -> None:
    """Print a line per network and number of images."""
    print_machine()
    print("the recipe easyquant-int8 on random weights; CPU seconds and MiB")
    for name, images in ROWS:
        seconds, memory, activations, weights_too = map(float, in_a_process(name, images))
        every = activations + weights_too
        print(f"  {name:10} {images:3} images {seconds:7.1f} s {memory:7.0f} MiB   {seconds / every:.2f}x the "
              f"{every:.1f} s of all its candidates' convolutions, {seconds / activations:.2f}x the "
              f"{activations:.1f} s of activation candidates' alone", flush=True)


if __name__ == "__main__":
    restart_on_one_thread()
    if len(sys.argv) == 3:
        search(sys.argv[1], int(sys.argv[2]))
    else:
        main()
