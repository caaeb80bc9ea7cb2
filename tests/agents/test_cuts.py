"""200 clients of each kind are cut off, each after another event, and none loses or doubles one."""

import pytest

from tests.agents.answers import Chunk, answer
from tests.agents.following import (
    KINDS,
    PRESETS,
    append,
    are_installed,
    begins,
    check,
    events_of,
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


@pytest.mark.parametrize(
    ("dialect", "kinds"),
    [
        ("ai-sdk", KINDS["ai-sdk"][:2]),
        ("ai-sdk", KINDS["ai-sdk"][2:]),
        ("ag-ui", KINDS["ag-ui"]),
        ("langgraph", KINDS["langgraph"]),
    ],
    ids=("chat", "workflow", "ag-ui", "langgraph"),
)
def test_clients_that_are_cut_off_each_after_another_event_get_the_whole_answer(
    dialect, kinds, presets, store, run_id, tmp_path
):
    chunks = answer(dialect, run_id)
    clients_of_kind = len(chunks) + 1
    assert clients_of_kind > CUTS
    numbers = range(clients_of_kind)
    every = {f"{kind}-{number}": number for kind in kinds for number in numbers}
    append(presets, run_id, lifecycle("started"))
    with (
        Relay(
            presets.port, begins(run_id), lambda client, cuts: None if cuts else every[client]
        ) as relay,
        following({run_id: (relay, kinds)}, tmp_path, clients=clients_of_kind) as clients,
    ):
        wait_until(lambda: set(relay.opened) == set(every), "all clients have begun", 60)
        append_answer(presets, run_id, chunks)
        lines = clients.finish()
        assert relay.cuts == dict.fromkeys(every, 1)
    assert {f"{line['kind']}-{line['number']}" for line in lines} == set(every)
    check(store, lines, run_id, chunks)


def test_a_client_that_is_cut_off_after_every_event_gets_the_whole_answer(
    presets, store, run_id, tmp_path
):
    kinds = KINDS["openai"]
    chunks = answer("openai", run_id)
    append(presets, run_id, lifecycle("started"))
    with (
        Relay(presets.port, events_of=lambda client, cuts: 1) as relay,
        following({run_id: (relay, kinds)}, tmp_path, clients=1) as clients,
    ):
        wait_until(lambda: len(relay.opened) == len(kinds), "all clients have begun", 60)
        append_answer(presets, run_id, chunks)
        lines = clients.finish()
        assert all(relay.cuts[f"{kind}-0"] > CUTS for kind in kinds)
    check(store, lines, run_id, chunks)
