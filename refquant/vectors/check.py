"""Compares a device's outputs with a suite, case by case.

Where they differ, it says where, in which stage, and which bug would explain it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refquant.vectors.diagnosis import by_dialect, by_looks, by_models
from refquant.vectors.operations import OPERATIONS
from refquant.vectors.reading import Read, read_answer, read_suite

CODES = {"pass": 0, "mismatch": 1, "malformed": 2, "incomplete": 3}


@dataclass
class CaseResult:
    """What is known of one case.

    mismatches: how many elements of ``tensor`` differ, of ``size``: of ``expected``, or where that agrees of the
    first stage that does not. index, expected, got: of the first of them, with operands. first_stage: the first
    output that differs, where stages were dumped. likely: by keyword, what would give all of these answers.
    """

    id: str
    operation: str
    why: str
    size: int
    mismatches: int = 0
    tensor: str = "expected"
    layout: str = ""
    bits: int = 0
    index: tuple[int, ...] = ()
    expected: int = 0
    got: int = 0
    first_stage: str | None = None
    operands: dict[str, Any] = field(default_factory=dict)
    likely: dict[str, str] = field(default_factory=dict)
    diagnosis: str | None = None


@dataclass
class SuiteResult:
    """result: pass, mismatch or incomplete. missing: the cases without an answer."""

    name: str
    result: str
    missing: list[str]
    cases: list[CaseResult]

    @property
    def code(self) -> int:
        """The exit code."""
        return CODES[self.result]


def check_answers(suite: Path, device: Path) -> SuiteResult:
    """Compare what lies in ``device/CASE/`` with the suite's expected outputs.

    ValueError for a suite that is not as it was built, and for answers that cannot be read: another width, unknown
    bits, other cases. Everything missing is listed.
    """
    manifest, cases = read_suite(suite)
    if not device.is_dir():
        raise ValueError(f"{device} must be a folder with the device's answers, got none")
    known = {case.id for case in cases}
    extra = sorted(path.name for path in device.iterdir() if path.is_dir() and path.name not in known)
    if extra:
        raise ValueError(f"{device} must hold cases of {manifest['name']} alone, got {', '.join(extra[:5])}")
    results, missing = [], []
    for case in cases:
        found = _compare(case, device / case.id)
        if found is None:
            missing.append(case.id)
        else:
            results.append(found)
    wrong = [one for one in results if one.mismatches]
    if wrong:
        _diagnose(wrong, results, _killed(suite))
    result = "mismatch" if wrong else "incomplete" if missing else "pass"
    return SuiteResult(manifest["name"], result, missing, results)


def _compare(case: Read, folder: Path) -> CaseResult | None:
    """None where the case's ``expected`` is missing."""
    stages = case.stages
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix in (".npy", ".hex") and path.stem.startswith("expected") and path.stem not in stages:
                raise ValueError(f"{path} must be one of {', '.join(stages)}, got a tensor that the case has not")
    wanted, answers = {}, {}
    for name in stages:
        wanted[name] = case.tensor(name)
        got = read_answer(folder, name, wanted[name], wanted[name].values.shape) if folder.is_dir() else None
        if got is not None:
            answers[name] = got
    for name in case.json["tensors"]:
        if name not in stages:
            case.tensor(name)  # its digest
    if "expected" not in answers:
        return None
    result = CaseResult(case.id, case.json["operation"], case.json["why"], wanted["expected"].values.size)
    different = [name for name, got in answers.items() if not np.array_equal(got, wanted[name].values)]
    if not different:
        return result
    result.tensor = name = "expected" if "expected" in different else different[0]
    tensor, got = wanted[name], answers[name]
    wrong = got != tensor.values
    result.size, result.mismatches = got.size, int(wrong.sum())
    result.layout, result.bits = tensor.layout, tensor.format.bits if tensor.format else 32
    result.index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    result.expected, result.got = tensor.values[result.index].item(), got[result.index].item()
    if len(answers) > 1:
        result.first_stage = different[0]
    t, p, operation = case.inputs, case.json["parameters"], case.json["operation"]
    result.likely = by_looks(tensor, got)
    if operation in OPERATIONS and name == "expected":
        acc = answers.get("expected_acc", wanted["expected_acc"].values if "expected_acc" in wanted else None)
        try:
            result.operands = OPERATIONS[operation].operands(t, p, result.index)
            result.likely |= {bug: bug for bug in by_models(operation, t, p, tensor.values, got)}
            if not result.likely and (dialect := by_dialect(operation, t, p, acc, got)):
                result.likely = {dialect: dialect}
        except (KeyError, ValueError, TypeError, IndexError):
            pass  # parameters of a suite that another version built: compared all the same
    return result


