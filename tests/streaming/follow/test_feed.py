"""The feed: what it remembers, gives after a cursor, whom it wakes, and what it delivers."""

import pytest

from app.streaming.event import Event
from app.streaming.event_id import ZERO, EventId
from app.streaming.follow import feed as feed_module
from app.streaming.follow.feed import Fanout, Feed
from app.streaming.wire.formats import EventStream, Filter, FrameBatch, StreamFormat
from app.streaming.wire.frame import Frame

EVERYTHING = StreamFormat(Filter(), EventStream())
NO_ROOM = BlockingIOError()


class FakeOutlet:
    """A socket that takes so many bytes, and then has no room or breaks with an error."""

    def __init__(self, room: int, full: OSError, chunked: bool):
        self.chunked = chunked
        self.received = b""
        self._room = room
        self._full = full

    def send(self, wire: bytes) -> int:
        taken = wire[: self._room]
        if not taken:
            raise self._full
        self._room -= len(taken)
        self.received += taken
        return len(taken)


class FakeFollower:
    """A subscriber that notes what it is told, and leaves its fanout when it takes over."""

    def __init__(
        self,
        feed: Feed,
        view: StreamFormat = EVERYTHING,
        room: int = 10**9,
        full: OSError = NO_ROOM,
        chunked: bool = False,
    ):
        self.feed = feed
        self.view = view
        self.client_socket = FakeOutlet(room, full, chunked)
        self.cursor = feed.position
        self.fanout: Fanout | None = None
        self.woken = 0
        self.unsent: list[bytes | None] = []
        feed.join(self)

    def park(self) -> bool:
        self.fanout = self.feed.park(self, self.feed.epoch)
        return self.fanout is not None

    def wake(self) -> None:
        self.woken += 1

    def leave_fanout(self) -> None:
        self.feed.unpark(self, self.fanout)
        self.fanout = None

    def unpark(self, unsent: memoryview | None) -> None:
        self.leave_fanout()
        self.unsent.append(None if unsent is None else bytes(unsent))

    def catch_up(self) -> None:
        """What a greenlet of its own does: the unsent, then what is after its cursor."""
        wire = b"".join(unsent or b"" for unsent in self.unsent)
        for batch in self.feed.after(self.cursor, self.feed.epoch):
            wire += batch.encode(self.view)[0]
            self.cursor = batch.position
        self.client_socket.received += wire


def frame(number: int, size: int = 1) -> Frame:
    fields = {
        b"data": b'"%b"' % (b"x" * size),
        b"event_category": b"even" if number % 2 == 0 else b"odd",
        b"event_action": b"a",
    }
    return Frame.of(Event.from_entry("r", b"%d-0" % number, fields))


def wire(*numbers: int) -> bytes:
    return b"".join(frame(number).typed for number in numbers)


def publish(feed: Feed, *numbers: int, size: int = 1, ended: bool = False) -> None:
    epoch, position = feed.mark()
    batch = FrameBatch(position, [frame(number, size) for number in numbers])
    feed.publish(epoch, batch, sequence=numbers[-1], ended=ended)


def after(feed: Feed, number: int, epoch: int = 0) -> list[int] | None:
    batches = feed.after(EventId(number, 0), epoch)
    if batches is None:
        return None
    return [frame.position.ms for batch in batches for frame in batch.frames]


@pytest.fixture
def feed() -> Feed:
    """A feed that began when event 5 was the last."""
    return Feed("r", EventId(5, 0), sequence=5, ended=False)


def test_a_new_feed_has_nothing_after_its_position_and_knows_nothing_before(feed):
    assert after(feed, 5) == []
    assert after(feed, 9) == []
    assert after(feed, 4) is None


def test_a_cursor_gets_what_came_after_it(feed):
    publish(feed, 6, 7)
    publish(feed, 8)
    assert [after(feed, number) for number in (5, 6, 7, 8)] == [[6, 7, 8], [7, 8], [8], []]
    assert feed.position == EventId(8, 0)
    assert feed.sequence == 8


