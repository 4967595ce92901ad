"""What an outbox holds and what came of handing it over: values that the outbox and its couriers share."""

from __future__ import annotations

import enum
from typing import NamedTuple

KINDS = ("log", "user_cache", "token_cache")
"""What ``poller.outbox`` may hold: log rows for another database, changed balances for the gateway's Redis."""
CACHES = KINDS[1:]
"""Those that are pointless after a while: no cached balance lives for long."""


class Entry(NamedTuple):
    """One row of the outbox, claimed for a while by this replica."""

    id: int
    task_pk: int
    payload: str
    """JSON text, as the settling statement wrote it."""
    age_s: float
    """Seconds since the transaction that wrote it, by the database's clock."""
    is_in_doubt: bool
    """An earlier claim ended without a word: whether it was handed over then is not known."""


class Fate(enum.StrEnum):
    """What became of an entry."""

    DELIVERED = "delivered"
    POINTLESS = "pointless"
    """There is nothing (any more) that it could change; it is done with."""
    UNKNOWN = "unknown"
    """Sent, or maybe sent, and no answer came; sending it again could do it twice, so it is done with."""
    LEFT = "left"
    """It surely was not done: it stays and is tried again soon."""
    REFUSED = "refused"
    """It was refused for what it is: it stays for a person, and is tried again now and then."""


DONE = frozenset({Fate.DELIVERED, Fate.POINTLESS, Fate.UNKNOWN})
"""The fates after which an entry leaves the outbox."""


class Receipt(NamedTuple):
    """The fate of one entry. *reason* is one word for a label, empty when delivered; *detail* is for a person."""

    id: int
    fate: Fate
    reason: str = ""
    detail: str = ""


class Waiting(NamedTuple):
    """What is in the outbox."""

    depth: int
    oldest_s: float
    """Age of its oldest entry in seconds, 0 when it is empty."""
