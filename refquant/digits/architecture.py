"""The bundled CNN, described once: 24 106 parameters, 16x16 digits in, 10 logits out.

It has one of each thing that quantization must handle: a dense 3x3 layer, depthwise and pointwise
layers, a residual sum of two tensors with different ranges, max pooling, and batch normalization to
fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.network.graph import (
    Add,
    BatchNorm,
    Clip,
    Conv,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
)


def architecture() -> Network:
    """The network before training: every weight 0, every batch normalization the identity.

        conv1                   3x3, 1 to 16                               16 x 16 x 16
        dw2, pw2, pool2         depthwise 3x3, pointwise 16 to 32, max     32 x 8 x 8
        dw3, pw3                depthwise 3x3, pointwise 32 to 32          32 x 8 x 8
        res_a, res_b, res_add   two 3x3 and their input, added; res_pool   32 x 4 x 4
        dw4, pw4                depthwise 3x3, pointwise 32 to 64          64 x 4 x 4
        mean, flatten, logits   global average, Linear 64 to 10            10

    Every convolution is followed by ``<name>_bn`` and ``<name>_relu``, except that the ReLU of
    ``res_b`` comes after the sum: ``res_relu``.

    >>> network = architecture()
    >>> network.shapes["res_relu"], parameter_count(network)
    ((32, 8, 8), 24106)
    """
    nodes = [
        *_conv("conv1", "input", 1, 16, kernel=3),
        *_conv("dw2", "conv1_relu", 16, 16, kernel=3, groups=16),
        *_conv("pw2", "dw2_relu", 16, 32, kernel=1),
        MaxPool("pool2", ("pw2_relu",), (2, 2), Geometry(stride=(2, 2))),
        *_conv("dw3", "pool2", 32, 32, kernel=3, groups=32),
        *_conv("pw3", "dw3_relu", 32, 32, kernel=1),
        *_conv("res_a", "pw3_relu", 32, 32, kernel=3),
        *_conv("res_b", "res_a_relu", 32, 32, kernel=3)[:2],
        Add("res_add", ("res_b_bn", "pw3_relu")),
        Clip("res_relu", ("res_add",)),
        MaxPool("res_pool", ("res_relu",), (2, 2), Geometry(stride=(2, 2))),
        *_conv("dw4", "res_pool", 32, 32, kernel=3, groups=32),
        *_conv("pw4", "dw4_relu", 32, 64, kernel=1),
        GlobalAveragePool("mean", ("pw4_relu",)),
        Flatten("flatten", ("mean",)),
        Linear("logits", ("flatten",), np.zeros((10, 64), np.float32), np.zeros(10, np.float32)),
    ]
    return Network((1, 16, 16), tuple(nodes))


def _conv(name: str, source: str, channels: int, outputs: int, kernel: int, groups: int = 1) -> list[Node]:
    """Convolution that keeps the plane's size, batch normalization, ReLU."""
    weight = np.zeros((outputs, channels // groups, kernel, kernel), np.float32)
    zeros, ones = np.zeros(outputs, np.float32), np.ones(outputs, np.float32)
    geometry = Geometry.of(padding=kernel // 2, groups=groups)
    return [
        Conv(name, (source,), weight, geometry=geometry),  # no bias: the normalization would remove it
        BatchNorm(f"{name}_bn", (name,), gamma=ones, beta=zeros, mean=zeros, variance=ones),
        Clip(f"{name}_relu", (f"{name}_bn",)),
    ]


def parameters(network: Network) -> dict[str, np.ndarray]:
    """Every array of the network's nodes, read-only, named ``<node>.<field>``.

    >>> [name for name in parameters(architecture()) if name.startswith("conv1")]
    ['conv1.weight', 'conv1_bn.gamma', 'conv1_bn.beta', 'conv1_bn.mean', 'conv1_bn.variance']
    """
    return {f"{node.name}.{field.name}": getattr(node, field.name)
            for node in network.nodes for field in fields(node)
            if isinstance(getattr(node, field.name), np.ndarray)}


def with_parameters(network: Network, arrays: Mapping[str, np.ndarray]) -> Network:
    """The network with the given arrays, named as in ``parameters``; the others stay.

    ValueError for a name that the network lacks, another shape, and what its node refuses.

    >>> network = with_parameters(architecture(), {"logits.bias": np.arange(10.0)})
    >>> parameters(network)["logits.bias"]
    array([0., 1., 2., 3., 4., 5., 6., 7., 8., 9.])
    """
    known = parameters(network)
    for name, array in arrays.items():
        if name not in known:
            raise ValueError(f"parameter names must be among the network's, got {name!r}")
        if np.shape(array) != known[name].shape:
            raise ValueError(f"{name} must have shape {known[name].shape}, got {np.shape(array)}")
    changes: dict[str, dict[str, Any]] = {node.name: {} for node in network.nodes}
    for name, array in arrays.items():
        node_name, _, field_name = name.rpartition(".")
        changes[node_name][field_name] = array
    return network.replace_nodes(
        replace(node, **changes[node.name]) if changes[node.name] else node for node in network.nodes)


def parameter_count(network: Network) -> int:
    """How many numbers training chooses: all but the running mean and variance."""
    return sum(array.size for name, array in parameters(network).items()
               if not name.endswith((".mean", ".variance")))
