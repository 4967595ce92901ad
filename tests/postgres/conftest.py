"""What the tests of the database's side share."""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from poller.demo.embedded import Server
from tests.postgres.books import Books
from tests.postgres.gateway import open_site
from tests.postgres.proxy import Proxy


@pytest.fixture
async def make_proxy(pg_server: Server) -> AsyncIterator[Callable[[str], Awaitable[tuple[Proxy, str]]]]:
    """``proxy, dsn = await make_proxy(dsn)``: the same database through a proxy."""
    made: list[Proxy] = []

    async def make(dsn: str) -> tuple[Proxy, str]:
        proxy = Proxy(pg_server.folder / f".s.PGSQL.{pg_server.port}")
        await proxy.start()
        made.append(proxy)
        name = urllib.parse.urlsplit(dsn).path
        return proxy, f"postgresql://postgres@127.0.0.1:{proxy.port}{name}?sslmode=disable"

    yield make
    for proxy in made:
        await proxy.close()


@pytest.fixture
async def books(make_database, open_database, profile_name) -> AsyncIterator[Books]:
    """A gateway of each profile whose past is for the test to write."""
    site = await open_site(make_database, open_database, profile_name)
    books = Books(site, site.gateway.dsn)
    await books.vouched()
    yield books
    await site.gateway.connection.close()
