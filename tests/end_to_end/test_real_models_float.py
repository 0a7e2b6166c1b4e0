"""Three networks trained by others, read from ONNX: their float results, where their folder is at hand."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tools import require_module

from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float
from refquant.network.graph import BatchNorm, Network
from refquant.readers.onnx_file import load_onnx

FOLDER = os.environ.get("REFQUANT_MODELS")
if not FOLDER:
    pytest.skip("REFQUANT_MODELS does not name the folder of the three networks", allow_module_level=True)
require_module("onnx", "pip install 'refquant[oracles]'")

# name: (the data file's images, their labels, the shape of one image, how many of 1000 are right by the README there)
NETWORKS = {"dscnn_kws": ("inputs", "labels", (1, 49, 10), 915),
            "resnet8_cifar10": ("test_images", "test_labels", (3, 32, 32), 779),
            "vww96": ("images", None, (3, 96, 96), None)}
FEW = 40  # images for what need not be shown on all of them


@cache
def load(name: str, variant: str) -> Network:
    return load_onnx(Path(FOLDER) / f"{name}_{variant}.onnx")


@cache
def data(name: str) -> dict[str, np.ndarray]:
    with np.load(Path(FOLDER) / f"{name}_data.npz") as file:
        return dict(file)


def images_of(name: str) -> np.ndarray:
    """As the network wants them: MFCCs as they are; pixels 0..255 for ResNet-8, 0..1 for VWW, channels first."""
    images = data(name)[NETWORKS[name][0]]
    if images.dtype != np.uint8:
        return images
    images = images.transpose(0, 3, 1, 2).astype(np.float32)
    return images / np.float32(255) if name == "vww96" else images


@cache
def logits_of_all(name: str) -> np.ndarray:
    """The folded network's logits of every image; small batches stay in the cache."""
    network, images = load(name, "folded"), images_of(name)
    return np.concatenate([run_float(network, images[i:i + 50]) for i in range(0, len(images), 50)])


def check_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-4 of the largest logit."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_shapes_they_were_trained_with(name):
    for variant in ("bn", "folded"):
        network = load(name, variant)
        assert (network.input, network.input_shape, network.output) == ("input", NETWORKS[name][2], "logits")
        assert any(isinstance(node, BatchNorm) for node in network.nodes) == (variant == "bn")
        assert network.shapes["logits"] == data(name)["float_logits"].shape[1:]
        assert network.without_softmax() is network


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_recorded(name):
    check_close(logits_of_all(name), data(name)["float_logits"])


@pytest.mark.parametrize("name", NETWORKS)
def test_with_batchnorm_or_folded_by_either_side_the_logits_agree(name):
    few = images_of(name)[:FEW]
    expected = logits_of_all(name)[:FEW]
    check_close(run_float(load(name, "bn"), few), expected)
    check_close(run_float(fold_batchnorm(load(name, "bn")), few), expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("variant", ["bn", "folded"])
def test_logits_agree_with_onnxruntime(name, variant):
    runtime = require_module("onnxruntime", "pip install 'refquant[oracles]'")
    few = images_of(name)[:FEW]
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(Path(FOLDER) / f"{name}_{variant}.onnx"), options,
                                       providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"input": image[None]})[0] for image in few])
    check_close(run_float(load(name, variant), few), expected)


@pytest.mark.parametrize("name", [name for name, (_, labels, _, _) in NETWORKS.items() if labels])
def test_accuracy_is_the_published_one(name):
    labels = data(name)[NETWORKS[name][1]]
    assert len(labels) == 1000
    assert (logits_of_all(name).argmax(axis=1) == labels).sum() == NETWORKS[name][3]
