"""How each client ends when its answer does not end well: as its own contract says."""

import contextlib

import pytest

from app.auth.tokens import make_token
from tests.agents.answers import answer
from tests.agents.following import (
    KINDS,
    MORE_KINDS,
    PRESETS,
    append,
    are_installed,
    begins,
    following,
    lifecycle,
)
from tests.agents.relay import Relay
from tests.servers import GatewayServer, wait_until

CLIENTS = 2

pytestmark = [are_installed, pytest.mark.timeout(180)]


def kinds_of(dialect: str) -> tuple[str, ...]:
    return (*KINDS[dialect], *MORE_KINDS.get(dialect, ()))


def test_ends(redis_server, store, redis_client, tmp_path):
    with (
        GatewayServer(redis_server.url, tmp_path / "log", COMPAT=PRESETS) as gateway,
        contextlib.ExitStack() as stack,
    ):
        runs = {}

        def run(name, dialect, *events, cut=None, trim=False):
            run_id = f"{name}-{dialect}"
            append(gateway, run_id, *events)
            relay = Relay(gateway.port, begins(run_id), lambda c, n: cut if n == 0 else None)
            runs[run_id] = stack.enter_context(relay), kinds_of(dialect)

        for dialect in KINDS:
            begun = [lifecycle("started"), *(c.event for c in answer(dialect, "x")[:20])]
            run("failed", dialect, *begun, lifecycle("failed", "no more tokens"))
            run("cancelled", dialect, *begun, lifecycle("cancelled"))
            run(
                "lost",
                dialect,
                *begun,
                {"event_category": "llm", "event_action": "stream", "lease_seconds": 1},
            )
            run(
                "ordinary",
                dialect,
                lifecycle("started", {"model": "x"}),
                {"event_category": "llm", "event_action": "stream", "data": {"text": "a"}},
                {"event_category": "llm", "event_action": "stream", "data": "b"},
                lifecycle("completed"),
            )
            run("trimmed", dialect, *begun)
            redis_client.xtrim(f"run:trimmed-{dialect}:events", maxlen=5, approximate=False)
        with following(runs, tmp_path, clients=CLIENTS, breaks=3) as clients:
            lines = clients.finish()
    import json

    for l in sorted(lines, key=lambda l: (l["run"], l["kind"], l["number"])):
        l.pop("digest", None)
        print(l.pop("run"), l.pop("kind"), l.pop("number"), json.dumps(l)[:420])
    assert 0
