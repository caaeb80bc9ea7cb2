"""200 clients of each kind are cut off, each after another event, and none loses or doubles one."""

import pytest

from tests.agents.answers import Chunk, answer
from tests.agents.following import (
    KINDS,
    PRESETS,
    append,
    are_installed,
    begins,
    events_of,
    expected,
    following,
    lifecycle,
)
from tests.agents.relay import Relay
from tests.servers import GatewayServer, wait_until

CUTS = 200
PARTS = 8

pytestmark = [are_installed, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def presets(redis_server, tmp_path_factory):
    log = tmp_path_factory.mktemp("gateway") / "log"
    settings = {"COMPAT": PRESETS, "HEARTBEAT_SECONDS": 1}
    with GatewayServer(redis_server.url, log, **settings) as gateway:
        yield gateway


def append_answer(gateway: GatewayServer, run_id: str, chunks: list[Chunk]) -> None:
    """Append an answer in parts, and its end."""
    events = events_of(chunks)
    size = -(-len(events) // PARTS)
    for at in range(0, len(events), size):
        append(gateway, run_id, *events[at : at + size])


@pytest.mark.parametrize("dialect", KINDS)
def test_every_client_gets_the_whole_answer(dialect, presets, store, tmp_path):
    run_id, kinds = f"cuts-{dialect}", KINDS[dialect]
    chunks = answer(dialect, run_id)
    assert len(chunks) > CUTS
    append(presets, run_id, lifecycle("started"))
    with (
        Relay(presets.port, begins(run_id)) as relay,
        following(kinds, relay, run_id, tmp_path, number=CUTS) as clients,
    ):
        every = {f"{kind}-{number}" for kind in kinds for number in range(CUTS)}
        wait_until(lambda: relay.opened == every, "all clients have begun", 60)
        append_answer(presets, run_id, chunks)
        lines = clients.finish()
        assert relay.cut == every
    assert {f"{line['kind']}-{line['number']}" for line in lines} == every
    logged = [event.data for event in store.get_events(run_id) if event.data is not None]
    assert logged == [chunk.data for chunk in chunks]
    for line in lines:
        whole = expected(line["kind"], run_id, chunks)
        assert line["error"] is None
        assert {name: line[name] for name in whole} == whole
