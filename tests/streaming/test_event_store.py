"""The event store, on fakeredis and on a real server: append, read, subscribe, expire."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from app.streaming import event_store
from app.streaming.errors import (
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    NotALog,
    RunEnded,
    StoreUnavailable,
)
from app.streaming.event import pairs
from app.streaming.event_id import ZERO, EventId
from app.streaming.event_store import EventStore
from app.streaming.log import connection, redis_url, shared_connection
from app.streaming.log import reader as log_reader
from tests.servers import ROOT, free_port, wait_until

HOUR = 3600
DAY = 24 * HOUR
SOON = 60  # what a test may take, in seconds of TTL


def key(run_id: str) -> str:
    return f"run:{run_id}:events"


def add_many(store: EventStore, run_id: str, count: int) -> list[str]:
    return [store.add(run_id, "llm", "stream", number) for number in range(count)]


def data_of(events: list) -> list:
    return [event.data for event in events]


class InBackground:
    """A call in a thread of its own, and what it gave or raised."""

    def __init__(self, call: Callable[[], object]):
        self.result: object = None
        self.error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> object:
        self._thread.join(20)
        assert not self._thread.is_alive(), "the call is still under way"
        if self.error:
            raise self.error
        return self.result

    def _run(self) -> None:
        try:
            self.result = self._call()
        except Exception as error:
            self.error = error


# Appending


def test_an_event_reads_as_it_was_appended(any_store, run_id):
    event_id = any_store.add(run_id, "lifecycle", "started", {"task": "分析数据"}, {"by": 1})
    [event] = any_store.get_events(run_id)
    assert (event.id, event.run_id, event.sequence) == (event_id, run_id, 1)
    assert event.event == {"category": "lifecycle", "action": "started"}
    assert (event.data, event.source) == ({"task": "分析数据"}, {"by": 1})


def test_what_is_appended_is_given_back_as_it_is_stored(any_store, run_id):
    appended = any_store.append(run_id, "llm", "stream", [1, "a\n\u2028"], "me").event
    assert any_store.get_events(run_id) == [appended]


def test_the_log_has_the_fields_of_the_contract_as_text(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream", {"a": 1})
    any_store.add(run_id, "llm", "stream", None, ["b"])
    (_, first), (_, second) = client.xrange(key(run_id))
    assert first.pop(b"timestamp").endswith(b"Z")
    assert first == {
        b"sequence": b"1",
        b"event_category": b"llm",
        b"event_action": b"stream",
        b"data": b'{"a":1}',
    }
    assert (second[b"sequence"], second[b"data"], second[b"source"]) == (b"2", b"null", b'["b"]')


@pytest.mark.parametrize("given", [7, "7"])
def test_a_run_id_is_a_number_or_its_text(any_store, client, given):
    client.delete(key("7"))
    any_store.add(given, "llm", "stream")
    assert client.exists(key("7"))
    assert [event.run_id for event in any_store.get_events(7)] == ["7"]


def test_sequences_count_from_one_within_each_run(any_store, run_id):
    add_many(any_store, run_id, 3)
    any_store.add(f"{run_id}-other", "llm", "stream")
    any_store.add(run_id, "llm", "stream")
    assert [event.sequence for event in any_store.get_events(run_id)] == [1, 2, 3, 4]
    assert [event.sequence for event in any_store.get_events(f"{run_id}-other")] == [1]


def test_producers_at_once_get_sequences_without_gap_or_repeat(any_store, run_id):
    producers = [InBackground(lambda: add_many(any_store, run_id, 25)) for _ in range(8)]
    for producer in producers:
        producer.wait()
    assert [event.sequence for event in any_store.get_events(run_id)] == list(range(1, 201))


def test_no_sequence_is_given_again_when_entries_are_deleted_or_trimmed(
    store, redis_client, run_id
):
    ids = add_many(store, run_id, 3)
    redis_client.xdel(key(run_id), ids[-1])
    assert store.append(run_id, "llm", "stream").event.sequence == 4
    redis_client.xtrim(key(run_id), maxlen=0, approximate=False)
    assert store.append(run_id, "llm", "stream").event.sequence == 5


def test_a_log_that_was_deleted_begins_again_at_one(any_store, run_id):
    add_many(any_store, run_id, 3)
    assert any_store.delete(run_id)
    assert any_store.append(run_id, "llm", "stream").event.sequence == 1


def test_a_log_retains_about_maxlen_entries(any_store, client, run_id):
    store = EventStore(client=client, maxlen=100)
    add_many(store, run_id, 400)
    assert 100 <= client.xlen(key(run_id)) < 300
    assert store.get_events(run_id)[-1].sequence == 400


def test_the_append_is_trimmed_approximately_and_in_one_round_trip(
    store, redis_server, redis_client, run_id
):
    store.add(run_id, "llm", "stream")  # so that the server knows the script
    with redis_client.monitor() as monitor:
        store.add(run_id, "llm", "stream")
        redis_client.echo("the end")
        seen = []
        while not seen or "the end" not in seen[-1]["command"]:
            seen.append(monitor.next_command())
    ours = [told for told in seen if run_id in told["command"]]
    sent = [told["command"] for told in ours if told["client_type"] != "lua"]
    assert [command.split()[0] for command in sent] == ["EVALSHA"]
    assert any("XADD" in told["command"] and "MAXLEN ~ 10000" in told["command"] for told in ours)


# The TTL


def ttl(client: redis.Redis, run_id: str) -> int:
    return client.ttl(key(run_id))


def test_a_run_has_the_idle_ttl_from_its_first_event_on(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    assert 7 * DAY - SOON <= ttl(client, run_id) <= 7 * DAY


def test_the_idle_ttl_is_renewed_once_an_hour_of_it_is_used_up(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    client.expire(key(run_id), 7 * DAY - HOUR // 2)
    any_store.add(run_id, "llm", "stream")
    assert ttl(client, run_id) <= 7 * DAY - HOUR // 2
    client.expire(key(run_id), 7 * DAY - HOUR - 1)
    any_store.add(run_id, "llm", "stream")
    assert ttl(client, run_id) >= 7 * DAY - SOON


def test_a_short_idle_ttl_is_renewed_in_time(any_store, client, run_id):
    store = EventStore(client=client, idle_ttl_seconds=1000)
    store.add(run_id, "llm", "stream")
    client.expire(key(run_id), 500)
    store.add(run_id, "llm", "stream")
    assert ttl(client, run_id) >= 1000 - SOON


def test_the_idle_ttl_is_never_shortened(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    assert any_store.set_expire(run_id, 30 * DAY)
    any_store.add(run_id, "llm", "stream")
    assert ttl(client, run_id) >= 30 * DAY - SOON


def test_a_log_that_expired_gets_a_ttl_again(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    client.pexpire(key(run_id), 1)
    wait_until(lambda: not client.exists(key(run_id)), "the log has expired")
    any_store.add(run_id, "llm", "stream")
    assert ttl(client, run_id) >= 7 * DAY - SOON


@pytest.mark.parametrize("action", ["completed", "failed", "cancelled"])
def test_a_terminal_event_sets_the_ttl_of_an_ended_run(any_store, client, run_id, action):
    any_store.add(run_id, "llm", "stream")
    any_store.add(run_id, "lifecycle", action)
    assert DAY - SOON <= ttl(client, run_id) <= DAY
    assert any_store.state(run_id).ended


def test_a_log_that_only_others_write_keeps_its_ttl(any_store, client, run_id):
    client.xadd(key(run_id), {"event_category": "lifecycle", "event_action": "completed"})
    assert any_store.get_events(run_id)
    assert any_store.state(run_id, ttl=True).ttl is None
    assert ttl(client, run_id) == -1


def test_set_expire_keeps_a_log_for_so_long_and_says_whether_there_is_one(
    any_store, client, run_id
):
    assert not any_store.set_expire(run_id)
    any_store.add(run_id, "llm", "stream")
    assert any_store.set_expire(run_id, ttl_seconds=100)
    assert 100 - SOON <= ttl(client, run_id) <= 100
    assert any_store.set_expire(run_id)
    assert DAY - SOON <= ttl(client, run_id) <= DAY


# The end of a run


@pytest.mark.parametrize("action", ["completed", "failed", "cancelled"])
def test_after_the_end_an_append_is_refused_and_changes_nothing(any_store, client, run_id, action):
    last = any_store.add(run_id, "lifecycle", action)
    client.expire(key(run_id), 100)
    for category, refused in (("llm", "stream"), ("lifecycle", "completed"), ("tool", "started")):
        with pytest.raises(RunEnded, match=last):
            any_store.add(run_id, category, refused)
    assert len(any_store.get_events(run_id)) == 1
    assert ttl(client, run_id) <= 100


def test_a_started_event_reopens_a_run_and_puts_the_idle_ttl_back(any_store, client, run_id):
    any_store.add(run_id, "lifecycle", "completed")
    assert any_store.append(run_id, "lifecycle", "started").event.sequence == 2
    assert ttl(client, run_id) >= 7 * DAY - SOON
    assert any_store.append(run_id, "llm", "stream").event.sequence == 3
    any_store.add(run_id, "lifecycle", "failed")
    assert ttl(client, run_id) <= DAY
    with pytest.raises(RunEnded):
        any_store.add(run_id, "llm", "stream")


@pytest.mark.parametrize("action", ["completed", "lost"])
def test_a_terminal_entry_of_others_ends_the_run_too(any_store, client, run_id, action):
    client.xadd(key(run_id), {"event_category": "lifecycle", "event_action": action})
    with pytest.raises(RunEnded):
        any_store.add(run_id, "llm", "stream")


def test_a_run_is_ended_only_while_its_last_entry_is_terminal(any_store, client, run_id):
    any_store.add(run_id, "lifecycle", "completed")
    client.xadd(key(run_id), {"anything": "at all"})
    assert not any_store.state(run_id).ended
    assert any_store.append(run_id, "llm", "stream").event.sequence == 3


# Entries of others


def test_entries_of_others_read_without_a_crash(any_store, client, run_id):
    for fields in (
        {"anything": "at all"},
        {"event_category": b"\xff\xfe", "event_action": "x y", "data": "{bro"},
        {"sequence": "many", "data": b'"\xff"', "source": b'{\n"a":\r\n1}'},
        {b"\xff": b"\xff", "data": "[" * 2000},
    ):
        client.xadd(key(run_id), fields)
    first, second, third, fourth = any_store.get_events(run_id)
    assert (first.data, first.source, first.sequence, first.timestamp) == (None,) * 4
    assert first.event == {"category": "", "action": ""}
    assert second.event == {"category": "\ufffd\ufffd", "action": "x y"}
    assert second.data == "{bro"
    assert (third.sequence, third.data, third.source) == (None, '"\ufffd"', {"a": 1})
    assert b"\n" not in third.to_json()
    assert fourth.data == "[" * 2000
    assert any_store.state(run_id).length == 4
    assert any_store.subscribe(run_id, "0-0", block_ms=None) == [first, second, third, fourth]


def test_sequences_count_the_entries_of_others(any_store, client, run_id):
    client.xadd(key(run_id), {"sequence": "99"})
    assert any_store.append(run_id, "llm", "stream").event.sequence == 2


# Reading


def test_an_unknown_run_has_no_events_and_no_log(any_store, run_id):
    assert any_store.get_events(run_id) == []
    assert any_store.get_events_after(run_id, "0-0") == []
    assert any_store.page(run_id).events == []
    assert any_store.subscribe(run_id, block_ms=None) == []
    assert not any_store.state(run_id).exists
    assert not any_store.delete(run_id)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300])
def test_all_events_are_read_over_the_edges_of_the_pages(any_store, run_id, count):
    add_many(any_store, run_id, count)
    assert data_of(any_store.get_events(run_id)) == list(range(count))
    assert data_of(any_store.get_events(run_id, descending=True)) == list(range(count))[::-1]


def test_pages_of_large_events_are_read_few_at_a_time(any_store, run_id, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_READ_BYTES", 1000)
    monkeypatch.setattr(log_reader, "INITIAL_COUNT", 2)
    for number in range(7):
        any_store.add(run_id, "llm", "stream", f"{number}{'x' * 600}")
    assert [data[0] for data in data_of(any_store.get_events(run_id))] == list("0123456")


@pytest.mark.parametrize("limit", [0, 1, 64, 65, 99, 100, 101])
def test_a_limit_bounds_what_is_read(any_store, run_id, limit):
    ids = add_many(any_store, run_id, 100)
    wanted = list(range(100))
    assert data_of(any_store.get_events(run_id, limit=limit)) == wanted[:limit]
    assert data_of(any_store.get_events_after(run_id, ids[0], limit=limit)) == wanted[1 : limit + 1]


def test_the_events_after_an_id_exclude_it_and_the_id_need_not_exist(any_store, run_id):
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
def test_pages_walk_the_whole_log_in_either_order(any_store, run_id, descending, limit):
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


def test_a_filter_that_matches_little_still_says_where_to_go_on(any_store, run_id, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_SCANNED_ENTRIES", 3)
    ids = add_many(any_store, run_id, 4)
    any_store.add(run_id, "tool", "call", "found")
    page = any_store.page(run_id, categories=["tool"])
    assert (page.events, str(page.next)) == ([], ids[2])
    page = any_store.page(run_id, categories=["tool"], after=page.next)
    assert (data_of(page.events), page.next) == (["found"], None)


def test_a_page_holds_so_many_bytes_at_the_most(any_store, run_id, monkeypatch):
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

    def exchange_packed(link, packed, replies):
        sizes.append(replies)
        return unwatched(link, packed, replies)

    store.add(run_id, "llm", "stream")
    unwatched = connection.exchange_packed
    monkeypatch.setattr(connection, "exchange_packed", exchange_packed)
    monkeypatch.setattr(shared_connection, "exchange_packed", exchange_packed)
    assert store.state(run_id, ttl=True).ttl > 7 * DAY - SOON
    assert sizes == [2]


def test_the_states_of_several_logs_come_together(any_store, client, run_id):
    add_many(any_store, run_id, 2)
    client.set(key(f"{run_id}-text"), "a string")
    found, text, none = any_store.states([run_id, f"{run_id}-text", f"{run_id}-none"])
    assert found.length == 2
    assert text is None
    assert not none.exists


def test_history_is_bounded_and_tells_what_is_retained(any_store, client, run_id):
    ids = [EventId.parse(event_id) for event_id in add_many(any_store, run_id, 6)]
    entries, state = any_store.history(run_id, ids[0], ids[3], 100)
    assert [EventId.from_redis(entry_id) for entry_id, _ in entries] == ids[1:4]
    assert state.first_id == ids[0]
    assert json.loads(pairs(entries[0][1])[b"data"]) == 1
    assert len(any_store.history(run_id, ids[0], ids[3], 2)[0]) == 2
    client.xtrim(key(run_id), maxlen=2, approximate=False)
    entries, state = any_store.history(run_id, ids[0], ids[3], 100)
    assert (entries, state.first_id) == ([], ids[4])


@pytest.mark.parametrize(("count", "after"), [(0, 3), (1, 2), (3, 0), (4, None), (100, None)])
def test_the_cursor_before_so_many_last_entries(any_store, run_id, count, after):
    ids = [EventId.parse(event_id) for event_id in add_many(any_store, run_id, 5)]
    cursor = any_store.cursor_before_tail(run_id, ids[3], count)
    assert cursor == (ZERO if after is None else ids[after])


# Subscribing


def test_subscribe_after_an_id_gives_what_is_there_at_once(any_store, run_id):
    ids = add_many(any_store, run_id, 3)
    assert data_of(any_store.subscribe(run_id, ids[0], block_ms=60_000)) == [1, 2]
    assert data_of(any_store.subscribe(run_id, "0-0", block_ms=None)) == [0, 1, 2]


@pytest.mark.parametrize("block_ms", [1, 50, None])
def test_subscribe_gives_nothing_when_nothing_came(any_store, run_id, block_ms):
    [last] = add_many(any_store, run_id, 1)
    assert any_store.subscribe(run_id, block_ms=block_ms) == []
    assert any_store.subscribe(run_id, last, block_ms=block_ms) == []


def test_subscribe_after_an_id_of_another_log_goes_back_to_the_beginning(any_store, run_id):
    first = any_store.add(run_id, "llm", "stream")
    assert [event.id for event in any_store.subscribe(run_id, "9999999999999-0", 10)] == [first]


def test_subscribe_begins_at_the_tail_and_loses_nothing_between_calls(any_store, run_id):
    add_many(any_store, run_id, 3)
    assert any_store.subscribe(run_id, block_ms=None) == []
    for number in range(3):
        any_store.add(run_id, "llm", "stream", f"between {number}")
    assert len(any_store.subscribe(run_id, block_ms=None)) == 3
    any_store.add(run_id, "llm", "stream", "later")
    assert data_of(any_store.subscribe(run_id, block_ms=None)) == ["later"]
    assert any_store.subscribe(run_id, block_ms=None) == []


def test_subscribe_to_a_run_that_does_not_exist_yet_gets_its_first_event(any_store, run_id):
    assert any_store.subscribe(run_id, block_ms=None) == []
    any_store.add(run_id, "lifecycle", "started", "first")
    assert data_of(any_store.subscribe(run_id, block_ms=None)) == ["first"]


def test_the_cursor_is_of_the_store_the_run_and_the_thread(any_store, client, run_id):
    other_run, other_store = f"{run_id}-other", EventStore(client=client)
    assert any_store.subscribe(run_id, block_ms=None) == []
    any_store.add(run_id, "llm", "stream", "a")
    any_store.add(other_run, "llm", "stream", "b")
    assert any_store.subscribe(other_run, block_ms=None) == []
    assert other_store.subscribe(run_id, block_ms=None) == []
    assert InBackground(lambda: any_store.subscribe(run_id, block_ms=None)).wait() == []
    assert data_of(any_store.subscribe(run_id, block_ms=None)) == ["a"]


def test_a_subscription_with_an_id_leaves_the_cursor_alone(any_store, run_id):
    assert any_store.subscribe(run_id, block_ms=None) == []
    any_store.add(run_id, "llm", "stream", "a")
    assert data_of(any_store.subscribe(run_id, "0-0", block_ms=None)) == ["a"]
    assert data_of(any_store.subscribe(run_id, block_ms=None)) == ["a"]


@pytest.mark.parametrize("block_ms", [0, 20_000])
def test_a_blocked_subscribe_gets_what_comes(store, redis_client, run_id, block_ms):
    [last] = add_many(store, run_id, 1)
    waiting = InBackground(lambda: store.subscribe(run_id, last, block_ms=block_ms))
    wait_until(lambda: _is_blocked(redis_client), "subscribe is blocked in Redis")
    store.add(run_id, "llm", "stream", "came")
    assert data_of(waiting.wait()) == ["came"]


def _is_blocked(client: redis.Redis) -> bool:
    return client.info("clients")["blocked_clients"] > 0


@pytest.mark.parametrize("socket_timeout", [0.1, 1.0])
def test_a_block_may_be_longer_than_the_time_out_of_an_injected_client(
    redis_server, run_id, socket_timeout
):
    with redis.Redis(port=redis_server.port, socket_timeout=socket_timeout) as client:
        store = EventStore(client=client)
        [last] = add_many(store, run_id, 1)
        assert store.subscribe(run_id, last, block_ms=int(2500 * socket_timeout)) == []
        waiting = InBackground(lambda: store.subscribe(run_id, last, block_ms=0))
        wait_until(lambda: _is_blocked(client), "subscribe is blocked in Redis")
        store.add(run_id, "llm", "stream", "came")
        assert data_of(waiting.wait()) == ["came"]


def test_a_block_longer_than_one_slice_goes_on_in_the_next(store, run_id, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_BLOCK_SECONDS", 0.05)
    waiting = InBackground(lambda: store.subscribe(run_id, "0-0", block_ms=20_000))
    assert store.subscribe(run_id, block_ms=300) == []
    store.add(run_id, "llm", "stream", "came")
    assert data_of(waiting.wait()) == ["came"]


def test_the_cursor_goes_back_to_the_beginning_of_a_log_begun_anew(any_store, client, run_id):
    add_many(any_store, run_id, 3)
    assert any_store.subscribe(run_id, block_ms=None) == []
    any_store.delete(run_id)
    client.xadd(key(run_id), {"data": '"anew"'}, id="5-0")
    assert data_of(any_store.subscribe(run_id, block_ms=100)) == ["anew"]
    client.xadd(key(run_id), {"data": '"next"'}, id="6-0")
    assert data_of(any_store.subscribe(run_id, block_ms=None)) == ["next"]


def test_a_log_begun_anew_while_a_subscription_blocks_is_noticed(
    store, redis_client, run_id, monkeypatch
):
    monkeypatch.setattr(log_reader, "MAX_BLOCK_SECONDS", 0.05)
    add_many(store, run_id, 1)

    def follow() -> list:
        assert store.subscribe(run_id, block_ms=None) == []
        begun.set()
        return store.subscribe(run_id, block_ms=20_000)

    begun = threading.Event()
    waiting = InBackground(follow)
    assert begun.wait(20)
    store.delete(run_id)
    redis_client.xadd(key(run_id), {"data": '"anew"'}, id="5-0")
    assert data_of(waiting.wait()) == ["anew"]


@pytest.mark.parametrize(
    "options",
    [{"decode_responses": True}, {"protocol": 3}, {"protocol": 3, "decode_responses": True}],
    ids=str,
)
def test_an_injected_client_may_decode_and_speak_resp3(redis_server, run_id, options):
    with redis.Redis(port=redis_server.port, **options) as client:
        store = EventStore(client=client)
        assert store.subscribe(run_id, block_ms=None) == []
        store.add(run_id, "llm", "stream", {"a": "分"}, "me")
        client.xadd(key(run_id), {"event_category": b"\xff", "data": b"\xfe"})
        first, second = store.subscribe(run_id, block_ms=1000)
        assert (first.data, first.source) == ({"a": "分"}, "me")
        assert (second.category, second.data) == ("\ufffd", "\ufffd")
        assert store.subscribe(run_id, block_ms=10) == []
        assert store.get_events(run_id) == store.page(run_id).events == [first, second]
        assert store.state(run_id).last_sequence == 2
        assert store.set_expire(run_id, 100)
        assert store.check_server()
        store.add(run_id, "lifecycle", "completed")
        with pytest.raises(RunEnded):
            store.add(run_id, "llm", "stream")
        assert store.delete(run_id)


UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from app.streaming.event_store import EventStore

url, run_id = sys.argv[1:]
store, seen, ticks = EventStore(url), {}, []

def follow(name):
    seen[name] = []
    store.subscribe(run_id, block_ms=None)
    while len(seen[name]) < 50:
        seen[name] += [event.data for event in store.subscribe(run_id, block_ms=0)]

def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.001)

followers = [gevent.spawn(follow, name) for name in range(20)]
ticking = gevent.spawn(tick)
while len(seen) < 20 or len(ticks) < 100:
    gevent.sleep(0.01)
producers = [
    gevent.spawn(lambda first: [store.add(run_id, "llm", "stream", first + n) for n in range(10)],
                 first)
    for first in range(0, 50, 10)
]
gevent.joinall(followers + producers, timeout=30, raise_error=True)
assert all(sorted(got) == list(range(50)) for got in seen.values()), seen
assert len(set(map(tuple, seen.values()))) == 1, "every follower sees one order"
print("all seen")
"""


