"""The requests of a run, as its producer reads them from the store."""

import threading

import pytest

from app.streaming.errors import InvalidInput
from app.streaming.event_store import EventStore
from tests.servers import RedisServer, wait_until


def test_each_request_comes_once_and_in_order(any_store, run_id):
    any_store.add(run_id, "lifecycle", "started")
    first = any_store.add(run_id, "request", "pause", {"n": 1})
    any_store.add(run_id, "llm", "stream")
    any_store.add(run_id, "request", "resume")
    any_store.add(run_id, "lifecycle", "completed")
    assert [each.action for each in any_store.requests(run_id)] == ["pause", "resume"]
    assert [each.action for each in any_store.requests(run_id, first)] == ["resume"]


def test_a_run_that_has_ended_has_no_more_requests(any_store, run_id, monkeypatch):
    monkeypatch.setattr("app.streaming.tail.LOOK_SECONDS", 0.05)
    last = any_store.add(run_id, "lifecycle", "completed")
    assert list(any_store.requests(run_id, last)) == []


@pytest.mark.parametrize("last_id", ["", "latest", "1", None])
def test_a_bad_cursor_is_refused_at_once(fake_store, last_id):
    with pytest.raises(InvalidInput):
        fake_store.requests("a", last_id)


def test_requests_come_while_the_run_goes_on(store, run_id):
    seen: list[str] = []

    def watch() -> None:
        seen.extend(each.action for each in store.requests(run_id))

    thread = threading.Thread(target=watch)
    thread.start()
    for number in range(3):
        store.add(run_id, "llm", "stream")
        store.add(run_id, "request", f"r{number}")
    store.add(run_id, "lifecycle", "completed")
    thread.join(20)
    assert seen == ["r0", "r1", "r2"]


def test_requests_go_on_after_an_outage(tmp_path, run_id):
    """Append-only, so that the log survives."""
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with RedisServer(tmp_path, *options) as server:
        store = EventStore(server.url)
        store.add(run_id, "request", "first")
        requests = store.requests(run_id)
        assert next(requests).action == "first"
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.append(next(requests).action))
        thread.start()
        server.stop()
        server.start()
        wait_until(lambda: _is_back(store, run_id), "Redis is back")
        store.add(run_id, "request", "second")
        thread.join(20)
        assert seen == ["second"]


def _is_back(store: EventStore, run_id: str) -> bool:
    try:
        return store.state(run_id).exists
    except Exception:
        return False


def test_a_request_just_before_the_end_is_not_missed(any_store, run_id, monkeypatch):
    """It comes after a silent wait, and before the state is read."""
    monkeypatch.setattr("app.streaming.tail.LOOK_SECONDS", 0.05)
    any_store.add(run_id, "lifecycle", "started")
    read_state, calls = any_store.state, []

    def state(run, **options):
        calls.append(run)
        if len(calls) == 3:
            any_store.add(run_id, "request", "cancel")
            any_store.add(run_id, "lifecycle", "completed")
        return read_state(run, **options)

    monkeypatch.setattr(any_store, "state", state)
    assert [each.action for each in any_store.requests(run_id)] == ["cancel"]


def test_a_run_that_was_reopened_has_more_requests(any_store, run_id):
    for number in range(255):
        any_store.add(run_id, "llm", "stream", number)
    for category, action in (
        ("lifecycle", "completed"),
        ("lifecycle", "started"),
        ("request", "cancel"),
        ("lifecycle", "completed"),
    ):
        any_store.add(run_id, category, action)
    assert [each.action for each in any_store.requests(run_id)] == ["cancel"]
