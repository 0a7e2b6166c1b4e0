"""The layers of a network through other kernels: what differs is told, and what cannot run is left out."""

import numpy as np
import pytest
from terminal import small_network

from refquant import quantize_network
from refquant.commands import kernel_check
from refquant.commands.kernel_check import run_lanes, run_winograd
from refquant.network.graph import Conv, Network

IMAGES = np.random.default_rng(5).standard_normal((4, 2, 5, 5))


@pytest.fixture(scope="module")
def quantized():
    return quantize_network(small_network(), IMAGES, weight_bits=7, activation_bits=7, activations="signed")


def test_every_3x3_layer_runs_through_lanes(quantized):
    reports = run_lanes(quantized, IMAGES)
    assert [report.layer for report in reports] == ["conv", "deep", "strided", "spread"]
    assert all(report.sums_equal and report.products_per_lane == 8 for report in reports)


def test_dense_layers_of_stride_1_alone_run_through_winograd(quantized):
    for tile in ((2, 3), (4, 3)):
        reports = run_winograd(quantized, IMAGES, tile)
        assert {report.layer for report in reports} == {"conv"}
        assert [report.stage.proven.stage for report in reports] == [
            "input", "V", "U", "product", "sum", "output_scaled", "output"]
        for report in reports:
            assert report.sums_equal
            observed, proven = report.stage
            assert proven.min <= observed.min <= observed.max <= proven.max and proven.headroom_bits >= 0
    weight = quantized.layers[0].terms[0].weight_q.astype(int)
    assert reports[-1].stage.proven.max == 63 * np.abs(weight).sum(axis=(1, 2, 3)).max()


@pytest.mark.parametrize("kernel, run", [("convolve_int16", run_lanes), ("winograd_convolve", run_winograd)])
def test_one_wrong_sum_is_reported(quantized, monkeypatch, kernel, run):
    path = getattr(kernel_check, kernel)

    def disturbed(*arguments, **options):
        sums = path(*arguments, **options)
        sums[3, 2, 1, 1] -= 1
        return sums

    monkeypatch.setattr(kernel_check, kernel, disturbed)
    assert not any(report.sums_equal for report in run(quantized, IMAGES))


def test_layers_with_a_zero_point_are_left_out():
    network = Network((2, 5, 5), (Conv("conv", "input", np.ones((1, 2, 3, 3))),))
    affine = quantize_network(network, IMAGES + 3.0, activations="affine")
    assert affine.qparams["input"].zero_point
    assert run_lanes(affine, IMAGES) == run_winograd(affine, IMAGES) == []
