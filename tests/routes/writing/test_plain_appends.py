"""The plain form of an append, and what around the app keeps appends from it."""

import pytest
from flask import Flask

from app import create_app
from app.routes.writing.plain_appends import PlainHead
from app.streaming.errors import RunEnded

HEAD = (
    b"POST /runs/r.1/events HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 5\r\n%b\r\n"
)


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
