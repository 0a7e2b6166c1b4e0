"""Linear quantization Q(X, S): reals to codes and back, per tensor and per channel.

A *scale* S multiplies (code = round(x·S), as in EasyQuant); its inverse, the *step* 1/S, is what
ONNX and TFLite call "scale".
"""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, finite, integer, one_of, positive
from refquant.integers.formats import IntFormat, check_format
from refquant.integers.rounding import round_fraction, round_product, round_product_sum, round_values
from refquant.scales.float32_codes import can_round_in_float32, round_in_float32

# A channel whose largest weight is below this fraction of the layer's is dead: at any width up to 23
# bits all its codes would be zero under the layer's scale, and a scale of its own would be absurd.
DEAD_CHANNEL = 2.0**-24
ARITHMETICS = ("exact", "float32_divide", "float32_multiply")


def _along(parameter: np.ndarray, x: np.ndarray, axis: int | None, name: str) -> np.ndarray:
    """Shape a per-channel parameter so that it broadcasts along ``axis`` of x."""
    if axis is None:
        if parameter.ndim:
            raise ValueError(f"{name} must be a scalar when axis is None, got shape {parameter.shape}")
        return parameter
    axis = integer(axis, "axis", -x.ndim, x.ndim - 1)
    if parameter.ndim and parameter.shape != (x.shape[axis],):
        raise ValueError(f"{name} must be a scalar or have shape ({x.shape[axis]},), one per channel, "
                         f"got {parameter.shape}")
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape) if parameter.ndim else parameter


def _check_zero_point(zero_point: Any, fmt: IntFormat) -> np.ndarray:
    zero_point = as_integers(zero_point, "zero_point")
    if ((zero_point < fmt.min) | (zero_point > fmt.max)).any():
        raise ValueError(f"zero_point must be a code of {fmt} ({fmt.min}..{fmt.max}), got {zero_point}")
    return zero_point


def _check_ends(low: float, high: float) -> None:
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"low and high must be finite with low <= high, got {low} and {high}")


def _check_width(fmt: IntFormat) -> None:
    if check_format(fmt).bits > 32:
        raise ValueError(f"linear quantization takes formats of at most 32 bits, got {fmt}")


def quantize(x: Any, scale: Any, fmt: IntFormat, rounding: str = "half_away", *, zero_point: Any = 0,
             axis: int | None = None, arithmetic: str = "exact", zero: str = "after") -> np.ndarray:
    """Q(X, S) = clip(round(X·S) + zero_point, fmt.min, fmt.max)  (EasyQuant Eq. 1 for zero_point 0).

    x: finite floats of at most 64 bits, any shape. scale: finite, > 0; a scalar, or one per channel along
    ``axis``. fmt: at most 32 bits. rounding: one of ``rounding.RULES``. zero_point: a code of ``fmt``,
    scalar or per channel like scale.
    arithmetic: ``exact``: X·S is rounded as if it were exact. ``float32_divide``: float32(x) divided in
    float32 by the step float32(1/S), as ONNX's QuantizeLinear does (with rounding ``half_even``).
    ``float32_multiply``: float32(x) multiplied in float32 by float32(S), as torch's quantize_per_tensor
    is said to do (not compared with it here).
    zero: the zero point is added ``after`` rounding, or ``before``: round(X·S + zero_point), as in torch
    and in ONNX's reference of QLinearConv. It matters to ties whose rule asks for parity or sign, and in
    float32, where the sum is rounded once more.
    Returns codes in ``fmt.dtype``. ValueError for NaN, infinity, integers, a bad scale or zero point.

    >>> quantize(np.array([0.5, -0.24, 9.0]), 10.0, IntFormat(7, narrow=True))
    array([ 5, -2, 63], dtype=int8)
    """
    x = finite(x, "x")
    _check_width(fmt)
    one_of(arithmetic, ARITHMETICS, "arithmetic")
    one_of(zero, ("after", "before"), "zero")
    scale = _along(positive(scale, "scale"), x, axis, "scale")
    zero_point = _along(_check_zero_point(zero_point, fmt), x, axis, "zero_point")
    plain = (arithmetic, zero, rounding) == ("exact", "after", "half_away") and x.size > 0 and axis in (None, 0)
    if plain and can_round_in_float32(float(np.abs(x).max()), scale, fmt):
        if not zero_point.any():  # without a detour over int64
            return round_in_float32(x, scale, fmt.min, fmt.max).astype(fmt.dtype)
        whole = round_in_float32(x, scale, fmt.min - fmt.max, fmt.max - fmt.min).astype(np.int64)
    elif arithmetic != "exact":
        whole = _round_in_float32(x, scale, zero_point if zero == "before" else None, rounding, arithmetic)
    elif zero == "before":
        whole = round_product_sum(x, scale, zero_point, rounding, limit=2.0**33)
    else:
        whole = round_product(x, scale, rounding, limit=2.0**33).astype(np.int64)
    if zero == "after":
        whole = whole + zero_point
    return np.clip(whole, fmt.min, fmt.max).astype(fmt.dtype)


