"""Streams of a run of which Redis has less than the archive."""

import contextlib
import json
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.archive.archive import Archive
from app.streaming.event_id import EventId
from app.streaming.event_store import EventStore
from app.streaming.feeds import feed_group
from app.streaming.feeds.feed import Feed
from app.streaming.feeds.reader_pool import ReaderPool
from app.streaming.feeds.readers import make_readers
from app.streaming.feeds.tail_reader import TailReader
from app.streaming.follow.heartbeats import Heartbeats
from app.streaming.follow.history import History
from app.streaming.follow.long_poll import LongPoll
from app.streaming.follow.merged_replay import MergedReplay
from app.streaming.follow.start import Start
from app.streaming.follow.subscriber import Services, Subscriber
from app.streaming.log.log_state import LogState
from app.streaming.merged.formats import MergedLines
from app.streaming.wire.formats import Filter, StreamFormat
from tests.archive.archiving import archive_log
from tests.archive.logs import append
from tests.archive.memory_storage import MemoryStorage
from tests.servers import RedisServer, wait_until
from tests.streaming.event_store.logs import InBackground, key
from tests.streaming.follow.streams import events_of, name_of, subscribe

_runs = count(1)


@pytest.fixture
def client(redis_client):
    return redis_client


@pytest.fixture
def store(redis_server, archive) -> Iterator[EventStore]:
    store = EventStore(redis_server.url, archive=archive)
    yield store
    store.engine.close()  # the thread of a waker keeps it for ever


@pytest.fixture
def readers(store) -> ReaderPool:
    return make_readers(store)


@pytest.fixture
def ids(store, archive, client, run_id) -> list[str]:
    """The ids of a hundred archived events of a log that has gone."""
    ids = append(store, run_id, 99)
    archive_log(archive, store, run_id, part_size=30)
    client.delete(key(run_id))
    return ids


def seen_by(subscriber: Subscriber) -> list[object]:
    """Return what a stream sends, up to its end: sequences, and the names of control events."""
    try:
        events = list(events_of(subscriber.chunks()))
    finally:
        subscriber.close()
    beats = ("gateway.heartbeat", "gateway.progress")
    return [each["sequence"] or name_of(each) for each in events if name_of(each) not in beats]


ALL = [*range(1, 101), "gateway.caught_up"]


def test_a_stream_of_a_log_that_has_gone_has_the_whole_run_and_ends(store, readers, ids, run_id):
    assert seen_by(subscribe(store, readers, run_id)) == ALL
    assert len(readers) == 0


@pytest.mark.parametrize("left", [99, 70, 60, 31, 1, 0])
def test_a_stream_goes_on_in_redis_where_that_begins(store, readers, client, archive, run_id, left):
    append(store, run_id, 99)
    archive_log(archive, store, run_id, part_size=30)
    client.xtrim(key(run_id), maxlen=left, approximate=False)
    assert seen_by(subscribe(store, readers, run_id)) == ALL


@pytest.mark.parametrize("left", [None, 40])
@pytest.mark.parametrize("position", [0, 1, 30, 59, 60, 61, 98])
def test_a_stream_resumes_at_every_event(store, readers, client, archive, run_id, left, position):
    ids = append(store, run_id, 99)
    archive_log(archive, store, run_id, part_size=30)
    client.delete(key(run_id)) if left is None else client.xtrim(
        key(run_id), maxlen=left, approximate=False
    )
    rest = ALL[position + 1 :]
    start = Start(id=EventId.parse(ids[position]))
    assert seen_by(subscribe(store, readers, run_id, start)) == rest
    assert seen_by(subscribe(store, readers, run_id, Start(sequence=position + 2))) == rest
    assert seen_by(subscribe(store, readers, run_id, Start(tail=99 - position))) == rest


