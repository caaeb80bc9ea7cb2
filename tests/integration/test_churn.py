"""Clients that connect, stall and leave at random: every byte they get is in its place."""

import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from app.streaming.event_store import EventStore
from tests.raw_http import ChunkReader, request_stream, reset_when_closed, stream_path
from tests.servers import wait_until

RUNS = 6
VIEWERS = 60
CHURN_SECONDS = 10.0
# A line that the next event has in front of it.
WITHOUT_DATA = re.compile(r": open|: heartbeat|retry: [0-9]{4}")


def data_of(run_id: str, number: int) -> dict:
    """Return data that names its run and its number in every part."""
    size = (37 * number) % 400 if number % 7 else 40_000
    return {"run": run_id, "n": number, "pad": f"{run_id}/{number} " * (size // 8)}


def category_of(number: int) -> str:
    return "even" if number % 2 == 0 else "odd"


@dataclass(frozen=True)
class Form:
    """One way to request a stream, and which events must come."""

    query: str = ""
    version: str = "1.1"
    json_lines: bool = False
    includes: Callable[[int], bool] = lambda number: True

    @property
    def typed(self) -> bool:
        return "typed=false" not in self.query


FORMS = (
    Form(),
    Form(version="1.0"),
    Form("typed=false"),
    Form("category=even", includes=lambda number: number % 2 == 0),
    Form("category=odd&typed=false", "1.0", includes=lambda number: number % 2 == 1),
    Form(json_lines=True),
    Form("category=odd", json_lines=True, includes=lambda number: number % 2 == 1),
    Form("action=none", includes=lambda number: False),
)


@dataclass
class Viewer:
    """Opens a stream of its run again and again, and checks every byte that comes."""

    port: int
    run_id: str
    form: Form
    dice: random.Random = field(repr=False)
    total: int = 0
    last: int = 0
    last_id: str = ""
    connections: int = 0
    ended: bool = False

    def watch_a_while(self) -> None:
        """Open a connection, read it for a random time, and break it off."""
        small = self.dice.random() < 0.5
        connection = self._open(4096 if small else None)
        try:
            for _ in range(self.dice.choice([1, 2])):
                self._read(connection, self.dice.choice([0, 0.02, 0.1, 0.4, 1.0]))
                if small:
                    time.sleep(self.dice.choice([0, 0.5, 1.0]))  # so that its buffer fills
            end = self.dice.choice(["reset", "reset", "close", "half"])
            if end == "reset":
                reset_when_closed(connection)
            elif end == "half":
                connection.shutdown(socket.SHUT_WR)
                assert self._read(connection, 20), (
                    "the gateway still serves a client that closed its half"
                )
        finally:
            connection.close()

    def watch_to_the_end(self) -> None:
        connection = self._open(None)
        try:
            assert self._read(connection, 30), "the stream does not end"
            assert self.ended
            assert self._rest == b""
            assert self._over or self._chunks.ended or self.form.version == "1.0"
        finally:
            connection.close()

    def _open(self, receive_buffer: int | None) -> socket.socket:
        self.connections += 1
        self._head, self._chunks, self._rest = b"", None, b""
        self._caught_up = self._over = False
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        if self.form.json_lines:
            headers["Accept"] = "application/x-ndjson"
        path = stream_path(self.run_id, self.form.query)
        return request_stream(self.port, path, self.form.version, headers, receive_buffer)

    def _read(self, connection: socket.socket, seconds: float) -> bool:
        """Read for some seconds, at least one piece. Returns whether the connection has ended."""
        until = time.monotonic() + seconds
        while True:
            connection.settimeout(max(0.01, until - time.monotonic()))
            try:
                piece = connection.recv(self.dice.choice([7, 1000, 65536]))
            except TimeoutError:
                return False
            if not piece:
                return True
            if self._chunks is None:
                self._head, separator, piece = (self._head + piece).partition(b"\r\n\r\n")
                if not separator:
                    continue
                self._chunks = ChunkReader()
                self._over = b" 204 " in self._head.partition(b"\r\n")[0]
                if self._over:
                    assert self.ended, "events follow the cursor, but the answer is 204"
                    return True
                self._check_head(self._head)
            self._take(self._chunks.read(piece) if self.form.version == "1.1" else piece)
            if time.monotonic() > until:
                return False

    def _check_head(self, head: bytes) -> None:
        status, *lines = head.decode().split("\r\n")
        assert status.startswith(f"HTTP/{self.form.version} 200 "), head
        assert ("Transfer-Encoding: chunked" in lines) == (self.form.version == "1.1"), head

    def _take(self, body: bytes) -> None:
        end = b"\n" if self.form.json_lines else b"\n\n"
        *whole, self._rest = (self._rest + body).split(end)
        for piece in whole:
            self._take_line(piece) if self.form.json_lines else self._take_block(piece)

    def _take_line(self, line: bytes) -> None:
        event = json.loads(line)
        name = "{category}.{action}".format(**event["event"])
        if name == "gateway.heartbeat":
            return
        self._take_event(name, event, event["id"])

    def _take_block(self, block: bytes) -> None:
        text = block.decode()
        fields = dict(
            line.split(": ", 1) for line in text.split("\n") if not WITHOUT_DATA.fullmatch(line)
        )
        event = json.loads(fields["data"])
        name = "{category}.{action}".format(**event["event"])
        assert list(fields) == ["id", *(["event"] if self.form.typed else []), "data"], text
        assert fields.get("event", name) == name, text
        self._take_event(name, event, fields["id"])

    def _take_event(self, name: str, event: dict, event_id: str | None) -> None:
        assert event["run_id"] == self.run_id, f"an event of another run: {event}"
        if name == "gateway.caught_up":
            assert not self._caught_up, "caught up twice on one connection"
            self._caught_up = True
            self.last_id = event_id or self.last_id
            return
        if name == "gateway.progress":
            assert event_id in (None, event["data"]["cursor"])
            self.last_id = event["data"]["cursor"]
            return
        assert event["id"] == event_id
        number = event["sequence"]
        terminal = name == "lifecycle.completed"
        skipped = [each for each in range(self.last + 1, number) if self.form.includes(each)]
        assert number > self.last, f"{number} came after {self.last}"
        assert not skipped, f"{skipped} are missing after {self.last}"
        if terminal:
            assert number == self.total
        else:
            assert self.form.includes(number), f"{number} does not match {self.form}"
            assert event["data"] == data_of(self.run_id, number)
            assert name == f"{category_of(number)}.a"
        self.last, self.last_id, self.ended = number, event_id, terminal


class Churn:
    """Viewers that come and go while events are appended, and then follow to the end."""

    def __init__(self, store: EventStore, port: int, seed: int):
        self.failures: list[str] = []
        self._store = store
        self._random = random.Random(seed)
        self._runs = [f"churn-{seed}-{number}" for number in range(RUNS)]
        self.viewers = [
            Viewer(
                port,
                self._runs[number % RUNS],
                FORMS[number // RUNS % len(FORMS)],
                random.Random(self._random.random()),
            )
            for number in range(VIEWERS)
        ]
        self._over, self._completed = threading.Event(), threading.Event()

    def run(self) -> None:
        threads = [threading.Thread(target=self._view, args=(each,)) for each in self.viewers]
        threads.append(threading.Thread(target=self._produce))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _view(self, viewer: Viewer) -> None:
        try:
            while not self._over.is_set():
                viewer.watch_a_while()
            assert self._completed.wait(30)
            viewer.watch_to_the_end()
        except (AssertionError, OSError, ValueError, KeyError) as error:
            self.failures.append(f"{viewer}: {type(error).__name__} {error}")

    def _produce(self) -> None:
        number = 0
        until = time.monotonic() + CHURN_SECONDS
        while time.monotonic() < until:
            number += 1
            for run in self._runs:
                self._store.add(run, category_of(number), "a", data_of(run, number))
            time.sleep(self._random.choice([0, 0, 0.005, 0.05]))
        self._over.set()
        for viewer in self.viewers:
            viewer.total = number + 1
        for run in self._runs:
            self._store.add(run, "lifecycle", "completed")
        self._completed.set()


def test_every_byte_is_in_its_place_while_clients_come_and_go(start_gateway, store):
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    gateway = start_gateway(HEARTBEAT_SECONDS=1)
    churn = Churn(store, gateway.port, seed)
    churn.run()
    failures = churn.failures
    assert not failures, f"seed {seed}: {len(failures)} of {VIEWERS} failed, first {failures[0]}"
    wait_until(lambda: gateway.client_count() == 0, "every connection is closed")
    assert sum(viewer.connections for viewer in churn.viewers) > 5 * VIEWERS
