"""Appends of many events, all or none: what each event may hold, and how many are read."""

from collections import UserDict
from collections.abc import Iterator
from itertools import repeat

import pytest
import redis

from app.streaming.errors import EventTooLarge, InvalidEvent, InvalidInput
from app.streaming.new_event import MAX_NUMBER

EVENT = {"event_category": "llm", "event_action": "stream"}


def leases(client: redis.Redis, run_id: str) -> list[bytes | None]:
    entries = client.xrange(f"run:{run_id}:events")
    return [fields.get(b"lease_seconds") for _, fields in entries]


def test_events_are_appended_together_and_follow_on_each_other(any_store, run_id):
    any_store.add(run_id, "llm", "stream", 0)
    appended = any_store.append_many(run_id, [{**EVENT, "data": number} for number in (1, 2, 3)])
    events = any_store.get_events(run_id)
    assert [event.data for event in events] == [0, 1, 2, 3]
    assert appended.ids() == [event.id for event in events[1:]]
    assert (appended.first_sequence, appended.last_sequence) == (2, 4)


def test_any_iterable_of_any_mappings_is_accepted(any_store, run_id):
    given = (UserDict({**EVENT, "data": number}) for number in range(3))
    assert len(any_store.add_many(run_id, given)) == 3


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"event_action": "stream"}, "event_category"),
        ({"event_category": "llm"}, "event_action"),
        ({**EVENT, "event_category": None}, "event_category"),
        ({**EVENT, "data": float("nan")}, "data"),
        ({**EVENT, "more": 1}, "more"),
        ({**EVENT, 7: 1}, "7"),
        ({"more": 1}, "more"),
    ],
)
def test_an_error_names_the_event_by_its_index(fake_store, run_id, bad, field):
    with pytest.raises(InvalidEvent) as refused:
        fake_store.append_many(run_id, [EVENT, EVENT, bad, EVENT])
    assert refused.value.field == f"2.{field}"
    assert fake_store.get_events(run_id) == []


@pytest.mark.parametrize("bad", [None, 7, "llm", [], list(EVENT.items()), ("llm", "stream")])
def test_an_event_that_is_no_mapping_is_named_by_its_index(fake_store, run_id, bad):
    with pytest.raises(InvalidEvent) as refused:
        fake_store.append_many(run_id, [EVENT, bad])
    assert refused.value.field == "1"
    assert fake_store.get_events(run_id) == []


def test_an_event_over_the_limit_is_named_by_its_index(fake_store, run_id):
    with pytest.raises(EventTooLarge) as refused:
        fake_store.append_many(run_id, [EVENT, {**EVENT, "source": "x" * 300_000}])
    assert refused.value.field == "1.source"


@pytest.mark.parametrize("lease", [0, False, "", "30", -1, 1.5, True, MAX_NUMBER + 1])
def test_a_bad_lease_is_named_by_its_index(fake_store, run_id, lease):
    with pytest.raises(InvalidInput) as refused:
        fake_store.append_many(run_id, [EVENT, {**EVENT, "lease_seconds": lease}])
    assert refused.value.field == "1.lease_seconds"
    assert fake_store.get_events(run_id) == []


@pytest.mark.parametrize("lease", [0, False, "", True])
def test_a_bad_lease_for_all_events_is_named_without_an_index(fake_store, run_id, lease):
    with pytest.raises(InvalidInput) as refused:
        fake_store.append_many(run_id, [EVENT], lease_seconds=lease)
    assert refused.value.field == "lease_seconds"


@pytest.mark.parametrize(
    ("of_events", "of_all", "expected"),
    [
        ((None, None), None, None),
        ((None, None), 9, b"9"),
        ((1, None), 9, b"1"),
        ((1, 2), 9, b"2"),
        ((1, None), None, b"1"),
    ],
)
def test_the_last_lease_of_an_event_wins_over_the_lease_for_all(
    fake_store, fake_client, run_id, of_events, of_all, expected
):
    events = [{**EVENT, "lease_seconds": lease} for lease in of_events]
    fake_store.append_many(run_id, events, lease_seconds=of_all)
    assert leases(fake_client, run_id) == [expected] * 2


class BrokenMapping(UserDict):
    """A mapping of the caller that raises an error."""

    def __getitem__(self, name: str) -> object:
        raise TypeError("raised by the caller")


def test_an_error_of_the_callers_mapping_is_not_translated(fake_store, run_id):
    with pytest.raises(TypeError, match="raised by the caller"):
        fake_store.append_many(run_id, [EVENT, BrokenMapping(EVENT)])


def test_an_endless_iterable_is_read_only_up_to_the_limit(fake_store, run_id):
    read = []

    def endless() -> Iterator[dict]:
        for event in repeat(EVENT):
            read.append(event)
            assert len(read) <= 1001, "it reads on"
            yield event

    with pytest.raises(InvalidEvent) as refused:
        fake_store.append_many(run_id, endless())
    assert (refused.value.field, len(read)) == ("events", 1001)
    assert fake_store.get_events(run_id) == []


@pytest.mark.parametrize("count", [1, 1000])
def test_the_smallest_and_the_largest_number_of_events_are_appended(fake_store, run_id, count):
    assert len(fake_store.add_many(run_id, repeat(EVENT, count))) == count


@pytest.mark.parametrize("count", [0, 1001])
def test_no_events_and_too_many_events_are_refused(fake_store, run_id, count):
    with pytest.raises(InvalidEvent) as refused:
        fake_store.add_many(run_id, repeat(EVENT, count))
    assert refused.value.field == "events"
    assert fake_store.get_events(run_id) == []
