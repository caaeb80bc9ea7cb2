"""A client of the shared gateway, a proxy before that, and a gateway to stop and start."""

from collections.abc import Iterator

import pytest

from app.client import Client
from tests.integration.client.proxy import Proxy
from tests.servers import GatewayServer


@pytest.fixture
def client(gateway) -> Iterator[Client]:
    with Client(gateway.url) as client:
        yield client


@pytest.fixture
def own_gateway(redis_server, tmp_path) -> Iterator[GatewayServer]:
    """Start a gateway that the test may stop and start."""
    log = tmp_path / "gateway.log"
    gateway = GatewayServer(redis_server.url, log, RETRY_MS=100, DRAIN_SECONDS=0).start()
    yield gateway
    gateway.stop()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def proxy(gateway) -> Iterator[Proxy]:
    proxy = Proxy(gateway.port)
    yield proxy
    proxy.close()