def _round_in_float32(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, rounding: str,
                      arithmetic: str) -> np.ndarray:
    """The real code, every operation of it rounded to float32, and then to an integer; clipped to ±2^33."""
    with np.errstate(over="ignore", under="ignore"):
        factor = scale.astype(np.float64)
        factor = (factor if arithmetic == "float32_multiply" else 1 / factor).astype(np.float32)
        if not (np.isfinite(factor).all() and (factor > 0).all()):
            name = "scale" if arithmetic == "float32_multiply" else "step 1/scale"
            raise ValueError(f"{name} must be finite and > 0 in float32, got {np.atleast_1d(factor).min()}.."
                             f"{np.atleast_1d(factor).max()}")
        x = x.astype(np.float32)
        value = x * factor if arithmetic == "float32_multiply" else x / factor
        if zero_point is not None:
            value = value + zero_point.astype(np.float32)
    value = np.clip(value.astype(np.float64), -(2.0**33), 2.0**33)
    return round_values(value, rounding).astype(np.int64)


def dequantize(x_q: Any, scale: Any, *, zero_point: Any = 0, axis: int | None = None) -> np.ndarray:
    """The real value of a code: (x_q - zero_point) / S, in float64.

    x_q: integers, any shape. scale, zero_point, axis: as for ``quantize``.

    >>> dequantize(np.array([5, -2]), 10.0)
    array([ 0.5, -0.2])
    """
    x_q = as_integers(x_q, "x_q")
    scale = _along(positive(scale, "scale"), x_q, axis, "scale")
    zero_point = _along(as_integers(zero_point, "zero_point"), x_q, axis, "zero_point")
    return (x_q.astype(np.float64) - zero_point) / scale


def channel_reach(w: np.ndarray) -> np.ndarray:
    """max|w| of each output channel, float64 (O,). w: floats (O, ...)."""
    return np.abs(w.reshape(len(w), -1)).max(axis=1).astype(np.float64)


def max_scale(x: Any, fmt: IntFormat, axis: int | None = None) -> np.ndarray:
    """S = fmt.max / max|x|: the largest scale that clips nothing (for unsigned formats, nothing positive).

    x: finite floats, not empty. axis: None for one scale, else one per channel along it. Returns a
    float64 scalar array, or shape (channels,).

    An all-zero tensor gets scale 1, not infinity. A channel whose max|x| is below 2^-24 of the
    tensor's is dead and gets the tensor's scale, under which its codes are zero in formats of at most
    23 bits. A tensor whose quotient would overflow float64 gets the largest finite scale.

    >>> float(max_scale(np.array([0.5, -2.0]), IntFormat(8)))
    63.5
    """
    x = finite(x, "x")
    if x.size == 0:
        raise ValueError(f"x must not be empty, got shape {x.shape}")
    _check_width(fmt)
    if fmt.max < 1:
        raise ValueError(f"a scale needs a format with positive codes, got {fmt}")
    # abs in float64: exact for both float types.
    magnitude = np.abs(x.astype(np.float64)) if fmt.signed else np.maximum(x, 0).astype(np.float64)
    whole = magnitude.max()
    if axis is None:
        reach = whole
    else:
        _along(np.asarray(1.0), x, axis, "scale")
        reach = np.moveaxis(magnitude, axis, 0).reshape(x.shape[axis], -1).max(axis=1)
        reach = np.where((reach == 0) | (reach < DEAD_CHANNEL * whole), whole, reach)
    with np.errstate(divide="ignore", over="ignore"):
        scale = np.asarray(fmt.max / reach, np.float64)
    return np.where(reach == 0, 1.0, np.minimum(scale, np.finfo(np.float64).max))


def affine_parameters(low: float, high: float, fmt: IntFormat) -> tuple[float, int]:
    """Scale and integer zero point that map [low, high] onto the whole range of ``fmt``.

    S = (fmt.max - fmt.min) / (high - low) and zero_point = round(fmt.min - low·S), so that real 0 is
    exactly a code, as padding and ReLU need. The range is first widened to contain 0.
    This is PWLQ Eq. 1 with its s = Δ/(2^b-1); the s = N·Δ^-1 printed there is an erratum.

    low <= high: finite floats. Returns (scale, zero_point); scale 1 for the empty range [0, 0].

    >>> affine_parameters(-1.0, 3.0, IntFormat(8, signed=False))
    (63.75, 64)
    """
    _check_width(fmt)
    _check_ends(low, high)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if low == high:
        return 1.0, 0
    # Rationals: neither high - low nor the quotient overflows, and the zero point's tie is a tie.
    scale = float(min(Fraction(fmt.max - fmt.min) / (Fraction(high) - Fraction(low)), Fraction(sys.float_info.max)))
    zero_point = round_fraction(fmt.min - Fraction(low) * Fraction(scale))
    return scale, min(max(zero_point, fmt.min), fmt.max)


def expected_squared_error(low: float, high: float, bits: int) -> float:
    """E[(x̂ - x)²] = C(b)·Δ², C(b) = 1/(12·(2^b-1)²), Δ = high - low  (PWLQ Eq. 2).

    It holds for values spread evenly inside the cells of ``affine_parameters``' grid.

    >>> round(1 / expected_squared_error(0.0, 1.0, 8))
    780300
    """
    bits = integer(bits, "bits", 1)
    _check_ends(low, high)
    return (float(high) - float(low)) ** 2 / (12.0 * (2.0 ** int(bits) - 1) ** 2)
