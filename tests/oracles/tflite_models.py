"""One-operator .tflite files, made with the classes of the tflite package; and what LiteRT computes."""
from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from tools import require_module

tflite = require_module("tflite", "pip install 'refquant[tflite]'")
flatbuffers = require_module("flatbuffers", "pip install 'refquant[tflite]'")

TYPES = {"int8": 9, "uint8": 3, "int32": 2, "float32": 0}


class Spec(NamedTuple):
    """A tensor: shape with the batch, dtype, steps and zero points, and values of a constant."""

    shape: tuple[int, ...]
    dtype: str
    step: Any
    zero: Any = 0
    values: Any = None
    axis: int = 0


def one_operator(kind: str, tensors: list[Spec], options: tuple[str, dict[str, Any]] | None = None) -> bytes:
    """A model of one operator: the last tensor is its output, those without values are the model's inputs."""
    b = flatbuffers.Builder(1024)
    buffers = [_buffer(b, None), *(_buffer(b, t.values) for t in tensors)]
    made = [_tensor(b, t, k + 1, f"t{k}") for k, t in enumerate(tensors)]
    held = 0
    if options is not None:
        name, fields = options
        getattr(tflite, f"{name}Start")(b)
        for field, value in fields.items():
            getattr(tflite, f"{name}Add{field}")(b, value)
        held = getattr(tflite, f"{name}End")(b)
    inputs = [k for k, t in enumerate(tensors[:-1]) if t.values is None]
    read, written, entries = (_ints(b, values) for values in (range(len(tensors) - 1), [len(tensors) - 1], inputs))
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, 0)
    tflite.OperatorAddInputs(b, read)
    tflite.OperatorAddOutputs(b, written)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, options[0]))
        tflite.OperatorAddBuiltinOptions(b, held)
    operators = _offsets(b, [tflite.OperatorEnd(b)])
    vector = _offsets(b, made)
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, vector)
    tflite.SubGraphAddInputs(b, entries)
    tflite.SubGraphAddOutputs(b, written)
    tflite.SubGraphAddOperators(b, operators)
    graphs = _offsets(b, [tflite.SubGraphEnd(b)])
    code = getattr(tflite.BuiltinOperator, kind)
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
    tflite.OperatorCodeAddBuiltinCode(b, code)
    tflite.OperatorCodeAddVersion(b, 1 if kind in ("HARD_SWISH", "RESHAPE", "SQUEEZE") else 2)
    codes, all_buffers = _offsets(b, [tflite.OperatorCodeEnd(b)]), _offsets(b, buffers)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddBuffers(b, all_buffers)
    b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
    return bytes(b.Output())


def _buffer(b: Any, values: Any) -> int:
    data = 0 if values is None else b.CreateByteVector(np.ascontiguousarray(values).tobytes())
    tflite.BufferStart(b)
    if values is not None:
        tflite.BufferAddData(b, data)
    return int(tflite.BufferEnd(b))


def _tensor(b: Any, spec: Spec, buffer: int, name: str) -> int:
    shape, text = _ints(b, spec.shape), b.CreateString(name)
    steps = np.atleast_1d(np.asarray(spec.step, np.float32))
    scale = b.CreateNumpyVector(steps)
    zero = b.CreateNumpyVector(np.broadcast_to(np.asarray(spec.zero, np.int64), steps.shape).copy())
    tflite.QuantizationParametersStart(b)
    tflite.QuantizationParametersAddScale(b, scale)
    tflite.QuantizationParametersAddZeroPoint(b, zero)
    tflite.QuantizationParametersAddQuantizedDimension(b, spec.axis)
    quantization = tflite.QuantizationParametersEnd(b)
    tflite.TensorStart(b)
    tflite.TensorAddShape(b, shape)
    tflite.TensorAddType(b, TYPES[spec.dtype])
    tflite.TensorAddBuffer(b, buffer)
    tflite.TensorAddName(b, text)
    tflite.TensorAddQuantization(b, quantization)
    return int(tflite.TensorEnd(b))


def _ints(b: Any, values: Any) -> int:
    return int(b.CreateNumpyVector(np.array(list(values), np.int32)))


def _offsets(b: Any, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def interpreter_of(data: bytes, kernel_set: str, keep: bool = False) -> Any:
    """LiteRT's interpreter of a model, on one thread; ``keep`` every computed tensor."""
    litert = require_module("ai_edge_litert.interpreter", "pip install 'refquant[oracles]'")
    resolvers = {"litert-ref": litert.OpResolverType.BUILTIN_REF,
                 "litert-opt": litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                 "litert-xnnpack": litert.OpResolverType.AUTO}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the memory of kept tensors
        interpreter = litert.Interpreter(model_content=data, experimental_op_resolver_type=resolvers[kernel_set],
                                         num_threads=1, experimental_preserve_all_tensors=keep)
    interpreter.allocate_tensors()
    return interpreter


def run_litert(data: bytes, inputs: dict[int, Any], outputs: list[int], kernel_set: str, keep: bool = False
               ) -> dict[int, np.ndarray]:
    """Tensors by their index, of inputs by theirs; the first axis of these is walked where ``keep``."""
    interpreter = interpreter_of(data, kernel_set, keep)
    found: dict[int, list[np.ndarray]] = {index: [] for index in outputs}
    for row in range(len(next(iter(inputs.values()))) if keep else 1):
        for index, codes in inputs.items():
            interpreter.set_tensor(index, codes[row:row + 1] if keep else codes)
        interpreter.invoke()
        for index in outputs:
            found[index].append(interpreter.get_tensor(index))
    return {index: np.concatenate(parts) for index, parts in found.items()}
