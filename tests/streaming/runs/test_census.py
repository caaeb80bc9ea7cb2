"""The census: afterwards the index says what the logs say, and the changes were told."""

import time
from unittest.mock import Mock

import pytest

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.runs import census as census_module
from app.streaming.runs.census import TURN, Census
from tests.run_program import run_program
from tests.servers import RedisServer
from tests.streaming.runs.test_runs import listed, told


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(census_module, "REST_SHARE", 0)


@pytest.fixture
def census(fake_store: EventStore) -> Census:
    return fake_store.census()


def index_of(store: EventStore, state: str) -> list[str]:
    return sorted(place.run_id for place in store.runs.index.places(state))


def test_runs_of_other_programs_are_found(fake_store, fake_client, census):
    fake_client.xadd("run:a:events", {"any": "thing"})
    fake_client.xadd("run:b:events", {"event_category": "lifecycle", "event_action": "failed"})
    fake_client.xadd("run:not a run:events", {"any": "thing"})
    fake_client.set("run:text:events", "x")
    fake_client.set("other", "x")
    census.take()
    assert (index_of(fake_store, "active"), index_of(fake_store, "ended")) == (["a"], ["b"])
    assert sorted(told(fake_store)) == [("a", None, None), ("b", "lifecycle", "failed")]
    census.take()
    assert len(told(fake_store)) == 2


def test_what_a_crash_has_kept_from_the_index_is_found(fake_store, fake_client, census):
    for name in ("a", "b"):
        fake_store.add(name, "lifecycle", "started")
    fake_store.add("b", "lifecycle", "completed")
    fake_client.delete("tailrace:{runs}:active", "tailrace:{runs}:ended", "tailrace:{runs}:changes")
    census.take()
    assert (index_of(fake_store, "active"), index_of(fake_store, "ended")) == (["a"], ["b"])
    assert sorted(told(fake_store)) == [
        ("a", "lifecycle", "started"),
        ("b", "lifecycle", "completed"),
    ]


def test_an_end_that_was_not_noted_is_found(fake_store, fake_client, census):
    fake_store.add("a", "lifecycle", "started")
    fake_client.xadd("run:a:events", {"event_category": "lifecycle", "event_action": "completed"})
    census.take()
    assert (index_of(fake_store, "active"), index_of(fake_store, "ended")) == ([], ["a"])
    assert told(fake_store)[-1] == ("a", "lifecycle", "completed")


@pytest.mark.parametrize("last", ["started", "completed"])
def test_a_log_that_has_expired_leaves_the_index(fake_store, fake_client, census, last):
    fake_store.add("a", "lifecycle", last)
    fake_client.delete("run:a:events")
    census.take()
    assert (
        listed(fake_store) == index_of(fake_store, "active") == index_of(fake_store, "ended") == []
    )
    assert told(fake_store)[-1] == ("a", "gateway", "deleted")


def test_the_order_follows_the_activity(fake_store, fake_client, census):
    fake_client.xadd("run:a:events", {"event_category": "llm"}, id="1000-0")
    fake_client.xadd("run:b:events", {"event_category": "llm"}, id="2000-0")
    census.take()
    assert listed(fake_store) == ["b", "a"]
    fake_client.xadd("run:a:events", {"event_category": "llm"}, id="3000-0")
    census.take()
    assert listed(fake_store) == ["a", "b"]


def test_a_flush_of_redis_leaves_nothing(fake_store, fake_client, census):
    fake_store.add("a", "lifecycle", "started")
    fake_client.flushall()
    census.take()
    assert listed(fake_store) == []
    fake_store.add("a", "lifecycle", "started")
    assert listed(fake_store) == ["a"]


def test_gateways_take_turns(store, redis_client):
    redis_client.delete(TURN)
    turns = [store.census(), EventStore(client=redis_client).census()]
    taken = [bool(each._turn.run(TURN, 25)) for each in (*turns, *turns)]
    assert taken == [True, False, False, False]
    redis_client.zadd(TURN, {"last": 1000})
    assert turns[1]._turn.run(TURN, 25)


def test_a_census_that_is_started_takes_turns(tmp_path):
    """In another process: its thread does not end before that."""
    with RedisServer(tmp_path) as server:
        done = run_program("census_started", server.url)
    assert done.returncode == 0, done.stderr


def test_where_scan_is_forbidden_the_rest_goes_on(fake_store, fake_client, census, monkeypatch):
    def forbidden():
        raise StoreUnavailable("Redis refused: NOPERM this user has no permissions to run scan")
        yield

    monkeypatch.setattr(fake_store, "scan_run_ids", forbidden)
    fake_store.add("a", "lifecycle", "started")
    fake_client.delete("run:a:events")
    for _ in range(2):
        census.take()
    assert index_of(fake_store, "active") == []


def test_a_reopening_that_was_not_noted_is_found(fake_store, fake_client, census):
    """An ended run is looked at again once its last event is another one."""
    fake_client.xadd("run:a:events", {"event_category": "llm"}, id="1000-0")
    names = {"event_category": "lifecycle", "event_action": "completed"}
    fake_client.xadd("run:a:events", names, id="2000-0")
    census.take()
    assert index_of(fake_store, "ended") == ["a"]
    fake_client.xadd("run:a:events", names | {"event_action": "started"}, id="3000-0")
    census.take()
    assert (index_of(fake_store, "active"), index_of(fake_store, "ended")) == (["a"], [])


def test_what_is_told_and_not_noted_is_told_once(fake_store, fake_client, census, monkeypatch):
    """A crash in between."""
    fake_client.xadd("run:a:events", {"event_category": "llm", "event_action": "stream"})
    note = fake_store.runs.index.note

    def crash(noted):
        raise StoreUnavailable("crashed")

    monkeypatch.setattr(fake_store.runs.index, "note", crash)
    with pytest.raises(StoreUnavailable):
        census.take()
    monkeypatch.setattr(fake_store.runs.index, "note", note)
    census.take()
    assert told(fake_store) == [("a", "llm", "stream")]
    assert index_of(fake_store, "active") == ["a"]


def test_old_runs_that_are_found_are_not_told(fake_store, fake_client, census):
    """After an upgrade, or the loss of the index, they are no changes."""
    fake_client.xadd("run:a:events", {"event_category": "llm"}, id="1000-0")
    census.take()
    assert index_of(fake_store, "active") == ["a"]
    assert told(fake_store) == []


def test_the_rest_after_a_slow_part_is_bounded(fake_store, census, monkeypatch):
    """What waits for a node of a cluster takes long, and the turn is that of all gateways."""
    clock = Mock(monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(census_module, "time", clock)
    monkeypatch.setattr(census_module, "REST_SHARE", 1e9)
    fake_store.add("a", "lifecycle", "started")
    census.take()
    rests = [each.args[0] for each in clock.sleep.call_args_list]
    assert set(rests) == {census_module.MAX_REST_SECONDS}


@pytest.mark.parametrize("gevent", [False, True])
def test_a_census_of_nothing_does_not_wait(tmp_path, gevent):
    """A round trip without commands would wait for a reply that never comes."""
    with RedisServer(tmp_path) as server:
        done = run_program("census_of_nothing", server.url, gevent=gevent)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 5  # the time limit of a reply, from which this is far away
