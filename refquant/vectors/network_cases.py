"""Golden cases of a quantized network: one for each layer, with the codes that it reads, and one from end to end."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from refquant.convolution.geometry import Geometry
from refquant.integers.devices import dialect_of
from refquant.integers.formats import IntFormat
from refquant.integers.simd import INT8, INT32
from refquant.network.integer_forward import integer_tensors
from refquant.network.pointwise_layers import QuantizedLargest, QuantizedMove, QuantizedMul, QuantizedTable
from refquant.network.program import (
    ClippedLayer,
    IntegerProgram,
    Layer,
    QuantizedAdd,
    QuantizedAveragePool,
    QuantizedClip,
    QuantizedConcat,
    QuantizedConv,
    QuantizedFlatten,
    QuantizedMaxPool,
)
from refquant.network.qparams import PiecewiseParams
from refquant.vectors.cases import Case, Tensor, described
from refquant.vectors.operations import Parameters
from refquant.vectors.suites import INT64, M_FORMAT, make

_LAYOUTS = {4: "NCHW", 2: "NF"}


_WITHOUT_MODEL = (QuantizedMove, QuantizedTable, QuantizedMul, QuantizedLargest)


def file_name(name: str) -> str:
    """A layer's or a tensor's name as a word that any file system takes."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "unnamed"


def network_cases(network: IntegerProgram, x_q: np.ndarray, layers: Collection[str] | None = None) -> Iterator[Case]:
    """A case for each layer of ``network`` but Flatten, on codes x_q (N, *input_shape); then the whole network.

    layers: the names of those wanted, without the whole network; by default all. ValueError for unknown names. What
    ``vectors.operations`` computes of a layer by the plain implementations is compared with the integer interpreter.
    """
    known = {layer.name: layer for layer in network.layers if not isinstance(layer, QuantizedFlatten)}
    unknown = [name for name in layers or () if name not in known]
    if unknown:
        raise ValueError(f"layers must be of {', '.join(known)}, got {', '.join(unknown)}")
    return _cases(network, x_q, known, set(known if layers is None else layers), layers is None)


def _cases(network: IntegerProgram, x_q: np.ndarray, known: dict[str, Layer], wanted: set[str], whole: bool
           ) -> Iterator[Case]:
    """The cases, one layer after another; sums of one layer at a time."""
    sums: dict[tuple[str, str], np.ndarray] = {}
    numbers = {layer.output: number for number, layer in enumerate(known.values(), 1)}
    layer_of = {layer.output: layer for layer in known.values()}

    def trace(layer: str, stage: str, values: np.ndarray) -> None:
        sums[layer, stage] = np.array(values)

    tensors: dict[str, np.ndarray] = {}
    for name, codes in integer_tensors(network, x_q, trace):
        tensors[name] = codes
        if name in numbers and layer_of[name].name in wanted:
            layer = layer_of[name]
            yield _layer_case(f"{numbers[name]:02d}-{file_name(layer.name)}"[:100], network, layer, tensors, sums)
        sums.clear()
    if whole:
        yield _whole(network, tensors, len(known) + 1)


def _whole(network: IntegerProgram, tensors: dict[str, np.ndarray], number: int) -> Case:
    """Input codes and output codes; what each layer wrote are its stages."""
    found = {"x": _tensor(network, network.input, tensors, "input")}
    stages = [layer.output for layer in network.layers if layer.output != network.output]
    for index, name in enumerate(stages, 1):
        found[f"expected_{index:02d}_{file_name(name)}"[:100]] = _tensor(network, name, tensors, "stage")
    found["expected"] = _tensor(network, network.output, tensors, "expected")
    return Case(f"{number:02d}-end-to-end", "network", {"dialect": dialect_of(network.dialect).words}, found,
                f"The input codes of {len(found['x'].values)} images, and the output codes; each layer's codes are "
                "its stages.", ("chain",), "network", small=True)


def _tensor(network: IntegerProgram, name: str, tensors: dict[str, np.ndarray], role: str) -> Tensor:
    values = tensors[name]
    layout = _LAYOUTS.get(values.ndim, "N" + "D" * (values.ndim - 1))
    return Tensor(values, network.qparams[name].format, role, layout)


def _geometry(geometry: Geometry) -> Parameters:
    return {"stride": list(geometry.stride), "padding": list(geometry.padding), "dilation": list(geometry.dilation),
            "groups": geometry.groups}


