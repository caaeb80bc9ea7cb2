"""Subscribing: events that come while a caller waits, and the cursor of each thread."""

import threading

import pytest
import redis

from app.streaming.errors import RunEnded
from app.streaming.event_store import EventStore
from app.streaming.log import reader as log_reader
from tests.run_program import run_program
from tests.servers import wait_until
from tests.streaming.event_store.logs import InBackground, actions_of, add_many, data_of, key


def test_subscribe_returns_existing_events_at_once(any_store, run_id):
    ids = add_many(any_store, run_id, 3)
    assert data_of(any_store.subscribe(run_id, ids[0], block_ms=60_000)) == [1, 2]
    assert data_of(any_store.subscribe(run_id, "0-0", block_ms=None)) == [0, 1, 2]


@pytest.mark.parametrize("block_ms", [1, 50, None])
def test_subscribe_returns_nothing_if_no_event_comes(any_store, run_id, block_ms):
    [last] = add_many(any_store, run_id, 1)
    assert any_store.subscribe(run_id, block_ms=block_ms) == []
    assert any_store.subscribe(run_id, last, block_ms=block_ms) == []


def test_subscribe_after_an_id_of_another_log_tells_that_and_starts_at_the_beginning(
    any_store, run_id
):
    assert any_store.subscribe(run_id, "9999999999999-0", 10) == []
    first = any_store.add(run_id, "llm", "stream")
    reset, event = any_store.subscribe(run_id, "9999999999999-0", 10)
    assert (reset.id, reset.category, reset.action) == (None, "gateway", "reset")
    assert reset.data == {"requested": "9999999999999-0", "earliest": first, "latest": first}
    assert event.id == first


def test_subscribe_starts_at_the_tail_and_misses_nothing_between_calls(any_store, run_id):
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


def test_each_store_run_and_thread_has_its_own_cursor(any_store, client, run_id):
    other_run, other_store = f"{run_id}-other", EventStore(client=client)
    assert any_store.subscribe(run_id, block_ms=None) == []
    any_store.add(run_id, "llm", "stream", "a")
    any_store.add(other_run, "llm", "stream", "b")
    assert any_store.subscribe(other_run, block_ms=None) == []
    assert other_store.subscribe(run_id, block_ms=None) == []
    assert InBackground(lambda: any_store.subscribe(run_id, block_ms=None)).wait() == []
    assert data_of(any_store.subscribe(run_id, block_ms=None)) == ["a"]


def test_subscribe_with_an_id_does_not_move_the_cursor(any_store, run_id):
    assert any_store.subscribe(run_id, block_ms=None) == []
    any_store.add(run_id, "llm", "stream", "a")
    assert data_of(any_store.subscribe(run_id, "0-0", block_ms=None)) == ["a"]
    assert data_of(any_store.subscribe(run_id, block_ms=None)) == ["a"]


@pytest.mark.parametrize("block_ms", [0, 20_000])
def test_a_blocked_subscribe_returns_the_next_event(store, redis_client, run_id, block_ms):
    [last] = add_many(store, run_id, 1)
    waiting = InBackground(lambda: store.subscribe(run_id, last, block_ms=block_ms))
    wait_until(lambda: _is_blocked(redis_client, run_id), "subscribe is blocked in Redis")
    store.add(run_id, "llm", "stream", "came")
    assert data_of(waiting.wait()) == ["came"]


def _is_blocked(client: redis.Redis | redis.RedisCluster, run_id: str) -> bool:
    if isinstance(client, redis.RedisCluster):
        client = client.get_redis_connection(client.get_node_from_key(key(run_id)))
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
        wait_until(lambda: _is_blocked(client, run_id), "subscribe is blocked in Redis")
        store.add(run_id, "llm", "stream", "came")
        assert data_of(waiting.wait()) == ["came"]


