"""Random float networks, quantized by a recipe, and codes for them."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from refquant.integers.dialects import DIALECTS
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.proof import QuantizedNetwork
from refquant.recipes.quantize import quantize_network
from refquant.recipes.settings import ACTIVATIONS, GRANULARITIES
from refquant.strategies import codes, images, networks


@st.composite
def quantized_networks(draw: st.DrawFn, every: bool = False) -> QuantizedNetwork:
    """2..8 bits, every kind of activation, any dialect; every: of nodes as well."""
    network = fold_batchnorm(draw(networks(every=every)))
    try:
        return quantize_network(
            network, draw(images(network)), weight_bits=draw(st.integers(2, 8)),
            activation_bits=draw(st.integers(2, 8)), granularity=draw(st.sampled_from(GRANULARITIES)),
            activations=draw(st.sampled_from(ACTIVATIONS)), dialect=draw(st.sampled_from(DIALECTS)))
    except ValueError as error:
        # The refusals that are right: multipliers too large or too small, and sums that would wrap.
        assert re.search("takes shifts from|shifts a sum left" + "|fit|finite" * every, str(error))
        assume(False)
        raise


def input_codes(network: QuantizedNetwork, count: int) -> st.SearchStrategy[np.ndarray]:
    return codes(network.qparams[network.input].format, (count, *network.input_shape))
