"""The scale search against brute force, and what it promises: never falls, never worse than where it starts."""

import os
import re
import subprocess
import sys
import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
from easyquant_oracle import BruteForce, Found, Step, cosine, first_maximum, quantized
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from searches import search_layer

from refquant.convolution.geometry import Geometry
from refquant.integers.formats import IntFormat
from refquant.scales.statistics import Extremes, Histogram
from refquant.scales.thresholds import ESTIMATORS, kl, threshold, threshold_scale
from refquant.strategies import geometries, reals

INT3, INT8 = IntFormat(3, narrow=True), IntFormat(8, narrow=True)
# (mode, granularity) and as many parameters of a test.
SEARCHES = [("paper", "layer"), ("paper", "channel"), ("demo", "channel"), ("ncnn", "channel")]
every_search = pytest.mark.parametrize(("mode", "granularity"), SEARCHES)
# Searches of hundreds of candidates, each in plain numbers: a quarter of the profile's examples.
few = settings(max_examples=settings().max_examples // 4)
every_mode = pytest.mark.parametrize("mode", ["paper", "demo", "ncnn"])


class Case(NamedTuple):
    x: np.ndarray
    w: np.ndarray
    bits: tuple[int, int]
    geometry: Geometry = Geometry()
    bias: np.ndarray | None = None
    relu: bool = False
    unsigned: bool = False

    def search(self, inputs=None, **options):
        return search_layer(self.x if inputs is None else inputs, self.w, bits=self.bits, bias=self.bias,
                            relu=self.relu, unsigned=self.unsigned, **self.geometry._asdict(), **options)

    def reference(self, mode, outputs=None) -> BruteForce:
        """Bias and ReLU belong to the modes that follow published code; the paper's compares without."""
        bits_w, bits_a = self.bits
        x_format = IntFormat(bits_a, signed=not self.unsigned, narrow=not self.unsigned)
        after = (None, False) if mode == "paper" else (self.bias, self.relu)
        return BruteForce(self.x, self.w, x_format, IntFormat(bits_w, narrow=True), self.geometry, *after, outputs)


@st.composite
def cases(draw, largest=8):
    """Layers with every geometry: stride, uneven padding, dilation, groups, depthwise; 2 to 8 bits a side."""
    groups = draw(st.sampled_from((1, 1, 2, 3, 6)))
    width, outputs = draw(st.integers(1, 6 // groups)), draw(st.integers(1, 6 // groups))
    plane = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    x = draw(reals((draw(st.integers(1, 4)), groups * width, *plane), dtype))
    w = draw(reals((groups * outputs, width, *kernel), dtype))
    unsigned, bits = draw(st.booleans()), draw(st.integers(2, 8))
    return Case(np.abs(x) if unsigned else x, w, (bits, draw(st.sampled_from((bits, 8, 5, 2)))),
                draw(geometries(plane, kernel, groups)), draw(st.none() | reals(w.shape[:1], dtype)),
                draw(st.booleans()), unsigned)


def start_at_max(case: Case, granularity: str) -> tuple[np.ndarray, float]:
    """fmt.max / max|x|, and 1 for zeros; a dead channel has the layer's."""
    reference = case.reference("paper")

    def scale(reach, fmt):
        return fmt.max / float(reach) if reach > 0 else 1.0

    layer = np.abs(reference.w).max()
    reaches = [np.abs(w).max() for w in reference.w]
    channels = [scale(reach if reach > layer * 2.0**-24 else layer, reference.w_format) for reach in reaches]
    # The activations' limit is rounded to float32 before a scale is made of it, where float32 holds it.
    limit = np.abs(reference.x).max()
    with np.errstate(over="ignore", under="ignore"):
        single = np.float32(limit)
    normal = np.finfo(np.float32).tiny <= single < np.inf
    return (np.array(channels if granularity == "channel" else scale(layer, reference.w_format)),
            scale(single if normal else limit, reference.x_format))


def follow(history):
    """The oracle's own choice, unless the search's is as good to 1e-11: then rounding decided, and it goes along.

    The cosines of both are compared before; only that one of two equals was taken is not held against the search.
    """
    steps = iter(history)

    def choose(cosines, settle):
        own, theirs = first_maximum(cosines, settle), next(steps).chosen
        return theirs if abs(cosines[own] - cosines[theirs]) < 1e-11 else own
    return choose


def assert_same(found, expected: Found) -> None:
    """Candidates and choices are equal, cosines to 1e-12."""
    assert len(found.history) == len(expected.steps)
    for step, wanted in zip(found.history, expected.steps):
        assert (step.operand, step.channel) == (wanted.operand, wanted.channel)
        assert step.candidates.tolist() == wanted.candidates.tolist()
        np.testing.assert_allclose(step.cosines, wanted.cosines, rtol=0, atol=1e-12)
        assert step.chosen == wanted.chosen
    assert np.array_equal(found.weight_scale, expected.weight_scale)
    assert found.activation_scale == expected.activation_scale
    assert found.cosine == pytest.approx(expected.cosine, abs=1e-12)


def same_choices(a, b) -> None:
    ours, theirs = ([(h.operand, h.channel, h.chosen) for h in found.history] for found in (a, b))
    assert ours == theirs
    assert np.array_equal(a.weight_scale, b.weight_scale)
    assert a.activation_scale == b.activation_scale
    for h, g in zip(a.history, b.history):
        assert h.candidates.tolist() == g.candidates.tolist()
        np.testing.assert_allclose(h.cosines, g.cosines, rtol=0, atol=1e-12)
    assert a.cosine == pytest.approx(b.cosine, abs=1e-12)


def normal_case(seed=0, bits=(4, 4), n=3, channels=3, outputs=4, plane=(7, 6), **options) -> Case:
    rng = np.random.default_rng(seed)
    return Case(rng.normal(size=(n, channels, *plane)).astype(np.float32),
                rng.normal(size=(outputs, channels, 3, 3)).astype(np.float32), bits, **options)


# --- the three modes, candidate by candidate ------------------------------------------------------------------

@pytest.mark.parametrize("granularity", ["layer", "channel"])
@given(case=cases(), direct=st.booleans(), n=st.integers(2, 12), rounds=st.integers(1, 3),
       reach=st.sampled_from(((0.5, 2.0), (0.1, 1.0))))
def test_paper_equals_brute_force(granularity, case, direct, n, rounds, reach):
    options = {"alpha": reach[0], "beta": reach[1], "n": n, "rounds": rounds, "tolerance": 1e-4}
    found = case.search(granularity=granularity, direct=direct, **options)
    assert_same(found, case.reference("paper").paper(start_at_max(case, granularity), choose=follow(found.history),
                                                 **options))


@few
@given(case=cases(largest=6))
def test_demo_equals_brute_force(case):
    found = case.search(mode="demo")
    assert_same(found, case.reference("demo").demo(start_at_max(case, "channel"), choose=follow(found.history)))


@few
@given(case=cases(largest=6))
def test_ncnn_equals_brute_force(case):
    assume(case.x.any() and case.w.any())  # all-zero operands stand below, among the neutral results
    found = case.search(mode="ncnn")
    assert_same(found, case.reference("ncnn").ncnn(start_at_max(case, "channel"), choose=follow(found.history)))


def test_paper_takes_100_candidates_over_a_half_to_two_unless_told_otherwise():
    case = normal_case(n=1, plane=(4, 4))
    found = case.search()
    assert_same(found, case.reference("paper").paper(start_at_max(case, "layer"), choose=follow(found.history)))
    weights, activations = found.history[:2]
    for step in (weights, activations):
        assert len(step.candidates) == 101
        assert step.candidates[1] == step.candidates[0] / 2
        assert step.candidates[-1] == step.candidates[0] * 2


@given(case=cases())
def test_paper_takes_no_notice_of_bias_and_relu(case):
    bare = case._replace(bias=None, relu=False)
    same_choices(case.search(n=5), bare.search(n=5))


@every_search
def test_given_outputs_are_what_the_layer_is_to_resemble(mode, granularity):
    case = normal_case(bias=np.array([0.3, -0.2, 0.0, 1.0]), relu=True)
    outputs = np.random.default_rng(1).normal(size=case.reference(mode).outputs.shape).astype(np.float32)
    found = case.search([(case.x, outputs)], mode=mode, granularity=granularity)
    reference = case.reference(mode, outputs.astype(np.float64))
    expected = getattr(reference, mode)(start_at_max(case, granularity), choose=follow(found.history))
    assert_same(found, expected)
    assert found.cosine != case.search(mode=mode, granularity=granularity).cosine


@every_search
def test_keeping_the_activation_searches_the_weights_alone(mode, granularity):
    case = normal_case()
    found = case.search(mode=mode, granularity=granularity, keep_activation=True)
    weight_start, activation = start_at_max(case, granularity)
    assert found.activation_scale == activation
    assert all(h.candidates.tolist() == [activation] for h in found.history if h.operand == "activation")
    free = case.search(mode=mode, granularity=granularity)
    own = len(np.atleast_1d(weight_start))
    assert [h.chosen for h in found.history[:own]] == [h.chosen for h in free.history[:own]]
    assert found.cosine == pytest.approx(
        case.reference(mode).measure(mode, np.broadcast_to(found.weight_scale, len(case.w)), activation), abs=1e-12)


# --- ties -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["demo", "ncnn"])
@pytest.mark.parametrize("seed", range(3))
def test_candidates_with_the_same_codes_tie_and_the_first_maximum_wins(mode, seed):
    """One weight and no bias: every scale under which it is not zero gives the same direction.

    All candidates tie in exact arithmetic, so the first one is chosen (in demo that is S0, which is kept); which
    of them rounding favours by 2^-53 must not matter, since it differs from machine to machine.
    """
    rng = np.random.default_rng(seed)
    case = Case(rng.normal(size=(2, 1, 4, 4)), np.array(0.3 + rng.random()).reshape(1, 1, 1, 1), (8, 8))
    found = case.search(mode=mode)
    weights = found.history[0]
    assert np.ptp(weights.cosines) < 1e-15
    assert weights.chosen == 0


def test_demo_keeps_the_initial_scale_of_every_channel_whose_codes_do_not_change():
    """Depthwise, few bits: many candidates share their codes with S0, and then S0 is nowhere beaten."""
    rng = np.random.default_rng(0)
    case = Case(rng.normal(size=(2, 6, 5, 5)), rng.normal(size=(6, 1, 2, 1)), (3, 8), Geometry(groups=6))
    found = case.search(mode="demo")
    for step in found.history[:-1]:
        codes = [quantized(case.w[step.channel], s, INT3).tolist() for s in step.candidates]
        assert codes.index(codes[step.chosen]) == step.chosen, f"channel {step.channel}"


def test_paper_stays_where_a_move_gains_nothing():
    """All candidates give the same direction: the current scale, listed first, stays and one round is enough."""
    case = Case(np.random.default_rng(0).integers(-3, 4, (2, 1, 4, 4)) / 1.0, np.full((1, 1, 1, 1), 0.7), (8, 3))
    found = case.search(beta=1.0)
    assert [h.chosen for h in found.history] == [0, 0]
    assert found.cosine == 1.0


# --- what paper promises --------------------------------------------------------------------------------------

@pytest.mark.parametrize("granularity", ["layer", "channel"])
@few
@given(case=cases(), n=st.integers(2, 20))
def test_the_cosine_never_falls_along_the_history(granularity, case, n):
    found = case.search(granularity=granularity, n=n, tolerance=0.0)
    reached = -1.0
    for step in found.history:
        start, end = float(step.cosines[0]), float(step.cosines[step.chosen])
        assert start >= reached - 1e-13
        assert end >= start
        assert end > start + 1e-13 or step.chosen == 0
        reached = end
    assert found.cosine >= reached - 1e-13


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@few
@given(case=cases(), n=st.integers(2, 20))
def test_the_current_scale_is_always_listed_first(granularity, case, n):
    found = case.search(granularity=granularity, n=n)
    weight, activation = start_at_max(case, granularity)
    weight = np.array(weight)
    for step in found.history:
        if step.operand == "activation":
            assert step.candidates[0] == activation
            activation = step.candidates[step.chosen]
        else:
            where = () if step.channel is None else step.channel
            assert step.candidates[0] == weight[where]
            weight[where] = step.candidates[step.chosen]
    assert np.array_equal(found.weight_scale, weight)
    assert found.activation_scale == activation


@every_search
@few
@given(case=cases(largest=5))
def test_the_final_cosine_is_that_of_the_returned_scales(mode, granularity, case):
    found = case.search(mode=mode, granularity=granularity)
    weight = np.broadcast_to(found.weight_scale, len(case.w))
    expected = case.reference(mode).measure(mode, weight, found.activation_scale)
    assert found.cosine == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@few
@given(case=cases(), n=st.integers(2, 20))
def test_a_search_from_where_one_ended_starts_at_its_cosine_and_does_not_fall(granularity, case, n):
    found = case.search(granularity=granularity, n=n)
    again = case.search(granularity=granularity, n=n, initial=[(found.weight_scale, found.activation_scale)])
    assert again.history[0].cosines[0] == pytest.approx(found.cosine, abs=1e-12)
    assert again.cosine >= found.cosine - 1e-12


def test_rounds_go_on_until_one_gains_less_than_the_tolerance():
    case = normal_case(bits=(3, 3))
    gains = []
    found = case.search(tolerance=0.0, rounds=50)
    for weights, activations in zip(found.history[::2], found.history[1::2]):
        gains.append(activations.cosines[activations.chosen] - weights.cosines[0])
    assert len(gains) > 2 and gains[-1] <= 1e-12 and min(gains[:-1]) > 0
    for tolerance in (gains[0] * 1.01, (gains[0] + gains[1]) / 2, 1.0):
        stopped = case.search(tolerance=tolerance, rounds=50)
        assert len(stopped.history) == 2 * (next(i for i, gain in enumerate(gains) if gain < tolerance) + 1)
    for rounds in (1, 2):
        assert len(case.search(tolerance=0.0, rounds=rounds).history) == 2 * rounds


# --- better than where it starts ------------------------------------------------------------------------------

def estimated_pairs(case: Case) -> list[tuple[np.ndarray, float]]:
    """Weights by max, activations by every estimator on the layer's own inputs."""
    x_format = case.reference("paper").x_format
    extremes = Extremes.of(case.x)
    histogram = Histogram.of(case.x, extremes.magnitude)
    weight, _ = start_at_max(case, "layer")
    limits = [threshold(extremes, histogram, name, x_format) for name in ESTIMATORS]
    return [(weight, threshold_scale(limit, x_format)) for limit in limits]


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@few
@given(case=cases())
def test_a_search_from_the_best_estimator_ends_below_none_of_them(granularity, case):
    pairs, reference = estimated_pairs(case), case.reference("paper")
    found = case.search(granularity=granularity, initial=pairs, n=8)
    theirs = [reference.measure("paper", np.broadcast_to(s_w, len(case.w)), s_a) for s_w, s_a in pairs]
    start = found.history[0]
    assert (start.operand, start.channel) == ("start", None)
    assert start.candidates.tolist() == list(range(len(ESTIMATORS)))
    np.testing.assert_allclose(start.cosines, theirs, rtol=0, atol=1e-12)
    assert found.cosine >= max(theirs) - 1e-12


def test_listing_the_estimators_scales_as_candidates_is_not_enough():
    """Alternating from the max scales can end below a pair whose two scales were candidates all along.

    w = (3, 5), O = (-23, -14, 37), |O|² = 2094; three bits, so that codes reach 3. At S_a = 3/9 the inputs' codes
    are (0, 2, 3) and (-1, -2, 1). The max scale S_w = 3/5 makes the weights (2, 3) and the outputs (-3, -2, 9),
    430 / sqrt(94·2094) = 0.969; weights (1, 2) give (-2, -2, 5), 259 / sqrt(33·2094) = 0.985: the search moves
    there. Only the scale of least squared error, with codes (0, 3, 3) and (-2, -3, 1), would have shown the worth
    of (2, 3): (-6, -3, 9), 513 / sqrt(126·2094) = 0.999. With (1, 2) no activation scale comes near that, and from
    the new one no weight scale leads back.
    """
    case = Case(np.array([[[[-1.0, 7, 9]], [[-4, -7, 2]]]]), np.array([3.0, 5]).reshape(1, 2, 1, 1), (3, 3))
    reference, pairs = case.reference("paper"), estimated_pairs(case)
    listed = [activation for _, activation in pairs]
    best = max(reference.measure("paper", weight[None], activation) for weight, activation in pairs)
    mse = listed[ESTIMATORS.index("mse")]
    measured = reference.measure("paper", np.array([0.6]), mse)
    assert measured == pytest.approx(513 / (126 * 2094) ** 0.5, abs=1e-15) == best

    ended = reference.paper((np.array(0.6), 1 / 3), listed=listed)
    assert quantized(case.w, ended.steps[0].candidates[ended.steps[0].chosen], INT3).ravel().tolist() == [1, 2]
    assert ended.steps[0].cosines[ended.steps[0].chosen] == pytest.approx(259 / (33 * 2094) ** 0.5, abs=1e-15)
    assert all(mse in step.candidates for step in ended.steps if step.operand == "activation")
    assert all(0.6 in step.candidates for step in ended.steps[:1])
    assert ended.cosine < best - 0.008

    # The search that starts from the best pair keeps it, or betters it.
    assert case.search(initial=pairs).cosine >= best
    assert case.search().cosine < best - 0.008


@every_search
@few
@given(case=cases(largest=5), seed=st.integers(0, 2**32 - 1))
def test_the_best_of_several_initial_pairs_starts(mode, granularity, case, seed):
    rng = np.random.default_rng(seed)
    weight, activation = start_at_max(case, granularity)
    pairs = [(weight * rng.uniform(0.3, 2, np.shape(weight)), activation * rng.uniform(0.3, 2)) for _ in range(4)]
    found = case.search(mode=mode, granularity=granularity, initial=pairs, **({"n": 3} if mode == "paper" else {}))
    start = found.history[0]
    reference = case.reference(mode)
    wanted = [reference.measure(mode, np.broadcast_to(w, len(case.w)), a) for w, a in pairs]
    np.testing.assert_allclose(start.cosines, wanted, rtol=0, atol=1e-12)
    assert start.chosen == follow(found.history)(wanted, True)
    alone = case.search(mode=mode, granularity=granularity, initial=[pairs[start.chosen]],
                        **({"n": 3} if mode == "paper" else {}))
    same_choices(found._replace(history=found.history[1:]), alone)


@every_search
def test_kl_starts_the_activations_as_the_modes_source_does_over_all_batches(mode, granularity):
    rng = np.random.default_rng(0)
    x = rng.standard_t(3, size=(4, 3, 30, 30)).astype(np.float32)
    case = normal_case(bits=(8, 8))._replace(x=x)
    found = case.search([x[:1], x[1:3], x[3:]], mode=mode, granularity=granularity, initial="kl")
    extremes = Extremes.of(x)
    variant, bins = {"paper": ("tensorrt", 2048), "demo": ("demo", 2001), "ncnn": ("ncnn", 2048)}[mode]
    counted = np.maximum(x, 0) if mode == "demo" else x
    limit = np.float32(kl(Histogram.of(counted, extremes.magnitude, bins), 128, variant))
    assert limit < 0.8 * np.abs(x).max()
    weight, _ = start_at_max(case, granularity)
    reference = case.reference(mode)
    if mode == "ncnn":  # S0 itself is no candidate there; a dense 3x3 layer of stride 1 starts at 31/max|w|
        np.testing.assert_allclose(found.history[0].candidates[0], weight[0] / 127 * 31 / 2, rtol=1e-15)
        assert found.history[-1].candidates[0] == 127 / float(limit) / 2
    else:
        assert found.history[0].candidates[0] == np.ravel(weight)[0]
        first = next(h for h in found.history if h.operand == "activation")
        assert first.candidates[0] == 127 / float(limit)
    assert found.cosine == pytest.approx(reference.measure(mode, np.broadcast_to(found.weight_scale, len(case.w)),
                                                       found.activation_scale), abs=1e-12)


@pytest.mark.parametrize(("kernel", "geometry", "bits", "code"), [
    ((3, 3), Geometry(padding=(1, 1, 1, 1)), 8, 31), ((3, 3), Geometry(), 7, 31), ((3, 3), Geometry(), 5, 15),
    ((3, 3), Geometry(stride=(2, 2)), 8, 127), ((3, 3), Geometry(dilation=(2, 2)), 8, 127),
    ((3, 3), Geometry(groups=3), 8, 127), ((1, 1), Geometry(), 8, 127), ((3, 1), Geometry(), 8, 127)])
def test_ncnn_starts_layers_that_its_winograd_can_run_at_6_bit_weights(kernel, geometry, bits, code):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 9, 9)), rng.normal(size=(3, 3 // geometry.groups, *kernel))
    options = {"bits": bits, "mode": "ncnn", **geometry._asdict()}
    start = search_layer(x, w, initial="kl", **options).history[0].candidates[0] * 2
    assert start == pytest.approx(code / np.abs(w[0]).max(), rel=1e-14)
    # By max the start is the format's largest code, as everywhere.
    start = search_layer(x, w, initial="max", **options).history[0].candidates[0] * 2
    assert start == pytest.approx((2 ** (bits - 1) - 1) / np.abs(w[0]).max(), rel=1e-14)


def test_ncnn_leaves_images_out_whose_float_output_is_zero():
    case = normal_case()
    zeros = np.zeros_like(case.x[:1])
    found = case.search(np.concatenate([case.x[:1], zeros, case.x[1:], zeros]), mode="ncnn")
    alone = case.search(mode="ncnn")
    same_choices(found, alone)
    np.testing.assert_allclose(found.cosine, alone.cosine, rtol=1e-15)
    # Demo counts such an image as one that every scale fits.
    demo = case.search(np.concatenate([case.x, zeros]), mode="demo")
    assert demo.cosine > case.search(mode="demo").cosine


def test_widening_goes_on_where_the_best_scale_is_at_an_end():
    """One activation of 20 among thousands near 1: at 4 bits max-scaling leaves them three codes."""
    rng = np.random.default_rng(0)
    x, w = np.abs(rng.normal(size=(2, 1, 40, 40))), rng.normal(size=(1, 1, 3, 3))
    x[0, 0, 0, 0] = 20.0
    options = {"bits": 4, "n": 20}
    plain, wide = (search_layer(x, w, **options, widen=widen) for widen in (False, True))
    start = 7 / 20
    assert plain.activation_scale == pytest.approx(2 * start, rel=1e-12) and wide.activation_scale > 6 * start
    assert wide.cosine > plain.cosine + 0.05
    for step in wide.history:
        inside = step.candidates.min() < step.candidates[step.chosen] < step.candidates.max()
        assert inside, "the best is at an end of the range"
    # A doubled range: 20 candidates more for each factor of 2, current one first.
    activation = wide.history[1]
    doublings = round(np.log2(activation.candidates[-1] / (2 * start)))
    assert doublings >= 1 and len(activation.candidates) == 1 + 20 * (1 + doublings)
    assert (np.diff(activation.candidates[1:]) > 0).all()
    reference = BruteForce(x, w, IntFormat(4, narrow=True), IntFormat(4, narrow=True))
    assert wide.cosine == pytest.approx(reference.measure("paper", wide.weight_scale[None], wide.activation_scale))


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_widening_changes_nothing_where_every_best_scale_lies_inside(granularity):
    case = normal_case(bits=(8, 8))
    plain, wide = (case.search(granularity=granularity, n=21, widen=widen) for widen in (False, True))
    grids = [h.candidates[[1, -1]] for h in plain.history]
    assert all(low < h.candidates[h.chosen] < high for h, (low, high) in zip(plain.history, grids))
    same_choices(plain, wide)


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_widening_ends_and_never_falls_below_the_plain_search_from_the_same_start(granularity):
    # Zero weights or inputs: every scale is as good, and the first one stays.
    for x, w in ((np.zeros((1, 1, 4, 4)), np.ones((2, 1, 1, 1))), (np.ones((1, 1, 4, 4)), np.zeros((2, 1, 1, 1)))):
        found = search_layer(x, w, bits=8, granularity=granularity, widen=True)
        assert found.activation_scale > 0 and np.isfinite(found.weight_scale).all()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, w = rng.standard_t(2, size=(2, 2, 6, 6)), rng.standard_t(2, size=(3, 2, 3, 3))
        options = {"bits": 3, "n": 11, "rounds": 1, "granularity": granularity}
        plain, wide = (search_layer(x, w, **options, widen=widen) for widen in (False, True))
        best = [max(h.cosines) for h in (plain.history[0], wide.history[0])]
        assert best[1] >= best[0] - 1e-12


def test_one_layer_scale_serves_as_initial_scale_of_every_channel():
    case = normal_case()
    wide = [(np.full(4, 2.5), 1.5)]
    for mode in ("paper", "demo", "ncnn"):
        same_choices(case.search(mode=mode, granularity="channel", initial=[(2.5, 1.5)]),
                     case.search(mode=mode, granularity="channel", initial=wide))


# --- the cosine's pooling, and its precision ------------------------------------------------------------------

def test_the_mean_over_images_picks_another_scale_than_all_images_as_one():
    """A loud image and a quiet one, which hardly counts in the paper's cosine and counts half in the others."""
    x = np.array([[[[-2.0, 6, 9]], [[-2, 0, -4]]], [[[0, 1, 2]], [[-1, 1, 0]]]])
    case = Case(x, np.array([2.0, 9]).reshape(1, 2, 1, 1) / 128, (3, 3))
    chosen = {mode: case.search(mode=mode, granularity="channel").history[0] for mode in ("paper", "demo", "ncnn")}
    codes = {mode: quantized(case.w, h.candidates[h.chosen], INT3).ravel().tolist() for mode, h in chosen.items()}
    assert codes["paper"] in ([0, 1], [0, 2])  # one direction
    assert codes["demo"] == codes["ncnn"] == [1, 3]
    reference = case.reference("paper")
    pooled, mean = (chosen[mode].candidates[[chosen[mode].chosen]] for mode in ("paper", "ncnn"))
    assert reference.measure("paper", pooled, 3 / 9) > reference.measure("paper", mean, 3 / 9) + 0.08
    assert reference.measure("ncnn", mean, 3 / 9) > reference.measure("ncnn", pooled, 3 / 9) + 0.08


def test_ncnn_tells_candidates_apart_whose_cosines_differ_by_1e_8():
    """The whole output's cosine is nearly flat in one faint channel: float32 would tie where float64 does not."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 3, 3, 3))
    w[2] /= 300
    case = Case(rng.normal(size=(2, 3, 8, 8)), w, (5, 8))
    found = case.search(mode="ncnn")
    reference = case.reference("ncnn")
    expected = reference.ncnn(start_at_max(case, "channel"))  # its own choices, nowhere led
    assert_same(found, expected)
    step = found.history[2]
    best, second = sorted(step.cosines)[:-3:-1]
    assert 1e-10 < best - second < 2e-8
    assert np.argmax(step.cosines.astype(np.float32)) != step.chosen


@pytest.mark.parametrize(("ratio", "seed"), [(1e2, 22), (1e3, 23), (1e4, 23), (1e5, 22)])
def test_ncnn_compares_faint_channels_rightly_where_a_loud_one_falls_silent(ratio, seed):
    """On the second image the loud channel is 0 behind its ReLU, and so it is quantized, once its scale has moved.

    At the initial scale it is not: its squares, 10^4 to 10^10 times those of the others, must leave no trace in
    what is left when they are taken out of the sums.
    """
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=(4, 3, 1, 1)), np.abs(rng.normal(size=(2, 3, 4, 4)))
    w[0] = ratio * np.array([-1, 0.5, 0.5]).reshape(3, 1, 1)
    x[0] = rng.normal(size=(3, 4, 4))
    x[0, 2] = -x[0, 1]
    x[1] = np.round(x[1, :1] * 8) / 8  # equal channels: O = 0, but the codes of w are (-1, 1, 1) at first
    case = Case(x, w, (2, 8), relu=True)
    found = case.search(mode="ncnn")
    assert_same(found, case.reference("ncnn").ncnn(start_at_max(case, "channel"), choose=follow(found.history)))


def test_paper_compares_faint_channels_rightly_where_a_loud_one_falls_silent():
    """As before, without ReLU: the loud channel's float outputs are all 0, any code of its own drowns the rest."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 3, 1, 1))
    w[0] = 1e6 * np.array([-1, 0.5, 0.5]).reshape(3, 1, 1)
    x = np.repeat(np.round(np.abs(rng.normal(size=(2, 1, 4, 4))) * 8) / 8, 3, axis=1)
    case = Case(x, w, (2, 8))
    found = case.search(granularity="channel")
    assert_same(found, case.reference("paper").paper(start_at_max(case, "channel"), choose=follow(found.history)))


def test_demo_judges_a_channel_by_itself_and_ncnn_by_the_whole_output():
    """A channel's gain does not matter to its own cosine, but does beside the other channels."""
    case = normal_case(bits=(3, 8))
    demo, ncnn = case.search(mode="demo"), case.search(mode="ncnn")
    reference = case.reference("demo")
    weight, activation = start_at_max(case, "channel")
    for channel, step in enumerate(demo.history[:-1]):
        trial = np.where(np.arange(4) == channel, step.candidates[40], weight)
        y = reference.quantized_output(trial, activation)
        own = np.mean([cosine(a[channel], b[channel]) for a, b in zip(reference.outputs, y)])
        assert step.cosines[40] == pytest.approx(own, abs=1e-12)
    assert ncnn.history[1].cosines[5] != pytest.approx(demo.history[1].cosines[5], abs=1e-3)


# --- batches --------------------------------------------------------------------------------------------------

class Recomputed:
    """Batches made anew at every walk, as a network's prefix makes them."""

    def __init__(self, make, count):
        self.make, self.count, self.walks = make, count, 0

    def __iter__(self):
        self.walks += 1
        return (self.make(k) for k in range(self.count))


@every_search
@few
@given(case=cases(largest=5), data=st.data())
def test_how_images_are_batched_does_not_matter(mode, granularity, case, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(case.x) - 1)))) if len(case.x) > 1 else []
    batches = np.split(case.x, cuts)
    options = {"mode": mode, "granularity": granularity, "initial": data.draw(st.sampled_from(("max", "kl"))),
               **({"n": 20} if mode == "paper" else {})}
    # A choice between equals may fall either way once sums are added in another order: follow the first's.
    whole = case.search(**options)
    recomputed = Recomputed(lambda k: batches[k].copy(), len(batches))
    for inputs in (batches, recomputed):
        parted = case.search(inputs, **options)
        for h, g in zip(whole.history, parted.history):
            assert h.candidates.tolist() == g.candidates.tolist()
            np.testing.assert_allclose(h.cosines, g.cosines, rtol=0, atol=1e-12)
            if h.chosen != g.chosen:
                assert abs(h.cosines[h.chosen] - h.cosines[g.chosen]) < 1e-12
                return
        same_choices(whole, parted)
    assert recomputed.walks > 1


