"""Producers that append the same numbered events in batches or as lines, and never twice."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from app.client import Client
from app.streaming.errors import StoreUnavailable, UnexpectedSequence
from app.streaming.event_store import EventStore
from tests.servers import wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}
COMPLETED = {"event_category": "lifecycle", "event_action": "completed"}
EVENTS = 300


def data_of(store: EventStore, run_id: str) -> list:
    return [event.data for event in store.get_events(run_id) if event.category == "llm"]


def has_reached(store: EventStore, run_id: str, sequence: int) -> bool:
    return store.state(run_id).last_sequence >= sequence


def append_batches(client: Client, run_id: str) -> list[str]:
    """Append all events, and return their ids."""
    ids = []
    for first in range(0, EVENTS, 5):
        ids += client.add_many(run_id, [{**EVENT, "data": first + each} for each in range(5)])
        time.sleep(0.02)
    return [*ids, client.add(run_id, **COMPLETED)]


def stream_all(client: Client, run_id: str) -> set[tuple[int, str]]:
    """Stream all events, and after every fault the rest. Returns each acknowledged last event."""
    acknowledged = set()

    def events(stored: int) -> Iterator[dict]:
        for number in range(stored, EVENTS):
            yield {**EVENT, "data": number}
            time.sleep(0.004)
        yield COMPLETED

    while not (state := client.state(run_id) or {"last_sequence": 0, "ended": False})["ended"]:
        stored = state["last_sequence"]
        try:
            ingested = client.stream(run_id, events(stored), expected_sequence=stored + 1)
        except (StoreUnavailable, UnexpectedSequence) as error:
            ingested = error.ingested
        if ingested is not None and ingested.stored:
            acknowledged.add((ingested.last_sequence, ingested.last_id))
    return acknowledged


def check_faults(
    url: str, store: EventStore, run_id: str, fault: Callable[[], object], times: int = 2
) -> None:
    """Append in batches and as lines, and follow both, while a fault comes some times."""
    batched, streamed = f"{run_id}-batched", f"{run_id}-streamed"
    with Client(url) as client, ThreadPoolExecutor() as pool:
        following = [pool.submit(list, client.follow(run)) for run in (batched, streamed)]
        appending = pool.submit(append_batches, client, batched)
        streaming = pool.submit(stream_all, client, streamed)
        for so_far in (EVENTS * number // (times + 1) for number in range(1, times + 1)):
            for run in (batched, streamed):
                wait_until(partial(has_reached, store, run, so_far), f"{so_far} events of {run}")
            fault()
        ids, acknowledged = appending.result(30), streaming.result(30)
        followed = [each.result(30) for each in following]
    for run, events in zip((batched, streamed), followed, strict=True):
        assert data_of(store, run) == list(range(EVENTS))
        assert [event for event in events if event.id] == store.get_events(run)
    assert [event.id for event in followed[0] if event.id] == ids
    assert acknowledged <= {(event.sequence, event.id) for event in followed[1]}
