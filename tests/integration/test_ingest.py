"""Streaming ingest at a real gateway: live lines, hostile clients, faults of all sides."""

import contextlib
import http.client
import json
import re
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.servers import GatewayServer, RedisServer, wait_until

MB = 1_000_000
GROWTH = 64 * MB  # of a worker's memory, whatever the size of the body
CHUNKED = "Transfer-Encoding: chunked"
CONTENT_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
LAST_CHUNK = b"0\r\n\r\n"


def line(data: object = None, category: str = "llm", action: str = "stream") -> bytes:
    event = {"event_category": category, "event_action": action, "data": data}
    return json.dumps(event).encode() + b"\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def head(run_id: str, *headers: str, version: str = "1.1") -> bytes:
    lines = (
        f"POST /runs/{run_id}/events HTTP/{version}",
        "Host: a",
        "Content-Type: application/x-ndjson",
        *headers,
    )
    return "\r\n".join([*lines, "", ""]).encode()


def length_of(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


class Producer:
    """A request of lines over a connection of its own, sent as the test says."""

    def __init__(self, gateway: GatewayServer, run_id: str, *headers: str):
        self.connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        if run_id:
            self.raw(head(run_id, *(headers or [CHUNKED])))

    def __enter__(self) -> "Producer":
        return self

    def __exit__(self, *exc_info) -> None:
        self.connection.close()

    def raw(self, data: bytes) -> None:
        self.connection.sendall(data)

    def send(self, *lines: bytes) -> None:
        """Each in a chunk of its own, all at once."""
        self.raw(b"".join(map(chunk, lines)))

    def break_off(self) -> None:
        self.connection.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def answer(self) -> tuple[int, dict]:
        """The next one: behind it another may have come already."""
        status = 100
        while status == 100:
            head = self._take_up_to(b"\r\n\r\n")
            status = int(head[9:12])
        return status, json.loads(self._take(int(CONTENT_LENGTH.search(head)[1])))

    def _take_up_to(self, end: bytes) -> bytes:
        while end not in self._received:
            self._receive()
        return self._take(self._received.index(end) + len(end))

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _receive(self) -> None:
        piece = self.connection.recv(65536)
        if not piece:
            raise http.client.RemoteDisconnected
        self._received += piece

    def end(self) -> tuple[int, dict]:
        self.raw(LAST_CHUNK)
        return self.answer()

    def was_answered(self) -> bool:
        """Whether there is an answer to read already."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def is_hung_up_on(self) -> bool:
        try:
            return self.connection.recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def start(redis_server, tmp_path) -> Iterator[Callable[..., GatewayServer]]:
    """Starts gateways of this test's own."""
    gateways: list[GatewayServer] = []

    def start(redis: RedisServer = redis_server, **settings: object) -> GatewayServer:
        log = tmp_path / f"gateway-{len(gateways)}.log"
        gateways.append(GatewayServer(redis.url, log, **settings))
        return gateways[-1].start()

    yield start
    for gateway in gateways:
        gateway.stop()
        assert "Traceback" not in gateway.log.read_text()


@pytest.fixture
def breakable(tmp_path) -> Iterator[RedisServer]:
    """A server of this test's own, which keeps its data over a kill."""
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.stop()


def data_of(store: EventStore, run_id: str) -> list:
    return [event.data for event in store.get_events(run_id)]


def wait_for_data(store: EventStore, run_id: str, data: list) -> None:
    wait_until(lambda: data_of(store, run_id) == data, f"{data} is stored")


def is_well(gateway: GatewayServer) -> bool:
    return requests.get(f"{gateway.url}/healthz", timeout=20).ok


# Live


def test_a_line_reaches_a_follower_while_its_request_is_open(gateway, run_id):
    with (
        Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream,
        Producer(gateway, run_id) as producer,
    ):
        for number in range(1, 4):
            producer.send(line(number))
            stream.wait_for_events(number)
        status, told = producer.end()
    assert (status, told["stored"]) == (200, 3)
    assert told["last_id"] == stream.events[-1].last_event_id
    assert stream.sequences == [1, 2, 3]


@pytest.mark.parametrize("small", [b"\n", b"{"])
def test_a_line_of_an_announced_body_is_stored_before_the_next_one_comes(
    gateway, store, run_id, small
):
    with Producer(gateway, run_id, "Content-Length: 5000") as producer:
        producer.raw(line(1))
        wait_for_data(store, run_id, [1])
        producer.raw(line(2) + small)
        wait_for_data(store, run_id, [1, 2])


@pytest.mark.parametrize("http_chunk", [chunk, bytes], ids=["chunked", "announced"])
def test_lines_that_arrive_together_go_in_one_round_trip(gateway, redis_client, run_id, http_chunk):
    def calls() -> int:
        stats = redis_client.info("commandstats")
        return sum(
            stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")
        )

    requests.post(f"{gateway.url}/runs/{run_id}/events", json=json.loads(line()))  # connects
    headers = [CHUNKED] if http_chunk is chunk else ["Content-Length: 50000"]
    with Producer(gateway, run_id, *headers) as producer:
        producer.raw(http_chunk(line("first")))
        wait_until(lambda: redis_client.xlen(f"run:{run_id}:events") == 2, "it is read from")
        before = calls()
        producer.raw(b"".join(http_chunk(line(number)) for number in range(60)))
        wait_until(lambda: redis_client.xlen(f"run:{run_id}:events") == 62, "all are stored")
        assert calls() == before + 1


def test_curl_feeds_a_run_from_what_a_program_prints(gateway, store, run_id):
    with subprocess.Popen(
        [
            *("curl", "-sS", "-X", "POST", "-T", "-", "-H", "Content-Type: application/x-ndjson"),
            f"{gateway.url}/runs/{run_id}/events",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as curl:
        for number in range(3):
            curl.stdin.write(line(number))
            curl.stdin.flush()
            wait_for_data(store, run_id, list(range(number + 1)))
        answer, _ = curl.communicate(timeout=20)
    assert json.loads(answer)["stored"] == 3


def test_curl_that_puts_is_told_which_methods_there_are(gateway, run_id):
    curl = subprocess.run(
        ["curl", "-sSi", "-T", "-", f"{gateway.url}/runs/{run_id}/events"],
        input=line(1),
        stdout=subprocess.PIPE,
        timeout=20,
    )
    assert b" 405 " in curl.stdout
    [allowed] = [row for row in curl.stdout.splitlines() if row.startswith(b"Allow:")]
    assert b"POST" in allowed
    assert curl.stdout.endswith(b"}")


def test_a_hundred_requests_at_once_lose_nothing_and_mix_nothing(gateway, store, run_id):
    def feed(number: int) -> int:
        with Producer(gateway, f"{run_id}-{number % 10}") as producer:
            for each in range(20):
                producer.send(line([number, each]))
            return producer.end()[1]["stored"]

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(feed, range(100))) == [20] * 100
    for run in range(10):
        data = data_of(store, f"{run_id}-{run}")
        assert len(data) == 200
        for number in range(run, 100, 10):
            assert [each for of, each in data if of == number] == list(range(20))


# HTTP


BODY = line("é😀").replace(b"\n", b"\r\n") + b"\n" + line(2)


def test_a_body_may_be_cut_into_chunks_at_every_byte(gateway, store, run_id):
    with Producer(gateway, "") as producer:
        for cut in range(1, len(BODY)):
            producer.raw(head(run_id, CHUNKED) + chunk(BODY[:cut]) + chunk(BODY[cut:]))
            status, told = producer.end()
            assert (status, told["stored"], told["last_sequence"]) == (200, 2, 2 * cut)


@pytest.mark.parametrize(
    "sent",
    [
        head("{}", CHUNKED) + b"".join(chunk(bytes([each])) for each in BODY) + LAST_CHUNK,
        head("{}", length_of(BODY)) + BODY,
    ],
    ids=["chunked", "announced"],
)
def test_a_request_may_come_byte_by_byte(gateway, store, run_id, sent):
    with Producer(gateway, "") as producer:
        for each in sent.replace(b"{}", run_id.encode(), 1):
            producer.raw(bytes([each]))
        assert producer.answer()[1]["stored"] == 2
    assert data_of(store, run_id) == ["é😀", 2]


def test_chunk_extensions_and_trailers_are_passed_over(gateway, store, run_id):
    body = b'%x;name="value;"\r\n%b\r\n0;last\r\nX-Trailer: 1\r\n\r\n' % (len(BODY), BODY)
    with Producer(gateway, run_id) as producer:
        producer.raw(body + head(run_id, length_of(b"")))
        assert producer.answer()[1]["stored"] == 2
        assert producer.answer()[1]["stored"] == 0


@pytest.mark.parametrize("pipelined", [True, False])
def test_a_connection_serves_what_follows_a_complete_request(gateway, store, run_id, pipelined):
    again = b"GET /runs/%b HTTP/1.1\r\nHost: a\r\n\r\n" % run_id.encode()
    bodies = [chunk(BODY) + LAST_CHUNK, BODY, chunk(BODY + b"{}") + LAST_CHUNK, b""]
    framings = [CHUNKED, length_of(BODY), CHUNKED, length_of(b"")]
    sent = [head(run_id, *each) + body for each, body in zip(zip(framings), bodies, strict=True)]
    sent.insert(1, again)
    expected = [("stored", 2), ("length", 2), ("stored", 2), ("line", 4), ("stored", 0)]
    with Producer(gateway, "") as producer:
        if pipelined:
            producer.raw(b"".join(sent))
        for request, (name, value) in zip(sent, expected, strict=True):
            if not pipelined:
                producer.raw(request)
            assert producer.answer()[1][name] == value


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([CHUNKED], chunk(b"{\n") + b"{smuggled}"),
        ([CHUNKED], chunk(b"{\n") + LAST_CHUNK[:-2] + b"{smuggled}"),
        ([CHUNKED], b"zz\r\n{smuggled}"),
        (["Content-Length: 1000"], b"{\n{smuggled}"),
        (["Content-Length: 1000"], line(1) + b"{\n" + b" " * 500 + b"{smuggled}"),
        ([CHUNKED, "Idempotency-Key: a"], chunk(line(1)) + b"{smuggled}"),
        ([CHUNKED, "Content-Length: 5"], chunk(b"{\n") + b"{smuggled}"),
    ],
)
def test_nothing_of_a_body_is_taken_for_another_request_after_an_error(
    gateway, store, run_id, headers, body
):
    smuggled = f"{run_id}-smuggled"
    body = body.replace(b"{smuggled}", head(smuggled, length_of(line(1))) + line(1))
    with Producer(gateway, run_id, *headers) as producer:
        producer.raw(body)
        answer = http.client.HTTPResponse(producer.connection)
        answer.begin()
        assert answer.status == 400
        answer.read()
        assert producer.is_hung_up_on()
    assert not store.state(smuggled).exists


