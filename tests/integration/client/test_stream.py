"""The client sends streams of events to a real gateway."""

import time
from collections.abc import Iterator

import pytest

from app.client import Client, Ingested
from app.protocol import repeats
from app.streaming.errors import InvalidEvent, RunEnded, StoreUnavailable, UnexpectedSequence
from tests.integration.client.following import Following
from tests.integration.client.proxy import Proxy
from tests.servers import wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}


def test_a_follower_sees_events_before_their_stream_ends(client, run_id):
    following = Following(client, run_id)

    def events() -> Iterator[dict]:
        for number in range(5):
            yield {**EVENT, "data": number}
            following.wait_for_data(*range(number + 1))
        yield {"event_category": "lifecycle", "event_action": "completed"}

    ingested = client.stream(run_id, events(), expected_sequence=1)
    following.wait_for(lambda: following.ended)
    assert ingested == Ingested(6, following.events[-1].id, 6)


def test_a_stream_of_many_events_is_stored_in_order(client, store, run_id):
    ingested = client.stream(run_id, ({**EVENT, "data": n} for n in range(5000)))
    assert ingested.stored == ingested.last_sequence == 5000
    assert [event.data for event in store.get_events(run_id)] == list(range(5000))


def test_an_empty_stream_stores_nothing(client, run_id):
    assert client.stream(run_id, []) == Ingested(0, None, None)


def test_a_refusal_stops_an_endless_stream(client, store, run_id):
    """The client does not wait until the gateway hangs up."""
    sent = []

    def events() -> Iterator[dict]:
        yield EVENT
        yield {"event_category": "lifecycle", "event_action": "completed"}
        while len(sent) < 1_000_000:
            sent.append(1)
            yield {**EVENT, "data": "x" * 100}

    with pytest.raises(RunEnded) as failed:
        client.stream(run_id, events())
    stored = store.get_events(run_id)
    assert failed.value.ingested == Ingested(2, stored[-1].id, 2)
    assert len(sent) < 1_000_000


def test_a_stream_from_another_sequence_is_refused_with_the_runs(client, run_id):
    client.add(run_id, "llm", "stream")
    with pytest.raises(UnexpectedSequence) as failed:
        client.stream(run_id, [EVENT] * 3, expected_sequence=1)
    assert failed.value.last_sequence == 1
    assert failed.value.ingested == Ingested(0, None, None)


def test_a_producer_that_is_overtaken_learns_what_it_has_stored(client, store, run_id):
    def events() -> Iterator[dict]:
        yield EVENT
        wait_until(lambda: len(store.get_events(run_id)) == 1, "the first event is stored")
        store.add(run_id, "llm", "stream")
        yield EVENT

    with pytest.raises(UnexpectedSequence) as failed:
        client.stream(run_id, events(), expected_sequence=1)
    assert failed.value.last_sequence == 2
    assert failed.value.ingested == Ingested(1, store.get_events(run_id)[0].id, 1)


def test_an_event_that_cannot_be_stored_ends_its_stream(client, store, run_id):
    with pytest.raises(InvalidEvent, match=r"1\.event_category") as failed:
        client.stream(run_id, [EVENT, {**EVENT, "event_category": "gateway"}, EVENT])
    assert failed.value.ingested == Ingested(1, store.get_events(run_id)[0].id, 1)
    assert len(store.get_events(run_id)) == 1


def test_a_silent_stream_outlives_the_timeout_of_a_proxy(gateway, run_id, monkeypatch):
    monkeypatch.setattr(repeats, "SILENT_SECONDS", 0.1)
    proxy = Proxy(gateway.port, timeout=0.5)

    def events() -> Iterator[dict]:
        yield EVENT
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + 1.5, "the stream was silent for 1.5 s")
        yield EVENT

    try:
        assert Client(proxy.url).stream(run_id, events()).last_sequence == 2
    finally:
        proxy.close()


def test_after_a_broken_connection_nobody_knows_what_was_stored(proxy, store, run_id):
    def events() -> Iterator[dict]:
        yield EVENT
        wait_until(lambda: len(store.get_events(run_id)) == 1, "the first event is stored")
        proxy.cut()
        for _ in range(1000):
            yield EVENT

    with Client(proxy.url) as client, pytest.raises(StoreUnavailable) as failed:
        client.stream(run_id, events())
    assert (failed.value.stored, failed.value.ingested) == (None, None)
