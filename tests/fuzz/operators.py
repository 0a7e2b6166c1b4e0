"""One-operator models of random scales, shapes and windows, compared with LiteRT and ONNX Runtime code by code.

    python tests/fuzz/operators.py litert|onnx [SECONDS] [SEED]

prints how many comparisons were equal, and for each operator, dtype and kernel set that gave another code how often,
with the first case. Half of the scales are powers of two, with which ties are frequent. SECONDS is 60 unless told.
"""
from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "oracles")]

from onnx_models import onnx, run_onnxruntime  # noqa: E402
from onnx_on_codes import code, one, quantized_floats  # noqa: E402
from tflite_models import Spec, one_operator, run_litert  # noqa: E402

from refquant.readers import load_quantized_onnx, load_tflite  # noqa: E402
from refquant.runtimes import LITERT_SETS, run_model  # noqa: E402
from refquant.runtimes.kernels import onnxruntime_here, rule_of  # noqa: E402
from refquant.runtimes.run import held, operands  # noqa: E402

PAIRS = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))[:, None, :, :, None]
EACH = np.arange(-128, 128)


class Draw:
    """Random numbers of one campaign."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def whole(self, low: int, high: int) -> int:
        """From low to high, both within."""
        return int(self.rng.integers(low, high + 1))

    def step(self, low: int = -9, high: int = 3) -> np.float32:
        """2^low..2^high, half of them powers of two."""
        power = self.rng.uniform(low, high) if self.rng.random() < 0.5 else self.whole(low, high)
        return np.float32(2.0**power)

    def near(self, step: Any, reach: float = 2.0) -> np.float32:
        """A step beside another, or the same."""
        return np.float32(step * (2.0**self.rng.uniform(-reach, reach) if self.rng.random() < 0.7 else 1))

    def among(self, values: Any) -> Any:
        """One of them."""
        return values[self.whole(0, len(values) - 1)]

    def zero(self) -> int:
        """A code of int8."""
        return self.whole(-128, 127) if self.rng.random() < 0.8 else 0

    def codes(self, shape: Any) -> np.ndarray:
        return self.rng.integers(-128, 128, shape)

    def sums_step(self, terms: int, x_step: Any, w_step: float) -> np.float32:
        """A step with which sums of random products fill the codes."""
        middle = 74 * 74 * np.sqrt(terms) * float(x_step) * w_step / 60
        return np.float32(2.0**np.round(np.log2(middle)) if self.rng.random() < 0.6 else middle)


# --- LiteRT -------------------------------------------------------------------------------------------------------

LITERT = ("ADD", "MUL", "RELU", "RELU6", "HARD_SWISH", "QUANTIZE", "LEAKY_RELU", "LOGISTIC", "TANH", "MEAN",
          "SOFTMAX", "AVERAGE_POOL_2D", "MAX_POOL_2D", "DEQUANTIZE", "FLOATS", "CONCATENATION", "CONV_2D",
          "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "PAD", "TRANSPOSE", "RESIZE_NEAREST_NEIGHBOR", "RESHAPE", "SQUEEZE",
          *("ADD that broadcasts", "MUL that broadcasts") * 3)
PLANES = (1, 3, 4, 45)
# Two operands; those of fewer than four axes are constants. Tails behind blocks of 8 or 16 have rules of their own.
OPERANDS = [*[(PLANES, other) for other in (
    (), (1,), (45,), (1, 3, 4, 1), (1, 3, 1, 45), (1, 1, 4, 1), (1, 1, 4, 45), (1, 3, 1, 1))],
    ((1, 3, 1, 45), (1, 1, 4, 45)), ((1, 3, 1, 45), (1, 1, 4, 1)), *[((1, 1, 1, n),) * 2 for n in (5, 21, 43)]]


def litert_case(draw: Draw, kind: str) -> tuple[str, list[Spec], Any, list[np.ndarray]]:
    """Operator, tensors, options, inputs."""
    dtype = draw.among(("int8", "uint8"))
    numbers = np.uint8 if dtype == "uint8" else np.int8
    activation = {"FusedActivationFunction": draw.whole(0, 3)}

    def of(shape: Any, step: Any, zero: int | None = None, values: Any = None, axis: int = 0) -> Spec:
        return Spec(shape, dtype, step, int(code(draw.zero() if zero is None else zero, numbers)), values, axis)

    def read(values: Any) -> np.ndarray:
        return code(values, numbers)

    x_step, every = draw.step(), (1, 1, 1, 256)
    if kind in ("ADD", "MUL"):
        return kind, [of((1, 256, 256, 1), draw.step()) for _ in range(3)], (f"{kind.title()}Options", activation), [
            read(PAIRS[0]), read(PAIRS[1])]
    if kind.endswith("broadcasts"):
        kind = kind[:3]
        pair = draw.among(OPERANDS)[::draw.among((1, -1))]
        codes = [read(draw.codes(shape)) for shape in pair]
        tensors = [of(shape, draw.step(), values=None if len(shape) == 4 else values)
                   for shape, values in zip(pair, codes)]
        tensors.append(of(np.broadcast_shapes(*pair), draw.step()))
        return kind, tensors, (f"{kind.title()}Options", activation), [x for x in codes if x.ndim == 4]
    if kind in ("RELU", "RELU6", "HARD_SWISH", "QUANTIZE", "LEAKY_RELU", "LOGISTIC", "TANH"):
        fixed = {"LOGISTIC": of(every, 1 / 256, -128), "TANH": of(every, 1 / 128, 0)}
        options = ("LeakyReluOptions", {"Alpha": float(draw.rng.uniform(-0.5, 1))}) if kind == "LEAKY_RELU" else None
        return kind, [of(every, x_step), fixed.get(kind, of(every, draw.near(x_step, 3)))], options, [
            read(EACH.reshape(every))]
    if kind == "SOFTMAX":
        shape = (2000, draw.whole(2, 60))  # the two rules differ in one code of 10^5
        return kind, [of(shape, draw.step(-8, 1)), of(shape, 1 / 256, -128)], ("SoftmaxOptions", {"Beta": 1.0}), [
            read(draw.codes(shape))]
    if kind.endswith("POOL_2D"):
        zero, shape, same = draw.zero(), (1, 9, 11, 40), draw.whole(0, 1)
        width, height, stride = draw.whole(1, 4), draw.whole(1, 4), draw.whole(1, 3)
        size = [-(-(n if same else n - k + 1) // stride) for n, k in ((9, height), (11, width))]
        options = {"Padding": 1 - same, "StrideW": stride, "StrideH": stride, "FilterWidth": width,
                   "FilterHeight": height, **activation}
        return kind, [of(shape, x_step, zero), of((1, *size, 40), x_step, zero)], ("Pool2DOptions", options), [
            read(draw.codes(shape))]
    if kind == "DEQUANTIZE":
        return kind, [of((1, 253), draw.step(-30, 30)), Spec((1, 253), "float32", [])], None, [read(EACH[None, :253])]
    if kind == "FLOATS":
        step = draw.step(-99, 99)
        x = reals(draw, step, 4005)
        return "QUANTIZE", [Spec(x.shape, "float32", []), of(x.shape, step)], None, [x]
    if kind in ("RESHAPE", "SQUEEZE"):
        zero, said = draw.zero(), [Spec((3,), "int32", [], 0, np.array([1, 16, 16], np.int32))]
        shapes = ((1, 4, 64), (1, 16, 16)) if kind == "RESHAPE" else ((1, 1, 256), (1, 256))
        x, y = (of(shape, x_step, zero) for shape in shapes)
        return kind, [x, *said[:kind == "RESHAPE"], y], None, [read(EACH.reshape(shapes[0]))]
    if kind == "CONCATENATION":
        ends = [(draw.step(), draw.zero()) for _ in range(3)] if dtype == "uint8" else [(x_step, draw.zero())] * 3
        codes = [read(EACH.reshape(every)), read(EACH[::-1].reshape(every))]
        constant = draw.among((None, codes[1]))
        tensors = [of(every, *ends[0]), of(every, *ends[1], constant), of((1, 1, 1, 512), *ends[2])]
        return kind, tensors, ("ConcatenationOptions", {"Axis": 3, "FusedActivationFunction": 0}), codes[
            :1 + (constant is None)]
    if kind in ("MEAN", "PAD", "TRANSPOSE", "RESIZE_NEAREST_NEIGHBOR"):
        return litert_move(draw, kind, of, read, x_step)
    return litert_layer(draw, kind, dtype, of, read, activation)


def litert_move(draw: Draw, kind: str, of: Any, read: Any, x_step: Any) -> tuple[str, list[Spec], Any, list[Any]]:
    """Of planes, as a constant says; MEAN too."""
    shape, zero = (1, draw.whole(1, 11), draw.whole(1, 11), draw.whole(1, 300)), draw.zero()
    if kind == "MEAN":
        said, keep = [1, 2], bool(draw.whole(0, 1))
        y, options = (1, 1, 1, shape[3]) if keep else (1, shape[3]), ("ReducerOptions", {"KeepDims": keep})
    elif kind == "PAD":
        said = [[0, 0], *[[draw.whole(0, 2), draw.whole(0, 2)] for _ in "hwc"]]
        y, options = tuple(np.add(shape, np.sum(said, axis=1)).tolist()), ("PadOptions", {})
    elif kind == "TRANSPOSE":
        said = [0, *(1 + draw.rng.permutation(3))]
        y, options = tuple(shape[axis] for axis in said), ("TransposeOptions", {})
    else:
        corners, half = draw.among(((False, False), (True, False), (False, True)))
        said = [draw.among((1, 2, 3, draw.whole(4, 15))) for _ in "hw"]
        y = (1, *said, shape[3])
        options = ("ResizeNearestNeighborOptions", {"AlignCorners": corners, "HalfPixelCenters": half})
    constant = Spec(np.shape(said), "int32", [], 0, np.array(said, np.int32))
    written = of(y, draw.near(x_step)) if kind == "MEAN" else of(y, x_step, zero)
    return kind, [of(shape, x_step, zero), constant, written], options, [read(draw.codes(shape))]


def reals(draw: Draw, step: Any, count: int) -> np.ndarray:
    """Multiples of half a step, exact or a little beside, random ones, and what is not finite or subnormal."""
    beside = float(draw.rng.choice((1, 1 + 2.0**-23, 1 - 2.0**-24)))
    ties = (np.arange(-200, 200) + 0.5) * float(step) * beside
    x = np.concatenate([ties, draw.rng.normal(size=count) * 100 * float(step)]).clip(-3e38, 3e38)
    return np.append(x, [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45]).astype(np.float32)[None]


def litert_layer(draw: Draw, kind: str, dtype: str, of: Any, read: Any, activation: dict[str, int]
                 ) -> tuple[str, list[Spec], Any, list[np.ndarray]]:
    per_channel = dtype == "int8" and draw.whole(0, 1) == 1
    inputs, outputs = draw.whole(1, 20), draw.whole(1, 40)
    x_step, w_step = draw.step(-6, 0), float(draw.step(-9, -4))
    w_zero = 0 if dtype == "int8" else draw.whole(-28, 28)
    steps = None

    def weights(shape: tuple[int, ...], axis: int, terms: int, outputs: int) -> tuple[list[Spec], np.float32]:
        nonlocal steps
        each = w_step * 2.0**draw.rng.uniform(-2, 0, outputs) if per_channel else w_step
        steps = np.asarray(each, np.float32)
        bias = draw.rng.integers(-3000, 3000, outputs).astype(np.int32)
        return [of(shape, steps, w_zero, read(np.clip(draw.codes(shape), -127, 127)), axis),
                Spec((outputs,), "int32", steps * x_step, 0, bias)], draw.sums_step(terms, x_step, w_step)

    if kind == "FULLY_CONNECTED":
        if dtype == "int8" and not per_channel and draw.rng.random() < 0.3:
            w_zero = draw.whole(-9, 9)
        made, y_step = weights((outputs, inputs), 0 if per_channel else draw.whole(0, 1), inputs, outputs)
        return kind, [of((300, inputs), x_step), *made, of((300, outputs), y_step)], (
            "FullyConnectedOptions", activation), [read(draw.codes((300, inputs)))]
    kernel, stride = (draw.whole(1, 3), draw.whole(1, 3)), draw.whole(1, 2)
    dilation, same, plane = draw.whole(1, 2) if stride == 1 else 1, draw.whole(0, 1), (draw.whole(8, 24),
                                                                                    draw.whole(8, 24))
    size = [-(-n // stride) if same else (n - (k - 1) * dilation - 1) // stride + 1 for n, k in zip(plane, kernel)]
    options = {"Padding": 1 - same, "StrideW": stride, "StrideH": stride, "DilationWFactor": dilation,
               "DilationHFactor": dilation, **activation}
    terms = kernel[0] * kernel[1]
    if kind == "CONV_2D":
        made, y_step = weights((outputs, *kernel, inputs), 0 if per_channel else draw.whole(0, 3), terms * inputs,
                               outputs)
    else:
        times = draw.whole(1, 2)
        outputs, options["DepthMultiplier"] = inputs * times, times
        made, y_step = weights((1, *kernel, outputs), 3 if per_channel else draw.whole(0, 3), terms, outputs)
    return kind, [of((1, *plane, inputs), x_step), *made, of((1, *size, outputs), y_step)], (
        "Conv2DOptions" if kind == "CONV_2D" else "DepthwiseConv2DOptions", options), [
        read(draw.codes((1, *plane, inputs)))]


def litert_different(draw: Draw, kind: str, folder: Path) -> dict[str, int | None]:
    """By operator, dtype and kernel set how many codes differ, None where LiteRT refuses the model."""
    kind, tensors, options, inputs = litert_case(draw, kind)
    data = one_operator(kind, tensors, options)
    (folder / "m.tflite").write_bytes(data)
    model = load_tflite(folder / "m.tflite")
    (op,), given = model.operations, dict(zip(model.inputs, inputs))
    read, written = [model.tensors[index] for index in op.inputs], model.tensors[op.outputs[0]]
    codes = operands(model, op, {index: held(x) for index, x in given.items()}, 1)
    found: dict[str, int | None] = {}
    for kernel_set in LITERT_SETS:
        key = f"{kind} {tensors[0].dtype} {kernel_set}"
        try:
            theirs = run_litert(data, given, [written.index], kernel_set)[written.index]
        except (RuntimeError, ValueError):
            found[key] = None
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            ours = rule_of(kernel_set, kind, tensors[0].dtype)(op, read, written, codes)
        found[key] = unequal(ours, theirs)
    return found


def unequal(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int((~((ours == theirs) | ((ours != ours) & (theirs != theirs)))).sum())


# --- ONNX Runtime -------------------------------------------------------------------------------------------------

# Operators with weights: what they read, in their order; and those of Microsoft's domain.
WEIGHTED = {"QLinearConv": "x sx zx w sw zw sy zy bias", "ConvInteger": "x w zx zw", "QGemm": "x sx zx w sw zw bias",
            "QGemm to codes": "x sx zx w sw zw bias sy zy", "QLinearMatMul": "x sx zx w sw zw sy zy",
            "MatMulIntegerToFloat": "x w sx sw zx zw", "MatMulInteger": "x w zx zw", "Conv": "x w b"}
MICROSOFT = ("QGemm", "QGemm to codes", "MatMulIntegerToFloat")
ONNX = (*("QLinearAdd", "QLinearMul") * 3, "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax",
        "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearConcat", "QuantizeLinear", "DequantizeLinear",
        *WEIGHTED)


def onnx_case(draw: Draw, kind: str) -> tuple[Any, np.ndarray]:
    """A model, and its inputs."""
    dtype, x_step = draw.among((np.uint8, np.int8)), draw.step()
    unary, every = ["x", "sx", "zx", "sy", "zy"], code(EACH[None], dtype)

    def zero() -> np.ndarray:
        return code(draw.zero(), dtype)

    held_ = {"sx": x_step, "zx": zero(), "sy": draw.near(x_step), "zy": zero()}
    if kind in ("QLinearAdd", "QLinearMul"):
        x, shape = code(PAIRS[0, :, :, :, 0], dtype), draw.among(((1, 256, 256), (), (1, 256, 1)))
        if draw.whole(0, 1):
            x = code(draw.codes((40, 3, 4, 50)), dtype)
            shape = draw.among(((1,), (), (1, 3, 1, 1), (3, 1, 1), (4, 50), (50,), (1, 1, 4, 1), (1, 3, 4, 1),
                                (1, 1, 1, 50)))
        b = code(PAIRS[1, :, :, :, 0] if shape == (1, 256, 256) else draw.codes(shape), dtype)
        names = draw.among((["x", "sa", "za", "b", "sb", "zb"], ["b", "sb", "zb", "x", "sa", "za"]))
        low, high = draw.among(((-9, 3), (-9, 3), (-66, 66)))
        sa, sb, sy = (draw.step(low, high) for _ in range(3))
        if kind == "QLinearMul" and high == 3:
            sy = draw.near(64 * sa * sb, 4)
        return one(kind, [*names, "sy", "zy"], dtype, x.shape[1:], b=b, sa=sa, sb=sb, sy=sy, za=zero(), zb=zero(),
                   zy=zero()), x
    if kind in ("QLinearSigmoid", "QLinearLeakyRelu"):
        attributes = {"alpha": float(draw.rng.uniform(-0.5, 2))} if kind == "QLinearLeakyRelu" else {}
        held_["sy"] = draw.near(x_step) if attributes else draw.step(-10, -3)
        return one(kind, unary, dtype, (256,), attributes, **held_), every
    if kind == "QLinearSoftmax":
        opset, shape, axis = draw.among(((13, (10,), -1), (13, (4, 3, 2), 1), (12, (4, 3), 1), (13, (1001,), 1)))
        held_.update(sx=draw.step(-8, 1), sy=np.float32(1 / 256), zy=code(-128, dtype))
        return one(kind, unary, dtype, shape, {"opset": opset, "axis": axis}, **held_), code(
            draw.codes((60, *shape)), dtype)
    if kind == "QLinearAveragePool":
        axes = draw.whole(1, 2)
        kernel = [draw.whole(1, 5) for _ in range(axes)]
        plane = draw.among((kernel, (9, 11)[:axes], (9, 11)[:axes]))
        attributes = {"kernel_shape": kernel, "strides": [draw.whole(1, 2) for _ in kernel],
                      "count_include_pad": draw.whole(0, 1), **draw.among((
                          {}, {"auto_pad": "SAME_UPPER"},
                          {"pads": [draw.whole(0, k - 1) for k in (*kernel, *kernel)]}))}
        return one(kind, unary, dtype, (8, *plane), attributes, **held_), code(draw.codes((6, 8, *plane)), dtype)
    if kind == "QLinearGlobalAveragePool":
        shape = (draw.whole(1, 40), draw.whole(1, 13), draw.whole(1, 13))
        return one(kind, unary, dtype, shape, {"channels_last": 0}, **held_), code(draw.codes((6, *shape)), dtype)
    if kind == "QLinearConcat":
        names = ["sy", "zy", "x", "sx", "zx", "b", "sb", "zb"]
        return one(kind, names, dtype, (1, 256), {"axis": 1}, b=every[None], sb=draw.step(), zb=zero(),
                   **held_), every[None]
    step = draw.step(-99, 99)
    if kind == "QuantizeLinear":
        x = reals(draw, step, 605)
        return one(kind, ["x", "s", "z"], np.float32, x.shape[1:], domain="", s=step, z=zero()), x
    if kind == "DequantizeLinear":
        return one(kind, ["x", "s", "z"], dtype, (256,), domain="", s=step, z=zero()), every
    return onnx_layer(draw, kind, np.uint8 if kind == "ConvInteger" else dtype)


def onnx_layer(draw: Draw, kind: str, dtype: Any) -> tuple[Any, np.ndarray]:
    w_dtype = np.int8 if dtype is np.int8 else draw.among((np.uint8, np.int8))
    many, x_step, w_step = draw.whole(0, 1) and "Integer" not in kind, draw.step(-6, 0), float(draw.step(-9, -4))
    groups = draw.among((1, 1, 1, 2, 3))
    inputs, outputs = groups * draw.whole(1, 8), groups * draw.whole(1, 12)
    if draw.rng.random() < 0.25:
        groups, outputs = inputs, inputs * draw.whole(1, 2)
    axes = draw.whole(1, 2) if kind != "Conv" else 2
    kernel, plane = [[draw.whole(low, high) for _ in range(axes)] for low, high in ((1, 3), (5, 16))]
    attributes = {"group": groups, "strides": [draw.whole(1, 2) for _ in kernel],
                  "pads": [draw.whole(0, 2) for _ in (*kernel, *kernel)], "dilations": [
                      draw.whole(1, 2) for _ in kernel]}
    if kind == "Conv":
        return quantized_floats(draw.rng, (inputs, *plane), (outputs, inputs // groups, *kernel), attributes)
    shape, w_shape = (inputs, *plane), (outputs, inputs // groups, *kernel)
    alpha = 1.0
    if "Conv" not in kind:
        rows = draw.whole(1, 400)
        shape, w_shape, attributes = (rows,), (rows, outputs), {}
        if kind.startswith("QGemm"):
            turned, alpha = draw.whole(0, 1), draw.among((1.0, float(draw.rng.uniform(0.1, 2))))
            attributes, w_shape = {"transB": turned, "alpha": alpha}, w_shape[::-1] if turned else w_shape
        elif not many:
            shape = draw.among(((rows,), (4, rows)))
    terms = int(np.prod(w_shape)) // outputs
    steps = (w_step * 2.0**draw.rng.uniform(-2, 0, outputs) if many else np.asarray(w_step)).astype(np.float32)
    zeros = np.full(steps.shape, draw.whole(-20, 20) if w_dtype is np.uint8 else 0)
    held_ = {"sx": x_step, "zx": code(draw.zero(), dtype), "w": code(draw.codes(w_shape), w_dtype), "sw": steps,
             "zw": code(zeros, w_dtype), "sy": draw.sums_step(terms, x_step, w_step * alpha),
             "zy": code(draw.zero(), dtype), "bias": draw.rng.integers(-3000, 3000, outputs).astype(np.int32)}
    names = WEIGHTED[kind].split()
    return one(kind.split()[0], names, dtype, shape, attributes, "com.microsoft" if kind in MICROSOFT else "",
               **{name: held_[name] for name in names if name != "x"}), code(draw.codes((12, *shape)), dtype)


def onnx_different(draw: Draw, kind: str, folder: Path) -> dict[str, int | None]:
    """As ``litert_different``; one thread, without optimizations, as this machine's CPU has it."""
    made, x = onnx_case(draw, kind)
    key = f"{made.graph.node[0].op_type} {x.dtype}"
    onnx.save(made, folder / "m.onnx")
    try:
        theirs = run_onnxruntime(made, x)[0]
    except Exception:  # its own kinds; a kernel larger than its input
        return {key: None}
    model = load_quantized_onnx(folder / "m.onnx")
    return {key: unequal(run_model(model, x, onnxruntime_here())[model.outputs[0]], theirs)}


