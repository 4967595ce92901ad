from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
import pytest

from poller.core.model import Secret
from poller.errors import DatabaseAway, NoSuchChannel, Unavailable
from poller.ops import server
from poller.ops.guard import Guard
from tests.ops.things import Lines, recorder

TOKEN = "hunter2canary"


@dataclass
class Wishes:
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    metrics_path: str = "/metrics"
    admin_token: Secret | None = None


@dataclass
class Console:
    """A daemon in whatever state a test wants it."""

    live: bool = True
    started: bool = True
    ready: dict[str, str] = field(default_factory=lambda: {"database": "ok"})
    told: dict[str, Any] = field(default_factory=lambda: {"status": "ok", "usable_channels": 2})
    trouble: Exception | None = None
    done: list[tuple[str, object]] = field(default_factory=list)
    hang: bool = False

    def is_live(self) -> bool:
        return self.live

    def is_started(self) -> bool:
        return self.started

    async def checks(self) -> dict[str, str]:
        if self.hang:
            await anyio.sleep_forever()
        return self.ready

    async def status(self) -> dict[str, Any]:
        if self.trouble:
            raise self.trouble
        return {"at": datetime(2026, 1, 1, tzinfo=UTC), "lanes": [{"lag_s": float("nan")}]}

    async def health(self) -> dict[str, Any]:
        return self.told

    async def _act(self, name: str, subject: object) -> None:
        if self.trouble:
            raise self.trouble
        self.done.append((name, subject))

    async def trigger(self) -> None:
        await self._act("trigger", None)

    async def pause(self, channel_id: int | None) -> None:
        await self._act("pause", channel_id)

    async def resume(self, channel_id: int | None) -> None:
        await self._act("resume", channel_id)


@contextlib.asynccontextmanager
async def side_port(console: Console, **wishes: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Lines]]:
    told, lines, _ = recorder()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            port = await group.start(server.serve, Wishes(**wishes), console, told)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                yield client, lines
            group.cancel_scope.cancel()


async def test_metrics_are_served_in_both_formats():
    async with side_port(Console()) as (client, _):
        classic = await client.get("/metrics")
        modern = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert classic.status_code == 200
    assert classic.headers["content-type"].startswith("text/plain")
    assert "custompass_tasks_in_queue" in classic.text
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


async def test_metrics_can_live_elsewhere():
    async with side_port(Console(), metrics_path="/custom") as (client, _):
        assert (await client.get("/custom")).status_code == 200
        assert (await client.get("/metrics")).status_code == 404


@pytest.mark.parametrize(("path", "field_name"), [("/livez", "live"), ("/startupz", "started")])
async def test_liveness_and_start_follow_the_daemon(path: str, field_name: str):
    console = Console()
    async with side_port(console) as (client, _):
        assert (await client.get(path)).status_code == 200
        setattr(console, field_name, False)
        assert (await client.get(path)).status_code == 503


async def test_readiness_lists_its_checks_when_asked_and_when_not_ready():
    console = Console(ready={"database": "ok", "leases": "ok"})
    async with side_port(console) as (client, _):
        assert (await client.get("/readyz")).text == "ok\n"
        assert (await client.get("/readyz?verbose")).text == "[+]database ok\n[+]leases ok\nok\n"
        console.ready["database"] = "network: refused"
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "[-]database network: refused" in answer.text


async def test_a_check_that_hangs_is_not_ready_and_liveness_does_not_care(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "_CHECKS_LIMIT_S", 0.05)
    async with side_port(Console(hang=True)) as (client, _):
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"status": "ok", "usable_channels": 1}, 200),
        ({"status": "ok"}, 200),
        ({"status": "ok", "usable_channels": 0}, 500),
        ({"status": "unavailable", "usable_channels": 0}, 500),
        ({"status": "unavailable"}, 503),
    ],
)
async def test_health_is_500_when_nobody_can_be_asked(told: dict[str, Any], code: int):
    async with side_port(Console(told=told)) as (client, _):
        answer = await client.get("/healthz")
    assert answer.status_code == code
    assert answer.json() == told


