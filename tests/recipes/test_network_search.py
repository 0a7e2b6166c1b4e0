"""What EasyQuant sees of a network, against plain arithmetic; and what the recipes do with the scales it finds."""

import numpy as np
import pytest
from convolution_oracle import convolved
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant import quantize_network
from refquant.convolution.geometry import Geometry
from refquant.easyquant import search_paper
from refquant.integers.formats import IntFormat
from refquant.network import forward
from refquant.network.graph import Add, Clip, Conv, Flatten, Linear, MaxPool, Network
from refquant.network.program import QuantizedConv
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import QuantParams
from refquant.recipes import network_search
from refquant.recipes.lowering import QuantizedWeight
from refquant.recipes.settings import settings as recipe_settings
from refquant.recipes.walk import Walk, visiting_order
from refquant.recipes.weights import quantize_weight
from refquant.scales.linear import max_scale

RNG = np.random.default_rng(7)
PADDED = Geometry.of(1, 1)
FIRST = Conv("first", "input", RNG.normal(size=(4, 2, 3, 3)).astype(np.float32), RNG.normal(size=4), PADDED)
SECOND = Conv("second", "relu", RNG.normal(size=(4, 4, 3, 3)).astype(np.float32), RNG.normal(size=4), PADDED)
THIRD = Conv("third", "pool", RNG.normal(size=(3, 4, 3, 3)).astype(np.float32), 1e6 * np.ones(3))
FLAT = Linear("logits", "flat", RNG.normal(size=(5, 3)).astype(np.float32), RNG.normal(size=5))
NETWORK = Network((2, 6, 6), (
    FIRST, Clip("relu", "first"), SECOND, Add("add", ("second", "relu")), Clip("six", "add", 0.0, 6.0),
    MaxPool("pool", "six", (2, 2), Geometry.of(2)), THIRD, Flatten("flat", "third"), FLAT))
IMAGES = RNG.normal(size=(60, 2, 6, 6)).astype(np.float32)
NARROW = IntFormat(5, narrow=True)
FIVE = recipe_settings("channelwise-int8", weight_bits=5)
SCALES = {"input": 5.3, "relu": 2.1, "second": 0.9, "six": 2.5, "third": 1.0, "flat": 1.0, "logits": 1.0}
ENCODINGS = {name: QuantParams(scale, NARROW) for name, scale in SCALES.items()}
WEIGHTS = {node.name: quantize_weight(node, max_scale(node.weight, NARROW, 0), None, FIVE, ENCODINGS["input"])
           for node in (FIRST, SECOND)}


def rounded(x: np.ndarray, scale: float) -> np.ndarray:
    """To codes and back, in plain float64."""
    return np.clip(np.sign(x) * np.floor(np.abs(x) * scale + 0.5), -15, 15) / scale