def test_http_1_0_may_announce_a_body(gateway, run_id):
    with Producer(gateway, "") as producer:
        producer.raw(head(run_id, length_of(BODY), version="1.0") + BODY)
        assert producer.answer()[1]["stored"] == 2
        assert producer.is_hung_up_on()


@pytest.mark.parametrize("framing", [CHUNKED, length_of(BODY)])
def test_who_expects_100_continue_gets_it_before_a_line_is_sent(gateway, run_id, framing):
    with Producer(gateway, run_id, framing, "Expect: 100-continue") as producer:
        assert producer.connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        producer.raw(BODY if framing != CHUNKED else chunk(BODY) + LAST_CHUNK)
        assert producer.answer()[1]["stored"] == 2


# Breaking off


@pytest.mark.parametrize("end", ["break_off", "reset", "__exit__"])
@pytest.mark.parametrize("headers", [[CHUNKED], ["Content-Length: 9999"]])
def test_a_producer_that_breaks_off_loses_nothing_that_arrived_whole(
    gateway, store, run_id, headers, end
):
    body = line(1) + line(2) + line(3)[:-1]
    with Producer(gateway, run_id, *headers) as producer:
        producer.raw(chunk(body) if headers == [CHUNKED] else body)
        wait_for_data(store, run_id, [1, 2])
        getattr(producer, end)()
        if end == "break_off":
            status, told = producer.answer()
            assert (status, told["line"], told["stored"]) == (400, 3, 2)
    ended = f"ingest ended run={run_id} "
    wait_until(lambda: ended in gateway.log.read_text(), "the gateway lets go of it")
    assert data_of(store, run_id) == [1, 2]


