"""The rows of the fault table that take more than one answer, server or pass to tell."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import anyio
import pytest

from poller.core import breaker
from poller.core.concurrency import RetryBudget
from poller.upstream import client as client_module
from tests.upstream.conftest import Certificate
from tests.upstream.faults_server import (
    KEY,
    Behaviour,
    Close,
    FaultServer,
    Request,
    answer_of,
    good,
    hangs,
    replies,
    response,
)
from tests.upstream.lossy_link import LossyLink
from tests.upstream.rig import LIFETIME_S, LIMIT_S, MakeRig, Rig
from tests.upstream.test_fault_table import CASES, FAULTS, data, expect, item

HERE: set[str] = set()


def row(name: str) -> Callable[[Any], Any]:
    """Marks a test that is a row of the table."""
    assert name in FAULTS
    HERE.add(name)
    return lambda test: test


def test_every_fault_of_the_catalogue_has_its_row() -> None:
    assert {case.row for case in CASES} | HERE == set(FAULTS)


async def finishes(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(response(answer_of(request.ids, "completed")))


@contextlib.contextmanager
def black_hole(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port on which connecting gets no answer at all, not even a refusal."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket(family))
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(listener.getsockname())
        yield listener.getsockname()[1]


async def keeps(rig: Rig, channel: int, *reasons: str) -> None:
    """A pass over *channel* writes nothing and counts one of *reasons*."""
    before = await rig.picture()
    await rig.walk(channel)
    assert await rig.picture() == before
    assert rig.reasons().keys() & set(reasons), rig.reasons()


# -- the network ----------------------------------------------------------------------------------------------------


@row("N01")
async def test_n01_refused(make_rig: MakeRig) -> None:
    rig = await make_rig()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        channel = await rig.channel(f"http://127.0.0.1:{unused.getsockname()[1]}")
        await rig.task(channel)
        await keeps(rig, channel, "connect")


@row("N02")
async def test_n02_a_black_hole_holds_up_its_own_channel_alone(make_rig: MakeRig) -> None:
    rig = await make_rig(timeout_s=4.0)
    async with FaultServer(finishes) as server:
        with black_hole() as port:
            dark = await rig.channel(f"http://127.0.0.1:{port}")
            bright = await rig.channel(server.url)
            held, done = await rig.task(dark), await rig.task(bright)
            async with anyio.create_task_group() as group:
                group.start_soon(rig.walk, dark)
                await rig.walk(bright)
                assert rig.reasons() == {"ok": 1}
                assert await rig.state(done) == "SUCCESS"
            assert await rig.state(held) == "IN_PROGRESS"
            assert rig.reasons() == {"ok": 1, "timeout": 1}


TLS = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command makes the certificates")


@row("N06")
@TLS
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("fault", ["self-signed", "expired", "wrong host", "too old"])
async def test_n06_no_key_is_sent_over_a_connection_that_is_not_trusted(
    fault: str, make_rig: MakeRig, certificate: Certificate
) -> None:
    context, pem = certificate(
        "DNS:other.test" if fault == "wrong host" else "IP:127.0.0.1", *(["-days", "-1"] if fault == "expired" else [])
    )
    if fault == "too old":
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
    rig = await make_rig(ca_file=None if fault == "self-signed" else pem)
    async with FaultServer(finishes, context) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        # How a client of today learns that a server is too old depends on who hangs up first.
        await keeps(rig, channel, "tls", *(["connect"] if fault == "too old" else []))
        assert server.requests == []


@row("N06")
async def test_n06_a_stalled_handshake_ends_with_the_deadline(make_rig: MakeRig) -> None:
    rig = await make_rig(timeout_s=0.3)
    async with FaultServer(good) as server:  # waits for the end of a request that a ClientHello never has
        channel = await rig.channel(server.url.replace("http:", "https:"))
        await rig.task(channel)
        await keeps(rig, channel, "timeout")


@row("N06")
@TLS
async def test_n06_an_authority_of_the_settings_is_trusted(make_rig: MakeRig, certificate: Certificate) -> None:
    context, pem = certificate()
    rig = await make_rig(ca_file=pem)
    async with FaultServer(finishes, context) as server:
        channel = await rig.channel(server.url)
        done = await rig.task(channel)
        await rig.walk(channel)
    assert await rig.state(done) == "SUCCESS"


def resolves(monkeypatch: pytest.MonkeyPatch, look_up: Callable[[int], list[str]]) -> None:
    """``up.test`` has the addresses that *look_up* gives for the number of the look-up."""
    real, count = socket.getaddrinfo, 0

    def fake(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        nonlocal count
        if host != "up.test":
            return real(host, port, *args, **more)
        count += 1
        found = []
        for address in look_up(count):
            found += real(address, port, type=socket.SOCK_STREAM)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", fake)


def no_such_name(count: int) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def server_failure(count: int) -> list[str]:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def slow(count: int) -> list[str]:
    time.sleep(1.0)
    return ["127.0.0.1"]


@row("N07")
@pytest.mark.parametrize(
    ("look_up", "reason"), [(no_such_name, "connect"), (server_failure, "connect"), (slow, "timeout")]
)
async def test_n07_a_name_without_address_is_no_evidence(
    look_up: Callable[[int], list[str]], reason: str, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves(monkeypatch, look_up)
    rig = await make_rig(timeout_s=0.3 if reason == "timeout" else 5.0)
    channel = await rig.channel("http://up.test:1")
    await rig.task(channel)
    await keeps(rig, channel, reason)


@row("N07")
async def test_n07_a_changed_address_is_followed(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SESSION_LIFETIME_S", 0.0)
    resolves(monkeypatch, lambda count: ["127.0.0.1" if count == 1 else "127.0.0.2"])
    rig = await make_rig()
    async with FaultServer(good) as first:
        second = await asyncio.start_server(first._serve, "127.0.0.2", first.port)
        async with second:
            channel = await rig.channel(f"http://up.test:{first.port}")
            await rig.task(channel)
            await rig.walk(channel, passes=2)
            assert rig.reasons() == {"ok": 2}
            assert [request.connection for request in first.requests] == [1, 2]


@row("N08")
@pytest.mark.parametrize(("loss", "least"), [(0.05, 0.99), (0.3, 0.9)])
async def test_n08_lost_segments_make_asks_late_and_nothing_else(
    loss: float, least: float, make_rig: MakeRig, hasty_breaker: None
) -> None:
    """All at a tenth of its length: 20 ms for the first repeat of a segment, 1.5 s for an ask."""
    passes, lanes = 40, 5
    is_over = False

    async def works(request: Request, writer: asyncio.StreamWriter) -> None:
        status = "completed" if is_over else "processing"
        writer.write(response(data(*(item(name, status, result="x" * 200) for name in request.ids))))

    async def cycles(channel: int) -> None:
        for _ in range(passes):
            counts = await rig.walk(channel)
            good_ones.append(not counts.failed_requests)

    rig = await make_rig(timeout_s=1.5, retry_count=3)
    good_ones: list[bool] = []
    async with FaultServer(works) as server, LossyLink(server.port, loss=loss, seed=8, timeout_s=0.02) as link:
        channels = [await rig.channel(link.url) for _ in range(lanes)]
        tasks = {channel: [await rig.task(channel) for _ in range(10)] for channel in channels}
        before = await rig.picture()
        async with anyio.create_task_group() as group:
            for channel in channels:
                group.start_soon(cycles, channel)
        assert link.lost > passes * lanes * loss
        assert sum(good_ones) >= least * passes * lanes
        assert await rig.picture() == before
        assert set(rig.reasons()) <= {"ok", "timeout", "circuit_open"}
        is_over = True
        for channel in channels:
            await until_settled(rig, channel, tasks[channel])
    assert not rig.anomalies()


@row("N09")
async def test_n09_a_thin_line_gets_smaller_requests_until_all_is_settled(
    make_rig: MakeRig, hasty_breaker: None
) -> None:
    async def thin(request: Request, writer: asyncio.StreamWriter) -> None:
        whole = response(data(*(item(name, result="x" * 1000) for name in request.ids)))
        for start in range(0, len(whole), 400):
            writer.write(whole[start : start + 400])
            await writer.drain()
            await asyncio.sleep(0.02)

    rig = await make_rig(timeout_s=0.6, batch_size=32)
    async with FaultServer(thin) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(40)]
        await until_settled(rig, channel, tasks)


async def until_settled(rig: Rig, channel: int, tasks: list[int]) -> int:
    """Walk until every one of *tasks* is a success; how many passes that took."""
    passes = 0
    with anyio.fail_after(LIMIT_S):
        while {await rig.state(pk) for pk in tasks} != {"SUCCESS"}:
            await rig.walk(channel)
            passes += 1
    return passes


@row("N10")
async def test_n10_a_connection_closed_as_we_write_costs_neither_the_ask_nor_a_retry(make_rig: MakeRig) -> None:
    async def forgets(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number == 2:
            raise Close
        await good(request, writer)

    rig = await make_rig()
    async with FaultServer(forgets) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        await rig.walk(channel, passes=2)
        assert rig.reasons() == {"ok": 2}
        assert [request.connection for request in server.requests] == [1, 1, 2]


@row("N11")
@pytest.mark.parametrize("delay_s", [0.0, 0.05])
async def test_n11_one_answer_too_many_is_never_taken_for_the_next(delay_s: float, make_rig: MakeRig) -> None:
    async def talkative(request: Request, writer: asyncio.StreamWriter) -> None:
        await good(request, writer)
        if delay_s:
            await writer.drain()
            await asyncio.sleep(delay_s)
        writer.write(response(answer_of(["job-1", "job-2"], "failed")))

    rig = await make_rig(batch_size=1)
    async with FaultServer(talkative) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(2)]
        before = await rig.picture()
        for _ in range(4):
            await rig.walk(channel)
            await anyio.sleep(2 * delay_s)
        await expect(rig, tasks, ("keep", "keep"), before)


@row("N12")
async def test_n12_answers_after_the_deadline_are_dropped_and_leave_no_slot_behind(make_rig: MakeRig) -> None:
    async def late_at_first(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number <= 4:
            await asyncio.sleep(0.4)
        await finishes(request, writer)

    rig = await make_rig(timeout_s=0.2, batch_size=1, slots=4)
    async with FaultServer(late_at_first) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(4)]
        before = await rig.picture()
        await rig.walk(channel)
        await expect(rig, tasks, ("keep",) * 4, before)
        assert rig.gate._slots.in_use == 0
        await rig.walk(channel)
        assert {await rig.state(pk) for pk in tasks} == {"SUCCESS"}
        assert rig.reasons() == {"timeout": 4, "ok": 4}


@row("N13")
async def test_n13_nothing_in_the_environment_redirects_a_request(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    async with FaultServer(finishes) as server, FaultServer(hangs) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
        rig = await make_rig()
        channel = await rig.channel(server.url)
        done = await rig.task(channel)
        await rig.walk(channel)
        assert proxy.connections == 0
    assert await rig.state(done) == "SUCCESS"
    assert list(tmp_path.iterdir()) == []


@row("N14")
async def test_n14_a_dead_ipv6_address_is_passed_over(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    async with FaultServer(finishes) as server:
        try:
            hole = black_hole("::1", server.port)
            hole.__enter__()
        except OSError:
            pytest.skip("no IPv6 on loopback here")
        try:
            resolves(monkeypatch, lambda count: ["::1", "127.0.0.1"])
            rig = await make_rig()
            channel = await rig.channel(f"http://up.test:{server.port}")
            done = await rig.task(channel)
            await rig.walk(channel)
        finally:
            hole.__exit__(None, None, None)
    assert await rig.state(done) == "SUCCESS"


@row("N15")
async def test_n15_fast_channels_keep_their_pace_beside_a_slow_one(make_rig: MakeRig) -> None:
    rig = await make_rig(timeout_s=30.0, slots=10)
    async with FaultServer(good) as server, FaultServer(hangs) as mute:
        slow_one = await rig.channel(mute.url)
        await rig.task(slow_one)
        fast = [await rig.channel(server.url) for _ in range(9)]
        for channel in fast:
            await rig.task(channel)
        await rig.hold()
        async with anyio.create_task_group() as group:
            group.start_soon(rig.lane(slow_one).walk)
            async with anyio.create_task_group() as fast_ones:
                for channel in fast:
                    fast_ones.start_soon(rig.walk, channel, 5)
            assert mute.requests
            assert rig.reasons().keys() == {"ok"}
            group.cancel_scope.cancel()
    assert rig.reasons()["ok"] == 45


@row("N16")
async def test_n16_healing_after_an_outage_costs_each_channel_one_request_more(
    make_rig: MakeRig, hasty_breaker: None
) -> None:
    is_up = False

    async def heals(request: Request, writer: asyncio.StreamWriter) -> None:
        if not is_up:
            await asyncio.Event().wait()
        await good(request, writer)

    rig = await make_rig(timeout_s=0.1, batch_size=5)
    async with FaultServer(heals) as server:
        channels = [await rig.channel(server.url) for _ in range(3)]
        for channel in channels:
            for _ in range(15):
                await rig.task(channel)
        await rig.hold()
        async with anyio.create_task_group() as group:
            for channel in channels:
                group.start_soon(rig.walk, channel, 2)
        assert all(rig.lane(channel).asker.breaker.state != "closed" for channel in channels)
        is_up, asked = True, len(server.requests)
        async with anyio.create_task_group() as group:
            for channel in channels:
                group.start_soon(rig.walk, channel)
        steady = 3 * len(channels)
        assert len(server.requests) - asked <= steady + len(channels)
        asked = len(server.requests)
        for channel in channels:
            await rig.walk(channel)
        assert len(server.requests) - asked == steady


# -- the content ----------------------------------------------------------------------------------------------------


@row("U02")
@pytest.mark.parametrize(
    ("said", "lowest", "highest"),
    [
        ("7", 6, 7),
        ("in a minute", 1, 60),
        ("1000000000", 290, 300),
        ("-1", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
    ],
)
async def test_u02_retry_after_is_a_floor_for_the_whole_lane_and_five_minutes_at_most(
    said: str, lowest: float, highest: float, make_rig: MakeRig
) -> None:
    rig = await make_rig()
    if said == "in a minute":
        said = formatdate(time.time() + 60, usegmt=True)
    async with FaultServer(replies(b"", "429 Slow Down", [f"Retry-After: {said}"])) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        await keeps(rig, channel, "rate_limited")
        assert lowest <= rig.lane(channel).asker.hold_s() <= highest
        (lane,) = await rig.leases.lanes_overview()
        left_s = await rig.gateway.rows(
            "SELECT extract(epoch FROM breaker_until - now())::float8 AS left_s FROM poller.lane"
        )
    assert lane["breaker"] == "closed"
    assert lowest - 5 <= (left_s[0]["left_s"] or 0) <= highest


@row("U03")
async def test_u03_a_refused_key_cools_the_channel_and_fails_no_task(make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=1)
    async with FaultServer(replies(b"", "401 Unauthorized")) as server:
        channel = await rig.channel(server.url, key=KEY)
        for _ in range(breaker.OPENS_AFTER):
            await rig.task(channel)
        await keeps(rig, channel, "auth")
        (lane,) = await rig.leases.lanes_overview()
    assert lane["breaker"] == "open"
    assert [event["event"] for event in rig.lines.events if event["level"] == "error"] == ["poll_failed"]
    assert KEY not in str(rig.lines.events)


@row("U05")
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_u05_a_redirect_is_counted_and_not_followed_and_its_host_is_said(status: str, make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(finishes) as other:
        target = other.url.replace("127.0.0.1", "localhost").replace("//", "//us:pw@")
        moved = replies(b"", status, [f"Location: {target}/elsewhere?key={KEY}"])
        async with FaultServer(moved) as server:
            channel = await rig.channel(server.url)
            await rig.task(channel)
            await keeps(rig, channel, "redirect")
        assert other.connections == 0
    (said,) = [event for event in rig.lines.events if event["event"] == "poll_failed"]
    assert said["error"] == f"HTTP {status.split()[0]} to localhost"
    assert not any(part in str(rig.lines.events) for part in (KEY, "elsewhere", "us:pw", str(other.port)))


@row("U05")
@pytest.mark.parametrize(
    "location", ["", "/login", "//", "http://[", "http://" + "a" * 300, f"http://{KEY}/", f"http://x.{KEY[:14]}.up/"]
)
async def test_u05_a_redirect_to_nowhere_that_may_be_shown_names_no_host(location: str, make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(replies(b"", "302 Found", [f"Location: {location}"])) as server:
        channel = await rig.channel(server.url, key=KEY)
        await rig.task(channel)
        await keeps(rig, channel, "redirect")
    assert [event["error"] for event in rig.lines.events if event["event"] == "poll_failed"] == ["HTTP 302"]


@row("U19")
async def test_u19_an_answer_about_another_channels_task_moves_nothing_there(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(replies(data(item("job-1", "failed"), item("job-2", "failed")))) as server:
        first, second = await rig.channel(server.url), await rig.channel(server.url)
        tasks = [await rig.task(first), await rig.task(second)]
        before = await rig.picture()
        await rig.walk(first)
        await expect(rig, tasks, ("failure", "keep"), before)
        assert rig.anomalies()["stranger"] == 1


@row("U20")
async def test_u20_two_rows_with_one_id_are_each_settled_once_and_two_users_of_it_are_said(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(replies(data(item("job-x", "failed")))) as server:
        channel = await rig.channel(server.url)
        same = {"private_data": '{"upstream_task_id": "job-x"}'}
        tasks = [await rig.task(channel, **same) for _ in range(2)]
        before = await rig.picture()
        await rig.walk(channel, passes=2)
        await expect(rig, tasks, ("failure", "failure"), before)
        assert [request.ids for request in server.requests] == [["job-x"]]
        assert rig.anomalies()["id_of_two_users"] == 1


@row("U23")
async def test_u23_a_settled_task_is_never_asked_about_again(make_rig: MakeRig) -> None:
    async def regresses(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids, "completed" if request.number == 1 else "processing")))

    rig = await make_rig()
    async with FaultServer(regresses) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        await rig.walk(channel)
        after = await rig.picture()
        await rig.walk(channel, passes=3)
        assert await rig.picture() == after
        assert len(server.requests) == 1


def changes_its_mind(first: str, then: str) -> Behaviour:
    """Says *first* in its first answer, *then* from then on; a success has used 100 tokens."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        word = first if request.number == 1 else then
        usage = {"prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100}
        writer.write(response(data(*(item(name, word, usage=usage) for name in request.ids))))

    return behave


@row("U24")
@pytest.mark.parametrize(("first", "then"), [("completed", "failed"), ("failed", "completed")])
async def test_u24_a_verdict_that_flips_after_it_was_settled_moves_no_money_and_calls_a_person(
    first: str, then: str, profile_name: str, make_rig: MakeRig
) -> None:
    rig = await make_rig(profile_name)
    async with FaultServer(changes_its_mind(first, then)) as server:
        channel = await rig.channel(server.url)
        pk = await rig.task(channel, state="IN_PROGRESS")
        stale = (await rig.picture())["tasks"][0]
        await rig.walk(channel)
        settled = await rig.picture()
        await rig.save(stale)
        await rig.walk(channel, passes=2)
        after = await rig.picture()
        assert len(server.requests) == 2
    assert await rig.state(pk) == ("SUCCESS" if first == "completed" else "FAILURE")
    assert all(after[table] == settled[table] for table in ("users", "tokens", "channels", "logs", "ledger"))
    assert {name: after["tasks"][0][name] for name in ("status", "progress", "quota")} == {
        name: settled["tasks"][0][name] for name in ("status", "progress", "quota")
    }
    (said,) = [event for event in rig.lines.events if event["event"] == "upstream_flipped"]
    outcomes = {"completed": "success", "failed": "failure"}
    assert (said["level"], said["task_pk"], said["channel_id"]) == ("error", pk, channel)
    assert (said["settled"], said["said"]) == (outcomes[first], outcomes[then])
    assert rig.anomalies()["upstream_flip"] == 1


@row("U24")
async def test_u24_a_task_given_up_that_ends_after_all_is_no_flip(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(changes_its_mind("processing", "completed")) as server:
        channel = await rig.channel(server.url)
        pk = await rig.task(channel, age_s=2 * LIFETIME_S)
        stale = (await rig.picture())["tasks"][0]
        await rig.walk(channel)
        await rig.save(stale)
        await rig.walk(channel)
    assert await rig.state(pk) == "FAILURE"
    assert not rig.anomalies()


@row("U28")
async def test_u28_the_same_old_answer_again_and_again_writes_once(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(replies(data(item("job-1", "processing", progress="40%")))) as server:
        channel = await rig.channel(server.url)
        pk = await rig.task(channel, state="SUBMITTED")
        await rig.walk(channel)
        after = await rig.picture()
        assert (await rig.state(pk), after["tasks"][0]["progress"]) == ("IN_PROGRESS", "40%")
        await rig.walk(channel, passes=3)
        assert await rig.picture() == after


@row("U29")
async def test_u29_a_list_cut_after_three_is_asked_for_to_its_end(make_rig: MakeRig) -> None:
    async def cuts(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids[:3], "completed")))

    rig = await make_rig()
    async with FaultServer(cuts) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(8)]
        await rig.walk(channel)
        assert {await rig.state(pk) for pk in tasks} == {"SUCCESS"}
        assert [len(request.ids) for request in server.requests] == [8, 5, 2]


