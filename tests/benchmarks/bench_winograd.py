"""``winograd_convolve`` against ``convolve_exact`` on 1x64x56x56 * 64x64x3x3, one thread, in one run.

``python tests/benchmarks/bench_winograd.py``. U is computed beforehand, every stage is proven to hold its format.
Targets: within 2.5x of ``convolve_exact`` for F(2,3) where float32 is exact and for F(4,3), 4x where float64 is
forced.
"""

import numpy as np
from one_thread import best_seconds, print_machine, restart_on_one_thread

from refquant.convolution.direct import convolve_exact
from refquant.winograd.convolution import transform_kernel, winograd_convolve

CHANNELS, SIZE, KERNEL = 64, 56, 3
# Name, tile, magnitude of the inputs and of the weights. What is exact in float32 follows from them.
CASES = (("F(2,3), 7 x 7 bits", (2, 3), 63, 63), ("F(2,3), 8 x 8 bits", (2, 3), 127, 127),
         ("F(4,3), 3 x 2 bits", (4, 3), 3, 1), ("F(4,3), 7 x 7 bits", (4, 3), 63, 63),
         ("F(6,3), 7 x 7 bits", (6, 3), 63, 63))


def exact_in_float32(x: np.ndarray, kernel) -> str:
    """The matrix products of which no partial sum can reach 2^24."""
    reach = {name: int(np.abs(x).max()) * kernel.reach[stage] for name, stage in (
        ("V", "V"), ("sum", "sum"), ("output", "terms"))}
    return ", ".join(name for name, bound in reach.items() if bound < 2**24) or "none"


def multiplications(m: int, outputs: int) -> tuple[int, int]:
    """Of the direct convolution, and of the elementwise stage of F(m, 3)."""
    tiles = (-(-SIZE // m))**2
    return CHANNELS * outputs * SIZE**2 * KERNEL**2, CHANNELS * outputs * tiles * (m + KERNEL - 1)**2


def main() -> None:
    """Print one line per case."""
    print_machine()
    rng = np.random.default_rng(0)
    print(f"{'milliseconds':22}{'direct':>8}{'Winograd':>10}{'ratio':>7}{'fewer products':>16}  exact in float32")
    for name, tile, x_max, w_max in CASES:
        x = rng.integers(-x_max, x_max + 1, (1, CHANNELS, SIZE, SIZE)).astype(np.int8)
        w = rng.integers(-w_max, w_max + 1, (CHANNELS, CHANNELS, KERNEL, KERNEL)).astype(np.int8)
        kernel = transform_kernel(w, tile)
        assert np.array_equal(winograd_convolve(x, kernel, padding=1), convolve_exact(x, w, padding=1))
        direct, winograd = (1e3 * seconds for seconds in best_seconds([
            lambda x=x, w=w: convolve_exact(x, w, padding=1),
            lambda x=x, k=kernel: winograd_convolve(x, k, padding=1)], 40))
        needed, used = multiplications(tile[0], CHANNELS)
        print(f"{name:22}{direct:8.3f}{winograd:10.3f}{winograd / direct:7.2f}{needed / used:16.2f}  "
              f"{exact_in_float32(x, kernel)}")


if __name__ == "__main__":
    restart_on_one_thread()
    main()
