"""Each proxy before a gateway whose heartbeats come every second."""

from collections.abc import Iterator

import pytest

from tests.field.proxies import CONFIGURED, Proxy, each_of
from tests.servers import GatewayServer, RedisServer


@pytest.fixture(scope="session")
def brisk_gateway(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    settings = {"HEARTBEAT_SECONDS": 1, "RETRY_MS": 300, "ALLOWED_HOSTS": "tailrace.example"}
    with GatewayServer(redis_server.url, log, **settings) as gateway:
        yield gateway


@pytest.fixture(scope="module", params=each_of(*CONFIGURED))
def proxy(
    request: pytest.FixtureRequest,
    brisk_gateway: GatewayServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    """Start each proxy that docs/deploy.md shows a configuration of."""
    with request.param(tmp_path_factory.mktemp("proxy"), brisk_gateway.port) as proxy:
        yield proxy
