from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cache.server import RedisServer, needed


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running Redis of this test's own."""
    needed()
    server = RedisServer()
    server.start()
    yield server
    server.close()
