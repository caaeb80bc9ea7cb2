"""The stream's route with Flask's test client: the ordinary generator, refusals, 204."""

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
    answer = http.get(PATH)
    assert answer.status_code == 200
    names = [line for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names == [
        "event: lifecycle.started",
        "event: lifecycle.completed",
        "event: gateway.caught_up",
    ]


@pytest.mark.parametrize("query", ["last_event_id=latest", "tail=0", "last_event_id={end}"])
def test_nothing_more_of_an_ended_run_is_204(http, fake_store, query):
    end = fake_store.add(1, "lifecycle", "completed")
    answer = http.get(f"{PATH}?{query.format(end=end)}")
    assert (answer.status_code, answer.data) == (204, b"")


def test_what_was_deleted_behind_the_end_is_nothing_more(http, fake_store, fake_client):
    end = fake_store.add(1, "lifecycle", "completed")
    fake_client.xdel("run:1:events", fake_client.xadd("run:1:events", {"data": "1"}))
    assert http.get(PATH, headers={"Last-Event-ID": end}).status_code == 204


@pytest.mark.parametrize("action", ["completed", "failed", "cancelled"])
def test_an_ended_run_is_whole_for_one_who_has_seen_a_part(http, fake_store, action):
    first = fake_store.add(1, "lifecycle", "started")
    end = fake_store.add(1, "lifecycle", action)
    answer = http.get(PATH, headers={"Last-Event-ID": first})
    assert answer.status_code == 200
    assert f"id: {end}\nevent: lifecycle.{action}\n" in answer.text
    assert f"id: {first}\n" not in answer.text


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "TEXT/Event-Stream", "text/event-stream;q=0.1, */*"]
)
def test_a_browser_that_is_too_many_is_asked_to_come_back(fake_store, accept):
    http = client_of(fake_store, max_streams=1)
    with http.get(PATH):
        answer = http.get(PATH, headers={"Accept": accept})
        assert answer.status_code == 200
        assert answer.mimetype == "text/event-stream"
        assert answer.text.startswith("retry: ")
        assert "data:" not in answer.text


@pytest.mark.parametrize("accept", [None, "*/*", "application/x-ndjson"])
def test_another_client_that_is_too_many_gets_503_with_retry_after(fake_store, accept):
    http = client_of(fake_store, max_streams=1)
    headers = {"Accept": accept} if accept else {}
    with http.get(PATH):
        answer = http.get(PATH, headers=headers)
        assert answer.status_code == 503
        assert answer.mimetype == "application/problem+json"
        assert int(answer.headers["Retry-After"]) > 0
        assert http.get("/healthz").status_code == 200


def test_a_stream_that_is_closed_makes_room(fake_store):
    http = client_of(fake_store, max_streams=1)
    for _ in range(3):
        with http.get(PATH) as answer:
            assert answer.status_code == 200


def test_head_joins_nothing(fake_store):
    http = client_of(fake_store, max_streams=1)
    with http.get(PATH):
        answer = http.head(PATH)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["X-Accel-Buffering"] == "no"
