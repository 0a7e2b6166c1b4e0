"""Nodes that move values, functions of values, products and maxima: in floats, in integers, simulated, stored."""
from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quantized_networks import input_codes, quantized_networks

from refquant import Network, quantize_network
from refquant.integers.formats import IntFormat
from refquant.integers.rounding import round_fraction
from refquant.network.float_forward import run_float
from refquant.network.graph import Add, Clip, Concat, Conv
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.moves import Pad, Repeat, Reshape, Slice, Spread, Transpose
from refquant.network.pointwise import Largest, Mul, Pointwise, X, compose, exact_value
from refquant.network.pointwise_layers import QuantizedMul, QuantizedTable, table_of
from refquant.network.qparams import PiecewiseParams, QuantParams
from refquant.network.simulated_forward import run_simulated_tensors
from refquant.network.storage import load_quantized, quantized_to_bytes
from refquant.node_strategies import expressions


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("moves") / "network.npz"


@given(quantized_networks(every=True), st.data())
def test_integers_simulation_and_the_stored_network_give_the_same_code_in_every_tensor(path, network, data):
    content = quantized_to_bytes(network)
    path.write_bytes(content)
    again = load_quantized(path)
    assert quantized_to_bytes(again) == content and again.stages == network.stages
    x_q = data.draw(input_codes(network, 2))
    tensors, stored = run_integer_tensors(network, x_q), run_integer_tensors(again, x_q)
    simulated = run_simulated_tensors(network, x_q)
    assert tensors.keys() == simulated.keys() == stored.keys()
    for name, y_q in tensors.items():
        fmt = network.qparams[name].format
        assert np.array_equal(y_q, simulated[name]) and np.array_equal(y_q, stored[name]), name
        assert y_q.dtype == stored[name].dtype == fmt.dtype, name
        assert fmt.min <= y_q.min() and y_q.max() <= fmt.max, name


def test_every_kind_of_node_runs_in_integers_and_comes_back_when_stored(path):
    shape = (2, 3, 4)
    nodes = [Transpose("t", "input", (1, 2, 0)), Transpose("back", "t", (2, 0, 1)),
             Slice("slice", "back", (1, 2, 3), (-1, 3, 0), (-1, 1, -1)), Pad("pad", "slice", (0, 1, 0), (0, 1, 1)),
             Repeat("repeat", "pad", (1, 1, 2)), Spread("spread", "repeat", (1, 2, 1)),
             Reshape("reshape", "spread", (2, 5 * 8)), Pointwise("silu", "reshape", ("mul", X, ("sigmoid", X))),
             Pointwise("prelu", "silu", ("leaky", (0.5, 0.25), X)), Mul("mul", ("silu", "prelu")),
             Largest("least", ("mul", "prelu"), True), Concat("concat", ("least", "mul"), 1)]
    network = Network(shape, nodes, "concat", others=("prelu",))
    images = np.random.default_rng(0).standard_normal((3, *shape))
    quantized = quantize_network(network, images)
    path.write_bytes(quantized_to_bytes(quantized))
    again = load_quantized(path)
    assert again.outputs == ("concat", "prelu") and np.array_equal(again.run(images), quantized.run(images))
    assert np.array_equal(again.simulate(images), quantized.run(images))


# --- tables -------------------------------------------------------------------------------------------------------

# To 40 digits, from published tables of constants.
PUBLISHED = {("exp", X): "2.7182818284590452353602874713526624977572",
             ("sqrt", ("affine", 1.0, 1.0, X)): "1.4142135623730950488016887242096980785697",
             ("sigmoid", X): "0.7310585786300048792511592418218362743651",
             ("tanh", X): "0.7615941559557648881194582826047935904128",
             ("erf", X): "0.8427007929497148693412206350826092592961",
             ("softplus", X): "1.3132616875182228340489954949678556419153",
             ("elu", 1.0, ("affine", -1.0, 0.0, X)): "-0.6321205588285576784044762298385391325542"}


@pytest.mark.parametrize("expression", PUBLISHED, ids=str)
def test_functions_of_1_are_the_published_constants(expression):
    assert abs(exact_value(expression, Fraction(1)) - Fraction(PUBLISHED[expression])) < Fraction(1, 10**39)


