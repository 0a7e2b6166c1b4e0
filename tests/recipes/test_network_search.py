"""What EasyQuant sees of a network, against plain arithmetic; and what the recipes do with the scales it finds."""

import numpy as np
import pytest
from convolution_oracle import convolved

from refquant import quantize_network
from refquant.convolution.geometry import Geometry
from refquant.easyquant import search_paper
from refquant.integers.formats import IntFormat
from refquant.network import forward
from refquant.network.graph import Add, Clip, Conv, Flatten, Linear, MaxPool, Network
from refquant.network.program import QuantizedConv
from refquant.recipes.walk import Walk, visiting_order
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
FIVE = {"weight_bits": 5, "activation_bits": 5}


def coded(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """To codes of 5 bits, in plain float64."""
    return np.clip(np.sign(x) * np.floor(np.abs(x) * scale + 0.5), -15, 15)


def pooled(x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[:2], 3, 2, 3, 2).max(axis=(3, 5))


def slice_images(patch: pytest.MonkeyPatch, images: int) -> None:
    """So many images of NETWORK's largest step together."""
    patch.setattr(forward, "SLICE_ELEMENTS", images * 3 * 4 * 6 * 6)


@pytest.mark.parametrize("layer_inputs", ["quantized", "float"])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_each_layer_is_searched_behind_quantized_layers_for_the_float_outputs(granularity, layer_inputs, monkeypatch):
    """In plain arithmetic, one layer after another. However large a bias, it is not in what is compared."""
    slice_images(monkeypatch, 25)
    options = {"granularity": granularity, **FIVE}
    found = quantize_network(NETWORK, IMAGES, "easyquant-int8", layer_inputs=layer_inputs, **options)
    widest = quantize_network(NETWORK, IMAGES, "channelwise-int8", activations="signed", **options).qparams
    layers = {layer.name: layer for layer in found.layers}

    def searched(node, source, real, read):
        """The layer's outputs, float and quantized, and what it read at its scale."""
        geometry = node.geometry if isinstance(node, Conv) else Geometry()
        weight = node.weight.astype(np.float64).reshape(*node.weight.shape[:2], *node.weight.shape[2:] or (1, 1))
        outputs = convolved(real, weight, geometry)
        start = max_scale(weight, IntFormat(5, narrow=True), 0 if granularity == "channel" else None)
        best = search_paper([(real if layer_inputs == "float" else read, outputs)], weight, bits=5,
                            granularity=granularity, initial=[(start, widest[source].scale)], **geometry._asdict())
        assert found.qparams[source].scale == best.activation_scale
        scale = best.weight_scale.reshape(-1, 1, 1, 1)
        assert np.array_equal(layers[node.name].terms[0].weight_q, coded(weight, scale))
        read = coded(read, best.activation_scale) / best.activation_scale
        bias = node.bias[:, None, None]
        return outputs + bias, convolved(read, coded(weight, scale) / scale, geometry) + bias, read

    x = IMAGES.astype(np.float64)
    real, read, _ = searched(FIRST, "input", x, x)
    relu, read = np.maximum(real, 0), np.maximum(read, 0)
    real, second, read = searched(SECOND, "relu", relu, read)
    second = coded(second, widest["second"].scale) / widest["second"].scale  # which no layer reads
    real, read, _ = searched(THIRD, "six", *(pooled(np.clip(y, 0, 6)) for y in (real + relu, second + read)))
    searched(FLAT, "third", real, read)


def test_a_walk_carries_what_is_still_to_be_read_and_settled_tensors_as_codes_of_one_byte():
    walk = Walk(NETWORK, IMAGES, quantize_network(NETWORK, IMAGES, "channelwise-int8").qparams)
    kinds = []
    for group in visiting_order(NETWORK):
        if isinstance(group[0], (Conv, Linear)):
            walk.settle(walk.sources[group[0].inputs[0]], 1.0)
        walk.visit(group, {})
        kinds.append({name: x.dtype.name for name, x in walk.carried()})
    assert kinds == [{"relu": "float64"}, {"relu": "uint8", "second": "int8"}, {"pool": "float64"},
                     {"flat": "float64"}, {}]


def test_an_add_comes_after_the_convolutions_that_settle_its_operands_however_a_file_lists_them():
    """c = a + input may stand before b, whose search settles a."""
    nodes = {"a": Conv("a", "input", FIRST.weight[:2], None, PADDED),
             "b": Conv("b", "a", SECOND.weight[:2, :2], None, PADDED), "c": Add("c", ("a", "input")),
             "d": Add("d", ("b", "c"))}
    early, late = (Network((2, 6, 6), tuple(nodes[name] for name in order), "d") for order in ("acbd", "abcd"))
    assert [[node.name for node in group] for group in visiting_order(early)] == [["a"], ["b"], ["c"], ["d"]]
    one, other = (quantize_network(network, IMAGES, "easyquant-int8", **FIVE) for network in (early, late))
    assert one.qparams == other.qparams
    codes = [{layer.name: layer.terms[0].weight_q.tolist() for layer in network.layers
              if isinstance(layer, QuantizedConv)} for network in (one, other)]
    assert codes[0] == codes[1]


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


@pytest.mark.parametrize("tail", [
    (), (Flatten("flat", "out"),), (MaxPool("pool", "out", (2, 2)), Flatten("flat", "pool"))])
def test_kl_clips_no_output_of_the_network_even_where_it_is_carried_on(tail):
    out = Conv("out", "relu", RNG.normal(size=(3, 4, 1, 1)).astype(np.float32))
    network = Network((2, 6, 6), (FIRST, Clip("relu", "first"), out, *tail))
    clipped, widest = (quantize_network(network, IMAGES, recipe, activations="signed").qparams
                       for recipe in ("tensorrt-int8", "channelwise-int8"))
    assert clipped["out"].scale == clipped[network.output].scale == widest["out"].scale
    assert clipped["relu"].scale > widest["relu"].scale
