"""DFQ's two corrections: the function stays, ranges meet, means agree."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refquant import quantize_network, run_float
from refquant.convolution.geometry import Geometry
from refquant.network import forward
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float_tensors
from refquant.network.graph import Add, AveragePool, Clip, Conv, Flatten, GlobalAveragePool, Linear, MaxPool, Network
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.program import QuantizedConv
from refquant.recipes.corrections import correct_output_mean, cross_layer_equalize, layer_pairs
from refquant.strategies import images, networks

RNG = np.random.default_rng(11)


def conv(name, source, outputs, channels, kernel=3, groups=1, spread=4.0):
    weight = RNG.normal(size=(outputs, channels // groups, kernel, kernel))
    weight *= 10.0 ** RNG.uniform(-spread, 0, outputs)[:, None, None, None]
    return Conv(name, source, weight, RNG.normal(size=outputs) * np.abs(weight).max(axis=(1, 2, 3)),
                Geometry.of(padding=kernel // 2, groups=groups))


CHAIN = Network((3, 8, 8), [
    conv("a", "input", 6, 3), Clip("relu_a", "a"), conv("b", "relu_a", 6, 6, groups=6), Clip("relu_b", "b"),
    MaxPool("pool", "relu_b", (2, 2), Geometry.of(2)), replace(conv("c", "pool", 4, 6, 1, groups=2), bias=None),
    Clip("relu_c", "c"), AveragePool("mean", "relu_c", (2, 2), Geometry.of(2)), Flatten("flat", "mean"),
    Linear("logits", "flat", RNG.normal(size=(5, 16)), RNG.normal(size=5))])
BATCH = RNG.normal(size=(40, 3, 8, 8))


def test_equalized_pairs_have_one_range_per_channel_and_the_function_stays():
    assert layer_pairs(CHAIN) == ((("a", "b"), ("b", "c"), ("c", "logits")), {})
    equalized = cross_layer_equalize(CHAIN)
    nodes = {node.name: node for node in equalized.nodes}
    for first, second in layer_pairs(CHAIN).pairs:
        rows, w = nodes[first].weight, nodes[second].weight
        groups = nodes[second].geometry.groups if isinstance(nodes[second], Conv) else 1
        columns = np.concatenate([np.moveaxis(part, 1, 0) for part in np.split(w, groups)])
        reach = [np.abs(part).max() for part in np.split(columns, len(rows))]  # flattened: several columns a channel
        assert reach == pytest.approx([np.abs(row).max() for row in rows], rel=3e-3)  # 0.1 % is converged
    assert run_float(equalized, BATCH) == pytest.approx(run_float(CHAIN, BATCH), rel=1e-9, abs=1e-12)
    assert np.array_equal(nodes["logits"].bias, CHAIN.nodes[-1].bias)


def test_one_pair_is_scaled_as_the_paper_says():
    """r1 = 8, r2 = 2: s = sqrt(16)/2 = 2. A channel without weights on one side stays as it is."""
    first = np.array([[8.0], [3.0], [0.0], [2.0**-30]]).reshape(4, 1, 1, 1)
    second = np.array([[2.0, 0.0, 5.0, 5.0]]).reshape(1, 4, 1, 1)
    net = Network((1, 2, 2), [Conv("a", "input", first, np.array([1.0, 2.0, 3.0, 4.0])), Conv("b", "a", second)])
    a, b = cross_layer_equalize(net).nodes
    assert a.weight.ravel().tolist() == [4.0, 3.0, 0.0, 2.0**-30] and a.bias.tolist() == [0.5, 2.0, 3.0, 4.0]
    assert b.weight.ravel().tolist() == [4.0, 0.0, 5.0, 5.0] and b.bias is None


def test_layers_without_a_partner_are_counted_and_left_alone():
    six = Network((2, 4, 4), [
        conv("a", "input", 2, 2), Clip("relu6", "a", 0.0, 6.0), conv("b", "relu6", 2, 2), Add("sum", ("b", "relu6")),
        conv("c", "sum", 2, 2), Clip("r", "c"), conv("d", "r", 2, 2), conv("e", "r", 2, 2), Add("all", ("d", "e")),
        GlobalAveragePool("mean", "all")])
    assert layer_pairs(six) == ((), {"clip to 0.0..6.0": 1, "Add": 3, "several readers": 1})
    equalized = cross_layer_equalize(six)
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(six.nodes, equalized.nodes) if isinstance(a, Conv))


@given(st.data())
def test_an_equalized_network_computes_what_it_did(data):
    network = fold_batchnorm(data.draw(networks(dtype=np.float64)))
    batch = data.draw(images(network, 2))
    before = run_float(network, batch)
    assume(np.abs(before).max(initial=0) > 1e-6)
    assert run_float(cross_layer_equalize(network), batch) == pytest.approx(before, rel=1e-6, abs=1e-9)


def mean_errors(quantized, network, batch):
    """Of each layer: E[Ŷ - Y] per channel, and one code of the layer's sums, in units of its float outputs."""
    sums = {}
    run_integer_tensors(quantized, quantized.quantize_images(batch),
                        lambda layer, stage, values: sums.setdefault(layer, values))
    floats = run_float_tensors(network, batch)
    for layer in quantized.layers:
        if isinstance(layer, QuantizedConv):
            unit = layer.terms[0].multiplier.real / quantized.qparams[layer.output].scale
            axes = (0, *range(2, sums[layer.name].ndim))
            mean = sums[layer.name].mean(axis=axes)
            wanted = floats[layer.name].mean(axis=(0, *range(2, floats[layer.name].ndim)))
            yield layer, mean * unit - wanted, np.broadcast_to(unit, mean.shape)


