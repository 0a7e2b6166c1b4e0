"""Exercises 27 to 39: piecewise codes, lanes, Winograd, training, golden vectors."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refquant.exercises.judging import Exercise, Property, equals, near, shown_value
from refquant.integers.rounding import round_fraction

_X = st.integers(-80, 80).map(lambda n: n / 16)


def _piecewise(r: float, p: float, m: float, bits: int) -> float:
    K, size = 2 ** (bits - 1) - 1, min(abs(Fraction(r)), Fraction(m))
    begin, end = (Fraction(0), Fraction(p)) if size <= Fraction(p) else (Fraction(p), Fraction(m))
    step = (end - begin) / K
    value = float(begin + step * round_fraction((size - begin) / step, "half_away"))
    return -value if r < 0 else value


_GRIDS = st.tuples(_X, st.sampled_from((0.5, 1.0, 1.5)), st.sampled_from((2.0, 4.0, 5.0)), st.integers(2, 5))


def _mse(x: np.ndarray, p: float, m: float, bits: int) -> float:
    return float(np.mean([(_piecewise(v, p, m, bits) - v) ** 2 for v in x.tolist()]))


def _best_breakpoint(solution: Any, x: np.ndarray, candidates: np.ndarray, bits: int) -> str | None:
    m = float(np.abs(x).max())
    errors = [_mse(x, float(p), m, bits) for p in candidates]
    got = solution(x, candidates, bits)
    if got in candidates and _mse(x, float(got), m, bits) <= min(errors) + 1e-12:
        return None
    return (f"your function gave {got} for x = {x.tolist()}, candidates {candidates.tolist()} and {bits} bits; "
            f"{candidates[int(np.argmin(errors))]} has the least squared error, {min(errors):.4g}")


@st.composite
def _weights(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    x = np.array([*draw(st.lists(_X, min_size=2, max_size=7)), 4.5])
    return x, np.array([0.5, 1.0, 2.0, 3.0]), draw(st.integers(2, 4))


@st.composite
def _piecewise_rows(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    n = draw(st.integers(1, 5))

    def row(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))

    return row(-9, 9), row(0, 1), 1 - 2 * row(0, 1), row(0, 7)


def _three_sums(x: np.ndarray, region: np.ndarray, sign: np.ndarray, magnitude: np.ndarray) -> list[int]:
    return [int((x * sign * magnitude * (1 - region)).sum()), int((x * sign * magnitude * region).sum()),
            int((x * sign * region).sum())]


def _corners(x: tuple[int, int], w: tuple[int, int]) -> list[int]:
    return [a * b for a in x for b in w]


def _safe(x: tuple[int, int], w: tuple[int, int], low: int, high: int) -> int:
    k = 0
    while low <= (k + 1) * min(_corners(x, w)) and (k + 1) * max(_corners(x, w)) <= high:
        k += 1
    return k


_RANGES = st.sampled_from([(-63, 63), (-64, 63), (-127, 127), (-128, 127), (0, 255), (0, 64), (-64, 0), (-7, 7)])
_SCHEDULES = st.tuples(_RANGES, _RANGES, st.just(-(2**15)), st.just(2**15 - 1))


def _overflows(solution: Any, x: tuple[int, int], w: tuple[int, int], low: int, high: int) -> str | None:
    a, b = solution(x, w, low, high)
    k = _safe(x, w, low, high)
    if not (x[0] <= a <= x[1] and w[0] <= b <= w[1]):
        return f"your function gave ({a}, {b}), outside {x} and {w}"
    total = (k + 1) * a * b
    return None if not low <= total <= high else (
        f"your function gave ({a}, {b}) for {x} and {w}: {k + 1}·{a}·{b} = {total} still fits {low}..{high}")


def _saturated(products: np.ndarray, bits: int) -> int:
    low, high, acc = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0
    for product in products.tolist():
        acc = min(max(acc + product, low), high)
    return acc


_FOUR, _THREE = (st.lists(st.integers(-9, 9), min_size=n, max_size=n).map(np.array) for n in (4, 3))


def _straight(dy: np.ndarray, x: np.ndarray, S: float, bits: int) -> np.ndarray:
    return np.asarray(np.where(np.abs(x * S) <= 2 ** (bits - 1) - 1, dy, 0.0))


@st.composite
def _gradients(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float, int]:
    n = draw(st.integers(1, 4))
    dy, x = (np.array(draw(st.lists(_X, min_size=n, max_size=n))) for _ in range(2))
    return dy, x, draw(st.sampled_from((0.5, 1.0, 2.0, 4.0))), draw(st.integers(2, 5))


# Eight requantizers with a bug; the right one rounds (x·m)·2^(shift-31) half up and clamps to int8.
def _requantized(x: int, m: int, shift: int) -> int:
    return min(max(round_fraction(Fraction(x * m, 2 ** (31 - shift)), "half_up"), -128), 127)


def _wrapped(value: int) -> int:
    return (value + 128) % 256 - 128


def _rounded(x: int, m: int, shift: int, rule: str) -> int:
    return min(max(round_fraction(Fraction(x * m, 2 ** (31 - shift)), rule), -128), 127)


MUTANTS = {
    "never rounds": lambda x, m, s: min(max((x * m) >> (31 - s), -128), 127),
    "ties away from zero": lambda x, m, s: _rounded(x, m, s, "half_away"),
    "ties to even": lambda x, m, s: _rounded(x, m, s, "half_even"),
    "wraps": lambda x, m, s: _wrapped(round_fraction(Fraction(x * m, 2 ** (31 - s)), "half_up")),
    "clamps to -127": lambda x, m, s: max(_requantized(x, m, s), -127),
    "shift off by one": lambda x, m, s: _requantized(x, m, s - 1),
    "m cut to 16 bits": lambda x, m, s: _requantized(x, m >> 15 << 15, s),
    "x kept in 16 bits": lambda x, m, s: _requantized((x + 2**15) % 2**16 - 2**15, m, s),
}


def alive(vectors: list[tuple[int, int, int]]) -> list[str]:
    """The mutants that no vector kills."""
    return [name for name, mutant in MUTANTS.items() if all(mutant(*v) == _requantized(*v) for v in vectors)]


def _kills(solution: Any) -> str | None:
    vectors = [(int(x), int(m), int(shift)) for x, m, shift in solution()]
    if not 1 <= len(vectors) <= 10:
        return f"your function gave {len(vectors)} vectors, where 1 to 10 are asked for"
    bad = [v for v in vectors if not (-(2**31) <= v[0] < 2**31 and 2**30 <= v[1] < 2**31 and -31 <= v[2] <= 30)]
    if bad:
        return f"{bad[0]} is no (x, m, shift) with int32 x, 2^30 <= m < 2^31, -31 <= shift <= 30"
    left = alive(vectors)
    return f"{8 - len(left)} of 8 mutants are killed; alive: {', '.join(left)}" if left else None


def _twin(solution: Any, product: int, bits: int) -> str | None:
    got = solution(product, bits)
    most = (2 ** (bits - 1) - 1) // product if product > 0 else 2 ** (bits - 1) // -product
    return None if tuple(got) == (most, most + 1) else (
        f"your function gave {shown_value(got)} for {product} in {bits} bits: {most} fit, {most + 1} do not")


EXERCISES = (
    Exercise("27", "piecewise", (
        Property("the centre has K steps", _GRIDS.filter(lambda a: abs(a[0]) <= a[1]), near(_piecewise)),
        Property("the tails have K steps from p to m", _GRIDS.filter(lambda a: abs(a[0]) > a[1]), near(
            _piecewise, "sign·(p + (m - p)/K·round((|r| - p)·K/(m - p))), and beyond m it is m")),
    )),
    Exercise("28", "best_breakpoint", (
        Property("no candidate has a smaller squared error", _weights(), _best_breakpoint),)),
    Exercise("29", "three_sums", (
        Property("P1, P2 and P3", _piecewise_rows(), equals(
            _three_sums, "P3 = Σ sign·x over the tails: the paper's formula forgets the sign")),)),
    Exercise("30", "safe_products", (
        Property("the most that always fit", _SCHEDULES.filter(lambda a: _safe(*a) > 0), equals(
            _safe, "two's complement is not symmetric: look at the least and at the greatest product")),)),
    Exercise("31", "overflow_witness", (
        Property("one product more overflows", _SCHEDULES.filter(lambda a: 0 < _safe(*a) < 10**4), _overflows),)),
    Exercise("32", "saturating_sum", (
        Property("product after product", st.tuples(
            st.lists(st.integers(-100, 100), min_size=1, max_size=6).map(np.array), st.integers(6, 9)), equals(
            _saturated, "the register saturates after every product, not at the end")),)),
    Exercise("33", "transform_input", (
        Property("B^T·d of F(2,3)", st.tuples(_FOUR), equals(
            lambda d: [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]])),)),
    Exercise("34", "transform_kernel", (
        Property("2·G·g of F(2,3)", st.tuples(_THREE), equals(
            lambda g: [2 * g[0], g[0] + g[1] + g[2], g[0] - g[1] + g[2], 2 * g[2]])),)),
    Exercise("35", "winograd", (
        Property("two outputs, as the direct sums", st.tuples(_FOUR, _THREE), equals(
            lambda d, g: [int(d[0:3] @ g), int(d[1:4] @ g)], "A^T·(U·V), divided by 2, exactly")),)),
    Exercise("36", "largest_V", (
        Property("|B^T d B| of F(2,3) for codes up to a", st.tuples(st.integers(1, 127)), equals(
            lambda a: 4 * a, "each row of B^T has two entries ±1, and both sides of d are transformed")),)),
    Exercise("37", "straight_through", (
        Property("the gradient passes where nothing is clipped", _gradients(), near(
            _straight, "dy where |x·S| <= 2^(b-1) - 1, else 0")),)),
    Exercise("38", "vectors", (
        Property("ten vectors kill eight mutants", st.just(()), _kills),)),
    Exercise("39", "boundary_twin", (
        Property("the most that fit, and one more", st.tuples(
            st.sampled_from((3969, 16129, -16256, 1, -1, -4032)), st.sampled_from((16, 20, 24, 32))), _twin),)),
)
