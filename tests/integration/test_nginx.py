"""nginx, configured as the README shows, between the gateway and its clients."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest
import requests

from app.client import Client
from app.streaming.errors import InvalidEvent, StoreUnavailable, UnexpectedSequence
from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.servers import ROOT, free_port, wait_until

# Debian installs it where only root's PATH leads.
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
[CONFIGURED] = re.findall(
    r"^```nginx\n(.*?)^```$", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL | re.MULTILINE
)
PLAIN = "location / { proxy_pass http://127.0.0.1:8082; }"

EVENT = {"event_category": "llm", "event_action": "stream"}
COMPLETED = {"event_category": "lifecycle", "event_action": "completed"}
EVENTS = 400

pytestmark = pytest.mark.skipif(
    NGINX is None and "CI" not in os.environ, reason="nginx is not installed (.ci/run installs it)"
)


class Nginx:
    """An nginx on a free port, whose locations lead to a gateway."""

    def __init__(self, directory: Path, locations: str, gateway_port: int):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        assert "127.0.0.1:8082" in locations
        temporary = (
            f"{name}_temp_path {directory};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self._configuration = directory / "nginx.conf"
        self._configuration.write_text(
            f"user {pwd.getpwuid(os.getuid()).pw_name};\n"
            f"daemon off; pid {directory}/pid; error_log {directory}/log; events {{}}\n"
            f"http {{ access_log off; {' '.join(temporary)}\n"
            f"server {{ listen 127.0.0.1:{self.port};\n"
            f"{locations.replace('127.0.0.1:8082', f'127.0.0.1:{gateway_port}')} }} }}\n"
        )
        self.process: subprocess.Popen | None = None

    def start(self) -> "Nginx":
        self.process = subprocess.Popen([NGINX, "-c", self._configuration])
        wait_until(self._answers, "nginx answers")
        return self

    def stop(self) -> None:
        """Kill nginx and its workers with SIGKILL, which breaks every connection."""
        if self.process is not None:
            for each in [psutil.Process(self.process.pid), *self._workers()]:
                each.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def reload(self) -> None:
        """Start new workers. The former ones stay for their open connections."""
        before = self._workers()
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: set(self._workers()) - set(before), "new workers")

    def _workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def _answers(self) -> bool:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            return requests.get(f"{self.url}/healthz", timeout=5).ok
        return False


@pytest.fixture
def start_nginx(gateway, tmp_path) -> Iterator[Callable[..., Nginx]]:
    """Return a function that starts nginx, by default with the README's locations."""
    with contextlib.ExitStack() as stack:

        def start(locations: str = CONFIGURED) -> Nginx:
            nginx = Nginx(tmp_path, locations, gateway.port)
            stack.callback(nginx.stop)
            return nginx.start()

        yield start


def data_of(store: EventStore, run_id: str) -> list:
    return [event.data for event in store.get_events(run_id) if event.category == "llm"]


# Live


def test_a_line_reaches_a_follower_while_its_request_is_open(start_nginx, run_id):
    nginx = start_nginx()

    def events() -> Iterator[dict]:
        for number in range(1, 4):
            yield EVENT
            stream.wait_for_events(number)

    with Stream(f"{nginx.url}/runs/{run_id}/events/stream") as stream:
        ingested = Client(nginx.url).stream(run_id, events())
    assert ingested == (3, stream.events[-1].last_event_id, 3)
    assert stream.sequences == [1, 2, 3]


