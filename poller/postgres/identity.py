"""Which server answers behind the address: the one that was met first, or another that must not be written to.

A name may come to point at a second writable server: an old primary that nobody stopped, a copy, an empty one. What is
settled there is paid twice or lost. So each physical connection says whose it is, behind a pooler each transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from poller.errors import DatabaseAway


class Identity(NamedTuple):
    """A cluster, and the branch of its history that it writes: a promotion begins one with a higher number."""

    system: int
    timeline: int

    def __str__(self) -> str:
        return f"system {self.system} timeline {self.timeline}"


Say = Callable[[str, str | None], None]
"""Told of each stranger, as whom we know and whom we met; None when the one that we know is back."""


class KnownServer:
    """The server that this process works with; *identity* is None where the role may not read it: then any will do."""

    def __init__(self, identity: Identity | None, say: Say | None = None) -> None:
        self.identity = identity
        self._say = say or (lambda _known, _met: None)
        self._is_away = False

    def meet(self, met: Identity | None) -> None:
        """Let *met* answer; a promotion of the server that we know is followed. None does not say who it is.

        Raises DatabaseAway(identity_changed) for another system, and for an older timeline of the same.
        """
        known = self.identity
        if known is None:
            return
        if met is None or met.system != known.system or met.timeline < known.timeline:
            self._is_away = True
            self._say(str(known), str(met or "a server that does not say who it is"))
            raise DatabaseAway("identity_changed", f"knows {known}, met {met}; restart the daemon to accept it")
        if self._is_away:
            self._is_away = False
            self._say(str(met), None)
        self.identity = met

    def is_left_behind(self, identity: Identity | None) -> bool:
        """Whether a connection made to *identity* leads to a server that another one was promoted over since."""
        return identity is not None and identity != self.identity


def read_identity(row: Any) -> Identity:
    """The identity in a row of statement ``identity``. Raises DatabaseAway for a standby."""
    if row["timeline"] is None:
        raise DatabaseAway("read_only", "the server is a standby")
    return Identity(row["system"], row["timeline"])
