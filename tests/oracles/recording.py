"""Traced runs as a result and what its trace was shown."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.int16 import convolve_int16
from refquant.integers.accumulation import check_products_per_lane, dot_int16
from refquant.integers.formats import IntFormat
from refquant.integers.stages import Recorder
from refquant.winograd.convolution import winograd_convolve


class LaneStep(NamedTuple):
    instruction: str
    step: int
    lanes: np.ndarray  # before the policy


class LaneRange(NamedTuple):
    """Products per lane, and the extremes of the lanes, 0 among them."""

    products_per_lane: int
    int16_min: int
    int16_max: int
    int32_min: int
    int32_max: int


class Stage(NamedTuple):
    format: IntFormat
    min: int
    max: int
    values: np.ndarray  # after the policy


def dot_with_steps(*arguments: Any, **options: Any) -> tuple[np.ndarray, list[LaneStep]]:
    steps: list[LaneStep] = []

    def trace(stage: str, fmt: IntFormat, exact: np.ndarray, kept: np.ndarray) -> None:
        assert kept.shape == exact.shape and fmt.min <= kept.min(initial=0) and kept.max(initial=0) <= fmt.max
        if stage != "ADDV":
            steps.append(LaneStep(stage, sum(s.instruction == "SMLAL" for s in steps) - (stage != "SMLAL"), exact))

    return dot_int16(*arguments, trace=trace, **options), steps


def convolve_with_lanes(x_q: Any, w_q: Any, x_format: IntFormat, w_format: IntFormat, products_per_lane: Any = "safe",
                        **options: Any) -> tuple[np.ndarray, LaneRange]:
    seen = Recorder()
    y = convolve_int16(x_q, w_q, x_format, w_format, products_per_lane=products_per_lane, trace=seen, **options)
    narrow, wide = (seen.ranges[name].merge(0, 0) for name in ("SMLAL", "SADALP"))
    per_lane = check_products_per_lane(products_per_lane, x_format, w_format)
    return y, LaneRange(per_lane, narrow.min, narrow.max, wide.min, wide.max)


def winograd_with_stages(*arguments: Any, **options: Any) -> tuple[np.ndarray, dict[str, Stage]]:
    seen = Recorder()
    y = winograd_convolve(*arguments, trace=seen, **options)
    return y, {name: Stage(r.format, r.min, r.max, seen.values[name]) for name, r in seen.ranges.items()}
