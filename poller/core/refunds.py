"""How much may go back for failed tasks of one channel within an hour, where the settings say so.

An upstream that says ``failed`` to everything makes refunds, one a task. Once those of the last hour have reached the
limit, the rest waits: its tasks stay open, are asked about again, and are settled when the hour has moved on. The
ledger says what was given back, so restarts and other replicas change nothing about it; what the batches of a pass
settle side by side is counted here until the next pass reads it there. The refund that reaches the limit still goes
through: one that is larger than the limit would wait for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from poller.core.model import Outcome, Settled, Settlement, Verdict


class RefundLimit:
    """The limit of one lane, in quota; None: no limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.given = 0
        """Given back within the hour, as far as known, what is being settled just now included."""

    def begin(self, given: int) -> None:
        """A pass begins, and the ledger says that *given* went back within the last hour."""
        self.given = given

    def admit(self, settlements: Sequence[Settlement]) -> tuple[list[Settlement], list[Settlement]]:
        """Those that may be settled now, counted as given at once, and those that must wait."""
        if self.limit is None:
            return list(settlements), []
        admitted, waiting = [], []
        for each in settlements:
            refund = _refund_of(each)
            if refund and self.given >= self.limit:
                waiting.append(each)
            else:
                self.given += refund
                admitted.append(each)
        return admitted, waiting

    def correct(self, settlement: Settlement, settled: Settled) -> None:
        """What was admitted came to *settled*: another amount than was read, or nothing at all."""
        if settlement.outcome is Outcome.FAILURE:
            moved = max(0, settled.refunded) if settled.verdict is Verdict.SETTLED else 0
            self.given += moved - _refund_of(settlement)


def _refund_of(settlement: Settlement) -> int:
    """What a failure gives back, by the row as it was read; a success pays its rest whatever the limit."""
    return max(0, settlement.task.reserved) if settlement.outcome is Outcome.FAILURE else 0
