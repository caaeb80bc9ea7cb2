"""The plain form of an append, and what around the app keeps appends from it."""

from unittest.mock import Mock

import pytest
from flask import Flask

from app import create_app
from app.routes.writing.plain_appends import PlainHead
from app.streaming.errors import RunEnded

HEAD = (
    b"POST /runs/r.1/events HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 5\r\n%b\r\n"
)

TRACED = f"00-{'4' * 32}-{'2' * 16}-01".encode()


@pytest.fixture
def app(store) -> Flask:
    return create_app(event_store=store)


@pytest.fixture
def plain(app):
    return app.extensions["tailrace.plain_appends"]


@pytest.mark.parametrize(
    ("headers", "credential", "key"),
    [
        (b"", None, None),
        (b"user-agent:curl/8\r\nAccept: */*\r\nConnection: Keep-Alive\r\n", None, None),
        (b'Idempotency-Key: "a,b"\r\n', None, "a,b"),
        (b"Authorization: bearer abc.def\r\n", "abc.def", None),
        (b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n", None, None),
    ],
)
def test_heads_of_the_plain_form(plain, headers, credential, key):
    head = plain.head_of(HEAD % headers)
    assert head == PlainHead("/runs/r.1/events", "r.1", 5, "localhost", credential, key, None, b"")


@pytest.mark.parametrize(
    "head",
    [
        HEAD % b"X-Odd: 1\r\n",
        HEAD % b"Host: other\r\n",
        HEAD % b"Connection: close\r\n",
        HEAD % b"Authorization: Basic abc\r\n",
        HEAD % b"Idempotency-Key: a,b\r\n",
        HEAD % b"User-Agent: a\tb\r\n",
        HEAD % b"User-Agent:  a\r\n",
        HEAD % b"User-Agent: a \r\n",
        HEAD % b"User-Agent:\r\n",
        HEAD % b"User-Agent : a\r\n",
        HEAD % b" User-Agent: a\r\n",
        HEAD % b"Accept: \xe9\r\n",
        HEAD % b"Expect: 100-continue\r\n",
        HEAD % b"Transfer-Encoding: chunked\r\n",
        (HEAD % b"").replace(b"\r\nHost: localhost", b""),
        (HEAD % b"").replace(b"POST", b"post"),
        (HEAD % b"").replace(b"HTTP/1.1", b"HTTP/1.0"),
        (HEAD % b"").replace(b"/events", b"/events?"),
        (HEAD % b"").replace(b"r.1", b"r%2e1"),
        (HEAD % b"").replace(b"r.1", b"a" * 129),
        (HEAD % b"").replace(b"r.1", b""),
        (HEAD % b"").replace(b"application/json", b"application/x-ndjson"),
        (HEAD % b"").replace(b"application/json", b"text/plain"),
        (HEAD % b"").replace(b"application/json", b"application/json; charset=latin-1"),
        (HEAD % b"").replace(b"Length: 5", b"Length: 05"),
        (HEAD % b"").replace(b"Length: 5", b"Length: 0"),
        (HEAD % b"").replace(b"Length: 5", b"Length: +5"),
        (HEAD % b"").replace(b"\r\n", b"\n"),
    ],
)
def test_all_other_heads_are_left_to_gunicorn(plain, head):
    assert plain.head_of(head) is None


def test_the_app_as_it_is_made_may_have_plain_appends(plain):
    assert plain.may_handle


@pytest.mark.parametrize(
    "put_around",
    [
        lambda app: app.before_request(lambda: None),
        lambda app: app.after_request(lambda response: response),
        lambda app: app.teardown_request(lambda error: None),
        lambda app: app.before_request_funcs["events"].append(lambda: None),
        lambda app: app.register_error_handler(RunEnded, lambda error: ("mine", 410)),
        lambda app: app.teardown_appcontext(lambda error: None),
        lambda app: vars(app).update(wsgi_app=app.wsgi_app),
        lambda app: app.view_functions.update({"events.append": lambda run_id: "mine"}),
    ],
    ids=[
        "before",
        "after",
        "teardown",
        "of-the-blueprint",
        "error-handler",
        "context",
        "middleware",
        "view",
    ],
)
def test_what_somebody_puts_around_the_view_sees_every_append(app, plain, put_around):
    put_around(app)
    assert not plain.may_handle


@pytest.mark.parametrize(
    ("fields", "request_id", "traceparent"),
    [
        (b"X-Request-Id: a-1\r\n", "a-1", b""),
        (b"x-request-id: a b\r\n", None, b""),
        (b"X-Request-Id: %b\r\n" % (b"a" * 129), None, b""),
        (b"traceparent: %b\r\ntracestate: a=b\r\n" % TRACED, None, TRACED),
        (b"Traceparent: 00-0-0-0\r\nX-Request-ID: a\r\n", "a", b""),
    ],
)
def test_the_id_and_the_trace_of_a_request_leave_it_plain(app, fields, request_id, traceparent):
    head = app.extensions["tailrace.plain_appends"].head_of(HEAD % fields)
    assert (head.request_id, head.traceparent) == (request_id, traceparent)


def test_the_answer_has_the_id_of_the_request_and_the_event_its_trace(app, store, run_id):
    plain = app.extensions["tailrace.plain_appends"]
    for head in ({"request_id": "a-1", "traceparent": TRACED}, {}):
        connection = Mock(body=b'{"event_category":"llm","event_action":"x"}')
        path = f"/runs/{run_id}/events"
        length = len(connection.body)
        connection.head = PlainHead(path, run_id, length, "localhost", None, None, **head)
        plain.handle([connection])
        [answer, _] = connection.answer.call_args.args
        assert answer.count(b"X-Request-Id: ") == 1
        assert (b"\r\nX-Request-Id: a-1\r\n" in answer) == bool(head)
        assert (TRACED in answer) == bool(head)
    assert [each.traceparent for each in store.get_events(run_id)] == [TRACED.decode(), None]


def test_a_refusal_has_the_id_of_the_request(app, store, run_id):
    store.add(run_id, "lifecycle", "completed")
    connection = Mock(body=b'{"event_category":"llm","event_action":"x"}')
    path, length = f"/runs/{run_id}/events", len(connection.body)
    connection.head = PlainHead(path, run_id, length, "localhost", None, None, "a-1")
    app.extensions["tailrace.plain_appends"].handle([connection])
    [answer, _] = connection.answer.call_args.args
    assert b"\r\nX-Request-Id: a-1\r\n" in answer
    assert b'"request_id":"a-1"' in answer