def test_resuming_reads_only_the_part_that_has_the_event(
    store, readers, storage, archive, client, run_id
):
    ids = append(store, run_id, 999)
    manifest = archive_log(archive, store, run_id, part_size=100)
    client.delete(key(run_id))
    for start in (Start(id=EventId.parse(ids[549])), Start(sequence=551)):
        storage.asked.clear()
        other = EventStore(client=client, archive=Archive(storage))
        chunks = events_of(subscribe(other, make_readers(other), run_id, start).chunks())
        assert next(each for each in chunks if each["sequence"])["sequence"] == 551
        chunks.close()
        parts = [name for name in storage.asked if name.endswith(".gz")]
        assert parts == [manifest.parts[5].name]


@pytest.mark.parametrize("start", [Start(latest=True), Start(tail=0)], ids=str)
def test_nothing_follows_the_end_of_a_log_that_has_gone(store, readers, ids, run_id, start):
    assert subscribe(store, readers, run_id, start).nothing_follows()
    last = Start(id=EventId.parse(ids[-1]))
    assert subscribe(store, readers, run_id, last).nothing_follows()


def test_a_client_with_the_id_of_another_log_gets_a_reset(store, readers, ids, run_id):
    for cursor in (EventId(1, 0), EventId(2**50, 0)):
        assert seen_by(subscribe(store, readers, run_id, Start(id=cursor))) == [
            "gateway.reset",
            *ALL,
        ]


@pytest.mark.parametrize("left", [None, 0, 1, 50])
@pytest.mark.parametrize("at", [1, 31, 64, 99])
def test_a_log_that_is_trimmed_or_goes_while_it_is_read_is_read_on_from_the_archive(
    store, readers, client, archive, run_id, at, left
):
    append(store, run_id, 99)
    archive_log(archive, store, run_id, part_size=30)
    subscriber, seen = subscribe(store, readers, run_id), []
    for event in events_of(subscriber.chunks()):
        if event["event"]["action"] == "heartbeat":
            continue
        seen.append(event["sequence"] or name_of(event))
        if event["sequence"] == at:
            client.delete(key(run_id)) if left is None else client.xtrim(
                key(run_id), maxlen=left, approximate=False
            )
    assert seen == ALL
    subscriber.close()


def test_a_run_that_begins_again_while_the_archive_is_read_is_a_reset(store, readers, ids, run_id):
    subscriber, seen = subscribe(store, readers, run_id), []
    for event in events_of(subscriber.chunks()):
        seen.append(event["sequence"] or name_of(event))
        if seen == [1]:
            append(store, run_id, 1)
    seen = [each for each in seen if each not in ("gateway.caught_up", "gateway.heartbeat")]
    if "gateway.reset" in seen:
        reset = seen.index("gateway.reset")
        assert seen[reset + 1 :] == [1, 2]
        seen = seen[:reset]
    else:  # the stream was over before; the client comes back, and gets the reset then
        assert len(seen) == 100
    assert seen == list(range(1, len(seen) + 1))
    subscriber.close()


def test_what_neither_redis_nor_the_archive_has_is_a_gap(store, readers, client, archive, run_id):
    append(store, run_id, 49)
    archive_log(archive, store, run_id, part_size=20)
    store.add(run_id, "lifecycle", "started")
    append(store, run_id, 48)
    client.xtrim(key(run_id), maxlen=10, approximate=False)
    expected = [*range(1, 51), "gateway.gap", *range(91, 101), "gateway.caught_up"]
    assert seen_by(subscribe(store, readers, run_id)) == expected
    assert seen_by(subscribe(store, readers, run_id, Start(sequence=60))) == expected[50:]


@pytest.mark.parametrize("left", [None, 20])
def test_a_damaged_part_is_a_gap_and_the_rest_is_sent(
    store, readers, client, archive, storage, run_id, left, caplog
):
    ids = append(store, run_id, 99)
    manifest = archive_log(archive, store, run_id, part_size=25)
    client.delete(key(run_id)) if left is None else client.xtrim(
        key(run_id), maxlen=left, approximate=False
    )
    damaged = manifest.parts[1].name
    storage.objects[damaged] = storage.objects[damaged][1:]
    expected = [*range(1, 26), "gateway.gap", *range(51, 101), "gateway.caught_up"]
    assert seen_by(subscribe(store, readers, run_id)) == expected
    assert seen_by(subscribe(store, readers, run_id, Start(sequence=30))) == expected[25:]
    cursor = Start(id=EventId.parse(ids[30]))
    assert seen_by(subscribe(store, readers, run_id, cursor)) == expected[25:]
    assert damaged in caplog.text


