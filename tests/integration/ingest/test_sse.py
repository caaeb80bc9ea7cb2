"""Ingest of Server-Sent Events at a real gateway: every way in which a body can end."""

import contextlib
import http.server
import json
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest
import requests

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.integration.ingest.producer import (
    CHUNKED,
    LAST_CHUNK,
    MB,
    MemoryCheck,
    Producer,
    chunk,
    head,
    is_healthy,
    send_until_answered,
)
from tests.servers import GatewayServer, wait_until

SSE = "text/event-stream"


def sse(data: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(data).encode()


DONE = b"data: [DONE]\n\n"
START, DELTA, FINISH, ERROR = (
    {"type": kind} for kind in ("start", "text-delta", "finish", "error")
)


class SseProducer(Producer):
    """A connection with a request that streams Server-Sent Events to a run."""

    def __init__(self, gateway: GatewayServer, run_id: str, query: str = "dialect=ai-sdk"):
        super().__init__(gateway, "")
        self.open(run_id, query)

    def open(self, run_id: str, query: str = "dialect=ai-sdk") -> None:
        opening = head(run_id, CHUNKED).replace(b"application/x-ndjson", SSE.encode())
        self.raw(opening.replace(b"/events HTTP", f"/events?{query} HTTP".encode(), 1))


def names(store: EventStore, run_id: str) -> list[str]:
    return [f"{event.category}.{event.action}" for event in store.get_events(run_id)]


def wait_for_names(store: EventStore, run_id: str, *expected: str) -> None:
    wait_until(lambda: names(store, run_id) == list(expected), f"{expected} are stored")


def wait_until_received(gateway: GatewayServer, size: int) -> None:
    """Wait until the gateway has received so many bytes of an open request: nothing else shows
    that it holds a chunk."""

    def found() -> bool:
        streams = requests.get(f"{gateway.url}/debug/streams", timeout=20).json()["streams"]
        return any(stream["bytes"] == size for stream in streams)

    wait_until(found, f"{size} bytes have arrived")


# Where a body ends


BODY = (
    b"\xef\xbb\xbf: hi\r\nid: 1\r\n"
    + sse(START).replace(b"\n", b"\r\n")
    + b"data: \xc3\xa9\rdata: b\r\r"
    + sse(FINISH)
    + sse(DELTA)
    + b"retry: 5\n"
    + sse(FINISH)
    + b": bye\n\n"
    + DONE
)
STARTED, COMPLETED, MESSAGES = ["lifecycle.started"], ["lifecycle.completed"], ["sse.message"] * 3


def end_of(event: bytes, at: int) -> int:
    return at + len(event)


# Where each event of it is complete, with what is stored by then if the body ends there.
ENDS = [
    (0, []),
    (BODY.index(b"\r\ndata: \xc3") + 1, STARTED),
    (BODY.index(b"\r\r") + 2, STARTED + MESSAGES[:1]),
    (end_of(sse(FINISH), BODY.index(sse(FINISH))), STARTED + MESSAGES[:1] + COMPLETED),
    (end_of(sse(DELTA), BODY.index(sse(DELTA))), STARTED + MESSAGES),
    (end_of(sse(FINISH), BODY.rindex(sse(FINISH))), STARTED + MESSAGES + COMPLETED),
]


def expected_at(cut: int) -> list[str]:
    return [expected for end, expected in ENDS if end <= cut][-1]


def test_a_body_may_end_at_every_byte(gateway, store, run_id):
    with SseProducer(gateway, f"{run_id}-0") as producer:
        for cut in range(len(BODY) + 1):
            if cut:
                producer.open(f"{run_id}-{cut}")
                producer.send(BODY[:cut])
            status, answer = producer.end()
            expected = expected_at(cut)
            assert (status, answer["stored"]) == (200, len(expected)), cut
            assert names(store, f"{run_id}-{cut}") == expected
            assert ("incomplete" in answer) is not_whole(BODY[:cut])


def not_whole(body: bytes) -> bool:
    """Whether a body ends within a line or an event, as BODY is made."""
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    event = lines[len(lines) - 1 - lines[-2::-1].index(b"") :] if b"" in lines[:-1] else lines
    return bool(lines[-1]) or any(line.startswith(b"data") for line in event)


@pytest.mark.parametrize("end", ["close_sending_half", "reset"])
def test_a_body_may_break_off_at_every_byte(gateway, store, run_id, end):
    for cut in range(1, len(BODY) + 1):
        with SseProducer(gateway, f"{run_id}-{cut}") as producer:
            producer.send(BODY[:cut])
            if end == "reset":
                wait_until_received(gateway, cut)
            getattr(producer, end)()
            if end == "close_sending_half":
                status, answer = producer.answer()
                assert (status, answer["stored"]) == (400, len(expected_at(cut)))
        wait_for_names(store, f"{run_id}-{cut}", *expected_at(cut))


def test_a_body_may_be_cut_into_chunks_at_every_byte(gateway, store, run_id):
    with SseProducer(gateway, f"{run_id}-0") as producer:
        for cut in range(1, len(BODY)):
            producer.send(BODY[:cut], BODY[cut:])
            status, answer = producer.end()
            assert (status, answer["stored"]) == (200, 5)
            producer.open(f"{run_id}-{cut}")


@pytest.mark.parametrize("separately", [True, False])
def test_a_body_may_come_byte_by_byte(gateway, store, run_id, separately):
    with SseProducer(gateway, run_id) as producer:
        if separately:
            for each in BODY:
                producer.send(bytes([each]))
        else:
            producer.raw(b"".join(chunk(bytes([each])) for each in BODY))
        status, answer = producer.end()
    assert (status, answer["stored"]) == (200, 5)
    assert names(store, run_id) == expected_at(len(BODY))
    assert [event.data for event in store.get_events(run_id)] == [
        START,
        "é\nb",
        FINISH,
        DELTA,
        FINISH,
    ]


# Events are live, but for the one that is held


def test_an_event_reaches_a_follower_while_its_request_is_open(gateway, store, run_id):
    with (
        Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream,
        SseProducer(gateway, run_id) as producer,
    ):
        for number in range(1, 4):
            producer.send(sse(DELTA))
            stream.wait_for_events(number)
        producer.send(sse(FINISH))
        wait_until_received(gateway, len(sse(DELTA)) * 3 + len(sse(FINISH)))
        assert names(store, run_id) == ["sse.message"] * 3
        producer.send(sse(DELTA))
        stream.wait_for_events(5)
        producer.send(sse(FINISH), DONE)
        stream.wait_for_events(6)
        assert stream.events[-1].event == "lifecycle.completed"
        status, answer = producer.end()
    assert (status, answer["stored"]) == (200, 6)


class Model(http.server.BaseHTTPRequestHandler):
    """An endpoint that streams an answer, the rest of it when the test says so."""

    parts: list[bytes]
    go_on: threading.Event

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", SSE)
        self.end_headers()
        self.wfile.write(self.parts[0])
        self.go_on.wait(30)
        self.wfile.write(self.parts[1])

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def model(*parts: bytes) -> Iterator[tuple[str, threading.Event]]:
    """Start a model that sends the first part, and after the event the second one."""
    go_on = threading.Event()
    handler = type("Handler", (Model,), {"parts": list(parts), "go_on": go_on})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", go_on
        finally:
            go_on.set()
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("rest", [sse(FINISH) + DONE, sse(FINISH), b"data: cut", b""])
def test_curl_makes_the_stream_of_a_model_durable(gateway, store, run_id, rest):
    target = f"{gateway.url}/runs/{run_id}/events?dialect=ai-sdk"
    with model(sse(START) + b": ping\n\n" + sse(DELTA), rest) as (url, go_on):
        command = f"curl -sN {url} | curl -sS -X POST -T - -H 'Content-Type: {SSE}' "
        pipeline = subprocess.Popen(
            ["sh", "-c", command + shlex.quote(target)], stdout=subprocess.PIPE
        )
        wait_for_names(store, run_id, "lifecycle.started", "sse.message")
        go_on.set()
        answer = json.loads(pipeline.communicate(timeout=30)[0])
    ended = b"finish" in rest
    assert answer["stored"] == 2 + ended
    assert answer.get("incomplete") is (True if rest == b"data: cut" else None)
    assert store.state(run_id).ended is ended


# What ends a request while a chunk is held


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_gateway_that_stops_stores_the_chunk_that_it_holds(start_gateway, store, run_id, number):
    gateway = start_gateway(DRAIN_SECONDS=1)
    [worker] = gateway.workers()
    body = sse(START) + sse(FINISH) + b"data: half"
    with SseProducer(gateway, run_id) as producer, SseProducer(gateway, f"{run_id}-b") as other:
        other.send(sse(ERROR) + sse(DELTA))
        producer.send(body)
        wait_for_names(store, f"{run_id}-b", "sse.message", "sse.message")
        wait_until_received(gateway, len(body))
        wait_for_names(store, run_id, "lifecycle.started")
        gateway.process.send_signal(number)
        status, answer = producer.answer()
        assert (status, answer["stored"], answer["line"]) == (503, 2, 5)
        status, answer = other.answer()
        assert (status, answer["stored"], answer["line"]) == (503, 2, 5)
    assert names(store, run_id) == ["lifecycle.started", "lifecycle.completed"]
    assert not store.state(f"{run_id}-b").ended, "its stream has broken off"
    worker.wait(30)


def test_a_worker_that_is_killed_loses_no_more_than_what_it_holds(start_gateway, store, run_id):
    """The lease then ends the run."""
    gateway = start_gateway()
    [worker] = gateway.workers()
    body = sse(START) + sse(FINISH)
    with SseProducer(gateway, run_id, "dialect=ai-sdk&lease_seconds=1") as producer:
        producer.send(body)
        wait_until_received(gateway, len(body))
        wait_for_names(store, run_id, "lifecycle.started")
        worker.kill()
        assert producer.is_closed_by_the_gateway()
    assert names(store, run_id)[:1] == ["lifecycle.started"]
    wait_until(lambda: store.state(run_id).ended, "the run is lost")
    assert names(store, run_id) == ["lifecycle.started", "lifecycle.lost"]


def test_a_lease_ends_the_run_of_a_stream_that_breaks_off(gateway, store, run_id):
    with SseProducer(gateway, run_id, "dialect=ai-sdk&lease_seconds=1") as producer:
        producer.send(sse(START), sse(DELTA), b"data: ")
        wait_for_names(store, run_id, "lifecycle.started", "sse.message")
        producer.reset()
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_events(3)
    assert names(store, run_id) == ["lifecycle.started", "sse.message", "lifecycle.lost"]


def test_a_held_chunk_that_redis_does_not_take_is_named_by_its_line(
    start_gateway, durable_redis, run_id
):
    gateway = start_gateway(durable_redis.url)
    body = sse(START) + b": ping\n\n" + sse(FINISH) + b": bye\n\n"
    with SseProducer(gateway, run_id) as producer:
        producer.send(body)
        wait_until_received(gateway, len(body))
        wait_for_names(EventStore(durable_redis.url), run_id, "lifecycle.started")
        durable_redis.stop()
        status, answer = producer.end()
        assert (status, answer["stored"], answer["line"]) == (503, 1, 5)
        durable_redis.start()
    store = EventStore(durable_redis.url)
    wait_until(lambda: is_ready(gateway), "the gateway is connected again")
    assert names(store, run_id) == ["lifecycle.started"]
    with SseProducer(gateway, run_id, "dialect=ai-sdk&expected_sequence=2") as producer:
        producer.send(sse(FINISH))
        assert producer.end()[1]["last_sequence"] == 2
    assert names(store, run_id) == ["lifecycle.started", "lifecycle.completed"]


def is_ready(gateway: GatewayServer) -> bool:
    return requests.get(f"{gateway.url}/readyz", timeout=20).ok


@pytest.mark.parametrize("fault", ["stop", "pause"])
def test_the_answer_after_an_outage_of_redis_agrees_with_the_log(
    start_gateway, durable_redis, run_id, fault
):
    gateway = start_gateway(durable_redis.url)
    with SseProducer(gateway, run_id) as producer, durable_redis.client() as client:

        def sends() -> None:
            with contextlib.suppress(OSError):
                while not producer.was_answered():
                    producer.send(sse({"type": "text-delta", "delta": "x" * 5_000}), sse(FINISH))

        sending = threading.Thread(target=sends)
        sending.start()
        wait_until(lambda: client.xlen(f"run:{run_id}:events") > 200, "some are stored")
        getattr(durable_redis, fault)()
        sending.join()
        status, answer = producer.answer()
        durable_redis.start() if fault == "stop" else durable_redis.resume()
    assert status == 503
    assert answer["line"] == 2 * answer["stored"] + 1
    wait_until(lambda: is_ready(gateway), "the gateway is connected again")
    stored = EventStore(durable_redis.url).state(run_id).last_sequence
    assert answer["stored"] <= stored <= answer["stored"] + answer.get("unknown", 0)


# Large bodies


def test_a_client_that_sends_on_after_a_bad_event_gets_the_answer(gateway, store, run_id):
    with SseProducer(gateway, run_id) as producer:
        producer.send(sse(DELTA), b"data: \xff\n\n")
        send_until_answered(producer)
        status, answer = producer.answer()
    assert (status, answer["line"], answer["stored"]) == (400, 3, 1)
    assert names(store, run_id) == ["sse.message"]


def test_megabytes_of_comments_and_lines_are_read_and_the_worker_stays_small(
    gateway, store, run_id
):
    comment = b": " + b"x" * MB + b"\n\n"
    many = b"data: 0123456789\n" * 10_000 + b"\n"
    with SseProducer(gateway, run_id) as producer:
        memory = MemoryCheck(gateway)
        memory.send(producer, 40, comment, http_chunk=True)
        producer.send(sse(DELTA), many, b"event: " + b"e" * 1000 + b"\n" + sse("named"))
        status, answer = producer.end()
    assert (status, answer["stored"]) == (200, 3)
    events = store.get_events(run_id)
    assert events[1].data == "\n".join(["0123456789"] * 10_000)
    assert (events[2].action, events[2].source) == ("e" * 64, {"sse": {"event": "e" * 1000}})


@pytest.mark.parametrize(
    "piece",
    [b"data: " + b"x" * MB, b"data: " + b"x" * 65_000 + b"\n", b"data\n" * 200_000, b"x" * MB],
    ids=["line", "lines", "empty lines", "unknown field"],
)
def test_an_event_without_an_end_is_413_and_takes_no_memory(gateway, store, run_id, piece):
    with SseProducer(gateway, run_id) as producer:
        producer.send(sse(DELTA))
        MemoryCheck(gateway).send(producer, 100, piece, http_chunk=True)
        status, answer = producer.answer()
    assert (status, answer["line"], answer["stored"]) == (413, 3, 1)
    assert is_healthy(gateway)
    assert names(store, run_id) == ["sse.message"]


def test_a_connection_serves_the_request_after_one_of_events(gateway, store, run_id):
    with SseProducer(gateway, run_id) as producer:
        producer.raw(chunk(sse(START) + b"data: cut") + LAST_CHUNK)
        producer.open(run_id)
        producer.raw(chunk(sse(FINISH)) + LAST_CHUNK)
        first, second = producer.answer()[1], producer.answer()[1]
    assert (first["stored"], first["incomplete"]) == (1, True)
    assert (second["stored"], second.get("incomplete")) == (1, None)
    assert names(store, run_id) == ["lifecycle.started", "lifecycle.completed"]
