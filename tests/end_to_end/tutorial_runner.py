"""Run the Python fences of a Markdown page and compare what they print with what the page shows.

A page is `tutorial.md` or `README.md`. A ```python fence is run; a ```text fence after it, with only blank lines
between, is what it must print. Other fences are left alone. A bad page is a ValueError, a wrong output an
AssertionError; both begin with `page:line:`.
"""
from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from urllib.parse import unquote

import numpy as np

LANGUAGES = ("python", "text", "console", "math", "bibtex")
# A number with digits after the point, or with a signed exponent: not 8, not 5., not 1.26.4, not 0x1.8p3.
DECIMAL = re.compile(r"(?<![\w.])[-+]?(?:\d*\.\d+|\d+\.?(?=[eE][-+]\d))(?:[eE][-+]?\d+)?(?!\d|\.\d)")
TOKEN = re.compile(r"[\[\](){},]|[^\s\[\](){},]+")
IMAGE = re.compile(r"!\[(?P<alt>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<path>[^)\s]+)\)")


@dataclass
class Fence:
    """One fenced block: `line` and `end` are the page's lines, from 1, of its two rows of backticks."""

    language: str
    line: int
    chapter: str
    text: str = ""
    end: int = 0
    shown: Fence | None = None  # of a python fence: the text fence with its output


@dataclass
class Page:
    """A parsed page."""

    name: str
    text: str
    chapters: list[str]
    fences: list[Fence]


def parse(text: str, name: str = "tutorial.md", readme: bool = False) -> Page:
    """Split a page into chapters (`## `) and fences; in a README code needs no chapter and text no code."""
    page, chapter = Page(name, text, [], []), ""
    opened: Fence | None = None  # the fence we are in
    checked: Fence | None = None  # the python fence that a text fence here would belong to
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{name}:{number}:"
        if opened is not None and line.rstrip() == "```":
            opened.end, opened = number, None
        elif opened is not None and "```" not in line:
            opened.text += line + "\n"
        elif line.startswith("```") and opened is None:
            language = line[3:].rstrip()
            if language not in LANGUAGES:
                raise ValueError(f"{where} unknown fence {line.rstrip()!r}, expected one of {', '.join(LANGUAGES)}")
            if not readme and ((language == "text" and checked is None) or (language == "python" and not chapter)):
                raise ValueError(f"{where} a python fence needs a chapter, a text fence a python fence before it")
            opened = Fence(language, number, chapter)
            page.fences.append(opened)
            if language == "text" and checked is not None:
                checked.shown = opened
            checked = opened if language == "python" else None
        elif re.match(r"[\s>*\d.-]*```", line):
            raise ValueError(f"{where} a fence begins in the first column, and after the one before is closed")
        else:
            checked = checked if not line.strip() else None
            if line.startswith("## "):
                chapter = line[3:].strip()
                if chapter in page.chapters:
                    raise ValueError(f"{where} a second chapter is called {chapter!r}")
                page.chapters.append(chapter)
    if opened is not None:
        raise ValueError(f"{name}:{opened.line}: unclosed fence: the page ends inside it")
    return page


def check_images(page: Page, folder: Path) -> None:
    """Refuse an image without alt text or without a file under `folder`."""
    for image in IMAGE.finditer(page.text):
        where = f"{page.name}:{page.text.count(chr(10), 0, image.start()) + 1}:"
        if not image["alt"].strip():
            raise ValueError(f"{where} image {image['path']} has no alt text")
        if not (folder / unquote(image["path"])).is_file():
            raise ValueError(f"{where} image {image['path']} is missing")


def same_token(shown: str, printed: str) -> bool:
    """Equal, but for decimals within one unit of the finer last digit, or 1e-6 relative.

    >>> same_token("cos=0.9987,", "cos=0.9988,"), same_token("0.9987", "0.9989"), same_token("127", "128")
    (True, False, False)
    """
    if DECIMAL.split(shown) != DECIMAL.split(printed):
        return False
    for a, b in zip(map(Decimal, DECIMAL.findall(shown)), map(Decimal, DECIMAL.findall(printed))):
        unit = Decimal(1).scaleb(min(a.as_tuple().exponent, b.as_tuple().exponent))
        if abs(a - b) > max(unit, Decimal("1e-6") * max(abs(a), abs(b))):
            return False
    return True


def compare(page: Page, fence: Fence, printed: str) -> None:
    """Refuse an output that differs from the page, is not shown, or is shown and never printed."""
    shown = fence.shown.text if fence.shown else ""
    pairs = zip_longest(shown.rstrip().split("\n"), printed.rstrip().split("\n"), fillvalue="")
    for index, (expected, got) in enumerate(pairs):
        tokens, others = TOKEN.findall(expected), TOKEN.findall(got)
        if len(tokens) != len(others) or not all(map(same_token, tokens, others)):
            line = (fence.shown or fence).line + 1 + index
            raise AssertionError(f"{page.name}:{line}: the page shows {expected!r}, but the code prints "
                                 f"{got.rstrip()!r}\nLine {fence.line}'s code prints:\n{printed}")


def run(page: Page, chapter: str | None = None, check: bool = True) -> list[tuple[Fence, str]]:
    """Run one chapter's python fences (None: the whole page's) in a fresh namespace; return what they print.

    Each output is compared with the page as soon as it is there, unless `check` is False.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    results = []
    with np.printoptions(), np.errstate():
        for fence in page.fences:
            if fence.language != "python" or chapter not in (None, fence.chapter):
                continue
            code = compile("\n" * fence.line + fence.text, page.name, "exec", dont_inherit=True)
            with contextlib.redirect_stdout(io.StringIO()) as stdout:
                exec(code, namespace)
            if check:
                compare(page, fence, stdout.getvalue())
            results.append((fence, stdout.getvalue()))
    return results


def rewritten(page: Page, results: list[tuple[Fence, str]]) -> str:
    """The page's text with these outputs in its text fences, which are added and removed as needed."""
    lines = page.text.split("\n")
    for fence, printed in reversed(results):
        output = [line.rstrip() for line in printed.rstrip().split("\n")]
        block = ["", "```text", *output, "```"] if printed.strip() else []
        lines[fence.end:fence.shown.end if fence.shown else fence.end] = block
    return "\n".join(lines)
