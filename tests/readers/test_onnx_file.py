"""ONNX files: random and hand-built models against onnxruntime, and every refusal with its sentence."""

import math
import re
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import chain, input_shape, model, models, onnx, run_onnxruntime, tensor
from test_onnx_operators import MODELS

from refquant.convolution.geometry import Geometry
from refquant.network import graph
from refquant.network.float_forward import run_float
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.simulated_forward import run_simulated_tensors
from refquant.readers.onnx_file import load_onnx
from refquant.readers.onnx_operators import OPERATORS
from refquant.readers.onnx_translation import MAX_ELEMENTS, MAX_PARAMETERS
from refquant.recipes.quantize import quantize_network

node = onnx.helper.make_node
DOUBLE, INT8, FLOAT = onnx.TensorProto.DOUBLE, onnx.TensorProto.INT8, onnx.TensorProto.FLOAT
RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 2, 3, 2)).astype(np.float32)
F = RNG.normal(size=(4, 72)).astype(np.float32)  # for a flattened (2, 6, 6)
B = np.array([0.5, -1, 2], np.float32)
FLATTEN = ("Flatten", {}, {})
CONV = ("Conv", {"w": W}, {})


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    """Where a test writes its model; one for all, because Hypothesis wants no fixture per example."""
    return tmp_path_factory.mktemp("onnx") / "model.onnx"


def load(loaded, file: Path) -> graph.Network:
    file.write_bytes(loaded.SerializeToString())
    return load_onnx(file)


def normal_images(loaded, count: int = 2, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *input_shape(loaded))).astype(dtype)


def check_agreement(loaded, file: Path) -> graph.Network:
    """Within 1e-4 of the output's largest magnitude, for a batch of two against one image at a time."""
    network, images = load(loaded, file), normal_images(loaded)
    y, expected = run_float(network, images), run_onnxruntime(loaded, images)
    assert y.shape == expected.shape
    assert y.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    return network


# --- random models --------------------------------------------------------------------------------------------

@given(models())
def test_random_models_agree_with_onnxruntime(file, loaded):
    network = check_agreement(loaded, file)
    assert network.input == "x"
    made = {name for one in loaded.graph.node for name in one.output}
    assert {name.split(":")[0] for name in network.shapes} <= made | {"x"}


