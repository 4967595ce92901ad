"""What settling must come to, in the smallest words: no database, no SQL, nothing of the daemon's code."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Row:
    """A task as the gateway's table has it. *state*: ``open``, ``SUCCESS`` or ``FAILURE``."""

    user: int
    channel: int
    quota: int
    token: int | None = None
    subscription: int | None = None
    state: str = "open"


@dataclass(frozen=True, slots=True)
class Wish:
    """A settlement that somebody asks for, by what they read of the row. *charged* None: as reserved."""

    pk: int
    user: int
    channel: int
    outcome: str
    charged: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """What was settled, for ever."""

    user: int
    channel: int
    token: int | None
    subscription: int | None
    outcome: str
    reserved: int
    charged: int


Counter = tuple[str, str, int]


@dataclass
class Model:
    """One gateway and its ledger."""

    profile: str
    rows: dict[int, Row] = field(default_factory=dict)
    users: set[int] = field(default_factory=set)
    ledger: dict[int, Entry] = field(default_factory=dict)
    quarantine: set[int] = field(default_factory=set)
    others: defaultdict[Counter, int] = field(default_factory=lambda: defaultdict(int))
    """What counters were at first, and what the gateway moved."""

    def counters(self) -> dict[Counter, int]:
        """Every counter now: what the gateway made of it, and what the ledger gave back."""
        now = defaultdict(int, self.others)
        for entry in self.ledger.values():
            for counter, delta in self.moves(entry).items():
                now[counter] += delta
        return {counter: value for counter, value in now.items() if counter[0] != "users" or counter[2] in self.users}

    def moves(self, entry: Entry) -> dict[Counter, int]:
        """What a settlement moves: the counters that this gateway moved when it charged."""
        back = entry.reserved - entry.charged
        if self.profile == "fork":
            return {("users", "quota", entry.user): back}
        wallet = 0 if entry.subscription else back
        moved = {("users", "quota", entry.user): wallet, ("users", "used_quota", entry.user): -back}
        if self.profile == "main":
            moved["channels", "used_quota", entry.channel] = -back
            if entry.token:
                moved["tokens", "remain_quota", entry.token] = back
                moved["tokens", "used_quota", entry.token] = -back
            if entry.subscription:
                moved["user_subscriptions", "amount_used", entry.subscription] = -back
        return moved

    def verdict(self, wish: Wish) -> str:
        """What must come of a wish."""
        row, entry = self.rows.get(wish.pk), self.ledger.get(wish.pk)
        if entry and row and row.user != entry.user:
            return "quarantined"
        if entry and row and row.state == "open" and row.quota not in (entry.reserved, entry.charged):
            # No whole-row save brings that back: it was charged anew.
            return "quarantined"
        if entry:
            return "reopened" if row and row.state == "open" else "already"
        if row is None:
            return "gone"
        if row.state != "open":
            return "final"
        if (row.user, row.channel) != (wish.user, wish.channel):
            return "moved"
        charged = row.quota if wish.charged is None else wish.charged
        if row.quota < 0 or (charged != row.quota and row.user not in self.users):
            return "quarantined"
        return "settled"

    def settle(self, wish: Wish) -> str:
        """Make a wish come true; its verdict."""
        verdict = self.verdict(wish)
        if verdict == "settled":
            row = self.rows[wish.pk]
            charged = row.quota if wish.charged is None else wish.charged
            self.ledger[wish.pk] = Entry(
                row.user, row.channel, row.token, row.subscription, wish.outcome, row.quota, charged
            )
        if verdict == "quarantined":
            # Nothing may be noted about what the ledger has; the page leaves it out all the same.
            self.quarantine.add(wish.pk)
        elif verdict in ("settled", "reopened", "already"):
            self.quarantine.discard(wish.pk)
        if verdict in ("settled", "reopened"):
            entry = self.ledger[wish.pk]
            keeps = self.profile == "fork" and entry.outcome == "FAILURE"
            quota = entry.reserved if keeps else entry.charged
            self.rows[wish.pk] = replace(self.rows[wish.pk], state=entry.outcome, quota=quota)
        return verdict
