"""Failovers: what was acknowledged by a replica is on the server that takes over."""

import threading
import time
from collections.abc import Callable

import pytest

from app.streaming.errors import NotReplicated, StoreUnavailable
from app.streaming.event_store import EventStore
from tests.integration.ack_replicas.conftest import freeze
from tests.servers import ReplicatedServers, wait_until

PRODUCERS = 4
MAXLEN = 1_000_000  # so that nothing is trimmed


def new_master(servers: ReplicatedServers, former: int) -> EventStore:
    wait_until(lambda: servers.master_port() != former, "Sentinel names another master")
    return EventStore(servers.replica.url)


def test_without_the_setting_a_failover_loses_what_was_acknowledged(replicated):
    store = EventStore(replicated.url)
    store.add("a", "llm", "stream", 1)
    with replicated.replica.client() as replica:
        wait_until(lambda: replica.xlen("run:a:events"), "the replica has it")
    replicated.cut_replica_off()
    store.add("a", "llm", "stream", 2)
    replicated.fail_over()
    after = new_master(replicated, replicated.master.port)
    assert [each.data for each in after.get_events("a")] == [1]


def test_with_it_nothing_of_that_was_acknowledged(replicated):
    store = EventStore(replicated.url, ack_replicas=1)
    store.add("a", "llm", "stream", 1)
    replicated.cut_replica_off()
    with pytest.raises(NotReplicated):
        store.append("a", "llm", "stream", 2, idempotency_key="k")
    replicated.fail_over()
    after = new_master(replicated, replicated.master.port)
    assert [each.data for each in after.get_events("a")] == [1]
    # The new master has no replica.
    with pytest.raises(NotReplicated):
        EventStore(replicated.replica.url, ack_replicas=1).append(
            "a", "llm", "stream", 2, idempotency_key="k"
        )
    assert [each.data for each in after.get_events("a")] == [1, 2]


def test_a_master_that_dies_while_replicas_are_asked_leaves_it_unknown(replicated):
    store = EventStore(replicated.url, ack_replicas=1)
    store.add("a", "llm", "stream", 1)
    freeze(replicated)
    errors: list[StoreUnavailable] = []

    def add() -> None:
        try:
            store.add("a", "llm", "stream", 2)
        except StoreUnavailable as error:
            errors.append(error)

    adding = threading.Thread(target=add)
    with replicated.master.client() as client:
        adding.start()
        wait_until(lambda: client.info("clients")["blocked_clients"], "it waits for the replica")
    replicated.master.stop()
    adding.join(10)
    assert [each.stored for each in errors] == [None]


@pytest.mark.parametrize("failover", [ReplicatedServers.switch, ReplicatedServers.fail_over])
def test_under_load_a_failover_loses_nothing_that_was_acknowledged(
    replicated, failover: Callable[[ReplicatedServers], None]
):
    """With a replica for the new master, producers also go on, and each event is there once."""
    former, over = replicated.master.port, threading.Event()
    acknowledged: list[list[int]] = [[] for _ in range(PRODUCERS)]

    def produce(number: int) -> None:
        store, event = EventStore(replicated.url, maxlen=MAXLEN, ack_replicas=1), 0
        while not over.is_set():
            try:
                store.append(
                    f"run-{number}", "llm", "stream", event, idempotency_key=f"key-{event}"
                )
            except StoreUnavailable:
                time.sleep(0.01)
            else:
                acknowledged[number].append(event)
                event += 1

    producers = [threading.Thread(target=produce, args=(each,)) for each in range(PRODUCERS)]
    for producer in producers:
        producer.start()
    try:
        wait_until(lambda: all(len(each) > 50 for each in acknowledged), "all append")
        if failover is ReplicatedServers.switch:
            replicated.be_patient()
        failover(replicated)
        after = new_master(replicated, former)
        if failover is ReplicatedServers.fail_over:
            replicated.be_patient()
            replicated.start_former_master()
        had = [len(each) for each in acknowledged]
        wait_until(
            lambda: all(len(now) > was for now, was in zip(acknowledged, had, strict=True)),
            "all append again",
            seconds=40,
        )
    finally:
        over.set()
        for producer in producers:
            producer.join()
    for number, events in enumerate(acknowledged):
        logged = [each.data for each in after.get_events(f"run-{number}", limit=MAXLEN)]
        assert logged[: len(events)] == events
        assert len(logged) <= len(events) + 1, "what the last append was doing"
