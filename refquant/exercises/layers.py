"""Exercises 19 to 26: additions, pools, padding, debugging, EasyQuant, shift scalers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refquant.convolution.direct import convolve_exact
from refquant.exercises.judging import Exercise, Property, equals, near
from refquant.integers.rounding import round_fraction

_CODES = st.integers(-128, 127)
_FACTORS = st.integers(1, 24).map(lambda n: n / 16)
_VECTORS = st.lists(st.integers(-9, 9), min_size=1, max_size=5).map(lambda v: np.array(v, float))


def _added(a: int, b: int, M_a: float, M_b: float) -> int:
    return round_fraction(a * Fraction(M_a) + b * Fraction(M_b), "half_up")


def _averaged(codes: np.ndarray, zero_point: int) -> int:
    total = sum(int(code) - zero_point for code in codes)
    return zero_point + round_fraction(Fraction(total, len(codes)), "half_up")


def _convolved(x: np.ndarray, w: np.ndarray, zero_point: int) -> np.ndarray:
    return convolve_exact(x[None, None], w[None, None], zero_point=zero_point, padding=1)[0, 0]


@st.composite
def _planes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    size = draw(st.integers(1, 3))
    rows = st.lists(st.lists(st.integers(-5, 5), min_size=size, max_size=size), min_size=size, max_size=size)
    kernel = st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=3, max_size=3)
    return np.array(draw(rows)), np.array(draw(kernel)), draw(st.integers(-5, 5))


def _worst(solution: Any, exact: list[np.ndarray], damaged: list[np.ndarray]) -> str | None:
    ratio = [float(np.sum(a**2) / np.sum((a - b) ** 2)) if np.any(a != b) else math.inf
             for a, b in zip(exact, damaged)]
    got = solution(exact, damaged)
    if isinstance(got, (int, np.integer)) and 0 <= got < len(exact) and ratio[got] <= min(ratio) * (1 + 1e-9):
        return None
    return (f"your function named layer {got} for outputs {[a.tolist() for a in exact]} that became "
            f"{[b.tolist() for b in damaged]}; layer {int(np.argmin(ratio))} has the least SQNR, the power of the "
            "signal over that of its error")


@st.composite
def _outputs(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray]]:
    exact = [draw(_VECTORS) + 0.5 for _ in range(draw(st.integers(2, 3)))]
    return exact, [a + draw(st.integers(0, 4)) / 4 for a in exact]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / norms if norms else (1.0 if not a.any() and not b.any() else 0.0)


_PAIRS = st.integers(1, 5).flatmap(lambda n: st.tuples(*[st.lists(st.integers(-9, 9), min_size=n, max_size=n).map(
    lambda v: np.array(v, float))] * 2))


def _likeness(x: np.ndarray, S: float, bits: int) -> float:
    most = 2 ** (bits - 1) - 1
    return _cosine(x, np.clip(np.trunc(x * S + np.copysign(0.5, x)), -most, most) / S)


def _best_scale(solution: Any, x: np.ndarray, candidates: np.ndarray, bits: int) -> str | None:
    found = [_likeness(x, float(S), bits) for S in candidates]
    got = solution(x, candidates, bits)
    if got in candidates and _likeness(x, float(got), bits) >= max(found) - 1e-12:
        return None
    return (f"your function gave {got} for x = {x.tolist()}, candidates {candidates.tolist()} and {bits} bits; "
            f"{candidates[int(np.argmax(found))]} has the greatest cosine, {max(found):.4g}")


def _shift(reach: float, largest: float, limit: int) -> int:
    if reach == 0:
        return 0
    k = 0
    while k < limit and Fraction(reach) * 2 ** (k + 1) <= Fraction(largest):
        k += 1
    return k


_REACHES = st.tuples(st.integers(0, 64).map(lambda n: n / 64), st.integers(64, 1024).map(lambda n: n / 64),
                     st.integers(0, 15))


def _undone(acc: int, m: int, shift: int, k: int) -> int:
    return round_fraction(Fraction(acc * m, 2 ** (31 - shift + k)), "half_up")


EXERCISES = (
    Exercise("19", "add", (
        Property("rounded once, ties up", st.tuples(_CODES, _CODES, _FACTORS, _FACTORS), equals(
            _added, lambda a, b, M_a, M_b: f"{a}·{M_a} + {b}·{M_b} is {a * M_a + b * M_b}, rounded once")),)),
    Exercise("20", "average_pool", (
        Property("the mean of what the codes stand for", st.tuples(
            st.lists(_CODES, min_size=1, max_size=6).map(np.array), st.integers(-9, 9)), equals(
            _averaged, "zero_point + round(Σ (q - zero_point) / n), ties up")),)),
    Exercise("21", "convolve_padded", (
        Property("without zero point", _planes().map(lambda a: (a[0], a[1], 0)), equals(_convolved)),
        Property("padding stands for real 0", _planes(), equals(
            _convolved, "outside the plane the code is the zero point, whose product is 0")),
    )),
    Exercise("22", "worst_layer", (
        Property("the layer of the least SQNR", _outputs(), _worst),)),
    Exercise("23", "cosine", (
        Property("a·b / (|a|·|b|)", _PAIRS.filter(lambda p: p[0].any() and p[1].any()), near(_cosine)),
        Property("two zero vectors are alike, one is not", _PAIRS.filter(lambda p: not (p[0].any() and p[1].any())),
                 near(_cosine, "1 where both are zero, 0 where one is")),
        Property("it does not see the length", st.tuples(_VECTORS.filter(lambda v: v.any())).map(
            lambda a: (a[0], 2 * a[0])), near(lambda a, b: 1.0, "cos(a, 2a) = 1")),
    )),
    Exercise("24", "best_scale", (
        Property("no candidate has a greater cosine", st.tuples(
            _VECTORS.filter(lambda v: v.any()), st.just(np.array([0.25, 0.5, 0.75, 1.0, 1.5])), st.integers(2, 4)),
            _best_scale),)),
    Exercise("25", "channel_shift", (
        Property("the largest k that does not clip", _REACHES, equals(
            _shift, lambda reach, largest, limit: f"2^k·{reach} must not exceed {largest}, and k not {limit}")),)),
    Exercise("26", "undo_shift", (
        Property("one shift, rounded once", st.tuples(st.integers(-4000, 4000), st.sampled_from(
            (2**30, 3 * 2**29, 1717986919)), st.integers(-3, 0), st.integers(0, 15) | st.integers(1, 5)), equals(
            _undone, "(acc·m + 2^(30-shift+k)) >> (31-shift+k)")),)),
)
