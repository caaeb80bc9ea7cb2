"""Streaming ingest with Flask's test client: what is stored, and what ends a request of lines."""

import io
import json
import socket

import gevent
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.routes import json_body
from app.settings import Settings
from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore

PATH = "/runs/1/events"
NDJSON = "application/x-ndjson"


def line(data: object = None, category: str = "llm", action: str = "stream", **more) -> bytes:
    event = {"event_category": category, "event_action": action, "data": data, **more}
    return json.dumps(event).encode() + b"\n"


def line_with(data: str) -> bytes:
    return b'{"event_category": "llm", "event_action": "stream", "data": %b}\n' % data.encode()


def ending(action: str) -> bytes:
    return line(None, "lifecycle", action)


@pytest.fixture
def http(fake_store: EventStore) -> FlaskClient:
    return create_app(Settings(), event_store=fake_store).test_client()


def send(http: FlaskClient, *lines: bytes, query: str = "", **options) -> TestResponse:
    options = {"content_type": NDJSON, **options}
    return http.post(f"{PATH}?{query}", data=b"".join(lines), **options)


def refused(answer: TestResponse, status: int, line: int, stored: int) -> list[str]:
    """The fields that a refusal names, once it tells where the request ended and what is stored."""
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    assert (answer.json["status"], answer.json["line"]) == (status, line)
    assert answer.json["stored"] == stored
    return [error["field"] for error in answer.json.get("errors", [])]


def data_of(store: EventStore) -> list:
    return [event.data for event in store.get_events(1)]


@pytest.mark.parametrize("content_type", [NDJSON, "application/ndjson", f"{NDJSON}; charset=UTF-8"])
def test_every_line_is_appended_and_the_answer_tells_where_they_stand(
    http, fake_store, content_type
):
    answer = send(http, *map(line, range(2500)), content_type=content_type)
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    events = fake_store.get_events(1)
    assert [event.data for event in events] == list(range(2500))
    assert answer.json == {"stored": 2500, "last_id": events[-1].id, "last_sequence": 2500}


def test_either_shape_of_an_event_may_be_a_line(http, fake_store):
    send(http, line({"a": "分\u2028"}, source="me"))
    [read] = http.get(PATH).json["events"]
    assert send(http, json.dumps(read).encode()).json["last_sequence"] == 2
    assert data_of(fake_store) == [{"a": "分\u2028"}] * 2
    assert [event.source for event in fake_store.get_events(1)] == ["me", "me"]


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\n", b" \t\r\n \n\n\n ", b"\n" * 100_000])
def test_a_body_without_events_stores_nothing_and_is_no_error(http, fake_client, body):
    answer = send(http, body)
    assert answer.status_code == 200
    assert answer.json == {"stored": 0, "last_id": None, "last_sequence": None}
    assert fake_client.keys("*") == []


def test_a_last_line_needs_no_line_break(http, fake_store):
    assert send(http, line(1), line(2).rstrip()).json["stored"] == 2
    assert data_of(fake_store) == [1, 2]


def test_blank_lines_and_carriage_returns_are_passed_over_but_counted(http, fake_store):
    crlf = [line(number).replace(b"\n", b"\r\n") for number in range(3)]
    answer = send(http, b"\r\n", crlf[0], b"\n \n\t\n", crlf[1], b"\r\n", crlf[2], b"{\n")
    assert refused(answer, 400, line=9, stored=3) == ["body"]
    assert data_of(fake_store) == [0, 1, 2]


def test_only_a_line_feed_ends_a_line(http, fake_store):
    text = "\u2028\u2029\x85\x7f"
    body = b'{"event_category": "a", "event_action": "b",\r"data": "%b"}' % text.encode()
    assert send(http, body).json["stored"] == 1
    assert data_of(fake_store) == [text]


def test_a_body_of_unknown_length_is_read_to_its_end(http):
    answer = http.post(
        PATH,
        input_stream=io.BytesIO(line(1) + line(2)),
        content_type=NDJSON,
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert answer.json["stored"] == 2


# What ends a request


NOT_JSON = [
    *(b"{", b"{'a': 1}", b'{"a": 1,}', b"nonsense", b'{"a": 1} {', b"\xff", b"\0", b"\x0b"),
    *(b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16-le"), line(1)[:-3], b"data: {}"),
    b"\xc2\xa0",
    *map(line_with, ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "01", ".5"]),
    *map(line_with, ['"\\ud800"', '"\\udc00a"', '"\\ud800\\ud800"', '"\\q"', '"\t"', '"\r"']),
    *map(line_with, ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000]),
    b'{"event_category": "llm", "event_action": "stream", "data": "\xff"}',
    line(1).rstrip() + line(2),
]  # fmt: skip

