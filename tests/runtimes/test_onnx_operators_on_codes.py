"""onnxruntime's operators on codes one at a time: every pair of codes, extreme scales, uint8 and int8."""
from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from tools import require_module

from refquant.readers.onnx_quantized import load_quantized_onnx
from refquant.runtimes import run_model
from refquant.runtimes.arithmetic import fma
from refquant.runtimes.kernels import onnxruntime_here

onnx = require_module("onnx", "pip install 'refquant[oracles]'")
ort = require_module("onnxruntime", "pip install 'refquant[oracles]'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402  -- after the skip

DTYPES = (np.uint8, np.int8)
OF = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8, np.float32: TensorProto.FLOAT}
EVERY = np.arange(256)
RNG = np.random.default_rng(0)


def code(value, dtype):
    """int8 codes, or the same 128 higher as uint8."""
    return (np.asarray(value) + 128 * (dtype is np.uint8)).astype(dtype)


def one(kind, inputs, x_dtype, shape, attributes=None, domain="com.microsoft", **constants):
    """A model of one node; inputs: names, those among ``constants`` are initializers, "x" is read."""
    node = helper.make_node(kind, inputs, ["y"], domain=domain, name="n", **(attributes or {}))
    graph = helper.make_graph([node], "one", [helper.make_tensor_value_info("x", OF[x_dtype], ("N", *shape))],
                              [helper.make_empty_tensor_value_info("y")],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid(
        "com.microsoft", 1)], ir_version=8)


def check(tmp_path, model, x, sets=()):
    """Our codes against onnxruntime's, one thread, image by image; by default as on this machine's CPU."""
    onnx.save(model, tmp_path / "m.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    theirs = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    read = load_quantized_onnx(tmp_path / "m.onnx")
    for name in sets or (onnxruntime_here(),):
        ours = run_model(read, x, name)[read.outputs[0]]
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert np.array_equal(ours, theirs, equal_nan=True), (name, int((ours != theirs).sum()))
    return theirs


def scalars(dtype, **values):
    """Steps as float32, zero points (whose names begin with z) as codes."""
    return {name: code(value, dtype) if name[0] == "z" else np.float32(value) for name, value in values.items()}


STEPS = [((0.05, 3), (0.07, -5), (0.1, 0)), ((0.5, 0), (0.001, 12), (0.5, -128)), ((1.3, -7), (0.9, 0), (0.02, 4)),
         ((0.01, 0), (0.02, 0), (3.0, 0)), ((300.0, 0), (0.1, 1), (1.0, 2)), ((1e-20, 0), (1e20, 3), (1e-10, 5))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("steps", STEPS)
def test_all_pairs_of_codes(tmp_path, kind, steps, dtype):
    (sa, za), (sb, zb), (sy, zy) = steps
    other = code(np.repeat(EVERY[:, None], 256, 1) - 128, dtype)
    held = scalars(dtype, sa=sa, za=za, sb=sb, zb=zb, sy=sy, zy=zy)
    x = code(np.tile(EVERY - 128, (256, 1))[None], dtype)
    names = ["x", "sa", "za", "b", "sb", "zb", "sy", "zy"]
    check(tmp_path, one(kind, names, dtype, (256, 256), b=other[None], **held), x)
    names[0], names[3] = names[3], names[0]
    check(tmp_path, one(kind, names, dtype, (256, 256), b=other[None], **held), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shape", [(1,), (), (1, 3, 1, 1), (3, 1, 1), (4, 5), (5,), (1, 1, 4, 1), (1, 3, 4, 1),
                                   (1, 1, 1, 5)])
def test_constants_that_broadcast(tmp_path, kind, shape, dtype):
    x = code(RNG.integers(-128, 128, (40, 3, 4, 5)), dtype)
    for swap in (False, True):
        for sa, za, sb, zb, sy, zy in ((0.05, 3, 0.07, -5, 0.0331, 7), (0.013, -100, 0.5, 90, 0.0511, -3)):
            b = code(RNG.integers(-128, 128, shape), dtype)
            names = ["x", "sa", "za", "b", "sb", "zb", "sy", "zy"]
            if swap:
                names = [*names[3:6], *names[:3], *names[6:]]
            check(tmp_path, one(kind, names, dtype, (3, 4, 5), b=b,
                                **scalars(dtype, sa=sa, za=za, sb=sb, zb=zb, sy=sy, zy=zy)), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind, attributes", [("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.13})])
