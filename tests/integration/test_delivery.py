"""Delivery over real connections: every byte in its place, whoever comes, goes or stalls."""

import contextlib
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import psutil
import pytest
import redis
import requests
from werkzeug.serving import make_server

from app import create_app
from app.settings import Settings
from app.streaming.follow.heartbeats import Heartbeats
from app.streaming.follow.history import History
from app.streaming.follow.reader_pool import ReaderPool
from app.streaming.follow.start import Start
from app.streaming.follow.subscriber import Services, Subscriber
from app.streaming.wire.formats import Filter, JsonLines, StreamFormat
from tests.clients import Stream
from tests.servers import GatewayServer, wait_until


def path_of(run_id: str, query: str = "") -> str:
    return f"/runs/{run_id}/events/stream?{query}"


def ask(
    port: int,
    path: str,
    version: str = "1.1",
    headers: dict[str, str] | None = None,
    receive_buffer: int | None = None,
) -> socket.socket:
    """Send the request for a stream over a connection of one's own.

    With a small `receive_buffer`, the server's buffer for it is small too.
    """
    connection = socket.socket()
    connection.settimeout(30)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # The kernel gives the sender a buffer of so many segments.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.connect(("127.0.0.1", port))
    lines = [f"GET {path} HTTP/{version}", "Host: a"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


class Chunks:
    """Reads a chunked body strictly (RFC 9112, section 7.1), however it is cut."""

    def __init__(self):
        self.ended = False
        self._buffer = b""

    def read(self, wire: bytes) -> bytes:
        self._buffer += wire
        body = b""
        while True:
            size, separator, rest = self._buffer.partition(b"\r\n")
            if not separator:
                assert re.fullmatch(rb"[0-9a-f]{0,8}\r?", size), f"no size of a chunk: {size!r}"
                return body
            assert not self.ended, f"after the last chunk: {self._buffer!r}"
            assert re.fullmatch(rb"[0-9a-f]{1,8}", size), f"no size of a chunk: {size!r}"
            length = int(size, 16)
            if len(rest) < length + 2:
                return body
            assert rest[length : length + 2] == b"\r\n", f"no end of a chunk: {rest[length:][:9]!r}"
            body += rest[:length]
            self._buffer = rest[length + 2 :]
            self.ended = length == 0


# (a) Violent connects and disconnects

RUNS = 6
VIEWERS = 60
CHURN_SECONDS = 10.0


def data_of(run_id: str, number: int) -> dict:
    """What names its run and its number in every part of it."""
    size = (37 * number) % 400 if number % 7 else 40_000
    return {"run": run_id, "n": number, "pad": f"{run_id}/{number} " * (size // 8)}


def category_of(number: int) -> str:
    return "even" if number % 2 == 0 else "odd"


@dataclass(frozen=True)
class Form:
    """One way to ask for a stream, and the numbers of the events that must come by it."""

    query: str = ""
    version: str = "1.1"
    json_lines: bool = False
    wanted: Callable[[int], bool] = lambda number: True

    @property
    def typed(self) -> bool:
        return "typed=false" not in self.query


FORMS = (
    Form(),
    Form(version="1.0"),
    Form("typed=false"),
    Form("category=even", wanted=lambda number: number % 2 == 0),
    Form("category=odd&typed=false", "1.0", wanted=lambda number: number % 2 == 1),
    Form(json_lines=True),
    Form("category=odd", json_lines=True, wanted=lambda number: number % 2 == 1),
    Form("action=none", wanted=lambda number: False),
)


@dataclass
class Viewer:
    """Opens a stream of its run again and again, and checks all that it is given."""

    port: int
    run_id: str
    form: Form
    chance: random.Random = field(repr=False)
    total: int = 0
    last: int = 0
    last_id: str = ""
    connections: int = 0
    ended: bool = False

    def watch_a_while(self) -> None:
        """One connection, read for a random while and then broken off."""
        small = self.chance.random() < 0.5
        connection = self._open(4096 if small else None)
        try:
            for _ in range(self.chance.choice([1, 2])):
                self._read(connection, self.chance.choice([0, 0.02, 0.1, 0.4, 1.0]))
                if small:
                    time.sleep(self.chance.choice([0, 0.5, 1.0]))  # so that its buffer fills
            end = self.chance.choice(["reset", "reset", "close", "half"])
            if end == "reset":
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            elif end == "half":
                connection.shutdown(socket.SHUT_WR)
                assert self._read(connection, 20), "one who hung up is still served"
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
        path = path_of(self.run_id, self.form.query)
        return ask(self.port, path, self.form.version, headers, receive_buffer)

    def _read(self, connection: socket.socket, seconds: float) -> bool:
        """Read so long, a piece at the least; whether the connection has ended."""
        until = time.monotonic() + seconds
        while True:
            connection.settimeout(max(0.01, until - time.monotonic()))
            try:
                piece = connection.recv(self.chance.choice([7, 1000, 65536]))
            except TimeoutError:
                return False
            if not piece:
                return True
            if self._chunks is None:
                self._head, separator, piece = (self._head + piece).partition(b"\r\n\r\n")
                if not separator:
                    continue
                self._chunks = Chunks()
                self._over = b" 204 " in self._head.partition(b"\r\n")[0]
                if self._over:
                    assert self.ended, "there is something after the cursor"
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
        if text in (": open", ": heartbeat") or re.fullmatch(r"retry: [0-9]{4}", text):
            return
        fields = dict(line.split(": ", 1) for line in text.split("\n"))
        event = json.loads(fields["data"])
        name = "{category}.{action}".format(**event["event"])
        named = self.form.typed or name.startswith("gateway.")
        assert list(fields) == ["id", *(["event"] if named else []), "data"], text
        assert fields.get("event", name) == name, text
        self._take_event(name, event, fields["id"])

    def _take_event(self, name: str, event: dict, event_id: str | None) -> None:
        assert event["run_id"] == self.run_id, f"another run's: {event}"
        if name == "gateway.caught_up":
            assert not self._caught_up, "caught up twice on one connection"
            self._caught_up = True
            self.last_id = event_id or self.last_id
            return
        assert event["id"] == event_id
        number = event["sequence"]
        terminal = name == "lifecycle.completed"
        skipped = [each for each in range(self.last + 1, number) if self.form.wanted(each)]
        assert number > self.last, f"{number} came after {self.last}"
        assert not skipped, f"{skipped} are missing after {self.last}"
        if terminal:
            assert number == self.total
        else:
            assert self.form.wanted(number), f"{number} is not for {self.form}"
            assert event["data"] == data_of(self.run_id, number)
            assert name == f"{category_of(number)}.a"
        self.last, self.last_id, self.ended = number, event_id, terminal


def test_every_byte_is_in_its_place_whoever_comes_and_goes(start_gateway, store):
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    chance = random.Random(seed)
    runs = [f"churn-{seed}-{number}" for number in range(RUNS)]
    gateway = start_gateway(HEARTBEAT_SECONDS=1)
    viewers = [
        Viewer(
            gateway.port,
            runs[number % RUNS],
            FORMS[number // RUNS % len(FORMS)],
            random.Random(chance.random()),
        )
        for number in range(VIEWERS)
    ]
    failures: list[str] = []
    churned = threading.Event()
    produced = threading.Event()

    def view(viewer: Viewer) -> None:
        try:
            while not churned.is_set():
                viewer.watch_a_while()
            assert produced.wait(30)
            viewer.watch_to_the_end()
        except (AssertionError, OSError, ValueError, KeyError) as error:
            failures.append(f"{viewer}: {type(error).__name__} {error}")

    def produce() -> None:
        number = 0
        until = time.monotonic() + CHURN_SECONDS
        while time.monotonic() < until:
            number += 1
            for run in runs:
                store.add(run, category_of(number), "a", data_of(run, number))
            time.sleep(chance.choice([0, 0, 0.005, 0.05]))
        churned.set()
        for viewer in viewers:
            viewer.total = number + 1
        for run in runs:
            store.add(run, "lifecycle", "completed")
        produced.set()

    threads = [threading.Thread(target=view, args=(viewer,)) for viewer in viewers]
    threads.append(threading.Thread(target=produce))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, f"seed {seed}: {len(failures)} of {VIEWERS}, first {failures[0]}"
    [worker] = gateway.workers()
    wait_until(lambda: not clients_of(gateway, worker), "every connection is given up")
    gateway.stop()
    assert sum(viewer.connections for viewer in viewers) > 5 * VIEWERS
    log = gateway.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :][:2000]


def clients_of(gateway: GatewayServer, worker: psutil.Process) -> list:
    return [
        each
        for each in worker.net_connections(kind="tcp")
        if each.laddr.port == gateway.port and each.status != psutil.CONN_LISTEN
    ]


# (b) The framing


def test_a_client_of_http_1_0_gets_the_plain_bytes_and_the_end(gateway, store, run_id):
    store.add(run_id, "llm", "stream", "history")
    with ask(gateway.port, path_of(run_id), "1.0") as connection:
        received = b""
        while b"gateway.caught_up" not in received:
            received += connection.recv(65536)
        store.add(run_id, "llm", "stream", "live")
        while b'"live"' not in received:
            received += connection.recv(65536)
        store.add(run_id, "lifecycle", "completed")
        received += read_to_the_end(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body.startswith(b"retry: ")
    assert b"\r" not in body
    *blocks, rest = body.split(b"\n\n")
    assert rest == b""
    assert [block.partition(b"event: ")[2].partition(b"\n")[0] for block in blocks[2:]] == [
        b"llm.stream", b"gateway.caught_up", b"llm.stream", b"lifecycle.completed",
    ]  # fmt: skip


def test_a_client_of_http_1_1_gets_chunks_and_the_last_of_them(gateway, store, run_id):
    store.add(run_id, "llm", "stream", "history")
    with ask(gateway.port, path_of(run_id)) as connection:
        received = b""
        while b"gateway.caught_up" not in received:
            received += connection.recv(65536)
        store.add(run_id, "llm", "stream", "live")
        store.add(run_id, "lifecycle", "completed")
        received += read_to_the_end(connection)
    chunks = Chunks()
    body = chunks.read(received.partition(b"\r\n\r\n")[2])
    assert chunks.ended
    assert body.count(b"\nevent: ") == 4


# (c) A slow reader


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_who_reads_slowly_gets_everything_and_holds_up_nobody(gateway, store, run_id, version):
    events, size = 300, 2000
    with (
        ask(gateway.port, path_of(run_id), version, receive_buffer=4096) as slow,
        Stream(f"{gateway.url}{path_of(run_id)}") as fast,
    ):
        fast.wait_for_control("caught_up")
        for number in range(events):
            store.add(run_id, "llm", "stream", f"{number}:" + "x" * size)
        store.add(run_id, "lifecycle", "completed")
        fast.wait_for_end()
        assert fast.sequences == list(range(1, events + 2))
        received = b""
        while piece := slow.recv(1024):
            received += piece
            time.sleep(0.001)
    body = received.partition(b"\r\n\r\n")[2]
    if version == "1.1":
        chunks = Chunks()
        body = chunks.read(body)
        assert chunks.ended
    blocks = [block for block in body.decode().split("\n\n") if '"sequence":' in block]
    sent = [json.loads(block.partition("data: ")[2])["sequence"] for block in blocks]
    assert [number for number in sent if number] == list(range(1, events + 2))


# (d) Those who stall


@pytest.fixture
def patient(start_gateway) -> GatewayServer:
    """A gateway of the test's own, with its usual write time-out."""
    return start_gateway()


@pytest.fixture
def impatient(start_gateway) -> GatewayServer:
    """A gateway that cuts a client off which takes nothing for a second."""
    return start_gateway(application="tests.integration.impatient:app")


STALLED = 500
MEGABYTE = 1024 * 1024


def test_those_who_stall_while_a_run_is_busy_cost_no_memory(patient, store, run_id):
    [worker] = patient.workers()
    with contextlib.ExitStack() as open_streams:
        for _ in range(STALLED):
            connection = ask(patient.port, path_of(run_id), receive_buffer=4096)
            open_streams.enter_context(connection)
            assert connection.recv(100)
        fast = open_streams.enter_context(Stream(f"{patient.url}{path_of(run_id)}"))
        fast.wait_for_control("caught_up")
        wait_until(lambda: len(clients_of(patient, worker)) > STALLED, "all are open")
        before = worker.memory_info().rss
        for number in range(2000):
            store.add(run_id, "llm", "stream", "x" * 10_000)
            if number % 100 == 99:
                fast.wait_for_events(number + 1)
        assert fast.sequences == list(range(1, 2001))
        assert (worker.memory_info().rss - before) / MEGABYTE < 40
        assert requests.get(f"{patient.url}/healthz", timeout=5).ok


def test_those_who_stall_in_the_history_cost_no_memory_each(patient, store, run_id):
    """What they do not take is the same for all, and kept once."""
    for _ in range(2000):
        store.add(run_id, "llm", "stream", "x" * 10_000)
    [worker] = patient.workers()
    with Stream(f"{patient.url}{path_of(run_id)}") as fast, contextlib.ExitStack() as stalled:
        fast.wait_for_control("caught_up")
        before = worker.memory_info().rss
        for _ in range(STALLED):
            connection = ask(patient.port, path_of(run_id), receive_buffer=4096)
            stalled.enter_context(connection)
            connection.recv(100)
        store.add(run_id, "llm", "stream", "live")
        fast.wait_for_events(2001)
        assert (worker.memory_info().rss - before) / MEGABYTE < 60


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_who_takes_nothing_for_too_long_is_cut_off_and_nobody_else(
    impatient, store, run_id, version
):
    with (
        ask(impatient.port, path_of(run_id), version, receive_buffer=4096) as stalled,
        Stream(f"{impatient.url}{path_of(run_id)}") as silent,
    ):
        silent.wait_for_control("caught_up")
        assert stalled.recv(100)
        for _ in range(100):
            store.add(run_id, "llm", "stream", "x" * 50_000)
        end = f"stream ended run={run_id} client=127.0.0.1 reason=stalled"
        wait_until(lambda: end in impatient.log.read_text(), "it is cut off")
        silent.wait_for_events(100)
        received = read_to_the_end(stalled)
        assert not received.endswith(b"0\r\n\r\n"), "a cut must not look like an end"
        store.add(run_id, "llm", "stream", "after")
        silent.wait_for_events(101)
        assert impatient.log.read_text().count("stream ended") == 1


# (e) A herd


def xranges(client: redis.Redis) -> int:
    return client.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_herd_that_reconnects_costs_one_reading_of_the_log(
    gateway, store, redis_client, run_id, resumed
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(2000)]
    headers = {"Last-Event-ID": ids[9]} if resumed else {}
    first = 11 if resumed else 1
    before = xranges(redis_client)
    with contextlib.ExitStack() as connections:
        herd = [
            connections.enter_context(ask(gateway.port, path_of(run_id), "1.0", headers))
            for _ in range(100)
        ]
        for connection in herd:
            received = bytearray()
            while b"gateway.caught_up" not in received[-1000:]:
                piece = connection.recv(MEGABYTE)
                assert piece
                received += piece
            found = re.findall(rb'"sequence":([0-9]+)', received)
            assert list(map(int, found)) == list(range(first, 2001))
    looked_for_its_own_event = len(herd) if resumed else 0
    assert xranges(redis_client) - before < 20 + looked_for_its_own_event


# History in memory, seen from outside


def test_a_cursor_that_is_no_event_of_the_log_costs_nobody_else_an_event(gateway, store, run_id):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(10)]
    between = f"{ids[4]}9"  # above it, and below the next
    url = f"{gateway.url}{path_of(run_id)}"
    with Stream(url, {"Last-Event-ID": between}) as odd:
        odd.wait_for_control("caught_up")
        with Stream(url, {"Last-Event-ID": ids[4]}) as honest, Stream(url) as whole:
            honest.wait_for_control("caught_up")
            whole.wait_for_control("caught_up")
    assert honest.sequences == [6, 7, 8, 9, 10]
    assert whole.sequences == list(range(1, 11))


class Replay:
    """A subscriber in this process, whose history is read a chunk at a time."""

    def __init__(self, run_id: str, services: Services):
        view = StreamFormat(Filter(), JsonLines())
        self.seen: list[int | str] = []
        self._subscriber = Subscriber(run_id, Start(), view, services)
        self._chunks = self._subscriber.chunks()

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *exc_info) -> None:
        self._subscriber.close()

    def read_until(self, what: int | str) -> None:
        while what not in self.seen:
            for line in next(self._chunks).splitlines():
                event = json.loads(line)
                self.seen.append(event["sequence"] or event["event"]["action"])


@pytest.fixture
def services(store) -> Services:
    history = History(store)
    return Services(store, ReaderPool(store, 0.0, history.drop), history, Heartbeats(15.0))


def test_two_whose_history_is_trimmed_under_them_are_both_told(
    store, redis_client, services, run_id
):
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    with Replay(run_id, services) as first, Replay(run_id, services) as second:
        first.read_until(64)
        second.read_until(64)
        redis_client.xtrim(f"run:{run_id}:events", maxlen=20, approximate=False)
        first.read_until("caught_up")
        second.read_until("caught_up")
    expected = ["heartbeat", *range(1, 65), "gap", *range(181, 201), "caught_up"]
    assert first.seen == expected
    assert second.seen == expected


def test_one_whose_history_is_trimmed_goes_on_with_what_another_reads(
    store, redis_client, services, run_id
):
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    with Replay(run_id, services) as slow:
        slow.read_until(64)
        redis_client.xtrim(f"run:{run_id}:events", maxlen=20, approximate=False)
        with Replay(run_id, services) as fast:
            fast.read_until("caught_up")
        slow.read_until("caught_up")
    assert fast.seen == ["heartbeat", *range(181, 201), "caught_up"]
    assert slow.seen == ["heartbeat", *range(1, 65), "gap", *range(181, 201), "caught_up"]


def test_two_whose_log_is_begun_anew_under_them_get_the_new_one_once_and_after_the_reset(
    store, services, run_id
):
    # Given two who are in the middle of a log
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    with Replay(run_id, services) as first, Replay(run_id, services) as second:
        first.read_until(64)
        second.read_until(64)
        # When there is another one, of more than a feed remembers
        store.delete(run_id)
        for _ in range(299):
            store.add(run_id, "tool", "anew", "x" * 2000)
        store.add(run_id, "lifecycle", "completed")
        last_id = store.state(run_id).last_id
        wait_until(
            lambda: services.readers.position(run_id) == (1, last_id), "the reader has seen it"
        )
        # Then both get nothing of it before they are told
        for replay in (first, second):
            replay.read_until(300)
            replay.seen = [what for what in replay.seen[65:] if what != "caught_up"]
            assert replay.seen[0] == "reset"
            assert replay.seen == ["reset", *range(1, 301)]


# (f) Both ways of delivery


@pytest.fixture(params=["client_socket", "generator"])
def either(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The gateway under gunicorn, whose sockets it takes over, and under a server of threads."""
    if request.param == "client_socket":
        yield request.getfixturevalue("gateway")
        return
    redis_server = request.getfixturevalue("redis_server")
    app = create_app(Settings(redis_url=redis_server.url, drain_seconds=0))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.port}", port=server.port)
    app.extensions["tailrace"].drain()
    server.shutdown()
    thread.join()
    server.server_close()


def names(stream: Stream) -> list[str]:
    return [message.event for message in stream.messages]


def test_history_live_and_the_end_come_by_either_way(either, store, run_id):
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    with Stream(f"{either.url}{path_of(run_id)}") as stream:
        stream.wait_for_control("caught_up")
        for number in range(50):
            store.add(run_id, "llm", "stream", number)
        stream.wait_for_events(250)
        store.add(run_id, "lifecycle", "completed")
        stream.wait_for_end()
    assert stream.error is None
    assert stream.sequences == list(range(1, 252))
    assert names(stream).index("gateway.caught_up") >= 200
    assert names(stream)[-1] == "lifecycle.completed"
    header = {"Last-Event-ID": stream.last_event_id}
    assert requests.get(f"{either.url}{path_of(run_id)}", headers=header).status_code == 204


def test_a_filter_passes_the_same_by_either_way(either, store, run_id):
    store.add(run_id, "tool", "call")
    store.add(run_id, "llm", "stream")
    with Stream(f"{either.url}{path_of(run_id, 'category=llm&typed=false')}") as stream:
        caught_up = stream.wait_for_control("caught_up")
        assert caught_up.last_event_id == store.get_events(run_id)[-1].id
        for category in ("tool", "llm", "tool"):
            store.add(run_id, category, "a")
        store.add(run_id, "lifecycle", "failed")
        stream.wait_for_end()
    assert stream.sequences == [2, 4, 6]
    assert set(names(stream)) == {"message", "gateway.caught_up"}


def test_a_cursor_resumes_by_either_way(either, store, run_id):
    url = f"{either.url}{path_of(run_id)}"
    for number in range(5):
        store.add(run_id, "llm", "stream", number)
    with Stream(url) as first:
        first.wait_for_control("caught_up")
        store.add(run_id, "llm", "stream", 5)
        first.wait_for_events(6)
    store.add(run_id, "llm", "stream", 6)
    with Stream(url, {"Last-Event-ID": first.last_event_id}) as second:
        second.wait_for_control("caught_up")
        store.add(run_id, "llm", "stream", 7)
        second.wait_for_events(2)
    assert first.sequences + second.sequences == list(range(1, 9))


def test_a_log_begun_anew_is_told_by_either_way(either, store, run_id):
    store.add(run_id, "llm", "stream", "old")
    with Stream(f"{either.url}{path_of(run_id)}") as stream:
        stream.wait_for_control("caught_up")
        store.delete(run_id)
        store.add(run_id, "llm", "stream", "new")
        stream.wait_for_events(2)
    assert names(stream) == ["llm.stream", "gateway.caught_up", "gateway.reset", "llm.stream"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_a_drain_ends_either_way_s_streams_as_an_end_and_not_an_error(
    start_gateway, store, run_id, accept
):
    gateway = start_gateway(DRAIN_SECONDS=2)
    asked = [ask(gateway.port, path_of(run_id), headers={"Accept": accept}) for _ in range(20)]
    heads = []
    for connection in asked:
        received = b""
        while b"caught_up" not in received:
            received += connection.recv(65536)
        heads.append(received)
    gateway.stop(15)
    for connection, head in zip(asked, heads, strict=True):
        with connection:
            chunks = Chunks()
            body = chunks.read((head + read_to_the_end(connection)).partition(b"\r\n\r\n")[2])
            assert chunks.ended
            assert body.count(b"retry: ") == (2 if accept == "text/event-stream" else 0)
    assert gateway.log.read_text().count("reason=draining") == 20


def test_a_body_that_trickles_in_is_cut_with_408(impatient, run_id):
    head = f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=20) as slow:
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert slow.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert requests.get(f"{impatient.url}/runs/{run_id}").status_code == 404


@pytest.mark.parametrize("pages", [1, 30])
def test_who_does_not_take_a_page_is_cut_off_and_its_memory_comes_back(
    impatient, store, run_id, pages
):
    for number in range(40):
        store.add(run_id, "llm", "stream", f"{number}" + "x" * 200_000)
    request = f"GET /runs/{run_id}/events?limit=1000 HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    [worker] = impatient.workers()

    def clients() -> int:
        found = worker.net_connections(kind="tcp")
        return sum(each.laddr.port == impatient.port and bool(each.raddr) for each in found)

    with contextlib.ExitStack() as stack:
        for _ in range(pages):
            idle = socket.create_connection(("127.0.0.1", impatient.port), timeout=20)
            stack.enter_context(idle)
            idle.sendall(request)
        wait_until(lambda: clients() == 0, "all are cut off")
        assert requests.get(f"{impatient.url}/runs/{run_id}/events?limit=1000").ok
    assert "Traceback" not in impatient.log.read_text()
