"""The suites of golden cases of layers: convolutions, shifts, piecewise codes, pools and sums of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from refquant.convolution.direct import convolve_direct
from refquant.convolution.geometry import Geometry
from refquant.integers.devices import dialect_of
from refquant.integers.dialects import NAMED, SINGLE_ROUND, Dialect, legal_shifts
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.several_sums import aligned, takes_several_sums
from refquant.integers.simd import INT8, INT32
from refquant.vectors.cases import Case, described, format_of
from refquant.vectors.descriptions import NO_ANSWER, answers, rows_of
from refquant.vectors.operations import Arrays, Parameters, conv_acc
from refquant.vectors.probes import near_ties
from refquant.vectors.streams import Stream
from refquant.vectors.suites import FLAG, M_FORMAT, SEVEN, UINT8, make

FOUR = IntFormat(4, narrow=True)
CARRIED = "The kernel is 1 and the codes are 0 and 1: the sums are the biases, most of them near ties, and one more."


def applied(dialect: Dialect, m: int) -> float:
    """m as the dialect multiplies by it: one bit stands for 2^30, whatever m is."""
    return 2.0**30 if dialect.multiplier == "m1" else float(m)


def fitting_multipliers(acc: np.ndarray, fmt: IntFormat, dialect: Dialect, stream: Stream
                        ) -> tuple[np.ndarray, np.ndarray]:
    """m and shift (O,) under which each channel's largest sum lands between half of the codes and twice as many."""
    reach = np.abs(acc).max(axis=tuple(axis for axis in range(acc.ndim) if axis != 1))
    sizes = np.array([int(value).bit_length() for value in reach.tolist()])
    places = fmt.bits - sizes + 1 - fmt.signed + (dialect.multiplier == "m1")  # of one bit the least m
    shift = np.clip(places, -31, min(14, (legal_shifts(dialect) or (-31, 30))[1]))
    return stream.integers(2**30, 2**31 - 1, reach.shape), shift


def layer(dialect: Dialect, formats: tuple[IntFormat, ...], x_zero_point: int = 0, y_zero_point: int = 0,
          clip: tuple[int, int] | None = None, **geometry: Any) -> Parameters:
    """The parameters of a convolution. formats: of x, w and y."""
    x_format, w_format, y_format = formats
    g = Geometry.of(**geometry)
    low, high = clip or (y_format.min, y_format.max)
    return {"dialect": dialect.words, "x_format": described(x_format), "w_format": described(w_format),
            "y_format": described(y_format), "x_zero_point": x_zero_point, "y_zero_point": y_zero_point, "low": low,
            "high": high, "stride": list(g.stride), "padding": list(g.padding), "dilation": list(g.dilation),
            "groups": g.groups}


def conv_case(id: str, p: Parameters, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, why: str, kind: str,
              flags: tuple[str, ...] = (), small: bool = False,
              multiplier: tuple[np.ndarray, np.ndarray] | None = None) -> Case:
    """A convolution; its multipliers, if not given, fit its own sums."""
    arrays: Arrays = {"x": x, "w": w} | ({} if bias is None else {"bias": bias})
    m, shift = multiplier or fitting_multipliers(conv_acc(arrays, p), format_of(p["y_format"]),
                                                 dialect_of(p["dialect"]), Stream(id))
    inputs = {"x": (x, format_of(p["x_format"])), "w": (w, format_of(p["w_format"])),
              **({} if bias is None else {"bias": (bias, INT32)}), "m": (m, M_FORMAT), "shift": (shift, INT8)}
    return make(id, "conv", p, inputs, why, kind, flags, small, {"expected_acc": INT32},
                {"bias": "O", "m": "O" if np.ndim(m) else "", "shift": "O" if np.ndim(m) else ""})


