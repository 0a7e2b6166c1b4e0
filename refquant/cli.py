"""The command line: ``refquant demo`` and ``refquant quantize``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn


class _Parser(argparse.ArgumentParser):
    """argparse, with a one-sentence error instead of the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _quantize(arguments: argparse.Namespace) -> None:
    from refquant import report
    from refquant.onnx_io import load_onnx
    from refquant.own_network import load_data, quantize_own, write_own

    recipes = list(dict.fromkeys(arguments.recipe))
    network = load_onnx(arguments.model)
    data = load_data(arguments.data, network.input_shape, arguments.calibration_images, arguments.images)
    directory = report.prepare_directory(arguments.out)
    options = {name: getattr(arguments, name) for name in (
        "weight_bits", "activation_bits", "granularity", "activations", "semantics")}
    result, networks = quantize_own(network, data, recipes, options, _progress)
    print(report.own_table(result))
    print("\nWrote " + ", ".join(str(path) for path in write_own(result, networks, network, data, directory)))


def _add_quantize(commands: Any) -> None:
    from refquant.recipes import GRANULARITIES, RECIPES
    from refquant.requantization import SEMANTICS

    described = "; ".join(f"{name}: {recipe.source}" for name, recipe in RECIPES.items())
    quantize = commands.add_parser("quantize", help="quantize an ONNX network and run it in integers on your data",
                                   epilog=f"Recipes. {described}.")
    quantize.add_argument("model", type=Path, metavar="MODEL.onnx")
    quantize.add_argument("data", type=Path, metavar="DATA.npz", help="inputs (N, C, H, W) float32, already "
                          "preprocessed; optional labels; optional calibration_inputs")
    quantize.add_argument("--recipe", action="append", required=True, choices=list(RECIPES), metavar="NAME",
                          help=f"one of {', '.join(RECIPES)}; may be given several times")
    quantize.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    quantize.add_argument("--weight-bits", type=int, metavar="B", help="2 to 16 (default: the recipe's)")
    quantize.add_argument("--activation-bits", type=int, metavar="B", help="2 to 16 (default: the recipe's)")
    quantize.add_argument("--granularity", choices=GRANULARITIES,
                          help="of the weights' scales (default: the recipe's)")
    sign = quantize.add_mutually_exclusive_group()
    sign.add_argument("--unsigned", dest="activations", action="store_const", const="unsigned",
                      help="activations unsigned where nothing is negative, as after ReLU (default: the recipe's)")
    sign.add_argument("--signed", dest="activations", action="store_const", const="signed",
                      help="activations signed narrow")
    quantize.add_argument("--calibration-images", type=int, default=50, metavar="N",
                          help="how many images calibrate (default: %(default)s)")
    quantize.add_argument("--images", type=int, metavar="N", help="evaluate only so many images (default: all)")
    quantize.add_argument("--semantics", choices=SEMANTICS, default="single_round", metavar="ID",
                          help=f"how sums are requantized: {', '.join(SEMANTICS)} (default: %(default)s)")
    quantize.set_defaults(run=_quantize)


def _progress(rows: list[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(rows, disable=not sys.stderr.isatty(), leave=False, unit="row")


def _demo(arguments: argparse.Namespace) -> None:
    from refquant import report
    from refquant.demo import run_demo, write_demo

    directory = report.prepare_directory(arguments.out)
    result = run_demo(arguments.all, _progress)
    print(report.demo_tables(result))
    print("\nWrote " + ", ".join(str(path) for path in write_demo(result, directory)))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns its exit code: 0, or 2 for a caller's mistake, told in one sentence."""
    parser = _Parser(prog="refquant", description="The bit-exact reference for post-training quantization.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    demo = commands.add_parser("demo", help="quantize the bundled CNN and run it in integers on the bundled digits")
    demo.add_argument("--out", type=Path, default=Path("refquant-demo"), metavar="DIR",
                      help="where report.json and the figures go (default: %(default)s)")
    demo.add_argument("--all", action="store_true", help="run every method at every width")
    demo.set_defaults(run=_demo)
    _add_quantize(commands)
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"refquant: {error}", file=sys.stderr)
        return 2
    return 0
