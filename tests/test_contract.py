"""What holds for every public function on arrays, whatever it computes.

Inputs may be read-only and are never written to; memory layout, byte order and the width of integers do not matter;
lists are taken for arrays; the second call gives what the first gave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from refquant import cosine, dequantize, max_scale, pwlq, quantize, requantize, run_float, sqnr_db
from refquant.convolution import convolve, convolve_direct, convolve_exact, convolve_int16, dot_product_range
from refquant.convolution.geometry import Geometry
from refquant.easyquant import search_demo, search_ncnn, search_paper
from refquant.integers import (
    DIALECTS,
    IntFormat,
    Multiplier,
    dot_int16,
    dot_sequential,
    round_values,
    saturate,
    shift_right,
    trap,
    wrap,
)
from refquant.integers.several_sums import aligned, requantize_sums
from refquant.integers.simd import mla, sadalp, sdot, smlal, smull, sqrdmulh, sqxtn, srshl
from refquant.network.graph import Conv, Linear, Network
from refquant.recipes import calibrate, quantize_network
from refquant.scales import Extremes, Histogram
from refquant.scales.kl import demo_divergences, ncnn_divergences, tensorrt_divergences
from refquant.shift_equalizer import equalizing_shifts, search_shifts, undo_shifts
from refquant.winograd import transform_kernel, winograd_bounds_of_weights, winograd_convolve

RNG = np.random.default_rng(0)
SEVEN, EIGHT = IntFormat(7, narrow=True), IntFormat(8)
PLANES, KERNEL = RNG.integers(-63, 64, (2, 4, 6, 5)), RNG.integers(-63, 64, (3, 4, 3, 3))
REALS, WEIGHTS = RNG.normal(size=(2, 4, 6, 5)), RNG.normal(size=(3, 4, 3, 3))
ROWS, COLUMN = RNG.integers(-63, 64, (5, 20)), RNG.integers(-63, 64, (5, 20))
BYTES = RNG.integers(0, 100, (3, 8))
COUNTS = RNG.integers(0, 100, 300)
MANY = Multiplier.from_real([0.25, 0.1, 0.7])
NET = Network((4, 6, 5), (Conv("conv", "input", WEIGHTS), Conv("next", "conv", RNG.normal(size=(2, 3, 2, 2)))))
FLAT = Network((20,), (Linear("y", "input", RNG.normal(size=(3, 20))),))

GRID = pwlq.PiecewiseGrid(np.array([0.5, 0.7, 1.0]), np.array([3.0, 2.0, 4.0]), 4)


class Case(NamedTuple):
    function: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]
    lists: bool = True  # whether lists are taken too


def search(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, w: [np.asarray(v) for v in function(x, w, bits=4)[:3]]


CASES = {
    "wrap": Case(lambda x: wrap(x, IntFormat(5)), (PLANES,)),
    "saturate": Case(lambda x: saturate(x, IntFormat(5)), (PLANES,)),
    "trap": Case(lambda x: trap(x, SEVEN), (PLANES,)),
    "round_values": Case(lambda x: round_values(x, "half_even"), (REALS,)),
    "shift_right": Case(lambda x, s: shift_right(x, s, "half_even"), (PLANES, np.array([1, 2, 0, 3, 4]))),
    **{f"requantize {name}": Case(lambda x, name=name: requantize(x, MANY.along(0, 4), EIGHT, name, 1), (KERNEL,))
       for name in DIALECTS},
    "Multiplier.from_real": Case(lambda x: Multiplier.from_real(x).m, (np.abs(REALS),)),
    **{f"pwlq breakpoint {method}": Case(lambda w, method=method: pwlq.breakpoint(w, 4, method, axis=0), (WEIGHTS,))
       for method in pwlq.METHODS},
    "pwlq quantize": Case(lambda w: np.stack(pwlq.quantize(w, GRID, axis=0)), (WEIGHTS,)),
    "pwlq dequantize": Case(lambda w: pwlq.round_trip(w, GRID, axis=0), (WEIGHTS,)),
    "match_weight_moments": Case(lambda w, v: np.stack(pwlq.match_weight_moments(w, v)), (WEIGHTS, WEIGHTS / 2)),
    "requantize_sums": Case(lambda a, b: requantize_sums([a, b], aligned([0.5, 0.01]), EIGHT, "single_round", 1),
                            (PLANES, PLANES[::-1])),
    "dot_int16": Case(lambda x, w: dot_int16(x, w, SEVEN, SEVEN), (ROWS, COLUMN)),
    "dot_sequential": Case(lambda x, w: dot_sequential(x, w, SEVEN, SEVEN, IntFormat(32)), (ROWS, COLUMN)),
    "smull": Case(smull, (BYTES, BYTES)), "smlal": Case(smlal, (BYTES, BYTES, BYTES)),
    "mla": Case(mla, (BYTES, BYTES, BYTES)), "sadalp": Case(sadalp, (BYTES[:, :4], BYTES)),
    "sqrdmulh": Case(sqrdmulh, (BYTES, BYTES)), "srshl": Case(srshl, (BYTES, -(BYTES % 3))),
    "sqxtn": Case(sqxtn, (BYTES,)), "sdot": Case(sdot, (BYTES[:, :2], BYTES, BYTES)),
    "quantize": Case(lambda x: quantize(x, 9.0, EIGHT), (REALS,)),
    "quantize per channel": Case(lambda x, s: quantize(x, s, EIGHT, axis=1), (REALS, np.arange(1.0, 5.0))),
    "dequantize": Case(lambda x: dequantize(x, 9.0, zero_point=3), (PLANES,)),
    "max_scale": Case(lambda x: max_scale(x, EIGHT, 1), (REALS,)),
    "cosine": Case(cosine, (REALS, REALS + 1)), "sqnr_db": Case(sqnr_db, (REALS, REALS + 1)),
    "Extremes": Case(lambda x: Extremes.of(x).largest, (REALS,)),
    "Histogram": Case(lambda x: Histogram.of(x, 9.0).counts, (REALS,)),
    "tensorrt_divergences": Case(tensorrt_divergences, (COUNTS,), False),
    "ncnn_divergences": Case(ncnn_divergences, (COUNTS,), False),
    "demo_divergences": Case(demo_divergences, (COUNTS,), False),
    "convolve": Case(lambda x, w: convolve(x, w, padding=1), (REALS, WEIGHTS)),
    "convolve_direct": Case(lambda x, w: convolve_direct(x, w, Geometry()), (PLANES, KERNEL), False),
    "convolve_exact": Case(lambda x, w, b: convolve_exact(x, w, b, padding=1, zero_point=2),
                           (PLANES, KERNEL, np.arange(3))),
    "convolve_int16": Case(lambda x, w: convolve_int16(x, w, SEVEN, SEVEN, stride=2), (PLANES, KERNEL)),
    "dot_product_range": Case(lambda w: np.stack(dot_product_range(w, -3, 4)), (KERNEL,)),
    "winograd_convolve": Case(lambda x, w: winograd_convolve(x, w, padding=1), (PLANES, KERNEL)),
    "winograd_convolve wrapping": Case(lambda x, w: winograd_convolve(x, w, "F(4,3)", 1, "wrap", {
        "sum": IntFormat(16)}), (PLANES, KERNEL)),
    "transform_kernel": Case(lambda w: transform_kernel(w).u, (KERNEL,)),
    "winograd_bounds_of_weights": Case(
        lambda w: np.array([[b.min, b.max] for b in winograd_bounds_of_weights((2, 3), SEVEN, w)]), (KERNEL,)),
    "search_paper": Case(search(search_paper), (REALS, WEIGHTS), False),
    "search_demo": Case(search(search_demo), (REALS, WEIGHTS), False),
    "search_ncnn": Case(search(search_ncnn), (REALS, WEIGHTS), False),
    "equalizing_shifts": Case(lambda w: equalizing_shifts(w, 4, "nearest"), (WEIGHTS,), False),
    "search_shifts": Case(lambda w, x: list(search_shifts(w, 4, 3, "cosine", x)), (WEIGHTS, REALS), False),
    "undo_shifts": Case(lambda x, k: undo_shifts(x, MANY.along(0, 4), k, EIGHT, way="second_shift"),
                        (KERNEL, np.arange(3).reshape(3, 1, 1, 1))),
    "run_float": Case(lambda x: run_float(NET, x), (REALS,)),
    "calibrate": Case(lambda x: calibrate(NET, x)["next"].histogram.counts, (REALS,)),
    "quantize_network": Case(lambda x: quantize_network(NET, x, "tensorrt-int8").run(x), (REALS,)),
    "quantize_network of flat images": Case(lambda x: quantize_network(FLAT, x).run(x), (ROWS / 7,)),
}
every_function = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def same(found: Any, expected: Any) -> bool:
    pairs = zip(found, expected, strict=True) if isinstance(expected, list) else [(found, expected)]
    return all(np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype for a, b in pairs)


@every_function
def test_inputs_may_be_read_only_are_not_written_to_and_the_second_call_gives_the_same(case):
    before = [array.copy() for array in case.arrays]
    for array in case.arrays:
        array.flags.writeable = False
    try:
        assert same(case.function(*case.arrays), case.function(*case.arrays))
        writeable = [array.copy() for array in case.arrays]
        case.function(*writeable)
    finally:
        for array in case.arrays:
            array.flags.writeable = array.base is None
    assert all(map(np.array_equal, writeable, before)) and all(map(np.array_equal, case.arrays, before))


@every_function
def test_memory_layout_byte_order_and_width_of_integers_do_not_matter_and_lists_are_taken(case):
    kinds = [">i8", "i2", ">i4", "i1"] if all(a.dtype.kind == "i" for a in case.arrays) else [">f8"]
    changes = [np.asfortranarray, lambda a: a[::-1].copy()[::-1], lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
               *(lambda a, kind=kind: a.astype(kind) for kind in kinds
                 if all(np.array_equal(a.astype(kind), a) for a in case.arrays)),
               *[np.ndarray.tolist] * case.lists]
    expected = case.function(*case.arrays)
    for change in changes:
        assert same(case.function(*map(change, case.arrays)), expected), change
    if kinds == [">f8"] and all(array.dtype.kind == "f" for array in case.arrays):
        assert same(*(case.function(*(a.astype(kind) for a in case.arrays)) for kind in (">f4", "f4")))