WRONG_SHAPE = [
    (b'"text"', ["body"]),
    (b"null", ["body"]),
    (b"1", ["body"]),
    (b"[" + line(1).rstrip() + b"]", ["body"]),
    (b"[]", ["body"]),
    (b"{}", ["event_action", "event_category"]),
    (b'{"event": null}', ["event"]),
    (line(1, datta=1), ["datta"]),
    (line(1, event={"category": "a", "action": "b"}), ["event"]),
    (line(1, **{f"name{number}": 1 for number in range(20)}), ["body"]),
    (line(1, category="a b"), ["event_category"]),
    (line(1, category="gateway"), ["event_category"]),
    (line(1, category="a" * 65), ["event_category"]),
    (line(1, action=""), ["event_action"]),
    (line(1, "lifecycle", "lost"), ["event_action"]),
    (line(1, lease_seconds=0), ["lease_seconds"]),
    (line(1, lease_seconds="5"), ["lease_seconds"]),
    (line_with("18446744073709551616"), ["data"]),
    (line_with("-9223372036854775809"), ["data"]),
    (line_with("[" * 129 + "]" * 129), ["data"]),
]

BAD_LINES = [
    *((bad, 400, ["body"]) for bad in NOT_JSON),
    *((bad, 422, fields) for bad, fields in WRONG_SHAPE),
    (line("x" * 262_144), 413, ["data"]),
    (line(1, source="x" * 262_144), 413, ["source"]),
    (b" " * 4_194_305, 413, ["body"]),
    (b" " * 9_000_000, 413, ["body"]),
]


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize(("bad", "status", "fields"), BAD_LINES, ids=lambda each: str(each)[:20])
def test_a_bad_line_ends_the_request_and_what_was_stored_before_it_stays(
    http, fake_store, bad, status, fields, before
):
    bad = bad.replace(b"\n", b"") + b"\n"
    answer = send(http, *map(line, range(before)), bad, line("after"))
    assert sorted(refused(answer, status, line=before + 1, stored=before)) == fields
    events = fake_store.get_events(1)
    assert [event.data for event in events] == list(range(before))
    last = (events[-1].id, before) if events else (None, None)
    assert (answer.json["last_id"], answer.json["last_sequence"]) == last


@pytest.mark.parametrize("before", [999, 1000, 1001, 2000])
def test_the_number_of_a_bad_line_is_right_however_many_came_before(http, before):
    answer = send(http, *map(line, range(before)), b"{\n")
    refused(answer, 400, line=before + 1, stored=before)


def test_a_bad_last_line_without_a_line_break_is_refused_too(http, fake_store):
    assert refused(send(http, line(1), line(2)[:-2]), 400, line=2, stored=1) == ["body"]


def test_a_line_has_its_edge_at_the_limit_of_a_body(fake_store):
    event = line(1).rstrip()
    limit = len(event) + 100
    http = create_app(Settings(max_body_bytes=limit), event_store=fake_store).test_client()
    just = event + b" " * 100
    body = b"\n".join([just] * 100)  # many times the limit
    assert send(http, body).json["stored"] == 100
    for sent in (just + b" \n", just + b" "):
        assert refused(send(http, event, b"\n", sent), 413, line=2, stored=1) == ["body"]


def test_a_lease_of_a_line_that_is_refused_holds_for_no_other(http, fake_client):
    refused(send(http, line(1), line("x" * 262_144, lease_seconds=5)), 413, line=2, stored=1)
    [(_, fields)] = fake_client.xrange("run:1:events")
    assert b"lease_seconds" not in fields


def test_a_lease_is_set_by_a_line_and_handed_on(http, fake_client):
    def leases() -> list[bytes | None]:
        entries = fake_client.xrange("run:1:events")
        return [fields.get(b"lease_seconds") for _, fields in entries]

    send(http, line(1, lease_seconds=30), line(2, lease_seconds=60), line(3))
    send(http, line(4))
    assert leases()[2:] == [b"60", b"60"]
    send(http, ending("completed"), ending("started"), line(5))
    assert leases()[-2:] == [None, None]


