"""Lane operations against plain Python integers, by the Arm manual's formulas."""
from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from consumers.c.binary_files import corners, lanes

import refquant.integers.simd as isa

INT16, INT32 = (-(2**15), 2**15 - 1), (-(2**31), 2**31 - 1)


def wrapped(value: int, bits: int) -> int:
    """The two's complement number of that many bits: what a register keeps."""
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def clamped(value: int, bits: int) -> int:
    return max(-(2 ** (bits - 1)), min(value, 2 ** (bits - 1) - 1))


# --- the instructions, one lane at a time, as the Arm manual's pseudocode has them ------------------------------

def rounded_shift(x: int, shift: int) -> int:
    """(x + round_const) << shift, where a negative shift goes right and round_const is half the last place."""
    return wrapped(x << shift if shift >= 0 else (x + (1 << (-shift - 1))) >> -shift, 32)


# instruction: (of one lane, dtypes of its operands, dtype of its result)
LANEWISE = {
    "smull": (lambda a, b: a * b, ("i1", "i1"), np.int16),
    "smlal": (lambda acc, a, b: wrapped(acc + a * b, 16), ("i2", "i1", "i1"), np.int16),
    "mla": (lambda acc, a, b: wrapped(acc + a * b, 16), ("i2", "i2", "i2"), np.int16),
    "sqrdmulh": (lambda a, b: clamped((2 * a * b + (1 << 31)) >> 32, 32), ("i4", "i4"), np.int32),
    "srshl": (rounded_shift, ("i4", "i1"), np.int32),
    "sqxtn": (lambda x: clamped(x, 8), ("i2",), np.int8),
}
# instruction: (of one lane of the first operand and its group of the others, group size, dtypes)
GROUPED = {
    "sadalp": (lambda acc, x: wrapped(acc + x[0] + x[1], 32), 2, ("i4", "i2")),
    "sdot": (lambda acc, a, b: wrapped(acc + sum(p * q for p, q in zip(a, b)), 32), 4, ("i4", "i1", "i1")),
}
EVERY = {**{name: dtypes for name, (_, dtypes, _) in LANEWISE.items()},
         **{name: dtypes for name, (_, _, dtypes) in GROUPED.items()}}

instructions = pytest.mark.parametrize("name", EVERY)
lanewise = pytest.mark.parametrize("name", LANEWISE)
grouped = pytest.mark.parametrize("name", GROUPED)


def compare_lanewise(name: str, *operands: np.ndarray) -> None:
    of_one, _, dtype = LANEWISE[name]
    got = getattr(isa, name)(*operands)
    assert got.dtype == dtype
    assert got.tolist() == [of_one(*lane) for lane in zip(*(operand.tolist() for operand in operands))]


def compare_grouped(name: str, acc: np.ndarray, *others: np.ndarray) -> None:
    of_one, size, _ = GROUPED[name]
    got = getattr(isa, name)(acc, *others)
    assert got.dtype == np.int32
    groups = [operand.reshape(-1, size).tolist() for operand in others]
    assert got.tolist() == [of_one(*lane) for lane in zip(acc.tolist(), *groups)]


@lanewise
def test_a_lane_is_what_the_manual_says_at_every_combination_of_corners(name):
    # The smaller operands at every power of two and beside it; three int32 or int16 operands would be too many.
    values = [corners(dtype).tolist() for dtype in LANEWISE[name][1]]
    operands = np.array(list(itertools.product(*values))).T
    assert operands.shape[1] == np.prod([len(v) for v in values])
    compare_lanewise(name, *operands)


@grouped
def test_a_group_of_lanes_is_what_the_manual_says_at_every_combination_of_the_ends(name):
    _, size, dtypes = GROUPED[name]
    ends = [(np.iinfo(dtype).min, -1, np.iinfo(dtype).max) for dtype in dtypes[1:] for _ in range(size)]
    combinations = np.array(list(itertools.product(corners("i4").tolist(), *(ends if size == 2 else [
        (e[0], e[2]) for e in ends]))))
    acc, rest = combinations[:, 0], combinations[:, 1:]
    others = [rest[:, i * size:(i + 1) * size].ravel() for i in range(len(dtypes) - 1)]
    compare_grouped(name, acc, *others)


@instructions
def test_random_and_extreme_lanes_are_what_the_manual_says(name):
    rng = np.random.default_rng(list(EVERY).index(name))
    if name in LANEWISE:
        compare_lanewise(name, *(lanes(rng, dtype, 4096) for dtype in EVERY[name]))
    else:
        size = GROUPED[name][1]
        acc, *others = EVERY[name]
        compare_grouped(name, lanes(rng, acc, 4096), *(lanes(rng, dtype, size * 4096) for dtype in others))


def test_every_product_of_two_bytes_fits_the_int16_of_smull():
    a, b = (pairs.ravel() for pairs in np.mgrid[-128:128, -128:128])
    compare_lanewise("smull", a, b)


def test_srshl_reads_every_shift_byte_at_every_corner():
    x, shift = np.array(list(itertools.product(corners("i4").tolist(), range(-128, 128)))).T
    compare_lanewise("srshl", x, shift)


def test_sqxtn_narrows_every_int16():
    compare_lanewise("sqxtn", np.arange(-(2**15), 2**15))


