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
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "oracles"), str(HERE.parent / "runtimes")]

from onnx_models import helper, onnx  # noqa: E402
from test_litert import RESOLVERS, litert  # noqa: E402
from test_onnx_operators_on_codes import code, numpy_helper, one, ort  # noqa: E402
from tflite_models import Spec, one_operator  # noqa: E402

from refquant.readers import load_quantized_onnx, load_tflite  # noqa: E402
from refquant.runtimes import LITERT_SETS, run_model  # noqa: E402
from refquant.runtimes.kernels import onnxruntime_here, rule_of  # noqa: E402
from refquant.runtimes.run import held, repeated  # noqa: E402

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
          "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def litert_case(draw: Draw) -> tuple[str, list[Spec], Any, list[np.ndarray]]:
    """Operator, tensors, options, inputs."""
    kind, dtype = str(draw.rng.choice(LITERT)), str(draw.rng.choice(("int8", "uint8")))
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
    if kind in ("RELU", "RELU6", "HARD_SWISH", "QUANTIZE", "LEAKY_RELU", "LOGISTIC", "TANH"):
        fixed = {"LOGISTIC": of(every, 1 / 256, -128), "TANH": of(every, 1 / 128, 0)}
        options = ("LeakyReluOptions", {"Alpha": float(draw.rng.uniform(-0.5, 1))}) if kind == "LEAKY_RELU" else None
        return kind, [of(every, x_step), fixed.get(kind, of(every, draw.near(x_step, 3)))], options, [
            read(EACH.reshape(every))]
    if kind == "MEAN":
        shape, keep = (1, draw.whole(1, 11), draw.whole(1, 11), draw.whole(1, 300)), bool(draw.whole(0, 1))
        axes = Spec((2,), "int32", [], 0, np.array([1, 2], np.int32))
        y = of((1, 1, 1, shape[3]) if keep else (1, shape[3]), draw.near(x_step))
        return kind, [of(shape, x_step), axes, y], ("ReducerOptions", {"KeepDims": keep}), [read(draw.codes(shape))]
    if kind == "SOFTMAX":
        shape = (300, draw.whole(2, 60))
        return kind, [of(shape, draw.step(-8, 0)), of(shape, 1 / 256, -128)], ("SoftmaxOptions", {"Beta": 1.0}), [
            read(draw.codes(shape))]
    if kind.endswith("POOL_2D"):
        zero, shape = draw.zero(), (1, 9, 11, 40)
        options = {"Padding": 0, "StrideW": 2, "StrideH": 2, "FilterWidth": draw.whole(1, 4),
                   "FilterHeight": draw.whole(1, 4), **activation}
        return kind, [of(shape, x_step, zero), of((1, 5, 6, 40), x_step, zero)], ("Pool2DOptions", options), [
            read(draw.codes(shape))]
    if kind == "DEQUANTIZE":
        return kind, [of((1, 253), draw.step(-30, 30)), Spec((1, 253), "float32", [])], None, [read(EACH[None, :253])]
    if kind == "FLOATS":
        step = draw.step(-30, 30)
        return "QUANTIZE", [Spec((1, 4405), "float32", []), of((1, 4405), step)], None, [reals(draw, step, 4005)]
    if kind == "CONCATENATION":
        tensors = [Spec((1, 1, 1, size), "uint8", draw.step(), draw.zero() + 128) for size in (256, 256, 512)]
        return kind, tensors, ("ConcatenationOptions", {"Axis": 3, "FusedActivationFunction": 0}), [
            (EACH.reshape(every) + 128).astype(np.uint8)] * 2
    return litert_layer(draw, kind, dtype, of, read, activation)


def reals(draw: Draw, step: Any, count: int) -> np.ndarray:
    """Multiples of half a step, exact or a little beside, and random ones."""
    beside = float(draw.rng.choice((1, 1 + 2.0**-23, 1 - 2.0**-24)))
    ties = (np.arange(-200, 200) + 0.5) * float(step) * beside
    return np.concatenate([ties, draw.rng.normal(size=count) * 100 * float(step)]).astype(np.float32)[None]


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


