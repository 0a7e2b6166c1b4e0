"""LiteRT's two softmaxes of codes: gemmlowp's fixed point, and a table of float32 exponentials."""

from __future__ import annotations

import numpy as np

from refquant.runtimes.arithmetic import FLOAT, half_away, rdbpot, split, srdhm

ONE = 2**31 - 1
# exp(-2^k) in Q0.31, k = -2 ... 4.
_FACTORS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def fixed_point(x_q: np.ndarray, step: float, beta: float, least: int) -> np.ndarray:
    """REF: exp from Q5.26 to Q0.31, sums in Q12.19, the reciprocal by three Newton steps. step: of the input.

    The last axis is normalized; codes of the output begin at ``least``, and its step is 1/256.
    """
    m, shift = split(min(float(beta) * float(step) * 2**26, 2.0**31 - 1))
    diff = x_q - x_q.max(axis=-1, keepdims=True)
    seen = diff >= -int((31 * 2**26) // 2**shift)
    exps = np.where(seen, _exp(srdhm(np.where(seen, diff, 0) << shift, m)), 0)
    sums = np.where(seen, rdbpot(exps, 12), 0).sum(axis=-1, keepdims=True)
    zeros = 32 - np.ceil(np.log2(sums + 1.0)).astype(np.int64)  # leading zeros of 32 bits
    scale = _reciprocal((sums << zeros) - 2**31)
    y = rdbpot(srdhm(scale, exps), 12 - zeros + 31 - 8) + least
    return np.where(seen, np.clip(y, least, least + 255), least)


def _exp(a: np.ndarray) -> np.ndarray:
    """exp(a) for a <= 0 in Q5.26, in Q0.31: a quartic about -1/8 and seven factors."""
    quarter = 2**24
    low = (a & (quarter - 1)) - quarter
    x = (low << 5) + 2**28
    square = srdhm(x, x)
    quartic = rdbpot(srdhm(square, square), 2)
    terms = rdbpot(srdhm(quartic + srdhm(square, x), 715827883) + square, 1)
    result = 1895147668 + srdhm(1895147668, x + terms)
    for exponent, factor in enumerate(_FACTORS, start=-2):
        result = np.where((low - a) & (1 << (26 + exponent)), srdhm(result, factor), result)
    return np.where(a == 0, ONE, result)


def _reciprocal(a: np.ndarray) -> np.ndarray:
    """1/(1 + a) for a from 0 to 1 in Q0.31."""
    half = (a + ONE + 1) >> 1  # rounded half of the sum, which is positive
    x = 1515870810 + srdhm(half, -1010580540)  # 48/17 - 32/17·half, Q2.29
    for _ in range(3):
        x = x + np.clip(srdhm(x, 2**29 - srdhm(half, x)) << 2, -(2**31), ONE)
    return np.clip(x << 1, -(2**31), ONE)


def by_table(x_q: np.ndarray, step: float, beta: float, out_step: float, zero: int, signed: bool) -> np.ndarray:
    """OPT and XNN: exponentials of 0 to -255 steps in float32, added one after another."""
    unit = FLOAT(-FLOAT(step) * FLOAT(beta))
    table = np.exp((unit * np.arange(256, dtype=FLOAT)).astype(np.float64)).astype(FLOAT)
    exps = table[x_q.max(axis=-1, keepdims=True) - x_q]
    total = np.zeros(exps.shape[:-1], FLOAT)
    for k in range(exps.shape[-1]):
        total = total + exps[..., k]
    y = exps * (FLOAT(1) / (total * FLOAT(out_step)))[..., None]
    whole = half_away(y) + zero if signed else np.trunc(y + FLOAT(0.5)).astype(np.int64)
    return np.clip(whole, -128 if signed else 0, 127 if signed else 255)