@pytest.mark.parametrize("part", [0, -1])
def test_a_gap_at_either_end_of_the_log_is_told(
    store, readers, client, archive, storage, run_id, part
):
    append(store, run_id, 99)
    manifest = archive_log(archive, store, run_id, part_size=25)
    client.delete(key(run_id))
    del storage.objects[manifest.parts[part].name]
    seen = seen_by(subscribe(store, readers, run_id))
    rest = [*range(26, 101)] if part == 0 else [*range(1, 76)]
    assert [each for each in seen if isinstance(each, int)] == rest
    assert seen.index("gateway.gap") == (0 if part == 0 else 75)
    assert seen.count("gateway.gap") == 1


def test_a_stream_waits_while_the_storage_is_away(store, readers, storage, ids, run_id):
    subscriber = subscribe(store, readers, run_id, heartbeat_seconds=0.05)
    storage.is_away = True
    seen = []
    for event in events_of(subscriber.chunks()):
        if event["event"]["action"] == "heartbeat":
            storage.is_away = False
        else:
            seen.append(event["sequence"] or name_of(event))
    assert seen == ALL
    subscriber.close()


def test_a_stream_that_awaits_a_run_asks_the_archive_no_more(store, readers, storage, run_id):
    subscriber = subscribe(store, readers, run_id, heartbeat_seconds=0.01)
    chunks = events_of(subscriber.chunks())
    assert name_of(next(chunks)) == "gateway.heartbeat"
    wait_until(lambda: name_of(next(chunks)) == "gateway.heartbeat", "it waits")
    asked = len(storage.asked)
    reader = next(iter(readers._readers))
    for _ in range(3):
        reader._group.check()
    assert len(storage.asked) == asked == 1
    store.add(run_id, "lifecycle", "completed")
    assert [each["sequence"] for each in chunks if each["sequence"]] == [1]
    subscriber.close()


def test_a_long_poll_gets_what_is_archived(store, readers, ids, run_id):
    page = LongPoll(run_id, store, readers).wait(5, after=EventId.parse(ids[97]), limit=10)
    assert [event.sequence for event in page.events] == [99, 100]
    page = LongPoll(run_id, store, readers).wait(5, after=EventId.parse(ids[99]), limit=10)
    assert page.is_last
    assert len(readers) == 0


def merged(store, readers, starts) -> Subscriber:
    services = Services(store, readers, History(store), Heartbeats(15.0), heartbeat_seconds=0.05)
    wire = StreamFormat(Filter(), MergedLines(batched=False))
    return Subscriber(MergedReplay(starts, services), wire, services)


def test_a_merged_stream_has_archived_runs_too(store, readers, ids, run_id):
    live = f"{run_id}-live"
    append(store, live, 4)
    seen: dict[str, list[int]] = {run_id: [], live: []}
    subscriber = merged(store, readers, {run_id: Start(id=EventId.parse(ids[49])), live: Start()})
    for event in events_of(subscriber.chunks()):
        if event["sequence"]:
            seen[event["run_id"]].append(event["sequence"])
    assert seen == {run_id: list(range(51, 101)), live: [1, 2, 3, 4, 5]}
    subscriber.close()


def test_the_other_runs_of_a_merged_stream_do_not_wait_for_the_storage(
    store, readers, storage, ids, run_id
):
    live = f"{run_id}-live"
    append(store, live, 4)
    storage.is_away = True
    subscriber = merged(store, readers, {run_id: Start(), live: Start()})
    seen = []
    for event in events_of(subscriber.chunks()):
        if event["sequence"]:
            seen.append((event["run_id"], event["sequence"]))
        if len(seen) == 5:
            storage.is_away = False
    assert seen == [*((live, n) for n in range(1, 6)), *((run_id, n) for n in range(1, 101))]
    subscriber.close()


