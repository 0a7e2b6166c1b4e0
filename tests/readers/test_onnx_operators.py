"""Every operator that can be read: floats as onnxruntime has them, and integers equal to their simulation."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles.onnx_models import chain, helper, model, onnx, tensor
from tools import require_module

from refquant import quantize_network
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float_tensors
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.simulated_forward import run_simulated_tensors
from refquant.readers import load_onnx
from refquant.readers.onnx_operators import OPERATORS

onnxruntime = require_module("onnxruntime", "pip install 'refquant[oracles]'")
FUZZ = Path(__file__).parents[1] / "fuzz" / "files.py"
RNG = np.random.default_rng(0)
node = helper.make_node
PLANES = ("N", 2, 6, 6)


def weights(*shape):
    return (RNG.standard_normal(shape) / 2).astype(np.float32)


def one(operator, inputs=None, attributes=None, **keywords):
    """A model of one operator behind a 1x1 convolution, so that there is a layer before it."""
    return chain(("Conv", {"w": weights(2, 2, 1, 1)}, {}), (operator, inputs or {}, attributes or {}), **keywords)


def ints(*values):
    return np.array(values, np.int64)


MODELS = {
    # functions of one tensor
    **{operator: one(operator, opset=22) for operator in (
        "Abs", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "Softplus", "Tanh")},
    "Exp": chain(("Clip", {"a": np.float32(-4), "b": np.float32(2)}, {}), ("Exp", {}, {})),
    "Sqrt": chain(("Relu", {}, {}), ("Sqrt", {}, {})),
    "Gelu by tanh": one("Gelu", {}, {"approximate": "tanh"}, opset=22),
    "Sigmoid inside": chain(("Sigmoid", {}, {}), ("Relu", {}, {})),
    "PRelu, one slope": one("PRelu", {"slope": np.array([0.25], np.float32)}),
    "PRelu per channel": one("PRelu", {"slope": np.array([0.5, -0.25], np.float32).reshape(2, 1, 1)}),
    "Pow 2": one("Pow", {"e": np.float32(2)}),
    "Pow 3": one("Pow", {"e": np.float32(3)}),
    "SiLU of two nodes": model([node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])]),
    "HardSwish of four nodes": model(
        [node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"]),
         node("Mul", ["x", "c"], ["m"]), node("Div", ["m", "six"], ["y"])],
        [tensor("three", 3.0), tensor("zero", 0.0), tensor("six", 6.0)]),
    "GELU of five nodes": model(
        [node("Div", ["x", "root"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["a"]),
         node("Mul", ["x", "a"], ["m"]), node("Mul", ["m", "half"], ["y"])],
        [tensor("root", 2**0.5), tensor("one", 1.0), tensor("half", 0.5)]),
    # constants
    **{f"{operator} {name}": chain((operator, {"c": value}, {}), ("Relu", {}, {}))
       for operator in ("Add", "Sub", "Mul", "Div") for name, value in (
           ("number", np.float32(1.5)), ("per channel", np.array([0.5, -2], np.float32).reshape(2, 1, 1)),
           ("per column", np.arange(1, 7, dtype=np.float32)), ("per value", 1 + np.abs(weights(2, 6, 6))))},
    "constant less x": model([node("Sub", ["c", "x"], ["y"])], [tensor("c", 1.0)]),
    "Conv and then Mul": one("Mul", {"c": np.array([0.5, -2], np.float32).reshape(2, 1, 1)}),
    "Conv and then Div": one("Div", {"c": np.float32(3)}),
    "numbers of three axes": chain(("Mul", {"c": np.float32(0.5)}, {}), ("Add", {"c": np.float32(1)}, {}),
                                   shape=("N", 4, 5)),
    # two tensors
    "Mul": model([node("Relu", ["x"], ["r"]), node("Conv", ["x", "w"], ["c"]), node("Mul", ["r", "c"], ["y"])],
                 [tensor("w", weights(2, 2, 1, 1))]),
    "Sub": model([node("Conv", ["x", "w"], ["c"]), node("Sub", ["x", "c"], ["y"])],
                 [tensor("w", weights(2, 2, 1, 1))]),
    "squeeze and excite": model(
        [node("GlobalAveragePool", ["x"], ["g"]), node("Conv", ["g", "w"], ["c"]), node("HardSigmoid", ["c"], ["h"]),
         node("Mul", ["x", "h"], ["y"])], [tensor("w", weights(2, 2, 1, 1))]),
    "Add of (C, 1, 1)": model([node("GlobalAveragePool", ["x"], ["g"]), node("Add", ["g", "x"], ["y"])]),
    "x times x": model([node("Mul", ["x", "x"], ["y"])]),
    "Max": model([node("Conv", ["x", "w"], ["c"]), node("Max", ["x", "c"], ["y"])],
                 [tensor("w", weights(2, 2, 1, 1))]),
    "Min of three and a number": model(
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["x"], ["r"]), node("Min", ["x", "c", "r", "n"], ["y"])],
        [tensor("w", weights(2, 2, 1, 1)), tensor("n", 0.25)]),
    "Sum": model([node("Conv", ["x", "w"], ["c"]), node("Relu", ["x"], ["r"]), node("Sum", ["x", "c", "r"], ["y"])],
                 [tensor("w", weights(2, 2, 1, 1))]),
    # layers and windows
    **{f"ConvTranspose {attributes}": chain(
        ("ConvTranspose", {"w": weights(2, 3, 3, 2), "b": weights(3)}, attributes)) for attributes in (
            {}, {"strides": [2, 3], "pads": [1, 0, 2, 1]}, {"strides": [2, 2], "output_padding": [1, 1]},
            {"dilations": [2, 1], "pads": [0, 1, 1, 0]}, {"pads": [3, 2, 3, 2]})},
    "ConvTranspose in groups": chain(("ConvTranspose", {"w": weights(2, 2, 2, 2)}, {"group": 2, "strides": [2, 2]})),
    "Conv 1-D": chain(("Conv", {"w": weights(3, 4, 3), "b": weights(3)}, {"pads": [1, 2], "strides": [2]}),
                      shape=("N", 4, 9)),
    "ConvTranspose 1-D": chain(("ConvTranspose", {"w": weights(4, 3, 3)}, {"strides": [2]}), shape=("N", 4, 5)),
    "pools 1-D": chain(("MaxPool", {}, {"kernel_shape": [3], "pads": [1, 1]}),
                       ("AveragePool", {}, {"kernel_shape": [2], "strides": [2]}), shape=("N", 4, 9)),
    "BatchNormalization of three axes": chain(
        ("BatchNormalization", {"g": weights(4), "b": weights(4), "m": weights(4), "v": np.abs(weights(4)) + 1}, {}),
        shape=("N", 4, 5)),
    "GlobalMaxPool": one("GlobalMaxPool"),
    "GlobalAveragePool 1-D": chain(("GlobalAveragePool", {}, {}), shape=("N", 4, 5)),
    **{f"ReduceMean {axes} {keep}": chain(("ReduceMean", {}, {"axes": axes, "keepdims": keep}))
       for axes in ([1], [1, 2], [-1], [3, 2], [1, 2, 3]) for keep in (0, 1)},
    "ReduceSum": chain(("ReduceSum", {"axes": ints(2, 3)}, {"keepdims": 0})),
    "MatMul of rows": chain(("MatMul", {"w": weights(6, 5)}, {})),
    # moves
    "NHWC": chain(("Transpose", {}, {"perm": [0, 3, 1, 2]}), ("Conv", {"w": weights(3, 2, 3, 3)}, {}),
                  ("Transpose", {}, {"perm": [0, 2, 3, 1]}), ("Mul", {"c": weights(3)}, {}),
                  ("Transpose", {}, {"perm": [0, 3, 1, 2]}), ("Relu", {}, {}), shape=("N", 6, 6, 2)),
    "Reshape to five axes and back": chain(
        ("Reshape", {"s": ints(0, 2, 3, 2, 6)}, {}), ("Transpose", {}, {"perm": [0, 2, 1, 4, 3]}),
        ("Reshape", {"s": ints(0, -1)}, {})),
    "Reshape of a fixed batch": chain(("Reshape", {"s": ints(1, 4, 18)}, {}), shape=(1, 2, 6, 6)),
    "Flatten on the last axis": chain(("GlobalAveragePool", {}, {}), ("Reshape", {"s": ints(0, 1, 2)}, {}),
                                      ("Flatten", {}, {"axis": 2})),
    "Unsqueeze and Squeeze": chain(("Unsqueeze", {"a": ints(1, 5)}, {}), ("Squeeze", {"a": ints(1)}, {}),
                                   ("Squeeze", {"a": ints(-1)}, {})),
    "Squeeze of old operator sets": chain(("GlobalAveragePool", {}, {}), ("Squeeze", {}, {"axes": [2, 3]}), opset=11),
    "Slice": chain(("Slice", {"s": ints(1, -1), "e": ints(6, -7), "a": ints(2, 3), "t": ints(2, -2)}, {})),
    "Slice of old operator sets": chain(("Slice", {}, {"starts": [1], "ends": [-1], "axes": [3]}), opset=9),
    "Split": model([node("Split", ["x"], ["a", "b", "c"], axis=2), node("Concat", ["c", "a"], ["y"], axis=-2)]),
    "Split by sizes": model([node("Split", ["x", "s"], ["a", "b"], axis=-1), node("Relu", ["b"], ["y"])],
                            [tensor("s", [2, 4], np.int64)]),
    "Concat of rows": model([node("Relu", ["x"], ["r"]), node("Concat", ["x", "r"], ["y"], axis=3)]),
    **{f"{operator} {attributes}": chain((operator, {}, {"blocksize": 2, **attributes}), shape=("N", 4, 6, 6))
       for operator, attributes in (("DepthToSpace", {}), ("DepthToSpace", {"mode": "CRD"}), ("SpaceToDepth", {}))},
    "Pad of everything": chain(("Pad", {"p": ints(0, 1, 0, 2, 0, 0, 1, 0)}, {})),
    "Pad before a pool": chain(("Pad", {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, {}),
                               ("MaxPool", {}, {"kernel_shape": [2, 2]})),
    "Pad read twice": model([node("Pad", ["x", "p"], ["q"]), node("Conv", ["q", "w"], ["c"]),
                             node("Relu", ["q"], ["r"]), node("Add", ["c", "r"], ["y"])],
                            [tensor("p", [0, 0, 1, 1, 0, 0, 1, 1], np.int64), tensor("w", weights(2, 2, 1, 1))]),
    "cropping": chain(("Pad", {"p": ints(0, 0, -1, 1, 0, 0, 0, -2)}, {})),
    "Resize by scales": chain(("Resize", {"r": None, "s": np.array([1, 1, 2, 3], np.float32)},
                               {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
                                "nearest_mode": "floor"})),
    "Resize by sizes": chain(("Resize", {"r": None, "s": None, "z": ints(1, 2, 12, 6)}, {"mode": "nearest"}),
                             shape=(1, 2, 6, 6)),
    "Upsample": chain(("Upsample", {"s": np.array([1, 1, 2, 2], np.float32)}, {}), opset=9),
    # the end
    **{f"{operator} on axis {axis}": one(operator, {}, {"axis": axis})
       for operator in ("Softmax", "LogSoftmax", "ArgMax") for axis in (1, -1)},
    "Sigmoid at the end": one("Sigmoid"),
    # constants that the graph computes
    "Shape, Gather, Concat, Reshape": model(
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]), node("Unsqueeze", ["n", "axis"], ["u"]),
         node("Concat", ["u", "rest"], ["t"], axis=0), node("Reshape", ["x", "t"], ["y"])],
        [tensor("zero", 0, np.int64), tensor("axis", [0], np.int64), tensor("rest", [-1], np.int64)]),
    "weights by arithmetic": model(
        [node("Mul", ["w", "two"], ["v"]), node("Transpose", ["v"], ["t"], perm=[1, 0, 2, 3]),
         node("Cast", ["t"], ["h"], to=10), node("Cast", ["h"], ["f"], to=1), node("Conv", ["x", "f"], ["y"])],
        [tensor("w", weights(2, 3, 1, 1)), tensor("two", 2.0)]),
    "ConstantOfShape, Range, Expand": model(
        [node("ConstantOfShape", ["shape"], ["c"], value=tensor("", [0.5])), node("Range", ["a", "b", "d"], ["r"]),
         node("Expand", ["r", "wide"], ["e"]), node("Add", ["x", "c"], ["k"]), node("Mul", ["k", "e"], ["y"])],
        [tensor("shape", [2, 1, 1], np.int64), tensor("a", 1.0), tensor("b", 7.0), tensor("d", 1.0),
         tensor("wide", [6, 6], np.int64)]),
}


for name in ("ArgMax on axis 1", "ArgMax on axis -1"):
    MODELS[name].graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64


@pytest.mark.parametrize("name", MODELS)
def test_an_operator_is_computed_as_onnxruntime_does_and_its_integers_are_their_simulation(name, tmp_path):
    proto = MODELS[name]
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    network = load_onnx(tmp_path / "m.onnx")
    fixed = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    images = np.random.default_rng(1).standard_normal((fixed or 3, *network.input_shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": images})
    got = run_float_tensors(network, images)[network.output]
    assert got.size == wanted.size and np.allclose(got.ravel(), wanted.ravel(), rtol=1e-5, atol=1e-5)
    if network.nodes[-1].name != network.output or network.without_softmax().nodes:
        inner = fold_batchnorm(network.without_softmax())
        quantized = quantize_network(inner, images)
        codes = quantized.quantize_images(images)
        simulated = run_simulated_tensors(quantized, codes)
        for tensor_name, values in run_integer_tensors(quantized, codes).items():
            assert np.array_equal(values, simulated[tensor_name]), tensor_name
        reals = run_float_tensors(inner, images)[inner.output]
        error = np.abs(quantized.run(images) - reals).max()
        assert error <= 0.1 * np.abs(reals).max() + 1e-6, "eight bits are near the floats"


def test_five_hundred_damaged_files_are_read_or_refused_in_a_sentence():
    found = subprocess.run([sys.executable, FUZZ, "500", "0"], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout


def test_a_line_break_in_a_name_is_told_as_an_escape(tmp_path):
    proto = chain(("Relu", {}, {}))
    proto.graph.node[0].op_type = "Re\nlu\x1b"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"node 'y' \(Re\\nlu\\x1b\): operator Re\\nlu\\x1b is not supported$"):
        load_onnx(tmp_path / "m.onnx")


def test_functions_of_one_tensor_become_one_function(tmp_path):
    for name in ("SiLU of two nodes", "HardSwish of four nodes", "GELU of five nodes", "x times x"):
        (tmp_path / "m.onnx").write_bytes(MODELS[name].SerializeToString())
        assert [type(n).__name__ for n in load_onnx(tmp_path / "m.onnx").nodes] == ["Pointwise"], name


def test_transposes_that_meet_vanish(tmp_path):
    there_and_back = chain(("Transpose", {}, {"perm": [0, 2, 3, 1]}), ("Transpose", {}, {"perm": [0, 3, 1, 2]}),
                           ("Relu", {}, {}))
    (tmp_path / "m.onnx").write_bytes(there_and_back.SerializeToString())
    assert [type(n).__name__ for n in load_onnx(tmp_path / "m.onnx").nodes] == ["Clip"]


def test_a_multiplication_behind_a_layer_goes_into_its_weights(tmp_path):
    (tmp_path / "m.onnx").write_bytes(MODELS["Conv and then Mul"].SerializeToString())
    assert [type(n).__name__ for n in fold_batchnorm(load_onnx(tmp_path / "m.onnx")).nodes] == ["Conv"]


def test_the_network_ends_at_the_outputs_that_are_asked_for(tmp_path):
    heads = model([node("Relu", ["x"], ["r"]), node("GlobalAveragePool", ["r"], ["a"]),
                   node("LRN", ["r"], ["y"], size=3)])
    (tmp_path / "m.onnx").write_bytes(heads.SerializeToString())
    with pytest.raises(ValueError, match=r"node 'y' \(LRN\): operator LRN is not supported; --output r ends the "
                                         r"network before it$"):
        load_onnx(tmp_path / "m.onnx")
    network = load_onnx(tmp_path / "m.onnx", outputs=("a", "r"))
    assert network.outputs == ("a", "r")
    with pytest.raises(ValueError, match="tensors that a node computes, got 'q'; the last ones are r,"):
        load_onnx(tmp_path / "m.onnx", outputs=("q",))


def test_an_open_height_is_given(tmp_path):
    (tmp_path / "m.onnx").write_bytes(chain(("Relu", {}, {}), shape=("N", 3, "H", "W")).SerializeToString())
    with pytest.raises(ValueError, match=r"--input-shape gives those that are open, as in 3,224,224$"):
        load_onnx(tmp_path / "m.onnx")
    assert load_onnx(tmp_path / "m.onnx", input_shape=(3, 5, 7)).input_shape == (3, 5, 7)
    with pytest.raises(ValueError, match=r"which the input shape must fit without the first axis, got \(4, 5, 7\)$"):
        load_onnx(tmp_path / "m.onnx", input_shape=(4, 5, 7))


def test_readmes_table_names_every_operator():
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = page.split("| operators | how in integers |")[1].split("\n\n")[0]
    named = {word for line in table.splitlines()[2:] for word in re.findall(r"[A-Z][A-Za-z]+", line.split("|")[1])}
    assert named - {"D"} == set(OPERATORS)
