"""Bugs of layers: convolutions, Winograd, shift scalers, piecewise codes, pools, sums and concatenations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from refquant.integers.devices import dialect_of
from refquant.integers.formats import IntFormat
from refquant.integers.rounding import shift_right
from refquant.integers.simd import INT16
from refquant.network.program import GUARD_BITS
from refquant.vectors import operations as op
from refquant.vectors.cases import format_of
from refquant.vectors.code_faults import Fault, endless, requantizing, wrapped
from refquant.vectors.descriptions import NO_ANSWER
from refquant.vectors.operations import Arrays, Parameters, codes_of, per_channel


def conv_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``conv``, its groups and its requantization."""
    def given(change: Callable[[Arrays], Arrays], **by: Any) -> Callable[[Arrays, Parameters], np.ndarray]:
        return lambda t, p: op.conv_case({**t, **change(t)}, {**p, **by})["expected"]

    def codes(t: Arrays, p: Parameters, by: dict[str, Any]) -> np.ndarray:
        acc = by.get("acc", lambda v: v)(op.conv_acc(t, p))
        m, shift = (by.get(name, lambda v: v)(per_channel(t[name])) for name in ("m", "shift"))
        zero_point = by.get("zero_point", lambda v: v)(p["y_zero_point"])
        y = codes_of(acc, m, shift, by.get("p", lambda p: p)(p), zero_point)
        return y[:, :, 0, 0] if t["x"].ndim == 2 else y

    def summed(acc: np.ndarray, t: Arrays, p: Parameters) -> np.ndarray:
        return codes(t, p, {"acc": lambda _: acc})

    yield from requantizing(codes, p, op.conv_acc(t, p), per_channel(t["shift"]))
    kernel, flat = t["w"].shape[2:], t["x"].ndim == 2
    x_zero, y_zero = p["x_zero_point"], p["y_zero_point"]
    y_format = format_of(p["y_format"])
    if kernel[0] == kernel[1] > 1:
        yield Fault("kernel transposed", given(lambda t: {"w": t["w"].swapaxes(2, 3)}))
    if max(kernel) > 1:
        yield Fault("kernel rotated by 180 degrees", given(lambda t: {"w": t["w"][:, :, ::-1, ::-1]}))
    if x_zero:
        if any(p["padding"]):
            yield Fault("pads with 0 instead of the zero point", lambda t, p: summed(_padded_with(0, t, p), t, p))
        yield Fault("input's zero point not subtracted", lambda t, p: op.conv_case(
            t, {**p, "x_zero_point": 0})["expected"])
        yield Fault("input's zero point added", lambda t, p: op.conv_case(
            t, {**p, "x_zero_point": -x_zero})["expected"])
    if "bias" in t:
        yield Fault("bias forgotten", given(lambda t: {"bias": 0 * t["bias"]}))
        yield Fault("bias after requantization", lambda t, p: np.clip(
            op.conv_case({**t, "bias": 0 * t["bias"]}, p)["expected"]
            + (t["bias"] if flat else t["bias"][:, None, None]), y_format.min, y_format.max))
        yield Fault("bias kept in 16 bits", given(lambda t: {"bias": wrapped(t["bias"], INT16)}))
        if len(t["w"]) > 1:
            yield Fault("first channel's bias for all", given(lambda t: {"bias": t["bias"][:1] + 0 * t["bias"]}))
    if t["m"].ndim and len(t["m"]) > 1:
        yield Fault("first channel's multiplier for all", given(lambda t: {
            name: t[name][:1] + 0 * t[name] for name in ("m", "shift")}))
        yield Fault("multipliers in reverse order", given(lambda t: {name: t[name][::-1] for name in ("m", "shift")}))
    if p["stride"][0] != p["stride"][1]:
        yield Fault("strides swapped", _of_one_shape(given(dict, stride=p["stride"][::-1])))
    if p["dilation"] != [1, 1]:
        yield Fault("dilation ignored", _of_one_shape(given(dict, dilation=[1, 1], padding=_smaller(p, kernel))))
    top, left, bottom, right = p["padding"]
    if (top, left) != (bottom, right):
        yield Fault("padding before and after exchanged", given(dict, padding=[bottom, right, top, left]))
        if top != left or bottom != right:
            yield Fault("padding order of another framework",
                        _of_one_shape(given(dict, padding=[top, bottom, left, right])))
    yield from _shape_faults(t, p, given)
    if p["low"] > y_format.min or p["high"] < y_format.max:
        yield Fault("fused clamp forgotten", given(dict, low=y_format.min, high=y_format.max))
        if y_zero:
            yield Fault("clamp before the zero point", lambda t, p: np.clip(np.clip(codes_of(
                op.conv_acc(t, p), per_channel(t["m"]), per_channel(t["shift"]), endless(p)), p["low"], p["high"]
                ) + y_zero, y_format.min, y_format.max).reshape(op.conv_case(t, p)["expected"].shape))
    x_format = format_of(p["x_format"])
    if not x_format.signed and x_format.bits == 8:
        yield Fault("unsigned input read as signed", given(lambda t: {"x": wrapped(t["x"], IntFormat(8))}))


