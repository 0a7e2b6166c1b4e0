"""A fault planted in each rule shows on the inputs with which the rules are compared with their runtimes."""
from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from test_one_operator import ACTIVATIONS, LEFT, RIGHT
from test_onnx_operators_on_codes import code, one, scalars
from tflite_models import Spec, one_operator

from refquant.readers import load_quantized_onnx, load_tflite
from refquant.runtimes import elementwise, onnx_elementwise, onnx_layers, own, run_model
from refquant.runtimes import operators as rules
from refquant.runtimes.kernels import LITERT_SETS, ONNX_RULES, OWN_RULES, RULES
from refquant.runtimes.operators import A, B, F, X

RNG = np.random.default_rng(0)
PLANE = Spec((1, 16, 16, 8), "int8", 0.5, 3)
X_CODES = RNG.integers(-128, 128, PLANE.shape).astype(np.int8)


def integers(values):
    values = np.array(values, np.int32)
    return Spec(values.shape, "int32", [], 0, values)


def weights(shape, axis):
    values, outputs = RNG.integers(-127, 128, shape).astype(np.int8), shape[axis]
    steps = np.full(outputs, 2.0**-5, np.float32)  # products of steps that are powers of two: many ties
    return [Spec(shape, "int8", steps, 0, values, axis),
            Spec((outputs,), "int32", 0.5 * steps, 0, RNG.integers(-999, 999, outputs).astype(np.int32))]


WINDOW = {"Padding": 0, "StrideW": 1, "StrideH": 1, "DilationWFactor": 1, "DilationHFactor": 1,
          "FusedActivationFunction": 0}
POOL = {"Padding": 0, "StrideW": 1, "StrideH": 1, "FilterWidth": 2, "FilterHeight": 2, "FusedActivationFunction": 0}
PAIRS = [Spec((1, 256, 256, 1), "int8", step, zero) for step, zero in ((0.05, 3), (0.07, -5), (0.1, 0))]
EVERY = [Spec((1, 1, 1, 256), "int8", step, zero) for step, zero in ((0.05, 3), (0.0413, -5))]
EACH = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 1, 256)
ROWS = [Spec((4000, 10), "int8", 0.1, 0), Spec((4000, 10), "int8", 1 / 256, -128)]
LOGITS = np.random.default_rng(0).integers(-128, 128, (4000, 10)).astype(np.int8)
REAL = ((np.roll(np.arange(-150, 150), 150) + 0.5) * np.float32(0.0413)).astype(np.float32)[None]
# Operator: tensors, options, inputs.
SAMPLES = {
    "CONV_2D": ([PLANE, *weights((8, 3, 3, 8), 0), Spec((1, 14, 14, 8), "int8", 8.0, -3)],
                ("Conv2DOptions", WINDOW), [X_CODES]),
    "DEPTHWISE_CONV_2D": ([PLANE, *weights((1, 3, 3, 8), 3), Spec((1, 14, 14, 8), "int8", 2.0, -3)],
                          ("DepthwiseConv2DOptions", {**WINDOW, "DepthMultiplier": 1}), [X_CODES]),
    "FULLY_CONNECTED": ([Spec((128, 16), "int8", 0.5, 3), *weights((64, 16), 0), Spec((128, 64), "int8", 8.0, 2)],
                        ("FullyConnectedOptions", {"FusedActivationFunction": 0}), [X_CODES.reshape(-1, 16)]),
    "ADD": (PAIRS, ("AddOptions", {"FusedActivationFunction": ACTIVATIONS["NONE"]}), [
        code(LEFT, np.int8), code(RIGHT, np.int8)]),
    "MUL": ([*PAIRS[:2], Spec(PAIRS[2].shape, "int8", 0.001, 0)], ("MulOptions", {"FusedActivationFunction": 0}),
            [code(LEFT, np.int8), code(RIGHT, np.int8)]),
    "AVERAGE_POOL_2D": ([PLANE, Spec((1, 15, 15, 8), "int8", 0.5, 3)], ("Pool2DOptions", POOL), [X_CODES]),
    "MAX_POOL_2D": ([PLANE, Spec((1, 15, 15, 8), "int8", 0.5, 3)], ("Pool2DOptions", POOL), [X_CODES]),
    "MEAN": ([Spec((1, 3, 2, 4096), "int8", 0.05, 3), integers([1, 2]), Spec((1, 1, 1, 4096), "int8", 0.01, 3)],
             ("ReducerOptions", {"KeepDims": True}), [RNG.integers(-128, 128, (1, 3, 2, 4096)).astype(np.int8)]),
    "QUANTIZE": (EVERY, None, [EACH]), "LOGISTIC": ([EVERY[0], Spec(EVERY[0].shape, "int8", 1 / 256, -128)], None,
                                                    [EACH]),
    "TANH": ([EVERY[0], Spec(EVERY[0].shape, "int8", 1 / 128, 0)], None, [EACH]),
    "LEAKY_RELU": (EVERY, ("LeakyReluOptions", {"Alpha": 0.13}), [EACH]), "RELU": (EVERY, None, [EACH]),
    "RELU6": (EVERY, None, [EACH]),
    "HARD_SWISH": ([EVERY[0], Spec(EVERY[0].shape, "int8", 0.0213, -5)], None, [EACH]),
    "SOFTMAX": (ROWS, ("SoftmaxOptions", {"Beta": 1.0}), [LOGITS]),
    "CONCATENATION": ([PLANE, PLANE, Spec((1, 16, 16, 16), "int8", 0.5, 3)],
                      ("ConcatenationOptions", {"Axis": 3, "FusedActivationFunction": 0}), [X_CODES, X_CODES + 1]),
    "PAD": ([PLANE, integers([[0, 0], [1, 0], [0, 0], [0, 0]]), Spec((1, 17, 16, 8), "int8", 0.05, 3)],
            ("PadOptions", {}), [X_CODES]),
    "TRANSPOSE": ([PLANE, integers([0, 2, 1, 3]), PLANE], ("TransposeOptions", {}), [X_CODES]),
    "RESIZE_NEAREST_NEIGHBOR": ([PLANE, integers([20, 24]), Spec((1, 20, 24, 8), "int8", 0.05, 3)],
                                ("ResizeNearestNeighborOptions", {"AlignCorners": False, "HalfPixelCenters": False}),
                                [X_CODES]),
    "DEQUANTIZE": ([EVERY[0], Spec(EVERY[0].shape, "float32", [])], None, [EACH]),
    "RESHAPE": ([PLANE, Spec((1, 2048), "int8", 0.05, 3)], None, [X_CODES]),
    "SQUEEZE": ([Spec((1, 1, 2048), "int8", 0.05, 3), Spec((1, 2048), "int8", 0.05, 3)], None,
                [X_CODES.reshape(1, 1, 2048)])}


