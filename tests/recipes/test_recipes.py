"""Recipes: what they refuse, what their scales promise, and that the same input gives the same network."""

import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.commands.evaluation import evaluate
from refquant.integers.formats import IntFormat
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import run_float_tensors
from refquant.network.graph import Add, BatchNorm, Clip, Conv, Flatten, Linear, Network
from refquant.network.program import QuantizedClip, QuantizedConv, QuantizedFlatten, QuantizedMaxPool
from refquant.network.storage import quantized_to_bytes
from refquant.recipes.quantize import quantize_network
from refquant.recipes.settings import ACTIVATIONS, BREAKPOINTS, COUPLINGS, GRANULARITIES, RECIPES, settings
from refquant.scales.thresholds import ESTIMATORS
from refquant.strategies import images, networks

CONV = Conv("c", "input", np.array([[[[1.0]]], [[[-0.25]]]], np.float32), np.array([0.5, 0.0], np.float32))
NETWORK = Network((1, 2, 2), [CONV, Clip("r", "c")])
IMAGES = np.array([[[[0.0, 1.0], [-2.0, 0.5]]]], np.float32)

DIALECT = ("dialect must be a name, such as single_round, or 4 to 6 words, such as m31,wrap,half_up,half_away (see "
           "refquant dialects), got 'nearest'")
NOT_AFFINE = "activations must be unsigned or signed with recipe {} and estimator {}, got 'affine'"
SEVERAL = "single_round, shift_floor, exact_half_even, zero_point_first"
BAD_ARGUMENTS = [
    ({"recipe": "int8"}, f"recipe must be one of {', '.join(RECIPES)}, got 'int8'"),
    *[({"weight_bits": bits}, f"weight_bits must be from 2 to 16, got {bits!r}") for bits in (1, 17, 7.5, "8", True)],
    *[({"activation_bits": bits}, f"activation_bits must be from 2 to 16, got {bits}") for bits in (1, 17)],
    ({"granularity": "tensor"}, "granularity must be one of layer, channel, shift, got 'tensor'"),
    ({"activations": ""}, "activations must be one of unsigned, signed, affine, piecewise, got ''"),
    ({"granularity": "shift", "coupling": "round"},
     f"coupling must be one of {', '.join(COUPLINGS)}, got 'round'"),
    *[({"granularity": "shift", "shift_bits": bits}, f"shift_bits must be from 0 to 5, got {bits}")
      for bits in (-1, 6)],
    ({"coupling": "nearest"}, "coupling must be left out with granularity layer, which has no shifts, got 'nearest'"),
    ({"recipe": "channelwise-int8", "shift_bits": 3},
     "shift_bits must be left out with granularity channel, which has no shifts, got 3"),
    *[({name: 1}, f"{name} must be True or False, got 1")
      for name in ("correct_output_mean", "cross_layer_equalization", "match_moments", "widen")],
    ({"layer_inputs": "float"},
     "layer_inputs must be quantized with recipe max-int8, which searches nothing, got 'float'"),
    ({"layer_inputs": "none"}, "layer_inputs must be one of quantized, float, got 'none'"),
    ({"recipe": "tensorrt-int8", "activations": "affine"}, NOT_AFFINE.format("tensorrt-int8", "kl_nvidia")),
    ({"recipe": "easyquant-int7", "activations": "affine"}, NOT_AFFINE.format("easyquant-int7", "max")),
    ({"estimator": "kl"}, f"estimator must be one of {', '.join(ESTIMATORS)}, got 'kl'"),
    ({"widen": True}, "widen must be False with recipe max-int8, which searches nothing, got True"),
    ({"accumulator_bits": 8}, "accumulator_bits must be one of 16, 24, 32, 48, 64, got 8"),
    ({"dialect": "nearest"}, DIALECT),
    # several sums
    ({"recipe": "pwlq-w4a8", "dialect": "gemmlowp_double"},
     f"dialect must be one of {SEVERAL} with piecewise weights, got 'gemmlowp_double'"),
    ({"match_moments": True, "dialect": "neon_double"},
     f"dialect must be one of {SEVERAL} with matched moments, got 'neon_double'"),
    ({"recipe": "pwlq-w4a8", "granularity": "shift"},
     "granularity must be layer or channel with piecewise weights, got 'shift'"),
    ({"recipe": "easyquant-int8", "breakpoints": "optimal"},
     "piecewise weights need a recipe that does not search scales, got easyquant-int8"),
    ({"activations": "piecewise"},
     "activations must be linear where weights are, got 'piecewise' with breakpoints none"),
    ({"recipe": "pwlq-w4a4", "activation_bits": 9},
     "activation_bits must be at most 8 with piecewise activations, got 9"),
    ({"breakpoints": "best"}, f"breakpoints must be one of {', '.join(BREAKPOINTS)}, got 'best'"),
]


