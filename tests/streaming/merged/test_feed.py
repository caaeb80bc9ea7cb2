"""The merged feed: parked subscribers of several runs get what the feeds publish, in order."""

import json

import pytest

from app.streaming.event_id import EventId
from app.streaming.feeds.feed import Feed
from app.streaming.merged.batch import MergedPosition
from app.streaming.merged.cursor import MergedCursor, RunList
from app.streaming.merged.feed import MergedFeeds
from app.streaming.merged.formats import MergedEventStream
from app.streaming.wire.formats import Filter, StreamFormat
from tests.streaming.follow.fakes import FakeClientSocket, frame, publish, publish_reset
from tests.streaming.positions import at, log

FRAMES = StreamFormat(Filter(), MergedEventStream())
BATCHED = StreamFormat(Filter(), MergedEventStream(batched=True))
RUNS = RunList.of(["a", "b", "c"])


class Viewer:
    """A subscriber of the three feeds, which catches up by itself when it is unparked."""

    def __init__(self, world: "World", stream_format: StreamFormat = FRAMES, room: int = 10**9):
        self.stream_format = stream_format
        self.client_socket = FakeClientSocket(room, BlockingIOError(), chunked=False)
        self.position = world.position()
        self.unparked: list[bytes | None] = []
        self.events = 0
        self._world = world
        self._fanout = None

    def park(self) -> bool:
        self._fanout = self._world.merged.park(self, RUNS, self._world.feeds)
        return self._fanout is not None

    def unpark(self, unsent: memoryview | None) -> None:
        self.leave()
        self.unparked.append(None if unsent is None else bytes(unsent))

    def leave(self) -> None:
        self.events += self._world.merged.unpark(self, RUNS, self._fanout).events

    def wake(self) -> None:
        """It never waits."""

    @property
    def received(self) -> list[tuple[str, str]]:
        """The ids in the cursor of each event that came, and the id that its data has."""
        blocks = self.client_socket.received.decode().split("\n\n")[:-1]
        return [(shown_cursor(block), shown_data(block)) for block in blocks]


def shown_cursor(block: str) -> str:
    [line] = [line for line in block.split("\n") if line.startswith("id: ")]
    return " ".join(str(each.ms) for each in MergedCursor.parse(line[4:], RUNS, "id").ids)


def shown_data(block: str) -> str:
    [line] = [line for line in block.split("\n") if line.startswith("data: ")]
    document = json.loads(line[6:])
    events = document if isinstance(document, list) else [document]
    return " ".join(each["id"] or each["event"]["action"] for each in events)


class World:
    """Three feeds that began when event 5 was the last of their runs."""

    def __init__(self) -> None:
        self.feeds = [Feed("r", log(5)) for _ in RUNS.run_ids]
        self.merged = MergedFeeds()

    def position(self) -> MergedPosition:
        return MergedPosition.of(RUNS, [feed.position for feed in self.feeds])

    def viewer(self, *arguments, **options) -> Viewer:
        viewer = Viewer(self, *arguments, **options)
        assert viewer.park()
        return viewer

    def publish(self, run: int, *numbers: int, ended: bool = False) -> None:
        publish(self.feeds[run], *numbers, ended=ended)

    def flush(self) -> None:
        for feed in self.feeds:
            feed.flush()


@pytest.fixture
def world() -> World:
    return World()


def test_what_is_published_together_is_delivered_together(world):
    frames, batched = world.viewer(), world.viewer(BATCHED)
    world.publish(1, 6)
    world.publish(0, 6, 7)
    world.publish(1, 7)
    assert frames.received == batched.received == []
    world.flush()
    assert frames.received == [
        ("5 6 5", "6-0"),
        ("6 6 5", "6-0"),
        ("7 6 5", "7-0"),
        ("7 7 5", "7-0"),
    ]
    assert batched.received == [("7 7 5", "6-0 6-0 7-0 7-0")]
    assert frames.position is batched.position == world.position()
    for viewer in (frames, batched):
        viewer.leave()
        assert viewer.events == 4


def test_batches_are_delivered_up_to_their_size(world):
    viewer = world.viewer(BATCHED)
    for number in range(6, 16):
        publish(world.feeds[number % 3], number, size=30_000)
    world.flush()
    assert [data for _, data in viewer.received] == [
        *("6-0 7-0 8-0", "9-0 10-0 11-0", "12-0 13-0 14-0", "15-0")
    ]
    assert viewer.unparked == []


