"""EasyQuant's search on one thread: seconds and memory of whole recipes, of a small net, and of one larger layer.

``python tests/benchmarks/bench_easyquant.py``. Targets: a whole recipe within 2x of what its candidates' convolutions
alone take, in the same run; less than 1.5 GiB with 50 images at 224x224; ``paper`` within 2 s at 8 images, less than
6.5x as long and at most 1.1x the memory at 50; ``ncnn`` within 3.5 s; the larger layer within 3x of 100
``convolve_exact`` calls.
Figures from elsewhere are quoted, not measured here: ncnn's own tool 41 and 285 CPU seconds at 8 and 50 images
on this net; PTQ4ViT's search 1.0 s on the larger layer.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import networks
import numpy as np
from one_thread import best_seconds, print_machine, restart_on_one_thread

from refquant.convolution.blas import correlate
from refquant.convolution.direct import convolve, convolve_exact
from refquant.easyquant import candidate_cosines, gram, remembered, search_ncnn, search_paper
from refquant.easyquant.layer import QuantizedLayer
from refquant.recipes import quantize_network

LAYERS = ((3, 32, 3), (32, 64, 3), (64, 64, 3), (64, 32, 1))  # input and output channels, kernel; ReLU between
BATCH = 8
MODES = ("paper", "paper-direct", "ncnn")
QUOTED = {8: 41, 50: 285}


def weights() -> list[np.ndarray]:
    """Random weights of the net."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(o, c, k, k), scale=(c * k * k) ** -0.5).astype(np.float32) for c, o, k in LAYERS]


class Prefix:
    """The inputs of layer ``depth``, computed anew at every walk, eight images at a time."""

    def __init__(self, depth: int, images: int) -> None:
        self.depth, self.images = depth, images

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self.images, BATCH):
            count = min(BATCH, self.images - start)
            x = np.random.default_rng(start).normal(size=(count, 3, 32, 32)).astype(np.float32)
            for w in weights()[:self.depth]:
                x = np.maximum(convolve(x, w, padding=w.shape[2] // 2), 0)
            yield x


def search_net(mode: str, images: int) -> None:
    """Search every layer, 100 + 100 candidates, one round; prints CPU seconds and the peak of memory."""
    search, options = ((search_ncnn, {"relu": True}) if mode == "ncnn" else
                       (search_paper, {"direct": mode.endswith("-direct"), "rounds": 1}))
    start = time.process_time()
    for depth, w in enumerate(weights()):
        search(Prefix(depth, images), w, bits=8, padding=w.shape[2] // 2, **options)
    print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measured(mode: str, images: int) -> list[float]:
    """CPU seconds, MiB and whatever else the process of its own prints."""
    run = subprocess.run([sys.executable, __file__, mode, str(images)], check=True, capture_output=True, text=True)
    return [float(number) for number in run.stdout.split()]


def search_network_of(name: str, images: int) -> None:
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
    """Print every benchmark."""
    print_machine()
    print("the recipe easyquant-int8 on random weights; CPU seconds and MiB")
    for name, images in (("resnet20", 8), ("resnet20", 50), ("squeezenet", 8), ("squeezenet", 50)):
        seconds, memory, activations, weights_too = measured(name, images)
        every = activations + weights_too
        print(f"  {name:10} {images:3} images {seconds:7.1f} s {memory:7.0f} MiB   {seconds / every:.2f}x the "
              f"{every:.1f} s of all its candidates' convolutions, {seconds / activations:.2f}x the "
              f"{activations:.1f} s of activation candidates' alone", flush=True)
    print("net of four layers, 32x32, 100 + 100 candidates, one round; CPU seconds and MiB")
    results = {(mode, images): measured(mode, images)
               for mode, images in (("paper", 8), ("paper", 50), ("paper-direct", 8), ("ncnn", 8))}
    for (mode, images), (seconds, memory) in results.items():
        print(f"  {mode:13} {images:3} images {seconds:7.2f} s {memory:7.0f} MiB"
              f"   ({QUOTED[images] / seconds:.0f}x faster than ncnn's own tool, quoted {QUOTED[images]} s)")
    (short, small), (long, large) = results["paper", 8], results["paper", 50]
    print(f"  paper, 50 to 8 images: {long / short:.2f}x the time, {large / small:.2f}x the memory")
    print(f"  paper, direct to Gram at 8 images: {results['paper-direct', 8][0] / short:.2f}x the time")

    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(1, 64, 56, 56)), 0).astype(np.float32)
    w = rng.normal(size=(64, 64, 3, 3)).astype(np.float32)
    x_q, w_q = rng.integers(-127, 128, x.shape), rng.integers(-127, 128, w.shape)
    search = best_seconds(lambda: search_paper(x, w, bits=8, padding=1, rounds=1), 3)
    convolutions = best_seconds(lambda: [convolve_exact(x_q, w_q, padding=1) for _ in range(100)], 3)
    print(f"1x64x56x56 * 64x64x3x3, 100 + 100 candidates: {search:.2f} s, {search / convolutions:.2f}x the "
          f"{convolutions:.2f} s of 100 exact convolutions (PTQ4ViT quoted 1.0 s)")


if __name__ == "__main__":
    restart_on_one_thread()
    if len(sys.argv) == 3:
        run = search_net if sys.argv[1] in MODES else search_network_of
        run(sys.argv[1], int(sys.argv[2]))
    else:
        main()