def test_random_models_reach_every_operator():
    met = set()

    @settings(max_examples=150, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(models())
    def collect(loaded):
        met.update(one.op_type for one in loaded.graph.node)

    collect()
    alone = {one.op_type for loaded in MODELS.values() for one in loaded.graph.node}
    assert met < set(OPERATORS) <= met | alone  # the others are met one at a time in test_onnx_operators.py


@st.composite
def pool_models(draw):
    """One pool: every window sees the input, whatever ceil_mode adds."""
    plane = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kernel = [draw(st.integers(1, 5)) for _ in plane]
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    pads[2:] = [max(after, k - size - before) for after, k, size, before in zip(pads[2:], kernel, plane, pads[:2])]
    pads[2:] = [min(after, k - 1) for after, k in zip(pads[2:], kernel)]
    if any(size + before + after < k for size, before, after, k in zip(plane, pads[:2], pads[2:], kernel)):
        pads[:2] = [k - 1 for k in kernel]
    attributes = {"kernel_shape": kernel, "pads": pads, "ceil_mode": draw(st.integers(0, 1)),
                  "strides": [draw(st.integers(1, 4)), draw(st.integers(1, 4))]}
    if draw(st.booleans()):
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    operators = ("AveragePool",) if "count_include_pad" in attributes else ("MaxPool", "AveragePool")
    operator = draw(st.sampled_from(operators))
    return model([node(operator, ["x"], ["y"], **attributes)], shape=("N", 2, *plane),
                 opset=draw(st.sampled_from((10, 11, 18, 19, 22))))


@given(pool_models())
def test_pools_agree_with_onnxruntime(file, loaded):
    check_agreement(loaded, file)


@settings(max_examples=25)
@given(models())
def test_loaded_networks_quantize_and_both_ways_agree(file, loaded):
    network, images = load(loaded, file).without_softmax(), normal_images(loaded)
    quantized = quantize_network(network, images)
    x_q = quantized.quantize_images(images)
    simulated = run_simulated_tensors(quantized, x_q)
    for name, codes in run_integer_tensors(quantized, x_q).items():
        assert np.array_equal(codes, simulated[name]), name


# --- each operator's variants ---------------------------------------------------------------------------------

POOL = {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [0, 1, 1, 1]}
S = {"shape": ("N", 2, 6, 6)}
VARIANTS = {
    "conv": chain(CONV),
    "conv with everything": chain(("Conv", {"w": RNG.normal(size=(4, 1, 3, 2)).astype(np.float32), "b": np.ones(
        4, np.float32)}, {"group": 2, "pads": [0, 1, 2, 3], "strides": [2, 1], "dilations": [2, 3],
                          "kernel_shape": [3, 2], "auto_pad": "NOTSET"})),
    "conv same upper": chain(("Conv", {"w": W}, {"auto_pad": "SAME_UPPER", "strides": [1, 4]})),
    "conv same lower": chain(("Conv", {"w": W}, {"auto_pad": "SAME_LOWER", "strides": [3, 1]})),
    "conv valid": chain(("Conv", {"w": W}, {"auto_pad": "VALID", "dilations": [2, 2]})),
    "conv same, stride beyond kernel": chain(("Conv", {"w": W[:, :, :1, :1]}, {
        "auto_pad": "SAME_UPPER", "strides": [4, 5]})),
    "batchnorm": chain(CONV, ("BatchNormalization", {"g": B, "b": B, "m": -B, "v": np.abs(B)}, {"epsilon": 0.1})),
    "batchnorm of old operator sets": chain(("BatchNormalization", dict(zip("gbmv", np.ones((4, 2), np.float32))), {
        "momentum": 0.5, "spatial": 1}), opset=7),
    "batchnorm of flat tensors": chain(FLATTEN, ("BatchNormalization", dict(zip("gbmv", np.abs(F))), {})),
    "batchnorm in new operator sets": chain(("BatchNormalization", dict(zip("gbmv", np.ones((4, 2), np.float32))), {
        "training_mode": 0}), opset=15),
    "relu": chain(("Relu", {}, {})),
    "relu6 by attributes": chain(("Clip", {}, {"min": 0.0, "max": 1.5}), opset=7),
    "clip without limits": chain(("Clip", {}, {}), opset=7),
    "clip above": chain(("Clip", {"low": None, "high": np.float32(0.5)}, {})),
    "clip below": chain(("Clip", {"low": np.float32(-0.5)}, {})),
    "max pool": chain(("MaxPool", {}, POOL)),
    "max pool, ceil": chain(("MaxPool", {}, {**POOL, "ceil_mode": 1, "dilations": [2, 1], "storage_order": 1})),
    "max pool same": chain(("MaxPool", {}, {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER", "ceil_mode": 1})),
    "average pool": chain(("AveragePool", {}, POOL)),
    "average pool with padding": chain(("AveragePool", {}, {**POOL, "count_include_pad": 1})),
    "average pool, ceil": chain(("AveragePool", {}, {**POOL, "strides": [4, 4], "ceil_mode": 1})),
    "average pool with padding, ceil": chain(("AveragePool", {}, {
        **POOL, "strides": [4, 4], "ceil_mode": 1, "count_include_pad": 1})),
    "average pool same, with padding": chain(("AveragePool", {}, {
        "kernel_shape": [3, 4], "strides": [2, 3], "auto_pad": "SAME_UPPER", "count_include_pad": 1})),
    "average pool, dilated": chain(("AveragePool", {}, {"kernel_shape": [2, 2], "dilations": [3, 2]}), opset=19),
    "global average pool": chain(("GlobalAveragePool", {}, {})),
    "mean": chain(("ReduceMean", {}, {"axes": [2, 3]})),
    "mean, negative axes, flat": chain(("ReduceMean", {}, {"axes": [-1, 2], "keepdims": 0})),
    "mean, axes as input": chain(("ReduceMean", {"axes": np.array([3, -2])}, {"keepdims": 0}), opset=18),
    "add": model([node("Relu", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])]),
    "add to itself": model([node("Add", ["x", "x"], ["y"])]),
    "addend per channel": chain(CONV, ("Add", {"b": B.reshape(1, 3, 1, 1)}, {})),
    "addend of a biased layer": chain(("Conv", {"w": W, "b": B}, {}), ("Add", {"b": B.reshape(3, 1, 1)}, {})),
    "addend that is one number": chain(CONV, ("Add", {"b": np.float32(3)}, {}), ("Add", {"b": np.float32([4])}, {})),
    "addend first": model([node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])],
                          [tensor("w", F[:3].T), tensor("b", B)], ("N", 72)),
    "concat": model([node("Relu", ["x"], ["r"]), node("Concat", ["x", "r", "x"], ["y"], axis=1)]),
    "concat, negative axis": model([node("Concat", ["x", "x"], ["y"], axis=-3)]),
    "concat of flat tensors": model([node("Concat", ["x", "x"], ["y"], axis=-1)], shape=("N", 7)),
    "gemm": chain(FLATTEN, ("Gemm", {"w": F.T}, {})),
    "gemm transposed": chain(FLATTEN, ("Gemm", {"w": F, "b": np.float32([[1, 2, 3, 4]])}, {"transB": 1})),
    "gemm with alpha and beta": chain(FLATTEN, ("Gemm", {"w": F, "b": np.float32([1, 2, 3, 4])}, {
        "transB": 1, "alpha": 0.3, "beta": -2.0})),
    "gemm with one bias": chain(FLATTEN, ("Gemm", {"w": F.T, "b": np.float32(5)}, {"beta": 0.5})),
    "matmul": chain(FLATTEN, ("MatMul", {"w": F.T}, {})),
    "flatten, negative axis": chain(("Flatten", {}, {"axis": -3}), opset=11),
    **{f"reshape to {target}": chain(CONV, ("Reshape", {"shape": np.array(target)}, {}))
       for target in ((1, -1), (0, -1), (1, 60), (-1, 60), (0, 60))},
    "identity": chain(("Identity", {}, {}), ("Relu", {}, {}), ("Identity", {}, {})),
    "dropout by attribute": chain(("Dropout", {}, {"ratio": 0.5}), ("Relu", {}, {}), opset=7),
    "dropout by inputs": chain(("Relu", {}, {}), ("Dropout", {"ratio": np.float32(0.5), "train": np.bool_(False)}, {
        "seed": 1})),
    "dropout with a mask": model([node("Dropout", ["x"], ["d", "mask"]), node("Relu", ["d"], ["y"])]),
    "constants": model([node("Constant", [], ["w"], value=tensor("", W)), node("Identity", ["w"], ["v"]),
                        node("Constant", [], ["zero"], value_float=0.0),
                        node("Constant", [], ["i"], value_ints=[0, -1]),
                        node("Conv", ["x", "v"], ["c"]), node("Clip", ["c", "zero"], ["r"]),
                        node("Reshape", ["r", "i"], ["y"])]),
    "pad by attribute": chain(("Pad", {}, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "constant"}), CONV, opset=10),
    "pad by input": chain(("Pad", {"pads": np.array([0, 0, 1, 2, 0, 0, 3, 0]), "value": np.float32(0)}, {}), (
        "Conv", {"w": W}, {"pads": [1, 0, 0, 1]})),
    "pad some axes": chain(("Pad", {"pads": np.array([1, 2, 3, 4]), "value": None, "axes": np.array([-1, 2])}, {}),
                           CONV, opset=18),
    "pad before same": chain(("Pad", {"pads": np.array([0, 0, 1, 1, 0, 0, 0, 0])}, {}), (
        "Conv", {"w": W}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]})),
    "pad read twice": model([node("Pad", ["x", "p"], ["q"]), node("Conv", ["q", "w"], ["a"]),
                             node("Conv", ["q", "w"], ["b"]), node("Add", ["a", "b"], ["y"])],
                            [tensor("w", W), tensor("p", [0, 0, 1, 1, 0, 0, 1, 1], np.int64)]),
    "softmax": chain(FLATTEN, ("Softmax", {}, {"axis": 1})),
    "softmax, last axis": chain(FLATTEN, ("Softmax", {}, {})),
    "softmax of old operator sets": chain(FLATTEN, ("Softmax", {}, {}), opset=7),
}


