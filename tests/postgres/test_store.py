"""Pages, channels, prices and groups as read; statuses and notes as written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest

from poller.core.model import Advance, State, Verdict
from poller.postgres.leases import Leases
from poller.postgres.statements import PROFILES, load
from tests.postgres.gateway import MODEL, Site, failed, open_site

LIMIT_S = 30
SHARED = (
    "page", "heavy", "channels", "user_groups", "prices", "advance", "lock", "settle", "watched", "remember",
    "quarantine", "unknown_words", "tidy_notes",
)  # fmt: skip


@pytest.fixture
async def site(make_database, open_database, profile_name) -> AsyncIterator[Site]:
    with anyio.fail_after(LIMIT_S):
        made = await open_site(make_database, open_database, profile_name)
    yield made
    await made.gateway.connection.close()


async def seeded(site: Site, count: int, **more: object) -> tuple[int, int, list[int]]:
    user, channel = await site.gateway.user(), await site.gateway.channel()
    return user, channel, [await site.gateway.task(user, channel, **more) for _ in range(count)]


async def test_statements_have_the_same_parameters_and_columns_in_every_profile(make_database):
    shapes: dict[str, set[object]] = {name: set() for name in SHARED}
    for profile in PROFILES:
        connection = await asyncpg.connect(await make_database(profile))
        for name in SHARED:
            prepared = await connection.prepare(load(profile)[name].text)
            parameters = tuple(each.name for each in prepared.get_parameters())
            columns = tuple((each.name, each.type.name) for each in prepared.get_attributes())
            shapes[name].add((parameters, columns))
        await connection.close()
    assert {name: len(shape) for name, shape in shapes.items()} == dict.fromkeys(SHARED, 1)


# -- pages -----------------------------------------------------------------------------------------------------------


async def test_pages_walk_the_active_tasks_of_one_channel_in_order(site):
    user, channel, pks = await seeded(site, 5)
    other = await site.gateway.channel(name="other")
    await site.gateway.task(user, other)
    await site.gateway.task(user, channel, platform="suno")
    await site.gateway.set_state(pks[1], "SUCCESS")
    await site.gateway.set_state(pks[2], "FAILURE")
    first = await site.store.page(channel, 0, 2)
    assert ([task.pk for task in first.tasks], first.last_pk, first.is_last) == ([pks[0], pks[3]], pks[3], False)
    second = await site.store.page(channel, first.last_pk, 2)
    assert ([task.pk for task in second.tasks], second.last_pk, second.is_last) == ([pks[4]], pks[4], True)


async def test_empty_page_still_tells_the_time(site):
    page = await site.store.page(404, 17, 10)
    (clock,) = await site.gateway.rows("SELECT extract(epoch FROM now())::float8 AS now_s")
    assert (page.tasks, page.last_pk, page.is_last) == ([], 17, True)
    assert abs(page.now_s - clock["now_s"]) < 5


async def test_row_is_read_in_canonical_words(site):
    user, channel, (pk,) = await seeded(site, 1)
    (task,) = await site.tasks(channel)
    assert (task.pk, task.task_id, task.upstream_id, task.user_id, task.channel_id) == (
        pk, "job-1", "job-1", user, channel,
    )  # fmt: skip
    assert (task.model, task.price_model, task.state, task.progress, task.reserved) == (
        MODEL, MODEL, State.IN_PROGRESS, "30%", 450,
    )  # fmt: skip
    assert (task.key, task.client_token, task.terms, task.sightings) == (None, None, "", 0)
    if site.gateway.profile == "documented":
        assert abs(task.submitted_s - (await site.store.page(channel, 0, 1)).now_s) < 5
    else:
        assert task.submitted_s == 1_700_000_000.0


@pytest.mark.parametrize("profile_name", ["fork", "main"])
@pytest.mark.parametrize(
    ("status", "state"),
    [(None, "UNKNOWN"), ("", "UNKNOWN"), ("running", "UNKNOWN"), ("QUEUED", "QUEUED"), ("NOT_START", "NOT_START")],
)
async def test_status_of_nobody_is_unknown_and_still_active(site, status, state):
    _, channel, _ = await seeded(site, 1, status=status)
    (task,) = await site.tasks(channel)
    assert task.state == state


@pytest.mark.parametrize("profile_name", ["fork", "main"])
async def test_null_reads_as_zero_value_everywhere(site):
    channel = await site.gateway.channel()
    await site.gateway.add("tasks", platform="custompass", channel_id=channel)
    (task,) = await site.tasks(channel)
    assert (task.task_id, task.user_id, task.model, task.progress, task.reserved, task.submitted_s) == (
        "", 0, "", "", 0, 0.0,
    )  # fmt: skip


@pytest.mark.parametrize("profile_name", ["fork", "main"])
async def test_age_falls_back_to_when_the_row_was_made(site):
    _, channel, _ = await seeded(site, 1, submit_time=0, created_at=1_690_000_000)
    (task,) = await site.tasks(channel)
    assert task.submitted_s == 1_690_000_000.0


@pytest.mark.parametrize("profile_name", ["fork", "main"])
async def test_poisoned_json_spoils_neither_the_page_nor_the_row(site):
    poison = '{"input": "\\u0000 \\ud800", "origin_model_name": "\\ud800"}'
    _, channel, pks = await seeded(site, 3)
    await site.gateway.connection.execute("UPDATE tasks SET properties = $2 WHERE id = $1", pks[1], poison)
    assert [task.pk for task in await site.tasks(channel)] == pks


@pytest.mark.parametrize("profile_name", ["fork", "main"])
async def test_long_saved_requests_are_read_all_the_same(site):
    # Random, or it would be stored compressed.
    image = "".join(
        row["md5"] for row in await site.gateway.rows("SELECT md5(n::text) FROM generate_series(1, 2000) n")
    )
    saved = {"payload": {"image": image}, "token": "tk-1", "headerKey": "X-T"}
    properties = json.dumps({"input": json.dumps(saved), "upstream_model_name": "up"})
    _, channel, pks = await seeded(site, 20)
    await site.gateway.connection.execute("UPDATE tasks SET properties = $1 WHERE id % 2 = 0", properties)
    tasks = await site.tasks(channel)
    assert [task.pk for task in tasks] == pks
    for task in tasks:
        is_long = task.pk % 2 == 0
        if site.gateway.profile == "fork":
            assert (task.client_token.reveal() if task.client_token else "") == ("tk-1" if is_long else "")
        else:
            assert task.model == ("up" if is_long else MODEL)


# -- notes -----------------------------------------------------------------------------------------------------------


async def test_sightings_are_remembered_until_they_are_cleared(site):
    _, channel, _ = await seeded(site, 2)
    first, second = await site.tasks(channel)
    await site.store.remember(channel, [(first, 1), (second, 2)])
    first, second = await site.tasks(channel)
    assert (first.sightings, second.sightings) == (1, 2)
    assert abs(first.sighted_s - (await site.store.page(channel, 0, 1)).now_s) < 5
    await site.store.remember(channel, [(second, 0), (first, 2)])
    first, second = await site.tasks(channel)
    assert (first.sightings, second.sightings, second.sighted_s) == (2, 0, 0.0)
    assert len(await site.gateway.rows("SELECT 1 FROM poller.watch")) == 1


async def test_quarantined_task_is_on_no_page_and_keeps_its_first_reason(site):
    _, channel, pks = await seeded(site, 3)
    tasks = await site.tasks(channel)
    await site.store.remember(channel, [(tasks[1], 2)])
    assert await site.store.quarantine([(tasks[1], "age_unreadable", "x\x00y"), (tasks[2], "user_gone", "")]) == 2
    assert await site.store.quarantine([(tasks[1], "something_else", "")]) == 0
    page = await site.store.page(channel, 0, 10)
    assert ([task.pk for task in page.tasks], page.last_pk) == ([pks[0]], pks[2])
    await site.store.remember(channel, [(tasks[1], 0)])
    notes = await site.gateway.rows("SELECT reason, detail, sightings FROM poller.watch ORDER BY task_pk")
    assert notes[0] == {"reason": "age_unreadable", "detail": "xy", "sightings": 0}


async def test_settled_task_is_not_quarantined_afterwards(site):
    _, channel, _ = await seeded(site, 1)
    (task,) = await site.tasks(channel)
    await site.store.settle([failed(task)])
    assert await site.store.quarantine([(task, "contradiction", "")]) == 0


async def test_nothing_is_noted_about_a_task_that_another_replica_has_settled(site):
    _, channel, pks = await seeded(site, 2)
    tasks = await site.tasks(channel)
    await site.store.settle([failed(tasks[0])])
    await site.store.remember(channel, [(task, 1) for task in tasks])
    await site.store.remember_keys(channel, [(task, "abc") for task in tasks])
    notes = await site.gateway.rows("SELECT task_pk, sightings, key_digest FROM poller.watch")
    assert notes == [{"task_pk": pks[1], "sightings": 1, "key_digest": "abc"}]


async def test_notes_about_tasks_that_are_over_are_forgotten_and_those_about_open_ones_stay(site):
    _, channel, pks = await seeded(site, 7)
    first, *seen, known, held, ended = await site.tasks(channel)
    await site.store.settle([failed(first)])
    # As another replica may write it while we settle.
    await site.gateway.connection.execute(
        "INSERT INTO poller.watch (task_pk, channel_id, sightings) VALUES ($1, $2, 1)", first.pk, channel
    )
    await site.store.remember(channel, [(task, 1) for task in seen])
    await site.store.remember_keys(channel, [(known, "abc")])
    assert await site.store.quarantine([(held, "contradiction", ""), (ended, "contradiction", "")]) == 2
    await site.gateway.connection.execute("DELETE FROM tasks WHERE id = $1", pks[1])
    await site.gateway.set_state(pks[2], "SUCCESS")
    await site.gateway.connection.execute("UPDATE tasks SET platform = 'suno' WHERE id = $1", pks[3])
    await site.gateway.set_state(ended.pk, "FAILURE")
    assert await site.store.tidy_notes(0) == ended.pk
    assert await site.store.tidy_notes(ended.pk) == 0
    notes = await site.gateway.rows("SELECT task_pk, key_digest, reason FROM poller.watch ORDER BY task_pk")
    assert notes == [
        {"task_pk": known.pk, "key_digest": "abc", "reason": ""},
        {"task_pk": held.pk, "key_digest": "", "reason": "contradiction"},
    ]


async def test_quarantine_of_a_settled_task_that_is_open_again_stays(site):
    _, channel, (pk,) = await seeded(site, 1)
    (task,) = await site.tasks(channel)
    await site.store.settle([failed(task)])
    await site.gateway.set_state(pk, "IN_PROGRESS")
    await site.store.quarantine([(task, "ledger_of_another_amount", "")])
    await site.store.tidy_notes(0)
    assert len(await site.gateway.rows("SELECT 1 FROM poller.watch")) == 1


async def reused(site, channel):
    """The task that has the key of a former one, as after TRUNCATE or a restore."""
    await site.gateway.connection.execute("TRUNCATE tasks RESTART IDENTITY")
    user = await site.gateway.user()
    return await site.gateway.task(user, channel, task_id="another")


async def test_notes_about_a_former_task_say_nothing_of_the_one_that_has_its_key(site):
    _, channel, _ = await seeded(site, 1)
    (former,) = await site.tasks(channel)
    await site.store.remember(channel, [(former, 2)])
    await site.store.remember_keys(channel, [(former, "abc")])
    assert await site.store.quarantine([(former, "deadline_hold", "of the former one")]) == 1
    assert await reused(site, channel) == former.pk
    (task,) = await site.tasks(channel)
    assert (task.task_id, task.sightings, task.key_digest) == ("another", 0, "")
    await site.store.tidy_notes(0)
    assert await site.gateway.rows("SELECT 1 FROM poller.watch") == []


@pytest.mark.parametrize("write", ["remember", "remember_keys", "quarantine"])
async def test_a_new_note_takes_the_place_of_one_about_a_former_task(site, write):
    _, channel, _ = await seeded(site, 1)
    (former,) = await site.tasks(channel)
    await site.store.remember(channel, [(former, 2)])
    await site.store.remember_keys(channel, [(former, "abc")])
    assert await site.store.quarantine([(former, "deadline_hold", "of the former one")]) == 1
    await reused(site, channel)
    (task,) = await site.tasks(channel)
    if write == "remember":
        await site.store.remember(channel, [(task, 1)])
        expected = (1, "", None)
    elif write == "remember_keys":
        await site.store.remember_keys(channel, [(task, "abc")])
        expected = (0, "abc", None)
    else:
        assert await site.store.quarantine([(task, "contradiction", "")]) == 1
        expected = (0, "", "contradiction")
    (note,) = await site.gateway.rows("SELECT *, quarantined_at IS NOT NULL AS is_held FROM poller.watch")
    assert note["task_id"] == "another"
    assert (note["sightings"], note["key_digest"], note["reason"] if note["is_held"] else None) == expected


async def test_notes_from_before_their_tasks_were_kept_count_as_before(site):
    _, channel, (pk, held) = await seeded(site, 2)
    await site.gateway.connection.execute(
        "INSERT INTO poller.watch (task_pk, channel_id, sightings, quarantined_at)"
        " VALUES ($1, $3, 2, NULL), ($2, $3, 0, now())",
        pk,
        held,
        channel,
    )
    await site.store.tidy_notes(0)
    (task,) = await site.tasks(channel)
    assert (task.pk, task.sightings) == (pk, 2)


async def test_note_that_somebody_writes_is_left_for_the_next_round(site):
    _, channel, (pk,) = await seeded(site, 1)
    (task,) = await site.tasks(channel)
    await site.store.remember(channel, [(task, 1)])
    await site.gateway.set_state(pk, "SUCCESS")
    other = await asyncpg.connect(site.gateway.dsn)
    async with other.transaction():
        await other.execute("UPDATE poller.watch SET sightings = 2")
        with anyio.fail_after(5):
            await site.store.tidy_notes(0)
    assert len(await site.gateway.rows("SELECT 1 FROM poller.watch")) == 1
    await site.store.tidy_notes(0)
    assert await site.gateway.rows("SELECT 1 FROM poller.watch") == []
    await other.close()


async def test_tidying_goes_round_all_notes(site):
    await site.gateway.connection.execute(
        "INSERT INTO poller.watch (task_pk, channel_id) SELECT n, 1 FROM generate_series(1, 1500) AS n"
    )
    assert await site.store.tidy_notes(0) == 1000
    assert await site.store.tidy_notes(1000) == 1500
    assert await site.store.tidy_notes(1500) == 0
    assert await site.gateway.rows("SELECT 1 FROM poller.watch") == []


async def test_unknown_words_are_counted_by_channel(site):
    await site.store.unknown_words(7, {"paused": (2, "job-1"), "wei\x00rd" + "x" * 500: (1, "job-2")})
    await site.store.unknown_words(7, {"paused": (3, "job-9")})
    found = await site.gateway.rows("SELECT word, seen_count, example_task FROM poller.unknown_status ORDER BY word")
    assert found[0] == {"word": "paused", "seen_count": 5, "example_task": "job-9"}
    assert found[1]["word"].startswith("weird")
    assert len(found[1]["word"]) == 64


async def test_upstream_that_makes_words_up_fills_no_table(site):
    for start in range(0, 600, 150):
        await site.store.unknown_words(7, {f"word-{n:04d}": (1, "job") for n in range(start, start + 150)})
    await site.store.unknown_words(7, {"word-0001": (1, "job")})
    (count,) = await site.gateway.rows("SELECT count(*), max(seen_count) AS most FROM poller.unknown_status")
    assert (count["count"], count["most"]) == (200, 2)


# -- advance ---------------------------------------------------------------------------------------------------------


async def version(site: Site, pk: int) -> tuple[object, ...]:
    (row,) = await site.gateway.rows("SELECT ctid, xmin, xmax FROM tasks WHERE id = $1", pk)
    return tuple(row.values())


async def test_advance_writes_the_later_status_the_progress_and_the_data(site):
    _, channel, (pk,) = await seeded(site, 1, state="SUBMITTED")
    (task,) = await site.tasks(channel)
    assert await site.store.advance([(task, Advance(State.IN_PROGRESS, "40%", b'{"status": "running"}'))]) == 1
    row = await site.gateway.row("tasks", pk)
    assert (row["status"], row["progress"]) == (site.gateway.word("IN_PROGRESS"), "40%")
    assert json.loads(row["data"]) == {"status": "running"}
    if site.gateway.profile == "main":
        assert row["start_time"] > row["submit_time"]
    elif site.gateway.profile == "fork":
        assert row["start_time"] == 0


async def test_unchanged_advance_writes_nothing_at_all(site):
    _, channel, (pk,) = await seeded(site, 1)
    (task,) = await site.tasks(channel)
    before = await version(site, pk)
    same = Advance(State.IN_PROGRESS, "30%", b'{"status": "new"}')
    lower = Advance(State.SUBMITTED, "", b'{"status": "new"}')
    finished = Advance(State.IN_PROGRESS, "100%", b'{"status": "new"}')
    for change in (same, lower, finished):
        assert await site.store.advance([(task, change)]) == 0
    assert await version(site, pk) == before


async def test_status_never_goes_back_while_progress_may_change(site):
    _, channel, (pk,) = await seeded(site, 1)
    (task,) = await site.tasks(channel)
    assert await site.store.advance([(task, Advance(State.SUBMITTED, "35%", b""))]) == 1
    row = await site.gateway.row("tasks", pk)
    assert (row["status"], row["progress"], row["data"]) == (site.gateway.word("IN_PROGRESS"), "35%", None)


async def test_final_foreign_and_renamed_rows_are_never_advanced(site):
    _, channel, pks = await seeded(site, 3, state="SUBMITTED")
    tasks = await site.tasks(channel)
    await site.gateway.set_state(pks[0], "FAILURE")
    await site.gateway.connection.execute("UPDATE tasks SET platform = 'suno' WHERE id = $1", pks[1])
    await site.gateway.connection.execute("UPDATE tasks SET task_id = 'other' WHERE id = $1", pks[2])
    change = Advance(State.IN_PROGRESS, "40%", b"{}")
    assert await site.store.advance([(task, change) for task in tasks]) == 0


async def test_advance_passes_by_a_row_that_somebody_holds(site):
    _, channel, pks = await seeded(site, 3, state="SUBMITTED")
    tasks = await site.tasks(channel)
    rival = await asyncpg.connect(site.gateway.dsn)
    with anyio.fail_after(LIMIT_S):
        async with rival.transaction():
            await rival.execute("SELECT id FROM tasks WHERE id = $1 FOR UPDATE", pks[1])
            assert await site.store.advance([(task, Advance(State.IN_PROGRESS, "40%", b"")) for task in tasks]) == 2
    await rival.close()
    assert (await site.gateway.row("tasks", pks[1]))["status"] == site.gateway.word("SUBMITTED")


async def test_advance_that_the_database_refuses_costs_no_other(site):
    if site.gateway.profile == "documented":
        await site.gateway.connection.execute("ALTER TABLE tasks ALTER progress TYPE varchar(20)")
    _, channel, pks = await seeded(site, 5, state="SUBMITTED")
    tasks = await site.tasks(channel)
    changes = [(task, Advance(State.IN_PROGRESS, "40%", b"")) for task in tasks]
    changes[3] = (tasks[3], Advance(State.IN_PROGRESS, "9" * 40, b"{}"))
    assert await site.store.advance(changes) == 4
    assert (await site.gateway.row("tasks", pks[3]))["status"] == site.gateway.word("SUBMITTED")


# -- channels, prices, groups ----------------------------------------------------------------------------------------


async def test_channel_is_read_and_cached_and_a_new_one_is_found_at_once(site):
    assert await site.store.channel(1) is None
    channel = await site.gateway.channel(name="first")
    found = await site.store.channel(channel)
    assert (found.name, found.base_url, found.askable) == ("first", "http://upstream.test", True)
    assert [key.reveal() for key in found.keys] == ["sk-key"]
    await site.gateway.connection.execute("UPDATE channels SET name = 'second'")
    assert (await site.store.channel(channel)).name == "first"


async def test_without_a_cache_every_change_is_seen(make_database, open_database, profile_name):
    site = await open_site(make_database, open_database, profile_name, cache_s=0.0)
    channel = await site.gateway.channel(name="first")
    user = await site.gateway.user(group="default")
    assert (await site.store.channel(channel)).name == "first"
    assert await site.store.user_groups([user]) == {user: "default"}
    await site.gateway.connection.execute("UPDATE channels SET name = 'second'")
    await site.gateway.connection.execute("""UPDATE users SET "group" = 'vip'""")
    assert (await site.store.channel(channel)).name == "second"
    assert await site.store.user_groups([user, 404]) == {user: "vip"}
    await site.gateway.connection.close()


@pytest.mark.parametrize("status", [0, 2, 3])
async def test_what_a_disabled_channel_had_accepted_is_asked_about_and_settled_to_its_end(site, status):
    user, channel, (pk,) = await seeded(site, 1)
    await site.gateway.connection.execute("UPDATE channels SET status = $1", status)
    leases = Leases(site.database, load(site.gateway.profile), "replica-1", 15.0)
    assert [(lane.channel_id, lane.has_work) for lane in (await leases.beat()).lanes] == [(channel, True)]
    assert (await site.store.channel(channel)).askable
    (task,) = await site.tasks(channel)
    assert [fate.verdict for fate in await site.store.settle([failed(task)])] == [Verdict.SETTLED]
    assert (await site.gateway.row("channels", channel))["status"] == status
    assert [entry["task_pk"] for entry in await site.gateway.ledger()] == [pk]
    assert (await site.gateway.balance(user))[0] == 1450


async def test_status_mapping_of_a_channel_is_read_from_its_own_column(site):
    if site.gateway.profile != "documented":
        await site.gateway.connection.execute("ALTER TABLE channels ADD custompass_status_mapping text")
    mapping = json.dumps({"success": ["done"]})
    channel = await site.gateway.channel(custompass_status_mapping=mapping)
    assert "done" in (await site.store.channel(channel)).words.success


@pytest.mark.parametrize("profile_name", ["fork", "main"])
async def test_channel_of_an_older_version_without_the_later_columns_is_read(site):
    await site.gateway.connection.execute("ALTER TABLE channels DROP channel_info, DROP settings, DROP other")
    channel = await site.gateway.channel()
    assert (await site.store.channel(channel)).askable


async def test_prices_are_read_and_cached(site):
    execute = site.gateway.connection.execute
    if site.gateway.profile == "documented":
        await execute("INSERT INTO abilities VALUES ($1, 52, 1.5, NULL)", MODEL)
        await execute("INSERT INTO group_ratio VALUES ('vip', 0.8)")
    else:
        await execute("INSERT INTO options VALUES ('ModelRatio', $1), ('Theme', 'dark')", json.dumps({MODEL: 1.5}))
    book = await site.store.prices()
    if site.gateway.profile == "documented":
        assert str(book.abilities[MODEL, "52"]["ratio"]) == "1.5"
        assert str(book.maps["GroupRatio"]["vip"]) == "0.8"
    else:
        assert str(book.maps["ModelRatio"][MODEL]) == "1.5"
    assert await site.store.prices() is book
