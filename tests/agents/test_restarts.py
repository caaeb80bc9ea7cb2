"""A worker is replaced, gracefully and by a crash, while all clients follow their answers."""

import contextlib
import http.client
import signal

import pytest

from tests.agents.answers import answer
from tests.agents.following import (
    EVERY_KIND,
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
from tests.clients import Stream
from tests.field.reloads import replace_worker
from tests.servers import GatewayServer, wait_until

CLIENTS = 2

pytestmark = [are_installed, pytest.mark.timeout(180)]


class Run:
    """A run that clients of a dialect follow."""

    def __init__(self, dialect: str, gateway: GatewayServer):
        self.run_id = f"restarts-{dialect}"
        self.chunks = answer(dialect, self.run_id)
        self.kinds = EVERY_KIND[dialect]
        append(gateway, self.run_id, lifecycle("started"))
        self.relay = Relay(gateway.port, begins(self.run_id))

    def least_streams(self) -> int:
        """Return how many streams each client has opened at least."""
        names = [f"{kind}-{number}" for kind in self.kinds for number in range(CLIENTS)]
        return min(self.relay.opened[name] for name in names)


def test_every_client_gets_the_whole_answer(redis_server, store, tmp_path):
    with (
        GatewayServer(redis_server.url, tmp_path / "log", COMPAT=PRESETS) as gateway,
        contextlib.ExitStack() as stack,
    ):
        runs = [Run(dialect, gateway) for dialect in EVERY_KIND]
        relays = {run.run_id: (stack.enter_context(run.relay), run.kinds) for run in runs}
        clients = stack.enter_context(following(relays, tmp_path, clients=CLIENTS))

        def wait_for_streams(number: int) -> None:
            """Wait until each client has opened so many streams, or more."""
            wait_until(lambda: all(run.least_streams() >= number for run in runs), "all follow", 60)

        def append_next(begin: float, end: float) -> None:
            for run in runs:
                events = events_of(run.chunks)
                part = events[int(begin * len(events)) : int(end * len(events))]
                append(gateway, run.run_id, *part)

        wait_for_streams(1)
        append_next(0, 0.3)
        replace_worker(gateway, signal.SIGHUP)
        wait_for_streams(2)
        append_next(0.3, 0.6)
        replace_worker(gateway, signal.SIGKILL)
        wait_for_streams(3)
        append_next(0.6, 1)
        lines = clients.finish()
    for run in runs:
        own = [line for line in lines if line["run"] == run.run_id]
        assert len(own) == len(run.kinds) * CLIENTS
        check(store, own, run.run_id, run.chunks)


def test_a_worker_that_stops_closes_a_connection_that_was_kept_alive(
    redis_server, run_id, tmp_path
):
    """So a browser asks again on a connection to another worker, and shows no error."""
    settings = {"COMPAT": PRESETS, "DRAIN_SECONDS": 8}
    with GatewayServer(redis_server.url, tmp_path / "log", **settings) as gateway:
        append(gateway, run_id, lifecycle("started", {"type": "RUN_STARTED"}))
        url = f"{gateway.url}/runs/{run_id}/events/stream"
        kept = http.client.HTTPConnection("127.0.0.1", gateway.port)
        with contextlib.closing(kept), Stream(url) as one, Stream(url) as other:
            kept.request("GET", "/healthz")
            assert kept.getresponse().read()
            one.wait_for_events(1)
            other.wait_for_events(1)
            gateway.process.send_signal(signal.SIGHUP)
            wait_until(lambda: one.ended or other.ended, "the worker has begun to drain")
            assert not (one.ended and other.ended)
            kept.request("GET", f"/compat/ag-ui/{run_id}")
            with pytest.raises(http.client.RemoteDisconnected):
                kept.getresponse()