def test_a_long_block_is_made_of_several_reads(store, run_id, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_BLOCK_SECONDS", 0.05)
    waiting = InBackground(lambda: store.subscribe(run_id, "0-0", block_ms=20_000))
    assert store.subscribe(run_id, block_ms=300) == []
    store.add(run_id, "llm", "stream", "came")
    assert data_of(waiting.wait()) == ["came"]


def test_the_cursor_starts_again_in_a_log_that_was_replaced(any_store, client, run_id):
    add_many(any_store, run_id, 3)
    assert any_store.subscribe(run_id, block_ms=None) == []
    any_store.delete(run_id)
    client.xadd(key(run_id), {"data": '"new log"'}, id="5-0")
    assert actions_of(any_store.subscribe(run_id, block_ms=100)) == ["reset"]
    assert data_of(any_store.subscribe(run_id, block_ms=100)) == ["new log"]
    client.xadd(key(run_id), {"data": '"next"'}, id="6-0")
    assert data_of(any_store.subscribe(run_id, block_ms=None)) == ["next"]


def test_missing_events_are_told_before_the_next_one(any_store, client, run_id):
    assert any_store.subscribe(run_id, block_ms=None) == []
    ids = add_many(any_store, run_id, 5)
    client.xdel(key(run_id), ids[1], ids[2])
    first, gap, *rest = any_store.subscribe(run_id, block_ms=None)
    assert (first.data, data_of(rest)) == (0, [3, 4])
    assert (gap.id, gap.name, gap.action) == (None, None, "gap")
    assert gap.data["requested"] == ids[0]
    assert any_store.subscribe(run_id, block_ms=None) == []


def test_a_trimmed_id_is_told_with_the_events_after_the_gap(any_store, client, run_id):
    ids = add_many(any_store, run_id, 5)
    client.xtrim(key(run_id), maxlen=1, approximate=False)
    gap, event = any_store.subscribe(run_id, ids[0], block_ms=None)
    assert (gap.action, event.data) == ("gap", 4)


def milliseconds(client: redis.Redis) -> int:
    """Return the time of the server."""
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds // 1000


def test_a_log_that_lost_its_end_in_a_failover_is_told(store, redis_client, run_id):
    assert store.subscribe(run_id, block_ms=None) == []
    add_many(store, run_id, 3)
    entries = redis_client.xrange(key(run_id))
    assert data_of(store.subscribe(run_id, block_ms=None)) == [0, 1, 2]
    # The replica that was promoted has the same log without its last entry.
    redis_client.xtrim(key(run_id), maxlen=0, approximate=False)
    redis_client.execute_command("XSETID", key(run_id), "0-0", "ENTRIESADDED", 0)
    for entry_id, fields in entries[:2]:
        redis_client.xadd(key(run_id), fields, id=entry_id)
    # In the same millisecond the other event would get the id and the sequence of the lost one.
    lost = int(entries[2][0].split(b"-")[0])
    wait_until(lambda: milliseconds(redis_client) > lost, "a later millisecond")
    store.add(run_id, "llm", "stream", "other")
    assert actions_of(store.subscribe(run_id, block_ms=None)) == ["reset"]
    assert data_of(store.subscribe(run_id, block_ms=None)) == [0, 1, "other"]


def test_a_blocked_subscribe_notices_that_the_log_was_replaced(
    store, redis_client, run_id, monkeypatch
):
    monkeypatch.setattr(log_reader, "MAX_BLOCK_SECONDS", 0.05)
    add_many(store, run_id, 1)

    def follow() -> list:
        assert store.subscribe(run_id, block_ms=None) == []
        begun.set()
        assert actions_of(store.subscribe(run_id, block_ms=20_000)) == ["reset"]
        return store.subscribe(run_id, block_ms=20_000)

    begun = threading.Event()
    waiting = InBackground(follow)
    assert begun.wait(20)
    store.delete(run_id)
    redis_client.xadd(key(run_id), {"data": '"new log"'}, id="5-0")
    assert data_of(waiting.wait()) == ["new log"]


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


def test_greenlets_subscribe_and_append(redis_server, run_id):
    """Twenty greenlets block in subscribe while others append."""
    ended = run_program("store_in_greenlets", redis_server.url, run_id, gevent=True)
    assert (ended.stdout, ended.returncode) == ("all seen\n", 0), ended.stderr
