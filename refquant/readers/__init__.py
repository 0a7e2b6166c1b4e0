"""Files of others: float networks from ONNX, quantized models from LiteRT.

Read in this order: ``onnx_file`` (the file and its tensors), ``onnx_constants`` (what the graph computes beforehand),
``onnx_translation`` (what a translation gathers), ``onnx_operators`` (the operators by name), ``onnx_layers``,
``onnx_moves`` and ``onnx_values`` (what each means); ``tflite_file``. Needs ``pip install 'refquant[onnx]'`` and
``'refquant[tflite]'``.
"""

from refquant.readers.onnx_file import load_onnx
from refquant.readers.tflite_file import load_tflite

__all__ = [
    "load_onnx",
    "load_tflite",
]
