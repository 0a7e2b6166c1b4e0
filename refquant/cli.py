"""The command line: ``refquant demo``, ``refquant quantize``, ``bounds``, ``dialects``, ``identify``,
``vectors``, ``exercise``, ``run``, ``compare``."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from refquant.commands.arguments import between, dialect, directory, kernel, number_or_all, shape, tile
from refquant.interrupts import INTERRUPTED, as_exception, install

if TYPE_CHECKING:
    from refquant.workers import Progress

class _Parser(argparse.ArgumentParser):
    """argparse, with a one-sentence error instead of the usage text, and options spelled out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _wide(prog: str) -> argparse.HelpFormatter:
    """Help on one screen."""
    return argparse.HelpFormatter(prog, max_help_position=32, width=118)


def _quantize(arguments: argparse.Namespace) -> None:
    from refquant.commands import report
    from refquant.commands.layers import input_warnings
    from refquant.commands.quantize import build_own, data_files, evaluate_own, figure_files, load_data, origin
    from refquant.readers.onnx_file import load_onnx
    from refquant.workers import worker_processes

    def figures() -> Iterator[tuple[str, bytes]]:
        with _bar() as progress:
            yield from figure_files(result, built, network, data, executor, progress)

    with worker_processes(arguments.workers) as executor:
        with _bar() as progress:
            report.check_directory(arguments.out)
            recipes = list(dict.fromkeys(arguments.recipe))
            network = load_onnx(arguments.model, outputs=arguments.output, input_shape=arguments.input_shape)
            data = load_data(arguments.data, network.input_shape, arguments.calibration_images, arguments.images,
                             arguments.check_images)
            options = {name: getattr(arguments, name) for name in (
                "weight_bits", "activation_bits", "granularity", "coupling", "shift_bits", "activations", "estimator",
                "cross_layer_equalization", "correct_output_mean", "breakpoints", "match_moments",
                "dialect")}
            warnings = input_warnings(network, data.calibration, data.images)
            network, built = build_own(network, data, recipes, options, executor, progress, arguments.export_onnx)
            result = {**evaluate_own(network, built, data, executor, progress), **origin(arguments.model),
                      "warnings": warnings}
        _deliver(report.own_table(result), data_files(result, built, arguments.export_onnx), figures(), arguments.out)
    for warning in warnings:
        print(f"refquant: warning: {warning}", file=sys.stderr)
    if data.ignored:
        print(f"refquant: {arguments.data}: not needed, and not read: {', '.join(data.ignored)}", file=sys.stderr)


def _deliver(text: str, files: dict[str, bytes], figures: Iterable[tuple[str, bytes]], directory: Path) -> None:
    """Write the data, print the table, and only then draw: no figure can cost a result."""
    written = _write(files, directory)
    print(text, flush=True)
    for name, content in figures:
        written += _write({name: content}, directory)
    print("\nWrote " + ", ".join(str(path) for path in written))


def _write(files: dict[str, bytes], directory: Path) -> list[Path]:
    from refquant.commands import report

    with as_exception():
        return report.write_files(files, directory)


