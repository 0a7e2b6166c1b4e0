"""What golden cases compute: each operation by its plain implementation, from integers to every stage.

An operation takes the inputs of a case by name, integers as int64, and its parameters, as JSON holds them. It gives
the stages by name, in order, the last of them ``expected``. ``faults`` says how devices get them wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from refquant.convolution.direct import convolve_direct
from refquant.convolution.geometry import Geometry, pad, taps
from refquant.integers.accumulation import dot_int16, dot_sequential
from refquant.integers.devices import dialect_of
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.rounding import round_fraction, shift_right
from refquant.integers.several_sums import requantize_sums
from refquant.network.program import GUARD_BITS
from refquant.pwlq.inner_product import components
from refquant.pwlq.quantizer import PiecewiseCodes
from refquant.scales.linear import quantize
from refquant.vectors.cases import format_of
from refquant.vectors.descriptions import NO_ANSWER, answers, rows_of
from refquant.winograd.convolution import STAGES, convolve_in_stages

Arrays = dict[str, np.ndarray]
Parameters = dict[str, Any]


class Operation(NamedTuple):
    """formula: in one line. run: inputs and parameters to the stages. operands: of one element, by its index."""

    formula: str
    run: Callable[[Arrays, Parameters], Arrays]
    operands: Callable[[Arrays, Parameters, tuple[int, ...]], dict[str, Any]]


def codes_of(acc: np.ndarray, m: np.ndarray, shift: np.ndarray, p: Parameters, zero_point: Any = None) -> np.ndarray:
    """Sums to codes of ``y_format`` in the case's dialect, clamped to ``low`` and ``high`` where a ReLU is fused.

    NO_ANSWER where the dialect does not take a shift.
    """
    zero_point = p["y_zero_point"] if zero_point is None else zero_point
    columns = [column.ravel() for column in np.broadcast_arrays(acc, m, shift, zero_point)]
    dialect, fmt = dialect_of(p["dialect"]), format_of(p["y_format"])
    if dialect.end == "wrap":  # which no register does to a narrow range
        fmt = IntFormat(fmt.bits, fmt.signed)
    codes = answers(dialect, rows_of(*columns), fmt)
    clamped = np.clip(codes, p.get("low", -(2**40)), p.get("high", 2**40))
    return np.where(codes == NO_ANSWER, NO_ANSWER, clamped).reshape(np.broadcast_shapes(acc.shape, m.shape))


def quantize_case(t: Arrays, p: Parameters) -> Arrays:
    """Exact arithmetic in rationals; float32 arithmetic as ``scales.quantize`` has it."""
    fmt, scale = format_of(p["y_format"]), p["scale"]
    if p["arithmetic"] != "exact":
        return {"expected": quantize(t["x"], np.array(scale), fmt, p["rounding"], zero_point=p["y_zero_point"],
                                     axis=p["axis"], arithmetic=p["arithmetic"], zero=p["zero"]).astype(np.int64)}
    early, late = (p["y_zero_point"], 0) if p["zero"] == "before" else (0, p["y_zero_point"])
    codes = []
    for index, x in np.ndenumerate(t["x"]):
        S = Fraction(scale[index[p["axis"]]] if p["axis"] is not None else scale)
        whole = round_fraction(Fraction(float(x)) * S + early, p["rounding"]) + late
        codes.append(min(max(whole, fmt.min), fmt.max))
    return {"expected": np.array(codes, np.int64).reshape(t["x"].shape)}


def requantize_case(t: Arrays, p: Parameters) -> Arrays:
    """Row by row, each with a multiplier and a zero point of its own."""
    return {"expected": codes_of(t["x"], t["m"], t["shift"], p, t["zero_point"])}


def dot_int16_case(t: Arrays, p: Parameters) -> Arrays:
    """lanes: after every SMLAL, (rows, steps, 8). With policy trap: 1 where a register must report an overflow."""
    formats, seen = (format_of(p["x_format"]), format_of(p["w_format"])), list[np.ndarray]()
    left = np.zeros(len(t["x"]), bool)

    def trace(stage: str, fmt: IntFormat, exact: np.ndarray, kept: np.ndarray) -> None:
        left[:] |= (exact != kept).reshape(len(left), -1).any(axis=1)
        if stage == "SMLAL":
            seen.append(kept.astype(np.int64))

    policy = p["policy"]
    y = dot_int16(t["x"], t["w"], *formats, p["products_per_lane"], "wrap" if policy == "trap" else policy, trace)
    if policy == "trap":
        return {"expected": left.astype(np.int64)}
    return {"expected_lanes": np.stack(seen, axis=1), "expected": y.astype(np.int64)}


def dot_sequential_case(t: Arrays, p: Parameters) -> Arrays:
    """sums: the register after every product, (rows, K). With policy trap: 1 where it must report an overflow."""
    formats, seen = (format_of(p["x_format"]), format_of(p["w_format"])), list[np.ndarray]()
    left = np.zeros(len(t["x"]), bool)

    def trace(stage: str, fmt: IntFormat, exact: np.ndarray, kept: np.ndarray) -> None:
        left[:] |= exact != kept
        seen.append(kept)

    policy = p["policy"]
    order = None if p["order"] == "ascending" else np.arange(t["x"].shape[1])[::-1]
    y = dot_sequential(t["x"], t["w"], *formats, format_of(p["acc_format"]), "wrap" if policy == "trap" else policy,
                       order, trace)
    if policy == "trap":
        return {"expected": left.astype(np.int64)}
    return {"expected_sums": np.stack(seen, axis=1), "expected": y}


def geometry_of(p: Parameters) -> Geometry:
    """Stride, padding, dilation and groups of a case."""
    return Geometry.of(p["stride"], p["padding"], p["dilation"], p["groups"])


def conv_acc(t: Arrays, p: Parameters) -> np.ndarray:
    """Σ w·(x - x_zero_point) + bias, padded with the zero point; x of two axes is a 1x1 plane."""
    x = t["x"] - p["x_zero_point"]
    x = x[:, :, None, None] if x.ndim == 2 else x
    acc = convolve_direct(x, t["w"], geometry_of(p))
    return acc + t["bias"][:, None, None] if "bias" in t else acc


def per_channel(v: np.ndarray) -> np.ndarray:
    """(O,) or () shaped to multiply (N, O, P, Q)."""
    return v[:, None, None] if v.ndim else v


def conv_case(t: Arrays, p: Parameters) -> Arrays:
    """Sums and codes."""
    acc = conv_acc(t, p)
    y = codes_of(acc, per_channel(t["m"]), per_channel(t["shift"]), p)
    return {"expected_acc": acc, "expected": y[:, :, 0, 0] if t["x"].ndim == 2 else y}


def tile_of(p: Parameters) -> Any:
    """The transforms of a case, not proved again: a fault may change them."""
    bt, g, at = (np.array(p[name]).reshape(-1, columns) for name, columns in
                 (("bt", p["tile"][0] + p["tile"][1] - 1), ("g", p["tile"][1]),
                  ("at", p["tile"][0] + p["tile"][1] - 1)))
    return SimpleNamespace(m=p["tile"][0], r=p["tile"][1], n=p["tile"][0] + p["tile"][1] - 1, bt=bt, g=g, at=at,
                           divisor=p["divisor"])


def winograd_case(t: Arrays, p: Parameters) -> Arrays:
    """All stages of ``winograd.convolution``; product and sum of every channel stacked in front.

    With policy trap: for each image, 1 where a register must report an overflow.
    """
    tile, seen, left, policy = tile_of(p), dict[str, list[np.ndarray]](), np.zeros(len(t["x"]), bool), p["policy"]

    def trace(stage: str, fmt: IntFormat, exact: np.ndarray, kept: np.ndarray) -> None:
        seen.setdefault(stage, []).append(np.array(kept))
        if stage != "U":
            left[:] |= (exact != kept).reshape(len(left), -1).any(axis=1)

    top, left_pad, bottom, right = p["padding"]
    size = (t["x"].shape[2] + top + bottom - tile.r + 1, t["x"].shape[3] + left_pad + right - tile.r + 1)
    formats = {stage: format_of(p["formats"][stage]) for stage in STAGES}
    y = convolve_in_stages(t["x"], t["w"], tile, (top, left_pad, bottom, right), size, formats,
                           "wrap" if policy == "trap" else policy, trace)
    if policy == "trap":
        return {"expected": left.astype(np.int64)}
    stages = {f"expected_{stage}": np.stack(seen[stage]) if stage in ("product", "sum") else seen[stage][0]
              for stage in STAGES[1:-1]}
    return {**stages, "expected": y}


def shift_scaler_case(t: Arrays, p: Parameters) -> Arrays:
    """WES: the inverse of each channel's shift fused into the requantization, m·2^(shift - k - 31)."""
    return {"expected": codes_of(t["acc"], t["m"], t["shift"] - t["k"], p)}


