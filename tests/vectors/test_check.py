"""The checker: what passes, where a device differs and like what, and files that are not what they should be."""
from __future__ import annotations

import json
import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from golden import answer, judged, written
from tools import require_module

from refquant.cli import main
from refquant.integers.devices import dialect_of
from refquant.integers.formats import IntFormat
from refquant.vectors.build import SUITES, suite_files, write_suite
from refquant.vectors.cases import POISON, Case, Tensor, hex_bytes, json_bytes, npy_bytes, schema, sha256
from refquant.vectors.check import check_answers, entry, text
from refquant.vectors.descriptions import NO_ANSWER
from refquant.vectors.faults import faults
from refquant.vectors.reading import read_suite


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites")
    for name in ("conv-direct", "requantize", "dot-int16", "winograd-2-3", "pwlq-dot", "pool-add-concat", "quantize"):
        written(name, folder)
    return folder


@pytest.fixture
def device(suites, tmp_path):
    """A copy of a suite, for a test to spoil."""
    def copied(name: str):
        return shutil.copytree(suites / name, tmp_path / name)
    return copied


def spoiled(folder, case: str, change, name: str = "expected"):
    """Change what a device answers to a case."""
    (folder / case / f"{name}.hex").unlink(missing_ok=True)
    path = folder / case / f"{name}.npy"
    values = np.load(path)
    path.write_bytes(npy_bytes(change(values).astype(values.dtype), values.dtype))


# --- what is said of answers -------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SUITES)
def test_a_copy_of_a_suite_passes(name, tmp_path):
    suite = written(name, tmp_path)
    shutil.copytree(suite, tmp_path / "device")
    found = check_answers(suite, tmp_path / "device")
    assert (found.result, found.code, found.missing) == ("pass", 0, []) and found.cases


def test_answers_in_hex_alone_pass_and_comments_of_writememh_are_passed_over(device, suites):
    folder = device("conv-direct")
    for path in folder.glob("*/*.npy"):
        path.unlink()
    path = folder / "relu6" / "expected.hex"
    path.write_bytes(b"// 0x00000000\n" + path.read_bytes())
    assert check_answers(suites / "conv-direct", folder).result == "pass"


def test_the_first_difference_is_told_with_its_place_its_operands_and_both_numbers(device, suites):
    folder = device("conv-direct")

    def later(y):
        y = y.copy()
        y[1, 2, 3, 4] += 1
        y[1, 3, 0, 0] -= 2
        return y

    spoiled(folder, "square-padded", later)
    found = check_answers(suites / "conv-direct", folder)
    one, = (case for case in found.cases if case.mismatches)
    assert (found.result, one.id, one.mismatches, one.index) == ("mismatch", "square-padded", 2, (1, 2, 3, 4))
    assert one.got == one.expected + 1 and one.diagnosis is None
    case = next(case for case in read_suite(suites / "conv-direct")[1] if case.id == "square-padded")
    t = case.inputs
    # By hand, of the window and the kernel that are printed: Σ w·(x + 5) + bias is the sum at that place.
    total = sum(w * (x + 5) for x, w in zip(one.operands["x"], one.operands["w"])) + one.operands["bias"]
    assert total == case.tensor("expected_acc").values[1, 2, 3, 4] and one.operands["m"] == t["m"][2]
    said = text(found)
    assert "[N=1, C=2, H=3, W=4] expected" in said and f"({one.expected & 0xFF:#04x})" in said
    assert "why       Padding stands for real 0, which is the code -5." in said


def test_the_first_stage_that_differs_is_told_where_stages_were_dumped(device, suites):
    folder = device("winograd-2-3")
    spoiled(folder, "odd", lambda v: np.where(np.arange(v.size).reshape(v.shape) == 7, v + 1, v), "expected_product")
    spoiled(folder, "odd", lambda v: v + 1)
    found = check_answers(suites / "winograd-2-3", folder)
    assert [(one.id, one.first_stage) for one in found.cases if one.mismatches] == [("odd", "expected_product")]
    (folder / "odd" / "expected_product.npy").unlink()
    again = check_answers(suites / "winograd-2-3", folder)
    assert [one.first_stage for one in again.cases if one.mismatches] == ["expected"]


