"""Why a device's answers differ: models that would give just these answers, named.

Said only where a model gives every answer of the case. Where several do, all are named.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.integers.devices import names_of
from refquant.integers.dialects import INT32
from refquant.integers.formats import IntFormat
from refquant.vectors.cases import POISON, Tensor, format_of
from refquant.vectors.descriptions import NO_ANSWER, rows_of
from refquant.vectors.faults import faults
from refquant.vectors.identify import identify_rows, swapped
from refquant.vectors.operations import OPERATIONS, Arrays, Parameters, per_channel

# Models are computed for cases of at most so many products, and dialects sought in so many rows.
_MOST_PRODUCTS, _MOST_ROWS = 1 << 26, 4096


def poison_word(fmt: IntFormat) -> int:
    """The code whose bytes are all POISON, masked to the width."""
    word = int.from_bytes(bytes([POISON]) * 8, "little") & ((1 << fmt.bits) - 1)
    return word - (1 << fmt.bits) if fmt.signed and word >> (fmt.bits - 1) else word


def by_looks(expected: Tensor, got: np.ndarray) -> dict[str, str]:
    """What the answers alone tell, by a keyword: nothing written, zeros, an order of elements or bytes."""
    fmt, found = expected.format, dict[str, str]()
    if fmt is None or not got.size:
        return found
    got, wanted = got.astype(np.int64), expected.values.astype(np.int64)
    wrong, flat = got != wanted, wanted.ravel()
    if (got[wrong] == poison_word(fmt)).all() and fmt.bits > 2:
        found["poison"] = (f"{int(wrong.sum())} of {wrong.size} words still hold the poison {poison_word(fmt)} "
                           f"({POISON:02x} in every byte): never written")
    if not got.any():
        found["zeros"] = "all answers are 0"
    for lanes in (2, 4, 8, 16):
        if "lanes" not in found and np.array_equal(swapped(flat, lanes), got.ravel()):
            found["lanes"] = f"lanes swapped: every {lanes} neighbours are in reverse order"
    if fmt.bits == 8 and np.array_equal(((flat & 15) << 4) | (flat >> 4 & 15), got.ravel() & 255):
        found["nibbles"] = "nibbles swapped in every byte"
    if fmt.bits in (16, 32, 64) and np.array_equal(wanted.astype(fmt.dtype).byteswap(), got.astype(fmt.dtype)):
        found["bytes"] = "bytes in the other order (endianness)"
    if got.ndim == 4 and np.array_equal(wanted.transpose(0, 2, 3, 1).ravel(), got.ravel()):
        found["layout"] = "written channels last (N H W C)"
    if got.ndim >= 2 and np.array_equal(wanted.swapaxes(-1, -2).ravel(), got.ravel()):
        found["transposed"] = "rows and columns exchanged"
    for places in (1, -1):
        if flat.size > 2 and np.array_equal(np.roll(flat, places), got.ravel()):
            found["moved"] = f"every answer is {'late' if places > 0 else 'early'} by one element"
    if np.array_equal(-wanted, got):
        found["sign"] = "the sign is inverted"
    difference = np.unique(got - wanted)
    if len(difference) == 1 and got.size > 1:
        found["off"] = f"every answer is off by {int(difference[0]):+d}"
    return found


def products(operation: str, t: Arrays, size: int) -> int:
    """About how many multiplications a case takes."""
    return size * t["w"][0].size if operation in ("conv", "winograd") else size


def by_models(operation: str, t: Arrays, p: Parameters, wanted: np.ndarray, got: np.ndarray) -> list[str]:
    """The bugs whose models give all of ``got``."""
    if operation not in OPERATIONS or products(operation, t, wanted.size) > _MOST_PRODUCTS:
        return []
    wanted, got = wanted.astype(np.int64), got.astype(np.int64)
    return [name for name, y in faults(operation, t, p)
            if y.shape == got.shape and ((y == got) | (y == NO_ANSWER)).all()
            and ((y != wanted) & (y != NO_ANSWER)).any()]


def by_dialect(operation: str, t: Arrays, p: Parameters, acc: np.ndarray | None, got: np.ndarray) -> str | None:
    """The dialects, of all that ``identify`` knows, that would give these codes of the right sums."""
    sums = {"requantize": lambda: (t["x"], t["m"], t["shift"], t["zero_point"]),
            "shift_scaler": lambda: (t["acc"], t["m"], t["shift"] - t["k"], p["y_zero_point"]),
            "conv": lambda: (acc, per_channel(t["m"]), per_channel(t["shift"]), p["y_zero_point"]),
            "average_pool": lambda: (acc, t["m"], t["shift"], p["y_zero_point"])}
    fmt = format_of(p["y_format"]) if "y_format" in p else None
    if operation not in sums or fmt is None or not 3 <= fmt.bits <= 16:
        return None
    columns: Any = sums[operation]()
    if columns[0] is None or (operation == "conv" and got.ndim == 2):
        return None
    x, m, shift, z, y = (np.asarray(v).ravel() for v in np.broadcast_arrays(*columns, got))
    low, high = p.get("low", fmt.min), p.get("high", fmt.max)
    usable = (m >= 2**30) & (shift >= -31) & (shift <= 30) & (x >= INT32.min) & (x <= INT32.max)
    if (low, high) != (fmt.min, fmt.max):
        usable &= (y > low) & (y < high)
    some = np.flatnonzero(usable)[:_MOST_ROWS]
    if len(some) < 20:
        return None
    try:
        found = identify_rows(rows_of(x[some], m[some], shift[some], z[some]), y[some].astype(np.int64),
                              IntFormat(fmt.bits, fmt.signed))
    except ValueError:
        return None
    if not found.fits or found.classes > 40:
        return None
    named = sorted(found.fits, key=lambda dialect: not names_of(dialect))[:3]
    return "another dialect: " + " or ".join(
        f"{dialect.words}{f' ({names_of(dialect)[0]})' if names_of(dialect) else ''}" for dialect in named) + (
        f" or {len(found.fits) - 3} more" if len(found.fits) > 3 else "")
