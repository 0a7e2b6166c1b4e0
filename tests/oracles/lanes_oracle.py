"""NEON's instructions and the int16 dot product in Python's integers, one lane and one product at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from refquant.integers.formats import IntFormat
from refquant.strategies import codes, int_formats


def wrapped(value: int, bits: int) -> int:
    """The two's complement number of that many bits: what a register keeps."""
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def clamped(value: int, bits: int) -> int:
    return max(-(2 ** (bits - 1)), min(value, 2 ** (bits - 1) - 1))


def rounded_shift(x: int, shift: int) -> int:
    """(x + round_const) << shift, where a negative shift goes right and round_const is half the last place."""
    return wrapped(x << shift if shift >= 0 else (x + (1 << (-shift - 1))) >> -shift, 32)


def dot_of_four(acc: int, *ab: int) -> int:
    return wrapped(acc + sum(a * b for a, b in zip(ab[:4], ab[4:])), 32)


# As the Arm manual's pseudocode has them.
# instruction: (of one lane, its operands with dtype and elements per lane, dtype of its result)
INSTRUCTIONS = {
    "smull": (lambda a, b: a * b, {"a": ("i1", 1), "b": ("i1", 1)}, "i2"),
    "smlal": (lambda acc, a, b: wrapped(acc + a * b, 16), {"acc": ("i2", 1), "a": ("i1", 1), "b": ("i1", 1)}, "i2"),
    "mla": (lambda acc, a, b: wrapped(acc + a * b, 16), {"acc": ("i2", 1), "a": ("i2", 1), "b": ("i2", 1)}, "i2"),
    "sqrdmulh": (lambda a, b: clamped((2 * a * b + (1 << 31)) >> 32, 32), {"a": ("i4", 1), "b": ("i4", 1)}, "i4"),
    "srshl": (rounded_shift, {"x": ("i4", 1), "shift": ("i1", 1)}, "i4"),
    "sqxtn": (lambda x: clamped(x, 8), {"x": ("i2", 1)}, "i1"),
    "sadalp": (lambda acc, even, odd: wrapped(acc + even + odd, 32), {"acc": ("i4", 1), "x": ("i2", 2)}, "i4"),
    "sdot": (dot_of_four, {"acc": ("i4", 1), "a": ("i1", 4), "b": ("i1", 4)}, "i4"),
}
POLICIES = ["wrap", "saturate", "trap"]


class Overflow(Exception):
    """An instruction, its step, the lane it overflows and the value: in the order of the loop."""


def plain_dot(x: list[int], w: list[int], products_per_lane: int, policy: str, wide_bits: int = 32
              ) -> tuple[int, list]:
    """(the sum, [(instruction, step, what it would leave in each lane)]), one product at a time.

    `wide_bits`: 32, or fewer, so that short sums overflow the second stage as well.
    """
    trace = []

    def settle(instruction: str, step: int, values: list[int], bits: int) -> list[int]:
        trace.append((instruction, step, values))
        for lane, value in enumerate(values):
            if policy == "trap" and wrapped(value, bits) != value:
                raise Overflow(instruction, step, lane, value)
        return [(clamped if policy == "saturate" else wrapped)(value, bits) for value in values]

    int16, int32, last = [0] * 8, [0] * 4, (len(x) - 1) // 8
    for step in range(last + 1):
        would = list(int16)
        for i in range(8 * step, min(8 * step + 8, len(x))):
            would[i % 8] += x[i] * w[i]
        int16 = settle("SMLAL", step, would, 16)
        if step % products_per_lane == products_per_lane - 1 or step == last:
            int32 = settle("SADALP", step, [int32[j] + int16[2 * j] + int16[2 * j + 1] for j in range(4)], wide_bits)
            int16 = [0] * 8
    total = settle("ADDV", last, [sum(int32)], wide_bits)
    return total[0], trace[:-1]


@st.composite
def hard_codes(draw: st.DrawFn, fmt: IntFormat, shape: tuple[int, ...]) -> np.ndarray:
    """Any codes; or one end of the format everywhere, but for a few of any codes."""
    array = draw(codes(fmt, shape))
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        array[rng.random(shape) >= draw(st.sampled_from([0, 0.03]))] = draw(st.sampled_from([fmt.min, fmt.max]))
    return array


SEVEN, FULL_SEVEN, EIGHT = IntFormat(7, narrow=True), IntFormat(7), IntFormat(8)
FORMATS = (st.tuples(int_formats(1, 8), int_formats(1, 8))
           | st.sampled_from([(SEVEN, SEVEN), (FULL_SEVEN, FULL_SEVEN), (EIGHT, EIGHT)]))  # these overflow


@st.composite
def operands(draw: st.DrawFn, formats: st.SearchStrategy[tuple[IntFormat, IntFormat]] = FORMATS, longest: int = 150):
    """(x, w, their formats)."""
    x_format, w_format = draw(formats)
    length = draw(st.integers(1, longest))
    return draw(hard_codes(x_format, (length,))), draw(hard_codes(w_format, (length,))), x_format, w_format
