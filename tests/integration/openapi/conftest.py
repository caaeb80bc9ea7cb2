"""Gateways that have authentication, so that they offer all operations, and their tokens."""

from collections.abc import Callable, Iterator

import pytest

from app.auth.tokens import make_token
from tests.servers import DURABLE, GatewayServer, RedisServer

SECRET = "a secret of more than thirty-two bytes"


def token(seconds: float = 3600, **grants: list[str]) -> str:
    return make_token(SECRET, "tailrace", grants, seconds, sub="tester", aud="tailrace")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Start a server of this module's own, since it is emptied. Nothing is to be warned of."""
    with RedisServer(tmp_path_factory.mktemp("redis"), *DURABLE) as server:
        yield server


@pytest.fixture(scope="module")
def start(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., GatewayServer]]:
    """Return a function that starts a gateway on that server, with some settings."""
    gateways = []

    def start(**settings: object) -> GatewayServer:
        log = tmp_path_factory.mktemp("gateway") / "log"
        gateways.append(GatewayServer(server.url, log, **settings).__enter__())
        return gateways[-1]

    yield start
    for gateway in gateways:
        gateway.__exit__()


@pytest.fixture(scope="module")
def guarded(start: Callable[..., GatewayServer]) -> GatewayServer:
    return start(AUTH_SECRET=SECRET)
