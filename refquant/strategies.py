"""Hypothesis strategies: random formats, codes, convolutions, Winograd tiles and small float networks.

For whoever tests something against refquant, or refquant against something else:

>>> from hypothesis import given, settings
>>> from refquant.convolution.direct import convolve_exact
>>> @settings(max_examples=25, derandomize=True, database=None)
... @given(convolution_cases())
... def a_zero_kernel_gives_zeros(case):
...     y = convolve_exact(case.x_q, 0 * case.w_q, **case.geometry._asdict(), zero_point=case.zero_point)
...     assert not y.any()
>>> a_zero_kernel_gives_zeros()

What random numbers alone never hit is drawn on purpose: the extremes of every format, all-zero
tensors, dead channels, values that tie when they are rounded, padding wider than the input.

    int_formats, codes               registers and what they hold
    scales, multipliers, dialects    how reals and sums become codes
    geometries, convolution_cases    convolutions of codes; winograd_cases for tiles
    weights_with_disparity           for equalizers; bell_shaped_tensors for thresholds and breakpoints
    reals, images, networks          small float networks, and what they read

They shrink: what is left of a failure is about the smallest input that still shows it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.integers.dialects import NAMED, Dialect, legal_shifts
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.network.graph import (
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
    Shape,
)
from refquant.vectors.descriptions import descriptions
from refquant.winograd.transforms import PRESETS, Transforms, cook_toom

try:
    from hypothesis import strategies as st
    from hypothesis.extra.numpy import arrays
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("refquant.strategies needs Hypothesis: pip install 'refquant[test]'",
                              name=error.name) from error

from refquant.node_strategies import more_nodes  # needs Hypothesis too

# Concatenation of concatenations doubles the channels; tensors beyond this are only read by layers
# that shrink them.
_MANY_CHANNELS = 12
# ReLU, ReLU6, and limits that leave zero inside, at neither end, and outside.
_CLIPS = ((0.0, None), (0.0, 6.0), (-1.0, 1.0), (None, 0.5), (0.5, 2.0))


@st.composite
def int_formats(draw: st.DrawFn, min_bits: int = 1, max_bits: int = 64) -> IntFormat:
    """Formats of min_bits..max_bits: signed, signed narrow and unsigned."""
    if not 1 <= min_bits <= max_bits <= 64:
        raise ValueError(f"bits must run from min_bits >= 1 to max_bits <= 64, got {min_bits} to {max_bits}")
    bits = draw(st.integers(min_bits, max_bits))
    signed = draw(st.booleans())
    return IntFormat(bits, signed, narrow=signed and bits >= 2 and draw(st.booleans()))


def codes(fmt: IntFormat, shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    """Arrays of ``shape`` in ``fmt.dtype``, all elements codes of ``fmt``.

    Up to 40 elements are drawn one by one, each one time in two from the ends of the format, 0 and ±1, or are mostly
    equal. Larger arrays are mostly equal, or filled from a seed: then each element is, one time in two, the smallest
    or the largest code.
    """
    corners = sorted({fmt.min, fmt.max, *(v for v in (-1, 0, 1) if fmt.min <= v <= fmt.max)}, key=abs)
    elements = st.sampled_from(corners) | st.integers(fmt.min, fmt.max)
    if int(np.prod(shape)) <= 40:
        return (arrays(fmt.dtype, shape, elements=elements, fill=st.nothing())
                | arrays(fmt.dtype, shape, elements=elements))

    def dense(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        array = rng.integers(fmt.min, fmt.max, shape, dtype=fmt.dtype, endpoint=True)
        extremes = rng.choice(np.array([fmt.min, fmt.max], fmt.dtype), shape)
        return np.where(rng.random(shape) < 0.5, extremes, array)

    return arrays(fmt.dtype, shape, elements=elements) | _seeds().map(dense)


def _seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**32 - 1)


def scales(least: float = 2.0**-20, greatest: float = 2.0**20) -> st.SearchStrategy[float]:
    """Scales S > 0 from least to greatest: powers of two, under which ties are exact, eighths, and any float64."""
    if not 0 < least <= greatest < np.inf:
        raise ValueError(f"scales must run from least > 0 to a finite greatest >= least, got {least} to {greatest}")
    some = [range(int(np.ceil(np.log2(least))), int(np.floor(np.log2(greatest))) + 1),
            range(max(1, int(np.ceil(8 * least))), min(1000, int(np.floor(8 * greatest))) + 1)]
    drawn: list[st.SearchStrategy[float]] = [
        st.integers(of[0], of[-1]).map(value) for of, value in zip(some, (lambda k: 2.0**k, lambda n: n / 8)) if of]
    return st.one_of(*drawn, st.floats(least, greatest))


def dialects(named: bool = False) -> st.SearchStrategy[Dialect]:
    """Descriptions of how devices requantize, the simplest first; named: of the nine with names alone."""
    nine = st.sampled_from(sorted(NAMED.values(), key=lambda dialect: dialect != NAMED["single_round"]))
    return nine if named else nine | st.sampled_from(descriptions())


@st.composite
def multipliers(draw: st.DrawFn, dialect: Dialect = NAMED["single_round"]) -> Multiplier:
    """One multiplier m·2^(shift-31) with a shift that ``dialect`` takes; M is exactly that.

    m: 2^30, 3·2^29, the ends of 16 and 31 bits, or any. 2^30 makes exact ties.
    """
    low, high = legal_shifts(dialect) or (-31, 30)
    corners = (2**30, 3 * 2**29, 2**30 + 1, 2**31 - 2**16, 2**31 - 1)
    m = draw(st.sampled_from(corners) | st.integers(2**30, 2**31 - 1))
    shift = draw(st.sampled_from((0, -1, low, high)) | st.integers(low, high))
    return Multiplier(np.ldexp(float(m), shift - 31), np.int64(m), np.int64(shift))


@st.composite
def geometries(draw: st.DrawFn, plane: tuple[int, int], kernel: tuple[int, int], groups: int = 1) -> Geometry:
    """Strides 1..3, dilations 1..2 and four paddings under which ``kernel`` fits an (H, W) plane.

    Half of the geometries pad no more than the kernel needs.
    """
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    most = draw(st.sampled_from((0, 2)))
    top, left, bottom, right = (draw(st.integers(0, most)) for _ in range(4))
    bottom, right = (max(after, (k - 1) * spread + 1 - size - before) for after, k, spread, size, before in
                     zip((bottom, right), kernel, dilation, plane, (top, left)))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return Geometry(stride, (top, left, bottom, right), dilation, groups)


class ConvolutionCase(NamedTuple):
    """x_q: (N, C, H, W) codes of ``x_format``; w_q: (O, C/groups, R, S) codes of ``w_format``."""

    x_q: np.ndarray
    w_q: np.ndarray
    geometry: Geometry
    x_format: IntFormat
    w_format: IntFormat
    zero_point: int


@st.composite
def convolution_cases(draw: st.DrawFn, x_formats: st.SearchStrategy[IntFormat] | None = None,
                      w_formats: st.SearchStrategy[IntFormat] | None = None) -> ConvolutionCase:
    """Small convolutions with every geometry: stride, uneven padding, dilation, groups, depthwise.

    x_formats, w_formats: by default all formats of 2 to 8 bits. The zero point is a code of
    ``x_format``.
    """
    x_format = draw(int_formats(2, 8) if x_formats is None else x_formats)
    w_format = draw(int_formats(2, 8) if w_formats is None else w_formats)
    groups, per_group, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    n = draw(st.integers(1, 2))
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return ConvolutionCase(
        x_q=draw(codes(x_format, (n, groups * per_group, height, width))),
        w_q=draw(codes(w_format, (groups * outputs, per_group, *kernel))),
        geometry=draw(geometries((height, width), kernel, groups)),
        x_format=x_format, w_format=w_format,
        zero_point=draw(st.sampled_from((max(0, x_format.min), x_format.min, x_format.max))
                        | st.integers(x_format.min, x_format.max)))


class WinogradCase(NamedTuple):
    """The operands of ``winograd_convolve``: it takes them in this order."""

    x_q: np.ndarray
    w_q: np.ndarray
    tile: Transforms
    padding: tuple[int, int, int, int]


def tiles() -> st.SearchStrategy[Transforms]:
    """The published transforms, and F(1, 1) to F(5, 5) in two scalings."""
    return st.sampled_from(list(PRESETS.values())) | st.builds(
        cook_toom, st.integers(1, 5), st.integers(1, 5), scaling=st.sampled_from(["rows", "matrix"]))


@st.composite
def winograd_cases(draw: st.DrawFn, max_bits: int = 8, largest: int = 9,
                   transforms: st.SearchStrategy[Transforms] | None = None, channels: int = 3) -> WinogradCase:
    """Small convolutions of stride 1 for Winograd, padded unevenly; codes of 1 to ``max_bits`` bits.

    largest: of the height and width. transforms: by default ``tiles()``. channels: the most images, input and output
    channels.
    """
    t = draw(tiles() if transforms is None else transforms)
    n, inputs, outputs = (draw(st.integers(1, channels)) for _ in range(3))
    top, left, bottom, right = (draw(st.integers(0, 3)) for _ in range(4))
    height, width = (draw(st.integers(max(1, t.r - around), largest)) for around in (top + bottom, left + right))
    x_q = draw(codes(draw(int_formats(1, max_bits)), (n, inputs, height, width)))
    w_q = draw(codes(draw(int_formats(1, max_bits)), (outputs, inputs, t.r, t.r)))
    return WinogradCase(x_q, w_q, t, (top, left, bottom, right))


@st.composite
def reals(draw: st.DrawFn, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Finite floats of at most a few units, as weights and images have them; at least one axis.

    Normally distributed, or sixteenths, whose products with a scale often tie, or all zero; in any of
    them one index of the first axis may be zeroed: a dead output channel.
    """
    kind = draw(st.sampled_from(("sixteenths", "normal", "zeros")))
    rng = np.random.default_rng(draw(_seeds()))
    if kind == "zeros":
        x = np.zeros(shape)
    else:
        x = rng.normal(size=shape) if kind == "normal" else rng.integers(-32, 33, shape) / 16
    if draw(st.booleans()):
        x[draw(st.integers(0, shape[0] - 1))] = 0.0
    return x.astype(dtype)


