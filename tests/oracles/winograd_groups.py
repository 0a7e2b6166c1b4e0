"""Groups of one tile (C, n, n) and one kernel (C, r, r) for Winograd in C and in Verilog, and what they must give."""
from __future__ import annotations

from typing import Any

import numpy as np
from convolution_oracle import convolved
from recording import winograd_with_stages

from refquant.convolution.geometry import Geometry
from refquant.integers.formats import IntFormat
from refquant.winograd.bounds import winograd_bounds
from refquant.winograd.transforms import transforms_for


def witness_groups(tile: Any, x_format: IntFormat, w_format: IntFormat, channels: int) -> tuple[np.ndarray, ...]:
    """Both ends of each Winograd stage; zeros where a stage does not look."""
    t = transforms_for(tile)
    pairs = [pair for bound in winograd_bounds(tile, x_format, w_format, channels)
             if bound.stage not in ("direct", "lane")
             for pair in ((bound.x_min, bound.w_min), (bound.x_max, bound.w_max))]
    return tuple(np.array([np.zeros((channels, size, size), int) if codes is None else codes for codes in operands])
                 for operands, size in zip(zip(*pairs), (t.n, t.r)))


def random_groups(tile: Any, x_format: IntFormat, w_format: IntFormat, channels: int, count: int,
                  ends: bool = False) -> tuple[np.ndarray, ...]:
    """Random codes, or of the least and the greatest code alone."""
    t, rng = transforms_for(tile), np.random.default_rng(7)
    return tuple(rng.choice([fmt.min, fmt.max] if ends else np.arange(fmt.min, fmt.max + 1),
                            (count, channels, size, size)) for fmt, size in ((x_format, t.n), (w_format, t.r)))


def expected_stages(tile: Any, x: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray]:
    """The stages of winograd_convolve, group after group; its outputs must be those of the plain sum."""
    seen = []
    for tiles, kernels in zip(x[:, None], w[:, None]):
        y, trace = winograd_with_stages(tiles, kernels, tile)
        assert np.array_equal(y, convolved(tiles, kernels, Geometry()))
        seen.append(trace)
    return {stage: np.concatenate([trace[stage].values.ravel() for trace in seen])
            for stage in ("V", "U", "sum", "output")}
