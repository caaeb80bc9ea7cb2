"""The replay: history, then live, without a gap or a double, whatever happens in between."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.streaming.errors import InvalidInput, StoreUnavailable
from app.streaming.event_id import LAST, EventId
from app.streaming.event_store import EventStore
from app.streaming.feeds.feed import Feed
from app.streaming.feeds.grouped_readers import GroupedReaders
from app.streaming.feeds.reader_pool import ReaderPool
from app.streaming.feeds.readers import make_readers
from app.streaming.follow import replay as replay_module
from app.streaming.follow.history import History
from app.streaming.follow.replay import Replay, Wait
from app.streaming.follow.start import Start
from app.streaming.log.log_state import NO_LOG, LogState
from app.streaming.wire.frame_batch import FrameBatch, batches_from
from tests.servers import RedisServer, wait_until
from tests.streaming.follow.streams import events_of, name_of, subscribe

_runs = itertools.count(1)


class InterruptedStore(EventStore):
    """A store that appends events before and after each read, as a schedule says."""

    def __init__(self, url: str, run_id: str, schedule: list[int]):
        super().__init__(url)
        self._run_id = run_id
        self._ended = False
        self.schedule = schedule
        self.appended = 0

    def interrupt(self) -> None:
        for _ in range(self.schedule.pop() if self.schedule else 0):
            self.append_one()

    def append_next(self) -> None:
        """Append the next events of the schedule, and end the run after the last."""
        before = self.appended
        while self.schedule and self.appended == before:
            self.interrupt()
        if self.appended == before and not self._ended:
            self._ended = True
            self.add(self._run_id, "lifecycle", "completed")

    def append_one(self) -> None:
        self.appended += 1
        self.add(self._run_id, "llm", "stream", self.appended)

    def state(self, run_id: str, **options: bool) -> LogState:
        with self.interruptions():
            return super().state(run_id, **options)

    def entries_after(self, *arguments):
        with self.interruptions():
            return super().entries_after(*arguments)

    def read(self, *arguments, **options):
        with self.interruptions():
            return super().read(*arguments, **options)

    def read_in_redis(self, *arguments):
        with self.interruptions():
            return super().read_in_redis(*arguments)

    def before_tail(self, *arguments):
        with self.interruptions():
            return super().before_tail(*arguments)

    @contextlib.contextmanager
    def interruptions(self) -> Iterator[None]:
        self.interrupt()
        try:
            yield
        finally:
            self.interrupt()


class InterruptedReaders(GroupedReaders):
    """Readers that append events before and after a subscriber joins, as a schedule says."""

    def join(self, *arguments):
        self._store.interrupt()
        try:
            return super().join(*arguments)
        finally:
            self._store.interrupt()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.integers(0, 130),
    schedule=st.lists(st.integers(0, 3), min_size=30, max_size=30),
    start=st.one_of(
        st.just("earliest"),
        st.just("latest"),
        st.tuples(st.just("tail"), st.integers(0, 140)),
        st.tuples(st.just("id"), st.integers(0, 129)),
        st.tuples(st.just("sequence"), st.integers(1, 131)),
    ),
    others=st.integers(0, 2),
)
def test_every_event_is_sent_once_and_in_order_at_whatever_moment_it_is_appended(
    redis_server: RedisServer, before, schedule, start, others
):
    # Given a log, which others may follow already
    run_id = f"property-{next(_runs)}"
    store = InterruptedStore(redis_server.url, run_id, [])
    for _ in range(before):
        store.append_one()
    readers = InterruptedReaders(store)
    other_streams = [
        (other, other.chunks())
        for other in (subscribe(store, readers, run_id) for _ in range(others))
    ]
    for _, chunks in other_streams:
        assert any(name_of(event) == "gateway.caught_up" for event in events_of(chunks))
    # When a stream begins while events are appended at every point of its start
    ids = [event.id for event in store.get_events(run_id)]
    start, first = {
        "earliest": lambda: (Start(), 1),
        "latest": lambda: (Start(latest=True), None),
        "tail": lambda: (Start(tail=start[1]), None),
        "id": lambda: (
            (Start(id=EventId.parse(ids[start[1]])), start[1] + 2)
            if start[1] < len(ids)
            else (Start(), 1)
        ),
        "sequence": lambda: (
            Start(sequence=min(start[1], before + 1)),
            min(start[1], before + 1),
        ),
    }[start if isinstance(start, str) else start[0]]()
    store.schedule.extend(schedule)
    subscriber = subscribe(store, readers, run_id, start)
    seen, caught_up = [], 0
    for event in events_of(subscriber.chunks()):
        if event["sequence"] is not None:
            seen.append(event["sequence"])
        caught_up += name_of(event) == "gateway.caught_up"
        if caught_up and event["sequence"] in (None, store.appended):
            store.append_next()
    # Then the stream has sent each event once and in order, up to the end
    total = store.state(run_id).last_sequence
    assert caught_up == 1
    assert seen == list(range(seen[0], total + 1))
    if first is not None:
        assert seen[0] == first
    elif start.tail is not None:
        assert seen[0] <= max(1, total - start.tail)
    for other, chunks in other_streams:
        assert [event["sequence"] for event in events_of(chunks)][-1] == total
        other.close()
    subscriber.close()
    assert len(readers) == 0
    store.engine.close()


@pytest.fixture
def readers(store) -> ReaderPool:
    return make_readers(store)


def test_a_stream_opened_while_redis_is_away_starts_when_redis_is_back(
    redis_server, readers, run_id
):
    class UnavailableStore(EventStore):
        failures = 0

        def state(self, run_id, **options):
            self.fail_at_first()
            return super().state(run_id, **options)

        def entries_after(self, *arguments):
            self.fail_at_first()
            return super().entries_after(*arguments)

        def fail_at_first(self) -> None:
            self.failures += 1
            if self.failures % 4:
                raise StoreUnavailable("Redis is away")

    store = UnavailableStore(redis_server.url)
    store.add(run_id, "lifecycle", "completed")
    subscriber = subscribe(store, readers, run_id, heartbeat_seconds=0.05)
    names = [name_of(event) for event in events_of(subscriber.chunks())]
    assert set(names[:-2]) <= {"gateway.heartbeat", "gateway.progress"}
    assert names[-2:] == ["lifecycle.completed", "gateway.caught_up"]
    assert store.failures == 8
    assert subscriber.reason == "ended"
    subscriber.close()


def test_trimming_the_history_while_it_is_read_sends_a_gap(store, readers, redis_client, run_id):
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    seen = []
    subscriber = subscribe(store, readers, run_id)
    for event in events_of(subscriber.chunks()):
        seen.append(event["sequence"] or event["event"]["action"])
        if event["sequence"] == 1:
            redis_client.xtrim(f"run:{run_id}:events", maxlen=20, approximate=False)
        if seen[-1] == "caught_up":
            subscriber.end("enough")
    first_page = seen.index("gap")
    assert seen[1:] == [*range(1, first_page), "gap", *range(181, 201), "caught_up"]
    subscriber.close()


@pytest.mark.parametrize("start", [Start(), Start(tail=150)], ids=str)
def test_what_is_deleted_from_the_front_while_the_history_is_read_is_a_gap(
    store, readers, redis_client, run_id, start
):
    """Though a newcomer is not told of what was deleted before it asked."""
    ids = [store.add(run_id, "llm", "stream", number) for number in range(200)]
    seen = []
    subscriber = subscribe(store, readers, run_id, start)
    for event in events_of(subscriber.chunks()):
        if len(seen) == 1:  # the first event comes after a heartbeat
            redis_client.xdel(f"run:{run_id}:events", *ids[:180])
        seen.append(event["sequence"] or event["event"]["action"])
        if seen[-1] == "caught_up":
            subscriber.end("enough")
    assert seen.count("gap") == 1
    gap = seen.index("gap")
    assert seen[gap + 1 :] == [*range(181, 201), "caught_up"]
    assert seen[1:gap] == list(range(seen[1], seen[1] + gap - 1))
    subscriber.close()


def test_deleting_the_log_while_its_history_is_read_sends_a_reset(store, readers, run_id):
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    seen = []
    subscriber = subscribe(store, readers, run_id)
    for event in events_of(subscriber.chunks()):
        seen.append(event["sequence"] or event["event"]["action"])
        if event["sequence"] == 1 and event["event"]["category"] == "llm":
            store.delete(run_id)
            store.add(run_id, "lifecycle", "started")
            store.add(run_id, "lifecycle", "completed")
    assert seen.count("reset") == 1
    old, new = seen[1 : seen.index("reset")], seen[seen.index("reset") + 1 :]
    assert old == list(range(1, len(old) + 1))
    assert sorted(new, key=str) == [1, 2, "caught_up"]
    subscriber.close()


def test_the_log_of_a_start_that_was_found_may_be_replaced_before_the_stream_begins(
    store, readers, run_id
):
    """The route looks for the start first, to answer 204."""
    last = [store.add(run_id, "llm", "stream") for _ in range(3)][-1]
    subscriber = subscribe(store, readers, run_id, Start(id=EventId.parse(last)))
    assert not subscriber.nothing_follows()
    store.delete(run_id)
    for action in ("started", "completed"):
        store.add(run_id, "lifecycle", action)
    names = [name_of(event) for event in events_of(subscriber.chunks())]
    assert names.count("gateway.reset") == 1
    assert [name for name in names if name.startswith("lifecycle")] == [
        "lifecycle.started",
        "lifecycle.completed",
    ]
    assert names.index("gateway.reset") < names.index("lifecycle.started")
    subscriber.close()


# What a stream is told when it is ahead of its feed. The reader of these tests reads only when it
# is told to, so that the log can change in every way before it does.


class NoReaders:
    """The feeds of a worker whose readers are all late."""

    def __init__(self) -> None:
        self.feeds: dict[str, Feed] = {}

    def join(self, run_id, state, subscriber) -> Feed:
        feed = self.feeds.setdefault(run_id, Feed(run_id, state))
        feed.join(subscriber, state)
        return feed

    def leave(self, feed, subscriber) -> None:
        feed.leave(subscriber)

    def read(self, store: EventStore, run_id: str) -> None:
        """Read until there is no more, as a reader does."""
        feed, batches = self.feeds[run_id], [True]
        while batches:
            entries, state = store.read(run_id, feed.position.id, 256)
            batches = batches_from(run_id, feed.position, entries, state, whole=True)
            for batch in batches:
                feed.publish(batch, state.ended and batch.end == state.end)


@dataclass
class Sources:
    store: EventStore
    readers: NoReaders
    history: History


@dataclass
class Viewer:
    """Steps through a replay until it has to wait, and keeps what it was sent."""

    run_id: str
    sources: Sources
    start: Start = field(default_factory=Start)
    seen: list[int | str] = field(default_factory=list)
    stream_format: Any = None
    position: Any = None
    client_socket: Any = None

    def __post_init__(self) -> None:
        self.replay = Replay(self.run_id, self.start, self.sources)
        self._steps = self.replay.run(self)

    def __hash__(self) -> int:
        return id(self)

    def wake(self) -> None:
        """It is stepped by the test."""

    def unpark(self, unsent) -> None:
        """It never parks."""

    def step(self) -> list[int | str]:
        """Go on until it waits; return what was sent."""
        new: list[int | str] = []
        for step in self._steps:
            if isinstance(step, Wait):
                break
            if isinstance(step, FrameBatch):
                new += [frame.sequence or frame.action for frame in step.frames]
            else:
                new.append(step.action)
        self.seen += new
        return new

    def sends(self, *expected: int | str) -> bool:
        """Go on until it has sent what is expected next."""
        before = len(self.seen)

        def has_sent() -> bool:
            self.step()
            return len(self.seen) - before >= len(expected)

        wait_until(has_sent, f"it sends {expected}")
        return self.seen[before:] == [*expected]


@pytest.fixture
def sources(any_store) -> Sources:
    return Sources(any_store, NoReaders(), History(any_store))


@pytest.fixture
def add(any_store, run_id):
    def add(count: int) -> list[str]:
        return [any_store.add(run_id, "llm", "stream") for _ in range(count)]

    return add


@pytest.fixture
def ahead(sources, add, run_id, monkeypatch) -> Viewer:
    """A stream that has read five events which the reader of its feed has not read yet."""
    monkeypatch.setattr(replay_module, "PATIENCE_SECONDS", 0.05)
    early = Viewer(run_id, sources)
    add(2)
    assert early.step() == [1, 2, "caught_up"]
    add(3)
    viewer = Viewer(run_id, sources)
    assert viewer.step() == [1, 2, 3, 4, 5, "caught_up"]
    assert sources.readers.feeds[run_id].position.sequence == 2
    return viewer


def test_a_stream_ahead_of_its_feed_waits_for_it(any_store, sources, add, ahead, run_id):
    assert ahead.step() == []
    add(2)
    sources.readers.read(any_store, run_id)
    assert ahead.step() == [6, 7]
    assert ahead.replay.position is sources.readers.feeds[run_id].position


@pytest.mark.parametrize("events", [0, 1, 2, 5, 8])
def test_a_stream_ahead_of_its_feed_gets_the_reset_of_a_new_log(
    any_store, client, sources, add, ahead, run_id, events
):
    client.delete(f"run:{run_id}:events")
    add(events)
    sources.readers.read(any_store, run_id)
    assert ahead.sends("reset", *range(1, events + 1))


def test_a_stream_ahead_of_its_feed_gets_the_gap_of_a_deleted_entry(
    any_store, client, sources, add, ahead, run_id
):
    _, seventh, _ = add(3)
    client.xdel(f"run:{run_id}:events", seventh)
    sources.readers.read(any_store, run_id)
    assert ahead.sends(6, "gap", 8)


def test_a_stream_ahead_of_a_reader_that_stands_still_looks_into_the_log(add, ahead):
    add(2)
    assert ahead.sends(6, 7)


@pytest.mark.parametrize("events", [0, 3, 8])
def test_a_stream_ahead_of_a_reader_that_stands_still_gets_the_reset_from_the_log(
    client, add, ahead, run_id, events
):
    client.delete(f"run:{run_id}:events")
    add(events)
    assert ahead.sends("reset", *range(1, events + 1))


def test_a_stream_ahead_of_a_feed_that_is_checked_again_and_again_looks_into_the_log(
    any_store, client, sources, ahead, run_id
):
    """Each check finds no log, faster than the patience of the stream."""
    client.delete(f"run:{run_id}:events")
    sources.readers.read(any_store, run_id)
    feed = sources.readers.feeds[run_id]
    assert feed.position.is_start

    def is_told() -> bool:
        feed.check(feed.position, NO_LOG)
        return "reset" in ahead.step()

    wait_until(is_told, "the stream is told")


def test_a_log_that_has_had_no_entry_is_not_read_again_and_again(client, ahead, run_id):
    key = f"run:{run_id}:events"
    client.delete(key)
    client.xgroup_create(key, "another", mkstream=True)
    assert ahead.sends("reset")
    assert ahead.step() == []


def test_every_stream_of_a_run_gets_the_notice_wherever_it_stands(
    any_store, client, sources, add, ahead, run_id
):
    latest = Viewer(run_id, sources, Start(latest=True))
    assert latest.step() == ["caught_up"]
    resumed = Viewer(run_id, sources, Start(tail=1))
    assert resumed.step() == [5, "caught_up"]
    client.delete(f"run:{run_id}:events")
    add(2)
    sources.readers.read(any_store, run_id)
    new = Viewer(run_id, sources)
    assert new.step() == [1, 2, "caught_up"]
    for each in (ahead, latest, resumed):
        assert each.sends("reset", 1, 2)


@pytest.mark.parametrize("tail", [1, 3])
def test_what_was_trimmed_is_not_served(any_store, client, sources, add, run_id, tail):
    """Though a follower's feed and the history still have it in memory."""
    early = Viewer(run_id, sources)
    assert early.step() == ["caught_up"]
    add(5)
    sources.readers.read(any_store, run_id)
    early.step()
    client.xtrim(f"run:{run_id}:events", maxlen=1, approximate=False)
    for start in (Start(tail=tail), Start()):
        late = Viewer(run_id, sources, start)
        assert late.step() == [5, "caught_up"]