@every_search
def test_batches_of_other_plane_sizes_go_together(mode, granularity):
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(1, 3, 9, 5))
    case = normal_case()
    found = case.search([small, large], mode=mode, granularity=granularity)
    references = [case._replace(x=x).reference(mode) for x in (small, large)]
    ours, theirs = [], []
    for reference in references:
        ours += list(reference.outputs)
        theirs += list(reference.quantized_output(np.broadcast_to(found.weight_scale, 4), found.activation_scale))
    wanted = (cosine(*(np.concatenate([y.ravel() for y in side]) for side in (ours, theirs))) if mode == "paper"
              else np.mean([cosine(a, b) for a, b in zip(ours, theirs)]))
    assert found.cosine == pytest.approx(wanted, abs=1e-12)
    assert found.history[-1].cosines.max() >= found.cosine


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_memory_does_not_grow_with_the_number_of_images(granularity):
    weight = np.random.default_rng(1).normal(size=(64, 64, 1, 1)).astype(np.float32)

    def images(k):
        return np.random.default_rng(k).standard_normal((8, 64, 8, 8)).astype(np.float32)

    peaks = []
    search_layer(images(0), weight, bits=8, rounds=1)  # whatever is loaded or kept at the first call
    for count in (2, 16):  # slices; the first one has no sums to be added to
        tracemalloc.start()
        search_layer(Recomputed(images, count), weight, bits=8, rounds=1, granularity=granularity)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 1.1 * peaks[0]


