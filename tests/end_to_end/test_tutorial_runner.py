"""The page runner itself: bad pages are refused with their line, wrong digits are found; and tools.py."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tools import require_module, require_tool
from tutorial_runner import check_images, parse, rewritten, run, same_token


def program(code: str, *shown: str) -> list[str]:
    """A chapter whose code begins on line 4; of one line of code, the output shown begins on line 8."""
    lines = ["## One", "", "```python", *code.split("\n"), "```"]
    return [*lines, "", "```text", *shown, "```"] if shown else lines


def page_of(lines: list[str], readme: bool = False):
    return parse("\n".join(lines) + "\n", "README.md" if readme else "tutorial.md", readme)


@pytest.mark.parametrize(("lines", "message"), [
    (["## One", "```ruby", "```"], "2: unknown fence '```ruby'"),
    (["## One", "````python", "````"], "2: unknown fence"),
    (["## One", "", "  ```python", "  ```"], "3: a fence begins in the first column"),
    (["## One", "> ```python", "> ```"], "2: a fence begins in the first column"),
    (["## One", "```python", "x = 1", "", "```text"], "5: a fence begins in the first column, and after"),
    (["## One", "", "```python", "x = 1"], "3: unclosed fence"),
    ([*program("print(1)"), "It prints", "```text", "1", "```"], "7: a python fence needs a chapter, a text fence"),
    (["# Title", "```python", "```", "## One"], "2: a python fence needs a chapter"),
    (["## One", "## Two", "## One"], "3: a second chapter is called 'One'")])
def test_a_malformed_page_is_refused_with_its_line(lines, message):
    with pytest.raises(ValueError, match=f"^tutorial.md:{message}"):
        page_of(lines)


def test_a_readme_needs_no_chapters_and_may_show_other_text():
    page = page_of(["```python", "x = 6", "```", "## Use", "```python", "print(7 * x)", "```", "```text", "42", "```",
                    "Files:", "```text", "refquant/", "```"], readme=True)
    assert [printed for _, printed in run(page)] == ["", "42\n"]


@pytest.mark.parametrize(("line", "message"), [
    ("![a circle](figures/none.png)", "image figures/none.png is missing"),
    ("![ ](figures/circle.png)", "image figures/circle.png has no alt text"),
    ("![two\n$W[0]$](figures/number%20circle.png)", None)])
def test_images_need_a_file_and_a_description(line, message, tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("circle.png", "number circle.png"):
        (tmp_path / "figures" / name).touch()
    page = page_of(["## One", "", line])
    if message is None:
        check_images(page, tmp_path)
    else:
        with pytest.raises(ValueError, match=f"^tutorial.md:3: {message}"):
            check_images(page, tmp_path)


@pytest.mark.parametrize(("shown", "printed", "same"), [
    ("-128", "-128", True), ("0.9987", "0.9988", True), ("0.0", "-0.0", True), ("1.25e-05", "1.26e-05", True),
    (".25", "0.25", True), ("12345678.0", "12345680.0", True), ("0.25", "0.25000000000000006", True),
    ("97.8%", "97.9%", True), ("127", "128", False), ("127", "127.0", False), ("8.", "9.", False),
    ("0.9987", "0.9989", False), ("0.9987", "-0.9987", False), ("0.54", "0.5", False), ("nan", "inf", False),
    ("1.25e-05", "1.25e-06", False), ("True", "False", False), ("1.26.4", "1.26.5", False),
    ("0x1.8p+3", "0x1.9p+3", False), ("cos=0.9987", "sin=0.9987", False), ("3/4", "3/5", False)])
def test_decimals_may_differ_in_their_last_unit_and_nothing_else(shown, printed, same):
    assert same_token(shown, printed) == same_token(printed, shown) == same


def test_any_wrong_digit_of_an_integer_table_is_found():
    table = "[[ 127 -128]\n [  36    0]]"
    page = page_of(program(f"print({table!r})", *table.split("\n")))
    assert run(page)
    for place, digit in enumerate(table):
        for other in set("0123456789") - {digit} if digit.isdigit() else ():
            wrong = table[:place] + other + table[place + 1:]
            line = 8 + table.count("\n", 0, place)
            with pytest.raises(AssertionError, match=f"^tutorial.md:{line}: the page shows"):
                run(page_of(program(f"print({table!r})", *wrong.split("\n"))))


@pytest.mark.parametrize("code, shown", [("print(36)", []), ("x = 36", ["36"]), ("print(1)\nprint(2)", ["1"]),
                                         ("print(1)", ["1", "2"])])
def test_output_that_is_not_shown_and_output_that_is_not_printed_are_refused(code, shown):
    with pytest.raises(AssertionError, match=r"^tutorial.md:\d+: the page shows"):
        run(page_of(program(code, *shown)))


def test_fences_of_a_chapter_share_names_and_chapters_do_not():
    page = page_of([*program("x = 6"), "```python", "y = 7 * x", "```", "## Two", "```python", "print(y)", "```"])
    assert len(run(page, "One")) == 2
    with pytest.raises(NameError, match="'y' is not defined"):
        run(page, "Two")


def test_an_error_and_a_warning_of_a_page_are_errors_at_their_line():
    with pytest.raises(ZeroDivisionError) as caught:
        run(page_of(program("x = 1\nx / 0")))
    assert caught.traceback[-1].lineno + 1 == 5
    with pytest.raises(UserWarning, match="careful"):
        run(page_of(program("import warnings\nwarnings.warn('careful')")))


def test_rewriting_replaces_adds_and_removes_outputs():
    page = page_of(["## One", "```python", "print(1)", "```", "", "```text", "wrong", "lines", "```", "prose",
                    "```python", "print('a  \\n\\n b\\n')", "```", "prose",
                    "```python", "x = 3", "```", "", "```text", "3", "```", "prose",
                    "## Two", "```python", "1", "```"])
    text = rewritten(page, run(page, "One", check=False))
    assert text.split("\n") == [
        "## One", "```python", "print(1)", "```", "", "```text", "1", "```", "prose",
        "```python", "print('a  \\n\\n b\\n')", "```", "", "```text", "a", "", " b", "```", "prose",
        "```python", "x = 3", "```", "prose", "## Two", "```python", "1", "```", ""]
    after = parse(text)
    assert rewritten(after, run(after, "One")) == text


# ---- tools.py

def test_required_tool_and_module_are_returned(monkeypatch):
    python = Path(sys.executable)
    monkeypatch.setenv("PATH", str(python.parent))
    assert Path(require_tool(python.name, "install Python")).parent == python.parent
    assert require_module("os.path", "install Python").join("a") == "a"


@pytest.mark.parametrize("require", [require_tool, require_module])
@pytest.mark.parametrize("name", ["refquant_no_such_thing", "refquant_no_such_thing.part"])
def test_missing_tool_or_module_skips_here_and_fails_in_ci(require, name, monkeypatch):
    reason = f"^{name} is not installed: apt-get install thing"
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=reason):
        require(name, "apt-get install thing")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=reason):
        require(name, "apt-get install thing")


def test_a_module_that_is_there_but_broken_is_not_skipped(tmp_path, monkeypatch):
    (tmp_path / "refquant_broken_thing.py").write_text("import refquant_needs_this\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="refquant_needs_this"):
        require_module("refquant_broken_thing", "pip install thing")
