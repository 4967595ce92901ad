"""A state machine over the real store and PostgreSQL, held against the model after every step.

``POLLER_MODEL_EXAMPLES`` sets how many runs each profile gets (a few by default), ``POLLER_MODEL_SHRINK=0`` leaves a
failing one as long as it was found.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import anyio
import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from poller import crashpoints
from poller.core.model import Advance, Outcome, Secret, Settlement, State, Task
from poller.demo.embedded import Server
from poller.errors import DatabaseAway
from poller.postgres.pool import open_pool
from tests.conftest import POOL, _run, _template
from tests.faults.labels import labels
from tests.faults.model import Model, Row, Wish
from tests.postgres.gateway import Gateway, open_store

EXAMPLES = int(os.environ.get("POLLER_MODEL_EXAMPLES", "6"))
STEPS = 25
IS_SHRINKING = os.environ.get("POLLER_MODEL_SHRINK") != "0"
USERS = CHANNELS = 3
LIMIT_S = 60
MONEY_LABELS = [label for label in labels() if label.startswith("settle.") and label != "settle.refused"]
WATCHED = {
    "documented": {"users": ("quota", "used_quota")},
    "fork": {"users": ("quota", "used_quota"), "tokens": ("remain_quota", "used_quota"), "channels": ("used_quota",)},
    "main": {
        "users": ("quota", "used_quota"),
        "tokens": ("remain_quota", "used_quota"),
        "channels": ("used_quota",),
        "user_subscriptions": ("amount_used",),
    },
}
CHARGES = st.one_of(st.none(), st.integers(0, 60), st.integers(0, 10**12))
WISHES = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(["SUCCESS", "FAILURE"]), CHARGES), min_size=1, max_size=6
)
_numbers = itertools.count(1)
_T = TypeVar("_T")


class Gateways(RuleBasedStateMachine):
    """Gateways submit, save, move and delete; two replicas settle what they read, at times long ago."""

    server: Server
    profile: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.name = f"model_{os.getpid()}_{next(_numbers)}"
        self.runner.run(self._open())

    def teardown(self) -> None:
        crashpoints.watch(None)
        self.runner.run(self._close())
        self.runner.close()

    async def _open(self) -> None:
        template = await _template(self.server, self.profile, migrated=True)
        await _run(self.server.dsn(), f"CREATE DATABASE {self.name} TEMPLATE {template} STRATEGY file_copy")
        dsn = self.server.dsn(self.name)
        self.gateway = Gateway(self.profile, dsn, await asyncpg.connect(dsn))
        self.databases = [await open_pool(Secret(dsn), **POOL) for _ in range(2)]
        self.stores = [await open_store(database, self.gateway) for database in self.databases]
        self.model = Model(self.profile)
        self.read: list[Task] = []
        for _ in range(CHANNELS):
            channel = await self.gateway.channel()
            self.model.others["channels", "used_quota", channel] = 90_000
        for number in range(USERS):
            user = await self.gateway.user()
            self.model.users.add(user)
            self.model.others["users", "quota", user] = 1000
            self.model.others["users", "used_quota", user] = 5000
            if self.profile != "documented":
                await self.gateway.add("tokens", user_id=user, key=f"{number:048d}", remain_quota=700, used_quota=300)
                self.model.others["tokens", "remain_quota", user] = 700
                self.model.others["tokens", "used_quota", user] = 300
            if self.profile == "main":
                # Large enough that no refund meets its floor.
                await self.gateway.add("user_subscriptions", user_id=user, amount_total=0, amount_used=10**9)
                self.model.others["user_subscriptions", "amount_used", user] = 10**9

    async def _close(self) -> None:
        for database in self.databases:
            await database.close()
        await self.gateway.connection.close()
        await _run(self.server.dsn(), f"DROP DATABASE {self.name} WITH (FORCE)")

    def execute(self, query: str, *args: object) -> None:
        self.runner.run(self.gateway.connection.execute(query, *args))

    def patiently(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do it until a connection is found that was not killed, as the daemon would on its next pass."""

        async def until_done() -> _T:
            with anyio.fail_after(LIMIT_S):
                while True:
                    with contextlib.suppress(DatabaseAway):
                        return await work()

        return self.runner.run(until_done())

    def picked(self, number: int) -> int:
        return sorted(self.model.rows)[number % len(self.model.rows)]

    # -- the gateway -------------------------------------------------------------------------------------------------

    @rule(
        user=st.integers(1, USERS),
        channel=st.integers(1, CHANNELS),
        quota=st.sampled_from([0, 1, 10, 450, 10**6, -5]),
        pays=st.sampled_from(["wallet", "token", "subscription"]),
    )
    def submit(self, user: int, channel: int, quota: int, pays: str) -> None:
        """A task is charged up front."""
        row, more = Row(user, channel, quota), {}
        if self.profile == "main":
            row = replace(
                row, token=user if pays != "wallet" else None, subscription=user if pays == "subscription" else None
            )
            saved = {"billing_source": "subscription" if row.subscription else "wallet"}
            saved |= {"token_id": row.token} if row.token else {}
            saved |= {"subscription_id": row.subscription} if row.subscription else {}
            more["private_data"] = json.dumps(saved)
        pk = self.runner.run(self.gateway.task(user, channel, quota, **more))
        self.model.rows[pk] = row

    @rule()
    def look(self) -> None:
        """Replicas read their pages, and keep what they read before."""
        pages = [
            self.patiently(lambda channel=channel: self.stores[0].page(channel, 0, 1000)).tasks  # type: ignore[misc]
            for channel in range(1, CHANNELS + 1)
        ]
        found = [task for page in pages for task in page]
        open_ = {pk for pk, row in self.model.rows.items() if row.state == "open"} - self.model.quarantine
        assert {task.pk for task in found} == open_
        self.read = (self.read + found)[-60:]

    @precondition(lambda self: self.model.rows)
    @rule(number=st.integers(0, 10**6), other=st.sampled_from([None, None, None, 0, 10, 300]))
    def save_what_was_read_before(self, number: int, other: int | None) -> None:
        """``DB.Save``: the whole row as it once was, without a guard; at times with another charge."""
        pk = self.picked(number)
        entry = self.model.ledger.get(pk)
        quota = other if other is not None else entry.reserved if entry else self.model.rows[pk].quota
        self.execute(
            "UPDATE tasks SET status = $2, progress = '30%', quota = $3 WHERE id = $1",
            pk,
            self.gateway.word("IN_PROGRESS"),
            quota,
        )
        if self.profile == "documented":
            self.execute("UPDATE tasks SET used_quota = 0 WHERE id = $1", pk)
        self.model.rows[pk] = replace(self.model.rows[pk], state="open", quota=quota)

    @precondition(lambda self: self.model.rows)
    @rule(number=st.integers(0, 10**6), outcome=st.sampled_from(["SUCCESS", "FAILURE"]))
    def finish_by_itself(self, number: int, outcome: str) -> None:
        """The gateway's own time-out, by compare and swap."""
        pk = self.picked(number)
        row = self.model.rows[pk]
        self.execute(
            "UPDATE tasks SET status = $2 WHERE id = $1 AND status = $3",
            pk,
            self.gateway.word(outcome),
            self.gateway.word("IN_PROGRESS"),
        )
        if row.state == "open":
            self.model.rows[pk] = replace(row, state=outcome)

    @rule(user=st.integers(1, USERS), delta=st.integers(-500, 500))
    def spend(self, user: int, delta: int) -> None:
        """A relative update of a balance."""
        self.execute("UPDATE users SET quota = quota + $2 WHERE id = $1", user, delta)
        self.model.others["users", "quota", user] += delta

    @precondition(lambda self: self.model.rows)
    @rule(number=st.integers(0, 10**6), user=st.integers(1, USERS))
    def hand_over(self, number: int, user: int) -> None:
        """A row changes hands between two reads."""
        pk = self.picked(number)
        if self.profile != "main" and pk not in self.model.ledger:
            self.execute("UPDATE tasks SET user_id = $2 WHERE id = $1", pk, user)
            self.model.rows[pk] = replace(self.model.rows[pk], user=user)

    @precondition(lambda self: self.model.rows)
    @rule(number=st.integers(0, 10**6))
    def delete_task(self, number: int) -> None:
        """A row vanishes."""
        pk = self.picked(number)
        self.execute("DELETE FROM tasks WHERE id = $1", pk)
        del self.model.rows[pk]

    @precondition(lambda self: len(self.model.users) > 1)
    @rule(number=st.integers(0, 10**6))
    def delete_user(self, number: int) -> None:
        """A user vanishes; what is owed to nobody is for a person."""
        user = sorted(self.model.users)[number % len(self.model.users)]
        self.execute("DELETE FROM users WHERE id = $1", user)
        self.model.users.discard(user)

    # -- the replicas ------------------------------------------------------------------------------------------------

    def proposals(self, wishes: list[tuple[int, str, int | None]]) -> dict[int, tuple[Settlement, Wish]]:
        """Settlements of tasks as they were read, one a pk, as the store takes them."""
        made = {}
        for number, outcome, charged in wishes:
            task = self.read[number % len(self.read)]
            charged = 0 if outcome == "FAILURE" else charged
            settlement = Settlement(task, Outcome(outcome), charged, "word", fail_reason="broken", data='{"a": 1}')
            made[task.pk] = (settlement, Wish(task.pk, task.user_id, task.channel_id, outcome, charged))
        return made

    @precondition(lambda self: self.read)
    @rule(wishes=WISHES, replica=st.integers(0, 1), times=st.integers(1, 2))
    def settle(self, wishes: list[tuple[int, str, int | None]], replica: int, times: int) -> None:
        """One batch, perhaps twice in a row."""
        made = self.proposals(wishes)
        settlements = [settlement for settlement, _ in made.values()]
        for _ in range(times):
            fates = self.patiently(lambda: self.stores[replica].settle(settlements))
            wanted = {pk: self.model.settle(wish) for pk, (_, wish) in sorted(made.items())}
            assert {fate.task.pk: fate.verdict.value for fate in fates} == wanted
            for fate in fates:
                entry = self.model.ledger.get(fate.task.pk)
                if entry and fate.verdict.value != "quarantined":
                    assert (fate.reserved, fate.charged, fate.refunded) == (
                        entry.reserved, entry.charged, entry.reserved - entry.charged,
                    )  # fmt: skip

    @precondition(lambda self: self.read)
    @rule(left=WISHES, right=WISHES)
    def settle_at_once(self, left: list[tuple[int, str, int | None]], right: list[tuple[int, str, int | None]]) -> None:
        """Two replicas with overlapping batches that do not even agree."""
        mine, theirs = self.proposals(left), self.proposals(right)

        async def both() -> None:
            ended = await asyncio.gather(
                self.stores[0].settle([settlement for settlement, _ in mine.values()]),
                self.stores[1].settle([settlement for settlement, _ in theirs.values()]),
                return_exceptions=True,
            )
            assert all(isinstance(each, list | DatabaseAway) for each in ended), repr(ended)

        self.runner.run(both())
        self.adopt([mine, theirs])

    @precondition(lambda self: self.read)
    @rule(
        wishes=WISHES,
        label=st.sampled_from(MONEY_LABELS),
        way=st.sampled_from(["terminate", "cancel", "terminate always"]),
    )
    def settle_and_be_interrupted(self, wishes: list[tuple[int, str, int | None]], label: str, way: str) -> None:
        """The session dies, or the task is cancelled, at a labelled place."""
        made = self.proposals(wishes)
        is_done = False

        def watch(reached: str) -> None:
            nonlocal is_done
            if reached == label and not is_done:
                is_done = way != "terminate always"
                if way == "cancel":
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                else:
                    self.end_sessions()

        async def settle() -> None:
            crashpoints.watch(watch)
            settling = self.stores[0].settle([settlement for settlement, _ in made.values()])
            (ended,) = await asyncio.gather(asyncio.ensure_future(settling), return_exceptions=True)
            assert isinstance(ended, list | asyncio.CancelledError | DatabaseAway), repr(ended)
            crashpoints.watch(None)
            with anyio.fail_after(LIMIT_S):
                # What was sent before may still be on its way through the server.
                while await self.gateway.rows(
                    "SELECT FROM pg_stat_activity WHERE application_name LIKE 'poller/%'"
                    " AND datname = current_database() AND state <> 'idle'"
                ):
                    await anyio.sleep(0.005)

        self.runner.run(settle())
        self.adopt([made])

    def end_sessions(self) -> None:
        query = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'poller/%' AND datname = current_database()"
        )
        thread = threading.Thread(target=asyncio.run, args=(_run(self.gateway.dsn, query),))
        thread.start()
        thread.join()

    def adopt(self, sides: list[dict[int, tuple[Settlement, Wish]]]) -> None:
        """Where chance decided, the ledger says what happened: each row must be one that somebody wished for."""
        entries = {entry["task_pk"]: entry for entry in self.runner.run(self.gateway.ledger())}
        noted = self.noted()
        wishes: dict[int, list[Wish]] = {}
        for made in sides:
            for pk, (_, wish) in made.items():
                wishes.setdefault(pk, []).append(wish)
        for pk, wanted in wishes.items():
            expected = {wish: self.model.verdict(wish) for wish in wanted}
            if pk in entries and pk not in self.model.ledger:
                entry = entries[pk]
                (chosen, *_) = [
                    wish
                    for wish, verdict in expected.items()
                    if verdict == "settled"
                    and (wish.outcome, self.model.rows[pk].quota if wish.charged is None else wish.charged)
                    == (entry["outcome"], entry["charged"])
                ]
                self.model.settle(chosen)
            else:
                # Interrupted before its commit, or refused: a note about it may be there or not.
                for wish, verdict in expected.items():
                    if verdict == "reopened" and self.status(pk) == self.model.ledger[pk].outcome:
                        self.model.settle(wish)
            if pk in noted:
                assert "quarantined" in expected.values() or pk in self.model.quarantine
                self.model.quarantine.add(pk)
            else:
                self.model.quarantine.discard(pk)

    @precondition(lambda self: self.read)
    @rule(number=st.integers(0, 10**6))
    def advance(self, number: int) -> None:
        """A status that moves no money."""
        task = self.read[number % len(self.read)]
        self.patiently(lambda: self.stores[1].advance([(task, Advance(State.IN_PROGRESS, "77%", b'{"at": 77}'))]))

    @precondition(lambda self: self.read)
    @rule(number=st.integers(0, 10**6))
    def hold(self, number: int) -> None:
        """A task goes into quarantine; not one that is settled."""
        task = self.read[number % len(self.read)]
        self.patiently(lambda: self.stores[0].quarantine([(task, "unknown_word", "")]))
        if task.pk not in self.model.ledger:
            self.model.quarantine.add(task.pk)

    # -- what must hold ----------------------------------------------------------------------------------------------

    def noted(self) -> set[int]:
        rows = self.runner.run(self.gateway.rows("SELECT task_pk FROM poller.watch WHERE quarantined_at IS NOT NULL"))
        return {row["task_pk"] for row in rows}

    def status(self, pk: int) -> str:
        row = self.runner.run(self.gateway.row("tasks", pk))
        return self.state(row["status"])

    def state(self, word: str) -> str:
        return {self.gateway.word("SUCCESS"): "SUCCESS", self.gateway.word("FAILURE"): "FAILURE"}.get(word, "open")

    @invariant()
    def every_counter_is_what_the_ledger_makes_of_it(self) -> None:
        found = {}
        for table, columns in WATCHED[self.profile].items():
            for row in self.runner.run(self.gateway.rows(f"SELECT id, {', '.join(columns)} FROM {table}")):
                for column in columns:
                    found[table, column, row["id"]] = row[column]
        wanted = self.model.counters()
        assert {counter: wanted.get(counter, 0) for counter in found} == found

    @invariant()
    def every_row_and_ledger_entry_is_as_the_model_has_it(self) -> None:
        rows = self.runner.run(self.gateway.rows("SELECT id, user_id, status, quota FROM tasks"))
        assert {row["id"]: (row["user_id"], self.state(row["status"]), row["quota"]) for row in rows} == {
            pk: (row.user, row.state, row.quota) for pk, row in self.model.rows.items()
        }
        entries = self.runner.run(self.gateway.ledger())
        assert {
            each["task_pk"]: (each["user_id"], each["outcome"], each["reserved"], each["charged"]) for each in entries
        } == {pk: (entry.user, entry.outcome, entry.reserved, entry.charged) for pk, entry in self.model.ledger.items()}


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_whatever_gateways_and_replicas_do_the_store_is_as_the_model_says(pg_server, profile_name):
    machine = type("Machine", (Gateways,), {"server": pg_server, "profile": profile_name})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            phases=[phase for phase in Phase if IS_SHRINKING or phase is not Phase.shrink],
        ),
    )
