"""The errors of the client: by the response, and for wrong arguments before any request."""

import pytest

from app.client import Client
from app.streaming.errors import (
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    KeyReused,
    LogFull,
    NotAllowed,
    NotALog,
    Refused,
    RunEnded,
    UnexpectedSequence,
)
from tests.client.fake_gateway import FakeGateway, problem, response
from tests.servers import wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}
STORED = response(201, {"id": "1-0", "sequence": 1})
AT_FAULT = [{"field": "data", "detail": "is bad"}, {"field": "source", "detail": "too"}]


@pytest.mark.parametrize(
    ("given", "kind", "attributes"),
    [
        (problem(400, errors=AT_FAULT), InvalidInput, {"field": "data", "message": "is bad"}),
        (problem(400), Refused, {"status": 400, "detail": "so", "errors": []}),
        (problem(401), NotAllowed, {"status": 401, "detail": "so"}),
        (problem(403), NotAllowed, {"status": 403, "detail": "so"}),
        (response(403, b"<html>"), NotAllowed, {"status": 403, "detail": "Some Reason"}),
        (problem(404), Refused, {"status": 404}),
        (problem(409, ended=True), RunEnded, {}),
        (problem(409, last_sequence=7), UnexpectedSequence, {"last_sequence": 7}),
        (problem(409, full=True), LogFull, {}),
        (problem(409), NotALog, {}),
        (problem(413, errors=AT_FAULT), EventTooLarge, {"field": "data"}),
        (response(413, b"<html>"), EventTooLarge, {"field": "body"}),
        (problem(415, errors=AT_FAULT), Refused, {"errors": AT_FAULT}),
        (problem(422, errors=AT_FAULT), InvalidEvent, {"field": "data"}),
        (problem(422), KeyReused, {}),
        (problem(422, errors="odd"), KeyReused, {}),
        (response(302, location="/elsewhere"), Refused, {"status": 302}),
        (response(418, b"[]"), Refused, {"status": 418, "detail": "Some Reason"}),
        (response(200, b"<html>"), Refused, {"status": 200}),
    ],
)
def test_a_response_is_raised_as_the_error_that_it_describes(given, kind, attributes):
    with FakeGateway([given]) as gateway, Client(gateway.url) as client:
        with pytest.raises(kind) as failed:
            client.add(1, "llm", "stream")
        assert type(failed.value) is kind
        assert {name: getattr(failed.value, name) for name in attributes} == attributes
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
def test_a_wrong_argument_is_refused_before_a_request(call, field):
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
def test_the_caller_sets_the_size_of_the_largest_event(way):
    ingested = {"stored": 1, "last_id": "1-0", "last_sequence": 1}
    stored = response(200, {"id": "1-0", "sequence": 1, **ingested})
    append = WAYS_TO_APPEND[way]
    with FakeGateway([stored]) as gateway:
        append(Client(gateway.url, max_event_bytes=400_000), "x" * 300_000)
        append(Client(gateway.url, max_event_bytes=10), "x" * 8)
        wait_until(lambda: len(gateway.requests) == 2, "both events are sent")
        with pytest.raises(EventTooLarge, match="at most 10 bytes"):
            append(Client(gateway.url, max_event_bytes=10), "x" * 9)


@pytest.mark.parametrize("url", ["", "localhost:8082", "ftp://localhost", None])
def test_a_url_without_http_is_refused(url):
    with pytest.raises(InvalidInput, match="url"):
        Client(url)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.add(1, "llm", "stream", lease=60),
        lambda client: client.add_many(1, [EVENT], lease=60),
        lambda client: client.append_new(1, [], lease=60),
    ],
)
def test_an_unknown_option_is_a_type_error(call):
    with (
        FakeGateway([STORED]) as gateway,
        Client(gateway.url) as client,
        pytest.raises(TypeError, match="lease"),
    ):
        call(client)
    assert gateway.requests == []
