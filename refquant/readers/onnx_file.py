"""Reading float networks from ONNX files.

Files are untrusted: sizes are checked before allocation, and nothing outside the model's folder is read.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from refquant.network.graph import Network, Shape
from refquant.network.storage import MAX_ELEMENTS
from refquant.readers.onnx_constants import FOLDED, fold
from refquant.readers.onnx_operators import translate
from refquant.readers.onnx_tensors import read_tensor
from refquant.readers.onnx_translation import Operator, Translation

_FLOATS = (1, 10, 11)
_TENSOR = 4  # of AttributeProto.AttributeType
_OLDEST = 7  # the operator set that gave Add, Gemm and BatchNormalization their present meaning
OWN_DOMAIN = ("", "ai.onnx")
_MAX_BYTES = 2**31  # what protobuf can hold


def load_onnx(path: str | os.PathLike[str], *, outputs: Sequence[str] = (), input_shape: Sequence[int] = ()
              ) -> Network:
    """The float network of an ONNX file.

    The network takes images without their batch axis, whatever size it has in the file. Tensors keep the file's
    names; Identity, Dropout and Cast between floats vanish (their output is the tensor they read), a Pad goes into
    the Conv behind it, a constant addend into the bias of the layer before it, and functions of one tensor that
    are multiplied or added into one function. Constants that the graph computes are computed here. float16 weights
    become float32. BatchNorm nodes stay (``fold_batchnorm``), and so do a last Softmax, LogSoftmax, Sigmoid and
    ArgMax (``Network.without_softmax``). What the outputs do not need is not looked at.

    path: a file of operator set 7 or newer whose outputs need one input of floats with a batch axis in front.
    outputs: tensors at which the network ends; by default the file's. input_shape: without the batch axis, where
    the file leaves it open. FileNotFoundError without the file; ValueError, in one sentence, for a damaged or
    foreign file and for whatever is not supported, naming the node and the outputs that would leave it out;
    ModuleNotFoundError without the onnx package.

    >>> network = load_onnx("model.onnx")  # doctest: +SKIP
    """
    path = Path(path)
    model = open_model(path)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # the graph refuses infinity and NaN by name
            return _read_model(model, path.parent, tuple(outputs), tuple(input_shape))
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(str(error))}") from None


def open_model(path: Path) -> Any:
    """The file's ModelProto. FileNotFoundError without it, ValueError for another kind of file."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ModuleNotFoundError("reading ONNX files needs the onnx package: pip install 'refquant[onnx]'",
                                  name="onnx") from None
    if path.exists() and not (path.is_file() and path.stat().st_size < _MAX_BYTES):
        raise ValueError(f"{path} must be a file of less than {_MAX_BYTES} bytes")
    data = path.read_bytes()
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own, whose class depends on its version
        raise ValueError(f"{path} must be an ONNX model, got: {error}") from None


def one_line(text: str) -> str:
    """Names in a file can hold line breaks and worse; a sentence shows them as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _read_model(model: Any, folder: Path, outputs: tuple[str, ...], input_shape: Shape) -> Network:
    graph = model.graph
    if not graph.node:
        raise ValueError("it must be an ONNX model, got a graph without nodes")
    # Other domains matter to the nodes that use them, which are refused by name.
    versions = [entry.version for entry in model.opset_import if entry.domain in OWN_DOMAIN]
    if not versions or min(versions) < _OLDEST:
        listed = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
        raise ValueError(f"only ONNX's own operator set, {_OLDEST} or newer, is supported, got {listed or 'none'}")
    for what, lacking in (("functions", model.functions), ("sparse initializers", graph.sparse_initializer)):
        if lacking:
            raise ValueError(f"{what} are not supported, got {len(lacking)}")

    constants: dict[str, Callable[[], np.ndarray]] = {
        tensor.name: partial(read_tensor, tensor, folder) for tensor in graph.initializer}
    if len(constants) != len(graph.initializer):
        raise ValueError("tensor names must differ, got two initializers of one name")
    wanted, nodes = needed(graph, outputs)
    read = {name for node in nodes for name in node.input} | {name for name in wanted}
    source = _only("input", [entry for entry in graph.input if entry.name not in constants and (
        entry.name in read or len(graph.input) == 1)])
    readers = Counter([*wanted, *(name for node in nodes for name in node.input)])
    known, all_outputs = {source.name, *constants}, {name for node in graph.node for name in node.output}
    batch, shape = _input_shape(source, input_shape)
    translation = Translation(source.name, shape, constants, readers, batch, min(versions), wanted)
    for node in nodes:
        try:
            _check_names(node, known, all_outputs, readers)
            if not _fold(node, translation, folder):
                translate(_operator(node, folder), translation)
        except (ValueError, OverflowError, RecursionError) as error:
            name = node.name or "".join(map(str, node.output[:1]))
            said = error if not isinstance(error, RecursionError) else (
                "it must depend on fewer nodes in a row, got more than can be followed")
            raise ValueError(f"node {name!r} ({node.op_type}): {said}{_hint(node, translation)}") from None
        known.update(name for name in node.output if name)
    return translation.network()


def needed(graph: Any, outputs: tuple[str, ...]) -> tuple[tuple[str, ...], list[Any]]:
    """The outputs by name, and the nodes that they need, in the file's order."""
    makers: dict[str, Any] = {}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in makers:
                raise ValueError(f"tensor names must differ, got {name!r} twice")
            makers[name] = node
    wanted = tuple(dict.fromkeys(outputs or (entry.name for entry in graph.output)))
    unknown = [name for name in wanted if name not in makers]
    if unknown and outputs:
        raise ValueError(f"outputs must be tensors that a node computes, got {unknown[0]!r}; the last ones are "
                         f"{', '.join([*makers][-8:])}")
    if unknown or not wanted:
        raise ValueError(f"the output {unknown[0]!r} must be computed by a node, got none that does" if unknown else
                         "a network must have an output, got none")
    needed, waiting = set(), list(wanted)
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            waiting.extend(node.input)
    return wanted, [node for node in graph.node if id(node) in needed]