def moved_by_one(rule):
    """The rule's answers, each one place late."""
    return lambda op, inputs, y, codes: np.roll(rule(op, inputs, y, codes), 1)


def operation(kind, tmp_path):
    """The operation of a sample, its tensors, and its codes."""
    tensors, options, inputs = SAMPLES[kind]
    (tmp_path / "m.tflite").write_bytes(one_operator(kind, tensors, options))
    model = load_tflite(tmp_path / "m.tflite")
    (op,) = model.operations
    read = [model.tensors[index] for index in op.inputs]
    codes = [x if x.dtype == np.float32 else x.astype(np.int64) for x in inputs]
    return op, read, model.tensors[op.outputs[0]], codes


# Faults of each kernel set: another scaling, another set's rule, refquant's own; moves are late by one.
FAULTS = {
    "CONV_2D": [partial(rules.convolution, scaling=s) for s in (B, A, F)],
    "DEPTHWISE_CONV_2D": [partial(rules.depthwise, scaling=s) for s in (B, A, F)],
    "FULLY_CONNECTED": [partial(rules.fully_connected, scaling=s) for s in (A, X, B)],
    "ADD": [rules.add_blocks, rules.add_reference, rules.add_reference],
    "MUL": [elementwise.multiply_float, elementwise.multiply_float, elementwise.multiply_reference],
    "MEAN": [elementwise.mean_blocks, elementwise.mean_reference, elementwise.mean_reference],
    "AVERAGE_POOL_2D": [own.average_pool] * 3,
    "QUANTIZE": [elementwise.rescale_fixed, elementwise.rescale_fixed, elementwise.rescale_reference],
    "LEAKY_RELU": [elementwise.leaky_fixed, elementwise.leaky_fixed, elementwise.leaky_reference],
    "SOFTMAX": [rules.softmax_table, rules.softmax_reference, rules.softmax_reference],
    "DEQUANTIZE": [moved_by_one(elementwise.dequantize_reference), elementwise.dequantize_fused,
                   elementwise.dequantize_blocks]}


@pytest.mark.parametrize("place", range(3), ids=LITERT_SETS)
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_fault_in_each_of_litert_s_rules_shows(kind, place, tmp_path):
    op, read, written, codes = operation(kind, tmp_path)
    right = RULES[kind, "int8"][place]
    fault = FAULTS[kind][place] if kind in FAULTS else moved_by_one(right)
    different = int((fault(op, read, written, codes) != right(op, read, written, codes)).sum())
    assert different > 0


def test_every_rule_of_litert_is_met():
    assert {kind for kind, _ in RULES} == {*SAMPLES}


def test_a_fault_in_quantizing_floats_shows():
    """Ties: away from zero, to even; a multiplication by 1/s in place of a division."""
    y = load_of(Spec(REAL.shape, "int8", 0.0413, 3))
    found = [rule(None, [], y, [REAL]) for rule in RULES["QUANTIZE", "float32"]]
    assert all((found[a] != found[b]).any() for a, b in ((0, 1), (0, 2), (1, 2)))


