"""The suites of golden cases: what each is for, and the cases of requantization and of dot products.

Every case is built from structured corners, from operands that attain proven bounds, from ties and limits, or from
``streams``; its expected outputs come from ``operations``. Layers have their cases in ``layer_suites``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from refquant.integers.accumulation import overflow_witness, safe_products_per_lane
from refquant.integers.dialects import Dialect, legal_shifts
from refquant.integers.formats import IntFormat
from refquant.integers.simd import INT8, INT16, INT32
from refquant.vectors.cases import Case, Tensor, described, format_of
from refquant.vectors.descriptions import NO_ANSWER, Rows, answers, classes, rows_of
from refquant.vectors.operations import OPERATIONS, Parameters
from refquant.vectors.probes import near_ties, next_probes
from refquant.vectors.streams import Stream

INT64 = IntFormat(64)
UINT8, SEVEN, FLAG = IntFormat(8, False), IntFormat(7, narrow=True), IntFormat(1, False)
M_FORMAT = IntFormat(31, False)

# By input name: role and layout. Stages: by name their format.
_ROLES = {"w": "weight", "bias": "bias", "m": "multiplier", "shift": "shift", "k": "shift",
          "zero_point": "zero_point", "region": "weight", "sign": "weight", "magnitude": "weight"}
_LAYOUTS = {4: "NCHW", 2: "NF", 1: "N", 0: "", 3: "NKL", 6: "NCTUVW", 7: "CNOTUVW", 5: "CNTUV"}


def make(id: str, operation: str, p: Parameters, inputs: Mapping[str, tuple[np.ndarray, IntFormat | None]], why: str,
         kind: str, flags: tuple[str, ...] = (), small: bool = False,
         stages: dict[str, IntFormat] | None = None, layouts: dict[str, str] | None = None) -> Case:
    """A case whose outputs the operation computes. stages: formats of the outputs that are not in ``y_format``."""
    arrays = {name: np.asarray(values) if fmt is None else np.asarray(values, np.int64)
              for name, (values, fmt) in inputs.items()}
    found = OPERATIONS[operation].run(arrays, p)
    layouts, tensors = layouts or {}, {}
    for name, (_, fmt) in inputs.items():
        role = _ROLES.get(name, "input")
        layout = layouts.get(name, "OIRS" if name == "w" and arrays[name].ndim == 4 else _LAYOUTS[arrays[name].ndim])
        tensors[name] = Tensor(arrays[name], fmt, role, layout)
    for name, values in found.items():
        fmt = (stages or {}).get(name) or format_of(p["y_format"])
        role = "expected" if name == "expected" else "stage"
        tensors[name] = Tensor(values, fmt, role, layouts.get(name, _LAYOUTS[values.ndim]))
    return Case(id, operation, p, tensors, why, flags, kind, small=small)


# --- quantize ----------------------------------------------------------------------------------------------------

def quantize_suite(dialect: Dialect) -> Iterator[Case]:
    """Q(X, S): reals to codes, exact and as float32 hardware does it."""
    def case(id: str, x: Any, scale: Any, fmt: IntFormat, why: str, kind: str, flags: tuple[str, ...] = (),
             small: bool = False, **others: Any) -> Case:
        p = {"scale": scale, "axis": None, "y_zero_point": 0, "rounding": "half_away", "arithmetic": "exact",
             "zero": "after", **others, "y_format": described(fmt)}
        return make(id, "quantize", p, {"x": (np.asarray(x, np.float32), None)}, why, kind, flags, small)

    for fmt, zero_point in ((INT8, 0), (SEVEN, 0), (UINT8, 3), (IntFormat(4, narrow=True), 0), (INT16, -7)):
        halves = np.arange(2 * max(fmt.min, -600) - 7, 2 * min(fmt.max, 600) + 8, 2) / 2 - zero_point
        name = str(fmt).replace(" ", "-")
        yield case(f"ties-{name}", halves / 16, 16.0, fmt,
                   f"x·16 is a tie k + 1/2 for every k from {halves[0] - .5:.0f} to {halves[-1] - .5:.0f}.", "tie",
                   ("rounding", "saturation"), fmt in (INT8, SEVEN), y_zero_point=zero_point)
        ends = np.array([fmt.min - 0.5, fmt.min + 0.5, fmt.max - 0.5, fmt.max + 0.5], np.float32) - zero_point
        ends = ends / np.float32(4)
        beside = [np.nextafter(ends, np.float32(side)) for side in (-np.inf, np.inf)]
        yield case(f"edges-{name}", np.concatenate([ends, *beside]), 4.0, fmt,
                   "x·4 lies half a code inside and outside both ends of the format, and one float32 beside each.",
                   "edge", ("saturation",), y_zero_point=zero_point)
    stream = Stream("quantize")
    x = stream.integers(-(2**20), 2**20, (400,)) / 2.0**17
    yield case("random-int8", x, 42.3321, INT8, "Reals from -8 to 8 in steps of 2^-17, of which 8·42 leave int8.",
               "random", small=True)
    huge = np.array([0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, 3.4028235e38, -3.4028235e38, 1, -1], np.float32)
    yield case("corners-int8", huge, 2.0**20, INT8, "Both zeros, the least and the greatest float32 of both signs: "
               "0 or the ends of the format.", "corner", ("saturation",))
    rows = np.tile(np.arange(-9, 10) / 4, (3, 1))
    yield case("channels", rows, [2.0, 7.3, 0.01], INT8, "The same reals under three scales, one for each row.",
               "shape", ("axis",), axis=0)
    near = ((np.arange(-200, 200) + 0.5) / 42.3321).astype(np.float32)
    for arithmetic, rounding in (("exact", "half_away"), ("float32_divide", "half_even"),
                                 ("float32_multiply", "half_even")):
        yield case(f"near-ties-{arithmetic.replace('_', '-')}", near, 42.3321, INT8,
                   "x is the float32 nearest to (k + 1/2)/42.3321: exact arithmetic sees on which side of the tie it "
                   "lies, float32 arithmetic may round onto the tie.", "tie", ("arithmetic", "rounding"),
                   arithmetic == "exact", arithmetic=arithmetic, rounding=rounding)
    odd = np.arange(-40, 41) / 32
    for zero in ("after", "before"):
        yield case(f"odd-zero-point-{zero}", odd, 16.0, INT8, "Ties with the zero point 3: ties to even depend on "
                   "whether it is added before or after rounding.", "tie", ("zero point",), y_zero_point=3,
                   rounding="half_even", zero=zero)


# --- requantize --------------------------------------------------------------------------------------------------

def legal(rows: Rows, dialect: Dialect, fmt: IntFormat) -> Rows:
    """The rows whose shift the dialect takes."""
    return rows.at(np.flatnonzero(answers(dialect, rows, fmt) != NO_ANSWER))


@lru_cache
def separating(fmt: IntFormat) -> Rows:
    """60 rows: those that tell apart all classes that a right shift can tell apart, then rows near ties."""
    return next_probes(list(range(len(classes(fmt)))), 60, fmt)


def requantize_suite(dialect: Dialect) -> Iterator[Case]:
    """Sums to codes, with probes that separate the descriptions of ``identify`` as far as right shifts can."""
    def case(id: str, rows: Rows, fmt: IntFormat, why: str, kind: str, flags: tuple[str, ...], small: bool = False
             ) -> Case:
        rows = legal(rows, dialect, fmt)
        inputs = {"x": (rows.x, INT32), "m": (rows.m, M_FORMAT), "shift": (rows.shift, INT8),
                  "zero_point": (rows.zero_point, fmt)}
        return make(id, "requantize", {"dialect": dialect.words, "y_format": described(fmt), "y_zero_point": 0},
                    inputs, why, kind, flags, small)

    low, high = legal_shifts(dialect) or (-31, 30)
    for fmt in (INT8, UINT8, IntFormat(4), IntFormat(8, narrow=True), INT16):
        if fmt.narrow and dialect.end == "wrap":  # which no register does to a narrow range
            continue
        name, wide = str(fmt).replace(" ", "-"), IntFormat(fmt.bits, fmt.signed)
        if fmt in (INT8, UINT8):
            yield case(f"probes-{name}", separating(wide), fmt, "Rows that tell apart all classes that a right "
                       "shift can tell apart, then rows near ties.", "probe", ("dialect",), fmt == INT8)
        yield case(f"near-ties-{name}", near_ties(fmt, 500, (low, high)), fmt, "Sums that lie as near to a tie, or "
                   "to an integer, as the multiplier allows.", "tie", ("dialect", "rounding"), fmt == INT8)
        x, z = np.arange(-40, 41), np.array([fmt.min, fmt.max, min(max(3, fmt.min), fmt.max)])
        x, z = (v.ravel() for v in np.meshgrid(x, z))
        yield case(f"halves-{name}", rows_of(x, 0 * x + 2**30, 0 * x, z), fmt, "M is 1/2: every odd sum is a tie; "
                   "zero points at both ends and 3.", "tie", ("rounding", "zero point", "saturation"), fmt == INT8)
    corners = np.array([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1, 2**30, -(2**30)])
    shifts = np.arange(low, high + 1)
    x, s = (v.ravel() for v in np.meshgrid(corners, shifts))
    yield case("shift-limits", rows_of(x, np.where(s % 2, 2**31 - 1, 2**30), s, 0 * x), INT8,
               f"Every shift from {low} to {high} on the ends of int32, 0 and ±1.", "edge", ("shift", "saturation"))
    stream = Stream("requantize")
    x = stream.integers(-(2**31), 2**31 - 1, (300,)) >> stream.integers(0, 24, (300,))
    sizes = np.array([int(abs(v)).bit_length() for v in x.tolist()])
    yield case("random-int8", rows_of(x, stream.integers(2**30, 2**31 - 1, (300,)), np.clip(8 - sizes, low, high),
                                      stream.codes(INT8, (300,))), INT8,
               "Sums of 7 to 31 bits brought to about 8.", "random", ())


# --- dot products ------------------------------------------------------------------------------------------------

def dot_int16_suite(dialect: Dialect) -> Iterator[Case]:
    """Eight int16 lanes, emptied into int32 before they can overflow, and one step too late."""
    def case(id: str, x: np.ndarray, w: np.ndarray, formats: tuple[IntFormat, IntFormat], per_lane: int, policy: str,
             why: str, kind: str, flags: tuple[str, ...] = (), small: bool = False) -> Case:
        trap = policy == "trap"
        p = {"x_format": described(formats[0]), "w_format": described(formats[1]), "products_per_lane": per_lane,
             "policy": policy, "y_format": described(FLAG if trap else INT32)}
        return make(id, "dot_int16", p, {"x": (x, formats[0]), "w": (w, formats[1])}, why, kind, flags, small,
                    {"expected_lanes": INT16}, {"x": "NK", "w": "NK", "expected_lanes": "NKL"})

    stream = Stream("dot-int16")
    for x_format, w_format in ((SEVEN, SEVEN), (IntFormat(7), IntFormat(7)), (INT8, SEVEN), (UINT8, SEVEN)):
        formats, k = (x_format, w_format), safe_products_per_lane(x_format, w_format)
        name = f"{x_format}-{w_format}".replace(" ", "-")
        for length in sorted({1, 7, 8, 9, 8 * k, 8 * k + 1, 8 * k + 8, 72, 100}):
            x, w = stream.codes(x_format, (5, length)), stream.codes(w_format, (5, length))
            yield case(f"length-{name}-{length}", x, w, formats, k, "wrap",
                       f"{length} random products, {length % 8} beyond whole vectors of 8 lanes.",
                       "shape" if length < 72 else "random", ("tail",), length in (9, 72))
        signs = np.array([(a, b) for a in (x_format.min, x_format.max) for b in (w_format.min, w_format.max)])
        x, w = (np.repeat(column[:, None], 8 * k + 8, axis=1) for column in signs.T)
        yield case(f"witness-{name}", x, w, formats, k, "wrap",
                   f"All products at one corner of the formats: {k} in each lane, the most that always fits, and "
                   "after the lanes are emptied one more.",
                   "witness", ("lane",), True)
        a, b = overflow_witness(x_format, w_format)
        largest = np.full((2, 8 * (k + 1)), 0)
        largest[0, :8 * k], largest[1, :] = a, a
        weight = np.where(largest == 0, 0, b)
        for policy in ("wrap", "saturate", "trap"):
            yield case(f"twin-{name}-{policy}", largest, weight, formats, k + 1, policy,
                       f"{k} products of {a}·{b} = {a * b} fit a lane, {k + 1} do not: {(k + 1) * a * b}.", "twin",
                       ("lane", "overflow"), policy == "wrap")


def dot_sequential_suite(dialect: Dialect) -> Iterator[Case]:
    """One register: what it keeps when the next product does not fit, and the order in which it adds."""
    def case(id: str, x: Any, w: Any, bits: int, policy: str, order: str, why: str, kind: str,
             flags: tuple[str, ...] = (), small: bool = False) -> Case:
        acc, trap = IntFormat(bits), policy == "trap"
        p = {"x_format": described(INT8), "w_format": described(INT8), "acc_format": described(acc), "policy": policy,
             "order": order, "y_format": described(FLAG if trap else acc)}
        return make(id, "dot_sequential", p, {"x": (np.asarray(x), INT8), "w": (np.asarray(w), INT8)}, why, kind,
                    flags, small, {"expected_sums": acc}, {"x": "NK", "w": "NK", "expected_sums": "NK"})

    # Sums of exactly 2^15 - 1 and -2^15, and one beyond each.
    x: Any = [[127, 127, 127, 1, 0], [127, 127, 127, 1, 1], [-128, -128, -128, 0, 0], [-128, -128, -128, 0, -1]]
    w: Any = [[127, 127, 4, 1, 0], [127, 127, 4, 1, 1], [127, 127, 2, 0, 0], [127, 127, 2, 0, 1]]
    for policy in ("wrap", "saturate", "trap"):
        yield case(f"twin-16-{policy}", x, w, 16, policy, "ascending",
                   "127·127·2 + 127·4 + 1 = 32767 and -128·(127·2 + 2) = -32768 fit 16 bits, one more of either sign "
                   "does not.", "twin", ("overflow",), True)
    there_and_back = [[127] * 4 + [-128] * 4, [-128] * 4 + [127] * 4, [127, -128] * 4]
    for policy in ("wrap", "saturate", "trap"):
        for order in ("ascending", "descending"):
            yield case(f"there-and-back-{policy}-{order}", there_and_back, [[127] * 8] * 3, 16, policy, order,
                       "Four products of 16129 and four of -16256: the whole sum is -508, the way to it leaves 16 "
                       "bits in either order but where they alternate.", "edge", ("order", "overflow"))
    stream = Stream("dot-sequential")
    for bits, length in ((16, 1), (16, 9), (20, 65), (24, 500), (32, 64)):
        x, w = stream.codes(INT8, (6, length)), stream.codes(INT8, (6, length))
        for policy in ("wrap", "saturate"):
            yield case(f"random-{bits}-{length}-{policy}", x, w, bits, policy, "ascending",
                       f"{length} random products in {bits} bits.", "random", (), length == 9)
    for sign in (1, -1):
        yield case(f"witness-24-{'max' if sign > 0 else 'min'}", [[127 if sign > 0 else -128] * 520] * 2,
                   [[127] * 520, [127] * 519 + [0]], 24, "saturate", "ascending",
                   "520 products of 127·127 = 8387080 fit 24 bits; 517 of -128·127 leave them: -8404352.",
                   "witness", ("overflow",))
