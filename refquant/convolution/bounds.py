"""Proven worst cases of integer sums: exact, attained at the corners of the box, with inputs that attain them.

A linear or bilinear form over a box of codes has its extremes at corners of the box, where every operand is the
least or the greatest code. ``winograd_bounds`` applies this to the stages of Winograd convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.convolution.blas import exact_dtype, largest_weight_sum
from refquant.integers.accumulation import LANES, product_corners, product_range, safe_products_per_lane
from refquant.integers.checks import as_integers, integer
from refquant.integers.formats import IntFormat, check_format, smallest_format
from refquant.integers.simd import INT16
from refquant.integers.stages import StageRange


def dot_product_range(w_q: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Per output channel, the least and greatest Σ w_q·x over all x with low <= x_i <= high.

    Every product is at its extreme where x is ``low`` or ``high`` by the sign of its weight, so both
    values are attained. low <= 0 <= high: then they also bound every partial sum, in any order.

    w_q: integers (O, ...). Returns two int64 arrays (O,). ValueError where 0 is not in the range,
    OverflowError where int64 is not proven to hold the sums.

    >>> dot_product_range(np.array([[3, -2]]), -63, 63)
    (array([-315]), array([315]))
    """
    if not low <= 0 <= high:
        raise ValueError(f"the range must contain 0, got {low}..{high}")
    w_q = as_integers(w_q, "weight").reshape(len(w_q), -1)
    exact_dtype(largest_weight_sum(w_q) * max(-low, high, 1))
    w_q = w_q.astype(np.int64)
    positive, negative = np.maximum(w_q, 0).sum(axis=1), np.minimum(w_q, 0).sum(axis=1)
    return positive * low + negative * high, positive * high + negative * low


@dataclass(frozen=True, eq=False)
class StageBound(StageRange):
    """The exact range of one stage over all codes of its operands, with operands that attain both ends.

    x_min, w_min: read-only codes (C, ., .) of input and kernel that make the stage contain ``min``, None for an
    operand the stage does not depend on; x_max and w_max likewise. ``stage_bound`` chooses the format.
    """

    x_min: np.ndarray | None = None
    w_min: np.ndarray | None = None
    x_max: np.ndarray | None = None
    w_max: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("x_min", "w_min", "x_max", "w_max"):
            if getattr(self, name) is not None:
                view = getattr(self, name).view()  # no copy: witnesses that repeat one channel cost no memory
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    @property
    def bits(self) -> int:
        """The fewest bits that hold the range: with a sign, or without where nothing is negative."""
        return smallest_format(self.min, self.max).bits

    @property
    def witness(self) -> str:
        """The operands at ``max`` in short: the signs of one channel, row by row, where ``+`` is the greatest code.

        >>> print(direct_bounds(IntFormat(7), IntFormat(7), 64, (1, 3))[0].witness)
        x ---, w ---
        """
        return _shown(self.x_max, self.w_max)

    @property
    def witness_min(self) -> str:
        """The operands at ``min``, likewise."""
        return _shown(self.x_min, self.w_min)


def stage_bound(stage: str, low: int, high: int, x_min: np.ndarray | None = None, w_min: np.ndarray | None = None,
                x_max: np.ndarray | None = None, w_max: np.ndarray | None = None) -> StageBound:
    """A ``StageBound`` in the smallest register, of 8, 16, 32 or 64 bits, that holds it; lanes are int16 by design.

    OverflowError where int64 does not hold the range.
    """
    if low < -2**63 or high >= 2**63:
        raise OverflowError(f"stage {stage} can reach {low}..{high}, which int64 does not hold")
    fewest = smallest_format(low, high)
    fmt = INT16 if stage == "lane" else IntFormat(8 * fewest.dtype.itemsize, fewest.signed)
    return StageBound(stage, fmt, low, high, "", x_min, w_min, x_max, w_max)


def _shown(x: np.ndarray | None, w: np.ndarray | None) -> str:
    return ", ".join(f"{name} {_signs(codes[0])}" for name, codes in (("x", x), ("w", w)) if codes is not None)


def _signs(plane: np.ndarray) -> str:
    return "/".join("".join("0+-"[int(v)] for v in row) for row in np.sign(plane))