@st.composite
def weights_with_disparity(draw: st.DrawFn, shape: tuple[int, ...], octaves: int = 15) -> np.ndarray:
    """Weights (O, ...) float32: channel c is 2^-k_c times values from 1/2 to 1, of both signs; k_0 = 0.

    The other k_c are from 0 to ``octaves``.

    What a shift equalizer is for: under one scale the smallest channels have no codes left.
    """
    rng = np.random.default_rng(draw(_seeds()))
    halvings = [0, *(draw(st.integers(0, octaves)) for _ in range(shape[0] - 1))]
    w = rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape)
    return np.ldexp(w, -np.reshape(halvings, (-1, *[1] * (len(shape) - 1)))).astype(np.float32)


@st.composite
def bell_shaped_tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Tensors as trained weights look: normal, or with Laplace's long tails, and perhaps one outlier of 8 deviations.

    What piecewise linear codes and clipping thresholds are for.
    """
    rng = np.random.default_rng(draw(_seeds()))
    x = rng.normal(size=shape) if draw(st.booleans()) else rng.laplace(size=shape) / np.sqrt(2)
    if draw(st.booleans()):
        x.flat[draw(st.integers(0, x.size - 1))] = 8 * draw(st.sampled_from((1, -1)))
    return x.astype(dtype)


def images(network: Network, count: int = 2, dtype: Any = np.float32) -> st.SearchStrategy[np.ndarray]:
    """``count`` images for ``network``: (count, *network.input_shape) floats."""
    return reals((count, *network.input_shape), dtype)


@st.composite
def networks(draw: st.DrawFn, max_nodes: int = 8, dtype: Any = np.float32, every: bool = False) -> Network:
    """Small float networks over every node type of ``network.graph``; the input is at most (3, 6, 6).

    Each node reads any tensors before it, so that tensors read twice, ReLUs that cannot be fused into
    their convolution, and nodes nobody reads, all occur. dtype: of the parameters. every: also nodes that move
    values, functions of values, and products and maxima of two tensors.
    """
    shapes: dict[str, Shape] = {"input": (draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))}
    input_shape = shapes["input"]
    nodes: list[Node] = []
    for index in range(draw(st.integers(1, max_nodes))):
        # The latest tensors come first: towards them Hypothesis shrinks.
        source = draw(st.sampled_from(list(shapes)[::-1]))
        more = every and draw(st.booleans())
        node = draw(more_nodes(f"node{index}", source, shapes) if more else
                    _nodes(f"node{index}", source, shapes, dtype))
        shapes[node.name] = node.output_shape(*(shapes[name] for name in node.inputs))
        nodes.append(node)
    output = draw(st.sampled_from([node.name for node in nodes[::-1]]))
    return Network(input_shape, tuple(nodes), output)


@st.composite
def _nodes(draw: st.DrawFn, name: str, source: str, shapes: dict[str, Shape], dtype: Any) -> Node:
    """A node that reads ``source`` and, where it takes several, other tensors that fit."""
    shape, inputs = shapes[source], (source,)
    channels, plane = shape[0], shape[1:]
    kinds: list[type[Node]] = [Clip, Add, Flatten]
    if len(shape) in (1, 3):
        kinds += [BatchNorm, *((Linear,) if not plane else (Conv, MaxPool, AveragePool, GlobalAveragePool))]
    kind = draw(st.sampled_from(kinds if channels > _MANY_CHANNELS else [*kinds, Concat]))

    if kind is Conv:
        groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
        outputs = groups * draw(st.integers(1, max(1, 4 // groups)))
        kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        return Conv(name, inputs, draw(reals((outputs, channels // groups, *kernel), dtype)),
                    draw(st.none() | reals((outputs,), dtype)),
                    draw(geometries((plane[0], plane[1]), kernel, groups)))
    if kind is Linear:
        outputs = draw(st.integers(1, 4))
        return Linear(name, inputs, draw(reals((outputs, channels), dtype)),
                      draw(st.none() | reals((outputs,), dtype)))
    if kind is BatchNorm:
        gamma, beta, mean, variance = (draw(reals((channels,), dtype)) for _ in range(4))
        return BatchNorm(name, inputs, gamma, beta, mean, np.abs(variance), draw(st.sampled_from((1e-5, 1e-3))))
    if kind is Clip:
        low, high = draw(st.sampled_from(_CLIPS))
        return Clip(name, inputs, low, high)
    if kind in (MaxPool, AveragePool):
        return draw(_pools(name, inputs, (plane[0], plane[1]), kind is AveragePool))
    if kind in (Add, Concat):
        fitting = [other for other in shapes
                   if shapes[other] == shape or (kind is Concat and shapes[other][1:] == plane)]
        return kind(name, (source, draw(st.sampled_from(fitting[::-1]))))
    return kind(name, inputs)


@st.composite
def _pools(draw: st.DrawFn, name: str, inputs: tuple[str, ...], plane: tuple[int, int], average: bool) -> MaxPool:
    """Pools whose every window sees the input: dilated, or padded by less than the kernel, not both."""
    kernel = draw(st.integers(1, min(3, plane[0]))), draw(st.integers(1, min(3, plane[1])))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        top, left, bottom, right = (draw(st.integers(0, k - 1)) for k in kernel * 2)
        geometry = Geometry(stride, (top, left, bottom, right))
    else:
        spread = [draw(st.integers(1, 2)) if 2 * (k - 1) < size else 1 for k, size in zip(kernel, plane)]
        geometry = Geometry(stride, dilation=(spread[0], spread[1]))
    if average:
        return AveragePool(name, inputs, kernel, geometry, draw(st.booleans()))
    return MaxPool(name, inputs, kernel, geometry)