async def test_status_is_json_whatever_is_in_it():
    async with side_port(Console()) as (client, _):
        answer = await client.get("/status")
    assert answer.json() == {"at": "2026-01-01 00:00:00+00:00", "lanes": [{"lag_s": None}]}
    assert answer.headers["cache-control"] == "no-store"


async def test_a_database_that_is_away_is_said_and_not_a_crash():
    async with side_port(Console(trouble=DatabaseAway("network", "refused"))) as (client, _):
        for answer in (await client.get("/status"), await client.post("/trigger")):
            assert answer.status_code == 503
            assert answer.json() == {"error": "network: refused"}


async def test_actions_from_loopback_need_no_token():
    console = Console()
    async with side_port(console) as (client, lines):
        assert (await client.post("/trigger")).status_code == 202
        assert (await client.post("/pause")).json() == {"status": "ok", "paused": "all"}
        assert (await client.post("/resume?channel=7")).json() == {"status": "ok", "resumed": 7}
    assert console.done == [("trigger", None), ("pause", None), ("resume", 7)]
    assert [event["action"] for event in lines.events if event["event"] == "admin_acted"] == [
        "trigger",
        "pause",
        "resume",
    ]


@pytest.mark.parametrize("path", ["/pause", "/resume"])
@pytest.mark.parametrize(
    "slip",
    [
        *({"params": {"channel": value}} for value in ("x", "-1", "1.5", "٣", "9" * 30, "", " 2")),
        {"params": {"channel_id": "2"}},
        {"params": {"chanel": "2"}},
        {"params": {"channel": "2", "dry_run": "1"}},
        {"params": [("channel", "2"), ("channel", "3")]},
        {"json": {"channel": 2}},
        {"data": {"channel": "2"}},
        {"params": {"channel": "2"}, "content": b"x"},
    ],
)
async def test_whatever_does_not_name_one_channel_is_refused_and_never_means_all(path: str, slip: dict[str, Any]):
    console = Console()
    async with side_port(console) as (client, lines):
        answer = await client.post(path, **slip)
        assert answer.status_code == 400
        assert "expected ?channel=N for one channel, or no parameter for all" in answer.json()["error"]
        assert console.done == []
        assert [event["event"] for event in lines.events if event["event"].startswith("admin")] == ["admin_refused"]


async def test_a_channel_that_is_not_there_is_404_and_one_line():
    async with side_port(Console(trouble=NoSuchChannel(999))) as (client, lines):
        answer = await client.post("/pause", params={"channel": "999"})
        assert [event for event in lines.events if event["event"] == "admin_acted"] == []
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("channel 999: no such channel")


async def test_an_act_is_logged_with_the_channel_that_it_is_about():
    async with side_port(Console()) as (client, lines):
        assert (await client.post("/pause", params={"channel": "7"}, content=b"")).json()["paused"] == 7
    (acted,) = [event for event in lines.events if event["event"] == "admin_acted"]
    assert acted["channel_id"] == 7


@pytest.mark.parametrize("path", ["/trigger", "/pause", "/resume"])
async def test_reading_methods_do_nothing(path: str):
    console = Console()
    async with side_port(console) as (client, _):
        assert (await client.get(path)).status_code == 405
    assert console.done == []


