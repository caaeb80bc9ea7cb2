"""Listing the runs, and following how they begin and end."""

import itertools
import json

import pytest

from app.client import Client, follower
from app.streaming.errors import InvalidInput, Refused
from tests.client.fake_gateway import FakeGateway, response, run_state, stream
from tests.clocks import replace_time


def page(*names: str, after: str | None = None) -> bytes:
    return response(200, {"runs": [run_state(name) for name in names], "next": after})


def listed(script: list[bytes], **options: object) -> tuple[list[str], list[dict]]:
    """Return the ids of the runs that a client lists, and the queries that it sent."""
    with FakeGateway(script) as gateway, Client(gateway.url) as client:
        runs = [run["run_id"] for run in client.runs(**options)]
    return runs, [request.query for request in gateway.requests]


def test_every_page_is_read():
    runs, queries = listed([page("c", "b", after="1-b"), page(after="0-x"), page("a")])
    assert runs == ["c", "b", "a"]
    assert [query.get("after") for query in queries] == [None, ["1-b"], ["0-x"]]


def test_the_limit_is_for_all_pages_together():
    pages = [page("c", "b", after="1-b"), page("a", after="1-a")]
    runs, queries = listed(pages, state="active", prefix="x.", limit=3)
    assert runs == ["c", "b", "a"]
    assert [query["limit"] for query in queries] == [["3"], ["1"]]
    assert all(query["state"] == ["active"] and query["prefix"] == ["x."] for query in queries)


def test_a_page_that_follows_itself_is_no_gateway():
    with pytest.raises(Refused, match="follows itself"):
        listed([page("a", after="1-a"), page("a", after="1-a")])


def test_a_negative_limit_is_refused():
    with pytest.raises(InvalidInput):
        listed([page()], limit=-1)


def change(cursor: int, run_id: str, name: str) -> str:
    category, action = name.split(".")
    document = {
        "id": None if category == "gateway" else "7-0", "run_id": run_id, "sequence": None,
        "timestamp": None, "event": {"category": category, "action": action},
        "data": None, "source": None,
    }  # fmt: skip
    return f"id: {cursor}-0\nevent: {name}\ndata: {json.dumps(document)}"


def test_changes_are_followed_past_the_end_of_a_run_and_of_a_stream(monkeypatch):
    replace_time(monkeypatch, follower, sleep=lambda seconds: None)
    script = [
        stream("retry: 1", change(1, "a", "lifecycle.completed")),
        stream(change(2, "a", "gateway.deleted"), change(3, "b", "lifecycle.started")),
    ]
    with FakeGateway(script) as gateway, Client(gateway.url) as client:
        events = list(itertools.islice(client.follow_runs("latest", prefix="x."), 3))
    names = [(event.run_id, event.event["action"]) for event in events]
    assert names == [("a", "completed"), ("a", "deleted"), ("b", "started")]
    cursors = [request.headers["last-event-id"] for request in gateway.requests]
    assert cursors == ["latest", "1-0"]
    assert all(request.query["prefix"] == ["x."] for request in gateway.requests)
    assert all(request.path == "/runs/stream" for request in gateway.requests)
