"""Networks of benchmarks: four that are trained, with images; others have random weights and shapes people bring."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.digits.weights import calibration_images, load_digits
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.graph import (
    Add,
    Clip,
    Concat,
    Conv,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
)
from refquant.readers.onnx_file import load_onnx

CALIBRATION, VWW_CALIBRATION = 50, 40


class Case(NamedTuple):
    """The folded network, calibration images, held-out images, and their labels or None."""

    network: Network
    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None


def load(name: str) -> Case:
    """digits; vww96, dscnn, resnet8 from the folder that REFQUANT_MODELS names."""
    if name == "digits":
        network, images, labels = load_digits()
        return Case(fold_batchnorm(network.without_softmax()), calibration_images(CALIBRATION), images, labels)
    if "REFQUANT_MODELS" not in os.environ:
        sys.exit(f"{name} is read from the folder that REFQUANT_MODELS names, got no such variable")
    folder = Path(os.environ["REFQUANT_MODELS"])

    def planes(x: np.ndarray, largest: float = 1.0) -> np.ndarray:
        return (x.astype(np.float32) / np.float32(largest)).transpose(0, 3, 1, 2)

    if name == "vww96":
        images = planes(np.load(folder / "vww96_data.npz")["images"], 255.0)
        file, parts = "vww96_bn.onnx", (images[:VWW_CALIBRATION], images[VWW_CALIBRATION:], None)
    elif name == "dscnn":
        data = np.load(folder / "dscnn_kws_data.npz")
        file, parts = "dscnn_kws_bn.onnx", (data["inputs"][:CALIBRATION], data["inputs"][CALIBRATION:],
                                            data["labels"][CALIBRATION:])
    else:
        data = np.load(folder / "resnet8_cifar10_data.npz")
        file, parts = "resnet8_cifar10_bn.onnx", (planes(data["calibration_images"])[:CALIBRATION],
                                                  planes(data["test_images"]), data["test_labels"])
    return Case(fold_batchnorm(load_onnx(folder / file).without_softmax()), *parts)


class _Builder:
    """Nodes one after another, and the channels of each."""

    def __init__(self, channels: int) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[Node] = []
        self.channels = {"input": channels}

    def conv(self, name: str, source: str, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1,
             padding: int | None = None, clip: tuple[float | None, float | None] | None = (0.0, None)) -> str:
        """A convolution and, unless ``clip`` is None, its ReLU or ReLU6."""
        terms = self.channels[source] // groups
        weight = self.rng.standard_normal((outputs, terms, kernel, kernel)) * (2 / (terms * kernel**2)) ** 0.5
        geometry = Geometry.of(stride, kernel // 2 if padding is None else padding, 1, groups)
        self.nodes.append(Conv(name, (source,), weight.astype(np.float32), np.zeros(outputs, np.float32), geometry))
        self.channels[name] = outputs
        return name if clip is None else self.add(Clip(f"{name}_relu", (name,), *clip), outputs)

    def add(self, node: Node, channels: int) -> str:
        """A node of so many output channels."""
        self.nodes.append(node)
        self.channels[node.name] = channels
        return node.name

    def network(self, size: int, source: str, classes: int) -> Network:
        """With an average over the planes and a linear layer at the end."""
        width = self.channels[source]
        weight = (self.rng.standard_normal((classes, width)) * width**-0.5).astype(np.float32)
        self.nodes += [GlobalAveragePool("mean", (source,)), Flatten("flat", ("mean",)),
                       Linear("logits", ("flat",), weight)]
        return Network((self.channels["input"], size, size), tuple(self.nodes))


def mobilenet() -> Network:
    """MobileNetV1-0.25 at 96x96: a 3x3 convolution, then depthwise-separable blocks."""
    net = _Builder(3)
    x = net.conv("conv", "input", 8, 3, 2)
    blocks = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *((128, 1),) * 5, (256, 2), (256, 1))
    for index, (width, stride) in enumerate(blocks):
        inner = net.channels[x]
        x = net.conv(f"pointwise{index}", net.conv(f"depthwise{index}", x, inner, 3, stride, groups=inner), width, 1)
    return net.network(96, x, 2)


def resnet20() -> Network:
    """Twenty layers of residual blocks at 32x32, with convolutions where the width changes."""
    net = _Builder(3)
    x = net.conv("first", "input", 16, 3)
    for stage, width in enumerate((16, 32, 64)):
        for block in range(3):
            name, stride = f"stage{stage}_block{block}", 1 if width == net.channels[x] else 2
            y = net.conv(f"{name}_b", net.conv(f"{name}_a", x, width, 3, stride), width, 3, clip=None)
            side = x if stride == 1 else net.conv(f"{name}_side", x, width, 1, stride, clip=None)
            x = net.add(Clip(f"{name}_relu", (net.add(Add(name, (y, side)), width),)), width)
    return net.network(32, x, 10)


def squeezenet() -> Network:
    """SqueezeNet 1.1 at 224x224: eight Fire modules."""
    net = _Builder(3)

    def pool(name: str, source: str) -> str:
        return net.add(MaxPool(name, (source,), (3, 3), Geometry.of(2, (0, 0, 1, 1))), net.channels[source])

    x = pool("pool1", net.conv("conv1", "input", 64, 3, 2, padding=0))
    for number, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 2):
        s = net.conv(f"fire{number}_squeeze", x, squeeze, 1)
        sides = tuple(net.conv(f"fire{number}_expand{kernel}", s, 4 * squeeze, kernel) for kernel in (1, 3))
        x = net.add(Concat(f"fire{number}", sides), 8 * squeeze)
        if number in (3, 5):
            x = pool(f"pool{number}", x)
    return net.network(224, net.conv("conv10", x, 1000, 1), 1000)


def mobilenet2() -> Network:
    """MobileNetV2 at 224x224: inverted residual blocks, 53 layers."""
    net, six = _Builder(3), (0.0, 6.0)
    x = net.conv("first", "input", 32, 3, 2, clip=six)
    blocks = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
              (6, 320, 1, 1))
    for stage, (expansion, width, repeats, first) in enumerate(blocks):
        for block in range(repeats):
            name, inner, stride = f"stage{stage}_block{block}", net.channels[x] * expansion, 1 if block else first
            y = x if expansion == 1 else net.conv(f"{name}_expand", x, inner, 1, clip=six)
            y = net.conv(f"{name}_depthwise", y, inner, 3, stride, groups=inner, clip=six)
            y = net.conv(f"{name}_project", y, width, 1, clip=None)
            x = net.add(Add(name, (x, y)), width) if block else y
    return net.network(224, net.conv("last", x, 1280, 1, clip=six), 1000)