def _shape_faults(t: Arrays, p: Parameters, given: Callable[..., Any]) -> Iterator[Fault]:
    """Which channel, image or axis is read."""
    groups, per_group = p["groups"], t["w"].shape[1]
    if per_group > 1:
        yield Fault("input channels reversed", given(lambda t: {"w": t["w"][:, ::-1]}))
        yield Fault("last input channel dropped", given(lambda t: {
            "w": np.where((np.arange(per_group) < per_group - 1)[:, None, None], t["w"], 0)}))
    if groups > 1:
        yield Fault("groups read in reverse", lambda t, p: op.conv_case(
            {**t, "x": t["x"].reshape(len(t["x"]), groups, per_group, *t["x"].shape[2:])[:, ::-1].reshape(
                t["x"].shape)}, p)["expected"])
        outputs = len(t["w"]) // groups
        if outputs > 1:
            order = np.arange(len(t["w"])).reshape(groups, outputs).T.ravel()
            yield Fault("channel multiplier outermost", lambda t, p: op.conv_case(t, p)["expected"][:, order])
    if len(t["x"]) > 1:
        yield Fault("first image for all", given(lambda t: {"x": t["x"][:1] + 0 * t["x"]}))
    if t["x"].ndim == 4 and t["x"].shape[1] > 1:
        yield Fault("channels-last input read as channels-first", given(lambda t: {
            "x": t["x"].transpose(0, 2, 3, 1).reshape(t["x"].shape)}))


def _of_one_shape(run: Callable[[Arrays, Parameters], np.ndarray]
                  ) -> Callable[[Arrays, Parameters], np.ndarray | None]:
    """A model whose geometry may not fit, or give another shape: then it says nothing."""
    def guarded(t: Arrays, p: Parameters) -> np.ndarray | None:
        try:
            y = run(t, p)
        except ValueError:
            return None
        return y if y.shape == op.conv_case(t, p)["expected"].shape else None
    return guarded


def _smaller(p: Parameters, kernel: tuple[int, ...]) -> list[int]:
    """Padding under which an undilated kernel gives as many outputs: less at the bottom and at the right."""
    top, left, bottom, right = p["padding"]
    return [top, left, max(0, bottom - (kernel[0] - 1) * (p["dilation"][0] - 1)),
            max(0, right - (kernel[1] - 1) * (p["dilation"][1] - 1))]


def _padded_with(code: int, t: Arrays, p: Parameters) -> np.ndarray:
    top, left, bottom, right = p["padding"]
    x = np.pad(t["x"], ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=code)
    return op.conv_acc({**t, "x": x}, {**p, "padding": [0, 0, 0, 0]})