# Bad lines


def keep_sending(producer: Producer) -> None:
    with contextlib.suppress(OSError):
        while not producer.was_answered():
            producer.send(line("x" * 10_000))


def test_who_goes_on_sending_after_a_bad_line_is_answered(gateway, store, run_id):
    with Producer(gateway, run_id) as producer:
        producer.send(line(1), b"{\n")
        keep_sending(producer)
        status, told = producer.answer()
    assert (status, told["line"], told["stored"]) == (400, 2, 1)
    assert data_of(store, run_id) == [1]


def test_curl_that_goes_on_sending_after_a_bad_line_is_answered(gateway, run_id):
    curl = subprocess.run(
        [
            *("curl", "-sS", "-X", "POST", "-T", "-", "-H", "Content-Type: application/x-ndjson"),
            f"{gateway.url}/runs/{run_id}/events",
        ],
        input=line(1) + b"{\n" + line("x" * 10_000) * 3000,
        stdout=subprocess.PIPE,
        timeout=30,
    )
    told = json.loads(curl.stdout)
    assert (curl.returncode, told["status"], told["line"], told["stored"]) == (0, 400, 2, 1)


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 400),
        ("", {"Idempotency-Key": "k"}, 400),
        ("expected_sequence=5", {}, 409),
        ("", {"Content-Type": "application/x-ndjson; charset=utf-16"}, 415),
    ],
)
def test_requests_that_goes_on_sending_after_an_error_is_answered(
    gateway, run_id, query, headers, status
):
    def lines() -> Iterator[bytes]:
        yield line(1)
        yield b"{\n"
        for _ in range(3000):
            yield line("x" * 10_000)

    headers = {"Content-Type": "application/x-ndjson", **headers}
    answer = requests.post(
        f"{gateway.url}/runs/{run_id}/events?{query}", data=lines(), headers=headers, timeout=30
    )
    assert answer.status_code == status
    assert answer.json()["status"] == status


