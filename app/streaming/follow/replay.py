"""The replay: what one stream is sent, in order, from where it starts until its run ends."""

import math
import time
from collections.abc import Callable, Generator
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from ..backoff import backoff
from ..errors import NotALog, StoreUnavailable
from ..event_id import LAST, EventId
from ..event_store import EventStore
from ..feeds.fanout import Fanout, Sent
from ..feeds.feed import Feed, FeedSubscriber, Listener
from ..feeds.reader_pool import ReaderPool
from ..log.position import START, Position
from ..wire.frame import Frame
from ..wire.frame_batch import FrameBatch, notice_batch
from .history import History
from .standing import UNKNOWN_LAG, Lag, lag_between
from .start import Beginning, Start

INITIAL_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 2.0

# A stream that is ahead of its feed waits this long for the feed before it looks into the log.
PATIENCE_SECONDS = 1.0


class Wait(NamedTuple):
    """Nothing to send: wait until the feed wakes the stream, or until a monotonic time."""

    until: float


UP_TO_DATE = Wait(math.inf)
"""Everything that the feed holds was sent: park, or wait until the feed wakes the stream."""

Step = FrameBatch | Frame | Wait

P = ParamSpec("P")
T = TypeVar("T")
Steps = Generator[Step, None, T]


class Sources(Protocol):
    """Where a replay reads from."""

    @property
    def store(self) -> EventStore: ...

    @property
    def readers(self) -> ReaderPool: ...

    @property
    def history(self) -> History: ...


class ReplayStopped(Exception):
    """`Replay.stop` was called."""