def shift_scaler_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``shift_scaler``: of k, and of the requantization that undoes it."""
    def codes(t: Arrays, p: Parameters, by: dict[str, Any]) -> np.ndarray:
        acc, m, shift, z = (by.get(name, lambda v: v)(v) for name, v in (
            ("acc", t["acc"]), ("m", t["m"]), ("shift", t["shift"] - t["k"]), ("zero_point", p["y_zero_point"])))
        return codes_of(acc, m, shift, by.get("p", lambda p: p)(p), z)

    def with_k(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays, Parameters], np.ndarray]:
        return lambda t, p: codes_of(t["acc"], t["m"], t["shift"] - change(t["k"]), p)

    yield from requantizing(codes, p, t["acc"], t["shift"] - t["k"])
    yield Fault("k off by one", with_k(lambda k: k + 1))
    yield Fault("k ignored", with_k(lambda k: 0 * k))
    yield Fault("k with the other sign", with_k(lambda k: -k))
    yield Fault("k of the next channel", with_k(lambda k: np.roll(k, 1)))
    yield Fault("k kept in 3 bits", with_k(lambda k: k & 7))
    # By law there is no difference: floor(floor(v)/2^k) = floor(v/2^k), also with 1/2 added before the last floor, as
    # a power of two in place of m leaves it; and to odd, then k bits to odd, is once to odd.
    own = dialect_of(p["dialect"])
    if own.multiplier != "m1" or own.last not in ("floor", "half_up"):
        yield Fault("sum shifted by k first", lambda t, p: codes_of(t["acc"] >> t["k"], t["m"], t["shift"], p))
    if own.last not in ("floor", "to_odd"):
        yield Fault("code shifted by k afterwards", _second_shift)


def _second_shift(t: Arrays, p: Parameters) -> np.ndarray:
    whole, own = codes_of(t["acc"], t["m"], t["shift"], endless(p)), dialect_of(p["dialect"])
    fmt = format_of(p["y_format"])
    y = shift_right(whole, np.broadcast_to(t["k"], whole.shape), own.last) + p["y_zero_point"]
    return np.where(whole == NO_ANSWER, NO_ANSWER, own.ended(y, fmt).astype(np.int64))


def pwlq_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``pwlq_dot``: of regions, signs and the three sums."""
    def given(change: Callable[[Arrays], Arrays]) -> Callable[[Arrays, Parameters], np.ndarray]:
        return lambda t, p: op.pwlq_case({**t, **change(t)}, p)["expected"]

    def with_sums(change: Callable[[list[np.ndarray], Arrays], list[np.ndarray]]
                  ) -> Callable[[Arrays, Parameters], np.ndarray]:
        return lambda t, p: op.pwlq_codes(change(op.pwlq_sums(t), t), t, p)

    fmt = format_of(p["y_format"])
    yield Fault("region bit ignored", given(lambda t: {"region": 0 * t["region"]}))
    yield Fault("region bit inverted", given(lambda t: {"region": 1 - t["region"]}))
    yield Fault("third sum without the weight's sign", with_sums(
        lambda s, t: [s[0], s[1], (t["x"] * t["region"]).sum(axis=1)]))
    yield Fault("third sum forgotten", with_sums(lambda s, t: [s[0], s[1], 0 * s[2]]))
    yield Fault("third sum subtracted", with_sums(lambda s, t: [s[0], s[1], -s[2]]))
    yield Fault("sign bit ignored", given(lambda t: {"sign": np.abs(t["sign"])}))
    yield Fault("one multiplier for both regions", given(lambda t: {"m": t["m"][[0, 0, 2]]}))
    yield Fault("multipliers of the regions exchanged", given(lambda t: {"m": t["m"][[1, 0, 2]]}))
    yield Fault("accumulators of 16 bits", with_sums(lambda s, t: [wrapped(one, INT16) for one in s]))
    yield Fault("shift off by one to the right", given(lambda t: {"shift": t["shift"] - 1}))
    yield Fault("zero point subtracted", lambda t, p: op.pwlq_codes(
        op.pwlq_sums(t), t, {**p, "y_zero_point": -p["y_zero_point"]}))
    yield Fault("three sums rounded one by one", lambda t, p: np.clip(sum(codes_of(
        one, m, t["shift"] + 0 * m, endless(p)) for one, m in zip(op.pwlq_sums(t), t["m"])) + p["y_zero_point"],
        fmt.min, fmt.max))


# --- pools, additions, concatenations --------------------------------------------------------------------------

def average_pool_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``average_pool``."""
    def codes(t: Arrays, p: Parameters, by: dict[str, Any]) -> np.ndarray:
        acc, m, shift, z = (by.get(name, lambda v: v)(v) for name, v in (
            ("acc", op.average_pool_case(t, p)["expected_acc"]), ("m", t["m"]), ("shift", t["shift"]),
            ("zero_point", p["y_zero_point"])))
        return codes_of(acc, m, shift, by.get("p", lambda p: p)(p), z)

    yield from requantizing(codes, p, op.average_pool_case(t, p)["expected_acc"], t["shift"])
    counts = len({*zip(t["m"].ravel().tolist(), t["shift"].ravel().tolist())})
    if counts > 1:
        top = np.unravel_index(int(np.argmin(np.ldexp(t["m"].astype(float), t["shift"]))), t["m"].shape)
        yield Fault("padding counted", lambda t, p: op.average_pool_case(
            {**t, "m": t["m"][top] + 0 * t["m"], "shift": t["shift"][top] + 0 * t["shift"]}, p)["expected"])
    if p["x_zero_point"]:
        yield Fault("input's zero point not subtracted", lambda t, p: op.average_pool_case(
            t, {**p, "x_zero_point": 0})["expected"])
    yield Fault("takes the maximum", lambda t, p: op.max_pool_case(t, p)["expected"])


def max_pool_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``max_pool``."""
    if any(p["padding"]):
        yield Fault("padding with 0 can win", lambda t, p: op.max_pool_case(t, p, 0)["expected"])
    yield Fault("codes compared as unsigned", lambda t, p: wrapped(
        op.max_pool_case({"x": t["x"] & (2 ** p["y_format"]["bits"] - 1)}, p, 0)["expected"],
        format_of(p["y_format"])))
    yield Fault("takes the minimum", lambda t, p: -op.max_pool_case(
        {"x": -t["x"]}, p, -format_of(p["y_format"]).max)["expected"])
    yield Fault("takes the first code of the window", lambda t, p: op.max_pool_case(
        t, {**p, "kernel": [1, 1], "padding": [*p["padding"][:2], *(b - k + 1 for b, k in zip(
            p["padding"][2:], p["kernel"]))]})["expected"] if all(
            b >= k - 1 for b, k in zip(p["padding"][2:], p["kernel"])) else _first_of_window(t, p))