def test_a_body_that_is_shorter_than_announced_loses_nothing_that_was_whole(http, fake_store):
    body = line(1) + line(2)
    answer = send(http, body, line(3)[:-5], headers={"Content-Length": str(len(body) + 900)})
    refused(answer, 400, line=3, stored=2)
    assert data_of(fake_store) == [1, 2]


# The end of a run


def test_what_follows_the_end_of_the_run_is_refused_and_the_end_stays(http, fake_store):
    answer = send(http, line(1), ending("completed"), b"\n", line(2), line(3))
    assert refused(answer, 409, line=4, stored=2) == []
    assert answer.json["last_sequence"] == 2
    assert data_of(fake_store) == [1, None]
    assert http.get("/runs/1").json["ended"] is True


def test_nothing_is_stored_of_lines_for_a_run_that_has_ended(http, fake_store):
    fake_store.add(1, "lifecycle", "failed")
    answer = send(http, b"\n", line(1), line(2))
    assert refused(answer, 409, line=2, stored=0) == []
    assert (answer.json["last_id"], answer.json["last_sequence"]) == (None, None)
    assert len(fake_store.get_events(1)) == 1


def test_a_line_may_reopen_a_run(http):
    lines = [line(1), ending("cancelled"), ending("started"), line(2), ending("completed")]
    assert send(http, *lines, ending("started"), line(3)).json["stored"] == 7
    assert http.get("/runs/1").json["ended"] is False


def test_a_key_that_holds_no_log_is_409(http, fake_client):
    fake_client.set("run:1:events", "a string")
    assert refused(send(http, line(1)), 409, line=1, stored=0) == []


# The sequence that is expected


def test_an_expected_sequence_holds_for_the_first_line_and_goes_on_counting(http, fake_store):
    lines = [*map(line, range(1500)), ending("completed"), ending("started"), line(1)]
    assert send(http, *lines, query="expected_sequence=1").json["last_sequence"] == 1503
    answer = send(http, b"\n", line(2), query="expected_sequence=1503")
    refused(answer, 409, line=2, stored=0)
    assert answer.json["last_sequence"] == 1503
    assert send(http, line(2), query="expected_sequence=1504").status_code == 200


def test_a_producer_that_another_one_overtakes_is_stopped(http, fake_store):
    """The other's event comes between two of its appends."""
    append = fake_store.append_each

    def overtaken(*args, **kwargs):
        appended = append(*args, **kwargs)
        fake_store.append_each = append
        fake_store.add(1, "lifecycle", "started")
        return appended

    fake_store.append_each = overtaken
    answer = send(http, ending("completed"), ending("started"), query="expected_sequence=1")
    refused(answer, 409, line=2, stored=1)
    assert answer.json["last_sequence"] == 2


@pytest.mark.parametrize("expected", ["0", "-1", "x", "9" * 30])
def test_an_odd_expected_sequence_is_400(http, fake_client, expected):
    answer = send(http, line(1), query=f"expected_sequence={expected}")
    assert (answer.status_code, fake_client.keys("*")) == (400, [])


class SlowBody(io.BytesIO):
    """A body that gives a line now and then."""

    def read(self, size: int = -1) -> bytes:
        gevent.sleep(0.03)
        return self.readline()


def test_a_producer_of_lines_may_take_its_time_as_no_other_may(http, monkeypatch):
    monkeypatch.setattr(json_body, "READ_SECONDS", 0.1)

    def status(content_type: str) -> int:
        return http.post(
            PATH,
            input_stream=SlowBody(b"\n" * 10 + line(1)),
            content_type=content_type,
            environ_overrides={"wsgi.input_terminated": True},
        ).status_code

    assert status("application/json") == 408
    assert status(NDJSON) == 200


# What is refused before a line is read


@pytest.mark.parametrize(
    ("path", "options", "status", "field"),
    [
        (PATH, {"headers": {"Idempotency-Key": "k"}}, 400, "Idempotency-Key"),
        (PATH, {"headers": {"Idempotency-Key": ""}}, 400, "Idempotency-Key"),
        (PATH, {"content_type": f"{NDJSON}; charset=utf-16"}, 415, "Content-Type"),
        (PATH, {"content_type": "application/x-ndjsonp"}, 415, "Content-Type"),
        ("/runs/a b/events", {}, 400, "run_id"),
    ],
)
def test_what_is_wrong_with_the_request_is_told_before_a_line_is_read(
    http, fake_client, path, options, status, field
):
    options = {"content_type": NDJSON, **options}
    answer = http.post(path, data=line(1), **options)
    assert answer.status_code == status
    assert answer.mimetype == "application/problem+json"
    assert [error["field"] for error in answer.json["errors"]] == [field]
    assert fake_client.keys("*") == []


