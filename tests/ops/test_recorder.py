from __future__ import annotations

import pytest

from poller.core.model import Outcome, Verdict
from poller.core.passes import PassCounts
from poller.errors import AskReason
from poller.ops.recorder import Recorder
from tests.ops.things import recorder, settled, task


def sample(told: Recorder, name: str, **labels: str) -> float | None:
    return told.metrics.registry.get_sample_value(name, labels)


def test_a_good_ask_is_one_debug_line_and_one_request():
    told, lines, _ = recorder()
    told.asked(1, "m/submit", 5, 0.512, None)
    assert lines.text == ["[DEBUG] custompass: polling_tasks channel_id=1 task_count=5 duration=0.512s"]
    assert sample(told, "custompass_requests_total", channel="1", status="success", reason="ok") == 1
    assert sample(told, "custompass_asked_tasks_total", model="m/submit") == 5
    assert sample(told, "custompass_request_duration_seconds_count", channel="1") == 1


def test_a_failed_ask_is_one_error_line_and_one_request():
    told, lines, _ = recorder()
    told.asked(1, "m/submit", 5, 15.0, AskReason.TIMEOUT, "connect timeout")
    (line,) = lines.text
    assert line.startswith('[ERROR] custompass: poll_failed channel_id=1 error="connect timeout" duration=15.000s')
    assert sample(told, "custompass_requests_total", channel="1", status="error", reason="timeout") == 1
    assert sample(told, "custompass_requests_total", channel="1", status="success", reason="ok") == 0


def test_a_request_that_was_not_sent_is_no_request():
    told, lines, _ = recorder()
    told.asked(1, "", 5, 0.0, AskReason.NO_CHANNEL)
    assert sample(told, "custompass_requests_total", channel="1", status="error", reason="no_channel") is None
    assert sample(told, "custompass_unsent_requests_total", channel="1", reason="no_channel") == 1
    assert 'error="no usable channel"' in lines.text[0]


def test_equal_failures_are_said_once_and_then_every_half_minute_with_their_count():
    told, lines, clock = recorder()
    for second in range(70):
        clock.now = 1000.0 + second
        told.asked(1, "m", 1, 0.1, AskReason.CONNECT)
    assert len(lines.text) == 3
    assert "repeats" not in lines.text[0]
    assert "repeats=29" in lines.text[1]
    assert sample(told, "custompass_requests_total", channel="1", status="error", reason="connect") == 70


def test_failures_of_other_channels_and_reasons_are_said_on_their_own():
    told, lines, _ = recorder()
    told.asked(1, "m", 1, 0.1, AskReason.CONNECT)
    told.asked(2, "m", 1, 0.1, AskReason.CONNECT)
    told.asked(1, "m", 1, 0.1, AskReason.TIMEOUT)
    assert len(lines.text) == 3


def test_a_settled_task_is_one_canonical_line():
    told, lines, _ = recorder()
    told.settled(settled(rule="failed_word"), 0.004)
    (line,) = lines.text
    assert line.startswith(
        "[INFO] custompass: task_settled user_id=123 channel_id=1 model=m/submit outcome=failure refunded=450"
        " duration=0.004s status=success"
    )
    assert "task_id=task-9 rule=failed_word" in line


@pytest.mark.parametrize(
    ("fate", "outcome"),
    [
        (settled(), "failure"),
        (settled(outcome=Outcome.SUCCESS, charged=400, refunded=50), "success"),
        (settled(rule="expired"), "expired"),
        (settled(Verdict.ALREADY), "noop"),
        (settled(Verdict.FINAL), "noop"),
        (settled(Verdict.MOVED), "noop"),
        (settled(Verdict.GONE), "noop"),
        (settled(Verdict.REOPENED), "noop"),
    ],
)
def test_each_settlement_counts_under_one_outcome(fate, outcome: str):
    told, lines, _ = recorder()
    told.settled(fate, 0.01)
    counts = {
        name: sample(told, "custompass_settlements_total", outcome=name)
        for name in ("success", "failure", "expired", "noop")
    }
    assert counts == {**dict.fromkeys(counts, 0), outcome: 1}
    assert len(lines.events) == 1


def test_quota_counts_only_what_this_settlement_moved():
    told, _, _ = recorder()
    told.settled(settled(outcome=Outcome.SUCCESS, charged=500, refunded=-50), 0.01)
    told.settled(settled(outcome=Outcome.SUCCESS, charged=400, refunded=50), 0.01)
    told.settled(settled(Verdict.ALREADY, charged=400, refunded=50), 0.01)
    told.settled(settled(Verdict.REOPENED, charged=400, refunded=50), 0.01)
    assert sample(told, "custompass_quota_refunded_total") == 50
    assert sample(told, "custompass_quota_charged_total") == 900


def test_a_reopened_task_is_counted_and_warned_about():
    told, lines, _ = recorder()
    told.settled(settled(Verdict.REOPENED), 0.01)
    assert sample(told, "custompass_task_reopened_total") == 1
    assert lines.events[0]["level"] == "warning"


def test_tasks_without_a_channel_are_counted_and_said_when_they_are_others_than_before():
    told, lines, _ = recorder()
    for count, pks in ((0, []), (12, range(1, 13)), (12, range(1, 13)), (13, range(1, 14)), (0, []), (1, [7])):
        told.unassigned(count, list(pks))
        assert sample(told, "custompass_tasks_without_channel") == count
    assert [(event["level"], event["count"], event["task_pks"]) for event in lines.events] == [
        ("warning", 12, list(range(1, 11))),
        ("warning", 1, [7]),
    ]


