"""Golden suites for tests: built once in a process, written where a test wants them, and answered by devices."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np

from refquant.integers.formats import IntFormat, wrap
from refquant.vectors.build import build_suite, write_suite
from refquant.vectors.cases import npy_bytes
from refquant.vectors.check import SuiteResult, check_answers
from refquant.vectors.reading import Read, read_suite


@cache
def built(name: str, dialect: str = "single_round", small: bool = True) -> dict[str, bytes]:
    """The files of a suite."""
    return build_suite(name, dialect, small)


def written(name: str, folder: Path, dialect: str = "single_round", small: bool = True) -> Path:
    """A suite's folder below ``folder``."""
    write_suite(built(name, dialect, small).items(), folder / name)
    return folder / name


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