def test_followers_need_no_special_configuration(start_nginx, store, run_id):
    with Stream(f"{start_nginx(PLAIN).url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_control("caught_up")
        for number in range(1, 4):
            store.add(run_id, "llm", "stream")
            stream.wait_for_events(number)


def test_without_the_configuration_nginx_buffers_a_body(start_nginx, gateway, store, run_id):
    """The README says so; and the first test of this module would fail."""

    def events() -> Iterator[dict]:
        yield EVENT
        time.sleep(0.5)
        assert not store.state(run_id).exists
        yield EVENT

    assert Client(start_nginx(PLAIN).url).stream(run_id, events()).stored == 2


def test_a_batch_may_be_as_large_as_the_gateway_allows(start_nginx, store, run_id):
    events = [{**EVENT, "data": "x" * 200_000}] * 20
    ids = Client(start_nginx().url).add_many(run_id, events)
    assert [event.id for event in store.get_events(run_id)] == ids


def test_a_producer_that_sends_on_gets_the_answer_to_a_bad_line(start_nginx, run_id):
    def events() -> Iterator[dict]:
        yield from (EVENT, {**EVENT, "event_category": "gateway"})
        for _ in range(100_000):
            yield {**EVENT, "data": "x" * 1000}

    with pytest.raises(InvalidEvent) as failed:
        Client(start_nginx().url).stream(run_id, events())
    assert failed.value.ingested.stored == 1


def test_nginx_ends_a_silent_request_and_blank_lines_prevent_that(start_nginx, store, run_id):
    nginx = start_nginx(CONFIGURED.replace("client_body_timeout 1h;", "client_body_timeout 1s;"))
    line = b'{"event_category": "llm", "event_action": "stream"}\n'
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=20) as producer:
        producer.sendall(
            f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        for sent in (line, *(b"\n" for _ in range(8)), line):
            producer.sendall(b"%x\r\n%b\r\n" % (len(sent), sent))
            time.sleep(0.25)
        wait_until(lambda: store.state(run_id).last_sequence == 2, "both are stored")
        assert producer.recv(1000) == b""
    assert store.state(run_id).last_sequence == 2


# Faults


@pytest.mark.parametrize("fault", ["reload", "restart"])
def test_no_acknowledged_event_is_lost_or_doubled_while_nginx_is_replaced(
    start_nginx, store, run_id, fault
):
    nginx, batched, streamed = start_nginx(), f"{run_id}-batched", f"{run_id}-streamed"
    with Client(nginx.url) as client, ThreadPoolExecutor() as pool:
        following = [pool.submit(list, client.follow(run)) for run in (batched, streamed)]
        appending = pool.submit(append_batches, client, batched)
        streaming = pool.submit(stream_all, client, streamed)
        for so_far in (EVENTS // 4, EVENTS // 2, 3 * EVENTS // 4):
            for run in (batched, streamed):
                wait_until(partial(has_reached, store, run, so_far), f"{so_far} events of {run}")
            getattr(nginx, fault)()
        ids, acknowledged = appending.result(30), streaming.result(30)
        followed = [each.result(30) for each in following]
    for run, events in zip((batched, streamed), followed, strict=True):
        assert data_of(store, run) == list(range(EVENTS))
        assert [event for event in events if event.id] == store.get_events(run)
    assert [event.id for event in followed[0] if event.id] == ids
    assert acknowledged <= {(event.sequence, event.id) for event in followed[1]}


def has_reached(store: EventStore, run_id: str, sequence: int) -> bool:
    return store.state(run_id).last_sequence >= sequence


def append_batches(client: Client, run_id: str) -> list[str]:
    """Append all events, and return their ids."""
    ids = []
    for first in range(0, EVENTS, 5):
        ids += client.add_many(run_id, [{**EVENT, "data": first + each} for each in range(5)])
        time.sleep(0.02)
    return [*ids, client.add(run_id, **COMPLETED)]


def stream_all(client: Client, run_id: str) -> set[tuple[int, str]]:
    """Stream all events, and after every fault the rest. Returns each acknowledged last event."""
    acknowledged = set()

    def events(stored: int) -> Iterator[dict]:
        for number in range(stored, EVENTS):
            yield {**EVENT, "data": number}
            time.sleep(0.004)
        yield COMPLETED

    while not (state := client.state(run_id) or {"last_sequence": 0, "ended": False})["ended"]:
        stored = state["last_sequence"]
        try:
            ingested = client.stream(run_id, events(stored), expected_sequence=stored + 1)
        except (StoreUnavailable, UnexpectedSequence) as error:
            ingested = error.ingested
        if ingested is not None and ingested.stored:
            acknowledged.add((ingested.last_sequence, ingested.last_id))
    return acknowledged
