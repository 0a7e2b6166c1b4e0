"""ONNX's operators that move values: Reshape, Transpose, Slice, Split, Concat, Pad, Resize, DepthToSpace, their kind.

The batch axis stays where it is: whatever would move or cut it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from refquant.network.graph import Concat, Shape
from refquant.network.moves import Pad, Repeat, Slice
from refquant.readers.onnx_translation import MAX_PADDING, Operator, Translation, axis_behind_batch


def flatten(op: Operator, graph: Translation) -> None:
    """Flatten where the batch stays an axis of its own."""
    source = graph.tensor(op.inputs[0])
    shape = graph.shapes[source]
    axis, rank = op.take("axis", int, 1), len(shape) + 1
    axis = axis + rank if axis < 0 else axis
    if not 1 <= axis <= rank or math.prod(shape[:axis - 1]) != 1:
        raise ValueError(f"axis must keep the batch apart from {shape}, got {axis}")
    graph.reshape(op.name, source, (math.prod(shape),))


def reshape(op: Operator, graph: Translation) -> None:
    """Reshape where the batch stays the first axis."""
    source = graph.tensor(op.inputs[0])
    shape, target = graph.shapes[source], list(graph.integers(op.inputs[1]))
    if not op.flag("allowzero"):
        target = [(graph.batch, *shape)[k] if size == 0 and k <= len(shape) else size
                  for k, size in enumerate(target)]
    graph.reshape(op.name, source, _behind_the_batch(target, shape, graph.batch))


def _behind_the_batch(target: Sequence[int], shape: Shape, batch: int) -> Shape:
    """The target without its first axis, in which a -1 is filled in."""
    rest, count = list(target[1:]), math.prod(shape)
    known = math.prod(size for size in rest if size != -1)
    if rest.count(-1) == 1 and known > 0 and target[0] == batch:
        rest[rest.index(-1)] = count // known
    if not rest or target[0] not in (batch, -1) or min(rest) < 1 or math.prod(rest) != count:
        raise ValueError(f"a reshape must keep the batch in front and the {count} elements of {shape} behind it, "
                         f"got {tuple(target)[:8]}")
    return tuple(rest)


def squeeze(op: Operator, graph: Translation) -> None:
    """Squeeze and Unsqueeze behind the batch."""
    source = graph.tensor(op.inputs[0])
    shape = graph.shapes[source]
    given = graph.integers(op.inputs[1]) if op.has_input(1) else op.integers("axes", ())
    if op.kind == "Unsqueeze":
        rank = len(shape) + 1 + len(given)
        places = sorted(axis_behind_batch(axis, rank) for axis in given)
        wide = list(shape)
        for place in places:
            wide.insert(place, 1)
    else:
        gone = [axis_behind_batch(axis, len(shape) + 1) for axis in given] or [
            k for k, size in enumerate(shape) if size == 1]
        if any(shape[axis] != 1 for axis in gone):
            raise ValueError(f"axes of one element must be named, got {given[:8]} of {shape}")
        wide = [size for k, size in enumerate(shape) if k not in gone] or [1]
    graph.reshape(op.name, source, tuple(wide))


def transpose(op: Operator, graph: Translation) -> None:
    """Transpose that leaves the batch in front; two of them become one, or none."""
    source = graph.tensor(op.inputs[0])
    rank = len(graph.shapes[source]) + 1
    axes = op.integers("perm", tuple(range(rank))[::-1])
    if sorted(axes) != list(range(rank)) or axes[0] != 0:
        raise ValueError(f"perm must be the {rank} axes in an order that leaves the batch in front, got {axes[:8]}")
    graph.transpose(op.name, source, tuple(axis - 1 for axis in axes[1:]))


def cut(op: Operator, graph: Translation) -> None:
    """Slice, of constant places, behind the batch."""
    source = graph.tensor(op.inputs[0])
    shape = graph.shapes[source]
    if op.has_input(1):
        starts, ends = graph.integers(op.inputs[1]), graph.integers(op.inputs[2])
        axes = graph.integers(op.inputs[3]) if op.has_input(3) else tuple(range(len(starts)))
        steps = graph.integers(op.inputs[4]) if op.has_input(4) else (1,) * len(starts)
    else:
        starts, ends = op.integers("starts", ()), op.integers("ends", ())
        axes, steps = op.integers("axes", tuple(range(len(starts)))), (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ValueError(f"starts, ends, axes and steps must be as many, steps not 0, got {starts}, {ends}, {axes} "
                         f"and {steps}")
    places = [range(size) for size in (graph.batch, *shape)]
    for start, end, axis, step in zip(starts, ends, axes, steps):
        if not -len(places) <= axis < len(places):
            raise ValueError(f"axes must be from {-len(places)} to {len(places) - 1}, got {axis}")
        places[axis] = range(len(places[axis]))[slice(start, end, step)]
    if places[0] != range(graph.batch):
        raise ValueError(f"the batch must stay whole, got {starts} to {ends} of axes {axes}")
    _take(op.name, source, places[1:], graph)


def _take(name: str, source: str, places: Sequence[range], graph: Translation) -> None:
    if all(place == range(size) for place, size in zip(places, graph.shapes[source])):
        graph.same[name] = source
    else:
        graph.add(Slice(name, (source,), *zip(*((p.start, p.stop, p.step) for p in places))))


def split(op: Operator, graph: Translation) -> None:
    """Split: a Slice for each output that is read."""
    source = graph.tensor(op.inputs[0])
    shape, outputs = graph.shapes[source], op.outputs
    axis = axis_behind_batch(op.take("axis", int, 0), len(shape) + 1)
    count = op.take("num_outputs", int, len(outputs))
    part = -(-shape[axis] // max(count, 1))
    equal = tuple(min(part, shape[axis] - k * part) for k in range(len(outputs)))
    sizes = graph.integers(op.inputs[1]) if op.has_input(1) else op.integers("split", equal)
    if len(sizes) != len(outputs) or min(sizes) < 1 or sum(sizes) != shape[axis]:
        raise ValueError(f"split must divide the {shape[axis]} places of axis {axis + 1} among {len(outputs)} "
                         f"outputs, got {sizes[:8]}")
    start = 0
    for name, size in zip(outputs, sizes):
        if name and graph.readers[name]:
            places = [range(start, start + size) if k == axis else range(whole) for k, whole in enumerate(shape)]
            _take(name, source, places, graph)
        start += size


def concat(op: Operator, graph: Translation) -> None:
    """Concat behind the batch."""
    inputs = tuple(map(graph.tensor, op.inputs))
    if (given := op.take("axis", int, None)) is None:
        raise ValueError("attribute axis must be given, got none")
    axis = axis_behind_batch(given, len(graph.shapes[inputs[0]]) + 1)
    if len(inputs) == 1:
        graph.same[op.name] = inputs[0]
    else:
        graph.add(Concat(op.name, inputs, axis))


def pad(op: Operator, graph: Translation) -> None:
    """Pad with zeros: of planes it waits for the Conv behind it; negative pads cut."""
    source, mode = graph.tensor(op.inputs[0]), op.take("mode", bytes, b"constant")
    value = graph.number(op.inputs[2]) if op.has_input(2) else op.take("value", float, 0.0)
    shape = graph.shapes[source]
    rank = len(shape) + 1
    axes = graph.integers(op.inputs[3]) if op.has_input(3) else tuple(range(rank))
    pads = _pads(op, graph)
    axes = tuple(axis + rank if axis < 0 else axis for axis in axes)
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes) or not set(axes) <= set(range(rank)):
        raise ValueError(f"pads must be two integers for each of the axes, got {len(pads)} for axes {axes[:8]} of "
                         f"{rank}")
    before, after = ([dict(zip(axes, half)).get(axis, 0) for axis in range(rank)]
                     for half in (pads[:len(axes)], pads[len(axes):]))
    if any(before + after) and (mode != b"constant" or value != 0):
        raise ValueError(f"only padding with the constant 0 is supported, got mode {mode!r} with {value:g}")
    if before[0] or after[0] or max(map(abs, before + after)) > MAX_PADDING:
        raise ValueError(f"only axes behind the batch can be padded, by at most {MAX_PADDING}, got {pads}")
    del before[0], after[0]
    if not any(before + after):
        graph.same[op.name] = source
    elif len(shape) == 3 and before[0] == after[0] == 0 and min(before + after) >= 0:
        graph.padded[op.name] = source, (before[1], before[2], after[1], after[2])
    else:
        if min(before + after) < 0:
            places = [range(max(0, -a), size - max(0, -b)) for a, b, size in zip(before, after, shape)]
            source = graph.add(Slice(f"{op.name}:cut", (source,), *zip(*((p.start, p.stop, 1) for p in places))))
        before, after = ([max(0, p) for p in side] for side in (before, after))
        graph.add(Pad(op.name, (source,), tuple(before), tuple(after)))


def _pads(op: Operator, graph: Translation) -> tuple[int, ...]:
    """Up to 7 axes' pads, before and after."""
    if not op.has_input(1):
        return op.integers("pads", ())
    values = graph.constant(op.inputs[1])
    if values.dtype.kind != "i" or values.ndim != 1 or values.size > 16:
        raise ValueError(f"{op.inputs[1]!r} must be up to 16 integers, got {values.dtype} of shape {values.shape}")
    return tuple(values.tolist())


