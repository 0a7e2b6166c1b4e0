"""The integer interpreter against a plain Python oracle, the float64 simulation, and hand-worked codes."""

import dataclasses
import itertools
import math
import re
from fractions import Fraction

import integer_oracle as oracle
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refquant.convolution.geometry import Geometry
from refquant.integers.dialects import DIALECTS
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.several_sums import aligned, takes_several_sums
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
from refquant.recipes.settings import ACTIVATIONS, GRANULARITIES
from refquant.strategies import codes, convolution_cases, images, int_formats, networks

INT8, UINT8, INT32 = IntFormat(8), IntFormat(8, signed=False), IntFormat(32)


def times(real) -> Multiplier:
    return Multiplier.from_real(real)


def program(*layers, qparams=None, shape=(1, 1, 1), x=None, y=None, dialect="single_round") -> QuantizedNetwork:
    """Layers from "x" to the last one's output; encodings default to int8 with zero point 0."""
    names = {name for layer in layers for name in (*layer.inputs, layer.output)}
    every = {**dict.fromkeys(names, QuantParams(1.0, INT8)), **(qparams or {})}
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
def quantized_networks(draw: st.DrawFn) -> QuantizedNetwork:
    """A random float network, quantized by a recipe: 2..8 bits, every kind of activation, any dialect."""
    network = draw(networks())
    dialect = draw(st.sampled_from(DIALECTS))
    try:
        return quantize_network(
            network, draw(images(network)), weight_bits=draw(st.integers(2, 8)),
            activation_bits=draw(st.integers(2, 8)), granularity=draw(st.sampled_from(GRANULARITIES)),
            activations=draw(st.sampled_from(ACTIVATIONS)), dialect=dialect)
    except ValueError as error:
        # The refusals that are right: 16-bit multipliers of 2^14 and more, and sums that would wrap.
        assert re.search("multiplier16 takes shifts from -31 to 14|shifts a sum left", str(error))
        assume(False)
        raise


@st.composite
def qparams(draw: st.DrawFn) -> QuantParams:
    fmt = draw(int_formats(2, 8))
    return QuantParams(1.0, fmt, draw(st.integers(fmt.min, fmt.max)))


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
    most = 3 if takes_several_sums(dialect) else 1
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


any_network = quantized_networks() | programs()


def input_codes(network: QuantizedNetwork, count: int = 2) -> st.SearchStrategy[np.ndarray]:
    return codes(network.qparams[network.input].format, (count, *network.input_shape))


def observed(network: QuantizedNetwork, x_q: np.ndarray) -> tuple[dict, dict]:
    sums = {}
    tensors = run_integer_tensors(network, x_q, lambda layer, stage, values: sums.update({(layer, stage): values}))
    return tensors, sums


# --- three paths, one result ----------------------------------------------------------------------------------

@pytest.mark.parametrize("source", [quantized_networks(), programs()], ids=["recipes", "every layer"])
def test_every_code_and_every_sum_is_the_oracles(source):
    @given(st.data())
    def compare(data):
        network = data.draw(source)
        x_q = data.draw(input_codes(network))
        tensors, sums = observed(network, x_q)
        expected, expected_sums = oracle.run(network, x_q)
        assert tensors.keys() == expected.keys()
        for name, y_q in tensors.items():
            assert y_q.tolist() == expected[name], name
            assert y_q.dtype == network.qparams[name].format.dtype, name
        assert {stage: values.tolist() for stage, values in sums.items()} == expected_sums
    compare()


@given(st.data())
def test_integer_inference_equals_simulated_inference_in_every_tensor(data):
    network = data.draw(any_network)
    x_q = data.draw(input_codes(network))
    tensors, twins = run_integer_tensors(network, x_q), run_simulated_tensors(network, x_q)
    assert tensors.keys() == twins.keys()
    for name, y_q in tensors.items():
        assert twins[name].dtype == np.float64
        assert np.array_equal(y_q, twins[name]), name


@given(st.data())
def test_every_image_of_a_batch_gives_the_codes_it_gives_alone(data):
    network = data.draw(any_network)
    x_q = data.draw(input_codes(network, 3))
    together = run_integer_tensors(network, x_q)
    alone = run_integer_tensors(network, x_q[1:2])
    assert all(np.array_equal(alone[name][0], together[name][1]) for name in together)


@given(st.data())
def test_running_writes_to_nothing_and_watching_changes_nothing(data):
    network = data.draw(any_network)
    x_q = data.draw(input_codes(network))
    kept = x_q.copy()
    tensors, _ = observed(network, x_q)
    assert np.array_equal(x_q, kept)
    again = run_integer_tensors(network, kept)
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)


@given(st.data())
def test_float_images_are_quantized_at_the_door_and_codes_dequantized(data):
    network = data.draw(networks())
    batch = data.draw(images(network))
    quantized = quantize_network(network, batch, activations=data.draw(st.sampled_from(ACTIVATIONS)))
    entry, out = quantized.qparams[quantized.input], quantized.qparams[quantized.output]
    x_q = quantized.quantize_images(batch)
    assert x_q.dtype == entry.format.dtype
    assert x_q.tolist() == nested_map(lambda x: quantized_by_hand(x, entry), batch.tolist())
    y = quantized.run(batch)
    assert y.dtype == np.float64
    codes_out = oracle.run(quantized, x_q)[0][quantized.output]
    assert y.tolist() == nested_map(lambda code: float(code - out.zero_point) / out.scale, codes_out)
    assert quantized.simulate(batch).tolist() == y.tolist()


