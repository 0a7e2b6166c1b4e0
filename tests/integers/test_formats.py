"""Integer formats against Python's unbounded integers: ranges, wrap, saturate, trap."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.integers.formats import IntFormat, apply_policy, saturate, smallest_format, trap, wrap

FORMATS = [IntFormat(bits, signed, narrow)
           for bits in range(1, 65) for signed, narrow in ((True, False), (True, True), (False, False))
           if bits > 1 or not narrow]
FULL = [fmt for fmt in FORMATS if not fmt.narrow]

# Every power of two with its two neighbours, both signs: all places where some width overflows.
POWERS = sorted({sign * (1 << k) + d for k in range(65) for sign in (-1, 1) for d in (-1, 0, 1)} | {0})

all_formats = pytest.mark.parametrize("fmt", FORMATS, ids=str)
full_formats = pytest.mark.parametrize("fmt", FULL, ids=str)
inputs = pytest.mark.parametrize("values, dtype", [
    pytest.param([v for v in POWERS if np.iinfo(dtype).min <= v <= np.iinfo(dtype).max], dtype, id=dtype.__name__)
    for dtype in (np.int64, np.uint64)])


def code_range(fmt: IntFormat) -> tuple[int, int]:
    """The range by arithmetic on powers of two, not by shifts."""
    if not fmt.signed:
        return 0, 2**fmt.bits - 1
    half = 2**fmt.bits // 2
    return (1 - half if fmt.narrow else -half), half - 1


# --- ranges and dtypes ------------------------------------------------------------------------------

@all_formats
def test_a_format_has_its_codes_in_the_smallest_dtype_that_holds_them(fmt):
    low, high = code_range(fmt)
    assert (fmt.min, fmt.max) == (low, high) and type(fmt.min) is type(fmt.max) is int
    sizes = [np.dtype(f"{'int' if fmt.signed else 'uint'}{size}") for size in (8, 16, 32, 64)]
    assert fmt.dtype == next(d for d in sizes if np.iinfo(d).min <= low and high <= np.iinfo(d).max)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.uint64])
def test_numpy_integers_and_bools_mean_the_same_format_as_python_ones(kind):
    for bits in (2, 8, 63, 64):
        assert IntFormat(kind(bits), np.True_, np.True_) == IntFormat(bits, True, True)
        assert type(IntFormat(kind(bits), np.False_).max) is int


# --- policies ---------------------------------------------------------------------------------------

@full_formats
@inputs
def test_wrap_is_congruent_modulo_two_to_the_bits_and_in_range(fmt, values, dtype):
    got = wrap(np.array(values, dtype), fmt)
    assert got.dtype == fmt.dtype
    low, high = code_range(fmt)
    for value, code in zip(values, got.tolist(), strict=True):
        assert low <= code <= high and (code - value) % 2**fmt.bits == 0, value


@all_formats
@inputs
def test_saturate_is_the_nearest_code(fmt, values, dtype):
    low, high = code_range(fmt)
    got = saturate(np.array(values, dtype), fmt)
    assert got.dtype == fmt.dtype
    assert got.tolist() == [sorted((low, value, high))[1] for value in values]


@all_formats
@inputs
def test_trap_passes_every_code_and_raises_one_beyond_either_end(fmt, values, dtype):
    low, high = code_range(fmt)
    inside = [v for v in values if low <= v <= high]
    got = trap(np.array(inside, dtype), fmt)
    assert got.tolist() == inside and got.dtype == fmt.dtype
    for value in {low - 1, high + 1, values[0], values[-1]} & (set(values) - set(inside)):
        message = re.escape(f"sum[{len(inside)}] is {value}, outside {fmt} ({low}..{high})")
        with pytest.raises(OverflowError, match=f"^{message}$"):
            trap(np.array([*inside, value, values[0]], dtype), fmt, "sum")


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


@pytest.mark.parametrize("policy", ["wrap", "saturate", "trap"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 2, 1, 2)])
def test_a_policy_keeps_the_shape_and_never_shares_its_input(policy, shape):
    for fmt in (IntFormat(8), IntFormat(64)):
        x = np.arange(int(np.prod(shape)), dtype=fmt.dtype).reshape(shape)
        got = apply_policy(x, fmt, policy)
        assert np.array_equal(got, x) and got.shape == shape and not np.shares_memory(got, x)


def test_trap_names_stage_first_index_in_c_order_value_and_range():
    x = np.zeros((2, 3, 4), np.int64)
    x[1, 0, 2], x[1, 2, 0], x[0, 2, 3] = 500, -500, -129
    for layout in (x, np.asfortranarray(x)):
        with pytest.raises(OverflowError, match=r"^row sum\[0, 2, 3\] is -129, outside int8 \(-128\.\.127\)$"):
            apply_policy(layout, IntFormat(8), "trap", "row sum")
    # A view with negative strides is indexed as it is seen, not as it lies in memory.
    with pytest.raises(OverflowError, match=r"^value\[0, 0, 2\] is 500, outside int8 narrow \(-127\.\.127\)$"):
        apply_policy(x[::-1], IntFormat(8, narrow=True), "trap")
    with pytest.raises(OverflowError, match=r"^value is 256, outside uint8 \(0\.\.255\)$"):
        trap(256, IntFormat(8, signed=False))


# --- the smallest format ------------------------------------------------------------------------------

@given(st.lists(st.integers(-2**63, 2**63 - 1) | st.integers(-300, 300), min_size=2, max_size=2).map(sorted))
@example([0, 0])
@example([-1, 0])
@example([-1, 1])
@example([5, 128])
@example([-129, 0])
@example([-2**63, 2**63 - 1])
def test_the_smallest_format_holds_the_range_and_one_bit_less_does_not(ends):
    low, high = ends
    fmt = smallest_format(low, high)
    assert fmt.min <= low and high <= fmt.max and fmt.signed == (low < 0) and not fmt.narrow
    if fmt.bits > 1:
        less = IntFormat(fmt.bits - 1, fmt.signed)
        assert low < less.min or less.max < high
