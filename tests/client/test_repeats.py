"""How the client repeats requests, and what signal handlers may do meanwhile."""

import contextlib
import itertools
import json
import logging
import queue
from types import SimpleNamespace

import pytest

from app.client import Client, transport
from app.protocol import repeats
from app.streaming.errors import InvalidInput, ReentrantCall, StoreUnavailable
from app.streaming.new_event import NewEvent
from tests.both_clients import replace_pauses
from tests.client.fake_gateway import FakeGateway, Request, response, stored
from tests.clocks import replace_time
from tests.interruptions import handled_at
from tests.servers import free_port

EVENT = {"event_category": "llm", "event_action": "stream"}
STORED = response(201, {"id": "1-0", "sequence": 1})
NOT_STORED = response(503, {"detail": "away", "stored": False}, retry_after="0")
PERHAPS_STORED = response(503, {"detail": "away", "stored": "unknown"})


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """Give the client a clock that only moves in its pauses, and record those."""
    clock = SimpleNamespace(now=0.0, pauses=[])

    def sleep(seconds: float) -> None:
        clock.now += seconds
        clock.pauses.append(seconds)

    replace_time(monkeypatch, repeats, monotonic=lambda: clock.now)
    replace_pauses(monkeypatch, sleep)
    return clock


def test_an_append_is_repeated_with_its_key_until_there_is_a_response(clock):
    script = [
        None,
        NOT_STORED,
        response(500),
        response(502, b"<html>"),
        response(429),
        response(408),
    ]
    with FakeGateway([*script, STORED]) as gateway, Client(gateway.url) as client:
        assert client.add(1, "llm", "stream", {"n": 1}) == "1-0"
    assert len(gateway.requests) == 7
    assert len(set(gateway.of_requests(lambda request: request.headers["idempotency-key"]))) == 1
    assert set(gateway.of_requests(lambda request: request.body)) == {gateway.requests[0].body}
    assert json.loads(gateway.requests[0].body) == {**EVENT, "data": {"n": 1}, "source": None}


def test_the_client_makes_a_key_for_each_append_without_one():
    with FakeGateway([STORED]) as gateway, Client(gateway.url) as client:
        for key in (None, None, 'a"b'):
            client.add(1, "llm", "stream", idempotency_key=key)
    first, second, third = gateway.of_requests(lambda request: request.headers["idempotency-key"])
    assert first != second
    assert third == '"a"b"'


def test_an_empty_key_of_a_request_is_refused_and_not_replaced():
    with FakeGateway([STORED]) as gateway, Client(gateway.url) as client:
        with pytest.raises(InvalidInput, match="idempotency_key"):
            client.request(1, "cancel", idempotency_key="")
        client.request(1, "cancel")
    assert len(gateway.requests) == 1


def test_a_repeat_of_a_stored_event_succeeds(clock):
    replayed = response(200, {"id": "1-0", "sequence": 1}, idempotent_replayed="true")
    with FakeGateway([None, replayed]) as gateway, Client(gateway.url) as client:
        assert client.add(1, "llm", "stream") == "1-0"


def test_reads_are_repeated_too(clock):
    page = response(200, {"events": [], "next": None})
    with FakeGateway([NOT_STORED, page]) as gateway, Client(gateway.url) as client:
        assert client.get_events(1) == []
    assert len(gateway.requests) == 2


def test_an_append_gives_up_after_retry_seconds(clock):
    with (
        FakeGateway([NOT_STORED]) as gateway,
        Client(gateway.url, retry_seconds=30) as client,
        pytest.raises(StoreUnavailable) as failed,
    ):
        client.add(1, "llm", "stream")
    assert failed.value.stored is False
    assert clock.now == pytest.approx(30)
    assert len(gateway.requests) == len(clock.pauses) + 1


def test_an_event_that_any_attempt_may_have_stored_may_be_stored(clock):
    with (
        FakeGateway([None, NOT_STORED]) as gateway,
        Client(gateway.url) as client,
        pytest.raises(StoreUnavailable) as failed,
    ):
        client.add(1, "llm", "stream")
    assert failed.value.stored is None


def test_a_pause_lasts_at_least_as_long_as_retry_after_asks(clock):
    busy = response(429, {"detail": "busy", "stored": False}, retry_after="7")
    with FakeGateway([busy, busy, STORED]) as gateway, Client(gateway.url) as client:
        client.add(1, "llm", "stream")
    assert all(7 < pause < 8 for pause in clock.pauses)
    assert len(clock.pauses) == 2


