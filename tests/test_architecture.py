"""The rules of the layout: which way imports point, what the core may know, where SQL lives, how long a module is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "poller"
MODULES = sorted(PACKAGE.rglob("*.py"))
ADAPTERS = ("upstream", "postgres", "cache", "ops")
WIRING = ("daemon.py", "wiring.py", "cli", "demo", "__main__.py")
LIMIT = 300
IMPURE = {
    "asyncio",
    "anyio",
    "time",
    "random",
    "os",
    "logging",
    "socket",
    "datetime",
    "secrets",
    "threading",
    "subprocess",
}


def imports_of(path: Path) -> Iterator[str]:
    """Full names of all modules that *path* imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_module_is_longer_than_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LIMIT


@pytest.mark.parametrize("path", [each for each in MODULES if part_of(each) == "core"], ids=named)
def test_core_is_pure_and_imports_only_the_standard_library_and_itself(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not any(
        isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith) for node in ast.walk(tree)
    )
    for name in imports_of(path):
        top = name.split(".")[0]
        assert top not in IMPURE, name
        assert top in sys.stdlib_module_names or name.startswith("poller.core") or name == "poller", name


def test_wire_knows_bytes_and_reports_but_no_network() -> None:
    for path in (PACKAGE / "upstream" / f"{name}.py" for name in ("wire", "fields", "loose_json")):
        assert "async " not in path.read_text()
        for name in imports_of(path):
            top = name.split(".")[0]
            assert top not in IMPURE, name
            ours = ("poller.core", "poller.errors", "poller.upstream.fields", "poller.upstream.loose_json")
            assert (
                top in sys.stdlib_module_names
                or top == "msgspec"
                or name.startswith(ours)
                or name in ("poller", "poller.upstream")
            ), name


@pytest.mark.parametrize("path", [each for each in MODULES if part_of(each) in ADAPTERS], ids=named)
def test_adapters_never_import_one_another_nor_the_shells(path: Path) -> None:
    mine = part_of(path)
    ours = f"poller.{mine}"
    allowed = ("poller.core", "poller.errors", "poller.crashpoints", ours, "poller.settings", "poller.__version__")
    for name in imports_of(path):
        if name.startswith("poller."):
            assert name.startswith(allowed), f"{named(path)} imports {name}"


@pytest.mark.parametrize(
    "path", [each for each in MODULES if part_of(each) not in (*ADAPTERS, *WIRING, "core")], ids=named
)
def test_only_daemon_cli_and_demo_wire_adapters(path: Path) -> None:
    for name in imports_of(path):
        assert not name.startswith(tuple(f"poller.{adapter}" for adapter in ADAPTERS)), f"{named(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_sql_is_written_in_sql_files(path: Path) -> None:
    verbs = re.compile(
        r"^\s*(SELECT\s.+\sFROM|INSERT INTO|UPDATE\s+\S+\s+SET|DELETE FROM|WITH\s+\w+\s+AS"
        r"|CREATE (TABLE|INDEX|SCHEMA)|ALTER TABLE)\b",
        re.IGNORECASE,
    )
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not verbs.match(node.value), f"{named(path)}:{node.lineno}"


def test_the_environment_is_read_in_one_place() -> None:
    readers = {named(path) for path in MODULES if re.search(r"\bos\.(environ|getenv)\b", path.read_text())}
    assert readers <= {"poller/settings.py", "poller/__main__.py", "poller/cli/__init__.py", "poller/demo/run.py"}, (
        readers
    )


def test_importing_everything_connects_nowhere_and_reads_no_setting() -> None:
    names = [named(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in MODULES]
    names = [name for name in names if not name.endswith("__main__")]
    guard = (
        "import socket, sys\n"
        "def no(*a, **k): raise SystemExit('connected at import')\n"
        "socket.socket.connect = no\n" + "".join(f"import {name}\n" for name in names)
    )
    done = subprocess.run([sys.executable, "-c", guard], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_diagram_on_the_architecture_page_is_the_table() -> None:
    import poller
    from poller.core.states import diagram

    assert poller.__doc__ is not None
    for line in diagram().splitlines():
        assert line.strip() in poller.__doc__


def test_the_top_level_holds_what_the_design_names_and_nothing_else() -> None:
    tracked = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    names = {name for name in tracked.stdout.split() if not name.startswith(".")}
    assert names <= {"pyproject.toml", "README.md", "poller", "config", "deploy", "tests"}
