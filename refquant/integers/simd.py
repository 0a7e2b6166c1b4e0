"""Vector instructions of Arm's Advanced SIMD, lane by lane, as NEON's manual defines them.

Arrays of any shape stand for lanes. SADALP and SDOT combine neighbours along the last axis; all others work lane by
lane.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.integers.formats import IntFormat, check_codes, saturate, wrap
from refquant.integers.rounding import shift_right

INT8, INT16, INT32 = IntFormat(8), IntFormat(16), IntFormat(32)


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


def mla(acc: Any, a: Any, b: Any) -> np.ndarray:
    """MLA on int16 lanes: acc + a·b modulo 2^16; for operands that were widened because int8 does not hold them.

    >>> mla([0], [255], [127])
    array([32385], dtype=int16)
    """
    return wrap(check_codes(acc, INT16, "acc") + check_codes(a, INT16, "a") * check_codes(b, INT16, "b"), INT16)


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
