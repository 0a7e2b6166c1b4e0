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

from refquant import run_float
from refquant.convolution.geometry import Geometry
from refquant.integers import DIALECTS, IntFormat, Multiplier
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.graph import Conv, Linear
from refquant.scales.linear import max_scale, quantize
from refquant.shift_equalizer import (
    SHIFT_RULES,
    WAYS,
    equalizing_shifts,
    least_squares_scale,
    limit_shifts,
    search_shifts,
    undo_shifts,
)
from refquant.strategies import images, networks

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


@given(w=weights(), bits=st.integers(2, 16), shift_bits=st.integers(0, 5))
def test_with_floor_nothing_clips_and_every_channel_that_may_fills_more_than_half_the_range(w, bits, shift_bits):
    shifts = equalizing_shifts(w, shift_bits)
    reach = reaches(w)
    for r, k in zip(reach, shifts.tolist()):
        assert r * 2**k <= max(reach)
        alive = r >= max(reach) * Fraction(1, 2**24)
        assert not alive or k == min(2**shift_bits - 1, 24) or 2 * r * 2**k > max(reach)
    fmt = IntFormat(bits, narrow=True)
    scale = max_scale(w, fmt)
    assume(float(scale) < 2.0**900)  # S_w·2^k within float64
    codes = quantize(w, np.ldexp(scale, shifts), fmt, axis=0)
    step = 1 / np.ldexp(scale, shifts).reshape(-1, *[1] * (w.ndim - 1))
    assert (np.abs(codes * step - w) <= step / 2 * (1 + 1e-12)).all()  # as nothing clips


@given(st.data())
def test_the_equalized_float_network_is_equal_bit_for_bit(data):
    """Each layer's weights and bias shifted left, its outputs shifted right: powers of two change no mantissa."""
    network = fold_batchnorm(data.draw(networks(dtype=np.float32)))
    batch = data.draw(images(network, 2))
    nodes, known = [], {}
    for node in network.nodes:
        node = type(node)(**{**vars(node), "inputs": tuple(known.get(name, name) for name in node.inputs)})
        if isinstance(node, (Conv, Linear)) and node.weight.any():
            k = equalizing_shifts(node.weight)
            whole = np.ldexp(node.weight, k.reshape(-1, *[1] * (node.weight.ndim - 1)))
            bias = None if node.bias is None else np.ldexp(node.bias, k)
            undo = np.ldexp(np.float32(1), -k).astype(node.weight.dtype).reshape(-1, 1, 1, 1)
            nodes += [type(node)(**{**vars(node), "weight": whole, "bias": bias}),
                      Conv(f"{node.name} shifted", node.name, undo, geometry=Geometry(groups=len(k)))]
            known[node.name] = f"{node.name} shifted"
        else:
            nodes.append(node)
    equalized = network.replace_nodes(nodes, known.get(network.output, network.output))
    assert np.array_equal(run_float(equalized, batch), run_float(network, batch))


# --- shifts and scale together ----------------------------------------------------------------------------------

W = np.random.default_rng(3).normal(size=(6, 2, 3, 3)) * 10.0 ** np.linspace(0, -5, 6)[:, None, None, None]
W[3] = 0
X = np.random.default_rng(4).normal(size=(3, 2, 7, 6))


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


@pytest.mark.parametrize(("bits", "shift_bits"), [(8, 4), (4, 4), (4, 0), (3, 5), (8, 2)])
def test_searched_shifts_and_scale_are_the_plain_searchs(bits, shift_bits):
    def relative_error(channel, row, restored):
        return ((restored - row) ** 2).sum() / (row**2).sum()

    def likeness_of_outputs(channel, row, restored):
        y, found = (convolved(X, v[None], Geometry.of(2, 1)).ravel() for v in (row, restored))
        return 1 - (y @ found / np.sqrt((y @ y) * (found @ found)) if found.any() else 0.0)

    for objective, loss in (("weight", relative_error), ("cosine", likeness_of_outputs)):
        inputs = {"inputs": [X[:2], X[2:]], "stride": 2, "padding": 1} if objective == "cosine" else {}
        shifts, scale = search_shifts(W, bits, shift_bits, objective, **inputs)
        expected = plainly_searched(W, bits, shift_bits, loss)
        assert (shifts.tolist(), scale) == (expected[0], pytest.approx(expected[1], rel=1e-12))


@pytest.mark.parametrize("exponent", [-1060, -300, 40, 990])
def test_a_search_is_the_same_in_all_of_floats_range(exponent):
    """Weights times a power of two have the same shifts, and a scale as much smaller, while float64 holds it."""
    w = np.ldexp(W[:, 0, 0], 24).round()
    (shifts, scale), (moved, other) = search_shifts(w), search_shifts(np.ldexp(w, exponent))
    assert moved.tolist() == shifts.tolist()
    assert other == (float(np.ldexp(scale, -exponent)) if exponent > -1000 else np.finfo(float).max)


