"""What happened, counted and logged together: one canonical line for each unit of work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from poller.core.model import Outcome, Settled, Task, Verdict
from poller.core.passes import PassCounts
from poller.errors import AskReason
from poller.ops.log import Logger
from poller.ops.metrics import BREAKER_VALUES, Metrics, was_sent
from poller.ops.repeats import Repeats

_SECOND_WRITER_REMEDY = "stop the gateway's own poller: set UPDATE_TASK=false there, then: poller resume CHANNEL"
_IDENTITY_REMEDY = (
    "nothing is written meanwhile: stop the server that is wrong; restart the daemon to accept the new one"
)
_REFUNDS_REMEDY = "ask the upstream whether these tasks really failed; if they did not: poller pause CHANNEL"
_SAID_BY_ALL = frozenset({"loop_deferred", "pass_deferred"})
_NOOPS = (Verdict.ALREADY, Verdict.FINAL, Verdict.MOVED, Verdict.GONE)


class Recorder:
    """The one place that knows both metrics and log. No call waits, and none raises for what it is told.

    *clock* is monotonic seconds, *wall_clock* epoch seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        logger: Logger,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.metrics = metrics
        self._log = logger
        self._wall_clock = wall_clock
        self._repeats = Repeats(clock)
        self._unassigned: list[int] = []

    # -- asking --

    def asked(
        self, channel_id: int, model: str, count: int, duration_s: float, reason: AskReason | None, detail: str = ""
    ) -> None:
        """One request about *count* tasks; *reason* is why it brought nothing, *detail* our own words for it."""
        metrics, channel = self.metrics, self.metrics.channel(channel_id)
        if was_sent(reason):
            status = "success" if reason is None else "error"
            metrics.requests.labels(channel, status, "ok" if reason is None else reason.value).inc()
            metrics.request_duration.labels(channel).observe(duration_s)
            metrics.asked_tasks.labels(metrics.model(model)).inc(count)
        elif reason is not None:
            metrics.unsent.labels(channel, reason.value).inc()
        if reason is None:
            self._log.debug("polling_tasks", channel_id=channel_id, task_count=count, duration_s=duration_s)
            return
        held = self._repeats.admit("asked", channel_id, reason)
        if held is not None:
            facts = {"channel_id": channel_id, "error": detail or reason.in_words, "duration_s": duration_s}
            self._log.error("poll_failed", **facts, reason=reason.value, model=model or None, repeats=held or None)

    def unknown_word(self, channel_id: int, word: str, count: int) -> None:
        """*count* tasks said a word that no list knows; who makes words up gets no line for each of them."""
        self.metrics.unknown_status.labels(self.metrics.channel(channel_id)).inc(count)
        held = self._repeats.admit("word", channel_id, hash(word) % 32)
        if held is not None:
            self._log.warning("status_unknown", channel_id=channel_id, word=word, count=count, repeats=held or None)

    def anomaly(self, channel_id: int, kind: str, count: int = 1, **facts: object) -> None:
        """Something odd that was survived; *kind* is one of our own words."""
        self.metrics.anomalies.labels(self.metrics.kind(kind)).inc(count)
        held = self._repeats.admit("anomaly", channel_id, kind)
        if held is not None:
            line = {"channel_id": channel_id, "kind": kind, "count": count, **facts}
            self._log.warning("anomaly_seen", **line, repeats=held or None)

    def breaker(self, channel_id: int, state: str) -> None:
        """A lane's breaker moved to ``closed``, ``open`` or ``half_open``."""
        self.metrics.circuit_state.labels(self.metrics.channel(channel_id)).set(BREAKER_VALUES[state])
        write = self._log.warning if state == "open" else self._log.info
        write("breaker_moved", channel_id=channel_id, state=state)

    def concurrency(self, channel_id: int, limit: int) -> None:
        """A lane may have *limit* requests in flight from now on."""
        self.metrics.concurrency_limit.labels(self.metrics.channel(channel_id)).set(limit)

    # -- settling --

    def settled(self, settled: Settled, duration_s: float) -> None:
        """The fate of one settlement; *duration_s* is that of its transaction."""
        task, metrics = settled.task, self.metrics
        outcome = "success" if settled.outcome is Outcome.SUCCESS else "failure"
        facts: dict[str, object] = {
            "user_id": task.user_id,
            "channel_id": task.channel_id,
            "model": task.model,
            "outcome": outcome,
            "refunded": settled.refunded,
            "duration_s": duration_s,
        }
        named = {"task_id": task.task_id, "rule": settled.rule or None}
        metrics.settlement_duration.observe(duration_s)
        if settled.verdict is Verdict.SETTLED:
            metrics.settlements.labels("expired" if settled.rule == "expired" else outcome).inc()
            metrics.refunded.inc(max(0, settled.refunded))
            metrics.charged.inc(max(0, settled.charged))
            self._log.info("task_settled", **facts, status="success", charged=settled.charged, **named)
        elif settled.verdict is Verdict.REOPENED:
            metrics.settlements.labels("noop").inc()
            metrics.reopened.inc()
            self._log.warning("task_reopened", **facts, status="success", **named)
        elif settled.verdict in _NOOPS:
            metrics.settlements.labels("noop").inc()
            self._log.debug("task_unchanged", **facts, status="success", verdict=settled.verdict.value, **named)
        elif settled.verdict is Verdict.QUARANTINED:
            metrics.unsettled.labels(metrics.kind(settled.reason or "data")).inc()
            self.quarantined(task, settled.reason, settled.detail)
        else:
            metrics.unsettled.labels(metrics.kind(settled.reason or settled.verdict.value)).inc()
            why = {"reason": settled.reason or None, "detail": settled.detail or None}
            self._log.warning("task_deferred", **facts, status="error", **why, **named)

    def flipped(self, settled: Settled, said: Outcome) -> None:
        """Upstream says another outcome than the one that it told before and that was settled; no money moved."""
        self.metrics.anomalies.labels(self.metrics.kind("upstream_flip")).inc()
        words = {"settled": settled.outcome.value.lower(), "said": said.value.lower(), "refunded": settled.refunded}
        self._log.error("upstream_flipped", **_named(settled.task), **words)

    def refunds_held(self, channel_id: int, limit: int, given: int) -> None:
        """A channel gave back *given* quota for failed tasks within the hour, as much as it may: the rest waits."""
        facts = {"channel_id": channel_id, "refunded_within_hour": given, "limit": limit, "remedy": _REFUNDS_REMEDY}
        self._log.error("refunds_held", **facts)

    def refunds_released(self, channel_id: int) -> None:
        """No refund of this channel waits any more."""
        self._log.info("refunds_released", channel_id=channel_id)

    def advanced(self, channel_id: int, count: int) -> None:
        """*count* open tasks got a later status or a new progress."""
        self.metrics.advanced.inc(count)
        self._log.debug("tasks_advanced", channel_id=channel_id, task_count=count)

    def quarantined(self, task: Task, reason: str, detail: str) -> None:
        """One task was put aside for a person."""
        self._log.error("task_quarantined", **_named(task), reason=reason, detail=detail or None)

    def quarantined_total(self, count: int) -> None:
        """How many tasks wait for a person now."""
        self.metrics.quarantined.set(count)

    def unassigned(self, count: int, task_pks: Sequence[int]) -> None:
        """*count* active tasks name no channel, *task_pks* among them; said when they are others than before."""
        self.metrics.unassigned.set(count)
        pks, self._unassigned = self._unassigned, list(task_pks)[:10]
        if count and pks != self._unassigned:
            remedy = "nobody is asked about them: set tasks.channel_id, or settle them: poller tasks resolve pk:KEY"
            self._log.warning("tasks_without_channel", count=count, task_pks=self._unassigned, remedy=remedy)

    def detection_lag(self, lag_s: float) -> None:
        """Seconds from the end at upstream to the settlement."""
        self.metrics.detection_lag.observe(lag_s)

    def second_writer(self, channel_id: int, task_pks: Sequence[int]) -> None:
        """Somebody else finished these tasks, outside the guard."""
        self.metrics.second_writer.set(1)
        held = self._repeats.admit("second_writer", channel_id)
        if held is not None:
            facts = {"channel_id": channel_id, "task_pks": list(task_pks)[:10], "remedy": _SECOND_WRITER_REMEDY}
            self._log.error("second_writer_seen", **facts, repeats=held or None)

    def drift(self, quota: int, fresh: Sequence[tuple[int, str]]) -> None:
        """*quota* is what ledger and tables differ by now; *fresh* has pk and kind of what was not told before."""
        self.metrics.ledger_drift.set(quota)
        if fresh:
            self._log.error(
                "ledger_drift_seen",
                drift_quota=quota,
                count=len(fresh),
                task_pks=[pk for pk, _ in fresh[:10]],
                kinds=",".join(sorted({kind for _, kind in fresh})),
                remedy="poller reconcile; poller task pk:KEY explains one",
            )

    def ledger_missing(self, why: str | None) -> None:
        """The ledger lacks what it held, and nothing is settled; None when all is there."""
        self.metrics.ledger_missing.set(why is not None)
        held = self._repeats.admit("ledger") if why else None
        if held is not None:
            self._log.error("ledger_missing", reason=why, repeats=held or None)

    # -- other systems --

    def outbox(self, depth: int, oldest_s: float) -> None:
        """What other systems must still learn of: how many changes, and the age of the oldest."""
        self.metrics.outbox_rows.set(depth)
        self.metrics.outbox_oldest.set(oldest_s)

    def delivered(self, kind: str, count: int) -> None:
        """*count* changes of a kind reached the other system."""
        self.metrics.deliveries.labels(self.metrics.kind(kind)).inc(count)
        self._log.debug("outbox_delivered", kind=kind, count=count)

    def delivery_failed(self, kind: str, reason: str, count: int = 1) -> None:
        """*count* changes did not reach the other system, or it is not known whether they did."""
        self.metrics.delivery_failures.labels(self.metrics.kind(kind), self.metrics.kind(reason)).inc(count)
        held = self._repeats.admit("delivery", kind, reason)
        if held is not None:
            self._log.warning("delivery_failed", kind=kind, reason=reason, count=count, repeats=held or None)

    def database_identity(self, known: str, met: str | None) -> None:
        """Another server answers at the database's address than the one we know; *met* is None when that is back."""
        self.metrics.identity_changed.set(met is not None)
        held = self._repeats.admit("identity", known, met)
        if held is not None and met is not None:
            facts = {"known": known, "met": met, "remedy": _IDENTITY_REMEDY}
            self._log.error("database_identity_changed", **facts, repeats=held or None)
        elif held is not None:
            self._log.info("database_identity_restored", known=known, repeats=held or None)

    # -- running --

    def passed(self, channel_id: int, counts: PassCounts, duration_s: float) -> None:
        """One walk over a lane ended; a pass with an answer, or with nothing to ask, is a successful one."""
        self.metrics.pass_duration.observe(duration_s)
        if counts.requests or not counts.failed_requests:
            label = self.metrics.channel(channel_id)
            self.metrics.last_successful_pass.labels(label).set(self._wall_clock())
        self.metrics.held_refunds.labels(self.metrics.channel(channel_id)).set(counts.refunds_held)
        moved = counts.settled or counts.advanced or counts.quarantined or counts.failed_requests
        write = self._log.info if moved else self._log.debug
        write(
            "pass_ended",
            channel_id=channel_id,
            asked=counts.asked,
            requests=counts.requests,
            failed_requests=counts.failed_requests,
            kept=counts.kept,
            advanced=counts.advanced,
            settled=counts.settled,
            quarantined=counts.quarantined,
            refunds_held=counts.refunds_held or None,
            refunded=counts.refunded,
            charged=counts.charged,
            duration_s=duration_s,
        )

    def queue(self, submitted: int, processing: int, oldest_due_s: float) -> None:
        """Active tasks in the database, and the longest wait for an ask."""
        self.metrics.tasks_in_queue.labels("submitted").set(submitted)
        self.metrics.tasks_in_queue.labels("processing").set(processing)
        self.metrics.oldest_due.set(oldest_due_s)

    def lanes(self, held: int, paused: int, waiting: int) -> None:
        """Lanes of this replica; *waiting* are those that an open breaker keeps from asking."""
        for state, count in (("held", held), ("paused", paused), ("waiting", waiting)):
            self.metrics.lanes.labels(state).set(count)

    def lane_left(self, channel_id: int) -> None:
        """Another replica walks this lane now: its breaker and limit are no longer ours to show."""
        label = self.metrics.channel(channel_id)
        self.metrics.circuit_state.labels(label).set(0)
        self.metrics.concurrency_limit.labels(label).set(0)
        self.metrics.held_refunds.labels(label).set(0)

    def pool(self, sizes: Mapping[str, int]) -> None:
        """Database connections by state."""
        for state, count in sizes.items():
            self.metrics.pool_connections.labels(self.metrics.kind(state)).set(count)

    def loop_lag(self, lag_s: float) -> None:
        """How late the event loop woke somebody up."""
        self.metrics.loop_lag.set(lag_s)

    def triggered(self, source: str) -> None:
        """Somebody wants everything polled now."""
        self.metrics.triggers.labels(self.metrics.kind(source)).inc()
        self._log.info("poll_triggered", source=source)

    def event(self, level: str, name: str, **facts: object) -> None:
        """Anything else worth a line; *level* is debug, info, warning or error.

        What all loops and lanes would say alike while the database is away is said by one of them.
        """
        if name in _SAID_BY_ALL:
            held = self._repeats.admit("deferred", str(facts.get("reason")).partition(" in ")[0])
            if held is None:
                return
            facts["repeats"] = held or None
        writes = {"debug": self._log.debug, "info": self._log.info, "warning": self._log.warning}
        writes.get(level, self._log.error)(name, **facts)


def _named(task: Task) -> dict[str, object]:
    row = {"user_id": task.user_id, "channel_id": task.channel_id, "model": task.model}
    return {**row, "task_id": task.task_id, "task_pk": task.pk}