def plain_conv(x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return convolved(x, w, Geometry(padding=(1, 1, 1, 1))) + bias[:, None, None]


def decoded(weight: QuantizedWeight) -> np.ndarray:
    return weight.codes / weight.scale[:, None, None, None]


def pooled(x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[:2], 3, 2, 3, 2).max(axis=(3, 5))


def walk_to(node: Conv | Linear, images: np.ndarray, layer_inputs: str = "quantized", weights=WEIGHTS) -> Walk:
    """The walk as it stands before ``node``, every tensor on the way settled at its scale of ENCODINGS."""
    walk = Walk(NETWORK, images, ENCODINGS, layer_inputs)
    for group in visiting_order(NETWORK):
        if group[0] is node:
            return walk
        if isinstance(group[0], (Conv, Linear)):
            source = walk.sources[group[0].inputs[0]]
            walk.settle(source, SCALES[source])
        walk.visit(group, weights)
    raise AssertionError(node)


def slice_images(patch: pytest.MonkeyPatch, images: int) -> None:
    """So many images of NETWORK's largest step together."""
    patch.setattr(forward, "SLICE_ELEMENTS", images * 3 * 4 * 6 * 6)


@pytest.mark.parametrize("size", [7, 60])
def test_a_quantized_prefix_rounds_every_tensor_but_the_one_that_is_searched(size, monkeypatch):
    slice_images(monkeypatch, size)
    x = rounded(IMAGES.astype(np.float64), SCALES["input"])
    relu = rounded(np.maximum(plain_conv(x, decoded(WEIGHTS["first"]), FIRST.bias), 0), SCALES["relu"])
    second = rounded(plain_conv(relu, decoded(WEIGHTS["second"]), SECOND.bias), SCALES["second"])
    wanted = pooled(np.clip(second + relu, 0, 6))  # not rounded: ``six``, which the pool carries on, is searched
    found = np.concatenate([x for x, _ in walk_to(THIRD, IMAGES).pairs(THIRD)])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer_inputs", ["quantized", "float"])
def test_the_outputs_to_resemble_are_the_float_networks_without_bias(layer_inputs):
    """However large the bias: it is never added."""
    x = np.maximum(plain_conv(IMAGES, FIRST.weight, FIRST.bias), 0)
    x = pooled(np.clip(plain_conv(x, SECOND.weight, SECOND.bias) + x, 0, 6))
    wanted = np.tensordot(x, THIRD.weight, ((1, 2, 3), (1, 2, 3)))[:, :, None, None]
    batches = list(walk_to(THIRD, IMAGES, layer_inputs).layer(THIRD))
    np.testing.assert_allclose(np.concatenate([o for _, o in batches]), wanted, rtol=0, atol=1e-3)
    if layer_inputs == "float":
        np.testing.assert_allclose(np.concatenate([x for x, _ in batches]), x, rtol=0, atol=1e-4)


def test_a_linear_layer_sees_planes_of_one_element():
    (x, o), = walk_to(FLAT, IMAGES, "float").layer(FLAT)
    assert (x.shape, o.shape) == ((60, 3, 1, 1), (60, 5, 1, 1))


def test_a_walk_carries_what_is_still_to_be_read_and_settled_tensors_as_codes_of_one_byte():
    walk = Walk(NETWORK, IMAGES, ENCODINGS)
    kinds = []
    for group in visiting_order(NETWORK):
        if isinstance(group[0], (Conv, Linear)):
            walk.settle(walk.sources[group[0].inputs[0]], 1.0)
        walk.visit(group, {})
        kinds.append({name: x.dtype.name for name, x in walk.carried()})
    assert kinds == [{"relu": "float64"}, {"relu": "int8", "second": "int8"}, {"pool": "float64"},
                     {"flat": "float64"}, {}]


def shortcut(order: str) -> Network:
    """An Add reads the input and what two convolutions make of it; one more convolution reads ``a``."""
    nodes = {"a": Conv("a", "input", FIRST.weight[:2], None, PADDED), "b": Conv("b", "a", SECOND.weight[:2, :2], None,
             PADDED), "c": Add("c", ("a", "input")), "d": Add("d", ("b", "c"))}
    return Network((2, 6, 6), tuple(nodes[name] for name in order), "d")


def test_an_add_sees_operands_at_the_scales_that_their_convolutions_settled():
    """In whatever order a file lists them: c = a + input stands before b, whose search settles a."""
    early, late = shortcut("acbd"), shortcut("abcd")
    assert [[node.name for node in group] for group in visiting_order(early)] == [["a"], ["b"], ["c"], ["d"]]
    seen = {}

    class Seen(Walk):
        def visit(self, group, weights):
            if group[0].name == "c":
                seen.update({name: x for name, x in self.carried() if name in "a input"})
                assert seen["a"].dtype == seen["input"].dtype == np.int8
                seen["scales"] = self.qparams["a"].scale, self.qparams["input"].scale
            super().visit(group, weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_search, "Walk", Seen)
        one = quantize_network(early, IMAGES, "easyquant-int8", weight_bits=4, activation_bits=4)
    assert seen["scales"] == (one.qparams["a"].scale, one.qparams["input"].scale)
    assert_same(one, quantize_network(late, IMAGES, "easyquant-int8", weight_bits=4, activation_bits=4))


def assert_same(one: QuantizedNetwork, other: QuantizedNetwork) -> None:
    assert one.qparams == other.qparams
    terms = [{layer.name: layer.terms[0].weight_q.tolist() for layer in network.layers
              if isinstance(layer, QuantizedConv)} for network in (one, other)]
    assert terms[0] == terms[1]


@given(st.integers(1, 60))
@settings(max_examples=5)
def test_the_scales_do_not_depend_on_the_slices(size):
    whole = quantize_network(NETWORK, IMAGES, "easyquant-int8", weight_bits=4, activation_bits=4)
    with pytest.MonkeyPatch.context() as patch:
        slice_images(patch, size)
        assert_same(whole, quantize_network(NETWORK, IMAGES, "easyquant-int8", weight_bits=4, activation_bits=4))


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_the_first_layer_gets_the_scales_of_its_own_search(granularity):
    quantized = quantize_network(NETWORK, IMAGES, "easyquant-int8", weight_bits=5, activation_bits=5,
                                 granularity=granularity)
    found = search_paper(IMAGES, FIRST.weight, bits=5, granularity=granularity, padding=1)
    assert quantized.qparams["input"].scale == found.activation_scale
    codes = np.sign(FIRST.weight) * np.floor(
        np.abs(FIRST.weight.astype(np.float64)) * found.weight_scale.reshape(-1, 1, 1, 1) + 0.5)
    assert np.array_equal(quantized.layers[0].terms[0].weight_q, np.clip(codes, -15, 15))


def test_a_tensor_read_twice_keeps_the_scale_of_its_first_reader():
    side = Conv("side", "input", RNG.normal(size=(4, 2, 3, 3)).astype(np.float32), None, PADDED)
    network = Network((2, 6, 6), (FIRST, side, Add("sum", ("first", "side"))))
    quantized = quantize_network(network, IMAGES, "easyquant-int8", weight_bits=4, activation_bits=4)
    alone = search_paper(IMAGES, FIRST.weight, bits=4, granularity="channel", padding=1)
    assert quantized.qparams["input"].scale == alone.activation_scale
    kept = search_paper(IMAGES, side.weight, bits=4, granularity="channel", padding=1, keep_activation=True,
                        initial=[(max_scale(side.weight, IntFormat(4, narrow=True), 0), alone.activation_scale)])
    assert kept.activation_scale == alone.activation_scale
    codes = np.floor(np.abs(side.weight.astype(np.float64)) * kept.weight_scale.reshape(-1, 1, 1, 1) + 0.5)
    assert np.array_equal(np.abs(quantized.layers[1].terms[0].weight_q), np.minimum(codes, 7))
    # Nothing but an Add reads these two.
    for name, node in (("first", FIRST), ("side", side)):
        x = plain_conv(IMAGES, node.weight, np.zeros(4) if node.bias is None else node.bias)
        assert quantized.qparams[name].scale == pytest.approx(7 / np.abs(x).max(), rel=1e-5)


@pytest.mark.parametrize("tail", [
    (), (Flatten("flat", "out"),), (MaxPool("pool", "out", (2, 2)), Flatten("flat", "pool"))])
def test_kl_clips_no_output_of_the_network_even_where_it_is_carried_on(tail):
    out = Conv("out", "relu", RNG.normal(size=(3, 4, 1, 1)).astype(np.float32))
    network = Network((2, 6, 6), (FIRST, Clip("relu", "first"), out, *tail))
    clipped, widest = (quantize_network(network, IMAGES, recipe, activations="signed").qparams
                       for recipe in ("tensorrt-int8", "channelwise-int8"))
    assert clipped["out"].scale == clipped[network.output].scale == widest["out"].scale
    assert clipped["relu"].scale > widest["relu"].scale
