"""Reading quantized models from ONNX files, in QDQ or QOperator form, as onnxruntime runs them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refquant.readers.onnx_code_operators import take
from refquant.readers.onnx_codes import Codes
from refquant.readers.onnx_constants import FOLDED, fold
from refquant.readers.onnx_file import OWN_DOMAIN, needed, one_line, open_model
from refquant.readers.onnx_fusions import DQ, Q, QuantizedNode, fused
from refquant.readers.onnx_tensors import read_tensor
from refquant.readers.onnx_translation import MAX_PARAMETERS
from refquant.runtimes.model import QuantizedModel

_OLDEST = 10  # the operator set that brought QuantizeLinear
_INTEGER = ("Integer", "QLinear", "QGemm")  # what operators on codes have in their names


def load_quantized_onnx(path: str | os.PathLike[str], *, outputs: Sequence[str] = ()) -> QuantizedModel:
    """The quantized model of an ONNX file: operations on codes, planes NCHW.

    A file in QOperator form is taken as it stands. One in QDQ form becomes what onnxruntime's default optimizations
    make of it on x86-64 (``onnx_fusions``); its int8 tensors are uint8 codes of 128 more where they do that.

    path: a file of operator set 10 or newer with one input. outputs: tensors at which the model ends; by default the
    file's. FileNotFoundError without the file; ValueError, in one sentence, for a damaged or foreign file and for
    what is not supported, naming the operator; ModuleNotFoundError without the onnx package.

    >>> model = load_quantized_onnx("model.onnx")  # doctest: +SKIP
    """
    path = Path(path)
    model = open_model(path)
    try:
        return _read_model(model, path.parent, tuple(outputs))
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(str(error))}") from None


def _read_model(model: Any, folder: Path, outputs: tuple[str, ...]) -> QuantizedModel:
    graph = model.graph
    versions = [entry.version for entry in model.opset_import if entry.domain in OWN_DOMAIN]
    if not versions or min(versions) < _OLDEST:
        raise ValueError(f"a quantized model needs ONNX's operator set {_OLDEST} or newer, got "
                         f"{min(versions) if versions else 'none'}")
    for what, lacking in (("functions", model.functions), ("sparse initializers", graph.sparse_initializer)):
        if lacking:
            raise ValueError(f"{what} are not supported, got {len(lacking)}")
    wanted, protos = needed(graph, outputs)
    read = {name for node in protos for name in node.input}
    constants = {}
    total = 0
    for tensor in graph.initializer:
        if tensor.name in read:
            total += int(np.prod([max(0, d) for d in tensor.dims[:9]], dtype=np.float64))
            if total > MAX_PARAMETERS:
                raise ValueError(f"a model may hold at most {MAX_PARAMETERS} parameters, got more")
            constants[tensor.name] = read_tensor(tensor, folder, codes=True)
    entries = [entry for entry in graph.input if entry.name not in constants]
    if len(entries) != 1:
        names = ", ".join(repr(entry.name) for entry in entries[:8])
        raise ValueError(f"the model must have one input, got {names or 'none'}")
    known = {entries[0].name, *constants}
    nodes = []
    for proto in protos:
        node = _node(proto, folder, constants, known, min(versions))
        if node is not None:
            nodes.append(node)
    whole = any(word in node.kind for node in nodes for word in _INTEGER)
    if not whole and not any(node.kind in (Q, DQ) for node in nodes):
        raise ValueError("it must be a quantized model, got one without QuantizeLinear or operators on codes")
    codes = Codes(constants, min(versions))
    codes.enter(entries[0])
    for node in _dequantized(nodes if whole else fused(nodes, constants, wanted), constants, wanted):
        try:
            take(codes, node)
        except (ValueError, OverflowError) as error:
            where = [name for name in node.inputs if name in codes.shapes and name != entries[0].name]
            hint = f"; --output {where[0]} ends the model before it" if where else ""
            raise ValueError(f"node {node.name!r} ({node.kind}): {error}{hint}") from None
    return codes.model(entries[0].name, wanted)


def _dequantized(nodes: Sequence[QuantizedNode], constants: dict[str, np.ndarray], outputs: Sequence[str]
                 ) -> list[QuantizedNode]:
    """Without what dequantizes weights that a float operator reads: they become constants, f32(code - zero)·step."""
    left = []
    for node in nodes:
        held = constants.get(node.inputs[0]) if node.kind == DQ else None
        params = [constants.get(name) for name in node.inputs[1:3] if name]
        if held is None or node.outputs[0] in outputs or any(one is None for one in params):
            left.append(node)
            continue
        axis = node.attributes.get("axis", 1)
        step, zero = (np.asarray(one) for one in (params[0], params[1] if len(params) > 1 else 0))
        slices = held.shape[axis] if -held.ndim <= axis < held.ndim else 1
        if {held.dtype.kind, zero.dtype.kind} - {*"iu"} or step.dtype != np.float32 or (
                step.size not in (1, slices) or zero.size not in (1, slices)):
            raise ValueError(f"node {node.name!r} ({DQ}): it must have integers and one scale of float32, or one for "
                             f"each slice along axis {axis}, got {held.dtype} and {step.dtype} {step.shape}")
        shape = [1] * held.ndim
        if step.size > 1:
            shape[axis] = -1
        zero = zero.astype(np.int64).reshape(shape) if zero.size > 1 else zero.astype(np.int64).ravel()[:1].sum()
        step = step.reshape(shape) if step.size > 1 else step.ravel()[0]
        with np.errstate(over="ignore"):
            constants[node.outputs[0]] = np.asarray((held.astype(np.int64) - zero).astype(np.float32) * step)
    return left


def _node(proto: Any, folder: Path, constants: dict[str, np.ndarray], known: set[str], version: int
          ) -> QuantizedNode | None:
    """The node in plain values, or None for one whose outputs are constants, which are added to ``constants``."""
    from onnx import helper

    texts = (proto.name, proto.op_type, proto.domain, *proto.input, *proto.output)
    if not all(isinstance(text, str) for text in texts) or not proto.output or not proto.output[0]:
        raise ValueError(f"node {str(proto.name)!r}: it must have an output, and names of text")
    name = proto.name or proto.output[0]
    missing = [one for one in proto.input if one and one not in known]
    if missing or known.intersection(filter(None, proto.output)):
        raise ValueError(f"node {name!r} ({proto.op_type}): it must read tensors made before it and write new ones, "
                         f"got {(missing or list(proto.output))[0]!r}")
    own = proto.domain in OWN_DOMAIN
    if own and proto.op_type in (Q, DQ) and not (len(proto.input) > 1 and proto.input[1]):
        raise ValueError(f"node {name!r} ({proto.op_type}): it must have a tensor and a scale, got "
                         f"{list(proto.input)[:3]}")
    known.update(filter(None, proto.output))
    try:
        attributes = {one.name: read_tensor(one.t, folder, codes=True) if one.HasField("t") else
                      helper.get_attribute_value(one) for one in proto.attribute}
        if own and proto.op_type == "Constant":
            values = [attributes[key] for key in ("value", "value_ints", "value_int", "value_float", "value_floats")
                      if key in attributes]
            if len(values) != 1:
                raise ValueError("a Constant must hold a tensor or numbers")
            constants[proto.output[0]] = np.asarray(values[0])
            return None
        if own and proto.op_type in FOLDED and any(proto.input) and all(
                one in constants or not one for one in proto.input):
            values = fold(proto, [constants[one] if one else None for one in proto.input], version)
            constants.update(zip(proto.output, values))
            return None
    except ValueError as error:
        raise ValueError(f"node {name!r} ({proto.op_type}): {error}") from None
    kind = proto.op_type if own else f"{proto.domain}.{proto.op_type}"
    return QuantizedNode(kind, tuple(proto.input), tuple(proto.output), name, attributes)
