"""The integer interpreter against a plain Python oracle, the float64 simulation, and hand-worked codes."""

import dataclasses
import math
import re
from fractions import Fraction

import integer_oracle as oracle
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from quantized_networks import input_codes, quantized_networks

from refquant.convolution.geometry import Geometry
from refquant.integers.dialects import DIALECTS
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.several_sums import aligned
from refquant.network import graph
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.program import (
    ClippedLayer,
    QuantizedAdd,
    QuantizedAveragePool,
    QuantizedClip,
    QuantizedConcat,
    QuantizedConv,
    QuantizedFlatten,
    QuantizedMaxPool,
    Term,
)
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import QuantParams
from refquant.network.simulated_forward import run_simulated_tensors
from refquant.recipes.lowering import QuantizedWeight, assemble
from refquant.recipes.quantize import quantize_network
from refquant.recipes.settings import ACTIVATIONS
from refquant.strategies import codes, convolution_cases, images, int_formats, networks

ONCE = "single_round", "shift_floor", "exact_half_even", "zero_point_first"  # take several sums, rounded together
INT8, UINT8, INT32 = IntFormat(8), IntFormat(8, signed=False), IntFormat(32)
COMPUTING = graph.Conv, graph.Linear, graph.Add, graph.Concat, graph.AveragePool, graph.GlobalAveragePool


def times(real) -> Multiplier:
    return Multiplier.from_real(real)


def at(zero_point: int, fmt: IntFormat = INT8) -> QuantParams:
    return QuantParams(1.0, fmt, zero_point)


def program(*layers, qparams=None, shape=(1, 1, 1), x=None, y=None, dialect="single_round") -> QuantizedNetwork:
    """Layers from "x" to the last one's output; encodings default to int8 with zero point 0."""
    names = {name for layer in layers for name in (*layer.inputs, layer.output)}
    every = dict.fromkeys(names, at(0)) | (qparams or {})
    if x is not None:
        every["x"] = x
    if y is not None:
        every[layers[-1].output] = y
    return QuantizedNetwork("x", layers[-1].output, shape, layers, every, dialect)


def conv(*terms, low=-128, high=127, name="y", source="x", accumulator=INT32, **geometry) -> QuantizedConv:
    return QuantizedConv(name, (source,), name, low, high, in_line(terms), Geometry(**geometry), accumulator)


