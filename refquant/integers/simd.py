"""Vector instructions of Arm's Advanced SIMD, lane by lane, and the int16 dot product built on them.

A 7-bit multiply-accumulate loop (EasyQuant, section on INT7 inference) multiplies int8 pairs into
eight int16 lanes with SMLAL, and before a lane can overflow empties them into four int32 lanes with
SADALP, which adds neighbours. Arrays of any shape stand for lanes; widening and pairing instructions
work along the last axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refquant.integers.checks import is_integer
from refquant.integers.formats import IntFormat, apply_policy, check_codes, saturate, wrap
from refquant.integers.rounding import shift_right

INT8, INT16, INT32 = IntFormat(8), IntFormat(16), IntFormat(32)
LANES = 8


def smull(a: Any, b: Any) -> np.ndarray:
    """SMULL: int8 x int8 to int16, lane by lane; no product overflows.

    >>> smull([-128, 3], [-128, 5])
    array([16384,    15], dtype=int16)
    """
    return (check_codes(a, INT8, "a") * check_codes(b, INT8, "b")).astype(np.int16)


def smlal(acc: Any, a: Any, b: Any) -> np.ndarray:
    """SMLAL: int16 acc + int8 a x int8 b, modulo 2^16, lane by lane.

    >>> smlal([32767], [1], [1])
    array([-32768], dtype=int16)
    """
    return wrap(check_codes(acc, INT16, "acc") + check_codes(a, INT8, "a") * check_codes(b, INT8, "b"), INT16)


def sadalp(acc: Any, x: Any) -> np.ndarray:
    """SADALP: int32 acc[i] + int16 x[2i] + x[2i+1], modulo 2^32. x has twice acc's last axis.

    >>> sadalp([10, 20], [1, 2, 3, 4])
    array([13, 27], dtype=int32)
    """
    acc, x = check_codes(acc, INT32, "acc"), check_codes(x, INT16, "x")
    if acc.ndim == 0 or x.shape != (*acc.shape[:-1], 2 * acc.shape[-1]):
        raise ValueError(f"x must have twice the lanes of acc, got shapes {x.shape} and {acc.shape}")
    return wrap(acc + x[..., 0::2] + x[..., 1::2], INT32)


def sqrdmulh(a: Any, b: Any) -> np.ndarray:
    """SQRDMULH on int32 lanes: saturate((2·a·b + 2^31) >> 32); only INT32_MIN twice saturates.

    >>> sqrdmulh([-2**31, 3], [-2**31, 2**30])
    array([2147483647,          2], dtype=int32)
    """
    # (2ab + 2^31) >> 32 is ab / 2^31 rounded with ties up, and |ab| <= 2^62 fits int64.
    return saturate(shift_right(check_codes(a, INT32, "a") * check_codes(b, INT32, "b"), 31, "half_up"), INT32)


def srshl(x: Any, shift: Any) -> np.ndarray:
    """SRSHL on int32 lanes: shift left (modulo 2^32); a negative shift goes right, ties up.

    shift: -128..127, as the instruction reads a signed byte. Right by 32 or more gives 0.

    >>> srshl([5, -5, 3], [-1, -1, 2])
    array([ 3, -2, 12], dtype=int32)
    """
    x, shift = check_codes(x, INT32, "x"), check_codes(shift, INT8, "shift")
    # Any |x| <= 2^31 shifted right by 33 or more rounds to 0; 40 stands for all of those.
    right = shift_right(x, np.clip(-shift, 0, 40), "half_up")
    left = np.where(shift > 31, 0, x << np.clip(shift, 0, 31))
    return wrap(np.where(shift < 0, right, left), INT32)


def sqxtn(x: Any) -> np.ndarray:
    """SQXTN: int16 lanes saturated to int8.

    >>> sqxtn([-200, 100, 300])
    array([-128,  100,  127], dtype=int8)
    """
    return saturate(check_codes(x, INT16, "x"), INT8)


def sdot(acc: Any, a: Any, b: Any) -> np.ndarray:
    """SDOT: int32 acc[i] + Σ_{j<4} a[4i+j]·b[4i+j], int8 operands, modulo 2^32.

    >>> sdot([1], [1, 2, 3, 4], [1, 1, 1, -1])
    array([3], dtype=int32)
    """
    acc, products = check_codes(acc, INT32, "acc"), check_codes(a, INT8, "a") * check_codes(b, INT8, "b")
    if acc.ndim == 0 or products.shape != (*acc.shape[:-1], 4 * acc.shape[-1]):
        raise ValueError(f"a and b must have four times the lanes of acc, got {products.shape} for {acc.shape}")
    return wrap(acc + products.reshape(*acc.shape, 4).sum(axis=-1), INT32)


def product_range(x_format: IntFormat, w_format: IntFormat) -> tuple[int, int]:
    """The least and greatest product of a code of each format: attained at the ends of their ranges."""
    corners = [x * w for x in (x_format.min, x_format.max) for w in (w_format.min, w_format.max)]
    return min(corners), max(corners)


def safe_schedule(x_format: IntFormat, w_format: IntFormat) -> int:
    """How many products of these formats always fit in an int16 lane: the k of the safe schedule.

    The largest k with k·(least product) >= -2^15 and k·(greatest) <= 2^15 - 1. Tight: k + 1 products
    at the extreme leave the lane (``overflow_witness``). ValueError where not even one product fits.

    >>> safe_schedule(IntFormat(7, narrow=True), IntFormat(7, narrow=True))
    8
    >>> safe_schedule(IntFormat(7), IntFormat(7))  # -64 in both operands
    7
    """
    low, high = product_range(x_format, w_format)
    limits = ([INT16.max // high] if high > 0 else []) + ([INT16.min // low] if low < 0 else [])
    k = min(limits)
    if k < 1:
        raise ValueError(f"one product of {x_format} and {w_format} must fit int16, got {low}..{high}")
    return k


def overflow_witness(x_format: IntFormat, w_format: IntFormat) -> tuple[int, int]:
    """Codes (x, w) whose product leaves an int16 lane after safe_schedule + 1 repetitions.

    >>> overflow_witness(IntFormat(7), IntFormat(7))
    (-64, -64)
    """
    k = safe_schedule(x_format, w_format)
    for x in (x_format.min, x_format.max):
        for w in (w_format.min, w_format.max):
            if not INT16.min <= (k + 1) * x * w <= INT16.max:
                return x, w
    raise ValueError(f"no number of products of {x_format} and {w_format} leaves int16")


class LaneStep(NamedTuple):
    """What one instruction of ``dot_int16`` would leave in its lanes, before the policy is applied."""

    instruction: str  # SMLAL or SADALP
    step: int  # counts the groups of eight elements
    lanes: np.ndarray  # int64 (..., 8) after SMLAL, (..., 4) after SADALP


def check_schedule(schedule: int | str, x_format: IntFormat, w_format: IntFormat) -> int:
    """Products per int16 lane: computed from the formats for "safe", else the given integer >= 1."""
    for fmt, name in ((x_format, "x_format"), (w_format, "w_format")):
        # The operands are bytes.
        if fmt.bits > 8:
            raise ValueError(f"{name} must have at most 8 bits, got {fmt}")
    if isinstance(schedule, str) and schedule == "safe":
        return safe_schedule(x_format, w_format)
    if isinstance(schedule, str) or not is_integer(schedule) or schedule < 1:
        raise ValueError(f"schedule must be 'safe' or an integer >= 1, got {schedule!r}")
    return int(schedule)


def dot_int16(x_q: Any, w_q: Any, x_format: IntFormat, w_format: IntFormat, schedule: int | str = "safe",
              policy: str = "trap", trace: bool = False) -> Any:
    """Σ x_q·w_q along the last axis, through int16 lanes.

    Element i goes to lane i mod 8. Each step multiplies eight elements into eight int16 lanes (SMLAL);
    after ``schedule`` steps, and at the end, SADALP adds the lanes in pairs into four int32 lanes and the
    int16 lanes restart from zero; last, the four are added to one int32.

    x_q, w_q: integers (..., K) that broadcast, codes of their formats, at most 8 bits each. (SMLAL takes
    unsigned codes of up to 7 bits as they are; uint8 codes are widened first, then MLA.) schedule:
    "safe" computes the products per lane from the formats, an integer forces it. policy: what happens
    to a lane that leaves its format: wrap, saturate, or trap (OverflowError naming instruction, step,
    lane, value). Returns int32 (...), with ``trace`` the pair (sums, list of LaneStep).

    >>> seven = IntFormat(7, narrow=True)
    >>> int(dot_int16([63] * 72, [63] * 72, seven, seven))
    285768
    >>> dot_int16([63] * 72, [63] * 72, seven, seven, schedule=9)
    Traceback (most recent call last):
    ...
    OverflowError: SMLAL at step 8, lane[0] is 35721, outside int16 (-32768..32767)
    """
    every = check_schedule(schedule, x_format, w_format)
    x_q, w_q = check_codes(x_q, x_format, "x_q"), check_codes(w_q, w_format, "w_q")
    if not (x_q.ndim and w_q.ndim) or x_q.shape[-1] != w_q.shape[-1] or x_q.shape[-1] == 0:
        raise ValueError(f"x_q and w_q must share a last axis of length >= 1, got {x_q.shape} and {w_q.shape}")
    try:
        np.broadcast_shapes(x_q.shape, w_q.shape)
    except ValueError:
        raise ValueError(f"x_q and w_q must broadcast, got {x_q.shape} and {w_q.shape}") from None
    steps: list[LaneStep] = []
    total = run_lanes(x_q, w_q, every, policy, steps.append if trace else None)
    return (total, steps) if trace else total


def run_lanes(x_q: np.ndarray, w_q: np.ndarray, every: int, policy: str,
              seen: Callable[[LaneStep], None] | None = None, place: str = "") -> np.ndarray:
    """``dot_int16`` on checked int64 operands; ``seen`` is shown every step, ``place`` begins each error."""
    def settle(instruction: str, step: int, lanes: np.ndarray, fmt: IntFormat) -> np.ndarray:
        if seen is not None:
            seen(LaneStep(instruction, step, lanes))
        return apply_policy(lanes, fmt, policy, f"{place}{instruction} at step {step}, lane").astype(np.int64)

    count = -(-x_q.shape[-1] // LANES)
    x_q, w_q = (_in_steps(operand, count) for operand in (x_q, w_q))
    wide: Any = 0
    narrow: Any = 0
    for step in range(count):
        narrow = settle("SMLAL", step, narrow + x_q[..., step, :] * w_q[..., step, :], INT16)
        if (step + 1) % every == 0 or step + 1 == count:
            wide = settle("SADALP", step, wide + narrow[..., 0::2] + narrow[..., 1::2], INT32)
            narrow = 0
    return apply_policy(wide.sum(axis=-1), INT32, policy, f"{place}ADDV")


def _in_steps(operand: np.ndarray, count: int) -> np.ndarray:
    """(..., K) as (..., count, 8), the last step filled up with zeros."""
    missing = count * LANES - operand.shape[-1]
    operand = np.pad(operand, [(0, 0)] * (operand.ndim - 1) + [(0, missing)])
    return operand.reshape(*operand.shape[:-1], count, LANES)
