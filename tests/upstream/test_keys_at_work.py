"""Channels with several keys, through database and HTTP: the right key is found, remembered, and never a verdict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from poller.core.keys import digest_of
from poller.core.model import Secret
from poller.core.words import DEFAULT_WORDS, parse_words
from tests.bounded import within
from tests.upstream.faults_server import FaultServer, Request, response
from tests.upstream.rig import MakeRig, Rig
from tests.upstream.test_fault_table import data, expect, item

LIMIT_S = 60.0
KEYS = ("sk-first-000", "sk-second-11", "sk-third-222")
NOT_FOUND_FAILS = parse_words(DEFAULT_WORDS.success, [*DEFAULT_WORDS.failed, "not_found"], DEFAULT_WORDS.processing)


class Accounts:
    """An upstream where each key knows its own tasks, by key and id; a key without an entry is refused."""

    def __init__(self, known: Mapping[str, Mapping[str, str]], *, says_not_found: bool = False) -> None:
        self.known = {key: dict(words) for key, words in known.items()}
        self.says_not_found = says_not_found
        self.asked: list[tuple[str, list[str]]] = []

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        key = request.headers["authorization"].removeprefix("Bearer ")
        self.asked.append((key, request.ids))
        if key not in self.known:
            writer.write(response(b"", "401 Unauthorized"))
            return
        words = self.known[key]
        found = [
            item(name, words.get(name, "not_found")) for name in request.ids if name in words or self.says_not_found
        ]
        writer.write(response(data(*found)))

    def keys_asked(self) -> list[str]:
        asked, self.asked = [key for key, _ in self.asked], []
        return asked


async def channel_of(rig: Rig, url: str, *keys: str, disabled: tuple[int, ...] = ()) -> int:
    """A multi-key channel as current new-api keeps it."""
    info = {"is_multi_key": True, "multi_key_status_list": {str(index): 2 for index in disabled}}
    return await rig.channel(url, key="\n".join(keys), channel_info=json.dumps(info))


def digests(notes: list[dict[str, Any]]) -> dict[int, str]:
    return {note["task_pk"]: note["key_digest"] for note in notes}


@within(LIMIT_S)
async def test_the_key_that_knows_a_task_is_found_and_asked_first_from_then_on(make_rig: MakeRig) -> None:
    rig = await make_rig()
    upstream = Accounts({KEYS[0]: {"job-1": "processing"}, KEYS[1]: {"job-2": "processing"}, KEYS[2]: {}})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *KEYS)
        tasks = [await rig.task(channel) for _ in range(2)]
        before = await rig.picture()
        await rig.walk(channel)
        assert KEYS[2] not in upstream.keys_asked()
        # Of the first key there is nothing to remember: it is asked first anyway.
        assert digests(await rig.watched()) == {tasks[1]: digest_of(Secret(KEYS[1]))}
        await rig.walk(channel)
        assert sorted(upstream.keys_asked()) == sorted(KEYS[:2])
        # Another replica, or this one after a restart, knows it too.
        rig.lanes.clear()
        await rig.walk(channel)
        assert sorted(upstream.keys_asked()) == sorted(KEYS[:2])
        assert await rig.picture() == before
        assert KEYS[1] not in str(await rig.watched())


@within(LIMIT_S)
async def test_an_unchanged_poll_writes_no_note(make_rig: MakeRig) -> None:
    rig = await make_rig()
    upstream = Accounts({KEYS[0]: {}, KEYS[1]: {"job-1": "processing"}})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *KEYS[:2])
        await rig.task(channel)
        await rig.walk(channel)
        rows = "SELECT ctid::text, xmin::text, * FROM poller.watch"
        before = await rig.gateway.rows(rows)
        assert len(before) == 1
        await rig.walk(channel, passes=3)
        assert await rig.gateway.rows(rows) == before


@within(LIMIT_S)
async def test_settling_by_the_second_key_leaves_no_note_behind(make_rig: MakeRig) -> None:
    rig = await make_rig()
    upstream = Accounts({KEYS[0]: {}, KEYS[1]: {"job-1": "failed"}})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *KEYS[:2])
        tasks = [await rig.task(channel)]
        before = await rig.picture()
        await rig.walk(channel)
        await expect(rig, tasks, ("failure",), before)
    assert await rig.watched() == []


@within(LIMIT_S)
async def test_a_refused_key_is_asked_once_in_a_pass_and_fails_nobody(make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=1, slots=1)
    upstream = Accounts({KEYS[1]: {f"job-{n}": "completed" for n in range(1, 7)}})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *KEYS[:2])
        tasks = [await rig.task(channel) for _ in range(6)]
        await rig.walk(channel)
        assert [await rig.state(pk) for pk in tasks] == ["SUCCESS"] * 6
        # Those that were on their way already, and no more.
        assert upstream.keys_asked().count(KEYS[0]) <= rig.lane(channel).asker.limit + 4
        assert rig.lane(channel).asker.breaker.state == "closed"


@within(LIMIT_S)
async def test_when_every_key_is_refused_the_channel_cools_and_no_task_moves(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(Accounts({})) as server:
        channel = await channel_of(rig, server.url, *KEYS)
        await rig.task(channel)
        before = await rig.picture()
        await rig.walk(channel, passes=5)
        assert await rig.picture() == before
        assert rig.lane(channel).asker.breaker.state == "open"
    assert rig.reasons() == {"auth": 15}


@within(LIMIT_S)
async def test_not_found_counts_only_when_every_enabled_key_said_so(make_rig: MakeRig) -> None:
    rig = await make_rig(words=NOT_FOUND_FAILS)
    upstream = Accounts({KEYS[0]: {}, KEYS[1]: {}, KEYS[2]: {}}, says_not_found=True)
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *KEYS)
        tasks = [await rig.task(channel, age_s=600)]
        before = await rig.picture()
        await rig.walk(channel)
        assert sorted(upstream.keys_asked()) == sorted(KEYS)
        assert [note["sightings"] for note in await rig.watched()] == [1]
        # One key is refused today: it may be the one that knows. The count stands still, it is not cleared.
        del upstream.known[KEYS[1]]
        await at_least_one_interval_later(rig)
        await rig.walk(channel)
        assert [note["sightings"] for note in await rig.watched()] == [1]
        upstream.known[KEYS[1]] = {}
        for _ in range(2):
            await at_least_one_interval_later(rig)
            await rig.walk(channel)
        await expect(rig, tasks, ("failure",), before)


async def at_least_one_interval_later(rig: Rig) -> None:
    await rig.gateway.connection.execute("UPDATE poller.watch SET sighted_at = sighted_at - interval '1 minute'")


@within(LIMIT_S)
async def test_absence_at_one_key_is_no_evidence_after_the_deadline_while_another_cannot_be_asked(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig()
    upstream = Accounts({KEYS[0]: {}})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *KEYS[:2])
        tasks = [await rig.task(channel, age_s=7200)]
        before = await rig.picture()
        await rig.walk(channel)
        assert await rig.picture() == before
        upstream.known[KEYS[1]] = {}
        await rig.walk(channel)
        await expect(rig, tasks, ("failure",), before)
        (entry,) = await rig.gateway.ledger()
        assert entry["rule"] == "expired"


@within(LIMIT_S)
async def test_a_disabled_key_is_never_sent(make_rig: MakeRig) -> None:
    rig = await make_rig()
    upstream = Accounts({KEYS[0]: {}, KEYS[1]: {}, KEYS[2]: {"job-1": "completed"}})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *KEYS, disabled=(1,))
        pk = await rig.task(channel)
        await rig.walk(channel)
        assert await rig.state(pk) == "SUCCESS"
        assert set(upstream.keys_asked()) == {KEYS[0], KEYS[2]}


@within(LIMIT_S)
async def test_a_task_with_a_saved_key_is_asked_about_with_that_key_alone(make_rig: MakeRig) -> None:
    rig = await make_rig()
    upstream = Accounts({KEYS[0]: {"job-1": "failed"}, KEYS[1]: {}})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *KEYS[:2])
        pk = await rig.task(channel, private_data=json.dumps({"key": KEYS[1]}))
        await rig.walk(channel)
        assert upstream.keys_asked() == [KEYS[1]]
        assert await rig.state(pk) == "IN_PROGRESS"


@within(LIMIT_S)
async def test_a_network_fault_is_not_taken_for_a_wrong_key(make_rig: MakeRig) -> None:
    asked = []

    async def breaks(request: Request, writer: asyncio.StreamWriter) -> None:
        asked.append(request.headers["authorization"])
        writer.write(response(b"", "502 Bad Gateway"))

    rig = await make_rig()
    async with FaultServer(breaks) as server:
        channel = await channel_of(rig, server.url, *KEYS)
        await rig.task(channel)
        await rig.walk(channel)
    assert asked == [f"Bearer {KEYS[0]}"]


FIFTY = [f"sk-{number:04d}-key" for number in range(50)]


async def walk_later(rig: Rig, channel: int, by_s: float = 30.0, **columns: Any) -> None:
    """A pass *by_s* seconds after the last one: as far as rows and lane can tell."""
    last = rig.lane(channel).last_pass
    assert last is not None
    rig.lane(channel).last_pass = last._replace(began_s=last.began_s - by_s)
    await rig.gateway.connection.execute("UPDATE tasks SET submit_time = submit_time - $1", int(by_s))
    await rig.gateway.connection.execute(
        "UPDATE poller.watch SET sighted_at = sighted_at - make_interval(secs => $1)", by_s
    )
    await rig.walk(channel)


@within(LIMIT_S)
async def test_fifty_keys_none_of_which_knows_the_task_end_the_pass_all_the_same(make_rig: MakeRig) -> None:
    rig = await make_rig()
    upstream = Accounts({key: {} for key in FIFTY})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *FIFTY)
        await rig.task(channel)
        before = await rig.picture()
        await rig.walk(channel)
        assert await rig.picture() == before
        assert upstream.keys_asked() == FIFTY


@within(LIMIT_S)
async def test_a_task_that_no_key_knows_costs_a_few_requests_a_pass_and_not_one_for_each_key(make_rig: MakeRig) -> None:
    rig = await make_rig()
    upstream = Accounts({key: {"job-3": "processing"} if key == FIFTY[0] else {} for key in FIFTY})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *FIFTY)
        tasks = [await rig.task(channel, age_s=3.0) for _ in range(3)]
        before = (await rig.picture())["users"]
        await rig.walk(channel)
        upstream.keys_asked()
        passes = []
        for _ in range(60):
            await walk_later(rig, channel)
            passes.append(upstream.keys_asked())
        assert sum(map(len, passes)) <= 60 * 7 + 4 * 50
        # The usual key is asked again about those that it was silent of beside another. Between searches each key has
        # its turn after it.
        for number, keys in enumerate(passes, 1):
            assert keys in ([FIFTY[0], *FIFTY], [FIFTY[0], FIFTY[0], FIFTY[number % 50 or 1]])
        # A task that is new, and a person who asks for a poll, do not wait for their turn.
        await rig.task(channel)
        await walk_later(rig, channel, 1.0)
        assert set(upstream.keys_asked()) == set(FIFTY)
        rig.lane(channel).trigger()
        await rig.walk(channel)
        assert set(upstream.keys_asked()) == set(FIFTY)
        assert [await rig.state(pk) for pk in tasks] == ["IN_PROGRESS"] * 3
        assert (await rig.picture())["users"][:3] == before


@within(LIMIT_S)
async def test_a_key_that_comes_and_goes_is_no_reason_to_search_for_all_tasks_anew(make_rig: MakeRig) -> None:
    rig = await make_rig()
    upstream = Accounts({key: {} for key in (*FIFTY, "sk-new")})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *FIFTY)
        for _ in range(3):
            await rig.task(channel, age_s=600.0)
        await rig.walk(channel)
        upstream.keys_asked()
        for number in range(4):
            keys = FIFTY[:-1] if number % 2 else FIFTY
            await rig.gateway.connection.execute("UPDATE channels SET key = $1", "\n".join(keys))
            await walk_later(rig, channel, 1.0)
            assert len(upstream.keys_asked()) <= 6
        # One that nobody has seen yet may know them all.
        await rig.gateway.connection.execute("UPDATE channels SET key = $1", "\n".join((*FIFTY, "sk-new")))
        await walk_later(rig, channel, 1.0)
        assert "sk-new" in upstream.keys_asked()


@within(LIMIT_S)
async def test_a_task_that_turns_up_at_another_key_is_found_in_its_turn(make_rig: MakeRig) -> None:
    rig = await make_rig()
    upstream = Accounts({key: {} for key in FIFTY})
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *FIFTY)
        pk = await rig.task(channel, age_s=900.0)
        await rig.walk(channel)
        upstream.known[FIFTY[5]]["job-1"] = "completed"
        passes = 0
        while await rig.state(pk) != "SUCCESS":
            await walk_later(rig, channel, 1.0)
            passes += 1
        assert passes == 5


@within(LIMIT_S)
async def test_what_two_of_fifty_keys_do_not_know_is_no_sighting_and_no_evidence_after_the_deadline(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(words=NOT_FOUND_FAILS)
    upstream = Accounts({key: {} for key in FIFTY}, says_not_found=True)
    async with FaultServer(upstream) as server:
        channel = await channel_of(rig, server.url, *FIFTY)
        tasks = [await rig.task(channel, age_s=3400.0)]
        before = await rig.picture()
        await rig.walk(channel)
        assert [note["sightings"] for note in await rig.watched()] == [1]
        upstream.keys_asked()
        for _ in range(2):
            await walk_later(rig, channel)
            assert len(upstream.keys_asked()) == 2
            assert [note["sightings"] for note in await rig.watched()] == [1]
        # The first pass past the deadline searches; one key is refused just then, so nothing was said.
        del upstream.known[FIFTY[7]]
        await walk_later(rig, channel, 145.0)
        assert len(upstream.keys_asked()) == 50
        assert await rig.gateway.ledger() == []
        upstream.known[FIFTY[7]] = {}
        await walk_later(rig, channel)
        assert len(upstream.keys_asked()) == 50
        await expect(rig, tasks, ("failure",), before)
        (entry,) = await rig.gateway.ledger()
        assert entry["rule"] == "expired"
