"""Streaming ingest: one long request, each line of which is an event, appended as it arrives."""

import contextlib
import socket
import time
from typing import Any

import orjson
from flask import Response, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from app.routes.answer import Answer
from app.routes.body import parse_json
from app.routes.gateway import gateway
from app.routes.intake import Held
from app.routes.lines import Lines
from app.routes.problems import as_problem
from app.routes.schemas import EventSchema
from app.streaming.draft import MOST_EVENTS, Appended, Draft
from app.streaming.errors import StoreUnavailable, StreamingError
from app.streaming.event_store import EventStore

# A producer may think for hours, but one whose machine is gone does not hold a place.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}

_event_schema = EventSchema()


def ingest(run_id: str, expected_sequence: int | None) -> Response:
    """Append the lines of the request's body: 200 with what was stored, once it has ended.

    What is wrong ends it with a problem that names the first line that was not stored. What
    was stored before stays, and is told.
    """
    here = gateway()
    connection, held = request.environ.get("gunicorn.socket"), Held(here.intake)
    lines = Lines(request.stream, connection, held, here.settings.max_body_bytes)
    appending = Ingest(run_id, lines, here.store, expected_sequence)
    if not here.streams.admit(appending, request.remote_addr or ""):
        refusal = ServiceUnavailable("too many streams, or the worker is about to stop")
        return as_problem(refusal, **appending.told_wrong())
    try:
        _notice_lost_machines(connection)
        appending.run()
    except (HTTPException, ValidationError, StreamingError) as error:
        appending.reason = appending.reason or "refused"
        return as_problem(error, **appending.told_wrong())
    finally:
        held.now(0)
        here.streams.closed(appending)
    return Answer(orjson.dumps(appending.told()))


class Ingest:
    """One open request whose lines are appended to a run.

    `line` is the number of the first line that was not taken in, or not stored; `events` is
    how many were stored, `unknown` how many had an append that was not answered.
    """

    kind = "ingest"

    def __init__(self, run_id: str, lines: Lines, store: EventStore, expected_sequence: int | None):
        self.run_id = run_id
        self.reason: str | None = None
        self.line = 1
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
        for lines in self._lines:
            stored = self.events
            try:
                for line in lines:
                    self._take_in(line)
                    self.line += 1
            finally:
                self._append()
            if self.events == stored:  # blank lines wait for nobody, and hold up everybody else
                time.sleep(0)
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
        self._lines.stop()

    def cut(self) -> None:
        """Nothing waits for the client but its answer."""

    def _take_in(self, line: bytearray) -> None:
        self._lines.check_length(line)
        if not line.strip(b" \t\r"):
            return  # a producer's sign of life, if it wants to give one
        fields = _event_schema.event_of(parse_json(line))
        lease = fields.pop("lease_seconds", None)
        draft = self._store.draft(**fields)
        self._lease = lease or self._lease
        if not self._drafts:
            self._first_line = self.line
        self._drafts.append(draft)
        # What follows a terminal event is refused, but not with it.
        if draft.terminal or len(self._drafts) == MOST_EVENTS:
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


def _notice_lost_machines(connection: socket.socket | None) -> None:
    """Let TCP find out that the other end has gone without a word."""
    if connection is None:
        return
    with contextlib.suppress(OSError):  # a Unix socket has no TCP, and needs none
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not everywhere
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
