"""The piecewise linear quantizer of PWLQ (ECCV 2020, arXiv 2002.00104): a fine grid near zero, a coarse one outside.

The range [-m, m] is cut at the breakpoint p into the centre R1 = [-p, p] and the tails R2. Each has its own uniform
grid, and a region bit tells which one a code belongs to. With uni(r; K, a, z) = a + step·round((r - a)/step),
step = (z - a)/K, magnitudes from 0 to K = 2^(b-1) - 1 (Eq. 3):

    pw(r) = sign(r)·uni(|r|; K, 0, p)   for |r| <= p          a code: region 0, sign, magnitude
          = sign(r)·uni(|r|; K, p, m)   for |r| > p           a code: region 1, sign, magnitude
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refquant.integers.checks import as_integers, finite, fitting_int64, integer, one_of
from refquant.integers.formats import frozen_copy
from refquant.integers.rounding import round_values

VARIANTS = ("non_overlapping", "non_overlapping_authors", "overlapping")


class PiecewiseCodes(NamedTuple):
    """region: 0 in the centre, 1 in the tails. sign: 1 or -1. magnitude: 0..K. Three int8 or int32 arrays."""

    region: np.ndarray
    sign: np.ndarray
    magnitude: np.ndarray


@dataclass(frozen=True, eq=False)
class PiecewiseGrid:
    """The levels of one tensor, or of each channel: breakpoint p and limit m, 0 < p < m, in the units of the tensor.

    bits: b, 2..16. variant: ``non_overlapping`` as the paper states it, |r| = p in the centre.
    ``non_overlapping_authors`` as the authors' code computes it: signed b-bit numbers in the centre, with the step
    2p/(2^b - 1), and |r| = p in the tail. ``overlapping``, the authors' option 1: signed b-bit numbers on [-p, p] and
    on [-m, m], with steps 2p/(2^b - 1) and 2m/(2^b - 1), so that the tails have no offset.
    signed: without sign, as after a ReLU, magnitudes have b bits, and all steps are range/(2^b - 1).

    p, m: () or (O,), finite. Magnitudes have the same largest value K in both regions.
    """

    breakpoint: np.ndarray
    limit: np.ndarray
    bits: int
    variant: str = "non_overlapping"
    signed: bool = True

    def __post_init__(self) -> None:
        integer(self.bits, "bits", 2, 16)
        one_of(self.variant, VARIANTS, "variant")
        p, m = (np.asarray(v, np.float64) for v in (self.breakpoint, self.limit))
        if p.shape != m.shape or p.ndim > 1:
            raise ValueError("breakpoint and limit must be two numbers, or one each per channel, got shapes "
                             f"{p.shape} and {m.shape}")
        if not (np.isfinite(m).all() and (0 < p).all() and (p < m).all()):
            worst = np.argmin(np.where(np.isfinite(m) & (0 < p) & (p < m), 1, 0))
            raise ValueError(f"a breakpoint must be above 0 and below the limit, got {np.ravel(p)[worst]} of "
                             f"{np.ravel(m)[worst]}")
        if not isinstance(self.signed, (bool, np.bool_)):
            raise ValueError(f"signed must be True or False, got {self.signed!r}")
        object.__setattr__(self, "signed", bool(self.signed))
        object.__setattr__(self, "breakpoint", frozen_copy(p))
        object.__setattr__(self, "limit", frozen_copy(m))
        if not all((step > 0).all() for step in self.steps):
            raise ValueError(f"both regions must have steps above 0, got a breakpoint of {p.min()} and a limit of "
                             f"{m.min()}")

    @property
    def magnitude_bits(self) -> int:
        """b - 1 beside a sign, else b."""
        return self.bits - self.signed

    @property
    def largest(self) -> int:
        """K, the largest magnitude of either region."""
        return 2**self.magnitude_bits - 1

    @property
    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """The steps of R1 and R2."""
        p, m, levels = self.breakpoint, self.limit, (2.0**self.bits - 1) / (2 if self.signed else 1)
        centre = p / (self.largest if self.variant == "non_overlapping" else levels)
        return centre, m / levels if self.variant == "overlapping" else (m - p) / self.largest

    @property
    def offset(self) -> np.ndarray:
        """Where the tails' magnitudes start: p, or 0 where the regions overlap."""
        return np.zeros_like(self.breakpoint) if self.variant == "overlapping" else self.breakpoint

    def along(self, axis: int | None, ndim: int) -> PiecewiseGrid:
        """Parameters shaped to broadcast along ``axis`` of an array, for internal use."""
        if axis is None or not self.breakpoint.ndim:
            return self
        shape = [1] * ndim
        shape[axis] = -1
        shaped = object.__new__(PiecewiseGrid)
        for name in ("bits", "variant", "signed"):
            object.__setattr__(shaped, name, getattr(self, name))
        for name in ("breakpoint", "limit"):
            object.__setattr__(shaped, name, getattr(self, name).reshape(shape))
        return shaped