def nested_map(function, values):
    return [nested_map(function, v) for v in values] if isinstance(values, list) else function(values)


def half_away(value: Fraction) -> int:
    return math.floor(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)


def quantized_by_hand(x: float, qparam: QuantParams) -> int:
    code = half_away(Fraction(x) * Fraction(qparam.scale)) + qparam.zero_point
    return max(qparam.format.min, min(qparam.format.max, code))


# --- codes worked by hand -------------------------------------------------------------------------------------

F32 = np.float32


# x, M, zero point, and the code, zero point included, under each of the dialect in DIALECTS' order:
# gemmlowp_double, neon_double, single_round, float32_half_even, float32_half_away, multiplier16,
# shift_floor, exact_half_even, zero_point_first.
@pytest.mark.parametrize(("x", "real", "zero_point", "expected"), [
    (1, 1 / 4, 0, (1, 1, 0, 0, 0, 0, 0, 0, 0)),  # 0.25: the two that round twice see 0.5
    (-2, 1 / 4, 1, (0, 1, 1, 1, 0, 1, 0, 1, 0)),  # -0.5, a tie; with its zero point 0.5
    (-3, 1 / 4, 0, (-1, 0, -1, -1, -1, -1, -1, -1, -1)),
    (5, 1 / 2, 1, (4, 4, 4, 3, 4, 4, 3, 3, 4)),  # 2.5, a tie; with its zero point 3.5
    (25, float(F32(0.1)), 0, (3, 3, 3, 2, 3, 2, 2, 3, 3)),  # 2.50000004: float32 sees the tie, 16 bits less
    (-5, float(F32(0.7)), 0, (-3, -3, -3, -4, -4, -4, -4, -3, -3)),  # -3.49999994, which float32 calls -3.5
    (1, 1 / 2, 0, (1, 1, 1, 0, 1, 1, 0, 0, 0)),
    (-128, 127.0, 0, (-128,) * 9),  # saturates below
    (127, 2.0**10, -1, (127,) * 9),  # saturates above
    (127, 2.0**-33, 0, (0,) * 9),  # below the smallest fixed-point multiplier, which is 0
    (-127, 2.0**-33, 0, (0, 0, 0, 0, 0, 0, 0, 0, 0)),  # so that even the floor is 0
])
def test_one_product_by_hand_under_every_dialect_both_ways(x, real, zero_point, expected):
    assert len(DIALECTS) == len(expected)
    for dialect, code in zip(DIALECTS, expected):
        network = program(conv(term([[1]], real)), y=QuantParams(1.0, INT8, zero_point), dialect=dialect)
        x_q = np.full((1, 1, 1, 1), x)
        assert run_integer_tensors(network, x_q)["y"].item() == code, dialect
        assert run_simulated_tensors(network, x_q)["y"].item() == code, dialect
        assert oracle.run(network, x_q)[0]["y"] == [[[[code]]]], dialect


@pytest.mark.parametrize(("codes_in", "scales", "code"), [
    ((1, 0), (0.5, 1.0), 1),  # 128 + 0: a tie, up
    ((-1, 0), (0.5, 1.0), 0),
    ((1, 1), (0.5, 0.5), 1),  # two halves make one; rounded each by itself they would make two
    ((-3, 1), (0.25, 0.25), 0),  # -0.5, up
    ((100, 100), (1.0, 1.0), 127),
    ((1, 1), (2.0**-9, 2.0**-9), 0),  # each is half a guard unit and counts as one: 2/256
])
def test_one_addition_by_hand_both_ways(codes_in, scales, code):
    add = QuantizedAdd("y", ("a", "b"), "y", -128, 127, tuple(times(256 * s) for s in scales))
    network = program(conv(term([[1, 0]]), name="a"), conv(term([[0, 1]]), name="b"), add, shape=(2, 1, 1))
    x_q = np.array(codes_in).reshape(1, 2, 1, 1)
    assert run_integer_tensors(network, x_q)["y"].item() == code
    assert run_simulated_tensors(network, x_q)["y"].item() == code


def test_average_pooling_by_hand_both_ways():
    """Sums 3 and -3 over 2: ties go up, to 2 and -1; at the border one element is its own mean."""
    pool = QuantizedAveragePool("y", ("x",), "y", -128, 127, (1, 2), times(np.array([[1.0, 0.5, 0.5]])),
                                Geometry(padding=(0, 1, 0, 0)))
    network = program(pool, shape=(1, 1, 3), x=QuantParams(1.0, INT8, 10), y=QuantParams(1.0, INT8, -4))
    x_q = np.array([[[[11, 12, 5]]]])  # 1, 2, -5
    for run in (run_integer_tensors, run_simulated_tensors):
        assert run(network, x_q)["y"].tolist() == [[[[1 - 4, 2 - 4, -1 - 4]]]]


def test_max_pooling_by_hand_pads_below_every_code():
    pool = QuantizedMaxPool("y", ("x",), "y", (2, 2), Geometry((1, 1), (1, 1, 0, 0)))
    network = program(pool, shape=(1, 1, 2), x=QuantParams(1.0, INT8, 50), y=QuantParams(1.0, INT8, 50))
    for run in (run_integer_tensors, run_simulated_tensors):
        assert run(network, np.array([[[[-128, -127]]]]))["y"].tolist() == [[[[-128, -127]]]]


