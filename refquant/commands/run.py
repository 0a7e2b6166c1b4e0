"""``refquant run`` and ``refquant compare``: a quantized model as runtimes compute it, and where two differ."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refquant import __version__
from refquant.commands.arguments import directory
from refquant.commands.report import check_directory, table, write_files
from refquant.network.storage import array_names, read_arrays
from refquant.runtimes.kernels import KERNEL_SETS, name_of_rule, rule_of
from refquant.runtimes.model import Operation, QuantizedModel
from refquant.runtimes.operators import sums_of
from refquant.runtimes.run import tensors_of

SLICE_ELEMENTS = 1 << 24  # of one step's codes at a time


def add_run(commands: Any) -> None:
    """Both commands."""
    parser = commands.add_parser("run", help="run a quantized .tflite model to the last bit as a runtime does")
    _add_files(parser)
    parser.add_argument("--as", dest="kernel_set", required=True, choices=KERNEL_SETS, metavar="RUNTIME",
                        help=", ".join(KERNEL_SETS))
    parser.add_argument("--out", type=directory, required=True, metavar="DIR", help="where the outputs go")
    parser.add_argument("--dump", action="store_true", help="also every tensor, as DIR/tensors/INDEX.npy")
    parser.set_defaults(run=_run)
    parser = commands.add_parser("compare", help="where two runtimes differ on a quantized .tflite model, and why")
    _add_files(parser)
    parser.add_argument("--as", dest="kernel_sets", action="append", required=True, choices=KERNEL_SETS,
                        metavar="RUNTIME", help=f"given twice: {', '.join(KERNEL_SETS)}")
    parser.set_defaults(run=_compare)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.tflite")
    parser.add_argument("data", type=Path, metavar="DATA.npz",
                        help="inputs (N, ...) as the model reads them, in its dtype and layout; optional labels")


def _run(arguments: argparse.Namespace) -> None:
    from refquant.readers.tflite_file import load_tflite

    check_directory(arguments.out)
    model = load_tflite(arguments.model)
    said, files = run(arguments.model, model, load_rows(arguments.data, model), arguments.kernel_set, arguments.dump)
    print(said)
    print("\nWrote " + ", ".join(str(path) for path in write_files(files, arguments.out)[:4])
          + (f" and {len(files) - 4} more" if len(files) > 4 else ""))


def _compare(arguments: argparse.Namespace) -> None:
    from refquant.readers.tflite_file import load_tflite

    if len(arguments.kernel_sets) != 2:
        raise ValueError(f"--as must be given twice, got {len(arguments.kernel_sets)}")
    one, other = arguments.kernel_sets
    model = load_tflite(arguments.model)
    inputs = load_rows(arguments.data, model).inputs
    print(comparison(arguments.model, model, differences(model, inputs, one, other), one, other, len(inputs)))


class Rows(NamedTuple):
    """Inputs as the model reads them, and their labels or None."""

    inputs: np.ndarray
    labels: np.ndarray | None


def load_rows(path: Path, model: QuantizedModel) -> Rows:
    """``inputs`` and, where they are there, ``labels`` of an .npz file; ValueError unless the model can read them."""
    arrays, entry = read_arrays(path, ("inputs", "labels")), model.tensors[model.inputs[0]]
    if "inputs" not in arrays:
        raise ValueError(f"{path} must hold 'inputs', and may hold 'labels', got "
                         f"{', '.join(sorted(array_names(path))) or 'nothing'}")
    inputs, labels = arrays["inputs"], arrays.get("labels")
    if inputs.dtype != entry.dtype or inputs.shape[1:] != entry.shape[1:] or not len(inputs):
        raise ValueError(f"inputs must be {entry.dtype} (N, {', '.join(map(str, entry.shape[1:]))}), the codes that "
                         f"the model reads, got {inputs.dtype} {inputs.shape}")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != inputs.shape[:1]):
        raise ValueError(f"labels must hold {len(inputs)} integers, got {labels.dtype} {labels.shape}")
    return Rows(inputs, labels)


def slices_of(model: QuantizedModel, count: int) -> list[slice]:
    """Which inputs go through the model together."""
    largest = max(int(np.prod(tensor.shape)) for tensor in model.tensors if tensor.values is None)
    size = max(1, SLICE_ELEMENTS // (16 * largest))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def run(path: Path, model: QuantizedModel, rows: Rows, kernel_set: str, dump: bool
        ) -> tuple[str, dict[str, bytes]]:
    """The table that is printed, and the files: report.json, the outputs, and with ``dump`` every computed tensor.

    Arrays are ``tensors/INDEX.npy`` and ``outputs/INDEX.npy``, inputs stacked on axis 0, in the runtime's layout.
    """
    digests: dict[int, Any] = {}
    kept: dict[int, list[np.ndarray]] = {}
    for some in slices_of(model, len(rows.inputs)):
        for index, codes in tensors_of(model, rows.inputs[some], kernel_set):
            digests.setdefault(index, hashlib.sha256()).update(np.ascontiguousarray(codes).tobytes())
            if dump or index in model.outputs:
                kept.setdefault(index, []).append(codes)
    arrays = {index: np.concatenate(parts) for index, parts in kept.items()}
    logits = arrays[model.outputs[0]].reshape(len(rows.inputs), -1)
    top1 = None if rows.labels is None else 100.0 * float((logits.argmax(axis=1) == rows.labels).mean())
    tensors: list[dict[str, Any]] = [
        {"index": index, "name": model.tensors[index].name, "dtype": str(model.tensors[index].dtype),
         "shape": [len(rows.inputs), *model.tensors[index].shape[1:]], "sha256": found.hexdigest()}
        for index, found in digests.items()]
    report = {"refquant": __version__, "as": kernel_set, "inputs": len(rows.inputs), "top1": top1,
              "model": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
              "outputs": list(model.outputs), "tensors": tensors}
    files = {"report.json": (json.dumps(report, indent=1) + "\n").encode()}
    files |= {f"outputs/{index}.npy": _npy(arrays[index]) for index in model.outputs}
    if dump:
        files |= {f"tensors/{index}.npy": _npy(values) for index, values in arrays.items()}
    outputs = [(str(t["index"]), t["name"], t["dtype"], "x".join(map(str, t["shape"])), t["sha256"][:16])
               for t in tensors if t["index"] in model.outputs]
    said = f"top-1 {top1:.2f} %\n" if top1 is not None else ""
    return (f"{path.name} as {kernel_set}, {len(rows.inputs)} inputs\n{said}\n"
            f"{table(('output', 'name', 'dtype', 'shape', 'sha256'), outputs)}"), files


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


class Difference(NamedTuple):
    """One operation under two kernel sets.

    chain: codes that differ when each set goes its own way. alone: when both read the first set's codes. first: of
    the latter the first that differs, in words; "" where none does.
    """

    operation: Operation
    rules: tuple[str, str]
    chain: int
    alone: int
    size: int
    first: str


def differences(model: QuantizedModel, inputs: np.ndarray, one: str, other: str) -> list[Difference]:
    """Operation after operation, where two kernel sets differ."""
    totals: dict[int, list[Any]] = {}
    for some in slices_of(model, len(inputs)):
        parts = _differences(model, inputs[some], one, other, some.start)
        for number, (chain, alone, size, first) in enumerate(parts):
            seen = totals.setdefault(number, [0, 0, 0, ""])
            totals[number] = [seen[0] + chain, seen[1] + alone, seen[2] + size, seen[3] or first]
    rules = [tuple(name_of_rule(rule_of(name, op.kind, str(model.tensors[op.inputs[0]].dtype)))
                   for name in (one, other)) for op in model.operations]
    return [Difference(op, (names[0], names[1]), *totals[number])
            for number, (op, names) in enumerate(zip(model.operations, rules))]


def _differences(model: QuantizedModel, inputs: np.ndarray, one: str, other: str, start: int
                 ) -> Iterator[tuple[int, int, int, str]]:
    first, second = (dict(tensors_of(model, inputs, name)) for name in (one, other))
    for op in model.operations:
        described = [model.tensors[index] for index in op.inputs if index >= 0]
        written = model.tensors[op.outputs[0]]
        codes = [first[t.index].astype(np.int64) for t in described if t.index in first]
        mine, theirs = first[written.index].astype(np.int64), second[written.index].astype(np.int64)
        alone = rule_of(other, op.kind, str(described[0].dtype))(op, described, written, codes)
        where = np.argwhere(alone != mine)
        said = ""
        if len(where):
            place = tuple(int(k) for k in where[0])
            said = f"[{', '.join(map(str, (place[0] + start, *place[1:])))}] {mine[place]} and {alone[place]}"
            sums = sums_of(op, described, written, codes)
            if sums is not None:
                acc, M = int(sums[0][place]), float(sums[1][place[-1]])
                said += f"; sum {acc} times {M:.6g} is {acc * M:.6f}, zero point {written.zero}"
            else:
                said += "; operands " + ", ".join(str(int(x[place])) for x in codes if x.shape == mine.shape)
        yield int((mine != theirs).sum()), len(where), mine.size, said


def comparison(path: Path, model: QuantizedModel, found: list[Difference], one: str, other: str, count: int) -> str:
    """The table of ``refquant compare``, and each operation whose rules differ with its first difference."""
    rows = [(str(number), one_.operation.kind, model.tensors[one_.operation.outputs[0]].name[-40:],
             f"{one_.chain} of {one_.size}", f"{100 * one_.chain / one_.size:.2f}", str(one_.alone))
            for number, one_ in enumerate(found)]
    told = [f"{number} {d.operation.kind}: {d.rules[0]} against {d.rules[1]}\n  first: {d.first}"
            for number, d in enumerate(found) if d.alone]
    total, size = sum(d.chain for d in found), sum(d.size for d in found)
    return (f"{path.name}, {count} inputs: {one} against {other}; {total} of {size} codes differ, "
            f"{100 * total / size:.2f} %\n\n"
            f"{table(('operation', 'kind', 'tensor', 'codes that differ', '%', 'on equal inputs'), rows)}\n\n"
            + ("\n".join(told) or "On equal inputs no rule makes a difference."))
