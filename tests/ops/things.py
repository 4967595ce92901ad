"""A task, a settlement and a recorder whose clock and lines a test can see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from poller.core.model import Outcome, Settled, State, Task, Verdict
from poller.ops.log_lines import text_line
from poller.ops.metrics import Metrics
from poller.ops.recorder import Recorder


def task(**changes: Any) -> Task:
    known: dict[str, Any] = {
        "pk": 9,
        "task_id": "task-9",
        "upstream_id": "up-9",
        "user_id": 123,
        "channel_id": 1,
        "model": "m/submit",
        "price_model": "m",
        "group": "",
        "state": State.IN_PROGRESS,
        "progress": "10%",
        "reserved": 450,
        "submitted_s": 0.0,
        "key": None,
        "client_token": None,
        "token_header": "",
        "terms": "",
    }
    return Task(**{**known, **changes})


def settled(verdict: Verdict = Verdict.SETTLED, outcome: Outcome = Outcome.FAILURE, **changes: Any) -> Settled:
    return Settled(task(), verdict, outcome, **{"reserved": 450, "refunded": 450, **changes})


class Lines:
    """A logger that keeps what it is told; ``text`` is the text form without the time."""

    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []

    def _keep(self, level: str, event: str, facts: dict[str, object]) -> None:
        self.events.append({"level": level, "event": event, **{k: v for k, v in facts.items() if v is not None}})

    def debug(self, event: str, **facts: object) -> None:
        self._keep("debug", event, facts)

    def info(self, event: str, **facts: object) -> None:
        self._keep("info", event, facts)

    def warning(self, event: str, **facts: object) -> None:
        self._keep("warning", event, facts)

    def error(self, event: str, **facts: object) -> None:
        self._keep("error", event, facts)

    @property
    def text(self) -> list[str]:
        stamp = datetime(2026, 1, 1, tzinfo=UTC)
        return [text_line({"timestamp": stamp, **event}).partition(" ")[2] for event in self.events]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def recorder() -> tuple[Recorder, Lines, Clock]:
    lines, clock = Lines(), Clock()
    return Recorder(Metrics(), lines, clock=clock, wall_clock=lambda: 1_750_000_000.0), lines, clock
