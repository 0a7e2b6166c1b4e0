"""Damaged quantized models, .tflite and ONNX: each is run, or refused in one sentence, in bounded time and memory.

    python tests/fuzz/quantized_files.py [COUNT] [SEED]

mutates valid files at random and runs what is still read, as a kernel set chosen at random. Whatever raises something
else than ValueError, takes more than 2 s or makes the process grow beyond 1 GiB is printed, and kept in
fuzz-findings/. COUNT is 20000 unless told.
"""
from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE.parent / "oracles")]

from files import Drawn, bounded, damaged_bytes, damaged_fields, main  # noqa: E402
from onnx_models import helper, onnx, tensor  # noqa: E402
from tflite_models import Spec, one_operator  # noqa: E402

from refquant.digits.weights import calibration_images, load_digits  # noqa: E402
from refquant.readers import load_quantized_onnx, load_tflite  # noqa: E402
from refquant.recipes.quantize import quantize_network  # noqa: E402
from refquant.runtimes import LITERT_SETS, ONNX_SETS, run_model  # noqa: E402
from refquant.writers import to_qdq  # noqa: E402

LARGEST = 10**5  # elements of all tensors; more takes the time that its size takes


def litert_seeds() -> list[bytes]:
    """One operator each: layers, pools, operands that broadcast, means, joins, functions, floats."""
    rng = np.random.default_rng(0)

    def codes(*shape: int, dtype: str = "int8") -> np.ndarray:
        return rng.integers(-100, 100, shape).astype(dtype)

    x = Spec((1, 6, 5, 4), "int8", 0.1, 3)
    window = {"Padding": 0, "StrideW": 2, "StrideH": 1, "DilationWFactor": 1, "DilationHFactor": 1,
              "FusedActivationFunction": 1}
    pool = {"Padding": 1, "StrideW": 2, "StrideH": 2, "FilterWidth": 3, "FilterHeight": 2,
            "FusedActivationFunction": 0}
    steps = rng.uniform(0.001, 0.01, 8).astype(np.float32)
    whole = {"FusedActivationFunction": 0}
    return [
        one_operator("CONV_2D", [x, Spec((8, 3, 3, 4), "int8", steps, 0, codes(8, 3, 3, 4)), Spec(
            (8,), "int32", 0.1 * steps, 0, codes(8, dtype="int32")), Spec((1, 6, 3, 8), "int8", 0.2, 1)],
            ("Conv2DOptions", window)),
        one_operator("DEPTHWISE_CONV_2D", [x, Spec((1, 3, 3, 4), "int8", steps[:4], 0, codes(1, 3, 3, 4), 3), Spec(
            (1, 6, 3, 4), "int8", 0.2, 1)], ("DepthwiseConv2DOptions", {**window, "DepthMultiplier": 1})),
        one_operator("FULLY_CONNECTED", [Spec((1, 9), "int8", 0.1, 3), Spec((5, 9), "int8", 0.01, 0, codes(5, 9)),
                                         Spec((1, 5), "int8", 0.3, 1)], ("FullyConnectedOptions", whole)),
        one_operator("ADD", [x, Spec((4,), "int8", 0.2, 0, codes(4)), x], ("AddOptions", whole)),
        one_operator("MUL", [x, Spec((), "int8", 0.2, 5, codes()), x], ("MulOptions", whole)),
        one_operator("AVERAGE_POOL_2D", [x, Spec((1, 3, 2, 4), "int8", 0.1, 3)], ("Pool2DOptions", pool)),
        one_operator("MEAN", [x, Spec((2,), "int32", [], 0, np.array([1, 2], np.int32)), Spec(
            (1, 4), "int8", 0.1, 3)], ("ReducerOptions", {"KeepDims": False})),
        one_operator("CONCATENATION", [x, Spec((1, 6, 5, 4), "int8", 0.1, 3, codes(1, 6, 5, 4)), Spec(
            (1, 6, 5, 8), "int8", 0.1, 3)], ("ConcatenationOptions", {"Axis": 3, **whole})),
        one_operator("PAD", [x, Spec((4, 2), "int32", [], 0, np.array([[0, 0], [1, 0], [0, 2], [0, 0]], np.int32)),
                             Spec((1, 7, 7, 4), "int8", 0.1, 3)], ("PadOptions", {})),
        one_operator("SOFTMAX", [Spec((1, 9), "int8", 0.1, 3), Spec((1, 9), "int8", 1 / 256, -128)],
                     ("SoftmaxOptions", {"Beta": 1.0})),
        one_operator("QUANTIZE", [Spec((1, 9), "float32", []), Spec((1, 9), "int8", 0.1, 3)]),
        one_operator("HARD_SWISH", [x, x])]


