"""Clusters, and gateways on them. Fixtures of the other tests are those of a cluster here."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from app.streaming.event_store import EventStore
from tests.cluster.followers import Followers
from tests.cluster_servers import ClusterServers
from tests.redis.programs import REDIS_OF_DEBIAN, Program, needs
from tests.servers import GatewayServer

StartCluster = Callable[..., ClusterServers]
StartGateway = Callable[..., GatewayServer]


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    """Start a cluster of the launcher's server, of which no test may break anything."""
    with ClusterServers(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture(scope="session")
def cluster_of_debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    """Start a cluster of Debian's Redis, of which no test may break anything."""
    directory = tmp_path_factory.mktemp("debian")
    with ClusterServers(directory, binary=REDIS_OF_DEBIAN.binary) as servers:
        yield servers


@pytest.fixture(
    params=["shared_cluster", pytest.param("cluster_of_debian", marks=needs(REDIS_OF_DEBIAN))]
)
def any_cluster(request: pytest.FixtureRequest) -> ClusterServers:
    """Run the test twice: on a cluster of the launcher's server, and on one of Debian's."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def program() -> Program | None:
    """Return None, for the launcher's server. A parameter of a test takes its place."""
    return None


@pytest.fixture
def binary(program: Program | None) -> str | None:
    """Return the path of the program of the servers that a test starts."""
    return program and program.binary


@pytest.fixture
def start_cluster(tmp_path: Path, binary: str | None) -> Iterator[StartCluster]:
    """Return a function that starts a cluster which the test may break."""
    with contextlib.ExitStack() as stack:

        def start(*sizes: int, options: tuple[str, ...] = ()) -> ClusterServers:
            servers = ClusterServers(
                tmp_path / "cluster", *(sizes or (3, 1)), *options, binary=binary
            )
            return stack.enter_context(servers)

        yield start


@pytest.fixture
def start_gateway(
    shared_cluster: ClusterServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartGateway]:
    """Return a function that starts a gateway, by default on the shared cluster.

    After the test, no log may hold a traceback.
    """
    with contextlib.ExitStack() as stack:

        def start(redis_url: str = shared_cluster.url, **settings: object) -> GatewayServer:
            log = tmp_path_factory.mktemp("gateway") / "log"
            return stack.enter_context(GatewayServer(redis_url, log, **settings))

        yield start


@pytest.fixture
def followers() -> Iterator[Callable[[EventStore], Followers]]:
    """Return a function that makes followers of runs of a store, in this process."""
    with contextlib.ExitStack() as stack:
        yield lambda store: stack.enter_context(Followers(store))


# What the tests of other packages use, for those that run here too.


@pytest.fixture(scope="session")
def redis_server(shared_cluster: ClusterServers) -> ClusterServers:
    return shared_cluster


@pytest.fixture(scope="session")
def redis_client(shared_cluster: ClusterServers) -> Iterator[redis.RedisCluster]:
    client = redis.RedisCluster("127.0.0.1", shared_cluster.masters[0].port, protocol=2)
    yield client
    client.close()


@pytest.fixture(scope="session")
def store(shared_cluster: ClusterServers) -> EventStore:
    return EventStore(shared_cluster.url)


@pytest.fixture
def any_store(store: EventStore) -> EventStore:
    return store


@pytest.fixture
def client(redis_client: redis.RedisCluster) -> redis.RedisCluster:
    return redis_client


@pytest.fixture(scope="session")
def gateway(
    shared_cluster: ClusterServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with GatewayServer(shared_cluster.url, log) as gateway:
        yield gateway
