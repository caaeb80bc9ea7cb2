"""Servers for integration tests: those of one test, which may break them, and an impatient one."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.servers import DURABLE, GatewayServer, RedisServer


@pytest.fixture
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Return a function that starts a Redis server with command-line options."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            return stack.enter_context(RedisServer(tmp_path_factory.mktemp("redis"), *options))

        yield start


@pytest.fixture
def durable_redis(start_redis: Callable[..., RedisServer]) -> RedisServer:
    """Start a server that keeps its data when it is killed."""
    return start_redis(*DURABLE)


@pytest.fixture
def start_gateway(
    redis_server: RedisServer,
    start_redis: Callable[..., RedisServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., GatewayServer]]:
    """Return a function that starts a gateway, by default on the shared Redis server.

    Settings are given as environment variables. After the test, no log may hold a traceback.
    """
    with contextlib.ExitStack() as stack:

        def start(redis_url: str = redis_server.url, **settings: object) -> GatewayServer:
            log = tmp_path_factory.mktemp("gateway") / "log"
            return stack.enter_context(GatewayServer(redis_url, log, **settings))

        yield start


@pytest.fixture(scope="session")
def impatient_gateway(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    """Start a gateway that disconnects clients after one second without progress."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    application = "tests.programs.impatient_gateway:app"
    with GatewayServer(redis_server.url, log, application=application) as gateway:
        yield gateway
