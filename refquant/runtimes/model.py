"""A quantized model as its file holds it: tensors by their index, and operations in order.

Planes are NHWC in LiteRT's models, NCHW in ONNX's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Tensor:
    """step: the scale as ONNX and LiteRT have it, float32, one or one per channel of ``axis``; empty without.

    values: of a constant. shape: with the batch, which is 1 in the file.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    step: np.ndarray
    zero_point: np.ndarray
    axis: int = 0
    values: np.ndarray | None = None

    @property
    def zero(self) -> int:
        """The zero point of a tensor that has one."""
        return int(self.zero_point[0]) if self.zero_point.size else 0


@dataclass(frozen=True, eq=False)
class Operation:
    """kind: the operator's name in its file format, as in CONV_2D or QLinearConv.

    inputs, outputs: tensor indexes, -1 for an input left out. options: by their names.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """inputs, outputs: tensor indexes."""

    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
