"""The sequential accumulator against a loop over Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.integers.accumulation import dot_sequential
from refquant.integers.formats import IntFormat

POLICIES = ("wrap", "saturate", "trap")


def loop(x: list[int], w: list[int], bits: int, policy: str, order: list[int]) -> int | str:
    low, high, acc = -2 ** (bits - 1), 2 ** (bits - 1) - 1, 0
    for k in order:
        acc += x[k] * w[k]
        if policy == "trap" and not low <= acc <= high:
            return f"the sum after product {k}"
        acc = min(max(acc, low), high) if policy == "saturate" else (acc - low) % 2**bits + low
    return acc


@pytest.mark.parametrize("policy", POLICIES)
@given(data=st.data(), bits=st.sampled_from([2, 8, 9, 16, 24, 33, 48, 62, 63, 64]), wide=st.sampled_from([8, 16, 31]))
@example(data=None, bits=64, wide=31)
def test_a_register_of_any_width_is_the_loop(policy, data, bits, wide):
    x_format = w_format = IntFormat(wide)
    if data is None:  # three products of 2^60 fit 63 bits, ten leave 64
        x = w = [-2**30] * 10
        order = list(range(10))
    else:
        length = data.draw(st.integers(1, 12))
        codes = st.one_of(st.integers(x_format.min, x_format.max), st.sampled_from([x_format.min, x_format.max]))
        x, w = (data.draw(st.lists(codes, min_size=length, max_size=length)) for _ in range(2))
        order = data.draw(st.permutations(range(length)))
    expected = loop(x, w, bits, policy, order)
    kept: list[int] = []
    try:
        found: int | str = int(dot_sequential(x, w, x_format, w_format, IntFormat(bits), policy, order,
                                              lambda stage, fmt, exact, after: kept.append(int(after))))
    except OverflowError as error:
        assert isinstance(expected, str) and str(error).startswith(expected)
        return
    assert found == expected == kept[-1] and len(kept) == len(x)
    assert found == int(dot_sequential(x, w, x_format, w_format, IntFormat(bits), policy, order))


def test_rows_are_summed_side_by_side():
    rng = np.random.default_rng(0)
    x, w = rng.integers(-128, 128, (5, 1, 40)), rng.integers(-128, 128, (3, 40))
    found = dot_sequential(x, w, IntFormat(8), IntFormat(8), IntFormat(20), "saturate")
    assert found.shape == (5, 3)
    assert found.tolist() == [[loop(a.tolist(), b.tolist(), 20, "saturate", list(range(40))) for b in w]
                              for a in x[:, 0]]


def test_sums_of_a_16x8_layer_of_4096_inputs_need_36_bits():
    x, w = np.full(4096, -2**15), np.full(4096, -128)
    assert int(dot_sequential(x, w, IntFormat(16), IntFormat(8), IntFormat(36))) == 2**34
    with pytest.raises(OverflowError, match=r"^the sum after product 4095 is 17179869184, outside int35 "):
        dot_sequential(x, w, IntFormat(16), IntFormat(8), IntFormat(35))


EIGHT = IntFormat(8)


@pytest.mark.parametrize(("arguments", "message"), [
    (([1], [1], EIGHT, EIGHT, IntFormat(8, signed=False)), "accumulator must be a signed IntFormat, got uint8"),
    (([1], [1], EIGHT, EIGHT, 32), "accumulator must be a signed IntFormat, got 32"),
    (([1], [1], EIGHT, EIGHT, EIGHT, "clip"), "policy must be one of wrap, saturate, trap, got 'clip'"),
    (([1], [1], EIGHT, EIGHT, IntFormat(8, narrow=True), "wrap"), "wrap needs a full-range format, got int8 narrow"),
    (([1, 2], [1, 2], EIGHT, EIGHT, EIGHT, "trap", [0, 0]), "order must hold 0..1, each once, got [0, 0]"),
    (([1], [1], IntFormat(40), IntFormat(40), IntFormat(64)), "one product must fit 63 bits, got "),
    (([128], [1], EIGHT, EIGHT, EIGHT), "x_q must hold codes of int8 (-128..127), got 128..128")])
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[")):
        dot_sequential(*arguments)