def test_every_label_says_its_settings_and_unknown_options_are_refused():
    assert settings("pwlq-w4a8", activation_bits=4).label == "pwlq-w4a4-unsigned" != settings("pwlq-w4a4").label
    with pytest.raises(ValueError, match=r"^options must be among weight_bits, .*, dialect, got bits, foo$"):
        settings("max-int8", foo=1, bits=8)


def test_every_output_keeps_max_scaling():
    x = np.append(np.linspace(0, 1, 999), 8.0).reshape(1000, 1, 1, 1)  # KL would clip 8
    nodes = [Conv("a", "input", np.ones((1, 1, 1, 1))), Conv("b", "a", np.ones((1, 1, 1, 1)))]
    for others, kept in (((), False), (("a",), True)):
        made = quantize_network(Network((1, 1, 1), nodes, "b", others=others), x, "tensorrt-int8")
        assert [made.qparams[name].scale == 127 / 8 for name in ("input", "a", "b")] == [False, kept, True]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_arguments_outside_their_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        quantize_network(NETWORK, IMAGES, **arguments)


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_a_tensor_too_small_for_a_scale_is_quantized_or_refused_in_a_sentence(activations):
    for value in (5e-324, 1e-310):
        batch = np.full((1, 1), value)
        try:
            quantized = quantize_network(Network((1,), [Clip("r", "input")]), batch, activations=activations)
        except ValueError as error:
            assert "scale must be finite" in str(error)
        else:
            assert np.isfinite(quantized.run(batch)).all()


# --- what the scales promise ----------------------------------------------------------------------------------

BY_MAX = ("channelwise-int8", "max-int8")


@st.composite
def quantizations(draw: st.DrawFn, recipes: tuple[str, ...] = tuple(sorted(RECIPES))) -> tuple:
    """A random network, images, and all the choices a recipe offers."""
    network = draw(networks(dtype=draw(st.sampled_from((np.float32, np.float64)))))
    recipe = draw(st.sampled_from(recipes))
    pieces = RECIPES[recipe].breakpoints != "none"  # which know no shifts
    granularities = [one for one in GRANULARITIES if not (pieces and one == "shift")]
    choices = {"recipe": recipe, "weight_bits": draw(st.integers(2, 8)),
               "activation_bits": draw(st.integers(2, 8)), "granularity": draw(st.sampled_from(granularities)),
               "activations": draw(st.sampled_from(ACTIVATIONS if recipe in BY_MAX else ("unsigned", "signed")))}
    return network, draw(images(network, draw(st.integers(1, 3)))), choices


@given(quantizations(BY_MAX))
def test_the_largest_weight_gets_the_largest_code_and_no_calibration_value_is_off_by_more_than_half_a_step(case):
    """Nothing that calibration saw is clipped; and the formats are those that the choice names.

    Clips that are not fused keep their input's encoding, in which their limits may not be codes.
    """
    network, batch, choices = case
    quantized, folded = quantize_network(network, batch, **choices), fold_batchnorm(network)
    weights = {node.name: node.weight for node in folded.nodes if isinstance(node, (Conv, Linear))}
    layers = {layer.name: layer for layer in quantized.layers if isinstance(layer, QuantizedConv)}
    assert layers.keys() == weights.keys()
    for name, layer in layers.items():
        (term,) = layer.terms
        assert term.weight_format == IntFormat(choices["weight_bits"], narrow=True)
        rows = len(term.weight_q) if choices["granularity"] == "channel" else 1
        for row_q, row in zip(term.weight_q.reshape(rows, -1).tolist(), weights[name].reshape(rows, -1).tolist()):
            assert max(map(abs, row_q)) == (term.weight_format.max if any(row) else 0)
    bits, affine = choices["activation_bits"], choices["activations"] == "affine"
    tensors = run_float_tensors(folded, batch)
    carry = (QuantizedClip, QuantizedMaxPool, QuantizedFlatten)
    for name in (quantized.input, *(layer.output for layer in quantized.layers if not isinstance(layer, carry))):
        x, qparam = tensors[name], quantized.qparams[name]
        assert qparam.format in ([IntFormat(bits)] if affine else
                                 [IntFormat(bits, narrow=True), IntFormat(bits, signed=False)])
        assert affine or qparam.zero_point == 0
        scale = Fraction(qparam.scale)
        for value, code in zip(x.ravel().tolist(), qparam.quantize(x).ravel().tolist()):
            assert abs(code - qparam.zero_point - Fraction(value) * scale) <= Fraction(1, 2) + Fraction(1, 2**40)