def test_a_cursor_between_two_events_gets_what_came_after_it(feed):
    publish(feed, 6, 8)
    assert after(feed, 7) == [8]


def test_what_is_published_wakes_all_who_have_joined(feed):
    stays, leaves = FakeFollower(feed), FakeFollower(feed)
    publish(feed, 6)
    assert not feed.leave(leaves)
    publish(feed, 7)
    assert (stays.woken, leaves.woken) == (2, 1)


def test_the_last_one_who_leaves_is_told_apart(feed):
    first, last = FakeFollower(feed), FakeFollower(feed)
    assert [feed.leave(first), feed.leave(first), feed.leave(last)] == [False, False, True]


def test_what_was_read_after_another_mark_is_not_taken_in(feed):
    parked = FakeFollower(feed)
    epoch, position = feed.mark()
    publish(feed, 6)
    parked.cursor = feed.position
    assert parked.park()
    feed.publish(epoch, FrameBatch(position, [frame(6)]), sequence=6, ended=True)
    assert after(feed, 5) == [6]
    assert not feed.ended
    assert parked.client_socket.received == b""


def test_an_end_that_is_published_is_known(feed):
    publish(feed, 6, ended=True)
    assert feed.ended
    publish(feed, 7)
    assert not feed.ended


def test_only_so_many_batches_are_remembered(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "RECENT_BATCHES", 3)
    publish(feed, 6, 7)
    for number in (8, 9, 10):
        publish(feed, number)
    assert after(feed, 6) is None
    assert after(feed, 7) == [8, 9, 10]


def test_only_so_many_bytes_are_remembered(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "RECENT_BYTES", 2500)
    for number in range(6, 16):
        publish(feed, number, size=1000)
    assert after(feed, 13) == [14, 15]
    assert after(feed, 12) is None


def test_a_batch_over_the_limit_is_not_remembered_and_not_skipped(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "RECENT_BYTES", 1000)
    publish(feed, 6, size=2000)
    assert feed.position == EventId(6, 0)
    assert after(feed, 5) is None  # so that it is read from the log
    assert after(feed, 6) == []
    publish(feed, 7)
    assert after(feed, 6) == [7]


def test_what_is_forgotten_is_read_from_the_log(feed):
    publish(feed, 6, 7)
    feed.forget()
    assert after(feed, 6) is None
    assert after(feed, 7) == []


def test_what_may_have_been_deleted_is_read_from_the_log_once_it_is_noted(feed):
    publish(feed, 6, 7)
    before = feed.version
    feed.note_deleted(EventId(6, 0))
    assert after(feed, 6) is None
    assert feed.version != before
    publish(feed, 8)
    feed.note_deleted(EventId(6, 0))
    assert after(feed, 7) == [8]


def test_settling_tells_the_end_at_the_feeds_own_position_only(feed):
    awake, parked = FakeFollower(feed), FakeFollower(feed)
    assert parked.park()
    feed.settle(EventId(4, 0), 4, ended=True)
    assert (feed.ended, awake.woken, parked.unsent) == (False, 0, [])
    feed.settle(EventId(5, 0), 5, ended=True)
    assert (feed.ended, awake.woken, parked.unsent) == (True, 1, [None])


def test_a_feed_begun_anew_has_no_batches_for_cursors_of_the_former_log(feed):
    follower = FakeFollower(feed)
    publish(feed, 6, ended=True)
    feed.reset(0)
    assert follower.woken == 2
    assert feed.mark() == (1, ZERO)
    assert (feed.sequence, feed.ended) == (0, False)
    assert after(feed, 0, epoch=1) == []
    publish(feed, 2)
    assert after(feed, 0, epoch=0) is None
    assert after(feed, 0, epoch=1) == [2]


