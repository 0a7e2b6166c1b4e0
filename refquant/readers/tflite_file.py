"""Reading quantized models from LiteRT's files (.tflite), with the classes of the ``tflite`` package."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refquant.readers.onnx_translation import axis_behind_batch
from refquant.runtimes.model import Operation, QuantizedModel, Tensor

# TensorType: what is read.
_DTYPES = {9: np.int8, 3: np.uint8, 2: np.int32, 4: np.int64, 0: np.float32}
_MAX_BYTES, _MAX_ELEMENTS = 2**31, 2**28
_PADDING = {0: "SAME", 1: "VALID"}
_ACTIVATION = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}
# Operator: the class of its options, and the fields that are read.
_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": ("Conv2DOptions", ("Padding", "StrideW", "StrideH", "FusedActivationFunction", "DilationWFactor",
                                  "DilationHFactor")),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (
        "Padding", "StrideW", "StrideH", "DepthMultiplier", "FusedActivationFunction", "DilationWFactor",
        "DilationHFactor")),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat", "KeepNumDims")),
    "ADD": ("AddOptions", ("FusedActivationFunction", "PotScaleInt16")),
    "AVERAGE_POOL_2D": ("Pool2DOptions", ("Padding", "StrideW", "StrideH", "FilterWidth", "FilterHeight",
                                          "FusedActivationFunction")),
    "MAX_POOL_2D": ("Pool2DOptions", ("Padding", "StrideW", "StrideH", "FilterWidth", "FilterHeight",
                                      "FusedActivationFunction")),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "DEQUANTIZE": ("", ()),
    "HARD_SWISH": ("", ()),
    "LEAKY_RELU": ("LeakyReluOptions", ("Alpha",)),
    "LOGISTIC": ("", ()),
    "MEAN": ("ReducerOptions", ("KeepDims",)),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
    "PAD": ("", ()),
    "QUANTIZE": ("", ()),
    "RELU": ("", ()),
    "RELU6": ("", ()),
    "RESHAPE": ("", ()),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", ("AlignCorners", "HalfPixelCenters")),
    "SQUEEZE": ("", ()),
    "TANH": ("", ()),
    "TRANSPOSE": ("", ()),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
}


def load_tflite(path: str | os.PathLike[str], *, outputs: Sequence[str] = ()) -> QuantizedModel:
    """The model of a .tflite file, as it stands: NHWC, codes, steps and zero points.

    path: a file of one subgraph of int8 or uint8 operators, those of ``_OPTIONS``. outputs: names of tensors at which
    the model ends; by default the file's. What the outputs do not need is not looked at. FileNotFoundError without
    the file; ValueError, in one sentence, for a damaged or foreign file and for whatever else it holds;
    ModuleNotFoundError without the tflite package.
    """
    try:
        import tflite
    except ModuleNotFoundError as error:
        if error.name != "tflite":
            raise
        raise ModuleNotFoundError("reading .tflite files needs the tflite package: pip install 'refquant[tflite]'",
                                  name="tflite") from None
    path = Path(path)
    if path.exists() and not (path.is_file() and path.stat().st_size < _MAX_BYTES):
        raise ValueError(f"{path} must be a file of less than {_MAX_BYTES} bytes")
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError(f"{path} must be a .tflite model, got another kind of file")
    try:
        return _read(tflite, data, tuple(outputs))
    except ValueError as error:
        if " buffer " in f" {error} ":  # NumPy's, about an offset outside the file
            raise ValueError(f"{path} must be a whole .tflite model, got: {error}") from None
        raise ValueError(f"{path}: {error}") from None
    except (struct.error, TypeError, IndexError, AttributeError, OverflowError, UnicodeDecodeError, MemoryError
            ) as error:  # what the flatbuffers' accessors do with offsets outside the file
        raise ValueError(f"{path} must be a whole .tflite model, got {type(error).__name__}: {error}") from None


def _read(tflite: Any, data: bytes, wanted: tuple[str, ...]) -> QuantizedModel:
    model = tflite.Model.GetRootAsModel(data, 0)
    if model.SubgraphsLength() != 1:
        raise ValueError(f"it must have one subgraph, got {model.SubgraphsLength()}")
    graph = model.Subgraphs(0)
    if max(graph.TensorsLength(), graph.OperatorsLength(), model.BuffersLength()) > len(data):
        raise ValueError("it must be a whole .tflite model, got more tensors than bytes")
    count = graph.TensorsLength()
    names = [_name(graph.Tensors(index)) for index in range(count)]
    inputs, outputs = _indexes(graph.InputsAsNumpy(), count), _indexes(graph.OutputsAsNumpy(), count)
    operators = [graph.Operators(number) for number in range(graph.OperatorsLength())]
    ends = [(_indexes(one.InputsAsNumpy(), count, True), _indexes(one.OutputsAsNumpy(), count)) for one in operators]
    if wanted:
        made = {names[index]: index for _, some in ends for index in some}
        unknown = [name for name in wanted if name not in made]
        if unknown:
            raise ValueError(f"outputs must be tensors that an operator computes, got {unknown[0]!r}; the last ones "
                             f"are {', '.join([*made][-8:])}")
        outputs = tuple(made[name] for name in wanted)
    needed = _needed(ends, outputs)
    used = {*inputs, *outputs, *(index for number in needed for some in ends[number] for index in some)}
    tensors = tuple(_tensor(model, graph.Tensors(index), index) if index in used else _unread(index, name)
                    for index, name in enumerate(names))
    kinds = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
    written = {*inputs, *(t.index for t in tensors if t.values is not None)}
    operations = []
    for number in needed:
        one, (read, new) = operators[number], ends[number]
        code = model.OperatorCodes(one.OpcodeIndex())
        kind = kinds.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "an unknown one")
        try:
            missing = [index for index in read if index >= 0 and index not in written]
            if missing:
                raise ValueError(f"it must read tensors made before it, got {names[missing[0]]!r}")
            if written.intersection(new):
                raise ValueError("it must write a new tensor")
            operations.append(_operation(tflite, kind, one, read, new, tensors))
        except ValueError as error:
            before = [names[index] for index in read if index in written and index not in inputs
                      and tensors[index].values is None]
            hint = f"; --output {before[0]} ends the model before it" if before else ""
            raise ValueError(f"operator {number} ({kind}): {error}{hint}") from None
        written.update(new)
    if not set(outputs) <= written or not inputs or not outputs:
        raise ValueError("its outputs must be computed from its inputs")
    return QuantizedModel(tensors, tuple(operations), inputs, outputs)


def _name(one: Any) -> str:
    return str((one.Name() or b"").decode("utf-8", "backslashreplace"))


def _unread(index: int, name: str) -> Tensor:
    """In place of a tensor that the outputs do not need."""
    return Tensor(index, name, (), np.dtype(np.int8), np.zeros(0, np.float32), np.zeros(0, np.int64))


def _needed(ends: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], outputs: tuple[int, ...]) -> list[int]:
    """The numbers of the operators that the outputs need, in the file's order."""
    wanted, numbers = set(outputs), []
    for number in reversed(range(len(ends))):
        if wanted.intersection(ends[number][1]):
            wanted.update(ends[number][0])
            numbers.append(number)
    return numbers[::-1]