@pytest.mark.parametrize("loaded", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants_agree_with_onnxruntime(loaded, file):
    check_agreement(loaded, file)


def only(loaded, file, kind):
    """The one node of a kind in the loaded network."""
    found = [one for one in load(loaded, file).nodes if isinstance(one, kind)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("auto", "plane", "stride", "kernel", "padding"), [
    ("SAME_UPPER", (6, 6), (2, 2), (3, 3), (0, 0, 1, 1)),  # TensorFlow's stride-2 layers
    ("SAME_LOWER", (6, 6), (2, 2), (3, 3), (1, 1, 0, 0)),
    ("SAME_UPPER", (5, 7), (1, 2), (2, 5), (0, 2, 1, 2)),
    ("SAME_UPPER", (6, 6), (3, 4), (1, 2), (0, 0, 0, 0)),
    ("VALID", (6, 6), (2, 2), (3, 3), (0, 0, 0, 0)),
])
def test_auto_pad_by_hand(auto, plane, stride, kernel, padding, file):
    loaded = chain(("Conv", {"w": np.ones((1, 2, *kernel), np.float32)}, {"auto_pad": auto, "strides": stride}),
                   shape=(1, 2, *plane))
    assert only(loaded, file, graph.Conv).geometry == Geometry(stride, padding)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
def test_auto_pad_is_onnxruntimes_wherever_that_does_not_pad_negatively(auto, kernel, stride, file):
    """Every height from 1 to 9. A total of -1 or -2 pads nothing, as in a 1x1 shortcut of stride 2."""
    for size in range(1, 10):
        weight = np.arange(1, 2 * kernel + 1, dtype=np.float32).reshape(1, 2, kernel, 1)
        loaded = chain(("Conv", {"w": weight}, {"auto_pad": auto, "strides": [stride, 1]}), shape=("N", 2, size, 2))
        total = (-(-size // stride) - 1) * stride + kernel - size
        if total > -3:
            check_agreement(loaded, file)
        else:
            with pytest.raises(ValueError, match=rf"total padding of -2 or more, as onnxruntime .* got {total} for "):
                load(loaded, file)


@pytest.mark.parametrize("opsets", [[("", 13), ("ai.onnx.ml", 2)], [("com.microsoft", 1), ("", 13)],
                                    [("", 13), ("ai.onnx.ml", 3), ("ai.onnx.training", 1)], [("ai.onnx", 13)]])
def test_domains_that_no_node_uses_do_not_matter(opsets, file):
    check_agreement(with_opsets(*opsets), file)


@pytest.mark.parametrize("loaded", [
    model([node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2])]),
    model([node("Dropout", ["x"], ["d", "mask"]), node("Relu", ["d"], ["y"])]),
    model([node("BatchNormalization", ["x", *"gbmv"], ["y", "mean", "var", "saved_mean", "saved_var"])],
          [tensor(name, np.array([1.5, 0.5]), np.float32) for name in "gbmv"], opset=9)],
    ids=["indices", "mask", "running statistics"])
def test_outputs_that_nobody_reads_do_not_matter(loaded, file):
    if loaded.graph.node[0].op_type == "BatchNormalization":  # onnxruntime takes five outputs for training
        lean = onnx.ModelProto.FromString(loaded.SerializeToString())
        del lean.graph.node[0].output[1:]
        assert [vars(n).keys() for n in load(loaded, file).nodes] == [vars(n).keys() for n in load(lean, file).nodes]
        x = np.random.default_rng(0).normal(size=(3, 2, 6, 6)).astype(np.float32)
        assert np.array_equal(run_float(load(loaded, file), x), run_float(load(lean, file), x))
        check_agreement(lean, file)
    else:
        check_agreement(loaded, file)


@pytest.mark.parametrize(("size", "kernel", "stride", "pads", "padding", "counts"), [
    # The third window of three sees the last element alone, and divides by it alone.
    (5, 2, 2, (0, 0), (0, 1), [2, 2, 1]),
    # Explicit padding on the right counts, the element beyond it does not.
    (6, 3, 2, (0, 1), (0, 1), [3, 3, 3]),
    (6, 3, 2, (1, 1), (1, 2), [3, 3, 3, 2]),
    # Rounding up would start a window in the padding: it is left out.
    (5, 2, 3, (1, 1), (1, 1), [2, 2]),
    # A kernel larger than the padded input by less than a stride.
    (4, 5, 2, (0, 0), (0, 1), [4]),
])
def test_ceil_mode_by_hand(size, kernel, stride, pads, padding, counts, file):
    attributes = {"kernel_shape": [1, kernel], "strides": [1, stride], "pads": [0, pads[0], 0, pads[1]],
                  "ceil_mode": 1}
    shape = (1, 2, 1, size)
    loaded = chain(("AveragePool", {}, {**attributes, "count_include_pad": 1}), shape=shape)
    pool = only(loaded, file, graph.AveragePool)
    assert pool.geometry.padding == (0, padding[0], 0, padding[1])
    assert pool.overhang == (0, padding[1] - pads[1])
    assert pool.counts((1, size)).tolist() == [counts]
    check_agreement(loaded, file)
    check_agreement(chain(("AveragePool", {}, attributes), shape=shape), file)
    check_agreement(chain(("MaxPool", {}, attributes), shape=shape), file)


@given(st.data())
def test_counts_equal_a_plain_loop_over_every_window(data):
    """Divisors with and without padding, on windows of any stride, dilation, padding and overhang."""
    plane = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    kernel = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    spread = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    geometry = Geometry(data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), padding, spread)
    include = data.draw(st.booleans())
    overhang = data.draw(st.tuples(st.integers(0, padding[2]), st.integers(0, padding[3])))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, spread)]
    if any(extent > size + padding[axis] + padding[axis + 2]
           for axis, (extent, size) in enumerate(zip(extents, plane))):
        return
    pool = graph.AveragePool("p", "x", kernel, geometry, include, overhang)

    def counted(position: int, axis: int) -> bool:
        before, after = (padding[axis], padding[axis + 2] - overhang[axis]) if include else (0, 0)
        return -before <= position < plane[axis] + after

    expected = []
    for top in range(-padding[0], plane[0] + padding[2] - extents[0] + 1, geometry.stride[0]):
        row = []
        for left in range(-padding[1], plane[1] + padding[3] - extents[1] + 1, geometry.stride[1]):
            row.append(sum(counted(top + r * spread[0], 0) and counted(left + s * spread[1], 1)
                           for r in range(kernel[0]) for s in range(kernel[1])))
        expected.append(row)
    assert pool.counts(plane).tolist() == expected


@pytest.mark.parametrize("overhang", [(0, 2), (-1, 0), (1,), (0.5, 0)])
def test_an_overhang_beyond_the_padding_is_refused(overhang):
    message = r"^overhang must be two integers within the bottom and right padding \(1, 1\), got"
    with pytest.raises(ValueError, match=message):
        graph.AveragePool("p", "x", (2, 2), Geometry(padding=(0, 0, 1, 1)), True, overhang)


def test_a_pad_becomes_the_convolutions_padding(file):
    for name, padding in (("pad by attribute", (1, 2, 3, 0)), ("pad by input", (2, 2, 3, 1)),
                          ("pad some axes", (2, 1, 4, 3)), ("pad before same", (2, 1, 1, 1))):
        network = load(VARIANTS[name], file)
        assert [type(one) for one in network.nodes] == [graph.Conv]
        assert network.nodes[0].inputs == ("x",)
        assert network.nodes[0].geometry.padding == padding


def test_gemm_folds_alpha_and_beta(file):
    layer = only(VARIANTS["gemm with alpha and beta"], file, graph.Linear)
    np.testing.assert_allclose(layer.weight, 0.3 * F, rtol=1e-6)
    assert layer.bias.tolist() == [-2, -4, -6, -8]
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    assert only(VARIANTS["gemm with one bias"], file, graph.Linear).bias.tolist() == [2.5] * 4
    assert only(VARIANTS["gemm"], file, graph.Linear).bias is None
    assert np.array_equal(only(VARIANTS["gemm"], file, graph.Linear).weight, F)


