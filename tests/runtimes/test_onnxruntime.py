"""onnxruntime's answers on models of its own quantizer, tensor by tensor: QDQ and QOperator, signed and unsigned."""
from __future__ import annotations

import os
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from onnx_models import model as model_of
from onnx_models import onnx, run_onnxruntime, session_of, tensor
from tools import require_module

from refquant.digits.weights import calibration_images, load_digits
from refquant.readers.onnx_quantized import load_quantized_onnx
from refquant.recipes.quantize import quantize_network
from refquant.runtimes import run_model
from refquant.runtimes.kernels import onnxruntime_here
from refquant.writers import to_qdq

quantization = require_module("onnxruntime.quantization", "pip install 'refquant[oracles]'")
from benchmarks import compare_onnxruntime  # noqa: E402  -- after the skip

INPUTS = 10
KINDS = {"u": quantization.QuantType.QUInt8, "s": quantization.QuantType.QInt8}


def quantized(source, target, images, form, activations, weights, per_channel):
    """A file of onnxruntime's own quantizer."""
    quantization.quantize_static(  # which changes the model that it is given
        deepcopy(source), str(target), compare_onnxruntime.Images(source.graph.input[0].name, images),
        quant_format=quantization.QuantFormat[form], per_channel=per_channel, activation_type=KINDS[activations],
        weight_type=KINDS[weights])


def check(path, x, form, tmp_path):
    """Equal answers, and as many tensors as onnxruntime computes, each equal to one of its operator.

    A QDQ file is computed as its default optimizations merge it, which name tensors anew.
    """
    read = load_quantized_onnx(path)
    ours = run_model(read, x, onnxruntime_here())
    level = "ORT_ENABLE_ALL" if form == "QDQ" else "ORT_DISABLE_ALL"
    assert np.array_equal(run_onnxruntime(path, x, level=level)[0], ours[read.outputs[0]])
    if form == "QDQ":
        session_of(path, "ORT_ENABLE_EXTENDED", tmp_path / "merged.onnx")
        path = tmp_path / "merged.onnx"
    made = onnx.load(path)
    constant = {one.name for one in made.graph.initializer}  # dequantized weights are constants to us
    kinds = {node.output[0]: node.op_type for node in made.graph.node
             if node.op_type != "DequantizeLinear" or node.input[0] not in constant}
    del made.graph.output[:]
    made.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in kinds)
    theirs = list(zip(kinds.values(), run_onnxruntime(made, x)))
    assert len(theirs) == len(read.operations)
    for op in read.operations:
        y = ours[op.outputs[0]]
        equal = [k for k, (kind, z) in enumerate(theirs) if kind == op.kind and z.dtype == y.dtype
                 and np.array_equal(y, z)]
        assert equal, (op.kind, read.tensors[op.outputs[0]].name)
        del theirs[equal[0]]
    return {op.kind for op in read.operations}


def models_folder():
    place = os.environ.get("REFQUANT_MODELS")
    if not place:
        pytest.skip("set REFQUANT_MODELS to the folder of the models")
    return Path(place)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activations, weights", ["us", "ss", "uu"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("name", compare_onnxruntime.NETWORKS)
def test_every_tensor_of_its_quantizer_s_models(name, form, activations, weights, per_channel, tmp_path):
    source = onnx.load(models_folder() / f"{name}_folded.onnx")
    calibration, images, _ = compare_onnxruntime.prepared(models_folder(), name)
    quantized(source, tmp_path / "q.onnx", calibration[:6], form, activations, weights, per_channel)
    check(tmp_path / "q.onnx", images[:INPUTS], form, tmp_path)


