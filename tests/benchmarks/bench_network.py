"""Images per second of a whole network, float and in integers with every stage's range checked, one thread.

``python tests/benchmarks/bench_network.py [MODEL.onnx] [--before CHECKOUT]``. With a model also onnxruntime in int8;
without, a MobileNetV1-0.25 of random weights on 96x96 images, the shape of the visual-wake-words network. Targets
there: >= 500 in float, >= 200 in integers, peak memory < 300 MiB. ``--before``: another checkout's package by turns.
"""

import logging
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from one_thread import best_seconds, print_machine, restart_on_one_thread

from refquant.convolution.geometry import Geometry
from refquant.network.float_forward import run_float
from refquant.network.graph import Clip, Conv, Flatten, GlobalAveragePool, Linear, Network, Node
from refquant.recipes.quantize import quantize_network

IMAGES = 64  # sliced as the package likes it
BLOCKS = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *((128, 1),) * 5, (256, 2), (256, 1))


def mobilenet(rng: np.random.Generator) -> Network:
    """MobileNetV1-0.25: a 3x3 convolution, then depthwise-separable blocks."""
    nodes: list[Node] = []

    def conv(name: str, channels: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        weight = rng.standard_normal((outputs, channels // groups, kernel, kernel)).astype(np.float32)
        weight /= np.sqrt(weight[0].size, dtype=np.float32)
        padding = (0, 0, 1, 1) if stride == 2 else (kernel - 1) // 2
        nodes.append(Conv(name, (nodes[-1].name if nodes else "input",), weight, np.zeros(outputs, np.float32),
                          Geometry.of(stride, padding, 1, groups)))
        nodes.append(Clip(f"{name}_relu", (name,)))

    conv("conv", 3, 8, 3, 2)
    channels = 8
    for index, (outputs, stride) in enumerate(BLOCKS):
        conv(f"depthwise{index}", channels, channels, 3, stride, channels)
        conv(f"pointwise{index}", channels, outputs, 1, 1)
        channels = outputs
    nodes += [GlobalAveragePool("mean", (nodes[-1].name,)), Flatten("flat", ("mean",)),
              Linear("logits", ("flat",), rng.standard_normal((2, channels)).astype(np.float32))]
    return Network((3, 96, 96), tuple(nodes))


def main(model: str | None) -> None:
    """Print images per second and the peak memory of the process."""
    rng = np.random.default_rng(0)
    if model:
        from refquant.readers.onnx_file import load_onnx

        network = load_onnx(Path(model))
    else:
        network = mobilenet(rng)
    images = rng.random((IMAGES, *network.input_shape)).astype(np.float32)
    quantized = quantize_network(network, images, "channelwise-int8")
    seen: dict[tuple[str, str], tuple[int, int]] = {}

    def observe(layer: str, stage: str, values: np.ndarray) -> None:
        seen[layer, stage] = int(values.min()), int(values.max())

    for name, run in (
            ("float", lambda: run_float(network, images)),
            ("integers, every stage's range checked", lambda: quantized.run(images, observe))):
        print(f"{name}: {IMAGES / best_seconds(run, 10):.0f} images/s")
    for stage in quantized.stages:
        low, high = seen[stage.layer, stage.stage]
        assert stage.min <= low <= high <= stage.max
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if model:
        print(f"onnxruntime, int8: {IMAGES / onnxruntime_seconds(Path(model), images):.0f} images/s")


def onnxruntime_seconds(model: Path, images: np.ndarray) -> float:
    """Of the model quantized by onnxruntime's own tool, signed and per channel, one thread."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    name = onnxruntime.InferenceSession(model, options).get_inputs()[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{name: image[None]} for image in images]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        quantized = Path(folder) / "int8.onnx"
        logging.disable(logging.WARNING)  # it would have the model preprocessed
        quantize_static(model, quantized, Reader(), quant_format=QuantFormat.QOperator, per_channel=True,
                        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8)
        session = onnxruntime.InferenceSession(quantized, options)
        batches = [images] if session.get_inputs()[0].shape[0] != 1 else list(images[:, None])
        return best_seconds(lambda: [session.run(None, {name: batch}) for batch in batches], 10)


def compare(before: str, arguments: list[str]) -> None:
    """This script by turns on another checkout's package and on this one's; the machine's speed changes meanwhile."""
    for _ in range(4):
        for folder in (before, str(Path(__file__).parents[2])):
            environment = {**os.environ, "PYTHONPATH": folder}
            run = subprocess.run([sys.executable, __file__, *arguments], env=environment, check=True,
                                 capture_output=True, text=True)
            print(folder, *run.stdout.splitlines()[1:], sep="\n  ", flush=True)


if __name__ == "__main__":
    restart_on_one_thread()
    print_machine()
    if "--before" in sys.argv:
        place = sys.argv.index("--before")
        compare(sys.argv[place + 1], sys.argv[1:place] + sys.argv[place + 2:])
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
