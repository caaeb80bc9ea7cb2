"""Servers of a test's own, which it may break: they end with the test, gateways first."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.servers import GatewayServer, RedisServer


@pytest.fixture
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Starts a server, with options as on its command line."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            server = RedisServer(tmp_path_factory.mktemp("redis"), *options)
            stack.callback(server.stop)
            return server.start()

        yield start


@pytest.fixture
def breakable(start_redis: Callable[..., RedisServer]) -> RedisServer:
    """A server that keeps its data over a kill."""
    return start_redis("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def start_gateway(
    redis_server: RedisServer,
    start_redis: Callable[..., RedisServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., GatewayServer]]:
    """Starts a gateway, on the shared server unless on another, with settings as variables."""
    with contextlib.ExitStack() as stack:

        def start(redis_url: str = redis_server.url, **settings: object) -> GatewayServer:
            log = tmp_path_factory.mktemp("gateway") / "log"
            gateway = GatewayServer(redis_url, log, **settings)
            stack.callback(gateway.stop)
            return gateway.start()

        yield start
