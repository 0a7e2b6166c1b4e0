"""Winograd transforms against the correlation they stand for, the published matrices, and each other."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.winograd.transforms import PRESETS, Transforms, cook_toom, transforms_for

F = Fraction
SIZES = [(m, r) for m in range(1, 9) for r in range(1, 8)]

rationals = st.builds(Fraction, st.integers(-6, 6), st.integers(1, 6))


def tile_product(t: Transforms, d: list[int], g: list[int]) -> list[int]:
    """A^T[(G g) ∘ (B^T d)] in Python's integers."""
    v, u = ([sum(int(c) * value for c, value in zip(row, values)) for row in matrix]
            for matrix, values in ((t.bt, d), (t.g, g)))
    return [sum(int(c) * a * b for c, a, b in zip(row, u, v)) for row in t.at]


def correlation(d: list[int], g: list[int]) -> list[int]:
    return [sum(d[i + k] * tap for k, tap in enumerate(g)) for i in range(len(d) - len(g) + 1)]


def assert_equals_the_correlation(t: Transforms, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    d, g = (rng.integers(-10**6, 10**6, count).tolist() for count in (t.m + t.r - 1, t.r))
    assert tile_product(t, d, g) == [t.divisor * y for y in correlation(d, g)]


def parts(t: Transforms) -> list:
    return [t.m, t.r, t.bt.tolist(), t.g.tolist(), t.at.tolist(), t.divisor]


# --- every set computes the correlation -----------------------------------------------------------------------

@pytest.mark.parametrize("m, r", SIZES)
@pytest.mark.parametrize("scaling", ["rows", "matrix"])
def test_every_size_computes_the_correlation_under_both_scalings(m, r, scaling):
    t = cook_toom(m, r, scaling=scaling)
    assert (t.m, t.r, t.n) == (m, r, m + r - 1)
    assert next(c for c in t.bt[-1].tolist() if c) > 0, "the row of infinity begins positive in B^T"
    assert_equals_the_correlation(t)


@given(st.integers(1, 5), st.integers(1, 4), st.data(), st.integers(0, 99))
def test_any_distinct_points_and_any_multiple_of_the_least_factors_compute_the_correlation(m, r, data, seed):
    points = data.draw(st.lists(rationals, min_size=m + r - 2, max_size=m + r - 2, unique=True))
    t, whole = cook_toom(m, r, points), cook_toom(m, r, points, "matrix")
    factors = [t.divisor * data.draw(st.integers(1, 9)) for _ in range(t.n)]
    scaled = cook_toom(m, r, points, factors)
    assert scaled.divisor == math.lcm(*factors) and scaled.bt.tolist() == t.bt.tolist()
    for each in (t, whole, scaled):
        assert_equals_the_correlation(each, seed)
    # The factors are the least: rows have no common factor, nor have the divisor and the columns of A^T together.
    assert {math.gcd(*row) for row in (*t.g.tolist(), *t.bt.tolist())} == {1}
    assert math.gcd(t.divisor, *t.at.ravel().tolist()) == math.gcd(whole.divisor, *whole.g.ravel().tolist()) == 1


# --- the proof ------------------------------------------------------------------------------------------------

@given(st.sampled_from(sorted(PRESETS)), st.sampled_from(["bt", "g", "at"]), st.data())
@example("F(2,3)", "bt", None)
def test_the_proof_refuses_any_set_with_one_entry_changed(name, matrix, data):
    t = PRESETS[name]
    fields = {"bt": t.bt.copy(), "g": t.g.copy(), "at": t.at.copy()}
    position, change = (0, 1) if data is None else (
        data.draw(st.integers(0, fields[matrix].size - 1)), data.draw(st.integers(-99, 99).filter(bool)))
    fields[matrix].flat[position] += change
    with pytest.raises(ValueError, match=re.escape(f"F({t.m}, {t.r}) must give [")):
        Transforms(t.m, t.r, **fields, divisor=t.divisor)


def test_sets_are_read_only_copies():
    g = PRESETS["F(2,3)"].g.copy()
    t = Transforms(np.int8(2), np.uint8(3), PRESETS["F(2,3)"].bt, g, PRESETS["F(2,3)"].at, np.int64(2))
    assert [type(v) for v in (t.m, t.r, t.divisor)] == [int] * 3
    g[0, 0] = 99
    assert t.g[0, 0] == 2
    for matrix in (t.bt, t.g, t.at):
        with pytest.raises(ValueError, match="read-only"):
            matrix[0, 0] = 1


# --- published sets -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, scaling", [
    ("F(2,3)", "matrix"), ("F(4,3)", "matrix"), ("F(4,3) ncnn", np.array([24, 24, 24, 24, 24, 6])),
    ("F(6,3)", "matrix")])
