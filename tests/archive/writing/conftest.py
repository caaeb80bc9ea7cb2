"""Fixtures of the tests of the archiver: notes, and an archiver of a store."""

import pytest

from app.archive.writing.archiver import Archiver
from app.archive.writing.metrics import Metrics
from app.archive.writing.notes import Notes
from app.streaming.event_store import EventStore
from tests.servers import RedisServer


@pytest.fixture
def notes(any_store: EventStore) -> Notes:
    return Notes(any_store, "one")


@pytest.fixture
def others_notes(any_store: EventStore) -> Notes:
    return Notes(any_store, "another")


@pytest.fixture
def own_redis(tmp_path) -> RedisServer:
    """Start a server whose runs are those of this test alone."""
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def own_store(own_redis) -> EventStore:
    return EventStore(own_redis.url)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def archiver(own_store, archive, metrics) -> Archiver:
    return Archiver(own_store, archive, hold_seconds=100, idle_ttl_seconds=604_800, metrics=metrics)
