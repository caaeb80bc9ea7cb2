"""A master and a replica, of any kind of server, and ways in which the replica falls behind."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.redis.programs import Program
from tests.servers import ReplicatedServers


@pytest.fixture
def start_replicated(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., ReplicatedServers]]:
    """Return a function that starts a master, a replica and a Sentinel, of one program."""
    with contextlib.ExitStack() as stack:

        def start(program: Program | None = None) -> ReplicatedServers:
            path = program and program.path
            servers = ReplicatedServers(tmp_path_factory.mktemp("replicated"), path, path)
            stack.callback(servers.stop)
            return servers

        yield start


@pytest.fixture
def replicated(start_replicated: Callable[..., ReplicatedServers]) -> ReplicatedServers:
    return start_replicated()


def freeze(servers: ReplicatedServers) -> None:
    servers.replica.pause()


def cut_off(servers: ReplicatedServers) -> None:
    servers.cut_replica_off()


def kill(servers: ReplicatedServers) -> None:
    servers.replica.stop()


@pytest.fixture(params=[freeze, cut_off, kill])
def fall_behind(request: pytest.FixtureRequest) -> Callable[[ReplicatedServers], None]:
    """Return what happens to the replica: it is frozen, frozen and disconnected, or killed."""
    return request.param
