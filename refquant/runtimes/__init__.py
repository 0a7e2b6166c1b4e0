"""Quantized models as runtimes compute them, to the last bit.

Read in this order: ``model`` (a model as its file holds it), ``arithmetic`` (from sums to codes), ``fast`` (two of
these functions in fewer passes), ``operators`` and ``elementwise`` (LiteRT's rules, one function each), ``softmax``,
``onnx_layers`` and ``onnx_elementwise`` (onnxruntime's), ``average_pools`` (how those of more devices round), ``own``
(refquant's), ``kernels`` (which rule which kernel set has, as data), ``run``.
"""

from refquant.runtimes.average_pools import average_pool_rules
from refquant.runtimes.kernels import KERNEL_SETS, LITERT_SETS, ONNX_SETS
from refquant.runtimes.run import run_model

__all__ = [
    "KERNEL_SETS",
    "LITERT_SETS",
    "ONNX_SETS",
    "average_pool_rules",
    "run_model",
]
