"""Rounding in floats where that is certain: far from every tie, all rules that round to the nearest agree."""

from __future__ import annotations

import numpy as np

NEAREST = ("half_away", "half_even", "half_up", "half_down", "half_toward_zero")


def round_far_from_ties(product: np.ndarray, low: int, high: int, slack: np.ndarray | float = 0.0
                        ) -> tuple[np.ndarray, np.ndarray]:
    """The nearest integers to exact values, clipped to low..high, and the flat indices of those that are not certain.

    product: of two factors in one float type, to which they were rounded, so that it is off by less than twice
    the type's epsilon; overwritten. slack: what else may move a value before it is rounded; broadcasts against
    product. Beyond low..high all clip alike.

    >>> round_far_from_ties(np.array([1.2, 2.5, 9], np.float32), -3, 3)
    (array([1., 2., 3.], dtype=float32), array([1]))
    """
    whole = np.rint(product)
    np.subtract(product, whole, out=product)
    error = 2 * float(np.finfo(product.dtype).eps) * (max(abs(low), abs(high)) + 1)
    nearest = np.asarray(0.5 - error - slack, product.dtype)
    near = np.flatnonzero(np.abs(product, out=product) > nearest)
    return np.clip(whole, low, high, out=whole), near
