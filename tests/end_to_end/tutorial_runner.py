"""Run the Python fences of a Markdown page and hold what they print against what the page shows.

A page is `tutorial.md` or `README.md`. A ```python fence is run; a ```text fence after it, with only blank
lines between, is what it must print. ```console, ```math and (README) ```bibtex fences are left alone.
Every message starts with `page:line:`, a bad page is a ValueError, a wrong output an AssertionError.
"""
from __future__ import annotations

import contextlib
import io
import linecache
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from urllib.parse import unquote

import numpy as np

TUTORIAL_LANGUAGES = ("python", "text", "console", "math")
README_LANGUAGES = ("python", "text", "console", "bibtex")

# A number with digits after the point, or with a signed exponent: not 8, not 5., not 1.26.4, not 0x1.8p3.
DECIMAL = re.compile(r"(?<![\w.])[-+]?(?:\d*\.\d+|\d+\.?(?=[eE][-+]\d))(?:[eE][-+]?\d+)?(?!\d|\.\d)")
TOKEN = re.compile(r"[\[\](){},]|[^\s\[\](){},]+")
FENCE = re.compile(r"(?P<before>(?:[ \t>]|[-*+][ \t]|\d+[.)][ \t])*)(?P<marks>`{3,}|~{3,})(?P<info>.*)")
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(?:.+?)(?<!`)\1(?!`)")
IMAGE = re.compile(r"!\[(?P<alt>(?:[^\[\]]|\[[^\]]*\])*)\]\(\s*(?P<path>[^)\s]+)")


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
    """A parsed page; `prose` is the page, line by line, with the fences blanked out."""

    name: str
    text: str
    readme: bool
    chapters: list[str]
    fences: list[Fence]
    prose: list[str]

    def console(self) -> list[tuple[int, str]]:
        """The shell sessions, each with the page line of its first row."""
        return [(fence.line + 1, fence.text) for fence in self.fences if fence.language == "console"]


def parse(text: str, name: str = "tutorial.md", readme: bool = False) -> Page:
    """Split a page into chapters (`## `) and fences; in a README code needs no chapter and text no code."""
    languages = README_LANGUAGES if readme else TUTORIAL_LANGUAGES
    page = Page(name, text, readme, [], [], [])
    chapter, comment = "", False
    opened: Fence | None = None  # the fence we are in
    checked: Fence | None = None  # the python fence that a text fence here would belong to

    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{name}:{number}:"
        page.prose.append("")
        if opened is not None:
            if line.rstrip() == "```":
                opened.end, opened = number, None
            elif line.lstrip().startswith("```"):
                raise ValueError(f"{where} unclosed fence: the one from line {opened.line} is still open")
            else:
                opened.text += line + "\n"
        elif marker := FENCE.match(line):
            language = marker["info"].rstrip()
            if marker["before"]:
                raise ValueError(f"{where} indented fence: a fence must begin in the first column")
            if comment:
                raise ValueError(f"{where} fence inside an HTML comment: no reader sees it")
            if marker["marks"] != "```" or language not in languages:
                raise ValueError(f"{where} unknown fence {line.rstrip()!r}: write three backticks and one of "
                                 f"{', '.join(languages)}")
            if language == "text" and checked is None and not readme:
                raise ValueError(f"{where} a text fence must directly follow the python fence that prints it")
            if language == "python" and not chapter and not readme:
                raise ValueError(f"{where} python fence before the first chapter ('## '): no chapter runs it")
            opened = Fence(language, number, chapter)
            page.fences.append(opened)
            if language == "text" and checked is not None:
                checked.shown = opened
            checked = opened if language == "python" else None
        else:
            page.prose[-1] = line
            checked = checked if not line.strip() else None
            if "<!--" in line or "-->" in line:
                comment = line.rfind("<!--") > line.rfind("-->")
            elif line.startswith("## ") and not comment:
                chapter = line[3:].strip()
                if chapter in page.chapters:
                    raise ValueError(f"{where} a second chapter is called {chapter!r}")
                page.chapters.append(chapter)
    if opened is not None:
        raise ValueError(f"{name}:{opened.line}: unclosed fence: the page ends inside it")
    return page


