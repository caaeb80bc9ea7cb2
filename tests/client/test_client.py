"""The client's appends and reads: repeats, errors by their types, and what is refused at once."""

import contextlib
import itertools
import json
import queue
import socket
import threading
from types import SimpleNamespace

import pytest

from app.client import Client, Ingested, transport
from app.client import keepalive as keepalive
from app.streaming.backoff import backoff
from app.streaming.errors import (
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    KeyReused,
    NotALog,
    Refused,
    RunEnded,
    StoreUnavailable,
    StreamingError,
    UnexpectedSequence,
)
from app.streaming.new_event import NewEvent
from tests.client.fake_gateway import FakeGateway, answer
from tests.interruptions import handled_at
from tests.servers import free_port, wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}
STORED = answer(201, {"id": "1-0", "sequence": 1})
NOT_STORED = answer(503, {"detail": "away", "stored": False}, retry_after="0")
PERHAPS_STORED = answer(503, {"detail": "away", "stored": "unknown"})


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock for the transport on which only pauses take time; `pauses` are those."""
    clock = SimpleNamespace(now=0.0, pauses=[])

    def sleep(seconds: float) -> None:
        clock.now += seconds
        clock.pauses.append(seconds)

    fake = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(transport, "time", fake)
    return clock


# Repeats


def test_an_append_is_repeated_with_its_key_until_it_is_answered(clock):
    script = [None, NOT_STORED, answer(500), answer(502, b"<html>"), answer(429), answer(408)]
    with FakeGateway([*script, STORED]) as gateway, Client(gateway.url) as client:
        assert client.add(1, "llm", "stream", {"n": 1}) == "1-0"
    assert len(gateway.requests) == 7
    assert len(set(gateway.told(lambda request: request.headers["idempotency-key"]))) == 1
    assert set(gateway.told(lambda request: request.body)) == {gateway.requests[0].body}
    assert json.loads(gateway.requests[0].body) == {**EVENT, "data": {"n": 1}, "source": None}


def test_every_append_has_a_key_of_its_own_unless_one_is_given():
    with FakeGateway([STORED]) as gateway, Client(gateway.url) as client:
        for key in (None, None, 'a"b'):
            client.add(1, "llm", "stream", idempotency_key=key)
    first, second, third = gateway.told(lambda request: request.headers["idempotency-key"])
    assert first != second
    assert third == '"a"b"'


def test_a_repeat_that_finds_its_event_there_is_a_success(clock):
    replayed = answer(200, {"id": "1-0", "sequence": 1}, idempotent_replayed="true")
    with FakeGateway([None, replayed]) as gateway, Client(gateway.url) as client:
        assert client.add(1, "llm", "stream") == "1-0"


def test_reads_are_repeated_as_well(clock):
    page = answer(200, {"events": [], "next": None})
    with FakeGateway([NOT_STORED, page]) as gateway, Client(gateway.url) as client:
        assert client.get_events(1) == []
    assert len(gateway.requests) == 2


def test_an_append_gives_up_when_its_time_is_over(clock):
    with (
        FakeGateway([NOT_STORED]) as gateway,
        Client(gateway.url, retry_seconds=30) as client,
        pytest.raises(StoreUnavailable) as failed,
    ):
        client.add(1, "llm", "stream")
    assert failed.value.stored is False
    assert clock.now == pytest.approx(30)
    assert len(gateway.requests) == len(clock.pauses) + 1


def test_what_one_attempt_left_unknown_stays_unknown(clock):
    with (
        FakeGateway([None, NOT_STORED]) as gateway,
        Client(gateway.url) as client,
        pytest.raises(StoreUnavailable) as failed,
    ):
        client.add(1, "llm", "stream")
    assert failed.value.stored is None


def test_the_gateways_retry_after_is_waited_for(clock):
    busy = answer(429, {"detail": "busy", "stored": False}, retry_after="7")
    with FakeGateway([busy, busy, STORED]) as gateway, Client(gateway.url) as client:
        client.add(1, "llm", "stream")
    assert all(7 < pause < 8 for pause in clock.pauses)
    assert len(clock.pauses) == 2


def test_pauses_grow_up_to_a_bound_and_differ():
    several = [
        [pause for pause, _ in zip(backoff(transport.INITIAL_PAUSE_SECONDS, transport.MAX_PAUSE_SECONDS), range(12), strict=False)] for _ in range(5)
    ]
    assert len({pauses[0] for pauses in several}) > 1
    for pauses in several:
        assert pauses[0] <= transport.INITIAL_PAUSE_SECONDS
        longest = transport.MAX_PAUSE_SECONDS
        assert all(longest / 2 <= pause <= longest for pause in pauses[-3:])


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (None, None),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{", None),
        (b"nonsense\r\n\r\n", None),
        (NOT_STORED, False),
        (PERHAPS_STORED, None),
        (answer(503), None),
        (answer(500, {"detail": "a bug"}), None),
        (answer(429), False),
        (answer(408), False),
    ],
)
def test_with_no_time_to_repeat_there_is_one_attempt(given, stored):
    with (
        FakeGateway([given]) as gateway,
        Client(gateway.url, retry_seconds=0) as client,
        pytest.raises(StoreUnavailable) as failed,
    ):
        client.append_new(1, [NewEvent.of("llm", "stream")])
    assert failed.value.stored is stored
    assert len(gateway.requests) == 1


def test_what_no_gateway_took_was_not_stored():
    client = Client(f"http://127.0.0.1:{free_port()}", retry_seconds=0)
    with pytest.raises(StoreUnavailable) as failed:
        client.add(1, "llm", "stream")
    assert failed.value.stored is False
    with pytest.raises(StoreUnavailable) as failed:
        client.stream(1, [EVENT])
    assert failed.value.stored is False


# Signal handlers


def test_a_signal_handler_may_append_wherever_it_has_interrupted_an_append():
    """Also where the pool of connections, whose lock is held for a moment, was interrupted."""
    with FakeGateway([STORED]) as gateway, Client(gateway.url) as client:
        run = client.appender(1)

        def handle() -> None:
            client.add(1, "llm", "stream")
            run.emit("llm", "stream")
            run.flush()

        for step in itertools.count(1):
            with handled_at(step, handle, queue, transport) as done:
                client.add(1, "llm", "stream")
            if not done:
                break
        run.close()
    assert step > 100
    assert len(gateway.requests) == step + 2 * (step - 1)


# Errors


def problem(status: int, **members: object) -> bytes:
    return answer(status, {"type": "about:blank", "status": status, "detail": "so", **members})


AT_FAULT = [{"field": "data", "detail": "is bad"}, {"field": "source", "detail": "too"}]


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        (problem(400, errors=AT_FAULT), InvalidInput, {"field": "data", "message": "is bad"}),
        (problem(400), Refused, {"status": 400, "detail": "so", "errors": []}),
        (problem(401), Refused, {"status": 401}),
        (problem(404), Refused, {"status": 404}),
        (problem(409, ended=True), RunEnded, {}),
        (problem(409, last_sequence=7), UnexpectedSequence, {"last_sequence": 7}),
        (problem(409), NotALog, {}),
        (problem(413, errors=AT_FAULT), EventTooLarge, {"field": "data"}),
        (answer(413, b"<html>"), EventTooLarge, {"field": "body"}),
        (problem(415, errors=AT_FAULT), Refused, {"errors": AT_FAULT}),
        (problem(422, errors=AT_FAULT), InvalidEvent, {"field": "data"}),
        (problem(422), KeyReused, {}),
        (problem(422, errors="odd"), KeyReused, {}),
        (answer(302, location="/elsewhere"), Refused, {"status": 302}),
        (answer(418, b"[]"), Refused, {"status": 418, "detail": "Some Reason"}),
        (answer(200, b"<html>"), Refused, {"status": 200}),
    ],
)
def test_an_answer_is_raised_as_the_error_that_it_tells_of(given, kind, told):
    with FakeGateway([given]) as gateway, Client(gateway.url) as client:
        with pytest.raises(kind) as failed:
            client.add(1, "llm", "stream")
        assert type(failed.value) is kind
        assert {name: getattr(failed.value, name) for name in told} == told
    assert len(gateway.requests) == 1


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client: client.add("a/b", "llm", "stream"), "run_id"),
        (lambda client: client.add(1, "gateway", "stream"), "event_category"),
        (lambda client: client.add(1, "llm", "stream", float("nan")), "data"),
        (lambda client: client.add(1, "llm", "stream", "x" * 300_000), "data"),
        (lambda client: client.add(1, "llm", "stream", idempotency_key=""), "idempotency_key"),
        (lambda client: client.add(1, "llm", "stream", idempotency_key="é"), "idempotency_key"),
        (lambda client: client.add_many(1, [EVENT, {**EVENT, "data": {1}}]), "1.data"),
        (lambda client: client.add_many(1, [EVENT, {**EVENT, "max_bytes": 1}]), "1.max_bytes"),
        (lambda client: client.add_many(1, [{"event_action": "stream"}]), "0.event_category"),
        (lambda client: client.add_many(1, [None]), "0"),
        (lambda client: client.add_many(1, []), "events"),
        (lambda client: client.add_many(1, [EVENT] * 1001), "events"),
        (lambda client: client.add(1, "llm", "stream", lease_seconds=-1), "lease_seconds"),
        (lambda client: client.add(1, "llm", "stream", expected_sequence=0), "expected_sequence"),
        (lambda client: client.follow(1, "yesterday"), "last_event_id"),
        (lambda client: client.get_events(1, limit=-1), "limit"),
        (lambda client: client.get_events_after(1, "x"), "last_id"),
        (lambda client: client.state(".."), "run_id"),
    ],
)
def test_what_cannot_be_right_is_refused_before_it_is_sent(call, field):
    with FakeGateway([STORED]) as gateway, Client(gateway.url) as client:
        with pytest.raises(InvalidInput) as failed:
            call(client)
        assert failed.value.field == field
    assert gateway.requests == []


WAYS_TO_APPEND = {
    "add": lambda client, data: client.add(1, "llm", "stream", data),
    "add_many": lambda client, data: client.add_many(1, [{**EVENT, "data": data}]),
    "stream": lambda client, data: client.stream(1, [{**EVENT, "data": data}]),
    "appender": lambda client, data: client.appender(1).emit("llm", "stream", data),
}


@pytest.mark.parametrize("way", WAYS_TO_APPEND)
def test_the_largest_event_is_the_callers_choice(way):
    stored = answer(
        200, {"id": "1-0", "sequence": 1, "stored": 1} | Ingested(1, "1-0", 1)._asdict()
    )
    append = WAYS_TO_APPEND[way]
    with FakeGateway([stored]) as gateway:
        append(Client(gateway.url, max_event_bytes=400_000), "x" * 300_000)
        append(Client(gateway.url, max_event_bytes=10), "x" * 8)
        wait_until(lambda: len(gateway.requests) == 2, "both are sent")
        with pytest.raises(EventTooLarge, match="at most 10 bytes"):
            append(Client(gateway.url, max_event_bytes=10), "x" * 9)


@pytest.mark.parametrize("url", ["", "localhost:8082", "ftp://localhost", None])
def test_a_url_that_is_none_of_a_gateway_is_refused(url):
    with pytest.raises(InvalidInput, match="url"):
        Client(url)


# A stream of events


def test_a_stream_sends_a_line_for_each_event():
    stored = answer(200, {"stored": 2, "last_id": "1-1", "last_sequence": 2})
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
def test_a_stream_that_redis_broke_off_tells_what_was_stored(members):
    told = {"stored": 5, "last_id": "1-4", "last_sequence": 5, "line": 6, **members}
    with FakeGateway([answer(503, {"detail": "away", **told})]) as gateway:
        with pytest.raises(StoreUnavailable) as failed:
            Client(gateway.url).stream(1, [EVENT])
        assert failed.value.ingested == Ingested(5, "1-4", 5)
        assert failed.value.stored is (None if members else False)
    assert len(gateway.requests) == 1


def test_a_stream_whose_answer_is_lost_is_not_known_and_not_repeated():
    with FakeGateway([None]) as gateway:
        with pytest.raises(StoreUnavailable) as failed:
            Client(gateway.url).stream(1, [EVENT])
        assert (failed.value.stored, failed.value.ingested) == (None, None)
    assert len(gateway.requests) == 1


def test_a_stream_whose_iterable_failed_and_whose_answer_is_lost_tells_of_both():
    failure = OSError("disk")

    def events():
        yield EVENT
        raise failure

    with FakeGateway([None]) as gateway, pytest.raises(StoreUnavailable) as failed:
        Client(gateway.url).stream(1, events())
    assert failed.value.__cause__ is failure


def test_a_stream_stops_at_the_first_event_after_an_early_response():
    answered, asked = threading.Event(), []

    def answer_early(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as reader:
            while b"llm" not in reader.readline():
                continue
            connection.sendall(problem(409, ended=True))
            answered.set()
            reader.read()  # until the client hangs up

    def events():
        yield EVENT
        assert answered.wait(20)
        for number in range(3):
            asked.append(number)
            yield EVENT

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_early, args=(listener,))
        server.start()
        with pytest.raises(RunEnded):
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}").stream(1, events())
        server.join(20)
    assert asked == [0]


def test_a_stream_whose_next_event_is_long_in_coming_shows_that_it_lives(monkeypatch):
    monkeypatch.setattr(keepalive, "SILENT_SECONDS", 0.02)
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
            connection.sendall(answer(200, stored))

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
        ([EVENT] * 3, answer(200, {"stored": 3, "last_id": "1-2", "last_sequence": 3})),
        ([EVENT] * 3, answer(409, {"detail": "so", "ended": True})),
        ([EVENT] * 3, None),
        ([EVENT, None], answer(200, {"stored": 1, "last_id": "1-0", "last_sequence": 1})),
    ],
    ids=["ends", "is refused", "breaks", "has a bad event"],
)
def test_a_stream_leaves_no_thread_behind_however_it_ends(events, given):
    with FakeGateway([given]) as gateway:
        before = threading.active_count()
        with contextlib.suppress(StreamingError):
            Client(gateway.url).stream(1, events)
        assert threading.active_count() == before


def test_a_stream_that_is_interrupted_leaves_no_thread_behind():
    def events():
        yield EVENT
        raise KeyboardInterrupt

    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(KeyboardInterrupt):
        Client(f"http://127.0.0.1:{listener.getsockname()[1]}").stream(1, events())
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [OSError("disk"), BrokenPipeError(), KeyError("x")])
def test_an_error_of_the_iterable_is_raised_and_what_came_before_it_sent(error):
    def events():
        yield EVENT
        raise error

    stored = answer(200, {"stored": 1, "last_id": "1-0", "last_sequence": 1})
    with FakeGateway([stored]) as gateway:
        with pytest.raises(type(error)) as failed:
            Client(gateway.url).stream(1, events())
        assert failed.value is error
    assert gateway.requests[0].body.count(b"\n") == 1


# Pages


def page(first: int, count: int, following: str | None) -> bytes:
    events = [
        {"id": f"{n}-0", "run_id": "1", "sequence": n, "timestamp": None, "data": {"n": n},
         "source": None, "event": {"category": "llm", "action": "stream"}}
        for n in range(first, first + count)
    ]  # fmt: skip
    return answer(200, {"events": events, "next": following})


def test_pages_are_read_until_there_is_no_next_one():
    script = [page(1, 2, "9-0"), page(1, 0, "10-0"), page(11, 1, None)]
    with FakeGateway(script) as gateway, Client(gateway.url) as client:
        events = client.get_events(1, categories=["llm"], actions=("stream", "x"))
    assert [event.id for event in events] == ["1-0", "2-0", "11-0"]
    assert [event.data for event in events] == [{"n": 1}, {"n": 2}, {"n": 11}]
    asked = gateway.told(lambda request: request.query.get("after"))
    assert asked == [None, ["9-0"], ["10-0"]]
    assert gateway.requests[2].query["action"] == ["stream", "x"]


def test_pages_end_with_the_limit_and_go_backwards_too():
    with FakeGateway([page(1, 1000, "5-0"), page(1, 1, "4-0")]) as gateway:
        events = Client(gateway.url).get_events(1, limit=1001, descending=True)
        assert Client(gateway.url).get_events(1, limit=0) == []
    assert len(events) == 1001
    assert gateway.told(lambda request: request.query["limit"]) == [["1000"], ["1"]]
    assert gateway.requests[1].query["before"] == ["5-0"]


def test_data_that_is_nested_deeper_than_it_could_be_appended_is_read():
    deep = b"[" * 300 + b"]" * 300
    document = page(1, 1, None).partition(b"\r\n\r\n")[2].replace(b'{"n": 1}', deep)
    with FakeGateway([answer(200, document)]) as gateway:
        [event] = Client(gateway.url).get_events(1)
    assert event.data_json == deep
