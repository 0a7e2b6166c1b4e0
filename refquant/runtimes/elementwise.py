"""LiteRT's operators value by value, means, and what moves codes: one function per rule, as in ``operators``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from refquant.integers.formats import IntFormat, saturate, wrap
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.runtimes.arithmetic import FLOAT, INT32, as_int32, away, half_away, rdbpot, split, wrap32
from refquant.runtimes.fast import double_rounded, neon
from refquant.runtimes.model import Operation, Tensor
from refquant.runtimes.operators import block_of, clamped, ends_of, in_blocks, rows_of

_INT16 = IntFormat(16)


def _clip(codes: np.ndarray, y: Tensor) -> np.ndarray:
    low, high = ends_of(y)
    return np.clip(codes, low, high)


# --- products -----------------------------------------------------------------------------------------------------

def _product(inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> tuple[np.ndarray, Any]:
    a, b = inputs
    return (codes[0] - a.zero) * (codes[1] - b.zero), (a.step[0] * b.step[0]) / y.step[0]


def multiply_reference(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """MUL: A of the product, M in float32."""
    product, M = _product(inputs, y, codes)
    return clamped(double_rounded(product, float(M)) + y.zero, op.options["FusedActivationFunction"], y)


def multiply_blocks(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """MUL: the same; in blocks of 16 of each row (uint8: 8) it is held in 16 bits.

    It saturates there, but uint8 with a scalar wraps; all wrap when the zero point is added.
    """
    product, M = _product(inputs, y, codes)
    length, scalar = rows_of(inputs, y)
    reference = multiply_reference(op, inputs, y, codes)
    if not length:
        return reference
    scaled, wraps = double_rounded(product, float(M)), scalar and y.dtype == np.uint8
    held = (wrap if wraps else saturate)(scaled, _INT16).astype(np.int64) + y.zero
    whole = clamped(wrap(held, _INT16).astype(np.int64), op.options["FusedActivationFunction"], y)
    return in_blocks(whole, reference, block_of(y), length)


def multiply_float(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """MUL: the product in float32 times M, rounded to even; from 256 on M falls back to blocks."""
    product, M = _product(inputs, y, codes)
    if M >= 256:
        return multiply_blocks(op, inputs, y, codes)
    whole = np.rint(product.astype(FLOAT) * M).astype(np.int64) + y.zero
    return clamped(whole, op.options["FusedActivationFunction"], y, True)


# --- means --------------------------------------------------------------------------------------------------------

def _sum_over_planes(x_q: np.ndarray) -> tuple[np.ndarray, int]:
    return x_q.sum(axis=(1, 2)), int(x_q.shape[1] * x_q.shape[2])


def mean_reference(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """MEAN over H and W: the division by n is in the multiplier."""
    total, n = _sum_over_planes(codes[0])
    m, s = split(float(inputs[0].step[0]) / float(y.step[0]))
    k = min(n.bit_length() - 1, 32, 31 + s)
    multiplier = Multiplier(np.asarray(1.0), np.asarray((m << k) // n), np.asarray(s - k))
    whole = requantize(total - n * inputs[0].zero, multiplier, INT32, "gemmlowp_double").astype(np.int64)
    return _clip(whole + y.zero, y).reshape(len(total), *y.shape[1:])


def mean_blocks(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """MEAN as reference; with kept dimensions, on one thread, blocks of 16 channels B of raw sums, the rest A."""
    if not op.options["KeepDims"]:
        return mean_reference(op, inputs, y, codes)
    total, n = _sum_over_planes(codes[0])
    x = inputs[0]
    M = float(x.step[0] / (FLOAT(n) * y.step[0]))
    t = FLOAT(x.zero) * x.step[0] / y.step[0]
    bias = y.zero - int(half_away(t))
    end = total.shape[1] // 16 * 16
    parts = [neon(total[:, :end], M), double_rounded(total[:, end:], M)]
    return _clip(np.concatenate(parts, axis=1) + bias, y).reshape(len(total), *y.shape[1:])


def mean_float(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """MEAN in float32: one factor, one addend."""
    total, n = _sum_over_planes(codes[0])
    x = inputs[0]
    c = (x.step[0] / y.step[0]) * (FLOAT(1) / FLOAT(n))
    addend = FLOAT(y.zero) - FLOAT(n * x.zero) * c
    return _clip(np.rint(total.astype(FLOAT) * c + addend).astype(np.int64), y).reshape(len(total), *y.shape[1:])


# --- from and to floats -------------------------------------------------------------------------------------------

def quantize_reference(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QUANTIZE of floats: away(f32(x/s)) + z."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _clip(wrap32(as_int32(away(codes[0] / y.step[0])) + y.zero), y)


def quantize_blocks(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QUANTIZE of floats: blocks of 8 rint(x·f32(1/s)) + z, the tail away(x/s) + z in double."""
    with np.errstate(over="ignore", invalid="ignore"):
        whole = as_int32(np.rint(codes[0] * (FLOAT(1) / y.step[0]))) + y.zero
        tail = as_int32(away(codes[0].astype(np.float64) / np.float64(y.step[0]))) + y.zero
    return in_blocks(_clip(wrap32(whole), y), _clip(wrap32(tail), y), 8)


