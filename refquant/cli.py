"""The command line: ``refquant demo``."""

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
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"refquant: {error}", file=sys.stderr)
        return 2
    return 0