def test_put_is_405_and_names_the_methods_that_are_allowed(http):
    """`curl -T` puts, unless it is told to post."""
    answer = http.put(PATH, data=line(1), content_type=NDJSON)
    assert answer.status_code == 405
    assert answer.mimetype == "application/problem+json"
    assert "POST" in answer.headers["Allow"]


def test_no_more_requests_are_admitted_than_streams(fake_store):
    app = create_app(Settings(max_streams=1), event_store=fake_store)
    streams = app.extensions["tailrace"].streams
    streams._limit = 0
    answer = send(app.test_client(), line(1))
    assert refused(answer, 503, line=1, stored=0) == []
    assert int(answer.headers["Retry-After"]) >= 1
    streams._limit = 1
    for _ in range(3):  # each gives its place back, a refused one too
        assert send(app.test_client(), line(1)).json["stored"] == 1
        refused(send(app.test_client(), b"{"), 400, line=1, stored=0)
    assert len(streams) == 0


# What fails


class FailingStore(EventStore):
    """A store whose second append fails."""

    stored: bool | None = False
    appends = 0

    def append_each(self, appends):
        self.appends += 1
        if self.appends == 2:
            return [StoreUnavailable("Redis does not answer", self.stored)] * len(appends)
        return super().append_each(appends)


@pytest.mark.parametrize(("stored", "unknown"), [(False, None), (None, 2)])
def test_a_lost_redis_tells_what_is_stored_and_what_may_be(fake_client, stored, unknown):
    store = FailingStore(client=fake_client)
    store.stored = stored
    http = create_app(Settings(), event_store=store).test_client()
    answer = send(http, line(1), ending("completed"), b"\n", ending("started"), line(2), b"{")
    assert refused(answer, 503, line=4, stored=2) == []
    assert answer.json.get("unknown") == unknown
    assert int(answer.headers["Retry-After"]) >= 1


def test_an_unexpected_error_tells_what_is_stored_too(fake_client):
    class BrokenStore(FailingStore):
        def append_each(self, appends):
            [outcome] = super().append_each(appends)
            if isinstance(outcome, StoreUnavailable):
                raise ZeroDivisionError
            return [outcome]

    http = create_app(Settings(), event_store=BrokenStore(client=fake_client)).test_client()
    answer = send(http, line(1), ending("failed"), ending("started"), line(2))
    assert refused(answer, 500, line=3, stored=2) == []
    assert answer.json["unknown"] == 2
    assert "ZeroDivisionError" not in answer.text


def test_a_gateway_that_holds_too_much_refuses_with_429_and_lets_go(fake_store):
    app = create_app(Settings(max_body_bytes=1000), event_store=fake_store)
    admission = app.extensions["tailrace"].admission
    held = admission.bytes.maximum - len(line(1)) + 1
    assert admission.bytes.take(held)
    answer = send(app.test_client(), line(1))
    assert refused(answer, 429, line=1, stored=0) == []
    assert int(answer.headers["Retry-After"]) >= 1
    admission.bytes.release(held)
    assert send(app.test_client(), *[line(1)] * 5000).json["stored"] == 5000
    assert (admission.bytes.held, admission.appends.held) == (0, 0)


@pytest.mark.parametrize("body", [b"{\n" * 10, line(1) * 10, line(1) + b"{", b"x" * 5_000_000, b""])
def test_nothing_is_held_once_a_request_has_ended(http, body):
    gateway = http.application.extensions["tailrace"]
    admission = gateway.admission
    send(http, body)
    assert (admission.bytes.held, admission.appends.held, len(gateway.streams)) == (0, 0, 0)


def test_tcp_is_to_notice_a_producer_that_vanishes(http):
    with socket.socket() as connection:
        environ = {"gunicorn.socket": connection}
        assert send(http, line(1), environ_overrides=environ).status_code == 200
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_connection_without_tcp_is_served_too(http):
    one, other = socket.socketpair()
    with one, other:
        answer = send(http, line(1), environ_overrides={"gunicorn.socket": one})
    assert answer.status_code == 200
