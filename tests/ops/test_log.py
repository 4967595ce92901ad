from __future__ import annotations

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.model import Secret
from poller.ops import log
from poller.ops.log_lines import Redactor, console_line, json_line, text_line

CANARY = "hunter2canary"
FORMS = ("text", "json", "console")
STAMP = datetime(2026, 1, 1, 12, 0, 2, 512_000, tzinfo=UTC)


@contextmanager
def writing(form: str = "text", level: str = "debug", *secrets: Secret) -> Iterator[tuple[log.Log, io.StringIO]]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    written = log.set_up(level=level, form=form, stream=stream, secrets=secrets)
    try:
        yield written, stream
    finally:
        written.close()
        logging.captureWarnings(False)
        root.handlers[:], root.level = before


def event(**facts: object) -> dict[str, object]:
    return {"timestamp": STAMP, "level": "debug", "event": "polling_tasks", **facts}


def test_text_is_the_line_that_existing_greps_read():
    line = text_line(event(channel_id=1, task_count=5, duration_s=0.512))
    assert line == "2026-01-01T12:00:02Z [DEBUG] custompass: polling_tasks channel_id=1 task_count=5 duration=0.512s"


def test_text_quotes_values_with_blanks():
    line = text_line(event(channel_id=1, error="connect timeout", duration_s=15))
    assert line.endswith('channel_id=1 error="connect timeout" duration=15.000s')


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", '"a\\nb"'),
        ("\x1b[31m", '"\\x1b[31m"'),
        ('say "x"', '"say \\"x\\""'),
        ("a=b", '"a=b"'),
        ("", '""'),
        (None, '"None"'[1:-1]),
        (True, "true"),
        ([1, 2], '"[1, 2]"'),
        ("\u202e", '"\\u202e"'),
        ("\ud800", '"\\ud800"'),
        ("m/submit", "m/submit"),
        ("任务", "任务"),
    ],
)
def test_text_never_lets_a_value_break_its_line(value: object, shown: str):
    assert text_line(event(x=value)).rpartition(" x=")[2] == shown


@given(st.dictionaries(st.sampled_from(["a", "b_s", "c"]), st.text() | st.integers() | st.booleans()))
def test_every_form_is_one_line_whatever_the_values(facts: dict[str, object]):
    cleaned = Redactor().clean_event(event(**facts))
    for line in (text_line(cleaned), json_line(cleaned), console_line(colours=False)(cleaned)):
        assert len(line.splitlines()) == 1
        assert line.isprintable()


def test_json_is_an_object_with_an_rfc_3339_time():
    line = json.loads(json_line(event(channel_id=1, duration_s=0.512)))
    assert line == {
        "timestamp": "2026-01-01T12:00:02.512Z",
        "level": "debug",
        "logger": "custompass",
        "event": "polling_tasks",
        "channel_id": 1,
        "duration_s": 0.512,
    }


def test_numbers_that_json_cannot_write_become_text():
    with writing("json") as (written, stream):
        written.logger.info("x", lag_s=float("nan"))
    assert json.loads(stream.getvalue())["lag_s"] == "nan"


def test_console_has_colours_only_when_asked():
    assert "\x1b[" in console_line(colours=True)(event())
    assert "\x1b[" not in console_line(colours=False)(event())


def test_auto_is_text_where_nobody_watches():
    with writing("auto") as (written, stream):
        written.logger.info("daemon_started", replica="a")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[INFO\] custompass: daemon_started replica=a\n", stream.getvalue()
    )


def test_lines_below_the_level_are_not_written():
    with writing("text", "warning") as (written, stream):
        written.logger.info("quiet")
        written.logger.warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "[WARN] custompass: loud" in stream.getvalue()


def test_none_is_left_out_and_order_is_kept():
    with writing() as (written, stream):
        written.logger.info("x", b=1, a=None, c=2)
    assert stream.getvalue().rstrip().endswith("custompass: x b=1 c=2")


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_hidden_by_key_by_value_and_by_look(form: str):
    dsn = Secret(f"postgres://me:{CANARY}%21@db/x")
    with writing(form, "debug", dsn, Secret("tokencanary")) as (written, stream):
        logger = written.logger
        logger.info("by_key", password="othercanary", api_key="othercanary", headers={"a": "othercanary"})
        logger.info("by_value", said=f"login {CANARY}! failed for tokencanary", nested={"deep": [dsn.reveal()]})
        logger.info("by_look", url="http://u:urlcanary@h/x", auth="Bearer bearercanary", text="sk-keycanary12345")
        logger.info("by_pair", text="password=paircanary host=h")
        logger.info("as_secret", given=Secret("wrappedcanary"))
        written.protect(Secret("latecanary"))
        logger.info("late", said="latecanary")
    assert len(stream.getvalue().splitlines()) == 6
    assert "canary" not in stream.getvalue()


