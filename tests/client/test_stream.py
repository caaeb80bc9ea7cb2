"""Streams of events: lines, early responses, blank lines, and what was stored at an error."""

import contextlib
import json
import socket
import threading

import pytest

from app.client import Client, Ingested
from app.protocol import repeats
from app.streaming.errors import RunEnded, StoreUnavailable, StreamingError
from tests.client.fake_gateway import FakeGateway, problem, response

EVENT = {"event_category": "llm", "event_action": "stream"}


def test_a_stream_sends_a_line_for_each_event():
    stored = response(200, {"stored": 2, "last_id": "1-1", "last_sequence": 2})
    with FakeGateway([stored]) as gateway, Client(gateway.url) as client:
        events = iter([{**EVENT, "data": 1, "lease_seconds": 9}, {**EVENT, "source": "é\n"}])
        assert client.stream(1, events, expected_sequence=1) == Ingested(2, "1-1", 2)
    [request] = gateway.requests
    assert request.headers["content-type"] == "application/x-ndjson"
    assert request.query == {"expected_sequence": ["1"]}
    assert [json.loads(line) for line in request.body.split(b"\n")[:-1]] == [
        {**EVENT, "data": 1, "source": None, "lease_seconds": 9},
        {**EVENT, "data": None, "source": "é\n"},
    ]


@pytest.mark.parametrize("members", [{}, {"unknown": 3}])
def test_after_an_outage_of_redis_the_error_says_what_was_stored(members):
    ingested = {"stored": 5, "last_id": "1-4", "last_sequence": 5, "line": 6, **members}
    with FakeGateway([response(503, {"detail": "away", **ingested})]) as gateway:
        with pytest.raises(StoreUnavailable) as failed:
            Client(gateway.url).stream(1, [EVENT])
        assert failed.value.ingested == Ingested(5, "1-4", 5)
        assert failed.value.stored is (None if members else False)
    assert len(gateway.requests) == 1


def test_a_stream_whose_response_is_lost_is_not_repeated():
    with FakeGateway([None]) as gateway:
        with pytest.raises(StoreUnavailable) as failed:
            Client(gateway.url).stream(1, [EVENT])
        assert (failed.value.stored, failed.value.ingested) == (None, None)
    assert len(gateway.requests) == 1


def test_a_lost_response_is_raised_from_the_error_of_the_iterable():
    failure = OSError("disk")

    def events():
        yield EVENT
        raise failure

    with FakeGateway([None]) as gateway, pytest.raises(StoreUnavailable) as failed:
        Client(gateway.url).stream(1, events())
    assert failed.value.__cause__ is failure


def test_a_stream_stops_at_the_first_event_after_an_early_response():
    responded, yielded = threading.Event(), []

    def respond_early(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as reader:
            while b"llm" not in reader.readline():
                continue
            connection.sendall(problem(409, ended=True))
            responded.set()
            reader.read()  # until the client hangs up

    def events():
        yield EVENT
        assert responded.wait(20)
        for number in range(3):
            yielded.append(number)
            yield EVENT

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=respond_early, args=(listener,))
        server.start()
        with pytest.raises(RunEnded):
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}").stream(1, events())
        server.join(20)
    assert yielded == [0]


def test_a_silent_stream_sends_blank_lines(monkeypatch):
    monkeypatch.setattr(repeats, "SILENT_SECONDS", 0.02)
    came, chunks = threading.Semaphore(0), []

    def take_chunks(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as reader:
            while reader.readline() != b"\r\n":
                continue
            while size := int(reader.readline(), 16):
                chunks.append(reader.read(size + 2)[:-2])
                came.release()
            stored = {"stored": 2, "last_id": "1-1", "last_sequence": 2}
            connection.sendall(response(200, stored))

    def events():
        for number in range(2):
            yield {**EVENT, "data": number}
            for _ in range(3):
                assert came.acquire(timeout=20)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=take_chunks, args=(listener,))
        server.start()
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert client.stream(1, events()) == Ingested(2, "1-1", 2)
        server.join(20)
    assert [json.loads(chunk)["data"] for chunk in chunks if chunk != b"\n"] == [0, 1]
    assert len(chunks) >= 6


@pytest.mark.parametrize(
    ("events", "given"),
    [
        ([EVENT] * 3, response(200, {"stored": 3, "last_id": "1-2", "last_sequence": 3})),
        ([EVENT] * 3, response(409, {"detail": "so", "ended": True})),
        ([EVENT] * 3, None),
        ([EVENT, None], response(200, {"stored": 1, "last_id": "1-0", "last_sequence": 1})),
    ],
    ids=["ends", "is refused", "breaks", "has a bad event"],
)
@pytest.mark.only_client(reason="AsyncClient starts no threads")
def test_a_stream_ends_its_thread(events, given):
    with FakeGateway([given]) as gateway:
        before = set(threading.enumerate())
        with contextlib.suppress(StreamingError):
            Client(gateway.url).stream(1, events)
        assert set(threading.enumerate()) <= before


@pytest.mark.only_client(reason="Ctrl-C ends the event loop")
def test_an_interrupted_stream_ends_its_thread():
    def events():
        yield EVENT
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(KeyboardInterrupt):
        Client(f"http://127.0.0.1:{listener.getsockname()[1]}").stream(1, events())
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("error", [OSError("disk"), BrokenPipeError(), KeyError("x")])
def test_an_error_of_the_iterable_is_raised_after_the_events_before_it_are_sent(error):
    def events():
        yield EVENT
        raise error

    stored = response(200, {"stored": 1, "last_id": "1-0", "last_sequence": 1})
    with FakeGateway([stored]) as gateway:
        with pytest.raises(type(error)) as failed:
            Client(gateway.url).stream(1, events())
        assert failed.value is error
    assert gateway.requests[0].body.count(b"\n") == 1
