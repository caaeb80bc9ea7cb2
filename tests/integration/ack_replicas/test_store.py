"""Appends through the event store: acknowledged when a replica has them, else unknown."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.auth.revocation_log import REVOCATIONS, RevocationLog
from app.streaming.errors import (
    InvalidInput,
    KeyReused,
    NotReplicated,
    RunEnded,
    StoreUnavailable,
    UnexpectedSequence,
)
from app.streaming.event_id import EventId
from app.streaming.event_store import EventStore
from app.streaming.new_event import Append, Appended, NewEvent
from tests.integration.ack_replicas.conftest import freeze
from tests.redis.programs import every_program
from tests.servers import RedisServer, wait_until

EVENTS = "run:a:events"


def waits(server: RedisServer) -> int:
    with server.client() as client:
        return client.info("commandstats").get("cmdstat_wait", {"calls": 0})["calls"]


def appends(*data: int, run_id: str = "a", **options: object) -> list[Append]:
    return [Append(run_id, [NewEvent.of("llm", "stream", each)], **options) for each in data]


@every_program
def test_what_is_acknowledged_is_on_the_replica(program, start_replicated):
    servers = start_replicated(program)
    store = EventStore(servers.master.url, ack_replicas=1)
    with servers.replica.client() as replica:
        for number in range(1, 101):
            store.add("a", "llm", "stream", number)
            assert replica.xlen(EVENTS) == number


def test_without_the_setting_nobody_asks_a_replica(replicated):
    store = EventStore(replicated.master.url)
    freeze(replicated)
    store.append("a", "llm", "stream", idempotency_key="k")
    assert store.append("a", "llm", "stream", idempotency_key="k").repeated
    assert store.delete("a")
    assert not store.delete("a")
    assert waits(replicated.master) == 0


def test_an_append_without_replicas_is_unknown_until_they_are_back(replicated, fall_behind):
    store = EventStore(replicated.master.url, ack_replicas=1)
    store.add("a", "llm", "stream", 1)
    fall_behind(replicated)
    with pytest.raises(NotReplicated, match="only 0 of 1 replicas have it after 1 s") as raised:
        store.add("a", "llm", "stream", 2)
    assert raised.value.stored is None
    with pytest.raises(NotReplicated):
        store.add_many("a", [{"event_category": "llm", "event_action": "stream"}] * 3)
    assert [each.data for each in store.get_events("a")] == [1, 2, None, None, None]
    replicated.bring_replica_back()
    store.add("a", "llm", "stream", 3)
    with replicated.replica.client() as replica:
        assert replica.xlen(EVENTS) == 6


def test_more_replicas_than_there_are_never_acknowledge(replicated):
    store = EventStore(replicated.master.url, ack_replicas=2)
    with pytest.raises(NotReplicated, match="only 1 of 2 replicas"):
        store.add("a", "llm", "stream")


def test_a_refusal_is_told_whatever_replicas_do(replicated):
    store = EventStore(replicated.master.url, ack_replicas=1)
    store.append("a", "llm", "stream", 1, idempotency_key="k")
    store.append("ended", "lifecycle", "completed")
    freeze(replicated)
    with pytest.raises(KeyReused):
        store.append("a", "llm", "stream", 2, idempotency_key="k")
    with pytest.raises(UnexpectedSequence):
        store.append("a", "llm", "stream", 2, expected_sequence=9)
    with pytest.raises(RunEnded):
        store.append("ended", "llm", "stream")


def test_of_appends_together_each_has_its_own_outcome(replicated):
    store = EventStore(replicated.master.url, ack_replicas=1)
    store.append("a", "llm", "stream", 1, idempotency_key="k")
    together = [
        *appends(2),
        *appends(1, idempotency_key="k"),
        *appends(3, expected_sequence=9),
        *appends(4, idempotency_key="k"),
    ]
    freeze(replicated)
    outcomes = store.append_each(together)
    kinds = [NotReplicated, NotReplicated, UnexpectedSequence, KeyReused]
    assert [type(each) for each in outcomes] == kinds
    replicated.bring_replica_back()
    outcomes = store.append_each(together)
    assert [type(each) for each in outcomes] == [Appended, Appended, *kinds[2:]]
    assert outcomes[1].repeated


def test_a_server_that_lost_the_scripts_acknowledges_all_the_same(replicated):
    store = EventStore(replicated.master.url, ack_replicas=1)
    with replicated.master.client() as client:
        client.script_flush()
        store.add("a", "llm", "stream", 1)
        client.script_flush()
        outcomes = store.append_each(appends(2, 3))
        assert [type(each) for each in outcomes] == [Appended] * 2
        freeze(replicated)
        client.script_flush()
        outcomes = store.append_each(appends(4, 5))
    assert [type(each) for each in outcomes] == [NotReplicated] * 2
    assert [each.data for each in store.get_events("a")] == [1, 2, 3, 4, 5]


def test_what_is_noted_beside_a_log_asks_no_replica(replicated):
    """One WAIT for the append; none for the index and the log of changes."""
    store = EventStore(replicated.master.url, ack_replicas=1)
    store.add("a", "lifecycle", "started")  # also sends the scripts
    before = waits(replicated.master)
    store.add("b", "lifecycle", "started")
    assert waits(replicated.master) == before + 1
    assert [run.run_id for run in store.runs.page().runs] == ["b", "a"]


def test_reads_do_not_wait_for_replicas(replicated):
    """Readers see an event before replicas have it."""
    store = EventStore(replicated.master.url, ack_replicas=1)
    freeze(replicated)
    with pytest.raises(NotReplicated):
        store.add("a", "llm", "stream", 1)
    before = waits(replicated.master)
    assert store.state("a").last_sequence == 1
    assert [each.data for each in store.subscribe("a", "0-0", block_ms=0)] == [1]
    assert waits(replicated.master) == before


def test_a_deletion_is_acknowledged_too(replicated):
    one, other = (EventStore(replicated.master.url, ack_replicas=1) for _ in range(2))
    one.add("a", "llm", "stream")
    freeze(replicated)
    with pytest.raises(NotReplicated):
        one.delete("a")
    with pytest.raises(NotReplicated):  # it has gone, but not from the replica
        other.delete("a")
    with replicated.master.client() as client:
        assert not client.exists(EVENTS)
    replicated.bring_replica_back()
    assert not other.delete("a")
    other.add("a", "llm", "stream")
    assert other.delete("a")
    with replicated.replica.client() as replica:
        assert replica.keys("*run:a:*") == []


def test_an_expiry_is_acknowledged_too(replicated):
    store = EventStore(replicated.master.url, ack_replicas=1)
    store.add("a", "llm", "stream")
    assert store.set_expire("a", 100)
    with replicated.replica.client() as replica:
        assert 0 < replica.ttl(EVENTS) <= 100
    freeze(replicated)
    with pytest.raises(NotReplicated):
        store.set_expire("a", 50)
    assert store.set_expire("none", 50) is False


def test_a_revocation_is_acknowledged_too(replicated):
    store = EventStore(replicated.master.url, ack_replicas=1)
    log = RevocationLog(store.engine, lambda: None)
    log.append({"jti": "one"})
    with replicated.replica.client() as replica:
        assert replica.xlen(REVOCATIONS) == 1
    freeze(replicated)
    with pytest.raises(NotReplicated):
        log.append({"jti": "two"})


def test_an_appender_goes_on_when_the_replica_is_back(replicated):
    store = EventStore(replicated.master.url, ack_replicas=1)
    freeze(replicated)
    with store.appender("a") as appender:
        for number in range(500):
            appender.emit("llm", "stream", number)
        wait_until(lambda: store.state("a").exists, "the first batch is in the log")
        replicated.bring_replica_back()
        appender.flush()
    assert [each.data for each in store.get_events("a", limit=1000)] == list(range(500))
    with replicated.replica.client() as replica:
        assert replica.xlen(EVENTS) == 500


def test_many_callers_at_once_share_few_waits(replicated):
    """And all that was acknowledged is on the replica."""
    store = EventStore(replicated.master.url, ack_replicas=1)
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda number: store.add("a", "llm", "stream", number), range(2000)))
    with replicated.replica.client() as replica:
        assert replica.xlen(EVENTS) == 2000
    assert waits(replicated.master) < 1000


def test_a_run_is_marked_as_lost_without_replicas(replicated):
    """Nobody is told that it is done: readers see it in the log, as every event."""
    store = EventStore(replicated.master.url, ack_replicas=1)
    last_id = store.add("a", "llm", "stream", lease_seconds=1)
    freeze(replicated)
    assert store.mark_lost("a", EventId.parse(last_id, "last_id"), watched=True)
    assert store.state("a").ended


@pytest.mark.parametrize("number", [-1, 101, 1.0, "1", True])
def test_an_odd_number_of_replicas_is_refused(number):
    with pytest.raises(InvalidInput, match="ack_replicas: must be a whole number from 0 to 100"):
        EventStore(ack_replicas=number)


def test_a_store_on_fakeredis_knows_no_replicas(fake_client):
    store = EventStore(client=fake_client, ack_replicas=1)
    with pytest.raises(StoreUnavailable, match="WAIT"):
        store.add("a", "llm", "stream")
    with pytest.raises(StoreUnavailable, match="Redis has no WAIT"):
        store.check_ready()