# Where a stream starts


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (Start(), [1, 2, 3]),
        (Start(latest=True), []),
        (Start(tail=0), []),
        (Start(tail=2), [2, 3]),
        (Start(tail=3), [1, 2, 3]),
        (Start(tail=9), [1, 2, 3]),
    ],
    ids=str,
)
def test_where_a_stream_starts(sources, add, run_id, start, expected):
    add(3)
    assert Viewer(run_id, sources, start).step() == [*expected, "caught_up"]


@pytest.mark.parametrize("tail", [1, 2, 4])
def test_a_tail_counts_what_the_log_retains(client, sources, add, run_id, tail):
    """Who asks for what there is has missed nothing that was deleted before."""
    ids = add(6)
    client.xdel(f"run:{run_id}:events", ids[3])
    expected = {1: [6], 2: [5, 6], 4: [2, 3, 5, 6]}[tail]
    assert Viewer(run_id, sources, Start(tail=tail)).step() == [*expected, "caught_up"]


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [(0, [2, "gap", 4, 5]), (1, ["gap", 4, 5]), (2, [4, 5]), (3, [5]), (4, [])],
)
def test_a_cursor_gets_the_gap_that_comes_after_it(client, sources, add, run_id, cursor, expected):
    """Who has had the deleted entry itself misses nothing."""
    ids = add(5)
    client.xdel(f"run:{run_id}:events", ids[2])
    viewer = Viewer(run_id, sources, Start(id=EventId.parse(ids[cursor])))
    assert viewer.step() == [*expected, "caught_up"]


