"""The stream's route with Flask's test client: the body as an iterable, refusals, 204."""

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.settings import Settings
from app.streaming.event_store import EventStore

PATH = "/runs/1/events/stream"


def client_of(store: EventStore, **settings: object) -> FlaskClient:
    return create_app(Settings(**settings), event_store=store).test_client()


def test_an_ended_run_is_replayed_to_its_end(http, fake_store):
    for action in ("started", "completed"):
        fake_store.add(1, "lifecycle", action)
    response = http.get(PATH)
    assert response.status_code == 200
    names = [line for line in response.text.splitlines() if line.startswith("event: ")]
    assert names == [
        "event: lifecycle.started",
        "event: lifecycle.completed",
        "event: gateway.caught_up",
    ]


@pytest.mark.parametrize("query", ["last_event_id=latest", "tail=0", "last_event_id={end}"])
def test_a_cursor_at_the_end_of_an_ended_run_is_204(http, fake_store, query):
    end = fake_store.add(1, "lifecycle", "completed")
    response = http.get(f"{PATH}?{query.format(end=end)}")
    assert (response.status_code, response.data) == (204, b"")


def test_deleted_entries_after_the_terminal_event_are_still_204(http, fake_store, fake_client):
    end = fake_store.add(1, "lifecycle", "completed")
    fake_client.xdel("run:1:events", fake_client.xadd("run:1:events", {"data": "1"}))
    assert http.get(PATH, headers={"Last-Event-ID": end}).status_code == 204


@pytest.mark.parametrize("action", ["completed", "failed", "cancelled"])
def test_a_resumed_client_gets_the_rest_of_an_ended_run(http, fake_store, action):
    first = fake_store.add(1, "lifecycle", "started")
    end = fake_store.add(1, "lifecycle", action)
    response = http.get(PATH, headers={"Last-Event-ID": first})
    assert response.status_code == 200
    assert f"id: {end}\nevent: lifecycle.{action}\n" in response.text
    assert f"id: {first}\n" not in response.text


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "TEXT/Event-Stream", "text/event-stream;q=0.1, */*"]
)
def test_a_browser_over_the_limit_gets_200_with_retry_and_no_events(fake_store, accept):
    http = client_of(fake_store, max_streams=1)
    with http.get(PATH):
        response = http.get(PATH, headers={"Accept": accept})
        assert response.status_code == 200
        assert response.mimetype == "text/event-stream"
        assert response.text.startswith("retry: ")
        assert "data:" not in response.text


@pytest.mark.parametrize("accept", [None, "*/*", "application/x-ndjson"])
def test_another_client_over_the_limit_gets_503_with_retry_after(fake_store, accept):
    http = client_of(fake_store, max_streams=1)
    headers = {"Accept": accept} if accept else {}
    with http.get(PATH):
        response = http.get(PATH, headers=headers)
        assert response.status_code == 503
        assert response.mimetype == "application/problem+json"
        assert int(response.headers["Retry-After"]) > 0
        assert http.get("/healthz").status_code == 200


def test_a_closed_stream_makes_room_for_another(fake_store):
    http = client_of(fake_store, max_streams=1)
    for _ in range(3):
        with http.get(PATH) as response:
            assert response.status_code == 200


def test_head_opens_no_stream(fake_store):
    http = client_of(fake_store, max_streams=1)
    with http.get(PATH):
        response = http.head(PATH)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["X-Accel-Buffering"] == "no"
