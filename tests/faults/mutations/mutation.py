"""What a seeded bug is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SETTLE = "postgres/sql/*/settle.sql"
SETTLER = "postgres/settle.py"


class Patch(NamedTuple):
    """*old* becomes *new* in *path*, which is below ``poller/`` and may hold a ``*``: then once in each of its files."""

    path: str
    old: str
    new: str


class Mutation(NamedTuple):
    """One bug by name. *tests* are pytest node ids, perhaps with a ``-k`` expression after a blank."""

    name: str
    patches: tuple[Patch, ...]
    tests: tuple[str, ...]

    def applied(self, poller: Path) -> dict[Path, str]:
        """The texts with the bug in them, by file. Raises ValueError when a patch has not exactly one place in each."""
        texts: dict[Path, str] = {}
        for patch in self.patches:
            files = sorted(poller.glob(patch.path))
            if not files:
                raise ValueError(f"no file is named {patch.path}")
            for file in files:
                text = texts.get(file) or file.read_text()
                if text.count(patch.old) != 1:
                    raise ValueError(f"stands {text.count(patch.old)} times in {file.name}: {patch.old[:60]!r}")
                texts[file] = text.replace(patch.old, patch.new)
        return texts


def one(name: str, path: str, old: str, new: str, *tests: str) -> Mutation:
    """A bug of a single patch."""
    return Mutation(name, (Patch(path, old, new),), tests)


def without(path: str, text: str) -> Patch:
    """*text* left out."""
    return Patch(path, text, "")


NO_USER_ROW_COUNT = Patch(
    SETTLE, "WHEN (SELECT count(*) FROM paid) <> (SELECT count(*) FROM owed) THEN 'user_row'", "WHEN false THEN ''"
)
NO_KEY = (
    Patch(
        "postgres/migrations/0001_poller.sql",
        "task_pk           bigint PRIMARY KEY,\n    task_id           text NOT NULL,\n    user_id",
        "task_pk           bigint,\n    task_id           text NOT NULL,\n    user_id",
    ),
    without(SETTLE, "    ON CONFLICT (task_pk) DO NOTHING\n"),
)
