"""The subscriber: one open stream, with its cursor, its filter and its wire format."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from app.streaming.errors import InvalidInput, NotALog, StoreUnavailable
from app.streaming.event_id import ZERO, EventId
from app.streaming.event_store import FIRST_COUNT, EventStore, next_count
from app.streaming.feed import Feed
from app.streaming.reader import Readers
from app.streaming.replies import LogInfo
from app.streaming.sse import Filter, Frame, WireFormat

FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0


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
        return info.ended and (self.latest or self.tail == 0 or self.id == info.last_id)

    def __str__(self) -> str:
        if self.tail is not None:
            return f"tail={self.tail}"
        return str(self.id) if self.id else "latest" if self.latest else "earliest"


class Subscriber:
    """One open stream of a run.

    It joins its run's feed first, is then given the history up to the feed's position, and
    goes live. Both are cursors over one ordered log, so nothing falls between them and
    nothing comes twice; and since Redis holds the log, nothing is queued: whoever falls
    behind what the feed remembers reads from the log at its own pace.
    """

    def __init__(
        self,
        run_id: str,
        start: Start,
        wanted: Filter,
        wire: WireFormat,
        *,
        store: EventStore,
        readers: Readers,
        info: LogInfo | None = None,
        heartbeat_seconds: float = 15.0,
        retry_ms: int = 3000,
    ):
        """`info` is the log as of the opening, None where Redis could not tell it."""
        self.run_id = run_id
        self.start = start
        self.events_sent = 0
        self.reason: str | None = None
        self._wanted = wanted
        self._wire = wire
        self._store = store
        self._readers = readers
        self._info = info
        self._heartbeat_seconds = heartbeat_seconds
        self._retry_ms = retry_ms
        self._cursor = start.id or ZERO
        self._feed: Feed | None = None
        self._epoch = 0
        self._woken = threading.Event()
        self._last_sent = time.monotonic()

    def wake(self) -> None:
        """There is something new in the feed."""
        self._woken.set()

    def end(self, reason: str) -> None:
        """End the stream as soon as its greenlet or thread comes to it."""
        self.reason = self.reason or reason
        self._woken.set()

    def close(self) -> None:
        """Let go of everything that the stream held; safe to repeat."""
        self.end("closed")
        if self._feed is not None:
            self._readers.leave(self._feed, self)
            self._feed = None

    def chunks(self) -> Iterator[bytes]:
        """The stream's bytes, as they become due."""
        try:
            yield self._sent(self._wire.opening(self.run_id, self._retry_ms))
            yield from self._begin()
            yield from self._follow()
        except _Over:
            if self.reason == "draining":
                yield self._wire.retry(self._retry_ms)

    def _begin(self) -> Iterator[bytes]:
        info = self._info or (yield from self._insist(self._store.info, self.run_id))
        if self.start.latest:
            self._cursor = info.last_id
        elif self.start.tail is not None:
            self._cursor = yield from self._insist(
                self._store.before_last, self.run_id, info.last_id, self.start.tail
            )
        self._feed = self._readers.join(self.run_id, info, self)
        self._epoch, position = self._feed.mark()
        if self.start.id is not None:
            yield from self._tell(info)
        yield from self._read_history(max(info.last_id, position))
        told = info.told(str(self.start))
        yield from self._send(
            [Frame.control(self.run_id, "caught_up", told, position=self._cursor, carries_id=True)]
        )

    def _follow(self) -> Iterator[bytes]:
        feed = self._feed
        while True:
            self._woken.clear()
            if self.reason:
                raise _Over
            frames = feed.after(self._cursor, self._epoch)
            if frames:
                yield from self._send(frames)
            elif feed.epoch != self._epoch:
                yield from self._begin_anew()
            elif frames is None:
                yield from self._read_history(feed.position)
            elif feed.ended and self._cursor >= feed.position:
                self.end("ended")
            else:
                yield from self._rest()

    def _read_history(self, upto: EventId) -> Iterator[bytes]:
        """What the log holds after the cursor, up to an id."""
        count = FIRST_COUNT
        while self._cursor < upto:
            events, first_id = yield from self._insist(
                self._store.history, self.run_id, self._cursor, upto, count
            )
            if self._cursor > ZERO and (first_id is None or self._cursor < first_id.before()):
                info = yield from self._insist(self._store.info, self.run_id)
                if info.verdict(self._cursor) == "reset":
                    self._feed.begin_anew(self._epoch)
                    return
                yield from self._tell(info)
            if not events:
                self._cursor = upto
                return
            count = next_count(events)
            yield from self._send([Frame.of(event) for event in events])

    def _tell(self, info: LogInfo) -> Iterator[bytes]:
        """Say what was missed, if anything was, and go on from what there is."""
        verdict = info.verdict(self._cursor)
        if verdict is None:
            return
        told = info.told(str(self._cursor))
        if verdict == "reset":
            self._cursor = ZERO
        else:
            self._cursor = info.first_id.before() if info.first_id else info.last_id
        yield from self._send([Frame.control(self.run_id, verdict, told, position=self._cursor)])

    def _begin_anew(self) -> Iterator[bytes]:
        """Follow the feed into another log, and say so if anything of the former was sent."""
        self._epoch, _ = self._feed.mark()
        if self._cursor > ZERO:
            info = yield from self._insist(self._store.info, self.run_id)
            told, self._cursor = info.told(str(self._cursor)), ZERO
            yield from self._send([Frame.control(self.run_id, "reset", told, position=ZERO)])

    def _send(self, frames: list[Frame]) -> Iterator[bytes]:
        self._cursor = frames[-1].position
        passed = [frame for frame in frames if self._wanted.passes(frame)]
        if passed:
            self.events_sent += sum(not frame.control_event for frame in passed)
            yield self._sent(b"".join(map(self._wire.frame, passed)))

    def _insist(self, ask: Callable[..., Any], *arguments: Any) -> Iterator[bytes]:
        """Ask the store until it answers, and give (not yield) its answer."""
        longest = FIRST_RETRY_SECONDS
        while True:
            if self.reason:
                raise _Over
            try:
                return ask(*arguments)
            except (StoreUnavailable, NotALog):
                self._woken.clear()
            yield from self._rest(random.uniform(longest / 2, longest))
            longest = min(LONGEST_RETRY_SECONDS, 2 * longest)

    def _rest(self, seconds: float = float("inf")) -> Iterator[bytes]:
        """Wait to be woken, `seconds` at the most, with a heartbeat whenever one is due."""
        until = time.monotonic() + seconds
        woken = False
        while not woken and (now := time.monotonic()) < until:
            due = self._last_sent + self._heartbeat_seconds
            if now >= due:
                yield self._sent(self._wire.heartbeat(self.run_id))
            else:
                woken = self._woken.wait(min(due, until) - now)

    def _sent(self, chunk: bytes) -> bytes:
        self._last_sent = time.monotonic()
        return chunk


class Subscribers:
    """The open streams of this worker: admitted up to a limit, and ended together."""

    def __init__(self, limit: int):
        self.draining = False
        self._limit = limit
        self._open: set[Subscriber] = set()

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, subscriber: Subscriber) -> bool:
        """Count a stream in, unless there are too many or the worker is about to stop."""
        if self.draining or len(self._open) >= self._limit:
            return False
        self._open.add(subscriber)
        return True

    def discard(self, subscriber: Subscriber) -> None:
        self._open.discard(subscriber)

    def drain(self, seconds: float) -> None:
        """Admit no more, and end all streams one by one, spread over `seconds`.

        Their clients then reconnect one by one too, and not all at once.
        """
        self.draining = True
        subscribers = random.sample(list(self._open), len(self._open))
        for subscriber in subscribers:
            subscriber.end("draining")
            time.sleep(seconds / len(subscribers))


class _Over(Exception):
    """The stream has been ended, for `reason`."""
