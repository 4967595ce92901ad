"""Status words: the lists, and a channel's mapping over them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.words import DEFAULT_WORDS, overlay, parse_words


def test_lists_are_read_without_blanks_case_and_empty_parts() -> None:
    words = parse_words(" Completed, DONE ,,", "failed", ["Running ", ""])
    assert words.success == {"completed", "done"}
    assert words.processing == {"running"}


def test_a_word_in_two_lists_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="the word done is listed as success and as processing"):
        parse_words("done", "failed", "DONE")


def test_a_mapping_moves_only_the_words_it_names() -> None:
    words, findings = overlay(DEFAULT_WORDS, '{"success": ["Submitted", "done"], "failed": null}')
    assert not findings
    assert words.success == DEFAULT_WORDS.success | {"submitted", "done"}
    assert words.failed == DEFAULT_WORDS.failed
    assert words.processing == DEFAULT_WORDS.processing - {"submitted"}


@pytest.mark.parametrize("mapping", [None, "", "  ", "null", "{}", '{"success": []}'])
def test_an_empty_mapping_changes_nothing(mapping: str | None) -> None:
    assert overlay(DEFAULT_WORDS, mapping) == (DEFAULT_WORDS, [])


@pytest.mark.parametrize(
    "mapping",
    [
        "{",
        "[]",
        '"done"',
        '{"success": "done"}',
        '{"success": [1]}',
        '{"success": ["done"], "failed": ["done"]}',
        '{"failed": ["a"], "failed": ["b"]}',
        "[" * 100_000,
    ],
)
def test_a_malformed_mapping_leaves_the_words_as_they_are_with_a_finding(mapping: str) -> None:
    words, findings = overlay(DEFAULT_WORDS, mapping)
    assert words == DEFAULT_WORDS
    assert len(findings) == 1
    assert "status mapping" in findings[0]


def test_an_unknown_list_is_passed_over_with_a_finding() -> None:
    words, findings = overlay(DEFAULT_WORDS, '{"succes": ["done"], "failed": ["aborted"]}')
    assert "aborted" in words.failed
    assert findings == ["status mapping has an unknown list: succes"]


WORDS = st.lists(st.sampled_from(["done", "failed", "running", "Pending", "x", " y "]), max_size=4)


@given(st.fixed_dictionaries({}, optional={"success": WORDS, "failed": WORDS, "processing": WORDS}))
def test_no_word_ever_stands_in_two_lists(mapping: dict[str, list[str]]) -> None:
    words, _ = overlay(DEFAULT_WORDS, json.dumps(mapping))
    assert not words.success & words.failed
    assert not words.success & words.processing
    assert not words.failed & words.processing
