"""The runs that the scenarios of a module of tests have left: those of its `MODULE`."""

import pytest

from app.streaming.event_store import EventStore
from tests.field.producers.recorded import Recorded, run_scenarios
from tests.servers import GatewayServer


@pytest.fixture(scope="module")
def recorded(
    request: pytest.FixtureRequest,
    gateway: GatewayServer,
    store: EventStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Recorded:
    module = request.module.MODULE
    return run_scenarios(module, gateway, store, tmp_path_factory.mktemp(module))
