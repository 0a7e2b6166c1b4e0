"""The demo on real images: its report, its targets, and its bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import refused

import refquant
from refquant.commands.demo import ROWS
from refquant.commands.evaluation import top1
from refquant.commands.report import demo_tables, draw_accuracy, draw_headroom, table
from refquant.digits.weights import calibration_images, load_digits
from refquant.recipes.quantize import quantize_network

ROW_KEYS = set("""network method label weight_bits activation_bits granularity activations dialect simulated_top1
    integer_top1 codes_equal cosine sqnr_db weight_bytes""".split())
STAGE_KEYS = {"layer", "stage", "format", "min", "max", "proven_min", "proven_max", "headroom_bits"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What the command writes with --all; also checks what it leaves behind."""
    out = tmp_path_factory.mktemp("demo") / "new"
    done = subprocess.run([sys.executable, "-m", "refquant", "demo", "--all", "--out", str(out)],
                          capture_output=True, text=True, check=True)
    assert done.stderr == "", "no progress bar without a terminal"
    assert "float top-1" in done.stdout and "headroom bits" in done.stdout
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(files) == {"accuracy.png", "headroom.png", "report.json"}
    assert all(files[name].startswith(b"\x89PNG") for name in ("accuracy.png", "headroom.png"))
    return json.loads(files["report.json"])


def row(report, granularity, bits, method="max"):
    found = [r for r in report["rows"] if (r["network"], r["method"], r["granularity"], r["weight_bits"],
                                           r["activation_bits"]) == ("digits", method, granularity, bits, bits)]
    assert len(found) == 1
    return found[0]


def test_the_report_has_the_documented_keys_and_equal_codes_in_every_row(report):
    assert report["images"] == 450 and report["refquant"] == refquant.__version__
    assert report["calibration"] == {"source": "training images", "images": 50}
    assert row(report, "channel", 5, "EasyQuant")["label"] == "easyquant-w5a5"
    assert all(set(s) == STAGE_KEYS for s in report["stages"]) and len(report["rows"]) == len(ROWS)
    for r in report["rows"]:
        assert set(r) == ROW_KEYS and r["codes_equal"] is True and r["integer_top1"] == r["simulated_top1"]
    assert sum(row.always for row in ROWS) <= 25, "the short table is short"


def test_float_accuracy_reaches_98_percent_and_three_bits_lose_ten_points(report):
    """At other widths, README's table and the figure of accuracies hold each number."""
    assert report["float_top1"] >= 98 and report["float_top1"] - row(report, "layer", 3)["integer_top1"] >= 10


def test_the_sums_seen_lie_within_the_proven_range_and_that_within_the_format(report):
    assert len(report["stages"]) >= 12
    for s in report["stages"]:
        bits = int(s["format"].removeprefix("int"))
        assert -2 ** (bits - 1) <= s["proven_min"] <= s["min"] <= s["max"] <= s["proven_max"] < 2 ** (bits - 1)
        assert s["headroom_bits"] > 0
        assert s["proven_max"] * 2 ** s["headroom_bits"] <= 2 ** (bits - 1) * (1 + 1e-9)


def test_3x3_layers_agree_with_int16_lanes_and_the_dense_ones_with_winograd_within_proven_ranges(report):
    assert [lane["layer"] for lane in report["lanes"]] == ["conv1", "dw2", "dw3", "res_a", "res_b", "dw4"]
    for lane in report["lanes"]:
        assert lane["sums_equal"] is True
        assert (lane["x_format"], lane["w_format"], lane["products_per_lane"]) == ("int7 narrow", "int7 narrow", 8)
        assert -31752 <= lane["int16_min"] < 0 < lane["int16_max"] <= 31752
    stages = ["input", "V", "U", "product", "sum", "output_scaled", "output"]
    assert [(r["tile"], r["layer"], r["stage"]) for r in report["winograd"]] == [
        (tile, layer, stage) for tile in ("F(2,3)", "F(4,3)") for layer in ("conv1", "res_a", "res_b")
        for stage in stages]
    for r in report["winograd"]:
        assert r["sums_equal"] is True and r["proven_min"] <= r["min"] <= r["max"] <= r["proven_max"]


def readme_table(marker):
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    return page.split(f"<!-- {marker}")[1].split("```text\n")[1].split("\n```")[0]


@pytest.mark.parametrize("name, draw", [("accuracy", draw_accuracy), ("headroom", draw_headroom)])
def test_the_committed_figures_draw_this_reports_numbers(report, name, draw, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "figures")
    from numbers_drawn import differences, numbers_of
    assert differences(name, numbers_of(draw(report))) == []


def test_readme_shows_this_table(report):
    """To the last digit: the scales are the same on every machine, and so is what follows from them."""
    rows = [entry for entry, row in zip(report["rows"], ROWS) if row.always]
    assert f"\n\n{readme_table('demo table: refquant demo')}\n\n" in demo_tables({**report, "rows": rows})


def test_readme_shows_the_digits_of_its_table_of_scales(report):
    shown = {}
    for line in readme_table("scales table").splitlines()[2:]:
        network, method, *values = re.split(r" {2,}", line)
        if network == "digits":
            shown[method] = values
    assert list(shown) == ["max", "percentile", "MSE", "KL", "EasyQuant", "EasyQuant, widened"]
    network, images, labels = load_digits()
    for place, bits in enumerate((8, 7, 6, 5, 4), start=1):
        options = {"weight_bits": bits, "activation_bits": bits, "activations": "signed"}
        for method, estimator in (("max", "max"), ("percentile", "percentile"), ("MSE", "mse")):
            quantized = quantize_network(network, calibration_images(), "channelwise-int8", estimator=estimator,
                                         **options)
            assert shown[method][place] == f"{top1(quantized.run(images), labels):.2f}"
        for method in ("KL", "EasyQuant"):
            assert shown[method][place] == f"{row(report, 'channel', bits, method)['integer_top1']:.2f}"
    wide = quantize_network(network, calibration_images(), "easyquant-int8", widen=True, weight_bits=4,
                            activation_bits=4)
    assert shown["EasyQuant, widened"][5] == f"{top1(wide.run(images), labels):.2f}"
    assert {values[0] for values in shown.values()} == {f"{report['float_top1']:.2f}"}


@pytest.mark.parametrize("arguments, sentence", [
    (["demo", "--out", "{file}"], "refquant: the output directory must be writable, got {file}"),
    (["demo", "--out", "{file}/below"], "refquant: the output directory must be writable, got {file}/below"),
    (["demo", "--bits"], "unrecognized arguments: --bits"), (["dmeo"], "invalid choice: 'dmeo'"),
    ([], "the following arguments are required: command")])
def test_a_callers_mistake_is_one_sentence_and_nothing_is_written(arguments, sentence, tmp_path, monkeypatch, capsys):
    file = tmp_path / "file"
    file.write_text("kept")
    monkeypatch.chdir(tmp_path)
    assert sentence.format(file=file) in refused(capsys, *(argument.format(file=file) for argument in arguments))
    assert os.listdir(tmp_path) == ["file"] and file.read_text() == "kept"


def test_tables_align_numbers_to_the_right_and_words_to_the_left():
    text = table(("name", "value"), [("a", "1"), ("long", "100")])
    assert text.splitlines() == ["name  value", "----  -----", "a         1", "long    100"]
