"""Statistics of every tensor of a float network over calibration images, in two passes, in float64."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from refquant.network.float_forward import check_images, float64_tensors
from refquant.network.forward import slices
from refquant.network.graph import Network
from refquant.scales.statistics import Extremes, Histogram


class Statistics(NamedTuple):
    """Both passes over one tensor."""

    extremes: Extremes
    histogram: Histogram


def calibrate(network: Network, images: Any, executor: Executor | None = None) -> dict[str, Statistics]:
    """Extremes and histogram of every tensor, the network's input among them.

    images: floats (N, *input_shape). executor: where slices of the images are run, such as a
    ``concurrent.futures.ProcessPoolExecutor``; the result is the same to the last bit.
    """
    images = check_images(images, network.input_shape)
    extremes = _merged(_extremes, network, images, executor)
    limits = {name: seen.magnitude for name, seen in extremes.items()}
    histograms = _merged(partial(_histogram, limits), network, images, executor)
    return {name: Statistics(seen, histograms[name]) for name, seen in extremes.items()}


def observe_extremes(network: Network, images: Any, executor: Executor | None = None) -> dict[str, Extremes]:
    """The first pass alone."""
    return _merged(_extremes, network, check_images(images, network.input_shape), executor)


def _extremes(x: np.ndarray, name: str) -> Extremes:
    return Extremes.of(x)


def _histogram(limits: dict[str, float], x: np.ndarray, name: str) -> Histogram:
    return Histogram.of(x, limits[name])


def _merged(observe: Callable[[np.ndarray, str], Any], network: Network, images: np.ndarray,
            executor: Executor | None) -> dict[str, Any]:
    tasks = [(observe, network, images[some], some.start)
             for some in slices(len(images), network.shapes, network.nodes)]
    parts = iter(map(_observe, tasks) if executor is None else executor.map(_observe, tasks))
    total = next(parts)
    for part in parts:
        total = {name: seen.merge(part[name]) for name, seen in total.items()}
    return total


def _observe(task: tuple[Callable[[np.ndarray, str], Any], Network, np.ndarray, int]) -> dict[str, Any]:
    observe, network, images, start = task
    return {name: observe(x, name) for name, x in float64_tensors(network, images, start, "calibration image")}
