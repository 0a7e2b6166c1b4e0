"""The values of an ONNX file's tensors, in the file or beside it; sizes are checked before anything is allocated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from refquant.readers.onnx_translation import MAX_PARAMETERS

# Codes of TensorProto.DataType: (element type in raw bytes, the field that holds the elements otherwise).
_TYPES = {1: ("<f4", "float_data"), 11: ("<f8", "double_data"), 10: ("<f2", "int32_data"), 7: ("<i8", "int64_data"),
          6: ("<i4", "int32_data"), 9: ("?", "int32_data")}
CODES = {3: ("i1", "int32_data"), 2: ("u1", "int32_data")}  # of quantized models
_EXTERNAL = 1  # of TensorProto.DataLocation


def read_tensor(tensor: Any, folder: Path, *, codes: bool = False) -> np.ndarray:
    """The values of an initializer; ValueError where it does not hold what it declares. codes: int8 and uint8 too."""
    dtype, field = (_TYPES | CODES if codes else _TYPES).get(tensor.data_type, (None, ""))
    if dtype is None:
        raise ValueError(f"tensor {tensor.name!r} must hold {'int8, uint8, ' if codes else ''}float16, float32, "
                         f"float64, int32, int64 or bool, got ONNX element type {tensor.data_type}")
    shape = tuple(tensor.dims[:9])
    count = math.prod(shape)
    if len(shape) > 8 or any(d < 1 for d in shape) or count > MAX_PARAMETERS:
        raise ValueError(f"tensor {tensor.name!r} must have at most 8 axes and 1 to {MAX_PARAMETERS} elements, "
                         f"got shape {shape}")
    item = np.dtype(dtype).itemsize
    if tensor.data_location == _EXTERNAL:
        raw = _read_external(tensor, folder, count * item)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        # The bits of float16 stand in int32_data.
        raw = np.array(getattr(tensor, field)).astype("<u2" if dtype == "<f2" else dtype).tobytes()
    if len(raw) != count * item:
        raise ValueError(f"tensor {tensor.name!r} must hold the {count} elements of its shape {shape}, "
                         f"got {len(raw) / item:g}")
    return np.frombuffer(raw, dtype).reshape(shape).astype(np.dtype(dtype).newbyteorder("="))


def _read_external(tensor: Any, folder: Path, size: int) -> bytes:
    """``size`` bytes from a file beside the model; ValueError for one elsewhere or too short."""
    entries = {entry.key: str(entry.value) for entry in tensor.external_data}
    location, offset, length = (entries.get(key, default) for key, default in (
        ("location", ""), ("offset", "0"), ("length", str(size))))
    where = f"tensor {tensor.name!r}: external data"
    try:
        file = (folder / location).resolve()
        inside = file.is_relative_to(folder.resolve()) and not Path(location).is_absolute()
        if not inside or ".." in Path(location).parts:
            raise ValueError(f"{where} must lie in the model's folder, got {location!r}")
        if not file.is_file():
            raise ValueError(f"{where} must be a file, got {location!r}")
        held = file.stat().st_size
        if length != str(size) or not offset.isdecimal() or int(offset) + size > held:
            raise ValueError(f"{where} must hold {size} bytes, got length {length} at offset {offset} of the {held} "
                             f"bytes in {location!r}")
        with open(file, "rb") as stream:
            stream.seek(int(offset))
            return stream.read(size)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{where} must be readable, got: {error}") from None