def test_concatenation_by_hand_requantizes_each_operand():
    join = QuantizedConcat("y", ("x", "x", "x"), "y", -100, 100, (times(0.5), times(2.0), times(1.0)))
    network = program(join, x=QuantParams(1.0, INT8, 3), y=QuantParams(1.0, INT8, -7))
    for run in (run_integer_tensors, run_simulated_tensors):
        y = run(network, np.array([[[[-2]]], [[[127]]]]))["y"]  # -5 and 124
        assert y.reshape(2, 3).tolist() == [[-2 - 7, -10 - 7, -5 - 7], [62 - 7, 100, 100]]


def test_padding_is_with_the_zero_point():
    x = QuantParams(1.0, INT8, 20)
    network = program(conv(term([[[[1, 1, 1]]]]), padding=(0, 1, 0, 1)), shape=(1, 1, 2), x=x)
    for run in (run_integer_tensors, run_simulated_tensors):
        assert run(network, np.array([[[[20, 25]]]]))["y"].tolist() == [[[[5, 5]]]]


# --- several terms --------------------------------------------------------------------------------------------

@given(convolution_cases(w_formats=st.just(INT8)), reals, st.data())
def test_a_weight_split_into_high_and_low_digits_gives_the_code_of_the_whole(case, real, data):
    """W = 16·W_hi + W_lo: added before the one rounding, so the code is the exact product's, or next to a tie."""
    high, low = case.w_q.astype(int) >> 4, case.w_q.astype(int) & 15
    bias = data.draw(codes(IntFormat(12), case.w_q.shape[:1])).astype(np.int64)
    x, y = QuantParams(1.0, case.x_format, case.zero_point), QuantParams(1.0, IntFormat(24))
    digits = (term(high, 16 * real, fmt=IntFormat(4)),
              term(low, real, bias, fmt=IntFormat(4, signed=False)))
    layers = [conv(*digits, low=y.format.min, high=y.format.max),
              conv(term(case.w_q, real, bias), low=y.format.min, high=y.format.max)]
    split, whole = (program(dataclasses.replace(layer, geometry=case.geometry), shape=case.x_q.shape[1:], x=x, y=y)
                    for layer in layers)
    tensors, sums = observed(split, case.x_q)
    exact = observed(whole, case.x_q)[1]["y", "accumulator"]
    assert np.array_equal(16 * sums["y", "accumulator 0"] + sums["y", "accumulator 1"], exact)
    for code, acc in zip(tensors["y"].ravel().tolist(), exact.ravel().tolist()):
        # Half a code of the rounding, and the multipliers' own 2^-31.
        exact_code = acc * Fraction(real)
        largest = Fraction(real) * 2**25  # no single accumulator, times 16, is larger
        assert abs(code - exact_code) <= Fraction(1, 2) + 2 * largest / 2**31
    assert tensors["y"].tolist() == oracle.run(split, case.x_q)[0]["y"]
    assert np.array_equal(tensors["y"], run_simulated_tensors(split, case.x_q)["y"])


@given(convolution_cases(), st.lists(st.integers(-255, 255), max_size=3), reals.map(lambda real: min(real, 0.5)))
def test_planes_that_split_the_input_into_regions_sum_to_the_whole(case, edges, real):
    """Region i sees the values between two edges and 0 elsewhere; over all regions the sums are the plain sums."""
    fmt, zero_point = case.x_format, case.zero_point
    values = [code - zero_point for code in range(fmt.min, fmt.max + 1)]
    edges = [-1000, *sorted(edges), 1000]
    planes = [[v if a <= v < b else 0 for v in values] for a, b in itertools.pairwise(edges)]
    weight_terms = tuple(term(case.w_q, real, lookup_table=np.array(plane), fmt=case.w_format)
                         for plane in planes)
    x, y = QuantParams(1.0, fmt, zero_point), QuantParams(1.0, IntFormat(20))
    layer = dataclasses.replace(conv(*weight_terms, low=y.format.min, high=y.format.max), geometry=case.geometry)
    network = program(layer, shape=case.x_q.shape[1:], x=x, y=y)
    tensors, sums = observed(network, case.x_q)
    plain = program(dataclasses.replace(layer, terms=(term(case.w_q, real, fmt=case.w_format),)),
                    shape=case.x_q.shape[1:], x=x, y=y)
    total = sum(values for (_, stage), values in sums.items() if stage.startswith("accumulator"))
    assert np.array_equal(total, observed(plain, case.x_q)[1]["y", "accumulator"])
    assert tensors["y"].tolist() == oracle.run(network, case.x_q)[0]["y"]
    assert np.array_equal(tensors["y"], run_simulated_tensors(network, case.x_q)["y"])


