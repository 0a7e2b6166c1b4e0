"""The page runner itself: bad pages are refused with their line, wrong digits are found; and tools.py."""
from __future__ import annotations

import pytest
from tools import require_module, require_tool
from tutorial_runner import check_images, parse, rewritten, run, same_token


def program(code: str, *shown: str) -> list[str]:
    """A chapter whose code begins on line 4; of one line of code, the output shown begins on line 8."""
    lines = ["## One", "", "```python", *code.split("\n"), "```"]
    return [*lines, "", "```text", *shown, "```"] if shown else lines


def page_of(lines: list[str]):
    return parse("\n".join(lines) + "\n")


@pytest.mark.parametrize(("lines", "message"), [
    (["## One", "```ruby", "```"], "2: unknown fence '```ruby'"),
    (["## One", "> ```python", "> ```"], "2: a fence begins in the first column"),
    (["## One", "```python", "x = 1", "", "```text"], "5: a fence begins in the first column, and after"),
    (["## One", "", "```python", "x = 1"], "3: unclosed fence"),
    ([*program("print(1)"), "It prints", "```text", "1", "```"], "7: a python fence needs a chapter, a text fence"),
    (["# Title", "```python", "```", "## One"], "2: a python fence needs a chapter"),
    (["## One", "## Two", "## One"], "3: a second chapter is called 'One'")])
def test_a_malformed_page_is_refused_with_its_line(lines, message):
    with pytest.raises(ValueError, match=f"^tutorial.md:{message}"):
        page_of(lines)


@pytest.mark.parametrize(("line", "message"), [
    ("![a circle](none.png)", "image none.png is missing"), ("![ ](circle.png)", "image circle.png has no alt text")])
def test_images_need_a_file_and_a_description(line, message, tmp_path):
    (tmp_path / "circle.png").touch()
    with pytest.raises(ValueError, match=f"^tutorial.md:3: {message}"):
        check_images(page_of(["## One", "", line]), tmp_path)


@pytest.mark.parametrize(("shown", "printed", "same"), [
    ("-128", "-128", True), ("0.9987", "0.9988", True), ("0.0", "-0.0", True), ("1.25e-05", "1.26e-05", True),
    (".25", "0.25", True), ("12345678.0", "12345680.0", True), ("0.25", "0.25000000000000006", True),
    ("97.8%", "97.9%", True), ("127", "128", False), ("127", "127.0", False), ("8.", "9.", False),
    ("0.9987", "0.9989", False), ("0.9987", "-0.9987", False), ("0.54", "0.5", False), ("nan", "inf", False),
    ("1.25e-05", "1.25e-06", False), ("True", "False", False), ("1.26.4", "1.26.5", False),
    ("0x1.8p+3", "0x1.9p+3", False), ("cos=0.9987", "sin=0.9987", False), ("3/4", "3/5", False)])
def test_decimals_may_differ_in_their_last_unit_and_nothing_else(shown, printed, same):
    assert same_token(shown, printed) == same_token(printed, shown) == same


@pytest.mark.parametrize(("code", "shown", "line"), [
    ("print('1 2\\n3 4')", ["1 2", "3 5"], 9), ("print(36)", [], 4), ("x = 36", ["36"], 8),
    ("print(1)\nprint(2)", ["1"], 10), ("print(1)", ["1", "2"], 9)])
def test_output_that_differs_is_not_shown_or_not_printed_is_refused_at_its_line(code, shown, line):
    with pytest.raises(AssertionError, match=rf"^tutorial.md:{line}: the page shows"):
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

@pytest.mark.parametrize("require", [require_tool, require_module])
@pytest.mark.parametrize("name", ["refquant_no_such_thing", "refquant_no_such_thing.part"])
def test_missing_tool_or_module_skips_here_and_fails_in_ci(require, name, monkeypatch):
    reason = f"^{name} is not installed: apt-get install thing"
    for ci, outcome in (("", pytest.skip.Exception), ("true", pytest.fail.Exception)):
        monkeypatch.setenv("CI", ci)
        with pytest.raises(outcome, match=reason):
            require(name, "apt-get install thing")


def test_a_module_that_is_there_but_broken_is_not_skipped(tmp_path, monkeypatch):
    (tmp_path / "refquant_broken_thing.py").write_text("import refquant_needs_this\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="refquant_needs_this"):
        require_module("refquant_broken_thing", "pip install thing")