class Watched:
    """Sends so many megabytes, and looks at a worker's memory meanwhile."""

    def __init__(self, gateway: GatewayServer):
        [self._worker] = gateway.workers()
        self._before = self._worker.memory_info().rss

    def send(self, producer: Producer, megabytes: int, piece: bytes, http_chunk: bool) -> None:
        """Until all is sent, or the answer is there."""
        framed_piece = chunk(piece) if http_chunk else piece
        with contextlib.suppress(OSError):
            for _ in range(megabytes * MB // len(piece)):
                if producer.was_answered():
                    break
                producer.raw(framed_piece)
                assert self._worker.memory_info().rss < self._before + GROWTH


@pytest.mark.parametrize("http_chunk", [True, False], ids=["chunked", "announced"])
def test_a_line_without_an_end_is_413_and_takes_no_memory(gateway, store, run_id, http_chunk):
    headers = [CHUNKED] if http_chunk else [f"Content-Length: {500 * MB}"]
    with Producer(gateway, run_id, *headers) as producer:
        opening = line(1)
        producer.raw(chunk(opening) if http_chunk else opening)
        Watched(gateway).send(producer, 500, b"x" * MB, http_chunk)
        status, told = producer.answer()
    assert (status, told["line"], told["stored"]) == (413, 2, 1)
    assert is_well(gateway)


@pytest.mark.parametrize("http_chunk", [True, False], ids=["chunked", "announced"])
@pytest.mark.parametrize(
    ("piece", "megabytes"),
    [(line("x" * 200_000) * 5, 40), (b"\n" * MB, 3)],
    ids=["events", "blank"],
)
def test_a_body_far_over_the_limit_of_one_takes_no_memory(
    start, run_id, piece, megabytes, http_chunk
):
    gateway = start(STREAM_MAXLEN=10)
    pieces = megabytes * MB // len(piece)
    headers = [CHUNKED] if http_chunk else [f"Content-Length: {pieces * len(piece)}"]
    with Producer(gateway, run_id, *headers) as producer:
        Watched(gateway).send(producer, megabytes, piece, http_chunk)
        status, told = producer.end() if http_chunk else producer.answer()
    assert (status, told["stored"]) == (200, pieces * piece.count(b"{"))


TINY = {
    "a line in tiny chunks": ("application/x-ndjson", chunk(b" ") * 60_000),
    "blank lines in tiny chunks": ("application/x-ndjson", chunk(b"\n") * 60_000),
    "blank lines": ("application/x-ndjson", chunk(b"\n" * MB)),
    "an event in tiny chunks": ("application/json", chunk(b" ") * 60_000),
    "what nobody reads": ("text/plain", chunk(b"x" * MB)),
}


@pytest.mark.parametrize(("kind", "piece"), TINY.values(), ids=TINY)
def test_who_sends_as_fast_as_it_can_holds_up_nobody(gateway, run_id, kind, piece):
    stop = threading.Event()

    def flood() -> None:
        opening = head(run_id, CHUNKED).replace(b"application/x-ndjson", kind.encode())
        while not stop.is_set():
            with Producer(gateway, "") as producer, contextlib.suppress(OSError):
                producer.raw(opening)
                while not stop.is_set():
                    producer.raw(piece)

    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood)
        try:
            url = f"{gateway.url}/runs/{run_id}-other/events"
            for number in range(1, 6):
                answer = requests.post(url, json=json.loads(line()), timeout=10)
                assert answer.json()["sequence"] == number
        finally:
            stop.set()
        flooding.result(30)


