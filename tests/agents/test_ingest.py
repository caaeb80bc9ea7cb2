"""A model's stream is posted as it came, in each dialect, while clients follow and are cut off."""

import contextlib
import json
from collections.abc import Iterator

import pytest
import requests

from tests.agents.answers import Chunk, answer
from tests.agents.following import (
    EVERY_KIND,
    PRESETS,
    append,
    are_installed,
    begins,
    check,
    following,
    lifecycle,
)
from tests.agents.relay import Relay
from tests.servers import GatewayServer, wait_until

CUT_AFTER = 100
PIECE = 700

pytestmark = [are_installed, pytest.mark.timeout(180)]


def body(chunks: list[Chunk]) -> Iterator[bytes]:
    """Yield the stream of a model in pieces that end anywhere."""
    text = ": a comment\n\n"
    for chunk in chunks:
        name = "" if chunk.name == "message" else f"event: {chunk.name}\n"
        text += f"{name}data: {json.dumps(chunk.data, ensure_ascii=False)}\n\n"
    encoded = f"{text}data: [DONE]\n\n".encode()
    for at in range(0, len(encoded), PIECE):
        yield encoded[at : at + PIECE]


def cut_once(client: str, cuts: int) -> int | None:
    return None if cuts else CUT_AFTER


def test_every_client_gets_the_whole_answer(redis_server, store, tmp_path):
    with (
        GatewayServer(redis_server.url, tmp_path / "log", COMPAT=PRESETS) as gateway,
        contextlib.ExitStack() as stack,
    ):
        runs = {}
        for dialect, kinds in EVERY_KIND.items():
            run_id = f"ingest-{dialect}"
            append(gateway, run_id, lifecycle("started"))
            relay = stack.enter_context(Relay(gateway.port, begins(run_id), cut_once))
            runs[run_id] = relay, kinds
        with following(runs, tmp_path, clients=1) as clients:
            for run_id, (relay, kinds) in runs.items():
                wait_until(lambda r=relay, k=kinds: len(r.opened) == len(k), "all follow", 60)
                dialect = run_id.removeprefix("ingest-")
                response = requests.post(
                    f"{gateway.url}/runs/{run_id}/events?dialect={dialect}",
                    data=body(answer(dialect, run_id)),
                    headers={"Content-Type": "text/event-stream"},
                )
                assert response.status_code == 200, response.text
            lines = clients.finish()
        assert all(relay.cuts.total() == len(kinds) for relay, kinds in runs.values())
    for run_id, (_, kinds) in runs.items():
        own = [line for line in lines if line["run"] == run_id]
        assert {line["kind"] for line in own} == set(kinds)
        check(store, own, run_id, answer(run_id.removeprefix("ingest-"), run_id))
