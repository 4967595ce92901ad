"""The SQL files: same names in each profile, one statement a file, headers, one text for what is active."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from poller.demo.embedded import Server
from poller.postgres import statements as module
from poller.postgres.statements import PROFILES, load, load_own

FOLDER = Path(module.__file__).parent / "sql"
FILES = sorted(file for file in FOLDER.rglob("*.sql") if file.parent.name != "plan")
ACTIVE = {
    "documented": "status IN ('submitted', 'processing')",
    "fork": "(status IS NULL OR status NOT IN ('SUCCESS', 'FAILURE'))",
    "main": "(status IS NULL OR status NOT IN ('SUCCESS', 'FAILURE'))",
}


def named(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


def test_each_profile_has_the_same_statements():
    names = [{file.stem for file in FILES if file.parent.name == profile} for profile in PROFILES]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("file", FILES, ids=named)
def test_a_file_begins_by_saying_what_it_is_takes_locks_and_returns(file):
    header = []
    for line in file.read_text().splitlines():
        if not line.startswith("--"):
            break
        header.append(line)
    text = "\n".join(header)
    assert text.startswith(f"-- {file.stem}: ")
    assert "locks:" in text
    assert "returns:" in text


@pytest.mark.parametrize("file", FILES, ids=named)
def test_a_header_names_every_parameter_that_its_statement_takes(file):
    source = file.read_text()
    header = source[: re.search(r"^(?!--)", source, re.MULTILINE).start()]
    body = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("--"))
    used = set(re.findall(r"\$\d+", body))
    assert used == set(re.findall(r"\$\d+", header)) & used
    assert "no parameters" in header or used


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", ["index", "discover", "queue", "page", "last", "quarantined"])
def test_what_is_active_is_said_in_one_text(profile, name):
    text = re.sub(r"\bt(asks?)?\.(?=platform|status)", "", load(profile)[name].text)
    text = re.sub(r"\s+", " ", text)
    assert f"platform = 'custompass' AND {ACTIVE[profile]}" in text


def test_a_statement_is_an_item_and_an_attribute_and_carries_its_name_to_the_server():
    statements = load("fork")
    assert statements.discover is statements["discover"]
    assert statements.discover.text.startswith("/* poller:discover */ WITH RECURSIVE")
    assert "--" not in statements.renew.text
    with pytest.raises(AttributeError, match=r"nonsense\.sql"):
        _ = statements.nonsense
    with pytest.raises(ValueError, match="unknown profile"):
        load("other")


async def test_every_statement_is_understood_by_the_server(pg_server: Server, make_database, profile_name):
    connection = await asyncpg.connect(await make_database(profile_name))
    for statement in (*load(profile_name).values(), *load_own().values()):
        if statement.name not in ("index", "drop_index"):
            await connection.prepare(statement.text)
    await connection.close()
