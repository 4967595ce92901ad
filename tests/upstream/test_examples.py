"""The examples in docstrings hold."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("upstream.wire", "upstream.fields", "upstream.dial", "upstream.faults", "upstream.retrying", "demo.fates")


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_hold(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"poller.{name}"))
    assert results.attempted
    assert not results.failed
