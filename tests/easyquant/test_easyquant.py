"""The scale searches against brute force, half-step by half-step, and what they promise beside."""

import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from easyquant_oracle import BruteForce, assert_searched, cosine, layers, search, search_layer
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import on_x86, printed

from refquant.convolution.geometry import Geometry
from refquant.easyquant.layer import QuantizedLayer
from refquant.integers.formats import IntFormat
from refquant.scales.statistics import Extremes, Histogram
from refquant.scales.thresholds import kl

# (mode, granularity) and as many parameters of a test.
SEARCHES = [("paper", "layer"), ("paper", "channel"), ("demo", "channel"), ("ncnn", "channel")]
every_search = pytest.mark.parametrize(("mode", "granularity"), SEARCHES)
# Searches of hundreds of candidates, each in plain numbers: a quarter of the profile's examples.
few = settings(max_examples=settings().max_examples // 4)


def start_at_max(layer: QuantizedLayer, granularity: str) -> tuple[np.ndarray, float]:
    """fmt.max / max|x|, and 1 for zeros; a dead channel has the layer's."""

    def scale(reach, fmt):
        return fmt.max / float(reach) if reach > 0 else 1.0

    whole = np.abs(layer.weight).max()
    reaches = [np.abs(w).max() for w in layer.weight]
    channels = [scale(reach if reach > whole * 2.0**-24 else whole, layer.w_format) for reach in reaches]
    limit = max(np.abs(batch[0] if isinstance(batch, tuple) else batch).max() for batch in layer.batches)
    # The activations' limit is rounded to float32 before a scale is made of it.
    return (np.array(channels if granularity == "channel" else scale(whole, layer.w_format)),
            scale(np.float32(limit), layer.x_format))


def assert_brute_force(layer, mode, granularity="channel", seed=None, direct=False, **options):
    """From max, or from the best of four random pairs, the last with one weight scale for all channels."""
    weight, activation = start_at_max(layer, granularity)
    starts, initial = [(weight, activation)], "max"
    if seed is not None:
        rng = np.random.default_rng(seed)
        starts = [(weight * rng.uniform(0.3, 2, weight.shape), activation * rng.uniform(0.3, 2)) for _ in range(3)]
        initial = [*starts, (weight.max(), activation)]
        starts.append((np.full_like(weight, weight.max()), activation))
    found = search(layer, mode, granularity=granularity, initial=initial, direct=direct, **options)
    assert_searched(found, layer, mode, starts, **options)
    return found


def layer_of(x, w, bits_w, bits_a, bias=None, relu=False) -> QuantizedLayer:
    formats = IntFormat(bits_a, narrow=True), IntFormat(bits_w, narrow=True)
    return QuantizedLayer([x], w, Geometry(), *formats, bias, relu)


def normal_layer(bits=4, bias=None, relu=False) -> QuantizedLayer:
    rng = np.random.default_rng(0)
    return layer_of(rng.normal(size=(3, 3, 7, 6)), rng.normal(size=(4, 3, 3, 3)), bits, bits, bias, relu)


BIAS = np.array([0.3, -0.2, 0.0, 1.0])


# --- brute force ----------------------------------------------------------------------------------------------

seeds = st.none() | st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@given(layer=layers(), direct=st.booleans(), n=st.integers(2, 12), rounds=st.integers(1, 4), seed=seeds,
       reach=st.sampled_from(((0.5, 2.0), (0.1, 1.0))), tolerance=st.sampled_from((1e-4, 1e-2)))
def test_paper_equals_brute_force(granularity, layer, direct, n, rounds, seed, reach, tolerance):
    assert_brute_force(layer, "paper", granularity, seed, direct, alpha=reach[0], beta=reach[1], n=n, rounds=rounds,
                       tolerance=tolerance)


@few
@given(layer=layers(largest=6), seed=seeds)
def test_demo_equals_brute_force(layer, seed):
    assert_brute_force(layer, "demo", seed=seed)


@few
@given(layer=layers(largest=6), seed=seeds)
def test_ncnn_equals_brute_force(layer, seed):
    assert_brute_force(layer, "ncnn", seed=seed)


def hard_layers() -> dict[str, QuantizedLayer]:
    x, w = normal_layer().batches[0], normal_layer().weight
    faint, dead, vanishing = w.copy(), w.copy(), w.copy()
    # The whole output's cosine is nearly flat in a faint channel: candidates of ncnn differ by 1e-8 there.
    faint[2], dead[1], vanishing[1] = w[2] / 300, 0, 1e-30
    found = {
        "zero inputs": layer_of(0 * x, w, 4, 4),
        "zero inputs and a bias": layer_of(0 * x, w, 4, 4, BIAS),
        "zero weights": layer_of(x, 0 * w, 4, 4),
        "zero weights and a bias": layer_of(x, 0 * w, 4, 4, BIAS),
        # ncnn leaves such images out, and has none left in the second.
        "images of zeros": layer_of(x * np.array([1, 0, 1]).reshape(3, 1, 1, 1), w, 4, 4),
        "outputs of zero": replace(normal_layer(), batches=[(x, np.zeros((3, 4, 5, 4)))]),
        "a faint channel": layer_of(x, faint, 5, 8),
        "a dead channel": layer_of(x, dead, 8, 8),
        "a vanishing channel": layer_of(x, vanishing, 8, 8),
        "one constant": layer_of(np.full((1, 1, 3, 3), -0.7), np.full((1, 1, 2, 2), 0.3), 8, 8),
        # Every scale under which the one weight is not zero gives the same direction, and the first must win.
        "one weight": layer_of(x[:, :1], np.full((1, 1, 1, 1), 0.7), 8, 8),
    }
    # On the second image the loud channel is 0 behind its ReLU, and so it is quantized, once its scale has moved. At
    # the initial scale it is not: its squares, 10^4 to 10^10 times those of the others, must leave no trace in what
    # is left when they are taken out of the sums.
    for ratio, seed in ((1e2, 22), (1e3, 23), (1e5, 22)):
        rng = np.random.default_rng(seed)
        w, x = rng.normal(size=(4, 3, 1, 1)), np.abs(rng.normal(size=(2, 3, 4, 4)))
        w[0] = ratio * np.array([-1, 0.5, 0.5]).reshape(3, 1, 1)
        x[0] = rng.normal(size=(3, 4, 4))
        x[0, 2] = -x[0, 1]
        x[1] = np.round(x[1, :1] * 8) / 8  # equal channels: O = 0, but the codes of w are (-1, 1, 1) at first
        found[f"a channel {ratio:g} times as loud falls silent"] = layer_of(x, w, 2, 8, relu=True)
    # Without ReLU: the loud channel's float outputs are all 0, any code of its own drowns the rest.
    found["a silent channel drowns the rest"] = layer_of(x[[1]], w, 2, 8)
    return found


HARD = hard_layers()


@every_search
@pytest.mark.parametrize("layer", HARD.values(), ids=HARD)
def test_hard_layers_equal_brute_force(mode, granularity, layer):
    found = assert_brute_force(layer, mode, granularity, **({"n": 20} if mode == "paper" else {}))
    assert np.isfinite(found.weight_scale).all() and found.weight_scale.max() < 1e4  # of a dead channel too


@every_search
def test_the_best_of_several_starts_takes_the_images_that_the_search_takes(mode, granularity):
    assert_brute_force(HARD["images of zeros"], mode, granularity, seed=0)


@every_search
def test_given_outputs_are_what_the_layer_is_to_resemble(mode, granularity):
    layer = normal_layer(bias=BIAS, relu=True)
    outputs = np.random.default_rng(1).normal(size=(3, 4, 5, 4)).astype(np.float32)
    for array in (*layer.batches, layer.weight, outputs):
        array.flags.writeable = False
    assert_brute_force(replace(layer, batches=[(layer.batches[0], outputs)]), mode, granularity)


@every_search
def test_keeping_the_activation_searches_the_weights_alone(mode, granularity):
    assert_brute_force(normal_layer(), mode, granularity, keep_activation=True)


# --- where a search starts, how far it goes ---------------------------------------------------------------------

@every_search
def test_kl_starts_the_activations_as_the_modes_source_does_over_all_batches(mode, granularity):
    x = np.random.default_rng(0).standard_t(3, size=(4, 3, 30, 30)).astype(np.float32)
    layer = replace(normal_layer(bits=8), batches=np.split(x, (1, 3)))
    found = search(layer, mode, granularity=granularity, initial="kl")
    variant, bins = {"paper": ("tensorrt", 2048), "demo": ("demo", 2001), "ncnn": ("ncnn", 2048)}[mode]
    counted = np.maximum(x, 0) if mode == "demo" else x
    limit = np.float32(kl(Histogram.of(counted, Extremes.of(x).magnitude, bins), 128, variant))
    assert limit < 0.8 * np.abs(x).max()
    activations = next(step for step in found.history if step.operand == "activation")
    # S0 itself is no candidate in ncnn, and its weights start at 31/max|w| in a layer like this one.
    assert activations.candidates[0] == 127 / float(limit) * (0.5 if mode == "ncnn" else 1)
    weight = np.ravel(start_at_max(layer, granularity)[0])[0] * (31 / 127 / 2 if mode == "ncnn" else 1)
    assert found.history[0].candidates[0] == pytest.approx(weight, rel=1e-14)


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


def test_rounds_go_on_until_one_gains_less_than_the_tolerance():
    layer = normal_layer(bits=3)
    steps = search(layer, tolerance=0.0, rounds=50).history
    gains = [activation.cosines[activation.chosen] - weight.cosines[0]
             for weight, activation in zip(steps[::2], steps[1::2])]
    assert len(gains) > 2 and gains[-1] <= 1e-12 and min(gains[:-1]) > 0
    for tolerance in (gains[0] * 1.01, gains[0] * 0.99, gains[1] * 1.01, gains[1] * 0.99):
        rounds = next(number for number, gain in enumerate(gains, 1) if gain < tolerance)
        assert len(search(layer, tolerance=tolerance, rounds=50).history) == 2 * rounds


def test_widening_goes_on_where_the_best_scale_is_at_an_end():
    """One activation of 20 among thousands near 1: at 4 bits max-scaling leaves them three codes."""
    rng = np.random.default_rng(0)
    layer = layer_of(np.abs(rng.normal(size=(2, 1, 40, 40))), rng.normal(size=(1, 1, 3, 3)), 4, 4)
    layer.batches[0][0, 0, 0, 0] = 20.0
    plain, wide = (search(layer, n=20, widen=widen) for widen in (False, True))
    start = 7 / 20
    assert plain.activation_scale == pytest.approx(2 * start, rel=1e-12) and wide.activation_scale > 6 * start
    assert wide.cosine > plain.cosine + 0.05
    for step in wide.history:
        assert step.candidates.min() < step.candidates[step.chosen] < step.candidates.max()
    # A doubled range: 20 candidates more for each factor of 2, current one first.
    activation = wide.history[1]
    doublings = round(np.log2(activation.candidates[-1] / (2 * start)))
    assert doublings >= 1 and len(activation.candidates) == 1 + 20 * (1 + doublings)
    assert (np.diff(activation.candidates[1:]) > 0).all()
    measured = BruteForce(layer).measure("paper", wide.weight_scale, wide.activation_scale)
    assert wide.cosine == pytest.approx(measured, abs=1e-12)


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_widening_changes_nothing_where_every_best_scale_lies_inside(granularity):
    layer = normal_layer(bits=8)
    plain, wide = (search(layer, granularity=granularity, n=21, widen=widen) for widen in (False, True))
    assert all(h.candidates[1] < h.candidates[h.chosen] < h.candidates[-1] for h in plain.history)
    assert [h.candidates.tolist() for h in wide.history] == [h.candidates.tolist() for h in plain.history]
    assert [h.chosen for h in wide.history] == [h.chosen for h in plain.history]


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_widening_ends_and_never_falls_below_the_plain_search_from_the_same_start(granularity):
    # Zero weights or inputs: every scale is as good, and the first one stays.
    for name in ("zero inputs", "zero weights"):
        assert search(HARD[name], granularity=granularity, widen=True).cosine == 1.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        layer = layer_of(rng.standard_t(2, size=(2, 2, 6, 6)), rng.standard_t(2, size=(3, 2, 3, 3)), 3, 3)
        plain, wide = (search(layer, n=11, rounds=1, granularity=granularity, widen=widen) for widen in (False, True))
        assert max(wide.history[0].cosines) >= max(plain.history[0].cosines) - 1e-12


# --- batches, units and machines ------------------------------------------------------------------------------

@every_search
def test_the_final_cosine_is_that_of_the_returned_scales(mode, granularity):
    """Of batches whose planes have other sizes: all outputs as one, or the mean over images."""
    rng = np.random.default_rng(0)
    layer = replace(normal_layer(), batches=[rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(1, 3, 9, 5))])
    found, wanted, reached = search(layer, mode, granularity=granularity), [], []
    for reference in (BruteForce(replace(layer, batches=[x])) for x in layer.batches):
        wanted += list(reference.outputs)
        reached += list(reference.quantized_output(found.weight_scale, found.activation_scale))
    expected = (cosine(*(np.concatenate([y.ravel() for y in side]) for side in (wanted, reached)))
                if mode == "paper" else np.mean([cosine(a, b) for a, b in zip(wanted, reached)]))
    assert found.cosine == pytest.approx(expected, abs=1e-12)