def _indexes(values: Any, count: int, optional: bool = False) -> tuple[int, ...]:
    found = tuple(int(value) for value in (values if not isinstance(values, int) else ()))
    if any(not (-optional <= index < count) for index in found):
        raise ValueError(f"tensor indexes must be below {count}, got {found[:8]}")
    return found


def _tensor(model: Any, one: Any, index: int) -> Tensor:
    name, dtype = _name(one), _DTYPES.get(one.Type())
    if dtype is None:
        raise ValueError(f"tensor {name!r} must hold int8, uint8, int32, int64 or float32, got tensor type "
                         f"{one.Type()}")
    shape = tuple(int(size) for size in one.ShapeAsNumpy()) if one.ShapeLength() else ()
    count = math.prod(shape)
    if len(shape) > 6 or any(size < 1 for size in shape) or count > _MAX_ELEMENTS:
        raise ValueError(f"tensor {name!r} must have at most 6 axes and 1 to {_MAX_ELEMENTS} elements, got "
                         f"{shape[:8]}")
    step, zero, axis = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    quantization = one.Quantization()
    if quantization is not None and quantization.ScaleLength():
        step = np.array(quantization.ScaleAsNumpy(), np.float32)
        zero = np.array(quantization.ZeroPointAsNumpy(), np.int64) if quantization.ZeroPointLength() else (
            np.zeros(len(step), np.int64))
        axis = quantization.QuantizedDimension()
        low, high = (0, 255) if dtype == np.uint8 else (-128, 127)
        if dtype in (np.int8, np.uint8) and not low <= zero.min() <= zero.max() <= high:
            raise ValueError(f"tensor {name!r} must have zero points from {low} to {high}, got {zero.min()}.."
                             f"{zero.max()}")
        channels = shape[axis] if 0 <= axis < len(shape) else 1
        if len(step) not in (1, channels) or len(zero) not in (1, len(step)) or not (
                np.isfinite(step).all() and (step > 0).all()):
            raise ValueError(f"tensor {name!r} must have one positive scale, or one for each of {channels} channels, "
                             f"got {len(step)}")
    buffer, values = model.Buffers(one.Buffer()), None
    if buffer.DataLength():
        raw = buffer.DataAsNumpy()
        if raw.nbytes != count * np.dtype(dtype).itemsize:
            raise ValueError(f"tensor {name!r} must hold the {count} elements of its shape {shape}, got {raw.nbytes} "
                             f"bytes")
        values = np.frombuffer(raw.tobytes(), np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)
    return Tensor(index, name, shape, np.dtype(dtype), step, zero, axis, values)


