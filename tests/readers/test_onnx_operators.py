"""Every operator that can be read: floats as onnxruntime has them, and integers equal to their simulation."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from onnx_models import models, pools
from onnx_samples import MODELS, check_floats

from refquant import quantize_network
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.simulated_forward import run_simulated_tensors
from refquant.readers.onnx_operators import OPERATORS

FUZZ = Path(__file__).parents[1] / "fuzz" / "files.py"


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    """Where a test writes its model; one for all, because Hypothesis wants no fixture per example."""
    return tmp_path_factory.mktemp("onnx") / "model.onnx"


def check(proto, file, error=0.1):
    """Floats are onnxruntime's, and the integers of every tensor equal their simulation, near the floats."""
    network, images = check_floats(proto, file)
    if not network.without_softmax().nodes:
        return
    inner = fold_batchnorm(network.without_softmax())
    quantized = quantize_network(inner, images)
    codes = quantized.quantize_images(images)
    simulated = run_simulated_tensors(quantized, codes)
    for name, values in run_integer_tensors(quantized, codes).items():
        assert np.array_equal(values, simulated[name]), name
    reals = run_float(inner, images)
    assert np.abs(quantized.run(images) - reals).max() <= error * np.abs(reals).max() + 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_an_operator_is_computed_as_onnxruntime_does_and_its_integers_are_their_simulation(name, file):
    check(MODELS[name], file)


def test_every_operator_is_met():
    computed_beforehand = {"ConstantOfShape", "Expand", "Gather", "Range", "Shape"}
    met = {one.op_type for proto in MODELS.values() for one in proto.graph.node}
    assert met - computed_beforehand == {*OPERATORS}


@given(models())
def test_random_models_are_computed_as_onnxruntime_does_and_their_integers_are_their_simulation(file, proto):
    check(proto, file, error=1e9)


@given(pools())
def test_pools_are_onnxruntime_s(file, proto):
    check_floats(proto, file)


def test_damaged_files_are_read_or_refused_in_a_sentence():
    found = subprocess.run([sys.executable, FUZZ, "250", "0"], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout


def test_readmes_table_names_every_operator():
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = page.split("| operators | how in integers |")[1].split("\n\n")[0]
    named = {word for line in table.splitlines()[2:] for word in re.findall(r"[A-Z][A-Za-z]+", line.split("|")[1])}
    assert named - {"D"} == set(OPERATORS)
