"""ONNX files: what becomes of their nodes and constants, every refusal with its sentence, damaged files."""

import re
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import chain, model, onnx, tensor
from onnx_samples import CONV, FLATTEN, MODELS, B, F, W, check_floats, ints, load, node

from refquant.convolution.geometry import Geometry
from refquant.network import graph
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float
from refquant.network.storage import MAX_ELEMENTS
from refquant.readers.onnx_file import load_onnx
from refquant.readers.onnx_translation import MAX_PARAMETERS
from refquant.recipes.quantize import quantize_network

DOUBLE, INT8, FLOAT = onnx.TensorProto.DOUBLE, onnx.TensorProto.INT8, onnx.TensorProto.FLOAT
RELU = ("Relu", {}, {})


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    """Where a test writes its model; one for all, because Hypothesis wants no fixture per example."""
    return tmp_path_factory.mktemp("onnx") / "model.onnx"


def conv(weight=W, **attributes):
    return chain(("Conv", {"w": weight}, attributes))


# --- nodes ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
def test_auto_pad_is_onnxruntimes_wherever_that_does_not_pad_negatively(auto, stride, file):
    """Kernels to 3, heights to 9. A total of -1 or -2 pads nothing, as in a 1x1 shortcut of stride 2."""
    for kernel, size in ((kernel, size) for kernel in (1, 2, 3) for size in range(1, 10)):
        weight = np.arange(1, 2 * kernel + 1, dtype=np.float32).reshape(1, 2, kernel, 1)
        loaded = chain(("Conv", {"w": weight}, {"auto_pad": auto, "strides": [stride, 1]}), shape=("N", 2, size, 2))
        total = (-(-size // stride) - 1) * stride + kernel - size
        if total > -3:
            check_floats(loaded, file)
        else:
            with pytest.raises(ValueError, match=rf"total padding of -2 or more, as onnxruntime .* got {total} for "):
                load(loaded, file)


@pytest.mark.parametrize("opsets", [[("", 13), ("ai.onnx.ml", 2)], [("com.microsoft", 1), ("", 13)],
                                    [("", 13), ("ai.onnx.ml", 3), ("ai.onnx.training", 1)], [("ai.onnx", 13)]])
def test_domains_that_no_node_uses_do_not_matter(opsets, file):
    check_floats(with_opsets(*opsets), file)


def test_running_statistics_that_nobody_reads_do_not_matter(file):
    """onnxruntime takes five outputs for training."""
    loaded = model([node("BatchNormalization", ["x", *"gbmv"], ["y", "mean", "var", "saved_mean", "saved_var"])],
                   [tensor(name, [1.5, 0.5]) for name in "gbmv"], opset=9)
    x = np.random.default_rng(0).normal(size=(3, 2, 6, 6)).astype(np.float32)
    found = run_float(load(loaded, file), x)
    del loaded.graph.node[0].output[1:]
    assert np.array_equal(found, run_float(load(loaded, file), x))


@pytest.mark.parametrize(("made", "kinds", "tensors"), [
    (MODELS["Pad by attribute"], ["Conv"], ["x", "y"]), (MODELS["Pad some axes"], ["Conv"], ["x", "y"]),
    (MODELS["addends behind a layer"], ["Conv"], ["x", "y"]),
    (MODELS["Identity"], ["Clip"], ["x", "t1"]), (MODELS["Conv and then Mul"], ["Conv"], ["x", "t0"]),
    *[(MODELS[name], ["Pointwise"], ["x", "y"])
      for name in ("SiLU of two nodes", "HardSwish of four nodes", "GELU of five nodes", "x times x")],
    (MODELS["ReduceMean of operator set 18"], ["GlobalAveragePool", "Flatten"], ["x", "y:mean", "y"]),
    (chain(("Transpose", {}, {"perm": [0, 2, 3, 1]}), ("Transpose", {}, {"perm": [0, 3, 1, 2]}), RELU),
     ["Clip"], ["x", "y"])])
def test_nodes_become_one_where_that_computes_the_same_and_tensors_keep_their_names(made, kinds, tensors, file):
    network = load(made, file)
    network = network if kinds != ["Conv"] else fold_batchnorm(network)
    assert [type(one).__name__ for one in network.nodes] == kinds
    assert list(network.shapes) == tensors


@pytest.mark.parametrize(("step", "nodes"), [(("Abs", {}, {}), 6), (("Pow", {"e": np.float32(2)}, {}), 55)])
def test_a_joined_function_has_at_most_64_operations(step, nodes, file):
    """Each Pow 2 doubles the expression: six make 63 operations."""
    network = load(chain(*[step] * 330), file)
    assert [type(one).__name__ for one in network.nodes] == ["Pointwise"] * nodes


def test_limits_of_floats_are_no_limits(file):
    lowest = float(np.finfo(np.float32).min)
    (clip,) = load(chain(("Clip", {}, {"min": lowest, "max": -lowest}), opset=7), file).nodes
    assert (clip.low, clip.high) == (None, None)


@pytest.mark.parametrize("batch", ["N", None, 1])
@pytest.mark.parametrize("shape", [(3, 4, 5), (7,)])
def test_the_batch_axis_is_symbolic_or_one(batch, shape, file):
    assert load(chain(RELU, shape=(batch, *shape)), file).input_shape == shape


# --- element types and where they are stored ------------------------------------------------------------------

@pytest.mark.parametrize(("dtype", "kept"), [(np.float16, np.float32), (np.float32, np.float32),
                                             (np.float64, np.float64)])
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("integer", [np.int64, np.int32])
def test_values_are_kept_in_float32_or_float64_or_as_integers(dtype, kept, raw, integer, file):
    weight, pads = W.astype(dtype), np.array([0, 0, 1, 2, 0, 0, 3, 0], integer)
    held = [onnx.helper.make_tensor(name, onnx.helper.np_dtype_to_tensor_dtype(values.dtype), values.shape,
                                    values.tobytes() if raw else values.ravel(), raw)
            for name, values in (("w", weight), ("p", pads))]
    (layer,) = load(model([node("Pad", ["x", "p"], ["q"]), node("Conv", ["q", "w"], ["y"])], held), file).nodes
    assert layer.weight.dtype == kept
    assert np.array_equal(layer.weight, weight.astype(kept))
    assert layer.geometry.padding == (1, 2, 3, 0)


def test_a_float64_model_agrees_with_onnxs_reference(file):
    loaded = model([node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["y"])],
                   [tensor("w", W, np.float64)], kind=DOUBLE)
    images = np.random.default_rng(1).normal(size=(2, 2, 6, 6))
    from onnx.reference import ReferenceEvaluator
    expected = ReferenceEvaluator(loaded).run(None, {"x": images})[0]
    y = run_float(load(loaded, file), images)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


# --- what ends a network --------------------------------------------------------------------------------------

def test_softmax_is_float_only_and_can_be_left_out(file):
    network = load(chain(FLATTEN, ("Softmax", {}, {})), file)
    assert network.without_softmax().output == "t0"
    assert [type(one) for one in network.without_softmax().nodes] == [graph.Flatten]
    assert network.without_softmax().without_softmax().nodes == network.without_softmax().nodes
    with pytest.raises(ValueError, match="node 'y': Softmax has no integer form"):
        quantize_network(network, np.ones((1, 2, 6, 6), np.float32))


ONLY_AN_OUTPUT = "node 's': a Softmax must be the network's output and read by no node"


@pytest.mark.parametrize(("build", "message"), [
    (lambda: graph.Network((3,), [graph.Softmax("s", "input"), graph.Clip("c", "s")]), ONLY_AN_OUTPUT),
    (lambda: graph.Network((3,), [graph.Softmax("s", "input"), graph.Clip("c", "input")]), ONLY_AN_OUTPUT),
    (lambda: graph.Network((3,), [graph.Softmax("s", ("input", "input"))]),
     "node 's': Softmax reads one tensor, got ('input', 'input')"),
    (lambda: graph.Network((3, 1, 1), [graph.Final("s", "input", "softmax", 3)]),
     "node 's': axis must be one of shape (3, 1, 1), got 3"),
    *[(lambda overhang=overhang: graph.AveragePool("p", "x", (2, 2), Geometry(padding=(0, 0, 1, 1)), True, overhang),
       f"overhang must be two integers within the bottom and right padding (1, 1), got {overhang}")
      for overhang in ((0, 2), (-1, 0), (1,), (0.5, 0))]])
def test_nodes_that_files_make_are_refused(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build()


def test_the_network_ends_at_the_outputs_that_are_asked_for(file):
    heads = model([node("Relu", ["x"], ["r"]), node("GlobalAveragePool", ["r"], ["a"]),
                   node("LRN", ["r"], ["y"], size=3)])
    with pytest.raises(ValueError, match=r"node 'y' \(LRN\): operator LRN is not supported; --output r ends the "
                                         r"network before it$"):
        load(heads, file)
    assert load_onnx(file, outputs=("a", "r")).outputs == ("a", "r")
    with pytest.raises(ValueError, match="tensors that a node computes, got 'q'; the last ones are r,"):
        load_onnx(file, outputs=("q",))


def test_an_open_height_is_given(file):
    with pytest.raises(ValueError, match=r"--input-shape gives those that are open, as in 3,224,224$"):
        load(chain(RELU, shape=("N", 3, "H", "W")), file)
    assert load_onnx(file, input_shape=(3, 5, 7)).input_shape == (3, 5, 7)
    with pytest.raises(ValueError, match=r"which the input shape must fit without the first axis, got \(4, 5, 7\)$"):
        load_onnx(file, input_shape=(4, 5, 7))


# --- refusals -------------------------------------------------------------------------------------------------

def with_opsets(*opsets):
    loaded = chain(RELU)
    del loaded.opset_import[:]
    loaded.opset_import.extend(onnx.helper.make_opsetid(*opset) for opset in opsets)
    return loaded


def with_function():
    loaded = chain(RELU)
    loaded.functions.append(onnx.helper.make_function("local", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])],
                                                      [onnx.helper.make_opsetid("", 13)]))
    return loaded


