"""The subscriber: one open stream, which sends the steps of its replay to its client."""

import errno
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

import gevent

from ..event_id import ZERO, Cursor
from ..event_store import EventStore
from ..feeds.delivered import count_notice, count_sent
from ..feeds.fanout import Batch, Fanout, Sent
from ..feeds.reader_pool import ReaderPool
from ..log.position import Place
from ..merged.feed import MergedFeeds
from ..wire.formats import StreamFormat
from ..wire.frame import Frame
from ..wire.frame_batch import http_chunk
from ..wire.progress import Progress, progress_frame
from .client_socket import Backlog, ClientGone, ClientSocket, ClientStalled
from .heartbeats import Heartbeats
from .history import History
from .replay import UP_TO_DATE, ReplayStopped, Wait
from .standing import Lag, Standing, shown_cursor

# A heartbeat comes after a random part of the interval, this share at least, so that the
# viewers of a run do not all get theirs at the same moment.
MIN_BEAT_SHARE = 0.75

# How long the client of a drained stream waits: another worker is ready, or soon will be. With
# the spread that the wire format adds, this makes 50 to 500 ms.
DRAIN_RETRY_MS = (75, 375)

log = logging.getLogger("tailrace.stream")


@dataclass(frozen=True, slots=True)
class Services:
    """What all subscribers of a worker share."""

    store: EventStore
    readers: ReaderPool
    history: History
    heartbeats: Heartbeats
    heartbeat_seconds: float = 15.0
    retry_ms: int = 3000
    backlog: Backlog = field(default_factory=Backlog)
    merged_feeds: MergedFeeds = field(default_factory=MergedFeeds)


Steps = Iterator[Batch | Frame | Wait]


class SubscriberReplay(Protocol):
    """What a subscriber needs of its replay, of one run or of several; see `Replay`."""

    position: Any

    @property
    def run_id(self) -> str: ...

    @property
    def run_ids(self) -> Sequence[str]: ...

    @property
    def began_at(self) -> Cursor: ...

    def nothing_follows(self) -> bool: ...

    def lag_of(self, position: Any, /) -> Lag: ...

    def run(self, listener: Any, /) -> Steps: ...

    def follow(self) -> Steps: ...

    def park(self, subscriber: Any, /) -> Fanout | None: ...

    def unpark(self, subscriber: Any, fanout: Fanout, /) -> Sent: ...

    def release(self) -> None: ...

    def stop(self) -> None: ...

    def close(self, listener: Any, /) -> None: ...


class State(Enum):
    """What a subscriber is doing. This also says which code sends its bytes."""

    NEW = auto()
    """Nothing was sent yet, and it is not known whether there will be a client socket."""

    ITERATED = auto()
    """A WSGI server iterates over `chunks` and sends them."""

    WRITING = auto()
    """A greenlet writes to the client socket: history, or what a fanout could not send."""

    PARKED = auto()
    """It has no greenlet. A fanout of the feed writes to the client socket."""

    CLOSED = auto()
    """Everything is released."""


