"""Streaming ingest: the lines of one long request, on their way into a run's log."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, ServiceUnavailable

from ...streaming.errors import StoreUnavailable, StreamingError
from ...streaming.event_store import EventStore
from ...streaming.new_event import MAX_EVENTS, Append, Appended, NewEvent
from ..admission import Reservation, TooBusy
from ..json_body import parse_json, patience_since, refused, too_slow
from ..schemas import EventSchema

_event_schema = EventSchema()


class Ingest:
    """What has come of a request of lines, and what of it was stored.

    Who reads the request gives it the body's bytes, has it append (`append_together`) while
    `has_lines`, and tells it how the body ended. Once it is `over`, `error` is what has ended
    it, if it was not the body's end. Nothing is read ahead while it has lines: what Redis is
    slow to take waits in the sockets, so that the producer feels its pace.

    `closed` is whether nothing more is to be taken in, `over` whether nothing more will happen.
    `line` is the number of the first line that was not taken in, or not stored; `events` is
    how many were stored, `unknown` how many had an append that was not answered.
    """

    kind = "ingest"

    def __init__(
        self,
        run_id: str,
        expected_sequence: int | None,
        reservation: Reservation,
        longest_line: int,
        max_event_bytes: int,
    ):
        self.run_id = run_id
        self.reason: str | None = None
        self.error: Exception | None = None
        self.closed = False
        self.line = 1
        self.events = 0
        self.unknown = 0
        self.wake: Callable[[], None] | None = None  # has its reader see to it at once
        self._expected = expected_sequence
        self._reservation = reservation
        self._longest = longest_line
        self._most_bytes = max_event_bytes
        # The bytes that have come, in one piece: as lines they would take many times as much.
        self._text: bytes | bytearray = b""
        self._at = 0  # where the next line begins
        self._whole = 0  # up to where lines have come to their end
        self._appending: list[NewEvent] = []
        self._first_line = 0  # of those
        self._last: Appended | None = None

    # For who reads the request

    @property
    def has_lines(self) -> bool:
        """Whether there are lines that were not appended yet."""
        return self._at < self._whole

    @property
    def is_halfway(self) -> bool:
        """Whether a line has begun that has not come to its end."""
        return self._whole < len(self._text)

    @property
    def over(self) -> bool:
        return self.closed and not self.has_lines and not self._appending

    @property
    def size(self) -> int:
        """How many bytes of it are reservation."""
        return self._reservation.bytes

    def take_in(self, piece: bytes) -> None:
        """Take in some bytes of the body, once it has no lines any more."""
        before = len(self._text)
        try:
            self._reservation.now(before + len(piece))
        except TooBusy as error:
            self.break_off(error)
            return
        if not before:
            self._text = piece
        else:
            if isinstance(self._text, bytes):
                self._text = bytearray(self._text)  # which grows without being copied
            self._text += piece
        break_at = piece.rfind(b"\n")
        if break_at >= 0:
            self._whole = before + break_at + 1
        if len(self._text) - self._whole > self._longest:
            self.break_off(self._too_long())

    def finish(self) -> None:
        """The body has come to its end; its last line needs no line break."""
        if not self.closed:
            self.closed = True
            self._whole = len(self._text)

    def break_off(self, error: Exception) -> None:
        """The body does not come to its end; its last line did not arrive whole."""
        if not self.closed:
            self.closed = True
            self.error = error

    # For `append_together`

    def next_append(self) -> Append | None:
        """The next lines, as they are appended together; None for none. What became of it
        is to be told before the next."""
        new_events, lease = [], None
        try:
            for _ in range(MAX_EVENTS):
                if self._at >= self._whole:
                    break
                line = self._next_line()
                if len(line) > self._longest:
                    raise self._too_long()
                if line.strip(b" \t\r"):  # else a producer's sign of life, if it wants to give one
                    new_event, own_lease = _event_schema.new_event_from(
                        parse_json(line), self._most_bytes
                    )
                    new_events.append(new_event)
                    lease = own_lease or lease
                    if len(new_events) == 1:
                        self._first_line = self.line
                self.line += 1
                # What follows a terminal event is refused, but not with it.
                if new_events and new_events[-1].terminal:
                    break
        except Exception as error:  # what came before it is appended all the same
            self.refuse(error)
        self._appending = new_events
        if not new_events:
            self._let_go()
            return None
        return Append(self.run_id, new_events, None, self._expected, lease)

    def appended(self, outcome: Appended | StreamingError) -> None:
        """What became of the append."""
        if isinstance(outcome, StreamingError):
            self.refuse(outcome)
            return
        self._last = outcome
        self.events += len(self._appending)
        if self._expected is not None:
            self._expected += len(self._appending)
        self._appending = []
        self._let_go()

    def refuse(self, error: Exception) -> None:
        """End it before the lines that are left, and those of an append that has failed."""
        if self._appending:
            self.line = self._first_line
            if not isinstance(error, StreamingError) or getattr(error, "stored", False) is None:
                self.unknown = len(self._appending)
            self._appending = []
        self.error = error
        self.closed = True
        self._at = self._whole
        self._let_go()

    # For the worker, and for the answer

    def end(self, reason: str) -> None:
        """Take no lines but those that have arrived."""
        self.reason = self.reason or reason
        if self.wake is not None:
            self.wake()

    def cut(self) -> None:
        """Nothing waits for the client but its answer."""

    def result(self) -> dict[str, Any]:
        """What of the request was stored."""
        return {
            "stored": self.events,
            "last_id": self._last and self._last.last_id,
            "last_sequence": self._last and self._last.last_sequence,
        }

    def error_members(self) -> dict[str, Any]:
        """The same for a request that was ended, and where."""
        unknown = {"unknown": self.unknown} if self.unknown else {}
        return {"line": self.line, **self.result(), **unknown}

    def _next_line(self) -> bytes | bytearray:
        end = self._text.find(b"\n", self._at, self._whole)
        if end < 0:  # the last one
            end = self._whole
        line = self._text[self._at : end]
        self._at = end + 1
        return line

    def _too_long(self) -> HTTPException:
        detail = f"a line must be at most {self._longest} bytes"
        return refused(RequestEntityTooLarge, "body", detail)

    def _let_go(self) -> None:
        """Keep only what has not come to its end, once nothing else is left."""
        if self.has_lines:
            return
        if self._whole or self.closed:
            self._text = b"" if self.closed else self._text[self._whole :]
            self._at = self._whole = 0
        self._reservation.now(len(self._text))


class Pace:
    """How long a line takes to come, while nothing but its producer keeps it from that."""

    def __init__(self):
        self.begun: float | None = None

    @property
    def too_slow(self) -> bool:
        return self.begun is not None and not patience_since(self.begun)

    def check(self, waits: bool, moved_on: bool) -> None:
        """Whether something is still to come, and whether as much has come as could be asked for.

        Raises 408 when that has taken too long.
        """
        if not waits:
            self.begun = None
        elif moved_on or self.begun is None:
            self.begun = time.monotonic()
        elif self.too_slow:
            raise too_slow()


def append_together(ingests: Iterable[Ingest], store: EventStore) -> StoreUnavailable | None:
    """Append the next lines of some requests, in one round trip; what kept Redis from it, if
    nothing came of that."""
    theirs = [(each, append) for each in ingests if (append := each.next_append())]
    if not theirs:
        return None
    try:
        outcomes = store.append_each([append for _, append in theirs])
    except Exception as error:  # an unexpected one too is told to all whom it concerns
        for each, _ in theirs:
            each.refuse(error)
        return error if isinstance(error, StoreUnavailable) else None
    for (each, _), outcome in zip(theirs, outcomes, strict=True):
        each.appended(outcome)
    return None


def append_alone(ingest: Ingest, pieces: Iterable[bytes], store: EventStore) -> None:
    """Read one request until it is over, on a server whose connections nobody else may read."""
    pace = Pace()
    try:
        for piece in pieces:
            ingest.take_in(piece)
            while ingest.has_lines:
                append_together([ingest], store)
            if ingest.closed:
                return
            if ingest.reason is not None:
                raise about_to_stop()
            pace.check(ingest.is_halfway, moved_on=b"\n" in piece)
            time.sleep(0)  # lines that are blank wait for nobody, and hold up everybody else
        ingest.finish()
    except HTTPException as error:
        ingest.break_off(error)
    while not ingest.over:
        append_together([ingest], store)


def about_to_stop() -> HTTPException:
    """The error of a request that was told to end."""
    return ServiceUnavailable("the worker is about to stop")