def with_subgraph():
    branch = onnx.helper.make_graph([node("Relu", ["x"], ["b"])], "branch", [],
                                    [onnx.helper.make_tensor_value_info("b", FLOAT, None)])
    return model([node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)], [tensor("c", True, bool)])


def with_sparse():
    loaded = chain(RELU)
    sparse = onnx.helper.make_sparse_tensor(tensor("w", [1.0]), tensor("i", [3], np.int64), [8])
    loaded.graph.sparse_initializer.append(sparse)
    return loaded


def with_ends(inputs, outputs):
    loaded = model([node("Add", ["x", "x"], ["y"]), node("Relu", ["y"], ["z"])])
    for ends, names in ((loaded.graph.input, inputs), (loaded.graph.output, outputs)):
        del ends[:]
        ends.extend(onnx.helper.make_tensor_value_info(name, FLOAT, (1, 4)) for name in names)
    return loaded


def without_shape():
    loaded = chain(RELU)
    loaded.graph.input[0].type.tensor_type.ClearField("shape")
    return loaded


def declaring(dims, data=b"\0\0\0\0"):
    """A convolution whose weight declares more than it holds."""
    weight = onnx.TensorProto(name="w", data_type=FLOAT, dims=dims, raw_data=data)
    return model([node("Conv", ["x", "w"], ["y"])], [weight])


