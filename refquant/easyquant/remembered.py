"""The tables of a whole search, each pair of scales evaluated once: a fast sibling of ``direct_table``.

From the second round on, most candidates repeat, since the grid stays. If a half-step changes nothing, the next one
finds all its sums in the last table. If the weights of some channels moved, only those are convolved again.
``tests/benchmarks/bench_easyquant.py`` compares the times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from refquant.easyquant.candidate_cosines import Table, direct_table
from refquant.easyquant.gram import weight_table
from refquant.easyquant.layer import QuantizedLayer


class RememberedTables:
    """The last table of each operand, of one layer, all images as one."""

    def __init__(self, layer: QuantizedLayer) -> None:
        self.layer = layer
        self._weights: tuple[float, np.ndarray, Table] | None = None
        self._activations: tuple[np.ndarray, np.ndarray, Table] | None = None

    def of_weights(self, candidates: np.ndarray, activation_scale: float) -> Table:
        """``gram.weight_table``. candidates: (K,) or (K, O)."""
        columns = candidates.reshape(len(candidates), -1)
        before = self._weights
        rows = _rows(before[1], columns) if before and before[0] == activation_scale else np.full(columns.shape, -1)
        fresh = np.any(rows < 0, axis=1)
        table = weight_table(self.layer, candidates[fresh], activation_scale) if fresh.any() else None
        if before and not fresh.all():
            table = _merged(before[2], rows, fresh, table)
        assert table is not None
        self._weights = activation_scale, columns, table
        return table

    def of_activations(self, weight_scale: np.ndarray, candidates: np.ndarray) -> Table:
        """``direct_table`` under one weight scale, () or (O,). candidates: (K,)."""
        columns, scale = candidates[:, None], np.broadcast_to(weight_scale, len(self.layer.weight))
        before = self._activations
        rows = np.full(columns.shape, -1) if before is None else _rows(before[1], columns)
        moved = np.ones(len(scale), bool) if before is None else before[0] != scale
        if before is None or moved.all() or (rows < 0).any() or (self.layer.geometry.groups > 1 and moved.any()):
            table = direct_table(self.layer, [weight_scale], candidates, pooled=True)
        else:
            table = Table(before[2].dot[rows[:, 0]], before[2].norm[rows[:, 0]], before[2].target)
            if moved.any():
                some = direct_table(_channels(self.layer, moved), [scale[moved]], candidates, pooled=True)
                table.dot[:, moved], table.norm[:, moved] = some.dot, some.norm
        self._activations = scale, columns, table
        return table


def _rows(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Where each candidate of each channel stood before, or -1; both (K, O)."""
    rows = np.stack([(before == candidate).argmax(axis=0) for candidate in now])
    return np.where(np.take_along_axis(before, rows, axis=0) == now, rows, -1)


def _merged(before: Table, rows: np.ndarray, fresh: np.ndarray, table: Table | None) -> Table:
    """Old rows where they are known, and those of ``table`` where they are fresh."""
    rows = np.broadcast_to(rows[:, :, None], (len(rows), *before.dot.shape[1:]))
    dot, norm = (np.take_along_axis(old, rows, axis=0) for old in (before.dot, before.norm))
    if table is not None:
        dot[fresh], norm[fresh] = table.dot, table.norm
    return Table(dot, norm, before.target)


class _SomeOutputs:
    """Batches with the outputs of some channels only."""

    def __init__(self, layer: QuantizedLayer, some: np.ndarray) -> None:
        self.layer, self.some = layer, some

    def __iter__(self) -> Iterator[Any]:
        for batch in self.layer.batches:
            yield (batch[0], batch[1][:, self.some]) if isinstance(batch, tuple) else batch


def _channels(layer: QuantizedLayer, some: np.ndarray) -> QuantizedLayer:
    return replace(layer, batches=_SomeOutputs(layer, some), weight=layer.weight[some])
