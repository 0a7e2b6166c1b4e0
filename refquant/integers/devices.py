"""Devices and libraries whose requantization the six words of a dialect describe, each with its source.

A dialect is a name (one of the nine, or of a device), or its words, as in "m31,wrap,half_up,half_away".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from refquant.integers.dialects import NAMED, Dialect


class Device(NamedTuple):
    """words: of its requantization. source: what says so.

    run: what was run of it in refquant's tests; empty where its source was only read.
    """

    words: Dialect
    source: str
    run: str = ""


_RVV = "the instructions, in QEMU"

# Of the nine: what was run beside formulas written anew in Python and C. What LiteRT computes was measured elsewhere.
RUN = {"neon_double": "SQRDMULH and SRSHL, in QEMU", "float32_half_even": "ONNX Runtime's QLinearConv"}
DEVICES = {
    "tosa_double_round": Device(Dialect("m31", "merged", "half_up", "half_away"),
                                "TOSA specification, apply_scale_32 with double_round; its shift is one right shift"),
    "tosa_single_round": Device(Dialect("m31", "merged", "none", "half_up"), "TOSA specification, apply_scale_32"),
    "tosa_scale16": Device(Dialect("m15"), "TOSA specification, apply_scale_16"),
    "qnnpack_q31": Device(Dialect("m31", "wrap", "half_up", "half_away"), "QNNPACK, requantization/q31"),
    "qnnpack_precise": Device(Dialect("m31", "merged", "none", "half_away"), "QNNPACK, requantization/precise"),
    "xnnpack_rndnu": Device(Dialect("m31", "merged", "none", "half_up"), "XNNPACK, requantization rndnu on NEON"),
    "gemmini": Device(Dialect("float32", last="half_even"), "Gemmini's generator; its comment says ties away"),
    "rvv_rnu": Device(Dialect("m31", "wrap", "half_up", "half_up"), "RISC-V V, vsmul then vssra, vxrm rnu", _RVV),
    "rvv_rne": Device(Dialect("m31", "wrap", "half_even", "half_even"), "RISC-V V, vsmul then vssra, vxrm rne", _RVV),
    "rvv_rdn": Device(Dialect("m31", "wrap", "floor", "floor"), "RISC-V V, vsmul then vssra, vxrm rdn", _RVV),
    "rvv_rod": Device(Dialect("m31", "wrap", "to_odd", "to_odd"), "RISC-V V, vsmul then vssra, vxrm rod", _RVV),
    "nvdla_sdp": Device(Dialect("m15", last="half_away"), "NVDLA, the SDP's converter"),
    "vitis_dpu": Device(Dialect("m1"), "Vitis AI's DPU: powers of two"),
    "cmsis_dsp_q31": Device(Dialect("m31", "merged", "none", "floor"), "CMSIS-DSP, arm_scale_q31, right shifts"),
    "pulp_nn": Device(Dialect("m8", last="floor"), "PULP-NN, while x·m fits int32"),
}


def dialect_of(dialect: Any) -> Dialect:
    """A ``Dialect`` as it is, or one by its name or by its words; ValueError for anything else.

    >>> dialect_of("m31,wrap,half_up,half_away") == dialect_of("gemmlowp_double") == dialect_of("qnnpack_q31")
    True
    """
    if isinstance(dialect, Dialect):
        return dialect
    words = _words_of(dialect) if isinstance(dialect, str) else []
    if len(words) < 4:
        raise ValueError("dialect must be a name, such as single_round, or 4 to 6 words, such as "
                         f"m31,wrap,half_up,half_away (see refquant dialects), got {dialect!r}")
    return Dialect(*words)


@lru_cache(maxsize=1024)
def _words_of(text: str) -> list[str]:
    known = NAMED.get(text) or (DEVICES[text].words if text in DEVICES else None)
    words = [word.strip() for word in (known.words if known else text).split(",")]
    return words if len(words) <= 6 else []


def name_of(dialect: Any) -> str:
    """The name of the nine with these words, or else the words; of what ``dialect_of`` takes.

    >>> name_of(Dialect("m31", "wrap", "half_up", "half_up")), name_of("m8,merged,none,floor")
    ('neon_double', 'm8,merged,none,floor,after,saturate')
    """
    words = dialect_of(dialect)
    return next((name for name, known in NAMED.items() if known == words), words.words)


def names_of(dialect: Dialect) -> list[str]:
    """Every name with these words: of the nine, then of devices.

    >>> names_of(dialect_of("neon_double"))
    ['neon_double', 'rvv_rnu']
    """
    return [*(name for name, known in NAMED.items() if known == dialect),
            *(name for name, device in DEVICES.items() if device.words == dialect)]
