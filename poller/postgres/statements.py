"""The SQL files as values: one statement a file, read once when the daemon asks for them.

``sql/own/`` holds what touches only our tables, ``sql/<profile>/`` what touches the gateway's; the files of each
profile have the same names, parameters and result columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from typing import NamedTuple

PROFILES = ("documented", "fork", "main")


class Statement(NamedTuple):
    """One SQL statement. *name* is its file's stem, *text* the SQL without its comment lines."""

    name: str
    text: str


class Statements(Mapping[str, Statement]):
    """Statements by file stem, as items or as attributes: ``statements.page`` is ``statements["page"]``."""

    def __init__(self, found: Mapping[str, Statement]) -> None:
        self._found = dict(found)

    def __getitem__(self, name: str) -> Statement:
        return self._found[name]

    def __getattr__(self, name: str) -> Statement:
        try:
            return self.__dict__["_found"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"no statement {name!r}: poller/postgres/sql holds no {name}.sql") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _bare(source: str) -> str:
    """*source* without its comment lines: they are for the reader, and would only make each Parse message longer."""
    lines = (line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("--"))
    return "\n".join(lines).rstrip().removesuffix(";")


def _folder(name: str) -> dict[str, Statement]:
    folder = resources.files("poller.postgres") / "sql" / name
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    found = {}
    for file in files:
        stem = file.name.removesuffix(".sql")
        # The tag shows in pg_stat_activity and in slow-query logs which file a statement is.
        found[stem] = Statement(stem, f"/* poller:{stem} */ {_bare(file.read_text('utf-8'))}")
    return found


def load_own() -> Statements:
    """The statements that need no profile: sessions, leases, migrations."""
    return Statements(_folder("own"))


def load(profile: str) -> Statements:
    """All statements for *profile* (one of PROFILES), our own included.

    Raises ValueError for an unknown profile, or when a file of the profile has the name of one of our own.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: known are {', '.join(PROFILES)}")
    own, theirs = _folder("own"), _folder(profile)
    if twice := own.keys() & theirs.keys():
        raise ValueError(f"statement in both sql/own and sql/{profile}: {', '.join(sorted(twice))}")
    return Statements(own | theirs)