def pwlq_sums(t: Arrays) -> list[np.ndarray]:
    """P1, P2 and P3: of R1, of R2's magnitudes, of R2's signs."""
    parts = components(PiecewiseCodes(t["region"], t["sign"], t["magnitude"]))
    return [(t["x"] * part).sum(axis=1) for part in parts]


def pwlq_codes(sums: list[np.ndarray], t: Arrays, p: Parameters) -> np.ndarray:
    """Σ P_i·m_i, shifted and rounded once."""
    multipliers = [Multiplier(np.ldexp(float(m), int(t["shift"]) - 31), m, t["shift"]) for m in t["m"]]
    return requantize_sums(sums, multipliers, format_of(p["y_format"]), p["dialect"], p["y_zero_point"]
                           ).astype(np.int64)


def pwlq_case(t: Arrays, p: Parameters) -> Arrays:
    """The three accumulators and the code."""
    sums = pwlq_sums(t)
    return {**{f"expected_P{i + 1}": one for i, one in enumerate(sums)}, "expected": pwlq_codes(sums, t, p)}


def average_pool_case(t: Arrays, p: Parameters) -> Arrays:
    """Sums of windows, with one multiplier for every window's count; m, shift: (P, Q)."""
    views = [view for _, view in taps(t["x"] - p["x_zero_point"], tuple(p["kernel"]), geometry_of(p))]
    acc = np.sum(views, axis=0)
    return {"expected_acc": acc, "expected": codes_of(acc, t["m"], t["shift"], p)}


