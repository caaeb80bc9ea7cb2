"""The merged replay: every run without a gap or a double, wherever the stream is cut."""

import itertools
import json
import threading
from collections import defaultdict
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.streaming.errors import NotALog, StoreUnavailable
from app.streaming.event_id import EventId
from app.streaming.event_store import EventStore
from app.streaming.feeds.reader_pool import ReaderPool
from app.streaming.feeds.readers import make_readers
from app.streaming.follow.heartbeats import Heartbeats
from app.streaming.follow.merged_replay import MergedReplay
from app.streaming.follow.start import Start
from app.streaming.follow.subscriber import Services, Subscriber
from app.streaming.merged.cursor import MergedCursor, RunList
from app.streaming.merged.formats import MergedEventStream, MergedFormat, MergedLines
from app.streaming.wire.formats import Filter, StreamFormat
from tests.servers import RedisServer, wait_until
from tests.streaming.follow.streams import history_of
from tests.streaming.follow.test_replay import InterruptedReaders

_numbers = itertools.count(1)

FORMATS: list[MergedFormat] = [
    MergedEventStream(),
    MergedEventStream(typed=False),
    MergedEventStream(batched=True),
    MergedLines(),
    MergedLines(batched=True),
]


def merged(
    store: EventStore,
    readers: ReaderPool,
    starts: Mapping[str, Start],
    wire: MergedFormat = FORMATS[0],
    categories: tuple[str, ...] = (),
    **options,
) -> Subscriber:
    services = Services(store, readers, history_of(readers, store), Heartbeats(15.0), **options)
    stream_format = StreamFormat(Filter(frozenset(categories)), wire)
    return Subscriber(MergedReplay(starts, services), stream_format, services)


class Reader:
    """A client that reads the bytes of merged streams, and comes back with its last cursor."""

    def __init__(self, starts: Mapping[str, Start], wire: MergedFormat = FORMATS[0]):
        self.runs = RunList.of(starts)
        self.wire = wire
        self.cursor = ""
        self.seen: defaultdict[str, list[int | str]] = defaultdict(list)
        self.controls: list[str] = []  # about the whole stream
        self._starts = starts
        self._left = b""

    def starts(self) -> Mapping[str, Start]:
        if not self.cursor:
            return self._starts
        ids = MergedCursor.parse(self.cursor, self.runs, "cursor").ids
        return {run: Start(id=each) for run, each in zip(self.runs.run_ids, ids, strict=True)}

    def read(self, piece: bytes) -> list[dict]:
        """Read some bytes; return the events that are complete now."""
        end = b"\n" if isinstance(self.wire, MergedLines) else b"\n\n"
        *whole, self._left = (self._left + piece).split(end)
        events = [event for text in whole for event in self._read_whole(text)]
        for event in events:
            name = event["event"]["action"]
            if event["run_id"] is None:
                self.controls.append(name)
            else:
                self.seen[event["run_id"]].append(event["sequence"] or name)
        return events

    def cut(self) -> None:
        """Lose the connection, and what has come of the next event."""
        self._left = b""

    def _read_whole(self, text: bytes) -> list[dict]:
        if isinstance(self.wire, MergedLines):
            document = json.loads(text)
            self.cursor = document.get("cursor", self.cursor)
            if document["event"]["action"] == "progress":
                self.cursor = document["data"]["cursor"]
            batched = document["event"]["action"] == "batch"
            return document["data"] if batched else [document]
        fields = dict(line.split(b": ", 1) for line in text.split(b"\n") if line[:1] != b":")
        if b"id" in fields:
            self.cursor = fields[b"id"].decode()
        document = json.loads(fields[b"data"])
        return document if isinstance(document, list) else [document]

    def without_control(self, run_id: str) -> list[int | str]:
        return [each for each in self.seen[run_id] if each != "caught_up"]


