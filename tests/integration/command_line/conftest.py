"""A folder for outputs, and a gateway that the test may disturb."""

from pathlib import Path

import pytest

from tests.servers import GatewayServer


@pytest.fixture
def own_gateway(start_gateway) -> GatewayServer:
    """Start a gateway that the test may reload, kill and stop."""
    return start_gateway(RETRY_MS=100, DRAIN_SECONDS=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
