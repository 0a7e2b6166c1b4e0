"""Nodes that move values and compute nothing: codes are moved as they stand.

Axes here leave the batch out: axis 0 is the first one behind it. A ``fill`` stands for real zero: 0 in floats, the
zero point in codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.network.graph import Node, Shape

MAX_AXES = 7  # behind the batch


@dataclass(frozen=True, eq=False)
class Move(Node):
    """A node whose output's values are its input's, at other places, and zeros."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:  # lists become tuples, so that files can hold them
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        super().__post_init__()

    def move(self, x: np.ndarray, fill: float) -> np.ndarray:
        """The output, for x with a batch axis in front."""
        raise TypeError(f"{type(self).__name__} does not say how it moves")


@dataclass(frozen=True, eq=False)
class Reshape(Move):
    """The same values in their order, under another shape."""

    shape: tuple[int, ...]

    def output_shape(self, *shapes: Shape) -> Shape:
        if math.prod(self.shape) != math.prod(shapes[0]) or min(self.shape, default=0) < 1:
            raise ValueError(f"shape must have the {math.prod(shapes[0])} elements of {shapes[0]}, got {self.shape}")
        return self.shape

    def move(self, x: np.ndarray, fill: float) -> np.ndarray:
        return x.reshape(len(x), *self.shape)


@dataclass(frozen=True, eq=False)
class Transpose(Move):
    """Output axis k is input axis ``axes[k]``."""

    axes: tuple[int, ...]

    def output_shape(self, *shapes: Shape) -> Shape:
        if sorted(self.axes) != list(range(len(shapes[0]))):
            raise ValueError(f"axes must be those of shape {shapes[0]} in some order, got {self.axes}")
        return tuple(shapes[0][axis] for axis in self.axes)

    def move(self, x: np.ndarray, fill: float) -> np.ndarray:
        return x.transpose(0, *(axis + 1 for axis in self.axes))


@dataclass(frozen=True, eq=False)
class Slice(Move):
    """Of each axis the places start, start + step, ... before stop; step is 1 or more, or -1 or less."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]

    def _places(self, shape: Shape) -> tuple[range, ...]:
        return tuple(range(*parts) for parts in zip(self.starts, self.stops, self.steps))

    def output_shape(self, *shapes: Shape) -> Shape:
        lengths = {len(self.starts), len(self.stops), len(self.steps), len(shapes[0])}
        if len(lengths) != 1 or 0 in self.steps:
            raise ValueError(f"starts, stops and steps must be one for each axis of {shapes[0]}, got {self.starts}, "
                             f"{self.stops} and {self.steps}")
        places = self._places(shapes[0])
        if not all(place and 0 <= min(place) and max(place) < size for place, size in zip(places, shapes[0])):
            raise ValueError(f"a slice must hold places of shape {shapes[0]}, got {self.starts} to {self.stops} by "
                             f"{self.steps}")
        return tuple(map(len, places))

    def move(self, x: np.ndarray, fill: float) -> np.ndarray:
        places = self._places(x.shape[1:])
        # A stop of -1 means "down to the first": None says so to NumPy.
        index = (slice(None), *(slice(p.start, p.stop if p.stop >= 0 else None, p.step) for p in places))
        return np.asarray(x[index])


@dataclass(frozen=True, eq=False)
class Pad(Move):
    """Zeros before and after each axis."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def output_shape(self, *shapes: Shape) -> Shape:
        if not len(self.before) == len(self.after) == len(shapes[0]) or min(self.before + self.after) < 0:
            raise ValueError(f"padding must be 0 or more, before and after each axis of {shapes[0]}, got "
                             f"{self.before} and {self.after}")
        return tuple(map(sum, zip(self.before, shapes[0], self.after)))

    def move(self, x: np.ndarray, fill: float) -> np.ndarray:
        return np.pad(x, ((0, 0), *zip(self.before, self.after)), constant_values=fill)


@dataclass(frozen=True, eq=False)
class Repeat(Move):
    """Each value ``factors[k]`` times along axis k: nearest-neighbour resizing by integers."""

    factors: tuple[int, ...]

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(self.factors) != len(shapes[0]) or min(self.factors) < 1:
            raise ValueError(f"factors must be 1 or more, one for each axis of {shapes[0]}, got {self.factors}")
        return tuple(size * factor for size, factor in zip(shapes[0], self.factors))

    def move(self, x: np.ndarray, fill: float) -> np.ndarray:
        for axis, factor in enumerate(self.factors, start=1):
            x = x.repeat(factor, axis) if factor > 1 else x
        return x


@dataclass(frozen=True, eq=False)
class Spread(Move):
    """``factors[k]`` - 1 zeros between neighbours along axis k, as a transposed convolution begins."""

    factors: tuple[int, ...]

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(self.factors) != len(shapes[0]) or min(self.factors) < 1:
            raise ValueError(f"factors must be 1 or more, one for each axis of {shapes[0]}, got {self.factors}")
        return tuple((size - 1) * factor + 1 for size, factor in zip(shapes[0], self.factors))

    def move(self, x: np.ndarray, fill: float) -> np.ndarray:
        y = np.full((len(x), *self.output_shape(x.shape[1:])), fill, x.dtype)
        places = (slice(None), *(slice(None, None, factor) for factor in self.factors))
        y[places] = x
        return y


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of the Transpose that undoes this one."""
    return tuple(int(axis) for axis in np.argsort(axes))


def as_move(value: Any) -> Move:
    """``value``; ValueError where a file holds something else."""
    if not isinstance(value, Move):
        raise ValueError(f"a layer that moves codes must hold a move, got {type(value).__name__}")
    return value
