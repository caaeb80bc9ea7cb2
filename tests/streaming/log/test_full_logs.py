"""Logs that other programs wrote to: ids and counts that the script can and cannot add up."""

import pytest
import redis

from app.streaming.errors import LogFull, NotALog, StreamingError
from app.streaming.event_id import EventId
from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import redis_keys
from tests.servers import wait_until

PAST, FUTURE, LAST_MS = 1, 99_999_999_999_999, 2**64 - 1
MAX_EXACT = 2**53 - 1
EVENT = {"event_category": "llm", "event_action": "stream", "data": "分"}


def write_as_others(
    client: redis.Redis, run_id: str, last_id: str, added: int | None = None, **fields: object
) -> None:
    log, _, _ = redis_keys(run_id)
    client.xadd(log, {"by": "others", **fields}, id=last_id)
    if added is not None:
        client.execute_command("XSETID", log, last_id, "ENTRIESADDED", added)


def contents(client: redis.Redis, run_id: str) -> list[object]:
    log, keys, order = redis_keys(run_id)
    info = client.xinfo_stream(log)
    counts = info["entries-added"], info["last-generated-id"]
    return [counts, client.xrange(log), client.hgetall(keys), client.zrange(order, 0, -1)]


def append(store: EventStore, run_id: str, count: int, key: str | None) -> list[str]:
    if count == 1:
        return [store.add(run_id, *EVENT.values(), idempotency_key=key)]
    return store.add_many(run_id, [EVENT] * count, idempotency_key=key)


def append_once_or_refuse(
    store: EventStore, client: redis.Redis, run_id: str, count: int, key: str | None
) -> bool:
    """Append, and check that it was stored once and exactly, or refused with nothing written."""
    before = contents(client, run_id)
    (added, last_id), entries = before[0], before[1]
    try:
        ids = append(store, run_id, count, key)
    except LogFull:
        assert contents(client, run_id) == before
        return False
    events = store.get_events(run_id)[len(entries) :]
    assert [event.id for event in events] == ids
    assert [event.sequence for event in events] == list(range(added + 1, added + count + 1))
    first = EventId.parse(ids[0])
    assert first > EventId.parse(last_id.decode())
    assert ids == [f"{first.ms}-{first.n + n}" for n in range(count)]
    if key is not None:
        after = contents(client, run_id)
        for _ in range(2):
            assert append(store, run_id, count, key) == ids
        assert contents(client, run_id)[:2] == after[:2]
    return True


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("count", [1, 2, 1000])
@pytest.mark.parametrize(
    ("last_id", "fits"),
    [
        (f"{FUTURE}-{10**15 - 1}", True),
        (f"{LAST_MS}-{10**15 - 1}", True),
        (f"{FUTURE}-{10**15}", False),
        *((f"{FUTURE}-{counter}", False) for counter in (2**53 - 1, 2**53, 2**53 + 1)),
        *((f"{FUTURE}-{counter}", False) for counter in (2**63 - 1, 2**64 - 2, 2**64 - 1)),
        *((f"{LAST_MS}-{counter}", False) for counter in (2**53, 2**64 - 2, 2**64 - 1)),
        *((f"{PAST}-{counter}", True) for counter in (2**53, 2**63 - 1, 2**64 - 2, 2**64 - 1)),
        (f"{10**9}-{2**64 - 1}", True),
    ],
)
def test_after_an_id_of_others_an_append_is_exact_or_refused(
    any_store, client, run_id, last_id, fits, count, key
):
    write_as_others(client, run_id, last_id)
    assert append_once_or_refuse(any_store, client, run_id, count, key) == fits


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "added",
    [
        *(MAX_EXACT - 3, MAX_EXACT - 2, MAX_EXACT - 1, MAX_EXACT, MAX_EXACT + 1, MAX_EXACT + 2),
        *(2**62, 2**63 - 2, 2**63 - 1),
    ],
)
def test_after_a_count_of_others_an_append_is_exact_or_refused(
    store, redis_client, run_id, added, count, key
):
    write_as_others(redis_client, run_id, "5-0", added)
    fits = added + count <= MAX_EXACT
    assert append_once_or_refuse(store, redis_client, run_id, count, key) == fits


def test_a_count_that_redis_shows_as_negative_is_refused(store, redis_client, run_id):
    write_as_others(redis_client, run_id, "5-0", 2**63 - 1)
    write_as_others(redis_client, run_id, "6-0")
    for count in (1, 2):
        assert not append_once_or_refuse(store, redis_client, run_id, count, None)


