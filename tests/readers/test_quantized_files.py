"""Files of operators on codes: axes as onnxruntime and LiteRT count them, and what is refused."""
from __future__ import annotations

import re

import numpy as np
import pytest
from onnx_models import onnx, run_onnxruntime
from onnx_on_codes import one, scalars
from tflite_models import Spec, one_operator

from refquant.readers import load_quantized_onnx, load_tflite
from refquant.runtimes import run_model
from refquant.runtimes.kernels import onnxruntime_here

CODED = scalars(np.uint8, s=0.05, z=0)


def on_codes(kind, attributes=None, shape=(3, 2, 2), **constants):
    """A model of one operator that moves codes, behind a QuantizeLinear."""
    made = one("QuantizeLinear", ["x", "s", "z"], np.float32, shape, {}, "", **CODED, **constants)
    made.graph.node[0].output[0] = "q"
    made.graph.node.append(onnx.helper.make_node(kind, ["q", *constants], ["y"], **(attributes or {})))
    return made


def concat(inputs, **attributes):
    return one("QLinearConcat", ["s", "z", *inputs], np.uint8, (2, 3), attributes, **CODED)


def softmax(axis):
    return one("QLinearSoftmax", ["x", "s", "z", "s", "z"], np.uint8, (2, 3), {"axis": axis, "opset": 13}, **CODED)


def of_no_shape():
    made = on_codes("Add")
    made.graph.node[1].input.append("c")
    made.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", [""], ["c"]))
    return made


def loaded(made, tmp_path):
    onnx.save(made, tmp_path / "m.onnx")
    return load_quantized_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(("kind", "attributes", "constants", "shape"), [
    *[("Flatten", {"axis": axis}, {}, (12,)) for axis in (1, -3)],
    *[("Unsqueeze", {}, {"axes": np.int64([axis])}, (1, 3, 2, 2)) for axis in (1, -4)],
    ("Unsqueeze", {}, {"axes": np.int64([-1, 2])}, (3, 1, 2, 2, 1))])
def test_axes_count_from_either_end(kind, attributes, constants, shape, tmp_path):
    made, x = on_codes(kind, attributes, **constants), np.random.default_rng(0).random((1, 3, 2, 2), np.float32) * 12
    read = loaded(made, tmp_path)
    ours, theirs = run_model(read, x, onnxruntime_here())[read.outputs[0]], run_onnxruntime(made, x)[0]
    assert ours.shape == theirs.shape == (1, *shape)
    assert np.array_equal(ours, theirs)


JOINED = "it must join tensors, each with a scale and a zero point, got"
RANGE = "must be one of 1 to {}, behind the batch, got {}"


@pytest.mark.parametrize(("made", "kind", "message"), [
    *[(concat(inputs, axis=1), "com.microsoft.QLinearConcat", f"{JOINED} {count}") for inputs, count in (
        (["", "", ""], 0), (["", "s", "z"], 0), (["x", "s", "z", "", "s", "z"], 1))],
    *[(concat(["x", "s", "z"] * 2, axis=axis), "com.microsoft.QLinearConcat", "axis " + RANGE.format(2, axis))
      for axis in (7, 3, 0, -3, -4)],
    *[(softmax(axis), "com.microsoft.QLinearSoftmax", "axis " + RANGE.format(2, axis)) for axis in (5, 0)],
    *[(on_codes("Flatten", {"axis": axis}), "Flatten", f"axis must be from -4 to 4, got {axis}") for axis in (6, -5)],
    *[(on_codes("Unsqueeze", axes=np.int64([axis])), "Unsqueeze", "axes " + RANGE.format(4, axis))
      for axis in (0, -5, 6)],
    *[(on_codes("Squeeze", shape=(1, 2, 2), axes=np.int64([axis])), "Squeeze", "axes " + RANGE.format(3, axis))
      for axis in (0, 5)],
    (of_no_shape(), "ConstantOfShape", "the operator is not supported, only ")])
def test_onnx_files_are_refused_in_one_sentence(made, kind, message, tmp_path):
    with pytest.raises(ValueError, match=rf"\({kind}\): {re.escape(message)}"):
        loaded(made, tmp_path)


def mean(*axes):
    return one_operator("MEAN", [Spec((1, 4, 4, 2), "int8", 0.05), Spec((2,), "int32", 1.0, values=np.int32(axes)),
                                 Spec((1, 1, 1, 2), "int8", 0.05)], ("ReducerOptions", {"KeepDims": True}))


def joined(axis):
    part = Spec((1, 4, 2), "int8", 0.05)
    return one_operator("CONCATENATION", [part, part, Spec((1, 4, 4), "int8", 0.05)],
                        ("ConcatenationOptions", {"Axis": axis}))


@pytest.mark.parametrize(("data", "message"), [
    *[(mean(1, axis), "axes " + RANGE.format(3, axis)) for axis in (6, -6, 0)],
    (mean(1, 3), "its mean must be over H and W, axes 1 and 2, got [1, 3]"),
    *[(joined(axis), "axis " + RANGE.format(2, axis)) for axis in (5, -4, 0)]])
def test_tflite_files_are_refused_in_one_sentence(data, message, tmp_path):
    (tmp_path / "m.tflite").write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        load_tflite(tmp_path / "m.tflite")


@pytest.mark.parametrize("data", [mean(1, 2), mean(-2, 1), joined(2), joined(-1)])
def test_axes_of_tflite_files_count_from_either_end(data, tmp_path):
    (tmp_path / "m.tflite").write_bytes(data)
    assert len(load_tflite(tmp_path / "m.tflite").operations) == 1


def test_a_missing_tflite_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_tflite(tmp_path / "nothing.tflite")
