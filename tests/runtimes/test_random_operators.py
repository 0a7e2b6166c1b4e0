"""A part of ``tests/fuzz/operators.py``: operators of random scales, windows and shapes against their runtimes."""
from __future__ import annotations

from functools import partial

import numpy as np
import operators as random_operators
import pytest

from refquant.runtimes import onnx_layers, own
from refquant.runtimes.kernels import LITERT_SETS, ONNX_RULES, ONNX_SETS, RULES, onnxruntime_here

LITERT = {kind.split()[0] for kind in random_operators.LITERT} - {"FLOATS"}
ONNX = {kind.split()[0] for kind in random_operators.ONNX}


@pytest.mark.parametrize("which, cases, kinds", [("litert", 700, LITERT), ("onnx", 550, ONNX)])
def test_operators_of_random_scales_are_equal(which, cases, kinds):
    met, found = random_operators.campaign(which, 2026, cases)
    assert found == {}
    assert kinds <= {*met} and sum(met.values()) >= cases


def one_code_off(rule):
    """The rule's answers, the first of them off by one."""
    def faulty(*arguments, **options):
        codes = np.array(rule(*arguments, **options))
        codes.flat[0] += 1
        return codes
    return faulty


def test_a_code_off_by_one_in_each_rule_of_litert_shows(monkeypatch):
    for key, rules in RULES.items():
        monkeypatch.setitem(RULES, key, tuple(map(one_code_off, rules)))
    _, found = random_operators.campaign("litert", 3, 300)
    assert {tuple(key.split()[::2]) for key in found} == {
        (kind, name) for kind, _ in RULES for name in LITERT_SETS}


def test_a_code_off_by_one_in_each_rule_of_onnxruntime_shows(monkeypatch):
    for key, rules in ONNX_RULES.items():
        monkeypatch.setitem(ONNX_RULES, key, tuple(map(one_code_off, rules)))
    _, found = random_operators.campaign("onnx", 3, 100)
    assert {key.split()[0] for key in found} == ONNX & {*ONNX_RULES}


def test_one_kernel_set_s_rule_taken_for_another_s_shows(monkeypatch):
    """Where they differ in more than the rounding of ties that no table of codes has."""
    different = set()
    for key, (reference, optimized, xnnpack) in list(RULES.items()):
        wrong = optimized, xnnpack, reference
        different |= {(key[0], name) for name, a, b in zip(LITERT_SETS, RULES[key], wrong) if a is not b}
        monkeypatch.setitem(RULES, key, wrong)
    _, found = random_operators.campaign("litert", 1, 420)
    unseen = different - {tuple(key.split()[::2]) for key in found}
    assert {kind for kind, _ in unseen} <= {"LOGISTIC", "TANH", "MAX_POOL_2D", "DEQUANTIZE"}


@pytest.mark.parametrize("kind, fault", [
    ("QLinearAdd", own.add), ("QLinearMul", own.multiply), ("QLinearAveragePool", own.onnx_average_pool),
    ("QuantizeLinear", own.quantize), *[(kind, partial(onnx_layers.layer, pairs=onnxruntime_here() != ONNX_SETS[0]))
                                        for kind in ("QLinearConv", "QGemm", "MatMulInteger")]])
def test_another_rule_than_onnxruntime_s_shows(kind, fault, monkeypatch, tmp_path):
    """refquant's own, or sums whose pairs saturate where this machine's do not, or the reverse."""
    monkeypatch.setitem(ONNX_RULES, kind, (fault, fault))
    draw = random_operators.Draw(1)
    found = (random_operators.onnx_different(draw, kind, tmp_path) for _ in range(20))
    assert any(count for one in found for count in one.values())
