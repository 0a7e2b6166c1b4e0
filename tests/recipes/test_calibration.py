"""Calibration of whole networks against sorted lists and counted bins, over batches, threads and processes."""
from __future__ import annotations

import math
import multiprocessing
import re
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.convolution.geometry import Geometry
from refquant.network import forward
from refquant.network.float_forward import run_float_tensors
from refquant.network.graph import (
    Add,
    Clip,
    Concat,
    Conv,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Softmax,
)
from refquant.recipes.calibration import Statistics, calibrate, observe_extremes

RNG = np.random.default_rng(20)


def eighths(*shape: int) -> np.ndarray:
    """Few bits each: every sum below is exact, so that the size of a batch cannot matter."""
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
ROUNDED = Network((2, 4, 4), (
    Conv("conv", "input", RNG.standard_normal((5, 2, 3, 3)), RNG.standard_normal(5)),
    Clip("relu", "conv"),
    Flatten("flat", "relu"),
    Linear("logits", "flat", RNG.standard_normal((3, 20))),
    Softmax("probabilities", "logits"),
))
IMAGES = eighths(130, 2, 4, 4).astype(np.float32)  # batches of 50, 50 and 30
REALS = RNG.standard_normal((130, 2, 4, 4)).astype(np.float32)


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


def bits(found: dict[str, Statistics]) -> dict[str, tuple]:
    """Everything there is, byte by byte."""
    return {name: (seen.extremes.smallest.tobytes(), seen.extremes.largest.tobytes(), seen.histogram.counts.tobytes(),
                   seen.histogram.counts.dtype, seen.histogram.zeros, seen.histogram.limit.hex())
            for name, seen in found.items()}


@pytest.mark.parametrize("number", [1, 49, 50, 51, 100, 130])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_are_those_of_all_images_at_once(number, dtype):
    images = IMAGES[:number].astype(dtype)
    tensors = run_float_tensors(EXACT, images)
    found = calibrate(EXACT, images)
    assert list(found) == list(tensors) == ["input", *(node.name for node in EXACT.nodes)]
    for name, x in tensors.items():
        assert type(found[name]) is Statistics
        assert_statistics_of(found[name], x)


def test_statistics_are_those_of_the_batches_of_50_put_together():
    batches = [run_float_tensors(ROUNDED, REALS[start:start + 50].astype(np.float64)) for start in (0, 50, 100)]
    found = calibrate(ROUNDED, REALS)
    assert set(found) == {"input", "conv", "relu", "flat", "logits", "probabilities"}
    for name, seen in found.items():
        assert_statistics_of(seen, np.concatenate([batch[name].ravel() for batch in batches]))


@given(st.permutations(range(9)), st.integers(1, 9))
def test_neither_the_order_of_the_images_nor_the_size_of_a_batch_matters(order, size):
    images = IMAGES[:9]
    whole = calibrate(EXACT, images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "SLICE_ELEMENTS", size)
        split = calibrate(EXACT, images[order])
    # Compared by value: which of +0 and -0 is sorted first is nobody's business.
    for name, seen in whole.items():
        for one, other in zip(seen, split[name]):
            assert {key: np.asarray(value).tolist() for key, value in vars(one).items()} == {
                key: np.asarray(value).tolist() for key, value in vars(other).items()}


# --- workers ------------------------------------------------------------------------------------------