def max_pool_case(t: Arrays, p: Parameters, filler: int | None = None) -> Arrays:
    """The largest code; padding never wins."""
    geometry = geometry_of(p)
    padded = pad(t["x"], geometry.padding, format_of(p["y_format"]).min if filler is None else filler)
    views = [view for _, view in taps(padded, tuple(p["kernel"]), geometry._replace(padding=(0, 0, 0, 0)))]
    return {"expected": np.maximum.reduce(views)}


def operands_of(t: Arrays) -> list[np.ndarray]:
    """x0, x1, ... of an addition or a concatenation."""
    return [t[f"x{i}"] for i in range(len(t) - 2)]


def add_case(t: Arrays, p: Parameters) -> Arrays:
    """Each operand times its multiplier to int32 with 8 fractional bits; the sum shifted right by 8, ties up."""
    wide = {**p, "y_format": {"bits": 32, "signed": True, "narrow": False}, "low": -(2**31), "high": 2**31 - 1}
    parts = [codes_of(x - zero_point, t["m"][i], t["shift"][i], wide, 0)
             for i, (x, zero_point) in enumerate(zip(operands_of(t), p["x_zero_points"]))]
    total = sum(parts)
    y = shift_right(total, GUARD_BITS, "half_up") + p["y_zero_point"]
    return {**{f"expected_operand{i}": part for i, part in enumerate(parts)}, "expected_sum": np.asarray(total),
            "expected": np.clip(y, p["low"], p["high"])}


def concat_case(t: Arrays, p: Parameters) -> Arrays:
    """Each operand requantized, one after another along the channels."""
    return {"expected": np.concatenate([codes_of(x - zero_point, t["m"][i], t["shift"][i], p) for i, (x, zero_point)
                                        in enumerate(zip(operands_of(t), p["x_zero_points"]))], axis=1)}


def clip_case(t: Arrays, p: Parameters) -> Arrays:
    """Codes clamped."""
    return {"expected": np.clip(t["x"], p["low"], p["high"])}


