"""Through a network once: tensors one after another, each kept until its last reader, a few images at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

# Elements that one step may read and write at a time, unless one image alone has more: 16 MiB of float64.
SLICE_ELEMENTS = 1 << 21


class Step(Protocol):
    """A node of a float network, or a layer of an integer program."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that it reads."""

    @property
    def output(self) -> str:
        """The tensor that it computes."""


AnyStep = TypeVar("AnyStep", bound=Step)


def forward(name: str, x: np.ndarray, steps: Sequence[AnyStep], compute: Callable[..., np.ndarray]
            ) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor with its name, in the order of the steps; kept no longer than a later step reads it.

    name, x: the network's input. compute: called with a step and the arrays that it reads.

    >>> from refquant.network.graph import Add, Clip
    >>> steps = [Clip("relu", "input"), Add("sum", ("relu", "input"))]
    >>> dict(forward("input", np.array([-1, 2]), steps, lambda step, *x: np.sum(x, axis=0)))["sum"]
    array([-2,  4])
    """
    unread = Counter(read for step in steps for read in step.inputs)
    tensors = {name: x} if unread[name] else {}
    yield name, x
    del x
    for step in steps:
        y = compute(step, *(tensors[read] for read in step.inputs))
        unread.subtract(step.inputs)
        for read in set(step.inputs):
            if not unread[read]:
                del tensors[read]
        if unread[step.output]:
            tensors[step.output] = y
        yield step.output, y
        del y


def slices(count: int, shapes: Mapping[str, tuple[int, ...]], steps: Sequence[Step]) -> list[slice]:
    """Which of ``count`` images go through a network together: as many as the largest step has memory for.

    shapes: of every tensor, without the batch axis.

    >>> from refquant.network.graph import Clip
    >>> slices(5, {"input": (2**19,), "relu": (2**19,)}, [Clip("relu", "input")])
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    largest = max(sum(math.prod(shapes[name]) for name in (*step.inputs, step.output)) for step in steps)
    size = max(1, SLICE_ELEMENTS // largest)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