def _first_of_window(t: Arrays, p: Parameters) -> np.ndarray | None:
    shape = op.max_pool_case(t, p)["expected"].shape
    if any(p["padding"]):
        return None
    return t["x"][:, :, ::p["stride"][0], ::p["stride"][1]][:, :, :shape[2], :shape[3]]


def add_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``add``."""
    fmt = format_of(p["y_format"])

    def given(change: Callable[[Arrays], Arrays], **by: Any) -> Callable[[Arrays, Parameters], np.ndarray]:
        return lambda t, p: op.add_case({**t, **change(t)}, {**p, **by})["expected"]

    yield Fault("operands rounded to codes before they are added", _rounded_operands)
    yield Fault("sum shifted without rounding", lambda t, p: np.clip(
        (op.add_case(t, p)["expected_sum"] >> GUARD_BITS) + p["y_zero_point"], p["low"], p["high"]))
    yield Fault("multipliers of the operands exchanged", given(lambda t: {
        name: t[name][::-1] for name in ("m", "shift")}))
    yield Fault("zero points of the operands not subtracted",
                given(dict, x_zero_points=[0] * len(p["x_zero_points"])))
    yield Fault("zero point of the sum forgotten", given(dict, y_zero_point=0))
    yield Fault("second operand subtracted", lambda t, p: np.clip(shift_right(
        op.add_case(t, p)["expected_operand0"] - op.add_case(t, p)["expected_operand1"], GUARD_BITS, "half_up")
        + p["y_zero_point"], p["low"], p["high"]))
    yield Fault("wraps instead of saturating", lambda t, p: wrapped(
        shift_right(op.add_case(t, p)["expected_sum"], GUARD_BITS, "half_up") + p["y_zero_point"], fmt))
    yield Fault("guarded sum kept in 16 bits", lambda t, p: np.clip(shift_right(
        wrapped(op.add_case(t, p)["expected_sum"], INT16), GUARD_BITS, "half_up") + p["y_zero_point"],
        p["low"], p["high"]))


def _rounded_operands(t: Arrays, p: Parameters) -> np.ndarray:
    parts = [shift_right(part, GUARD_BITS, "half_up") for name, part in op.add_case(t, p).items()
             if name.startswith("expected_operand")]
    return np.clip(sum(parts) + p["y_zero_point"], p["low"], p["high"])


def concat_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``concat``."""
    fmt = format_of(p["y_format"])
    yield Fault("operands in reverse order", _reversed_operands)
    yield Fault("first operand's multiplier for all", lambda t, p: op.concat_case(
        {**t, "m": t["m"][:1] + 0 * t["m"], "shift": t["shift"][:1] + 0 * t["shift"]}, p)["expected"])
    yield Fault("codes copied without rescaling", lambda t, p: np.clip(
        np.concatenate(op.operands_of(t), axis=1), fmt.min, fmt.max))
    own = dialect_of(p["dialect"])
    end = "wrap" if own.end == "saturate" else "saturate"
    yield Fault("wraps instead of saturating" if end == "wrap" else "saturates instead of wrapping",
                lambda t, p: op.concat_case(t, {**p, "dialect": replace(own, end=end).words})["expected"])


def _reversed_operands(t: Arrays, p: Parameters) -> np.ndarray:
    count = len(p["x_zero_points"])
    turned = {f"x{i}": t[f"x{count - 1 - i}"] for i in range(count)}
    return op.concat_case({**turned, "m": t["m"][::-1], "shift": t["shift"][::-1]},
                          {**p, "x_zero_points": p["x_zero_points"][::-1]})["expected"]


def clip_faults(t: Arrays, p: Parameters) -> Iterator[Fault]:
    """Of the operation ``clip``."""
    yield Fault("clamp forgotten", lambda t, p: t["x"])