def test_greenlets_follow_and_append_under_gevent(redis_server, run_id):
    """Twenty greenlets block in subscribe while others append, and none stops the rest."""
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT, redis_server.url, run_id],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.stdout, done.returncode) == ("all seen\n", 0), done.stderr


# What is refused


@pytest.mark.parametrize(
    ("category", "action", "data", "source", "field"),
    [
        ("", "a", None, None, "event_category"),
        ("a.b", "a", None, None, "event_category"),
        ("gateway", "a", None, None, "event_category"),
        ("a", "x" * 65, None, None, "event_action"),
        ("lifecycle", "lost", None, None, "event_action"),
        ("a", "a", float("nan"), None, "data"),
        ("a", "a", None, {"x": [float("inf")]}, "source"),
        ("a", "a", 2**64, None, "data"),
        ("a", "a", None, -(2**63) - 1, "source"),
        ("a", "a", object(), None, "data"),
        ("a", "a", {1: 2}, None, "data"),
        ("a", "a", "\ud800", None, "data"),
    ],
)
def test_an_event_that_cannot_be_stored_is_refused_and_nothing_is_stored(
    any_store, run_id, category, action, data, source, field
):
    with pytest.raises(InvalidEvent) as refused:
        any_store.add(run_id, category, action, data, source)
    assert refused.value.field == field
    assert not any_store.state(run_id).exists


