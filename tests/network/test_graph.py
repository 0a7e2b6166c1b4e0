"""The float graph: refusals by hand, values and shapes against onnxruntime and hand-worked planes."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounding_reach import reach
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
    Final,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Softmax,
)
from refquant.network.moves import Pad, Reshape
from refquant.network.pointwise import Pointwise, X
from refquant.strategies import images, networks


def conv(name="conv", source="input", shape=(2, 3, 3, 3), bias=None, **geometry) -> Conv:
    return Conv(name, (source,), np.ones(shape, np.float32), bias, Geometry(**geometry))


def norm(name="norm", channels=3, **changes) -> BatchNorm:
    values = dict.fromkeys(("gamma", "beta", "mean", "variance"), np.ones(channels, np.float32))
    return BatchNorm(name, "input", **{**values, **changes})


# --- the graph ------------------------------------------------------------------------------------------------

def test_the_output_is_the_last_node_or_the_one_named_and_is_kept_when_nodes_are_replaced():
    network = Network((3, 8, 9), [conv("a", "image"), Clip("b", "image")], input="image")
    assert network.output == "b"
    assert network.replace_nodes(network.nodes, "a").output == "a"
    shorter = Network((3, 8, 9), network.nodes, "a", "image").replace_nodes(network.nodes[:1])
    assert (shorter.input, shorter.output, shorter.input_shape) == ("image", "a", (3, 8, 9))


def test_a_tensor_has_an_only_reader_unless_it_is_read_again_or_is_the_output():
    nodes = [conv("a"), Clip("b", "a"), Clip("c", "b"), Add("d", ("b", "c")), Clip("e", "d")]
    network = Network((3, 8, 9), nodes, "d")
    assert [network.only_reader(name) and network.only_reader(name).name for name in "abcde"] == [
        "b", None, "d", None, None]


def test_parameters_are_copied_and_read_only_and_lists_of_floats_are_taken_for_arrays():
    weight = np.ones((1, 1, 1, 1), np.float32)
    node = Conv("c", "input", weight)
    weight[0] = 5
    assert node.weight.item() == 1
    with pytest.raises(ValueError, match="read-only"):
        node.weight[0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError, match="weight"):
        node.weight = weight
    assert Linear("l", "input", [[1.0, 2.0]], [3.0]).bias.tolist() == [3]


# --- values ---------------------------------------------------------------------------------------------------

PLANE = np.array([[[[-1.0, 2.0, 3.0], [4.0, -5.0, 6.0]]]])


@pytest.mark.parametrize(("node", "expected"), [
    (Clip("y", "input"), [[0, 2, 3], [4, 0, 6]]),
    (Clip("y", "input", -1.0, 3.5), [[-1, 2, 3], [3.5, -1, 3.5]]),
    (Clip("y", "input", None, None), [[-1, 2, 3], [4, -5, 6]]),
    (Clip("y", "input", None, 0.0), [[-1, 0, 0], [0, -5, 0]]),
    # Padding never wins: the corner window sees -1 alone.
    (MaxPool("y", "input", (2, 2), Geometry((2, 2), (1, 1, 0, 0))), [[-1, 3], ]),
    (AveragePool("y", "input", (2, 2)), [[0, 1.5]]),
    (AveragePool("y", "input", (1, 2), Geometry((1, 2), (0, 1, 0, 0))), [[-1, 2.5], [4, 0.5]]),
    (AveragePool("y", "input", (1, 2), Geometry((1, 2), (0, 1, 0, 0)), True), [[-0.5, 2.5], [2, 0.5]]),
    (BatchNorm("y", "input", *(np.array([v]) for v in (3.0, 0.5, 2.0, 8.0)), epsilon=1.0), [
        [-2.5, 0.5, 1.5], [2.5, -6.5, 4.5]]),  # gain 3/sqrt(9)
])
def test_values_by_hand(node, expected):
    y = run_float(Network((1, 2, 3), [node]), PLANE)
    assert y.tolist() == [[expected]]


PARAMETERS = {Conv: ("weight", "bias"), Linear: ("weight", "bias"), Clip: ("low", "high"),
              BatchNorm: ("gamma", "beta", "mean", "variance")}
ATTRIBUTES = {Linear: {"transB": 1}, Concat: {"axis": 1}}
ROUNDED = Conv, Linear, BatchNorm, AveragePool, GlobalAveragePool  # no other node does sums that float32 rounds


def as_onnx(onnx, node):
    """An ONNX node and its initializers; its inputs are named apart from the outputs of others."""
    values = {f"{node.name}.{name}": getattr(node, name) for name in PARAMETERS.get(type(node), ())}
    constants = [onnx.numpy_helper.from_array(np.asarray(value, np.float32), name)
                 for name, value in values.items() if value is not None]
    inputs = [f"{name}:in" for name in node.inputs]
    inputs += ["" if value is None else name for name, value in values.items()]
    attributes = dict(ATTRIBUTES.get(type(node), {}))
    if isinstance(node, (Conv, MaxPool)):
        g = node.geometry
        attributes = {"pads": g.padding, "strides": g.stride, "dilations": g.dilation}
        attributes |= {"group": g.groups} if isinstance(node, Conv) else {"kernel_shape": node.kernel}
    if isinstance(node, AveragePool):
        attributes["count_include_pad"] = int(node.count_include_pad)
    if isinstance(node, BatchNorm):
        attributes["epsilon"] = node.epsilon
    operator = {Linear: "Gemm", BatchNorm: "BatchNormalization"}.get(type(node), type(node).__name__)
    return onnx.helper.make_node(operator, inputs, [node.name], **attributes), constants


@given(st.data())
def test_every_tensor_of_a_random_network_agrees_with_onnxruntime(data):
    """Each node is given the tensors that refquant computed, so that float32 errors do not accumulate.

    What does no sum (Clip, MaxPool, Add, Concat, Flatten) must agree exactly.
    """
    onnx = require_module("onnx", "pip install onnx")
    runtime = require_module("onnxruntime", "pip install onnxruntime")
    network = data.draw(networks())
    tensors = run_float_tensors(network, data.draw(images(network)))
    converted = [as_onnx(onnx, node) for node in network.nodes]
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node for node, _ in converted], "network",
        [value(f"{name}:in", kind, x.shape) for name, x in tensors.items()],
        [value(node.name, kind, None) for node in network.nodes],
        [tensor for _, constants in converted for tensor in constants])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run([node.name for node in network.nodes], {f"{name}:in": x for name, x in tensors.items()})
    for node, y in zip(network.nodes, expected):
        found = tensors[node.name]
        assert (found.shape, found.dtype) == (y.shape, y.dtype), node
        largest = reach(node, *(np.abs(tensors[name]).max() for name in node.inputs))
        np.testing.assert_allclose(found, y, rtol=0, atol=largest * 2.0**-20 if isinstance(node, ROUNDED) else 0,
                                   err_msg=str(node))


@given(st.data())
def test_tensors_have_the_shapes_inferred_and_an_image_gives_the_same_alone_and_in_a_batch(data):
    """In float64 and to 1e-9 of the largest value: BLAS may sum in another order."""
    network = data.draw(networks(dtype=np.float64))
    batch = data.draw(images(network, 3, np.float64))
    kept = batch.copy()
    batch.flags.writeable = False
    together, alone = run_float_tensors(network, batch), run_float_tensors(network, batch[1:2])
    assert np.array_equal(batch, kept)
    assert {name: x.shape for name, x in together.items()} == {n: (3, *shape) for n, shape in network.shapes.items()}
    largest = 1 + max(np.abs(x).max() for x in together.values())
    for name, x in together.items():
        assert x.dtype == np.float64
        np.testing.assert_allclose(alone[name][0], x[1], rtol=0, atol=1e-9 * largest)


# --- refusals -------------------------------------------------------------------------------------------------

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
    (lambda: AveragePool("p", "input", (2, 2), Geometry(groups=2)), "pooling has no groups, got 2"),
    *[(lambda kernel=kernel: MaxPool("p", "input", kernel), f"kernel must be two integers >= 1, got {kernel!r}")
      for kernel in ((0, 1), (2, 2, 2), 2, (2.0, 2), "22")],
    # ``Geometry.of`` checks; a Geometry put together by hand is checked nowhere else.
    *[(lambda name=name, value=value: conv(**{name: value}), f"{name} must be >= {least}, got {value}")
      for name, value, least in (("stride", (0, 1), 1), ("groups", 0, 1), ("dilation", (0, 1), 1),
                                 ("padding", (-1, 0, 0, 0), 0))],
    *[(lambda shape=shape: Network(shape, [Clip("a", "input")]),
       f"input_shape must be (C, H, W) or (F,), or up to 7 integers, got {shape}")
      for shape in ((), (3, 0, 2), (-1,), (1,) * 8, (1.5, 2, 2))],
    (lambda: Final("f", "input", "foo"), "kind must be one of softmax, log_softmax, sigmoid, argmax, got 'foo'"),
    (lambda: Reshape("r", "input", (2.0, 2)), "shape must be a tuple of integers, got (2.0, 2)"),
    (lambda: Reshape("r", "input", 4), "shape must be a tuple of integers, got 4"),
    (lambda: Pad("p", "input", [0, True], (0, 0)), "before must be a tuple of integers, got (0, True)"),
    (lambda: Pointwise("p", "input", ("mul", X)), "the number of arguments of mul must be 2, got 1"),
    (lambda: Pointwise("p", "input", ("exp", X, X)), "the number of arguments of exp must be 1, got 2"),
    (lambda: Pointwise("p", "input", ("mul", X, ())), "an expression holds finite numbers, got ()"),
    *[(lambda part=part: Pointwise("p", "input", part), sentence) for part, sentence in (
        ((), "an expression holds finite numbers, got ()"), (2.0, "an expression must read 'x', got 2.0"),
        (("exp", 1.0), "an expression must read 'x', got ('exp', 1.0)"))],
    (lambda: Network((3,), [Softmax("s", "input")]).without_softmax(),
     "a network must have a node before its Softmax, got only ['s']"),
    (lambda: Network((3,), [Clip("a", "input")], "b"), "output must be a tensor of the network, got 'b'"),
    *[(lambda batch=batch: run_float(Network((3, 4, 4), [Clip("a", "input")]), batch), f"images must {sentence}")
      for batch, sentence in (
        (np.ones((2, 3, 4, 5)), "be a non-empty (N, 3, 4, 4), got shape (2, 3, 4, 5)"),
        (np.ones((3, 4, 4)), "be a non-empty (N, 3, 4, 4), got shape (3, 4, 4)"),
        (np.ones((0, 3, 4, 4)), "be a non-empty (N, 3, 4, 4), got shape (0, 3, 4, 4)"),
        (np.ones((1, 3, 4, 4), np.uint8), "hold float32 or float64, got dtype uint8"),
        (np.full((1, 3, 4, 4), np.nan), "be finite, got NaN or infinity"),
        (np.full((1, 3, 4, 4), -np.inf), "be finite, got NaN or infinity"))],
]

TWICE = ("input", "input")
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
    ([GlobalAveragePool("g", "input"), Flatten("f", "g"), Conv("a", "f", np.ones((2, 2, 1, 1)))],
     "node 'a': weight must be (O, 3, R, S) for 3 input channels in 1 groups, got shape (2, 2, 1, 1)"),
    ([Flatten("f", "input"), Conv("a", "f", np.ones((2, 216, 1, 1)), None, Geometry(padding=(1, 1, 1, 1)))],
     "node 'a': of a flat tensor the output must be flat too, got planes (3, 3)"),
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
     "node 'a': shapes must broadcast (equal sizes, or 1, on each axis), got (3, 8, 9) and (2, 6, 7)"),
    ([Add("a", ("input",))], "node 'a': Add reads two tensors, got ('input',)"),
    ([Add("a", ("input",) * 3)], "node 'a': Add reads two tensors, got ('input', 'input', 'input')"),
    ([conv("c"), Concat("a", ("input", "c"))],
     "node 'a': concat takes tensors that differ only in channels, got (3, 8, 9), (2, 6, 7)"),
    ([Flatten("f", "input"), Concat("a", ("input", "f"))],
     "node 'a': concat takes tensors that differ only in channels, got (3, 8, 9), (216,)"),
    *[([node], f"node 'a': {type(node).__name__} reads one tensor, got ('input', 'input')") for node in (
        Clip("a", TWICE), Flatten("a", TWICE), MaxPool("a", TWICE, (1, 1)), GlobalAveragePool("a", TWICE),
        Conv("a", TWICE, np.ones((1, 3, 1, 1))))],
]


@pytest.mark.parametrize(("build", "message"), [
    *BAD_NODES, *((lambda nodes=nodes: Network((3, 8, 9), nodes), message) for nodes, message in BAD_GRAPHS)])
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()
