"""``refquant run`` and ``refquant compare``, and what becomes of damaged .tflite files."""
from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
from onnx_models import helper as onnx_helper
from onnx_models import tensor as onnx_tensor
from quantized_files import campaign
from terminal import printed, refused
from tflite_models import Spec, one_operator

from refquant.commands import compare
from refquant.readers import load_quantized_onnx
from refquant.readers.tflite_file import load_tflite
from refquant.runtimes import run_model

RNG = np.random.default_rng(0)


def small_model():
    """A convolution of (1, 5, 6, 3) whose kernel sets differ on random codes."""
    weights = RNG.integers(-127, 128, (8, 3, 2, 3)).astype(np.int8)
    steps = RNG.uniform(0.001, 0.02, 8).astype(np.float32)
    window = {"Padding": 1, "StrideW": 1, "StrideH": 1, "DilationWFactor": 1, "DilationHFactor": 1,
              "FusedActivationFunction": 0}
    return one_operator("CONV_2D", [
        Spec((1, 5, 6, 3), "int8", 0.02, 4), Spec(weights.shape, "int8", steps, 0, weights, 0),
        Spec((8,), "int32", 0.02 * steps, 0, RNG.integers(-999, 999, 8).astype(np.int32)),
        Spec((1, 3, 5, 8), "int8", 0.5, -3)], ("Conv2DOptions", window))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "m.tflite").write_bytes(small_model())
    inputs = RNG.integers(-128, 128, (200, 5, 6, 3)).astype(np.int8)
    np.savez(folder / "d.npz", inputs=inputs, labels=RNG.integers(0, 120, 200))
    return folder / "m.tflite", folder / "d.npz", inputs


def test_run_writes_outputs_digests_and_every_tensor(files, tmp_path, capsys):
    model, data, inputs = files
    text = printed(capsys, "run", model, data, "--as", "litert-opt", "--dump", "--out", tmp_path)
    assert "m.tflite as litert-opt, 200 inputs\n" in text
    wanted = run_model(load_tflite(model), inputs, "litert-opt")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["integer_top1"] is None  # planes are no answers
    assert [(t["index"], t["shape"]) for t in report["tensors"]] == [(0, [200, 5, 6, 3]), (3, [200, 3, 5, 8])]
    for tensor in report["tensors"]:
        codes = np.load(tmp_path / "tensors" / f"{tensor['index']}.npy")
        assert codes.dtype == np.int8 and np.array_equal(codes, wanted[tensor["index"]])
        assert tensor["sha256"] == hashlib.sha256(codes.tobytes()).hexdigest()
    assert np.array_equal(np.load(tmp_path / "outputs" / "3.npy"), wanted[3])


def test_top_1_is_the_share_of_right_answers(tmp_path, capsys):
    rows = RNG.integers(-128, 128, (40, 9)).astype(np.int8)
    (tmp_path / "m.tflite").write_bytes(one_operator("SOFTMAX", [
        Spec((1, 9), "int8", 0.01, 3), Spec((1, 9), "int8", 1 / 256, -128)], ("SoftmaxOptions", {"Beta": 1.0})))
    labels = rows.argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % 9
    np.savez(tmp_path / "d.npz", inputs=rows, labels=labels)
    text = printed(capsys, "run", tmp_path / "m.tflite", tmp_path / "d.npz", "--as", "litert-ref", "--out", tmp_path)
    wanted = 100 * (run_model(load_tflite(tmp_path / "m.tflite"), rows)[1].argmax(axis=1) == labels).mean()
    assert f"top-1 {wanted:.2f} %" in text and 60 < wanted <= 75
    assert json.loads((tmp_path / "report.json").read_text())["integer_top1"] == pytest.approx(wanted)


