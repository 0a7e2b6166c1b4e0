"""Exercises: right solutions pass, each wrong one fails with a counter-example, stubs fail kindly."""
from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from solutions import RIGHT, WRONG
from terminal import refused

from refquant.cli import main
from refquant.exercises import EXERCISES, judge, load

STUBS = Path(__file__).parents[2] / "exercises"


def stub(number: str) -> Path:
    path, = STUBS.glob(f"{number}_*.py")
    return path


def test_every_exercise_has_a_stub_a_solution_and_three_wrong_ones():
    assert len(EXERCISES) >= 40
    assert set(EXERCISES) == set(RIGHT) == set(WRONG) == {path.name[:2] for path in STUBS.glob("*.py")}
    assert all(len(wrong) >= 3 for wrong in WRONG.values())


@pytest.fixture(scope="module")
def kills() -> dict[str, dict[str, dict[str, str]]]:
    """By exercise and property, the wrong solutions on which it fails, with what is said."""
    script = Path(__file__).with_name("killed_solutions.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert not done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", EXERCISES)
def test_the_right_solution_passes_and_each_wrong_one_fails(number, kills):
    verdict = judge(EXERCISES[number], RIGHT[number])
    assert verdict.property == "" and "is right" in verdict.text
    found = kills[number]
    assert {name for killed in found.values() for name in killed} == set(WRONG[number])
    for killed in found.values():
        assert all("your function" in said or "mutants" in said or "is no (x, m" in said for said in killed.values())


@pytest.mark.parametrize("number", EXERCISES)
def test_a_stub_says_the_whole_task_and_fails_kindly(number):
    function = load(stub(number), EXERCISES[number].function)
    assert function.__doc__ and re.search(r"Tutorial, (chapter \d|page [a-z0-9-]+)", function.__doc__)
    assert stub(number).name == f"{number}_{EXERCISES[number].function}.py"
    assert len(inspect.signature(function).parameters) == len(inspect.signature(RIGHT[number]).parameters) or (
        number in ("00", "16", "21", "27"))
    verdict = judge(EXERCISES[number], function)
    assert verdict.text == "it is not written yet: replace the line that raises NotImplementedError"


def test_the_table_of_properties_and_wrong_solutions_is_the_committed_one(request, kills):
    """Which property kills which wrong solution."""
    lines = ["| exercise | property | kills |", "|---|---|---|"]
    for number, exercise in EXERCISES.items():
        for one in exercise.properties:
            killed = ", ".join(kills[number][one.name]) or "none of these"
            lines.append(f"| {number} {exercise.function} | {one.name} | {killed} |")
    path = STUBS / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else "<!-- kills -->\n"
    head = text.split("<!-- kills -->")[0]
    if request.config.getoption("--rewrite-tutorial"):
        path.write_text(f"{head}<!-- kills -->\n" + "\n".join(lines) + "\n", encoding="utf-8")
    else:
        assert text == f"{head}<!-- kills -->\n" + "\n".join(lines) + "\n"


def test_the_command_judges_a_file_as_both_readmes_show(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text("def saturate(x, bits):\n    return max(-2**(bits - 1), min(2**(bits - 1) - 1, x))\n")
    assert main(["exercise", "02", str(mine)]) == 0
    assert capsys.readouterr().out == "Exercise 02, saturate, is right: both ends hold.\n"
    assert main(["exercise", "02", str(stub("02"))]) == 1
    assert main(["exercise"]) == 0
    assert capsys.readouterr().out.count("\n") > 40
    mine.write_text("def shift_half_even(x, n):\n    return (x + (1 << n >> 1)) >> n\n")
    assert main(["exercise", "04", str(mine)]) == 1
    shown = f"refquant exercise 04 mine.py\n```\n```text\n{capsys.readouterr().out}```\n"
    assert shown in (STUBS.parent / "README.md").read_text(encoding="utf-8")
    assert shown.split("```text")[1] in (STUBS / "README.md").read_text(encoding="utf-8")


def test_a_solution_may_change_its_arguments_and_is_compared_with_those_it_was_given():
    def right(products, bits):
        total = RIGHT["32"](products, bits)
        products[:] = 0
        return total

    def wrong(products, bits):
        products[:] = 0
        return 0

    def damages_lists(exact, damaged):
        worst = RIGHT["22"](exact, damaged)
        for a, b in zip(exact, damaged):
            b[:] = a
        return worst

    assert judge(EXERCISES["32"], right).property == judge(EXERCISES["22"], damages_lists).property == ""
    verdict = judge(EXERCISES["32"], wrong)
    assert verdict.property == "product after product"
    assert verdict.text.startswith("your function gave 0 for ([") and "([0]," not in verdict.text


def test_a_solution_that_exits_is_told_as_one_that_raises(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text("import sys\ndef saturate(x, bits):\n    sys.exit(0)\n")
    assert main(["exercise", "02", str(mine)]) == 1
    assert "your function raised SystemExit for (0, 1): 0" in capsys.readouterr().out


def test_without_hypothesis_the_command_says_what_to_install():
    script = ("import sys; sys.modules['hypothesis'] = None; from refquant.cli import main; "
              "sys.exit(main(['exercise']))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "refquant: refquant.exercises needs Hypothesis: pip install 'refquant[test]'\n"


@pytest.mark.parametrize(("text", "number", "sentence"), [
    ("def wrap(x):\n", "01", "must run as Python, got IndentationError"),
    ("import nothing_like_it\n", "01", "must run as Python, got ModuleNotFoundError"),
    ("x = 1\n", "01", "must define the function wrap, got none"),
    ("x = 1\n", "99", "the exercise must be from 00 to 39, got '99'"),
    (None, "01", "must be a Python file, got none")])
def test_a_file_that_cannot_be_judged_is_one_sentence(text, number, sentence, tmp_path, capsys):
    mine = tmp_path / "mine.py"
    if text is not None:
        mine.write_text(text)
    assert sentence in refused(capsys, "exercise", number, mine)
    assert "needs a file that defines wrap, got none" in refused(capsys, "exercise", "01")
