"""``refquant identify``: read a table of device outputs, list the dialects that fit, write the next test inputs."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from refquant.integers.devices import names_of
from refquant.integers.dialects import Dialect
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.vectors.descriptions import Rows, rows_of
from refquant.vectors.identify import CHECKS, LIMITS, Identification, identify_rows
from refquant.vectors.probes import next_probes

_SHOWN = 12


def read_table(path: Path, fmt: IntFormat) -> tuple[Rows, np.ndarray, bool]:
    """The rows of a csv, the codes in its column y, and whether M is derived from m and shift.

    ValueError, naming file and row (blank lines and the header not counted), for a missing column, values that are no
    integers or outside their width.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: must be a csv text, got {error}") from None
    if not lines:
        raise ValueError(f"{path}: must hold a header and rows, got an empty file")
    header = [cell.strip() for cell in lines[0]]
    derived = "M" not in header
    wanted = ["x", "m", "shift", "zero_point", "y"] if derived else ["x", "M", "zero_point", "y"]
    if sorted(header) != sorted(wanted):
        raise ValueError(f"{path}: the header must be x,m,shift,zero_point,y or x,M,zero_point,y, got "
                         f"{','.join(header)}")
    if len(lines) == 1:
        raise ValueError(f"{path}: must hold rows below its header, got none")
    columns: dict[str, list[Any]] = {name: [] for name in header}
    for number, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            raise ValueError(f"{path}: row {number} must have {len(header)} values, got {len(line)}")
        for name, cell in zip(header, line):
            columns[name].append(_value(name, cell.strip(), fmt, f"{path}: row {number}"))
    x, zero_point, codes = (np.array(columns[name], np.int64) for name in ("x", "zero_point", "y"))
    if derived:
        return rows_of(x, np.array(columns["m"]), np.array(columns["shift"]), zero_point), codes, True
    multiplier = Multiplier.from_real(np.array(columns["M"]))
    return Rows(x, multiplier.m, multiplier.shift, zero_point, multiplier.real), codes, False


def _value(name: str, text: str, fmt: IntFormat, where: str) -> int | float:
    low, high = LIMITS.get(name) or (fmt.min, fmt.max)  # y too is a code
    try:
        value = float(text) if name == "M" else int(text, 0)
    except ValueError:
        raise ValueError(f"{where}: {name} must be {'a number' if name == 'M' else 'an integer'}, got {text!r}"
                         ) from None
    if name == "M" and not (math.isfinite(value) and 2.0**-32 <= value < 2.0**30):
        raise ValueError(f"{where}: M must be from 2^-32 to below 2^30, got {text}")
    if name != "M" and not low <= value <= high:
        what = " (normalised, since M is derived from it)" if name == "m" else ""
        raise ValueError(f"{where}: {name} must be from {low} to {high}{what}, got {text}")
    return value


def run_identify(path: Path, fmt: IntFormat, probes: int, as_json: bool) -> tuple[str, dict[str, bytes], int]:
    """What is printed of a table, the files of ``probes`` rows to ask next, and the exit code: 1 where none fits."""
    rows, codes, derived = read_table(path, fmt)
    found = identify_rows(rows, codes, fmt, derived)
    files = probe_files(found, probes, fmt, derived) if probes and found.fits else {}
    return json.dumps(entry(found), indent=1) if as_json else text(found, fmt), files, 0 if found.fits else 1


def entry(found: Identification) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {"fits": [_described(dialect) for dialect in found.fits], "classes": found.classes,
            "confirmed": found.confirmed, "near_ties": found.near_ties,
            "nearest": [{**_described(near.dialect), "different": near.different, "row": near.row + 1,
                         "expected": near.expected, "got": near.got} for near in found.nearest],
            "first_rows": found.first_rows, "suggestions": found.suggestions}


def _described(dialect: Dialect) -> dict[str, str]:
    names = names_of(dialect)
    return {"words": dialect.words, **({"name": names[0]} if names else {})}


def text(found: Identification, fmt: IntFormat) -> str:
    """What fits, as a reader wants it."""
    rows = f"{len(found.codes)} rows, codes {fmt}"
    if found.fits:
        lines = [f"{rows}: {_number(len(found.fits), 'description')} of {_number(found.classes, 'class', 'classes')} "
                 f"{'fits' if len(found.fits) == 1 else 'fit'}."]
        named = sorted(found.fits, key=lambda dialect: not names_of(dialect))
        lines += [f"  {dialect.words:45}  {', '.join(names_of(dialect))}".rstrip() for dialect in named[:_SHOWN]]
        if len(named) > _SHOWN:
            lines.append(f"  ... and {len(named) - _SHOWN} more")
        if found.confirmed:
            lines.append(f"Confirmed by {found.near_ties} rows near ties.")
        elif found.classes == 1:
            lines.append(f"Not confirmed: {found.near_ties} of {CHECKS} rows near ties. --probes {CHECKS} writes as "
                         "many; add the device's answers to the table.")
        else:
            lines.append("Not decided: --probes 20 writes rows that tell them apart; add the device's answers to the "
                         "table.")
        return "\n".join(lines)
    lines = [f"{rows}: no description fits, and none fits rows 1..{found.first_rows}. Nearest:"]
    for near in found.nearest:
        x, m, shift, zero_point = (int(column[near.row]) for column in found.rows[:4])
        names = ", ".join(names_of(near.dialect))
        lines.append(f"  {near.dialect.words}{f' ({names})' if names else ''}: {near.different} rows differ; first "
                     f"row {near.row + 1}: x {x}, m {m}, shift {shift}, zero point {zero_point} gives "
                     f"{near.expected}, got {near.got}")
    lines += ["All rows fit, if:" if found.suggestions else "No usual fault explains all rows."]
    return "\n".join([*lines, *(f"  {suggestion}" for suggestion in found.suggestions[:_SHOWN])])


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def probe_files(found: Identification, count: int, fmt: IntFormat, derived: bool) -> dict[str, bytes]:
    """The rows to ask next: probes.csv without y, and each column as hexadecimal words, one a line."""
    probes = next_probes(found.left, count, fmt, derived)
    names, widths = ("x", "m", "shift", "zero_point"), (32, 32, 8, fmt.bits)
    columns = [column.tolist() for column in probes[:4]]
    if derived:
        shown = dict(zip(names, columns))
    else:
        shown = {"x": columns[0], "M": [repr(real) for real in probes.real.tolist()], "zero_point": columns[3]}
    lines = [",".join(shown), *(",".join(map(str, row)) for row in zip(*shown.values()))]
    files = {"probes.csv": ("\n".join(lines) + "\n").encode()}
    for name, column, bits in zip(names, columns, widths):
        words = (f"{value & ((1 << bits) - 1):0{-(-bits // 4)}x}\n" for value in column)
        files[f"probes_{name}.hex"] = "".join(words).encode()
    return files