def _layer_case(id: str, network: IntegerProgram, layer: Layer, tensors: dict[str, np.ndarray],
                sums: dict[tuple[str, str], np.ndarray]) -> Case:
    read, written = [network.qparams[name] for name in layer.inputs], network.qparams[layer.output]
    xs = [(tensors[name], params.format) for name, params in zip(layer.inputs, read)]
    kind = type(layer).__name__.removeprefix("Quantized")
    why = f"Layer {layer.name}, {kind}, with the codes that the reference reads."
    if _has_no_plain_model(layer, tensors) or any(
            isinstance(params, PiecewiseParams) for params in (*read, written)) or (
            isinstance(layer, QuantizedConv) and (len(layer.terms) > 1 or layer.terms[0].lookup_table is not None)):
        return _traced_case(id, network, layer, tensors, sums, why)
    p: Parameters = {"dialect": dialect_of(network.dialect).words, "y_format": described(written.format),
                     "y_zero_point": written.zero_point}
    if isinstance(layer, ClippedLayer):
        p |= {"low": layer.low, "high": layer.high}
    if not isinstance(layer, (QuantizedAdd, QuantizedConcat)):
        p |= {"x_format": described(read[0].format), "x_zero_point": read[0].zero_point}
    stages: dict[str, IntFormat] = {}
    inputs: dict[str, Any] = {"x": xs[0]}
    layouts = {}
    if isinstance(layer, QuantizedConv):
        operation, term = "conv", layer.terms[0]
        p |= {"w_format": described(term.weight_format), **_geometry(layer.geometry)}
        inputs["w"] = term.weight_q, term.weight_format
        if term.bias_q is not None:
            inputs["bias"] = term.bias_q, layer.accumulator
        inputs |= {"m": (term.multiplier.m, M_FORMAT), "shift": (term.multiplier.shift, INT8)}
        layouts = dict.fromkeys(("bias", "m", "shift"), "O") if term.multiplier.m.ndim else {"bias": "O"}
        stages["expected_acc"] = layer.accumulator
    elif isinstance(layer, QuantizedAveragePool):
        operation = "average_pool"
        p |= {"kernel": list(layer.kernel), **_geometry(layer.geometry)}
        inputs |= {"m": (layer.multiplier.m, M_FORMAT), "shift": (layer.multiplier.shift, INT8)}
        layouts, stages["expected_acc"] = {"m": "PQ", "shift": "PQ"}, layer.accumulator
    elif isinstance(layer, QuantizedMaxPool):
        operation = "max_pool"
        p |= {"kernel": list(layer.kernel), **_geometry(layer.geometry)}
    elif isinstance(layer, (QuantizedAdd, QuantizedConcat)):
        operation = "add" if isinstance(layer, QuantizedAdd) else "concat"
        p["x_zero_points"] = [params.zero_point for params in read]
        inputs = {f"x{i}": x for i, x in enumerate(xs)}
        inputs |= {"m": (np.array([M.m for M in layer.multipliers]), M_FORMAT),
                   "shift": (np.array([M.shift for M in layer.multipliers]), INT8)}
        layouts = {"m": "K", "shift": "K"}
        stages = {name: INT32 for name in (*(f"expected_operand{i}" for i in range(len(xs))), "expected_sum")}
    else:
        assert isinstance(layer, QuantizedClip), layer
        operation = "clip"
    case = make(id, operation, p, inputs, why, "network", (), True, stages, layouts)
    assert np.array_equal(case.tensors["expected"].values, tensors[layer.output]), layer.name
    return case


def _has_no_plain_model(layer: Layer, tensors: dict[str, np.ndarray]) -> bool:
    """Layers that ``vectors.operations`` does not compute: the interpreter's codes are all there is."""
    if isinstance(layer, _WITHOUT_MODEL):
        return True
    if isinstance(layer, QuantizedConcat):
        return layer.axis != 0
    return isinstance(layer, QuantizedAdd) and len({tensors[name].shape for name in layer.inputs}) > 1


def _traced_case(id: str, network: IntegerProgram, layer: Layer, tensors: dict[str, np.ndarray],
                 sums: dict[tuple[str, str], np.ndarray], why: str) -> Case:
    """A layer without a plain model: the interpreter's stages, its parameters, and what each code stands for."""
    found: dict[str, Tensor] = {}
    p: Parameters = {"dialect": dialect_of(network.dialect).words}
    for index, name in enumerate(layer.inputs):
        found[f"x{index}"] = _tensor(network, name, tensors, "input")
        params = network.qparams[name]
        every = np.arange(params.format.min, params.format.max + 1)
        found[f"x{index}_levels"] = Tensor(params.integers(every), INT32, "input", "K")
    if isinstance(layer, QuantizedConv):
        p |= {"low": layer.low, "high": layer.high, **_geometry(layer.geometry)}
        for index, term in enumerate(layer.terms):
            found[f"w{index}"] = Tensor(term.weight_q, term.weight_format, "weight", "OIRS")
            if term.bias_q is not None:
                found[f"bias{index}"] = Tensor(term.bias_q, layer.accumulator, "bias", "O")
            if term.lookup_table is not None:
                found[f"table{index}"] = Tensor(term.lookup_table, INT32, "input", "K")
            found[f"m{index}"] = Tensor(term.multiplier.m, M_FORMAT, "multiplier", "O" * term.multiplier.m.ndim)
            found[f"shift{index}"] = Tensor(term.multiplier.shift, INT8, "shift", "O" * term.multiplier.m.ndim)
    else:
        p |= {"low": layer.low, "high": layer.high} if isinstance(layer, ClippedLayer) else {}
        if isinstance(layer, QuantizedMove):
            p["move"] = type(layer.move).__name__
            p |= {name: value for name, value in vars(layer.move).items() if name not in ("name", "inputs")}
        if isinstance(layer, QuantizedTable):
            found["table"] = Tensor(layer.table, network.qparams[layer.output].format, "input",
                                    "CK"[-layer.table.ndim:])
        multipliers = getattr(layer, "multipliers", (layer.multiplier,) if isinstance(layer, QuantizedMul) else ())
        for index, multiplier in enumerate(multipliers):
            found[f"m{index}"] = Tensor(multiplier.m, M_FORMAT, "multiplier", "")
            found[f"shift{index}"] = Tensor(multiplier.shift, INT8, "shift", "")
    for (name, stage), values in sums.items():
        if name == layer.name:
            low, high = int(values.min()), int(values.max())
            fmt = INT32 if INT32.min <= low and high <= INT32.max else INT64
            found[f"expected_{file_name(stage)}"] = Tensor(values, fmt, "stage", _LAYOUTS.get(values.ndim, "N"))
    found["expected"] = _tensor(network, layer.output, tensors, "expected")
    operation = type(layer).__name__.removeprefix("Quantized").lower() + (
        "" if isinstance(layer, _WITHOUT_MODEL) else "_terms")
    return Case(id, operation, p, found, why, (), "network", small=True)
