"""Slices handed to workers as these get free, so that no more of them are in memory for more images.

Results come in the order of the slices, and the slices are the same for any number of workers: so are the results.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from refquant.integers.checks import integer

# Called with a step's name, what of it is done (a layer, some images), and the fraction of the step that is done.
Progress = Callable[[str, str, float], None]
# Slices in flight for an executor that does not tell how many workers it has.
IN_FLIGHT = 16
# In the environment of workers: one BLAS thread; and nothing is said of what is left behind when Ctrl-C ends all.
_ENVIRONMENT = {**dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
                                 "VECLIB_MAXIMUM_THREADS"), "1"),
                "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker"}
_kept: dict[str, Any] = {}  # in a worker: what it was sent last to share among tasks


class _Missing:
    """In place of a result: this worker was never sent what the tasks share."""


def in_order(function: Callable[[Any, Any], Any], shared: Any, tasks: Iterable[tuple[str, Any]],
             executor: Executor | None = None) -> Iterator[Any]:
    """``function(shared, task)`` of each task, in their order.

    function: of a module, so that it can be sent. shared: sent to a worker once. tasks: with names, for the message
    of a worker that dies. executor: None, or where they run. BrokenExecutor where a worker died.
    """
    if executor is None:
        yield from map(partial(function, shared), map(itemgetter(1), tasks))  # no name holds a task any longer
        return
    key, flying, waiting = uuid.uuid4().hex, deque[tuple[str, Any, Future[Any]]](), iter(tasks)
    most = getattr(executor, "_max_workers", IN_FLIGHT - 1) + 1  # one more, so that a free worker finds one
    first = most
    try:
        while True:
            for name, task in waiting:
                flying.append((name, task, executor.submit(_run, function, key, shared if first > 0 else None, task)))
                first -= 1
                if len(flying) >= most:
                    break
            if not flying:
                return
            name, task, future = flying.popleft()
            result = future.result()
            if isinstance(result, _Missing):
                result = executor.submit(_run, function, key, shared, task).result()
            yield result
    except BrokenExecutor:
        raise BrokenExecutor("workers must live to the end, got one that died; the result of "
                             f"{name} is lost") from None
    finally:
        for *_, future in flying:
            future.cancel()


def of_slices(function: Callable[[Any, Any], Any], shared: Any, parts: Iterable[slice], images: np.ndarray,
              executor: Executor | None, kind: str = "image") -> Iterator[Any]:
    """``in_order`` of slices of images: each task is the images and the number of the first."""
    return in_order(function, shared, ((f"{kind}s {some.start}..{some.stop - 1}", (images[some], some.start))
                                       for some in parts), executor)


def _run(function: Callable[[Any, Any], Any], key: str, shared: Any, task: Any) -> Any:
    if shared is not None:
        _kept.clear()
        _kept[key] = shared
    shared = _kept.get(key, shared)
    return _Missing() if shared is None else function(shared, task)


@contextmanager
def worker_processes(count: int) -> Iterator[Executor | None]:
    """An executor of so many processes with one BLAS thread each; None for one, which needs no other process.

    count: >= 1.
    """
    if integer(count, "workers", 1) == 1:
        yield None
        return
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _start) as executor:
            yield executor
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start() -> None:
    """In a worker: Ctrl-C is for the parent; a worker ends when the parent does, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with(parent: Any) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
