"""DSNs as gateways write them, made into what asyncpg takes.

Go's pgx and libpq read ``postgres://…`` and ``key=value`` strings alike, with options that asyncpg would pass on to the
server, which then refuses the connection. Nothing here repeats any part of a DSN in a message.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from typing import NamedTuple

from poller.core.model import Secret
from poller.errors import Misconfigured

_URL = re.compile(
    r"postgres(?:ql)?://"
    r"(?:(?P<user>[^:@/?]*)(?::(?P<password>[^/?]*))?@)?"
    r"(?P<host>[^/?@]*)(?:/(?P<dbname>[^/?@]*))?(?:\?(?P<options>.*))?"
)
_PAIR = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(\S*))")
_BARE_IPV6 = re.compile(r"[0-9a-fA-F]*:[0-9a-fA-F:.]*:[0-9a-fA-F.]*")
_HOST_PORT = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_CONNECTING = {
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "passfile",
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "krbsrvname",
    "gsslib",
    "service",
}
_SSL_MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
# Meant for pgx, lib/pq, libpq or a driver of another language: no setting of the server.
_FOR_OTHER_CLIENTS = {
    "application_name",
    "fallback_application_name",
    "binary_parameters",
    "channel_binding",
    "charset",
    "client_encoding",
    "connect_timeout",
    "default_query_exec_mode",
    "description_cache_capacity",
    "disable_prepared_binary_result",
    "gssencmode",
    "load_balance_hosts",
    "loc",
    "parsetime",
    "prefer_simple_protocol",
    "require_auth",
    "requirepeer",
    "sslcompression",
    "sslinline",
    "sslsni",
    "statement_cache_capacity",
    "statement_cache_mode",
    "target_session_attrs",
    "tcp_user_timeout",
}


_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Without one of these no connection is made; a passfile that is not there says nothing, as everywhere."""


class Target(NamedTuple):
    """Where to connect: a DSN that asyncpg takes, and server settings that the DSN asked for, such as TimeZone."""

    dsn: Secret
    settings: dict[str, str]
    address: str
    """Host and port for messages, of a socket its folder; no user, no password, no database."""


def read_dsn(dsn: Secret) -> Target:
    """*dsn* as a Target; ``postgres://``, ``postgresql://`` and ``key=value`` pairs are understood.

    Raises Misconfigured for anything else, naming the form but never the content.
    """
    given = _parts(dsn.reveal().strip())
    mode = given.get("sslmode", "prefer")
    if mode not in _SSL_MODES:
        raise Misconfigured(f"SQL_DSN: sslmode must be one of {', '.join(sorted(_SSL_MODES))}")
    for name in _FILES:
        if name in given and mode != "disable" and not os.access(os.path.expanduser(given[name]), os.R_OK):
            raise Misconfigured(f"SQL_DSN: the file that {name} names is not there or cannot be read")
    connecting = {name: value for name, value in given.items() if name in _CONNECTING}
    if _BARE_IPV6.fullmatch(connecting.get("host", "")):
        connecting["host"] = f"[{connecting['host']}]"
    settings = {
        name: value
        for name, value in given.items()
        if name not in _CONNECTING
        and name.lower() not in _FOR_OTHER_CLIENTS
        and not name.startswith(("pool_", "keepalives"))
    }
    return Target(Secret("postgresql://?" + urllib.parse.urlencode(connecting)), settings, _address(connecting))


def _address(connecting: dict[str, str]) -> str:
    """Every host of *connecting* with its port. What does not look like one may be a password that went astray."""
    hosts = [host for host in connecting.get("host", "").split(",") if host]
    ports = connecting.get("port", "").split(",")
    found = []
    for place, host in enumerate(hosts):
        if host.startswith("/"):
            found.append(f"the socket in {host}")
            continue
        port = ports[min(place, len(ports) - 1)] or "5432"
        whole = f"{host}:{port}" if host.endswith("]") or ":" not in host else host
        if not _HOST_PORT.fullmatch(whole):
            return "the host of that DSN"
        found.append(whole)
    return ", ".join(found) or "the default host"


def _parts(text: str) -> dict[str, str]:
    if found := _URL.fullmatch(text):
        parts = {
            name: urllib.parse.unquote(value)
            for name, value in found.groupdict().items()
            if value and name != "options"
        }
        options = dict(urllib.parse.parse_qsl(found["options"] or ""))
        if "database" in options:
            options["dbname"] = options.pop("database")
        return parts | options
    if "://" not in text and _PAIR.match(text):
        pairs = {}
        at = 0
        for found in _PAIR.finditer(text):
            if text[at : found.start()].strip():
                break
            quoted, plain = found[2], found[3]
            pairs[found[1]] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            at = found.end()
        if not text[at:].strip():
            if "database" in pairs:
                pairs["dbname"] = pairs.pop("database")
            return {name: value for name, value in pairs.items() if value}
    raise Misconfigured(
        "SQL_DSN: not a PostgreSQL DSN; wanted postgres://user:password@host:5432/database with special characters "
        "of the password percent-encoded, or host=… user=… password=… dbname=…"
    )
