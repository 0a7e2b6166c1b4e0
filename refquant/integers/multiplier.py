"""A real multiplier and its fixed-point form.

The scale of a layer's sums is S_x·S_w, that of its output codes S_y; between them lies the real
M = S_y / (S_x·S_w). Hardware multiplies by m·2^(shift-31) instead, m an integer of 31 bits.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.integers.checks import fitting_int64, positive
from refquant.integers.formats import frozen_copy
from refquant.integers.rounding import round_values


@dataclass(frozen=True, eq=False)
class Multiplier:
    """A real multiplier M with its fixed-point form: M ≈ m·2^(shift-31), by ``from_real`` with 2^30 <= m < 2^31.

    (f, shift) = frexp(M); m = round_half_away(f·2^31); m = 2^31 becomes 2^30 with shift + 1; below
    2^-32 m = shift = 0. A positive shift is a left shift, as in TFLite.

    real: float64, exact, > 0. m: int64, 0..2^31 - 1; below 2^30 where several share a shift (``several_sums``).
    shift: int64. All of one shape. ValueError for other shapes and ranges; that m and shift fit ``real`` is not
    checked.
    """

    real: np.ndarray
    m: np.ndarray
    shift: np.ndarray

    def __post_init__(self) -> None:
        real = positive(self.real, "a multiplier").astype(np.float64)
        m, shift = fitting_int64(self.m, "m"), fitting_int64(self.shift, "shift")
        if not real.shape == m.shape == shift.shape:
            raise ValueError(f"real, m and shift must have one shape, got {real.shape}, {m.shape}, {shift.shape}")
        if not ((0 <= m) & (m < 2**31)).all():
            raise ValueError(f"m must be from 0 to 2^31 - 1, got {m.min()}..{m.max()}")
        for name, value in (("real", real), ("m", m.astype(np.int64)), ("shift", shift.astype(np.int64))):
            object.__setattr__(self, name, frozen_copy(value))

    @classmethod
    def from_real(cls, real: Any) -> Multiplier:
        """The multiplier nearest to ``real``: a number, or an array with one per channel.

        ValueError unless every element is finite and above zero.

        >>> M = Multiplier.from_real(0.25)
        >>> int(M.m), int(M.shift)
        (1073741824, -1)
        """
        real = positive(real, "a multiplier").astype(np.float64)
        fraction, shift = np.frexp(real)
        m = round_values(fraction * 2.0**31, "half_away").astype(np.int64)
        shift = np.where(m == 2**31, shift + 1, shift).astype(np.int64)
        m = np.where(m == 2**31, 2**30, m)
        vanishes = shift < -31
        return cls(real, np.where(vanishes, 0, m), np.where(vanishes, 0, shift))

    def shifted_right(self, k: Any) -> Multiplier:
        """M·2^-k with the same m, k more places to the right; k: integers that broadcast against the multiplier.

        ValueError where float64 does not hold M·2^-k.

        >>> M = Multiplier.from_real(0.25).shifted_right([0, 3])
        >>> M.m.tolist(), M.shift.tolist(), M.real.tolist()
        ([1073741824, 1073741824], [-1, -4], [0.25, 0.03125])
        """
        k = fitting_int64(k, "k").astype(np.int64)
        with np.errstate(over="ignore"):  # beyond 4000 places any real vanishes or is infinite, and is refused
            real = np.ldexp(self.real, np.clip(-k, -4000, 4000).astype(np.int32))
        return Multiplier(*np.broadcast_arrays(real, self.m, self.shift - k))

    def along(self, axis: int, ndim: int) -> Multiplier:
        """The same multipliers shaped to broadcast along ``axis`` of an ``ndim``-dimensional array."""
        if self.real.ndim == 0:
            return self
        if not -ndim <= axis < ndim:
            raise ValueError(f"axis must be within {ndim} axes, got {axis}")
        shape = [1] * ndim
        shape[axis] = -1
        shaped = copy.copy(self)  # without checking every value again
        for name in ("real", "m", "shift"):
            object.__setattr__(shaped, name, getattr(self, name).reshape(shape))
        return shaped
