"""The outbox: claims that run out, tries that rise, doubts that are told."""

from __future__ import annotations

import anyio
import pytest

from poller.postgres.outbox import Outbox
from poller.postgres.statements import load
from tests.postgres.gateway import Site, failed, open_site

LIMIT_S = 60.0


@pytest.fixture
async def site(make_database, open_database):
    opened = await open_site(make_database, open_database, "main", logs_elsewhere=True, moves_caches=True)
    yield opened
    await opened.gateway.connection.close()


async def filled(site: Site, count: int = 1) -> Outbox:
    """An outbox with *count* log rows and as many changed balances, of one user each."""
    channel = await site.gateway.channel()
    for _ in range(count):
        await site.gateway.task(await site.gateway.user(), channel)
    await site.store.settle([failed(task) for task in await site.tasks(channel)])
    return Outbox(site.database, load("main"))


async def make_due(site: Site) -> None:
    await site.gateway.connection.execute("UPDATE poller.outbox SET due_at = now()")


async def test_settling_leaves_one_entry_a_log_row_and_one_a_balance(site):
    with anyio.fail_after(LIMIT_S):
        outbox = await filled(site, 3)
        assert (await outbox.waiting()).depth == 6
        assert [await outbox.is_due(kind) for kind in ("log", "user_cache", "token_cache")] == [True, True, False]
        assert await site.gateway.rows("SELECT * FROM logs") == []


async def test_what_one_replica_has_claimed_the_next_does_not_get(site):
    with anyio.fail_after(LIMIT_S):
        outbox = await filled(site, 3)
        first = await outbox.claim("log", 2, 60.0, 5)
        second = await outbox.claim("log", 2, 60.0, 5)
        assert len(first) == 2
        assert len(second) == 1
        assert await outbox.claim("log", 2, 60.0, 5) == []
        assert not await outbox.is_due("log")
        assert await outbox.is_due("user_cache")


async def test_rows_that_another_replica_is_taking_are_not_waited_for(site):
    with anyio.fail_after(LIMIT_S):
        outbox = await filled(site, 2)
        async with site.gateway.connection.transaction():
            await site.gateway.connection.execute("SELECT FROM poller.outbox ORDER BY id LIMIT 1 FOR UPDATE")
            assert len(await outbox.claim("log", 10, 60.0, None)) == 1


async def test_a_claim_that_ended_without_a_word_is_in_doubt_and_a_failed_try_is_not(site):
    with anyio.fail_after(LIMIT_S):
        outbox = await filled(site)
        (entry,) = await outbox.claim("user_cache", 10, 60.0, None)
        assert not entry.is_in_doubt
        await outbox.put_back([entry.id], "connection", 0.0, 0.0)
        (entry,) = await outbox.claim("user_cache", 10, 60.0, None)
        assert not entry.is_in_doubt
        await make_due(site)
        (entry,) = await outbox.claim("user_cache", 10, 60.0, None)
        assert entry.is_in_doubt


async def test_an_entry_that_is_due_in_days_is_from_before_the_clock_was_set_back_and_due(site):
    with anyio.fail_after(LIMIT_S):
        outbox = await filled(site)
        await site.gateway.connection.execute(
            "UPDATE poller.outbox SET due_at = now() + interval '3 days', created_at = now() + interval '3 days'"
        )
        assert await outbox.is_due("log")
        (entry,) = await outbox.claim("log", 10, 60.0, 5)
        assert entry.age_s < 0
        assert not await outbox.is_due("log")


async def test_each_failed_try_waits_longer_up_to_a_limit_and_says_why(site):
    with anyio.fail_after(LIMIT_S):
        outbox = await filled(site)
        waits = []
        for _ in range(5):
            (entry,) = await outbox.claim("log", 10, 60.0, 7)
            await outbox.put_back([entry.id], "connect_timeout: nobody", 1.0, 6.0)
            (row,) = await site.gateway.rows(
                "SELECT extract(epoch FROM due_at - now()) AS wait, last_error FROM poller.outbox WHERE kind = 'log'"
            )
            waits.append(round(float(row["wait"])))
            assert row["last_error"] == "connect_timeout: nobody"
            await make_due(site)
        assert waits == [1, 2, 4, 6, 6]


async def test_the_lowest_floor_that_an_entry_ever_got_stays_with_it(site):
    with anyio.fail_after(LIMIT_S):
        outbox = await filled(site)
        await outbox.claim("log", 10, 60.0, None)
        await make_due(site)
        for floor, kept in ((7, 7), (99, 7), (None, 7), (3, 3)):
            (entry,) = await outbox.claim("log", 10, 60.0, floor)
            assert f'"floor": {kept}' in entry.payload
            await make_due(site)


async def test_what_is_done_with_is_gone_and_an_empty_outbox_has_no_age(site):
    with anyio.fail_after(LIMIT_S):
        outbox = await filled(site)
        assert (await outbox.waiting()).oldest_s > 0
        for kind in ("log", "user_cache"):
            await outbox.remove([each.id for each in await outbox.claim(kind, 10, 60.0, None)])
        assert await outbox.waiting() == (0, 0.0)


async def test_keys_of_tokens_come_without_their_padding(site):
    with anyio.fail_after(LIMIT_S):
        outbox = Outbox(site.database, load("main"))
        token = await site.gateway.add("tokens", user_id=1, key="k" * 20 + "   ")
        keys = await outbox.token_keys([token, token + 1])
        assert {pk: key.reveal() for pk, key in keys.items()} == {token: "k" * 20}
