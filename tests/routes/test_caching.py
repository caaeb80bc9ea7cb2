"""What every answer has: no cache may keep it, and the security headers."""

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.server.common_headers import SECURITY_HEADERS
from app.settings import Settings
from app.streaming.event_store import EventStore

EVENTS = "/runs/1/events"
STREAM = "/runs/1/events/stream"
END = {"event_category": "lifecycle", "event_action": "completed"}
LINES = {"data": b"{}\n", "content_type": "application/x-ndjson"}


class BrokenStore(EventStore):
    def run(self, *arguments, **options):
        raise RuntimeError("unexpected")


def check(response, directives: str = "no-store") -> None:
    assert response.headers.getlist("Cache-Control") == [directives]
    for name, value in SECURITY_HEADERS:
        assert response.headers.getlist(name) == [value]


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/healthz", {}, 200),
        ("HEAD", "/healthz", {}, 200),
        ("GET", "/readyz", {}, 200),
        ("GET", "/nothing", {}, 404),
        ("PUT", EVENTS, {}, 405),
        ("OPTIONS", EVENTS, {}, 200),
        ("OPTIONS", STREAM, {"headers": {"Origin": "http://localhost"}}, 200),
        ("GET", EVENTS, {}, 200),
        ("GET", f"{EVENTS}?limit=0", {}, 400),
        ("GET", "/runs/1", {}, 404),
        ("POST", EVENTS, {"json": END}, 201),
        ("POST", EVENTS, {"json": [END]}, 201),
        ("POST", EVENTS, {"json": {}}, 422),
        ("POST", EVENTS, {"data": "x"}, 415),
        ("POST", EVENTS, {"data": "x", "content_type": "application/json"}, 400),
        ("POST", EVENTS, LINES, 422),
        ("POST", EVENTS, {**LINES, "data": b"\n"}, 200),
        ("DELETE", EVENTS, {}, 204),
        ("GET", f"{STREAM}?last_event_id=x", {}, 400),
    ],
)
def test_every_answer_says_no_store(http: FlaskClient, method, path, options, status):
    response = http.open(path, method=method, **options)
    assert response.status_code == status
    check(response)


def test_the_answers_about_an_ended_run_say_no_store(http: FlaskClient):
    last_id = http.post(EVENTS, json=END).json["id"]
    for path in ("/runs/1", EVENTS, f"{STREAM}?last_event_id={last_id}"):
        check(http.get(path))
        check(http.head(path))
    assert http.get(f"{STREAM}?last_event_id={last_id}").status_code == 204
    assert http.post(EVENTS, json=END).status_code == 409
    check(http.post(EVENTS, json=END))


def test_an_unexpected_error_says_no_store(fake_client):
    http = create_app(Settings(), event_store=BrokenStore(client=fake_client)).test_client()
    response = http.get("/runs/1")
    assert response.status_code == 500
    check(response)


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_a_stream_says_too_that_no_proxy_may_transform_it(http: FlaskClient, accept):
    """A proxy that compresses a stream holds back its events."""
    for method in ("GET", "HEAD"):
        with http.open(STREAM, method=method, headers={"Accept": accept}) as response:
            check(response, "no-store, no-transform")


def test_a_stream_that_is_refused_says_no_store(fake_store):
    http = create_app(Settings(max_streams=1), event_store=fake_store).test_client()
    with http.get(STREAM):
        check(http.get(STREAM, headers={"Accept": "*/*"}))
        refusal = http.get(STREAM, headers={"Accept": "text/event-stream"})
        assert refusal.status_code == 200
        check(refusal, "no-store, no-transform")
