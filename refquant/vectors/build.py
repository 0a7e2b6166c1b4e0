"""Suites of golden cases: built, and written.

A suite is shown to kill every bug that applies to it, and not to be vacuous; digits-cnn and networks are not.

    DIR/SUITE/manifest.json     what it is; every case with the digest of its case.json; the digest of all of it
    DIR/SUITE/kills.json        the kill table: each bug, and the cases in which its answers differ
    DIR/SUITE/CASE/...          ``cases``
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import refquant
from refquant.digits.weights import calibration_images, load_digits
from refquant.integers.devices import dialect_of, name_of, names_of
from refquant.integers.dialects import FORMULAS, Dialect, legal_shifts
from refquant.network.program import GUARD_BITS
from refquant.recipes.quantize import quantize_network
from refquant.vectors import layer_suites, suites, winograd_suites
from refquant.vectors.cases import FORMAT, POISON, VERSION, Case, case_files, format_of, json_bytes, sha256
from refquant.vectors.descriptions import NO_ANSWER
from refquant.vectors.faults import faults
from refquant.vectors.network_cases import network_cases
from refquant.vectors.operations import OPERATIONS

MANIFEST, KILLS = "manifest.json", "kills.json"
# A layer with more products than this has no row of its own in a kill table: forty models of it would take too long.
_MOST_PRODUCTS = 1 << 25


def digits_suite(dialect: Dialect) -> Iterator[Case]:
    """The bundled CNN with affine activations, layer by layer and end to end, on three images."""
    network, images, _ = load_digits()
    quantized = quantize_network(network, calibration_images(), "channelwise-int8", activations="affine",
                                 dialect=dialect)
    yield from network_cases(quantized, quantized.quantize_images(images[:3]))


class Suite(NamedTuple):
    """cases: a function of the dialect. about: in one line. shift: the greatest that the dialect must take."""

    cases: Callable[[Dialect], Iterable[Case]]
    about: str
    shift: int


def _suite(cases: Callable[[Dialect], Iterable[Case]], shift: int = 0) -> Suite:
    return Suite(cases, (cases.__doc__ or "").strip(), shift)


SUITES = {
    "quantize": _suite(suites.quantize_suite),
    "requantize": _suite(suites.requantize_suite),
    "dot-int16": _suite(suites.dot_int16_suite),
    "dot-sequential": _suite(suites.dot_sequential_suite),
    "conv-direct": _suite(layer_suites.conv_direct_suite),
    "conv-depthwise": _suite(layer_suites.conv_depthwise_suite),
    "winograd-2-3": _suite(winograd_suites.winograd_2_3_suite),
    "winograd-4-3": _suite(winograd_suites.winograd_4_3_suite),
    "shift-scaler": _suite(layer_suites.shift_scaler_suite),
    "pwlq-dot": _suite(layer_suites.pwlq_dot_suite),
    "pool-add-concat": _suite(layer_suites.pool_add_concat_suite, GUARD_BITS + 1),
    "digits-cnn": _suite(digits_suite, GUARD_BITS + 1),
}


def check_suite(name: str, dialect: Dialect) -> None:
    """ValueError for an unknown suite, and for a dialect that does not take the suite's shifts.

    Operands of an addition keep GUARD_BITS fractional bits, so that their multipliers have shifts up to one more.
    """
    if name not in SUITES:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}, got {name!r}")
    _, most = legal_shifts(dialect) or (-31, 30)
    if most < SUITES[name].shift:
        raise ValueError(f"the dialect of suite {name} must take shifts up to {SUITES[name].shift}, got "
                         f"{(names_of(dialect) or [dialect.words])[0]}, which takes them up to {most}")


def kills(cases: Iterable[Case]) -> dict[str, list[str]]:
    """By operation and bug, the ids of the cases in which a device with the bug would answer otherwise."""
    table: dict[str, list[str]] = {}
    for case in cases:
        if case.operation not in OPERATIONS or _products(case) > _MOST_PRODUCTS:
            continue
        expected = case.tensors["expected"].values
        for name, y in faults(case.operation, case.inputs, case.parameters):
            killed = table.setdefault(f"{case.operation}: {name}", [])
            if ((y != expected) & (y != NO_ANSWER)).any():
                killed.append(case.id)
    return table


def _products(case: Case) -> int:
    w = case.tensors.get("w")
    size = case.tensors["expected"].values.size
    return size if w is None or w.values.ndim < 4 else size * w.values[0].size


def check_kills(name: str, table: dict[str, list[str]]) -> None:
    """ValueError where a bug is killed by no case."""
    alive = [bug for bug, killed in table.items() if not killed]
    if alive:
        raise ValueError(f"suite {name} must kill every bug of its operations, got no case for {'; '.join(alive)}")


# Operations whose codes are rounded, and those whose codes end at a format.
_ROUNDS = ("quantize", "requantize", "conv", "shift_scaler", "add", "average_pool")
_SATURATES = (*_ROUNDS, "pwlq_dot", "concat")


def check_not_vacuous(name: str, cases: list[Case]) -> None:
    """ValueError for a suite that could pass by accident.

    Its expected outputs must not be constant, nor nearly so; rounding must meet ties, and saturation both ends of the
    format; and no case of several rows and columns may be its own transpose.
    """
    for operation in dict.fromkeys(case.operation for case in cases):
        of_it = [case for case in cases if case.operation == operation]
        outputs = np.concatenate([case.tensors["expected"].values.ravel() for case in of_it
                                  if case.tensors["expected"].format.bits > 1])  # type: ignore[union-attr]
        _, counts = np.unique(outputs, return_counts=True)
        if len(outputs) >= 16 and counts.max() > 0.7 * len(outputs):
            raise ValueError(f"suite {name}: the expected outputs of {operation} must differ, got one value in "
                             f"{counts.max()} of {len(outputs)}")
        if operation in _ROUNDS and not any(map(_ties, of_it)):
            raise ValueError(f"suite {name}: {operation} rounds, so that a tie must occur, got none")
        ends = {dialect_of(case.parameters.get("dialect", "single_round")).end for case in of_it}
        if operation in _SATURATES and "saturate" in ends:
            for end in ("min", "max"):
                if not any((case.tensors["expected"].values == getattr(format_of(case.parameters["y_format"]), end)
                            ).any() for case in of_it):
                    raise ValueError(f"suite {name}: {operation} saturates, so that its {end} must occur, got none")
    for case in cases:
        y = case.tensors["expected"].values
        if case.kind in ("shape", "random") and y.size >= 8 and (y == y.flat[0]).all():
            raise ValueError(f"suite {name}: the outputs of case {case.id} must differ, got {y.flat[0]} alone")
        if case.kind in ("shape", "random") and y.ndim == 4:
            for one, other in ((1, 2), (1, 3), (2, 3)):
                turned = y.swapaxes(one, other).ravel()
                if min(y.shape[one], y.shape[other]) > 1 and np.array_equal(turned, y.ravel()):
                    raise ValueError(f"suite {name}: case {case.id} must show its layout, got outputs that are equal "
                                     f"with axes {one} and {other} exchanged")


def _ties(case: Case) -> bool:
    """Whether some exact product lies halfway between two codes."""
    t, p = case.inputs, case.parameters
    if case.operation == "quantize":
        scale = np.array(p["scale"])
        scale = scale.reshape(-1, *[1] * (t["x"].ndim - 1)) if scale.ndim else scale
        return any((2 * Fraction(float(a)) * Fraction(float(b))).denominator == 1
                   and (Fraction(float(a)) * Fraction(float(b))).denominator == 2
                   for a, b in zip(t["x"].ravel(), np.broadcast_to(scale, t["x"].shape).ravel()))
    if case.operation == "add":
        return bool((case.tensors["expected_sum"].values % 256 == 128).any())
    if case.operation == "requantize":
        acc = t["x"]
    else:
        acc = t["acc"] if "acc" in t else case.tensors["expected_acc"].values
    m, shift = t["m"], t["shift"] - t.get("k", 0)
    if case.operation == "conv" and m.ndim:
        m, shift = m[:, None, None], shift[:, None, None]
    dropped = np.clip(31 - shift, 1, 62)
    return bool((((acc * m) & ((np.int64(1) << dropped) - 1)) == (np.int64(1) << (dropped - 1))).any())


def build_suite(name: str, dialect: str | Dialect = "single_round", small: bool = False) -> dict[str, bytes]:
    """Every file of a suite, by its path below the suite's folder.

    ValueError as ``check_suite`` says, and where bugs stay alive or the suite is vacuous. small: fewer cases, the
    same bytes of each; their kill table says which bugs they leave alive.
    """
    words = dialect_of(dialect)
    check_suite(name, words)
    cases = [case for case in SUITES[name].cases(words) if case.small or not small]
    table = kills(cases)
    if name != "digits-cnn" and not small:  # a network shows what its images reach
        check_kills(name, table)
        check_not_vacuous(name, cases)
    used = {case.parameters["dialect"] for case in cases if "dialect" in case.parameters}
    dialect = dialect_of(used.pop()) if len(used) == 1 else words
    return dict(suite_files(name, SUITES[name].about, dialect, cases, table))


def suite_files(name: str, about: str, dialect: Dialect, cases: Iterable[Case],
                table: dict[str, list[str]] | None = None) -> Iterator[tuple[str, bytes]]:
    """The files of some cases, one after another, then the kill table, by default their own, and the manifest."""
    listed: list[dict[str, str]] = []
    own: dict[str, list[str]] = {}
    for case in cases:
        assert case.id not in {entry["id"] for entry in listed}, case.id
        of_case = case_files(case, name)
        yield from ((f"{case.id}/{file}", content) for file, content in of_case.items())
        listed.append({"id": case.id, "operation": case.operation, "kind": case.kind,
                       "sha256": sha256(of_case["case.json"])})
        if table is None:
            for bug, killed in kills([case]).items():
                own.setdefault(bug, []).extend(killed)
    kill_table = json_bytes(own if table is None else table)
    yield KILLS, kill_table
    yield MANIFEST, json_bytes(manifest(name, about, dialect, listed, sha256(kill_table)))


def manifest(name: str, about: str, dialect: Dialect, listed: list[dict[str, str]], kills_sha256: str
             ) -> dict[str, Any]:
    """What ``manifest.json`` holds; its digest covers the cases and the kill table."""
    known = name_of(dialect.words)
    lines = "".join(f"{entry['id']} {entry['sha256']}\n" for entry in listed)
    digest = sha256((lines + kills_sha256).encode())
    return {"format": FORMAT, "format_version": VERSION, "name": name, "about": about,
            "dialect": {"words": dialect.words, "name": known,
                        "formula": FORMULAS[known][0] if known in FORMULAS else dialect.words},
            "generator_version": refquant.__version__, "count": len(listed), "digest": digest,
            "kills_sha256": kills_sha256, "poison": f"{POISON:02x}", "cases": listed}


def write_suite(files: Iterable[tuple[str, bytes]], directory: Path) -> None:
    """Write a suite's folder, file after file, all of it or nothing; an older suite of that name is replaced.

    ValueError where something else stands there. If it fails or is interrupted, the older suite is left as it was.
    """
    if directory.exists() and not (directory / MANIFEST).is_file():
        raise ValueError(f"{directory} must be a suite's folder or not exist, got something else there")
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        for path, content in files:
            (temporary / path).parent.mkdir(exist_ok=True)
            (temporary / path).write_bytes(content)
        temporary.chmod(0o755)
        if directory.exists():
            _exchange(temporary, directory)
        else:
            os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, directory: Path) -> None:
    """Put ``new`` in the place of ``directory``, which is removed; or leave it there where that fails."""
    aside = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    former = aside / directory.name
    try:
        os.replace(directory, former)
        os.replace(new, directory)
    finally:
        if former.exists() and not directory.exists():
            os.replace(former, directory)
        shutil.rmtree(aside, ignore_errors=True)