class InterruptedStore(EventStore):
    """A store that appends to one run after another around each read, as a schedule says."""

    def __init__(self, url: str, run_ids: list[str]):
        super().__init__(url)
        self._run_ids = run_ids
        self._next_run = itertools.cycle(run_ids)
        self._ended = False
        self.schedule: list[int] = []

    def interrupt(self) -> None:
        for _ in range(self.schedule.pop() if self.schedule else 0):
            self.add(next(self._next_run), "llm", "stream")

    def append_next(self) -> None:
        """Append one event at least, the ends of all runs at last."""
        if not self.schedule and not self._ended:
            self._ended = True
            for run_id in self._run_ids:
                self.add(run_id, "lifecycle", "completed")
        elif not self._ended:
            self.add(next(self._next_run), "llm", "stream")
            self.interrupt()

    def entries_after(self, *arguments):
        self.interrupt()
        try:
            return super().entries_after(*arguments)
        finally:
            self.interrupt()

    def read(self, *arguments):
        self.interrupt()
        try:
            return super().read(*arguments)
        finally:
            self.interrupt()

    def read_in_redis(self, *arguments):
        self.interrupt()
        try:
            return super().read_in_redis(*arguments)
        finally:
            self.interrupt()

    def locate_each(self, cursors):
        self.interrupt()
        try:
            return super().locate_each(cursors)
        finally:
            self.interrupt()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=5),
    wire=st.sampled_from(FORMATS),
    starts=st.lists(st.one_of(st.just("earliest"), st.integers(0, 90)), min_size=5, max_size=5),
    schedule=st.lists(st.integers(0, 3), min_size=40, max_size=40),
    cuts=st.lists(st.integers(0, 30_000), max_size=6),
)
def test_every_event_of_every_run_comes_once_and_in_order_wherever_the_stream_is_cut(
    redis_server: RedisServer, lengths, wire, starts, schedule, cuts
):
    run_ids = [f"merged-{next(_numbers)}" for _ in lengths]
    store = InterruptedStore(redis_server.url, run_ids)
    readers = InterruptedReaders(store)
    first, start_of = {}, {}
    for run_id, length, start in zip(run_ids, lengths, starts, strict=False):
        ids = [store.add(run_id, "llm", "stream") for _ in range(length)]
        begins_at_id = start != "earliest" and start < length
        first[run_id] = start + 2 if begins_at_id else 1
        start_of[run_id] = Start(id=EventId.parse(ids[start])) if begins_at_id else Start()
    reader = Reader(start_of, wire)
    store.schedule.extend(schedule)
    for cut in [*cuts, None]:
        subscriber, left = merged(store, readers, reader.starts(), wire), cut
        for chunk in subscriber.chunks():
            reader.read(chunk if left is None else chunk[:left])
            if left is not None:
                left -= len(chunk)
                if left <= 0:
                    break
            store.append_next()
        reader.cut()
        subscriber.close()
    for run_id in run_ids:
        total = store.state(run_id).last_sequence
        assert reader.without_control(run_id) == list(range(first[run_id], total + 1))
    assert reader.controls == [] or isinstance(wire, MergedLines)
    assert len(readers) == 0
    store.engine.close()


@pytest.fixture
def readers(store) -> ReaderPool:
    return make_readers(store)


@pytest.fixture
def run_ids() -> list[str]:
    return [f"merged-{next(_numbers)}" for _ in range(3)]


@pytest.mark.parametrize("wire", FORMATS, ids=repr)
def test_a_stream_may_be_cut_at_every_byte(store, readers, run_ids, wire):
    for number, run_id in enumerate(run_ids):
        for _ in range(number + 1):
            store.add(run_id, "llm", "stream", "é")
        store.add(run_id, "lifecycle", "completed")
    everything = {run_id: list(range(1, number + 3)) for number, run_id in enumerate(run_ids)}
    starts = dict.fromkeys(run_ids, Start())
    whole = b"".join(merged(store, readers, starts, wire).chunks())
    for cut in range(len(whole) + 1):
        reader = Reader(starts, wire)
        reader.read(whole[:cut])
        reader.cut()
        subscriber = merged(store, readers, reader.starts(), wire)
        if not subscriber.nothing_follows():
            reader.read(b"".join(subscriber.chunks()))
        subscriber.close()
        assert {run_id: reader.without_control(run_id) for run_id in run_ids} == everything


