"""What is read from the JSON that a gateway saved with a task; no database needed."""

from __future__ import annotations

import json
import time

import pytest

from poller.core.model import Task
from poller.postgres.rows import Note, read_task

MODEL = "video/submit"
DEEP = "[" * 5000 + "]" * 5000


def read(profile: str, properties: object = None, private: object = None, note: Note | None = None) -> Task:
    row = {
        "pk": 1, "task_id": "task_public", "user_id": 2, "action": MODEL, "state": "SUBMITTED", "progress": "0%",
        "reserved": 5, "submitted_s": 1.5, "task_group": "vip", "is_heavy": False,
        "properties": properties if isinstance(properties, str) or properties is None else json.dumps(properties),
        "private_data": private if isinstance(private, str) or private is None else json.dumps(private),
    }  # fmt: skip
    return read_task(profile, 9, row, note or Note())


def revealed(task: Task) -> tuple[str | None, str]:
    return (task.client_token.reveal() if task.client_token else None), task.token_header


def test_fork_reads_the_clients_token_and_the_terms():
    inner = json.dumps({"payload": {"prompt": "a cat"}, "token": " tk-1 ", "headerKey": "X-Mine"})
    terms = '{"group_ratio": 0.90, "billing_mode": "usage"}'
    task = read("fork", f'{{"input": {json.dumps(inner)}, "billing_info": {terms}}}')
    assert revealed(task) == ("tk-1", "X-Mine")
    assert task.terms == terms
    assert (task.upstream_id, task.model, task.price_model, task.key) == ("task_public", MODEL, MODEL, None)


@pytest.mark.parametrize(
    "saved",
    [
        None, "", "null", "[]", "5", '"text"', "{}", {"input": None}, {"input": ""}, {"input": {"token": "tk"}},
        {"input": "a prompt"}, {"input": '{"prompt": "bare request"}'}, {"input": '{"prompt": "cut of'},
        {"input": '{"payload": {}, "token": 5}'}, {"input": '{"payload": {}, "token": ""}'}, {"billing_info": "free"},
    ],
)  # fmt: skip
def test_fork_without_a_token_sends_none(saved):
    task = read("fork", saved)
    assert revealed(task) == (None, "")
    assert (task.upstream_id, task.terms) == ("task_public", "")


@pytest.mark.parametrize("odd", ["\\u0000", "\\ud800", "\\udc00 \\ud83d\\ude00", "\\\\ud800"])
def test_fork_reads_the_token_beside_odd_text(odd):
    inner = '{"payload": "' + odd + '", "token": "tk-1"}'
    assert revealed(read("fork", {"input": inner}))[0] == "tk-1"
    outer = '{"note": "' + odd + '", "input": "{\\"payload\\": 1, \\"token\\": \\"tk-1\\"}"}'
    assert revealed(read("fork", outer))[0] == "tk-1"


@pytest.mark.parametrize("request_", [DEEP, '{"]":' * 5000 + "1" + "}" * 5000, '[{"a\\"}": 1e999}]', "1e999"])
def test_fork_reads_the_token_beside_a_request_that_no_decoder_takes(request_):
    for inner in (
        f'{{"payload": {request_}, "token": "tk-1", "headerKey": "X-Mine"}}',
        f'{{"headerKey": "X-Mine", "payload": {request_}, "token": "tk-1"}}',
    ):
        task = read("fork", {"input": inner})
        assert (*revealed(task), task.upstream_id) == ("tk-1", "X-Mine", "task_public")


@pytest.mark.parametrize(
    "planted",
    [
        '{"token": "tk"}', '{"token": "tk", "headerKey": "X-Mine"}', '{"prompt": "a cat", "token": "tk"}',
        '{"prompt": "a cat", "payload": {}, "token": "tk", "headerKey": "X-Mine"}',
        '{"payload": {"token": "tk", "headerKey": "X-Mine"}}', '{"payload": {}, "Token": "tk"}',
        '[{"payload": {}, "token": "tk"}]', '{"payload": {}, "token": "two\\nlines"}',
        '{"payload": {}, "token": "tk\\u0000"}', '{"payload": {}, "token": "caf\u00e9"}',
        '{"payload": {}, "token": "a b"}', '{"payload": {}, "token": "' + "t" * 513 + '"}',
        '{"payload": {}, "token": ["tk"]}', '{"payload": {}, "token": "tk"', '{"prompt": ' + DEEP + ', "token": "tk"}',
        '{"prompt": "cut, \\"token\\": "tk',
    ],
)  # fmt: skip
def test_fork_takes_no_token_from_what_only_a_user_can_have_written(planted):
    task = read("fork", {"input": planted})
    assert revealed(task) == (None, "")
    assert task.upstream_id == "task_public"


