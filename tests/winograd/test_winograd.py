"""Winograd convolution against direct convolution, and its stages against Python's integers tile by tile."""

import re
import threading
import uuid

import numpy as np
import pytest
from convolution_oracle import loop
from hypothesis import example, given
from hypothesis import strategies as st
from recording import winograd_with_stages

from refquant.convolution.direct import convolve_exact
from refquant.convolution.geometry import Geometry
from refquant.convolution.work_arrays import KEEP_AT_MOST, work_array
from refquant.integers.formats import IntFormat
from refquant.strategies import WinogradCase, winograd_cases
from refquant.winograd import blas
from refquant.winograd.blas import transform_kernel
from refquant.winograd.convolution import STAGES, winograd_convolve
from refquant.winograd.transforms import PRESETS, Transforms, cook_toom, transforms_for

INT8, INT16, INT32, INT64 = (IntFormat(bits) for bits in (8, 16, 32, 64))


# --- the references -----------------------------------------------------------------------------------------------

def direct(x: np.ndarray, w: np.ndarray, padding: tuple) -> list:
    return loop(x, w, Geometry(padding=padding))


class Trapped(Exception):
    """Carries the sentence that is expected."""


def fitted(value: int, fmt: IntFormat, policy: str) -> int:
    if policy == "saturate":
        return min(max(value, fmt.min), fmt.max)
    return (value - fmt.min) % 2**fmt.bits + fmt.min