class Batches:
    """Made anew at every walk, as a network's prefix makes them."""

    def __init__(self, make, count):
        self.make, self.count, self.walks = make, count, 0

    def __iter__(self):
        self.walks += 1
        return (self.make(k) for k in range(self.count))


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_memory_does_not_grow_with_the_number_of_images(granularity):
    weight = np.random.default_rng(1).normal(size=(64, 64, 1, 1)).astype(np.float32)

    def images(k):
        return np.random.default_rng(k).standard_normal((8, 64, 8, 8)).astype(np.float32)

    peaks = []
    options = {"bits": 8, "rounds": 1, "n": 20, "granularity": granularity}
    search_layer(images(0), weight, **options)  # whatever is loaded or kept at the first call
    for count in (2, 16):  # slices; the first one has no sums to be added to
        tracemalloc.start()
        search_layer(Batches(images, count), weight, **options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 1.1 * peaks[0]


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


@on_x86
def test_choices_are_the_same_under_other_thread_counts_and_blas_kernels():
    first, *others = printed(SCRIPT)
    assert len(first) == 6
    assert all(lines == first for lines in others)


@pytest.mark.parametrize(("mode", "granularity"), [s for s in SEARCHES if s[0] != "demo"])
@pytest.mark.parametrize("power", [-300, 300])
def test_a_power_of_two_on_inputs_or_weights_changes_their_scale_alone(mode, granularity, power):
    """Except in demo, whose weight candidates lie between 1 and S0, whatever the weights' unit."""
    layer = normal_layer()
    plain = search(layer, mode, granularity=granularity)
    for far in (replace(layer, batches=[np.ldexp(layer.batches[0], power)]),
                replace(layer, weight=np.ldexp(layer.weight, power))):
        found = search(far, mode, granularity=granularity)
        assert [h.chosen for h in found.history] == [h.chosen for h in plain.history]
        assert found.cosine == pytest.approx(plain.cosine, abs=1e-14)


# --- refusals -------------------------------------------------------------------------------------------------

X, W, Y = np.ones((2, 3, 4, 4)), np.ones((4, 3, 3, 3)), np.ones((2, 4, 2, 2))


def spoiled(array, value):
    array = array.copy()
    array[-1, 0, 1, 1] = value
    return array


REALS = "must hold float32 or float64 in 4 dimensions and not be empty, got"
AGAIN = "inputs must be an array or batches that can be walked through again, got"
MODERATE = "must be 0 or from 1e-140 to 1e140, got"
BITS = "bits must be an integer from 2 to 16, or two for weights and activations, got"
INITIAL = "initial must be max, kl, or pairs of a weight and an activation scale, got"
GRID = "alpha and beta must be numbers with 0 < alpha < beta < 1e6, got"
# Once the batches are walked through.
BAD_INPUTS = [
    ([], "inputs must hold at least one batch, got none"),
    ([X, X[:, :, :0]], f"inputs {REALS} float64 of shape (2, 3, 0, 4)"),
    (X[0], f"inputs {REALS} float64 of shape (3, 4, 4)"),
    (X.astype(np.float16), f"inputs {REALS} float16 of shape (2, 3, 4, 4)"),
    ([[X, X]], f"inputs {REALS} a list"),
    ([(X,)], f"inputs {REALS} a tuple"),
    ([(X, None)], f"outputs {REALS} a NoneType"),
    ([X, spoiled(X, -np.inf)], "inputs must be finite, got NaN or infinity"),
    ([X, X[:, :2]], "weight must be (O, 2, R, S) for 2 input channels in 1 groups, got shape (4, 3, 3, 3)"),
    (X[:, :, :2], "the kernel must fit the padded input, got extent 3 over 2"),
    ([(X, Y[:1])], "outputs must have shape (2, 4, 2, 2), got (1, 4, 2, 2)"),
    ([(X, Y.astype(int))], f"outputs {REALS} int64 of shape (2, 4, 2, 2)"),
    ([(X, spoiled(Y, np.nan))], "outputs must be finite, got NaN or infinity"),
    (X * 2.0**600, f"inputs must be moderate: their largest magnitude times the weights' {MODERATE} 4.15e+180"),
    (X * 2.0**-600, f"inputs must be moderate: their largest magnitude times the weights' {MODERATE} 2.41e-181"),
    ([(X, Y * 2.0**600)], f"outputs must be moderate: their largest magnitude {MODERATE} 4.15e+180"),
]
# Before.
BAD_OPTIONS = [
    ({"inputs": None}, f"{AGAIN} <class 'NoneType'>"),
    ({"inputs": iter([X])}, f"{AGAIN} <class 'list_iterator'>"),
    ({"weights": W[0]}, f"weights {REALS} float64 of shape (3, 3, 3)"),
    ({"weights": spoiled(W, np.inf)}, "weights must be finite, got NaN or infinity"),
    *[({"bits": bits}, f"{BITS} {bits!r}") for bits in (1, 17, True, "88", (8, 1), (True, 8), (8,), (8, 8, 8))],
    ({"granularity": "tensor"}, "granularity must be one of layer, channel, got 'tensor'"),
    *[({"initial": initial}, f"{INITIAL} {initial!r}") for initial in ("mean", [], [(1.0,)], None, (1.0, 2.0))],
    ({"initial": [(0.0, 1.0)]}, "an initial scale must be finite and > 0, got 0.0"),
    ({"initial": [(1.0, 1.0), (1.0, np.nan)]}, "an initial scale must be finite and > 0, got nan"),
    ({"initial": [(np.ones(3), 1.0)]}, "initial scales must have shapes (4,) and (), got (3,) and ()"),
    ({"initial": [(1.0, np.ones(4))], "granularity": "channel"},
     "initial scales must have shapes (4,) and (), got () and (4,)"),
    ({"mode": "demo", "bias": np.ones(3)}, "bias must have shape (4,), got (3,)"),
    ({"mode": "ncnn", "bias": np.array([1, 2, np.nan, 3])}, "bias must be finite, got NaN or infinity"),
    ({"mode": "demo", "bias": np.full(4, 1e150)}, f"bias must be moderate: its largest magnitude {MODERATE} 1e+150"),
    *[({"alpha": alpha, "beta": beta}, f"{GRID} {alpha} and {beta}")
      for alpha, beta in ((2.0, 2.0), (0.0, 2.0), (np.nan, 2.0), (0.5, 1e6))],
    ({"n": 1}, "n must be an integer >= 2, got 1"),
    ({"rounds": 0}, "rounds must be an integer >= 1, got 0"),
    *[({"tolerance": bad}, f"tolerance must be a number >= 0, got {bad}") for bad in (-1e-09, np.nan)],
    ({"stride": 0}, "stride must be >= 1, got 0"),
]


@pytest.mark.parametrize("mode", ["paper", "demo", "ncnn"])
@pytest.mark.parametrize(("inputs", "message"), BAD_INPUTS)
def test_inputs_that_cannot_calibrate_are_refused_in_one_sentence(mode, inputs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        search_layer(inputs, W, mode, bits=8)


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_options_that_make_no_sense_are_refused_before_the_batches_are_walked_through(options, message):
    batches = Batches(lambda k: X, 1)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        search_layer(**{"inputs": batches, "weights": W, "bits": 8, **options})
    assert batches.walks == 0
