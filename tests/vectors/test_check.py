"""The checker: what passes, where a device differs and like what, and files that are not what they should be."""
from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from golden import answer, by_hand, judged, written, wrong
from tools import require_module

from refquant.cli import main
from refquant.integers.formats import IntFormat
from refquant.vectors.cases import POISON, json_bytes, npy_bytes, schema, sha256
from refquant.vectors.check import check_answers, entry, text
from refquant.vectors.descriptions import NO_ANSWER
from refquant.vectors.faults import faults
from refquant.vectors.operations import requantize_case
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
    one, = wrong(found)
    assert (found.result, one.id, one.mismatches, one.index) == ("mismatch", "square-padded", 2, (1, 2, 3, 4))
    assert one.got == one.expected + 1 and one.diagnosis is None
    case = next(case for case in read_suite(suites / "conv-direct")[1] if case.id == "square-padded")
    # By hand, of the window and the kernel that are printed: Σ w·(x + 5) + bias is the sum at that place.
    total = sum(w * (x + 5) for x, w in zip(one.operands["x"], one.operands["w"])) + one.operands["bias"]
    assert total == case.tensor("expected_acc").values[1, 2, 3, 4] and one.operands["m"] == case.inputs["m"][2]
    said = text(found)
    assert "[N=1, C=2, H=3, W=4] expected" in said and f"({one.expected & 0xFF:#04x})" in said
    assert "why       Padding stands for real 0, which is the code -5." in said


def test_the_first_stage_that_differs_is_told_where_stages_were_dumped(device, suites):
    folder = device("winograd-2-3")
    spoiled(folder, "odd", lambda v: np.where(np.arange(v.size).reshape(v.shape) == 7, v + 1, v), "expected_product")
    spoiled(folder, "odd", lambda v: v + 1)
    found = wrong(check_answers(suites / "winograd-2-3", folder))
    assert [(one.id, one.first_stage) for one in found] == [("odd", "expected_product")]
    (folder / "odd" / "expected_product.npy").unlink()
    again = wrong(check_answers(suites / "winograd-2-3", folder))
    assert [one.first_stage for one in again] == ["expected"]


PADDED = "conv-direct", "square-padded", "expected"


@pytest.mark.parametrize(("where", "change", "diagnosis"), [
    (PADDED, lambda y: 0 * y, "all answers are 0"),
    (PADDED, lambda y: np.full_like(y, POISON - 256),
     "words still hold the poison -91 (a5 in every byte): never written"),
    (("requantize", "halves-int8", "expected"), lambda y: np.where(np.arange(y.size) > 200, POISON - 256, y),
     "42 of 243 words still hold the poison"),
    (PADDED, lambda y: y.ravel().reshape(-1, 4)[:, ::-1].reshape(y.shape), "lanes swapped: every 4 neighbours"),
    (PADDED, lambda y: ((y & 15) << 4 | y >> 4 & 15), "nibbles swapped in every byte"),
    (PADDED, lambda y: y.transpose(0, 2, 3, 1).reshape(y.shape), "written channels last"),
    (PADDED, lambda y: np.roll(y.ravel(), 1).reshape(y.shape), "every answer is late by one element"),
    (PADDED, lambda y: y.swapaxes(2, 3).reshape(y.shape), "rows and columns exchanged"),
    # A stage that differs is a mismatch though the output agrees.
    (("conv-direct", "relu6", "expected_acc"), lambda acc: acc + 1, "every answer is off by +1")])
def test_answers_that_look_like_a_known_mistake_are_named(device, suites, where, change, diagnosis):
    suite, case, tensor = where
    folder = device(suite)
    spoiled(folder, case, change, tensor)
    one, = wrong(check_answers(suites / suite, folder))
    assert (one.id, one.tensor) == (case, tensor) and one.first_stage in (tensor, None)
    assert diagnosis in one.diagnosis


