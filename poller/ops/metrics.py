"""Every number the daemon exposes: names that existing alerts and scripts read, labels that stay few.

Scripts in the field pick samples with ``grep error`` and ``awk '{print $2}'``. So help texts say neither "error" nor
"submitted", and no label value holds a blank.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from poller.errors import AskReason

MODEL_LIMIT = 200
CHANNEL_LIMIT = 500
KIND_LIMIT = 60
OTHER = "other"
_NOT_PLAIN = re.compile(r"[^!#-\[\]-~]+")
_LONGEST_LABEL = 80
_REQUEST_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30)
_PASS_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LAG_S = (1, 5, 10, 15, 30, 45, 60, 120, 300, 900, 3600)
_SENT = tuple(reason for reason in AskReason if reason not in (AskReason.CIRCUIT_OPEN, AskReason.NO_CHANNEL))
BREAKER_VALUES = {"closed": 0, "half_open": 1, "open": 2}


class _Bounded:
    """Turns names into label values, each without blanks; names past the limit share one value."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, str] = {}

    def label(self, name: object) -> str:
        text = str(name)
        found = self._known.get(text)
        if found is None:
            if len(self._known) >= self._limit:
                return OTHER
            found = self._known[text] = plain(text)
        return found


def plain(text: str) -> str:
    """*text* as a label value: printable ASCII without blanks, quotes and backslashes, cut; ``unknown`` for nothing."""
    return _NOT_PLAIN.sub("_", text)[:_LONGEST_LABEL] or "unknown"


