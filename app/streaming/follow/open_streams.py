"""The open streams of a worker: admitted up to a limit, logged, and drained together."""

import logging
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ...metrics.catalog import (
    STREAM_SECONDS,
    STREAMS_CLOSED,
    STREAMS_OPEN,
    STREAMS_OPENED,
    STREAMS_REFUSED,
)
from ..wire.formats import StreamFormat
from .history_lines import HistoryLines
from .long_poll import LongPoll
from .standing import Standing
from .subscriber import Services, Subscriber, SubscriberReplay

# How long a drain waits for streams to write what belongs before their end.
FINISH_SECONDS = 1.0
# How often a drain looks whether a stream is left.
POLL_SECONDS = 0.05

# A stream tells its client this many seconds before the token expires.
WARNING_SECONDS = 30
LOOK_SECONDS = 0.5
# After this many streams were looked at, others get their turn.
MAX_LOOKED_AT_IN_A_ROW = 256

log = logging.getLogger("tailrace.stream")

_PLAIN = re.compile(r"[!#-&(-<>-~]+")  # printable ASCII without spaces, quotes and =


class OpenStream(Protocol):
    """A request that lasts: a subscriber, or an ingest of lines."""

    kind: str
    reason: str | None
    events: int

    @property
    def run_id(self) -> str:
        """The run that is read or written, or what stands for several."""

    @property
    def followed(self) -> Sequence[str]:
        """The runs of which the stream needs a feed."""

    def standing(self) -> Standing:
        """Return where the stream is; at its end, where it was."""

    def end(self, reason: str) -> None:
        """End the stream soon, with what belongs before its end."""

    def warn(self, seconds: int) -> None:
        """Tell the client that the stream ends after so many seconds."""

    def cut(self) -> None:
        """Stop waiting for the client."""


class Owner(Protocol):
    """Whose a stream is."""

    @property
    def account(self) -> str:
        """Of which there may be only so many streams."""

    @property
    def expires_at(self) -> float | None:
        """The Unix time at which the stream must end, None for never."""


class Client(NamedTuple):
    """The client that opened a stream: its address, the id of its request, and its program.

    `span` is that of the request, if there are any.
    """

    address: str
    request_id: str = "-"
    user_agent: str = ""
    span: Any = None


class Entry(NamedTuple):
    """What is known of an open stream beside itself.

    `number` counts up. `opened` is a monotonic time, and `opened_at` a Unix time.
    """

    number: int
    client: Client
    opened: float
    opened_at: float
    owner: Owner | None
    warned: bool = False


class OpenStreams:
    """The open streams of a worker.

    There may be only so many, and they may follow only as many runs together: a run costs its
    share of a reader, which has a connection to Redis.
    """

    def __init__(self, services: Services, limit: int, limit_of_owner: int | None = None):
        self.draining = False
        self.services = services
        self._limit = limit
        self._limit_of_owner = limit_of_owner
        self._open: dict[OpenStream, Entry] = {}
        self._count = 0
        self.on_closed: Callable[[OpenStream, Entry], None] = lambda stream, entry: None
        self._owned: Counter[str] = Counter()
        self._followed: Counter[str] = Counter()
        self._expiry = Expiry(self._open)
        self._on_closed = self.closed  # made once: a bound method takes 64 bytes

    def __len__(self) -> int:
        return len(self._open)

    def subscriber(self, replay: SubscriberReplay, stream_format: StreamFormat) -> Subscriber:
        """Make a subscriber, which counts as open once it is admitted."""
        return Subscriber(replay, stream_format, self.services, self._on_closed)

    def long_poll(self, run_id: str) -> LongPoll:
        """Make a long poll, which counts as open once it is admitted."""
        return LongPoll(run_id, self.services.store, self.services.readers)

    def history_lines(self, run_id: str, **selection: Any) -> HistoryLines:
        """Make the lines of a history, which count as open once they are admitted."""
        return HistoryLines(run_id, self.services.store, **selection)

    def admit(
        self, stream: OpenStream, client: Client, owner: Owner | None = None, **fields: object
    ) -> bool:
        """Count a stream as open, and log it; return False if it must be refused.

        It must be refused if too many are open, or the worker is about to stop. The owner of an
        admitted stream calls `closed` when the stream has released everything.
        """
        if not self.has_place_for(stream.followed):
            self.count_refusal()
            return False
        self._count += 1
        self._open[stream] = Entry(self._count, client, time.monotonic(), time.time(), owner)
        self._followed.update(stream.followed)
        if owner is not None:
            self._owned[owner.account] += _weight(stream.followed)
            self._expiry.note(owner)
        STREAMS_OPENED.of(_kind(stream)).add()
        STREAMS_OPEN.of(_kind(stream)).add()
        named = {"run": stream.run_id, "client": client.address}
        account = {} if owner is None else {"account": owner.account}
        _log(f"{stream.kind} opened", **named, **account, **fields, request_id=client.request_id)
        return True

    def closed(self, stream: OpenStream) -> None:
        """Count a stream as closed if it was admitted, and log it; safe to repeat."""
        entry = self._open.pop(stream, None)
        if entry is None:
            return
        for run_id in stream.followed:
            self._followed[run_id] -= 1
            if not self._followed[run_id]:
                del self._followed[run_id]
        if entry.owner is not None:
            self._owned[entry.owner.account] -= _weight(stream.followed)
            if not self._owned[entry.owner.account]:
                del self._owned[entry.owner.account]
        seconds = time.monotonic() - entry.opened
        STREAMS_OPEN.of(_kind(stream)).add(-1)
        STREAMS_CLOSED.of(_kind(stream), stream.reason or "closed").add()
        STREAM_SECONDS.observe(seconds)
        _log(
            f"{stream.kind} ended",
            run=stream.run_id,
            client=entry.client.address,
            reason=stream.reason,
            seconds=round(seconds, 3),
            **stream.standing().fields(),
            request_id=entry.client.request_id,
        )
        self.on_closed(stream, entry)

    def entries(self) -> list[tuple[OpenStream, Entry]]:
        """Return the open streams, the oldest first."""
        return list(self._open.items())

    def has_place_for(self, followed: Sequence[str]) -> bool:
        """Return whether a stream that follows some runs may be admitted."""
        if self.draining or len(self._open) >= self._limit:
            return False
        if len(self._followed) + len(followed) <= self._limit:
            return True
        new = sum(run_id not in self._followed for run_id in followed)
        return len(self._followed) + new <= self._limit

    def count_refusal(self) -> None:
        """Count a stream that has no place."""
        STREAMS_REFUSED.of("draining" if self.draining else "full").add()

    def is_too_much_for(self, owner: Owner, followed: Sequence[str]) -> bool:
        """Return whether a subject may not have a stream more, that follows some runs.

        A stream of several runs counts as many times.
        """
        if self._limit_of_owner is None:
            return False
        return self._owned[owner.account] + _weight(followed) > self._limit_of_owner

    def end_owned(self, is_refused: Callable[[Any], bool], reason: str) -> None:
        """End the streams whose owner is refused from now on."""
        for number, (stream, entry) in enumerate(list(self._open.items()), 1):
            if entry.owner is not None and is_refused(entry.owner):
                self._expiry.end(stream, reason)
            if number % MAX_LOOKED_AT_IN_A_ROW == 0:
                time.sleep(0)

    def drain(self, seconds: float) -> None:
        """Admit no more streams, and end the open ones one by one, spread over `seconds`.

        Their clients then reconnect one by one too. Returns once no stream is open.
        """
        self.draining = True
        streams = random.sample(list(self._open), len(self._open))
        began = time.monotonic()
        for number, stream in enumerate(streams):
            self._wait_for_end_of_all(began + seconds * number / len(streams))
            stream.end("draining")
        self._wait_for_end_of_all(time.monotonic() + FINISH_SECONDS)
        for stream in list(self._open):  # a client that does not read would delay the stop
            stream.cut()

    def _wait_for_end_of_all(self, until: float) -> None:
        """Wait until no stream is open, or until a monotonic time; give way at least once."""
        time.sleep(0)
        while self._open and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))


