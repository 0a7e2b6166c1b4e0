"""What a test needs beyond the run-time dependencies: skipped where it is missing, an error in CI."""
from __future__ import annotations

import importlib
import os
import shutil
from types import ModuleType
from typing import NoReturn

import pytest


def require_tool(program: str, install: str) -> str:
    """The path of `program`; `install` is the command that a reader without it is told to run."""
    path = shutil.which(program)
    return path if path is not None else _missing(program, install)


def require_module(module: str, install: str) -> ModuleType:
    """The imported `module`; one that is there but broken raises its own ImportError."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
    _missing(module, install)


def _missing(what: str, install: str) -> NoReturn:
    reason = f"{what} is not installed: {install}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)
