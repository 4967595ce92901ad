"""All configuration: read once, every fault reported at once, every value knowing where it came from.

``load`` is for those who need valid settings, ``examine`` for those who explain them. This is the only module that
touches the process environment. ``python -m poller.settings > config/poller.toml`` writes the annotated file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from poller.errors import Misconfigured
from poller.settings_model import About, Settings, abouts
from poller.settings_rules import INERT, adjusted, cross_faults, cross_warnings
from poller.settings_sources import CONFIG_FILE, Given, Names, gather
from poller.settings_values import shown

__all__ = ["Examined", "Loaded", "Settings", "Value", "environment", "examine", "load", "render_toml"]

_NOTIFY = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Value(NamedTuple):
    """One effective setting: its canonical name, its value as it may be shown, and where it came from."""

    name: str
    shown: str
    origin: str


class Examined(NamedTuple):
    """What ``check`` tells: *settings* hold defaults in place of faulty values; the lists have one line an entry."""

    settings: Settings
    values: list[Value]
    faults: list[str]
    unknown: list[str]
    warnings: list[str]
    notes: list[str]


class Loaded(NamedTuple):
    """Valid settings, where each came from, and what is odd about them without being wrong."""

    settings: Settings
    values: list[Value]
    warnings: list[str]


def environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ


def load(environ: Mapping[str, str], file: str | None = None, *, needs_database: bool = True) -> Loaded:
    """The effective settings of *environ* over the TOML *file* (else ``CUSTOM_PASS_CONFIG_FILE``) over the defaults.

    Raises Misconfigured with every fault at once. Without *needs_database* a missing ``SQL_DSN`` is none.
    """
    found = examine(environ, file, needs_database=needs_database)
    if found.faults:
        raise Misconfigured(*found.faults)
    return Loaded(found.settings, found.values, found.unknown + found.warnings)


def examine(environ: Mapping[str, str], file: str | None = None, *, needs_database: bool = True) -> Examined:
    """The same as ``load``, but tells of faults instead of raising them."""
    table = abouts()
    gathered = gather(environ, file, [Names(about.names, about.is_secret) for about in table], INERT)
    given = adjusted(gathered)
    faults, faulty = list(gathered.faults), set(gathered.faulty)
    raw: dict[str, Any] = {about.field: given[about.names[0]].raw for about in table if about.names[0] in given}
    raw["notify"] = {name: environ[name] for name in _NOTIFY if name in environ}
    try:
        settings = _validated(raw)
    except ValidationError as error:
        for about, line in _fault_lines(error, table, given):
            faults.append(line)
            faulty.add(about.names[0])
            raw.pop(about.field, None)
        settings = _validated(raw)
    faults += cross_faults(settings, given, faulty, needs_database=needs_database)
    values = []
    for about in table:
        name = about.names[0]
        value = "(faulty)" if name in faulty else shown(getattr(settings, about.field), about.expected)
        values.append(Value(name, value, given[name].origin if name in given else "default"))
    warnings = gathered.warnings + cross_warnings(settings, given, faulty)
    notes = [f"{name} ({item.origin}): {INERT[name]}" for name, item in gathered.inert.items()]
    return Examined(settings, values, faults, gathered.unknown, warnings, notes)


def _validated(raw: Mapping[str, Any]) -> Settings:
    return TypeAdapter(Settings).validate_python(raw)


def _fault_lines(error: ValidationError, table: list[About], given: Mapping[str, Given]) -> Iterator[tuple[About, str]]:
    """Which setting, from where, what is wrong and what is expected; a secret's value never, others in short."""
    by_field = {about.field: about for about in table}
    for detail in error.errors(include_url=False, include_input=False):
        about = by_field[str(detail["loc"][0])]
        found = given[about.names[0]]
        kind = detail["type"]
        if kind == "value_error":
            what = str(detail["ctx"]["error"])
        elif kind == "greater_than_equal" and about.low is not None:
            what = f"is less than {about.shown_bound(about.low)}"
        elif kind == "less_than_equal" and about.high is not None:
            what = f"is more than {about.shown_bound(about.high)}"
        else:
            what = "is not one of them"
        expected = " ".join(filter(None, (about.expected.text, about.bounds())))
        subject = "" if about.is_secret else f"{_short(found.raw)} "
        yield about, f"{about.names[0]} ({found.origin}): {subject}{what}; expected {expected}"


def _short(raw: object) -> str:
    text = ",".join(raw) if isinstance(raw, tuple) else str(raw).strip()
    # A URL in a place where none belongs may well be a DSN that was pasted into the wrong line.
    return "the value" if "://" in text or "@" in text else ascii(text if len(text) <= 60 else f"{text[:60]}…")


def render_toml() -> str:
    """The annotated configuration file: every setting as a comment with its default, unit and meaning."""
    lines = [
        "# Every setting of the poller, written out with its default. Remove the # to change one.",
        f"# The file is named by {CONFIG_FILE}; the environment wins over it, and a channel's own row over both.",
        '# An empty text means unset. Secrets may stand in files of their own: NAME_FILE = "/path".',
        "# Written by: python -m poller.settings > config/poller.toml",
    ]
    defaults = _validated({})
    for about in abouts():
        others = f" Also: {', '.join(name for name in about.names[1:] if name.isupper())}." if about.names[1:] else ""
        others = others if others != " Also: ." else ""
        expected = ", ".join(filter(None, (about.expected.text, about.bounds())))
        value = getattr(defaults, about.field)
        lines += ["", f"# {about.meaning[0].upper()}{about.meaning[1:]}.{others}", f"# Expects {expected}."]
        lines.append(f"#{about.names[0]} = {_toml(value, shown(value, about.expected))}")
    return "\n".join(lines) + "\n"


def _toml(value: object, text: str) -> str:
    if isinstance(value, bool) or (isinstance(value, int) and text.isdecimal()):
        return text
    if isinstance(value, tuple):
        return f"[{', '.join(str(part) if isinstance(part, int) else chr(34) + part + chr(34) for part in value)}]"
    return f'"{"" if value is None else text}"'


if __name__ == "__main__":
    sys.stdout.write(render_toml())
