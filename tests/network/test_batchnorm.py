"""Folding batch normalization keeps the function, in every place a BatchNorm can stand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounding_reach import reach

from refquant.network.batchnorm import fold_batchnorm, gain_and_shift
from refquant.network.float_forward import run_float
from refquant.network.graph import Add, BatchNorm, Clip, Concat, Conv, Flatten, Linear, Network
from refquant.strategies import images, networks, reals


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
    reaches = {net.input: float(np.abs(batch).max())}
    for node in net.nodes:
        reaches[node.name] = reach(node, *(reaches[name] for name in node.inputs))
    np.testing.assert_allclose(run_float(folded, batch), run_float(net, batch), rtol=0,
                               atol=1e-12 * reaches[net.output])


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


# Per channel: gain 6/sqrt(8 + 1) = 2 and 0, shift 7 - 2·0.5 = 6 and 3.
NORM = BatchNorm("norm", ("conv",), *(np.array(v) for v in ([6.0, 0.0], [7.0, 3.0], [0.5, 9.0], [8.0, 0.0])), 1.0)
CONV = Conv("conv", "input", np.array([[[[1.5]]], [[[4.0]]]]), np.array([1.0, 2.0]))


def test_gain_and_shift_by_hand():
    gain, shift = gain_and_shift(NORM)
    assert (gain.tolist(), shift.tolist()) == ([2, 0], [6, 3])
    assert gain.dtype == shift.dtype == np.float64
    # In float64 for float32 parameters, too, where variance + epsilon would round to variance; without variance
    # the epsilon is left.
    for variance, epsilon, expected in ((1.0, 2.0**-30, 1 / np.sqrt(1 + 2.0**-30)), (0.0, 2.0**-16, 256.0)):
        norm = BatchNorm("n", "input", *(np.array([v], np.float32) for v in (1.0, 0.0, 0.0, variance)), epsilon)
        assert gain_and_shift(norm)[0].item() == expected


def again(norm, name, source):
    return dataclasses.replace(norm, name=name, inputs=(source,))


FLATTEN, FLAT = Flatten("flat", "input"), again(NORM, "norm", "flat")
LINEAR = Linear("y", "norm", np.array([[1.0, 5.0], [-2.0, 7.0], [0.5, 0.0]]), np.array([1.0, 0.0, -1.0]))


@pytest.mark.parametrize(("nodes", "output", "folded"), [
    # Into what it alone reads, with or without a bias; its readers read the layer; a chain.
    ((CONV, NORM), "", "Conv conv"),
    ((dataclasses.replace(CONV, bias=None), NORM), "", "Conv conv"),
    ((FLATTEN, Linear("conv", "flat", np.array([[1.0, 2.0], [3.0, 4.0]])), NORM), "", "Flatten flat, Linear conv"),
    ((CONV, NORM, again(NORM, "second", "norm"), again(NORM, "third", "second"), Clip("r", "third")), "",
     "Conv conv, Clip r"),
    ((CONV, NORM, again(NORM, "second", "norm"), Add("sum", ("norm", "second"))), "",
     "Conv conv, Conv second, Add sum"),
    ((CONV, NORM, Clip("r", "norm", 0.0, 5.0), Add("sum", ("norm", "r"))), "", "Conv conv, Clip r, Add sum"),
    # Not into what others read, or what is the output.
    ((CONV, NORM, Concat("both", ("conv", "norm"))), "", "Conv conv, Conv norm, Concat both"),
    ((CONV, NORM), "conv", "Conv conv, Conv norm"),
    ((CONV, NORM, again(NORM, "twin", "conv"), Add("sum", ("norm", "twin"))), "",
     "Conv conv, Conv norm, Conv twin, Add sum"),
    ((again(NORM, "norm", "input"),), "", "Conv norm"),
    ((CONV, Clip("r", "conv")), "conv", "Conv conv, Clip r"),
    # Of flat features: into the linear layer that alone reads it, and else a gain and a shift for each.
    ((FLATTEN, FLAT, LINEAR), "", "Flatten flat, Linear y"),
    ((FLATTEN, FLAT, dataclasses.replace(LINEAR, bias=None)), "", "Flatten flat, Linear y"),
    ((FLATTEN, FLAT, again(NORM, "again", "norm"), dataclasses.replace(LINEAR, inputs=("again",))), "",
     "Flatten flat, Conv norm, Linear y"),
    ((FLATTEN, FLAT), "", "Flatten flat, Conv norm"),
    ((FLATTEN, FLAT, LINEAR), "norm", "Flatten flat, Conv norm, Linear y"),
    ((FLATTEN, FLAT, Clip("r", "norm")), "", "Flatten flat, Conv norm, Clip r"),
    ((FLATTEN, FLAT, LINEAR, dataclasses.replace(LINEAR, name="z")), "z",
     "Flatten flat, Conv norm, Linear y, Linear z"),
])
def test_where_a_batchnorm_goes(nodes, output, folded):
    shape = (1, 2, 1) if "conv" in nodes[0].name else (2, 1, 1)
    net, batch = Network(shape, nodes, output), np.array([1.0, -2.0, 0.5, 4.0]).reshape(2, *shape)
    found = fold_batchnorm(net)
    assert ", ".join(f"{type(node).__name__} {node.name}" for node in found.nodes) == folded
    assert run_float(found, batch).tolist() == run_float(net, batch).tolist()
    for node in found.nodes:
        if isinstance(node, Conv) and node.name != "conv":  # depthwise: a weight for each channel
            assert (node.weight.ravel().tolist()[1], node.weight.size, node.geometry.groups) == (0, 2, 2)


def test_a_batchnorm_that_cannot_be_folded_is_refused_by_name():
    row, plane = (dataclasses.replace(NORM, name="bn", inputs=("input",)) for _ in range(2))
    with pytest.raises(ValueError, match=r"^node 'bn': its input must be planes or flat to be folded, got "):
        fold_batchnorm(Network((2, 5), [row]))
    huge = dataclasses.replace(plane, gamma=np.full(2, 1e308), variance=np.full(2, 1e-30), epsilon=1e-30)
    with pytest.raises(ValueError, match=r"^node 'bn': folded into 'bn' its gain must stay within float64, got a "):
        fold_batchnorm(Network((2, 1, 1), [huge]))


def test_a_gain_that_leaves_float32_is_refused_with_both_layers():
    norm = BatchNorm("norm", "input", *(np.array([v, v], np.float32) for v in (1e30, 0, 0, 0)), epsilon=1e-30)
    linear = Linear("y", "norm", np.full((1, 2), 1e10, np.float32))
    with pytest.raises(ValueError, match=r"^node 'norm': folded into 'y' its gain must stay within float32, got a "):
        fold_batchnorm(Network((2,), [norm, linear]))
