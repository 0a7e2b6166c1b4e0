"""Three networks trained by others, in floats and in integers. They run where REFQUANT_MODELS names their folder."""
from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tools import require_module

from refquant.commands.quantize import Data, build_own, evaluate_own, origin
from refquant.commands.report import own_table
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float
from refquant.network.graph import BatchNorm
from refquant.readers.onnx_file import load_onnx

FOLDER = os.environ.get("REFQUANT_MODELS")
if not FOLDER:
    pytest.skip("set REFQUANT_MODELS to the folder of the three networks", allow_module_level=True)
require_module("onnx", "pip install 'refquant[onnx]'")

README = Path(__file__).parents[2] / "README.md"
# name: (the data file's images, their labels, how many of 1000 are right by the README there)
NETWORKS = {"dscnn_kws": ("inputs", "labels", 915), "resnet8_cifar10": ("test_images", "test_labels", 779),
            "vww96": ("images", None, None)}


@cache
def load(name, variant):
    return load_onnx(Path(FOLDER) / f"{name}_{variant}.onnx")


@cache
def data(name):
    with np.load(Path(FOLDER) / f"{name}_data.npz") as file:
        return dict(file)


def planes(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)


def images_of(name):
    """As the network wants them: MFCCs as they are; pixels 0..255 for ResNet-8, 0..1 for VWW, channels first."""
    images = data(name)[NETWORKS[name][0]]
    return images if name == "dscnn_kws" else planes(images) / np.float32(255 if name == "vww96" else 1)


def check_close(found, expected):
    """Within 1e-4 of the largest logit."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_recorded_and_accuracy_is_the_published_one(name):
    _, labels, right = NETWORKS[name]
    images = images_of(name)  # small batches stay in the cache
    logits = np.concatenate([run_float(load(name, "folded"), images[i:i + 50]) for i in range(0, len(images), 50)])
    check_close(logits, data(name)["float_logits"])
    if labels:
        assert len(images) == 1000 and (logits.argmax(axis=1) == data(name)[labels]).sum() == right


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("variant", ["bn", "folded"])
def test_logits_agree_with_onnxruntime_with_batchnorm_or_folded_by_either_side(name, variant):
    runtime = require_module("onnxruntime", "pip install 'refquant[oracles]'")
    options, few, network = runtime.SessionOptions(), images_of(name)[:40], load(name, variant)
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(Path(FOLDER) / f"{name}_{variant}.onnx"), options,
                                       providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"input": image[None]})[0] for image in few])
    check_close(run_float(network, few), expected)
    check_close(run_float(fold_batchnorm(network), few), expected)
    assert any(isinstance(node, BatchNorm) for node in network.nodes) == (variant == "bn")


def quantize(network, data, recipe="channelwise-int8", **options):
    """The report; all codes are compared on the first hundred images at most."""
    data = data._replace(simulated=min(data.simulated or 100, len(data.images)))
    return evaluate_own(*build_own(network, data, [recipe], options), data)


def resnet8(count, simulated):
    file = data("resnet8_cifar10")
    return Data(planes(file["calibration_images"][:count]), images_of("resnet8_cifar10"), file["test_labels"],
                "calibration_inputs", simulated=simulated)


def dscnn(stop, simulated=None):
    file = data("dscnn_kws")
    return Data(file["inputs"][:50], file["inputs"][50:stop], file["labels"][50:stop], simulated=simulated)


def readme_table(marker):
    return README.read_text(encoding="utf-8").split(marker)[1].split("```text\n")[1].split("\n```")[0].splitlines()


def test_readme_shows_resnet8s_table():
    """To the last digit, seconds aside: the scales are the same on every machine."""
    images = resnet8(None, 100)
    result = evaluate_own(*build_own(load("resnet8_cifar10", "bn"), images, ["max-int8", "channelwise-int8"], {}),
                          images)
    result |= origin(Path(FOLDER) / "resnet8_cifar10_bn.onnx")
    table, printed = readme_table("<!-- ResNet-8 table"), own_table(result).splitlines()
    assert [line.split()[:-2] for line in table[7:]] == [line.split()[:-2] for line in printed[7:]]
    assert table[:5] == printed[:5] and table[5].split() == printed[5].split()
    for entry, lost in zip(result["recipes"], (2.0, 1.0)):
        assert entry["codes_equal"] and entry["integer_top1"] >= entry["float_top1"] - lost


def test_resnet8_folded_elsewhere_agrees_too():
    images = resnet8(50, None)
    report = quantize(load("resnet8_cifar10", "folded"),
                      images._replace(images=images.images[:100], labels=images.labels[:100]))
    assert report["codes_equal"] and report["cosine"] > 0.99


@pytest.mark.parametrize("kind, stop", [("bn", 1000), ("folded", 150)])
def test_dscnn_stays_within_a_point_of_float(kind, stop):
    report = quantize(load("dscnn_kws", kind), dscnn(stop))
    assert report["codes_equal"] and (stop < 1000 or report["integer_top1"] >= report["float_top1"] - 1.0)


@pytest.mark.parametrize("kind, recipe", [("bn", "channelwise-int8"), ("folded", "channelwise-int8"),
                                          ("folded", "max-int8")])
def test_vww96_with_its_dead_channels_keeps_its_logits(kind, recipe):
    images = images_of("vww96")
    report = quantize(load("vww96", kind), Data(images[:50], images[50:], None), recipe)
    assert report["codes_equal"] and report["integer_top1"] is None
    assert sum(layer["dead_channels"] or 0 for layer in report["layers"]) > 100
    assert recipe == "max-int8" or report["cosine"] >= 0.98


slow = pytest.mark.skipif(not os.environ.get("REFQUANT_SLOW"), reason="set REFQUANT_SLOW=1 for all searches")


@pytest.mark.parametrize("name, bits, most", [
    ("resnet8", 8, 1.0), pytest.param("resnet8", 7, 1.5, marks=slow), pytest.param("dscnn", 8, 1.0, marks=slow)])
def test_easyquant_stays_near_float_and_readme_shows_it(name, bits, most):
    network, images = ((load("resnet8_cifar10", "bn"), resnet8(50, 20)) if name == "resnet8" else
                       (load("dscnn_kws", "bn"), dscnn(None, 20)))
    report = quantize(network, images, f"easyquant-int{bits}")
    assert report["codes_equal"] and report["integer_top1"] >= report["float_top1"] - most
    lines = readme_table("<!-- scales table")[2:]
    exact, *shown = next(values for network, method, *values in (re.split(r" {2,}", line) for line in lines)
                         if (network, method) == (name, "EasyQuant"))
    assert exact == f"{report['float_top1']:.2f}" and shown[8 - bits] == f"{report['integer_top1']:.2f}"
