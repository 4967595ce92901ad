"""The breaker of a lane: after some failures in a row upstream is left alone for a while, then probed by one ask.

closed      ask as you like; the 5th failure in a row opens it
open        nobody asks until ``open_until_s``: 5 s at first, doubling to 30 s with every probe that fails
half_open   one probe is under way; its success closes, its failure opens again

Whoever calls ``probing`` owes ``succeeded`` or ``failed``. Any one clock will do, as long as it is always the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from poller.core.schedule import backoff_s

OPENS_AFTER: Final = 5
FIRST_DELAY_S: Final = 5.0
LAST_DELAY_S: Final = 30.0

BreakerState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state of one lane's breaker, as a value."""

    state: BreakerState = "closed"
    failures: int = 0
    """Failures in a row; those of asks that were under way when it opened are not counted."""
    open_until_s: float = 0.0

    @classmethod
    def restored(cls, failures: int, open_until_s: float) -> Breaker:
        """A breaker that was not closed, as its row says. A probe that was under way then is forgotten."""
        return cls("open", max(failures, OPENS_AFTER), open_until_s)

    @property
    def delay_s(self) -> float:
        """How long the latest opening lasts, in seconds; 0 while closed."""
        if self.state == "closed":
            return 0.0
        return backoff_s(self.failures - OPENS_AFTER + 1, FIRST_DELAY_S, LAST_DELAY_S)

    def may_ask(self, now_s: float, *, is_triggered: bool = False) -> bool:
        """Whether an ask may start: when it is not closed, that ask is the probe. A trigger may probe early."""
        if self.state == "open":
            return is_triggered or now_s >= self.open_until_s
        return self.state == "closed"

    def probing(self) -> Breaker:
        """The breaker while its probe is under way; a closed one needs none and stays."""
        return replace(self, state="half_open") if self.state == "open" else self

    def succeeded(self) -> Breaker:
        """After a good answer, whenever it was asked for: closed."""
        return Breaker()

    def failed(self, now_s: float) -> Breaker:
        """After an ask without a usable answer.

        >>> breaker = Breaker()
        >>> for _ in range(5):
        ...     breaker = breaker.failed(100.0)
        >>> breaker.state, breaker.open_until_s, breaker.probing().failed(105.0).open_until_s
        ('open', 105.0, 115.0)
        """
        if self.state == "open" and now_s < self.open_until_s:
            return self
        failures = self.failures + 1
        if failures < OPENS_AFTER:
            return Breaker("closed", failures)
        opened = Breaker("open", failures)
        return replace(opened, open_until_s=now_s + opened.delay_s)
