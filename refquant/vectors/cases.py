"""A golden case and its files: ``case.json``, ``case.h``, a canonical ``.npy`` and a derived ``.hex`` of each tensor.

    .npy      version 1.0, little-endian, C order; codes of less than 8 bits lie in int8 or uint8
    .hex      what $readmemh reads: one word a line, lower case, ceil(bits/4) digits, two's complement, no sign
    case.h    the same as static const arrays, and the integer parameters

The same case gives the same bytes on every machine. Names are plain words, so that no path leaves its folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refquant.integers.formats import IntFormat, check_codes

FORMAT, VERSION = "refquant golden vectors", 1
# What a bench fills its output memory with before it runs, byte by byte: a word that still holds it was not written.
POISON = 0xA5
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_MOST_IN_HEADER = 1 << 16
KINDS = ("corner", "witness", "twin", "tie", "edge", "shape", "probe", "random", "network")


@dataclass(frozen=True, eq=False)
class Tensor:
    """values: integers within ``format``, or float32 where format is None. layout: a letter per axis, as in NCHW.

    role: input, weight, bias, multiplier, shift, zero_point, stage or expected.
    """

    values: np.ndarray
    format: IntFormat | None
    role: str
    layout: str

    @property
    def dtype(self) -> np.dtype:
        """Of the file: little-endian."""
        return (np.dtype(np.float32) if self.format is None else self.format.dtype).newbyteorder("<")


@dataclass(frozen=True, eq=False)
class Case:
    """One golden case.

    id: never used again for other content. operation: a name of ``operations``. parameters: what JSON holds.
    tensors: inputs first, then stages and the last ``expected``. why: one sentence that can be checked by hand.
    flags: the bugs that it is there for. kind: one of KINDS. small: whether a small build has it too.
    """

    id: str
    operation: str
    parameters: dict[str, Any]
    tensors: dict[str, Tensor]
    why: str
    flags: tuple[str, ...] = ()
    kind: str = "corner"
    small: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in (self.id, *self.tensors):
            assert NAME.fullmatch(name), name
        assert self.kind in KINDS, self.kind
        for name, tensor in self.tensors.items():
            if tensor.format is not None:
                check_codes(tensor.values, tensor.format, f"{self.id}: {name}")

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What the device is given: integers as int64."""
        return {name: tensor.values if tensor.format is None else tensor.values.astype(np.int64)
                for name, tensor in self.tensors.items() if tensor.role not in ("stage", "expected")}

    @property
    def stages(self) -> list[str]:
        """The outputs, in the order in which they are computed; the last is ``expected``."""
        return [name for name, tensor in self.tensors.items() if tensor.role in ("stage", "expected")]


def npy_bytes(values: np.ndarray, dtype: np.dtype) -> bytes:
    """A .npy file of version 1.0, its header padded to 64 bytes; written here, since NumPy's padding has changed."""
    shape = f"({', '.join(map(str, values.shape))}{',' if values.ndim == 1 else ''})"
    header = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return (b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
            + np.ascontiguousarray(values, dtype).tobytes())


def hex_digits(format: IntFormat | None) -> int:
    """Of one word: ceil(bits/4)."""
    return 8 if format is None else -(-format.bits // 4)


def words(tensor: Tensor) -> np.ndarray:
    """The bit patterns, uint64: two's complement masked to the width; of float32 its IEEE word."""
    if tensor.format is None:
        return np.ascontiguousarray(tensor.values, np.float32).view(np.uint32).astype(np.uint64).ravel()
    return tensor.values.ravel().astype(np.int64).astype(np.uint64) & np.uint64((1 << tensor.format.bits) - 1)


def hex_bytes(tensor: Tensor) -> bytes:
    """The .hex file.

    >>> hex_bytes(Tensor(np.array([-7, 5]), IntFormat(7), "input", "K"))
    b'79\\n05\\n'
    """
    digits = hex_digits(tensor.format)
    places = np.arange(4 * (digits - 1), -1, -4, dtype=np.uint64)
    nibbles = (words(tensor)[:, None] >> places) & np.uint64(15)
    text = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles.astype(np.int64)]
    return np.concatenate([text, np.full((len(text), 1), ord("\n"), np.uint8)], axis=1).tobytes()