def staged(x: np.ndarray, w: np.ndarray, t: Transforms, padding: tuple, formats: dict, policy: str) -> tuple:
    """Every stage in Python's integers, tile by tile: {stage: (min, max)}, {stage: values}."""
    bt, g, at = (matrix.astype(object) for matrix in (t.bt, t.g, t.at))
    extremes: dict = {}

    def settle(stage: str, values: np.ndarray, place: str = "") -> np.ndarray:
        flat, fmt = values.ravel().tolist(), formats[stage]
        seen = [*extremes.get(stage, ()), *flat]
        extremes[stage] = min(seen), max(seen)
        for index in np.ndindex(values.shape):
            if policy == "trap" and not fmt.min <= values[index] <= fmt.max:
                raise Trapped(f"{place}{stage}{list(index)} is {values[index]}, outside {fmt} ({fmt.min}..{fmt.max})")
        return np.array([fitted(value, fmt, policy) for value in flat], object).reshape(values.shape)

    top, left, bottom, right = padding
    outputs = [x.shape[2] + top + bottom - t.r + 1, x.shape[3] + left + right - t.r + 1]
    counts = [-(-size // t.m) for size in outputs]
    plane = np.zeros((*x.shape[:2], *(count * t.m + t.r - 1 for count in counts)), object)
    plane[:, :, top:top + x.shape[2], left:left + x.shape[3]] = x.astype(object)
    tiles = np.zeros((*x.shape[:2], *counts, t.n, t.n), object)
    for i, j in np.ndindex(*counts):
        tiles[:, :, i, j] = plane[:, :, i * t.m:i * t.m + t.n, j * t.m:j * t.m + t.n]

    kept = {"input": settle("input", tiles)}
    kept["V"] = settle("V", bt @ kept["input"] @ bt.T)
    kept["U"] = settle("U", g @ w.astype(object) @ g.T)
    total = np.zeros((len(x), len(w), *counts, t.n, t.n), object)
    for c in range(x.shape[1]):
        product = kept["U"][None, :, c, None, None] * kept["V"][:, None, c]
        total = settle("sum", total + settle("product", product, f"channel {c}: "), f"channel {c}: ")
    kept["sum"] = total
    kept["output_scaled"] = settle("output_scaled", at @ total @ at.T)
    kept["output"] = settle("output", assembled(kept["output_scaled"], outputs) // t.divisor**2)
    return extremes, kept


def assembled(tiles: np.ndarray, size: list[int]) -> np.ndarray:
    """Planes (N, O, P, Q) from tiles (N, O, rows, columns, m, m); what lies beyond P x Q is dropped."""
    planes = np.concatenate(np.moveaxis(np.concatenate(np.moveaxis(tiles, 2, 0), axis=3), 2, 0), axis=3)
    return planes[:, :, :size[0], :size[1]]


def small_cases():
    return winograd_cases(largest=5, transforms=st.sampled_from(
        [PRESETS["F(2,3)"], PRESETS["F(4,3)"], cook_toom(2, 2), cook_toom(3, 2)]))


# --- equal to direct convolution ------------------------------------------------------------------------------

@given(winograd_cases())
@example(WinogradCase(np.full((1, 2, 4, 4), -128), np.full((1, 2, 3, 3), -128), PRESETS["F(2,3)"], (0,) * 4))
@example(WinogradCase(np.array([[[[5]]]]), np.array([[[[3, 4], [1, 2]]]]), cook_toom(8, 2), (1, 1, 0, 0)))
@example(WinogradCase(np.full((1, 1, 7, 3), 255), np.full((1, 1, 1, 1), 255), cook_toom(1, 1), (0, 2, 0, 0)))
@example(WinogradCase(np.arange(-21, 21).reshape(1, 1, 6, 7), np.arange(-24, 25).reshape(1, 1, 7, 7),
                      cook_toom(2, 7), (3, 3, 3, 3)))  # the largest kernel
@example(WinogradCase(np.zeros((1, 1, 3, 3), int), np.ones((1, 1, 3, 3), int), PRESETS["F(4,3)"], (0,) * 4))
@example(WinogradCase(np.ones((1, 1, 3, 3), int), np.zeros((1, 1, 3, 3), int), PRESETS["F(4,3)"], (0,) * 4))
def test_integer_winograd_equals_direct_convolution(case):
    x, w, t, padding = case
    fast, plain = winograd_convolve(*case), winograd_with_stages(*case)[0]
    assert fast.dtype == plain.dtype == np.int64
    assert fast.tolist() == plain.tolist() == direct(x, w, padding)
    assert winograd_convolve(x, transform_kernel(w, t), padding=padding).tolist() == fast.tolist()


@pytest.mark.parametrize("tile", [*PRESETS, cook_toom(4, 3), (3, 5)])
@pytest.mark.parametrize("block", [1, 5000, 1 << 18])
def test_blocks_of_images_and_of_tile_rows_do_not_change_the_sums(tile, block, monkeypatch):
    monkeypatch.setattr(blas, "BLOCK", block)
    rng = np.random.default_rng(0)
    r = transforms_for(tile).r
    for shape, outputs, padding in (((5, 3, 9, 10), 4, 1), ((2, 8, 30, 23), 2, (2, 0, 1, 3)),
                                    ((1, 64, 28, 28), 64, (1, 0))):
        x, w = rng.integers(-128, 128, shape), rng.integers(-128, 128, (outputs, shape[1], r, r))
        assert np.array_equal(winograd_convolve(x, w, tile, padding), convolve_exact(x, w, padding=padding))


@pytest.mark.parametrize("x, w", [
    ([2**24 + 1], [1]),  # float32 does not hold the input
    ([1, 1], [2**24, 1]),  # nor this sum
    ([1, 1], [2**24 - 2, 1]),  # the largest that it must hold
    ([1, 1, 1], [-(2**24), -1, 2**24]),
    ([2**53 + 1], [1]),
    ([1, 1], [2**53, 1]),  # nor does float64
    ([1, 1, 1], [2**53, 1, -(2**53)]),
    ([2**31], [2**31]),
    ([2**62], [1]),
    ([1], [2**62 + 1]),
    ([-(2**62)], [-1]),
])
def test_sums_at_the_edge_of_every_dtype_are_exact(x, w):
    """F(1, 1) is the plain sum over channels."""
    shape = 1, len(x), 1, 1
    y = winograd_convolve(np.reshape(x, shape), np.reshape(w, shape), (1, 1))
    assert y.ravel().tolist() == [sum(a * b for a, b in zip(x, w))]


@pytest.mark.parametrize("limit", [2**24, 2**53])
@pytest.mark.parametrize("tile", ["F(2,3)", "F(4,3)"])
def test_inputs_that_drive_a_stage_across_a_floats_limit_are_exact(tile, limit):
    rng = np.random.default_rng(limit % 1000)
    w = 2 * rng.integers(-30, 31, (2, 3, 3, 3)) + 1
    kernel = transform_kernel(w, tile)
    for stage in ("V", "sum", "terms") if limit == 2**24 else ("sum", "terms"):
        for x_max in (limit // kernel.reach[stage], limit // kernel.reach[stage] + 1):
            x = rng.choice([-x_max, 1 - x_max, x_max - 1, x_max], (8, 3, 6, 6))
            assert winograd_convolve(x, kernel).tolist() == direct(x, w, (0,) * 4)


def test_results_stay_and_threads_keep_apart_when_work_arrays_are_used_again():
    rng = np.random.default_rng(5)
    x, w = rng.integers(-9, 10, (4, 1, 3, 8, 8)), rng.integers(-9, 10, (2, 3, 3, 3))
    kept = [winograd_convolve(image, w) for image in x]
    assert [y.tolist() for y in kept] == [direct(image, w, (0,) * 4) for image in x]
    name, theirs = uuid.uuid4().hex, []  # nothing is kept under it yet
    first = work_array(name, (2, 3), np.float64)
    thread = threading.Thread(target=lambda: theirs.append(work_array(name, (3,), np.float64)))
    thread.start()
    thread.join()
    assert np.shares_memory(first, work_array(name, (5,), np.float64))
    for other in (theirs[0], work_array(f"other than {name}", (2, 3), np.float64),
                  work_array(name, (2, 3), np.float32), work_array(name, (KEEP_AT_MOST + 1,), np.float64),
                  work_array(name, (7,), np.float64)):
        assert not np.shares_memory(first, other)
    assert not np.shares_memory(first, work_array(name, (3,), np.float64))  # the larger one is kept instead


# --- every stage, in every format, under every policy ---------------------------------------------------------

@st.composite
def stage_formats(draw, policy: str) -> dict:
    """Formats of 1 to 40 bits for some stages; some of them overflow."""
    formats = {}
    for stage in STAGES:
        if draw(st.booleans()):
            bits = draw(st.integers(1, 12) if stage == "input" else st.integers(1, 40))
            signed = stage != "input" or draw(st.booleans())
            narrow = policy != "wrap" and signed and bits >= 2 and draw(st.booleans())
            formats[stage] = IntFormat(bits, signed, narrow)
    return formats


@given(small_cases(), st.sampled_from(["wrap", "saturate", "trap"]), st.data())
def test_every_stage_is_what_python_integers_give(case, policy, data):
    formats = data.draw(stage_formats(policy))
    if policy == "trap":
        formats.pop("input", None)
    _, defaults = winograd_with_stages(*case, policy, formats) if policy != "trap" else (
        None, winograd_with_stages(*case)[1])
    whole = {stage: seen.format for stage, seen in defaults.items()} | formats
    try:
        extremes, kept = staged(*case, whole, policy)
    except Trapped as trapped:
        for record in (False, True):
            with pytest.raises(OverflowError, match=f"^{re.escape(str(trapped))}$"):
                (winograd_with_stages if record else winograd_convolve)(*case, policy, formats)
        return
    y, trace = winograd_with_stages(*case, policy, formats)
    assert winograd_convolve(*case, policy, formats).tolist() == y.tolist() == kept["output"].tolist()
    assert list(trace) == list(STAGES)
    for stage, (fmt, low, high, values) in trace.items():
        assert fmt == whole[stage]
        assert (low, high) == extremes[stage], stage
        if stage != "product":
            assert values.dtype == np.int64 and values.tolist() == kept[stage].tolist(), stage


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_that_is_too_narrow_is_named_with_its_place_and_value(stage):
    case = np.full((1, 2, 4, 4), 9), np.full((1, 2, 3, 3), 9), PRESETS["F(2,3)"], (0,) * 4
    formats = dict.fromkeys(STAGES, IntFormat(40)) | {stage: IntFormat(5)}
    with pytest.raises(Trapped) as trapped:
        staged(*case, formats, "trap")
    with pytest.raises(OverflowError, match=f"^{re.escape(str(trapped.value))}$"):
        winograd_convolve(*case, "trap", formats)


@given(winograd_cases())
def test_missing_formats_are_the_smallest_signed_ones_that_hold_the_proven_bound(case):
    x, w, t, padding = case
    _, trace = winograd_with_stages(x, w, t, padding)
    x_max, w_abs = int(np.abs(x.astype(int)).max()), np.abs(w.astype(object))
    b = np.abs(t.bt).astype(object).sum(axis=1)
    u = np.array([[t.g @ taps.astype(int) @ t.g.T for taps in row] for row in w]).astype(object)
    at_positions = np.outer(b, b) * abs(u)  # (O, C, n, n)
    bound = {"V": x_max * max(b)**2, "product": x_max * at_positions.max(),
             "sum": x_max * at_positions.sum(axis=1).max(),
             "output_scaled": x_max * t.divisor**2 * w_abs.sum(axis=(1, 2, 3)).max(),
             "output": x_max * w_abs.sum(axis=(1, 2, 3)).max()}
    for stage, magnitude in bound.items():
        assert trace[stage].format == IntFormat(int(magnitude).bit_length() + 1), stage
    for stage, values in (("input", x), ("U", u)):
        fmt = trace[stage].format
        assert fmt.signed and not fmt.narrow and fmt.min <= values.min() and values.max() <= fmt.max
        assert fmt.bits == 1 or not -(2**(fmt.bits - 2)) <= values.min() <= values.max() < 2**(fmt.bits - 2)


# --- what wrapping keeps --------------------------------------------------------------------------------------

@given(small_cases(), st.data())
def test_wrapped_output_is_right_exactly_where_the_scaled_sum_fits_the_narrowest_stage(case, data):
    """And whichever stage is the narrowest, the scaled sum is right modulo its size."""
    x, w, t, padding = case
    bits = data.draw(st.integers(4, 30))
    least = data.draw(st.sampled_from((bits, 4)))
    formats = {"output_scaled": IntFormat(bits)} | {
        stage: IntFormat(data.draw(st.integers(least, 30))) for stage in STAGES[:-2] if data.draw(st.booleans())}
    y, trace = winograd_with_stages(*case, "wrap", formats | {"output": INT64})
    found = assembled(trace["output_scaled"].values, y.shape[2:])
    scaled = t.divisor**2 * np.array(direct(x, w, padding))
    assert ((found - scaled) % 2**min(fmt.bits for fmt in formats.values()) == 0).all()
    if least == bits >= (t.divisor**2).bit_length():
        fits = (-(2**(bits - 1)) <= scaled) & (scaled < 2**(bits - 1))
        assert ((t.divisor**2 * y == scaled) == fits).all()


def test_u_wrapped_in_int16_and_widened_is_wrong_although_the_scaled_sum_fits_int32():
    """|U| = 576·63 = 36 288 leaves int16. The later scaling holds the same weights, up to 227."""
    x, w = np.zeros((1, 1, 6, 6), int), np.zeros((1, 1, 3, 3), int)
    x[0, 0, 5, 5], w[0, 0, 2, 2] = 9, 63
    formats = dict.fromkeys(("product", "sum", "output_scaled", "output"), INT32)
    for tile, by, expected in (("F(4,3)", {}, 9 * 63), ("F(4,3)", {"U": INT16}, (36_288 - 2**16) * 9 // 576),
                               ("F(4,3) ncnn", {"U": INT16}, 9 * 63)):
        assert winograd_convolve(x, w, tile, 0, "wrap", formats | by)[0, 0, 3, 3] == expected


# --- bad input ------------------------------------------------------------------------------------------------

X, W = np.ones((1, 2, 4, 4), int), np.ones((3, 2, 3, 3), int)
ONES = np.ones((1, 1, 1, 1), int)


@pytest.mark.parametrize("call, message", [
    *[(lambda w=w: transform_kernel(w), f"weight must be a non-empty (O, C, 3, 3) for F(2, 3), got shape {w.shape}")
      for w in (W[0], W[:0], W[:, :, :2])],
    (lambda: winograd_convolve(X[:, :1], W),
     "weight must be (O, 1, R, S) for 1 input channels in 1 groups, got shape (3, 2, 3, 3)"),
    (lambda: winograd_convolve(X / 1, W), "input must hold integers of at most 64 bits, got dtype float64"),
    (lambda: winograd_convolve(X, W / 1), "weight must hold integers of at most 64 bits, got dtype float64"),
    (lambda: winograd_convolve(X * 200, W, formats={"input": INT8}),
     "input must hold codes of int8 (-128..127), got 200..200"),
    (lambda: winograd_convolve(X, W, policy="clip"), "policy must be one of wrap, saturate, trap, got 'clip'"),
    (lambda: winograd_convolve(X, W, formats={"u": INT8}),
     "formats must name stages (input, V, U, product, sum, output_scaled, output), got 'u'"),
    (lambda: winograd_convolve(X, W, formats=[INT8]),
     "formats must map stages to IntFormats, got [IntFormat(bits=8, signed=True, narrow=False)]"),
    (lambda: winograd_convolve(X, W, formats={"U": 8}), "the format of U must be a signed IntFormat, got 8"),
    (lambda: winograd_convolve(X, W, formats={"V": IntFormat(8, signed=False)}),
     "the format of V must be a signed IntFormat, got uint8"),
    (lambda: winograd_convolve(X, W, formats={"input": IntFormat(64, signed=False)}),
     "the format of input must be an IntFormat of at most 63 bits if unsigned, got uint64"),
    (lambda: winograd_convolve(X, W, policy="wrap", formats={"sum": IntFormat(8, narrow=True)}),
     "wrap needs a full-range format, got int8 narrow"),
])
def test_bad_input_is_refused_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("call, message", [
    (lambda: transform_kernel(W * 2**60), f"U can reach {9 * 2**60}, which int64 does not hold"),
    (lambda: transform_kernel(ONES * -(2**63), (1, 1)), f"U can reach {2**63}, which int64 does not hold"),
    (lambda: transform_kernel(np.full((1, 4, 1, 1), 2**61), (1, 1)),
     f"output_scaled can reach {2**63}, which int64 does not hold"),
    (lambda: winograd_convolve(X * 2**61, W), f"V can reach {2**63}, which int64 does not hold"),
    (lambda: winograd_convolve(ONES * -(2**63), ONES, (1, 1)), f"V can reach {2**63}, which int64 does not hold"),
    (lambda: winograd_convolve(X * 2**57, W), "sum can reach"),
])
def test_what_int64_is_not_proven_to_hold_is_refused(call, message):
    with pytest.raises(OverflowError, match=re.escape(message)):
        call()


def test_a_format_that_holds_the_greatest_value_alone_traps_and_one_bit_holds_zeros():
    ones = np.ones((1, 1, 4, 4), int)
    with pytest.raises(OverflowError, match=r"^U\[0, 0, 0, 1\] is -6, outside int3"):  # -9 to -1
        winograd_convolve(ones, -ones[..., :3, :3], formats={"U": IntFormat(3)})
    zeros = winograd_convolve(0 * ones, ones[..., :3, :3], formats={"sum": IntFormat(1)})
    assert zeros.tolist() == [[[[0, 0], [0, 0]]]]
