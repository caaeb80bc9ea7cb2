"""Nodes that fail in different ways at once: each append is told what became of it, and no more."""

import pytest

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from app.streaming.new_event import Append, NewEvent
from app.streaming.redis.connection import Reply

NEW_EVENTS = [NewEvent.of("llm", "stream")]


@pytest.fixture
def store(shared_cluster) -> EventStore:
    return EventStore(shared_cluster.url)


def fail(monkeypatch, store: EventStore, run_id: str, stored: bool | None) -> None:
    """Let the node of a run fail from now on: the replies are lost, or nothing is sent."""
    link = store.engine.server_of(log_key(run_id)).writes
    call_all = link.call_all

    def fails(*commands) -> list[Reply]:
        if stored is None:
            call_all(*commands)
        raise StoreUnavailable("it does not answer", stored)

    monkeypatch.setattr(link, "call_all", fails)


def test_appends_on_a_dead_and_on_a_hanging_node(monkeypatch, shared_cluster, store, run_id):
    masters = shared_cluster.masters[:2]
    (first, other), (second, another) = (
        shared_cluster.runs_on(each, 2, run_id) for each in masters
    )
    for each in (other, another):  # from now on the nodes have the script
        store.append_new(each, NEW_EVENTS)
    appends = [Append(each, NEW_EVENTS) for each in (first, second)]
    fail(monkeypatch, store, first, stored=False)
    fail(monkeypatch, store, second, stored=None)
    outcomes = store.append_each(appends)
    assert [each.stored for each in outcomes] == [False, None]
    with pytest.raises(StoreUnavailable) as raised:
        store.engine.writes.call_all(*(("XLEN", log_key(each)) for each in (first, second)))
    assert raised.value.stored is None
    looked = EventStore(shared_cluster.url)
    assert [looked.state(each).exists for each in (first, second)] == [False, True]
