"""What settings say about each other, and the names that gateways know and this daemon has no use for."""

from __future__ import annotations

import importlib.util
import re
import ssl
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from poller.core.model import Secret
from poller.settings_model import Settings
from poller.settings_sources import CONFIG_FILE, Gathered, Given
from poller.settings_values import flag, shown_duration

INERT = {
    "DEBUG": "known from the gateway; true means CUSTOM_PASS_LOG_LEVEL=debug where no level is set",
    "GIN_MODE": "known from the gateway, has no effect here; CUSTOM_PASS_LOG_LEVEL and LOG_FORMAT replace it",
    "ENABLE_CACHE": "known from the gateway, has no effect here; MEMORY_CACHE_ENABLED and SYNC_FREQUENCY replace it",
    "GOGC": "known from the gateway, has no effect here; nothing replaces it, memory stays flat by itself",
    "CUSTOM_PASS_CRASH_AT": "for tests of this daemon: ends the process at a named place; unset it everywhere else",
    "GOMEMLIMIT": "known from the gateway, has no effect here; a limit of the container or MemoryMax= replaces it",
}
"""Accepted names that are no settings, each with what ``check`` says about it."""

_PROBES = ("/livez", "/readyz", "/startupz", "/healthz", "/status", "/trigger", "/pause", "/resume")


class _Rule(NamedTuple):
    """*is_broken* is asked when none of *names* is faulty by itself; the first of them that somebody set is blamed."""

    names: tuple[str, ...]
    is_broken: Callable[[Settings], bool]
    says: Callable[[Settings], str]


def adjusted(gathered: Gathered) -> dict[str, Given]:
    """The given values, with ``DEBUG=true`` taken for a log level where none is set."""
    given = dict(gathered.given)
    debug = gathered.inert.get("DEBUG")
    if debug is not None and "CUSTOM_PASS_LOG_LEVEL" not in given:
        try:
            if flag(debug.raw):
                given["CUSTOM_PASS_LOG_LEVEL"] = Given("debug", f"{debug.origin}, as DEBUG")
        except ValueError:
            # Other programs use DEBUG for patterns of their own; that is no fault of this daemon's settings.
            return given
    return given


def cross_faults(
    settings: Settings, given: Mapping[str, Given], faulty: set[str], *, needs_database: bool
) -> list[str]:
    """What is wrong only in the light of another setting, of a file, or because nothing is set at all."""
    found: list[str] = []
    if needs_database and settings.sql_dsn is None and not faulty & {"SQL_DSN", CONFIG_FILE}:
        found.append(
            "SQL_DSN (not set): the gateway's database is needed; expected postgres://USER:PASSWORD@HOST:5432/DATABASE"
            " (to see the poller at work without one: poller demo)"
        )
    return found + _broken(_FAULTS, settings, given, faulty)


def cross_warnings(settings: Settings, given: Mapping[str, Given], faulty: set[str]) -> list[str]:
    """What is allowed and hardly meant."""
    return _broken(_WARNINGS, settings, given, faulty)


def _broken(rules: tuple[_Rule, ...], settings: Settings, given: Mapping[str, Given], faulty: set[str]) -> list[str]:
    found = []
    for rule in rules:
        if not faulty & set(rule.names) and rule.is_broken(settings):
            name = next((name for name in rule.names if name in given), rule.names[0])
            found.append(f"{name} ({given[name].origin if name in given else 'default'}): {rule.says(settings)}")
    return found


def _words_trouble(settings: Settings) -> str:
    try:
        _ = settings.status_words
    except ValueError as error:
        return f"{error}; expected every word in one list only"
    return ""


def _ca_trouble(settings: Settings) -> str:
    try:
        ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # SSLError is one too
        what = (
            "holds no readable certificate" if isinstance(error, ssl.SSLError) else f"cannot be read ({error.strerror})"
        )
        return f"{what}; expected a readable file of PEM certificates"
    return ""