class Backwards(Executor):
    """Runs what was submitted last first, once the first result is asked for."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future, tuple]] = []
        self.submitted = 0

    def submit(self, fn, /, *args, **kwargs):
        future = LastFirst(self)
        self.waiting.append((future, (fn, args, kwargs)))
        self.submitted += 1
        return future


class LastFirst(Future):
    def __init__(self, executor: Backwards) -> None:
        super().__init__()
        self.executor = executor

    def result(self, timeout=None):
        while self.executor.waiting:
            future, (fn, args, kwargs) = self.executor.waiting.pop()
            future.set_result(fn(*args, **kwargs))
        return super().result(timeout)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_give_the_same_to_the_last_bit(workers):
    expected = bits(calibrate(ROUNDED, REALS)), bits(calibrate(EXACT, IMAGES))
    # Spawned processes exist on every system, and inherit no threads of this one.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        assert (bits(calibrate(ROUNDED, REALS, pool)), bits(calibrate(EXACT, IMAGES, executor=pool))) == expected


@pytest.mark.parametrize("executor", [lambda: ThreadPoolExecutor(1), lambda: ThreadPoolExecutor(3), Backwards],
                         ids=["one thread", "three threads", "last first"])
def test_threads_and_any_order_of_execution_give_the_same_to_the_last_bit(executor):
    expected = bits(calibrate(ROUNDED, REALS))
    with executor() as pool:
        assert bits(calibrate(ROUNDED, REALS, pool)) == expected


def test_every_slice_of_both_passes_is_handed_to_the_executor(monkeypatch):
    largest = max(sum(math.prod(EXACT.shapes[name]) for name in (*node.inputs, node.name)) for node in EXACT.nodes)
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", 50 * largest)
    pool = Backwards()
    calibrate(EXACT, IMAGES, pool)
    assert pool.submitted == 2 * 3
    observe_extremes(EXACT, IMAGES[:50], pool)
    assert pool.submitted == 2 * 3 + 1


def test_a_second_call_gives_the_same_to_the_last_bit():
    assert bits(calibrate(ROUNDED, REALS)) == bits(calibrate(ROUNDED, REALS.copy()))


def test_the_first_pass_alone_gives_the_same_extremes():
    with ThreadPoolExecutor(2) as pool:
        for found in (observe_extremes(ROUNDED, REALS), observe_extremes(ROUNDED, REALS, pool)):
            both = calibrate(ROUNDED, REALS)
            assert list(found) == list(both)
            for name, seen in found.items():
                assert seen.smallest.tobytes() == both[name].extremes.smallest.tobytes()
                assert seen.largest.tobytes() == both[name].extremes.largest.tobytes()


# --- images that say little ---------------------------------------------------------------------------

def test_images_of_zeros_have_statistics_of_zeros_where_no_bias_enters():
    network = Network((2, 4, 4), (Conv("conv", "input", eighths(3, 2, 3, 3)), Clip("relu", "conv")))
    for seen in calibrate(network, np.zeros((60, 2, 4, 4), np.float32)).values():
        assert seen.extremes.magnitude == seen.histogram.limit == 0
        assert seen.histogram.counts[0] == seen.histogram.zeros == seen.histogram.counts.sum()


def test_a_constant_falls_into_the_last_bin():
    found = calibrate(EXACT, np.full((60, 2, 4, 4), -0.25, np.float32))
    assert found["input"].histogram.counts[-1] == 60 * 32 and found["input"].histogram.limit == 0.25


def test_an_image_of_the_last_batch_alone_sets_the_range():
    images = np.full((101, 2, 4, 4), 0.5, np.float32)
    images[100, 1, 2, 3] = -64.0
    seen = calibrate(EXACT, images)["input"]
    assert seen.histogram.limit == 64 and seen.extremes.low == -64 and seen.extremes.high == 0.5
    assert (seen.histogram.counts[16], seen.histogram.counts[-1]) == (101 * 32 - 1, 1)  # 0.5/64·2048 = 16


# --- refusals -----------------------------------------------------------------------------------------

def spoilt(value: float) -> np.ndarray:
    images = IMAGES.copy()
    images[120, 0, 1, 2] = value
    return images


BAD_IMAGES = [
    (IMAGES[:0], "images must be a non-empty (N, 2, 4, 4), got shape (0, 2, 4, 4)"),
    ([], "images must be a non-empty (N, 2, 4, 4), got shape (0,)"),
    (IMAGES[0], "images must be a non-empty (N, 2, 4, 4), got shape (2, 4, 4)"),
    (IMAGES[:, :1], "images must be a non-empty (N, 2, 4, 4), got shape (130, 1, 4, 4)"),
    (IMAGES.transpose(0, 2, 3, 1), "images must be a non-empty (N, 2, 4, 4), got shape (130, 4, 4, 2)"),
    (IMAGES.astype(np.int8), "images must hold float32 or float64, got dtype int8"),
    (IMAGES.astype(np.float16), "images must hold float32 or float64, got dtype float16"),
    (IMAGES.astype(complex), "images must hold float32 or float64, got dtype complex128"),
    (spoilt(np.nan), "images must be finite, got NaN or infinity"),
    (spoilt(np.inf), "images must be finite, got NaN or infinity"),
    (spoilt(-np.inf), "images must be finite, got NaN or infinity"),
]


class Refusing(Executor):
    """No work may be handed out before the images are checked."""

    def submit(self, fn, /, *args, **kwargs):
        raise AssertionError("work was submitted")


@pytest.mark.parametrize("images, message", BAD_IMAGES)
@pytest.mark.parametrize("observe", [calibrate, observe_extremes])
def test_bad_images_are_refused_in_one_sentence_before_any_work(observe, images, message):
    for executor in (None, Refusing()):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            observe(EXACT, images, executor)


@pytest.mark.parametrize("observe", [calibrate, observe_extremes])
@pytest.mark.parametrize("image", [0, 3, 53])
def test_a_tensor_that_overflows_on_the_way_is_refused_by_its_name_and_image(observe, image):
    network = Network((1, 1, 1), (Conv("fine", "input", np.ones((1, 1, 1, 1))),
                                  Conv("boiling", "fine", np.full((1, 1, 1, 1), 1e38)),
                                  Conv("later", "boiling", np.ones((1, 1, 1, 1)))))
    images = np.ones((60, 1, 1, 1), np.float32)
    images[image:] = 100
    with pytest.raises(ValueError, match=rf"^tensor 'boiling' must stay finite in float32, got 1e\+40 in calibration "
                                         rf"image {image}$"):
        observe(network, images)
    assert observe(network, images.astype(np.float64))  # float64 holds it
    with pytest.raises(ValueError, match=r"^tensor 'boiling' must stay finite in float64, got inf in calibration "):
        observe(network, images.astype(np.float64) * 1e300)


def test_what_a_worker_refuses_reaches_the_caller():
    network = Network((1, 1, 1), (Conv("boiling", "input", np.full((1, 1, 1, 1), 1e38)),))
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match=r"in calibration image 0$"):
        calibrate(network, np.full((60, 1, 1, 1), 100, np.float32), pool)
