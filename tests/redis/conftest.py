"""Servers of every kind, and gateways on them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.redis.programs import Program
from tests.servers import GatewayServer, RedisServer


@pytest.fixture
def start_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Return a function that starts a program with options, by default in a new directory."""
    with contextlib.ExitStack() as stack:

        def start(
            program: Program, *options: str, directory: Path | None = None, **more: Path
        ) -> RedisServer:
            directory = directory or tmp_path_factory.mktemp("redis")
            server = RedisServer(directory, *options, binary=program.path, **more)
            return stack.enter_context(server)

        yield start


@pytest.fixture
def start_gateway(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., GatewayServer]]:
    """Return a function that starts a gateway. After the test, its log may hold no traceback."""
    with contextlib.ExitStack() as stack:

        def start(redis_url: str, **settings: object) -> GatewayServer:
            log = tmp_path_factory.mktemp("gateway") / "log"
            return stack.enter_context(GatewayServer(redis_url, log, **settings))

        yield start