def test_two_who_notice_the_same_new_log_begin_it_once(feed):
    feed.reset(0)
    publish(feed, 1)
    feed.reset(0)
    assert feed.mark() == (1, EventId(1, 0))


def test_what_was_read_from_the_former_log_is_not_taken_into_the_new_one():
    feed = Feed("r", ZERO, sequence=0, ended=False)
    epoch, position = feed.mark()
    feed.reset(0)
    feed.publish(epoch, FrameBatch(position, [frame(6)]), sequence=6, ended=False)
    assert feed.mark() == (1, ZERO)


# Parking


def test_only_who_is_up_to_date_in_the_same_log_may_park(feed):
    behind, other_log, up_to_date = (FakeFollower(feed) for _ in range(3))
    behind.cursor = EventId(4, 0)
    assert not behind.park()
    assert feed.park(other_log, epoch=1) is None
    assert up_to_date.park()
    feed.settle(EventId(5, 0), 5, ended=True)
    assert not up_to_date.park()  # its stream is over, not silent


def test_who_parks_is_written_to_and_not_woken(feed):
    follower = FakeFollower(feed)
    assert follower.park()
    publish(feed, 6)
    assert (follower.woken, follower.unsent) == (0, [])
    assert follower.client_socket.received == wire(6)
    follower.leave_fanout()
    publish(feed, 7)
    assert follower.woken == 1
    assert follower.client_socket.received == wire(6)


def test_who_left_while_parked_is_neither_written_to_nor_woken(feed):
    follower, stays = FakeFollower(feed), FakeFollower(feed)
    assert follower.park()
    follower.leave_fanout()
    assert not feed.leave(follower)
    publish(feed, 6)
    assert (follower.woken, follower.client_socket.received, stays.woken) == (0, b"", 1)


def test_an_end_is_delivered_and_then_called_out(feed):
    follower = FakeFollower(feed)
    assert follower.park()
    publish(feed, 6, ended=True)
    assert follower.client_socket.received == wire(6)
    assert follower.unsent == [None]


def test_a_log_begun_anew_calls_the_parked_out(feed):
    follower = FakeFollower(feed)
    assert follower.park()
    feed.reset(0)
    assert follower.unsent == [None]
    publish(feed, 1)
    assert follower.client_socket.received == b""


# Delivering


def test_everybody_gets_the_same_bytes_once_in_its_view_and_framing(feed):
    odd = StreamFormat(Filter(frozenset({"odd"})), EventStream(typed=False))
    plain, other, chunked, filtered = followers = [
        FakeFollower(feed),
        FakeFollower(feed),
        FakeFollower(feed, chunked=True),
        FakeFollower(feed, view=odd),
    ]
    assert all(follower.park() for follower in followers)
    publish(feed, 6, 7)
    publish(feed, 8)
    assert plain.client_socket.received == other.client_socket.received == wire(6, 7, 8)
    first, second = wire(6, 7), wire(8)
    assert chunked.client_socket.received == b"%x\r\n%b\r\n%x\r\n%b\r\n" % (
        *(len(first), first),
        *(len(second), second),
    )
    assert filtered.client_socket.received == frame(7).untyped
    assert {follower.cursor for follower in followers} == {EventId(8, 0)}


def test_a_batch_of_which_a_filter_passes_nothing_writes_nothing_at_all(feed):
    """An empty chunk would end the body."""
    odd = StreamFormat(Filter(frozenset({"odd"})), EventStream())
    follower = FakeFollower(feed, view=odd, room=0, chunked=True)
    assert follower.park()
    publish(feed, 6)
    assert (follower.cursor, follower.unsent) == (EventId(6, 0), [])


