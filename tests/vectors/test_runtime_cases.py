"""Golden vectors of quantized models as runtimes compute them: what lies there leads to what is expected."""
from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from onnx_on_codes import one, scalars
from tflite_layers import layer
from tflite_models import one_operator

from refquant.cli import main
from refquant.integers import IntFormat, Multiplier, requantize


def load(folder):
    """case.json and the tensors of a case."""
    return json.loads((folder / "case.json").read_text()), {
        path.stem: np.load(path) for path in folder.glob("*.npy")}


@pytest.mark.parametrize("kind, dtype, per_channel", [
    ("CONV_2D", "int8", True), ("CONV_2D", "uint8", False), ("DEPTHWISE_CONV_2D", "int8", True),
    ("FULLY_CONNECTED", "int8", False)])
def test_sums_multipliers_and_codes_of_a_layer_belong_together(kind, dtype, per_channel, tmp_path):
    tensors, options, inputs = layer(np.random.default_rng(1), kind, dtype, 8, 8, "NONE", per_channel)
    (tmp_path / "m.tflite").write_bytes(one_operator(kind, tensors, options))
    np.savez(tmp_path / "d.npz", inputs=inputs[0][:1] if kind != "FULLY_CONNECTED" else inputs[0])
    assert main(["vectors", "network", str(tmp_path / "m.tflite"), str(tmp_path / "d.npz"), "--as", "litert-opt",
                 "--images", "1", "--out", str(tmp_path / "g")]) == 0
    case, found = load(tmp_path / "g" / "network" / "01-t3")
    assert case["parameters"]["runtime"] == "litert-opt" and case["parameters"]["operator"] == kind
    dialect = "gemmlowp_double" if (kind, dtype) == ("DEPTHWISE_CONV_2D", "uint8") else "neon_double"
    m = found["m"].astype(np.int64)
    M = Multiplier(m / 1.0, m, found["shift"].astype(np.int64))
    if m.ndim:
        M = M.along(found["expected_acc"].ndim - 1, found["expected_acc"].ndim)
    codes = requantize(found["expected_acc"].astype(np.int64), M, IntFormat(32), dialect).astype(np.int64)
    ends = np.iinfo(found["expected"].dtype)
    assert np.array_equal(np.clip(codes + found["y_zero_point"], ends.min, ends.max), found["expected"])
    assert found["x0"].dtype == np.dtype(dtype) and "w" in found and "bias" in found
    suite = tmp_path / "g" / "network"
    assert main(["vectors", "check", str(suite), str(shutil.copytree(suite, tmp_path / "device"))]) == 0


def test_onnx_models_and_what_is_refused(tmp_path, capsys):
    held = scalars(np.uint8, sx=0.013, zx=9, sy=0.9, zy=-4, sw=0.01)
    w = np.random.default_rng(0).integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    made = one("QLinearConv", ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"], np.uint8, (3, 6, 6), {}, "", w=w,
               zw=np.int8(0), **held)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    np.savez(tmp_path / "d.npz", inputs=np.random.default_rng(1).integers(0, 256, (2, 3, 6, 6)).astype(np.uint8))
    base = ["vectors", "network", str(tmp_path / "m.onnx"), str(tmp_path / "d.npz"), "--images", "2", "--out"]
    assert main([*base, str(tmp_path / "a"), "--as", "onnxruntime-avx2"]) == 0
    assert main([*base, str(tmp_path / "b"), "--as", "onnxruntime-vnni", "--layers", "y"]) == 0
    sums = [load(tmp_path / one_ / "network" / "01-y")[1]["expected_acc"] for one_ in "ab"]
    assert (sums[0] != sums[1]).any()  # saturated pairs
    assert not (tmp_path / "b" / "network" / "02-end-to-end").exists()
    assert main([*base, str(tmp_path / "own"), "--as", "refquant"]) == 0
    for folder, dialect in (("own", "single_round"), ("a", "float32_half_even")):
        manifest = json.loads((tmp_path / folder / "network" / "manifest.json").read_text())
        assert manifest["dialect"]["name"] == dialect
    capsys.readouterr()
    for more, sentence in (([], "--as must say which runtime computes"),
                           (["--as", "litert-ref"], "is a model of ONNX, which runs as onnxruntime-avx2"),
                           (["--as", "onnxruntime-vnni", "--layers", "z"], "layers must be tensors .*, of y, got z"),
                           (["--as", "onnxruntime-vnni", "--images", "9"], "must hold 9 inputs, got 2")):
        assert main([*base, str(tmp_path / "c"), *more]) == 2
        said = capsys.readouterr()
        assert re.search(sentence, said.err), said.err
        assert not (tmp_path / "c").exists()
