"""round(X·S) in float32 where that is certain, the fast way inside ``linear.quantize``."""

from __future__ import annotations

import numpy as np

from refquant.integers.far_from_ties import round_far_from_ties
from refquant.integers.formats import IntFormat
from refquant.integers.rounding import round_product


def can_round_in_float32(largest: float, scale: np.ndarray, fmt: IntFormat) -> bool:
    """Whether ``round_in_float32`` takes values up to ``largest``: codes of at most 16 bits, moderate products.

    scale: any shape.
    """
    most = float(scale.max())
    return fmt.bits <= 16 and largest < 1e30 and 1e-30 < float(scale.min()) and most < 1e30 and largest * most < 1e30


def round_in_float32(x: np.ndarray, scale: np.ndarray, low: int, high: int, single: np.ndarray | None = None
                     ) -> np.ndarray:
    """``round_product`` half away from zero, clipped to low..high within ±2^17, as integer-valued float32.

    scale: (), or of as many dimensions as x with size 1 in all but the first. single: x in float32, if it is at hand.
    Near ties, where float32 is not certain, ``round_product`` decides.
    """
    single = x.astype(np.float32) if single is None else single
    whole, near = round_far_from_ties((single * scale.astype(np.float32)).ravel(), low, high)
    if near.size:
        scales = scale.ravel()[near // (x.size // len(x))] if scale.ndim else scale
        whole[near] = np.clip(round_product(x.flat[near], scales, "half_away", limit=2.0**33), low, high)
    return whole.reshape(x.shape)
