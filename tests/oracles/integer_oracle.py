"""An interpreter of integer networks in plain Python: one pixel at a time, exact rationals, no NumPy arithmetic.

Written from the statement of the dialect, for comparison with ``network/integer_forward.py``:
sums of products of Python integers; a sum times its multiplier, rounded as the nine dialects say;
zero point added after rounding, before clamping. Tensors are nested lists.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import dialects_oracle
import numpy as np
from convolution_oracle import loop

from refquant.network import program as L


class Scale(NamedTuple):
    """A recorded multiplier: the real M and its fixed-point form m·2^(shift-31)."""

    real: float
    m: int
    shift: int


def scaled(acc: int, scale: Scale, dialect: str, zero_point: int) -> int:
    """acc·M as an integer, before the zero point is added."""
    return dialects_oracle.whole(dialect, acc, scale.real, scale.m, scale.shift, zero_point)


def shift_ties_up(total: int, bits: int) -> int:
    return math.floor(Fraction(total, 2**bits) + Fraction(1, 2))


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
    qparams = [program.qparams[name] for name in layer.inputs]
    if isinstance(layer, L.QuantizedConv):
        return _convolution(program, layer, qparams[0], inputs[0])
    if isinstance(layer, L.QuantizedAdd):
        return _add(program, layer, qparams, inputs)
    if isinstance(layer, L.QuantizedConcat):
        parts = []
        for codes, qparam, multiplier in zip(inputs, qparams, layer.multipliers):
            shifted = _map(_minus, codes, qparam.zero_point)
            parts += _map(_requantize, shifted, _recorded(multiplier), program, layer)
        return parts, {}
    if isinstance(layer, L.QuantizedAveragePool):
        return _average(program, layer, qparams[0], inputs[0])
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


def _finish(whole: int, layer: L.ClippedLayer, output: L.QuantParams) -> int:
    code = clamp(whole + output.zero_point, output.format.min, output.format.max)
    return clamp(code, layer.low, layer.high)


def _requantize(acc: int, scale: Scale, program: L.IntegerProgram, layer: L.ClippedLayer) -> int:
    output = program.qparams[layer.output]
    return _finish(scaled(acc, scale, program.dialect, output.zero_point), layer, output)


def _from_guarded(total: int, program: L.IntegerProgram, layer: L.ClippedLayer) -> int:
    return _finish(shift_ties_up(total, 8), layer, program.qparams[layer.output])


def _recorded(multiplier, index: tuple[int, ...] = ()) -> Scale:
    """The recorded multiplier at ``index``, after checking that its (m, shift) are those of its real."""
    real, m, shift = (a[index] if a.ndim else a[()] for a in (multiplier.real, multiplier.m, multiplier.shift))
    assert (int(m), int(shift)) == dialects_oracle.fixed_point(float(real))
    return Scale(float(real), int(m), int(shift))


def _aligned(multipliers, channel: int) -> list[Scale]:
    """The recorded multipliers of several terms, after checking that all have the shift of the largest real."""
    found = [Scale(*(a[channel].item() for a in (M.real, M.m, M.shift))) for M in multipliers]
    shift = dialects_oracle.fixed_point(max(scale.real for scale in found))[1]
    for scale in found:
        m = math.floor(Fraction(scale.real) * Fraction(2) ** (31 - shift) + Fraction(1, 2))
        assert (scale.m, scale.shift) == (m, shift)
    return found


def _several(total: int | Fraction, shift: int, dialect: str, zero_point: int) -> int:
    """Σ acc·m / 2^(31-shift), or Σ acc·M, rounded once; before the zero point is added."""
    if dialect == "zero_point_first":
        return dialects_oracle.half_even(Fraction(total) + zero_point) - zero_point
    if dialect == "exact_half_even":
        return dialects_oracle.half_even(Fraction(total))
    return math.floor(Fraction(total, 2 ** (31 - shift)) + (Fraction(1, 2) if dialect == "single_round" else 0))


def _convolution(program, layer, qparam, codes):
    flat = not isinstance(codes[0], list)
    planes = [[[code]] for code in codes] if flat else codes
    accumulators = []
    for term in layer.terms:
        low, high = qparam.format.min, qparam.format.max
        table = ([code - qparam.zero_point for code in range(low, high + 1)] if term.lookup_table is None
                 else term.lookup_table.tolist())
        x = np.array([_map(lambda code, low, table: table[code - low], planes, low, table)])
        bias = None if term.bias_q is None else term.bias_q.tolist()
        accumulators.append(loop(x, term.weight_q, layer.geometry, bias=bias)[0])
    if len(layer.terms) == 1:
        y = [_map(_requantize, channel, _recorded(layer.terms[0].multiplier, (o,)), program, layer)
             for o, channel in enumerate(accumulators[0])]
        stages = {"accumulator": accumulators[0]}
    else:
        stages = {f"accumulator {i}": acc for i, acc in enumerate(accumulators)}
        scales = [_aligned([term.multiplier for term in layer.terms], o) for o in range(len(layer.terms[0].weight_q))]
        output, exact = program.qparams[layer.output], program.dialect in ("exact_half_even", "zero_point_first")
        factors = [[Fraction(s.real) if exact else s.m for s in of_channel] for of_channel in scales]
        total = [[[sum(acc * factor for acc, factor in zip(pixels, of_channel)) for pixels in zip(*rows)]
                  for rows in zip(*channels)] for channels, of_channel in zip(zip(*accumulators), factors)]
        y = [_map(_several, channel, of_channel[0].shift, program.dialect, output.zero_point)
             for channel, of_channel in zip(total, scales)]
        y = _map(_finish, y, layer, output)
        if not exact:
            stages["sum"] = total
    return ([channel[0][0] for channel in y] if flat else y), stages


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


def _add(program, layer, qparams, inputs):
    scales = [_recorded(multiplier) for multiplier in layer.multipliers]

    def total(*codes):
        if isinstance(codes[0], list):
            return [total(*inner) for inner in zip(*codes)]
        return sum(scaled(code - e.zero_point, scale, program.dialect, 0)
                   for code, e, scale in zip(codes, qparams, scales))

    sums = total(*inputs)
    return _map(_from_guarded, sums, program, layer), {"sum": sums}


def _average(program, layer, qparam, planes):
    sums = [[[sum(code - qparam.zero_point for code in window) for window in row]
             for row in _windows(plane, layer.kernel, layer.geometry)] for plane in planes]
    y = [[[_requantize(acc, _recorded(layer.multiplier, (p, q)), program, layer)
           for q, acc in enumerate(row)] for p, row in enumerate(plane)] for plane in sums]
    return y, {"accumulator": sums}
