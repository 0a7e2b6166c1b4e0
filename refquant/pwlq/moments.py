"""The paper's bias correction, after Banner et al. (2019): quantized weights get their mean and deviation back.

Not to be confused with DFQ's correction of a layer's output means (``recipes.corrections``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.integers.checks import finite, moderate


def match_weight_moments(w: Any, quantized: Any) -> tuple[np.ndarray, np.ndarray]:
    """gain and offset of each output channel, so that gain·ŵ + offset has the mean and the deviation of w.

    gain = σ(w)/σ(ŵ), offset = mean(w) - gain·mean(ŵ). In integers the gain is a part of the channel's multiplier, and
    the offset costs one more sum: offset·Σ x_q. Differs from the authors' code, (ŵ + mean(w) - mean(ŵ))·gain, whose
    mean is gain·mean(w). gain = 1 where w or ŵ has no deviation.

    w: floats (O, ...), the largest magnitude 0 or from 1e-140 to 1e140. quantized: ŵ, likewise. Returns float64 (O,)
    twice. ValueError for anything else.

    >>> gain, offset = match_weight_moments(np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]]))
    >>> gain.tolist(), offset.tolist()
    ([2.0], [1.0])
    """
    w, quantized = (finite(v, name).astype(np.float64) for v, name in ((w, "w"), (quantized, "quantized")))
    if w.shape != quantized.shape or w.ndim < 2 or w.size == 0:
        raise ValueError(f"w and quantized must have one shape (O, ...), got {w.shape} and {quantized.shape}")
    for v, name in ((w, "w"), (quantized, "quantized")):
        moderate(float(np.abs(v).max()), f"{name} must be moderate: its largest magnitude")
    rows, found = w.reshape(len(w), -1), quantized.reshape(len(w), -1)
    wanted, got = rows.std(axis=1), found.std(axis=1)
    usable = (wanted > 1e-9 * np.abs(rows).max(axis=1)) & (got > 1e-9 * np.abs(found).max(axis=1))
    gain = np.divide(wanted, got, out=np.ones(len(w)), where=usable)
    return gain, rows.mean(axis=1) - gain * found.mean(axis=1)
