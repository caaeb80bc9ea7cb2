"""Appends to several runs in one round trip: each has a result of its own, or its error."""

import pytest
from redis.exceptions import NoScriptError, ResponseError

from app.streaming.errors import NotALog, RunEnded, StoreUnavailable, UnexpectedSequence
from app.streaming.event_store import EventStore
from app.streaming.log.shared_connection import SharedConnection
from app.streaming.new_event import MAX_EVENT_BYTES, Append, Appended, NewEvent

DRAFTS = [NewEvent.of("llm", "stream", number) for number in range(3)]


def data_of(store: EventStore, run_id: str) -> list:
    return [event.data for event in store.get_events(run_id)]


def test_each_has_its_own_result_or_its_own_error(any_store, client, run_id):
    client.set(f"run:{run_id}-text:events", "text")
    any_store.add(f"{run_id}-ended", "lifecycle", "completed")
    appends = [
        Append(f"{run_id}-one", DRAFTS),
        Append(f"{run_id}-text", DRAFTS),
        Append(f"{run_id}-ended", DRAFTS),
        Append(f"{run_id}-expected", DRAFTS, expected_sequence=2),
        Append(f"{run_id}-leased", DRAFTS[:1], expected_sequence=1, lease_seconds=30),
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


def test_a_server_that_lacks_the_script_runs_each_once(store, redis_client, run_id):
    redis_client.script_flush()
    outcomes = store.append_each([Append(f"{run_id}-{number}", DRAFTS) for number in range(300)])
    assert [outcome.last_sequence for outcome in outcomes] == [3] * 300
    for number in range(300):
        assert data_of(store, f"{run_id}-{number}") == [0, 1, 2]


class Failing(SharedConnection):
    """Answers as it is told, and then fails."""

    answers: list[list]

    def call_all(self, *commands):
        if not self.answers:
            raise StoreUnavailable("Redis does not answer", None)
        return self.answers.pop(0)


def of_answers(fake_client, *answers: list) -> EventStore:
    store = EventStore(client=fake_client)
    store._writer._append._connection = failing = Failing(lambda: None)
    failing.answers = list(answers)
    return store


def test_a_round_trip_that_came_to_nothing_is_raised(fake_client):
    store = of_answers(fake_client)
    before = store.last_refusal
    with pytest.raises(StoreUnavailable) as lost:
        store.append_each([Append("1", DRAFTS), Append("2", DRAFTS)])
    assert lost.value.stored is None
    assert store.last_refusal > before


def test_what_was_answered_is_not_forgotten_where_the_script_cannot_be_sent(fake_client):
    added = [b"added", b"5-0", 1, b"2026-01-01T00:00:00.000Z"]
    store = of_answers(fake_client, [added, NoScriptError("NOSCRIPT"), ResponseError("OOM")])
    appends = [Append(run_id, DRAFTS) for run_id in ("1", "2", "3")]
    one, two, three = store.append_each(appends)
    assert one.last_id == "5-2"
    assert (type(two), two.stored) == (StoreUnavailable, None)
    assert (type(three), three.stored) == (StoreUnavailable, False)


def test_a_refusal_starts_the_leases_of_this_process_anew(fake_client):
    store = of_answers(fake_client, [ResponseError("OOM")])
    before = store.last_refusal
    store.append_each([Append("1", DRAFTS)])
    assert store.last_refusal > before


@pytest.mark.parametrize("size", [1, MAX_EVENT_BYTES - 2])
def test_many_are_sent_whatever_their_size(store, run_id, size):
    new_events = [NewEvent.of("llm", "stream", "x" * size)]
    outcomes = store.append_each([Append(f"{run_id}-{number}", new_events) for number in range(20)])
    assert [outcome.first_sequence for outcome in outcomes] == [1] * 20
