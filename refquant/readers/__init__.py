"""Files of others: float networks from ONNX, quantized models from LiteRT and ONNX.

Read in this order: ``onnx_file`` (a float network), ``onnx_tensors`` (its values), ``onnx_constants`` (what the graph
computes beforehand), ``onnx_translation`` (what a translation gathers), ``onnx_operators`` (the operators by name),
``onnx_layers``, ``onnx_moves`` and ``onnx_values`` (what each means). For quantized models ``onnx_quantized`` (the
file), ``onnx_fusions`` (what onnxruntime makes of QDQ form), ``onnx_codes`` (the model under construction),
``onnx_code_operators`` and ``onnx_code_moves`` (what each operator means); ``tflite_file``. Needs
``pip install 'refquant[onnx]'`` and ``'refquant[tflite]'``.
"""

from refquant.readers.onnx_file import load_onnx
from refquant.readers.onnx_quantized import load_quantized_onnx
from refquant.readers.tflite_file import load_tflite

__all__ = [
    "load_onnx",
    "load_quantized_onnx",
    "load_tflite",
]
