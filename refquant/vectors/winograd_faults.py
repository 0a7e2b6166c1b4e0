"""Bugs of integer Winograd: of its matrices, tiles and registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from refquant.vectors import operations as op
from refquant.vectors.code_faults import Fault
from refquant.vectors.operations import Arrays, Parameters


def winograd_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``winograd``: of its matrices, tiles and registers."""
    def changed(**by: Any) -> Callable[[Arrays, Parameters], np.ndarray]:
        return lambda t, p: op.winograd_case(t, {**p, **by})["expected"]

    def matrix(name: str, place: tuple[int, int], factor: int) -> list[int]:
        rows = getattr(op.tile_of(p), name).copy()
        rows[place] *= factor
        return rows.ravel().tolist()

    def register(stage: str, policy: str) -> Callable[[Arrays, Parameters], np.ndarray]:
        narrower = {**p["formats"], stage: {**p["formats"][stage], "bits": p["formats"][stage]["bits"] - 1}}
        return changed(formats=narrower, policy=policy)

    if p["policy"] == "trap":
        yield Fault("overflow never reported", lambda t, p: np.zeros(len(t["x"]), np.int64))
        return
    last = sum(p["tile"]) - 2
    yield Fault("sign in B^T", changed(bt=matrix("bt", (1, 2), -1)))
    yield Fault("sign in the last row of B^T", changed(bt=matrix("bt", (last, last), -1)))
    yield Fault("sign in A^T", changed(at=matrix("at", (1, 2), -1)))
    yield Fault("factor in G", changed(g=matrix("g", (0, 0), 2)))
    yield Fault("sign in G", changed(g=matrix("g", (2, 1), -1)))
    yield Fault("kernel transposed", lambda t, p: op.winograd_case(
        {**t, "w": t["w"].swapaxes(2, 3)}, p)["expected"])
    yield Fault("kernel rotated by 180 degrees", lambda t, p: op.winograd_case(
        {**t, "w": t["w"][:, :, ::-1, ::-1]}, p)["expected"])
    yield Fault("tile transposed", _tiles_transposed)
    if p["divisor"] > 1:
        yield Fault("divided once by the divisor", lambda t, p: _unscaled(t, p, p["divisor"]))
    if t["x"].shape[1] > 1:
        yield Fault("last channel dropped", lambda t, p: op.winograd_case(
            {name: v[:, :-1] for name, v in t.items()}, p)["expected"])
    if len(t["w"]) > 1:
        yield Fault("first kernel for all outputs", lambda t, p: op.winograd_case(
            {**t, "w": t["w"][:1] + 0 * t["w"]}, p)["expected"])
    yield Fault("second tile taken at n, not at m", _tiles_apart)
    for stage in ("V", "U", "product", "sum", "output_scaled"):
        yield Fault(f"register of {stage} one bit narrower", register(stage, "wrap"))
    yield Fault("wraps instead of saturating" if p["policy"] == "saturate" else "saturates instead of wrapping",
                changed(policy="wrap" if p["policy"] == "saturate" else "saturate"))


def _unscaled(t: Arrays, p: Parameters, divisor: int) -> np.ndarray:
    """The output where the scaled one is divided by another number."""
    scaled = op.winograd_case(t, p)["expected_output_scaled"]
    return _assembled(scaled // divisor, op.winograd_case(t, p)["expected"].shape)


def _assembled(tiles: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    n, outputs, rows, columns, m, _ = tiles.shape
    y = tiles.swapaxes(3, 4).reshape(n, outputs, rows * m, columns * m)
    return y[:, :, :shape[2], :shape[3]]


def _tiles_transposed(t: Arrays, p: Parameters) -> np.ndarray:
    scaled = op.winograd_case(t, p)["expected_output_scaled"].swapaxes(4, 5)
    return _assembled(scaled // p["divisor"] ** 2, op.winograd_case(t, p)["expected"].shape)


def _tiles_apart(t: Arrays, p: Parameters) -> np.ndarray | None:
    """Columns of tiles that do not overlap: from the second on they begin too late."""
    m, n = p["tile"][0], p["tile"][0] + p["tile"][1] - 1
    y = op.winograd_case(t, p)["expected"]
    if y.shape[3] <= m:
        return None
    top, left, bottom, right = p["padding"]
    x = np.pad(t["x"], ((0, 0), (0, 0), (top, bottom), (left, right + 2 * n)))
    columns = np.concatenate([np.arange(n) + n * k for k in range(-(-y.shape[3] // m))])
    columns = np.minimum(columns, x.shape[3] - 1)
    parts = [op.winograd_case({**t, "x": x[:, :, :, columns[k * n:k * n + n]]}, {**p, "padding": [0, 0, 0, 0]})[
        "expected"] for k in range(-(-y.shape[3] // m))]
    return np.concatenate(parts, axis=3)[:, :, :, :y.shape[3]]