@pytest.mark.parametrize(("activations", "low", "high", "fmt", "scale", "zero_point"), [
    ("unsigned", 0.0, 4.0, IntFormat(4, signed=False), 15 / 4, 0),
    ("unsigned", -1.0, 4.0, IntFormat(4, narrow=True), 7 / 4, 0),
    ("unsigned", -8.0, 4.0, IntFormat(4, narrow=True), 7 / 8, 0),
    ("signed", 0.0, 4.0, IntFormat(4, narrow=True), 7 / 4, 0),
    ("affine", 0.0, 5.0, IntFormat(4), 3.0, -8),
    ("affine", 2.5, 5.0, IntFormat(4), 3.0, -8),  # widened to contain 0
    ("affine", -1.0, 4.0, IntFormat(4), 3.0, -5),
    ("affine", -5.0, -1.0, IntFormat(4), 3.0, 7),
    ("affine", 0.0, 0.0, IntFormat(4), 1.0, 0),
    ("unsigned", 0.0, 0.0, IntFormat(4, signed=False), 1.0, 0),
])
def test_activation_encodings_by_hand(activations, low, high, fmt, scale, zero_point):
    net = Network((1, 1, 2), [Flatten("f", "input")])
    quantized = quantize_network(net, np.array([[[[low, high]]]]), activation_bits=4, activations=activations)
    qparam = quantized.qparams["input"]
    assert (qparam.format, qparam.scale, qparam.zero_point) == (fmt, scale, zero_point)


def test_one_convolution_by_hand():
    """S_x = 64, S_w = 32, S_y = 2048/127, so that M = 1/127 turns 127·x_q back into x_q."""
    net = Network((1, 1, 4), [Conv("c", "input", np.array([[[[127 / 32]]]]))])
    batch = np.array([[[[0.0, 1 / 64, 1.0, 255 / 64]]]])
    quantized = quantize_network(net, batch)
    (layer,) = quantized.layers
    assert layer.terms[0].weight_q.item() == 127
    assert layer.terms[0].multiplier.real.item() == pytest.approx(1 / 127, rel=1e-15)
    assert (layer.low, layer.high, layer.accumulator) == (0, 255, IntFormat(32))
    assert quantized.quantize_images(batch).tolist() == [[[[0, 1, 64, 255]]]]
    assert quantized.run(batch).ravel().tolist() == pytest.approx([0, 127 / 2048, 127 / 32, 255 * 127 / 2048])


@pytest.mark.parametrize(("recipe", "granularity", "shape"), [
    ("max-int8", None, ()), ("channelwise-int8", None, (2,)), ("max-int8", "channel", (2,)),
    ("channelwise-int8", "layer", ())])
def test_weights_have_one_scale_or_one_per_channel_behind_batchnorm_and_a_fused_relu(recipe, granularity, shape):
    """The gains are 2 and 1, so that the weights are 2 and -0.25."""
    gamma, beta, mean, variance = (np.array(v, np.float32) for v in ([4, 1], [0, 0], [0, 0], [3, 0]))
    norm = BatchNorm("n", "c", gamma, beta, mean, variance, 1.0)
    network = Network((1, 2, 2), [CONV, norm, Clip("r", "n")])
    quantized = quantize_network(network, IMAGES, recipe, granularity=granularity)
    (layer,) = quantized.layers
    assert (layer.name, layer.output, layer.low, layer.high) == ("c", "r", 0, 255)
    assert layer.terms[0].multiplier.real.shape == shape
    assert layer.terms[0].weight_q.ravel().tolist() == ([127, -127] if shape else [127, -16])  # -15.875
    assert {name: qparam.format for name, qparam in quantized.qparams.items()} == {
        "input": IntFormat(8, narrow=True), "r": IntFormat(8, signed=False)}


