"""The reference of the pages is checked: each bad page is refused with its line, each wrong digit is found."""
from __future__ import annotations

import random
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from tools import require_module, require_tool
from tutorial_runner import README_LANGUAGES, check_images, difference, parse, rewritten, run, same_token

TESTS = Path(__file__).resolve().parents[1]


def page_of(*lines: str, readme: bool = False):
    return parse("\n".join(lines) + "\n", "README.md" if readme else "tutorial.md", readme)


def program(code: str, *shown: str) -> list[str]:
    """A chapter whose code begins on line 4; of one line of code, the output shown begins on line 8."""
    lines = ["## One", "", "```python", *code.split("\n"), "```"]
    return [*lines, "", "```text", *shown, "```"] if shown else lines


def printed_by(lines: list[str]) -> list[str]:
    return [printed for _, printed in run(page_of(*lines))]


# ---- the shape of a page

MALFORMED = {
    "unknown language": (["## One", "```ruby", "```"], r"tutorial.md:2: unknown fence '```ruby'"),
    "no language": (["## One", "```", "```"], r"tutorial.md:2: unknown fence '```'"),
    "upper case": (["## One", "```Python", "```"], r"tutorial.md:2: unknown fence '```Python'"),
    "more than a language": (["## One", "```python title=x", "```"], r"tutorial.md:2: unknown fence"),
    "a README's language": (["## One", "```bibtex", "```"], r"tutorial.md:2: unknown fence"),
    "tildes": (["## One", "~~~python", "~~~"], r"tutorial.md:2: unknown fence '~~~python'"),
    "four backticks": (["## One", "````python", "````"], r"tutorial.md:2: unknown fence '````python'"),
    "indented": (["## One", "", "  ```python", "  ```"], r"tutorial.md:3: indented fence"),
    "indented by a tab": (["## One", "", "\t```python", "\t```"], r"tutorial.md:3: indented fence"),
    "in a list": (["## One", "1. ```python", "   ```"], r"tutorial.md:2: indented fence"),
    "in a quotation": (["## One", "> ```python", "> ```"], r"tutorial.md:2: indented fence"),
    "in a comment": (["## One", "<!--", "```python", "```", "-->"],
                     r"tutorial.md:3: fence inside an HTML comment"),
    "unclosed at the end": (["## One", "", "```python", "x = 1"], r"tutorial.md:3: unclosed fence"),
    "unclosed before another": (["## One", "```python", "x = 1", "", "```text"],
                                r"tutorial.md:5: unclosed fence: the one from line 2"),
    "closed by an indented fence": (["## One", "```python", "  ```", "```"],
                                    r"tutorial.md:3: unclosed fence"),
    "text after prose": ([*program("print(1)"), "It prints", "```text", "1", "```"],
                         r"tutorial.md:7: a text fence must directly follow the python fence"),
    "text after text": ([*program("print(1)", "1"), "```text", "1", "```"],
                        r"tutorial.md:10: a text fence must"),
    "text after console": (["## One", "```console", "$ ls", "```", "```text", "1", "```"],
                           r"tutorial.md:5: a text fence must"),
    "text after a heading": ([*program("print(1)"), "## Two", "```text", "1", "```"],
                             r"tutorial.md:7: a text fence must"),
    "python before the chapters": (["# Title", "```python", "```", "## One"],
                                   r"tutorial.md:2: python fence before the first chapter"),
    "one title twice": (["## One", "## Two", "## One"], r"tutorial.md:3: a second chapter is called 'One'"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_page_is_refused_with_its_line(case: str):
    lines, message = MALFORMED[case]
    with pytest.raises(ValueError, match=f"^{message}"):
        page_of(*lines)


def test_page_is_split_into_chapters_and_fences():
    page = page_of("# Title", "```math", "x", "```",
                   "## One: $2^b$", "```python", "## no chapter", "print(1)", "```  ",
                   "", "", "```text", "1", "```",
                   "## Two ", "<!-- ", "## hidden", "-->", "### part",
                   "```console", "$ refquant --help", "usage: refquant", "```")
    assert page.chapters == ["One: $2^b$", "Two"]
    assert [(f.language, f.line, f.end, f.chapter) for f in page.fences] == [
        ("math", 2, 4, ""), ("python", 6, 9, "One: $2^b$"), ("text", 12, 14, "One: $2^b$"),
        ("console", 20, 23, "Two")]
    assert page.fences[1].shown is page.fences[2] and page.fences[2].text == "1\n"
    assert page.console() == [(21, "$ refquant --help\nusage: refquant\n")]


def test_console_and_math_fences_are_not_run():
    assert run(page_of("## One", "```console", "$ false", "```", "```math", "\\frac{1}{0}", "```")) == []


def test_readme_needs_no_chapters_and_may_show_other_text():
    page = page_of("```python", "x = 6", "```", "## Use", "```python", "print(7 * x)", "```",
                   "```text", "42", "```", "Files:", "```text", "refquant/", "```",
                   "```bibtex", "@misc{}", "```", readme=True)
    assert [printed for _, printed in run(page)] == ["", "42\n"]
    for language in README_LANGUAGES:
        page_of(f"```{language}", "```", readme=True)
    with pytest.raises(ValueError, match=r"^README.md:1: unknown fence '```math'"):
        page_of("```math", "```", readme=True)


def test_readme_output_is_compared_too():
    with pytest.raises(AssertionError, match=r"^README.md:6: the page shows '2', but the code prints '1'"):
        run(page_of("```python", "print(1)", "```", "", "```text", "2", "```", readme=True))


# ---- images

@pytest.mark.parametrize(("line", "message"), [
    ("![a circle](figures/none.png)", "tutorial.md:3: image figures/none.png is missing"),
    ("![](figures/circle.png)", "tutorial.md:3: image figures/circle.png has no alt text"),
    ("![ ](figures/circle.png)", "tutorial.md:3: image figures/circle.png has no alt text"),
    ("![a circle](figures)", "tutorial.md:3: image figures is missing"),
    ("![a circle](https://example.org/circle.png)", "tutorial.md:3: image https://example.org/circle.png is"),
    ("![a circle][ref]", "tutorial.md:3: image not understood"),
    ("![a circle]()", "tutorial.md:3: image not understood"),
    ('<img src="figures/circle.png" alt="a circle">', "tutorial.md:3: image not understood"),
    ("[![a circle](figures/none.png)](circle.png)", "tutorial.md:3: image figures/none.png is missing"),
])
def test_image_without_file_or_alt_text_is_refused(line: str, message: str, tmp_path: Path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "circle.png").touch()
    with pytest.raises(ValueError, match=f"^{message}"):
        check_images(page_of("## One", "", line), tmp_path)


@pytest.mark.parametrize("line", [
    "![a circle](figures/number%20circle.png)",
    '![the `abs` trap, $W[0]$](figures/number%20circle.png "title")',
    "![two\nlines](figures/number%20circle.png?raw=true)",
    "written as `![alt](path.png)` or ``![`alt`](path)``",
    "```python\n'![not an image](none.png)'\n```",
])
def test_image_with_file_and_alt_text_is_accepted(line: str, tmp_path: Path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "number circle.png").touch()
    check_images(page_of("## One", line), tmp_path)


def test_readme_may_show_remote_images(tmp_path: Path):
    check_images(page_of("![tests: passing](https://example.org/badge.svg)", readme=True), tmp_path)


# ---- comparing

@pytest.mark.parametrize(("shown", "printed"), [
    ("-128", "-128"), ("0.9987", "0.9988"), ("0.9987", "0.9986"), ("-0.5", "-0.6"), ("0.0", "-0.0"),
    ("1.25e-05", "1.26e-05"), ("1e-05", "2e-05"), ("1.e-05", "1.e-05"), (".25", "0.25"),
    ("12345678.0", "12345680.0"),                        # 1e-6 relative
    ("0.25", "0.25000000000000006"),                     # float noise: the finer unit is far below it
    ("cos=0.9987;", "cos=0.9988;"), ("97.8%", "97.9%"), ("1.5x", "1.6x"), ("0.5ms", "0.6ms"),
])
def test_tokens_agree(shown: str, printed: str):
    assert same_token(shown, printed) and same_token(printed, shown)


@pytest.mark.parametrize(("shown", "printed"), [
    ("127", "128"), ("127", "-127"), ("127", "127.0"), ("8.", "9."), ("12345678", "12345679"),
    ("0.9987", "0.9989"), ("0.9987", "-0.9987"), ("0.5", "0.54"), ("0.54", "0.5"), ("0.5", "0.7"),
    ("1.25e-05", "1.25e-06"), ("1.25e-05", "1.27e-05"), ("nan", "inf"), ("0.5", "nan"),
    ("int8", "int9"), ("True", "False"), ("cos=0.9987", "sin=0.9987"), ("1.5x", "1.5y"), ("a0.5", "a0.6"),
    ("1.26.4", "1.27.4"), ("1.26.4", "1.26.5"),          # versions are words
    ("0x1.8p+3", "0x1.9p+3"), ("0x1.8p+3", "0x1.8p+4"),  # hexadecimal floats are exact
    ("12e4", "13e4"), ("3/4", "3/5"), ("[0.5", "(0.5"),
])
def test_tokens_differ(shown: str, printed: str):
    assert not same_token(shown, printed) and not same_token(printed, shown)


def test_any_wrong_digit_of_an_integer_table_is_found():
    table = "[[ 127 -128]\n [  36    0]]\n"
    assert difference(table, table) is None
    for place, digit in enumerate(table):
        for other in set("0123456789") - {digit} if digit.isdigit() else ():
            found = difference(table, table[:place] + other + table[place + 1:])
            assert found is not None and found[0] == table.count("\n", 0, place)


def test_any_wrong_digit_of_a_decimal_but_its_last_unit_is_found():
    for place, digit in enumerate("0.9387"):
        for other in "0123456789" if digit.isdigit() else "":
            wrong = "0.9387"[:place] + other + "0.9387"[place + 1:]
            within = other == digit or (place == 5 and abs(int(other) - int(digit)) == 1)
            assert (difference(f"cosine {wrong}", "cosine 0.9387") is None) == within


def test_spaces_between_tokens_and_at_the_ends_do_not_count():
    assert difference("[0.1 0. ]\n", "[ 0.1  0.]  \n\n") is None
    assert difference("1 2", "12") is not None


@pytest.mark.parametrize(("shown", "printed", "line", "message"), [
    ("1\n2\n", "1\n3\n", 1, "the page shows '2', but the code prints '3'"),
    ("1\n", "1\n2\n", 1, "the page ends, but the code goes on to print '2'"),
    ("1\n2\n", "1\n", 1, "the page shows '2', but the code prints no more"),
    ("1 2\n", "1\n2\n", 0, "the page shows '1 2', but the code prints '1'"),
    ("1\n\n2\n", "1\n2\n", 1, "the page shows '', but the code prints '2'"),
])
def test_difference_names_line_and_both_sides(shown: str, printed: str, line: int, message: str):
    assert difference(shown, printed) == (line, message)


# ---- running

def test_output_is_compared_where_it_is_shown():
    assert printed_by(program("print(-128)\nprint(0.9988)", "-128", "0.9987")) == ["-128\n0.9988\n"]
    message = r"^tutorial.md:10: the page shows '127', but the code prints '128'"
    with pytest.raises(AssertionError, match=message):
        run(page_of(*program("print(1)\nprint(128)", "1", "127")))


def test_output_printed_but_not_shown_is_refused():
    with pytest.raises(AssertionError, match=r"^tutorial.md:3: output printed but not shown:\n36"):
        run(page_of(*program("print(36)")))


@pytest.mark.parametrize("code", ["x = 36", "print()"])
def test_output_shown_but_not_printed_is_refused(code: str):
    with pytest.raises(AssertionError, match=r"^tutorial.md:7: output shown but nothing printed"):
        run(page_of(*program(code, "36")))


def test_blank_output_is_no_output():
    page = page_of(*program("print()"))
    assert rewritten(page, run(page)) == page.text


def test_fences_of_a_chapter_share_names_and_chapters_do_not():
    page = page_of(*program("x = 6"), "```python", "y = 7 * x", "```",
                   "## Two", "```python", "print(y)", "```")
    assert len(run(page, "One")) == 2
    with pytest.raises(NameError, match="'y' is not defined"):
        run(page, "Two")
    with pytest.raises(ValueError, match=r"^tutorial.md has no chapter 'Three'"):
        run(page, "Three")


def test_fences_share_no_names_with_the_runner():
    code = "print('parse' in globals(), 'fence' in globals(), __name__)"
    assert printed_by(program(code, "False False __main__")) == ["False False __main__\n"]


def test_fences_do_not_inherit_the_runners_future_imports():
    code = "def f(x: int): pass\nprint(f.__annotations__['x'] is int)"
    assert printed_by(program(code, "True")) == ["True\n"]


def test_traceback_names_the_line_of_the_page():
    page = page_of("# Title", "", *program("x = 1\n\nassert False, 'so'"))
    with pytest.raises(AssertionError, match="so") as caught:
        run(page)
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (frame.filename, frame.lineno, frame.line) == ("tutorial.md", 8, "assert False, 'so'")


def test_traceback_names_the_line_inside_a_function_of_an_earlier_fence():
    page = page_of(*program("def f():\n    raise RuntimeError('deep')"), "", "```python", "f()", "```")
    with pytest.raises(RuntimeError, match="deep") as caught:
        run(page)
    assert [frame.lineno for frame in traceback.extract_tb(caught.value.__traceback__)[-2:]] == [9, 5]


def test_syntax_error_names_the_line_of_the_page():
    with pytest.raises(SyntaxError) as caught:
        run(page_of(*program("x = 1\nx = = 2")))
    assert (caught.value.filename, caught.value.lineno) == ("tutorial.md", 5)


def test_warning_of_a_page_is_an_error():
    with pytest.raises(UserWarning, match="careful"):
        run(page_of(*program("import warnings\nwarnings.warn('careful')")))


def test_output_before_a_failure_is_not_lost(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ZeroDivisionError):
        run(page_of(*program("print('so far')\n1 / 0")))
    assert capsys.readouterr().out == "so far\n"


@pytest.mark.parametrize(("code", "whose"), [
    ("import numpy as np\nnp.random.seed(0)", "NumPy's global random state"),
    ("import numpy as np\nnp.random.rand()", "NumPy's global random state"),
    ("import numpy as np\nnp.random.normal()", "NumPy's global random state"),
    ("import random\nrandom.seed(0)", "the state of Python's random"),
    ("import random\nrandom.random()", "the state of Python's random"),
])
def test_global_random_state_is_refused_even_when_already_seeded_alike(code: str, whose: str):
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        with pytest.raises(AssertionError, match=f"^tutorial.md:3: this code changes {whose}"):
            run(page_of(*program(code)))
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def test_own_generators_and_hypothesis_are_welcome():
    run(page_of(*program("\n".join([
        "import random", "import numpy as np", "from hypothesis import given, settings, strategies as st",
        "random.Random(0).random()", "np.random.default_rng(0).normal()", "np.random.RandomState(0).rand()",
        "@settings(database=None)", "@given(st.integers(), st.randoms())",
        "def holds(n, rng):", "    assert n == n", "holds()"]))))


def test_print_options_and_error_states_end_with_the_chapter():
    options, errors = np.get_printoptions(), np.geterr()
    run(page_of(*program("import numpy as np\nnp.set_printoptions(precision=2)\nnp.seterr(all='raise')")))
    assert np.get_printoptions() == options and np.geterr() == errors


# ---- rewriting

def test_rewriting_replaces_adds_and_removes_outputs():
    page = page_of("## One", "```python", "print(1)", "```", "", "```text", "wrong", "lines", "```", "prose",
                   "```python", "print('a  \\n\\n b\\n')", "```", "prose",
                   "```python", "x = 3", "```", "", "```text", "3", "```", "prose",
                   "## Two", "```python", "print(2)", "```")
    text = rewritten(page, run(page, "One", reference=False))
    assert text.split("\n") == [
        "## One", "```python", "print(1)", "```", "", "```text", "1", "```", "prose",
        "```python", "print('a  \\n\\n b\\n')", "```", "", "```text", "a", "", " b", "```", "prose",
        "```python", "x = 3", "```", "prose",
        "## Two", "```python", "print(2)", "```", ""]
    after = parse(text)
    assert rewritten(after, run(after, "One")) == text


def test_rewriting_refuses_an_output_that_would_close_its_fence():
    page = page_of(*program("print(' ' + '`' * 3)", "x"))
    with pytest.raises(ValueError, match=r"^tutorial.md:3: a fence cannot hold an output with ```"):
        rewritten(page, run(page, reference=False))


# ---- the whole test, on a project of its own

def project(folder: Path, tutorial: str | None) -> Path:
    (folder / "tests" / "end_to_end").mkdir(parents=True)
    for name in ("conftest.py", "end_to_end/tutorial_runner.py", "end_to_end/test_tutorial.py"):
        shutil.copy(TESTS / name, folder / "tests" / name)
    settings = "[pytest]\ntestpaths = tests\nfilterwarnings = error\n"
    (folder / "pytest.ini").write_text(settings, encoding="utf-8")
    (folder / "README.md").write_text("```python\nprint(7)\n```\n\n```text\n7\n```\n", encoding="utf-8")
    if tutorial is not None:
        (folder / "tutorial.md").write_text(tutorial, encoding="utf-8")
    return folder


def pytest_in(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-rA", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8").stdout


WRITES_AND_PLOTS = "open('note.txt', 'w').close()\nimport matplotlib.pyplot as plt\nplt.plot([1])\n" \
                   "print(plt.get_backend().lower())"


def test_one_item_per_chapter_fails_on_a_wrong_digit_and_is_rewritten(tmp_path: Path):
    good = [*program(WRITES_AND_PLOTS, "agg"), "",
            "## Two", "", "```python", "print(-36)", "```", "", "```text", "-36", "```", ""]
    wrong = ["-35" if line == "-36" else line for line in good]
    folder = project(tmp_path, "\n".join(wrong))
    report = pytest_in(folder)
    assert "PASSED tests/end_to_end/test_tutorial.py::test_chapter_prints_what_it_shows[One]" in report
    assert "FAILED tests/end_to_end/test_tutorial.py::test_chapter_prints_what_it_shows[Two]" in report
    assert "tutorial.md:21: the page shows '-35', but the code prints '-36'" in report
    assert "1 failed, 3 passed" in report
    assert "4 passed" in pytest_in(folder, "--rewrite-tutorial")
    assert (folder / "tutorial.md").read_bytes() == "\n".join(good).encode()
    assert not list(folder.rglob("note.txt"))


@pytest.mark.parametrize(("tutorial", "reason"), [
    (None, "tutorial.md is missing: it belongs at the top of the project"),
    ("# Title\n", "tutorial.md has no chapter"),
    ("## One\n```python\n", "tutorial.md:2: unclosed fence"),
])
def test_page_that_cannot_be_run_fails_and_is_not_skipped(tutorial: str | None, reason: str, tmp_path: Path):
    report = pytest_in(project(tmp_path, tutorial))
    assert reason in report and "2 failed, 1 passed" in report


def test_failing_code_is_reported_from_the_line_of_the_page(tmp_path: Path):
    page = ["# Title", "secret prose", *program("x = 1\nassert x == 2")]
    report = pytest_in(project(tmp_path, "\n".join(page)))
    assert 'File "tutorial.md", line 7, in <module>\n    assert x == 2\n' in report
    assert not any(noise in report for noise in ("secret prose", "tutorial_runner.py", "During handling"))


# ---- tools.py

def test_required_tool_and_module_are_returned(monkeypatch: pytest.MonkeyPatch):
    python = Path(sys.executable)
    monkeypatch.setenv("PATH", str(python.parent))
    assert Path(require_tool(python.name, "install Python")).parent == python.parent
    assert require_module("os.path", "install Python").join("a") == "a"


@pytest.mark.parametrize("require", [require_tool, require_module])
@pytest.mark.parametrize("name", ["refquant_no_such_thing", "refquant_no_such_thing.part"])
def test_missing_tool_or_module_skips_here_and_fails_in_ci(
        require, name: str, monkeypatch: pytest.MonkeyPatch):
    reason = f"^{name} is not installed: apt-get install thing"
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=reason):
        require(name, "apt-get install thing")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=reason):
        require(name, "apt-get install thing")


def test_module_that_is_there_but_broken_is_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "refquant_broken_thing.py").write_text("import refquant_needs_this\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="refquant_needs_this"):
        require_module("refquant_broken_thing", "pip install thing")
