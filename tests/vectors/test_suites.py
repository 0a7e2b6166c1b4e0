"""What suites are made of: a generator that does not change, bytes that others read, bugs that are killed."""
from __future__ import annotations

import io
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from golden import built, written
from hypothesis import given
from hypothesis import strategies as st
from tools import require_module

from refquant.cli import main
from refquant.integers.devices import dialect_of
from refquant.integers.formats import IntFormat
from refquant.strategies import codes, int_formats
from refquant.vectors.build import SUITES, build_suite, check_kills, check_not_vacuous, kills, write_suite
from refquant.vectors.cases import Case, Tensor, case_files, hex_bytes, npy_bytes, schema, sha256
from refquant.vectors.operations import OPERATIONS
from refquant.vectors.streams import Stream


def test_the_generator_gives_the_published_words_of_splitmix64():
    # The values that are published for seed 1234567.
    assert Stream(1234567).words(5).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_the_generator_draws_every_code_in_any_number_of_parts():
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


def test_a_npy_file_has_version_1_and_a_header_of_whole_64_bytes():
    content = npy_bytes(np.zeros((3, 4), np.int32), np.dtype("<i4"))
    assert content[:8] == b"\x93NUMPY\x01\x00"
    assert (10 + int.from_bytes(content[8:10], "little")) % 64 == 0
    assert b"'descr': '<i4', 'fortran_order': False, 'shape': (3, 4), }" in content


def test_a_header_writes_the_least_int32_as_c_can_read_it():
    case = Case("least", "clip", {"low": -128}, {"x": Tensor(np.array([-(2**31)]), IntFormat(32), "input", "K"),
                                                 "expected": Tensor(np.array([-128]), IntFormat(8), "expected", "K")},
                "The least int32.")
    header = case_files(case, "by-hand")["case.h"].decode()
    assert "static const int32_t x[1] = {\n(-2147483647 - 1)\n};" in header and "enum { low = -128 };" in header


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_what_its_manifest_and_its_schemas_say(name):
    jsonschema = require_module("jsonschema", "pip install jsonschema")
    files = built(name)
    manifest = json.loads(files["manifest.json"])
    jsonschema.validate(manifest, schema("manifest"))
    assert manifest["count"] == len(manifest["cases"]) == sum(path.endswith("case.json") for path in files)
    for entry in manifest["cases"]:
        assert sha256(files[f"{entry['id']}/case.json"]) == entry["sha256"]
        case = json.loads(files[f"{entry['id']}/case.json"])
        jsonschema.validate(case, schema("case"))
        assert case["why"].endswith(".") and len(case["why"].split()) >= 3
        for tensor, described in case["tensors"].items():
            assert sha256(files[f"{entry['id']}/{tensor}.npy"]) == described["sha256"]


@pytest.mark.parametrize("name", [name for name in SUITES if name != "digits-cnn"])
def test_every_bug_of_a_suite_is_killed_and_random_numbers_alone_leave_some_alive(name):
    cases = list(SUITES[name].cases(dialect_of("single_round")))
    table = kills(cases)
    assert table and all(table.values())
    random = {case.id for case in cases if case.kind == "random"}
    if name not in ("quantize", "pwlq-dot", "dot-int16", "dot-sequential"):
        assert any(not random & set(killed) for killed in table.values())


def test_the_kill_tables_hold_the_bugs_that_devices_are_known_for():
    bugs = {bug for name in SUITES for bug in json.loads(built(name, small=False)["kills.json"])}
    assert len({bug.split(": ", 1)[1] for bug in bugs}) >= 60
    for bug in ("requantize: dialect gemmlowp_double", "requantize: rounding constant one too small",
                "requantize: wraps instead of saturating", "requantize: lets the code below the narrow range in",
                "requantize: clamps to the narrow range", "conv: pads with 0 instead of the zero point",
                "conv: kernel transposed", "dot_int16: neighbouring lanes of one operand swapped",
                "conv: sum kept in 16 bits", "dot_int16: one SMLAL too many per lane", "winograd: sign in B^T",
                "conv: m cut to its upper 16 bits", "conv: bias after requantization", "pwlq_dot: region bit ignored",
                "pwlq_dot: third sum without the weight's sign", "shift_scaler: k off by one",
                "conv: clamp before the zero point", "average_pool: padding counted"):
        assert bug in bugs, bug


