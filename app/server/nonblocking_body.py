"""The body: a request's body, read from its connection without waiting for any of it.

So one loop can read many bodies that take hours to come, and those together that have come.
"""

import contextlib
import re
import socket
from typing import Any

from gevent.socket import socket as GeventSocket
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    InvalidChunkSize,
    LimitRequestHeaders,
    ParseException,
)
from werkzeug.exceptions import HTTPException

from ..routes.json_body import asked, could_not_be_read, gunicorn_unreader

# What may stand behind the last chunk.
TRAILER_BYTES = 8 * 1024

# A producer may think for hours, but one whose machine is gone does not hold a place.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}

# The usual line before a chunk (RFC 9112, section 7.1); gunicorn looks at the others.
_PLAIN_SIZE = re.compile(rb"0{0,8}[1-9a-fA-F][0-9a-fA-F]{0,7}")


class NonBlockingBody:
    """A body that gunicorn has not begun to read, and does not read until `give_back`.

    `ended` is whether all of it was received, `is_ending` whether all but what stands behind its
    last chunk, `broken` what has broken it off: all three for after what `receive` gave. `taken`
    is how many bytes that took of the connection, and `has_more` whether there may be more.
    """

    def __init__(self, body: Body, connection: GeventSocket):
        self.broken: HTTPException | None = None
        self.taken = 0
        self.has_more = False
        self.fileno = connection.fileno
        self._recv = connection._sock.recv
        self._body = body
        self._unreader = gunicorn_unreader(body.reader)
        self._framing = _FRAMINGS[type(body.reader)](body.reader)
        self._ahead = self._unreader.take_buffered()  # what came with the head
        body.failed = True  # gunicorn closes the connection, unless all of the body is read

    @classmethod
    def of(cls, environ: dict[str, Any]) -> "NonBlockingBody | None":
        """The body of a request; None where its server is no plain gunicorn with gevent."""
        body, connection = environ["wsgi.input"], environ.get("gunicorn.socket")
        if type(body) is not Body or type(connection) is not GeventSocket:
            return None
        return cls(body, connection) if type(body.reader) in _FRAMINGS else None

    @property
    def ended(self) -> bool:
        return self._framing.ended

    @property
    def is_ending(self) -> bool:
        return self._framing.is_ending

    def receive(self, size: int) -> bytes:
        """What has come of the body, of so many bytes of the connection: nothing, if nothing has.

        What came with the head is taken as a whole.
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
            self.broken = could_not_be_read(error)
        return b"".join(pieces)

    def give_back(self) -> None:
        """Let gunicorn have the connection, and what was received of it behind the body.

        It reads the last chunk and the trailers itself; raises 400 where they are malformed.
        """
        self._unreader.unread(self._framing.rest + self._ahead)
        if self.ended:
            asked(self._body.reader.read, 1)
            self._body.failed = False

    def _received(self, size: int) -> bytes:
        raw = self._recv(size)
        if not raw:
            raise ConnectionError("it ended before it was whole")
        return raw


def notice_lost_machines(connection: socket.socket | None) -> None:
    """Let TCP find out that the other end has gone without a word."""
    if connection is None:
        return
    with contextlib.suppress(OSError):  # a Unix socket has no TCP, and needs none
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not everywhere
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Chunks:
    """The chunked transfer coding, up to its last chunk.

    What was not looked at yet is kept in `rest`, from the last chunk on all of it. The end is
    where the trailers have ended too.
    """

    def __init__(self, reader: ChunkedReader):
        self.ended = self.is_ending = False
        self.rest = b""
        self._reader = reader
        self._left = 0  # of the current chunk
        self._behind_chunk = False

    def unframe(self, raw: bytes, pieces: list[bytes]) -> None:
        """Add what of the body some bytes of the connection carry; raises ParseException."""
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
                self._behind_chunk = True
            if self._behind_chunk:
                if len(raw) < at + 2:
                    return at
                if raw[at : at + 2] != b"\r\n":
                    raise ChunkMissingTerminator(raw[at : at + 2])
                at += 2
                self._behind_chunk = False
            end = raw.find(b"\r\n", at)
            if end < 0:
                if len(raw) - at > self._reader.limit_chunk_size_line:
                    raise InvalidChunkSize(b"a line without an end")
                return at
            self._left = self._size(raw[at:end])
            if self.is_ending:
                self._look_for_end(raw, end + 2)
                return at
            at = end + 2

    def _size(self, line: bytes) -> int:
        if _PLAIN_SIZE.fullmatch(line):
            return int(line, 16)
        digits = line.partition(b";")[0].rstrip(b" \t")
        self.is_ending = bool(digits) and not digits.strip(b"0")
        if self.is_ending:
            return 0
        size, _ = self._reader.parse_chunk_size(None, line + b"\r\n")
        return size

    def _look_for_end(self, raw: bytes, at: int) -> None:
        """Whether the trailers that begin there have ended."""
        self.ended = raw.startswith(b"\r\n", at) or raw.find(b"\r\n\r\n", at) >= 0
        if not self.ended and len(raw) - at > TRAILER_BYTES:
            raise LimitRequestHeaders("trailers that are too long")


class _Announced:
    """A body of the length that its Content-Length tells; what stands behind it is `rest`."""

    is_ending = False

    def __init__(self, reader: LengthReader):
        self.rest = b""
        self._reader = reader

    @property
    def ended(self) -> bool:
        return not self._reader.length

    def unframe(self, raw: bytes, pieces: list[bytes]) -> None:
        """Add what of the body some bytes of the connection carry."""
        pieces.append(piece := raw[: self._reader.length])
        self._reader.length -= len(piece)
        self.rest = raw[len(piece) :]


_FRAMINGS = {ChunkedReader: _Chunks, LengthReader: _Announced}
