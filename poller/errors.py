"""Every error that crosses a module's edge, sorted by what the caller does next.

stop    Stop and its children end the process with ``exit_code`` and their one line
defer   Defer and its children leave the work as it is and come back later; no money has moved
skip    AskFailed is evidence of nothing: the batch stays open

Messages hold no secret, no body and no header value: they may be printed as they are. The cause is kept with ``from``.
"""

from __future__ import annotations

import enum
import os
from typing import Final


class PollerError(Exception):
    """Root of the tree; itself it means a bug."""

    exit_code = os.EX_SOFTWARE


# -- stop ------------------------------------------------------------------------------------------------------------


class Stop(PollerError):
    """The process cannot do what it was asked to: say why and exit."""


class Misconfigured(Stop):
    """Settings, schema or database are not what they must be. *faults* has one line each: what, where, how to mend."""

    exit_code = os.EX_CONFIG

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


_RENAMED: Final = "where the schema was renamed: UPDATE poller.control SET gateway_schema = NULL"


class OtherGateway(Misconfigured):
    """The tasks that are found are not those which schema ``poller`` belongs to: their keys mean others."""

    def __init__(self, noted: str, found: str) -> None:
        super().__init__(
            f"schema poller belongs to the tasks in schema {noted}; this search_path finds those in {found}: a second "
            f"gateway needs a database of its own; {_RENAMED}"
        )


class NoSuchChannel(Stop):
    """A person named a channel that is not there: a slip."""

    exit_code = 1

    def __init__(self, channel_id: int) -> None:
        super().__init__(f"channel {channel_id}: no such channel, neither in the gateway's table nor among the lanes")


class NotPermitted(Stop):
    """The database role may not do what is needed."""

    exit_code = os.EX_NOPERM


class Unavailable(Stop):
    """A dependency did not answer in the time that a one-shot command gives it, or a port is taken."""

    exit_code = os.EX_UNAVAILABLE


class Incomplete(Stop):
    """A one-shot pass could not ask everything: try again later."""

    exit_code = os.EX_TEMPFAIL


# -- defer -----------------------------------------------------------------------------------------------------------


class Defer(PollerError):
    """Nothing was written; the same work is due again on a later pass."""


class DatabaseAway(Defer):
    """The database cannot be reached, is overloaded, read-only or shutting down. *reason* is one word for a label."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class LedgerMissing(DatabaseAway):
    """``poller.ledger`` is not there, or lacks what it held: nothing is settled until a person has seen to it."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            "ledger_missing",
            f"{detail}; restore poller.ledger from a backup, or have tasks that a gateway reopens paid once more: "
            "poller resume --accept-lost-ledger",
        )


class CacheAway(Defer):
    """The gateway's cache cannot be reached, and nothing was changed in it. *reason* is one word for a label."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cache: {reason}")
        self.reason = reason


# -- skip ------------------------------------------------------------------------------------------------------------


class AskReason(enum.StrEnum):
    """Why an ask brought no evidence. The values are metric labels."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    TLS = "tls"
    NETWORK = "network"
    REFUSED_ADDRESS = "refused_address"
    BAD_REQUEST_PARTS = "bad_request_parts"
    AUTH = "auth"
    RATE_LIMITED = "rate_limited"
    REDIRECT = "redirect"
    CLIENT_ERROR = "client_error"
    SERVER_ERROR = "server_error"
    HTTP_STATUS = "http_status"
    ENCODING = "encoding"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    ENVELOPE = "envelope"
    CODE = "code"
    CIRCUIT_OPEN = "circuit_open"
    NO_CHANNEL = "no_channel"

    @property
    def in_words(self) -> str:
        """The reason for a person, where there is no better detail."""
        return _IN_WORDS.get(self) or self.value.replace("_", " ")


_IN_WORDS = {
    AskReason.CONNECT: "connect failed",
    AskReason.AUTH: "key refused",
    AskReason.NO_CHANNEL: "no usable channel",
    AskReason.CODE: "answered with a code that is not 0",
}


class AskFailed(PollerError):
    """No usable answer. *detail* is our own words, never upstream's text; of a redirect it names the host.

    *retry_after_s* is upstream's wish, capped; *is_batch_fault* says that the request as a whole was refused or too
    large, so that halves of it may fare better.
    """

    def __init__(
        self,
        reason: AskReason,
        detail: str = "",
        *,
        retry_after_s: float | None = None,
        is_batch_fault: bool = False,
        http_status: int | None = None,
    ) -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.is_batch_fault = is_batch_fault
        self.http_status = http_status
