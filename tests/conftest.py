"""Fixtures that all tests share: stores on fakeredis and on a real server, and a real gateway.

Under pytest-xdist every test process has a Redis server and a gateway for itself.
"""

import itertools
import os
import sys
from collections.abc import Iterator

import fakeredis
import hypothesis
import pytest
import redis

from app.streaming.event_store import EventStore
from tests.scheduling import GroupScheduling
from tests.servers import GatewayServer, RedisServer, free_port, wait_until

# Most tests start processes, which would each compile the whole app where bytecode is not kept.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A loaded machine may take any time for an example.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

_numbers = itertools.count(1)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling:
    return GroupScheduling(config, log)


@pytest.fixture
def run_id() -> str:
    """Return the id of a run that no other test of this process uses."""
    return f"run-{next(_numbers)}"


@pytest.fixture
def fake_client() -> redis.Redis:
    client = fakeredis.FakeRedis(protocol=2)
    # In a database that a script makes it is 1970, so what it lets expire is gone at once.
    client.exists("any key")
    return client


@pytest.fixture
def fake_store(fake_client: redis.Redis) -> EventStore:
    return EventStore(client=fake_client)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Start a real server for all tests of this process. A test that breaks it starts another."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture(scope="session")
def store(redis_server: RedisServer) -> Iterator[EventStore]:
    store = EventStore(redis_server.url)
    yield store
    store.engine.close()  # the thread of a waker keeps it for ever


@pytest.fixture(params=["fakeredis", "server"])
def any_store(request: pytest.FixtureRequest) -> EventStore:
    """Run the test twice: on fakeredis and on a real server."""
    return request.getfixturevalue("fake_store" if request.param == "fakeredis" else "store")


@pytest.fixture
def client(request: pytest.FixtureRequest, any_store: EventStore) -> redis.Redis:
    """Return a client of the server that `any_store` uses."""
    on_fakeredis = request.node.callspec.params["any_store"] == "fakeredis"
    return request.getfixturevalue("fake_client" if on_fakeredis else "redis_client")


@pytest.fixture(scope="session")
def gateway(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    """Start a real gateway with one worker for all tests of this process."""
    with GatewayServer(redis_server.url, tmp_path_factory.mktemp("gateway") / "log") as gateway:
        yield gateway


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Start a cluster of one node that has all slots."""
    folder = tmp_path_factory.mktemp("cluster")
    bus = str(free_port())  # by default it is the port + 10,000, which may be none
    with RedisServer(folder, "--cluster-enabled", "yes", "--cluster-port", bus) as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"),
                       "it serves")  # fmt: skip
        yield server
