"""Leases while replicas lag: a producer that is not acknowledged could not write."""

import pytest

from app.streaming.errors import NotReplicated
from app.streaming.event_store import EventStore
from tests.integration.ack_replicas.conftest import freeze
from tests.servers import wait_until


def clock(store: EventStore):
    return store.engine.server_of("run:a:events").availability


def test_an_append_that_is_not_acknowledged_counts_all_leases_anew(replicated):
    store = EventStore(replicated.master.url, ack_replicas=1)
    store.add("a", "llm", "stream", lease_seconds=60)
    freeze(replicated)
    before = clock(store).since()
    with pytest.raises(NotReplicated):
        store.add("a", "llm", "stream")
    assert clock(store).since() > before


def test_a_process_that_only_reads_notices_it_too(replicated):
    """A producer at another gateway gets on as little, so its run must not be lost."""
    producer, reader = (EventStore(replicated.master.url, ack_replicas=1) for _ in range(2))
    producer.add("a", "llm", "stream", lease_seconds=60)
    before = clock(reader).since()
    freeze(replicated)
    with pytest.raises(NotReplicated):
        producer.append("a", "llm", "stream", idempotency_key="k")
    wait_until(lambda: clock(reader).since() > before, "its clock has begun anew")


def test_with_replicas_that_keep_up_the_clock_goes_on(replicated):
    store = EventStore(replicated.master.url, ack_replicas=1)
    store.add("a", "llm", "stream", lease_seconds=60)
    watch = store.engine._replicas
    before = clock(store).since()
    for _ in range(6):
        looked = list(watch._offsets)
        store.add("a", "llm", "stream")
        wait_until(lambda: list(watch._offsets) != looked, "it has looked again")  # noqa: B023
    assert clock(store).since() == before
