"""``refquant compare``: where two runtimes differ on a quantized model, by which rule, and where differences grow."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refquant import __version__
from refquant.commands.arguments import directory
from refquant.commands.report import check_directory, table, write_files
from refquant.commands.run import RUNTIMES, add_files, load_model, load_rows, resolved, slices_of
from refquant.runtimes import onnx_layers
from refquant.runtimes.kernels import ONNX_LAYERS, name_of_rule, rule_of
from refquant.runtimes.model import Operation, QuantizedModel, Tensor
from refquant.runtimes.operators import sums_of, windows
from refquant.runtimes.run import held, operands, tensors_of


def add_compare(commands: Any) -> None:
    """The command."""
    parser = commands.add_parser("compare", help="where two runtimes differ on a quantized model, and why")
    add_files(parser)
    parser.add_argument("--as", dest="kernel_sets", action="append", required=True, choices=RUNTIMES,
                        metavar="RUNTIME", help=f"given twice: {', '.join(RUNTIMES)}")
    parser.add_argument("--out", type=directory, metavar="DIR",
                        help="where report.json and differences.png go, if they are wanted")
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    if len(arguments.kernel_sets) != 2:
        raise ValueError(f"--as must be given twice, got {len(arguments.kernel_sets)}")
    one, other = map(resolved, arguments.kernel_sets)
    model = load_model(arguments.model, arguments.output, (one, other))
    inputs = load_rows(arguments.data, model).inputs
    if arguments.out is not None:
        check_directory(arguments.out)
    found = differences(model, inputs, one, other)
    print(comparison(arguments.model, model, found, one, other, len(inputs)))
    if arguments.out is not None:
        files = {"report.json": _report(arguments.model, model, found, one, other, len(inputs)),
                 "differences.png": _png({f"{one} and {other}": found})}
        print("\nWrote " + ", ".join(str(path) for path in write_files(files, arguments.out)))


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
        codes = operands(model, op, first, len(inputs))
        mine, theirs = held(first[written.index]), held(second[written.index])
        with np.errstate(over="ignore", invalid="ignore"):  # as runtimes do
            alone = rule_of(other, op.kind, str(described[0].dtype))(op, described, written, codes)
        where = np.argwhere(_different(mine, alone))
        said = ""
        if len(where):
            place = tuple(int(k) for k in where[0])
            said = f"[{', '.join(map(str, (place[0] + start, *place[1:])))}] {mine[place]} and {alone[place]}"
            said += _operands(op, described, written, codes, place)
        yield int(_different(mine, theirs).sum()), len(where), mine.size, said


def _different(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where values differ; NaN equals NaN."""
    return (a != b) & ~((a != a) & (b != b))


def _operands(op: Operation, inputs: Sequence[Tensor], y: Tensor, codes: Sequence[np.ndarray],
              place: tuple[int, ...]) -> str:
    """What one code was computed from: sums and multiplier of a layer, or the codes at its place."""
    if op.kind in ONNX_LAYERS:
        channel = place[1] if op.kind in ("QLinearConv", "ConvInteger") else place[-1]
        pairs, exact = (int(onnx_layers.shaped_sums(op, inputs, y, codes[0], pairs=pairs)[place])
                        for pairs in (True, False))
        each = onnx_layers.multiplier(op, inputs, y).ravel()
        M = float(each[channel if each.size > 1 else 0])
        return f"; sum {pairs} with saturated pairs, {exact} without, times {M:.6g}, zero point {y.zero}"
    sums = sums_of(op, inputs, y, codes)
    if sums is not None:
        acc, M = int(sums[0][place]), float(sums[1][place[-1]])
        return f"; sum {acc} times {M:.6g} is {acc * M:.6f}, zero point {y.zero}"
    if op.kind == "AVERAGE_POOL_2D":
        seen, valid = windows(op, codes[0], 0)
        count = int(valid[place[1:3]].sum())
        return f"; {count} codes whose sum is {int(seen[place].sum())}, zero point {y.zero}"
    equal = [x for x in codes if x.shape[1:] == y.shape[1:]]
    if equal:
        return "; operands " + ", ".join(str(x[place]) for x in equal)
    return f"; computed from {codes[0][place[0]].size} codes whose sum is {codes[0][place[0]].sum()}"


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


def _report(path: Path, model: QuantizedModel, found: Sequence[Difference], one: str, other: str, count: int
            ) -> bytes:
    """report.json: per operation what the table says."""
    entries = [{"kind": d.operation.kind, "tensor": model.tensors[d.operation.outputs[0]].name,
                "rules": list(d.rules), "size": d.size, "different": d.chain, "different_on_equal_inputs": d.alone,
                "first": d.first} for d in found]
    return (json.dumps({"refquant": __version__, "model": path.name, "as": [one, other], "inputs": count,
                        "operations": entries}, indent=1) + "\n").encode()


def draw_differences(series: Mapping[str, Sequence[Difference]]) -> Any:
    """A figure of the share of codes that differ, operation after operation, one line for each pair of runtimes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for (label, found), style in zip(series.items(), ("-o", "--s", ":^", "-.v", "-x", "--+")):
        axes.plot(range(len(found)), [100 * d.chain / d.size for d in found], style, label=label, markersize=4)
    axes.set_xlabel("operation of the model")
    axes.set_ylabel("codes that differ (%)")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper left", fontsize=8)
    return figure


def _png(series: Mapping[str, Sequence[Difference]]) -> bytes:
    buffer = io.BytesIO()
    draw_differences(series).savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