@pytest.mark.parametrize("trickles", [False, True])
def test_a_line_that_does_not_come_to_its_end_is_cut_with_408(start_gateway, run_id, trickles):
    gateway = start_gateway(application="tests.integration.impatient:app")
    with Producer(gateway, run_id) as producer:
        producer.send(line(1), b"\n")
        assert not select.select([producer.connection], [], [], 2.0)[0], "silence is allowed"
        producer.send(line(2)[:-1])
        if trickles:
            while not select.select([producer.connection], [], [], 0.1)[0]:
                producer.send(b" ")
        status, told = producer.answer()
    assert (status, told["line"], told["stored"]) == (408, 3, 1)


# Limits


def test_no_more_are_admitted_than_streams_and_places_are_given_back(start, run_id):
    gateway = start(MAX_STREAMS=2)
    with contextlib.ExitStack() as stack:
        producers = [stack.enter_context(Producer(gateway, run_id)) for _ in range(2)]
        for producer in producers:
            producer.send(b"\n")
        opened = "ingest opened"
        wait_until(lambda: gateway.log.read_text().count(opened) == 2, "both are open")
        with Producer(gateway, run_id) as refused:
            refused.send(line(1))
            keep_sending(refused)
            status, told = refused.answer()
        assert (status, told["stored"], told["line"]) == (503, 0, 1)
        assert is_well(gateway)
        for producer in producers:
            assert producer.end()[0] == 200
        with Producer(gateway, run_id) as producer:
            assert producer.end()[0] == 200


def held_body(size: int) -> tuple[bytes, bytes]:
    """A body of so many bytes, without and with its last ones."""
    whole = line("x" * (size - len(line(""))))
    return whole[:-1], whole


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
def test_a_gateway_that_holds_too_much_answers_429_and_recovers(start, run_id, kind):
    gateway = start(MAX_BODY_BYTES=262_144)
    unfinished, whole = held_body(260_000)
    opening = head(run_id, length_of(whole)).replace(b"application/x-ndjson", kind.encode())
    [worker] = gateway.workers()
    with contextlib.ExitStack() as stack:

        def begin() -> Producer:
            producer = stack.enter_context(Producer(gateway, ""))
            producer.raw(opening + unfinished)
            return producer

        producers = [begin() for _ in range(64)]

        def is_full() -> bool:
            for number, producer in enumerate(producers):
                if producer.was_answered():  # 429, since an earlier try took its room
                    producers[number] = begin()
            time.sleep(0.1)  # they are read
            answer = requests.post(
                f"{gateway.url}/runs/{run_id}/events",
                data=whole + whole,
                headers={"Content-Type": "application/x-ndjson"},
                timeout=20,
            )
            assert answer.status_code in (200, 429)
            if answer.status_code == 429:
                assert int(answer.headers["Retry-After"]) >= 1
                assert answer.json()["line"] == answer.json()["stored"] + 1
            return answer.status_code == 429

        wait_until(is_full, "the admission is full")
        with Producer(gateway, "") as one_more:
            one_more.raw(opening + whole)
            status, told = one_more.answer()
        assert (status, told["stored"]) == (429, 0)  # False is 0
        assert is_well(gateway)
        for producer in producers:
            producer.raw(whole[-1:])
            assert producer.answer()[0] in (200, 201)
    answer = requests.post(f"{gateway.url}/runs/{run_id}/events", json=json.loads(line()))
    assert answer.status_code == 201
    assert worker.is_running()


