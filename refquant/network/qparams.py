"""The reals that a tensor's codes stand for: uniform, or piecewise linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.integers.checks import as_integers, integer, positive
from refquant.integers.formats import IntFormat, check_zero_point
from refquant.scales.linear import dequantize, quantize


@dataclass(frozen=True)
class QuantParams:
    """What a tensor's codes mean: real = (code - zero_point) / scale, code within ``format``."""

    scale: float
    format: IntFormat
    zero_point: int = 0

    def __post_init__(self) -> None:
        positive(self.scale, "scale")
        object.__setattr__(self, "zero_point", check_zero_point(self.zero_point, self.format))

    @property
    def register(self) -> IntFormat:
        """The format into which sums are requantized."""
        return self.format

    def encode(self, wide: np.ndarray) -> np.ndarray:
        """Codes of what a register holds: the same."""
        return wide

    def integers(self, x_q: np.ndarray) -> np.ndarray:
        """What codes stand for, in units of 1/scale: int64."""
        return x_q.astype(np.int64) - self.zero_point

    def quantize(self, x: Any) -> np.ndarray:
        """Reals to codes, ties away from zero."""
        return quantize(x, self.scale, self.format, zero_point=self.zero_point)

    def dequantize(self, x_q: Any) -> np.ndarray:
        """Codes to reals, float64."""
        return dequantize(x_q, self.scale, zero_point=self.zero_point)


@dataclass(frozen=True)
class PiecewiseParams:
    """What a tensor's piecewise linear codes mean (``pwlq``): real = integer(code) / scale.

    A code is sign·(region·(K + 1) + magnitude), with K = 2^(b-1) - 1, or 2^b - 1 without sign. It stands for
    sign·centre_step·magnitude in region 0 and sign·(K·centre_step + tail_step·magnitude) in region 1: both steps are
    integers, and the breakpoint is a level of both regions. Sums are requantized to int16, and then encoded: to
    region 0 up to the breakpoint, to the nearest magnitude, ties up.

    scale: of the integers. bits: b. signed: whether codes have a sign. centre_step, tail_step: 1 or more.
    """

    scale: float
    bits: int
    signed: bool
    centre_step: int
    tail_step: int

    def __post_init__(self) -> None:
        positive(self.scale, "scale")
        integer(self.bits, "bits", 2, 14)
        most = self.register.max // self.largest
        for name in ("centre_step", "tail_step"):
            integer(getattr(self, name), name, 1, most)
        if self.largest * (self.centre_step + self.tail_step) > self.register.max:
            raise ValueError(f"levels must fit {self.register}, got up to "
                             f"{self.largest * (self.centre_step + self.tail_step)}")

    @property
    def zero_point(self) -> int:
        """0: its code is real 0."""
        return 0

    @property
    def register(self) -> IntFormat:
        """The format into which sums are requantized before they are encoded."""
        return IntFormat(16)

    @property
    def largest(self) -> int:
        """K, the largest magnitude of either region."""
        return int(2 ** (self.bits - self.signed) - 1)

    @property
    def format(self) -> IntFormat:
        """Of the codes: b + 1 bits."""
        return IntFormat(self.bits + 1, signed=self.signed, narrow=self.signed)

    def encode(self, wide: Any) -> np.ndarray:
        """Codes of integers that a register holds."""
        wide = np.asarray(wide).astype(np.int64)
        size, end = np.abs(wide) if self.signed else np.maximum(wide, 0), self.largest * self.centre_step
        centre = (2 * size + self.centre_step) // (2 * self.centre_step)
        tail = np.minimum((2 * (size - end) + self.tail_step) // (2 * self.tail_step), self.largest)
        code = np.where(size <= end, centre, self.largest + 1 + tail)
        return np.where(wide < 0, -code, code).astype(self.format.dtype)

    def components(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For every code, lowest first: its signed magnitude in region 0, that in region 1, its sign in region 1."""
        code = np.arange(self.format.min, self.format.max + 1)
        sign, in_tail = np.sign(code), np.abs(code) > self.largest
        return code * ~in_tail, sign * (np.abs(code) - self.largest - 1) * in_tail, sign * in_tail

    def integers(self, x_q: np.ndarray) -> np.ndarray:
        """What codes stand for, in units of 1/scale: int64."""
        centre, tail, sign = self.components()
        levels = self.centre_step * centre + self.tail_step * tail + self.largest * self.centre_step * sign
        return levels[np.asarray(x_q).astype(np.int64) - self.format.min]

    def quantize(self, x: Any) -> np.ndarray:
        """Reals to codes: to the register's integers, ties away from zero, then encoded."""
        return self.encode(quantize(x, self.scale, self.register))

    def dequantize(self, x_q: Any) -> np.ndarray:
        """Codes to reals, float64."""
        return self.integers(as_integers(x_q, "x_q")) / self.scale


TensorParams = QuantParams | PiecewiseParams
