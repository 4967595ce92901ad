"""What can be wrong with a simulated upstream, and how it shows in an answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Item = dict[str, Any]

_BROKEN_STATUSES = (500, 502, 503, 504, 429)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Shares are of requests, or of items where it says so, from 0 to 1. It ends *heals_after_s* after the start."""

    hanging: float = 0.0
    dripping: float = 0.0
    failing: float = 0.0
    """Answered with a 5xx or a 429."""
    babbling: float = 0.0
    """Answered 200 with what is no answer."""
    slow_s: float = 0.0
    """Every answer takes up to this long."""
    strange: float = 0.0
    """Answered with an item for an id that nobody asked about."""
    unknown_word: float = 0.0
    """Of the items."""
    not_found: float = 0.0
    """Of the items."""
    absent: float = 0.0
    """Of the items."""
    doubled: float = 0.0
    """Of the items: there twice, half of them with two different words."""
    unreadable: float = 0.0
    """Of the items."""
    heals_after_s: float = float("inf")


CHAOS = Trouble(
    hanging=0.03,
    dripping=0.02,
    failing=0.12,
    babbling=0.05,
    slow_s=0.3,
    strange=0.05,
    unknown_word=0.03,
    not_found=0.03,
    absent=0.03,
    doubled=0.03,
    unreadable=0.03,
    heals_after_s=30.0,
)
"""A bit of everything, for half a minute."""


def broken_status(chance: random.Random) -> int:
    """The status of an answer that fails."""
    return chance.choice(_BROKEN_STATUSES)


def babble(chance: random.Random) -> bytes:
    """The body of an answer that is none."""
    return chance.choice(
        (
            b"<html><body>502 Bad Gateway</body></html>",
            b"",
            b'{"code":0,"data":[{"task_id"',
            b'{"code":1001,"message":"busy"}',
            b'{"code":false,"data":[]}',
            b'{"code":0,"data":{}}',
            b'{"code":0,"data":"none"}',
            b"[" * 20_000,
        )
    )


def spoil(items: list[Item], trouble: Trouble, chance: random.Random) -> list[Any]:
    """*items* as a troubled upstream would list them."""
    listed: list[Any] = []
    for item in items:
        if chance.random() < trouble.absent:
            continue
        listed.append(_spoiled(item, trouble, chance))
        if chance.random() < trouble.doubled:
            listed.append(chance.choice((item, {**item, "status": "completed"}, {**item, "status": "failed"})))
    if chance.random() < trouble.strange:
        listed.append({"task_id": f"stranger-{chance.getrandbits(32):x}", "status": "failed"})
    return listed


def _spoiled(item: Item, trouble: Trouble, chance: random.Random) -> Any:
    spoils: tuple[tuple[float, Callable[[], Any]], ...] = (
        (trouble.unknown_word, lambda: {**item, "status": "teleporting"}),
        (trouble.not_found, lambda: {"task_id": item["task_id"], "status": "not_found"}),
        (trouble.unreadable, lambda: {**item, "status": 17}),
    )
    for share, spoiled in spoils:
        if chance.random() < share:
            return spoiled()
    return item