def test_a_device_of_a_dialect_without_a_name_is_named_by_its_words(suites, tmp_path):
    words = "m15,saturate,none,to_odd,after,saturate"
    found = judged(suites / "requantize", tmp_path / "device", lambda case: np.clip(requantize_case(
        case.inputs, {**case.json["parameters"], "dialect": words})["expected"], -128, 127))
    diagnoses = [one.diagnosis for one in wrong(found) if one.id != "halves-int8"]
    assert diagnoses and all("another dialect: " in one and "to_odd" in one for one in diagnoses)


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
        found = wrong(check_answers(suites / name, folder))
        for one in found:
            y = by_case[one.id]
            fits = IntFormat(one.bits).min <= y.min() and y.max() <= IntFormat(one.bits, False).max
            if fits and NO_ANSWER not in y:
                # Where other bugs explain as much, they are named beside it.
                assert one.diagnosis and (bug in one.diagnosis or " more" in one.diagnosis
                                          or len(found) <= 2), (operation, bug, one.id, one.diagnosis)


def test_missing_cases_are_listed_and_never_passed_over(device, suites):
    folder = device("requantize")
    shutil.rmtree(folder / "halves-int8")
    for path in (folder / "near-ties-int8").glob("expected.*"):
        path.unlink()
    found = check_answers(suites / "requantize", folder)
    assert (found.result, found.code, found.missing) == ("incomplete", 3, ["near-ties-int8", "halves-int8"])
    assert "missing: near-ties-int8, halves-int8" in text(found)


# --- files that are not what they should be ----------------------------------------------------------------------

def edited(path: str, change):
    def spoil(folder):
        file = folder / path
        file.write_bytes(change(file.read_bytes()))
    return spoil


def hex_of(change):
    def spoil(folder):
        (folder / "relu6" / "expected.npy").unlink()
        edited("relu6/expected.hex", change)(folder)
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
ZEROS = npy_bytes(np.zeros((1, 5, 6, 6)), np.dtype("|u1"))
MALFORMED_ANSWERS = {
    "X and Z": (hex_of(lambda text: text[:3] + b"xZ\n" + text[6:]),
                "line 2 must be known, got 'xZ': bits that nothing drove"),
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
    "a truncated array": (npy(ZEROS[:-1]), "it is truncated or too"),
    "a gigantic shape": (npy(HUGE + b" " * (128 - len(HUGE) - 1) + b"\n"), "must have shape"),
    "no array": (npy(b"80\n80\n"), "must be a .npy file, got another kind of file"),
    "a pickle": (pickled, "must hold numbers, got pickled Python objects, which are never read"),
    "an extra case": (lambda folder: (folder / "relu7").mkdir(), "must hold cases of conv-direct alone, got relu7"),
    "an extra tensor": (lambda folder: (folder / "relu6" / "expected_sum.npy").write_bytes(b""),
                        "must be one of expected_acc, expected, got a tensor that the case has not"),
    "two answers": (edited("relu6/expected.npy", lambda _: ZEROS), "must agree, got different words"),
    "no folder": (shutil.rmtree, "must be a folder with the device's answers, got none"),
}


def manifest(**changes):
    return edited("manifest.json", lambda text: json_bytes({**json.loads(text), **changes}))


def resigned(change):
    """A manifest whose digests are right, of a first case that is changed."""
    def spoil(folder):
        found = json.loads((folder / "manifest.json").read_bytes())
        change(folder, found["cases"][0])
        lines = "".join(f"{one['id']} {one['sha256']}\n" for one in found["cases"])
        found["digest"] = sha256((lines + found["kills_sha256"]).encode())
        (folder / "manifest.json").write_bytes(json_bytes(found))
    return spoil


def gigantic(folder, entry):
    path = folder / entry["id"] / "case.json"
    case = json.loads(path.read_bytes())
    case["tensors"]["x"]["shape"] = [10**12, 10**12]
    path.write_bytes(json_bytes(case))
    entry["sha256"] = sha256(path.read_bytes())


