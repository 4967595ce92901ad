"""What the side port and the signals may do to the running daemon."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from poller.console import Console
from poller.errors import NoSuchChannel
from poller.postgres.leases import Leases
from poller.postgres.statements import load
from poller.postgres.watchman import Watchman
from tests.ops.things import recorder


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_a_channel_that_is_not_there_is_refused_and_nothing_written(make_database, open_database, verb: str):
    database, told = await open_database(await make_database("main")), recorder()[0]
    leases = Leases(database, load("main"), "r1", 15.0)
    console = Console("r1", told, [52])
    console.attach(SimpleNamespace(wake=lambda: None), leases, Watchman(database, load("main")))
    with pytest.raises(NoSuchChannel, match="channel 999: no such channel"):
        await getattr(console, verb)(999)
    assert await leases.lanes_overview() == []
    await getattr(console, verb)(None)


async def test_the_status_of_a_replica_without_its_database_is_what_is_wrong(make_database, open_database):
    database, told = await open_database(await make_database("main")), recorder()[0]
    leases = Leases(database, load("main"), "r1", 15.0)
    console = Console("r1", told, [52])
    fleet = SimpleNamespace(lanes={}, has_beaten=True)
    console.attach(fleet, leases, Watchman(database, load("main")))
    assert (await console.status())["fleet"] == []
    await database.close()
    status = await console.status()
    assert (status["replica"], status["fleet"]) == ("r1", [])
    assert status["checks"]["database"].startswith("lost: ")