def carried_sums(dialect: Dialect, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums near ties with their m and shift: brought to a layer as its biases, they meet its requantization."""
    limits = legal_shifts(dialect) or (-31, 30)
    rows = near_ties(INT8, 4 * count, limits, seed=5)
    some = rows.at(np.flatnonzero((np.abs(rows.x * rows.real) < 100) & (answers(dialect, rows, INT8) != NO_ANSWER)))
    # At most a quarter with m = 2^30 or 3·2^29, which make exact ties; at most a quarter of at least 2^20; others.
    even = np.flatnonzero(np.isin(some.m, (2**30, 3 * 2**29)))[:count // 4]
    large = np.flatnonzero(np.abs(some.x) >= 2**20)[:count // 4]
    left = np.setdiff1d(np.arange(len(some.x)), np.concatenate([even, large]))[:count - len(even) - len(large)]
    chosen = some.at(np.sort(np.concatenate([even, large, left])))
    return chosen.x, chosen.m, chosen.shift


def conv_direct_suite(dialect: Dialect) -> Iterator[Case]:
    """Convolution layers: geometry, zero points, biases, clamps and every rounding."""
    stream, saturates = Stream("conv-direct"), dialect.end == "saturate"  # no register wraps to a narrow range

    def random(id: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], p: Parameters, why: str, kind: str,
               flags: tuple[str, ...] = (), small: bool = False, bias: int = 2000) -> Case:
        x, w = stream.codes(format_of(p["x_format"]), x_shape), stream.codes(format_of(p["w_format"]), w_shape)
        b = stream.integers(-bias, bias, w_shape[:1]) if bias else None
        return conv_case(id, p, x, w, b, why, kind, flags, small)

    def of(*formats: IntFormat, **others: Any) -> Parameters:
        return layer(dialect, formats or (INT8, INT8, INT8), **others)

    yield random("one-pixel", (1, 1, 1, 1), (3, 1, 1, 1), of(), "One code times three weights.", "corner")
    yield random("square-padded", (2, 3, 7, 5), (4, 3, 3, 3), of(x_zero_point=-5, y_zero_point=7, padding=1),
                 "Padding stands for real 0, which is the code -5.", "shape", ("zero point", "padding"), True)
    yield random("uneven", (1, 2, 6, 7), (3, 2, 2, 3), of(x_zero_point=4, stride=(2, 1), padding=(1, 0, 2, 3)),
                 "Kernel 2x3, stride 2 down and 1 across, padding 1, 0, 2, 3 at top, left, bottom, right.", "shape",
                 ("stride", "padding"), True)
    yield random("dilated", (1, 2, 9, 8), (2, 2, 3, 3), of(dilation=(2, 1), padding=(2, 1, 2, 1), y_zero_point=-3),
                 "Taps two rows apart.", "shape", ("dilation",))
    if saturates:
        yield random("tall", (2, 1, 11, 3), (2, 1, 7, 1), of(SEVEN, SEVEN, SEVEN, padding=(3, 0, 3, 0)),
                     "A kernel of 7x1 in 7 bits.", "shape", ("saturation",))
    yield random("large-stride", (1, 3, 11, 13), (2, 3, 5, 5),
                 of(UINT8, INT8, UINT8, x_zero_point=128, y_zero_point=100, stride=(3, 4)),
                 "Unsigned codes of both signs: real 0 is 128.", "shape", ("unsigned", "zero point"))
    yield random("relu6", (1, 4, 6, 6), (5, 4, 3, 3),
                 of(UINT8, INT8, UINT8, y_zero_point=20, clip=(20, 200), padding=1),
                 "ReLU6 as a clamp of codes to 20..200, after the zero point 20 is added.", "edge",
                 ("clamp", "saturation"), True)
    if saturates:
        yield random("narrow-output", (1, 3, 6, 6), (4, 3, 3, 3), of(INT8, INT8, IntFormat(8, narrow=True)),
                     "Codes end at -127.", "edge", ("saturation",))
    yield random("four-bits", (1, 8, 5, 5), (4, 8, 3, 3), of(INT8, FOUR, INT8, y_zero_point=-1), "Weights of 4 bits.",
                 "random")
    yield random("linear", (3, 70), (10, 70, 1, 1), of(x_zero_point=-128, y_zero_point=5),
                 "A fully connected layer of 70 inputs.", "shape", ("tail",), True)
    yield random("no-bias", (1, 9, 5, 7), (3, 9, 1, 1), of(), "A 1x1 kernel over nine channels.", "shape", (), bias=0)
    yield random("grouped", (1, 6, 5, 5), (6, 3, 3, 3), of(padding=1, groups=2), "Two groups of three channels.",
                 "shape", ("groups",))
    for sign, x_code in (("max", 127), ("min", -128)):
        x, w = np.full((1, 64, 3, 3), x_code), np.full((2, 64, 3, 3), 127)
        w[1, 60:] = -127
        bias = np.array([2**20, -(2**20)])
        largest = max((x * w).sum(axis=(1, 2, 3)) + bias, key=abs)
        yield conv_case(f"witness-{sign}", of(), x, w, bias, f"576 products of {x_code} and 127, in the second "
                        f"channel 36 of {x_code} and -127, and biases of 2^20 and -2^20: the sum {largest} is beyond "
                        "24 bits.", "witness", ("accumulator",))
    for zero_point in (0, 3):
        sums, m, shift = carried_sums(dialect, 400)
        yield conv_case(f"ties-zero-point-{zero_point}", of(y_zero_point=zero_point), np.array([[[[0, 1]]]]),
                        np.ones((len(sums), 1, 1, 1), np.int64), sums, CARRIED, "tie",
                        ("dialect", "rounding"), zero_point == 3, (m, shift))


def conv_depthwise_suite(dialect: Dialect) -> Iterator[Case]:
    """Depthwise convolutions: a group for each channel."""
    stream = Stream("conv-depthwise")

    def random(id: str, x_shape: tuple[int, ...], outputs: int, kernel: tuple[int, int], why: str, kind: str,
               flags: tuple[str, ...] = (), small: bool = False, formats: tuple[IntFormat, ...] = (INT8, INT8, INT8),
               **others: Any) -> Case:
        p = layer(dialect, formats, groups=x_shape[1], **others)
        x, w = stream.codes(formats[0], x_shape), stream.codes(formats[1], (outputs, 1, *kernel))
        return conv_case(id, p, x, w, stream.integers(-900, 900, (outputs,)), why, kind, flags, small)

    yield random("one-channel", (1, 1, 5, 5), 1, (3, 3), "One channel is an ordinary convolution.", "corner")
    yield random("nine-channels", (2, 9, 7, 5), 9, (3, 3), "Nine channels: one beyond a vector of eight.", "shape",
                 ("tail", "padding"), True, padding=1, x_zero_point=-7, y_zero_point=9)
    yield random("multiplier-two", (1, 5, 6, 6), 10, (3, 3), "Two outputs for each channel, next to each other.",
                 "shape", ("channel order",), True, stride=2, padding=(0, 0, 1, 1), x_zero_point=3)
    yield random("relu", (1, 8, 7, 7), 8, (5, 5), "ReLU as a clamp at the zero point 12.", "edge",
                 ("clamp", "saturation"), formats=(UINT8, INT8, UINT8), clip=(12, 255), y_zero_point=12, padding=2)
    yield random("uneven", (1, 3, 8, 9), 3, (2, 3), "Kernel 2x3, dilated, stride 1 down and 2 across.", "shape",
                 ("stride", "dilation", "padding"), stride=(1, 2), dilation=(2, 2), padding=(0, 3, 2, 1))
    if dialect.end == "saturate":
        yield random("narrow", (1, 4, 6, 6), 4, (3, 3), "7-bit codes that end at -63.", "edge", ("saturation",),
                     formats=(SEVEN, SEVEN, SEVEN))
    yield random("int16", (1, 4, 5, 5), 4, (3, 3), "Activations of 16 bits: sums beyond 24 bits.", "random",
                 ("accumulator",), formats=(IntFormat(16), INT8, IntFormat(16)))
    sums, m, shift = carried_sums(dialect, 400)
    for zero_point in (0, 3):
        yield conv_case(f"ties-zero-point-{zero_point}", layer(dialect, (INT8, INT8, INT8), 0, zero_point,
                                                               groups=len(sums)),
                        np.tile(np.array([0, 1]), (1, len(sums), 1, 1)),
                        np.ones((len(sums), 1, 1, 1), np.int64), sums, CARRIED, "tie",
                        ("dialect", "rounding"), zero_point == 3, (m, shift))


def shift_scaler_suite(dialect: Dialect) -> Iterator[Case]:
    """WES: each channel's shift undone within the requantization."""
    low = (legal_shifts(dialect) or (-31, 30))[0]
    stream = Stream("shift-scaler")

    def case(id: str, acc: np.ndarray, m: int, shift: int, k: np.ndarray, fmt: IntFormat, zero_point: int, why: str,
             kind: str, flags: tuple[str, ...] = (), small: bool = False) -> Case:
        p = {"dialect": dialect.words, "y_format": described(fmt), "y_zero_point": zero_point}
        inputs = {"acc": (acc, INT32), "m": (np.array(m), M_FORMAT), "shift": (np.array(shift), INT8),
                  "k": (k, IntFormat(5, False))}
        return make(id, "shift_scaler", p, inputs, why, kind, flags, small, layouts={"acc": "NO", "k": "O"})

    k = np.array([0, 1, 2, 3, 4, 7, 9, 15])
    # Where codes change; a device that rounds otherwise still meets ties.
    steps, offsets = "ties", [0.5]
    if dialect.last in ("floor", "toward_zero", "to_odd"):
        steps, offsets = "integers and ties", [0.0, 0.0, 0.5]
    for id, m, fmt, zero_point in (("halves-int8", 2**30, INT8, 3), ("three-quarters-uint8", 3 * 2**29, UINT8, 5),
                                   ("odd-multiplier-int8", 1717986919, INT8, -7),
                                   ("odd-multiplier-narrow", 1288490189, IntFormat(8, narrow=True), 0)):
        if fmt.narrow and dialect.end == "wrap":
            continue
        shift = -6
        values = np.arange(fmt.min - 4, fmt.max + 5)[::3] - zero_point
        values = values + np.resize(offsets, len(values))
        real = np.ldexp(applied(dialect, m), shift - 31 - k)
        acc = np.rint(values[:, None] / real).astype(np.int64) + stream.integers(-1, 1, (len(values), len(k)))
        telling = _telling(dialect, m, shift, k, fmt, zero_point)
        acc = np.clip(np.concatenate([acc, telling]), -(2**31), 2**31 - 1)
        yield case(id, acc, m, shift, k, fmt, zero_point, f"Sums beside the {steps} of M·2^-k, M = {m}·2^-37; then "
                   "sums on which dialects differ.", "tie", ("dialect", "rounding", "saturation"), fmt == INT8)
    far = stream.integers(-(2**31), 2**31 - 1, (40, 8))
    yield case("shift-limit", far, 2**31 - 1, -16 if low == -31 else low + 15, k, INT8, 0,
               "The last channel's shift is -16 - 15 = -31, the least that a dialect takes.", "edge", ("shift",))
    acc = stream.integers(-(2**24), 2**24, (60, 8)) >> 15 - k
    yield case("random-int8", acc, 1500000000, -2, k, INT8, 11, "Channels whose sums are 2^k times larger.", "random",
               ("shift",), True)


def _telling(dialect: Dialect, m: int, shift: int, k: np.ndarray, fmt: IntFormat, zero_point: int) -> np.ndarray:
    """Rows of sums, one for each channel, on which some named dialect, ended as this one is, differs from it."""
    columns, others = [], [replace(other, end=dialect.end) for other in NAMED.values()]
    for one in k.tolist():
        real = np.ldexp(applied(dialect, m), shift - 31 - one)
        halves = np.arange(2 * (fmt.min - zero_point), 2 * (fmt.max - zero_point) + 1) / 2
        acc = np.unique(np.clip(np.rint(halves / real).astype(np.int64)[:, None] + np.arange(-2, 3), -(2**31),
                                2**31 - 1))
        rows = rows_of(acc, 0 * acc + m, 0 * acc + shift - one, 0 * acc + zero_point)
        wide = IntFormat(fmt.bits, fmt.signed)
        own = answers(dialect, rows, wide)
        found = [acc[np.flatnonzero((answers(other, rows, wide) != own) & (own != NO_ANSWER))[:2]]
                 for other in others]
        columns.append(np.resize(np.concatenate([*found, acc[:1]]), 20))
    return np.stack(columns, axis=1)


def pwlq_dot_suite(dialect: Dialect) -> Iterator[Case]:
    """PWLQ: three accumulators, of the centre, of the tails' magnitudes and of the tails' signs."""
    words = dialect if takes_several_sums(dialect.words) else SINGLE_ROUND
    stream = Stream("pwlq-dot")

    def case(id: str, x: np.ndarray, region: np.ndarray, sign: np.ndarray, magnitude: np.ndarray, why: str, kind: str,
             bits: int = 4, flags: tuple[str, ...] = (), small: bool = False, zero_point: int = 0) -> Case:
        largest = 2 ** (bits - 1) - 1
        # Steps of a grid with the breakpoint 1 and the limit 4, and a scale that brings sums to int8.
        steps = np.array([1 / largest, 3 / largest, 1.0]) * 40.0 / (128 * max(4, x.shape[1]) ** 0.5)
        multipliers = aligned([float(step) for step in steps])
        p = {"dialect": words.words, "y_format": described(INT8), "y_zero_point": zero_point}
        inputs = {"x": (x, INT8), "region": (region, FLAG), "sign": (np.where(sign, -1, 1), IntFormat(2)),
                  "magnitude": (magnitude, IntFormat(bits - 1, False)),
                  "m": (np.array([int(M.m) for M in multipliers]), M_FORMAT),
                  "shift": (np.array(int(multipliers[0].shift)), INT8)}
        return make(id, "pwlq_dot", p, inputs, why, kind, flags, small,
                    {f"expected_P{i}": INT32 for i in (1, 2, 3)},
                    {name: "NK" for name in ("x", "region", "sign", "magnitude")} | {"m": "3"})

    for length in (1, 7, 8, 9, 65):
        shape = (24, length)
        x, region = stream.codes(INT8, shape), stream.integers(0, 9, shape) < 3
        yield case(f"random-{length}", x, region, stream.integers(0, 1, shape), stream.integers(0, 7, shape),
                   f"{length} products, about a third in the tails.", "random", 4, ("tail",), length == 9, 3)
    x = np.tile(np.array([127, -128, 1, -1, 64, -3, 77, 5]), (6, 1))
    region = np.array([[0], [1], [1], [0], [1], [1]]) + 0 * x
    magnitude = np.array([[7], [7], [0], [0], [7], [0]]) + 0 * x
    sign = np.array([[0], [0], [0], [1], [1], [1]]) + 0 * x
    yield case("corners", x, region, sign, magnitude, "All weights at the end of the centre, the end of a tail, its "
               "beginning, whose magnitude is 0, and the negatives.", "corner", 4, ("region", "sign"), True)
    long = np.full((2, 400), 127)
    yield case("witness", long, np.array([[0], [1]]) + 0 * long, 0 * long, 0 * long + 7,
               "400 products of 127·7 = 355600 in the first, or the second, accumulator: beyond 16 bits.", "witness",
               4, ("accumulator",))
    shape = (40, 16)
    yield case("eight-bits", stream.codes(INT8, shape), stream.integers(0, 1, shape), stream.integers(0, 1, shape),
               stream.integers(0, 127, shape), "Magnitudes of 7 bits.", "random", 8)


def pool_add_concat_suite(dialect: Dialect) -> Iterator[Case]:
    """Pools, sums and concatenations of tensors with different scales."""
    stream = Stream("pool-add-concat")

    def pool(id: str, operation: str, shape: tuple[int, ...], kernel: tuple[int, int], fmt: IntFormat, why: str,
             kind: str, flags: tuple[str, ...] = (), small: bool = False, ratio: float = 1.0,
             count_padding: bool = True, zero_points: tuple[int, int] = (0, 0), x: np.ndarray | None = None,
             **geometry: Any) -> Case:
        p = layer(dialect, (fmt, fmt, fmt), *zero_points, None, **geometry)
        del p["w_format"]
        p["kernel"] = list(kernel)
        g = Geometry.of(**geometry)
        inputs: dict[str, Any] = {"x": (stream.codes(fmt, shape) if x is None else x, fmt)}
        if operation == "average_pool":
            inside = np.ones((1, 1, *shape[2:]), np.int64)
            count = convolve_direct(inside, np.ones((1, 1, *kernel), np.int64), g)[0, 0]
            M = Multiplier.from_real(ratio / (0 * count + kernel[0] * kernel[1] if count_padding else count))
            inputs |= {"m": (M.m, M_FORMAT), "shift": (M.shift, INT8)}
        return make(id, operation, p, inputs, why, kind, flags, small, {"expected_acc": INT32},
                    {"m": "PQ", "shift": "PQ"})

    yield pool("average-quarter", "average_pool", (1, 2, 8, 8), (2, 2), INT8, "M is 1/4: one sum in four is a tie, "
               "two in four lie beside one.", "tie", ("rounding",), True, stride=2, zero_points=(0, 3))
    yield pool("average-border", "average_pool", (2, 3, 7, 6), (3, 3), INT8, "Padding is not counted: windows of "
               "4, 6 and 9 codes have three multipliers.", "shape", ("count_include_pad", "padding"), True, 1.7,
               False, (-9, 4), stride=2, padding=1)
    yield pool("average-counted", "average_pool", (1, 2, 7, 6), (3, 2), UINT8, "Padding counts as real 0: one "
               "multiplier.", "shape", ("count_include_pad",), False, 2.9, True, (20, 31), padding=(1, 1, 1, 0))
    if dialect.end == "saturate":
        yield pool("average-narrow", "average_pool", (1, 2, 6, 6), (2, 3), SEVEN, "Codes end at -63.", "edge",
                   ("saturation",), False, 3.1)
    yield pool("average-sixth", "average_pool", (1, 2, 8, 9), (2, 3), INT8, "M is 1/6, which no multiplier holds: "
               "sums of 6k + 3 lie beside ties, on the side to which M is rounded.", "tie", ("dialect", "rounding"),
               x=Stream("average-sixth").codes(INT8, (1, 2, 8, 9)))
    yield pool("average-large", "average_pool", (2, 4, 20, 19), (3, 3), INT8, "2448 random windows: about one in 190 "
               "tells a multiplier of 16 bits from one of 31.", "random", ("dialect", "saturation"), False, 4.7, True,
               (11, -13))
    yield pool("average-global", "average_pool", (2, 5, 7, 7), (7, 7), UINT8, "49 codes in one window.", "shape", (),
               False, 1.3, True, (3, 9))
    low = stream.integers(-128, -20, (1, 3, 7, 9))
    yield pool("max-negative", "max_pool", (1, 3, 7, 9), (3, 3), INT8, "All codes are negative, so that padding "
               "with 0 would win.", "edge", ("padding",), True, x=low, stride=2, padding=1)
    yield pool("max-mixed", "max_pool", (2, 2, 6, 8), (2, 3), INT8, "Codes of both signs, a window of 2x3.", "shape",
               ("sign",), stride=(1, 2))
    yield pool("max-unsigned", "max_pool", (1, 2, 5, 5), (2, 2), UINT8, "Codes from 0 to 255.", "shape")

    def several(id: str, operation: str, shapes: list[tuple[int, ...]], ratios: list[float], zero_points: list[int],
                fmt: IntFormat, y_zero: int, why: str, kind: str, flags: tuple[str, ...] = (), small: bool = False,
                clip: tuple[int, int] | None = None, xs: list[np.ndarray] | None = None) -> Case:
        low, high = clip or (fmt.min, fmt.max)
        M = Multiplier.from_real(np.array(ratios) * (256 if operation == "add" else 1))
        p = {"dialect": dialect.words, "y_format": described(fmt), "y_zero_point": y_zero, "low": low, "high": high,
             "x_zero_points": zero_points}
        inputs: dict[str, Any] = {f"x{i}": (stream.codes(fmt, shape) if xs is None else xs[i], fmt)
                                  for i, shape in enumerate(shapes)}
        inputs |= {"m": (M.m, M_FORMAT), "shift": (M.shift, INT8)}
        stages = {name: INT32 for name in (*(f"expected_operand{i}" for i in range(len(shapes))), "expected_sum")}
        return make(id, operation, p, inputs, why, kind, flags, small, stages, {"m": "K", "shift": "K"})

    plane = (1, 3, 6, 7)
    yield several("add-two-scales", "add", [plane] * 2, [0.75, 0.4], [3, -5], INT8, 7, "Operands of different scales "
                  "and zero points.", "shape", ("zero point",), True)
    yield several("add-saturating", "add", [plane] * 2, [1.9, 1.7], [0, 0], INT8, -3, "Sums far beyond int8.", "edge",
                  ("saturation",))
    codes = np.arange(-128, 128).reshape(1, 1, 16, 16)
    yield several("add-ties", "add", [codes.shape] * 2, [0.5, 0.5], [0, 0], INT8, 1, "Each operand halved: odd codes "
                  "are ties as operands, and their sum is not.", "tie", ("rounding",), True,
                  xs=[codes, codes.swapaxes(2, 3)])
    yield several("add-relu", "add", [plane] * 3, [0.8, 0.3, 0.9], [128, 0, 12], UINT8, 40, "Three operands, clamped "
                  "at the zero point 40.", "edge", ("clamp",), clip=(40, 255))
    yield several("concat-two", "concat", [(2, 3, 4, 5), (2, 2, 4, 5)], [0.6, 1.8], [5, -9], INT8, 11,
                  "Three channels, then two of another scale.", "shape", ("order", "saturation"), True)
    yield several("concat-three", "concat", [(1, 1, 3, 3), (1, 4, 3, 3), (1, 2, 3, 3)], [0.5, 1.0, 0.37], [0, 100, 7],
                  UINT8, 0, "One, four and two channels; one of them needs no rescaling.", "shape", ("order",))
