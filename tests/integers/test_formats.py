"""Integer formats against Python's unbounded integers: ranges, wrap, saturate, trap, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.integers.checks import as_integers
from refquant.integers.formats import (
    POLICIES,
    IntFormat,
    apply_policy,
    frozen_copy,
    saturate,
    smallest_format,
    trap,
    wrap,
)

FORMATS = [IntFormat(bits, signed, narrow)
           for bits in range(1, 65) for signed, narrow in ((True, False), (True, True), (False, False))
           if bits > 1 or not narrow]
FULL = [fmt for fmt in FORMATS if not fmt.narrow]

# Every power of two with its two neighbours, both signs: all places where some width overflows.
POWERS = sorted({sign * (1 << k) + d for k in range(65) for sign in (-1, 1) for d in (-1, 0, 1)} | {0})
IN_INT64 = [v for v in POWERS if -(2**63) <= v < 2**63]
IN_UINT64 = [v for v in POWERS if 0 <= v < 2**64]

all_formats = pytest.mark.parametrize("fmt", FORMATS, ids=str)
full_formats = pytest.mark.parametrize("fmt", FULL, ids=str)
INPUTS = [pytest.param(IN_INT64, np.int64, id="int64"), pytest.param(IN_UINT64, np.uint64, id="uint64")]


def code_range(fmt: IntFormat) -> tuple[int, int]:
    """The range by arithmetic on powers of two, not by shifts."""
    if not fmt.signed:
        return 0, 2**fmt.bits - 1
    half = 2**fmt.bits // 2
    return (1 - half if fmt.narrow else -half), half - 1


# --- ranges and dtypes ------------------------------------------------------------------------------

@pytest.mark.parametrize("fmt, low, high, dtype, text", [
    (IntFormat(1), -1, 0, np.int8, "int1"),
    (IntFormat(1, signed=False), 0, 1, np.uint8, "uint1"),
    (IntFormat(2, narrow=True), -1, 1, np.int8, "int2 narrow"),
    (IntFormat(4), -8, 7, np.int8, "int4"),
    (IntFormat(7, narrow=True), -63, 63, np.int8, "int7 narrow"),
    (IntFormat(8), -128, 127, np.int8, "int8"),
    (IntFormat(8, signed=False), 0, 255, np.uint8, "uint8"),
    (IntFormat(9, narrow=True), -255, 255, np.int16, "int9 narrow"),
    (IntFormat(16), -32768, 32767, np.int16, "int16"),
    (IntFormat(17, signed=False), 0, 131071, np.uint32, "uint17"),
    (IntFormat(24), -8388608, 8388607, np.int32, "int24"),
    (IntFormat(32), -2147483648, 2147483647, np.int32, "int32"),
    (IntFormat(33), -4294967296, 4294967295, np.int64, "int33"),
    (IntFormat(64), -9223372036854775808, 9223372036854775807, np.int64, "int64"),
    (IntFormat(64, narrow=True), -9223372036854775807, 9223372036854775807, np.int64, "int64 narrow"),
    (IntFormat(64, signed=False), 0, 18446744073709551615, np.uint64, "uint64"),
])
def test_ranges_dtypes_and_names_by_hand(fmt, low, high, dtype, text):
    assert (fmt.min, fmt.max, fmt.dtype, str(fmt)) == (low, high, np.dtype(dtype), text)


@all_formats
def test_a_format_has_two_to_the_bits_codes_around_zero(fmt):
    assert type(fmt.min) is int and type(fmt.max) is int
    assert fmt.max - fmt.min + 1 == 2**fmt.bits - (1 if fmt.narrow else 0)
    # Where the codes lie: from zero, one more below than above, or as many below as above.
    assert (fmt.min == 0) if not fmt.signed else (fmt.min + fmt.max == (0 if fmt.narrow else -1))


@all_formats
def test_dtype_is_the_smallest_that_holds_every_code(fmt):
    assert fmt.dtype.kind == ("i" if fmt.signed else "u")
    fits = [size for size in (8, 16, 32, 64)
            if all(-(2 ** (size - 1)) <= v < 2 ** (size - 1) if fmt.signed else 0 <= v < 2**size
                   for v in code_range(IntFormat(fmt.bits, fmt.signed)))]
    assert fmt.dtype.itemsize * 8 == fits[0]


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_a_numpy_integer_means_the_same_width_as_a_python_one(kind):
    for bits in (1, 7, 8, 16, 31, 32, 33, 63, 64):
        for signed in (True, False):
            fmt = IntFormat(kind(bits), signed)
            assert (fmt.min, fmt.max) == code_range(IntFormat(bits, signed)), fmt
            assert type(fmt.min) is int and type(fmt.max) is int


def test_numpy_bools_mean_the_same_format_as_python_ones():
    for bits in (2, 8, 63, 64):
        fmt = IntFormat(bits, np.True_, np.True_)
        assert (fmt.min, fmt.max) == (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1), bits
        assert IntFormat(bits, np.False_).max == 2**bits - 1, bits


def test_formats_are_values():
    assert IntFormat(8) == IntFormat(8, True, False) and len({IntFormat(8), IntFormat(8)}) == 1
    assert len({IntFormat(8), IntFormat(8, narrow=True), IntFormat(8, signed=False), IntFormat(9)}) == 4
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'bits'"):
        IntFormat(8).bits = 9


# --- wrap -------------------------------------------------------------------------------------------

@full_formats
@pytest.mark.parametrize("values, dtype", INPUTS)
def test_wrap_is_congruent_modulo_two_to_the_bits_and_in_range(fmt, values, dtype):
    got = wrap(np.array(values, dtype), fmt)
    assert got.dtype == fmt.dtype
    low, high = code_range(fmt)
    for value, code in zip(values, got.tolist(), strict=True):
        assert low <= code <= high and (code - value) % 2**fmt.bits == 0, value


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("policy", ["wrap", "saturate"])
def test_every_integer_dtype_is_taken_by_value(dtype, policy):
    limits = np.iinfo(dtype)
    values = [limits.min, limits.min + 1, 0, 1, limits.max - 1, limits.max]
    for fmt in (IntFormat(4), IntFormat(8), IntFormat(8, signed=False), IntFormat(32), IntFormat(64),
                IntFormat(64, signed=False)):
        low, high = code_range(fmt)
        size = high - low + 1
        expected = [min(max(v, low), high) if policy == "saturate" else (v - low) % size + low for v in values]
        got = apply_policy(np.array(values, dtype), fmt, policy)
        assert got.tolist() == expected and got.dtype == fmt.dtype, fmt


@given(st.lists(st.integers(-(2**55), 2**55), max_size=20), st.sampled_from([f for f in FULL if f.bits < 63]))
@example([100, 100, -100], IntFormat(8))  # leaves the register and comes back, which saturation would not survive
@example([2**55] * 3, IntFormat(62))  # widest register whose unwrapped sum of two codes still fits int64
def test_wrapping_every_partial_sum_wraps_the_total_whatever_the_order(values, fmt):
    for order in (values, values[::-1], sorted(values)):
        total = np.int64(0)
        for value in order:
            total = np.int64(wrap(total + np.int64(wrap(value, fmt)), fmt))
        low, high = code_range(fmt)
        assert (int(total) - sum(values)) % 2**fmt.bits == 0 and low <= total <= high


# --- saturate ---------------------------------------------------------------------------------------

@all_formats
@pytest.mark.parametrize("values, dtype", INPUTS)
def test_saturate_is_the_nearest_code(fmt, values, dtype):
    low, high = code_range(fmt)
    got = saturate(np.array(values, dtype), fmt)
    assert got.dtype == fmt.dtype
    assert got.tolist() == [sorted((low, value, high))[1] for value in values]


# --- trap -------------------------------------------------------------------------------------------

@all_formats
def test_trap_passes_every_code_and_raises_one_beyond_either_end(fmt):
    low, high = code_range(fmt)
    for value in (low, 0, high):
        got = trap(np.array(value, np.int64 if value < 2**63 else np.uint64), fmt)
        assert int(got) == value and got.dtype == fmt.dtype
    for value in (low - 1, high + 1):
        for dtype in (np.int64, np.uint64):
            if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
                message = rf"^value\[0\] is {value}, outside {fmt} \({low}\.\.{high}\)$"
                with pytest.raises(OverflowError, match=message):
                    trap(np.array([value], dtype), fmt)


@full_formats
@pytest.mark.parametrize("values, dtype", INPUTS)
def test_trap_raises_exactly_where_some_value_is_no_code(fmt, values, dtype):
    low, high = code_range(fmt)
    inside = [v for v in values if low <= v <= high]
    assert trap(np.array(inside, dtype), fmt).tolist() == inside
    for index, value in enumerate(values):
        if not low <= value <= high:
            with pytest.raises(OverflowError, match=rf"^sum\[{index}\] is {value}, outside {fmt} "):
                trap(np.array([*([0] * index), value], dtype), fmt, "sum")


def test_trap_names_stage_first_index_in_c_order_value_and_range():
    x = np.zeros((2, 3, 4), np.int64)
    x[1, 0, 2], x[1, 2, 0], x[0, 2, 3] = 500, -500, -129
    for layout in (x, np.asfortranarray(x), x[::1, :, :].copy(order="F")):
        with pytest.raises(OverflowError, match=r"^row sum\[0, 2, 3\] is -129, outside int8 \(-128\.\.127\)$"):
            trap(layout, IntFormat(8), "row sum")
    # A view with negative strides is indexed as it is seen, not as it lies in memory.
    with pytest.raises(OverflowError, match=r"^stage\[0, 0, 2\] is 500, outside int8 narrow \(-127\.\.127\)$"):
        trap(x[::-1], IntFormat(8, narrow=True), "stage")


def test_trap_names_a_scalar_without_an_index():
    with pytest.raises(OverflowError, match=r"^value is 256, outside uint8 \(0\.\.255\)$"):
        trap(256, IntFormat(8, signed=False))
    with pytest.raises(OverflowError, match=r"^acc is -1, outside uint64 \(0\.\.18446744073709551615\)$"):
        trap(np.int64(-1), IntFormat(64, signed=False), "acc")


# --- what the three policies share ------------------------------------------------------------------

@pytest.mark.parametrize("policy", ["wrap", "saturate", "trap"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (4,), (2, 3), (1, 2, 1, 2)])
def test_a_policy_keeps_the_shape_and_never_writes_to_or_shares_its_input(policy, shape):
    for dtype in (np.int8, np.int64, np.uint64):
        x = np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
        before = x.copy()
        x.flags.writeable = False
        for fmt in (IntFormat(8), IntFormat(64), IntFormat(64, signed=False)):
            got = apply_policy(x, fmt, policy)
            assert got.shape == shape and got.dtype == fmt.dtype
            assert not np.shares_memory(got, x)
            assert np.array_equal(got, before) and np.array_equal(x, before)


def test_policies_are_the_three_functions_by_name():
    assert list(POLICIES) == ["wrap", "saturate", "trap"]
    x, fmt = np.array([300, -300, 7]), IntFormat(8)
    assert apply_policy(x, fmt, "wrap").tolist() == [44, -44, 7]
    assert apply_policy(x, fmt, "saturate").tolist() == [127, -128, 7]
    with pytest.raises(OverflowError, match=r"^lane 3\[0\] is 300, outside int8 "):
        apply_policy(x, fmt, "trap", "lane 3")
    with pytest.raises(OverflowError, match=r"^value\[0\] is 300, outside int8 "):
        apply_policy(x, fmt, "trap")


# --- helpers that other modules rely on ---------------------------------------------------------------

def test_as_integers_widens_to_int64_or_uint64_by_value():
    assert as_integers([3, -3], "x").dtype == np.int64
    assert as_integers(np.array([255], np.uint8), "x").dtype == np.int64
    top = as_integers(np.array([2**64 - 1], np.uint64), "x")
    assert top.dtype == np.uint64 and top.tolist() == [2**64 - 1]
    with pytest.raises(ValueError, match=r"^bias must hold integers of at most 64 bits, got dtype float64$"):
        as_integers([1.0], "bias")


def test_frozen_copy_is_read_only_and_independent_of_its_source():
    source = np.arange(6.0).reshape(2, 3)
    copy = frozen_copy(source.T, np.int64)
    source[:] = -1
    assert copy.tolist() == [[0, 3], [1, 4], [2, 5]] and copy.dtype == np.int64
    assert copy.flags.c_contiguous and source.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        copy[0, 0] = 1


@pytest.mark.parametrize(("low", "high", "fmt"), [
    (0, 0, IntFormat(1, signed=False)),
    (0, 127, IntFormat(7, signed=False)),
    (5, 128, IntFormat(8, signed=False)),
    (-1, 0, IntFormat(1)),
    (-1, 1, IntFormat(2)),
    (-128, 127, IntFormat(8)),
    (-129, 0, IntFormat(9)),
    (-5, 128, IntFormat(9)),
    (-300, -200, IntFormat(10)),
    (-142884, 142884, IntFormat(19)),
    (-2**63, 2**63 - 1, IntFormat(64)),
])
def test_smallest_format_by_hand(low, high, fmt):
    assert smallest_format(low, high) == fmt


@given(st.integers(-2**62, 2**62), st.integers(0, 2**62))
def test_the_smallest_format_holds_the_range_and_one_bit_less_does_not(low, width):
    high = low + width
    fmt = smallest_format(low, high)
    assert fmt.min <= low and high <= fmt.max and fmt.signed == (low < 0)
    if fmt.bits > 1:
        less = IntFormat(fmt.bits - 1, fmt.signed)
        assert low < less.min or less.max < high
