from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from poller.core.passes import PassCounts
from poller.errors import AskReason
from poller.ops.metrics import CHANNEL_LIMIT, MODEL_LIMIT, Metrics
from tests.ops.things import recorder, settled, task

NAMED_BY_THE_INTERFACE = [
    "custompass_requests_total",
    "custompass_request_duration_seconds",
    "custompass_tasks_in_queue",
    "custompass_build_info",
    "custompass_config_info",
    "custompass_config_last_reload_successful",
    "custompass_pass_duration_seconds",
    "custompass_last_successful_pass_timestamp_seconds",
    "custompass_oldest_due_task_seconds",
    "custompass_detection_lag_seconds",
    "custompass_settlements_total",
    "custompass_quota_refunded_total",
    "custompass_quota_charged_total",
    "custompass_ledger_drift_quota",
    "custompass_quarantined_tasks",
    "custompass_unknown_status_total",
    "custompass_circuit_state",
    "custompass_concurrency_limit",
    "custompass_lanes",
    "custompass_db_pool_connections",
    "custompass_event_loop_lag_seconds",
    "custompass_triggers_total",
    "custompass_second_writer",
    "custompass_task_reopened_total",
]


def busy() -> str:
    """The exposition after a bit of everything."""
    told = recorder()[0]
    told.metrics.describe(version="1.0", config_hash="abc")
    for reason in (None, *AskReason):
        told.asked(1, "model with blanks", 3, 0.1, reason)
    told.settled(settled(), 0.01)
    told.unknown_word(1, "odd word", 2)
    told.anomaly(1, "stranger")
    told.breaker(1, "open")
    told.concurrency(1, 4)
    told.passed(1, PassCounts(asked=3, requests=1), 0.5)
    told.queue(3, 4, 12.0)
    told.lanes(1, 0, 0)
    told.pool({"open": 2, "idle": 1})
    told.loop_lag(0.001)
    told.triggered("http")
    told.quarantined(task(), "overflow", "")
    told.detection_lag(3.0)
    return told.metrics.exposition()[0].decode()


def test_every_name_of_the_interface_is_there_from_the_start():
    text = Metrics().exposition()[0].decode()
    missing = [name for name in NAMED_BY_THE_INTERFACE if f"# HELP {name} " not in text]
    assert not missing


def test_help_texts_are_not_caught_by_the_greps_of_scripts():
    comments = [line for line in busy().splitlines() if line.startswith("#")]
    assert comments
    assert not [line for line in comments if re.search("error|submitted", line)]


def test_no_label_value_holds_a_blank_so_that_the_number_is_the_second_word():
    for line in busy().splitlines():
        if line.startswith("custompass_"):
            name, number = line.split(" ")
            assert name
            float(number)


def test_the_queue_has_no_label_but_status():
    text = busy()
    assert 'custompass_tasks_in_queue{status="submitted"} 3.0' in text
    assert 'custompass_tasks_in_queue{status="processing"} 4.0' in text


def test_outcomes_states_and_channels_begin_at_zero():
    metrics = Metrics()
    metrics.channel(7)
    text = metrics.exposition()[0].decode()
    for outcome in ("success", "failure", "expired", "noop"):
        assert f'custompass_settlements_total{{outcome="{outcome}"}} 0.0' in text
    assert 'custompass_requests_total{channel="7",reason="ok",status="success"} 0.0' in text
    assert "custompass_second_writer 0.0" in text


def test_models_beyond_the_limit_share_one_label():
    told = recorder()[0]
    for number in range(MODEL_LIMIT + 50):
        told.asked(1, f"m{number}", 1, 0.1, None)
    text = told.metrics.exposition()[0].decode()
    assert text.count("custompass_asked_tasks_total{") == MODEL_LIMIT + 1
    assert 'custompass_asked_tasks_total{model="other"} 50.0' in text


def test_channels_beyond_the_limit_share_one_label():
    metrics = Metrics()
    assert {metrics.channel(number) for number in range(CHANNEL_LIMIT + 5)} >= {"0", "other"}
    assert metrics.channel(CHANNEL_LIMIT + 1) == "other"
    assert metrics.channel(3) == "3"


def test_counters_have_no_created_series():
    assert "_created" not in busy()


def test_the_process_is_described_too():
    text = busy()
    assert "process_resident_memory_bytes" in text
    assert "python_info" in text


def test_two_registries_do_not_share_anything():
    told = recorder()[0]
    told.triggered("http")
    assert 'custompass_triggers_total{source="http"}' not in Metrics().exposition()[0].decode()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
    ],
)
def test_the_format_is_chosen_by_accept(accept: str, content_type: str):
    body, found = Metrics().exposition(accept)
    assert found.startswith(content_type)
    assert body.endswith(b"# EOF\n") is ("openmetrics" in accept)


def test_the_exposition_parses():
    families = {family.name for family in text_string_to_metric_families(busy())}
    assert "custompass_requests" in families