def test_addends_are_added_to_the_bias_and_rename_the_layer(file):
    network = load(VARIANTS["addend of a biased layer"], file)
    assert [(type(one), one.name) for one in network.nodes] == [(graph.Conv, "y")]
    assert network.nodes[0].bias.tolist() == (B + B).tolist()
    assert load(VARIANTS["addend that is one number"], file).nodes[0].bias.tolist() == [7, 7, 7]


def test_clips_by_hand(file):
    lowest = float(np.finfo(np.float32).min)
    for name, limits in (("relu", (0, None)), ("relu6 by attributes", (0, 1.5)), ("clip above", (None, 0.5)),
                         ("clip below", (-0.5, None)), ("clip without limits", (None, None))):
        clip = only(VARIANTS[name], file, graph.Clip)
        assert (clip.low, clip.high) == limits
    clip = only(chain(("Clip", {}, {"min": lowest, "max": -lowest}), opset=7), file, graph.Clip)
    assert (clip.low, clip.high) == (None, None)


def test_tensors_keep_their_names_and_identities_vanish(file):
    network = load(VARIANTS["identity"], file)
    assert (network.input, network.output, set(network.shapes)) == ("x", "t1", {"x", "t1"})
    network = load(VARIANTS["mean, axes as input"], file)
    assert list(network.shapes) == ["x", "y:mean", "y"]


@pytest.mark.parametrize("batch", ["N", None, 1])
def test_the_batch_axis_is_symbolic_or_one(batch, file):
    assert load(chain(("Relu", {}, {}), shape=(batch, 3, 4, 5)), file).input_shape == (3, 4, 5)
    assert load(chain(("Relu", {}, {}), shape=(batch, 7)), file).input_shape == (7,)


def test_an_initializer_may_be_listed_as_an_input(file):
    """As files before IR version 4 do."""
    loaded = chain(CONV)
    loaded.graph.input.append(onnx.helper.make_tensor_value_info("w0", FLOAT, W.shape))
    assert only(loaded, file, graph.Conv).weight.shape == W.shape


# --- element types and where they are stored ------------------------------------------------------------------

@pytest.mark.parametrize(("dtype", "kept"), [(np.float16, np.float32), (np.float32, np.float32),
                                             (np.float64, np.float64)])
@pytest.mark.parametrize("raw", [True, False])
def test_weights_keep_their_values_in_float32_or_float64(dtype, kept, raw, file):
    weight = W.astype(dtype)
    made = onnx.helper.make_tensor("w", onnx.helper.np_dtype_to_tensor_dtype(weight.dtype), W.shape,
                                   weight.tobytes() if raw else weight.ravel(), raw)
    layer = only(model([node("Conv", ["x", "w"], ["y"])], [made]), file, graph.Conv)
    assert layer.weight.dtype == kept
    assert np.array_equal(layer.weight, weight.astype(kept))


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", [onnx.TensorProto.INT64, onnx.TensorProto.INT32])
def test_integers_may_be_stored_in_either_way(raw, kind, file):
    pads = np.array([0, 0, 1, 2, 0, 0, 3, 0], onnx.helper.tensor_dtype_to_np_dtype(kind))
    made = onnx.helper.make_tensor("p", kind, [8], pads.tobytes() if raw else pads, raw)
    loaded = model([node("Pad", ["x", "p"], ["q"]), node("Conv", ["q", "w"], ["y"])], [made, tensor("w", W)])
    assert only(loaded, file, graph.Conv).geometry.padding == (1, 2, 3, 0)


def test_a_float64_model_agrees_with_onnxs_reference(file):
    loaded = model([node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["y"])],
                   [tensor("w", W, np.float64)], kind=DOUBLE)
    images = normal_images(loaded, dtype=np.float64)
    from onnx.reference import ReferenceEvaluator
    expected = ReferenceEvaluator(loaded).run(None, {"x": images})[0]
    y = run_float(load(loaded, file), images)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


# --- softmax --------------------------------------------------------------------------------------------------

def test_softmax_is_float_only_and_can_be_left_out(file):
    network = load(VARIANTS["softmax"], file)
    images = normal_images(VARIANTS["softmax"])
    logits = run_float(network.without_softmax(), images)
    y = run_float(network, images)
    exponentials = [[math.exp(v) for v in row] for row in logits.tolist()]
    np.testing.assert_allclose(y, [[e / math.fsum(row) for e in row] for row in exponentials], rtol=1e-5)
    assert network.without_softmax().output == "t0"
    assert network.without_softmax().without_softmax().nodes == network.without_softmax().nodes
    assert [type(one) for one in network.without_softmax().nodes] == [graph.Flatten]
    with pytest.raises(ValueError, match="node 'y': Softmax has no integer form"):
        quantize_network(network, images)


def test_softmax_does_not_overflow():
    network = graph.Network((3,), [graph.Softmax("s", "input")])
    y = run_float(network, np.array([[1e4, 1e4, -1e4]], np.float32))
    assert y.tolist() == [[0.5, 0.5, 0]]
    assert y.dtype == np.float32


@pytest.mark.parametrize(("nodes", "message"), [
    ([graph.Softmax("s", "input"), graph.Clip("c", "s")],
     "node 's': a Softmax must be the network's output and read by no node"),
    ([graph.Softmax("s", "input"), graph.Clip("c", "input")],
     "node 's': a Softmax must be the network's output and read by no node"),
    ([graph.Softmax("s", ("input", "input"))], r"node 's': Softmax reads one tensor, got \('input', 'input'\)"),
])
def test_softmax_is_only_an_output(nodes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        graph.Network((3,), nodes)
    with pytest.raises(ValueError, match=r"node 's': axis must be one of shape \(3, 1, 1\), got 3"):
        graph.Network((3, 1, 1), [graph.Final("s", "input", "softmax", 3)])


# --- refusals -------------------------------------------------------------------------------------------------

def with_opsets(*opsets):
    loaded = chain(("Relu", {}, {}))
    del loaded.opset_import[:]
    loaded.opset_import.extend(onnx.helper.make_opsetid(*opset) for opset in opsets)
    return loaded


def with_function():
    loaded = chain(("Relu", {}, {}))
    loaded.functions.append(onnx.helper.make_function("local", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])],
                                                      [onnx.helper.make_opsetid("", 13)]))
    return loaded


def with_subgraph():
    branch = onnx.helper.make_graph([node("Relu", ["x"], ["b"])], "branch", [],
                                    [onnx.helper.make_tensor_value_info("b", FLOAT, None)])
    return model([node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)], [tensor("c", True, bool)])


