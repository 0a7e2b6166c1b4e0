"""Hypothesis profiles, and the option that rewrites the tutorial's outputs."""
from __future__ import annotations

import os

# The tests' matrices are small: a second BLAS thread gains nothing, and waits badly when cores are shared.
# Set before NumPy is loaded; processes that tests start inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=45, print_blob=False)
settings.register_profile("deep", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-tutorial", action="store_true",
                     help="write what the code prints into tutorial.md instead of comparing")
