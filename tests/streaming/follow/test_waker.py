"""The waker: a feed that joins a reader in the middle of its XREAD is followed at once."""

import itertools
import time
from collections.abc import Iterator

import pytest

from app.streaming.event_store import EventStore
from app.streaming.follow.reader_pool import ReaderPool
from app.streaming.follow.tail_reader import CHECK_SECONDS
from tests.servers import ReplicatedServers, wait_until
from tests.streaming.follow.streams import events_of, name_of, subscribe


@pytest.fixture
def store_behind_sentinel(tmp_path) -> Iterator[EventStore]:
    servers = ReplicatedServers(tmp_path)
    yield EventStore(servers.url)
    servers.stop()


@pytest.mark.parametrize("store_name", ["store", "store_behind_sentinel"])
def test_a_feed_that_joins_a_blocked_reader_gets_its_events_at_once(request, run_id, store_name):
    # Given a reader that blocks for one silent run
    store: EventStore = request.getfixturevalue(store_name)
    readers = ReaderPool(store)
    silent = subscribe(store, readers, f"{run_id}-silent")
    list(itertools.islice(silent.chunks(), 2))
    wait_until(lambda: readers._readers[0].blocked_client, "the reader blocks")
    # When another run is followed
    subscriber = subscribe(store, readers, run_id)
    events = events_of(subscriber.chunks())
    assert [name_of(next(events)) for _ in range(2)][-1] == "gateway.caught_up"
    store.add(run_id, "lifecycle", "completed")
    began = time.monotonic()
    # Then its next event does not wait for the end of that block
    assert name_of(next(events)) == "lifecycle.completed"
    assert time.monotonic() - began < CHECK_SECONDS / 5
    for each in (silent, subscriber):
        each.close()