@pytest.mark.parametrize("name, operands, result", [
    ("smlal", (32767, 1, 1), -32768),  # modulo 2^16
    ("smlal", (-32768, -128, 127), 16512),
    ("smull", (-128, -128), 16384),
    ("sqrdmulh", (-(2**31), -(2**31)), 2**31 - 1),  # the only pair that saturates
    ("sqrdmulh", (-(2**31), 2**31 - 1), -(2**31) + 1),
    ("sqrdmulh", (1, 2**30), 1),  # 1/2 goes up
    ("sqrdmulh", (-1, 2**30), 0),  # and so does -1/2
    ("sqrdmulh", (3, -(2**30)), -1),
    ("srshl", (-(2**31), -31), -1),
    ("srshl", (2**31 - 1, -31), 1),  # the rounding constant is added without overflow
    ("srshl", (2**31 - 1, -32), 0),
    ("srshl", (-(2**31), -32), 0),  # -1/2 goes up
    ("srshl", (3, 31), -(2**31)),  # modulo 2^32
    ("srshl", (-1, 32), 0),
    ("srshl", (-1, 127), 0),
    ("srshl", (-1, -128), 0),
    ("sqxtn", (32767,), 127),
    ("sqxtn", (-129,), -128),
])
def test_lanes_by_hand_scalars_included(name, operands, result):
    got = getattr(isa, name)(*operands)
    assert (int(got), got.shape, got.dtype) == (result, (), LANEWISE[name][2])


@pytest.mark.parametrize("name, operands, result", [
    ("sadalp", ([2**31 - 1, -(2**31)], [1, 0, 0, -1]), [-(2**31), 2**31 - 1]),  # modulo 2^32
    ("sadalp", ([2**31 - 1], [32767, -32768]), [2**31 - 2]),  # both are added before the register wraps
    ("sadalp", ([0], [-32768, -32768]), [-65536]),  # the pair is wider than int16
    ("sdot", ([2**31 - 65536], [-128] * 4, [-128] * 4), [-(2**31)]),
    ("sdot", ([0, 0], [1, 2, 3, 4, 5, 6, 7, 8], [1, 10, 100, -1, 0, 0, 0, 1]), [317, 8]),
])
def test_groups_by_hand(name, operands, result):
    got = getattr(isa, name)(*operands)
    assert (got.tolist(), got.dtype) == (result, np.int32)


@instructions
def test_arrays_of_any_shape_are_lanes_and_grouping_runs_along_the_last_axis(name):
    rng = np.random.default_rng(0)
    size = GROUPED[name][1] if name in GROUPED else 1
    widths = [4] * len(EVERY[name]) if size == 1 else [4, *[4 * size] * (len(EVERY[name]) - 1)]
    operands = [lanes(rng, dtype, 3 * width)[:6 * width].reshape(3, 2, width)
                for dtype, width in zip(EVERY[name], widths)]
    got = getattr(isa, name)(*operands)
    assert got.shape == (3, 2, 4)
    for i, j in np.ndindex(3, 2):
        assert np.array_equal(got[i, j], getattr(isa, name)(*(operand[i, j] for operand in operands)))


@instructions
def test_a_value_that_no_lane_holds_is_refused_by_name(name):
    operation = getattr(isa, name)
    size = GROUPED[name][1] if name in GROUPED else 1
    names = {"smull": "a b", "smlal": "acc a b", "mla": "acc a b", "sqrdmulh": "a b", "srshl": "x shift",
             "sqxtn": "x", "sadalp": "acc x", "sdot": "acc a b"}[name].split()
    for position, (operand, dtype) in enumerate(zip(names, EVERY[name])):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        good = [np.zeros(2 if i == 0 else 2 * size, np.int64) for i in range(len(names))]
        for value in (low - 1, high + 1, 2**62):
            bad = [array.copy() for array in good]
            bad[position][1] = value
            seen = f"{min(value, 0)}..{max(value, 0)}"
            message = f"{operand} must hold codes of int{8 * np.dtype(dtype).itemsize} ({low}..{high}), got {seen}"
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                operation(*bad)
        bad = list(good)
        bad[position] = np.full(good[position].shape, 2**64 - 1, np.uint64)  # -1 if it were cast before it is read
        with pytest.raises(ValueError, match=rf"^{operand} must hold codes of int.* got {2**64 - 1}\.\.{2**64 - 1}$"):
            operation(*bad)
        for kind in (np.float64, bool, object):
            bad[position] = good[position].astype(kind)
            message = f"{operand} must hold integers of at most 64 bits, got dtype {np.dtype(kind)}"
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                operation(*bad)


@pytest.mark.parametrize("acc, x", [(1, 3), (2, 2), (2, 5), ((2, 1), 2), ((2, 1), (1, 2)), (0, 2)])
def test_sadalp_refuses_anything_but_two_lanes_for_one(acc, x):
    acc, x = np.zeros(acc, int), np.zeros(x, int)
    message = f"x must have twice the lanes of acc, got shapes {x.shape} and {acc.shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        isa.sadalp(acc, x)


@pytest.mark.parametrize("acc, products", [(1, 3), (2, 4), (1, 8), ((2, 1), 4)])
def test_sdot_refuses_anything_but_four_lanes_for_one(acc, products):
    acc, a = np.zeros(acc, int), np.zeros(products, int)
    message = f"a and b must have four times the lanes of acc, got {a.shape} for {acc.shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        isa.sdot(acc, a, a)


@pytest.mark.parametrize("call", [lambda: isa.sadalp(0, [1, 2]), lambda: isa.sdot(0, [1] * 4, [1] * 4)],
                         ids=["sadalp", "sdot"])
def test_a_lone_accumulator_has_no_lanes_to_group_by_and_is_refused(call):
    with pytest.raises(ValueError, match=r"the lanes of acc, got .*\(\)"):
        call()
