"""The fusions that onnxruntime applies when it loads a QDQ model.

DequantizeLinear before an operator and QuantizeLinear behind it are merged into one operator on codes, as its default
optimizations on x86-64 do it. Before that, int8 tensors that one operator reads become uint8 ones of 128 more: its
Conv and MatMul are merged for unsigned codes alone. What is not merged stays in floats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from refquant.runtimes.arithmetic import as_int32

Q, DQ = "QuantizeLinear", "DequantizeLinear"
_MOVES = ("Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze", "MaxPool")
_PASSED = ("MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")  # that codes are moved through
_UNARY = ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax")


@dataclass(frozen=True)
class QuantizedNode:
    """A node: its operator, with the domain in front where it has one; "" stands for an input left out."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str
    attributes: dict[str, Any] = field(default_factory=dict)


def fused(nodes: Sequence[QuantizedNode], constants: dict[str, np.ndarray], outputs: Sequence[str]
          ) -> list[QuantizedNode]:
    """The nodes after the optimizations, in the vocabulary of QOperator files; ``constants`` gains zero points."""
    nodes = _with_integer_biases(_without_quantized_weights(list(nodes), constants), constants)
    nodes = _without_redundant_limits(nodes, constants, outputs)
    nodes = _passed_on(nodes, constants, outputs)
    nodes = _unsigned(_own_dequantizer(nodes, outputs), constants, outputs)
    return _merged(nodes, constants, outputs)


def _readers(nodes: Sequence[QuantizedNode], outputs: Sequence[str]) -> Mapping[str, list[QuantizedNode | None]]:
    """Who reads each tensor, once for each place; None for the model's output."""
    found: defaultdict[str, list[QuantizedNode | None]] = defaultdict(list)
    for node in nodes:
        for name in filter(None, node.inputs):
            found[name].append(node)
    for name in outputs:
        found[name].append(None)
    return found


def _only(readers: Mapping[str, list[QuantizedNode | None]], tensor: str, kind: str) -> QuantizedNode | None:
    """The node that alone reads a tensor, if it is of this kind."""
    found = readers.get(tensor, [])
    return found[0] if len(found) == 1 and found[0] is not None and found[0].kind == kind else None


