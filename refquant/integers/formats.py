"""Integer formats: which codes a register of b bits holds, and what happens to a value outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, fitting_int64, integer, one_of


@dataclass(frozen=True)
class IntFormat:
    """The codes of a ``bits``-wide integer register.

    Signed: ``-2^(b-1) .. 2^(b-1)-1``; ``narrow`` drops the lowest code, which makes the range
    symmetric as in EasyQuant Eq. 1; unsigned: ``0 .. 2^b-1``.

    bits: 1..64. signed: two's complement if true. narrow: only for signed formats of 2 bits or more.
    Raises ValueError for any other combination.

    >>> fmt = IntFormat(7, narrow=True)
    >>> fmt.min, fmt.max, str(fmt)
    (-63, 63, 'int7 narrow')
    """

    bits: int
    signed: bool = True
    narrow: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", integer(self.bits, "bits", 1, 64))
        for name in ("signed", "narrow"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
            object.__setattr__(self, name, bool(getattr(self, name)))
        if self.narrow and not (self.signed and self.bits >= 2):
            raise ValueError(f"narrow needs a signed format of 2 bits or more, got {self.bits} bits, "
                             f"signed={self.signed}")

    @property
    def min(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) + self.narrow if self.signed else 0

    @property
    def max(self) -> int:
        """The largest code."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def dtype(self) -> np.dtype:
        """The smallest NumPy integer type that holds every code."""
        width = next(w for w in (8, 16, 32, 64) if w >= self.bits)
        return np.dtype(f"{'int' if self.signed else 'uint'}{width}")

    def __str__(self) -> str:
        return f"{'int' if self.signed else 'uint'}{self.bits}{' narrow' if self.narrow else ''}"


def smallest_format(low: int, high: int) -> IntFormat:
    """The format of fewest bits that holds low..high: two's complement, or unsigned where nothing is negative.

    ValueError beyond 64 bits.

    >>> str(smallest_format(-142884, 142884)), str(smallest_format(0, 127))
    ('int19', 'uint7')
    """
    if low >= 0:
        return IntFormat(max(high.bit_length(), 1), signed=False)
    return IntFormat(max((-low - 1).bit_length(), max(high, 0).bit_length()) + 1)


def check_format(fmt: Any, name: str = "fmt") -> IntFormat:
    """``fmt``; ValueError unless it is an IntFormat."""
    if not isinstance(fmt, IntFormat):
        raise ValueError(f"{name} must be an IntFormat, as in IntFormat(8), got {fmt!r}")
    return fmt


def check_codes(codes: Any, fmt: IntFormat, name: str) -> np.ndarray:
    """``codes`` as int64; ValueError naming ``name`` unless they are integers within ``fmt`` and int64.

    >>> check_codes([3, 200], IntFormat(8), "weight")
    Traceback (most recent call last):
    ...
    ValueError: weight must hold codes of int8 (-128..127), got 3..200
    """
    codes, fmt = as_integers(codes, name), check_format(fmt)
    if codes.size and (codes.min() < fmt.min or codes.max() > fmt.max):
        raise ValueError(f"{name} must hold codes of {fmt} ({fmt.min}..{fmt.max}), got {codes.min()}..{codes.max()}")
    return fitting_int64(codes, name)


def check_zero_point(zero_point: Any, fmt: IntFormat) -> int:
    """``zero_point`` as an int; ValueError unless it is a code of ``fmt``."""
    zero_point = integer(zero_point, "zero_point")
    if not fmt.min <= zero_point <= fmt.max:
        raise ValueError(f"zero_point must be a code of {fmt} ({fmt.min}..{fmt.max}), got {zero_point}")
    return zero_point


def frozen_copy(x: Any, dtype: Any = None) -> np.ndarray:
    """A read-only copy, for the parameters a frozen dataclass keeps."""
    copy = np.array(x, dtype=dtype, order="C")
    copy.flags.writeable = False
    return copy


def wrap(x: Any, fmt: IntFormat) -> np.ndarray:
    """Two's-complement wrap-around: the code congruent to ``x`` modulo 2^bits.

    x: integers, any shape. Returns ``fmt.dtype``. ValueError for a narrow format, which is a range
    that no register wraps to, and for floats.

    >>> int(wrap(120 + 100, IntFormat(8)))
    -36
    """
    if check_format(fmt).narrow:
        raise ValueError(f"wrap needs a full-range format, got {fmt}")
    # uint64 arithmetic is modulo 2^64, and 2^bits divides 2^64.
    low = as_integers(x, "x").astype(np.uint64) & np.uint64((1 << fmt.bits) - 1)
    if not fmt.signed:
        return low.astype(fmt.dtype)
    sign = np.uint64(1 << (fmt.bits - 1))
    with np.errstate(over="ignore"):
        return ((low ^ sign) - sign).astype(np.int64).astype(fmt.dtype)


def saturate(x: Any, fmt: IntFormat) -> np.ndarray:
    """``clip(x, fmt.min, fmt.max)``: the nearest code.

    x: integers, any shape. Returns ``fmt.dtype``.

    >>> int(saturate(120 + 100, IntFormat(8)))
    127
    """
    x, fmt = as_integers(x, "x"), check_format(fmt)
    limits = np.iinfo(x.dtype)
    return np.clip(x, max(fmt.min, limits.min), min(fmt.max, limits.max)).astype(fmt.dtype)


def trap(x: Any, fmt: IntFormat, stage: str = "value") -> np.ndarray:
    """``x`` as ``fmt.dtype`` where every element is a code of ``fmt``; otherwise OverflowError.

    x: integers, any shape. The error names ``stage``, the first offending index in C order, its value and the range.

    >>> trap([1, 200], IntFormat(8), "sum")
    Traceback (most recent call last):
    ...
    OverflowError: sum[1] is 200, outside int8 (-128..127)
    """
    x, fmt = as_integers(x, "x"), check_format(fmt)
    outside = (x < fmt.min) | (x > fmt.max)
    if outside.any():
        index = np.unravel_index(int(np.argmax(outside)), x.shape)
        where = f"[{', '.join(str(int(i)) for i in index)}]" if index else ""
        raise OverflowError(f"{stage}{where} is {int(x[index])}, outside {fmt} ({fmt.min}..{fmt.max})")
    return x.astype(fmt.dtype)


POLICIES = {
    "wrap": lambda x, fmt, stage: wrap(x, fmt),
    "saturate": lambda x, fmt, stage: saturate(x, fmt),
    "trap": trap,
}


def apply_policy(x: Any, fmt: IntFormat, policy: str, stage: str = "value") -> np.ndarray:
    """``wrap``, ``saturate`` or ``trap`` by name; ValueError for another name."""
    one_of(policy, POLICIES, "policy")
    return POLICIES[policy](x, fmt, stage)
