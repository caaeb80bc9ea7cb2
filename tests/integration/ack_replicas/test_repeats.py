"""A repeat by idempotency key: acknowledged only when replicas have what it repeats."""

import pytest

from app.streaming.errors import NotReplicated
from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from app.streaming.runs.changes import CHANGES, deletion_of
from tests.integration.ack_replicas.conftest import freeze
from tests.redis.programs import every_program
from tests.servers import ReplicatedServers

EVENTS, KEYS = "run:a:events", "{run:a:events}:keys"


def workers(servers: ReplicatedServers) -> tuple[EventStore, EventStore]:
    """Return two event stores, each with connections of its own, as two workers have."""
    return EventStore(servers.url, ack_replicas=1), EventStore(servers.url, ack_replicas=1)


@every_program
def test_a_repeat_over_another_worker_is_unknown_too_until_the_replica_has_it(
    program, start_replicated
):
    servers = start_replicated(program)
    one, other = workers(servers)
    one.append("a", "llm", "stream", 0)
    other.append("a", "llm", "stream", 1)  # it has a connection, which has written
    freeze(servers)
    with pytest.raises(NotReplicated):
        one.append("a", "llm", "stream", 2, idempotency_key="k")
    for store in (other, one, other):
        with pytest.raises(NotReplicated, match="only 0 of 1"):
            store.append("a", "llm", "stream", 2, idempotency_key="k")
    servers.bring_replica_back()
    assert other.append("a", "llm", "stream", 2, idempotency_key="k").repeated
    assert one.append("a", "llm", "stream", 2, idempotency_key="k").repeated
    assert [each.data for each in one.get_events("a")] == [0, 1, 2]
    with servers.replica.client() as replica:
        assert replica.xlen(EVENTS) == 3


@every_program
def test_a_repeat_changes_nothing_of_the_run(program, start_replicated):
    servers = start_replicated(program)
    one, other = workers(servers)
    one.append("a", "llm", "stream", 1, idempotency_key="k")
    with servers.master.client() as client:
        client.expire(KEYS, 1000)
        keys, length = client.hgetall(KEYS), client.xlen(EVENTS)
        assert other.append("a", "llm", "stream", 1, idempotency_key="k").repeated
        assert (client.hgetall(KEYS), client.xlen(EVENTS)) == (keys, length)
        assert 900 < client.ttl(KEYS) <= 1000
    assert one.append("a", "llm", "stream", 1, idempotency_key="k").repeated


def test_a_repeat_on_a_full_server_is_unknown(replicated):
    """What would ask the replica is refused. The event is in the log, so it is not "not stored"."""
    one, other = workers(replicated)
    one.append("a", "llm", "stream", 1, idempotency_key="k")
    with replicated.master.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(NotReplicated, match="memory") as raised:
            other.append("a", "llm", "stream", 1, idempotency_key="k")
        assert raised.value.stored is None
        client.config_set("maxmemory", 0)
    assert other.append("a", "llm", "stream", 1, idempotency_key="k").repeated


def test_a_repeat_that_cannot_ask_is_unknown(replicated, monkeypatch):
    one, other = workers(replicated)
    one.append("a", "llm", "stream", 1, idempotency_key="k")
    run_each = other._writer._touch.run_each

    def die_first(calls):
        replicated.master.stop()
        return run_each(calls)

    monkeypatch.setattr(other._writer._touch, "run_each", die_first)
    with pytest.raises(NotReplicated) as raised:
        other.append("a", "llm", "stream", 1, idempotency_key="k")
    assert raised.value.stored is None


def test_a_repeat_of_what_a_failover_has_lost_meanwhile_is_unknown(replicated, monkeypatch):
    """What asks the replicas may reach another server than the one that has found the repeat."""
    one, other = workers(replicated)
    one.append("a", "llm", "stream", 1, idempotency_key="k")
    run_each = other._writer._touch.run_each

    def lose_first(calls):
        with replicated.master.client() as client:
            client.delete(EVENTS, KEYS)
        return run_each(calls)

    monkeypatch.setattr(other._writer._touch, "run_each", lose_first)
    with pytest.raises(NotReplicated, match="does not have"):
        other.append("a", "llm", "stream", 1, idempotency_key="k")
    monkeypatch.undo()
    assert not other.append("a", "llm", "stream", 1, idempotency_key="k").repeated
    assert [each.data for each in one.get_events("a")] == [1]


def test_a_batch_is_repeated_as_a_whole(replicated):
    one, other = workers(replicated)
    events = [{"event_category": "llm", "event_action": "stream", "data": n} for n in range(50)]
    freeze(replicated)
    for store in (one, other):
        with pytest.raises(NotReplicated):
            store.append_many("a", events, idempotency_key="k")
    replicated.bring_replica_back()
    assert other.append_many("a", events, idempotency_key="k").repeated
    assert [each.data for each in one.get_events("a")] == list(range(50))


def test_a_repeated_note_of_a_change_asks_nothing_more(replicated, monkeypatch):
    """No replica must have the log of changes, so nobody would wait for one."""
    store, _ = workers(replicated)
    monkeypatch.setattr(store.runs._writer._touch, "run_each", pytest.fail)
    change = deletion_of("a")
    for _ in range(2):
        store.runs._tell([change])
    with replicated.master.client() as client:
        assert client.xlen(log_key(CHANGES)) == 1
    store.engine.close()
