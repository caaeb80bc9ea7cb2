"""Reads the whole history of a run as lines, without I/O."""

import logging
import re
import time
from collections.abc import Iterator

from ..streaming.backoff import backoff
from ..streaming.errors import StoreUnavailable
from ..streaming.event_id import EventId
from .calls import Request, events_path
from .received_event import parse_message
from .repeats import INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS
from .responses import not_a_gateway

_TYPE = "application/x-ndjson"

# Where a gateway writes the id.
_ID = re.compile(rb'\{"id":"([0-9]{1,20}-[0-9]{1,20})"')

log = logging.getLogger("tailrace.client")


class Export:
    """The lines of a run's history after an id, or of all of it, as the gateway sent them.

    A client sends `request`. With its response it calls `opened`, `receive` for each piece of the
    body, and `ended`. For each StoreUnavailable it calls `unavailable`, and then begins again.
    """

    def __init__(self, run_id: int | str, last_event_id: str | None, retry_seconds: float):
        """Raises InvalidInput for a wrong argument."""
        self._path = events_path(run_id)
        self._after = last_event_id and str(EventId.parse(last_event_id, "last_event_id"))
        self._retry_seconds = retry_seconds
        self._begin_outage()

    def _begin_outage(self) -> None:
        self._deadline = time.monotonic() + self._retry_seconds
        self._pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        self._is_away = False

    def request(self) -> Request:
        """Return the next request."""
        headers = {"Accept": _TYPE, "Accept-Encoding": "identity"}
        return Request("GET", self._path, {"after": self._after}, headers)

    def opened(self, status: int, content_type: str) -> None:
        """Take the head of a response. Raises Refused if it is not from a gateway."""
        if not content_type.startswith(_TYPE):
            raise not_a_gateway(status, f"it is of the type {content_type!r}")
        if self._is_away:
            log.info("reached %s again", self._path)
            self._is_away = False
        self._status = status
        self._unfinished = [b""]

    def receive(self, piece: bytes) -> Iterator[bytes]:
        """Yield the lines that a piece of the body completes, without their ends.

        Raises Refused if one is not from a gateway.
        """
        first, *others = piece.split(b"\n")
        self._unfinished.append(first)
        for following in others:
            line = b"".join(self._unfinished)
            self._unfinished = [following]
            self._after = _id_of(self._status, line)
            yield line
            self._begin_outage()

    def ended(self, is_framed: bool) -> None:
        """Raise StoreUnavailable if a body was cut off.

        `is_framed` says that it was not just the connection that ended.
        """
        if any(self._unfinished) or not is_framed:
            raise StoreUnavailable("the response of the gateway was cut off", None)

    def unavailable(self, error: StoreUnavailable) -> float:
        """Take an error, and return the pause before the next request in seconds.

        Raises the error if no line came for `retry_seconds`.
        """
        log.warning("cannot read %s now: %s", self._path, error)
        self._is_away = True
        pause = error.retry_after + next(self._pauses)
        if time.monotonic() + pause > self._deadline:
            raise error
        return pause


def _id_of(status: int, line: bytes) -> str:
    """Return the id of the event of a line. Raises Refused if it has none."""
    if match := _ID.match(line):
        return match[1].decode()
    event_id = parse_message(status, line).id
    if event_id is None:
        raise not_a_gateway(status, "an event of a history has no id")
    return event_id