def test_a_stage_that_differs_is_a_mismatch_though_the_output_agrees(device, suites):
    folder = device("conv-direct")
    spoiled(folder, "relu6", lambda acc: acc + 1, "expected_acc")
    found = check_answers(suites / "conv-direct", folder)
    one, = (case for case in found.cases if case.mismatches)
    assert one.tensor == one.first_stage == "expected_acc" and one.diagnosis == "every answer is off by +1"


@pytest.mark.parametrize(("change", "diagnosis"), [
    (lambda y: 0 * y, "all answers are 0"),
    (lambda y: np.full_like(y, POISON - 256), r"still hold the poison -91 \(a5 in every byte\): never written"),
    (lambda y: y.ravel().reshape(-1, 4)[:, ::-1].reshape(y.shape), "lanes swapped: every 4 neighbours"),
    (lambda y: ((y & 15) << 4 | y >> 4 & 15), "nibbles swapped in every byte"),
    (lambda y: y.transpose(0, 2, 3, 1).reshape(y.shape), "written channels last"),
    (lambda y: np.roll(y.ravel(), 1).reshape(y.shape), "every answer is late by one element"),
    (lambda y: y.swapaxes(2, 3).reshape(y.shape), "rows and columns exchanged")])
def test_answers_that_look_like_a_known_mistake_are_named(device, suites, change, diagnosis):
    import re
    folder = device("conv-direct")
    spoiled(folder, "grouped" if (folder / "grouped").exists() else "uneven", change)
    if diagnosis.startswith("lanes"):
        shutil.rmtree(folder)
        shutil.copytree(suites / "conv-direct", folder)
        spoiled(folder, "square-padded", lambda y: change(y) if y.size % 4 == 0 else y)
    found = check_answers(suites / "conv-direct", folder)
    one, = (case for case in found.cases if case.mismatches)
    assert re.search(diagnosis, one.diagnosis)


def test_poison_in_a_part_of_the_output_is_named(device, suites):
    folder = device("requantize")
    spoiled(folder, "halves-int8", lambda y: np.where(np.arange(y.size) > 200, POISON - 256, y))
    one, = (case for case in check_answers(suites / "requantize", folder).cases if case.mismatches)
    assert "42 of 243 words still hold the poison" in one.diagnosis


def test_a_device_of_a_dialect_without_a_name_is_named_by_its_words(suites, tmp_path):
    from refquant.vectors.operations import requantize_case
    words = "m15,saturate,none,to_odd,after,saturate"
    found = judged(suites / "requantize", tmp_path / "device", lambda case: np.clip(requantize_case(
        case.inputs, {**case.json["parameters"], "dialect": words})["expected"], -128, 127))
    wrong = [one.diagnosis for one in found.cases if one.mismatches and one.id != "halves-int8"]
    assert wrong and all("another dialect: " in one and "to_odd" in one for one in wrong)


@pytest.mark.parametrize("name", ["requantize", "conv-direct", "dot-int16", "pwlq-dot", "pool-add-concat",
                                  "quantize"])
def test_every_bug_of_the_kill_table_is_named_where_a_device_has_it(name, suites, tmp_path):
    cases = read_suite(suites / name)[1]
    answers: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for case in cases:
        for bug, y in faults(case.json["operation"], case.inputs, case.json["parameters"]):
            answers.setdefault((case.json["operation"], bug), {})[case.id] = y
    for number, ((operation, bug), by_case) in enumerate(answers.items()):
        folder = tmp_path / str(number)
        for case in cases:
            right = case.tensor("expected").values
            y = by_case.get(case.id, right)
            answer(folder, case, np.where(y == NO_ANSWER, right, y))
        wrong = [one for one in check_answers(suites / name, folder).cases if one.mismatches]
        for one in wrong:
            y = by_case[one.id]
            fits = IntFormat(one.bits).min <= y.min() and y.max() <= IntFormat(one.bits, False).max
            if fits and NO_ANSWER not in y:
                # Where other bugs explain as much, they are named beside it.
                assert one.diagnosis and (bug in one.diagnosis or " more" in one.diagnosis
                                          or len(wrong) <= 2), (operation, bug, one.id, one.diagnosis)


def test_missing_cases_are_listed_and_never_passed_over(device, suites):
    folder = device("requantize")
    shutil.rmtree(folder / "halves-int8")
    for path in (folder / "near-ties-int8").glob("expected.*"):
        path.unlink()
    found = check_answers(suites / "requantize", folder)
    assert (found.result, found.code, found.missing) == ("incomplete", 3, ["near-ties-int8", "halves-int8"])
    assert "missing: near-ties-int8, halves-int8" in text(found)


