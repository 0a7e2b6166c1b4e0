"""Calibration of whole networks against sorted lists and counted bins, in any slices, here or in workers."""
from __future__ import annotations

import math
import re
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pytest

from refquant.convolution.geometry import Geometry
from refquant.network import forward
from refquant.network.float_forward import run_float_tensors
from refquant.network.graph import Add, Clip, Concat, Conv, Flatten, GlobalAveragePool, Linear, MaxPool, Network
from refquant.recipes.calibration import Statistics, calibrate, observe_extremes
from refquant.recipes.quantize import quantize_network

RNG = np.random.default_rng(20)


def eighths(*shape: int) -> np.ndarray:
    """Few bits each: every sum below is exact, so that the size of a slice cannot matter."""
    return RNG.integers(-8, 9, shape) / 8


EXACT = Network((2, 4, 4), (
    Conv("conv", "input", eighths(3, 2, 3, 3), eighths(3), Geometry(padding=(1, 1, 1, 1))),
    Clip("relu", "conv"),
    Clip("silent", "relu", -2.0, 0.0),  # nothing but zeros
    Add("sum", ("relu", "conv")),
    Concat("both", ("sum", "silent")),
    MaxPool("pool", "both", (2, 2), Geometry((2, 2))),
    GlobalAveragePool("mean", "pool"),
    Flatten("flat", "mean"),
    Linear("logits", "flat", eighths(4, 6), eighths(4)),
))
IMAGES = eighths(130, 2, 4, 4).astype(np.float32)
LARGEST = max(sum(math.prod(EXACT.shapes[name]) for name in (*node.inputs, node.name)) for node in EXACT.nodes)


def assert_statistics_of(seen: Statistics, x: np.ndarray) -> None:
    values = x.ravel().tolist()
    limit = max(map(abs, values))
    counts = [0] * 2048
    for value in values:
        counts[min(int(abs(value) / limit * 2048), 2047) if limit else 0] += 1
    assert seen.extremes.smallest.tolist() == sorted(values)[:10]
    assert seen.extremes.largest.tolist() == sorted(values)[-10:]
    assert seen.histogram.counts.tolist() == counts
    assert (seen.histogram.zeros, seen.histogram.limit) == (values.count(0), limit)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("number", "together"), [(1, 50), (50, 1), (51, 50), (130, 50), (130, 1000)])
def test_statistics_are_those_of_all_images_at_once(number, together, dtype, monkeypatch):
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", together * LARGEST)
    images = IMAGES[:number].astype(dtype)
    tensors = run_float_tensors(EXACT, images)
    found, first_pass = calibrate(EXACT, images), observe_extremes(EXACT, images)
    assert list(found) == list(first_pass) == list(tensors) == ["input", *(node.name for node in EXACT.nodes)]
    for name, x in tensors.items():
        assert_statistics_of(found[name], x)
        assert_statistics_of(Statistics(first_pass[name], found[name].histogram), x)


class Counting(ThreadPoolExecutor):
    submitted = 0

    def submit(self, fn, /, *args, **kwargs):
        self.submitted += 1
        return super().submit(fn, *args, **kwargs)


def test_every_slice_of_both_passes_is_handed_to_the_executor(monkeypatch):
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", 50 * LARGEST)
    with Counting(3) as pool:
        found = calibrate(EXACT, IMAGES, pool)
        assert pool.submitted == 2 * 3
        observe_extremes(EXACT, IMAGES[:50], pool)
        assert pool.submitted == 2 * 3 + 1
    for name, x in run_float_tensors(EXACT, IMAGES).items():
        assert_statistics_of(found[name], x)


# --- refusals -----------------------------------------------------------------------------------------

class Refusing(Executor):
    """No work may be handed out before the images are checked."""

    def submit(self, fn, /, *args, **kwargs):
        raise AssertionError("work was submitted")


@pytest.mark.parametrize(("images", "message"), [
    (IMAGES[:0], "images must be a non-empty (N, 2, 4, 4), got shape (0, 2, 4, 4)"),
    (IMAGES[0], "images must be a non-empty (N, 2, 4, 4), got shape (2, 4, 4)"),
    (IMAGES.transpose(0, 2, 3, 1), "images must be a non-empty (N, 2, 4, 4), got shape (130, 4, 4, 2)"),
    (IMAGES.astype(np.float16), "images must hold float32 or float64, got dtype float16"),
    (np.where(np.arange(130) == 120, -np.inf, IMAGES.T).T, "images must be finite, got NaN or infinity"),
])
@pytest.mark.parametrize("function", [calibrate, observe_extremes, quantize_network])
def test_bad_images_are_refused_in_one_sentence_before_any_work(function, images, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        function(EXACT, images, executor=Refusing())


@pytest.mark.parametrize("observe", [calibrate, observe_extremes])
@pytest.mark.parametrize("image", [0, 53])
def test_a_tensor_that_overflows_on_the_way_is_refused_by_its_name_and_image(observe, image):
    network = Network((1, 1, 1), (Conv("fine", "input", np.ones((1, 1, 1, 1))),
                                  Conv("boiling", "fine", np.full((1, 1, 1, 1), 1e38)),
                                  Conv("later", "boiling", np.ones((1, 1, 1, 1)))))
    images = np.ones((60, 1, 1, 1), np.float32)
    images[image:] = 100
    with ThreadPoolExecutor(1) as pool:
        for executor in (None, pool):
            with pytest.raises(ValueError, match=r"^tensor 'boiling' must stay finite in float32, got 1e\+40 in "
                                                 rf"calibration image {image}$"):
                observe(network, images, executor)
    assert observe(network, images.astype(np.float64))  # float64 holds it
    with pytest.raises(ValueError, match=r"^tensor 'boiling' must stay finite in float64, got inf in calibration "):
        observe(network, images.astype(np.float64) * 1e300)
