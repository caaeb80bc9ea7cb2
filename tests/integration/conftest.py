"""Servers that belong to one test, which may break them. They stop with the test."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.servers import GatewayServer, RedisServer


@pytest.fixture
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Return a function that starts a Redis server with command-line options."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            server = RedisServer(tmp_path_factory.mktemp("redis"), *options)
            stack.callback(server.stop)
            return server.start()

        yield start


@pytest.fixture
def durable_redis(start_redis: Callable[..., RedisServer]) -> RedisServer:
    """Start a server that keeps its data when it is killed."""
    return start_redis("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def start_gateway(
    redis_server: RedisServer,
    start_redis: Callable[..., RedisServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., GatewayServer]]:
    """Return a function that starts a gateway, by default on the shared Redis server.

    Settings are given as environment variables. After the test, no log may hold a traceback.
    """
    gateways: list[GatewayServer] = []

    def start(redis_url: str = redis_server.url, **settings: object) -> GatewayServer:
        log = tmp_path_factory.mktemp("gateway") / "log"
        gateways.append(GatewayServer(redis_url, log, **settings))
        return gateways[-1].start()

    yield start
    for gateway in gateways:
        gateway.stop()
    for gateway in gateways:
        assert "Traceback" not in gateway.log.read_text()


@pytest.fixture
def impatient_gateway(start_gateway: Callable[..., GatewayServer]) -> GatewayServer:
    """Start a gateway that disconnects clients after one second without progress."""
    return start_gateway(application="tests.programs.impatient_gateway:app")
