"""An interpreter of integer networks in plain Python: one pixel at a time, exact rationals, no NumPy arithmetic.

Written from the statement of the semantics, for comparison with ``network/integer_forward.py``:
sums of products of Python integers; a sum times its multiplier m·2^(shift-31), rounded once with ties
toward +infinity; zero point added after rounding, before clamping. Tensors are nested lists.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np

from refquant.network import layers as L

HALF = Fraction(1, 2)


@cache
def fixed_point(real: float) -> tuple[int, int]:
    """(m, shift) of a real multiplier: 2^30 <= m < 2^31, m rounded half away from zero."""
    exact = Fraction(real)
    shift = 0
    while exact >= 1:
        exact, shift = exact / 2, shift + 1
    while exact < HALF:
        exact, shift = exact * 2, shift - 1
    m = math.floor(exact * 2**31 + HALF)  # positive: half up is half away
    if m == 2**31:
        m, shift = 2**30, shift + 1
    return (m, shift) if shift >= -31 else (0, 0)


def single_round(acc: int, m: int, shift: int) -> int:
    """acc·m·2^(shift-31) to the nearest integer, ties toward +infinity."""
    return math.floor(Fraction(acc * m) * Fraction(2) ** (shift - 31) + HALF)


def shift_ties_up(total: int, bits: int) -> int:
    return math.floor(Fraction(total, 2**bits) + HALF)


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def run(program: L.IntegerProgram, x_q: np.ndarray) -> tuple[dict[str, list], dict[tuple[str, str], list]]:
    """Every tensor's codes by name, and every stage's sums by (layer, stage), for a batch."""
    tensors: dict[str, list] = {program.input: x_q.tolist()}
    sums: dict[tuple[str, str], list] = {}
    for layer in program.layers:
        batch = [[tensors[name][image] for name in layer.inputs] for image in range(len(x_q))]
        outputs = [_one_image(program, layer, *inputs) for inputs in batch]
        tensors[layer.output] = [codes for codes, _ in outputs]
        for stage in outputs[0][1]:
            sums[layer.name, stage] = [stages[stage] for _, stages in outputs]
    return tensors, sums


def _one_image(program: L.IntegerProgram, layer: L.Layer, *inputs: list) -> tuple[list, dict[str, list]]:
    encodings = [program.encodings[name] for name in layer.inputs]
    output = program.encodings[layer.output]
    if isinstance(layer, L.QuantizedConv):
        return _convolution(layer, encodings[0], output, inputs[0])
    if isinstance(layer, L.QuantizedAdd):
        return _add(layer, encodings, output, inputs)
    if isinstance(layer, L.QuantizedConcat):
        parts = []
        for codes, encoding, multiplier in zip(inputs, encodings, layer.multipliers):
            shifted = _map(_minus, codes, encoding.zero_point)
            parts += _map(_requantize, shifted, _recorded(multiplier), layer, output)
        return parts, {}
    if isinstance(layer, L.QuantizedAveragePool):
        return _average(layer, encodings[0], output, inputs[0])
    if isinstance(layer, L.QuantizedMaxPool):
        return [[[max(window) for window in row] for row in _windows(plane, layer.kernel, layer.geometry)]
                for plane in inputs[0]], {}
    if isinstance(layer, L.QuantizedClip):
        return _map(clamp, inputs[0], layer.low, layer.high), {}
    assert isinstance(layer, L.QuantizedFlatten)
    return list(_leaves(inputs[0])), {}


def _map(function, values, *parameters):
    """``function(value, *parameters)`` of every number in nested lists."""
    if isinstance(values, list):
        return [_map(function, v, *parameters) for v in values]
    return function(values, *parameters)


def _leaves(values):
    if isinstance(values, list):
        for v in values:
            yield from _leaves(v)
    else:
        yield values


def _minus(code: int, zero_point: int) -> int:
    return code - zero_point


def _finish(whole: int, layer: L.ClippedLayer, output: L.Encoding) -> int:
    code = clamp(whole + output.zero_point, output.format.min, output.format.max)
    return clamp(code, layer.low, layer.high)


def _requantize(acc: int, scale: tuple[int, int], layer: L.ClippedLayer, output: L.Encoding) -> int:
    return _finish(single_round(acc, *scale), layer, output)


def _from_guarded(total: int, layer: L.ClippedLayer, output: L.Encoding) -> int:
    return _finish(shift_ties_up(total, 8), layer, output)


def _recorded(multiplier, index: tuple[int, ...] = ()) -> tuple[int, int]:
    """The recorded (m, shift) at ``index``, after checking that they are those of the recorded real."""
    real, m, shift = (a[index] if a.ndim else a[()] for a in (multiplier.real, multiplier.m, multiplier.shift))
    assert (int(m), int(shift)) == fixed_point(float(real))
    return int(m), int(shift)


def _convolution(layer, encoding, output, codes):
    flat = not isinstance(codes[0], list)
    planes = [[[code]] for code in codes] if flat else codes
    accumulators = []
    for term in layer.terms:
        low, high = encoding.format.min, encoding.format.max
        table = ([code - encoding.zero_point for code in range(low, high + 1)] if term.plane is None
                 else term.plane.tolist())
        accumulators.append(_sums(term, layer.geometry, _map(lambda code, low, table: table[code - low],
                                                             planes, low, table)))
    scales = [[_recorded(term.multiplier, (o,)) for o in range(len(term.weight_q))] for term in layer.terms]
    if len(layer.terms) == 1:
        y = [_map(_requantize, channel, scale, layer, output) for channel, scale in zip(accumulators[0], scales[0])]
        stages = {"accumulator": accumulators[0]}
    else:
        guarded = [[_map(lambda acc, scale: single_round(acc, *scale), channel, scale)
                    for channel, scale in zip(sums, per_channel)] for sums, per_channel in zip(accumulators, scales)]
        total = [[[sum(pixels) for pixels in zip(*rows)] for rows in zip(*channels)] for channels in zip(*guarded)]
        y = _map(_from_guarded, total, layer, output)
        stages = {**{f"accumulator {i}": acc for i, acc in enumerate(accumulators)}, "sum": total}
    return ([channel[0][0] for channel in y] if flat else y), stages


def _sums(term: L.Term, geometry, x: list) -> list:
    """Σ w·x + bias for every output pixel; what lies outside the plane counts as real 0."""
    w = term.weight_q.tolist()
    bias = [0] * len(w) if term.bias_q is None else term.bias_q.tolist()
    (down, across), (top, left, bottom, right) = geometry.stride, geometry.padding
    spread_r, spread_s = geometry.dilation
    height, width = len(x[0]), len(x[0][0])
    per_group_in, per_group_out = len(x) // geometry.groups, len(w) // geometry.groups
    y = []
    for o in range(len(w)):
        first = o // per_group_out * per_group_in
        plane = []
        row = -top
        while row + (len(w[o][0]) - 1) * spread_r < height + bottom:
            line = []
            column = -left
            while column + (len(w[o][0][0]) - 1) * spread_s < width + right:
                acc = bias[o]
                for c in range(per_group_in):
                    for r, weights in enumerate(w[o][c]):
                        for s, weight in enumerate(weights):
                            i, j = row + r * spread_r, column + s * spread_s
                            if 0 <= i < height and 0 <= j < width:
                                acc += weight * x[first + c][i][j]
                line.append(acc)
                column += across
            plane.append(line)
            row += down
        y.append(plane)
    return y


def _windows(plane: list, kernel: tuple[int, int], geometry) -> list:
    """For every output pixel the list of the elements its window sees, padding left out."""
    (down, across), (top, left, bottom, right) = geometry.stride, geometry.padding
    spread_r, spread_s = geometry.dilation
    height, width = len(plane), len(plane[0])
    result = []
    row = -top
    while row + (kernel[0] - 1) * spread_r < height + bottom:
        line = []
        column = -left
        while column + (kernel[1] - 1) * spread_s < width + right:
            line.append([plane[row + r * spread_r][column + s * spread_s]
                         for r in range(kernel[0]) for s in range(kernel[1])
                         if 0 <= row + r * spread_r < height and 0 <= column + s * spread_s < width])
            column += across
        result.append(line)
        row += down
    return result


def _add(layer, encodings, output, inputs):
    scales = [_recorded(multiplier) for multiplier in layer.multipliers]

    def total(*codes):
        if isinstance(codes[0], list):
            return [total(*inner) for inner in zip(*codes)]
        return sum(single_round(code - e.zero_point, *scale) for code, e, scale in zip(codes, encodings, scales))

    sums = total(*inputs)
    return _map(_from_guarded, sums, layer, output), {"sum": sums}


def _average(layer, encoding, output, planes):
    sums = [[[sum(code - encoding.zero_point for code in window) for window in row]
             for row in _windows(plane, layer.kernel, layer.geometry)] for plane in planes]
    y = [[[_requantize(acc, _recorded(layer.multiplier, (p, q)), layer, output)
           for q, acc in enumerate(row)] for p, row in enumerate(plane)] for plane in sums]
    return y, {"accumulator": sums}
