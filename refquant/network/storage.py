"""Quantized networks as files: one .npz of integer arrays and a JSON manifest, no pickle.

The manifest, stored as the bytes of the array ``manifest``, lists tensors and layers; arrays are stored under
the path of the field that holds them, as in ``layers.3.terms.0.weight_q``. The same network gives the
same arrays; the compressed bytes depend on zlib.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.network import moves
from refquant.network.graph import Concat, Shape
from refquant.network.pointwise_layers import QuantizedLargest, QuantizedMove, QuantizedMul, QuantizedTable
from refquant.network.program import (
    IntegerProgram,
    Layer,
    QuantizedAdd,
    QuantizedAveragePool,
    QuantizedClip,
    QuantizedConcat,
    QuantizedConv,
    QuantizedFlatten,
    QuantizedMaxPool,
    Term,
)
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import PiecewiseParams, QuantParams

# Of one image's tensor, in ONNX files too: a file of a few bytes can declare anything.
MAX_ELEMENTS = 2**26
KIND, VERSION = "refquant quantized network", 3
# What versions 1 and 2 called otherwise.
_FORMER = {"Encoding": "QuantParams", "plane": "lookup_table", "limited": "rescaled_channels"}
_TYPES: dict[str, Any] = {cls.__name__: cls for cls in (
    IntFormat, QuantParams, PiecewiseParams, Multiplier, Term, QuantizedConv, QuantizedAdd, QuantizedConcat,
    QuantizedAveragePool, QuantizedMaxPool, QuantizedClip, QuantizedFlatten, QuantizedMove, QuantizedTable,
    QuantizedMul, QuantizedLargest, *moves.Move.__subclasses__())}
_PARTS = ("input", "output", "input_shape", "layers", "qparams", "dialect", "others")


def quantized_to_bytes(network: QuantizedNetwork) -> bytes:
    """The .npz file's bytes."""
    arrays: dict[str, Any] = {}
    manifest = {"kind": KIND, "version": VERSION,
                **{name: _pack(getattr(network, name), name, arrays) for name in _PARTS}}
    text = json.dumps(manifest, sort_keys=True).encode()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, manifest=np.frombuffer(text, np.uint8), **arrays)
    return buffer.getvalue()


def load_quantized(path: str | Path) -> QuantizedNetwork:
    """Read a network that ``refquant quantize`` wrote; it gives equal results.

    Every accumulator is proven again. ValueError for a truncated or foreign file, or another version.
    """
    arrays = read_arrays(path)
    try:
        manifest = json.loads(arrays.pop("manifest").tobytes())
        known = manifest["kind"] == KIND
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} must be a quantized network written by refquant, got another kind of file"
                         ) from None
    if known and manifest.get("version") == 1:  # which called the dialect semantics
        manifest |= {"version": 2, "dialect": manifest.pop("semantics", None)}
    if known and manifest.get("version") == 2:
        manifest |= {"version": VERSION, "qparams": manifest.pop("encodings", None)}
    if known:
        manifest.setdefault("others", [])  # files before there could be several results
    if not known or manifest.get("version") != VERSION:
        raise ValueError(f"{path} must be a {KIND} of version {VERSION}, got {manifest.get('kind')!r} of version "
                         f"{manifest.get('version')!r}")
    try:
        parts = {name: _unpack(manifest[name], arrays) for name in _PARTS}
        _check_sizes(IntegerProgram(**parts))
        return QuantizedNetwork(**parts)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} must describe a whole network, got: {error}") from None


def read_arrays(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, without pickle; ValueError naming the file if it is not whole.

    names: only these, where they are there; nothing else is opened.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} must be readable, got: {error.strerror}") from None
    name = None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {}
            for name in [name for name in file.files if names is None or name in names]:
                arrays[name] = file[name]
                if not isinstance(arrays[name], np.ndarray):
                    raise ValueError("not an array")
            return arrays
    # A damaged archive can fail in zipfile, zlib and NumPy's own reader, each with errors of its own, and a
    # declared shape can ask for more memory than there is.
    except Exception as error:
        raise ValueError(f"{path} must be an .npz file of plain arrays, got {_kind(content, name, error)}") from None


def array_names(path: str | Path) -> list[str]:
    """The names of an .npz file's arrays, none of which is opened."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return list(file.files)
    except Exception:
        return []  # ``read_arrays`` says what is wrong


def _kind(content: bytes, name: str | None, error: Exception) -> str:
    """What a file is that is not an .npz file of plain arrays."""
    if content.startswith(b"\x93NUMPY"):
        return "a single array, as in a .npy file"
    if content.startswith(b"\x80"):
        return "a pickle, which is never read"
    if name is not None and "Object arrays" in str(error):
        return f"the array {name!r} of Python objects, which only a pickle can hold"
    if name is not None and str(error) == "not an array":
        return f"an archive of other files, such as {name}"
    return "other content"


def _pack(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON for ``value``; arrays are put aside under their path."""
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"array": path}
    if isinstance(value, Geometry):
        return {"Geometry": list(value)}
    if is_dataclass(value):
        parts = {f.name: _pack(getattr(value, f.name), f"{path}.{f.name}", arrays) for f in fields(value)}
        return {type(value).__name__: parts}
    if isinstance(value, dict):
        return {"dict": {name: _pack(item, f"{path}.{name}", arrays) for name, item in value.items()}}
    if isinstance(value, tuple):
        return [_pack(item, f"{path}.{index}", arrays) for index, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return tuple(_unpack(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    (kind, content), = value.items()
    if kind == "array":
        return arrays[content]
    if kind == "Geometry":
        return Geometry.of(*content)
    parts = {name: _unpack(item, arrays) for name, item in content.items()}
    return parts if kind == "dict" else _TYPES[_FORMER.get(str(kind), str(kind))](
        **{_FORMER.get(str(name), str(name)): part for name, part in parts.items()})


def _check_sizes(program: IntegerProgram) -> None:
    """ValueError for a tensor of more than MAX_ELEMENTS elements, before any is computed."""
    shapes = {program.input: _bounded(program.input_shape)}
    for layer in program.layers:
        try:
            shapes[layer.output] = _bounded(_output_shape(layer, *(shapes[name] for name in layer.inputs)))
        except (ValueError, IndexError) as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from None


def _bounded(shape: Shape) -> Shape:
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"a tensor must have at most {MAX_ELEMENTS} elements, got shape {shape}")
    return shape


def _output_shape(layer: Layer, *shapes: Shape) -> Shape:
    """The shape that a layer writes, from those that it reads."""
    shape = shapes[0]
    if isinstance(layer, (QuantizedConv, QuantizedMaxPool, QuantizedAveragePool)):
        top, left, bottom, right = layer.geometry.padding
        channels, height, width = (*shape, 1, 1)[:3]  # features are planes of one element
        _bounded((channels, top + height + bottom, left + width + right))
        kernels = layer.terms[0].weight_q.shape if isinstance(layer, QuantizedConv) else (channels, 1, *layer.kernel)
        return (kernels[0], *layer.geometry.output_size(height, width, kernels[2:]))[:len(shape)]
    if isinstance(layer, QuantizedMove):
        return layer.move.output_shape(shape)
    if isinstance(layer, QuantizedConcat):
        return Concat(layer.name, layer.inputs, layer.axis).output_shape(*shapes)
    if isinstance(layer, QuantizedFlatten):
        return (math.prod(shape),)
    return np.broadcast_shapes(*shapes)