# --- files that are not what they should be ----------------------------------------------------------------------

def hex_of(change):
    def spoil(folder):
        path = folder / "relu6" / "expected.hex"
        (folder / "relu6" / "expected.npy").unlink()
        path.write_bytes(change(path.read_bytes()))
    return spoil


def npy(content: bytes):
    def spoil(folder):
        (folder / "relu6" / "expected.hex").unlink()
        (folder / "relu6" / "expected.npy").write_bytes(content)
    return spoil


def pickled(folder):
    (folder / "relu6" / "expected.hex").unlink()
    np.save(folder / "relu6" / "expected.npy", np.array([{}], object), allow_pickle=True)


HUGE = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000), }"
MALFORMED = {
    "X": (hex_of(lambda text: b"xx\n" + text[3:]), "line 1 must be known, got 'xx': bits that nothing drove"),
    "Z": (hex_of(lambda text: text[:3] + b"zZ\n" + text[6:]), "line 2 must be known, got 'zZ'"),
    "no newline": (hex_of(lambda text: text[:-1]), "must end with a newline, got none"),
    "CRLF": (hex_of(lambda text: text.replace(b"\n", b"\r\n")), "must end its lines with LF alone, got CR LF"),
    "a word too wide": (hex_of(lambda text: b"0" + text), "line 1 must have 2 digits, got '014' with 3"),
    "a sign": (hex_of(lambda text: b"-1\n" + text[3:]), "line 1 must be 2 hexadecimal digits, got '-1'"),
    "a word less": (hex_of(lambda text: text[3:]), "must hold 180 words, got 179"),
    "a word more": (hex_of(lambda text: text + b"00\n"), "must hold 180 words, got 181"),
    "an endless text": (hex_of(lambda text: text * 1000), "must hold 180 words of 2 digits, got 540000 bytes"),
    "another dtype": (npy(npy_bytes(np.zeros((1, 5, 6, 6)), np.dtype("<i2"))), "must hold uint8, got int16"),
    "another shape": (npy(npy_bytes(np.zeros((1, 5, 6, 5)), np.dtype("|u1"))),
                      r"must have shape \(1, 5, 6, 6\), got \(1, 5, 6, 5\)"),
    "a truncated array": (npy(npy_bytes(np.zeros((1, 5, 6, 6)), np.dtype("|u1"))[:-1]), "it is truncated or too"),
    "a gigantic shape": (npy(HUGE + b" " * (128 - len(HUGE) - 1) + b"\n"), "must have shape"),
    "no array": (npy(b"80\n80\n"), "must be a .npy file, got another kind of file"),
    "a pickle": (pickled, "must hold numbers, got pickled Python objects, which are never read"),
    "an extra case": (lambda folder: (folder / "relu7").mkdir(), "must hold cases of conv-direct alone, got relu7"),
    "an extra tensor": (lambda folder: (folder / "relu6" / "expected_sum.npy").write_bytes(b""),
                        "must be one of expected_acc, expected, got a tensor that the case has not"),
    "two answers": (lambda folder: (folder / "relu6" / "expected.npy").write_bytes(
        npy_bytes(np.zeros((1, 5, 6, 6)), np.dtype("|u1"))), "must agree, got different words"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_answers_that_cannot_be_read_are_refused_in_one_sentence(what, device, suites, capsys):
    spoil, sentence = MALFORMED[what]
    folder = device("conv-direct")
    spoil(folder)
    tracemalloc.start()
    with pytest.raises(ValueError, match=sentence):
        check_answers(suites / "conv-direct", folder)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert main(["vectors", "check", str(suites / "conv-direct"), str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("refquant: ") and said.err.count("\n") == 1


def test_codes_beyond_their_bits_are_refused(tmp_path):
    case = Case("seven", "clip", {"low": -63, "high": 63, "y_format": {"bits": 7, "signed": True, "narrow": False}},
                {"x": Tensor(np.array([1, -2]), IntFormat(7), "input", "N"),
                 "expected": Tensor(np.array([1, -2]), IntFormat(7), "expected", "N")}, "Two codes.")
    write_suite(suite_files("by-hand", "Two codes.", dialect_of("single_round"), [case], {}), tmp_path / "by-hand")
    (tmp_path / "device" / "seven").mkdir(parents=True)
    path = tmp_path / "device" / "seven" / "expected.npy"
    path.write_bytes(npy_bytes(np.array([64, -2]), np.dtype("|i1")))
    with pytest.raises(ValueError, match=r"must hold 7 bits \(-64\.\.63\), got -2\.\.64"):
        check_answers(tmp_path / "by-hand", tmp_path / "device")
    path.unlink()
    path.with_suffix(".hex").write_bytes(b"01\nfe\n")
    with pytest.raises(ValueError, match="word 2 must fit 7 bits, got fe"):
        check_answers(tmp_path / "by-hand", tmp_path / "device")
    path.with_suffix(".hex").write_bytes(b"01\n7e\n")
    assert check_answers(tmp_path / "by-hand", tmp_path / "device").result == "pass"


def edited(path: str, change):
    def spoil(folder):
        file = folder / path
        file.write_bytes(change(file.read_bytes()))
    return spoil


def manifest(**changes):
    def spoil(folder):
        found = json.loads((folder / "manifest.json").read_bytes())
        (folder / "manifest.json").write_bytes(json_bytes({**found, **changes}))
    return spoil


def case_named(id: str):
    """A manifest whose digests are right, of a case somewhere else."""
    def spoil(folder):
        found = json.loads((folder / "manifest.json").read_bytes())
        found["cases"][0]["id"] = id
        lines = "".join(f"{one['id']} {one['sha256']}\n" for one in found["cases"])
        found["digest"] = sha256((lines + found["kills_sha256"]).encode())
        (folder / "manifest.json").write_bytes(json_bytes(found))
    return spoil


BROKEN_SUITES = {
    "an edited tensor": (edited("relu6/x.npy", lambda text: text[:-1] + b"\x00"), r"x\.npy must have the SHA-256"),
    "an edited output": (edited("relu6/expected.npy", lambda text: text[:-1] + b"\x00"), r"expected\.npy must have"),
    "a truncated tensor": (edited("relu6/w.npy", lambda text: text[:-1]), r"w\.npy must have 308 bytes .*truncated"),
    "an edited hex": (edited("relu6/expected.hex", lambda text: b"00\n" + text[3:]), r"expected\.hex must have"),
    "an edited header": (edited("relu6/case.h", lambda text: text + b"\n"), r"case\.h must have the SHA-256"),
    "an edited case": (edited("relu6/case.json", lambda text: text.replace(b"ReLU6", b"ReLU7")), r"case\.json must"),
    "an edited kill table": (edited("kills.json", lambda text: text + b" "), r"kills\.json must have the SHA-256"),
    "no JSON": (edited("manifest.json", lambda text: text[:-20]), r"manifest\.json must be JSON, got: "),
    "a list": (edited("manifest.json", lambda text: b"[]"), "must hold a JSON object, got list"),
    "another manifest": (manifest(format="something"), "must be the manifest of refquant golden vectors, got format"),
    "a newer manifest": (manifest(format_version=2),
                         "must be of format version 1 to 1, which this refquant reads, got version 2"),
    "another count": (manifest(count=3), "must agree with its own digest"),
    "no cases": (manifest(cases=None), "must list cases with id and sha256"),
    "a path out of the folder": (case_named("../relu6"), "must be named by letters, digits, - and _, got '../relu6'"),
    "a path from the root": (case_named("/etc"), "must be named by letters, digits, - and _, got '/etc'"),
}


@pytest.mark.parametrize("what", BROKEN_SUITES)
def test_a_suite_that_is_not_as_it_was_built_is_refused(what, device, suites):
    spoil, sentence = BROKEN_SUITES[what]
    folder = device("conv-direct")
    spoil(folder)
    with pytest.raises(ValueError, match=sentence):
        check_answers(folder, suites / "conv-direct")


def test_a_case_that_declares_a_gigantic_shape_is_refused_before_it_is_read(tmp_path):
    """Every digest is right, so that only the file's size shows it."""
    case = Case("huge", "clip", {"low": 0, "high": 1}, {
        "x": Tensor(np.array([1]), IntFormat(8), "input", "N"),
        "expected": Tensor(np.array([1]), IntFormat(8), "expected", "N")}, "One code.")
    files = dict(suite_files("by-hand", "One code.", dialect_of("single_round"), [case], {}))
    found = json.loads(files["huge/case.json"])
    found["tensors"]["x"]["shape"] = [10**12, 10**12]
    files["huge/case.json"] = json_bytes(found)
    listed = json.loads(files["manifest.json"])
    listed["cases"][0]["sha256"] = sha256(files["huge/case.json"])
    listed["digest"] = sha256((f"huge {listed['cases'][0]['sha256']}\n" + listed["kills_sha256"]).encode())
    files["manifest.json"] = json_bytes(listed)
    write_suite(files.items(), tmp_path / "by-hand")
    with pytest.raises(ValueError, match=r"x\.npy must have shape \(1000000000000, 1000000000000\), got \(1,\)"):
        check_answers(tmp_path / "by-hand", tmp_path / "by-hand")


def test_a_suite_of_format_1_stays_readable(tmp_path):
    """As it was committed when format 1 was defined."""
    suite = Path(__file__).with_name("format_1")
    assert check_answers(suite, suite).result == "pass"
    answer(tmp_path / "device", read_suite(suite)[1][0], np.array([35721 - 2**16]))
    one, = check_answers(suite, tmp_path / "device").cases
    assert (one.expected, one.got, one.why) == (35721, -29815, "9·(63·63) = 35721 does not fit int16.")


def test_parameters_of_another_version_are_compared_without_a_diagnosis(tmp_path):
    case = Case("other", "conv", {"made": "otherwise"}, {
        "x": Tensor(np.array([1, 2]), IntFormat(8), "input", "N"),
        "expected": Tensor(np.array([3, 5]), IntFormat(8), "expected", "N")}, "Two codes.")
    write_suite(suite_files("by-hand", "Two codes.", dialect_of("single_round"), [case], {}), tmp_path / "by-hand")
    answer(tmp_path / "device", read_suite(tmp_path / "by-hand")[1][0], np.array([3, 9]))
    found = check_answers(tmp_path / "by-hand", tmp_path / "device")
    assert (found.result, found.cases[0].diagnosis, found.cases[0].index) == ("mismatch", None, (1,))


# --- the command -------------------------------------------------------------------------------------------------

def test_the_command_prints_what_its_schema_says(device, suites, capsys):
    jsonschema = require_module("jsonschema", "pip install jsonschema")
    folder = device("conv-direct")
    spoiled(folder, "relu6", lambda y: 255 - y)
    shutil.rmtree(folder / "linear")
    arguments = ["vectors", "check", str(suites / "conv-direct"), str(folder)]
    assert main([*arguments, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, schema("result"))
    assert found["result"] == "mismatch" and found["missing"] == ["linear"]
    assert found == entry(check_answers(suites / "conv-direct", folder))
    wrong, = (one for one in found["cases"] if one["mismatches"])
    first = wrong["first"]
    assert set(first) == {"index", "expected", "got"} and first["got"] == 255 - first["expected"]
    assert main(arguments) == 1
    assert capsys.readouterr().out.startswith("MISMATCH conv-direct: 1 cases differ, 3 agree, 1 missing.\n")
    (folder / "relu6" / "expected.npy").write_bytes(b"")
    assert main([*arguments, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, schema("result"))
    assert found["result"] == "malformed" and "relu6" in found["error"]


def test_a_device_that_is_no_folder_is_refused(suites, tmp_path):
    with pytest.raises(ValueError, match="must be a folder with the device's answers, got none"):
        check_answers(suites / "requantize", tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"manifest\.json must be readable, got: No such file"):
        check_answers(tmp_path, suites / "requantize")


def test_ten_million_elements_are_checked_in_less_than_five_seconds(tmp_path):
    count = 10**7
    y = (np.arange(count) * 2654435761 >> 7).astype(np.int8)
    case = Case("large", "clip", {"low": -128, "high": 127}, {
        "x": Tensor(y[:1000], IntFormat(8), "input", "N"), "expected": Tensor(y, IntFormat(8), "expected", "N")},
        "Many.")
    write_suite(suite_files("by-hand", "Many.", dialect_of("single_round"), [case], {}), tmp_path / "by-hand")
    (tmp_path / "device" / "large").mkdir(parents=True)
    (tmp_path / "device" / "large" / "expected.hex").write_bytes(hex_bytes(case.tensors["expected"]))
    start = time.perf_counter()
    assert check_answers(tmp_path / "by-hand", tmp_path / "device").result == "pass"
    assert time.perf_counter() - start < 5