def _killed(suite: Path) -> dict[str, set[str]]:
    path = suite / "kills.json"
    return {bug: set(ids) for bug, ids in json.loads(path.read_bytes()).items()} if path.exists() else {}


def _diagnose(wrong: list[CaseResult], answered: list[CaseResult], killed: dict[str, set[str]]) -> None:
    """Of what explains a case, keep what is contradicted least: by other wrong cases, and by cases that agree."""
    agreeing = {one.id for one in answered if not one.mismatches}
    for one in wrong:
        others = [other for other in wrong if other.operation == one.operation]
        against = {key: sum(key not in other.likely for other in others)
                   + len(killed.get(f"{one.operation}: {key}", set()) & agreeing) for key in one.likely}
        best = [one.likely[key] for key in against if against[key] == min(against.values())]
        if best:
            one.diagnosis = " or ".join(best[:4]) + (f" or {len(best) - 4} more" if len(best) > 4 else "")


def entry(found: SuiteResult) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {"result": found.result, "missing": found.missing, "cases": [
        {"id": one.id, "mismatches": one.mismatches,
         "first": {"index": list(one.index), "expected": one.expected, "got": one.got} if one.mismatches else None,
         "first_stage": one.first_stage, "diagnosis": one.diagnosis} for one in found.cases]}


def text(found: SuiteResult) -> str:
    """The result as a reader wants it."""
    wrong = [one for one in found.cases if one.mismatches]
    total = sum(one.size for one in found.cases)
    if found.result == "pass":
        return f"PASS {found.name}: {len(found.cases)} cases, {total} elements."
    agree = len(found.cases) - len(wrong)
    lines = [f"{found.result.upper()} {found.name}: {len(wrong)} cases differ, {agree} agree, "
             f"{len(found.missing)} missing."]
    for one in wrong:
        lines += ["", f"{one.id} ({one.operation}): {one.mismatches} of {one.size} elements of {one.tensor} differ",
                  f"  first     [{_place(one)}] expected {_both(one.expected, one.bits)}, "
                  f"got {_both(one.got, one.bits)}"]
        if one.operands:
            shown = ", ".join(f"{name} {_short(value)}" for name, value in one.operands.items())
            lines.append(f"  operands  {shown}")
        if one.first_stage:
            lines.append(f"  stage     {one.first_stage} is the first that differs")
        lines += [f"  why       {one.why}",
                  f"  diagnosis {one.diagnosis or 'no known bug gives all of these answers'}"]
    if found.missing:
        lines += ["", f"missing: {', '.join(found.missing)}"]
    return "\n".join(lines)


def _place(one: CaseResult) -> str:
    letters = one.layout if len(one.layout) == len(one.index) else " " * len(one.index)
    letters = "NCHW" if letters == "NCHW" else letters
    return ", ".join(f"{letter.strip() and letter + '='}{i}" for letter, i in zip(letters, one.index))


def _both(value: float, bits: int) -> str:
    """A code in decimal and in hexadecimal."""
    if isinstance(value, float):
        return repr(value)
    return f"{value} (0x{value & ((1 << bits) - 1):0{-(-bits // 4)}x})"


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 12:
        return f"[{', '.join(map(str, value[:12]))}, ... {len(value)} in all]"
    return str(value)


