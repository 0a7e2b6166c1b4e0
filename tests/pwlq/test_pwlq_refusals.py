"""Bad arguments of PWLQ get one sentence."""

from __future__ import annotations

import re

import numpy as np
import pytest

from refquant.integers import IntFormat, Multiplier
from refquant.integers.several_sums import aligned, requantize_sums, total
from refquant.pwlq import breakpoint, inner_product, match_weight_moments, optimal_breakpoint, quantize
from refquant.pwlq.breakpoints import multiple_breakpoints
from refquant.pwlq.inner_product import sums
from refquant.pwlq.quantizer import from_signed, grid_of, round_trip_of_pieces, unpack
from refquant.pwlq.theory import GAUSSIAN, expected_error

ONES, EIGHT = np.ones(3), IntFormat(8)
GRID, TWO_GRIDS = grid_of(0.5, 1.0, 4), grid_of([0.5, 0.5], [1.0, 1.0], 4)
CODES = quantize(np.array([0.2, 0.9]), GRID)


@pytest.mark.parametrize("call, sentence", [
    # quantizer
    (lambda: grid_of(0.0, 1.0, 4), "a breakpoint must be above 0 and below the limit, got 0.0 of 1.0"),
    (lambda: grid_of([0.5, 2.0], [1.0, 2.0], 4), "a breakpoint must be above 0 and below the limit, got 2.0 of 2.0"),
    (lambda: grid_of(0.5, np.inf, 4), "a breakpoint must be above 0 and below the limit, got 0.5 of inf"),
    (lambda: grid_of([0.5], 1.0, 4), "breakpoint and limit must be two numbers, or one each per channel, got"),
    (lambda: grid_of(0.5, 1.0, 1), "bits must be an integer from 2 to 16, got 1"),
    (lambda: grid_of(0.5, 1.0, 4, "piecewise"), "variant must be one of"),
    (lambda: quantize(np.array([np.nan]), GRID), "x must be finite"),
    (lambda: quantize(np.ones((2, 2)), TWO_GRIDS), "axis must be given for a grid of 2"),
    (lambda: quantize(np.ones((2, 3)), TWO_GRIDS, 1), "axis 1 must have 2 channels"),
    (lambda: grid_of(5e-324, 1.0, 8), "both regions must have steps above 0, got a breakpoint of 5e-324"),
    (lambda: grid_of(0.5, 1.0, 4, signed="no"), "signed must be True or False, got 'no'"),
    (lambda: quantize(ONES, GRID, 99), "axis must be an integer from -1 to 0, got 99"),
    (lambda: from_signed(np.array([16]), GRID), "values must be from -15 to 15, got 16..16"),
    (lambda: from_signed(np.array([-2**63]), GRID), f"values must be from -15 to 15, got {-2**63}..{-2**63}"),
    (lambda: from_signed(np.array([2**64 - 1], np.uint64), GRID), f"values must fit int64, got {2**64 - 1}"),
    (lambda: unpack(np.zeros(2, np.uint8), (2,), grid_of(0.5, 1.0, 3)), "packed must be uint8 of shape (1,)"),
    (lambda: round_trip_of_pieces(np.ones(1), [2.0, 1.0], 4.0, 4), "breakpoints must be one to three, rising"),
    # several sums, moments
    (lambda: requantize_sums([np.int64(1)], aligned([0.5]), EIGHT, "gemmlowp_double"),
     "a dialect for several sums must be one of single_round, shift_floor, exact_half_even, zero_point_first, got"),
    (lambda: requantize_sums([np.int64(2**40)], aligned([0.5]), EIGHT),
     "products of several sums must stay below 2^63"),
    (lambda: total([np.int64(1)] * 2, [Multiplier.from_real(0.5), Multiplier.from_real(0.1)]),
     "multipliers of several sums must share their shift (see aligned), got others"),
    (lambda: requantize_sums([np.uint64(2**63)], aligned([0.5]), EIGHT), "a sum must fit int64, got 922337203"),
    (lambda: requantize_sums([np.int64(1)] * 2, aligned([0.5]), EIGHT),
     "each sum must have a multiplier, got 2 sums and 1 multipliers"),
    (lambda: aligned([0.5, 0.0]), "a multiplier must be finite and > 0"),
    (lambda: aligned([]), "several sums must have a multiplier each, got none"),
    (lambda: requantize_sums([], [], EIGHT), "each sum must have a multiplier, got 0 sums and 0 multipliers"),
    (lambda: requantize_sums([1], aligned([2.0**40]), EIGHT), "single_round takes shifts up to 30, got 41"),
    (lambda: requantize_sums([1], aligned([1.0]), IntFormat(34)), "requantization takes formats of at most 33 bits"),
    (lambda: requantize_sums([1], aligned([1.0]), 8), "fmt must be an IntFormat, as in IntFormat(8), got 8"),
    # inner products
    (lambda: sums([1, 2, 3], CODES), "x and w must be (n,), got shapes (3,) and (2,)"),
    (lambda: inner_product(CODES, CODES, GRID, 2.0, 1.0, EIGHT), "x_scale must be a PiecewiseGrid for Piecewise"),
    (lambda: inner_product([1, 2], CODES, GRID, GRID, 1.0, EIGHT), "x_scale must be a PiecewiseGrid for Piecewise"),
    (lambda: inner_product([1, 2], CODES, GRID, 0.0, 1.0, EIGHT), "x_scale must be finite and > 0, got 0.0"),
    *[(lambda big=big: match_weight_moments(big * np.ones((2, 2)), np.ones((2, 2))),
       "w must be moderate: its largest magnitude must be 0 or from 1e-140 to 1e140") for big in (1e-170, 1e170)],
    (lambda: match_weight_moments(np.ones((2, 2)), np.ones((2, 3))),
     "w and quantized must have one shape (O, ...), got (2, 2) and (2, 3)"),
    # breakpoints
    *[(lambda big=big: breakpoint(big * np.arange(9.0), 4),
       "w must be moderate: its largest magnitude must be 0 or from 1e-140 to 1e140") for big in (1e-170, 1e170)],
    (lambda: multiple_breakpoints(ONES, 99, 2), "bits must be an integer from 2 to 16, got 99"),
    (lambda: multiple_breakpoints(ONES, 4, 2, "cauchy"), "distribution must be one of gaussian, laplacian"),
    (lambda: breakpoint(np.zeros((2, 3)), 4), "w must hold a weight that is not zero, got zeros alone"),
    (lambda: breakpoint(np.zeros((0, 3)), 4), "w must not be empty, got shape (0, 3)"),
    (lambda: breakpoint(np.array([1.0, np.nan]), 4), "w must be finite"),
    (lambda: breakpoint(np.array([1.0, np.inf]), 4, axis=0), "w must be finite"),
    (lambda: breakpoint(ONES, 1), "bits must be an integer from 2 to 16, got 1"),
    (lambda: breakpoint(ONES, 4, "best"), "method must be one of"),
    (lambda: breakpoint(ONES, 4, "one_shot", "overlapping"), "method one_shot must have a variant"),
    (lambda: breakpoint(ONES, 4, distribution="cauchy"), "distribution must be one of gaussian, laplacian"),
    (lambda: breakpoint(np.ones((2, 3)), 4, axis=1), "axis must be an integer from 0 to 0, got 1"),
    (lambda: optimal_breakpoint(ONES, 4, "other"), "variant must be one of"),
    # theory
    (lambda: expected_error(0.3, 1.0, 4, GAUSSIAN._replace(pdf=lambda r: np.exp(-np.square(r - 1)))),
     "distribution must be symmetric about 0"),
    *[(lambda p=p: expected_error(p, 4.0, 4), f"p must be from 0 to m, got {p} and 4.0") for p in (-1.0, 5.0)],
    (lambda: expected_error(0.3, 1.0, 4, "cauchy"), "distribution must be one of gaussian, laplacian, got 'cauchy'"),
])
def test_bad_input_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=rf"\A{re.escape(sentence)}.*\Z"):
        call()
