"""Golden suites for tests: built once in a process, written where a test wants them, and answered by devices."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np

from refquant.integers.devices import dialect_of
from refquant.integers.formats import IntFormat, wrap
from refquant.vectors.build import SUITES, build_suite, suite_files, write_suite
from refquant.vectors.cases import Case, Tensor, npy_bytes
from refquant.vectors.check import CaseResult, SuiteResult, check_answers
from refquant.vectors.reading import Read, read_suite


@cache
def cases_of(name: str) -> tuple[Case, ...]:
    """The cases of a whole suite in the default dialect."""
    return tuple(SUITES[name].cases(dialect_of("single_round")))


@cache
def built(name: str, dialect: str = "single_round", small: bool = True) -> dict[str, bytes]:
    """The files of a suite."""
    return build_suite(name, dialect, small)


def written(name: str, folder: Path, dialect: str = "single_round", small: bool = True) -> Path:
    """A suite's folder below ``folder``."""
    write_suite(built(name, dialect, small).items(), folder / name)
    return folder / name


def by_hand(folder: Path, codes: list[int], fmt: IntFormat = IntFormat(8), operation: str = "clip",
            **parameters: object) -> Path:
    """The folder of a suite of one case, ``one``, whose input and output are these codes."""
    case = Case("one", operation, parameters, {
        "x": Tensor(np.array(codes), fmt, "input", "N"),
        "expected": Tensor(np.array(codes), fmt, "expected", "N")}, "Some codes.")
    write_suite(suite_files("by-hand", "Codes.", dialect_of("single_round"), [case], {}), folder / "by-hand")
    return folder / "by-hand"


def answer(folder: Path, case: Read, values: np.ndarray, name: str = "expected") -> None:
    """Write what a device answers to a case, in two's complement of the tensor's width."""
    tensor = case.tensor(name)
    fmt = tensor.format
    assert fmt is not None
    (folder / case.id).mkdir(parents=True, exist_ok=True)
    codes = wrap(np.asarray(values, np.int64), IntFormat(fmt.bits, fmt.signed)).reshape(tensor.values.shape)
    (folder / case.id / f"{name}.npy").write_bytes(npy_bytes(codes, tensor.dtype))


def judged(suite: Path, folder: Path, device: Callable[[Read], Iterable[int] | np.ndarray | None]) -> SuiteResult:
    """What ``check_answers`` says of a device, a function of a case; None where it cannot run one."""
    folder.mkdir(exist_ok=True)
    for case in read_suite(suite)[1]:
        values = device(case)
        if values is not None:
            answer(folder, case, np.asarray(values))
    return check_answers(suite, folder)


def wrong(found: SuiteResult) -> list[CaseResult]:
    """The cases in which a device differs."""
    return [one for one in found.cases if one.mismatches]