def in_line(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Several terms with one shift; one term as it is."""
    if len(terms) < 2:
        return terms
    reals = [np.broadcast_to(term.multiplier.real, len(term.weight_q)) for term in terms]
    return tuple(dataclasses.replace(term, multiplier=multiplier) for term, multiplier in zip(terms, aligned(reals)))


def term(weight, real=1.0, bias=None, lookup_table=None, fmt=INT8) -> Term:
    weight = np.asarray(weight)
    return Term(weight.reshape(weight.shape + (1,) * (4 - weight.ndim)), fmt, times(real), bias, lookup_table)


# --- random programs ------------------------------------------------------------------------------------------

@st.composite
def qparams(draw: st.DrawFn) -> QuantParams:
    fmt = draw(int_formats(2, 8))
    return at(draw(st.integers(fmt.min, fmt.max)), fmt)


# Powers of two and their sums give ties; the others, everything between.
reals = st.sampled_from((0.5, 0.25, 1.0, 2.0, 0.75, 2.0**-5, 3.0 * 2**-4)) | st.floats(2.0**-12, 4.0)


def multipliers(shape=(), factor=1.0) -> st.SearchStrategy[Multiplier]:
    one = st.lists(reals, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
    return one.map(lambda values: times(factor * np.array(values).reshape(shape)))


def limits(fmt: IntFormat) -> st.SearchStrategy[tuple[int, int]]:
    code = st.integers(fmt.min, fmt.max)
    return st.just((fmt.min, fmt.max)) | st.tuples(code, code).map(lambda pair: (min(pair), max(pair)))


@st.composite
def terms(draw: st.DrawFn, shape: tuple[int, ...], x: QuantParams, count: int) -> tuple[Term, ...]:
    """``count`` terms of random codes, with or without bias and a table for the input's codes."""
    result = []
    for _ in range(count):
        fmt = draw(int_formats(2, 8))
        plane = draw(st.none() | codes(IntFormat(10), (x.format.max - x.format.min + 1,)))
        if plane is not None:
            plane[x.zero_point - x.format.min] = 0
        scale = draw(multipliers(draw(st.sampled_from(((), shape[:1])))))
        bias = draw(st.none() | codes(IntFormat(12), shape[:1]))
        result.append(Term(draw(codes(fmt, shape)), fmt, scale, bias, plane))
    return in_line(tuple(result))


@st.composite
def programs(draw: st.DrawFn) -> QuantizedNetwork:
    """Every kind of integer layer in one chain, with random codes, multipliers, encodings and clamps."""
    case, dialect = draw(convolution_cases()), draw(st.sampled_from(DIALECTS))
    most = 3 if dialect in ONCE else 1
    every = {name: draw(qparams()) for name in ("x", "y", "avg", "add", "cat", "lin")}
    low_high = {name: draw(limits(e.format)) for name, e in every.items()}
    shape = case.w_q.shape
    layers = [QuantizedConv("conv", ("x",), "y", *low_high["y"],
                            draw(terms(shape, every["x"], draw(st.integers(1, most)))), case.geometry)]
    size = case.geometry.output_size(*case.x_q.shape[2:], shape[2:])
    kernel = tuple(draw(st.integers(1, min(2, n))) for n in size)
    pads = tuple(draw(st.integers(0, k - 1)) for k in kernel * 2)
    geometry = Geometry((1, draw(st.integers(1, 2))), pads)
    pooled = geometry.output_size(*size, kernel)
    layers += [
        QuantizedAveragePool("avg", ("y",), "avg", *low_high["avg"], kernel, draw(multipliers(pooled)), geometry),
        QuantizedAdd("add", ("y", "y"), "add", *low_high["add"], tuple(draw(multipliers((), 256.0)) for _ in "ab")),
        QuantizedConcat("cat", ("y", "add"), "cat", *low_high["cat"], (draw(multipliers()), draw(multipliers()))),
        QuantizedMaxPool("max", ("cat",), "max", kernel, geometry),
        QuantizedClip("clip", ("max",), "clip", *draw(limits(every["cat"].format))),
        QuantizedFlatten("flat", ("clip",), "flat")]
    every |= dict.fromkeys(("max", "clip", "flat"), every["cat"])
    features = 2 * shape[0] * pooled[0] * pooled[1]
    layers.append(QuantizedConv("lin", ("flat",), "lin", *low_high["lin"],
                                draw(terms((2, features, 1, 1), every["flat"], draw(st.integers(1, most))))))
    try:
        return QuantizedNetwork("x", "lin", case.x_q.shape[1:], tuple(layers), every, dialect)
    except ValueError as error:
        assert "fit" in str(error)  # the operands of an Add may rightly be refused
        assume(False)
        raise


def observed(network: QuantizedNetwork, x_q: np.ndarray) -> tuple[dict, dict]:
    sums = {}
    tensors = run_integer_tensors(network, x_q, lambda layer, stage, values: sums.update({(layer, stage): values}))
    return tensors, sums


# --- three interpreters, one result ---------------------------------------------------------------------------

def check(network: QuantizedNetwork, x_q: np.ndarray) -> None:
    """Every code is the simulation's and the oracle's, every sum the oracle's and in its proven range."""
    kept = x_q.copy()
    tensors, sums = observed(network, x_q)
    simulated, (expected, expected_sums) = run_simulated_tensors(network, x_q), oracle.run(network, x_q)
    assert np.array_equal(x_q, kept)
    assert tensors.keys() == expected.keys() == simulated.keys()
    for name, y_q in tensors.items():
        assert y_q.tolist() == expected[name] == simulated[name].tolist(), name
        assert (y_q.dtype, simulated[name].dtype) == (network.qparams[name].format.dtype, np.float64), name
    assert {stage: values.tolist() for stage, values in sums.items()} == expected_sums
    assert {(stage.layer, stage.stage) for stage in network.stages} == sums.keys()
    for stage in network.stages:
        values = sums[stage.layer, stage.stage]
        assert stage.format.min <= stage.min <= values.min(), stage
        assert values.max() <= stage.max <= stage.format.max, stage
        assert stage.min <= 0 <= stage.max, stage


@pytest.mark.parametrize("source", [quantized_networks(), programs()], ids=["recipes", "every layer"])
def test_integers_simulation_and_oracle_agree_in_every_code_alone_and_in_a_batch(source):
    @given(st.data())
    def compare(data):
        network = data.draw(source)
        x_q = data.draw(input_codes(network, 3))
        check(network, x_q)
        together, alone = run_integer_tensors(network, x_q), run_integer_tensors(network, x_q[1:2])
        assert all(np.array_equal(alone[name][0], y_q[1]) for name, y_q in together.items())
    compare()


@given(st.data())
def test_float_images_are_quantized_where_they_enter_and_output_codes_dequantized(data):
    network = data.draw(networks())
    batch = data.draw(images(network))
    quantized = quantize_network(network, batch, activations=data.draw(st.sampled_from(ACTIVATIONS)))
    entry, out = quantized.qparams[quantized.input], quantized.qparams[quantized.output]
    x_q = quantized.quantize_images(batch)
    assert x_q.dtype == entry.format.dtype
    assert x_q.ravel().tolist() == [quantized_by_hand(x, entry) for x in batch.ravel().tolist()]
    y = quantized.run(batch)
    codes_out = np.array(oracle.run(quantized, x_q)[0][quantized.output])
    assert y.dtype == np.float64
    assert y.tolist() == ((codes_out - out.zero_point) / out.scale).tolist() == quantized.simulate(batch).tolist()


def half_away(value: Fraction) -> int:
    return math.floor(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)


def quantized_by_hand(x: float, qparam: QuantParams) -> int:
    code = half_away(Fraction(x) * Fraction(qparam.scale)) + qparam.zero_point
    return max(qparam.format.min, min(qparam.format.max, code))


# --- codes worked by hand -------------------------------------------------------------------------------------

def add_of_two_channels(s: float, t: float) -> list:
    return [conv(term([[1, 0]]), name="a"), conv(term([[0, 1]]), name="b"),
            QuantizedAdd("y", ("a", "b"), "y", -128, 127, (times(256 * s), times(256 * t)))]


@pytest.mark.parametrize(("layers", "keywords", "x_q", "expected"), [
    # Ties go up: 128 + 0 and -128 + 0 guard units. Two halves make one, as they are rounded together.
    (add_of_two_channels(0.5, 1.0), {"shape": (2, 1, 1)}, [1, 0, -1, 0, 100, 100], [1, 0, 127]),
    (add_of_two_channels(0.5, 0.5), {"shape": (2, 1, 1)}, [1, 1], [1]),
    # Sums 1, 3 and -3 over 1, 2 and 2: at the border one element is its own mean.
    ([QuantizedAveragePool("y", ("x",), "y", -128, 127, (1, 2), times(np.array([[1.0, 0.5, 0.5]])),
                           Geometry(padding=(0, 1, 0, 0)))],
     {"shape": (1, 1, 3), "x": at(10), "y": at(-4)}, [11, 12, 5], [1 - 4, 2 - 4, -1 - 4]),
    # Max pooling pads below every code, convolution with the zero point.
    ([QuantizedMaxPool("y", ("x",), "y", (2, 2), Geometry((1, 1), (1, 1, 0, 0)))],
     {"shape": (1, 1, 2), "x": at(50), "y": at(50)}, [-128, -127], [-128, -127]),
    ([conv(term([[[[1, 1, 1]]]]), padding=(0, 1, 0, 1))], {"shape": (1, 1, 2), "x": at(20)}, [20, 25], [5, 5]),
    ([QuantizedConcat("y", ("x", "x", "x"), "y", -100, 100, (times(0.5), times(2.0), times(1.0)))],
     {"x": at(3), "y": at(-7)}, [-2, 127], [-2 - 7, -10 - 7, -5 - 7, 62 - 7, 100, 100]),
    # A table is indexed from the lowest code.
    ([conv(term([[1]], 0.5, lookup_table=np.array([7, -20, 0, 300])))], {"x": at(0, IntFormat(2))}, [-2, -1, 0, 1],
     [4, -10, 0, 127]),
])
def test_codes_by_hand_both_ways(layers, keywords, x_q, expected):
    network = program(*layers, **keywords)
    x_q = np.reshape(x_q, (-1, *network.input_shape))
    for run in (run_integer_tensors, run_simulated_tensors):
        assert run(network, x_q)["y"].ravel().tolist() == expected


# --- what is recorded follows from the scales -----------------------------------------------------------------

def rounded(value: Fraction) -> float:
    """The float64 nearest to a rational."""
    return value.numerator / value.denominator


def weight_scales(weight: np.ndarray, per_channel: bool, bits: int) -> list[float]:
    """q_max / max|W| for each output channel; an all-zero layer gets 1, an all-zero channel the layer's."""
    q_max = 2 ** (bits - 1) - 1
    rows = [max(abs(v) for v in row) for row in weight.reshape(len(weight), -1).tolist()]
    whole = max(rows)
    reach = [(row or whole) if per_channel else whole for row in rows]
    return [q_max / r if r else 1.0 for r in reach]


@given(st.data())
def test_every_recorded_number_follows_from_the_scales_and_a_clip_that_alone_reads_a_computed_tensor_is_fused(data):
    network = data.draw(networks())
    per_channel, bits = data.draw(st.booleans()), data.draw(st.integers(2, 8))
    quantized = quantize_network(network, data.draw(images(network)), weight_bits=bits,
                                 activations=data.draw(st.sampled_from(ACTIVATIONS)),
                                 granularity="channel" if per_channel else "layer")
    folded = fold_batchnorm(network)
    nodes = {node.name: node for node in folded.nodes}
    fused = {clip.inputs[0]: clip for clip in folded.nodes if isinstance(clip, graph.Clip)
             and isinstance(nodes.get(clip.inputs[0]), COMPUTING) and folded.only_reader(clip.inputs[0]) is clip}
    clips = {node.name: node for node in folded.nodes if isinstance(node, graph.Clip)}
    outputs = {node.name: fused.get(node.name, node).name for node in folded.nodes if node not in fused.values()}
    assert {layer.name: layer.output for layer in quantized.layers} == outputs
    for layer in quantized.layers:
        node, out = nodes[layer.name], quantized.qparams[layer.output]
        s_y = Fraction(out.scale)
        s_in = [Fraction(quantized.qparams[name].scale) for name in layer.inputs]
        if isinstance(layer, QuantizedConv):
            (found,) = layer.terms
            s_w = weight_scales(node.weight, per_channel, bits)
            products = [Fraction(rounded(s_in[0] * Fraction(s))) for s in s_w]
            expected = [rounded(s_y / product) for product in products]
            assert np.broadcast_to(found.multiplier.real, len(s_w)).tolist() == expected
            assert found.bias_q is None if node.bias is None else found.bias_q.tolist() == [
                half_away(Fraction(b) * product) for b, product in zip(node.bias.tolist(), products)]
            assert found.weight_q.reshape(len(s_w), -1).tolist() == [
                [half_away(Fraction(v) * Fraction(s)) for v in row]
                for row, s in zip(node.weight.reshape(len(s_w), -1).tolist(), s_w)]
        elif isinstance(layer, (QuantizedAdd, QuantizedConcat)):
            guard = 256 if isinstance(layer, QuantizedAdd) else 1
            assert [m.real.item() for m in layer.multipliers] == [rounded(s_y / s) * guard for s in s_in]
        elif isinstance(layer, QuantizedAveragePool):
            exact = [[s_y / s_in[0] / count for count in row] for row in counts_by_hand(network, node)]
            np.testing.assert_allclose(layer.multiplier.real, np.array(exact, float), rtol=2.0**-52)  # two roundings
        if isinstance(layer, ClippedLayer):
            clip = clips.get(layer.output, graph.Clip("none", "", None, None))
            assert layer.low == (out.format.min if clip.low is None else quantized_by_hand(clip.low, out))
            assert layer.high == (out.format.max if clip.high is None else quantized_by_hand(clip.high, out))


def counts_by_hand(network: graph.Network, node: graph.Node) -> list[list[int]]:
    """What each mean divides by: a ones plane summed over the window, in plain loops."""
    height, width = network.shapes[node.inputs[0]][1:]
    if isinstance(node, graph.GlobalAveragePool):
        return [[height * width]]
    windows = oracle._windows([[1] * width for _ in range(height)], node.kernel, node.geometry)
    full = node.kernel[0] * node.kernel[1]
    return [[full if node.count_include_pad else sum(window) for window in row] for row in windows]


def test_weight_bytes_are_rounded_up_per_layer():
    """3 codes of 7 bits are 21 bits, 3 bytes; 3 of 4 bits 2 bytes, of 6 bits 3, in any terms."""
    second = conv(term(np.ones((1, 3), int), fmt=IntFormat(4)), term(np.ones((1, 3), int), fmt=IntFormat(2)),
                  source="a", name="b")
    for layer, expected in ((second, 3 + 2), (dataclasses.replace(second, code_bits=6), 3 + 3)):
        network = program(conv(term(np.ones((3, 1), int), fmt=IntFormat(7)), name="a"), layer)
        assert network.weight_bytes == expected
    assert [shifted_conv((0, 2, 5), bits).weight_bits for bits in (4, 3)] == [3 * 8 + 3 * 4, 3 * 8 + 3 * 3]


def shifted_conv(k, shift_bits=4, multiplier=None):
    term = Term(np.ones((3, 1, 1, 1), np.int8), INT8, multiplier or times(0.5).shifted_right([0, 2, 5]))
    return QuantizedConv("c", ("input",), "c", -128, 127, (term,), channel_shifts=k, shift_bits=shift_bits)


# --- proven ranges --------------------------------------------------------------------------------------------

@given(int_formats(2, 8), int_formats(2, 8), st.data())
def test_the_proven_range_of_a_convolution_is_attained(x_format, w_format, data):
    """One output pixel, fed for each channel with the highest or lowest code by the sign of its weight."""
    shape = (data.draw(st.integers(1, 3)), 2, 1, 3)
    weight = data.draw(codes(w_format, shape))
    zero_point = data.draw(st.integers(x_format.min, x_format.max))
    network = program(conv(term(weight, 0.001, fmt=w_format)), shape=shape[1:], x=at(zero_point, x_format))
    highest = np.where(weight > 0, x_format.max, x_format.min)
    lowest = np.where(weight > 0, x_format.min, x_format.max)
    _, sums = observed(network, np.concatenate([highest, lowest]))
    (stage,) = network.stages
    # 0 is a partial sum, so the proven range always contains it.
    assert stage.max == max(0, int(sums["y", "accumulator"].max()))
    assert stage.min == min(0, int(sums["y", "accumulator"].min()))


MEAN = QuantizedAveragePool("p", ("x",), "p", -128, 127, (2, 2), times(np.full((1, 1), 0.5)))
WIDE = IntFormat(24)


@pytest.mark.parametrize(("layers", "keywords", "ranges"), [
    # A bias may be added first or last: on the other side the sum without it is the extreme.
    *[([conv(term([[3]], 0.1, np.array([bias])))], {}, [ends])
      for bias, ends in ((0, (-384, 381)), (5, (-384, 386)), (-5, (-389, 381)))],
    # Of a clamped tensor the next layer sees the limits, also through layers that carry codes on.
    ([conv(term([[1]]), low=10, high=20, name="a"), conv(term([[2]]), source="a")], {"qparams": {"a": at(12)}},
     [(-128, 127), (-4, 16)]),
    ([conv(term([[1]]), low=0, high=9, name="a"), QuantizedMaxPool("b", ("a",), "b", (1, 1)),
      QuantizedFlatten("c", ("b",), "c"), QuantizedClip("d", ("c",), "d", 2, 7),
      conv(term([[-3]]), source="c", name="e"), conv(term([[-3]]), source="d", name="f")], {},
     [(-128, 127), (-27, 0), (-21, 0)]),
    # Four codes - 100 of 0..255; then 256·0.3 and 256·1.7 times -128 and 127, each rounded.
    ([MEAN, QuantizedAdd("y", ("p", "p"), "y", -128, 127, (times(256 * 0.3), times(256 * 1.7)))],
     {"shape": (1, 2, 2), "x": at(100, UINT8)}, [(-400, 620), (-9830 - 55706, 9754 + 55270)]),
    # 127 - int8(-128) is 255, not the -1 that int8 arithmetic gives.
    ([conv(term([[1]]))], {"x": at(np.int8(-128))}, [(0, 255)]),
    # Of several sums, their products with m = 2^30.
    ([conv(*[term([[WIDE.max]], fmt=WIDE)] * 2)], {},
     [(-128 * WIDE.max, 127 * WIDE.max)] * 2 + [(-(2**38) * WIDE.max, 127 * 2**31 * WIDE.max)]),
    # The most that the simulation holds: below 2^53.
    ([conv(term([[2**45]], 2.0**-32, fmt=IntFormat(50)), accumulator=IntFormat(64))], {},
     [(-(2**52), 127 * 2**45)]),
])
def test_proven_ranges_by_hand(layers, keywords, ranges):
    assert [(stage.min, stage.max) for stage in program(*layers, **keywords).stages] == ranges


def test_a_multiplier_that_vanishes_is_refused_where_its_sum_can_be_half_a_code():
    """m·2^(shift-31) has no M below 2^-32; sums of 32 bits are below half a code there, those of 48 bits are not."""
    for weight, real in ((2**23, 2.0**-33), (2**30, 2.0**-39)):  # 128·weight·real reaches 1/8 and 1/4
        program(conv(term([[weight]], real, fmt=IntFormat(40)), accumulator=IntFormat(48)))
    with pytest.raises(ValueError, match=r"^layer 'y': a multiplier must be at least 2\^-32 where its sum can reach "
                                         r"half a code, got 1\.16e-10$"):
        program(conv(term([[2**26]], 2.0**-33, fmt=IntFormat(40)), accumulator=IntFormat(48)))
    program(conv(term([[2**26]], 2.0**-33, fmt=IntFormat(40)), accumulator=IntFormat(48)), dialect="exact_half_even")


BIT = IntFormat(1, signed=False)


@pytest.mark.parametrize(("weights", "bias"), [([127] * 258 + [1], None), ([-128] * 256, None), ([1], 32766)])
def test_a_bound_that_just_fits_is_accepted_and_one_more_is_refused(weights, bias):
    """Inputs 0 and 1, so that the bound is the sum of the weights: 32767 or -32768 of int16."""
    def build(weights):
        bias_q = None if bias is None else np.array([bias])
        return program(conv(term([weights], 0.001, bias_q), accumulator=IntFormat(16)), shape=(len(weights), 1, 1),
                       x=at(0, BIT))
    (stage,) = build(weights).stages
    assert stage.format == IntFormat(16)
    assert max(stage.max, -stage.min - 1) == 32767
    sign = 1 if stage.max else -1
    with pytest.raises(ValueError, match=r"^layer 'y': the accumulator is proven to lie within "
                                         rf"{'0..32768' if sign > 0 else '-32769..0'}, which does not fit int16$"):
        build([*weights, sign])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_of_products_that_int64_cannot_hold_is_refused(sign):
    """Products of up to 2^61: four of them fit, with the half that rounding adds; five do not."""
    near = term([[sign * WIDE.max]], 1.0 - 2.0**-31, fmt=WIDE)  # m = 2^31 - 1
    assert program(conv(*[near] * 4)).stages[-1].format == IntFormat(64)
    with pytest.raises(ValueError, match=r"^layer 'y': the sum of products is proven to lie within .*, which "
                                         r"with what rounding adds does not fit int64$"):
        program(conv(*[near] * 5))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("real", [2.0**13, 2.0**24, 1.5 * 2.0**23, 2.0**23 * (1 + 2.0**-16)])
def test_no_operand_of_a_sum_leaves_its_proven_range_under_any_dialect(dialect, real):
    """Doubling multiplication shifts left by 2^25 first, where 127 no longer fits 32 bits and wraps."""
    add = QuantizedAdd("y", ("x", "x"), "y", -128, 127, (times(real), times(2.0**-5)))
    try:
        network = program(add, x=at(0, IntFormat(7, signed=False)), dialect=dialect)
    except ValueError as error:
        assert str(error).startswith("layer 'y': ")  # a refusal is right, too
    else:
        check(network, np.arange(128).reshape(128, 1, 1, 1))


@pytest.mark.parametrize("code", [-2**31 - 1, -2**31, 2**31 - 1, 2**31])
def test_a_bias_code_is_refused_exactly_beyond_int32(code):
    net = graph.Network((1,), [graph.Linear("l", "input", np.zeros((1, 1)), np.array([float(code)]))])
    weight = QuantizedWeight(np.array([[0]], np.int8), np.float64(1.0), INT8)
    if INT32.min <= code <= INT32.max:
        layer, = assemble(net, {"input": at(0), "l": at(0)}, {"l": weight}).layers
        assert layer.terms[0].bias_q.tolist() == [code]
    else:
        with pytest.raises(ValueError, match=r"^layer 'l': the bias code of channel 0 is -?2\.147e\+09, which"):
            assemble(net, {"input": at(0), "l": at(0)}, {"l": weight})


def test_the_parameters_of_a_network_are_copied_and_read_only():
    weight, bias = np.ones((1, 1, 1, 1), int), np.zeros(1, int)
    part = Term(weight, INT8, times(1.0), bias)
    weight[:], bias[:] = 9, 9
    assert (part.weight_q.item(), part.bias_q.item()) == (1, 0)
    for array in (part.weight_q, part.multiplier.m):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


# --- refusals -------------------------------------------------------------------------------------------------

NETWORK = program(conv(term([[1, 1]])), shape=(2, 1, 3), x=at(5, IntFormat(7, narrow=True)))
PIXEL = np.zeros((1, 2, 1, 3), int)
W, HALF = np.ones((2, 1, 1, 1), int), times(0.5)
ONE = np.ones(1)
NORM = graph.Network((1,), [graph.BatchNorm("n", "input", ONE, ONE, ONE, ONE)])
INTEGERS = "must hold integers of at most 64 bits, got dtype"
CHANNELS = "layer 'c': with channel_shifts all channels must have one m and one shift + k, got"
FOUR = at(0, IntFormat(4))
KEEPS = f"layer 'y' must keep its input's qparams, got {at(0)} and {FOUR}"


REFUSALS = [
    # input codes and images
    *[(lambda x_q=x_q: run_integer_tensors(NETWORK, x_q), f"input codes {sentence}") for x_q, sentence in (
        (np.zeros((1, 2, 1, 4), int), "must be a non-empty (N, 2, 1, 3), got shape (1, 2, 1, 4)"),
        (PIXEL[0], "must be a non-empty (N, 2, 1, 3), got shape (2, 1, 3)"),
        (PIXEL[:0], "must be a non-empty (N, 2, 1, 3), got shape (0, 2, 1, 3)"),
        (PIXEL.astype(float), f"{INTEGERS} float64"),
        (PIXEL.astype(bool), f"{INTEGERS} bool"),
        (PIXEL - 64, "must be within int7 narrow (-63..63), got -64..-64"),
        ((PIXEL + 64).astype(np.uint64), "must be within int7 narrow (-63..63), got 64..64"))],
    *[(lambda run=run: run(PIXEL), "images must hold float32 or float64, got dtype int64")
      for run in (NETWORK.run, NETWORK.simulate, NETWORK.quantize_images)],
    # parts of layers
    *[(lambda parts=parts: Term(*parts), sentence) for parts, sentence in (
        ((W[0], INT8, HALF), "weight_q must be a non-empty (O, C/groups, R, S), got shape (1, 1, 1)"),
        ((W[:0], INT8, HALF), "weight_q must be a non-empty (O, C/groups, R, S), got shape (0, 1, 1, 1)"),
        ((W * 1.0, INT8, HALF), f"weight_q {INTEGERS} float64"),
        ((-8 * W, IntFormat(4, narrow=True), HALF), "weight_q must hold codes of int4 narrow (-7..7), got -8..-8"),
        ((W, INT8, times(np.ones(3))), "multiplier must be a scalar or have shape (2,), got (3,)"),
        ((W, INT8, HALF, np.ones(3, int)), "bias_q must have shape (2,), got (3,)"),
        ((W, INT8, HALF, np.ones(2)), f"bias_q {INTEGERS} float64"),
        ((W, INT8, HALF, None, np.zeros(256)), f"lookup_table {INTEGERS} float64"),
        ((W, INT8, HALF, None, W), "lookup_table must be one row of integers, got shape (2, 1, 1, 1)"))],
    # 4·2^62 would wrap to 0 in a proof.
    (lambda: Term(4 * W, INT8, HALF, None, np.array([0, 0, 0, 2**62])),
     "lookup_table must fit int32, got 0..4611686018427387904"),
    (lambda: conv(), "layer 'y' must have at least one term, got none"),
    (lambda: conv(term([[1]]), term([[1, 2]])),
     "layer 'y': terms must have weights of one shape, got [(1, 1, 1, 1), (1, 2, 1, 1)]"),
    (lambda: at(128), "zero_point must be a code of int8 (-128..127), got 128"),
    (lambda: at(0.5), "zero_point must be an integer, got 0.5"),
    *[(lambda scale=scale: QuantParams(scale, INT8), f"scale must be finite and > 0, got {scale}")
      for scale in (0.0, math.inf)],
    # channel shifts
    (lambda: shifted_conv((0, 2, 5), 2), "layer 'c': channel_shifts must be from 0 to 3, got 0..5"),
    (lambda: shifted_conv((-1, 2, 5)), "layer 'c': channel_shifts must be from 0 to 15, got -1..5"),
    (lambda: shifted_conv((0, 2, 5), 6), "layer 'c': shift_bits must be an integer from 0 to 5, got 6"),
    (lambda: shifted_conv((0.0, 2, 5)), f"layer 'c': channel_shifts {INTEGERS} float64"),
    (lambda: shifted_conv((0, 2, 4)), f"{CHANNELS} [1073741824, 1073741824, 1073741824] and [0, 0, -1]"),
    (lambda: shifted_conv((0, 0, 0), 4, times([0.5, 0.6, 0.7])),
     f"{CHANNELS} [1073741824, 1288490189, 1503238554] and [0, 0, 0]"),
    (lambda: shifted_conv((0, 2)), f"{CHANNELS} 3 channels for 2 shifts"),
    # layers that do not fit their network
    (lambda: program(conv(term([[1]], lookup_table=np.zeros(255, int)))),
     "layer 'y': a lookup table must have one entry per code of int8, got 255"),
    (lambda: program(conv(term([[1]], lookup_table=np.ones(256, int)))),
     "layer 'y': a lookup table must map the zero point to 0, as padding needs"),
    (lambda: dataclasses.replace(NETWORK, dialect="nearest"),
     "dialect must be a name, such as single_round, or 4 to 6 words, such as m31,wrap,half_up,half_away "
     "(see refquant dialects), got 'nearest'"),
    (lambda: QuantizedNetwork("x", "y", (1,), (QuantizedFlatten("y", ("no",), "y"),), {"x": at(0), "y": at(0)}),
     "layer 'y' must have qparams for its tensors, got none for ['no']"),
    (lambda: program(QuantizedAdd("y", ("x",), "y", -8, 7, (times(1.0), times(1.0)))),
     "layer 'y' must have one multiplier per input, got 2 for 1"),
    (lambda: program(QuantizedConcat("y", ("x", "x"), "y", -8, 7, (times(1.0),))),
     "layer 'y' must have one multiplier per input, got 1 for 2"),
    *[(lambda layer=layer: program(layer, y=FOUR), KEEPS) for layer in (
        QuantizedMaxPool("y", ("x",), "y", (1, 1)), QuantizedFlatten("y", ("x",), "y"),
        QuantizedClip("y", ("x",), "y", -8, 7))],
    (lambda: program(conv(term([[1]])), conv(term([[2]]))), "layer 'y' must write a new tensor, got 'y' again"),
    *[(lambda low=low, high=high: program(conv(term([[1]]), low=low, high=high)),
       f"layer 'y': its clamp must lie within int8 (-128..127), got {low}..{high}")
      for low, high in ((10, -10), (-129, 127), (0, 128))],
    (lambda: assemble(NORM, {"input": at(0), "n": at(0)}, {}),
     "node 'n': BatchNorm has no integer form; fold_batchnorm removes it"),
    # multipliers and sums beyond what is held
    *[(lambda layer=layer: program(layer), "layer 'y': single_round takes shifts from -31 to 30, got 31..31")
      for layer in (conv(term([[1]], 2.0**30)),
                    QuantizedConcat("y", ("x", "x"), "y", -128, 127, (times(2.0**30), times(1.0))),
                    QuantizedAveragePool("y", ("x",), "y", -128, 127, (1, 1), times(np.array([[2.0**30]]))))],
    (lambda: program(dataclasses.replace(conv(term([[1]])), terms=(term([[1]]), term([[1]], 0.1)))),
     "layer 'y': multipliers of several sums must share their shift (see aligned), got others"),
    *[(lambda dialect=dialect: program(conv(term([[1]]), term([[2]], 0.5)), dialect=dialect),
       f"layer 'y': a dialect for several sums must be one of {', '.join(ONCE)}, got {dialect!r}")
      for dialect in DIALECTS if dialect not in ONCE],
    (lambda: program(dataclasses.replace(MEAN, accumulator=IntFormat(9)), shape=(1, 2, 2)),
     "layer 'p': the accumulator is proven to lie within -512..508, which does not fit int9"),
    (lambda: program(conv(term([[1]], 256.0), term([[100]], 256.0), accumulator=INT8)),
     "layer 'y': the accumulator 1 is proven to lie within -12800..12700, which does not fit int8"),
    (lambda: program(conv(*[term([[WIDE.max]], 2.0**-30, fmt=WIDE)] * 2), x=at(0, WIDE)),
     f"layer 'y': the accumulator 0 is proven to lie within {WIDE.max * WIDE.min}..{WIDE.max**2}, "
     "which does not fit int32"),
    (lambda: program(conv(term([[2**46 + 1]], 2.0**-40, fmt=IntFormat(50)), accumulator=IntFormat(64))),
     "layer 'y': the accumulator is proven to lie within -9007199254741120..8936830510563455, beyond the 2^53 that "
     "simulation holds"),
    # -2^63 - 128 wraps to a positive number, which is above every format's minimum.
    (lambda: program(conv(term([[1]], bias=np.array([-2**63])))),
     "layer 'y': the convolution's sums can reach 9223372036854775808, which int64 does not hold"),
]


@pytest.mark.parametrize(("build", "message"), REFUSALS)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()