@pytest.mark.parametrize("step", [0.003, 0.0173, 0.05, 0.11, 0.3, 1.0])
def test_functions_of_every_code(tmp_path, kind, attributes, step, dtype):
    for zx, sy, zy in ((0, 1 / 256, -128), (37, 0.004, -100), (-90, 0.0113, 3)):
        held = scalars(dtype, sx=step, zx=zx, sy=sy, zy=zy)
        check(tmp_path, one(kind, ["x", "sx", "zx", "sy", "zy"], dtype, (256,), attributes, **held),
              code(EVERY[None] - 128, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", [0.004, 0.02, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("opset, shape, axis", [(13, (10,), -1), (13, (4, 3, 2), 1), (12, (4, 3), 1),
                                                (13, (1001,), 1)])
def test_softmax(tmp_path, opset, shape, axis, step, dtype):
    x = code(RNG.integers(-128, 128, (60, *shape)), dtype)
    held = scalars(dtype, sx=step, zx=3, sy=1 / 256, zy=-128)
    check(tmp_path, one("QLinearSoftmax", ["x", "sx", "zx", "sy", "zy"], dtype, shape,
                        {"opset": opset, "axis": axis}, **held), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attributes, shape", [
    ({"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 1, 2]}, (3, 7, 8)),
    ({"kernel_shape": [3, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, (2, 6, 6)),
    ({"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": b"SAME_UPPER"}, (3, 5, 7)),
    ({"kernel_shape": [5, 4]}, (3, 5, 4)), ({"kernel_shape": [24, 5]}, (4, 25, 5)),
    ({"kernel_shape": [3], "strides": [2]}, (5, 9))])
def test_average_pools(tmp_path, attributes, shape, dtype):
    for sx, zx, sy, zy in ((0.05, 3, 0.04, -5), (0.1, -20, 0.1, -20), (0.02, 0, 0.3, 7)):
        held = scalars(dtype, sx=sx, zx=zx, sy=sy, zy=zy)
        check(tmp_path, one("QLinearAveragePool", ["x", "sx", "zx", "sy", "zy"], dtype, shape, attributes, **held),
              code(RNG.integers(-128, 128, (40, *shape)), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 7, 8), (16, 1, 1), (1, 4, 4), (9, 40)])
def test_global_average_pools(tmp_path, shape, dtype):
    for sx, zx, sy, zy in ((0.05, 3, 0.04, -5), (0.1, -20, 0.1, -20), (0.02, 0, 0.3, 7)):
        held = scalars(dtype, sx=sx, zx=zx, sy=sy, zy=zy)
        check(tmp_path, one("QLinearGlobalAveragePool", ["x", "sx", "zx", "sy", "zy"], dtype, shape,
                            {"channels_last": 0}, **held), code(RNG.integers(-128, 128, (40, *shape)), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_concatenation_of_several_scales(tmp_path, dtype):
    held = scalars(dtype, sx=0.05, zx=3, sb=0.013, zb=-7, sy=0.04, zy=9)
    names = ["sy", "zy", "x", "sx", "zx", "b", "sb", "zb", "x", "sx", "zx"]
    b = code(EVERY.reshape(1, 1, 256) - 128, dtype)
    check(tmp_path, one("QLinearConcat", names, dtype, (1, 256), {"axis": 1}, b=b, **held),
          code(EVERY.reshape(1, 1, 256) - 128, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step, zero", [(0.1, 3), (1 / 3, -128), (1e-30, 0), (3e38, 5), (0.5, 127)])
def test_quantize_and_dequantize(tmp_path, step, zero, dtype):
    ties = np.clip((np.arange(-300, 300) + 0.5) * np.float64(np.float32(step)), -3e38, 3e38)
    x = np.concatenate([ties, np.nextafter(ties, 0), [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, 3e38]]).astype(
        np.float32)[None]
    held = scalars(dtype, s=step, z=zero)
    check(tmp_path, one("QuantizeLinear", ["x", "s", "z"], np.float32, x.shape[1:], domain="", **held), x)
    check(tmp_path, one("DequantizeLinear", ["x", "s", "z"], dtype, (256,), domain="", **held),
          code(EVERY[None] - 128, dtype))


LAYERS = [((5, 6, 7), (4, 5, 3, 3), {"pads": [1, 1, 0, 2]}), ((6, 5, 5), (4, 3, 2, 3), {"group": 2}),
          ((6, 5, 5), (6, 1, 3, 3), {"group": 6, "strides": [2, 2]}), ((3, 5, 5), (6, 1, 3, 3), {"group": 3}),
          ((1, 6, 6), (1, 1, 3, 3), {}), ((1, 6, 6), (3, 1, 3, 3), {"dilations": [2, 1]}),
          ((7, 4, 4), (5, 7, 1, 1), {}), ((9, 3, 3), (1, 9, 1, 1), {}), ((4, 9), (3, 4, 3), {"pads": [1, 1]}),
          ((300, 2, 2), (2, 300, 2, 2), {}), ((6, 4, 4), (4, 3, 1, 1), {"group": 2})]


@pytest.mark.parametrize("w_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, weight, attributes", LAYERS)
def test_convolutions(tmp_path, shape, weight, attributes, dtype, w_dtype):
    """Random codes of full range: pairs saturate where both are large."""
    if dtype is np.int8 and w_dtype is np.uint8:
        pytest.skip("onnxruntime has no kernel for int8 codes and uint8 weights")
    x = code(RNG.integers(-128, 128, (8, *shape)), dtype)
    w = code(RNG.integers(-128, 128, weight), w_dtype)
    outputs = weight[0]
    for many in (False, True):
        sw = RNG.uniform(0.001, 0.02, outputs if many else 1).astype(np.float32)
        zw = code(np.zeros(outputs if many else 1, int) + (5 if w_dtype is np.uint8 else 0), w_dtype)
        spread = np.float32(0.02 * 0.013 * 74 * 74 * np.sqrt(np.prod(weight[1:])) / 60)
        bias = RNG.integers(-2000, 2000, outputs).astype(np.int32)
        held = scalars(dtype, sx=0.013, zx=9, sy=spread, zy=-4)
        names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "bias"]
        check(tmp_path, one("QLinearConv", names, dtype, shape, attributes, "", w=w, sw=sw if many else sw[0],
                            zw=zw if many else zw[0], bias=bias, **held), x)
    held = {"zx": code(9, dtype), "zw": code(5, w_dtype)}
    if dtype is np.uint8:
        check(tmp_path, one("ConvInteger", ["x", "w", "zx", "zw"], dtype, shape, attributes, "", w=w, **held), x)


@pytest.mark.parametrize("w_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, columns", [(64, 12), (33, 1), (500, 3), (1, 4)])
def test_matrix_products(tmp_path, rows, columns, dtype, w_dtype):
    if dtype is np.int8 and w_dtype is np.uint8:
        pytest.skip("onnxruntime has no kernel for int8 codes and uint8 weights")
    x = code(RNG.integers(-128, 128, (12, rows)), dtype)
    w = code(RNG.integers(-128, 128, (rows, columns)), w_dtype)
    spread = np.float32(0.02 * 0.013 * 74 * 74 * np.sqrt(rows) / 60)
    sw = RNG.uniform(0.001, 0.02, columns).astype(np.float32)
    zw = code(np.full(columns, 5 if w_dtype is np.uint8 else 0), w_dtype)
    bias = RNG.integers(-2000, 2000, columns).astype(np.int32)
    held = {**scalars(dtype, sx=0.013, zx=9, sy=spread, zy=-4), "w": w, "sw": sw, "zw": zw, "bias": bias}
    for trans, alpha in ((0, 1.0), (1, 0.7)):
        if trans:
            held["w"] = np.ascontiguousarray(w.T)
        for y in ([], ["sy", "zy"]):
            names = ["x", "sx", "zx", "w", "sw", "zw", "bias", *y]
            use = {name: held[name] for name in names if name in held}
            check(tmp_path, one("QGemm", names, dtype, (rows,), {"transB": trans, "alpha": alpha}, **use), x)
    held["w"] = w
    names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"]
    check(tmp_path, one("QLinearMatMul", names, dtype, (rows,), domain="", **{n: held[n] for n in names[1:]}), x)
    names = ["x", "w", "sx", "sw", "zx", "zw"]
    check(tmp_path, one("MatMulIntegerToFloat", names, dtype, (rows,), **{n: held[n] for n in names[1:]}), x)
    check(tmp_path, one("MatMulInteger", ["x", "w", "zx", "zw"], dtype, (rows,), domain="", w=w, zx=held["zx"],
                        zw=zw[0]), x)
    three = code(RNG.integers(-128, 128, (6, 4, rows)), dtype)
    names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"]
    held.update(sw=sw[0], zw=zw[0])
    use = {name: held[name] for name in names[1:]}
    check(tmp_path, one("QLinearMatMul", names, dtype, (4, rows), domain="", **use), three)


@pytest.mark.parametrize("shape, weight, attributes", [
    ((8, 6, 6), (8, 1, 3, 3), {"group": 8, "pads": [1, 1, 1, 1]}), ((5, 6, 6), (1, 5, 3, 3), {}),
    ((6, 6, 6), (1, 6, 1, 1), {}), ((7, 6, 6), (1, 7, 1, 1), {}), ((8, 6, 6), (2, 4, 3, 3), {"group": 2}),
    ((8, 6, 6), (8, 4, 3, 3), {"group": 2, "strides": [2, 1]}), ((3, 20, 20), (5, 3, 3, 3), {}),
    ((16, 16, 16), (12, 16, 3, 3), {"pads": [1, 1, 1, 1]}), ((64, 8, 8), (32, 64, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((300, 3, 3), (40, 300, 1, 1), {}), ((20, 2, 2), (64, 20, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 6, 6), (4, 1, 3, 6), {})])
def test_convolutions_that_are_left_in_floats(tmp_path, shape, weight, attributes):
    """On one thread, bit for bit: sums of one block and of several."""
    held = {"w": RNG.normal(size=weight).astype(np.float32), "b": RNG.normal(size=weight[0]).astype(np.float32)}
    made = one("Conv", ["x", "w", "b"], np.float32, shape, attributes, "", **held)
    made.graph.node.extend([helper.make_node("QuantizeLinear", ["y", "s", "z"], ["q"])])
    made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in (
        ("s", np.float32(0.1)), ("z", np.uint8(128))))
    made.graph.output.extend([helper.make_empty_tensor_value_info("q")])
    check(tmp_path, made, RNG.normal(size=(6, *shape)).astype(np.float32))


@pytest.mark.parametrize("a, b, c", [
    (1 + 2**-23, 1 + 2**-23, -(1 + 2**-22)), (3.0, 2**-24, 1.0), (1.0, 2**-24, 1.0), (1 + 2**-23, 2**-24, 1.0),
    (1 - 2**-24, 2**-24, 1.0), (-(1 - 2**-24), 2**-24, 1.0), (1 + 2**-23, 2**-24, 1 + 2**-23), (7.0, 0.1, -0.7),
    (2**-70, 2**-70, 2**-140), (2**-75 * 1.5, 2**-75, 0.0), (2**-75 * 1.5, 2**-74, 2**-149)])
def test_a_fused_multiply_add_is_rounded_once(a, b, c):
    """Against fractions, at ties, beside them, and among subnormal numbers."""
    a, b, c = (np.float32(v) for v in (a, b, c))
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    got = float(fma(a, b, c))
    near = [float(np.nextafter(np.float32(got), np.float32(end))) for end in (-np.inf, np.inf)]
    distance = [abs(Fraction(v) - exact) for v in (got, *near)]
    assert distance[0] == min(distance)
    if distance.count(min(distance)) > 1:  # a tie: the even one
        assert np.float32(got).view(np.int32) % 2 == 0