class Replay:
    """The history of a run from a start, and then its feed, without a gap or a double.

    The replay joins the feed first, then reads the history up to the end of the log, then goes
    live. History and feed are positions in one ordered log, so nothing falls between them and
    nothing comes twice. Nothing is queued: a replay that falls behind what the feed keeps reads
    from the log at its own pace, and returns to the feed. It is its own position that says what
    follows, wherever that is read: another log, or a log with a hole, gives a notice.

    A replay knows no bytes and no sockets. Its generators yield steps: a batch or a control
    frame to send, or a time to wait. `position` is that of a client that has received every
    step. `began_at` is where it began: an id that the client has, or that is no event's.
    """

    __slots__ = (
        "_ahead",
        "_beginning",
        "_feed",
        "_old_holes",
        "_sources",
        "_start",
        "_stopped",
        "_told",
        "began_at",
        "position",
        "run_id",
    )

    def __init__(self, run_id: str, start: Start, sources: Sources):
        self.run_id = run_id
        self.position = START
        self.began_at = START.id
        self._start = start
        self._sources = sources
        self._feed: Feed | None = None
        self._beginning: Beginning | None = None
        self._old_holes: tuple[EventId, int] | None = None
        self._told: tuple[EventId, int] | None = None
        self._ahead: list[FrameBatch] = []
        self._stopped = False

    def __str__(self) -> str:
        return self.run_id

    @property
    def run_ids(self) -> tuple[str]:
        """The run alone."""
        return (self.run_id,)

    @property
    def feed(self) -> Feed:
        """The run's feed; the replay must have joined it."""
        assert self._feed is not None
        return self._feed

    def lag_of(self, position: Position) -> Lag:
        """Return how far a client at a position is behind the newest event of the feed."""
        return UNKNOWN_LAG if self._feed is None else lag_between(position, self._feed.position)

    def nothing_follows(self) -> bool:
        """Read the log, and return whether the stream would end without an event or a notice.

        Raises NotALog and StoreUnavailable.
        """
        self.begin_at(self._start.find(self._sources.store, self.run_id))
        return self._beginning is not None and self._beginning.nothing_follows

    def begin_at(self, beginning: Beginning) -> None:
        """Begin where the start was found; until then, the client is where that way begins."""
        self._beginning = beginning
        self.position = beginning.way[0].start

    def run(self, listener: Listener) -> Steps[None]:
        """Yield the steps from the start until the run ends; raises ReplayStopped.

        `listener` joins the feed, which wakes it.
        """
        yield from self._begin(listener)
        yield from self.follow()

    def follow(self) -> Steps[None]:
        """Yield the steps from the position until the run ends; raises ReplayStopped."""
        feed = self.feed
        while True:
            if self._stopped:
                raise ReplayStopped
            if feed.is_at(self.position):
                if feed.ended:
                    return
                yield UP_TO_DATE
            elif batches := feed.after(self.position):
                yield from self._pass(batches)
            elif feed.is_behind(self.position):
                yield from self._wait_for_feed()
            elif not (yield from self._catch_up(feed.position.id)):
                yield Wait(time.monotonic() + PATIENCE_SECONDS)

    def stop(self) -> None:
        """Make the generators raise ReplayStopped before they look at the feed or log again."""
        self._stopped = True

    def release(self) -> None:
        """Forget what was read ahead, while a client is slow; it is read again when it is due.

        Where the sequence is not known, it might be read another way.
        """
        if self.position.sequence is not None:
            self._ahead.clear()

    def park(self, subscriber: FeedSubscriber) -> Fanout | None:
        """Park a subscriber at its position, if it is up to date; see `Feed.park`."""
        return self.feed.park(subscriber)

    def unpark(self, subscriber: FeedSubscriber, fanout: Fanout) -> Sent:
        """Take a subscriber out of its fanout; return how much it got there."""
        return self.feed.unpark(subscriber, fanout)

    def close(self, listener: Listener) -> None:
        """Stop, and let the listener leave the feed; safe to repeat."""
        self.stop()
        if self._feed is not None:
            self._sources.readers.leave(self._feed, listener)
            self._feed = None

    def _begin(self, listener: Listener) -> Steps[None]:
        """Join the feed, send the history, and tell the client that it has caught up."""
        start = self._start
        beginning = self._beginning or (yield from self._find())
        self._beginning = None
        self._feed = self._sources.readers.join(self.run_id, beginning.state, listener)
        if start.is_awaited(beginning.state):
            beginning = yield from self._await_start(beginning)
        way, state = beginning
        for stretch in way:
            self.position = stretch.end
            if stretch.notice:
                requested = None if start.sequence is None else str(start)
                yield notice_batch(self.run_id, stretch, state, requested)
        self.began_at = self.position.id
        if start.id is None and start.sequence is None:
            self._old_holes = state.last_id, self.feed.version_changes
        while self.position.id < state.last_id:
            if not (yield from self._catch_up(state.last_id)):
                break
        data, cursor = state.control_data(str(start)), self.position.id
        self._old_holes = None
        yield Frame.control(self.run_id, "caught_up", data, cursor=cursor, id_line=cursor)

    def _find(self) -> Steps[Beginning]:
        find = self._start.find
        return (yield from self._with_retries(find, self._sources.store, self.run_id))

    def _await_start(self, beginning: Beginning) -> Steps[Beginning]:
        """Wait until the event to start with is the next one, or has come, or the run has ended."""
        self.position = beginning.way[-1].end
        self.began_at = self.position.id
        seen = self.feed.position
        while self._start.is_awaited(beginning.state) and not beginning.state.ended:
            if self._stopped:
                raise ReplayStopped
            if self.feed.position is seen:  # if it has ended, the log itself tells
                patience = PATIENCE_SECONDS if self.feed.ended else math.inf
                yield Wait(time.monotonic() + patience)
            seen = self.feed.position
            if self._start.may_be_next(seen) or self.feed.ended:
                beginning = yield from self._find()
        return beginning

    def _catch_up(self, end: EventId) -> Steps[bool]:
        """Yield what the log has after the position, up to an id; return whether it moved."""
        before = self.position
        if end <= self.position.id:
            end = LAST
        batches = yield from self._with_retries(
            self._sources.history.after, self.feed, self.position, end
        )
        yield from self._pass(batches)
        return self.position != before

    def _wait_for_feed(self) -> Steps[None]:
        """Wait until the feed moves, but look into the log if it does not for a while."""
        seen, until = self.feed.position, time.monotonic() + PATIENCE_SECONDS
        while self.feed.position == seen and not self._stopped:
            if time.monotonic() >= until:
                yield from self._catch_up(LAST)
                return
            yield Wait(until)

    def _pass(self, batches: list[FrameBatch]) -> Steps[None]:
        """Yield batches one by one, and keep none that was yielded; `release` ends it."""
        self._ahead = batches
        while batches:
            self.position = batches[0].end
            if batches[0].frames and not self._is_known_gap(batches[0]):
                yield batches.pop(0)
            else:
                del batches[0]

    def _is_known_gap(self, batch: FrameBatch) -> bool:
        """Return whether the client need not be told, or has been told.

        Where counting cannot tell which entries are missing, each read up to there finds the gap
        once more. A gap behind entries whose sequence is known is another one.
        """
        if batch.hole_upto is not None:
            told, self._told = self._told, (batch.hole_upto, self.feed.version_changes)
            if batch.start.sequence is None and told == self._told:
                return True
        return batch.is_gap and self._is_old(batch)

    def _is_old(self, gap: FrameBatch) -> bool:
        """Return whether the client need not be told: it has asked when the events were gone.

        A client that asks for what there is, and not for what follows an event, misses nothing
        that was deleted before. It began with the first entry or later: what is trimmed up to its
        position was trimmed since.
        """
        if self._old_holes is None or gap.is_trimmed:
            return False
        last_id, version_changes = self._old_holes
        return gap.end.id <= last_id and self.feed.version_changes == version_changes

    def _with_retries(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Steps[T]:
        """Call until Redis answers, and return the answer; yield the pauses in between."""
        pauses = backoff(INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS)
        while True:
            if self._stopped:
                raise ReplayStopped
            try:
                return read(*args, **kwargs)
            except (StoreUnavailable, NotALog):
                yield Wait(time.monotonic() + next(pauses))
