"""The stream's route with Flask's test client: the body as an iterable, refusals, 204."""

import json

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


def test_a_reopening_that_was_deleted_is_a_gap_and_then_204(http, fake_store, fake_client):
    end = fake_store.add(1, "lifecycle", "completed")
    fake_client.xdel("run:1:events", fake_store.add(1, "lifecycle", "started"))
    response = http.get(PATH, headers={"Last-Event-ID": end})
    assert response.status_code == 200
    names = [line for line in response.text.splitlines() if line.startswith("event: ")]
    assert names == ["event: gateway.gap", "event: gateway.caught_up"]
    [reached] = [line for line in response.text.splitlines() if line.startswith("id: ")]
    header = {"Last-Event-ID": reached.removeprefix("id: ")}
    assert http.get(PATH, headers=header).status_code == 204
    assert http.get(f"{PATH}?last_event_id=latest").status_code == 204


def test_a_cursor_of_another_log_is_a_reset_though_the_run_has_ended(http, fake_store):
    fake_store.add(1, "lifecycle", "completed")
    response = http.get(PATH, headers={"Last-Event-ID": "99999999999999-0"})
    assert response.status_code == 200
    assert "event: gateway.reset" in response.text
    assert "event: lifecycle.completed" in response.text


def test_without_types_no_line_names_an_event(http, fake_store, fake_client):
    first = fake_store.add(1, "lifecycle", "started")
    fake_store.add(1, "lifecycle", "completed")
    fake_client.xdel("run:1:events", first)
    response = http.get(f"{PATH}?typed=false&last_event_id=0-0")
    assert "event:" not in response.text
    data = [line for line in response.text.splitlines() if line.startswith("data: ")]
    assert [json.loads(line[6:])["event"]["action"] for line in data] == [
        "gap",
        "completed",
        "caught_up",
    ]


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