@pytest.mark.parametrize("full", [NO_ROOM, ConnectionResetError(), BrokenPipeError()], ids=repr)
@pytest.mark.parametrize("room", [0, 1, 10, len(wire(6)) - 1])
def test_who_takes_only_a_part_is_handed_over_with_exactly_the_rest(feed, room, full):
    short, whole = FakeFollower(feed, room=room, full=full), FakeFollower(feed)
    assert short.park()
    assert whole.park()
    publish(feed, 6)
    publish(feed, 7)
    assert short.client_socket.received == wire(6)[:room]
    assert short.unsent == [wire(6)[room:]]
    assert short.cursor == EventId(6, 0)
    assert short.woken == 2
    assert whole.client_socket.received == wire(6, 7)


@pytest.fixture
def interrupted(monkeypatch):
    """Run something when the loop of delivery gives way, which it does after each socket."""
    monkeypatch.setattr(feed_module, "SENDS_IN_A_ROW", 1)

    def interrupt(*steps) -> None:
        left = list(steps)
        monkeypatch.setattr(
            feed_module.time, "sleep", lambda seconds: left.pop(0)() if left else None
        )

    return interrupt


def test_the_loop_gives_way_every_so_many_sockets(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "SENDS_IN_A_ROW", 10)
    pauses: list[float] = []
    monkeypatch.setattr(feed_module.time, "sleep", pauses.append)
    followers = [FakeFollower(feed) for _ in range(35)]
    assert all(follower.park() for follower in followers)
    publish(feed, 6)
    assert pauses == [0, 0, 0]


def test_who_left_while_the_loop_gave_way_is_not_written_to(feed, interrupted):
    first, second = FakeFollower(feed), FakeFollower(feed)
    assert first.park()
    assert second.park()
    interrupted(second.leave_fanout)
    publish(feed, 6)
    assert second.client_socket.received == b""
    second.catch_up()
    assert second.client_socket.received == first.client_socket.received == wire(6)


def test_who_left_caught_up_and_parked_again_meanwhile_gets_nothing_twice(feed, interrupted):
    first, second = FakeFollower(feed), FakeFollower(feed)
    assert first.park()
    assert second.park()

    def come_back():
        second.leave_fanout()
        second.catch_up()
        assert second.park()

    interrupted(come_back)
    publish(feed, 6)
    publish(feed, 7)
    assert second.client_socket.received == first.client_socket.received == wire(6, 7)
    assert second.unsent == []


def test_who_parks_for_the_first_time_meanwhile_gets_only_what_comes_next(feed, interrupted):
    first = FakeFollower(feed)
    assert first.park()
    newcomers: list[FakeFollower] = []

    def park_another():
        newcomers.append(FakeFollower(feed))
        assert newcomers[0].park()

    interrupted(park_another)
    publish(feed, 6)
    publish(feed, 7)
    assert newcomers[0].client_socket.received == wire(7)
    assert first.client_socket.received == wire(6, 7)


def test_a_batch_that_is_delivered_within_another_s_delivery_breaks_no_order(feed, interrupted):
    """A feed may move to another reader while the former still delivers."""
    first, second = FakeFollower(feed), FakeFollower(feed)
    assert first.park()
    assert second.park()
    interrupted(lambda: publish(feed, 7))
    publish(feed, 6)
    assert second.unsent == [None]
    second.catch_up()
    assert first.client_socket.received == second.client_socket.received == wire(6, 7)


def test_a_log_begun_anew_while_the_loop_gave_way_gets_nothing_of_the_former(feed, interrupted):
    first, second = FakeFollower(feed), FakeFollower(feed)
    assert first.park()
    assert second.park()
    interrupted(lambda: feed.reset(0))
    publish(feed, 6)
    assert second.client_socket.received == b""
    assert first.unsent == second.unsent == [None]


def test_a_channel_counts_what_it_delivered_and_when(feed):
    follower = FakeFollower(feed)
    assert follower.park()
    assert (follower.fanout.events, follower.fanout.last_sent) == (0, 0.0)
    publish(feed, 6, 7)
    assert follower.fanout.events == 2
    assert follower.fanout.last_sent > 0
