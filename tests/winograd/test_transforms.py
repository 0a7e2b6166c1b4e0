"""Winograd transforms against the correlation they stand for, the published matrices, and each other."""

import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from refquant.winograd.transforms import POINTS, PRESETS, Transforms, cook_toom, transforms_for

SIZES = [(m, r) for m in range(1, 9) for r in range(1, 8)]
F = Fraction

rationals = st.builds(Fraction, st.integers(-6, 6), st.integers(1, 6))


def tile_product(t: Transforms, d: list[int], g: list[int]) -> list[int]:
    """A^T[(G g) ∘ (B^T d)] in Python's integers."""
    v = [sum(int(c) * value for c, value in zip(row, d)) for row in t.bt]
    u = [sum(int(c) * value for c, value in zip(row, g)) for row in t.g]
    return [sum(int(c) * a * b for c, a, b in zip(row, u, v)) for row in t.at]


def correlation(d: list[int], g: list[int]) -> list[int]:
    return [sum(d[i + k] * tap for k, tap in enumerate(g)) for i in range(len(d) - len(g) + 1)]


def assert_equals_the_correlation(t: Transforms, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    d, g = (rng.integers(-10**6, 10**6, count).tolist() for count in (t.n, t.r))
    assert tile_product(t, d, g) == [t.divisor * y for y in correlation(d, g)]


def parts(t: Transforms) -> list:
    return [t.m, t.r, t.bt.tolist(), t.g.tolist(), t.at.tolist(), t.divisor]


# --- every set computes the correlation -----------------------------------------------------------------------

@pytest.mark.parametrize("m, r", SIZES)
def test_every_size_computes_the_correlation_under_both_scalings(m, r):
    for scaling in ("rows", "matrix"):
        t = cook_toom(m, r, scaling=scaling)
        assert (t.m, t.r, t.n) == (m, r, m + r - 1)
        assert all(matrix.dtype == np.int64 for matrix in (t.bt, t.g, t.at))
        assert_equals_the_correlation(t)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_compute_the_correlation(name):
    assert_equals_the_correlation(PRESETS[name])


@given(st.integers(1, 5), st.integers(1, 4), st.data(), st.integers(0, 99))
def test_any_distinct_points_and_any_multiple_of_the_least_factors_compute_the_correlation(m, r, data, seed):
    count = m + r - 2
    points = data.draw(st.lists(rationals, min_size=count, max_size=count, unique=True))
    least = cook_toom(m, r, points)
    assert_equals_the_correlation(least, seed)
    factors = [least.divisor * data.draw(st.integers(1, 9)) for _ in range(m + r - 1)]
    t = cook_toom(m, r, points, factors)
    assert_equals_the_correlation(t, seed)
    assert t.divisor == math.lcm(*factors)
    assert t.bt.tolist() == least.bt.tolist()


@given(st.integers(1, 5), st.integers(1, 4), st.data())
def test_rows_of_the_least_scaling_have_no_common_factor(m, r, data):
    points = data.draw(st.lists(rationals, min_size=m + r - 2, max_size=m + r - 2, unique=True))
    t = cook_toom(m, r, points)
    for row in (*t.g.tolist(), *t.bt.tolist()):
        assert math.gcd(*row) == 1
    # Nor have the columns of A^T all together: the divisor is the least one for these rows.
    assert math.gcd(t.divisor, *t.at.ravel().tolist()) == 1
    whole = cook_toom(m, r, points, "matrix")
    assert math.gcd(whole.divisor, *whole.g.ravel().tolist()) == 1
    # Both scalings are the same products: what product j carries from tap k to output i, over the divisor.
    for j in range(t.n):
        carried = [np.outer(each.at[:, j].astype(object), each.g[j].astype(object)) for each in (t, whole)]
        assert (carried[0] * whole.divisor == carried[1] * t.divisor).all()


@given(st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_order_of_the_points_is_the_order_of_the_products(m, r, random):
    order = list(range(m + r - 2))
    random.shuffle(order)
    plain, shuffled = cook_toom(m, r), cook_toom(m, r, [POINTS[i] for i in order])
    order.append(m + r - 2)
    assert parts(shuffled)[2:] == [plain.bt[order].tolist(), plain.g[order].tolist(), plain.at[:, order].tolist(),
                                   plain.divisor]


# --- the proof ------------------------------------------------------------------------------------------------

@given(st.sampled_from(sorted(PRESETS)), st.sampled_from(["bt", "g", "at"]), st.data())
@example("F(2,3)", "bt", None)
def test_the_proof_refuses_any_set_with_one_entry_changed(name, matrix, data):
    t = PRESETS[name]
    fields = {"bt": t.bt.copy(), "g": t.g.copy(), "at": t.at.copy()}
    position, change = (0, 1) if data is None else (
        data.draw(st.integers(0, fields[matrix].size - 1)), data.draw(st.integers(-99, 99).filter(bool)))
    fields[matrix].flat[position] += change
    with pytest.raises(ValueError, match=re.escape(f"F({t.m}, {t.r}) must give [")) as error:
        Transforms(t.m, t.r, **fields, divisor=t.divisor)
    # It names a pair of unit inputs, and that pair shows the fault.
    i, j = (int(v) for v in re.search(r"unit inputs d_(\d+) and g_(\d+)", str(error.value)).groups())
    d, g = [int(k == i) for k in range(t.n)], [int(k == j) for k in range(t.r)]
    wrong = [[sum(int(c) * v for c, v in zip(row, values)) for row in fields[key]]
             for key, values in (("bt", d), ("g", g))]
    y = [sum(int(c) * a * b for c, a, b in zip(row, *wrong)) for row in fields["at"]]
    assert y != [t.divisor * value for value in correlation(d, g)]
    assert str(error.value).endswith(f"got {y}")


def test_the_proof_names_the_first_pair():
    t = PRESETS["F(2,3)"]
    with pytest.raises(ValueError, match=re.escape("F(2, 3) must give [4, 0] for unit inputs d_0 and g_0, "
                                                   "got [2, 0]")):
        Transforms(2, 3, t.bt, t.g, t.at, 4)


def test_the_proof_is_in_integers_beyond_int64():
    """Modulo 2^64 this set would compute 1·d·g."""
    with pytest.raises(ValueError, match=re.escape(f"must give [1] for unit inputs d_0 and g_0, got [{2**64 + 1}]")):
        Transforms(1, 1, [[274177]], [[67280421310721]], [[1]], 1)


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
    ("F(2,3)", "matrix"), ("F(4,3)", "matrix"), ("F(4,3) ncnn", [24, 24, 24, 24, 24, 6]), ("F(6,3)", "matrix")])
