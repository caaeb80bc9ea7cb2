"""Fixtures of the tests of reading: an archive in memory, and stores that read from it."""

import fakeredis
import pytest
import redis

from app.archive.archive import Archive
from app.streaming.event_store import EventStore
from tests.archive.memory_storage import MemoryStorage
from tests.servers import RedisServer


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def archive(storage: MemoryStorage) -> Archive:
    return Archive(storage)


@pytest.fixture(params=["fakeredis", "server"])
def client(request: pytest.FixtureRequest) -> redis.Redis:
    """Run the test twice: on fakeredis and on a real server."""
    if request.param == "server":
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.client()
    client = fakeredis.FakeRedis(protocol=2)
    client.exists("any key")  # in a database that a script makes it is 1970
    return client


@pytest.fixture
def store(client: redis.Redis, archive: Archive) -> EventStore:
    """A store that reads from the archive."""
    return EventStore(client=client, archive=archive)
