"""A pass over a lane: the rules it goes by, the pages it reads and what it came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from poller.core.clock import DatabaseClock
from poller.core.model import Policy, StatusWords, Task


class Page(NamedTuple):
    """Active tasks of one channel in pk order."""

    tasks: list[Task]
    now_s: float
    """The database's time when the page was read."""
    last_pk: int
    """Where the next page starts; rows left out of ``tasks`` (quarantined ones) count too."""
    is_last: bool


@dataclass(slots=True)
class PassCounts:
    """What one pass over a lane came to."""

    asked: int = 0
    requests: int = 0
    failed_requests: int = 0
    kept: int = 0
    advanced: int = 0
    settled: int = 0
    quarantined: int = 0
    refunded: int = 0
    charged: int = 0
    refunds_held: int = 0
    """Tasks whose refund waits because the channel gave back as much as it may within an hour."""
    quota_held: int = 0
    anomalies: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about every lane."""

    policy: Callable[[StatusWords], Policy]
    base_words: StatusWords
    interval_s: float
    batch_size: int
    page_size: int
    max_in_flight: int
    clock: DatabaseClock = field(default_factory=DatabaseClock)
    max_refund_per_hour: int | None = None
    """Quota that one channel may give back for failed tasks within an hour; None: no limit."""
    is_patient: bool = True
    """Wait for an open breaker within a pass; a one-shot pass ends instead."""