def test_a_plane_is_indexed_from_the_lowest_code():
    plane = np.array([7, -20, 0, 300])  # of int2 codes -2, -1, 0, 1
    network = program(conv(term([[1]], 0.5, lookup_table=plane)), x=QuantParams(1.0, IntFormat(2)))
    x_q = np.array([-2, -1, 0, 1]).reshape(4, 1, 1, 1)
    for run in (run_integer_tensors, run_simulated_tensors):
        assert run(network, x_q)["y"].ravel().tolist() == [4, -10, 0, 127]


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
def test_every_recorded_number_follows_from_the_scales(data):
    network = data.draw(networks())
    per_channel, bits = data.draw(st.booleans()), data.draw(st.integers(2, 8))
    quantized = quantize_network(network, data.draw(images(network)), weight_bits=bits,
                                 activations=data.draw(st.sampled_from(ACTIVATIONS)),
                                 granularity="channel" if per_channel else "layer")
    folded = fold_batchnorm(network)
    nodes = {node.name: node for node in folded.nodes}
    clips = {node.name: node for node in folded.nodes if isinstance(node, graph.Clip)}
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
            counts = counts_by_hand(network, node)
            assert layer.multiplier.real.shape == counts.shape
            for real, count in zip(layer.multiplier.real.ravel().tolist(), counts.ravel().tolist()):
                assert abs(Fraction(real) * s_in[0] * count / s_y - 1) <= Fraction(1, 2**52)  # two roundings
        if isinstance(layer, ClippedLayer):
            clip = clips.get(layer.output)
            low, high = (None, None) if clip is None else (clip.low, clip.high)
            assert layer.low == (out.format.min if low is None else quantized_by_hand(low, out))
            assert layer.high == (out.format.max if high is None else quantized_by_hand(high, out))


def counts_by_hand(network: graph.Network, node: graph.Node) -> np.ndarray:
    """What each mean divides by: a ones plane summed over the window, in plain loops."""
    height, width = network.shapes[node.inputs[0]][1:]
    if isinstance(node, graph.GlobalAveragePool):
        return np.array([[height * width]])
    windows = oracle._windows([[1] * width for _ in range(height)], node.kernel, node.geometry)
    full = node.kernel[0] * node.kernel[1]
    return np.array([[full if node.count_include_pad else sum(window) for window in row] for row in windows])


@given(st.data())
def test_a_clip_is_fused_exactly_where_it_alone_reads_a_computed_tensor(data):
    network = data.draw(networks())
    quantized = quantize_network(network, data.draw(images(network)))
    folded = fold_batchnorm(network)
    made = {node.name: node for node in folded.nodes}
    computing = (graph.Conv, graph.Linear, graph.Add, graph.Concat, graph.AveragePool, graph.GlobalAveragePool)
    fused = {}
    for node in folded.nodes:
        source = node.inputs[0]
        readers = [other.name for other in folded.nodes if source in other.inputs]
        alone = readers == [node.name] and source != folded.output
        if isinstance(node, graph.Clip) and isinstance(made.get(source), computing) and alone:
            fused[source] = node.name
    assert [(layer.name, layer.output) for layer in quantized.layers] == [
        (node.name, fused.get(node.name, node.name)) for node in folded.nodes if node.name not in fused.values()]
    for layer in quantized.layers:
        if isinstance(layer, (QuantizedMaxPool, QuantizedFlatten, QuantizedClip)):
            assert quantized.qparams[layer.output] == quantized.qparams[layer.inputs[0]]


def test_a_relu_after_a_tensor_read_twice_stays_a_layer_of_its_own():
    net = graph.Network((1, 1, 2), [graph.Conv("c", "input", np.ones((1, 1, 1, 1))), graph.Clip("r", "c"),
                                    graph.Add("s", ("c", "r"))])
    quantized = quantize_network(net, np.array([[[[-1.0, 1.0]]]]))
    assert [type(layer) for layer in quantized.layers] == [QuantizedConv, QuantizedClip, QuantizedAdd]
    assert (quantized.layers[1].low, quantized.layers[1].high) == (0, 127)


def test_weight_bytes_are_rounded_up_per_layer():
    """3 codes of 7 bits are 21 bits, 3 bytes; 3 of 4 bits 2 bytes, of 5 bits as well, in any terms."""
    second = conv(term(np.ones((1, 3), int), fmt=IntFormat(4)), term(np.ones((1, 3), int), fmt=IntFormat(2)),
                  source="a", name="b")
    for layer in (second, dataclasses.replace(second, code_bits=5)):
        network = program(conv(term(np.ones((3, 1), int), fmt=IntFormat(7)), name="a"), layer)
        assert network.weight_bytes == 3 + 2


# --- proven ranges --------------------------------------------------------------------------------------------

@given(st.data())
def test_no_sum_leaves_its_proven_range(data):
    network = data.draw(any_network)
    _, sums = observed(network, data.draw(input_codes(network, 3)))
    proven = {(stage.layer, stage.stage): stage for stage in network.stages}
    assert proven.keys() == sums.keys()
    for key, values in sums.items():
        assert proven[key].min <= values.min(), key
        assert values.max() <= proven[key].max, key
        assert proven[key].format.min <= proven[key].min <= 0 <= proven[key].max <= proven[key].format.max


@given(int_formats(2, 8), int_formats(2, 8), st.data())
def test_the_proven_range_of_a_convolution_is_attained(x_format, w_format, data):
    """One output pixel, fed for each channel with the highest or lowest code by the sign of its weight."""
    shape = (data.draw(st.integers(1, 3)), 2, 1, 3)
    weight = data.draw(codes(w_format, shape))
    zero_point = data.draw(st.integers(x_format.min, x_format.max))
    x = QuantParams(1.0, x_format, zero_point)
    network = program(conv(term(weight, 0.001, fmt=w_format)), shape=shape[1:], x=x)
    highest = np.where(weight > 0, x_format.max, x_format.min)
    lowest = np.where(weight > 0, x_format.min, x_format.max)
    _, sums = observed(network, np.concatenate([highest, lowest]))
    (stage,) = network.stages
    # 0 is a partial sum, so the proven range always contains it.
    assert stage.max == max(0, int(sums["y", "accumulator"].max()))
    assert stage.min == min(0, int(sums["y", "accumulator"].min()))


