"""LiteRT's operators on codes, one function per rule; planes are NHWC, as its files have them.

A rule is a function of the operation, its tensors' descriptions and their codes (int64). ``kernels`` says which
kernel set has which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refquant.convolution.direct import convolve_exact
from refquant.integers.formats import IntFormat, wrap
from refquant.runtimes.arithmetic import (
    FLOAT,
    double_half_away,
    float_half_even,
    half_away,
    rdbpot,
    split,
    srdhm,
    wrap32,
)
from refquant.runtimes.average_pools import raw_half_away
from refquant.runtimes.fast import double_rounded, neon
from refquant.runtimes.model import Operation, Tensor
from refquant.runtimes.softmax import by_table, fixed_point

Rule = Callable[[Operation, Sequence[Tensor], Tensor, Sequence[np.ndarray]], np.ndarray]
Scaling = Callable[[np.ndarray, Any], np.ndarray]

_LIMITS = {"NONE": (None, None), "RELU": (0.0, None), "RELU_N1_TO_1": (-1.0, 1.0), "RELU6": (0.0, 6.0)}
_INT16 = IntFormat(16)


# --- limits -------------------------------------------------------------------------------------------------------

def ends_of(y: Tensor) -> tuple[int, int]:
    """The least and the greatest code of a tensor's dtype."""
    return (-128, 127) if y.dtype == np.int8 else (0, 255)


def clamped(codes: np.ndarray, activation: str, y: Tensor, fused: bool = False) -> np.ndarray:
    """Codes within the fused activation: zy + away(v/sy), or with ``fused``, as XNNPACK has it, rint(v/sy + zy)."""
    least, most = ends_of(y)
    limits = []
    for value, end in zip(_LIMITS[activation], (least, most)):
        if value is None:
            limits.append(end)
        elif fused:
            limits.append(round(min(max(float(FLOAT(value) / y.step[0] + FLOAT(y.zero)), least), most)))
        else:
            limits.append(min(max(y.zero + int(half_away(FLOAT(value) / y.step[0])), least), most))
    return np.clip(codes, limits[0], limits[1])


# --- sums ---------------------------------------------------------------------------------------------------------

def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _padding(options: dict[str, Any], plane: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int, int, int]:
    if options["Padding"] == "VALID":
        return 0, 0, 0, 0
    top, bottom = _same(plane[0], kernel[0], options["StrideH"], options.get("DilationHFactor", 1))
    left, right = _same(plane[1], kernel[1], options["StrideW"], options.get("DilationWFactor", 1))
    return top, left, bottom, right


def _convolution_sums(op: Operation, inputs: Sequence[Tensor], x_q: np.ndarray, depthwise: bool) -> np.ndarray:
    """int32 sums of (x - zx)·(w - zw) and the bias, NHWC."""
    x, w, options = inputs[0], inputs[1], op.options
    assert w.values is not None
    weight = w.values.astype(np.int64) - w.zero
    weight = weight.transpose(3, 0, 1, 2) if depthwise else weight.transpose(0, 3, 1, 2)
    bias = inputs[2].values if len(inputs) > 2 else None
    groups = x_q.shape[3] if depthwise else x_q.shape[3] // weight.shape[1]
    acc = convolve_exact(x_q.transpose(0, 3, 1, 2), weight, bias, stride=(options["StrideH"], options["StrideW"]),
                         padding=_padding(options, (x_q.shape[1], x_q.shape[2]), weight.shape[2:]),
                         dilation=(options["DilationHFactor"], options["DilationWFactor"]), groups=groups,
                         zero_point=x.zero)
    return wrap32(acc.transpose(0, 2, 3, 1))