class Metrics:
    """The registry of this process and its families. ``Recorder`` moves them; ``exposition`` prints them."""

    def __init__(self) -> None:
        # Otherwise every counter doubles its series with a _created one.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        self._models = _Bounded(MODEL_LIMIT)
        self._channels = _Bounded(CHANNEL_LIMIT)
        self._kinds = _Bounded(KIND_LIMIT)
        self._channels_met: set[str] = set()
        self._asking()
        self._settling()
        self._running()

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(name, text, tuple(labels), registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(name, text, tuple(labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: Iterable[str] = ()) -> Histogram:
        return Histogram(name, text, tuple(labels), registry=self.registry, buckets=buckets)

    def _asking(self) -> None:
        self.requests = self._counter(
            "custompass_requests_total",
            "Requests to upstreams by how they went",
            ("channel", "status", "reason"),
        )
        self.request_duration = self._histogram(
            "custompass_request_duration_seconds", "Time of one request to an upstream", _REQUEST_S, ("channel",)
        )
        self.asked_tasks = self._counter("custompass_asked_tasks_total", "Tasks asked about, by model", ("model",))
        self.unsent = self._counter(
            "custompass_unsent_requests_total", "Requests that were not sent, and why", ("channel", "reason")
        )
        self.unknown_status = self._counter(
            "custompass_unknown_status_total", "Status words that no list knows", ("channel",)
        )
        self.anomalies = self._counter("custompass_anomalies_total", "Oddities in answers and rows", ("kind",))
        self.anomalies.labels(self.kind("upstream_flip"))
        self.circuit_state = self._gauge(
            "custompass_circuit_state", "Breaker of a lane: 0 closed, 1 probing, 2 open", ("channel",)
        )
        self.concurrency_limit = self._gauge(
            "custompass_concurrency_limit", "Requests that a lane may have in flight", ("channel",)
        )

    def _settling(self) -> None:
        self.settlements = self._counter("custompass_settlements_total", "Tasks brought to an end", ("outcome",))
        for outcome in ("success", "failure", "expired", "noop"):
            self.settlements.labels(outcome)
        self.settlement_duration = self._histogram(
            "custompass_settlement_duration_seconds", "Time of one settling transaction", _REQUEST_S
        )
        self.unsettled = self._counter(
            "custompass_unsettled_total", "Settlements that the database refused for now, and why", ("reason",)
        )
        self.refunded = self._counter("custompass_quota_refunded_total", "Quota given back to users")
        self.charged = self._counter("custompass_quota_charged_total", "Quota that finished tasks cost")
        self.reopened = self._counter("custompass_task_reopened_total", "Tasks reopened by others, put right again")
        self.ledger_drift = self._gauge("custompass_ledger_drift_quota", "Quota by which ledger and balances differ")
        self.ledger_missing = self._gauge("custompass_ledger_missing", "1 while the ledger lacks what it held before")
        self.held_refunds = self._gauge(
            "custompass_held_refunds", "Tasks whose refund waits for the next hour, as of the last pass", ("channel",)
        )
        self.quarantined = self._gauge("custompass_quarantined_tasks", "Tasks kept for a person")
        self.unassigned = self._gauge("custompass_tasks_without_channel", "Active tasks that name no channel")
        self.detection_lag = self._histogram(
            "custompass_detection_lag_seconds",
            "From the end at upstream to the settlement, where upstream tells",
            _LAG_S,
        )
        self.outbox_rows = self._gauge("custompass_outbox_rows", "Changes that another system must still learn of")
        self.outbox_oldest = self._gauge("custompass_outbox_oldest_seconds", "Age of the oldest of them")
        self.deliveries = self._counter("custompass_deliveries_total", "Changes that it learnt of", ("kind",))
        self.delivery_failures = self._counter(
            "custompass_delivery_failures_total", "Changes that it did not learn of, or maybe not", ("kind", "reason")
        )
        self.advanced = self._counter("custompass_advanced_tasks_total", "Open tasks whose status or progress moved")

    def _running(self) -> None:
        self.tasks_in_queue = self._gauge("custompass_tasks_in_queue", "Active tasks in the database", ("status",))
        for status in ("submitted", "processing"):
            self.tasks_in_queue.labels(status)
        self.oldest_due = self._gauge(
            "custompass_oldest_due_task_seconds", "Longest time that an active task has not been asked about"
        )
        self.pass_duration = self._histogram(
            "custompass_pass_duration_seconds", "Time of one walk over a lane", _PASS_S
        )
        self.last_successful_pass = self._gauge(
            "custompass_last_successful_pass_timestamp_seconds", "End of the last pass with an answer", ("channel",)
        )
        self.lanes = self._gauge("custompass_lanes", "Lanes of this replica", ("state",))
        for state in ("held", "paused", "waiting"):
            self.lanes.labels(state)
        self.pool_connections = self._gauge("custompass_db_pool_connections", "Database connections", ("state",))
        self.loop_lag = self._gauge("custompass_event_loop_lag_seconds", "How late the event loop woke up last")
        self.triggers = self._counter("custompass_triggers_total", "Wishes to poll everything now", ("source",))
        self.identity_changed = self._gauge(
            "custompass_database_identity_changed", "1 while another database server answers than at the start"
        )
        self.second_writer = self._gauge("custompass_second_writer", "1 once somebody else finished a task of ours")
        self.log_lines_dropped = self._gauge("custompass_log_lines_dropped", "Log lines that nobody read in time")
        self.build_info = self._gauge("custompass_build_info", "Version of this program", ("version", "python"))
        self.config_info = self._gauge("custompass_config_info", "Configuration in force", ("hash",))
        self.config_reload = self._gauge(
            "custompass_config_last_reload_successful", "1 when the configuration was read without a fault"
        )

    def describe(self, *, version: str, config_hash: str) -> None:
        """Say once which build and which configuration this process runs."""
        self.build_info.labels(plain(version), plain(platform.python_version())).set(1)
        self.config_info.clear()
        self.config_info.labels(plain(config_hash)).set(1)
        self.config_reload.set(1)

    def channel(self, channel_id: int) -> str:
        """Label of a channel; at the first meeting its series begin at 0, so that increases are seen."""
        label = self._channels.label(channel_id)
        if label not in self._channels_met:
            self._channels_met.add(label)
            self.requests.labels(label, "success", "ok")
            self.requests.labels(label, "error", AskReason.TIMEOUT.value)
            self.unknown_status.labels(label)
            self.circuit_state.labels(label)
        return label

    def model(self, model: str) -> str:
        """Label of a model; past ``MODEL_LIMIT`` models it is ``other``."""
        return self._models.label(model)

    def kind(self, kind: str) -> str:
        """Label of an anomaly, a reason or a source: words of our own, bounded all the same."""
        return self._kinds.label(kind)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All samples and their content type, in the format that *accept* prefers. Slow: not on the event loop."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def was_sent(reason: AskReason | None) -> bool:
    """Whether a request left this machine, or at least tried to."""
    return reason is None or reason in _SENT