@pytest.mark.parametrize(("bias", "low", "high"), [(0, -128 * 3, 127 * 3), (5, -384, 386), (-5, -389, 381)])
def test_a_bias_widens_the_proven_range_on_its_own_side_only(bias, low, high):
    """It may be added first or last: on the other side the sum without it is the extreme."""
    (stage,) = program(conv(term([[3]], 0.1, np.array([bias])))).stages
    assert (stage.min, stage.max) == (low, high)


def test_the_range_of_a_clamped_tensor_is_what_the_next_layer_can_see():
    network = program(conv(term([[1]]), low=10, high=20, name="a"), conv(term([[2]]), source="a"),
                      qparams={"a": QuantParams(1.0, INT8, 12)})
    assert [(s.min, s.max) for s in network.stages] == [(-128, 127), (-4, 16)]


def test_a_max_pool_a_clip_and_a_flatten_carry_the_range_on():
    network = program(conv(term([[1]]), low=0, high=9, name="a"), QuantizedMaxPool("b", ("a",), "b", (1, 1)),
                      QuantizedFlatten("c", ("b",), "c"), QuantizedClip("d", ("c",), "d", 2, 7),
                      conv(term([[-3]]), source="c", name="e"), conv(term([[-3]]), source="d", name="f"))
    assert [(s.layer, s.min, s.max) for s in network.stages[1:]] == [("e", -27, 0), ("f", -21, 0)]


def test_the_range_of_an_average_pool_and_of_an_addition_is_attained():
    pool = QuantizedAveragePool("p", ("x",), "p", -128, 127, (2, 2), times(np.full((1, 1), 0.5)))
    add = QuantizedAdd("y", ("p", "p"), "y", -128, 127, (times(256 * 0.3), times(256 * 1.7)))
    network = program(pool, add, shape=(1, 2, 2), x=QuantParams(1.0, UINT8, 100))
    _, sums = observed(network, np.repeat([255, 0], 4).reshape(2, 1, 2, 2))
    assert [(s.min, s.max) for s in network.stages] == [
        (-400, 620), (sums["y", "sum"].min(), sums["y", "sum"].max())]
    assert (sums["p", "accumulator"].min(), sums["p", "accumulator"].max()) == (-400, 620)


BIT = IntFormat(1, signed=False)


@pytest.mark.parametrize(("weights", "bias"), [([127] * 258 + [1], None), ([-128] * 256, None), ([1], 32766)])
def test_a_bound_that_just_fits_is_accepted_and_one_more_is_refused(weights, bias):
    """Inputs 0 and 1, so that the bound is the sum of the weights: 32767 or -32768 of int16."""
    def build(weights):
        bias_q = None if bias is None else np.array([bias])
        return program(conv(term([weights], 0.001, bias_q), accumulator=IntFormat(16)), shape=(len(weights), 1, 1),
                       x=QuantParams(1.0, BIT))
    (stage,) = build(weights).stages
    assert stage.format == IntFormat(16)
    assert max(stage.max, -stage.min - 1) == 32767
    sign = 1 if stage.max else -1
    with pytest.raises(ValueError, match=r"^layer 'y': the accumulator is proven to lie within "
                                         rf"{'0..32768' if sign > 0 else '-32769..0'}, which does not fit int16$"):
        build([*weights, sign])


def test_a_narrow_accumulator_is_refused_with_its_stage():
    pool = QuantizedAveragePool("p", ("x",), "p", -128, 127, (2, 2), times(np.full((1, 1), 0.25)),
                                accumulator=IntFormat(9))
    with pytest.raises(ValueError, match=re.escape("layer 'p': the accumulator is proven to lie within -512..508, "
                                                   "which does not fit int9")):
        program(pool, shape=(1, 2, 2))
    two = (term([[1]], 256.0), term([[100]], 256.0))
    with pytest.raises(ValueError, match=re.escape("layer 'y': the accumulator 1 is proven to lie within "
                                                   "-12800..12700, which does not fit int8")):
        program(conv(*two, accumulator=INT8))


def test_a_sum_of_products_that_int64_cannot_hold_is_refused():
    """Products of up to 2^61: four of them fit, with the half that rounding adds; five do not. Both signs."""
    wide, x = IntFormat(24), QuantParams(1.0, INT8)
    for sign in (1, -1):
        half = term([[sign * (2**23 - 1)]], 1.0, fmt=wide)  # up to 128·2^23·2^30 = 2^60
        assert max(abs(end) for end in (lambda stage: (stage.min, stage.max))(program(
            conv(half, half), x=x).stages[-1])) == 2 * 128 * (2**23 - 1) * 2**30
        near = term([[sign * (2**23 - 1)]], 1.0 - 2.0**-31, fmt=wide)  # m = 2^31 - 1, 2^61
        assert program(conv(*[near] * 4), x=x).stages[-1].format == IntFormat(64)
        with pytest.raises(ValueError, match=r"^layer 'y': the sum of products is proven to lie within .*, which "
                                             r"with what rounding adds does not fit int64$"):
            program(conv(*[near] * 5), x=x)