async def test_with_a_token_only_its_bearer_may_act():
    console = Console()
    async with side_port(console, admin_token=Secret(TOKEN)) as (client, lines):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = await client.post("/trigger", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in answer.text
        assert (await client.post("/trigger", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 202
        assert (await client.get("/metrics")).status_code == 200
    assert len(console.done) == 1
    assert TOKEN not in repr(lines.events)


@pytest.mark.parametrize(
    ("headers", "peer"),
    [
        ({"host": "127.0.0.1:9090"}, "10.0.0.7"),
        ({"host": "127.0.0.1:9090"}, ""),
        ({"host": "127.0.0.1:9090", "origin": "https://evil.example"}, "127.0.0.1"),
        ({"host": "127.0.0.1:9090", "origin": "null"}, "127.0.0.1"),
        ({"host": "127.0.0.1:9090", "origin": "http://[bad"}, "127.0.0.1"),
        ({"host": "127.0.0.1:9090", "sec-fetch-site": "cross-site"}, "127.0.0.1"),
        ({"host": "evil.example:9090", "origin": "http://evil.example:9090"}, "127.0.0.1"),
        ({"host": "127.0.0.1:9090", "x-forwarded-for": "127.0.0.1"}, "127.0.0.1"),
        ({"host": "[bad"}, "127.0.0.1"),
        ({}, "127.0.0.1"),
    ],
)
def test_without_a_token_strangers_and_foreign_pages_may_not_act(headers: dict[str, str], peer: str):
    refusal = Guard(None).refusal(peer, headers)
    assert refusal is not None
    assert refusal.status == 403


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_every_loopback_address_is_loopback(peer: str):
    assert Guard(None).refusal(peer, {"host": "localhost:9090"}) is None


async def test_a_foreign_origin_is_refused_even_with_the_token():
    async with side_port(Console(), admin_token=Secret(TOKEN)) as (client, _):
        headers = {"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}
        assert (await client.post("/trigger", headers=headers)).status_code == 403


async def test_a_taken_port_is_one_clear_line():
    told = recorder()[0]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1 port {port}") as refused:
            await server.serve(Wishes(metrics_port=port), Console(), told)
    assert refused.value.exit_code == 69
    assert "\n" not in str(refused.value)


async def test_probes_are_not_logged():
    async with side_port(Console()) as (client, lines):
        for path in ("/livez", "/readyz", "/metrics", "/nothing"):
            await client.get(path)
    assert [event["event"] for event in lines.events] == ["side_port_opened"]


async def test_the_port_is_free_again_after_a_stop():
    told = recorder()[0]
    ports = []
    for wanted in (0, None):
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                port = wanted if wanted is not None else ports[0]
                ports.append(await group.start(server.serve, Wishes(metrics_port=port), Console(), told))
                group.cancel_scope.cancel()
    assert ports[0] == ports[1]


async def test_a_client_that_stays_connected_does_not_hold_up_a_stop():
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            port = await group.start(server.serve, Wishes(), Console(), recorder()[0])
            stream = await anyio.connect_tcp("127.0.0.1", port)
            await stream.send(b"GET /livez HTTP/1.1\r\n")
            group.cancel_scope.cancel()
        await stream.aclose()


async def test_whoever_holds_connections_open_keeps_no_probe_out():
    async with side_port(Console()) as (client, _):
        held = [await asyncio.open_connection("127.0.0.1", client.base_url.port) for _ in range(300)]
        for _ in range(3):
            assert (await client.get("/livez", headers={"Connection": "close"})).status_code == 200
        for reader, writer in held[:150]:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        held[-1][1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in await held[-1][0].readline()
        for _, writer in held:
            writer.close()


async def test_however_many_ask_for_the_status_few_at_a_time_use_the_database():
    busy = most = 0

    class Slow(Console):
        async def status(self) -> dict[str, Any]:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await anyio.sleep(0.05)
            busy -= 1
            return {}

    async with side_port(Slow()) as (client, _), anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(client.get, "/status")
        assert (await client.get("/livez")).status_code == 200
    assert 0 < most <= 4


async def test_metrics_and_liveness_answer_while_the_database_leaves_every_status_waiting():
    class Stuck(Console):
        async def status(self) -> dict[str, Any]:
            await anyio.sleep_forever()
            raise AssertionError

    async with side_port(Stuck()) as (client, _), anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(client.get, "/status")
        with anyio.fail_after(5):
            assert (await client.get("/metrics")).status_code == 200
            assert (await client.get("/livez")).status_code == 200
        group.cancel_scope.cancel()


async def test_signals_stay_the_daemons():
    before = signal.getsignal(signal.SIGTERM)
    async with side_port(Console()):
        assert signal.getsignal(signal.SIGTERM) is before
