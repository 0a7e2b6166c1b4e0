"""Adding products of codes in registers: int16 lanes as EasyQuant uses them, and one register after another.

A 7-bit multiply-accumulate loop (EasyQuant, section on INT7 inference) multiplies int8 pairs into eight int16 lanes
with SMLAL, and before a lane can overflow empties them into four int32 lanes with SADALP, which adds neighbours. An
array of multipliers without lanes adds product after product in one register.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, is_integer, one_of
from refquant.integers.formats import POLICIES, IntFormat, apply_policy, check_codes, check_format, wrap
from refquant.integers.simd import INT8, INT16, INT32, mla, sadalp, smlal
from refquant.integers.stages import Trace

LANES = 8


def product_corners(x_format: IntFormat, w_format: IntFormat) -> list[tuple[int, int, int]]:
    """(x·w, x, w) for the ends of both formats, the least codes first; ValueError unless both are formats."""
    x_ends, w_ends = ((check_format(fmt, name).min, fmt.max) for fmt, name in (
        (x_format, "x_format"), (w_format, "w_format")))
    return [(x * w, x, w) for x in x_ends for w in w_ends]


def product_range(x_format: IntFormat, w_format: IntFormat) -> tuple[int, int]:
    """The least and greatest product of a code of each format: attained at the ends of their ranges."""
    products = [product for product, _, _ in product_corners(x_format, w_format)]
    return min(products), max(products)


def safe_products_per_lane(x_format: IntFormat, w_format: IntFormat) -> int:
    """How many products of these formats always fit in an int16 lane: the k of the safe schedule.

    The largest k with k·(least product) >= -2^15 and k·(greatest) <= 2^15 - 1. Tight: k + 1 products
    at the extreme leave the lane (``overflow_witness``). ValueError where not even one product fits.

    >>> safe_products_per_lane(IntFormat(7, narrow=True), IntFormat(7, narrow=True))
    8
    >>> safe_products_per_lane(IntFormat(7), IntFormat(7))  # -64 in both operands
    7
    """
    low, high = product_range(x_format, w_format)
    limits = ([INT16.max // high] if high > 0 else []) + ([INT16.min // low] if low < 0 else [])
    k = min(limits)
    if k < 1:
        raise ValueError(f"one product of {x_format} and {w_format} must fit int16, got {low}..{high}")
    return k


def overflow_witness(x_format: IntFormat, w_format: IntFormat) -> tuple[int, int]:
    """Codes (x, w) whose product leaves an int16 lane after safe_products_per_lane + 1 repetitions.

    >>> overflow_witness(IntFormat(7), IntFormat(7))
    (-64, -64)
    """
    k = safe_products_per_lane(x_format, w_format)
    corners = product_corners(x_format, w_format)
    return next((x, w) for product, x, w in corners if not INT16.min <= (k + 1) * product <= INT16.max)


def check_products_per_lane(products_per_lane: int | str, x_format: IntFormat, w_format: IntFormat) -> int:
    """Products per int16 lane: computed from the formats for "safe", else the given integer >= 1."""
    for fmt, name in ((x_format, "x_format"), (w_format, "w_format")):
        check_format(fmt, name)
        # The operands are bytes.
        if fmt.bits > 8:
            raise ValueError(f"{name} must have at most 8 bits, got {fmt}")
    if isinstance(products_per_lane, str) and products_per_lane == "safe":
        return safe_products_per_lane(x_format, w_format)
    if isinstance(products_per_lane, str) or not is_integer(products_per_lane) or products_per_lane < 1:
        raise ValueError(f"products_per_lane must be 'safe' or an integer >= 1, got {products_per_lane!r}")
    return int(products_per_lane)


def dot_int16(x_q: Any, w_q: Any, x_format: IntFormat, w_format: IntFormat, products_per_lane: int | str = "safe",
              policy: str = "trap", trace: Trace | None = None) -> np.ndarray:
    """Σ x_q·w_q along the last axis, through int16 lanes.

    Element i goes to lane i mod 8. Each step multiplies eight elements into eight int16 lanes (SMLAL);
    after ``products_per_lane`` steps, and at the end, SADALP adds the lanes in pairs into four int32 lanes and the
    int16 lanes restart from zero; last, ADDV adds the four to one int32.

    x_q, w_q: integers (..., K) that broadcast, codes of their formats, at most 8 bits each. Where a format reaches
    beyond int8, as uint8 does, operands are widened and MLA is used; traces and errors still say SMLAL.
    products_per_lane: "safe" computes the products per lane from the formats; an integer forces it.
    policy: what happens to a lane that leaves its format: wrap, as the instructions do, saturate, or trap
    (OverflowError naming instruction, step, lane, value).
    trace: is shown every step's lanes, as SMLAL, SADALP and ADDV (``stages.Trace``).
    Returns int32 (...).

    >>> seven = IntFormat(7, narrow=True)
    >>> int(dot_int16([63] * 72, [63] * 72, seven, seven))
    285768
    >>> dot_int16([63] * 72, [63] * 72, seven, seven, products_per_lane=9)
    Traceback (most recent call last):
    ...
    OverflowError: SMLAL at step 8, lane[0] is 35721, outside int16 (-32768..32767)
    """
    per_lane = check_products_per_lane(products_per_lane, x_format, w_format)
    x_q, w_q = check_operands(x_q, w_q, x_format, w_format)
    shape, k = np.broadcast_shapes(x_q.shape, w_q.shape)[:-1], x_q.shape[-1]
    bytes_only = all(INT8.min <= fmt.min and fmt.max <= INT8.max for fmt in (x_format, w_format))
    multiply_add = smlal if bytes_only else mla

    def settle(stage: str, fmt: IntFormat, exact: np.ndarray, wrapped: np.ndarray, where: str) -> np.ndarray:
        kept = wrapped if policy == "wrap" else apply_policy(exact, fmt, policy, where)
        if trace is not None:
            trace(stage, fmt, exact, kept)
        return kept

    one_of(policy, POLICIES, "policy")
    narrow, wide = np.zeros((*shape, LANES), np.int16), np.zeros((*shape, LANES // 2), np.int32)
    steps = -(-k // LANES)
    for step in range(steps):
        x, w = (_eight(operand, step) for operand in (x_q, w_q))
        narrow = settle("SMLAL", INT16, narrow + x * w, multiply_add(narrow, x, w), f"SMLAL at step {step}, lane")
        if (step + 1) % per_lane == 0 or step + 1 == steps:
            exact = wide + narrow[..., 0::2].astype(np.int64) + narrow[..., 1::2]
            wide = settle("SADALP", INT32, exact, sadalp(wide, narrow), f"SADALP at step {step}, lane")
            narrow = np.zeros_like(narrow)
    total = wide.sum(axis=-1, dtype=np.int64)
    return settle("ADDV", INT32, total, wrap(total, INT32), "ADDV")


def _eight(operand: np.ndarray, step: int) -> np.ndarray:
    """Elements 8·step to 8·step + 7, zeros beyond the end."""
    some = operand[..., LANES * step:LANES * (step + 1)]
    return np.pad(some, [(0, 0)] * (some.ndim - 1) + [(0, LANES - some.shape[-1])])


def check_operands(x_q: Any, w_q: Any, x_format: IntFormat, w_format: IntFormat) -> tuple[np.ndarray, np.ndarray]:
    """Both as int64; ValueError unless they are codes of their formats that broadcast, with one last axis."""
    x_q, w_q = check_codes(x_q, x_format, "x_q"), check_codes(w_q, w_format, "w_q")
    if not (x_q.ndim and w_q.ndim) or x_q.shape[-1] != w_q.shape[-1] or x_q.shape[-1] == 0:
        raise ValueError(f"x_q and w_q must share a last axis of length >= 1, got {x_q.shape} and {w_q.shape}")
    try:
        np.broadcast_shapes(x_q.shape, w_q.shape)
    except ValueError:
        raise ValueError(f"x_q and w_q must broadcast, got {x_q.shape} and {w_q.shape}") from None
    return x_q, w_q


def dot_sequential(x_q: Any, w_q: Any, x_format: IntFormat, w_format: IntFormat, accumulator: IntFormat,
                   policy: str = "trap", order: Any = None, trace: Trace | None = None) -> np.ndarray:
    """Σ x_q·w_q along the last axis in one register: product after product, as an array of MACs adds.

    acc <- policy(acc + x_q[k]·w_q[k]) for each k in ``order``, from acc = 0.

    x_q, w_q: integers (..., K) that broadcast, codes of their formats; a product must fit 63 bits.
    accumulator: a signed format; one of 64 bits is not narrow.
    policy: wrap, saturate, or trap (OverflowError naming product and value). Under saturate the order matters.
    order: the indices 0..K-1, each once; by default ascending.
    trace: is shown the register after every product, as "sum".
    Returns int64 (...).

    >>> eight, nine = IntFormat(8), IntFormat(9)
    >>> [int(dot_sequential([100, 100, -100], [2, 2, 2], eight, eight, nine, "saturate", order))
    ...  for order in ([0, 1, 2], [0, 2, 1])]
    [55, 200]
    """
    x_q, w_q = check_operands(x_q, w_q, x_format, w_format)
    if not isinstance(accumulator, IntFormat) or not accumulator.signed:
        raise ValueError(f"accumulator must be a signed IntFormat, got {accumulator}")
    if accumulator.narrow and accumulator.bits == 64:
        raise ValueError(f"accumulator must not be narrow at 64 bits, got {accumulator}")
    one_of(policy, POLICIES, "policy")
    low, high = product_range(x_format, w_format)
    if low < -2**62 or high >= 2**62:
        raise ValueError(f"one product must fit 63 bits, got {low}..{high}")
    steps = np.arange(x_q.shape[-1]) if order is None else as_integers(order, "order")
    if steps.ndim != 1 or sorted(steps.tolist()) != list(range(x_q.shape[-1])):
        raise ValueError(f"order must hold 0..{x_q.shape[-1] - 1}, each once, got {order!r}")
    acc = np.zeros((), np.int64)
    for k in steps.tolist():
        product = x_q[..., k] * w_q[..., k]
        total = np.asarray(acc + product)
        if accumulator.bits == 64:
            # int64 itself wraps; it did where both operands have one sign and the sum has the other.
            left = ((acc ^ total) & (product ^ total)) < 0
            if policy == "trap" and left.any():
                raise OverflowError(f"the sum after product {k} leaves {accumulator}")
            if policy == "saturate":
                total = np.where(left, np.where(product < 0, accumulator.min, accumulator.max), total)
            kept = total
        else:
            kept = apply_policy(total, accumulator, policy, f"the sum after product {k}").astype(np.int64)
        if trace is not None:
            trace("sum", accumulator, total, kept)
        acc = kept
    return acc