def test_fork_is_not_kept_busy_by_a_long_request_that_ends_in_the_middle():
    started_s = time.perf_counter()
    assert revealed(read("fork", {"input": '{"payload": "' + '\\"{' * 1_000_000})) == (None, "")
    # Going back over it for each of its brackets would take hours.
    assert time.perf_counter() - started_s < 60


@pytest.mark.parametrize("saved", ["{", '{"input": ' + DEEP + "}"])
def test_fork_task_whose_token_cannot_be_read_is_asked_about_by_nobody(saved):
    assert read("fork", saved).upstream_id == ""


def test_main_reads_ids_models_key_and_terms():
    context = {"model_ratio": 2, "origin_model_name": "billed"}
    task = read(
        "main",
        {"input": "x", "upstream_model_name": "called", "origin_model_name": "origin"},
        {"upstream_task_id": "up-1", "key": " sk-1\n", "billing_context": context, "token_id": 5},
    )
    assert (task.task_id, task.upstream_id, task.model, task.price_model) == ("task_public", "up-1", "called", "billed")
    assert task.key is not None
    assert task.key.reveal() == "sk-1"
    assert json.loads(task.terms) == context
    assert task.group == "vip"


@pytest.mark.parametrize(
    ("properties", "private", "wanted"),
    [
        (None, None, (MODEL, MODEL, "task_public")),
        ({"origin_model_name": "origin"}, {}, ("origin", "origin", "task_public")),
        ({"upstream_model_name": "called"}, {"upstream_task_id": ""}, ("called", MODEL, "task_public")),
        ({"upstream_model_name": 5}, {"upstream_task_id": None, "key": []}, (MODEL, MODEL, "task_public")),
        ("[]", "null", (MODEL, MODEL, "task_public")),
    ],
)
def test_main_falls_back_where_a_field_is_empty(properties, private, wanted):
    task = read("main", properties, private)
    assert (task.model, task.price_model, task.upstream_id) == wanted
    assert (task.key, task.terms) == (None, "")


def test_main_task_whose_private_data_cannot_be_read_is_asked_about_by_nobody():
    assert read("main", None, '{"x": ' + DEEP + "}").upstream_id == ""


def test_main_reads_a_task_of_the_fork_that_it_was_upgraded_from_as_the_fork_would():
    inner = json.dumps({"payload": {}, "token": "tk-1", "headerKey": "X-Mine"})
    saved = {"input": inner, "billing_info": {"group_ratio": 0.9, "billing_mode": "usage"}}
    task = read("main", saved)
    assert task == read("fork", saved)._replace(is_forks=True)
    assert revealed(task) == ("tk-1", "X-Mine")


@pytest.mark.parametrize(
    ("more", "private"),
    [({"origin_model_name": "a"}, None), ({"upstream_model_name": ""}, None), ({}, {"upstream_task_id": "u"})],
)
def test_main_takes_no_token_from_what_its_own_users_wrote(more, private):
    inner = json.dumps({"payload": {}, "token": "tk-1", "headerKey": "X-Mine"})
    assert read("main", {"input": inner, **more}, private).client_token is None


def test_number_in_the_terms_keeps_every_digit():
    task = read("main", None, '{"billing_context": {"model_ratio": 0.10000000000000000001}}')
    assert "0.10000000000000000001" in task.terms


def test_what_is_remembered_comes_with_the_task():
    task = read("documented", note=Note(2, 12.5))
    assert (task.sightings, task.sighted_s) == (2, 12.5)


def test_secrets_show_nowhere():
    text = repr(read("main", None, {"key": "sk-very-secret"}))
    assert "sk-very-secret" not in text
