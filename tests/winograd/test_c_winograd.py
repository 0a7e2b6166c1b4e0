"""Winograd F(4,3) in int32, written again in plain C11 under the undefined behaviour sanitizer."""
from __future__ import annotations

import itertools
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from consumers.c.binary_files import build, call
from tools import require_tool
from winograd_groups import expected_stages, random_groups, witness_groups

from refquant.integers.formats import IntFormat
from refquant.winograd.bounds import largest_channels, winograd_bounds
from refquant.winograd.transforms import PRESETS

SOURCE = Path(__file__).parents[1] / "consumers" / "c" / "winograd_f43.c"
FLAGS = ("-std=c11 -O1 -Wall -Wextra -Wconversion -Werror "
         "-fsanitize=undefined,signed-integer-overflow,float-cast-overflow -fno-sanitize-recover=all").split()
# The two published scalings: the transforms, what the compiler is told, how many channels are proven in int32.
SCALINGS = [("F(4,3)", (), 9), ("F(4,3) ncnn", ("-DLATER_SCALING",), 37)]
scalings = pytest.mark.parametrize(("tile", "defines", "channels"), SCALINGS, ids=[s[0] for s in SCALINGS])
SEVEN, FULL_SEVEN, UNSIGNED_SEVEN = IntFormat(7, narrow=True), IntFormat(7), IntFormat(7, signed=False)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="MinGW's gcc has no undefined behaviour sanitizer")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """compiled(*defines): the function that runs the program built so; each is compiled once."""
    gcc = require_tool("gcc", "apt-get install gcc libc6-dev")

    @cache
    def program(*defines):
        folder = tmp_path_factory.mktemp("winograd")
        return partial(call, [build(folder, "winograd_f43", [gcc, *FLAGS, *defines], SOURCE)])

    return program


def run(program, stage: str, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """A stage of the tiles x (groups, C, 6, 6) and kernels w (groups, C, 3, 3)."""
    return program(stage, [x.astype(np.int8), w.astype(np.int8)], "<i4", x.shape[1])


def compare(program, tile: str, x: np.ndarray, w: np.ndarray) -> None:
    for stage, values in expected_stages(tile, x, w).items():
        np.testing.assert_array_equal(run(program, stage, x, w), values, stage)


@scalings
@pytest.mark.parametrize(("x_format", "w_format"), [
    (SEVEN, SEVEN), (FULL_SEVEN, FULL_SEVEN), (UNSIGNED_SEVEN, SEVEN)], ids=str)
def test_every_stage_of_f43_in_c_equals_the_reference_for_as_many_channels_as_are_proven(
        compiled, tile, defines, channels, x_format, w_format):
    proven = largest_channels(tile, x_format, w_format)["sum"]
    assert proven == channels or (x_format, w_format) != (SEVEN, SEVEN)
    setting = tile, x_format, w_format, proven
    for groups in (witness_groups(*setting), random_groups(*setting, 50), random_groups(*setting, 50, ends=True)):
        compare(compiled(*defines), tile, *groups)


@scalings
def test_one_channel_more_overflows_int32_for_the_witness_and_for_no_random_tile(compiled, tile, defines, channels):
    for ends in (False, True):
        compare(compiled(*defines), tile, *random_groups(tile, SEVEN, SEVEN, channels + 1, 50, ends))
    bound = {b.stage: b for b in winograd_bounds(tile, SEVEN, SEVEN, channels + 1)}["sum"]
    for x, w in ((bound.x_min, bound.w_min), (bound.x_max, bound.w_max)):
        with pytest.raises(AssertionError, match=r"exit code 1: .*signed integer overflow"):
            run(compiled(*defines), "sum", x[None], w[None])


def worst_term(tile: str) -> tuple[int, np.ndarray, np.ndarray]:
    """The most that a term of the output transform's first pass, Aᵀ·sum, can be, with its tile and kernel."""
    t, kernels = PRESETS[tile], np.array(list(itertools.product((-63, 63), repeat=9))).reshape(-1, 3, 3)
    u, v = t.g @ kernels @ t.g.T, np.einsum("ia,jb->ijab", t.bt, t.bt)
    # For each output row, term, kernel and column: a linear form of the tile.
    forms = np.einsum("ri,kij,ijab->irkjab", t.at, u, v)
    place = np.unravel_index(np.abs(forms).sum(axis=(-2, -1)).argmax(), forms.shape[:-2])
    return int(np.abs(forms[place]).sum()) * 63, np.sign(forms[place]) * 63, kernels[place[2]]


@pytest.mark.parametrize(("tile", "defines", "most", "fits"), [
    ("F(4,3)", (), 320_060_160, 6), ("F(4,3) ncnn", ("-DLATER_SCALING",), 160_030_080, 13)])
def test_terms_of_the_output_transform_leave_int32_before_the_sums_do_and_do_no_harm_where_they_wrap(
        compiled, tile, defines, most, fits):
    reach, x, w = worst_term(tile)
    assert reach == most and fits * most < 2**31 <= (fits + 1) * most
    for channels, overflows in ((fits, False), (fits + 1, True)):
        group = np.tile(x, (1, channels, 1, 1)), np.tile(w, (1, channels, 1, 1))
        compare(compiled(*defines), tile, *group)
        strict = compiled(*defines, "-DPLANT_UNDEFINED")
        if overflows:
            with pytest.raises(AssertionError, match=r"exit code 1: .*signed integer overflow"):
                run(strict, "output", *group)
        else:
            compare(strict, tile, *group)


def test_a_wrong_sign_planted_in_the_input_transform_is_caught(compiled):
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        compare(compiled("-DPLANT_FAULT"), "F(4,3)", *random_groups("F(4,3)", SEVEN, SEVEN, 2, 9))
