"""Files of others: float networks from ONNX.

Read in this order: ``onnx_file`` (the file and its tensors), ``onnx_translation`` (what a translation gathers),
``onnx_operators`` (one function per operator). Needs ``pip install 'refquant[onnx]'``.
"""

from refquant.readers.onnx_file import load_onnx

__all__ = [
    "load_onnx",
]
