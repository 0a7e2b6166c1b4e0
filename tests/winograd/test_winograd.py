"""Winograd convolution against direct convolution, and its stages against Python's integers tile by tile."""

import re
import threading

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
from refquant.winograd.blas import TransformedKernel, transform_kernel
from refquant.winograd.convolution import STAGES, winograd_convolve
from refquant.winograd.transforms import PRESETS, Transforms, cook_toom, transforms_for

INT8, INT16, INT32, INT64 = (IntFormat(bits) for bits in (8, 16, 32, 64))
AFTER_INPUT = STAGES[1:]


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
        flat = values.ravel().tolist()
        low, high = extremes.get(stage, (flat[0], flat[0]))
        extremes[stage] = min(low, *flat), max(high, *flat)
        fmt = formats[stage]
        for index in np.ndindex(values.shape):
            if policy == "trap" and not fmt.min <= values[index] <= fmt.max:
                raise Trapped(f"{place}{stage}{list(index)} is {values[index]}, outside {fmt} ({fmt.min}..{fmt.max})")
        kept = np.empty(values.shape, object)
        kept.flat = [fitted(value, fmt, policy) for value in flat]
        return kept

    top, left, bottom, right = padding
    outputs = [x.shape[2] + top + bottom - t.r + 1, x.shape[3] + left + right - t.r + 1]
    counts = [-(-size // t.m) for size in outputs]
    plane = np.zeros((*x.shape[:2], *(count * t.m + t.r - 1 for count in counts)), object)
    plane[:, :, top:top + x.shape[2], left:left + x.shape[3]] = x.astype(object)
    tiles = np.zeros((*x.shape[:2], *counts, t.n, t.n), object)
    for i, j in np.ndindex(*counts):
        tiles[:, :, i, j] = plane[:, :, i * t.m:i * t.m + t.n, j * t.m:j * t.m + t.n]

    def each(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        out = np.zeros((*values.shape[:-2], len(left), right.shape[1]), object)
        for index in np.ndindex(values.shape[:-2]):
            out[index] = left @ values[index] @ right
        return out

    kept = {"input": settle("input", tiles)}
    kept["V"] = settle("V", each(kept["input"], bt, bt.T))
    kept["U"] = settle("U", each(w.astype(object), g, g.T))
    total = np.zeros((len(x), len(w), *counts, t.n, t.n), object)
    for c in range(x.shape[1]):
        product = np.zeros_like(total)
        for image, o, i, j in np.ndindex(total.shape[:4]):
            product[image, o, i, j] = kept["U"][o, c] * kept["V"][image, c, i, j]
        total = settle("sum", total + settle("product", product, f"channel {c}: "), f"channel {c}: ")
    kept["sum"] = total
    kept["output_scaled"] = settle("output_scaled", each(total, at, at.T))
    y = np.zeros((len(x), len(w), *outputs), object)
    for image, o, p, q in np.ndindex(y.shape):
        y[image, o, p, q] = (kept["output_scaled"][image, o, p // t.m, q // t.m, p % t.m, q % t.m]
                             // t.divisor**2)
    kept["output"] = settle("output", y)
    return extremes, kept


SMALL_TILES = st.sampled_from([PRESETS["F(2,3)"], PRESETS["F(4,3)"], cook_toom(2, 2), cook_toom(3, 2)])


def small_cases():
    return winograd_cases(largest=5, transforms=SMALL_TILES)


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
    wanted = direct(x, w, padding)
    fast = winograd_convolve(x, w, t, padding)
    plain, _ = winograd_with_stages(x, w, t, padding)
    assert fast.dtype == plain.dtype == np.int64
    assert fast.tolist() == plain.tolist() == wanted
    assert fast.tolist() == convolve_exact(x, w, padding=padding).tolist()


@given(winograd_cases(max_bits=20), st.sampled_from(["wrap", "saturate", "trap"]))
def test_products_and_stages_are_equal_under_every_policy_while_nothing_overflows(case, policy):
    x, w, t, padding = case
    try:
        fast = winograd_convolve(x, w, t, padding, policy, dict.fromkeys(AFTER_INPUT, INT64))
    except OverflowError as error:  # 20 bits, through the largest tiles
        assert str(error).endswith("which int64 does not hold")
        return
    plain, trace = winograd_with_stages(x, w, t, padding, policy)
    assert fast.tolist() == plain.tolist() == convolve_exact(x, w, padding=padding).tolist()
    assert list(trace) == list(STAGES)
    for stage, seen in trace.items():
        assert seen.format.min <= seen.min and seen.max <= seen.format.max, stage


@pytest.mark.parametrize("tile", [(2, 3), (4, 3), "F(4,3) ncnn", (6, 3), cook_toom(4, 3), (3, 5)])
@pytest.mark.parametrize("block", [1, 5000, 1 << 18])
def test_blocks_of_images_and_of_tile_rows_do_not_change_the_sums(tile, block, monkeypatch):
    monkeypatch.setattr(blas, "BLOCK", block)
    rng = np.random.default_rng(0)
    r = transforms_for(tile).r
    for shape, outputs, padding in (((5, 3, 9, 10), 4, 1), ((2, 8, 30, 23), 2, (2, 0, 1, 3))):
        x, w = rng.integers(-128, 128, shape), rng.integers(-128, 128, (outputs, shape[1], r, r))
        assert np.array_equal(winograd_convolve(x, w, tile, padding), convolve_exact(x, w, padding=padding))


def test_a_real_layers_size_is_exact_in_both_scalings_of_the_tile():
    rng = np.random.default_rng(1)
    x = rng.integers(-127, 128, (1, 64, 28, 28)).astype(np.int8)
    w = rng.integers(-127, 128, (64, 64, 3, 3)).astype(np.int8)
    wanted = convolve_exact(x, w, padding=1)
    for tile in ("F(2,3)", "F(4,3)", "F(4,3) ncnn", "F(6,3)"):
        assert np.array_equal(winograd_convolve(x, w, tile, 1), wanted), tile


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
            x = x_max - rng.integers(0, 2, (1, 3, 6, 6)) * rng.choice([0, 1, 2 * x_max], (1, 3, 6, 6))
            assert winograd_convolve(x, kernel).tolist() == direct(x, w, (0,) * 4)


@given(winograd_cases())
def test_a_transformed_kernel_stands_for_its_weights(case):
    x, w, t, padding = case
    kernel = transform_kernel(w, t)
    assert isinstance(kernel, TransformedKernel)
    assert kernel.u.shape == (t.n**2, *w.shape[:2])
    u = [[(t.g.astype(object) @ taps.astype(object) @ t.g.T.astype(object)).tolist() for taps in row] for row in w]
    assert kernel.u.reshape(t.n, t.n, *w.shape[:2]).transpose(2, 3, 0, 1).tolist() == u
    assert winograd_convolve(x, kernel, padding=padding).tolist() == winograd_convolve(x, w, t, padding).tolist()


def test_padding_is_read_as_by_direct_convolution():
    rng = np.random.default_rng(3)
    x, w = rng.integers(-9, 10, (2, 2, 5, 6)), rng.integers(-9, 10, (3, 2, 3, 3))
    for padding in (0, 2, (1, 0), (0, 3), (4, 0, 1, 2)):
        assert np.array_equal(winograd_convolve(x, w, padding=padding), convolve_exact(x, w, padding=padding))


def test_results_stay_when_the_work_arrays_are_used_again():
    rng = np.random.default_rng(5)
    x, w = rng.integers(-9, 10, (4, 1, 3, 8, 8)), rng.integers(-9, 10, (2, 3, 3, 3))
    kept = [winograd_convolve(image, w) for image in x]
    for image, y in zip(x, kept):
        assert y.tolist() == direct(image, w, (0,) * 4)


def test_work_arrays_are_kept_by_name_and_dtype_until_they_are_too_small():
    first = work_array("a", (2, 3), np.float32)
    assert first.shape == (2, 3) and first.dtype == np.float32
    assert np.shares_memory(first, work_array("a", (5,), np.float32))
    for other in (work_array("b", (2, 3), np.float32), work_array("a", (2, 3), np.float64)):
        assert not np.shares_memory(first, other)
    larger = work_array("a", (7,), np.float32)
    assert larger.shape == (7,) and np.shares_memory(larger, work_array("a", (2, 3), np.float32))
    huge = work_array("a", (KEEP_AT_MOST + 1,), np.float32)
    assert huge.size == KEEP_AT_MOST + 1
    assert not np.shares_memory(huge, work_array("a", (2, 3), np.float32))


def test_every_thread_has_its_own_work_arrays():
    mine, theirs = work_array("a", (3,), np.float64), []
    thread = threading.Thread(target=lambda: theirs.append(work_array("a", (3,), np.float64)))
    thread.start()
    thread.join()
    assert not np.shares_memory(mine, theirs[0])


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


def test_the_known_values_of_seven_bit_f23():
    x, w = np.full((1, 1, 4, 4), 63), np.full((1, 1, 3, 3), 63)
    _, trace = winograd_with_stages(x, w)
    assert (trace["U"].max, trace["V"].max, trace["product"].max) == (567, 252, 142_884)
    # The output of 35 721 is 9·63², four times that 142 884.
    assert (trace["output_scaled"].max, trace["output"].max) == (142_884, 35_721)
    assert [str(trace[stage].format) for stage in STAGES] == [
        "int7", "int9", "int11", "int19", "int19", "int19", "int17"]


# --- what wrapping keeps --------------------------------------------------------------------------------------

@given(small_cases(), st.data())
def test_wrapped_output_is_right_exactly_where_the_scaled_sum_fits_the_narrowest_stage(case, data):
    x, w, t, padding = case
    bits = data.draw(st.integers((t.divisor**2).bit_length(), 30))
    formats = {"output_scaled": IntFormat(bits)}
    for stage in ("input", "V", "U", "product", "sum"):
        if data.draw(st.booleans()):
            formats[stage] = IntFormat(data.draw(st.integers(bits, bits + 8)))
    y = winograd_convolve(x, w, t, padding, "wrap", formats)
    wanted = np.array(direct(x, w, padding))
    scaled = t.divisor**2 * wanted
    fits = (-(2**(bits - 1)) <= scaled) & (scaled < 2**(bits - 1))
    assert ((y == wanted) == fits).all()
    assert (y == ((scaled + 2**(bits - 1)) % 2**bits - 2**(bits - 1)) // t.divisor**2).all()


@given(small_cases(), st.data())
def test_the_scaled_sum_is_right_modulo_the_narrowest_stage(case, data):
    x, w, t, padding = case
    formats = {stage: IntFormat(data.draw(st.integers(4, 20)))
               for stage in ("input", "V", "U", "product", "sum", "output_scaled")}
    narrowest = min(fmt.bits for fmt in formats.values())
    y, trace = winograd_with_stages(x, w, t, padding, "wrap", formats | {"output": INT64})
    blocks = trace["output_scaled"].values.swapaxes(3, 4)
    scaled = blocks.reshape(*blocks.shape[:2], blocks.shape[2] * t.m, -1)[:, :, :y.shape[2], :y.shape[3]]
    assert ((scaled - t.divisor**2 * np.array(direct(x, w, padding))) % 2**narrowest == 0).all()


@pytest.mark.parametrize("x_max", [1, 9])
def test_u_wrapped_in_int16_and_widened_is_wrong_although_the_scaled_sum_fits_int32(x_max):
    """|U| = 576·63 = 36 288 leaves int16; reduced to 16 bits at the end it would still be right modulo 2^16."""
    x, w = np.zeros((1, 1, 6, 6), int), np.zeros((1, 1, 3, 3), int)
    x[0, 0, 5, 5], w[0, 0, 2, 2] = x_max, 63
    wanted = np.zeros((4, 4), int)
    wanted[3, 3] = 63 * x_max
    int32 = dict.fromkeys(("product", "sum", "output_scaled", "output"), INT32)
    right, trace = winograd_with_stages(x, w, "F(4,3)", 0, "wrap", int32)
    assert right[0, 0].tolist() == wanted.tolist()
    assert trace["U"].max == 36_288 and trace["output_scaled"].max == 576 * 63 * x_max < 2**31
    wrong, trace = winograd_with_stages(x, w, "F(4,3)", 0, "wrap", int32 | {"U": INT16})
    assert trace["U"].values.min() == 36_288 - 2**16
    assert wrong[0, 0, 3, 3] == (36_288 - 2**16) * x_max // 576 != wanted[3, 3]
    # The later scaling holds the same weights in int16, up to 227.
    later, trace = winograd_with_stages(x, w, "F(4,3) ncnn", 0, "wrap", int32 | {"U": INT16})
    assert trace["U"].max == 36 * 63 and later[0, 0].tolist() == wanted.tolist()


def test_13608_becomes_minus_2776_in_int16_although_it_fits():
    x, w = np.full((1, 1, 4, 4), 63), np.full((1, 1, 3, 3), 24)
    assert winograd_convolve(x, w).ravel().tolist() == [13_608] * 4
    wrapped = winograd_convolve(x, w, policy="wrap", formats=dict.fromkeys(AFTER_INPUT, INT16))
    assert wrapped.ravel().tolist() == [(4 * 13_608 - 2**16) // 4] * 4 == [-2776] * 4


def test_saturated_sums_are_wrong_where_wrapped_ones_are_right():
    """Two channels that cancel: 142 884 - 142 884 = 0, but saturation forgets the first."""
    x = np.full((1, 2, 4, 4), 63)
    w = np.stack([np.full((3, 3), 63), np.full((3, 3), -63)])[None]
    formats = {"sum": INT16}
    assert winograd_convolve(x, w, policy="wrap", formats=formats).ravel().tolist() == [0] * 4
    # 32 767 - 142 884 = -110 117, clipped to -32 768; a quarter of it is the output.
    saturated, trace = winograd_with_stages(x, w, policy="saturate", formats=formats)
    assert (trace["sum"].min, trace["sum"].max) == (32_767 - 142_884, 142_884)
    assert saturated.ravel().tolist() == [-8192] * 4
    # The other order of the channels ends at the other end.
    assert winograd_convolve(x, w[:, ::-1], policy="saturate", formats=formats).ravel().tolist() == [8191] * 4


def test_a_trap_names_stage_index_value_and_range():
    x, w = np.full((1, 2, 4, 4), 63), np.full((1, 2, 3, 3), 63)
    for formats, message in (
            ({"V": INT8}, "V[0, 0, 0, 0, 1, 1] is 252, outside int8 (-128..127)"),
            ({"U": IntFormat(10)}, "U[0, 0, 1, 1] is 567, outside int10 (-512..511)"),
            ({"product": INT16}, "channel 0: product[0, 0, 0, 0, 1, 1] is 142884, outside int16 (-32768..32767)"),
            ({"sum": IntFormat(19)}, "channel 1: sum[0, 0, 0, 0, 1, 1] is 285768, outside int19 (-262144..262143)"),
            ({"output_scaled": IntFormat(19)},
             "output_scaled[0, 0, 0, 0, 0, 0] is 285768, outside int19 (-262144..262143)"),
            ({"output": IntFormat(17)}, "output[0, 0, 0, 0] is 71442, outside int17 (-65536..65535)")):
        for record in (False, True):
            with pytest.raises(OverflowError, match=f"^{re.escape(message)}$"):
                (winograd_with_stages if record else winograd_convolve)(x, w, formats=formats)


# --- bad input ------------------------------------------------------------------------------------------------

X, W = np.ones((1, 2, 4, 4), int), np.ones((3, 2, 3, 3), int)
NAMES = "input, V, U, product, sum, output_scaled, output"


@pytest.mark.parametrize("call, message", [
    (lambda: winograd_convolve(X, W, (9, 3)), "tile's m must be an integer from 1 to 8, got 9"),
    (lambda: winograd_convolve(X, W, (2, 8)), "tile's r must be an integer from 1 to 7, got 8"),
    (lambda: winograd_convolve(X, W, 2),
     "tile must be (m, r), Transforms or one of F(2,3), F(4,3), F(4,3) ncnn, F(6,3), got 2"),
    (lambda: winograd_convolve(X, W, (2, 5)), "weight must be a non-empty (O, C, 5, 5) for F(2, 5), "
                                              "got shape (3, 2, 3, 3)"),
    (lambda: transform_kernel(W[0]), "weight must be a non-empty (O, C, 3, 3) for F(2, 3), got shape (2, 3, 3)"),
    (lambda: transform_kernel(W[:0]), "weight must be a non-empty (O, C, 3, 3) for F(2, 3), got shape (0, 2, 3, 3)"),
    (lambda: winograd_convolve(X[0], W), "input must be a non-empty (N, C, H, W), got shape (2, 4, 4)"),
    (lambda: winograd_convolve(X[:, :1], W),
     "weight must be (O, 1, R, S) for 1 input channels in 1 groups, got shape (3, 2, 3, 3)"),
    (lambda: winograd_convolve(X[:, :, :2], W), "the kernel must fit the padded input, got extent 3 over 2"),
    (lambda: winograd_convolve(X, W, padding=-1), "padding must be >= 0, got -1"),
    (lambda: winograd_convolve(X, W, padding=(1, 2, 3)),
     "padding must be an integer or 2 or 4 of them, got (1, 2, 3)"),
    (lambda: winograd_convolve(X / 1, W), "input must hold integers of at most 64 bits, got dtype float64"),
    (lambda: winograd_convolve(X, W / 1), "weight must hold integers of at most 64 bits, got dtype float64"),
    (lambda: winograd_convolve(X > 0, W), "input must hold integers of at most 64 bits, got dtype bool"),
    (lambda: winograd_convolve(np.full((1, 2, 3, 3), 2**63, np.uint64), W),
     f"input must fit int64, got {2**63}"),
    (lambda: winograd_convolve(X * 200, W, formats={"input": INT8}),
     "input must hold codes of int8 (-128..127), got 200..200"),
    (lambda: winograd_convolve(X, W, policy="clip"), "policy must be one of wrap, saturate, trap, got 'clip'"),
    (lambda: winograd_convolve(X, W, formats={"u": INT8}), f"formats must name stages ({NAMES}), got 'u'"),
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
    (lambda: transform_kernel(np.full((1, 1, 1, 1), -(2**63)), (1, 1)),
     f"U can reach {2**63}, which int64 does not hold"),
    (lambda: transform_kernel(np.full((1, 4, 1, 1), 2**61), (1, 1)),
     f"output_scaled can reach {2**63}, which int64 does not hold"),
    (lambda: transform_kernel(np.ones((1, 1, 7, 7), int), (8, 7)), "which int64 does not hold"),
    (lambda: winograd_convolve(X * 2**61, W), f"V can reach {2**63}, which int64 does not hold"),
    (lambda: winograd_convolve(np.full((1, 1, 1, 1), -(2**63)), np.ones((1, 1, 1, 1), int), (1, 1)),
     f"V can reach {2**63}, which int64 does not hold"),
    (lambda: winograd_convolve(X * 2**57, W), "sum can reach"),
])
def test_what_int64_is_not_proven_to_hold_is_refused(call, message):
    with pytest.raises(OverflowError, match=re.escape(message)):
        call()


@given(winograd_cases(max_bits=3), st.sampled_from(["wrap", "saturate"]))
def test_an_input_outside_its_format_is_brought_into_it_by_the_policy(case, policy):
    x, w, t, padding = case
    for fmt in (IntFormat(2), IntFormat(2, signed=False)):
        fitted_x = np.array([fitted(int(v), fmt, policy) for v in x.ravel()]).reshape(x.shape)
        y = winograd_convolve(x, w, t, padding, policy, {"input": fmt})
        assert y.tolist() == direct(fitted_x, w, padding)
