"""Types of command line arguments, for argparse: each refuses a text in one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kernel(text: str) -> tuple[int, int]:
    """R,S, each from 1 to 1024."""
    parts = text.split(",")
    if len(parts) != 2 or not all(p.isdecimal() and 1 <= int(p) <= 1024 for p in parts):
        raise argparse.ArgumentTypeError(f"must be two numbers from 1 to 1024, as in 3,3, got {text}")
    return int(parts[0]), int(parts[1])


def shape(text: str) -> tuple[int, ...]:
    """One to six sizes, as in 3,224,224."""
    parts = text.split(",")
    if len(parts) > 6 or not all(p.isdecimal() and 1 <= int(p) <= 2**20 for p in parts):
        raise argparse.ArgumentTypeError(f"must be the sizes of one image, as in 3,224,224, got {text}")
    return tuple(map(int, parts))


def between(least: int, most: int) -> Callable[[str], int]:
    """A whole number from ``least`` to ``most``."""
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, got {text}")
        return int(text)
    return parse


def tile(text: str) -> Any:
    """M,R as two numbers; anything else as it is, for the name of a preset."""
    parts = text.split(",")
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(p.isdecimal() for p in parts) else text


def number_or_all(text: str) -> int | str:
    """A number of images, or all."""
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number of images, or all, got {text}")
    return text if text == "all" else int(text)


def directory(text: str) -> Path:
    """A path that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("must name a directory")
    return Path(text)


def dialect(text: str) -> str:
    """The name, or the words, of a dialect."""
    from refquant.integers.devices import name_of

    try:
        return name_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