def test_the_depth_and_the_integers_have_their_edges(any_store, run_id):
    deepest = json.loads("[" * 128 + "]" * 128)
    for value in (deepest, 2**64 - 1, -(2**63)):
        any_store.add(run_id, "llm", "stream", value, value)
    with pytest.raises(InvalidEvent):
        any_store.add(run_id, "llm", "stream", [deepest])
    assert data_of(any_store.get_events(run_id)) == [deepest, 2**64 - 1, -(2**63)]


def test_the_size_has_its_edge_at_the_limit(any_store, client, run_id):
    store = EventStore(client=client, max_event_bytes=100)
    largest = "x" * (100 - len('""'))
    store.add(run_id, "llm", "stream", largest)
    for data, source, field in [(largest + "x", None, "data"), (None, largest, "source")]:
        with pytest.raises(EventTooLarge) as refused:
            store.add(run_id, "llm", "stream", data, source)
        assert refused.value.field == field
    assert store.state(run_id).length == 1


def test_the_size_counts_bytes_and_is_256_kib_unless_set(any_store, run_id):
    any_store.add(run_id, "llm", "stream", "x" * 262_000)
    with pytest.raises(EventTooLarge):
        any_store.add(run_id, "llm", "stream", "分" * 100_000)
    with pytest.raises(EventTooLarge):
        any_store.add(run_id, "llm", "stream", "x" * 262_144)