def _check_weights(kind: str, read: list[Tensor]) -> None:
    """ValueError unless weights and biases are constants that suit the operator."""
    weight, rank = read[1] if len(read) > 1 else None, 2 if kind == "FULLY_CONNECTED" else 4
    if weight is None or weight.values is None or weight.values.ndim != rank or not len(weight.step):
        raise ValueError(f"its weights must be a constant of {rank} axes with scales")
    if weight.dtype not in (np.int8, np.uint8) or len(set(weight.zero_point.tolist())) > 1:
        raise ValueError(f"its weights must be int8 or uint8 with one zero point, got {weight.dtype}")
    if weight.dtype == np.int8 and kind != "FULLY_CONNECTED" and weight.zero:
        raise ValueError(f"int8 weights of {kind} must have zero point 0, as LiteRT asks for, got {weight.zero}")
    if len(weight.step) > 1 and (weight.dtype == np.uint8 or weight.zero):
        raise ValueError("weights with several scales must be int8 with zero point 0, as LiteRT asks for")
    outputs = weight.shape[3] if kind == "DEPTHWISE_CONV_2D" else weight.shape[0]
    if len(read) > 2 and (read[2].values is None or read[2].values.shape != (outputs,)
                          or read[2].dtype != np.int32):
        raise ValueError(f"its biases must be {outputs} constants of int32, got {read[2].dtype} {read[2].shape}")
    if len(weight.step) not in (1, outputs):
        raise ValueError(f"its weights must have one scale, or one for each of {outputs} outputs, got "
                         f"{len(weight.step)}")


