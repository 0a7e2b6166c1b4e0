"""Evaluation tells of a difference between the two paths, and counts as one would by hand."""

import numpy as np
import pytest
from terminal import small_network

from refquant import quantize_network
from refquant.commands import evaluation
from refquant.commands.evaluation import evaluate, top1
from refquant.commands.layers import described
from refquant.integers.formats import IntFormat
from refquant.network import forward
from refquant.network.graph import Conv, Network
from refquant.network.qparams import QuantParams

NETWORK, IMAGES = small_network(), np.random.default_rng(5).standard_normal((6, 2, 5, 5))


def test_top1_takes_the_first_among_equals():
    assert top1(np.array([[1.0, 1.0], [0.0, 2.0]]), [1, 1]) == 50.0


def test_one_differing_code_in_one_image_is_reported(monkeypatch):
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", 5 * 12 * 5 * 5)  # 5 images from 6 planes to 6
    quantized = quantize_network(NETWORK, IMAGES)
    assert evaluate(quantized, IMAGES, None, NETWORK).codes_equal
    tensors = evaluation.simulated_tensors

    def disturbed(program, x_q):
        for name, codes in tensors(program, x_q):
            codes = codes.copy()
            if len(x_q) == 1 and name == "relu":  # the last slice alone, in a hidden layer alone
                codes[0, 5, 4, 4] += 1
            yield name, codes

    monkeypatch.setattr(evaluation, "simulated_tensors", disturbed)
    assert not evaluate(quantized, IMAGES, None, NETWORK).codes_equal


@pytest.mark.parametrize("size", [1, 4])
def test_the_slices_do_not_matter(size, monkeypatch):
    quantized = quantize_network(NETWORK, IMAGES)
    whole = evaluate(quantized, IMAGES, range(6), NETWORK)
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", size * 300)
    sliced = evaluate(quantized, IMAGES, range(6), NETWORK)
    np.testing.assert_array_equal(quantized.run(IMAGES), quantized.simulate(IMAGES))
    assert (whole.stages, whole.integer_top1) == (sliced.stages, sliced.integer_top1)
    for one, other in zip((whole, *whole.layers), (sliced, *sliced.layers), strict=True):
        assert one.cosine == pytest.approx(other.cosine, abs=1e-14)
    assert [one.saturated_fraction for one in whole.layers] == [one.saturated_fraction for one in sliced.layers]


def test_a_code_is_saturated_at_an_end_of_its_format_that_is_not_real_zero():
    for zero, saturated in ((0, 2), (127, 1), (-128, 1)):
        sums = evaluation._LayerSums()
        sums.add_codes(np.zeros(4), np.array([-128, 127, 0, 5]), QuantParams(1.0, IntFormat(8), zero))
        assert (sums.saturated, sums.size) == (saturated, 4)


def test_the_sums_seen_are_those_of_all_images():
    quantized = quantize_network(NETWORK, IMAGES)
    stages = {s.proven.layer: s for s in evaluate(quantized, IMAGES, None, NETWORK).stages}
    conv = quantized.layers[0].terms[0]
    x_q = np.pad(quantized.quantize_images(IMAGES).astype(int), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x_q, (3, 3), axis=(2, 3))
    acc = np.einsum("ocrs,nchwrs->nohw", conv.weight_q.astype(int), windows) + conv.bias_q[:, None, None]
    observed = stages["conv"].observed
    assert (observed.min, observed.max) == (acc.min(), acc.max()) and stages["conv"].proven.min <= observed.min


def test_a_channel_whose_bias_no_register_holds_is_counted_as_rescaled():
    """Folded MobileNets have channels of weights near 1e-7 of the layer's beside ordinary biases."""
    weight = np.random.default_rng(3).standard_normal((4, 2, 3, 3))
    weight[1] *= 2e-7  # alive: above 2^-24 of the largest
    network = Network((2, 5, 5), (Conv("conv", "input", weight, np.full(4, 3.0)),))
    quantized = quantize_network(network, IMAGES, "channelwise-int8")
    result = evaluate(quantized, IMAGES, None, network)
    assert (result.layers[0].dead_channels, result.layers[0].rescaled_channels) == (0, 1) and result.codes_equal
    assert described(quantized, quantized.layers[0])["bias_limited"] == 1
    # The largest scale that fits: the next code up, of the bias or of a weight, would not.
    assert 2**31 - 1 - 256 < quantized.stages[0].max <= 2**31 - 1