@given(expressions(2), st.integers(-(2**20), 2**20))
def test_floats_agree_with_decimals(expression, n):
    x = np.array([[n / 2**16] * 2])
    with np.errstate(all="ignore"):
        y = run_float(Network((2,), [Pointwise("y", "input", expression)]), x)[0]
    for channel in (0, 1):
        exact = exact_value(expression, Fraction(n, 2**16), channel)
        assert abs(Fraction(float(y[channel])) - exact) <= Fraction(1, 10**13) * max(1, abs(exact))


@given(expressions(2), st.integers(3, 6), st.booleans(), st.integers(1, 400), st.integers(1, 400),
       st.integers(-4, 3))
def test_a_table_is_the_rounded_function_of_every_code(expression, bits, signed, s_x, s_y, zero):
    read = QuantParams(s_x / 16, IntFormat(bits, signed=signed), zero if signed else max(0, zero))
    written = QuantParams(s_y / 16, IntFormat(8), 5)
    table = np.atleast_2d(table_of(expression, read, written))
    for channel, row in enumerate(table):
        for code, got in zip(range(read.format.min, read.format.max + 1), row):
            exact = exact_value(expression, (code - read.zero_point) / Fraction(read.scale), channel)
            want = round_fraction(exact * Fraction(written.scale), "half_away") + 5
            assert got == min(max(want, -128), 127)


def test_a_value_beside_a_tie_is_decided_in_decimals():
    # 0.7 in float64 is a little less than 7/10: five times that is less than 3.5, but float64 says 3.5.
    one = QuantParams(1.0, IntFormat(8))
    assert 0.7 * 5 == 3.5 and Fraction(0.7) * 5 < Fraction(7, 2)
    assert table_of(("affine", 0.7, 0.0, X), one, one)[5 + 128] == 3


def test_piecewise_codes_are_read_and_written():
    params = PiecewiseParams(100.0, 4, True, 40, 160)
    table = table_of(("leaky", 0.5, X), params, params)
    for code, got in zip(range(params.format.min, params.format.max + 1), table):
        real = int(params.integers(np.array([code]))[0])
        wide = round_fraction(Fraction(real if real > 0 else real / 2), "half_away")
        assert got == params.encode(np.array([wide]))[0]


def test_a_table_has_the_zero_point_where_its_function_is_not_defined():
    one = QuantParams(1.0, IntFormat(8), 3)
    assert table_of(("sqrt", X), one, one)[:131].tolist() == [3] * 131  # up to real -1


def test_expressions_are_put_into_one_another():
    assert compose(("mul", X, ("sigmoid", X)), ("tanh", X)) == ("mul", ("tanh", X), ("sigmoid", ("tanh", X)))
    assert compose(("leaky", (0.5, 1.0), X), ("abs", X)) == ("leaky", (0.5, 1.0), ("abs", X))


def test_a_clip_behind_a_function_goes_into_its_table():
    network = Network((1, 2, 2), [Pointwise("exp", "input", ("exp", X)), Clip("clip", "exp", 0.0, 1.5)])
    x = np.linspace(-1, 1, 4).reshape(1, 1, 2, 2)
    (layer,) = quantize_network(network, x).layers
    assert isinstance(layer, QuantizedTable) and layer.output == "clip"
    assert layer.table.max() == 255


# --- by hand ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("move", "rows", "columns", "expected"), [
    (Reshape("y", "x", (2, 6)), 3, 4, [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]),
    (Transpose("y", "x", (1, 0)), 3, 4, [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]),
    (Slice("y", "x", (2, 0), (-1, 4), (-2, 3)), 3, 4, [[8, 11], [0, 3]]),
    (Pad("y", "x", (0, 1), (1, 0)), 1, 4, [[9, 0, 1, 2, 3], [9] * 5]),
    (Repeat("y", "x", (1, 2)), 1, 4, [[0, 0, 1, 1, 2, 2, 3, 3]]),
    (Spread("y", "x", (2, 2)), 2, 2, [[0, 9, 1], [9, 9, 9], [4, 9, 5]])])
