"""LiteRT's operators one at a time: all pairs of codes, or random ones under extreme scales, int8 and uint8."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_litert import RESOLVERS, litert
from tflite_models import Spec, one_operator

from refquant.readers.tflite_file import load_tflite
from refquant.runtimes import arithmetic, fast
from refquant.runtimes import operators as rules
from refquant.runtimes.kernels import LITERT_SETS, rule_of
from refquant.runtimes.model import Operation, Tensor
from refquant.runtimes.run import held, repeated

LEFT, RIGHT = (v.reshape(1, 256, 256, 1) for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


def of_dtype(values, dtype):
    """int8 codes, or the same 128 higher as uint8."""
    return (np.asarray(values) + 128 * (dtype == "uint8")).astype(dtype)


def both(tmp_path, kind, tensors, options, inputs, kernel_set):
    """LiteRT's codes of a one-operator model, and the operation with its tensors."""
    data = one_operator(kind, tensors, options)
    (tmp_path / "m.tflite").write_bytes(data)
    model = load_tflite(tmp_path / "m.tflite")
    interpreter = litert.Interpreter(model_content=data, experimental_op_resolver_type=RESOLVERS[kernel_set],
                                     num_threads=1)
    interpreter.allocate_tensors()
    for index, codes in zip(model.inputs, inputs):
        interpreter.set_tensor(index, codes)
    interpreter.invoke()
    (operation,) = model.operations
    described = [model.tensors[index] for index in operation.inputs]
    return interpreter.get_tensor(operation.outputs[0]), operation, described, model.tensors[operation.outputs[0]]


def check(tmp_path, kind, tensors, options, inputs):
    for kernel_set in LITERT_SETS:
        theirs, operation, described, written = both(tmp_path, kind, tensors, options, inputs, kernel_set)
        rule = rule_of(kernel_set, kind, tensors[0].dtype)
        given = iter(inputs)
        codes = [held(next(given)) if t.values is None else repeated(t, 1, len(written.shape)) for t in described
                 if t.values is None or kind in ("ADD", "MUL")]
        ours = rule(operation, described, written, codes)
        assert np.array_equal(ours, theirs, equal_nan=True), kernel_set


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("steps, zeros", [
    ((0.05, 0.07, 0.1), (3, -5, 0)), ((0.5, 0.001, 0.5), (0, 12, -128)), ((1.3, 0.9, 0.02), (-7, 0, 4)),
    ((0.01, 0.02, 3.0), (0, 0, 0)), ((1 / 256, 0.1, 0.1), (-128, 20, 10)), ((300.0, 0.1, 1.0), (0, 1, 2))])
def test_add_of_all_pairs_of_codes(tmp_path, steps, zeros, activation, dtype):
    shift = 128 * (dtype == "uint8")
    tensors = [Spec((1, 256, 256, 1), dtype, step, zero + shift) for step, zero in zip(steps, zeros)]
    check(tmp_path, "ADD", tensors, ("AddOptions", {"FusedActivationFunction": ACTIVATIONS[activation]}),
          [of_dtype(LEFT, dtype), of_dtype(RIGHT, dtype)])


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("count", [5, 21, 43])
def test_add_s_tail_is_computed_otherwise(tmp_path, count, dtype):
    rng = np.random.default_rng(count)
    tensors = [Spec((1, 1, 1, count), dtype, step, of_dtype(zero, dtype)) for step, zero in (
        (0.9, 3), (0.0123, -9), (0.11, 4))]
    for _ in range(20):
        check(tmp_path, "ADD", tensors, ("AddOptions", {"FusedActivationFunction": 0}),
              [of_dtype(rng.integers(-128, 128, (1, 1, 1, count)), dtype) for _ in (0, 1)])


@pytest.mark.parametrize("dtype, least", [("int8", -128), ("uint8", 0)])
@pytest.mark.parametrize("step", [0.004, 0.02, 0.1, 0.5, 2.0])
def test_softmax_of_random_rows(tmp_path, step, dtype, least):
    rows = of_dtype(np.random.default_rng(0).integers(-128, 128, (200, 10)), dtype)
    check(tmp_path, "SOFTMAX", [Spec(rows.shape, dtype, step), Spec(rows.shape, dtype, 1 / 256, least)],
          ("SoftmaxOptions", {"Beta": 1.0}), [rows])


@given(st.integers(1, 40), st.data())
def test_the_fast_scalings_are_the_plain_ones(channels, data):
    ends = st.sampled_from((-(2**31), 2**31 - 1, 0, -1, 1)) | st.integers(-(2**31), 2**31 - 1)
    sums = np.array(data.draw(st.lists(ends, min_size=channels, max_size=channels))) >> data.draw(st.integers(0, 24))
    acc = np.stack([sums, sums + 1, -sums - 1]).clip(-(2**31), 2**31 - 1)
    exponents = data.draw(st.lists(st.integers(-28, 2), min_size=channels, max_size=channels))
    kinds = st.sampled_from((0.5, 0.75, 0.6, 1 - 2**-31))
    fractions = data.draw(st.lists(kinds, min_size=channels, max_size=channels))
    M = np.ldexp(fractions, exponents)
    for plain, quick in ((arithmetic.double_rounded, fast.double_rounded), (arithmetic.neon, fast.neon)):
        try:
            wanted = plain(acc, M)
        except ValueError:  # a shift left that no register holds
            continue
        assert np.array_equal(quick(acc, M), wanted)
        assert np.array_equal(quick(acc, float(M[0])), plain(acc, float(M[0])))


