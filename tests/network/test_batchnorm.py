"""Folding batch normalization keeps the function, in every place a BatchNorm can stand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.commands.evaluation import evaluate
from refquant.convolution.geometry import Geometry
from refquant.network.batchnorm import fold_batchnorm, gain_and_shift
from refquant.network.float_forward import run_float, run_float_tensors
from refquant.network.graph import Add, BatchNorm, Clip, Concat, Conv, Flatten, Linear, Network
from refquant.network.storage import load_quantized, quantized_to_bytes
from refquant.recipes.quantize import quantize_network
from refquant.scales.metrics import sqnr_db
from refquant.strategies import images, networks, reals

# Per channel: gain 6/sqrt(8 + 1) = 2 and 0, shift 7 - 2·0.5 = 6 and 3.
NORM = BatchNorm("norm", ("conv",), *(np.array(v) for v in ([6.0, 0.0], [7.0, 3.0], [0.5, 9.0], [8.0, 0.0])), 1.0)
CONV = Conv("conv", "input", np.array([[[[1.5]]], [[[4.0]]]]), np.array([1.0, 2.0]))
X = np.array([[[[1.0, -2.0]]]])  # conv: 2.5, -2 and 6, -6; norm: 11, 2 and 3, 3
NORMED = [[[[11.0, 2.0]], [[3.0, 3.0]]]]


def network(*nodes, output="") -> Network:
    return Network((1, 1, 2), nodes, output)


def reaches(net: Network, batch: np.ndarray) -> dict[str, float]:
    """Per tensor, what its values could be if nothing cancelled: the unit of its rounding errors."""
    reach = {net.input: float(np.abs(batch).max())}
    for node in net.nodes:
        inputs = [reach[name] for name in node.inputs]
        if isinstance(node, (Conv, Linear)):
            sums = np.abs(node.weight).reshape(len(node.weight), -1).sum(axis=1).max()
            reach[node.name] = inputs[0] * sums + (0 if node.bias is None else np.abs(node.bias).max())
        elif isinstance(node, BatchNorm):
            gain = np.abs(node.gamma) / np.sqrt(node.variance + node.epsilon)
            reach[node.name] = (gain * (inputs[0] + np.abs(node.mean)) + np.abs(node.beta)).max()
        else:
            reach[node.name] = sum(inputs) if isinstance(node, Add) else max(inputs)
    return reach


@st.composite
def networks_full_of_batchnorms(draw: st.DrawFn) -> Network:
    """A random network with a BatchNorm behind many of its tensors, which later nodes read or do not."""
    net = draw(networks(dtype=np.float64))
    nodes, normed = [], {}
    for node in net.nodes:
        inputs = tuple(normed[name] if name in normed and draw(st.booleans()) else name for name in node.inputs)
        nodes.append(dataclasses.replace(node, inputs=inputs))
        if draw(st.booleans()):
            gamma, beta, mean, variance = (draw(reals(net.shapes[node.name][:1], np.float64)) for _ in range(4))
            nodes.append(BatchNorm(f"{node.name}.norm", node.name, gamma, beta, mean, np.abs(variance), 1e-3))
            normed[node.name] = nodes[-1].name
    return Network(net.input_shape, nodes, draw(st.sampled_from([node.name for node in nodes[::-1]])))


@given(st.data())
def test_folding_keeps_the_function_of_every_network(data):
    net = data.draw(networks_full_of_batchnorms())
    batch = data.draw(images(net, dtype=np.float64))
    folded = fold_batchnorm(net)
    assert not any(isinstance(node, BatchNorm) for node in folded.nodes)
    assert folded.shapes[folded.output] == net.shapes[net.output]
    # Both run in float64: a rounding error is 2^-53 of the reach; a few hundred of them are 1e-12 at most.
    np.testing.assert_allclose(run_float(folded, batch), run_float(net, batch), rtol=0,
                               atol=1e-12 * reaches(net, batch)[net.output])


@given(st.data())
def test_folding_keeps_the_dtype_and_writes_to_nothing(data):
    net = data.draw(networks())
    arrays = [value for node in net.nodes for value in vars(node).values() if isinstance(value, np.ndarray)]
    copies = [array.copy() for array in arrays]
    folded = fold_batchnorm(net)
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays, copies))
    for node in folded.nodes:
        if isinstance(node, (Conv, Linear)):
            assert node.weight.dtype == np.float32
            assert node.bias is None or node.bias.dtype == np.float32


def test_gain_and_shift_by_hand():
    gain, shift = gain_and_shift(NORM)
    assert (gain.tolist(), shift.tolist()) == ([2, 0], [6, 3])
    assert gain.dtype == shift.dtype == np.float64


def test_gain_is_computed_in_float64_for_float32_parameters():
    """variance + epsilon rounds to variance in float32."""
    norm = BatchNorm("n", "input", *(np.array([v], np.float32) for v in (1.0, 0.0, 0.0, 1.0)), epsilon=2.0**-30)
    assert gain_and_shift(norm)[0].item() == 1 / np.sqrt(1 + 2.0**-30)


def test_a_batchnorm_is_folded_into_the_convolution_it_alone_reads():
    folded = fold_batchnorm(network(CONV, NORM))
    (node,) = folded.nodes
    assert (node.name, folded.output) == ("conv", "conv")
    assert node.weight.tolist() == [[[[3.0]]], [[[0.0]]]]
    assert node.bias.tolist() == [2 * 1.0 + 6, 0 * 2.0 + 3]
    assert run_float(folded, X).tolist() == NORMED == run_float(network(CONV, NORM), X).tolist()


def test_a_convolution_without_bias_gets_the_shift_for_bias():
    folded = fold_batchnorm(network(dataclasses.replace(CONV, bias=None), NORM))
    assert folded.nodes[0].bias.tolist() == [6, 3]


def test_a_batchnorm_is_folded_into_a_linear_layer():
    linear = Linear("conv", "input", np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 1.0]))
    (node,) = fold_batchnorm(Network((2,), [linear, NORM])).nodes
    assert isinstance(node, Linear)
    assert node.weight.tolist() == [[2, 4], [0, 0]]
    assert node.bias.tolist() == [8, 3]


def test_a_grouped_convolution_keeps_its_geometry():
    weight = np.arange(16.0).reshape(2, 2, 2, 2)
    geometry = Geometry((2, 1), (1, 0, 0, 1), (1, 2), 2)
    net = Network((4, 5, 6), [Conv("conv", "input", weight, None, geometry), NORM])
    (node,) = fold_batchnorm(net).nodes
    assert node.geometry == geometry
    assert node.weight[0].tolist() == (2 * weight[0]).tolist()
    batch = np.arange(120.0).reshape(1, 4, 5, 6)
    assert run_float(fold_batchnorm(net), batch).tolist() == run_float(net, batch).tolist()


def test_a_convolution_with_two_readers_is_left_alone():
    net = network(CONV, NORM, Concat("both", ("conv", "norm")))
    folded = fold_batchnorm(net)
    assert [type(node) for node in folded.nodes] == [Conv, Conv, Concat]
    assert folded.nodes[0].weight.tolist() == CONV.weight.tolist()
    assert run_float(folded, X).tolist() == [[[[2.5, -2.0]], [[6.0, -6.0]], *NORMED[0]]]


def test_a_convolution_that_is_the_output_is_left_alone():
    folded = fold_batchnorm(network(CONV, NORM, output="conv"))
    assert run_float(folded, X).tolist() == [[[[2.5, -2.0]], [[6.0, -6.0]]]]


def test_two_batchnorms_of_one_convolution_do_not_meet():
    net = network(CONV, NORM, dataclasses.replace(NORM, name="again"), Add("sum", ("norm", "again")))
    assert run_float(fold_batchnorm(net), X).tolist() == (2 * np.array(NORMED)).tolist()


def test_a_chain_of_batchnorms_is_applied_in_order():
    net = network(CONV, NORM, dataclasses.replace(NORM, name="second", inputs=("norm",)),
                  dataclasses.replace(NORM, name="third", inputs=("second",)), Clip("r", "third"))
    # 2·(2·11 + 6) + 6 and 2·(2·2 + 6) + 6
    assert run_float(fold_batchnorm(net), X).tolist() == [[[[62, 26]], [[3, 3]]]]


def test_a_folded_batchnorm_read_twice_is_read_twice_under_the_convolutions_name():
    net = network(CONV, NORM, Clip("r", "norm", 0.0, 5.0), Add("sum", ("norm", "r")))
    folded = fold_batchnorm(net)
    assert [node.inputs for node in folded.nodes] == [("input",), ("conv",), ("conv", "r")]
    assert run_float(folded, X).tolist() == [[[[16, 4]], [[6, 6]]]]


def test_a_batchnorm_of_its_own_becomes_a_depthwise_convolution():
    net = Network((2, 1, 2), [dataclasses.replace(NORM, inputs=("input",))])
    (node,) = fold_batchnorm(net).nodes
    assert (node.name, node.inputs, node.geometry.groups) == ("norm", ("input",), 2)
    assert node.weight.tolist() == [[[[2.0]]], [[[0.0]]]]
    batch = np.array([[[[1.0, -2.0]], [[5.0, 5.0]]]])
    assert run_float(fold_batchnorm(net), batch).tolist() == [[[[8, 2]], [[3, 3]]]]


FLAT = dataclasses.replace(NORM, inputs=("flat",))
FLATTEN = Flatten("flat", "input")
LINEAR = Linear("y", "norm", np.array([[1.0, 5.0], [-2.0, 7.0], [0.5, 0.0]]), np.array([1.0, 0.0, -1.0]))
FEATURES = np.array([[[[1.0]], [[-2.0]]], [[[0.5]], [[4.0]]]])


def test_a_flat_batchnorm_is_folded_into_the_linear_layer_that_alone_reads_it():
    # NORM is 2·x + 6 and 0·x + 3: y = W·(g∘x + s) + b.
    net = Network((2, 1, 1), [FLATTEN, FLAT, LINEAR])
    folded = fold_batchnorm(net)
    assert [type(node) for node in folded.nodes] == [Flatten, Linear]
    assert folded.nodes[1].inputs == ("flat",)
    assert folded.nodes[1].weight.tolist() == [[2, 0], [-4, 0], [1, 0]]
    assert folded.nodes[1].bias.tolist() == [6 + 15 + 1, -12 + 21, 3 - 1]
    assert run_float(folded, FEATURES).tolist() == run_float(net, FEATURES).tolist()
    without = fold_batchnorm(Network((2, 1, 1), [FLATTEN, FLAT, dataclasses.replace(LINEAR, bias=None)]))
    assert without.nodes[1].bias.tolist() == [21, 9, 3]


@pytest.mark.parametrize("nodes, output", [
    ((FLATTEN, FLAT), ""),                                              # it is the output
    ((FLATTEN, FLAT, LINEAR), "norm"),                                  # the output, and read
    ((FLATTEN, FLAT, Clip("r", "norm")), ""),                           # read by a ReLU
    ((FLATTEN, FLAT, LINEAR, dataclasses.replace(LINEAR, name="z")), "z"),  # two readers
])
def test_a_flat_batchnorm_of_its_own_is_one_gain_and_one_shift_per_feature(nodes, output):
    net = Network((2, 1, 1), nodes, output)
    folded = fold_batchnorm(net)
    node = folded.nodes[1]
    assert isinstance(node, Conv) and (node.name, node.weight.size, node.geometry.groups) == ("norm", 2, 2)
    assert node.weight.ravel().tolist() == [2, 0] and node.bias.tolist() == [6, 3]
    assert folded.shapes["norm"] == (2,)
    assert run_float(folded, FEATURES).tolist() == run_float(net, FEATURES).tolist()


def test_a_chain_of_flat_batchnorms_ends_in_one_linear_layer():
    net = Network((2, 1, 1), [FLATTEN, FLAT, dataclasses.replace(NORM, name="again", inputs=("norm",)),
                              dataclasses.replace(LINEAR, inputs=("again",))])
    folded = fold_batchnorm(net)
    assert sum(node.weight.size for node in folded.nodes if isinstance(node, (Conv, Linear))) <= 6 + 2
    assert run_float(folded, FEATURES).tolist() == run_float(net, FEATURES).tolist()


def test_a_gain_that_leaves_float32_is_refused_when_it_is_folded_forwards():
    norm = BatchNorm("norm", "input", *(np.array([v, v], np.float32) for v in (1e30, 0, 0, 0)), epsilon=1e-30)
    linear = Linear("y", "norm", np.full((1, 2), 1e10, np.float32))
    with pytest.raises(ValueError, match=r"^node 'norm': folded into 'y' its gain must stay within float32, got a "):
        fold_batchnorm(Network((2,), [norm, linear]))


@pytest.mark.parametrize("recipe", ["max-int8", "channelwise-int8", "tensorrt-int8", "easyquant-int8"])
@pytest.mark.parametrize("last", ["output", "relu", "linear"])
def test_flat_batchnorms_run_in_integers_and_cost_a_weight_per_feature(recipe, last, tmp_path):
    rng = np.random.default_rng(0)
    F = 48
    gamma, beta, mean, variance = (rng.uniform(0.5, 2, F) for _ in range(4))
    nodes = [Flatten("f", "input"), BatchNorm("n", "f", gamma, beta, mean, variance)]
    nodes += {"output": [], "relu": [Clip("r", "n"), Linear("y", "r", rng.normal(size=(5, F)))],
              "linear": [Linear("y", "n", rng.normal(size=(5, F)))]}[last]
    net = Network((3, 4, 4), nodes)
    batch = rng.normal(size=(60, 3, 4, 4))
    quantized = quantize_network(net, batch, recipe)
    assert quantized.weight_bytes == {"output": F, "relu": 6 * F, "linear": 5 * F}[last]
    y = batch.reshape(60, F) * (gamma / np.sqrt(variance + 1e-5)) + beta - mean * gamma / np.sqrt(variance + 1e-5)
    y = {"output": y, "relu": np.maximum(y, 0), "linear": y}[last]
    y = y if last == "output" else y @ nodes[-1].weight.T
    assert sqnr_db(y, quantized.run(batch)) > 25
    assert np.array_equal(quantized.run(batch), quantized.simulate(batch))
    path = tmp_path / "network.npz"
    path.write_bytes(quantized_to_bytes(quantized))
    assert np.array_equal(load_quantized(path).run(batch), quantized.run(batch))
    report = evaluate(quantized, batch, None, fold_batchnorm(net))
    assert report.codes_equal and all(layer.sqnr_db > 20 for layer in report.layers)


def test_a_convolution_of_a_flat_tensor_must_give_a_flat_tensor():
    with pytest.raises(ValueError, match=r"^node 'c': of a flat tensor the output must be flat too, got planes"):
        Network((2,), [Conv("c", "input", np.ones((2, 1, 1, 1)), None, Geometry((1, 1), (1, 1, 1, 1), (1, 1), 2))])
    with pytest.raises(ValueError, match=r"^node 'c': weight must be \(O, 3, R, S\) for 3 input channels"):
        Network((3,), [Conv("c", "input", np.ones((2, 2, 1, 1)))])


def test_zero_variance_leaves_the_epsilon():
    """gain 0.25/sqrt(0 + 2^-16) = 64."""
    norm = BatchNorm("norm", "conv", *(np.array([v, v]) for v in (0.25, 0.0, 0.0, 0.0)), 2.0**-16)
    assert fold_batchnorm(network(CONV, norm)).nodes[0].weight.ravel().tolist() == [96, 256]


def test_a_dead_channel_gives_its_shift_everywhere():
    weight = np.zeros((2, 1, 1, 1))
    tensors = run_float_tensors(fold_batchnorm(network(Conv("conv", "input", weight), NORM)), X)
    assert tensors["conv"].tolist() == [[[[6, 6]], [[3, 3]]]]


def test_negative_variance_is_refused():
    with pytest.raises(ValueError, match=r"variance must be >= 0 .* smallest variance of -0.5"):
        dataclasses.replace(NORM, variance=np.array([1.0, -0.5]))


def test_a_network_without_batchnorm_comes_back_as_it_was():
    net = network(CONV, Clip("r", "conv"), output="conv")
    folded = fold_batchnorm(net)
    assert [node.name for node in folded.nodes] == ["conv", "r"]
    assert (folded.output, folded.input, folded.shapes) == (net.output, net.input, net.shapes)