def with_sparse():
    loaded = chain(("Relu", {}, {}))
    sparse = onnx.helper.make_sparse_tensor(tensor("w", [1.0]), tensor("i", [3], np.int64), [8])
    loaded.graph.sparse_initializer.append(sparse)
    return loaded


def with_ends(inputs, outputs):
    loaded = model([node("Add", ["x", "x"], ["y"]), node("Relu", ["y"], ["z"])])
    for ends, names in ((loaded.graph.input, inputs), (loaded.graph.output, outputs)):
        del ends[:]
        ends.extend(onnx.helper.make_tensor_value_info(name, FLOAT, (1, 4)) for name in names)
    return loaded


def without_shape():
    loaded = chain(("Relu", {}, {}))
    loaded.graph.input[0].type.tensor_type.ClearField("shape")
    return loaded


def declaring(dims, kind=FLOAT, data=b"\0\0\0\0"):
    """A convolution whose weight declares more than it holds."""
    weight = onnx.TensorProto(name="w", data_type=kind, dims=dims, raw_data=data)
    return model([node("Conv", ["x", "w"], ["y"])], [weight])


def twice(loaded):
    loaded.graph.initializer.append(loaded.graph.initializer[0])
    return loaded


ONES = np.ones((4, 2), np.float32)
SHAPE, OPEN = "must have a batch axis and one to six others that are fixed, got", (
    "; --input-shape gives those that are open, as in 3,224,224")