def described(step, zero):
    return Tensor(0, "", (1, 256, 256, 1), np.dtype(np.int8), np.array([step], np.float32), np.array([zero]))


def test_the_rules_of_add_and_softmax_are_told_apart():
    """Were one taken for another, the comparisons above would show it: on these inputs they differ."""
    add = Operation("ADD", (0, 1), (2,), {"FusedActivationFunction": "NONE"})
    ends = [described(*one) for one in ((0.05, 3), (0.07, -5), (0.1, 0))]
    found = [rule(add, ends[:2], ends[2], [LEFT, RIGHT])
             for rule in (rules.add_reference, rules.add_blocks, rules.add_fixed)]
    assert [(one != other).sum() for one, other in ((found[0], found[1]), (found[0], found[2]))] == [879, 4064]
    softmax = Operation("SOFTMAX", (0,), (1,), {"Beta": 1.0})
    rows = np.random.default_rng(0).integers(-128, 128, (4000, 10))
    reads, writes = [described(0.1, 0)], described(1 / 256, -128)
    assert (rules.softmax_reference(softmax, reads, writes, [rows])
            != rules.softmax_table(softmax, reads, writes, [rows])).any()


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
@pytest.mark.parametrize("padding, activation", [(0, "NONE"), (1, "RELU"), (0, "RELU6")])
def test_pools(tmp_path, kind, padding, activation, dtype):
    rng = np.random.default_rng(1)
    x = of_dtype(rng.integers(-128, 128, (1, 7, 6, 5)), dtype)
    size = (1, 4, 3, 5) if padding == 0 else (1, 3, 2, 5)
    options = {"Padding": padding, "StrideW": 2, "StrideH": 2, "FilterWidth": 3, "FilterHeight": 3 - padding,
               "FusedActivationFunction": ACTIVATIONS[activation]}
    zero = of_dtype(-20, dtype)
    check(tmp_path, kind, [Spec(x.shape, dtype, 0.06, zero), Spec(size, dtype, 0.06, zero)],
          ("Pool2DOptions", options), [x])


def layer(rng, kind, dtype, channels, outputs, activation, per_channel):
    """A random layer with weights, as (tensors, options, inputs); sums of a size that codes show."""
    w_dtype, x_zero, w_zero = dtype, of_dtype(7, dtype), of_dtype(0, dtype) if dtype == "int8" else 131
    x_shape = (2, channels) if kind == "FULLY_CONNECTED" else (1, 5, 6, channels)
    w_shape = {"FULLY_CONNECTED": (outputs, channels), "CONV_2D": (outputs, 3, 2, channels),
               "DEPTHWISE_CONV_2D": (1, 3, 2, outputs)}[kind]
    weights = of_dtype(rng.integers(-127, 128, w_shape), w_dtype)
    axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
    steps = rng.uniform(0.001, 0.02, outputs if per_channel else 1).astype(np.float32)
    bias = rng.integers(-2000, 2000, outputs).astype(np.int32)
    y_shape = (2, outputs) if kind == "FULLY_CONNECTED" else (1, 3, 3, outputs)
    tensors = [Spec(x_shape, dtype, 0.013, x_zero), Spec(w_shape, w_dtype, steps, w_zero, weights, axis),
               Spec((outputs,), "int32", 0.013 * steps, 0, bias), Spec(y_shape, dtype, 0.9, of_dtype(-3, dtype))]
    window = {"Padding": 0, "StrideW": 2, "StrideH": 2, "DilationWFactor": 1, "DilationHFactor": 1,
              "FusedActivationFunction": ACTIVATIONS[activation]}
    options = {"FULLY_CONNECTED": ("FullyConnectedOptions", {"FusedActivationFunction": ACTIVATIONS[activation]}),
               "CONV_2D": ("Conv2DOptions", window),
               "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", {**window, "DepthMultiplier": outputs // channels})}
    return tensors, options[kind], [of_dtype(rng.integers(-128, 128, x_shape), dtype)]


@pytest.mark.parametrize("kind", ["FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("dtype, per_channel", [("int8", True), ("int8", False), ("uint8", False)])
@pytest.mark.parametrize("activation", ["NONE", "RELU6"])
def test_layers_with_weights(tmp_path, kind, dtype, per_channel, activation):
    rng = np.random.default_rng(3)
    for outputs in (3, 8, 21):
        channels = outputs if kind == "DEPTHWISE_CONV_2D" else 9
        for _ in range(4):
            check(tmp_path, kind, *layer(rng, kind, dtype, channels, outputs, activation, per_channel))