def test_an_outage_is_logged_once_and_its_end_too_without_the_password(clock, caplog):
    caplog.set_level(logging.INFO, logger="tailrace.client")
    with FakeGateway([*[NOT_STORED] * 8, STORED]) as gateway:
        url = gateway.url.replace("://", "://me:secret@")
        with Client(url, token="token-of-mine") as client:
            client.add(1, "llm", "stream")
    assert clock.now > repeats.QUIET_SECONDS
    assert caplog.messages == [
        f"cannot reach {gateway.url}, trying again: 503: away",
        f"reached {gateway.url} again",
    ]


def test_a_short_outage_is_not_logged(clock, caplog):
    caplog.set_level(logging.INFO, logger="tailrace.client")
    with FakeGateway([NOT_STORED, STORED]) as gateway, Client(gateway.url) as client:
        client.add(1, "llm", "stream")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (None, None),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{", None),
        (b"nonsense\r\n\r\n", None),
        (NOT_STORED, False),
        (PERHAPS_STORED, None),
        (response(503), None),
        (response(500, {"detail": "a bug"}), None),
        (response(429), False),
        (response(408), False),
    ],
)
def test_with_no_retry_seconds_there_is_one_attempt(given, stored):
    with (
        FakeGateway([given]) as gateway,
        Client(gateway.url, retry_seconds=0) as client,
        pytest.raises(StoreUnavailable) as failed,
    ):
        client.append_new(1, [NewEvent.of("llm", "stream")])
    assert failed.value.stored is stored
    assert len(gateway.requests) == 1


def test_nothing_is_stored_if_no_gateway_listens():
    client = Client(f"http://127.0.0.1:{free_port()}", retry_seconds=0)
    with pytest.raises(StoreUnavailable) as failed:
        client.add(1, "llm", "stream")
    assert failed.value.stored is False
    with pytest.raises(StoreUnavailable) as failed:
        client.stream(1, [EVENT])
    assert failed.value.stored is False


# Signal handlers

only_client = pytest.mark.only_client(reason="AsyncClient is not for signal handlers")


@only_client
def test_a_signal_handler_can_emit_wherever_it_interrupts_an_append():
    """The interrupted code may hold the lock of the connection pool."""
    with FakeGateway([stored]) as gateway, Client(gateway.url) as client:
        run = client.appender(1)
        for step in itertools.count(1):
            with handled_at(step, lambda: run.emit("llm", "stream"), queue, transport) as done:
                client.add(1, "llm", "stream")
            if not done:
                break
        run.close()
    assert step > 100
    assert run.stored == step - 1


@only_client
def test_any_other_call_in_a_signal_handler_succeeds_or_raises_reentrant_call():
    with FakeGateway([stored]) as gateway, Client(gateway.url) as client:
        run, outcomes = client.appender(1), []

        def handle() -> None:
            run.emit("llm", "stream")
            for call in (lambda: client.add(1, "llm", "stream"), run.flush, client.close):
                try:
                    call()
                    outcomes.append("succeeded")
                except ReentrantCall:
                    outcomes.append("refused")

        for step in itertools.count(1):
            with handled_at(step, handle, queue, transport) as done:
                client.add(1, "llm", "stream")
            if not done:
                break
        run.close()
    assert {"succeeded", "refused"} == set(outcomes)
    added = outcomes[::3].count("succeeded")
    assert sum(map(count_events, gateway.requests)) == step + added + (step - 1)


def count_events(request: Request) -> int:
    document = json.loads(request.body)
    return len(document) if isinstance(document, list) else 1


def test_an_error_leaves_the_thread_outside_the_call():
    with Client(f"http://127.0.0.1:{free_port()}", retry_seconds=0) as client:
        for _ in range(2):
            with contextlib.suppress(StoreUnavailable):
                client.add(1, "llm", "stream")


def test_the_events_of_a_stream_may_come_from_a_generator_that_uses_a_client():
    stored = response(200, {"stored": 1, "last_id": "1-0", "last_sequence": 1})

    def events():
        assert Client(gateway.url).add(2, "llm", "stream") == "1-0"
        yield EVENT

    with FakeGateway([STORED]) as gateway, FakeGateway([stored]) as streaming_gateway:
        assert Client(streaming_gateway.url).stream(1, events()).stored == 1
