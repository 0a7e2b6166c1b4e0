"""How many products fit an int16 lane, proved by z3 for every value of the operands, not tried.

The operands are bytes, widened and multiplied as 16-bit registers do it. One lemma says what a product can be; one
per running sum says that from any sum of i products, adding one more does not overflow, and what it then can be.
"""
from __future__ import annotations

import re

import numpy as np
import pytest
from tools import require_module

from refquant.integers.accumulation import dot_int16, safe_products_per_lane
from refquant.integers.formats import IntFormat

z3 = require_module("z3", "pip install z3-solver")

SEVEN, FULL_SEVEN = IntFormat(7, narrow=True), IntFormat(7)
EIGHT, NARROW_EIGHT, BYTE = IntFormat(8), IntFormat(8, narrow=True), IntFormat(8, signed=False)

# Formats, the least and greatest product, how many fit int16: by hand.
CASES = [
    (SEVEN, SEVEN, -3969, 3969, 8),
    (FULL_SEVEN, FULL_SEVEN, -4032, 4096, 7),
    (FULL_SEVEN, SEVEN, -4032, 4032, 8),
    (SEVEN, IntFormat(6, narrow=True), -1953, 1953, 16),
    (IntFormat(7, signed=False), SEVEN, -8001, 8001, 4),
    (NARROW_EIGHT, NARROW_EIGHT, -16129, 16129, 2),
    (NARROW_EIGHT, EIGHT, -16256, 16256, 2),
    (EIGHT, EIGHT, -16256, 16384, 1),
    (BYTE, NARROW_EIGHT, -32385, 32385, 1),
]
all_cases = pytest.mark.parametrize("x_format, w_format, low, high, fit", CASES, ids=str)


def find(*claims):
    """A model of all claims, or None where z3 proves that there is none."""
    solver = z3.Solver()
    solver.set("timeout", 60_000)
    solver.add(*claims)
    verdict = solver.check()
    assert verdict != z3.unknown, solver.reason_unknown()
    return solver.model() if verdict == z3.sat else None


def code(name: str, fmt: IntFormat) -> tuple:
    """(the byte as a 16-bit register has it after widening, the claim that it is a code of `fmt`)."""
    byte = z3.BitVec(name, 8)
    wide = (z3.SignExt if fmt.signed else z3.ZeroExt)(8, byte)
    return wide, between(fmt.min, wide, fmt.max)


def between(low: int, register, high: int):
    return z3.And(low <= register, register <= high)  # signed comparisons


def product_fits(a, b):
    return z3.And(z3.BVMulNoOverflow(a, b, signed=True), z3.BVMulNoUnderflow(a, b))


def sum_fits(a, b):
    return z3.And(z3.BVAddNoOverflow(a, b, signed=True), z3.BVAddNoUnderflow(a, b))


def counter_product(x_format: IntFormat, w_format: IntFormat, low: int, high: int):
    """Codes whose product overflows int16 or lies outside low..high, as a model; None: there are none."""
    (x, is_x), (w, is_w) = code("x", x_format), code("w", w_format)
    return find(is_x, is_w, z3.Not(z3.And(product_fits(x, w), between(low, x * w, high))))


def counter_sum(i: int, low: int, high: int):
    """A sum of i products, and a product, that overflow int16 or leave (i + 1)·(low..high); None: there are none."""
    before, product = z3.BitVecs("before product", 16)
    fits = sum_fits(before, product)
    if -(2**15) <= (i + 1) * low and (i + 1) * high < 2**15:
        # Where a bound is no int16, no statement about registers says more than the absence of overflow.
        fits = z3.And(fits, between((i + 1) * low, before + product, (i + 1) * high))
    return find(between(i * low, before, i * high), between(low, product, high), z3.Not(fits))


def overflowing_chain(x_format: IntFormat, w_format: IntFormat, products: int) -> tuple[int, int, int] | None:
    """(x, w, the step whose sum is the first to overflow) if x·w, so many times, can overflow an int16 register."""
    (x, is_x), (w, is_w) = code("x", x_format), code("w", w_format)
    total, steps = z3.BitVecVal(0, 16), []
    for _ in range(products):
        steps.append(sum_fits(total, x * w))
        total = total + x * w
    model = find(is_x, is_w, product_fits(x, w), z3.Not(z3.And(steps)))
    if model is None:
        return None
    a, b = (value_of(model, wide) for wide in (x, w))
    return a, b, next(step for step, fits in enumerate(steps) if z3.is_false(model.eval(fits, True)))


