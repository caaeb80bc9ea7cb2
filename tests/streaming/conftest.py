"""Fixtures of the tests of the log: shared connections, and a server that a test may break."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.streaming.redis import connection, shared_connection
from app.streaming.redis.connection import RedisConnection, Reply
from app.streaming.redis.shared_connection import SharedConnection
from tests.servers import RedisServer
from tests.streaming.redis.callers import share_to


@pytest.fixture
def shared(redis_server: RedisServer) -> SharedConnection:
    return share_to(redis_server)


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[RedisServer]:
    """Start a server for this test alone."""
    server = RedisServer(tmp_path).start()
    yield server
    server.stop()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of commands of each round trip."""
    sizes: list[int] = []

    def exchange_packed(link: RedisConnection, packed: bytes, replies: int) -> list[Reply]:
        # The clocks of other tests' stores ping, and their clusters are watched.
        if b"#!lua" not in packed and b"CLUSTER" not in packed:
            sizes.append(replies)
        return connection.exchange_packed(link, packed, replies)

    monkeypatch.setattr(shared_connection, "exchange_packed", exchange_packed)
    return sizes
