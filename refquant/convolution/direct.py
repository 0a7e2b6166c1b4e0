"""Convolution (cross-correlation, as CNNs mean it) of floats, and of integers exactly.

    y[n, o, p, q] = bias[o] + Σ_{c, r, s} w[o, c, r, s] · x[n, c', p·stride + r·dilation, q·stride + s·dilation]

with x padded and c' running through the input channels of o's group. Shape letters are those of
``refquant``'s docstring.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.convolution.blas import correlate, exact_dtype, largest_weight_sum
from refquant.convolution.geometry import Geometry, taps
from refquant.integers.checks import fitting_int64, integer, native


def convolve_direct(x: np.ndarray, w: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The definition: for every tap (r, s) of the kernel, weights times the inputs below it, added over channels.

    x: (N, C, H, W) and w: (O, C/groups, R, S), integers or floats of one kind, padded with 0. Returns (N, O, P, Q),
    int64 for integers, whose sums must fit it. ``blas.correlate`` gives the same integers faster.
    """
    kind = np.int64 if x.dtype.kind in "iu" else np.result_type(x, w)
    x, w, groups = x.astype(kind), w.astype(kind), geometry.groups
    y = np.zeros((len(x), len(w), *geometry.output_size(x.shape[2], x.shape[3], w.shape[2:])), kind)
    for (r, s), seen in taps(x, w.shape[2:], geometry):
        grouped = seen.reshape(len(x), groups, -1, *seen.shape[2:])
        weight = w[:, :, r, s].reshape(groups, -1, w.shape[1])
        y += np.einsum("goc,ngcpq->ngopq", weight, grouped).reshape(y.shape)
    return y


def convolve(x: Any, w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
             groups: int = 1) -> np.ndarray:
    """Convolution of floats, padded with zeros.

    x: (N, C, H, W), w: (O, C/groups, R, S), bias: (O,) or None; float32 or float64, finite or not.
    stride, dilation: a number or a pair. padding: a number, (vertical, horizontal) or (top, left,
    bottom, right). Returns (N, O, P, Q) in the operands' common dtype. ValueError for shapes that do
    not fit and for integers, which belong to ``convolve_exact``.

    >>> convolve(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))[0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    x, w = native(x), native(w)
    for name, array in (("input", x), ("weight", w)):
        if array.dtype not in (np.float32, np.float64):
            raise ValueError(f"{name} must hold float32 or float64 (convolve_exact takes integers), got dtype "
                             f"{array.dtype}")
    geometry = Geometry.of(stride, padding, dilation, groups)
    geometry.check_shapes(x.shape, w.shape)
    dtype = np.result_type(x, w).type
    with np.errstate(invalid="ignore"):
        y = correlate(x, w, geometry, dtype)
    if w.shape[1] == 1 and not np.isfinite(y).all():  # an infinity spreads there
        y = convolve_direct(x, w, geometry)
    return y if bias is None else y + _bias(bias, "f", w.shape[0]).astype(dtype)[:, None, None]


def _bias(bias: Any, kinds: str, outputs: int) -> np.ndarray:
    bias = np.asarray(bias)
    if bias.shape != (outputs,) or bias.dtype.kind not in kinds:
        raise ValueError(f"bias must hold {outputs} {'floats' if kinds == 'f' else 'integers'}, "
                         f"got shape {bias.shape} of {bias.dtype}")
    return bias


def convolve_exact(x_q: Any, w_q: Any, bias_q: Any = None, *, stride: Any = 1, padding: Any = 0,
                   dilation: Any = 1, groups: int = 1, zero_point: int = 0) -> np.ndarray:
    """Convolution of integers, exact: Σ w_q·(x_q - zero_point) + bias_q.

    x_q: integers (N, C, H, W), padded with ``zero_point``, so that padding stands for real 0.
    w_q: integers (O, C/groups, R, S). bias_q: integers (O,) or None.
    stride, padding, dilation, groups: as for ``convolve``.
    Returns int64 (N, O, P, Q). OverflowError where int64 is not proven to hold the sums.

    No partial sum exceeds max_o Σ|w_q|·max|x_q - zero_point|. While that is below 2^53, floats add up exactly
    (``blas.exact_dtype``); beyond it ``convolve_direct`` runs.

    >>> convolve_exact(np.array([[[[3, -128]]]]), np.array([[[[2, 127]]]]))
    array([[[[-16250]]]])
    """
    geometry = Geometry.of(stride, padding, dilation, groups)
    return exact_sums(x_q, w_q, bias_q, geometry, zero_point, np.dtype(np.int64))


def exact_sums(x_q: Any, w_q: Any, bias_q: Any, geometry: Geometry, zero_point: int, dtype: np.dtype) -> np.ndarray:
    """``convolve_exact`` in integers of ``dtype``, which must hold every sum, with and without the bias."""
    x_q, w_q = fitting_int64(x_q, "input"), fitting_int64(w_q, "weight")
    geometry.check_shapes(x_q.shape, w_q.shape)
    geometry.output_size(x_q.shape[2], x_q.shape[3], w_q.shape[2:])
    if bias_q is not None:
        bias_q = _bias(bias_q, "iu", w_q.shape[0])
    zero_point = integer(zero_point, "zero_point")
    reach = max(abs(int(x_q.min()) - zero_point), abs(int(x_q.max()) - zero_point))
    bound = reach * largest_weight_sum(w_q)
    exact_dtype(max(reach, bound + (0 if bias_q is None else max(-int(bias_q.min()), int(bias_q.max())))),
                "the convolution's sums")
    kind = exact_dtype(bound)
    narrow = kind is np.float32 and x_q.dtype.itemsize <= 2 and reach < 2**23  # which float32 holds, operands too
    x = x_q.astype(np.float32 if narrow else np.int64) - zero_point if zero_point else x_q
    y = (convolve_direct(x, w_q, geometry).astype(dtype, copy=False) if kind is np.int64
         else correlate(x, w_q, geometry, kind, dtype.type))
    if bias_q is not None:
        y += bias_q.astype(dtype)[:, None, None]
    return y
