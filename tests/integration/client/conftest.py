"""A client of the shared gateway, a proxy before that, and a gateway to stop and start.

The tests of this folder run over both clients.
"""

from collections.abc import Iterator

import pytest

from app.client import Client
from tests.both_clients import client_class, pytest_generate_tests  # noqa: F401
from tests.integration.client.proxy import Proxy
from tests.servers import GatewayServer


@pytest.fixture
def client(gateway, client_class) -> Iterator[Client]:  # noqa: F811
    with client_class(gateway.url) as client:
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