def test_presets_come_from_the_usual_points(name, scaling):
    preset = PRESETS[name]
    assert parts(cook_toom(preset.m, preset.r, scaling=scaling)) == parts(preset)


def test_the_matrix_scaling_is_that_of_equal_factors():
    assert parts(cook_toom(4, 3, scaling=[24] * 6)) == parts(cook_toom(4, 3, scaling="matrix"))
    assert parts(cook_toom(4, 3, scaling=np.array([4, 6, 6, 24, 24, 1]))) == parts(cook_toom(4, 3))


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


def test_the_later_ncnn_scaling_differs_in_the_last_product_alone():
    plain, later = PRESETS["F(4,3)"], PRESETS["F(4,3) ncnn"]
    assert plain.bt.tolist() == later.bt.tolist() and plain.divisor == later.divisor
    assert plain.g[:5].tolist() == later.g[:5].tolist() and plain.g[5].tolist() == [0, 0, 24]
    assert later.g[5].tolist() == [0, 0, 6]
    assert plain.at[:, :5].tolist() == later.at[:, :5].tolist()
    assert later.at[:, 5].tolist() == [0, 0, 0, 4] == [4 * v for v in plain.at[:, 5].tolist()]


@pytest.mark.parametrize("name, of_v, of_u", [
    ("F(2,3)", 4, 9), ("F(4,3)", 100, 576), ("F(4,3) ncnn", 100, 144)])
def test_worst_case_gains_in_two_dimensions_are_the_known_ones_and_attained(name, of_v, of_u):
    t = PRESETS[name]
    for matrix, gain in ((t.bt, of_v), (t.g, of_u)):
        sums = np.abs(matrix).sum(axis=1)
        assert sums.max()**2 == gain
        row = matrix[sums.argmax()]
        corner = np.sign(np.outer(row, row))
        assert (matrix @ corner @ matrix.T).max() == gain
        # No corner beats it in one dimension; the second one repeats the first.
        corners = np.array(list(itertools.product((-1, 1), repeat=matrix.shape[1])))
        assert np.abs(corners @ matrix.T).max()**2 == gain


def test_a_tile_is_a_preset_where_there_is_one():
    assert transforms_for((2, 3)) is transforms_for([2, 3]) is transforms_for("F(2,3)") is PRESETS["F(2,3)"]
    assert transforms_for("F(4,3) ncnn").g[5, 2] == 6
    assert parts(transforms_for((3, 3))) == parts(cook_toom(3, 3))
    mine = cook_toom(2, 3)
    assert transforms_for(mine) is mine


# --- bad input ------------------------------------------------------------------------------------------------

T = PRESETS["F(2,3)"]


