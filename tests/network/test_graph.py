"""The float graph: shapes and refusals by hand, values against onnxruntime and hand-worked planes."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools import require_module

from refquant.convolution.geometry import Geometry
from refquant.network.float_forward import run_float, run_float_tensors
from refquant.network.graph import (
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
)
from refquant.strategies import images, networks


def conv(name="conv", source="input", shape=(2, 3, 3, 3), bias=None, **geometry) -> Conv:
    return Conv(name, (source,), np.ones(shape, np.float32), bias, Geometry(**geometry))


def norm(name="norm", source="input", channels=3, **changes) -> BatchNorm:
    values = dict.fromkeys(("gamma", "beta", "mean", "variance"), np.ones(channels, np.float32))
    return BatchNorm(name, (source,), **{**values, **changes})


def shape_of(*nodes, input_shape=(3, 8, 9)) -> tuple:
    network = Network(input_shape, nodes)
    return network.shapes[network.output]


# --- shapes ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("node", "shape"), [
    (conv(), (2, 6, 7)),
    (conv(padding=(1, 1, 1, 1)), (2, 8, 9)),
    (conv(stride=(2, 3), padding=(0, 1, 1, 2)), (2, 4, 4)),
    (conv(dilation=(3, 4)), (2, 2, 1)),
    (conv(shape=(6, 1, 2, 2), groups=3), (6, 7, 8)),
    (norm(), (3, 8, 9)),
    (Clip("r", "input"), (3, 8, 9)),
    (MaxPool("p", "input", (2, 2), Geometry((2, 2))), (3, 4, 4)),
    (MaxPool("p", "input", (3, 3), Geometry((2, 2), (1, 1, 1, 1))), (3, 4, 5)),
    (AveragePool("p", "input", (2, 3), Geometry(dilation=(7, 4))), (3, 1, 1)),
    (GlobalAveragePool("g", "input"), (3, 1, 1)),
    (Add("a", ("input", "input")), (3, 8, 9)),
    (Concat("c", ("input", "input", "input")), (9, 8, 9)),
    (Flatten("f", "input"), (216,)),
])
def test_output_shapes_by_hand(node, shape):
    assert shape_of(node) == shape


def test_shapes_of_flat_tensors_by_hand():
    flat = (5,)
    assert shape_of(Linear("l", "input", np.ones((4, 5))), input_shape=flat) == (4,)
    assert shape_of(norm(channels=5), input_shape=flat) == (5,)
    assert shape_of(Flatten("f", "input"), input_shape=flat) == (5,)
    assert shape_of(Concat("c", ("input", "input")), input_shape=flat) == (10,)
    assert shape_of(Add("a", ("input", "input")), input_shape=flat) == (5,)


def test_every_tensor_has_a_shape_and_the_last_node_is_the_output():
    network = Network((3, 8, 9), [conv("a"), Clip("b", "a"), GlobalAveragePool("c", "b"), Flatten("d", "c")])
    assert network.shapes == {"input": (3, 8, 9), "a": (2, 6, 7), "b": (2, 6, 7), "c": (2, 1, 1), "d": (2,)}
    assert network.output == "d"
    assert Network((3, 8, 9), network.nodes, "b").output == "b"


@given(st.data())
def test_inferred_shapes_are_those_of_the_tensors_computed(data):
    network = data.draw(networks())
    batch = data.draw(images(network))
    tensors = run_float_tensors(network, batch)
    assert {name: x.shape[1:] for name, x in tensors.items()} == network.shapes
    assert all(len(x) == len(batch) and x.dtype == np.float32 for x in tensors.values())


def test_a_tensor_has_an_only_reader_unless_it_is_read_again_or_is_the_output():
    nodes = [conv("a"), Clip("b", "a"), Clip("c", "b"), Add("d", ("b", "c")), Clip("e", "d")]
    network = Network((3, 8, 9), nodes, "d")
    assert [network.only_reader(name) and network.only_reader(name).name for name in "abcde"] == [
        "b", None, "d", None, None]


def test_nodes_can_be_replaced_and_keep_the_input():
    network = Network((3, 8, 9), [conv("a", "image"), Clip("b", "image")], "a", "image")
    shorter = network.replace_nodes(network.nodes[:1])
    assert (shorter.input, shorter.output, shorter.input_shape) == ("image", "a", (3, 8, 9))
    assert network.replace_nodes(network.nodes, "b").output == "b"


# --- parameters are frozen ------------------------------------------------------------------------------------

def test_parameters_are_copied_and_read_only():
    weight = np.ones((1, 1, 1, 1), np.float32)
    node = Conv("c", "input", weight)
    weight[0] = 5
    assert node.weight.item() == 1
    with pytest.raises(ValueError, match="read-only"):
        node.weight[0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError, match="weight"):
        node.weight = weight


@given(st.data())
def test_running_writes_to_no_input(data):
    network = data.draw(networks())
    batch = data.draw(images(network))
    kept = batch.copy()
    batch.flags.writeable = False
    run_float_tensors(network, batch)
    assert np.array_equal(batch, kept)


# --- refusals of nodes ----------------------------------------------------------------------------------------

ONES = np.ones(3, np.float32)
VARIANCE = "variance must be >= 0 and variance + epsilon > 0, got a smallest variance of {} with epsilon {}"
BAD_NODES = [
    (lambda: conv(shape=(2, 3, 3)), "weight must be a non-empty (O, C/groups, R, S), got shape (2, 3, 3)"),
    (lambda: conv(shape=(0, 3, 3, 3)), "weight must be a non-empty (O, C/groups, R, S), got shape (0, 3, 3, 3)"),
    (lambda: conv(bias=np.ones(3)), "bias must have shape (2,), got (3,)"),
    (lambda: Conv("c", "input", np.ones((1, 1, 1, 1), int)),
     "weight must hold floats of at most 64 bits, got dtype int64"),
    (lambda: Conv("c", "input", np.full((1, 1, 1, 1), np.nan)), "weight must be finite, got NaN or infinity"),
    (lambda: conv(bias=np.array([0, np.inf])), "bias must be finite, got NaN or infinity"),
    (lambda: Linear("l", "input", np.ones(3)), "weight must be a non-empty (O, F), got shape (3,)"),
    (lambda: Linear("l", "input", np.ones((3, 0))), "weight must be a non-empty (O, F), got shape (3, 0)"),
    (lambda: Linear("l", "input", np.ones((3, 2)), np.ones(2)), "bias must have shape (3,), got (2,)"),
    (lambda: norm(beta=np.ones(2)), "gamma, beta, mean and variance must share one shape (C,), got [(2,), (3,)]"),
    (lambda: norm(**dict.fromkeys(("gamma", "beta", "mean", "variance"), np.ones((1, 3)))),
     "gamma, beta, mean and variance must share one shape (C,), got [(1, 3)]"),
    (lambda: norm(variance=np.array([1, -1e-6, 1])), VARIANCE.format("-1e-06", "1e-05")),
    (lambda: norm(variance=0 * ONES, epsilon=0.0), VARIANCE.format("0.0", "0.0")),
    (lambda: norm(epsilon=float("nan")), VARIANCE.format("1.0", "nan")),
    (lambda: norm(mean=np.array([0, np.nan, 0])), "mean must be finite, got NaN or infinity"),
    (lambda: Clip("r", "input", 1.0, 0.0), "clip needs finite low <= high, got 1.0 and 0.0"),
    (lambda: Clip("r", "input", float("nan")), "clip needs finite low <= high, got nan and None"),
    (lambda: Clip("r", "input", None, float("inf")), "clip needs finite low <= high, got None and inf"),
    (lambda: MaxPool("p", "input", (0, 1)), "kernel must be two integers >= 1, got (0, 1)"),
    (lambda: MaxPool("p", "input", (2, 2, 2)), "kernel must be two integers >= 1, got (2, 2, 2)"),
    (lambda: AveragePool("p", "input", (2, 2), Geometry(groups=2)), "pooling has no groups, got 2"),
]


@pytest.mark.parametrize(("build", "message"), BAD_NODES)
def test_parameters_that_do_not_fit_each_other_are_refused(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_lists_of_floats_are_taken_for_arrays():
    assert Conv("c", "input", [[[[1.0]]]]).weight.shape == (1, 1, 1, 1)
    assert Linear("l", "input", [[1.0, 2.0]], [3.0]).bias.tolist() == [3]
    assert BatchNorm("b", "input", [1.0], [1.0], [1.0], [1.0]).gamma.shape == (1,)
    with pytest.raises(ValueError, match="weight must hold floats of at most 64 bits, got dtype int64"):
        Linear("l", "input", [[1]])


@pytest.mark.parametrize("kernel", [2, (2.0, 2), "22"])
def test_a_kernel_that_is_not_two_integers_is_refused(kernel):
    with pytest.raises(ValueError, match="kernel must be two integers >= 1, got"):
        MaxPool("p", "input", kernel)


# --- refusals of networks: all name the node -------------------------------------------------------------------

BAD_GRAPHS = [
    ([], "a network must have at least one node, got none"),
    ([Clip("a", "nowhere")], "node 'a' must read tensors computed before it, got ('nowhere',)"),
    ([Clip("a", "b"), Clip("b", "input")], "node 'a' must read tensors computed before it, got ('b',)"),
    ([Clip("a", "a")], "node 'a' must read tensors computed before it, got ('a',)"),
    ([Concat("a", ())], "node 'a': Concat reads one or more tensors, got ()"),
    ([Clip("a", "input"), Clip("a", "input")], "tensor names must differ, got 'a' twice"),
    ([Clip("input", "input")], "tensor names must differ, got 'input' twice"),
    ([conv("a", shape=(2, 4, 1, 1))],
     "node 'a': weight must be (O, 3, R, S) for 3 input channels in 1 groups, got shape (2, 4, 1, 1)"),
    ([conv("a", shape=(2, 2, 1, 1), groups=2)],
     "node 'a': groups must divide the channels, got groups 2 for 3 input and 2 output channels"),
    ([conv("a", shape=(2, 3, 9, 1))], "node 'a': the kernel must fit the padded input, got extent 9 over 8"),
    ([Flatten("f", "input"), conv("a", "f")], "node 'a': input must be (C, H, W) planes, got shape (216,)"),
    ([Linear("a", "input", np.ones((1, 3)))], "node 'a': input must have shape (3,), got (3, 8, 9)"),
    ([norm("a", channels=4)], "node 'a': input must have 4 channels, got shape (3, 8, 9)"),
    ([MaxPool("a", "input", (9, 1))], "node 'a': the kernel must fit the padded input, got extent 9 over 8"),
    ([MaxPool("a", "input", (1, 1), Geometry(padding=(1, 0, 0, 0)))],
     "node 'a': every window must see the input, got padding (1, 0, 0, 0) for kernel (1, 1)"),
    ([AveragePool("a", "input", (2, 2), Geometry(padding=(0, 0, 0, 2)), True)],
     "node 'a': every window must see the input, got padding (0, 0, 0, 2) for kernel (2, 2)"),
    ([Flatten("f", "input"), MaxPool("a", "f", (1, 1))],
     "node 'a': input must be (C, H, W) planes, got shape (216,)"),
    ([Flatten("f", "input"), GlobalAveragePool("a", "f")],
     "node 'a': input must be (C, H, W) planes, got shape (216,)"),
    ([conv("c"), Add("a", ("input", "c"))],
     "node 'a': the tensors must have one shape, but for axes of one element, got (3, 8, 9) and (2, 6, 7)"),
    ([Add("a", ("input",))], "node 'a': Add reads two tensors, got ('input',)"),
    ([Add("a", ("input",) * 3)], "node 'a': Add reads two tensors, got ('input', 'input', 'input')"),
    ([conv("c"), Concat("a", ("input", "c"))],
     "node 'a': concat takes tensors that differ only in channels, got (3, 8, 9), (2, 6, 7)"),
    ([Flatten("f", "input"), Concat("a", ("input", "f"))],
     "node 'a': concat takes tensors that differ only in channels, got (3, 8, 9), (216,)"),
]


@pytest.mark.parametrize(("nodes", "message"), BAD_GRAPHS)
def test_graphs_that_do_not_fit_are_refused_and_name_the_node(nodes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Network((3, 8, 9), nodes)


@pytest.mark.parametrize("geometry", [
    Geometry(stride=(0, 1)), Geometry(groups=0), Geometry(dilation=(0, 1)), Geometry(padding=(-1, 0, 0, 0))])
def test_an_impossible_geometry_is_refused_by_the_graph(geometry):
    """``Geometry.of`` checks; a Geometry put together by hand is checked nowhere else."""
    with pytest.raises(ValueError, match=r"(stride|groups|dilation|padding) must be >= \d"):
        Network((3, 8, 9), [Conv("a", "input", np.ones((2, 3, 1, 1)), None, geometry)])


@pytest.mark.parametrize("node", [
    Clip("a", ("input", "input")), Flatten("a", ("input", "input")), MaxPool("a", ("input", "input"), (1, 1)),
    GlobalAveragePool("a", ("input", "input")), conv("a")], ids=lambda node: type(node).__name__)
def test_a_second_input_to_a_node_that_takes_one_is_refused(node):
    node = dataclasses.replace(node, inputs=("input", "input"))
    with pytest.raises(ValueError, match=r"node 'a': [A-Za-z]+ reads one tensor, got \('input', 'input'\)"):
        Network((3, 8, 9), [node])


@pytest.mark.parametrize("shape", [(), (3, 0, 2), (-1,), (1,) * 8, (1.5, 2, 2)])
def test_an_input_shape_of_no_tensor_is_refused(shape):
    with pytest.raises(ValueError, match=r"^input_shape must be \(C, H, W\) or \(F,\)"):
        Network(shape, [Clip("a", "input")])


def test_an_unknown_output_is_refused():
    with pytest.raises(ValueError, match=r"^output must be a tensor of the network, got 'b'$"):
        Network((3,), [Clip("a", "input")], "b")


# --- refusals of images ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("batch", "message"), [
    (np.ones((2, 3, 4, 5)), "images must be a non-empty (N, 3, 4, 4), got shape (2, 3, 4, 5)"),
    (np.ones((3, 4, 4)), "images must be a non-empty (N, 3, 4, 4), got shape (3, 4, 4)"),
    (np.ones((0, 3, 4, 4)), "images must be a non-empty (N, 3, 4, 4), got shape (0, 3, 4, 4)"),
    (np.ones((1, 3, 4, 4), np.uint8), "images must hold float32 or float64, got dtype uint8"),
    (np.full((1, 3, 4, 4), np.nan), "images must be finite, got NaN or infinity"),
    (np.full((1, 3, 4, 4), -np.inf), "images must be finite, got NaN or infinity"),
])
def test_images_that_do_not_fit_are_refused(batch, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run_float(Network((3, 4, 4), [Clip("a", "input")]), batch)


# --- values ---------------------------------------------------------------------------------------------------

PLANE = np.array([[[[-1.0, 2.0, 3.0], [4.0, -5.0, 6.0]]]])


@pytest.mark.parametrize(("node", "expected"), [
    (Clip("y", "input"), [[0, 2, 3], [4, 0, 6]]),
    (Clip("y", "input", -1.0, 3.5), [[-1, 2, 3], [3.5, -1, 3.5]]),
    (Clip("y", "input", None, None), [[-1, 2, 3], [4, -5, 6]]),
    (Clip("y", "input", None, 0.0), [[-1, 0, 0], [0, -5, 0]]),
    (MaxPool("y", "input", (2, 2)), [[4, 6]]),
    # Padding never wins: the corner window sees -1 alone.
    (MaxPool("y", "input", (2, 2), Geometry((2, 2), (1, 1, 0, 0))), [[-1, 3], ]),
    (MaxPool("y", "input", (2, 1), Geometry(padding=(1, 0, 1, 0))), [[-1, 2, 3], [4, 2, 6], [4, -5, 6]]),
    (MaxPool("y", "input", (1, 2), Geometry(dilation=(1, 2))), [[3], [6]]),
    (AveragePool("y", "input", (2, 2)), [[0, 1.5]]),
    (AveragePool("y", "input", (1, 2), Geometry((1, 2), (0, 1, 0, 0))), [[-1, 2.5], [4, 0.5]]),
    (AveragePool("y", "input", (1, 2), Geometry((1, 2), (0, 1, 0, 0)), True), [[-0.5, 2.5], [2, 0.5]]),
    (GlobalAveragePool("y", "input"), [[1.5]]),
    (Add("y", ("input", "input")), [[-2, 4, 6], [8, -10, 12]]),
    (BatchNorm("y", "input", *(np.array([v]) for v in (3.0, 0.5, 2.0, 8.0)), epsilon=1.0), [
        [-2.5, 0.5, 1.5], [2.5, -6.5, 4.5]]),  # gain 3/sqrt(9)
])
def test_values_by_hand(node, expected):
    y = run_float(Network((1, 2, 3), [node]), PLANE)
    assert y.tolist() == [[expected]]


def test_flatten_runs_channel_row_column_and_concat_along_the_channels():
    x = np.arange(8.0).reshape(1, 2, 2, 2)
    network = Network((2, 2, 2), [Concat("c", ("input", "input")), Flatten("f", "c")])
    assert run_float(network, x).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7] * 2]


def test_linear_is_x_times_the_transposed_weight_plus_bias():
    weight, bias = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, -1.0]]), np.array([0, 0, 0.5])
    network = Network((2,), [Linear("l", "input", weight, bias)])
    assert run_float(network, np.array([[1.0, 10.0]])).tolist() == [[21, 43, -9.5]]


def as_onnx(onnx, batch: dict[str, np.ndarray], node):
    """An ONNX node, its initializers, and a bound on what float32 may lose in it."""
    make = onnx.helper.make_node
    tensors = {}

    def constant(suffix, array):
        name = f"{node.name}.{suffix}"
        tensors[name] = onnx.numpy_helper.from_array(np.asarray(array, np.float32), name)
        return name

    inputs, reach = [f"{name}:in" for name in node.inputs], max(np.abs(batch[name]).max() for name in node.inputs)
    if isinstance(node, (Conv, Linear)):
        reach = reach * np.abs(node.weight).reshape(len(node.weight), -1).sum(axis=1).max()
        reach += 0 if node.bias is None else np.abs(node.bias).max()
        inputs += [constant("weight", node.weight)] + ([] if node.bias is None else [constant("bias", node.bias)])
        if isinstance(node, Linear):
            return make("Gemm", inputs, [node.name], transB=1), tensors, reach
        g = node.geometry
        return make("Conv", inputs, [node.name], pads=g.padding, strides=g.stride, dilations=g.dilation,
                    group=g.groups), tensors, reach
    if isinstance(node, BatchNorm):
        inputs += [constant(name, getattr(node, name)) for name in ("gamma", "beta", "mean", "variance")]
        reach = 1 + (reach + np.abs(node.mean).max()) * np.abs(node.gamma).max() / np.sqrt(node.variance.min() + 1e-5)
        return make("BatchNormalization", inputs, [node.name], epsilon=node.epsilon), tensors, reach
    if isinstance(node, Clip):
        limits = {"low": node.low, "high": node.high}
        inputs += ["" if limit is None else constant(name, limit) for name, limit in limits.items()]
        return make("Clip", inputs, [node.name]), tensors, 0
    if isinstance(node, MaxPool):
        g = node.geometry
        attributes = {"kernel_shape": node.kernel, "pads": g.padding, "strides": g.stride, "dilations": g.dilation}
        if isinstance(node, AveragePool):
            return make("AveragePool", inputs, [node.name], **attributes,
                        count_include_pad=int(node.count_include_pad)), tensors, reach
        return make("MaxPool", inputs, [node.name], **attributes), tensors, 0
    operator = {GlobalAveragePool: "GlobalAveragePool", Add: "Add", Concat: "Concat", Flatten: "Flatten"}[type(node)]
    return make(operator, inputs, [node.name], **({"axis": 1} if isinstance(node, Concat) else {})), tensors, (
        reach if isinstance(node, GlobalAveragePool) else 0)


@given(st.data())
def test_every_tensor_of_a_random_network_agrees_with_onnxruntime(data):
    """Each node is given the tensors that refquant computed, so that float32 errors do not accumulate.

    What does no sum (Clip, MaxPool, Add, Concat, Flatten) must agree exactly.
    """
    onnx = require_module("onnx", "pip install onnx")
    runtime = require_module("onnxruntime", "pip install onnxruntime")
    network = data.draw(networks())
    tensors = run_float_tensors(network, data.draw(images(network)))
    converted = [as_onnx(onnx, tensors, node) for node in network.nodes]
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node for node, _, _ in converted], "network",
        [value(f"{name}:in", kind, x.shape) for name, x in tensors.items()],
        [value(node.name, kind, None) for node in network.nodes],
        [tensor for _, constants, _ in converted for tensor in constants.values()])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run([node.name for node in network.nodes], {f"{name}:in": x for name, x in tensors.items()})
    for node, y, (_, _, reach) in zip(network.nodes, expected, converted):
        assert tensors[node.name].shape == y.shape, node
        np.testing.assert_allclose(tensors[node.name], y, rtol=0, atol=reach * 2.0**-20, err_msg=str(node))


@given(st.data())
def test_an_image_gives_the_same_output_alone_and_in_a_batch(data):
    """In float64 and to 1e-9 of the largest value: BLAS may sum in another order."""
    network = data.draw(networks(dtype=np.float64))
    batch = data.draw(images(network, 3, np.float64))
    together = run_float_tensors(network, batch)
    alone = run_float_tensors(network, batch[1:2])
    for name, x in together.items():
        np.testing.assert_allclose(alone[name][0], x[1], rtol=0, atol=1e-9 * (1 + max(
            np.abs(t).max() for t in together.values())))