def value_of(model, register) -> int:
    return model.eval(register, model_completion=True).as_signed_long()


# --- so many products fit, and not one more -----------------------------------------------------------------------

@all_cases
def test_neither_a_product_nor_a_sum_of_as_many_as_are_safe_overflows_int16(x_format, w_format, low, high, fit):
    assert counter_product(x_format, w_format, low, high) is None
    # The sum of no products is 0; each lemma starts from where the one before it ends.
    for i in range(fit):
        assert counter_sum(i, low, high) is None, i
    assert safe_products_per_lane(x_format, w_format) == fit


@all_cases
def test_one_product_more_overflows_int16_and_the_model_traps(x_format, w_format, low, high, fit):
    assert counter_sum(fit, low, high) is not None
    assert overflowing_chain(x_format, w_format, fit) is None
    x, w, step = overflowing_chain(x_format, w_format, fit + 1)
    assert step == fit
    message = f"SMLAL at step {fit}, lane[0] is {(fit + 1) * x * w}, outside int16 (-32768..32767)"
    chain = np.full(8 * (fit + 1), x), np.full(8 * (fit + 1), w), x_format, w_format
    with pytest.raises(OverflowError, match=f"^{re.escape(message)}$"):
        dot_int16(*chain, products_per_lane=fit + 1)
    assert int(dot_int16(*chain)) == 8 * (fit + 1) * x * w


def test_8_products_of_7_bit_codes_overflow_by_minus_64_in_both_operands_and_by_nothing_else():
    assert overflowing_chain(FULL_SEVEN, FULL_SEVEN, 8) == (-64, -64, 7)
    (x, is_x), (w, is_w) = code("x", FULL_SEVEN), code("w", FULL_SEVEN)
    assert find(is_x, is_w, z3.Or(x != -64, w != -64), z3.Not(between(-4032, x * w, 4032))) is None
    # So any other product is at most 4 032. Seven fit in any case; if one of eight is another, either it is the
    # eighth, or the sum of the first seven is at most 6·4 096 + 4 032.
    seven, eighth = z3.BitVecs("seven eighth", 16)
    assert find(between(7 * -4032, seven, 7 * 4096), between(-4032, eighth, 4096),
                z3.Or(eighth <= 4032, seven <= 6 * 4096 + 4032), z3.Not(sum_fits(seven, eighth))) is None


# --- the int32 lanes --------------------------------------------------------------------------------------------

def counter_round(rounds: int):
    """An int32 sum of fewer than so many SADALPs, and two lanes of at most 31 752, that overflow int32."""
    done, acc = z3.BitVecs("done acc", 32)
    lanes = [z3.BitVec(name, 16) for name in ("even", "odd")]
    even, odd = (z3.SignExt(16, lane) for lane in lanes)
    # done counts the rounds so far: `done` times 63 504 is the most that they add up to, and is itself an int32.
    most = done * 63504
    return find(between(0, done, rounds - 1), between(-most, acc, most),
                *(between(-31752, lane, 31752) for lane in lanes), z3.Not(sum_fits(acc, even + odd)))


def test_int32_holds_33816_rounds_of_two_full_lanes_and_not_one_more():
    assert counter_round(33816) is None
    model = counter_round(33817)
    assert value_of(model, z3.BitVec("done", 32)) == 33816


# --- the proofs can fail ----------------------------------------------------------------------------------------

@all_cases
def test_a_range_of_products_that_is_one_too_small_is_refuted_by_a_product(x_format, w_format, low, high, fit):
    for claimed in ((low + 1, high), (low, high - 1)):
        model = counter_product(x_format, w_format, *claimed)
        x, w = (value_of(model, code(name, fmt)[0]) for name, fmt in (("x", x_format), ("w", w_format)))
        assert x_format.min <= x <= x_format.max and w_format.min <= w <= w_format.max
        assert x * w == (low if claimed[0] > low else high)
