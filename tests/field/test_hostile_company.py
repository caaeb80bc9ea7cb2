"""Honest viewers and producers in the company of clients that want all of the gateway.

Nobody honest is refused or cut, health checks are answered, and the memory is bounded, and free
again afterwards.
"""

import contextlib
import http.client
import json
import re
import select
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.processes import running
from tests.raw_http import request_stream, stream_path
from tests.servers import ROOT, GatewayServer, free_port, wait_until

VIEWERS = 500
PRODUCERS = 50

# Few enough that the connections of the attacks are more than the worker has places for.
FILES = 1136

# How often each attack is made.
ATTACKS = 3

PAUSE_SECONDS = 0.2  # of a producer after an event
EVENT = b'{"event_category":"llm","event_action":"stream","data":"x"}'

MEGABYTE = 1024 * 1024
MAX_GROWTH = 500 * MEGABYTE
MAX_LEFT = 200 * MEGABYTE


@pytest.fixture
def gateway(redis_server, tmp_path) -> Iterator[GatewayServer]:
    """Start a gateway whose worker may have FILES open."""
    monitoring = free_port()
    with GatewayServer(redis_server.url, tmp_path / "log", MONITORING_PORT=monitoring) as gateway:
        gateway.monitoring_url = f"http://127.0.0.1:{monitoring}"
        gateway.limit_files(FILES)
        yield gateway


class Viewers:
    """Streams of one run, read by one thread, with all that each has received."""

    def __init__(self, port: int, run_id: str):
        self.received: dict[int, bytearray] = {}
        self.cut: list[bytes] = []
        self._open: dict[int, socket.socket] = {}
        self._poll = select.poll()
        for _ in range(VIEWERS):
            connection = request_stream(port, stream_path(run_id))
            self._open[connection.fileno()] = connection
            self.received[connection.fileno()] = bytearray()
            self._poll.register(connection, select.POLLIN)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def have(self, text: bytes) -> bool:
        return all(text in received for received in list(self.received.values()))

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        for connection in self._open.values():
            connection.close()

    def _read(self) -> None:
        while not self._stopped.is_set():
            for descriptor, _ in self._poll.poll(100):
                try:
                    piece = self._open[descriptor].recv(1 << 20)
                except OSError as error:
                    self.cut.append(repr(error).encode())
                    piece = b""
                self.received[descriptor] += piece
                if not piece:
                    self.cut.append(bytes(self.received[descriptor][-100:]))
                    self._poll.unregister(descriptor)


class Background:
    """Threads that do something again and again until they are stopped, with what went wrong."""

    def __init__(self) -> None:
        self.done = 0
        self.wrong: list[object] = []
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, target, *args: object) -> None:
        self._threads.append(threading.Thread(target=target, args=args))
        self._threads[-1].start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def produce(self, port: int, run_id: str) -> None:
        """Append events one by one over one connection."""
        head = (
            f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(EVENT)}\r\n\r\n"
        )
        request = head.encode() + EVENT
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            while not self._stopped.is_set():
                try:
                    connection.sendall(request)
                    with contextlib.closing(http.client.HTTPResponse(connection)) as answer:
                        answer.begin()
                        body = answer.read()
                except (OSError, http.client.HTTPException) as error:
                    self.wrong.append(error)
                    return
                if answer.status != 201:
                    self.wrong.append(body)
                self.done += 1
                self._stopped.wait(PAUSE_SECONDS)

    def check_health(self, url: str) -> None:
        while not self._stopped.is_set():
            for path in ("/healthz", "/readyz"):
                try:
                    response = requests.get(url + path, timeout=20)
                except requests.RequestException as error:
                    self.wrong.append(error)
                    continue
                if response.status_code != 200:
                    self.wrong.append((path, response.text))
                self.done += 1


@contextlib.contextmanager
def attacked(port: int, large: str, live: str, output: Path) -> Iterator[None]:
    """Attack until each attack was made ATTACKS times, and the block has ended."""
    program = [sys.executable, "-m", "tests.programs.hostile_clients"]

    def counts() -> tuple[int, Counter[str]]:
        lines = output.read_text().splitlines()
        return int(lines[0]) if lines else 0, Counter(lines[1:])

    def enough() -> bool:
        attacks, made = counts()
        return len(made) == attacks > 0 and min(made.values()) >= ATTACKS

    with running([*program, str(port), large, live], output, cwd=ROOT) as process:
        yield
        wait_until(lambda: enough() or process.poll() is not None, "each attack was made", 50)
        assert process.poll() is None, output.read_text()


@pytest.mark.timeout(180)  # on a busy machine, 500 viewers need long
def test_nobody_honest_is_refused_or_cut_in_hostile_company(gateway, store, run_id, tmp_path):
    large, [worker] = f"{run_id}-large", gateway.workers()
    for _ in range(16):
        store.add(large, "llm", "stream", [[]] * 80_000)
    viewers, producers, health = Viewers(gateway.port, run_id), Background(), Background()
    try:
        wait_until(lambda: viewers.have(b"caught_up"), "all viewers are there")
        before = worker.memory_info().rss
        for _ in range(PRODUCERS):
            producers.start(producers.produce, gateway.port, run_id)
        for url in (gateway.url, gateway.monitoring_url):
            health.start(health.check_health, url)
        with attacked(gateway.port, large, run_id, tmp_path / "attacks"):
            sizes, seen = [before], health.done

            def was_checked_often() -> bool:
                sizes.append(worker.memory_info().rss)  # raises an error if it has ended
                return health.done >= seen + 20

            wait_until(was_checked_often, "health checks are answered", 120)
        health.stop()
        producers.stop()
        assert (health.wrong, producers.wrong, viewers.cut) == ([], [], [])
        assert max(sizes) - before < MAX_GROWTH
        last = b'"sequence":%d,' % producers.done
        wait_until(lambda: viewers.have(last), "all viewers have all events")
        for received in viewers.received.values():
            sequences = re.findall(rb'"sequence":(\d+)', received)
            assert list(map(int, sequences)) == list(range(1, producers.done + 1))
        wait_until(lambda: worker.memory_info().rss - before < MAX_LEFT, "its memory is free")
        answer = requests.get(f"{gateway.url}/runs/{run_id}", timeout=20)
        assert json.loads(answer.text)["length"] == producers.done > PRODUCERS
    finally:
        health.stop()
        producers.stop()
        viewers.close()
