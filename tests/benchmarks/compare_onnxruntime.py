"""What onnxruntime's answers depend on: models of its own quantizer on CPUs without and with VNNI. README's table.

    python tests/benchmarks/compare_onnxruntime.py [FOLDER]
    python tests/benchmarks/compare_onnxruntime.py --figure [FOLDER]

FOLDER: of the models and their data; by default the environment variable REFQUANT_MODELS. Each network is quantized
in QDQ form with uint8 activations and int8 weights, on images that are not evaluated. A row has the share of codes
that differ between onnxruntime-avx2 and onnxruntime-vnni, top-1 of both and of the float network (without labels:
agreement with the float network), and in how many answers onnxruntime itself, on this machine and on one thread,
differs from the set that the machine has. --figure draws figures/kernel_sets.png, with LiteRT's sets beside it.
"""
from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from refquant.commands.compare import Difference, differences, draw_differences
from refquant.commands.report import table
from refquant.readers import load_quantized_onnx
from refquant.runtimes import run_model
from refquant.runtimes.kernels import ONNX_SETS, onnxruntime_here

# Network: arrays of calibration images and of those that are evaluated, labels, how many images calibrate, and what
# is done to images. Where both are one array, the first ones calibrate and the others are evaluated.
NETWORKS = {
    "dscnn_kws": ("inputs", "inputs", "labels", 100, lambda x: x),
    "resnet8_cifar10": ("calibration_images", "test_images", "test_labels", 100, lambda x: x.transpose(0, 3, 1, 2)),
    "vww96": ("images", "images", None, 40, lambda x: x.transpose(0, 3, 1, 2) / 255)}


class Images(CalibrationDataReader):  # type: ignore[misc]
    """One after another."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.left = iter([{name: image[None]} for image in images])

    def get_next(self) -> Any:
        return next(self.left, None)


def prepared(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Calibration images, evaluated ones, labels."""
    calibration, evaluated, labels, count, prepare = NETWORKS[name]
    data = np.load(folder / f"{name}_data.npz")
    some, others = (prepare(data[key].astype(np.float64)).astype(np.float32) for key in (calibration, evaluated))
    start = count if calibration == evaluated else 0
    return some[:count], others[start:], None if labels is None else data[labels][start:]


def quantized(folder: Path, name: str, per_channel: bool, target: Path) -> None:
    """The network as onnxruntime's quantizer makes it of uint8 activations and int8 weights."""
    model = onnx.load(folder / f"{name}_folded.onnx")
    logging.disable(logging.WARNING)
    quantize_static(model, str(target), Images(model.graph.input[0].name, prepared(folder, name)[0]),
                    quant_format=QuantFormat.QDQ, per_channel=per_channel, activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8)


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    """onnxruntime's, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def row(folder: Path, name: str, per_channel: bool, place: Path) -> tuple[tuple[str, ...], list[Difference]]:
    """Of one model, and its differences."""
    quantized(folder, name, per_channel, place / "q.onnx")
    _, images, labels = prepared(folder, name)
    model = load_quantized_onnx(place / "q.onnx")
    found = differences(model, images, *ONNX_SETS)
    ours = {one: run_model(model, images, one)[model.outputs[0]] for one in ONNX_SETS}
    here = int((answers(place / "q.onnx", images) != ours[onnxruntime_here()]).any(axis=1).sum())
    real = answers(folder / f"{name}_folded.onnx", images)

    def top1(logits: np.ndarray) -> str:
        wanted = real.argmax(axis=1) if labels is None else labels
        return f"{100 * (logits.argmax(axis=1) == wanted).mean():.2f}"

    different, size = sum(d.chain for d in found), sum(d.size for d in found)
    return (name, "channel" if per_channel else "tensor", f"{100 * found[1].chain / found[1].size:.2f}",
            f"{100 * different / size:.2f}", *(top1(ours[one]) for one in ONNX_SETS),
            "-" if labels is None else top1(real), f"{here} of {len(images)}"), found


HEADER = ("model", "weights per", "% first layer", "% all codes", "top-1 % avx2", "vnni", "float",
          "onnxruntime differs")


def draw(folder: Path, place: Path) -> Any:
    """ResNet-8's and the MobileNet's codes, operation after operation."""
    from compare_litert import MODELS, load  # beside it where this is run as a script

    series = {}
    for name in MODELS:
        model, codes, _ = load(folder, name)
        series[f"{name}: LiteRT's reference and XNNPACK"] = differences(model, codes[:200], "litert-ref",
                                                                        "litert-xnnpack")
    for name in ("resnet8_cifar10", "vww96"):
        quantized(folder, name, True, place / "q.onnx")
        found = differences(load_quantized_onnx(place / "q.onnx"), prepared(folder, name)[1][:200], *ONNX_SETS)
        series[f"{name}: ONNX Runtime without and with VNNI"] = found
    return draw_differences(series)


if __name__ == "__main__":
    FIGURE = "--figure" in sys.argv
    GIVEN = [one for one in sys.argv[1:] if one != "--figure"]
    FOLDER = Path(GIVEN[0] if GIVEN else os.environ["REFQUANT_MODELS"])
    with tempfile.TemporaryDirectory() as held:
        if FIGURE:
            draw(FOLDER, Path(held)).savefig(Path(__file__).parents[2] / "figures" / "kernel_sets.png", dpi=150,
                                             metadata={"Software": None})
        else:
            print(table(HEADER, [row(FOLDER, name, per_channel, Path(held))[0]
                                 for name in NETWORKS for per_channel in (False, True)]))
