"""The layers of a network through other kernels: what differs is told, and what cannot run is left out."""

import numpy as np
import pytest

from refquant import quantize_network
from refquant.commands import kernel_check as integer_kernels
from refquant.commands.kernel_check import run_lanes, run_winograd
from refquant.convolution.geometry import Geometry
from refquant.integers.formats import IntFormat
from refquant.network.graph import Clip, Conv, Flatten, GlobalAveragePool, Network


@pytest.fixture
def images():
    return np.random.default_rng(5).standard_normal((4, 2, 5, 5))


@pytest.fixture
def quantized(images):
    rng = np.random.default_rng(3)
    network = Network((2, 5, 5), (
        Conv("conv", "input", rng.standard_normal((6, 2, 3, 3)), rng.standard_normal(6), Geometry.of(1, 1)),
        Clip("relu", "conv"),
        Conv("deep", "relu", rng.standard_normal((6, 1, 3, 3)), None, Geometry.of(1, 1, 1, 6)),
        Conv("strided", "deep", rng.standard_normal((3, 6, 3, 3)), None, Geometry.of(2, 1)),
        Conv("spread", "strided", rng.standard_normal((3, 3, 3, 3)), None, Geometry.of(1, 2, 2)),
        Conv("point", "spread", rng.standard_normal((4, 3, 1, 1))),
        GlobalAveragePool("mean", "point"),
        Flatten("logits", "mean")))
    return quantize_network(network, images, weight_bits=7, activation_bits=7, activations="signed")


def test_every_3x3_layer_runs_through_lanes(quantized, images):
    reports = run_lanes(quantized, images)
    assert [report.layer for report in reports] == ["conv", "deep", "strided", "spread"]
    assert all(report.sums_equal and report.products_per_lane == 8 for report in reports)


def test_dense_layers_of_stride_1_alone_run_through_winograd(quantized, images):
    for tile in ((2, 3), (4, 3)):
        reports = run_winograd(quantized, images, tile)
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
def test_one_wrong_sum_is_reported(quantized, images, monkeypatch, kernel, run):
    path = getattr(integer_kernels, kernel)

    def disturbed(*arguments, **options):
        sums = path(*arguments, **options)
        sums[3, 2, 1, 1] -= 1
        return sums

    monkeypatch.setattr(integer_kernels, kernel, disturbed)
    assert not any(report.sums_equal for report in run(quantized, images))


def test_layers_with_a_zero_point_are_left_out(images):
    network = Network((2, 5, 5), (Conv("conv", "input", np.ones((1, 2, 3, 3))),))
    affine = quantize_network(network, images + 3.0, activations="affine")
    assert affine.qparams["input"].format == IntFormat(8) and affine.qparams["input"].zero_point
    assert run_lanes(affine, images) == run_winograd(affine, images) == []