def test_a_viewer_that_is_not_up_to_date_does_not_park(world):
    behind = Viewer(world)
    world.publish(2, 6)
    assert not behind.park()
    assert len(world.merged) == 0
    behind.position = world.position()
    assert behind.park()


def test_a_viewer_that_parks_before_a_flush_is_unparked_by_it_and_misses_nothing(world):
    early = world.viewer()
    world.publish(0, 6)
    late = world.viewer()  # it has read event 6 by itself
    world.publish(1, 6)
    world.flush()
    assert early.received == [("6 5 5", "6-0"), ("6 6 5", "6-0")]
    assert (late.received, late.unparked) == ([], [None])
    late.position = world.position()
    assert late.park()
    world.publish(2, 6)
    world.flush()
    assert late.received == [("6 6 6", "6-0")]


def test_a_viewer_whose_buffer_is_full_is_unparked_with_the_rest(world):
    slow, quick = world.viewer(room=100), world.viewer()
    world.publish(0, 6)
    world.flush()
    [unsent] = slow.unparked
    assert slow.client_socket.received + unsent == quick.client_socket.received
    assert slow.position == world.position()


def test_a_notice_of_a_run_moves_the_cursor_of_that_run_alone(world):
    viewer = world.viewer()
    publish_reset(world.feeds[1])
    world.flush()
    assert viewer.received == [("5 0 5", "reset")]


def test_all_are_unparked_when_all_runs_have_ended(world):
    viewer = world.viewer()
    for run in range(3):
        assert viewer.unparked == []
        world.publish(run, 6, ended=True)
        world.flush()
    assert viewer.unparked == [None]
    assert [data for _, data in viewer.received] == ["6-0"] * 3
    viewer.position = world.position()
    assert not viewer.park()
    assert len(world.merged) == 0


def test_an_end_that_a_check_finds_unparks_too(world):
    viewer = world.viewer()
    for feed in world.feeds:
        feed.check(feed.position, log(5, ended=True))
    assert viewer.unparked == [None]


def test_the_feeds_are_tapped_only_while_somebody_is_parked(world):
    first, second = world.viewer(), world.viewer()
    assert len(world.merged) == 1
    first.leave()
    assert len(world.merged) == 1
    second.leave()
    assert len(world.merged) == 0
    world.publish(0, 6)
    world.flush()
    assert first.received == second.received == []


def test_viewers_of_other_runs_are_a_feed_of_their_own(world):
    viewer = world.viewer()
    others = RunList.of(["a"])
    other = Viewer(world)
    other.position = MergedPosition.of(others, (world.feeds[0].position,))
    assert world.merged.park(other, others, world.feeds[:1]) is not None
    assert len(world.merged) == 2
    world.publish(1, 6)
    world.flush()
    assert len(viewer.received) == 1
    assert other.client_socket.received == b""


def test_a_flush_while_another_delivers_is_done_by_that_one(world):
    """While a fanout delivers to many, another reader gets its turn, and publishes."""
    first = world.viewer()

    class Publishing(FakeClientSocket):
        def send(self, chunk: bytes) -> int:
            if not self.received:
                world.publish(2, 6)
                world.flush()
            return super().send(chunk)

    first.client_socket = Publishing(10**9, BlockingIOError(), chunked=False)
    second = world.viewer()
    world.publish(0, 6)
    world.flush()
    assert first.received == second.received == [("6 5 5", "6-0"), ("6 5 6", "6-0")]
    assert first.unparked == second.unparked == []


def test_a_position_that_nobody_has_counted_is_the_same_place(world):
    viewer = Viewer(world)
    uncounted = at(5)._replace(sequence=None)
    viewer.position = MergedPosition.of(RUNS, (uncounted, at(5), at(5)))
    assert viewer.park()
    world.publish(0, 6)
    world.flush()
    assert len(viewer.received) == 1


def test_a_client_before_the_first_event_of_a_log_comes_back_before_all_events():
    """Any other id before the first one would be that of another log."""
    before = at(0)._replace(id=EventId(5, 2**64 - 1))
    assert MergedPosition.of(RunList.of(["a"]), (before,)).id.ids == (EventId(0, 0),)
    assert frame(1).cursor == EventId(1, 0)
