"""DSNs as people have them."""

from __future__ import annotations

import inspect
import urllib.parse

import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args

from poller.core.model import Secret
from poller.errors import Misconfigured
from poller.postgres.dsn import read_dsn


def understood(text: str) -> tuple[dict[str, str], dict[str, str]]:
    target = read_dsn(Secret(text))
    return dict(urllib.parse.parse_qsl(target.dsn.reveal().partition("?")[2])), target.settings


@pytest.mark.parametrize(
    ("text", "connecting", "settings"),
    [
        (
            "postgres://u:p@h:5432/db?sslmode=disable&TimeZone=Asia/Shanghai",
            {"host": "h:5432", "user": "u", "password": "p", "dbname": "db", "sslmode": "disable"},
            {"TimeZone": "Asia/Shanghai"},
        ),
        ("postgresql://h/db", {"host": "h", "dbname": "db"}, {}),
        ("  postgresql://u@h/db\n", {"host": "h", "user": "u", "dbname": "db"}, {}),
        (
            "postgres://u%40corp:p%40ss%2Fw%3Ard@a:1,b:2/db",
            {"host": "a:1,b:2", "user": "u@corp", "password": "p@ss/w:rd", "dbname": "db"},
            {},
        ),
        ("postgres://u:p@ss@h/db", {"host": "h", "user": "u", "password": "p@ss", "dbname": "db"}, {}),
        ("postgres://u@[::1]:5433/db", {"host": "[::1]:5433", "user": "u", "dbname": "db"}, {}),
        ("postgresql://u@/db?host=/run/pg&port=6", {"host": "/run/pg", "port": "6", "user": "u", "dbname": "db"}, {}),
        (
            "postgres://h/db?pool_max_conns=9&connect_timeout=3&default_query_exec_mode=exec&search_path=gw,public"
            "&application_name=gw&binary_parameters=yes&keepalives_idle=9&target_session_attrs=any",
            {"host": "h", "dbname": "db"},
            {"search_path": "gw,public"},
        ),
        (
            r"host=h user=u password='it\'s a \\ secret' dbname=db port=5432 sslmode=disable TimeZone=UTC",
            {"host": "h", "user": "u", "password": r"it's a \ secret", "dbname": "db", "port": "5432"}
            | {"sslmode": "disable"},
            {"TimeZone": "UTC"},
        ),
        ("host=::1 user = u database=db", {"host": "[::1]", "user": "u", "dbname": "db"}, {}),
    ],
)
def test_a_dsn_of_another_driver_is_understood(text, connecting, settings):
    assert understood(text) == (connecting, settings)


def test_asyncpg_reads_the_same_from_it():
    target = read_dsn(Secret("postgres://u%40corp:p%40ss%2F@a:1,b:2/d%20b?sslmode=disable"))
    parameters = inspect.signature(_parse_connect_dsn_and_args).parameters
    nothing = {name: None for name in parameters if name != "dsn"}
    addresses, parameters = _parse_connect_dsn_and_args(dsn=target.dsn.reveal(), **nothing)
    assert addresses == [("a", 1), ("b", 2)]
    assert (parameters.user, parameters.password, parameters.database) == ("u@corp", "p@ss/", "d b")


@pytest.mark.parametrize(
    "text",
    [
        "root:canary@tcp(localhost:3306)/oneapi",
        "mysql://u:canary@h/db",
        "clickhouse://u:canary@h/db",
        "postgres://u:can/ary@h/db",
        "canary",
        "host=h canary",
        "postgres://u:canary@h/db?sslmode=maybe",
    ],
)
def test_what_is_no_dsn_is_refused_without_repeating_it(text):
    with pytest.raises(Misconfigured, match="SQL_DSN") as caught:
        read_dsn(Secret(text))
    assert "canary" not in str(caught.value)


def test_a_target_shows_no_password():
    assert "canary" not in repr(read_dsn(Secret("postgres://u:canary@h/db")))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("postgres://u:canary@db.example:6543/x", "db.example:6543"),
        ("postgres://u:canary@db.example/x", "db.example:5432"),
        ("postgres://u:canary@a:1,b:2/x", "a:1, b:2"),
        ("postgres://u:canary@a,b/x?port=7", "a:7, b:7"),
        ("postgres://u:canary@[::1]/x", "[::1]:5432"),
        ("postgres://u:canary@[::1]:7/x", "[::1]:7"),
        ("host=::1 user=u password=canary dbname=x", "[::1]:5432"),
        ("postgres://u:canary@/x?host=/run/pg&port=7", "the socket in /run/pg"),
        ("postgres://u:canary@/x", "the default host"),
        ("postgres://u:canary", "the host of that DSN"),
        ("postgres://u:canary?@h/db", "the host of that DSN"),
        ("postgres://u%20canary/db", "the host of that DSN"),
    ],
)
def test_a_target_names_its_host_and_port_and_nothing_that_may_be_a_password(text, address):
    assert read_dsn(Secret(text)).address == address


def test_a_passfile_that_is_not_there_says_nothing():
    target = read_dsn(Secret("postgresql://me@h/x?passfile=/nonexistent"))
    assert "passfile" in target.dsn.reveal()
