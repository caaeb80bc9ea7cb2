"""The body of a request: read within its limit, and parsed as exact JSON."""

import json
import re
import socket
import time
from typing import Any

import gevent
import orjson
from flask import Response, after_this_request, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)

from app.routes.gateway import gateway
from app.streaming.errors import InvalidEvent
from app.streaming.event import INTEGER_RANGE, MAX_DEPTH

# So much of a body over the limit is read and thrown away before the answer, and then what
# comes within some seconds: a client that is cut off while it sends sees a reset instead.
THROWN_AWAY_BYTES = 16 * 1024 * 1024
LINGER_SECONDS = 5.0

# A body that trickles in holds a connection no longer than that.
READ_SECONDS = 30.0
_READ_BYTES = 65536

_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def read_json() -> Any:
    """The JSON of the request's body; raises 400, 413, 415, or InvalidEvent (422)."""
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise _refused(UnsupportedMediaType, "Content-Type", "must be application/json")
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise _refused(UnsupportedMediaType, "Content-Type", "JSON is in UTF-8")
    body = _read(gateway().settings.max_body_bytes)
    try:
        document = orjson.loads(body)
        # orjson makes a float of an integer that is too long for 64 bits.
        if _LONG_NUMBER.search(body):
            json.loads(body, parse_int=_exact_integer)
    except ValueError as error:
        if isinstance(error, InvalidEvent):
            raise
        raise _refused(BadRequest, "body", f"is not JSON: {error}") from None
    except RecursionError:  # of the standard library, which gives up before orjson
        raise InvalidEvent("data", f"must not be nested deeper than {MAX_DEPTH}") from None
    return document


def _read(limit: int) -> bytes:
    try:
        with gevent.Timeout(READ_SECONDS, _TooSlow):
            return _read_within(limit)
    except _TooSlow:
        _linger_after_answer()
        raise _refused(RequestTimeout, "body", f"must come within {READ_SECONDS} s") from None


def _read_within(limit: int) -> bytes:
    body, expected = bytearray(), request.content_length
    while (expected or 0) <= limit and len(body) <= limit:
        piece = _read_piece()
        if not piece:
            if expected is not None and len(body) < expected:
                raise _refused(BadRequest, "body", "ended before its Content-Length")
            return bytes(body)
        body += piece
    thrown_away = len(body)
    while thrown_away < THROWN_AWAY_BYTES and (piece := _read_piece()):
        thrown_away += len(piece)
    if thrown_away >= THROWN_AWAY_BYTES:
        _linger_after_answer()
    raise _refused(RequestEntityTooLarge, "body", f"must be at most {limit} bytes")


def _read_piece() -> bytes:
    try:
        return request.stream.read(_READ_BYTES)
    except (ParseException, OSError) as error:
        raise _refused(BadRequest, "body", f"could not be read: {error}") from None


def _refused(kind: type[HTTPException], field: str, detail: str) -> HTTPException:
    error = kind(f"{field}: {detail}")
    error.errors = [{"field": field, "detail": detail}]  # for the problem document
    return error


def _linger_after_answer() -> None:
    """Half-close after the answer, and read on for a while so that the client sees it."""
    connection = request.environ.get("gunicorn.socket")

    def linger() -> None:
        until = time.monotonic() + LINGER_SECONDS
        try:
            connection.shutdown(socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0:
                connection.settimeout(left)
                if not connection.recv(_READ_BYTES):
                    break
                time.sleep(0)  # a fast sender must not hold up everybody else
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the client has gone, which is what was waited for

    @after_this_request
    def linger_once_answered(response: Response) -> Response:
        if connection is not None:
            response.call_on_close(linger)
        return response


def _exact_integer(text: str) -> int:
    value = int(text)
    least, most = INTEGER_RANGE
    if not least <= value <= most:
        raise InvalidEvent("data", "integers must be from -2^63 to 2^64-1")
    return value


class _TooSlow(Exception):
    """The body has not come in time."""
