"""Winograd F(4,3) in int32, written again in plain C11 under the undefined behaviour sanitizer."""
from __future__ import annotations

import itertools
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from consumers.c.binary_files import build, call
from recording import winograd_with_stages
from tools import require_tool

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


def witness_groups(tile: str, x_format: IntFormat, w_format: IntFormat, channels: int):
    """Both ends of each Winograd stage, as arrays (groups, C, ., .); zeros where a stage does not look."""
    pairs = [pair for bound in winograd_bounds(tile, x_format, w_format, channels)
             if bound.stage not in ("direct", "lane")
             for pair in ((bound.x_min, bound.w_min), (bound.x_max, bound.w_max))]
    return (np.array([np.zeros((channels, 6, 6), int) if x is None else x for x, _ in pairs]),
            np.array([np.zeros((channels, 3, 3), int) if w is None else w for _, w in pairs]))


def random_groups(x_format: IntFormat, w_format: IntFormat, channels: int):
    """100 random groups, then 100 of the least and greatest codes alone."""
    rng = np.random.default_rng(channels)
    return [np.concatenate([rng.integers(fmt.min, fmt.max, (100, channels, size, size), endpoint=True),
                            rng.choice([fmt.min, fmt.max], (100, channels, size, size))])
            for fmt, size in ((x_format, 6), (w_format, 3))]


def compare(program, tile: str, x: np.ndarray, w: np.ndarray) -> None:
    """Fails unless C agrees with winograd_convolve in every stage, and with a plain loop in the output."""
    expected = {"V": [], "U": [], "sum": [], "output": []}
    for group in range(len(x)):
        _, trace = winograd_with_stages(x[group, None], w[group, None], tile)
        for stage, values in expected.items():
            values.append(trace[stage].values.ravel())
    for stage, values in expected.items():
        np.testing.assert_array_equal(run(program, stage, x, w), np.concatenate(values), stage)
    direct = np.zeros((len(x), 4, 4), np.int64)
    for p, q, r, s in itertools.product(range(4), range(4), range(3), range(3)):
        direct[:, p, q] += (x[:, :, p + r, q + s] * w[:, :, r, s]).sum(axis=1)
    np.testing.assert_array_equal(run(program, "output", x, w), direct.ravel())


@scalings
@pytest.mark.parametrize(("x_format", "w_format"), [
    (SEVEN, SEVEN), (FULL_SEVEN, FULL_SEVEN), (UNSIGNED_SEVEN, SEVEN)], ids=str)
def test_every_stage_of_f43_in_c_equals_the_reference_for_as_many_channels_as_are_proven(
        compiled, tile, defines, channels, x_format, w_format):
    proven = largest_channels(tile, x_format, w_format)["sum"]
    assert proven == channels or (x_format, w_format) != (SEVEN, SEVEN)
    for x, w in (witness_groups(tile, x_format, w_format, proven), random_groups(x_format, w_format, proven)):
        compare(compiled(*defines), tile, x, w)


@scalings
def test_one_channel_more_overflows_int32_for_the_witness_and_for_no_random_tile(compiled, tile, defines, channels):
    x, w = random_groups(SEVEN, SEVEN, channels + 1)
    compare(compiled(*defines), tile, x, w)
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
        compare(compiled("-DPLANT_FAULT"), "F(4,3)", *random_groups(SEVEN, SEVEN, 2))


def test_an_output_that_does_not_divide_is_refused(compiled):
    x, w = np.zeros((1, 1, 6, 6)), np.zeros((1, 1, 3, 3))
    x[0, 0, 2, 2] = w[0, 0, 1, 1] = 1
    with pytest.raises(AssertionError, match="exit code 2: output: is not a multiple of 576"):
        run(compiled("-DPLANT_FAULT"), "output", x, w)