class Subscriber:
    """One open stream.

    It encodes the steps of its replay, counts events, and sends heartbeats. The bytes go one of
    two ways. `chunks` is an ordinary generator, for any WSGI server. `deliver_to` writes to a
    client socket instead, and parks in the feed when it is up to date: it then has no greenlet,
    and a fanout of the feed writes for it.

    Attributes:
        reason: why the stream ends, None while it goes on.
        events: how many events were sent. Those since it parked are added when it unparks.
        bytes: how many bytes were sent, counted likewise.
        position: that of the client, while parked.
        client_socket: the client's socket, once the state is WRITING.
    """

    kind = "stream"

    __slots__ = (
        "_fanout",
        "_has_heartbeats",
        "_last_sent",
        "_on_closed",
        "_opened_ms",
        "_progress",
        "_replay",
        "_services",
        "_state",
        "_stood",
        "_unsent",
        "_warning",
        "_woken",
        "bytes",
        "client_socket",
        "events",
        "position",
        "reason",
        "stream_format",
    )

    client_socket: ClientSocket
    position: Place
    _fanout: Fanout  # while parked

    def __init__(
        self,
        replay: SubscriberReplay,
        stream_format: StreamFormat,
        services: Services,
        on_closed: Callable[["Subscriber"], None] = lambda subscriber: None,
    ):
        """`on_closed` is called once, when the stream has released everything."""
        self.stream_format = stream_format
        self.events = 0
        self.bytes = 0
        self.reason: str | None = None
        self._replay = replay
        self._services = services
        self._on_closed = on_closed
        self._state = State.NEW
        self._stood: Standing | None = None  # at its end
        self._unsent: memoryview | None = None  # what the fanout could not send
        self._warning: Frame | None = None  # what is to be sent between two steps
        self._has_heartbeats = False
        self._progress = Progress()
        self._woken: threading.Event | None = None  # made when it first has to wait
        self._last_sent = time.monotonic()
        self._opened_ms = int(1000 * time.time())

    @property
    def run_id(self) -> str:
        """The run whose events are streamed, or what stands for several."""
        return str(self._replay)

    @property
    def gets(self) -> str:
        """The content type of the stream."""
        return self.stream_format.wire.content_type.partition(";")[0]

    @property
    def followed(self) -> Sequence[str]:
        """The runs whose events are streamed."""
        return self._replay.run_ids

    def standing(self) -> Standing:
        """Return where the stream is; once it is closed, where it was."""
        if self._stood is not None:
            return self._stood
        parked = self._state is State.PARKED
        position = self.position if parked else self._replay.position
        sent = self._fanout.sent_since(self._fanout.parked[self]) if parked else Sent(0, 0)
        return Standing(
            self._state.name.lower(),
            self.events + sent.events,
            self.bytes + sent.bytes,
            shown_cursor(position.id),
            self._replay.lag_of(position),
            len(self._unsent or b""),
        )

    def nothing_follows(self) -> bool:
        """Return whether the run has ended, and the stream would end without an event.

        Raises NotALog and StoreUnavailable.
        """
        return self._replay.nothing_follows()

    def chunks(self) -> Iterator[bytes]:
        """Yield the stream's bytes as they become due; the caller then calls `close`."""
        self._state = State.ITERATED
        for chunk in self._until_stopped(self._from_start()):
            yield chunk
            self.bytes += len(chunk)
        if self._is_cut_off:  # WSGI servers close the connection after an error
            raise ConnectionResetError(errno.ECONNRESET, "the stream was cut off")

    def deliver_to(self, client_socket: ClientSocket) -> None:
        """Write the stream to a client socket, until it parks or is over."""
        self.client_socket = client_socket
        self._state = State.WRITING
        client_socket.watch(lambda: self.end("disconnected"))
        self._write(self._from_start())

    def wake(self) -> None:
        """Look at the feed again: it has more events, has ended, or was reset."""
        if self._woken is not None:
            self._woken.set()

    def unpark(self, unsent: memoryview | None) -> None:
        """Leave the fanout: write `unsent` in a greenlet, catch up, and park again."""
        self._state = State.WRITING
        self._leave_fanout()
        self._unsent = unsent
        gevent.spawn(self._write, self._encoded(self._replay.follow()))

    def end(self, reason: str) -> None:
        """End the stream soon, with what belongs before its end."""
        self.reason = self.reason or reason
        self._replay.stop()
        if self._state is State.PARKED:
            self.unpark(None)
        else:
            self.wake()

    def warn(self, seconds: int) -> None:
        """Tell the client that the stream will end when its token expires."""
        self._warning = Frame.control(
            self._replay.run_id, "expiring", {"expires_in": seconds}, cursor=ZERO
        )
        if self._state is State.PARKED:
            self.unpark(None)
        else:
            self.wake()

    def cut(self) -> None:
        """Stop waiting for a client that does not read."""
        if self._state is State.WRITING:
            self.client_socket.cut()

    def close(self) -> None:
        """Release everything; safe to repeat."""
        state, self._state = self._state, State.CLOSED
        if state is State.CLOSED:
            return
        self.reason = self.reason or "closed"
        if state is State.PARKED:
            self._leave_fanout()
        self._stood = self.standing()
        self._replay.close(self)
        if state in (State.WRITING, State.PARKED):
            self.client_socket.close()
        self._on_closed(self)

    def beat(self, now: float) -> float:
        """Send a heartbeat if the parked stream has been silent for long enough.

        Returns the monotonic time at which to call again, or 0 for never.
        """
        if self.reason is not None:
            return 0.0
        interval = self._services.heartbeat_seconds
        pause = interval * random.uniform(MIN_BEAT_SHARE, 1)
        if self._state is not State.PARKED:  # its greenlet sends heartbeats until it parks
            return max(now + interval / 8, self._last_sent + pause)
        silent_since = max(self._last_sent, self._fanout.last_sent)
        if now < silent_since + MIN_BEAT_SHARE * interval:
            return silent_since + pause
        self._note_fanout()
        chunk = self._heartbeat(self.position)
        try:
            sent = self.client_socket.send(chunk)
        except OSError:
            sent = 0
        self.bytes += len(chunk)
        if sent != len(chunk):
            self.unpark(memoryview(chunk)[sent:])
        return now + pause

    # Writing and parking

    def _write(self, chunks: Iterator[bytes]) -> None:
        """Write to the client socket until the stream parks or is over."""
        try:
            if self._unsent is not None:
                self._send(self._take_unsent())
            for chunk in self._until_stopped(chunks):
                self._send(chunk)
                self.bytes += len(chunk)
            if self._state is State.PARKED:
                return
            if self._is_cut_off:
                self.client_socket.cut_off()
            else:
                self.client_socket.finish()
        except ClientGone:
            self.reason = self.reason or "disconnected"
        except ClientStalled:
            self.reason = "stalled"
        except Exception:
            self.reason = "failed"
            log.exception("a stream failed run=%s", self.run_id)
        self.close()

    def _take_unsent(self) -> memoryview:
        unsent, self._unsent = self._unsent, None
        assert unsent is not None
        return unsent

    def _send(self, chunk: bytes | memoryview) -> None:
        """Write a chunk; while the client is slow, nothing else is held for it."""
        unsent = self.client_socket.send_now(chunk)
        if unsent:
            self._replay.release()
            with self._services.backlog.holding(unsent, self.client_socket):
                self.client_socket.send_all(unsent)

    def _park(self) -> bool:
        """Park if the stream is still up to date; return whether it is parked."""
        # Starting the heartbeats may give way to other greenlets, so that comes first.
        if not self._has_heartbeats:
            self._has_heartbeats = True
            self._services.heartbeats.add(self)
            if self.reason is not None:  # ended meanwhile: the replay stops
                return False
        self.position = self._replay.position
        fanout = self._replay.park(self)
        if fanout is None:
            return False
        if not _is_at_most(fanout.progress.last_id, self._progress.last_id):
            # A progress event that only the others got. All of them get the next one.
            fanout.progress.last_id = self._progress.last_id
        self._fanout, self._woken = fanout, None
        self._state = State.PARKED
        return True

    def _note_fanout(self) -> None:
        """Note the last `id:` line that the fanout sent, if it has come to this client yet."""
        last_id = self._fanout.progress.last_id
        if _is_at_most(last_id, self._progress.last_id):
            return
        if last_id is not None and last_id <= self.position.id:
            self._progress.note_id(last_id)

    def _leave_fanout(self) -> None:
        sent = self._replay.unpark(self, self._fanout)
        self.events += sent.events
        self.bytes += sent.bytes
        self._note_fanout()
        self._replay.position = self.position

    @property
    def _is_cut_off(self) -> bool:
        """Whether the stream ends too early, and its client must not take that for its end."""
        return self.stream_format.wire.cuts and self.reason != "ended"

    # Bytes

    def _until_stopped(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from chunks
        except ReplayStopped:
            if self.reason in ("draining", "expired"):
                retry_ms = min(self._services.retry_ms, random.randint(*DRAIN_RETRY_MS))
                yield self._framed(self.stream_format.wire.retry(retry_ms))

    def _from_start(self) -> Iterator[bytes]:
        wire = self.stream_format.wire
        yield self._framed(wire.opening(self._replay.run_id, self._services.retry_ms))
        yield from self._encoded(self._replay.run(self))

    def _encoded(self, steps: Steps) -> Iterator[bytes]:
        """Yield the bytes of the replay's steps, until the stream parks or the run ends."""
        for step in steps:
            if self._warning is not None:
                warning, self._warning = self._warning, None
                yield self._framed(self.stream_format.wire.frame(warning))
            if step is UP_TO_DATE and self._state is State.WRITING and self._park():
                return
            if isinstance(step, Wait):
                yield from self._wait(step.until)
            elif isinstance(step, Frame):
                self._progress.note_id(step.cursor)
                yield self._framed(self.stream_format.wire.frame(step))
                count_notice(step.action)
            else:
                encoded, end = step.encode(self.stream_format, self._is_chunked()), step.end
                del step  # a slow client then holds the chunk and no frames
                self.events += encoded.events
                if encoded.chunk:
                    self._last_sent = time.monotonic()
                    yield encoded.chunk
                    count_sent(encoded, len(encoded.chunk), 1, self._opened_ms)
                is_over, is_due = encoded.is_over, self._progress.add(encoded, end)
                del encoded
                if is_over:
                    break
                if is_due:
                    yield self._framed(self._progress_event(end))
            if self._woken is not None:
                self._woken.clear()  # before the replay looks at the feed again
        self.reason = "ended"

    def _wait(self, until: float) -> Iterator[bytes]:
        """Wait until woken, or until a monotonic time; yield a heartbeat when one is due."""
        if self._woken is None:
            self._woken = threading.Event()
            return  # the feed may have changed before there was an event to set
        woken = False
        while not woken and (now := time.monotonic()) < until:
            due = self._last_sent + self._services.heartbeat_seconds
            if now >= due:
                yield self._heartbeat(self._replay.position)
            else:
                woken = self._woken.wait(min(due, until) - now)

    def _heartbeat(self, position: Place) -> bytes:
        """Return a heartbeat, which is a progress event if the client lacks the position."""
        if position.is_start or position.id in (self._progress.last_id, self._replay.began_at):
            return self._framed(self.stream_format.wire.heartbeat(self._replay.run_id))
        self._progress.note_id(position.id)
        return self._framed(self._progress_event(position))

    def _progress_event(self, position: Place) -> bytes:
        return self.stream_format.wire.frame(progress_frame(self._replay.run_id, position.id))

    def _framed(self, chunk: bytes) -> bytes:
        """Return bytes that are sent now, as an HTTP chunk where no WSGI server makes one."""
        self._last_sent = time.monotonic()
        return http_chunk(chunk) if self._is_chunked() else chunk

    def _is_chunked(self) -> bool:
        has_socket = self._state is State.WRITING or self._state is State.PARKED
        return has_socket and self.client_socket.chunked


def _is_at_most(cursor: Cursor | None, other: Cursor | None) -> bool:
    """Return whether a cursor says no more than another one; None says nothing."""
    return cursor is None or (other is not None and cursor <= other)