def check_images(page: Page, folder: Path) -> None:
    """Refuse an image without alt text or without a file under `folder` (a README may link to the web)."""
    prose = CODE_SPAN.sub(lambda span: "x" * len(span[0]), "\n".join(page.prose))
    for start in re.finditer(r"!\[|<img\b", prose):
        where = f"{page.name}:{prose.count(chr(10), 0, start.start()) + 1}:"
        image = IMAGE.match(prose, start.start())
        if image is None:
            raise ValueError(f"{where} image not understood: write ![what it shows](figures/name.png)")
        if not image["alt"].strip():
            raise ValueError(f"{where} image {image['path']} has no alt text")
        remote = page.readme and image["path"].startswith(("https://", "http://"))
        if not remote and not (folder / unquote(re.split("[?#]", image["path"])[0])).is_file():
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


def difference(shown: str, printed: str) -> tuple[int, str] | None:
    """The first line (from 0) where the outputs differ and how; None if they agree token by token."""
    pairs = zip_longest(shown.rstrip().split("\n"), printed.rstrip().split("\n"))
    for index, (expected, got) in enumerate(pairs):
        if expected is None:
            return index, f"the page ends, but the code goes on to print {got!r}"
        if got is None:
            return index, f"the page shows {expected!r}, but the code prints no more"
        tokens, others = TOKEN.findall(expected), TOKEN.findall(got)
        if len(tokens) != len(others) or not all(map(same_token, tokens, others)):
            return index, f"the page shows {expected!r}, but the code prints {got.rstrip()!r}"
    return None


def compare(page: Page, fence: Fence, printed: str) -> None:
    """Refuse an output that differs from the page, is not shown, or is shown and never printed."""
    if fence.shown is None:
        if printed.strip():
            raise AssertionError(f"{page.name}:{fence.line}: output printed but not shown:\n{printed}")
    elif not printed.strip():
        raise AssertionError(f"{page.name}:{fence.shown.line}: output shown but nothing printed")
    elif found := difference(fence.shown.text, printed):
        line = fence.shown.line + 1 + found[0]
        raise AssertionError(f"{page.name}:{line}: {found[1]}\nLine {fence.line}'s code prints:\n{printed}")


def _random_states() -> dict[str, object]:
    name, key, *rest = np.random.get_state()  # noqa: NPY002
    return {"NumPy's global random state; use rng = np.random.default_rng(0)": (name, key.tobytes(), *rest),
            "the state of Python's random; use rng = random.Random(0)": random.getstate()}


@contextlib.contextmanager
def _left_as_found() -> Iterator[None]:
    """Undo what a page may set for the whole process, and begin from random states no page would seed."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed("not a seed of any page")
    np.random.seed([31, 41, 59])  # noqa: NPY002
    try:
        with np.printoptions(), np.errstate():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def run(page: Page, chapter: str | None = None, reference: bool = True) -> list[tuple[Fence, str]]:
    """Run one chapter's python fences (None: the whole page's) in a fresh namespace; return what they print.

    Each output is compared with the page as soon as it is there, unless `reference` is False.
    """
    if chapter is not None and chapter not in page.chapters:
        raise ValueError(f"{page.name} has no chapter {chapter!r}")
    source = [f"{line}\n" for line in page.text.split("\n")]
    linecache.cache[page.name] = (len(page.text), None, source, page.name)  # for tracebacks
    namespace: dict[str, object] = {"__name__": "__main__"}
    results = []
    with _left_as_found():
        for fence in page.fences:
            if fence.language != "python" or chapter not in (None, fence.chapter):
                continue
            code = compile("\n" * fence.line + fence.text, page.name, "exec", dont_inherit=True)
            before, stdout = _random_states(), io.StringIO()
            try:
                with contextlib.redirect_stdout(stdout):
                    exec(code, namespace)
            except BaseException:
                sys.stdout.write(stdout.getvalue())
                raise
            for what, after in _random_states().items():
                if after != before[what]:
                    raise AssertionError(f"{page.name}:{fence.line}: this code changes {what}")
            if reference:
                compare(page, fence, stdout.getvalue())
            results.append((fence, stdout.getvalue()))
    return results


def rewritten(page: Page, results: list[tuple[Fence, str]]) -> str:
    """The page's text with these outputs in its text fences, which are added and removed as needed."""
    lines = page.text.split("\n")
    for fence, printed in reversed(results):
        output = [line.rstrip() for line in printed.rstrip().split("\n")]
        if any(line.lstrip().startswith("```") for line in output):
            raise ValueError(f"{page.name}:{fence.line}: a fence cannot hold an output with ```")
        block = ["", "```text", *output, "```"] if printed.strip() else []
        lines[fence.end:fence.shown.end if fence.shown else fence.end] = block
    return "\n".join(lines)