@pytest.mark.parametrize("dialect", ["gemmlowp_double", "float32_half_even", "multiplier16"])
@pytest.mark.parametrize("name", ["conv-direct", "conv-depthwise", "shift-scaler", "pool-add-concat"])
def test_suites_of_other_dialects_kill_every_bug_too(name, dialect):
    files = build_suite(name, dialect)
    assert json.loads(files["manifest.json"])["dialect"]["name"] == dialect


def test_a_bug_that_no_case_kills_stops_the_build():
    cases = [case for case in SUITES["conv-direct"].cases(dialect_of("single_round")) if case.kind == "corner"]
    table = kills(cases)
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
    cases = list(SUITES["requantize"].cases(dialect_of("single_round")))
    cases = [case for case in cases if case.parameters["y_format"] == {"bits": 8, "signed": True, "narrow": False}]
    with pytest.raises(ValueError, match=sentence):
        check_not_vacuous("requantize", [replaced(case, spoil(case.tensors["expected"].values)) for case in cases])


def test_a_rounding_without_ties_and_a_layout_that_does_not_show_stop_the_build():
    cases = list(SUITES["conv-direct"].cases(dialect_of("single_round")))
    with pytest.raises(ValueError, match="conv rounds, so that a tie must occur, got none"):
        check_not_vacuous("conv-direct", [case for case in cases if case.kind != "tie"])
    square = next(case for case in cases if case.id == "dilated")
    y = square.tensors["expected"].values
    symmetric = np.broadcast_to(np.arange(y.shape[3]), y.shape).copy()
    with pytest.raises(ValueError, match="must show its layout, got outputs that are equal with axes"):
        check_not_vacuous("conv-direct", [replaced(square, symmetric) if case is square else case for case in cases])


def test_boundary_twins_are_tight():
    """By rationals: the first row of a twin fits its register in every partial sum, the second does not."""
    for case in SUITES["dot-int16"].cases(dialect_of("single_round")):
        if case.kind == "twin":
            x, w = case.inputs["x"], case.inputs["w"]
            lanes = [sum(Fraction(int(a) * int(b)) for a, b in zip(x[row, ::8], w[row, ::8])) for row in (0, 1)]
            assert -(2**15) <= lanes[0] <= 2**15 - 1
            assert not -(2**15) <= lanes[1] <= 2**15 - 1
    sums = [case for case in SUITES["dot-sequential"].cases(dialect_of("single_round")) if case.id == "twin-16-trap"]
    assert sums[0].tensors["expected"].values.tolist() == [0, 1, 0, 1]


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


def test_an_unknown_suite_is_refused():
    with pytest.raises(ValueError, match=r"suite must be one of quantize, .*, got 'convolution'"):
        build_suite("convolution")


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
        for case in SUITES[name].cases(dialect_of("single_round")):
            if case.operation in OPERATIONS:
                index = tuple(n - 1 for n in case.tensors["expected"].values.shape)
                found = OPERATIONS[case.operation].operands(case.inputs, case.parameters, index)
                assert isinstance(found, dict)
                if case.operation == "conv" and case.parameters["x_zero_point"] == 0:
                    # Σ w·x + bias is the sum at that place.
                    total = sum(a * b for a, b in zip(found["x"], found["w"])) + found.get("bias", 0)
                    acc = case.tensors["expected_acc"].values
                    assert total == acc[(*index, 0, 0)[:4]]
