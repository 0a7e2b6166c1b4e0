"""``refquant vectors``: golden suites built, listed, made of one's own network, and a device's outputs checked."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from refquant.commands.arguments import between, dialect, directory
from refquant.commands.run import RUNTIMES, load_model, load_rows, resolved
from refquant.interrupts import as_exception


def add_vectors(commands: Any) -> None:
    """The parser of ``vectors`` and of its four commands."""
    vectors = commands.add_parser("vectors", help="golden test vectors for hardware, and a checker that says where a "
                                  "device differs and which known bug would explain it")
    of = vectors.add_subparsers(dest="vectors_command", required=True)
    build = of.add_parser("build", help="write suites of golden cases")
    build.add_argument("--out", type=directory, required=True, metavar="DIR", help="each suite gets a folder there")
    build.add_argument("--suite", action="append", nargs="+", metavar="NAME",
                       help="only these, of `refquant vectors list` (default: all)")
    build.add_argument("--dialect", type=dialect, default="single_round", metavar="NAME",
                       help="how sums are requantized, as `refquant dialects` explains (default: %(default)s)")
    build.add_argument("--small", action="store_true", help="fewer cases")
    build.set_defaults(run=_build)
    listing = of.add_parser("list", help="the suites, and what each is for")
    listing.set_defaults(run=_list)
    check = of.add_parser("check", help="compare a device's outputs with a suite",
                          description="Exit code 0: pass. 1: some outputs differ. 2: a file is malformed. 3: outputs "
                          "are missing.")
    check.add_argument("suite", type=Path, metavar="SUITE_DIR")
    check.add_argument("device", type=Path, metavar="DUT_DIR",
                       help="the device's outputs, CASE/expected.npy or CASE/expected.hex, and stages likewise")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_check)
    network = of.add_parser("network", help="golden cases of a network that `refquant quantize` wrote, or of a "
                            "quantized .tflite or .onnx model as a runtime computes it")
    network.add_argument("network", type=Path, metavar="NETWORK", help=".npz, .tflite or .onnx")
    network.add_argument("data", type=Path, metavar="DATA.npz",
                         help="inputs (N, C, H, W) float32; of a quantized model as it reads them")
    network.add_argument("--as", dest="runtime", choices=RUNTIMES, metavar="RUNTIME",
                         help=f"of a .tflite or .onnx model: {', '.join(RUNTIMES)}")
    network.add_argument("--images", type=between(1, 10**6), required=True, metavar="N", help="the first N inputs")
    network.add_argument("--out", type=directory, required=True, metavar="DIR", help="gets a folder named network")
    network.add_argument("--layers", nargs="+", metavar="NAME",
                         help="only these, of a quantized model the tensors that they write (default: all, and the "
                         "whole)")
    network.set_defaults(run=_network)


def _build(arguments: argparse.Namespace) -> None:
    from refquant.commands.report import check_directory
    from refquant.integers.devices import dialect_of
    from refquant.vectors.build import SUITES, build_suite, check_suite

    chosen = list(dict.fromkeys(name for names in arguments.suite or [list(SUITES)] for name in names))
    for name in chosen:
        check_suite(name, dialect_of(arguments.dialect))
    check_directory(arguments.out)
    suites = {name: build_suite(name, arguments.dialect, arguments.small) for name in chosen}
    for name, files in suites.items():
        _write(files.items(), arguments.out / name)


def _write(files: Iterable[tuple[str, bytes]], place: Path) -> None:
    from refquant.vectors.build import write_suite

    with as_exception():
        write_suite(files, place)
    _tell(place)


def _tell(place: Path) -> None:
    """One line of what was written."""
    described, table = (json.loads((place / f"{name}.json").read_bytes()) for name in ("manifest", "kills"))
    alive = sum(not killed for killed in table.values())
    left = f" ({alive} of them not killed)" if alive else ""
    size = sum(path.stat().st_size for path in place.rglob("*.*")) / 1e6
    print(f"{place}: {described['count']} cases, {described['dialect']['name']}, {len(table)} bugs{left}, "
          f"{size:.1f} MB, digest {described['digest'][:16]}", flush=True)


def _list(arguments: argparse.Namespace) -> None:
    from refquant.commands.report import table
    from refquant.vectors.build import SUITES

    print(table(("suite", "what it is for"), [(name, suite.about) for name, suite in SUITES.items()]))


def _check(arguments: argparse.Namespace) -> int:
    from refquant.vectors.check import CODES, check_answers, entry, text

    try:
        found = check_answers(arguments.suite, arguments.device)
    except ValueError as error:
        if arguments.json:
            print(json.dumps({"result": "malformed", "missing": [], "cases": [], "error": str(error)}, indent=1))
            return CODES["malformed"]
        raise
    print(json.dumps(entry(found), indent=1) if arguments.json else text(found))
    return found.code


def _network(arguments: argparse.Namespace) -> None:
    from refquant.commands.report import check_directory
    from refquant.integers.devices import dialect_of
    from refquant.network.storage import array_names, load_quantized, read_arrays
    from refquant.vectors.build import suite_files
    from refquant.vectors.network_cases import network_cases

    check_directory(arguments.out)
    if arguments.network.suffix in (".tflite", ".onnx"):
        _runtime_network(arguments)
        return
    if arguments.runtime is not None:
        raise ValueError(f"--as is for .tflite and .onnx models, got {arguments.network}")
    network = load_quantized(arguments.network)
    arrays = read_arrays(arguments.data, ("inputs",))
    if "inputs" not in arrays:
        raise ValueError(f"{arguments.data} must hold 'inputs', got "
                         f"{', '.join(array_names(arguments.data)) or 'nothing'}")
    if not arrays["inputs"].ndim:
        raise ValueError(f"{arguments.data}: inputs must be (N, {', '.join(map(str, network.input_shape))}), got ()")
    if len(arrays["inputs"]) < arguments.images:
        raise ValueError(f"{arguments.data} must hold {arguments.images} inputs, got {len(arrays['inputs'])}")
    x_q = network.quantize_images(arrays["inputs"][:arguments.images])
    files = suite_files("network", f"{arguments.network.stem} on {arguments.images} images.",
                        dialect_of(network.dialect), network_cases(network, x_q, arguments.layers))
    _write(files, arguments.out / "network")


def _runtime_network(arguments: argparse.Namespace) -> None:
    from refquant.integers.devices import dialect_of
    from refquant.vectors.build import suite_files
    from refquant.vectors.runtime_cases import DIALECTS, runtime_cases

    if arguments.runtime is None:
        raise ValueError(f"--as must say which runtime computes {arguments.network}, of {', '.join(RUNTIMES)}")
    kernel_set = resolved(arguments.runtime)
    model = load_model(arguments.network, (), (kernel_set,))
    inputs = load_rows(arguments.data, model).inputs
    if len(inputs) < arguments.images:
        raise ValueError(f"{arguments.data} must hold {arguments.images} inputs, got {len(inputs)}")
    files = suite_files("network", f"{arguments.network.name} as {kernel_set} on {arguments.images} inputs.",
                        dialect_of(DIALECTS.get(kernel_set, "float32_half_even")),
                        runtime_cases(model, inputs[:arguments.images], kernel_set, arguments.layers))
    _write(files, arguments.out / "network")