def _add_quantize(commands: Any) -> None:
    from refquant.recipes.settings import BREAKPOINTS, COUPLINGS, GRANULARITIES, RECIPES
    from refquant.scales.thresholds import ESTIMATORS

    quantize = commands.add_parser(
        "quantize", help="quantize an ONNX network and run it in integers on your data", formatter_class=_wide,
        usage="refquant quantize MODEL.onnx DATA.npz --recipe NAME --out DIR [options]",
        epilog="Options left out take the recipe's value. " + "; ".join(
            f"{name}: {recipe.source}" for name, recipe in RECIPES.items()) + ".")
    group = quantize.add_argument_group("what is quantized")
    group.add_argument("model", type=Path, metavar="MODEL.onnx", help="a float network")
    group.add_argument("data", type=Path, metavar="DATA.npz",
                       help="inputs, preprocessed float32; optional labels and calibration_inputs")
    group.add_argument("--output", action="append", default=[], metavar="TENSOR",
                       help="end the network here; several times for several outputs")
    group.add_argument("--input-shape", type=shape, default=(), metavar="C,H,W",
                       help="of one image, where the file leaves it open")
    group.add_argument("--calibration-images", type=int, metavar="N",
                       help="default: all calibration_inputs, or else 50 inputs")
    group.add_argument("--images", type=int, metavar="N", help="evaluate only so many (default: all)")
    group.add_argument("--check-images", type=number_or_all, metavar="N",
                       help="simulate so many too and compare all codes (default: 100), or all")
    group = quantize.add_argument_group("how")
    group.add_argument("--recipe", action="append", required=True, choices=list(RECIPES), metavar="NAME",
                       help=f"{', '.join(RECIPES)}; several times to compare")
    group.add_argument("--weight-bits", type=int, metavar="B", help="2 to 16")
    group.add_argument("--activation-bits", type=int, metavar="B", help="2 to 16")
    group.add_argument("--granularity", choices=GRANULARITIES, metavar="NAME",
                       help=f"of the weights' scales: {', '.join(GRANULARITIES)}")
    sign = group.add_mutually_exclusive_group()
    sign.add_argument("--unsigned", dest="activations", action="store_const", const="unsigned",
                      help="activations unsigned where nothing is negative")
    sign.add_argument("--signed", dest="activations", action="store_const", const="signed",
                      help="activations signed narrow")
    group.add_argument("--estimator", choices=ESTIMATORS, metavar="NAME",
                       help=f"of activations' ranges: {', '.join(ESTIMATORS)}")
    group.add_argument("--dialect", type=dialect, default="single_round", metavar="NAME",
                       help="how sums are requantized, as `refquant dialects` lists it (default: %(default)s)")
    group = quantize.add_argument_group("methods")
    group.add_argument("--coupling", choices=COUPLINGS, metavar="NAME",
                       help=f"of shifts and layer scale: {', '.join(COUPLINGS)}")
    group.add_argument("--shift-bits", type=int, metavar="B", help="of each channel's shift, 0 to 5 (default: 4)")
    group.add_argument("--breakpoints", choices=BREAKPOINTS, metavar="NAME",
                       help=f"of piecewise linear weights: {', '.join(BREAKPOINTS)}")
    group.add_argument("--match-moments", action=argparse.BooleanOptionalAction,
                       help="give quantized weights their mean and deviation back")
    group.add_argument("--cross-layer-equalization", action="store_true",
                       help="first equalize the weight ranges between layers, as DFQ does")
    group.add_argument("--correct-output-mean", action=argparse.BooleanOptionalAction,
                       help="correct each layer's output means, as DFQ does")
    group = quantize.add_argument_group("results")
    group.add_argument("--out", type=directory, required=True, metavar="DIR", help="where they go")
    group.add_argument("--export-onnx", action="store_true", help="also network.onnx, in QDQ form")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the work")
    quantize.set_defaults(run=_quantize)


def _bounds(arguments: argparse.Namespace) -> None:
    from refquant.commands import report
    from refquant.integers.formats import IntFormat
    from refquant.winograd.bounds import describe_bounds

    if arguments.tile is not None and arguments.kernel is not None:
        raise ValueError("--kernel must be left out with --tile, whose kernel is R x R, got both")
    narrow = not arguments.full_range
    x_format = IntFormat(arguments.bits, signed=not arguments.unsigned, narrow=narrow and not arguments.unsigned)
    w_format = IntFormat(arguments.weight_bits or arguments.bits, narrow=narrow)
    result = describe_bounds(arguments.tile, x_format, w_format, arguments.channels,
                             kernel=arguments.kernel or (3, 3), accumulator=IntFormat(arguments.accumulator_bits),
                             bias=IntFormat(arguments.bias_bits) if arguments.bias_bits else None)
    print(json.dumps(result, indent=1) if arguments.json else report.bounds_table(result))