def _check_others(kind: str, read: list[Tensor], written: Tensor, options: dict[str, Any]) -> None:
    """ValueError where a second operand is not what the rules know."""
    if kind in ("ADD", "MUL"):
        if len(read) != 2 or read[0].dtype != read[1].dtype or any(len(t.step) != 1 for t in read):
            raise ValueError("its operands must be two of one dtype, each with one scale")
        rank = len(written.shape)
        whole = np.broadcast_shapes(*(t.shape for t in read))
        if whole != written.shape or rank < 1 or whole[0] != 1 or any(
                t.values is None and len(t.shape) != rank for t in read) or all(t.values is not None for t in read):
            raise ValueError(f"its operands must broadcast to {written.shape} behind the batch, got "
                             f"{' and '.join(str(t.shape) for t in read)}")
    elif kind == "CONCATENATION":
        axis_behind_batch(options["Axis"], len(written.shape))
        if options["FusedActivationFunction"] != "NONE" or any(
                t.dtype != written.dtype or len(t.shape) != len(written.shape) for t in read):
            raise ValueError("it must join tensors of one dtype behind the batch, without activation")
    elif kind in ("MEAN", "PAD", "TRANSPOSE"):
        said = read[1].values if len(read) == 2 else None
        if said is None or said.dtype not in (np.int32, np.int64):
            raise ValueError("its second input must be a constant of integers")
        rank = len(read[0].shape)
        if kind == "MEAN" and (rank != 4 or sorted(
                axis_behind_batch(int(axis), rank, "axes") for axis in said.ravel()) != [0, 1]):
            raise ValueError(f"its mean must be over H and W, axes 1 and 2, got {said.ravel().tolist()[:8]}")
        if kind == "PAD" and (said.shape != (rank, 2) or said[0].any() or said.min() < 0 or said.max() > 2**16):
            raise ValueError("its paddings must be two for each axis, from 0 to 65536, none for the batch")
        if kind == "TRANSPOSE" and (sorted(said.ravel().tolist()) != list(range(rank)) or said.ravel()[0] != 0):
            raise ValueError(f"its axes must leave the batch in front, got {said.ravel().tolist()[:8]}")
    elif kind == "RESIZE_NEAREST_NEIGHBOR" and (len(read[0].shape) != 4 or len(written.shape) != 4):
        raise ValueError("it must resize planes")


def _operation(tflite: Any, kind: str, one: Any, inputs: tuple[int, ...], outputs: tuple[int, ...],
               tensors: tuple[Tensor, ...]) -> Operation:
    if kind not in _OPTIONS:
        raise ValueError(f"operator {kind} is not supported, only {', '.join(_OPTIONS)}")
    if not inputs or len(outputs) != 1 or inputs[0] < 0:
        raise ValueError(f"it must have inputs and one output, got {len(inputs)} and {len(outputs)}")
    ends = [tensors[index] for index in (inputs[0], *outputs)]
    floats = {"QUANTIZE": (True, False), "DEQUANTIZE": (False, True)}.get(kind, (False, False))  # that it may have
    if any(not (t.dtype in (np.int8, np.uint8) and len(t.step) == 1) and not (may and t.dtype == np.float32)
           for t, may in zip(ends, floats)) or (kind == "DEQUANTIZE" and ends[1].dtype != np.float32):
        raise ValueError(f"it must read and write int8 or uint8 with one scale, got "
                         f"{' and '.join(str(t.dtype) for t in ends)}")
    name, wanted = _OPTIONS[kind]
    table, options = one.BuiltinOptions(), {}
    if wanted and table is None:
        raise ValueError("it must have options, got none")
    if name and table is not None:
        held = getattr(tflite, name)()
        held.Init(table.Bytes, table.Pos)
        options = {field: getattr(held, field)() for field in wanted}
    if "Padding" in options:
        options["Padding"] = _PADDING.get(options["Padding"], "")
    if "FusedActivationFunction" in options:
        options["FusedActivationFunction"] = _ACTIVATION.get(options["FusedActivationFunction"], "")
    sizes = [value for name, value in options.items() if name.startswith(("Stride", "Filter", "Dilation"))]
    if sizes and not 1 <= min(sizes) <= max(sizes) <= 2**16:
        raise ValueError(f"its strides, windows and dilations must be from 1 to 65536, got {sizes}")
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        _check_weights(kind, [tensors[index] for index in inputs if index >= 0])
    else:
        _check_others(kind, [tensors[index] for index in inputs if index >= 0], tensors[outputs[0]], options)
    if "" in options.values():
        raise ValueError("its padding must be SAME or VALID, its activation NONE, RELU, RELU_N1_TO_1 or RELU6")
    return Operation(kind, inputs, outputs, options)
