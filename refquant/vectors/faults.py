"""Bugs that chips, kernels and converters really have, each as a model of what it answers to a golden case.

They serve twice. A suite, except digits-cnn and networks, is built only if each of its bugs is *killed*: some vector
shows another answer. And where a device's answers differ from the expected ones, but agree with a bug's, ``check``
names it.

A model gives what would stand in ``expected``, or None where the bug does not apply to a case. NO_ANSWER in it means
that the bug says nothing about an element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refquant.vectors import code_faults, layer_faults
from refquant.vectors.code_faults import Fault
from refquant.vectors.descriptions import NO_ANSWER
from refquant.vectors.operations import Arrays, Parameters
from refquant.vectors.winograd_faults import winograd_faults

_FAULTS: dict[str, Callable[[Arrays, Parameters], Iterator[Fault]]] = {
    "quantize": code_faults.quantize_faults,
    "requantize": code_faults.requantize_faults,
    "dot_int16": code_faults.dot_int16_faults,
    "dot_sequential": code_faults.dot_sequential_faults,
    "conv": layer_faults.conv_faults,
    "winograd": winograd_faults,
    "shift_scaler": layer_faults.shift_scaler_faults,
    "pwlq_dot": layer_faults.pwlq_faults,
    "average_pool": layer_faults.average_pool_faults,
    "max_pool": layer_faults.max_pool_faults,
    "add": layer_faults.add_faults,
    "concat": layer_faults.concat_faults,
    "clip": layer_faults.clip_faults,
}


def faults(operation: str, t: Arrays, p: Parameters) -> Iterator[tuple[str, np.ndarray]]:
    """Each bug that applies to a case, with what a device that has it would answer.

    Bugs that answer nothing at all about a case are left out.
    """
    for fault in _FAULTS[operation](t, p):
        y = fault.run(t, p)
        if y is not None and (y != NO_ANSWER).any():
            yield fault.name, y
