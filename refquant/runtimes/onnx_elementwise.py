"""onnxruntime's operators value by value, pools, and what moves codes: one function per rule, as in ``operators``.

Where it uses floats, they are float32, in its order. Constants among the operands are read from their description.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.runtimes.arithmetic import FLOAT, as_int32, fma
from refquant.runtimes.model import Operation, Tensor
from refquant.runtimes.onnx_layers import requantized


def _clip(codes: np.ndarray, y: Tensor) -> np.ndarray:
    ends = np.iinfo(y.dtype)
    return np.clip(codes, ends.min, ends.max)


def quantized(x: np.ndarray, y: Tensor) -> np.ndarray:
    """rint(clip(x/sy)) + zy; the lowest code for NaN."""
    ends = np.iinfo(y.dtype)
    low, high = FLOAT(ends.min - y.zero), FLOAT(ends.max - y.zero)
    with np.errstate(over="ignore"):
        scaled = x.astype(FLOAT) / y.step[0]
    return np.rint(np.clip(np.where(np.isnan(scaled), low, scaled), low, high)).astype(np.int64) + y.zero


def real(x_q: np.ndarray, x: Tensor) -> np.ndarray:
    """f32(x - zx)·sx."""
    with np.errstate(over="ignore"):
        return np.asarray((x_q - x.zero).astype(FLOAT) * x.step[0])


def quantize(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QuantizeLinear."""
    return quantized(codes[0], y)


