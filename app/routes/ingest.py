"""Streaming ingest: one long request, each line of which is an event, appended as it arrives."""

import socket
from collections import deque
from typing import Any, BinaryIO

import gevent
import orjson
from flask import Response, request
from gevent.event import Event as Signal
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, ServiceUnavailable

from app.routes.body import linger_after_answer, parse_json, pieces, refused
from app.routes.gateway import gateway
from app.routes.intake import Held
from app.routes.problems import as_problem
from app.routes.schemas import EventSchema
from app.streaming.errors import StoreUnavailable, StreamingError
from app.streaming.event import Draft
from app.streaming.event_store import EventStore
from app.streaming.log_writer import MOST_EVENTS, Appended

# What of one request waits for Redis before no more of it is read. The producer then feels
# Redis's pace, since TCP hands it on.
WAITING_BYTES = 64 * 1024

# A producer may think for hours, but one whose machine is gone does not hold a place.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}

_event_schema = EventSchema()


def ingest(run_id: str, expected_sequence: int | None) -> Response:
    """Append the lines of the request's body: 200 with what was stored, once it has ended.

    What is wrong ends it with a problem that names the first line that was not stored. What
    was stored before stays, and is told.
    """
    streams, held = gateway().streams, Held(gateway().intake)
    lines = Lines(held, gateway().settings.max_body_bytes)
    appending = Ingest(run_id, lines, gateway().store, expected_sequence)
    if not streams.admit(appending, request.remote_addr or ""):
        raise ServiceUnavailable("too many streams, or the worker is about to stop")
    _notice_lost_machines(request.environ.get("gunicorn.socket"))
    try:
        lines.read(request.stream)
        appending.run()
    except (HTTPException, ValidationError, StreamingError) as error:
        appending.reason = appending.reason or "refused"
        if not lines.complete:
            linger_after_answer()
        return as_problem(error, **appending.told_wrong())
    finally:
        lines.close()
        held.let_go(held.bytes)
        streams.closed(appending)
    return Response(orjson.dumps(appending.told()), mimetype="application/json")


class Ingest:
    """One open request whose lines are appended to a run.

    `line` is the number of the last one that was looked at, or of the first one that was not
    stored; `events` is how many were; `unknown` those whose append was not answered.
    """

    kind = "ingest"

    def __init__(
        self, run_id: str, lines: "Lines", store: EventStore, expected_sequence: int | None
    ):
        self.run_id = run_id
        self.reason: str | None = None
        self.line = 0
        self.events = 0
        self.unknown = 0
        self._lines = lines
        self._store = store
        self._expected = expected_sequence
        self._lease: int | None = None
        self._drafts: list[Draft] = []
        self._first_line = 0  # the first draft's
        self._last: Appended | None = None

    def run(self) -> None:
        """Append the lines until they end; raises what ended them, or what is wrong."""
        while lines := self._taken():
            try:
                for line in lines:
                    self._look_at(line)
            finally:
                self._append()
        if not self._lines.complete:
            raise ServiceUnavailable("the worker is about to stop")
        self.reason = "ended"

    def told(self) -> dict[str, Any]:
        """What of the request was stored."""
        return {
            "stored": self.events,
            "last_id": self._last and self._last.last_id,
            "last_sequence": self._last and self._last.last_sequence,
        }

    def told_wrong(self) -> dict[str, Any]:
        """The same for a request that was ended, and where."""
        unknown = {"unknown": self.unknown} if self.unknown else {}
        return {"line": self.line, **self.told(), **unknown}

    def end(self, reason: str) -> None:
        """Take no lines but those that have arrived."""
        self.reason = self.reason or reason
        self._lines.close()

    def cut(self) -> None:
        """Nothing waits for the client but its answer."""

    def _taken(self) -> list[bytearray]:
        try:
            return self._lines.take(MOST_EVENTS)
        except Exception:
            self.line += 1
            raise

    def _look_at(self, line: bytearray) -> None:
        self.line += 1
        if not line or line.isspace():
            return  # a producer's sign of life, if it wants to give one
        if len(line) > self._lines.longest:
            detail = f"must be at most {self._lines.longest} bytes"
            raise refused(RequestEntityTooLarge, "body", detail)
        fields = _event_schema.event_of(parse_json(line))
        self._lease = fields.pop("lease_seconds", None) or self._lease
        draft = self._store.draft(**fields)
        if not self._drafts:
            self._first_line = self.line
        self._drafts.append(draft)
        if draft.terminal:  # what follows it is refused, but not with it
            self._append()

    def _append(self) -> None:
        if not self._drafts:
            return
        drafts, self._drafts = self._drafts, []
        try:
            self._last = self._store.append_drafts(
                self.run_id, drafts, expected_sequence=self._expected, lease_seconds=self._lease
            )
        except StreamingError as error:
            self.line = self._first_line
            if isinstance(error, StoreUnavailable) and error.stored is None:
                self.unknown = len(drafts)
            raise
        self.events += len(drafts)
        self._lease = None
        if self._expected is not None:
            self._expected += len(drafts)


class Lines:
    """The lines of a body, which a greenlet of its own reads while others are being stored.

    `complete` is whether the body came to its end. A last line without a line break counts if
    it did; of a body that was broken off, only what had arrived whole.
    """

    def __init__(self, held: Held, longest: int):
        self.longest = longest
        self.complete = False
        self._held = held
        self._lines: deque[bytearray] = deque()
        self._waiting = 0
        self._over = False
        self._error: Exception | None = None
        self._arrived = Signal()
        self._room = Signal()
        self._reader: gevent.Greenlet | None = None

    def read(self, body: BinaryIO) -> None:
        """Begin to read."""
        self._reader = gevent.spawn(self._read, body)

    def take(self, most: int) -> list[bytearray]:
        """The lines that wait, or that come next; [] at the end. Raises what broke them off."""
        while not self._lines and not self._over:
            self._arrived.clear()
            self._arrived.wait()
        if not self._lines and self._error is not None:
            raise self._error
        taken = [self._lines.popleft() for _ in range(min(most, len(self._lines)))]
        size = sum(map(len, taken))
        self._held.let_go(size)
        self._waiting -= size
        self._room.set()
        return taken

    def close(self) -> None:
        """Read no more; what has arrived may still be taken."""
        if self._reader is not None:
            self._reader.kill()
        self._over = True
        self._arrived.set()

    def _read(self, body: BinaryIO) -> None:
        try:
            self._read_lines(body)
        except Exception as error:
            self._error = error
        self._over = True
        self._arrived.set()

    def _read_lines(self, body: BinaryIO) -> None:
        unfinished = bytearray()
        for piece in pieces(body):
            self._held.hold(len(piece))
            unfinished += piece
            if b"\n" in piece:
                *lines, unfinished = unfinished.split(b"\n")
                self._held.let_go(len(lines))  # the line breaks
                self._add(lines)
            if len(unfinished) > self.longest:
                self._add([unfinished])  # to be refused in its turn
                return
            while self._waiting > WAITING_BYTES:
                self._room.clear()
                self._room.wait()
        self._add([unfinished])
        self.complete = True

    def _add(self, lines: list[bytearray]) -> None:
        self._lines.extend(lines)
        self._waiting += sum(map(len, lines))
        self._arrived.set()


def _notice_lost_machines(connection: socket.socket | None) -> None:
    """Let TCP find out that the other end has gone without a word."""
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not everywhere
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
