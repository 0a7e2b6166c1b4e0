"""Constants that a graph computes: shapes, axes, scalars. ONNX's own reference evaluator computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_COMPUTED = 2**24  # elements: a node of a few bytes can ask for any number

# What is folded where every input is known. Each makes no more elements than ``_size`` says, checked beforehand.
FOLDED = frozenset("""
Abs Add And Cast CastLike Ceil Concat ConstantOfShape Cos Div Equal Erf Exp Expand Floor Gather GatherElements
GatherND Greater GreaterOrEqual Identity Less LessOrEqual Log Max Min Mod Mul Neg Not Or Pow Range Reciprocal
ReduceMax ReduceMin ReduceProd ReduceSum Reshape Round ScatterElements ScatterND Shape Sign Sin Size Slice Split Sqrt
Squeeze Sub Tile Transpose Unsqueeze Where Xor
""".split())


def fold(node: Any, values: Sequence[np.ndarray | None], version: int) -> list[np.ndarray]:
    """The node's outputs. values: of its inputs, None for one left out. ValueError if it fails or is too large."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    size = _size(node, values)
    if size > MAX_COMPUTED:
        raise ValueError(f"a computed constant may have at most {MAX_COMPUTED} elements, got {size}")
    known = {name: value for name, value in zip(node.input, values) if value is not None}
    try:
        read, made = ([helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names if name]
                      for names in (known, node.output))
        alone = helper.make_model(helper.make_graph([node], "constant", read, made),
                                  opset_imports=[helper.make_opsetid("", version)])
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(alone).run(None, known)
    except Exception as error:  # the evaluator's own, of any kind
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"its constant cannot be computed: {said}") from None
    return [np.asarray(value) for value in found]


def _size(node: Any, values: Sequence[np.ndarray | None]) -> int:
    """The most elements that the node can make."""
    known = [value for value in values if value is not None]
    if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
        if known[-1].dtype.kind != "i":
            raise ValueError(f"{node.op_type} must have a shape of integers, got {known[-1].dtype}")
        wanted = math.prod(max(1, abs(int(d))) for d in np.ravel(known[-1])[:64])
        return wanted if node.op_type == "ConstantOfShape" else wanted * known[0].size
    if node.op_type == "Range":
        start, stop, step = (float(value.item()) for value in known)
        finite = step != 0 and math.isfinite((stop - start) / step)
        return math.ceil(abs((stop - start) / step)) if finite else MAX_COMPUTED + 1
    if node.op_type in ("Concat", "ScatterElements", "ScatterND"):
        return sum(value.size for value in known)
    if node.op_type.startswith("Gather") and len(known) == 2:
        return known[0].size * known[1].size
    try:
        return math.prod(np.broadcast_shapes(*(value.shape for value in known)))
    except ValueError:  # not of one shape: then no larger than the largest
        return max((value.size for value in known), default=1)
