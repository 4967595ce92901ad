"""README against what it describes: a promise without its test, or a setting that is not there, is a lie."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from poller.settings_model import Settings, abouts
from poller.settings_values import shown

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_settings_table_is_that_of_the_settings() -> None:
    defaults = Settings()
    for about in abouts():
        names = ", ".join(f"`{name}`" for name in about.names if not name.islower())
        value = shown(getattr(defaults, about.field), about.expected)
        assert f"| {names} | {value} | {about.meaning} |" in README
    table = re.findall(r"^\| `([A-Z_]+)`", README, re.MULTILINE)
    assert set(table) == {about.names[0] for about in abouts()}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_[a-z0-9_]+)`", README))))
def test_every_test_that_readme_names_exists(name: str) -> None:
    assert any(f"def {name}(" in path.read_text() for path in (ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:tests|deploy|config|poller)/[A-Za-z0-9_./-]+)`", README)))
)
def test_every_path_that_readme_names_exists(name: str) -> None:
    assert (ROOT / name).exists()


def test_every_command_stands_in_readme_and_every_one_there_exists() -> None:
    from poller.cli import poller

    table = README.split("## Commands")[1].split("## Settings")[0]
    named = set(re.findall(r"`([a-z]+)[^`]*`", table))
    assert set(poller.list_commands(click.Context(poller))) <= named


def test_every_event_that_readme_explains_is_said_by_somebody() -> None:
    table = README.split("## When a person is needed")[1].split("##")[0]
    events = re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)
    source = "\n".join(path.read_text() for path in (ROOT / "poller").rglob("*.py"))
    assert len(events) >= 10
    assert [event for event in events if f'"{event}"' not in source] == []