def multiplier_of(x: Tensor, w: Tensor, y: Tensor, *, single: bool = False) -> np.ndarray | float:
    """sx·sw/sy in double, one or one per channel. single: with one weight scale f32(sx·sw)/sy."""
    if single and len(w.step) == 1:
        return float(np.float64(x.step[0] * w.step[0]) / np.float64(y.step[0]))
    M = np.float64(x.step[0]) * w.step.astype(np.float64) / np.float64(y.step[0])
    return M if len(M) > 1 else float(M[0])


def _float_multiplier(x: Tensor, w: Tensor, y: Tensor) -> Any:
    """The same in float32, as XNNPACK has it; it refuses 256 and more."""
    M = (x.step[0] * w.step) / y.step[0]
    if M.max() >= 256:
        raise ValueError(f"XNNPACK does not take a multiplier sx·sw/sy of 256 or more, got {M.max():.6g}")
    return M if len(M) > 1 else M[0]


def _left_out(op: Operation, x: Tensor, w: Tensor) -> bool:
    """Whether XNNPACK leaves a layer to the optimized kernels: for an odd quantized dimension, or a zero point."""
    if x.dtype == np.uint8:
        return w.axis != 0
    return op.kind == "FULLY_CONNECTED" and w.zero != 0


def convolution(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray], *, scaling: Scaling,
                grouped: Scaling | None = None, otherwise: Scaling | None = None) -> np.ndarray:
    """CONV_2D. grouped: the scaling where channels are divided into groups; otherwise: of what XNNPACK leaves out."""
    scaling = otherwise if otherwise is not None and _left_out(op, *inputs[:2]) else scaling
    acc = _convolution_sums(op, inputs, codes[0], False)
    groups = codes[0].shape[3] // inputs[1].shape[3]
    rule = scaling if groups == 1 or grouped is None else grouped
    return _finished(op, acc, rule, inputs, y)


def _finished(op: Operation, acc: np.ndarray, scaling: Scaling, inputs: Sequence[Tensor], y: Tensor) -> np.ndarray:
    fused = scaling is float_half_even
    x, w = inputs[:2]
    M: Any = _float_multiplier(x, w, y) if fused else multiplier_of(x, w, y, single=x.dtype == np.uint8)
    return clamped(scaling(acc, M) + y.zero, op.options["FusedActivationFunction"], y, fused)


def depthwise(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray], *, scaling: Scaling,
              tail: Scaling | None = None, otherwise: Scaling | None = None) -> np.ndarray:
    """DEPTHWISE_CONV_2D. tail: the scaling of the channels from 8·floor(C/8) on; otherwise: as above."""
    scaling = otherwise if otherwise is not None and _left_out(op, *inputs[:2]) else scaling
    acc = _convolution_sums(op, inputs, codes[0], True)
    whole = acc.shape[3] // 8 * 8
    if tail is None or whole == acc.shape[3]:
        return _finished(op, acc, scaling, inputs, y)
    first, last = (_finished(op, acc, rule, inputs, y) for rule in (scaling, tail))
    return np.concatenate([first[..., :whole], last[..., whole:]], axis=3)


def _fully_connected_sums(inputs: Sequence[Tensor], x_q: np.ndarray) -> np.ndarray:
    """int32 sums of rows."""
    x, w = inputs[:2]
    assert w.values is not None
    weight = w.values.astype(np.int64) - w.zero
    rows = (x_q.reshape(-1, weight.shape[1]) - x.zero)[:, :, None, None]
    bias = inputs[2].values if len(inputs) > 2 else None
    return wrap32(convolve_exact(rows, weight[:, :, None, None], bias)[:, :, 0, 0])


def fully_connected(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray], *,
                    scaling: Scaling, single: bool = False, otherwise: Scaling | None = None) -> np.ndarray:
    """FULLY_CONNECTED. single: with one weight scale M is f32(sx·sw)/sy; otherwise: as above, M likewise."""
    x, w = inputs[:2]
    if otherwise is not None and _left_out(op, x, w):
        scaling, single = otherwise, True
    acc = _fully_connected_sums(inputs, codes[0])
    fused = scaling is float_half_even
    M: Any = _float_multiplier(x, w, y) if fused else multiplier_of(x, w, y, single=single)
    out = clamped(scaling(acc, M) + y.zero, op.options["FusedActivationFunction"], y, fused)
    return out.reshape(codes[0].shape[0], *y.shape[1:])


