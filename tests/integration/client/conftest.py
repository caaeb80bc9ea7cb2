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
def own_gateway(start_gateway) -> GatewayServer:
    """Start a gateway that the test may stop and start."""
    return start_gateway(RETRY_MS=100, DRAIN_SECONDS=0)


@pytest.fixture
def proxy(gateway) -> Iterator[Proxy]:
    proxy = Proxy(gateway.port)
    yield proxy
    proxy.close()
