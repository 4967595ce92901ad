"""The side port: metrics, probes, status and the three things that may be done from outside.

It runs in the daemon's own event loop, so that a loop that hangs fails its probes. Probe requests are not logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

import anyio
import anyio.to_thread
import uvicorn
from anyio.abc import TaskStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from poller.core.model import Secret
from poller.errors import NoSuchChannel, PollerError, Unavailable
from poller.ops.guard import Guard, subject
from poller.ops.recorder import Recorder

_CHECKS_LIMIT_S = 5.0
_WORK_LIMIT_S = 10.0
_STOP_S = 1
_CONNECTIONS, _AT_ONCE = 100, 4
_PLAIN_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Console(Protocol):
    """The daemon as its operators meet it."""

    def is_live(self) -> bool:
        """Whether the loops turn; touches no dependency."""

    def is_started(self) -> bool:
        """Whether start-up is over."""

    async def checks(self) -> dict[str, str]:
        """What readiness rests on: name → ``ok`` or what is wrong."""

    async def status(self) -> dict[str, Any]:
        """All there is to show."""

    async def health(self) -> dict[str, Any]:
        """``status`` and counts; ``usable_channels`` 0 means that nobody can be asked."""

    async def trigger(self) -> None:
        """Poll everything active now."""

    async def pause(self, channel_id: int | None) -> None:
        """Ask nothing new of one channel, or of all."""

    async def resume(self, channel_id: int | None) -> None:
        """Lift a pause."""


class Wishes(Protocol):
    """The settings that concern the side port."""

    @property
    def metrics_host(self) -> str:
        """Address to listen on."""

    @property
    def metrics_port(self) -> int:
        """Port to listen on; 0 for any free one."""

    @property
    def metrics_path(self) -> str:
        """Where the metrics are."""

    @property
    def admin_token(self) -> Secret | None:
        """What lets a stranger act."""


async def serve(
    wishes: Wishes, console: Console, recorder: Recorder, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Answer until cancelled; reports the port once it listens. Raises Unavailable when the port cannot be had."""
    with _listening(wishes.metrics_host, wishes.metrics_port) as listener:
        server = _Server(
            uvicorn.Config(
                SidePort(wishes, console, recorder).app(),
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=_STOP_S,
                http=_Connection,
            )
        )

        async def answer() -> None:
            # Only told to stop, never torn: uvicorn closes its connections on its own way out.
            with anyio.CancelScope(shield=True):
                await server.serve([listener])

        async with anyio.create_task_group() as group:
            group.start_soon(answer)
            try:
                await server.is_up.wait()
                port = int(listener.getsockname()[1])
                recorder.event("info", "side_port_opened", host=wishes.metrics_host, port=port)
                task_status.started(port)
                await anyio.sleep_forever()
            finally:
                server.should_exit = True


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise Unavailable(
            f"METRICS_PORT: cannot listen on {host} port {port} ({error.strerror});"
            " stop what holds it, or set METRICS_PORT or METRICS_HOST to something else"
        ) from error
    with listener:
        yield listener


class _Server(uvicorn.Server):
    """uvicorn with its hands off the signals: they are the daemon's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


class _Connection(H11Protocol):
    """One connection of at most so many: a new one ends the oldest. Whoever holds them all open keeps no probe out."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.began_s = self.loop.time()
        if len(self.connections) >= _CONNECTIONS:
            oldest = min(self.connections, key=lambda each: getattr(each, "began_s", 0.0))
            # At once: the transport tells of its end a turn of the loop later, and many may come in one.
            self.connections.discard(oldest)
            oldest.transport.abort()
        super().connection_made(transport)


