"""One request to the side port of a replica, past every proxy and following no redirect."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import click

from poller.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from poller.settings import Settings

_LIMIT_S = 10.0
_LONGEST_ANSWER = 1 << 24


class Reply(NamedTuple):
    """HTTP status, and the body as one line for a person."""

    status: int
    said: str


def local_url(settings: Settings) -> str:
    """Where a replica on this machine listens, by its settings. Raises Misconfigured where these do not tell."""
    if not settings.metrics_port:
        raise Misconfigured("METRICS_PORT: 0 takes any free port: set a fixed one, or name the replica's with --url")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.metrics_host, settings.metrics_host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.metrics_port}"


def fetch_json(url: str, path: str) -> dict[str, Any]:
    """The JSON object at *path*. Raises Unavailable when nobody answers, or with anything else."""
    status, body = _exchange("GET", url, path, "")
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if status != 200 or not isinstance(found, dict):
        said = _said(body)[:200]
        if status == 503 and isinstance(found, dict) and "error" in found:
            raise Unavailable(f"side port {path}: the replica is there, but cannot say: {said}")
        raise Unavailable(f"side port {path}: status {status}: {said}; is a poller running there?")
    return found


def request(method: str, url: str, path: str, *, token: str = "") -> Reply:
    """Send one request. Raises Unavailable when nobody answers, and a usage error for a URL that is none."""
    status, body = _exchange(method, url, path, token)
    return Reply(status, _said(body))


def _exchange(method: str, url: str, path: str, token: str) -> tuple[int, bytes]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise click.UsageError("--url: expected http://HOST:PORT") from error
    if parts.scheme not in ("http", "https") or not host:
        raise click.UsageError("--url: expected http://HOST:PORT")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=_LIMIT_S)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, parts.path.rstrip("/") + path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(_LONGEST_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unavailable(f"side port {parts.scheme}://{host}:{port}: {what}; is a poller running there?") from error
    finally:
        connection.close()


def _said(body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    try:
        decoded = json.loads(text)
    except ValueError:
        return " | ".join(line for line in text.splitlines() if line)[:500]
    error = decoded.get("error") if isinstance(decoded, dict) else None
    return str(error) if error else text[:500]
