"""A request's body as gunicorn holds it: read in pieces, without waiting for more than needed."""

import socket
from collections.abc import Callable, Iterator
from typing import IO

from gevent.socket import socket as GeventSocket
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import Unreader

READ_BYTES = 65536


class BodyError(Exception):
    """The body of a request is malformed, or ended early."""


def read_pieces(body: IO[bytes]) -> Iterator[bytes]:
    """Yield a request's body as it arrives; raises BodyError."""
    if isinstance(body, Body) and isinstance(body.reader, ChunkedReader | LengthReader):
        return _arriving(body, body.reader)
    return iter(lambda: read_some(body.read, READ_BYTES), b"")


def read_some(read: Callable[[int], bytes], size: int) -> bytes:
    """Read up to `size` bytes of a body; raises BodyError."""
    try:
        return read(size)
    except (ParseException, OSError) as error:
        raise unreadable(error) from None


def unreadable(error: Exception) -> BodyError:
    """Return the error for a body that could not be read; the text may be the client's."""
    return BodyError(f"could not be read: {str(error)[:100]}")


def read_arrived(body: IO[bytes], connection: object, limit: int) -> bytes | None:
    """Return a body that has arrived as a whole, up to `limit` bytes; None for any other.

    Most bodies have. Reading them this way is the fastest.
    """
    if not isinstance(body, Body) or not isinstance(body.reader, LengthReader):
        return None
    source, length = body.reader, body.reader.length
    if length > limit:
        return None
    buffered = source.unreader.buf
    if buffered.tell() < length:
        # Many clients send the body right after the head, in a packet of its own.
        buffered.write(_received(connection, min(length - buffered.tell(), READ_BYTES)))
        if buffered.tell() < length:
            return None
    return source.read(length)


def gunicorn_unreader(source: ChunkedReader | LengthReader) -> Unreader:
    """Return the object through which gunicorn reads the connection."""
    return source.unreader if isinstance(source, LengthReader) else source.req.unreader


def is_read(body: Body) -> bool:
    """Whether the whole body was read from the connection."""
    source = body.reader
    if isinstance(source, ChunkedReader):
        return source.parser is None and not closes_after(body)
    return isinstance(source, LengthReader) and source.length == 0 and not closes_after(body)


def close_after(body: Body, close: bool) -> None:
    """Have gunicorn close the connection after this request, or keep it."""
    body.failed = close  # type: ignore[attr-defined]  # new in gunicorn 27


def closes_after(body: Body) -> bool:
    """Whether gunicorn will close the connection after this request."""
    failed: bool = body.failed  # type: ignore[attr-defined]  # new in gunicorn 27
    return failed


def raw_socket(connection: GeventSocket) -> socket.socket:
    """Return the socket below gevent's, which never waits."""
    raw: socket.socket = connection._sock  # type: ignore[attr-defined]  # gevent's internals
    return raw


def _arriving(body: Body, source: ChunkedReader | LengthReader) -> Iterator[bytes]:
    """Yield what gunicorn has received, without waiting for more than one byte.

    gunicorn's `read` and `readline` wait for 1,024 bytes, which a producer of small events
    takes long to send. The reader below them, asked for a single byte, does not wait.
    """
    close_after(body, True)  # unless the body is read to its end
    while isinstance(source, ChunkedReader) or source.length:
        first = read_some(source.read, 1)
        if not first and isinstance(source, ChunkedReader):
            break
        if not first:
            raise BodyError("ended before its Content-Length")
        buffered = source.buf if isinstance(source, ChunkedReader) else source.unreader.buf
        # gunicorn may hold a megabyte. As blank lines, that would keep all others waiting.
        yield first + source.read(min(buffered.tell(), READ_BYTES - 1))
    close_after(body, False)


def _received(connection: object, size: int) -> bytes:
    """Return up to `size` bytes that the connection has received, without waiting for any."""
    if type(connection) is not GeventSocket:
        return b""
    try:
        received: bytes = raw_socket(connection).recv(size)
    except OSError:  # nothing yet; or the client is gone, which the next read will find
        return b""
    return received
