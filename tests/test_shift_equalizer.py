"""The weight equalizing shift scaler: its rules in rationals, its promises, and the four ways to undo a shift."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import dialects_oracle as oracle
import numpy as np
import pytest
from convolution_oracle import convolved
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refquant.convolution.geometry import Geometry
from refquant.integers import DIALECTS, IntFormat, Multiplier
from refquant.shift_equalizer import (
    SHIFT_RULES,
    WAYS,
    equalizing_shifts,
    least_squares_scale,
    limit_shifts,
    search_shifts,
    undo_shifts,
)

EIGHT = IntFormat(8)

# --- the rules --------------------------------------------------------------------------------------------------


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    """Rows of very different size, some dead, some exact powers of two apart, in all of float's range."""
    rows = draw(st.integers(1, 5))
    shape = draw(st.sampled_from(((rows, 3), (rows, 2, 1, 2))))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    some = st.sampled_from((0, 1, -1, 0.75, -0.5, 0.7071067690849304, 1.5, 127))
    values = draw(arrays(dtype, shape, elements=some | st.floats(-4, 4, width=32)))
    exponents = draw(st.lists(st.integers(-30, 3) | st.just(0), min_size=rows, max_size=rows))
    whole = draw(st.sampled_from((0, 0, 90, -90)))
    w = np.ldexp(values, np.array(exponents).reshape(-1, *[1] * (len(shape) - 1)) + whole).astype(dtype)
    assume(w.any())
    return w


def reaches(w: np.ndarray) -> list[Fraction]:
    return [max(abs(Fraction(v)) for v in row) for row in w.reshape(len(w), -1).astype(float).tolist()]


def rule_in_rationals(w: np.ndarray, most: int, rule: str) -> list[int]:
    reach = reaches(w)
    largest, shifts = max(reach), []
    for r in reach:
        if r < largest * Fraction(1, 2**24):
            shifts.append(0)
            continue
        floor = max(k for k in range(25) if r * 2**k <= largest)
        ceil = next(k for k in range(26) if r * 2**k >= largest)
        # Of floor and floor + 1 the one whose ratio to the largest, turned to be above 1, is nearer to 1.
        nearest = floor + (largest / (r * 2**floor) > (r * 2**(floor + 1)) / largest)
        shifts.append(min({"floor": floor, "ceil": ceil, "nearest": nearest}[rule], most, 24))
    return shifts


@pytest.mark.parametrize("rule", SHIFT_RULES)
@given(w=weights(), shift_bits=st.integers(0, 5))
@example(w=np.array([[1.0], [2.0**-24], [np.nextafter(2.0**-24, 0)]]), shift_bits=5)  # the last one alone is dead
@example(w=np.array([[np.float32(1)], [np.nextafter(np.float32(0.125), np.float32(1))]]), shift_bits=4)
@example(w=np.array([[5e-324 * 3], [5e-324]]), shift_bits=4)
def test_shifts_are_those_of_the_rule_compared_exactly(rule, w, shift_bits):
    found = equalizing_shifts(w, shift_bits, rule)
    assert found.dtype == np.int64 and found.tolist() == rule_in_rationals(w, 2**shift_bits - 1, rule)


# --- shifts and scale together ----------------------------------------------------------------------------------

W = np.random.default_rng(9).normal(size=(5, 2, 3, 3)) * 10.0 ** np.array([0, -1.5, -3, 0, -5])[:, None, None, None]
W[3] = 0
X = np.random.default_rng(10).normal(size=(3, 2, 5, 4))


def restored_at(w: np.ndarray, bits: int, scale: float) -> np.ndarray:
    top = 2 ** (bits - 1) - 1
    return np.clip(np.sign(w) * np.floor(np.abs(w * scale) + 0.5), -top, top) / scale


def plainly_searched(w: np.ndarray, bits: int, shift_bits: int, loss) -> tuple[list[int], float]:
    """Every scale, every shift, every channel, one after another."""
    top, most = 2 ** (bits - 1) - 1, np.abs(w).max()
    best = (math.inf, 0.0, [])
    for j in range(16, -17, -1):
        scale, total, shifts = top / most * 2 ** (j / 16), 0.0, []
        for channel, row in enumerate(w):
            if np.abs(row).max() < most / 2**24:
                shifts.append(0)
                continue
            losses = []
            for k in range(2**shift_bits):
                losses.append(loss(channel, row, restored_at(row, bits, scale * 2**k)))
            shifts.append(next(k for k, v in enumerate(losses) if v <= min(losses) + 1e-12))
            total += min(losses)
        if total < best[0] - 1e-12:
            best = (total, scale, shifts)
    return best[2], best[1]


def relative_error(channel: int, row: np.ndarray, restored: np.ndarray) -> float:
    return ((restored - row) ** 2).sum() / (row**2).sum()


def unlikeness_of_outputs(x: np.ndarray, geometry: Geometry):
    """1 - cosine of a channel's outputs; a depthwise channel reads its own plane."""
    def loss(channel, row, restored):
        seen = x[:, channel:channel + 1] if geometry.groups > 1 else x
        y, found = (convolved(seen, v[None], geometry._replace(groups=1)).ravel() for v in (row, restored))
        return 1 - (y @ found / np.sqrt((y @ y) * (found @ found)) if found.any() else 0.0)

    return loss