CALLS = {
    "add": lambda store, run_id: store.add(run_id, "llm", "stream"),
    "get_events": lambda store, run_id: store.get_events(run_id),
    "get_events_after": lambda store, run_id: store.get_events_after(run_id, "0-0"),
    "page": lambda store, run_id: store.page(run_id),
    "subscribe": lambda store, run_id: store.subscribe(run_id, block_ms=None),
    "subscribe after an id": lambda store, run_id: store.subscribe(run_id, "0-0", block_ms=10),
    "state": lambda store, run_id: store.state(run_id),
    "set_expire": lambda store, run_id: store.set_expire(run_id),
    "delete": lambda store, run_id: store.delete(run_id),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_refuses_a_run_id_of_another_form(any_store, call):
    with pytest.raises(InvalidInput) as refused:
        call(any_store, "a b")
    assert refused.value.field == "run_id"


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda store: store.get_events_after("r", "abc"), "last_id"),
        (lambda store: store.get_events_after("r", "$"), "last_id"),
        (lambda store: store.get_events_after("r", None), "last_id"),
        (lambda store: store.subscribe("r", "1-"), "last_id"),
        (lambda store: store.subscribe("r", f"{2**64}-0"), "last_id"),
        (lambda store: store.subscribe("r", block_ms=-1), "block_ms"),
        (lambda store: store.set_expire("r", 0), "ttl_seconds"),
        (lambda store: store.set_expire("r", -1), "ttl_seconds"),
        (lambda store: store.set_expire("r", 10**18), "ttl_seconds"),
        (lambda store: store.get_events("r", limit=-1), "limit"),
        (lambda store: store.get_events_after("r", "0-0", limit=-1), "limit"),
    ],
)
def test_an_argument_that_breaks_the_contract_is_refused_and_named(any_store, call, field):
    with pytest.raises(InvalidInput) as refused:
        call(any_store)
    assert refused.value.field == field


