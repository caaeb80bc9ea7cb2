"""The replay: what one stream is sent, in order, from where it starts until its run ends."""

import math
import time
from collections.abc import Callable, Generator
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from ..backoff import backoff
from ..errors import NotALog, StoreUnavailable
from ..event_id import ZERO, EventId
from ..event_store import EventStore
from ..log.log_state import NO_LOG, LogState
from ..wire.frame import Frame
from ..wire.frame_batch import FrameBatch
from .feed import Feed, FeedSubscriber, Position
from .history import History
from .reader_pool import ReaderPool
from .start import Start

INITIAL_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 2.0

# A stream that found another log waits this long for the reader of its feed to find it too.
RESET_WAIT_SECONDS = 2.0


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

    The replay joins the feed first, then reads the history up to the feed's position, then goes
    live. History and feed are cursors over one ordered log, so nothing falls between them and
    nothing comes twice. Nothing is queued: a replay that falls behind what the feed keeps reads
    from the log at its own pace, and returns to the feed.

    A replay knows no bytes and no sockets. Its generators yield steps: a batch or a control
    frame to send, or a time to wait. `cursor` is that of a client that has received every step.
    """

    __slots__ = (
        "_deleted",
        "_feed",
        "_opening",
        "_reset_until",
        "_sources",
        "_start",
        "_stopped",
        "cursor",
        "epoch",
        "run_id",
    )

    def __init__(self, run_id: str, start: Start, sources: Sources):
        self.run_id = run_id
        self.cursor = start.id or ZERO
        self.epoch = 0
        self._start = start
        self._sources = sources
        self._feed: Feed | None = None
        self._deleted = ZERO  # the feed's value as of the last check
        self._opening: tuple[Position | None, LogState] | None = None
        self._reset_until = 0.0
        self._stopped = False

    @property
    def feed(self) -> Feed:
        """The run's feed; the replay must have joined it."""
        assert self._feed is not None
        return self._feed

    def nothing_follows(self) -> bool:
        """Read the log's state, and return whether the stream would end without an event.

        Raises NotALog and StoreUnavailable.
        """
        self._opening = self._read_state()
        return self._start.nothing_follows(self._opening[1])

    def run(self, subscriber: FeedSubscriber) -> Steps[None]:
        """Yield the steps from the start until the run ends; raises ReplayStopped.

        `subscriber` joins the feed, which wakes it.
        """
        yield from self._begin(subscriber)
        yield from self.follow()

    def follow(self) -> Steps[None]:
        """Yield the steps from the cursor until the run ends; raises ReplayStopped."""
        feed = self.feed
        while True:
            if self._stopped:
                raise ReplayStopped
            batches = feed.after(self.cursor, self.epoch)
            if feed.epoch != self.epoch:
                yield from self._reset()
            elif self._reset_until > time.monotonic():
                yield Wait(self._reset_until)
            elif batches:
                for batch in batches:
                    self.cursor = batch.end
                    yield batch
            elif batches is None:
                yield from self._history(feed.position.id)
            elif feed.ended and self.cursor == feed.position.id:
                return
            else:
                yield UP_TO_DATE

    def stop(self) -> None:
        """Make the generators raise ReplayStopped before they look at the feed or log again."""
        self._stopped = True

    def close(self, subscriber: FeedSubscriber) -> None:
        """Stop, and let the subscriber leave the feed; safe to repeat."""
        self.stop()
        if self._feed is not None:
            self._sources.readers.leave(self._feed, subscriber)
            self._feed = None

    def _read_state(self) -> tuple[Position | None, LogState]:
        # The position comes first: what the feed has read, the log must hold afterwards.
        position = self._sources.readers.position(self.run_id)
        return position, self._sources.store.state(self.run_id)

    def _begin(self, subscriber: FeedSubscriber) -> Steps[None]:
        """Join the feed, send the history, and tell the client that it has caught up."""
        position, state = self._opening or (yield from self._with_retries(self._read_state))
        self._opening = None
        yield from self._find_cursor(state)
        feed = self._sources.readers.join(self.run_id, position, state, subscriber)
        self._feed = feed
        self.epoch, joined_at = feed.position
        self._deleted = state.deleted
        if self._start.id is not None:
            yield from self._check_cursor(state)
        yield from self._history(max(state.last_id, joined_at))
        data = state.control_data(str(self._start))
        yield Frame.control(self.run_id, "caught_up", data, cursor=self.cursor, carries_id=True)

    def _find_cursor(self, state: LogState) -> Steps[None]:
        start = self._start
        if start.latest:
            self.cursor = state.last_id
        elif start.tail is not None:
            self.cursor = yield from self._with_retries(
                self._sources.store.cursor_before_tail, self.run_id, state.last_id, start.tail
            )
        elif start.id is None and state.first_id is not None:
            self.cursor = state.first_id.before()

    def _check_cursor(self, state: LogState) -> Steps[None]:
        """Yield a notice if the log does not continue from the cursor of the client."""
        yield from self._notify(state)
        is_missing = self._sources.store.is_missing
        if (yield from self._with_retries(is_missing, self.run_id, self.cursor)):
            yield self._notice("reset", state, ZERO)

    def _history(self, end: EventId) -> Steps[None]:
        """Yield what the log holds after the cursor, up to an id."""
        feed = self.feed
        while self.cursor < end:
            page, first_id = yield from self._with_retries(
                self._sources.history.page, feed, self.cursor, end
            )
            if feed.epoch != self.epoch:
                return  # the page may be from another log
            if feed.deleted > self._deleted:  # perhaps entries of this page
                self._deleted = feed.deleted
                if (yield from self._check_log()):
                    return
            if self._may_be_missing_events(page, first_id) and (yield from self._check_log()):
                return
            if page is None:
                self.cursor = max(self.cursor, end)
                return
            self.cursor = page.end
            yield page

    def _may_be_missing_events(self, page: FrameBatch | None, first_id: EventId | None) -> bool:
        """Return whether entries after the cursor were trimmed before a page was read."""
        if page is not None and first_id is None:
            return False  # a page from memory continues from the cursor without a hole
        if self.cursor == ZERO or (first_id is not None and first_id.before() <= self.cursor):
            return False
        # If the first id lies within the page, the log was trimmed after the page was read.
        return page is None or first_id is None or first_id <= page.frames[0].cursor

    def _check_log(self) -> Steps[bool]:
        """Yield a notice if events were missed; return whether it is another log."""
        state = yield from self._with_retries(self._sources.store.state, self.run_id)
        is_another = state.continuity(self.cursor) == "reset"
        yield from self._notify(state)
        if is_another:
            # One subscriber does not reset the feed of all. The feed's reader checks for itself.
            self._reset_until = time.monotonic() + RESET_WAIT_SECONDS
            self._sources.readers.check_now(self.feed)
        return is_another

    def _notify(self, state: LogState) -> Steps[None]:
        """Yield a notice if events were missed, and go on from what the log holds."""
        continuity = state.continuity(self.cursor)
        if continuity == "reset":
            yield self._notice("reset", state, ZERO)
        elif continuity == "gap":
            if state.first_id is None:
                cursor = state.last_id
            else:
                cursor = max(self.cursor, state.first_id.before())
            yield self._notice("gap", state, cursor)

    def _reset(self) -> Steps[None]:
        """Follow the feed into another log; yield a notice if events of the old one were sent."""
        self.epoch = self.feed.epoch
        if self.cursor > ZERO:
            state = yield from self._with_retries(self._state_or_no_log)
            yield self._notice("reset", state, ZERO)

    def _state_or_no_log(self) -> LogState:
        try:
            return self._sources.store.state(self.run_id)
        except NotALog:
            return NO_LOG

    def _notice(self, action: str, state: LogState, cursor: EventId) -> Frame:
        """Return a notice about what came after the cursor, and move the cursor."""
        data = state.control_data(str(self.cursor))
        self.cursor = cursor
        return Frame.control(self.run_id, action, data, cursor=cursor)

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