def grid_of(p: Any, m: Any, bits: int, variant: str = "non_overlapping", signed: bool = True) -> PiecewiseGrid:
    """The grid of a breakpoint and a limit that are numbers or arrays."""
    return PiecewiseGrid(np.asarray(p, np.float64), np.asarray(m, np.float64), bits, variant, signed)


def quantize(x: Any, grid: PiecewiseGrid, axis: int | None = None) -> PiecewiseCodes:
    """pw(x) as codes (Eq. 3), computed in float64, ties away from zero; beyond ±m the outermost level.

    x: finite floats, any shape; of a grid without sign, what is below 0 becomes 0. axis: along which a grid of
    several channels lies. A magnitude 0 of the centre has sign +. ValueError for NaN and infinity.

    >>> grid = PiecewiseGrid(1.0, 4.0, bits=3)
    >>> quantize(np.array([0.3, -0.6, 1.0, 2.4, -9.0]), grid)
    PiecewiseCodes(region=array([0, 0, 0, 1, 1], dtype=int8), sign=array([ 1, -1,  1,  1, -1], dtype=int8), \
magnitude=array([1, 2, 3, 1, 3], dtype=int32))
    """
    x = finite(x, "x").astype(np.float64)
    grid = _fitting(grid, x, axis)
    r = np.abs(x) if grid.signed else np.maximum(x, 0)
    in_tail = r >= grid.breakpoint if grid.variant == "non_overlapping_authors" else r > grid.breakpoint
    centre, tail = grid.steps
    steps = np.where(in_tail, (r - grid.offset) / tail, r / centre)
    magnitude = np.minimum(round_values(steps, "half_away"), grid.largest).astype(np.int32)
    negative = (x < 0) & (in_tail | (magnitude > 0)) & grid.signed
    return PiecewiseCodes(in_tail.astype(np.int8), np.where(negative, -1, 1).astype(np.int8), magnitude)


def dequantize(codes: PiecewiseCodes, grid: PiecewiseGrid, axis: int | None = None) -> np.ndarray:
    """The reals of codes, float64: sign·step1·magnitude in R1, sign·(offset + step2·magnitude) in R2.

    >>> grid = PiecewiseGrid(1.0, 4.0, bits=3)
    >>> dequantize(quantize(np.array([0.3, -0.6, 2.4]), grid), grid).round(3).tolist()
    [0.333, -0.667, 2.0]
    """
    region, sign, magnitude = (as_integers(part, name) for part, name in zip(codes, codes._fields))
    grid = _fitting(grid, region, axis)
    centre, tail = grid.steps
    return sign * np.where(region == 1, grid.offset + tail * magnitude, centre * magnitude)


def round_trip(x: Any, grid: PiecewiseGrid, axis: int | None = None) -> np.ndarray:
    """pw(x): quantized and back."""
    return dequantize(quantize(x, grid, axis), grid, axis)


def as_signed(codes: PiecewiseCodes, grid: PiecewiseGrid) -> np.ndarray:
    """One integer a code, sign·(region·(K + 1) + magnitude), that rises with its real: b + 1 bits, int32.

    >>> as_signed(quantize(np.array([-0.6, 2.4]), PiecewiseGrid(1.0, 4.0, bits=3)), PiecewiseGrid(1.0, 4.0, bits=3))
    array([-2,  5], dtype=int32)
    """
    return codes.sign * (codes.region * np.int32(grid.largest + 1) + codes.magnitude)


