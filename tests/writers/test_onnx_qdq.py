"""Networks in QDQ form, run by onnxruntime: layer by layer its codes are ours, but where that is explained."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import onnx, run_onnxruntime

from refquant import calibration_images, load_digits, quantize_network, strategies
from refquant.convolution.geometry import Geometry
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.graph import AveragePool, BatchNorm, Linear, Network
from refquant.network.integer_forward import Context, compute
from refquant.network.program import QuantizedAdd, QuantizedAveragePool, QuantizedConv, Term
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import QuantParams
from refquant.writers import to_qdq

DIALECT = "float32_half_even"


def tensors_of(network, images):
    """Every tensor's codes as onnxruntime computes them, without fusions, by name."""
    made = onnx.load_model_from_string(to_qdq(network))
    names = [node.output[0] for node in made.graph.node if node.op_type == "QuantizeLinear"]
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    found = run_onnxruntime(made, images.astype(np.float32), names)
    return {name.removesuffix(":codes"): codes for name, codes in zip(names, found)}


def compare(network, images):
    """How many codes differ, and of how many; each difference is explained. The layers' inputs are onnxruntime's."""
    found, different = tensors_of(network, images), 0
    for layer in network.layers:
        context = Context(network, layer, None)
        inputs = [found[name].astype(context.inputs[k].format.dtype) for k, name in enumerate(layer.inputs)]
        ours, theirs = compute(layer, context, *inputs).astype(int), found[layer.output].astype(int)
        where = ours != theirs
        different += int(where.sum())
        if not where.any():
            continue
        assert np.abs(ours - theirs).max() == 1, layer.name
        if isinstance(layer, (QuantizedAdd, QuantizedAveragePool)):
            continue  # our own rule, with another rounding
        assert not layer.carries, layer.name
        if isinstance(layer, QuantizedConv):
            seen = []
            compute(layer, Context(network, layer, lambda name, stage, values, to=seen: to.append(values)), *inputs)
            multiplier, (acc,) = layer.terms[0].multiplier.along(1, 4).real, seen
            real = (acc * multiplier).reshape(ours.shape)
            size = (np.abs(acc) * multiplier).reshape(ours.shape) + 1
            assert (np.abs(np.abs(real[where]) % 1 - 0.5) <= 1e-3 * size[where]).all(), "beside a tie"
    return different, sum(codes.size for codes in found.values())


@pytest.mark.parametrize("options", [{}, {"activations": "affine"}, {"granularity": "layer"}])
def test_the_digits_layer_by_layer(options):
    network, images, _ = load_digits()
    quantized = quantize_network(network, calibration_images(), "channelwise-int8", dialect=DIALECT, **options)
    different, size = compare(quantized, images[:100])
    assert different <= size / 1000


def test_the_digits_image_by_image():
    network, images, labels = load_digits()
    quantized = quantize_network(network, calibration_images(), "channelwise-int8", dialect=DIALECT)
    theirs = tensors_of(quantized, images)[quantized.output]
    ours = quantized.qparams[quantized.output].quantize(quantized.run(images))
    assert np.abs(ours.astype(int) - theirs).max() <= 2 and (ours == theirs).mean() > 0.9
    assert (theirs.argmax(axis=1) == labels).mean() >= (ours.argmax(axis=1) == labels).mean() - 0.005


@settings(max_examples=40)
@given(st.data())
def test_random_networks_layer_by_layer(data):
    network = fold_batchnorm(data.draw(strategies.networks(every=True)))
    images = data.draw(strategies.images(network))
    try:
        quantized = quantize_network(network, images, dialect=DIALECT, activations=data.draw(
            st.sampled_from(("unsigned", "signed", "affine"))))
        to_qdq(quantized)
    except ValueError as error:
        assert any(said in str(error) for said in ("shift", "fit", "finite", "for each channel", "dilat")), error
        return
    compare(quantized, images)


def test_one_gain_for_each_feature_is_written_as_a_depthwise_layer():
    norm = BatchNorm("norm", "input", *(np.array([1.0, 2.0, 0.5]) for _ in range(4)))
    network = fold_batchnorm(Network((3,), [norm, Linear("y", "norm", np.ones((2, 3)))], others=("norm",)))
    images = np.random.default_rng(0).standard_normal((100, 3))
    quantized = quantize_network(network, images, dialect=DIALECT)
    assert quantized.layers[0].geometry.groups == 3
    different, size = compare(quantized, images)
    assert different <= size / 100


def by_hand(layer):
    """A network of one layer from "x", two features of eight bits, to "y"."""
    params = QuantParams(8.0, IntFormat(8))
    return QuantizedNetwork("x", "y", (2,), (layer,), {"x": params, "y": params})


def test_a_sum_of_three_tensors_is_written():
    network = by_hand(QuantizedAdd("y", ("x",) * 3, "y", -128, 127, (Multiplier.from_real(2.0**8),) * 3))
    images = np.array([[1.0, -2.5]])
    assert compare(network, images) == (0, 4) and network.run(images).tolist() == [[3.0, -7.5]]


@pytest.mark.parametrize("bias", [-2**31, 2**31 - 1])
def test_the_ends_of_int32_are_written_as_biases_and_what_lies_beyond_is_refused(bias):
    def network(bias):
        term = Term(np.ones((1, 2, 1, 1), int), IntFormat(8), Multiplier.from_real(2.0**-26), np.array([bias]))
        return by_hand(QuantizedConv("layer", ("x",), "y", -128, 127, (term,), accumulator=IntFormat(40)))

    made = onnx.load_model_from_string(to_qdq(network(bias)))
    (stored,) = (one for one in made.graph.initializer if one.name == "layer:b_q")
    assert onnx.numpy_helper.to_array(stored).tolist() == [bias]
    beyond = bias + (1 if bias > 0 else -1)
    sentence = rf"layer 'layer': bias_q must hold codes of int32 \(.*\), got {beyond}\.\.{beyond}"
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        to_qdq(network(beyond))


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_an_average_pool_that_counts_as_onnx_does_is_written_and_another_is_refused(count_include_pad):
    def network(overhang):
        pool = AveragePool("pool", "input", (3, 3), Geometry((2, 2), (1, 1, 2, 2)), count_include_pad, overhang)
        return quantize_network(Network((1, 6, 6), [pool]), images, activations="signed", dialect=DIALECT)

    images = np.random.default_rng(0).standard_normal((20, 1, 6, 6))
    different, size = compare(network((0, 0)), images)
    assert different <= size / 50
    if count_include_pad:
        sentence = "layer 'pool': an average pool that counts some of its padding has no QDQ form"
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            to_qdq(network((1, 1)))
    else:  # the overhang is padding, of which nothing counts
        assert to_qdq(network((1, 1))) == to_qdq(network((0, 0)))


@pytest.mark.parametrize("recipe, options, sentence", [
    ("pwlq-w4a8", {}, "layer 'conv1': a layer of several sums has no QDQ form"),
    ("max-int8", {"activation_bits": 9}, "holds uniform codes of at most 8 bits, got uint9 for tensor 'input'"),
    ("max-int8", {"weight_bits": 9}, "layer 'conv1': .* weights of at most 8 bits, got int9 narrow")])
def test_what_the_form_does_not_hold_is_refused(recipe, options, sentence):
    quantized = quantize_network(load_digits()[0], calibration_images(), recipe, **options)
    with pytest.raises(ValueError, match=sentence):
        to_qdq(quantized)
