"""The classifier: every family of error that asyncpg was seen to throw, before and after COMMIT was sent."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl

import asyncpg
import pytest
from asyncpg import exceptions as pg

from poller.cli import _MODULES
from poller.core.model import Secret
from poller.errors import DatabaseAway, Defer, Misconfigured
from poller.postgres.faults import CommitUnknown, Fault, RightMissing, StatementFailed, classify, translated
from poller.postgres.pool import open_pool
from tests.conftest import POOL


def server_error(code: str) -> asyncpg.PostgresError:
    """What asyncpg raises for an ErrorResponse with this SQLSTATE."""
    return asyncpg.PostgresError.new({"C": code, "M": "canary", "D": "Key (name)=(canary) exists.", "t": "tasks"})


SEEN = [
    (asyncpg.InterfaceError("cannot call Transaction.__aexit__(): the underlying connection is closed"), Fault.LOST),
    (pg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"), Fault.LOST),
    (server_error("08003"), Fault.LOST),
    (server_error("08P01"), Fault.LOST),
    (server_error("57P01"), Fault.LOST),
    (server_error("57P02"), Fault.LOST),
    (server_error("57P03"), Fault.LOST),
    (ConnectionRefusedError(), Fault.LOST),
    (TimeoutError(), Fault.LOST),
    (socket.gaierror(), Fault.LOST),
    (ssl.SSLError(), Fault.LOST),
    (asyncio.IncompleteReadError(b"", 1), Fault.LOST),
    (asyncio.CancelledError(), Fault.LOST),
    (RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"), Fault.LOST),
    (server_error("53300"), Fault.OVERLOAD),
    (server_error("53100"), Fault.OVERLOAD),
    (server_error("53200"), Fault.OVERLOAD),
    (server_error("58030"), Fault.OVERLOAD),
    (server_error("40P01"), Fault.RETRY_TX),
    (server_error("40001"), Fault.RETRY_TX),
    (pg.InvalidCachedStatementError(), Fault.RETRY_TX),
    (pg.OutdatedSchemaCacheError("stale"), Fault.RETRY_TX),
    (server_error("40003"), Fault.UNKNOWN_OUTCOME),
    (server_error("55P03"), Fault.LOCKED),
    (server_error("57014"), Fault.LOCKED),
    (server_error("25006"), Fault.WRONG_SERVER),
    (server_error("26000"), Fault.WRONG_SERVER),
    (pg.TargetServerAttributeNotMatched("none"), Fault.WRONG_SERVER),
    (server_error("22003"), Fault.POISON),
    (server_error("22021"), Fault.POISON),
    (server_error("22P05"), Fault.POISON),
    (server_error("22001"), Fault.POISON),
    (server_error("23505"), Fault.POISON),
    (server_error("54001"), Fault.POISON),
    (server_error("42P08"), Fault.POISON),
    (pg.DataError("invalid input for query argument $1: 'canary'"), Fault.POISON),
    (server_error("42501"), Fault.PERMISSION),
    (server_error("28P01"), Fault.PERMISSION),
    (server_error("42P01"), Fault.SCHEMA),
    (server_error("42703"), Fault.SCHEMA),
    (server_error("3D000"), Fault.SCHEMA),
    (pg.ClientConfigurationError("canary"), Fault.SCHEMA),
    (server_error("42601"), Fault.BUG),
    (server_error("0A000"), Fault.BUG),
    (server_error("XX000"), Fault.BUG),
    (ValueError("canary"), Fault.BUG),
]


@pytest.mark.parametrize(
    ("error", "fault"), SEEN, ids=lambda value: getattr(value, "sqlstate", None) or str(value)[:20]
)
def test_every_error_has_one_class(error, fault):
    assert classify(error, commit_sent=False) is fault


@pytest.mark.parametrize(
    ("error", "fault"), SEEN, ids=lambda value: getattr(value, "sqlstate", None) or str(value)[:20]
)
def test_after_commit_was_sent_only_a_refusal_by_the_server_is_a_known_outcome(error, fault):
    known = {Fault.RETRY_TX, Fault.POISON, Fault.PERMISSION, Fault.SCHEMA}
    assert classify(error, commit_sent=True) is (fault if fault in known else Fault.UNKNOWN_OUTCOME)


@pytest.mark.parametrize(
    ("error", "fault"), SEEN, ids=lambda value: getattr(value, "sqlstate", None) or str(value)[:20]
)
def test_no_message_repeats_what_the_server_or_a_parameter_said(error, fault):
    named = getattr(error, "sqlstate", None) or ""
    text = str(translated(error, statement="settle"))
    assert "canary" not in text or named.startswith("42")
    assert "settle" in text or isinstance(error, pg.ClientConfigurationError)


@pytest.mark.parametrize(
    ("error", "commit_sent", "type_", "reason"),
    [
        (TimeoutError(), False, DatabaseAway, "timeout"),
        (ConnectionResetError(), False, DatabaseAway, "lost"),
        (server_error("57P03"), False, DatabaseAway, "starting_up"),
        (server_error("53300"), False, DatabaseAway, "too_many_clients"),
        (server_error("53100"), False, DatabaseAway, "disk_full"),
        (server_error("25006"), False, DatabaseAway, "read_only"),
        (server_error("28P01"), False, DatabaseAway, "auth_failed"),
        (TimeoutError(), True, CommitUnknown, "commit_unknown"),
        (server_error("42501"), False, RightMissing, None),
        (server_error("42P01"), False, Misconfigured, None),
        (server_error("22003"), True, StatementFailed, None),
        (server_error("40001"), True, StatementFailed, None),
    ],
)
def test_each_class_leaves_as_the_error_that_says_what_to_do_next(error, commit_sent, type_, reason):
    left = translated(error, commit_sent=commit_sent, statement="settle")
    assert type(left) is type_
    assert getattr(left, "reason", None) == reason


def test_an_error_of_ours_stays_what_it_is():
    error = DatabaseAway("pool_timeout")
    assert translated(error, commit_sent=True) is error


def test_whatever_may_pass_by_itself_is_deferred():
    assert issubclass(StatementFailed, Defer)
    assert issubclass(CommitUnknown, Defer)


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("sslmode=verify-full", "need the certificate of the server's authority"),
        ("sslmode=verify-full&sslrootcert=/nowhere/canary.crt", "the file that sslrootcert names is not there"),
        ("sslmode=require&sslcert=/nowhere/canary.crt", "the file that sslcert names is not there"),
        ("sslmode=require&ssl_min_protocol_version=canary", "ssl_min_protocol_version"),
        ("port=1,2", "several ports"),
        ("bogus=canary", "does not take its parameter bogus"),
        ("work_mem=canary", "does not take its parameter work_mem"),
    ],
)
async def test_a_dsn_that_cannot_be_used_is_a_fault_of_sql_dsn_in_our_words(pg_server, monkeypatch, dsn, said):
    monkeypatch.setenv("HOME", "/nowhere")
    whole = pg_server.dsn().replace("postgres@", "postgres:canary@")
    with pytest.raises(Misconfigured) as caught:
        await open_pool(Secret(f"{whole}{'&' if '?' in whole else '?'}{dsn}"), **POOL)
    assert str(caught.value).startswith("SQL_DSN: ")
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_schema_that_is_not_ours_is_told_with_commands_that_exist():
    text = str(translated(server_error("42703"), statement="settle"))
    for name in re.findall(r"'poller (\w+)'", text):
        assert name in _MODULES
    assert "a start of the daemon compares the schema" in text