# --- the same everywhere --------------------------------------------------------------------------------------

SCRIPT = """
import numpy as np
from refquant.easyquant import search_demo, search_ncnn, search_paper
rng = np.random.default_rng(0)
for outputs, width, groups in ((5, 6, 1), (6, 1, 6)):
    x, w = rng.normal(size=(2, 6, 8, 8)).astype(np.float32), rng.normal(size=(outputs, width, 3, 3))
    for search, options in ((search_paper, {"granularity": "channel"}), (search_demo, {}), (search_ncnn, {})):
        found = search(x, w, bits=(3, 7), groups=groups, padding=1, **options)
        print([h.chosen for h in found.history], found.weight_scale.tobytes().hex(), found.activation_scale.hex())
"""
MACHINES = [{"OPENBLAS_NUM_THREADS": "1"}, {"OPENBLAS_NUM_THREADS": "2"},
            {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1"}]


def test_choices_are_the_same_under_other_thread_counts_and_blas_kernels():
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    runs = [subprocess.run([sys.executable, "-c", SCRIPT], env={**clean, **machine}, capture_output=True, text=True,
                           check=True).stdout for machine in MACHINES]
    assert len(runs[0].splitlines()) == 6
    assert runs[1] == runs[0]
    assert runs[2] == runs[0]


@every_search
def test_neither_inputs_nor_outputs_are_written_to_and_a_second_search_is_identical(mode, granularity):
    case = normal_case(bias=np.array([0.3, -0.2, 0.0, 1.0]), relu=True)
    outputs = case.reference(mode).outputs
    for array in (case.x, case.w, case.bias, outputs):
        array.flags.writeable = False
    first, second = (case.search([(case.x, outputs)], mode=mode, granularity=granularity) for _ in range(2))
    assert all(np.array_equal(h.cosines, g.cosines) and h.chosen == g.chosen
               for h, g in zip(first.history, second.history))
    assert first.cosine == second.cosine


@every_search
def test_what_is_returned_has_the_documented_types(mode, granularity):
    found = normal_case().search(mode=mode, granularity=granularity)
    assert np.shape(found.weight_scale) == (() if granularity == "layer" else (4,))
    assert found.weight_scale.dtype == np.float64
    assert type(found.activation_scale) is float and type(found.cosine) is float
    assert isinstance(found.history, tuple)
    for step in found.history:
        assert step.operand in ("weight", "activation") and type(step.chosen) is int
        assert step.candidates.shape == step.cosines.shape
        assert step.cosines.dtype == step.candidates.dtype == np.float64


# --- neutral results ------------------------------------------------------------------------------------------

@every_search
def test_all_zero_inputs_leave_the_activation_scale_at_the_first_candidate(mode, granularity):
    case = normal_case(bias=np.array([0.3, -0.2, 0.0, 1.0]))
    for bias in (None, case.bias):
        found = case._replace(x=np.zeros((2, 3, 4, 4)), bias=bias).search(mode=mode, granularity=granularity)
        # The first candidate; without a bias ncnn has nothing to compare, and every scale stays.
        assert found.activation_scale == (0.5 if mode == "ncnn" and bias is not None else 1.0)
        assert found.cosine == pytest.approx(1.0, abs=1e-15)
        assert np.isfinite(found.weight_scale).all()


@every_search
def test_all_zero_weights_leave_their_scale_at_the_first_candidate(mode, granularity):
    found = normal_case()._replace(w=np.zeros((4, 3, 3, 3))).search(mode=mode, granularity=granularity)
    shape = () if granularity == "layer" else 4
    assert np.array_equal(found.weight_scale, np.full(shape, 1.0))
    assert found.cosine == 1.0
    assert np.isfinite(found.activation_scale)


@every_search
@pytest.mark.parametrize("faint", [0.0, 1e-12, 1e-30, 1e-300])
def test_a_dead_channel_has_codes_of_zero_and_disturbs_nothing(mode, granularity, faint):
    case = normal_case(bits=(8, 8))
    case.w[1] *= np.float32(0)
    w = case.w.astype(np.float64)
    w[1] = faint
    found = case._replace(w=w).search(mode=mode, granularity=granularity)
    scale = np.broadcast_to(found.weight_scale, 4)
    assert np.isfinite(scale).all() and (scale < 1e4).all()
    assert not quantized(w[1], scale[1], INT8).any()
    alive = case._replace(w=np.delete(w, 1, axis=0)).search(mode=mode, granularity=granularity)
    if mode != "demo":  # where the dead channel's zero outputs count among the layer's only
        np.testing.assert_allclose(np.delete(scale, 1), np.broadcast_to(alive.weight_scale, 3), rtol=1e-15)
    assert found.activation_scale == pytest.approx(alive.activation_scale, rel=1e-15)


@every_search
@pytest.mark.parametrize("value", [1.0, -0.7, 1e-6, 1e6])
def test_constant_inputs_one_image_one_channel(mode, granularity, value):
    case = Case(np.full((1, 1, 3, 3), value), np.full((1, 1, 2, 2), 0.3), (8, 8))
    found = case.search(mode=mode, granularity=granularity)
    assert found.cosine == pytest.approx(1.0, abs=1e-15)
    assert np.isfinite(found.weight_scale).all() and np.isfinite(found.activation_scale)


@every_search
def test_outputs_of_zero_beside_a_layer_that_is_not_are_unlike(mode, granularity):
    case = normal_case()
    outputs = np.zeros_like(case.reference(mode).outputs)
    found = case.search([(case.x, outputs)], mode=mode, granularity=granularity)
    assert found.cosine == (1.0 if mode == "ncnn" else 0.0)  # ncnn leaves such images out, and then has none left


@pytest.mark.parametrize(("mode", "granularity"), [s for s in SEARCHES if s[0] != "demo"])
@pytest.mark.parametrize("power", [-300, 300])
def test_a_power_of_two_on_inputs_or_weights_changes_their_scale_alone(mode, granularity, power):
    """Except in demo, whose weight candidates lie between 1 and S0, whatever the weights' unit."""
    case = normal_case()._replace(x=normal_case().x.astype(np.float64), w=normal_case().w.astype(np.float64))
    plain = case.search(mode=mode, granularity=granularity)
    for far in (case._replace(x=np.ldexp(case.x, power)), case._replace(w=np.ldexp(case.w, power))):
        found = far.search(mode=mode, granularity=granularity)
        assert [h.chosen for h in found.history] == [h.chosen for h in plain.history]
        assert found.cosine == pytest.approx(plain.cosine, abs=1e-14)


@pytest.mark.parametrize("operand", ["x", "w"])
@pytest.mark.parametrize("power", [-1060, -600, 600])
def test_what_float64_cannot_square_is_searched_or_refused_but_never_answered_wrongly(operand, power):
    """Squared sums of 2^±600 leave float64: silence about that would be a cosine of 0 or 1, or NaN."""
    case = normal_case()._replace(x=normal_case().x.astype(np.float64), w=normal_case().w.astype(np.float64))
    plain = case.search()
    try:
        found = case._replace(**{operand: np.ldexp(getattr(case, operand), power)}).search()
    except ValueError as refusal:
        assert re.search(r"^(inputs|weights|outputs) must", str(refusal))
    else:
        assert np.isfinite(found.weight_scale).all() and np.isfinite(found.activation_scale)
        # Subnormal numbers are few: there the layer itself is another one.
        assert found.cosine == pytest.approx(plain.cosine, abs=1e-12 if power > -1000 else 0.05)


# --- refusals -------------------------------------------------------------------------------------------------

X, W = np.ones((2, 3, 4, 4)), np.ones((4, 3, 3, 3))


def spoiled(array, value):
    array = array.copy()
    array[-1, 0, 1, 2] = value
    return array


MUST = "inputs must hold float32 or float64 in 4 dimensions and not be empty, got "
AGAIN = "inputs must be an array or batches that can be walked through again, got "
BAD_INPUTS = [
    ([], "inputs must hold at least one batch, got none"),
    (X[:0], MUST + "float64 of shape (0, 3, 4, 4)"),
    ([X, X[:, :, :0]], MUST + "float64 of shape (2, 3, 0, 4)"),
    (X[0], MUST + "float64 of shape (3, 4, 4)"),
    (X.astype(np.int8), MUST + "int8 of shape (2, 3, 4, 4)"),
    (X.astype(np.float16), MUST + "float16 of shape (2, 3, 4, 4)"),
    (X.astype(complex), MUST + "complex128 of shape (2, 3, 4, 4)"),
    (spoiled(X, np.nan), "inputs must be finite, got NaN or infinity"),
    ([X, spoiled(X, -np.inf)], "inputs must be finite, got NaN or infinity"),
    (X[:, :2], "weight must be (O, 2, R, S) for 2 input channels in 1 groups, got shape (4, 3, 3, 3)"),
    ([X, X[:, :2]], "weight must be (O, 2, R, S) for 2 input channels in 1 groups, got shape (4, 3, 3, 3)"),
    (X[:, :, :2], "the kernel must fit the padded input, got extent 3 over 2"),
    ([(X, np.ones((2, 4, 2, 3)))], "outputs must have shape (2, 4, 2, 2), got (2, 4, 2, 3)"),
    ([(X, np.ones((1, 4, 2, 2)))], "outputs must have shape (2, 4, 2, 2), got (1, 4, 2, 2)"),
    ([(X, np.ones((2, 4, 2, 2), int))],
     "outputs must hold float32 or float64 in 4 dimensions and not be empty, got int64 of shape (2, 4, 2, 2)"),
    ([(X, spoiled(np.ones((2, 4, 2, 3)), np.nan)[..., 1:])], "outputs must be finite, got NaN or infinity"),
    (None, AGAIN + "<class 'NoneType'>"),
    (1.0, AGAIN + "<class 'float'>"),
    ((x for x in [X]), AGAIN + "<class 'generator'>"),
    (iter([X]), AGAIN + "<class 'list_iterator'>"),
    (map(np.copy, [X]), AGAIN + "<class 'map'>"),
]


@every_mode
@pytest.mark.parametrize(("inputs", "message"), BAD_INPUTS)
def test_inputs_that_cannot_calibrate_are_refused_in_one_sentence(mode, inputs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        search_layer(inputs, W, bits=8, mode=mode)


@pytest.mark.parametrize("inputs", [[X.tolist()], [[X, X]], [(X,)], [(X, X, X)], [[X, np.ones((2, 4, 2, 2))]], [None],
                                    [(X, None)], ["x"]])
def test_batches_of_another_kind_are_refused_in_one_sentence(inputs):
    with pytest.raises(ValueError, match=r"^(inputs|outputs|a batch|batches) must .*, got "):
        search_layer(inputs, W, bits=8)


WEIGHTS_MUST = "weights must hold float32 or float64 in 4 dimensions and not be empty, got "
INITIAL_MUST = "initial must be max, kl, or pairs of a weight and an activation scale, got "
BITS_MUST = "bits must be an integer from 2 to 16, or two for weights and activations, got "
BAD_OPTIONS = [
    ({"weights": W[0]}, WEIGHTS_MUST + "float64 of shape (3, 3, 3)"),
    ({"weights": W[:0]}, WEIGHTS_MUST + "float64 of shape (0, 3, 3, 3)"),
    ({"weights": W.astype(int)}, WEIGHTS_MUST + "int64 of shape (4, 3, 3, 3)"),
    ({"weights": spoiled(W, np.inf)}, "weights must be finite, got NaN or infinity"),
    ({"bits": 1}, BITS_MUST + "1"),
    ({"bits": 17}, BITS_MUST + "17"),
    ({"bits": True}, BITS_MUST + "True"),
    ({"bits": 8.0}, BITS_MUST + "8.0"),
    ({"bits": None}, BITS_MUST + "None"),
    ({"bits": "88"}, BITS_MUST + "'88'"),
    ({"bits": (8, 1)}, BITS_MUST + "(8, 1)"),
    ({"bits": (True, 8)}, BITS_MUST + "(True, 8)"),
    ({"bits": (8,)}, BITS_MUST + "(8,)"),
    ({"bits": (8, 8, 8)}, BITS_MUST + "(8, 8, 8)"),
    ({"granularity": "tensor"}, "granularity must be one of layer, channel, got 'tensor'"),
    ({"initial": "mean"}, INITIAL_MUST + "'mean'"),
    ({"initial": []}, INITIAL_MUST + "[]"),
    ({"initial": [(1.0,)]}, INITIAL_MUST + "[(1.0,)]"),
    ({"initial": [(1.0, 2.0, 3.0)]}, INITIAL_MUST + "[(1.0, 2.0, 3.0)]"),
    ({"initial": None}, INITIAL_MUST + "None"),
    ({"initial": 1.0}, INITIAL_MUST + "1.0"),
    ({"initial": (1.0, 2.0)}, INITIAL_MUST + "(1.0, 2.0)"),
    ({"initial": [(0.0, 1.0)]}, "an initial scale must be finite and > 0, got 0.0"),
    ({"initial": [(1.0, -1.0)]}, "an initial scale must be finite and > 0, got -1.0"),
    ({"initial": [(1.0, 1.0), (np.inf, 1.0)]}, "an initial scale must be finite and > 0, got inf"),
    ({"initial": [(1.0, np.nan)]}, "an initial scale must be finite and > 0, got nan"),
    ({"initial": [(np.ones(3), 1.0)]}, "initial scales must have shapes (4,) and (), got (3,) and ()"),
    ({"initial": [(np.ones(3), 1.0)], "granularity": "channel"},
     "initial scales must have shapes (4,) and (), got (3,) and ()"),
    ({"initial": [(1.0, np.ones(4))], "granularity": "channel"},
     "initial scales must have shapes (4,) and (), got () and (4,)"),
    ({"mode": "demo", "bias": np.ones(3)}, "bias must have shape (4,), got (3,)"),
    ({"mode": "demo", "bias": np.ones((4, 1))},
     "bias must hold float32 or float64 in 1 dimensions and not be empty, got float64 of shape (4, 1)"),
    ({"mode": "demo", "bias": np.ones(4, int)},
     "bias must hold float32 or float64 in 1 dimensions and not be empty, got int64 of shape (4,)"),
    ({"mode": "demo", "bias": np.array([1, 2, np.nan, 3])}, "bias must be finite, got NaN or infinity"),
    ({"alpha": 2.0, "beta": 2.0}, "alpha and beta must be numbers with 0 < alpha < beta < 1e6, got 2.0 and 2.0"),
    ({"alpha": 3.0}, "alpha and beta must be numbers with 0 < alpha < beta < 1e6, got 3.0 and 2.0"),
    ({"alpha": 0.0}, "alpha and beta must be numbers with 0 < alpha < beta < 1e6, got 0.0 and 2.0"),
    ({"alpha": np.nan}, "alpha and beta must be numbers with 0 < alpha < beta < 1e6, got nan and 2.0"),
    ({"beta": np.inf}, "alpha and beta must be numbers with 0 < alpha < beta < 1e6, got 0.5 and inf"),
    ({"n": 1}, "n must be an integer >= 2, got 1"),
    ({"n": 10.0}, "n must be an integer >= 2, got 10.0"),
    ({"n": True}, "n must be an integer >= 2, got True"),
    ({"rounds": 0}, "rounds must be an integer >= 1, got 0"),
    ({"rounds": True}, "rounds must be an integer >= 1, got True"),
    ({"rounds": 1.5}, "rounds must be an integer >= 1, got 1.5"),
    ({"tolerance": -1e-9}, "tolerance must be a number >= 0, got -1e-09"),
    ({"tolerance": np.nan}, "tolerance must be a number >= 0, got nan"),
    ({"stride": 0}, "stride must be >= 1, got 0"),
    ({"groups": 2}, "groups must divide the channels, got groups 2 for 3 input and 4 output channels"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_options_that_make_no_sense_are_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        search_layer(X, **{"weights": W, "bits": 8, **options})


def test_nothing_is_walked_through_before_the_options_are_checked():
    batches = Recomputed(lambda k: X, 1)
    for options in ({"bits": 99}, {"rounds": 0}, {"granularity": "x"}, {"stride": 0}):
        with pytest.raises(ValueError, match="must"):
            search_layer(batches, W, **{"bits": 8, **options})
    assert batches.walks == 0


def test_the_oracle_is_led_only_between_equals():
    history = [Step("weight", None, np.array([1.0, 2.0]), [0.5, 0.6], 0)]
    assert follow(history)([0.5, 0.6], False) == 1
    assert follow(history)([0.6, 0.6], False) == 0
    assert follow(history)([0.6 - 1e-12, 0.6], False) == 0
    assert first_maximum([0.6, 0.6], False) == 0
    assert first_maximum([0.5, 0.7, 0.7 + 5e-13], True) == 1
    assert first_maximum([0.7 - 5e-13, 0.7], True) == 0
    assert first_maximum([0.7 - 5e-13, 0.7], False) == 1
