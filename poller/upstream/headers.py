"""The header lines of a request, checked before any HTTP library sees them: its complaints would quote the key."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from poller.core.channels import is_header_name, is_header_value
from poller.core.model import Channel, Route
from poller.errors import AskFailed, AskReason


def request_headers(channel: Channel, route: Route) -> dict[str, str]:
    """Headers of a request for *route*: its key, and the client's token where there is one and a header for it.

    Raises ``AskFailed(BAD_REQUEST_PARTS)`` for a missing key and for anything that cannot stand in a header line.
    """
    key = route.key.reveal() if route.key else ""
    if not is_header_value(key):
        raise AskFailed(AskReason.BAD_REQUEST_PARTS, "key is missing or has characters that no header can hold")
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "User-Agent": user_agent(),
    }
    name = route.token_header or channel.token_header
    if route.client_token and name:
        token = route.client_token.reveal()
        if not is_header_name(name):
            raise AskFailed(AskReason.BAD_REQUEST_PARTS, "token header is not a usable header name")
        if not is_header_value(token):
            raise AskFailed(AskReason.BAD_REQUEST_PARTS, "client token has characters that no header can hold")
        headers[name] = token
    return headers


@cache
def user_agent() -> str:
    """What the daemon calls itself towards upstreams."""
    return f"custompass-poller/{version('custompass-poller')}"
