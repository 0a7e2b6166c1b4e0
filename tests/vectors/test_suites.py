"""Suites: a generator that does not change, bytes that others read and every machine writes, bugs that are killed."""
from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from golden import built, cases_of, written
from hypothesis import given
from hypothesis import strategies as st
from machines import MACHINES, on_x86
from tools import require_module

from refquant.cli import main
from refquant.integers.devices import DEVICES, dialect_of
from refquant.integers.dialects import NAMED
from refquant.integers.formats import IntFormat
from refquant.strategies import codes, int_formats
from refquant.vectors import build
from refquant.vectors.build import SUITES, build_suite, check_kills, check_not_vacuous, kills, write_suite
from refquant.vectors.cases import Case, Tensor, case_files, described, hex_bytes, npy_bytes, schema
from refquant.vectors.check import check_answers
from refquant.vectors.faults import faults
from refquant.vectors.layer_faults import _second_shift
from refquant.vectors.operations import OPERATIONS, requantize_case, shift_scaler_case
from refquant.vectors.streams import Stream

WRAPS = "m31,merged,none,half_up,after,wrap"
COMMITTED = json.loads(Path(__file__).with_name("digests.json").read_text())


def test_the_generator_gives_the_published_words_of_splitmix64_and_every_code_in_any_number_of_parts():
    # The values that are published for seed 1234567.
    assert Stream(1234567).words(5).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    one, other = Stream("codes"), Stream("codes")
    whole = one.integers(-3, 3, (700,))
    assert set(whole.tolist()) == set(range(-3, 4))
    np.testing.assert_array_equal(np.concatenate([other.integers(-3, 3, (n,)) for n in (1, 99, 600)]), whole)