@pytest.mark.parametrize("form", FORMS)
def test_a_traceback_shows_no_locals_and_no_secret(form: str):
    def fail(hidden: str) -> None:
        raise ValueError(f"Illegal header value b'Bearer {hidden}'")

    with writing(form) as (written, stream):
        try:
            fail("sk-localcanary")
        except ValueError as error:
            written.logger.error("task_failed", exc_info=error)
    assert "Illegal header value" in stream.getvalue()
    assert "canary" not in stream.getvalue().replace("hidden", "")
    if form != "console":
        assert len(stream.getvalue().splitlines()) == 1


def test_a_user_name_in_a_field_name_is_not_mistaken_for_a_secret():
    with writing() as (written, stream):
        written.logger.info("x", token_id=7, prompt_tokens=3, keys=2)
    assert stream.getvalue().rstrip().endswith("token_id=7 prompt_tokens=3 keys=2")


def test_other_libraries_are_heard_from_warning_up_and_redacted():
    with writing("text", "debug", Secret(CANARY)) as (_, stream):
        logging.getLogger("httpx").info("HTTP Request: POST http://u:%s@h", CANARY)
        logging.getLogger("uvicorn.error").error("bad %s", CANARY)
        logging.getLogger("anything").debug("noise")
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    lines = stream.getvalue().splitlines()
    assert '[ERROR] custompass: library_message library=uvicorn.error message="bad ***"' in lines[0]
    assert not any("httpx" in line or "noise" in line for line in lines)
    assert CANARY not in stream.getvalue()


def test_a_huge_value_is_cut():
    with writing() as (written, stream):
        written.logger.info("x", text="y" * 1_000_000)
    assert len(stream.getvalue()) < 8 * 1024


def test_a_reader_that_stops_reading_costs_lines_and_no_time():
    reading, writing_end = os.pipe()
    stream = os.fdopen(writing_end, "w")
    written = log.Log(level="info", form="text", stream=stream, colours=False, secrets=())
    for number in range(15_000):
        written.logger.info("flood", number=number)
    assert written.dropped_count > 0
    os.close(reading)
    written.close()
    assert written.dropped_count > 5000


def test_what_was_logged_before_the_end_is_written_at_the_end():
    with writing("text", "info") as (written, stream):
        for number in range(5000):
            written.logger.info("x", number=number)
    assert len(stream.getvalue().splitlines()) == 5000


def test_the_hint_that_shows_what_a_dsn_looks_like_is_no_secret():
    hint = "expected postgres://USER:PASSWORD@HOST:5432/DATABASE"
    assert Redactor().clean(hint) == hint
    assert "canary" not in Redactor().clean("postgres://USER:canary@HOST/DB")


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1",
        "http://127.0.0.1:1/",
        "socks5h://proxy.test",
        "https://[::1]:3128",
        "redis://h:6379/0",
        "postgres://127.0.0.1:1/x",
    ],
)
def test_an_address_without_credentials_hides_nothing(address: str):
    redactor = Redactor()
    redactor.add(Secret(address))
    line = f"side port {address}7486: refused; {address}"
    assert redactor.clean(line) == line


@pytest.mark.parametrize(
    "value",
    [
        "http://me:hunter2canary@127.0.0.1:1",
        "http://:hunter2canary@127.0.0.1:1",
        "socks5://me:hunter2%63anary@127.0.0.1:1",
        "redis://:hunter2canary@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=hunter2canary",
        "postgres://me:hunter2canary@127.0.0.1:1/x",
        "host=127.0.0.1 port=1 user=me password=hunter2canary",
        "host=127.0.0.1 port=1 user=me password='hunter2\\canary' dbname=x",
        "postgres://127.0.0.1:1/x?user=me&sslpassword=hunter2canary",
        "HOST=127.0.0.1 PASSWORD=hunter2canary",
        "host=127.0.0.1 password='http://x' sslpassword=hunter2canary",
        "hunter2canary",
    ],
)
def test_a_password_is_hidden_wherever_it_turns_up_and_the_address_is_not(value: str):
    redactor = Redactor()
    redactor.add(Secret(value))
    line = redactor.clean(f"{value} then hunter2canary; then http://127.0.0.1:17486")
    assert "canary" not in line
    assert line.endswith("***; then http://127.0.0.1:17486")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("postgres://h/x?password=canary%40ary", "canary%40ary"),
        ("postgres://h/x?password=canary%40ary", "canary@ary"),
        ("postgres://h/x?password=canary+ary", "canary ary"),
        ("http://tokencanary@proxy:3128", "tokencanary"),
        (r"host=h password=it\'scanary", "it'scanary"),
        ("host=h password='a://b canary'", "a://b canary"),
    ],
)
def test_a_password_is_hidden_however_it_was_written(value: str, shown: str):
    redactor = Redactor()
    redactor.add(Secret(value))
    assert redactor.clean(f"server says X{shown}X") == "server says X***X"


@pytest.mark.parametrize(
    "odd",
    ["http://me:canary", "canary://x", "http://canary@h", "http://h/canary?x", "http://h/canary", "http://h#canary"],
)
def test_what_only_resembles_an_address_is_hidden_whole(odd: str):
    redactor = Redactor()
    redactor.add(Secret(odd))
    assert redactor.clean(f"said {odd}") == "said ***"