def test_several_terms_need_a_dialect_that_rounds_once():
    two = conv(term([[1]]), term([[2]], 0.5))
    for dialect in DIALECTS:
        if takes_several_sums(dialect):
            assert program(two, dialect=dialect).dialect == dialect
        else:
            with pytest.raises(ValueError, match=r"^layer 'y': a dialect for several sums must be one of"):
                program(two, dialect=dialect)
    with pytest.raises(ValueError, match=r"^layer 'y': multipliers of several sums must share their shift"):
        program(dataclasses.replace(two, terms=(term([[1]]), term([[2]], 0.1))))
    with pytest.raises(ValueError, match=r"^layer 'y': terms must have weights of one shape, got"):
        conv(term([[1]]), term([[1, 2]]))


def test_a_term_whose_sum_exceeds_the_accumulator_is_refused_as_such_also_among_several():
    """100 codes of 24 bits times 24 bits: not even requantization takes them."""
    wide = IntFormat(24)
    big = term(np.full((1, 100), wide.max), 2.0**-30, fmt=wide)
    with pytest.raises(ValueError, match=r"layer 'y': the accumulator 0 is proven to lie within .* not fit int32"):
        program(conv(big, big), shape=(100, 1, 1), x=QuantParams(1.0, wide))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("real", [2.0**13, 2.0**24, 1.5 * 2.0**23, 2.0**23 * (1 + 2.0**-16)])
def test_no_operand_of_a_sum_leaves_its_proven_range_under_any_dialect(dialect, real):
    """Doubling multiplication shifts left by 2^25 first, where 127 no longer fits 32 bits and wraps."""
    x = QuantParams(1.0, IntFormat(7, signed=False))
    try:
        network = program(QuantizedAdd("y", ("x", "x"), "y", -128, 127, (times(real), times(2.0**-5))), x=x,
                          dialect=dialect)
    except ValueError as error:
        assert str(error).startswith("layer 'y': ")  # a refusal is right, too
        return
    x_q = np.arange(128).reshape(128, 1, 1, 1)
    tensors, sums = observed(network, x_q)
    (stage,) = network.stages
    assert stage.min <= sums["y", "sum"].min()
    assert sums["y", "sum"].max() <= stage.max
    assert np.array_equal(tensors["y"], run_simulated_tensors(network, x_q)["y"])


def test_sixteen_bit_multipliers_do_not_push_an_operand_beyond_int32():
    """M·acc is 2^15 below 2^31, but the 16-bit multiplier is larger by a 2^15th, and the product beyond 2^31.

    The other term is as large and negative, so that what clips on one path and not on the other shows.
    """
    scale = (2**30 + 2**15) * 2.0 ** (13 - 31)  # m16 = 2^14 + 1
    acc = int((2**31 - 2**15) / scale)
    parts = term([[1]], scale, np.array([acc])), term([[-1]], scale, np.array([16 - acc]))
    try:
        network = program(conv(*parts, low=-2**15, high=2**15 - 1), y=QuantParams(1.0, IntFormat(16)),
                          x=QuantParams(1.0, BIT), dialect="multiplier16")
    except ValueError as error:
        assert str(error).startswith("layer 'y': ")  # a refusal is right, too
        return
    x_q = np.array([0, 1]).reshape(2, 1, 1, 1)
    tensors, sums = observed(network, x_q)
    assert np.array_equal(tensors["y"], run_simulated_tensors(network, x_q)["y"])
    assert sums["y", "sum"].tolist() == oracle.run(network, x_q)[1]["y", "sum"]


def test_a_multiplier_beyond_the_legal_shifts_is_refused_when_built():
    with pytest.raises(ValueError, match=r"^layer 'y': single_round takes shifts from -31 to 30, got 31\.\.31$"):
        program(conv(term([[1]], 2.0**30)))


@pytest.mark.parametrize("layer", [
    QuantizedConcat("y", ("x", "x"), "y", -128, 127, (times(2.0**30), times(1.0))),
    QuantizedAveragePool("y", ("x",), "y", -128, 127, (1, 1), times(np.array([[2.0**30]])))],
    ids=lambda layer: type(layer).__name__)
def test_an_illegal_multiplier_of_other_layers_is_refused_when_built_too(layer):
    with pytest.raises(ValueError, match=r"^layer 'y': single_round takes shifts from -31 to 30, got 31"):
        program(layer)


def test_sums_that_the_simulation_does_not_hold_are_refused_when_built():
    wide, message = IntFormat(50), r"^layer 'y': the accumulator is proven .* beyond the 2\^53 that simulation holds$"
    assert program(conv(term([[2**45]], 2.0**-40, fmt=wide), accumulator=IntFormat(64))).stages[0].max == 127 * 2**45
    with pytest.raises(ValueError, match=message):
        program(conv(term([[2**46 + 1]], 2.0**-40, fmt=wide), accumulator=IntFormat(64)))


def test_a_bias_beyond_int64_addition_does_not_wrap_into_a_proof():
    """-2^63 - 128 wraps to a positive number, which is above every format's minimum."""
    with pytest.raises(ValueError, match=r"^layer 'y': "):
        program(conv(term([[1]], bias=np.array([-2**63]))))