BROKEN_SUITES = {
    "an edited tensor": (edited("relu6/x.npy", lambda text: text[:-1] + b"\x00"), r"x\.npy must have the SHA-256"),
    "an edited output": (edited("relu6/expected.npy", lambda text: text[:-1] + b"\x00"), r"expected\.npy must have"),
    "a truncated tensor": (edited("relu6/w.npy", lambda text: text[:-1]), r"w\.npy must have 308 bytes .*truncated"),
    "an edited hex": (edited("relu6/expected.hex", lambda text: b"00\n" + text[3:]), r"expected\.hex must have"),
    "an edited header": (edited("relu6/case.h", lambda text: text + b"\n"), r"case\.h must have the SHA-256"),
    "an edited case": (edited("relu6/case.json", lambda text: text.replace(b"ReLU6", b"ReLU7")), r"case\.json must"),
    "an edited kill table": (edited("kills.json", lambda text: text + b" "), r"kills\.json must have the SHA-256"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(),
                    r"manifest\.json must be readable, got: No such file"),
    "no JSON": (edited("manifest.json", lambda text: text[:-20]), r"manifest\.json must be JSON, got: "),
    "a list": (edited("manifest.json", lambda text: b"[]"), "must hold a JSON object, got list"),
    "another manifest": (manifest(format="something"), "must be the manifest of refquant golden vectors, got format"),
    "a newer manifest": (manifest(format_version=2),
                         "must be of format version 1 to 1, which this refquant reads, got version 2"),
    "another count": (manifest(count=3), "must agree with its own digest"),
    "no cases": (manifest(cases=None), "must list cases with id and sha256"),
    "a path out of the folder": (resigned(lambda _, entry: entry.update(id="../relu6")),
                                 "must be named by letters, digits, - and _, got '../relu6'"),
    "a gigantic tensor": (resigned(gigantic), r"x\.npy must have shape \(1000000000000, 1000000000000\), got \("),
}


@pytest.mark.parametrize("what", [*MALFORMED_ANSWERS, *BROKEN_SUITES])
def test_files_that_are_not_as_they_should_be_are_refused_in_one_sentence(what, device, suites, capsys):
    spoil, sentence = {**MALFORMED_ANSWERS, **BROKEN_SUITES}[what]
    folder, whole = device("conv-direct"), suites / "conv-direct"
    spoil(folder)
    suite_and_answers = (whole, folder) if what in MALFORMED_ANSWERS else (folder, whole)
    assert main(["vectors", "check", *map(str, suite_and_answers)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and re.fullmatch(f"refquant: .*{sentence}.*\n", said.err), said.err


def test_codes_beyond_their_bits_are_refused(tmp_path):
    suite = by_hand(tmp_path, [1, -2], IntFormat(7), low=-63, high=63)
    path = tmp_path / "device" / "one" / "expected.npy"
    path.parent.mkdir(parents=True)
    path.write_bytes(npy_bytes(np.array([64, -2]), np.dtype("|i1")))
    with pytest.raises(ValueError, match=r"must hold 7 bits \(-64\.\.63\), got -2\.\.64"):
        check_answers(suite, tmp_path / "device")
    path.unlink()
    path.with_suffix(".hex").write_bytes(b"01\nfe\n")
    with pytest.raises(ValueError, match="word 2 must fit 7 bits, got fe"):
        check_answers(suite, tmp_path / "device")
    path.with_suffix(".hex").write_bytes(b"01\n7e\n")
    assert check_answers(suite, tmp_path / "device").result == "pass"


def test_a_suite_of_format_1_stays_readable(tmp_path):
    """As it was committed when format 1 was defined."""
    suite = Path(__file__).with_name("format_1")
    assert check_answers(suite, suite).result == "pass"
    answer(tmp_path / "device", read_suite(suite)[1][0], np.array([35721 - 2**16]))
    one, = check_answers(suite, tmp_path / "device").cases
    assert (one.expected, one.got, one.why) == (35721, -29815, "9·(63·63) = 35721 does not fit int16.")


def test_parameters_of_another_version_are_compared_without_a_diagnosis(tmp_path):
    suite = by_hand(tmp_path, [3, 5], operation="conv", made="otherwise")
    found = judged(suite, tmp_path / "device", lambda _: [3, 9])
    assert (found.result, found.cases[0].diagnosis, found.cases[0].index) == ("mismatch", None, (1,))
    assert "operands" not in text(found)


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
    one, = (one for one in found["cases"] if one["mismatches"])
    assert set(one["first"]) == {"index", "expected", "got"}
    assert one["first"]["got"] == 255 - one["first"]["expected"]
    assert main(arguments) == 1
    assert capsys.readouterr().out.startswith("MISMATCH conv-direct: 1 cases differ, 3 agree, 1 missing.\n")
    (folder / "relu6" / "expected.npy").write_bytes(b"")
    assert main([*arguments, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, schema("result"))
    assert found["result"] == "malformed" and "relu6" in found["error"]