class Expiry:
    """Warns the streams whose owners' tokens expire soon, and ends them when they expire.

    One thread looks now and then, and only when the next one is due.
    """

    def __init__(self, streams: dict[OpenStream, Entry]) -> None:
        self._streams = streams
        self._next = math.inf
        self._ending: dict[OpenStream, float] = {}  # and when to wait no longer for their clients
        self._started = False

    def note(self, owner: Owner) -> None:
        """Note when the stream of an owner is due."""
        if owner.expires_at is None:
            return
        self._next = min(self._next, owner.expires_at - WARNING_SECONDS)
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="tailrace-expiry", daemon=True).start()

    def end(self, stream: OpenStream, reason: str) -> None:
        """End a stream, and soon cut it off if its client does not read."""
        stream.end(reason)
        self._ending.setdefault(stream, time.monotonic() + FINISH_SECONDS)

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                self._cut_off()
                if time.time() >= self._next:
                    self.look(time.time())
            except Exception:
                log.exception("unexpected error while tokens expire")

    def _cut_off(self) -> None:
        now = time.monotonic()
        for stream, until in list(self._ending.items()):
            if stream not in self._streams:
                del self._ending[stream]
            elif now >= until:
                del self._ending[stream]
                stream.cut()

    def look(self, now: float) -> None:
        """Warn and end the streams that are due at a Unix time."""
        self._next = math.inf  # streams that come meanwhile lower it again
        for number, (stream, entry) in enumerate(list(self._streams.items()), 1):
            expires_at = entry.owner.expires_at if entry.owner is not None else None
            if expires_at is None:
                continue
            if now >= expires_at:
                self.end(stream, "expired")
            elif now < expires_at - WARNING_SECONDS:
                self._next = min(self._next, expires_at - WARNING_SECONDS)
            else:
                self._next = min(self._next, expires_at)
                if not entry.warned and stream in self._streams:
                    self._streams[stream] = entry._replace(warned=True)
                    stream.warn(max(1, round(expires_at - now)))
            if number % MAX_LOOKED_AT_IN_A_ROW == 0:
                time.sleep(0)


def _kind(stream: OpenStream) -> str:
    return stream.kind.replace(" ", "_")


def _weight(followed: Sequence[str]) -> int:
    """Return as how many streams one counts that follows some runs."""
    return max(1, len(followed))


def _log(message: str, **fields: object) -> None:
    """Log one line: as text with its fields behind the message, as JSON with named fields."""
    text = " ".join(f"{name}={_text_of(value)}" for name, value in fields.items())
    log.info("%s %s", message, text, extra=fields)


def _text_of(value: object) -> str:
    """Return a value of a line, in quotes and escaped if it could be taken for something else."""
    text = "-" if value is None else str(value)
    return text if _PLAIN.fullmatch(text) else ascii(text)
