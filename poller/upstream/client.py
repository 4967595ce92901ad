"""One exchange with an upstream: ids out, an answer back, or ``AskFailed`` with our own words for why not.

httpx is the interface and aiohttp does the work beneath it (`httpx-aiohttp`), because httpx's own pool loses slots for
good when requests are cancelled, and the deadline of an ask is a cancellation. Only this module knows; the transport is
called without ``httpx.AsyncClient`` round it, whose cookie jar, redirects, ``.netrc`` and environment are all unwanted
here and cost a third of a request.
"""

from __future__ import annotations

import functools
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import anyio
import anyio.to_thread
import certifi
import httpx
from httpx_aiohttp import AiohttpTransport

from poller.core.decide import NOT_FOUND
from poller.core.evidence import is_echoed, redacted
from poller.core.model import Answer, Channel, Route, Secret, StatusWords
from poller.errors import AskFailed, AskReason, Misconfigured
from poller.upstream.body import Body, Room, read_capped
from poller.upstream.connector import Connector, SocksConnector
from poller.upstream.dial import CONNECT_TIMEOUT_S, Dial, current_dial
from poller.upstream.faults import HTTP_ERRORS, failure_of, failure_of_status, is_connection_lost, redirect_host
from poller.upstream.headers import request_headers
from poller.upstream.target import Proxies, Proxy, target_of
from poller.upstream.wire import ask_body, read_answer

SESSION_LIFETIME_S: Final = 300.0
"""Connections are opened anew this often, so that a changed DNS record is followed."""
KEEP_ALIVE_S: Final = 60.0
THREAD_FROM_BYTES: Final = 64 * 1024
"""Answers above this are read in a worker thread: the loop must not stand still for them."""
CLOSE_TIMEOUT_S: Final = 2.0

Secrets = Sequence[Secret | None]
"""What was sent with a request and must not come back to light."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What every lane's client has to keep to, and the way out of this network."""

    task_timeout_s: float
    """One exchange, from start to last byte, where the channel has no time-out of its own."""
    http_timeout_s: float
    """Longest silence while reading."""
    max_response_bytes: int
    connections: int
    """Open connections of one lane."""
    ca_file: str | None = None
    """PEM bundle trusted beside the public authorities."""
    http_proxy: Secret | None = None
    https_proxy: Secret | None = None
    no_proxy: tuple[str, ...] = ()
    room: Room = field(default_factory=Room, compare=False)


class _Session:
    """A pool of connections, through one proxy or none, that is retired as a whole."""

    def __init__(self, limits: Limits, proxy: Proxy | None) -> None:
        tls = _tls_context(limits.ca_file)
        pool: dict[str, Any] = {"ssl": tls, "limit": limits.connections, "keepalive_timeout": KEEP_ALIVE_S}
        is_socks = proxy is not None and proxy.is_socks
        connector = SocksConnector(proxy, **pool) if proxy and is_socks else Connector(**pool)
        self.transport = AiohttpTransport(
            verify=tls,
            trust_env=False,
            proxy=httpx.Proxy(proxy.url.reveal(), headers=proxy.headers()) if proxy and not is_socks else None,
            client=aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                skip_auto_headers=("Accept", "User-Agent"),
            ),
        )
        self.proxy = proxy
        self.ends_s = time.monotonic() + SESSION_LIFETIME_S
        self.in_flight = 0

    async def close(self) -> None:
        """Close every connection, in a bounded time, also while the caller is being cancelled."""
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await self.transport.aclose()