@pytest.mark.parametrize(
    ("actions", "deleted", "start", "expected"),
    [
        (["started"], 0, Start(latest=True), False),
        (["started", "completed"], 0, Start(latest=True), True),
        (["started", "completed"], 0, Start(tail=0), True),
        (["started", "completed"], 0, Start(tail=1), False),
        (["started", "completed"], 0, Start(), False),
        (["started", "completed", "started"], 1, Start(id=1), False),
        (["started", "completed", "started"], 1, Start(id=2), True),
        (["started", "completed", "started"], 0, Start(id=2), False),
        (["started", "completed"], 0, Start(id=EventId(5, 0)), False),
        (["started", "completed"], 0, Start(id=LAST), False),
    ],
)
def test_nothing_follows_the_end_of_an_ended_run_unless_there_is_a_notice(
    any_store, client, sources, run_id, actions, deleted, start, expected
):
    ids = [any_store.add(run_id, "lifecycle", action) for action in actions]
    if deleted:
        client.xdel(f"run:{run_id}:events", *ids[-deleted:])
    if isinstance(start.id, int):
        start = Start(id=EventId.parse(ids[start.id]))
    assert Replay(run_id, start, sources).nothing_follows() is expected


def test_without_a_log_something_may_follow(sources, run_id):
    assert not Replay(run_id, Start(), sources).nothing_follows()


