"""What ``poller status`` says first: whatever keeps a task from being asked about is there, once, with its remedy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from poller.cli.attention import attention
from poller.errors import DatabaseAway
from tests.cli.conftest import Run
from tests.cli.test_commands import in_thread
from tests.ops.test_server import Console, side_port
from tests.postgres.gateway import Site, open_site


@pytest.fixture
async def site(make_database, open_database, profile_name) -> AsyncIterator[Site]:
    with anyio.fail_after(60):
        made = await open_site(make_database, open_database, profile_name)
    await made.gateway.connection.execute(
        "INSERT INTO poller.replica (id, seen_until) VALUES ('r1', now() + interval '1 minute')"
    )
    yield made
    await made.gateway.connection.close()


async def needs(site: Site, poller: Run) -> list[str]:
    """What stands under "needs attention"."""
    ran = await in_thread(poller, "status", SQL_DSN=site.gateway.dsn)
    assert (ran.code, ran.err) == (0, "")
    block = ran.out.split("needs attention:")[1].split("\n\n")[0]
    return [line for line in block.splitlines() if line]


def lane(channel_id: int = 4, **changes: Any) -> dict[str, Any]:
    known = {
        "channel_id": channel_id,
        "has_work": True,
        "is_held": True,
        "holder": "r1",
        "is_paused": False,
        "is_all_paused": False,
        "pause_reason": "",
        "breaker": "closed",
        "breaker_failures": 0,
        "breaker_until_s": None,
        "concurrency": 9,
        "unasked_s": 7.0,
        "now_s": 1000.0,
        "pass_counts": {"asked": 5, "requests": 1, "failed_requests": 0},
    }
    return known | changes


def said(*lanes: dict[str, Any], **more: Any) -> list[str]:
    return attention({"lanes": list(lanes), **more}, 30.0)


async def test_a_channel_whose_row_is_gone_is_named_while_it_has_open_tasks(site: Site, poller: Run):
    user, channel = await site.gateway.user(), await site.gateway.channel()
    pk = await site.gateway.task(user, channel, 450)
    await site.gateway.connection.execute("DELETE FROM channels")
    (line,) = await needs(site, poller)
    assert line.startswith(f"channel {channel}: nobody can be asked about its tasks: it has no row (")
    assert f"poller tasks list --channel {channel}" in line
    await site.gateway.set_state(pk, "FAILURE")
    assert await needs(site, poller) == [" nothing"]


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [("key", "", "key is missing or unusable"), ("base_url", None, "base_url is missing")],
)
async def test_a_channel_without_key_or_address_is_named_with_what_it_lacks(
    site: Site, poller: Run, column: str, value: object, why: str
):
    user, channel = await site.gateway.user(), await site.gateway.channel(**{column: value})
    await site.gateway.task(user, channel, 450)
    # A replica that walked it found nobody to ask: that is the same trouble, and said once.
    await site.gateway.connection.execute(
        "INSERT INTO poller.lane (channel_id, holder, lease_until, pass_counts)"
        " VALUES ($1, 'r1', now() + interval '1 minute', '{\"failed_requests\": 1}')",
        channel,
    )
    (line,) = await needs(site, poller)
    assert line.startswith(f"channel {channel}: nobody can be asked about its tasks: {why} (")


async def test_a_replica_tells_of_a_channel_that_its_last_pass_could_not_ask(poller: Run):
    class Told(Console):
        async def status(self) -> dict:
            return {"replica": "r1", "checks": {}, "fleet": [lane(pass_counts={"asked": 0, "failed_requests": 1})]}

    async with side_port(Told()) as (client, _):
        ran = await in_thread(poller, "status", "--url", f"http://127.0.0.1:{client.base_url.port}")
    assert "channel 4: its last pass got no answer, 1 failed: its upstream is down or refuses, or its row" in ran.out


async def test_a_replica_without_its_database_says_that_and_not_that_it_is_not_there(poller: Run):
    class Told(Console):
        async def status(self) -> dict:
            if self.trouble:
                raise self.trouble
            return {"replica": "r1", "checks": {"database": "auth_failed: InvalidPasswordError"}, "fleet": []}

    console = Told()
    async with side_port(console) as (client, _):
        url = f"http://127.0.0.1:{client.base_url.port}"
        ran = await in_thread(poller, "status", "--url", url)
        assert (ran.code, ran.err) == (0, "")
        assert "\ndatabase: auth_failed: InvalidPasswordError\n" in ran.out
        assert "lanes: not known while the database does not answer" in ran.out
        console.trouble = DatabaseAway("auth_failed")
        ran = await in_thread(poller, "status", "--url", url)
    assert (ran.code, ran.out) == (69, "")
    assert ran.err == "poller: side port /status: the replica is there, but cannot say: auth_failed\n"


def test_a_pass_that_got_some_answers_is_no_trouble():
    assert said(lane(pass_counts={"requests": 1, "failed_requests": 3})) == []
    assert said(lane(has_work=False, pass_counts={"failed_requests": 3})) == []
    (line,) = said(lane(pass_counts={"requests": 0, "failed_requests": 3}))
    assert line.startswith("channel 4: its last pass got no answer, 3 failed: ")


def test_an_upstream_that_is_down_is_told_with_its_failures_and_the_next_ask():
    down = lane(breaker="open", breaker_failures=7, breaker_until_s=1012.0)
    assert said(down) == [
        "channel 4: its upstream does not answer, breaker open after 7 failures in a row, asked again in 12s"
    ]
    assert said(down | {"breaker": "half_open", "breaker_until_s": None}) == [
        "channel 4: its upstream does not answer, breaker half_open after 7 failures in a row"
    ]


# -- pauses --


async def test_each_pause_is_said_with_the_command_that_ends_it(site: Site, poller: Run):
    user, channel = await site.gateway.user(), await site.gateway.channel()
    await site.gateway.task(user, channel, 450)
    other = await site.gateway.channel()
    await site.gateway.task(user, other, 450)
    await site.gateway.connection.execute(
        "INSERT INTO poller.lane (channel_id, holder, lease_until)"
        " SELECT id, 'r1', now() + interval '1 minute' FROM channels"
    )

    async def run(*command: str) -> str:
        ran = await in_thread(poller, *command, SQL_DSN=site.gateway.dsn)
        assert (ran.code, ran.err) == (0, "")
        return ran.out

    await run("pause", str(channel))
    assert await needs(site, poller) == [f"channel {channel} is paused: operator (poller resume {channel})"]
    assert f"paused (operator): poller resume {channel}\n" in await run("task", "job-1")
    await run("pause")
    assert await needs(site, poller) == [
        "all channels are paused (poller resume)",
        f"channel {channel} is paused: operator (poller resume {channel} and poller resume)",
    ]
    assert f"paused (operator): poller resume {channel} and poller resume\n" in await run("task", "job-1")
    assert "paused (all lanes): poller resume\n" in await run("task", "job-2")
    await run("resume")
    await run("resume", str(channel))
    assert await needs(site, poller) == [" nothing"]


# -- said once --


async def test_without_any_replica_that_is_said_once_and_not_of_each_lane(site: Site, poller: Run):
    user, channel = await site.gateway.user(), await site.gateway.channel()
    await site.gateway.task(user, channel, 450)
    await site.gateway.connection.execute("UPDATE poller.replica SET seen_until = now() - interval '1 minute'")
    # What a pass of ``run --once`` left: has_work as of its beat.
    await site.gateway.connection.execute(
        "INSERT INTO poller.lane (channel_id, has_work) VALUES ($1, true), (77, true)", channel
    )
    assert await needs(site, poller) == ["no replica is alive: nothing is polled (poller run)"]
    await site.gateway.connection.execute("UPDATE poller.replica SET seen_until = now() + interval '1 minute'")
    assert await needs(site, poller) == [f"channel {channel}: no replica holds its lane"]


def test_tasks_that_name_no_channel_are_said_once_and_not_of_channel_0_too():
    lost = lane(0, pass_counts={"requests": 0, "failed_requests": 1})
    assert said(lost, without_channel=1) == ["1 open task names no channel: nobody can be asked"]


def test_a_pause_is_said_also_of_a_channel_that_could_not_be_asked_anyway():
    unaskable = [{"channel_id": 4, "why": "it has no row"}]
    lines = said(lane(is_paused=True, pause_reason="second_writer"), unaskable=unaskable)
    assert lines[1:] == ["channel 4 is paused: second_writer (poller resume 4)"]


def test_a_pause_of_all_is_said_once_however_many_channels_there_are():
    lanes = [lane(each, is_paused=True, is_all_paused=True, pause_reason="all lanes") for each in (1, 2, 3)]
    assert said(*lanes) == ["all channels are paused (poller resume)"]