def direct_bounds(x_format: IntFormat, w_format: IntFormat, channels: int,
                  kernel: tuple[int, int]) -> tuple[StageBound, ...]:
    """The exact ranges of direct convolution: ``direct``, the sum of all products, and ``lane``, an int16 lane.

    A sum of K = C·R·S products is at its extremes where each product is at the same corner of
    x_format x w_format. A lane sees every eighth element, ceil(K/8) in all, and is emptied after
    ``safe_products_per_lane`` of them (``accumulation.dot_int16``). There is no ``lane`` where lanes cannot be used:
    for operands of more than 8 bits, or one product beyond int16. The witnesses are (C, R, S), constant.
    OverflowError where int64 does not hold a range or a code.

    >>> for bound in direct_bounds(IntFormat(7), IntFormat(7), 64, (3, 3)):
    ...     print(bound.stage, bound.min, bound.max, bound.bits)
    direct -2322432 2359296 23
    lane -28224 28672 16
    """
    products = integer(channels, "channels", 1)
    for size in kernel:
        products *= integer(size, "kernel", 1)
    corners = product_corners(x_format, w_format)
    for fmt, name in ((x_format, "x_format"), (w_format, "w_format")):
        if fmt.max >= 2**63:
            raise OverflowError(f"{name} must hold codes of int64, got {fmt}")
    low, high = min(corners), max(corners)
    witnesses = [np.broadcast_to(np.int64(code), (channels, *kernel)) for code in (*low[1:], *high[1:])]

    def repeated(stage: str, count: int) -> StageBound:
        return stage_bound(stage, count * low[0], count * high[0], *witnesses)

    direct = repeated("direct", products)
    bytes_only = max(x_format.bits, w_format.bits) <= 8
    if not bytes_only or low[0] < INT16.min or high[0] > INT16.max:
        return (direct,)
    return direct, repeated("lane", min(safe_products_per_lane(x_format, w_format), -(-products // LANES)))


def largest_count(low: int, high: int, accumulator: IntFormat, bias: IntFormat | None = None) -> int:
    """How many values of low..high always add up within ``accumulator``: the most, for one more may leave it.

    bias: a code of this format is added too. 0 where not even one value and the bias fit.
    ValueError unless low <= 0 <= high and one of them is not 0.

    >>> largest_count(-142884, 142884, IntFormat(32))  # input channels of integer F(2,3) at 7 bits
    15029
    >>> largest_count(-142884, 142884, IntFormat(32), IntFormat(31))  # -2^30..2^30 - 1 are taken
    7514
    """
    if not low <= 0 <= high or low == high:
        raise ValueError(f"the range must contain 0 and another value, got {low}..{high}")
    room = (accumulator.max - (bias.max if bias else 0), accumulator.min - (min(bias.min, 0) if bias else 0))
    if room[0] < 0 or room[1] > 0:
        return 0
    return min(limit // value for limit, value in zip(room, (high, low)) if value)


def l1_budget(x_format: IntFormat, accumulator: IntFormat) -> int:
    """The largest Σ|w_q| for which no x of ``x_format`` takes Σ w_q·x, or a part of it, out of ``accumulator``.

        ||w_q||_1 <= (2^(P-1) - 1) / max|x|

    This is A2Q's bound (Colbert et al. 2023) for an accumulator of P bits with sign. A2Q writes 2^(N-1) for signed x
    of N bits, and 2^N for unsigned x, in place of max|x|. Tight: one unit more overflows for some w_q and x.
    ValueError for an accumulator without sign: no weight may be negative there.

    >>> l1_budget(IntFormat(7, narrow=True), IntFormat(16))  # 8 products of 63·63, and 16 units more
    520
    """
    check_format(x_format, "x_format")
    if not check_format(accumulator, "accumulator").signed:
        raise ValueError(f"accumulator must be signed, got {accumulator}")
    return largest_count(-max(x_format.max, -x_format.min), max(x_format.max, -x_format.min), accumulator)


def widest_operand(products: int, other: IntFormat, accumulator: IntFormat, *, signed: bool = True,
                   narrow: bool = True) -> IntFormat:
    """The operand format of most bits of which ``products`` products with ``other`` always fit ``accumulator``.

    A2Q's bound turned around: what the accumulator and the layer's size leave for the weights, given the
    activations, or the reverse. signed, narrow: of the wanted format. ValueError where not even its
    fewest bits fit.

    >>> seven = IntFormat(7, narrow=True)
    >>> str(widest_operand(64 * 9, seven, IntFormat(24)))
    'int8 narrow'
    >>> widest_operand(64 * 9, seven, IntFormat(16))
    Traceback (most recent call last):
    ...
    ValueError: 576 products of int7 narrow and int2 narrow must fit int16, got -36288..36288
    """
    integer(products, "products", 1)
    narrow = narrow and signed
    widest = None
    for bits in range(1 + narrow, 65):
        fmt = IntFormat(bits, signed, narrow)
        low, high = product_range(fmt, other)
        if not accumulator.min <= products * low <= products * high <= accumulator.max:
            break
        widest = fmt
    if widest is None:
        raise ValueError(f"{products} products of {other} and {fmt} must fit {accumulator}, "
                         f"got {products * low}..{products * high}")
    return widest