@row("U29")
async def test_u29_a_list_of_the_newest_three_refunds_no_old_task_that_ended_well(make_rig: MakeRig) -> None:
    async def tells_of_the_newest(request: Request, writer: asyncio.StreamWriter) -> None:
        known = [name for name in request.ids if name != "job-2"]
        writer.write(response(answer_of(known[-3:], "completed")))

    rig = await make_rig()
    async with FaultServer(tells_of_the_newest) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel, age_s=2 * LIFETIME_S) for _ in range(8)]
        await rig.walk(channel)
        assert [len(request.ids) for request in server.requests] == [8, 5, 2, 1]
    # Of the second one even an ask about nothing else brought no word.
    assert [await rig.state(pk) for pk in tasks] == ["SUCCESS", "FAILURE", *["SUCCESS"] * 6]


@row("U29")
async def test_u29_an_upstream_silent_about_more_than_three_has_no_old_task_refunded_that_ended_well(
    make_rig: MakeRig,
) -> None:
    async def tells_of_few(request: Request, writer: asyncio.StreamWriter) -> None:
        known = [name for name in request.ids if name != "job-2"]
        writer.write(response(answer_of(known if len(request.ids) <= 3 else [], "completed")))

    rig = await make_rig()
    async with FaultServer(tells_of_few) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel, age_s=2 * LIFETIME_S) for _ in range(8)]
        await rig.walk(channel)
        assert [len(request.ids) for request in server.requests] == [8, 4, 2, 1, 2, 4, 2, 2]
    assert [await rig.state(pk) for pk in tasks] == ["SUCCESS", "FAILURE", *["SUCCESS"] * 6]
    assert rig.anomalies()["silent_about_many"] == 4


