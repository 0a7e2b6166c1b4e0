"""round(X·S) in float32 where that is certain, the fast way inside ``linear.quantize``."""

from __future__ import annotations

import numpy as np

from refquant.integers.formats import IntFormat
from refquant.integers.rounding import round_product


def can_round_in_float32(x: np.ndarray, scale: np.ndarray, fmt: IntFormat) -> bool:
    """Whether ``round_in_float32`` takes these: codes of at most 16 bits, one scale, moderate products."""
    if fmt.bits > 16 or scale.ndim or not x.size:
        return False
    largest = float(np.abs(x).max())
    return largest < 1e30 and 1e-30 < float(scale) < 1e30 and largest * float(scale) < 1e30


def round_in_float32(x: np.ndarray, scale: np.ndarray, low: int, high: int) -> np.ndarray:
    """``round_product`` half away from zero, clipped to low..high within ±2^17, as integer-valued float32.

    Rounding x, the scale and their product moves a product by less than 2^-22 of itself. Where a tie is nearer
    than that at the farthest limit, ``round_product`` decides; beyond the limits all clip alike.
    """
    product = x.astype(np.float32).ravel() * np.float32(scale)
    whole = np.rint(product)
    np.subtract(product, whole, out=product)
    farthest = max(-low, high) + 1
    near = np.flatnonzero(np.abs(product, out=product) > 0.5 - farthest * 2.0**-22)
    np.clip(whole, low, high, out=whole)
    if near.size:
        whole[near] = np.clip(round_product(x.flat[near], scale, "half_away", limit=2.0**33), low, high)
    return whole.reshape(x.shape)
