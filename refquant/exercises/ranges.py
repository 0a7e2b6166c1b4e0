"""Exercises 10 to 18: ranges, channels, zero points, BatchNorm, requantization."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refquant.exercises.judging import Exercise, Property, equals, near
from refquant.integers.dialects import NAMED
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.rounding import round_fraction
from refquant.vectors.descriptions import answers, rows_of

_COUNTS = st.lists(st.integers(0, 20), min_size=1, max_size=6)
_SMALL = st.integers(-40, 40).map(lambda n: n / 8)
_POSITIVE = st.integers(1, 64).map(lambda n: n / 8)


def _distributions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    size = draw(st.integers(1, 5))
    p, q = (np.array(draw(st.lists(st.integers(least, 9), min_size=size, max_size=size))) + 0.0 for least in (0, 1))
    return p / p.sum() if p.sum() else np.eye(size)[0], q / q.sum()


_PAIRS = st.composite(_distributions)()


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist()) if a)


def _clipped_error(x: np.ndarray, T: float, bits: int) -> float:
    most = 2 ** (bits - 1) - 1
    S = most / T
    return float(np.mean((np.clip(np.rint(x * S), -most, most) / S - x) ** 2))


def _best(solution: Any, x: np.ndarray, thresholds: np.ndarray, bits: int) -> str | None:
    got = solution(x, thresholds, bits)
    errors = [_clipped_error(x, float(T), bits) for T in thresholds]
    best = float(thresholds[int(np.argmin(errors))])
    if got in thresholds and _clipped_error(x, float(got), bits) <= min(errors) + 1e-12:
        return None
    return (f"your function gave {got} for x = {x.tolist()}, thresholds {thresholds.tolist()}, {bits} bits; {best} "
            f"has the least error, {min(errors):.4g}")


@st.composite
def _searches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    x = np.array(draw(st.lists(_SMALL, min_size=2, max_size=8))) + 0.03
    return x, np.array([0.5, 1.0, 2.0, 4.0]), draw(st.integers(2, 4))


def _channel_scales(w: np.ndarray, bits: int) -> np.ndarray:
    reach = np.abs(w).max(axis=1)
    return np.where(reach > 0, (2 ** (bits - 1) - 1) / np.where(reach > 0, reach, 1), 1.0)


@st.composite
def _weights(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    w = np.array(draw(st.lists(st.lists(_SMALL, min_size=columns, max_size=columns), min_size=rows, max_size=rows)))
    return w, draw(st.integers(2, 8))


@st.composite
def _products(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    size = draw(st.integers(1, 6))
    q, w = (np.array(draw(st.lists(st.integers(-9, 9), min_size=size, max_size=size))) for _ in range(2))
    return q, w, draw(st.integers(-9, 9))


@st.composite
def _norms(draw: st.DrawFn) -> tuple[float, float, float, float, float, float]:
    return (draw(_SMALL), draw(_SMALL), draw(_POSITIVE), draw(_SMALL), draw(_SMALL),
            draw(st.integers(1, 8).map(lambda n: float(n * n) / 4)))


def _folded(w: float, bias: float, gamma: float, beta: float, mean: float, variance: float) -> tuple[float, float]:
    gain = gamma / math.sqrt(variance)
    return w * gain, (bias - mean) * gain + beta


def _split(M: float) -> tuple[int, int]:
    multiplier = Multiplier.from_real(M)
    return int(multiplier.m), int(multiplier.shift)


_REALS = st.floats(2.0**-20, 2.0**10) | st.integers(-20, 9).map(lambda k: 2.0**k) | st.sampled_from(
    [1 - 2.0**-33, 0.5 - 2.0**-40, 1 - 2.0**-31, 0.5 + 2.0**-32, 0.5 + 3 * 2.0**-32])


def _applied(x: int, m: int, shift: int) -> int:
    return round_fraction(Fraction(x * m, 2 ** (31 - shift)), "half_up")


def _below_a_tie(half: int) -> tuple[int, int, int]:
    """x, m and shift 0 with x·m = 2^30 - 1 modulo 2^31."""
    m = 2 * half + 1
    return (2**30 - 1) * pow(m, -1, 2**31) % 2**31, m, 0


_SUMS = st.tuples(st.integers(-5000, 5000), st.sampled_from((2**30, 3 * 2**29, 1717986919, 2**31 - 1)),
                  st.integers(-12, 3))


def _named(solution: Any, name: str) -> str | None:
    dialect = NAMED[name]

    def device(x: Any, m: Any, shift: Any, zero_point: Any) -> Any:
        rows = rows_of(*(np.atleast_1d(v) for v in np.broadcast_arrays(x, m, shift, zero_point)))
        codes = answers(dialect, rows, IntFormat(8))
        return codes if np.ndim(x) else int(codes[0])

    got = solution(device)
    return None if got == name else f"your function said {got!r} of a device that is {name}"


_BOXES = ("gemmlowp_double", "neon_double", "single_round", "shift_floor", "exact_half_even")

EXERCISES = (
    Exercise("10", "merge", (
        Property("the least, the greatest and the number of both parts", st.tuples(_COUNTS, _COUNTS).map(
            lambda a: tuple((min(part), max(part), len(part)) for part in a)), equals(
            lambda a, b: (min(a[0], b[0]), max(a[1], b[1]), a[2] + b[2]))),)),
    Exercise("11", "kl_divergence", (
        Property("Σ p·log(p/q), where 0·log 0 is 0", _PAIRS, near(_kl, "terms with p = 0 count nothing")),
        Property("a distribution from itself is 0", _PAIRS.map(lambda a: (a[1], a[1])), near(lambda p, q: 0.0)),
    )),
    Exercise("12", "best_threshold", (
        Property("no candidate has a smaller squared error", _searches(), _best),)),
    Exercise("13", "channel_scales", (
        Property("one scale for each row, 1 for a row of zeros", _weights(), near(
            _channel_scales, "(2^(b-1) - 1) / max|w| of the row; a row of zeros gets 1")),)),
    Exercise("14", "sum_with_zero_point", (
        Property("Σ (q - z)·w", _products(), equals(
            lambda q, w, z: int(((q - z) * w).sum()), "Σ q·w - z·Σ w")),)),
    Exercise("15", "fold_batchnorm", (
        Property("the same function of x", _norms(), near(
            _folded, "gamma·((w·x + b) - mean)/√variance + beta is one w and one b")),)),
    Exercise("16", "split_multiplier", (
        Property("m has 31 bits and M = m·2^(shift-31)", st.tuples(_REALS), equals(
            _split, "M = f·2^shift with 1/2 <= f < 1; m = round(f·2^31), and 2^31 becomes 2^30 with shift + 1")),)),
    Exercise("17", "apply_multiplier", (
        Property("no tie: to the nearest", _SUMS.filter(
            lambda a: (2 * a[0] * a[1]) % 2 ** (31 - a[2]) != 0), equals(_applied)),
        Property("ties go up", st.tuples(st.integers(-300, 300), st.just(2**30), st.integers(-6, 0)), equals(
            _applied, "(x·m + 2^(30-shift)) >> (31-shift)")),
        Property("just below a tie", st.integers(2**29, 2**30 - 1).map(_below_a_tie), equals(
            _applied, "a product of 62 bits does not fit a float's 53")),
    )),
    Exercise("18", "name_the_device", (
        Property("each of five devices is named", st.tuples(st.sampled_from(_BOXES)), _named),)),
)
