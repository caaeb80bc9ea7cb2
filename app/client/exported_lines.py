"""Reads the whole history of a run as lines, over as many connections as needed."""

import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import requests

from ..protocol.calls import Request
from ..protocol.received_event import parse_message
from ..protocol.repeats import INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS
from ..protocol.responses import not_a_gateway
from ..streaming.backoff import backoff
from ..streaming.errors import StoreUnavailable
from .connections import is_framed
from .reading import CONNECTION_ERRORS, connection_error
from .transport import Transport

READ_BYTES = 65536

_TYPE = "application/x-ndjson"

# Where a gateway writes the id.
_ID = re.compile(rb'\{"id":"([0-9]{1,20}-[0-9]{1,20})"')

log = logging.getLogger("tailrace.client")


class ExportedLines:
    """The lines of the history at `path` after the id `after`, as the gateway sent them."""

    def __init__(self, transport: Transport, path: str, after: str | None):
        self._transport = transport
        self._path = path
        self._after = after

    def lines(self) -> Iterator[bytes]:
        """Yield each line without its end.

        After a break it goes on behind the last whole line. Raises StoreUnavailable if no line
        came for `retry_seconds`, and an error that no repeat can mend.
        """
        retry_seconds = self._transport.retry_seconds
        deadline = time.monotonic() + retry_seconds
        pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        while True:
            try:
                with self._open() as response:
                    for line in self._read(response):
                        yield line
                        deadline = time.monotonic() + retry_seconds
                        pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
                return
            except StoreUnavailable as error:
                log.warning("cannot read %s now: %s", self._path, error)
                pause = error.retry_after + next(pauses)
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)

    def _open(self) -> requests.Response:
        query: dict[str, Any] = {} if self._after is None else {"after": self._after}
        headers = {"Accept": _TYPE, "Accept-Encoding": "identity"}
        response, _ = self._transport.open_stream(Request("GET", self._path, query, headers))
        content_type = response.headers.get("Content-Type", "")
        if not content_type.startswith(_TYPE):
            response.close()
            raise not_a_gateway(response.status_code, f"it is of the type {content_type!r}")
        return response

    def _read(self, response: requests.Response) -> Iterator[bytes]:
        """Yield the whole lines of one response. Raises StoreUnavailable if it was cut off."""
        status, unfinished = response.status_code, [b""]
        try:
            while piece := response.raw.read1(READ_BYTES, decode_content=True):
                first, *others = piece.split(b"\n")
                unfinished.append(first)
                for following in others:
                    line = b"".join(unfinished)
                    unfinished = [following]
                    self._after = _id_of(status, line)
                    yield line
        except CONNECTION_ERRORS as error:
            raise connection_error(error) from error
        if any(unfinished) or not is_framed(response):
            raise StoreUnavailable("the response of the gateway was cut off", None)


def _id_of(status: int, line: bytes) -> str:
    """Return the id of the event of a line. Raises Refused if it has none."""
    if match := _ID.match(line):
        return match[1].decode()
    event_id = parse_message(status, line).id
    if event_id is None:
        raise not_a_gateway(status, "an event of a history has no id")
    return event_id