def test_moves_by_hand(move, rows, columns, expected):
    x = np.arange(12).reshape(1, 3, 4)[:, :rows, :columns]
    assert move.move(x, 9)[0].tolist() == expected


def test_zeros_that_come_in_are_the_zero_point():
    network = Network((1, 1, 2), [Pad("y", "input", (0, 0, 1), (0, 0, 0))])
    quantized = quantize_network(network, np.array([[[[1.0, 3.0]]]]), activations="affine")
    codes = run_integer_tensors(quantized, np.array([[[[5, 100]]]]))["y"]
    assert codes[0, 0, 0].tolist() == [quantized.qparams["input"].zero_point, 5, 100]


def test_a_product_by_hand():
    network = Network((1, 1, 1), [Clip("one", "input", -1.0, 1.0), Mul("y", ("input", "one"))])
    quantized = quantize_network(network, np.array([2.0, -0.5, 1.0]).reshape(3, 1, 1, 1), activations="signed")
    layer = quantized.layers[-1]
    assert isinstance(layer, QuantizedMul) and [s.stage for s in quantized.stages] == ["product"]
    a, b = (Fraction(quantized.qparams[name].scale) for name in layer.inputs)
    codes = run_integer_tensors(quantized, np.array([[[[-32]]]]))
    exact = Fraction(int(codes["input"].item()) * int(codes["one"].item())) / a / b
    assert codes["y"].item() == round_fraction(exact * Fraction(quantized.qparams["y"].scale), "half_up")


def test_axes_of_one_element_are_repeated():
    nodes = [Conv("gate", "input", np.ones((2, 2, 3, 3))), Mul("y", ("input", "gate")), Add("z", ("gate", "y"))]
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 3))
    network = Network((2, 3, 3), nodes)
    gate = x.sum(axis=(1, 2, 3)).reshape(2, 1, 1, 1)
    assert np.allclose(run_float(network, x), x * gate + gate)
    quantized = quantize_network(network, x)
    assert np.array_equal(quantized.run(x), quantized.simulate(x))


def beside_a_turned_input(node):
    return Network((2, 3), [Reshape("turned", "input", (3, 2)), node])


@pytest.mark.parametrize("build, sentence", [
    *[(lambda node=node: beside_a_turned_input(node), f"node 'y': {sentence}") for node, sentence in (
        (Reshape("y", "input", (5,)), r"shape must have the 6 elements of \(2, 3\), got \(5,\)"),
        (Transpose("y", "input", (0, 0)), r"axes must be those of shape \(2, 3\) in some order, got \(0, 0\)"),
        (Slice("y", "input", (0, 0), (2, 4), (1, 1)), r"a slice must hold places of shape \(2, 3\), got .*"),
        (Slice("y", "input", (0,), (2,), (1,)),
         r"starts, stops and steps must be one for each axis of \(2, 3\), .*"),
        (Pad("y", "input", (0, -1), (0, 0)),
         r"padding must be 0 or more, before and after each axis of \(2, 3\), .*"),
        (Repeat("y", "input", (0, 1)), r"factors must be 1 or more, one for each axis of \(2, 3\), got \(0, 1\)"),
        (Spread("y", "input", (1,)), r"factors must be 1 or more, one for each axis of \(2, 3\), got \(1,\)"),
        (Pointwise("y", "input", ("leaky", (1.0, 2.0, 3.0), X)), "numbers per channel must be 2, got 3"),
        (Mul("y", ("input", "turned")), r".*shapes must broadcast \(equal sizes, or 1, on each axis\), got .*"))],
    (lambda: Pointwise("y", "input", ("sine", X)), "a function must be one of mul, .*, got 'sine'"),
    (lambda: Pointwise("y", "input", ("affine", float("inf"), 0.0, X)),
     r"an expression holds finite numbers, got \(inf,\)"),
    (lambda: table_of(X, QuantParams(1.0, IntFormat(13)), QuantParams(1.0, IntFormat(8))),
     "a function of codes needs a table of at most 12 bits, got int13")])
def test_what_does_not_fit_is_refused(build, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        build()