ONE_PIXEL = np.concatenate([X[:, :1], np.pad([[[[1.0]]]], ((0, 2), (0, 0), (3, 1), (2, 1)))], axis=1)


@pytest.mark.parametrize(("w", "bits", "shift_bits", "loss", "options"), [
    *[(W, bits, shift_bits, relative_error, {}) for bits, shift_bits in ((8, 4), (4, 0), (3, 5))],
    *[(W, bits, shift_bits, unlikeness_of_outputs(X, Geometry.of(2, 1)),
       {"objective": "cosine", "inputs": [X[:2], X[2:]], "stride": 2, "padding": 1})
      for bits, shift_bits in ((4, 4), (4, 0), (3, 3))],
    (W[:2, :1], 3, 2, unlikeness_of_outputs(ONE_PIXEL, Geometry.of(1, 1, groups=2)),
     {"objective": "cosine", "inputs": ONE_PIXEL, "padding": 1, "groups": 2}),  # every weight is seen alone
])
def test_searched_shifts_and_scale_are_the_plain_searchs(w, bits, shift_bits, loss, options):
    shifts, scale = search_shifts(w, bits, shift_bits, **options)
    expected = plainly_searched(w, bits, shift_bits, loss)
    assert (shifts.tolist(), scale) == (expected[0], pytest.approx(expected[1], rel=1e-12))


def test_a_flat_layer_is_searched_as_planes_of_one_element():
    rows, flat = W[:, 0, 0], X[:, 0, 0, :3]
    shifts, scale = search_shifts(rows, 4, objective="cosine", inputs=flat)
    planes = search_shifts(rows[:, :, None, None], 4, objective="cosine", inputs=flat[:, :, None, None])
    assert (shifts.tolist(), scale) == (planes[0].tolist(), planes[1])


@pytest.mark.parametrize("exponent", [-1060, -300, 40, 990])
def test_a_search_is_the_same_in_all_of_floats_range(exponent):
    """Weights times a power of two have the same shifts, and a scale as much smaller, while float64 holds it."""
    w = np.ldexp(W[:, 0, 0], 24).round()
    (shifts, scale), (moved, other) = search_shifts(w), search_shifts(np.ldexp(w, exponent))
    assert moved.tolist() == shifts.tolist()
    assert other == (float(np.ldexp(scale, -exponent)) if exponent > -1000 else np.finfo(float).max)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_the_scale_of_least_squared_error_is_the_plain_searchs(bits):
    shifts = equalizing_shifts(W)
    equalized = W * 2.0 ** shifts[:, None, None, None]
    scales = (2 ** (bits - 1) - 1) / np.abs(W).max() * 2 ** (np.arange(16, -17, -1) / 16)
    errors = [((restored_at(equalized, bits, scale) - equalized) ** 2).sum() for scale in scales]
    assert least_squares_scale(W, shifts, bits) == pytest.approx(scales[int(np.argmin(errors))], rel=1e-12)


# --- undoing the shift ------------------------------------------------------------------------------------------

LAST = {"gemmlowp_double": oracle.half_away, "neon_double": lambda v: math.floor(v + Fraction(1, 2)),
        "single_round": lambda v: math.floor(v + Fraction(1, 2)), "float32_half_even": oracle.half_even,
        "float32_half_away": oracle.half_away, "multiplier16": lambda v: math.floor(v + Fraction(1, 2)),
        "shift_floor": math.floor, "exact_half_even": oracle.half_even, "zero_point_first": oracle.half_even}


def undone(name: str, way: str, acc: int, m: int, s: int, k: int, z: int = 0) -> int:
    """The output code in Python integers and rationals."""
    real = math.ldexp(m, s - 31)
    if way == "shift_first":
        value = oracle.whole(name, acc >> k, real, m, s, z) + z
    elif way == "second_shift":
        early = z if name == "zero_point_first" else 0
        value = LAST[name](Fraction(oracle.whole(name, acc, real, m, s), 2**k) + early) + z - early
    else:
        value = oracle.whole(name, acc, math.ldexp(real, -k), m, s - k, z) + z
    return oracle.clamp(value, -128, 127)


@given(name=st.sampled_from(DIALECTS), way=st.sampled_from(WAYS), acc=st.integers(-2**20, 2**20) | st.integers(-9, 9),
       m=st.integers(2**30, 2**31 - 1) | st.just(2**30), s=st.integers(-9, 8), k=st.integers(0, 15),
       z=st.sampled_from((0, 0, 3, -128)))
def test_every_way_gives_the_code_of_rational_arithmetic_in_every_dialect(name, way, acc, m, s, k, z):
    found = undo_shifts(acc, Multiplier(math.ldexp(m, s - 31), m, s), k, EIGHT, name, way, z)
    assert int(found) == undone(name, way, acc, m, s, k, z)


