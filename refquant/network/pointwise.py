"""Functions of one value, and of two tensors place by place.

A function of one value is an expression: a nested tuple such as ("mul", X, ("sigmoid", X)), SiLU. It is computed in
floats, and for the tables of codes a second time in decimals: exp and tanh differ between machines in their last bit,
which must not decide a code.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from inspect import signature
from typing import Any, ClassVar

import numpy as np
from scipy import special

from refquant.network.graph import Node, Shape, broadcast_shape

X = "x"
Expression = Any  # X, or (name, *arguments): numbers, tuples of one number per channel, expressions
_DIGITS = 60
# A float within this of a tie, relative to its size where that is larger, is decided in decimals.
NEAR_TIE = 1e-9


def _erf(x: Decimal) -> Decimal:
    """2/√π · Σ (-1)^n x^(2n+1) / (n! (2n+1)); beyond 12 it is ±1 to 60 digits."""
    if abs(x) > 12:
        return Decimal(1).copy_sign(x)
    with decimal.localcontext() as context:
        context.prec = 160  # the terms of x = 12 reach 10^61
        term, total, n = x, x, 0
        while abs(term) > Decimal(10) ** -70:
            n += 1
            term *= -x * x / n
            total += term / (2 * n + 1)
        return total * 2 / _pi().sqrt()


def _pi() -> Decimal:
    """Machin: π = 16·atan(1/5) - 4·atan(1/239)."""
    def atan(n: int) -> Decimal:
        power, total, k = Decimal(1) / n, Decimal(0), 0
        while abs(power) > Decimal(10) ** -(decimal.getcontext().prec + 3):
            total += power / (2 * k + 1) * (-1) ** k
            power, k = power / (n * n), k + 1
        return total
    return 16 * atan(5) - 4 * atan(239)


def _sigmoid(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp()) if x > -10**6 else Decimal(0)


def _clipped(x: Any, low: Any, high: Any) -> Any:
    return min(max(x, low), high)


def _softplus(x: Decimal) -> Decimal:
    return max(x, Decimal(0)) + (1 + (-abs(x)).exp()).ln()


# name: (in floats, in decimals); the first arguments are numbers, the last ones values.
PRIMITIVES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "mul": (np.multiply, lambda a, b: a * b),
    "add": (np.add, lambda a, b: a + b),
    "affine": (lambda a, b, x: a * x + b, lambda a, b, x: a * x + b),
    "clip": (lambda low, high, x: np.clip(x, low, high), lambda low, high, x: _clipped(x, low, high)),
    "leaky": (lambda a, x: np.where(x < 0, a * x, x), lambda a, x: a * x if x < 0 else x),
    "elu": (lambda a, x: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
            lambda a, x: a * (x.exp() - 1) if x < 0 else x),
    "exp": (np.exp, lambda x: x.exp()),
    "abs": (np.abs, abs),
    "sqrt": (np.sqrt, lambda x: x.sqrt()),
    "sigmoid": (special.expit, _sigmoid),
    "tanh": (np.tanh, lambda x: 2 * _sigmoid(2 * x) - 1),
    "softplus": (lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), _softplus),
    "erf": (special.erf, _erf),
}
_ARITIES = {name: len(signature(functions[1]).parameters) for name, functions in PRIMITIVES.items()}


def evaluate_expression(expression: Expression, x: np.ndarray, channel_axis: int = 1) -> np.ndarray:
    """The expression of every value, in x's dtype. Tuples of numbers are one per place of ``channel_axis``."""
    if expression == X:
        return x
    name, *arguments = expression
    values = [_number(a, x, channel_axis) if _is_number(a) else evaluate_expression(a, x, channel_axis)
              for a in arguments]
    return PRIMITIVES[name][0](*values).astype(x.dtype, copy=False)


def exact_value(expression: Expression, x: Fraction, channel: int = 0) -> Fraction:
    """The expression of one rational, to about 60 digits."""
    with decimal.localcontext() as context:
        context.prec, context.Emin, context.Emax = _DIGITS, -10**9, 10**9
        return Fraction(_in_decimals(expression, Decimal(x.numerator) / Decimal(x.denominator), channel))


def _in_decimals(expression: Expression, x: Decimal, channel: int) -> Decimal:
    if expression == X:
        return x
    name, *arguments = expression
    values = [Decimal(a[channel] if isinstance(a, tuple) else a) if _is_number(a) else _in_decimals(a, x, channel)
              for a in arguments]
    value: Decimal = PRIMITIVES[name][1](*values)
    return value


def _is_number(argument: Any) -> bool:
    """A number, or a tuple of one number per channel; expressions are X and tuples that begin with a name."""
    return argument != X and not (isinstance(argument, tuple) and argument and isinstance(argument[0], str))


def _number(argument: Any, x: np.ndarray, channel_axis: int) -> Any:
    if not isinstance(argument, tuple):
        return x.dtype.type(argument)
    shape = [1] * x.ndim
    shape[channel_axis] = len(argument)
    return np.array(argument, x.dtype).reshape(shape)


def channels_of(expression: Expression) -> int:
    """How many channels the expression tells apart: 0 where all are alike."""
    if expression == X or not isinstance(expression, tuple):
        return 0
    if _is_number(expression):
        return len(expression)
    return max((channels_of(argument) for argument in expression[1:]), default=0)


def compose(outer: Expression, inner: Expression) -> Expression:
    """``outer`` with ``inner`` for its X."""
    if outer == X:
        return inner
    if not isinstance(outer, tuple) or _is_number(outer):
        return outer
    return (outer[0], *(compose(argument, inner) for argument in outer[1:]))


@dataclass(frozen=True, eq=False)
class Pointwise(Node):
    """y = expression(x), value by value; tuples of numbers are one for each place of axis 0."""

    expression: Expression

    def check(self) -> None:
        def reads_x(part: Expression) -> bool:
            if part == X:
                return True
            if _is_number(part):
                numbers = part if isinstance(part, tuple) else (part,)
                if not numbers or not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
                    raise ValueError(f"an expression holds finite numbers, got {numbers[:8]}")
                return False
            name, *arguments = part
            if name not in PRIMITIVES:
                raise ValueError(f"a function must be one of {', '.join(PRIMITIVES)}, got {name!r}")
            if len(arguments) != _ARITIES[name]:
                raise ValueError(f"the number of arguments of {name} must be {_ARITIES[name]}, got {len(arguments)}")
            return any([reads_x(argument) for argument in arguments])
        if not reads_x(self.expression):
            raise ValueError(f"an expression must read {X!r}, got {self.expression!r}")

    def output_shape(self, *shapes: Shape) -> Shape:
        channels = channels_of(self.expression)
        if channels not in (0, shapes[0][0]):
            raise ValueError(f"numbers per channel must be {shapes[0][0]}, got {channels}")
        return shapes[0]


@dataclass(frozen=True, eq=False)
class Mul(Node):
    """Product of two tensors; axes of size 1 broadcast."""

    arity: ClassVar[int | None] = 2

    def output_shape(self, *shapes: Shape) -> Shape:
        return broadcast_shape(*shapes)


@dataclass(frozen=True, eq=False)
class Largest(Node):
    """The larger of two tensors' values, place by place; with ``least`` the smaller."""

    arity: ClassVar[int | None] = 2
    least: bool = False

    def output_shape(self, *shapes: Shape) -> Shape:
        return broadcast_shape(*shapes)
