"""Evaluation tells of a difference between the two paths, and counts as one would by hand."""

import numpy as np
import pytest

from refquant import quantize_network, run_float
from refquant.commands import evaluation
from refquant.commands.evaluation import evaluate, top1
from refquant.convolution.geometry import Geometry
from refquant.network.graph import Clip, Conv, Flatten, GlobalAveragePool, Network


@pytest.fixture
def network():
    rng = np.random.default_rng(3)
    return Network((2, 5, 5), (
        Conv("conv", "input", rng.standard_normal((6, 2, 3, 3)), rng.standard_normal(6), Geometry.of(1, 1)),
        Clip("relu", "conv"),
        Conv("point", "relu", rng.standard_normal((4, 6, 1, 1))),
        GlobalAveragePool("mean", "point"),
        Flatten("logits", "mean")))


def test_top1_takes_the_first_among_equals():
    assert top1(np.array([[1.0, 1.0], [0.0, 2.0]]), [1, 1]) == 50.0


def test_one_differing_code_in_one_image_is_reported(network, monkeypatch):
    images = np.random.default_rng(4).standard_normal((evaluation.BATCH + 3, 2, 5, 5))
    quantized = quantize_network(network, images)
    logits = run_float(network, images)
    assert evaluate(quantized, images, None, logits).codes_equal
    path = evaluation.run_simulated_tensors

    def disturbed(program, x_q):
        tensors = path(program, x_q)
        if len(x_q) == 3:  # the last batch alone, in a hidden layer alone
            tensors["relu"] = tensors["relu"].copy()
            tensors["relu"][2, 5, 4, 4] += 1
        return tensors

    monkeypatch.setattr(evaluation, "run_simulated_tensors", disturbed)
    assert not evaluate(quantized, images, None, logits).codes_equal


def test_extremes_cover_all_batches(network):
    images = np.zeros((2 * evaluation.BATCH, 2, 5, 5))
    images[-1] = 3.0
    quantized = quantize_network(network, np.concatenate([images, -images]))
    stages = {s.proven.layer: s for s in evaluate(quantized, images, None, run_float(network, images)).stages}
    x_q = quantized.quantize_images(images[-1:]).astype(int)
    conv = quantized.layers[0].terms[0]
    centre = [(conv.weight_q[o].astype(int) * x_q[0, :, :3, :3]).sum() + conv.bias_q[o] for o in range(6)]
    assert stages["conv"].observed.min <= min(centre) and max(centre) <= stages["conv"].observed.max
    assert stages["conv"].proven.min <= stages["conv"].observed.min


def test_accuracies_are_none_without_labels(network):
    images = np.ones((2, 2, 5, 5))
    result = evaluate(quantize_network(network, images), images, None, run_float(network, images))
    assert result.integer_top1 is None and result.simulated_top1 is None