def _zero_point(node: QuantizedNode, constants: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Of a QuantizeLinear or DequantizeLinear, where it is a constant of one number; uint8 0 where it is left out."""
    if len(node.inputs) < 3 or not node.inputs[2]:
        return np.zeros((), np.uint8)
    value = constants.get(node.inputs[2])
    return value if value is not None and value.size == 1 else None


def _without_quantized_weights(nodes: list[QuantizedNode], constants: dict[str, np.ndarray]) -> list[QuantizedNode]:
    """Replace QuantizeLinear of a constant by its codes: rint(w/step) + zero, within the dtype."""
    left = []
    for node in nodes:
        w, step = (constants.get(name) for name in (*node.inputs, "", "")[:2])
        zero = constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros((), np.uint8)
        axis = node.attributes.get("axis", 1)
        fits = zero is not None and step is not None and w is not None and zero.dtype in (np.int8, np.uint8) and (
            step.size == zero.size == 1 or (-w.ndim <= axis < w.ndim and w.shape[axis] == step.size == zero.size))
        if node.kind != Q or w is None or step is None or zero is None or w.dtype != np.float32 or not fits:
            left.append(node)
            continue
        shape = [1] * w.ndim
        if step.size > 1:
            shape[axis] = -1
        step, zeros, ends = step.reshape(shape), zero.astype(np.int64).reshape(shape), np.iinfo(zero.dtype)
        with np.errstate(all="ignore"):
            scaled = np.clip(np.nan_to_num(w / step, nan=-np.inf), ends.min - zeros, ends.max - zeros)
        constants[node.outputs[0]] = (np.rint(scaled) + zeros).astype(zero.dtype)
    return left


def _with_integer_biases(nodes: list[QuantizedNode], constants: dict[str, np.ndarray]) -> list[QuantizedNode]:
    """A constant float bias of a layer between codes becomes int32: rint(b / f32(sx·sw)), dequantized again."""
    made, result = {node.outputs[0]: node for node in nodes}, []
    for node in nodes:
        dqs = [made.get(name) for name in node.inputs[:2]]
        bias = constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
        steps = [None if dq is None or dq.kind != DQ else constants.get(dq.inputs[1]) for dq in dqs]
        if node.kind not in ("Conv", "Gemm") or bias is None or bias.dtype != np.float32 or bias.ndim != 1 or (
                steps[0] is None or steps[1] is None or steps[0].size != 1 or steps[1].size not in (1, bias.size)):
            result.append(node)
            continue
        with np.errstate(all="ignore"):
            step = (steps[0].ravel() * steps[1].ravel()).astype(np.float32)
            held = as_int32(np.rint(bias / step)).astype(np.int32)
        name = f"{node.outputs[0]}:bias"
        constants[f"{name} codes"], constants[f"{name} step"] = held, step
        result += [QuantizedNode(DQ, (f"{name} codes", f"{name} step"), (name,), name, {"axis": 0}),
                   replace(node, inputs=(*node.inputs[:2], name))]
    return result


def _without_redundant_limits(nodes: list[QuantizedNode], constants: Mapping[str, np.ndarray],
                              outputs: Sequence[str]) -> list[QuantizedNode]:
    """Without each Relu and Clip that limits no more than the QuantizeLinear behind it."""
    readers, gone = _readers(nodes, outputs), {}
    for node in nodes:
        q = _only(readers, node.outputs[0], Q) if node.kind in ("Relu", "Clip") else None
        zero = _zero_point(q, constants) if q is not None else None
        if q is None or zero is None or constants.get(q.inputs[1]) is None:
            continue
        step, z, ends = float(constants[q.inputs[1]].ravel()[0]), int(zero.ravel()[0]), np.iinfo(zero.dtype)
        low, high = 0.0, np.inf
        if node.kind == "Clip":
            limits = [constants.get(name) for name in (*node.inputs[1:], "", "")[:2]]
            named = [name for name in node.inputs[1:] if name]
            if len(named) != sum(value is not None for value in limits):
                continue
            low = float(limits[0]) if limits[0] is not None else float(node.attributes.get("min", -np.inf))
            high = float(limits[1]) if limits[1] is not None else float(node.attributes.get("max", np.inf))
        spare = float(np.finfo(np.float32).eps)
        if low - step * (ends.min - z) <= spare and step * (ends.max - z) - high <= spare:
            gone[node.outputs[0]] = node.inputs[0]
    kept = [node for node in nodes if node.outputs[0] not in gone]
    return [replace(node, inputs=tuple(gone.get(name, name) for name in node.inputs)) for node in kept]


def _passed_on(nodes: list[QuantizedNode], constants: Mapping[str, np.ndarray], outputs: Sequence[str]
               ) -> list[QuantizedNode]:
    """A move that reads dequantized codes and whose result is not quantized, or the other way round, gets both."""
    made = {node.outputs[0]: node for node in nodes}
    result: list[QuantizedNode] = []
    readers = _readers(nodes, outputs)
    for node in nodes:
        before, behind = made.get(node.inputs[0]) if node.inputs else None, _only(readers, node.outputs[0], Q)
        is_read = before is not None and before.kind == DQ
        if node.kind not in _PASSED or is_read == (behind is not None) or not (is_read or behind):
            result.append(node)
            continue
        if is_read:
            assert before is not None
            name, params = node.outputs[0], before.inputs[1:]
            result += [replace(node, outputs=(f"{name}:real", *node.outputs[1:])),
                       QuantizedNode(Q, (f"{name}:real", *params), (f"{name}:codes",), f"{node.name}:codes"),
                       QuantizedNode(DQ, (f"{name}:codes", *params), (name,), f"{node.name}:again")]
            made[name] = result[-1]
        else:
            assert behind is not None
            name, params = node.inputs[0], behind.inputs[1:]
            codes, again = f"{node.outputs[0]}:codes before", f"{node.outputs[0]}:before"
            result += [QuantizedNode(Q, (name, *params), (codes,), f"{node.name}:codes"),
                       QuantizedNode(DQ, (codes, *params), (again,), f"{node.name}:before"),
                       replace(node, inputs=(again, *node.inputs[1:]))]
    return result


def _own_dequantizer(nodes: list[QuantizedNode], outputs: Sequence[str]) -> list[QuantizedNode]:
    """One DequantizeLinear for each place that reads what it makes."""
    readers, result, number = _readers(nodes, outputs), [], 0
    again: dict[tuple[int, int], str] = {}  # a reader by its identity, and the place
    for node in nodes:
        if node.kind != DQ:
            result.append(replace(node, inputs=tuple(
                again.get((id(node), place), name) for place, name in enumerate(node.inputs))))
            continue
        result.append(node)
        places = [(reader, place) for reader in {id(r): r for r in readers[node.outputs[0]] if r is not None}.values()
                  for place, name in enumerate(reader.inputs) if name == node.outputs[0]]
        for reader, place in places[0 if node.outputs[0] in outputs else 1:]:
            number += 1
            again[id(reader), place] = f"{node.outputs[0]}:{number}"
            result.append(replace(node, outputs=(again[id(reader), place],)))
    return result


def _unsigned(nodes: list[QuantizedNode], constants: dict[str, np.ndarray], outputs: Sequence[str]
              ) -> list[QuantizedNode]:
    """Pairs of QuantizeLinear and its only reader, a DequantizeLinear, turn from int8 to uint8."""
    readers, turned = _readers(nodes, outputs), {}
    for node in nodes:
        dq = _only(readers, node.outputs[0], DQ) if node.kind == Q else None
        if dq is None or len(node.inputs) < 3 or len(dq.inputs) < 3:
            continue
        zeros = [_zero_point(one, constants) for one in (node, dq)]
        if zeros[0] is None or zeros[1] is None or any(z.dtype != np.int8 for z in zeros if z is not None) or (
                zeros[0].ravel()[0] != zeros[1].ravel()[0]):
            continue
        name = f"{node.outputs[0]}:unsigned zero point"
        constants[name] = (zeros[0].astype(np.int64) + 128).astype(np.uint8)
        turned[node.outputs[0]] = turned[dq.outputs[0]] = name
    return [replace(node, inputs=(*node.inputs[:2], turned[node.outputs[0]])) if node.outputs[0] in turned else node
            for node in nodes]


def _merged(nodes: list[QuantizedNode], constants: Mapping[str, np.ndarray], outputs: Sequence[str]
            ) -> list[QuantizedNode]:
    """Each operator between codes as one on codes, where the runtime has such a one."""
    readers = _readers(nodes, outputs)
    made = {node.outputs[0]: node for node in nodes}
    instead: dict[str, QuantizedNode | None] = {}  # by the name of a node's first output; None for one merged away
    for node in nodes:
        read = [made.get(name) for name in node.inputs if name]
        dqs = [one for one in read if one is not None and one.kind == DQ]
        q = _only(readers, node.outputs[0], Q)
        merged = _one(node, dqs, q, constants)
        if merged is None:
            continue
        instead[node.outputs[0]] = None
        for dq in dqs:
            instead[dq.outputs[0]] = None
        instead[(q or node).outputs[0]] = merged
    result = []
    for node in nodes:
        one = instead.get(node.outputs[0], node)
        if one is not None:
            result.append(one)
    return result


def _one(node: QuantizedNode, dqs: list[QuantizedNode], q: QuantizedNode | None, constants: Mapping[str, np.ndarray]
         ) -> QuantizedNode | None:
    """The operator on codes for one in floats, its DequantizeLinears and QuantizeLinear; None where there is none."""
    params = [(*one.inputs[:2], one.inputs[2] if len(one.inputs) > 2 else "") for one in dqs]
    dtypes = [_dtype(one, constants) for one in dqs]
    end = () if q is None else (*q.inputs[1:2], q.inputs[2] if len(q.inputs) > 2 else "")
    written, actual = None if q is None else _dtype(q, constants), sum(bool(name) for name in node.inputs)

    def made(kind: str, inputs: Sequence[str], **more: Any) -> QuantizedNode:
        target = q or node
        return QuantizedNode(kind, tuple(inputs), target.outputs[:1], node.name, {**node.attributes, **more})

    if node.kind in _MOVES and q is not None and len(dqs) == 1 and dtypes[0] == written and (
            _same(params[0][1:], end, constants)):
        return made(node.kind, (params[0][0], *node.inputs[1:]))
    if node.kind in _UNARY and q is not None and len(dqs) == 1 and dtypes[0] == written:
        return made(f"com.microsoft.QLinear{node.kind}", (*params[0], *end))
    if node.kind in ("Add", "Mul") and q is not None and len(dqs) == 2 and {*dtypes} == {written}:
        return made(f"com.microsoft.QLinear{node.kind}", (*params[0], *params[1], *end))
    if node.kind == "Concat" and q is not None and len(dqs) == actual and {*dtypes} == {written}:
        return made("com.microsoft.QLinearConcat", (*end, *(name for one in params for name in one)))
    if node.kind not in ("Conv", "Gemm", "MatMul") or len(dqs) != actual or actual < 2:
        return None
    if actual > 2 and dtypes[2] != np.int32:
        return None
    bias = (params[2][0],) if actual > 2 else ()
    if dtypes[0] == np.int8 and (node.kind != "Gemm" or dtypes[1] != np.int8):
        return None
    if node.kind == "Conv" and q is not None and dtypes[0] == written:
        return made("QLinearConv", (*params[0], *params[1], *end, *bias))
    if node.kind == "MatMul" and (q is None or dtypes[0] == written):
        a, b = params[:2]
        return made("QLinearMatMul", (*a, *b, *end)) if q is not None else made(
            "com.microsoft.MatMulIntegerToFloat", (a[0], b[0], a[1], b[1], a[2], b[2]))
    if node.kind == "Gemm" and node.attributes.get("beta", 1.0) == 1.0 and (q is None or dtypes[0] == written):
        return made("com.microsoft.QGemm", (*params[0], *params[1], *(bias or ("",)), *end))
    return None


def _dtype(node: QuantizedNode, constants: Mapping[str, np.ndarray]) -> Any:
    """Of the codes that a QuantizeLinear writes or a DequantizeLinear reads."""
    if len(node.inputs) > 2 and node.inputs[2]:
        value = constants.get(node.inputs[2])
        return None if value is None else value.dtype
    value = constants.get(node.inputs[0])
    return np.dtype(np.uint8) if value is None else value.dtype


def _same(one: Sequence[str], other: Sequence[str], constants: Mapping[str, np.ndarray]) -> bool:
    """Whether two pairs of step and zero point are equal."""
    return all(a == b or (a in constants and b in constants and constants[a].size == constants[b].size == 1
                          and constants[a].ravel()[0] == constants[b].ravel()[0]) for a, b in zip(one, other))
