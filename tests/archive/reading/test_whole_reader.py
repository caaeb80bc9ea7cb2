"""Reads of a log of which Redis has less than the archive."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.archive.archive import Archive
from app.streaming.errors import ArchiveUnavailable, NotALog
from app.streaming.event_id import LAST, ZERO, EventId
from app.streaming.event_store import EventStore
from app.streaming.follow.history_lines import HistoryLines
from app.streaming.follow.start import Start
from app.streaming.log import archived_log
from app.streaming.log.log_state import NO_LOG
from app.streaming.log.position import Between, Position
from tests.archive.archiving import archive_log
from tests.archive.logs import append
from tests.archive.memory_storage import MemoryStorage
from tests.servers import wait_until
from tests.streaming.event_store.logs import key

_runs = count(1)

# How much of a log of ten events Redis still has: all of it, its end, its bare key, nothing.
LEFT = {"all": 10, "its end": 4, "no entry": 0, "nothing": None}


def leave(client, run_id, left):
    """Trim a log to so many entries; None for none at all, and no log."""
    if left is None:
        client.delete(key(run_id))
    else:
        client.xtrim(key(run_id), maxlen=left, approximate=False)


@pytest.fixture(params=LEFT.values(), ids=LEFT)
def ids(request, store, client, archive, run_id) -> list[EventId]:
    """The ids of ten events, which are archived; Redis has some of them."""
    ids = [EventId.parse(event_id) for event_id in append(store, run_id, 9)]
    archive_log(archive, store, run_id, part_size=3)
    leave(client, run_id, request.param)
    return ids


def let_pass(monkeypatch, seconds: float) -> None:
    """Set the clock of what is remembered of the archive forward."""
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + seconds)
    monkeypatch.setattr(archived_log, "time", later)


def sequences(events) -> list[int]:
    return [event.sequence for event in events]


def lines_of(store, run_id, **selection) -> list[int]:
    selection = {
        "after": None,
        "before": None,
        "from_sequence": None,
        "descending": False,
        "limit": None,
        "categories": (),
        "actions": (),
    } | selection
    lines = b"".join(HistoryLines(run_id, store, **selection).chunks()).splitlines()
    return [json.loads(line)["sequence"] for line in lines]


def pages_of(store, run_id, **selection) -> Iterator[int]:
    """Yield the sequences of all events of a selection, page by page."""
    bound = "before" if selection.get("descending") else "after"
    while True:
        page = store.page(run_id, **selection)
        yield from sequences(page.events)
        if page.next is None:
            return
        selection[bound] = page.next


def test_the_whole_log_is_read(store, ids, run_id):
    assert sequences(store.get_events(run_id)) == list(range(1, 11))
    assert sequences(store.get_events(run_id, descending=True)) == list(range(10, 0, -1))
    assert sequences(store.get_events(run_id, limit=2)) == [1, 2]
    assert [event.id for event in store.get_events(run_id)] == list(map(str, ids))
    assert store.get_events(run_id)[-1].terminal
    for number in range(10):
        after = store.get_events_after(run_id, str(ids[number]))
        assert sequences(after) == list(range(number + 2, 11))


def test_the_state_is_that_of_the_whole_log(store, ids, run_id):
    state = store.state(run_id)
    assert (state.first_id, state.last_id) == (ids[0], ids[-1])
    assert (state.first_sequence, state.last_sequence, state.length) == (1, 10, 10)
    assert state.ended
    assert (state.end_id, state.end_sequence) == (ids[-1], 10)
    assert state == store.read(run_id, ZERO, 1)[1]
    assert state.lost_upto == ZERO


def test_the_run_is_described_as_a_whole(store, ids, run_id):
    run = store.run(run_id)
    assert run.state == "ended"
    assert (run.first_event.sequence, run.last_event.sequence) == (1, 10)
    assert run.meta_json == b'{"n":0}'
    assert run.started_at == run.first_event.timestamp
    assert run.ended_at == run.last_event.timestamp


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 4, 9, 10, 11])
def test_pages_cover_the_whole_log(store, ids, run_id, descending, limit):
    seen = list(pages_of(store, run_id, descending=descending, limit=limit))
    assert seen == list(range(10, 0, -1) if descending else range(1, 11))


@pytest.mark.parametrize("descending", [False, True])
def test_a_page_lies_between_two_ids(store, ids, run_id, descending):
    for after in (None, *ids):
        for before in (None, *ids):
            lower = ids.index(after) + 2 if after else 1
            upper = ids.index(before) if before else 10
            expected = list(range(lower, upper + 1))
            page = store.page(run_id, after=after, before=before, descending=descending)
            assert sequences(page.events) == (expected[::-1] if descending else expected)
            found = lines_of(store, run_id, after=after, before=before, descending=descending)
            assert found == (expected[::-1] if descending else expected)


def test_every_range_is_that_of_the_whole_log(store, ids, run_id):
    store.state(run_id)
    for lower in range(11):
        for upper in range(lower, 11):
            after = ids[lower - 1] if lower else ZERO
            upto = ids[upper - 1] if upper else ZERO
            for most in (1, 2, 5, 20):
                entries = store.entries(run_id, after, upto, most)
                assert [EventId.from_redis(entry[0]) for entry in entries] == ids[lower:upper][
                    :most
                ]


def test_a_position_is_proved_by_its_own_entry_wherever_that_is(store, ids, run_id):
    state = store.state(run_id)
    joins = 0
    for number, event_id in enumerate(ids[:-1], 1):
        own = Position(state.epoch, event_id, number)
        entries, is_here = store.entries_after(run_id, own, LAST, 2)
        found = [EventId.from_redis(entry[0]) for entry in entries]
        assert found == ids[number : number + len(found)]
        joins += not (is_here and found)  # only a read with the state tells what follows
        for other in (
            own._replace(epoch=b"another"),
            own._replace(sequence=number - 1),
            Position(state.epoch, EventId(event_id.ms - 1, 0), number),
        ):
            assert not store.entries_after(run_id, other, LAST, 2)[1]
        between = Between(state.epoch, event_id, number)
        entries, is_here = store.entries_after(run_id, between, LAST, 1)
        assert is_here
        assert [EventId.from_redis(each[0]) for each in entries] in ([], [ids[number]])
    is_cut = state.archived_upto not in (ZERO, ids[-1])
    assert joins == is_cut


def test_reading_from_an_id_goes_on_in_redis(store, ids, run_id):
    for first in range(10):
        for most in (1, 4, 20):
            entries, _ = store.read(run_id, ids[first], most)
            assert [EventId.from_redis(entry[0]) for entry in entries] == ids[first:][:most]


def test_every_sequence_is_found(store, ids, run_id):
    for sequence in range(1, 11):
        way, state = store.locate_sequence(run_id, sequence)
        assert [each.notice for each in way] == [None]
        assert way[-1].end.sequence == sequence - 1
        assert sequences(store.page(run_id, from_sequence=sequence).events) == list(
            range(sequence, 11)
        )
        assert lines_of(store, run_id, from_sequence=sequence) == list(range(sequence, 11))
    assert store.page(run_id, from_sequence=11).events == []
    assert store.locate_sequence(run_id, 12)[0][-1].end == state.end


def test_the_tail_is_found(store, ids, run_id):
    for tail in range(1, 13):
        position, _ = store.before_tail(run_id, tail)
        assert position.sequence == max(0, 10 - tail)


def test_a_client_is_located_by_the_id_of_every_event(store, ids, run_id):
    for sequence, event_id in enumerate(ids, 1):
        [[stretch], state] = store.locate(run_id, event_id)
        assert (stretch.notice, stretch.end.sequence) == (None, sequence)
        assert store.locate_each([(run_id, event_id), (run_id, None)]) == [
            ([stretch], state),
            ([stretch._replace(start=state.beginning, end=state.beginning)], state),
        ]


def test_ids_of_no_event_mean_what_they_mean_of_a_log_in_redis(store, ids, run_id):
    beyond = EventId(ids[-1].ms + 1, 0)
    between = EventId(ids[4].ms, ids[4].n + 1000)
    before = EventId(1, 0)
    for cursor in (beyond, before, between):
        way, _ = store.locate(run_id, cursor)
        notices = [each.notice for each in way]
        # An id that another one follows in the same millisecond was never given.
        assert notices == ["reset"] or (cursor == between and between > ids[-1])
    assert [each.notice for each in store.locate(run_id, ZERO)[0]] == [None]
    assert [each.notice for each in store.locate(run_id, LAST)[0]] == ["reset"]


def test_nothing_follows_the_last_event(store, ids, run_id):
    assert Start(id=ids[-1]).find(store, run_id).nothing_follows
    assert Start(latest=True).find(store, run_id).nothing_follows
    assert Start(tail=0).find(store, run_id).nothing_follows
    assert not Start(id=ids[-2]).find(store, run_id).nothing_follows
    assert not Start().find(store, run_id).nothing_follows


def test_in_process_subscribers_go_on_from_the_archive(store, ids, run_id):
    found = store.subscribe(run_id, last_id=str(ids[2]), block_ms=None)
    assert sequences(found) == list(range(4, 11))
    assert store.subscribe(run_id, last_id=str(ids[-1]), block_ms=None) == []
    assert sequences(store.subscribe(run_id, last_id="0-0", block_ms=0)) == list(range(1, 11))


def test_requests_are_read_from_the_archive(store, client, archive, run_id):
    for action in ("pause", "cancel"):
        store.add(run_id, "request", action)
    append(store, run_id, 1)
    archive_log(archive, store, run_id)
    client.delete(key(run_id))
    assert [event.action for event in store.requests(run_id)] == ["pause", "cancel"]


@pytest.fixture
def expired(store, client, archive, run_id) -> list[str]:
    """The ids of ten archived events of a log that has gone."""
    ids = append(store, run_id, 9)
    archive_log(archive, store, run_id, part_size=3)
    client.delete(key(run_id))
    return ids


def test_a_run_that_begins_again_is_another_log(store, expired, run_id):
    assert store.state(run_id).is_archived
    appended = store.append(run_id, "step", "done").event
    assert appended.sequence == 1
    assert [event.id for event in store.get_events(run_id)] == [appended.id]
    assert not store.state(run_id).is_archived
    assert [each.notice for each in store.locate(run_id, EventId.parse(expired[3]))[0]] == ["reset"]
    assert sequences(store.get_events(run_id, descending=True)) == [1]
    assert store.run(run_id).state == "active"


def test_the_log_before_is_no_part_of_a_trimmed_one(store, client, expired, run_id):
    append(store, run_id, 5)
    client.xtrim(key(run_id), maxlen=2, approximate=False)
    assert sequences(store.get_events(run_id)) == [5, 6]
    assert sequences(store.get_events(run_id, descending=True)) == [6, 5]
    assert store.state(run_id).first_sequence == 5


def test_a_run_that_goes_on_after_it_was_archived_is_one_log(store, client, archive, run_id):
    append(store, run_id, 4)
    archive_log(archive, store, run_id)
    store.add(run_id, "lifecycle", "started")
    append(store, run_id, 3, ended=False)
    client.xtrim(key(run_id), maxlen=5, approximate=False)
    assert sequences(store.get_events(run_id)) == list(range(1, 10))
    assert not store.state(run_id).ended
    assert store.state(run_id).length == 9
    # Then events are lost before they were archived
    client.xtrim(key(run_id), maxlen=2, approximate=False)
    assert sequences(store.get_events(run_id)) == [1, 2, 3, 4, 5, 8, 9]
    assert sequences(store.get_events(run_id, descending=True)) == [9, 8, 5, 4, 3, 2, 1]
    state = store.state(run_id)
    assert (state.first_sequence, state.length) == (1, 7)
    assert state.lost_upto == state.last_id.__class__.parse(store.get_events(run_id)[5].id).before()
    way, _ = store.locate_sequence(run_id, 6)
    assert [(each.notice, each.end.sequence) for each in way] == [("gap", 7)]


def test_a_log_that_redis_has_whole_never_asks_the_archive(store, storage, run_id):
    ids = append(store, run_id, 60, ended=False)
    for event_id in (ids[0], ids[30], ids[-1]):
        store.locate(run_id, EventId.parse(event_id))
        store.get_events_after(run_id, event_id)
    store.state(run_id)
    store.run(run_id)
    store.get_events(run_id)
    store.get_events(run_id, descending=True)
    store.page(run_id, limit=7, after=EventId.parse(ids[20]))
    store.before_tail(run_id, 50)
    store.locate_sequence(run_id, 31)
    assert lines_of(store, run_id) == list(range(1, 61))
    assert storage.asked == []


def test_a_run_that_is_nowhere_is_looked_up_once_in_a_while(store, storage, run_id, monkeypatch):
    for _ in range(5):
        assert store.state(run_id) == NO_LOG
        assert store.get_events(run_id) == []
        assert store.run(run_id) is None
        assert store.locate(run_id, EventId(5, 0))[0][0].notice == "reset"
    assert len(storage.asked) == 1
    let_pass(monkeypatch, archived_log.KNOWN_SECONDS)
    assert store.state(run_id) == NO_LOG
    assert len(storage.asked) == 2


def test_what_was_not_archived_is_looked_up_again_once_the_log_has_gone(
    store, client, archive, run_id
):
    append(store, run_id, 5)
    client.xtrim(key(run_id), maxlen=4, approximate=False)
    assert sequences(store.get_events(run_id)) == [3, 4, 5, 6]  # looked up, and not there
    archive_log(archive, store, run_id)
    client.xtrim(key(run_id), maxlen=2, approximate=False)
    assert sequences(store.get_events(run_id)) == [3, 4, 5, 6]
    client.delete(key(run_id))
    assert sequences(store.get_events(run_id)) == [3, 4, 5, 6]


def test_deleting_a_run_deletes_it_from_the_archive(store, ids, run_id, archive):
    assert store.delete(run_id)
    assert archive.find(run_id) is None
    assert store.state(run_id) == NO_LOG
    assert store.get_events(run_id) == []
    assert not store.delete(run_id)


def test_nothing_is_deleted_while_the_storage_is_away(store, storage, ids, run_id):
    storage.is_away = True
    with pytest.raises(ArchiveUnavailable):
        store.delete(run_id)
    storage.is_away = False
    assert sequences(store.get_events(run_id)) == list(range(1, 11))


def test_nothing_is_deleted_if_the_key_is_no_log(store, expired, client, archive, run_id):
    client.set(key(run_id), "a string")
    for call in (store.state, store.delete):
        with pytest.raises(NotALog):
            call(run_id)
    assert archive.find(run_id) is not None


def test_a_log_that_is_nowhere_else_cannot_be_read_while_the_storage_is_away(
    store, storage, expired, run_id
):
    storage.is_away = True
    for read in (store.state, store.run, store.get_events, store.page):
        with pytest.raises(ArchiveUnavailable):
            read(run_id)
    [located] = store.locate_each([(run_id, None)])
    assert isinstance(located, ArchiveUnavailable)
    storage.is_away = False
    assert sequences(store.get_events(run_id)) == list(range(1, 11))


def test_what_redis_has_is_read_while_the_storage_is_away(store, storage, client, archive, run_id):
    ids = [EventId.parse(each) for each in append(store, run_id, 9)]
    archive_log(archive, store, run_id, part_size=3)
    client.xtrim(key(run_id), maxlen=4, approximate=False)
    storage.is_away = True
    assert store.state(run_id).last_id == ids[-1]
    assert store.run(run_id).state == "ended"
    assert sequences(store.get_events_after(run_id, str(ids[7]))) == [9, 10]
    assert sequences(store.page(run_id, from_sequence=8).events) == [8, 9, 10]
    assert sequences(store.page(run_id, descending=True, limit=3).events) == [10, 9, 8]
    assert store.locate(run_id, ids[8])[0][0].notice is None
    assert Start(latest=True).find(store, run_id).nothing_follows
    assert store.before_tail(run_id, 3)[0].sequence == 7
    # But nothing is said of what it may have
    for read in (
        lambda: store.get_events(run_id),
        lambda: store.get_events(run_id, descending=True),
        lambda: store.get_events_after(run_id, str(ids[3])),
        lambda: store.locate(run_id, ids[3]),
        lambda: store.locate_sequence(run_id, 3),
        lambda: store.before_tail(run_id, 7),
        lambda: Start().find(store, run_id),
    ):
        with pytest.raises(ArchiveUnavailable):
            read()


def test_a_damaged_part_is_missing_and_the_rest_is_read(store, storage, ids, run_id, caplog):
    damaged = sorted(name for name in storage.objects if name.endswith(".gz"))[1]
    storage.objects[damaged] = storage.objects[damaged][:-1]
    left = [each for each in range(1, 11) if each not in (4, 5, 6)]
    if store.states([run_id])[0].length in (10, 7):
        left = list(range(1, 11))  # Redis has them
    assert sequences(store.get_events(run_id)) == left
    assert sequences(store.get_events(run_id, descending=True)) == left[::-1]
    assert lines_of(store, run_id) == left
    if 4 in left:
        return
    assert [record.name for record in caplog.records] == ["tailrace.archive"]
    assert damaged in caplog.text
    way, state = store.locate_sequence(run_id, 5)
    assert [(each.notice, each.end.sequence) for each in way] == [("gap", 6)]
    assert state.lost_upto == ids[5]
    [stretch], _ = store.locate(run_id, ids[4])
    assert (stretch.notice, stretch.end.sequence) == (None, None)


def test_a_repaired_part_is_read_again(store, storage, expired, run_id, monkeypatch):
    name = next(name for name in storage.objects if name.endswith(".gz"))
    whole, storage.objects[name] = storage.objects[name], b""
    assert len(store.get_events(run_id)) == 7
    storage.objects[name] = whole
    assert len(store.get_events(run_id)) == 7
    let_pass(monkeypatch, archived_log.DAMAGED_SECONDS)
    assert len(store.get_events(run_id)) == 10


def test_a_damaged_manifest_is_named(store, storage, expired, run_id, client, caplog):
    [name] = [name for name in storage.objects if name.endswith("manifest.json")]
    storage.objects[name] = b"{"
    with pytest.raises(ArchiveUnavailable, match=name):
        store.state(run_id)


def test_a_log_that_redis_has_in_part_is_read_though_the_manifest_is_damaged(
    store, storage, archive, client, run_id, caplog
):
    append(store, run_id, 4)
    archive_log(archive, store, run_id)
    [name] = [name for name in storage.objects if name.endswith("manifest.json")]
    storage.objects[name] = b"{"
    client.xtrim(key(run_id), maxlen=2, approximate=False)
    assert sequences(store.get_events(run_id)) == [4, 5]
    assert name in caplog.text


def test_a_log_that_was_deleted_by_another_process_is_read_anew(
    store, client, archive, expired, run_id
):
    assert store.state(run_id).is_archived
    Archive(archive.storage).delete(run_id)
    with pytest.raises(ArchiveUnavailable):  # the parts are gone, so what is known is old
        store.get_events(run_id)
    assert store.get_events(run_id) == []


def test_many_callers_look_a_run_up_once(redis_server, storage, archive, run_id):
    store = EventStore(redis_server.url, archive=archive)
    append(store, run_id, 9)
    archive_log(archive, store, run_id)
    redis_server.client().delete(key(run_id))
    storage.asked.clear()
    storage.open.clear()
    with ThreadPoolExecutor(8) as threads:
        states = [threads.submit(store.state, run_id) for _ in range(8)]
        storage.open.set()
        assert {state.result().last_sequence for state in states} == {10}
    assert len([name for name in storage.asked if name.endswith("manifest.json")]) == 1


class Killed(BaseException):
    """As what ends a greenlet."""


@pytest.mark.parametrize("error", [Killed, MemoryError])
def test_a_look_up_that_is_broken_off_is_not_taken_for_a_run_that_is_nowhere(error):
    flights, began, go_on = archived_log._Flights(), threading.Event(), threading.Event()

    def break_off():
        began.set()
        go_on.wait(10)
        raise error

    def lead():
        with pytest.raises(error):
            flights.join("run", break_off)

    leader = threading.Thread(target=lead)
    leader.start()
    began.wait(10)
    with ThreadPoolExecutor(3) as threads:
        followers = [threads.submit(flights.join, "run", lambda: "manifest") for _ in range(3)]
        flight = flights._flights["run"]
        wait_until(lambda: len(flight.over._cond._waiters) == 3, "all wait")
        go_on.set()
        assert {each.result(10) for each in followers} == {"manifest"}
    leader.join(10)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.integers(1, 90),
    trimmed_before=st.integers(0, 20),
    part_size=st.integers(1, 40),
    left=st.one_of(st.none(), st.integers(0, 90)),
    start=st.integers(0, 90),
    limit=st.integers(1, 50),
    descending=st.booleans(),
    trimmed_between=st.lists(st.one_of(st.none(), st.integers(0, 60)), max_size=4),
)
def test_reading_gives_the_whole_log_wherever_redis_begins(
    events, trimmed_before, part_size, left, start, limit, descending, trimmed_between
):
    """Though it is trimmed further, or goes, between two pages."""
    run_id = f"property-{next(_runs)}"
    client = fakeredis.FakeRedis(protocol=2)
    client.exists("any key")
    archive = Archive(MemoryStorage())
    store = EventStore(client=client, archive=archive)
    ids = append(store, run_id, events)
    total = events + 1
    first = min(trimmed_before, events) + 1
    leave(client, run_id, total - first + 1)
    archive_log(archive, store, run_id, part_size)
    leave(client, run_id, left)
    after = EventId.parse(ids[start]) if first - 1 <= start < total - 1 else None
    expected = list(range(start + 2 if after else first, total + 1))
    bound = "before" if descending else "after"
    selection = {"after": after, "descending": descending, "limit": limit}
    seen = []
    while True:
        page = store.page(run_id, **selection)
        seen += sequences(page.events)
        assert page.ended
        if page.next is None:
            break
        selection[bound] = page.next
        if trimmed_between:
            leave(client, run_id, trimmed_between.pop())
    assert seen == (expected[::-1] if descending else expected)


def test_clients_are_located_in_many_archived_logs_at_once(redis_server, storage, archive, run_id):
    store = EventStore(redis_server.url, archive=archive)
    runs = [f"{run_id}-{number}" for number in range(50)]
    last = {}
    for each in runs:
        last[each] = append(store, each, 1)[-1]
        archive_log(archive, store, each)
    with redis_server.client() as client:
        for each in runs[::2]:
            client.delete(key(each))
        client.set(key(runs[0]), "a string")
    cursors = [(each, EventId.parse(last[each])) for each in runs]
    no_log, *located = store.locate_each(cursors)
    assert isinstance(no_log, NotALog)
    assert runs[0] in str(no_log)
    for (way, state), each in zip(located, runs[1:], strict=True):
        assert (way[-1].end.sequence, way[-1].notice) == (2, None)
        assert str(state.last_id) == last[each]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.integers(1, 300),
    part_size=st.integers(1, 70),
    left=st.one_of(st.none(), st.integers(0, 300)),
    descending=st.booleans(),
    trims=st.lists(st.one_of(st.none(), st.integers(0, 300)), max_size=6),
)
def test_lines_have_the_whole_log_though_it_is_trimmed_or_goes_meanwhile(
    events, part_size, left, descending, trims
):
    run_id = f"property-{next(_runs)}"
    client = fakeredis.FakeRedis(protocol=2)
    client.exists("any key")
    archive = Archive(MemoryStorage())
    store = EventStore(client=client, archive=archive)
    append(store, run_id, events)
    archive_log(archive, store, run_id, part_size)
    leave(client, run_id, left)
    seen = []
    for page in store.scan_pages(run_id, descending=descending):
        seen += [int(dict_of(entry)[b"sequence"]) for entry in page]
        if trims:
            leave(client, run_id, trims.pop())
    expected = list(range(1, events + 2))
    assert seen == (expected[::-1] if descending else expected)


def dict_of(entry) -> dict[bytes, bytes]:
    _, fields = entry
    return dict(zip(fields[::2], fields[1::2], strict=True))
