"""A small build of every suite has the same bytes on every machine, and those that are committed."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from golden import built
from machines import MACHINES, on_x86

from refquant.vectors.build import SUITES

COMMITTED = json.loads(Path(__file__).with_name("digests.json").read_text())


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_has_its_committed_digest(name):
    assert json.loads(built(name)["manifest.json"])["digest"] == COMMITTED[name]


@on_x86
@pytest.mark.parametrize("machine", ["an old one", "a middling one"])
def test_every_suite_has_its_committed_digest_on_other_machines(machine):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "NPY_DISABLE"))}
    done = subprocess.run([sys.executable, "-W", "ignore", Path(__file__).with_name("digest_suites.py")],
                          env={**clean, **MACHINES[machine]}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == COMMITTED


def test_no_file_of_a_suite_knows_when_or_where_it_was_made():
    for name in ("requantize", "conv-direct"):
        for path, content in built(name).items():
            assert b"\r" not in content or path.endswith(".npy")
            assert str(Path.cwd()).encode() not in content and not path.startswith("/")
