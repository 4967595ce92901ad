"""The crash points of the daemon, listed from its source."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent.parent / "poller"


@cache
def labels() -> tuple[str, ...]:
    """Every label that the daemon's code can reach, in the order of files and lines. Each stands in one place."""
    found: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in sorted(calls, key=lambda node: node.lineno):
            if isinstance(call.func, ast.Name) and call.func.id == "reach":
                (label,) = call.args
                assert isinstance(label, ast.Constant), (
                    f"{path}:{call.lineno}: a label is written out where it is reached"
                )
                assert label.value not in found, f"{path}:{call.lineno}: {label.value} stands in two places"
                found.append(str(label.value))
    return tuple(found)
