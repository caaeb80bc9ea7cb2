"""A response of a real gateway that is cut off at any byte is a lost response."""

import contextlib
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from app.client import Client, Ingested, follower, transport
from app.streaming import batch_sender
from app.streaming.errors import RunEnded, StoreUnavailable
from app.streaming.new_event import NewEvent
from tests.integration.client.proxy import Proxy

EVENT = {"event_category": "llm", "event_action": "stream"}

pytestmark = pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    without_pauses = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None)
    for module in (transport, follower, batch_sender):
        monkeypatch.setattr(module, "time", without_pauses)


@pytest.fixture
def client(proxy) -> Iterator[Client]:
    with Client(proxy.url) as client:
        yield client


def cut_at_every_byte(proxy: Proxy, reset: bool, call: Callable[[], object]) -> None:
    """Make the call again and again, each time with a response that is cut one byte later.

    Resets differ little from ends, so they come at every third byte.
    """
    length = 0
    while True:
        proxy.cut_response_after(length, reset=reset)
        call()
        if not proxy.has_cut_response:
            assert length > 100, "a whole response is longer"
            return
        length += 3 if reset else 1


@pytest.mark.parametrize("events", [1, 2])
def test_appends_are_repeated_and_stored_once(proxy, client, store, run_id, reset, events):
    ids: list[str] = []

    def append() -> None:
        ids.extend(client.append_new(run_id, [NewEvent.of("llm", "stream")] * events).ids())

    cut_at_every_byte(proxy, reset, append)
    assert [event.id for event in store.get_events(run_id)] == ids


def test_an_appender_stores_each_event_once(proxy, client, store, run_id, reset):
    run, emitted = client.appender(run_id), []

    def emit() -> None:
        emitted.append(len(emitted))
        run.emit("llm", "stream", emitted[-1])
        run.flush()

    cut_at_every_byte(proxy, reset, emit)
    run.close()
    assert [event.data for event in store.get_events(run_id)] == emitted
    assert run.stored == len(emitted)


def test_reads_are_repeated(proxy, client, store, run_id, reset):
    store.add_many(run_id, [EVENT] * 2)
    events, state = store.get_events(run_id), client.state(run_id)
    pages, states = [], []
    cut_at_every_byte(proxy, reset, lambda: pages.append(client.get_events(run_id)))
    cut_at_every_byte(proxy, reset, lambda: states.append(client.state(run_id)))
    assert all(page == events for page in pages)
    assert all(each == {**state, "ttl": each["ttl"]} for each in states)


def test_refusals_are_asked_for_again(proxy, client, store, run_id, reset):
    store.add(run_id, "lifecycle", "completed")

    def add() -> None:
        with pytest.raises(RunEnded):
            client.add(run_id, "llm", "stream")

    cut_at_every_byte(proxy, reset, add)


def test_a_missing_state_is_asked_for_again(proxy, client, run_id, reset):
    states = []
    cut_at_every_byte(proxy, reset, lambda: states.append(client.state(run_id)))
    assert not any(states)


def test_a_follower_goes_on_and_sees_each_event_once(proxy, client, store, run_id, reset):
    store.add_many(run_id, [EVENT] * 2)
    store.add(run_id, "lifecycle", "completed")
    ids = [event.id for event in store.get_events(run_id)]

    def follow() -> None:
        assert [event.id for event in client.follow(run_id) if event.id] == ids

    cut_at_every_byte(proxy, reset, follow)


def test_a_follower_of_an_ended_run_asks_again(proxy, client, store, run_id, reset):
    last_id = store.add(run_id, "lifecycle", "completed")
    cut_at_every_byte(proxy, reset, lambda: list(client.follow(run_id, last_id)))


def test_a_stream_raises_that_nobody_knows(proxy, client, store, run_id, reset):
    results: list[Ingested | None] = []

    def stream() -> None:
        with contextlib.suppress(StoreUnavailable):
            results.append(client.stream(run_id, [EVENT]))
            return
        results.append(None)

    cut_at_every_byte(proxy, reset, stream)
    *cut, whole = results
    assert not any(cut)
    assert whole.stored == 1
    assert len(store.get_events(run_id)) == len(results)
    proxy.cut_response_after(100, reset=reset)
    with pytest.raises(StoreUnavailable) as failed:
        client.stream(run_id, [EVENT])
    assert (failed.value.stored, failed.value.ingested) == (None, None)
