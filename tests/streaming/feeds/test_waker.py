"""The waker: a feed that joins a reader in the middle of its XREAD is followed at once."""

import itertools
import time
from collections.abc import Iterator

import pytest

from app.streaming.event_store import EventStore
from app.streaming.feeds.reader_pool import ReaderPool
from app.streaming.feeds.readers import make_readers
from app.streaming.feeds.tail_reader import CHECK_SECONDS
from app.streaming.follow.subscriber import Subscriber
from tests.servers import ReplicatedServers, wait_until
from tests.streaming.follow.streams import events_of, name_of, subscribe


@pytest.fixture
def replicated(tmp_path) -> Iterator[ReplicatedServers]:
    servers = ReplicatedServers(tmp_path)
    yield servers
    servers.stop()


@pytest.fixture
def store_behind_sentinel(replicated) -> EventStore:
    return EventStore(replicated.url)


@pytest.mark.parametrize("store_name", ["store", "store_behind_sentinel"])
def test_a_feed_that_joins_a_blocked_reader_gets_its_events_at_once(request, run_id, store_name):
    store: EventStore = request.getfixturevalue(store_name)
    readers = make_readers(store)
    silent = follow_silent_run(store, readers, run_id)
    check_that_another_feed_is_followed_at_once(store, readers, run_id)
    silent.close()


def test_a_feed_that_joins_after_a_failover_gets_its_events_at_once(
    store_behind_sentinel, replicated, run_id
):
    """The former master runs on, and would take a CLIENT UNBLOCK that ends nothing."""
    store, former = store_behind_sentinel, replicated.master.port
    readers = make_readers(store)
    silent = follow_silent_run(store, readers, run_id)
    check_that_another_feed_is_followed_at_once(store, readers, f"{run_id}-before")
    replicated.switch()

    def blocks_at_new_master() -> bool:
        link = readers._readers[0]._link
        return bool(link and link.port != former and readers._readers[0].blocked_client)

    wait_until(blocks_at_new_master, "the reader blocks at the new master")
    check_that_another_feed_is_followed_at_once(store, readers, f"{run_id}-after")
    silent.close()


def follow_silent_run(store: EventStore, readers: ReaderPool, run_id: str) -> Subscriber:
    """Return a subscriber whose reader blocks for its silent run."""
    silent = subscribe(store, readers, f"{run_id}-silent")
    list(itertools.islice(silent.chunks(), 2))
    wait_until(lambda: readers._readers[0].blocked_client, "the reader blocks")
    return silent


def check_that_another_feed_is_followed_at_once(
    store: EventStore, readers: ReaderPool, run_id: str
) -> None:
    subscriber = subscribe(store, readers, run_id)
    events = events_of(subscriber.chunks())
    assert [name_of(next(events)) for _ in range(2)][-1] == "gateway.caught_up"
    store.add(run_id, "lifecycle", "completed")
    began = time.monotonic()
    # Then its next event does not wait for the end of that block
    assert name_of(next(events)) == "lifecycle.completed"
    assert time.monotonic() - began < CHECK_SECONDS / 5
    subscriber.close()
