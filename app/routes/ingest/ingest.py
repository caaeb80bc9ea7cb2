"""One request of lines: from the bytes of its body to what was stored of them."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from werkzeug.exceptions import HTTPException, ServiceUnavailable

from ...metrics.answers import APPEND_COUNTS
from ...server.bodies.gunicorn_body import BodyError
from ...streaming.errors import StoreUnavailable, StreamingError
from ...streaming.event_store import EventStore
from ...streaming.follow.standing import Standing
from ...streaming.new_event import MAX_EVENTS, Append, Appended, NewEvent
from ..access.access import NotAuthenticated
from ..admission import Reservation, TooBusy
from ..problems import FieldError
from .line_buffer import LineBuffer, LineTooLong
from .line_reader import LineReader, ReadEvent
from .progress_timer import ProgressTimer

_counts = APPEND_COUNTS["lines"]


class Ingest:
    """What arrived of a request of lines, and what of it was stored.

    The code that reads the request passes the body's bytes in (`receive`), has complete lines
    appended (`append_together`) while `has_lines`, and says how the body ended (`end_body` or
    `abort`). It reads nothing ahead while there are lines: what Redis is slow to take waits in
    the sockets, and slows the producer down.

    `closed`: nothing more will be received. `over`: nothing more will happen. `error`: what
    ended the request, if the end of the body did not. `line`: the number of the first line that
    was not received, or whose event was not stored. `events`: how many events were stored.
    `bytes`: how many bytes were received. `unknown`: how many events were in an append that got
    no reply.
    """

    kind = "ingest"

    def __init__(
        self,
        run_id: str,
        expected_sequence: int | None,
        reservation: Reservation,
        reader: LineReader,
        max_line_bytes: int,
        check: Callable[[Sequence[NewEvent], int | None], None] = lambda new_events, lease: None,
        traceparent: bytes = b"",
        lease_seconds: int | None = None,
    ) -> None:
        """`check` raises an error for events, or a lease, that the producer may not append.

        `traceparent` and `lease_seconds` are for events that have none of their own.
        """
        self.run_id = run_id
        self.followed = ()
        self.reason: str | None = None
        self.error: Exception | None = None
        self.closed = False
        self.line = 1
        self.events = 0
        self.bytes = 0
        self.unknown = 0
        self.wake: Callable[[], None] | None = None  # has the reader attend to it at once
        self._expected_sequence = expected_sequence
        self._reservation = reservation
        self._reader = reader
        self._check = check
        self._traceparent = traceparent
        self._max_line_bytes = max_line_bytes
        self._lease = lease_seconds
        self._buffer = LineBuffer(max_line_bytes)
        self._appending: list[NewEvent] = []
        self._first_line = 0  # of those
        self._last: Appended | None = None

    # For the code that reads the request

    @property
    def has_lines(self) -> bool:
        """Whether there are complete lines that were not appended yet."""
        return self._buffer.has_lines

    @property
    def has_partial_line(self) -> bool:
        """Whether a line has begun and is not complete."""
        return self._buffer.has_partial_line

    @property
    def over(self) -> bool:
        has_more = self.has_lines or self._reader.needs_end or self._appending
        return self.closed and not has_more

    @property
    def size(self) -> int:
        """The number of bytes that the request holds."""
        return self._reservation.bytes

    def use_lane(self, lane: str) -> None:
        """Count what the request holds for the server that has its log now."""
        self._reservation.move(lane)

    def receive(self, piece: bytes) -> None:
        """Add bytes of the body, when it has no lines left."""
        try:
            self._reservation.resize(self._buffer.size + self._reader.size + len(piece))
            self._buffer.add(self._reader.line_feeds(piece))
            self.bytes += len(piece)
        except TooBusy as error:
            self.abort(error)
        except LineTooLong:
            self.abort(self._line_too_long())

    def end_body(self) -> None:
        """The body has ended."""
        if not self.closed:
            self.closed = True
            if self._reader.completes_last_line:
                self._buffer.end()

    def abort(self, error: Exception) -> None:
        """The body will not end well; its incomplete last line is not stored."""
        if not self.closed:
            self.closed = True
            self.error = error

    # For `append_together`

    def next_append(self) -> Append | None:
        """Return the next lines as one append, None if there are none.

        `settle` or `fail` must be called with its outcome before the next call.
        """
        new_events, lease = self._read_lines()
        try:
            if new_events:
                self._check(new_events, lease)
        except Exception as error:
            self.line = self._first_line
            self.fail(error)
            new_events = []
        self._appending = new_events
        if not new_events:
            self._free()
            return None
        return Append(self.run_id, new_events, None, self._expected_sequence, lease)

    def _read_lines(self) -> tuple[list[NewEvent], int | None]:
        """Return the events of the next lines, and the last lease among them."""
        events: list[ReadEvent] = []
        if self.over:  # it has failed, and `line` says where
            return [], None
        try:
            for _ in range(MAX_EVENTS):
                if not self.has_lines:
                    break
                self._reader.read(self._next_line(), events)
                # An event after a terminal one is refused, but must not be refused with it.
                if events and events[-1].new_event.terminal:
                    break
            if self.closed and not self.has_lines:
                broken = self.error is not None
                self._reader.end(events, broken=broken, unfinished=self.has_partial_line)
        except Exception as error:  # the lines before it are appended all the same
            self._reader.end(events, broken=True)
            self.line = self._reader.line
            self.fail(error)
        else:
            self.line = self._reader.line
        if not events:
            return [], None
        self._first_line = events[0].line
        leases = [event.lease for event in events if event.lease is not None]
        new_events = [event.new_event for event in events]
        if self._traceparent:
            new_events = [each.within(self._traceparent) for each in new_events]
        return new_events, leases[-1] if leases else self._lease

    def settle(self, outcome: Appended | StreamingError) -> None:
        """Note the outcome of the append."""
        if isinstance(outcome, StreamingError):
            self.fail(outcome)
            return
        self._last = outcome
        _counts.stored(len(self._appending), repeated=outcome.repeated)
        self.events += len(self._appending)
        if self._expected_sequence is not None:
            self._expected_sequence += len(self._appending)
        self._appending = []
        self._free()

    def fail(self, error: Exception) -> None:
        """End the request with an error; the current append and all later lines are lost."""
        if self._appending:
            self.line = self._first_line
            if not isinstance(error, StreamingError) or getattr(error, "stored", False) is None:
                self.unknown = len(self._appending)
            self._appending = []
        self.error = error
        self.closed = True
        self._buffer.skip_lines()
        self._reader.clear()
        self._free()

    # For the worker, and for the response

    def end(self, reason: str) -> None:
        """Store the lines that have arrived, and receive no more."""
        self.reason = self.reason or reason
        if self.wake is not None:
            self.wake()

    def standing(self) -> Standing:
        """Return what has arrived, and what of it is stored."""
        last_id = self._last and self._last.last_id
        state = "appending" if self._appending else "reading"
        return Standing(state, self.events, self.bytes, last_id, lines=self.line - 1)

    def warn(self, seconds: int) -> None:
        """Do nothing: the producer hears only the response."""

    def cut(self) -> None:
        """Do nothing: nothing waits for the client except its response."""

    def result(self) -> dict[str, Any]:
        """Return what of the request was stored, and whether its last event was incomplete."""
        incomplete = {"incomplete": True} if self._reader.incomplete else {}
        return {**self._stored(), **incomplete}

    def _stored(self) -> dict[str, Any]:
        return {
            "stored": self.events,
            "last_id": self._last and self._last.last_id,
            "last_sequence": self._last and self._last.last_sequence,
        }

    def error_members(self) -> dict[str, Any]:
        """Return the same for a problem document, with the number of the line at fault."""
        unknown = {"unknown": self.unknown} if self.unknown else {}
        return {"line": self.line, **self._stored(), **unknown}

    def _next_line(self) -> bytes | bytearray:
        try:
            return self._buffer.next_line()
        except LineTooLong:
            raise self._line_too_long() from None

    def _line_too_long(self) -> FieldError:
        return FieldError(413, "body", f"a line must be at most {self._max_line_bytes} bytes")

    def _free(self) -> None:
        """Free the memory of stored lines, once no other line is left."""
        if self.has_lines:
            return
        if self.closed:
            self._buffer.clear()
        else:
            self._buffer.compact()
        self._reservation.resize(self._buffer.size + self._reader.size)


def append_together(ingests: Iterable[Ingest], store: EventStore) -> StoreUnavailable | None:
    """Append the next lines of some requests in one round trip.

    Returns the error if Redis could not be reached.
    """
    pairs = [(each, append) for each in ingests if (append := each.next_append())]
    if not pairs:
        return None
    try:
        outcomes = store.append_each([append for _, append in pairs])
    except Exception as error:  # also an unexpected one ends all requests that it concerns
        for each, _ in pairs:
            each.fail(error)
        return error if isinstance(error, StoreUnavailable) else None
    for (each, _), outcome in zip(pairs, outcomes, strict=True):
        each.settle(outcome)
    return None


def append_alone(ingest: Ingest, pieces: Iterable[bytes], store: EventStore) -> None:
    """Read one request to its end, on a server whose connections the loop cannot read."""
    timer = ProgressTimer()
    try:
        for piece in pieces:
            ingest.receive(piece)
            progress = ingest.has_lines
            while ingest.has_lines:
                append_together([ingest], store)
            if ingest.closed:
                break
            if ingest.reason is not None:
                raise error_of_end(ingest.reason)
            timer.check(ingest.has_partial_line, progress=progress)
            time.sleep(0)  # blank lines wait for nothing, and would keep the others waiting
        ingest.end_body()
    except (HTTPException, BodyError) as error:
        ingest.abort(error)
    while not ingest.over:
        append_together([ingest], store)


def error_of_end(reason: str) -> HTTPException:
    """Return the error of a request that the worker ends for a reason."""
    if reason in ("expired", "revoked"):
        return NotAuthenticated(f"the token is {reason}")
    return ServiceUnavailable("the worker is about to stop")
