"""Layers whose sums need more than 32 bits: 16-bit activations, 8-bit weights, 4096 inputs."""

from __future__ import annotations

import numpy as np
import pytest

from refquant import quantize_network
from refquant.commands.evaluation import evaluate
from refquant.network.graph import Linear, Network

RNG = np.random.default_rng(0)
WIDE = Network((4096,), (Linear("y", "input", RNG.uniform(0.5, 1.0, (3, 4096)), np.array([1e5, -1e5, 0.0])),))
IMAGES = RNG.uniform(0.0, 1.0, (4, 4096))
OPTIONS = {"weight_bits": 8, "activation_bits": 16, "activations": "signed"}


@pytest.mark.parametrize("dialect", ["single_round", "shift_floor", "multiplier16", "float32_half_even",
                                     "exact_half_even"])
def test_a_16x8_layer_of_4096_inputs_runs_in_48_bits(dialect):
    network = quantize_network(WIDE, IMAGES, **OPTIONS, accumulator_bits=48, dialect=dialect)
    (stage,) = network.stages
    assert stage.max > 2**33 and stage.format.bits == 48
    seen = []
    codes = network.run(IMAGES, lambda layer, name, values: seen.append(int(np.abs(values).max())))
    assert max(seen) > 2**32  # more than a product with m leaves in int64
    assert np.array_equal(codes, network.simulate(IMAGES))
    result = evaluate(network, IMAGES, None, WIDE)
    assert result.codes_equal and result.sqnr_db > 40


def test_the_same_layer_is_refused_in_32_bits_and_where_sums_are_shifted_in_32():
    with pytest.raises(ValueError, match=r"does not fit int32$"):
        quantize_network(WIDE, IMAGES, **OPTIONS)
    with pytest.raises(ValueError, match=r"gemmlowp_double shifts a sum left to .* which does not fit int32$"):
        quantize_network(WIDE, IMAGES, **OPTIONS, accumulator_bits=48, dialect="gemmlowp_double")