# What the readers see


class Listener:
    def wake(self) -> None:
        """It looks by itself."""


class Tap:
    """Keeps what a feed publishes: sequences, and the names of notices."""

    def __init__(self) -> None:
        self.taken: list[object] = []

    def take(self, batch) -> None:
        frames = [json.loads(frame.json) for frame in batch.frames]
        self.taken += [each["sequence"] or name_of(each) for each in frames]

    def flush(self) -> None:
        """It keeps what it has."""


def tapped(run_id: str, state: LogState) -> tuple[Feed, Tap]:
    """Return a feed that nobody reads yet, and its tap."""
    feed, tap = Feed(run_id, state), Tap()
    feed.tap(tap)
    return feed, tap


def test_a_feed_whose_log_goes_stays_where_it_is(store, readers, client, archive, run_id):
    append(store, run_id, 9)
    feed = readers.join(run_id, store.state(run_id), Listener())
    position = feed.position
    archive_log(archive, store, run_id)
    client.delete(key(run_id))
    reader = next(iter(readers._readers))
    reader._group.check()
    wait_until(lambda: not reader._group._looked_up, "the archive was asked")
    assert feed.position == position
    assert feed.ended


def test_a_feed_that_is_behind_what_was_trimmed_goes_on_in_the_archive(
    redis_server, client, archive, run_id, monkeypatch
):
    """Its reader was away while the run ended, was archived and trimmed."""
    monkeypatch.setattr(feed_group, "READ_COUNT", 7)
    paused = EventStore(redis_server.url, archive=archive)
    append(paused, run_id, 4, ended=False)
    state = paused.state(run_id)
    append(paused, run_id, 35)
    archive_log(archive, paused, run_id, part_size=10)
    client.xtrim(key(run_id), maxlen=5, approximate=False)
    feed, tap = tapped(run_id, state)
    TailReader(paused, paused.engine).add(feed)
    wait_until(lambda: feed.position.sequence == 40, "the reader has read all")
    wait_until(lambda: feed.ended, "the run has ended")
    assert tap.taken == list(range(5, 41))


def test_so_does_a_feed_that_waited_for_the_run_to_begin(redis_server, client, archive, run_id):
    """Its reader was away from before the run began until it was archived, trimmed and reopened."""
    store = EventStore(redis_server.url, archive=archive)
    state = store.state(run_id)
    append(store, run_id, 39)
    archive_log(archive, store, run_id, part_size=10)
    client.xtrim(key(run_id), maxlen=0)
    store.add(run_id, "lifecycle", "started")
    feed, tap = tapped(run_id, state)
    TailReader(store, store.engine).add(feed)
    wait_until(lambda: feed.position.sequence == 41, "the reader has read all")
    assert tap.taken == list(range(1, 42))


def test_what_a_reader_finds_nowhere_is_a_gap_as_ever(redis_server, client, archive, run_id):
    store = EventStore(redis_server.url, archive=archive)
    append(store, run_id, 4, ended=False)
    state = store.state(run_id)
    append(store, run_id, 9, ended=False)
    client.xtrim(key(run_id), maxlen=5, approximate=False)
    feed, tap = tapped(run_id, state)
    TailReader(store, store.engine).add(feed)
    wait_until(lambda: feed.position.sequence == 13, "the reader has read all")
    assert tap.taken == ["gateway.gap", *range(9, 14)]
    # It follows the log again
    store.add(run_id, "step", "done")
    wait_until(lambda: feed.position.sequence == 14, "the next event has come")


