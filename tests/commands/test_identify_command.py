"""``refquant identify`` and ``refquant dialects ONE OTHER``: from a csv to an answer, and what bad input gets."""

import csv
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from terminal import printed, refused, run

from refquant.commands.report import devices_table
from refquant.integers import IntFormat
from refquant.integers.devices import dialect_of
from refquant.vectors import near_ties
from refquant.vectors.descriptions import answers, rows_of

INT8 = IntFormat(8)
HEADER = "x,m,shift,zero_point,y"


def written(path, rows, codes):
    lines = [HEADER, *(",".join(map(str, row)) for row in zip(*(c.tolist() for c in rows[:4]), codes.tolist()))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["gemmlowp_double", "vitis_dpu"])
def test_from_ten_random_sums_to_a_confirmed_answer_in_three_runs(name, tmp_path, capsys):
    dialect = dialect_of(name)
    random = np.random.default_rng(5)
    rows = rows_of(random.integers(-5000, 5000, 10), np.full(10, 1717986944), np.full(10, -5), np.full(10, 3))
    table = written(tmp_path / "table.csv", rows, answers(dialect, rows, INT8))
    for probes, said in ((20, "Not decided"), (500, "Not confirmed")):
        assert said in printed(capsys, "identify", table, "--probes", probes, "--out", tmp_path)
        with open(tmp_path / "probes.csv") as file:
            head, *lines = csv.reader(file)
        asked = np.array([[int(cell) for cell in line] for line in lines]).T
        assert asked.shape == (4, probes)
        for column, values, bits in zip(head, asked, (32, 32, 8, 8)):
            words = (tmp_path / f"probes_{column}.hex").read_text().split("\n")
            assert words.pop() == "" and words == [f"{int(v) % 2**bits:0{bits // 4}x}" for v in values]
        rows = rows.beside(rows_of(*asked))
        written(table, rows, answers(dialect, rows, INT8))
    text = printed(capsys, "identify", table)
    assert "Confirmed by" in text and name in text
    result = json.loads(printed(capsys, "identify", table, "--json"))
    assert result["confirmed"] and result["classes"] == 1 and result["nearest"] == []
    assert any(dialect_of(fit["words"]) == dialect for fit in result["fits"])


def test_a_table_of_M_is_read_as_such(tmp_path, capsys):
    """M = 0.1 in float64 is not m·2^(shift-31), which rounds 5·0.1 = 0.5000..01 down at the tie below."""
    table = tmp_path / "table.csv"
    table.write_text("x,M,zero_point,y\n5,0.1,0,1\n-5,0.1,0,-1\n1,0.25,0,0\n3,0.5,0,2\n")
    words = [fit["words"] for fit in json.loads(printed(capsys, "identify", table, "--json"))["fits"]]
    assert "real,merged,none,half_even,after,saturate" in words
    assert "m31,merged,none,floor,after,saturate" not in words


def test_a_device_outside_gets_exit_code_1_and_the_nearest(tmp_path, capsys):
    rows = near_ties(INT8, 300)
    codes = np.clip(answers(dialect_of("single_round"), rows, INT8), -127, 127)
    table = written(tmp_path / "table.csv", rows, codes)
    code, text, _ = run(capsys, "identify", table)
    assert code == 1 and "no description fits, and none fits rows 1.." in text and "Nearest:" in text
    assert "(single_round, tosa_single_round, xnnpack_rndnu)" in text and "got -127" in text
    code, text, _ = run(capsys, "identify", table, "--json")
    result = json.loads(text)
    assert code == 1 and result["fits"] == [] and result["classes"] == 0 and not result["confirmed"]
    assert len(result["nearest"]) == 3 and result["nearest"][0]["different"] < 20


def test_a_hundred_thousand_rows_take_less_than_ten_seconds(tmp_path, capsys):
    rows = near_ties(INT8, 100_000)
    table = written(tmp_path / "table.csv", rows, answers(dialect_of("float32_half_even"), rows, INT8))
    start = time.process_time()
    assert "Confirmed" in printed(capsys, "identify", table) and time.process_time() - start < 10


@pytest.mark.parametrize("content, message", [
    ("", "must hold a header and rows, got an empty file"),
    (f"{HEADER}\n", "must hold rows below its header, got none"),
    ("x,m,shift,y\n1,1073741824,0,1\n",
     "the header must be x,m,shift,zero_point,y or x,M,zero_point,y, got x,m,shift,y"),
    (f"{HEADER}\n1,1073741824,0,0\n", "row 1 must have 5 values, got 4"),
    (f"{HEADER}\n1,1073741824,0,0,128\n", "row 1: y must be from -128 to 127, got 128"),
    (f"{HEADER}\n2147483648,1073741824,0,0,1\n", "row 1: x must be from -2147483648 to 2147483647, got 2147483648"),
    (f"{HEADER}\n1,1073741823,0,0,1\n",
     "row 1: m must be from 1073741824 to 2147483647 (normalised, since M is derived from it), got 1073741823"),
    (f"{HEADER}\n1,1073741824,31,0,1\n", "row 1: shift must be from -31 to 30, got 31"),
    (f"{HEADER}\n1.5,1073741824,0,0,1\n", "row 1: x must be an integer, got '1.5'"),
    ("x,M,zero_point,y\n1,nan,0,1\n", "row 1: M must be from 2^-32 to below 2^30, got nan"),
    ("x,M,zero_point,y\n1,half,0,1\n", "row 1: M must be a number, got 'half'")])
def test_bad_tables_get_one_sentence(content, message, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text(content)
    assert refused(capsys, "identify", table) == f"refquant: {table}: {message}\n"


def test_rows_of_two_devices_get_one_sentence(tmp_path, capsys):
    rows = near_ties(INT8, 400)
    codes = [answers(dialect_of(name), rows, INT8) for name in ("neon_double", "float32_half_even")]
    table = written(tmp_path / "table.csv", rows, np.where(np.arange(400) < 200, *codes))
    assert "these do not go together" in refused(capsys, "identify", table)
    assert "none.csv" in refused(capsys, "identify", tmp_path / "none.csv")


def test_readme_shows_this_commands_answer_and_table(tmp_path, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    pattern = (r"```text\n(x,m,shift,.*?)```\n\n"
               r"```console\nrefquant identify device.csv --probes 20\n```\n```text\n(.*?)```")
    table, shown = re.search(pattern, readme, re.DOTALL).groups()
    (tmp_path / "device.csv").write_text(table)
    assert printed(capsys, "identify", tmp_path / "device.csv") == shown
    assert f"```text\n{devices_table()}\n```" in readme


def test_two_dialects_and_their_smallest_difference(capsys):
    text = printed(capsys, "dialects", "gemmlowp_double", "single_round")
    assert text.startswith("x = 1, m = 1073741824, shift = -1, zero point 0: x·M = 0.25")
    assert printed(capsys, "dialects", "rvv_rnu", "neon_double") == (
        "No input was found on which rvv_rnu and neon_double differ, for int8 codes.\n")
    assert refused(capsys, "dialects", "rvv", "neon_double").startswith("refquant: dialect must be a name, such as")
    assert refused(capsys, "dialects", "rvv_rnu") == "refquant: dialects takes no dialect or two, got 1\n"
