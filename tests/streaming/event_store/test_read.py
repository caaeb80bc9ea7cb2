"""The event store reads: entries of other programs, pages, states, history."""

import json
import threading

import pytest

from app.streaming.event import pairs
from app.streaming.event_id import LAST, ZERO, EventId
from app.streaming.log import reader as log_reader
from app.streaming.log.log_state import NO_LOG
from app.streaming.log.position import START, Position
from app.streaming.redis import connection, shared_connection
from tests.servers import wait_until
from tests.streaming.event_store.logs import DAY, MAX_TEST_SECONDS, add_many, data_of, key


def test_entries_of_other_programs_can_be_read(any_store, client, run_id):
    for fields in (
        {"anything": "at all"},
        {"event_category": b"\xff\xfe", "event_action": "x y", "data": "{bro"},
        {"sequence": "many", "data": b'"\xff"', "source": b'{\n"a":\r\n1}'},
        {b"\xff": b"\xff", "data": "[" * 2000},
    ):
        client.xadd(key(run_id), fields)
    first, second, third, fourth = any_store.get_events(run_id)
    assert (first.data, first.source, first.sequence, first.timestamp) == (None,) * 4
    assert first.event == {"category": None, "action": None}
    assert second.event == {"category": "\ufffd\ufffd", "action": "x y"}
    assert second.data == "{bro"
    assert (third.sequence, third.data, third.source) == (None, '"\ufffd"', {"a": 1})
    assert b"\n" not in third.to_json()
    assert fourth.data == "[" * 2000
    assert any_store.state(run_id).length == 4
    assert any_store.subscribe(run_id, "0-0", block_ms=None) == [first, second, third, fourth]


def test_sequences_count_the_entries_of_other_programs(any_store, client, run_id):
    client.xadd(key(run_id), {"sequence": "99"})
    assert any_store.append(run_id, "llm", "stream").event.sequence == 2


# Pages, states and history


def test_an_unknown_run_has_no_events_and_no_log(any_store, run_id):
    assert any_store.get_events(run_id) == []
    assert any_store.get_events_after(run_id, "0-0") == []
    assert any_store.page(run_id).events == []
    assert any_store.subscribe(run_id, block_ms=None) == []
    assert not any_store.state(run_id).exists
    assert not any_store.delete(run_id)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300])
def test_all_events_are_read_across_pages(any_store, run_id, count):
    add_many(any_store, run_id, count)
    assert data_of(any_store.get_events(run_id)) == list(range(count))
    assert data_of(any_store.get_events(run_id, descending=True)) == list(range(count))[::-1]


def test_large_events_are_read_a_few_at_a_time(any_store, run_id, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_READ_BYTES", 1000)
    monkeypatch.setattr(log_reader, "INITIAL_COUNT", 2)
    for number in range(7):
        any_store.add(run_id, "llm", "stream", f"{number}{'x' * 600}")
    assert [data[0] for data in data_of(any_store.get_events(run_id))] == list("0123456")


@pytest.mark.parametrize("limit", [0, 1, 64, 65, 99, 100, 101])
def test_a_limit_bounds_what_is_read(any_store, run_id, limit):
    ids = add_many(any_store, run_id, 100)
    expected = list(range(100))
    assert data_of(any_store.get_events(run_id, limit=limit)) == expected[:limit]
    later = any_store.get_events_after(run_id, ids[0], limit=limit)
    assert data_of(later) == expected[1 : limit + 1]


def test_the_events_after_an_id_exclude_it_whether_or_not_it_exists(any_store, run_id):
    ids = add_many(any_store, run_id, 3)
    for cursor, expected in [
        ("0-0", [0, 1, 2]),
        (ids[0], [1, 2]),
        (str(EventId.parse(ids[1]).before()), [1, 2]),
        (ids[2], []),
        ("99999999999999-0", []),
    ]:
        assert data_of(any_store.get_events_after(run_id, cursor)) == expected


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8])
def test_pages_cover_the_whole_log_in_either_order(any_store, run_id, descending, limit):
    add_many(any_store, run_id, 7)
    seen, position = [], None
    while True:
        bounds = {"before" if descending else "after": position}
        page = any_store.page(run_id, limit=limit, descending=descending, **bounds)
        assert len(page.events) <= limit
        seen += data_of(page.events)
        position = page.next
        if position is None:
            break
        assert str(position) == page.events[-1].id
    assert seen == (list(range(7))[::-1] if descending else list(range(7)))