def test_a_stream_that_falls_behind_what_the_feed_keeps_reads_the_log(store, readers, run_id):
    subscriber = subscribe(store, readers, run_id)
    stream = events_of(subscriber.chunks())
    assert [name_of(next(stream)) for _ in range(2)] == ["gateway.heartbeat", "gateway.caught_up"]
    for number in range(1500):
        store.add(run_id, "llm", "stream", number)
    store.add(run_id, "lifecycle", "completed")
    assert [event["sequence"] for event in stream] == list(range(1, 1502))
    subscriber.close()


@pytest.mark.parametrize("text", ["abc", "1-", "-1", "1-2-3", "1", "18446744073709551616-0", " "])
def test_a_malformed_cursor_is_refused(text):
    with pytest.raises(InvalidInput, match="Last-Event-ID"):
        Start.parse(text, "Last-Event-ID")


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_hole_among_entries_of_others_is_told_once(store, redis_client, run_id, is_slow):
    """Nobody can tell where it is, so every read up to there finds it."""
    for number in range(1, 201):
        entry = {"data": f'"{"x" * 5_000}"'}
        redis_client.xadd(f"run:{run_id}:events", entry, f"{number}-0")
    redis_client.xdel(f"run:{run_id}:events", "198-0")
    readers = make_readers(store)
    stream = subscribe(store, readers, run_id, Start(id=EventId(3, 0)))
    names: list[str] = []
    for event in events_of(stream.chunks()):
        names.append(name_of(event) if event["event"]["category"] == "gateway" else event["id"])
        if is_slow:
            stream._replay.release()
        if names[-1] == "gateway.caught_up":
            break
    stream.close()
    events = [f"{number}-0" for number in range(4, 201) if number != 198]
    assert [name for name in names if name[0] != "g"] == events
    assert names.count("gateway.gap") == 1