def litert_different(draw: Draw, folder: Path) -> dict[str, int | None]:
    """By operator, dtype and kernel set how many codes differ, None where LiteRT refuses the model."""
    kind, tensors, options, inputs = litert_case(draw)
    data = one_operator(kind, tensors, options)
    (folder / "m.tflite").write_bytes(data)
    found: dict[str, int | None] = {}
    for kernel_set in LITERT_SETS:
        key = f"{kind} {tensors[0].dtype} {kernel_set}"
        try:
            session = litert.Interpreter(model_content=data, experimental_op_resolver_type=RESOLVERS[kernel_set],
                                         num_threads=1)
            session.allocate_tensors()
        except (RuntimeError, ValueError):
            found[key] = None
            continue
        model = load_tflite(folder / "m.tflite")
        for index, values in zip(model.inputs, inputs):
            session.set_tensor(index, values)
        session.invoke()
        (op,) = model.operations
        described, written = [model.tensors[index] for index in op.inputs], model.tensors[op.outputs[0]]
        given = iter(inputs)
        codes = [held(next(given)) if t.values is None else repeated(t, 1, len(written.shape)) for t in described
                 if t.values is None or kind in ("ADD", "MUL")]
        with np.errstate(over="ignore", invalid="ignore"):
            ours = rule_of(kernel_set, kind, tensors[0].dtype)(op, described, written, codes)
        found[key] = unequal(ours, session.get_tensor(written.index))
    return found


