"""The clients of SSE in PyPI and npm follow a run through heartbeats, a reload and a crash."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import Stream
from tests.field import follow
from tests.field.reloads import replace_worker
from tests.processes import NODE, NODE_SCRIPTS, running
from tests.raw_http import stream_path
from tests.servers import ROOT, GatewayServer, wait_until

FIELD = ROOT / "tests" / "field"
PYTHON = FIELD / ".venv" / "bin" / "python"
RUN = "field-clients"
NPM = (
    "event-source-polyfill",
    "eventsource",
    "eventsource-client",
    "eventsource-parser",
    "extended-eventsource",
    "fetch-event-source",
)
CLIENTS = (*follow.CLIENTS, *NPM)
# sseclient reads below the chunked coding of HTTP, and takes the last chunk of a body for a
# message. So it gets an empty one at every orderly end, from any server. Here one stream ends so.
EMPTY_MESSAGES = {"sseclient": 1}

pytestmark = [
    pytest.mark.skipif(
        not PYTHON.exists() and "CI" not in os.environ,
        reason="the Python clients are not installed (make tests/field/.venv/installed)",
    ),
    pytest.mark.timeout(180),  # on a busy machine, fifteen programs need long to start
]


class Follower:
    """A client in a process of its own, and the messages that it has got."""

    def __init__(self, output: Path, process: subprocess.Popen):
        self._output = output
        self._failed = False
        self.process = process

    @property
    def messages(self) -> list[dict]:
        """Each whole line; Python's clients write to a file, those of npm print."""
        text = self._output.read_text(encoding="utf-8") if self._output.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1] if line.startswith("{")]

    @property
    def events(self) -> list[tuple[str, int]]:
        """The id and the sequence of each event of the run."""
        messages = [message for message in self.messages if message["data"]]
        decoded = [(message["id"], json.loads(message["data"])) for message in messages]
        return [(id, event["sequence"]) for id, event in decoded if event["sequence"] is not None]

    def wait_for(self, events: int) -> None:
        self._wait_until(lambda: self._is_over() or len(self.events) >= events)

    def wait_for_end(self) -> None:
        self._wait_until(self._is_over)

    def _is_over(self) -> bool:
        return self.process.poll() is not None

    def _wait_until(self, predicate: Callable[[], bool]) -> None:
        """Wait, but not again after a failure: the other clients go on, and its test fails."""
        if not self._failed:
            try:
                wait_until(predicate, "the client has got it", 40)
            except AssertionError:
                self._failed = True


@contextlib.contextmanager
def following(client: str, gateway: GatewayServer, directory: Path) -> Iterator[Follower]:
    url, printed = f"{gateway.url}{stream_path(RUN)}", directory / f"{client}.out"
    if client in NPM:
        output, command = printed, [NODE, NODE_SCRIPTS / "clients.mjs", client, url]
    else:
        output = directory / client
        command = [PYTHON, FIELD / "follow.py", client, url, output]
    with running(command, printed) as process:
        yield Follower(output, process)


@pytest.fixture(scope="module")
def followers(redis_server, store, tmp_path_factory) -> Iterator[dict[str, Follower]]:
    """Let all clients follow one run at the same time, and return them when they have ended."""
    directory = tmp_path_factory.mktemp("clients")
    settings = {"HEARTBEAT_SECONDS": 1, "RETRY_MS": 300}
    with (
        GatewayServer(redis_server.url, directory / "log", **settings) as gateway,
        contextlib.ExitStack() as stack,
    ):
        followers = {
            client: stack.enter_context(following(client, gateway, directory)) for client in CLIENTS
        }

        def append(category: str, action: str) -> None:
            store.add(RUN, category, action, {"text": "é\u2028"})
            events = store.state(RUN).last_sequence
            for follower in followers.values():
                follower.wait_for(events)

        append("lifecycle", "started")
        append("llm", "stream")
        wait_for_heartbeats(gateway)
        append("llm", "stream")
        replace_worker(gateway, signal.SIGHUP)
        append("llm", "stream")
        replace_worker(gateway, signal.SIGKILL)
        append("llm", "stream")
        append("lifecycle", "completed")
        for follower in followers.values():
            follower.wait_for_end()
        yield followers


def wait_for_heartbeats(gateway: GatewayServer) -> None:
    """Wait until every stream has got a heartbeat: each gets one while another one gets two."""
    with Stream(f"{gateway.url}{stream_path(RUN)}") as stream:
        wait_until(lambda: stream.comments.count("heartbeat") >= 2, "heartbeats")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_every_event_once_and_nothing_that_is_empty(followers, store, client):
    follower = followers[client]
    empty = [message for message in follower.messages if not message["data"]]
    assert len(empty) == EMPTY_MESSAGES.get(client, 0)
    assert follower.events == [(event.id, event.sequence) for event in store.get_events(RUN)]
    assert follower.process.returncode == 0
