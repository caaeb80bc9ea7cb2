"""Readers that connect again, while Redis has less of a log than the archive."""

import contextlib
from collections.abc import Iterator

import pytest

from app.streaming.event_store import EventStore
from app.streaming.feeds import tail_reader
from app.streaming.feeds.feed import Feed
from app.streaming.feeds.reader_pool import ReaderPool
from app.streaming.feeds.readers import make_readers
from app.streaming.feeds.tail_reader import TailReader
from tests.archive.archiving import archive_log
from tests.archive.logs import append
from tests.archive.reading.test_streams import Listener, Tap
from tests.servers import RedisServer, wait_until
from tests.streaming.event_store.logs import key

RUN, OTHER = "archived", "other"


@pytest.fixture
def server(tmp_path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def store(server, archive) -> EventStore:
    return EventStore(server.url, archive=archive)


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@contextlib.contextmanager
def followed(readers: ReaderPool, store: EventStore, run_id: str) -> Iterator[tuple[Feed, Tap]]:
    listener, tap = Listener(), Tap()
    feed = readers.join(run_id, store.state(run_id), listener)
    feed.tap(tap)
    yield feed, tap
    readers.leave(feed, listener)


def break_connections(client, store: EventStore) -> None:
    client.client_kill_filter(_type="normal", skipme=True)
    store.release_idle()


def has_verified(reader: TailReader, before: object) -> bool:
    is_new = reader._link is not None and reader._link is not before
    return is_new and not reader._unverified and not reader._looked_up


@pytest.mark.parametrize(
    ("left", "late"), [(None, 0), (0, 0), (1, 0), (9, 0), (0, 2), (1, 2), (5, 2)]
)
def test_what_only_the_archive_has_is_no_reason_for_a_reset(store, client, archive, left, late):
    """`late` events were never archived."""
    readers = make_readers(store)
    append(store, RUN, 4, ended=False)
    append(store, OTHER, 1, ended=False)
    with (
        followed(readers, store, OTHER) as (other, _),
        followed(readers, store, RUN) as (feed, tap),
    ):
        [reader] = readers._readers
        append(store, RUN, 5)
        archive_log(archive, store, RUN)
        for _ in range(late):
            store.add(RUN, "lifecycle", "started")
        wait_until(lambda: feed.position.sequence == 10 + late, "the feed has read all")
        before = reader._link
        with client.pipeline(transaction=True) as pipeline:
            if left is None:
                pipeline.delete(key(RUN))
            else:
                pipeline.xtrim(key(RUN), maxlen=left, approximate=False)
            pipeline.client_kill_filter(_type="normal", skipme=True)
            pipeline.execute()
        store.release_idle()
        wait_until(lambda: has_verified(reader, before), "the reader has connected again")
        store.add(OTHER, "step", "done")
        wait_until(lambda: other.position.sequence == 2, "the reader goes on")
        if left is not None:
            store.add(RUN, "lifecycle", "started")
            late += 1
            wait_until(lambda: feed.position.sequence == 10 + late, "the next event has come")
        assert tap.taken == list(range(5, 11 + late))


def add_at(client, ms: int, sequence: int) -> None:
    event = {
        "timestamp": "2026-01-01T00:00:00.000Z",
        "sequence": sequence,
        "epoch": 1,
        "event_category": "llm",
        "event_action": "stream",
        "data": "null",
    }
    client.xadd(key(RUN), event, f"{ms}-0")


def test_what_was_looked_up_before_an_older_state_was_restored_is_verified(
    store, client, archive, storage, monkeypatch
):
    """The storage takes its time, and the reader has connected to the restored server meanwhile."""
    monkeypatch.setattr(tail_reader, "READ_COUNT", 2)
    readers = make_readers(store)
    for number in (1, 2, 3):
        add_at(client, number, number)
    state, backup = store.state(RUN), client.dump(key(RUN))
    for number in range(4, 9):
        add_at(client, 1000 + number, number)
    archive_log(archive, store, RUN, part_size=10)
    client.xtrim(key(RUN), maxlen=2, approximate=False)
    append(store, OTHER, 1, ended=False)
    store.state(RUN)  # now the manifest is known, and the part will be asked for
    storage.asked.clear()
    storage.open.clear()
    with followed(readers, store, OTHER) as (other, _):
        [reader] = readers._readers
        feed, tap = Feed(RUN, state), Tap()
        feed.tap(tap)
        reader.add(feed)
        reader.check_now()
        wait_until(lambda: storage.asked, "the archive was asked")
        before = reader._link
        with client.pipeline(transaction=True) as pipeline:
            pipeline.restore(key(RUN), 0, backup, replace=True)
            add_at(pipeline, 200, 4)
            add_at(pipeline, 201, 5)
            add_at(pipeline, 2000, 6)
            pipeline.execute()
        break_connections(client, store)
        wait_until(lambda: reader._link not in (None, before), "the reader has connected again")
        store.add(OTHER, "step", "done")
        wait_until(lambda: other.position.sequence == 2, "the reader goes on")
        storage.open.set()
        wait_until(lambda: feed.position.id.ms == 2000 and tap.taken[-1] == 6, "it has read all")
        assert tap.taken == [4, 5, "gateway.reset", 1, 2, 3, 4, 5, 6]
        reader.remove(feed)
