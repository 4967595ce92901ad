from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import pytest

from poller.__main__ import execute


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def poller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``ran = poller("check", SQL_DSN=…)``: one command in this process, with no settings but those given."""

    def run(*arguments: str, **environ: str) -> Ran:
        for name in list(os.environ):
            if name.startswith(("CUSTOM_PASS_", "SQL_", "LOG_", "METRICS_")) or name.lower().endswith("_proxy"):
                monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        code = execute(list(arguments))
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run
