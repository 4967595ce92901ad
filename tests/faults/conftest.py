"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.nursery import Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """A process that daemons are forked from, for one file of tests."""
    made = Nursery()
    made.start()
    yield made
    made.stop()