def depth_to_space(op: Operator, graph: Translation) -> None:
    """DepthToSpace and SpaceToDepth: a reshape, a transpose and a reshape."""
    source = graph.tensor(op.inputs[0])
    size, mode = op.take("blocksize", int, 0), op.take("mode", bytes, b"DCR")
    height, width = graph.plane(source)
    channels = graph.shapes[source][0]
    deep = op.kind == "DepthToSpace"
    if size < 1 or channels % (size * size if deep else 1) or (not deep and (height % size or width % size)):
        raise ValueError(f"blocksize must divide channels or planes of {graph.shapes[source]}, got {size}")
    if deep:
        left = channels // size**2
        wide, axes = (((size, size, left, height, width), (2, 3, 0, 4, 1)) if mode == b"DCR" else
                      ((left, size, size, height, width), (0, 3, 1, 4, 2)))
        target = (left, height * size, width * size)
    else:
        wide, axes = (channels, height // size, size, width // size, size), (2, 4, 0, 1, 3)
        target = (channels * size**2, height // size, width // size)
    parts = graph.reshape(f"{op.name}:parts", source, wide)
    graph.reshape(op.name, graph.transpose(f"{op.name}:order", parts, axes), target)


def resize(op: Operator, graph: Translation) -> None:
    """Resize and Upsample, to the nearest neighbour, where each value is repeated as often."""
    source = graph.tensor(op.inputs[0])
    shape = (graph.batch, *graph.shapes[source])
    mode = op.take("mode", bytes, b"nearest")
    where = op.take("coordinate_transformation_mode", bytes, b"half_pixel" if op.kind == "Resize" else b"asymmetric")
    which = op.take("nearest_mode", bytes, b"round_prefer_floor" if op.kind == "Resize" else b"floor")
    op.take("cubic_coeff_a", float, -0.75), op.take("exclude_outside", int, 0)
    op.take("extrapolation_value", float, 0.0)
    if graph.version <= 10:
        where, which = b"asymmetric", b"floor"
    place = 1 if graph.version <= 10 else 2
    if op.has_input(3):
        sizes = graph.integers(op.inputs[3])
        if len(sizes) != len(shape):
            raise ValueError(f"sizes must be one for each axis of {shape}, got {sizes}")
        scales = [big / small for big, small in zip(sizes, shape)]
    else:
        scales = graph.floats(op.inputs[place]).ravel().tolist() if op.has_input(place) else op.take(
            "scales", list, [])
    if len(scales) != len(shape) or scales[0] != 1 or not all(
            isinstance(scale, float) and 1 <= scale <= MAX_PADDING and scale.is_integer() for scale in scales):
        raise ValueError(f"scales must be 1 for the batch and whole numbers up to {MAX_PADDING} for {shape[1:]}, got "
                         f"{tuple(scales[:8])}")
    repeats = tuple(map(int, scales[1:]))
    if mode != b"nearest" or not all(_repeats(factor, where, which) for factor in repeats):
        raise ValueError(f"only nearest neighbours that repeat each value as often are supported, got "
                         f"{mode.decode()} with {where.decode()} and {which.decode()} by {repeats}")
    if set(repeats) == {1}:
        graph.same[op.name] = source
    else:
        graph.add(Repeat(op.name, (source,), repeats))


def _repeats(factor: int, where: bytes, which: bytes) -> bool:
    """Whether output k is input k // factor, by ONNX's formulas."""
    k = np.arange(4 * factor)
    known = {b"half_pixel": (k + 0.5) / factor - 0.5, b"pytorch_half_pixel": (k + 0.5) / factor - 0.5,
             b"asymmetric": k / factor}
    rounded: dict[bytes, Callable[[np.ndarray], np.ndarray]] = {
        b"floor": np.floor, b"ceil": np.ceil, b"round_prefer_floor": lambda x: np.ceil(x - 0.5),
        b"round_prefer_ceil": lambda x: np.floor(x + 0.5)}
    if where not in known or which not in rounded:
        return factor == 1
    return bool((np.clip(rounded[which](known[where]), 0, 3) == k // factor).all())
