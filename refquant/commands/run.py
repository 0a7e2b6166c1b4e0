"""``refquant run``: a quantized model as a runtime computes it."""

from __future__ import annotations

import argparse
import hashlib
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refquant import __version__
from refquant.commands.arguments import directory
from refquant.commands.layers import json_text
from refquant.commands.report import check_directory, table, write_files
from refquant.network.storage import array_names, read_arrays
from refquant.runtimes.kernels import (
    LITERT_LAYERS,
    LITERT_SETS,
    ONNX_LAYERS,
    ONNX_SETS,
    name_of_rule,
    onnxruntime_here,
    rule_of,
)
from refquant.runtimes.model import Operation, QuantizedModel
from refquant.runtimes.run import tensors_of

RUNTIMES = (*LITERT_SETS, "onnxruntime", *ONNX_SETS, "refquant")
SLICE_ELEMENTS = 1 << 24  # of one step's codes at a time


def add_run(commands: Any) -> None:
    """The command."""
    parser = commands.add_parser("run", help="run a quantized model to the last bit as a runtime does")
    add_files(parser)
    parser.add_argument("--as", dest="kernel_set", required=True, choices=RUNTIMES, metavar="RUNTIME",
                        help=f"{', '.join(RUNTIMES)}; onnxruntime is the one of its two that this machine's CPU has")
    parser.add_argument("--out", type=directory, required=True, metavar="DIR", help="where the outputs go")
    parser.add_argument("--dump", action="store_true", help="also every tensor, as DIR/tensors/INDEX.npy")
    parser.set_defaults(run=_run)


def add_files(parser: argparse.ArgumentParser) -> None:
    """A model, its data, and where it ends."""
    parser.add_argument("model", type=Path, metavar="MODEL", help=".tflite, or .onnx in QDQ or QOperator form")
    parser.add_argument("data", type=Path, metavar="DATA.npz",
                        help="inputs (N, ...) as the model reads them, in its dtype and layout; optional labels")
    parser.add_argument("--output", action="append", default=[], metavar="TENSOR",
                        help="a tensor at which the model ends; may be given again")


def _run(arguments: argparse.Namespace) -> None:
    check_directory(arguments.out)
    kernel_set = resolved(arguments.kernel_set)
    model = load_model(arguments.model, arguments.output, (kernel_set,))
    said, files = run(arguments.model, model, load_rows(arguments.data, model), kernel_set, arguments.dump)
    print(said)
    print("\nWrote " + ", ".join(str(path) for path in write_files(files, arguments.out)[:4])
          + (f" and {len(files) - 4} more" if len(files) > 4 else ""))


def resolved(name: str) -> str:
    """A kernel set by the name that ``--as`` takes."""
    return onnxruntime_here() if name == "onnxruntime" else name