def header_bytes(case: Case) -> bytes:
    """``case.h``: OPERATION_name and words of parameters as macros, integers as constants, tensors as arrays.

    A tensor is NAME[NAME_count] in C order, with NAME_shape; a float32 its bits, NAME_bits. Tensors of more than
    _MOST_IN_HEADER elements stand in the other files alone.
    """
    lines = [f"/* {case.id}: {case.why} */", "#include <stdint.h>", "", f"#define OPERATION_{case.operation} 1"]
    answer = case.tensors["expected"].format
    if answer is not None and answer.bits <= 32:  # of a word of expected.hex
        lines += [f"#define DIGITS {hex_digits(answer)}", f"#define MASK 0x{(1 << answer.bits) - 1:x}u"]
    for name, value in case.parameters.items():
        lines += _constants(name, value)
    for name, tensor in case.tensors.items():
        name = name.replace(".", "_").replace("-", "_")
        dtype, values = tensor.dtype, tensor.values.ravel()
        lines += [f"#define {name}_count {len(values)}",
                  f"static const int32_t {name}_shape[] = {{{', '.join(map(str, tensor.values.shape or (1,)))}}};"]
        if len(values) > _MOST_IN_HEADER:
            continue
        if tensor.format is None:  # the bits of a float, so that no compiler reads a decimal in its own way
            dtype, values, name = np.dtype(np.uint32), words(tensor), f"{name}_bits"
        literals = [_literal(v) for v in values.tolist()]
        rows = [", ".join(literals[start:start + 16]) for start in range(0, len(literals), 16)]
        lines += [f"static const {dtype.name}_t {name}[{len(literals)}] = {{", ",\n".join(rows), "};"]
    return ("\n".join(lines) + "\n").encode()


def _constants(name: str, value: Any) -> list[str]:
    """A parameter in C: an int, a format by its ends, a list of ints, a word."""
    if isinstance(value, dict) and "bits" in value:
        fmt = format_of(value)
        return [] if fmt.bits > 31 else [f"enum {{ {name}_min = {fmt.min}, {name}_max = {fmt.max} }};"]
    if isinstance(value, int) and not isinstance(value, bool):
        return [f"enum {{ {name} = {_literal(value)} }};"]
    if isinstance(value, list) and value and all(isinstance(v, int) for v in value):
        return [f"static const int64_t {name}[{len(value)}] = {{{', '.join(map(_literal, value))}}};"]
    return [f"#define {name}_{value} 1"] if isinstance(value, str) and value.isidentifier() else []


def _literal(value: int) -> str:
    if value in (-(2**31), -(2**63)):
        return f"({value + 1} - 1)"
    return f"{value}u" if 2**31 <= value < 2**32 else str(value)


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def case_files(case: Case, suite: str) -> dict[str, bytes]:
    """Every file of the case's folder by name; ``case.json`` last, with the digests of the others."""
    files, tensors = {}, {}
    for name, tensor in case.tensors.items():
        files[f"{name}.npy"], files[f"{name}.hex"] = npy_bytes(tensor.values, tensor.dtype), hex_bytes(tensor)
        fmt = tensor.format
        tensors[name] = {
            "kind": "float" if fmt is None else "integer", "bits": 32 if fmt is None else fmt.bits,
            "signed": True if fmt is None else fmt.signed, "narrow": False if fmt is None else fmt.narrow,
            "shape": list(tensor.values.shape), "layout": tensor.layout, "role": tensor.role,
            "sha256": sha256(files[f"{name}.npy"]), "hex_sha256": sha256(files[f"{name}.hex"])}
    files["case.h"] = header_bytes(case)
    described = {"id": case.id, "suite": suite, "operation": case.operation, "why": case.why,
                 "flags": list(case.flags), "kind": case.kind, "parameters": case.parameters, "tensors": tensors,
                 "stages": case.stages, "header_sha256": sha256(files["case.h"])}
    files["case.json"] = json_bytes(described)
    return files


def json_bytes(value: Any) -> bytes:
    """JSON, an item a line, UTF-8."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of ``manifest``, ``case`` or ``result``.

    >>> schema("manifest")["properties"]["format_version"]
    {'const': 1}
    """
    return dict(json.loads((Path(__file__).parent / "schemas" / f"{name}.json").read_text(encoding="utf-8")))


def format_of(described: Mapping[str, Any]) -> IntFormat:
    """The format of a tensor, or of a parameter, as JSON describes it."""
    return IntFormat(described["bits"], described["signed"], described["narrow"])


def described(fmt: IntFormat) -> dict[str, Any]:
    """A format as parameters hold it."""
    return {"bits": fmt.bits, "signed": fmt.signed, "narrow": fmt.narrow}