RESHAPE = "a reshape must keep the batch in front and the 72 elements of (2, 6, 6) behind it"
REFUSED = {
    # Operators and their attributes
    "foreign operator": (model([node("Relu", ["x"], ["y"], domain="com.microsoft")]),
                         "node 'y' (Relu): operator com.microsoft.Relu is not supported"),
    "subgraph": (with_subgraph(), "node 'y' (If): operator If is not supported"),
    "attribute": (chain(("Relu", {}, {"alpha": 1.0})), "node 'y' (Relu): attribute alpha is not supported"),
    "attribute type": (chain(("Conv", {"w": W}, {"group": 1.0})),
                       "node 'y' (Conv): attribute group must be of type int, got float"),
    "attribute list type": (chain(("Conv", {"w": W}, {"strides": [1.0, 1.0]})),
                            "node 'y' (Conv): attribute strides must be a list of integers, got (1.0, 1.0)"),
    "few inputs": (model([node("Conv", ["x"], ["y"])]), "node 'y' (Conv): it must have 2 to 3 inputs, got 1"),
    "left out input": (model([node("Add", ["x", ""], ["y"])]), "node 'y' (Add): it must have 2 inputs, got 1"),
    "left out later input": (model([node("Concat", ["x", ""], ["y"], axis=1)]),
                             "node 'y' (Concat): it must read computed tensors, got ''"),
    "second output": (model([node("MaxPool", ["x"], ["z", "y"], kernel_shape=[1, 1])]),
                      "node 'z' (MaxPool): only its first output may be read, got a reader of 'y' too"),
    "mask that is read": (model([node("Dropout", ["x"], ["d", "mask"]), node("Relu", ["mask"], ["y"])]),
                          "node 'd' (Dropout): only its first output may be read, got a reader of 'mask' too"),
    # Layers
    "computed weight": (model([node("Conv", ["x", "x"], ["y"])]),
                        "node 'y' (Conv): 'x' must be a constant, got a computed tensor"),
    "constant image": (model([node("Relu", ["w"], ["y"])], [tensor("w", [1.0])]),
                       "node 'y' (Relu): 'w' must be computed from the network's input, got a constant"),
    "integer weight": (chain(("Conv", {"w": W.astype(np.int64)}, {})),
                       "node 'y' (Conv): 'w0' must hold floats, got int64"),
    "weight of a foreign type": (chain(("Conv", {"w": W.astype(np.int8)}, {})),
                                 "node 'y' (Conv): tensor 'w0' must hold float16, float32, float64, int32, int64 or "
                                 "bool, got ONNX element type 3"),
    "infinite weight": (chain(("Conv", {"w": W * np.float32(np.inf)}, {})),
                        "node 'y' (Conv): weight must be finite, got NaN or infinity"),
    "1-D convolution": (chain(("Conv", {"w": np.ones((1, 2, 3), np.float32)}, {})),
                        "node 'y' (Conv): input must be (N, C, L), got (N, 2, 6, 6)"),
    "3-D convolution": (chain(("Conv", {"w": np.ones((1, 2, 3, 3, 3), np.float32)}, {})),
                        "node 'y' (Conv): weight must be (O, C/groups, R, S) or (O, C/groups, S), as only 1-D and "
                        "2-D convolution is supported, got shape (1, 2, 3, 3, 3)"),
    "wrong channels": (chain(("Conv", {"w": W[:, :1]}, {})),
                       "node 'y' (Conv): weight must be (O, 2, R, S) for 2 input channels in 1 groups, got shape "
                       "(3, 1, 3, 2)"),
    "no groups": (chain(("Conv", {"w": W}, {"group": 0})), "node 'y' (Conv): groups must be >= 1, got 0"),
    "kernel_shape": (chain(("Conv", {"w": W}, {"kernel_shape": [2, 3]})),
                     "node 'y' (Conv): attribute kernel_shape must be the weight's (3, 2), got (2, 3)"),
    "three strides": (chain(("Conv", {"w": W}, {"strides": [1, 1, 1]})),
                      "node 'y' (Conv): attribute strides must be 2 integers up to 65536, as only 2-D windows are "
                      "supported, got (1, 1, 1)"),
    "huge pads": (chain(("Conv", {"w": W}, {"pads": [2**40, 0, 0, 0]})),
                  "node 'y' (Conv): attribute pads must be 4 integers up to 65536, as only 2-D windows are "
                  "supported, got (1099511627776, 0, 0, 0)"),
    "negative pads": (chain(("Conv", {"w": W}, {"pads": [-1, 0, 0, 0]})),
                      "node 'y' (Conv): padding must be >= 0, got (-1, 0, 0, 0)"),
    "no stride": (chain(("Conv", {"w": W}, {"strides": [0, 1], "auto_pad": "SAME_UPPER"})),
                  "node 'y' (Conv): stride must be >= 1, got (0, 1)"),
    "auto_pad": (chain(("Conv", {"w": W}, {"auto_pad": "SAME"})), "node 'y' (Conv): attribute auto_pad must be "
                 "NOTSET, VALID, SAME_UPPER or SAME_LOWER, got b'SAME'"),
    "auto_pad and pads": (chain(("Conv", {"w": W}, {"auto_pad": "VALID", "pads": [1, 1, 1, 1]})),
                          "node 'y' (Conv): auto_pad VALID and pads (1, 1, 1, 1) contradict each other"),
    "auto_pad and dilations": (chain(("MaxPool", {}, {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "dilations": [
        2, 1]})), "node 'y' (MaxPool): auto_pad SAME with dilations is not supported, as runtimes disagree about it"),
    "convolution of flat tensors": (chain(FLATTEN, CONV),
                                    "node 'y' (Conv): input must be (N, C, H, W) planes, got (N, 72)"),
    "kernel beyond the input": (chain(("Conv", {"w": np.ones((1, 2, 7, 1), np.float32)}, {})),
                                "node 'y' (Conv): the kernel must fit the padded input, got extent 7 over 6"),
    "transA": (chain(FLATTEN, ("Gemm", {"w": F}, {"transA": 1})),
               "node 'y' (Gemm): transA 1 is not supported, only 0"),
    "gemm weight": (chain(FLATTEN, ("Gemm", {"w": W}, {})),
                    "node 'y' (Gemm): weight must be a matrix, got shape (3, 2, 3, 2)"),
    "gemm of planes": (chain(("Gemm", {"w": F}, {"transB": 1})),
                       "node 'y' (Gemm): input must have shape (72,), got (2, 6, 6)"),
    "gemm bias": (chain(FLATTEN, ("Gemm", {"w": F, "b": B}, {"transB": 1})),
                  "node 'y' (Gemm): a constant addend must broadcast to (1, 4), got shape (3,)"),
    "matmul weight": (chain(FLATTEN, ("MatMul", {"w": W}, {})),
                      "node 'y' (MatMul): the second factor must be a matrix, got shape (3, 2, 3, 2)"),
    "constant first factor": (model([node("MatMul", ["w", "x"], ["y"])], [tensor("w", F)], ("N", 72)),
                              "node 'y' (MatMul): 'x' must be a constant, got a computed tensor"),
    "training": (chain(("BatchNormalization", dict(zip("gbmv", ONES)), {"training_mode": 1}), opset=15),
                 "node 'y' (BatchNormalization): only inference per channel is supported: training_mode 0, "
                 "spatial 1"),
    "not spatial": (chain(("BatchNormalization", dict(zip("gbmv", ONES)), {"spatial": 0}), opset=7),
                    "node 'y' (BatchNormalization): only inference per channel is supported: training_mode 0, "
                    "spatial 1"),
    "batchnorm channels": (chain(("BatchNormalization", dict(zip("gbmv", ONES.repeat(2, 1))), {})),
                           "node 'y' (BatchNormalization): input must have 4 channels, got shape (2, 6, 6)"),
    "dropout in training": (chain(("Dropout", {"ratio": np.float32(0.5), "train": np.bool_(True)}, {})),
                            "node 'y' (Dropout): only inference is supported: training_mode false"),
    "dropout mode": (chain(("Dropout", {"ratio": np.float32(0.5), "train": np.float32(0)}, {})),
                     "node 'y' (Dropout): 'train0' must be one boolean, got shape () of float32"),
    # Windows
    "pool without kernel": (chain(("MaxPool", {}, {})),
                            "node 'y' (MaxPool): kernel must be two integers >= 1, got (0, 0)"),
    "pool of flat tensors": (chain(FLATTEN, ("MaxPool", {}, {"kernel_shape": [1, 1]})),
                             "node 'y' (MaxPool): input must be (N, C, H, W) planes, got (N, 72)"),
    "pool of padding": (chain(("MaxPool", {}, {"kernel_shape": [1, 1], "pads": [0, 0, 0, 1]})),
                        "node 'y' (MaxPool): every window must see the input, got padding (0, 0, 0, 1) for kernel "
                        "(1, 1)"),
    "pool too large, ceil": (chain(("AveragePool", {}, {"kernel_shape": [9, 1], "ceil_mode": 1})),
                             "node 'y' (AveragePool): the kernel must fit the padded input, got extent 9 over 6"),
    "ceil_mode": (chain(("MaxPool", {}, {"kernel_shape": [1, 1], "ceil_mode": 2})),
                  "node 'y' (MaxPool): attribute ceil_mode must be 0 or 1, got 2"),
    "pad mode": (chain(("Pad", {"pads": np.array([0, 0, 1, 1] * 2)}, {"mode": "edge"}), CONV),
                 "node 't0' (Pad): only padding with the constant 0 is supported, got mode b'edge' with 0"),
    "pad value": (chain(("Pad", {"pads": np.array([0, 0, 1, 1] * 2), "value": np.float32(1)}, {}), CONV),
                  "node 't0' (Pad): only padding with the constant 0 is supported, got mode b'constant' with 1"),
    "pad value of many": (chain(("Pad", {"pads": np.array([0, 0, 1, 1] * 2), "value": B}, {}), CONV),
                          "node 't0' (Pad): 'value0' must be one number, got shape (3,)"),
    "pad channels": (chain(("Pad", {"pads": np.array([0, 1, 1, 1] * 2)}, {}), CONV),
                     "node 'y' (Conv): weight must be (O, 4, R, S) for 4 input channels in 1 groups, got shape "
                     "(3, 2, 3, 2)"),
    "pad the batch": (chain(("Pad", {"pads": np.array([1, 0, 0, 0] * 2)}, {}), CONV),
                      "node 't0' (Pad): only axes behind the batch can be padded, by at most 65536, got (1, 0, 0, 0, "
                      "1, 0, 0, 0)"),
    "odd pads": (chain(("Pad", {"pads": np.array([1, 1, 1])}, {}), CONV),
                 "node 't0' (Pad): pads must be two integers for each of the axes, got 3 for axes (0, 1, 2, 3) of 4"
                 ""),
    "pad of an unknown axis": (chain(("Pad", {"pads": np.array([1, 1]), "value": None, "axes": np.array([4])}, {}),
                                     CONV, opset=18),
                               "node 't0' (Pad): pads must be two integers for each of the axes, got 2 for "
                               "axes (4,) of 4"),
    "pads as floats": (chain(("Pad", {"pads": np.float32([0, 0, 1, 1] * 2)}, {}), CONV),
                       "node 't0' (Pad): 'pads0' must be up to 16 integers, got float32 of shape (8,)"),
    # Everything else
    "clip limits": (chain(("Clip", {"low": np.float32(1), "high": np.float32(0)}, {})),
                    "node 'y' (Clip): clip needs finite low <= high, got 1.0 and 0.0"),
    "mean of everything": (chain(("ReduceMean", {}, {})),
                           "node 'y' (ReduceMean): the mean must be over axes behind the batch, got all axes"),
    "concat without axis": (chain(("Concat", {}, {})),
                            "node 'y' (Concat): attribute axis must be given, got none"),
    "flatten everything": (chain(("Flatten", {}, {"axis": 0})),
                           "node 'y' (Flatten): axis must keep the batch apart from (2, 6, 6), got 0"),
    **{f"reshape {target}": (chain(("Reshape", {"shape": np.array(target)}, {})),
                             f"node 'y' (Reshape): {RESHAPE}, got {(target[0] or 1, *target[1:])}")
       for target in ((2, 36), (-1, -1), (72,), (0, 71))},
    "reshape, zero allowed": (chain(("Reshape", {"shape": np.array([0, -1])}, {"allowzero": 1}), opset=14),
                              f"node 'y' (Reshape): {RESHAPE}, got (0, -1)"),
    "computed shape": (model([node("Reshape", ["x", "x"], ["y"])]),
                       "node 'y' (Reshape): 'x' must be a constant, got a computed tensor"),
    "softmax inside": (chain(FLATTEN, ("Softmax", {}, {}), ("Relu", {}, {})),
                       "node 't1': a Softmax must be the network's output and read by no node"),
    # Graphs
    "undefined tensor": (model([node("Add", ["x", "z"], ["y"])]),
                         "node 'y' (Add): it must read tensors made before it, got 'z', made by nothing"),
    "missing initializer": (model([node("Conv", ["x", "w"], ["y"])]),
                            "node 'y' (Conv): it must read tensors made before it, got 'w', made by nothing"),
    "cycle": (model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]),
              "node 'a' (Add): it must read tensors made before it, got 'b', made by a later node: a cycle, or nodes "
              "out of order"),
    "own output": (model([node("Relu", ["y"], ["y"])]),
                   "node 'y' (Relu): it must read tensors made before it, got 'y', made by a later node: a cycle, or "
                   "nodes out of order"),
    "two tensors of one name": (model([node("Relu", ["x"], ["y"]), node("Relu", ["y"], ["y"])]),
                                "tensor names must differ, got 'y' twice"),
    "name of an inner tensor": (model([node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0),
                                       node("Relu", ["x"], ["y:mean"]),
                                       node("Concat", ["y", "y:mean"], ["z"], axis=1)], output="z"),
                                "node 'y:mean' (Relu): tensor names must differ, got 'y:mean' twice"),
    "two initializers of one name": (twice(chain(CONV)),
                                     "tensor names must differ, got two initializers of one name"),
    "no input": (with_ends([], ["y"]), "a network must have one input, got none"),
    "no such output": (with_ends(["x"], ["other"]),
                       "the output 'other' must be computed by a node, got none that does"),
    "constant output": (model([node("Constant", [], ["y"], value_float=1.0)]),
                        "'y' must be computed from the network's input, got a constant"),
    "no shape": (without_shape(), f"input 'x' {SHAPE} (){OPEN}"),
    "symbolic height": (chain(("Relu", {}, {}), shape=("N", 3, "height", 5)),
                        f"input 'x' {SHAPE} (N, 3, height, 5){OPEN}"),
    "unknown width": (chain(("Relu", {}, {}), shape=("N", 3, 4, None)), f"input 'x' {SHAPE} (N, 3, 4, ?){OPEN}"),
    "empty input": (chain(("Relu", {}, {}), shape=("N", 0)), f"input 'x' {SHAPE} (N, 0){OPEN}"),
    "integer input": (chain(("Relu", {}, {}), kind=INT8), "input 'x' must hold floats, got ONNX element type 3"),
    "no operator set": (with_opsets(), "only ONNX's own operator set, 7 or newer, is supported, got none"),
    "old operator set": (with_opsets(("", 6)),
                         "only ONNX's own operator set, 7 or newer, is supported, got ai.onnx 6"),
    "old operator set beside a new one": (with_opsets(("", 13), ("ai.onnx", 6)),
                                          "only ONNX's own operator set, 7 or newer, is supported, got ai.onnx 13, "
                                          "ai.onnx 6"),
    "foreign operator set alone": (with_opsets(("com.microsoft", 1)),
                                   "only ONNX's own operator set, 7 or newer, is supported, got com.microsoft 1"),
    "functions": (with_function(), "functions are not supported, got 1"),
    "sparse initializers": (with_sparse(), "sparse initializers are not supported, got 1"),
    "empty model": (onnx.ModelProto(), "it must be an ONNX model, got a graph without nodes"),
    # Sizes
    "large weight": (declaring([2**20, 2**20, 1, 1]), f"node 'y' (Conv): tensor 'w' must have at most 8 axes and "
                     f"1 to {MAX_PARAMETERS} elements, got shape (1048576, 1048576, 1, 1)"),
    "empty weight": (declaring([2**62, 2**62, 2**62, 0], data=b""), f"node 'y' (Conv): tensor 'w' must have at "
                     f"most 8 axes and 1 to {MAX_PARAMETERS} elements, got shape {(2**62, 2**62, 2**62, 0)}"),
    "weight of many axes": (declaring([2**62] * 100_000), f"node 'y' (Conv): tensor 'w' must have at most 8 axes and "
                            f"1 to {MAX_PARAMETERS} elements, got shape {(2**62,) * 9}"),
    "negative axis": (declaring([-1, 2, 3, 2]), f"node 'y' (Conv): tensor 'w' must have at most 8 axes and "
                      f"1 to {MAX_PARAMETERS} elements, got shape (-1, 2, 3, 2)"),
    "few elements": (declaring([1, 2, 3, 4]),
                     "node 'y' (Conv): tensor 'w' must hold the 24 elements of its shape (1, 2, 3, 4), got 1"),
    "half an element": (declaring([1, 1, 1, 1], data=b"\0\0"),
                        "node 'y' (Conv): tensor 'w' must hold the 1 elements of its shape (1, 1, 1, 1), got 0.5"),
    "many elements": (declaring([1], data=bytes(12)),
                      "node 'y' (Conv): tensor 'w' must hold the 1 elements of its shape (1,), got 3"),
    "large input": (chain(("Relu", {}, {}), shape=("N", 1, 2**20, 2**20)),
                    f"input 'x' may have at most {MAX_ELEMENTS} elements, got shape (1, 1048576, 1048576)"),
    "large tensor": (chain(("Conv", {"w": W[:1, :1, :1, :1]}, {"pads": [2**16] * 4}), shape=(1, 1, 1, 1)),
                     f"node 'y' (Conv): a tensor may have at most {MAX_ELEMENTS} elements, got shape "
                     f"(1, 131073, 131073)"),
}


