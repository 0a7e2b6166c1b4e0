"""The ONNX operators that can be read: from a node of a file to graph nodes.

Only the meaning of operators is here and in ``onnx_layers``, ``onnx_moves`` and ``onnx_values``; ``onnx_file`` reads
the files. An attribute that a function did not ask for is refused, so that nothing is silently left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from refquant.readers import onnx_layers as layers
from refquant.readers import onnx_moves as moves
from refquant.readers import onnx_values as values
from refquant.readers.onnx_translation import Operator, Translation


def _identity(op: Operator, graph: Translation) -> None:
    source = op.inputs[0]
    if op.kind == "Dropout":
        op.take("ratio", float, 0.5)
        op.take("seed", int, 0)
        if op.has_input(2) and graph.flag(op.inputs[2]):
            raise ValueError("only inference is supported: training_mode false")
    if op.kind == "Cast":
        kind = op.take("to", int, 1)
        op.take("saturate", int, 1), op.take("round_mode", bytes, b"up")
        if kind not in (1, 10, 11, 16):
            raise ValueError(f"only casts between floats are supported, got ONNX element type {kind}")
    if source in graph.constants:
        graph.constants[op.name] = graph.constants[source]
    else:
        graph.same[op.name] = graph.tensor(source)


def _constant(op: Operator, graph: Translation) -> None:
    value = op.take("value", partial, None)  # a tensor, read when it is needed
    for attribute, kind, dtype in (("value_float", float, np.float32), ("value_floats", list, np.float32),
                                   ("value_int", int, np.int64), ("value_ints", list, np.int64)):
        plain = op.take(attribute, kind, None)
        if plain is not None:
            value = partial(np.array, plain, dtype)
    op.refuse_rest()
    if value is None:
        raise ValueError("it must have a value, got none")
    graph.constants[op.name] = value


# operator: (its function, fewest inputs, most inputs)
OPERATORS: dict[str, tuple[Callable[[Operator, Translation], None], int, int]] = {
    "Add": (values.arithmetic, 2, 2),
    "ArgMax": (values.final, 1, 1),
    "AveragePool": (layers.pool, 1, 1),
    "BatchNormalization": (layers.batchnorm, 5, 5),
    "Cast": (_identity, 1, 1),
    "Clip": (values.clip, 1, 3),
    "Concat": (moves.concat, 1, 2**16),
    "Constant": (_constant, 0, 0),
    "Conv": (layers.conv, 2, 3),
    "ConvTranspose": (layers.conv_transpose, 2, 3),
    "DepthToSpace": (moves.depth_to_space, 1, 1),
    "Div": (values.arithmetic, 2, 2),
    "Dropout": (_identity, 1, 3),
    "Flatten": (moves.flatten, 1, 1),
    "Gemm": (layers.gemm, 2, 3),
    "GlobalAveragePool": (layers.global_pool, 1, 1),
    "GlobalMaxPool": (layers.global_pool, 1, 1),
    "Identity": (_identity, 1, 1),
    "LogSoftmax": (values.final, 1, 1),
    "MatMul": (layers.matmul, 2, 2),
    "Max": (values.extreme, 1, 2**16),
    "MaxPool": (layers.pool, 1, 1),
    "Min": (values.extreme, 1, 2**16),
    "Mul": (values.arithmetic, 2, 2),
    "PRelu": (values.prelu, 2, 2),
    "Pad": (moves.pad, 1, 4),
    "Pow": (values.power, 2, 2),
    "ReduceMean": (layers.reduce_mean, 1, 2),
    "ReduceSum": (layers.reduce_mean, 1, 2),
    "Relu": (values.relu, 1, 1),
    "Reshape": (moves.reshape, 2, 2),
    "Resize": (moves.resize, 1, 4),
    "Slice": (moves.cut, 1, 5),
    "Softmax": (values.final, 1, 1),
    "SpaceToDepth": (moves.depth_to_space, 1, 1),
    "Split": (moves.split, 1, 2),
    "Squeeze": (moves.squeeze, 1, 2),
    "Sub": (values.arithmetic, 2, 2),
    "Sum": (values.arithmetic, 1, 2**16),
    "Transpose": (moves.transpose, 1, 1),
    "Unsqueeze": (moves.squeeze, 1, 2),
    "Upsample": (moves.resize, 1, 2),
    **dict.fromkeys(values.FUNCTIONS, (values.function, 1, 1)),
}


def translate(operator: Operator, graph: Translation) -> None:
    """Add what ``operator`` means to the graph; ValueError if it is not supported."""
    if operator.kind not in OPERATORS:
        raise ValueError(f"operator {operator.kind} is not supported")
    function, least, most = OPERATORS[operator.kind]
    if not least <= len(operator.inputs) <= most or "" in operator.inputs[:least]:
        raise ValueError(f"it must have {least if least == most else f'{least} to {most}'} inputs, "
                         f"got {len([name for name in operator.inputs if name])}")
    function(operator, graph)
    operator.refuse_rest()
