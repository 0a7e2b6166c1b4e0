"""``refquant bounds``: its table, its JSON, and its bad input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refquant.cli import main

ARGUMENTS = ["bounds", "--bits", "7", "--tile", "2,3", "--channels", "64"]


def output(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_readme_shows_its_table(capsys):
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    command, shown = page.split("```console\nrefquant bounds ")[1].split("\n```\n```text\n")
    assert output(capsys, "bounds", *command.split()) == shown.split("\n```")[0] + "\n"


def test_json_has_the_documented_keys_and_the_published_values(capsys):
    result = json.loads(output(capsys, *ARGUMENTS, "--json"))
    stages = {stage["stage"]: stage for stage in result["stages"]}
    assert list(stages) == ["input", "V", "U", "product", "sum", "output_scaled", "output", "direct", "lane"]
    assert all({"stage", "min", "max", "bits", "format", "headroom_bits"} <= set(stage) for stage in stages.values())
    assert [stages[name]["max"] for name in ("V", "U", "product")] == [252, 567, 142884]
    assert stages["sum"]["max"] == 64 * 142884 and stages["direct"]["max"] == 64 * 9 * 63 * 63
    assert result["largest_channels"]["sum"] == 15029 and result["divisor"] == 4
    # The witness of direct convolution, one of 64 equal channels, attains the bound.
    x, w = (np.array(stages["direct"][name]) for name in ("x_max", "w_max"))
    assert 64 * int((x * w).sum()) == stages["direct"]["max"]


@pytest.mark.parametrize("options, x_format, w_format, x_range", [
    ([], "int7 narrow", "int7 narrow", (-63, 63)),
    (["--full-range"], "int7", "int7", (-64, 63)),
    (["--unsigned"], "uint7", "int7 narrow", (0, 127)),
    (["--unsigned", "--full-range", "--weight-bits", "6"], "uint7", "int6", (0, 127)),
])
def test_options_name_the_operands_formats(capsys, options, x_format, w_format, x_range):
    result = json.loads(output(capsys, *ARGUMENTS, *options, "--json"))
    assert (result["x_format"], result["w_format"]) == (x_format, w_format)
    assert (result["stages"][0]["min"], result["stages"][0]["max"]) == x_range


def test_a_preset_is_named_too(capsys):
    result = json.loads(output(capsys, *ARGUMENTS, "--tile", "F(4,3) ncnn", "--json"))
    assert (result["tile"], result["largest_channels"]["sum"]) == ("F(4,3) ncnn", 37)


@pytest.mark.parametrize("changed, sentence", [
    (["--bits", "1"], "argument --bits: must be from 2 to 32, got 1"),
    (["--bits", "seven"], "argument --bits: must be from 2 to 32, got seven"),
    (["--weight-bits", "99"], "argument --weight-bits: must be from 2 to 32, got 99"),
    (["--channels", "0"], "argument --channels: must be from 1 to 2147483647, got 0"),
    (["--channels", "9" * 23], f"argument --channels: must be from 1 to 2147483647, got {'9' * 23}"),
    (["--tile", "2"], "tile must be (m, r), Transforms or one of F(2,3), F(4,3), F(4,3) ncnn, F(6,3), got '2'"),
    (["--tile", "0,3"], "tile's m must be an integer from 1 to 8, got 0"),
    (["--tile", "2,9"], "tile's r must be an integer from 1 to 7, got 9"),
    (["--bits", "32", "--channels", "100000"], "which int64 does not hold"),
    (["--scaling"], "unrecognized arguments: --scaling"),
])
def test_a_callers_mistake_is_one_sentence_and_exit_code_2(changed, sentence):
    done = subprocess.run([sys.executable, "-m", "refquant", *ARGUMENTS, *changed], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(re.escape(sentence), done.stderr)
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
