"""How a solution is checked: properties, each with the smallest input on which it fails, in words."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

try:
    from hypothesis import HealthCheck, Phase, find, settings
    from hypothesis import strategies as st
    from hypothesis.errors import NoSuchExample
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("refquant.exercises needs Hypothesis: pip install 'refquant[test]'",
                              name=error.name) from error

# One seed for all, so that the same command gives the same verdict. (Hypothesis also draws constants of the modules
# that are loaded: in another program another counter-example may be the first.)
_SETTINGS = settings(max_examples=80, database=None, deadline=None,
                     suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate, Phase.shrink])


class Property(NamedTuple):
    """name: what must hold. strategy: of a tuple of arguments.

    wrong: the solution and arguments to what is wrong, in words, or None.
    """

    name: str
    strategy: st.SearchStrategy[tuple[Any, ...]]
    wrong: Callable[..., str | None]


class Exercise(NamedTuple):
    """number: two digits. function: the name that the solution must define. properties: checked in this order."""

    number: str
    function: str
    properties: tuple[Property, ...]


class Verdict(NamedTuple):
    """property: the first that does not hold; "" where all do. text: what to tell the student."""

    property: str
    text: str


def judge(exercise: Exercise, solution: Callable[..., Any]) -> Verdict:
    """Whether every property holds; or the first that does not, with its smallest counter-example."""
    for one in exercise.properties:
        if text := counter_example(one, solution):
            return Verdict(one.name, text)
    names = "; ".join(one.name for one in exercise.properties)
    return Verdict("", f"Exercise {exercise.number}, {exercise.function}, is right: {names}.")


def counter_example(one: Property, solution: Callable[..., Any]) -> str | None:
    """What is wrong with the smallest arguments on which the property fails; None where it holds."""
    def fails(arguments: tuple[Any, ...]) -> bool:
        return explain(one, solution, arguments) is not None

    try:
        arguments = find(one.strategy, fails, settings=_SETTINGS, random=Random(0))
    except NoSuchExample:
        return None
    return explain(one, solution, arguments)


def explain(one: Property, solution: Callable[..., Any], arguments: tuple[Any, ...]) -> str | None:
    """What is wrong with one call; what it raises is wrong too.

    The solution gets copies, which it may change: what is expected comes from the arguments as they were.
    """
    def on_copies(*given: Any) -> Any:
        return solution(*deepcopy(given))

    try:
        return one.wrong(on_copies, *arguments)
    except NotImplementedError:
        return "it is not written yet: replace the line that raises NotImplementedError"
    except (Exception, SystemExit) as error:
        shown = ", ".join(map(shown_value, arguments))
        return f"your function raised {type(error).__name__} for ({shown}): {error}"


def shown_value(value: Any) -> str:
    """An argument as a student would type it."""
    if isinstance(value, np.ndarray):
        return str(value.tolist())
    if isinstance(value, (np.integer, np.floating)):
        return str(value.item())
    return repr(value)


def equals(want: Callable[..., Any], why: str | Callable[..., str] = "") -> Callable[..., str | None]:
    """A property: the solution gives what ``want`` gives. why: a hint, or what makes one of the arguments."""
    def wrong(solution: Callable[..., Any], *arguments: Any) -> str | None:
        got, expected = solution(*arguments), want(*arguments)
        a, b = np.asarray(got), np.asarray(expected)
        if a.shape == b.shape and np.array_equal(a, b):
            return None
        hint = why(*arguments) if callable(why) else why
        return (f"your function gave {shown_value(got)} for ({', '.join(map(shown_value, arguments))}), where "
                f"{shown_value(expected)} is right{'; ' + hint if hint else ''}")
    return wrong


def near(want: Callable[..., Any], why: str = "", relative: float = 1e-9) -> Callable[..., str | None]:
    """The same for floats, to a relative error."""
    def wrong(solution: Callable[..., Any], *arguments: Any) -> str | None:
        got, expected = np.asarray(solution(*arguments), float), np.asarray(want(*arguments), float)
        if got.shape == expected.shape and np.allclose(got, expected, rtol=relative, atol=1e-12):
            return None
        return (f"your function gave {shown_value(got)} for ({', '.join(map(shown_value, arguments))}), where "
                f"{shown_value(expected)} is right{'; ' + why if why else ''}")
    return wrong


def load(path: Path, function: str) -> Callable[..., Any]:
    """The student's function. ValueError where the file or the function is missing, or the file does not run."""
    if not path.is_file():
        raise ValueError(f"{path} must be a Python file, got none")
    spec = importlib.util.spec_from_file_location("solution", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} must be a Python file, got another kind of file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ValueError(f"{path} must run as Python, got {type(error).__name__}: {error}") from None
    solution = getattr(module, function, None)
    if not callable(solution):
        raise ValueError(f"{path} must define the function {function}, got none")
    return solution