def _fold(node: Any, graph: Translation, folder: Path) -> bool:
    """Whether the node's outputs are constants; then they are known from here on, computed when they are read."""
    shapes = node.op_type in ("Shape", "Size")
    names = [name for name in node.input if name]
    if node.domain not in OWN_DOMAIN or node.op_type not in FOLDED or not names or not all(
            name in graph.constants or shapes for name in names):
        return False
    if shapes and names[0] not in graph.constants:
        dims = (graph.batch, *graph.shapes[graph.tensor(names[0])])
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        some = np.array(dims[slice(ends.get("start", 0), ends.get("end", None))], np.int64)
        graph.constants[node.output[0]] = lambda: some if node.op_type == "Shape" else some.prod()
        return True

    @cache
    def compute() -> list[np.ndarray]:
        return fold(node, [graph.constants[name]() if name else None for name in node.input], graph.version)

    for index, name in enumerate(node.output):
        graph.constants[name] = partial(lambda index: compute()[index], index)
    return True


def _hint(node: Any, graph: Translation) -> str:
    """Where the network can be cut so that this node is left out."""
    before = [name for name in node.input if name in graph.shapes and name != graph.input]
    return "; " + " and ".join(f"--output {name}" for name in before[:3]) + " ends the network before it" if (
        before and all(isinstance(name, str) for name in before)) else ""


def _only(kind: str, entries: Sequence[Any]) -> Any:
    if len(entries) != 1:
        names = ", ".join(repr(entry.name) for entry in entries[:8])
        raise ValueError(f"a network must have one {kind}, got {names or 'none'}")
    return entries[0]


def _input_shape(entry: Any, given: Shape) -> tuple[int, Shape]:
    """The batch, 1 where it is open, and the other axes of the model's input."""
    tensor = entry.type.tensor_type
    if tensor.elem_type not in _FLOATS:
        raise ValueError(f"input {entry.name!r} must hold floats, got ONNX element type {tensor.elem_type}")
    dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else 0 for d in tensor.shape.dim[:9]]
    written = ", ".join(str(d.dim_value if d.HasField("dim_value") else d.dim_param or "?")
                        for d in tensor.shape.dim[:9])
    if given and (len(dims) not in (0, len(given) + 1) or any(
            size and size != wanted for size, wanted in zip(dims[1:], given))):
        raise ValueError(f"input {entry.name!r} has shape ({written}), which the input shape must fit without the "
                         f"first axis, got {given}")
    batch, shape = (dims[0] if dims else 0) or 1, given or tuple(dims[1:])
    if not 1 <= len(shape) <= 6 or min(shape) < 1:
        raise ValueError(f"input {entry.name!r} must have a batch axis and one to six others that are fixed, got "
                         f"({written}); --input-shape gives those that are open, as in 3,224,224")
    if math.prod(shape) * batch > MAX_ELEMENTS:
        raise ValueError(f"input {entry.name!r} may have at most {MAX_ELEMENTS} elements, got shape {shape}")
    return batch, shape


def _check_names(node: Any, known: set[str], all_outputs: set[str], readers: Mapping[str, int]) -> None:
    """ValueError unless the node reads what is known, and makes one new tensor."""
    if not all(isinstance(text, str) for text in (node.op_type, node.domain, *node.input, *node.output)):
        raise ValueError("its names must be text")  # protobuf hands over bytes that are not UTF-8 as they are
    for name in node.input:
        if name and name not in known:
            maker = "by a later node: a cycle, or nodes out of order" if name in all_outputs else "by nothing"
            raise ValueError(f"it must read tensors made before it, got {name!r}, made {maker}")
    if not node.output or not node.output[0]:
        raise ValueError("it must have an output, got none")
    if node.output[0] in known:
        raise ValueError(f"tensor names must differ, got {node.output[0]!r} twice")
    more = [name for name in node.output[1:] if name and readers[name]]
    if more and node.op_type != "Split":
        raise ValueError(f"only its first output may be read, got a reader of {more[0]!r} too")


def _operator(node: Any, folder: Path) -> Operator:
    """The node in plain Python values; tensors among its attributes become functions that read them."""
    from onnx.helper import get_attribute_value

    attributes = {}
    for attribute in node.attribute:
        value = get_attribute_value(attribute)
        attributes[attribute.name] = partial(read_tensor, value, folder) if attribute.type == _TENSOR else value
    kind = node.op_type if node.domain in OWN_DOMAIN else f"{node.domain}.{node.op_type}"
    return Operator(kind, tuple(node.output), tuple(node.input), attributes)
