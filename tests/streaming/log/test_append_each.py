"""Appends to several runs in one round trip: each has its own result or error."""

import time

import pytest
from redis.exceptions import NoScriptError, ResponseError

from app.streaming.errors import NotALog, RunEnded, StoreUnavailable, UnexpectedSequence
from app.streaming.event_store import EventStore
from app.streaming.new_event import MAX_EVENT_BYTES, Append, Appended, NewEvent
from app.streaming.redis.availability import Availability
from app.streaming.redis.shared_connection import SharedConnection

NEW_EVENTS = [NewEvent.of("llm", "stream", number) for number in range(3)]


def data_of(store: EventStore, run_id: str) -> list:
    return [event.data for event in store.get_events(run_id)]


def test_each_append_has_its_own_result_or_error(any_store, client, run_id):
    client.set(f"run:{run_id}-text:events", "text")
    any_store.add(f"{run_id}-ended", "lifecycle", "completed")
    appends = [
        Append(f"{run_id}-one", NEW_EVENTS),
        Append(f"{run_id}-text", NEW_EVENTS),
        Append(f"{run_id}-ended", NEW_EVENTS),
        Append(f"{run_id}-expected", NEW_EVENTS, expected_sequence=2),
        Append(f"{run_id}-leased", NEW_EVENTS[:1], expected_sequence=1, lease_seconds=30),
    ]
    outcomes = any_store.append_each(appends)
    kinds = [Appended, NotALog, RunEnded, UnexpectedSequence, Appended]
    assert [type(outcome) for outcome in outcomes] == kinds
    one, leased = outcomes[0], outcomes[-1]
    assert one.ids() == [event.id for event in any_store.get_events(f"{run_id}-one")]
    assert (one.first_sequence, one.last_sequence) == (1, 3)
    assert leased.last_id == any_store.get_events(f"{run_id}-leased")[0].id
    assert any_store.state(f"{run_id}-leased").lease_seconds == 30
    assert data_of(any_store, f"{run_id}-expected") == []


def test_a_server_without_the_script_runs_each_append_once(store, redis_client, run_id):
    redis_client.script_flush()
    outcomes = store.append_each(
        [Append(f"{run_id}-{number}", NEW_EVENTS) for number in range(300)]
    )
    assert [outcome.last_sequence for outcome in outcomes] == [3] * 300
    for number in range(300):
        assert data_of(store, f"{run_id}-{number}") == [0, 1, 2]


class FailingConnection(SharedConnection):
    """Returns the given replies, one list for each round trip, and then fails."""

    replies: list[list]

    def call_all(self, *commands):
        if not self.replies:
            raise StoreUnavailable("Redis does not answer", None)
        return self.replies.pop(0)


def store_with_replies(fake_client, *replies: list) -> EventStore:
    """Return a store whose appends get the given replies."""
    store = EventStore(client=fake_client)
    store._writer._append._connection = failing = FailingConnection(
        lambda: None, Availability(lambda: None)
    )
    failing.replies = list(replies)
    return store


def test_a_lost_round_trip_raises_store_unavailable(fake_client):
    store = store_with_replies(fake_client)
    before = time.monotonic()
    with pytest.raises(StoreUnavailable) as lost:
        store.append_each([Append("1", NEW_EVENTS), Append("2", NEW_EVENTS)])
    assert lost.value.stored is None
    assert store.engine.availability.since() > before


def test_answered_appends_keep_their_results_if_the_script_cannot_be_sent(fake_client):
    added = [b"added", b"5-0", 1, b"2026-01-01T00:00:00.000Z"]
    store = store_with_replies(
        fake_client, [added, NoScriptError("NOSCRIPT"), ResponseError("OOM")]
    )
    appends = [Append(run_id, NEW_EVENTS) for run_id in ("1", "2", "3")]
    one, two, three = store.append_each(appends)
    assert one.last_id == "5-2"
    assert (type(two), two.stored) == (StoreUnavailable, None)
    assert (type(three), three.stored) == (StoreUnavailable, False)


def test_a_refused_append_begins_every_lease_anew(fake_client):
    store = store_with_replies(fake_client, [ResponseError("OOM")])
    before = time.monotonic()
    store.append_each([Append("1", NEW_EVENTS)])
    assert store.engine.availability.since() > before


@pytest.mark.parametrize("size", [1, MAX_EVENT_BYTES - 2])
def test_many_appends_of_small_or_large_events_are_sent_together(store, run_id, size):
    new_events = [NewEvent.of("llm", "stream", "x" * size)]
    outcomes = store.append_each([Append(f"{run_id}-{number}", new_events) for number in range(20)])
    assert [outcome.first_sequence for outcome in outcomes] == [1] * 20
