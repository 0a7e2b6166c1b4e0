"""Nodes that move values and functions of values, at random, for ``strategies.networks``."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from refquant.network.graph import Add, Concat, Node, Shape
from refquant.network.moves import Pad, Repeat, Reshape, Slice, Spread, Transpose
from refquant.network.pointwise import Largest, Mul, Pointwise, X


@st.composite
def more_nodes(draw: st.DrawFn, name: str, source: str, shapes: dict[str, Shape]) -> Node:
    """A node of ``network.moves`` or ``network.pointwise``; of axes, also broken-up planes and joined ones."""
    shape, inputs = shapes[source], (source,)

    def numbers(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in shape)

    kind = draw(st.sampled_from([Pointwise, Mul, Largest, Add, Concat, *(
        Transpose, Reshape, Slice, Pad, Repeat, Spread)]))
    if math.prod(shape) > 400 and kind in (Pad, Repeat, Spread, Concat):
        kind = Transpose
    if kind is Pointwise:
        return Pointwise(name, inputs, draw(expressions(shape[0])))
    if kind in (Mul, Largest, Add):
        fitting = [other for other, its in shapes.items() if len(its) == len(shape) and all(
            a == b or 1 in (a, b) for a, b in zip(its, shape))]
        pair = draw(st.permutations((source, draw(st.sampled_from(fitting[::-1])))))
        return Largest(name, tuple(pair), draw(st.booleans())) if kind is Largest else kind(name, tuple(pair))
    if kind is Concat:
        return Concat(name, (source, source), draw(st.integers(0, len(shape) - 1)))
    if kind is Transpose:
        return Transpose(name, inputs, tuple(draw(st.permutations(range(len(shape))))))
    if kind is Reshape:
        first = draw(st.sampled_from([d for d in range(1, shape[0] + 1) if shape[0] % d == 0]))
        return Reshape(name, inputs, draw(st.sampled_from([
            (first, shape[0] // first * math.prod(shape[1:])), (first, shape[0] // first, math.prod(shape[1:])),
            (*shape, 1)])) if len(shape) < 6 else (math.prod(shape),))
    if kind is Slice:
        ends = [sorted((draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1)))) for size in shape]
        steps = [draw(st.sampled_from((1, 1, 2, -1))) for _ in shape]
        return Slice(name, inputs, tuple(e[0] if s > 0 else e[1] for e, s in zip(ends, steps)),
                     tuple(e[1] + 1 if s > 0 else e[0] - 1 for e, s in zip(ends, steps)), tuple(steps))
    if kind is Pad:
        return Pad(name, inputs, numbers(0, 2), numbers(0, 2))
    return kind(name, inputs, numbers(1, 2))


@st.composite
def expressions(draw: st.DrawFn, channels: int) -> Any:
    """What activations are made of; numbers per channel for PReLU."""
    per_channel = tuple(draw(st.integers(-8, 8)) / 8 for _ in range(channels))
    return draw(st.sampled_from([
        ("sigmoid", X), ("tanh", X), ("mul", X, ("sigmoid", X)), ("leaky", 0.125, X), ("leaky", per_channel, X),
        ("elu", 1.0, X), ("softplus", X), ("exp", ("clip", -9.0, 3.0, X)), ("sqrt", ("abs", X)),
        ("mul", X, ("affine", 0.5, 0.5, ("erf", ("affine", 0.5**0.5, 0.0, X)))),
        ("mul", X, ("tanh", ("softplus", X))), ("mul", X, ("clip", 0.0, 1.0, ("affine", 1 / 6, 0.5, X))),
        ("add", ("affine", 2.0, 0.5, X), X)]))
