"""A part of ``tests/fuzz/operators.py``: operators of random scales, windows and shapes against their runtimes."""
from __future__ import annotations

import operators as random_operators
import pytest


@pytest.mark.parametrize("which, cases, kinds", [
    ("litert", 250, {*random_operators.LITERT} - {"FLOATS"}), ("onnx", 400, {*random_operators.ONNX})])
def test_operators_of_random_scales_are_equal(which, cases, kinds):
    met, found = random_operators.campaign(which, 2026, cases)
    assert found == {}
    assert kinds <= {*met} and sum(met.values()) >= cases
