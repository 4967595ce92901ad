"""Suggested lines are valid configuration, and a guess never settles anything by accident."""

from __future__ import annotations

import json
import shlex

from hypothesis import given
from hypothesis import strategies as st

from poller.core.suggest import environment_lines, guess, lines, mapping
from poller.core.words import DEFAULT_WORDS, overlay, parse_words

WORDS = st.lists(st.text(min_size=1, max_size=70).map(lambda word: word.strip().lower()), max_size=8)


def read(told: list[str]) -> dict[str, str]:
    return {name: shlex.split(value)[0] for name, _, value in (line.partition("=") for line in told)}


def test_a_word_like_nothing_known_is_taken_for_work_in_progress():
    assert guess("teleporting") == "processing"
    assert environment_lines(["teleporting"], DEFAULT_WORDS) == [
        "CUSTOM_PASS_STATUS_PROCESSING=pending,processing,running,submitted,teleporting"
    ]


def test_each_list_that_changes_gets_its_own_line_with_the_words_it_has():
    told = read(environment_lines(["succeeded", "not_found", "thinking"], DEFAULT_WORDS))
    assert told["CUSTOM_PASS_STATUS_SUCCESS"] == "completed,finished,success,succeeded"
    assert told["CUSTOM_PASS_STATUS_FAILED"] == "cancelled,error,failed,not_found"
    assert told["CUSTOM_PASS_STATUS_PROCESSING"].endswith("submitted,thinking")


def test_a_channels_mapping_keeps_what_it_says_already():
    assert json.loads(mapping(["queued"], '{"failed": ["gone"], "processing": ["cooking"]}')) == {
        "failed": ["gone"],
        "processing": ["cooking", "queued"],
    }


def test_a_malformed_mapping_is_replaced():
    for current in ("{", "[]", "null", "7", '"x"'):
        assert mapping(["queued"], current) == '{"processing": ["queued"]}'


def test_words_that_no_line_can_hold_are_left_out():
    assert environment_lines(["a,b", "x" * 64, ""], DEFAULT_WORDS) == []
    assert mapping(["x" * 64, ""]) == ""
    assert lines({4: ["a,b"]}, DEFAULT_WORDS) == [
        'channel 4 alone: custompass_status_mapping = {"processing": ["a,b"]}'
    ]


@given(WORDS)
def test_the_suggested_lines_are_accepted_and_make_the_words_known(words):
    unknown = [word for word in words if word not in DEFAULT_WORDS.success | DEFAULT_WORDS.failed]
    told = read(environment_lines(unknown, DEFAULT_WORDS))
    lists = [
        told.get(f"CUSTOM_PASS_STATUS_{name.upper()}", getattr(DEFAULT_WORDS, name))
        for name in ("success", "failed", "processing")
    ]
    known = parse_words(*lists)
    merged, findings = overlay(DEFAULT_WORDS, mapping(unknown))
    assert findings == []
    for word in unknown:
        if 0 < len(word) < 64:
            assert word in merged.success | merged.failed | merged.processing
            if "," not in word:
                assert word in known.success | known.failed | known.processing