def test_a_log_is_appended_to_until_it_is_full(store, redis_client, run_id):
    write_as_others(redis_client, run_id, f"{FUTURE}-{10**15 - 3}", MAX_EXACT - 3)
    stored = [append_once_or_refuse(store, redis_client, run_id, 1, f"k{n}") for n in range(5)]
    assert stored == [True, True, True, False, False]
    assert append(store, run_id, 1, "k0") == [f"{FUTURE}-{10**15 - 2}"]  # a repeat


def test_a_single_event_and_a_batch_are_refused_with_the_same_words(store, redis_client, run_id):
    write_as_others(redis_client, run_id, f"{LAST_MS}-{2**64 - 1}")
    messages = set()
    for count in (1, 2):
        with pytest.raises(LogFull) as refused:
            append(store, run_id, count, None)
        messages.add(str(refused.value))
    assert len(messages) == 1


# One log's own errors


def make_full(client: redis.Redis, run_id: str) -> None:
    write_as_others(client, run_id, f"{LAST_MS}-{2**64 - 1}", lease_seconds=1)


def make_text(client: redis.Redis, run_id: str, number: int) -> None:
    client.set(redis_keys(run_id)[number], "text")


def make_unknown_record(client: redis.Redis, run_id: str) -> None:
    client.hset(redis_keys(run_id)[1], "key", "written by others")


SPOILED = {
    "a full log": (make_full, LogFull),
    "no log": (lambda client, run_id: make_text(client, run_id, 0), NotALog),
    "no keys": (lambda client, run_id: make_text(client, run_id, 1), NotALog),
    "no order of keys": (lambda client, run_id: make_text(client, run_id, 2), NotALog),
    "an unknown record of a key": (make_unknown_record, NotALog),
}


@pytest.fixture
def connected(store: EventStore) -> EventStore:
    """A store whose first probe opens no connection: a new one counts every lease anew."""
    store.ping()
    return store


@pytest.mark.parametrize(("spoil", "error"), SPOILED.values(), ids=SPOILED)
def test_an_error_of_one_log_is_its_own(connected, redis_client, run_id, spoil, error):
    """It holds up no lease of another run, and nothing is written."""
    store = connected
    spoil(redis_client, run_id)
    store.add(f"{run_id}-good", "llm", "stream", lease_seconds=1000)
    before, keys = store.engine.availability.since(), redis_client.keys(f"*{run_id}*")
    with pytest.raises(error):
        append(store, run_id, 1, "key")
    with pytest.raises(error):
        append(store, run_id, 2, "key")
    assert store.engine.availability.since() == before
    assert sorted(redis_client.keys(f"*{run_id}*")) == sorted(keys)


@pytest.mark.parametrize(
    ("last_id", "added"),
    [(f"{LAST_MS}-{2**64 - 1}", 1), ("5-0", MAX_EXACT), ("5-0", 2**63 - 1)],
)
def test_a_silent_run_whose_log_is_full_is_not_ended_and_holds_up_nothing(
    connected, redis_client, run_id, last_id, added
):
    store = connected
    write_as_others(redis_client, run_id, last_id, added, lease_seconds=1)
    before = store.engine.availability.since()
    assert not store.mark_lost(run_id, EventId.parse(last_id), watched=True)
    assert len(store.get_events(run_id)) == 1
    assert store.engine.availability.since() == before


def test_the_last_exact_sequence_can_be_the_loss_of_the_run(store, redis_client, run_id):
    write_as_others(redis_client, run_id, "5-0", MAX_EXACT - 1, lease_seconds=1)
    assert store.mark_lost(run_id, EventId(5, 0), watched=True)
    assert store.get_events(run_id)[-1].sequence == MAX_EXACT


def test_a_refusal_of_the_server_holds_up_every_lease(breakable, run_id):
    store = EventStore(breakable.url)
    store.add(run_id, "llm", "stream", lease_seconds=1000)
    before = store.engine.availability.since()
    with breakable.client() as client:
        client.config_set("maxmemory", 1)

        def is_refused() -> bool:
            try:
                append(store, run_id, 1, None)
            except StreamingError as error:
                return not isinstance(error, LogFull | NotALog)
            return False

        wait_until(is_refused, "it is refused")
    assert store.engine.availability.since() > before
