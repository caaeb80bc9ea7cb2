"""Streaming ingest with Flask's test client: what is stored, and what ends a request of lines."""

import io
import json
import socket

import gevent
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.routes.writing import json_body
from app.settings import Settings
from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore

PATH = "/runs/1/events"
NDJSON = "application/x-ndjson"


def line(data: object = None, category: str = "llm", action: str = "stream", **more) -> bytes:
    event = {"event_category": category, "event_action": action, "data": data, **more}
    return json.dumps(event).encode() + b"\n"


def line_with_data(data: str) -> bytes:
    return b'{"event_category": "llm", "event_action": "stream", "data": %b}\n' % data.encode()


def lifecycle(action: str) -> bytes:
    return line(None, "lifecycle", action)


def send(http: FlaskClient, *lines: bytes, query: str = "", **options) -> TestResponse:
    options = {"content_type": NDJSON, **options}
    return http.post(f"{PATH}?{query}", data=b"".join(lines), **options)


def check_refusal(response: TestResponse, status: int, line: int, stored: int) -> list[str]:
    """Check a problem's status, line number and count of stored events; return its fields."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    assert (response.json["status"], response.json["line"]) == (status, line)
    assert response.json["stored"] == stored
    return [error["field"] for error in response.json.get("errors", [])]


def stored_data(store: EventStore) -> list:
    return [event.data for event in store.get_events(1)]


@pytest.mark.parametrize("content_type", [NDJSON, "application/ndjson", f"{NDJSON}; charset=UTF-8"])
def test_every_line_is_appended_and_the_response_has_the_last_id_and_sequence(
    http, fake_store, content_type
):
    response = send(http, *map(line, range(2500)), content_type=content_type)
    assert (response.status_code, response.mimetype) == (200, "application/json")
    events = fake_store.get_events(1)
    assert [event.data for event in events] == list(range(2500))
    assert response.json == {"stored": 2500, "last_id": events[-1].id, "last_sequence": 2500}


def test_a_line_may_be_an_event_in_either_form(http, fake_store):
    send(http, line({"a": "分\u2028"}, source="me"))
    [read] = http.get(PATH).json["events"]
    assert send(http, json.dumps(read).encode()).json["last_sequence"] == 2
    assert stored_data(fake_store) == [{"a": "分\u2028"}] * 2
    assert [event.source for event in fake_store.get_events(1)] == ["me", "me"]


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\n", b" \t\r\n \n\n\n ", b"\n" * 100_000])
def test_a_body_without_events_is_200_and_stores_nothing(http, fake_client, body):
    response = send(http, body)
    assert response.status_code == 200
    assert response.json == {"stored": 0, "last_id": None, "last_sequence": None}
    assert fake_client.keys("*") == []


def test_a_last_line_needs_no_line_break(http, fake_store):
    assert send(http, line(1), line(2).rstrip()).json["stored"] == 2
    assert stored_data(fake_store) == [1, 2]


def test_blank_lines_and_carriage_returns_are_ignored_but_counted(http, fake_store):
    crlf = [line(number).replace(b"\n", b"\r\n") for number in range(3)]
    response = send(http, b"\r\n", crlf[0], b"\n \n\t\n", crlf[1], b"\r\n", crlf[2], b"{\n")
    assert check_refusal(response, 400, line=9, stored=3) == ["body"]
    assert stored_data(fake_store) == [0, 1, 2]


def test_only_a_line_feed_ends_a_line(http, fake_store):
    text = "\u2028\u2029\x85\x7f"
    body = b'{"event_category": "a", "event_action": "b",\r"data": "%b"}' % text.encode()
    assert send(http, body).json["stored"] == 1
    assert stored_data(fake_store) == [text]


def test_a_body_of_unknown_length_is_read_to_its_end(http):
    response = http.post(
        PATH,
        input_stream=io.BytesIO(line(1) + line(2)),
        content_type=NDJSON,
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert response.json["stored"] == 2


def test_half_of_a_surrogate_pair_ends_no_request(http, fake_store):
    """Tokens of a language model may end within a pair."""
    body = (
        line(1)
        + line_with_data(r'"\ud83d"')
        + b"\n"
        + line_with_data(r'"\ude00"')
        + b"\n"
        + line(2)
    )
    assert send(http, body).json["stored"] == 4
    assert stored_data(fake_store) == [1, "\ufffd", "\ufffd", 2]


# What ends a request


NOT_JSON = [
    *(b"{", b"{'a': 1}", b'{"a": 1,}', b"nonsense", b'{"a": 1} {', b"\xff", b"\0", b"\x0b"),
    *(b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16-le"), line(1)[:-3], b"data: {}"),
    b"\xc2\xa0",
    *map(line_with_data, ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "01", ".5"]),
    *map(line_with_data, ['"\\q"', '"\t"', '"\r"']),
    *map(line_with_data, ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000]),
    b'{"event_category": "llm", "event_action": "stream", "data": "\xff"}',
    line(1).rstrip() + line(2),
]  # fmt: skip

INVALID_EVENTS = [
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
    (line_with_data("18446744073709551616"), ["data"]),
    (line_with_data("-9223372036854775809"), ["data"]),
    (line_with_data("[" * 129 + "]" * 129), ["data"]),
]

INVALID_LINES = [
    *((bad, 400, ["body"]) for bad in NOT_JSON),
    *((bad, 422, fields) for bad, fields in INVALID_EVENTS),
    (line("x" * 262_144), 413, ["data"]),
    (line(1, source="x" * 262_144), 413, ["source"]),
    (b" " * 4_194_305, 413, ["body"]),
    (b" " * 9_000_000, 413, ["body"]),
]


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize(
    ("bad", "status", "fields"), INVALID_LINES, ids=lambda each: str(each)[:20]
)
def test_an_invalid_line_ends_the_request_and_earlier_lines_stay_stored(
    http, fake_store, bad, status, fields, before
):
    bad = bad.replace(b"\n", b"") + b"\n"
    response = send(http, *map(line, range(before)), bad, line("after"))
    assert sorted(check_refusal(response, status, line=before + 1, stored=before)) == fields
    events = fake_store.get_events(1)
    assert [event.data for event in events] == list(range(before))
    last = (events[-1].id, before) if events else (None, None)
    assert (response.json["last_id"], response.json["last_sequence"]) == last


@pytest.mark.parametrize("before", [999, 1000, 1001, 2000])
def test_the_number_of_an_invalid_line_is_right_after_several_appends(http, before):
    response = send(http, *map(line, range(before)), b"{\n")
    check_refusal(response, 400, line=before + 1, stored=before)


def test_an_invalid_last_line_without_a_line_break_is_refused(http, fake_store):
    assert check_refusal(send(http, line(1), line(2)[:-2]), 400, line=2, stored=1) == ["body"]


def test_a_line_may_be_as_long_as_the_largest_body(fake_store):
    event = line(1).rstrip()
    limit = len(event) + 100
    http = create_app(Settings(max_body_bytes=limit), event_store=fake_store).test_client()
    longest = event + b" " * 100
    body = b"\n".join([longest] * 100)  # much longer than the limit
    assert send(http, body).json["stored"] == 100
    for sent in (longest + b" \n", longest + b" "):
        assert check_refusal(send(http, event, b"\n", sent), 413, line=2, stored=1) == ["body"]


def test_the_lease_of_a_refused_line_is_not_applied(http, fake_client):
    check_refusal(send(http, line(1), line("x" * 262_144, lease_seconds=5)), 413, line=2, stored=1)
    [(_, fields)] = fake_client.xrange("run:1:events")
    assert b"lease_seconds" not in fields


def test_a_lease_holds_until_another_line_changes_it_or_the_run_ends(http, fake_client):
    def leases() -> list[bytes | None]:
        entries = fake_client.xrange("run:1:events")
        return [fields.get(b"lease_seconds") for _, fields in entries]

    send(http, line(1, lease_seconds=30), line(2, lease_seconds=60), line(3))
    send(http, line(4))
    assert leases()[2:] == [b"60", b"60"]
    send(http, lifecycle("completed"), lifecycle("started"), line(5))
    assert leases()[-2:] == [None, None]


def test_every_complete_line_of_a_truncated_body_is_stored(http, fake_store):
    body = line(1) + line(2)
    response = send(http, body, line(3)[:-5], headers={"Content-Length": str(len(body) + 900)})
    check_refusal(response, 400, line=3, stored=2)
    assert stored_data(fake_store) == [1, 2]


# The end of a run


def test_lines_after_a_terminal_event_are_refused(http, fake_store):
    response = send(http, line(1), lifecycle("completed"), b"\n", line(2), line(3))
    assert check_refusal(response, 409, line=4, stored=2) == []
    assert response.json["last_sequence"] == 2
    assert stored_data(fake_store) == [1, None]
    assert http.get("/runs/1").json["ended"] is True


def test_lines_for_an_ended_run_are_refused(http, fake_store):
    fake_store.add(1, "lifecycle", "failed")
    response = send(http, b"\n", line(1), line(2))
    assert check_refusal(response, 409, line=2, stored=0) == []
    assert (response.json["last_id"], response.json["last_sequence"]) == (None, None)
    assert len(fake_store.get_events(1)) == 1


def test_a_started_event_reopens_an_ended_run(http):
    lines = [line(1), lifecycle("cancelled"), lifecycle("started"), line(2), lifecycle("completed")]
    assert send(http, *lines, lifecycle("started"), line(3)).json["stored"] == 7
    assert http.get("/runs/1").json["ended"] is False


def test_a_redis_key_of_the_wrong_type_is_409(http, fake_client):
    fake_client.set("run:1:events", "a string")
    assert check_refusal(send(http, line(1)), 409, line=1, stored=0) == []


# The expected sequence


def test_the_expected_sequence_is_that_of_the_first_line_and_advances(http, fake_store):
    lines = [*map(line, range(1500)), lifecycle("completed"), lifecycle("started"), line(1)]
    assert send(http, *lines, query="expected_sequence=1").json["last_sequence"] == 1503
    response = send(http, b"\n", line(2), query="expected_sequence=1503")
    check_refusal(response, 409, line=2, stored=0)
    assert response.json["last_sequence"] == 1503
    assert send(http, line(2), query="expected_sequence=1504").status_code == 200


def test_an_event_of_another_producer_between_two_appends_is_409(http, fake_store):
    """The store appends an event of another producer after the first append."""
    append = fake_store.append_each

    def append_then_interfere(*args, **kwargs):
        appended = append(*args, **kwargs)
        fake_store.append_each = append
        fake_store.add(1, "lifecycle", "started")
        return appended

    fake_store.append_each = append_then_interfere
    response = send(http, lifecycle("completed"), lifecycle("started"), query="expected_sequence=1")
    check_refusal(response, 409, line=2, stored=1)
    assert response.json["last_sequence"] == 2


@pytest.mark.parametrize("expected", ["0", "-1", "x", "9" * 30])
def test_an_invalid_expected_sequence_is_400(http, fake_client, expected):
    response = send(http, line(1), query=f"expected_sequence={expected}")
    assert (response.status_code, fake_client.keys("*")) == (400, [])


class SlowBody(io.BytesIO):
    """A body that returns one line every 30 ms."""

    def read(self, size: int = -1) -> bytes:
        gevent.sleep(0.03)
        return self.readline()


def test_only_a_request_of_lines_may_take_longer_than_the_read_timeout(http, monkeypatch):
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
def test_an_invalid_header_or_run_id_is_refused_before_a_line_is_read(
    http, fake_client, path, options, status, field
):
    options = {"content_type": NDJSON, **options}
    response = http.post(path, data=line(1), **options)
    assert response.status_code == status
    assert response.mimetype == "application/problem+json"
    assert [error["field"] for error in response.json["errors"]] == [field]
    assert fake_client.keys("*") == []


def test_put_is_405_and_names_the_allowed_methods(http):
    """`curl -T` sends a PUT, unless `-X POST` is given."""
    response = http.put(PATH, data=line(1), content_type=NDJSON)
    assert response.status_code == 405
    assert response.mimetype == "application/problem+json"
    assert "POST" in response.headers["Allow"]


def test_a_request_of_lines_counts_as_a_stream(fake_store):
    app = create_app(Settings(max_streams=1), event_store=fake_store)
    streams = app.extensions["tailrace"].streams
    streams._limit = 0
    response = send(app.test_client(), line(1))
    assert check_refusal(response, 503, line=1, stored=0) == []
    assert int(response.headers["Retry-After"]) >= 1
    streams._limit = 1
    for _ in range(3):  # every request gives its place back, also a refused one
        assert send(app.test_client(), line(1)).json["stored"] == 1
        check_refusal(send(app.test_client(), b"{"), 400, line=1, stored=0)
    assert len(streams) == 0


# Failures of Redis and of the gateway


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
def test_a_503_says_how_many_events_are_stored_and_how_many_may_be(fake_client, stored, unknown):
    store = FailingStore(client=fake_client)
    store.stored = stored
    http = create_app(Settings(), event_store=store).test_client()
    response = send(
        http, line(1), lifecycle("completed"), b"\n", lifecycle("started"), line(2), b"{"
    )
    assert check_refusal(response, 503, line=4, stored=2) == []
    assert response.json.get("unknown") == unknown
    assert int(response.headers["Retry-After"]) >= 1


def test_an_unexpected_error_is_500_and_says_how_many_events_are_stored(fake_client):
    class BrokenStore(FailingStore):
        def append_each(self, appends):
            [outcome] = super().append_each(appends)
            if isinstance(outcome, StoreUnavailable):
                raise ZeroDivisionError
            return [outcome]

    http = create_app(Settings(), event_store=BrokenStore(client=fake_client)).test_client()
    response = send(http, line(1), lifecycle("failed"), lifecycle("started"), line(2))
    assert check_refusal(response, 500, line=3, stored=2) == []
    assert response.json["unknown"] == 2
    assert "ZeroDivisionError" not in response.text


def test_a_request_over_the_limit_of_bytes_is_429(fake_store):
    app = create_app(Settings(max_body_bytes=1000), event_store=fake_store)
    admission = app.extensions["tailrace"].admission
    held = admission.bytes.maximum - len(line(1)) + 1
    assert admission.bytes.take(held)
    response = send(app.test_client(), line(1))
    assert check_refusal(response, 429, line=1, stored=0) == []
    assert int(response.headers["Retry-After"]) >= 1
    admission.bytes.release(held)
    assert send(app.test_client(), *[line(1)] * 5000).json["stored"] == 5000
    assert (admission.bytes.held, admission.appends.held) == (0, 0)


@pytest.mark.parametrize("body", [b"{\n" * 10, line(1) * 10, line(1) + b"{", b"x" * 5_000_000, b""])
def test_an_ended_request_releases_everything_it_reserved(http, body):
    gateway = http.application.extensions["tailrace"]
    admission = gateway.admission
    send(http, body)
    assert (admission.bytes.held, admission.appends.held, len(gateway.streams)) == (0, 0, 0)


def test_tcp_keepalive_is_set_on_the_connection(http):
    with socket.socket() as connection:
        environ = {"gunicorn.socket": connection}
        assert send(http, line(1), environ_overrides=environ).status_code == 200
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_connection_over_a_unix_socket_is_served(http):
    server, client = socket.socketpair()
    with server, client:
        response = send(http, line(1), environ_overrides={"gunicorn.socket": server})
    assert response.status_code == 200