def read_all(subscriber: Subscriber, reader: Reader, until: str = "") -> None:
    """Read until the stream ends; it is ended once each run has sent what `until` names."""
    for chunk in subscriber.chunks():
        reader.read(chunk)
        if until and all(until in reader.seen[run_id] for run_id in reader.runs.run_ids):
            subscriber.end("enough")
    subscriber.close()


def test_each_run_has_its_own_start(store, readers, run_ids):
    ids = {run_id: [store.add(run_id, "llm", "stream") for _ in range(3)] for run_id in run_ids}
    first, second, third = run_ids
    starts = {
        third: Start(latest=True),
        first: Start(),
        second: Start(id=EventId.parse(ids[second][1])),
    }
    reader = Reader(starts)
    read_all(merged(store, readers, starts), reader, "caught_up")
    assert reader.seen == {
        first: [1, 2, 3, "caught_up"],
        second: [3, "caught_up"],
        third: ["caught_up"],
    }


def test_the_stream_ends_when_all_runs_have_ended_and_then_nothing_follows(store, readers, run_ids):
    starts = dict.fromkeys(run_ids, Start())
    reader = Reader(starts)
    subscriber = merged(store, readers, starts)
    assert not subscriber.nothing_follows()
    left = iter(run_ids)
    for chunk in subscriber.chunks():
        reader.read(chunk)
        if all("caught_up" in reader.seen[run_id] for run_id in run_ids):
            run_id = next(left, None)
            if run_id is not None:
                store.add(run_id, "lifecycle", "completed")
    assert subscriber.reason == "ended"
    assert all(seen == ["caught_up", 1] for seen in reader.seen.values())
    assert merged(store, readers, reader.starts()).nothing_follows()
    store.add(run_ids[0], "lifecycle", "started")
    assert not merged(store, readers, reader.starts()).nothing_follows()


def test_a_run_that_goes_on_after_its_end_is_followed_further(store, readers, run_ids):
    first, second, third = run_ids
    store.add(first, "lifecycle", "completed")
    starts = dict.fromkeys(run_ids, Start())
    reader = Reader(starts)
    for chunk in (subscriber := merged(store, readers, starts)).chunks():
        reader.read(chunk)
        if reader.seen[third] == ["caught_up"] and not reader.seen[first][2:]:
            store.add(first, "lifecycle", "started")
            store.add(first, "lifecycle", "failed")
            store.add(second, "lifecycle", "completed")
            store.add(third, "lifecycle", "completed")
    subscriber.close()
    assert reader.without_control(first) == [1, 2, 3]


def test_gaps_and_resets_name_their_run_and_leave_the_others_alone(
    store, readers, redis_client, run_ids
):
    trimmed, replaced, untouched = run_ids
    ids = {run_id: [store.add(run_id, "llm", "stream") for _ in range(6)] for run_id in run_ids}
    starts = {run_id: Start(id=EventId.parse(ids[run_id][1])) for run_id in run_ids}
    redis_client.xtrim(f"run:{trimmed}:events", maxlen=2, approximate=False)
    store.delete(replaced)
    store.add(replaced, "lifecycle", "started")
    reader = Reader(starts)
    read_all(merged(store, readers, starts), reader, "caught_up")
    assert reader.seen == {
        trimmed: ["gap", 5, 6, "caught_up"],
        replaced: ["reset", 1, "caught_up"],
        untouched: [3, 4, 5, 6, "caught_up"],
    }


