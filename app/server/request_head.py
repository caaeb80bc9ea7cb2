"""The head of a request: gunicorn's, with a limit on all of it and not only on each header."""

import gevent
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import Unreader

# All headers of a request together. gunicorn allows each of 100 to have 8 KiB, and its parser
# reads the head again whenever a piece of it arrives.
MAX_HEAD_BYTES = 64 * 1024


class BoundedRequest(Request):
    """A request whose headers have at most MAX_HEAD_BYTES together; more is refused with 431."""

    closes = False  # whether the connections are closed after their requests, and so say it

    def parse(self, unreader: Unreader) -> bytes:
        self.max_buffer_headers = MAX_HEAD_BYTES
        greenlet = gevent.getcurrent()
        if getattr(greenlet, "unread", b""):  # what was read of the connection before
            unreader.unread(greenlet.unread)  # type: ignore[attr-defined]
            del greenlet.unread  # type: ignore[attr-defined]
        return super().parse(unreader)

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> list[tuple[str, str]]:
        if len(data) > MAX_HEAD_BYTES:
            raise LimitRequestHeaders(f"all headers together are over {MAX_HEAD_BYTES} bytes")
        return super().parse_headers(data, from_trailer)

    def should_close(self) -> bool:
        return self.closes or super().should_close()


def limit_heads() -> None:
    """Have gunicorn limit the heads of requests; it has no setting for it."""
    RequestParser.mesg_class = BoundedRequest


def close_after_requests() -> None:
    """Have each connection closed after its current request: the worker stops."""
    BoundedRequest.closes = True
