"""``refquant exercise``: check a student's solution, or list the exercises."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_exercise(commands: Any) -> None:
    """The parser of ``exercise``."""
    exercise = commands.add_parser("exercise", help="check your solution of one of the tutorial's exercises",
                                   description="Exit code 0: every property holds. 1: one does not; the smallest "
                                   "counter-example is told. 2: bad input.")
    exercise.add_argument("number", nargs="?", metavar="NN", help="00 to 39 (default: list them)")
    exercise.add_argument("path", nargs="?", type=Path, metavar="FILE.py",
                          help="defines the function, as the stub in exercises/ does")
    exercise.set_defaults(run=_exercise)


def _exercise(arguments: argparse.Namespace) -> int:
    from refquant.commands.report import table
    from refquant.exercises import EXERCISES, judge, load

    if arguments.number is None:
        print(table(("exercise", "function", "properties"), [
            (one.number, one.function, "; ".join(each.name for each in one.properties))
            for one in EXERCISES.values()]))
        return 0
    if arguments.number not in EXERCISES:
        raise ValueError(f"the exercise must be from {min(EXERCISES)} to {max(EXERCISES)}, got {arguments.number!r}")
    if arguments.path is None:
        raise ValueError(f"exercise {arguments.number} needs a file that defines "
                         f"{EXERCISES[arguments.number].function}, got none")
    exercise = EXERCISES[arguments.number]
    verdict = judge(exercise, load(arguments.path, exercise.function))
    print(verdict.text if not verdict.property else
          f"Exercise {exercise.number}, {exercise.function}: not yet.\n{verdict.property}: {verdict.text}.")
    return 1 if verdict.property else 0
