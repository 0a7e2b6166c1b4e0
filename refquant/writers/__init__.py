"""Files for others: a quantized network as ONNX in QDQ form. Needs ``pip install 'refquant[onnx]'``."""

from refquant.writers.onnx_qdq import to_qdq

__all__ = [
    "to_qdq",
]