def campaign(which: str, seed: int, cases: int = 0, seconds: float = 0.0) -> tuple[Counter[str], dict[str, str]]:
    """How many comparisons of each kind were equal; and what differed. cases or seconds: how long."""
    draw, met, found, end = Draw(seed), Counter[str](), {}, time.monotonic() + seconds
    different, kinds = {"litert": (litert_different, LITERT), "onnx": (onnx_different, ONNX)}[which]
    number = 0
    with tempfile.TemporaryDirectory() as name:
        while number < cases or time.monotonic() < end:
            for key, count in different(draw, kinds[number % len(kinds)], Path(name)).items():
                if count is None:
                    met["refused by the runtime"] += 1
                elif count:
                    found.setdefault(key, f"case {number} of seed {seed}: {count} codes differ")
                else:
                    met[key.split()[0]] += 1
            number += 1
    return met, found


if __name__ == "__main__":
    WHICH, GIVEN = sys.argv[1], sys.argv[2:]
    MET, FOUND = campaign(WHICH, int(GIVEN[1]) if len(GIVEN) > 1 else 0, seconds=float(GIVEN[0]) if GIVEN else 60)
    print(f"{sum(MET.values()) - MET['refused by the runtime']} equal", dict(MET))
    print(*(f"{key}: {text}" for key, text in FOUND.items()), sep="\n")
    sys.exit(bool(FOUND))
