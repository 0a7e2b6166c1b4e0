"""Weight candidates without convolutions: a fast sibling of ``candidate_cosines.direct_table``.

With the rows of A_q being what each output sees of the input's codes, Ô = A_q·w_q, so that <O, Ô> = P·w_q and
|Ô|² = w_qᵀ·G·w_q with P = A_qᵀ·O and G = A_qᵀ·A_q. G is exact in integers; both are found once for all candidates.
``tests/benchmarks/bench_easyquant.py`` compares the times.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from refquant.convolution.blas import largest_weight_sum
from refquant.convolution.geometry import taps
from refquant.easyquant.candidate_cosines import CANDIDATES, ActivationCodes, Table, direct_table, weight_codes
from refquant.easyquant.layer import BLOCK, QuantizedLayer
from refquant.workers import in_order

# The largest allowed ratio of a sum's terms to the product it is divided by: the cosine is then right to about 1e-13.
WORST_CONDITION = 2.0**11
# How many multiplications are worth sending a Gram matrix to a worker.
WORTH_SENDING = 1 << 28


class Gram(NamedTuple):
    """G: (groups, K, K) exact integers. P: (groups, K, O/groups). target: |O|² by channel, (O,). K = C/groups·R·S."""

    G: np.ndarray
    P: np.ndarray
    target: np.ndarray


def gram(layer: QuantizedLayer, activation_scale: float) -> Gram | None:
    """G = A_qᵀ·A_q and P = A_qᵀ·O over all batches; None where float64 is not proven to hold G exactly."""
    groups, outputs = layer.geometry.groups, len(layer.weight)
    terms = int(np.prod(layer.weight.shape[1:]))
    reach = max(-layer.x_format.min, layer.x_format.max)
    step = (2**24 - 1) // reach**2  # the sum of so many products is exact in float32
    exact, step = (np.float32, min(step, 1024)) if step >= 64 else (np.float64, 1024)
    G = np.zeros((groups, terms, terms))
    P = np.zeros((groups, terms, outputs // groups))
    target = np.zeros(outputs)
    positions = 0
    for x, o in layer.slices():
        count = max(1, 4 * BLOCK // (groups * terms * o[0, 0].size))
        for some, wanted in ((x[i:i + count], o[i:i + count]) for i in range(0, len(x), count)):
            x_q = ActivationCodes(layer, some).at(activation_scale)
            views = np.stack([view for _, view in taps(x_q, layer.weight.shape[2:], layer.geometry)])
            # From (R·S, N, C, P, Q) to what each output sees, K over channel, row, column.
            seen = views.transpose(2, 0, 1, 3, 4).reshape(groups, terms, -1).astype(exact, copy=False)
            wanted = wanted.transpose(1, 0, 2, 3).reshape(groups, outputs // groups, -1)
            target += np.einsum("gom,gom->go", wanted, wanted).ravel()
            positions += seen.shape[2]
            if positions * reach**2 >= 2**53:
                return None
            for start in range(0, seen.shape[2], step):
                part = seen[:, :, start:start + step]
                G += part @ part.swapaxes(1, 2)
                P += part.astype(np.float64) @ wanted[:, :, start:start + step].swapaxes(1, 2)
    return Gram(G, P, target)


def weight_table(layer: QuantizedLayer, weight_scales: np.ndarray, activation_scale: float) -> Table:
    """The table of many weight scales under one activation scale, all images as one.

    weight_scales: (candidates,) or (candidates, O). From Gram matrices where their integers are proven to
    stay exact, |u| < 2^53 for u = G·w_q and |w_qᵀ·u| < 2^63, and where the terms of P·w_q, each of which carries
    its own rounding, are not far larger than |O|·|Ô|; directly otherwise.
    """
    sums = gram(layer, activation_scale)
    if sums is None:
        return direct_table(layer, weight_scales, [activation_scale], pooled=True)
    tasks = [(f"weight candidates from {start} on", weight_scales[start:start + CANDIDATES])
             for start in range(0, len(weight_scales), CANDIDATES)]
    products = layer.weight.size * sums.G.shape[1] * len(weight_scales)
    parts = list(in_order(_products, (replace(layer, batches=(), executor=None), sums, activation_scale), tasks,
                          layer.executor if products >= WORTH_SENDING else None))
    if any(part is None for part in parts):
        return direct_table(layer, weight_scales, [activation_scale], pooled=True)
    dot, norm = (np.concatenate(columns) for columns in zip(*parts))
    return Table(dot[..., None], norm[..., None], sums.target[:, None])


def _products(shared: tuple[QuantizedLayer, Gram, float], weight_scales: np.ndarray
              ) -> tuple[np.ndarray, np.ndarray] | None:
    """<O, Ô> and |Ô|² by candidate and output channel; None where they are not sure to be right."""
    layer, sums, activation_scale = shared
    groups, terms = sums.G.shape[:2]
    outputs = len(layer.weight)
    dot, norm = np.empty((2, len(weight_scales), outputs))
    largest = float(np.abs(sums.G).max())
    P = np.ascontiguousarray(sums.P.swapaxes(1, 2))
    lengths = np.sqrt(np.diagonal(sums.G, axis1=1, axis2=2))  # of the columns of A_q
    for k, scale in enumerate(weight_scales):
        w_q = weight_codes(layer, scale)
        reach = largest_weight_sum(w_q)
        if largest * reach >= 2**53 or largest * reach**2 >= 2**63:
            return None
        w = w_q.reshape(groups, outputs // groups, terms).astype(np.float64)
        u, unit = w @ sums.G, 1 / (scale * activation_scale)
        exact = np.float64 if largest * reach**2 < 2**53 else np.int64
        dot[k] = np.einsum("gok,gok->go", w, P).ravel() * unit
        norm[k] = np.einsum("gok,gok->go", w.astype(exact, copy=False), u.astype(exact, copy=False)).ravel() * unit**2
        # |P_k| <= |column k of A_q|·|O|: how large the terms can be.
        reached = np.einsum("gok,gk->go", np.abs(w), lengths).ravel() * unit @ np.sqrt(sums.target)
        if reached > WORST_CONDITION * np.sqrt(norm[k].sum()) * np.sqrt(sums.target.sum()):
            return None
    return dot, norm