def differences(name: str, s: int) -> dict[str, int]:
    """The worst |code - code of ``fused``| of each way, of many multipliers, shifts and sums; no left shift wraps."""
    rng, worst = np.random.default_rng(s + 9), dict.fromkeys(WAYS, 0)
    for k, m in itertools.product((1, 2, 7), (2**30, 2**30 + 1, 1431655765, 2**31 - 2**24, 2**31 - 1)):
        reach = 2 ** (8 - s + k)
        acc = np.append(np.arange(-300, 300), rng.integers(-reach, reach, 300))
        M = Multiplier(math.ldexp(m, s - 31), m, s)
        found = {way: undo_shifts(acc, M, k, EIGHT, name, way).astype(int) for way in WAYS}
        worst = {way: max(worst[way], int(np.abs(found[way] - found["fused"]).max())) for way in WAYS}
    return worst


@pytest.mark.parametrize("name", DIALECTS)
def test_how_far_each_way_is_from_the_fused_shift(name):
    """A multiplier per channel nowhere; a second shift by one, or nowhere for floor and in doubling without s.

    Shifting the sum first: 0 <= acc/2^k - (acc >> k) < 1, so with M < 1 at most 1, with M < 2^s at most 2^s.
    """
    worst = {s: differences(name, s) for s in range(-9, 8)}
    assert {found["multiplier_per_channel"] for found in worst.values()} == {0}
    assert max(found["second_shift"] for found in worst.values()) == (name != "shift_floor")
    assert name not in ("gemmlowp_double", "neon_double") or not worst[0]["second_shift"]
    assert max(worst[s]["shift_first"] for s in range(-9, 1)) == 1
    assert all(found["shift_first"] <= 2 ** max(s, 0) for s, found in worst.items())
    assert worst[7]["shift_first"] == 127  # acc -1, M near 128: codes -1 and -128


# way: dialect, s, k, acc, m, and the codes of the fused shift and of this way. The sums nearest to 0 that differ.
HALF, THREE_QUARTERS = 2**30, 3 * 2**29
COUNTEREXAMPLES = {
    "second_shift": [
        ("gemmlowp_double", -1, 1, 1, HALF, 0, 1), ("gemmlowp_double", 1, 2, 1, HALF, 1, 0),
        ("neon_double", -1, 1, 1, HALF, 0, 1), ("neon_double", 1, 2, 1, HALF, 1, 0),
        ("single_round", 0, 1, 1, HALF, 0, 1), ("float32_half_even", 0, 2, 3, THREE_QUARTERS, 1, 0),
        ("float32_half_away", 0, 1, 1, HALF, 0, 1), ("multiplier16", 0, 1, 1, HALF, 0, 1),
        ("exact_half_even", 0, 2, 3, THREE_QUARTERS, 1, 0), ("zero_point_first", 0, 2, 3, THREE_QUARTERS, 1, 0)],
    "shift_first": [
        ("gemmlowp_double", 0, 1, 1, HALF, 1, 0), ("neon_double", 0, 1, 1, HALF, 1, 0),
        ("single_round", 0, 1, -1, THREE_QUARTERS, 0, -1), ("float32_half_even", 0, 1, -1, THREE_QUARTERS, 0, -1),
        ("float32_half_away", 0, 1, -1, HALF, 0, -1), ("multiplier16", 0, 1, -1, THREE_QUARTERS, 0, -1),
        ("shift_floor", 0, 1, 3, THREE_QUARTERS, 1, 0), ("exact_half_even", 0, 1, -1, THREE_QUARTERS, 0, -1),
        ("zero_point_first", 0, 1, -1, THREE_QUARTERS, 0, -1)],
}


@pytest.mark.parametrize(("way", "case"), [(way, case) for way, cases in COUNTEREXAMPLES.items() for case in cases])
def test_counterexamples_to_equality_stay(way, case):
    name, s, k, acc, m, fused, other = case
    M = Multiplier(math.ldexp(m, s - 31), m, s)
    assert (undone(name, "fused", acc, m, s, k), undone(name, way, acc, m, s, k)) == (fused, other)
    assert [int(undo_shifts(acc, M, k, EIGHT, name, w)) for w in ("fused", way)] == [fused, other]


# --- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("s", [-31, -30, -25, -7, 0, 14])
def test_a_lowered_shift_is_the_largest_that_the_dialect_takes(name, s):
    shifts = np.array([0, 1, 6, 15, 24])
    M = Multiplier(math.ldexp(2**30, s - 31), 2**30, s)
    limited = limit_shifts(shifts, M, name)
    legal = [k for k in range(25) if s - k >= -31] if name in oracle.GREATEST_SHIFT else range(25)
    assert limited.tolist() == [min(k, max(legal)) for k in shifts.tolist()]
    undo_shifts(np.arange(5), M, limited, EIGHT, name)  # is taken
    if (limited != shifts).any():
        channel = int(np.argmax(limited != shifts))
        with pytest.raises(ValueError, match=rf"^the shift s - k of channel {channel} must be at least -31, got "
                                             rf"{s} - {shifts[channel]}$"):
            limit_shifts(shifts, M, name, strict=True)
    else:
        assert limit_shifts(shifts, M, name, strict=True).tolist() == shifts.tolist()