def unequal(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int((~((ours == theirs) | ((ours != ours) & (theirs != theirs)))).sum())


# --- ONNX Runtime -------------------------------------------------------------------------------------------------

ONNX = ("QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearAveragePool",
        "QLinearGlobalAveragePool", "QLinearConcat", "QuantizeLinear", "DequantizeLinear", "QLinearConv", "QGemm",
        "Conv")


def onnx_case(draw: Draw) -> tuple[Any, np.ndarray]:
    """A model, and its inputs."""
    kind, dtype = str(draw.rng.choice(ONNX)), (np.uint8, np.int8)[draw.whole(0, 1)]
    x_step, zero = draw.step(), lambda: code(draw.zero(), dtype)
    unary, every = ["x", "sx", "zx", "sy", "zy"], code(EACH[None], dtype)
    held_ = {"sx": x_step, "zx": zero(), "sy": draw.near(x_step), "zy": zero()}
    if kind in ("QLinearAdd", "QLinearMul"):
        shape = ((1, 256, 256), (), (1, 256, 1))[draw.whole(0, 2)]
        names = ["x", "sa", "za", "b", "sb", "zb", "sy", "zy"]
        names = [*names[3:6], *names[:3], *names[6:]] if draw.whole(0, 1) else names
        return one(kind, names, dtype, (256, 256), b=code(draw.codes(shape), dtype), sa=draw.step(), sb=draw.step(),
                   sy=draw.step(), za=zero(), zb=zero(), zy=zero()), code(PAIRS[0, :, :, :, 0], dtype)
    if kind in ("QLinearSigmoid", "QLinearLeakyRelu"):
        attributes = {"alpha": float(draw.rng.uniform(-0.5, 2))} if kind == "QLinearLeakyRelu" else {}
        held_["sy"] = draw.near(x_step) if attributes else draw.step(-10, -3)
        return one(kind, unary, dtype, (256,), attributes, **held_), every
    if kind == "QLinearAveragePool":
        kernel = [draw.whole(1, 5), draw.whole(1, 5)]
        attributes = {"kernel_shape": kernel, "strides": [draw.whole(1, 2), draw.whole(1, 2)],
                      "count_include_pad": draw.whole(0, 1),
                      "pads": [draw.whole(0, k - 1) for k in (*kernel, *kernel)]}
        return one(kind, unary, dtype, (8, 9, 11), attributes, **held_), code(draw.codes((6, 8, 9, 11)), dtype)
    if kind == "QLinearGlobalAveragePool":
        shape = (draw.whole(1, 40), draw.whole(1, 13), draw.whole(1, 13))
        return one(kind, unary, dtype, shape, {"channels_last": 0}, **held_), code(draw.codes((6, *shape)), dtype)
    if kind == "QLinearConcat":
        names = ["sy", "zy", "x", "sx", "zx", "b", "sb", "zb"]
        return one(kind, names, dtype, (1, 256), {"axis": 1}, b=every[None], sb=draw.step(), zb=zero(),
                   **held_), every[None]
    if kind == "QuantizeLinear":
        step = draw.step(-30, 30)
        x = reals(draw, step, 605)
        return one(kind, ["x", "s", "z"], np.float32, x.shape[1:], domain="", s=step, z=zero()), x
    if kind == "DequantizeLinear":
        return one(kind, ["x", "s", "z"], dtype, (256,), domain="", s=draw.step(-30, 30), z=zero()), every
    return onnx_layer(draw, kind, dtype)


def onnx_layer(draw: Draw, kind: str, dtype: Any) -> tuple[Any, np.ndarray]:
    w_dtype = np.int8 if dtype is np.int8 else (np.uint8, np.int8)[draw.whole(0, 1)]
    many, x_step, w_step = draw.whole(0, 1), draw.step(-6, 0), float(draw.step(-9, -4))
    groups = (1, 1, 1, 2, 3)[draw.whole(0, 4)]
    inputs, outputs = groups * draw.whole(1, 8), groups * draw.whole(1, 12)
    if draw.rng.random() < 0.25:
        groups, outputs = inputs, inputs * draw.whole(1, 2)
    kernel, plane = (draw.whole(1, 3), draw.whole(1, 3)), (draw.whole(5, 16), draw.whole(5, 16))
    window = {"group": groups, "strides": [draw.whole(1, 2), draw.whole(1, 2)],
              "pads": [draw.whole(0, 2) for _ in "tlbr"], "dilations": [draw.whole(1, 2), draw.whole(1, 2)]}
    if kind == "Conv":
        held_ = {"w": draw.rng.normal(size=(outputs, inputs // groups, *kernel)), "b": draw.rng.normal(size=outputs)}
        made = one("Conv", ["x", "w", "b"], np.float32, (inputs, *plane), window, "",
                   **{name: values.astype(np.float32) for name, values in held_.items()})
        made.graph.node.extend([helper.make_node("QuantizeLinear", ["y", "s", "z"], ["q"])])
        made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in (
            ("s", np.float32(0.1)), ("z", np.uint8(128))))
        made.graph.output.extend([helper.make_empty_tensor_value_info("q")])
        return made, draw.rng.normal(size=(3, inputs, *plane)).astype(np.float32)
    rows = draw.whole(1, 400)
    terms = rows if kind == "QGemm" else kernel[0] * kernel[1] * inputs // groups
    alpha = float(draw.rng.uniform(0.1, 2)) if kind == "QGemm" and draw.whole(0, 1) else 1.0
    steps = (w_step * 2.0**draw.rng.uniform(-2, 0, outputs) if many else np.asarray(w_step)).astype(np.float32)
    zeros = np.full(steps.shape, draw.whole(-20, 20) if w_dtype is np.uint8 else 0)
    held_ = {"sx": x_step, "zx": code(draw.zero(), dtype), "sw": steps, "zw": code(zeros, w_dtype),
             "sy": draw.sums_step(terms, x_step, w_step * alpha), "zy": code(draw.zero(), dtype),
             "bias": draw.rng.integers(-3000, 3000, outputs).astype(np.int32)}
    if kind == "QLinearConv":
        held_["w"] = code(draw.codes((outputs, inputs // groups, *kernel)), w_dtype)
        return one(kind, ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "bias"], dtype, (inputs, *plane), window, "",
                   **held_), code(draw.codes((3, inputs, *plane)), dtype)
    turned = draw.whole(0, 1)
    held_["w"] = code(draw.codes((outputs, rows) if turned else (rows, outputs)), w_dtype)
    return one(kind, ["x", "sx", "zx", "w", "sw", "zw", "bias", "sy", "zy"], dtype, (rows,), {
        "transB": turned, "alpha": alpha}, **held_), code(draw.codes((20, rows)), dtype)


def onnx_different(draw: Draw, folder: Path) -> dict[str, int | None]:
    """As ``litert_different``; one thread, without optimizations, as this machine's CPU has it."""
    made, x = onnx_case(draw)
    key = f"{made.graph.node[0].op_type} {x.dtype}"
    onnx.save(made, folder / "m.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        theirs = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    except Exception:  # its own kinds; a kernel larger than its input
        return {key: None}
    model = load_quantized_onnx(folder / "m.onnx")
    return {key: unequal(run_model(model, x, onnxruntime_here())[model.outputs[0]], theirs)}


def campaign(which: str, seed: int, cases: int = 0, seconds: float = 0.0) -> tuple[Counter[str], dict[str, str]]:
    """How many comparisons of each kind were equal; and what differed. cases or seconds: how long."""
    draw, met, found, end = Draw(seed), Counter[str](), {}, time.monotonic() + seconds
    different = {"litert": litert_different, "onnx": onnx_different}[which]
    number = 0
    with tempfile.TemporaryDirectory() as name:
        while number < cases or time.monotonic() < end:
            for key, count in different(draw, Path(name)).items():
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