def quantize_fused(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QUANTIZE of floats: rint(min(x·f32(1/s), 32767)) + z; NaN is the highest."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = codes[0] * (FLOAT(1) / y.step[0])
    return _clip(as_int32(np.rint(np.where(scaled < 32767, scaled, FLOAT(32767)))) + y.zero, y)


def dequantize_reference(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]
                         ) -> np.ndarray:
    """DEQUANTIZE: f32(s·D) from double."""
    with np.errstate(over="ignore"):
        return np.asarray((np.float64(inputs[0].step[0]) * (codes[0] - inputs[0].zero)).astype(FLOAT))


def dequantize_blocks(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """DEQUANTIZE: blocks of 8 f32(x·s) + f32(-z·s), the tail as reference."""
    step = inputs[0].step[0]
    with np.errstate(over="ignore", invalid="ignore"):
        whole = codes[0].astype(FLOAT) * step + FLOAT(-inputs[0].zero) * step
    return in_blocks(whole, dequantize_reference(op, inputs, y, codes), 8)


def dequantize_fused(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """DEQUANTIZE: f32(D)·s."""
    with np.errstate(over="ignore"):
        return np.asarray((codes[0] - inputs[0].zero).astype(FLOAT) * inputs[0].step[0])


# --- functions of one code ----------------------------------------------------------------------------------------

def _ratio(x: Tensor, y: Tensor) -> Any:
    return x.step[0] / y.step[0]


def _fixed(D: np.ndarray, factor: Any) -> np.ndarray:
    """((D·μ + 128) >> 8), μ = rint(256·factor)."""
    return (D * round(256 * float(factor)) + 128) >> 8


def rescale_reference(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QUANTIZE of codes: A, M = sx/sy in double."""
    M = float(inputs[0].step[0]) / float(y.step[0])
    return _clip(double_rounded(codes[0] - inputs[0].zero, M) + y.zero, y)


def rescale_blocks(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QUANTIZE of codes: B in blocks of 16, the tail A."""
    M = float(inputs[0].step[0]) / float(y.step[0])
    whole = _clip(neon(codes[0] - inputs[0].zero, M) + y.zero, y)
    return in_blocks(whole, rescale_reference(op, inputs, y, codes), 16)


def rescale_fixed(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QUANTIZE of codes: eight fractional bits."""
    return _clip(_fixed(codes[0] - inputs[0].zero, _ratio(inputs[0], y)) + y.zero, y)


def leaky_reference(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """LEAKY_RELU: A with f32(sx·α/sy) below zero, f32(sx/sy) above; α may be negative or 0."""
    x, D = inputs[0], codes[0] - inputs[0].zero
    below, above = (_scaled(D, float(M)) for M in (
        x.step[0] * FLOAT(op.options["Alpha"]) / y.step[0], _ratio(x, y)))
    return _clip(np.where(D < 0, below, above) + y.zero, y)


def _scaled(D: np.ndarray, M: float) -> np.ndarray:
    """A of |M|, with M's sign."""
    return np.zeros_like(D) if M == 0 else double_rounded(D, abs(M)) * (1 if M > 0 else -1)


def leaky_fixed(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """LEAKY_RELU: eight fractional bits; ratios beyond what these hold fall back to the reference."""
    x, D = inputs[0], codes[0] - inputs[0].zero
    above_by = _ratio(x, y)
    below_by = above_by * FLOAT(op.options["Alpha"])
    if not (2.0**-8 <= above_by <= 2.0**7 and -(2.0**7 - 2.0**-8) <= below_by <= 2.0**7
            and abs(below_by) >= 2.0**-8):
        return leaky_reference(op, inputs, y, codes)
    below, above = _fixed(D, below_by), _fixed(D, above_by)
    return _clip(np.where(D < 0, below, above) + y.zero, y)


def relu(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """RELU and RELU6: A, M = f32(sx/sy); then the limits."""
    M = float(_ratio(inputs[0], y))
    return clamped(double_rounded(codes[0] - inputs[0].zero, M) + y.zero, op.kind, y)


def function_reference(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """LOGISTIC, 1/(1 + exp(-x)) in float32, and TANH: of each code, times f32(1/sy), half away from zero."""
    real = (codes[0] - inputs[0].zero).astype(FLOAT) * inputs[0].step[0]
    if op.kind == "LOGISTIC":
        with np.errstate(over="ignore"):
            value = FLOAT(1) / (FLOAT(1) + np.exp(-real.astype(np.float64)).astype(FLOAT))
    else:
        value = np.tanh(real.astype(np.float64)).astype(FLOAT)
    return _clip(half_away(value * (FLOAT(1) / y.step[0])) + y.zero, y)


def function_fused(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """LOGISTIC and TANH: float32 of the function in double, times f32(1/sy), rounded to even."""
    real = ((codes[0] - inputs[0].zero).astype(FLOAT) * inputs[0].step[0]).astype(np.float64)
    value = expit(real) if op.kind == "LOGISTIC" else np.tanh(real)
    scaled = np.asarray(value).astype(FLOAT) * (FLOAT(1) / y.step[0])
    return _clip(np.rint(scaled).astype(np.int64) + y.zero, y)


def hard_swish(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """HARD_SWISH in 16-bit fixed point, in all sets."""
    hs = FLOAT(1 / 128) * inputs[0].step[0]
    (mo, so), (mr, sr) = (split(float(hs / one)) for one in (y.step[0], FLOAT(3 / 32768)))
    mo, mr = (min((m + 2**15) >> 16, 2**15 - 1) for m in (mo, mr))

    def high(a: np.ndarray, b: int) -> np.ndarray:
        return (a * b + 2**14) >> 15

    def held(a: np.ndarray) -> np.ndarray:
        return saturate(a, _INT16).astype(np.int64)

    h = wrap((codes[0] - inputs[0].zero) * 128, _INT16).astype(np.int64)
    pre, r = high(h, mo), h
    r = held(r << (sr - 1)) if sr > 0 else r
    r = held(high(r, mr))
    r = held(r << 1) if sr > 0 else rdbpot(r, -sr) if sr < 0 else r
    r = wrap((r + 2**15) >> 1, _INT16).astype(np.int64)
    product = r * pre
    p = np.where(product < 0, -(-product >> 15), product >> 15)
    return _clip((rdbpot(p, -so) if so <= 0 else p << so) + y.zero, y)


# --- moves --------------------------------------------------------------------------------------------------------

def pad(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """PAD with the zero point."""
    assert inputs[1].values is not None
    around = inputs[1].values.astype(int).tolist()
    return np.pad(codes[0], [(0, 0), *map(tuple, around[1:])], constant_values=inputs[0].zero)


def transpose(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """TRANSPOSE that leaves the batch in front."""
    assert inputs[1].values is not None
    return codes[0].transpose(inputs[1].values.astype(int).tolist())


def concatenation(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """CONCATENATION: codes of y's own step are copied; uint8 of others away(f32(x·k) - z·k) + zy, k = s·f32(1/sy)."""
    parts = []
    for t, x_q in zip(inputs, codes):
        if t.step[0] == y.step[0] and t.zero == y.zero:
            parts.append(x_q)
        elif y.dtype != np.uint8:
            raise ValueError("int8 tensors must have one scale and zero point")
        else:
            k = t.step[0] * (FLOAT(1) / y.step[0])
            parts.append(_clip(half_away(x_q.astype(FLOAT) * k + FLOAT(-t.zero) * k) + y.zero, y))
    return np.concatenate(parts, axis=op.options["Axis"] % len(y.shape))


def resize_nearest(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """RESIZE_NEAREST_NEIGHBOR: codes moved."""
    x = codes[0]
    for axis in (1, 2):
        size, wanted = x.shape[axis], y.shape[axis]
        corners = op.options["AlignCorners"] and wanted > 1
        scale = FLOAT(size - 1) / FLOAT(wanted - 1) if corners else FLOAT(size) / FLOAT(wanted)
        offset = FLOAT(0.5) if op.options["HalfPixelCenters"] else FLOAT(0)
        place = (np.arange(wanted, dtype=FLOAT) + offset) * scale
        index = half_away(place) if corners else np.floor(place).astype(np.int64)
        x = x.take(np.clip(index, 0, size - 1), axis=axis)
    return x