# What goes wrong


@pytest.mark.parametrize(
    "name", ["add", "get_events", "get_events_after", "page", "subscribe", "state"]
)
def test_a_key_of_the_wrong_type_is_told(any_store, client, run_id, name):
    client.set(key(run_id), "a string")
    with pytest.raises(NotALog):
        CALLS[name](any_store, run_id)
    assert client.get(key(run_id)) == b"a string"


def test_a_subscription_is_told_of_a_key_of_the_wrong_type_too(store, redis_client, run_id):
    redis_client.set(key(run_id), "a string")
    with pytest.raises(NotALog):
        store.subscribe(run_id, "0-0", block_ms=10)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_server_that_is_away_is_an_error_of_this_package(call, run_id):
    with pytest.raises(StoreUnavailable):
        call(EventStore(f"redis://127.0.0.1:{free_port()}"), run_id)


def test_an_error_of_the_server_is_an_error_of_this_package(store, redis_client, run_id):
    redis_client.xadd(f"run:{run_id}:events", {"a": "b"}, id=f"{2**64 - 1}-{2**64 - 1}")
    with pytest.raises(StoreUnavailable, match="Redis refused"):
        store.add(run_id, "llm", "stream")


@pytest.mark.parametrize("name", ["maxlen", "ended_ttl_seconds", "idle_ttl_seconds"])
@pytest.mark.parametrize("value", [0, 10**30])
def test_what_redis_could_not_hold_is_refused_beforehand(fake_client, name, value):
    with pytest.raises(InvalidInput, match=name):
        EventStore(client=fake_client, **{name: value})