def onnx_seeds() -> list[bytes]:
    """A model in QOperator form, and the bundled network in QDQ form."""
    rng, node = np.random.default_rng(0), helper.make_node
    scales = ["s", "z"]
    nodes = [
        node("QuantizeLinear", ["x", *scales], ["q"]),
        node("QLinearConv", ["q", *scales, "w", "sw", "zw", *scales, "b"], ["c"], pads=[1, 1, 1, 1]),
        node("QLinearAdd", ["c", *scales, "q", *scales, *scales], ["a"], domain="com.microsoft"),
        node("MaxPool", ["a"], ["m"], kernel_shape=[2, 2]),
        node("QLinearConcat", [*scales, "m", *scales, "k", *scales], ["j"], axis=1, domain="com.microsoft"),
        node("QLinearAveragePool", ["j", *scales, *scales], ["v"], kernel_shape=[2, 2], domain="com.microsoft"),
        node("QLinearSigmoid", ["v", *scales, *scales], ["g"], domain="com.microsoft"),
        node("Flatten", ["g"], ["f"]),
        node("QGemm", ["f", *scales, "u", "s", "zu", "", *scales], ["e"], transB=1, domain="com.microsoft"),
        node("QLinearSoftmax", ["e", *scales, *scales], ["t"], axis=1, opset=13, domain="com.microsoft"),
        node("DequantizeLinear", ["t", *scales], ["y"])]
    held = [tensor("s", np.float32(0.1)), tensor("z", np.uint8(7), np.uint8), tensor("zw", np.int8(0), np.int8),
            tensor("w", rng.integers(-100, 100, (3, 3, 3, 3)), np.int8), tensor("sw", [0.1, 0.2, 0.3]),
            tensor("b", [1, 2, 3], np.int32), tensor("k", rng.integers(0, 255, (1, 2, 5, 5)), np.uint8),
            tensor("u", rng.integers(-100, 100, (4, 80)), np.int8), tensor("zu", np.int8(0), np.int8)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "seed", [value("x", onnx.TensorProto.FLOAT, ("N", 3, 6, 6))],
                              [value("y", onnx.TensorProto.FLOAT, None)], held)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid(
        "com.microsoft", 1)], ir_version=8)
    network, _, _ = load_digits()
    merged = to_qdq(quantize_network(network, calibration_images(), "channelwise-int8", activations="affine"))
    return [whole.SerializeToString(), merged]


def changed_bytes(data: bytes, random: Random) -> bytes:
    """One to three bytes become others: the offsets of the rest stay."""
    out = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        out[random.randrange(len(out))] = random.choice((0, 1, 2, 127, 128, 255, random.randrange(256)))
    return bytes(out)


def attempt(data: bytes, random: Random, folder: Path, *, litert: bool) -> str:
    """What became of one file. Other exceptions than ValueError come through."""
    path = folder / ("m.tflite" if litert else "m.onnx")
    path.write_bytes(data)
    try:
        model = load_tflite(path) if litert else load_quantized_onnx(path)
        if sum(int(np.prod(t.shape)) for t in model.tensors) > LARGEST:
            return "read, large"
        entry = model.tensors[model.inputs[0]]
        x = np.random.default_rng(random.randrange(2**32)).integers(-128, 128, (2, *entry.shape[1:]))
        run_model(model, x.astype(entry.dtype), random.choice((*(LITERT_SETS if litert else ONNX_SETS), "refquant")))
    except ValueError as error:
        if "\n" in str(error).strip():
            raise AssertionError(f"more than a sentence: {error}") from error
        return "refused"
    return "run"


def campaign(count: int, seed: int, report: bool = False) -> tuple[Counter[str], list[str]]:
    """What became of ``count`` files, and the findings."""
    valid = {True: litert_seeds(), False: onnx_seeds()}

    def draw(random: Random) -> Drawn:
        litert = random.random() < 0.5
        damage = (random.choice((damaged_bytes, changed_bytes, changed_bytes)) if litert else
                  random.choice((damaged_bytes, damaged_fields, damaged_fields)))
        return damage(random.choice(valid[litert]), random), "tflite" if litert else "onnx", partial(
            attempt, litert=litert)

    return bounded(count, seed, draw, report)


if __name__ == "__main__":
    main(campaign)
