"""The body of a request: read within its limit or piece by piece, and parsed as exact JSON."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, BinaryIO

import gevent
import orjson
from flask import Flask, Response, request
from gevent.socket import socket as GeventSocket
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import Unreader
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from werkzeug.http import parse_options_header

from ..streaming.errors import InvalidEvent
from ..streaming.event_json import INTEGER_RANGE, MAX_DEPTH
from ..streaming.new_event import MAX_EVENTS
from .admission import Admission, Reservation

# So much of a body over the limit is read and thrown away before the answer, and then what
# comes within some seconds: a client that is cut off while it sends sees a reset instead.
MAX_DISCARDED_BYTES = 16 * 1024 * 1024
LINGER_SECONDS = 5.0

# A body that trickles in holds a connection no longer than that.
READ_SECONDS = 30.0
_READ_BYTES = 65536

# A body of tiny chunks must not hold up everybody else.
_PIECES_AT_ONCE = 64

# So little of a body that nobody read is left to gunicorn, which keeps the connection.
MAX_LEFT_UNREAD_BYTES = 65536

# Whether a body has 19 digits in a row, asked in a fifteenth of the time of a regular expression.
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 19

_LENIENT = json.JSONDecoder()
_WHITESPACE = re.compile(r"[ \t\r\n]*")


def init_app(app: Flask, admission: Admission) -> None:
    app.after_request(partial(_linger_over_what_is_unread, admission))


def is_json_lines() -> bool:
    """Whether the request's body is JSON, one value a line; raises 415 for what is no JSON."""
    if request.environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise refused(UnsupportedMediaType, "Content-Encoding", "must be identity")
    if request.environ.get("HTTP_TRANSFER_ENCODING", "chunked").lower() != "chunked":
        raise refused(UnsupportedMediaType, "Transfer-Encoding", "must be chunked")
    return _is_json_lines(request.headers.get("Content-Type", ""))


@lru_cache(maxsize=100)
def _is_json_lines(content_type: str) -> bool:
    kind, parameters = parse_options_header(content_type)
    kind = kind.lower()
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise refused(UnsupportedMediaType, "Content-Type", "JSON is in UTF-8")
    if kind == "application/json" or kind.endswith("+json"):
        return False
    if kind in ("application/x-ndjson", "application/ndjson"):
        return True
    allowed = "must be application/json or application/x-ndjson"
    raise refused(UnsupportedMediaType, "Content-Type", allowed)


def read_json(reservation: Reservation, limit: int) -> Any:
    """The JSON of the request's body, up to `limit` bytes, which are reservation.

    Raises 400, 413, or InvalidEvent (422).
    """
    body = _come_already(request.environ["wsgi.input"], limit)
    if body is None:
        body = _read(limit, reservation)
    else:
        reservation.hold(len(body))
    try:
        return parse_json(body)
    except (BadRequest, InvalidEvent):
        _refuse_item(body)
        raise


def parse_json(body: bytes | bytearray) -> Any:
    """The exact JSON of a body, or of a line of one; raises 400, or InvalidEvent (422)."""
    try:
        document = orjson.loads(body)
        # orjson makes a float of an integer that is too long for 64 bits.
        if _LONG_NUMBER in body.translate(_DIGITS_AS_ZEROS):
            json.loads(body, parse_int=_exact_integer)
    except ValueError as error:
        if isinstance(error, InvalidEvent):
            raise
        raise refused(BadRequest, "body", f"is not JSON: {error}") from None
    except RecursionError:  # of the standard library, which gives up before orjson
        raise InvalidEvent("data", f"must not be nested deeper than {MAX_DEPTH}") from None
    return document


def _refuse_item(body: bytes | bytearray) -> None:
    """Raise what is wrong with the first bad item of an array, naming it by its index.

    Where an item ends is found by the standard library, which is lenient.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return
    at = _WHITESPACE.match(text).end()
    if text[at : at + 1] != "[":
        return
    for index in range(MAX_EVENTS):
        at = _WHITESPACE.match(text, at + 1).end()
        try:
            _, end = _LENIENT.raw_decode(text, at)
            parse_json(text[at:end].encode())
        except InvalidEvent as error:
            raise error.of_item(index) from None
        except BadRequest as error:
            raise refused(BadRequest, str(index), error.errors[0]["detail"]) from None
        except (ValueError, RecursionError) as error:
            raise refused(BadRequest, str(index), f"is not JSON: {error}") from None
        at = _WHITESPACE.match(text, end).end()
        if text[at : at + 1] != ",":
            return


def pieces(body: BinaryIO) -> Iterator[bytes]:
    """A request's body as it comes; raises 400 where it is broken off."""
    source = body.reader if type(body) is Body else None
    if isinstance(source, ChunkedReader | LengthReader):
        return _arriving(body, source)
    return iter(lambda: asked(body.read, _READ_BYTES), b"")


def gunicorn_unreader(source: ChunkedReader | LengthReader) -> Unreader:
    """What gunicorn reads the connection with."""
    return source.unreader if isinstance(source, LengthReader) else source.req.unreader