def every_operator():
    """A float network of the operators that its quantizer knows, on (N, 4, 8, 8)."""
    rng = np.random.default_rng(5)
    held = []

    def weights(name, *shape):
        held.append(tensor(name, rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))))
        return name

    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", weights("w1", 8, 4, 3, 3), weights("b1", 8)], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", weights("w2", 8, 1, 3, 3), weights("b2", 8)], ["c2"], pads=[1, 1, 1, 1], group=8),
        node("Add", ["r1", "c2"], ["a1"]),
        node("LeakyRelu", ["a1"], ["l1"], alpha=0.2),
        node("MaxPool", ["l1"], ["m1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["m1", weights("w3", 6, 4, 3, 3)], ["c3"], pads=[1, 1, 1, 1], group=2),
        node("Sigmoid", ["c3"], ["s1"]),
        node("Mul", ["c3", "s1"], ["u1"]),
        node("AveragePool", ["u1"], ["p1"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        node("Concat", ["u1", "p1"], ["k1"], axis=1),
        node("Transpose", ["k1"], ["t1"], perm=[0, 2, 3, 1]),
        node("MatMul", ["t1", weights("w4", 12, 10)], ["d1"]),
        node("Transpose", ["d1"], ["t2"], perm=[0, 3, 1, 2]),
        node("GlobalAveragePool", ["t2"], ["g1"]),
        node("Flatten", ["g1"], ["f1"]),
        node("Gemm", ["f1", weights("w5", 5, 10), weights("b5", 5)], ["e1"], transB=1),
        node("Softmax", ["e1"], ["y"], axis=1)]
    made = model_of(nodes, held, ("N", 4, 8, 8))
    return onnx.shape_inference.infer_shapes(made), rng.normal(size=(INPUTS + 10, 4, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activations, weights", ["us", "uu"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_network_of_every_operator(form, activations, weights, per_channel, tmp_path):
    source, images = every_operator()
    quantized(source, tmp_path / "q.onnx", images[:6], form, activations, weights, per_channel)
    check(tmp_path / "q.onnx", images[10:], form, tmp_path)


def test_float_biases_and_weights_that_the_file_quantizes(tmp_path):
    """As other exporters write them: biases are float32, and weights too, with a QuantizeLinear behind them."""
    source, images = every_operator()
    quantized(source, tmp_path / "q.onnx", images[:6], "QDQ", "u", "s", True)
    model = onnx.load(tmp_path / "q.onnx")
    held = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type != "DequantizeLinear" or node.input[0] not in held:
            continue
        codes, step = held[node.input[0]], held[node.input[1]]
        axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
        shape = [1] * codes.ndim
        if step.size > 1:
            shape[axis] = -1
        real = (codes * step.reshape(shape) if codes.ndim else codes * step).astype(np.float32)
        if codes.dtype == np.int32:
            model.graph.initializer.append(onnx.numpy_helper.from_array(real, node.output[0]))
            model.graph.node.remove(node)
        else:
            name = f"{node.input[0]} real"
            model.graph.initializer.append(onnx.numpy_helper.from_array(real, name))
            model.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", [name, *node.input[1:]], [f"{name} q"],
                                                             axis=axis))
            node.input[0] = f"{name} q"
    onnx.save(model, tmp_path / "r.onnx")
    assert {"QLinearConv", "QGemm", "QLinearMatMul"} <= check(tmp_path / "r.onnx", images[10:], "QDQ", tmp_path)


def test_refquant_s_own_export_is_what_it_says_of_it(tmp_path):
    """The bundled network as ``--export-onnx`` writes it: int8, an addition, a depthwise layer left in floats."""
    network, images, _ = load_digits()
    exported = to_qdq(quantize_network(network, calibration_images(), "channelwise-int8", activations="affine"))
    (tmp_path / "q.onnx").write_bytes(exported)
    kinds = check(tmp_path / "q.onnx", images[:INPUTS].astype(np.float32), "QDQ", tmp_path)
    assert {"QLinearConv", "Conv", "Add", "QLinearAveragePool", "QGemm"} <= kinds


def test_readme_shows_what_a_cpu_makes_of_a_model(tmp_path):
    """One row of its table, computed again."""
    folder = models_folder()
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = page.split("<!-- ONNX Runtime table")[1].split("```text\n")[1].split("\n```")[0].splitlines()
    assert len(shown) == 2 + 2 * len(compare_onnxruntime.NETWORKS)
    found, _ = compare_onnxruntime.row(folder, "vww96", True, tmp_path)
    assert list(found) in [re.split(r" {2,}", line) for line in shown]
