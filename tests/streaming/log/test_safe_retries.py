"""Appends that are safe to repeat: idempotency keys and the sequence that a producer expects."""

import threading

import pytest
import redis

from app.streaming.errors import (
    InvalidInput,
    KeyReused,
    NotALog,
    RunEnded,
    StoreUnavailable,
    UnexpectedSequence,
)
from app.streaming.event_store import EventStore
from tests.servers import RedisServer, free_port


def log(run_id: str) -> str:
    return f"run:{run_id}:events"


def beside(run_id: str) -> list[str]:
    return [f"{{{log(run_id)}}}:keys", f"{{{log(run_id)}}}:key-order"]


def test_a_repeat_returns_the_first_event_and_appends_nothing(any_store, run_id):
    first = any_store.append(run_id, "llm", "stream", {"a": 1}, "me", idempotency_key="k")
    again = any_store.append(run_id, "llm", "stream", {"a": 1}, "me", idempotency_key="k")
    assert (first.repeated, again.repeated) == (False, True)
    assert again.event == first.event
    assert any_store.get_events(run_id) == [first.event]


@pytest.mark.parametrize(
    "other",
    [
        ("llm", "stream", {"a": 2}, None),
        ("llm", "done", {"a": 1}, None),
        ("tool", "stream", {"a": 1}, None),
        ("llm", "stream", {"a": 1}, "me"),
    ],
)
def test_a_key_with_another_event_is_refused(any_store, run_id, other):
    any_store.add(run_id, "llm", "stream", {"a": 1}, idempotency_key="k")
    with pytest.raises(KeyReused):
        any_store.add(run_id, *other, idempotency_key="k")
    assert len(any_store.get_events(run_id)) == 1


def test_two_runs_can_use_the_same_key(any_store, run_id):
    any_store.add(run_id, "llm", "stream", 1, idempotency_key="k")
    assert not any_store.append(f"{run_id}-2", "llm", "stream", 2, idempotency_key="k").repeated


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 129, "\n", "a\x7f", 7])
def test_a_malformed_key_is_refused(any_store, run_id, key):
    with pytest.raises(InvalidInput) as refused:
        any_store.add(run_id, "llm", "stream", idempotency_key=key)
    assert refused.value.field == "idempotency_key"


def test_a_key_can_hold_every_visible_ascii_character(any_store, run_id):
    key = "".join(map(chr, range(0x21, 0x7F)))
    first = any_store.add(run_id, "llm", "stream", idempotency_key=key)
    assert any_store.add(run_id, "llm", "stream", idempotency_key=key) == first


def test_a_repeated_terminal_event_is_not_an_append_after_the_end(any_store, run_id):
    ended = any_store.add(run_id, "lifecycle", "completed", idempotency_key="k")
    assert any_store.add(run_id, "lifecycle", "completed", idempotency_key="k") == ended
    with pytest.raises(RunEnded):
        any_store.add(run_id, "lifecycle", "completed", idempotency_key="other")


def test_a_repeat_ignores_its_expected_sequence(any_store, run_id):
    first = any_store.add(run_id, "a", "b", idempotency_key="k", expected_sequence=1)
    any_store.add(run_id, "a", "b")
    assert any_store.add(run_id, "a", "b", idempotency_key="k", expected_sequence=1) == first


def test_a_refused_append_does_not_use_up_its_key(any_store, run_id):
    with pytest.raises(UnexpectedSequence):
        any_store.add(run_id, "llm", "stream", idempotency_key="k", expected_sequence=5)
    assert not any_store.append(run_id, "llm", "stream", idempotency_key="k").repeated


@pytest.mark.parametrize("how", ["deleted by the store", "deleted by others", "entry deleted"])
def test_a_key_is_forgotten_with_its_event(any_store, client, run_id, how):
    first = any_store.add(run_id, "llm", "stream", 1, idempotency_key="k")
    if how == "deleted by the store":
        any_store.delete(run_id)
        assert not client.exists(*beside(run_id))
    elif how == "deleted by others":
        client.delete(log(run_id))
    else:
        client.xdel(log(run_id), first)
    assert not any_store.append(run_id, "llm", "stream", 2, idempotency_key="k").repeated


def test_the_keys_of_trimmed_events_are_removed(redis_server, redis_client, run_id):
    small = EventStore(redis_server.url, maxlen=10)
    for number in range(1000):
        small.add(run_id, "llm", "stream", idempotency_key=f"k{number}")
    retained = redis_client.xlen(log(run_id))
    kept, order = beside(run_id)
    assert retained < 500
    assert redis_client.hlen(kept) == redis_client.zcard(order)
    assert retained <= redis_client.hlen(kept) <= retained + 120
    repeat = small.append(run_id, "llm", "stream", idempotency_key="k999")
    assert repeat.repeated


@pytest.mark.parametrize("sequence", ["5000", "nan", "-1", "x", "1e300"])
def test_a_wrong_sequence_written_by_others_forgets_no_key(any_store, client, run_id, sequence):
    client.xadd(log(run_id), {"sequence": sequence})
    first = any_store.append(run_id, "llm", "stream", idempotency_key="k")
    for number in range(20):
        any_store.add(run_id, "llm", "stream", idempotency_key=f"k{number}")
    again = any_store.append(run_id, "llm", "stream", idempotency_key="k")
    assert (again.repeated, again.event) == (True, first.event)
    assert client.ttl(log(run_id)) > 0


