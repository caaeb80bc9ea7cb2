"""The replay: history, then live, without a gap or a double, whatever happens in between."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.streaming.errors import InvalidInput, StoreUnavailable
from app.streaming.event_id import EventId
from app.streaming.event_store import EventStore
from app.streaming.follow.reader_pool import ReaderPool
from app.streaming.follow.start import Start
from app.streaming.log.log_state import LogState
from tests.servers import RedisServer
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

    def state(self, run_id: str) -> LogState:
        self.interrupt()
        try:
            return super().state(run_id)
        finally:
            self.interrupt()

    def history(self, *arguments):
        self.interrupt()
        try:
            return super().history(*arguments)
        finally:
            self.interrupt()

    def cursor_before_tail(self, *arguments):
        self.interrupt()
        try:
            return super().cursor_before_tail(*arguments)
        finally:
            self.interrupt()


class InterruptedReaders(ReaderPool):
    """Readers that append events before and after a subscriber joins, as a schedule says."""

    def join(self, *arguments):
        self._store.interrupt()
        try:
            return super().join(*arguments)
        finally:
            self._store.interrupt()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    before=st.integers(0, 130),
    schedule=st.lists(st.integers(0, 3), min_size=30, max_size=30),
    start=st.one_of(
        st.just("earliest"),
        st.just("latest"),
        st.tuples(st.just("tail"), st.integers(0, 140)),
        st.tuples(st.just("id"), st.integers(0, 129)),
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
    readers = InterruptedReaders(store, flush_seconds=0.0)
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


@pytest.fixture
def readers(store) -> ReaderPool:
    return ReaderPool(store, flush_seconds=0.0)


def test_a_stream_opened_while_redis_is_away_starts_when_redis_is_back(store, readers, run_id):
    class UnavailableStore(EventStore):
        failures = 0

        def state(self, run_id):
            self.failures += 1
            if self.failures < 4:
                raise StoreUnavailable("Redis is away")
            return store.state(run_id)

        def history(self, *arguments):
            return store.history(*arguments)

    store.add(run_id, "lifecycle", "completed")
    subscriber = subscribe(UnavailableStore(), readers, run_id, heartbeat_seconds=0.05)
    names = [name_of(event) for event in events_of(subscriber.chunks())]
    assert set(names[:-2]) == {"gateway.heartbeat"}
    assert names[-2:] == ["lifecycle.completed", "gateway.caught_up"]
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
    assert seen[-2:] == [1, 2]
    subscriber.close()


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