def _elementwise(*names: str) -> Callable[[Arrays, Parameters, tuple[int, ...]], dict[str, Any]]:
    def operands(t: Arrays, p: Parameters, index: tuple[int, ...]) -> dict[str, Any]:
        return {name: t[name][index].item() if t[name].ndim == len(index) else t[name].item()
                for name in names if name in t and t[name].ndim in (0, len(index))}
    return operands


def _rows(*names: str) -> Callable[[Arrays, Parameters, tuple[int, ...]], dict[str, Any]]:
    return lambda t, p, index: {name: t[name][index[0]].tolist() for name in names}


def _window(t: Arrays, p: Parameters, index: tuple[int, ...]) -> dict[str, Any]:
    """What one output of a convolution or a pool sees."""
    if len(index) not in (2, 4):
        return {}
    x = t["x"][:, :, None, None] if t["x"].ndim == 2 else t["x"]
    n, o, row, column = (*index, 0, 0)[:4]
    kernel, padding = (t["w"].shape[2:] if "w" in t else tuple(p["kernel"])), p["padding"]
    geometry = Geometry.of(p.get("stride", 1), padding, p.get("dilation", 1), p.get("groups", 1))
    zero_point = p.get("x_zero_point", 0)
    views = [view[0, :, row, column] for _, view in taps(x[n:n + 1] - zero_point, kernel, geometry)]
    seen = np.stack(views, axis=-1) + zero_point
    if "w" not in t:
        return {"x": seen[o].tolist()}
    per_group, outputs = t["w"].shape[1], len(t["w"]) // geometry.groups
    first = o // outputs * per_group
    found = {"x": seen[first:first + per_group].ravel().tolist(), "w": t["w"][o].ravel().tolist()}
    return found | {name: t[name][o].item() if t[name].ndim else t[name].item() for name in ("bias", "m", "shift")
                    if name in t}


def _shift_scaler_operands(t: Arrays, p: Parameters, index: tuple[int, ...]) -> dict[str, Any]:
    return {"acc": t["acc"][index].item(), "k": t["k"][index[1]].item(), "m": t["m"].item(),
            "shift": t["shift"].item()}


def _same_place(t: Arrays, p: Parameters, index: tuple[int, ...]) -> dict[str, Any]:
    return {f"x{i}": x[index].item() for i, x in enumerate(operands_of(t)) if len(x.shape) == len(index)
            and all(a < b for a, b in zip(index, x.shape))}


OPERATIONS = {
    "quantize": Operation("clip(round(x·scale) + y_zero_point)", quantize_case, _elementwise("x")),
    "requantize": Operation("y = requantize(x, m, shift, zero_point) in the dialect", requantize_case,
                            _elementwise("x", "m", "shift", "zero_point")),
    "dot_int16": Operation("Σ x·w, products_per_lane in int16 lanes, then int32", dot_int16_case, _rows("x", "w")),
    "dot_sequential": Operation("acc <- policy(acc + x·w), product after product", dot_sequential_case,
                                _rows("x", "w")),
    "conv": Operation("requantize(Σ w·(x - x_zero_point) + bias), clamped to low..high", conv_case, _window),
    "winograd": Operation("Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A / divisor², stage by stage", winograd_case, _window),
    "shift_scaler": Operation("requantize(acc) with the shift s - k", shift_scaler_case, _shift_scaler_operands),
    "pwlq_dot": Operation("round((P1·m1 + P2·m2 + P3·m3)·2^(shift-31)) + y_zero_point", pwlq_case,
                          _rows("x", "region", "sign", "magnitude")),
    "average_pool": Operation("requantize(Σ (x - x_zero_point)) by the window's count", average_pool_case, _window),
    "max_pool": Operation("the largest code of the window", max_pool_case, _window),
    "add": Operation("(Σ requantize(x_i - z_i, m_i·2^8) + 2^7) >> 8, + y_zero_point", add_case, _same_place),
    "concat": Operation("requantize(x_i - z_i), one operand after another along C", concat_case, _same_place),
    "clip": Operation("codes clamped to low..high", clip_case, _elementwise("x")),
}
