"""Piecewise linear networks: every layer in rationals, integers equal to simulation, and what is refused."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant import quantize_network
from refquant.commands.evaluation import evaluate
from refquant.convolution.direct import convolve_exact
from refquant.convolution.geometry import Geometry
from refquant.network import PiecewiseParams, load_quantized
from refquant.network.costs import layer_costs
from refquant.network.graph import Clip, Conv, Network
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.program import QuantizedConv
from refquant.network.simulated_forward import run_simulated_tensors
from refquant.network.storage import quantized_to_bytes
from refquant.strategies import images, networks

RECIPES = ("pwlq-w4a8", "pwlq-w4a4")
PADDED = Geometry(padding=(1, 1, 1, 1))
SEVERAL = ("single_round", "shift_floor", "exact_half_even", "zero_point_first")


@st.composite
def params(draw: st.DrawFn) -> PiecewiseParams:
    bits, signed = draw(st.integers(2, 6)), draw(st.booleans())
    most = 32767 // (2 ** (bits - signed) - 1)
    centre = draw(st.integers(1, most - 1))
    return PiecewiseParams(64.0, bits, signed, centre, draw(st.integers(1, most - centre)))


@given(params(), st.lists(st.integers(-32768, 32767), min_size=1, max_size=20))
def test_encoding_takes_the_nearest_level_of_the_region_and_codes_are_the_sum_of_their_components(qparam, values):
    K, a, c = qparam.largest, qparam.centre_step, qparam.tail_step
    for value, code in zip(values, qparam.encode(np.array(values)).tolist()):
        size = abs(value) if qparam.signed else max(value, 0)
        levels = [k * a for k in range(K + 1)] if size <= K * a else [K * a + k * c for k in range(K + 1)]
        magnitude = abs(code) - (K + 1) * (size > K * a)
        assert 0 <= magnitude <= K and abs(levels[magnitude] - size) == min(abs(level - size) for level in levels)
        assert code == 0 or (code < 0) == (value < 0 and qparam.signed)
        assert int(qparam.integers(np.array([code]))[0]) == (-1 if code < 0 else 1) * levels[magnitude]
    codes = np.arange(qparam.format.min, qparam.format.max + 1)
    levels, (centre, tail, sign) = qparam.integers(codes), qparam.components()
    assert np.array_equal(levels, a * centre + c * tail + K * a * sign)
    assert np.array_equal(qparam.integers(qparam.encode(levels)), levels)
    assert np.array_equal(qparam.quantize(qparam.dequantize(codes)), qparam.encode(levels))


@given(networks(), st.data(), st.sampled_from(RECIPES), st.sampled_from(SEVERAL),
       st.sampled_from(("layer", "channel")), st.booleans(), st.booleans())
def test_integers_and_simulation_give_the_same_codes(network, data, recipe, dialect, granularity, moments, mean):
    batch = data.draw(images(network))
    quantized = quantize_network(network, batch, recipe, dialect=dialect, granularity=granularity,
                                 breakpoints="one_shot", match_moments=moments, correct_output_mean=mean)
    x_q = quantized.quantize_images(batch)
    codes, simulated = run_integer_tensors(quantized, x_q), run_simulated_tensors(quantized, x_q)
    assert codes.keys() == simulated.keys()
    for name in codes:
        assert np.array_equal(codes[name], simulated[name]), name


def decoded(layer: QuantizedConv, qparam, x_q: np.ndarray) -> np.ndarray:
    """Σ P_i·M_i of a layer in rationals, the sums by the plain convolution."""
    exact = np.zeros((), object)
    for term in layer.terms:
        values = x_q.astype(np.int64) if term.lookup_table is None else term.lookup_table[
            x_q.astype(np.int64) - qparam.format.min]
        acc = convolve_exact(values, term.weight_q, **layer.geometry._asdict()).astype(object)
        if term.bias_q is not None:
            acc = acc + term.bias_q.astype(object).reshape(-1, 1, 1)
        M = np.array([Fraction(v) for v in np.broadcast_to(term.multiplier.real, len(term.weight_q))], object)
        exact = exact + acc * M.reshape(-1, 1, 1)
    return exact


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_layers_codes_are_the_rounded_product_of_its_decoded_operands(recipe):
    """ŵ, moments matched, from the float weights; x from the codes; their exact convolution; half to even."""
    rng = np.random.default_rng(3)
    weight, bias = rng.standard_normal((3, 2, 3, 3)), rng.standard_normal(3) / 4
    network = Network((2, 6, 6), [Conv("conv", "input", weight, bias, PADDED), Clip("relu", "conv", 0.0)])
    batch = rng.uniform(-1, 1, (4, 2, 6, 6))
    quantized = quantize_network(network, batch, recipe, dialect="exact_half_even")
    (layer,) = quantized.layers
    x_q, y = quantized.quantize_images(batch), quantized.qparams["relu"]
    read = quantized.qparams["input"]
    assert len(layer.terms) == (12 if recipe == "pwlq-w4a4" else 4)
    wide = np.vectorize(round, otypes=[object])(decoded(layer, read, x_q)).astype(np.int64)
    expected = y.encode(np.clip(wide, 0, y.register.max))
    assert np.array_equal(run_integer_tensors(quantized, x_q)["relu"], expected)
    # And the reals behind them: decoded weights times decoded activations.
    parts = layer.terms[:4]
    units = [M / (y.scale / (read.scale / (read.centre_step if recipe == "pwlq-w4a4" else 1)))
             for M in (term.multiplier.real for term in parts)]
    w = sum(term.weight_q * unit.reshape(-1, 1, 1, 1) for term, unit in zip(parts, units))
    assert w.mean(axis=(1, 2, 3)) == pytest.approx(weight.mean(axis=(1, 2, 3)), abs=1e-9)
    assert w.std(axis=(1, 2, 3)) == pytest.approx(weight.std(axis=(1, 2, 3)), rel=1e-9)
    assert np.abs(w - weight).max() < 0.25 * np.abs(weight).max()


def test_costs_are_counted_by_hand_and_stored_networks_come_back(tmp_path):
    """A 3x3 layer of 2 to 3 channels on 6x6, padded: 36·3 outputs of 18 products; 54 weights of 5 bits."""
    rng = np.random.default_rng(0)
    network = Network((2, 6, 6), [Conv("conv", "input", rng.standard_normal((3, 2, 3, 3)), None, PADDED)])
    batch = rng.uniform(-1, 1, (2, 2, 6, 6))
    for recipe, moments, count, bits, regions in (("pwlq-w4a8", False, 3, 5, 54), ("pwlq-w4a4", False, 9, 5, 54),
                                                  ("pwlq-w4a8", True, 4, 5, 54), ("max-int8", False, 1, 8, 0)):
        quantized = quantize_network(network, batch, recipe, match_moments=moments)
        (tmp_path / "network.npz").write_bytes(quantized_to_bytes(quantized))
        again = load_quantized(tmp_path / "network.npz")
        assert np.array_equal(again.run(batch), quantized.run(batch))
        assert layer_costs(again) == [("conv", 108 * 18, count, 108 * count, 54 * bits, regions)]
        assert again.weight_bytes == -(-54 * bits // 8)


def test_tiny_channels_keep_a_bias_that_fits():
    """A channel of weights near 2^-23 of the layer's, with an ordinary bias: its limit grows until the bias fits."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2, 2, 1, 1)) * np.array([1.0, 2.0**-22]).reshape(2, 1, 1, 1)
    network = Network((2, 3, 3), [Conv("conv", "input", weight, np.array([0.5, 1000.0]))])
    batch = rng.uniform(0, 1, (3, 2, 3, 3))
    for recipe in RECIPES:
        quantized = quantize_network(network, batch, recipe)
        assert quantized.layers[0].rescaled_channels == (1,)
        assert evaluate(quantized, batch, None, network).codes_equal


@pytest.mark.parametrize("arguments, sentence", [
    ((0.0, 4, True, 1, 1), "scale must be finite and > 0"),
    ((1.0, 15, True, 1, 1), "bits must be an integer from 2 to 14, got 15"),
    ((1.0, 4, True, 0, 1), "centre_step must be an integer from 1 to"),
    ((1.0, 4, True, 3000, 3000), "levels must fit int16, got up to 42000"),
])
def test_parameters_that_are_none_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        PiecewiseParams(*arguments)
