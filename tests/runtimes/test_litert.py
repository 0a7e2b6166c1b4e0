"""LiteRT's three kernel sets, tensor by tensor, on five models."""
from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from benchmarks.compare_litert import MODELS as MODELS_SHOWN
from benchmarks.compare_litert import PAIRS, rows
from tflite_models import run_litert

from refquant.readers.tflite_file import load_tflite
from refquant.runtimes import kernels, run_model
from refquant.runtimes import operators as rules
from refquant.runtimes.kernels import LITERT_SETS, RULES
from refquant.runtimes.operators import X

MODELS = ("kws_ref_model", "pretrainedResnet_quant", "vww_96_int8", "ad01_int8", "str_ww_ref_model")
DATA = {"kws_ref_model": ("dscnn_kws_data", "inputs", lambda x: x.transpose(0, 2, 3, 1)),
        "pretrainedResnet_quant": ("resnet8_cifar10_data", "test_images", lambda x: x),
        "vww_96_int8": ("vww96_data", "images", lambda x: x / 255)}
INPUTS = 20


def folder():
    place = os.environ.get("REFQUANT_MODELS")
    if not place:
        pytest.skip("set REFQUANT_MODELS to the folder of the models")
    return Path(place)


def codes_for(name, model):
    """Half real data, where it is there, as the model's input codes; the rest random."""
    entry = model.tensors[model.inputs[0]]
    random = np.random.default_rng(0).integers(-128, 128, (INPUTS, *entry.shape[1:])).astype(np.int8)
    if name in DATA:
        file, array, prepare = DATA[name]
        real = prepare(np.load(folder() / f"{file}.npz")[array][:INPUTS // 2].astype(np.float64))
        codes = np.clip(np.rint(real / entry.step[0]) + entry.zero, -128, 127).astype(np.int8)
        random[:len(codes)] = codes.reshape(-1, *entry.shape[1:])
    return random


def different(ours, theirs):
    found = {index: int((codes != ours[index]).sum()) for index, codes in theirs.items()}
    return {index: count for index, count in found.items() if count}


@pytest.mark.parametrize("kernel_set", LITERT_SETS)
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_litert_s_to_the_last_bit(name, kernel_set):
    path = folder() / f"{name}.tflite"
    model = load_tflite(path)
    inputs = codes_for(name, model)
    computed = [operation.outputs[0] for operation in model.operations]
    theirs = run_litert(path.read_bytes(), {model.inputs[0]: inputs}, computed, kernel_set, keep=True)
    assert different(run_model(model, inputs, kernel_set), theirs) == {}


def test_readme_shows_where_kernel_sets_differ():
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = page.split("<!-- LiteRT table")[1].split("```text\n")[1].split("\n```")[0].splitlines()
    assert len(shown) == 2 + len(MODELS_SHOWN) * len(PAIRS)
    (row,) = rows(folder(), ("vww_96_int8",), (("litert-ref", "litert-xnnpack"),))
    assert list(row) in [re.split(r" {2,}", line) for line in shown]


def test_names_of_rules_say_their_scalings():
    assert kernels.name_of_rule(RULES["CONV_2D", "int8"][1]) == (
        "convolution (scaling B, neon_double; grouped A, gemmlowp_double)")
    assert kernels.name_of_rule(RULES["ADD", "int8"][0]) == "add_reference"
    assert X is rules.float_half_even


def test_other_kernel_sets_and_inputs_are_refused():
    model = load_tflite(folder() / "ad01_int8.tflite")
    with pytest.raises(ValueError, match=r"^the kernel set must be one of litert-ref, .*, got 'litert'$"):
        run_model(model, np.zeros((1, 640), np.int8), "litert")
    with pytest.raises(ValueError, match=r"^inputs must be int8 \(N, 640\), as the model reads them, got float32"):
        run_model(model, np.zeros((1, 640), np.float32))