def test_compare_says_where_by_which_rule_and_on_what(files, tmp_path, capsys):
    model, data, _ = files
    said = printed(capsys, "compare", model, data, "--as", "litert-ref", "--as", "litert-xnnpack")
    assert "0 CONV_2D: convolution (scaling A, gemmlowp_double) against convolution (scaling X, float32" in said
    found = re.search(r"first: \[(.*)\] (-?\d+) and (-?\d+); sum (-?\d+) times (\S+) is (-?[\d.]+), zero point -3",
                      said)
    assert found and int(found[4]) * float(found[5]) == pytest.approx(float(found[6]), rel=1e-4)
    assert {int(found[2]) + 3, int(found[3]) + 3} & {round(float(found[6])), round(float(found[6]) + 0.5)}
    assert "; 0 of " in printed(capsys, "compare", model, data, "--as", "litert-ref", "--as", "litert-ref", "--out",
                                tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["as"] == ["litert-ref"] * 2 and [op["different"] for op in report["operations"]] == [0]
    assert (tmp_path / "differences.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind, options", [("ADD", "AddOptions"), ("MUL", "MulOptions"),
                                           ("CONCATENATION", "ConcatenationOptions")])
@pytest.mark.parametrize("constant_first", [False, True])
def test_a_constant_operand_is_compared_too(tmp_path, capsys, kind, options, constant_first):
    constant = RNG.integers(-128, 128, (1, 4, 21)).astype(np.int8)
    read = [Spec((1, 4, 21), "int8", 0.5, 3), Spec((1, 4, 21), "int8", 0.5, 3, constant)]
    concatenated = kind == "CONCATENATION"
    fields = {"FusedActivationFunction": 0, **({"Axis": 1} if concatenated else {})}
    written = Spec((1, 8 if concatenated else 4, 21), "int8", 0.5 if concatenated else 1.0, 3)  # sums have ties
    (tmp_path / "m.tflite").write_bytes(one_operator(kind, [*read[::-1 if constant_first else 1], written],
                                                     (options, fields)))
    np.savez(tmp_path / "d.npz", inputs=RNG.integers(-128, 128, (50, 4, 21)).astype(np.int8))
    printed(capsys, "compare", tmp_path / "m.tflite", tmp_path / "d.npz", "--as", "litert-ref", "--as",
            "litert-xnnpack", "--out", tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())["operations"]
    assert found[0]["different_on_equal_inputs"] == found[0]["different"]  # there is no operation before it
    assert bool(found[0]["different"]) == (not concatenated)


@pytest.mark.parametrize("change, sentence", [
    (lambda d: {"inputs": d.astype(np.float32)}, r"must be int8 \(N, 5, 6, 3\), as the model reads them, got f"),
    (lambda d: {"inputs": d[:, :4]}, r"inputs must be int8 .*, got int8 \(200, 4, 6, 3\)"),
    (lambda d: {"x": d}, "must hold 'inputs', and may hold 'labels', got x"),
    (lambda d: {"inputs": d, "labels": np.zeros(3, int)}, "labels must hold 200 integers")])
def test_bad_data_is_one_sentence_and_nothing_is_written(files, tmp_path, capsys, change, sentence):
    model, _, inputs = files
    np.savez(tmp_path / "d.npz", **change(inputs))
    said = refused(capsys, "run", model, tmp_path / "d.npz", "--as", "litert-ref", "--out", tmp_path / "o")
    assert re.search(sentence, said)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("content, sentence", [
    (b"", "must be a .tflite model, got another kind of file"), (b"\x08\0\0\0TFL3", "must be a whole .tflite model"),
    (one_operator("LOG", [Spec((1, 4), "int8", 0.1), Spec((1, 4), "int8", 1 / 128)]),
     "operator 0 (LOG): operator LOG is not supported, only CONV_2D, "),
    (one_operator("MEAN", [Spec((1, 2, 2, 4), "int8", 0.1), Spec((1,), "int32", [], 0, np.array([3], np.int32)),
                           Spec((1, 2, 2), "int8", 0.1)], ("ReducerOptions", {"KeepDims": False})),
     "operator 0 (MEAN): its mean must be over H and W, axes 1 and 2, got [3]"),
    (one_operator("RESHAPE", [Spec((2**20, 2**12), "int8", 0.1), Spec((1, 4), "int8", 0.1)], ("ReshapeOptions", {})),
     "tensor 't0' must have at most 6 axes and 1 to 268435456 elements, got (1048576, 4096)")])
def test_foreign_files_are_one_sentence(tmp_path, capsys, content, sentence):
    (tmp_path / "m.tflite").write_bytes(content)
    np.savez(tmp_path / "d.npz", inputs=np.zeros((1, 4), np.int8))
    assert sentence in refused(capsys, "run", tmp_path / "m.tflite", tmp_path / "d.npz", "--as", "litert-ref",
                               "--out", tmp_path / "o")


def test_five_hundred_damaged_files_are_run_or_refused():
    """A part of ``tests/fuzz/quantized_files.py``, .tflite and ONNX."""
    met, found = campaign(500, 11)
    assert not found and met["run"] > 30 and met["refused"] > 300


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory):
    """A QLinearConv of floats whose pairs saturate on random codes of full range, and its data."""
    folder, rng = tmp_path_factory.mktemp("onnx"), np.random.default_rng(0)
    node, value = onnx_helper.make_node, onnx_helper.make_tensor_value_info
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             node("QLinearConv", ["q", "s", "z", "w", "s", "zw", "sy", "z"], ["c"]),
             node("DequantizeLinear", ["c", "sy", "z"], ["y"])]
    held = {"s": np.float32(0.01), "z": np.uint8(9), "zw": np.int8(0), "sy": np.float32(1.5),
            "w": rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)}
    graph = onnx_helper.make_graph(nodes, "one", [value("x", 1, ("N", 3, 6, 6))], [value("y", 1, None)],
                                   [onnx_tensor(name, values, values.dtype) for name, values in held.items()])
    made = onnx_helper.make_model(graph, opset_imports=[onnx_helper.make_opsetid("", 13)], ir_version=8)
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    inputs = rng.uniform(-0.1, 2.5, (30, 3, 6, 6)).astype(np.float32)
    np.savez(folder / "d.npz", inputs=inputs, labels=np.zeros(30, int))
    return folder / "m.onnx", folder / "d.npz", inputs