def _add_bounds(commands: Any) -> None:
    bounds = commands.add_parser("bounds", help="prove what every stage of direct, int16-lane and Winograd "
                                 "convolution can reach")
    bounds.add_argument("--bits", type=between(2, 32), required=True, metavar="B", help="of activations and weights")
    bounds.add_argument("--weight-bits", type=between(2, 32), metavar="B", help="of the weights, if other")
    bounds.add_argument("--full-range", action="store_true", help="codes from -2^(b-1), not from -(2^(b-1)-1)")
    bounds.add_argument("--unsigned", action="store_true", help="activations from 0 to 2^b-1")
    bounds.add_argument("--tile", type=tile, metavar="M,R",
                        help="of Winograd's F(M, R), as in 2,3; or the name of a preset, as in 'F(4,3) ncnn' "
                             "(default: direct convolution alone)")
    bounds.add_argument("--kernel", type=kernel, metavar="R,S",
                        help="of direct convolution; 1,1 for a fully connected layer (default: 3,3)")
    bounds.add_argument("--channels", type=between(1, 2**31 - 1), required=True, metavar="C", help="input channels")
    bounds.add_argument("--accumulator-bits", type=between(2, 64), default=32, metavar="B",
                        help="of the register that sums must fit (default: %(default)s)")
    bounds.add_argument("--bias-bits", type=between(2, 63), metavar="B",
                        help="of a signed bias code that is added to the sum (default: no bias)")
    bounds.add_argument("--json", action="store_true", help="print JSON, with the witnesses as codes")
    bounds.set_defaults(run=_bounds)


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """On a terminal, a bar for the step at hand: what is done of it, and how long the rest takes."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        yield None
        return
    with tqdm(total=1.0, desc="reading", leave=False, smoothing=0, dynamic_ncols=True,
              bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}") as bar:
        def progress(step: str, what: str, fraction: float) -> None:
            begins = bar.desc != step
            bar.set_description_str(step, refresh=False)
            bar.set_postfix_str(what, refresh=False)
            if begins:
                bar.reset()  # its clock too
            bar.n = fraction
            bar.refresh()

        yield progress


def _demo(arguments: argparse.Namespace) -> None:
    from refquant.commands import report
    from refquant.commands.demo import demo_figures, run_demo

    report.check_directory(arguments.out)
    with _bar() as progress:
        result = run_demo(arguments.all, progress)
    _deliver(report.demo_tables(result), {"report.json": (json.dumps(result, indent=1) + "\n").encode()},
             demo_figures(result), arguments.out)


def _dialects(arguments: argparse.Namespace) -> None:
    from refquant.commands import report

    if len(arguments.two) not in (0, 2):
        raise ValueError(f"dialects takes no dialect or two, got {len(arguments.two)}")
    print(report.difference_text(*arguments.two) if arguments.two else report.dialects_table())


def _identify(arguments: argparse.Namespace) -> int:
    from refquant.commands.identify import run_identify
    from refquant.commands.report import check_directory
    from refquant.integers.formats import IntFormat

    if arguments.probes:
        check_directory(arguments.out)
    fmt = IntFormat(arguments.bits, signed=not arguments.unsigned)
    text, files, code = run_identify(arguments.table, fmt, arguments.probes or 0, arguments.json)
    written = _write(files, arguments.out)
    print(text)
    if written and not arguments.json:
        print("\nWrote " + ", ".join(str(path) for path in written))
    return code


def _add_identify(commands: Any) -> None:
    identify = commands.add_parser(
        "identify", help="which dialects fit a table of what a device answered, and what to ask it next",
        description="Exit code 0 where a description fits, 1 where none does, 2 for bad input.")
    identify.add_argument("table", type=Path, metavar="TABLE.csv", help="a row for each answer, under the header "
                          "x,m,shift,zero_point,y or x,M,zero_point,y")
    identify.add_argument("--bits", type=between(3, 16), default=8, metavar="B",
                          help="of the codes y, 3 to 16 (default: %(default)s)")
    identify.add_argument("--unsigned", action="store_true", help="codes y from 0 to 2^B - 1")
    identify.add_argument("--json", action="store_true", help="print JSON")
    identify.add_argument("--probes", type=between(1, 100000), metavar="N",
                          help="write the N rows to run on the device next, as probes.csv and one .hex per column")
    identify.add_argument("--out", type=directory, default=Path("."), metavar="DIR",
                          help="where the probes go (default: here)")
    identify.set_defaults(run=_identify)


def _parser() -> argparse.ArgumentParser:
    from refquant.commands.compare import add_compare
    from refquant.commands.exercise import add_exercise
    from refquant.commands.run import add_run
    from refquant.commands.vectors import add_vectors

    parser = _Parser(prog="refquant", description="The bit-exact reference for post-training quantization.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    demo = commands.add_parser("demo", help="quantize the bundled CNN and run it in integers on the bundled digits")
    demo.add_argument("--out", type=directory, default=Path("refquant-demo"), metavar="DIR",
                      help="where report.json and the figures go (default: %(default)s)")
    demo.add_argument("--all", action="store_true", help="also the widths that the short table leaves out")
    demo.set_defaults(run=_demo)
    _add_quantize(commands)
    _add_bounds(commands)
    _add_identify(commands)
    add_vectors(commands)
    add_exercise(commands)
    add_run(commands)
    add_compare(commands)
    dialects = commands.add_parser("dialects", help="the ways to requantize: formulas, words, and who computes so")
    dialects.add_argument("two", nargs="*", metavar="DIALECT",
                          help="two names, or words: the smallest input on which they differ")
    dialects.set_defaults(run=_dialects)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns its exit code.

    0; 1 where ``identify`` finds that no description fits, ``vectors check`` a mismatch, or ``exercise`` a wrong
    solution; 2 for a caller's mistake, told in one sentence; 3 where ``vectors check`` misses outputs; 130 when
    interrupted.
    """
    code: int | None = 0
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show a letter shows its escape
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        code = arguments.run(arguments)
        sys.stdout.flush()
    except SystemExit as end:  # argparse printed help, or a mistake of the arguments
        return int(end.code or 0)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        _close_output()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is None:  # what is printed was not taken
            _close_output()
        print(f"refquant: {error.filename or 'standard output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except (ValueError, OverflowError, ModuleNotFoundError, BrokenExecutor) as error:
        print(f"refquant: {error}", file=sys.stderr)
        return 2
    return code or 0


def console() -> NoReturn:
    """The entry point: ``main``, and Ctrl-C in one line at any moment."""
    install()
    sys.exit(main())


def _close_output() -> None:
    """Nothing more is written, not even when Python flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
