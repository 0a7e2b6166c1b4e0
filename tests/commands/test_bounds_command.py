"""``refquant bounds``: its table, its JSON, and its bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from refquant.cli import main

ARGUMENTS = ["bounds", "--bits", "7", "--tile", "2,3", "--channels", "64"]


def exit_code(*arguments):
    """What the process would end with."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        return end.code


def output(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_readme_shows_its_table(capsys):
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    command, shown = page.split("```console\nrefquant bounds ")[1].split("\n```\n```text\n")[:2]
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


def run_json(capsys, *arguments):
    return json.loads(output(capsys, "bounds", *arguments, "--json"))


def test_without_a_tile_direct_convolution_alone_is_told(capsys):
    result = run_json(capsys, "--bits", "7", "--channels", "64")
    assert (result["tile"], result["kernel"]) == (None, [3, 3])
    assert [stage["stage"] for stage in result["stages"]] == ["direct", "lane"]
    assert result["stages"][0]["max"] == 64 * 9 * 63 * 63 and result["products_per_lane"] == 8
    # A fully connected layer of 1000 inputs; 2^31 - 1 holds so many products of 63·63.
    result = run_json(capsys, "--bits", "7", "--channels", "1000", "--kernel", "1,1")
    assert result["stages"][0]["min"] == -1000 * 63 * 63
    assert result["largest_channels"] == {"direct": (2**31 - 1) // 63**2}
    text = output(capsys, "bounds", "--bits", "7", "--channels", "1000", "--kernel", "1,5")
    assert text.startswith("Direct 1x5 convolution: 1000 channels of int7 narrow times int7 narrow\n")


@pytest.mark.parametrize("options, products", [
    # PAPERS: ±63·±63 -> 8, -64·-64 -> 7, unsigned 7 bits times ±63 -> 4, ±127·±127 -> 2, unsigned 8 bits -> 1.
    (["--bits", "7"], 8), (["--bits", "7", "--full-range"], 7), (["--bits", "7", "--unsigned"], 4),
    (["--bits", "8"], 2), (["--bits", "8", "--unsigned"], 1), (["--bits", "9"], None)])
def test_the_table_says_how_many_products_a_lane_holds(capsys, options, products):
    assert run_json(capsys, *options, "--channels", "64")["products_per_lane"] == products
    text = output(capsys, "bounds", *options, "--channels", "64")
    assert text.endswith(f"Products that an int16 lane holds: {products}\n" if products else
                         "No int16 lanes: an operand has more than 8 bits, or one product leaves int16\n")


def test_both_ends_have_their_operands(capsys):
    for options in (["--tile", "4,3"], [], ["--full-range"], ["--unsigned", "--tile", "2,3"]):
        for stage in run_json(capsys, "--bits", "7", "--channels", "1", *options)["stages"]:
            if stage["stage"] == "direct":
                for end in ("min", "max"):
                    x, w = (np.array(stage[f"{name}_{end}"]) for name in "xw")
                    assert int((x * w).sum()) == stage[end]
            assert stage["witness"] and stage["witness_min"]
    text = output(capsys, "bounds", "--bits", "7", "--channels", "4")
    assert re.search(r"direct +x ---/---/---, w \+\+\+/\+\+\+/\+\+\+ +x \+\+\+", text)


@pytest.mark.parametrize("accumulator", [12, 16, 17, 24, 31, 32, 33, 48, 63, 64])
@pytest.mark.parametrize("bias", [None, 2, 8, 12, 16, 32, 63])
@pytest.mark.parametrize("options", [[], ["--full-range"], ["--unsigned"], ["--unsigned", "--full-range"]])
def test_the_channel_counts_are_exact_in_any_accumulator_with_any_bias(capsys, accumulator, bias, options):
    biased = [] if bias is None else ["--bias-bits", str(bias)]
    result = run_json(capsys, "--bits", "4", *options, "--kernel", "2,2", "--channels", "3", "--accumulator-bits",
                      str(accumulator), *biased)
    # By Python's integers: the extreme products of one channel, and both ends of a two's complement bias.
    x = (0, 15) if "--unsigned" in options else (-8, 7) if options else (-7, 7)
    w = (-8, 7) if "--full-range" in options else (-7, 7)
    products = [a * b for a in x for b in w]
    b_min, b_max = (0, 0) if bias is None else (-2**(bias - 1), 2**(bias - 1) - 1)

    def fits(channels):
        return (-2**(accumulator - 1) <= 4 * channels * min(products) + b_min
                and 4 * channels * max(products) + b_max < 2**(accumulator - 1))

    count = result["largest_channels"]["direct"]
    assert not fits(count + 1) and (count == 0 or fits(count))
    assert result["accumulator"] == f"int{accumulator}"
    direct = result["stages"][0]
    assert (direct["min"], direct["max"]) == (12 * min(products) + b_min, 12 * max(products) + b_max)
    assert direct["fits_accumulator"] is fits(3)


def test_two_s_complement_is_not_symmetric(capsys):
    # 2^31 / 2^14 = 131072 products of -128·128; one bias code more or less decides.
    options = ["--bits", "8", "--full-range", "--kernel", "1,1", "--channels"]
    low = run_json(capsys, *options, "131072", "--unsigned", "--bits", "7")["stages"][0]
    assert low["min"] == -131072 * 127 * 64 and low["fits_accumulator"] is True
    high = run_json(capsys, *options, "131072")["stages"][0]
    assert (high["max"], high["fits_accumulator"]) == (2**31, False)
    assert run_json(capsys, *options, "131071")["stages"][0]["fits_accumulator"] is True


def test_a_bias_joins_winograd_after_the_division(capsys):
    plain, biased = (run_json(capsys, *ARGUMENTS[1:], *more) for more in ([], ["--bias-bits", "20"]))
    for one, other in zip(plain["stages"], biased["stages"]):
        added = (-2**19, 2**19 - 1) if one["stage"] in ("output", "direct") else (0, 0)
        assert (other["min"], other["max"]) == (one["min"] + added[0], one["max"] + added[1])
    assert biased["largest_channels"]["sum"] == plain["largest_channels"]["sum"] == 15029
    # (2^31 - 1 - (2^19 - 1)) // (9·63²), and the other side has as much room.
    assert biased["largest_channels"]["output"] == (2**31 - 2**19) // (9 * 63 * 63)


def test_a_stage_beyond_the_accumulator_is_marked(capsys):
    text = output(capsys, *ARGUMENTS, "--accumulator-bits", "24")
    marks = {line.split()[0]: line.split()[-1] for line in text.splitlines()[4:13]}
    assert marks == {"input": "6.9", "V": "7.0", "U": "5.9", "product": "13.9", "sum": "NO", "output_scaled": "NO",
                     "output": "yes", "direct": "yes", "lane": "0.0"} | {"input": marks["input"]}
    assert "Input channels that fit int24: sum 58, output_scaled 58, output 234\n" in text


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
    (["--accumulator-bits", "65"], "argument --accumulator-bits: must be from 2 to 64, got 65"),
    (["--bias-bits", "1"], "argument --bias-bits: must be from 2 to 63, got 1"),
    (["--kernel", "3,3"], "--kernel must be left out with --tile, whose kernel is R x R, got both"),
    (["--kernel", "3"], "argument --kernel: must be two numbers from 1 to 1024, as in 3,3, got 3"),
    (["--kernel", "0,3"], "argument --kernel: must be two numbers from 1 to 1024, as in 3,3, got 0,3"),
])
def test_a_callers_mistake_is_one_sentence_and_exit_code_2(changed, sentence, capsys):
    assert exit_code(*ARGUMENTS, *changed) == 2
    said = capsys.readouterr()
    assert said.out == "" and sentence in said.err and said.err.count("\n") == 1
