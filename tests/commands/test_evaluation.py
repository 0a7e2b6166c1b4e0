"""Evaluation tells of a difference between the two paths, and counts as one would by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant import quantize_network
from refquant.commands import evaluation
from refquant.commands.evaluation import evaluate, top1
from refquant.convolution.geometry import Geometry
from refquant.network import forward
from refquant.network.graph import Clip, Conv, Flatten, GlobalAveragePool, Network


@pytest.fixture(scope="module")
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
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", 50 * 10 * 5 * 5)  # 50 images from 6 planes to 4
    images = np.random.default_rng(4).standard_normal((53, 2, 5, 5))
    quantized = quantize_network(network, images)
    assert evaluate(quantized, images, None, network).codes_equal
    tensors = evaluation.simulated_tensors

    def disturbed(program, x_q):
        for name, codes in tensors(program, x_q):
            codes = codes.copy()
            if len(x_q) == 3 and name == "relu":  # the last slice alone, in a hidden layer alone
                codes[2, 5, 4, 4] += 1
            yield name, codes

    monkeypatch.setattr(evaluation, "simulated_tensors", disturbed)
    assert not evaluate(quantized, images, None, network).codes_equal


def test_extremes_cover_all_slices(network, monkeypatch):
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", 1)
    images = np.zeros((3, 2, 5, 5))
    images[-1] = 3.0
    quantized = quantize_network(network, np.concatenate([images, -images]))
    stages = {s.proven.layer: s for s in evaluate(quantized, images, None, network).stages}
    x_q = quantized.quantize_images(images[-1:]).astype(int)
    conv = quantized.layers[0].terms[0]
    centre = [(conv.weight_q[o].astype(int) * x_q[0, :, :3, :3]).sum() + conv.bias_q[o] for o in range(6)]
    assert stages["conv"].observed.min <= min(centre) and max(centre) <= stages["conv"].observed.max
    assert stages["conv"].proven.min <= stages["conv"].observed.min


@given(st.integers(1, 7))
def test_the_slices_do_not_matter(network, size):
    images = np.random.default_rng(5).standard_normal((6, 2, 5, 5))
    quantized = quantize_network(network, images)
    results = []
    for elements in (1 << 21, size * 250):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forward, "SLICE_ELEMENTS", elements)
            results.append(evaluate(quantized, images, range(6), network))
            np.testing.assert_array_equal(quantized.run(images), quantized.simulate(images))
    whole, sliced = results
    assert whole.stages == sliced.stages
    assert (whole.integer_top1, whole.cosine) == (sliced.integer_top1, sliced.cosine)
    for one, other in zip(whole.layers, sliced.layers, strict=True):
        assert one.saturated_fraction == other.saturated_fraction
        assert one.cosine == pytest.approx(other.cosine, abs=1e-14)


def test_accuracies_are_none_without_labels(network):
    images = np.ones((2, 2, 5, 5))
    result = evaluate(quantize_network(network, images), images, None, network)
    assert result.integer_top1 is None and result.simulated_top1 is None