def test_a_stalled_storage_holds_up_no_other_feed_of_the_reader(
    redis_server, client, archive, storage, run_id
):
    store, other = EventStore(redis_server.url, archive=archive), f"{run_id}-other"
    append(store, run_id, 4, ended=False)
    append(store, other, 4, ended=False)
    state = store.state(run_id)
    append(store, run_id, 9)
    archive_log(archive, store, run_id)
    client.xtrim(key(run_id), maxlen=5, approximate=False)
    readers = make_readers(store)
    storage.open.clear()
    stalled = readers.join(run_id, state, Listener())
    follows = readers.join(other, store.state(other), Listener())
    reader = next(iter(readers._readers))
    wait_until(lambda: storage.asked, "the archive was asked")
    for number in range(5, 9):
        store.add(other, "step", "done")
        wait_until(lambda: follows.position.sequence == number, "the other run goes on")  # noqa: B023
    assert stalled.position.sequence == 4
    assert reader._group._looked_up
    storage.open.set()
    wait_until(lambda: stalled.position.sequence == 14, "the stalled run goes on")


class TrimmedStore(EventStore):
    """A store that trims or removes a log between its reads, as a schedule says."""

    def __init__(self, url: str, archive: Archive, run_id: str):
        super().__init__(url, archive=archive)
        self._run_id = run_id
        self.schedule: list[int | None] = []

    def interrupt(self) -> None:
        if self.schedule:
            left = self.schedule.pop()
            if left is None:
                self.engine.client.delete(key(self._run_id))
            else:
                self.engine.client.xtrim(key(self._run_id), maxlen=left, approximate=False)

    def entries(self, *arguments):
        with self.interruptions():
            return super().entries(*arguments)

    def entries_after(self, *arguments):
        with self.interruptions():
            return super().entries_after(*arguments)

    def read_blocking(self, *arguments):
        with self.interruptions():
            return super().read_blocking(*arguments)

    def _inspect(self, *arguments, **options):
        with self.interruptions():
            return super()._inspect(*arguments, **options)

    def _read_in_redis(self, *arguments):
        with self.interruptions():
            return super()._read_in_redis(*arguments)

    @contextlib.contextmanager
    def interruptions(self) -> Iterator[None]:
        self.interrupt()
        try:
            yield
        finally:
            self.interrupt()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.integers(1, 130),
    part_size=st.integers(1, 60),
    before=st.one_of(st.none(), st.integers(0, 130)),
    schedule=st.lists(
        st.one_of(st.none(), st.just(1000), st.just(1000), st.integers(0, 130)), max_size=20
    ),
    start=st.one_of(
        st.just("earliest"),
        st.tuples(st.just("tail"), st.integers(1, 140)),
        st.tuples(st.just("id"), st.integers(0, 129)),
        st.tuples(st.just("sequence"), st.integers(1, 130)),
    ),
    others=st.integers(0, 2),
)
def test_every_event_is_sent_once_and_in_order_whenever_the_log_is_trimmed_or_goes(
    redis_server: RedisServer, events, part_size, before, schedule, start, others
):
    run_id = f"archived-property-{next(_runs)}"
    store = TrimmedStore(redis_server.url, Archive(MemoryStorage()), run_id)
    ids = append(store, run_id, events)
    total = events + 1
    archive_log(store._archived._archive, store, run_id, part_size)
    store.schedule = [before]
    store.interrupt()
    store.schedule = schedule
    match start:
        case "earliest":
            wanted, first = Start(), 1
        case ("tail", number):
            wanted, first = Start(tail=number), max(1, total - number + 1)
        case ("id", number):
            at = min(number, events - 1)
            wanted, first = Start(id=EventId.parse(ids[at])), at + 2
        case ("sequence", number):
            wanted, first = Start(sequence=min(number, total)), min(number, total)
    readers = make_readers(store)
    streams = [subscribe(store, readers, run_id, wanted) for _ in range(1 + others)]
    found = [InBackground(lambda stream=each: seen_by(stream)) for each in streams]
    for each in found:
        assert each.wait() == [*range(first, total + 1), "gateway.caught_up"]
    assert len(readers) == 0
    store.engine.close()
