"""Images per second of a whole network, float and in integers with every stage's range checked, one thread.

``python tests/benchmarks/bench_network.py``: a MobileNetV1-0.25 of random weights on 96x96 images, the shape of the
visual-wake-words network. Targets: >= 500 in float, >= 200 in integers, peak memory < 300 MiB.
"""

import resource

import networks
import numpy as np
from one_thread import best_seconds, print_machine, restart_on_one_thread

from refquant.network.float_forward import run_float
from refquant.recipes.quantize import quantize_network

IMAGES = 64  # sliced as the package likes it


def main() -> None:
    """Print images per second and the peak memory of the process."""
    print_machine()
    network = networks.mobilenet()
    images = np.random.default_rng(0).random((IMAGES, *network.input_shape)).astype(np.float32)
    quantized = quantize_network(network, images, "channelwise-int8")
    seen: dict[tuple[str, str], tuple[int, int]] = {}

    def observe(layer: str, stage: str, values: np.ndarray) -> None:
        seen[layer, stage] = int(values.min()), int(values.max())

    real, integers = best_seconds([lambda: run_float(network, images), lambda: quantized.run(images, observe)], 10)
    print(f"float: {IMAGES / real:.0f} images/s")
    print(f"integers, every stage's range checked: {IMAGES / integers:.0f} images/s")
    for stage in quantized.stages:
        low, high = seen[stage.layer, stage.stage]
        assert stage.min <= low <= high <= stage.max
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    restart_on_one_thread()
    main()