@pytest.mark.parametrize("recipe", ["max-int8", "channelwise-int8"])
@pytest.mark.parametrize("bias", [5.0, -4.5])
def test_a_scale_is_lowered_where_only_the_bias_code_does_not_fit(recipe, bias):
    """Weights of 1e-10 have a scale of 1e12, and the bias a code of 1e14: y = bias, by hand."""
    weight = np.full((2, 1, 1, 1), 1e-10, np.float32)
    weight[1] *= 0.5
    net = Network((1, 1, 1), [Conv("c", "input", weight, np.array([bias, 0], np.float32))])
    images = np.linspace(0, 1, 11, dtype=np.float32).reshape(-1, 1, 1, 1)
    quantized = quantize_network(net, images, recipe)
    assert np.abs(quantized.run(images)[:, 0].ravel() - bias).max() <= abs(bias) / 127
    assert quantized.layers[0].rescaled_channels
    limit = quantized.stages[0]
    assert (limit.max > 2**31 - 1 - 300) if bias > 0 else (limit.min < -2**31 + 300)  # the largest scale that fits
    # One scale for the layer falls with its worst channel; scales of their own do not.
    codes = quantized.layers[0].terms[0].weight_q.ravel().tolist()
    assert codes == ([0, 0] if recipe == "max-int8" else [0, 127])


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_images_or_weights_of_zeros_leave_the_bias_alone(activations):
    zeros = np.zeros((2, 1, 2, 2), np.float32)
    quantized = quantize_network(NETWORK, zeros, activations=activations)
    assert quantized.qparams["input"].scale == 1.0
    assert np.abs(quantized.run(zeros) - np.array([0.5, 0.0]).reshape(2, 1, 1)).max() < 2**-20
    net = Network((1, 2, 2), [Conv("c", "input", np.zeros((2, 1, 1, 1)))])
    assert not quantize_network(net, IMAGES, "channelwise-int8", activations=activations).run(IMAGES).any()


@given(quantizations())
def test_the_same_network_and_images_give_the_same_network_and_stay_as_they_are(case):
    network, batch, choices = case
    before, kept = pickle.dumps(network), batch.copy()
    kept.flags.writeable = False
    first = quantize_network(network, kept, **choices)
    saved = quantized_to_bytes(first)
    assert saved == quantized_to_bytes(quantize_network(network, batch, **choices))
    assert pickle.dumps(network) == before and np.array_equal(kept, batch)
    kept.flags.writeable = True
    kept[:] = 100
    assert quantized_to_bytes(first) == saved


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_twelve_bits_follow_the_float_network_closely(activations):
    """A branch, an addition and a flat layer, all values below 4: a step is 2^-10 at most, and few steps add up."""
    rng = np.random.default_rng(5)
    net = Network((2, 4, 4), [
        Conv("c", "input", rng.uniform(-0.5, 0.5, (2, 2, 1, 1)), rng.uniform(-1, 1, 2)), Clip("r", "c"),
        Add("s", ("r", "input")), Flatten("f", "s"), Linear("l", "f", rng.uniform(-0.1, 0.1, (3, 32)))])
    batch = rng.uniform(-1, 1, (8, 2, 4, 4))
    quantized = quantize_network(net, batch, weight_bits=12, activation_bits=12, activations=activations)
    expected = run_float_tensors(net, batch)["l"]
    np.testing.assert_allclose(quantized.run(batch), expected, rtol=0, atol=2.0**-7)


