"""What all tests share: a store on fakeredis, a real server, and a real gateway on it."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import fakeredis
import pytest
import redis

from app.streaming.event_store import EventStore
from tests.servers import GatewayServer, RedisServer

_numbers = itertools.count(1)


@pytest.fixture
def run_id() -> str:
    """A run that no other test has."""
    return f"run-{next(_numbers)}"


@pytest.fixture
def fake_client() -> redis.Redis:
    return fakeredis.FakeRedis(protocol=2)


@pytest.fixture
def fake_store(fake_client: redis.Redis) -> EventStore:
    return EventStore(client=fake_client)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real server that tests share; those that break it start one of their own."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture(scope="session")
def store(redis_server: RedisServer) -> EventStore:
    return EventStore(redis_server.url)


@pytest.fixture(params=["fakeredis", "server"])
def any_store(request: pytest.FixtureRequest) -> EventStore:
    """The same test on fakeredis and on a real server."""
    return request.getfixturevalue("fake_store" if request.param == "fakeredis" else "store")


@pytest.fixture
def client(request: pytest.FixtureRequest, any_store: EventStore) -> redis.Redis:
    """A client of the server that `any_store` is on."""
    on_fakeredis = request.node.callspec.params["any_store"] == "fakeredis"
    return request.getfixturevalue("fake_client" if on_fakeredis else "redis_client")


@pytest.fixture(scope="session")
def gateway(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    """A real gateway that tests share, with one worker."""
    log: Path = tmp_path_factory.mktemp("gateway") / "log"
    server = GatewayServer(redis_server.url, log).start()
    yield server
    server.stop()
