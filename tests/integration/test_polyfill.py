"""Yaffle's EventSource polyfill under Node.js: its cursor goes into the page's URL."""

import pytest

from tests.processes import run_node, sequences_of
from tests.raw_http import stream_path
from tests.servers import GatewayServer

# The polyfill waits no less than a second before it reconnects.
RETRY_MS = 1000


@pytest.fixture
def breaking_gateway(start_gateway) -> GatewayServer:
    return start_gateway(RETRY_MS=RETRY_MS)


def disconnect_all(gateway: GatewayServer) -> None:
    """Restart the gateway, so that every stream ends."""
    gateway.stop()
    gateway.start()


@pytest.mark.parametrize(
    ("cursor", "first"),
    [
        ("last_event_id={0}", 2),
        ("lastEventId={0}", 2),
        ("tail=4", 2),
        ("last_event_id={0}&lastEventId={1}", 3),
    ],
)
def test_no_event_comes_twice_through_two_breaks(
    breaking_gateway, store, run_id, tmp_path, cursor, first
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(5)]
    url = f"{breaking_gateway.url}{stream_path(run_id, cursor.format(*ids))}"
    with run_node("polyfill.mjs", tmp_path / "out", url) as script:
        for opened in (1, 2, 3):
            script.wait_for("gateway.caught_up", opened)
            store.add(run_id, "llm", "stream", "live")
            script.wait_for('"live"', opened)
            if opened < 3:
                disconnect_all(breaking_gateway)
        store.add(run_id, "lifecycle", "completed")
        lines = script.finish()
    assert sequences_of(lines) == list(range(first, 10))
    assert [line["what"] for line in lines].count("open") == 3
