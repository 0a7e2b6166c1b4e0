"""Bugs of codes and of dot products: what a device answers that requantizes, quantizes or adds up wrongly.

``faults`` says what a model is. ``requantizing`` serves every operation whose sums become codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from refquant.integers.devices import dialect_of
from refquant.integers.dialects import DIALECTS, INT32, Dialect, legal_shifts
from refquant.integers.formats import IntFormat, saturate, wrap
from refquant.integers.rounding import shift_right
from refquant.integers.simd import INT16
from refquant.scales.linear import quantize
from refquant.vectors import operations as op
from refquant.vectors.cases import described, format_of
from refquant.vectors.descriptions import canonical
from refquant.vectors.identify import swapped
from refquant.vectors.operations import Arrays, Parameters, codes_of


class Fault(NamedTuple):
    """name: the bug in a few words. run: inputs and parameters to what stands in ``expected``."""

    name: str
    run: Callable[[Arrays, Parameters], np.ndarray | None]


def wrapped(x: np.ndarray, fmt: IntFormat) -> np.ndarray:
    """Modulo 2^bits, narrow or not, int64."""
    return wrap(x, IntFormat(fmt.bits, fmt.signed)).astype(np.int64)


def _full(p: Parameters) -> Parameters:
    return {**p, "y_format": {**p["y_format"], "narrow": False}}


def _unclamped(p: Parameters) -> Parameters:
    return {name: value for name, value in p.items() if name not in ("low", "high")}


def endless(p: Parameters) -> Parameters:
    """The parameters under which values before the word ``end`` come out: for sums of int32 and codes that fit it."""
    return {**_unclamped(p), "y_format": described(INT32), "y_zero_point": 0}


# --- how sums become codes: for every operation that requantizes -----------------------------------------------

def requantizing(codes: Callable[[Arrays, Parameters, dict[str, Any]], np.ndarray | None], p: Parameters,
                 acc: np.ndarray, shift: np.ndarray) -> Iterator[Fault]:
    """Bugs of a requantization.

    codes: the operation's codes with some of acc, m, shift, zero_point, p replaced. acc: the sums; registers of 16 or
    24 bits are bugs only of those that do not fit. shift: broadcasts against them.

    Left out is what cannot answer otherwise, by these laws:

    1. Dialects of one ``canonical`` description answer alike; and where every x·2^shift fits int32, so do those that
       differ in the word left alone.
    2. A dialect that takes no left shift takes a shift with the other sign only where it is 0.
    3. No register wraps to a narrow range.
    """
    reach = max(int(acc.max()), -int(acc.min()) - 1)

    own, fmt = dialect_of(p["dialect"]), format_of(p["y_format"])
    moved = np.ldexp(acc.astype(float), np.maximum(shift, 0))
    fits = bool((moved >= INT32.min).all() and (moved <= INT32.max).all())

    def law(words: Dialect) -> Dialect:
        return canonical(replace(words, left="merged") if fits else words, fmt)

    def changed(**by: Callable[..., Any]) -> Callable[[Arrays, Parameters], np.ndarray | None]:
        return lambda t, p: codes(t, p, by)

    for other in DIALECTS:
        if law(dialect_of(other)) != law(own):
            yield Fault(f"dialect {other}", changed(p=lambda p, name=other: {**p, "dialect": name}))
    for last, name in (("toward_zero", "drops bits toward zero"), ("half_down", "rounding constant one too small"),
                       ("half_even", "ties to even"), ("half_away", "ties away from zero"),
                       ("floor", "never rounds")):
        words = replace(own, last=last)
        if law(words) not in (law(own), *(law(dialect_of(known)) for known in DIALECTS)):
            yield Fault(name, changed(p=lambda p, words=words: {**p, "dialect": words.words}))
    end = "wrap" if own.end == "saturate" else "saturate"
    other_end = replace(own, end=end).words
    yield Fault("wraps instead of saturating" if end == "wrap" else "saturates instead of wrapping",
                changed(p=lambda p: {**p, "dialect": other_end}))
    if fmt.narrow:
        yield Fault("lets the code below the narrow range in", changed(p=lambda p: {
            **_full(p), **({"low": p["low"] - (p["low"] == fmt.min)} if "low" in p else {})}))
    if fmt.signed and not fmt.narrow and own.end == "saturate":
        yield Fault("clamps to the narrow range", changed(p=lambda p: {
            **p, "y_format": {**p["y_format"], "narrow": True}}))
    yield Fault("zero point subtracted", changed(zero_point=lambda z: -z))
    yield Fault("zero point forgotten", changed(zero_point=lambda z: 0 * z))
    yield Fault("shift off by one to the right", changed(shift=lambda s: s - 1))
    yield Fault("shift off by one to the left", changed(shift=lambda s: s + 1))
    _, most = legal_shifts(own) or (-31, 30)
    if most > 0:
        yield Fault("shift read with the other sign", changed(shift=lambda s: -s))
    if own.multiplier == "m31":
        yield Fault("m cut to its upper 16 bits", changed(m=lambda m: m >> 15 << 15))
        yield Fault("lowest bit of m dropped", changed(m=lambda m: m - 1))
    if reach >= 2**15:
        yield Fault("sum kept in 16 bits", changed(acc=lambda acc: wrapped(acc, INT16)))
        yield Fault("sum saturates at 16 bits", changed(acc=lambda acc: saturate(acc, INT16).astype(np.int64)))
    if reach >= 2**23:
        yield Fault("sum kept in 24 bits", changed(acc=lambda acc: wrapped(acc, IntFormat(24))))


def _row_codes(t: Arrays, p: Parameters, by: dict[str, Any]) -> np.ndarray:
    x, m, shift, z = (by.get(name, lambda v: v)(t[key]) for name, key in (
        ("acc", "x"), ("m", "m"), ("shift", "shift"), ("zero_point", "zero_point")))
    return codes_of(x, m, shift, by.get("p", lambda p: p)(p), z)


def requantize_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``requantize``."""
    yield from requantizing(_row_codes, p, t["x"], t["shift"])
    fmt = format_of(p["y_format"])
    if dialect_of(p["dialect"]).end == "saturate":  # modulo 2^bits the order does not matter
        yield Fault("zero point added after clamping", lambda t, p: wrapped(
            codes_of(t["x"], t["m"], t["shift"], p, 0 * t["zero_point"]) + t["zero_point"], fmt))
    yield Fault("first row's multiplier for all", lambda t, p: codes_of(
        t["x"], t["m"][:1] + 0 * t["m"], t["shift"][:1] + 0 * t["shift"], p, t["zero_point"]))
    yield Fault("neighbouring lanes swapped", lambda t, p: swapped(op.requantize_case(t, p)["expected"], 2))
    yield Fault("product kept in 32 bits", _narrow_product)