def test_presets_come_from_the_usual_points(name, scaling):
    preset = PRESETS[name]
    assert parts(cook_toom(preset.m, preset.r, scaling=scaling)) == parts(preset)


def fractions(text: str) -> list[list[Fraction]]:
    return [[F(entry) for entry in row.split()] for row in text.strip().split(";")]


# As printed: Lavin & Gray 2015 for F(2,3) and F(4,3), NNPACK's and ncnn's F(6,3).
PUBLISHED = {
    "F(2,3)": ("1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1",
               "1 0 0; 1/2 1/2 1/2; 1/2 -1/2 1/2; 0 0 1",
               "1 1 1 0; 0 1 -1 -1"),
    "F(4,3)": ("4 0 -5 0 1 0; 0 -4 -4 1 1 0; 0 4 -4 -1 1 0; 0 -2 -1 2 1 0; 0 2 -1 -2 1 0; 0 4 0 -5 0 1",
               "1/4 0 0; -1/6 -1/6 -1/6; -1/6 1/6 -1/6; 1/24 1/12 1/6; 1/24 -1/12 1/6; 0 0 1",
               "1 1 1 1 1 0; 0 1 -1 2 -2 0; 0 1 1 4 4 0; 0 1 -1 8 -8 1"),
    "F(6,3)": ("1 0 -21/4 0 21/4 0 -1 0; 0 1 1 -17/4 -17/4 1 1 0; 0 -1 1 17/4 -17/4 -1 1 0;"
               "0 1/2 1/4 -5/2 -5/4 2 1 0; 0 -1/2 1/4 5/2 -5/4 -2 1 0; 0 2 4 -5/2 -5 1/2 1 0;"
               "0 -2 4 5/2 -5 -1/2 1 0; 0 -1 0 21/4 0 -21/4 0 1",
               "1 0 0; -2/9 -2/9 -2/9; -2/9 2/9 -2/9; 1/90 1/45 2/45; 1/90 -1/45 2/45; 1/45 1/90 1/180;"
               "1/45 -1/90 1/180; 0 0 1",
               "1 1 1 1 1 32 32 0; 0 1 -1 2 -2 16 -16 0; 0 1 1 4 4 8 8 0; 0 1 -1 8 -8 4 -4 0;"
               "0 1 1 16 16 2 2 0; 0 1 -1 32 -32 1 -1 1"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_products_up_to_factors(name):
    """Row j of B^T and of G and column j of A^T, each times a number; the three multiply to the divisor."""
    def factor(ours: list, theirs: list) -> Fraction:
        ratios = {F(a) / b for a, b in zip(ours, theirs) if b}
        assert len(ratios) == 1 and not any(a for a, b in zip(ours, theirs) if not b)
        return ratios.pop()

    preset = PRESETS[name]
    bt, g, at = (fractions(text) for text in PUBLISHED[name])
    for j in range(preset.n):
        factors = (factor(preset.bt[j].tolist(), bt[j]), factor(preset.g[j].tolist(), g[j]),
                   factor(preset.at[:, j].tolist(), [row[j] for row in at]))
        assert math.prod(factors) == preset.divisor
        if name != "F(6,3)":  # printed with the matrices themselves
            assert factors == (1, preset.divisor, 1)


def test_a_tile_is_a_preset_where_there_is_one():
    assert transforms_for((2, 3)) is transforms_for([2, 3]) is transforms_for("F(2,3)") is PRESETS["F(2,3)"]
    assert transforms_for("F(4,3) ncnn") is PRESETS["F(4,3) ncnn"]
    assert parts(transforms_for((3, 3))) == parts(cook_toom(3, 3))
    mine = cook_toom(2, 3)
    assert transforms_for(mine) is mine


# --- bad input ------------------------------------------------------------------------------------------------

T = PRESETS["F(2,3)"]
TILES = "tile must be (m, r), Transforms or one of F(2,3), F(4,3), F(4,3) ncnn, F(6,3)"


@pytest.mark.parametrize("call, message", [
    *[(lambda m=m, call=call: call(m), f"{name}m must be an integer from 1 to 8, got {m}") for m in (0, 9)
      for name, call in (("", lambda m: cook_toom(m, 3)), ("tile's ", lambda m: transforms_for((m, 3))),
                         ("", lambda m: Transforms(m, 3, T.bt, T.g, T.at, 2)))],
    *[(lambda r=r, call=call: call(r), f"{name}r must be an integer from 1 to 7, got {r}") for r in (0, 8)
      for name, call in (("", lambda r: cook_toom(2, r)), ("tile's ", lambda r: transforms_for((2, r))),
                         ("", lambda r: Transforms(2, r, T.bt, T.g, T.at, 2)))],
    *[(lambda points=points: cook_toom(2, 3, points), f"points must be 3 distinct ones beside infinity, got {got}")
      for points, got in (([0, 1, 1], "0, 1, 1"), ([0, F(1, 2), F(2, 4)], "0, 1/2, 1/2"), ([0, 1], "0, 1"),
                          ([], "none"))],
    *[(lambda points=points: cook_toom(2, 3, points), f"points must be integers or Fractions, got {points!r}")
      for points in ([0, 1, 0.5], [0, 1, True], "012", 7)],
    (lambda: cook_toom(2, 3, scaling="columns"), "scaling must be 'rows', 'matrix' or 4 factors, got 'columns'"),
    *[(lambda scaling=scaling: cook_toom(2, 3, scaling=scaling), f"scaling must be 4 integers >= 1, got {scaling}")
      for scaling in ([2, 2, 2], [2, 2, 2, 0], [2, 2, 2, 1.0], 2)],
    (lambda: cook_toom(2, 3, scaling=[1, 2, 3, 1]), "scaling must make row 2 of G, 1/2, -1/2, 1/2, integers, got 3"),
    (lambda: cook_toom(2, 3, scaling=np.array([2**63, 2, 2, 1], np.uint64)),
     f"F(2, 3) must have entries that int64 holds, got {2**63}"),
    (lambda: cook_toom(2, 2, [10**10, 2 * 10**10]), f"F(2, 2) must have entries that int64 holds, got {2 * 10**20}"),
    (lambda: Transforms(2, 3, T.bt, T.g.T, T.at, 2), "g must be (4, 3) of int64 for F(2, 3), got (3, 4) of int64"),
    (lambda: Transforms(3, 3, T.bt, T.g, T.at, 2), "bt must be (5, 5) of int64 for F(3, 3), got (4, 4) of int64"),
    (lambda: Transforms(2, 3, T.bt, T.g / 2, T.at, 2), "g must hold integers of at most 64 bits, got dtype float64"),
    (lambda: Transforms(2, 3, T.bt, T.g, T.at.astype(np.uint64), 2),
     "at must be (2, 4) of int64 for F(2, 3), got (2, 4) of uint64"),
    (lambda: Transforms(2, 3, T.bt, T.g, T.at, 0), "divisor must be an integer >= 1, got 0"),
    (lambda: Transforms(2, 3, T.bt, T.g, T.at, 4),
     "F(2, 3) must give [4, 0] for unit inputs d_0 and g_0, got [2, 0]"),
    # The proof is in integers beyond int64: modulo 2^64 this set would compute 1·d·g.
    (lambda: Transforms(1, 1, [[274177]], [[67280421310721]], [[1]], 1),
     f"F(1, 1) must give [1] for unit inputs d_0 and g_0, got [{2**64 + 1}]"),
    *[(lambda tile=tile: transforms_for(tile), f"{TILES}, got {tile!r}") for tile in ("F(3,3)", 4, (2, 3, 3))],
])
def test_bad_input_is_refused_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
