"""The sequential accumulator against a loop over Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.integers.accumulation import dot_sequential
from refquant.integers.formats import IntFormat

EIGHT = IntFormat(8)
POLICIES = ("wrap", "saturate", "trap")


def loop(x: list[int], w: list[int], bits: int, policy: str, order: list[int]) -> int | str:
    low, high, acc = -2 ** (bits - 1), 2 ** (bits - 1) - 1, 0
    for k in order:
        acc += x[k] * w[k]
        if policy == "trap" and not low <= acc <= high:
            what = "leaves int64" if bits == 64 else f"is {acc}, outside int{bits} ({low}..{high})"
            return f"the sum after product {k} {what}"
        acc = min(max(acc, low), high) if policy == "saturate" else (acc - low) % 2**bits + low
    return acc


@pytest.mark.parametrize("policy", POLICIES)
@given(data=st.data(), bits=st.sampled_from([2, 8, 9, 16, 24, 33, 48, 62, 63, 64]), wide=st.sampled_from([8, 16, 31]))
@example(data=-2**30, bits=64, wide=31)
@example(data=2**30 - 1, bits=64, wide=31)
def test_a_register_of_any_width_is_the_loop(policy, data, bits, wide):
    x_format = w_format = IntFormat(wide)
    if isinstance(data, int):  # ten products of 2^60 leave 64 bits, of either sign
        x, w, order = [-2**30] * 10, [data] * 10, list(range(10))
    else:
        length = data.draw(st.integers(1, 12))
        codes = st.one_of(st.integers(x_format.min, x_format.max), st.sampled_from([x_format.min, x_format.max]))
        x, w = (data.draw(st.lists(codes, min_size=length, max_size=length)) for _ in range(2))
        order = data.draw(st.permutations(range(length)))
    expected = loop(x, w, bits, policy, order)
    kept: list[int] = []

    def trace(stage: str, fmt: IntFormat, exact: np.ndarray, after: np.ndarray) -> None:
        k = order[len(kept)]
        wrapped = ((kept[-1] if kept else 0) + x[k] * w[k] + 2**63) % 2**64 - 2**63  # what int64 holds
        assert (stage, fmt) == ("sum", IntFormat(bits)) and (bits == 64 or int(exact) == wrapped)
        kept.append(int(after))

    try:
        found: int | str = int(dot_sequential(x, w, x_format, w_format, IntFormat(bits), policy, order, trace))
    except OverflowError as error:
        assert str(error) == expected
        return
    assert found == expected == kept[-1] and len(kept) == len(x)
    assert found == int(dot_sequential(x, w, x_format, w_format, IntFormat(bits), policy, order))


def test_rows_are_summed_side_by_side():
    rng = np.random.default_rng(0)
    x, w = rng.integers(-128, 128, (5, 1, 40)), rng.integers(-128, 128, (3, 40))
    found = dot_sequential(x, w, EIGHT, EIGHT, IntFormat(20), "saturate")
    assert found.tolist() == [[loop(a.tolist(), b.tolist(), 20, "saturate", list(range(40))) for b in w]
                              for a in x[:, 0]]
    assert np.array_equal(dot_sequential(w, x, EIGHT, EIGHT, IntFormat(20), "saturate"), found)
    assert dot_sequential(w[0], x[:, 0], EIGHT, EIGHT, IntFormat(32)).shape == (5,)


def test_products_of_63_bits_are_taken():
    assert int(dot_sequential([-2**31], [-2**30], IntFormat(32), IntFormat(31), IntFormat(63))) == 2**61
    assert int(dot_sequential([-2**62], [1], IntFormat(63), IntFormat(1, signed=False), IntFormat(64))) == -2**62