@pytest.mark.parametrize("wire", FORMATS, ids=repr)
def test_a_client_that_was_told_of_a_gap_or_a_reset_is_not_told_again(
    store, readers, redis_client, run_ids, wire
):
    """Neither is one whose stream was cut right behind it, in the middle of another run."""
    trimmed, replaced, _ = run_ids
    ids = {run_id: [store.add(run_id, "llm", "stream") for _ in range(6)] for run_id in run_ids}
    redis_client.xtrim(f"run:{trimmed}:events", maxlen=2, approximate=False)
    store.delete(replaced)
    for run_id in run_ids:
        store.add(run_id, "lifecycle", "completed")
    starts = {run_id: Start(id=EventId.parse(ids[run_id][1])) for run_id in run_ids}
    whole = b"".join(merged(store, readers, starts, wire).chunks())
    for cut in range(len(whole) + 1):
        reader = Reader(starts, wire)
        reader.read(whole[:cut])
        reader.cut()
        reader.read(b"".join(merged(store, readers, reader.starts(), wire).chunks()))
        assert [reader.without_control(run_id) for run_id in run_ids] == [
            ["gap", 5, 6, 7],
            ["reset", 1],
            [3, 4, 5, 6, 7],
        ]


def test_a_run_that_is_no_log_stops_no_other_run(store, readers, redis_client, run_ids):
    first, odd, third = run_ids
    starts = dict.fromkeys(run_ids, Start())
    reader = Reader(starts)
    subscriber = merged(store, readers, starts)
    for chunk in subscriber.chunks():
        reader.read(chunk)
        if sum(map(len, reader.seen.values())) == 3:
            redis_client.set(f"run:{odd}:events", "no log")
            for run_id in (first, third):
                store.add(run_id, "llm", "stream")
        if reader.without_control(first) == reader.without_control(third) == [1]:
            subscriber.end("enough")
    subscriber.close()
    with pytest.raises(NotALog, match=odd):
        merged(store, readers, starts).nothing_follows()
    redis_client.delete(f"run:{odd}:events")


@pytest.mark.parametrize("start", ["earliest", "id", "latest"])
def test_a_run_that_is_no_log_when_redis_is_back_stops_no_other_run(
    redis_server, readers, redis_client, run_ids, start
):
    """Meanwhile its client is where it has asked to start."""

    class UnavailableStore(EventStore):
        failed = False

        def locate_each(self, cursors):
            if not self.failed:
                self.failed = True
                raise StoreUnavailable("Redis is away")
            return super().locate_each(cursors)

    store = UnavailableStore(redis_server.url)
    first, odd, third = run_ids
    for run_id in (first, third):
        store.add(run_id, "llm", "stream")
    redis_client.set(f"run:{odd}:events", "no log")
    event_id = EventId(7, 0)
    own = {"earliest": Start(), "id": Start(id=event_id), "latest": Start(latest=True)}[start]
    starts = {first: Start(), odd: own, third: Start()}
    reader = Reader(starts)
    subscriber = merged(store, readers, starts)
    with pytest.raises(StoreUnavailable):
        subscriber.nothing_follows()
    for chunk in subscriber.chunks():
        reader.read(chunk)
        if "caught_up" in reader.seen[third]:
            subscriber.end("enough")
    subscriber.close()
    assert reader.seen[first] == reader.seen[third] == [1, "caught_up"]
    assert reader.starts()[odd].id == (event_id if start == "id" else EventId(0, 0))
    redis_client.delete(f"run:{odd}:events")


