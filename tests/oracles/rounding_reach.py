"""What a node's values could be if nothing cancelled: the unit of its rounding errors."""

from __future__ import annotations

import numpy as np

from refquant.network.graph import Add, BatchNorm, Conv, Linear, Node


def reach(node: Node, *inputs: float) -> float:
    """The reach of ``node``'s output from those of its inputs."""
    if isinstance(node, (Conv, Linear)):
        sums = np.abs(node.weight).reshape(len(node.weight), -1).sum(axis=1).max()
        return inputs[0] * sums + (0 if node.bias is None else np.abs(node.bias).max())
    if isinstance(node, BatchNorm):
        gain = np.abs(node.gamma) / np.sqrt(node.variance + node.epsilon)
        return (gain * (inputs[0] + np.abs(node.mean)) + np.abs(node.beta)).max()
    return sum(inputs) if isinstance(node, Add) else max(inputs)