def is_unproven(dsn: Secret | None) -> bool:
    """Whether a connection with *dsn* leaves this machine without proof of who answers."""
    if dsn is None:
        return False
    url = urlsplit(dsn.reveal())
    options = dict(parse_qsl(url.query))
    named = options.get("host") or url.netloc.rpartition("@")[2]
    hosts = [re.sub(r":[0-9]*$", "", host).strip("[]") for host in unquote(named).split(",")]
    is_local = all(host in ("", "localhost", "::1") or host.startswith(("/", "127.")) for host in hosts)
    return not is_local and options.get("sslmode") != "verify-full"


def _unproven(name: str, field: str) -> _Rule:
    return _Rule(
        (name,),
        lambda settings: is_unproven(getattr(settings, field)),
        lambda settings: (
            "the database is on another machine and nothing proves that it is the one that answers: whoever stands"
            " between may change what is settled; sslmode=verify-full with sslrootcert proves it"
        ),
    )


_FAULTS = (
    _Rule(
        ("REDIS_CONN_STRING",),
        lambda settings: settings.redis_conn_string is not None and importlib.util.find_spec("redis") is None,
        lambda settings: "the package redis is missing; install custompass-poller[redis], or unset it",
    ),
    _Rule(
        ("CUSTOM_PASS_STATUS_SUCCESS", "CUSTOM_PASS_STATUS_FAILED", "CUSTOM_PASS_STATUS_PROCESSING"),
        lambda settings: bool(_words_trouble(settings)),
        _words_trouble,
    ),
    _Rule(
        ("METRICS_PATH",),
        lambda settings: settings.metrics_path in _PROBES,
        lambda settings: "is a path that the side port uses itself; expected another one, such as /metrics",
    ),
    _Rule(
        ("CUSTOM_PASS_CA_FILE",),
        lambda settings: settings.ca_file is not None and bool(_ca_trouble(settings)),
        _ca_trouble,
    ),
)

_WARNINGS = (
    _unproven("SQL_DSN", "sql_dsn"),
    _unproven("LOG_SQL_DSN", "log_sql_dsn"),
    _Rule(
        ("REDIS_CONN_STRING", "CRYPTO_SECRET"),
        lambda settings: settings.redis_conn_string is not None and settings.crypto_secret is None,
        lambda settings: "without CRYPTO_SECRET only users' cached balances are adjusted, tokens' are not",
    ),
    _Rule(
        ("CUSTOM_PASS_DB_MAX_IDLE_CONNS", "CUSTOM_PASS_DB_MAX_OPEN_CONNS"),
        lambda settings: settings.db_max_idle_conns > settings.db_max_open_conns,
        lambda settings: f"more than the {settings.db_max_open_conns} connections that may be open; that many are kept",
    ),
    _Rule(
        ("CUSTOM_PASS_LEASE_TTL", "CUSTOM_PASS_POLL_INTERVAL"),
        lambda settings: settings.lease_ttl_s > max(15.0, 4 * settings.poll_interval_s),
        lambda settings: (
            f"the tasks of a replica that died are not asked about for {shown_duration(settings.lease_ttl_s)},"
            f" {settings.lease_ttl_s / settings.poll_interval_s:.0f} intervals"
        ),
    ),
    _Rule(
        ("CUSTOM_PASS_TASK_MAX_LIFETIME", "CUSTOM_PASS_POLL_INTERVAL"),
        lambda settings: settings.task_max_lifetime_s < settings.poll_interval_s,
        lambda settings: "shorter than the poll interval: tasks may be past their deadline before they are asked about",
    ),
    _Rule(
        ("CUSTOM_PASS_NOT_FOUND_GRACE", "CUSTOM_PASS_TASK_MAX_LIFETIME"),
        lambda settings: (
            "not_found" in settings.status_failed and settings.not_found_grace_s >= settings.task_max_lifetime_s
        ),
        lambda settings: "as long as a task may live: not_found will never count before the deadline",
    ),
)