def _narrow_product(t: Arrays, p: Parameters) -> np.ndarray | None:
    own = dialect_of(p["dialect"])
    if own.multiplier != "m31" or own.left != "merged" or own.first != "none":
        return None
    product = wrapped(t["x"] * t["m"], INT32)
    places = np.clip(31 - t["shift"], 0, 62)
    fmt = format_of(p["y_format"])
    return np.clip(shift_right(product, places, own.last) + t["zero_point"], fmt.min, fmt.max)


# --- reals to codes --------------------------------------------------------------------------------------------

def quantize_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``quantize``."""
    def changed(**by: Any) -> Callable[[Arrays, Parameters], np.ndarray]:
        return lambda t, p: op.quantize_case(t, {**p, **by})["expected"]

    fmt = format_of(p["y_format"])
    for rule in ("half_even", "half_up", "toward_zero", "floor", "half_away"):
        if rule != p["rounding"]:
            yield Fault(f"rounds {rule}", changed(rounding=rule))
    for arithmetic in ("exact", "float32_divide", "float32_multiply"):
        if arithmetic != p["arithmetic"]:
            yield Fault(f"arithmetic {arithmetic}", changed(arithmetic=arithmetic))
    wide = {**p["y_format"], "bits": 32, "narrow": False, "signed": True}
    yield Fault("wraps instead of saturating", lambda t, p: wrapped(
        op.quantize_case(t, {**p, "y_format": wide})["expected"], fmt))
    if fmt.narrow:
        yield Fault("lets the code below the narrow range in", changed(y_format={**p["y_format"], "narrow": False}))
    elif fmt.signed:
        yield Fault("clamps to the narrow range", changed(y_format={**p["y_format"], "narrow": True}))
    if fmt.signed:
        yield Fault("negative values become 0", lambda t, p: op.quantize_case({**t, "x": np.maximum(t["x"], 0)}, p)[
            "expected"])
    else:
        yield Fault("unsigned codes end at the signed ones", lambda t, p: np.minimum(
            op.quantize_case(t, p)["expected"], fmt.max // 2))
    if p["y_zero_point"]:
        yield Fault("zero point subtracted", lambda t, p: np.clip(op.quantize_case(
            t, {**p, "y_format": wide})["expected"] - 2 * p["y_zero_point"], fmt.min, fmt.max))
        yield Fault("zero point added after clamping", lambda t, p: wrapped(op.quantize_case(
            t, {**p, "y_zero_point": 0})["expected"] + p["y_zero_point"], fmt))
        yield Fault("zero point added before rounding", changed(
            zero="before" if p["zero"] == "after" else "after"))
    if p["axis"] is not None:
        yield Fault("first channel's scale for all", changed(scale=[p["scale"][0]] * len(p["scale"])))
    else:
        fraction, exponent = np.frexp(p["scale"])
        yield Fault("scale kept in 8 bits", changed(scale=float(np.ldexp(np.rint(fraction * 256), exponent - 8))))
    yield Fault("scale and step confused", lambda t, p: quantize(
        t["x"], 1 / np.array(p["scale"]), fmt, zero_point=p["y_zero_point"], axis=p["axis"]).astype(np.int64))


# --- dot products ----------------------------------------------------------------------------------------------

def dot_int16_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``dot_int16``: of registers, lanes and tails."""
    def changed(**by: Any) -> Callable[[Arrays, Parameters], np.ndarray]:
        return lambda t, p: op.dot_int16_case(t, {**p, **by})["expected"]

    def given(change: Callable[[Arrays], Arrays]) -> Callable[[Arrays, Parameters], np.ndarray]:
        return lambda t, p: op.dot_int16_case({**t, **change(t)}, p)["expected"]

    length = t["x"].shape[1]
    yield Fault("one SMLAL too many per lane", changed(products_per_lane=p["products_per_lane"] + 1))
    if p["products_per_lane"] > 1:
        yield Fault("one SMLAL too few per lane", changed(products_per_lane=p["products_per_lane"] - 1))
    if p["policy"] != "trap":
        yield Fault("lanes wrap" if p["policy"] == "saturate" else "lanes saturate",
                    changed(policy="wrap" if p["policy"] == "saturate" else "saturate"))
    else:
        yield Fault("overflow never reported", lambda t, p: np.zeros(len(t["x"]), np.int64))
        yield Fault("overflow reported from half of the range on", _reported_early)
        return
    yield Fault("lanes of 32 bits", lambda t, p: (t["x"] * t["w"]).sum(axis=1))
    yield Fault("sum kept in 16 bits", lambda t, p: wrapped(op.dot_int16_case(t, p)["expected"], INT16))
    yield Fault("products kept in 8 bits", lambda t, p: wrapped(t["x"] * t["w"], IntFormat(8)).sum(axis=1))
    if length % 8:
        yield Fault("tail of less than 8 dropped", given(lambda t: {
            "x": np.where(np.arange(length) < length // 8 * 8, t["x"], 0)}))
    yield Fault("last product dropped", given(lambda t: {"x": np.where(np.arange(length) < length - 1, t["x"], 0)}))
    if length >= 2:
        yield Fault("neighbouring lanes of one operand swapped", given(lambda t: {"w": swapped(t["w"], 2)}))
    if length >= 8:
        yield Fault("eight lanes of one operand reversed", given(lambda t: {"w": swapped(t["w"], 8)}))
        yield Fault("upper four lanes ignored", given(lambda t: {
            "x": np.where(np.arange(length) % 8 < 4, t["x"], 0)}))
    yield Fault("nibbles of one operand swapped", given(lambda t: {"w": _nibbles(t["w"])}))
    x_format = format_of(p["x_format"])
    if not x_format.signed:
        yield Fault("unsigned codes read as signed", lambda t, p: (
            wrapped(t["x"], IntFormat(8)) * t["w"]).sum(axis=1))
    yield Fault("sign of one operand ignored", lambda t, p: (t["x"] * np.abs(t["w"])).sum(axis=1))


def _reported_early(t: Arrays, p: Parameters) -> np.ndarray:
    lanes = op.dot_int16_case(t, {**p, "policy": "wrap"})["expected_lanes"]
    return np.asarray((np.abs(lanes) >= 2**14).any(axis=(1, 2)), np.int64)


def _nibbles(codes: np.ndarray) -> np.ndarray:
    """Bytes with their halves exchanged; what is no int7 any more is masked to it."""
    word = codes & 0xFF
    return wrapped(np.clip(wrapped((word & 15) << 4 | word >> 4, IntFormat(8)), -63, 63), IntFormat(8))


def dot_sequential_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``dot_sequential``."""
    def changed(**by: Any) -> Callable[[Arrays, Parameters], np.ndarray]:
        return lambda t, p: op.dot_sequential_case(t, {**p, **by})["expected"]

    bits, policy = p["acc_format"]["bits"], p["policy"]
    yield Fault("register one bit wider", changed(acc_format=described(IntFormat(bits + 1))))
    yield Fault("register one bit narrower", changed(acc_format=described(IntFormat(bits - 1))))
    if policy == "trap":
        yield Fault("overflow never reported", lambda t, p: np.zeros(len(t["x"]), np.int64))
        yield Fault("only the last sum is looked at", lambda t, p: _outside(
            (t["x"] * t["w"]).sum(axis=1), format_of(p["acc_format"])))
        return
    yield Fault("wraps instead of saturating" if policy == "saturate" else "saturates instead of wrapping",
                changed(policy="wrap" if policy == "saturate" else "saturate"))
    if policy == "saturate":
        yield Fault("adds in the other order",
                    changed(order="descending" if p["order"] == "ascending" else "ascending"))
        yield Fault("saturates the last sum alone", lambda t, p: saturate(
            (t["x"] * t["w"]).sum(axis=1), format_of(p["acc_format"])).astype(np.int64))
        narrow = described(IntFormat(bits, narrow=True))
        yield Fault("saturates at a symmetric range", changed(acc_format=narrow))
    yield Fault("first product dropped", lambda t, p: op.dot_sequential_case(
        {**t, "x": np.where(np.arange(t["x"].shape[1]) > 0, t["x"], 0)}, p)["expected"])
    yield Fault("last product added twice", lambda t, p: op.dot_sequential_case(
        {name: np.concatenate([v, v[:, -1:]], axis=1) for name, v in t.items()}, p)["expected"])


def _outside(total: np.ndarray, fmt: IntFormat) -> np.ndarray:
    return ((total < fmt.min) | (total > fmt.max)).astype(np.int64)