def test_two_holes_among_entries_of_others_are_told_if_numbers_stand_between(
    sources, client, add, run_id
):
    """Also right after a reset. The state does not know what the first entry's sequence is."""
    ids = []
    for is_foreign in (True, True, False, True, True, True, True, False):
        if is_foreign:
            entry = {"event_category": "tool", "event_action": "foreign"}
            ids.append(client.xadd(f"run:{run_id}:events", entry))
        else:
            ids += add(1)
    client.xdel(f"run:{run_id}:events", ids[1], ids[3])
    sent = Viewer(run_id, sources, Start(id=EventId(10**15, 0))).step()
    assert sent == ["reset", "gap", "foreign", 3, "gap", *3 * ["foreign"], 8, "caught_up"]


def test_a_stream_waits_for_the_sequence_with_which_it_starts(store, readers, run_id):
    store.add(run_id, "llm", "stream", 1)
    subscriber = subscribe(store, readers, run_id, Start(sequence=4), heartbeat_seconds=0.05)
    seen = []
    with contextlib.closing(subscriber):
        for event in events_of(subscriber.chunks()):
            name = name_of(event)
            seen.append(event["sequence"] or name)
            if name == "gateway.heartbeat" and store.state(run_id).last_sequence < 3:
                store.add(run_id, "llm", "stream", 2)
            elif name == "gateway.caught_up":
                store.add(run_id, "llm", "stream", 4)
                store.add(run_id, "lifecycle", "completed")
    assert [each for each in seen if each != "gateway.heartbeat"] == ["gateway.caught_up", 4, 5]


