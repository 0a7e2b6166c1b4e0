"""LiteRT's layers of few and many channels, and its scalings; test_random_operators.py has every operator."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tflite_layers import layer
from tflite_models import one_operator, run_litert

from refquant.readers.tflite_file import load_tflite
from refquant.runtimes import arithmetic, fast, run_model
from refquant.runtimes.kernels import LITERT_SETS


@given(st.integers(1, 40), st.data())
def test_the_fast_scalings_are_the_plain_ones(channels, data):
    ends = st.sampled_from((-(2**31), 2**31 - 1, 0, -1, 1)) | st.integers(-(2**31), 2**31 - 1)
    sums = np.array(data.draw(st.lists(ends, min_size=channels, max_size=channels))) >> data.draw(st.integers(0, 24))
    acc = np.stack([sums, sums + 1, -sums - 1]).clip(-(2**31), 2**31 - 1)
    exponents = data.draw(st.lists(st.integers(-28, 2), min_size=channels, max_size=channels))
    kinds = st.sampled_from((0.5, 0.75, 0.6, 1 - 2**-31))
    fractions = data.draw(st.lists(kinds, min_size=channels, max_size=channels))
    M = np.ldexp(fractions, exponents)
    for plain, quick in ((arithmetic.double_rounded, fast.double_rounded), (arithmetic.neon, fast.neon)):
        try:
            wanted = plain(acc, M)
        except ValueError:  # a shift left that no register holds
            continue
        assert np.array_equal(quick(acc, M), wanted)
        assert np.array_equal(quick(acc, float(M[0])), plain(acc, float(M[0])))


@pytest.mark.parametrize("kind", ["FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("dtype, per_channel", [("int8", True), ("int8", False), ("uint8", False)])
def test_layers_with_weights(tmp_path, kind, dtype, per_channel):
    rng = np.random.default_rng(3)
    for outputs in (3, 8, 21):
        channels = outputs if kind == "DEPTHWISE_CONV_2D" else 9
        tensors, options, (x,) = layer(rng, kind, dtype, channels, outputs, "RELU6", per_channel)
        data = one_operator(kind, tensors, options)
        (tmp_path / "m.tflite").write_bytes(data)
        model = load_tflite(tmp_path / "m.tflite")
        for kernel_set in LITERT_SETS:
            theirs = run_litert(data, {model.inputs[0]: x}, model.outputs, kernel_set)
            assert np.array_equal(run_model(model, x, kernel_set)[model.outputs[0]], theirs[model.outputs[0]])
