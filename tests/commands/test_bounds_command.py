"""``refquant bounds``: its table, its JSON, and its bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from terminal import printed, refused

ARGUMENTS = ["--bits", "7", "--tile", "2,3", "--channels", "64"]


def described(capsys, *arguments):
    return json.loads(printed(capsys, "bounds", *arguments, "--json"))


def test_readme_shows_its_table(capsys):
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    command, shown = page.split("```console\nrefquant bounds ")[1].split("\n```\n```text\n")[:2]
    assert printed(capsys, "bounds", *command.split()) == shown.split("\n```")[0] + "\n"


def test_json_has_the_documented_keys_and_the_published_values(capsys):
    result = described(capsys, *ARGUMENTS)
    stages = {stage["stage"]: stage for stage in result["stages"]}
    assert list(stages) == ["input", "V", "U", "product", "sum", "output_scaled", "output", "direct", "lane"]
    assert all({"stage", "min", "max", "bits", "format", "headroom_bits"} <= set(stage) for stage in stages.values())
    assert [stages[name]["max"] for name in ("V", "U", "product")] == [252, 567, 142884]
    assert stages["sum"]["max"] == 64 * 142884 and stages["direct"]["max"] == 64 * 9 * 63 * 63
    assert result["largest_channels"]["sum"] == 15029 and result["divisor"] == 4
    preset = described(capsys, *ARGUMENTS, "--tile", "F(4,3) ncnn")
    assert (preset["tile"], preset["largest_channels"]["sum"]) == ("F(4,3) ncnn", 37)


@pytest.mark.parametrize("options, x_format, w_format, x_range, products", [
    # PAPERS: ±63·±63 -> 8, -64·-64 -> 7, unsigned 7 bits times ±63 -> 4, ±127·±127 -> 2, unsigned 8 bits -> 1.
    ([], "int7 narrow", "int7 narrow", (-63, 63), 8), (["--full-range"], "int7", "int7", (-64, 63), 7),
    (["--unsigned"], "uint7", "int7 narrow", (0, 127), 4),
    (["--unsigned", "--full-range", "--weight-bits", "6"], "uint7", "int6", (0, 127), 8),
    (["--bits", "8"], "int8 narrow", "int8 narrow", (-127, 127), 2),
    (["--bits", "8", "--unsigned"], "uint8", "int8 narrow", (0, 255), 1),
    (["--bits", "9"], "int9 narrow", "int9 narrow", (-255, 255), None)])
def test_options_name_the_operands_formats_and_lanes_hold_so_many_products(capsys, options, x_format, w_format,
                                                                           x_range, products):
    result = described(capsys, *ARGUMENTS, *options)
    assert (result["x_format"], result["w_format"]) == (x_format, w_format)
    assert (result["stages"][0]["min"], result["stages"][0]["max"]) == x_range
    assert result["products_per_lane"] == products
    assert printed(capsys, "bounds", *ARGUMENTS, *options).endswith(
        f"Products that an int16 lane holds: {products}\n" if products else
        "No int16 lanes: an operand has more than 8 bits, or one product leaves int16\n")


def test_without_a_tile_direct_convolution_alone_is_told(capsys):
    result = described(capsys, "--bits", "7", "--channels", "64")
    assert (result["tile"], result["kernel"]) == (None, [3, 3])
    assert [stage["stage"] for stage in result["stages"]] == ["direct", "lane"]
    text = printed(capsys, "bounds", "--bits", "7", "--channels", "1000", "--kernel", "1,5")
    assert text.startswith("Direct 1x5 convolution: 1000 channels of int7 narrow times int7 narrow\n")


def test_both_ends_have_their_operands(capsys):
    for options in (["--tile", "4,3"], [], ["--full-range"], ["--unsigned", "--tile", "2,3"]):
        for stage in described(capsys, "--bits", "7", "--channels", "1", *options)["stages"]:
            if stage["stage"] == "direct":
                for end in ("min", "max"):
                    x, w = (np.array(stage[f"{name}_{end}"]) for name in "xw")
                    assert int((x * w).sum()) == stage[end]
            assert stage["witness"] and stage["witness_min"]
    text = printed(capsys, "bounds", "--bits", "7", "--channels", "4")
    assert re.search(r"direct +x ---/---/---, w \+\+\+/\+\+\+/\+\+\+ +x \+\+\+", text)


@pytest.mark.parametrize("accumulator", [12, 17, 32, 63, 64])
@pytest.mark.parametrize("bias", [None, 2, 12, 32, 63])
@pytest.mark.parametrize("options", [[], ["--full-range"], ["--unsigned"], ["--unsigned", "--full-range"]])
def test_the_channel_counts_are_exact_in_any_accumulator_with_any_bias(capsys, accumulator, bias, options):
    biased = [] if bias is None else ["--bias-bits", bias]
    result = described(capsys, "--bits", "4", *options, "--kernel", "2,2", "--channels", "3", "--accumulator-bits",
                       accumulator, *biased)
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


@pytest.mark.parametrize("channels, options, end, fits", [
    # 2^31 / 2^14 = 131072 products of -128·-128 are one too many, and would fit on the negative side.
    (131072, [], {"max": 2**31}, False), (131071, [], {"max": 131071 * 2**14}, True),
    (131072, ["--unsigned", "--bits", "7", "--weight-bits", "8"], {"min": -131072 * 127 * 128}, True)])
def test_two_s_complement_is_not_symmetric(capsys, channels, options, end, fits):
    direct = described(capsys, "--bits", "8", "--full-range", "--kernel", "1,1", "--channels", channels,
                       *options)["stages"][0]
    assert end.items() <= direct.items() and direct["fits_accumulator"] is fits


def test_a_bias_joins_winograd_after_the_division(capsys):
    plain, biased = (described(capsys, *ARGUMENTS, *more) for more in ([], ["--bias-bits", "20"]))
    for one, other in zip(plain["stages"], biased["stages"]):
        added = (-2**19, 2**19 - 1) if one["stage"] in ("output", "direct") else (0, 0)
        assert (other["min"], other["max"]) == (one["min"] + added[0], one["max"] + added[1])
    assert biased["largest_channels"]["sum"] == plain["largest_channels"]["sum"] == 15029
    # (2^31 - 1 - (2^19 - 1)) // (9·63²), and the other side has as much room.
    assert biased["largest_channels"]["output"] == (2**31 - 2**19) // (9 * 63 * 63)


def test_a_stage_beyond_the_accumulator_is_marked(capsys):
    text = printed(capsys, "bounds", *ARGUMENTS, "--accumulator-bits", "24")
    marks = {line.split()[0]: line.split()[-1] for line in text.splitlines()[4:13]}
    assert [marks[name] for name in ("V", "product", "sum", "output_scaled", "output", "direct")] == [
        "7.0", "13.9", "NO", "NO", "yes", "yes"]
    assert "Input channels that fit int24: sum 58, output_scaled 58, output 234\n" in text


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
    (["--kernel", "0,3"], "argument --kernel: must be two numbers from 1 to 1024, as in 3,3, got 0,3")])
def test_a_callers_mistake_is_one_sentence(changed, sentence, capsys):
    assert sentence in refused(capsys, "bounds", *ARGUMENTS, *changed)