def _arriving(body: Body, source: ChunkedReader | LengthReader) -> Iterator[bytes]:
    """What gunicorn has received, without waiting for more than there must be.

    Its `read` and `readline` wait for 1,024 bytes, which a producer of small events takes long
    to send. What it reads from, asked for a single byte, does not.
    """
    body.failed = True  # gunicorn closes the connection, unless all of the body is read
    chunked = type(source) is ChunkedReader
    while chunked or source.length:
        first = asked(source.read, 1)
        if not first and chunked:
            break
        if not first:
            raise refused(BadRequest, "body", "ended before its Content-Length")
        buffered = source.buf if chunked else source.unreader.buf
        # gunicorn may hold a megabyte, which as blank lines would keep everybody else waiting.
        yield first + source.read(min(buffered.tell(), _READ_BYTES - 1))
    body.failed = False


def _come_already(body: BinaryIO, limit: int) -> bytes | None:
    """A body within the limit that is there by now, as most are: to be read at once."""
    source = body.reader if type(body) is Body else None
    if type(source) is not LengthReader or source.length > limit:
        return None
    buffered = source.unreader.buf
    if buffered.tell() < source.length:
        # Many clients send it right after the head, in a piece of its own.
        buffered.write(_received(min(source.length - buffered.tell(), _READ_BYTES)))
        if buffered.tell() < source.length:
            return None
    return source.read(source.length)


def _received(size: int) -> bytes:
    """Up to so many bytes that the connection has received, without waiting for any."""
    connection = request.environ.get("gunicorn.socket")
    if type(connection) is not GeventSocket:
        return b""
    try:
        return connection._sock.recv(size)
    except OSError:  # nothing yet, or the client is gone, which the next read finds as an end
        return b""


def _read(limit: int, reservation: Reservation) -> bytearray:
    try:
        with reservation.reading(), gevent.Timeout(READ_SECONDS, _TooSlow):
            return _read_within(limit, reservation)
    except _TooSlow:
        raise too_slow() from None


def _read_within(limit: int, reservation: Reservation) -> bytearray:
    body, size = bytearray(), 0
    too_large = (request.content_length or 0) > limit
    for number, piece in enumerate(pieces(request.stream), 1):
        if number % _PIECES_AT_ONCE == 0:
            time.sleep(0)
        size += len(piece)
        too_large = too_large or size > limit
        if not too_large:
            reservation.hold(len(piece))
            body += piece
        elif size > MAX_DISCARDED_BYTES:
            break
    if too_large:
        raise refused(RequestEntityTooLarge, "body", f"must be at most {limit} bytes")
    return body


def asked(read: Callable[[int], bytes], size: int) -> bytes:
    """What gunicorn reads of a body; raises 400 where that is malformed or broken off."""
    try:
        return read(size)
    except (ParseException, OSError) as error:
        raise could_not_be_read(error) from None


def could_not_be_read(error: Exception) -> HTTPException:
    """The error for a body that is malformed, or broken off; what it tells may be the client's."""
    return refused(BadRequest, "body", f"could not be read: {str(error)[:100]}")


def patience_since(begun: float) -> float:
    """What is left, in seconds, of the time that a body, or a line of one, may take to come."""
    return max(0.0, begun + READ_SECONDS - time.monotonic())


def too_slow() -> HTTPException:
    """The error for what has not come in that time."""
    return refused(RequestTimeout, "body", f"must come within {READ_SECONDS} s")


def refused(kind: type[HTTPException], field: str, detail: str) -> HTTPException:
    """An error that names what is wrong, for the problem document."""
    error = kind(f"{field}: {detail}")
    error.errors = [{"field": field, "detail": detail}]
    return error


def _linger_over_what_is_unread(admission: Admission, response: Response) -> Response:
    """Close a connection whose request was not read to its end, so that the answer arrives.

    gunicorn would read the rest without an end, and let nobody else have a turn.
    """
    body, connection = request.environ["wsgi.input"], request.environ.get("gunicorn.socket")
    if connection is not None and type(body) is Body and _is_unread(body):
        body.failed = True  # gunicorn serves no other request on it
        response.call_on_close(lambda: _linger(connection, admission))
    return response


def _is_unread(body: Body) -> bool:
    if isinstance(body.reader, ChunkedReader):
        return body.reader.parser is not None
    return body.reader.length > (0 if body.failed else MAX_LEFT_UNREAD_BYTES)


def _linger(connection: socket.socket, admission: Admission) -> None:
    """Half-close, and read on for a while: who is cut off while it sends sees no answer."""
    with admission.linger() as has_place:
        _read_on(connection, LINGER_SECONDS if has_place else 0.0)


def _read_on(connection: socket.socket, seconds: float) -> None:
    until = time.monotonic() + seconds
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


def _exact_integer(text: str) -> int:
    value = int(text)
    least, most = INTEGER_RANGE
    if not least <= value <= most:
        raise InvalidEvent("data", "integers must be from -2^63 to 2^64-1")
    return value


class _TooSlow(Exception):
    """The body has not come in time."""
