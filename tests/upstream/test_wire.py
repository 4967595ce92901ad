"""Bytes to reports: every recorded body, and the rules behind them one by one."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.model import Answer, Kind, Usage
from poller.core.words import DEFAULT_WORDS
from poller.errors import AskFailed, AskReason
from poller.upstream.wire import ERROR_LIMIT, WORD_LIMIT, ask_body, ask_url, read_answer

CASES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "fixtures/answers/answers.json").read_text(encoding="utf-8")
)
# A status other than 200 is the client's to refuse; the body is not looked at.
BODIES = {name: case for name, case in CASES.items() if case.get("http_status", 200) == 200}


def said(*items: str, code: str = "0") -> bytes:
    return f'{{"code":{code},"msg":"ok","data":[{",".join(items)}]}}'.encode()


def read(*items: str, asked: tuple[str, ...] = ("t1",)) -> Answer:
    return read_answer(said(*items), asked)


def verdict(answer: Answer, task_id: str) -> str:
    report = answer.reports[task_id]
    if report.kind is not Kind.SAID:
        return report.kind.value
    for name, words in (
        ("success", DEFAULT_WORDS.success),
        ("failure", DEFAULT_WORDS.failed),
        ("processing", DEFAULT_WORDS.processing),
    ):
        if report.word in words:
            return name
    return "unknown"


@pytest.mark.parametrize("name", BODIES)
def test_recorded_body_is_read_as_recorded(name: str) -> None:
    case = CASES[name]
    body, expect = case["body"].encode(), case["expect"]
    if expect is None:
        with pytest.raises(AskFailed):
            read_answer(body, case.get("asked", ["t1"]))
        return
    answer = read_answer(body, case.get("asked", list(expect)))
    assert {task_id: verdict(answer, task_id) for task_id in answer.reports} == expect
    for report in answer.reports.values():
        assert report.usage_unusable is (case.get("usage_usable") is False)


def test_url_has_the_model_without_its_submit() -> None:
    assert ask_url("http://up:8080", "flux/pro/submit") == "http://up:8080/flux/pro/task/list-by-condition"
    assert ask_url("http://up/base//", "flux") == "http://up/base/flux/task/list-by-condition"


def test_url_cuts_submit_only_at_the_end_and_only_once() -> None:
    assert ask_url("http://up", "submit/x/submit/submit") == "http://up/submit/x/submit/task/list-by-condition"


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("x?y=1", "x%3Fy%3D1"),
        ("x#f", "x%23f"),
        ("%2e%2e", "%252e%252e"),
        ("a\\b", "a%5Cb"),
        ("模型", "%E6%A8%A1%E5%9E%8B"),
    ],
)
def test_model_can_only_be_path_segments(model: str, path: str) -> None:
    assert ask_url("http://up", model) == f"http://up/{path}/task/list-by-condition"


@pytest.mark.parametrize("model", ["", "/submit", "../admin/submit", "a/../b", "a//b", "./a", "a/", "\ud800"])
def test_model_that_could_move_the_path_is_refused(model: str) -> None:
    with pytest.raises(AskFailed) as caught:
        ask_url("http://up", model)
    assert caught.value.reason is AskReason.BAD_REQUEST_PARTS


@pytest.mark.parametrize(
    "base",
    [
        "",
        "up",
        "ftp://up",
        "http://",
        "http://user:pw@up",
        "http://up?x=1",
        "http://up#f",
        "http://up\\@evil",
        "http://h。example",
        "http://up/a/../b",
        "http://up /x",
        "http://up\n",
        "http://[::1%25eth0]",
        "http://up:123456",
    ],
)
def test_base_that_two_parsers_might_read_differently_is_refused(base: str) -> None:
    with pytest.raises(AskFailed) as caught:
        ask_url(base, "m")
    assert caught.value.reason is AskReason.BAD_REQUEST_PARTS


def test_body_names_the_ids_in_order() -> None:
    assert json.loads(ask_body(["b", "a", 'ü"'])) == {"task_ids": ["b", "a", 'ü"']}


def test_id_that_is_no_text_is_refused_before_the_request() -> None:
    with pytest.raises(AskFailed):
        ask_body(["\udc00"])


@pytest.mark.parametrize("code", ["0", "0.0", '"0"', "-0", "0e5"])
def test_zero_is_a_good_code(code: str) -> None:
    assert read_answer(said(code=code), ["t1"]).reports["t1"].kind is Kind.ABSENT


@pytest.mark.parametrize(
    "code", ["1", "false", "true", "null", '"00"', '" 0"', "[]", "{}", "0.1", '"success"', "1e400"]
)
def test_anything_else_is_not_a_good_code(code: str) -> None:
    with pytest.raises(AskFailed) as caught:
        read_answer(said(code=code), ["t1"])
    assert caught.value.reason is AskReason.CODE


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", AskReason.NOT_JSON),
        (b"<html>", AskReason.NOT_JSON),
        (b'{"code":0,"data":[]} x', AskReason.NOT_JSON),
        (b'{"code":0,"data":[', AskReason.NOT_JSON),
        ('{"code":0,"data":[]}'.encode("utf-16"), AskReason.NOT_JSON),
        ('{"code":0,"msg":"é","data":[]}'.encode("latin-1"), AskReason.NOT_JSON),
        ('{"code":0,"data":[{"task_id":"t1","status":"é"}]}'.encode("latin-1"), AskReason.NOT_JSON),
        (b'{"code":0,"data":[Infinity]}', AskReason.NOT_JSON),
        (b"[]", AskReason.ENVELOPE),
        (b'"0"', AskReason.ENVELOPE),
        (b"null", AskReason.ENVELOPE),
        (b'{"code":0}', AskReason.ENVELOPE),
        (b'{"code":0,"data":{}}', AskReason.ENVELOPE),
        (b'{"code":0,"data":7}', AskReason.ENVELOPE),
        (b'{"code":1,"code":0,"data":[]}', AskReason.ENVELOPE),
        (b'{"code":0,"data":[{"task_id":"t1","status":"failed"}],"data":[]}', AskReason.ENVELOPE),
        (b"[" * 100_000, AskReason.TOO_DEEP),
        (b'{"code":0,"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", AskReason.TOO_DEEP),
        (b'{"code":0,"data":[],"msg":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", AskReason.TOO_DEEP),
    ],
)
def test_body_that_is_no_good_answer_is_no_evidence(body: bytes, reason: AskReason) -> None:
    with pytest.raises(AskFailed) as caught:
        read_answer(body, ["t1"])
    assert caught.value.reason is reason
    assert caught.value.__context__ is None


def test_payload_is_the_item_verbatim() -> None:
    item = '{ "task_id" : "t1",\t"status":"processing", "result": {"n": 1.10e3, "big": 12345678901234567890123} }'
    assert read(item).reports["t1"].payload.decode() == item


def test_ids_match_to_the_letter() -> None:
    answer = read('{"task_id":"T1","status":"failed"}', '{"task_id":" t1","status":"failed"}')
    assert (answer.reports["t1"].kind, answer.strangers) == (Kind.UNPROVEN, 2)


def test_unicode_forms_of_an_id_are_different_ids() -> None:
    answer = read('{"task_id":"e\\u0301","status":"failed"}', asked=("é",))
    assert answer.reports["é"].kind is Kind.UNPROVEN


def test_a_number_is_read_as_the_id_it_spells() -> None:
    big = "123456789012345678901234567890"
    answer = read(f'{{"task_id":{big},"status":"failed"}}', '{"task_id":12.0,"status":"failed"}', asked=(big, "12"))
    assert answer.reports[big].word == "failed"
    assert answer.reports["12"].kind is Kind.UNPROVEN


@pytest.mark.parametrize("item", ["null", "17", '"garbage"', "[]", "true"])
def test_item_that_is_no_object_hides_no_id(item: str) -> None:
    answer = read(item, asked=("t1",))
    assert (answer.reports["t1"].kind, answer.unreadable, answer.strangers) == (Kind.ABSENT, 1, 0)


@pytest.mark.parametrize("item", ['{"status":"failed"}', '{"task_id":null,"status":"failed"}', '{"task_id":""}', "{}"])
def test_object_without_an_id_may_be_the_one_that_is_missing(item: str) -> None:
    answer = read(item, asked=("t1",))
    assert (answer.reports["t1"].kind, answer.unreadable) == (Kind.UNPROVEN, 1)


@pytest.mark.parametrize(
    "status", ["null", "17", "true", "{}", '""', '"  "', '"comp\\u0000leted"', '"com\\u202epleted"']
)
def test_status_that_is_no_word_makes_the_item_unreadable(status: str) -> None:
    assert read(f'{{"task_id":"t1","status":{status}}}').reports["t1"].kind is Kind.UNREADABLE


def test_words_are_stripped_and_lower_case() -> None:
    assert read('{"task_id":"t1","status":"  CompleTed\\n"}').reports["t1"].word == "completed"


def test_an_absurdly_long_word_is_cut_and_matches_nothing() -> None:
    word = read(f'{{"task_id":"t1","status":"{"x" * 10_000}"}}').reports["t1"].word
    assert (len(word), word[-1]) == (WORD_LIMIT, "…")


@pytest.mark.parametrize(
    "item",
    [
        '{"task_id":"t1","status":"completed","status":"failed"}',
        '{"task_id":"t1","status":"failed","status":"failed"}',
        '{"task_id":"t1","status":"completed","result":1,"result":2}',
        '{"task_id":"t1","status":"completed","stat\\u0075s":"failed"}',
        '{"task_id":"t1","status":"completed","status" : "failed"}',
        '{"task_id":"t1","status":"completed","error":"a \\": b","status" :"failed"}',
        '{"task_id":"t1","status":"completed","usage":{"total_tokens":1,"total_tokens":9}}',
        '{"task_id":"t1","task_id":"t1","status":"completed"}',
    ],
)
def test_item_that_gives_a_key_twice_says_nothing(item: str) -> None:
    answer = read(item, '{"task_id":"t2","status":"failed"}', asked=("t1", "t2"))
    assert answer.reports["t1"].kind is Kind.UNREADABLE
    assert answer.reports["t2"].word == "failed"


def test_item_with_two_ids_is_about_neither() -> None:
    answer = read('{"task_id":"t1","task_id":"t2","status":"failed"}', asked=("t1", "t2"))
    assert {report.kind for report in answer.reports.values()} == {Kind.UNPROVEN}
    assert answer.unreadable == 1


def test_keys_doubled_deep_inside_a_result_are_upstreams_own_business() -> None:
    report = read('{"task_id":"t1","status":"completed","result":{"a":1,"a":2}}').reports["t1"]
    assert report.word == "completed"


def test_text_that_looks_like_keys_is_text() -> None:
    report = read('{"task_id":"t1","status":"failed","error":"{\\"status\\":\\"completed\\"} \\" :"}').reports["t1"]
    assert (report.word, report.error) == ("failed", '{"status":"completed"} " :')


def test_items_alike_in_all_that_counts_are_one() -> None:
    answer = read(
        '{"task_id":"t1","status":"failed","error":"e"}', '{"error":"e","status":"FAILED","task_id":"t1","result":2}'
    )
    assert answer.reports["t1"].word == "failed"


@pytest.mark.parametrize(
    "other",
    [
        '{"task_id":"t1","status":"failed"}',
        '{"task_id":"t1","status":17}',
        '{"task_id":"t1","status":"completed","usage":{"total_tokens":2}}',
        '{"task_id":"t1","status":"completed","usage":{"total_tokens":true}}',
    ],
)
def test_items_that_differ_in_anything_that_counts_are_no_evidence(other: str) -> None:
    first = '{"task_id":"t1","status":"completed","usage":{"total_tokens":1}}'
    assert read(first, other).reports["t1"].kind is Kind.CONTRADICTION
    assert read(first, other, first).reports["t1"].kind is Kind.CONTRADICTION


def test_usage_is_read_where_it_is_whole() -> None:
    told = (
        '{"prompt_tokens":1.0,"completion_tokens":0,"total_tokens":9223372036854775807,"input_tokens":null,"cost":0.1}'
    )
    report = read(f'{{"task_id":"t1","status":"completed","usage":{told}}}').reports["t1"]
    assert (report.usage, report.usage_unusable) == (Usage(1, 0, 2**63 - 1, None, None), False)


@pytest.mark.parametrize("usage", ["null", None])
def test_no_usage_is_not_unusable_usage(usage: str | None) -> None:
    more = "" if usage is None else f',"usage":{usage}'
    report = read(f'{{"task_id":"t1","status":"completed"{more}}}').reports["t1"]
    assert (report.usage, report.usage_unusable) == (None, False)


@pytest.mark.parametrize(
    "count",
    [
        "true",
        "-1",
        "-1.0",
        "1.5",
        "9223372036854775808",
        "1e19",
        "1e400",
        "-1e400",
        "9" * 5000,
        '"7"',
        "[]",
        '"٣"',
        "{}",
    ],
)
def test_a_count_that_is_no_whole_number_in_range_makes_usage_unusable(count: str) -> None:
    usage = f'{{"prompt_tokens":1,"completion_tokens":2,"total_tokens":{count}}}'
    report = read(f'{{"task_id":"t1","status":"completed","usage":{usage}}}').reports["t1"]
    assert (report.word, report.usage, report.usage_unusable) == ("completed", None, True)


@pytest.mark.parametrize("usage", ["[]", '"10"', "10", "true"])
def test_usage_that_is_no_object_is_unusable(usage: str) -> None:
    assert read(f'{{"task_id":"t1","status":"completed","usage":{usage}}}').reports["t1"].usage_unusable


@pytest.mark.parametrize(
    ("said_error", "text"),
    [
        ('"boom"', "boom"),
        ("null", ""),
        ('""', ""),
        ("{}", ""),
        ("7", "7"),
        ('{"code":7,"why":"nsfw"}', '{"code":7,"why":"nsfw"}'),
        ('["a",1]', '["a",1]'),
        ('"a\\u0000b\\u001b[31mc\\u202ed"', "ab[31mcd"),
        ('"\\ud800x\\udc00"', "\ufffdx\ufffd"),
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\\\ud800"', "\\ud800"),
    ],
)
def test_error_of_any_type_becomes_clean_text(said_error: str, text: str) -> None:
    assert read(f'{{"task_id":"t1","status":"failed","error":{said_error}}}').reports["t1"].error == text


def test_error_is_bounded() -> None:
    report = read(f'{{"task_id":"t1","status":"failed","error":"{"x" * 1_000_000}"}}').reports["t1"]
    assert len(report.error) == ERROR_LIMIT


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        ('"finished_at":1760000000', 1760000000.0),
        ('"finish_time":1760000000123', 1760000000.123),
        ('"completed_at":"2025-10-09T08:53:20Z"', 1760000000.0),
        ('"completed_at":"2025-10-09T10:53:20+02:00"', 1760000000.0),
        ('"completed_at":"2025-10-09 04:23:20.5-04:30"', 1760000000.5),
        ('"completed_at":"2025-13-09T08:53:20Z"', None),
        ('"finished_at":"1760000000"', 1760000000.0),
        ('"finished_at":null,"finish_time":1760000000', 1760000000.0),
        ('"finished_at":"2025-10-09T08:53:20"', None),
        ('"finished_at":0', None),
        ('"finished_at":true', None),
        ('"finished_at":1e300', None),
        ('"finished_at":"soon"', None),
    ],
)
def test_time_of_the_end_is_taken_where_it_is_one(moment: str, seconds: float | None) -> None:
    assert read(f'{{"task_id":"t1","status":"completed",{moment}}}').reports["t1"].finished_s == seconds


def test_item_nested_too_deep_for_a_decoder_spoils_only_itself() -> None:
    deep = '{"task_id":"t1","status":"completed","a":1,"a":' + "[" * 900 + "]" * 900 + "}"
    answer = read(deep, '{"task_id":"t2","status":"failed"}', asked=("t2",))
    assert answer.reports["t2"].word == "failed"


@pytest.mark.parametrize("field", ["error", "usage", "progress", "x"])
def test_depth_at_the_very_limit_of_a_decoder_spoils_no_neighbour_or_is_too_deep_as_a_whole(field: str) -> None:
    ends = set()
    for depth in range(850, 1010):
        deep = f'{{"task_id":"t1","status":"failed","{field}":' + "[" * depth + "]" * depth + "}"
        try:
            answer = read(deep, '{"task_id":"t2","status":"failed"}', asked=("t2",))
            assert answer.reports["t2"].word == "failed"
            ends.add("read")
        except AskFailed as failed:
            ends.add(failed.reason)
    assert ends == {"read", AskReason.TOO_DEEP}


def test_pretty_printed_answer_reads_the_same() -> None:
    plain = CASES["plain.json"]["body"]
    spaced = json.dumps(json.loads(plain), indent="\t", separators=(" , ", " : ")).encode()
    strip = lambda answer: {i: r._replace(payload=b"") for i, r in answer.reports.items()}  # noqa: E731
    asked = ["t1", "t2", "t3"]
    assert strip(read_answer(spaced, asked)) == strip(read_answer(plain.encode(), asked))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
item_keys = st.sampled_from(["task_id", "status", "progress", "error", "usage", "finished_at", "x"])
items = st.dictionaries(item_keys, values | st.sampled_from(["t1", "t2", "completed", "failed", "50%"]))


@given(
    st.lists(items | values, max_size=6), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t :")]), st.booleans()
)
def test_any_list_of_items_gives_one_report_for_each_asked_id(
    data: list[Any], separators: tuple[str, str], is_ascii: bool
) -> None:
    try:
        body = json.dumps({"code": 0, "data": data}, separators=separators, ensure_ascii=is_ascii).encode()
    except UnicodeEncodeError:
        return
    answer = read_answer(body, ["t1", "t2"])
    assert list(answer.reports) == ["t1", "t2"]
    for task_id, report in answer.reports.items():
        if report.kind is Kind.SAID:
            assert json.loads(report.payload)["task_id"] == task_id


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda noise: said('{"task_id":"t1"}')[:-5] + noise))
def test_no_bytes_at_all_raise_anything_but_ask_failed(body: bytes) -> None:
    with suppress(AskFailed):
        read_answer(body, ["t1"])