def test_a_run_may_end_before_the_sequence_with_which_a_stream_starts(store, readers, run_id):
    subscriber = subscribe(store, readers, run_id, Start(sequence=9), heartbeat_seconds=0.05)
    seen = []
    with contextlib.closing(subscriber):
        for event in events_of(subscriber.chunks()):
            seen.append(name_of(event))
            if len(seen) == 2:
                store.add(run_id, "lifecycle", "completed")
    assert set(seen[:-1]) == {"gateway.heartbeat"}
    assert seen[-1] == "gateway.caught_up"
    assert subscriber.reason == "ended"


@pytest.mark.parametrize("missing", ["trimmed", "deleted", "deleted to the end"])
def test_a_stream_whose_sequence_is_missing_begins_with_a_gap(
    store, readers, redis_client, run_id, missing
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(1, 6)]
    if missing == "trimmed":
        redis_client.xtrim(f"run:{run_id}:events", maxlen=2, approximate=False)
    elif missing == "deleted":
        redis_client.xdel(f"run:{run_id}:events", *ids[1:3])
    else:
        redis_client.xdel(f"run:{run_id}:events", *ids[2:])
    store.add(run_id, "lifecycle", "completed")
    subscriber = subscribe(store, readers, run_id, Start(sequence=3))
    with contextlib.closing(subscriber):
        events = list(events_of(subscriber.chunks()))
    opening, gap, *others = events
    assert name_of(opening) == "gateway.heartbeat"
    assert (name_of(gap), gap["data"]["requested"]) == ("gateway.gap", "from_sequence=3")
    sequences = [event["sequence"] for event in others if event["sequence"]]
    assert sequences == ([6] if missing == "deleted to the end" else [4, 5, 6])


def test_a_stream_that_starts_with_a_sequence_is_told_of_what_is_missing_behind_it(
    store, readers, redis_client, run_id
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(1, 6)]
    redis_client.xdel(f"run:{run_id}:events", ids[3])
    store.add(run_id, "lifecycle", "completed")
    subscriber = subscribe(store, readers, run_id, Start(sequence=2))
    with contextlib.closing(subscriber):
        _, *seen = [e["sequence"] or name_of(e) for e in events_of(subscriber.chunks())]
    assert seen == [2, 3, "gateway.gap", 5, 6, "gateway.caught_up"]
