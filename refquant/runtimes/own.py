"""refquant's own rules on the same files, to compare runtimes with: one rounding each, as in its integer networks.

Sums are scaled in dialect ``single_round``. An addend is scaled to 8 more bits than y has, the sum shifted right with
ties up. Pools subtract the zero point and have one multiplier sx/(sy·count). Functions are computed in double and
rounded half away from zero. No runtime computes so; the rules of runtimes are in the other modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from refquant.runtimes import onnx_elementwise, onnx_layers, operators
from refquant.runtimes.arithmetic import half_away, single_rounded
from refquant.runtimes.model import Operation, Tensor

_GUARD = 8  # bits


def _finished(op: Operation, codes: np.ndarray, y: Tensor) -> np.ndarray:
    """The zero point added, within the dtype and the fused activation."""
    activation = op.kind if op.kind in ("RELU", "RELU6") else op.options.get("FusedActivationFunction", "NONE")
    return operators.clamped(codes + y.zero, activation, y)


def _step(t: Tensor) -> float:
    return float(t.step[0])


def onnx_layer(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QLinearConv, QGemm, QLinearMatMul: exact sums times sx·sw/sy, rounded once; the others as they are."""
    if not y.step.size:
        return onnx_layers.layer(op, inputs, y, codes, pairs=False)
    acc = onnx_layers.shaped_sums(op, inputs, y, codes[0], pairs=False)
    M = op.options.get("Alpha", 1.0) * _step(inputs[0]) * inputs[1].step.astype(np.float64) / _step(y)
    axis = 1 if op.kind == "QLinearConv" else acc.ndim - 1
    scaled = single_rounded(np.moveaxis(acc, axis, -1), M if len(M) > 1 else float(M[0]))
    return _finished(op, np.moveaxis(scaled, -1, axis), y)


def add(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """Each operand scaled to 8 guard bits and rounded, the sum shifted right, ties up."""
    operands = onnx_elementwise.operands_of(inputs, codes)
    total = sum(single_rounded(x_q - t.zero, 2.0**_GUARD * _step(t) / _step(y)) for t, x_q in zip(inputs, operands))
    return _finished(op, (np.asarray(total) + (1 << (_GUARD - 1))) >> _GUARD, y)


def multiply(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """(a - za)·(b - zb) times sa·sb/sy, rounded once."""
    (a, b), (a_q, b_q) = inputs, onnx_elementwise.operands_of(inputs, codes)
    return _finished(op, single_rounded((a_q - a.zero) * (b_q - b.zero), _step(a) * _step(b) / _step(y)), y)


def rescale(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """x - zx times sx/sy, rounded once: QUANTIZE of codes, RELU, RELU6."""
    return _finished(op, single_rounded(codes[0] - inputs[0].zero, _step(inputs[0]) / _step(y)), y)


def concatenation(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """Each part rescaled, but for those of y's own step and zero point."""
    parts = []
    for t, x_q in zip(inputs, onnx_elementwise.operands_of(inputs, codes)):
        same = t.step[0] == y.step[0] and t.zero == y.zero
        part = x_q if same else rescale(op, [t], y, [x_q])
        parts.append(np.broadcast_to(part, (len(codes[0]), *part.shape[1:])))
    return np.concatenate(parts, axis=op.options["Axis"] % len(y.shape))


def _mean(total: np.ndarray, count: np.ndarray, inputs: Sequence[Tensor], op: Operation, y: Tensor) -> np.ndarray:
    """Sums, less count·zx, times sx/(sy·count), one rounding for each."""
    scaled = np.empty_like(total)
    count = np.broadcast_to(count, total.shape)
    for n in np.unique(count):
        some = count == n
        scaled[some] = single_rounded(total[some] - int(n) * inputs[0].zero, _step(inputs[0]) / (_step(y) * int(n)))
    return _finished(op, scaled, y)


def average_pool(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """AVERAGE_POOL_2D."""
    seen, valid = operators.windows(op, codes[0], 0)
    return _mean(seen.sum(axis=(4, 5)), valid.sum(axis=(2, 3))[:, :, None], inputs, op, y)


def onnx_average_pool(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """QLinearAveragePool; counted padding is real 0."""
    x_q = codes[0] if codes[0].ndim == 4 else codes[0].reshape(*codes[0].shape[:2], 1, -1)
    counted = op.options["CountPadding"]
    seen, count = onnx_elementwise.windows(op, x_q, inputs[0].zero if counted else 0)
    if counted:
        count = np.full_like(count, seen.shape[4] * seen.shape[5])
    return _mean(seen.sum(axis=(4, 5)), count, inputs, op, y).reshape(len(x_q), *y.shape[1:])


def mean(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """MEAN over H and W; QLinearGlobalAveragePool over all axes behind the channels."""
    axes = (1, 2) if op.kind == "MEAN" else tuple(range(2, codes[0].ndim))
    count = int(np.prod([codes[0].shape[axis] for axis in axes]))
    total = codes[0].sum(axis=axes, keepdims=True)
    return _mean(total, np.asarray(count), inputs, op, y).reshape(len(total), *y.shape[1:])


def _leaky(op: Operation, x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, float(np.float32(op.options.get("Alpha", 0.0))) * x, x)


_FUNCTIONS: dict[str, Callable[[Operation, np.ndarray], Any]] = {
    "LOGISTIC": lambda op, x: expit(x), "QLinearSigmoid": lambda op, x: expit(x), "TANH": lambda op, x: np.tanh(x),
    "HARD_SWISH": lambda op, x: x * np.clip(x + 3, 0, 6) / 6, "LEAKY_RELU": _leaky, "QLinearLeakyRelu": _leaky,
    "SOFTMAX": lambda op, x: softmax(op.options["Beta"] * x, axis=-1),
    "QLinearSoftmax": lambda op, x: softmax(x, axis=op.options["Axis"] if op.options["OneAxis"] else tuple(
        range(op.options["Axis"], x.ndim)))}


def function(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """What the codes stand for, through the function in double, half away from zero."""
    real = (codes[0] - inputs[0].zero) * np.float64(_step(inputs[0]))
    return _finished(op, half_away(_FUNCTIONS[op.kind](op, real) / np.float64(_step(y))), y)


def quantize(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """round(x/s) + z, half away from zero, in double; the lowest code for NaN."""
    ends = np.iinfo(y.dtype)
    scaled = np.nan_to_num(codes[0].astype(np.float64) / _step(y), nan=-np.inf, posinf=1e9, neginf=-1e9)
    return np.clip(half_away(np.clip(scaled, -1e9, 1e9)) + y.zero, ends.min, ends.max)