def doubled():
    """Each of forty nodes doubles its tensor."""
    nodes = [node("Concat", [f"t{i}"] * 2 if i else ["x", "x"], [f"t{i + 1}"], axis=1) for i in range(40)]
    return model(nodes, shape=("N", 1), output="t40")


REFUSED["doubled too often"] = (doubled(), f"node 't27' (Concat): a tensor may have at most {MAX_ELEMENTS} "
                                f"elements, got shape ({2**27},)")


@pytest.mark.parametrize(("loaded", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_say_in_one_sentence_what_is_wrong(loaded, message, file):
    file.write_bytes(loaded.SerializeToString())
    tracemalloc.start()
    try:
        hint = "(; --output .* ends the network before it)?"
        with pytest.raises(ValueError, match=f"^{re.escape(f'{file}: {message}')}{hint}$"):
            load_onnx(file)
        assert tracemalloc.get_traced_memory()[1] < 2**25  # nothing of a declared size was allocated
    finally:
        tracemalloc.stop()


def test_weights_shared_by_many_layers_count_each_time(file, monkeypatch):
    monkeypatch.setattr("refquant.readers.onnx_translation.MAX_PARAMETERS", 100)
    nodes = [node("Conv", ["x", "w"], [f"t{i}"]) for i in range(3)]
    with pytest.raises(ValueError, match=r"node 't2' \(Conv\): a network may have at most 100 parameters, got more$"):
        load(model([*nodes, node("Sum", ["t0", "t1", "t2"], ["y"])], [tensor("w", W)]), file)


# --- files ----------------------------------------------------------------------------------------------------

def test_a_missing_file_says_so_itself(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_onnx(tmp_path / "nothing.onnx")


def test_what_is_no_file_or_too_large_is_refused(tmp_path, file, monkeypatch):
    with pytest.raises(ValueError, match=r"must be a file of less than 2147483648 bytes$"):
        load_onnx(tmp_path)
    monkeypatch.setattr("refquant.readers.onnx_file._MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"model.onnx must be a file of less than 100 bytes$"):
        load(chain(CONV), file)


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + bytes(50), b"PK\3\4", b"not a model", bytes(100),
                                  b"\xff" * 64])
def test_a_foreign_file_is_refused(data, file):
    file.write_bytes(data)
    with pytest.raises(ValueError, match="must be an ONNX model, got"):
        load_onnx(file)


def test_an_empty_file_is_refused(file):
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="it must be an ONNX model, got a graph without nodes"):
        load_onnx(file)


WHOLE = VARIANTS["constants"].SerializeToString()


@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_file_is_refused(file, length):
    file.write_bytes(WHOLE[:length])
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load_onnx(file)


DAMAGED = [VARIANTS[name] for name in (
    "constants", "pad some axes", "average pool with padding, ceil", "addend per channel", "gemm with one bias",
    "softmax", "dropout by inputs")]


@given(st.data())
def test_a_damaged_file_is_read_or_refused_with_a_sentence(file, data):
    """Whatever bytes are overwritten: no error but ValueError."""
    whole = bytearray(data.draw(st.sampled_from(DAMAGED)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    check_read_or_refused(file, bytes(whole))


def check_read_or_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    try:
        assert isinstance(load_onnx(file), graph.Network)
    except ValueError as error:
        assert str(error).startswith(str(file))


def integers_of(message) -> list:
    """Every (message, field, index) of a model that holds an integer; index None where there is just one."""
    found = []
    for field, value in message.ListFields():
        several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        for index, one in enumerate(value if several else [value]):
            if field.message_type is not None:
                found += integers_of(one)
            elif isinstance(one, int) and field.enum_type is None:
                found.append((message, field.name, index if several else None))
    return found


@given(st.data())
def test_changed_numbers_are_read_or_refused_with_a_sentence(file, data):
    """Sizes, axes, element types, attributes: any may be absurd."""
    changed = onnx.ModelProto()
    changed.CopyFrom(data.draw(st.sampled_from(DAMAGED)))
    for _ in range(data.draw(st.integers(1, 3))):
        message, name, index = data.draw(st.sampled_from(integers_of(changed)))
        value = data.draw(st.sampled_from((-1, 0, 1, 2, 3, 9, 10, 65537, 2**31 - 1)))
        if index is None:
            setattr(message, name, value)
        else:
            getattr(message, name)[index] = value
    check_read_or_refused(file, changed.SerializeToString())


def test_without_onnx_the_error_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        load_onnx("model.onnx")
    assert str(caught.value) == "reading ONNX files needs the onnx package: pip install 'refquant[onnx]'"


# --- external data --------------------------------------------------------------------------------------------

def external(folder: Path, location: str, **entries: str) -> Path:
    """A model in ``folder`` whose weight is said to be at ``location``."""
    weight = onnx.TensorProto(name="w", data_type=FLOAT, dims=W.shape, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model([node("Conv", ["x", "w"], ["y"])], [weight]).SerializeToString())
    return path


@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin", "./weights.bin"])
@pytest.mark.parametrize(("entries", "before"), [({}, b""), ({"offset": "16"}, bytes(16)),
                                                 ({"offset": "3", "length": "144"}, bytes(3))])
def test_external_data_beside_the_model_is_read(location, entries, before, tmp_path):
    target = tmp_path / location
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(before + W.tobytes() + b"more")
    assert np.array_equal(load_onnx(external(tmp_path, location, **entries)).nodes[0].weight, W)


@pytest.mark.parametrize("location", ["../weights.bin", "sub/../weights.bin", "/weights.bin", "link.bin", "", "."])
def test_external_data_elsewhere_is_refused(location, tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for directory in (tmp_path, folder):
        (directory / "weights.bin").write_bytes(W.tobytes())
    if location == "link.bin":
        try:
            (folder / location).symlink_to(tmp_path / "weights.bin")
        except OSError:  # Windows lets only some users
            pytest.skip("no symbolic links here")
    if location == "/weights.bin":
        location = str(folder / "weights.bin")  # absolute, although inside
    with pytest.raises(ValueError, match=r"node 'y' \(Conv\): tensor 'w': external data must (lie in the|be a file)"):
        load_onnx(external(folder, location))


@pytest.mark.parametrize(("entries", "message"), [
    ({"offset": "1"}, "must hold 144 bytes, got length 144 at offset 1 of the 144 bytes in 'weights.bin'"),
    ({"length": "4"}, "must hold 144 bytes, got length 4 at offset 0 of the 144 bytes in 'weights.bin'"),
    ({"offset": "-1"}, "must hold 144 bytes, got length 144 at offset -1 of the 144 bytes in 'weights.bin'"),
    ({"offset": "one"}, "must hold 144 bytes, got length 144 at offset one of the 144 bytes in 'weights.bin'"),
])
def test_external_data_that_is_too_short_is_refused(entries, message, tmp_path):
    (tmp_path / "weights.bin").write_bytes(W.tobytes())
    path = external(tmp_path, "weights.bin", **entries)
    message = f"{path}: node 'y' (Conv): tensor 'w': external data {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_onnx(path)


def test_missing_external_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"external data must be a file, got 'nothing.bin'$"):
        load_onnx(external(tmp_path, "nothing.bin"))
    with pytest.raises(ValueError, match=r"external data must be (a file|readable), got"):
        load_onnx(external(tmp_path, "a" * 5000))