def test_a_thousand_that_are_opened_and_dropped_leave_nothing_behind(start, store, run_id):
    gateway = start(MAX_BODY_BYTES=262_144)
    [worker] = gateway.workers()

    def drop(count: int) -> None:
        """Each has stored a line, and part of another one is held."""
        for number in range(count):
            with Producer(gateway, run_id) as producer:
                producer.send(line(number), b" " * 20_000)
                if number % 2:
                    producer.reset()

    def all_ended() -> bool:
        log = gateway.log.read_text()
        return log.count("ingest opened") == log.count("ingest ended")

    drop(50)  # so that what is made once has been made
    wait_until(lambda: all_ended() and worker.num_fds(), "the first have ended")
    assert is_well(gateway)
    before = worker.num_fds()
    drop(1000)
    wait_until(all_ended, "all have ended")
    wait_until(lambda: worker.num_fds() <= before, f"{before} descriptors are left")
    with Producer(gateway, run_id) as producer:
        producer.send(line(1))
        assert producer.end()[0] == 200  # and 429 if it still held 20 MB


# Redis away


@pytest.mark.parametrize("fault", ["stop", "pause"])
def test_what_is_told_of_a_lost_redis_agrees_with_the_log(start, breakable, run_id, fault):
    gateway = start(breakable)
    with Producer(gateway, run_id) as producer, breakable.client() as client:
        producer.send(*map(line, range(100)))
        wait_until(lambda: client.xlen(f"run:{run_id}:events") == 100, "they are stored")
        sending = threading.Thread(target=keep_sending, args=(producer,))
        sending.start()
        wait_until(lambda: client.xlen(f"run:{run_id}:events") > 200, "it goes on")
        getattr(breakable, fault)()
        sending.join()
        status, told = producer.answer()
        assert status == 503
        assert told["stored"] > 200
        assert told["line"] == told["stored"] + 1
        breakable.start() if fault == "stop" else breakable.resume()
    with Producer(gateway, run_id) as producer:
        producer.send(line("again"))
        stored = producer.end()[1]["last_sequence"] - 1
    assert told["stored"] <= stored <= told["stored"] + told.get("unknown", 0)


def test_a_slow_redis_slows_the_producer_and_not_the_worker(start, breakable, run_id):
    gateway = start(breakable, STREAM_MAXLEN=100)
    [worker] = gateway.workers()
    piece = chunk(line("x" * 10_000)) * 10
    with Producer(gateway, run_id) as producer:
        producer.send(line("first"))
        store = EventStore(breakable.url)
        wait_until(lambda: store.state(run_id).length, "it is stored")
        before = worker.memory_info().rss
        breakable.pause()
        sent, rest = 0, b""
        while select.select([], [producer.connection], [], 0.3)[1]:
            rest = rest or piece
            rest = rest[producer.connection.send(rest, socket.MSG_DONTWAIT) :]
            sent += not rest
            assert sent * len(piece) < GROWTH
        assert worker.memory_info().rss < before + 8 * MB
        assert is_well(gateway)
        breakable.resume()
        producer.raw(rest)
        status, told = producer.end()
    assert (status, told["stored"]) == (200, 1 + 10 * (sent + bool(rest)))


# Leaving


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_gateway_that_leaves_tells_what_is_stored(start, store, run_id, number):
    gateway = start(DRAIN_SECONDS=1)
    [worker] = gateway.workers()
    with contextlib.ExitStack() as stack:
        producers = []
        for count in range(10):
            producers.append(stack.enter_context(Producer(gateway, f"{run_id}-{count}")))
            producers[-1].send(*map(line, range(count)), b'{"half')
            wait_for_data(store, f"{run_id}-{count}", list(range(count)))
        gateway.process.send_signal(number)
        for count, producer in enumerate(producers):
            status, told = producer.answer()
            assert (status, told["stored"], told["line"]) == (503, count, count + 1)
            assert told["last_sequence"] == (count or None)
            assert producer.is_hung_up_on()
    worker.wait(1 + 5 + 5)
    if number == signal.SIGHUP:
        wait_until(lambda: gateway.workers() and is_well(gateway), "another worker serves")
        with Producer(gateway, run_id) as producer:
            producer.send(line(1))
            assert producer.end()[0] == 200
    else:
        assert gateway.process.wait(10) == 0


def test_those_who_go_on_sending_to_a_gateway_that_leaves_are_told(start, store, run_id):
    gateway = start(DRAIN_SECONDS=1)
    with Producer(gateway, run_id) as producer:
        sending = threading.Thread(target=keep_sending, args=(producer,))
        sending.start()
        wait_until(lambda: store.state(run_id).length > 10, "some are stored")
        gateway.process.send_signal(signal.SIGTERM)
        sending.join()
        status, told = producer.answer()
    assert status == 503
    assert told["stored"] == store.state(run_id).last_sequence
    assert gateway.process.wait(1 + 5 + 5) == 0