def twice(loaded):
    loaded.graph.initializer.append(loaded.graph.initializer[0])
    return loaded


def doubled():
    """Each of forty nodes doubles its tensor."""
    nodes = [node("Concat", [f"t{i}"] * 2 if i else ["x", "x"], [f"t{i + 1}"], axis=1) for i in range(40)]
    return model(nodes, shape=("N", 1), output="t40")


def padded(**inputs):
    """A Pad before a convolution."""
    return chain(("Pad", inputs, {}), CONV, opset=18)


ONES = dict(zip("gbmv", np.ones((4, 2), np.float32)))
TWOS = dict(zip("gbmv", np.ones((4, 4), np.float32)))
RATIO = np.float32(0.5)
RESHAPE = "a reshape must keep the batch in front and the 72 elements of (2, 6, 6) behind it"
SCALES = "scales must be 1 for the batch and whole numbers up to 65536 for (2, 6, 6)"
INFERENCE = "only inference per channel is supported: training_mode 0, spatial 1"
LARGE = f"a tensor may have at most {MAX_ELEMENTS} elements, got shape"
DECLARED = f"tensor 'w' must have at most 8 axes and 1 to {MAX_PARAMETERS} elements, got shape"
# Of the last node, whose name and operator stand before the sentence.
REFUSED_NODES = [
    # operators, their attributes, inputs and outputs
    (model([node("Relu", ["x"], ["y"], domain="com.microsoft")]), "operator com.microsoft.Relu is not supported"),
    (with_subgraph(), "operator If is not supported"),
    (model([node("Re\nlu\x1b", ["x"], ["y"])]), "operator Re\\nlu\\x1b is not supported"),
    (chain(("Relu", {}, {"alpha": 1.0})), "attribute alpha is not supported"),
    (conv(group=1.0), "attribute group must be of type int, got float"),
    (conv(strides=[1.0, 1.0]), "attribute strides must be a list of integers, got (1.0, 1.0)"),
    (model([node("Conv", ["x"], ["y"])]), "it must have 2 to 3 inputs, got 1"),
    (model([node("Add", ["x", ""], ["y"])]), "it must have 2 inputs, got 1"),
    (model([node("Concat", ["x", ""], ["y"], axis=1)]), "it must read computed tensors, got ''"),
    (model([node("MaxPool", ["x"], ["z", "y"], kernel_shape=[1, 1])]),
     "only its first output may be read, got a reader of 'y' too"),
    (model([node("Add", ["x", "z"], ["y"])]), "it must read tensors made before it, got 'z', made by nothing"),
    (model([node("Relu", ["y"], ["y"])]),
     "it must read tensors made before it, got 'y', made by a later node: a cycle, or nodes out of order"),
    # constants
    (model([node("Conv", ["x", "x"], ["y"])]), "'x' must be a constant, got a computed tensor"),
    (model([node("Relu", ["w"], ["y"])], [tensor("w", [1.0])]),
     "'w' must be computed from the network's input, got a constant"),
    (conv(W.astype(np.int64)), "'w0' must hold floats, got int64"),
    (conv(W.astype(np.int8)),
     "tensor 'w0' must hold float16, float32, float64, int32, int64 or bool, got ONNX element type 3"),
    (conv(W * np.float32(np.inf)), "weight must be finite, got NaN or infinity"),
    *[(declaring(dims), f"{DECLARED} {dims[:9]}") for dims in (
        (2**20, 2**20, 1, 1), (2**62, 2**62, 2**62, 0), (2**62,) * 100_000, (-1, 2, 3, 2))],
    *[(declaring(dims, bytes(size)), f"tensor 'w' must hold the {count} elements of its shape {dims}, got {got}")
      for dims, size, count, got in (((1, 2, 3, 4), 4, 24, 1), ((1, 1, 1, 1), 2, 1, 0.5), ((1,), 12, 1, 3))],
    # layers
    (conv(np.ones((1, 2, 3), np.float32)), "input must be (N, C, L), got (N, 2, 6, 6)"),
    (conv(np.ones((1, 2, 3, 3, 3), np.float32)), "weight must be (O, C/groups, R, S) or (O, C/groups, S), as only "
     "1-D and 2-D convolution is supported, got shape (1, 2, 3, 3, 3)"),
    (conv(W[:, :1]), "weight must be (O, 2, R, S) for 2 input channels in 1 groups, got shape (3, 1, 3, 2)"),
    (conv(group=0), "groups must be >= 1, got 0"),
    *[(chain(("ConvTranspose", {"w": W.swapaxes(0, 1)}, {"group": group})), "group must divide the 2 input channels, "
       f"and strides and dilations be 1 or more, got {group}, (1, 1) and (1, 1)") for group in (0, -1, 3)],
    (conv(kernel_shape=[2, 3]), "attribute kernel_shape must be the weight's (3, 2), got (2, 3)"),
    (conv(strides=[1, 1, 1]),
     "attribute strides must be 2 integers up to 65536, as only 2-D windows are supported, got (1, 1, 1)"),
    (conv(pads=[2**40, 0, 0, 0]), "attribute pads must be 4 integers up to 65536, as only 2-D windows are supported, "
     "got (1099511627776, 0, 0, 0)"),
    (conv(pads=[-1, 0, 0, 0]), "padding must be >= 0, got (-1, 0, 0, 0)"),
    (conv(strides=[0, 1], auto_pad="SAME_UPPER"), "stride must be >= 1, got (0, 1)"),
    (conv(auto_pad="SAME"), "attribute auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got b'SAME'"),
    (conv(auto_pad="VALID", pads=[1, 1, 1, 1]), "auto_pad VALID and pads (1, 1, 1, 1) contradict each other"),
    (chain(("MaxPool", {}, {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "dilations": [2, 1]})),
     "auto_pad SAME with dilations is not supported, as runtimes disagree about it"),
    (chain(FLATTEN, CONV), "input must be (N, C, H, W) planes, got (N, 72)"),
    (conv(np.ones((1, 2, 7, 1), np.float32)), "the kernel must fit the padded input, got extent 7 over 6"),
    (chain(("Conv", {"w": W[:1, :1, :1, :1]}, {"pads": [2**16] * 4}), shape=(1, 1, 1, 1)),
     f"{LARGE} (1, 131073, 131073)"),
    (chain(FLATTEN, ("Gemm", {"w": F}, {"transA": 1})), "transA 1 is not supported, only 0"),
    (chain(FLATTEN, ("Gemm", {"w": W}, {})), "weight must be a matrix, got shape (3, 2, 3, 2)"),
    (chain(("Gemm", {"w": F}, {"transB": 1})), "input must have shape (72,), got (2, 6, 6)"),
    (chain(FLATTEN, ("Gemm", {"w": F, "b": B}, {"transB": 1})),
     "a constant addend must broadcast to (1, 4), got shape (3,)"),
    (chain(FLATTEN, ("MatMul", {"w": W}, {})), "the second factor must be a matrix, got shape (3, 2, 3, 2)"),
    (model([node("MatMul", ["w", "x"], ["y"])], [tensor("w", F)], ("N", 72)),
     "'x' must be a constant, got a computed tensor"),
    (chain(("BatchNormalization", ONES, {"training_mode": 1}), opset=15), INFERENCE),
    (chain(("BatchNormalization", ONES, {"spatial": 0}), opset=7), INFERENCE),
    (chain(("BatchNormalization", TWOS, {})), "input must have 4 channels, got shape (2, 6, 6)"),
    (chain(("Dropout", {"ratio": RATIO, "train": np.bool_(True)}, {})),
     "only inference is supported: training_mode false"),
    (chain(("Dropout", {"ratio": RATIO, "train": np.float32(0)}, {})),
     "'train0' must be one boolean, got shape () of float32"),
    # windows and values
    (chain(("MaxPool", {}, {})), "kernel must be two integers >= 1, got (0, 0)"),
    (chain(FLATTEN, ("MaxPool", {}, {"kernel_shape": [1, 1]})), "input must be (N, C, H, W) planes, got (N, 72)"),
    (chain(("MaxPool", {}, {"kernel_shape": [1, 1], "pads": [0, 0, 0, 1]})),
     "every window must see the input, got padding (0, 0, 0, 1) for kernel (1, 1)"),
    (chain(("AveragePool", {}, {"kernel_shape": [9, 1], "ceil_mode": 1})),
     "the kernel must fit the padded input, got extent 9 over 6"),
    (chain(("MaxPool", {}, {"kernel_shape": [1, 1], "ceil_mode": 2})), "attribute ceil_mode must be 0 or 1, got 2"),
    (padded(pads=ints(0, 1, 1, 1, 0, 1, 1, 1)),
     "weight must be (O, 4, R, S) for 4 input channels in 1 groups, got shape (3, 2, 3, 2)"),
    (chain(("Clip", {"low": np.float32(1), "high": np.float32(0)}, {})),
     "clip needs finite low <= high, got 1.0 and 0.0"),
    (chain(("ReduceMean", {}, {})), "the mean must be over axes behind the batch, got all axes"),
    *[(chain(("ReduceMean", {}, {"axes": [2, axis]})), f"axes must be one of 1 to 3, behind the batch, got {axis}")
      for axis in (6, -5, 4, 0, -4)],
    (chain(FLATTEN, ("ArgMax", {}, {"axis": 1, "select_last_index": 1})), "select_last_index must be 0, got 1"),
    (chain(("ArgMax", {}, {"axis": 1, "keepdims": 0})),
     "keepdims must be 1 for an image of several axes, got 0 for (2, 6, 6)"),
    (chain(FLATTEN, ("Softmax", {}, {"keepdims": 1})), "attribute keepdims is not supported"),
    # moves
    (chain(("Concat", {}, {})), "attribute axis must be given, got none"),
    *[(chain(("Resize", {"r": None, "s": np.float32(scales)}, {
        "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})),
       f"{SCALES}, got {tuple(np.float32(scales).tolist())}")
      for scales in ((1, 1, 1, 2.3), (1, 1, 1, 0.5), (1, 1, np.inf, 1), (1, 1, 1, np.nan), (2, 1, 1, 1), (1, 1, 2),
                     (1, 1, 1e30, 1))],
    (chain(("Resize", {"r": None, "s": None, "z": ints(1, 2, 12, 15)}, {})), f"{SCALES}, got (1.0, 1.0, 2.0, 2.5)"),
    (chain(("Resize", {"r": None, "s": None, "z": ints(1, 2, 12, 6)}, {}), shape=(2, 2, 6, 6)),
     f"{SCALES}, got (0.5, 1.0, 2.0, 1.0)"),
    (chain(("Resize", {"r": None, "s": None, "z": ints(1, 2, 12)}, {})),
     "sizes must be one for each axis of (1, 2, 6, 6), got (1, 2, 12)"),
    (chain(("Upsample", {}, {"scales": [b"1"] * 4}), opset=8), f"{SCALES}, got (b'1', b'1', b'1', b'1')"),
    (chain(("Flatten", {}, {"axis": 0})), "axis must keep the batch apart from (2, 6, 6), got 0"),
    *[(chain(("Reshape", {"shape": ints(*target)}, {})), f"{RESHAPE}, got {(target[0] or 1, *target[1:])}")
      for target in ((2, 36), (-1, -1), (72,), (0, 71))],
    (chain(("Reshape", {"shape": ints(0, -1)}, {"allowzero": 1}), opset=14), f"{RESHAPE}, got (0, -1)"),
]
ZERO_ONLY = "only padding with the constant 0 is supported, got mode b"
TOLD = "two integers for each of the axes, got"
OPSET = "only ONNX's own operator set, 7 or newer, is supported, got"
SHAPE, OPEN = "must have a batch axis and one to six others that are fixed, got", (
    "; --input-shape gives those that are open, as in 3,224,224")
REFUSED = [
    # nodes that are not the last
    (model([node("Dropout", ["x"], ["d", "mask"]), node("Relu", ["mask"], ["y"])]),
     "node 'd' (Dropout): only its first output may be read, got a reader of 'mask' too"),
    (chain(("Pad", {"pads": ints(*[0, 0, 1, 1] * 2)}, {"mode": "edge"}), CONV),
     f"node 't0' (Pad): {ZERO_ONLY}'edge' with 0"),
    (padded(pads=ints(*[0, 0, 1, 1] * 2), value=np.float32(1)), f"node 't0' (Pad): {ZERO_ONLY}'constant' with 1"),
    (padded(pads=ints(*[0, 0, 1, 1] * 2), value=B), "node 't0' (Pad): 'value0' must be one number, got shape (3,)"),
    (padded(pads=ints(*[1, 0, 0, 0] * 2)), "node 't0' (Pad): only axes behind the batch can be padded, by at most "
     "65536, got (1, 0, 0, 0, 1, 0, 0, 0)"),
    (padded(pads=ints(1, 1, 1)), f"node 't0' (Pad): pads must be {TOLD} 3 for axes (0, 1, 2, 3) of 4"),
    (padded(pads=ints(1, 1), value=None, axes=ints(4)), f"node 't0' (Pad): pads must be {TOLD} 2 for axes (4,) of 4"),
    (padded(pads=np.float32([0, 0, 1, 1] * 2)),
     "node 't0' (Pad): 'pads0' must be up to 16 integers, got float32 of shape (8,)"),
    (chain(FLATTEN, ("Softmax", {}, {}), RELU),
     "node 't1': a Softmax must be the network's output and read by no node"),
    (model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]),
     "node 'a' (Add): it must read tensors made before it, got 'b', made by a later node: a cycle, or nodes out of "
     "order"),
    (doubled(), f"node 't27' (Concat): {LARGE} ({2**27},)"),
    *[(model([node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"])], [tensor("s", [size])]),
       "node 'y' (Add): ConstantOfShape must have a shape of integers, got float32") for size in (np.inf, 6.0)],
    # graphs
    (model([node("Relu", ["x"], ["y"]), node("Relu", ["y"], ["y"])]), "tensor names must differ, got 'y' twice"),
    (model([node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0), node("Relu", ["x"], ["y:mean"]),
            node("Concat", ["y", "y:mean"], ["z"], axis=1)], output="z"),
     "node 'y:mean' (Relu): tensor names must differ, got 'y:mean' twice"),
    (twice(conv()), "tensor names must differ, got two initializers of one name"),
    (with_ends([], ["y"]), "a network must have one input, got none"),
    (with_ends(["x"], ["other"]), "the output 'other' must be computed by a node, got none that does"),
    (model([node("Constant", [], ["y"], value_float=1.0)]),
     "'y' must be computed from the network's input, got a constant"),
    (without_shape(), f"input 'x' {SHAPE} (){OPEN}"),
    (chain(RELU, shape=("N", 3, "height", None)), f"input 'x' {SHAPE} (N, 3, height, ?){OPEN}"),
    (chain(RELU, shape=("N", 0)), f"input 'x' {SHAPE} (N, 0){OPEN}"),
    (chain(RELU, shape=("N", 1, 2**20, 2**20)),
     f"input 'x' may have at most {MAX_ELEMENTS} elements, got shape (1, 1048576, 1048576)"),
    (chain(RELU, kind=INT8), "input 'x' must hold floats, got ONNX element type 3"),
    (with_opsets(), f"{OPSET} none"),
    (with_opsets(("", 13), ("ai.onnx", 6)), f"{OPSET} ai.onnx 13, ai.onnx 6"),
    (with_opsets(("com.microsoft", 1)), f"{OPSET} com.microsoft 1"),
    (with_function(), "functions are not supported, got 1"),
    (with_sparse(), "sparse initializers are not supported, got 1"),
    (onnx.ModelProto(), "it must be an ONNX model, got a graph without nodes"),
]


def last_node(made):
    kind = made.graph.node[-1].op_type.replace("\n", "\\n").replace("\x1b", "\\x1b")
    return f"node '{made.graph.node[-1].output[0]}' ({kind}): "


@pytest.mark.parametrize(("loaded", "message"), [
    *REFUSED, *[(made, last_node(made) + message) for made, message in REFUSED_NODES]])
def test_refusals_say_in_one_sentence_what_is_wrong(loaded, message, file):
    file.write_bytes(loaded.SerializeToString())
    tracemalloc.start()
    try:
        hint = "(; --output .* ends the network before it)?"
        with pytest.raises(ValueError, match=f"^{re.escape(f'{file}: {message}')}{hint}$"):
            load_onnx(file)
        assert tracemalloc.get_traced_memory()[1] < 2**25  # nothing of a declared size was allocated
    finally:
        tracemalloc.stop()


def test_a_long_chain_of_constants_is_refused(file):
    nodes = [node("Neg", [f"c{k}"], [f"c{k + 1}"]) for k in range(2000)]
    with pytest.raises(ValueError, match=r"node 'y' \(Add\): it must depend on fewer nodes in a row, got more than"):
        load(model([*nodes, node("Add", ["x", "c2000"], ["y"])], [tensor("c0", 1.0)]), file)


def test_weights_shared_by_many_layers_count_each_time(file, monkeypatch):
    monkeypatch.setattr("refquant.readers.onnx_translation.MAX_PARAMETERS", 100)
    nodes = [node("Conv", ["x", "w"], [f"t{i}"]) for i in range(3)]
    with pytest.raises(ValueError, match=r"node 't2' \(Conv\): a network may have at most 100 parameters, got more$"):
        load(model([*nodes, node("Sum", ["t0", "t1", "t2"], ["y"])], [tensor("w", W)]), file)


# --- files ----------------------------------------------------------------------------------------------------

def test_what_is_no_file_or_too_large_is_refused(tmp_path, file, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_onnx(tmp_path / "nothing.onnx")
    with pytest.raises(ValueError, match=r"must be a file of less than 2147483648 bytes$"):
        load_onnx(tmp_path)
    monkeypatch.setattr("refquant.readers.onnx_file._MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"model.onnx must be a file of less than 100 bytes$"):
        load(conv(), file)


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + bytes(50), b"PK\3\4", b"not a model", bytes(100),
                                  b"\xff" * 64, b""])
def test_a_foreign_file_is_refused(data, file):
    file.write_bytes(data)
    with pytest.raises(ValueError, match="must be an ONNX model, got"):
        load_onnx(file)


WHOLE = MODELS["constants"].SerializeToString()


@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_file_is_refused(file, length):
    file.write_bytes(WHOLE[:length])
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load_onnx(file)


def test_without_onnx_the_error_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        load_onnx("model.onnx")
    assert str(caught.value) == "reading ONNX files needs the onnx package: pip install 'refquant[onnx]'"


# --- external data --------------------------------------------------------------------------------------------

def external(folder: Path, location: str, **entries: str) -> Path:
    """A model in ``folder`` whose weight is said to be at ``location``."""
    weight = onnx.TensorProto(name="w", data_type=FLOAT, dims=W.shape, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model([node("Conv", ["x", "w"], ["y"])], [weight]).SerializeToString())
    return path


@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin", "./weights.bin"])
@pytest.mark.parametrize(("entries", "before"), [({}, b""), ({"offset": "16"}, bytes(16)),
                                                 ({"offset": "3", "length": "144"}, bytes(3))])
def test_external_data_beside_the_model_is_read(location, entries, before, tmp_path):
    target = tmp_path / location
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(before + W.tobytes() + b"more")
    assert np.array_equal(load_onnx(external(tmp_path, location, **entries)).nodes[0].weight, W)


@pytest.mark.parametrize("location", ["../weights.bin", "sub/../weights.bin", "/weights.bin", "link.bin", "", ".",
                                      "nothing.bin", "a" * 5000])
def test_external_data_elsewhere_is_refused(location, tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for directory in (tmp_path, folder):
        (directory / "weights.bin").write_bytes(W.tobytes())
    if location == "link.bin":
        try:
            (folder / location).symlink_to(tmp_path / "weights.bin")
        except OSError:  # Windows lets only some users
            pytest.skip("no symbolic links here")
    if location == "/weights.bin":
        location = str(folder / "weights.bin")  # absolute, although inside
    with pytest.raises(ValueError, match=r"node 'y' \(Conv\): tensor 'w': external data must "
                                         r"(lie in the|be a file|be readable)"):
        load_onnx(external(folder, location))


@pytest.mark.parametrize("entries", [{"offset": "1"}, {"length": "4"}, {"offset": "-1"}, {"offset": "one"}])
def test_external_data_that_is_too_short_is_refused(entries, tmp_path):
    (tmp_path / "weights.bin").write_bytes(W.tobytes())
    path, told = external(tmp_path, "weights.bin", **entries), {"length": "144", "offset": "0", **entries}
    message = (f"{path}: node 'y' (Conv): tensor 'w': external data must hold 144 bytes, got length {told['length']} "
               f"at offset {told['offset']} of the 144 bytes in 'weights.bin'")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_onnx(path)
