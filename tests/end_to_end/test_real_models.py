"""Three trained networks, from ONNX to integers. They run where REFQUANT_MODELS names their folder."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from tools import require_module

from refquant.commands.quantize import Data, build_own, evaluate_own, origin
from refquant.commands.report import own_table

FOLDER = os.environ.get("REFQUANT_MODELS")
if not FOLDER:
    pytest.skip("set REFQUANT_MODELS to the folder of the three networks", allow_module_level=True)
require_module("onnx", "pip install 'refquant[onnx]'")


def load(name):
    from refquant.readers.onnx_file import load_onnx

    return load_onnx(Path(FOLDER) / f"{name}.onnx"), np.load(Path(FOLDER) / f"{name.rsplit('_', 1)[0]}_data.npz")


def planes(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)


def quantize(network, data, recipe="channelwise-int8", **options):
    """The report; all codes are compared on the first hundred images at most."""
    data = data._replace(simulated=min(data.simulated or 100, len(data.images)))
    return evaluate_own(*build_own(network, data, [recipe], options), data)


def test_resnet8_folded_elsewhere_agrees_too():
    network, file = load("resnet8_cifar10_folded")
    data = Data(planes(file["calibration_images"][:50]), planes(file["test_images"])[:100], file["test_labels"][:100])
    report = quantize(network, data)
    assert report["codes_equal"] and report["cosine"] > 0.99


def test_readme_shows_resnet8s_table():
    """To the last digit, seconds aside: the scales are the same on every machine."""
    network, file = load("resnet8_cifar10_bn")
    data = Data(planes(file["calibration_images"]), planes(file["test_images"]), file["test_labels"],
                "calibration_inputs", simulated=100)
    result = evaluate_own(*build_own(network, data, ["max-int8", "channelwise-int8"], {}), data)
    result |= origin(Path(FOLDER) / "resnet8_cifar10_bn.onnx")
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = page.split("<!-- ResNet-8 table")[1].split("```text\n")[1].split("\n```")[0].splitlines()
    printed = own_table(result).splitlines()
    assert [line.split()[:-2] for line in table[7:]] == [line.split()[:-2] for line in printed[7:]]
    assert table[:5] == printed[:5] and table[5].split() == printed[5].split()
    for entry, lost in zip(result["recipes"], (2.0, 1.0)):
        assert entry["codes_equal"] and entry["integer_top1"] >= entry["float_top1"] - lost


@pytest.mark.parametrize("kind", ["bn", "folded"])
def test_dscnn_stays_within_a_point_of_float(kind):
    network, file = load(f"dscnn_kws_{kind}")
    stop = 1000 if kind == "bn" else 150
    report = quantize(network, Data(file["inputs"][:50], file["inputs"][50:stop], file["labels"][50:stop]))
    assert report["codes_equal"]
    if stop == 1000:
        assert report["integer_top1"] >= report["float_top1"] - 1.0


@pytest.mark.parametrize("kind", ["bn", "folded"])
@pytest.mark.parametrize("recipe", ["max-int8", "channelwise-int8"])
def test_vww96_with_its_dead_channels_keeps_its_logits(kind, recipe):
    network, file = load(f"vww96_{kind}")
    images = planes(file["images"]) / np.float32(255)
    report = quantize(network, Data(images[:50], images[50:], None), recipe)
    assert report["codes_equal"] and report["integer_top1"] is None
    assert sum(layer["dead_channels"] or 0 for layer in report["layers"]) > 100
    if recipe == "channelwise-int8":
        assert report["cosine"] >= 0.98


slow = pytest.mark.skipif(not os.environ.get("REFQUANT_SLOW"), reason="set REFQUANT_SLOW=1 for all searches")


@pytest.mark.parametrize("name, bits, most", [
    ("resnet8", 8, 1.0), pytest.param("resnet8", 7, 1.5, marks=slow), pytest.param("dscnn", 8, 1.0, marks=slow)])
def test_easyquant_stays_near_float_and_readme_shows_it(name, bits, most):
    if name == "resnet8":
        network, file = load("resnet8_cifar10_bn")
        data = Data(planes(file["calibration_images"][:50]), planes(file["test_images"]), file["test_labels"],
                    simulated=20)
    else:
        network, file = load("dscnn_kws_bn")
        data = Data(file["inputs"][:50], file["inputs"][50:], file["labels"][50:], simulated=20)
    report = quantize(network, data, f"easyquant-int{bits}")
    assert report["codes_equal"]
    assert report["integer_top1"] >= report["float_top1"] - most
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    lines = page.split("<!-- scales table")[1].split("```text\n")[1].split("\n```")[0].splitlines()[2:]
    exact, *shown = next(values for network, method, *values in (re.split(r" {2,}", line) for line in lines)
                         if (network, method) == (name, "EasyQuant"))
    assert exact == f"{report['float_top1']:.2f}" and shown[8 - bits] == f"{report['integer_top1']:.2f}"