# --- ADD ----------------------------------------------------------------------------------------------------------

def _add_multipliers(a: Tensor, b: Tensor, y: Tensor) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """(m, s) of both operands over T = 2·max(sa, sb), and of the sum."""
    T = 2 * max(float(a.step[0]), float(b.step[0]))
    return ([split(float(t.step[0]) / T) for t in (a, b)],
            split(T / float(FLOAT(2**20) * y.step[0])))


def add_reference(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """ADD: each operand shifted left by 20, scaled and rounded; then the sum."""
    operands, (m, s) = _add_multipliers(inputs[0], inputs[1], y)
    total = sum(rdbpot(srdhm((x - t.zero) << 20, mi), -si) for x, t, (mi, si) in zip(codes, inputs, operands))
    return clamped(rdbpot(srdhm(total, m), -s) + y.zero, op.options["FusedActivationFunction"], y)


def in_blocks(whole: np.ndarray, tail: np.ndarray, size: int, length: int = 0) -> np.ndarray:
    """``whole`` in the blocks of each row of ``length`` codes (0: of each image), ``tail`` behind the last one."""
    length = length or int(np.prod(whole.shape[1:]))
    flat, end = whole.reshape(-1, length).copy(), length // size * size
    flat[:, end:] = tail.reshape(-1, length)[:, end:]
    return flat.reshape(whole.shape)


def block_of(y: Tensor) -> int:
    """The codes that the optimized kernels take at a time: 16 of int8, 8 of uint8."""
    return 16 if y.dtype == np.int8 else 8


def rows_of(inputs: Sequence[Tensor], y: Tensor) -> tuple[int, bool]:
    """How long the rows are that the optimized kernels take of two operands, and whether one gives a scalar to each.

    Where shapes are equal a row is an image. Else it runs over the last axes where they are equal; where the last
    ones are not, over those along which one operand is repeated. Length 0: an operand is repeated along axes apart,
    and codes are computed one by one.
    """
    rank = len(y.shape)
    sizes = [(1,) * (rank - len(t.shape)) + t.shape for t in inputs]
    groups: list[tuple[int, int]] = []  # which operand is repeated, 0 for none, and along how many codes
    for m, n in [pair for pair in zip(*sizes) if pair != (1, 1)][::-1]:
        which = 0 if m == n else 1 if m == 1 else 2
        if groups and groups[-1][0] == which:
            groups[-1] = which, groups[-1][1] * max(m, n)
        else:
            groups.append((which, max(m, n)))
    repeated = [which for which, _ in groups if which]
    if not repeated:
        return int(np.prod(y.shape[1:])), False
    return (groups[0][1], groups[0][0] != 0) if len(repeated) == len({*repeated}) else (0, False)


def add_blocks(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """ADD in blocks of 16 of each row without inner rounding, the tails as reference.

    uint8, and int8 with a scalar: in blocks of 8, rounded down inside. Blocks keep the sum in 16 bits before and
    after the zero point.
    """
    operands, (m, s) = _add_multipliers(inputs[0], inputs[1], y)
    length, scalar = rows_of(inputs, y)
    reference = add_reference(op, inputs, y, codes)
    if not length:
        return reference
    wide = y.dtype == np.int8 and not scalar
    total: Any = 0
    for x, t, (mi, si) in zip(codes, inputs, operands):
        D = x - t.zero
        total = total + (srdhm(D << (20 + si), mi) if wide else srdhm(D << 20, mi) >> -si)
    whole = wrap(rdbpot(srdhm(total, m), -s), _INT16).astype(np.int64)
    blocks = clamped(wrap(whole + y.zero, _INT16).astype(np.int64), op.options["FusedActivationFunction"], y)
    return in_blocks(blocks, reference, 16 if wide else 8, length)


def add_fixed(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """ADD as XNNPACK has it: one shift for both operands; ratios beyond its range fall back to blocks."""
    ratios = [t.step[0] / y.step[0] for t in inputs]
    if not all(2.0**-10 <= r < 2.0**8 for r in ratios):
        return add_blocks(op, inputs, y, codes)
    shift = 20 - int(np.floor(np.log2(float(max(ratios)))))
    total: Any = sum((x - t.zero) * round(float(r) * 2.0**shift) for x, t, r in zip(codes, inputs, ratios))
    return clamped(((total + (1 << (shift - 1))) >> shift) + y.zero, op.options["FusedActivationFunction"], y, True)


# --- pools, and what has no sums ----------------------------------------------------------------------------------

def windows(op: Operation, x_q: np.ndarray, fill: int) -> tuple[np.ndarray, np.ndarray]:
    """All windows of raw codes, (N, P, Q, C, R, S), padded with ``fill``; and which cells are valid, (P, Q, R, S)."""
    options = op.options
    kernel = options["FilterHeight"], options["FilterWidth"]
    top, left, bottom, right = _padding(options, (x_q.shape[1], x_q.shape[2]), kernel)
    around = ((0, 0), (top, bottom), (left, right), (0, 0))
    steps = (slice(None, None, options["StrideH"]), slice(None, None, options["StrideW"]))

    def views(x: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))[:, steps[0], steps[1]]

    valid = views(np.pad(np.ones((1, *x_q.shape[1:3], 1), bool), around))[0, :, :, 0]
    return views(np.pad(x_q, around, constant_values=fill)), valid


def average_pool(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """AVERAGE_POOL_2D: raw codes of the valid cells, summed and divided half away from zero; steps do not matter."""
    seen, valid = windows(op, codes[0], 0)
    total, count = seen.sum(axis=(4, 5)), valid.sum(axis=(2, 3))[:, :, None]
    return clamped(raw_half_away(total, count), op.options["FusedActivationFunction"], y)


def max_pool(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray], *,
             fused: bool = False) -> np.ndarray:
    """MAX_POOL_2D: the largest raw code of the valid cells. XNNPACK does not take strides beyond the window."""
    fused = fused and (op.options["StrideH"] <= op.options["FilterHeight"]
                       and op.options["StrideW"] <= op.options["FilterWidth"])
    seen, _ = windows(op, codes[0], ends_of(inputs[0])[0])
    return clamped(seen.max(axis=(4, 5)), op.options["FusedActivationFunction"], y, fused)


def reshape(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """RESHAPE: the codes in their order."""
    return codes[0].reshape(len(codes[0]), *y.shape[1:])


def softmax_reference(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """SOFTMAX in fixed point."""
    return fixed_point(codes[0], float(inputs[0].step[0]), op.options["Beta"], ends_of(y)[0])


def softmax_table(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """SOFTMAX by a table of float32."""
    return by_table(codes[0], inputs[0].step[0], op.options["Beta"], y.step[0], y.zero, y.dtype == np.int8)


A, B, X, F = double_rounded, neon, float_half_even, double_half_away


def sums_of(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]
            ) -> tuple[np.ndarray, np.ndarray] | None:
    """The sums of a layer with weights, shaped as its output, and M in double, one or one per channel; else None."""
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        acc = _convolution_sums(op, inputs, codes[0], op.kind == "DEPTHWISE_CONV_2D")
    elif op.kind == "FULLY_CONNECTED":
        acc = _fully_connected_sums(inputs, codes[0]).reshape(codes[0].shape[0], *y.shape[1:])
    else:
        return None
    return acc, np.broadcast_to(multiplier_of(inputs[0], inputs[1], y), acc.shape[-1:])
