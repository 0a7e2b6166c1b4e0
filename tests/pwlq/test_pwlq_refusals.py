"""Bad arguments of PWLQ get one sentence."""

from __future__ import annotations

import re

import numpy as np
import pytest

from refquant.integers import IntFormat, Multiplier
from refquant.integers.several_sums import aligned, requantize_sums, total
from refquant.pwlq import breakpoint, match_weight_moments, optimal_breakpoint, quantize
from refquant.pwlq.quantizer import from_signed, grid_of, round_trip_of_pieces, unpack
from refquant.pwlq.theory import GAUSSIAN, expected_error

ONES, EIGHT = np.ones(3), IntFormat(8)
GRID, TWO_GRIDS = grid_of(0.5, 1.0, 4), grid_of([0.5, 0.5], [1.0, 1.0], 4)


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
    (lambda: from_signed(np.array([16]), GRID), "values must be from -15 to 15, got 16..16"),
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
    (lambda: match_weight_moments(np.ones((2, 2)), np.ones((2, 3))),
     "w and quantized must have one shape (O, ...), got (2, 2) and (2, 3)"),
    # breakpoints
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
    (lambda: expected_error(0.3, 1.0, 4, "cauchy"), "distribution must be one of gaussian, laplacian, got 'cauchy'"),
])
def test_bad_input_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=rf"\A{re.escape(sentence)}.*\Z"):
        call()