class Client:
    """Asks the upstream of one lane. Nothing is opened before the first ask.

    Raises ``Misconfigured`` when the CA file cannot be used.
    """

    def __init__(self, channel: Channel, limits: Limits) -> None:
        _tls_context(limits.ca_file)
        self.channel_id = channel.id
        self._limits = limits
        self._proxies = Proxies(limits.http_proxy, limits.https_proxy, limits.no_proxy)
        self._session: _Session | None = None
        self._retired: set[_Session] = set()
        self._large = anyio.Semaphore(1)
        self._reading = anyio.Semaphore(1)

    async def ask(
        self, channel: Channel, route: Route, ids: Sequence[str], *, needs_own_connection: bool = False
    ) -> Answer:
        """One exchange about *ids*, without retries, in at most the channel's (or else the task) time-out.

        *channel* is the lane's channel as last read: address, proxy and time-out are taken from it. An answer with
        strangers may be another request's; the connections it came over are not used again. One that names nobody
        shows nothing of the kind: *needs_own_connection* has the request sent over one on which no other request's
        answer can come. Raises ``AskFailed``.
        """
        target = target_of(channel.base_url, route.model, channel.proxy, self._proxies)
        headers = request_headers(channel, route)
        if target.proxy and target.url.scheme == "http":
            headers |= target.proxy.headers()  # forwarded, not tunnelled: the proxy reads the request's own headers
        content = ask_body(ids)
        secrets = (route.key, route.client_token)
        limits = self._limits
        deadline_s = channel.timeout_s or limits.task_timeout_s
        silence_s = min(limits.http_timeout_s, deadline_s)
        timeouts = {"connect": CONNECT_TIMEOUT_S, "read": silence_s, "write": silence_s, "pool": None}

        if needs_own_connection:
            session = _Session(limits, target.proxy)
            self._retire(session)
        else:
            session = await self._open_session(target.proxy)
        session.in_flight += 1
        try:
            request = httpx.Request(
                "POST", target.url, headers=headers, content=content, extensions={"timeout": timeouts}
            )
            async with AsyncExitStack() as held:

                async def make_room() -> None:
                    await held.aclose()  # an exchange that was cut short may have had some
                    await held.enter_async_context(self._large)
                    await held.enter_async_context(limits.room.large)

                exchange = functools.partial(_exchange, session, request, limits.max_response_bytes, make_room, secrets)
                answer = await self._read(await _exchange_by(deadline_s, exchange), ids, secrets, channel.words)
            if answer.strangers:
                self._retire(session)
        except AskFailed as failed:
            # The frames that it came through hold the body, and whoever keeps the failure would keep that too.
            raise failed.with_traceback(None) from None
        finally:
            session.in_flight -= 1
            if session in self._retired and not session.in_flight:
                self._retired.discard(session)
                await session.close()
        return answer

    async def _read(self, body: Body, ids: Sequence[str], secrets: Secrets, words: StatusWords) -> Answer:
        """What *body* says. Where that may take long it is read in a thread, one at a time for each lane."""
        read = functools.partial(_read, body, ids, self._limits.max_response_bytes, secrets, words)
        if not body.is_packed and len(body.raw) <= THREAD_FROM_BYTES:
            return read()
        async with self._reading:
            return await anyio.to_thread.run_sync(read, limiter=self._limits.room.reader)

    async def aclose(self) -> None:
        """Close all connections. Asks still under way fail."""
        if self._session is not None:
            self._retire(self._session)
        while self._retired:
            await self._retired.pop().close()

    async def _open_session(self, proxy: Proxy | None) -> _Session:
        session = self._session
        if session is not None and (session.proxy != proxy or time.monotonic() >= session.ends_s):
            self._retire(session)
            if not session.in_flight:
                self._retired.discard(session)
                await session.close()
        if self._session is None:
            self._session = _Session(self._limits, proxy)
        return self._session

    def _retire(self, session: _Session) -> None:
        """Give *session* no new asks; it is closed when those that it has are done."""
        self._retired.add(session)
        if self._session is session:
            self._session = None


async def _exchange_by(deadline_s: float, exchange: Callable[[], Awaitable[Body]]) -> Body:
    """The body of a good response. Raises nothing but AskFailed, without cause or context, and no secret in it.

    The failure is raised after the ``except`` blocks on purpose: what the HTTP layer raised may hold the key, and an
    exception keeps what it was raised in as its context, for any traceback to print.
    """
    dial = Dial()
    token = current_dial.set(dial)
    try:
        with anyio.fail_after(deadline_s):
            try:
                return await exchange()
            except HTTP_ERRORS as error:
                failure = failure_of(error)
                is_stale = not dial.is_fresh and is_connection_lost(error)
            if is_stale:
                # Upstream closed an idle connection as we wrote: no fault of either side, so it costs no retry.
                try:
                    return await exchange()
                except HTTP_ERRORS as error:
                    failure = failure_of(error)
    except TimeoutError:
        failure = AskFailed(AskReason.TIMEOUT, f"no full answer in {deadline_s:g} s")
    finally:
        current_dial.reset(token)
    raise failure


async def _exchange(
    session: _Session,
    request: httpx.Request,
    max_bytes: int,
    make_room: Callable[[], Awaitable[None]],
    secrets: Secrets,
) -> Body:
    response = await session.transport.handle_async_request(request)
    try:
        if response.status_code != httpx.codes.OK:
            told = response.headers
            leads_to = redirect_host(told.get("location"), secrets) if response.is_redirect else ""
            raise failure_of_status(response.status_code, told.get("retry-after"), leads_to)
        return await read_capped(response, max_bytes, make_room)
    finally:
        await response.aclose()


def _read(body: Body, ids: Sequence[str], max_bytes: int, secrets: Secrets, words: StatusWords) -> Answer:
    plain = body.plain(max_bytes)
    return _redacted(read_answer(plain, ids), plain, secrets, words)


def _redacted(answer: Answer, body: bytes, secrets: Secrets, words: StatusWords) -> Answer:
    """The answer without our own secrets in it: an upstream that echoes its request must not get them stored."""
    echoed = [secret for secret in secrets if secret and is_echoed(secret, body)]
    if not echoed:
        return answer
    known = words.success | words.failed | words.processing | {NOT_FOUND}
    return answer._replace(
        reports={task_id: redacted(report, echoed, known) for task_id, report in answer.reports.items()}
    )


@functools.cache
def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """One context for all lanes (it takes 20 ms to make). SSL_CERT_FILE and SSLKEYLOGFILE have no say in it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(certifi.where())
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise Misconfigured(f"CUSTOM_PASS_CA_FILE: {ca_file} is not a readable PEM bundle") from error
    return context