def load_model(path: Path, outputs: Sequence[str], kernel_sets: Sequence[str]) -> QuantizedModel:
    """The model of a file, by its first bytes. ValueError where a kernel set is not one of its runtime's."""
    with open(path, "rb") as stream:
        litert = stream.read(8)[4:] == b"TFL3" or path.suffix == ".tflite"
    known = (*(LITERT_SETS if litert else ONNX_SETS), "refquant")
    strange = [name for name in kernel_sets if name not in known]
    if strange:
        raise ValueError(f"{path} is a model of {'LiteRT' if litert else 'ONNX'}, which runs as {', '.join(known)}, "
                         f"got {strange[0]}")
    if litert:
        from refquant.readers.tflite_file import load_tflite

        return load_tflite(path, outputs=outputs)
    from refquant.readers.onnx_quantized import load_quantized_onnx

    return load_quantized_onnx(path, outputs=outputs)


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
        raise ValueError(f"inputs must be {entry.dtype} (N, {', '.join(map(str, entry.shape[1:]))}), as the model "
                         f"reads them, got {inputs.dtype} {inputs.shape}")
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
    report.json has the names of ``refquant quantize``'s where it says the same: integer_top1, seconds, layers.
    """
    begun = time.perf_counter()
    digests: dict[int, Any] = {}
    kept: dict[int, list[np.ndarray]] = {}
    seen: dict[int, np.ndarray] = {}  # least and greatest code, and how many lie at either end of the dtype
    for some in slices_of(model, len(rows.inputs)):
        for index, codes in tensors_of(model, rows.inputs[some], kernel_set):
            digests.setdefault(index, hashlib.sha256()).update(np.ascontiguousarray(codes).tobytes())
            seen[index] = _ranges(codes, seen.get(index))
            if dump or index in model.outputs:
                kept.setdefault(index, []).append(codes)
    arrays = {index: np.concatenate(parts) for index, parts in kept.items()}
    logits = arrays[model.outputs[0]].reshape(len(rows.inputs), -1)
    scored = rows.labels is not None and max(arrays[model.outputs[0]].shape[1:], default=1) == logits.shape[1]
    top1 = 100.0 * float((logits.argmax(axis=1) == rows.labels).mean()) if scored else None  # of planes there is none
    tensors: list[dict[str, Any]] = [
        {"index": index, "name": model.tensors[index].name, "dtype": str(model.tensors[index].dtype),
         "shape": [len(rows.inputs), *model.tensors[index].shape[1:]], "sha256": found.hexdigest()}
        for index, found in digests.items()]
    layers = [_layer(model, op, kernel_set, seen[op.outputs[0]], len(rows.inputs)) for op in model.operations]
    report = {"refquant": __version__, "as": kernel_set, "inputs": len(rows.inputs), "integer_top1": top1,
              "seconds": round(time.perf_counter() - begun, 3), "layers": layers,
              "model": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
              "outputs": list(model.outputs), "tensors": tensors}
    files = {"report.json": json_text(report)}
    files |= {f"outputs/{index}.npy": _npy(arrays[index]) for index in model.outputs}
    if dump:
        files |= {f"tensors/{index}.npy": _npy(values) for index, values in arrays.items()}
    outputs = [(str(t["index"]), t["name"], t["dtype"], "x".join(map(str, t["shape"])), t["sha256"][:16])
               for t in tensors if t["index"] in model.outputs]
    said = f"top-1 {top1:.2f} %\n" if top1 is not None else ""
    return (f"{path.name} as {kernel_set}, {len(rows.inputs)} inputs\n{said}\n"
            f"{table(('output', 'name', 'dtype', 'shape', 'sha256'), outputs)}"), files


def _ranges(codes: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """Least and greatest value, and how many stand at either end of the dtype."""
    ends = np.iinfo(codes.dtype) if codes.dtype.kind in "iu" else np.finfo(codes.dtype)
    found = np.array([codes.min(), codes.max(), (codes == ends.min).sum(), (codes == ends.max).sum()], np.float64)
    if before is None:
        return found
    return np.array([min(found[0], before[0]), max(found[1], before[1]), *(found + before)[2:]])


def _layer(model: QuantizedModel, op: Operation, kernel_set: str, seen: np.ndarray, count: int) -> dict[str, Any]:
    """What an operation is and wrote: its rule, its output's scale (1/step), and the share of codes at each end."""
    written, read = model.tensors[op.outputs[0]], [model.tensors[index] for index in op.inputs if index >= 0]
    weights = read[1].values if len(read) > 1 and op.kind in (*LITERT_LAYERS, *ONNX_LAYERS) else None
    size = int(np.prod(written.shape))
    each = 0 if weights is None else weights[..., 0].size if op.kind == "DEPTHWISE_CONV_2D" else weights[0].size
    low, high = (100 * float(part) / (size * count) for part in seen[2:])
    whole = written.dtype.kind in "iu"
    return {"name": written.name, "kind": op.kind, "inputs": [t.name for t in read if t.values is None],
            "output": written.name, "shape": list(written.shape[1:]), "format": str(written.dtype),
            "scale": 1 / float(written.step[0]) if written.step.size else None,
            "zero_point": written.zero if written.step.size else None, "macs": size * each,
            "rule": name_of_rule(rule_of(kernel_set, op.kind, str(read[0].dtype))),
            "min": int(seen[0]) if whole else float(seen[0]), "max": int(seen[1]) if whole else float(seen[1]),
            "saturated_low": low if whole else 0.0, "saturated_high": high if whole else 0.0}


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