@pytest.mark.parametrize("which", [0, 1])
def test_a_key_of_another_type_beside_the_log_refuses_the_append(any_store, client, run_id, which):
    client.set(beside(run_id)[which], "a string")
    with pytest.raises(NotALog):
        any_store.add(run_id, "llm", "stream", idempotency_key="k")
    assert any_store.get_events(run_id) == []


def test_the_keys_have_the_ttl_of_the_log(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream", idempotency_key="k")

    def lives() -> list[int]:
        return [client.ttl(key) for key in (log(run_id), *beside(run_id))]

    assert max(lives()) - min(lives()) <= 1
    any_store.set_expire(run_id, 50)
    assert all(0 < ttl <= 50 for ttl in lives())
    any_store.add(run_id, "llm", "stream")
    assert min(lives()) > 1000
    any_store.add(run_id, "lifecycle", "completed")
    assert all(1000 < ttl <= 86_400 for ttl in lives())


def test_an_append_without_a_key_writes_only_the_log(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    any_store.add(run_id, "lifecycle", "completed")
    assert client.keys(f"*{run_id}:*") == [log(run_id).encode()]


def test_of_twenty_concurrent_repeats_one_appends(store, run_id):
    outcomes = []

    def append() -> None:
        outcomes.append(store.append(run_id, "llm", "stream", 1, idempotency_key="k"))

    threads = [threading.Thread(target=append) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcome.repeated for outcome in outcomes) == [False] + [True] * 19
    assert len({outcome.event.id for outcome in outcomes}) == 1
    assert len(store.get_events(run_id)) == 1


# The sequence that a producer expects


def test_an_event_with_the_right_expected_sequence_is_appended(any_store, run_id):
    for sequence in (1, 2, 3):
        any_store.add(run_id, "llm", "stream", expected_sequence=sequence)
    assert [event.sequence for event in any_store.get_events(run_id)] == [1, 2, 3]


@pytest.mark.parametrize("expected", [1, 2, 4, 2**53])
def test_a_wrong_expected_sequence_is_refused_with_the_last_sequence(any_store, run_id, expected):
    any_store.add(run_id, "llm", "stream")
    any_store.add(run_id, "llm", "stream")
    with pytest.raises(UnexpectedSequence) as refused:
        any_store.add(run_id, "llm", "stream", expected_sequence=expected)
    assert refused.value.last_sequence == 2
    assert len(any_store.get_events(run_id)) == 2


def test_the_expected_sequence_is_checked_before_the_end_of_the_run(any_store, run_id):
    any_store.add(run_id, "lifecycle", "completed")
    with pytest.raises(UnexpectedSequence):
        any_store.add(run_id, "llm", "stream", expected_sequence=1)
    with pytest.raises(RunEnded):
        any_store.add(run_id, "llm", "stream", expected_sequence=2)


@pytest.mark.parametrize("expected", [0, -1, 2**53 + 1, 1.5, "1", True])
def test_a_malformed_expected_sequence_is_refused(any_store, run_id, expected):
    with pytest.raises(InvalidInput) as refused:
        any_store.add(run_id, "llm", "stream", expected_sequence=expected)
    assert refused.value.field == "expected_sequence"


# Whether an append that failed was stored


def test_an_append_that_never_reached_redis_was_not_stored(run_id):
    with pytest.raises(StoreUnavailable) as failed:
        EventStore(f"redis://127.0.0.1:{free_port()}").add(run_id, "llm", "stream")
    assert failed.value.stored is False


def test_an_append_whose_answer_was_lost_may_be_stored_and_is_safe_to_repeat(tmp_path, run_id):
    server = RedisServer(tmp_path).start()
    try:
        store = EventStore(f"{server.url}?socket_timeout=0.5")
        store.add(run_id, "llm", "stream", 0)
        server.pause()
        with pytest.raises(StoreUnavailable) as failed:
            store.add(run_id, "llm", "stream", 1, idempotency_key="k")
        assert failed.value.stored is None
        server.resume()
        store.add(run_id, "llm", "stream", 1, idempotency_key="k")
        assert [event.data for event in store.get_events(run_id)] == [0, 1]
    finally:
        server.stop()


def test_an_append_refused_for_lack_of_memory_was_not_stored(tmp_path, run_id):
    server = RedisServer(tmp_path, "--maxmemory-policy", "noeviction").start()
    try:
        store = EventStore(server.url)
        store.add(run_id, "llm", "stream", 0, idempotency_key="k")
        with server.client() as client:
            client.config_set("maxmemory", "1")
            with pytest.raises(StoreUnavailable) as failed:
                store.add(run_id, "llm", "stream", 1, idempotency_key="l")
            assert failed.value.stored is False
            client.config_set("maxmemory", "0")
        assert not store.append(run_id, "llm", "stream", 1, idempotency_key="l").repeated
        assert [event.data for event in store.get_events(run_id)] == [0, 1]
    finally:
        server.stop()


def test_a_client_with_resp3_and_decoding_can_repeat_an_append(redis_server, run_id):
    client = redis.Redis.from_url(redis_server.url, protocol=3, decode_responses=True)
    theirs = EventStore(client=client)
    first = theirs.append(run_id, "llm", "stream", 1, idempotency_key="k")
    again = theirs.append(run_id, "llm", "stream", 1, idempotency_key="k")
    assert (again.event, again.repeated) == (first.event, True)