@row("U29")
async def test_u29_what_upstream_tells_of_one_model_proves_no_silence_about_another(make_rig: MakeRig) -> None:
    async def tells_of_few_slow_ones(request: Request, writer: asyncio.StreamWriter) -> None:
        is_too_many = "/slow/" in request.line and len(request.ids) > 2
        writer.write(response(answer_of([] if is_too_many else request.ids, "completed")))

    rig = await make_rig()
    async with FaultServer(tells_of_few_slow_ones) as server:
        channel = await rig.channel(server.url)
        quick = [await rig.task(channel, action="quick/submit", age_s=2 * LIFETIME_S) for _ in range(6)]
        slow = [await rig.task(channel, action="slow/submit", age_s=2 * LIFETIME_S) for _ in range(4)]
        await rig.walk(channel)
    assert {await rig.state(pk) for pk in quick + slow} == {"SUCCESS"}


@row("U29")
async def test_u29_silence_about_all_is_believed_of_each_alone_and_of_the_young_at_once(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(replies(answer_of([], "completed"))) as server:
        channel = await rig.channel(server.url)
        old = [await rig.task(channel, age_s=2 * LIFETIME_S) for _ in range(3)]
        young = [await rig.task(channel) for _ in range(5)]
        await rig.walk(channel)
        assert [len(request.ids) for request in server.requests] == [8, 1, 2, 1, 1]
        assert {await rig.state(pk) for pk in old} == {"FAILURE"}
        assert not {await rig.state(pk) for pk in young} & {"SUCCESS", "FAILURE"}
        await rig.walk(channel)
        assert [len(request.ids) for request in server.requests][5:] == [5]


@row("U32")
async def test_u32_an_upstream_slow_in_proportion_gets_batches_that_it_can_answer(
    make_rig: MakeRig, hasty_breaker: None
) -> None:
    async def ponders(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.06 * len(request.ids))
        await finishes(request, writer)

    rig = await make_rig(timeout_s=0.5, batch_size=64)
    async with FaultServer(ponders) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(100)]
        await until_settled(rig, channel, tasks)


@row("U34")
async def test_u34_an_upstream_that_fails_every_second_time_is_settled_without_a_storm(
    make_rig: MakeRig, hasty_breaker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, asks = random.Random(5), 0
    count = RetryBudget.request

    def counted(budget: RetryBudget) -> None:
        nonlocal asks
        asks += 1
        count(budget)

    monkeypatch.setattr(RetryBudget, "request", counted)

    async def tosses(request: Request, writer: asyncio.StreamWriter) -> None:
        if chance.random() < 0.5:
            writer.write(response(b"oops", "502 Bad Gateway"))
        else:
            await finishes(request, writer)

    rig = await make_rig(batch_size=2, retry_count=3)
    async with FaultServer(tosses) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(60)]
        await until_settled(rig, channel, tasks)
        labels = {"channel": str(channel), "status": "success", "reason": "ok"}
        good = rig.metrics.registry.get_sample_value("custompass_requests_total", labels)
        # 30 batches of two; those that failed are asked about one by one.
        assert good is not None
        assert 30 <= good <= 60
        retries = len(server.requests) - asks
        # What is sent again at once is a fifth of what was asked, and three for the start.
        assert 0 < retries <= 3 + asks // 5
