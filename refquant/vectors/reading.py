"""Reading suites and what devices wrote: nothing is believed before it is checked, and memory stays bounded.

A declared shape is compared with the file's size before anything is read; every file of a suite with its digest;
names are plain words, so that no path leaves its folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refquant.integers.formats import IntFormat
from refquant.vectors.cases import FORMAT, NAME, VERSION, Tensor, format_of, hex_digits, sha256

_MOST_JSON = 1 << 26
_CHUNK = 1 << 22
_VALUES = np.full(256, 255, np.uint8)
_VALUES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_VALUES[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


class Read(NamedTuple):
    """A case of a suite as its files have it: ``json`` is case.json."""

    id: str
    json: dict[str, Any]
    folder: Path

    @property
    def stages(self) -> list[str]:
        """The outputs, the last of them ``expected``."""
        return list(self.json["stages"])

    def tensor(self, name: str) -> Tensor:
        """One tensor, its digest checked; integers in their file's dtype."""
        entry = self.json["tensors"][name]
        path = self.folder / f"{name}.npy"
        empty = Tensor(np.zeros(0, np.int64), None if entry["kind"] == "float" else format_of(entry), entry["role"],
                       entry["layout"])
        values = read_npy(path, tuple(entry["shape"]), empty.dtype)
        _check_digest(path, entry["sha256"])
        hexadecimal = self.folder / f"{name}.hex"
        if hexadecimal.exists():
            _check_digest(hexadecimal, entry["hex_sha256"])
        return replace(empty, values=values)

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What the device is given, integers as int64."""
        found = {}
        for name, entry in self.json["tensors"].items():
            if entry["role"] not in ("stage", "expected"):
                tensor = self.tensor(name)
                found[name] = tensor.values if tensor.format is None else tensor.values.astype(np.int64)
        return found


def read_suite(directory: Path) -> tuple[dict[str, Any], list[Read]]:
    """The manifest and the cases; ValueError naming the file for anything that is not as it was built."""
    path = directory / "manifest.json"
    found = _json(path)
    if found.get("format") != FORMAT or not isinstance(found.get("format_version"), int):
        raise ValueError(f"{path} must be the manifest of {FORMAT}, got format {found.get('format')!r} of version "
                         f"{found.get('format_version')!r}")
    if not 1 <= found["format_version"] <= VERSION:
        raise ValueError(f"{path} must be of format version 1 to {VERSION}, which this refquant reads, got version "
                         f"{found['format_version']}")
    try:
        entries = [(str(entry["id"]), str(entry["sha256"])) for entry in found["cases"]]
        text = "".join(f"{id} {digest}\n" for id, digest in entries) + found["kills_sha256"]
        stated, count = found["digest"], found["count"]
    except (KeyError, TypeError):
        raise ValueError(f"{path} must list cases with id and sha256, a count and digests, got otherwise") from None
    if sha256(text.encode()) != stated or count != len(entries) or len({id for id, _ in entries}) != count:
        raise ValueError(f"{path} must agree with its own digest, got one that was edited")
    cases = []
    for id, digest in entries:
        if not NAME.fullmatch(id):
            raise ValueError(f"{path}: a case must be named by letters, digits, - and _, got {id!r}")
        folder = directory / id
        _check_digest(folder / "case.json", digest)
        cases.append(Read(id, _case(folder / "case.json"), folder))
        header = folder / "case.h"
        if header.exists():
            _check_digest(header, cases[-1].json["header_sha256"])
    kills = directory / "kills.json"
    if kills.exists():
        _check_digest(kills, found["kills_sha256"])
    return found, cases


def _case(path: Path) -> dict[str, Any]:
    found = _json(path)
    try:
        for name, entry in found["tensors"].items():
            whole = isinstance(entry["shape"], list) and all(isinstance(n, int) and n >= 0 for n in entry["shape"])
            if not NAME.fullmatch(name) or not whole or entry["kind"] not in ("integer", "float"):
                raise ValueError(f"{path}: a tensor must be a plain word with a shape, got {name!r}")
            format_of(entry)
            assert isinstance(entry["sha256"], str) and isinstance(entry["role"], str)
        stages = found["stages"]
        if stages[-1] != "expected" or not all(found["tensors"][name]["role"] in ("stage", "expected")
                                               for name in stages):
            raise ValueError(f"{path}: the last stage must be expected, got {stages}")
        assert isinstance(found["operation"], str) and isinstance(found["parameters"], dict)
    except (KeyError, TypeError, IndexError, AttributeError, AssertionError):
        raise ValueError(f"{path} must describe a case with tensors, stages and an operation, got otherwise"
                         ) from None
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ValueError(f"{path} must be at most {_MOST_JSON >> 20} MiB, got {path.stat().st_size >> 20}")
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} must be readable, got: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON, got: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(found).__name__}")
    return found


def _check_digest(path: Path, wanted: str) -> None:
    try:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ValueError(f"{path} must be readable, got: {error.strerror}") from None
    if digest.hexdigest() != wanted:
        raise ValueError(f"{path} must have the SHA-256 {wanted[:16]}..., got {digest.hexdigest()[:16]}...: it is "
                         "truncated or was edited")


def read_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A .npy file of this shape, or of as many elements in one row, and this dtype; nothing larger is read."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in reader:
                raise ValueError(f"version {version}")
            held, fortran, found = reader[version](file)
            begin = file.tell()
    except OSError as error:
        raise ValueError(f"{path} must be readable, got: {error.strerror}") from None
    except Exception as error:  # a header can be wrong in many ways
        raise ValueError(f"{path} must be a .npy file, got another kind of file: {error}") from None
    if found.hasobject:
        raise ValueError(f"{path} must hold numbers, got pickled Python objects, which are never read")
    if found.newbyteorder("=") != dtype.newbyteorder("="):
        raise ValueError(f"{path} must hold {dtype.newbyteorder('=')}, got {found.newbyteorder('=')}")
    if held not in (shape, (math.prod(shape),)):
        raise ValueError(f"{path} must have shape {shape}, got {held}")
    expected = begin + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise ValueError(f"{path} must have {expected} bytes for shape {shape}, got {size}: it is truncated or too "
                         "long")
    values = np.fromfile(path, found, offset=begin).astype(dtype.newbyteorder("="), copy=False)
    return values.reshape(held, order="F" if fortran else "C").reshape(shape)


def read_hex(path: Path, shape: tuple[int, ...], fmt: IntFormat | None, dtype: np.dtype) -> np.ndarray:
    """A .hex file of as many words, of exactly ceil(bits/4) digits each; comments of $writememh are passed over."""
    digits, count = hex_digits(fmt), math.prod(shape)
    bits = 32 if fmt is None else fmt.bits
    wanted = count * (digits + 1)
    try:
        size = path.stat().st_size
        if size > 4 * wanted + (1 << 16):
            raise ValueError(f"{path} must hold {count} words of {digits} digits, got {size} bytes")
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} must be readable, got: {error.strerror}") from None
    if b"\r" in text:
        raise ValueError(f"{path} must end its lines with LF alone, got CR LF")
    if text and not text.endswith(b"\n"):
        raise ValueError(f"{path} must end with a newline, got none: some tools drop such a last word")
    if b"/" in text:
        text = re.sub(rb"//[^\n]*\n", b"", text)
    table = np.frombuffer(text, np.uint8)
    if len(table) == wanted and count:
        table = table.reshape(count, digits + 1)
        nibbles = _VALUES[table[:, :digits]]
        if (table[:, digits] == ord("\n")).all() and (nibbles < 16).all():
            words = np.zeros(count, np.uint64)
            for place in range(digits):
                words = words << np.uint64(4) | nibbles[:, place].astype(np.uint64)
            return _decoded(path, words, fmt, bits, dtype).reshape(shape)
    _explain(path, text, count, digits)
    raise AssertionError(f"{path}: no line is wrong")


def _explain(path: Path, text: bytes, count: int, digits: int) -> None:
    """ValueError for the first line that is wrong."""
    lines = text.split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        word = line.decode("latin-1")
        if re.search("[xXzZ]", word):
            raise ValueError(f"{path}: line {number} must be known, got {word!r}: bits that nothing drove")
        if not re.fullmatch("[0-9a-fA-F]+", word):
            raise ValueError(f"{path}: line {number} must be {digits} hexadecimal digits, got {word[:40]!r}")
        if len(word) != digits:
            raise ValueError(f"{path}: line {number} must have {digits} digits, got {word[:40]!r} with {len(word)}")
    raise ValueError(f"{path} must hold {count} words, got {len(lines)}")


def _decoded(path: Path, words: np.ndarray, fmt: IntFormat | None, bits: int, dtype: np.dtype) -> np.ndarray:
    if bits < 64 and (wrong := np.flatnonzero(words >> np.uint64(bits))).size:
        raise ValueError(f"{path}: word {wrong[0] + 1} must fit {bits} bits, got {int(words[wrong[0]]):x}")
    if fmt is None:
        return words.astype(np.uint32).view(np.float32)
    if not fmt.signed:
        return words.astype(dtype.newbyteorder("="))
    sign = np.uint64(1 << (bits - 1))
    with np.errstate(over="ignore"):
        return ((words ^ sign) - sign).astype(np.int64).astype(dtype.newbyteorder("="))


def read_answer(folder: Path, name: str, wanted: Tensor, shape: tuple[int, ...]) -> np.ndarray | None:
    """What a device wrote for one tensor: ``name.npy`` or ``name.hex``, None where there is neither.

    Where both lie there they must agree: one of them may be a copy.
    """
    binary, text = folder / f"{name}.npy", folder / f"{name}.hex"
    found = [read_npy(binary, shape, wanted.dtype)] if binary.exists() else []
    found += [read_hex(text, shape, wanted.format, wanted.dtype)] if text.exists() else []
    if not found:
        return None
    fmt = wanted.format
    if fmt is not None and fmt.bits < 8 * wanted.dtype.itemsize:
        full = IntFormat(fmt.bits, fmt.signed)
        if found[0].size and not (full.min <= found[0].min() and found[0].max() <= full.max):
            raise ValueError(f"{binary} must hold {fmt.bits} bits ({full.min}..{full.max}), got {found[0].min()}.."
                             f"{found[0].max()}")
    if len(found) == 2 and not np.array_equal(found[0], found[1], equal_nan=fmt is None):
        raise ValueError(f"{binary} and {text} must agree, got different words: one of them is not the device's")
    return found[0]