def test_the_first_events_of_a_run_that_had_no_log_come_though_its_stream_starts_with_the_latest(
    redis_server, readers, redis_client, run_ids
):
    class LateStore(EventStore):
        failed = False

        def locate_each(self, cursors):
            if not self.failed:
                self.failed = True
                raise StoreUnavailable("Redis is away")
            return super().locate_each(cursors)

        def state(self, run_id):  # by which a start at the end of a log would be found
            redis_client.delete(f"run:{run_id}:events")
            self.add(run_id, "llm", "stream")
            return super().state(run_id)

    store = LateStore(redis_server.url)
    first, odd, _ = run_ids
    store.add(first, "llm", "stream")
    redis_client.set(f"run:{odd}:events", "no log")
    starts = {first: Start(), odd: Start(latest=True)}
    reader = Reader(starts)
    subscriber = merged(store, readers, starts)
    with pytest.raises(StoreUnavailable):
        subscriber.nothing_follows()
    for chunk in subscriber.chunks():
        reader.read(chunk)
        if reader.seen[odd] == ["caught_up"] and reader.seen[first] == [1, "caught_up"]:
            redis_client.delete(f"run:{odd}:events")
            store.add(odd, "llm", "stream")
        if 1 in reader.seen[odd]:
            subscriber.end("enough")
    subscriber.close()
    assert reader.seen[odd] == ["caught_up", 1]


def test_a_stream_opened_while_redis_is_away_starts_when_redis_is_back(
    redis_server, readers, run_ids
):
    class UnavailableStore(EventStore):
        failures = 0

        def locate_each(self, cursors):
            self.failures += 1
            if self.failures < 4:
                raise StoreUnavailable("Redis is away")
            return super().locate_each(cursors)

    store = UnavailableStore(redis_server.url)
    for run_id in run_ids:
        store.add(run_id, "lifecycle", "completed")
    starts = dict.fromkeys(run_ids, Start())
    reader = Reader(starts)
    subscriber = merged(store, readers, starts, heartbeat_seconds=0.05)
    with pytest.raises(StoreUnavailable):
        subscriber.nothing_follows()
    read_all(subscriber, reader)
    assert store.failures == 4
    assert all(seen == [1, "caught_up"] for seen in reader.seen.values())


def test_a_filtered_stream_says_how_far_it_has_come_in_all_runs(store, readers, run_ids):
    starts = dict.fromkeys(run_ids, Start(latest=True))
    reader = Reader(starts)
    subscriber = merged(store, readers, starts, categories=("tool",), heartbeat_seconds=0.2)
    appended = threading.Event()
    last: dict[str, str] = {}

    def append() -> None:
        wait_until(lambda: sum(map(len, reader.seen.values())) == 3, "it is caught up")
        for run_id in run_ids[:2]:
            last[run_id] = [store.add(run_id, "llm", "stream") for _ in range(3)][-1]
        appended.set()

    threading.Thread(target=append).start()
    for chunk in subscriber.chunks():
        reader.read(chunk)
        if appended.is_set() and reader.controls:
            started = reader.starts()
            if all(str(started[run_id].id) == event_id for run_id, event_id in last.items()):
                subscriber.end("enough")
    subscriber.close()
    assert set(reader.controls) == {"progress"}
    assert all(reader.without_control(run_id) == [] for run_id in run_ids)


def test_a_busy_run_does_not_keep_the_others_waiting(store, readers, run_ids):
    """Its history is many batches long; the others get their turn after each of them."""
    busy, second, third = run_ids
    for number in range(120):
        store.add(busy, "llm", "stream", f"{number}" + "x" * 5_000)
    for run_id in (second, third):
        store.add(run_id, "llm", "stream")
    starts = dict.fromkeys(run_ids, Start())
    reader, behind = Reader(starts), 0
    subscriber = merged(store, readers, starts)
    for chunk in subscriber.chunks():
        reader.read(chunk)
        if "caught_up" in reader.seen[second] and "caught_up" in reader.seen[third]:
            behind = behind or len(reader.seen[busy])
        if "caught_up" in reader.seen[busy]:
            subscriber.end("enough")
    subscriber.close()
    assert behind < 60
    assert reader.without_control(busy) == list(range(1, 121))


def test_a_stream_is_logged_by_a_few_of_its_runs(store, readers):
    def shown(*run_ids: str) -> str:
        return merged(store, readers, dict.fromkeys(run_ids, Start())).run_id

    assert shown("b") == "b"
    assert shown("b", "a", "c") == "a,b,c"
    assert shown("e", "d", "c", "b", "a") == "a,b,c,+2"
