"""Seconds of calibration, search and evaluation with one and with two workers, and what memory they take.

``python tests/benchmarks/bench_workers.py``. Networks of random weights; each row is a process of its own, one BLAS
thread each; both workers' memory and their parent's are added up. To reach: less than 1.5 GiB for a MobileNetV2 at
224x224 with 50 + 200 images, and the same integers with one worker and two.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time

import networks
import numpy as np
from one_thread import in_a_process, print_machine, restart_on_one_thread

from refquant.commands.evaluation import evaluate
from refquant.network.storage import quantized_to_bytes
from refquant.recipes import quantize_network
from refquant.workers import worker_processes

ROWS = (("mobilenet2", "channelwise-int8", 50, 200), ("resnet20", "easyquant-int8", 50, 1000),
        ("squeezenet", "easyquant-int8", 8, 40))


def run(name: str, recipe: str, calibration: int, count: int, workers: int) -> None:
    """Quantize and evaluate; prints seconds of both, MiB, and a digest of every integer."""
    network, rng = getattr(networks, name)(), np.random.default_rng(1)
    x, images = (rng.standard_normal((number, *network.input_shape), np.float32) for number in (calibration, count))
    with worker_processes(workers) as executor:
        start = time.perf_counter()
        quantized = quantize_network(network, x, recipe, executor=executor)
        middle = time.perf_counter()
        evaluate(quantized, images, None, network, simulated_images=min(100, count), executor=executor)
        end = time.perf_counter()
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if workers > 1:
        kib += workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(middle - start, end - middle, kib / 1024, hashlib.sha256(quantized_to_bytes(quantized)).hexdigest())


def main() -> None:
    """Print every row."""
    print_machine()
    for name, recipe, calibration, count in ROWS:
        digests = set()
        for workers in (1, 2):
            quantize, evaluation, mebibytes, digest = in_a_process(name, recipe, calibration, count, workers)
            digests.add(digest)
            print(f"{name:10} {recipe:16} {calibration} + {count:4} images  {workers} worker{'s' * (workers > 1):1}  "
                  f"quantize {float(quantize):6.1f} s  evaluate {float(evaluation):6.1f} s  "
                  f"{float(mebibytes):5.0f} MiB", flush=True)
        assert len(digests) == 1, "the integers depend on the workers"


if __name__ == "__main__":
    restart_on_one_thread()
    if len(sys.argv) == 6:
        run(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main()