def load_of(spec):
    from refquant.runtimes.model import Tensor
    return Tensor(0, "y", spec.shape, np.dtype(spec.dtype), np.array([spec.step], np.float32), np.array([spec.zero]))


def fused_away(op, inputs, y, codes):
    """QLinearAdd without fused multiply-adds."""
    (a, b), (a_q, b_q) = inputs, onnx_elementwise.operands_of(inputs, codes)
    ra, rb = (t.step[0] / y.step[0] for t in (a, b))
    fixed = np.float32(y.zero) - (ra * np.float32(a.zero) + rb * np.float32(b.zero))
    total = (fixed + b_q.astype(np.float32) * rb) + a_q.astype(np.float32) * ra
    return np.clip(np.rint(total), *(getattr(np.iinfo(y.dtype), end) for end in ("min", "max"))).astype(np.int64)


ALL = code(np.tile(np.arange(-128, 128), (256, 1))[None], np.uint8)
OTHER = code(np.repeat(np.arange(-128, 128)[:, None], 256, 1)[None], np.uint8)
TWO = scalars(np.uint8, sa=0.05, za=3, sb=0.07, zb=-5, sy=0.1, zy=0)
ONE = scalars(np.uint8, sx=0.05, zx=3, sy=0.0413, zy=-5)
UNARY, BINARY = ["x", "sx", "zx", "sy", "zy"], ["x", "sa", "za", "b", "sb", "zb", "sy", "zy"]
PLANES = code(RNG.integers(-128, 128, (4, 6, 12, 12)), np.uint8)
HELD = {"w": RNG.integers(-128, 128, (4, 6, 3, 3)).astype(np.int8), "sw": np.float32(0.01), "zw": np.int8(0)}
ONNX_SAMPLES = {
    "QLinearAdd": (BINARY, "com.microsoft", {}, {"b": OTHER, **TWO}, ALL, fused_away),
    "QLinearMul": (BINARY, "com.microsoft", {}, {"b": OTHER, **TWO}, ALL, own.multiply),
    "QLinearConcat": (["sy", "zy", "x", "sa", "za", "b", "sb", "zb"], "com.microsoft", {"axis": 1},
                      {"b": OTHER, **TWO}, ALL, moved_by_one(onnx_elementwise.concatenation)),
    "QLinearSigmoid": (UNARY, "com.microsoft", {}, {**ONE, "sy": np.float32(0.004)}, ALL,
                       moved_by_one(onnx_elementwise.function)),
    "QLinearLeakyRelu": (UNARY, "com.microsoft", {"alpha": 0.1}, ONE, ALL, moved_by_one(onnx_elementwise.function)),
    "QLinearSoftmax": (UNARY, "com.microsoft", {"axis": 2, "opset": 13}, {**ONE, "sy": np.float32(1 / 256)}, ALL,
                       moved_by_one(onnx_elementwise.softmax)),
    "QLinearAveragePool": (UNARY, "com.microsoft", {"kernel_shape": [2, 2]}, {**ONE, "sy": np.float32(0.05)}, PLANES,
                           own.onnx_average_pool),
    "QLinearGlobalAveragePool": (UNARY, "com.microsoft", {}, {**ONE, "sy": np.float32(0.003)}, PLANES,
                                 moved_by_one(onnx_elementwise.global_average_pool)),
    "QLinearConv": (["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"], "", {}, {**ONE, **HELD, "sy": np.float32(2)},
                    PLANES, partial(onnx_layers.layer, pairs=False)),
    "QuantizeLinear": (["x", "sx", "zx"], "", {}, scalars(np.uint8, sx=0.0413, zx=3), REAL, own.quantize),
    "DequantizeLinear": (["x", "sx", "zx"], "", {}, ONE, ALL, moved_by_one(onnx_elementwise.dequantize))}


@pytest.mark.parametrize("kind", ONNX_SAMPLES)
def test_a_fault_in_each_of_onnxruntime_s_rules_shows(kind, tmp_path, monkeypatch):
    names, domain, attributes, held, x, fault = ONNX_SAMPLES[kind]
    dtype = np.float32 if x.dtype == np.float32 else np.uint8
    used = {name: value for name, value in held.items() if name in names}
    made = one(kind, names, dtype, x.shape[1:], attributes, domain, **used)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    model = load_quantized_onnx(tmp_path / "m.onnx")
    right = run_model(model, x, "onnxruntime-avx2")[model.outputs[0]]
    monkeypatch.setitem(ONNX_RULES, kind, (fault, fault))
    assert (run_model(model, x, "onnxruntime-avx2")[model.outputs[0]] != right).any()


def test_own_rules_are_for_operators_that_there_are():
    assert {*OWN_RULES} <= {*ONNX_RULES, *(kind for kind, _ in RULES)}
