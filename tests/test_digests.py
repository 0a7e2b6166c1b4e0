"""Integers, given the scales that stand beside them, are those of tests/digests.json (see tests/digests.py)."""

import json
import os
from functools import cache

import digests
import pytest
from tools import require_module

SAVED = json.loads(digests.PATH.read_text())


@pytest.mark.parametrize("part", digests.PARTS)
def test_a_part_gives_the_integers_it_gave(part):
    found = digests.PARTS[part]()
    assert {name for name in SAVED[part] if found.get(name) != SAVED[part][name]} == set()
    assert found == SAVED[part]


@cache
def cases():
    if not os.environ.get("REFQUANT_MODELS"):
        return {"digits": digests.digits()}
    require_module("onnx", "pip install 'refquant[onnx]'")
    return {"digits": digests.digits(), **digests.models()}


@pytest.mark.parametrize("key", SAVED["networks"])
def test_every_code_tensor_of_a_network_is_what_it_was(key):
    name = key.split()[0]
    if name not in cases():
        pytest.skip("set REFQUANT_MODELS to the folder of the three networks")
    network, _, images = cases()[name]
    saved = SAVED["networks"][key]
    found = digests.tensors_at(network, images, saved["bits"], saved)
    assert [tensor for tensor in found if found[tensor] != saved["tensors"][tensor]] == []
    assert found.keys() == saved["tensors"].keys()