@pytest.mark.parametrize("descending", [False, True])
def test_a_page_lies_strictly_between_two_ids(any_store, run_id, descending):
    ids = [EventId.parse(event_id) for event_id in add_many(any_store, run_id, 6)]
    page = any_store.page(run_id, after=ids[1], before=ids[4], descending=descending)
    assert data_of(page.events) == ([3, 2] if descending else [2, 3])
    assert page.next is None


@pytest.mark.parametrize(
    ("categories", "actions", "expected"),
    [
        ((), (), [0, 1, 2, 3]),
        (("llm",), (), [0, 1]),
        (("llm", "tool"), (), [0, 1, 2]),
        ((), ("a",), [0, 2]),
        (("llm",), ("a",), [0]),
        (("none",), (), []),
    ],
)
def test_a_page_is_filtered_by_category_and_action(
    any_store, run_id, categories, actions, expected
):
    names = [("llm", "a"), ("llm", "b"), ("tool", "a"), ("step", "c")]
    for number, (category, action) in enumerate(names):
        any_store.add(run_id, category, action, number)
    assert (
        data_of(any_store.page(run_id, categories=categories, actions=actions).events) == expected
    )


def test_an_empty_page_says_where_to_continue(any_store, run_id, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_SCANNED_ENTRIES", 3)
    ids = add_many(any_store, run_id, 4)
    any_store.add(run_id, "tool", "call", "found")
    page = any_store.page(run_id, categories=["tool"])
    assert (page.events, str(page.next)) == ([], ids[2])
    page = any_store.page(run_id, categories=["tool"], after=page.next)
    assert (data_of(page.events), page.next) == (["found"], None)


def test_the_bytes_of_a_page_are_bounded(any_store, run_id, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_PAGE_BYTES", 2500)
    for _ in range(5):
        any_store.add(run_id, "llm", "stream", "x" * 1000)
    page = any_store.page(run_id)
    assert len(page.events) == 3
    assert len(any_store.page(run_id, after=page.next).events) == 2


def test_the_state_of_a_log(any_store, run_id):
    ids = add_many(any_store, run_id, 3)
    state = any_store.state(run_id)
    assert (state.length, state.last_sequence, state.first_sequence) == (3, 3, 1)
    assert (str(state.first_id), str(state.last_id)) == (ids[0], ids[-1])
    assert state.exists
    assert not state.ended


def test_the_state_of_a_log_takes_one_round_trip(store, run_id, monkeypatch):
    sizes = []

    test_thread = threading.get_ident()

    def exchange_packed(link, packed, replies):
        if threading.get_ident() == test_thread:  # the clocks of other tests' stores ping
            sizes.append(replies)
        return unwatched(link, packed, replies)

    store.add(run_id, "llm", "stream")
    unwatched = connection.exchange_packed
    monkeypatch.setattr(connection, "exchange_packed", exchange_packed)
    monkeypatch.setattr(shared_connection, "exchange_packed", exchange_packed)
    assert store.state(run_id, ttl=True).ttl > 7 * DAY - MAX_TEST_SECONDS
    assert sizes == [2]


def test_the_states_of_several_logs(any_store, client, run_id):
    add_many(any_store, run_id, 2)
    client.set(key(f"{run_id}-text"), "a string")
    found, text, none = any_store.states([run_id, f"{run_id}-text", f"{run_id}-none"])
    assert found.length == 2
    assert text is None
    assert not none.exists


def test_entries_are_bounded_by_ids_and_count(any_store, run_id):
    ids = [EventId.parse(event_id) for event_id in add_many(any_store, run_id, 6)]
    entries = any_store.entries(run_id, ids[0], ids[3], 100)
    assert [EventId.from_redis(entry_id) for entry_id, _ in entries] == ids[1:4]
    assert json.loads(pairs(entries[0][1])[b"data"]) == 1
    assert len(any_store.entries(run_id, ids[0], ids[3], 2)) == 2
    assert any_store.entries(run_id, LAST, LAST, 2) == []


def test_a_read_has_the_state_of_the_log_at_that_moment(any_store, client, run_id):
    ids = [EventId.parse(event_id) for event_id in add_many(any_store, run_id, 6)]
    client.xtrim(key(run_id), maxlen=2, approximate=False)
    entries, state = any_store.read(run_id, ids[0], 100)
    assert [EventId.from_redis(entry_id) for entry_id, _ in entries] == ids[4:]
    assert state == any_store.state(run_id)
    assert (state.first_id, state.first_sequence, state.last_sequence) == (ids[4], 5, 6)
    [entry], _ = any_store.read(run_id, ids[4], 1)
    assert EventId.from_redis(entry[0]) == ids[4]
    assert any_store.read(run_id, LAST, 5)[0] == []
    assert any_store.read(f"{run_id}-none", ZERO, 5) == ([], NO_LOG)


@pytest.mark.parametrize(("count", "after"), [(1, 3), (3, 1), (4, 0), (5, None), (9, None)])
def test_the_position_before_the_last_entries(any_store, run_id, count, after):
    ids = [EventId.parse(event_id) for event_id in add_many(any_store, run_id, 5)]
    position, state = any_store.before_tail(run_id, count)
    assert state == any_store.state(run_id)
    if after is None:
        assert position == state.beginning
    else:
        assert position == Position(state.epoch, ids[after], after + 1)


def test_entries_that_come_while_the_last_ones_are_counted_do_not_count(
    any_store, run_id, monkeypatch
):
    ids = [EventId.parse(event_id) for event_id in add_many(any_store, run_id, 3)]
    states = iter([any_store.state(run_id)])
    add_many(any_store, run_id, 2)
    read_state = any_store.state
    monkeypatch.setattr(any_store, "state", lambda run: next(states, None) or read_state(run))
    position, state = any_store.before_tail(run_id, 1)
    assert (position.id, state.last_sequence) == (ids[1], 5)


@pytest.mark.parametrize("change", ["replaced", "entry deleted"])
def test_a_log_that_changes_while_its_last_entries_are_counted_is_counted_anew(
    any_store, client, run_id, monkeypatch, change
):
    ids = add_many(any_store, run_id, 5)
    states = iter([any_store.state(run_id)])
    if change == "replaced":
        any_store.delete(run_id)
        add_many(any_store, run_id, 3)
    else:
        client.xdel(key(run_id), ids[3])
    read_state = any_store.state
    monkeypatch.setattr(any_store, "state", lambda run: next(states, None) or read_state(run))
    counted = []
    scan = any_store._scan_entries
    monkeypatch.setattr(
        any_store, "_scan_entries", lambda *args, **kw: counted.append(1) or scan(*args, **kw)
    )
    any_store.before_tail(run_id, 1)
    assert len(counted) == 2


def test_a_tail_reaches_no_further_back_than_what_is_retained(any_store, client, run_id):
    add_many(any_store, run_id, 5)
    client.xtrim(key(run_id), maxlen=1, approximate=False)
    for count in (1, 2):
        position, state = any_store.before_tail(run_id, count)
        assert position == state.beginning
    assert state.beginning.sequence == 4


def test_the_position_before_entries_of_other_programs_is_uncounted(any_store, client, run_id):
    ids = [EventId.from_redis(client.xadd(key(run_id), {"any": "thing"})) for _ in range(4)]
    position, state = any_store.before_tail(run_id, 2)
    assert position == Position(state.epoch, ids[1], None)
    position, state = any_store.before_tail(run_id, 9)
    assert position == state.beginning


def test_a_read_ends_a_run_whose_lease_has_expired(store, run_id):
    store.add(run_id, "llm", "stream", lease_seconds=1)

    def lost() -> bool:
        entries, state = store.read(run_id, ZERO, 5)
        return state.ended and len(entries) == 2

    wait_until(lost, "the run is lost")


def test_a_client_is_located_by_the_sequence_of_its_event(any_store, client, run_id):
    ids = [EventId.parse(event_id) for event_id in add_many(any_store, run_id, 4)]
    [stretch], state = any_store.locate(run_id, ids[1])
    assert (stretch.notice, stretch.end) == (None, Position(state.epoch, ids[1], 2))
    client.xtrim(key(run_id), maxlen=1, approximate=False)
    [stretch], state = any_store.locate(run_id, ids[1])
    assert (stretch.notice, stretch.end) == ("gap", state.beginning)


def located(store, run_id: str, sequence: int) -> tuple[str | None, Position]:
    [stretch], _ = store.locate_sequence(run_id, sequence)
    return stretch.notice, stretch.end


def test_a_client_is_located_by_a_sequence(any_store, client, run_id):
    ids = [EventId.parse(event_id) for event_id in add_many(any_store, run_id, 5)]
    epoch = any_store.state(run_id).epoch
    for sequence in range(1, 6):
        place = Position(epoch, ids[sequence - 1].before(), sequence - 1)
        assert located(any_store, run_id, sequence) == (None, place)
    end = Position(epoch, ids[4], 5)
    assert located(any_store, run_id, 6) == located(any_store, run_id, 60) == (None, end)
    client.xdel(key(run_id), str(ids[2]), str(ids[4]))
    assert located(any_store, run_id, 3) == ("gap", Position(epoch, ids[3].before(), 3))
    assert located(any_store, run_id, 5) == ("gap", end)
    client.xtrim(key(run_id), maxlen=1, approximate=False)
    assert located(any_store, run_id, 1) == ("gap", Position(epoch, ids[3].before(), 3))


def test_without_a_log_every_sequence_is_awaited(any_store, run_id):
    assert located(any_store, run_id, 1) == located(any_store, run_id, 9) == (None, START)


def test_among_entries_of_other_programs_a_sequence_is_counted(any_store, client, run_id):
    ids = [EventId.from_redis(client.xadd(key(run_id), {"any": "thing"})) for _ in range(6)]
    for sequence in range(2, 7):
        notice, place = located(any_store, run_id, sequence)
        assert (notice, place.id) == (None, ids[sequence - 2])
    notice, place = located(any_store, run_id, 1)
    assert (notice, place) == (None, any_store.state(run_id).beginning)


@pytest.mark.parametrize("change", ["replaced", "entry deleted", "trimmed"])
def test_a_log_that_changes_while_a_sequence_is_looked_for(
    any_store, client, run_id, monkeypatch, change
):
    ids = add_many(any_store, run_id, 5)
    states = iter([any_store.state(run_id)])
    if change == "replaced":
        any_store.delete(run_id)
        ids = add_many(any_store, run_id, 5)
    elif change == "entry deleted":
        client.xdel(key(run_id), ids[2])
    else:
        client.xtrim(key(run_id), maxlen=2, approximate=False)
    read_state = any_store.state
    monkeypatch.setattr(any_store, "state", lambda run: next(states, None) or read_state(run))
    notice, place = located(any_store, run_id, 3)
    at = 2 if change == "replaced" else 3
    expected = Position(read_state(run_id).epoch, EventId.parse(ids[at]).before(), at)
    assert (notice, place) == ("gap" if at == 3 else None, expected)


def test_a_page_begins_with_a_sequence(any_store, run_id):
    ids = add_many(any_store, run_id, 5)

    def page(sequence: int, **options) -> list[str]:
        return [e.id for e in any_store.page(run_id, from_sequence=sequence, **options).events]

    assert page(1) == ids
    assert page(4) == ids[3:]
    assert page(4, descending=True) == ids[:2:-1]
    assert page(2, after=EventId.parse(ids[2])) == ids[3:]
    assert page(4, after=EventId.parse(ids[0])) == ids[3:]
    assert page(2, before=EventId.parse(ids[2])) == ids[1:2]
    assert page(6) == page(600) == []
    assert any_store.page(run_id, from_sequence=2, limit=1).next == EventId.parse(ids[1])