def test_a_channel_of_a_depthwise_or_flat_layer_is_searched_by_what_it_reads():
    """One channel's search is that of a layer of its own; a flat layer's that of planes of one element."""
    kernel, x = np.concatenate([W[:1, :1], W[:1, :1]]), np.stack([X[:, 0], 0 * X[:, 0]], axis=1)
    x[:, 1, 3, 2] = 1.0  # one pixel: every weight is seen alone
    both = search_shifts(kernel, 3, 2, "cosine", x, groups=2)
    for channel in (0, 1):
        def alone(_, row, restored, channel=channel):
            y, found = (convolved(x[:, channel:channel + 1], v[None], Geometry()).ravel() for v in (row, restored))
            return 1 - (y @ found / np.sqrt((y @ y) * (found @ found)) if found.any() else 0.0)
        losses = [alone(0, kernel[0], restored_at(kernel[0], 3, both[1] * 2.0**k)) for k in range(4)]
        assert both[0][channel] == int(np.argmin(losses))
    rows, flat = W[:, 0, 0], X[:, 0, 0, :3]
    searched = search_shifts(rows, 4, objective="cosine", inputs=flat)
    planes = search_shifts(rows[:, :, None, None], 4, objective="cosine", inputs=flat[:, :, None, None])
    assert (searched[0].tolist(), searched[1]) == (planes[0].tolist(), planes[1])


def restored_at(row: np.ndarray, bits: int, scale: float) -> np.ndarray:
    top = 2 ** (bits - 1) - 1
    return np.clip(np.sign(row) * np.floor(np.abs(row * scale) + 0.5), -top, top) / scale


def test_the_scale_of_least_squared_error_is_the_plain_searchs():
    shifts = equalizing_shifts(W)
    equalized = W * 2.0 ** shifts[:, None, None, None]
    for bits in (8, 4, 3):
        top = 2 ** (bits - 1) - 1
        scales = [top / np.abs(W).max() * 2 ** (j / 16) for j in range(16, -17, -1)]
        errors = [((np.clip(np.rint(equalized * s), -top, top) / s - equalized) ** 2).sum() for s in scales]
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


def grid(name: str, way: str, least_s: int, most_s: int) -> list[tuple[int, tuple[int, ...]]]:
    """|code - code of ``fused``| and where, over many multipliers, shifts and sums; no left shift wraps."""
    rng, found = np.random.default_rng(1), []
    for s, k in itertools.product(range(least_s, most_s + 1), (1, 2, 7)):
        reach = 2 ** (8 - s + k)
        acc = np.unique(np.concatenate([np.arange(-600, 600), rng.integers(-reach, reach, 600)]))
        for m in (2**30, 2**30 + 1, 1431655765, 2**31 - 2**24, 2**31 - 1):
            M = Multiplier(math.ldexp(m, s - 31), m, s)
            ours, other = (undo_shifts(acc, M, k, EIGHT, name, w).astype(int) for w in ("fused", way))
            worst = int(np.abs(ours - other).argmax())
            found.append((abs(int(ours[worst] - other[worst])), (int(acc[worst]), m, s, k)))
    return found


@pytest.mark.parametrize("name", DIALECTS)
def test_a_multiplier_per_channel_is_the_fused_shift(name):
    assert max(grid(name, "multiplier_per_channel", -9, 7))[0] == 0


def test_a_second_shift_is_the_fused_shift_for_floor_and_for_doubling_dialects_without_a_shift_of_their_own():
    assert max(grid("shift_floor", "second_shift", -9, 7))[0] == 0
    for name in ("gemmlowp_double", "neon_double"):
        assert max(grid(name, "second_shift", 0, 0))[0] == 0


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


@pytest.mark.parametrize("name", [name for name in DIALECTS if name != "shift_floor"])
def test_a_second_shift_is_off_by_one_at_most(name):
    assert max(grid(name, "second_shift", -9, 7))[0] == 1


@pytest.mark.parametrize("name", DIALECTS)
def test_shifting_the_sum_first_is_off_by_less_than_one_and_the_multiplier(name):
    """0 <= acc/2^k - (acc >> k) < 1, and rounding: with M < 1 at most 1, with M < 2^s at most 2^s."""
    errors = grid(name, "shift_first", -9, 7)
    assert max(error for error, (_, _, s, _) in errors if s <= 0) == 1
    assert all(error <= 2 ** max(s, 0) for error, (_, _, s, _) in errors)
    assert max(errors)[0] == 127  # acc -1, M near 128: codes -1 and -128


# --- limits and refusals ----------------------------------------------------------------------------------------


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
