"""A request's body, read from its connection without waiting for any of it.

One loop can so read many bodies that take hours to arrive, and store together what has arrived
over all of them.
"""

import contextlib
import re
import socket
from typing import TYPE_CHECKING

from gevent.socket import socket as GeventSocket
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    InvalidChunkSize,
    LimitRequestHeaders,
    ParseException,
)

from .gunicorn_body import (
    BodyError,
    close_after,
    gunicorn_unreader,
    raw_socket,
    read_some,
    unreadable,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# The trailers after the last chunk.
MAX_TRAILER_BYTES = 8 * 1024

# A producer may be silent for hours. One whose machine is gone must not keep its place.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}

# The usual line before a chunk (RFC 9112, section 7.1). gunicorn parses all others.
_PLAIN_SIZE = re.compile(rb"0{0,8}[1-9a-fA-F][0-9a-fA-F]{0,7}")


class NonBlockingBody:
    """A body that gunicorn has not begun to read, and does not read before `give_back`.

    After each `receive`, four attributes describe the body. `ended`: all of it was received.
    `is_ending`: all but the trailers after its last chunk was. `error`: why it can never be
    complete, or None. `taken`: how many bytes `receive` took from the connection; `has_more`:
    whether there may be more.
    """

    def __init__(
        self, body: Body, source: ChunkedReader | LengthReader, connection: GeventSocket
    ) -> None:
        self.error: BodyError | None = None
        self.taken = 0
        self.has_more = False
        self.fileno = connection.fileno
        self._recv = raw_socket(connection).recv
        self._body = body
        self._source = source
        self._unreader = gunicorn_unreader(source)
        self._framing = _Announced(source) if isinstance(source, LengthReader) else _Chunks(source)
        # What arrived with the head.
        self._ahead: bytes = self._unreader.take_buffered()
        close_after(body, True)  # unless the body is read to its end

    @classmethod
    def of(cls, environ: "WSGIEnvironment") -> "NonBlockingBody | None":
        """Return the body of a request; None if the server is not gunicorn with gevent."""
        body, connection = environ["wsgi.input"], environ.get("gunicorn.socket")
        if type(body) is not Body or type(connection) is not GeventSocket:
            return None
        if not isinstance(body.reader, ChunkedReader | LengthReader):
            return None
        return cls(body, body.reader, connection)

    @property
    def ended(self) -> bool:
        return self._framing.ended

    @property
    def is_ending(self) -> bool:
        return self._framing.is_ending

    def receive(self, size: int) -> bytes:
        """Return what has arrived of the body, after taking up to `size` bytes.

        Returns b"" if nothing has. What arrived with the head is taken as a whole.
        """
        pieces: list[bytes] = []
        self.taken, self.has_more = 0, False
        if self.ended:
            return b""
        try:
            raw, self._ahead = self._ahead or self._received(size), b""
            self.taken = len(raw)
            self.has_more = self.taken >= size
            self._framing.unframe(raw, pieces)
        except BlockingIOError:
            return b""
        except (ParseException, OSError) as error:
            self.error = unreadable(error)
        return b"".join(pieces)

    def give_back(self) -> None:
        """Return the connection to gunicorn, with the bytes that were received after the body.

        gunicorn reads the last chunk and the trailers itself. Raises BodyError if they are
        malformed.
        """
        unread = self._framing.rest + self._ahead
        self._unreader.unread(unread)
        if self.ended:
            read_some(self._source.read, 1)
            close_after(self._body, False)

    def _received(self, size: int) -> bytes:
        raw = self._recv(size)
        if not raw:
            raise ConnectionError("it ended before it was whole")
        return raw


def detect_dead_peer(connection: socket.socket | None) -> None:
    """Have TCP find out within two minutes that the other machine is gone."""
    if connection is None:
        return
    with contextlib.suppress(OSError):  # a Unix socket has no TCP, and needs none
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not on every system
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Chunks:
    """The chunked transfer coding, up to its last chunk (RFC 9112, section 7.1).

    `rest` holds the bytes that were not looked at yet; from the last chunk on, all of them. The
    body has ended when its trailers have.
    """

    def __init__(self, reader: ChunkedReader) -> None:
        self.ended = self.is_ending = False
        self.rest = b""
        self._reader = reader
        self._left = 0  # bytes of the current chunk
        self._after_chunk = False

    def unframe(self, raw: bytes, pieces: list[bytes]) -> None:
        """Add the parts of the body that `raw` carries to `pieces`; raises ParseException."""
        raw = self.rest + raw if self.rest else raw
        at = self._unframe(raw, pieces)
        self.rest = raw[at:]

    def _unframe(self, raw: bytes, pieces: list[bytes]) -> int:
        at = 0
        while True:
            if self._left:
                pieces.append(piece := raw[at : at + self._left])
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    return at
                self._after_chunk = True
            if self._after_chunk:
                if len(raw) < at + 2:
                    return at
                if raw[at : at + 2] != b"\r\n":
                    raise ChunkMissingTerminator(raw[at : at + 2])
                at += 2
                self._after_chunk = False
            end = raw.find(b"\r\n", at)
            if end < 0:
                if len(raw) - at > self._max_line_bytes():
                    raise InvalidChunkSize(b"a line without an end")
                return at
            self._left = self._size(raw[at:end])
            if self.is_ending:
                self._look_for_end(raw, end + 2)
                return at
            at = end + 2

    def _max_line_bytes(self) -> int:
        limit: int = self._reader.limit_chunk_size_line  # type: ignore[attr-defined]  # new in gunicorn 27
        return limit

    def _size(self, line: bytes) -> int:
        if _PLAIN_SIZE.fullmatch(line):
            return int(line, 16)
        digits = line.partition(b";")[0].rstrip(b" \t")
        self.is_ending = bool(digits) and not digits.strip(b"0")
        if self.is_ending:
            return 0
        # gunicorn does not use its reader when it is given the line.
        size, _ = self._reader.parse_chunk_size(None, line + b"\r\n")  # type: ignore[arg-type]
        return size

    def _look_for_end(self, raw: bytes, at: int) -> None:
        """Set `ended` if the trailers, which begin at `at`, have ended."""
        self.ended = raw.startswith(b"\r\n", at) or raw.find(b"\r\n\r\n", at) >= 0
        if not self.ended and len(raw) - at > MAX_TRAILER_BYTES:
            raise LimitRequestHeaders("trailers that are too long")


class _Announced:
    """A body as long as its Content-Length says; `rest` holds the bytes after it."""

    is_ending = False

    def __init__(self, reader: LengthReader) -> None:
        self.rest = b""
        self._reader = reader

    @property
    def ended(self) -> bool:
        return not self._reader.length

    def unframe(self, raw: bytes, pieces: list[bytes]) -> None:
        """Add the part of the body that `raw` carries to `pieces`."""
        pieces.append(piece := raw[: self._reader.length])
        self._reader.length -= len(piece)
        self.rest = raw[len(piece) :]
