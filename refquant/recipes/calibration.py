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
from refquant.workers import Progress, of_slices


class Statistics(NamedTuple):
    """Both passes over one tensor."""

    extremes: Extremes
    histogram: Histogram


def calibrate(network: Network, images: Any, executor: Executor | None = None, progress: Progress | None = None
              ) -> dict[str, Statistics]:
    """Extremes and histogram of every tensor, the network's input among them.

    images: floats (N, *input_shape). executor: where slices of the images are run, such as a
    ``concurrent.futures.ProcessPoolExecutor``; the result is the same to the last bit. progress: called after each.
    """
    extremes = observe(_extremes, network, images, executor, progress, "calibration, extremes")
    limits = {name: seen.magnitude for name, seen in extremes.items()}
    histograms = observe(partial(_histogram, limits), network, images, executor, progress, "calibration, histograms")
    return {name: Statistics(seen, histograms[name]) for name, seen in extremes.items()}


def observe_extremes(network: Network, images: Any, executor: Executor | None = None, progress: Progress | None = None
                     ) -> dict[str, Extremes]:
    """The first pass alone."""
    return observe(_extremes, network, images, executor, progress, "calibration, extremes")


def _extremes(x: np.ndarray, name: str) -> Extremes:
    return Extremes.of(x)


def _histogram(limits: dict[str, float], x: np.ndarray, name: str) -> Histogram:
    return Histogram.of(x, limits[name])


def observe(function: Callable[[np.ndarray, str], Any], network: Network, images: Any, executor: Executor | None,
            progress: Progress | None, step: str) -> dict[str, Any]:
    """``function(x, name)`` of every tensor, slice after slice, merged; arguments as for ``calibrate``.

    function: one of a module, which returns something that merges. step: the name that progress tells.
    """
    images, total = check_images(images, network.input_shape), dict[str, Any]()
    parts = slices(len(images), network.shapes, network.nodes)
    for done, part in zip(parts, of_slices(_observe, (function, network), parts, images, executor,
                                           "calibration image")):
        total = {name: total[name].merge(seen) if name in total else seen for name, seen in part.items()}
        if progress:
            progress(step, f"{done.stop} images", done.stop / len(images))
    return total


def _observe(shared: tuple[Callable[[np.ndarray, str], Any], Network], task: tuple[np.ndarray, int]
             ) -> dict[str, Any]:
    (function, network), (images, start) = shared, task
    return {name: function(x, name) for name, x in float64_tensors(network, images, start, "calibration image")}