def from_signed(values: Any, grid: PiecewiseGrid) -> PiecewiseCodes:
    """The codes behind ``as_signed``. ValueError for integers that are none."""
    values, most = fitting_int64(values, "values").astype(np.int64), 2 * grid.largest + 1
    if values.size and not (-most * grid.signed <= values.min() and values.max() <= most):
        raise ValueError(f"values must be from {-most if grid.signed else 0} to {most}, got "
                         f"{values.min()}..{values.max()}")
    size = np.abs(values)
    region = size > grid.largest
    return PiecewiseCodes(region.astype(np.int8), np.where(values < 0, -1, 1).astype(np.int8),
                          (size - region * (grid.largest + 1)).astype(np.int32))


def pack(codes: PiecewiseCodes, grid: PiecewiseGrid) -> np.ndarray:
    """Codes of b + 1 bits each, region, sign (1 for -), magnitude, highest bit first, no gaps; uint8 (bytes,)."""
    fields = [codes.region == 1, *([codes.sign < 0] if grid.signed else []),
              *(codes.magnitude >> k & 1 for k in reversed(range(grid.magnitude_bits)))]
    return np.packbits(np.stack([np.ravel(field) for field in fields], axis=1).astype(np.uint8).ravel())


def unpack(packed: Any, shape: tuple[int, ...], grid: PiecewiseGrid) -> PiecewiseCodes:
    """The codes that ``pack`` made of an array of this shape. ValueError for another number of bytes."""
    count, width = int(np.prod(shape)), grid.bits + 1
    packed = np.asarray(packed)
    if packed.dtype != np.uint8 or packed.shape != (-(-count * width // 8),):
        raise ValueError(f"packed must be uint8 of shape ({-(-count * width // 8)},), got {packed.dtype} of shape "
                         f"{packed.shape}")
    bits = np.unpackbits(packed, count=count * width).reshape(count, width)
    weights = 1 << np.arange(grid.magnitude_bits)[::-1]
    sign = np.where(bits[:, 1], -1, 1) if grid.signed else np.ones(count)
    return PiecewiseCodes(bits[:, 0].astype(np.int8).reshape(shape), sign.astype(np.int8).reshape(shape),
                          (bits[:, 1 + grid.signed:] @ weights).astype(np.int32).reshape(shape))


def round_trip_of_pieces(x: Any, breakpoints: Any, limit: float, bits: int) -> np.ndarray:
    """pw(x) with one to three breakpoints p1 < p2 < p3 < m, in floats alone (supplement, Eq. 1); signed.

    x: finite floats, any shape. Every piece from p_l to p_(l+1) has K = 2^(b-1) - 1 steps, and |r| = p_l is in the
    inner piece. Each further breakpoint costs bits in storage, and two accumulators.

    >>> round_trip_of_pieces(np.array([0.9, -3.6]), [1.0, 2.0], 4.0, bits=2).tolist()
    [1.0, -4.0]
    """
    x, K = finite(x, "x").astype(np.float64), 2 ** (integer(bits, "bits", 2, 16) - 1) - 1
    ends = np.array([0.0, *np.ravel(breakpoints), limit], np.float64)
    if not (3 <= len(ends) <= 5 and np.isfinite(ends).all() and (np.diff(ends) > 0).all()):
        raise ValueError(f"breakpoints must be one to three, rising, above 0 and below {limit}, got "
                         f"{np.ravel(breakpoints).tolist()}")
    r = np.minimum(np.abs(x), ends[-1])
    piece = np.clip(np.searchsorted(ends, r, side="left") - 1, 0, len(ends) - 2)
    step = np.diff(ends)[piece] / K
    return np.where(x < 0, -1, 1) * (ends[piece] + step * round_values((r - ends[piece]) / step, "half_away"))


def _fitting(grid: PiecewiseGrid, x: np.ndarray, axis: int | None) -> PiecewiseGrid:
    if grid.breakpoint.ndim and axis is None:
        raise ValueError(f"axis must be given for a grid of {grid.breakpoint.size} channels, got None")
    if axis is not None:
        axis = integer(axis, "axis", -x.ndim, x.ndim - 1)
        if grid.breakpoint.ndim and x.shape[axis] != grid.breakpoint.size:
            raise ValueError(f"axis {axis} must have {grid.breakpoint.size} channels, got shape {x.shape}")
    return grid.along(axis, x.ndim)