def test_an_upstream_that_takes_its_word_back_is_an_error_with_both_words():
    told, lines, _ = recorder()
    assert sample(told, "custompass_anomalies_total", kind="upstream_flip") == 0
    told.flipped(settled(Verdict.REOPENED, Outcome.SUCCESS, refunded=50), Outcome.FAILURE)
    assert sample(told, "custompass_anomalies_total", kind="upstream_flip") == 1
    assert (lines.events[0]["level"], lines.events[0]["event"]) == ("error", "upstream_flipped")
    assert "task_pk=9 settled=success said=failure refunded=50" in lines.text[0]


def test_refunds_that_wait_are_an_error_with_the_remedy_and_a_number_until_the_lane_goes():
    told, lines, _ = recorder()
    told.refunds_held(1, 1000, 1350)
    told.passed(1, PassCounts(asked=9, requests=1, refunds_held=5, quota_held=2250), 0.5)
    assert lines.events[0]["level"] == "error"
    assert "refunds_held channel_id=1 refunded_within_hour=1350 limit=1000" in lines.text[0]
    assert sample(told, "custompass_held_refunds", channel="1") == 5
    told.lane_left(1)
    assert sample(told, "custompass_held_refunds", channel="1") == 0


def test_a_refused_settlement_is_no_outcome_and_says_why():
    told, lines, _ = recorder()
    told.settled(settled(Verdict.LOCKED, reason="lock_timeout"), 0.01)
    told.settled(settled(Verdict.QUARANTINED, reason="overflow"), 0.01)
    assert sample(told, "custompass_unsettled_total", reason="lock_timeout") == 1
    assert sample(told, "custompass_unsettled_total", reason="overflow") == 1
    assert [event["event"] for event in lines.events] == ["task_deferred", "task_quarantined"]
    assert "status=error" in lines.text[0]
    assert lines.events[1]["level"] == "error"


def test_a_second_writer_is_an_error_with_the_remedy():
    told, lines, _ = recorder()
    told.second_writer(3, list(range(50)))
    assert sample(told, "custompass_second_writer") == 1
    assert "UPDATE_TASK=false" in lines.text[0]
    assert lines.events[0]["task_pks"] == list(range(10))


def test_an_open_breaker_is_a_warning_and_a_number():
    told, lines, _ = recorder()
    for state, number in (("open", 2), ("half_open", 1), ("closed", 0)):
        told.breaker(1, state)
        assert sample(told, "custompass_circuit_state", channel="1") == number
    assert [event["level"] for event in lines.events] == ["warning", "info", "info"]


def test_a_lane_that_left_shows_no_breaker_of_ours():
    told, _, _ = recorder()
    told.breaker(1, "open")
    told.lane_left(1)
    assert sample(told, "custompass_circuit_state", channel="1") == 0


def test_only_a_pass_with_an_answer_or_without_work_is_successful():
    told, _, _ = recorder()
    told.passed(1, PassCounts(failed_requests=2), 1.0)
    assert sample(told, "custompass_last_successful_pass_timestamp_seconds", channel="1") is None
    told.passed(1, PassCounts(requests=1, failed_requests=1), 1.0)
    told.passed(2, PassCounts(), 1.0)
    for channel in ("1", "2"):
        assert sample(told, "custompass_last_successful_pass_timestamp_seconds", channel=channel) == 1_750_000_000


def test_a_pass_in_which_nothing_moved_is_quiet():
    told, lines, _ = recorder()
    told.passed(1, PassCounts(asked=5, requests=1, kept=5), 1.0)
    told.passed(1, PassCounts(asked=5, requests=1, kept=4, settled=1), 1.0)
    assert [event["level"] for event in lines.events] == ["debug", "info"]


def test_unknown_words_are_counted_and_shown_once():
    told, lines, _ = recorder()
    told.unknown_word(1, "odd\nword", 2)
    told.unknown_word(1, "odd\nword", 2)
    assert sample(told, "custompass_unknown_status_total", channel="1") == 4
    (line,) = lines.text
    assert 'word="odd\\nword"' in line


def test_a_flood_of_different_words_costs_bounded_memory():
    told, _, _ = recorder()
    for number in range(5000):
        told.unknown_word(1, f"w{number}", 1)
    assert len(told._repeats._seen) <= 2000


def test_an_upstream_that_makes_words_up_gets_a_few_lines_of_the_log():
    told, lines, _ = recorder()
    for number in range(5000):
        told.unknown_word(1, f"w{number}", 1)
    told.unknown_word(2, "w1", 1)
    assert 20 <= len(lines.text) <= 33
    assert "channel_id=2" in lines.text[-1]
    assert sample(told, "custompass_unknown_status_total", channel="1") == 5000


def test_a_quarantined_task_is_named_for_the_person():
    told, lines, _ = recorder()
    told.quarantined(task(), "unknown_word", "said odd")
    assert "task_id=task-9 task_pk=9 reason=unknown_word" in lines.text[0]


def test_what_every_loop_and_lane_says_of_one_outage_is_said_by_one_of_them():
    told, lines, clock = recorder()
    for second in range(40):
        clock.now = 1000.0 + second
        for loop in ("look", "guard"):
            told.event("warning", "loop_deferred", loop=loop, reason=f"auth_failed: X 28P01 in {loop} at h:1")
        told.event("warning", "pass_deferred", channel_id=3, reason="auth_failed: X 28P01 in start_pass at h:1")
    assert [(event["event"], event["loop"], event.get("repeats")) for event in lines.events] == [
        ("loop_deferred", "look", None),
        ("loop_deferred", "look", 89),
    ]
    told.event("warning", "loop_deferred", loop="look", reason="disk_full: Y 53100 in queue at h:1")
    assert len(lines.events) == 3
