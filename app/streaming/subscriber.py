"""The subscriber: one open stream, with its cursor, its view, and where its bytes go."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gevent

from app.streaming.errors import InvalidInput, NotALog, StoreUnavailable
from app.streaming.event_id import ZERO, EventId
from app.streaming.event_store import EventStore
from app.streaming.feed import Channel, Feed
from app.streaming.frame import Frame
from app.streaming.heartbeat import Pulse
from app.streaming.history import History
from app.streaming.outlet import ClientGone, ClientStalled, Outlet
from app.streaming.readers import Readers
from app.streaming.replies import NO_LOG, LogInfo
from app.streaming.sse import Batch, View, framed

FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0

# So long does a subscriber that found another log wait for its feed's reader to find it too.
LOOKING_SECONDS = 2.0

# A heartbeat comes that much before the interval is over, at random, so that the viewers of
# a run do not all get theirs in the same moment.
EARLIEST_BEAT = 0.75

log = logging.getLogger("tailrace.stream")


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream begins: after an event `id`, at the latest, `tail` events before the
    end, or (without any of them) at the earliest."""

    id: EventId | None = None
    latest: bool = False
    tail: int | None = None

    @classmethod
    def parse(cls, text: str, field: str) -> "Start":
        """Read a cursor: an event id, `earliest` or `latest`; raises InvalidInput."""
        if text == "earliest":
            return cls()
        if text == "latest":
            return cls(latest=True)
        try:
            return cls(id=EventId.parse(text))
        except InvalidInput:
            message = "must be an event id (<ms>-<n>), 'earliest' or 'latest'"
            raise InvalidInput(field, message) from None

    def nothing_follows(self, info: LogInfo) -> bool:
        """Whether a stream from here would end without an event, its run having ended."""
        if not info.ended:
            return False
        at_the_end = self.id is not None and info.end_id <= self.id <= info.last_id
        return self.latest or self.tail == 0 or at_the_end

    def __str__(self) -> str:
        if self.tail is not None:
            return f"tail={self.tail}"
        return str(self.id) if self.id else "latest" if self.latest else "earliest"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all subscribers of a worker share."""

    store: EventStore
    readers: Readers
    history: History
    pulse: Pulse
    heartbeat_seconds: float = 15.0
    retry_ms: int = 3000


class Subscriber:
    """One open stream of a run.

    It joins its run's feed first, is then given the history up to the feed's position, and
    goes live. Both are cursors over one ordered log, so nothing falls between them and
    nothing comes twice; and since Redis holds the log, nothing is queued: whoever falls
    behind what the feed remembers reads from the log at its own pace.

    Its bytes go one of two ways. `chunks` is an ordinary generator, for any WSGI server.
    `deliver_to` writes to an outlet instead, and parks in the feed whenever it is up to
    date: it then has no greenlet, and the feed writes for it.
    """

    kind = "stream"

    __slots__ = (
        "_anew_until",
        "_around",
        "_beats",
        "_channel",
        "_deleted",
        "_epoch",
        "_events_before",
        "_feed",
        "_last_sent",
        "_look",
        "_woken",
        "closed",
        "cursor",
        "events",
        "outlet",
        "reason",
        "run_id",
        "start",
        "view",
    )

    def __init__(
        self,
        run_id: str,
        start: Start,
        view: View,
        around: Surroundings,
        closed: Callable[["Subscriber"], None] = lambda subscriber: None,
    ):
        """`closed` is called once, when the stream has let go of everything."""
        self.run_id = run_id
        self.start = start
        self.view = view
        self.closed: Callable[[Subscriber], None] | None = closed
        self.cursor = start.id or ZERO
        self.events = 0
        self.outlet: Outlet | None = None
        self.reason: str | None = None
        self._around = around
        self._feed: Feed | None = None
        self._epoch = 0
        self._deleted = ZERO
        self._look: tuple[tuple[int, EventId] | None, LogInfo] | None = None
        self._anew_until = 0.0
        self._beats = False
        self._channel: Channel | None = None
        self._events_before = 0
        self._woken: threading.Event | None = None
        self._last_sent = time.monotonic()

    # From outside

    def look(self) -> LogInfo:
        """Look at the log as of the opening; raises NotALog and StoreUnavailable."""
        # The feed's mark is taken first: what it has read, the log must hold afterwards.
        mark = self._around.readers.mark(self.run_id)
        info = self._around.store.look(self.run_id)
        self._look = mark, info
        return info

    def chunks(self) -> Iterator[bytes]:
        """The stream's bytes, as they become due; call `close` when done with them."""
        yield from self._guarded(self._from_the_beginning())

    def deliver_to(self, outlet: Outlet) -> None:
        """Write the stream to an outlet, until it parks or is over."""
        self.outlet = outlet
        outlet.watch(lambda: self.end("disconnected"))
        self._pump(self._from_the_beginning(), None)

    def wake(self) -> None:
        """There may be something new after the cursor, or the run may have ended."""
        if self._woken is not None:
            self._woken.set()

    def take_over(self, unsent: memoryview | None) -> None:
        """No longer parked: finish what was not sent, catch up, and come back."""
        self._unpark()
        gevent.spawn(self._pump, self._follow(), unsent)

    def end(self, reason: str) -> None:
        """End the stream as soon as its greenlet or thread comes to it."""
        self.reason = self.reason or reason
        if self._channel is not None:
            self.take_over(None)
        else:
            self.wake()

    def cut(self) -> None:
        """Wait no longer for the client to take what is waiting for it."""
        if self.outlet is not None:
            self.outlet.cut()

    def close(self) -> None:
        """Let go of everything that the stream held; safe to repeat."""
        self.reason = self.reason or "closed"
        if self._channel is not None:
            self._unpark()
        if self._feed is not None:
            self._around.readers.leave(self._feed, self)
            self._feed = None
        if self.outlet is not None:
            self.outlet.close()
        if self.closed is not None:
            closed, self.closed = self.closed, None
            closed(self)

    def beat(self, now: float) -> float:
        """Send a heartbeat if the parked stream has been silent; when to come back, or 0."""
        if self.reason is not None:
            return 0.0
        interval = self._around.heartbeat_seconds
        soonest = interval * random.uniform(EARLIEST_BEAT, 1)
        if self._channel is None:  # its own greenlet sees to it, until it parks again
            return max(now + interval / 8, self._last_sent + soonest)
        quiet_since = max(self._last_sent, self._channel.last_sent)
        if now < quiet_since + EARLIEST_BEAT * interval:
            return quiet_since + soonest
        wire = self._sent(self.view.wire.heartbeat(self.run_id))
        try:
            sent = self.outlet.send(wire)
        except OSError:
            sent = 0
        if sent != len(wire):
            self.take_over(memoryview(wire)[sent:])
        return now + soonest

    # The outlet's greenlet

    def _pump(self, chunks: Iterator[bytes], unsent: memoryview | None) -> None:
        outlet = self.outlet
        try:
            if unsent is not None:
                outlet.send_all(unsent)
            for chunk in self._guarded(chunks):
                outlet.send_all(chunk)
            if self._channel is not None:
                return
            outlet.finish()
        except ClientGone:
            self.reason = self.reason or "disconnected"
        except ClientStalled:
            self.reason = "stalled"
        except Exception:
            self.reason = "failed"
            log.exception("a stream failed run=%s", self.run_id)
        self.close()

    def _unpark(self) -> None:
        channel, self._channel = self._channel, None
        self._feed.unpark(self, channel)
        self.events += channel.events - self._events_before

    def _park(self) -> bool:
        channel = self._feed.park(self, self._epoch)
        if channel is None:
            return False
        self._events_before = channel.events
        self._channel, self._woken, self._look = channel, None, None
        if not self._beats:
            self._beats = True
            self._around.pulse.add(self)
        return True

    # The stream

    def _guarded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from chunks
        except _Over:
            if self.reason == "draining":
                yield self._sent(self.view.wire.retry(self._around.retry_ms))

    def _from_the_beginning(self) -> Iterator[bytes]:
        yield self._sent(self.view.wire.opening(self.run_id, self._around.retry_ms))
        yield from self._begin()
        yield from self._follow()

    def _begin(self) -> Iterator[bytes]:
        if self._look is None:
            yield from self._insist(self.look)
        mark, info = self._look
        if self.start.latest:
            self.cursor = info.last_id
        elif self.start.tail is not None:
            self.cursor = yield from self._insist(
                self._around.store.before_last, self.run_id, info.last_id, self.start.tail
            )
        elif self.start.id is None and info.first_id is not None:
            self.cursor = info.first_id.before()
        self._feed = self._around.readers.join(self.run_id, mark, info, self)
        self._epoch, position = self._feed.mark()
        self._deleted = info.deleted
        if self.start.id is not None:
            yield from self._tell(info)
            if (yield from self._insist(self._around.store.lacks, self.run_id, self.cursor)):
                told, self.cursor = info.told(str(self.cursor)), ZERO
                yield from self._notice("reset", told)
        yield from self._read_history(max(info.last_id, position))
        told = info.told(str(self.start))
        caught_up = Frame.control(
            self.run_id, "caught_up", told, position=self.cursor, carries_id=True
        )
        yield self._sent(self.view.wire.frame(caught_up))

    def _follow(self) -> Iterator[bytes]:
        feed = self._feed
        while True:
            if self._woken is not None:
                self._woken.clear()
            if self.reason is not None:
                raise _Over
            batches = feed.after(self.cursor, self._epoch)
            if feed.epoch != self._epoch:
                yield from self._begin_anew()
            elif self._anew_until > time.monotonic():
                yield from self._rest(self._anew_until - time.monotonic())
            elif batches:
                for batch in batches:
                    yield from self._send(batch)
            elif batches is None:
                yield from self._read_history(feed.position)
            elif feed.ended and self.cursor == feed.position:
                self.reason = "ended"
                return
            elif self.outlet is not None and self._park():
                return
            else:
                yield from self._rest()

    def _read_history(self, upto: EventId) -> Iterator[bytes]:
        """What the log holds after the cursor, up to an id."""
        while self.cursor < upto:
            page, first_id = yield from self._insist(
                self._around.history.page, self._feed, self.cursor, upto
            )
            if self._feed.epoch != self._epoch:
                return  # the page may be another log's
            if self._feed.deleted > self._deleted:  # perhaps out of this page
                self._deleted = self._feed.deleted
                if (yield from self._look_and_tell()):
                    return
            if page is None or first_id is not None:
                another = yield from self._check_page(page, first_id)
                if another:
                    return
            if page is None:
                self.cursor = max(self.cursor, upto)
                return
            yield from self._send(page)

    def _check_page(self, page: Batch | None, first_id: EventId | None) -> Iterator[bytes]:
        """Say what was trimmed before the page was read; gives whether the log is another."""
        if self.cursor == ZERO or (first_id is not None and first_id.before() <= self.cursor):
            return False
        if page is not None and first_id is not None and first_id > page.frames[0].position:
            return False  # it was trimmed since, and nothing is missing
        return (yield from self._look_and_tell())

    def _look_and_tell(self) -> Iterator[bytes]:
        """Say what was missed as of now; gives whether the log is another."""
        info = yield from self._insist(self._around.store.look, self.run_id)
        another = info.verdict(self.cursor) == "reset"
        yield from self._tell(info)
        if another:
            # The feed is not begun anew on one subscriber's word: its reader looks for itself.
            self._anew_until = time.monotonic() + LOOKING_SECONDS
            self._around.readers.look_again(self._feed)
        return another

    def _tell(self, info: LogInfo) -> Iterator[bytes]:
        """Say what was missed, if anything was, and go on from what there is."""
        verdict = info.verdict(self.cursor)
        if verdict is not None:
            told = info.told(str(self.cursor))
            if verdict == "reset":
                self.cursor = ZERO
            elif info.first_id is None:
                self.cursor = info.last_id
            else:
                self.cursor = max(self.cursor, info.first_id.before())
            yield from self._notice(verdict, told)

    def _begin_anew(self) -> Iterator[bytes]:
        """Follow the feed into another log, and say so if anything of the former was sent."""
        self._epoch, _ = self._feed.mark()
        if self.cursor > ZERO:
            info = yield from self._insist(self._look_whatever_it_is)
            told, self.cursor = info.told(str(self.cursor)), ZERO
            yield from self._notice("reset", told)

    def _look_whatever_it_is(self) -> LogInfo:
        try:
            return self._around.store.look(self.run_id)
        except NotALog:
            return NO_LOG

    def _notice(self, action: str, told: dict[str, str | None]) -> Iterator[bytes]:
        frame = Frame.control(self.run_id, action, told, position=self.cursor)
        yield self._sent(self.view.wire.frame(frame))

    def _send(self, batch: Batch) -> Iterator[bytes]:
        wire, events = batch.encode(self.view, self.outlet is not None and self.outlet.chunked)
        self.cursor = batch.position
        self.events += events
        if wire:
            self._last_sent = time.monotonic()
            yield wire

    def _insist(self, ask: Callable[..., Any], *arguments: Any) -> Iterator[bytes]:
        """Ask until there is an answer, and give (not yield) it."""
        longest = FIRST_RETRY_SECONDS
        while True:
            if self.reason is not None:
                raise _Over
            try:
                return ask(*arguments)
            except (StoreUnavailable, NotALog):
                yield from self._rest(random.uniform(longest / 2, longest))
                longest = min(LONGEST_RETRY_SECONDS, 2 * longest)

    def _rest(self, seconds: float = float("inf")) -> Iterator[bytes]:
        """Wait to be woken, `seconds` at the most, with a heartbeat whenever one is due."""
        if self._woken is None:
            self._woken = threading.Event()
            return  # what came before there was something to wake is looked at first
        until = time.monotonic() + seconds
        woken = False
        while not woken and (now := time.monotonic()) < until:
            due = self._last_sent + self._around.heartbeat_seconds
            if now >= due:
                yield self._sent(self.view.wire.heartbeat(self.run_id))
            else:
                woken = self._woken.wait(min(due, until) - now)

    def _sent(self, chunk: bytes) -> bytes:
        """A chunk as it goes to the outlet, or to the WSGI server, which frames it itself."""
        self._last_sent = time.monotonic()
        return framed(chunk) if self.outlet is not None and self.outlet.chunked else chunk


class _Over(Exception):
    """The stream has been ended, for `reason`."""
