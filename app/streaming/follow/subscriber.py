"""The subscriber: one open stream, with its cursor, its view, and where its bytes go."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gevent

from ..errors import InvalidInput, NotALog, StoreUnavailable
from ..event_id import ZERO, EventId
from ..event_store import EventStore
from ..log.log_state import NO_LOG, LogState
from ..wire.formats import FrameBatch, StreamFormat, http_chunk
from ..wire.frame import Frame
from .client_socket import ClientGone, ClientSocket, ClientStalled
from .feed import Fanout, Feed
from .heartbeats import Heartbeats
from .history import History
from .reader_pool import ReaderPool

INITIAL_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 2.0

# So long does a subscriber that found another log wait for its feed's reader to find it too.
RESET_WAIT_SECONDS = 2.0

# A heartbeat comes that much before the interval is over, at random, so that the viewers of
# a run do not all get theirs in the same moment.
MIN_BEAT_SHARE = 0.75

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

    def nothing_follows(self, state: LogState) -> bool:
        """Whether a stream from here would end without an event, its run having ended."""
        if not state.ended:
            return False
        at_the_end = self.id is not None and state.end_id <= self.id <= state.last_id
        return self.latest or self.tail == 0 or at_the_end

    def __str__(self) -> str:
        if self.tail is not None:
            return f"tail={self.tail}"
        return str(self.id) if self.id else "latest" if self.latest else "earliest"


@dataclass(frozen=True, slots=True)
class Services:
    """What all subscribers of a worker share."""

    store: EventStore
    readers: ReaderPool
    history: History
    heartbeats: Heartbeats
    heartbeat_seconds: float = 15.0
    retry_ms: int = 3000


class Subscriber:
    """One open stream of a run.

    It joins its run's feed first, is then given the history up to the feed's position, and
    goes live. Both are cursors over one ordered log, so nothing falls between them and
    nothing comes twice; and since Redis holds the log, nothing is queued: whoever falls
    behind what the feed remembers reads from the log at its own pace.

    Its bytes go one of two ways. `chunks` is an ordinary generator, for any WSGI server.
    `deliver_to` writes to an client_socket instead, and parks in the feed whenever it is up to
    date: it then has no greenlet, and the feed writes for it.
    """

    kind = "stream"

    __slots__ = (
        "_anew_until",
        "_beats",
        "_deleted",
        "_epoch",
        "_events_before",
        "_fanout",
        "_feed",
        "_last_sent",
        "_look",
        "_services",
        "_woken",
        "client_socket",
        "closed",
        "cursor",
        "events",
        "reason",
        "run_id",
        "start",
        "view",
    )

    def __init__(
        self,
        run_id: str,
        start: Start,
        view: StreamFormat,
        services: Services,
        closed: Callable[["Subscriber"], None] = lambda subscriber: None,
    ):
        """`closed` is called once, when the stream has let go of everything."""
        self.run_id = run_id
        self.start = start
        self.view = view
        self.closed: Callable[[Subscriber], None] | None = closed
        self.cursor = start.id or ZERO
        self.events = 0
        self.client_socket: ClientSocket | None = None
        self.reason: str | None = None
        self._services = services
        self._feed: Feed | None = None
        self._epoch = 0
        self._deleted = ZERO
        self._look: tuple[tuple[int, EventId] | None, LogState] | None = None
        self._anew_until = 0.0
        self._beats = False
        self._fanout: Fanout | None = None
        self._events_before = 0
        self._woken: threading.Event | None = None
        self._last_sent = time.monotonic()

    # From outside

    def state(self) -> LogState:
        """Look at the log as of the opening; raises NotALog and StoreUnavailable."""
        # The feed's mark is taken first: what it has read, the log must hold afterwards.
        mark = self._services.readers.mark(self.run_id)
        state = self._services.store.state(self.run_id)
        self._look = mark, state
        return state

    def chunks(self) -> Iterator[bytes]:
        """The stream's bytes, as they become due; call `close` when done with them."""
        yield from self._guarded(self._from_the_beginning())

    def deliver_to(self, client_socket: ClientSocket) -> None:
        """Write the stream to an client_socket, until it parks or is over."""
        self.client_socket = client_socket
        client_socket.watch(lambda: self.end("disconnected"))
        self._pump(self._from_the_beginning(), None)

    def wake(self) -> None:
        """There may be something new after the cursor, or the run may have ended."""
        if self._woken is not None:
            self._woken.set()

    def unpark(self, unsent: memoryview | None) -> None:
        """No longer parked: finish what was not sent, catch up, and come back."""
        self._unpark()
        gevent.spawn(self._pump, self._follow(), unsent)

    def end(self, reason: str) -> None:
        """End the stream as soon as its greenlet or thread comes to it."""
        self.reason = self.reason or reason
        if self._fanout is not None:
            self.unpark(None)
        else:
            self.wake()

    def cut(self) -> None:
        """Wait no longer for the client to take what is waiting for it."""
        if self.client_socket is not None:
            self.client_socket.cut()

    def close(self) -> None:
        """Let go of everything that the stream held; safe to repeat."""
        self.reason = self.reason or "closed"
        if self._fanout is not None:
            self._unpark()
        if self._feed is not None:
            self._services.readers.leave(self._feed, self)
            self._feed = None
        if self.client_socket is not None:
            self.client_socket.close()
        if self.closed is not None:
            closed, self.closed = self.closed, None
            closed(self)

    def beat(self, now: float) -> float:
        """Send a heartbeat if the parked stream has been silent; when to come back, or 0."""
        if self.reason is not None:
            return 0.0
        interval = self._services.heartbeat_seconds
        soonest = interval * random.uniform(MIN_BEAT_SHARE, 1)
        if self._fanout is None:  # its own greenlet sees to it, until it parks again
            return max(now + interval / 8, self._last_sent + soonest)
        quiet_since = max(self._last_sent, self._fanout.last_sent)
        if now < quiet_since + MIN_BEAT_SHARE * interval:
            return quiet_since + soonest
        wire = self._sent(self.view.wire.heartbeat(self.run_id))
        try:
            sent = self.client_socket.send(wire)
        except OSError:
            sent = 0
        if sent != len(wire):
            self.unpark(memoryview(wire)[sent:])
        return now + soonest

    # The client_socket's greenlet

    def _pump(self, chunks: Iterator[bytes], unsent: memoryview | None) -> None:
        client_socket = self.client_socket
        try:
            if unsent is not None:
                client_socket.send_all(unsent)
            for chunk in self._guarded(chunks):
                client_socket.send_all(chunk)
            if self._fanout is not None:
                return
            client_socket.finish()
        except ClientGone:
            self.reason = self.reason or "disconnected"
        except ClientStalled:
            self.reason = "stalled"
        except Exception:
            self.reason = "failed"
            log.exception("a stream failed run=%s", self.run_id)
        self.close()

    def _unpark(self) -> None:
        fanout, self._fanout = self._fanout, None
        self._feed.unpark(self, fanout)
        self.events += fanout.events - self._events_before

    def _park(self) -> bool:
        fanout = self._feed.park(self, self._epoch)
        if fanout is None:
            return False
        self._events_before = fanout.events
        self._fanout, self._woken, self._look = fanout, None, None
        if not self._beats:
            self._beats = True
            self._services.heartbeats.add(self)
        return True

    # The stream

    def _guarded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from chunks
        except _Over:
            if self.reason == "draining":
                yield self._sent(self.view.wire.retry(self._services.retry_ms))

    def _from_the_beginning(self) -> Iterator[bytes]:
        yield self._sent(self.view.wire.opening(self.run_id, self._services.retry_ms))
        yield from self._begin()
        yield from self._follow()

    def _begin(self) -> Iterator[bytes]:
        if self._look is None:
            yield from self._insist(self.state)
        mark, state = self._look
        if self.start.latest:
            self.cursor = state.last_id
        elif self.start.tail is not None:
            self.cursor = yield from self._insist(
                self._services.store.cursor_before_tail, self.run_id, state.last_id, self.start.tail
            )
        elif self.start.id is None and state.first_id is not None:
            self.cursor = state.first_id.before()
        self._feed = self._services.readers.join(self.run_id, mark, state, self)
        self._epoch, position = self._feed.mark()
        self._deleted = state.deleted
        if self.start.id is not None:
            yield from self._tell(state)
            if (yield from self._insist(self._services.store.is_missing, self.run_id, self.cursor)):
                told, self.cursor = state.control_data(str(self.cursor)), ZERO
                yield from self._notice("reset", told)
        yield from self._read_history(max(state.last_id, position))
        told = state.control_data(str(self.start))
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
                yield from self._reset()
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
            elif self.client_socket is not None and self._park():
                return
            else:
                yield from self._rest()

    def _read_history(self, upto: EventId) -> Iterator[bytes]:
        """What the log holds after the cursor, up to an id."""
        while self.cursor < upto:
            page, first_id = yield from self._insist(
                self._services.history.page, self._feed, self.cursor, upto
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

    def _check_page(self, page: FrameBatch | None, first_id: EventId | None) -> Iterator[bytes]:
        """Say what was trimmed before the page was read; gives whether the log is another."""
        if self.cursor == ZERO or (first_id is not None and first_id.before() <= self.cursor):
            return False
        if page is not None and first_id is not None and first_id > page.frames[0].position:
            return False  # it was trimmed since, and nothing is missing
        return (yield from self._look_and_tell())

    def _look_and_tell(self) -> Iterator[bytes]:
        """Say what was missed as of now; gives whether the log is another."""
        state = yield from self._insist(self._services.store.state, self.run_id)
        another = state.continuity(self.cursor) == "reset"
        yield from self._tell(state)
        if another:
            # The feed is not begun anew on one subscriber's word: its reader looks for itself.
            self._anew_until = time.monotonic() + RESET_WAIT_SECONDS
            self._services.readers.look_again(self._feed)
        return another

    def _tell(self, state: LogState) -> Iterator[bytes]:
        """Say what was missed, if anything was, and go on from what there is."""
        continuity = state.continuity(self.cursor)
        if continuity is not None:
            told = state.control_data(str(self.cursor))
            if continuity == "reset":
                self.cursor = ZERO
            elif state.first_id is None:
                self.cursor = state.last_id
            else:
                self.cursor = max(self.cursor, state.first_id.before())
            yield from self._notice(continuity, told)

    def _reset(self) -> Iterator[bytes]:
        """Follow the feed into another log, and say so if anything of the former was sent."""
        self._epoch, _ = self._feed.mark()
        if self.cursor > ZERO:
            state = yield from self._insist(self._look_whatever_it_is)
            told, self.cursor = state.control_data(str(self.cursor)), ZERO
            yield from self._notice("reset", told)

    def _look_whatever_it_is(self) -> LogState:
        try:
            return self._services.store.state(self.run_id)
        except NotALog:
            return NO_LOG

    def _notice(self, action: str, told: dict[str, str | None]) -> Iterator[bytes]:
        frame = Frame.control(self.run_id, action, told, position=self.cursor)
        yield self._sent(self.view.wire.frame(frame))

    def _send(self, batch: FrameBatch) -> Iterator[bytes]:
        wire, events = batch.encode(
            self.view, self.client_socket is not None and self.client_socket.chunked
        )
        self.cursor = batch.position
        self.events += events
        if wire:
            self._last_sent = time.monotonic()
            yield wire

    def _insist(self, ask: Callable[..., Any], *arguments: Any) -> Iterator[bytes]:
        """Ask until there is an answer, and give (not yield) it."""
        longest = INITIAL_RETRY_SECONDS
        while True:
            if self.reason is not None:
                raise _Over
            try:
                return ask(*arguments)
            except (StoreUnavailable, NotALog):
                yield from self._rest(random.uniform(longest / 2, longest))
                longest = min(MAX_RETRY_SECONDS, 2 * longest)

    def _rest(self, seconds: float = float("inf")) -> Iterator[bytes]:
        """Wait to be woken, `seconds` at the most, with a heartbeat whenever one is due."""
        if self._woken is None:
            self._woken = threading.Event()
            return  # what came before there was something to wake is looked at first
        until = time.monotonic() + seconds
        woken = False
        while not woken and (now := time.monotonic()) < until:
            due = self._last_sent + self._services.heartbeat_seconds
            if now >= due:
                yield self._sent(self.view.wire.heartbeat(self.run_id))
            else:
                woken = self._woken.wait(min(due, until) - now)

    def _sent(self, chunk: bytes) -> bytes:
        """A chunk as it goes to the client socket, or to the WSGI server, which frames it."""
        self._last_sent = time.monotonic()
        return (
            http_chunk(chunk)
            if self.client_socket is not None and self.client_socket.chunked
            else chunk
        )


class _Over(Exception):
    """The stream has been ended, for `reason`."""