# --- shifts -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("bias", "shifts", "codes"), [
    ([0.25, 0.5, -0.5, 0.25, 0.0], (0, 3, 7, 15, 0), [42, 4]),
    ([0.0, 0.0, 0.0, 40.0, 0.0], (0, 3, 7, 10, 0), [1, 0]),  # 40·255·127·2^10 is the largest that fits int32
])
def test_one_layer_by_shifts_by_hand(bias, shifts, codes):
    """r = 1, 0.1, 2^-7, 1e-5, 0: k = 0, 3, 7, 15, 0. Codes round(127·2^k·w), bias codes round(b·255·127·2^k)."""
    weight = np.array([[1.0, -0.5], [0.1, 0.03], [2.0**-7, 0.0], [1e-5, 1e-6], [0.0, 0.0]], np.float32)
    network = Network((2,), [Linear("l", "input", weight, np.array(bias))])
    batch = np.linspace(0, 1, 22).reshape(11, 2)
    quantized = quantize_network(network, batch, "max-int8", granularity="shift")
    layer, (term,) = quantized.layers[0], quantized.layers[0].terms
    assert (layer.channel_shifts, layer.shift_bits) == (shifts, 4)
    assert layer.rescaled_channels == ((3,) if shifts[3] < 15 else ())
    assert term.weight_q.reshape(5, 2).tolist() == [[127, -64], [102, 30], [127, 0], codes, [0, 0]]
    assert term.bias_q.tolist() == [round(b * 255 * 127 * 2**k) for b, k in zip(bias, shifts)]
    assert len(set(term.multiplier.m.tolist())) == 1
    assert tuple(term.multiplier.shift[0] - term.multiplier.shift) == shifts
    assert quantized.weight_bytes == -(-(10 * 8 + 5 * 4) // 8)
    assert np.abs(quantized.run(batch)[:, 3] - bias[3]).max() < 0.5
    assert np.array_equal(quantized.run(batch), quantized.simulate(batch))


@pytest.mark.parametrize(("dialect", "limited"), [("single_round", True), ("exact_half_even", False)])
def test_a_shift_that_the_dialect_does_not_take_is_lowered_and_recorded(dialect, limited):
    """256 inputs and 16-bit weights: M is about 2^-23, and 15 more places would be more than 31."""
    weight = np.ones((2, 256))
    weight[1] = 1e-5
    net, batch = Network((256,), [Linear("l", "input", weight)]), np.ones((1, 256))
    quantized = quantize_network(net, batch, granularity="shift", weight_bits=16, activation_bits=8,
                                 accumulator_bits=48, dialect=dialect)
    (layer,) = quantized.layers
    shift, (_, k) = layer.terms[0].multiplier.shift, layer.channel_shifts
    assert layer.rescaled_channels == ((1,) if limited else ()) and (k < 15) == limited
    assert shift.tolist() == [-22, -31 if limited else -37] and k == -22 - shift[1]
    assert (layer.terms[0].weight_q[1] == round(1e-5 * 32767 * 2**k)).all()
    assert np.array_equal(quantized.run(batch), quantized.simulate(batch))


def test_a_layer_without_weights_and_the_tiniest_weights_are_shifted_by_nothing():
    for weight in (np.zeros((2, 2)), np.full((2, 2), 1e-300)):
        quantized = quantize_network(Network((2,), [Linear("l", "input", weight)]), np.ones((1, 2)), "wes-int8")
        assert quantized.layers[0].channel_shifts == (0, 0)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("recipe", ["wes-int8", "easyquant-int8"])
def test_every_coupling_goes_with_every_method(recipe, coupling):
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(4, 2, 3, 3)) * 10.0 ** -np.arange(4)[:, None, None, None]
    net = Network((2, 8, 8), [Conv("c", "input", weight, rng.normal(size=4)), Clip("r", "c"), Flatten("f", "r"),
                              Linear("l", "f", rng.normal(size=(3, 144)))])
    batch = rng.normal(size=(8, 2, 8, 8))
    quantized = quantize_network(net, batch, recipe, granularity="shift", coupling=coupling, shift_bits=3)
    assert all(layer.shift_bits == 3 and len(set((layer.terms[0].multiplier.m).tolist())) == 1
               for layer in quantized.layers if isinstance(layer, QuantizedConv))
    assert np.array_equal(quantized.run(batch), quantized.simulate(batch))


# --- sums of more than 32 bits ----------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
WIDE = Network((4096,), (Linear("y", "input", RNG.uniform(0.5, 1.0, (3, 4096)), np.array([1e5, -1e5, 0.0])),))
FULL = RNG.uniform(0.0, 1.0, (4, 4096))
OPTIONS = {"weight_bits": 8, "activation_bits": 16, "activations": "signed"}


@pytest.mark.parametrize("dialect", ["single_round", "shift_floor", "multiplier16", "float32_half_even",
                                     "exact_half_even"])
def test_a_16x8_layer_of_4096_inputs_runs_in_48_bits(dialect):
    network = quantize_network(WIDE, FULL, **OPTIONS, accumulator_bits=48, dialect=dialect)
    (stage,) = network.stages
    assert stage.max > 2**33 and stage.format.bits == 48
    seen = []
    codes = network.run(FULL, lambda layer, name, values: seen.append(int(np.abs(values).max())))
    assert max(seen) > 2**32  # more than a product with m leaves in int64
    assert np.array_equal(codes, network.simulate(FULL))
    result = evaluate(network, FULL, None, WIDE)
    assert result.codes_equal and result.sqnr_db > 40


def test_the_same_layer_is_refused_in_32_bits_and_where_sums_are_shifted_in_32():
    with pytest.raises(ValueError, match=r"^layer 'y': the bias code of channel 0 is .*, which does not fit int32$"):
        quantize_network(WIDE, FULL, **OPTIONS)
    with pytest.raises(ValueError, match=r"gemmlowp_double shifts a sum left to .* which does not fit int32$"):
        quantize_network(WIDE, FULL, **OPTIONS, accumulator_bits=48, dialect="gemmlowp_double")
