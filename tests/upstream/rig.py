"""One lane with everything real beneath it: its database, its store and leases, its client, its recorder.

A pass is driven by hand, ``await rig.walk()``, and what it changed is told by pictures of the gateway's tables taken
before and after, physical row versions included.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from poller.core.concurrency import Slots
from poller.core.model import Channel, Policy, StatusWords
from poller.core.passes import PassCounts, Rules
from poller.core.words import DEFAULT_WORDS
from poller.gate import Gate
from poller.lane import Lane, Tools
from poller.ops.metrics import Metrics
from poller.ops.recorder import Recorder
from poller.postgres.leases import Leases
from poller.postgres.statements import load
from poller.upstream.client import Client, Limits
from poller.upstream.retrying import ask_with_retries
from tests.ops.things import Lines
from tests.postgres.gateway import MODEL, Gateway, Site, open_site

LIMIT_S = 60.0
"""Generous: a pass that takes as long will never end."""
INTERVAL_S = 30.0
LIFETIME_S = 3600.0
RATIO = 2
"""Quota that a token of the seeded model costs, at group ratio 1."""


class Rig:
    """Lanes on one database. Counters are read from the metrics that the daemon exposes."""

    def __init__(self, site: Site, **settings: Any) -> None:
        self.site = site
        self.gateway: Gateway = site.gateway
        self.metrics = Metrics()
        self.lines = Lines()
        self.recorder = Recorder(self.metrics, self.lines)
        self.lanes: dict[int, Lane] = {}
        self._settings = {
            "batch_size": 50,
            "slots": 20,
            "timeout_s": 5.0,
            "max_bytes": 1 << 20,
            "retry_count": 0,
            "ca_file": None,
            "words": DEFAULT_WORDS,
            "refunds": True,
            "page_size": 1000,
            "max_refund_per_hour": None,
        } | settings
        statements = load(site.gateway.profile)
        self.leases = Leases(site.database, statements, "replica-1", 60.0)
        self.gate = Gate(Slots(self._settings["slots"]))
        self._users: list[int] = []

    # -- seeding -----------------------------------------------------------------------------------------------------

    async def channel(self, url: str, **more: Any) -> int:
        return await self.gateway.channel(base_url=url, **more)

    async def task(self, channel: int, **more: Any) -> int:
        """A task of a user of its own, submitted just now (*age_s* ago); its id upstream is its ``task_id``."""
        user = more.pop("user", None)
        if user is None:
            user = await self.gateway.user(quota=10_000)
            self._users.append(user)
        age_s = more.pop("age_s", 60.0)
        if self.gateway.profile == "documented":
            pk = await self.gateway.task(user, channel, **more)
            await self.gateway.connection.execute(
                "UPDATE tasks SET created_at = now() - make_interval(secs => $2) WHERE id = $1", pk, float(age_s)
            )
            return pk
        now = int(await self.gateway.connection.fetchval("SELECT extract(epoch FROM now())"))
        born = now - int(age_s)
        return await self.gateway.task(user, channel, **({"submit_time": born, "created_at": born} | more))

    async def prices(self) -> None:
        """What the seeded model costs: ``RATIO`` a token."""
        if self.gateway.profile == "documented":
            await self.gateway.connection.execute(
                "INSERT INTO abilities (model_name, channel_type, ratio) VALUES ($1, 52, $2)", MODEL, RATIO
            )
        else:
            await self.gateway.connection.execute(
                "INSERT INTO options (key, value) VALUES ('ModelRatio', $1), ('GroupRatio', $2)",
                f'{{"{MODEL}": {RATIO}}}',
                '{"default": 1}',
            )

    # -- walking -----------------------------------------------------------------------------------------------------

    def lane(self, channel: int) -> Lane:
        """The lane of *channel*, opened at first and kept."""
        if channel not in self.lanes:
            self.lanes[channel] = Lane(channel, self.rules(), self.tools())
        return self.lanes[channel]

    def rules(self, **changes: Any) -> Rules:
        of = self._settings | changes

        def policy(words: StatusWords) -> Policy:
            return Policy(words, INTERVAL_S, LIFETIME_S, of["refunds"], 3, 300.0)

        return Rules(
            policy=policy,
            base_words=of["words"],
            interval_s=of.get("interval_s", INTERVAL_S),
            batch_size=of["batch_size"],
            page_size=of["page_size"],
            max_in_flight=of["slots"],
            max_refund_per_hour=of["max_refund_per_hour"],
            is_patient=of.get("is_patient", True),
        )

    def tools(self) -> Tools:
        of = self._settings
        limits = Limits(of["timeout_s"], of["timeout_s"], of["max_bytes"], of["slots"], of["ca_file"])

        def open_client(channel: Channel) -> Client:
            return Client(channel, limits)

        retrying = functools.partial(
            ask_with_retries, retry_count=of["retry_count"], first_delay_s=0.01, last_delay_s=0.05, total_s=LIMIT_S
        )
        return Tools(self.site.store, self.leases, self.gate, self.recorder, open_client, retrying)

    async def hold(self) -> None:
        """Take the leases of all channels that have work."""
        await self.leases.beat()

    async def walk(self, channel: int, passes: int = 1) -> PassCounts:
        """The counts of the last of *passes* passes over *channel*."""
        counts = PassCounts()
        with anyio.fail_after(LIMIT_S):
            await self.hold()
            for _ in range(passes):
                counts = await self.lane(channel).walk()
        return counts

    async def close(self) -> None:
        for lane in self.lanes.values():
            await lane.asker.close()
        await self.gateway.connection.close()

    # -- looking -----------------------------------------------------------------------------------------------------

    async def picture(self) -> dict[str, list[dict[str, Any]]]:
        """All rows of the gateway's tables in their physical versions, and of the ledger."""
        tables = ["tasks", "users", "tokens", "channels", "logs"]
        found = {
            table: await self.gateway.rows(f"SELECT ctid::text, xmin::text, * FROM {table} ORDER BY id")
            for table in tables
        }
        return found | {"ledger": await self.gateway.ledger()}

    async def save(self, row: dict[str, Any]) -> None:
        """What a gateway does that read *row* (of a picture) long ago: it writes all of it back."""
        columns = [name for name in row if name not in ("ctid", "xmin", "id")]
        setting = ", ".join(f'"{name}" = ${place}' for place, name in enumerate(columns, 2))
        await self.gateway.connection.execute(
            f"UPDATE tasks SET {setting} WHERE id = $1", row["id"], *(row[name] for name in columns)
        )

    async def watched(self) -> list[dict[str, Any]]:
        return await self.gateway.rows("SELECT * FROM poller.watch ORDER BY task_pk")

    async def state(self, pk: int) -> str:
        """The state of a task in the words of the daemon."""
        said = (await self.gateway.row("tasks", pk))["status"]
        words = {self.gateway.word(state): state for state in ("SUBMITTED", "IN_PROGRESS", "SUCCESS", "FAILURE")}
        return words[said]

    def _samples(self, family: str, label: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for metric in self.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == family and sample.value:
                    found[sample.labels[label]] += int(sample.value)
        return found

    def reasons(self) -> Counter[str]:
        """Requests by how they went: ``ok``, or an AskReason; those that were not sent among them."""
        sent = self._samples("custompass_requests_total", "reason")
        return sent + self._samples("custompass_unsent_requests_total", "reason")

    def anomalies(self) -> Counter[str]:
        return self._samples("custompass_anomalies_total", "kind")


MakeRig = Callable[..., Awaitable[Rig]]


async def open_rig(make_database: Any, open_database: Any, profile: str = "main", **settings: Any) -> Rig:
    """A rig on a fresh database of *profile*, with prices."""
    site = await open_site(
        make_database, open_database, profile, base_words=settings.get("words", DEFAULT_WORDS), cache_s=0.0
    )
    rig = Rig(site, **settings)
    await rig.prices()
    return rig