def test_a_plane_beyond_int64_products_does_not_wrap_into_a_proof():
    """4·2^62 = 2^64 wraps to 0."""
    plane = np.array([0, 0, 0, 2**62])
    message = r"^lookup_table must fit int32, got 0\.\.4611686018427387904$"
    with pytest.raises((ValueError, OverflowError), match=message):
        program(conv(term([[4]], lookup_table=plane)), x=QuantParams(1.0, IntFormat(2)))


def test_the_proof_holds_for_a_numpy_zero_point():
    """127 - int8(-128) is 255, not the -1 that int8 arithmetic gives."""
    (stage,) = program(conv(term([[1]])), x=QuantParams(1.0, INT8, np.int8(-128))).stages
    assert (stage.min, stage.max) == (0, 255)


def test_clamps_in_the_wrong_order_or_outside_the_format_are_refused():
    """They would make the ranges that later layers are proven with wrong."""
    for low, high in ((10, -10), (-129, 127), (0, 128)):
        with pytest.raises(ValueError, match="layer 'y'"):
            program(conv(term([[1]]), low=low, high=high))


# --- refusals -------------------------------------------------------------------------------------------------

NETWORK = program(conv(term([[1, 1]])), shape=(2, 1, 3), x=QuantParams(1.0, IntFormat(7, narrow=True), 5))


