"""What the tests of feeds and fanouts share: a fake subscriber with a fake socket, and frames."""

from app.streaming.event import Event
from app.streaming.event_id import ZERO
from app.streaming.feeds.fanout import Fanout
from app.streaming.feeds.feed import Feed
from app.streaming.log.continuity import Notice
from app.streaming.log.log_state import NO_LOG, LogState
from app.streaming.log.position import Position
from app.streaming.wire.formats import EventStream, Filter, StreamFormat
from app.streaming.wire.frame import Frame
from app.streaming.wire.frame_batch import FrameBatch
from tests.streaming.positions import OTHER_EPOCH, at, log

EVERYTHING = StreamFormat(Filter(), EventStream())
ONLY_ODD = StreamFormat(Filter(frozenset({"odd"})), EventStream())
BUFFER_FULL = BlockingIOError()


class FakeClientSocket:
    """A socket that takes `room` bytes, and then raises an error."""

    def __init__(self, room: int, error: OSError, chunked: bool):
        self.chunked = chunked
        self.received = b""
        self._room = room
        self._error = error

    def send(self, chunk: bytes) -> int:
        taken = chunk[: self._room]
        if not taken:
            raise self._error
        self._room -= len(taken)
        self.received += taken
        return len(taken)


class FakeSubscriber:
    """A subscriber that records its calls, and leaves its fanout when it is unparked."""

    def __init__(
        self,
        feed: Feed,
        stream_format: StreamFormat = EVERYTHING,
        room: int = 10**9,
        error: OSError = BUFFER_FULL,
        chunked: bool = False,
    ):
        self.feed = feed
        self.stream_format = stream_format
        self.client_socket = FakeClientSocket(room, error, chunked)
        self.position = feed.position
        self.fanout: Fanout | None = None
        self.woken = 0
        self.unsent: list[bytes | None] = []
        self.events = 0
        self.reason: str | None = None
        feed.join(self, state_of(feed))

    def park(self) -> bool:
        self.fanout = self.feed.park(self)
        return self.fanout is not None

    def wake(self) -> None:
        self.woken += 1

    def leave_fanout(self) -> None:
        self.events += self.feed.unpark(self, self.fanout).events
        self.fanout = None

    def unpark(self, unsent: memoryview | None) -> None:
        self.leave_fanout()
        self.unsent.append(None if unsent is None else bytes(unsent))

    def end(self, reason: str) -> None:
        self.reason = reason
        if self.fanout is not None:
            self.unpark(None)

    def catch_up(self) -> None:
        """Do what the greenlet of a subscriber does: send the unsent, then what the feed has."""
        chunk = b"".join(unsent or b"" for unsent in self.unsent)
        for batch in self.feed.after(self.position):
            chunk += batch.encode(self.stream_format).chunk
            self.position = batch.end
        self.client_socket.received += chunk


def frame(number: int, size: int = 1) -> Frame:
    fields = {
        b"data": b'"%b"' % (b"x" * size),
        b"event_category": b"even" if number % 2 == 0 else b"odd",
        b"event_action": b"a",
    }
    return Frame.of(Event.from_entry("r", b"%d-0" % number, fields))


def sse(*numbers: int) -> bytes:
    """The bytes of some frames."""
    return b"".join(frame(number).typed for number in numbers)


def state_of(feed: Feed) -> LogState:
    """The state of the log as the feed has read it."""
    if feed.position.is_start:
        return NO_LOG
    return log(feed.position.id.ms, feed.position.epoch, ended=feed.ended)


def publish(feed: Feed, *numbers: int, size: int = 1, ended: bool = False) -> None:
    """Publish the events that follow the feed's position."""
    end = at(numbers[-1], feed.position.epoch)
    frames = [frame(number, size) for number in numbers]
    feed.publish(FrameBatch(feed.position, frames, end), ended)


def publish_reset(feed: Feed, epoch: bytes = OTHER_EPOCH) -> bytes:
    """Publish that another log has taken the place; return the bytes of the notice."""
    return publish_notice(feed, "reset", Position(epoch, ZERO, 0))


def publish_notice(feed: Feed, action: Notice, end: Position) -> bytes:
    """Publish a notice that leads to a position; return its bytes."""
    notice = Frame.control(feed.run_id, action, None, cursor=end.id)
    feed.publish(FrameBatch(feed.position, [notice], end, notice=action), ended=False)
    return notice.typed


def new_feed() -> Feed:
    """A feed that began when event 5 was the last."""
    return Feed("r", log(5))
