"""Lane operations against plain Python integers, by the Arm manual's formulas."""
from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from consumers.c.binary_files import corners, lanes
from lanes_oracle import INSTRUCTIONS

import refquant.integers.simd as isa

instructions = pytest.mark.parametrize("name", INSTRUCTIONS)


def compare(name: str, *operands: np.ndarray) -> None:
    of_one, sizes, dtype = INSTRUCTIONS[name]
    got = getattr(isa, name)(*operands)
    elements = [operand.reshape(-1, size).T.tolist() for operand, (_, size) in zip(operands, sizes.values())]
    assert got.dtype == dtype and got.tolist() == list(map(of_one, *itertools.chain(*elements)))


@instructions
def test_a_lane_is_what_the_manual_says_at_every_combination_of_corners(name):
    operands = INSTRUCTIONS[name][1]
    # Every power of two and its neighbours; of accumulators and of a group's elements the ends.
    values = [corners(dtype) if size == 1 and operand != "acc" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
              for operand, (dtype, size) in operands.items() for _ in range(size)]
    elements = np.stack(np.meshgrid(*values)).reshape(len(values), -1)
    groups = np.split(elements, np.cumsum([size for _, size in operands.values()])[:-1])
    compare(name, *(group.T.ravel() for group in groups))


@pytest.mark.parametrize("name, operands", [
    ("smull", np.mgrid[-128:128, -128:128]),
    ("srshl", np.array(list(itertools.product(corners("i4").tolist(), range(-128, 128)))).T),
    ("sqxtn", np.arange(-(2**15), 2**15)[None])], ids=["every pair of bytes", "every shift", "every int16"])
def test_a_lane_is_what_the_manual_says_for(name, operands):
    compare(name, *(operand.ravel() for operand in operands))


@instructions
def test_random_and_extreme_lanes_of_any_shape_are_what_the_manual_says(name):
    rng = np.random.default_rng(list(INSTRUCTIONS).index(name))
    operands = [lanes(rng, dtype, 4096 * size) for dtype, size in INSTRUCTIONS[name][1].values()]
    compare(name, *operands)
    planes = [operand.reshape(4, 2, -1) for operand in operands]
    assert np.array_equal(getattr(isa, name)(*planes).ravel(), getattr(isa, name)(*operands))


@pytest.mark.parametrize("name", [name for name in INSTRUCTIONS if name not in ("sadalp", "sdot")])
def test_single_numbers_are_lanes(name):
    of_one, operands, dtype = INSTRUCTIONS[name]
    got = getattr(isa, name)(*[1] * len(operands))
    assert (int(got), got.shape, got.dtype) == (of_one(*[1] * len(operands)), (), dtype)


@instructions
def test_a_value_that_no_lane_holds_is_refused_by_name(name):
    operands = INSTRUCTIONS[name][1]
    for position, (operand, (dtype, _)) in enumerate(operands.items()):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        for value in (low - 1, high + 1):
            bad = [np.zeros(2 * size, np.int64) for _, size in operands.values()]
            bad[position][1] = value
            seen = f"{min(value, 0)}..{max(value, 0)}"
            message = f"{operand} must hold codes of int{8 * np.dtype(dtype).itemsize} ({low}..{high}), got {seen}"
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                getattr(isa, name)(*bad)
