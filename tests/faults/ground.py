"""What schedules run on: a cluster with a database of the gateway's, and the nursery of the daemons."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio
import asyncpg

from poller.core.model import Secret
from poller.demo import world
from poller.demo.simulator import Simulator
from poller.postgres.migrate import migrate
from poller.postgres.pool import open_pool
from tests.e2e.harness import truth_of
from tests.faults import checker
from tests.faults.cluster import Cluster
from tests.faults.nursery import Nursery
from tests.faults.plan import Plan


@contextlib.asynccontextmanager
async def cluster_and_nursery() -> AsyncIterator[tuple[Cluster, Nursery]]:
    """A cluster and a nursery for the length of the block."""
    cluster, nursery = Cluster(), Nursery()
    nursery.start()
    try:
        async with nursery.attached():
            try:
                await cluster.open()
                yield cluster, nursery
            finally:
                with anyio.CancelScope(shield=True):
                    await cluster.close()
    finally:
        nursery.stop()


class Ground:
    """The database of one schedule. *name* is its own, ``<name>_logs`` may be beside it."""

    def __init__(self, plan: Plan, cluster: Cluster) -> None:
        self.name = f"schedule_{plan.number}"
        self._plan = plan
        self._cluster = cluster

    def dsn(self) -> str:
        """The database itself, past every proxy."""
        return self._cluster.dsn(self.name)

    async def connect(self) -> asyncpg.Connection:
        """A session that is no daemon's."""
        return await asyncpg.connect(self.dsn(), server_settings={"application_name": "rig"})

    async def ask(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Run *query* as a person would, in this database."""
        return await self._cluster.ask(query, *args, database=self.name)

    async def seed(self, url: str, simulator: Simulator) -> None:
        """Tasks that were charged, and the witnesses."""
        template = await self._template()
        root = await asyncpg.connect(self._cluster.dsn())
        await root.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
        await root.execute(f"CREATE DATABASE {self.name} TEMPLATE {template} STRATEGY file_copy")
        await root.close()
        connection = await self.connect()
        plan = self._plan
        await world.seed(connection, plan.profile, tasks=plan.tasks, upstream=url, truth=truth_of(simulator))
        if "keys" in plan.circumstances:
            await connection.execute(checker.SECOND_KEY)
        await checker.install(connection, plan.profile)
        await connection.copy_records_to_table(
            "rule", schema_name="inv", records=[(rule,) for rule in plan.circumstances]
        )
        await connection.close()

    async def drop(self) -> None:
        """Nobody needs to look at it."""
        root = await asyncpg.connect(self._cluster.dsn())
        for name in (self.name, f"{self.name}_logs"):
            await root.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await root.close()

    async def _template(self) -> str:
        profile = self._plan.profile
        name = f"template_{profile}"
        root = await asyncpg.connect(self._cluster.dsn())
        try:
            if not await root.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name):
                await root.execute(f"CREATE DATABASE {name} TEMPLATE template0")
                connection = await asyncpg.connect(self._cluster.dsn(name))
                await world.make_gateway(connection, profile)
                await connection.close()
                database = await open_pool(
                    Secret(self._cluster.dsn(name)), max_open=2, max_idle=1, lifetime_s=60.0, application_name="rig"
                )
                await migrate(database, profile)
                await database.close()
        finally:
            await root.close()
        return name