def dequantize(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """DequantizeLinear."""
    return real(codes[0], inputs[0])


# --- two operands -------------------------------------------------------------------------------------------------

def operands_of(inputs: Sequence[Tensor], codes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of each operand the codes, in the order of the inputs; constants as they stand."""
    if len(codes) == len(inputs):
        return list(codes)
    computed = iter(codes)
    return [next(computed) if t.values is None else np.asarray(t.values).astype(
        np.int64 if t.dtype.kind in "iu" else t.dtype) for t in inputs]


def _is_repeated(b: Tensor, a: Tensor) -> bool:
    """Whether b is one value along the innermost axis that is longer than 1: the kernel takes it as a scalar."""
    rank = max(len(a.shape), len(b.shape))
    sizes = [(1,) * (rank - len(t.shape)) + tuple(t.shape) for t in (a, b)]
    return next((n == 1 for m, n in zip(*map(reversed, sizes)) if (m, n) != (1, 1)), False)


def add(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QLinearAdd: rint(a·ra + (b·rb + fixed)), fixed = zy - (ra·za + rb·zb), ra = sa/sy; b is a scalar if one is.

    Each product and the sum behind it are a fused multiply-add, ra·za and its sum too.
    """
    operands = list(zip(inputs, operands_of(inputs, codes)))
    (a, a_q), (b, b_q) = operands[::-1] if _is_repeated(*inputs) else operands
    ra, rb = (t.step[0] / y.step[0] for t in (a, b))
    fixed = FLOAT(y.zero) - fma(ra, a.zero, rb * FLOAT(b.zero))
    return _clip(as_int32(np.rint(fma(a_q, ra, fma(b_q, rb, fixed)))), y)


def multiply(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QLinearMul: rint(f32((a - za)·(b - zb))·f32(sa·sb/sy) + zy)."""
    (a, b), (a_q, b_q) = inputs, operands_of(inputs, codes)
    M = (a.step[0] * b.step[0]) / y.step[0]
    product = (a_q - a.zero) * (b_q - b.zero)
    return _clip(as_int32(np.rint(product.astype(FLOAT) * M + FLOAT(y.zero))), y)


def concatenation(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QLinearConcat: codes of y's own step are copied, others dequantized and quantized."""
    parts = []
    for t, x_q in zip(inputs, operands_of(inputs, codes)):
        same = t.step[0] == y.step[0] and t.zero == y.zero
        x_q = np.broadcast_to(x_q, (len(codes[0]), *x_q.shape[1:]))
        parts.append(x_q if same else quantized(real(x_q, t), y))
    return np.concatenate(parts, axis=op.options["Axis"])


# --- pools --------------------------------------------------------------------------------------------------------

def windows(op: Operation, x: np.ndarray, fill: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N, C, P, Q, R, S), and how many cells of each window lie in the input, (P, Q)."""
    geometry, kernel = op.options["Geometry"], op.options["Kernel"]
    top, left, bottom, right = geometry.padding
    spread = geometry.dilation
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, spread))

    def views(of: np.ndarray, value: Any) -> np.ndarray:
        padded = np.pad(of, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)
        every = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
        return every[:, :, ::geometry.stride[0], ::geometry.stride[1], ::spread[0], ::spread[1]]

    return views(x, fill), views(np.ones((1, 1, *x.shape[2:]), np.int64), 0)[0, 0].sum(axis=(2, 3))


def _planes(x: np.ndarray) -> np.ndarray:
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], 1, -1)


def average_pool(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QLinearAveragePool: reals added row after row in float32, divided by the count; rint(mean/sy + zy).

    A window as large as the plane is a QLinearGlobalAveragePool.
    """
    geometry: Geometry = op.options["Geometry"]
    planes = _planes(codes[0])
    if planes.shape[2:] == op.options["Kernel"] and not any(geometry.padding):
        return global_average_pool(op, inputs, y, codes)
    seen, count = windows(op, real(planes, inputs[0]), FLOAT(0))
    total = np.zeros(seen.shape[:4], FLOAT)
    for r in range(seen.shape[4]):
        for s in range(seen.shape[5]):
            total = total + seen[..., r, s]
    if op.options["CountPadding"]:
        count = np.full_like(count, int(np.prod(op.options["Kernel"])))
    mean = total / count.astype(FLOAT)
    return _clip(as_int32(np.rint(mean / y.step[0] + FLOAT(y.zero))), y).reshape(len(planes), *y.shape[1:])


def global_average_pool(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]
                        ) -> np.ndarray:
    """QLinearGlobalAveragePool: exact sums; f32(sx / f32(sy·n)) as the multiplier."""
    x, (x_q,) = inputs[0], codes
    axes = tuple(range(2, x_q.ndim))
    n = int(np.prod(x_q.shape[2:]))
    acc = x_q.sum(axis=axes, keepdims=True) - n * x.zero
    return requantized(acc, x.step[0] / (y.step[0] * FLOAT(n)), y)


def max_pool(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """MaxPool of codes or floats."""
    lowest: Any = -np.inf if y.dtype.kind == "f" else np.iinfo(y.dtype).min
    seen, _ = windows(op, _planes(codes[0]), lowest)
    return seen.max(axis=(4, 5)).reshape(len(codes[0]), *y.shape[1:])


# --- functions ----------------------------------------------------------------------------------------------------

_ODD = (4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03, 2.48287947061529e-01)
_EVEN = (6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06, 1.70198817374094e-03,
         1.16817656904453e-01, 9.93151921023180e-01)


def _sigmoid(op: Operation, x: np.ndarray) -> np.ndarray:
    """MLAS's: x·P(x²)/Q(x²) + 1/2 with x within ±18, by fused multiply-adds; within 0 and 1."""
    x = np.clip(x, FLOAT(-18), FLOAT(18))
    square = x * x
    odd, even = (reduce(lambda held, c: fma(held, square, FLOAT(c)), parts[1:], np.full_like(x, parts[0]))
                 for parts in (_ODD, _EVEN))
    return np.clip(odd * x / even + FLOAT(0.5), FLOAT(0), FLOAT(1))


def _leaky(op: Operation, x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, x, FLOAT(op.options["Alpha"]) * x)


def function(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QLinearSigmoid and QLinearLeakyRelu: what each code stands for, through the function, quantized."""
    known: dict[str, Callable[[Operation, np.ndarray], np.ndarray]] = {
        "QLinearSigmoid": _sigmoid, "QLinearLeakyRelu": _leaky}
    return quantized(known[op.kind](op, real(codes[0], inputs[0])), y)


def softmax(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QLinearSoftmax: exp from a table in float32, added one after another; rint(e·floor(1/sy) / Σe) + zy."""
    x, axis = inputs[0], op.options["Axis"]
    rows = np.moveaxis(codes[0], axis, -1) if op.options["OneAxis"] else codes[0].reshape(
        *codes[0].shape[:axis], -1)
    limit = float(FLOAT(math.log(float(np.finfo(FLOAT).max / FLOAT(rows.shape[-1])))))
    shift = max(0.0, limit - 5) / float(x.step[0])
    table = np.array([math.exp((k - 255 + shift) * float(x.step[0])) for k in range(256)]).astype(FLOAT)
    e = table[rows - rows.max(axis=-1, keepdims=True) + 255]
    total = np.zeros(e.shape[:-1], FLOAT)
    for k in range(e.shape[-1]):
        total = total + e[..., k]
    with np.errstate(over="ignore"):
        share = e * np.floor(FLOAT(1) / y.step[0]) / total[..., None]
    out = _clip(as_int32(np.rint(np.minimum(share, FLOAT(2**20)))) + y.zero, y)
    return (np.moveaxis(out, -1, axis) if op.options["OneAxis"] else out).reshape(codes[0].shape)


# --- floats between -----------------------------------------------------------------------------------------------

def in_floats(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """What the runtime leaves in floats and rounds once: Add, Sub, Mul, Relu, Clip, LeakyRelu."""
    operands = operands_of(inputs, codes)
    with np.errstate(over="ignore"):
        if op.kind in ("Add", "Sub", "Mul"):
            of: dict[str, Any] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}
            return np.asarray(of[op.kind](operands[0], operands[1]))
        if op.kind == "LeakyRelu":
            return _leaky(op, operands[0])
        return np.clip(operands[0], op.options.get("Low", -np.inf), op.options.get("High", np.inf))


# --- moves --------------------------------------------------------------------------------------------------------

def moved(x: np.ndarray, op: Operation, shape: tuple[int, ...]) -> np.ndarray:
    """What Transpose, Slice, Pad and the reshapes make of an array; shape: without the batch."""
    if op.kind == "Transpose":
        return x.transpose(op.options["Axes"])
    if op.kind == "Slice":
        return x[op.options["Slices"]]
    if op.kind == "Pad":
        return np.pad(x, op.options["Around"], constant_values=op.options["Value"])
    return x.reshape(len(x), *shape)


def move(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """Flatten, Reshape, Squeeze, Unsqueeze, Identity, Transpose, Slice and Pad."""
    return moved(codes[0], op, y.shape[1:])


def joined(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """Concat of floats."""
    parts = [np.broadcast_to(part, (len(codes[0]), *part.shape[1:])) for part in operands_of(inputs, codes)]
    return np.concatenate(parts, axis=op.options["Axis"])