@pytest.mark.parametrize(("x_q", "message"), [
    (np.zeros((1, 2, 1, 4), int), "input codes must be a non-empty (N, 2, 1, 3), got shape (1, 2, 1, 4)"),
    (np.zeros((2, 1, 3), int), "input codes must be a non-empty (N, 2, 1, 3), got shape (2, 1, 3)"),
    (np.zeros((0, 2, 1, 3), int), "input codes must be a non-empty (N, 2, 1, 3), got shape (0, 2, 1, 3)"),
    (np.zeros((1, 2, 1, 3)), "input codes must hold integers of at most 64 bits, got dtype float64"),
    (np.zeros((1, 2, 1, 3), bool), "input codes must hold integers of at most 64 bits, got dtype bool"),
    (np.full((1, 2, 1, 3), -64), "input codes must be within int7 narrow (-63..63), got -64..-64"),
    (np.full((1, 2, 1, 3), 64, np.uint64), "input codes must be within int7 narrow (-63..63), got 64..64"),
])
def test_input_codes_that_do_not_fit_are_refused(x_q, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run_integer_tensors(NETWORK, x_q)


@pytest.mark.parametrize(("batch", "message"), [
    (np.zeros((1, 2, 1, 4)), "images must be a non-empty (N, 2, 1, 3), got shape (1, 2, 1, 4)"),
    (np.zeros((1, 2, 1, 3), int), "images must hold float32 or float64, got dtype int64"),
    (np.full((1, 2, 1, 3), np.nan), "images must be finite, got NaN or infinity"),
])
def test_images_that_do_not_fit_are_refused(batch, message):
    for run in (NETWORK.run, NETWORK.simulate, NETWORK.quantize_images):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            run(batch)


W = np.ones((2, 1, 1, 1), int)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Term(W[0], INT8, times(1.0)), "weight_q must be a non-empty (O, C/groups, R, S), got shape (1, 1, 1)"),
    (lambda: Term(W[:0], INT8, times(1.0)),
     "weight_q must be a non-empty (O, C/groups, R, S), got shape (0, 1, 1, 1)"),
    (lambda: Term(W * 1.0, INT8, times(1.0)), "weight_q must hold integers of at most 64 bits, got dtype float64"),
    (lambda: Term(-8 * W, IntFormat(4, narrow=True), times(1.0)),
     "weight_q must hold codes of int4 narrow (-7..7), got -8..-8"),
    (lambda: Term(W, INT8, times(np.ones(3))), "multiplier must be a scalar or have shape (2,), got (3,)"),
    (lambda: Term(W, INT8, times(1.0), np.ones(3, int)), "bias_q must have shape (2,), got (3,)"),
    (lambda: Term(W, INT8, times(1.0), np.ones(2)),
     "bias_q must hold integers of at most 64 bits, got dtype float64"),
    (lambda: Term(W, INT8, times(1.0), None, np.zeros(256)),
     "lookup_table must hold integers of at most 64 bits, got dtype float64"),
    (lambda: conv(), "layer 'y' must have at least one term, got none"),
    (lambda: QuantParams(1.0, INT8, 128), "zero_point must be a code of int8 (-128..127), got 128"),
    (lambda: QuantParams(0.0, INT8), "scale must be finite and > 0, got 0.0"),
    (lambda: QuantParams(float("inf"), INT8), "scale must be finite and > 0, got inf"),
    (lambda: program(conv(term([[1]], lookup_table=np.zeros(255, int)))),
     "layer 'y': a lookup table must have one entry per code of int8, got 255"),
    (lambda: program(conv(term([[1]], lookup_table=np.ones(256, int)))),
     "layer 'y': a lookup table must map the zero point to 0, as padding needs"),
    (lambda: dataclasses.replace(NETWORK, dialect="nearest"),
     "dialect must be a name, such as single_round, or 4 to 6 words, such as m31,wrap,half_up,half_away "
     "(see refquant dialects), got 'nearest'"),
])
def test_parts_that_do_not_fit_each_other_are_refused(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_a_plane_that_is_not_one_table_is_refused():
    with pytest.raises(ValueError, match=r"lookup_table must .*shape \(256, 2\)"):
        program(conv(term([[1]], lookup_table=np.zeros((256, 2), int))))


def test_a_zero_point_that_is_no_integer_is_refused():
    with pytest.raises(ValueError, match="zero_point must be"):
        QuantParams(1.0, INT8, 0.5)


def test_a_layer_that_reads_an_unknown_tensor_is_refused_by_name():
    layers = (QuantizedFlatten("y", ("nowhere",), "y"),)
    known = dict.fromkeys(("x", "y"), QuantParams(1.0, INT8))
    with pytest.raises(ValueError, match=r"layer 'y'.*nowhere"):
        QuantizedNetwork("x", "y", (1,), layers, known)


@pytest.mark.parametrize("layers", [
    [QuantizedAdd("y", ("x",), "y", -8, 7, (times(1.0), times(1.0)))],
    [QuantizedConcat("y", ("x", "x"), "y", -8, 7, (times(1.0),))],
    [QuantizedMaxPool("y", ("x",), "y", (1, 1))],
    [QuantizedFlatten("y", ("x",), "y")],
    [QuantizedClip("y", ("x",), "y", -8, 7)],
    [conv(term([[1]]), low=-8, high=7), conv(term([[2]]), low=-8, high=7)],
], ids=["a multiplier too many", "a multiplier too few", "max pool into another encoding",
        "flatten into another encoding", "clip into another encoding", "a tensor written twice"])
def test_layers_that_contradict_themselves_are_refused_by_name(layers):
    """Otherwise an operand is dropped, or codes stand in a tensor whose format does not hold them."""
    with pytest.raises(ValueError, match="'y'"):
        program(*layers, y=QuantParams(1.0, IntFormat(4)))


def test_a_batchnorm_is_refused_by_assemble_with_what_removes_it():
    ones = np.ones(1)
    net = graph.Network((1,), [graph.BatchNorm("n", "input", ones, ones, ones, ones)])
    message = "node 'n': BatchNorm has no integer form; fold_batchnorm removes it"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        assemble(net, dict.fromkeys(("input", "n"), QuantParams(1.0, INT8)), {})


@pytest.mark.parametrize("code", [-2**31 - 1, -2**31, 2**31 - 1, 2**31])
def test_a_bias_code_is_refused_exactly_beyond_int32(code):
    net = graph.Network((1,), [graph.Linear("l", "input", np.zeros((1, 1)), np.array([float(code)]))])
    weight = QuantizedWeight(np.array([[0]], np.int8), np.float64(1.0), INT8)
    qparams = {"input": QuantParams(1.0, INT8), "l": QuantParams(1.0, INT8)}
    if -2**31 <= code < 2**31:
        layer, = assemble(net, qparams, {"l": weight}).layers
        assert layer.terms[0].bias_q.tolist() == [code]
    else:
        with pytest.raises(ValueError, match=r"^layer 'l': the bias code of channel 0 is -?2\.147e\+09, which"):
            assemble(net, qparams, {"l": weight})


def test_the_parameters_of_a_network_are_copied_and_read_only():
    weight, bias = np.ones((1, 1, 1, 1), int), np.zeros(1, int)
    part = Term(weight, INT8, times(1.0), bias)
    weight[:], bias[:] = 9, 9
    assert (part.weight_q.item(), part.bias_q.item()) == (1, 0)
    with pytest.raises(ValueError, match="read-only"):
        part.weight_q[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        part.multiplier.m[...] = 0


# --- shifts per channel -----------------------------------------------------------------------------------------


def shifted_conv(k, shift_bits=4, multiplier=None):
    multiplier = multiplier or Multiplier.from_real(0.5).shifted_right([0, 2, 5])
    term = Term(np.ones((3, 1, 1, 1), np.int8), IntFormat(8), multiplier)
    return QuantizedConv("c", ("input",), "c", -128, 127, (term,), channel_shifts=k, shift_bits=shift_bits)


def test_channel_shifts_that_fit_the_multiplier_are_stored_in_their_bits():
    assert shifted_conv((0, 2, 5)).weight_bits == 3 * 8 + 3 * 4
    assert shifted_conv((0, 2, 5), 3).weight_bits == 3 * 8 + 3 * 3


@pytest.mark.parametrize(("make", "message"), [
    (lambda: shifted_conv((0, 2, 5), 2), "channel_shifts must be from 0 to 3, got 0..5"),
    (lambda: shifted_conv((-1, 2, 5)), "channel_shifts must be from 0 to 15, got -1..5"),
    (lambda: shifted_conv((0, 2, 5), 6), "shift_bits must be an integer from 0 to 5, got 6"),
    (lambda: shifted_conv((0.0, 2, 5)), "channel_shifts must hold integers of at most 64 bits, got dtype float64"),
    (lambda: shifted_conv((0, 2, 4)), "with channel_shifts all channels must have one m and one shift + k, got "
                                      "[1073741824, 1073741824, 1073741824] and [0, 0, -1]"),
    (lambda: shifted_conv((0, 0, 0), 4, Multiplier.from_real([0.5, 0.6, 0.7])),
     "with channel_shifts all channels must have one m and one shift + k, got [1073741824, 1288490189, 1503238554] "
     "and [0, 0, 0]"),
    (lambda: shifted_conv((0, 2)), "with channel_shifts all channels must have one m and one shift + k, got "
                                   "3 channels for 2 shifts"),
])
def test_channel_shifts_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^layer 'c': {re.escape(message)}$"):
        make()