class SidePort:
    """The routes of the side port as an ASGI application."""

    def __init__(self, wishes: Wishes, console: Console, recorder: Recorder) -> None:
        self._console = console
        self._recorder = recorder
        self._metrics_path = wishes.metrics_path
        self._guard = Guard(wishes.admin_token)
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._few_at_a_time = anyio.CapacityLimiter(_AT_ONCE)

    def app(self) -> Starlette:
        """The application; needs no lifespan."""
        readers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            self._metrics_path: self._metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/startupz": self._startupz,
            "/healthz": self._healthz,
            "/status": self._status,
        }
        routes = [Route(path, self._bounded(reader), methods=["GET"]) for path, reader in readers.items()]
        actions = {"/trigger": self._trigger, "/pause": self._pause, "/resume": self._resume}
        routes += [Route(path, self._guarded(action), methods=["POST"]) for path, action in actions.items()]
        return Starlette(routes=routes)

    def _bounded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """*handler* under a time limit, its errors as answers: one line of our own words, never a traceback.

        Of those that need the database few at a time, whoever asks how often: the lanes need it more than any stranger.
        """
        is_free = handler in (self._livez, self._startupz, self._metrics)

        async def answer(request: Request) -> Response:
            try:
                with anyio.fail_after(_WORK_LIMIT_S):
                    async with contextlib.nullcontext() if is_free else self._few_at_a_time:
                        response = await handler(request)
            except TimeoutError:
                response = JSONResponse({"error": "the database did not answer in time"}, 503)
            except NoSuchChannel as slip:
                response = JSONResponse({"error": str(slip)}, 404)
            except PollerError as error:
                response = JSONResponse({"error": str(error)}, 503)
            response.headers.update(_PLAIN_HEADERS)
            return response

        return answer

    def _guarded(self, action: Callable[[int | None], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            peer = request.client.host if request.client else ""
            channel_id, refusal = None, self._guard.refusal(peer, request.headers)
            if refusal is None and action != self._trigger:
                channel_id, refusal = await subject(request.query_params.multi_items(), request.stream())
            facts = {"action": request.url.path.removeprefix("/"), "peer": peer}
            if refusal is not None:
                self._recorder.event("warning", "admin_refused", **facts, reason=refusal.reason)
                headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
                return JSONResponse({"error": refusal.reason}, refusal.status, headers)
            response = await action(channel_id)
            self._recorder.event("info", "admin_acted", **facts, channel_id=channel_id)
            return response

        return self._bounded(answer)

    async def _metrics(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        metrics = self._recorder.metrics
        body, content_type = await anyio.to_thread.run_sync(metrics.exposition, accept, limiter=self._one_at_a_time)
        return Response(body, headers={"Content-Type": content_type})

    async def _livez(self, _request: Request) -> Response:
        is_live = self._console.is_live()
        return PlainTextResponse("ok\n" if is_live else "a loop does not turn\n", 200 if is_live else 503)

    async def _startupz(self, _request: Request) -> Response:
        is_started = self._console.is_started()
        return PlainTextResponse("ok\n" if is_started else "not started yet\n", 200 if is_started else 503)

    async def _readyz(self, request: Request) -> Response:
        try:
            with anyio.fail_after(_CHECKS_LIMIT_S):
                checks = await self._console.checks()
        except TimeoutError:
            checks = {"checks": "no answer in time"}
        is_ready = all(said == "ok" for said in checks.values())
        lines = [f"[{'+' if said == 'ok' else '-'}]{name} {said}" for name, said in checks.items()]
        shown = "verbose" in request.query_params or not is_ready
        text = "\n".join([*(lines if shown else []), "ok" if is_ready else "not ready"])
        return PlainTextResponse(text + "\n", 200 if is_ready else 503)

    async def _healthz(self, _request: Request) -> Response:
        health = await self._console.health()
        return JSONResponse(_jsonable(health), health_code(health))

    async def _status(self, _request: Request) -> Response:
        return JSONResponse(_jsonable(await self._console.status()))

    async def _trigger(self, _channel_id: int | None) -> Response:
        await self._console.trigger()
        return JSONResponse({"status": "ok", "triggered": "all"}, 202)

    async def _pause(self, channel_id: int | None) -> Response:
        await self._console.pause(channel_id)
        return JSONResponse({"status": "ok", "paused": "all" if channel_id is None else channel_id})

    async def _resume(self, channel_id: int | None) -> Response:
        await self._console.resume(channel_id)
        return JSONResponse({"status": "ok", "resumed": "all" if channel_id is None else channel_id})


def health_code(health: Mapping[str, Any]) -> int:
    """500 when nobody can be asked, as gateways' runbooks expect; 503 for any other trouble."""
    if health.get("usable_channels") == 0:
        return 500
    return 200 if health.get("status") == "ok" else 503


def _jsonable(value: object) -> Any:
    """*value* with whatever JSON has no word for (times, above all) as text."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)