@pytest.mark.parametrize("call, message", [
    (lambda: cook_toom(0, 3), "m must be an integer from 1 to 8, got 0"),
    (lambda: cook_toom(9, 3), "m must be an integer from 1 to 8, got 9"),
    (lambda: cook_toom(2, 8), "r must be an integer from 1 to 7, got 8"),
    (lambda: cook_toom(2.0, 3), "m must be an integer from 1 to 8, got 2.0"),
    (lambda: cook_toom(True, 3), "m must be an integer from 1 to 8, got True"),
    (lambda: cook_toom(2, 3, [0, 1, 1]), "points must be 3 distinct ones beside infinity, got 0, 1, 1"),
    (lambda: cook_toom(2, 3, [0, F(1, 2), F(2, 4)]),
     "points must be 3 distinct ones beside infinity, got 0, 1/2, 1/2"),
    (lambda: cook_toom(2, 3, [0, 1]), "points must be 3 distinct ones beside infinity, got 0, 1"),
    (lambda: cook_toom(2, 2, []), "points must be 2 distinct ones beside infinity, got none"),
    (lambda: cook_toom(2, 3, [0, 1, 0.5]), "points must be integers or Fractions, got [0, 1, 0.5]"),
    (lambda: cook_toom(2, 3, [0, 1, True]), "points must be integers or Fractions, got [0, 1, True]"),
    (lambda: cook_toom(2, 3, "012"), "points must be integers or Fractions, got '012'"),
    (lambda: cook_toom(1, 2, 7), "points must be integers or Fractions, got 7"),
    (lambda: cook_toom(2, 3, scaling="columns"), "scaling must be 'rows', 'matrix' or 4 factors, got 'columns'"),
    (lambda: cook_toom(2, 3, scaling=[2, 2, 2]), "scaling must be 4 integers >= 1, got [2, 2, 2]"),
    (lambda: cook_toom(2, 3, scaling=[2, 2, 2, 0]), "scaling must be 4 integers >= 1, got [2, 2, 2, 0]"),
    (lambda: cook_toom(2, 3, scaling=[2, 2, 2, 1.0]), "scaling must be 4 integers >= 1, got [2, 2, 2, 1.0]"),
    (lambda: cook_toom(2, 3, scaling=2), "scaling must be 4 integers >= 1, got 2"),
    (lambda: cook_toom(2, 3, scaling=[1, 2, 3, 1]), "scaling must make row 2 of G, 1/2, -1/2, 1/2, integers, got 3"),
    (lambda: cook_toom(2, 2, [10**10, 2 * 10**10]), f"F(2, 2) must have entries that int64 holds, got {2 * 10**20}"),
    (lambda: Transforms(2, 3, T.bt, T.g.T, T.at, 2), "g must be (4, 3) of int64 for F(2, 3), got (3, 4) of int64"),
    (lambda: Transforms(3, 3, T.bt, T.g, T.at, 2), "bt must be (5, 5) of int64 for F(3, 3), got (4, 4) of int64"),
    (lambda: Transforms(2, 3, T.bt, T.g / 2, T.at, 2), "g must hold integers of at most 64 bits, got dtype float64"),
    (lambda: Transforms(2, 3, T.bt, T.g, T.at.astype(np.uint64), 2),
     "at must be (2, 4) of int64 for F(2, 3), got (2, 4) of uint64"),
    *[(lambda m=m: Transforms(m, 3, T.bt, T.g, T.at, 2), f"m must be an integer from 1 to 8, got {m}")
      for m in (0, 9)],
    *[(lambda r=r: Transforms(2, r, T.bt, T.g, T.at, 2), f"r must be an integer from 1 to 7, got {r}")
      for r in (0, 8)],
    (lambda: cook_toom(2, 0), "r must be an integer from 1 to 7, got 0"),
    (lambda: Transforms(2, 3, T.bt, T.g, T.at, 0), "divisor must be an integer >= 1, got 0"),
    (lambda: Transforms(2, 3, T.bt, T.g, T.at, 2.0), "divisor must be an integer >= 1, got 2.0"),
    (lambda: transforms_for("F(3,3)"),
     "tile must be (m, r), Transforms or one of F(2,3), F(4,3), F(4,3) ncnn, F(6,3), got 'F(3,3)'"),
    (lambda: transforms_for(4),
     "tile must be (m, r), Transforms or one of F(2,3), F(4,3), F(4,3) ncnn, F(6,3), got 4"),
    (lambda: transforms_for((2, 3, 3)),
     "tile must be (m, r), Transforms or one of F(2,3), F(4,3), F(4,3) ncnn, F(6,3), got (2, 3, 3)"),
    (lambda: transforms_for((9, 3)), "tile's m must be an integer from 1 to 8, got 9"),
    (lambda: transforms_for((2, 0)), "tile's r must be an integer from 1 to 7, got 0"),
])
def test_bad_input_is_refused_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@given(st.integers(1, 8), st.integers(1, 7), st.data())
def test_a_point_given_twice_is_always_refused(m, r, data):
    count = m + r - 2
    assume(count >= 2)
    points = list(POINTS[:count])
    i, j = data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True))
    points[i] = points[j]
    with pytest.raises(ValueError, match="distinct"):
        cook_toom(m, r, points)