def test_an_onnx_model_runs_and_its_two_sets_are_compared(onnx_files, tmp_path, capsys, monkeypatch):
    model, data, inputs = onnx_files
    printed(capsys, "run", model, data, "--as", "onnxruntime-avx2", "--dump", "--out", tmp_path)
    read = load_quantized_onnx(model)
    wanted = run_model(read, inputs, "onnxruntime-avx2")
    codes, reals = (op.outputs[0] for op in read.operations[1:])
    report = json.loads((tmp_path / "report.json").read_text())
    assert [layer["kind"] for layer in report["layers"]] == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    assert report["layers"][1]["macs"] == 4 * 4 * 4 * 27 and report["layers"][1]["rule"] == "layer (pairs True)"
    assert report["layers"][1]["saturated_low"] == pytest.approx(100 * (wanted[codes] == 0).mean())
    assert np.array_equal(np.load(tmp_path / "tensors" / f"{reals}.npy"), wanted[reals])
    said = printed(capsys, "compare", model, data, "--as", "onnxruntime-avx2", "--as", "onnxruntime-vnni")
    found = re.search(r"first: \[.*\] (\d+) and (\d+); sum (-?\d+) with saturated pairs, (-?\d+) without, "
                      r"times (\S+), zero point 9", said)
    assert found
    assert [round(int(found[k + 2]) * float(found[5])) + 9 for k in (1, 2)] == [int(found[1]), int(found[2])]
    printed(capsys, "compare", model, data, "--as", "onnxruntime-vnni", "--as", "refquant")
    monkeypatch.setattr("refquant.commands.run.onnxruntime_here", lambda: "onnxruntime-vnni")
    text = printed(capsys, "run", model, data, "--as", "onnxruntime", "--out", tmp_path / "o")
    assert "m.onnx as onnxruntime-vnni, 30 inputs" in text


def test_nan_is_the_same_as_nan():
    a, b = np.array([np.nan, 1.0, 2.0, np.nan]), np.array([np.nan, 1.0, 3.0, 0.0])
    assert compare._different(a, b).tolist() == [False, False, True, True]


def test_a_model_ends_where_it_is_told(files, onnx_files, tmp_path, capsys):
    printed(capsys, "run", *onnx_files[:2], "--as", "onnxruntime-vnni", "--output", "q", "--out", tmp_path / "a")
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert [t["name"] for t in report["tensors"]] == ["x", "q"] and report["integer_top1"] is None  # of planes
    for one, runtime, name, sentence in (
            (onnx_files, "onnxruntime-vnni", "nothing", "must be tensors that a node computes, got 'nothing'"),
            (files, "litert-ref", "t0", "must be tensors that an operator computes, got 't0'; the last ones are t3"),
            (files, "onnxruntime", "t3", "is a model of LiteRT, which runs as litert-ref, .*, got onnxruntime")):
        assert re.search(sentence, refused(capsys, "run", *one[:2], "--as", runtime, "--output", name, "--out",
                                           tmp_path / "b"))
        assert not (tmp_path / "b").exists()
