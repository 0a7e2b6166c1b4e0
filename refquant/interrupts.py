"""Ctrl-C in one line; it imports little, so that it can be in place before anything else is loaded."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = "refquant: interrupted"


def end_at_once(*_: Any) -> None:
    """End at once: Python's own KeyboardInterrupt, raised within an import, can come out as another error."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)


@contextmanager
def as_exception() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt in this block, so that temporary files are taken away."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if handler is end_at_once:
            signal.signal(signal.SIGINT, handler)


def install() -> None:
    """From here on Ctrl-C ends the process with one line and exit code 130."""
    signal.signal(signal.SIGINT, end_at_once)
