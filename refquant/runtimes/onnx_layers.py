"""onnxruntime's layers with weights, on codes: exact sums, or sums whose pairs saturate; planes are NCHW.

A rule is a function of the operation, its tensors' descriptions and their codes (int64), as in ``operators``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from refquant.convolution.direct import convolve_exact
from refquant.convolution.geometry import Geometry, pad, taps
from refquant.runtimes.arithmetic import FLOAT, fma, wrap32
from refquant.runtimes.model import Operation, Tensor


def lost_in_pairs(x_q: np.ndarray, weight: np.ndarray, geometry: Geometry, zero: int) -> np.ndarray:
    """What sums lose where each pair of products is held in int16: Σ (saturated pair - pair), (N, O, P, Q).

    x86's PMADDUBSW multiplies unsigned by signed bytes and adds two neighbours with saturation. Neighbours are so in
    the order in which onnxruntime lays out a window: rows, columns, then channels of the group; the last of an odd
    count stands alone. Only pairs of two weights beyond 128 together can leave int16, so others are passed over.

    x_q: unsigned codes (N, C, H, W), weight: signed codes (O, C/groups, R, S). zero: what pads.

    >>> lost_in_pairs(np.array([[[[200]], [[190]]]]), np.array([[[[127]], [[100]]]]), Geometry(), 0)  # 44400
    array([[[[-11633]]]])
    """
    geometry.check_shapes(x_q.shape, weight.shape)
    rows, columns = geometry.output_size(x_q.shape[2], x_q.shape[3], weight.shape[2:])
    padded = pad(x_q, geometry.padding, zero)
    whole = geometry._replace(padding=(0, 0, 0, 0))
    seen = [view for _, view in taps(padded, weight.shape[2:], whole)]  # each (N, C, P, Q)
    lost = np.zeros((len(x_q), len(weight), rows, columns), np.int64)
    channels, outputs = weight.shape[1], len(weight) // geometry.groups
    for group in range(geometry.groups):
        kernels = weight[group * outputs:(group + 1) * outputs].transpose(0, 2, 3, 1).reshape(outputs, -1)
        for k in range(0, kernels.shape[1] - 1, 2):
            w0, w1 = kernels[:, k], kernels[:, k + 1]
            can = np.flatnonzero(255 * np.maximum(np.abs(w0 + w1), np.maximum(np.abs(w0), np.abs(w1))) >= 2**15)
            if not len(can):
                continue
            u0, u1 = (seen[place // channels][:, group * channels + place % channels] for place in (k, k + 1))
            pair = (u0[:, None] * w0[can][None, :, None, None] + u1[:, None] * w1[can][None, :, None, None])
            lost[:, group * outputs + can] += np.clip(pair, -(2**15), 2**15 - 1) - pair
    return lost


def sums_of(op: Operation, inputs: Sequence[Tensor], x_q: np.ndarray, *, pairs: bool) -> np.ndarray:
    """int32 sums of (x - zx)·(w - zw) and the bias. pairs: unsigned codes times signed weights lose as above.

    Depthwise layers are exact, as their kernel multiplies in 16 bits, and so is ConvInteger.
    """
    x, w = inputs[:2]
    assert w.values is not None
    zw = w.zero_point.reshape(-1, 1, 1, 1)
    raw = w.values.astype(np.int64)
    raw = raw if raw.ndim == 4 else raw.reshape(len(raw), -1, 1, raw.shape[2] if raw.ndim == 3 else 1)
    bias = inputs[2].values if len(inputs) > 2 else None
    geometry = op.options.get("Geometry", Geometry())
    planes = x_q.reshape(*x_q.shape[:2], 1, -1) if x_q.ndim < 4 else x_q
    acc = convolve_exact(planes, raw - zw, bias, stride=geometry.stride, padding=geometry.padding,
                         dilation=geometry.dilation, groups=geometry.groups, zero_point=x.zero)
    depthwise = op.kind == "QLinearConv" and raw.shape[1] == 1 and len(raw) == geometry.groups
    exact = depthwise or op.kind == "ConvInteger"
    if pairs and x.dtype == np.uint8 and w.dtype == np.int8 and not exact:
        acc = acc + lost_in_pairs(planes, raw, geometry, x.zero)
    return wrap32(acc)


def multiplier(op: Operation, inputs: Sequence[Tensor], y: Tensor) -> np.ndarray:
    """f32(alpha·sx·sw / sy), every operation in float32, one or one per output; no sy where the output is floats."""
    x, w = inputs[:2]
    M = (FLOAT(op.options.get("Alpha", 1.0)) * x.step[0]) * w.step
    return np.asarray(M / y.step[0] if y.step.size else M, FLOAT)


def requantized(acc: np.ndarray, M: Any, y: Tensor) -> np.ndarray:
    """rint(clip(f32(acc)·M)) + zy: the limits, less the zero point, come before the rounding to even."""
    ends = np.iinfo(y.dtype)
    scaled = np.clip(acc.astype(FLOAT) * M, FLOAT(ends.min - y.zero), FLOAT(ends.max - y.zero))
    return np.rint(scaled).astype(np.int64) + y.zero


def shaped_sums(op: Operation, inputs: Sequence[Tensor], y: Tensor, x_q: np.ndarray, *, pairs: bool) -> np.ndarray:
    """``sums_of`` in the output's shape."""
    last = x_q if op.kind in ("QLinearConv", "ConvInteger") else x_q.reshape(-1, x_q.shape[-1], 1, 1)
    return sums_of(op, inputs, last, pairs=pairs).reshape(len(x_q), *y.shape[1:])


