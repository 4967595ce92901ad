"""The examples in the docstrings of the core hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import poller.core

MODULES = sorted(module.name for module in pkgutil.iter_modules(poller.core.__path__, "poller.core."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
