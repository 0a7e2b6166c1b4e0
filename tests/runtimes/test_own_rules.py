"""refquant's own rules on the files of runtimes, and which average pool a device has: against exact fractions."""
from __future__ import annotations

from fractions import Fraction
from math import floor, frexp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tflite_layers import LEFT, RIGHT, described

from refquant.integers.rounding import round_fraction
from refquant.runtimes import average_pool_rules, own
from refquant.runtimes.arithmetic import single_rounded
from refquant.runtimes.average_pools import RULES as POOLS
from refquant.runtimes.kernels import ONNX_RULES, RULES, rule_of
from refquant.runtimes.model import Operation

# Four codes with each sum from -512 to 508, as the sum and what rules make of it.
SUMS = np.arange(-512, 509)


@pytest.mark.parametrize("zero", [0, -128, 5])
def test_average_pools_by_name(zero):
    """Case by case from the definitions of TFLite, oneDNN, ai8x and TOSA."""
    quarter = [Fraction(int(total), 4) for total in SUMS]
    wanted = {"TFLite and CMSIS-NN": [round_fraction(q, "half_away") for q in quarter],
              "oneDNN": [round_fraction(q, "half_even") for q in quarter],
              "ai8x": [floor(q) for q in quarter],
              "TOSA": [floor(q - zero + Fraction(1, 2)) + zero for q in quarter]}
    assert list(wanted) == list(POOLS)
    for name, codes in wanted.items():
        assert average_pool_rules(SUMS, 4, zero, codes) == [name]


@given(st.integers(1, 50), st.lists(st.integers(-6400, 6350), min_size=1, max_size=30), st.integers(-128, 127))
def test_average_pools_of_any_count(count, totals, zero):
    exact = [Fraction(total, count) for total in totals]
    rules = {name: rule(np.array(totals), count, zero).tolist() for name, rule in POOLS.items()}
    assert rules["TFLite and CMSIS-NN"] == [round_fraction(q, "half_away") for q in exact]
    assert rules["oneDNN"] == [round_fraction(q, "half_even") for q in exact]
    assert rules["ai8x"] == [floor(q) for q in exact]
    assert rules["TOSA"] == [floor(q + Fraction(1, 2)) for q in exact]  # a zero point is a whole number


def test_windows_at_a_border_may_count_fewer_cells():
    assert average_pool_rules([[6, 6], [-6, -6]], [[4, 3], [4, 3]], 0, [[2, 2], [-2, -2]]) == ["TFLite and CMSIS-NN",
                                                                                               "oneDNN"]


@pytest.mark.parametrize(("arguments", "sentence"), [
    (([2.9, 6.0], 4, 0, [1, 2]), "total must hold integers of at most 64 bits, got dtype float64"),
    (([2, 6], 4.0, 0, [1, 2]), "count must hold integers of at most 64 bits, got dtype float64"),
    (([2, 6], 4, 0, [0.9, 2.0]), "codes must hold integers of at most 64 bits, got dtype float64"),
    ((SUMS[:0], 4, 0, SUMS[:0]), r"total must not be empty, got shape \(0,\)"),
    (([2, 6], 4, 0, [1]), r"codes must have the shape of total, \(2,\), got \(1,\)"),
    (([2, 6], [4], 0, [1, 2]), r"count must be one integer or have the shape of total, \(2,\), got \(1,\)"),
    (([2, 6], 0, 0, [1, 2]), "count must be an integer from 1 to 2147483647, got 0"),
    (([2, 6], [4, 0], 0, [1, 2]), "count must be an integer from 1 to 2147483647, got 0"),
    (([2, 2**31], 4, 0, [1, 2]), "total must be an integer from -2147483648 to 2147483647, got 2147483648"),
    (([2, 6], 4, 0.5, [1, 2]), "zero_point must be an integer from -32768 to 65535, got 0.5"),
    (([2, 6], 4, 2**16, [1, 2]), "zero_point must be an integer from -32768 to 65535, got 65536")])
def test_average_pool_rules_refuses_bad_arguments_in_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        average_pool_rules(*arguments)


def exact(step):
    return Fraction(float(np.float32(step)))


def half_up(q):
    return floor(q + Fraction(1, 2))


def test_own_add_and_mul_of_all_pairs():
    a, b, y = (described(step, zero) for step, zero in ((0.05, 3), (0.07, -5), (0.1, 0)))
    add = Operation("ADD", (0, 1), (2,), {"FusedActivationFunction": "NONE"})
    codes = own.add(add, [a, b], y, [LEFT, RIGHT])[0, :, :, 0]
    parts = [[half_up(Fraction(float(np.float32(step)) / float(np.float32(0.1)) * 256) * (code - zero))
              for code in range(-128, 128)] for step, zero in ((0.05, 3), (0.07, -5))]
    for i in range(0, 256, 7):
        wanted = [min(127, max(-128, half_up(Fraction(parts[0][j] + parts[1][i], 256)))) for j in range(256)]
        assert codes[i].tolist() == wanted
    mul = Operation("MUL", (0, 1), (2,), {"FusedActivationFunction": "RELU"})
    product = own.multiply(mul, [a, b], y, [LEFT, RIGHT])
    for i in range(0, 256, 17):
        wanted = [min(127, max(0, half_up(exact(0.05) * exact(0.07) / exact(0.1) * (j - 131) * (i - 123))))
                  for j in range(256)]
        assert product[0, i, :, 0].tolist() == wanted


def test_own_layers_round_once():
    """Sums times M of 31 bits beside ties: against fractions."""
    rng = np.random.default_rng(0)
    acc = np.concatenate([rng.integers(-10**6, 10**6, 3000), np.arange(-300, 300)])
    for M in (0.5, 0.25, 0.001234, 0.99, 1.5):
        part, exponent = frexp(M)
        held = Fraction(round(part * 2**31)) * Fraction(2) ** (exponent - 31)
        assert single_rounded(acc[:, None], M)[:, 0].tolist() == [half_up(held * int(x)) for x in acc]


def test_each_operator_has_a_rule_of_refquant_s():
    for kind, dtype in RULES:
        assert callable(rule_of("refquant", kind, dtype))
    for kind in ONNX_RULES:
        assert callable(rule_of("refquant", kind, "uint8"))
    with pytest.raises(ValueError, match=r"^operator CUSTOM of int8 is not supported as refquant$"):
        rule_of("refquant", "CUSTOM", "int8")