@given(st.data(), int_formats())
def test_every_file_of_a_tensor_holds_its_values(data, fmt):
    values = data.draw(codes(fmt, data.draw(st.sampled_from([(3,), (2, 3), (1, 2, 2, 1)]))))
    tensor = Tensor(values.astype(fmt.dtype), fmt, "input", "K" * values.ndim)
    read = np.load(io.BytesIO(npy_bytes(tensor.values, tensor.dtype)), allow_pickle=False)
    assert read.dtype == fmt.dtype
    np.testing.assert_array_equal(read, values)
    lines = hex_bytes(tensor).decode().splitlines()
    # By hand: a word is the code modulo 2^bits, in as many digits as its bits fill.
    assert [int(line, 16) for line in lines] == [int(v) % 2**fmt.bits for v in values.ravel()]
    assert {len(line) for line in lines} == {-(-fmt.bits // 4)}


def test_a_header_writes_the_least_int32_as_c_can_read_it():
    case = Case("least", "clip", {"low": -128}, {"x": Tensor(np.array([-(2**31)]), IntFormat(32), "input", "K"),
                                                 "expected": Tensor(np.array([-128]), IntFormat(8), "expected", "K")},
                "The least int32.")
    header = case_files(case, "by-hand")["case.h"].decode()
    assert "static const int32_t x[1] = {\n(-2147483647 - 1)\n};" in header and "enum { low = -128 };" in header


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_has_its_committed_digest_is_what_its_schemas_say_and_passes_its_own_check(name, tmp_path):
    suite = written(name, tmp_path)
    found = check_answers(suite, shutil.copytree(suite, tmp_path / "device"))
    assert (found.result, found.code, found.missing) == ("pass", 0, []) and found.cases
    manifest = json.loads((suite / "manifest.json").read_bytes())
    assert manifest["digest"] == COMMITTED[name] and manifest["count"] == len(manifest["cases"])
    jsonschema = require_module("jsonschema", "pip install jsonschema")
    jsonschema.validate(manifest, schema("manifest"))
    for entry in manifest["cases"]:
        case = json.loads((suite / entry["id"] / "case.json").read_bytes())
        jsonschema.validate(case, schema("case"))
        assert case["why"].endswith(".") and len(case["why"].split()) >= 3


@on_x86
@pytest.mark.parametrize("machine", ["an old one", "a middling one"])
def test_every_suite_has_its_committed_digest_on_other_machines(machine):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "NPY_DISABLE"))}
    done = subprocess.run([sys.executable, "-W", "ignore", Path(__file__).with_name("digest_suites.py")],
                          env={**clean, **MACHINES[machine]}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == COMMITTED


@pytest.mark.parametrize(("name", "bugs"), [
    ("quantize", 19), ("requantize", 28), ("dot-int16", 17), ("dot-sequential", 11), ("conv-direct", 46),
    ("conv-depthwise", 44), ("winograd-2-3", 20), ("winograd-4-3", 20), ("shift-scaler", 31), ("pwlq-dot", 12),
    ("pool-add-concat", 40)])
def test_every_bug_of_a_suite_is_killed_and_random_numbers_alone_leave_some_alive(name, bugs):
    cases = cases_of(name)
    table = kills(cases)
    assert len(table) == bugs and all(table.values())
    random = {case.id for case in cases if case.kind == "random"}
    if name not in ("quantize", "pwlq-dot", "dot-int16", "dot-sequential"):
        assert any(not random & set(killed) for killed in table.values())


@pytest.mark.parametrize("dialect", ["gemmlowp_double", "float32_half_even", "multiplier16"])
@pytest.mark.parametrize("name", ["conv-direct", "conv-depthwise", "shift-scaler", "pool-add-concat"])
def test_suites_of_other_dialects_kill_every_bug_too(name, dialect):
    files = build_suite(name, dialect)
    assert json.loads(files["manifest.json"])["dialect"]["name"] == dialect


# By their words, since some have several names.
NAMES = {dialect_of(name).words: name for name in [*DEVICES, *NAMED]}
FEW_SHIFTS = ("pulp_nn", "vitis_dpu")


@pytest.mark.parametrize("dialect", NAMES.values())
def test_suites_of_every_named_dialect_can_be_built(dialect):
    for name in ("shift-scaler", "pool-add-concat"):
        if name == "pool-add-concat" and dialect in FEW_SHIFTS:
            continue
        found = json.loads(build_suite(name, dialect)["manifest.json"])
        assert found["dialect"]["words"] == dialect_of(dialect).words


@pytest.mark.parametrize(("name", "dialect"), [
    ("conv-direct", "rvv_rdn"), ("conv-depthwise", "tosa_double_round"), ("conv-direct", "vitis_dpu"),
    ("requantize", "vitis_dpu"), ("conv-direct", WRAPS), ("requantize", WRAPS), ("pool-add-concat", WRAPS),
    ("pwlq-dot", WRAPS), ("shift-scaler", "m31,merged,none,floor,after,wrap")])
def test_suites_of_dialects_that_wrap_or_have_few_bits_can_be_built(name, dialect):
    files = build_suite(name, dialect)
    if dialect == WRAPS:  # which no register does to a narrow range
        assert not any(json.loads(content)["parameters"]["y_format"]["narrow"] for path, content in files.items()
                       if path.endswith("case.json"))


@pytest.mark.parametrize(("suite", "dialect", "most"), [
    ("pool-add-concat", "pulp_nn", 7), ("pool-add-concat", "vitis_dpu", 0),
    ("digits-cnn", "m8,saturate,none,floor", 7)])
def test_a_suite_that_a_dialect_cannot_have_is_refused_before_anything_is_written(suite, dialect, most, tmp_path,
                                                                                  capsys):
    assert main(["vectors", "build", "--out", str(tmp_path / "golden"), "--suite", "dot-int16", suite, "--dialect",
                 dialect]) == 2
    assert re.fullmatch(f"refquant: the dialect of suite {suite} must take shifts up to 9, got {dialect}.*, which "
                        f"takes them up to {most}\n", capsys.readouterr().err)
    assert not (tmp_path / "golden").exists()


def test_the_bugs_of_shift_scalers_that_are_left_out_answer_alike_by_law():
    for name in ("shift_floor", "rvv_rdn", "rvv_rod", "pulp_nn"):
        for case in SUITES["shift-scaler"].cases(dialect_of(name)):
            twice = _second_shift(case.inputs, case.parameters)
            np.testing.assert_array_equal(twice, case.tensors["expected"].values)
            assert "code shifted by k afterwards" not in dict(faults("shift_scaler", case.inputs, case.parameters))
    for case in SUITES["shift-scaler"].cases(dialect_of("vitis_dpu")):
        first = {**case.inputs, "acc": case.inputs["acc"] >> case.inputs["k"], "k": 0 * case.inputs["k"]}
        np.testing.assert_array_equal(shift_scaler_case(first, case.parameters)["expected"],
                                      case.tensors["expected"].values)


def test_dialects_that_differ_in_left_alone_are_bugs_only_where_a_left_shift_leaves_int32():
    p = {"dialect": "rvv_rdn", "y_format": described(IntFormat(8)), "y_zero_point": 0}
    for x, bug in ((2**23, False), (2**24, True), (-(2**24), False), (-(2**24) - 1, True)):
        t = {"x": np.array([x]), "m": np.array([2**30]), "shift": np.array([7]), "zero_point": np.array([0])}
        found = dict(faults("requantize", t, p))
        assert ("dialect shift_floor" in found) == bug
        floors = requantize_case(t, {**p, "dialect": "shift_floor"})["expected"]
        assert bug or (requantize_case(t, p)["expected"] == floors).all()


def test_a_bug_that_no_case_kills_stops_the_build():
    table = kills(case for case in cases_of("conv-direct") if case.kind == "corner")
    with pytest.raises(ValueError, match=r"suite some must kill every bug .*, got no case for .*dialect"):
        check_kills("some", table)


def replaced(case: Case, values: np.ndarray) -> Case:
    expected = replace(case.tensors["expected"], values=values)
    return replace(case, tensors={**case.tensors, "expected": expected})


@pytest.mark.parametrize(("spoil", "sentence"), [
    (lambda y: 0 * y + 3, "must differ, got one value in"),
    (lambda y: np.where(np.arange(y.size).reshape(y.shape) % 9, 0, y), "must differ, got one value in"),
    (lambda y: np.minimum(y, 126), "saturates, so that its max must occur"),
    (lambda y: np.maximum(y, -127), "saturates, so that its min must occur")])
def test_outputs_that_could_agree_by_accident_stop_the_build(spoil, sentence):
    plain = {"bits": 8, "signed": True, "narrow": False}
    cases = [case for case in cases_of("requantize") if case.parameters["y_format"] == plain]
    with pytest.raises(ValueError, match=sentence):
        check_not_vacuous("requantize", [replaced(case, spoil(case.tensors["expected"].values)) for case in cases])


def test_a_rounding_without_ties_and_a_layout_that_does_not_show_stop_the_build():
    cases = cases_of("conv-direct")
    with pytest.raises(ValueError, match="conv rounds, so that a tie must occur, got none"):
        check_not_vacuous("conv-direct", [case for case in cases if case.kind != "tie"])
    square = next(case for case in cases if case.id == "dilated")
    y = square.tensors["expected"].values
    symmetric = np.broadcast_to(np.arange(y.shape[3]), y.shape).copy()
    with pytest.raises(ValueError, match="must show its layout, got outputs that are equal with axes"):
        check_not_vacuous("conv-direct", [replaced(square, symmetric) if case is square else case for case in cases])


def test_boundary_twins_are_tight():
    """By rationals: the first row of a twin fits its register in every partial sum, the second does not."""
    for case in cases_of("dot-int16"):
        if case.kind == "twin":
            x, w = case.inputs["x"], case.inputs["w"]
            lanes = [sum(Fraction(int(a) * int(b)) for a, b in zip(x[row, ::8], w[row, ::8])) for row in (0, 1)]
            assert -(2**15) <= lanes[0] <= 2**15 - 1
            assert not -(2**15) <= lanes[1] <= 2**15 - 1
    trap, = (case for case in cases_of("dot-sequential") if case.id == "twin-16-trap")
    assert trap.tensors["expected"].values.tolist() == [0, 1, 0, 1]


def test_a_small_suite_holds_the_same_bytes_of_fewer_cases(tmp_path):
    small, whole = built("shift-scaler"), built("shift-scaler", small=False)
    of_cases = {path: content for path, content in small.items() if "/" in path}
    assert len(small) < len(whole) and of_cases.items() <= whole.items()


def test_writing_replaces_a_suite_and_nothing_else(tmp_path):
    folder = written("pwlq-dot", tmp_path)
    (folder / "left-over").mkdir()
    assert written("pwlq-dot", tmp_path) == folder and not (folder / "left-over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["pwlq-dot"]
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="must be a suite's folder or not exist, got something else there"):
        write_suite(built("pwlq-dot").items(), tmp_path / "other")


def test_a_suite_that_cannot_be_exchanged_stays_where_it_was(tmp_path, monkeypatch):
    folder, moved = written("pwlq-dot", tmp_path), []
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    move = os.replace

    def second_fails(source, target):
        moved.append(target)
        if len(moved) == 2:
            raise OSError("disk full")
        move(source, target)

    monkeypatch.setattr(build.os, "replace", second_fails)
    with pytest.raises(OSError, match="disk full"):
        written("pwlq-dot", tmp_path)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["pwlq-dot"]


def test_the_command_builds_what_is_asked_for_and_lists_the_suites(tmp_path, capsys):
    arguments = ["vectors", "build", "--out", str(tmp_path / "golden"), "--small", "--dialect", "gemmlowp_double"]
    assert main([*arguments, "--suite", "pwlq-dot", "shift-scaler", "--suite", "dot-sequential"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in lines] == ["pwlq-dot", "shift-scaler", "dot-sequential"]
    assert ", gemmlowp_double, " in lines[1]
    assert ", single_round, " in lines[0]  # which rounds several sums once; gemmlowp_double cannot
    written = sorted(path.name for path in (tmp_path / "golden").iterdir())
    assert written == ["dot-sequential", "pwlq-dot", "shift-scaler"]
    assert main(["vectors", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n{name} " in listed for name in SUITES)


@pytest.mark.parametrize(("options", "sentence"), [
    (["--suite", "convolution"], "suite must be one of quantize, "),
    (["--dialect", "none"], "argument --dialect: "),
    (["--out", ""], "argument --out: must name a directory"),
    (["--out", "file/below"], "the output directory must be writable, got file/below: Not a directory"),
    (["--smal"], "unrecognized arguments: --smal")])
def test_a_mistake_in_a_build_is_one_sentence_and_nothing_is_written(options, sentence, tmp_path, monkeypatch,
                                                                              capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    try:
        assert main(["vectors", "build", "--out", "golden", *options]) == 2
    except SystemExit as error:
        assert error.code == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_every_operation_says_what_one_element_is_made_of():
    for name in SUITES:
        for case in cases_of(name):
            if case.operation in OPERATIONS:
                index = tuple(n - 1 for n in case.tensors["expected"].values.shape)
                found = OPERATIONS[case.operation].operands(case.inputs, case.parameters, index)
                assert isinstance(found, dict)
                if case.operation == "conv" and case.parameters["x_zero_point"] == 0:
                    # Σ w·x + bias is the sum at that place.
                    total = sum(a * b for a, b in zip(found["x"], found["w"])) + found.get("bias", 0)
                    acc = case.tensors["expected_acc"].values
                    assert total == acc[(*index, 0, 0)[:4]]
