"""Checks of arguments, each once: every public function asks here, before it computes anything.

Each returns the value in the form that the code works on, or raises a ValueError of one sentence: the argument's
name, what was expected, and what was got.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def is_integer(value: Any) -> bool:
    """A Python or NumPy integer; True and False do not count."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def integer(value: Any, name: str, least: int | None = None, most: int | None = None) -> int:
    """``value`` as an int from ``least`` to ``most``.

    >>> integer(200, "zero_point", -128, 127)
    Traceback (most recent call last):
    ...
    ValueError: zero_point must be an integer from -128 to 127, got 200
    """
    whole = int(value) if is_integer(value) else None
    if whole is not None and (least is None or whole >= least) and (most is None or whole <= most):
        return whole
    limits = "" if least is None else f" >= {least}" if most is None else f" from {least} to {most}"
    raise ValueError(f"{name} must be an integer{limits}, got {repr(value) if whole is None else whole}")


def as_integers(x: Any, name: str) -> np.ndarray:
    """``x`` as an int64 array, or uint64 where it is that."""
    x = np.asarray(x)
    if x.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integers of at most 64 bits, got dtype {x.dtype}")
    wide_unsigned = x.dtype.kind == "u" and x.dtype.itemsize == 8
    return x.astype(np.uint64 if wide_unsigned else np.int64, copy=False)


def fitting_int64(x: Any, name: str) -> np.ndarray:
    """``x`` as integers that int64 holds, narrow dtypes as they are."""
    x = np.asarray(x)
    if x.dtype.itemsize < 8 and x.dtype.kind in "iu":
        return x
    x = as_integers(x, name)
    if x.dtype == np.uint64 and x.size and x.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit int64, got {x.max()}")
    return x.astype(np.int64, copy=False)


def finite(x: Any, name: str, kinds: str = "f") -> np.ndarray:
    """``x`` as an array of finite floats of at most 64 bits; ``kinds`` "fiu" takes integers too, as they are.

    >>> finite([0.5, float("nan")], "x")
    Traceback (most recent call last):
    ...
    ValueError: x must be finite, got NaN or infinity
    """
    x = np.asarray(x)
    if x.dtype.kind not in kinds or x.dtype.itemsize > 8:
        wanted = "floats" if kinds == "f" else "numbers"
        raise ValueError(f"{name} must hold {wanted} of at most 64 bits, got dtype {x.dtype}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return x


def native(x: Any) -> np.ndarray:
    """``x`` as an array in the machine's byte order."""
    x = np.asarray(x)
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def float32_or_float64(x: Any, name: str) -> np.ndarray:
    """``x`` as an array of finite float32 or float64 that is not empty."""
    x = native(x)
    if x.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must hold float32 or float64, got dtype {x.dtype}")
    if x.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {x.shape}")
    return finite(x, name)


def positive(x: Any, name: str) -> np.ndarray:
    """``x`` as an array of finite numbers above zero, of any real dtype of at most 64 bits."""
    x = np.asarray(x)
    if x.dtype.kind not in "fiu" or x.dtype.itemsize > 8:
        raise ValueError(f"{name} must be a number of at most 64 bits, got dtype {x.dtype}")
    good = np.isfinite(x) & (x > 0)
    if not good.all():
        raise ValueError(f"{name} must be finite and > 0, got {x[~good].flat[0]}")
    return x


def moderate(peak: float, what: str) -> None:
    """ValueError unless float64 holds squares of magnitudes up to ``peak``, and their sums."""
    if not (peak == 0 or 1e-140 < peak < 1e140):
        raise ValueError(f"{what} must be 0 or from 1e-140 to 1e140, got {peak:.3g}")


def one_of(value: Any, choices: Any, name: str) -> None:
    """ValueError unless ``value`` is one of the names ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
