"""The bodies of requests: their media types, and how one that is JSON is read within limits."""

import time
from enum import Enum, auto
from functools import lru_cache, partial
from typing import Any

import gevent
from flask import Flask, Response, request
from werkzeug.http import parse_options_header

from ...server.bodies.gunicorn_body import READ_BYTES, read_arrived, read_pieces
from ...server.bodies.linger import linger, take_unread
from ..admission import Admission, Reservation
from ..problems import FieldError
from .exact_json import parse_document

# A client that is disconnected while it sends sees a reset instead of the response. So up to
# this much of a body over the limit is read and discarded before the response, and then what
# arrives within LINGER_SECONDS.
MAX_DISCARDED_BYTES = 16 * 1024 * 1024
LINGER_SECONDS = 5.0

# A body, or a line of one, must arrive within this time.
READ_SECONDS = 30.0

# When as many bodies as allowed are arriving, another one may take this long: many clients send it
# right after the head. Then it is refused, and has kept its connection no longer than other short
# requests do.
GRACE_SECONDS = 0.25

# After this many pieces of a body the other requests get their turn.
MAX_PIECES_IN_A_ROW = 64

# A longer Content-Type is not parsed, and not remembered.
MAX_CONTENT_TYPE_LENGTH = 256


class BodyKind(Enum):
    """One JSON document, JSON with one value a line (NDJSON), or Server-Sent Events."""

    JSON = auto()
    JSON_LINES = auto()
    EVENT_STREAM = auto()


def init_app(app: Flask, admission: Admission) -> None:
    app.after_request(partial(_linger_after_unread, admission))


def body_kind() -> BodyKind:
    """Return what the request's body is. Raises 415 if it is neither, or if it is encoded."""
    if request.environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise FieldError(415, "Content-Encoding", "must be identity")
    if request.environ.get("HTTP_TRANSFER_ENCODING", "chunked").lower() != "chunked":
        raise FieldError(415, "Transfer-Encoding", "must be chunked")
    return body_kind_of(request.headers.get("Content-Type", ""))


def check_is_json() -> None:
    """Raise 415 unless the request's body is one JSON document."""
    if body_kind() is not BodyKind.JSON:
        raise FieldError(415, "Content-Type", "must be application/json")


def body_kind_of(content_type: str) -> BodyKind:
    """Return what kind of body a Content-Type names. Raises 415 if it is none of them."""
    if len(content_type) > MAX_CONTENT_TYPE_LENGTH:
        raise FieldError(
            415, "Content-Type", f"must be at most {MAX_CONTENT_TYPE_LENGTH} characters"
        )
    return _body_kind(content_type)


@lru_cache(maxsize=100)
def _body_kind(content_type: str) -> BodyKind:
    media_type, parameters = parse_options_header(content_type)
    media_type = media_type.lower()
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise FieldError(415, "Content-Type", "the charset must be UTF-8")
    if media_type == "application/json" or media_type.endswith("+json"):
        return BodyKind.JSON
    if media_type in ("application/x-ndjson", "application/ndjson"):
        return BodyKind.JSON_LINES
    if media_type == "text/event-stream":
        return BodyKind.EVENT_STREAM
    allowed = "must be application/json, application/x-ndjson or text/event-stream"
    raise FieldError(415, "Content-Type", allowed)


def read_json(reservation: Reservation, limit: int, max_event_bytes: int) -> Any:
    """Read the request's body, up to `limit` bytes, which are reserved, and parse it.

    Returns what `parse_document` does. Raises 400, 408, 413, TooBusy (429), or InvalidEvent (422).
    """
    return parse_document(read_body(reservation, limit), max_event_bytes)


def read_body(reservation: Reservation, limit: int) -> bytes | bytearray:
    """Read the request's body, up to `limit` bytes, which are reserved.

    Raises 400, 408, 413, or TooBusy (429).
    """
    environ = request.environ
    source = environ["wsgi.input"], environ.get("gunicorn.socket"), limit
    arrived = read_arrived(*source)
    if arrived is None and not reservation.may_receive():
        arrived = reservation.late_bodies.read(*source, GRACE_SECONDS)
    if arrived is None:
        return _read(limit, reservation)
    reservation.hold(len(arrived))
    return arrived


def discard_body(reservation: Reservation) -> None:
    """Read the request's body, up to MAX_DISCARDED_BYTES, and keep nothing of it.

    A connection that is closed with an unread body is reset, and the end of the response may be
    lost. Raises 400, 408, 413, or TooBusy (429).
    """
    environ = request.environ
    source = environ["wsgi.input"], environ.get("gunicorn.socket"), READ_BYTES
    if read_arrived(*source) is not None:
        return
    try:
        with reservation.receiving(), gevent.Timeout(READ_SECONDS, _TooSlow):
            _discard()
    except _TooSlow:
        raise too_slow() from None


def _discard() -> None:
    size = 0
    for number, piece in enumerate(read_pieces(request.stream), 1):
        if number % MAX_PIECES_IN_A_ROW == 0:
            time.sleep(0)
        size += len(piece)
        if size > MAX_DISCARDED_BYTES:
            raise FieldError(413, "body", f"must be at most {MAX_DISCARDED_BYTES} bytes")


def _read(limit: int, reservation: Reservation) -> bytearray:
    try:
        with reservation.receiving(), gevent.Timeout(READ_SECONDS, _TooSlow):
            return _read_within(limit, reservation)
    except _TooSlow:
        raise too_slow() from None


def _read_within(limit: int, reservation: Reservation) -> bytearray:
    body, size = bytearray(), 0
    too_large = (request.content_length or 0) > limit
    for number, piece in enumerate(read_pieces(request.stream), 1):
        if number % MAX_PIECES_IN_A_ROW == 0:
            time.sleep(0)
        size += len(piece)
        too_large = too_large or size > limit
        if not too_large:
            reservation.hold(len(piece))
            body += piece
        elif size > MAX_DISCARDED_BYTES:
            break
    if too_large:
        raise FieldError(413, "body", f"must be at most {limit} bytes")
    return body


def seconds_left(begun: float) -> float:
    """Return how much longer a body, or a line of one, may take that began to arrive then."""
    return max(0.0, begun + READ_SECONDS - time.monotonic())


def too_slow() -> FieldError:
    """Return the error for a body, or a line of one, that did not arrive in time."""
    return FieldError(408, "body", f"must arrive within {READ_SECONDS} s")


class _TooSlow(Exception):
    """The body did not arrive in time."""


def _linger_after_unread(admission: Admission, response: Response) -> Response:
    """Close the connection of a request whose body is unread so that the response arrives."""
    connection = take_unread(request.environ)
    if connection is not None:

        def close() -> None:
            has_place = admission.lingering.take()
            try:
                linger(connection, LINGER_SECONDS if has_place else 0.0)
            finally:
                if has_place:
                    admission.lingering.release()

        response.call_on_close(close)
    return response