def test_a_server_that_forgot_the_script_is_given_it_again(store, redis_client, run_id):
    store.add(run_id, "llm", "stream")
    redis_client.script_flush()
    store.add(run_id, "llm", "stream")
    assert store.state(run_id).last_sequence == 2


def test_the_server_is_named_and_old_ones_are_refused(store, monkeypatch):
    assert store.check_server().split()[0] in ("Redis", "Valkey")
    store.ping()
    monkeypatch.setattr(event_store, "MIN_SERVER", (99, 0))
    with pytest.raises(StoreUnavailable, match=r"too old: Redis 7\.0 or newer"):
        store.check_server()


@pytest.fixture
def deaf_port(redis_server) -> Iterator[int]:
    """A way to the server on which the answer to an append is lost, its connection with it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        InBackground(lambda: _forward_all(listener, redis_server.port))
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _forward_all(listener: socket.socket, port: int) -> None:
    while True:
        near, _ = listener.accept()
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            while asked := near.recv(65536):
                far.sendall(asked)
                answer = far.recv(65536)
                if b"EVAL" in asked:
                    break
                near.sendall(answer)


@pytest.mark.parametrize("injected", [False, True])
def test_an_append_whose_answer_is_lost_is_not_repeated_blindly(store, deaf_port, run_id, injected):
    store.add(f"{run_id}-other", "llm", "stream")  # so that the server knows the script
    client = redis.Redis(port=deaf_port, protocol=2) if injected else None
    deaf = EventStore(f"redis://127.0.0.1:{deaf_port}", client=client)
    with pytest.raises(StoreUnavailable):
        deaf.add(run_id, "llm", "stream")
    assert len(store.get_events(run_id)) == 1


def test_a_paused_server_is_given_up_within_seconds(redis_server, run_id, monkeypatch):
    monkeypatch.setattr(redis_url, "COMMAND_TIMEOUT_SECONDS", 0.3)
    store = EventStore(redis_server.url)
    store.add(run_id, "llm", "stream")
    redis_server.pause()
    try:
        with pytest.raises(StoreUnavailable):
            store.add(run_id, "llm", "stream", "was it stored?")
        with pytest.raises(StoreUnavailable):
            store.get_events(run_id)
    finally:
        redis_server.resume()
    store.add(run_id, "llm", "stream", "later")
    assert store.get_events(run_id)[-1].data == "later"