@pytest.mark.parametrize(("recipe", "dialect"), [
    ("max-int8", "shift_floor"), ("channelwise-int8", "single_round"), ("wes-int8", "shift_floor"),
    ("easyquant-int8", "single_round")])
def test_corrected_means_are_off_by_half_a_code_of_the_bias(recipe, dialect, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(forward, "SLICE_ELEMENTS", 3000)  # the means are of images in slices
        quantized = quantize_network(CHAIN, BATCH, recipe, weight_bits=5, dialect=dialect, correct_output_mean=True)
    plain = quantize_network(CHAIN, BATCH, recipe, weight_bits=5, dialect=dialect, correct_output_mean=False)
    for _, error, unit in mean_errors(quantized, CHAIN, BATCH):
        assert (np.abs(error) <= unit * 0.5000001).all()
    assert any((np.abs(error) > 2 * unit).any() for _, error, unit in mean_errors(plain, CHAIN, BATCH))
    for before, after in zip(plain.layers, quantized.layers):
        if isinstance(before, QuantizedConv):
            assert np.array_equal(before.terms[0].weight_q, after.terms[0].weight_q)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_bias_that_fills_the_accumulator_is_not_corrected_beyond_it(sign):
    """Weights of 1e-10 and a bias of ±1: the layer's scale is the largest whose sums fit int32, with nothing left."""
    weight = np.full((1, 1, 1, 1), 1e-10)
    net = Network((1, 1, 1), [Conv("c", "input", weight, np.array([float(sign)]))])
    x = np.linspace(0, 1, 11).reshape(-1, 1, 1, 1)
    plain = quantize_network(net, x, "channelwise-int8")
    wanted = Network((1, 1, 1), [Conv("c", "input", weight, np.array([2.0 * sign]))])
    corrected = correct_output_mean(plain, wanted, x)
    assert abs(int(corrected.layers[0].terms[0].bias_q[0])) >= abs(int(plain.layers[0].terms[0].bias_q[0]))
    assert corrected.stages[0].max <= 2**31 - 1 and corrected.stages[0].min >= -2**31
