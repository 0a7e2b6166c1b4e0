"""Quantization-aware training: gradients pass straight through, and what was trained is what runs in integers."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.digits.architecture import parameters, with_parameters
from refquant.digits.data import load_images
from refquant.digits.gradients import backward_batch, cross_entropy, forward_batch
from refquant.digits.qat import fine_tune, forward_quantized, in_integers, straight_through
from refquant.digits.weights import calibration_images, load_weights
from refquant.integers.formats import IntFormat
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.graph import Linear, Network
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.qparams import QuantParams
from refquant.strategies import int_formats, reals, scales


@given(st.data(), int_formats(2, 8), scales(2.0**-4, 2.0**4))
def test_values_move_by_half_a_step_at_most_exactly_where_the_gradient_passes(data, fmt, scale):
    x = data.draw(reals((5,), np.float64))
    values, passes = straight_through(x, scale, fmt)
    assert (np.abs(values - x)[passes] <= 0.5 / scale * (1 + 1e-12)).all()
    beyond = (x * scale > fmt.max + 1e-9) | (x * scale < fmt.min - 1e-9)
    assert not passes[beyond].any()


def test_the_gradient_of_a_clipped_activation_is_zero_and_of_others_as_if_nothing_were_rounded():
    """One linear layer on three quantized inputs, by hand: dw = dy·x̂, and dx = dy·ŵ where x passes."""
    first = Linear("first", ("input",), np.array([[1.0, 0.0], [0.0, 1.0]]), None)
    network = Network((2,), (first, Linear("last", ("first",), np.array([[1.0, -1.0]]), None)))
    qparams = {"first": QuantParams(2.0, IntFormat(3, narrow=True))}
    images = np.array([[0.6, 4.0]])
    quantized, tensors, outputs, passes = forward_quantized(network, images, qparams, 8)
    assert tensors["first"].tolist() == [[0.5, 1.5]] and passes["first"].tolist() == [[True, False]]
    assert tensors["last"].tolist() == [[-1.0]]
    gradients = backward_batch(quantized, tensors, np.array([[1.0]]), outputs, passes)
    assert gradients["last.weight"].tolist() == [[0.5, 1.5]]
    assert gradients["first.weight"].tolist() == [[0.6, 4.0], [0.0, 0.0]]  # the second output was clipped


def test_without_activation_quantizers_and_with_fine_weights_the_gradients_are_those_of_floats():
    train, _ = load_images()
    network = fold_batchnorm(load_weights())
    doubles = {name: array.astype(np.float64) for name, array in parameters(network).items()}
    network = with_parameters(network, doubles)
    images = train.images[:8].astype(np.float64)
    quantized, tensors, outputs, passes = forward_quantized(network, images, {}, 16)
    assert not passes
    _, d = cross_entropy(tensors[network.output], train.labels[:8])
    found = backward_batch(quantized, tensors, d, outputs, passes)
    float_network, float_tensors = forward_batch(network, images)
    _, float_d = cross_entropy(float_tensors[network.output], train.labels[:8])
    for name, gradient in backward_batch(float_network, float_tensors, float_d).items():
        np.testing.assert_allclose(found[name], gradient, atol=2e-3 * np.abs(gradient).max() + 1e-9)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_forward_pass_sees_the_codes_of_the_integer_network_but_near_ties(bits):
    """It is fake quantization: biases and sums are floats, so that codes near ties move, and move what follows."""
    network = fold_batchnorm(load_weights())
    quantized = in_integers(network, calibration_images(), bits, bits)
    images = load_images()[1].images[:40]
    _, tensors, _, passes = forward_quantized(network, images, quantized.qparams, bits)
    codes = run_integer_tensors(quantized, quantized.quantize_images(images))
    assert set(passes) == set(quantized.qparams) - {network.output}
    for number, name in enumerate(passes):
        params = quantized.qparams[name]
        moved = np.abs(tensors[name] - params.dequantize(codes[name])) * params.scale
        assert moved.mean() < (0.01 if number < 2 else 0.6), name


def test_fine_tuning_gives_four_bits_their_accuracy_back_and_leaves_the_given_network_alone():
    train, test = load_images()
    network = load_weights()
    before = {name: array.copy() for name, array in parameters(network).items()}
    losses: list[float] = []
    tuned = fine_tune(network, train.images[:640], train.labels[:640], np.random.default_rng(0), weight_bits=4,
                      activation_bits=4, epochs=2, on_step=losses.append)
    assert len(losses) == 20
    assert all(np.array_equal(array, before[name]) for name, array in parameters(network).items())
    top1 = []
    for one in (network, tuned):
        quantized = in_integers(one, calibration_images(), 4, 4)
        logits = quantized.run(test.images)
        assert np.array_equal(logits[:30], quantized.simulate(test.images[:30]))
        top1.append(100 * np.mean(logits.argmax(axis=1) == test.labels))
    assert top1[1] >= top1[0] + 5


def test_one_seed_gives_one_network():
    train, _ = load_images()
    first, second = (parameters(fine_tune(load_weights(), train.images[:64], train.labels[:64],
                                          np.random.default_rng(7), weight_bits=3, activation_bits=3, epochs=1))
                     for _ in range(2))
    assert all(np.array_equal(array, second[name]) for name, array in first.items())


@pytest.mark.parametrize(("labels", "weight_bits", "epochs", "message"), [
    (9, 8, 1, r"labels must hold 10 integers, got int64 of shape \(9,\)"), (10, 1, 1, ".*bits.*"),
    (10, 8, 0, "epochs must be an integer >= 1, got 0")])
def test_what_does_not_fit_is_refused(labels, weight_bits, epochs, message):
    train, _ = load_images()
    with pytest.raises(ValueError, match=f"^{message}$"):
        fine_tune(load_weights(), train.images[:10], train.labels[:labels], np.random.default_rng(0),
                  weight_bits=weight_bits, activation_bits=8, epochs=epochs)


def test_a_network_of_features_is_refused():
    network = Network((2,), (Linear("y", ("input",), np.ones((3, 2))),))
    with pytest.raises(ValueError, match=r"^the network must turn \(C, H, W\) into \(K,\), got \(2,\) into \(3,\)$"):
        fine_tune(network, np.ones((4, 2)), np.zeros(4, int), np.random.default_rng(0), weight_bits=8,
                  activation_bits=8)