def layer(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray], *, pairs: bool
          ) -> np.ndarray:
    """QLinearConv, QGemm and QLinearMatMul; ConvInteger and MatMulInteger, which are sums; MatMulIntegerToFloat.

    Of a matrix product the weight is (outputs, inputs), and the input's last axis runs along its rows. QGemm without
    a step for y gives floats, as MatMulIntegerToFloat does.
    """
    acc = shaped_sums(op, inputs, y, codes[0], pairs=pairs)
    if y.dtype == np.int32:
        return acc
    M = multiplier(op, inputs, y)
    channels_first = op.kind == "QLinearConv"
    M = M.reshape(1, -1, *[1] * (acc.ndim - 2)) if channels_first else M.ravel()
    return requantized(acc, M, y) if y.step.size else np.asarray(acc.astype(FLOAT) * M)


def block_of(terms: int, positions: int) -> int:
    """How many terms of a sum MLAS's SGEMM adds before it adds them to the output, on one thread (STRIDEK).

    terms: of each sum. positions: of the output's plane. 128, or more where the plane is
    small and the sum long. onnxruntime divides planes among threads, and with them the blocks can change.
    """
    stride_n, stride_k = 128, 128
    if positions < terms:
        while stride_n > 16 and stride_n // 2 >= positions:
            stride_k, stride_n = 2 * stride_k, stride_n // 2
    return stride_k


def float_convolution(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray]) -> np.ndarray:
    """Conv that is left in floats, as MLAS has it with FMA on one thread: channels, rows, columns; the bias last.

    Fused multiply-adds, from 0 in each block of terms (``block_of``); blocks are added up. A group of one output, as
    in a depthwise layer, has products rounded by themselves, four of which are added before they meet the sum; of the
    rest two, then one.
    """
    w, (x,) = inputs[1], codes
    assert w.values is not None
    geometry = op.options["Geometry"]
    weight, kernel = w.values, w.values.shape[2:]
    rows, columns = geometry.output_size(x.shape[2], x.shape[3], kernel)
    seen = dict(taps(x.astype(FLOAT), kernel, geometry))
    each = len(weight) // geometry.groups  # outputs of a group
    first = np.arange(len(weight)) // each * weight.shape[1]  # the input channel at which each one's group begins
    order = [(c, r, s) for c in range(weight.shape[1]) for r in range(kernel[0]) for s in range(kernel[1])]

    def term(place: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        c, r, s = place
        return weight[None, :, c, r, s, None, None], seen[r, s][:, first + c]

    total = np.zeros((len(x), len(weight), rows, columns), FLOAT)
    if each == 1:
        for some in _by_four(order):
            total = total + reduce(np.add, [a * b for a, b in map(term, some)])
    else:
        size = block_of(len(order), rows * columns)
        for start in range(0, len(order), size):
            part = np.zeros_like(total)
            for place in order[start:start + size]:
                part = fma(*term(place), part)
            total = part if start == 0 else total + part
    if len(inputs) > 2:
        assert inputs[2].values is not None
        total = total + inputs[2].values[None, :, None, None]
    return total


def _by_four(order: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Fours, then a pair, then one."""
    whole = len(order) // 4 * 4
    parts = [order[k:k + 4] for k in range(0, whole, 4)]
    return [*parts, *(part for part in (order[whole:whole + 2], order[whole + 2:]) if part)]
