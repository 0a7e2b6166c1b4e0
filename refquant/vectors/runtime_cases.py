"""Golden cases of a quantized model as a runtime computes it: one for each operation, with what it reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.simd import INT8, INT32
from refquant.runtimes import onnx_layers
from refquant.runtimes.arithmetic import INT32 as WORD
from refquant.runtimes.kernels import LITERT_LAYERS, LITERT_SETS, ONNX_LAYERS, name_of_rule, rule_of
from refquant.runtimes.model import Operation, QuantizedModel
from refquant.runtimes.model import Tensor as ModelTensor
from refquant.runtimes.operators import A, B, multiplier_of, sums_of
from refquant.runtimes.run import operands, tensors_of
from refquant.vectors.cases import Case, Tensor
from refquant.vectors.network_cases import file_name
from refquant.vectors.suites import M_FORMAT

# What moves no code, and what ends in floats, has no case.
_WITHOUT = ("RESHAPE", "SQUEEZE", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
# The dialect that the manifest names: that of most layers.
DIALECTS = {"litert-ref": "gemmlowp_double", "litert-opt": "neon_double", "refquant": "single_round"}


def runtime_cases(model: QuantizedModel, x: np.ndarray, kernel_set: str, wanted: Collection[str] | None = None
                  ) -> Iterator[Case]:
    """A case for each operation of ``model`` as ``kernel_set`` has it, on inputs x; then the whole model.

    wanted: names of tensors that operations write, without the whole model; by default all. ValueError for others.
    """
    chosen = {op.outputs[0]: op for op in model.operations
              if op.kind not in _WITHOUT and model.tensors[op.outputs[0]].dtype.kind in "iu"}
    names = {model.tensors[index].name for index in chosen}
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        some = ", ".join(sorted(names)[:8]) + (" and more" if len(names) > 8 else "")
        raise ValueError(f"layers must be tensors that an operation writes as codes, of {some}, got {unknown[0]}")
    return _cases(model, x, kernel_set, chosen, names if wanted is None else set(wanted), wanted is None)


def _cases(model: QuantizedModel, x: np.ndarray, kernel_set: str, chosen: dict[int, Operation], wanted: set[str],
           whole: bool) -> Iterator[Case]:
    known: dict[int, np.ndarray] = {}
    numbers = {index: number for number, index in enumerate(chosen, 1)}
    for index, codes in tensors_of(model, x, kernel_set):
        known[index] = codes
        if index in chosen and model.tensors[index].name in wanted:
            name = f"{numbers[index]:02d}-{file_name(model.tensors[index].name)}"[:100]
            yield _case(name, model, chosen[index], known, kernel_set)
    if whole:
        yield _whole(model, known, list(chosen), kernel_set)


def _of(values: np.ndarray, role: str, layouts: dict[int, str]) -> Tensor:
    """Codes or floats as a case holds them."""
    width, signed = 8 * values.dtype.itemsize, values.dtype.kind == "i"
    fmt = None if values.dtype.kind == "f" else IntFormat(width, signed)
    return Tensor(values, fmt, role, layouts.get(values.ndim, "N" + "D" * (values.ndim - 1)) if values.ndim else "")


def _layouts(kernel_set: str) -> dict[int, str]:
    return {4: "NHWC" if kernel_set in LITERT_SETS else "NCHW", 2: "NF", 1: "K"}


def _case(id: str, model: QuantizedModel, op: Operation, known: dict[int, np.ndarray], kernel_set: str) -> Case:
    layouts = _layouts(kernel_set)
    described = [model.tensors[index] for index in op.inputs if index >= 0]
    written = model.tensors[op.outputs[0]]
    found: dict[str, Tensor] = {}
    computed = 0
    for place, tensor in enumerate(described):
        constant = tensor.values is not None
        name = f"x{computed}" if not constant else ("w", "bias")[place - 1] if 0 < place < 3 and _is_layer(op) else (
            f"constant{place}")
        computed += not constant
        values = np.asarray(tensor.values if constant else known[tensor.index])
        if values.dtype == np.int64:
            values = values.astype(np.int32)  # shapes and axes
        found[name] = _of(values, "bias" if name == "bias" else "weight" if constant else "input",
                          {**layouts, 4: "OHWI" if layouts[4] == "NHWC" else "OIHW"} if name == "w" else layouts)
        found |= _coding(name, tensor)
    found |= _coding("y", written)
    codes = operands(model, op, known, len(known[written.index]))
    rule_used = rule_of(kernel_set, op.kind, str(described[0].dtype))
    said = getattr(rule_used, "keywords", {})
    if said.get("scaling") in (A, B):
        found |= _multiplier(described, written, said.get("single", described[0].dtype == np.uint8))
    acc = _sums(op, described, written, codes, kernel_set)
    if acc is not None:
        found["expected_acc"] = Tensor(acc, WORD, "stage", layouts.get(acc.ndim, "N"))
    found["expected"] = _of(known[written.index], "expected", layouts)
    rule = name_of_rule(rule_used)
    parameters: dict[str, Any] = {"runtime": kernel_set, "operator": op.kind, "rule": rule, **_plain(op.options)}
    return Case(id, file_name(f"{kernel_set}-{op.kind}").replace("-", "_").lower(), parameters, found,
                f"{op.kind} that writes {written.name!r}, by the rule {rule}.", (), "network", small=True)


def _is_layer(op: Operation) -> bool:
    return op.kind in (*LITERT_LAYERS, *ONNX_LAYERS)


def _coding(name: str, tensor: ModelTensor) -> dict[str, Tensor]:
    """The step, float32, and the zero point of a tensor that has them."""
    if not tensor.step.size:
        return {}
    layout = "" if tensor.step.size == 1 else "O"
    shape = () if tensor.step.size == 1 else (-1,)
    zeros = np.broadcast_to(tensor.zero_point, tensor.step.shape)
    return {f"{name}_step": Tensor(tensor.step.reshape(shape), None, "input", layout),
            f"{name}_zero_point": Tensor(zeros.reshape(shape), INT32, "zero_point", layout)}


def _multiplier(described: list[ModelTensor], written: ModelTensor, single: bool) -> dict[str, Tensor]:
    """m and shift of a layer that is scaled in integers."""
    multiplier = Multiplier.from_real(multiplier_of(described[0], described[1], written, single=single))
    layout = "O" * multiplier.m.ndim
    return {"m": Tensor(multiplier.m, M_FORMAT, "multiplier", layout),
            "shift": Tensor(multiplier.shift, INT8, "shift", layout)}


def _sums(op: Operation, described: list[ModelTensor], written: ModelTensor, codes: list[np.ndarray], kernel_set: str
          ) -> np.ndarray | None:
    """The sums of a layer as the kernel set has them."""
    if op.kind in ONNX_LAYERS:
        return onnx_layers.shaped_sums(op, described, written, codes[0], pairs=kernel_set == "onnxruntime-avx2")
    found = sums_of(op, described, written, codes)
    return None if found is None else found[0]


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON holds them; a geometry by its parts."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name == "Geometry":
            found |= {part: list(of) if isinstance(of, tuple) else of for part, of in value._asdict().items()}
        elif isinstance(value, (bool, int, float, str)):
            found[name] = value
        else:
            found[name] = np.asarray(value).tolist() if not isinstance(value, tuple) else [str(one) for one in value]
    return found


def _whole(model: QuantizedModel, known: dict[int, np.ndarray], chosen: list[int], kernel_set: str) -> Case:
    """Inputs and the last codes; what each operation wrote are its stages."""
    layouts, entry = _layouts(kernel_set), model.tensors[model.inputs[0]]
    found = {"x": _of(known[entry.index], "input", layouts)}
    for number, index in enumerate(chosen[:-1], 1):
        name = f"expected_{number:02d}_{file_name(model.tensors[index].name)}"[:100]
        found[name] = _of(known[index], "stage", layouts)
    found["expected"] = _of(known[chosen[-1]], "expected", layouts)
    return Case(f"{len(chosen) + 1:02d}-end-to-end", file_name(f"{kernel_set}-model").replace("-", "_"),
                {"runtime": kernel_set}, found,
                f"The inputs, {len(found['x'].values)} of them, and the last codes; each operation's are its stages.",
                (), "network", small=True)
